//! RFC 7677's exchange, both sides against each other, and what must be refused.

use super::*;

// RFC 7677, section 3: user "user", password "pencil".
const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_FIRST: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                            p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn pencil() -> Verifier {
    let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().try_into().unwrap();
    Verifier::from_password("pencil", salt, 4096)
}

fn challenge(client_first: &str, channel: Channel, mechanism: &str) -> Result<ServerChallenge, ScramError> {
    ServerStart::new(channel, Nonce::literal(SERVER_NONCE)).handle_client_first(
        mechanism,
        client_first.as_bytes(),
        pencil(),
    )
}

/// Both sides against each other; the keys that the server recovered.
fn log_in(
    verifier: &Verifier,
    channels: (Channel, Channel),
    keys: impl FnOnce(&ClientChallenged) -> LoginKeys,
) -> Result<LoginKeys, ScramError> {
    let server = ServerStart::new(channels.0, Nonce::from_random([7; 18]));
    let client =
        ClientStart::new(server.mechanisms().iter().copied(), channels.1, Nonce::from_random([9; 18]))?;
    let challenge =
        server.handle_client_first(client.mechanism(), client.client_first().as_bytes(), verifier.clone())?;
    let challenged = client.handle_server_first(challenge.server_first().as_bytes())?;
    let keys = keys(&challenged);
    let proved = challenged.prove(&keys);
    let proven = challenge.handle_client_final(proved.client_final().as_bytes())?;
    proved.handle_server_final(proven.server_final.as_bytes())?;
    Ok(proven.keys)
}

fn unbound() -> (Channel, Channel) {
    (Channel::Unbound, Channel::Unbound)
}

#[test]
fn the_server_follows_rfc_7677() {
    let challenge = challenge(CLIENT_FIRST, Channel::Unbound, SCRAM_SHA_256).unwrap();
    assert_eq!(challenge.server_first(), SERVER_FIRST);
    let proven = challenge.handle_client_final(CLIENT_FINAL.as_bytes()).unwrap();
    assert_eq!(proven.server_final, SERVER_FINAL);
}

#[test]
fn a_wrong_proof_is_refused() {
    let challenge = challenge(CLIENT_FIRST, Channel::Unbound, SCRAM_SHA_256).unwrap();
    let wrong = CLIENT_FINAL.replace("p=dHzb", "p=eHzb");
    assert_eq!(challenge.handle_client_final(wrong.as_bytes()).unwrap_err(), ScramError::WrongProof);
}

#[test]
fn the_verifier_has_postgres_form() {
    let text = pencil().to_secret_string();
    assert_eq!(
        text,
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
         WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    );
    assert!(Verifier::parse(&text).unwrap().same_as(&pencil()));
    assert!(Verifier::parse(&text).unwrap().matches("pencil").is_some());
    assert!(pencil().matches("pen").is_none());
}

#[test]
fn what_is_no_verifier_is_refused() {
    let good = pencil().to_secret_string();
    for bad in [
        "",
        "secret",
        "SCRAM-SHA-256$0:W22ZaJ0SNY7soEsUEjb6gQ==$a:b",
        &good.replace("4096", "-1"),
        &good.replace("4096", "4294967296"),
        &good[..good.len() - 4],
        &good.replace("$4096:", "$4096"),
        &good.replace("W22", "!22"),
    ] {
        assert_eq!(Verifier::parse(bad).unwrap_err(), VerifierError::Malformed, "{bad}");
    }
    let md5 = Verifier::parse("md58fe2b6a0cb1e6b8d6b2a8d3e4f5a6b7c").unwrap_err();
    assert_eq!(md5, VerifierError::Md5);
}

#[test]
fn the_recovered_client_key_logs_in() {
    let keys = log_in(&pencil(), unbound(), |c| c.derivation("pencil").unwrap().run()).unwrap();
    log_in(&pencil(), unbound(), |_| keys).unwrap();
}

#[test]
fn a_wrong_password_fails() {
    let outcome = log_in(&pencil(), unbound(), |c| c.derivation("pen").unwrap().run());
    assert_eq!(outcome.unwrap_err(), ScramError::WrongProof);
}

#[test]
fn passwords_are_prepared_as_postgres_does() {
    // A soft hyphen is mapped to nothing, a non-breaking space to a space (RFC 4013).
    let verifier = Verifier::from_password("I\u{ad}X\u{a0}y", [1; 16], 4096);
    log_in(&verifier, unbound(), |c| c.derivation("IX y").unwrap().run()).unwrap();
    // What can't be prepared is taken as it is.
    let verifier = Verifier::from_password("a\u{7}b", [1; 16], 4096);
    log_in(&verifier, unbound(), |c| c.derivation("a\u{7}b").unwrap().run()).unwrap();
}

#[test]
fn a_made_up_verifier_is_stable_and_never_fulfilled() {
    let mock = Verifier::mock(b"cluster", "nobody");
    assert!(mock.same_as(&Verifier::mock(b"cluster", "nobody")));
    assert!(!mock.same_as(&Verifier::mock(b"cluster", "somebody")));
    assert!(!mock.same_as(&Verifier::mock(b"another", "nobody")));
    assert_eq!(mock.salt.len(), 16);
    let outcome = log_in(&mock, unbound(), |c| c.derivation("guess").unwrap().run());
    assert_eq!(outcome.unwrap_err(), ScramError::WrongProof);
    // Not even by who knows the keys.
    let mut fulfilled = pencil();
    fulfilled.doomed = true;
    let outcome = log_in(&fulfilled, unbound(), |c| c.derivation("pencil").unwrap().run());
    assert_eq!(outcome.unwrap_err(), ScramError::WrongProof);
}

