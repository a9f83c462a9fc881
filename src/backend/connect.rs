//! Opening a connection: dial, TLS, startup, login, up to the first ReadyForQuery, all under one deadline.

use std::io;
use std::time::Duration;

use super::Parameters;
use super::error::{AuthError, ConnectError, ServerError};
use super::messages::Messages;
use crate::config::{KeepAlive, TlsMode};
use crate::net::tls::{ClientTls, end_point_hash};
use crate::net::{Stream, dial};
use crate::scram::{
    Channel, ClientChallenged, ClientStart, Credentials, Keys, LoginKeys, Nonce, ScramError, Secret,
};
use crate::wire::login::{self, AuthRequest};
use crate::wire::parts::parameter_status;
use crate::wire::startup::{ENCRYPTION_FOLLOWS, LATEST_MINOR, NO_ENCRYPTION, SSL_REQUEST_PACKET};
use crate::wire::tags::backend as tag;
use crate::wire::{Frame, TxStatus};

/// The longest message that a server may send during a login, in bytes.
const MAX_LOGIN_MESSAGE: usize = 64 * 1024;
/// Messages of a login at most: PostgreSQL sends some twenty.
const MAX_LOGIN_MESSAGES: usize = 1000;

/// A server and how to reach it.
#[derive(Debug, Clone, Copy)]
pub struct Server<'a> {
    /// Name or address.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// TLS towards it.
    pub tls: &'a ClientTls,
    /// Socket options.
    pub keep_alive: &'a KeepAlive,
    /// How long connecting may take in all, login included.
    pub timeout: Duration,
}

/// Who logs in, and where to.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// The user and its proof.
    pub credentials: &'a Credentials,
    /// The database.
    pub database: &'a str,
    /// Further startup parameters, such as `application_name` or `replication`.
    pub parameters: &'a [(&'a str, &'a str)],
}

/// A connection that is ready for its first query. No byte was read beyond that.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub stream: Stream,
    /// What the server reported by ParameterStatus.
    pub parameters: Parameters,
    /// For cancel requests.
    pub process_id: u32,
    /// The same; 4 to 256 bytes, empty where the server gave none.
    pub secret: Box<[u8]>,
}

/// Connects and logs in.
///
/// # Errors
/// [`ConnectError`] says whether the server is away, refuses, or can't be talked to.
pub async fn connect(server: &Server<'_>, login: &Login<'_>) -> Result<Connected, ConnectError> {
    match tokio::time::timeout(server.timeout, open(server, login)).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Err(ConnectError::Timeout),
    }
}

/// Asks a server to cancel what the connection with this key does. The server never says whether it did; it has
/// taken the request up when this returns.
///
/// # Errors
/// Those of connecting.
pub async fn cancel(server: &Server<'_>, process_id: u32, secret: &[u8]) -> Result<(), ConnectError> {
    let request = async {
        let mut stream = reach(server).await?;
        let mut packet = Vec::new();
        login::cancel_request(&mut packet, process_id, secret);
        stream.write_all(&packet).await.map_err(ConnectError::Lost)?;
        // The server closes when it is done; an error here means that it is.
        let _closed = stream.read(&mut [0]).await;
        Ok(())
    };
    tokio::time::timeout(server.timeout, request).await.unwrap_or(Err(ConnectError::Timeout))
}

async fn open(server: &Server<'_>, login: &Login<'_>) -> Result<Connected, ConnectError> {
    let stream = reach(server).await?;
    let mut messages = Messages::new(stream);
    let mut packet = Vec::with_capacity(256);
    let who = [("user", &*login.credentials.user), ("database", login.database)];
    login::startup(&mut packet, LATEST_MINOR, who.into_iter().chain(login.parameters.iter().copied()));
    messages.stream.write_all(&packet).await.map_err(ConnectError::Lost)?;
    authenticate(&mut messages, &login.credentials.secret).await?;
    let (parameters, process_id, secret) = until_ready(&mut messages).await?;
    let stream = messages.into_stream().ok_or(ConnectError::Protocol("bytes behind ReadyForQuery"))?;
    Ok(Connected { stream, parameters, process_id, secret })
}

