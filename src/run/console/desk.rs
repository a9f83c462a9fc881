//! What the console's commands do: the sessions held, ended, looked at, from the control runtime.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::frames::Work;
use super::tables;
use crate::admin::Reload;
use crate::admin::console::{Action, Answer, Problem, Table, Views, problem};
use crate::client::{HandshakeConfig, Verifiers};
use crate::metrics::Traffic;
use crate::run::Live;
use crate::run::record::Record;
use crate::session::{Mail, Shared};
use crate::topology::Topology;

/// Time between two looks at whether a PAUSE or KILL is done.
const LOOK: Duration = Duration::from_millis(20);
/// How long a KILL waits for who was killed to be gone.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// PgBouncer's `stats_period`: what averages are taken over is once to twice as long.
const PERIOD: Duration = Duration::from_secs(60);

/// Time between two readings of the administrators' verifiers.
const VERIFIERS_EVERY: Duration = Duration::from_secs(600);

/// Who may use the console, as of the last reload.
pub(in crate::run) type Admins = Arc<ArcSwap<Vec<String>>>;

/// All that the console works with.
pub(in crate::run) struct Desk {
    pub(super) shared: Arc<Shared>,
    pub(super) record: Arc<Record>,
    pub(super) handshake: Arc<ArcSwap<HandshakeConfig>>,
    pub(super) averages: Averages,
    reload: Reload,
    admins: Admins,
    runtime: Handle,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Desk")
    }
}

impl Desk {
    /// Works on the runtime that it is called in.
    pub(in crate::run) fn new(live: Live, record: &Arc<Record>, reload: &Reload) -> Arc<Self> {
        let desk = Arc::new(Self {
            shared: live.shared,
            record: Arc::clone(record),
            handshake: live.handshake,
            averages: Averages::default(),
            reload: Arc::clone(reload),
            admins: live.admins,
            runtime: Handle::current(),
        });
        let looking = Arc::downgrade(&desk);
        tokio::spawn(async move {
            let mut period = tokio::time::interval(PERIOD);
            loop {
                period.tick().await;
                let Some(desk) = looking.upgrade() else { return };
                desk.averages.note(tables::by_database(&desk.shared));
            }
        });
        desk
    }

    pub(super) fn is_admin(&self, user: &str) -> bool {
        self.admins.load().iter().any(|admin| admin == user)
    }

    pub(super) fn views(self: &Arc<Self>) -> Arc<dyn Views> {
        Arc::new(Handed(Arc::clone(self)))
    }

    /// Runs something on the control runtime.
    pub(super) fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Work<T> {
        Work(self.runtime.spawn(work))
    }

