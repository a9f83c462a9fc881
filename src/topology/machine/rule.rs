//! Who is primary: the leader key and a live check together, epochs, fences.

use std::sync::Arc;
use std::time::Instant;

use super::node::{Demand, Proof};
use super::{Etcd, Machine, What};
use crate::topology::patroni::MemberKey;
use crate::topology::{Check, Epoch, HoldReason, MemberId, Rule, Topology};

/// The present epoch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reign {
    pub(super) epoch: Epoch,
    /// Whose it is; it may not have served yet.
    pub(super) of: Option<MemberId>,
    /// Its timeline, once it has served.
    pub(super) timeline: Option<u32>,
    /// Its connections were distrusted in the middle of its epoch, and it has not served since.
    pub(super) fenced: bool,
    /// Only checks begun after this prove anything.
    pub(super) since: Instant,
}

/// An epoch that had a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) epoch: Epoch,
    pub(super) timeline: u32,
}

impl Reign {
    pub(super) fn none(now: Instant) -> Self {
        Self { epoch: Epoch(0), of: None, timeline: None, fenced: false, since: now }
    }

    /// What was proved before counts no more.
    pub(super) fn verify_from(&mut self, now: Instant) {
        self.since = now;
    }
}

impl Machine {
    /// Draws the conclusion from all that is known.
    pub(super) fn settle(&mut self, now: Instant) -> Option<Arc<Topology>> {
        if self.announced.is_some_and(|announced| announced.until <= now) {
            self.announced = None;
            self.reign.verify_from(now);
            self.record.push(now, self.reign.epoch, What::AnnouncementOver);
        }
        let named = self.named(now);
        if let Some(named) = named {
            self.follow(named, now);
        }
        match self.judge(named, now) {
            Ok(timeline) => self.serve(timeline, now),
            Err(reason) => self.hold_for(reason, now),
        }
        self.publish(now)
    }

    /// The member that leads: by the leader key, or, without etcd, as the only one that takes writes.
    fn named(&mut self, now: Instant) -> Option<MemberId> {
        if self.etcd == Etcd::Static {
            let mut writable = self.writable(now);
            return writable.next().filter(|_only| writable.next().is_none());
        }
        let name = self.keys.leader.clone()?;
        self.id_of(&name)
    }

    /// Members that say they take writes, as of a check that isn't stale.
    fn writable(&self, now: Instant) -> impl Iterator<Item = MemberId> {
        self.nodes.iter().filter(move |node| node.writable() && !self.stale(node, now)).map(|node| node.id)
    }

    /// Another member leads: the old one is fenced, and another epoch begins unless this one had no primary yet.
    fn follow(&mut self, named: MemberId, now: Instant) {
        if self.reign.of == Some(named) {
            return;
        }
        let had_primary = self.reign.timeline.is_some();
        if had_primary || self.reign.of.is_none() {
            self.reign.epoch.0 += 1;
        }
        match self.reign.of {
            Some(old) if had_primary => self.fence(old, now),
            // What was opened to it for a rule that never came.
            Some(old) => self.node_mut(old).generation += 1,
            None => {}
        }
        // Without etcd it is the check itself that named the member: it is proof as well.
        let since = if self.etcd == Etcd::Static { self.reign.since } else { now };
        self.reign = Reign { epoch: self.reign.epoch, of: Some(named), timeline: None, fenced: false, since };
    }

    /// Connections to it from before are not used any more; it serves nothing till it streams in this epoch or a later one.
    fn fence(&mut self, id: MemberId, now: Instant) {
        let epoch = self.reign.epoch;
        let node = self.node_mut(id);
        node.distrust();
        node.barred = Some(epoch);
        self.record.push(now, epoch, What::Fenced(id));
    }

    /// The timeline to serve on, or why not.
    fn judge(&self, named: Option<MemberId>, now: Instant) -> Result<u32, HoldReason> {
        match self.etcd {
            Etcd::Never => return Err(HoldReason::Starting),
            Etcd::Static => self.judge_static(now)?,
            Etcd::Away { since } => {
                let limit = self.settings.fence_after;
                if limit.is_some_and(|limit| now.saturating_duration_since(since) >= limit) {
                    return Err(HoldReason::EtcdAway);
                }
                self.one_at_most(now)?;
            }
            Etcd::Live => {}
        }
        if self.announced.is_some() {
            return Err(HoldReason::Switchover);
        }
        let Some(named) = named else {
            let by_check = self.etcd == Etcd::Static;
            return Err(if by_check { HoldReason::NotWritable } else { HoldReason::NoLeader });
        };
        let role_forbids = self.node(named).key.as_ref().is_some_and(MemberKey::standby_leader);
        if self.keys.config.standby_cluster || role_forbids {
            return Err(HoldReason::StandbyCluster);
        }
        self.judge_leader(named, now)
    }

