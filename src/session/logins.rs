//! What concerns the logins of backends that rest in pools: a database is dropped that they are connected to, or what a role or
//! database sets at login is changed.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::Session;
use super::shared::Identity;
use super::worker::{Mail, Worker};
use crate::sql::{Effects, Verdict};

/// One client's presence in a database, until it is dropped.
#[derive(Debug)]
pub(super) struct Present(Arc<Identity>);

impl Present {
    pub(super) fn of(identity: &Arc<Identity>) -> Self {
        identity.sessions.fetch_add(1, Relaxed);
        Self(Arc::clone(identity))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Relaxed);
    }
}

impl Session {
    /// Before a statement that wants a database for itself: idle backends don't stand in its way. A client that is connected to
    /// it does, as it would without a proxy.
    pub(super) fn free_database(&self, verdict: &Verdict) {
        let name = verdict.object.as_deref().and_then(|name| std::str::from_utf8(name).ok());
        if let Some(name) = name.filter(|_| verdict.effects.contains(Effects::FREES_DATABASE)) {
            self.worker.free(name);
            self.to_others(|| Mail::Free(name.into()));
        }
    }

    /// A database was dropped or is another one now: what was known of it doesn't hold.
    pub(super) fn note_database(&mut self, verdict: &Verdict) {
        if verdict.effects.contains(Effects::FREES_DATABASE)
            && let Some(name) = verdict.object.as_deref().and_then(|name| std::str::from_utf8(name).ok())
            && let Some(catalog) = self.worker.shared.catalogs.known(name)
        {
            catalog.changed();
        }
        self.changed_defaults |= verdict.effects.contains(Effects::DEFAULTS);
    }

    /// What logins set was changed, and that is committed.
    pub(super) fn tell_defaults(&mut self) {
        if std::mem::take(&mut self.changed_defaults) {
            self.worker.shared.forget_greetings();
            self.worker.reopen();
            self.to_others(|| Mail::Reopen);
        }
    }

    fn to_others(&self, mail: impl Fn() -> Mail) {
        let shared = &self.worker.shared;
        for to in (0..shared.workers()).filter(|to| *to != self.worker.index) {
            shared.post(to, mail());
        }
    }
}

impl Worker {
    /// Closes idle backends of a database that no client is connected to.
    pub(super) fn free(&self, database: &str) {
        if self.shared.is_present_in(database) {
            return;
        }
        self.each_pool(|pools, pool| {
            if *pools.identity.database == *database {
                pool.close_idle();
            }
        });
    }

    /// Has backends opened anew, all of them: roles inherit nothing of this, but a role's settings hold in every database.
    pub(super) fn reopen(&self) {
        let now = Instant::now();
        self.each_pool(|_, pool| pool.reopen(now));
    }
}
