//! Asks the primary for the verifiers of those who log in, on a connection of its own that no client reaches.
//!
//! The role it logs in as may run one function and nothing else; the user's name goes there by Parse and Bind only.
//! One question at a time: each takes well under a millisecond, and who asks waits no longer than it wants.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};

use crate::backend::{
    ClientTls, Credentials, Login, LookupError, QueryError, Role, Server, SimpleClient, read_role,
};
use crate::config::KeepAlive;
use crate::topology::{Member, Rule, Topology};

/// The longest answer, in bytes: one row of a function that gives one.
const MAX_ANSWER: usize = 64 * 1024;
/// Questions that may wait.
const MAX_WAITING: usize = 1024;

/// How the primary is asked.
#[derive(Debug, Clone)]
pub struct LookupConfig {
    /// The lookup role.
    pub credentials: Credentials,
    /// The database with the function.
    pub database: String,
    /// TLS towards it, with the role's certificate.
    pub tls: Arc<ArcSwap<ClientTls>>,
    /// Socket options.
    pub keep_alive: KeepAlive,
    /// How long connecting, and a question, may take.
    pub timeout: Duration,
}

/// Where questions are put.
#[derive(Debug, Clone)]
pub struct Lookups {
    questions: mpsc::Sender<Question>,
}

/// Answers them; runs on the control path's runtime.
#[derive(Debug)]
pub struct LookupTask {
    config: LookupConfig,
    topology: watch::Receiver<Arc<Topology>>,
    questions: mpsc::Receiver<Question>,
    connection: Option<Connection>,
    last_error: Option<LookupError>,
}

#[derive(Debug)]
struct Question {
    user: Arc<str>,
    answer: oneshot::Sender<Result<Option<Role>, LookupError>>,
}

/// A connection, and to which member in which state of it.
#[derive(Debug)]
struct Connection {
    client: SimpleClient,
    to: (u16, u64),
}

impl Lookups {
    /// Both ends.
    pub fn new(config: LookupConfig, topology: watch::Receiver<Arc<Topology>>) -> (Self, LookupTask) {
        let (sender, questions) = mpsc::channel(MAX_WAITING);
        let task = LookupTask { config, topology, questions, connection: None, last_error: None };
        (Self { questions: sender }, task)
    }

    /// What the primary says of a role; none when there is no such role.
    ///
    /// # Errors
    /// [`LookupError`] when it can't be asked.
    pub async fn role(&self, user: Arc<str>) -> Result<Option<Role>, LookupError> {
        let (answer, heard) = oneshot::channel();
        self.questions.try_send(Question { user, answer }).map_err(|_full| LookupError::TimedOut)?;
        heard.await.unwrap_or(Err(LookupError::NotConfigured))
    }
}

impl LookupTask {
    /// Answers until nobody can ask any more.
    pub async fn run(mut self) {
        while let Some(question) = self.questions.recv().await {
            // Who asked may have given up while others were answered.
            if question.answer.is_closed() {
                continue;
            }
            let answer = self.answer(&question.user).await;
            self.tell(answer.as_ref().err());
            // As above.
            let _gone = question.answer.send(answer);
        }
    }

    async fn answer(&mut self, user: &str) -> Result<Option<Role>, LookupError> {
        // A connection that was idle may have died; a new one gets one more try.
        let reused = self.connection.is_some();
        match self.ask(user).await {
            Err(Failure::Lost(_)) if reused => self.ask(user).await.map_err(Failure::into_error),
            other => other.map_err(Failure::into_error),
        }
    }

    async fn ask(&mut self, user: &str) -> Result<Option<Role>, Failure> {
        let topology = Arc::clone(&self.topology.borrow());
        let primary = primary(&topology).ok_or(Failure::Final(LookupError::NoPrimary))?;
        let to = (primary.id.0, primary.generation);
        self.connection.take_if(|connection| connection.to != to || connection.client.is_broken());
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Connection { client: connect(&self.config, primary).await?, to }),
        };
        read_role(&mut connection.client, user).await.map_err(|error| match error {
            QueryError::Lost(error) => Failure::Lost(error.to_string()),
            QueryError::Timeout => Failure::Final(LookupError::TimedOut),
            other => failed(&other.to_string()),
        })
    }

    /// Logs what goes wrong, once for each change.
    fn tell(&mut self, error: Option<&LookupError>) {
        if self.last_error.as_ref() != error {
            if let Some(error) = error {
                tracing::warn!(%error, "verifiers can't be read");
            } else {
                tracing::info!("verifiers can be read again");
            }
            self.last_error = error.cloned();
        }
    }
}

/// Why a question has no answer.
enum Failure {
    /// The connection broke: another may do.
    Lost(String),
    /// Another try would not help.
    Final(LookupError),
}

impl Failure {
    fn into_error(self) -> LookupError {
        match self {
            Self::Lost(why) => LookupError::Failed(why),
            Self::Final(error) => error,
        }
    }
}

fn failed(why: &str) -> Failure {
    Failure::Final(LookupError::Failed(why.to_owned()))
}

/// The member to ask: the primary, or the one that was it last and is not fenced.
fn primary(topology: &Topology) -> Option<&Member> {
    match topology.rule {
        Rule::Serving(id) => topology.member(id),
        Rule::Holding { last, .. } => topology.member(last?),
    }
}

async fn connect(config: &LookupConfig, primary: &Member) -> Result<SimpleClient, Failure> {
    let tls = config.tls.load_full();
    let server = Server {
        host: &primary.host,
        port: primary.port,
        tls: &tls,
        keep_alive: &config.keep_alive,
        timeout: config.timeout,
    };
    let login = Login {
        credentials: &config.credentials,
        database: &config.database,
        parameters: &[("application_name", "pgha lookup"), ("client_encoding", "UTF8")],
    };
    let client = SimpleClient::connect(&server, &login, config.timeout, MAX_ANSWER)
        .await
        .map_err(|error| failed(&error.to_string()))?;
    // Names that anybody may send are put to it: whatever should ever be wrong here, it is to have no more rights than it needs.
    if client.parameters().value(b"is_superuser") == Some(b"on") {
        return Err(failed("auth.lookup_user is a superuser; `check --print-sql` makes a role for it"));
    }
    Ok(client)
}
