//! What an operator sees of the sessions and backends of all workers, and what ends them: asked of each worker by mail, a part at a
//! time, so that none is stopped by it however many sessions it has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::handle::{Handle, Held};
use super::shown::{Card, Transaction, Wait};
use super::{Identity, Mail, Shared, Worker};
use crate::metrics::Traffic;

/// Sessions that a worker tells of at a time.
const AT_ONCE: usize = 256;

/// A worker that doesn't answer within it is left out.
const PATIENCE: Duration = Duration::from_secs(2);

/// A question to one worker; the answer goes where the question says.
#[derive(Debug)]
pub enum Look {
    /// The numbers of its sessions.
    Numbers(oneshot::Sender<Vec<u32>>),
    /// How the sessions of these numbers stand.
    Clients(Vec<u32>, oneshot::Sender<Vec<ClientRow>>),
    /// Its idle backends.
    Idle(oneshot::Sender<Vec<(Arc<Identity>, BackendRow)>>),
    /// What is under way in a database, or in all.
    UnderWay(Option<Arc<str>>, oneshot::Sender<UnderWay>),
}

/// One session.
#[derive(Debug)]
pub struct ClientRow {
    /// What is known of its client.
    pub card: Arc<Card>,
    /// The number of the worker that has it.
    pub worker: usize,
    /// Whether a batch is under way.
    pub running: bool,
    /// Its transaction.
    pub transaction: Transaction,
    /// Why it is tied to its backend; empty if it isn't.
    pub pinned: String,
    /// Since when, to a tenth of a second.
    pub pinned_since: Option<Instant>,
    /// When its last batch came, to a tenth of a second.
    pub asked: Instant,
    /// What it waits for, and since when.
    pub waits: Option<(Wait, Instant)>,
    /// Its `application_name`.
    pub application_name: String,
    /// Prepared statements that it holds.
    pub statements: usize,
    /// The backend that it holds.
    pub backend: Option<BackendRow>,
}

/// One backend.
#[derive(Debug)]
pub struct BackendRow {
    /// The number of the worker that has it.
    pub worker: usize,
    /// The member's number.
    pub member: u16,
    /// What of its server's it is used under.
    pub generation: u64,
    /// The server's process id.
    pub process_id: u32,
    /// The proxy's end of the connection.
    pub local: Option<std::net::SocketAddr>,
    /// When it was opened.
    pub opened: Instant,
    /// When it was given to its session, or came back to its pool; to a tenth of a second.
    pub since: Instant,
    /// Whether it is under TLS.
    pub tls: bool,
}

/// What is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// Sessions with a transaction or statement on a backend.
    pub running: usize,
    /// Sessions that only hold on to a backend.
    pub pinned: usize,
    /// Backends that rest, or are being opened.
    pub idle: usize,
    /// Sessions in all.
    pub sessions: usize,
}

impl Shared {
    /// Every session, and the workers that did not answer.
    pub async fn clients(&self) -> (Vec<ClientRow>, usize) {
        let (mut rows, mut silent) = (Vec::new(), 0);
        for worker in 0..self.workers() {
            let Some(mut numbers) = self.ask(worker, Look::Numbers).await else {
                silent += 1;
                continue;
            };
            numbers.sort_unstable();
            for part in numbers.chunks(AT_ONCE) {
                let part = part.to_vec();
                match self.ask(worker, |to| Look::Clients(part, to)).await {
                    Some(told) => rows.extend(told),
                    None => {
                        silent += 1;
                        break;
                    }
                }
            }
        }
        // One that went to another worker between two questions is there twice.
        rows.sort_by_key(|row: &ClientRow| row.card.id);
        rows.dedup_by_key(|row| row.card.id);
        (rows, silent)
    }

    /// The session of this number.
    pub async fn client(&self, number: u32) -> Option<ClientRow> {
        for worker in 0..self.workers() {
            let told = self.ask(worker, |to| Look::Clients(vec![number], to)).await;
            if let Some(row) = told.into_iter().flatten().next() {
                return Some(row);
            }
        }
        None
    }

    /// Every idle backend, and the workers that did not answer.
    pub async fn idle_backends(&self) -> (Vec<(Arc<Identity>, BackendRow)>, usize) {
        let (mut rows, mut silent) = (Vec::new(), 0);
        for worker in 0..self.workers() {
            match self.ask(worker, Look::Idle).await {
                Some(told) => rows.extend(told),
                None => silent += 1,
            }
        }
        (rows, silent)
    }

    /// What is under way in a database, or in all; none when a worker did not answer.
    pub async fn under_way(&self, database: Option<&Arc<str>>) -> Option<UnderWay> {
        let mut sum = UnderWay::default();
        for worker in 0..self.workers() {
            let one = self.ask(worker, |to| Look::UnderWay(database.cloned(), to)).await?;
            sum.running += one.running;
            sum.pinned += one.pinned;
            sum.idle += one.idle;
            sum.sessions += one.sessions;
        }
        Some(sum)
    }

