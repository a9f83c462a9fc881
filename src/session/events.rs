//! What a backend's frames mean for the session: errors, completed statements, the transaction's status, parameters.

use std::sync::Arc;

use super::Session;
use super::answer::{Event, Owed};
use super::leaving;
use super::loss::Loss;
use super::run::{Copying, Rerun, Run};
use super::state::Tx;
use super::translate;
use crate::sql::{TransactionVerb, Verdict};
use crate::wire::parts::ErrorFields;
use crate::wire::tags::backend as tag;
use crate::wire::{SqlState, TxStatus, build};

impl Session {
    /// Takes up a frame that has to be read; true to pass it on.
    pub(super) fn on_event(&mut self, event: Event<'_>, run: &mut Run) -> Result<bool, Loss> {
        match event {
            Event::Error { fields, .. } if self.needs_primary(&fields, run) => {
                self.serializable = true;
                Err(Loss::Serializable)
            }
            Event::Error { fields, hidden: true, .. } if fields.is_fatal() => {
                // The server ended while it set up: what was sent behind that has certainly not run.
                run.sent &= !self.answer.sets_up();
                Err(Loss::Fatal(fields.state(), fields.message().into_owned()))
            }
            // A statement that another member knows, parsed in front.
            Event::Error { fields, hidden: true, .. }
                if self.rerun_for(fields.state(), &fields, run) == Some(Rerun::Behind) =>
            {
                run.rerun = Some(Rerun::Behind);
                self.to_client.truncate(run.mark);
                Ok(false)
            }
            Event::Error { fields, hidden: true, .. } => {
                Err(Loss::Setup(fields.state(), fields.message().into_owned()))
            }
            Event::Error { instead: Some(instead), .. } => {
                run.failed = true;
                self.to_client.extend_from_slice(&instead);
                Ok(false)
            }
            Event::Error { fields, reused, .. } => self.on_error(&fields, reused, run),
            Event::Complete { tag, owed, hidden } => {
                run.rolled_back = tag == b"ROLLBACK";
                run.completed += usize::from(!hidden);
                run.may_leave |= hidden && tag == leaving::YES;
                if !hidden
                    && run.rerun.is_none()
                    && let Some(verdict) = owed.and_then(|owed| owed.verdict)
                {
                    self.completed(&verdict, run.rolled_back);
                    self.ended_implicitly(&verdict, run);
                }
                Ok(!hidden && run.rerun.is_none())
            }
            Event::Ready { status, owed } => Ok(self.on_ready(status, owed, run)),
            Event::Notice(fields) => Ok(!is_last_word(fields.state()) && run.rerun.is_none()),
            Event::Notification(body) => Ok(!self.is_own_notification(body)),
            Event::Parameter { name, value } => Ok(self.on_parameter(name, value, run)),
            Event::CopyIn => {
                run.copying = Copying::Data(0);
                run.hold = false;
                self.answer.copy_takes_sync();
                Ok(true)
            }
            Event::CopyBoth => Err(Loss::OutOfStep("replication on a pooled connection".into())),
            Event::Parsed => Ok(run.rerun.is_none()),
            Event::Reused => Ok(self.on_reused(run)),
        }
    }

    /// Takes up a ReadyForQuery; true to pass it on.
    fn on_ready(&mut self, status: TxStatus, owed: Owed, run: &mut Run) -> bool {
        if let Some(lease) = self.lease.as_mut() {
            lease.status = status;
        }
        if owed.hidden {
            if status == TxStatus::Open && !self.in_open_transaction() {
                self.tx = Tx::open(Arc::clone(&run.settings));
            }
            return false;
        }
        if run.rerun.is_some() {
            return false;
        }
        run.ready = true;
        if let Some(verdict) = owed.verdict.filter(|_| !run.failed) {
            self.completed(&verdict, run.rolled_back);
        }
        self.transaction_is(status, run);
        self.pass_reports(run);
        true
    }

    /// Takes up a COMMIT or ROLLBACK outside of a transaction block: it ends what the batch did before it, whose own transaction goes up to
    /// its Sync otherwise (documentation, "Pipelining").
    fn ended_implicitly(&mut self, verdict: &Verdict, run: &mut Run) {
        if self.in_open_transaction() {
            return;
        }
        match verdict.transaction {
            Some(TransactionVerb::Commit { .. }) => run.settings = Arc::clone(&self.settings),
            Some(TransactionVerb::Rollback { .. }) => {
                self.settings = Arc::clone(&run.settings);
                self.backend_agrees();
            }
            _ => {}
        }
    }

