//! Cancel keys of the sessions: which connection a cancel request means.
//!
//! Keys are random and compared in constant time; whether one was right is never told. What a right one does is
//! for the holder of the [`CancelEntry`] to decide.

use std::fmt;
use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use smallvec::SmallVec;
use subtle::ConstantTimeEq;

/// What a cancel request with the right key calls. It must return at once.
pub type Target = Arc<dyn Fn() + Send + Sync>;

/// The random part of a key.
pub type CancelSecret = SmallVec<[u8; 32]>;

/// The keys of all sessions.
#[derive(Default)]
pub struct CancelKeys {
    sessions: DashMap<u32, (CancelSecret, Target), foldhash::fast::RandomState>,
}

/// A session's key; forgotten when dropped.
pub struct CancelEntry {
    keys: Arc<CancelKeys>,
    /// For BackendKeyData.
    pub process_id: u32,
    /// For BackendKeyData: 32 random bytes from protocol 3.2 on, 4 before.
    pub secret: CancelSecret,
}

impl CancelKeys {
    /// A new key for a session that speaks protocol 3.`minor`; a cancel request with it calls `target`.
    pub fn register(self: &Arc<Self>, minor: u16, target: Target) -> CancelEntry {
        let random: [u8; 32] = rand::random();
        let secret = CancelSecret::from_slice(if minor >= 2 { &random[..] } else { &random[..4] });
        loop {
            // As PostgreSQL's: positive, and not told apart from a real one.
            let process_id = rand::random_range(1..=i32::MAX as u32);
            if let Entry::Vacant(place) = self.sessions.entry(process_id) {
                place.insert((secret.clone(), target));
                return CancelEntry { keys: Arc::clone(self), process_id, secret };
            }
        }
    }

    /// Takes up a cancel request.
    pub fn cancel(&self, process_id: u32, secret: &[u8]) {
        let target = self.sessions.get(&process_id).and_then(|session| {
            let (key, target) = session.value();
            bool::from(key.ct_eq(secret)).then(|| Arc::clone(target))
        });
        // Called when the map is no longer locked.
        if let Some(target) = target {
            target();
        }
    }

    /// How many sessions have a key.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session has one.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

impl Drop for CancelEntry {
    fn drop(&mut self) {
        self.keys.sessions.remove(&self.process_id);
    }
}

impl fmt::Debug for CancelKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelKeys").field("sessions", &self.sessions.len()).finish()
    }
}

impl fmt::Debug for CancelEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelEntry").field("process_id", &self.process_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn only_the_right_key_reaches_its_target() {
        let keys = Arc::new(CancelKeys::default());
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let target: Target = Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let (new, old) = (keys.register(2, Arc::clone(&target)), keys.register(0, target));
        assert_eq!((new.secret.len(), old.secret.len(), keys.len()), (32, 4, 2));

        keys.cancel(new.process_id, &old.secret);
        keys.cancel(new.process_id, &new.secret[..4]);
        keys.cancel(old.process_id, &[]);
        keys.cancel(0, &new.secret);
        assert_eq!(calls.load(Ordering::Relaxed), 0);
        keys.cancel(new.process_id, &new.secret);
        assert_eq!(calls.load(Ordering::Relaxed), 1);

        let (process_id, secret) = (old.process_id, old.secret.clone());
        drop(old);
        keys.cancel(process_id, &secret);
        assert_eq!((calls.load(Ordering::Relaxed), keys.len()), (1, 1));
    }
}
