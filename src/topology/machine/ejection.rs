//! Replicas that fail sessions though they answer their checks: out for a while, and back with less than their weight.

use std::time::{Duration, Instant};

/// The time within which errors add up.
const WINDOW: Duration = Duration::from_secs(10);

/// An ejection is at most `eject_time` doubled so often.
const DOUBLED: u32 = 4;

/// Steps in which a replica comes to its full weight again.
pub(super) const STEPS: u32 = 10;

/// What sessions said of one member.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Errors {
    /// Since when, and how many.
    counted: Option<(Instant, u32)>,
    until: Option<Instant>,
    /// How often it was ejected of late.
    times: u32,
}

impl Errors {
    /// One more error; the time that it is ejected for, if this makes it too many.
    pub(super) fn another(&mut self, limit: u32, time: Duration, now: Instant) -> Option<Duration> {
        if limit == 0 || self.ejected(now) {
            return None;
        }
        let (since, count) = match self.counted {
            Some((since, count)) if now.saturating_duration_since(since) < WINDOW => (since, count + 1),
            _ => (now, 1),
        };
        self.counted = Some((since, count));
        if count < limit {
            return None;
        }
        // One that was good for as long as it was out at the most begins anew.
        let longest = time * 2_u32.pow(DOUBLED);
        if self.until.is_some_and(|until| now.saturating_duration_since(until) > longest) {
            self.times = 0;
        }
        let out = time * 2_u32.pow(self.times.min(DOUBLED));
        *self = Self { counted: None, until: Some(now + out), times: self.times + 1 };
        Some(out)
    }

    /// Whether it is out.
    pub(super) fn ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// What was said of it counts no more.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// The steps of its weight that a replica has after serving for `served`, of [`STEPS`].
pub(super) fn steps(served: Duration, slow_start: Duration) -> u32 {
    if served >= slow_start {
        return STEPS;
    }
    let part = served.as_secs_f64() / slow_start.as_secs_f64();
    ((part * f64::from(STEPS)) as u32).clamp(1, STEPS)
}
