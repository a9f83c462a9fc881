//! Protocol-level prepared statements: a session's names for them, and the names under which backends know them.
//!
//! Statements with the same text and parameter types are one object on a worker, whoever prepared them, and have one name on
//! every backend. A backend that lacks one is given it in front of the message that needs it.

use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::RandomState;

use crate::sql::Verdict;
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
    /// What it does.
    pub(super) verdict: Rc<Verdict>,
}

impl Statement {
    /// The name that backends know it by.
    pub(super) fn name(&self) -> [u8; 21] {
        let mut name = *b"pgha_0000000000000000";
        for (i, digit) in name[5..].iter_mut().enumerate() {
            let nibble = (self.id >> (60 - 4 * i)) & 15;
            *digit = b"0123456789abcdef"[nibble as usize];
        }
        name
    }
}

/// The statements of a worker.
#[derive(Debug)]
pub(super) struct Registry {
    by_text: HashMap<Box<[u8]>, Rc<Statement>, RandomState>,
    next: u64,
    limit: usize,
}

impl Registry {
    /// For worker number `worker`; statements that no session has are dropped once there are more than `limit`.
    pub(super) fn new(worker: usize, limit: usize) -> Self {
        Self { by_text: HashMap::default(), next: ((worker as u64) << 48) + 1, limit }
    }

    /// The statement that `parse` makes.
    pub(super) fn intern(&mut self, parse: &Parse<'_>, verdict: &Rc<Verdict>) -> Rc<Statement> {
        // Types are a fixed part behind a NUL that text can't hold: no two statements share a key.
        let key = [parse.sql, b"\0", parse.types].concat();
        if let Some(known) = self.by_text.get(&*key) {
            return Rc::clone(known);
        }
        if self.by_text.len() >= self.limit {
            self.by_text.retain(|_, statement| Rc::strong_count(statement) > 1);
        }
        let statement = Rc::new(Statement {
            id: self.next,
            sql: parse.sql.into(),
            types: parse.types.into(),
            verdict: Rc::clone(verdict),
        });
        self.next += 1;
        self.by_text.insert(key.into(), Rc::clone(&statement));
        statement
    }
}

/// One entry of what a batch did to a session's names, to be undone when it didn't come to it.
#[derive(Debug)]
struct Undo {
    name: Box<[u8]>,
    before: Option<Rc<Statement>>,
    is_parse: bool,
}

/// A prepared statement of a session's, as it is carried to another worker.
#[derive(Debug)]
pub(super) struct Portable {
    pub(super) name: Box<[u8]>,
    pub(super) sql: Box<[u8]>,
    pub(super) types: Box<[u8]>,
}

/// A session's own names.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_name: HashMap<Box<[u8]>, Rc<Statement>, RandomState>,
    undo: Vec<Undo>,
}

impl Names {
    /// The statement of this name.
    pub(super) fn find(&self, name: &[u8]) -> Option<&Rc<Statement>> {
        self.by_name.get(name)
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Portable> {
        let all = self.by_name.iter();
        all.map(|(name, of)| Portable { name: name.clone(), sql: of.sql.clone(), types: of.types.clone() })
            .collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Takes up a Parse, until [`Self::settle`] says whether it came to it.
    pub(super) fn parse(&mut self, name: &[u8], statement: Rc<Statement>) {
        let before = self.by_name.insert(name.into(), statement);
        self.undo.push(Undo { name: name.into(), before, is_parse: true });
    }

    /// Takes up a Close.
    pub(super) fn close(&mut self, name: &[u8]) {
        if let Some(before) = self.by_name.remove(name) {
            self.undo.push(Undo { name: name.into(), before: Some(before), is_parse: false });
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

    /// The batch is answered. Without an error all of it holds; with one, what stands before the first Parse that wasn't
    /// answered, `parsed` of them being so.
    pub(super) fn settle(&mut self, failed: bool, parsed: usize) {
        if failed {
            let parses = self.undo.iter().enumerate().filter(|(_, undo)| undo.is_parse);
            let keep = parses.map(|(at, _)| at).nth(parsed).unwrap_or(self.undo.len());
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
mod tests {
    use super::*;

    fn verdict() -> Rc<Verdict> {
        Rc::new(crate::session::plan::opaque_verdict())
    }

    fn parse(sql: &'static [u8]) -> Parse<'static> {
        Parse { name: b"", sql, types: b"\0\0" }
    }

    #[test]
    fn equal_statements_are_one() {
        let mut registry = Registry::new(1, 2);
        let a = registry.intern(&parse(b"SELECT 1"), &verdict());
        assert!(Rc::ptr_eq(&a, &registry.intern(&parse(b"SELECT 1"), &verdict())));
        assert!(!Rc::ptr_eq(&a, &registry.intern(&parse(b"SELECT 2"), &verdict())));
        let typed = registry.intern(&Parse { types: b"\0\x01\0\0\0\x17", ..parse(b"SELECT 1") }, &verdict());
        assert_ne!(typed.id, a.id);
        assert_eq!(&a.name(), b"pgha_0001000000000001");
        assert!(Rc::ptr_eq(&a, &registry.intern(&parse(b"SELECT 1"), &verdict())), "one in use is kept");
    }

    #[test]
    fn a_failed_parse_leaves_the_name_as_it_was() {
        let mut registry = Registry::new(0, 10);
        let (a, b) = (registry.intern(&parse(b"a"), &verdict()), registry.intern(&parse(b"b"), &verdict()));
        let mut names = Names::default();
        names.parse(b"s", Rc::clone(&a));
        names.settle(false, 1);
        names.close(b"s");
        names.parse(b"s", Rc::clone(&b));
        names.parse(b"t", Rc::clone(&b));
        names.settle(true, 1);
        assert!(Rc::ptr_eq(names.find(b"s").unwrap(), &b), "the first Parse was answered");
        assert!(names.find(b"t").is_none(), "the second was not");
    }
}