/// Dials, and puts the connection under TLS as far as the mode says.
async fn reach(server: &Server<'_>) -> Result<Stream, ConnectError> {
    let mut tcp = match dial(server.host, server.port, server.timeout, server.keep_alive).await {
        Ok(tcp) => Stream::Plain(tcp),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(ConnectError::Timeout),
        Err(error) => return Err(ConnectError::Unreachable(error)),
    };
    if server.tls.mode == TlsMode::Disable {
        return Ok(tcp);
    }
    tcp.write_all(&SSL_REQUEST_PACKET).await.map_err(ConnectError::Lost)?;
    let mut answer = [0];
    tcp.read_exact(&mut answer).await.map_err(ConnectError::Lost)?;
    let pending = tcp.tcp().has_pending().map_err(ConnectError::Lost)?;
    let Stream::Plain(plain) = tcp else { return Err(ConnectError::Protocol("TLS twice")) };
    match answer[0] {
        _ if pending => Err(ConnectError::Tls("unencrypted data behind the answer to SSLRequest".into())),
        ENCRYPTION_FOLLOWS => server.tls.connect(plain, server.host).await.map_err(tls_failed),
        NO_ENCRYPTION if server.tls.mode == TlsMode::Prefer => Ok(Stream::Plain(plain)),
        NO_ENCRYPTION => Err(ConnectError::Tls("the server does not support TLS".into())),
        // Whatever it says, nobody has proved to be the one who says it.
        _ => Err(ConnectError::Tls("the server refused SSLRequest".into())),
    }
}

/// A server that dies during the handshake is away; nothing is wrong with its TLS.
fn tls_failed(error: io::Error) -> ConnectError {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    match error.kind() {
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected => {
            ConnectError::Lost(error)
        }
        _ => ConnectError::Tls(error.to_string()),
    }
}

/// Does what the server asks for until it says that the login is done.
async fn authenticate(messages: &mut Messages, secret: &Secret) -> Result<(), ConnectError> {
    for _ in 0..MAX_LOGIN_MESSAGES {
        let frame = next(messages).await?;
        if frame.tag == tag::NEGOTIATE_PROTOCOL_VERSION {
            continue;
        }
        match auth_request(frame)? {
            // The server's pg_hba.conf says trust or cert.
            AuthRequest::Ok => return Ok(()),
            AuthRequest::Sasl(offered) => {
                let offered = offered.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
                sasl(messages, secret, &offered).await?;
                return match auth_request(next(messages).await?)? {
                    AuthRequest::Ok => Ok(()),
                    _ => Err(ConnectError::Protocol("no AuthenticationOk behind SASL")),
                };
            }
            AuthRequest::Cleartext => {
                return Err(ConnectError::Auth(AuthError::Method("a password in clear")));
            }
            AuthRequest::Md5 => return Err(ConnectError::Auth(AuthError::Method("an md5 password"))),
            _ => return Err(ConnectError::Auth(AuthError::Method("another authentication method"))),
        }
    }
    Err(ConnectError::Protocol("the login has no end"))
}

async fn sasl(messages: &mut Messages, secret: &Secret, offered: &[String]) -> Result<(), ConnectError> {
    let channel = channel(&messages.stream);
    let nonce = Nonce::from_random(rand::random());
    let start = ClientStart::new(offered.iter().map(String::as_str), channel, nonce).map_err(scram)?;
    let mut out = Vec::new();
    login::sasl_first(&mut out, start.mechanism(), &start.client_first());
    messages.stream.write_all(&out).await.map_err(ConnectError::Lost)?;

    let challenged = match auth_request(next(messages).await?)? {
        AuthRequest::SaslContinue(data) => start.handle_server_first(data).map_err(scram)?,
        _ => return Err(ConnectError::Protocol("no SASL challenge")),
    };
    let keys = keys(secret, &challenged).await?;
    let proved = challenged.prove(&keys);
    out.clear();
    login::sasl_response(&mut out, proved.client_final());
    messages.stream.write_all(&out).await.map_err(ConnectError::Lost)?;

    match auth_request(next(messages).await?)? {
        AuthRequest::SaslFinal(data) => proved.handle_server_final(data).map_err(scram),
        // Without its last word the server has proved nothing.
        _ => Err(ConnectError::Auth(AuthError::Scram(ScramError::ServerSignature))),
    }
}

