//! One connection a member: asks for its role and state, and for its WAL position while sessions need it.
//!
//! A failed question on a connection that was open before is asked once more on a new one, so that a failure means that the
//! member doesn't answer, not that somebody ended the monitor's connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::driver::Event;
use super::link::{Connect, Link, LinkError, Rows};
use super::probe::{self, Asked};
use crate::config::TopologyConfig;
use crate::topology::{
    Check, CheckFailure, CheckResult, Epoch, Failure, Found, Lsn, MemberId, Poll, Position, Positions,
    Reading,
};

/// A member that can't be reached is tried again after this, doubled each time up to the check's interval or this limit.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(50));

/// The monitors of all members. Dropping it ends them.
pub(super) struct Monitors<C> {
    shared: Arc<Shared<C>>,
    plans: HashMap<MemberId, watch::Sender<Poll>>,
    tasks: JoinSet<()>,
}

struct Shared<C> {
    connect: C,
    positions: Arc<Positions>,
    woken: watch::Receiver<()>,
    events: mpsc::Sender<Event>,
    check_timeout: Duration,
    lsn_interval: Duration,
    lsn_interval_quiet: Duration,
}

impl<C: Connect> Monitors<C> {
    pub(super) fn new(
        config: &TopologyConfig,
        connect: C,
        positions: Arc<Positions>,
        woken: watch::Receiver<()>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let shared = Shared {
            connect,
            positions,
            woken,
            events,
            check_timeout: config.monitor_timeout,
            lsn_interval: config.lsn_interval,
            lsn_interval_quiet: config.monitor_interval,
        };
        Self { shared: Arc::new(shared), plans: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Members to check from now on; monitors of others end.
    pub(super) fn follow(&mut self, polls: Vec<Poll>) {
        self.plans.retain(|id, _| polls.iter().any(|poll| poll.id == *id));
        for poll in polls {
            if let Some(plan) = self.plans.get(&poll.id) {
                plan.send_if_modified(|known| {
                    let changed = *known != poll;
                    *known = poll;
                    changed
                });
                continue;
            }
            let id = poll.id;
            let (plan, seen) = watch::channel(poll);
            self.plans.insert(id, plan);
            let monitor = Monitor::new(self.shared.clone(), seen);
            self.tasks.spawn(monitor.run());
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Check,
    Read(Position),
    Wait(Instant),
}

struct Monitor<C: Connect> {
    shared: Arc<Shared<C>>,
    plan: watch::Receiver<Poll>,
    link: Option<(C::Link, Instant)>,
    address: (Arc<str>, u16),
    checked: Option<Instant>,
    read: Option<Instant>,
    /// No connection before then.
    not_before: Option<Instant>,
    backoff: Duration,
    /// The WAL receiver's timeline as last seen, and whose postmaster it was.
    received: Option<u32>,
    postmaster_start: i64,
    /// A commit may be acknowledged before it is flushed.
    asynchronous: bool,
}

impl<C: Connect> Monitor<C> {
    fn new(shared: Arc<Shared<C>>, plan: watch::Receiver<Poll>) -> Self {
        let poll = plan.borrow().clone();
        Self {
            shared,
            plan,
            link: None,
            address: (poll.host, poll.port),
            checked: None,
            read: None,
            not_before: None,
            backoff: BACKOFF.0,
            received: None,
            postmaster_start: 0,
            asynchronous: false,
        }
    }

    /// Runs until its plan is dropped.
    async fn run(mut self) {
        let mut woken = self.shared.woken.clone();
        loop {
            if self.plan.has_changed().is_err() {
                return;
            }
            let poll = self.plan.borrow_and_update().clone();
            self.move_to(&poll);
            match self.next(&poll, Instant::now()) {
                Next::Check => {
                    let result = self.check(&poll).await;
                    if self.shared.events.send(Event::Checked(poll.id, result)).await.is_err() {
                        return;
                    }
                }
                Next::Read(position) => self.read(poll.id, position).await,
                Next::Wait(until) => {
                    tokio::select! {
                        changed = self.plan.changed() => if changed.is_err() { return },
                        changed = woken.changed() => if changed.is_err() { return },
                        () = tokio::time::sleep_until(until.into()) => {}
                    }
                }
            }
        }
    }

    /// The member may have another address.
    fn move_to(&mut self, poll: &Poll) {
        if (&self.address.0, self.address.1) != (&poll.host, poll.port) {
            self.address = (poll.host.clone(), poll.port);
            self.link = None;
            self.checked = None;
            self.not_before = None;
            self.received = None;
        }
    }

    fn next(&self, poll: &Poll, now: Instant) -> Next {
        let connected = self.link.as_ref().map(|(_, connected)| *connected);
        let too_old = |at: Option<Instant>| poll.since.is_some_and(|since| at.is_some_and(|at| at < since));
        let Some(checked) = self.checked.filter(|checked| !too_old(Some(*checked)) && !too_old(connected))
        else {
            return Next::Check;
        };
        let check_at = self.together(checked, poll.every).max(self.not_before.unwrap_or(checked));
        if check_at <= now {
            return Next::Check;
        }
        let Some(position) = poll.position.filter(|_| self.link.is_some()) else {
            return Next::Wait(check_at);
        };
        let every = if self.shared.positions.wanted(self.shared.positions.nanos(now)) {
            self.shared.lsn_interval
        } else {
            self.shared.lsn_interval_quiet
        };
        let read_at = self.read.max(self.checked).map_or(now, |begun| begun + every);
        if read_at <= now { Next::Read(position) } else { Next::Wait(check_at.min(read_at)) }
    }

    /// When a check is due that is made every so often: at the same time as those of the other members, so that all take one wake-up.
    fn together(&self, last: Instant, every: Duration) -> Instant {
        let at = self.shared.positions.nanos(last);
        let over = at.checked_rem(every.as_nanos() as u64).unwrap_or(0);
        last + every.saturating_sub(Duration::from_nanos(over))
    }

    async fn check(&mut self, poll: &Poll) -> CheckResult {
        let old =
            self.link.as_ref().is_some_and(|(_, opened)| poll.since.is_some_and(|since| *opened < since));
        if old {
            self.link = None;
        }
        let was_open = self.link.is_some();
        let begun = Instant::now();
        self.checked = Some(begun);
        let mut answer = self.ask_check(begun).await;
        if was_open && matches!(answer, Err(Failure::Unreachable | Failure::Refused)) {
            answer = self.ask_check(begun).await;
        }
        match answer {
            Ok((check, insert)) => {
                self.backoff = BACKOFF.0;
                self.not_before = None;
                self.answered(poll, &check, insert);
                Ok(check)
            }
            Err(why) => {
                let limit = BACKOFF.1.max(poll.every);
                self.not_before = Some(Instant::now() + self.backoff.min(limit));
                self.backoff = (self.backoff * 2).min(limit);
                Err(CheckFailure { begun, why })
            }
        }
    }

    /// A check is a reading as well.
    fn answered(&mut self, poll: &Poll, check: &Check, insert: Option<Lsn>) {
        if check.postmaster_start != self.postmaster_start {
            self.postmaster_start = check.postmaster_start;
            self.received = None;
        }
        self.asynchronous = check.asynchronous_commit;
        match (&check.found, poll.position) {
            (Found::Primary { flush, .. }, Some(Position::Written(epoch))) => {
                self.publish_written(epoch, check.begun, *flush, insert.unwrap_or(*flush));
            }
            (Found::Standby { replayed, received_tli, .. }, Some(Position::Replayed { epoch, timeline })) => {
                self.publish_replayed(poll.id, (epoch, timeline), *replayed, *received_tli);
            }
            _ => {}
        }
    }

    async fn ask_check(&mut self, begun: Instant) -> Result<(Check, Option<Lsn>), Failure> {
        let rows = self.ask(probe::CHECK).await?;
        let connected = self.link.as_ref().map_or(begun, |(_, connected)| *connected);
        let took = begun.elapsed();
        probe::check(&rows, Asked { begun, connected, took }).ok_or(Failure::Unreadable)
    }

    /// Reads just the position. A failure says nothing yet: the member is checked at once.
    async fn read(&mut self, id: MemberId, position: Position) {
        let begun = Instant::now();
        self.read = Some(begun);
        let understood = match position {
            Position::Written(epoch) => {
                let answer = self.ask(probe::WRITTEN).await;
                let read = answer.ok().as_ref().and_then(probe::written);
                read.map(|(flush, insert)| self.publish_written(epoch, begun, flush, insert))
            }
            Position::Replayed { epoch, timeline } => {
                let answer = self.ask(probe::REPLAYED).await;
                let read = answer.ok().as_ref().and_then(probe::replayed);
                read.map(|(lsn, received)| self.publish_replayed(id, (epoch, timeline), lsn, received))
            }
        };
        if understood.is_none() {
            self.checked = None;
        }
    }

    fn publish_written(&self, epoch: Epoch, begun: Instant, flush: Lsn, insert: Lsn) {
        let positions = &self.shared.positions;
        let insert = insert.max(flush);
        let lsn = if self.asynchronous { insert } else { flush };
        positions.publish_primary(Reading { begun: positions.nanos(begun), lsn, insert, epoch });
    }

    fn publish_replayed(&mut self, id: MemberId, of: (Epoch, u32), lsn: Lsn, received: Option<u32>) {
        // Without a WAL receiver it has still replayed what it has, on the timeline that it last received.
        self.received = received.or(self.received);
        let lsn = if self.received == Some(of.1) { lsn } else { Lsn(0) };
        self.shared.positions.publish_replica(id, of.0, lsn);
    }

    /// Asks through the connection, which is opened if there is none. After a failure there is none.
    async fn ask(&mut self, sql: &'static str) -> Result<Rows, Failure> {
        let limit = self.shared.check_timeout;
        if self.link.is_none() {
            let opened = Instant::now();
            let connecting = self.shared.connect.connect(&self.address.0, self.address.1, limit);
            let link = timeout(limit, connecting).await.unwrap_or(Err(LinkError::Timeout));
            let link = link.map_err(|error| self.failed(&error))?;
            self.link = Some((link, opened));
        }
        let Some((link, _)) = &mut self.link else { return Err(Failure::Unreachable) };
        let answer = timeout(limit, link.query(sql)).await.unwrap_or(Err(LinkError::Timeout));
        answer.map_err(|error| self.failed(&error))
    }

    fn failed(&mut self, error: &LinkError) -> Failure {
        self.link = None;
        tracing::debug!(host = %self.address.0, port = self.address.1, "check: {error}");
        failure(error)
    }
}

fn failure(error: &LinkError) -> Failure {
    match error {
        LinkError::Closed(_) => Failure::Unreachable,
        LinkError::Timeout => Failure::Timeout,
        LinkError::Refused(_) => Failure::Refused,
        LinkError::Protocol(_) => Failure::Unreadable,
    }
}

#[cfg(test)]
mod tests;
