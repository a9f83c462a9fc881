//! A READ ONLY transaction that runs on a replica and comes to what belongs to the primary.
//!
//! An advisory lock excludes nobody there, NOTIFY and `pg_current_xact_id()` are refused, and what ties the session to its backend
//! (PREPARE, a cursor WITH HOLD) would tie it to one that can't write. So the transaction ends there and goes on on the primary,
//! which has all that the replica had: at READ COMMITTED, where each statement has a snapshot of its own, and as long as nothing was
//! left in it that a new one doesn't have (SET LOCAL, a savepoint, a cursor). Else it stays.

use std::sync::Arc;

use super::batch::{End, Item, Summary};
use super::pins::Pins;
use super::run::{Outcome, Rerun, Run};
use super::state::Tx;
use super::{Ended, Lease, Session, local};
use crate::sql::{Class, TransactionModes, TransactionVerb};
use crate::wire::TxStatus;

/// Gives a row in a transaction that can go on elsewhere.
const MAY_LEAVE: &[u8] = b"SELECT 1 WHERE pg_catalog.current_setting('transaction_isolation') \
    OPERATOR(pg_catalog.=) ANY ('{read committed,read uncommitted}'::pg_catalog.text[])";

/// The tag of that answer.
pub(super) const YES: &[u8] = b"SELECT 1";

impl Session {
    /// Whether the batch belongs to the primary, and the transaction in which it comes is on a replica that it may be able to leave.
    pub(super) fn is_out_of_place(&self, summary: &Summary) -> bool {
        let Tx::Open { before, savepoints, bound: false, .. } = &self.tx else { return false };
        let Some(lease) = self.lease.as_ref().filter(|lease| !lease.primary) else { return false };
        (summary.class == Class::Write || Pins::come_of(summary.effects))
            && lease.status == TxStatus::Open
            && !(self.open_batch || self.pins.any())
            && savepoints.is_empty()
            && before.same(&self.settings)
            && self.portals.iter().all(|(name, _)| name.is_empty())
            && !self.worker.topology().is_standby()
    }

    /// Ends the transaction on its replica, for the batch to begin it again on the primary; an outcome when the batch doesn't go on
    /// where it is.
    pub(super) async fn leave_replica(&mut self, run: &mut Run) -> Option<Outcome> {
        self.hidden_query(MAY_LEAVE);
        match self.relay(run).await {
            Outcome::Settled => {}
            other => return Some(other),
        }
        if !run.may_leave {
            return None;
        }
        self.hidden_query(b"ROLLBACK");
        match self.relay(run).await {
            Outcome::Settled => {}
            other => return Some(other),
        }
        let modes = TransactionModes { read_only: Some(true), ..TransactionModes::default() };
        self.begin_elsewhere(b"BEGIN READ ONLY", modes);
        run.rerun = Some(Rerun::Leaves);
        Some(Outcome::Settled)
    }

    /// Whether the batch ends a failed transaction on a replica AND CHAIN. The next one has the modes of none before it, as those of the
    /// failed one are gone: it may write.
    pub(super) fn chains_failed(&self, bytes: &[u8], items: &[Item], summary: &Summary) -> bool {
        let on_replica = |lease: &Lease| !lease.primary && lease.status == TxStatus::Failed;
        matches!(self.tx, Tx::Open { .. })
            && self.lease.as_ref().is_some_and(on_replica)
            && !(self.open_batch || self.pins.any())
            && summary.runs == 1
            && summary.only.as_ref().is_some_and(|only| {
                only.statements == 1
                    && matches!(
                        only.transaction,
                        Some(
                            TransactionVerb::Commit { chain: true }
                                | TransactionVerb::Rollback { chain: true }
                        )
                    )
            })
            && !items.iter().any(|item| local::is_foreign(bytes, item, items))
    }

    /// Answers such a batch, and lets what is next decide where that transaction runs.
    pub(super) async fn leave_failed(&mut self, bytes: &[u8], items: &[Item], end: End) -> Result<(), Ended> {
        let mut run = Run::idle(self);
        self.answer.begin();
        self.hidden_query(b"ROLLBACK");
        match self.relay(&mut run).await {
            Outcome::Settled => {}
            Outcome::ClientGone => return Err(Ended::Client),
            Outcome::Killed => return Err(self.ended_by_administrator()),
            // What it had is rolled back.
            Outcome::Lost(loss) => self.on_idle_loss(&loss)?,
        }
        if let Tx::Open { before, .. } = &self.tx {
            self.settings = Arc::clone(before);
        }
        self.backend_agrees();
        self.begin_elsewhere(b"BEGIN", TransactionModes::default());
        self.complete_with(bytes, items, "ROLLBACK");
        self.settle_names(None);
        self.answer_end(end);
        Ok(())
    }

    /// The transaction on the backend at hand is over, and goes on as one that was not begun anywhere.
    fn begin_elsewhere(&mut self, begin: &[u8], modes: TransactionModes) {
        self.tx = Tx::Idle;
        self.portals.clear();
        self.release_if_free();
        self.tx = Tx::Deferred { begin: begin.to_vec(), modes };
    }
}
