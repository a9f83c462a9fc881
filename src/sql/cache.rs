//! Verdicts by text, for one worker: a text that comes again is not read again, nor is one that differs from another in its values
//! alone, where none of them counts.
//!
//! A text is kept when it comes the second time. One with its values written into it mostly comes once, and keeping it
//! would cost more than reading it: an allocation, and an older verdict thrown out of cold memory. So one whose shape is known already is
//! looked at only now and then: if it comes often, that will do. And while texts come whose shapes are known and which aren't kept, the
//! shape is looked for first, by comparing (`pattern.rs`) and then by reading it: what a text's own place holds would have to come from
//! cold memory.

use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::functions::Functions;
use super::lexer::Lexing;
use super::pattern::Patterns;
use super::shape::{is_shared, shape};
use super::{Verdict, classify};

/// Verdicts that one set may hold.
const WAYS: usize = 4;
/// So many texts that were known by their shapes alone, and shapes are looked for first.
const NOVEL: u8 = 8;

/// A bounded cache of verdicts, by text and by shape (`shape.rs`). Both are compared in full. Not shared between threads.
#[derive(Debug)]
pub struct ClassCache {
    texts: Table,
    shapes: Table,
    patterns: Patterns,
    /// Room for a shape.
    shape: Vec<u8>,
    longest: usize,
    /// Texts since the last that was kept, of those that were known by their shapes alone; no more than [`NOVEL`].
    novel: u8,
    hits: u64,
    misses: u64,
}

/// Verdicts by bytes.
#[derive(Debug)]
struct Table {
    sets: Box<[[Option<Entry>; WAYS]]>,
    heads: Box<[Head]>,
    state: RandomState,
    clock: u64,
}

/// What is looked at first of a set.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    /// A part of the hash of each entry: most that aren't there are told by it alone.
    tags: [u32; WAYS],
    /// The same of those that were seen and not kept, each at its place.
    seen: [u32; WAYS],
}

#[derive(Debug)]
struct Entry {
    functions: u64,
    lexing: Lexing,
    used: u64,
    key: Box<[u8]>,
    verdict: Rc<Verdict>,
}

/// What makes the same bytes another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Under {
    pub(super) functions: u64,
    pub(super) lexing: Lexing,
}

impl ClassCache {
    /// A cache of about `entries` verdicts (rounded up to a power of two, at least four) of texts of at most
    /// `longest` bytes, and as many of shapes.
    pub fn new(entries: usize, longest: usize) -> Self {
        let (texts, shapes, patterns) = (Table::new(entries), Table::new(entries), Patterns::new());
        Self { texts, shapes, patterns, shape: Vec::new(), longest, novel: 0, hits: 0, misses: 0 }
    }

    /// The verdict on `text`, from the cache or by [`classify`]. A hit allocates nothing.
    pub fn classify(&mut self, text: &[u8], lexing: &Lexing, functions: &Functions) -> Rc<Verdict> {
        self.classify_with(text, lexing, functions.fingerprint(), || classify(text, lexing, functions))
    }

