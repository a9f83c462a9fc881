//! Authentication as a server: by the rule that the connection comes under, then whether the role may come in.
//!
//! Words, SQLSTATEs and their order are PostgreSQL's: the rule, a certificate where it asks for one, the password (a wrong one, an
//! unknown user and an expired one look alike), then `NOLOGIN`, then the limits.

use std::net::SocketAddr;
use std::sync::Arc;

use super::handshake::{Accepted, ClientLimits, HandshakeConfig, HandshakeError, close_behind};
use super::hba::Asking;
use super::tally::Counted;
use super::verifiers::{Subject, Verifiers};
use crate::config::{ClientCert, HbaMethod, HbaRule};
use crate::net::Stream;
use crate::net::tls::common_name;
use crate::scram::{
    Channel, Credentials, LookupError, Nonce, Proven, Role, ScramError, Secret, ServerStart, Unusable,
};
use crate::wire::frame::frame_len;
use crate::wire::login;
use crate::wire::startup::{Replication, Startup};
use crate::wire::tags::frontend;
use crate::wire::{HEADER_LEN, Refusal, SqlState};

/// The longest message of a login, in bytes.
const MAX_PASSWORD_MESSAGE: usize = 16 * 1024;

/// One of its role's and its database's sessions; counts down when dropped.
#[derive(Debug)]
pub struct RoleGuard {
    _of_role: Counted,
    _in_database: Option<Counted>,
}

/// A login that has proved whose it is.
struct Proof {
    /// Still to be sent, up to AuthenticationOk.
    greeting: Vec<u8>,
    /// With this backends are opened.
    secret: Secret,
    /// What the primary says of the role, where it was asked.
    role: Option<Arc<Role>>,
}

/// A login that goes wrong: what the client is told, and what it isn't.
struct Failure {
    /// Still to be sent in front.
    due: Vec<u8>,
    refusal: Refusal,
    why: Option<String>,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { due: Vec::new(), refusal, why: None }
    }
}

impl Failure {
    fn because(refusal: Refusal, why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..refusal.into() }
    }
}

/// Either the login goes on, or it ended in a failure that the client is to be told.
type Step<T> = Result<Result<T, Failure>, HandshakeError>;

pub(super) async fn log_in(
    mut stream: Stream,
    peer: SocketAddr,
    startup: Startup,
    config: &HandshakeConfig,
    verifiers: &Verifiers,
) -> Result<Accepted, HandshakeError> {
    let user: Arc<str> = Arc::from(startup.user.as_str());
    let asking = Asking::new(peer.ip(), stream.is_tls(), &startup);
    let proof = match prove(&mut stream, &startup, &asking, &user, config, verifiers).await? {
        Ok(proof) => proof,
        Err(Failure { due, refusal, why }) => return Err(close_behind(stream, due, refusal, why).await),
    };
    let mut greeting = proof.greeting;
    login::authentication_ok(&mut greeting);
    let role_guard = match admit(&user, &startup, proof.role.as_deref(), &config.limits, verifiers) {
        Ok(guard) => guard,
        Err(refusal) => return Err(close_behind(stream, greeting, refusal, None).await),
    };
    Ok(Accepted {
        stream,
        peer,
        database: startup.database.clone(),
        minor: startup.negotiated_minor(),
        replication: startup.replication,
        parameters: startup.parameters,
        credentials: Arc::new(Credentials { user: Arc::clone(&user), secret: proof.secret }),
        user,
        greeting,
        role_guard,
    })
}

/// Has the client prove who it is, as the first rule that it comes under says.
async fn prove(
    stream: &mut Stream,
    startup: &Startup,
    asking: &Asking<'_>,
    user: &Arc<str>,
    config: &HandshakeConfig,
    verifiers: &Verifiers,
) -> Step<Proof> {
    let rule = config.rules.first(asking).filter(|_| asking.tls || !config.require_tls);
    let Some(rule) = rule else { return Ok(Err(asking.no_entry().into())) };
    let by_line = || format!("by the rule in line {}", rule.line);
    if rule.client_cert != ClientCert::Off && stream.peer_certificate().is_none() {
        let text = "connection requires a valid client certificate";
        return Ok(Err(Failure::because(Refusal::new(SqlState::INVALID_AUTHORIZATION, text), by_line())));
    }
    match rule.method {
        HbaMethod::Reject => Ok(Err(Failure::because(asking.rejected(), by_line()))),
        HbaMethod::Scram => {
            let (proven, subject) = match authenticate(stream, startup, user, config, verifiers).await? {
                Ok(proven) => proven,
                Err(failure) => return Ok(Err(failure)),
            };
            let mut greeting = Vec::with_capacity(128);
            login::authentication_sasl_final(&mut greeting, &proven.server_final);
            if let Err(why) = check_name(stream, rule, user, config) {
                return Ok(Err(Failure { due: greeting, refusal: wrong_password(user), why: Some(why) }));
            }
            let secret = subject.password.map_or(Secret::Keys(proven.keys), Secret::Password);
            Ok(Ok(Proof { greeting, secret, role: subject.role }))
        }
        HbaMethod::Cert | HbaMethod::Trust => {
            Ok(without_password(stream, startup, rule, user, config, verifiers))
        }
    }
}

