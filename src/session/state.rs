//! What statements do to their session: transactions, settings, pins, fences. Changed only by what has completed.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::Session;
use super::batch::{End, Summary};
use super::run::{Copying, Run};
use super::wishes::Last;
use crate::backend::Settings;
use crate::config::Reads;
use crate::metrics::{self, Slot};
use crate::routing::Seen;
use crate::sql::{Class, Effects, Learnt, SettingChange, TransactionModes, TransactionVerb, Verdict};
use crate::topology::MemberId;
use crate::wire::{TxStatus, build};

/// The session's transaction, as the client sees it.
#[derive(Debug)]
pub(super) enum Tx {
    /// None.
    Idle,
    /// BEGIN was answered and not sent: the first statement decides where it runs.
    Deferred {
        /// The BEGIN as it was written.
        begin: Vec<u8>,
        /// Its modes.
        modes: TransactionModes,
    },
    /// Open on the backend that is held.
    Open {
        /// Settings as they were before it, which a rollback brings back.
        before: Arc<Settings>,
        /// Settings at each savepoint, innermost last.
        savepoints: Vec<(Box<[u8]>, Arc<Settings>)>,
        /// It has what a new one would not have: a setting of its own, a cursor.
        bound: bool,
        /// Something in it may have written.
        wrote: bool,
        /// `vector.settings` hold in it already.
        searched: bool,
    },
    /// Its backend was lost: everything is refused until the client ends it.
    Lost {
        /// The client was told.
        told: bool,
    },
}

impl Tx {
    /// One that has just begun.
    pub(super) fn open(before: Arc<Settings>) -> Self {
        Self::Open { before, savepoints: Vec::new(), bound: false, wrote: false, searched: false }
    }
}

impl Session {
    /// Whether a transaction is open on a backend.
    pub(super) fn in_open_transaction(&self) -> bool {
        matches!(self.tx, Tx::Open { .. })
    }

    /// Whether the session's transactions are read-only unless they say otherwise.
    pub(super) fn default_read_only(&self) -> bool {
        self.reported.value(b"default_transaction_read_only") == Some(b"on")
    }

    /// Whether they are serializable: no standby can run them.
    pub(super) fn default_serializable(&self) -> bool {
        self.settings.serializable().unwrap_or(self.serializable)
    }

    /// Takes up a statement, or a string of them, that completed.
    pub(super) fn completed(&mut self, verdict: &Rc<Verdict>, rolled_back: bool) {
        if verdict.effects.is_empty() && verdict.settings.is_empty() && verdict.transaction.is_none() {
            if verdict.class() == Class::Write {
                self.note_write();
            }
            return;
        }
        self.pins.take_up(verdict.effects);
        self.note_sequences(verdict.effects);
        self.note_database(verdict);
        self.note_channels(verdict);
        self.take_up_settings(verdict);
        self.note_bound(verdict);
        if verdict.class() == Class::Write {
            self.note_write();
        }
        let effects = verdict.effects;
        if effects.contains(Effects::EXECUTE) {
            self.take_up_executed(verdict, rolled_back);
        }
        if let Some(name) = verdict.object.as_deref().filter(|_| effects.contains(Effects::DEALLOCATE)) {
            self.names.remove(name);
        }
        if effects.contains(Effects::DDL) && self.creates_temporary() {
            self.pins.take_up(Effects::TEMP_OBJECT);
        }
        if effects.contains(Effects::DISCARD_ALL) {
            self.settings = Arc::clone(&self.base);
            self.backend_has(Arc::default());
            self.report_base(|_| true);
        }
        if effects.intersects(Effects::DISCARD_ALL | Effects::DEALLOCATE_ALL) {
            self.names.clear();
            if let Some(lease) = self.lease.as_mut() {
                lease.backend.prepared.clear();
                lease.backend.unnamed = 0;
            }
        }
        // What is temporary is this session's own, which is pinned to it.
        self.changed_catalog |= effects.contains(Effects::DDL)
            && !(verdict.statements == 1 && effects.contains(Effects::TEMP_OBJECT));
        if let Some(verb) = &verdict.transaction {
            self.divided(verb, rolled_back);
        }
    }

