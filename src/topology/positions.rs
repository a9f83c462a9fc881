//! WAL positions, as fresh as sessions need them: read by sessions on every worker, written by the monitors.
//!
//! Nothing here waits for anybody. It has no clock: times are nanoseconds since [`Positions::base`].

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::{Epoch, Lsn, MemberId};

/// How long one [`Positions::want`] keeps the monitors reading.
const WANTED_FOR: Duration = Duration::from_secs(1);

/// Members whose replay position is kept; one with a higher number is never seen as caught up.
pub(super) const SLOTS: usize = 512;

/// One reading of the primary's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Before the question was sent, in nanoseconds since [`Positions::base`]: what was committed before is in `lsn`.
    pub begun: u64,
    /// Flush LSN, or insert LSN where `synchronous_commit` is off somewhere.
    pub lsn: Lsn,
    /// Insert LSN, for a session that has switched `synchronous_commit` off itself. Not below `lsn`.
    pub insert: Lsn,
    /// The epoch whose primary it was read from.
    pub epoch: Epoch,
}

/// The primary's position and each replica's.
pub struct Positions {
    base: Instant,
    reading: ArcSwapOption<Numbered>,
    /// The number of the newest reading, given just before that can be seen.
    number: AtomicU64,
    replicas: Box<[Replica]>,
    epoch: AtomicU64,
    wanted_until: AtomicU64,
    wake: Box<dyn Fn() + Send + Sync>,
}

/// A reading and its number. The first of an epoch has the number of the last of the epoch before.
#[derive(Debug, Clone, Copy)]
struct Numbered {
    reading: Reading,
    number: u64,
}

/// `lsn` holds for `epoch` only.
#[derive(Default)]
struct Replica {
    epoch: AtomicU64,
    lsn: AtomicU64,
}

impl Positions {
    /// Empty ones; times count from `base`.
    pub fn new(base: Instant) -> Self {
        Self::with_wake(base, || {})
    }

    /// As [`Self::new`]; `wake` is called by [`Self::want`] when nobody wanted readings before. It must not block.
    pub fn with_wake(base: Instant, wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            base,
            reading: ArcSwapOption::empty(),
            number: AtomicU64::new(0),
            replicas: (0..SLOTS).map(|_| Replica::default()).collect(),
            epoch: AtomicU64::new(0),
            wanted_until: AtomicU64::new(0),
            wake: Box::new(wake),
        }
    }

    /// The instant that times count from.
    pub fn base(&self) -> Instant {
        self.base
    }

    /// An instant as nanoseconds since [`Self::base`]; 0 for one before it.
    pub fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX)
    }

    /// A session needs fresh readings: for the next second they come every `topology.lsn_interval`.
    pub fn want(&self, now_nanos: u64) {
        let until = now_nanos.saturating_add(WANTED_FOR.as_nanos() as u64);
        // A store is dearer than a load, and a session asks at every statement: a tenth of a second's slack is enough.
        let known = self.wanted_until.load(Ordering::Relaxed);
        if until.saturating_sub(known) < WANTED_FOR.as_nanos() as u64 / 10 {
            return;
        }
        let before = self.wanted_until.fetch_max(until, Ordering::Relaxed);
        if before <= now_nanos {
            (self.wake)();
        }
    }

    /// Whether a session wants fresh readings.
    pub fn wanted(&self, now_nanos: u64) -> bool {
        now_nanos < self.wanted_until.load(Ordering::Relaxed)
    }

    /// The newest reading of the primary. It may be of an epoch that is over: compare before use.
    pub fn reading(&self) -> Option<Reading> {
        self.reading.load().as_deref().map(|newest| newest.reading)
    }

    /// How many readings of the primary there have been, as a mark for [`Self::reading_begun_after`]: one atomic load, where the
    /// clock would cost more.
    #[inline]
    pub fn mark(&self) -> u64 {
        self.number.load(Ordering::SeqCst)
    }

    /// The newest reading, if it was begun after the mark was taken: an epoch's readings come one after the other, so that the
    /// second one since then was begun when the first was there.
    pub fn reading_begun_after(&self, mark: u64) -> Option<Reading> {
        let newest = self.reading.load();
        newest.as_deref().filter(|newest| newest.number >= mark + 2).map(|newest| newest.reading)
    }

    /// How far the member has replayed in the present epoch; 0 while it doesn't stream on that epoch's timeline.
    pub fn replayed(&self, id: MemberId) -> Lsn {
        self.replayed_in(id, Epoch(self.epoch.load(Ordering::SeqCst)))
    }

    /// As [`Self::replayed`], for a caller that goes by a snapshot's epoch.
    pub fn replayed_in(&self, id: MemberId, epoch: Epoch) -> Lsn {
        let Some(replica) = self.replicas.get(usize::from(id.0)) else { return Lsn(0) };
        let before = replica.epoch.load(Ordering::SeqCst);
        let lsn = replica.lsn.load(Ordering::SeqCst);
        let after = replica.epoch.load(Ordering::SeqCst);
        if before == epoch.0 && after == epoch.0 { Lsn(lsn) } else { Lsn(0) }
    }

    /// Another epoch: what replicas have replayed in older ones counts no more.
    pub fn enter(&self, epoch: Epoch) {
        self.epoch.fetch_max(epoch.0, Ordering::SeqCst);
    }

    /// A monitor's reading of the primary. One that is older than what is there changes nothing.
    pub fn publish_primary(&self, reading: Reading) {
        self.reading.rcu(|current| {
            let Some(known) = current else { return Some(Numbered { reading, number: 0 }.into()) };
            if (known.reading.epoch, known.reading.begun) >= (reading.epoch, reading.begun) {
                return Some(known.clone());
            }
            let number = known.number + u64::from(known.reading.epoch == reading.epoch);
            self.number.fetch_max(number, Ordering::SeqCst);
            Some(Numbered { reading, number }.into())
        });
    }

    /// A monitor's reading of a replica that streams on the timeline of `epoch`; `Lsn(0)` for one that doesn't.
    /// Each member's readings come from one task.
    pub fn publish_replica(&self, id: MemberId, epoch: Epoch, lsn: Lsn) {
        let Some(replica) = self.replicas.get(usize::from(id.0)) else { return };
        let known = replica.epoch.load(Ordering::SeqCst);
        if epoch.0 < known {
            return;
        }
        if epoch.0 > known {
            // In this order nobody sees the old epoch's position under the new epoch.
            replica.lsn.store(0, Ordering::SeqCst);
            replica.epoch.store(epoch.0, Ordering::SeqCst);
        }
        replica.lsn.store(lsn.0, Ordering::SeqCst);
    }
}

