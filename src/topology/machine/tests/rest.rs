//! When the machine says that time alone changes nothing, it doesn't.

use super::*;

const STEP: Duration = Duration::from_millis(20);

/// So much time goes by up to a tick. While the machine rests there are more of them, and none finds anything.
pub(super) fn pass(machine: &mut Machine, now: &mut Instant, milliseconds: u64) {
    let to = *now + Duration::from_millis(milliseconds);
    let rests = machine.rests_until(*now);
    let (polls, last) = (machine.poll_wanted(*now), machine.transitions_after(0).last().cloned());
    let mut at = *now + STEP;
    while at < rests.unwrap_or(*now).min(to) {
        assert_eq!(machine.handle_tick(at), None);
        assert_eq!((machine.rests_until(at), machine.poll_wanted(at)), (rests, polls.clone()));
        at += STEP;
    }
    assert_eq!(machine.transitions_after(0).last(), last.as_ref());
    machine.handle_tick(to);
    *now = to;
}

fn at_rest() -> Sim {
    let mut sim = Sim::serving_with(Settings { slow_start: Duration::from_secs(20), ..settings() });
    assert!(!rests(&sim), "it has just begun");
    sim.live(21);
    assert!(rests(&sim));
    sim
}

fn rests(sim: &Sim) -> bool {
    sim.machine.rests_until(sim.now).is_some()
}

#[test]
fn at_rest_the_next_that_happens_by_itself_is_a_check_that_does_not_come() {
    let mut sim = at_rest();
    let until = sim.machine.rests_until(sim.now).unwrap();
    assert_eq!(until - sim.now, settings().check_quiet + settings().check_timeout * 2);
    sim.wait(1000);
    assert_eq!(sim.machine.rests_until(sim.now), Some(until));
    sim.check(A);
    assert_eq!(sim.machine.rests_until(sim.now), Some(until), "the others' are as old as before");
    sim.check_all();
    assert!(sim.machine.rests_until(sim.now) > Some(until));

    // None comes any more: noticed at the time it said, and not only when somebody looks.
    let until = sim.machine.rests_until(sim.now).unwrap();
    assert!(sim.machine.handle_tick(until).is_none());
    assert!(sim.machine.handle_tick(until + Duration::from_millis(1)).is_some());
    assert!(!sim.member(B).answers && sim.readable().is_empty());
    sim.now = until;
    assert!(!rests(&sim));
}

/// What happens keeps the machine from resting until `seconds` later, and then no more.
fn wakes(seconds: u64, happens: impl FnOnce(&mut Sim)) {
    let mut sim = at_rest();
    happens(&mut sim);
    assert!(!rests(&sim));
    if let Some(before) = seconds.checked_sub(2).filter(|before| *before > 0) {
        sim.live(before);
        assert!(!rests(&sim));
    }
    sim.live(4);
    assert!(rests(&sim));
}

#[test]
fn trouble_of_a_session_is_no_rest() {
    wakes(2, |sim| drop(sim.machine.handle_suspect(MemberId(1), sim.now)));
    // Out for ten seconds, and then back with less than its weight.
    wakes(10 + 20, |sim| {
        for _ in 0..settings().eject_after {
            sim.machine.handle_suspect(MemberId(1), sim.now);
        }
    });
}

#[test]
fn keys_that_change_are_no_rest() {
    wakes(15 + 3, |sim| sim.keys(vec![KeyChange::put("failover", r#"{"leader":"a","member":"b"}"#)]));
    wakes(2, |sim| sim.keys(vec![KeyChange::delete("members/c")]));
    wakes(3, |sim| {
        sim.unlead();
        sim.wait(10);
        assert!(!rests(sim));
        sim.lead(A);
    });
}

#[test]
fn without_etcd_is_no_rest() {
    let mut sim = at_rest();
    sim.machine.handle_etcd_lost(sim.now);
    sim.live(200);
    assert!(!rests(&sim), "writes may have to stop");
    sim.keys_all(Some(A));
    assert!(rests(&sim));
}

#[test]
fn a_member_that_fails_is_no_rest() {
    wakes(20, |sim| {
        sim.servers[B].up = false;
        sim.check_all();
        assert!(!rests(sim));
        sim.servers[B].up = true;
    });
    // It may serve reads for a moment longer.
    wakes(2, |sim| {
        sim.servers[B].found = cut_off(1000);
        sim.check_all();
        assert!(!rests(sim));
        sim.servers[B].found = standby(1, 1000);
    });
}

#[test]
fn a_replica_that_is_to_follow_is_no_rest() {
    // It is checked often for as long as somebody may wait for a primary, and again as long.
    wakes(90, |sim| {
        sim.servers[B].found = primary(2, 1010);
        sim.servers[A].found = standby(2, 1010);
        sim.lead(B);
        sim.check_all();
        assert!(sim.serves(B, 2));
    });
}

#[test]
fn lags_that_change_are_shown_in_time() {
    let mut sim = at_rest();
    let shown = |sim: &Sim| sim.member(B).lag_bytes;
    sim.servers[A].found = primary(1, 5000);
    sim.check_all();
    assert_eq!(shown(&sim), Some(4000));
    sim.servers[B].found = standby(1, 5000);
    sim.check_all();
    assert_eq!(shown(&sim), Some(4000), "it was shown a moment ago");
    let until = sim.machine.rests_until(sim.now).unwrap();
    assert!(until <= sim.now + Duration::from_secs(1));
    sim.machine.handle_tick(until);
    assert_eq!(shown(&sim), Some(0));
}
