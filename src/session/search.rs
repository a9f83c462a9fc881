//! `vector.settings`: settings that hold for vector searches alone, unless the session has set its own.
//!
//! Outside of a transaction they are part of what the backend is brought in line with for the one statement; the next statement finds
//! them different and puts them back, both in the same flight as the statement. In a transaction they are SET LOCAL before its
//! first search, and end with it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use super::acquire::{Failure, Woken, cancelled};
use super::shown::Wait;
use super::state::Tx;
use super::{Ended, Session};
use crate::backend::Settings;
use crate::backend::settings::literal;
use crate::wire::TxStatus;

/// How long a search waits at most before it looks for a place again.
const SEARCH_WAIT: std::time::Duration = std::time::Duration::from_millis(100);

impl Session {
    /// The settings that the backend is to have for the batch at hand.
    pub(super) fn wanted_settings(&mut self, search: bool) -> Arc<Settings> {
        let vector = &self.worker.shared.config.vector.settings;
        if !search || vector.is_empty() || !matches!(self.tx, Tx::Idle) || self.open_batch {
            return Arc::clone(&self.settings);
        }
        if let Some((of, with)) = &self.search_settings
            && Arc::ptr_eq(of, &self.settings)
        {
            return Arc::clone(with);
        }
        let mut with = Settings::clone(&self.settings);
        for (name, value) in vector {
            if with.statement(name).is_none() {
                with.set(name, literal(value).as_bytes());
            }
        }
        let with = Arc::new(with);
        self.search_settings = Some((Arc::clone(&self.settings), Arc::clone(&with)));
        with
    }

    /// SET LOCAL for the first search of an open transaction; none if there is nothing to set, or now is no time to.
    pub(super) fn local_search_settings(&mut self) -> Option<Vec<u8>> {
        let vector = &self.worker.shared.config.vector.settings;
        let status = self.lease.as_ref()?.status;
        if vector.is_empty() || self.open_batch || status != TxStatus::Open {
            return None;
        }
        let Tx::Open { searched, .. } = &mut self.tx else { return None };
        if std::mem::replace(searched, true) {
            return None;
        }
        let mut sql = Vec::new();
        for (name, value) in vector.iter().filter(|(name, _)| self.settings.statement(name).is_none()) {
            sql.extend_from_slice(format!("SET LOCAL {name} TO {};", literal(value)).as_bytes());
        }
        (!sql.is_empty()).then_some(sql)
    }

    /// All replicas that may serve a search have as many as they may: waits for one to end.
    pub(super) async fn wait_for_search(&mut self) -> Result<Result<(), Failure>, Ended> {
        let shared = std::sync::Arc::clone(&self.worker.shared);
        let mut ended = std::pin::pin!(shared.search_ended.notified());
        self.wait_begins(Wait::Search, Instant::now());
        let wait = poll_fn(|cx| {
            if ended.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(Woken::Topology));
            }
            self.poll_wait(cx, false)
        });
        // Woken at the latest after a moment: a place that another took is looked for again.
        let woken = tokio::time::timeout(SEARCH_WAIT, wait).await;
        self.wait_ends();
        match woken {
            Ok(woken) => Ok(match woken? {
                Woken::Cancelled => Err(cancelled()),
                Woken::Backend(_) | Woken::Topology => Ok(()),
            }),
            Err(_elapsed) => Ok(Ok(())),
        }
    }
}
