//! How busy each member is with the statements of this proxy: what `least_busy`, `ewma` and `vector.max_per_replica` go by.
//!
//! Kept only where one of them is configured: two locked additions a statement otherwise buy nothing.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::config::{self, Balance};
use crate::routing;
use crate::topology::MemberId;

/// Members that are told apart; further ones share places.
const PLACES: usize = 64;

/// A new answer time counts for one part in so many of the average.
const WEIGHT: u64 = 8;

/// What one member has to do.
#[derive(Debug, Default)]
struct Place {
    busy: AtomicUsize,
    searches: AtomicUsize,
    average_nanos: AtomicU64,
}

/// What all members have to do, over all workers.
#[derive(Debug)]
pub(super) struct Loads {
    places: Box<[Place]>,
    reads: Balance,
    searches: Balance,
    max_searches: usize,
}

/// A statement under way on a member; counted down when dropped.
#[derive(Debug)]
pub(super) struct Busy {
    shared: std::sync::Arc<super::Shared>,
    member: MemberId,
    search: bool,
    since: Instant,
}

impl Loads {
    pub(super) fn new(config: &config::Config) -> Self {
        Self {
            places: (0..PLACES).map(|_| Place::default()).collect(),
            reads: config.routing.balance,
            searches: config.vector.balance.unwrap_or(config.routing.balance),
            max_searches: config.vector.max_per_replica,
        }
    }

    /// Whether anything has to be counted.
    pub(super) fn counts(&self) -> bool {
        self.max_searches > 0 || self.reads != Balance::RoundRobin || self.searches != Balance::RoundRobin
    }

    /// How a member is chosen.
    pub(super) fn balance(&self, search: bool) -> routing::Balance {
        match if search { self.searches } else { self.reads } {
            Balance::RoundRobin => routing::Balance::InTurn,
            Balance::LeastBusy | Balance::Ewma => routing::Balance::Least,
        }
    }

    /// What a member has to do: statements under way, or those times its usual answer time in microseconds.
    pub(super) fn of(&self, member: MemberId, search: bool) -> u64 {
        let place = self.place(member);
        let busy = place.busy.load(Relaxed) as u64;
        match if search { self.searches } else { self.reads } {
            Balance::Ewma => (busy + 1) * (place.average_nanos.load(Relaxed) / 1000).max(1),
            Balance::RoundRobin | Balance::LeastBusy => busy,
        }
    }

    /// Whether a member may take one more vector search.
    pub(super) fn has_room_for_search(&self, member: MemberId) -> bool {
        self.max_searches == 0 || self.place(member).searches.load(Relaxed) < self.max_searches
    }

    fn place(&self, member: MemberId) -> &Place {
        &self.places[usize::from(member.0) % PLACES]
    }

    fn ended(&self, member: MemberId, search: bool, took: Duration) {
        let place = self.place(member);
        place.busy.fetch_sub(1, Relaxed);
        if search {
            place.searches.fetch_sub(1, Relaxed);
        }
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX / 2);
        let before = place.average_nanos.load(Relaxed);
        let now = if before == 0 { took } else { before - before / WEIGHT + took / WEIGHT };
        // Two workers at once: one of the two answer times counts, which an average can bear.
        place.average_nanos.store(now, Relaxed);
    }
}

impl Busy {
    /// Takes a member's place, if places are counted; none when it would be one search too many.
    ///
    /// # Errors
    /// The member has as many searches as it may have.
    pub(super) fn begin(
        shared: &std::sync::Arc<super::Shared>,
        member: MemberId,
        search: bool,
    ) -> Result<Option<Self>, Full> {
        let loads = &shared.loads;
        if !loads.counts() {
            return Ok(None);
        }
        let place = loads.place(member);
        if search && place.searches.fetch_add(1, Relaxed) >= loads.max_searches && loads.max_searches > 0 {
            place.searches.fetch_sub(1, Relaxed);
            return Err(Full);
        }
        place.busy.fetch_add(1, Relaxed);
        Ok(Some(Self { shared: std::sync::Arc::clone(shared), member, search, since: Instant::now() }))
    }
}

/// A member has as many searches as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl Drop for Busy {
    fn drop(&mut self) {
        self.shared.loads.ended(self.member, self.search, self.since.elapsed());
        self.shared.search_ended.notify_one();
    }
}
