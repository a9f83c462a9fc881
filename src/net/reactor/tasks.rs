//! The tasks of a reactor: each runs on the thread that it was started on, in the order in which they were woken.
//!
//! On the thread itself waking is a place in a queue, without a lock. Another thread, as that of the timers, leaves the task at the door
//! and rings.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use async_task::{FallibleTask, Runnable, ScheduleInfo, WithInfo};
use pin_project_lite::pin_project;
use slab::Slab;

use super::REACTOR;
use super::ahead::{self, Part, Places};

#[cfg(test)]
mod tests;

/// Tasks that run in a turn; what they gave is sent then.
const TASKS: usize = 64;

/// The thread looks at its tasks before it waits.
const AWAKE: u8 = 0;
/// Somebody has left a task at the door.
const RUNG: u8 = 1;
/// The thread waits, or is about to.
const ASLEEP: u8 = 2;

/// The tasks of one thread.
pub(super) struct Tasks {
    /// Those that were woken.
    ready: RefCell<VecDeque<Woken>>,
    /// Those that woke themselves as they ran: they want another turn.
    later: RefCell<Vec<Woken>>,
    /// All that have not ended.
    all: RefCell<Slab<Known>>,
    /// The one that runs, or ran last.
    runs: Cell<usize>,
    pub(super) door: Arc<Door>,
}

/// A task that is to run, by its number too.
struct Woken {
    runnable: Runnable,
    number: usize,
}

/// A task that has not ended.
struct Known {
    waker: Waker,
    places: Places,
}

/// Where other threads leave the tasks that they wake.
pub(super) struct Door {
    woken: Mutex<Vec<Woken>>,
    state: AtomicU8,
    bell: mio::Waker,
}

pin_project! {
    /// A task's future, with its place among all.
    struct Listed<F> {
        #[pin]
        future: F,
        place: Place,
    }
}

/// A task's number, free again when it has ended.
struct Place(usize);

impl Tasks {
    pub(super) fn new(bell: mio::Waker) -> Self {
        let door = Door { woken: Mutex::default(), state: AtomicU8::new(AWAKE), bell };
        Self {
            ready: RefCell::default(),
            later: RefCell::default(),
            all: RefCell::default(),
            runs: Cell::new(0),
            door: Arc::new(door),
        }
    }

    /// Starts a task, which ends with its handle.
    pub(super) fn start<F: Future + 'static>(&self, future: F) -> FallibleTask<F::Output> {
        let mut all = self.all.borrow_mut();
        let entry = all.vacant_entry();
        let door = Arc::clone(&self.door);
        let number = entry.key();
        let listed = Listed { future, place: Place(number) };
        let schedule = WithInfo(move |runnable, info| door.woken(Woken { runnable, number }, info));
        let (runnable, task) = async_task::spawn_local(listed, schedule);
        entry.insert(Known { waker: runnable.waker(), places: Places::default() });
        self.ready.borrow_mut().push_back(Woken { runnable, number });
        task.fallible()
    }

    /// Runs what was woken, in turn; `ahead`, what the next one touches is called before.
    pub(super) fn run(&self, ahead: bool) {
        for _ in 0..TASKS {
            let Some(Woken { runnable, number }) = self.next() else { break };
            self.runs.set(number);
            if ahead {
                self.call_next();
            }
            // A panic ends its task and no other; the hook has told of it.
            let _told = catch_unwind(AssertUnwindSafe(|| runnable.run()));
        }
        self.ready.borrow_mut().extend(self.later.borrow_mut().drain(..));
    }

    fn next(&self) -> Option<Woken> {
        self.ready.borrow_mut().pop_front()
    }

    #[inline]
    fn call_next(&self) {
        if let Some(next) = self.ready.borrow().front()
            && let Some(known) = self.all.borrow().get(next.number)
        {
            ahead::call_task(&known.waker);
            known.places.call();
        }
    }

    /// The task that runs touches this.
    pub(super) fn touches<T: ?Sized>(&self, part: Part, what: &T) {
        if let Some(known) = self.all.borrow_mut().get_mut(self.runs.get()) {
            known.places.set(part, what);
        }
    }

    /// Whether the thread may sleep: nothing is to be done, and from here on whoever leaves a task at the door wakes it.
    pub(super) fn may_sleep(&self) -> bool {
        self.ready.borrow().is_empty()
            && self.door.state.compare_exchange(AWAKE, ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The thread is awake; true if somebody has left a task at the door.
    pub(super) fn awake(&self) -> bool {
        self.door.state.swap(AWAKE, Ordering::SeqCst) == RUNG
    }

    /// Takes what lies at the door.
    pub(super) fn let_in(&self) {
        self.ready.borrow_mut().extend(self.door.take());
    }

    /// Ends all tasks that are left.
    pub(super) fn end(&self) {
        let left = std::mem::take(&mut *self.all.borrow_mut());
        left.into_iter().for_each(|(_, known)| known.waker.wake());
        self.let_in();
        // One by one: with its future other tasks may be woken.
        while let Some(woken) = self.next() {
            drop(woken);
        }
    }
}

/// What a task came to.
///
/// # Errors
/// It ended in a panic.
pub(super) fn outcome<T>(task: FallibleTask<T>) -> io::Result<T> {
    match pin!(task).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(outcome)) => Ok(outcome),
        _ => Err(io::Error::other("a task ended in a panic")),
    }
}

impl Door {
    /// A task was woken, on whichever thread this is.
    fn woken(self: &Arc<Self>, woken: Woken, info: ScheduleInfo) {
        let mut woken = Some(woken);
        let _thread_ends = REACTOR.try_with(|reactor| {
            if let Some(reactor) = &*reactor.borrow()
                && Arc::ptr_eq(&reactor.tasks.door, self)
            {
                let tasks = &reactor.tasks;
                match woken.take() {
                    Some(woken) if info.woken_while_running => tasks.later.borrow_mut().push(woken),
                    woken => tasks.ready.borrow_mut().extend(woken),
                }
            }
        });
        if let Some(woken) = woken {
            self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(woken);
            // Nothing but an eventfd that is full can keep it from being written, and then it wakes already.
            if self.state.swap(RUNG, Ordering::SeqCst) == ASLEEP {
                let _full = self.bell.wake();
            }
        }
    }

    fn take(&self) -> Vec<Woken> {
        std::mem::take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<F: Future> Future for Listed<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _thread_ends = REACTOR.try_with(|reactor| {
            if let Some(reactor) = &*reactor.borrow() {
                reactor.tasks.all.borrow_mut().try_remove(self.0);
            }
        });
    }
}
