//! What clients saw, one entry a statement or transaction, with the time on the machine's clock.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The outcome of a write that was acknowledged.
pub(crate) const DONE: &str = "ok";
/// The outcome of what ended with the session.
pub(crate) const CLOSED: &str = "closed";
/// The outcome of what did not come back in time.
pub(crate) const HUNG: &str = "hung";

/// Seconds since 1970, as PostgreSQL's log and Python's `time.time()` have them.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs_f64()
}

/// One thing that a client did. The Python clients print these as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub(crate) enum Entry {
    /// A write, or a transaction of writes. Its id is used once.
    Write(Write),
    /// A read.
    Read(Read),
    /// A session that was opened, or that ended without having been asked to.
    Session { client: String, at: f64, lost: bool, text: String },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Write {
    pub(crate) client: String,
    pub(crate) id: i64,
    /// Rows that it writes.
    pub(crate) parts: usize,
    pub(crate) begun: f64,
    pub(crate) ended: f64,
    /// [`DONE`], an SQLSTATE, [`CLOSED`] or [`HUNG`].
    pub(crate) outcome: String,
    pub(crate) text: String,
    /// The timeline it was written on, in hexadecimal, if it was acknowledged.
    pub(crate) timeline: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Read {
    pub(crate) client: String,
    /// `own` for a read of one's last write, `plain`, or `search`.
    pub(crate) kind: String,
    pub(crate) begun: f64,
    pub(crate) ended: f64,
    pub(crate) outcome: String,
    pub(crate) text: String,
    /// An acknowledged write that it did not see.
    pub(crate) missing: Option<i64>,
}

/// The entries of all clients.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    entries: Mutex<Vec<Entry>>,
    acknowledged: AtomicUsize,
}

impl Journal {
    pub(crate) fn add(&self, entry: Entry) {
        if matches!(&entry, Entry::Write(write) if write.outcome == DONE) {
            self.acknowledged.fetch_add(1, Relaxed);
        }
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    /// Number of acknowledged writes so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.load(Relaxed)
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
