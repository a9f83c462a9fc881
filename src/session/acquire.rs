//! Getting a backend for a batch: the target, the wait for a primary, the wait for a backend.
//!
//! While it waits, a session still hears its client go, a cancel, and the end of the proxy. Nothing of the batch has been sent
//! yet, so that waiting is always safe.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::batch::Summary;
use super::handle::{Held, Order};
use super::holding::Holding;
use super::load::Busy;
use super::run::Rerun;
use super::sequences::Sequences;
use super::shown::Wait;
use super::state::Tx;
use super::told::Counters;
use super::{Ended, LOOK_AHEAD, Lease, Session};
use crate::backend::Backend;
use crate::pool::{AcquireError, Pool};
use crate::routing::{Reason, Target};
use crate::sql::{Class, ConsistencyHint, Effects, Hint};
use crate::topology::{Member, MemberId, Topology};
use crate::wire::build::{self, Severity};
use crate::wire::{SqlState, TxStatus};

/// How often an attempt may be repeated without a wait for the topology in between.
pub(super) const QUICK_TRIES: u32 = 8;

/// How long a primary that refuses a write has to be seen as none.
const REFUSAL_WAIT: std::time::Duration = std::time::Duration::from_millis(500);

/// The pause before a primary that can't be reached is tried again.
const UNREACHABLE_WAIT: std::time::Duration = std::time::Duration::from_millis(20);

/// A wait for a primary from which on the client hears of it.
const NOTICE_AFTER: std::time::Duration = std::time::Duration::from_secs(5);

/// The time between two looks at whether a replica has reached the fence.
const FENCE_LOOK: std::time::Duration = std::time::Duration::from_millis(1);

/// The attempts at one batch: since when, and what was found out.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) since: Option<Instant>,
    pub(super) class: Class,
    pub(super) hint: Option<Hint>,
    pub(super) begins: Option<bool>,
    pub(super) consistency: Option<ConsistencyHint>,
    /// Members that failed it, by number.
    pub(super) avoid: u64,
    pub(super) tries: u32,
    /// A replica refused it: it goes to the primary.
    pub(super) writes: bool,
    /// The primary is what it is: what it refuses is refused.
    pub(super) takes_refusals: bool,
    /// It waited for a primary since the last try.
    pub(super) held: bool,
    /// It waited for a primary at all.
    pub(super) waited: bool,
    /// It failed on a statement that it had not parsed itself: now it parses all.
    pub(super) parses: bool,
    /// It asks for `currval()` or `lastval()`, which only the backend of the `nextval()` before can tell.
    pub(super) sequences: bool,
}

impl Attempt {
    pub(super) fn new(summary: &Summary) -> Self {
        Self {
            since: None,
            class: summary.class,
            hint: summary.hint,
            consistency: summary.only.as_ref().and_then(|only| only.consistency),
            begins: summary.begins.map(|modes| modes.read_only == Some(true) && !modes.serializable),
            avoid: 0,
            tries: 0,
            writes: false,
            takes_refusals: false,
            held: false,
            waited: false,
            parses: false,
            sequences: summary.effects.contains(Effects::CURRVAL),
        }
    }

    /// More is to follow before its Sync, which may write, or tie the session to its backend: it belongs to the primary.
    pub(super) fn goes_on(&mut self) {
        self.begins.get_or_insert(false);
    }

    /// The backend was lost before anything that counts had come of it.
    pub(super) fn lost(&mut self) {
        self.tries += 1;
    }

    /// Whether a refusal of the primary's is passed on.
    pub(super) fn takes_refusals(&self) -> bool {
        self.takes_refusals
    }

    pub(super) fn began(&mut self) -> Instant {
        *self.since.get_or_insert_with(Instant::now)
    }
}

/// What the client is told when its batch can't be run at all.
#[derive(Debug)]
pub(super) enum Failure {
    /// An error of the proxy's own.
    Own(SqlState, String),
    /// The server's error: the body of its ErrorResponse.
    Server(std::sync::Arc<[u8]>),
}

/// What a wait brought.
pub(super) enum Woken {
    Backend(Result<Box<Backend>, AcquireError>),
    Topology,
    Cancelled,
}