    async fn pause(&self, database: Option<String>) -> Result<Vec<String>, Problem> {
        if !self.shared.pauses.pause(database.as_deref()) {
            let what = database.map_or("everything".to_owned(), |name| format!("database {name}"));
            return Err(problem(*b"55000", format!("{what} is paused already")));
        }
        let mut undo = TakeBack { shared: &self.shared, database: database.as_deref(), done: false };
        let name = database.as_deref().map(Arc::from);
        loop {
            if let Some(now) = self.shared.under_way(name.as_ref()).await
                && now.running == 0
                && now.idle == 0
            {
                undo.done = true;
                let kept = (now.pinned > 0).then(|| {
                    format!(
                        "{} sessions keep a backend for state that only it has: see SHOW CLIENTS",
                        now.pinned
                    )
                });
                return Ok(kept.into_iter().collect());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn resume(&self, database: Option<&str>) -> Result<Vec<String>, Problem> {
        let pauses = &self.shared.pauses;
        if pauses.resume(database) {
            let held = database.filter(|_| pauses.all());
            return Ok(held
                .map(|_| "everything is paused still: RESUME resumes it".to_owned())
                .into_iter()
                .collect());
        }
        let message = match database {
            None => "nothing is paused".to_owned(),
            Some(name) if pauses.all() => {
                format!("database {name} is paused with all others: RESUME resumes them")
            }
            Some(name) => format!("database {name} is not paused"),
        };
        Err(problem(*b"55000", message))
    }

    async fn kill(&self, database: Option<String>) -> Vec<String> {
        // It may be paused already.
        let _before = self.shared.pauses.pause(database.as_deref());
        let name: Option<Arc<str>> = database.as_deref().map(Arc::from);
        let deadline = Instant::now() + KILL_WAIT;
        loop {
            for worker in 0..self.shared.workers() {
                self.shared.post(worker, Mail::KillDatabase(name.clone()));
            }
            let left = self.shared.under_way(name.as_ref()).await;
            match left {
                Some(now) if now.sessions == 0 && now.idle == 0 => return Vec::new(),
                left if Instant::now() > deadline => {
                    let sessions = left.map_or("some".to_owned(), |now| now.sessions.to_string());
                    return vec![format!("{sessions} sessions have not ended yet")];
                }
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn kill_client(&self, number: u32) -> Result<Vec<String>, Problem> {
        if self.shared.client(number).await.is_none() {
            return Err(problem(*b"42704", format!("client {number} not found")));
        }
        let deadline = Instant::now() + KILL_WAIT;
        loop {
            for worker in 0..self.shared.workers() {
                self.shared.post(worker, Mail::Kill(number));
            }
            if self.shared.client(number).await.is_none() {
                return Ok(Vec::new());
            }
            if Instant::now() > deadline {
                return Ok(vec![format!("client {number} has not ended yet")]);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn reload(&self) -> Result<Vec<String>, Problem> {
        let reload = Arc::clone(&self.reload);
        match tokio::task::spawn_blocking(move || reload()).await {
            Ok(Ok(done)) => {
                tracing::info!("the configuration is {done}");
                Ok(vec![format!("the configuration is {done}")])
            }
            // config_file_error
            Ok(Err(why)) => Err(problem(*b"F0000", format!("the configuration stays as it was: {why}"))),
            Err(_panicked) => Err(problem(*b"XX000", "the reload failed")),
        }
    }
}

/// Keeps the verifiers of those who may use the console known: they log in above all when there is no primary to ask.
pub(in crate::run) fn keep_verifiers(
    verifiers: &Arc<Verifiers>,
    admins: &Admins,
    mut topology: watch::Receiver<Arc<Topology>>,
) {
    let (verifiers, admins) = (Arc::clone(verifiers), Arc::clone(admins));
    tokio::spawn(async move {
        loop {
            let Ok(now) =
                topology.wait_for(|topology| topology.primary().is_some()).await.map(|now| now.epoch)
            else {
                return;
            };
            for admin in admins.load().iter() {
                verifiers.prepare(&admin.as_str().into()).await;
            }
            let another = topology.wait_for(|topology| topology.epoch != now);
            if let Ok(Err(_control_ended)) = tokio::time::timeout(VERIFIERS_EVERY, another).await {
                return;
            }
        }
    });
}

/// A PAUSE that doesn't come to its end never was.
struct TakeBack<'a> {
    shared: &'a Shared,
    database: Option<&'a str>,
    done: bool,
}

impl Drop for TakeBack<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.shared.pauses.take_back(self.database);
        }
    }
}

/// The desk as the console is handed it.
struct Handed(Arc<Desk>);

impl Views for Handed {
    fn rows(&self, table: Table) -> Answer<(Value, Vec<String>)> {
        let desk = Arc::clone(&self.0);
        Box::pin(async move { tables::rows(&desk, table).await })
    }

    fn act(&self, action: Action) -> Answer<Result<Vec<String>, Problem>> {
        let desk = Arc::clone(&self.0);
        Box::pin(async move {
            match action {
                Action::Pause(database) => desk.pause(database).await,
                Action::Resume(database) => desk.resume(database.as_deref()),
                Action::Kill(database) => Ok(desk.kill(database).await),
                Action::KillClient(number) => desk.kill_client(number).await,
                Action::Reload => desk.reload().await,
            }
        })
    }
}

/// What was counted, by database.
pub(super) type ByDatabase = BTreeMap<Arc<str>, Traffic>;

/// What was counted at the ends of the last two periods.
#[derive(Debug, Default)]
pub(super) struct Averages(Mutex<VecDeque<(Instant, ByDatabase)>>);

impl Averages {
    fn note(&self, now: ByDatabase) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push_back((Instant::now(), now));
        if noted.len() > 2 {
            noted.pop_front();
        }
    }

    /// What a database counted by the end of the last but one period, and how long ago that was.
    pub(super) fn before(&self, database: &str) -> (Traffic, Duration) {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.front().map_or_else(Default::default, |(at, counted)| {
            (counted.get(database).copied().unwrap_or_default(), at.elapsed())
        })
    }
}
