//! What the sessions of one worker thread share: pools, classes, statements, buffers, the topology as last seen. Reached without
//! a lock; other threads reach a worker only through its mailbox.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use tokio::sync::{mpsc, watch};

use super::balance::Meter;
use super::catalog::Catalog;
use super::handle::Handle;
use super::moving::Moving;
use super::reuse::Recurring;
use super::shared::{Identity, PoolRow, Shared};
use super::spare::Spare;
use super::statements::{Classed, Registry};
use super::survey::Look;
use super::{open, plan};
use crate::backend::Backend;
use crate::metrics::{self, BackendState, Slot, Tally};
use crate::net::reactor::{self, Ticks};
use crate::pool::{AcquireError, Limits, Permit, Pool, Refusal};
use crate::routing::Turn;
use crate::sql::{self, ClassCache, Lexing, Verdict};
use crate::topology::{Member, Topology};

/// Bytes of the buffer that all sessions of a worker read into.
pub(super) const SCRATCH_LEN: usize = 64 << 10;

/// How often a worker looks at its pools and at itself; and how often while nothing comes that it could serve.
const SWEEP: Duration = Duration::from_millis(100);
const SWEEP_AT_REST: Duration = Duration::from_secs(1);

/// The longest text whose class is kept, in bytes: searches carry their vector and never come again.
pub(super) const LONGEST_CACHED: usize = 4096;

/// Backends that one pool opens at once: a new primary is not stormed by those who waited for it.
const OPENING_AT_ONCE: usize = 4;

/// A message from another thread.
#[derive(Debug)]
pub enum Mail {
    /// Another worker has sessions that wait for a backend of this identity and member; it gets an idle one if there is one.
    Wanted {
        /// Which worker asks.
        by: usize,
        /// Whose backends.
        identity: Arc<Identity>,
        /// The member's number.
        member: u16,
    },
    /// A backend that another worker gave.
    Backend(Box<Backend>, Arc<Identity>),
    /// A client asks to cancel the batch of this number that this session runs.
    Cancel(u32, u64),
    /// A session that comes to this worker.
    Session(Box<Moving>),
    /// Send the session of this number to another worker, when nothing ties it to this one.
    Move(u32, usize),
    /// End the session of this number, for an operator.
    Kill(u32),
    /// Close idle backends of this database, to which no client is connected.
    Free(Box<str>),
    /// Open backends anew: logins have other settings from here on.
    Reopen,
    /// End the sessions of this database, or of all, for an operator; no console's.
    KillDatabase(Option<Arc<str>>),
    /// An operator asks how it stands.
    Look(Look),
    /// Finish: sessions end when they are idle, at once if `now`.
    Drain {
        /// Cut transactions too.
        now: bool,
    },
}

/// One identity's pools on one worker, by member number.
#[derive(Debug)]
pub(super) struct Pools {
    pub(super) identity: Arc<Identity>,
    by_member: RefCell<Vec<Option<Rc<Pool>>>>,
    /// What its sessions do here.
    pub(super) tally: Tally,
}

/// The context of one worker thread.
pub struct Worker {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) scratch: RefCell<Box<[u8]>>,
    /// The worker's own copy: a count that all threads share would go from core to core with each statement.
    topology: RefCell<Rc<Topology>>,
    feed: RefCell<watch::Receiver<Arc<Topology>>>,
    pub(super) classes: RefCell<ClassCache>,
    pub(super) statements: RefCell<Registry>,
    pub(super) recurring: RefCell<Recurring>,
    pub(super) sessions: RefCell<HashMap<u32, Rc<Handle>, RandomState>>,
    pub(super) reads: Turn,
    pub(super) searches: Turn,
    pub(super) parses: Cell<u64>,
    pub(super) draining: Cell<bool>,
    /// The time of the last sweep: near enough for what counts in minutes.
    swept: Cell<Instant>,
    pub(super) metrics: metrics::Worker,
    opaque: Rc<Verdict>,
    pub(super) spare: Spare,
    identities: RefCell<HashMap<u64, Rc<Pools>, RandomState>>,
    limits: Rc<Limits>,
    pub(super) meter: Meter,
}

