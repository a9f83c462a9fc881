//! Which worker serves whom: sessions stay packed on few workers while those suffice, and spread when they don't.
//!
//! Each worker measures its own share of a core, and sends sessions away by that: the busiest of them to a worker with room when it is
//! over [`FULL`], all busy ones to one before it when the two together are under
//! [`ROOM`]. A session that does nothing
//! stays where it is. Fewer workers at work is fewer wake-ups, and idle backends are where they are needed.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Worker;
use super::handle::Handle;
use crate::client::ROOM;

/// Parts of a core, in thousandths: a worker over it has too much to do.
const FULL: u32 = 750;

/// What a worker uses that serves nobody.
const CALM: u32 = 5;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// Sessions that leave a worker at one look.
const AT_ONCE: usize = 64;

/// What a worker knows of its own share.
#[derive(Debug)]
pub(super) struct Meter {
    at: Cell<Instant>,
    used: Cell<Duration>,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self { at: Cell::new(Instant::now()), used: Cell::new(Duration::ZERO) }
    }

    /// Thousandths of a core since the last look, when one is due.
    fn read(&self, now: Instant) -> Option<u32> {
        let passed = now.duration_since(self.at.get());
        if passed < INTERVAL {
            return None;
        }
        let used = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).ok()?;
        let used = Duration::from(used);
        let spent = used.saturating_sub(self.used.replace(used));
        self.at.set(now);
        u32::try_from(spent.as_millis() * 1000 / passed.as_millis().max(1)).ok()
    }
}

impl Worker {
    /// Whether the last look found next to nothing.
    pub(super) fn is_calm(&self) -> bool {
        self.shared.busyness.get(self.index).is_some_and(|mine| mine.now() < CALM)
    }

    /// Looks at how busy the worker is, and sends sessions to another if that is better.
    pub(super) fn balance(self: &Rc<Self>, now: Instant) {
        let all = &self.shared.busyness;
        let (Some(mine), Some(share)) = (all.get(self.index), self.meter.read(now)) else { return };
        mine.measured(share);
        if self.draining.get() || all.len() < 2 {
            return;
        }
        let sessions = self.sessions.borrow();
        let counted = sessions.values().map(|handle| (handle.batches_since(), handle));
        let mut active: Vec<_> = counted.filter(|(batches, _)| *batches > 0).collect();
        let shares: Vec<u32> = all.iter().map(|other| other.now()).collect();
        let Some((to, part)) = plan(&shares, self.index, share) else { return };
        active.sort_by_key(|(batches, _)| std::cmp::Reverse(*batches));
        for handle in leaving(&active, share, part) {
            handle.go(to);
        }
    }
}

/// Where sessions of worker `own` should go, whose share is `share`, and which part of the share with them.
fn plan(shares: &[u32], own: usize, share: u32) -> Option<(usize, u32)> {
    if share > FULL {
        let (to, least) = shares.iter().copied().enumerate().min_by_key(|(_, share)| *share)?;
        return (to != own && least < ROOM).then_some((to, (share - least) / 2));
    }
    // One before it that has room for all of it.
    let to = shares[..own].iter().position(|other| other + share < ROOM)?;
    Some((to, share))
}

/// The sessions to send away, busiest first in `active`, so that about `part` of `share` goes with them and not much more.
fn leaving<'a>(active: &[(u64, &'a Rc<Handle>)], share: u32, part: u32) -> Vec<&'a Rc<Handle>> {
    let all: u64 = active.iter().map(|(batches, _)| *batches).sum();
    let mut left = all * u64::from(part) / u64::from(share.max(1));
    let mut leaving = Vec::new();
    for (batches, handle) in active {
        if *batches <= left && leaving.len() < AT_ONCE {
            left -= batches;
            leaving.push(*handle);
        }
    }
    leaving
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::shown::Card;

    /// Which of sessions 1, 2, 3 … leave that have run so many batches.
    fn ids(batches: &[u64], share: u32, part: u32) -> Vec<u32> {
        let handles: Vec<_> = (1..)
            .map(Card::of)
            .map(|card| Handle::new(card, Instant::now()))
            .map(Rc::new)
            .take(batches.len())
            .collect();
        let active: Vec<_> = batches.iter().copied().zip(&handles).collect();
        leaving(&active, share, part).iter().map(|handle| handle.id).collect()
    }

    #[test]
    fn a_full_worker_gives_half_of_the_difference() {
        assert_eq!(plan(&[900, 100], 0, 900), Some((1, 400)));
        assert_eq!(ids(&[500, 300, 100], 900, 400), [2, 3]);
        assert_eq!(ids(&[900], 900, 400), [0; 0], "one session alone stays");
        assert_eq!(plan(&[900, 600], 0, 900), None, "the other has enough");
        assert_eq!(plan(&[700, 0], 0, 700), None, "one worker suffices");
    }

    #[test]
    fn two_that_are_not_busy_become_one() {
        assert_eq!(plan(&[200, 250], 1, 250), Some((0, 250)));
        assert_eq!(ids(&[10, 5, 1], 250, 250), [1, 2, 3]);
        assert_eq!(plan(&[300, 250], 1, 250), None, "together they are too much for one");
        assert_eq!(plan(&[200, 250], 0, 200), None, "the first stays");
        // What is sent away by one rule doesn't come back by the other.
        const { assert!(ROOM < FULL) };
    }
}
