//! `pg_prepared_statements`, which a backend fills: for a batch that reads it, the backend is given the session's prepared
//! statements under the session's own names, in place of those that it has for all.

use super::answer::{Kind, Owed};
use super::batch::Item;
use super::statements::{self, Names, Portable};
use super::translate::Translation;
use crate::wire::build;
use crate::wire::parts::Parse;
use crate::wire::tags::frontend as tag;

/// The names that a backend was given, to be taken away behind the batch.
#[derive(Debug)]
pub(super) struct Shown(Vec<Box<[u8]>>);

impl Translation<'_> {
    /// Puts the session's statements in front of the batch; none where nothing could be taken away behind it.
    pub(super) fn show(&mut self, names: &Names, bytes: &[u8], items: &[Item]) -> Option<Shown> {
        let last = items.last().map(|item| bytes[item.start]);
        if !matches!(last, Some(tag::QUERY | tag::SYNC)) {
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

    /// Takes them away again.
    pub(super) fn hide(&mut self, shown: &Shown) {
        for name in &shown.0 {
            build::close_statement(self.out, name);
            self.answer.expect(Owed::hidden(Kind::Close));
        }
        build::empty(self.out, tag::FLUSH);
    }
}
