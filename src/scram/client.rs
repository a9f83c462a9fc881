//! The client's side: log in with a ClientKey or a password, and check the server.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::keys::{KEY_LEN, LoginKeys};
use super::message::{attribute, key, nonce, text};
use super::{Channel, Nonce, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError};

/// The most iterations that a server may ask of a password login: some 50 ms of work.
pub const MAX_ITERATIONS: u32 = 100_000;

/// About to send its first message.
#[derive(Debug)]
pub struct ClientStart {
    channel: Channel,
    nonce: String,
    gs2_header: &'static str,
}

/// Has the server's challenge; keys are needed to go on.
#[derive(Debug)]
pub struct ClientChallenged {
    salt: Vec<u8>,
    iterations: u32,
    without_proof: String,
    auth_message: String,
}

/// Has sent its proof and waits for the server's.
#[derive(Debug)]
pub struct ClientProved {
    client_final: String,
    server_signature: [u8; KEY_LEN],
}

/// The slow step of a password login, apart so that it can run on a thread of its own.
pub struct Derivation {
    password: Zeroizing<Vec<u8>>,
    salt: Vec<u8>,
    iterations: u32,
}

impl ClientStart {
    /// Picks the mechanism: channel binding if the channel has it and the server offers it.
    ///
    /// # Errors
    /// [`ScramError::Malformed`] when the server offers neither mechanism.
    pub fn new<'a>(
        offered: impl IntoIterator<Item = &'a str>,
        channel: Channel,
        nonce: Nonce,
    ) -> Result<Self, ScramError> {
        let (mut plain, mut plus) = (false, false);
        for mechanism in offered {
            plain |= mechanism == SCRAM_SHA_256;
            plus |= mechanism == SCRAM_SHA_256_PLUS;
        }
        let (channel, gs2_header) = match channel {
            channel @ Channel::ServerEndPoint(_) if plus => (channel, "p=tls-server-end-point,,"),
            _ if !plain => return Err(ScramError::Malformed("server offers no SCRAM-SHA-256")),
            Channel::ServerEndPoint(_) => (Channel::Unbound, "y,,"),
            Channel::Unbound => (Channel::Unbound, "n,,"),
        };
        Ok(Self { channel, nonce: nonce.0, gs2_header })
    }

    /// The mechanism, for SASLInitialResponse.
    pub fn mechanism(&self) -> &'static str {
        match self.channel {
            Channel::Unbound => SCRAM_SHA_256,
            Channel::ServerEndPoint(_) => SCRAM_SHA_256_PLUS,
        }
    }

    /// The first message, for SASLInitialResponse. The user's name is left out, as libpq does: the startup
    /// packet has it.
    pub fn client_first(&self) -> String {
        format!("{}{}", self.gs2_header, self.client_first_bare())
    }

    /// Takes the server's challenge.
    ///
    /// # Errors
    /// [`ScramError::Nonce`] when the server's nonce does not extend ours, [`ScramError::Malformed`].
    pub fn handle_server_first(self, message: &[u8]) -> Result<ClientChallenged, ScramError> {
        let server_first = text(message)?;
        let (full_nonce, rest) = attribute(server_first, 'r', "no nonce")?;
        let (salt, rest) = attribute(rest, 's', "no salt")?;
        let (iterations, _extensions) = attribute(rest, 'i', "no iteration count")?;
        let extends = nonce(full_nonce)?.strip_prefix(&self.nonce).is_some_and(|more| !more.is_empty());
        if !extends {
            return Err(ScramError::Nonce);
        }
        let salt = STANDARD.decode(salt).map_err(|_| ScramError::Malformed("invalid salt"))?;
        let iterations = iterations.parse::<u32>().unwrap_or(0);
        if iterations == 0 {
            return Err(ScramError::Malformed("invalid iteration count"));
        }
        let without_proof = format!("c={},r={full_nonce}", STANDARD.encode(self.binding()));
        let auth_message = format!("{},{server_first},{without_proof}", self.client_first_bare());
        Ok(ClientChallenged { salt, iterations, without_proof, auth_message })
    }

    fn client_first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    fn binding(&self) -> Vec<u8> {
        let mut binding = self.gs2_header.as_bytes().to_vec();
        if let Channel::ServerEndPoint(hash) = &self.channel {
            binding.extend_from_slice(hash);
        }
        binding
    }
}

impl ClientChallenged {
    /// The derivation of the keys from a password, to be run off the worker.
    ///
    /// # Errors
    /// [`ScramError::TooManyIterations`] over [`MAX_ITERATIONS`].
    pub fn derivation(&self, password: &str) -> Result<Derivation, ScramError> {
        if self.iterations > MAX_ITERATIONS {
            return Err(ScramError::TooManyIterations(self.iterations));
        }
        Ok(Derivation::new(password, &self.salt, self.iterations))
    }

    /// Salt and iteration count.
    pub(super) fn cost(&self) -> (&[u8], u32) {
        (&self.salt, self.iterations)
    }

    pub(super) fn asks_for(&self, salt: &[u8], iterations: u32) -> bool {
        self.cost() == (salt, iterations)
    }

    /// Makes the proof.
    pub fn prove(self, keys: &LoginKeys) -> ClientProved {
        let proof = keys.client_key.prove(&self.auth_message);
        ClientProved {
            client_final: format!("{},p={}", self.without_proof, STANDARD.encode(proof)),
            server_signature: keys.server_key.sign(&self.auth_message),
        }
    }
}

impl ClientProved {
    /// The final message, for SASLResponse.
    pub fn client_final(&self) -> &str {
        &self.client_final
    }

    /// Checks that the server knows the verifier too, in constant time.
    ///
    /// # Errors
    /// [`ScramError::ServerSignature`] when it doesn't.
    pub fn handle_server_final(self, message: &[u8]) -> Result<(), ScramError> {
        let message = text(message)?;
        if message.starts_with("e=") {
            return Err(ScramError::ServerError);
        }
        let (signature, _extensions) = attribute(message, 'v', "no server signature")?;
        let signature = key::<KEY_LEN>(signature, "invalid server signature")?;
        if bool::from(signature.ct_eq(&self.server_signature)) {
            Ok(())
        } else {
            Err(ScramError::ServerSignature)
        }
    }
}

impl Derivation {
    /// A password is prepared by SASLprep (RFC 4013) where it can be, else taken as it is, as PostgreSQL does.
    pub(super) fn new(password: &str, salt: &[u8], iterations: u32) -> Self {
        let password = match stringprep::saslprep(password) {
            Ok(prepared) if !prepared.is_empty() => prepared.as_bytes().to_vec(),
            _ => password.as_bytes().to_vec(),
        };
        Self { password: Zeroizing::new(password), salt: salt.to_vec(), iterations }
    }

    /// Does the work: some 0.5 ms for each 1,000 iterations.
    pub fn run(self) -> LoginKeys {
        LoginKeys::derive(&self.password, &self.salt, self.iterations)
    }
}

impl fmt::Debug for Derivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derivation").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}
