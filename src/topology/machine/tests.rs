//! Every row of what Patroni does when something happens, in simulated time.

mod properties;
mod rest;

use super::*;
use crate::topology::{Check, CheckFailure, Failure, Lsn, Member};

const CLUSTER: u64 = 77;

fn settings() -> Settings {
    Settings {
        check_quiet: Duration::from_secs(1),
        check_busy: Duration::from_millis(20),
        check_timeout: Duration::from_secs(2),
        member_grace: Duration::from_secs(2),
        fence_after: None,
        drain: Duration::from_secs(5),
        hold: None,
        max_lag: Duration::from_secs(10),
        max_lag_bytes: 16 << 20,
        eject_after: 5,
        eject_time: Duration::from_secs(10),
        slow_start: Duration::ZERO,
        weights: BTreeMap::new(),
    }
}

/// A server as the simulation has it.
#[derive(Debug, Clone)]
struct Server {
    up: bool,
    found: Found,
    read_only: bool,
    cluster: u64,
    started: i64,
}

/// A machine, its servers and the time.
struct Sim {
    machine: Machine,
    servers: Vec<Server>,
    now: Instant,
    revision: i64,
}

fn primary(timeline: u32, flush: u64) -> Found {
    Found::Primary { timeline, flush: Lsn(flush) }
}

fn standby(timeline: u32, replayed: u64) -> Found {
    Found::Standby {
        replayed: Lsn(replayed),
        received_tli: Some(timeline),
        streaming: true,
        replay_age: None,
    }
}

fn cut_off(replayed: u64) -> Found {
    Found::Standby { replayed: Lsn(replayed), received_tli: None, streaming: false, replay_age: None }
}

fn name(n: usize) -> String {
    ["a", "b", "c"][n].to_owned()
}

