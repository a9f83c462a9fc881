//! How a session stands, for `SHOW CLIENTS`: what its worker can tell of it without asking it.
//!
//! A session notes it in cells of its own as it goes, at the price of a few plain stores a batch. Time is that of the worker's
//! last sweep (a tenth of a second), so that no clock is read; over many statements it adds up to the right sum.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Instant, SystemTime};

use super::Session;
use super::pins::Pins;
use super::state::Tx;
use crate::backend::Settings;
use crate::client::Accepted;
use crate::wire::TxStatus;

/// What is known of a client from its login on.
#[derive(Debug)]
pub struct Card {
    /// The session's number, by which an operator means it.
    pub id: u32,
    /// The user.
    pub user: Arc<str>,
    /// The database.
    pub database: Arc<str>,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The proxy's end of the connection.
    pub local: Option<SocketAddr>,
    /// When it logged in.
    pub since: SystemTime,
    /// TLS version and cipher, if it came under TLS.
    pub tls: Option<String>,
    /// It uses the console, no database.
    pub console: bool,
    process_id: AtomicU32,
}

impl Card {
    /// Of a client that has just logged in.
    pub(super) fn new(id: u32, accepted: &Accepted, console: bool) -> Arc<Self> {
        Arc::new(Self {
            id,
            user: Arc::clone(&accepted.user),
            database: accepted.database.as_str().into(),
            peer: accepted.peer,
            local: accepted.stream.tcp().local_addr().ok(),
            since: SystemTime::now(),
            tls: accepted.stream.tls_name(),
            console,
            process_id: AtomicU32::new(0),
        })
    }

    /// Of a made-up client.
    #[cfg(test)]
    pub(super) fn of(id: u32) -> Arc<Self> {
        Arc::new(Self {
            id,
            user: "app".into(),
            database: "app".into(),
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            local: None,
            since: SystemTime::UNIX_EPOCH,
            tls: None,
            console: false,
            process_id: AtomicU32::new(0),
        })
    }

    /// The process id that it was told, in BackendKeyData; 0 before.
    pub fn process_id(&self) -> u32 {
        self.process_id.load(Relaxed)
    }

    pub(super) fn set_process_id(&self, to: u32) {
        self.process_id.store(to, Relaxed);
    }
}

/// What a session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// A backend comes free or is opened.
    Backend,
    /// There is a primary.
    Primary,
    /// A replica has room for a vector search.
    Search,
    /// The console resumes the database.
    Resume,
}

/// A session's transaction, as an operator cares for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    /// None.
    Idle,
    /// BEGIN was answered, nothing is sent yet.
    Begun,
    /// Open on a backend.
    Open,
    /// Failed, and not yet ended by the client.
    Failed,
    /// Lost with its backend, and not yet ended by the client.
    Lost,
}

/// One session's cells; in the order of use, as [`Session`].
#[repr(C)]
pub(super) struct Shown {
    pub(super) transaction: Cell<Transaction>,
    pub(super) pins: Cell<Pins>,
    /// When the last batch came.
    pub(super) asked: Cell<Instant>,
    /// The clocks of the batch and of the transaction, set forward by what was waited.
    query: Cell<Instant>,
    begun: Cell<Instant>,
    /// Prepared statements that it holds.
    pub(super) statements: Cell<usize>,
    pub(super) settings: RefCell<Arc<Settings>>,
    pub(super) waits: Cell<Option<(Wait, Instant)>>,
    /// When the wait began, by the clock of coarse grain.
    wait_began: Cell<Instant>,
    pub(super) pinned: Cell<Option<Instant>>,
    pub(super) card: Arc<Card>,
}

impl Shown {
    pub(super) fn new(card: Arc<Card>, now: Instant) -> Self {
        Self {
            card,
            transaction: Cell::new(Transaction::Idle),
            pins: Cell::default(),
            pinned: Cell::new(None),
            asked: Cell::new(now),
            waits: Cell::new(None),
            statements: Cell::new(0),
            settings: RefCell::default(),
            query: Cell::new(now),
            begun: Cell::new(now),
            wait_began: Cell::new(now),
        }
    }
}

impl Session {
    /// A batch begins.
    #[inline]
    pub(super) fn batch_begins(&self) {
        self.handle.next_batch();
        let (shown, now) = (&self.handle.shown, self.worker.swept());
        shown.asked.set(now);
        shown.query.set(now);
        if shown.transaction.get() == Transaction::Idle {
            shown.begun.set(now);
        }
    }

    /// A batch of so many statements has been answered.
    #[inline]
    pub(super) fn batch_ends(&self, runs: u32) {
        self.handle.next_batch();
        let (shown, now) = (&self.handle.shown, self.worker.swept());
        let transaction = match (&self.tx, &self.lease) {
            (Tx::Idle, _) => Transaction::Idle,
            (Tx::Deferred { .. }, _) => Transaction::Begun,
            (Tx::Open { .. }, Some(lease)) if lease.status == TxStatus::Failed => Transaction::Failed,
            (Tx::Open { .. }, _) => Transaction::Open,
            (Tx::Lost { .. }, _) => Transaction::Lost,
        };
        shown.transaction.set(transaction);
        if runs > 0 {
            self.pools.tally.queries(runs, now.saturating_duration_since(shown.query.get()));
            if transaction == Transaction::Idle {
                self.pools.tally.transaction(now.saturating_duration_since(shown.begun.get()));
            }
        }
        shown.statements.set(self.names.len());
        self.show_state(now);
    }

    /// Shows pins and settings, where they are others than before.
    fn show_state(&self, now: Instant) {
        let shown = &self.handle.shown;
        if shown.pins.replace(self.pins) != self.pins {
            let since = shown.pinned.get().unwrap_or(now);
            shown.pinned.set(self.pins.any().then_some(since));
        }
        let mut settings = shown.settings.borrow_mut();
        if !Arc::ptr_eq(&settings, &self.settings) {
            *settings = Arc::clone(&self.settings);
        }
    }

    /// What a session that has just come shows.
    pub(super) fn show_arrival(&self, process_id: Option<u32>) {
        if let Some(process_id) = process_id {
            self.handle.shown.card.set_process_id(process_id);
        }
        self.handle.shown.statements.set(self.names.len());
        self.show_state(self.worker.swept());
    }

    /// A wait begins, which is counted by what is waited for.
    pub(super) fn wait_begins(&self, wait: Wait, now: Instant) {
        self.handle.shown.waits.set(Some((wait, now)));
        self.handle.shown.wait_began.set(self.worker.swept());
        match wait {
            Wait::Backend => self.worker.metrics.pool_wait_began(),
            Wait::Primary => self.worker.metrics.failover_wait_began(),
            Wait::Search | Wait::Resume => {}
        }
    }

    /// It is over.
    pub(super) fn wait_ends(&self) {
        let shown = &self.handle.shown;
        let Some((wait, began)) = shown.waits.take() else { return };
        let took = began.elapsed();
        match wait {
            Wait::Backend => self.worker.metrics.pool_wait_ended(took),
            Wait::Primary => self.worker.metrics.failover_wait_ended(took),
            Wait::Search | Wait::Resume => {}
        }
        self.pools.tally.waited(took);
        let coarse = self.worker.swept().saturating_duration_since(shown.wait_began.get());
        for clock in [&shown.query, &shown.begun] {
            clock.set(clock.get() + coarse);
        }
    }
}
