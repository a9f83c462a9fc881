//! Names of relations, of which some are read on the primary: by PostgreSQL's own list, and by the database's catalog.

use super::classify::Statements;
use super::lexer::{Kind, Token};
use super::{Class, Effects, names};

impl Statements<'_, '_> {
    /// Looks a name up among the relations that are read on the primary.
    pub(super) fn relation_name(&mut self) -> bool {
        let mut name = std::mem::take(&mut self.scratch);
        self.cursor.fold(self.cursor.token, &mut name);
        if self.cursor.next.kind != Kind::Open {
            if names::primary_view(&name) {
                self.found.write(&String::from_utf8_lossy(&name));
                if name == b"pg_prepared_statements" {
                    self.found.effects |= Effects::SHOWS_STATEMENTS;
                }
            } else {
                self.catalog_name(&name);
            }
        }
        let settings = name == b"pg_settings";
        if name == b"pg_temp" && self.found.effects.contains(Effects::DDL) {
            self.found.effects |= Effects::TEMP_OBJECT;
        }
        self.scratch = name;
        settings
    }

    /// A name in a statement that is only planned: a standby plans nothing over an unlogged table.
    pub(super) fn planned(&mut self, token: Token) {
        let mut name = std::mem::take(&mut self.scratch);
        self.cursor.fold(token, &mut name);
        self.catalog_name(&name);
        self.scratch = name;
    }

    fn catalog_name(&mut self, name: &[u8]) {
        if let Some(why) = self.functions.primary_relation(name) {
            self.found.raise(Class::Write, || format!("{} {why}", String::from_utf8_lossy(name)).into());
        }
    }
}
