//! A listening socket of a reactor.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::task::{Context, Poll, ready};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use super::{Source, with_reactor};

/// Connections that are accepted in a turn: in a storm of them those that came are served in between.
const IN_A_TURN: u32 = 16;

/// A listening socket on this thread's reactor. Epoll tells of it in each turn in which somebody waits: one that is asked for more than
/// have come makes a socket for nothing.
#[derive(Debug)]
pub struct ReactorListener {
    source: Source,
    /// How many are accepted in this turn, and how many of them still.
    allowed: Cell<u32>,
    left: Cell<u32>,
    /// The turn of the last event.
    turn: Cell<u16>,
    /// Accepting failed: until it is tried again epoll tells nothing, which it would do without end.
    failed: Cell<bool>,
}

impl ReactorListener {
    /// `socket` doesn't block.
    ///
    /// # Errors
    /// There is no reactor, or those of `epoll_ctl`.
    pub fn new(socket: TcpListener) -> io::Result<Self> {
        Ok(Self {
            source: Source::new(socket.into(), EventFlags::IN)?,
            allowed: Cell::new(0),
            left: Cell::new(0),
            turn: Cell::new(0),
            failed: Cell::new(false),
        })
    }

    /// A connection, which doesn't block either.
    ///
    /// # Errors
    /// Those of `accept`.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        if self.failed.take() {
            self.source.ask(EventFlags::IN)?;
        }
        loop {
            if self.left.get() == 0 {
                ready!(self.source.poll_event(cx))?;
                self.begin_turn()?;
            }
            self.left.update(|left| left - 1);
            match acceptfrom_with(&self.source.fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((tcp, Some(peer))) => {
                    let peer = SocketAddr::try_from(peer).map_err(io::Error::other);
                    return Poll::Ready(peer.map(|peer| (TcpStream::from(tcp), peer)));
                }
                Ok((_, None)) => return Poll::Ready(Err(io::Error::other("a connection from nowhere"))),
                Err(error) => {
                    self.left.set(0);
                    if error != Errno::AGAIN {
                        self.failed.set(true);
                        self.source.ask(EventFlags::empty())?;
                        return Poll::Ready(Err(error.into()));
                    }
                }
            }
        }
    }

    /// One in a turn, and twice as many in each that follows at once.
    fn begin_turn(&self) -> io::Result<()> {
        let turn = with_reactor(self.source.reactor, |reactor| Ok(reactor.shared.borrow().turn))?;
        let follows = turn == self.turn.replace(turn).wrapping_add(1);
        let allowed = if follows { (self.allowed.get() * 2).min(IN_A_TURN) } else { 1 };
        self.allowed.set(allowed.max(1));
        self.left.set(self.allowed.get());
        Ok(())
    }
}
