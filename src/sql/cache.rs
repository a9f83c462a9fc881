//! Verdicts by text, for one worker: a text that comes again is not read again.
//!
//! A text is kept when it comes the second time. One with its values written into it mostly comes once, and keeping it
//! would cost more than reading it: an allocation, and an older verdict thrown out of cold memory.

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
    /// A part of the hash of each entry: most texts that aren't there are told by it alone.
    tags: Box<[[u32; WAYS]]>,
    /// The same of texts that were seen and not kept, each at its place.
    seen: Box<[u32]>,
    state: RandomState,
    longest: usize,
    clock: u64,
    hits: u64,
    misses: u64,
}

#[derive(Debug)]
struct Entry {
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
            tags: vec![[0; WAYS]; sets].into(),
            seen: vec![0; sets * WAYS].into(),
            state: RandomState::default(),
            longest,
            clock: 0,
            hits: 0,
            misses: 0,
        }
    }

    /// The verdict on `text`, from the cache or by [`classify`]. A hit allocates nothing.
    pub fn classify(&mut self, text: &[u8], lexing: &Lexing, functions: &Functions) -> Rc<Verdict> {
        self.classify_with(text, lexing, functions, |_fresh| {})
    }

    /// The same; `recall` is shown a verdict that is not from the cache before it is kept.
    pub fn classify_with(
        &mut self,
        text: &[u8],
        lexing: &Lexing,
        functions: &Functions,
        recall: impl FnOnce(&Verdict),
    ) -> Rc<Verdict> {
        let anew = || {
            let verdict = classify(text, lexing, functions);
            recall(&verdict);
            Rc::new(verdict)
        };
        if text.len() > self.longest {
            self.misses += 1;
            return anew();
        }
        let print = functions.fingerprint();
        let hash = self.hash(text, print);
        self.clock += 1;
        let clock = self.clock;
        let place = hash as usize & (self.sets.len() - 1);
        let tag = tag(hash);
        for way in 0..WAYS {
            if self.tags[place][way] == tag
                && let Some(entry) = &mut self.sets[place][way]
                && entry.functions == print
                && entry.lexing == *lexing
                && *entry.text == *text
            {
                entry.used = clock;
                self.hits += 1;
                return Rc::clone(&entry.verdict);
            }
        }
        self.misses += 1;
        let verdict = anew();
        let at = hash as usize & (self.seen.len() - 1);
        if self.seen[at] == tag {
            self.keep(
                place,
                tag,
                Entry {
                    functions: print,
                    lexing: *lexing,
                    used: clock,
                    text: text.into(),
                    verdict: Rc::clone(&verdict),
                },
            );
        }
        self.seen[at] = tag;
        verdict
    }

    /// Puts an entry in the place of the one that was used longest ago.
    fn keep(&mut self, place: usize, tag: u32, entry: Entry) {
        let set = &mut self.sets[place];
        let used = |way: &usize| set[*way].as_ref().map_or(0, |entry| entry.used);
        if let Some(way) = (0..WAYS).min_by_key(used) {
            set[way] = Some(entry);
            self.tags[place][way] = tag;
        }
    }

    /// Forgets everything: after DDL, or when the configuration changed.
    pub fn clear(&mut self) {
        self.sets.iter_mut().flatten().for_each(|way| *way = None);
        self.tags.fill([0; WAYS]);
    }

    /// How often a text was found, and how often it wasn't.
    pub fn counts(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    fn hash(&self, text: &[u8], print: u64) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write_u64(print);
        hasher.write(text);
        hasher.finish()
    }
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
        assert_eq!(cache.sets.iter().flatten().flatten().count(), 0, "kept though it came once");
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
    fn it_is_bounded_and_keeps_the_latest() {
        let mut cache = ClassCache::new(4, 20);
        let (functions, lexing) = (Functions::builtin(), Lexing::default());
        for number in 0..100 {
            for _twice in 0..2 {
                cache.classify(format!("select {number}").as_bytes(), &lexing, &functions);
            }
            cache.classify(b"select 'kept'", &lexing, &functions);
            cache.classify(b"select 'kept'", &lexing, &functions);
        }
        assert!(cache.counts().0 >= 198, "{:?}", cache.counts());
        assert_eq!(cache.sets.iter().flatten().flatten().count(), 4);
        let (long, hits) = ([b'x'; 21], cache.counts().0);
        for _thrice in 0..3 {
            cache.classify(&long, &lexing, &functions);
        }
        assert_eq!(cache.counts().0, hits);
    }
}
