//! What is counted off the data path.

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::worker::{NAMED, labels};

/// Names of the members by their numbers, for the labels. A number is given once, so a name is written once.
#[derive(Debug)]
pub struct Members([OnceLock<String>; NAMED]);

impl Default for Members {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }
}

impl Members {
    /// Gives a member's number its name; numbers from 63 are shown as `other`.
    pub fn set(&self, number: u16, name: &str) {
        if let Some(cell) = self.0.get(usize::from(number)) {
            cell.get_or_init(|| name.to_owned());
        }
    }

    pub(super) fn name(&self, slot: usize) -> Option<String> {
        self.0.get(slot)?.get().cloned()
    }
}

/// The control path's own.
#[derive(Debug)]
pub struct Control {
    /// `pgha_epoch`: grows with each primary.
    pub epoch: IntGauge,
    /// `pgha_primary`: 1 while writes are served.
    pub primary: IntGauge,
    /// `pgha_failovers_total`: primaries that took over from another, planned or not.
    pub failovers: IntCounter,
    up: IntGaugeVec,
    lag_bytes: IntGaugeVec,
    shown: Mutex<BTreeSet<String>>,
}

impl Control {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let epoch = IntGauge::new("pgha_epoch", "The epoch: grows with each primary.")?;
        let primary = IntGauge::new("pgha_primary", "1 while there is a primary that writes are sent to.")?;
        let failovers = IntCounter::new("pgha_failovers_total", "Primaries that took over, planned or not.")?;
        let member = |name, help| IntGaugeVec::new(Opts::new(name, help), &["member"]);
        let up = member("pgha_member_up", "1 while a member answers its live checks.")?;
        let lag_bytes = member("pgha_member_lag_bytes", "WAL that a replica has yet to replay, in bytes.")?;
        registry.register(Box::new(epoch.clone()))?;
        registry.register(Box::new(primary.clone()))?;
        registry.register(Box::new(failovers.clone()))?;
        registry.register(Box::new(up.clone()))?;
        registry.register(Box::new(lag_bytes.clone()))?;
        Ok(Self { epoch, primary, failovers, up, lag_bytes, shown: Mutex::default() })
    }

    /// The members of now: name, whether it answers, lag in bytes where it has one. Those that are gone are not shown any more.
    pub fn show_members<'m>(&self, members: impl IntoIterator<Item = (&'m str, bool, Option<u64>)>) {
        // Nothing below can leave the set half-changed in a way that matters, so a poisoned lock is as good.
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = std::mem::take(&mut *shown);
        for (name, up, lag_bytes) in members {
            self.up.with_label_values(&[name]).set(i64::from(up));
            match lag_bytes {
                Some(bytes) => self.lag_bytes.with_label_values(&[name]).set(bytes as i64),
                None => self.forget(&self.lag_bytes, name),
            }
            gone.remove(name);
            shown.insert(name.to_owned());
        }
        for name in gone {
            self.forget(&self.up, &name);
            self.forget(&self.lag_bytes, &name);
        }
    }

    #[expect(clippy::unused_self, reason = "reads as what it does to this struct's families")]
    fn forget(&self, family: &IntGaugeVec, name: &str) {
        // An error says that it wasn't shown, which is what is wanted.
        drop(family.remove_label_values(&[name]));
    }
}

labels! {
    /// How a reading of a database's catalog ended.
    CatalogRead {
        /// It was read.
        Read = "read",
        /// It had not changed.
        Unchanged = "unchanged",
        /// It couldn't be read.
        Failed = "failed",
    }
}

/// What routing knows of statements and functions beyond their text.
#[derive(Debug)]
pub struct Routing {
    /// `pgha_learnt_total`: kinds of statements that a replica refused as writes.
    pub learnt: IntCounter,
    /// `pgha_learnt_entries`: those that are remembered.
    pub learnt_entries: IntGauge,
    reads: Vec<IntCounter>,
}

impl Routing {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = "Kinds of statements that a replica refused as writes.";
        let learnt = IntCounter::new("pgha_learnt_total", help)?;
        let help = "Kinds of statements that go to the primary because a replica refused them.";
        let learnt_entries = IntGauge::new("pgha_learnt_entries", help)?;
        let opts =
            Opts::new("pgha_catalog_reads_total", "Readings of databases' catalogs by how they ended.");
        let family = IntCounterVec::new(opts, &["result"])?;
        registry.register(Box::new(learnt.clone()))?;
        registry.register(Box::new(learnt_entries.clone()))?;
        registry.register(Box::new(family.clone()))?;
        let reads = CatalogRead::LABELS.iter().map(|label| family.with_label_values(&[label])).collect();
        Ok(Self { learnt, learnt_entries, reads })
    }

    /// A reading ended like this.
    pub fn count(&self, result: CatalogRead) {
        self.reads[result as usize].inc();
    }
}

labels! {
    /// How a login ended.
    LoginResult {
        /// Logged in.
        Ok = "ok",
        /// Wrong password, unknown user, expired or not allowed.
        Refused = "refused",
        /// Against the protocol: garbage, too long, out of turn.
        Protocol = "protocol",
        /// Not done in time.
        Timeout = "timeout",
        /// One of the limits was reached.
        Limit = "limit",
        /// The verifier couldn't be read, or no member could be reached.
        Unavailable = "unavailable",
        /// The client went away.
        Gone = "gone",
    }
}

/// `pgha_logins_total` by result.
#[derive(Debug)]
pub struct Logins {
    results: Vec<IntCounter>,
}

impl Logins {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = Opts::new("pgha_logins_total", "Logins by how they ended.");
        let family = IntCounterVec::new(opts, &["result"])?;
        registry.register(Box::new(family.clone()))?;
        let results = LoginResult::LABELS.iter().map(|label| family.with_label_values(&[label]));
        Ok(Self { results: results.collect() })
    }

    /// A login ended like this.
    pub fn count(&self, result: LoginResult) {
        self.results[result as usize].inc();
    }
}
