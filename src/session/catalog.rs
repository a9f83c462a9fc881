//! What the sessions know of one database: what its functions do, and which of its statements were learnt to write.
//!
//! Read without a lock for each statement, swapped whole by whoever has news: who has read the database's catalog, a session that
//! has seen DDL or a refusal. Each state has a number of its own, by which class caches and prepared statements see that a
//! verdict is of an earlier one. It doesn't know how a catalog is read.

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::{ArcSwap, Guard};
use dashmap::DashMap;
use tokio::sync::{Notify, mpsc};

use crate::metrics;
use crate::routing::{Learnt, Lesson};
use crate::sql::{self, Class, Functions, Lexing, Verdict};

/// Databases that wait for their catalog to be followed.
const WAITING: usize = 1024;

/// Bytes that are kept of a lesson's text, for people.
const LESSON_LEN: usize = 1000;

/// The catalogs of all databases that clients log in to.
#[derive(Debug)]
pub struct Catalogs {
    all: DashMap<Box<str>, Arc<Catalog>>,
    common: Arc<Common>,
}

/// What the catalogs share.
#[derive(Debug)]
struct Common {
    /// What is known of functions before any catalog was read.
    base: ArcSwap<Functions>,
    /// The number of the latest state.
    states: AtomicU64,
    /// Lessons kept for each database.
    limit: usize,
    wanted: mpsc::Sender<Arc<Catalog>>,
    metrics: Arc<metrics::Routing>,
}

/// One database's.
#[derive(Debug)]
pub struct Catalog {
    /// The database's name.
    pub database: Box<str>,
    /// Its number, never given twice.
    pub(super) id: u64,
    /// How often [`Catalog::changed`] was called.
    changes: AtomicU64,
    functions: ArcSwap<Functions>,
    /// The fingerprint of what is known of functions.
    state: AtomicU64,
    learnt: ArcSwap<Learnt>,
    followed: AtomicBool,
    shelf: Mutex<Shelf>,
    changed: Notify,
    common: Arc<Common>,
}

/// What only those with news look at.
#[derive(Debug, Default)]
struct Shelf {
    /// The last reading, under the base of that time.
    read: Option<Read>,
    /// Whether the last reading holds.
    holds: bool,
    error: Option<Box<str>>,
}

/// A reading of a catalog.
#[derive(Debug, Clone)]
pub struct Read {
    /// The catalog's own revision.
    pub revision: Box<str>,
    /// What came of it.
    pub functions: Functions,
    /// When, in seconds of the Unix epoch.
    pub at: u64,
}

/// A reading that is under way.
#[derive(Debug)]
pub struct Reading {
    changes: u64,
    /// What is known of functions without it.
    pub base: Functions,
    /// The revision that need not be read again.
    pub known: Option<Box<str>>,
}

/// A database's catalog and lessons, for people.
#[derive(Debug)]
pub struct Shown {
    /// The database.
    pub database: Box<str>,
    /// When what is used was read, in seconds of the Unix epoch; none: functions of its own are unknown.
    pub read: Option<u64>,
    /// Names of functions, relations and operators that it brought.
    pub names: [usize; 3],
    /// Why it can't be read, if the last try failed.
    pub error: Option<Box<str>>,
    /// The latest first.
    pub lessons: Vec<Arc<Lesson>>,
}

impl Catalogs {
    /// None yet, and where those come out that are to be read. `limit` is how many lessons are kept for each database.
    pub fn new(
        base: Functions,
        limit: usize,
        metrics: Arc<metrics::Routing>,
    ) -> (Self, mpsc::Receiver<Arc<Catalog>>) {
        let (wanted, wants) = mpsc::channel(WAITING);
        let (base, states) = (ArcSwap::from_pointee(base), AtomicU64::new(0));
        let common = Arc::new(Common { base, states, limit, wanted, metrics });
        (Self { all: DashMap::new(), common }, wants)
    }

    /// A database's, if one of its own is there.
    pub(super) fn known(&self, database: &str) -> Option<Arc<Catalog>> {
        self.all.get(database).map(|catalog| Arc::clone(&catalog))
    }

    /// The catalog of a database.
    pub fn of(&self, database: &str) -> Arc<Catalog> {
        let entry = self.all.entry(database.into());
        Arc::clone(&entry.or_insert_with(|| {
            let id = self.common.next();
            let functions = Functions::clone(&self.common.base.load()).in_scope(id);
            Arc::new(Catalog {
                state: AtomicU64::new(functions.fingerprint()),
                database: database.into(),
                id,
                changes: AtomicU64::new(0),
                functions: ArcSwap::from_pointee(functions),
                learnt: ArcSwap::default(),
                followed: AtomicBool::new(false),
                shelf: Mutex::default(),
                changed: Notify::new(),
                common: Arc::clone(&self.common),
            })
        }))
    }

