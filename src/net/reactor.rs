//! What a worker runs on: epoll(7), asked once a turn.
//!
//! A turn takes what has come off every socket that a task waits for, runs the tasks, and sends what they gave, all in a row. So the
//! kernel's way in, the program, and the kernel's way out come into the cache once a turn and not with every message.
//!
//! A socket begins as one where each read and write is a system call at once. [`ReactorSocket::in_turns`], behind the login, has it take part.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::mem;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Token};
use rustix::event::epoll::{self, EventData, EventFlags};
use slab::Slab;

mod ahead;
mod listener;
mod slot;
mod tasks;
#[cfg(test)]
mod tests;
mod ticks;

pub use ahead::Part;
pub use listener::ReactorListener;
use slot::Slot;
pub(super) use slot::has_come;
use tasks::Tasks;
pub use ticks::Ticks;

/// Events that are taken in one turn; the rest come in the next.
const EVENTS: usize = 1024;

/// The event of the bell that other threads ring.
const BELL: Token = Token(usize::MAX);

thread_local! {
    static REACTOR: RefCell<Option<Rc<Reactor>>> = const { RefCell::new(None) };
}

/// A thread's reactor.
struct Reactor {
    poll: RefCell<mio::Poll>,
    events: RefCell<Events>,
    tasks: Tasks,
    /// Sockets have even tokens, the other sources odd ones.
    sockets: RefCell<Slab<Slot>>,
    sources: RefCell<Slab<Awaited>>,
    shared: RefCell<slot::Shared>,
    /// Something else than ticks came since the last tick.
    busy: Cell<bool>,
    /// Who is woken as soon as anything comes.
    early: Cell<Option<usize>>,
}

/// A source of events other than a connection. It is off the reactor when this is dropped.
#[derive(Debug)]
struct Source {
    key: usize,
    /// The address of its reactor.
    reactor: usize,
    fd: OwnedFd,
}

/// What a reactor knows of a source.
#[derive(Debug, Default)]
struct Awaited {
    came: bool,
    waker: Option<Waker>,
}

/// A socket on the reactor of the thread that it was made on, and of no use on another.
#[derive(Debug)]
pub struct ReactorSocket {
    key: usize,
    /// The address of its reactor.
    reactor: usize,
}

/// A socket on its way from one thread to another, with what had come by then and what it had not taken yet.
#[derive(Debug)]
pub struct Loose {
    pub(super) tcp: TcpStream,
    arrived: Vec<u8>,
    unsent: Vec<u8>,
    in_turns: bool,
}

/// Makes the reactor of this thread.
///
/// # Errors
/// Those of `epoll_create` and `eventfd`.
pub fn open() -> io::Result<()> {
    let poll = mio::Poll::new()?;
    let registry = poll.registry().try_clone()?;
    let bell = mio::Waker::new(&registry, BELL)?;
    let reactor = Reactor {
        poll: RefCell::new(poll),
        events: RefCell::new(Events::with_capacity(EVENTS)),
        tasks: Tasks::new(bell),
        sockets: RefCell::default(),
        sources: RefCell::default(),
        shared: RefCell::new(slot::Shared::new(registry)),
        busy: Cell::new(false),
        early: Cell::new(None),
    };
    REACTOR.set(Some(Rc::new(reactor)));
    Ok(())
}

/// Whether this thread has a reactor.
pub fn is_here() -> bool {
    REACTOR.with_borrow(Option::is_some)
}

/// Runs a future to its end on this thread's reactor, beside what is started there meanwhile.
///
/// # Errors
/// There is no reactor, epoll fails, or the future ends in a panic.
pub fn block_on<F: Future + 'static>(future: F) -> io::Result<F::Output> {
    let reactor = here()?;
    let task = reactor.tasks.start(future);
    loop {
        reactor.tasks.run(reactor.has_many());
        reactor.send_all();
        if task.is_finished() {
            return tasks::outcome(task);
        }
        reactor.wait()?;
    }
}

/// Starts a task on this thread: on its reactor, else on tokio's `LocalSet`. A panic ends it alone.
pub fn spawn<F: Future<Output = ()> + 'static>(future: F) {
    match here() {
        Ok(reactor) => reactor.tasks.start(future).detach(),
        Err(_none) => drop(tokio::task::spawn_local(future)),
    }
}

/// The task that runs touches this with each of its batches: what stands at its beginning is called into the cache before the task
/// runs again. It may be gone by then.
#[inline]
pub fn touches<T: ?Sized>(part: Part, what: &T) {
    REACTOR.with_borrow(|reactor| {
        if let Some(reactor) = reactor {
            reactor.tasks.touches(part, what);
        }
    });
}

/// Gives this thread's reactor up, and ends the tasks that are left on it.
pub fn close() {
    if let Ok(reactor) = here() {
        reactor.tasks.end();
    }
    REACTOR.set(None);
}

