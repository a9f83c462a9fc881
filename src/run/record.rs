//! The record of each failover: what happened when, what was Patroni's and what ours, and what became of the sessions.
//!
//! Made of the control path's transitions and of the sessions' counts. Times are in milliseconds from the first sign of trouble.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::session::{Shared, Told};
use crate::topology::{HoldReason, Topology, Transition, What};

/// Failovers that are kept.
const KEPT: usize = 100;

/// One change or interruption of the primary.
#[derive(Debug, Clone)]
struct Failover {
    began: Instant,
    wall: SystemTime,
    announced: Option<Instant>,
    last_good: Option<Instant>,
    key_deleted: Option<Instant>,
    key_written: Option<Instant>,
    first_refused: Option<Instant>,
    verified: Option<Instant>,
    from: Option<String>,
    to: Option<String>,
    epoch_before: u64,
    epoch: u64,
    before: Told,
    /// Sessions at its beginning.
    sessions: usize,
    /// Counts up to the next one's beginning; none while it is the last.
    after: Option<Told>,
    first_write: Option<Instant>,
}

/// All that is kept.
pub(super) struct Record {
    list: Mutex<VecDeque<Failover>>,
    shared: Arc<Shared>,
}

impl Record {
    /// Follows the transitions on the runtime it is called in.
    pub(super) fn follow(
        shared: &Arc<Shared>,
        mut transitions: watch::Receiver<Arc<[Transition]>>,
        topology: watch::Receiver<Arc<Topology>>,
    ) -> Arc<Self> {
        let record = Arc::new(Self { list: Mutex::default(), shared: Arc::clone(shared) });
        let following = Arc::clone(&record);
        tokio::spawn(async move {
            let mut seen = 0;
            let mut primary = None;
            loop {
                let list = transitions.borrow_and_update().clone();
                for transition in list.iter().filter(|transition| transition.number > seen) {
                    following.take_up(transition, &topology.borrow(), &mut primary);
                }
                seen = list.last().map_or(seen, |last| last.number);
                if transitions.changed().await.is_err() {
                    return;
                }
            }
        });
        record
    }

    fn take_up(&self, transition: &Transition, topology: &Topology, primary: &mut Option<String>) {
        let name = |id| topology.member(id).map(|member| member.name.to_string());
        let at = transition.at;
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let open = list.back().is_some_and(|last| last.verified.is_none());
        let begins = match &transition.what {
            What::Announced { .. } | What::LeaderDeleted(_) => true,
            What::Holding(reason) => *reason != HoldReason::Starting,
            What::Lost { member, .. } => primary.is_some() && name(*member) == *primary,
            _ => false,
        };
        if begins && !open && primary.is_some() {
            self.begin(&mut list, transition, primary.clone());
        }
        if let Some(last) = list.back_mut().filter(|last| last.verified.is_none()) {
            match &transition.what {
                What::Announced { .. } => last.announced = Some(at),
                What::Lost { last_good, .. } => last.last_good = last.last_good.or(*last_good),
                What::LeaderDeleted(_) => last.key_deleted = Some(at),
                What::LeaderPut(_) => last.key_written = Some(at),
                What::Refused { .. } => last.first_refused = last.first_refused.or(Some(at)),
                What::Serving { member, .. } => {
                    last.verified = Some(at);
                    last.to = name(*member);
                    last.epoch = transition.epoch.0;
                    log(last);
                }
                _ => {}
            }
        }
        if let What::Serving { member, .. } = &transition.what {
            *primary = name(*member);
        }
    }

    fn begin(&self, list: &mut VecDeque<Failover>, transition: &Transition, from: Option<String>) {
        let told = self.shared.told_anew();
        if let Some(last) = list.back_mut() {
            last.after = Some(told);
            last.first_write = self.first_write(last);
        }
        if list.len() == KEPT {
            list.pop_front();
        }
        let began = transition.at;
        list.push_back(Failover {
            began,
            wall: SystemTime::now() - began.elapsed(),
            announced: None,
            last_good: None,
            key_deleted: None,
            key_written: None,
            first_refused: None,
            verified: None,
            from,
            to: None,
            epoch_before: transition.epoch.0,
            epoch: transition.epoch.0,
            before: told,
            sessions: self.shared.cancels.len(),
            after: None,
            first_write: None,
        });
    }

    /// When the first write of the failover's epoch was answered, if the sessions still know.
    fn first_write(&self, failover: &Failover) -> Option<Instant> {
        let (epoch, at) = self.shared.first_write()?;
        (epoch == failover.epoch && failover.epoch != failover.epoch_before).then_some(at)
    }

    /// The record as JSON, the latest first.
    pub(super) fn show(&self) -> Value {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.shared.told();
        let shown = list.iter().rev().map(|failover| {
            let first_write = failover.first_write.or_else(|| match failover.after {
                None => self.first_write(failover),
                Some(_) => None,
            });
            failover.show(&failover.after.unwrap_or(now), first_write)
        });
        Value::Array(shown.collect())
    }
}

impl Failover {
    fn kind(&self) -> &'static str {
        match (self.epoch != self.epoch_before, self.announced) {
            (true, Some(_)) => "switchover",
            (true, None) => "failover",
            (false, _) => "interruption",
        }
    }

    fn show(&self, after: &Told, first_write: Option<Instant>) -> Value {
        let step = |at: Option<Instant>| at.map(|at| millis(self.began, at));
        let ours = match (self.verified, first_write) {
            (Some(verified), Some(first)) => Some(millis(verified, first)),
            _ => None,
        };
        let wall = self.wall.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        json!({
            "kind": if self.verified.is_some() { self.kind() } else { "under way" },
            "began": wall.as_secs_f64(),
            "from": self.from,
            "to": self.to,
            "epoch": self.epoch,
            "milliseconds": {
                "last_good_answer": step(self.last_good),
                "announced": step(self.announced),
                "key_deleted": step(self.key_deleted),
                "key_written": step(self.key_written),
                "first_refused": step(self.first_refused),
                "verified": step(self.verified),
                "first_write": step(first_write),
                "from_verified_to_first_write": ours,
            },
            "sessions": {
                "there": self.sessions,
                "kept": (self.sessions as u64).saturating_sub(after.ended - self.before.ended),
                "longest_wait_ms": after.longest_wait_ms,
                "waited": after.waited - self.before.waited,
                "went_on": after.went_on - self.before.went_on,
                "gave_up": after.gave_up - self.before.gave_up,
                "rerun": after.rerun - self.before.rerun,
                "told_40001": after.serialization - self.before.serialization,
                "told_08007": after.unknown - self.before.unknown,
                "told_08006": after.cut - self.before.cut,
                "ended": after.ended - self.before.ended,
            },
        })
    }
}

fn log(failover: &Failover) {
    let since = |at: Option<Instant>| at.map(|at| millis(failover.began, at));
    tracing::info!(
        kind = failover.kind(),
        from = failover.from.as_deref(),
        to = failover.to.as_deref(),
        epoch = failover.epoch,
        key_deleted_ms = since(failover.key_deleted),
        key_written_ms = since(failover.key_written),
        verified_ms = since(failover.verified),
        "the primary's rule goes on"
    );
}

/// Milliseconds from one moment to another, negative if that was before.
fn millis(from: Instant, to: Instant) -> f64 {
    let exact =
        if to >= from { (to - from).as_secs_f64() * 1000.0 } else { -((from - to).as_secs_f64() * 1000.0) };
    (exact * 10.0).round() / 10.0
}
