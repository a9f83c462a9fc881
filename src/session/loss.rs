//! What the client is told when the backend of its statement is lost.
//!
//! What has certainly not run, or only read and nothing of it was passed on, is run again. What may have run is reported and
//! never sent again. The session lives, unless something was lost with the backend that it can't do without.

use std::sync::Arc;

use super::acquire::Failure;
use super::batch::{End, Summary};
use super::run::{Copying, Run};
use super::state::Tx;
use super::told::Counters;
use super::{Ended, Session};
use crate::sql::Class;
use crate::wire::build;
use crate::wire::tags::backend as tag;
use crate::wire::{SqlState, TxStatus};

/// Why a backend can't be used any more.
#[derive(Debug)]
pub(super) enum Loss {
    /// The connection ended or broke.
    Closed,
    /// The server ended it with this error.
    Fatal(SqlState, String),
    /// Its member is no longer what it was when the backend was opened.
    Fenced,
    /// Its member doesn't answer.
    Silent,
    /// Its member is to give up the lead, and the time for open transactions is over.
    Drained,
    /// It sent what it can't have sent.
    OutOfStep(String),
    /// It is a standby, and the session's transactions are serializable.
    Serializable,
    /// It refused what the proxy set up before the statement.
    Setup(SqlState, String),
}

/// What follows a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The batch is run again.
    Again,
    /// The client was told.
    Answered,
}

impl Session {
    /// Closes the backend that is held, if one is.
    pub(super) fn close_backend(&mut self) {
        self.handle.hold(None);
        if let Some(lease) = self.lease.take() {
            lease.pool.closed();
        }
    }

    /// Decides what a lost backend means for the batch that it had.
    pub(super) fn on_loss(
        &mut self,
        loss: &Loss,
        run: &Run,
        end: End,
        summary: &Summary,
    ) -> Result<Next, Ended> {
        let padding = self.answer.cut_off();
        self.give_up_backend(loss);
        self.end_if_pinned()?;
        if run.passed && padding > 0 {
            // The row that was cut in two: its end never came. An error follows, so that nobody takes it for whole.
            self.to_client.resize(self.to_client.len() + padding, 0);
        }
        let Some((state, message)) = self.verdict_of_loss(loss, run, summary) else {
            self.to_client.truncate(run.mark);
            self.forget_transaction(run);
            return Ok(Next::Again);
        };
        if !run.passed {
            self.to_client.truncate(run.mark);
        }
        self.settle_names(Some(self.answer.answered()));
        self.end_lost_transaction(run, summary);
        self.worker.shared.told.told(state);
        self.error(state, &message, Some(&loss.detail()), None);
        self.close_batch(end, run);
        Ok(Next::Answered)
    }

    /// A backend that was held while the client was silent is lost.
    pub(super) fn on_idle_loss(&mut self, loss: &Loss) -> Result<(), Ended> {
        self.give_up_backend(loss);
        self.end_if_pinned()?;
        if let Tx::Open { before, .. } = &self.tx {
            self.settings = Arc::clone(before);
            self.tx = Tx::Lost { told: false };
        }
        if self.open_batch {
            self.open_batch = false;
            self.error(SqlState::SERIALIZATION_FAILURE, LOST_TRANSACTION, Some(&loss.detail()), None);
            self.skipping = true;
        }
        Ok(())
    }

    /// Answers a batch that could not be run at all.
    pub(super) fn fail_batch(&mut self, end: End, failure: &Failure) {
        self.settle_names(Some(0));
        match failure {
            Failure::Own(state, message) => self.error(*state, message, None, None),
            Failure::Server(body) => {
                // A login refused by the server, told as an error: the session goes on.
                let body = build::as_error(body);
                build::frame(&mut self.to_client, tag::ERROR_RESPONSE, |out| out.extend_from_slice(&body));
            }
        }
        if matches!(self.tx, Tx::Deferred { .. }) {
            self.tx = Tx::Lost { told: true };
        }
        self.answer_end(end);
    }

    /// The status that ReadyForQuery shows.
    pub(super) fn status(&self) -> TxStatus {
        match &self.tx {
            Tx::Idle => TxStatus::Idle,
            Tx::Deferred { .. } => TxStatus::Open,
            Tx::Lost { .. } => TxStatus::Failed,
            Tx::Open { .. } => self.lease.as_ref().map_or(TxStatus::Failed, |lease| lease.status),
        }
    }

    /// ReadyForQuery where the batch asks for one; else all up to the Sync is dropped.
    pub(super) fn answer_end(&mut self, end: End) {
        if matches!(end, End::Query | End::Sync) {
            let status = self.status();
            build::ready_for_query(&mut self.to_client, status);
            self.skipping = false;
        } else {
            self.skipping = true;
        }
        self.open_batch = false;
    }

