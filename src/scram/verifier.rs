//! What a server keeps of a password: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in
//! `pg_authid.rolpassword`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::SCRAM_SHA_256;
use super::client::Derivation;
use super::keys::{ClientKey, KEY_LEN, LoginKeys, ServerKey, StoredKey, hmac};

/// PostgreSQL's default for `scram_iterations`; made-up verifiers use it too.
pub const DEFAULT_ITERATIONS: u32 = 4096;
/// Bytes of a salt that PostgreSQL makes.
const SALT_LEN: usize = 16;

/// A SCRAM-SHA-256 verifier. Its `Debug` shows nothing that helps to log in.
#[derive(Clone)]
pub struct Verifier {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: StoredKey,
    server_key: ServerKey,
    /// Made up for a user that can't log in: fails whatever is proved.
    pub(super) doomed: bool,
}

/// Why a text is not a verifier. The text itself is a secret and is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    /// An md5 hash, which SCRAM can't use.
    #[error("the password is stored as an md5 hash; set it again with password_encryption = 'scram-sha-256'")]
    Md5,
    /// Neither an md5 hash nor a SCRAM verifier.
    #[error("not a SCRAM-SHA-256 verifier")]
    Malformed,
}

impl Verifier {
    /// Reads PostgreSQL's form.
    ///
    /// # Errors
    /// [`VerifierError`] when it is another kind of secret.
    pub fn parse(text: &str) -> Result<Self, VerifierError> {
        let md5 = text.strip_prefix("md5").is_some_and(|hex| hex.len() == 32);
        read(text).ok_or(if md5 { VerifierError::Md5 } else { VerifierError::Malformed })
    }

    /// From a password, with `salt` fresh from a random source. Takes milliseconds.
    pub fn from_password(password: &str, salt: [u8; SALT_LEN], iterations: u32) -> Self {
        let keys = Derivation::new(password, &salt, iterations).run();
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: keys.client_key.stored(),
            server_key: keys.server_key,
            doomed: false,
        }
    }

    /// A made-up verifier for a user that has none: the same for the same user on every proxy of the cluster,
    /// never fulfilled.
    pub fn mock(cluster_secret: &[u8], user: &str) -> Self {
        let made_up = |what: &[u8]| hmac(cluster_secret, &[what, user.as_bytes()]);
        Self {
            iterations: DEFAULT_ITERATIONS,
            salt: made_up(b"")[..SALT_LEN].to_vec(),
            stored_key: StoredKey(made_up(b"StoredKey\0")),
            server_key: ServerKey::new(made_up(b"ServerKey\0")),
            doomed: true,
        }
    }

    /// What checks the server's signature when somebody logs in with this verifier's ClientKey.
    pub fn server_key(&self) -> &ServerKey {
        &self.server_key
    }

    /// Whether `other` is the same secret: the same keys under the same salt.
    pub fn same_as(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq;
        self.salt == other.salt
            && self.iterations == other.iterations
            && bool::from(self.stored_key.0.ct_eq(&other.stored_key.0))
    }

    /// Whether this password is the verifier's; takes milliseconds.
    pub fn matches(&self, password: &str) -> Option<LoginKeys> {
        use subtle::ConstantTimeEq;
        let keys = Derivation::new(password, &self.salt, self.iterations).run();
        let right = bool::from(keys.client_key.stored().0.ct_eq(&self.stored_key.0)) && !self.doomed;
        right.then_some(keys)
    }

    /// Both keys of a client that proved this verifier.
    pub fn login_keys(&self, client_key: ClientKey) -> LoginKeys {
        LoginKeys { client_key, server_key: self.server_key.clone() }
    }

    /// PostgreSQL's form of it. It is a secret: whoever has it can pose as the server.
    pub fn to_secret_string(&self) -> String {
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        format!(
            "{SCRAM_SHA_256}${}:{}${}:{}",
            self.iterations,
            encode(&self.salt),
            encode(&self.stored_key.0),
            encode(self.server_key.as_bytes())
        )
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

fn read(text: &str) -> Option<Verifier> {
    let rest = text.strip_prefix(SCRAM_SHA_256)?.strip_prefix('$')?;
    let (cost, keys) = rest.split_once('$')?;
    let (iterations, salt) = cost.split_once(':')?;
    let (stored_key, server_key) = keys.split_once(':')?;
    let key = |text: &str| <[u8; KEY_LEN]>::try_from(STANDARD.decode(text).ok()?).ok();
    let iterations = iterations.parse::<u32>().ok().filter(|&n| n > 0 && i32::try_from(n).is_ok())?;
    Some(Verifier {
        iterations,
        salt: STANDARD.decode(salt).ok()?,
        stored_key: StoredKey(key(stored_key)?),
        server_key: ServerKey::new(key(server_key)?),
        doomed: false,
    })
}
