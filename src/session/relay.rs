//! Passing bytes both ways while a batch is under way.
//!
//! Both sides are polled by one task. What the backend says is cut into frames ([`super::answer`]) in the worker's own
//! buffer and written to the client straight from there; only what the client doesn't take at once is copied. A client that
//! doesn't read stops its backend: nothing more is read from it.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::acquire::Attempt;
use super::answer::{Event, Step};
use super::batch::Summary;
use super::handle::Order;
use super::loss::Loss;
use super::state::Tx;
use super::translate::Translation;
use super::{Ended, Item, LOOK_AHEAD, Session, translate};
use crate::backend::Settings;
use crate::metrics::Reroute;
use crate::wire::frame::frame_len;
use crate::wire::parts::ErrorFields;
use crate::wire::tags::frontend as tag;
use crate::wire::{HEADER_LEN, SqlState, TxStatus};

/// Why a batch is run again, elsewhere, though its backend lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rerun {
    /// A replica refused it: it writes after all.
    Writes,
    /// A replica cancelled it in favour of replay.
    RecoveryConflict,
    /// The primary refused it: it is none any more.
    NotPrimary,
}

/// How far a client's COPY has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copying {
    No,
    /// CopyData is passed on; so many bytes of one are still to come.
    Data(usize),
    /// The client ended it; under the extended protocol its Sync is still to come.
    AwaitsSync,
}

/// One attempt at a batch.
#[derive(Debug)]
pub(super) struct Run {
    /// Nothing is passed on yet: the batch may be run again.
    pub(super) hold: bool,
    /// The client got something of the answer.
    pub(super) passed: bool,
    /// Something of the client's own batch was given to the socket.
    pub(super) sent: bool,
    /// An error was answered.
    pub(super) failed: bool,
    /// Parses of the client's that were answered.
    pub(super) parsed: usize,
    /// Statements that the batch parses on this backend.
    pub(super) parses: Vec<u64>,
    pub(super) rerun: Option<Rerun>,
    pub(super) copying: Copying,
    /// The client's CopyDone was passed on.
    pub(super) copy_done: bool,
    /// The client's own Query or Sync was answered to its end.
    pub(super) ready: bool,
    /// The last command's tag was ROLLBACK.
    pub(super) rolled_back: bool,
    /// The BEGIN that was not sent before this batch.
    pub(super) begin: Option<(Vec<u8>, crate::sql::TransactionModes)>,
    /// Settings as they were before the batch.
    pub(super) settings: std::sync::Arc<Settings>,
    /// The batch only reads.
    reads: bool,
    /// One statement, outside of a transaction, that may be refused and sent again.
    alone: bool,
    /// The transaction that is open had nothing in it before this batch.
    pub(super) first_in_transaction: bool,
    /// Where this batch's answer begins in the client's buffer.
    mark: usize,
}

impl Run {
    pub(super) fn new(session: &Session, summary: &Summary, attempt: &Attempt) -> Self {
        let reads = summary.reads() && !session.open_batch;
        Self {
            hold: reads && !session.in_open_transaction(),
            passed: false,
            sent: false,
            failed: false,
            parsed: 0,
            parses: Vec::new(),
            rerun: None,
            copying: Copying::No,
            copy_done: false,
            ready: false,
            rolled_back: false,
            begin: match &session.tx {
                Tx::Deferred { begin, modes } => Some((begin.clone(), *modes)),
                _ => None,
            },
            settings: std::sync::Arc::clone(&session.settings),
            reads,
            alone: summary.runs <= 1
                && !attempt.takes_refusals()
                && matches!(session.tx, Tx::Idle)
                && !session.open_batch,
            first_in_transaction: matches!(session.tx, Tx::Deferred { .. }),
            mark: session.to_client.len(),
        }
    }
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Everything that was sent is answered.
    Settled,
    /// The backend is of no more use.
    Lost(Loss),
    /// The client is gone.
    ClientGone,
    /// The session is to end.
    Killed,
}

