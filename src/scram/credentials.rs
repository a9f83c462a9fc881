//! What a session keeps of its login, so that backends can be opened for it; and what a server knows of a role.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use super::client::{ClientChallenged, Derivation};
use super::keys::LoginKeys;
use super::{ScramError, Verifier};

/// A user and what proves it to a server.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The user.
    pub user: Arc<str>,
    /// The proof.
    pub secret: Secret,
}

/// How a user proves itself to a server. Its `Debug` shows no secret.
#[derive(Debug, Clone)]
pub enum Secret {
    /// By keys taken from the user's own login.
    Keys(LoginKeys),
    /// By a password from the configuration.
    Password(Arc<Password>),
    /// Not at all: a client certificate does, or the server asks for nothing.
    None,
}

/// A password, with the keys that were last derived from it: servers that hold the same verifier cost one
/// derivation.
pub struct Password {
    text: Zeroizing<String>,
    derived: Mutex<Option<Derived>>,
}

struct Derived {
    salt: Vec<u8>,
    iterations: u32,
    keys: LoginKeys,
}

/// How keys come from a password for one challenge.
#[derive(Debug)]
pub enum Keys {
    /// They are known.
    Known(LoginKeys),
    /// They have to be derived, off the worker, and then given to [`Password::keep`].
    Derive(Derivation),
}

/// What the primary says of a role.
#[derive(Debug, Clone)]
pub struct Role {
    /// The verifier, or why there is none that SCRAM can use.
    pub verifier: Result<Verifier, Unusable>,
    /// `LOGIN`.
    pub can_login: bool,
    /// `VALID UNTIL` in seconds since 1970, infinite where there is no end.
    pub valid_until: f64,
    /// `CONNECTION LIMIT`; none is no limit.
    pub connection_limit: Option<u32>,
    /// `SUPERUSER`: exempt from the connection limit.
    pub superuser: bool,
    /// `REPLICATION`.
    pub replication: bool,
}

/// Why a role can't log in with a password: for the operator's log, the client hears of a wrong password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// No such role.
    #[error("no such role")]
    Unknown,
    /// It has no password.
    #[error("the role has no password")]
    NoPassword,
    /// Its password is kept in a form that SCRAM can't use.
    #[error(transparent)]
    Verifier(#[from] super::VerifierError),
    /// `VALID UNTIL` is over.
    #[error("the role's password has expired")]
    Expired,
}

/// Why the primary could not be asked about a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is no primary now.
    #[error("there is no primary")]
    NoPrimary,
    /// Too many lookups are under way, or one took too long.
    #[error("the lookup took too long")]
    TimedOut,
    /// No lookup is configured.
    #[error("no lookup role is configured")]
    NotConfigured,
    /// The lookup failed; the text says why.
    #[error("{0}")]
    Failed(String),
}

impl Credentials {
    /// Whether servers can't tell two from each other. Two passwords count as different unless they are one object.
    pub fn are_same(&self, other: &Self) -> bool {
        let same = match (&self.secret, &other.secret) {
            (Secret::Keys(keys), Secret::Keys(others)) => keys.are_same(others),
            (Secret::Password(password), Secret::Password(other)) => Arc::ptr_eq(password, other),
            (Secret::None, Secret::None) => true,
            _ => false,
        };
        same && self.user == other.user
    }
}

impl Role {
    /// The verifier, if the role can prove itself by a password at `unix_time` (seconds since 1970).
    ///
    /// # Errors
    /// [`Unusable`], also when the password has expired.
    pub fn verifier_at(&self, unix_time: f64) -> Result<&Verifier, Unusable> {
        let verifier = self.verifier.as_ref().map_err(|&why| why)?;
        if self.valid_until < unix_time { Err(Unusable::Expired) } else { Ok(verifier) }
    }
}

impl Password {
    /// From its text.
    pub fn new(text: &str) -> Self {
        Self { text: Zeroizing::new(text.to_owned()), derived: Mutex::new(None) }
    }

    /// The keys for a challenge, or how to get them.
    ///
    /// # Errors
    /// [`ScramError::TooManyIterations`].
    pub fn keys_for(&self, challenge: &ClientChallenged) -> Result<Keys, ScramError> {
        let derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        match &*derived {
            Some(known) if challenge.asks_for(&known.salt, known.iterations) => {
                Ok(Keys::Known(known.keys.clone()))
            }
            _ => challenge.derivation(&self.text).map(Keys::Derive),
        }
    }

    /// Keeps what was derived for a challenge.
    pub fn keep(&self, challenge: &ClientChallenged, keys: &LoginKeys) {
        let (salt, iterations) = challenge.cost();
        let derived = Derived { salt: salt.to_vec(), iterations, keys: keys.clone() };
        *self.derived.lock().unwrap_or_else(PoisonError::into_inner) = Some(derived);
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(redacted)")
    }
}