fn here() -> io::Result<Rc<Reactor>> {
    let reactor = REACTOR.with_borrow(|reactor| reactor.as_ref().map(Rc::clone));
    reactor.ok_or_else(|| io::Error::other("no reactor on this thread"))
}

/// The socket whose events have this token; none where it is the bell's or another source's.
#[inline]
fn socket_of(Token(token): Token) -> Option<usize> {
    token.is_multiple_of(2).then_some(token / 2)
}

/// What this thread's reactor gives, if it is the one at this address.
#[inline]
fn with_reactor<T>(address: usize, act: impl FnOnce(&Reactor) -> io::Result<T>) -> io::Result<T> {
    REACTOR.with_borrow(|reactor| match reactor {
        Some(reactor) if Rc::as_ptr(reactor).addr() == address => act(reactor),
        _ => Err(io::Error::other("a socket of another thread")),
    })
}

impl Reactor {
    /// Waits until something comes, and takes it.
    fn wait(&self) -> io::Result<()> {
        let patience = (!self.tasks.may_sleep()).then_some(Duration::ZERO);
        let mut events = self.events.borrow_mut();
        match self.poll.borrow_mut().poll(&mut events, patience) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let rung = self.tasks.awake();
        if (rung || !events.is_empty())
            && let Some(key) = self.early.take()
        {
            self.comes(key);
        }
        if rung {
            self.busy.set(true);
            self.tasks.let_in();
        }
        self.call_sockets(events.iter().filter_map(|event| socket_of(event.token())), Slot::call_reader);
        let (mut sockets, mut shared) = (self.sockets.borrow_mut(), self.shared.borrow_mut());
        for event in &*events {
            let token = event.token();
            if let Some(key) = socket_of(token) {
                self.busy.set(true);
                // One that is gone may have had an event in the same turn.
                if let Some(slot) = sockets.get_mut(key) {
                    slot.take(event, &mut shared);
                }
            } else if token != BELL {
                self.comes(token.0 / 2);
            }
        }
        Ok(())
    }

    /// Whether there are more sockets than stay in the cache by themselves.
    fn has_many(&self) -> bool {
        self.sockets.borrow().len() > ahead::FEW
    }

    /// Calls what is about to be touched of these sockets, where there are many.
    #[inline]
    fn call_sockets(&self, keys: impl Iterator<Item = usize>, call: impl Fn(&Slot)) {
        if self.has_many() {
            let sockets = self.sockets.borrow();
            keys.filter_map(|key| sockets.get(key)).for_each(call);
        }
    }

    /// Something comes of this source.
    fn comes(&self, key: usize) {
        if let Some(awaited) = self.sources.borrow_mut().get_mut(key) {
            awaited.came = true;
            if let Some(waker) = awaited.waker.take() {
                waker.wake();
            }
        }
    }

    /// Gives a socket up, which has sent by then what it took of what was put off.
    fn take_off(&self, key: usize) -> Option<Slot> {
        let mut slot = self.sockets.borrow_mut().try_remove(key)?;
        slot.send_rest(&mut self.shared.borrow_mut());
        Some(slot)
    }

    /// Sends what the tasks of this turn gave.
    fn send_all(&self) {
        let mut unsent = mem::take(&mut self.shared.borrow_mut().unsent);
        self.call_sockets(unsent.iter().copied(), Slot::call_unsent);
        let (mut sockets, mut shared) = (self.sockets.borrow_mut(), self.shared.borrow_mut());
        for key in unsent.drain(..) {
            if let Some(slot) = sockets.get_mut(key) {
                slot.send_rest(&mut shared);
            }
        }
        shared.unsent = unsent;
        shared.turn = shared.turn.wrapping_add(1);
    }
}

impl ReactorSocket {
    /// A non-blocking socket on this thread's reactor.
    ///
    /// # Errors
    /// There is no reactor, or those of `epoll_ctl`.
    pub fn new(loose: Loose) -> io::Result<Self> {
        let reactor = here()?;
        let mut sockets = reactor.sockets.borrow_mut();
        let entry = sockets.vacant_entry();
        let key = entry.key();
        let mut shared = reactor.shared.borrow_mut();
        shared.registry.register(
            &mut SourceFd(&loose.tcp.as_raw_fd()),
            Token(key * 2),
            Interest::READABLE,
        )?;
        entry.insert(Slot::new(key, loose, &mut shared));
        Ok(Self { key, reactor: Rc::as_ptr(&reactor).addr() })
    }

    /// From here on bytes are read when they come, one buffer at most before somebody wants them, and sent at the end of a turn.
    pub fn in_turns(&self) {
        let _of_another_thread = self.with(|slot, _| {
            slot.in_turns = true;
            Ok(())
        });
    }