impl Worker {
    /// Worker number `index` of those that share `shared`.
    pub fn new(index: usize, shared: Arc<Shared>, metrics: metrics::Worker) -> Rc<Self> {
        let pool = &shared.config.pool;
        let limits = Rc::new(Limits {
            wait: pool.wait,
            max_waiting: pool.max_waiting,
            idle_timeout: pool.idle_timeout,
            lifetime: pool.lifetime,
        });
        let mut feed = shared.topology.clone();
        let topology = Rc::new(Topology::clone(&feed.borrow_and_update()));
        Rc::new(Self {
            index,
            scratch: RefCell::new(vec![0; SCRATCH_LEN].into()),
            topology: RefCell::new(topology),
            feed: RefCell::new(feed),
            classes: RefCell::new(ClassCache::new(shared.config.routing.class_cache, LONGEST_CACHED)),
            statements: RefCell::new(Registry::new(index, shared.config.routing.class_cache)),
            recurring: RefCell::new(Recurring::new(shared.config.routing.class_cache)),
            sessions: RefCell::default(),
            reads: Turn::default(),
            searches: Turn::default(),
            parses: Cell::new(1),
            draining: Cell::new(false),
            swept: Cell::new(Instant::now()),
            metrics,
            opaque: Rc::new(plan::opaque_verdict()),
            spare: Spare::default(),
            identities: RefCell::default(),
            limits,
            meter: Meter::new(),
            shared,
        })
    }

    /// Runs the worker's own tasks until it is drained: the topology followed, mail taken, pools swept.
    ///
    /// # Errors
    /// The sweeps' clock fails.
    pub async fn run(self: Rc<Self>, mut mail: mpsc::Receiver<Mail>) -> std::io::Result<()> {
        let mut topology = self.shared.topology.clone();
        let sweeps = Ticks::new(SWEEP, SWEEP_AT_REST)?;
        self.sweep();
        loop {
            tokio::select! {
                biased;
                changed = topology.changed() => {
                    if changed.is_err() { return Ok(()) }
                    self.refresh();
                }
                message = mail.recv() => match message {
                    Some(message) => self.take_mail(message),
                    None => return Ok(()),
                },
                tick = sweeps.tick() => {
                    tick?;
                    self.sweep();
                    if self.draining.get() && self.sessions.borrow().is_empty() {
                        return Ok(());
                    }
                    sweeps.go_on(self.may_rest())?;
                }
            }
        }
    }

    /// The topology, taken anew if the control path has published another since.
    #[inline]
    pub(super) fn topology(&self) -> Rc<Topology> {
        if self.is_outdated() {
            self.refresh();
        }
        Rc::clone(&self.topology.borrow())
    }

    /// Whether the control path has published another topology since: one atomic load.
    #[inline]
    pub(super) fn is_outdated(&self) -> bool {
        self.feed.borrow().has_changed().unwrap_or(false)
    }

    /// What `text` is in this database, from the cache where it is there.
    pub(super) fn classify(&self, catalog: &Catalog, text: &[u8], lexing: Lexing) -> Classed {
        // Before the functions are looked at: a verdict may know more than its state says, and no less.
        let state = catalog.state();
        let anew = || {
            let verdict = sql::classify(text, &lexing, &catalog.functions());
            catalog.recall(text, lexing, &verdict);
            verdict
        };
        Classed { state, verdict: self.classes.borrow_mut().classify_with(text, &lexing, state, anew) }
    }

    /// The time of the last sweep, not over a tenth of a second ago while the worker keeps up: at rest the first thing that comes is one.
    #[inline]
    pub(super) fn swept(&self) -> Instant {
        self.swept.get()
    }

    /// A number for a Parse of the unnamed statement, on this worker never given before.
    pub(super) fn next_parse(&self) -> u64 {
        let n = self.parses.get();
        self.parses.set(n + 1);
        (self.index as u64) << 48 | n
    }

    /// What stands for a statement that can't be seen.
    pub(super) fn call_verdict(&self) -> Rc<Verdict> {
        Rc::clone(&self.opaque)
    }

    /// The pools of an identity on this worker.
    pub(super) fn pools(&self, identity: &Arc<Identity>) -> Rc<Pools> {
        let mut identities = self.identities.borrow_mut();
        let pools = identities.entry(identity.id).or_insert_with(|| {
            let tally = self.shared.tally(self.index, identity);
            Rc::new(Pools { identity: Arc::clone(identity), by_member: RefCell::default(), tally })
        });
        Rc::clone(pools)
    }

    /// The pool of one member.
    pub(super) fn pool(&self, pools: &Pools, topology: &Topology, member: &Member) -> Rc<Pool> {
        let generation = topology.lease_generation(member);
        let number = usize::from(member.id.0);
        let mut by_member = pools.by_member.borrow_mut();
        if by_member.len() <= number {
            by_member.resize_with(number + 1, || None);
        }
        let pool = by_member[number].get_or_insert_with(|| {
            let budget = self.shared.budget(&pools.identity, member.id.0);
            Rc::new(Pool::new(self.index, member.id.0, generation, budget, Rc::clone(&self.limits)))
        });
        if pool.generation() != generation {
            pool.renew(generation);
        }
        Rc::clone(pool)
    }

