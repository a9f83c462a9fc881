//! Texts of one shape, told without being read: what stands between the values is compared with a text that was read.
//!
//! A text of the same bytes around its values, and with a number where the other has one and a string where it has one, has the same shape
//! (`shape.rs`): nothing outside of a value is read otherwise for what the values are.

use std::rc::Rc;

use super::Verdict;
use super::cache::Under;
use super::shape::{number, quoted, shape_and_values, word};

/// Patterns that one set may hold.
const WAYS: usize = 2;
/// Sets.
const SETS: usize = 64;
/// More values than that, and a text becomes no pattern.
const MOST_VALUES: usize = 64;

/// A few patterns, by how their texts begin and how long they are.
#[derive(Debug)]
pub(super) struct Patterns {
    sets: Box<[[Option<Pattern>; WAYS]]>,
}

#[derive(Debug)]
struct Pattern {
    under: Under,
    text: Box<[u8]>,
    /// Where its values begin and end.
    values: Box<[(u32, u32)]>,
    verdict: Rc<Verdict>,
}

impl Patterns {
    pub(super) fn new() -> Self {
        Self { sets: std::iter::repeat_with(|| [const { None }; WAYS]).take(SETS).collect() }
    }

    /// The verdict on a text of the same shape.
    pub(super) fn find(&mut self, text: &[u8], under: Under) -> Option<Rc<Verdict>> {
        let set = &mut self.sets[place(text)];
        let fits = |known: &Option<Pattern>| {
            known.as_ref().is_some_and(|known| known.under == under && known.fits(text))
        };
        let way = set.iter().position(fits)?;
        // The last place is the next to be given up.
        set.swap(0, way);
        set[0].as_ref().map(|known| Rc::clone(&known.verdict))
    }

    /// Keeps a text that has a shape, and the verdict on all texts of that shape, unless one of its shape is here.
    pub(super) fn offer(&mut self, text: &[u8], under: Under, verdict: &Rc<Verdict>, room: &mut Vec<u8>) {
        if self.find(text, under).is_some() {
            return;
        }
        let mut values = Vec::new();
        let has_one =
            shape_and_values(text, under.lexing, room, |from, to| values.push((from as u32, to as u32)));
        if has_one && values.len() <= MOST_VALUES {
            let pattern =
                Pattern { under, text: text.into(), values: values.into(), verdict: Rc::clone(verdict) };
            self.sets[place(text)][WAYS - 1] = Some(pattern);
        }
    }

    pub(super) fn clear(&mut self) {
        self.sets.iter_mut().flatten().for_each(|way| *way = None);
    }
}

impl Pattern {
    fn fits(&self, text: &[u8]) -> bool {
        let (mut at, mut from) = (0, 0);
        for &(start, end) in &self.values {
            let (start, end) = (start as usize, end as usize);
            let between = &self.text[from..start];
            if !text[at..].starts_with(between) {
                return false;
            }
            at += between.len();
            let value = match text.get(at) {
                Some(b'\'') if self.text[start] == b'\'' => quoted(text, at),
                Some(b'0'..=b'9') if self.text[start] != b'\'' => number(text, at, word(text, at)),
                _ => None,
            };
            let Some(behind) = value else { return false };
            (at, from) = (behind, end);
        }
        text[at..] == self.text[from..]
    }
}

