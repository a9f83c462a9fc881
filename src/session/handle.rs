//! A session as its worker reaches it: to wake it, cut it, cancel what it runs.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::time::Instant;

use super::shown::{Card, Shown};
use crate::topology::{Epoch, Rule, Topology};

/// What a session is told from outside. Read by the session at its next poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// Nothing.
    None,
    /// End when no transaction is open: the proxy stops.
    Drain,
    /// End at once: the proxy stops, or an operator says so.
    Kill,
}

/// The backend that a session holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) member: u16,
    pub(super) generation: u64,
    /// The epoch in which its member was the primary; none for a replica's.
    pub(super) rule: Option<Epoch>,
    /// The rest is for an operator's eyes: the server's process id,
    pub(super) process_id: u32,
    /// the proxy's end of the connection,
    pub(super) local: Option<SocketAddr>,
    /// when it was opened,
    pub(super) opened: Instant,
    /// since when the session holds it,
    pub(super) since: Instant,
    /// and whether it is under TLS.
    pub(super) tls: bool,
}

/// How it stands with the backend that a session holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing speaks against it.
    Good,
    /// Its member doesn't answer its checks: what only reads may better run elsewhere.
    Silent,
    /// Its member is to give up the lead, and open transactions have had their time.
    Drained,
    /// It belongs to a past that is over.
    Fenced,
}

/// One session's handle; in the order of use, as [`super::Session`].
#[repr(C)]
pub(super) struct Handle {
    /// The session's number.
    pub(super) id: u32,
    standing: Cell<Standing>,
    /// The cluster takes no writes, being a standby of another one.
    standby: Cell<bool>,
    order: Cell<Order>,
    cancel: Cell<bool>,
    /// Whether the session waits for another topology, and whether there is one.
    wants_topology: Cell<bool>,
    topology_moved: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// The worker that the session is to go to when nothing keeps it.
    move_to: Cell<Option<usize>>,
    /// Counts batches: odd while one is under way. Other threads read it, to tell which one a cancel means.
    pub(super) batch: Arc<AtomicU64>,
    /// What an operator sees of it.
    pub(super) shown: Shown,
    held: Cell<Option<Held>>,
    /// Batches at the last look at how busy the session is.
    looked_at: Cell<u64>,
}

impl Held {
    pub(super) fn standing(&self, topology: &Topology) -> Standing {
        let known = topology.members.iter().find(|member| member.id.0 == self.member);
        let fenced = match known {
            Some(member) => member.generation != self.generation,
            // A member that is gone from the topology: its backend goes on until it breaks, unless it was the primary's and
            // another leads. A dead node's key goes with the leader key, so that there is nothing else to see the fence by.
            None => {
                self.rule.is_some_and(|epoch| epoch != topology.epoch)
                    || matches!(topology.rule, Rule::Serving(id) if id.0 != self.member)
            }
        };
        if fenced {
            Standing::Fenced
        } else if topology.drained && self.rule.is_some() {
            Standing::Drained
        } else if known.is_none_or(|member| !member.answers) {
            Standing::Silent
        } else {
            Standing::Good
        }
    }
}

impl Handle {
    pub(super) fn new(card: Arc<Card>, now: Instant) -> Self {
        Self::moved(card, Arc::default(), now)
    }

    /// Of a session that comes from another worker.
    pub(super) fn moved(card: Arc<Card>, batch: Arc<AtomicU64>, now: Instant) -> Self {
        Self {
            id: card.id,
            looked_at: Cell::new(batch.load(Relaxed)),
            batch,
            held: Cell::new(None),
            standing: Cell::new(Standing::Good),
            standby: Cell::new(false),
            order: Cell::new(Order::None),
            cancel: Cell::new(false),
            move_to: Cell::new(None),
            wants_topology: Cell::new(false),
            topology_moved: Cell::new(false),
            shown: Shown::new(card, now),
            waker: RefCell::new(None),
        }
    }

    /// Has the session woken when there is something for it.
    #[inline]
    pub(super) fn watch(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// The session holds this backend from here, or none.
    #[inline]
    pub(super) fn hold(&self, held: Option<Held>) {
        self.held.set(held);
        self.standing.set(Standing::Good);
    }

    /// The backend that the session holds.
    #[inline]
    pub(super) fn held(&self) -> Option<Held> {
        self.held.get()
    }

    /// How it stands with the backend that the session holds.
    #[inline]
    pub(super) fn standing(&self) -> Standing {
        self.standing.get()
    }

    /// Whether the cluster takes no writes, being a standby of another one.
    #[inline]
    pub(super) fn standby(&self) -> bool {
        self.standby.get()
    }

    /// The same, as of a topology that the session sees for the first time.
    pub(super) fn set_standby(&self, standby: bool) {
        self.standby.set(standby);
    }

    /// What it was told.
    #[inline]
    pub(super) fn order(&self) -> Order {
        self.order.get()
    }

    /// Whether a cancel came, once.
    #[inline]
    pub(super) fn take_cancel(&self) -> bool {
        self.cancel.take()
    }

    /// Waits for the next topology from here on.
    pub(super) fn want_topology(&self) {
        self.wants_topology.set(true);
        self.topology_moved.set(false);
    }

    /// Whether the topology that was waited for is there.
    pub(super) fn topology_moved(&self) -> bool {
        self.topology_moved.get()
    }

    /// The session is to go to that worker, as soon as nothing keeps it.
    pub(super) fn go(&self, to: usize) {
        self.move_to.set(Some(to));
        self.wake();
    }

    /// The same without waking it.
    pub(super) fn go_later(&self, to: usize) {
        self.move_to.set(Some(to));
    }

    /// Where the session is to go, if anywhere; not said again.
    #[inline]
    pub(super) fn take_move(&self) -> Option<usize> {
        self.move_to.take()
    }

    /// Batches since the last look.
    pub(super) fn batches_since(&self) -> u64 {
        let now = self.batch.load(Relaxed);
        now.wrapping_sub(self.looked_at.replace(now)) / 2
    }

    /// A batch begins, or ends.
    #[inline]
    pub(super) fn next_batch(&self) {
        // Only its own session writes it.
        self.batch.store(self.batch.load(Relaxed) + 1, Relaxed);
    }

    /// Whether a batch is under way.
    pub(super) fn is_running(&self) -> bool {
        self.batch.load(Relaxed) % 2 == 1
    }

    /// Cancels the batch of this number, if it is still under way.
    pub(super) fn cancel_batch(&self, batch: u64) {
        if self.batch.load(Relaxed) == batch {
            self.cancel();
        }
    }

    pub(super) fn cancel(&self) {
        self.cancel.set(true);
        self.wake();
    }

    pub(super) fn kill(&self) {
        self.order.set(Order::Kill);
        self.wake();
    }

    pub(super) fn drain(&self, now: bool) {
        self.order.set(if now { Order::Kill } else { self.order.get().max(Order::Drain) });
        self.wake();
    }

    pub(super) fn topology_changed(&self, topology: &Topology) {
        let mut tell = self.wants_topology.take();
        self.topology_moved.set(true);
        tell |= self.standby.replace(topology.is_standby()) != topology.is_standby();
        if let Some(held) = self.held.get() {
            let standing = held.standing(topology);
            tell |= self.standing.replace(standing) != standing;
        }
        if tell {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}