    /// The same, of functions with this fingerprint; `classify` is asked where the cache doesn't know.
    pub fn classify_with(
        &mut self,
        text: &[u8],
        lexing: &Lexing,
        functions: u64,
        classify: impl FnOnce() -> Verdict,
    ) -> Rc<Verdict> {
        let under = Under { functions, lexing: *lexing };
        let brief = text.len() <= self.longest;
        let looked_at = is_looked_at(self.hits);
        let shape_first = self.novel == NOVEL && !looked_at;
        if shape_first && let Some(verdict) = self.patterns.find(text, under) {
            self.hits += 1;
            return verdict;
        }
        if brief
            && !shape_first
            && let Some(verdict) = self.texts.get(text, under)
        {
            self.hits += 1;
            // A text that was looked for to see whether some come again: they do.
            self.novel = if self.novel == NOVEL { 0 } else { self.novel };
            return verdict;
        }
        let of_shape = shape(text, *lexing, &mut self.shape).then(|| self.shapes.hash(&self.shape, under));
        if let Some(hash) = of_shape
            && let Some(verdict) = self.shapes.find(hash, &self.shape, under)
        {
            self.hits += 1;
            self.novel = (self.novel + 1).min(NOVEL);
            if brief && looked_at {
                self.texts.offer(self.texts.hash(text, under), text, under, &verdict);
                self.patterns.offer(text, under, &verdict, &mut self.shape);
            }
            return verdict;
        }
        if brief
            && shape_first
            && let Some(verdict) = self.texts.get(text, under)
        {
            self.hits += 1;
            return verdict;
        }
        self.misses += 1;
        let verdict = Rc::new(classify());
        if let Some(hash) = of_shape.filter(|_| is_shared(&verdict)) {
            self.shapes.offer(hash, &self.shape, under, &verdict);
        }
        if brief {
            self.texts.offer(self.texts.hash(text, under), text, under, &verdict);
        }
        verdict
    }

    /// Forgets everything: after DDL, or when the configuration changed.
    pub fn clear(&mut self) {
        self.texts.clear();
        self.shapes.clear();
        self.patterns.clear();
    }

    /// How often a verdict was found, and how often it wasn't.
    pub fn counts(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }
}

impl Table {
    fn new(entries: usize) -> Self {
        let sets = entries.div_ceil(WAYS).max(1).next_power_of_two();
        Self {
            sets: std::iter::repeat_with(|| [const { None }; WAYS]).take(sets).collect(),
            heads: vec![Head::default(); sets].into(),
            state: RandomState::default(),
            clock: 0,
        }
    }

    fn hash(&self, key: &[u8], under: Under) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write_u64(under.functions);
        hasher.write(key);
        hasher.finish()
    }

    fn get(&mut self, key: &[u8], under: Under) -> Option<Rc<Verdict>> {
        self.find(self.hash(key, under), key, under)
    }

    fn find(&mut self, hash: u64, key: &[u8], under: Under) -> Option<Rc<Verdict>> {
        let (place, tag) = (hash as usize & (self.sets.len() - 1), tag(hash));
        for way in 0..WAYS {
            if self.heads[place].tags[way] == tag
                && let Some(entry) = &mut self.sets[place][way]
                && entry.functions == under.functions
                && entry.lexing == under.lexing
                && *entry.key == *key
            {
                self.clock += 1;
                entry.used = self.clock;
                return Some(Rc::clone(&entry.verdict));
            }
        }
        None
    }

    /// Keeps a verdict if its key comes the second time, in the place of the one that was used longest ago.
    fn offer(&mut self, hash: u64, key: &[u8], under: Under, verdict: &Rc<Verdict>) {
        let (place, tag) = (hash as usize & (self.sets.len() - 1), tag(hash));
        let way = (hash >> 29) as usize % WAYS;
        if std::mem::replace(&mut self.heads[place].seen[way], tag) != tag {
            return;
        }
        self.clock += 1;
        let entry = Entry {
            functions: under.functions,
            lexing: under.lexing,
            used: self.clock,
            key: key.into(),
            verdict: Rc::clone(verdict),
        };
        let set = &mut self.sets[place];
        let used = |way: &usize| set[*way].as_ref().map_or(0, |entry| entry.used);
        if let Some(way) = (0..WAYS).min_by_key(used) {
            set[way] = Some(entry);
            self.heads[place].tags[way] = tag;
        }
    }

    fn clear(&mut self) {
        self.sets.iter_mut().flatten().for_each(|way| *way = None);
        self.heads.iter_mut().for_each(|head| head.tags = [0; WAYS]);
    }
}

/// Whether this hit of a shape is the one in eight whose text is looked at; in no order that clients could be in step with.
fn is_looked_at(hits: u64) -> bool {
    hits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61 == 0
}

