//! What the workers share: read-mostly, and never locked for the length of a statement.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use dashmap::DashMap;
use smallvec::SmallVec;
use tokio::sync::{Notify, mpsc, watch};

use super::catalog::{Catalog, Catalogs};
use super::load::Loads;
use super::moving::Moving;
use super::pausing::Pauses;
use super::told::{Counters, Told};
use super::worker::Mail;
use crate::backend::{Parameters, Settings};
use crate::client::Busyness;
use crate::config::{Config, Consistency, PoolMode};
use crate::metrics::{Tally, TallyReader};
use crate::net::tls::ClientTls;
use crate::pool::{Budget, MemberBudget};
use crate::scram::Credentials;
use crate::sql::Lexing;
use crate::topology::{Epoch, MemberId, Positions, Topology};

/// How long what a login found out (ParameterStatus) serves the next login with the same startup packet.
const GREETING_TTL: Duration = Duration::from_secs(60);

/// Greetings kept at most.
const GREETINGS: usize = 4096;

/// A user in a database: whose backends are interchangeable.
pub struct Identity {
    /// Its number, never given twice.
    pub id: u64,
    /// The role that logs in.
    pub user: Arc<str>,
    /// The database.
    pub database: Arc<str>,
    /// What is known of it.
    pub catalog: Arc<Catalog>,
    /// What the proxy logs in with, as of the last login of a client.
    pub credentials: ArcSwap<Credentials>,
    /// For how long a session of its holds a backend.
    pub pool_mode: PoolMode,
    /// How many backends it may have on one member.
    pub pool_size: usize,
    /// What its reads must show, where a session doesn't say otherwise.
    pub consistency: Consistency,
    /// Its sessions have asked for `currval()` or `lastval()`: one that calls `nextval()` keeps its backend.
    pub reads_sequences: AtomicBool,
    /// Clients that are logged in.
    pub sessions: AtomicUsize,
    /// When the last write of its sessions was answered, as `Positions` counts time; 0: there was none.
    pub last_write: AtomicU64,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.user, self.database)
    }
}

/// Takes the number of a member whose connection ended on a session, or which refused what no primary would.
pub(super) type Suspect = Box<dyn Fn(MemberId) + Send + Sync>;

/// One pool of one worker, as of its last sweep.
#[derive(Debug, Clone)]
pub struct PoolRow {
    /// The worker's number.
    pub worker: usize,
    /// The member's number.
    pub member: u16,
    /// Whose backends.
    pub identity: Arc<Identity>,
    /// Backends that rest.
    pub idle: usize,
    /// Backends that sessions hold.
    pub busy: usize,
    /// Backends being opened.
    pub opening: usize,
    /// Sessions that wait.
    pub waiting: usize,
}

/// What comes of a startup packet.
#[derive(Debug, Clone)]
pub(super) struct Greeting {
    /// What it sets.
    pub(super) base: Arc<Settings>,
    /// The values that a login with it is told of, and the messages that say so.
    pub(super) parameters: Arc<Parameters>,
    pub(super) words: Arc<[u8]>,
    /// How the text of its statements is read.
    pub(super) lexing: Lexing,
}

/// What a greeting depends on: the identity and the startup packet's settings.
pub(super) type GreetingKey = (u64, Box<[u8]>);

/// Shared by all workers.
pub struct Shared {
    /// The configuration.
    pub config: Arc<Config>,
    /// The topology.
    pub topology: watch::Receiver<Arc<Topology>>,
    /// WAL positions for fences.
    pub positions: Arc<Positions>,
    /// What is known of the databases.
    pub catalogs: Catalogs,
    /// How backends are reached under TLS.
    pub backend_tls: ArcSwap<ClientTls>,
    /// Sessions that ended in a panic.
    pub panics: prometheus::IntCounter,
    /// Cancel keys of all sessions.
    pub cancels: Arc<crate::client::CancelKeys>,
    /// Tells the control path that a member failed a session.
    pub suspect: Suspect,
    /// Sessions that wait for a primary, and the bytes that they hold.
    pub holding: AtomicUsize,
    /// Bytes of statements that wait for a primary.
    pub holding_bytes: AtomicUsize,
    pub(super) loads: Loads,
    /// Told when a place for a search may have come free.
    pub(super) search_ended: Notify,
    /// When any session last wrote, in nanoseconds, for `strong` reads.
    pub(super) last_write: AtomicU64,
    pub(super) told: Counters,
    /// The latest epoch in which a write was answered, and when its first one was.
    first_write: ArcSwapOption<(Epoch, Instant)>,
    written_epoch: AtomicU64,
    /// The databases that the console has paused.
    pub pauses: Pauses,
    /// What each worker counts of each identity.
    pub(super) tallies: DashMap<(u64, usize), (Arc<Identity>, TallyReader)>,
    /// How busy each worker is.
    pub busyness: Vec<Arc<Busyness>>,
    pool_rows: Vec<ArcSwap<Vec<PoolRow>>>,
    mailboxes: Vec<mpsc::Sender<Mail>>,
    /// By user and database, a NUL between them, which neither has.
    identities: DashMap<Box<[u8]>, Arc<Identity>, foldhash::fast::RandomState>,
    budgets: DashMap<(u64, u16), Arc<Budget>>,
    member_budgets: DashMap<u16, Arc<MemberBudget>>,
    greetings: DashMap<GreetingKey, (Greeting, Instant), foldhash::fast::RandomState>,
    next_identity: AtomicU64,
    next_session: AtomicU32,
}