/// The set of a text. Texts that differ in a few values mostly share it.
fn place(text: &[u8]) -> usize {
    let begins = text.first_chunk().map_or(0, |chunk| u64::from_ne_bytes(*chunk));
    let mixed = (begins ^ (text.len() as u64 / 32) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize % SETS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::lexer::{Encoding, Lexing};
    use super::super::shape::shape;
    use super::super::{Functions, classify};
    use super::*;

    const UNDER: Under = Under {
        functions: 1,
        lexing: Lexing { standard_conforming_strings: true, encoding: Encoding::AsciiSafe },
    };

    fn shape_of(text: &str) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        shape(text.as_bytes(), UNDER.lexing, &mut out).then_some(out)
    }

    fn patterns_with(text: &str) -> Patterns {
        let mut patterns = Patterns::new();
        let verdict = Rc::new(classify(text.as_bytes(), &UNDER.lexing, &Functions::builtin()));
        patterns.offer(text.as_bytes(), UNDER, &verdict, &mut Vec::new());
        patterns
    }

    fn fits(known: &str, text: &str) -> bool {
        let patterns = patterns_with(known);
        patterns.sets.iter().flatten().flatten().any(|pattern| pattern.fits(text.as_bytes()))
    }

    #[test]
    fn values_may_differ_and_nothing_else() {
        let known = "select a5 from t where x = 'y' and n in (1, 2.5) limit 10";
        assert!(fits(known, known));
        assert!(fits(known, "select a5 from t where x = 'it''s, 5' and n in (12345, 0) limit 1"));
        for other in [
            "select a6 from t where x = 'y' and n in (1, 2.5) limit 10",
            "select a5 from t where x = 5 and n in (1, 2.5) limit 10",
            "select a5 from t where x = 'y' and n in ('1', 2.5) limit 10",
            "select a5 from t where x = 'y' and n in (1, 2.5) limit 10 ",
            "select a5 from t where x = 'y' and n in (1, 2.5) limit ",
            "select a5 from t where x = 'y' and n in (1, 2.5.1) limit 10",
            "select a5 from t where x = 'y' and n in (1e5, 2.5) limit 10",
            "select a5 from t where x = 'y' and n in (1, 2.5) limit 10a",
            "select a5 from t where x = 'y and n in (1, 2.5) limit 10",
            "",
        ] {
            assert!(!fits(known, other), "{other}");
        }
        assert!(!fits("select a", "select a"), "no values, no pattern");
    }

    #[test]
    fn a_set_keeps_what_is_found() {
        let (mut patterns, room) = (patterns_with("select 1 as a"), &mut Vec::new());
        let found = |patterns: &mut Patterns, text: &str| patterns.find(text.as_bytes(), UNDER).is_some();
        let verdict = Rc::new(classify(b"select 1", &UNDER.lexing, &Functions::builtin()));
        assert!(found(&mut patterns, "select 2 as a"));
        for other in ["select 1 as b", "select 1 as c", "select 1 as d"] {
            patterns.offer(other.as_bytes(), UNDER, &verdict, room);
        }
        assert!(found(&mut patterns, "select 3 as a") && found(&mut patterns, "select 3 as d"));
        assert!(!found(&mut patterns, "select 3 as c"));
        assert!(found(&mut patterns, "select 4 as a"));
        patterns.offer(b"select 4 as a", UNDER, &verdict, room);
        assert!(found(&mut patterns, "select 3 as d"), "what is known needs no second place");
        assert!(patterns.find(b"select 3 as d", Under { functions: 2, ..UNDER }).is_none());
        patterns.clear();
        assert!(!found(&mut patterns, "select 3 as a"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// Whatever a pattern fits has the pattern's shape.
        #[test]
        fn what_fits_has_the_same_shape(
            known in "([a5.,' \"$/e-]|12|'b')([a5.,' \"e-]|12|'b'){0,12}",
            text in "([a5.,' \"$/e-]|12|'b')([a5.,' \"e-]|12|'b'){0,12}",
            at in any::<prop::sample::Index>(),
            value in prop::sample::select(vec!["7", "'c'", "0.5", "5.", "'", "''", "1e", "x"]),
        ) {
            // The known one with something put in the place of one of its bytes, too: that fits oftener.
            let place = at.index(known.len());
            let changed = format!("{}{value}{}", &known[..place], &known[place + 1..]);
            for text in [text, changed] {
                if fits(&known, &text) {
                    prop_assert_eq!(shape_of(&known), shape_of(&text));
                }
            }
        }
    }
}
