//! From the machine's state to the snapshot that is published.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ejection::{STEPS, steps};
use super::node::Node;
use super::{Machine, Settings};
use crate::topology::{Epoch, Found, HoldReason, Member, MemberId, Rule, Topology};

/// Lags change with every check: by themselves they make a new snapshot at most this often.
pub(super) const LAG_EVERY: Duration = Duration::from_secs(1);

/// Before anything is known. Patroni's default times give the hold.
pub(super) fn empty(rule: Rule, settings: &Settings) -> Topology {
    Topology {
        version: 0,
        epoch: Epoch(0),
        rule,
        candidate: None,
        drained: false,
        members: Arc::from([]),
        hold: settings.hold.unwrap_or(Duration::from_secs(45)),
        insert_lsn: false,
    }
}

impl Machine {
    /// Makes a new snapshot if there is anything new to say.
    pub(super) fn publish(&mut self, now: Instant) -> Option<Arc<Topology>> {
        self.note_who_reads(now);
        let mut next = self.snapshot(now);
        let old = &self.published;
        let same_members = same_but_lag(&next.members, &old.members);
        let same = same_members
            && (next.epoch, next.rule, next.candidate, next.drained, next.hold, next.insert_lsn)
                == (old.epoch, old.rule, old.candidate, old.drained, old.hold, old.insert_lsn);
        if same {
            let soon = now.saturating_duration_since(self.published_at) < LAG_EVERY;
            self.lags_wait = next.members != old.members;
            if soon || !self.lags_wait {
                return None;
            }
        }
        self.lags_wait = false;
        next.version = old.version + 1;
        self.published = Arc::new(next);
        self.published_at = now;
        Some(self.published.clone())
    }

    fn note_who_reads(&mut self, now: Instant) {
        let reads: Vec<_> = self.nodes.iter().map(|node| self.reads(node, now).is_ok()).collect();
        for (node, reads) in self.nodes.iter_mut().zip(reads) {
            node.reads_since = if reads { node.reads_since.or(Some(now)) } else { None };
        }
    }

    /// Its weight for the balance: while another one has only begun to serve, all are counted in steps of theirs.
    fn weight_now(&self, node: &Node, now: Instant) -> u32 {
        let steps_of = |node: &Node| {
            let since = node.reads_since?;
            Some(steps(now.saturating_duration_since(since), self.settings.slow_start))
        };
        let all: Vec<u32> = self.nodes.iter().filter_map(steps_of).collect();
        let mine = steps_of(node).unwrap_or(STEPS);
        // Where all have begun at once there is nobody to be spared.
        if all.iter().all(|steps| *steps == all[0]) {
            return self.weight(node);
        }
        self.weight(node).saturating_mul(mine)
    }

    fn snapshot(&self, now: Instant) -> Topology {
        let visible = self.nodes.iter().filter(|node| self.visible(node, now));
        let members = visible.filter_map(|node| self.member(node, now)).collect();
        let primary = self.reign.of.and_then(|id| self.node(id).check.as_ref());
        Topology {
            version: self.published.version,
            epoch: self.reign.epoch,
            rule: self.rule,
            candidate: self.candidate(),
            drained: self
                .announced
                .is_some_and(|it| now.saturating_duration_since(it.at) >= self.settings.drain),
            members,
            hold: self.hold(),
            insert_lsn: primary.is_some_and(|check| check.asynchronous_commit),
        }
    }

    /// Who is to be primary next: named, and without a rule so far.
    fn candidate(&self) -> Option<MemberId> {
        let reasons = [HoldReason::Verifying, HoldReason::NotWritable];
        let waited_for = matches!(self.rule, Rule::Holding { reason, .. } if reasons.contains(&reason));
        self.reign.of.filter(|_| waited_for && self.reign.timeline.is_none())
    }

    fn member(&self, node: &Node, now: Instant) -> Option<Member> {
        let key = node.key.as_ref()?;
        let reads = self.reads(node, now);
        let found = node.check.as_ref().filter(|_| node.answers()).map(|check| &check.found);
        let role = match found {
            _ if self.rule == Rule::Serving(node.id) => Arc::from("primary"),
            Some(Found::Standby { .. }) if !key.standby_leader() => Arc::from("replica"),
            _ => key.role.clone(),
        };
        Some(Member {
            id: node.id,
            name: node.name.clone(),
            host: key.host.clone(),
            port: key.port,
            role,
            serves_reads: reads.is_ok(),
            answers: node.answers() && !self.stale(node, now),
            why_not: reads.err(),
            weight: self.weight_now(node, now),
            lag_bytes: node.lag_bytes,
            lag: node.lag,
            timeline: node.timeline().or(key.timeline),
            generation: node.generation,
        })
    }
}

fn same_but_lag(new: &[Member], old: &[Member]) -> bool {
    new.len() == old.len()
        && new.iter().zip(old).all(|(new, old)| {
            let (lag_bytes, lag) = (new.lag_bytes, new.lag);
            *new == Member { lag_bytes, lag, ..old.clone() }
        })
}