async fn keys(secret: &Secret, challenged: &ClientChallenged) -> Result<LoginKeys, ConnectError> {
    let password = match secret {
        Secret::Keys(keys) => return Ok(keys.clone()),
        Secret::None => return Err(ConnectError::Auth(AuthError::NoPassword)),
        Secret::Password(password) => password,
    };
    match password.keys_for(challenged).map_err(scram)? {
        Keys::Known(keys) => Ok(keys),
        Keys::Derive(derivation) => {
            let keys = tokio::task::spawn_blocking(move || derivation.run())
                .await
                .map_err(|_| ConnectError::Protocol("the key derivation was interrupted"))?;
            password.keep(challenged, &keys);
            Ok(keys)
        }
    }
}

/// ParameterStatus and BackendKeyData up to ReadyForQuery.
async fn until_ready(messages: &mut Messages) -> Result<(Parameters, u32, Box<[u8]>), ConnectError> {
    let (mut parameters, mut key) = (Parameters::default(), (0, Box::default()));
    for _ in 0..MAX_LOGIN_MESSAGES {
        let frame = next(messages).await?;
        match frame.tag {
            tag::PARAMETER_STATUS => {
                let (name, value) =
                    parameter_status(frame.body()).ok_or(ConnectError::Protocol("bad ParameterStatus"))?;
                parameters.set(name, value);
            }
            tag::BACKEND_KEY_DATA => {
                let (process_id, secret) = login::backend_key_data(frame.body())
                    .ok_or(ConnectError::Protocol("bad BackendKeyData"))?;
                key = (process_id, secret.into());
            }
            tag::READY_FOR_QUERY if frame.body() == [TxStatus::Idle.byte()] => {
                return Ok((parameters, key.0, key.1));
            }
            _ => return Err(ConnectError::Protocol("unexpected message behind the login")),
        }
    }
    Err(ConnectError::Protocol("the login has no end"))
}

/// The next message that is not a notice; an error ends the login.
async fn next(messages: &mut Messages) -> Result<Frame<'_>, ConnectError> {
    for _ in 0..MAX_LOGIN_MESSAGES {
        let frame = messages.next(MAX_LOGIN_MESSAGE).await.map_err(lost)?;
        match frame.tag {
            tag::ERROR_RESPONSE => return Err(ServerError::new(frame.body()).into()),
            tag::NOTICE_RESPONSE => {}
            _ => return Ok(messages.current()),
        }
    }
    Err(ConnectError::Protocol("the login has no end"))
}

fn auth_request(frame: Frame<'_>) -> Result<AuthRequest<'_>, ConnectError> {
    match frame.tag {
        tag::AUTHENTICATION => AuthRequest::read(frame.body()),
        _ => None,
    }
    .ok_or(ConnectError::Protocol("unexpected message during the login"))
}

/// What SCRAM can bind to.
fn channel(stream: &Stream) -> Channel {
    let Stream::Tls(tls) = stream else { return Channel::Unbound };
    let certificate = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
    certificate.and_then(|der| end_point_hash(der)).map_or(Channel::Unbound, Channel::ServerEndPoint)
}

fn scram(error: ScramError) -> ConnectError {
    ConnectError::Auth(AuthError::Scram(error))
}

fn lost(error: io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::InvalidData => ConnectError::Protocol("not a message, or one that is too long"),
        _ => ConnectError::Lost(error),
    }
}
