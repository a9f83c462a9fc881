//! Reads the catalogs of the databases that clients use, from the primary as the monitors' role: at first use, after DDL that a
//! session saw, at a new epoch, and at an interval.
//!
//! One task a database; a failure is tried again and told once.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Semaphore, mpsc, watch};

use crate::backend::Server;
use crate::control::{
    CatalogError, CatalogFound, CatalogQuestions, MonitorLogin, open_catalog, read_catalog,
};
use crate::metrics::{self, CatalogRead};
use crate::session::{Catalog, Read};
use crate::sql::{self, Functions};
use crate::topology::{Epoch, Member, Rule, Topology};

/// Catalogs that are read at once.
const AT_ONCE: usize = 2;

/// Databases that are followed at most; functions of others are unknown.
const MOST: usize = 1000;

/// How long connecting, and each question, may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The least time between two readings of one database, however much DDL there is.
const GAP: Duration = Duration::from_millis(200);

/// A reading that took long is not begun again before so many times that has passed.
const EASE: u32 = 10;

/// The least and the longest time after a failure, doubled each time.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// What is read holds for so many intervals when it can't be read again.
const HOLDS: u32 = 5;

/// What all readers share.
pub(super) struct Sources {
    pub(super) login: MonitorLogin,
    pub(super) topology: watch::Receiver<Arc<Topology>>,
    pub(super) interval: Duration,
    pub(super) metrics: Arc<metrics::Routing>,
}

/// Follows each database that comes out of `wanted`, on the runtime it is called in.
pub(super) fn follow(sources: Sources, mut wanted: mpsc::Receiver<Arc<Catalog>>) {
    if sources.interval.is_zero() {
        return;
    }
    let (sources, places) = (Arc::new(sources), Arc::new(Semaphore::new(AT_ONCE)));
    let questions =
        Arc::new(CatalogQuestions { revision: sql::revision(), questions: sql::questions().into() });
    let followed = Arc::new(Semaphore::new(MOST));
    tokio::spawn(async move {
        while let Some(catalog) = wanted.recv().await {
            let Ok(place) = Arc::clone(&followed).try_acquire_owned() else {
                tracing::warn!(database = &*catalog.database, most = MOST, "too many databases");
                continue;
            };
            let reader = Reader {
                topology: sources.topology.clone(),
                sources: Arc::clone(&sources),
                questions: Arc::clone(&questions),
                places: Arc::clone(&places),
                catalog,
                epoch: None,
                read: None,
                retry: RETRY.0,
            };
            tokio::spawn(async move {
                reader.run().await;
                drop(place);
            });
        }
    });
}

struct Reader {
    sources: Arc<Sources>,
    questions: Arc<CatalogQuestions>,
    places: Arc<Semaphore>,
    topology: watch::Receiver<Arc<Topology>>,
    catalog: Arc<Catalog>,
    /// The epoch of the last reading that succeeded, and when that was.
    epoch: Option<Epoch>,
    read: Option<Instant>,
    retry: Duration,
}

/// How a reading went.
enum Outcome {
    /// It holds.
    Read,
    /// DDL came between.
    Overtaken,
    /// Another try in a moment.
    Failed,
    /// There is no such database any more.
    Gone,
}

impl Reader {
    /// Reads until the proxy or the database ends.
    async fn run(mut self) {
        loop {
            let Some((primary, epoch)) = self.primary().await else { return };
            let began = Instant::now();
            let outcome = self.read(&primary, epoch).await;
            let wait = match outcome {
                Outcome::Read => self.sources.interval,
                Outcome::Overtaken => Duration::ZERO,
                Outcome::Failed => self.retry,
                Outcome::Gone => {
                    // One of the same name would be another.
                    self.catalog.changed();
                    self.catalog.unfollow();
                    return;
                }
            };
            self.retry = match outcome {
                Outcome::Failed => (self.retry * 2).min(RETRY.1),
                _ => RETRY.0,
            };
            tokio::time::sleep(GAP.max(began.elapsed() * EASE).min(self.sources.interval)).await;
            if !self.rest(wait).await {
                return;
            }
        }
    }

