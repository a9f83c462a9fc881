//! What was learnt of one database's statements: those that a replica refused, by their normalised text.
//!
//! Immutable: each lesson makes another table, so that readers need no lock. Time is counted in seconds of the Unix epoch.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use foldhash::fast::FixedState;

/// One kind of statement that writes although its text doesn't show it.
#[derive(Debug)]
pub struct Lesson {
    /// Its normalised text, as far as it is kept.
    pub text: Box<str>,
    /// When it was first refused, in seconds.
    pub since: u64,
    /// How often a replica refused it or it was recognised in a text not seen before.
    pub count: AtomicU64,
    number: u64,
}

/// The lessons, by fingerprint of the whole normalised text.
#[derive(Debug, Clone, Default)]
pub struct Learnt {
    lessons: HashMap<u128, Arc<Lesson>, FixedState>,
    next: u64,
}

impl Learnt {
    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.lessons.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lessons.len()
    }

    /// Whether statements of this fingerprint are known to write; counts it.
    pub fn recall(&self, print: u128) -> bool {
        let lesson = self.lessons.get(&print);
        if let Some(lesson) = lesson {
            lesson.count.fetch_add(1, Relaxed);
        }
        lesson.is_some()
    }

    /// The same with one more, which was refused now; at most `limit`, the oldest goes. None if it is known already or there is
    /// no room at all.
    #[must_use]
    pub fn with(&self, print: u128, text: impl FnOnce() -> Box<str>, now: u64, limit: usize) -> Option<Self> {
        if self.recall(print) || limit == 0 {
            return None;
        }
        let mut more = self.clone();
        while more.lessons.len() >= limit {
            let oldest =
                more.lessons.iter().min_by_key(|(_, lesson)| lesson.number).map(|(print, _)| *print)?;
            more.lessons.remove(&oldest);
        }
        let lesson = Lesson { text: text(), since: now, count: AtomicU64::new(1), number: more.next };
        more.lessons.insert(print, Arc::new(lesson));
        more.next += 1;
        Some(more)
    }

    /// All of them, the latest first.
    pub fn lessons(&self) -> Vec<Arc<Lesson>> {
        let mut all: Vec<_> = self.lessons.values().map(Arc::clone).collect();
        all.sort_by_key(|lesson| std::cmp::Reverse(lesson.number));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(learnt: &Learnt) -> Vec<String> {
        learnt.lessons().iter().map(|lesson| lesson.text.to_string()).collect()
    }

    #[test]
    fn the_oldest_goes_and_what_comes_again_is_counted() {
        let mut learnt = Learnt::default();
        assert!(learnt.is_empty() && !learnt.recall(1));
        for print in 1..=3_u128 {
            learnt = learnt.with(print, || format!("text {print}").into(), 100 + print as u64, 2).unwrap();
        }
        assert_eq!(texts(&learnt), ["text 3", "text 2"]);
        assert!(!learnt.recall(1) && learnt.recall(2));
        assert!(learnt.with(2, || unreachable!("it is known"), 200, 2).is_none());
        let second = &learnt.lessons()[1];
        assert_eq!((second.since, second.count.load(Relaxed)), (102, 3));
        assert!(learnt.with(4, Box::default, 200, 0).is_none());
    }
}
