//! One socket of a reactor: what is known of it, what came and was not read, what was given and not sent.

use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, Waker, ready};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::net::{RecvFlags, SendFlags};
use socket2::SockRef;

use super::{Loose, ahead};

/// Bytes that are read before somebody wants them or for who wants less, and the longest write that is put off to the end of a turn. What is longer goes its
/// way at once.
const BUFFER: usize = 4096;

/// Bytes that may be put off.
const PUT_OFF: usize = 4 * BUFFER;
// Both have to fit the slot's own counts.
const _: () = assert!(PUT_OFF < u32::MAX as usize && size_of::<Slot>() == 128);

/// Buffers kept.
const SPARE: usize = 128;

/// How often a socket is asked in one turn: one that always has something doesn't keep the others waiting.
const ASKED: u8 = 32;

/// What the sockets of a reactor share.
pub(super) struct Shared {
    pub(super) registry: Registry,
    /// Sockets with something to send at the end of the turn.
    pub(super) unsent: Vec<usize>,
    /// The turn's number.
    pub(super) turn: u16,
    /// Buffers of [`BUFFER`] bytes to read into.
    to_read: Vec<Box<[u8]>>,
    to_send: Vec<Vec<u8>>,
}

/// In the order of use, on two lines of the cache: there are many, and between two messages each of them goes cold.
#[repr(C, align(64))]
pub(super) struct Slot {
    reader: Waiting,
    arrived: Arrived,
    pub(super) tcp: TcpStream,
    pub(super) in_turns: bool,
    /// What epoll said last, as long as nothing has shown otherwise.
    readable: bool,
    writable: bool,
    /// The peer sends no more: what is left, and the end, are there without another event.
    ended: bool,
    /// Epoll tells of room too: only since there was none, for it would do so with each message.
    asks_for_room: bool,
    /// How often it was asked in which turn.
    asked: u8,
    turn: u16,
    /// What is to be sent, from `sent` on.
    unsent: Vec<u8>,
    sent: u32,
    key: u32,
    writer: Waiting,
    /// How reading or sending failed between the tasks' looks.
    failed: Option<io::Error>,
}

/// A task that may wait. Its waker is kept for the next time.
#[derive(Default)]
struct Waiting {
    waits: bool,
    waker: Option<Waker>,
}

/// Bytes that came and were not read: those between `at` and `end`.
#[derive(Default)]
struct Arrived {
    buffer: Box<[u8]>,
    at: u32,
    end: u32,
}

impl Waiting {
    #[inline]
    fn wait(&mut self, cx: &Context<'_>) {
        self.waits = true;
        match &mut self.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            waker => *waker = Some(cx.waker().clone()),
        }
    }

    #[inline]
    fn wake(&mut self) {
        if std::mem::take(&mut self.waits)
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }
}

impl Slot {
    pub(super) fn new(key: usize, loose: Loose, shared: &mut Shared) -> Self {
        let Loose { tcp, arrived, unsent, in_turns } = loose;
        let end = arrived.len() as u32;
        if !unsent.is_empty() {
            shared.unsent.push(key);
        }
        Self {
            reader: Waiting::default(),
            arrived: Arrived { buffer: arrived.into(), at: 0, end },
            tcp,
            in_turns,
            // Who has connected speaks first, and mostly has by now.
            readable: true,
            writable: true,
            ended: false,
            asks_for_room: false,
            asked: 0,
            turn: 0,
            unsent,
            sent: 0,
            key: key as u32,
            writer: Waiting::default(),
            failed: None,
        }
    }

    /// The socket with what nobody has read, and what was not sent.
    pub(super) fn into_loose(self) -> Loose {
        let (arrived, unsent) = (self.rest().to_vec(), self.unsent[self.sent as usize..].to_vec());
        Loose { tcp: self.tcp, arrived, unsent, in_turns: self.in_turns }
    }