impl Session {
    /// Brings the backend in line with the session's settings and open BEGIN; true when the answer has to be awaited before
    /// anything else is sent.
    pub(super) fn prepare_backend(&mut self) -> bool {
        let Some(lease) = self.lease.as_mut() else { return false };
        if self.to_backend.capacity() == 0 {
            self.to_backend = self.worker.buffer();
        }
        let mut wait = false;
        let mut sql = Vec::new();
        if !lease.backend.settings.same(&self.settings) {
            lease.backend.settings.sql_towards(&self.settings, &mut sql);
            wait = sql.starts_with(b"RESET ROLE");
            lease.backend.settings = std::sync::Arc::clone(&self.settings);
        }
        let mut begin = None;
        if let Tx::Deferred { begin: text, .. } = &self.tx {
            begin = Some(text.clone());
        }
        let mut parsed = Vec::new();
        let mut translation = Translation {
            backend: &mut lease.backend,
            answer: &mut self.answer,
            out: &mut self.to_backend,
            unnamed: &self.unnamed,
            naming: 0,
            parsed: &mut parsed,
        };
        if !sql.is_empty() {
            translation.hidden_query(&sql);
        }
        if let Some(begin) = begin {
            translation.hidden_query(&begin);
        }
        wait
    }

    /// Puts the batch into the backend's buffer.
    pub(super) fn translate(&mut self, bytes: &[u8], items: &[Item], run: &mut Run) {
        let Some(lease) = self.lease.as_mut() else { return };
        let mut translation = Translation {
            backend: &mut lease.backend,
            answer: &mut self.answer,
            out: &mut self.to_backend,
            unnamed: &self.unnamed,
            naming: self.settings.naming(),
            parsed: &mut run.parses,
        };
        self.skipping = translation.batch(bytes, items, self.skipping);
        run.sent = true;
    }

    /// Passes bytes both ways until everything sent is answered.
    pub(super) async fn relay(&mut self, run: &mut Run) -> Outcome {
        poll_fn(|cx| self.poll_relay(cx, run)).await
    }

