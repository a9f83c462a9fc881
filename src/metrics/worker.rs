//! What one worker thread counts. No lock, no hash and no locked instruction per statement.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::cells::{Histogram, Number};

/// Members that have cells of their own.
pub(super) const NAMED: usize = 63;
/// With the slot of all other members and that of the proxy itself.
pub(super) const SLOTS: usize = NAMED + 2;

/// Whose cells: a member's, by its number, or the proxy's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u8);

impl Slot {
    /// Answered by the proxy itself, by no member.
    pub const PROXY: Self = Self((NAMED + 1) as u8);

    /// The member of this number; numbers from 63 share one slot.
    #[inline]
    pub fn member(number: u16) -> Self {
        Self(number.min(NAMED as u16) as u8)
    }

    #[inline]
    fn index(self) -> usize {
        usize::from(self.0)
    }
}

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$case_doc:meta])* $case:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$case_doc])* $case,)* }

        impl $name {
            /// The labels, by the order of the cases.
            pub(super) const LABELS: &[&str] = &[$($label),*];
        }
    };
}
pub(super) use labels;

labels! {
    /// What a statement was taken for.
    Class {
        /// A read.
        Read = "read",
        /// A vector search.
        Vector = "vector",
        /// A write, or what may be one.
        Write = "write",
        /// Only the session's own state.
        Session = "session",
        /// BEGIN, COMMIT and their like.
        Transaction = "transaction",
        /// COPY, in either direction.
        Copy = "copy",
    }
}

labels! {
    /// What a backend is at.
    BackendState {
        /// In the pool.
        Idle = "idle",
        /// Held by a session.
        Busy = "busy",
        /// Connecting or logging in.
        Connecting = "connecting",
    }
}

labels! {
    /// Why a statement ran elsewhere than it would have at first, or once more.
    Reroute {
        /// The replica said that it writes (25006).
        ReadOnly = "read_only",
        /// The replica said "recovery is in progress".
        Recovery = "recovery",
        /// Cancelled on the replica by a conflict with recovery.
        Conflict = "conflict",
        /// Its member was lost before any of the answer had been passed on.
        Lost = "lost",
        /// The replica did not know a function yet.
        Behind = "behind",
        /// It belongs to the primary, and its READ ONLY transaction went there with it.
        Leaves = "leaves",
        /// A statement that it had not parsed itself failed it (`pool.prepare_threshold`).
        Parses = "parses",
        /// No replica had reached the session's fence.
        Fence = "fence",
        /// No replica was eligible.
        NoReplica = "no_replica",
    }
}

/// SQLSTATEs that are counted apart; all others are `other`.
pub const SQLSTATES: [&str; 30] = [
    "08001", "08003", "08006", "08007", "08P01", "0A000", "22023", "25001", "25006", "25P02", "26000",
    "28000", "28P01", "34000", "3D000", "40001", "42501", "42601", "42P05", "53300", "53400", "54000",
    "55000", "57014", "57P01", "57P02", "57P03", "57P05", "58030", "XX000",
];

/// The cells themselves.
#[derive(Debug)]
pub(super) struct Cells {
    pub(super) statements: [[Number; Class::LABELS.len()]; SLOTS],
    pub(super) searches: [Histogram; SLOTS],
    pub(super) backends: [[Number; BackendState::LABELS.len()]; SLOTS],
    pub(super) reroutes: [Number; Reroute::LABELS.len()],
    pub(super) errors: [Number; SQLSTATES.len() + 1],
    pub(super) parses_spared: Number,
    pub(super) sessions: Number,
    pub(super) pool_waiting: Number,
    pub(super) failover_waiting: Number,
    pub(super) pool_wait: Histogram,
    pub(super) failover_wait: Histogram,
}

/// One worker's counters. Can be moved to its thread, but not shared between threads nor copied: so every cell has
/// one writer. Within its thread, put it into an `Rc`.
#[derive(Debug)]
pub struct Worker {
    pub(super) cells: Arc<Cells>,
    one_thread: PhantomData<Cell<()>>,
}

impl Worker {
    pub(super) fn new() -> Self {
        let cells = Cells {
            statements: std::array::from_fn(|_| Default::default()),
            searches: std::array::from_fn(|_| Histogram::default()),
            backends: std::array::from_fn(|_| Default::default()),
            reroutes: Default::default(),
            errors: Default::default(),
            parses_spared: Number::default(),
            sessions: Number::default(),
            pool_waiting: Number::default(),
            failover_waiting: Number::default(),
            pool_wait: Histogram::default(),
            failover_wait: Histogram::default(),
        };
        Self { cells: Arc::new(cells), one_thread: PhantomData }
    }

    /// A statement was sent to a member, or answered by the proxy.
    #[inline]
    pub fn statement(&self, slot: Slot, class: Class) {
        self.cells.statements[slot.index()][class as usize].add(1);
    }

    /// A vector search was answered in full.
    pub fn search(&self, slot: Slot, took: Duration) {
        self.cells.searches[slot.index()].observe(took);
    }

    /// How many backends of a member this worker has in this state now.
    #[inline]
    pub fn set_backends(&self, slot: Slot, state: BackendState, count: usize) {
        self.cells.backends[slot.index()][state as usize].set(count as u64);
    }

    /// A session logged in.
    pub fn session_began(&self) {
        self.cells.sessions.add(1);
    }

    /// A session ended.
    pub fn session_ended(&self) {
        self.cells.sessions.subtract(1);
    }

    /// A session began to wait for a backend.
    pub fn pool_wait_began(&self) {
        self.cells.pool_waiting.add(1);
    }

    /// Its wait is over, with a backend or without.
    pub fn pool_wait_ended(&self, took: Duration) {
        self.cells.pool_waiting.subtract(1);
        self.cells.pool_wait.observe(took);
    }

    /// A session began to wait for a primary.
    pub fn failover_wait_began(&self) {
        self.cells.failover_waiting.add(1);
    }

    /// Its wait is over, with a primary or without.
    pub fn failover_wait_ended(&self, took: Duration) {
        self.cells.failover_waiting.subtract(1);
        self.cells.failover_wait.observe(took);
    }

    /// A statement ran elsewhere than it would have at first.
    pub fn reroute(&self, reason: Reroute) {
        self.cells.reroutes[reason as usize].add(1);
    }

    /// A Parse was answered without one to the backend.
    pub fn parse_spared(&self) {
        self.cells.parses_spared.add(1);
    }

    /// The proxy itself answered with an error.
    pub fn error(&self, sqlstate: [u8; 5]) {
        let known = SQLSTATES.iter().position(|known| known.as_bytes() == sqlstate);
        self.cells.errors[known.unwrap_or(SQLSTATES.len())].add(1);
    }
}
