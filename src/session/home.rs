//! With session pooling: the primary's backend that is the session's own, set aside while a replica's serves a read.

use super::acquire::Attempt;
use super::handle::{Held, Standing};
use super::state::Tx;
use super::{Lease, Session};
use crate::config::{PoolMode, Reads};
use crate::sql::Class;
use crate::wire::TxStatus;

/// The session's own backend while it is set aside.
pub(super) struct Home {
    lease: Lease,
    held: Held,
}

impl Session {
    /// Sets the session's own backend aside for a batch that may run on a replica; true if it did. Nothing that only that backend
    /// has can be missed by such a batch, for then the session would be pinned.
    pub(super) fn leaves_home(&mut self, attempt: &Attempt) -> bool {
        let may = self.pools.identity.pool_mode == PoolMode::Session
            && self.worker.shared.config.routing.reads == Reads::Replicas
            && matches!(attempt.class, Class::Read | Class::VectorRead)
            && matches!(self.tx, Tx::Idle)
            && !(attempt.writes || attempt.sequences || self.open_batch || self.pins.any())
            && self.lease.as_ref().is_some_and(|lease| {
                lease.primary
                    && lease.status == TxStatus::Idle
                    && lease.backend.stash.is_empty()
                    && !lease.cancelled
            });
        if !may {
            return false;
        }
        let (Some(lease), Some(held)) = (self.lease.take(), self.handle.held()) else { return false };
        self.handle.hold(None);
        self.home = Some(Box::new(Home { lease, held }));
        true
    }

    /// Takes the session's own backend up again; false if there is none, or its member's rule is over.
    pub(super) fn comes_home(&mut self) -> bool {
        let Some(home) = self.home.take() else { return false };
        let Home { lease, held } = *home;
        if !matches!(held.standing(&self.worker.topology()), Standing::Good | Standing::Silent) {
            lease.pool.closed();
            return false;
        }
        self.handle.hold(Some(held));
        self.lease = Some(lease);
        true
    }
}