    /// What was counted of each identity so far, all workers together.
    pub fn traffic(&self) -> Vec<(Arc<Identity>, Traffic)> {
        let mut sums: Vec<(Arc<Identity>, Traffic)> = Vec::new();
        for entry in &self.tallies {
            let (identity, reader) = entry.value();
            match sums.iter_mut().find(|(known, _)| known.id == identity.id) {
                Some((_, sum)) => *sum = sum.plus(reader.read()),
                None => sums.push((Arc::clone(identity), reader.read())),
            }
        }
        sums.sort_by(|(a, _), (b, _)| (&a.database, &a.user).cmp(&(&b.database, &b.user)));
        sums
    }

    async fn ask<T>(&self, worker: usize, look: impl FnOnce(oneshot::Sender<T>) -> Look) -> Option<T> {
        let (answer, told) = oneshot::channel();
        // Mail that finds no place takes its sender with it, which ends the wait.
        self.post(worker, Mail::Look(look(answer)));
        tokio::time::timeout(PATIENCE, told).await.ok()?.ok()
    }
}

impl Worker {
    /// Answers a question. Who asked may be gone by now.
    pub(super) fn look(&self, look: Look) {
        match look {
            Look::Numbers(to) => drop(to.send(self.sessions.borrow().keys().copied().collect())),
            Look::Clients(numbers, to) => {
                let sessions = self.sessions.borrow();
                let handles = numbers.iter().filter_map(|number| sessions.get(number));
                drop(to.send(handles.map(|handle| self.client(handle)).collect()));
            }
            Look::Idle(to) => drop(to.send(self.idle())),
            Look::UnderWay(database, to) => drop(to.send(self.under_way(database.as_deref()))),
        }
    }

    /// Ends the sessions of a database, or of all, but no console's.
    pub(super) fn kill_database(&self, database: Option<&str>) {
        for handle in self.sessions.borrow().values().filter(|handle| handle.is_of(database)) {
            handle.kill();
        }
    }

    fn client(&self, handle: &Handle) -> ClientRow {
        let shown = &handle.shown;
        let settings = shown.settings.borrow();
        let name = settings.value("application_name").unwrap_or_default();
        ClientRow {
            card: Arc::clone(&shown.card),
            worker: self.index,
            running: handle.is_running(),
            transaction: shown.transaction.get(),
            pinned: shown.pins.get().to_string(),
            pinned_since: shown.pinned.get(),
            asked: shown.asked.get(),
            waits: shown.waits.get(),
            application_name: String::from_utf8_lossy(name).into_owned(),
            statements: shown.statements.get(),
            backend: handle.held().map(|held| self.held(&held)),
        }
    }

    fn held(&self, held: &Held) -> BackendRow {
        BackendRow {
            worker: self.index,
            member: held.member,
            generation: held.generation,
            process_id: held.process_id,
            local: held.local,
            opened: held.opened,
            since: held.since,
            tls: held.tls,
        }
    }

    fn idle(&self) -> Vec<(Arc<Identity>, BackendRow)> {
        let mut rows = Vec::new();
        self.each_pool(|pools, pool| {
            pool.each_idle(|backend| {
                let row = BackendRow {
                    worker: self.index,
                    member: backend.member,
                    generation: backend.generation,
                    process_id: backend.process_id,
                    local: backend.stream.tcp().local_addr().ok(),
                    opened: backend.opened,
                    since: backend.idle_since,
                    tls: backend.stream.is_tls(),
                };
                rows.push((Arc::clone(&pools.identity), row));
            });
        });
        rows
    }

    fn under_way(&self, database: Option<&str>) -> UnderWay {
        let mut sum = UnderWay::default();
        for handle in self.sessions.borrow().values().filter(|handle| handle.is_of(database)) {
            sum.sessions += 1;
            if handle.held().is_none() {
                continue;
            }
            let waits = handle.shown.waits.get().is_some();
            let open = handle.shown.transaction.get() != Transaction::Idle;
            if open || (handle.is_running() && !waits) {
                sum.running += 1;
            } else {
                sum.pinned += 1;
            }
        }
        self.each_pool(|pools, pool| {
            if database.is_none_or(|database| *pools.identity.database == *database) {
                let (idle, _, opening, _) = pool.counts();
                sum.idle += idle + opening;
            }
        });
        sum
    }
}

impl Handle {
    /// Whether its client uses this database, or with none any but the console.
    fn is_of(&self, database: Option<&str>) -> bool {
        let card = &self.shown.card;
        !card.console && database.is_none_or(|database| *card.database == *database)
    }
}
