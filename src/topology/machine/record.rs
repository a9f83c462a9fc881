//! The timed record of what happened to the primary: what a failover's account is drawn from.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::topology::{Epoch, Failure, HoldReason, MemberId};

/// Transitions kept; a failover makes about ten.
const KEPT: usize = 256;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Counts up by one from 1.
    pub number: u64,
    /// When the machine was told.
    pub at: Instant,
    /// The epoch after it.
    pub epoch: Epoch,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The leader key was deleted; it named this member.
    LeaderDeleted(Arc<str>),
    /// The leader key was written and names this member.
    LeaderPut(Arc<str>),
    /// A switchover was announced.
    Announced {
        /// To this member, if it was named.
        to: Option<Arc<str>>,
    },
    /// The announcement was taken back, done, or too old to wait for.
    AnnouncementOver,
    /// A member's check failed after one that was answered.
    Lost {
        /// The member.
        member: MemberId,
        /// When its last answered check began.
        last_good: Option<Instant>,
        /// What it failed for.
        why: Failure,
    },
    /// A member answers again.
    Answers(MemberId),
    /// A member's postmaster is another one than at its last check.
    Restarted(MemberId),
    /// A member went into recovery or left it.
    RoleChanged {
        /// The member.
        member: MemberId,
        /// Whether it is in recovery now.
        in_recovery: bool,
    },
    /// The leader answered, and isn't accepted as primary.
    Refused {
        /// The member.
        member: MemberId,
        /// For people.
        why: &'static str,
    },
    /// The member proved that it accepts writes and is primary from here on.
    Serving {
        /// The member.
        member: MemberId,
        /// Its timeline.
        timeline: u32,
    },
    /// No new writes from here on.
    Holding(HoldReason),
    /// Connections to this member from before are not used any more.
    Fenced(MemberId),
    /// A replica failed sessions too often: it serves no reads for this time.
    Ejected {
        /// The member.
        member: MemberId,
        /// How long.
        time: Duration,
    },
    /// A member's key is gone.
    MemberGone(MemberId),
    /// A member's key is there.
    MemberSeen(MemberId),
    /// etcd can't be reached.
    EtcdLost,
    /// etcd is there, and its keys were listed.
    EtcdListed,
}

/// The last transitions.
#[derive(Debug, Clone)]
pub(super) struct Record {
    kept: VecDeque<Transition>,
    number: u64,
}

impl Record {
    pub(super) fn new() -> Self {
        Self { kept: VecDeque::with_capacity(KEPT), number: 0 }
    }

    pub(super) fn push(&mut self, at: Instant, epoch: Epoch, what: What) {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.number += 1;
        self.kept.push_back(Transition { number: self.number, at, epoch, what });
    }

    /// Those after `number`, oldest first.
    pub(super) fn after(&self, number: u64) -> impl Iterator<Item = &Transition> {
        self.kept.iter().filter(move |transition| transition.number > number)
    }
}
