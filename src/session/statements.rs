//! Protocol-level prepared statements: a session's names for them, and the names under which backends know them.
//!
//! Statements of one database with the same text and parameter types are one object on a worker, whoever prepared them, and have
//! one name on every backend. A backend that lacks one is given it in front of the message that needs it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::Worker;
use super::catalog::Catalog;
use super::described::Told;
use crate::sql::{Lexing, Verdict};
use crate::wire::parts::Parse;

/// A prepared statement, shared by all sessions of a worker that have it.
#[derive(Debug)]
pub(super) struct Statement {
    /// Its number: the same on no other worker, never given twice.
    pub(super) id: u64,
    /// Its text.
    pub(super) sql: Box<[u8]>,
    /// Its parameters' types, as in Parse.
    pub(super) types: Box<[u8]>,
    lexing: Lexing,
    /// What it does.
    known: RefCell<Classed>,
}

impl Statement {
    /// The name that backends know it by.
    pub(super) fn name(&self) -> [u8; NAME_LEN] {
        name(self.id)
    }

    /// What it does, said anew where more is known of the database by now.
    pub(super) fn verdict(&self, worker: &Worker, catalog: &Catalog) -> Rc<Verdict> {
        let mut known = self.known.borrow_mut();
        if !known.is_of(catalog) {
            *known = worker.classify(catalog, &self.sql, self.lexing);
        }
        Rc::clone(&known.verdict)
    }
}

/// A verdict and the state of the database's catalog by which it was given.
#[derive(Debug, Clone)]
pub(super) struct Classed {
    pub(super) state: u64,
    pub(super) verdict: Rc<Verdict>,
}

impl Classed {
    /// Whether no more is known of the database by now.
    #[inline]
    pub(super) fn is_of(&self, catalog: &Catalog) -> bool {
        self.state == catalog.state()
    }
}

/// What the names that backends know statements by begin with.
const PREFIX: &[u8] = b"pgha_";

const NAME_LEN: usize = 21;

/// The name that backends know the statement of this number by.
pub(super) fn name(id: u64) -> [u8; NAME_LEN] {
    let mut name = *b"pgha_0000000000000000";
    for (i, digit) in name[5..].iter_mut().enumerate() {
        let nibble = (id >> (60 - 4 * i)) & 15;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
    name
}

/// Whether a backend may know another statement by this name, which a client gave one of its own.
pub(super) fn may_be_shared(name: &[u8]) -> bool {
    name.starts_with(PREFIX)
}

/// Text, parameter types, the database's number, how the text is read, and for unnamed statements a number of the settings.
type Key = (Box<[u8]>, u64, Lexing, u64);

/// The statements of a worker.
#[derive(Debug)]
pub(super) struct Registry {
    by_text: HashMap<Key, Rc<Statement>, RandomState>,
    next: u64,
    limit: usize,
}

impl Registry {
    /// For worker number `worker`; statements that no session has are dropped once there are more than `limit`.
    pub(super) fn new(worker: usize, limit: usize) -> Self {
        Self { by_text: HashMap::default(), next: ((worker as u64) << 48) + 1, limit }
    }

    /// The statement that `parse` makes in this database.
    pub(super) fn intern(
        &mut self,
        parse: &Parse<'_>,
        catalog: &Catalog,
        lexing: Lexing,
        known: &Classed,
    ) -> Rc<Statement> {
        self.intern_for(parse, catalog, lexing, known, 0)
    }

    /// The same for an unnamed statement, among sessions whose settings have this number.
    pub(super) fn intern_for(
        &mut self,
        parse: &Parse<'_>,
        catalog: &Catalog,
        lexing: Lexing,
        known: &Classed,
        planning: u64,
    ) -> Rc<Statement> {
        // Types are a fixed part behind a NUL that text can't hold: no two statements share a key.
        let key = ([parse.sql, b"\0", parse.types].concat().into(), catalog.id, lexing, planning);
        if let Some(known) = self.by_text.get(&key) {
            return Rc::clone(known);
        }
        if self.by_text.len() >= self.limit {
            self.by_text.retain(|_, statement| Rc::strong_count(statement) > 1);
        }
        let statement = Rc::new(Statement {
            id: self.next,
            sql: parse.sql.into(),
            types: parse.types.into(),
            lexing,
            known: RefCell::new(known.clone()),
        });
        self.next += 1;
        self.by_text.insert(key, Rc::clone(&statement));
        statement
    }
}

/// What a session has under a name.
#[derive(Debug)]
struct Named {
    statement: Rc<Statement>,
    told: Told,
}

/// One entry of what a batch did to a session's names, to be undone when it didn't come to it.
#[derive(Debug)]
struct Undo {
    name: Box<[u8]>,
    before: Option<Named>,
    /// Which message of the batch did it.
    at: usize,
}

/// A prepared statement of a session's, as it is carried to another worker.
#[derive(Debug)]
pub(super) struct Portable {
    pub(super) name: Box<[u8]>,
    pub(super) sql: Box<[u8]>,
    pub(super) types: Box<[u8]>,
    pub(super) told: Told,
}

/// A session's own names.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_name: HashMap<Box<[u8]>, Named, RandomState>,
    undo: Vec<Undo>,
}