    /// Takes up what begins, ends or divides a transaction.
    fn divided(&mut self, verb: &TransactionVerb, rolled_back: bool) {
        match verb {
            TransactionVerb::Savepoint(name) => {
                let now = Arc::clone(&self.settings);
                if let Tx::Open { savepoints, .. } = &mut self.tx {
                    savepoints.push((name.clone(), now));
                }
            }
            TransactionVerb::RollbackTo(name) => self.rolled_back_to(name),
            TransactionVerb::Release(name) => {
                if let Tx::Open { savepoints, .. } = &mut self.tx
                    && let Some(at) = savepoints.iter().rposition(|(of, _)| of == name)
                {
                    savepoints.truncate(at);
                }
            }
            // Other statements of the same batch may follow, so that it is over here and not at ReadyForQuery.
            TransactionVerb::Commit { .. } | TransactionVerb::Rollback { .. } => {
                let now = Arc::clone(&self.settings);
                if let Tx::Open { before, savepoints, .. } = &mut self.tx {
                    savepoints.clear();
                    if rolled_back {
                        self.settings = Arc::clone(before);
                        self.backend_agrees();
                    } else {
                        *before = now;
                    }
                }
            }
            TransactionVerb::Begin(_) if !self.in_open_transaction() => {
                self.tx = Tx::open(Arc::clone(&self.settings));
            }
            _ => {}
        }
    }

    /// Takes up the status that the client's own ReadyForQuery gave.
    pub(super) fn transaction_is(&mut self, status: TxStatus, run: &Run) {
        if status == TxStatus::Idle {
            // Not before it is committed: who reads the catalog now has to see it.
            self.tell_catalog();
        }
        match (status, &self.tx) {
            (TxStatus::Idle, Tx::Open { before, wrote, .. }) => {
                let wrote = *wrote;
                if run.rolled_back || run.failed {
                    self.settings = Arc::clone(before);
                    self.backend_agrees();
                }
                self.tx = Tx::Idle;
                self.portals.clear();
                if wrote {
                    self.fence();
                }
            }
            (TxStatus::Idle, _) => {
                if run.failed {
                    // The implicit transaction was rolled back, and with it what it had set.
                    self.settings = Arc::clone(&run.settings);
                    self.backend_agrees();
                }
                self.tx = Tx::Idle;
                self.portals.clear();
            }
            (_, Tx::Open { .. }) => {}
            (_, _) => {
                // What else stood in the string with its BEGIN isn't known.
                self.tx = Tx::open(Arc::clone(&run.settings));
                if let Tx::Open { bound, .. } = &mut self.tx {
                    *bound = true;
                }
            }
        }
    }

    /// Notes what lives with its transaction, beside savepoints.
    fn note_bound(&mut self, verdict: &Verdict) {
        if let Tx::Open { bound, .. } = &mut self.tx {
            *bound |= verdict.effects.intersects(Effects::CURSOR | Effects::SET_LOCAL)
                || verdict.settings.iter().any(is_local);
        }
    }

    /// Tells of DDL that was run, or may have been, and is over.
    pub(super) fn tell_catalog(&mut self) {
        self.tell_defaults();
        if std::mem::take(&mut self.changed_catalog) {
            self.pools.identity.catalog.changed();
        }
    }

    /// Takes up a ParameterStatus of the backend at hand.
    pub(super) fn backend_reports(&mut self, name: &[u8], value: &[u8]) {
        if let Some(lease) = self.lease.as_mut()
            && lease.backend.parameters.value(name) != Some(value)
        {
            Arc::make_mut(&mut lease.backend.parameters).set(name, value);
        }
    }

    /// Tells the client of settings that the backend reported with the batch's end.
    pub(super) fn pass_reports(&mut self, run: &mut Run) {
        for name in std::mem::take(&mut run.reports) {
            let Some(parameters) = self.lease.as_ref().map(|lease| Arc::clone(&lease.backend.parameters))
            else {
                return;
            };
            if let Some(value) = parameters.value(&name)
                && !self.is_overridden(&name)
                && self.report(&name, value)
            {
                build::parameter_status(&mut self.to_client, &name, value);
            }
        }
    }

