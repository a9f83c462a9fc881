//! When time alone changes nothing.

use std::time::Instant;

use super::node::Node;
use super::snapshot::LAG_EVERY;
use super::{Etcd, Machine};
use crate::topology::{Found, Rule};

impl Machine {
    /// Until when nothing changes unless something comes: while a primary serves and all is well with all members. None while
    /// something is under way that ends by time.
    pub fn rests_until(&self, now: Instant) -> Option<Instant> {
        let calm = matches!(self.rule, Rule::Serving(_))
            && matches!(self.etcd, Etcd::Static | Etcd::Live)
            && self.announced.is_none()
            && now.saturating_duration_since(self.rule_since) >= Self::SETTLING;
        if !calm {
            return None;
        }
        let mut until = self.lags_wait.then_some(self.published_at + LAG_EVERY);
        for node in self.nodes.iter().filter(|node| self.visible(node, now)) {
            if !self.is_well(node, now) {
                return None;
            }
            let good = self.good_until(node)?;
            until = Some(until.map_or(good, |until| until.min(good)));
        }
        until.filter(|until| *until > now)
    }

    /// Whether nothing is the matter with a member that passes with time.
    fn is_well(&self, node: &Node, now: Instant) -> bool {
        let found = node.check.as_ref().map(|check| &check.found);
        let broken = matches!(found, Some(Found::Standby { streaming: false, .. }));
        let begins = |since: Instant| now.saturating_duration_since(since) < self.settings.slow_start;
        node.answers()
            && !broken
            && node.gone_at.is_none()
            && !self.is_to_follow(node, now)
            && !node.errors.ejected(now)
            && !node.suspected(now)
            && !node.reads_since.is_some_and(begins)
    }
}