impl Names {
    /// The statement of this name, and what the client was told of it.
    pub(super) fn find(&self, name: &[u8]) -> Option<(&Rc<Statement>, Told)> {
        self.by_name.get(name).map(|named| (&named.statement, named.told))
    }

    /// The client was told of the statement that it has under this name, if that is still the one.
    pub(super) fn tell(&mut self, name: &[u8], statement: &Rc<Statement>, told: Told) {
        if let Some(named) = self.by_name.get_mut(name)
            && Rc::ptr_eq(&named.statement, statement)
        {
            named.told = told;
        }
    }

    /// The statements of all of them.
    pub(super) fn statements(&self) -> impl Iterator<Item = &Rc<Statement>> {
        self.by_name.values().map(|named| &named.statement)
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Portable> {
        let all = self.by_name.iter();
        all.map(|(name, Named { statement: of, told })| Portable {
            name: name.clone(),
            sql: of.sql.clone(),
            types: of.types.clone(),
            told: *told,
        })
        .collect()
    }

    /// An error's body that speaks of statements by the names that backends know them by, in the session's own names; none if it
    /// doesn't.
    pub(super) fn in_own_names(&self, body: &[u8]) -> Option<Vec<u8>> {
        let mut found = false;
        let mut out = Vec::new();
        let mut rest = body;
        while let Some(at) = memchr::memmem::find(rest, PREFIX) {
            let end = rest.len().min(at + NAME_LEN);
            let own = self.own_name(&rest[at..end]);
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(own.unwrap_or(&rest[at..end]));
            found |= own.is_some();
            rest = &rest[end..];
        }
        out.extend_from_slice(rest);
        found.then_some(out)
    }

    /// The session's name of the statement that backends know as `shared`, also if the batch at hand closes it.
    fn own_name(&self, shared: &[u8]) -> Option<&[u8]> {
        let before = self.undo.iter().filter_map(|undo| Some((&undo.name, undo.before.as_ref()?)));
        self.by_name
            .iter()
            .chain(before)
            .find(|(_, named)| named.statement.name() == shared)
            .map(|(name, _)| &**name)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Takes up a Parse, message number `at` of its batch, until [`Self::settle`] says whether it came to it.
    pub(super) fn parse(&mut self, name: &[u8], statement: Rc<Statement>, told: Told, at: usize) {
        let before = self.by_name.insert(name.into(), Named { statement, told });
        self.undo.push(Undo { name: name.into(), before, at });
    }

    /// Takes up a Close in the same way.
    pub(super) fn close(&mut self, name: &[u8], at: usize) {
        if let Some(before) = self.by_name.remove(name) {
            self.undo.push(Undo { name: name.into(), before: Some(before), at });
        }
    }

    /// Forgets all of them (DEALLOCATE ALL, DISCARD ALL).
    pub(super) fn clear(&mut self) {
        self.by_name.clear();
        self.undo.clear();
    }

    /// Forgets one (DEALLOCATE name reaches protocol-level statements too).
    pub(super) fn remove(&mut self, name: &[u8]) {
        self.by_name.remove(name);
    }

    /// The batch is answered. Without an error all of it holds; with one, what stands before the message that failed.
    pub(super) fn settle(&mut self, failed_at: Option<usize>) {
        if let Some(failed) = failed_at {
            let keep = self.undo.partition_point(|undo| undo.at < failed);
            for undo in self.undo.drain(keep..).rev() {
                match undo.before {
                    Some(before) => self.by_name.insert(undo.name, before),
                    None => self.by_name.remove(&undo.name),
                };
            }
        }
        self.undo.clear();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;

    fn catalog(name: &str) -> Arc<Catalog> {
        let (metrics, _workers) = crate::metrics::Metrics::new(1).unwrap();
        let functions = crate::sql::Functions::builtin();
        let (catalogs, _wanted) = crate::session::Catalogs::new(functions, 0, metrics.routing);
        // The number tells databases apart.
        let all: Vec<_> = ["a", "b"].iter().map(|name| catalogs.of(name)).collect();
        all.into_iter().find(|catalog| &*catalog.database == name).unwrap()
    }

    #[test]
    fn errors_speak_of_statements_by_the_sessions_names() {
        let mut registry = Registry::new(0, 10);
        let parse = Parse { name: b"mine", sql: b"SELECT 1", types: b"\0\0" };
        let mut names = Names::default();
        let statement = intern(&mut registry, &parse, "a");
        names.parse(b"mine", Rc::clone(&statement), Told::default(), 0);
        let shared = String::from_utf8(statement.name().to_vec()).unwrap();
        let body = format!("SERROR\0M\"{shared}\" is not \"pgha_0\"\0\0");
        let own = names.in_own_names(body.as_bytes());
        assert_eq!(own.as_deref(), Some(&b"SERROR\0M\"mine\" is not \"pgha_0\"\0\0"[..]));
        assert_eq!(names.in_own_names(b"Mpgha_ffffffffffffffff\0pgha_\0"), None);
    }

    fn intern(registry: &mut Registry, parse: &Parse<'_>, database: &str) -> Rc<Statement> {
        let verdict = Rc::new(crate::session::plan::opaque_verdict());
        let (catalog, known) = (catalog(database), Classed { state: 1, verdict });
        registry.intern(parse, &catalog, Lexing::default(), &known)
    }

    pub(in crate::session) fn statement(sql: &'static [u8]) -> Rc<Statement> {
        intern(&mut Registry::new(0, 10), &parse(sql), "a")
    }

    fn parse(sql: &'static [u8]) -> Parse<'static> {
        Parse { name: b"", sql, types: b"\0\0" }
    }

    #[test]
    fn equal_statements_are_one() {
        let mut registry = Registry::new(1, 2);
        let a = intern(&mut registry, &parse(b"SELECT 1"), "a");
        assert!(Rc::ptr_eq(&a, &intern(&mut registry, &parse(b"SELECT 1"), "a")));
        assert!(!Rc::ptr_eq(&a, &intern(&mut registry, &parse(b"SELECT 2"), "a")));
        let typed = Parse { types: b"\0\x01\0\0\0\x17", ..parse(b"SELECT 1") };
        assert_ne!(intern(&mut registry, &typed, "a").id, a.id);
        assert_ne!(intern(&mut registry, &parse(b"SELECT 1"), "b").id, a.id, "another database's");
        assert_eq!(&a.name(), b"pgha_0001000000000001");
        assert!(Rc::ptr_eq(&a, &intern(&mut registry, &parse(b"SELECT 1"), "a")), "one in use is kept");
    }

    #[test]
    fn a_failed_parse_leaves_the_name_as_it_was() {
        let mut registry = Registry::new(0, 10);
        let (a, b) = (intern(&mut registry, &parse(b"a"), "a"), intern(&mut registry, &parse(b"b"), "a"));
        let mut names = Names::default();
        names.parse(b"s", Rc::clone(&a), Told::default(), 0);
        names.settle(None);
        names.close(b"s", 0);
        names.parse(b"s", Rc::clone(&b), Told::default(), 1);
        names.parse(b"t", Rc::clone(&b), Told::default(), 2);
        names.settle(Some(2));
        assert!(Rc::ptr_eq(names.find(b"s").unwrap().0, &b), "the first Parse was answered");
        assert!(names.find(b"t").is_none(), "the second was not");
        names.close(b"s", 3);
        names.settle(Some(2));
        assert!(names.find(b"s").is_some(), "the Close was not reached");
    }
}
