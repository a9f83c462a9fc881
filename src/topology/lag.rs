//! Lag in time, from the primary's positions as they were read.
//!
//! `now() - pg_last_xact_replay_timestamp()` grows on an idle primary, so it counts only where the readings don't reach back
//! far enough. The lag of a replica is the age of the oldest reading that it has not replayed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Lsn;

/// Readings kept; with their distance they reach back over twice the lag limit.
const KEPT: usize = 64;

/// The primary's last positions.
#[derive(Debug, Clone)]
pub(super) struct LagTrail {
    readings: VecDeque<(Instant, Lsn)>,
    newest: Option<Lsn>,
    distance: Duration,
}

impl LagTrail {
    /// A trail that can tell lags up to twice `max_lag`.
    pub(super) fn new(max_lag: Duration) -> Self {
        let distance = (max_lag / 32).max(Duration::from_millis(50));
        Self { readings: VecDeque::with_capacity(KEPT), newest: None, distance }
    }

    /// Takes a reading of the primary in, begun at `begun`.
    pub(super) fn push(&mut self, begun: Instant, lsn: Lsn) {
        self.newest = Some(lsn.max(self.newest.unwrap_or_default()));
        match self.readings.back() {
            Some((last, _)) if begun.saturating_duration_since(*last) < self.distance => {}
            _ => {
                if self.readings.len() == KEPT {
                    self.readings.pop_front();
                }
                self.readings.push_back((begun, lsn));
            }
        }
    }

    /// Another primary: its positions have nothing to do with the last one's.
    pub(super) fn clear(&mut self) {
        self.readings.clear();
        self.newest = None;
    }

    /// Bytes of WAL that are not replayed, as far as is known.
    pub(super) fn bytes(&self, replayed: Lsn) -> Option<u64> {
        self.newest.map(|newest| newest.0.saturating_sub(replayed.0))
    }

    /// How long the replica is behind, checked at `begun`; `replay_age` is its own word.
    pub(super) fn time(
        &self,
        replayed: Lsn,
        replay_age: Option<Duration>,
        begun: Instant,
    ) -> Option<Duration> {
        let newest = self.newest?;
        if replayed >= newest {
            return Some(Duration::ZERO);
        }
        let Some(first_missed) = self.readings.iter().position(|(_, lsn)| *lsn > replayed) else {
            return Some(Duration::ZERO);
        };
        let age = begun.saturating_duration_since(self.readings[first_missed].0);
        if first_missed == 0 {
            // Missed all that is remembered: how much more, only the replica knows.
            return Some(age.max(replay_age.unwrap_or_default()));
        }
        Some(age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_primary_makes_no_lag() {
        let start = Instant::now();
        let mut trail = LagTrail::new(Duration::from_secs(10));
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for second in 0..60 {
            trail.push(at(second), Lsn(100));
        }
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(trail.time(Lsn(100), hour, at(60)), Some(Duration::ZERO));
        // The first write after an hour, not yet replayed: its lag is its own age, not an hour.
        trail.push(at(60), Lsn(200));
        assert_eq!(trail.time(Lsn(100), hour, at(61)), Some(Duration::from_secs(1)));
        assert_eq!(trail.bytes(Lsn(100)), Some(100));
        // One that missed all that is remembered: its own word counts.
        assert_eq!(trail.time(Lsn(1), hour, at(61)), hour);
    }

    #[test]
    fn readings_close_together_are_thinned_and_bounded() {
        let start = Instant::now();
        let mut trail = LagTrail::new(Duration::from_secs(10));
        for step in 0..10_000_u64 {
            trail.push(start + Duration::from_millis(20 * step), Lsn(step));
        }
        assert!(trail.readings.len() <= KEPT);
        let (first, last) = (trail.readings[0].0, trail.readings[trail.readings.len() - 1].0);
        assert!(last - first >= Duration::from_secs(19), "{:?}", last - first);
        assert_eq!(trail.bytes(Lsn(0)), Some(9_999));
    }

    #[test]
    fn nothing_known_is_no_lag_known() {
        let mut trail = LagTrail::new(Duration::from_secs(10));
        let now = Instant::now();
        assert_eq!((trail.bytes(Lsn(1)), trail.time(Lsn(1), None, now)), (None, None));
        trail.push(now, Lsn(5));
        trail.clear();
        assert_eq!(trail.bytes(Lsn(1)), None);
    }
}
