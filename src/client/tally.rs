//! How many sessions there are of each user and in each database.

use std::sync::Arc;

use dashmap::DashMap;

/// Counts by name; a name of nobody is forgotten.
#[derive(Debug, Default)]
pub(super) struct Tally(DashMap<Arc<str>, u32, foldhash::fast::RandomState>);

/// One session; counts down when dropped.
#[derive(Debug)]
pub(super) struct Counted {
    tally: Arc<Tally>,
    name: Arc<str>,
}

impl Tally {
    /// Counts one more; none when that is over the limit.
    pub(super) fn count(self: &Arc<Self>, name: &Arc<str>, limit: Option<u32>) -> Option<Counted> {
        let mut count = self.0.entry(Arc::clone(name)).or_default();
        let within = limit.is_none_or(|limit| *count < limit);
        *count += 1;
        // Its lock is needed for what is dropped below.
        drop(count);
        let counted = Counted { tally: Arc::clone(self), name: Arc::clone(name) };
        within.then_some(counted)
    }

    #[cfg(test)]
    pub(super) fn names(&self) -> usize {
        self.0.len()
    }
}

impl Drop for Counted {
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
        let (tally, alice) = (Arc::new(Tally::default()), Arc::from("alice"));
        let first = tally.count(&alice, Some(1)).unwrap();
        assert!(tally.count(&alice, Some(1)).is_none());
        let second = tally.count(&alice, Some(2)).unwrap();
        drop(first);
        assert!(tally.count(&alice, Some(1)).is_none(), "one that was refused was counted down once");
        assert!(tally.count(&Arc::from("bob"), Some(0)).is_none());
        assert_eq!(tally.names(), 1);
        drop(second);
        assert_eq!(tally.names(), 0);
    }
}
