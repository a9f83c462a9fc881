//! Keys and the arithmetic on them (RFC 5802, section 3).

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Length of every key, hash and signature, in bytes.
pub(super) const KEY_LEN: usize = 32;

/// What proves the password to any server that holds its verifier. Wiped on drop, never shown.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ClientKey([u8; KEY_LEN]);

/// What proves a server to its clients. Wiped on drop, never shown.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ServerKey([u8; KEY_LEN]);

/// The hash of the ClientKey, as the verifier holds it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct StoredKey(pub(super) [u8; KEY_LEN]);

/// What a client needs in order to log in without the password.
#[derive(Debug, Clone)]
pub struct LoginKeys {
    /// Proves the client.
    pub client_key: ClientKey,
    /// Checks the server.
    pub server_key: ServerKey,
}

impl ClientKey {
    /// From its 32 bytes.
    pub fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The StoredKey: its SHA-256.
    pub(super) fn stored(&self) -> StoredKey {
        StoredKey(Sha256::digest(self.0).into())
    }

    /// ClientProof = ClientKey XOR ClientSignature.
    pub(super) fn prove(&self, auth_message: &str) -> [u8; KEY_LEN] {
        xor(&self.0, &self.stored().sign(auth_message))
    }
}

impl ServerKey {
    /// From its 32 bytes.
    pub fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// ServerSignature over the exchange.
    pub(super) fn sign(&self, auth_message: &str) -> [u8; KEY_LEN] {
        hmac(&self.0, &[auth_message.as_bytes()])
    }
}

impl StoredKey {
    fn sign(&self, auth_message: &str) -> [u8; KEY_LEN] {
        hmac(&self.0, &[auth_message.as_bytes()])
    }

    /// The ClientKey inside a proof, if the proof is right. Compares in constant time.
    pub(super) fn open(&self, proof: &[u8; KEY_LEN], auth_message: &str) -> Option<ClientKey> {
        let key = ClientKey(xor(proof, &self.sign(auth_message)));
        bool::from(key.stored().0.ct_eq(&self.0)).then_some(key)
    }
}

impl LoginKeys {
    /// Whether two are the same. Compares in constant time.
    pub(super) fn are_same(&self, other: &Self) -> bool {
        let client = self.client_key.0.ct_eq(&other.client_key.0);
        bool::from(client & self.server_key.0.ct_eq(&other.server_key.0))
    }

    /// From a prepared password: PBKDF2 over `iterations` rounds, so milliseconds of work (RFC 5802's `Hi`).
    pub(super) fn derive(prepared: &[u8], salt: &[u8], iterations: u32) -> Self {
        let mut salted = Zeroizing::new([0; KEY_LEN]);
        pbkdf2::pbkdf2::<Hmac<Sha256>>(prepared, salt, iterations, salted.as_mut())
            .expect("HMAC takes keys of any length");
        Self {
            client_key: ClientKey(hmac(salted.as_ref(), &[b"Client Key"])),
            server_key: ServerKey(hmac(salted.as_ref(), &[b"Server Key"])),
        }
    }
}

/// HMAC-SHA-256 over `parts`, one behind the other.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_LEN] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn xor(a: &[u8; KEY_LEN], b: &[u8; KEY_LEN]) -> [u8; KEY_LEN] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

macro_rules! redacted {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(redacted)"))
            }
        }
    )*};
}
redacted!(ClientKey ServerKey StoredKey);
