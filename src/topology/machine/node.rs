//! What is known of one member: its key, its last check, whether it may serve.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ejection::Errors;
use crate::topology::patroni::MemberKey;
use crate::topology::{Check, CheckFailure, Epoch, Found, MemberId};

/// One member, for as long as the proxy runs: its number is never given to another name.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) id: MemberId,
    pub(super) name: Arc<str>,
    /// Its key as last read; none before it was first seen.
    pub(super) key: Option<MemberKey>,
    /// When its key went away.
    pub(super) gone_at: Option<Instant>,
    pub(super) generation: u64,
    /// The last check that was answered.
    pub(super) check: Option<Check>,
    /// The last check, if it failed.
    pub(super) failed: Option<CheckFailure>,
    /// The timeline of its WAL receiver, remembered while the postmaster is the same.
    pub(super) received_tli: Option<u32>,
    /// The last served epoch on whose timeline it was seen streaming, and when.
    pub(super) streamed: Option<(Epoch, Instant)>,
    /// Fenced: it serves nothing before it streams in this epoch or a later one.
    pub(super) barred: Option<Epoch>,
    pub(super) lag: Option<Duration>,
    pub(super) lag_bytes: Option<u64>,
    /// What sessions said of it.
    pub(super) errors: Errors,
    /// Since when it serves reads.
    pub(super) reads_since: Option<Instant>,
    /// A session saw trouble: checked often until then.
    pub(super) suspected_until: Option<Instant>,
}

/// Whether a member has shown that it accepts writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// It has, on this timeline.
    Given(u32),
    /// No check since then has come back.
    Pending,
    /// It answered, and isn't one; or it doesn't answer.
    Refused(&'static str),
}

/// What a primary must match.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    /// Only a check begun since then, on a connection opened since then, counts.
    pub(super) since: Instant,
    /// The cluster's.
    pub(super) system_identifier: Option<u64>,
    /// The highest timeline that any primary had.
    pub(super) timeline: u32,
}

impl Node {
    pub(super) fn new(id: MemberId, name: Arc<str>) -> Self {
        Self {
            id,
            name,
            key: None,
            gone_at: None,
            generation: 0,
            check: None,
            failed: None,
            received_tli: None,
            streamed: None,
            barred: None,
            lag: None,
            lag_bytes: None,
            errors: Errors::default(),
            reads_since: None,
            suspected_until: None,
        }
    }

    /// Takes its key in; true when it moved to another address.
    pub(super) fn set_key(&mut self, key: &MemberKey) -> bool {
        let moved = self.key.as_ref().is_some_and(|old| (&old.host, old.port) != (&key.host, key.port));
        self.key = Some(key.clone());
        self.gone_at = None;
        if moved {
            self.distrust();
            self.check = None;
            self.failed = None;
        }
        moved
    }

    /// Connections from before are not used any more.
    pub(super) fn distrust(&mut self) {
        self.generation += 1;
        self.received_tli = None;
        self.streamed = None;
        self.lag = None;
        self.lag_bytes = None;
    }

    /// Whether the last check was answered.
    pub(super) fn answers(&self) -> bool {
        self.check.is_some() && self.failed.is_none()
    }

    /// The last check, if it was answered and says that the member takes writes.
    pub(super) fn writable(&self) -> bool {
        self.answers() && self.check.as_ref().is_some_and(Check::writable)
    }

    /// Whether a session saw trouble with it of late.
    pub(super) fn suspected(&self, now: Instant) -> bool {
        self.suspected_until.is_some_and(|until| now < until)
    }

    /// When the last check began, answered or not.
    pub(super) fn last_begun(&self) -> Option<Instant> {
        let answered = self.check.as_ref().map(|check| check.begun);
        answered.max(self.failed.as_ref().map(|failed| failed.begun))
    }

    /// Whether it has proved, by its last check, that it may be written to.
    pub(super) fn proof(&self, demand: Demand) -> Proof {
        if let Some(failed) = &self.failed {
            return if failed.begun < demand.since {
                Proof::Pending
            } else {
                Proof::Refused("doesn't answer")
            };
        }
        let Some(check) = &self.check else { return Proof::Pending };
        if check.begun < demand.since || check.connected < demand.since {
            return Proof::Pending;
        }
        let Found::Primary { timeline, .. } = check.found else { return Proof::Refused("is in recovery") };
        if check.read_only {
            Proof::Refused("is read-only")
        } else if demand.system_identifier != Some(check.system_identifier) {
            Proof::Refused("is of another cluster: its system identifier differs")
        } else if timeline < demand.timeline {
            Proof::Refused("is on an older timeline than a primary before it")
        } else {
            Proof::Given(timeline)
        }
    }

    /// Its timeline as of the last check.
    pub(super) fn timeline(&self) -> Option<u32> {
        match self.check.as_ref()?.found {
            Found::Primary { timeline, .. } => Some(timeline),
            Found::Standby { .. } => self.received_tli,
        }
    }
}
