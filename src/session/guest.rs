//! A client that is served by something else than the data path, the console, as its worker has it: in the list of sessions, with a
//! cancel key, reached by those who kill it or stop the proxy.

use std::rc::Rc;
use std::task::Context;

use super::Worker;
use super::greeting::{Registered, cancel_key};
use super::handle::{Handle, Order};
use super::shown::Card;
use crate::client::{Accepted, CancelEntry};

/// A guest on a worker, as long as it lives.
pub struct Guest {
    handle: Rc<Handle>,
    cancel: CancelEntry,
    _registered: Registered,
}

impl Guest {
    /// Takes a client that has logged in into the worker's list.
    pub fn new(worker: &Rc<Worker>, accepted: &Accepted) -> Self {
        let card = Card::new(worker.shared.next_session(), accepted, true);
        let handle = Rc::new(Handle::new(card, worker.swept()));
        let cancel = cancel_key(&worker.shared, &handle, accepted.minor);
        handle.shown.card.set_process_id(cancel.process_id);
        Self { _registered: Registered::new(worker, &handle), handle, cancel }
    }

    /// Process id and secret for BackendKeyData.
    pub fn key(&self) -> (u32, &[u8]) {
        (self.cancel.process_id, &self.cancel.secret)
    }

    /// Has its task woken when there is something for it.
    pub fn watch(&self, cx: &Context<'_>) {
        self.handle.watch(cx);
    }

    /// Whether it is to end: at once, or, the proxy being about to stop, when it runs nothing.
    pub fn is_to_end(&self) -> bool {
        match self.handle.order() {
            Order::None => false,
            Order::Drain => !self.handle.is_running(),
            Order::Kill => true,
        }
    }

    /// Whether a cancel came, once.
    pub fn take_cancel(&self) -> bool {
        self.handle.take_cancel()
    }

    /// A command begins, which a cancel from here on means.
    pub fn begins(&self, worker: &Worker) {
        self.handle.shown.asked.set(worker.swept());
        self.handle.next_batch();
    }

    /// It ends.
    pub fn ends(&self) {
        self.handle.next_batch();
        // One that came too late is dropped, as PostgreSQL does.
        let _late = self.handle.take_cancel();
    }
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").field("session", &self.handle.id).finish_non_exhaustive()
    }
}
