//! The data path: one task a client, on one worker thread.
//!
//! A session reads a batch (`batch`), asks routing for a target, takes a backend (`acquire`), sends the batch as that
//! backend needs it (`translate`) and passes the answer on (`relay`, `answer`). What completes changes the session's own
//! state (`state`); what breaks is answered by the rules of `loss`. It knows the topology as a snapshot and never where that
//! comes from.

mod acquire;
mod answer;
mod balance;
mod batch;
mod catalog;
mod copying;
mod described;
mod events;
mod explain;
mod greeting;
mod guest;
mod handle;
mod holding;
mod home;
mod leaving;
mod listening;
mod load;
mod local;
mod logins;
mod loss;
mod moving;
mod open;
mod pausing;
mod pins;
mod plan;
mod relay;
mod replication;
mod reuse;
mod run;
mod search;
mod sequences;
mod shared;
mod showing;
mod shown;
mod spare;
mod state;
mod statements;
mod survey;
mod target;
mod told;
mod translate;
mod wishes;
mod worker;

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

pub use catalog::{Catalog, Catalogs, Read, Reading, Shown};
pub use greeting::serve;
pub use guest::Guest;
pub use moving::Moving;
pub use pausing::Pauses;
pub use shared::{Identity, Parts, PoolRow, Shared};
pub use shown::{Card, Transaction, Wait};
pub use survey::{BackendRow, ClientRow, Look, UnderWay};
pub use told::Told;
pub use worker::{Mail, Worker};

use self::answer::Answer;
use self::batch::{End, Item, Summary};
use self::handle::{Handle, Order};
use self::pins::Pins;
use self::run::{Outcome, Run};
use self::state::Tx;
use self::statements::{Classed, Names};
use self::told::Counters;
use self::translate::Unnamed;
use self::worker::Pools;
use crate::backend::{Backend, Parameters, Settings};
use crate::client::{CancelEntry, RoleGuard};
use crate::metrics::{Reroute, Slot};
use crate::net::Stream;
use crate::net::reactor::{self, Part};
use crate::pool::{Pool, Waiter};
use crate::routing::{Fence, Seen};
use crate::sql::{Class, Effects, Lexing, Verdict};
use crate::topology::MemberId;
use crate::wire::build::{self, Severity};
use crate::wire::{SqlState, TxStatus};

/// Bytes that a client may send ahead of the statement under way before it is no longer read.
const LOOK_AHEAD: usize = 64 << 10;

/// No batch: the session has something of its own to do first.
const NOTHING: (End, usize) = (End::Flush, 0);

/// A backend while the session holds it.
struct Lease {
    backend: Box<Backend>,
    pool: Rc<Pool>,
    status: TxStatus,
    primary: bool,
    /// A cancel was sent to it.
    cancelled: bool,
    /// Whether one is on its way to it right now; none before the first.
    cancelling: Option<Rc<Cell<bool>>>,
    /// Its place among the member's statements, where those are counted.
    _busy: Option<load::Busy>,
    /// What `currval()` and `lastval()` tell on it is this session's own.
    own_sequences: bool,
}

/// Why a session ends.
#[derive(Debug)]
enum Ended {
    /// The client said so, or is gone.
    Client,
    /// The client was told with a FATAL that is in the buffer.
    Fatal,
    /// It goes on with the worker of this number.
    Moves(usize),
}

