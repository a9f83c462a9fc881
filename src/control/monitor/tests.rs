//! Monitors against members that fail on demand.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::config::Source;
use crate::topology::Epoch;

/// What a made-up member does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Fine,
    Refuses,
    /// Takes the connection and never answers.
    Silent,
    Babbles,
}

#[derive(Clone)]
struct Member {
    mood: Arc<Mutex<Mood>>,
    connections: Arc<AtomicUsize>,
    /// Connections up to this number are ended by somebody.
    ended: Arc<AtomicUsize>,
}

struct Connection(Member, usize);

impl Connect for Member {
    type Link = Connection;

    async fn connect(&self, _: &str, _: u16, _: Duration) -> Result<Connection, LinkError> {
        let number = self.connections.fetch_add(1, Ordering::SeqCst) + 1;
        match *self.mood.lock().unwrap() {
            Mood::Refuses => Err(LinkError::Closed("refused".to_owned())),
            _ => Ok(Connection(self.clone(), number)),
        }
    }
}

impl Link for Connection {
    async fn query(&mut self, sql: &'static str) -> Result<Rows, LinkError> {
        if self.1 <= self.0.ended.load(Ordering::SeqCst) {
            return Err(LinkError::Closed("terminated".to_owned()));
        }
        let mood = *self.0.mood.lock().unwrap();
        match mood {
            Mood::Fine => {}
            Mood::Refuses => return Err(LinkError::Refused("57P03".to_owned())),
            Mood::Silent => std::future::pending().await,
            Mood::Babbles => return Ok(vec![vec![None]]),
        }
        let row = if sql == probe::CHECK {
            "f off 5 1 000000010000000000000001 100 120 - - - f"
        } else {
            "100 120"
        };
        Ok(vec![row.split(' ').map(|value| (value != "-").then(|| value.to_owned())).collect()])
    }
}

struct World {
    member: Member,
    monitors: Monitors<Member>,
    events: mpsc::Receiver<Event>,
    positions: Arc<Positions>,
    poll: Poll,
}

impl World {
    /// Checks every 20 ms, 100 ms of patience.
    fn new() -> Self {
        let member = Member {
            mood: Arc::new(Mutex::new(Mood::Fine)),
            connections: Arc::default(),
            ended: Arc::default(),
        };
        let config = TopologyConfig {
            source: Source::Static(Vec::new()),
            monitor_interval: Duration::from_secs(1),
            monitor_interval_busy: Duration::from_millis(20),
            lsn_interval: Duration::from_millis(1),
            monitor_timeout: Duration::from_millis(100),
            member_grace: Duration::from_secs(1),
            fence_after: None,
        };
        let (wake, woken) = watch::channel(());
        let positions = Arc::new(Positions::with_wake(Instant::now(), move || wake.send_modify(|()| {})));
        let (sender, events) = mpsc::channel(16);
        let mut monitors = Monitors::new(&config, member.clone(), positions.clone(), woken, sender);
        let poll = Poll {
            id: MemberId(0),
            name: "a".into(),
            host: "h".into(),
            port: 1,
            every: Duration::from_millis(20),
            since: None,
            position: None,
        };
        monitors.follow(vec![poll.clone()]);
        Self { member, monitors, events, positions, poll }
    }

    fn mood(&self, mood: Mood) {
        *self.member.mood.lock().unwrap() = mood;
    }

    fn change(&mut self, change: impl FnOnce(&mut Poll)) {
        change(&mut self.poll);
        self.monitors.follow(vec![self.poll.clone()]);
    }

    async fn next(&mut self) -> CheckResult {
        let event = timeout(Duration::from_secs(5), self.events.recv()).await.unwrap().unwrap();
        match event {
            Event::Checked(MemberId(0), result) => result,
            other => panic!("{other:?}"),
        }
    }

