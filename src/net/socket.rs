//! A TCP connection on what its thread runs on: a worker's reactor, or tokio's runtime.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use super::reactor::{self, Loose, ReactorListener, ReactorSocket};

/// A TCP connection.
#[derive(Debug)]
pub enum Socket {
    /// On the reactor of its thread.
    Reactor(ReactorSocket),
    /// On tokio's runtime.
    Tokio(TcpStream),
    /// On none, between two threads; nothing when it could not be let go.
    Loose(Option<Loose>),
}

/// A listening socket on what its thread runs on.
#[derive(Debug)]
pub enum Listening {
    /// On the reactor of its thread.
    Reactor(ReactorListener),
    /// On tokio's runtime.
    Tokio(TcpListener),
}

impl Socket {
    /// A connection that tokio made, on what this thread runs on from here on.
    ///
    /// # Errors
    /// Those of taking it off the one and on the other.
    pub fn here(tcp: TcpStream) -> io::Result<Self> {
        if reactor::is_here() { Self::take_up(tcp.into_std()?) } else { Ok(Self::Tokio(tcp)) }
    }

    /// A non-blocking connection on what this thread runs on.
    ///
    /// # Errors
    /// Those of registering it.
    pub fn take_up(tcp: std::net::TcpStream) -> io::Result<Self> {
        if reactor::is_here() {
            return ReactorSocket::new(tcp.into()).map(Self::Reactor);
        }
        TcpStream::from_std(tcp).map(Self::Tokio)
    }

    /// Takes the connection off its reactor, on the thread of that; it can't be used until [`Self::arrive`]. One on tokio's runtime may
    /// stay there.
    ///
    /// # Errors
    /// Those of taking it off; the connection is closed then.
    pub fn let_go(&mut self) -> io::Result<()> {
        if let Self::Reactor(_) = self
            && let Self::Reactor(socket) = std::mem::replace(self, Self::Loose(None))
        {
            *self = Self::Loose(Some(socket.let_go()?));
        }
        Ok(())
    }

    /// Puts a connection that was let go on the reactor of this thread.
    ///
    /// # Errors
    /// Those of registering it; the connection is closed then.
    pub fn arrive(&mut self) -> io::Result<()> {
        if let Self::Loose(loose) = self {
            let loose = loose.take().ok_or(io::ErrorKind::NotConnected)?;
            *self = Self::Reactor(ReactorSocket::new(loose)?);
        }
        Ok(())
    }

    /// The connection on nothing.
    ///
    /// # Errors
    /// Those of taking it off.
    pub fn into_std(self) -> io::Result<std::net::TcpStream> {
        match self {
            Self::Reactor(socket) => Ok(socket.let_go()?.tcp),
            Self::Tokio(tcp) => tcp.into_std(),
            Self::Loose(loose) => Ok(loose.ok_or(io::ErrorKind::NotConnected)?.tcp),
        }
    }

    /// On a reactor, from here on bytes are read as they come and sent at the end of a turn.
    pub fn in_turns(&self) {
        if let Self::Reactor(socket) = self {
            socket.in_turns();
        }
    }

    /// The address on this side.
    ///
    /// # Errors
    /// Those of `getsockname`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Reactor(socket) => socket.ask(std::net::TcpStream::local_addr),
            Self::Tokio(tcp) => tcp.local_addr(),
            Self::Loose(loose) => loose.as_ref().ok_or(io::ErrorKind::NotConnected)?.tcp.local_addr(),
        }
    }

    /// Whether bytes have come in that nobody has read.
    ///
    /// # Errors
    /// Those of `recv`.
    pub fn has_pending(&self) -> io::Result<bool> {
        match self {
            Self::Reactor(socket) => socket.has_pending(),
            Self::Tokio(tcp) => reactor::has_come(&tcp.into()),
            Self::Loose(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Waits for bytes and copies them without taking them; 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of `recv`.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Reactor(socket) => poll_fn(|cx| socket.poll_peek(cx, buf)).await,
            Self::Tokio(tcp) => tcp.peek(buf).await,
            Self::Loose(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Whether nothing came that was not read, neither a byte nor the end. What it finds then is lost.
    pub fn is_quiet(&mut self) -> bool {
        match self {
            Self::Reactor(socket) => socket.is_quiet(),
            Self::Tokio(tcp) => {
                tcp.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Loose(_) => false,
        }
    }

    /// Reads what is there into `buf`; 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of `recv`.
    #[inline]
    pub fn poll_recv(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Reactor(socket) => socket.poll_read(cx, buf),
            Self::Tokio(tcp) => {
                let mut buf = ReadBuf::new(buf);
                Pin::new(tcp).poll_read(cx, &mut buf).map_ok(|()| buf.filled().len())
            }
            Self::Loose(_) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Takes some of `buf` to be sent, and says how much.
    ///
    /// # Errors
    /// Those of `send`.
    #[inline]
    pub fn poll_send(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Reactor(socket) => socket.poll_write(cx, buf),
            Self::Tokio(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Loose(_) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Ready when all that was taken has been sent.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Reactor(socket) => socket.poll_sent(cx),
            Self::Tokio(_) | Self::Loose(_) => Poll::Ready(Ok(())),
        }
    }
}

impl Listening {
    /// A non-blocking listening socket on what this thread runs on.
    ///
    /// # Errors
    /// Those of registering it.
    pub fn take_up(socket: std::net::TcpListener) -> io::Result<Self> {
        if reactor::is_here() {
            return ReactorListener::new(socket).map(Self::Reactor);
        }
        TcpListener::from_std(socket).map(Self::Tokio)
    }

    /// Waits for a connection, which is on the same.
    ///
    /// # Errors
    /// Those of `accept`.
    pub async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        match self {
            Self::Reactor(socket) => {
                let (tcp, peer) = poll_fn(|cx| socket.poll_accept(cx)).await?;
                Ok((Socket::take_up(tcp)?, peer))
            }
            Self::Tokio(socket) => {
                let (tcp, peer) = socket.accept().await?;
                Ok((Socket::Tokio(tcp), peer))
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tokio(tcp) => Pin::new(tcp).poll_read(cx, buf),
            socket => socket.poll_recv(cx, buf.initialize_unfilled()).map_ok(|n| buf.advance(n)),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_sent(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Reactor(socket) => Poll::Ready(socket.ask(|tcp| tcp.shutdown(std::net::Shutdown::Write))),
            Self::Tokio(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Loose(_) => Poll::Ready(Ok(())),
        }
    }
}
