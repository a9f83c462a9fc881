//! From an accepted socket to a session that may ask, a cancel request, or a closed connection.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::hba::Rules;
use super::login::{RoleGuard, log_in};
use super::opening::{Opened, open};
use super::turns::Turns;
use super::verifiers::Verifiers;
use crate::net::tls::ServerTls;
use crate::net::{Socket, Stream};
use crate::scram::Credentials;
use crate::wire::Refusal;
use crate::wire::startup::Replication;

/// How clients are let in.
#[derive(Debug, Clone)]
pub struct HandshakeConfig {
    /// TLS, where it is offered.
    pub tls: Option<ServerTls>,
    /// Whether nobody logs in without TLS.
    pub require_tls: bool,
    /// By which method who may come in from where.
    pub rules: Rules,
    /// Clients by user and by database.
    pub limits: ClientLimits,
    /// How long a connection may take until it is logged in. It is closed without a word then, as PostgreSQL does.
    pub login_timeout: Duration,
    /// Logins that may be under way at once; the others wait their turn within their own time.
    pub logins: Arc<Turns>,
}

/// How many clients of one user, and in one database, may be logged in; who isn't named has no limit here.
#[derive(Debug, Clone, Default)]
pub struct ClientLimits {
    /// By user.
    pub users: HashMap<String, u32>,
    /// By database.
    pub databases: HashMap<String, u32>,
}

/// What became of a connection.
#[derive(Debug)]
pub enum Outcome {
    /// It is logged in.
    Accepted(Box<Accepted>),
    /// It asked to cancel; nothing is answered.
    Cancel {
        /// As BackendKeyData named it.
        process_id: u32,
        /// The same.
        secret: Vec<u8>,
        /// To be closed when the cancel is on its way and not before: its end tells the client so.
        stream: Stream,
    },
}

/// A client that has logged in. Nothing was taken beyond its last login message.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: Stream,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The user.
    pub user: Arc<str>,
    /// The database; the user's name where none was given.
    pub database: String,
    /// Settings of the startup packet, those in `options` first. A later one wins.
    pub parameters: Vec<(String, String)>,
    /// The protocol's minor version, 0 to 2.
    pub minor: u16,
    /// Whether it wants to be a walsender.
    pub replication: Replication,
    /// With these backends are opened for it.
    pub credentials: Arc<Credentials>,
    /// Still to be sent, before ParameterStatus: the end of the login, in one write with what follows.
    pub greeting: Vec<u8>,
    /// Counts it among its role's sessions.
    pub role_guard: RoleGuard,
}

/// Why a connection was closed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It was closed by the client before it had said anything, or in the middle of a message.
    #[error("closed by the client")]
    Closed,
    /// The socket failed.
    #[error(transparent)]
    Io(io::Error),
    /// No TLS came about.
    #[error("TLS: {0}")]
    Tls(io::Error),
    /// The login took too long.
    #[error("canceling authentication due to timeout")]
    Timeout,
    /// It was refused, and told so.
    #[error("{}{}", refusal.message, why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default())]
    Refused {
        /// What it was told.
        refusal: Refusal,
        /// What it was not told: the reason, for the operator.
        why: Option<String>,
    },
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Self::Closed
            }
            _ => Self::Io(error),
        }
    }
}

/// Takes a new connection up to the end of its login.
///
/// # Errors
/// [`HandshakeError`]; the connection is closed by then.
pub async fn accept(
    tcp: Socket,
    peer: SocketAddr,
    config: &HandshakeConfig,
    verifiers: &Verifiers,
) -> Result<Outcome, HandshakeError> {
    // Pinned where they are: what is handed on would have its room twice.
    let handshake = pin!(async {
        match open(tcp, config.tls.as_ref()).await? {
            Opened::Cancel { process_id, secret, stream } => {
                Ok(Outcome::Cancel { process_id, secret, stream })
            }
            Opened::Startup(stream, startup) => {
                // Who has not even sent a startup packet holds no place.
                let login = pin!(log_in(stream, peer, startup, config, verifiers));
                let accepted = config.logins.take(peer.ip(), login).await?;
                Ok(Outcome::Accepted(Box::new(accepted)))
            }
        }
    });
    tokio::time::timeout(config.login_timeout, handshake).await.unwrap_or(Err(HandshakeError::Timeout))
}

/// Tells a new connection why it can't be served, once it has said what it wants. A cancel request is served:
/// gives what [`Outcome::Cancel`] would.
pub async fn refuse(
    tcp: Socket,
    config: &HandshakeConfig,
    refusal: &Refusal,
    timeout: Duration,
) -> Option<(u32, Vec<u8>)> {
    let opening = async {
        match open(tcp, config.tls.as_ref()).await {
            Ok(Opened::Cancel { process_id, secret, .. }) => Some((process_id, secret)),
            Ok(Opened::Startup(stream, _)) => {
                close_with(stream, refusal.clone()).await;
                None
            }
            Err(_) => None,
        }
    };
    tokio::time::timeout(timeout, opening).await.unwrap_or(None)
}

/// Sends a refusal and closes the connection.
pub(super) async fn close_with(stream: Stream, refusal: Refusal) -> HandshakeError {
    close_behind(stream, Vec::new(), refusal, None).await
}

/// Sends what is still due, then a refusal, and closes the connection.
pub(super) async fn close_behind(
    mut stream: Stream,
    mut due: Vec<u8>,
    refusal: Refusal,
    why: Option<String>,
) -> HandshakeError {
    due.extend_from_slice(&refusal.to_bytes());
    // The client may be gone already; then there is nobody to tell.
    let _gone = stream.write_all(&due).await;
    stream.shutdown().await;
    HandshakeError::Refused { refusal, why }
}