/// One logged-in client.
///
/// In the order of use: what each statement touches comes first, and together, for between two statements it goes cold.
#[repr(C)]
pub(crate) struct Session {
    worker: Rc<Worker>,
    handle: Rc<Handle>,
    pools: Rc<Pools>,
    client: Stream,
    /// What the client sent and no batch holds yet.
    inbox: Vec<u8>,
    scanned: usize,
    /// What the client is to get, from `client_at` on.
    to_client: Vec<u8>,
    client_at: usize,
    /// Bytes of a CopyData that nobody wants any more.
    stray: usize,
    /// What was written may not have left TLS yet.
    client_unflushed: bool,
    backend_unflushed: bool,
    /// Messages were sent that no Sync has ended.
    open_batch: bool,
    /// Everything up to the next Sync is dropped: an error was given.
    skipping: bool,
    /// Its channels have to be listened on again.
    relisten: bool,
    /// `in_hot_standby` as the client was told it: the service's, not a member's.
    shows_standby: bool,
    /// DDL was run whose transaction is not over.
    changed_catalog: bool,
    /// What logins set was changed, in a transaction that is not over.
    changed_defaults: bool,
    /// A replica refused it, for its role's or database's `default_transaction_isolation` is serializable.
    serializable: bool,
    sequences: sequences::Sequences,
    lexing: Lexing,
    pins: Pins,
    lease: Option<Lease>,
    tx: Tx,
    /// With session pooling, the session's own backend while another serves it.
    home: Option<Box<home::Home>>,
    waiter: Rc<Waiter>,
    settings: Arc<Settings>,
    /// What the session wishes of routing, by `SET pgha.…`.
    wishes: (Arc<Settings>, wishes::Wishes),
    fence: Fence,
    /// Why the statement at hand goes to the primary.
    because: Option<&'static str>,
    /// What the backend is to get, from `backend_at` on.
    to_backend: Vec<u8>,
    backend_at: usize,
    answer: Answer,
    unnamed_known: Option<Classed>,
    unnamed: Unnamed,
    portals: VecDeque<(Box<[u8]>, Rc<Verdict>)>,
    /// Where the statement before went, and why.
    last: Option<wishes::Last>,
    /// What was read last, and where.
    seen: Option<Seen>,
    names: Names,
    base: Arc<Settings>,
    reported: Arc<Parameters>,
    /// What it was told at its login: the values of `base` as the server writes them.
    greeted: Arc<Parameters>,
    /// The session's settings, and those with `vector.settings` put to them.
    search_settings: Option<(Arc<Settings>, Arc<Settings>)>,
    /// Channels that the session listens on.
    channels: Vec<Box<[u8]>>,
    /// The session's cancel key, from its greeting on.
    cancel: Option<CancelEntry>,
    /// Its place among its role's sessions.
    role: RoleGuard,
    /// Its presence in its database.
    _present: logins::Present,
}

impl Session {
    /// Serves the client to its end, or until it is to go on with another worker.
    async fn run(mut self: Box<Self>) -> Option<(usize, Box<Self>)> {
        reactor::touches(Part::Session, &*self);
        reactor::touches(Part::Handle, &*self.handle);
        loop {
            let step = if self.relisten {
                Box::pin(self.listen_again()).await
            } else {
                match self.next_batch().await {
                    Ok((End::Terminate, _)) => Err(Ended::Client),
                    Ok(NOTHING) => Ok(()),
                    Ok((end, len)) => {
                        // Who waits for its client has no room for a batch.
                        let mut room = self.worker.room();
                        reactor::touches(Part::Room, &*room);
                        room.as_mut().enter(self, end, len);
                        let (session, outcome) = poll_fn(|cx| room.as_mut().poll_served(cx)).await;
                        session.worker.give_room(room);
                        self = session;
                        outcome
                    }
                    Err(ended) => Err(ended),
                }
            };
            match step {
                Ok(()) => {}
                Err(Ended::Moves(to)) => return Some((to, self)),
                Err(ended) => {
                    self.finish(&ended).await;
                    return None;
                }
            }
        }
    }

    /// Waits for the client's next batch; passes on what a held backend says by itself meanwhile.
    async fn next_batch(&mut self) -> Result<(End, usize), Ended> {
        poll_fn(|cx| self.poll_next_batch(cx)).await
    }

