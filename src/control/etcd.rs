//! Patroni's keys as etcd has them: listed, then watched from the revision after, and held to account.
//!
//! One endpoint at a time serves the list, the watch and a linearizable read every `etcd_check` that is compared with what the
//! watch told. Whatever goes wrong (an error, silence, a compaction, an answer from the past) ends in a new list at the next
//! endpoint, and the list tells the difference. Knows no member and no role.

mod access;
mod seen;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, GetOptions, GetResponse, KvClient, WatchOptions, WatchResponse};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::driver::Event;
use super::error::Error;
use crate::config::EtcdSource;
use crate::topology::KeysChange;
use crate::topology::patroni::{self, KeyChange};
use access::Access;
use seen::{Header, Seen};

/// Between rounds over all endpoints, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What ended one endpoint's service.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Etcd(#[from] etcd_client::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("the watch ended")]
    Ended,
    #[error("the watch was canceled: {0}")]
    Canceled(String),
    #[error("revisions up to {0} were compacted")]
    Compacted(i64),
    #[error("the watch is silent about changes that a read shows")]
    Silent,
    #[error("{0}")]
    Refused(&'static str),
    #[error("{0}")]
    Setup(#[from] Error),
    #[error("nobody listens")]
    Stopping,
}

/// Follows one scope.
#[derive(Debug)]
pub(super) struct Follower {
    access: Access,
    prefix: String,
    check_interval: Duration,
    seen: Seen,
    events: mpsc::Sender<Event>,
}

impl Follower {
    /// For this source; what it finds goes to `events`.
    pub(super) fn new(source: &EtcdSource, events: mpsc::Sender<Event>) -> Result<Self, Error> {
        Ok(Self {
            access: Access::new(source)?,
            prefix: patroni::prefix(&source.namespace, &source.scope),
            check_interval: source.check_interval,
            seen: Seen::default(),
            events,
        })
    }

    /// Runs until it is dropped, or nobody listens.
    pub(super) async fn run(mut self) {
        // Endpoints in a row at which not even a list could be had.
        let mut failed = 0;
        let mut pause = PAUSE.0;
        let mut turn = 0;
        loop {
            let endpoint = self.access.endpoint(turn);
            let mut listed = false;
            let trouble = match self.follow(&endpoint, &mut listed).await {
                Ok(never) => match never {},
                Err(Trouble::Stopping) => return,
                Err(trouble) => trouble,
            };
            // Nothing is wrong with an endpoint that has compacted.
            if !matches!(trouble, Trouble::Compacted(_)) {
                turn += 1;
            }
            if listed {
                tracing::warn!(%endpoint, "etcd: {trouble}; listing again");
                (failed, pause) = (0, PAUSE.0);
                sleep(pause).await;
                continue;
            }
            failed += 1;
            tracing::debug!(%endpoint, failed, "etcd: {trouble}");
            if failed % self.access.len() != 0 {
                continue;
            }
            if failed == self.access.len() {
                tracing::warn!(%endpoint, "etcd: no endpoint answers: {trouble}");
            }
            if self.events.send(Event::EtcdLost).await.is_err() {
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Lists and watches at one endpoint until something is wrong.
    async fn follow(&mut self, endpoint: &Arc<str>, listed: &mut bool) -> Result<Infallible, Trouble> {
        let limit = self.access.timeout();
        let client = timeout(limit, self.access.connect(endpoint)).await.map_err(|_| Trouble::Timeout)??;
        let question = Question {
            kv: client.kv_client(),
            prefix: self.prefix.clone(),
            every: self.check_interval,
            limit,
        };
        let list = question.ask().await?;
        let revision = self.take_list(&list).await?;
        *listed = true;
        tracing::info!(%endpoint, revision, keys = list.kvs().len(), "etcd: keys listed");

        let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let mut client = client.watch_client();
        let opened = client.watch(self.prefix.clone(), Some(options));
        let mut watch = timeout(limit, opened).await.map_err(|_| Trouble::Timeout)??;
        let mut account = pin!(question.ask_later());
        loop {
            tokio::select! {
                message = watch.message() => {
                    self.take_events(&message?.ok_or(Trouble::Ended)?).await?;
                }
                list = &mut account => {
                    self.hold_to_account(&list?).await?;
                    account.set(question.ask_later());
                }
            }
        }
    }

    /// Hands all keys on.
    async fn take_list(&mut self, list: &GetResponse) -> Result<i64, Trouble> {
        let header = Header::of(list.header()).ok_or(Trouble::Refused("an answer without a header"))?;
        self.seen.take_read(header).map_err(Trouble::Refused)?;
        self.seen.list(list.kvs().iter().map(|kv| (kv.key(), kv.mod_revision())));
        let all = list.kvs().iter();
        let all = all.filter_map(|kv| self.change(kv.key(), Some(kv.value()))).collect();
        self.tell(KeysChange::All(all), header.revision).await?;
        Ok(header.revision)
    }

    /// Hands what the watch tells on, one change a revision.
    async fn take_events(&mut self, message: &WatchResponse) -> Result<(), Trouble> {
        if message.compact_revision() > 0 {
            return Err(Trouble::Compacted(message.compact_revision()));
        }
        if message.canceled() {
            return Err(Trouble::Canceled(message.cancel_reason().to_owned()));
        }
        if let Some(header) = Header::of(message.header()) {
            self.seen.compare_watch(header).map_err(Trouble::Refused)?;
        }
        let mut revision = 0;
        let mut changes = Vec::new();
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            if kv.mod_revision() != revision && !changes.is_empty() {
                self.tell(KeysChange::Some(std::mem::take(&mut changes)), revision).await?;
            }
            revision = kv.mod_revision();
            let deleted = event.event_type() == EventType::Delete;
            self.seen.event(kv.key(), revision, deleted);
            changes.extend(self.change(kv.key(), (!deleted).then(|| kv.value())));
        }
        if changes.is_empty() { Ok(()) } else { self.tell(KeysChange::Some(changes), revision).await }
    }

    /// Compares a linearizable read with what the watch told. What the watch has not told yet counts at once; a watch that
    /// hasn't told it by the next read either is given up.
    async fn hold_to_account(&mut self, list: &GetResponse) -> Result<(), Trouble> {
        if self.seen.overdue() {
            return Err(Trouble::Silent);
        }
        let header = Header::of(list.header()).ok_or(Trouble::Refused("an answer without a header"))?;
        if self.seen.differs(header, list.kvs().iter().map(|kv| (kv.key(), kv.mod_revision()))) {
            self.take_list(list).await?;
            self.seen.expect_events();
            return Ok(());
        }
        self.seen.take_read(header).map_err(Trouble::Refused)
    }

    fn change(&self, key: &[u8], value: Option<&[u8]>) -> Option<KeyChange> {
        // No key of Patroni's is other than UTF-8.
        let key = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        Some(KeyChange { key: key.to_owned(), value: value.map(<[u8]>::to_vec) })
    }

    async fn tell(&self, change: KeysChange, revision: i64) -> Result<(), Trouble> {
        self.events.send(Event::Keys(change, revision)).await.map_err(|_| Trouble::Stopping)
    }
}

/// The linearizable read of all keys.
struct Question {
    kv: KvClient,
    prefix: String,
    every: Duration,
    limit: Duration,
}

impl Question {
    async fn ask(&self) -> Result<GetResponse, Trouble> {
        let mut kv = self.kv.clone();
        let read = kv.get(self.prefix.clone(), Some(GetOptions::new().with_prefix()));
        Ok(timeout(self.limit, read).await.map_err(|_| Trouble::Timeout)??)
    }

    async fn ask_later(&self) -> Result<GetResponse, Trouble> {
        sleep(self.every).await;
        self.ask().await
    }
}
