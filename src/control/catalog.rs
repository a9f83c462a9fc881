//! Asks a database's catalog, on a connection that lasts as long as that takes and that no client's setting reaches.
//!
//! What is asked, and what the answers mean, is its caller's business.

use std::time::Duration;

use crate::backend::{ConnectError, Credentials, Login, QueryError, Row, Server, SimpleClient};

/// The longest answer to one question, in bytes: functions' bodies and views' definitions are in it.
const MAX_ANSWER: usize = 64 << 20;

/// A catalog's answers.
pub type Answers = Vec<Vec<Row>>;

/// What is asked.
#[derive(Debug, Clone)]
pub struct CatalogQuestions {
    /// Gives one row: whether the server is in recovery, and a text that is another one whenever an answer may be.
    pub revision: String,
    /// Asked when the revision is another one than before.
    pub questions: Vec<String>,
}

/// What a catalog said.
#[derive(Debug)]
pub struct CatalogFound {
    /// Its revision.
    pub revision: String,
    /// The answers; none if the revision is the known one.
    pub answers: Option<Answers>,
}

/// Why a catalog can't be read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// No connection, or no login.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No answer.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The server is in recovery: its catalog may be one of the past.
    #[error("the server is in recovery")]
    InRecovery,
    /// An answer of another shape.
    #[error("unreadable answer")]
    Unreadable,
}

impl CatalogError {
    /// Whether there is no such database.
    pub fn is_no_database(&self) -> bool {
        matches!(self, Self::Connect(error) if error.is_no_database())
    }
}

/// Connects to a database to ask its catalog. Names mean PostgreSQL's own, nothing is written, and nobody's lock is waited for long.
///
/// # Errors
/// [`ConnectError`].
pub async fn open_catalog(
    server: &Server<'_>,
    credentials: &Credentials,
    database: &str,
    timeout: Duration,
) -> Result<SimpleClient, ConnectError> {
    let parameters = &[
        ("application_name", "pgha catalog"),
        ("client_encoding", "UTF8"),
        ("search_path", "pg_catalog"),
        ("default_transaction_read_only", "on"),
        // Well below `deadlock_timeout`: pg_get_viewdef locks what a view names, and DDL that waits for that in turn isn't to be the victim.
        ("lock_timeout", "100ms"),
        ("statement_timeout", "30s"),
    ];
    SimpleClient::connect(server, &Login { credentials, database, parameters }, timeout, MAX_ANSWER).await
}

/// Asks; `known` is the revision whose answers are known. `primary` says that a server in recovery is refused.
///
/// # Errors
/// [`CatalogError`].
pub async fn read_catalog(
    client: &mut SimpleClient,
    asked: &CatalogQuestions,
    known: Option<&str>,
    primary: bool,
) -> Result<CatalogFound, CatalogError> {
    // Before the answers: what changes in between shows as another revision the next time.
    let rows = client.query(&asked.revision).await?;
    let [row] = rows.as_slice() else { return Err(CatalogError::Unreadable) };
    let [Some(in_recovery), Some(revision)] = row.as_slice() else { return Err(CatalogError::Unreadable) };
    if primary && in_recovery != "f" {
        return Err(CatalogError::InRecovery);
    }
    if known == Some(revision) {
        return Ok(CatalogFound { revision: revision.clone(), answers: None });
    }
    let mut answers = Answers::new();
    for question in &asked.questions {
        answers.push(client.query(question).await?);
    }
    Ok(CatalogFound { revision: revision.clone(), answers: Some(answers) })
}
