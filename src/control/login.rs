//! How the monitors log in to the members.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::link::{Connect, Link, LinkError, Rows};
use crate::backend::{ClientTls, ConnectError, Credentials, Login, QueryError, Server, SimpleClient};
use crate::config::KeepAlive;

/// The longest answer, in bytes: one row of a dozen short values.
const MAX_ANSWER: usize = 16 * 1024;

/// The monitors' role, and how the members are reached.
#[derive(Clone)]
pub struct MonitorLogin {
    /// The role and what proves it.
    pub credentials: Credentials,
    /// The database.
    pub database: String,
    /// TLS towards the members, with the role's certificate if it has one; the newest is used for each connection.
    pub tls: Arc<ArcSwap<ClientTls>>,
    /// Socket options.
    pub keep_alive: KeepAlive,
}

impl fmt::Debug for MonitorLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MonitorLogin").field("user", &self.credentials.user).finish_non_exhaustive()
    }
}

impl Connect for MonitorLogin {
    type Link = SimpleClient;

    async fn connect(&self, host: &str, port: u16, timeout: Duration) -> Result<SimpleClient, LinkError> {
        let tls = self.tls.load_full();
        let server = Server { host, port, tls: &tls, keep_alive: &self.keep_alive, timeout };
        let login = Login {
            credentials: &self.credentials,
            database: &self.database,
            parameters: &[("application_name", "pgha_monitor")],
        };
        Ok(SimpleClient::connect(&server, &login, timeout, MAX_ANSWER).await?)
    }
}

impl Link for SimpleClient {
    async fn query(&mut self, sql: &'static str) -> Result<Rows, LinkError> {
        Ok(SimpleClient::query(self, sql).await?)
    }
}

impl From<ConnectError> for LinkError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Unreachable(_) | ConnectError::Lost(_) => Self::Closed(error.to_string()),
            ConnectError::Timeout => Self::Timeout,
            ConnectError::Starting(_)
            | ConnectError::AuthRefused(_)
            | ConnectError::Refused(_)
            | ConnectError::Auth(_)
            | ConnectError::Tls(_) => Self::Refused(error.to_string()),
            ConnectError::Protocol(_) => Self::Protocol(error.to_string()),
        }
    }
}

impl From<QueryError> for LinkError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Server(_) => Self::Refused(error.to_string()),
            QueryError::Lost(_) => Self::Closed(error.to_string()),
            QueryError::Timeout => Self::Timeout,
            QueryError::TooLong | QueryError::Protocol(_) => Self::Protocol(error.to_string()),
        }
    }
}