    fn close_batch(&mut self, end: End, run: &Run) {
        let waits_for_sync = end == End::Sync && run.copying != Copying::No;
        if let Copying::Data(left) = run.copying {
            self.stray = left;
        }
        self.answer_end(if waits_for_sync { End::Flush } else { end });
    }

    pub(super) fn give_up_backend(&mut self, loss: &Loss) {
        self.answer.clear();
        self.to_backend.clear();
        self.backend_at = 0;
        if let Some(lease) = &self.lease {
            tracing::debug!(backend = ?lease.backend, loss = %loss.detail(), "backend lost");
        }
        self.close_backend();
    }

    /// A pinned session lost what no other backend has.
    fn end_if_pinned(&mut self) -> Result<(), Ended> {
        if !self.pins.any() {
            return Ok(());
        }
        if self.pins.only_listens() {
            self.relisten = true;
            return Ok(());
        }
        Counters::add(&self.worker.shared.told.ended);
        let message = format!("the connection to the primary was lost, and with it: {}", self.pins);
        self.fatal(SqlState::ADMIN_SHUTDOWN, &message);
        Err(Ended::Fatal)
    }

    /// The error to tell; none if the batch can be run again.
    fn verdict_of_loss(&self, loss: &Loss, run: &Run, summary: &Summary) -> Option<(SqlState, String)> {
        if let Loss::Setup(_, message) = loss {
            return Some((
                SqlState::CONNECTION_FAILURE,
                format!("the session's settings were refused: {message}"),
            ));
        }
        if matches!(loss, Loss::Serializable) {
            return None; // it had run nothing
        }
        let only_reads = matches!(summary.class, Class::Read | Class::VectorRead | Class::Session);
        let open = self.in_open_transaction() || (run.first_in_transaction && run.sent);
        if open {
            if run.first_in_transaction && (!run.sent || (only_reads && !run.passed)) {
                return None;
            }
            if summary.ends_transaction && run.sent && !run.failed {
                return Some((SqlState::OUTCOME_UNKNOWN, UNKNOWN.into()));
            }
            return Some((SqlState::SERIALIZATION_FAILURE, LOST_TRANSACTION.into()));
        }
        if !run.sent || (only_reads && !run.passed && !self.open_batch) {
            return None;
        }
        if only_reads {
            return Some((
                SqlState::CONNECTION_FAILURE,
                "the connection was lost in the middle of an answer".into(),
            ));
        }
        if run.copying != Copying::No && !run.copy_done {
            let message = "the primary was lost during COPY; nothing of it was kept: retry it";
            return Some((SqlState::SERIALIZATION_FAILURE, message.into()));
        }
        Some((SqlState::OUTCOME_UNKNOWN, UNKNOWN.into()))
    }

    /// Before a rerun: a transaction of which nothing but BEGIN was sent is to be begun again.
    fn forget_transaction(&mut self, run: &Run) {
        self.settings = Arc::clone(&run.settings);
        if run.first_in_transaction
            && let Some((begin, modes)) = run.begin.clone()
        {
            self.tx = Tx::Deferred { begin, modes };
        }
    }

    fn end_lost_transaction(&mut self, run: &Run, summary: &Summary) {
        let before = match &self.tx {
            Tx::Open { before, .. } => Some(Arc::clone(before)),
            Tx::Deferred { .. } => Some(Arc::clone(&run.settings)),
            Tx::Idle | Tx::Lost { .. } => None,
        };
        match before {
            Some(before) => {
                self.settings = before;
                self.tx =
                    if summary.ends_transaction && run.sent { Tx::Idle } else { Tx::Lost { told: true } };
            }
            None => self.settings = Arc::clone(&run.settings),
        }
        self.portals.clear();
    }
}

pub(super) const LOST_TRANSACTION: &str = "the primary was lost; retry the transaction";
const UNKNOWN: &str = "the primary was lost before it answered; the outcome is unknown";

impl Loss {
    /// Whether it is a sign of trouble with the member that nobody else has seen.
    pub(super) fn is_the_members(&self) -> bool {
        match self {
            Self::Closed | Self::Fatal(..) | Self::OutOfStep(_) => true,
            Self::Fenced | Self::Silent | Self::Drained | Self::Serializable | Self::Setup(..) => false,
        }
    }

    /// What happened, for the error's detail and the log.
    pub(super) fn detail(&self) -> String {
        match self {
            Self::Closed => "The connection to the server was closed.".into(),
            Self::Fatal(state, message) => format!("The server said {}: {message}", state.as_str()),
            Self::Fenced => "Another member is primary now.".into(),
            Self::Silent => "The member doesn't answer.".into(),
            Self::Drained => {
                "A switchover was announced, and the time for open transactions (failover.drain) is over."
                    .into()
            }
            Self::OutOfStep(what) => format!("The server is out of step: {what}."),
            Self::Serializable => "A standby can't run serializable transactions.".into(),
            Self::Setup(_, message) => format!("The server said: {message}"),
        }
    }
}
