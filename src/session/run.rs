//! One attempt at a batch: what has come of it so far, and what that allows if its backend is lost.

use std::rc::Rc;
use std::sync::Arc;

use super::Session;
use super::acquire::Attempt;
use super::batch::Summary;
use super::loss::Loss;
use super::state::Tx;
use super::translate::Parses;
use crate::backend::Settings;
use crate::metrics::Reroute;
use crate::sql::{Effects, TransactionModes};
use crate::wire::{SqlState, TxStatus};

/// Why a batch is run again, elsewhere, though its backend lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rerun {
    /// A replica refused it: it writes after all.
    Writes,
    /// A replica cancelled it in favour of replay.
    RecoveryConflict,
    /// A replica doesn't know a function yet that the primary's catalog has.
    Behind,
    /// Its READ ONLY transaction goes on on the primary.
    Leaves,
    /// It failed on a statement that it had not parsed itself.
    Parses,
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
    /// Statements of the client's that completed.
    pub(super) completed: usize,
    /// What the batch parses on this backend.
    pub(super) parses: Parses,
    /// Changes of the catalog that were known when it began.
    pub(super) changes: u64,
    /// The message that the proxy refuses, and by what error.
    pub(super) refused: Option<(usize, Rc<[u8]>)>,
    pub(super) rerun: Option<Rerun>,
    pub(super) copying: Copying,
    /// The client's CopyDone was passed on.
    pub(super) copy_done: bool,
    /// The client's own Query or Sync was answered to its end.
    pub(super) ready: bool,
    /// The last command's tag was ROLLBACK.
    pub(super) rolled_back: bool,
    /// The BEGIN that was not sent before this batch.
    pub(super) begin: Option<(Vec<u8>, TransactionModes)>,
    /// Settings as they were before the batch.
    pub(super) settings: Arc<Settings>,
    /// It belongs to the primary, and comes in a transaction that is on a replica.
    pub(super) out_of_place: bool,
    /// That transaction can go on elsewhere.
    pub(super) may_leave: bool,
    /// The batch only reads.
    pub(super) reads: bool,
    /// Its unnamed statements may be those that the backend has for all.
    pub(super) reuses: bool,
    /// It is about the session's prepared statements as SQL knows them, and may be given those.
    pub(super) shows: bool,
    /// It has an EXECUTE or PREPARE of one of them, and may be given that under its name.
    pub(super) runs_named: bool,
    /// Names that the backend was given for it.
    pub(super) lent: Vec<Box<[u8]>>,
    /// It has a DEALLOCATE of one name, and may be given something of that name.
    pub(super) deallocates: bool,
    /// A statement in it ends a transaction.
    pub(super) ends_transaction: bool,
    /// One statement, outside of a transaction, that may be refused and sent again.
    pub(super) alone: bool,
    /// The transaction that is open had nothing in it before this batch.
    pub(super) first_in_transaction: bool,
    /// Settings that the backend reported meanwhile; what of them the client is told is known at ReadyForQuery.
    pub(super) reports: Vec<Box<[u8]>>,
    /// Where this batch's answer begins in the client's buffer.
    pub(super) mark: usize,
}

impl Run {
    pub(super) fn new(session: &Session, summary: &Summary, attempt: &Attempt) -> Self {
        let reads = summary.reads() && !session.open_batch;
        let hold = reads && !session.in_open_transaction();
        // A failed transaction takes no Parse, and behind a batch that waits for its Sync nothing can be taken away.
        let may_be_given = !session.open_batch
            && session.lease.as_ref().is_some_and(|lease| lease.status != TxStatus::Failed);
        Self {
            hold,
            passed: false,
            sent: false,
            failed: false,
            completed: 0,
            parses: Parses::new(),
            changes: session.pools.identity.catalog.changes(),
            refused: None,
            rerun: None,
            copying: Copying::No,
            copy_done: false,
            ready: false,
            rolled_back: false,
            begin: match &session.tx {
                Tx::Deferred { begin, modes } => Some((begin.clone(), *modes)),
                _ => None,
            },
            settings: Arc::clone(&session.settings),
            out_of_place: session.is_out_of_place(summary),
            may_leave: false,
            reads,
            reuses: hold && !attempt.parses,
            shows: may_be_given && session.is_about_statements(summary),
            runs_named: may_be_given && summary.effects.intersects(Effects::EXECUTE | Effects::PREPARE),
            lent: Vec::new(),
            deallocates: may_be_given && summary.effects.contains(Effects::DEALLOCATE),
            ends_transaction: summary.ends_transaction,
            alone: summary.runs <= 1
                && !attempt.takes_refusals()
                && matches!(session.tx, Tx::Idle)
                && !session.open_batch,
            first_in_transaction: matches!(session.tx, Tx::Deferred { .. }),
            reports: Vec::new(),
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

impl Rerun {
    /// As it is counted.
    pub(super) fn label(self) -> Reroute {
        match self {
            Self::Writes => Reroute::ReadOnly,
            Self::RecoveryConflict => Reroute::Conflict,
            Self::Behind => Reroute::Behind,
            Self::Leaves => Reroute::Leaves,
            Self::Parses => Reroute::Parses,
            Self::NotPrimary => Reroute::Recovery,
        }
    }
}

impl Run {
    /// Of no batch: what a held backend says by itself.
    pub(super) fn idle(session: &Session) -> Self {
        let summary = Summary::default();
        Self { hold: false, ..Self::new(session, &summary, &Attempt::new(&summary)) }
    }

    /// Whether the batch, which failed on a statement that it had not parsed itself, is run again with its own Parse. What ends or cancels
    /// it (class 57) has nothing to do with that.
    pub(super) fn parses_after(&self, state: SqlState) -> bool {
        self.reuses && self.rerun.is_none() && !self.passed && !state.0.starts_with(b"57")
    }
}
