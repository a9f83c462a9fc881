//! A listening socket of a reactor.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::{Context, Poll};

use super::Source;

/// Connections that are accepted in a row: in a storm of them those that came are served in between.
const IN_A_ROW: u32 = 16;

/// A listening socket on this thread's reactor.
#[derive(Debug)]
pub struct ReactorListener {
    source: Source,
    socket: mio::net::TcpListener,
    in_a_row: Cell<u32>,
}

impl ReactorListener {
    /// `socket` doesn't block.
    ///
    /// # Errors
    /// There is no reactor, or those of `epoll_ctl`.
    pub fn new(socket: TcpListener) -> io::Result<Self> {
        let socket = mio::net::TcpListener::from_std(socket);
        Ok(Self { source: Source::new(socket.as_raw_fd())?, socket, in_a_row: Cell::new(0) })
    }

    /// A connection, which doesn't block either.
    ///
    /// # Errors
    /// Those of `accept`.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        if self.in_a_row.get() == IN_A_ROW {
            self.in_a_row.set(0);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.socket.accept() {
            Ok((tcp, peer)) => {
                self.in_a_row.update(|count| count + 1);
                Poll::Ready(Ok((TcpStream::from(OwnedFd::from(tcp)), peer)))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.in_a_row.set(0);
                self.source.wait(cx)
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}