    /// The first result of a check begun from now on.
    async fn fresh(&mut self) -> CheckResult {
        let now = Instant::now();
        loop {
            let result = self.next().await;
            let begun = match &result {
                Ok(check) => check.begun,
                Err(failure) => failure.begun,
            };
            if begun >= now {
                return result;
            }
        }
    }

    fn connections(&self) -> usize {
        self.member.connections.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_connection_that_somebody_ended_is_no_failure() {
    let mut world = World::new();
    let first = world.next().await.unwrap();
    assert!(first.writable() && first.connected >= world.positions.base());
    assert_eq!(world.connections(), 1);
    world.member.ended.store(1, Ordering::SeqCst);
    for _ in 0..5 {
        world.fresh().await.unwrap();
    }
    assert_eq!(world.connections(), 2, "one is enough again");
}

#[tokio::test]
async fn failures_are_told_apart() {
    for (mood, expected) in [
        (Mood::Refuses, Failure::Unreachable),
        (Mood::Silent, Failure::Timeout),
        (Mood::Babbles, Failure::Unreadable),
    ] {
        let mut world = World::new();
        world.next().await.unwrap();
        world.mood(mood);
        assert_eq!(world.fresh().await.unwrap_err().why, expected, "{mood:?}");
        world.mood(Mood::Fine);
        world.fresh().await.unwrap();
    }
}

#[tokio::test]
async fn what_can_not_be_reached_is_tried_with_pauses() {
    let mut world = World::new();
    world.next().await.unwrap();
    world.mood(Mood::Refuses);
    world.fresh().await.unwrap_err();
    let (before, begun) = (world.connections(), Instant::now());
    while begun.elapsed() < Duration::from_millis(500) {
        world.next().await.unwrap_err();
    }
    let tries = world.connections() - before;
    assert!((2..=26).contains(&tries), "{tries} in half a second");
    // Quiet: seldom.
    world.change(|poll| poll.every = Duration::from_secs(1));
    world.mood(Mood::Fine);
    world.fresh().await.unwrap();
}

#[tokio::test]
async fn a_demand_is_met_at_once_and_through_a_new_connection() {
    let mut world = World::new();
    world.change(|poll| poll.every = Duration::from_secs(3600));
    world.next().await.unwrap();
    let since = Instant::now();
    world.change(|poll| poll.since = Some(since));
    let check = world.next().await.unwrap();
    assert!(check.begun >= since && check.connected >= since);
    assert_eq!(world.connections(), 2);
    // A move as well.
    world.change(|poll| poll.port = 2);
    world.next().await.unwrap();
    assert_eq!(world.connections(), 3);
}

#[tokio::test]
async fn positions_are_read_while_wanted() {
    let mut world = World::new();
    world.change(|poll| {
        poll.every = Duration::from_secs(3600);
        poll.position = Some(Position::Written(Epoch(7)));
    });
    world.next().await.unwrap();
    let asked = world.positions.nanos(Instant::now());
    world.positions.want(asked);
    let deadline = Instant::now() + Duration::from_secs(5);
    let reading = loop {
        match world.positions.reading() {
            Some(reading) if reading.begun > asked => break reading,
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
        assert!(Instant::now() < deadline);
    };
    assert_eq!((reading.epoch, reading.lsn, reading.insert), (Epoch(7), Lsn(100), Lsn(120)));
    // A reading that fails is no verdict, but leads to a check at once.
    world.mood(Mood::Refuses);
    world.positions.want(world.positions.nanos(Instant::now()));
    assert_eq!(world.next().await.unwrap_err().why, Failure::Unreachable);
}

#[tokio::test]
async fn a_member_that_is_gone_is_left_alone() {
    let mut world = World::new();
    world.next().await.unwrap();
    world.monitors.follow(Vec::new());
    let deadline = Instant::now() + Duration::from_secs(5);
    while !world.monitors.tasks.is_empty() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(1)).await;
        while world.events.try_recv().is_ok() {}
        world.monitors.follow(Vec::new());
    }
}