    /// Takes up what epoll says.
    #[inline]
    pub(super) fn take(&mut self, event: &Event, shared: &mut Shared) {
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.readable = true;
            self.ended |= event.is_read_closed();
            if !self.in_turns || !self.reader.waits || self.receive(shared) {
                self.reader.wake();
            }
        }
        if event.is_writable() || event.is_write_closed() || event.is_error() {
            self.writable = true;
            self.send_rest(shared);
            self.writer.wake();
        }
    }

    /// Reads for the task that waits; false when nothing was there after all.
    fn receive(&mut self, shared: &mut Shared) -> bool {
        if !self.rest().is_empty() {
            return true;
        }
        let mut buffer = shared.buffer();
        let received = self.recv(|tcp| recv(tcp, &mut buffer));
        let came = received.is_some();
        match received {
            Some(Ok(end)) if end > 0 => {
                self.took(end, buffer.len());
                self.arrived = Arrived { buffer, at: 0, end: end as u32 };
                return true;
            }
            Some(Err(error)) => self.failed = Some(error),
            // The end is found anew by who reads.
            Some(Ok(_)) | None => {}
        }
        shared.keep(buffer);
        came
    }

    #[inline]
    pub(super) fn poll_read(
        &mut self,
        cx: &Context<'_>,
        buf: &mut [u8],
        shared: &mut Shared,
    ) -> Poll<io::Result<usize>> {
        let room = buf.len();
        if room >= BUFFER && self.rest().is_empty() {
            let read = self.poll_recv(cx, shared, |tcp| recv(tcp, buf));
            if let Poll::Ready(Ok(n)) = read {
                self.took(n, room);
            }
            return read;
        }
        let n = ready!(self.poll_peek(cx, buf, shared))?;
        self.arrived.at += n as u32;
        if self.arrived.at == self.arrived.end {
            shared.keep(std::mem::take(&mut self.arrived).buffer);
        }
        Poll::Ready(Ok(n))
    }

    /// Copies what comes next without taking it; nothing at the end of the stream.
    pub(super) fn poll_peek(
        &mut self,
        cx: &Context<'_>,
        buf: &mut [u8],
        shared: &mut Shared,
    ) -> Poll<io::Result<usize>> {
        if self.rest().is_empty() {
            ready!(self.poll_ahead(cx, shared))?;
        }
        let rest = self.rest();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Poll::Ready(Ok(n))
    }

    /// Reads a buffer for who wants less: what stands behind that is there without another call. Nothing has arrived at the end of the
    /// stream.
    fn poll_ahead(&mut self, cx: &Context<'_>, shared: &mut Shared) -> Poll<io::Result<()>> {
        let mut buffer = shared.buffer();
        let received = self.poll_recv(cx, shared, |tcp| recv(tcp, &mut buffer));
        if let Poll::Ready(Ok(end @ 1..)) = received {
            self.took(end, buffer.len());
            self.arrived = Arrived { buffer, at: 0, end: end as u32 };
        } else {
            shared.keep(buffer);
        }
        received.map_ok(|_| ())
    }

    /// Whether bytes have come that nobody has taken.
    pub(super) fn has_pending(&self) -> io::Result<bool> {
        if !self.rest().is_empty() {
            return Ok(true);
        }
        has_come(&SockRef::from(&self.tcp))
    }

    /// Calls what is touched when something has come, ahead of that.
    #[inline]
    pub(super) fn call_reader(&self) {
        ahead::call(self);
        if let Some(waker) = &self.reader.waker {
            ahead::call_task(waker);
        }
    }

    /// Calls what is touched when it sends, ahead of that.
    #[inline]
    pub(super) fn call_unsent(&self) {
        ahead::call(self);
        ahead::call(&self.unsent[..]);
    }

    /// What was read and nobody has taken.
    fn rest(&self) -> &[u8] {
        &self.arrived.buffer[self.arrived.at as usize..self.arrived.end as usize]
    }

    /// Asks the socket when it may have something.
    fn poll_recv(
        &mut self,
        cx: &Context<'_>,
        shared: &Shared,
        recv: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if self.readable && self.is_enough(shared) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(outcome) = self.recv(recv) {
            return Poll::Ready(outcome);
        }
        self.reader.wait(cx);
        Poll::Pending
    }

    /// What the socket has; nothing while epoll hasn't told of more than was taken.
    #[inline]
    fn recv(&mut self, mut recv: impl FnMut(&TcpStream) -> io::Result<usize>) -> Option<io::Result<usize>> {
        unless_blocked(&mut self.readable, || recv(&self.tcp))
    }

    /// Who has read `n` bytes where there was room for more has taken all that was there.
    #[inline]
    fn took(&mut self, n: usize, room: usize) {
        if n > 0 && n < room {
            self.readable = self.ended;
        }
    }

    /// Whether it was asked often enough in this turn.
    fn is_enough(&mut self, shared: &Shared) -> bool {
        if self.turn != shared.turn {
            (self.turn, self.asked) = (shared.turn, 0);
        }
        self.asked = self.asked.saturating_add(1);
        self.asked > ASKED
    }

    #[inline]
    pub(super) fn poll_write(
        &mut self,
        cx: &Context<'_>,
        buf: &[u8],
        shared: &mut Shared,
    ) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let put_off = self.in_turns && buf.len() <= BUFFER;
        if put_off && self.writable && self.unsent.len() + buf.len() <= PUT_OFF {
            if self.unsent.is_empty() {
                self.unsent = shared.to_send.pop().unwrap_or_default();
                shared.unsent.push(self.key as usize);
            }
            self.unsent.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        // In the order in which it was given.
        if self.poll_sent(cx, shared)?.is_pending() {
            return Poll::Pending;
        }
        if let Some(outcome) = unless_blocked(&mut self.writable, || send(&self.tcp, buf)) {
            return Poll::Ready(outcome);
        }
        self.ask_for_room(shared)?;
        self.writer.wait(cx);
        Poll::Pending
    }

    pub(super) fn poll_sent(&mut self, cx: &Context<'_>, shared: &mut Shared) -> Poll<io::Result<()>> {
        self.send_rest(shared);
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if self.unsent.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.writer.wait(cx);
        Poll::Pending
    }

    /// Sends what was put off, as far as the socket takes it.
    #[inline]
    pub(super) fn send_rest(&mut self, shared: &mut Shared) {
        while (self.sent as usize) < self.unsent.len() {
            let rest = &self.unsent[self.sent as usize..];
            match unless_blocked(&mut self.writable, || send(&self.tcp, rest)) {
                None => match self.ask_for_room(shared) {
                    Ok(()) => return,
                    Err(error) => self.fail(error),
                },
                Some(Ok(n)) => self.sent += n as u32,
                Some(Err(error)) => self.fail(error),
            }
        }
        self.sent = 0;
        let mut sent = std::mem::take(&mut self.unsent);
        if sent.capacity() > 0 && shared.to_send.len() < SPARE {
            sent.clear();
            shared.to_send.push(sent);
        }
    }

    /// What was put off can't be sent. Whoever waits for an answer to it hears of that now.
    fn fail(&mut self, error: io::Error) {
        self.failed = Some(error);
        self.sent = self.unsent.len() as u32;
        self.reader.wake();
        self.writer.wake();
    }

    /// Has epoll tell when the socket takes more. If it does by now, that is told too.
    fn ask_for_room(&mut self, shared: &Shared) -> io::Result<()> {
        if !self.asks_for_room {
            let both = Interest::READABLE | Interest::WRITABLE;
            shared.registry.reregister(
                &mut SourceFd(&self.tcp.as_raw_fd()),
                Token(self.key as usize * 2),
                both,
            )?;
            self.asks_for_room = true;
        }
        Ok(())
    }

    /// Whether nothing came that was not read. Nobody waits for it.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.reader = Waiting::default();
        self.rest().is_empty() && self.failed.is_none() && self.recv(|tcp| recv(tcp, &mut [0])).is_none()
    }
}

