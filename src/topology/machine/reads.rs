//! Which members may serve reads.

use std::time::Instant;

use super::node::Node;
use super::{Etcd, Machine};
use crate::topology::{Check, Found, HoldReason, Rule};

impl Machine {
    /// Whether its last check is too old to go by: the monitor is late by more than a check and its repetition may take.
    pub(super) fn stale(&self, node: &Node, now: Instant) -> bool {
        self.good_until(node).is_some_and(|until| now > until)
    }

    /// The last moment at which its last check is something to go by.
    pub(super) fn good_until(&self, node: &Node) -> Option<Instant> {
        Some(node.last_begun()? + self.settings.check_quiet + self.settings.check_timeout * 2)
    }

    /// Whether it is in the snapshot: its key is there, or went away a moment ago, or it is the one that may still be primary.
    pub(super) fn visible(&self, node: &Node, now: Instant) -> bool {
        let Some(_address) = &node.key else { return false };
        let Some(gone_at) = node.gone_at else { return true };
        now.saturating_duration_since(gone_at) < self.settings.member_grace || self.reign.of == Some(node.id)
    }

    /// Whether reads may go there, and if not, why, for people.
    pub(super) fn reads(&self, node: &Node, now: Instant) -> Result<(), &'static str> {
        if self.rule == Rule::Serving(node.id) {
            return Err("is the primary");
        }
        if node.gone_at.is_some_and(|at| now.saturating_duration_since(at) >= self.settings.member_grace) {
            return Err("its key is gone");
        }
        let key = node.key.as_ref().ok_or("its key is gone")?;
        if !key.routable() && self.etcd != Etcd::Static {
            return Err("is not running, by Patroni's word");
        }
        if key.no_load_balance {
            return Err("its tag noloadbalance is set");
        }
        if node.errors.ejected(now) {
            return Err("was taken out for a while, for errors that sessions had with it");
        }
        if self.weight(node) == 0 {
            return Err("its weight is 0");
        }
        self.reads_by_check(node, now)
    }

    fn reads_by_check(&self, node: &Node, now: Instant) -> Result<(), &'static str> {
        let check = node.check.as_ref().ok_or("has not been checked yet")?;
        if node.failed.is_some() || self.stale(node, now) {
            return Err("doesn't answer its check");
        }
        if self.system_identifier.is_some_and(|known| known != check.system_identifier) {
            return Err("is of another cluster");
        }
        let Found::Standby { streaming, .. } = check.found else {
            return Err("takes writes and isn't the leader");
        };
        if node.barred.is_some() {
            return Err("was fenced, and doesn't stream on the new timeline yet");
        }
        self.streams(node, streaming, now)?;
        if node.lag.is_some_and(|lag| lag > self.settings.max_lag) {
            return Err("is too far behind in time");
        }
        if node.lag_bytes.is_some_and(|lag| lag > self.settings.max_lag_bytes) {
            return Err("is too far behind in bytes");
        }
        Ok(())
    }

    /// It streams on the timeline of the epoch that served last. Without a primary nobody can stream: then it is enough that
    /// it did; and when its stream has just broken, which is how the loss of a primary first shows.
    fn streams(&self, node: &Node, streaming: bool, now: Instant) -> Result<(), &'static str> {
        if matches!(self.rule, Rule::Holding { reason: HoldReason::StandbyCluster, .. }) {
            // Its leader streams from the other cluster, or is fed by an archive; the others stream from it.
            return if streaming { Ok(()) } else { Err("doesn't stream from the other cluster") };
        }
        let served = self.served.ok_or("no primary has served yet")?;
        let (_, at) = node
            .streamed
            .filter(|(epoch, _)| *epoch == served.epoch)
            .ok_or("doesn't stream from the primary")?;
        if !matches!(self.rule, Rule::Serving(_)) {
            return Ok(());
        }
        if streaming {
            let same = node.received_tli == Some(served.timeline);
            return if same { Ok(()) } else { Err("streams on another timeline than the primary's") };
        }
        let broken_for = now.saturating_duration_since(at);
        if broken_for < self.settings.member_grace + self.settings.check_quiet {
            Ok(())
        } else {
            Err("doesn't stream from the primary")
        }
    }

    /// Whether it answers as a replica that doesn't stream from the new primary yet, as Patroni will soon have it do: until
    /// then reads miss it, and if this primary dies too, they have nowhere to go.
    pub(super) fn is_to_follow(&self, node: &Node, now: Instant) -> bool {
        let (Rule::Serving(_), Some(served)) = (self.rule, self.served) else { return false };
        now.saturating_duration_since(self.rule_since) < self.hold() * 2
            && node.answers()
            && node.check.as_ref().is_some_and(Check::in_recovery)
            && node.streamed.is_none_or(|(epoch, _)| epoch != served.epoch)
    }

    pub(super) fn weight(&self, node: &Node) -> u32 {
        self.settings.weights.get(&*node.name).copied().unwrap_or(1)
    }
}