impl fmt::Debug for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Positions").field("reading", &self.reading()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    const SECOND: u64 = 1_000_000_000;

    fn reading(epoch: u64, begun: u64, lsn: u64) -> Reading {
        Reading { begun, lsn: Lsn(lsn), insert: Lsn(lsn), epoch: Epoch(epoch) }
    }

    #[test]
    fn wanting_lasts_a_second_and_wakes_once() {
        let woken = Arc::new(AtomicUsize::new(0));
        let counter = woken.clone();
        let positions = Positions::with_wake(Instant::now(), move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        assert!(!positions.wanted(0));
        positions.want(5 * SECOND);
        positions.want(5 * SECOND + 1);
        positions.want(5 * SECOND + SECOND / 2);
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        assert!(positions.wanted(6 * SECOND + SECOND / 3));
        assert!(!positions.wanted(7 * SECOND));
        positions.want(9 * SECOND);
        assert_eq!(woken.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn readings_never_go_back() {
        let positions = Positions::new(Instant::now());
        assert_eq!(positions.reading(), None);
        positions.publish_primary(reading(1, 10, 100));
        positions.publish_primary(reading(1, 5, 50));
        assert_eq!(positions.reading(), Some(reading(1, 10, 100)));
        // A new primary may stand below the old one's last position: the epoch decides.
        positions.publish_primary(reading(2, 20, 90));
        positions.publish_primary(reading(1, 30, 500));
        assert_eq!(positions.reading(), Some(reading(2, 20, 90)));
    }

    #[test]
    fn the_second_reading_since_a_mark_was_begun_after_it() {
        let positions = Positions::new(Instant::now());
        let mark = positions.mark();
        assert_eq!(positions.reading_begun_after(mark), None);
        positions.publish_primary(reading(1, 10, 100));
        positions.publish_primary(reading(1, 20, 100));
        assert_eq!(positions.reading_begun_after(mark), None, "it may have been under way");
        positions.publish_primary(reading(1, 30, 110));
        assert_eq!(positions.reading_begun_after(mark), Some(reading(1, 30, 110)));
        let mark = positions.mark();
        positions.publish_primary(reading(1, 40, 120));
        positions.publish_primary(reading(1, 35, 0));
        // Another member's readings begin: the first of them may have been under way as well.
        positions.publish_primary(reading(2, 45, 100));
        assert_eq!(positions.reading_begun_after(mark), None);
        positions.publish_primary(reading(2, 50, 105));
        assert_eq!(positions.reading_begun_after(mark), Some(reading(2, 50, 105)));
    }

    #[test]
    fn replayed_counts_in_its_epoch_only() {
        let positions = Positions::new(Instant::now());
        let id = MemberId(3);
        positions.enter(Epoch(1));
        positions.publish_replica(id, Epoch(1), Lsn(500));
        assert_eq!(positions.replayed(id), Lsn(500));
        positions.enter(Epoch(2));
        assert_eq!(positions.replayed(id), Lsn(0));
        positions.publish_replica(id, Epoch(1), Lsn(600));
        assert_eq!(positions.replayed(id), Lsn(0));
        positions.publish_replica(id, Epoch(2), Lsn(40));
        assert_eq!(positions.replayed(id), Lsn(40));
        positions.publish_replica(id, Epoch(2), Lsn(0));
        assert_eq!(positions.replayed(id), Lsn(0));
        assert_eq!(positions.replayed(MemberId(u16::MAX)), Lsn(0));
        positions.publish_replica(MemberId(u16::MAX), Epoch(2), Lsn(1));
    }

    #[test]
    fn no_reader_sees_an_old_position_under_a_new_epoch() {
        let positions = Arc::new(Positions::new(Instant::now()));
        let id = MemberId(0);
        let writer = positions.clone();
        // In epoch e every position is e * 1000 or 0.
        let thread = std::thread::spawn(move || {
            for epoch in 1..=20_000 {
                writer.publish_replica(id, Epoch(epoch), Lsn(epoch * 1000));
                writer.enter(Epoch(epoch));
            }
        });
        let mut epoch = 0;
        while epoch < 20_000 {
            epoch = positions.epoch.load(Ordering::SeqCst);
            let lsn = positions.replayed_in(id, Epoch(epoch));
            assert!(lsn == Lsn(0) || lsn == Lsn(epoch * 1000), "{lsn:?} in {epoch}");
        }
        thread.join().unwrap();
    }
}
