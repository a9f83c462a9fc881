//! PAUSE: sessions of a database begin nothing new until it is resumed; what is open goes on.
//!
//! Nothing of a batch that waits here was sent. It waits as one that waits for a primary does: up to `failover.hold`, and within
//! the limits on how many sessions and bytes may wait.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::acquire::{Attempt, Failure, Woken, cancelled};
use super::holding::Holding;
use super::shown::Wait;
use super::state::Tx;
use super::{Ended, Session};
use crate::wire::SqlState;

/// The databases that are paused.
#[derive(Debug, Default)]
pub struct Pauses {
    /// Whether any is: all that is looked at where nothing is paused.
    any: AtomicBool,
    state: ArcSwap<State>,
    /// One console changes it at a time, so that the two above agree.
    changing: Mutex<()>,
    resumed: Notify,
}

#[derive(Debug, Clone, Default)]
struct State {
    all: bool,
    databases: BTreeSet<Arc<str>>,
}

impl Pauses {
    /// Whether anything is paused: one atomic load.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Whether everything is.
    pub fn all(&self) -> bool {
        self.state.load().all
    }

    /// Whether `database` is, by itself or with all others.
    pub fn holds(&self, database: &str) -> bool {
        self.any() && {
            let state = self.state.load();
            state.all || state.databases.contains(database)
        }
    }

    /// Those paused by name.
    pub fn databases(&self) -> Vec<Arc<str>> {
        self.state.load().databases.iter().cloned().collect()
    }

    /// Pauses a database, or with none all; false if that is paused already.
    pub fn pause(&self, database: Option<&str>) -> bool {
        self.change(|state| match database {
            None => !std::mem::replace(&mut state.all, true),
            Some(name) => state.databases.insert(name.into()),
        })
    }

    /// Resumes a database, or with none all, those paused by name too; false if nothing of that was paused.
    pub fn resume(&self, database: Option<&str>) -> bool {
        let resumed = self.change(|state| match database {
            None => {
                let before = std::mem::take(state);
                before.all || !before.databases.is_empty()
            }
            Some(name) => state.databases.remove(name),
        });
        self.resumed.notify_waiters();
        resumed
    }

    /// Takes back what [`Self::pause`] did, and nothing else.
    pub fn take_back(&self, database: Option<&str>) {
        self.change(|state| match database {
            None => std::mem::take(&mut state.all),
            Some(name) => state.databases.remove(name),
        });
        self.resumed.notify_waiters();
    }

    fn change(&self, change: impl Fn(&mut State) -> bool) -> bool {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::clone(&self.state.load());
        let changed = change(&mut state);
        let any = state.all || !state.databases.is_empty();
        self.state.store(Arc::new(state));
        self.any.store(any, Ordering::SeqCst);
        changed
    }
}

impl Session {
    /// Whether the session may begin nothing new for now.
    pub(super) fn is_paused(&self) -> bool {
        let pauses = &self.worker.shared.pauses;
        pauses.any()
            && matches!(self.tx, Tx::Idle | Tx::Deferred { .. })
            && !self.open_batch
            && pauses.holds(&self.pools.identity.database)
    }

    /// Waits until the database is resumed.
    pub(super) async fn wait_while_paused(
        &mut self,
        attempt: &mut Attempt,
        bytes: usize,
    ) -> Result<Result<(), Failure>, Ended> {
        let shared = Arc::clone(&self.worker.shared);
        let limits = &shared.config.failover;
        let place = Holding::enter(&shared, bytes);
        if place.is_one_too_many() {
            let message = "too many sessions wait for a paused database or a primary";
            return Ok(Err(Failure::Own(SqlState::TOO_MANY_CONNECTIONS, message.into())));
        }
        let deadline = attempt.began() + limits.hold.unwrap_or(self.worker.topology().hold);
        self.wait_begins(Wait::Resume, Instant::now());
        let outcome = loop {
            // Made before the look: a RESUME between the two is not missed.
            let mut resumed = pin!(shared.pauses.resumed.notified());
            if !self.is_paused() {
                break Ok(Ok(()));
            }
            self.handle.want_topology();
            let wait = poll_fn(|cx| match resumed.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Ok(Woken::Topology)),
                Poll::Pending => self.poll_wait(cx, false),
            });
            match tokio::time::timeout_at(deadline.into(), wait).await {
                Ok(Ok(Woken::Cancelled)) => break Ok(Err(cancelled())),
                Ok(Ok(Woken::Topology | Woken::Backend(_))) => {}
                Ok(Err(ended)) => break Err(ended),
                Err(_elapsed) => {
                    let (database, waited) = (&self.pools.identity.database, attempt.began().elapsed());
                    let message = format!(
                        "database \"{database}\" has been paused for {} s; try again later",
                        waited.as_secs()
                    );
                    break Ok(Err(Failure::Own(SqlState::CANNOT_CONNECT_NOW, message)));
                }
            }
        };
        self.wait_ends();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_all_are_paused_and_resumed() {
        let pauses = Pauses::default();
        assert!(!pauses.any() && !pauses.holds("app"));
        assert!(pauses.pause(Some("app")));
        assert!(!pauses.pause(Some("app")), "it is already");
        assert!(pauses.holds("app") && !pauses.holds("other"));
        assert!(!pauses.resume(Some("other")));
        assert!(pauses.pause(None) && !pauses.pause(None));
        assert!(pauses.holds("other") && pauses.all());
        // Resumed by name, it is still paused with all.
        assert!(pauses.resume(Some("app")) && pauses.holds("app"));
        assert!(pauses.pause(Some("app")) && pauses.resume(None));
        assert!(!pauses.any() && !pauses.holds("app") && !pauses.resume(None));
        assert!(pauses.pause(None) && pauses.pause(Some("app")));
        pauses.take_back(None);
        assert!(!pauses.all() && pauses.holds("app") && pauses.databases() == ["app".into()]);
    }
}