/// Whether a socket has bytes that were not read.
///
/// # Errors
/// Those of `recv`.
pub(in crate::net) fn has_come(socket: &SockRef<'_>) -> io::Result<bool> {
    match socket.peek(&mut [MaybeUninit::uninit()]) {
        Ok(bytes) => Ok(bytes > 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// recv(2), by the shortest way: libc's is a point of cancellation, which threads of ours don't know.
#[inline]
fn recv(tcp: &TcpStream, buf: &mut [u8]) -> io::Result<usize> {
    let (n, _) = rustix::net::recv(tcp, buf, RecvFlags::empty())?;
    Ok(n)
}

/// send(2), likewise.
#[inline]
fn send(tcp: &TcpStream, buf: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(tcp, buf, SendFlags::NOSIGNAL)?)
}

/// What a system call says of a socket, which is made only while the socket is known as ready, and shows when it isn't any more.
#[inline]
fn unless_blocked(
    ready: &mut bool,
    mut call: impl FnMut() -> io::Result<usize>,
) -> Option<io::Result<usize>> {
    while *ready {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => *ready = false,
            outcome => return Some(outcome),
        }
    }
    None
}

impl Shared {
    pub(super) fn new(registry: Registry) -> Self {
        Self { registry, unsent: Vec::new(), turn: 0, to_read: Vec::new(), to_send: Vec::new() }
    }

    #[inline]
    fn buffer(&mut self) -> Box<[u8]> {
        self.to_read.pop().unwrap_or_else(|| vec![0; BUFFER].into())
    }

    #[inline]
    fn keep(&mut self, buffer: Box<[u8]>) {
        if buffer.len() == BUFFER && self.to_read.len() < SPARE {
            self.to_read.push(buffer);
        }
    }
}
