//! The state machine: keys, checks and time in, one snapshot out.
//!
//! ```text
//! Serving(leader, epoch) ── key deleted, or check failed ─► Holding ── key written ─► Holding(Verifying) ─► Serving
//! ```
//! The leader key alone never makes a primary, a live check alone never does, both together do. A deleted key holds new
//! writes and touches nothing else; another member's name in it fences the old one and begins another epoch.

mod ejection;
mod node;
mod reads;
mod record;
mod rest;
mod rule;
mod snapshot;

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lag::LagTrail;
use super::patroni::{KeyChange, Keys, MemberKey, Unreadable};
use super::positions::SLOTS;
use super::{CheckResult, Epoch, Found, HoldReason, MemberId, Rule, Topology};
use node::Node;
use record::Record;
pub use record::{Transition, What};
use rule::Reign;

/// How often members are checked, and by what they are judged.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `topology.monitor_interval`
    pub check_quiet: Duration,
    /// `topology.monitor_interval_busy`: while there is no primary, just after there is another, and of replicas that are
    /// to follow it.
    pub check_busy: Duration,
    /// `topology.monitor_timeout`: how long one check may take.
    pub check_timeout: Duration,
    /// `topology.member_grace`: how long a member whose key is gone still serves reads.
    pub member_grace: Duration,
    /// `topology.fence_after`: how long etcd may be away before writes stop.
    pub fence_after: Option<Duration>,
    /// `failover.drain`: how long open transactions may run on once a switchover was announced.
    pub drain: Duration,
    /// `failover.hold`; none: Patroni's ttl + loop_wait + 5 s.
    pub hold: Option<Duration>,
    /// `routing.max_lag`
    pub max_lag: Duration,
    /// `routing.max_lag_bytes`
    pub max_lag_bytes: u64,
    /// `routing.eject_after`: so many errors of a replica's within ten seconds take it out; 0: none do.
    pub eject_after: u32,
    /// `routing.eject_time`: for so long, and twice as long each next time.
    pub eject_time: Duration,
    /// `routing.slow_start`: how long a replica that serves again is given less than its weight.
    pub slow_start: Duration,
    /// `routing.weights` by member name; 1 for those not named.
    pub weights: BTreeMap<String, u32>,
}

/// What changed in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeysChange {
    /// All keys of the scope, just listed by a linearizable read: etcd is there.
    All(Vec<KeyChange>),
    /// The changes of one revision.
    Some(Vec<KeyChange>),
}

/// One member that is to be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    /// Which.
    pub id: MemberId,
    /// Its name.
    pub name: Arc<str>,
    /// Where.
    pub host: Arc<str>,
    /// Where.
    pub port: u16,
    /// From the beginning of one check to the next one's.
    pub every: Duration,
    /// A check that began before this, or through a connection opened before this, is of no use: check now.
    pub since: Option<Instant>,
    /// Which of its WAL positions sessions may need; none while there was no primary yet.
    pub position: Option<Position>,
}

/// Which WAL position of a member counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// What the primary of this epoch has written.
    Written(Epoch),
    /// What a replica has replayed, while it streams on the timeline of this epoch.
    Replayed {
        /// The last epoch that had a primary.
        epoch: Epoch,
        /// Its timeline.
        timeline: u32,
    },
}

/// A switchover that was announced and is not over.
#[derive(Debug, Clone, Copy)]
struct Announcement {
    at: Instant,
    /// Nobody waits for it any longer than that.
    until: Instant,
}

/// Whether etcd is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Etcd {
    /// There is none: the members stand in the configuration.
    Static,
    /// Its keys have not been listed yet.
    Never,
    Live,
    Away {
        since: Instant,
    },
}

/// The state machine. It does nothing by itself: whoever drives it calls `handle_*` and publishes what comes back.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    etcd: Etcd,
    keys: Keys,
    revision: i64,
    nodes: Vec<Node>,
    ids: HashMap<Arc<str>, MemberId>,
    reign: Reign,
    /// The last epoch that had a primary, and its timeline.
    served: Option<rule::Served>,
    /// The highest timeline that a primary of this cluster was seen on.
    highest_timeline: u32,
    system_identifier: Option<u64>,
    announced: Option<Announcement>,
    rule: Rule,
    rule_since: Instant,
    trail: LagTrail,
    record: Record,
    unreadable: Vec<Unreadable>,
    published: Arc<Topology>,
    published_at: Instant,
    /// Lags have changed that were published a moment ago.
    lags_wait: bool,
}