impl Session {
    /// Takes a backend for the batch, if none is held. The inner error is for the client, and the session goes on.
    pub(super) async fn acquire(
        &mut self,
        attempt: &mut Attempt,
        bytes: usize,
    ) -> Result<Result<(), Failure>, Ended> {
        loop {
            if self.is_paused()
                && let Err(failure) = Box::pin(self.wait_while_paused(attempt, bytes)).await?
            {
                return Ok(Err(failure));
            }
            if self.lease.is_some() && !self.leaves_home(attempt) {
                return Ok(if attempt.sequences { self.held_has_values() } else { Ok(()) });
            }
            let topology = self.worker.topology();
            let member = match self.choose(attempt, &topology, bytes).await? {
                Ok(Some(member)) => member,
                Ok(None) => continue,
                Err(failure) => return Ok(Err(failure)),
            };
            let primary = topology.primary().is_some_and(|primary| primary.id == member.id);
            if primary && self.comes_home() {
                return Ok(if attempt.sequences { self.held_has_values() } else { Ok(()) });
            }
            if std::mem::take(&mut attempt.held) {
                Counters::add(&self.worker.shared.told.went_on);
                self.notice_wait(attempt);
            }
            let pool = self.worker.pool(&self.pools, &topology, member);
            if attempt.sequences {
                if let Some(backend) = pool.take_last_of(self.handle.id) {
                    self.lease(pool, backend, member, primary, None);
                    return Ok(Ok(()));
                }
                if let Err(failure) = self.any_has_values() {
                    return Ok(Err(failure));
                }
            }
            let search = attempt.class == Class::VectorRead && !primary;
            let Ok(busy) = Busy::begin(&self.worker.shared, member.id, search) else {
                // Another worker's search was quicker to the last place.
                continue;
            };
            if let Some(backend) = pool.take() {
                self.lease(pool, backend, member, primary, busy);
                return Ok(Ok(()));
            }
            match self.wait_for_backend(&pool, primary, attempt).await? {
                Ok(Some(backend)) if self.still_good(&pool, primary) && !self.is_paused() => {
                    self.lease(pool, backend, member, primary, busy);
                    return Ok(Ok(()));
                }
                // It came, but the topology has moved on meanwhile, or PAUSE came.
                Ok(Some(backend)) => self.worker.release(&self.pools, &pool, backend),
                Ok(None) => self.pause(attempt, member, primary).await?,
                Err(failure) => return Ok(Err(failure)),
            }
        }
    }