    /// Opens backends for those who wait in `pool`, as far as the budget goes; asks the other workers for idle ones when it
    /// doesn't and `ask` says so. Who has asked need not ask again while its queue lasts: from then on the others see in
    /// the budget that somebody waits, and send what they don't need.
    pub(super) fn open_more(self: &Rc<Self>, pools: &Rc<Pools>, pool: &Rc<Pool>, ask: bool) {
        while pool.wants_more() && pool.opening() < OPENING_AT_ONCE {
            match pool.begin_open() {
                Ok(permit) => self.open_one(pools, pool, permit),
                Err(refusal) => {
                    if refusal == Refusal::Member {
                        self.close_an_idle(pool.member());
                    }
                    if ask {
                        self.ask_others(&pools.identity, pool.member());
                    }
                    return;
                }
            }
        }
    }

    /// Opens a backend to the member that is to be primary next, for one who waits for it: up to as many as are opened at once anyway.
    /// They are there when it has proved itself.
    pub(super) fn warm(self: &Rc<Self>, pools: &Rc<Pools>, topology: &Topology, candidate: &Member) {
        let pool = self.pool(pools, topology, candidate);
        let (idle, _, opening, _) = pool.counts();
        if idle + opening < OPENING_AT_ONCE
            && let Ok(permit) = pool.begin_open()
        {
            self.open_one(pools, &pool, permit);
        }
    }

    /// Takes back a backend whose state is clean; where others need it more, it goes to them.
    pub(super) fn release(self: &Rc<Self>, pools: &Rc<Pools>, pool: &Rc<Pool>, mut backend: Box<Backend>) {
        if self.shared.pauses.holds(&pools.identity.database) {
            // PAUSE is over when no backend is left.
            pool.closed();
            return;
        }
        let (_, _, _, waiting) = pool.counts();
        if waiting == 0
            && let Some(to) = pool.budget().waits_elsewhere(self.index)
        {
            // Somebody on another worker waits: it may have asked before this one came free.
            pool.closed();
            self.send_backend(to, backend, &pools.identity);
            return;
        }
        backend.idle_since = self.swept.get();
        pool.put_back(backend);
    }

    fn open_one(self: &Rc<Self>, pools: &Rc<Pools>, pool: &Rc<Pool>, permit: Permit) {
        let (worker, pools, pool) = (Rc::clone(self), Rc::clone(pools), Rc::clone(pool));
        reactor::spawn(async move {
            let outcome = open::open(&worker, &pools.identity, pool.member(), permit).await;
            worker.opened(&pools, &pool, outcome);
        });
    }

    fn opened(
        self: &Rc<Self>,
        pools: &Rc<Pools>,
        pool: &Rc<Pool>,
        outcome: Result<Box<Backend>, AcquireError>,
    ) {
        pool.opened(outcome);
        self.open_more(pools, pool, true);
    }

    fn refresh(&self) {
        let topology = Rc::new(Topology::clone(&self.feed.borrow_mut().borrow_and_update()));
        for member in topology.members.iter() {
            for pools in self.identities.borrow().values() {
                if let Some(Some(pool)) = pools.by_member.borrow().get(usize::from(member.id.0)) {
                    pool.renew(topology.lease_generation(member));
                }
            }
        }
        *self.topology.borrow_mut() = Rc::clone(&topology);
        for handle in self.sessions.borrow().values() {
            handle.topology_changed(&topology);
        }
    }

    fn take_mail(self: &Rc<Self>, mail: Mail) {
        match mail {
            Mail::Wanted { by, identity, member } => {
                let pools = self.identities.borrow().get(&identity.id).map(Rc::clone);
                let pool = pools.and_then(|pools| pools.by_member.borrow().get(usize::from(member))?.clone());
                if let Some(backend) = pool.and_then(|pool| pool.give_away()) {
                    self.send_backend(by, backend, &identity);
                }
            }
            Mail::Backend(backend, identity) => self.adopt(backend, &identity),
            Mail::Cancel(session, batch) => self.with_session(session, |handle| handle.cancel_batch(batch)),
            Mail::Session(moving) => {
                reactor::spawn(moving.arrive(Rc::clone(self)));
            }
            Mail::Move(session, to) => self.with_session(session, |handle| handle.go(to)),
            Mail::Kill(session) => self.with_session(session, Handle::kill),
            Mail::Free(database) => self.free(&database),
            Mail::Reopen => self.reopen(),
            Mail::KillDatabase(database) => self.kill_database(database.as_deref()),
            Mail::Look(look) => self.look(look),
            Mail::Drain { now } => {
                self.draining.set(true);
                for handle in self.sessions.borrow().values() {
                    handle.drain(now);
                }
            }
        }
    }