#[test]
fn the_channel_is_bound() {
    let bound = |hash: u8| Channel::ServerEndPoint(vec![hash; 32]);
    let run = |server, client| log_in(&pencil(), (server, client), |c| c.derivation("pencil").unwrap().run());
    run(bound(1), bound(1)).unwrap();
    assert_eq!(run(bound(1), bound(2)).unwrap_err(), ScramError::ChannelBinding);
    // A client that can't bind may go without; one that can, and was not offered it, says so by `y`.
    run(bound(1), Channel::Unbound).unwrap();
    run(Channel::Unbound, bound(1)).unwrap();
    let downgraded = challenge("y,,n=,r=abc", bound(1), SCRAM_SHA_256);
    assert_eq!(downgraded.unwrap_err(), ScramError::Downgrade);
}

#[test]
fn malformed_first_messages_are_refused() {
    for bad in [
        "",
        "n",
        "n,",
        "n,,",
        "n,,n=user",
        "n,,n=user,r=",
        "n,,r=abc",
        "n,a=other,n=user,r=abc",
        "n,,m=ext,n=user,r=abc",
        "x,,n=user,r=abc",
        "p=tls-unique,,n=,r=abc",
        "p=tls-server-end-point,,n=,r=abc",
        "n,,n=,r=a\u{e9}c",
        "n,,n=,r=a\0c",
    ] {
        let outcome = challenge(bad, Channel::Unbound, SCRAM_SHA_256);
        assert!(matches!(outcome, Err(ScramError::Malformed(_))), "{bad:?}: {outcome:?}");
    }
    let not_offered = challenge("p=tls-server-end-point,,n=,r=abc", Channel::Unbound, SCRAM_SHA_256_PLUS);
    assert_eq!(not_offered.unwrap_err(), ScramError::Mechanism);
    let contradiction = challenge("n,,n=,r=abc", Channel::ServerEndPoint(vec![1]), SCRAM_SHA_256_PLUS);
    assert!(matches!(contradiction, Err(ScramError::Malformed(_))));
}

#[test]
fn malformed_final_messages_are_refused() {
    let nonce = format!("{CLIENT_NONCE}{SERVER_NONCE}");
    let cases = [
        (String::new(), ScramError::Malformed("no client proof")),
        ("c=biws".into(), ScramError::Malformed("no client proof")),
        (CLIENT_FINAL.replace("c=biws", "c=eSws"), ScramError::ChannelBinding),
        (CLIENT_FINAL.replace("%hv", "%hw"), ScramError::Nonce),
        (format!("c=biws,r={nonce},p=AAAA"), ScramError::Malformed("malformed proof")),
        (format!("r={nonce},p=AAAA"), ScramError::Malformed("no channel binding")),
    ];
    for (message, expected) in cases {
        let challenge = challenge(CLIENT_FIRST, Channel::Unbound, SCRAM_SHA_256).unwrap();
        assert_eq!(challenge.handle_client_final(message.as_bytes()).unwrap_err(), expected, "{message}");
    }
}

#[test]
fn the_client_checks_the_server() {
    let start = || {
        ClientStart::new([SCRAM_SHA_256], Channel::Unbound, Nonce::literal(CLIENT_NONCE))
            .unwrap()
            .handle_server_first(SERVER_FIRST.as_bytes())
            .unwrap()
    };
    let keys = start().derivation("pencil").unwrap().run();
    let wrong = start().prove(&keys).handle_server_final(SERVER_FINAL.as_bytes());
    // The RFC's exchange names the user inside SCRAM, ours does not, so its signature is not ours.
    assert_eq!(wrong, Err(ScramError::ServerSignature));
    assert_eq!(start().prove(&keys).handle_server_final(b"e=invalid-proof"), Err(ScramError::ServerError));
}

#[test]
fn the_client_refuses_bad_challenges() {
    let take = |message: &str| {
        ClientStart::new([SCRAM_SHA_256], Channel::Unbound, Nonce::literal(CLIENT_NONCE))
            .unwrap()
            .handle_server_first(message.as_bytes())
    };
    assert_eq!(take("r=other,s=AAAA,i=4096").unwrap_err(), ScramError::Nonce);
    assert_eq!(take(&format!("r={CLIENT_NONCE},s=AAAA,i=4096")).unwrap_err(), ScramError::Nonce);
    for bad in ["", "s=AAAA", "r=rOprNGfwEbeRWgbNEkqOx,s=A,i=1", "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=0"] {
        assert!(matches!(take(bad), Err(ScramError::Malformed(_))), "{bad}");
    }
    let slow = take(&format!("r={CLIENT_NONCE}x,s=AAAA,i=100001")).unwrap();
    assert_eq!(slow.derivation("x").unwrap_err(), ScramError::TooManyIterations(100_001));
    let none = ClientStart::new(["GSSAPI"], Channel::Unbound, Nonce::literal("a"));
    assert!(matches!(none, Err(ScramError::Malformed(_))));
}

#[test]
fn nothing_secret_is_shown() {
    let keys = log_in(&pencil(), unbound(), |c| c.derivation("pencil").unwrap().run()).unwrap();
    let shown = format!("{keys:?} {:?}", pencil());
    assert!(!shown.contains("WG5d") && !shown.contains('['), "{shown}");
}
