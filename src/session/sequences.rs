//! Whose sequence values a backend has: `currval()` and `lastval()` answer from what `nextval()` left on their own backend.
//!
//! A session is given the values of its own `nextval()`, PostgreSQL's own error where it called none, or an error that says why
//! they are gone; never another session's.

use std::sync::atomic::Ordering::Relaxed;

use super::Session;
use super::acquire::Failure;
use crate::sql::Effects;
use crate::wire::SqlState;

/// What a session is told that asks for a sequence value which it can't be sure is its own.
const LASTVAL: &str = "currval and lastval are not defined: the connection that nextval was called on serves other sessions; \
                       from now on sessions of this user that call nextval keep theirs";

/// The values that a session may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sequences {
    /// None: it hasn't called `nextval()`.
    #[default]
    None,
    /// None, and those that the backend has are to go before it is asked for one.
    Foreign,
    /// Those of its own `nextval()`.
    Own,
}

impl Session {
    /// Whether the lease at hand may be asked for a value.
    pub(super) fn held_has_values(&mut self) -> Result<(), Failure> {
        let Some(lease) = self.lease.as_mut() else { return Ok(()) };
        if lease.own_sequences || self.pins.any() {
            return Ok(());
        }
        // In the middle of a batch nothing can be dropped.
        let may_drop = self.sequences != Sequences::Own && !self.open_batch;
        lease.own_sequences = may_drop;
        if may_drop { self.any_has_values() } else { Err(self.no_value()) }
    }

    /// Whether any backend may be asked for a value: there is none, and what it has of others is dropped before.
    pub(super) fn any_has_values(&mut self) -> Result<(), Failure> {
        if self.sequences == Sequences::Own {
            return Err(self.no_value());
        }
        self.user_reads_values();
        self.sequences = Sequences::Foreign;
        Ok(())
    }

    /// From here on sessions of this user that call `nextval()` keep their backend.
    fn user_reads_values(&self) {
        self.pools.identity.reads_sequences.store(true, Relaxed);
    }

    /// No backend's values are surely the session's.
    fn no_value(&self) -> Failure {
        self.user_reads_values();
        Failure::Own(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, LASTVAL.into())
    }

    /// What is to be sent in front of a batch that asks for a value.
    pub(super) fn drop_foreign_values(&mut self) -> &'static [u8] {
        if self.sequences != Sequences::Foreign {
            return b"";
        }
        self.sequences = Sequences::None;
        b"DISCARD SEQUENCES;"
    }

    /// Takes up what a completed statement did.
    pub(super) fn note_sequences(&mut self, effects: Effects) {
        if effects.intersects(Effects::DISCARD_SEQUENCES | Effects::DISCARD_ALL) {
            self.sequences = Sequences::None;
        }
        if effects.contains(Effects::DEFINES_CURRVAL) {
            // From here on no text tells who needs the value: a default does.
            self.user_reads_values();
            self.pins.take_up(Effects::CURRVAL);
        }
        if !effects.intersects(Effects::NEXTVAL | Effects::PROCEDURAL | Effects::UNKNOWN_CALL) {
            return;
        }
        self.sequences = Sequences::Own;
        if effects.contains(Effects::NEXTVAL) {
            if let Some(lease) = self.lease.as_mut() {
                lease.own_sequences = true;
            }
            if self.pools.identity.reads_sequences.load(Relaxed) {
                self.pins.take_up(Effects::CURRVAL);
            }
        }
    }
}
