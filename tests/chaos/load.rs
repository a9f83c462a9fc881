//! The load: tokio-postgres clients in this process, psycopg and asyncpg clients in processes of their own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use pg_ha_proxy::cluster::{Runtime, Status};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage, Statement};

use crate::journal::{CLOSED, DONE, Entry, HUNG, Journal, Read, Write, now};
use crate::stage::{Stage, application};

/// Between two statements of a client.
const PAUSE: Duration = Duration::from_millis(60);
/// What is not answered then never will be.
const PATIENCE: Duration = Duration::from_secs(90);

const INSERT: &str = "INSERT INTO ledger (id, part, client) VALUES ($1, $2, $3) \
                      RETURNING left(pg_walfile_name(pg_current_wal_lsn()), 8)";

/// What a tokio-postgres client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// INSERT by the simple protocol.
    Simple,
    /// A prepared INSERT.
    Prepared,
    /// Two rows in a transaction, by the simple protocol.
    SimpleTransaction,
    /// Two rows in a transaction, prepared.
    Transaction,
    /// Counts of what others wrote.
    Reader,
    /// Vector searches.
    Searcher,
}

const STYLES: [(&str, Style); 8] = [
    ("tokio-simple", Style::Simple),
    ("tokio-prepared", Style::Prepared),
    ("tokio-simple-transaction", Style::SimpleTransaction),
    ("tokio-transaction", Style::Transaction),
    ("tokio-reader-1", Style::Reader),
    ("tokio-reader-2", Style::Reader),
    ("tokio-searcher-1", Style::Searcher),
    ("tokio-searcher-2", Style::Searcher),
];

/// The clients at work.
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
    scripts: Vec<(Child, JoinHandle<()>)>,
}

impl Load {
    /// Starts all clients on the proxy's port.
    pub(crate) fn start(stage: &Stage, status: &Status, journal: &Arc<Journal>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for ((name, style), number) in STYLES.into_iter().zip(1..) {
            let config = application(status, stage.proxy.port);
            let one =
                One { name, style, config, journal: Arc::clone(journal), stopped: stopped.clone(), number };
            clients.spawn(one.run());
        }
        let scripts = [("load_psycopg.py", 101), ("load_asyncpg.py", 201)];
        let scripts = scripts
            .map(|(script, first)| spawn_script(stage.runtime(), script, stage.dsn(), first, journal))
            .into();
        Self { stop, clients, scripts }
    }

    /// Lets every client end what it does, and returns when all have.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        for (child, _) in &mut self.scripts {
            drop(child.stdin.take());
        }
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client");
        }
        for (mut child, reader) in std::mem::take(&mut self.scripts) {
            let status = tokio::task::spawn_blocking(move || {
                reader.join().expect("a reader");
                child.wait()
            });
            let status = status.await.expect("joined").expect("waited");
            assert!(status.success(), "a Python client: {status}");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for (child, _) in &mut self.scripts {
            // Best effort: only a failing test comes here with clients at work.
            let _gone = child.kill().and_then(|()| child.wait());
        }
    }
}

/// Runs a script of this folder with the cluster's Python.
pub(crate) fn python(runtime: &Runtime, script: &str) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chaos");
    let mut command = Command::new(runtime.python());
    command.arg(folder.join(script));
    command
}

fn spawn_script(
    runtime: &Runtime,
    script: &str,
    dsn: &str,
    first: u32,
    journal: &Arc<Journal>,
) -> (Child, JoinHandle<()>) {
    let mut command = python(runtime, script);
    command.args([dsn, &first.to_string(), &PAUSE.as_secs_f64().to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let journal = Arc::clone(journal);
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            journal.add(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}")));
        }
    });
    (child, reader)
}

/// One tokio-postgres client.
struct One {
    name: &'static str,
    style: Style,
    config: Config,
    journal: Arc<Journal>,
    stopped: watch::Receiver<bool>,
    number: i64,
}

/// Why a statement failed.
struct Failed {
    outcome: String,
    text: String,
}

impl One {
    async fn run(self) {
        let mut id = self.number * 1_000_000_000;
        while !*self.stopped.borrow() {
            let connected = tokio::time::timeout(PATIENCE, self.config.connect(NoTls)).await;
            let Ok(Ok((client, connection))) = connected else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let driver = tokio::spawn(connection);
            self.journal.add(Entry::Session {
                client: self.name.into(),
                at: now(),
                lost: false,
                text: String::new(),
            });
            let ended = self.session(&client, &mut id).await;
            drop(client);
            if let Err(failed) = ended {
                let said = match tokio::time::timeout(Duration::from_secs(1), driver).await {
                    Ok(Ok(Err(error))) => error.to_string(),
                    _ => failed.text,
                };
                self.journal.add(Entry::Session {
                    client: self.name.into(),
                    at: now(),
                    lost: true,
                    text: said,
                });
            }
        }
    }