/// What [`Shared`] is made of.
pub struct Parts {
    /// See [`Shared::config`].
    pub config: Arc<Config>,
    /// See [`Shared::topology`].
    pub topology: watch::Receiver<Arc<Topology>>,
    /// See [`Shared::positions`].
    pub positions: Arc<Positions>,
    /// See [`Shared::catalogs`].
    pub catalogs: Catalogs,
    /// See [`Shared::backend_tls`].
    pub backend_tls: ClientTls,
    /// See [`Shared::panics`].
    pub panics: prometheus::IntCounter,
    /// See [`Shared::cancels`].
    pub cancels: Arc<crate::client::CancelKeys>,
    /// One a worker.
    pub busyness: Vec<Arc<Busyness>>,
    /// One a worker.
    pub mailboxes: Vec<mpsc::Sender<Mail>>,
    /// See [`Shared::suspect`].
    pub suspect: Suspect,
}

impl Shared {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            loads: Loads::new(&parts.config),
            topology: parts.topology,
            positions: parts.positions,
            catalogs: parts.catalogs,
            backend_tls: ArcSwap::from_pointee(parts.backend_tls),
            panics: parts.panics,
            cancels: parts.cancels,
            suspect: parts.suspect,
            config: parts.config,
            holding: AtomicUsize::new(0),
            holding_bytes: AtomicUsize::new(0),
            search_ended: Notify::new(),
            last_write: AtomicU64::new(0),
            told: Counters::default(),
            first_write: ArcSwapOption::empty(),
            written_epoch: AtomicU64::new(0),
            pauses: Pauses::default(),
            tallies: DashMap::new(),
            busyness: parts.busyness,
            pool_rows: parts.mailboxes.iter().map(|_| ArcSwap::default()).collect(),
            mailboxes: parts.mailboxes,
            identities: DashMap::default(),
            budgets: DashMap::new(),
            member_budgets: DashMap::new(),
            greetings: DashMap::default(),
            next_identity: AtomicU64::new(1),
            next_session: AtomicU32::new(1),
        })
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.mailboxes.len()
    }

    /// A session's number: its process id to its client. Never 0.
    pub fn next_session(&self) -> u32 {
        loop {
            let id = self.next_session.fetch_add(1, Relaxed) & 0x7fff_ffff;
            if id != 0 {
                return id;
            }
        }
    }

    /// The identity of a user in a database, with the credentials of its latest login.
    pub fn identity(&self, user: &str, database: &str, credentials: Arc<Credentials>) -> Arc<Identity> {
        let key: SmallVec<[u8; 128]> = user.bytes().chain([0]).chain(database.bytes()).collect();
        let known = self.identities.get(&*key).map(|known| Arc::clone(&known));
        let identity = known.unwrap_or_else(|| {
            let entry = self.identities.entry(key.into_vec().into());
            Arc::clone(&entry.or_insert_with(|| self.new_identity(user, database, &credentials)))
        });
        // With each login the same, unless the password was changed.
        if !identity.credentials.load().are_same(&credentials) {
            identity.credentials.store(credentials);
        }
        identity
    }

    fn new_identity(&self, user: &str, database: &str, credentials: &Arc<Credentials>) -> Arc<Identity> {
        let routing = &self.config.routing;
        let (pool_mode, pool_size) = self.config.pool_of(user, database);
        Arc::new(Identity {
            pool_mode,
            pool_size,
            id: self.next_identity.fetch_add(1, Relaxed),
            user: user.into(),
            database: database.into(),
            consistency: routing.user_consistency.get(user).copied().unwrap_or(routing.consistency),
            catalog: self.catalogs.of(database),
            credentials: ArcSwap::new(Arc::clone(credentials)),
            reads_sequences: AtomicBool::new(false),
            sessions: AtomicUsize::new(0),
            last_write: AtomicU64::new(0),
        })
    }

    /// A tally of an identity for a worker to count with.
    pub(super) fn tally(&self, worker: usize, identity: &Arc<Identity>) -> Tally {
        let (tally, reader) = Tally::new();
        self.tallies.insert((identity.id, worker), (Arc::clone(identity), reader));
        tally
    }

    /// The budget of an identity on a member.
    pub(super) fn budget(&self, identity: &Identity, member: u16) -> Arc<Budget> {
        let pool = &self.config.pool;
        let of_member = Arc::clone(
            &*self.member_budgets.entry(member).or_insert_with(|| MemberBudget::new(pool.member_size)),
        );
        let entry = self.budgets.entry((identity.id, member));
        Arc::clone(&*entry.or_insert_with(|| Budget::new(identity.pool_size, of_member, self.workers())))
    }

    /// A write was answered in this epoch.
    pub(super) fn wrote(&self, epoch: Epoch, now: Instant) {
        if self.written_epoch.load(Relaxed) < epoch.0
            && self.written_epoch.fetch_max(epoch.0, Relaxed) < epoch.0
        {
            self.first_write.store(Some(Arc::new((epoch, now))));
        }
    }

    /// The latest epoch in which a write was answered, and when its first one was.
    pub fn first_write(&self) -> Option<(u64, Instant)> {
        self.first_write.load().as_ref().map(|first| (first.0.0, first.1))
    }

    /// What sessions were told so far.
    pub fn told(&self) -> Told {
        self.told.read()
    }

    /// The same, when a failover begins: the longest wait is counted anew from here.
    pub fn told_anew(&self) -> Told {
        self.told.read_anew()
    }

    /// All pools of all workers, as of their last sweeps.
    pub fn pools(&self) -> Vec<PoolRow> {
        self.pool_rows.iter().flat_map(|rows| rows.load().iter().cloned().collect::<Vec<_>>()).collect()
    }

    pub(super) fn show_pools(&self, worker: usize, rows: Vec<PoolRow>) {
        if let Some(shown) = self.pool_rows.get(worker) {
            shown.store(Arc::new(rows));
        }
    }

    /// Sends mail to a worker; a worker whose mailbox is full loses it, which costs a wait at most.
    pub fn post(&self, worker: usize, mail: Mail) {
        if let Some(mailbox) = self.mailboxes.get(worker)
            && mailbox.try_send(mail).is_err()
        {
            tracing::debug!(worker, "mailbox full");
        }
    }

    /// Sends a session to a worker.
    ///
    /// # Errors
    /// The session, when that worker takes no mail.
    pub(super) fn send_session(&self, worker: usize, session: Moving) -> Result<(), Box<Moving>> {
        let session = Box::new(session);
        let Some(mailbox) = self.mailboxes.get(worker) else { return Err(session) };
        match mailbox.try_reserve() {
            Ok(place) => {
                place.send(Mail::Session(session));
                Ok(())
            }
            Err(_full_or_closed) => Err(session),
        }
    }

    /// What came of the last login with this startup packet, if that is fresh.
    pub(super) fn greeting(&self, key: &GreetingKey, now: Instant) -> Option<Greeting> {
        let kept = self.greetings.get(key)?;
        let (greeting, until) = &*kept;
        (*until > now).then(|| greeting.clone())
    }

    /// Forgets what logins were told: the next may be told something else.
    pub(super) fn forget_greetings(&self) {
        self.greetings.clear();
    }

    /// Whether a client is connected to this database.
    pub(super) fn is_present_in(&self, database: &str) -> bool {
        self.identities
            .iter()
            .any(|identity| *identity.database == *database && identity.sessions.load(Relaxed) > 0)
    }

    /// Keeps what came of a startup packet.
    pub(super) fn keep_greeting(&self, key: GreetingKey, greeting: Greeting, now: Instant) {
        if self.greetings.len() >= GREETINGS {
            self.greetings.retain(|_, (_, until)| *until > now);
        }
        if self.greetings.len() < GREETINGS {
            self.greetings.insert(key, (greeting, now + GREETING_TTL));
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("workers", &self.workers()).finish_non_exhaustive()
    }
}