/// A login by certificate, or by trust. Neither gives the proxy anything to log in at members with: only who has a password in the
/// configuration can come in that way.
fn without_password(
    stream: &Stream,
    startup: &Startup,
    rule: &HbaRule,
    user: &Arc<str>,
    config: &HandshakeConfig,
    verifiers: &Verifiers,
) -> Result<Proof, Failure> {
    if let Err(why) = check_name(stream, rule, user, config) {
        let text = format!("certificate authentication failed for user \"{user}\"");
        return Err(Failure::because(Refusal::new(SqlState::INVALID_AUTHORIZATION, text), why));
    }
    let Some(password) = verifiers.password(user) else {
        let text = format!("the proxy has no password to log in at the members with as user \"{user}\"");
        let refusal = Refusal::new(SqlState::INVALID_AUTHORIZATION, text)
            .with_detail("A login by \"cert\" or \"trust\" proves nothing that the members could be shown.")
            .with_hint(
                "Give the user a password or a password_file under [[users]] of the proxy's configuration.",
            );
        return Err(Failure::because(refusal, format!("by the rule in line {}", rule.line)));
    };
    let mut greeting = Vec::with_capacity(64);
    if startup.needs_negotiation() {
        login::negotiate_protocol_version(&mut greeting, startup);
    }
    Ok(Proof { greeting, secret: Secret::Password(password), role: None })
}

/// Whether the client's certificate names the user, where the rule says that it has to.
///
/// # Errors
/// Why it doesn't, for the operator.
fn check_name(stream: &Stream, rule: &HbaRule, user: &str, config: &HandshakeConfig) -> Result<(), String> {
    if rule.client_cert != ClientCert::VerifyFull {
        return Ok(());
    }
    let name = stream.peer_certificate().and_then(common_name);
    let name = name.ok_or("the client's certificate has no common name")?;
    if config.rules.may_be(rule.map.as_deref(), &name, user) {
        return Ok(());
    }
    let by = rule.map.as_ref().map(|map| format!(" by the map {map:?}")).unwrap_or_default();
    Err(format!("the client's certificate is {name:?}'s, who is not this user{by}"))
}

/// The SCRAM exchange.
async fn authenticate(
    stream: &mut Stream,
    startup: &Startup,
    user: &Arc<str>,
    config: &HandshakeConfig,
    verifiers: &Verifiers,
) -> Step<(Proven, Subject)> {
    let start = ServerStart::new(channel(stream, config), Nonce::from_random(rand::random()));
    let mut out = Vec::with_capacity(128);
    if startup.needs_negotiation() {
        login::negotiate_protocol_version(&mut out, startup);
    }
    login::authentication_sasl(&mut out, start.mechanisms());
    stream.write_all(&out).await?;

    // The lookup runs while the client thinks.
    let response = read_response(stream, user);
    let (message, subject) = tokio::join!(response, verifiers.subject(user));
    let message = match message? {
        Ok(message) => message,
        Err(failure) => return Ok(Err(failure)),
    };
    let subject = match subject {
        Ok(subject) => subject,
        Err(error) => return Ok(Err(no_lookup(&error))),
    };
    let Some((mechanism, first)) = login::sasl_initial_response(&message) else {
        return Ok(Err(scram_refusal(ScramError::Mechanism, user).into()));
    };
    let challenge = match start.handle_client_first(mechanism, first, subject.verifier.clone()) {
        Ok(challenge) => challenge,
        Err(error) => return Ok(Err(scram_refusal(error, user).into())),
    };
    out.clear();
    login::authentication_sasl_continue(&mut out, challenge.server_first());
    stream.write_all(&out).await?;

    let message = match read_response(stream, user).await? {
        Ok(message) => message,
        Err(failure) => return Ok(Err(failure)),
    };
    Ok(match challenge.handle_client_final(&message) {
        Ok(proven) => Ok((proven, subject)),
        Err(error) => {
            verifiers.doubt(user);
            let why = subject.unusable.filter(|_| error == ScramError::WrongProof);
            Err(Failure {
                why: why.map(|why: Unusable| why.to_string()),
                ..scram_refusal(error, user).into()
            })
        }
    })
}