    /// Chooses the member; none after a wait, when everything is to be looked at again.
    async fn choose<'t>(
        &mut self,
        attempt: &mut Attempt,
        topology: &'t Topology,
        bytes: usize,
    ) -> Result<Result<Option<&'t Member>, Failure>, Ended> {
        let target = self.target(attempt, topology);
        if self.searches_are_full(attempt, topology, target) {
            if attempt.began().elapsed() > self.worker.shared.config.pool.wait {
                let message = "no replica has room for another vector search (vector.max_per_replica)";
                return Ok(Err(Failure::Own(SqlState::TOO_MANY_CONNECTIONS, message.into())));
            }
            return Ok(self.wait_for_search().await?.map(|()| None));
        }
        if target == Target::Primary(Reason::Fence) {
            let patience = self.worker.shared.config.routing.fence_wait;
            if !patience.is_zero() && attempt.began().elapsed() < patience {
                // Another look when the monitors may have had one.
                self.wait_for_topology(FENCE_LOOK).await?;
                return Ok(Ok(None));
            }
        }
        let member = match target {
            Target::Replica(id) => topology.member(id),
            Target::Primary(_) => match topology.primary() {
                Some(primary) if attempt.tries < QUICK_TRIES => Some(primary),
                // Any member that answers can take a setting while there is no primary.
                None if attempt.class == Class::Session && matches!(self.tx, Tx::Idle) => {
                    topology.members.iter().find(|member| member.serves_reads)
                }
                // Nobody of a standby cluster ever takes a write: what a standby says to it is the answer.
                None if topology.is_standby() => topology.members.iter().find(|member| member.serves_reads),
                _ => None,
            },
        };
        match member {
            Some(member) => Ok(Ok(Some(member))),
            None => Ok(self.hold(attempt, topology, bytes).await?.map(|()| None)),
        }
    }

    /// A batch is to be run again: what its first run showed.
    ///
    /// A primary that refuses a write as a standby would gets a moment to be seen as what it is. If the topology stands by it,
    /// the refusal is the statement's own.
    pub(super) async fn before_rerun(&mut self, why: Rerun, attempt: &mut Attempt) -> Result<(), Ended> {
        let member = self.lease.as_ref().map(|lease| lease.backend.member);
        match why {
            Rerun::Writes | Rerun::Behind | Rerun::Leaves => attempt.writes = true,
            Rerun::RecoveryConflict => attempt.avoid |= member.map_or(0, bit),
            Rerun::Parses => attempt.parses = true,
            Rerun::NotPrimary => self.suspect(),
        }
        self.worker.metrics.reroute(why.label());
        self.answer.clear();
        self.open_batch = false;
        // Without its Sync a batch that failed isn't over there, and what came next would be dropped.
        if std::mem::take(&mut self.skipping) {
            self.close_backend();
        }
        self.release_if_free();
        if why == Rerun::NotPrimary {
            attempt.takes_refusals = !self.wait_for_topology(REFUSAL_WAIT).await?;
        }
        Ok(())
    }

    /// Waits for another topology, up to `limit`; true if there is one.
    async fn wait_for_topology(&mut self, limit: std::time::Duration) -> Result<bool, Ended> {
        self.handle.want_topology();
        if self.worker.is_outdated() {
            return Ok(true);
        }
        match tokio::time::timeout(limit, poll_fn(|cx| self.poll_wait(cx, false))).await {
            Ok(woken) => {
                if let Woken::Cancelled = woken? {
                    // For whoever waits next, or for the statement.
                    self.handle.cancel();
                }
                Ok(true)
            }
            Err(_elapsed) => Ok(false),
        }
    }

    fn lease(
        &mut self,
        pool: Rc<Pool>,
        mut backend: Box<Backend>,
        member: &Member,
        primary: bool,
        busy: Option<Busy>,
    ) {
        self.backend_unflushed = false;
        let rule = primary.then(|| self.worker.topology().epoch);
        self.handle.hold(Some(Held {
            member: backend.member,
            generation: member.generation,
            rule,
            process_id: backend.process_id,
            local: backend.local,
            opened: backend.opened,
            since: self.worker.swept(),
            tls: backend.stream.is_tls(),
        }));
        self.pools.tally.assigned();
        let own_sequences = backend.last_session == self.handle.id || self.sequences == Sequences::Foreign;
        backend.last_session = self.handle.id;
        self.lease = Some(Lease {
            backend,
            pool,
            status: TxStatus::Idle,
            primary,
            cancelled: false,
            cancelling: None,
            _busy: busy,
            own_sequences,
        });
    }

    /// Waits for another topology, up to the time that a statement may wait for a primary.
    pub(super) async fn hold(
        &mut self,
        attempt: &mut Attempt,
        topology: &Topology,
        bytes: usize,
    ) -> Result<Result<(), Failure>, Ended> {
        let shared = std::sync::Arc::clone(&self.worker.shared);
        let limits = &shared.config.failover;
        if limits.fail_fast.iter().any(|user| **user == *self.pools.identity.user) {
            Counters::add(&shared.told.gave_up);
            let message = "there is no primary, and this user doesn't wait for one (failover.fail_fast)";
            return Ok(Err(Failure::Own(SqlState::CANNOT_CONNECT_NOW, message.into())));
        }
        if let Some(candidate) = topology.candidate.and_then(|id| topology.member(id)) {
            self.worker.warm(&self.pools, topology, candidate);
        }
        let place = Holding::enter(&shared, bytes);
        if place.is_one_too_many() {
            Counters::add(&shared.told.gave_up);
            let message = "too many sessions wait for a primary";
            return Ok(Err(Failure::Own(SqlState::TOO_MANY_CONNECTIONS, message.into())));
        }
        let began = attempt.began();
        self.wait_begins(Wait::Primary, Instant::now());
        if !std::mem::replace(&mut attempt.waited, true) {
            Counters::add(&shared.told.waited);
        }
        let deadline = began + limits.hold.unwrap_or(topology.hold);
        self.handle.want_topology();
        let woken = if self.worker.is_outdated() {
            Ok(Ok(Woken::Topology))
        } else {
            let wait = poll_fn(|cx| self.poll_wait(cx, false));
            tokio::time::timeout_at(deadline.into(), wait).await
        };
        self.wait_ends();
        shared.told.waited_for(began.elapsed());
        attempt.tries = 0;
        match woken {
            Ok(woken) => Ok(match woken? {
                Woken::Cancelled => Err(cancelled()),
                Woken::Backend(_) | Woken::Topology => {
                    attempt.held = true;
                    Ok(())
                }
            }),
            Err(_elapsed) => {
                Counters::add(&shared.told.gave_up);
                let waited = began.elapsed().as_secs();
                let message = format!("there has been no primary for {waited} s; try again later");
                Ok(Err(Failure::Own(SqlState::CANNOT_CONNECT_NOW, message)))
            }
        }
    }

    /// After a long wait the client hears what it waited for.
    fn notice_wait(&mut self, attempt: &mut Attempt) {
        let waited = attempt.began().elapsed();
        if waited >= NOTICE_AFTER {
            let message = format!("waited {:.1} s for a new primary", waited.as_secs_f64());
            build::error(&mut self.to_client, Severity::Notice, SqlState::SUCCESS, &message, None, None);
        }
    }

    /// Waits in a pool's queue; none when the member can't be used and another may.
    async fn wait_for_backend(
        &mut self,
        pool: &Rc<Pool>,
        primary: bool,
        attempt: &mut Attempt,
    ) -> Result<Result<Option<Box<Backend>>, Failure>, Ended> {
        let began = Instant::now();
        if let Err(error) = pool.wait(&self.waiter, began) {
            return Ok(Err(Failure::Own(SqlState::TOO_MANY_CONNECTIONS, error.to_string())));
        }
        self.wait_begins(Wait::Backend, began);
        let (_, _, opening, waiting) = pool.counts();
        // The first for whom nothing is under way asks for those behind it too.
        self.worker.open_more(&self.pools, pool, waiting == opening + 1);
        let woken = loop {
            self.handle.want_topology();
            let woken = poll_fn(|cx| self.poll_wait(cx, true)).await;
            // A topology in which this member is what it was is no reason to lose one's place in the queue.
            if !(matches!(woken, Ok(Woken::Topology)) && self.still_good(pool, primary)) {
                break woken;
            }
        };
        pool.forget(&self.waiter);
        self.wait_ends();
        let given = match woken {
            Ok(Woken::Backend(given)) => given,
            Ok(Woken::Topology) => self.waiter.try_take().unwrap_or(Err(AcquireError::Moved)),
            Ok(Woken::Cancelled) => {
                self.give_back_unused(pool);
                return Ok(Err(cancelled()));
            }
            Err(ended) => {
                self.give_back_unused(pool);
                return Err(ended);
            }
        };
        Ok(match given {
            Ok(backend) => Ok(Some(backend)),
            Err(AcquireError::Moved) => Ok(None),
            Err(AcquireError::Unreachable(_)) => {
                (self.worker.shared.suspect)(MemberId(pool.member()));
                attempt.avoid |= bit(pool.member());
                attempt.tries += 1;
                Ok(None)
            }
            // A replica may not know yet what the primary does: a new database, a new password.
            Err(AcquireError::Refused(_) | AcquireError::Login(_)) if !primary => {
                attempt.avoid |= bit(pool.member());
                Ok(None)
            }
            Err(AcquireError::Refused(body)) => Err(Failure::Server(body)),
            Err(AcquireError::Login(why)) => {
                Err(Failure::Own(SqlState::UNABLE_TO_CONNECT, format!("the proxy could not log in: {why}")))
            }
            Err(error @ (AcquireError::Timeout | AcquireError::TooManyWaiting)) => {
                Err(Failure::Own(SqlState::TOO_MANY_CONNECTIONS, error.to_string()))
            }
        })
    }

    /// Whether a pool's member is still what the batch was sent to it for.
    fn still_good(&self, pool: &Pool, primary: bool) -> bool {
        let topology = self.worker.topology();
        let known = topology.members.iter().find(|member| member.id.0 == pool.member());
        known.is_some_and(|member| {
            topology.lease_generation(member) == pool.generation() && (primary || member.serves_reads)
        }) && (!primary || topology.primary().is_some_and(|now| now.id.0 == pool.member()))
    }

    /// A backend that was given while the session stopped waiting goes to the next.
    fn give_back_unused(&mut self, pool: &Rc<Pool>) {
        if let Some(Ok(backend)) = self.waiter.try_take() {
            self.worker.release(&self.pools, pool, backend);
        }
    }

    /// A member that can't be reached: a moment for the control path to see it too, then the next try.
    pub(super) async fn pause(
        &mut self,
        attempt: &mut Attempt,
        member: &Member,
        primary: bool,
    ) -> Result<(), Ended> {
        if attempt.avoid & bit(member.id.0) == 0 || !primary {
            return Ok(());
        }
        attempt.avoid &= !bit(member.id.0);
        (self.worker.shared.suspect)(member.id);
        self.wait_for_topology(UNREACHABLE_WAIT).await.map(|_| ())
    }

    pub(super) fn poll_wait(
        &mut self,
        cx: &mut Context<'_>,
        for_backend: bool,
    ) -> Poll<Result<Woken, Ended>> {
        if for_backend && let Poll::Ready(given) = self.waiter.poll(cx) {
            return Poll::Ready(Ok(Woken::Backend(given)));
        }
        if self.handle.take_cancel() {
            return Poll::Ready(Ok(Woken::Cancelled));
        }
        if self.handle.order() == Order::Kill {
            return Poll::Ready(Err(self.ended_by_administrator()));
        }
        if self.handle.topology_moved() {
            return Poll::Ready(Ok(Woken::Topology));
        }
        self.handle.watch(cx);
        while self.inbox.len() < LOOK_AHEAD {
            match self.poll_read_client(cx) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Err(Ended::Client)),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }
}

pub(super) fn bit(member: u16) -> u64 {
    1 << (member % 64)
}

pub(super) fn cancelled() -> Failure {
    Failure::Own(SqlState::QUERY_CANCELED, "canceling statement due to user request".into())
}