    /// Without etcd: every member has been asked once, and one at most takes writes.
    fn judge_static(&self, now: Instant) -> Result<(), HoldReason> {
        if self.nodes.iter().any(|node| node.last_begun().is_none()) {
            return Err(HoldReason::Starting);
        }
        self.one_at_most(now)
    }

    fn one_at_most(&self, now: Instant) -> Result<(), HoldReason> {
        if self.writable(now).nth(1).is_some() { Err(HoldReason::TwoPrimaries) } else { Ok(()) }
    }

    fn judge_leader(&self, named: MemberId, now: Instant) -> Result<u32, HoldReason> {
        let node = self.node(named);
        if self.stale(node, now) && node.answers() {
            return Err(HoldReason::NotWritable);
        }
        let timeline = match node.proof(self.demand()) {
            Proof::Given(timeline) => timeline,
            Proof::Pending => return Err(HoldReason::Verifying),
            Proof::Refused(_) => return Err(HoldReason::NotWritable),
        };
        // With etcd away the last topology holds, and nothing new begins.
        let begins = self.reign.timeline != Some(timeline);
        if begins && matches!(self.etcd, Etcd::Away { .. }) {
            return Err(HoldReason::Verifying);
        }
        Ok(timeline)
    }

    /// What the leader must match.
    pub(super) fn demand(&self) -> Demand {
        let history = self.keys.history_timeline.unwrap_or(0);
        let of_candidate = || self.reign.of.and_then(|id| self.node(id).check.as_ref());
        let system_identifier = if self.etcd == Etcd::Static && self.system_identifier.is_none() {
            // Nothing says what it should be: the first primary decides.
            of_candidate().map(|check: &Check| check.system_identifier)
        } else {
            self.system_identifier
        };
        Demand { since: self.reign.since, system_identifier, timeline: self.highest_timeline.max(history) }
    }

    fn serve(&mut self, timeline: u32, now: Instant) {
        let Some(id) = self.reign.of else { return };
        if self.reign.timeline.is_some_and(|known| known != timeline) {
            // The same member, promoted anew: what was read before may not be there any more.
            self.reign.epoch.0 += 1;
            self.fence(id, now);
        }
        if self.rule == Rule::Serving(id) && self.reign.timeline == Some(timeline) {
            return;
        }
        if self.etcd == Etcd::Static && self.system_identifier.is_none() {
            self.system_identifier = self.node(id).check.as_ref().map(|check| check.system_identifier);
        }
        let served = Served { epoch: self.reign.epoch, timeline };
        if self.served != Some(served) {
            self.trail.clear();
        }
        self.served = Some(served);
        self.reign.timeline = Some(timeline);
        self.reign.fenced = false;
        self.highest_timeline = self.highest_timeline.max(timeline);
        self.node_mut(id).barred = None;
        self.rule = Rule::Serving(id);
        self.rule_since = now;
        self.record.push(now, self.reign.epoch, What::Serving { member: id, timeline });
    }

    fn hold_for(&mut self, reason: HoldReason, now: Instant) {
        let cuts = matches!(reason, HoldReason::TwoPrimaries | HoldReason::EtcdAway);
        if let Some(id) =
            self.reign.of.filter(|_| cuts && self.reign.timeline.is_some() && !self.reign.fenced)
        {
            self.reign.fenced = true;
            self.fence(id, now);
        }
        let last = self.reign.of.filter(|_| self.reign.timeline.is_some() && !self.reign.fenced);
        let before = match self.rule {
            Rule::Holding { reason, .. } => Some(reason),
            Rule::Serving(_) => {
                self.rule_since = now;
                None
            }
        };
        self.rule = Rule::Holding { reason, last };
        if before != Some(reason) {
            self.record_refusal(reason, now);
            self.record.push(now, self.reign.epoch, What::Holding(reason));
        }
    }

    fn record_refusal(&mut self, reason: HoldReason, now: Instant) {
        if reason != HoldReason::NotWritable {
            return;
        }
        if let Some(member) = self.reign.of
            && let Proof::Refused(why) = self.node(member).proof(self.demand())
        {
            self.record.push(now, self.reign.epoch, What::Refused { member, why });
        }
    }
}
