//! How many connections there are of each address, user and database.

use std::hash::Hash;
use std::sync::Arc;

use dashmap::DashMap;

/// Counts by name; a name of nobody is forgotten.
#[derive(Debug)]
pub(super) struct Tally<K: Eq + Hash = Arc<str>>(DashMap<K, u32, foldhash::fast::RandomState>);

/// One of them; counts down when dropped.
#[derive(Debug)]
pub(super) struct Counted<K: Eq + Hash = Arc<str>> {
    tally: Arc<Tally<K>>,
    name: K,
}

impl<K: Eq + Hash + Clone> Tally<K> {
    /// Counts one more; none when that is over the limit.
    pub(super) fn count(self: &Arc<Self>, name: &K, limit: Option<u32>) -> Option<Counted<K>> {
        let mut count = self.0.entry(name.clone()).or_default();
        let within = limit.is_none_or(|limit| *count < limit);
        *count += 1;
        // Its lock is needed for what is dropped below.
        drop(count);
        let counted = Counted { tally: Arc::clone(self), name: name.clone() };
        within.then_some(counted)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl<K: Eq + Hash> Default for Tally<K> {
    fn default() -> Self {
        Self(DashMap::default())
    }
}

impl<K: Eq + Hash> Drop for Counted<K> {
    fn drop(&mut self) {
        self.tally.0.remove_if_mut(&self.name, |_, count| {
            *count -= 1;
            *count == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_nobody_is_remembered() {
        let (tally, alice) = (Arc::new(Tally::default()), Arc::<str>::from("alice"));
        let first = tally.count(&alice, Some(1)).unwrap();
        assert!(tally.count(&alice, Some(1)).is_none());
        let second = tally.count(&alice, Some(2)).unwrap();
        drop(first);
        assert!(tally.count(&alice, Some(1)).is_none(), "one that was refused was counted down once");
        assert!(tally.count(&Arc::from("bob"), Some(0)).is_none());
        assert_eq!(tally.len(), 1);
        drop(second);
        assert_eq!(tally.len(), 0);
    }
}