    /// Waits for a reason to read again; false at the proxy's end.
    async fn rest(&mut self, wait: Duration) -> bool {
        let epoch = self.epoch;
        let other_epoch = |topology: &Arc<Topology>| {
            matches!(topology.rule, Rule::Serving(_)) && Some(topology.epoch) != epoch
        };
        tokio::select! {
            () = self.catalog.wait() => true,
            () = tokio::time::sleep(wait) => true,
            // After a failure the time alone counts.
            changed = self.topology.wait_for(other_epoch), if epoch.is_some() => changed.is_ok(),
        }
    }

    /// The primary, when there is one.
    async fn primary(&mut self) -> Option<(Member, Epoch)> {
        let topology = self.topology.wait_for(|topology| topology.primary().is_some()).await.ok()?;
        Some((topology.primary()?.clone(), topology.epoch))
    }

    async fn read(&mut self, primary: &Member, epoch: Epoch) -> Outcome {
        let places = Arc::clone(&self.places);
        let Ok(_place) = places.acquire().await else { return Outcome::Gone };
        let reading = self.catalog.begin();
        let found = match self.ask(primary, reading.known.as_deref()).await {
            Ok(found) => found,
            Err(error) => return self.failed(&error, epoch),
        };
        // Whoever ruled meanwhile: what it said may not be what the next one has.
        if self.topology.borrow().epoch != epoch {
            return Outcome::Overtaken;
        }
        let is_new = found.answers.is_some();
        let read = match made(found, reading.base.clone()).await {
            Ok(read) => read,
            Err(error) => return self.failed(&error, epoch),
        };
        self.sources.metrics.count(if is_new { CatalogRead::Read } else { CatalogRead::Unchanged });
        if !self.catalog.finish(&reading, read) {
            return Outcome::Overtaken;
        }
        if self.read.is_none() {
            tracing::debug!(database = &*self.catalog.database, "the catalog was read");
        }
        (self.epoch, self.read) = (Some(epoch), Some(Instant::now()));
        Outcome::Read
    }

    async fn ask(&self, primary: &Member, known: Option<&str>) -> Result<CatalogFound, CatalogError> {
        let login = &self.sources.login;
        let tls = login.tls.load_full();
        let server = Server {
            host: &primary.host,
            port: primary.port,
            tls: &tls,
            keep_alive: &login.keep_alive,
            timeout: TIMEOUT,
        };
        let mut client = open_catalog(&server, &login.credentials, &self.catalog.database, TIMEOUT).await?;
        read_catalog(&mut client, &self.questions, known, true).await
    }

    fn failed(&mut self, error: &CatalogError, epoch: Epoch) -> Outcome {
        self.sources.metrics.count(CatalogRead::Failed);
        let fresh = self.read.is_some_and(|read| read.elapsed() < self.sources.interval * HOLDS);
        let holds = fresh && self.epoch == Some(epoch);
        self.epoch = self.epoch.filter(|_| holds);
        if self.catalog.failed(&error.to_string(), holds) {
            let database = &*self.catalog.database;
            tracing::warn!(database, %error, "the catalog can't be read; its own functions run on the primary");
        }
        if error.is_no_database() { Outcome::Gone } else { Outcome::Failed }
    }
}

/// What comes of a catalog's answers; none if it said nothing new. Away from the control path: views by the thousand are read.
async fn made(found: CatalogFound, base: Functions) -> Result<Option<Read>, CatalogError> {
    let Some(answers) = found.answers else { return Ok(None) };
    let made = tokio::task::spawn_blocking(move || base.with_answers(&answers)).await;
    let functions = made.ok().flatten().ok_or(CatalogError::Unreadable)?;
    let at = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    Ok(Some(Read { revision: found.revision.into(), functions, at }))
}
