//! Unnamed statements whose text comes again and again, served from a statement that the backend has for all
//! (`pool.prepare_threshold`): it is neither parsed nor, where PostgreSQL settles on a generic plan, planned again.
//!
//! Only where the answer is the same: one read outside of a transaction, of a session without pins, that is parsed alike at any time
//! ([`sql::parses_alike`]); only among sessions with the same settings; not over DDL that is known of. What fails on a statement that it
//! had not parsed itself is run again with its own Parse, before the client gets anything.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash};
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::Session;
use super::answer::{Kind, Owed};
use super::batch::{Item, Summary};
use super::run::Run;
use super::statements::Statement;
use super::translate::{self, Translation};
use super::worker::LONGEST_CACHED;
use crate::sql;
use crate::wire::build;
use crate::wire::parts::Parse;
use crate::wire::tags::{backend, frontend as tag};

/// How often texts of unnamed statements came to a worker.
#[derive(Debug)]
pub(super) struct Recurring {
    /// By a number of text, types, database and settings.
    seen: HashMap<u64, Seen, RandomState>,
    hasher: RandomState,
    limit: usize,
}

/// One of them.
#[derive(Debug)]
enum Seen {
    /// It came so often.
    Times(u32),
    /// Backends have it as this.
    Kept(Rc<Statement>),
    /// It has to be parsed each time.
    Passing,
}

impl Recurring {
    /// Of at most `limit` texts.
    pub(super) fn new(limit: usize) -> Self {
        Self { seen: HashMap::default(), hasher: RandomState::default(), limit }
    }

    /// What backends have of a text that came `threshold` times before; `make` makes it when it is the first time, or says that the
    /// text has to be parsed each time.
    fn meet(
        &mut self,
        parse: &Parse<'_>,
        under: impl Hash,
        threshold: u32,
        make: impl FnOnce() -> Option<Rc<Statement>>,
    ) -> Option<Rc<Statement>> {
        let number = self.hasher.hash_one((parse.sql, parse.types, under));
        if self.seen.len() >= self.limit && !self.seen.contains_key(&number) {
            self.make_room();
        }
        let seen = self.seen.entry(number).or_insert(Seen::Times(0));
        if let Seen::Times(times) = seen {
            if *times < threshold {
                *times += 1;
                return None;
            }
            *seen = make().map_or(Seen::Passing, Seen::Kept);
        }
        match seen {
            // Two that have one number by chance are two.
            Seen::Kept(of) if *of.sql == *parse.sql && *of.types == *parse.types => Some(Rc::clone(of)),
            _ => None,
        }
    }

    /// Forgets who came too seldom; all, if that isn't enough.
    fn make_room(&mut self) {
        self.seen.retain(|_, seen| !matches!(seen, Seen::Times(_)));
        if self.seen.len() >= self.limit / 2 {
            self.seen.clear();
        }
    }
}

impl Session {
    /// Looks in a batch for unnamed statements that come often, and notes what backends have of them.
    pub(super) fn reuse(&mut self, bytes: &[u8], items: &mut [Item], summary: &Summary) {
        let threshold = self.worker.shared.config.pool.prepare_threshold;
        if threshold == 0
            || !summary.reads()
            || summary.runs != 1
            || !summary.effects.is_empty()
            || self.in_transaction()
            || self.pins.any()
        {
            return;
        }
        // A batch that could not be run again by itself: behind its error a server waits for the Sync.
        if items.last().is_none_or(|item| bytes[item.start] != tag::SYNC) {
            return;
        }
        let is = |item: &Item, of: u8| bytes[item.start] == of && item.unnamed != 0;
        let Some(at) = items.iter().position(|item| is(item, tag::PARSE)) else { return };
        let token = items[at].unnamed;
        // One that is parsed now and bound some other time has to be there then, too.
        if !items[at..].iter().any(|item| is(item, tag::BIND) && item.unnamed == token) {
            return;
        }
        let Some(parse) = Parse::read(items[at].body(bytes)) else { return };
        let Some(statement) = self.recurring(&parse, threshold) else { return };
        for item in items[at..].iter_mut().filter(|item| item.unnamed == token) {
            item.reused = Some(Rc::clone(&statement));
        }
    }

    fn recurring(&self, parse: &Parse<'_>, threshold: u32) -> Option<Rc<Statement>> {
        if parse.sql.len() > LONGEST_CACHED {
            return None;
        }
        let catalog = &self.pools.identity.catalog;
        let planning = self.settings.planning();
        let make = || {
            if !sql::parses_alike(parse.sql, &self.lexing) {
                return None;
            }
            let known = self.classify(parse.sql);
            let mut statements = self.worker.statements.borrow_mut();
            Some(statements.intern_for(parse, catalog, self.lexing, &known, planning))
        };
        let under = (catalog.id, self.lexing, planning);
        self.worker.recurring.borrow_mut().meet(parse, under, threshold, make)
    }

    /// Answers a Parse that was not sent; false, as nothing of the backend's is passed on for it.
    pub(super) fn on_reused(&mut self, run: &Run) -> bool {
        if run.rerun.is_none() {
            self.worker.metrics.parse_spared();
            if self.to_client.capacity() == 0 {
                self.to_client = self.worker.buffer();
            }
            build::empty(&mut self.to_client, backend::PARSE_COMPLETE);
        }
        false
    }

    /// What the batch failed on is parsed anew at its next use.
    pub(super) fn doubt_reused(&mut self, items: &[Item]) {
        let Some(lease) = self.lease.as_mut() else { return };
        for statement in items.iter().filter_map(|item| item.reused.as_ref()) {
            translate::doubt(&mut lease.backend, &[(statement.id, 0)], 0);
        }
    }
}

impl Translation<'_> {
    /// What serves in place of the unnamed statement that the message is about.
    pub(super) fn reused<'a>(&self, item: &'a Item) -> Option<&'a Rc<Statement>> {
        item.reused.as_ref().filter(|_| self.reuses)
    }

    /// A Parse of the client's own statement: not sent if the backend has it, parsed under the same conditions.
    pub(super) fn parse_or_reuse(&mut self, statement: &Statement) {
        let known = self.backend.prepared.get(&statement.id);
        if known.is_some_and(|known| known.naming == self.naming && known.changes == self.changes) {
            self.answer.expect(Owed::new(Kind::Reused));
        } else {
            self.parse_shared(statement);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::statements::tests::statement;

    #[test]
    fn a_text_is_reused_when_it_came_often_enough() {
        let mut recurring = Recurring::new(4);
        let parse = |sql| Parse { name: b"", sql, types: b"\0\0" };
        let mut meet = |sql: &'static [u8], under: u64| {
            recurring
                .meet(&parse(sql), under, 2, || Some(statement(sql)))
                .map(|statement| statement.sql.to_vec())
        };
        assert_eq!([meet(b"a", 1), meet(b"a", 1)], [None, None]);
        assert_eq!(meet(b"a", 2), None, "under other settings it is another");
        assert_eq!(meet(b"a", 1).as_deref(), Some(&b"a"[..]));
        for other in [&b"b"[..], b"c", b"d", b"e", b"f"] {
            assert_eq!(meet(other, 1), None);
        }
        assert_eq!(meet(b"a", 1).as_deref(), Some(&b"a"[..]), "who came often is kept");
    }
}
