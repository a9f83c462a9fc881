//! Prepared statements as SQL knows them: for a batch that reads `pg_prepared_statements`, or runs by EXECUTE what Parse prepared, the
//! backend is given the session's prepared statements under the session's own names, in place of those that it has for all. And
//! DEALLOCATE of one of them, for which the backend is given something of that name.

use super::Session;
use super::answer::{Kind, Owed};
use super::batch::{Item, Summary};
use super::statements::{self, Names, Portable};
use super::translate::Translation;
use crate::sql::Effects;
use crate::wire::build;
use crate::wire::parts::Parse;
use crate::wire::tags::frontend as tag;

/// What a Parse says of parameters that it gives no types for.
const NO_TYPES: &[u8] = b"\0\0";

/// The names that a backend was given, to be taken away behind the batch.
#[derive(Debug)]
pub(super) struct Shown(Vec<Box<[u8]>>);

impl Session {
    /// Whether the batch is about statements that Parse prepared, by the names that the session gave them.
    pub(super) fn is_about_statements(&self, summary: &Summary) -> bool {
        if summary.effects.contains(Effects::SHOWS_STATEMENTS) {
            return true;
        }
        summary.effects.intersects(Effects::EXECUTE | Effects::PREPARE)
            && match summary.only.as_ref().and_then(|only| only.object.as_deref()) {
                Some(name) => self.names.find(name).is_some(),
                // More than one: none of them may have the name of one that PREPARE made.
                None => self.names.len() > 0 && !self.pins.holds(Effects::PREPARE),
            }
    }
}

impl Translation<'_> {
    /// Puts the session's statements in front of the batch; none where nothing could be taken away behind it.
    pub(super) fn show(&mut self, names: &Names, bytes: &[u8], items: &[Item]) -> Option<Shown> {
        if !is_whole(bytes, items) {
            return None;
        }
        for (id, _) in self.backend.prepared.drain() {
            build::close_statement(self.out, &statements::name(id));
            self.answer.expect(Owed::hidden(Kind::Close));
        }
        // What the batch parses itself is there when it is.
        let parsed = |of: &Portable| {
            items
                .iter()
                .filter(|item| bytes[item.start] == tag::PARSE)
                .any(|item| Parse::read(item.body(bytes)).is_some_and(|parse| *parse.name == *of.name))
        };
        let mut shown = Vec::new();
        for of in names.all() {
            if !parsed(&of) {
                build::parse(self.out, &of.name, &of.sql, &of.types);
                self.answer.expect(Owed::hidden(Kind::Parse));
            }
            shown.push(of.name);
        }
        self.shows = true;
        Some(Shown(shown))
    }

    /// Puts an empty statement in front for each DEALLOCATE of one that came by Parse, under the name that the session has for it: it is
    /// what the backend deallocates, its own goes by another name and may be others' too.
    pub(super) fn stand_in(&mut self, names: &Names, bytes: &[u8], items: &[Item]) -> Option<Shown> {
        if !is_whole(bytes, items) {
            return None;
        }
        let verdicts = items.iter().filter_map(|item| item.verdict.as_ref());
        let named = verdicts.filter(|verdict| verdict.effects.contains(Effects::DEALLOCATE));
        let mut shown = Vec::new();
        for name in named.filter_map(|verdict| verdict.object.as_deref()) {
            if names.find(name).is_some() && !statements::may_be_shared(name) {
                // One of SQL's PREPARE may have the name.
                build::close_statement(self.out, name);
                self.answer.expect(Owed::hidden(Kind::Close));
                build::parse(self.out, name, b"", NO_TYPES);
                self.answer.expect(Owed::hidden(Kind::Parse));
                shown.push(name.into());
            }
        }
        (!shown.is_empty()).then_some(Shown(shown))
    }

    /// Takes them away again.
    pub(super) fn hide(&mut self, shown: &Shown) {
        for name in &shown.0 {
            build::close_statement(self.out, name);
            self.answer.expect(Owed::hidden(Kind::Close));
        }
        build::empty(self.out, tag::FLUSH);
    }
}

/// Whether a batch ends in such a way that what was put in front can be taken away behind it.
fn is_whole(bytes: &[u8], items: &[Item]) -> bool {
    matches!(items.last().map(|item| bytes[item.start]), Some(tag::QUERY | tag::SYNC))
}
