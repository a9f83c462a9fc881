//! PURE: SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, both sides, each a chain of types.
//!
//! As server: [`ServerStart`] takes the client's first message, [`ServerChallenge`] its proof, which yields the
//! [`ClientKey`]. As client: [`ClientStart`], [`ClientChallenged`], [`ClientProved`]; it logs in with a ClientKey
//! alone, or with a password, whose slow [`Derivation`] the caller runs where it hurts nobody. Nonces come in
//! from outside, so that every exchange can be replayed.
//!
//! Sources: RFC 5802, RFC 7677, RFC 5929 (`tls-server-end-point`); PostgreSQL's `auth-scram.c` for what a server
//! refuses and in which words.

mod client;
mod credentials;
mod keys;
mod message;
mod server;
mod verifier;

#[cfg(test)]
mod tests;

pub use client::{ClientChallenged, ClientProved, ClientStart, Derivation, MAX_ITERATIONS};
pub use credentials::{Credentials, Keys, LookupError, Password, Role, Secret, Unusable};
pub use keys::{ClientKey, LoginKeys, ServerKey};
pub use server::{Proven, ServerChallenge, ServerStart};
pub use verifier::{DEFAULT_ITERATIONS, Verifier, VerifierError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism with channel binding.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// The TLS channel as SCRAM sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Channel {
    /// No TLS, or a certificate for which no binding is defined: only SCRAM-SHA-256.
    Unbound,
    /// `tls-server-end-point`: the hash of the server's certificate.
    ServerEndPoint(Vec<u8>),
}

/// One side's part of the nonce: printable, without a comma.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// From 18 random bytes, as PostgreSQL's own nonces.
    pub fn from_random(random: [u8; 18]) -> Self {
        Self(STANDARD.encode(random))
    }

    #[cfg(test)]
    pub(crate) fn literal(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Why an exchange can't go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// The other side's message is not SCRAM; the text says what is wrong with it.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The client picked a mechanism that was not offered.
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    /// The nonce is not the one of this exchange, or does not extend ours.
    #[error("invalid SCRAM response: nonce does not match")]
    Nonce,
    /// The client can bind the channel and thinks that we can't: somebody took our offer out.
    #[error("SCRAM channel binding negotiation error")]
    Downgrade,
    /// The two sides don't see the same TLS channel.
    #[error("SCRAM channel binding check failed")]
    ChannelBinding,
    /// The proof is wrong: a wrong password.
    #[error("SCRAM proof does not match")]
    WrongProof,
    /// The server asks for more iterations than are allowed.
    #[error("server asks for {0} SCRAM iterations, over the limit of {MAX_ITERATIONS}")]
    TooManyIterations(u32),
    /// The server doesn't know the verifier: it is not the one it says it is.
    #[error("server signature does not match")]
    ServerSignature,
    /// The server ended the exchange with an error of its own.
    #[error("server refused the SCRAM exchange")]
    ServerError,
}
