//! What sessions were told when they lost a primary or waited for one: counts over all workers, for the failovers' record.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::wire::SqlState;

/// The counts at one moment; they only grow, but for the longest wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// Batches that waited for a primary.
    pub waited: u64,
    /// Of those, the ones that then had one.
    pub went_on: u64,
    /// The longest wait for a primary, over or not, since the last failover began; in milliseconds.
    pub longest_wait_ms: u64,
    /// Those that had waited as long as they may, or were one too many.
    pub gave_up: u64,
    /// Batches that were run again elsewhere, unseen by the client.
    pub rerun: u64,
    /// Told 40001: nothing of it stands, retry.
    pub serialization: u64,
    /// Told 08007: the outcome is unknown.
    pub unknown: u64,
    /// Told 08006: an answer was cut.
    pub cut: u64,
    /// Sessions that ended for what they lost with their backend.
    pub ended: u64,
}

/// The counters themselves.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) waited: AtomicU64,
    pub(super) went_on: AtomicU64,
    longest_wait_ms: AtomicU64,
    pub(super) gave_up: AtomicU64,
    pub(super) rerun: AtomicU64,
    serialization: AtomicU64,
    unknown: AtomicU64,
    cut: AtomicU64,
    pub(super) ended: AtomicU64,
}

impl Counters {
    /// One more.
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    /// A batch has waited so long for a primary.
    pub(super) fn waited_for(&self, wait: std::time::Duration) {
        let milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.longest_wait_ms.fetch_max(milliseconds, Relaxed);
    }

    /// The counts so far, and the longest wait, which begins anew.
    pub(super) fn read_anew(&self) -> Told {
        let longest_wait_ms = self.longest_wait_ms.swap(0, Relaxed);
        Told { longest_wait_ms, ..self.read() }
    }

    /// A client was told this of a lost backend.
    pub(super) fn told(&self, state: SqlState) {
        match state {
            SqlState::SERIALIZATION_FAILURE => Self::add(&self.serialization),
            SqlState::OUTCOME_UNKNOWN => Self::add(&self.unknown),
            SqlState::CONNECTION_FAILURE => Self::add(&self.cut),
            _ => {}
        }
    }

    /// The counts now.
    pub(super) fn read(&self) -> Told {
        Told {
            waited: self.waited.load(Relaxed),
            went_on: self.went_on.load(Relaxed),
            longest_wait_ms: self.longest_wait_ms.load(Relaxed),
            gave_up: self.gave_up.load(Relaxed),
            rerun: self.rerun.load(Relaxed),
            serialization: self.serialization.load(Relaxed),
            unknown: self.unknown.load(Relaxed),
            cut: self.cut.load(Relaxed),
            ended: self.ended.load(Relaxed),
        }
    }
}