    /// Gives a backend to another worker; one whose socket can't be let go is closed.
    fn send_backend(&self, to: usize, mut backend: Box<Backend>, identity: &Arc<Identity>) {
        if backend.stream.let_go().is_ok() {
            self.shared.post(to, Mail::Backend(backend, Arc::clone(identity)));
        }
    }

    fn with_session(&self, session: u32, act: impl Fn(&Handle)) {
        if let Some(handle) = self.sessions.borrow().get(&session) {
            act(handle);
        }
    }

    fn adopt(self: &Rc<Self>, mut backend: Box<Backend>, identity: &Arc<Identity>) {
        let topology = self.topology();
        let member = topology.members.iter().find(|member| member.id.0 == backend.member);
        // One of a member that is gone, or whose socket can't be taken over, is closed.
        let (Some(member), Ok(())) = (member, backend.stream.arrive()) else { return };
        let pools = self.pools(identity);
        let pool = self.pool(&pools, &topology, member);
        pool.adopt(backend);
        // Where that came from may be more.
        self.open_more(&pools, &pool, true);
    }

    /// Looks at each of its pools.
    pub(super) fn each_pool(&self, mut look: impl FnMut(&Pools, &Pool)) {
        for pools in self.identities.borrow().values() {
            pools.by_member.borrow().iter().flatten().for_each(|pool| look(pools, pool));
        }
    }

    fn ask_others(&self, identity: &Arc<Identity>, member: u16) {
        for to in (0..self.shared.workers()).filter(|to| *to != self.index) {
            self.shared.post(to, Mail::Wanted { by: self.index, identity: Arc::clone(identity), member });
        }
    }

    /// Frees a place in a member's budget that an idle backend of another user or database holds.
    fn close_an_idle(&self, member: u16) {
        for pools in self.identities.borrow().values() {
            if let Some(Some(pool)) = pools.by_member.borrow().get(usize::from(member))
                && pool.give_away().is_some()
            {
                return;
            }
        }
    }

    fn sweep(self: &Rc<Self>) {
        let now = Instant::now();
        self.swept.set(now);
        let all: Vec<_> = self.identities.borrow().values().map(Rc::clone).collect();
        for pools in all {
            let by_member: Vec<_> = pools.by_member.borrow().iter().flatten().map(Rc::clone).collect();
            for pool in by_member {
                pool.sweep(now);
                if self.shared.pauses.holds(&pools.identity.database) {
                    pool.close_idle();
                }
                self.open_more(&pools, &pool, true);
            }
        }
        self.show_pools();
        self.balance(now);
    }

    /// Whether what sweeps are for can wait until something comes: nobody waits here, and the worker is known to have nothing to do.
    fn may_rest(&self) -> bool {
        let mut waits = false;
        self.each_pool(|_, pool| {
            let (_, _, opening, waiting) = pool.counts();
            waits |= opening + waiting > 0;
        });
        !waits && self.is_calm() && !self.draining.get() && !self.shared.pauses.any()
    }

    /// Publishes the pools' counts, for `/pools` and the gauges.
    fn show_pools(&self) {
        let mut rows = Vec::new();
        self.each_pool(|pools, pool| {
            let (idle, busy, opening, waiting) = pool.counts();
            let identity = Arc::clone(&pools.identity);
            let (worker, member) = (self.index, pool.member());
            rows.push(PoolRow { worker, member, identity, idle, busy, opening, waiting });
        });
        let members: std::collections::BTreeSet<u16> = rows.iter().map(|row| row.member).collect();
        for member in members {
            let sum = |count: fn(&PoolRow) -> usize| {
                rows.iter().filter(|row| row.member == member).map(count).sum::<usize>()
            };
            let slot = Slot::member(member);
            self.metrics.set_backends(slot, BackendState::Idle, sum(|row| row.idle));
            self.metrics.set_backends(slot, BackendState::Busy, sum(|row| row.busy));
            self.metrics.set_backends(slot, BackendState::Connecting, sum(|row| row.opening));
        }
        self.shared.show_pools(self.index, rows);
    }

    /// What all workers share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("index", &self.index).finish_non_exhaustive()
    }
}
