//! One connection, with or without TLS, read and written by polling so that a session can wait for both of its
//! sides at once.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::Socket;

/// A TCP connection, plain or under TLS.
#[derive(Debug)]
pub enum Stream {
    /// No TLS.
    Plain(Socket),
    /// TLS, as server or as client.
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    /// The socket underneath.
    pub fn tcp(&self) -> &Socket {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Whether it runs under TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// The certificate that the peer showed, checked during the TLS handshake.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        let Self::Tls(tls) = self else { return None };
        tls.get_ref().1.peer_certificates()?.first().map(AsRef::as_ref)
    }

    /// TLS version and cipher suite, such as `TLSv1_3/TLS13_AES_256_GCM_SHA384`; none on a plain connection.
    pub fn tls_name(&self) -> Option<String> {
        let Self::Tls(tls) = self else { return None };
        let (_, connection) = tls.get_ref();
        let version = connection.protocol_version()?;
        let suite = connection.negotiated_cipher_suite()?.suite();
        Some(format!("{}/{}", version.as_str()?, suite.as_str()?))
    }

    /// Gets the connection ready to go to another thread, on this one; it is to be used again when it has arrived.
    ///
    /// # Errors
    /// Those of taking the socket off its reactor.
    pub fn let_go(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.let_go(),
            Self::Tls(tls) => tls.get_mut().0.let_go(),
        }
    }

    /// Takes the connection over to the thread that this is called on, which [`Self::let_go`] has made ready for it.
    ///
    /// # Errors
    /// Those of registering the socket; the connection is closed then.
    pub fn arrive(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.arrive(),
            Self::Tls(tls) => tls.get_mut().0.arrive(),
        }
    }

    /// From here on a plain connection may take part in its worker's turns: bytes are read as they come, and sent at the end of one.
    pub fn in_turns(&self) {
        if let Self::Plain(tcp) = self {
            tcp.in_turns();
        }
    }

    /// Whether nothing came from the peer that was not read, neither a byte nor the end. Costs a system call only when something
    /// may have come; what it finds then is lost, so that a connection that isn't quiet is of no more use.
    pub fn is_quiet(&mut self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_quiet(),
            Self::Tls(tls) => {
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(tls).poll_read(&mut cx, &mut ReadBuf::new(&mut [0])).is_pending()
            }
        }
    }

    /// Reads what is there into `buf`; 0 at the end of the stream. A plain read that fills less than `buf` costs
    /// one system call, not a second that ends in EAGAIN.
    ///
    /// # Errors
    /// Those of the socket and of TLS. A peer that ends without TLS's close_notify counts as the end of the stream.
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let tls = match self {
            Self::Plain(tcp) => return tcp.poll_recv(cx, buf),
            Self::Tls(tls) => tls,
        };
        let mut buf = ReadBuf::new(buf);
        let outcome = match ready!(Pin::new(tls).poll_read(cx, &mut buf)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            other => other,
        };
        Poll::Ready(outcome.map(|()| buf.filled().len()))
    }

    /// Writes some of `buf`, and says how much.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    #[inline]
    pub fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => tcp.poll_send(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    /// Writes `buf` from `at` on, which goes along, until all of it is written or no more is taken.
    ///
    /// # Errors
    /// As [`Self::poll_write`], and `WriteZero` when nothing is taken any more.
    #[inline]
    pub fn poll_write_rest(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
        at: &mut usize,
    ) -> Poll<io::Result<()>> {
        while *at < buf.len() {
            match ready!(self.poll_write(cx, &buf[*at..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => *at += n,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what TLS still holds; nothing to do on a plain stream.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    #[inline]
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    /// Ready when all that was written has gone to the socket: a plain connection that takes part in turns may keep it until then.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => tcp.poll_sent(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    /// Reads what is there, as [`Self::poll_read`].
    ///
    /// # Errors
    /// As [`Self::poll_read`].
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// Fills `buf` to its end.
    ///
    /// # Errors
    /// As [`Self::poll_read`], and `UnexpectedEof` when the stream ends first.
    pub async fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.read(&mut buf[filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => filled += n,
            }
        }
        Ok(())
    }

    /// Writes all of `buf` and flushes.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    pub async fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        let mut done = 0;
        poll_fn(|cx| self.poll_write_rest(cx, buf, &mut done)).await?;
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Says goodbye as far as that goes without waiting for the peer: TLS's close_notify. What a plain connection says, its FIN, comes
    /// with its end: it is to be dropped next.
    pub async fn shutdown(&mut self) {
        if let Self::Tls(tls) = self {
            // The peer may be gone already: there is nobody left to tell.
            let _gone = poll_fn(|cx| Pin::new(&mut *tls).poll_shutdown(cx)).await;
        }
    }
}
