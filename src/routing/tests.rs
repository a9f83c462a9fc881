//! Tables of what goes where.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::topology::{Epoch, Lsn, Reading, Rule};

fn member(id: u16, serves_reads: bool, weight: u32) -> Member {
    Member {
        id: MemberId(id),
        name: format!("m{id}").into(),
        host: "127.0.0.1".into(),
        port: 5432,
        role: "replica".into(),
        serves_reads,
        answers: true,
        why_not: None,
        weight,
        lag_bytes: None,
        lag: None,
        timeline: None,
        generation: 0,
    }
}

fn topology(members: Vec<Member>) -> Topology {
    Topology {
        version: 1,
        epoch: Epoch(1),
        rule: Rule::Serving(MemberId(0)),
        members: Arc::from(members),
        hold: Duration::from_secs(45),
        candidate: None,
        drained: false,
        insert_lsn: false,
    }
}

const READ: Ask = Ask {
    class: Class::Read,
    transaction_read_only: None,
    hint: None,
    split: true,
    balance: Balance::InTurn,
};

#[test]
fn reads_alternate_and_writes_stay() {
    let topology = topology(vec![member(0, false, 1), member(1, true, 1), member(2, true, 1)]);
    let turn = Turn::default();
    let targets: Vec<_> = (0..4).map(|_| decide(&topology, &READ, &turn, |_| true, |_| 0)).collect();
    assert_eq!(targets[0], targets[2]);
    assert_eq!(targets[1], targets[3]);
    assert_ne!(targets[0], targets[1]);
    for (ask, reason) in [
        (Ask { class: Class::Write, ..READ }, Reason::Write),
        (Ask { class: Class::Write, hint: Some(Hint::Replica), ..READ }, Reason::Write),
        (Ask { transaction_read_only: Some(false), ..READ }, Reason::Transaction),
        (Ask { hint: Some(Hint::Primary), ..READ }, Reason::Hint),
        (Ask { split: false, ..READ }, Reason::NotSplit),
    ] {
        assert_eq!(decide(&topology, &ask, &turn, |_| true, |_| 0), Target::Primary(reason), "{ask:?}");
    }
    assert_eq!(decide(&topology, &READ, &turn, |_| false, |_| 0), Target::Primary(Reason::Fence));
}

#[test]
fn who_has_no_choice_takes_no_turn() {
    let topology = topology(vec![member(0, false, 1), member(1, true, 1), member(2, true, 1)]);
    let turn = Turn::default();
    let first = decide(&topology, &READ, &turn, |_| true, |_| 0);
    for _ in 0..3 {
        let only = decide(&topology, &READ, &turn, |member| member.id == MemberId(1), |_| 0);
        assert_eq!(only, Target::Replica(MemberId(1)));
    }
    assert_ne!(decide(&topology, &READ, &turn, |_| true, |_| 0), first);
}

#[test]
fn what_was_seen_is_shown_again() {
    let (one, other) = (member(1, true, 1), member(2, true, 1));
    let seen = Seen { member: one.id, generation: one.generation, mark: 7 };
    assert!(seen.is_shown_by(&one, || Lsn(0), || None), "a member's replay never goes back");
    assert!(!seen.is_shown_by(&other, || Lsn(u64::MAX), || None), "nobody knows what was seen");
    let since = Reading { begun: 1, lsn: Lsn(100), insert: Lsn(100), epoch: Epoch(1) };
    assert!(!seen.is_shown_by(&other, || Lsn(99), || Some(since)));
    assert!(seen.is_shown_by(&other, || Lsn(100), || Some(since)));
    let restarted = Member { generation: one.generation + 1, ..one };
    assert!(!seen.is_shown_by(&restarted, || Lsn(99), || Some(since)), "it may stand before what it showed");
}

#[test]
fn weights_are_places_in_the_round() {
    let topology = topology(vec![member(1, true, 3), member(2, true, 1), member(3, true, 0)]);
    let turn = Turn::default();
    let hits =
        (0..400).filter(|_| decide(&topology, &READ, &turn, |_| true, |_| 0) == Target::Replica(MemberId(1)));
    assert_eq!(hits.count(), 300);
}

#[test]
fn the_least_busy_is_chosen_for_its_weight() {
    let topology = topology(vec![member(1, true, 1), member(2, true, 4), member(3, true, 1)]);
    let ask = Ask { balance: Balance::Least, ..READ };
    let choose =
        |load: [u64; 4]| decide(&topology, &ask, &Turn::default(), |_| true, |id| load[usize::from(id.0)]);
    assert_eq!(
        choose([0, 2, 4, 9]),
        Target::Replica(MemberId(2)),
        "four times the weight for twice the load"
    );
    assert_eq!(choose([0, 2, 40, 1]), Target::Replica(MemberId(3)));
    let turn = Turn::default();
    let mut hit: Vec<_> = (0..6).map(|_| decide(&topology, &ask, &turn, |_| true, |_| 0)).collect();
    hit.dedup();
    assert!(hit.len() > 1, "equals take turns");
}

#[test]
fn without_replicas_the_primary_serves_reads() {
    let topology = topology(vec![member(0, false, 1)]);
    assert_eq!(
        decide(&topology, &READ, &Turn::default(), |_| true, |_| 0),
        Target::Primary(Reason::NoReplica)
    );
}

#[test]
fn a_fence_needs_a_reading_begun_after_the_write() {
    let reading =
        |begun, lsn, epoch| Some(Reading { begun, lsn: Lsn(lsn), insert: Lsn(lsn), epoch: Epoch(epoch) });
    let mut fence = Fence::default();
    assert!(fence.resolve(None, Epoch(1)) && fence.is_reached(Lsn(0)));
    fence.wrote(100);
    assert!(!fence.resolve(reading(100, 7, 1), Epoch(1)));
    assert!(!fence.is_reached(Lsn(u64::MAX)));
    assert!(!fence.resolve(reading(101, 7, 2), Epoch(1)), "a reading of another epoch");
    assert!(fence.resolve(reading(101, 7, 1), Epoch(1)));
    assert!(!fence.is_reached(Lsn(6)) && fence.is_reached(Lsn(7)));
    assert!(
        fence.resolve(reading(900, 9, 1), Epoch(1)) && fence.is_reached(Lsn(7)),
        "it does not move by itself"
    );
    assert!(!fence.resolve(reading(900, 9, 1), Epoch(2)), "a failover sets it anew");
    assert!(fence.resolve(reading(950, 3, 2), Epoch(2)) && fence.is_reached(Lsn(3)));
}
