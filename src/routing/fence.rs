//! What a session's reads must have reached.
//!
//! Nothing is added to a write. A session that wrote remembers when its answer came; the first reading of the primary's
//! position that was begun after that gives the LSN that a replica must have replayed. Until there is such a reading
//! nobody knows, and reads go to the primary.

use crate::topology::{Epoch, Lsn, Member, MemberId, Reading};

/// A session's fence. Time is counted in nanoseconds from a base that the caller keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fence {
    /// The session has written nothing that a replica could lack.
    #[default]
    None,
    /// It wrote; the answer came at this time.
    Wrote {
        /// When, in nanoseconds.
        at: u64,
    },
    /// Replicas that have replayed this position, in this epoch, show all that it wrote.
    At {
        /// The position.
        lsn: Lsn,
        /// The epoch whose WAL that is.
        epoch: Epoch,
    },
}

/// What a session has read last, and where: its next read may show no less (monotonic reads).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The member that answered.
    pub member: MemberId,
    /// That member's generation: restarted, it may stand before what it had shown.
    pub generation: u64,
    /// [`Positions::mark`](crate::topology::Positions::mark) when the answer was there.
    pub mark: u64,
}

impl Seen {
    /// Whether `member` shows no less than was seen, having `replayed` so far. `since` gives a reading of the present primary that was
    /// begun after the mark: nobody has shown more than it. Neither is asked for the member that answered.
    pub fn is_shown_by(
        &self,
        member: &Member,
        replayed: impl FnOnce() -> Lsn,
        since: impl FnOnce() -> Option<Reading>,
    ) -> bool {
        (member.id, member.generation) == (self.member, self.generation)
            || since().is_some_and(|reading| replayed() >= reading.lsn)
    }
}

impl Fence {
    /// Takes up a write (or anything else that later reads must see) whose answer came at `at`.
    pub fn wrote(&mut self, at: u64) {
        *self = Self::Wrote { at };
    }

    /// Takes up a reading, if it says more than is known; true once the position to be reached is known.
    pub fn resolve(&mut self, reading: Option<Reading>, epoch: Epoch) -> bool {
        match *self {
            Self::None => true,
            Self::At { epoch: of, .. } if of == epoch => true,
            Self::At { .. } => {
                // A failover lies between: the position belongs to another history. Any reading of the new primary is later than the
                // write, and it holds all that was acknowledged and survived.
                self.adopt(reading.filter(|reading| reading.epoch == epoch))
            }
            Self::Wrote { at } => {
                self.adopt(reading.filter(|reading| reading.epoch == epoch && reading.begun > at))
            }
        }
    }

    /// Whether a replica that has replayed `replayed` shows all; false while the position is not known.
    pub fn is_reached(&self, replayed: Lsn) -> bool {
        match self {
            Self::None => true,
            Self::Wrote { .. } => false,
            Self::At { lsn, .. } => replayed >= *lsn,
        }
    }

    fn adopt(&mut self, reading: Option<Reading>) -> bool {
        if let Some(reading) = reading {
            *self = Self::At { lsn: reading.lsn, epoch: reading.epoch };
        }
        reading.is_some()
    }
}
