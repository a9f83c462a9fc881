//! Whose turn it is among the eligible replicas.

use std::cell::Cell;

/// How a replica is chosen among the eligible ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// In turn, as the weights say.
    InTurn,
    /// The one with the least of what `load` tells, for its weight; in turn among equals.
    Least,
}

use crate::topology::{Member, MemberId};

/// One worker's place in the round; reads and vector searches have one each, so that neither unbalances the other.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    last: Cell<u64>,
}

impl Turn {
    /// The eligible member with the least load for its weight; among equals the one whose turn it is.
    pub fn least(
        &self,
        members: &[Member],
        eligible: impl Fn(&Member) -> bool,
        load: impl Fn(MemberId) -> u64,
    ) -> Option<MemberId> {
        let cost = |member: &Member| load(member.id).saturating_mul(1000) / u64::from(member.weight.max(1));
        let lowest = members.iter().filter(|m| eligible(m)).map(cost).min()?;
        self.next(members, |member| eligible(member) && cost(member) == lowest)
    }

    /// The next eligible member in turn, weights counting as so many places in the round.
    pub fn next(&self, members: &[Member], eligible: impl Fn(&Member) -> bool) -> Option<MemberId> {
        let (mut count, mut places, mut only) = (0, 0, None);
        for member in members.iter().filter(|m| eligible(m)) {
            (count, places, only) = (count + 1, places + u64::from(member.weight), Some(member.id));
        }
        // Who has no choice takes nobody's turn: else sessions that keep to their replica would push new ones to one side.
        if count < 2 || places == 0 {
            return only.filter(|_| places > 0);
        }
        let turn = self.last.get().wrapping_add(1);
        self.last.set(turn);
        let mut place = turn % places;
        members
            .iter()
            .filter(|m| eligible(m))
            .find(|m| {
                let weight = u64::from(m.weight);
                let mine = place < weight;
                place = place.wrapping_sub(weight);
                mine
            })
            .map(|m| m.id)
    }
}
