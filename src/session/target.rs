//! Where a batch goes: what the session asks of [`routing::decide`], and what a replica must have replayed for it.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::Session;
use super::acquire::{Attempt, bit};
use super::state::Tx;
use crate::config::{Consistency, Reads};
use crate::routing::{self, Ask, Fence, Seen, Target, Turn};
use crate::sql::{Class, ConsistencyHint};
use crate::topology::{Epoch, Member, Topology};

impl Session {
    /// Chooses the batch's target.
    pub(super) fn target(&mut self, attempt: &Attempt, topology: &Topology) -> Target {
        let worker = Rc::clone(&self.worker);
        let search = attempt.class == Class::VectorRead;
        self.target_in(attempt, topology, if search { &worker.searches } else { &worker.reads })
    }

    /// The same, in turn by `turn`.
    pub(super) fn target_in(&mut self, attempt: &Attempt, topology: &Topology, turn: &Turn) -> Target {
        let transaction_read_only = match &self.tx {
            _ if self.default_serializable() => Some(false),
            Tx::Deferred { modes, .. } => {
                Some(!modes.serializable && modes.read_only.unwrap_or_else(|| self.default_read_only()))
            }
            _ => attempt.begins,
        };
        let wishes = self.wishes();
        let wished = attempt.consistency.map(level).or(wishes.consistency);
        let consistency = wished.unwrap_or(self.pools.identity.consistency);
        let fence = self.fence_for(consistency, topology.epoch);
        let shared = &self.worker.shared;
        let seen = self.seen.filter(|_| consistency != Consistency::Eventual);
        let since = |seen: Seen| {
            let reading = shared.positions.reading_begun_after(seen.mark);
            reading.filter(|reading| reading.epoch == topology.epoch)
        };
        let search = attempt.class == Class::VectorRead;
        let ask = Ask {
            class: if attempt.writes { Class::Write } else { attempt.class },
            transaction_read_only,
            hint: attempt.hint.or(wishes.route),
            split: shared.config.routing.reads == Reads::Replicas && !self.pins.any(),
            balance: shared.loads.balance(search),
        };
        let ready = |member: &Member| {
            let id = member.id;
            let replayed = || shared.positions.replayed_in(id, topology.epoch);
            attempt.avoid & bit(id.0) == 0
                && (!search || shared.loads.has_room_for_search(id))
                && (fence == Fence::None || fence.is_reached(replayed()))
                && seen.is_none_or(|seen| seen.is_shown_by(member, replayed, || since(seen)))
        };
        let target = routing::decide(topology, &ask, turn, ready, |id| shared.loads.of(id, search));
        self.because = match target {
            Target::Primary(routing::Reason::Write) | Target::Replica(_) => None,
            Target::Primary(reason) => Some(reason.as_str()),
        };
        if target == Target::Primary(routing::Reason::Fence) {
            shared.positions.want(shared.positions.nanos(Instant::now()));
        }
        target
    }

    /// Whether a search goes to the primary for no other reason than that the replicas have as many as they may.
    pub(super) fn searches_are_full(&self, attempt: &Attempt, topology: &Topology, target: Target) -> bool {
        let loads = &self.worker.shared.loads;
        attempt.class == Class::VectorRead
            && target == Target::Primary(routing::Reason::Fence)
            && self.fence == Fence::None
            && topology.members.iter().any(|member| {
                member.serves_reads
                    && attempt.avoid & bit(member.id.0) == 0
                    && !loads.has_room_for_search(member.id)
            })
    }

    /// What a replica must have replayed for a read at this consistency.
    fn fence_for(&mut self, consistency: Consistency, epoch: Epoch) -> Fence {
        let shared = &self.worker.shared;
        let reading = || shared.positions.reading();
        match consistency {
            Consistency::Eventual => Fence::None,
            Consistency::Session => {
                if self.fence != Fence::None {
                    self.fence.resolve(reading(), epoch);
                }
                self.fence
            }
            Consistency::Strong => {
                let mut fence = Fence::default();
                match shared.last_write.load(Relaxed) {
                    0 => {}
                    at => {
                        fence.wrote(at);
                        fence.resolve(reading(), epoch);
                    }
                }
                fence
            }
        }
    }
}

fn level(hint: ConsistencyHint) -> Consistency {
    match hint {
        ConsistencyHint::Eventual => Consistency::Eventual,
        ConsistencyHint::Session => Consistency::Session,
        ConsistencyHint::Strong => Consistency::Strong,
    }
}