    fn on_error(&mut self, fields: &ErrorFields<'_>, reused: bool, run: &mut Run) -> Result<bool, Loss> {
        let state = fields.state();
        if fields.is_fatal() {
            // To a driver FATAL means that its connection is gone. It isn't.
            return Err(Loss::Fatal(state, fields.message().into_owned()));
        }
        let parses = (reused && run.parses_after(state)).then_some(Rerun::Parses);
        if let Some(why) = self.rerun_for(state, fields, run).or(parses) {
            run.rerun = Some(why);
            self.skipping = self.answer.is_settled();
            self.to_client.truncate(run.mark);
            return Ok(false);
        }
        run.failed = true;
        if self.answer.is_settled() {
            // No Sync was sent yet: the server drops all up to it.
            self.skipping = true;
        }
        self.worker.metrics.error(state.0);
        if run.rerun.is_some() {
            return Ok(false);
        }
        if let Some(body) = self.names.in_own_names(fields.body()) {
            build::frame(&mut self.to_client, tag::ERROR_RESPONSE, |out| out.extend_from_slice(&body));
            return Ok(false);
        }
        Ok(true)
    }

    /// Passes on a notification that the session sent itself, as from the process that its client takes it for. Who listens has its backend
    /// to itself, so that none of another session's comes from there.
    fn is_own_notification(&mut self, body: &[u8]) -> bool {
        let Some((from, rest)) = body.split_first_chunk() else { return false };
        if self.lease.as_ref().is_none_or(|lease| lease.backend.process_id != u32::from_be_bytes(*from)) {
            return false;
        }
        let told = self.handle.shown.card.process_id();
        build::frame(&mut self.to_client, tag::NOTIFICATION_RESPONSE, |out| {
            out.extend_from_slice(&told.to_be_bytes());
            out.extend_from_slice(rest);
        });
        true
    }

    /// A ParameterStatus; true to pass it on.
    fn on_parameter(&mut self, name: &[u8], value: &[u8], run: &mut Run) -> bool {
        self.backend_reports(name, value);
        if self.answer.is_settled() {
            return self.report(name, value);
        }
        // It comes right before ReadyForQuery, where the statement before it isn't taken up yet.
        run.reports.push(name.into());
        false
    }

    /// Whether this error is the member's and not the statement's, and the statement can be run elsewhere.
    fn rerun_for(&self, state: SqlState, fields: &ErrorFields<'_>, run: &Run) -> Option<Rerun> {
        let lease = self.lease.as_ref()?;
        if run.passed || run.rerun.is_some() || self.in_open_transaction() || self.open_batch {
            return None;
        }
        if self.handle.standby() {
            return None;
        }
        let recovering = || {
            let message = fields.message();
            message.contains("recovery is in progress") || message.contains("during recovery")
        };
        if !lease.primary {
            // What it is tied to, it can't leave: run again, it would meet the same.
            if self.pins.any() {
                return None;
            }
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
                // Its classes come from the primary's catalog, which may be ahead of the replica.
                SqlState::UNDEFINED_FUNCTION if run.reads && self.worker.topology().primary().is_some() => {
                    Some(Rerun::Behind)
                }
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

    /// Whether a replica can't run the session's transactions at all, which it says to the first statement, and that can be run elsewhere.
    fn needs_primary(&self, fields: &ErrorFields<'_>, run: &Run) -> bool {
        let first = run.first_in_transaction || !self.in_open_transaction();
        fields.state() == SqlState::FEATURE_NOT_SUPPORTED
            && self.lease.as_ref().is_some_and(|lease| !lease.primary)
            && !(run.passed || self.open_batch || self.pins.any() || self.handle.standby())
            && first
            && fields.message().contains("serializable mode in a hot standby")
    }

    /// The statements that a failed batch parsed may not be there, if they come behind what failed.
    pub(super) fn doubt_parses(&mut self, run: &Run) {
        if let Some(lease) = self.lease.as_mut() {
            translate::doubt(&mut lease.backend, &run.parses, self.answer.failed().unwrap_or(0));
        }
    }
}

/// A server's last words are for its own clients: this one's session goes on.
fn is_last_word(state: SqlState) -> bool {
    matches!(state, SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN)
}