/// Whether a role that has proved itself may come in.
fn admit(
    user: &Arc<str>,
    startup: &Startup,
    role: Option<&Role>,
    limits: &ClientLimits,
    verifiers: &Verifiers,
) -> Result<RoleGuard, Refusal> {
    if role.is_some_and(|role| !role.can_login) {
        let text = format!("role \"{user}\" is not permitted to log in");
        return Err(Refusal::new(SqlState::INVALID_AUTHORIZATION, text));
    }
    let too_many =
        |whose| Refusal::new(SqlState::TOO_MANY_CONNECTIONS, format!("too many connections for {whose}"));
    // The role's own limit and a database's are not for superusers, who may have to see to what fills it up.
    let superuser = role.is_some_and(|role| role.superuser);
    let own = role.and_then(|role| role.connection_limit).filter(|_| !superuser);
    let limit = own.into_iter().chain(limits.users.get(&**user).copied()).min();
    let of_role = verifiers.count_session(user, limit).ok_or_else(|| too_many(format!("role \"{user}\"")))?;
    let in_database = match startup.replication {
        // It goes to no database.
        Replication::Physical => None,
        Replication::None | Replication::Logical => {
            let database = Arc::from(startup.database.as_str());
            let limit = limits.databases.get(&*database).copied().filter(|_| !superuser);
            let counted = verifiers.count_in_database(&database, limit);
            Some(counted.ok_or_else(|| too_many(format!("database \"{database}\"")))?)
        }
    };
    Ok(RoleGuard { _of_role: of_role, _in_database: in_database })
}

/// The body of the client's next message, which has to be a SASL response.
async fn read_response(stream: &mut Stream, user: &str) -> Step<Vec<u8>> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).await?;
    if header[0] != frontend::PASSWORD {
        let text = format!("expected SASL response, got message type {}", header[0]);
        return Ok(Err(Refusal::new(SqlState::PROTOCOL_VIOLATION, text).into()));
    }
    let Ok(Some(len)) = frame_len(&header, MAX_PASSWORD_MESSAGE) else {
        let why = Some("a message of the login is too long".to_owned());
        return Ok(Err(Failure { why, ..wrong_password(user).into() }));
    };
    let mut message = vec![0; len - HEADER_LEN];
    stream.read_exact(&mut message).await?;
    Ok(Ok(message))
}

fn channel(stream: &Stream, config: &HandshakeConfig) -> Channel {
    let end_point = config.tls.as_ref().and_then(|tls| tls.end_point.clone());
    end_point.filter(|_| stream.is_tls()).map_or(Channel::Unbound, Channel::ServerEndPoint)
}

fn wrong_password(user: &str) -> Refusal {
    Refusal::new(SqlState::INVALID_PASSWORD, format!("password authentication failed for user \"{user}\""))
}

fn no_lookup(error: &LookupError) -> Failure {
    let text = "the proxy can't check passwords now: no primary answers";
    Failure::because(Refusal::new(SqlState::CANNOT_CONNECT_NOW, text), error.to_string())
}

fn scram_refusal(error: ScramError, user: &str) -> Refusal {
    match error {
        ScramError::WrongProof => wrong_password(user),
        ScramError::Mechanism => Refusal::new(SqlState::PROTOCOL_VIOLATION, error.to_string()),
        ScramError::Nonce => Refusal::new(SqlState::PROTOCOL_VIOLATION, "invalid SCRAM response")
            .with_detail("Nonce does not match."),
        ScramError::ChannelBinding => Refusal::new(SqlState::INVALID_AUTHORIZATION, error.to_string()),
        ScramError::Downgrade => Refusal::new(SqlState::INVALID_AUTHORIZATION, error.to_string()).with_detail(
            "The client supports SCRAM channel binding but thinks the server does not.  However, this server does \
             support channel binding.",
        ),
        ScramError::Malformed(detail) => {
            Refusal::new(SqlState::PROTOCOL_VIOLATION, "malformed SCRAM message").with_detail(detail)
        }
        ScramError::TooManyIterations(_) | ScramError::ServerSignature | ScramError::ServerError => {
            Refusal::new(SqlState::INTERNAL_ERROR, "SCRAM exchange failed")
        }
    }
}