fn member_key(n: usize, role: &str) -> KeyChange {
    let json = format!(r#"{{"conn_url":"postgres://{}:5432/x","state":"running","role":"{role}"}}"#, name(n));
    KeyChange::put(format!("members/{}", name(n)), json)
}

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

impl Sim {
    /// Three servers, `a` is primary on timeline 1.
    fn with(machine: impl FnOnce(Instant) -> Machine) -> Self {
        let now = Instant::now();
        let server = |found| Server { up: true, found, read_only: false, cluster: CLUSTER, started: 1 };
        let servers = vec![server(primary(1, 1000)), server(standby(1, 1000)), server(standby(1, 1000))];
        Self { machine: machine(now), servers, now, revision: 1 }
    }

    fn list(leader: Option<usize>) -> Vec<KeyChange> {
        let mut keys = vec![
            KeyChange::put("config", r#"{"ttl":30,"loop_wait":10}"#),
            KeyChange::put("initialize", CLUSTER.to_string()),
        ];
        keys.extend((0..3).map(|n| member_key(n, if Some(n) == leader { "primary" } else { "replica" })));
        keys.extend(leader.map(|leader| KeyChange::put("leader", name(leader))));
        keys
    }

    /// Following etcd, `a` serving epoch 1.
    fn serving() -> Self {
        Self::serving_with(settings())
    }

    fn serving_with(settings: Settings) -> Self {
        let mut sim = Self::with(|now| Machine::new(settings, now));
        assert_eq!(sim.reason(), HoldReason::Starting);
        sim.keys_all(Some(A));
        sim.check_all();
        sim.check_all();
        assert_eq!(sim.rule(), Rule::Serving(MemberId(0)));
        assert_eq!(sim.epoch(), 1);
        assert_eq!(sim.readable(), [B, C]);
        sim
    }

    fn keys_all(&mut self, leader: Option<usize>) {
        self.revision += 1;
        self.machine.handle_keys(KeysChange::All(Self::list(leader)), self.revision, self.now);
    }

    fn keys(&mut self, changes: Vec<KeyChange>) {
        self.revision += 1;
        self.machine.handle_keys(KeysChange::Some(changes), self.revision, self.now);
    }

    fn lead(&mut self, leader: usize) {
        self.keys(vec![KeyChange::put("leader", name(leader))]);
    }

    fn unlead(&mut self) {
        self.keys(vec![KeyChange::delete("leader")]);
    }

    fn wait(&mut self, milliseconds: u64) {
        rest::pass(&mut self.machine, &mut self.now, milliseconds);
    }

    /// A check on a connection opened just now.
    fn check(&mut self, n: usize) {
        let connected = self.now;
        self.check_through(n, connected);
    }

    fn check_through(&mut self, n: usize, connected: Instant) {
        let server = &self.servers[n];
        let result = if server.up {
            Ok(Check {
                begun: self.now,
                connected,
                took: Duration::from_millis(1),
                system_identifier: server.cluster,
                postmaster_start: server.started,
                read_only: server.read_only,
                asynchronous_commit: false,
                found: server.found.clone(),
            })
        } else {
            Err(CheckFailure { begun: self.now, why: Failure::Unreachable })
        };
        self.machine.handle_check(MemberId(n as u16), result, self.now);
    }

    fn check_all(&mut self) {
        self.wait(20);
        for n in 0..self.servers.len() {
            self.check(n);
        }
    }

    /// Time goes by with a round of checks every second.
    fn live(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.wait(980);
            self.check_all();
        }
    }

    fn topology(&self) -> &Topology {
        self.machine.topology()
    }

    fn rule(&self) -> Rule {
        self.topology().rule
    }

    fn serves(&self, n: usize, epoch: u64) -> bool {
        self.rule() == Rule::Serving(MemberId(n as u16)) && self.epoch() == epoch
    }

    fn reason(&self) -> HoldReason {
        match self.rule() {
            Rule::Holding { reason, .. } => reason,
            Rule::Serving(id) => panic!("{id:?} serves"),
        }
    }

    fn last(&self) -> Option<usize> {
        match self.rule() {
            Rule::Holding { last, .. } => last.map(|id| usize::from(id.0)),
            Rule::Serving(id) => panic!("{id:?} serves"),
        }
    }

    fn epoch(&self) -> u64 {
        self.topology().epoch.0
    }

    fn member(&self, n: usize) -> &Member {
        self.topology().member(MemberId(n as u16)).expect("the member is there")
    }

    fn generations(&self) -> Vec<u64> {
        (0..3).map(|n| self.machine.nodes[n].generation).collect()
    }

    fn readable(&self) -> Vec<usize> {
        let members = self.topology().members.iter();
        members.filter(|member| member.serves_reads).map(|member| usize::from(member.id.0)).collect()
    }

    fn happened(&self, what: &What) -> bool {
        self.machine.transitions_after(0).any(|transition| transition.what == *what)
    }
}

#[test]
fn key_alone_and_check_alone_make_no_primary() {
    let mut sim = Sim::with(|now| Machine::new(settings(), now));
    sim.keys_all(Some(A));
    assert_eq!((sim.reason(), sim.last(), sim.epoch()), (HoldReason::Verifying, None, 1));
    sim.keys_all(None);
    sim.check_all();
    assert_eq!(sim.reason(), HoldReason::NoLeader);
    let opened = sim.now;
    sim.wait(1);
    sim.lead(A);
    // What was found before the key was written proves nothing, and neither does a connection from before.
    assert_eq!(sim.reason(), HoldReason::Verifying);
    sim.wait(20);
    sim.check_through(A, opened);
    assert_eq!(sim.reason(), HoldReason::Verifying);
    sim.check(A);
    assert!(sim.serves(A, 1));
    assert_eq!(sim.topology().hold, Duration::from_secs(45));
}

#[test]
fn a_switchover_holds_at_its_announcement() {
    let mut sim = Sim::serving();
    sim.keys(vec![KeyChange::put("failover", r#"{"leader":"a","member":"b"}"#)]);
    assert_eq!((sim.reason(), sim.last()), (HoldReason::Switchover, Some(A)));
    sim.wait(290);
    // `a` shuts down: the stream of the others breaks. Reads go on.
    sim.servers[A].up = false;
    (sim.servers[B].found, sim.servers[C].found) = (cut_off(1000), cut_off(1000));
    sim.check_all();
    assert_eq!((sim.reason(), sim.last()), (HoldReason::Switchover, Some(A)));
    assert_eq!(sim.readable(), [B, C]);
    sim.wait(1800);
    sim.unlead();
    assert_eq!((sim.reason(), sim.last(), sim.epoch()), (HoldReason::Switchover, Some(A), 1));
    assert_eq!(sim.generations(), [0, 0, 0]);
    sim.wait(150);
    sim.lead(B);
    assert_eq!((sim.reason(), sim.last(), sim.epoch()), (HoldReason::Verifying, None, 2));
    assert_eq!(sim.generations(), [1, 0, 0]);
    sim.check_all();
    assert_eq!(sim.reason(), HoldReason::NotWritable, "still in recovery");
    sim.wait(150);
    sim.servers[B].found = primary(2, 1010);
    sim.check_all();
    assert!(sim.serves(B, 2));
    assert_eq!(&*sim.member(B).role, "primary");
    assert_eq!(sim.readable(), [] as [usize; 0], "nobody streams on the new timeline yet");
    sim.servers[C].found = standby(2, 1010);
    sim.check_all();
    assert_eq!(sim.readable(), [C]);
    // The announcement is emptied later: nothing to it.
    sim.keys(vec![KeyChange::put("failover", "{}")]);
    assert!(sim.serves(B, 2));
    // The old one comes back as a replica of the new timeline.
    sim.servers[A] = Server { up: true, found: cut_off(1000), started: 2, ..sim.servers[B].clone() };
    sim.check_all();
    assert_eq!(sim.readable(), [C]);
    sim.servers[A].found = standby(2, 1010);
    sim.check_all();
    assert_eq!(sim.readable(), [A, C]);
}

#[test]
fn open_transactions_have_their_time_at_a_switchover() {
    let mut sim = Sim::serving();
    sim.keys(vec![KeyChange::put("failover", r#"{"leader":"a","member":"b"}"#)]);
    sim.live(4);
    assert!(!sim.topology().drained);
    sim.live(2);
    assert_eq!((sim.topology().drained, sim.last()), (true, Some(A)));
    assert_eq!(sim.generations(), [0, 0, 0], "what isn't in a transaction goes on");
    sim.keys(vec![KeyChange::put("failover", "{}")]);
    assert!(!sim.topology().drained, "taken back");
}

#[test]
fn what_is_opened_to_a_candidate_serves_its_rule_and_no_other() {
    let mut sim = Sim::serving();
    let leases = |sim: &Sim| [A, B, C].map(|n| sim.topology().lease_generation(sim.member(n)));
    let before = leases(&sim);
    assert_eq!(sim.topology().candidate, None);
    sim.unlead();
    assert_eq!((sim.topology().candidate, leases(&sim)), (None, before), "a deleted key changes nothing");
    sim.lead(B);
    let candidacy = leases(&sim);
    assert_eq!(sim.topology().candidate, Some(sim.member(B).id));
    assert_ne!(candidacy[B], before[B], "not what was opened before the key was written");
    sim.check_all();
    assert_eq!((sim.reason(), leases(&sim)), (HoldReason::NotWritable, candidacy), "still in recovery");
    sim.servers[B].found = primary(2, 1010);
    sim.check_all();
    assert!(sim.serves(B, 2));
    assert_eq!((sim.topology().candidate, leases(&sim)), (None, candidacy), "what is open may be used");

    // One that is named and never serves: what was opened to it is of no use when it is named again.
    sim.lead(C);
    let first = leases(&sim)[C];
    sim.lead(A);
    sim.lead(C);
    assert_ne!(leases(&sim)[C], first);
}

#[test]
fn a_fenced_member_serves_nothing_till_it_streams_on_the_new_timeline() {
    let mut sim = Sim::serving();
    sim.lead(B);
    // It restarted as a standby, streaming on the old timeline from one that isn't promoted yet.
    sim.servers[A] = Server { found: standby(1, 1000), started: 2, ..sim.servers[A].clone() };
    sim.check_all();
    assert_eq!(sim.reason(), HoldReason::NotWritable);
    assert_eq!(sim.readable(), [B, C], "those who streamed in the last epoch");
    sim.servers[B].found = primary(2, 1010);
    sim.check_all();
    sim.check_all();
    assert!(sim.serves(B, 2));
    assert_eq!(sim.readable(), [] as [usize; 0]);
    sim.servers[A].found = standby(2, 1010);
    sim.check_all();
    assert_eq!(sim.readable(), [A]);
}

#[test]
fn an_announcement_taken_back_or_forgotten_ends_the_hold() {
    let mut sim = Sim::serving();
    sim.keys(vec![KeyChange::put("failover", r#"{"leader":"a","member":"b"}"#)]);
    sim.wait(500);
    sim.keys(vec![KeyChange::put("failover", "{}")]);
    assert_eq!(sim.reason(), HoldReason::Verifying);
    sim.check_all();
    assert!(sim.serves(A, 1));
    assert_eq!(sim.generations(), [0, 0, 0]);

    sim.keys(vec![KeyChange::put("failover", r#"{"leader":"a"}"#)]);
    sim.live(14);
    assert_eq!(sim.reason(), HoldReason::Switchover);
    sim.live(2);
    assert!(sim.serves(A, 1), "nobody acted on it within loop_wait + 5 s");
    // One for another leader, or a scheduled one, announces nothing.
    sim.keys(vec![KeyChange::put("failover", r#"{"leader":"b","member":"c"}"#)]);
    assert!(sim.serves(A, 1));
    sim.keys(vec![KeyChange::put("failover", r#"{"leader":"a","scheduled_at":"2030-01-01T00:00:00Z"}"#)]);
    assert!(sim.serves(A, 1));
}

#[test]
fn postgresql_killed_with_patroni_alive() {
    let mut sim = Sim::serving();
    sim.servers[A].up = false;
    (sim.servers[B].found, sim.servers[C].found) = (cut_off(1000), cut_off(1000));
    sim.live(1);
    assert_eq!((sim.reason(), sim.last(), sim.epoch()), (HoldReason::NotWritable, Some(A), 1));
    sim.live(4);
    assert_eq!(sim.readable(), [B, C], "they have what there is");
    sim.servers[A].up = true;
    sim.servers[A].started = 2;
    sim.check_all();
    assert!(sim.serves(A, 1), "the same epoch");
    assert_eq!(sim.generations(), [1, 0, 0], "its connections are dead");
    assert!(sim.happened(&What::Restarted(MemberId(0))));

    // Restarted as a standby and promoted: another timeline, so another epoch.
    sim.servers[A].up = false;
    sim.live(2);
    sim.servers[A] = Server { up: true, started: 3, found: cut_off(1000), ..sim.servers[A].clone() };
    sim.check_all();
    assert_eq!(sim.reason(), HoldReason::NotWritable);
    sim.servers[A].found = primary(2, 1000);
    sim.check_all();
    assert!(sim.serves(A, 2));
    assert!(sim.generations()[A] > 1);
}

#[test]
fn a_dead_node_takes_leader_and_member_away_in_one_revision() {
    let mut sim = Sim::serving();
    sim.servers[A].up = false;
    (sim.servers[B].found, sim.servers[C].found) = (cut_off(1000), cut_off(1000));
    sim.live(25);
    assert_eq!(sim.readable(), [B, C], "reads go on for all of it");
    sim.keys(vec![KeyChange::delete("leader"), KeyChange::delete("members/a")]);
    assert_eq!((sim.reason(), sim.last()), (HoldReason::NoLeader, Some(A)));
    sim.wait(100);
    sim.lead(C);
    assert_eq!((sim.epoch(), sim.last()), (2, None));
    sim.servers[C].found = primary(2, 1000);
    sim.check_all();
    assert!(sim.serves(C, 2));
    sim.live(3);
    assert_eq!(sim.topology().member(MemberId(0)), None, "gone with its grace");
    assert_eq!(sim.member(B).why_not, Some("doesn't stream from the primary"));
}

#[test]
fn a_lease_blip_drops_nothing() {
    let mut sim = Sim::serving();
    sim.unlead();
    assert_eq!((sim.reason(), sim.last()), (HoldReason::NoLeader, Some(A)));
    assert_eq!(sim.readable(), [B, C]);
    sim.wait(100);
    sim.lead(A);
    assert_eq!((sim.reason(), sim.last()), (HoldReason::Verifying, Some(A)));
    sim.check_all();
    assert!(sim.serves(A, 1));
    assert_eq!(sim.generations(), [0, 0, 0]);
    assert!(!sim.happened(&What::Fenced(MemberId(0))));
}

#[test]
fn a_zombie_primary_gets_nothing() {
    let mut sim = Sim::serving();
    // Patroni of `a` is frozen: its lease runs out, `b` leads; `a` takes writes all the time.
    sim.keys(vec![KeyChange::delete("leader"), KeyChange::delete("members/a")]);
    sim.live(12);
    sim.lead(B);
    sim.servers[B].found = primary(2, 1010);
    sim.servers[C].found = standby(2, 1010);
    sim.check_all();
    sim.check_all();
    assert!(sim.serves(B, 2));
    // Thawed, it says that it is primary, on the old timeline.
    sim.keys(vec![member_key(A, "primary")]);
    sim.check_all();
    assert!(sim.serves(B, 2));
    assert_eq!(sim.readable(), [C]);
    assert_eq!(sim.member(A).why_not, Some("takes writes and isn't the leader"));
    // And should the key name it by mistake, its timeline is older than the highest.
    sim.lead(A);
    sim.check_all();
    assert_eq!((sim.reason(), sim.last(), sim.epoch()), (HoldReason::NotWritable, None, 3));
    // With etcd away there is nobody to decide between two.
    sim.lead(B);
    sim.check_all();
    assert!(sim.serves(B, 3), "the epoch in between had no primary");
    sim.machine.handle_etcd_lost(sim.now);
    assert_eq!((sim.reason(), sim.last()), (HoldReason::TwoPrimaries, None));
}

#[test]
fn etcd_away_keeps_the_topology_while_checks_pass() {
    let mut sim = Sim::serving();
    sim.machine.handle_etcd_lost(sim.now);
    sim.live(15);
    assert!(sim.serves(A, 1));
    assert_eq!(sim.readable(), [B, C]);
    // The primary demotes itself.
    sim.servers[A] = Server { found: cut_off(1000), started: 2, ..sim.servers[A].clone() };
    sim.live(1);
    assert_eq!((sim.reason(), sim.last()), (HoldReason::NotWritable, Some(A)));
    // Somebody else is writable: without its name in the key it gets nothing.
    sim.servers[B].found = primary(2, 1010);
    sim.live(1);
    assert_eq!(sim.reason(), HoldReason::NotWritable);
    // Changes are not believed before a list; one without members and leader, then both are back.
    sim.lead(B);
    assert_eq!(sim.reason(), HoldReason::NotWritable);
    sim.revision += 1;
    let empty = Sim::list(None).into_iter().filter(|key| !key.key.starts_with("members/")).collect();
    sim.machine.handle_keys(KeysChange::All(empty), sim.revision, sim.now);
    assert_eq!((sim.reason(), sim.last()), (HoldReason::NoLeader, Some(A)));
    sim.wait(150);
    sim.keys_all(Some(B));
    sim.check_all();
    assert!(sim.serves(B, 2));
}

#[test]
fn failsafe_mode_loses_the_key_for_a_moment() {
    let mut sim = Sim::serving();
    sim.machine.handle_etcd_lost(sim.now);
    sim.live(50);
    sim.keys_all(None);
    assert_eq!((sim.reason(), sim.last()), (HoldReason::NoLeader, Some(A)));
    sim.wait(100);
    sim.keys_all(Some(A));
    sim.check_all();
    assert!(sim.serves(A, 1));
    assert_eq!(sim.generations(), [0, 0, 0]);
}

#[test]
fn with_etcd_away_nothing_new_begins() {
    let mut sim = Sim::serving();
    sim.lead(B);
    sim.machine.handle_etcd_lost(sim.now);
    sim.servers[A].up = false;
    sim.servers[B].found = primary(2, 1010);
    sim.check_all();
    assert_eq!((sim.reason(), sim.epoch()), (HoldReason::Verifying, 2));
    sim.keys_all(Some(B));
    sim.check_all();
    assert!(sim.serves(B, 2));
    // The same member on another timeline is something new as well.
    sim.machine.handle_etcd_lost(sim.now);
    sim.servers[B].found = primary(3, 1010);
    sim.check_all();
    assert_eq!(sim.reason(), HoldReason::Verifying);
    sim.keys_all(Some(B));
    sim.check_all();
    assert!(sim.serves(B, 3));
}

#[test]
fn fence_after_stops_writes_while_etcd_is_away() {
    let limit = Duration::from_secs(20);
    let mut sim = Sim::serving_with(Settings { fence_after: Some(limit), ..settings() });
    sim.machine.handle_etcd_lost(sim.now);
    sim.live(19);
    assert!(sim.serves(A, 1));
    sim.live(1);
    assert_eq!((sim.reason(), sim.last()), (HoldReason::EtcdAway, None));
    assert_eq!(sim.generations(), [1, 0, 0]);
    sim.keys_all(Some(A));
    sim.check_all();
    assert!(sim.serves(A, 1));
    assert_eq!(sim.generations(), [1, 0, 0]);
}

#[test]
fn two_writable_members_with_etcd_away_stop_writes() {
    let mut sim = Sim::serving();
    sim.machine.handle_etcd_lost(sim.now);
    sim.servers[C].found = primary(2, 1000);
    sim.live(1);
    assert_eq!((sim.reason(), sim.last()), (HoldReason::TwoPrimaries, None));
    assert_eq!(sim.generations(), [1, 0, 0]);
    // The key decides when it can be read again.
    sim.keys_all(Some(A));
    sim.check_all();
    assert!(sim.serves(A, 1));
}

#[test]
fn promotion_by_hand_in_pause_is_no_leader() {
    let mut sim = Sim::serving();
    sim.keys(vec![KeyChange::put("config", r#"{"ttl":30,"loop_wait":10,"pause":true}"#)]);
    sim.servers[B].found = primary(2, 1000);
    sim.keys(vec![member_key(B, "primary")]);
    sim.live(3);
    assert!(sim.serves(A, 1));
    assert_eq!(sim.readable(), [C]);
}

#[test]
fn the_leader_of_a_standby_cluster_is_never_writable() {
    for change in [
        vec![member_key(A, "standby_leader")],
        vec![KeyChange::put("config", r#"{"standby_cluster":{"host":"x"}}"#)],
    ] {
        let mut sim = Sim::serving();
        sim.keys(change);
        sim.check_all();
        assert_eq!(sim.reason(), HoldReason::StandbyCluster);
        assert!(sim.topology().is_standby());
        assert_eq!(sim.readable(), [B, C], "reads go on");
        sim.servers[A].found = standby(1, 1000);
        sim.check_all();
        assert_eq!(sim.readable(), [A, B, C], "the leader is a standby as well");
    }
}

#[test]
fn a_leader_of_another_cluster_or_read_only_is_refused() {
    let mut sim = Sim::serving();
    sim.servers[A].read_only = true;
    sim.live(1);
    assert_eq!(sim.reason(), HoldReason::NotWritable);
    assert!(sim.happened(&What::Refused { member: MemberId(0), why: "is read-only" }));
    sim.servers[A].read_only = false;
    sim.servers[A].cluster = 78;
    sim.servers[B].cluster = 78;
    sim.live(1);
    assert_eq!(sim.reason(), HoldReason::NotWritable);
    assert_eq!(sim.member(B).why_not, Some("is of another cluster"));
    // Unless the cluster was made anew.
    sim.keys(vec![KeyChange::put("initialize", "78")]);
    sim.check_all();
    assert!(sim.serves(A, 1));
}

#[test]
fn without_initialize_nobody_is_primary() {
    let mut sim = Sim::with(|now| Machine::new(settings(), now));
    let keys = Sim::list(Some(A)).into_iter().filter(|key| key.key != "initialize").collect();
    sim.machine.handle_keys(KeysChange::All(keys), 1, sim.now);
    sim.check_all();
    assert_eq!(sim.reason(), HoldReason::NotWritable);
    sim.keys(vec![KeyChange::put("initialize", CLUSTER.to_string())]);
    sim.check_all();
    assert!(sim.serves(A, 1));
}

#[test]
fn a_cluster_made_anew_may_begin_at_timeline_1() {
    let mut sim = Sim::serving();
    sim.servers[A].found = primary(5, 1000);
    sim.check_all();
    assert!(sim.serves(A, 2));
    sim.servers[A].found = primary(1, 1000);
    sim.check_all();
    assert_eq!(sim.reason(), HoldReason::NotWritable);
    sim.keys(vec![KeyChange::delete("initialize")]);
    sim.keys(vec![KeyChange::put("initialize", CLUSTER.to_string())]);
    sim.check_all();
    assert!(sim.serves(A, 3));
}

#[test]
fn the_history_key_excludes_an_old_timeline_from_the_start() {
    let mut sim = Sim::with(|now| Machine::new(settings(), now));
    sim.keys_all(Some(A));
    sim.keys(vec![KeyChange::put("history", r#"[[1,5,"x"],[2,9,"y"]]"#)]);
    sim.check_all();
    assert_eq!(sim.reason(), HoldReason::NotWritable);
    sim.servers[A].found = primary(3, 1000);
    sim.check_all();
    assert!(sim.serves(A, 1));
}

#[test]
fn a_member_whose_key_is_gone_serves_reads_for_the_grace() {
    let mut sim = Sim::serving();
    sim.keys(vec![KeyChange::delete("members/b")]);
    sim.wait(1900);
    sim.check_all();
    assert_eq!(sim.readable(), [B, C]);
    sim.wait(100);
    assert_eq!(sim.readable(), [C]);
    assert_eq!(sim.topology().member(MemberId(1)), None);
    assert_eq!(sim.machine.poll_wanted(sim.now).len(), 2);
    sim.keys(vec![member_key(B, "replica")]);
    sim.check_all();
    assert_eq!(sim.readable(), [B, C]);
    assert_eq!(&*sim.member(B).name, "b", "it has its number again");
}

#[test]
fn an_unreadable_key_stops_nothing_else() {
    let mut sim = Sim::serving();
    sim.keys(vec![KeyChange::put("members/b", "{"), KeyChange::put("config", "nonsense")]);
    assert!(sim.serves(A, 1));
    assert_eq!(sim.machine.take_unreadable().len(), 2);
    assert_eq!(sim.machine.take_unreadable(), []);
    sim.live(3);
    assert_eq!(sim.readable(), [C]);
}

#[test]
fn what_takes_a_replica_out() {
    type Change = fn(&mut Sim);
    let cases: [(&str, Change); 9] = [
        ("is not running, by Patroni's word", |sim| {
            let json = r#"{"conn_url":"postgres://b:5432/x","state":"dancing","role":"replica"}"#;
            sim.keys(vec![KeyChange::put("members/b", json)]);
        }),
        ("its tag noloadbalance is set", |sim| {
            let json = r#"{"conn_url":"postgres://b:5432/x","state":"running","role":"replica",
                "tags":{"noloadbalance":true}}"#;
            sim.keys(vec![KeyChange::put("members/b", json)]);
        }),
        ("its weight is 0", |sim| {
            sim.machine.settings.weights.insert("b".to_owned(), 0);
        }),
        ("doesn't answer its check", |sim| sim.servers[B].up = false),
        ("is of another cluster", |sim| sim.servers[B].cluster = 1),
        ("doesn't stream from the primary", |sim| {
            sim.servers[B].found = cut_off(1000);
            sim.live(3);
        }),
        ("streams on another timeline than the primary's", |sim| {
            sim.servers[B].found = standby(2, 1000);
        }),
        ("is too far behind in bytes", |sim| {
            sim.servers[A].found = primary(1, 1000 + (17 << 20));
            sim.live(1);
        }),
        ("is too far behind in time", |sim| {
            sim.servers[A].found = primary(1, 2000);
            sim.servers[C].found = standby(1, 2000);
            sim.live(12);
        }),
    ];
    for (why_not, change) in cases {
        let mut sim = Sim::serving();
        change(&mut sim);
        sim.check_all();
        assert_eq!(sim.member(B).why_not, Some(why_not));
        assert!(sim.serves(A, 1), "{why_not}");
    }
    let mut sim = Sim::serving();
    sim.wait(5100);
    assert_eq!(sim.reason(), HoldReason::NotWritable, "a monitor that is stuck proves nothing");
    assert_eq!(sim.member(B).why_not, Some("doesn't answer its check"));
}

#[test]
fn a_replica_that_fails_sessions_is_out_for_a_while() {
    let mut sim = Sim::serving();
    let id = sim.member(B).id;
    let suspect = |sim: &mut Sim, times: usize| {
        for _ in 0..times {
            let _topology = sim.machine.handle_suspect(id, sim.now);
        }
    };
    suspect(&mut sim, 4);
    sim.live(11);
    suspect(&mut sim, 4);
    assert_eq!(sim.readable(), [B, C], "never five within ten seconds");
    suspect(&mut sim, 1);
    assert_eq!(sim.readable(), [C]);
    assert!(sim.happened(&What::Ejected { member: id, time: Duration::from_secs(10) }));
    sim.live(11);
    assert_eq!(sim.readable(), [B, C]);
    suspect(&mut sim, 5);
    sim.live(11);
    assert_eq!(sim.readable(), [C], "twice as long the second time");
    sim.live(10);
    assert_eq!(sim.readable(), [B, C]);
    // One that is down is told by its checks, and serves at once when it is back.
    suspect(&mut sim, 4);
    sim.servers[B].up = false;
    sim.check_all();
    suspect(&mut sim, 9);
    sim.servers[B] = Server { up: true, started: 2, ..sim.servers[B].clone() };
    sim.check_all();
    assert_eq!(sim.readable(), [B, C]);
    let primary = sim.member(A).id;
    for _ in 0..9 {
        assert_eq!(sim.machine.handle_suspect(primary, sim.now), None, "there is nobody in its place");
    }
}

#[test]
fn a_replica_that_comes_back_starts_slowly() {
    let mut sim = Sim::serving_with(Settings { slow_start: Duration::from_secs(10), ..settings() });
    let weights = |sim: &Sim| [B, C].map(|n| sim.member(n).weight);
    sim.live(1);
    assert_eq!(weights(&sim), [1, 1], "both began at once");
    sim.live(20);
    sim.servers[B].up = false;
    sim.check_all();
    sim.live(3);
    sim.servers[B].up = true;
    sim.check_all();
    assert_eq!(weights(&sim), [1, 10]);
    sim.live(5);
    assert_eq!(weights(&sim), [5, 10]);
    sim.live(6);
    assert_eq!(weights(&sim), [1, 1]);
}

#[test]
fn a_member_that_moved_or_restarted_is_trusted_anew() {
    let mut sim = Sim::serving();
    let json = r#"{"conn_url":"postgres://elsewhere:5432/x","state":"running","role":"replica"}"#;
    sim.keys(vec![KeyChange::put("members/b", json)]);
    assert_eq!(sim.generations(), [0, 1, 0]);
    assert_eq!(sim.member(B).why_not, Some("has not been checked yet"));
    sim.servers[C].started = 2;
    sim.check_all();
    assert_eq!(sim.generations(), [0, 1, 1]);
    assert_eq!(sim.readable(), [B, C]);
}

#[test]
fn lags_alone_make_a_snapshot_once_a_second() {
    let mut sim = Sim::serving();
    let before = sim.topology().version;
    for step in 0..100 {
        sim.servers[B].found = standby(1, 1000 - step);
        sim.check_all();
    }
    let made = sim.topology().version - before;
    assert!((2..=3).contains(&made), "{made} in two seconds");
}

#[test]
fn checks_are_quick_while_somebody_may_wait() {
    let mut sim = Sim::serving();
    let every = |sim: &Sim| sim.machine.poll_wanted(sim.now)[0].every;
    sim.live(4);
    assert_eq!(every(&sim), Duration::from_secs(1));
    sim.machine.handle_suspect(MemberId(0), sim.now);
    assert_eq!(every(&sim), Duration::from_millis(20));
    sim.live(3);
    assert_eq!(every(&sim), Duration::from_secs(1));
    sim.unlead();
    assert_eq!(every(&sim), Duration::from_millis(20));
    sim.lead(B);
    let polls = sim.machine.poll_wanted(sim.now);
    assert_eq!(polls[B].since, Some(sim.now));
    assert_eq!(polls[A].since, None);
    sim.live(100);
    assert_eq!(every(&sim), Duration::from_secs(1), "nobody waits that long");
}

#[test]
fn replicas_are_checked_often_until_they_follow_a_new_primary() {
    let mut sim = Sim::serving();
    let every =
        |sim: &Sim| sim.machine.poll_wanted(sim.now).iter().map(|poll| poll.every).collect::<Vec<_>>();
    let (quiet, busy) = (Duration::from_secs(1), Duration::from_millis(20));
    sim.live(4);
    assert_eq!(every(&sim), [quiet; 3]);
    // B leads now, A is down, C is slow to follow.
    sim.servers[A].up = false;
    sim.servers[B].found = primary(2, 2000);
    sim.servers[C].found = cut_off(1000);
    sim.lead(B);
    sim.live(6);
    assert!(sim.serves(B, 2));
    assert_eq!(every(&sim), [quiet, quiet, busy], "C is awaited");
    sim.servers[C].found = standby(2, 2000);
    sim.live(1);
    assert_eq!(every(&sim), [quiet; 3]);
    assert_eq!(sim.readable(), [C]);
    // One that never follows isn't asked so often for ever.
    sim.servers[B].found = cut_off(2000);
    sim.servers[C].found = primary(3, 3000);
    sim.lead(C);
    sim.live(60);
    assert_eq!(every(&sim), [quiet, busy, quiet]);
    sim.live(40);
    assert_eq!(every(&sim), [quiet; 3]);
}

#[test]
fn changes_that_are_not_newer_are_passed_over() {
    let mut sim = Sim::serving();
    sim.machine.handle_keys(KeysChange::Some(vec![KeyChange::delete("leader")]), sim.revision, sim.now);
    assert!(sim.serves(A, 1));
    let old = CheckFailure { begun: sim.now, why: Failure::Timeout };
    sim.check_all();
    sim.machine.handle_check(MemberId(0), Err(old), sim.now);
    assert!(sim.serves(A, 1));
    let unknown = CheckFailure { begun: sim.now, why: Failure::Timeout };
    assert_eq!(sim.machine.handle_check(MemberId(9), Err(unknown), sim.now), None);
}

fn static_sim() -> Sim {
    let members: Vec<_> = (0..3).map(|n| (name(n), 5432)).collect();
    Sim::with(|now| Machine::with_members(settings(), &members, now))
}

#[test]
fn static_members_are_asked_for_their_role() {
    let mut sim = static_sim();
    assert_eq!(sim.machine.poll_wanted(sim.now).len(), 3);
    sim.wait(1);
    sim.check(A);
    assert_eq!(sim.reason(), HoldReason::Starting, "the others may be primaries too");
    sim.check(B);
    sim.check(C);
    sim.check_all();
    assert!(sim.serves(A, 1));
    assert_eq!(sim.readable(), [B, C]);
    // It dies and another is promoted.
    sim.servers[A].up = false;
    sim.live(1);
    assert_eq!((sim.reason(), sim.last()), (HoldReason::NotWritable, Some(A)));
    sim.servers[B].found = primary(2, 1000);
    sim.check_all();
    assert!(sim.serves(B, 2));
    assert_eq!(sim.generations(), [1, 0, 0]);
    // The old one comes back without knowing: nobody can tell who is right.
    sim.servers[A].up = true;
    sim.check_all();
    assert_eq!((sim.reason(), sim.last()), (HoldReason::TwoPrimaries, None));
    sim.servers[A].found = standby(2, 1000);
    sim.check_all();
    assert!(sim.serves(B, 2));
    sim.check_all();
    assert_eq!(sim.readable(), [A]);
}

#[test]
fn a_static_primary_on_an_old_timeline_is_refused() {
    let mut sim = static_sim();
    sim.servers[A].found = primary(3, 1000);
    sim.check_all();
    assert!(sim.serves(A, 1));
    sim.servers[A].up = false;
    sim.servers[B].found = primary(2, 1000);
    sim.check_all();
    assert_eq!(sim.reason(), HoldReason::NotWritable);
    sim.servers[B].found = primary(4, 1000);
    sim.servers[B].cluster = 1;
    sim.check_all();
    assert_eq!(sim.reason(), HoldReason::NotWritable, "of another cluster");
}

#[test]
fn the_record_tells_a_failover() {
    let mut sim = Sim::serving();
    let before = sim.machine.transitions_after(0).last().map_or(0, |transition| transition.number);
    let last_good = sim.now;
    sim.wait(500);
    sim.servers[A].up = false;
    sim.check(A);
    sim.unlead();
    sim.lead(B);
    sim.servers[B].found = primary(2, 1000);
    sim.check_all();
    let (a, b) = (MemberId(0), MemberId(1));
    let what: Vec<_> =
        sim.machine.transitions_after(before).map(|transition| transition.what.clone()).collect();
    assert_eq!(
        what,
        [
            What::Lost { member: a, last_good: Some(last_good), why: Failure::Unreachable },
            What::Refused { member: a, why: "doesn't answer" },
            What::Holding(HoldReason::NotWritable),
            What::LeaderDeleted("a".into()),
            What::Holding(HoldReason::NoLeader),
            What::LeaderPut("b".into()),
            What::Fenced(a),
            What::Holding(HoldReason::Verifying),
            What::RoleChanged { member: b, in_recovery: false },
            What::Serving { member: b, timeline: 2 },
        ]
    );
    for _ in 0..1000 {
        sim.unlead();
        sim.lead(B);
    }
    assert_eq!(sim.machine.transitions_after(0).count(), 256);
    assert_eq!(Epoch(2), sim.topology().epoch);
}