impl Machine {
    /// So long all are checked often after another primary began to serve.
    const SETTLING: Duration = Duration::from_secs(3);

    /// Follows Patroni's keys; nothing is known yet.
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self::with(settings, Etcd::Never, now)
    }

    /// Follows a fixed list of servers by asking each for its role. Names are `host:port`.
    pub fn with_members(settings: Settings, members: &[(String, u16)], now: Instant) -> Self {
        let mut machine = Self::with(settings, Etcd::Static, now);
        for (host, port) in members.iter().take(SLOTS) {
            let name: Arc<str> = format!("{host}:{port}").into();
            let key = MemberKey {
                host: host.as_str().into(),
                port: *port,
                state: "running".into(),
                role: "replica".into(),
                timeline: None,
                no_load_balance: false,
                no_failover: false,
            };
            if let Some(id) = machine.id_of(&name) {
                machine.node_mut(id).set_key(&key);
            }
        }
        let _first = machine.publish(now);
        machine
    }

    fn with(settings: Settings, etcd: Etcd, now: Instant) -> Self {
        let rule = Rule::Holding { reason: HoldReason::Starting, last: None };
        let trail = LagTrail::new(settings.max_lag);
        Self {
            etcd,
            keys: Keys::default(),
            revision: 0,
            nodes: Vec::new(),
            ids: HashMap::new(),
            reign: Reign::none(now),
            served: None,
            highest_timeline: 0,
            system_identifier: None,
            announced: None,
            rule,
            rule_since: now,
            trail,
            record: Record::new(),
            unreadable: Vec::new(),
            published: Arc::new(snapshot::empty(rule, &settings)),
            published_at: now,
            lags_wait: false,
            settings,
        }
    }

    /// The newest snapshot.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.published
    }

    /// What happened after the transition of this number, oldest first; 0 for all that is kept (the last 256).
    pub fn transitions_after(&self, number: u64) -> impl Iterator<Item = &Transition> {
        self.record.after(number)
    }

    /// Keys that couldn't be read since the last call.
    pub fn take_unreadable(&mut self) -> Vec<Unreadable> {
        mem::take(&mut self.unreadable)
    }

    /// The last epoch that had a primary.
    pub fn served_epoch(&self) -> Option<Epoch> {
        self.served.map(|served| served.epoch)
    }

    /// Its timeline.
    pub fn served_timeline(&self) -> Option<u32> {
        self.served.map(|served| served.timeline)
    }

    /// Keys came from etcd. A change of one revision that is not newer than what is known is passed over, and so is any while
    /// etcd is away: only a list brings it back.
    pub fn handle_keys(&mut self, change: KeysChange, revision: i64, now: Instant) -> Option<Arc<Topology>> {
        let (mut keys, changes) = match change {
            KeysChange::All(all) => (Keys::default(), all),
            KeysChange::Some(_) if self.etcd != Etcd::Live || revision <= self.revision => return None,
            KeysChange::Some(some) => (self.keys.clone(), some),
        };
        for change in &changes {
            if let Err(unreadable) = keys.apply(change) {
                self.report(unreadable);
            }
        }
        self.revision = revision;
        if self.etcd != Etcd::Live {
            self.etcd = Etcd::Live;
            self.record.push(now, self.reign.epoch, What::EtcdListed);
        }
        let old = mem::replace(&mut self.keys, keys);
        self.keys_changed(&old, now);
        self.settle(now)
    }

    /// A check came back. One that began before the last one is passed over.
    pub fn handle_check(&mut self, id: MemberId, result: CheckResult, now: Instant) -> Option<Arc<Topology>> {
        let epoch = self.reign.epoch;
        let node = self.nodes.get_mut(usize::from(id.0))?;
        let begun = match &result {
            Ok(check) => check.begun,
            Err(failure) => failure.begun,
        };
        if node.last_begun().is_some_and(|last| begun < last) {
            return None;
        }
        match result {
            Ok(check) => self.answered(id, check, now),
            Err(failure) => {
                if node.failed.is_none() {
                    let last_good = node.check.as_ref().map(|check| check.begun);
                    self.record.push(now, epoch, What::Lost { member: id, last_good, why: failure.why });
                }
                node.failed = Some(failure);
            }
        }
        self.settle(now)
    }

    /// No endpoint of etcd answers.
    pub fn handle_etcd_lost(&mut self, now: Instant) -> Option<Arc<Topology>> {
        if self.etcd == Etcd::Live {
            self.etcd = Etcd::Away { since: now };
            self.record.push(now, self.reign.epoch, What::EtcdLost);
        }
        self.settle(now)
    }

    /// Time went by: to be called every 100 ms or so, and at [`Self::rests_until`] where that is known.
    pub fn handle_tick(&mut self, now: Instant) -> Option<Arc<Topology>> {
        self.settle(now)
    }

    /// A session saw this member's connection end, or was refused by it: it is checked often for the next two seconds, and a replica
    /// of which sessions say so too often is taken out for a while.
    pub fn handle_suspect(&mut self, id: MemberId, now: Instant) -> Option<Arc<Topology>> {
        let node = self.nodes.get_mut(usize::from(id.0))?;
        node.suspected_until = Some(now + Duration::from_secs(2));
        if self.rule == Rule::Serving(id) || !node.answers() {
            return None;
        }
        let out = node.errors.another(self.settings.eject_after, self.settings.eject_time, now)?;
        self.record.push(now, self.reign.epoch, What::Ejected { member: id, time: out });
        self.settle(now)
    }

    /// Which members to check, and how often.
    pub fn poll_wanted(&self, now: Instant) -> Vec<Poll> {
        let busy = self.busy(now);
        let visible = self.nodes.iter().filter(|node| self.visible(node, now));
        visible
            .filter_map(|node| {
                let key = node.key.as_ref()?;
                let often = busy || node.suspected(now) || self.is_to_follow(node, now);
                let every = if often { self.settings.check_busy } else { self.settings.check_quiet };
                let since = (self.reign.of == Some(node.id)).then_some(self.reign.since);
                let (name, host, port) = (node.name.clone(), key.host.clone(), key.port);
                let position = self.position(node.id);
                Some(Poll { id: node.id, name, host, port, every, since, position })
            })
            .collect()
    }

    fn position(&self, id: MemberId) -> Option<Position> {
        let served = self.served?;
        let reigns = self.reign.of == Some(id);
        if !reigns {
            return Some(Position::Replayed { epoch: served.epoch, timeline: served.timeline });
        }
        let in_recovery = self.node(id).check.as_ref().is_none_or(super::Check::in_recovery);
        let last = self.reign.timeline.is_some() && !self.reign.fenced && !in_recovery;
        last.then_some(Position::Written(self.reign.epoch))
    }

    /// Busy while somebody may wait for a primary, and a while after another one began to serve, so that the replicas that
    /// follow it serve again soon.
    fn busy(&self, now: Instant) -> bool {
        let for_so_long = now.saturating_duration_since(self.rule_since);
        match self.rule {
            Rule::Serving(_) => for_so_long < Self::SETTLING,
            Rule::Holding { reason: HoldReason::StandbyCluster, .. } => false,
            Rule::Holding { .. } => for_so_long < self.hold() * 2,
        }
    }

    fn hold(&self) -> Duration {
        let patroni = self.keys.config.ttl + self.keys.config.loop_wait + Duration::from_secs(5);
        self.settings.hold.unwrap_or(patroni)
    }

    fn report(&mut self, unreadable: Unreadable) {
        if self.unreadable.len() < SLOTS {
            self.unreadable.push(unreadable);
        }
    }

    /// The number of this name; none when there are too many names.
    fn id_of(&mut self, name: &Arc<str>) -> Option<MemberId> {
        if let Some(id) = self.ids.get(name) {
            return Some(*id);
        }
        let id = MemberId(u16::try_from(self.nodes.len()).ok().filter(|id| usize::from(*id) < SLOTS)?);
        self.nodes.push(Node::new(id, name.clone()));
        self.ids.insert(name.clone(), id);
        Some(id)
    }

    fn node(&self, id: MemberId) -> &Node {
        &self.nodes[usize::from(id.0)]
    }

    fn node_mut(&mut self, id: MemberId) -> &mut Node {
        &mut self.nodes[usize::from(id.0)]
    }

    /// Takes over what another set of keys means, but for who leads.
    fn keys_changed(&mut self, old: &Keys, now: Instant) {
        self.members_changed(now);
        if self.keys.initialize.is_some() && self.keys.initialize != self.system_identifier {
            self.system_identifier = self.keys.initialize;
            self.highest_timeline = 0;
        } else if self.keys.initialize.is_none() && old.initialize.is_some() {
            // Taken away by `patronictl remove` alone: what comes next may begin at timeline 1.
            self.highest_timeline = 0;
        }
        if self.keys.failover != old.failover {
            self.announcement_changed(now);
        }
        if self.keys.leader != old.leader {
            self.leader_changed(old, now);
        }
    }

    fn members_changed(&mut self, now: Instant) {
        let members = mem::take(&mut self.keys.members);
        for (name, key) in &members {
            let Some(id) = self.id_of(name) else {
                self.report(Unreadable { key: format!("members/{name}"), why: "too many members so far" });
                continue;
            };
            let epoch = self.reign.epoch;
            let node = self.node_mut(id);
            let seen = node.key.is_none() || node.gone_at.is_some();
            let moved = node.set_key(key);
            if moved {
                self.record.push(now, epoch, What::Fenced(id));
            }
            if seen {
                self.record.push(now, epoch, What::MemberSeen(id));
            }
        }
        self.keys.members = members;
        for node in &mut self.nodes {
            let here = self.keys.members.contains_key(&node.name);
            if node.key.is_some() && node.gone_at.is_none() && !here {
                node.gone_at = Some(now);
                self.record.push(now, self.reign.epoch, What::MemberGone(node.id));
            }
        }
    }

    fn announcement_changed(&mut self, now: Instant) {
        let epoch = self.reign.epoch;
        // One that is meant for another leader is not acted on.
        let meant = |from: &Option<Arc<str>>| from.is_none() || *from == self.keys.leader;
        if let Some(announced) = self.keys.failover.as_ref().filter(|announced| meant(&announced.from)) {
            // The leader acts on it within loop_wait, or never.
            let until = now + self.keys.config.loop_wait + Duration::from_secs(5);
            self.announced = Some(Announcement { at: now, until });
            self.record.push(now, epoch, What::Announced { to: announced.to.clone() });
        } else if self.announced.take().is_some() {
            self.reign.verify_from(now);
            self.record.push(now, epoch, What::AnnouncementOver);
        }
    }

    fn leader_changed(&mut self, old: &Keys, now: Instant) {
        if let Some(name) = &old.leader
            && self.keys.leader.is_none()
        {
            self.record.push(now, self.reign.epoch, What::LeaderDeleted(name.clone()));
        }
        if let Some(name) = self.keys.leader.clone() {
            self.record.push(now, self.reign.epoch, What::LeaderPut(name));
            self.reign.verify_from(now);
            // The key is emptied only a second after the new leader took over.
            if self.announced.take().is_some() {
                self.record.push(now, self.reign.epoch, What::AnnouncementOver);
            }
        }
    }

    fn answered(&mut self, id: MemberId, check: super::Check, now: Instant) {
        let served = self.served;
        let epoch = self.reign.epoch;
        let primary = self.rule == Rule::Serving(id);
        if let Found::Primary { flush, .. } = check.found
            && primary
        {
            self.trail.push(check.begun, flush);
        }
        let node = &mut self.nodes[usize::from(id.0)];
        let in_recovery = check.in_recovery();
        let last = node.check.as_ref();
        if last.is_some_and(|last| last.in_recovery() != in_recovery) {
            self.record.push(now, epoch, What::RoleChanged { member: id, in_recovery });
        }
        if last.is_some_and(|last| last.postmaster_start != check.postmaster_start) {
            node.distrust();
            node.errors.forget();
            self.record.push(now, epoch, What::Restarted(id));
        }
        if node.failed.take().is_some() || node.check.is_none() {
            // Down is not flapping: what sessions lost by it is told by its checks.
            node.errors.forget();
            self.record.push(now, epoch, What::Answers(id));
        }
        if let Found::Standby { replayed, received_tli, streaming, replay_age } = check.found {
            node.received_tli = received_tli.or(node.received_tli);
            node.lag_bytes = self.trail.bytes(replayed);
            node.lag = self.trail.time(replayed, replay_age, check.begun);
            if let Some(served) = served.filter(|served| streaming && received_tli == Some(served.timeline)) {
                node.streamed = Some((served.epoch, check.begun));
                node.barred = node.barred.filter(|barred| served.epoch < *barred);
            }
        } else {
            (node.lag, node.lag_bytes, node.streamed, node.received_tli) = (None, None, None, None);
        }
        node.check = Some(check);
    }
}

#[cfg(test)]
mod tests;