    /// Reads what is there into `buf`; 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of `recv`.
    #[inline]
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_with(|slot, shared| slot.poll_read(cx, buf, shared))
    }

    /// Copies what comes next into `buf` without taking it; 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of `recv`.
    pub fn poll_peek(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_with(|slot, shared| slot.poll_peek(cx, buf, shared))
    }

    /// Whether bytes have come that nobody has taken.
    ///
    /// # Errors
    /// Those of `recv`.
    pub fn has_pending(&self) -> io::Result<bool> {
        self.with(|slot, _| slot.has_pending())
    }

    /// Takes some of `buf` to be sent, and says how much. An error may be that of sending what was taken before.
    ///
    /// # Errors
    /// Those of `send`.
    #[inline]
    pub fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(|slot, shared| slot.poll_write(cx, buf, shared))
    }

    /// Sends what was taken; ready when it has been.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_with(|slot, shared| slot.poll_sent(cx, shared))
    }

    /// Whether nothing came that was not read, neither a byte nor the end. What it finds then is lost.
    pub fn is_quiet(&self) -> bool {
        self.with(|slot, _| Ok(slot.is_quiet())).unwrap_or(false)
    }

    /// What `act` says of the socket itself.
    ///
    /// # Errors
    /// Its, and that the socket is another thread's.
    pub fn ask<T>(&self, act: impl FnOnce(&TcpStream) -> io::Result<T>) -> io::Result<T> {
        self.with(|slot, _| act(&slot.tcp))
    }

    /// Takes the socket off its reactor, to go to another thread.
    ///
    /// # Errors
    /// It is another thread's, or those of `epoll_ctl`.
    pub fn let_go(self) -> io::Result<Loose> {
        with_reactor(self.reactor, |reactor| {
            let slot = reactor.take_off(self.key).ok_or(io::ErrorKind::NotConnected)?;
            reactor.shared.borrow().registry.deregister(&mut SourceFd(&slot.tcp.as_raw_fd()))?;
            Ok(slot.into_loose())
        })
    }

    #[inline]
    fn with<T>(&self, act: impl FnOnce(&mut Slot, &mut slot::Shared) -> io::Result<T>) -> io::Result<T> {
        with_reactor(self.reactor, |reactor| {
            let mut sockets = reactor.sockets.borrow_mut();
            let slot = sockets.get_mut(self.key).ok_or(io::ErrorKind::NotConnected)?;
            act(slot, &mut reactor.shared.borrow_mut())
        })
    }

    #[inline]
    fn poll_with<T>(
        &self,
        act: impl FnOnce(&mut Slot, &mut slot::Shared) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.with(|slot, shared| Ok(act(slot, shared))).unwrap_or_else(|error| Poll::Ready(Err(error)))
    }
}

impl Drop for ReactorSocket {
    fn drop(&mut self) {
        // What was taken to be sent goes first; closing the socket takes it off the reactor.
        let _of_another_thread = with_reactor(self.reactor, |reactor| Ok(reactor.take_off(self.key)));
    }
}

impl Source {
    /// # Errors
    /// There is no reactor, or those of `epoll_ctl`.
    fn new(fd: OwnedFd, when: EventFlags) -> io::Result<Self> {
        let reactor = here()?;
        let key = reactor.sources.borrow_mut().insert(Awaited::default());
        let source = Self { key, reactor: Rc::as_ptr(&reactor).addr(), fd };
        epoll::add(&reactor.shared.borrow().registry, &source.fd, source.data(), when)?;
        Ok(source)
    }

    /// Has epoll tell of something else.
    ///
    /// # Errors
    /// It is another thread's, or those of `epoll_ctl`.
    fn ask(&self, when: EventFlags) -> io::Result<()> {
        with_reactor(self.reactor, |reactor| {
            Ok(epoll::modify(&reactor.shared.borrow().registry, &self.fd, self.data(), when)?)
        })
    }

    fn data(&self) -> EventData {
        EventData::new_u64(self.key as u64 * 2 + 1)
    }

    /// Waits for an event, each of which is told once.
    ///
    /// # Errors
    /// It is another thread's.
    fn poll_event(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let came = with_reactor(self.reactor, |reactor| {
            let mut sources = reactor.sources.borrow_mut();
            let awaited = sources.get_mut(self.key).ok_or(io::ErrorKind::NotConnected)?;
            let came = mem::take(&mut awaited.came);
            awaited.waker = (!came).then(|| cx.waker().clone());
            Ok(came)
        });
        match came {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // Closing it takes it off epoll.
        let _of_another_thread = with_reactor(self.reactor, |reactor| {
            reactor.sources.borrow_mut().try_remove(self.key);
            Ok(())
        });
    }
}

impl From<TcpStream> for Loose {
    fn from(tcp: TcpStream) -> Self {
        Self { tcp, arrived: Vec::new(), unsent: Vec::new(), in_turns: false }
    }
}