/// The part of a hash that its place doesn't tell; never 0, which stands for nothing.
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32 | 1
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
        assert_eq!(cache.classify(b"select f()", &lexing, &functions).class, Class::Write);
        assert_eq!(cache.texts.sets.iter().flatten().flatten().count(), 0, "kept though it came once");
        let second = cache.classify(b"select f()", &lexing, &functions);
        assert!(Rc::ptr_eq(&second, &cache.classify(b"select f()", &lexing, &functions)));
        let other = functions.clone().with_config(["f"], []);
        assert_eq!(cache.classify(b"select f()", &lexing, &other).class, Class::Read);
        let off = Lexing { standard_conforming_strings: false, ..lexing };
        cache.classify(b"select f()", &off, &functions);
        assert_eq!(cache.counts(), (1, 4));
        cache.clear();
        cache.classify(b"select f()", &lexing, &functions);
        assert_eq!(cache.counts(), (1, 5));
    }

    #[test]
    fn texts_of_one_shape_are_judged_once() {
        let mut cache = ClassCache::new(8, 30);
        let (functions, lexing) = (Functions::builtin(), Lexing::default());
        for number in 0..10 {
            let text = format!("select a from t where n = {number}");
            assert_eq!(cache.classify(text.as_bytes(), &lexing, &functions).class, Class::Read);
        }
        assert_eq!(cache.counts(), (8, 2));
        let often = b"select a from t where n = 7";
        for _ in 0..100 {
            cache.classify(often, &lexing, &functions);
        }
        let texts = |cache: &ClassCache| {
            cache.texts.sets.iter().flatten().flatten().any(|entry| *entry.key == *often)
        };
        assert!(texts(&cache), "one that comes often is kept as it is");
        assert_eq!(cache.counts(), (108, 2));
        // However long the text is.
        let text = format!("select a from t where n = {}", "5".repeat(100));
        cache.classify(text.as_bytes(), &lexing, &functions);
        assert_eq!(cache.counts(), (109, 2));
        for number in 0..10 {
            let text = format!("select current_setting('work_mem') where {number} = 0");
            cache.classify(text.as_bytes(), &lexing, &functions);
        }
        assert_eq!(cache.counts(), (109, 12));
        assert_eq!(cache.shapes.sets.iter().flatten().flatten().count(), 1);
    }

    #[test]
    fn texts_that_differ_in_their_values_alone_are_told_by_comparing() {
        let mut cache = ClassCache::new(8, 100);
        let (functions, lexing) = (Functions::builtin(), Lexing::default());
        let classify =
            |cache: &mut ClassCache, text: String| cache.classify(text.as_bytes(), &lexing, &functions).class;
        for number in 0..100 {
            assert_eq!(classify(&mut cache, format!("select a from t where n = {number}")), Class::Read);
        }
        let under = Under { functions: functions.fingerprint(), lexing };
        assert!(cache.patterns.find(b"select a from t where n = 1000", under).is_some());
        assert_eq!(classify(&mut cache, "select a from t where n = 1000 for update".into()), Class::Write);
        assert_eq!(classify(&mut cache, "select a from t where n = nextval('s')".into()), Class::Write);
        cache.clear();
        assert!(cache.patterns.find(b"select a from t where n = 1000", under).is_none());
    }

    #[test]
    fn it_is_bounded_and_keeps_the_latest() {
        let mut cache = ClassCache::new(4, 20);
        let (functions, lexing) = (Functions::builtin(), Lexing::default());
        for number in 0..100 {
            for _twice in 0..2 {
                cache.classify(format!("select a{number}").as_bytes(), &lexing, &functions);
            }
            cache.classify(b"select kept", &lexing, &functions);
            cache.classify(b"select kept", &lexing, &functions);
        }
        assert!(cache.counts().0 >= 198, "{:?}", cache.counts());
        assert_eq!(cache.texts.sets.iter().flatten().flatten().count(), 4);
        let (long, hits) = ([b'x'; 21], cache.counts().0);
        for _thrice in 0..3 {
            cache.classify(&long, &lexing, &functions);
        }
        assert_eq!(cache.counts().0, hits);
    }
}
