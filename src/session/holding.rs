//! A session's place among those that wait for a primary, counted over all workers.

use std::sync::atomic::Ordering::Relaxed;

/// A session's place among those that wait for a primary.
pub(super) struct Holding<'a> {
    shared: &'a super::Shared,
    bytes: usize,
}

impl<'a> Holding<'a> {
    /// Takes a place, with this many bytes of statement.
    pub(super) fn enter(shared: &'a super::Shared, bytes: usize) -> Self {
        shared.holding.fetch_add(1, Relaxed);
        shared.holding_bytes.fetch_add(bytes, Relaxed);
        Self { shared, bytes }
    }

    /// Whether more wait by now than may.
    pub(super) fn is_one_too_many(&self) -> bool {
        let limits = &self.shared.config.failover;
        self.shared.holding.load(Relaxed) > limits.max_waiting
            || self.shared.holding_bytes.load(Relaxed) > limits.max_waiting_bytes
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.shared.holding.fetch_sub(1, Relaxed);
        self.shared.holding_bytes.fetch_sub(self.bytes, Relaxed);
    }
}
