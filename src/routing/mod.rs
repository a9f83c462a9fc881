//! PURE: class, session and topology into a target.
//!
//! [`decide`] is the one place where a statement's member is chosen. It may send a read to the primary when in doubt,
//! and never anything else to a replica.

mod balance;
mod fence;
mod learnt;

pub use balance::{Balance, Turn};
pub use fence::{Fence, Seen};
pub use learnt::{Learnt, Lesson};

use crate::sql::{Class, Hint};
use crate::topology::{Member, MemberId, Topology};

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The strictest class of what will run.
    pub class: Class,
    /// The transaction's first statement: READ ONLY as a whole (true), or it may write (false); none outside of one.
    pub transaction_read_only: Option<bool>,
    /// The hint in front of the statement.
    pub hint: Option<Hint>,
    /// Whether reads may leave the primary at all (`routing.reads`, and not learnt to be a write).
    pub split: bool,
    /// How a replica is chosen.
    pub balance: Balance,
}

/// Where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To the primary, whoever that is when there is one.
    Primary(Reason),
    /// To this replica.
    Replica(MemberId),
}

/// Why it goes to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The statement writes, or may.
    Write,
    /// A transaction that may write.
    Transaction,
    /// The hint says so.
    Hint,
    /// Reads aren't split.
    NotSplit,
    /// No replica has replayed what the session must see.
    Fence,
    /// No replica is eligible.
    NoReplica,
}

impl Reason {
    /// The reason as a word for people and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Transaction => "transaction",
            Self::Hint => "hint",
            Self::NotSplit => "not split",
            Self::Fence => "fence",
            Self::NoReplica => "no replica",
        }
    }
}

/// Chooses where `ask` goes. `replayed` says whether a member has replayed what the session must see, `load` how much it has
/// to do.
pub fn decide(
    topology: &Topology,
    ask: &Ask,
    turn: &Turn,
    replayed: impl Fn(&Member) -> bool,
    load: impl Fn(MemberId) -> u64,
) -> Target {
    if ask.hint == Some(Hint::Primary) {
        return Target::Primary(Reason::Hint);
    }
    match (ask.transaction_read_only, ask.class) {
        (Some(false), _) => return Target::Primary(Reason::Transaction),
        (_, Class::Write) => return Target::Primary(Reason::Write),
        _ => {}
    }
    if !ask.split && ask.hint != Some(Hint::Replica) {
        return Target::Primary(Reason::NotSplit);
    }
    let eligible = |member: &Member| member.serves_reads && member.weight > 0;
    let ready = |member: &Member| eligible(member) && replayed(member);
    let chosen = match ask.balance {
        Balance::InTurn => turn.next(&topology.members, ready),
        Balance::Least => turn.least(&topology.members, ready, load),
    };
    match chosen {
        Some(member) => Target::Replica(member),
        None if topology.members.iter().any(eligible) => Target::Primary(Reason::Fence),
        None => Target::Primary(Reason::NoReplica),
    }
}

#[cfg(test)]
mod tests;
