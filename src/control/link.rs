//! The seam between a monitor and the connection that it asks through, so that tests can break it at will.

use std::future::Future;
use std::time::Duration;

/// Rows of text values, as a simple query gives them.
pub type Rows = Vec<Vec<Option<String>>>;

/// Why a connection or a question failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nobody listens there, or the connection ended.
    #[error("{0}")]
    Closed(String),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The server said no, to the login or to the question. No secret is in it.
    #[error("{0}")]
    Refused(String),
    /// An answer that can't be read.
    #[error("unreadable answer: {0}")]
    Protocol(String),
}

/// Opens connections as the monitors' role.
pub trait Connect: Send + Sync + 'static {
    /// What it opens.
    type Link: Link;

    /// Connects and logs in within `timeout`.
    fn connect(
        &self,
        host: &str,
        port: u16,
        timeout: Duration,
    ) -> impl Future<Output = Result<Self::Link, LinkError>> + Send;
}

/// One connection, one question at a time. After an error it is not used any more.
pub trait Link: Send + 'static {
    /// Asks and waits for the answer.
    fn query(&mut self, sql: &'static str) -> impl Future<Output = Result<Rows, LinkError>> + Send;
}
