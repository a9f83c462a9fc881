//! Any bytes as each message of an exchange, on both sides: only who knows the password gets through.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pg_ha_proxy::scram::{
    Channel, ClientStart, LoginKeys, Nonce, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ServerStart, Verifier,
};

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| Verifier::from_password("secret", [7; 16], 2));
static KEYS: LazyLock<LoginKeys> = LazyLock::new(|| VERIFIER.matches("secret").expect("its own password"));

fuzz_target!(|data: &[u8]| {
    let Some((&how, message)) = data.split_first() else { return };
    let channel = || if how & 1 == 0 { Channel::Unbound } else { Channel::ServerEndPoint(vec![3; 32]) };
    server(how, message, channel());
    client(message, channel());
    if let Ok(text) = std::str::from_utf8(message)
        && let Ok(verifier) = Verifier::parse(text)
    {
        assert!(Verifier::parse(&verifier.to_secret_string()).is_ok_and(|again| again.same_as(&verifier)));
    }
});

/// The message comes to a server: as the first, and as the proof of an exchange that was begun well.
fn server(how: u8, message: &[u8], channel: Channel) {
    let mechanism = if how & 2 == 0 { SCRAM_SHA_256 } else { SCRAM_SHA_256_PLUS };
    let start = ServerStart::new(channel.clone(), Nonce::from_random([1; 18]));
    // its two halves as both messages
    let middle = message.iter().position(|byte| *byte == b'\n').unwrap_or(message.len());
    let (first, last) = message.split_at(middle);
    if let Ok(challenge) = start.handle_client_first(mechanism, first, VERIFIER.clone()) {
        assert!(
            challenge.handle_client_final(last.get(1..).unwrap_or_default()).is_err(),
            "without the password"
        );
    }
    let client = begin(channel.clone());
    let start = ServerStart::new(channel, Nonce::from_random([1; 18]));
    let (mechanism, first) = (client.mechanism(), client.client_first());
    let challenge =
        start.handle_client_first(mechanism, first.as_bytes(), VERIFIER.clone()).expect("well begun");
    let proved =
        client.handle_server_first(challenge.server_first().as_bytes()).expect("its challenge").prove(&KEYS);
    if challenge.handle_client_final(message).is_ok() {
        assert_eq!(message, proved.client_final().as_bytes(), "another proof than the right one");
    }
}

/// The message comes to a client: as the challenge, and as the server's signature.
fn client(message: &[u8], channel: Channel) {
    let client = begin(channel);
    if let Ok(challenged) = client.handle_server_first(message) {
        let _ = challenged.derivation("secret");
        let proved = challenged.prove(&KEYS);
        assert!(proved.client_final().starts_with("c="));
        assert!(proved.handle_server_final(message).is_err(), "a challenge is no signature");
    }
}

fn begin(channel: Channel) -> ClientStart {
    let offered = [SCRAM_SHA_256, SCRAM_SHA_256_PLUS];
    ClientStart::new(offered, channel, Nonce::from_random([2; 18])).expect("both mechanisms")
}
