//! What can go wrong between the proxy and a server, and whose fault it is.

use std::fmt;
use std::io;

use crate::scram::ScramError;
use crate::wire::{ErrorFields, SqlState};

/// An ErrorResponse, kept whole so that it can be passed on.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerError {
    body: Vec<u8>,
}

/// Why a connection did not come about. Nothing has run in any case: another try is always safe.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there, or there is no way to it.
    #[error("can't connect: {0}")]
    Unreachable(io::Error),
    /// It took too long, login included.
    #[error("connecting took too long")]
    Timeout,
    /// The connection broke during the login.
    #[error("connection lost during the login: {0}")]
    Lost(io::Error),
    /// No TLS could be had, or the server's certificate isn't accepted.
    #[error("TLS: {0}")]
    Tls(String),
    /// 57P03: the server starts, stops or recovers.
    #[error("{0}")]
    Starting(ServerError),
    /// The server doesn't accept the login (class 28).
    #[error("{0}")]
    AuthRefused(ServerError),
    /// The login can't be done, or the server could not prove itself.
    #[error("login failed: {0}")]
    Auth(AuthError),
    /// The server refuses for another reason: no such database (3D000), no permission (42501), too many
    /// connections (53300).
    #[error("{0}")]
    Refused(ServerError),
    /// What came is not PostgreSQL's protocol.
    #[error("protocol violation: {0}")]
    Protocol(&'static str),
}

/// Why the login can't be done from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The server asks for something else than SCRAM.
    #[error("the server asks for {0}; only scram-sha-256, cert and trust are supported")]
    Method(&'static str),
    /// The server asks for a password, and there is none.
    #[error("the server asks for a password, and none is configured")]
    NoPassword,
    /// The SCRAM exchange failed.
    #[error(transparent)]
    Scram(#[from] ScramError),
}

impl ConnectError {
    /// Whether the same login may succeed in a moment: the server is away or not ready, nothing is wrong with
    /// the login itself.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Timeout | Self::Lost(_) | Self::Starting(_))
    }

    /// Whether there is no such database.
    pub fn is_no_database(&self) -> bool {
        self.server_error().is_some_and(|error| error.state() == SqlState::INVALID_CATALOG_NAME)
    }

    /// The server's own error, if it sent one.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            Self::Starting(error) | Self::AuthRefused(error) | Self::Refused(error) => Some(error),
            _ => None,
        }
    }
}

impl ServerError {
    /// From the body of an ErrorResponse.
    pub fn new(body: &[u8]) -> Self {
        Self { body: body.to_vec() }
    }

    /// Its fields.
    pub fn fields(&self) -> ErrorFields<'_> {
        ErrorFields::new(&self.body)
    }

    /// Its SQLSTATE.
    pub fn state(&self) -> SqlState {
        self.fields().state()
    }

    /// The body of the ErrorResponse.
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

impl From<ServerError> for ConnectError {
    fn from(error: ServerError) -> Self {
        let state = error.state();
        match state {
            SqlState::CANNOT_CONNECT_NOW | SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN => {
                Self::Starting(error)
            }
            state if state.0.starts_with(b"28") => Self::AuthRefused(error),
            _ => Self::Refused(error),
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.fields();
        write!(f, "{} ({})", fields.message(), fields.state().as_str())
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerError({self})")
    }
}

impl std::error::Error for ServerError {}