    fn poll_relay(&mut self, cx: &mut Context<'_>, run: &mut Run) -> Poll<Outcome> {
        if let Some(outcome) = self.orders(run) {
            return Poll::Ready(outcome);
        }
        self.handle.watch(cx);
        loop {
            if let Poll::Ready(Err(loss)) = self.poll_flush_backend(cx) {
                return Poll::Ready(Outcome::Lost(loss));
            }
            let blocked = match self.poll_answer(cx, run) {
                Poll::Ready(Ok(())) => return Poll::Ready(Outcome::Settled),
                Poll::Ready(Err(Refused::Client)) => return Poll::Ready(Outcome::ClientGone),
                Poll::Ready(Err(Refused::Backend(loss))) => return Poll::Ready(Outcome::Lost(loss)),
                Poll::Pending => self.client_at < self.to_client.len() && !run.hold,
            };
            // Nothing more is asked of a client that doesn't take what it asked for.
            if blocked {
                return Poll::Pending;
            }
            match self.poll_client_input(cx, run) {
                Poll::Ready(Some(true)) => {}
                Poll::Ready(Some(false)) => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Outcome::ClientGone),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// What the session was told from outside.
    fn orders(&mut self, run: &Run) -> Option<Outcome> {
        if self.handle.is_fenced() {
            return Some(Outcome::Lost(Loss::Fenced));
        }
        if self.handle.order() == Order::Kill {
            return Some(Outcome::Killed);
        }
        if self.handle.take_cancel() && run.sent {
            self.send_cancel();
        }
        None
    }

    /// Writes what the backend is to get.
    fn poll_flush_backend(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Loss>> {
        let Some(lease) = self.lease.as_mut() else { return Poll::Ready(Err(Loss::Closed)) };
        while self.backend_at < self.to_backend.len() {
            match lease.backend.stream.poll_write(cx, &self.to_backend[self.backend_at..]) {
                Poll::Ready(Ok(n)) if n > 0 => self.backend_at += n,
                Poll::Ready(_) => return Poll::Ready(Err(Loss::Closed)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.backend_at > 0 {
            self.backend_at = 0;
            let sent = std::mem::take(&mut self.to_backend);
            self.worker.give_buffer(sent);
            if lease.backend.stream.poll_flush(cx).is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what the client is to get; an error means that it is gone.
    pub(super) fn poll_flush_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if self.to_client.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.client_at < self.to_client.len() {
            match self.client.poll_write(cx, &self.to_client[self.client_at..]) {
                Poll::Ready(Ok(n)) if n > 0 => self.client_at += n,
                Poll::Ready(_) => return Poll::Ready(Err(Ended::Client)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.client_at = 0;
        let sent = std::mem::take(&mut self.to_client);
        self.worker.give_buffer(sent);
        match self.client.poll_flush(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(Err(Ended::Client)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    /// Reads the backend until everything is answered, nothing more is there, or the client doesn't take more.
    fn poll_answer(&mut self, cx: &mut Context<'_>, run: &mut Run) -> Poll<Result<(), Refused>> {
        let worker = Rc::clone(&self.worker);
        let mut scratch = worker.scratch.borrow_mut();
        loop {
            if self.answer.is_settled() {
                run.hold = false;
                return Poll::Ready(Ok(()));
            }
            if !run.hold && self.poll_flush_client(cx).map_err(|_| Refused::Client)?.is_pending() {
                return Poll::Pending;
            }
            let Some(lease) = self.lease.as_mut() else {
                return Poll::Ready(Err(Refused::Backend(Loss::Closed)));
            };
            let mut stash = std::mem::take(&mut lease.backend.stash);
            if stash.len() * 2 > scratch.len() {
                // A long frame that has to be read whole: an error text of many pages.
                let at = stash.len();
                stash.resize(at + scratch.len(), 0);
                match lease.backend.stream.poll_read(cx, &mut stash[at..]) {
                    Poll::Ready(Ok(n)) if n > 0 => stash.truncate(at + n),
                    Poll::Ready(_) => return Poll::Ready(Err(Refused::Backend(Loss::Closed))),
                    Poll::Pending => {
                        stash.truncate(at);
                        lease.backend.stash = stash;
                        return Poll::Pending;
                    }
                }
                self.digest(cx, &stash, run)?;
                continue;
            }
            let held = stash.len();
            scratch[..held].copy_from_slice(&stash);
            match lease.backend.stream.poll_read(cx, &mut scratch[held..]) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.worker.give_buffer(stash);
                    self.digest(cx, &scratch[..held + n], run)?;
                }
                Poll::Ready(_) => return Poll::Ready(Err(Refused::Backend(Loss::Closed))),
                Poll::Pending => {
                    lease.backend.stash = stash;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Takes up bytes of the backend; what is left of them is kept for the next.
    fn digest(&mut self, cx: &mut Context<'_>, buf: &[u8], run: &mut Run) -> Result<(), Refused> {
        let (mut at, mut from) = (0, 0);
        loop {
            let step = self.answer.step(&buf[at..]).map_err(|error| Loss::OutOfStep(error.to_string()))?;
            let (pass, n) = match step {
                Step::Pass(n) => (run.rerun.is_none(), n),
                Step::Skip(n) => (false, n),
                Step::Event(event, n) => (self.on_event(event, run)?, n),
                Step::More => break,
            };
            if pass {
                at += n;
            } else {
                self.to_client.extend_from_slice(&buf[from..at]);
                at += n;
                from = at;
            }
        }
        if at < buf.len()
            && let Some(lease) = self.lease.as_mut()
        {
            let mut stash = self.worker.buffer();
            stash.extend_from_slice(&buf[at..]);
            lease.backend.stash = stash;
        }
        self.pass(cx, &buf[from..at], run)
    }

    /// Gives the client the end of a chunk: held back, written straight from the buffer, or kept until it takes it.
    fn pass(&mut self, cx: &mut Context<'_>, chunk: &[u8], run: &mut Run) -> Result<(), Refused> {
        if run.hold {
            let limit = self.worker.shared.config.routing.answer_buffer;
            let held = self.to_client.len() - run.mark + chunk.len();
            if held <= limit && !self.answer.is_settled() {
                self.to_client.extend_from_slice(chunk);
                return Ok(());
            }
            run.hold = false;
        }
        run.passed |= !chunk.is_empty() || self.to_client.len() > run.mark;
        let mut done = 0;
        if self.to_client.is_empty() {
            while done < chunk.len() {
                match self.client.poll_write(cx, &chunk[done..]) {
                    Poll::Ready(Ok(n)) if n > 0 => done += n,
                    Poll::Ready(_) => return Err(Refused::Client),
                    Poll::Pending => break,
                }
            }
            // What TLS couldn't send yet goes with the next write or flush.
            let _rest = self.client.poll_flush(cx);
        }
        if done < chunk.len() {
            if self.to_client.capacity() == 0 {
                self.to_client = self.worker.buffer();
            }
            self.to_client.extend_from_slice(&chunk[done..]);
        }
        Ok(())
    }

    /// Takes up a frame that has to be read; true to pass it on.
    fn on_event(&mut self, event: Event<'_>, run: &mut Run) -> Result<bool, Loss> {
        match event {
            Event::Error { fields, hidden: true, .. } => Err(Loss::Setup(fields.message().into_owned())),
            Event::Error { instead: Some(instead), .. } => {
                run.failed = true;
                self.to_client.extend_from_slice(&instead);
                Ok(false)
            }
            Event::Error { fields, .. } => self.on_error(&fields, run),
            Event::Complete { tag, owed, hidden } => {
                run.rolled_back = tag == b"ROLLBACK";
                if !hidden
                    && run.rerun.is_none()
                    && let Some(verdict) = owed.and_then(|owed| owed.verdict)
                {
                    self.completed(&verdict, run.rolled_back);
                }
                Ok(!hidden && run.rerun.is_none())
            }
            Event::Ready { status, owed } => {
                if let Some(lease) = self.lease.as_mut() {
                    lease.status = status;
                }
                if owed.hidden {
                    if status == TxStatus::Open {
                        self.tx = Tx::open(run.settings.clone());
                    }
                    return Ok(false);
                }
                if run.rerun.is_some() {
                    return Ok(false);
                }
                run.ready = true;
                if let Some(verdict) = owed.verdict.filter(|_| !run.failed) {
                    self.completed(&verdict, run.rolled_back);
                }
                self.transaction_is(status, run);
                Ok(true)
            }
            Event::Parameter { name, value } => Ok(self.parameter(name, value) && run.rerun.is_none()),
            Event::CopyIn => {
                run.copying = Copying::Data(0);
                run.hold = false;
                self.answer.copy_takes_sync();
                Ok(true)
            }
            Event::CopyBoth => Err(Loss::OutOfStep("replication on a pooled connection".into())),
            Event::Parsed => {
                run.parsed += 1;
                Ok(run.rerun.is_none())
            }
        }
    }

    fn on_error(&mut self, fields: &ErrorFields<'_>, run: &mut Run) -> Result<bool, Loss> {
        let state = fields.state();
        if fields.is_fatal() {
            // To a driver FATAL means that its connection is gone. It isn't.
            return Err(Loss::Fatal(state, fields.message().into_owned()));
        }
        if let Some(why) = self.rerun_for(state, fields, run) {
            run.rerun = Some(why);
            self.to_client.truncate(run.mark);
            return Ok(false);
        }
        run.failed = true;
        if self.answer.is_settled() {
            // No Sync was sent yet: the server drops all up to it.
            self.skipping = true;
        }
        self.worker.metrics.error(state.0);
        Ok(run.rerun.is_none())
    }

    /// Whether this error is the member's and not the statement's, and the statement can be run elsewhere.
    fn rerun_for(&self, state: SqlState, fields: &ErrorFields<'_>, run: &Run) -> Option<Rerun> {
        let lease = self.lease.as_ref()?;
        if run.passed || run.rerun.is_some() || self.in_open_transaction() || self.open_batch {
            return None;
        }
        let recovering = || {
            let message = fields.message();
            message.contains("recovery is in progress") || message.contains("during recovery")
        };
        if !lease.primary {
            return match state {
                SqlState::READ_ONLY_SQL_TRANSACTION => Some(Rerun::Writes),
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
                | SqlState::FEATURE_NOT_SUPPORTED
                | SqlState::INTERNAL_ERROR
                    if recovering() =>
                {
                    Some(Rerun::Writes)
                }
                SqlState::SERIALIZATION_FAILURE if run.reads => Some(Rerun::RecoveryConflict),
                _ => None,
            };
        }
        let demoted = match state {
            SqlState::READ_ONLY_SQL_TRANSACTION => !self.default_read_only(),
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => recovering(),
            _ => false,
        };
        (demoted && run.alone).then_some(Rerun::NotPrimary)
    }

    /// Takes what the client sends meanwhile: CopyData for the backend, else what it says ahead of its turn. True when there
    /// was some, false when nothing more is taken now, none when it is gone.
    fn poll_client_input(&mut self, cx: &mut Context<'_>, run: &mut Run) -> Poll<Option<bool>> {
        if run.copying != Copying::No {
            if self.backend_at < self.to_backend.len() {
                return Poll::Ready(Some(false));
            }
            if self.copy_from_inbox(run) {
                return Poll::Ready(Some(true));
            }
        } else if self.inbox.len() >= LOOK_AHEAD {
            return Poll::Ready(Some(false));
        }
        match self.poll_read_client(cx) {
            Poll::Ready(true) => Poll::Ready(Some(true)),
            Poll::Ready(false) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Passes on what belongs to the COPY; true when that was anything.
    fn copy_from_inbox(&mut self, run: &mut Run) -> bool {
        let mut at = 0;
        while at < self.inbox.len() {
            let rest = &self.inbox[at..];
            if let Copying::Data(left) = run.copying
                && left > 0
            {
                let n = left.min(rest.len());
                run.copying = Copying::Data(left - n);
                at += n;
                continue;
            }
            let Ok(Some(len)) = frame_len(rest, self.worker.shared.config.limits.message) else { break };
            match (rest[0], run.copying) {
                (tag::COPY_DATA, Copying::Data(_)) => {
                    at += HEADER_LEN;
                    run.copying = Copying::Data(len - HEADER_LEN);
                    continue;
                }
                _ if len > rest.len() => break,
                (tag::COPY_DONE | tag::COPY_FAIL, Copying::Data(_)) => {
                    run.copy_done |= rest[0] == tag::COPY_DONE;
                    at += len;
                    run.copying =
                        if self.answer.copy_is_simple() { Copying::No } else { Copying::AwaitsSync };
                    if run.copying == Copying::No {
                        break;
                    }
                }
                (tag::SYNC, Copying::AwaitsSync) => {
                    at += len;
                    run.copying = Copying::No;
                    self.answer.expect(super::answer::Owed::new(super::answer::Kind::Sync));
                    break;
                }
                // Flush and Sync inside of a COPY mean nothing; anything else fails it, by the server's own word.
                _ => at += len,
            }
        }
        if at == 0 {
            return false;
        }
        if self.to_backend.capacity() == 0 {
            self.to_backend = self.worker.buffer();
        }
        self.to_backend.extend_from_slice(&self.inbox[..at]);
        self.inbox.drain(..at);
        if self.inbox.is_empty() {
            let empty = std::mem::take(&mut self.inbox);
            self.worker.give_buffer(empty);
        }
        true
    }

    /// Passes on what a held backend says while the client is silent: notifications, notices, parameters.
    pub(super) fn poll_idle_backend(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let mut run = Run::idle(self);
        let outcome = if self.handle.is_fenced() {
            Poll::Ready(Err(Refused::Backend(Loss::Fenced)))
        } else {
            self.poll_asynchronous(cx, &mut run)
        };
        match outcome {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(Refused::Client)) => Poll::Ready(Err(Ended::Client)),
            Poll::Ready(Err(Refused::Backend(loss))) => Poll::Ready(self.on_idle_loss(&loss)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_asynchronous(&mut self, cx: &mut Context<'_>, run: &mut Run) -> Poll<Result<(), Refused>> {
        let worker = Rc::clone(&self.worker);
        let mut scratch = worker.scratch.borrow_mut();
        let Some(lease) = self.lease.as_mut() else { return Poll::Pending };
        match lease.backend.stream.poll_read(cx, &mut scratch) {
            Poll::Ready(Ok(n)) if n > 0 => {
                let mut bytes = std::mem::take(&mut lease.backend.stash);
                bytes.extend_from_slice(&scratch[..n]);
                drop(scratch);
                Poll::Ready(self.digest(cx, &bytes, run))
            }
            Poll::Ready(_) => Poll::Ready(Err(Refused::Backend(Loss::Closed))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The statements that a failed batch parsed may not be there.
    pub(super) fn doubt_parses(&mut self, run: &Run) {
        if let Some(lease) = self.lease.as_mut() {
            translate::doubt(&mut lease.backend, &run.parses);
        }
    }
}

impl Rerun {
    /// As it is counted.
    pub(super) fn label(self) -> Reroute {
        match self {
            Self::Writes => Reroute::ReadOnly,
            Self::RecoveryConflict => Reroute::Conflict,
            Self::NotPrimary => Reroute::Recovery,
        }
    }
}

impl Run {
    /// Where this batch's answer begins in what the client has not got yet.
    pub(super) fn mark(&self) -> usize {
        self.mark
    }

    fn idle(session: &Session) -> Self {
        let summary = Summary::default();
        Self { hold: false, ..Self::new(session, &summary, &Attempt::new(&summary)) }
    }
}

/// Which side can't go on.
enum Refused {
    Client,
    Backend(Loss),
}

impl From<Loss> for Refused {
    fn from(loss: Loss) -> Self {
        Self::Backend(loss)
    }
}
