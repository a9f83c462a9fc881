//! PURE: Patroni's keys and live checks into one snapshot.
//!
//! `session` and `control` meet in a [`Topology`], swapped whole. Time comes in as `now`.

mod check;
mod lag;
mod machine;
pub mod patroni;
mod positions;

use std::sync::Arc;
use std::time::Duration;

pub use check::{Check, CheckFailure, CheckResult, Failure, Found};
pub use machine::{KeysChange, Machine, Poll, Position, Settings, Transition, What};
pub use positions::{Positions, Reading};

/// The span of one primary's rule; grows by one when another member takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

/// A WAL position in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// A member's number: given once for each name while the proxy runs, never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u16);

/// Why there is no primary to send new writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HoldReason {
    /// Nothing is known yet.
    Starting,
    /// The leader key is gone.
    NoLeader,
    /// A planned switchover was announced (`failover` key).
    Switchover,
    /// The leader key is there, its member has not yet proved that it accepts writes.
    Verifying,
    /// The leader doesn't answer its live check, or says that it doesn't accept writes.
    NotWritable,
    /// Two members accept writes.
    TwoPrimaries,
    /// A standby cluster: its leader is in recovery.
    StandbyCluster,
    /// etcd has been away longer than `topology.fence_after`.
    EtcdAway,
}

/// Whether new writes may be sent, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// This member is the primary of this epoch.
    Serving(MemberId),
    /// No new write transaction begins. Open ones of the last primary may go on while `last` names it (a deleted key, an
    /// announced switchover); once it was fenced there is none.
    Holding {
        /// Why.
        reason: HoldReason,
        /// The member that served last in this epoch, while it isn't fenced.
        last: Option<MemberId>,
    },
}

/// One member as routing sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: MemberId,
    /// Patroni's name of it.
    pub name: Arc<str>,
    /// Host to connect to.
    pub host: Arc<str>,
    /// Port to connect to.
    pub port: u16,
    /// Patroni's role, as last read (`primary`, `replica`, …) or as found by the live check.
    pub role: Arc<str>,
    /// Whether reads may go there now: streams on the primary's timeline, answers, within the limits of lag, tags allow it.
    pub serves_reads: bool,
    /// Whether its last check was answered, in time.
    pub answers: bool,
    /// Why not, for people.
    pub why_not: Option<&'static str>,
    /// Weight for the balance; 0 takes it out.
    pub weight: u32,
    /// Replay lag in bytes, as of the last check.
    pub lag_bytes: Option<u64>,
    /// Replay lag in time, as of the last check.
    pub lag: Option<Duration>,
    /// Its timeline, as of the last check.
    pub timeline: Option<u32>,
    /// Grows whenever connections to it can't be trusted any more (it was fenced, restarted as another role, moved): backends opened
    /// under a lower one are not used.
    pub generation: u64,
}

/// Who is primary and who may serve reads: one immutable snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Grows with every snapshot.
    pub version: u64,
    /// The epoch.
    pub epoch: Epoch,
    /// Where writes go.
    pub rule: Rule,
    /// The member that the leader key names and that has not proved itself yet: what is opened to it from here on serves its rule.
    pub candidate: Option<MemberId>,
    /// A switchover was announced, and open transactions have had the time that they get (`failover.drain`).
    pub drained: bool,
    /// The members, by [`MemberId`] ascending; those that are gone are left out.
    pub members: Arc<[Member]>,
    /// How long a statement waits for a primary by Patroni's own settings: ttl + loop_wait + 5 s.
    pub hold: Duration,
    /// How to read the primary's position: false: flush LSN; true: insert LSN, when `synchronous_commit` is off somewhere.
    pub insert_lsn: bool,
}

impl Topology {
    /// The member of this number, if it is still there.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// Which connections to a member may be used: those opened under this number. It is another one for each of the member's
    /// generations, and for each epoch that it is the primary of, or is to be: a new primary is not written to over a connection
    /// from before its rule.
    pub fn lease_generation(&self, member: &Member) -> u64 {
        let rules = match self.rule {
            Rule::Serving(id) => id == member.id,
            Rule::Holding { last, .. } => last == Some(member.id),
        };
        let rules = rules || self.candidate == Some(member.id);
        member.generation << 32 | if rules { self.epoch.0 } else { 0 }
    }

    /// Whether the cluster as a whole is a standby of another one: it takes no writes, and nobody waits for a primary.
    pub fn is_standby(&self) -> bool {
        matches!(self.rule, Rule::Holding { reason: HoldReason::StandbyCluster, .. })
    }

    /// The primary, if writes may be sent.
    pub fn primary(&self) -> Option<&Member> {
        match self.rule {
            Rule::Serving(id) => self.member(id),
            Rule::Holding { .. } => None,
        }
    }
}
