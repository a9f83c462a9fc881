//! Prepared statements after DDL: what a client was told of one holds, or it gets "cached plan must not change result type".
//!
//! A server keeps the promise for the statements that it has itself. Here a statement is parsed on another backend whenever it is
//! needed there, with whatever its tables are by then. So what a client was told of parameters and columns is kept as a number, and
//! held against what the backend at hand says of them where DDL came between. That takes a round trip before the batch, once for a
//! statement and a backend; without DDL none. DDL counts that was run through this proxy.

use std::hash::{DefaultHasher, Hasher as _};

use super::answer::{Kind, Owed};
use super::batch::Item;
use super::run::{Outcome, Run};
use super::statements::Statement;
use super::translate::Translation;
use super::{Session, plan};
use crate::backend::Prepared;
use crate::wire::parts::{self, Named};
use crate::wire::tags::{backend, frontend};
use crate::wire::{SqlState, TxStatus, build};

/// PostgreSQL's words for it.
const CHANGED: &str = "cached plan must not change result type";

/// What a client knows of a prepared statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Told {
    /// Its parameters and columns as a number; 0 if they were not asked for.
    pub(super) shape: u64,
    /// How many changes of the catalog were known at that time.
    pub(super) changes: u64,
}

/// What a backend has of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// What the client was told.
    Same,
    /// It isn't known whether it is that.
    Unknown,
    /// Nothing, or something else, or something of an earlier time.
    Other,
}

impl Told {
    /// How `prepared` stands to it, for a session whose names are resolved by `naming`, after so many `changes` of the catalog.
    fn held(self, prepared: Option<&Prepared>, naming: u64, changes: u64) -> Held {
        match prepared.filter(|prepared| prepared.naming == naming) {
            _ if self.shape == 0 => Held::Same,
            Some(prepared) if prepared.shape == self.shape => Held::Same,
            Some(Prepared { shape: 0, .. }) | None if self.changes == changes => Held::Same,
            Some(Prepared { shape: 0, changes: of, .. }) if *of == changes => Held::Unknown,
            _ => Held::Other,
        }
    }
}

/// Parameters and columns of a statement as they come in.
#[derive(Debug, Default)]
pub(super) struct Shape {
    /// What they are so far.
    hash: u64,
    /// Not all of it could be read.
    too_long: bool,
}

impl Shape {
    /// Takes up a ParameterDescription, RowDescription or NoData, whose body is there unless it is very long; none if it is malformed.
    pub(super) fn take(&mut self, tag: u8, body: Option<&[u8]>) -> Option<()> {
        let Some(body) = body else {
            self.too_long = true;
            return Some(());
        };
        // Of no secret key: it is the same on every worker.
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.hash);
        hasher.write_u8(tag);
        if tag == backend::ROW_DESCRIPTION {
            parts::row_types(body, |part| hasher.write(part))?;
        } else {
            hasher.write(body);
        }
        self.hash = hasher.finish();
        Some(())
    }

    /// All of it as a number: 0 if it was too long, and then only.
    pub(super) fn finish(&mut self) -> u64 {
        let Self { hash, too_long } = std::mem::take(self);
        if too_long { 0 } else { hash.max(1) }
    }
}

impl Session {
    /// Holds what the client was told of the batch's statements against what the backend has; sends nothing where DDL didn't come
    /// between. An outcome when the batch doesn't go on.
    pub(super) async fn hold_to_what_was_told(
        &mut self,
        items: &[Item],
        naming: u64,
        run: &mut Run,
    ) -> Option<Outcome> {
        // A failed transaction looks up no names, and behind a Flush no Sync may be sent.
        let failed = self.lease.as_ref().is_some_and(|lease| lease.status == TxStatus::Failed);
        if failed || self.open_batch || run.shows {
            return None;
        }
        let asked = self.ask_again(items, naming, run);
        if asked.is_empty() {
            return None;
        }
        let hold = run.hold;
        match self.relay(run).await {
            Outcome::Settled => {}
            other => return Some(other),
        }
        if run.rerun.is_some() {
            return Some(Outcome::Settled);
        }
        let shapes = self.answer.take_shapes();
        // What answers nothing of the client's leaves nothing to hold back.
        run.hold = hold && !run.passed;
        if run.failed {
            // The client has its error, and there is only its Sync left to answer.
            self.skipping = true;
            return None;
        }
        for ((at, statement), shape) in asked.into_iter().zip(shapes) {
            self.backend_describes(statement, shape);
            if shape != items[at].told.shape && run.refused.is_none() {
                run.refused = Some((at, plan::error(SqlState::FEATURE_NOT_SUPPORTED, CHANGED)));
            }
        }
        None
    }

