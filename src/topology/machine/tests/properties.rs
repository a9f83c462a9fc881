//! Whatever comes in whatever order: nobody serves who may not.

use proptest::prelude::*;

use super::*;

const CLUSTER: u64 = 5;
const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Event {
    Lead(Option<usize>),
    Member(usize, bool),
    Initialize(bool),
    Failover(bool),
    ListAgain,
    EtcdLost,
    Wait(u64),
    /// All is well for so many seconds.
    Calm(u64),
    Answer {
        n: usize,
        primary: bool,
        read_only: bool,
        timeline: u32,
        cluster: u64,
        started: i64,
        old: bool,
    },
    Fail(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let n = 0..3_usize;
    let answer = (n.clone(), any::<bool>(), prop::bool::weighted(0.1), 1..4_u32);
    let rest = (prop::bool::weighted(0.1), prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    prop_oneof![
        3 => prop::option::weighted(0.8, n.clone()).prop_map(Event::Lead),
        1 => (n.clone(), any::<bool>()).prop_map(|(n, here)| Event::Member(n, here)),
        1 => any::<bool>().prop_map(Event::Initialize),
        1 => any::<bool>().prop_map(Event::Failover),
        1 => Just(Event::ListAgain),
        1 => Just(Event::EtcdLost),
        3 => (1..3000_u64).prop_map(Event::Wait),
        1 => (1..8_u64).prop_map(Event::Calm),
        12 => (answer, rest).prop_map(|((n, primary, read_only, timeline), (other, restarted, old))| {
            let cluster = if other { 6 } else { CLUSTER };
            Event::Answer { n, primary, read_only, timeline, cluster, started: i64::from(restarted), old }
        }),
        2 => n.prop_map(Event::Fail),
    ]
}

/// The keys as they stand in etcd, so that a list can be made of them.
struct World {
    keys: BTreeMap<String, String>,
    machine: Machine,
    now: Instant,
    revision: i64,
    /// The last answer of each member, if its last check was answered.
    answers: [Option<Check>; 3],
    /// The highest generation seen.
    generations: [u64; 3],
    rested: bool,
}

fn member(n: usize) -> (String, String) {
    let url = format!(r#"{{"conn_url":"postgres://{}:1/x","state":"running","role":"replica"}}"#, NAMES[n]);
    (format!("members/{}", NAMES[n]), url)
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let mut keys: BTreeMap<_, _> = (0..3).map(member).collect();
        keys.insert("initialize".to_owned(), CLUSTER.to_string());
        // Short times, so that it comes to rest between two events.
        let (hold, slow_start) = (Some(Duration::from_secs(1)), Duration::from_secs(2));
        let machine = Machine::new(Settings { hold, slow_start, ..settings() }, now);
        let (answers, generations) = ([None, None, None], [0; 3]);
        let mut world = Self { keys, machine, now, revision: 1, answers, generations, rested: false };
        world.list();
        world
    }

    fn list(&mut self) {
        let all = self.keys.iter().map(|(key, value)| KeyChange::put(key.clone(), value.clone())).collect();
        self.machine.handle_keys(KeysChange::All(all), self.revision, self.now);
    }

    /// A change that the watch tells of at once, if etcd is there.
    fn write(&mut self, key: &str, value: Option<String>) {
        self.revision += 1;
        let change = KeyChange { key: key.to_owned(), value: value.clone().map(String::into_bytes) };
        match value {
            Some(value) => self.keys.insert(key.to_owned(), value),
            None => self.keys.remove(key),
        };
        self.machine.handle_keys(KeysChange::Some(vec![change]), self.revision, self.now);
    }

    fn apply(&mut self, event: &Event) {
        self.now += Duration::from_millis(1);
        match event {
            Event::Lead(leader) => self.write("leader", leader.map(|n| NAMES[n].to_owned())),
            Event::Member(n, here) => {
                let (key, value) = member(*n);
                self.write(&key, here.then_some(value));
            }
            Event::Initialize(here) => self.write("initialize", here.then(|| CLUSTER.to_string())),
            Event::Failover(here) => self.write("failover", here.then(|| r#"{"member":"b"}"#.to_owned())),
            Event::ListAgain => self.list(),
            Event::EtcdLost => {
                self.machine.handle_etcd_lost(self.now);
            }
            Event::Wait(milliseconds) => rest::pass(&mut self.machine, &mut self.now, *milliseconds),
            Event::Calm(seconds) => self.calm(*seconds),
            Event::Answer { n, .. } => self.answer(*n, event),
            Event::Fail(n) => {
                self.answers[*n] = None;
                let failure = CheckFailure { begun: self.now, why: Failure::Timeout };
                self.machine.handle_check(MemberId(*n as u16), Err(failure), self.now);
            }
        }
    }

    fn calm(&mut self, seconds: u64) {
        let healthy = |n: usize, timeline: u32| Event::Answer {
            n,
            primary: n == 0,
            read_only: false,
            timeline,
            cluster: CLUSTER,
            started: 0,
            old: false,
        };
        self.write("failover", None);
        self.write("leader", Some(NAMES[0].to_owned()));
        self.list();
        for _ in 0..seconds {
            rest::pass(&mut self.machine, &mut self.now, 1000);
            let timeline = self.machine.highest_timeline.max(1);
            (0..NAMES.len()).for_each(|n| self.answer(n, &healthy(n, timeline)));
        }
        self.rested |= self.machine.rests_until(self.now).is_some();
    }

    fn answer(&mut self, n: usize, event: &Event) {
        let Event::Answer { primary, read_only, timeline, cluster, started, old, .. } = *event else {
            return;
        };
        let found = if primary {
            Found::Primary { timeline, flush: Lsn(100) }
        } else {
            let received_tli = Some(timeline);
            Found::Standby { replayed: Lsn(100), received_tli, streaming: true, replay_age: None }
        };
        let age = if old { Duration::from_secs(3600) } else { Duration::ZERO };
        let check = Check {
            begun: self.now,
            connected: self.now.checked_sub(age).unwrap_or(self.now),
            took: Duration::ZERO,
            system_identifier: cluster,
            postmaster_start: started,
            read_only,
            asynchronous_commit: false,
            found,
        };
        // A number for each name, in the order of the names: the first list had all three.
        self.answers[n] = Some(check.clone());
        self.machine.handle_check(MemberId(n as u16), Ok(check), self.now);
    }
}

fn holds(world: &World, before: &Topology) -> Result<(), TestCaseError> {
    let machine = &world.machine;
    let topology = machine.topology();
    prop_assert!(topology.epoch >= before.epoch && topology.version >= before.version);
    if let Rule::Serving(id) = topology.rule {
        let n = usize::from(id.0);
        // The key that the machine last believed names it, and nothing else is known of it while etcd is there.
        prop_assert_eq!(machine.keys.leader.as_deref(), Some(NAMES[n]));
        if machine.etcd == Etcd::Live {
            prop_assert_eq!(world.keys.get("leader").map(String::as_str), Some(NAMES[n]));
        } else {
            let writable = world.answers.iter().flatten().filter(|check| check.writable());
            let fresh = writable.filter(|check| world.now - check.begun <= Duration::from_secs(5));
            prop_assert!(fresh.count() <= 1, "two take writes and nobody says who is right");
            prop_assert!(topology.epoch == before.epoch, "something new began without etcd");
        }
        let Some(check) = &world.answers[n] else { return Err(TestCaseError::fail("it doesn't answer")) };
        prop_assert!(check.writable());
        prop_assert_eq!(check.system_identifier, CLUSTER);
        prop_assert!(check.connected >= machine.reign.since && check.begun >= machine.reign.since);
        prop_assert_eq!(machine.nodes[n].timeline(), machine.served_timeline());
        prop_assert!(topology.member(id).is_some(), "sessions find its address");
        prop_assert!(machine.announced.is_none());
    }
    for member in topology.members.iter().filter(|member| member.serves_reads) {
        let answered = world.answers[usize::from(member.id.0)].as_ref();
        prop_assert!(answered.is_some_and(|check| check.in_recovery() && check.system_identifier == CLUSTER));
        prop_assert!(topology.rule != Rule::Serving(member.id));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn nobody_serves_who_may_not(events in prop::collection::vec(event(), 1..80)) {
        let mut world = World::new();
        let mut primaries: BTreeMap<Epoch, (MemberId, u32)> = BTreeMap::new();
        let mut served_as: BTreeMap<MemberId, u64> = BTreeMap::new();
        for event in &events {
            let before = world.machine.topology().clone();
            world.apply(event);
            holds(&world, &before)?;
            let topology = world.machine.topology().clone();
            for node in &world.machine.nodes {
                let n = usize::from(node.id.0);
                prop_assert!(node.generation >= world.generations[n]);
                world.generations[n] = node.generation;
            }
            if matches!(event, Event::Lead(None)) {
                prop_assert_eq!(topology.epoch, before.epoch, "a deleted key touches nothing");
            }
            let Rule::Serving(id) = topology.rule else { continue };
            let timeline = world.machine.served_timeline().unwrap_or(0);
            // One primary and one timeline for each epoch.
            let known = *primaries.entry(topology.epoch).or_insert((id, timeline));
            prop_assert_eq!(known, (id, timeline));
            // The primary of an older epoch comes back under another generation only.
            if let Some((_, (old, _))) = primaries.range(..topology.epoch).next_back()
                && *old != id
            {
                let generation = world.machine.nodes[usize::from(old.0)].generation;
                prop_assert!(served_as.get(old).is_some_and(|before| generation > *before));
            }
            served_as.insert(id, world.machine.nodes[usize::from(id.0)].generation);
        }
    }
}

#[test]
fn the_world_comes_to_rest() {
    let mut world = World::new();
    world.apply(&Event::Calm(7));
    assert!(world.rested);
}