    /// Whether the backend is about to get another value of this setting than it reports: RESET took it back to its own login's, and the
    /// session's startup packet says more.
    fn is_overridden(&self, name: &[u8]) -> bool {
        if self.base.is_empty() {
            return false;
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let given = self.base.statement(&name);
        let has = self.lease.as_ref().and_then(|lease| lease.backend.settings.statement(&name));
        given.is_some() && self.settings.statement(&name) == given && has != given
    }

    /// Tells the client of settings that are again what its startup packet said.
    fn report_base(&mut self, is_reset: impl Fn(&str) -> bool) {
        let greeted = Arc::clone(&self.greeted);
        for (name, value) in greeted.iter() {
            let folded = String::from_utf8_lossy(name).to_ascii_lowercase();
            if self.base.statement(&folded).is_some() && is_reset(&folded) && self.report(name, value) {
                build::parameter_status(&mut self.to_client, name, value);
            }
        }
    }

    /// Takes up a value that the client is to know; true if it is new to it.
    pub(super) fn report(&mut self, name: &[u8], value: &[u8]) -> bool {
        if name == super::greeting::IN_HOT_STANDBY || self.reported.value(name) == Some(value) {
            return false;
        }
        Arc::make_mut(&mut self.reported).set(name, value);
        self.lexing = super::greeting::lexing(&self.reported);
        true
    }

    /// The batch is answered: what it did holds; the backend goes back if nothing ties the session to it.
    pub(super) fn settle(&mut self, run: &Run, end: End, summary: &Summary) {
        let failed_at = run.failed.then(|| self.answer.answered());
        self.settle_names(failed_at);
        self.count(summary);
        if run.failed {
            self.doubt_parses(run);
        }
        if let Copying::Data(left) = run.copying {
            self.stray = left;
        }
        if summary.class == Class::Write {
            // By the batch and not by what completed: a portal that is suspended (INSERT … RETURNING with a row limit) wrote.
            self.note_write();
        }
        self.learn(run, summary);
        if summary.runs > 0 && summary.class != Class::Session {
            self.note_seen();
        }
        self.open_batch = !run.ready;
        if run.ready {
            self.skipping = false;
            if summary.class == Class::Write && matches!(self.tx, Tx::Idle) {
                self.fence();
            }
        }
        debug_assert!(run.ready || matches!(end, End::Flush | End::Full | End::Sync));
        self.release_if_free();
    }

    /// What the batch did to the session's prepared statements holds, up to the message that failed.
    pub(super) fn settle_names(&mut self, failed_at: Option<usize>) {
        self.names.settle(failed_at);
        if self.unnamed.settle(failed_at) {
            self.classify_unnamed();
        }
    }

    /// The unnamed statement is another than it was.
    pub(super) fn classify_unnamed(&mut self) {
        self.unnamed_known = self.unnamed.parse().map(|parse| self.classify(parse.sql));
    }

    /// Notes where the session has read, so that a later read shows no less.
    fn note_seen(&mut self) {
        if let Some(held) = self.handle.held() {
            let mark = self.worker.shared.positions.mark();
            self.seen = Some(Seen { member: MemberId(held.member), generation: held.generation, mark });
        }
    }

    /// What a replica ran only reads. What looks like a read and ran on the primary may have written all the same (a view, a
    /// trigger, an operator): until a replica has run it, the session's later reads see what it did.
    fn learn(&mut self, run: &Run, summary: &Summary) {
        let (Some(only), Some(lease)) = (&summary.only, &self.lease) else { return };
        if summary.class != Class::Read || run.failed || !run.ready {
            return;
        }
        let splits = self.worker.shared.config.routing.reads == Reads::Replicas;
        match (lease.primary, only.learnt.get()) {
            (false, _) => only.learnt.set(Learnt::Reads),
            (true, Learnt::Nothing | Learnt::Writes) if splits => match self.tx {
                Tx::Idle => self.fence(),
                _ => self.note_write(),
            },
            (true, _) => {}
        }
    }

    /// Gives the backend back when nothing ties the session to it.
    pub(super) fn release_if_free(&mut self) {
        let free = !self.open_batch
            && !self.pins.any()
            && matches!(self.tx, Tx::Idle)
            && self.answer.is_settled()
            && self.lease.as_ref().is_some_and(|lease| {
                let pooled = self.pools.identity.pool_mode == crate::config::PoolMode::Transaction;
                (pooled || !lease.primary)
                    && lease.status == TxStatus::Idle
                    && lease.backend.stash.is_empty()
                    && !lease.cancelled
            });
        if !free {
            self.drop_cancelled();
            return;
        }
        if let Some(lease) = self.lease.take() {
            self.handle.hold(None);
            self.worker.release(&self.pools, &lease.pool, lease.backend);
            self.comes_home();
        }
    }

    /// A backend that a cancel was sent to might still get it when it serves another: it is closed instead.
    fn drop_cancelled(&mut self) {
        let idle = matches!(self.tx, Tx::Idle) && !self.open_batch && !self.pins.any();
        if idle && self.lease.as_ref().is_some_and(|lease| lease.cancelled) {
            self.close_backend();
        }
    }

    /// Whether a plain CREATE makes a temporary object: the search path begins in the session's temporary schema.
    fn creates_temporary(&self) -> bool {
        let path = self.settings.statement("search_path");
        path.is_some_and(|sql| sql.to_ascii_lowercase().windows(7).any(|word| word == b"pg_temp"))
    }

    /// Counts the batch for its member.
    fn count(&mut self, summary: &Summary) {
        let Some(lease) = &self.lease else { return };
        let class = match (summary.class, &summary.only) {
            (_, Some(only)) if only.transaction.is_some() => metrics::Class::Transaction,
            (_, Some(only)) if only.copy.is_some() => metrics::Class::Copy,
            (Class::Read, _) => metrics::Class::Read,
            (Class::VectorRead, _) => metrics::Class::Vector,
            (Class::Session, _) => metrics::Class::Session,
            (Class::Write, _) => metrics::Class::Write,
        };
        if let Some(only) = &summary.only {
            let because = self.because.take();
            self.last = Some(Last { member: lease.backend.member, verdict: Rc::clone(only), because });
        }
        if summary.runs > 0 {
            self.worker.metrics.statement(Slot::member(lease.backend.member), class);
        }
    }

    fn take_up_settings(&mut self, verdict: &Verdict) {
        // What ends with a transaction stays on its backend.
        if verdict.settings.iter().all(is_local) {
            return;
        }
        if verdict.mixed_transaction {
            // Which of them a COMMIT or ROLLBACK in the same string kept can't be told.
            self.pins.pin_settings();
            return;
        }
        let theirs = (!self.base.is_empty()).then(|| self.after(verdict, &Settings::default()));
        self.settings = Arc::new(self.after(verdict, &self.base));
        match theirs {
            Some(theirs) if theirs != *self.settings => {
                self.backend_has(Arc::new(theirs));
                let settings = Arc::clone(&self.settings);
                let base = Arc::clone(&self.base);
                // Not what the transaction has a value of its own of, by SET LOCAL.
                let is_reset = |of: &str| {
                    verdict.settings.iter().any(|change| match change {
                        SettingChange::Reset { name, local } => **name == *of && !local,
                        SettingChange::ResetAll => true,
                        SettingChange::Set { .. } => false,
                    })
                };
                self.report_base(|name| is_reset(name) && settings.statement(name) == base.statement(name));
            }
            _ => self.backend_agrees(),
        }
    }

    /// The settings after a statement. `base` is what RESET goes back to: what the startup packet said. A backend, which got
    /// that by SET, goes back to its own login's, and is brought in line again before its next use.
    fn after(&self, verdict: &Verdict, base: &Settings) -> Settings {
        let mut settings = Settings::clone(&self.settings);
        for change in &verdict.settings {
            match change {
                SettingChange::Set { name, value, local: false } => settings.set(name, value),
                SettingChange::Reset { name, local: false } => settings.reset(name, base),
                SettingChange::ResetAll => settings.reset_all(base),
                SettingChange::Set { .. } | SettingChange::Reset { .. } => {}
            }
        }
        settings
    }

    /// The backend did to its settings what the session notes: they are the same.
    pub(super) fn backend_agrees(&mut self) {
        self.backend_has(Arc::clone(&self.settings));
    }

    /// The backend has these settings now.
    fn backend_has(&mut self, settings: Arc<Settings>) {
        if let Some(lease) = self.lease.as_mut() {
            lease.backend.settings = settings;
        }
    }

    fn rolled_back_to(&mut self, name: &[u8]) {
        if let Tx::Open { savepoints, searched, .. } = &mut self.tx
            && let Some(at) = savepoints.iter().rposition(|(of, _)| **of == *name)
        {
            *searched = false;
            savepoints.truncate(at + 1);
            self.settings = Arc::clone(&savepoints[at].1);
            self.backend_agrees();
        }
    }

    /// Notes it for the fence. What a replica ran, in a READ ONLY transaction, wrote nothing.
    fn note_write(&mut self) {
        let primary = self.lease.as_ref().is_some_and(|lease| lease.primary);
        if let Tx::Open { wrote, .. } = &mut self.tx {
            *wrote |= primary;
        }
    }

    /// From here on the session's reads have to see what it wrote.
    fn fence(&mut self) {
        let now = Instant::now();
        self.worker.shared.wrote(self.worker.topology().epoch, now);
        let now = self.worker.shared.positions.nanos(now);
        self.fence.wrote(now);
        self.worker.shared.last_write.fetch_max(now, Relaxed);
        self.pools.identity.last_write.fetch_max(now, Relaxed);
        self.worker.shared.positions.want(now);
    }
}

/// Whether it ends with its transaction.
fn is_local(change: &SettingChange) -> bool {
    match change {
        SettingChange::Set { local, .. } | SettingChange::Reset { local, .. } => *local,
        SettingChange::ResetAll => false,
    }
}