    fn poll_next_batch(&mut self, cx: &mut Context<'_>) -> Poll<Result<(End, usize), Ended>> {
        loop {
            // What came is answered before anything new is begun, and a client that doesn't read isn't read.
            if self.poll_flush_client(cx)?.is_pending() {
                self.handle.watch(cx);
                return if self.handle.order() == Order::Kill {
                    Poll::Ready(Err(Ended::Client))
                } else {
                    Poll::Pending
                };
            }
            if let Some(cut) = self.cut()? {
                return Poll::Ready(Ok(cut));
            }
            if self.handle.order() != Order::None
                && (self.handle.order() == Order::Kill || !self.in_transaction())
            {
                return Poll::Ready(Err(self.ended_by_administrator()));
            }
            if let Some(to) = self.moves() {
                return Poll::Ready(Err(Ended::Moves(to)));
            }
            if self.show_service() {
                continue;
            }
            // A cancel that came too late is dropped, as PostgreSQL does.
            let _late = self.handle.take_cancel();
            self.handle.watch(cx);
            if self.lease.is_some() && self.poll_idle_backend(cx)?.is_ready() {
                if self.relisten {
                    return Poll::Ready(Ok(NOTHING));
                }
                continue;
            }
            match self.poll_read_client(cx) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Err(Ended::Client)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Reads what the client sent into the inbox; false when it is gone.
    fn poll_read_client(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut scratch = self.worker.scratch.borrow_mut();
        match self.client.poll_read(cx, &mut scratch) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(false),
            Poll::Ready(Ok(n)) => {
                if self.inbox.capacity() == 0 {
                    self.inbox = self.worker.buffer();
                }
                // The rest of a CopyData that came after its COPY had failed.
                let stray = self.stray.min(n);
                self.stray -= stray;
                self.inbox.extend_from_slice(&scratch[stray..n]);
                self.pools.tally.received(n);
                Poll::Ready(true)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Where the next batch ends in the inbox.
    fn cut(&mut self) -> Result<Option<(End, usize)>, Ended> {
        if self.inbox.is_empty() {
            return Ok(None);
        }
        let config = &self.worker.shared.config;
        match batch::cut(&self.inbox, &mut self.scanned, config.limits.message, config.routing.retry_buffer) {
            Ok(None)
                if let Some(tag) = self.inbox.get(self.scanned).filter(|tag| !batch::is_known(**tag)) =>
            {
                self.fatal(SqlState::PROTOCOL_VIOLATION, &format!("invalid frontend message type {tag}"));
                Err(Ended::Fatal)
            }
            Ok(cut) => Ok(cut.map(|(len, end)| (end, len))),
            Err(error) => {
                self.fatal(SqlState::PROTOCOL_VIOLATION, &error.to_string());
                Err(Ended::Fatal)
            }
        }
    }

    /// Serves one batch, the first `len` bytes of the inbox.
    async fn serve(&mut self, end: End, len: usize) -> Result<(), Ended> {
        let rest = if self.inbox.len() > len { self.inbox.split_off(len) } else { Vec::new() };
        let mut bytes = std::mem::replace(&mut self.inbox, rest);
        if matches!(self.tx, Tx::Lost { .. })
            && let Some(rest) = self.rolled_back_in_front(&bytes)
        {
            bytes = rest;
        }
        let mut items = self.worker.items();
        self.batch_begins();
        let (outcome, runs) = match self.plan(&bytes, &mut items) {
            Ok(summary) => (self.serve_planned(&bytes, &items, end, &summary).await, summary.runs),
            Err(ended) => (Err(ended), 0),
        };
        self.batch_ends(runs);
        if self.unnamed.recall(&bytes, &items) {
            self.classify_unnamed();
        }
        self.worker.give_items(items);
        self.worker.give_buffer(bytes);
        outcome
    }

    async fn serve_planned(
        &mut self,
        bytes: &[u8],
        items: &[Item],
        end: End,
        summary: &Summary,
    ) -> Result<(), Ended> {
        if self.answer_locally(bytes, items, end, summary) {
            self.settle_names(None);
            return Ok(());
        }
        if self.chains_failed(bytes, items, summary) {
            return self.leave_failed(bytes, items, end).await;
        }
        let mut attempt = acquire::Attempt::new(summary);
        if end == End::Flush {
            attempt.goes_on();
        }
        if let Some(only) = &summary.only {
            self.free_database(only);
        }
        loop {
            if self.relisten {
                self.listen_again().await?;
            }
            if let Err(failure) = self.acquire(&mut attempt, bytes.len()).await? {
                self.fail_batch(end, &failure);
                return Ok(());
            }
            let mut run = Run::new(self, summary, &attempt);
            self.answer.begin();
            let search = summary.class == Class::VectorRead;
            let began = search.then(Instant::now);
            match self.send_and_relay(bytes, items, search, &mut run).await {
                Outcome::Settled => match run.rerun.take() {
                    Some(why) => {
                        match why {
                            run::Rerun::Writes => self.learn_refusal(bytes, items, &run),
                            run::Rerun::Behind => self.doubt_parses(&run),
                            run::Rerun::Parses => self.doubt_reused(items),
                            _ => {}
                        }
                        self.before_rerun(why, &mut attempt).await?;
                    }
                    None => {
                        if let (Some(began), Some(lease)) = (began, &self.lease) {
                            let slot = Slot::member(lease.backend.member);
                            self.worker.metrics.search(slot, began.elapsed());
                        }
                        self.note_described(bytes, items, &run);
                        self.settle(&run, end, summary);
                        return Ok(());
                    }
                },
                Outcome::ClientGone => return Err(Ended::Client),
                Outcome::Killed => return Err(self.ended_by_administrator()),
                Outcome::Lost(loss) => {
                    if loss.is_the_members() {
                        self.suspect();
                    }
                    self.changed_catalog |= summary.effects.contains(Effects::DDL);
                    self.tell_catalog();
                    if self.on_loss(&loss, &run, end, summary)? == loss::Next::Answered {
                        return Ok(());
                    }
                    Counters::add(&self.worker.shared.told.rerun);
                    self.worker.metrics.reroute(Reroute::Lost);
                    attempt.lost();
                }
            }
        }
    }

    /// Tells the control path that the member of the backend at hand may be in trouble.
    fn suspect(&self) {
        if let Some(lease) = &self.lease {
            (self.worker.shared.suspect)(MemberId(lease.backend.member));
        }
    }

    fn in_transaction(&self) -> bool {
        !matches!(self.tx, Tx::Idle) || self.open_batch
    }

    /// Appends an ERROR.
    fn error(&mut self, state: SqlState, message: &str, detail: Option<&str>, hint: Option<&str>) {
        build::error(&mut self.to_client, Severity::Error, state, message, detail, hint);
        self.worker.metrics.error(state.0);
    }

    /// The proxy stops, or somebody ended the session: PostgreSQL's own words.
    fn ended_by_administrator(&mut self) -> Ended {
        self.fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command");
        Ended::Fatal
    }

    /// Appends a FATAL: the session ends behind it.
    fn fatal(&mut self, state: SqlState, message: &str) {
        build::error(&mut self.to_client, Severity::Fatal, state, message, None, None);
        self.worker.metrics.error(state.0);
    }

    /// Says goodbye and gives the backend up.
    async fn finish(&mut self, ended: &Ended) {
        if let Some(lease) = self.lease.take_if(|_| self.home.is_some()) {
            // A read on a replica was cut short.
            lease.pool.closed();
        }
        self.comes_home();
        if let Some(lease) = self.lease.take() {
            self.handle.hold(None);
            if matches!(ended, Ended::Client)
                && self.answer.is_settled()
                // Without its Sync a batch is a transaction that is open, whatever the status was before.
                && !self.open_batch
                && lease.status == TxStatus::Idle
                && !self.pins.any()
            {
                self.worker.release(&self.pools, &lease.pool, lease.backend);
            } else {
                // Closing it rolls back what is open and frees what the session pinned.
                lease.pool.closed();
                drop(lease);
            }
        }
        if matches!(ended, Ended::Fatal) {
            let flush = poll_fn(|cx| self.poll_told(cx));
            let timeout = std::time::Duration::from_secs(1);
            let _unread = tokio::time::timeout(timeout, flush).await;
        }
        self.client.shutdown().await;
    }
}
