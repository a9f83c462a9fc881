//! The server's side: challenge a client, check its proof, keep its ClientKey.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::keys::{KEY_LEN, LoginKeys};
use super::message::{attribute, key, nonce, text};
use super::{Channel, Nonce, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError, Verifier};

const BINDING_TYPE: &str = "tls-server-end-point";

/// Offers mechanisms and waits for the client's first message.
#[derive(Debug)]
pub struct ServerStart {
    channel: Channel,
    nonce: Nonce,
}

/// Has sent its challenge and waits for the client's proof.
#[derive(Debug)]
pub struct ServerChallenge {
    verifier: Verifier,
    /// What the `c=` of the proof must hold: the GS2 header, and the channel's hash if it is bound.
    binding: String,
    /// What both sides sign, as far as it has been said: the client's first message without its header, and the challenge.
    said: String,
    /// Where in it the challenge begins.
    server_first: usize,
    /// Where in it the nonce stands.
    nonce: Range<usize>,
}

/// The client has proved the password.
#[derive(Debug)]
pub struct Proven {
    /// With these the same user logs in at every server that holds the same verifier.
    pub keys: LoginKeys,
    /// Goes into AuthenticationSASLFinal.
    pub server_final: String,
}

/// How the client wants the channel bound, from the front of its first message.
struct Gs2<'a> {
    header: &'a str,
    bound: bool,
    bare: &'a str,
}

impl ServerStart {
    /// For one login on `channel`; `nonce` fresh from a random source.
    pub fn new(channel: Channel, nonce: Nonce) -> Self {
        Self { channel, nonce }
    }

    /// The mechanisms to offer, strongest first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        match self.channel {
            Channel::Unbound => &[SCRAM_SHA_256],
            Channel::ServerEndPoint(_) => &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256],
        }
    }

    /// Takes the client's first message and makes the challenge from the user's verifier.
    ///
    /// # Errors
    /// [`ScramError::Malformed`] for what is not SCRAM, [`ScramError::Mechanism`] for one that was not offered,
    /// [`ScramError::Downgrade`] when the offer of channel binding did not reach the client.
    pub fn handle_client_first(
        self,
        mechanism: &str,
        message: &[u8],
        verifier: Verifier,
    ) -> Result<ServerChallenge, ScramError> {
        if !self.mechanisms().contains(&mechanism) {
            return Err(ScramError::Mechanism);
        }
        let gs2 = gs2(text(message)?, &self.channel)?;
        if gs2.bound != (mechanism == SCRAM_SHA_256_PLUS) {
            return Err(ScramError::Malformed("mechanism and channel binding flag contradict each other"));
        }
        let mut binding = gs2.header.as_bytes().to_vec();
        if let (true, Channel::ServerEndPoint(hash)) = (gs2.bound, &self.channel) {
            binding.extend_from_slice(hash);
        }
        // The user's name stands in the startup packet; PostgreSQL ignores the one in here, and so do we.
        let (_user, rest) = attribute(gs2.bare, 'n', "no user name")?;
        let (client_nonce, _extensions) = attribute(rest, 'r', "no nonce")?;
        let client_nonce = nonce(client_nonce)?;
        // With room for the client's last word, which is as long as header, nonce and proof.
        let mut said = String::with_capacity(2 * message.len() + 256);
        said.push_str(gs2.bare);
        said.push(',');
        let server_first = said.len();
        said.push_str("r=");
        let nonce = said.len();
        said.push_str(client_nonce);
        said.push_str(&self.nonce.0);
        let nonce = nonce..said.len();
        said.push_str(",s=");
        STANDARD.encode_string(&verifier.salt, &mut said);
        said.push_str(",i=");
        said.push_str(&verifier.iterations.to_string());
        Ok(ServerChallenge { verifier, binding: STANDARD.encode(binding), said, server_first, nonce })
    }
}

impl ServerChallenge {
    /// Goes into AuthenticationSASLContinue.
    pub fn server_first(&self) -> &str {
        &self.said[self.server_first..]
    }

    /// Checks the client's proof.
    ///
    /// # Errors
    /// [`ScramError::WrongProof`] for a wrong password or a made-up verifier, the others for a message that is
    /// not an answer to this challenge.
    pub fn handle_client_final(mut self, message: &[u8]) -> Result<Proven, ScramError> {
        let message = text(message)?;
        // The proof is the last attribute, and all before it is signed.
        let (without_proof, proof) =
            message.rsplit_once(",p=").ok_or(ScramError::Malformed("no client proof"))?;
        let (binding, rest) = attribute(without_proof, 'c', "no channel binding")?;
        let (nonce, _extensions) = attribute(rest, 'r', "no nonce")?;
        if binding != self.binding {
            return Err(ScramError::ChannelBinding);
        }
        if nonce != &self.said[self.nonce.clone()] {
            return Err(ScramError::Nonce);
        }
        let proof = key::<KEY_LEN>(proof, "malformed proof")?;
        self.said.push(',');
        self.said.push_str(without_proof);
        let auth_message = &*self.said;
        let opened = self.verifier.stored_key.open(&proof, auth_message);
        let client_key = opened.filter(|_| !self.verifier.doomed).ok_or(ScramError::WrongProof)?;
        let signature = self.verifier.server_key().sign(auth_message);
        let mut server_final = String::with_capacity(64);
        server_final.push_str("v=");
        STANDARD.encode_string(signature, &mut server_final);
        Ok(Proven { keys: self.verifier.login_keys(client_key), server_final })
    }
}

fn gs2<'a>(message: &'a str, channel: &Channel) -> Result<Gs2<'a>, ScramError> {
    let (flag, rest) = message.split_once(',').ok_or(ScramError::Malformed("no GS2 header"))?;
    let bound = match (flag, channel) {
        ("n", _) | ("y", Channel::Unbound) => false,
        ("y", Channel::ServerEndPoint(_)) => return Err(ScramError::Downgrade),
        (flag, _) => match flag.strip_prefix("p=") {
            Some(BINDING_TYPE) => true,
            Some(_) => return Err(ScramError::Malformed("unsupported SCRAM channel-binding type")),
            None => return Err(ScramError::Malformed("unexpected channel-binding flag")),
        },
    };
    let (identity, bare) = rest.split_once(',').ok_or(ScramError::Malformed("no GS2 header"))?;
    if !identity.is_empty() {
        return Err(ScramError::Malformed("client uses authorization identity, but it is not supported"));
    }
    if bare.starts_with("m=") {
        return Err(ScramError::Malformed("client requires an unsupported SCRAM extension"));
    }
    let header = &message[..message.len() - bare.len()];
    Ok(Gs2 { header, bound, bare })
}