    /// Takes up another base: all catalogs are to be read again.
    pub fn rebase(&self, base: Functions) {
        self.common.base.store(Arc::new(base));
        let all: Vec<_> = self.all.iter().map(|entry| Arc::clone(&entry)).collect();
        for catalog in all {
            catalog.shelf().read = None;
            catalog.changed();
        }
    }

    /// All of them, by name.
    pub fn show(&self) -> Vec<Shown> {
        let mut all: Vec<_> = self.all.iter().map(|catalog| catalog.show()).collect();
        all.sort_by(|a, b| a.database.cmp(&b.database));
        all
    }
}

impl Common {
    fn next(&self) -> u64 {
        self.states.fetch_add(1, Relaxed) + 1
    }
}

impl Catalog {
    /// What is known of functions now.
    #[inline]
    pub(super) fn functions(&self) -> Guard<Arc<Functions>> {
        self.functions.load()
    }

    /// Which state of knowledge this is: [`Functions::fingerprint`] of what [`Self::functions`] gives, or of what it gave a moment ago.
    #[inline]
    pub(super) fn state(&self) -> u64 {
        self.state.load(Acquire)
    }

    /// Puts to a verdict on a text that was read anew what was learnt of texts like it.
    pub(super) fn recall(&self, text: &[u8], lexing: Lexing, verdict: &Verdict) {
        if !matches!(verdict.class, Class::Read | Class::VectorRead) {
            return;
        }
        let learnt = self.learnt.load();
        if !learnt.is_empty() && learnt.recall(sql::fingerprint(text, &lexing)) {
            verdict.learnt.set(sql::Learnt::Writes);
        }
    }

    /// A replica refused this statement as a write.
    pub(super) fn learn(&self, text: &[u8], lexing: Lexing) {
        let print = sql::fingerprint(text, &lexing);
        let words = || String::from_utf8_lossy(&sql::normalize(text, &lexing, LESSON_LEN)).into();
        let shelf = self.shelf();
        let before = self.learnt.load_full();
        let Some(more) = before.with(print, words, now(), self.common.limit) else { return };
        self.common.metrics.learnt.inc();
        self.common.metrics.learnt_entries.add(more.len() as i64 - before.len() as i64);
        self.learnt.store(Arc::new(more));
        // Verdicts from before know nothing of it.
        self.enter(Functions::clone(&self.functions.load()), &shelf);
    }

    /// DDL was run in this database, or may have been: what was read and learnt holds no more.
    pub fn changed(&self) {
        let mut shelf = self.shelf();
        self.changes.fetch_add(1, Relaxed);
        shelf.holds = false;
        let forgotten = self.learnt.swap(Arc::default()).len();
        self.common.metrics.learnt_entries.sub(forgotten as i64);
        self.enter(Functions::clone(&self.common.base.load()), &shelf);
        drop(shelf);
        self.changed.notify_one();
    }

    /// Grows with all DDL that was run in this database, as far as it is known: what was read before may be wrong.
    #[inline]
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// Waits for [`Catalog::changed`], also if it has been called since the last wait.
    pub async fn wait(&self) {
        self.changed.notified().await;
    }

    /// A client got a backend in it: its catalog is worth reading.
    pub(super) fn want(self: &Arc<Self>) {
        if !self.followed.load(Relaxed)
            && !self.followed.swap(true, Relaxed)
            && self.common.wanted.try_send(Arc::clone(self)).is_err()
        {
            // The next client asks again.
            self.followed.store(false, Relaxed);
        }
    }

    /// Nobody reads it any more until a client wants it again.
    pub fn unfollow(&self) {
        self.followed.store(false, Relaxed);
    }

    /// Begins a reading.
    pub fn begin(&self) -> Reading {
        let shelf = self.shelf();
        Reading {
            changes: self.changes(),
            base: Functions::clone(&self.common.base.load()),
            known: shelf.read.as_ref().map(|read| read.revision.clone()),
        }
    }

    /// Takes up a reading, none if the revision is the known one; false if DDL came between, so that it has to be read again.
    pub fn finish(&self, reading: &Reading, read: Option<Read>) -> bool {
        let mut shelf = self.shelf();
        if self.changes() != reading.changes {
            return false;
        }
        shelf.error = None;
        let is_new = read.is_some();
        shelf.read = read.or(shelf.read.take());
        if is_new || !shelf.holds {
            shelf.holds = shelf.read.is_some();
            if let Some(read) = &shelf.read {
                self.enter(read.functions.clone(), &shelf);
            }
        }
        true
    }

    /// It can't be read: the functions are unknown again, unless what was read before still `holds`. True if that was not known.
    pub fn failed(&self, why: &str, holds: bool) -> bool {
        let mut shelf = self.shelf();
        if shelf.holds && !holds {
            shelf.holds = false;
            self.enter(Functions::clone(&self.common.base.load()), &shelf);
        }
        let is_news = shelf.error.as_deref() != Some(why);
        shelf.error = Some(why.into());
        is_news
    }

