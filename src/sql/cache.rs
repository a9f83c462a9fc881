//! Verdicts by text, for one worker: a text that was seen is not read again.

use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::functions::Functions;
use super::lexer::Lexing;
use super::{Verdict, classify};

/// Verdicts that one set may hold.
const WAYS: usize = 4;

/// A bounded cache of verdicts. Texts are compared in full. Not shared between threads.
#[derive(Debug)]
pub struct ClassCache {
    sets: Box<[[Option<Entry>; WAYS]]>,
    state: RandomState,
    longest: usize,
    clock: u64,
    hits: u64,
    misses: u64,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    functions: u64,
    lexing: Lexing,
    used: u64,
    text: Box<[u8]>,
    verdict: Rc<Verdict>,
}

impl ClassCache {
    /// A cache of about `entries` verdicts (rounded up to a power of two, at least four) of texts of at most
    /// `longest` bytes.
    pub fn new(entries: usize, longest: usize) -> Self {
        let sets = entries.div_ceil(WAYS).max(1).next_power_of_two();
        Self {
            sets: std::iter::repeat_with(|| [const { None }; WAYS]).take(sets).collect(),
            state: RandomState::default(),
            longest,
            clock: 0,
            hits: 0,
            misses: 0,
        }
    }

    /// The verdict on `text`, from the cache or by [`classify`]. A hit allocates nothing.
    pub fn classify(&mut self, text: &[u8], lexing: &Lexing, functions: &Functions) -> Rc<Verdict> {
        if text.len() > self.longest {
            self.misses += 1;
            return Rc::new(classify(text, lexing, functions));
        }
        let hash = self.hash(text);
        let print = functions.fingerprint();
        self.clock += 1;
        let clock = self.clock;
        let set = hash as usize & (self.sets.len() - 1);
        let set = &mut self.sets[set];
        let same = |entry: &Entry| {
            entry.hash == hash && entry.functions == print && entry.lexing == *lexing && *entry.text == *text
        };
        if let Some(entry) = set.iter_mut().flatten().find(|entry| same(entry)) {
            entry.used = clock;
            self.hits += 1;
            return Rc::clone(&entry.verdict);
        }
        self.misses += 1;
        let verdict = Rc::new(classify(text, lexing, functions));
        let kept = Rc::clone(&verdict);
        let oldest = set.iter_mut().min_by_key(|way| way.as_ref().map_or(0, |entry| entry.used));
        if let Some(way) = oldest {
            *way = Some(Entry {
                hash,
                functions: print,
                lexing: *lexing,
                used: clock,
                text: text.into(),
                verdict: kept,
            });
        }
        verdict
    }

    /// Forgets everything: after DDL, or when the configuration changed.
    pub fn clear(&mut self) {
        self.sets.iter_mut().flatten().for_each(|way| *way = None);
    }

    /// How often a text was found, and how often it wasn't.
    pub fn counts(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    fn hash(&self, text: &[u8]) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write(text);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Class;
    use super::*;

    #[test]
    fn hits_are_by_text_rules_and_functions() {
        let mut cache = ClassCache::new(8, 100);
        let functions = Functions::builtin();
        let lexing = Lexing::default();
        let first = cache.classify(b"select f()", &lexing, &functions);
        assert_eq!(first.class, Class::Write);
        assert!(Rc::ptr_eq(&first, &cache.classify(b"select f()", &lexing, &functions)));
        let other = functions.clone().with_config(["f"], []);
        assert_eq!(cache.classify(b"select f()", &lexing, &other).class, Class::Read);
        let off = Lexing { standard_conforming_strings: false, ..lexing };
        cache.classify(b"select f()", &off, &functions);
        assert_eq!(cache.counts(), (1, 3));
        cache.clear();
        cache.classify(b"select f()", &lexing, &functions);
        assert_eq!(cache.counts(), (1, 4));
    }

    #[test]
    fn it_is_bounded_and_keeps_the_latest() {
        let mut cache = ClassCache::new(4, 20);
        let (functions, lexing) = (Functions::builtin(), Lexing::default());
        for number in 0..100 {
            cache.classify(format!("select {number}").as_bytes(), &lexing, &functions);
            cache.classify(b"select 'kept'", &lexing, &functions);
        }
        assert_eq!(cache.counts().0, 99);
        assert_eq!(cache.sets.iter().flatten().flatten().count(), 4);
        let long = [b'x'; 21];
        cache.classify(&long, &lexing, &functions);
        cache.classify(&long, &lexing, &functions);
        assert_eq!(cache.counts().0, 99);
    }
}
