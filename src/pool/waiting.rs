//! A session that waits for a backend: one slot it owns for its life, so that waiting allocates nothing.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::backend::Backend;

/// Why no backend was had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AcquireError {
    /// `pool.wait` is over.
    #[error("no backend came free in time")]
    Timeout,
    /// `pool.max_waiting` sessions wait already.
    #[error("too many sessions wait for a backend")]
    TooManyWaiting,
    /// The member can't be reached or doesn't take connections now: another may, or this one later.
    #[error("the member can't be reached: {0}")]
    Unreachable(Arc<str>),
    /// The server refused the login with this error: the body of its ErrorResponse.
    #[error("the server refused the login")]
    Refused(Arc<[u8]>),
    /// The proxy could not log in for a reason that is no server's word.
    #[error("{0}")]
    Login(Arc<str>),
    /// The topology changed: ask it again.
    #[error("the topology has changed")]
    Moved,
}

/// A session's slot in pools' queues.
#[derive(Default)]
pub struct Waiter {
    slot: RefCell<Option<Result<Box<Backend>, AcquireError>>>,
    waker: RefCell<Option<Waker>>,
    deadline: Cell<Option<Instant>>,
    /// It stands in a queue.
    queued: Cell<bool>,
}

impl Waiter {
    /// Polls for what was given.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Box<Backend>, AcquireError>> {
        if let Some(given) = self.slot.borrow_mut().take() {
            return Poll::Ready(given);
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Takes what was given, if anything was.
    pub fn try_take(&self) -> Option<Result<Box<Backend>, AcquireError>> {
        self.slot.borrow_mut().take()
    }

    pub(super) fn enqueued(&self, deadline: Instant) {
        self.deadline.set(Some(deadline));
        self.queued.set(true);
    }

    /// It leaves the queue; whether it stood in one.
    pub(super) fn dequeued(&self) -> bool {
        self.queued.replace(false)
    }

    /// Whether its wait is over.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.deadline.get().is_none_or(|deadline| deadline <= now)
    }

    pub(super) fn give(&self, given: Result<Box<Backend>, AcquireError>) {
        *self.slot.borrow_mut() = Some(given);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl std::fmt::Debug for Waiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiter").field("given", &self.slot.borrow().is_some()).finish_non_exhaustive()
    }
}