    /// Asks the backend for what it makes of the statements for which that isn't sure; which they are, and of which items.
    fn ask_again<'a>(
        &mut self,
        items: &'a [Item],
        naming: u64,
        run: &mut Run,
    ) -> Vec<(usize, &'a Statement)> {
        let mut asked: Vec<(usize, &Statement)> = Vec::new();
        let Some(lease) = self.lease.as_mut() else { return asked };
        let mut translation = Translation {
            backend: &mut lease.backend,
            answer: &mut self.answer,
            out: &mut self.to_backend,
            unnamed: &self.unnamed,
            naming,
            changes: run.changes,
            parsed: &mut run.parses,
            refused: None,
            reuses: false,
            aborted: false,
            shows: false,
        };
        for (at, item) in items.iter().enumerate() {
            let Some(statement) = item.statement.as_deref() else { continue };
            let prepared = translation.backend.prepared.get(&statement.id);
            let held = item.told.held(prepared, naming, run.changes);
            if held != Held::Same && !asked.iter().any(|(_, of)| of.id == statement.id) {
                translation.describe_again(statement, held);
                asked.push((at, statement));
            }
        }
        if !asked.is_empty() {
            build::empty(&mut self.to_backend, frontend::SYNC);
            self.answer.expect(Owed::hidden(Kind::Sync));
        }
        asked
    }

    /// Takes up what the client was told of its statements by the batch that is answered.
    pub(super) fn note_described(&mut self, bytes: &[u8], items: &[Item], run: &Run) {
        let shapes = self.answer.take_shapes();
        if shapes.is_empty() {
            return;
        }
        let described = items.iter().filter(|item| bytes[item.start] == frontend::DESCRIBE);
        let shared = described.filter_map(|item| Some((item.statement.as_ref()?, item.body(bytes))));
        for ((statement, body), shape) in shared.zip(shapes) {
            self.backend_describes(statement, shape);
            if let Some(Named::Statement(name)) = Named::read(body) {
                self.names.tell(name, statement, Told { shape, changes: run.changes });
            }
        }
    }

    /// The backend at hand has told what the statement is there.
    fn backend_describes(&mut self, statement: &Statement, shape: u64) {
        let prepared = self.lease.as_mut().and_then(|lease| lease.backend.prepared.get_mut(&statement.id));
        if let Some(prepared) = prepared {
            prepared.shape = shape;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_unless_ddl_came_between() {
        let held = |shape, since, prepared: Option<(u64, u64, u64)>, changes| {
            let told = Told { shape, changes: since };
            let prepared = prepared.map(|(naming, changes, shape)| Prepared { naming, changes, shape });
            told.held(prepared.as_ref(), 1, changes)
        };
        for (told, since, prepared, changes, expected) in [
            (0, 5, None, 6, Held::Same),
            (9, 5, None, 5, Held::Same),
            (9, 5, None, 6, Held::Other),
            (9, 5, Some((1, 5, 0)), 5, Held::Same),
            (9, 5, Some((1, 5, 0)), 6, Held::Other),
            (9, 5, Some((1, 6, 0)), 6, Held::Unknown),
            (9, 5, Some((1, 5, 9)), 6, Held::Same),
            (9, 5, Some((2, 5, 9)), 6, Held::Other),
            (9, 6, Some((1, 6, 8)), 6, Held::Other),
        ] {
            assert_eq!(
                held(told, since, prepared, changes),
                expected,
                "{told} {since} {prepared:?} {changes}"
            );
        }
    }
}