    /// Works until it is stopped, or the session is lost.
    async fn session(&self, client: &Client, id: &mut i64) -> Result<(), Failed> {
        let mut prepared = None;
        while !*self.stopped.borrow() {
            if prepared.is_none() && matches!(self.style, Style::Prepared | Style::Transaction) {
                prepared = Some(self.timed(client, client.prepare(INSERT)).await?);
            }
            match self.style {
                Style::Reader => {
                    let sql = "SELECT count(*) FROM ledger WHERE client = $1";
                    let about = STYLES[usize::try_from(*id % 4).unwrap_or(0)].0;
                    self.read(client, "plain", client.query_one(sql, &[&about]), |_| None).await?;
                    *id += 1;
                }
                Style::Searcher => {
                    let sql = format!("SELECT id FROM items ORDER BY v <-> '[{}, 1, 1]' LIMIT 3", *id % 100);
                    self.read(client, "search", client.simple_query(&sql), |_| None).await?;
                    *id += 1;
                }
                _ => self.write_and_read(client, prepared.as_ref(), id).await?,
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn write_and_read(
        &self,
        client: &Client,
        prepared: Option<&Statement>,
        id: &mut i64,
    ) -> Result<(), Failed> {
        *id += 1;
        let id = *id;
        let transaction = matches!(self.style, Style::SimpleTransaction | Style::Transaction);
        let (begun, parts) = (now(), if transaction { 2 } else { 1 });
        let timeline = self.timed(client, self.write(client, prepared, id, parts)).await;
        let mut write = Write {
            client: self.name.into(),
            id,
            parts: usize::try_from(parts).unwrap_or(0),
            begun,
            ended: now(),
            outcome: DONE.into(),
            text: String::new(),
            timeline: String::new(),
        };
        match timeline {
            Ok(timeline) => {
                self.journal.add(Entry::Write(Write { timeline, ..write }));
                self.own_write(client, id, i64::from(parts)).await
            }
            Err(failed) => {
                (write.outcome, write.text) = (failed.outcome.clone(), failed.text.clone());
                self.journal.add(Entry::Write(write));
                if transaction && failed.outcome != CLOSED {
                    // As a driver does after an error in a transaction, whether or not it ended.
                    self.timed(client, client.batch_execute("ROLLBACK")).await?;
                }
                if failed.outcome == CLOSED { Err(failed) } else { Ok(()) }
            }
        }
    }

    /// One write; the timeline that it was written on.
    async fn write(
        &self,
        client: &Client,
        prepared: Option<&Statement>,
        id: i64,
        parts: i32,
    ) -> Result<String, Error> {
        if parts > 1 {
            client.batch_execute("BEGIN").await?;
        }
        let mut timeline = String::new();
        for part in 1..=parts {
            timeline = match prepared {
                Some(statement) => {
                    client.query_one(statement, &[&id, &part, &self.name]).await?.get::<_, String>(0)
                }
                None => {
                    let values = [id.to_string(), part.to_string(), format!("'{}'", self.name)];
                    let sql = INSERT.replace("$1, $2, $3", &values.join(", "));
                    first_value(&client.simple_query(&sql).await?)
                }
            };
        }
        if parts > 1 {
            client.batch_execute("COMMIT").await?;
        }
        Ok(timeline)
    }

    /// Reads its own write at once, by a statement that may run on a replica.
    async fn own_write(&self, client: &Client, id: i64, parts: i64) -> Result<(), Failed> {
        let missing = |seen: i64| (seen < parts).then_some(id);
        if self.style == Style::Simple {
            let sql = format!("SELECT count(*) FROM ledger WHERE id = {id}");
            let seen = |rows: &Vec<SimpleQueryMessage>| missing(first_value(rows).parse().unwrap_or(0));
            self.read(client, "own", client.simple_query(&sql), seen).await
        } else {
            let values: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&id];
            let query = client.query_one("SELECT count(*) FROM ledger WHERE id = $1", &values);
            self.read(client, "own", query, |row| missing(row.get(0))).await
        }
    }

    /// Runs a read and notes what came of it.
    async fn read<T>(
        &self,
        client: &Client,
        kind: &str,
        read: impl Future<Output = Result<T, Error>>,
        missing: impl Fn(&T) -> Option<i64>,
    ) -> Result<(), Failed> {
        let begun = now();
        let ended = self.timed(client, read).await;
        let mut entry = Read {
            client: self.name.into(),
            kind: kind.into(),
            begun,
            ended: now(),
            outcome: DONE.into(),
            text: String::new(),
            missing: None,
        };
        match ended {
            Ok(answer) => {
                entry.missing = missing(&answer);
                self.journal.add(Entry::Read(entry));
                Ok(())
            }
            Err(failed) => {
                (entry.outcome, entry.text) = (failed.outcome.clone(), failed.text.clone());
                self.journal.add(Entry::Read(entry));
                if failed.outcome == CLOSED { Err(failed) } else { Ok(()) }
            }
        }
    }

    /// The answer, or why there is none. A statement that hangs ends the session.
    async fn timed<T>(
        &self,
        client: &Client,
        statement: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Failed> {
        match tokio::time::timeout(PATIENCE, statement).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(failure(client, &error)),
            Err(_elapsed) => {
                Err(Failed { outcome: HUNG.into(), text: format!("no answer for {PATIENCE:?}") })
            }
        }
    }
}

fn failure(client: &Client, error: &Error) -> Failed {
    let text = error.as_db_error().map_or_else(
        || error.to_string(),
        |db| format!("{}: {} ({})", db.severity(), db.message(), db.detail().unwrap_or_default()),
    );
    let outcome = match error.code() {
        Some(code) if !client.is_closed() => code.code().to_owned(),
        _ => CLOSED.to_owned(),
    };
    Failed { outcome, text }
}

/// The first value of a simple query's answer.
fn first_value(answer: &[SimpleQueryMessage]) -> String {
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.unwrap_or_default().to_owned()
}