    /// Enters another state; the shelf is locked, so that states follow each other.
    fn enter(&self, functions: Functions, _shelf: &MutexGuard<'_, Shelf>) {
        let functions = functions.in_scope(self.common.next());
        let state = functions.fingerprint();
        self.functions.store(Arc::new(functions));
        self.state.store(state, Release);
    }

    fn show(&self) -> Shown {
        let shelf = self.shelf();
        Shown {
            database: self.database.clone(),
            read: shelf.read.as_ref().filter(|_| shelf.holds).map(|read| read.at),
            names: self.functions.load().counts(),
            error: shelf.error.clone(),
            lessons: self.learnt.load().lessons(),
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Nothing can leave it half-changed in a way that matters, so a poisoned lock is as good.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds of the Unix epoch.
fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Volatility, classify};

    fn catalogs(limit: usize) -> (Catalogs, mpsc::Receiver<Arc<Catalog>>) {
        let (metrics, _workers) = metrics::Metrics::new(1).unwrap();
        Catalogs::new(Functions::builtin(), limit, metrics.routing)
    }

    fn verdict(catalog: &Catalog, text: &str) -> Class {
        let verdict = classify(text.as_bytes(), &Lexing::default(), &catalog.functions());
        catalog.recall(text.as_bytes(), Lexing::default(), &verdict);
        verdict.class()
    }

    fn read(reading: &Reading, volatility: Volatility) -> Read {
        let functions = reading.base.clone().with_catalog([(Box::from(*b"f"), volatility)]);
        Read { revision: "1".into(), functions, at: 1 }
    }

    #[test]
    fn databases_are_apart_and_each_state_has_its_number() {
        let (catalogs, _wanted) = catalogs(10);
        let (a, b) = (catalogs.of("a"), catalogs.of("b"));
        assert!(Arc::ptr_eq(&a, &catalogs.of("a")));
        let mut seen = vec![a.functions().fingerprint(), b.functions().fingerprint()];
        let reading = a.begin();
        assert!(reading.known.is_none());
        assert!(a.finish(&reading, Some(read(&reading, Volatility::Stable))));
        seen.push(a.functions().fingerprint());
        assert_eq!((verdict(&a, "select f()"), verdict(&b, "select f()")), (Class::Read, Class::Write));
        b.learn(b"select 1 from hidden", Lexing::default());
        seen.push(b.functions().fingerprint());
        a.changed();
        seen.push(a.functions().fingerprint());
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 5);
        assert_eq!(verdict(&a, "select 2 from hidden"), Class::Read);
        assert_eq!(verdict(&b, "select 2 from hidden"), Class::Write);
        let shown = catalogs.show();
        assert_eq!(&*shown[1].lessons[0].text, "select ? from hidden");
    }

    #[test]
    fn ddl_makes_functions_unknown_until_they_are_read_again() {
        let (catalogs, _wanted) = catalogs(10);
        let catalog = catalogs.of("a");
        let reading = catalog.begin();
        assert!(catalog.finish(&reading, Some(read(&reading, Volatility::Stable))));
        let under_way = catalog.begin();
        assert_eq!(under_way.known.as_deref(), Some("1"));
        catalog.learn(b"select 1 from hidden", Lexing::default());
        catalog.changed();
        assert_eq!(verdict(&catalog, "select f()"), Class::Write);
        assert_eq!(verdict(&catalog, "select 2 from hidden"), Class::Read);
        assert!(!catalog.finish(&under_way, None), "it may be from before the DDL");
        assert_eq!(verdict(&catalog, "select f()"), Class::Write);
        assert!(catalog.finish(&catalog.begin(), None), "the catalog is the same after all");
        assert_eq!(verdict(&catalog, "select f()"), Class::Read);
    }

    #[test]
    fn a_catalog_that_cannot_be_read_is_told_once() {
        let (catalogs, _wanted) = catalogs(10);
        let catalog = catalogs.of("a");
        let reading = catalog.begin();
        assert!(catalog.finish(&reading, Some(read(&reading, Volatility::Stable))));
        assert!(catalog.failed("no", true));
        assert!(!catalog.failed("no", true));
        assert_eq!(verdict(&catalog, "select f()"), Class::Read);
        assert!(catalog.failed("never", false));
        assert_eq!(verdict(&catalog, "select f()"), Class::Write);
        assert_eq!(catalogs.show()[0].error.as_deref(), Some("never"));
    }

    #[test]
    fn one_is_wanted_once() {
        let (catalogs, mut wanted) = catalogs(10);
        let catalog = catalogs.of("a");
        catalog.want();
        catalog.want();
        assert!(wanted.try_recv().is_ok() && wanted.try_recv().is_err());
        catalog.unfollow();
        catalog.want();
        assert!(wanted.try_recv().is_ok());
    }
}
