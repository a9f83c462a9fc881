//! PostgreSQL's keywords and how a word is found among them.

pub(super) use super::keywords_table::Keyword;
use super::keywords_table::{CATEGORIES, COUNT, WORDS};

/// What the grammar lets a keyword be (PostgreSQL's manual, "SQL Key Words").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Category {
    /// Unreserved: may be any name.
    U,
    /// Not a function's or a type's name: with a parenthesis it is the grammar's own construct.
    C,
    /// A function's or a type's name, but no column's.
    T,
    /// Reserved: no name at all, but behind AS.
    R,
}

macro_rules! keywords {
    ($($variant:ident $word:literal $category:ident;)*) => {
        /// A keyword.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Keyword { $($variant),* }

        pub(super) const COUNT: usize = WORDS.len();
        pub(super) const WORDS: &[(&str, Keyword)] = &[$(($word, Keyword::$variant)),*];
        pub(super) const CATEGORIES: &[super::keywords::Category] = &[$(super::keywords::Category::$category),*];
    };
}
pub(super) use keywords;

impl Keyword {
    /// The keyword that a word is, in any case.
    #[inline]
    pub(super) fn of(word: &[u8]) -> Option<Self> {
        if word.len() > LONGEST || word.len() < 2 {
            return None;
        }
        let mut folded = [0; PADDED];
        for (to, from) in folded.iter_mut().zip(word) {
            *to = from.to_ascii_lowercase();
        }
        let mut slot = hash(&folded, word.len());
        loop {
            let index = SLOTS[slot];
            if index == EMPTY {
                return None;
            }
            let (candidate, keyword) = WORDS[usize::from(index)];
            if candidate.as_bytes() == &folded[..word.len()] {
                return Some(keyword);
            }
            slot = (slot + 1) % SLOT_COUNT;
        }
    }

    pub(super) fn category(self) -> Category {
        CATEGORIES[self as usize]
    }

    /// The keyword in lower case.
    pub(super) fn word(self) -> &'static str {
        WORDS[self as usize].0
    }

    /// The keyword in capitals.
    pub(super) fn name(self) -> String {
        self.word().to_ascii_uppercase()
    }
}

const SLOT_COUNT: usize = 2048;
const EMPTY: u16 = u16::MAX;
const PADDED: usize = 24;
const LONGEST: usize = {
    let (mut longest, mut index) = (0, 0);
    while index < COUNT {
        if WORDS[index].0.len() > longest {
            longest = WORDS[index].0.len();
        }
        index += 1;
    }
    assert!(longest <= PADDED);
    longest
};

/// The table of slots: a word's index is in the slot of its hash or in one of the next.
static SLOTS: [u16; SLOT_COUNT] = {
    let mut slots = [EMPTY; SLOT_COUNT];
    let mut index = 0;
    while index < COUNT {
        let word = WORDS[index].0.as_bytes();
        let mut folded = [0; PADDED];
        let mut at = 0;
        while at < word.len() {
            folded[at] = word[at];
            at += 1;
        }
        let mut slot = hash(&folded, word.len());
        while slots[slot] != EMPTY {
            slot = (slot + 1) % SLOT_COUNT;
        }
        slots[slot] = index as u16;
        index += 1;
    }
    slots
};

/// A slot from a folded word, padded with zeros: its first eight bytes, its last two and its length.
#[inline]
const fn hash(folded: &[u8; PADDED], length: usize) -> usize {
    let head = match folded.first_chunk() {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => 0,
    };
    let tail = u16::from_le_bytes([folded[length - 2], folded[length - 1]]) as u64;
    let mixed = (head ^ (tail << 40) ^ length as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 53) as usize % SLOT_COUNT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_keyword_is_found() {
        for (word, keyword) in WORDS {
            assert_eq!(Keyword::of(word.as_bytes()), Some(*keyword));
            assert_eq!(Keyword::of(word.to_ascii_uppercase().as_bytes()), Some(*keyword));
            assert_eq!(Keyword::of(format!("{word}x").as_bytes()).map(|k| k == *keyword), None, "{word}");
        }
    }

    #[test]
    fn other_words_are_none() {
        for word in
            ["", "a", "selec", "users", "straße", "current_timestamp_", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"]
        {
            assert_eq!(Keyword::of(word.as_bytes()), None, "{word}");
        }
    }
}
