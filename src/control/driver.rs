//! Drives the state machine: events in, snapshots out, monitors told what to check.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::link::Connect;
use super::monitor::Monitors;
use crate::topology::{
    CheckResult, HoldReason, KeysChange, Machine, MemberId, Positions, Rule, Topology, Transition, What,
};

/// Time between ticks, but for those that would find nothing: what depends on time alone is noticed this late.
const TICK: Duration = Duration::from_millis(100);
/// What is over at a time is seen to be just behind it.
const OVER: Duration = Duration::from_millis(1);

/// What etcd's follower and the monitors find.
#[derive(Debug)]
pub(super) enum Event {
    /// Keys and the revision that they are of.
    Keys(KeysChange, i64),
    /// No endpoint answers.
    EtcdLost,
    /// A member was checked.
    Checked(MemberId, CheckResult),
}

/// Owns the machine.
pub(super) struct Driver<C> {
    machine: Machine,
    monitors: Monitors<C>,
    positions: Arc<Positions>,
    inbox: mpsc::Receiver<Event>,
    suspected: mpsc::Receiver<MemberId>,
    topology: watch::Sender<Arc<Topology>>,
    transitions: watch::Sender<Arc<[Transition]>>,
    /// Number of the last transition that was logged.
    logged: u64,
}

/// Where the driver publishes.
type Published = (watch::Receiver<Arc<Topology>>, watch::Receiver<Arc<[Transition]>>);

impl<C: Connect> Driver<C> {
    pub(super) fn new(
        machine: Machine,
        monitors: Monitors<C>,
        positions: Arc<Positions>,
        inbox: mpsc::Receiver<Event>,
        suspected: mpsc::Receiver<MemberId>,
    ) -> (Self, Published) {
        let (topology, topology_seen) = watch::channel(machine.topology().clone());
        let (transitions, transitions_seen) = watch::channel(Arc::from([]));
        let driver =
            Self { machine, monitors, positions, inbox, suspected, topology, transitions, logged: 0 };
        (driver, (topology_seen, transitions_seen))
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut tick = Instant::now();
        self.monitors.follow(self.machine.poll_wanted(Instant::now()));
        loop {
            let changed = tokio::select! {
                // Suspicions and ticks must not wait behind a stream of checks.
                biased;
                Some(member) = self.suspected.recv() => {
                    self.machine.handle_suspect(member, Instant::now())
                }
                () = tokio::time::sleep_until(tick.into()) => {
                    let now = Instant::now();
                    tick = now + TICK;
                    self.machine.handle_tick(now)
                }
                Some(event) = self.inbox.recv() => self.take(event),
            };
            let happened = self.show();
            if let Some(topology) = changed {
                self.publish(topology);
            }
            let now = Instant::now();
            self.monitors.follow(self.machine.poll_wanted(now));
            if happened {
                self.log();
            }
            tick = match self.machine.rests_until(now) {
                Some(until) => until + OVER,
                None => tick.min(now + TICK),
            };
        }
    }

    fn take(&mut self, event: Event) -> Option<Arc<Topology>> {
        let now = Instant::now();
        match event {
            Event::Keys(change, revision) => {
                let changed = self.machine.handle_keys(change, revision, now);
                for unreadable in self.machine.take_unreadable() {
                    tracing::warn!(key = unreadable.key, "Patroni's key can't be read: {}", unreadable.why);
                }
                changed
            }
            Event::EtcdLost => self.machine.handle_etcd_lost(now),
            Event::Checked(member, result) => self.machine.handle_check(member, result, now),
        }
    }

    fn publish(&mut self, topology: Arc<Topology>) {
        if let Some(epoch) = self.machine.served_epoch() {
            // Before sessions learn of the epoch: positions of the one before count no more.
            self.positions.enter(epoch);
        }
        self.topology.send_replace(topology);
    }

    /// Shows what happened, if anything did: before the snapshot that comes of it.
    fn show(&self) -> bool {
        let happened = self.machine.transitions_after(self.logged).next().is_some();
        if happened {
            self.transitions.send_replace(self.machine.transitions_after(0).cloned().collect());
        }
        happened
    }

    fn log(&mut self) {
        for transition in self.machine.transitions_after(self.logged) {
            log(transition, self.machine.topology());
        }
        let last = self.machine.transitions_after(self.logged).last();
        self.logged = last.map_or(self.logged, |last| last.number);
    }
}

fn log(transition: &Transition, topology: &Topology) {
    let name = |id: &MemberId| match topology.member(*id) {
        Some(member) => member.name.to_string(),
        None => format!("member {}", id.0),
    };
    let epoch = transition.epoch.0;
    match &transition.what {
        What::LeaderDeleted(name) => tracing::warn!(epoch, member = &**name, "the leader key was deleted"),
        What::LeaderPut(name) => tracing::info!(epoch, member = &**name, "the leader key was written"),
        What::Announced { to } => tracing::info!(epoch, to = to.as_deref(), "a switchover was announced"),
        What::AnnouncementOver => tracing::info!(epoch, "the switchover's announcement is over"),
        What::Lost { member, why, .. } => {
            tracing::warn!(epoch, member = name(member), ?why, "the member doesn't answer");
        }
        What::Answers(member) => tracing::info!(epoch, member = name(member), "the member answers"),
        What::Restarted(member) => tracing::warn!(epoch, member = name(member), "the member was restarted"),
        What::RoleChanged { member, in_recovery } => {
            tracing::info!(epoch, member = name(member), in_recovery, "the member's role changed");
        }
        What::Refused { member, why } => {
            tracing::warn!(epoch, member = name(member), "the leader is not accepted as primary: it {why}");
        }
        What::Serving { member, timeline } => {
            tracing::info!(epoch, member = name(member), timeline, "the member is primary");
        }
        What::Holding(reason @ (HoldReason::TwoPrimaries | HoldReason::EtcdAway)) => {
            tracing::error!(epoch, ?reason, "writes are stopped");
        }
        What::Holding(reason) => tracing::warn!(epoch, ?reason, "new writes wait"),
        What::Fenced(member) => {
            tracing::warn!(epoch, member = name(member), "the member's connections are given up");
        }
        What::Ejected { member, time } => {
            tracing::warn!(epoch, member = name(member), ?time, "the member fails sessions: no reads there");
        }
        What::MemberGone(member) => tracing::warn!(epoch, member = name(member), "the member's key is gone"),
        What::MemberSeen(member) => tracing::info!(epoch, member = name(member), "the member's key is there"),
        What::EtcdLost => {
            tracing::warn!(epoch, serving = matches!(topology.rule, Rule::Serving(_)), "etcd is away");
        }
        What::EtcdListed => tracing::info!(epoch, "etcd is there"),
    }
}
