//! TLS: both our sides against each other, channel binding included.

use std::path::PathBuf;
use std::sync::Arc;

use pg_ha_proxy::backend::ConnectError;
use pg_ha_proxy::client::{HandshakeConfig, HandshakeError};
use pg_ha_proxy::config::{Tls, TlsMode, User, UserSecret};
use pg_ha_proxy::net::tls::{ClientTls, ServerTls};
use pg_ha_proxy::net::{Socket, Stream};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::credentials;
use crate::proxy::{Proxy, client_tls, connect, handshake_config, tls, verifiers};

struct Certificate {
    folder: TempDir,
    server: ServerTls,
}

impl Certificate {
    /// Signed by itself, for this name.
    fn new(name: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec![name.into()]).unwrap().self_signed(&key).unwrap();
        let (chain_file, key_file) = (folder.path().join("crt"), folder.path().join("key"));
        std::fs::write(&chain_file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let config = Tls { certificate: Some(chain_file), key: Some(key_file), ..tls(TlsMode::Prefer, None) };
        let server = ServerTls::new(&config).unwrap().unwrap();
        Self { folder, server }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("crt")
    }
}

fn proxy(config: HandshakeConfig) -> Proxy {
    let users = [User { name: "app".into(), secret: UserSecret::Password(Arc::from("secret")) }];
    Proxy::start(config, verifiers(&users, None), None)
}

#[tokio::test]
async fn every_mode_checks_what_it_says() {
    let (ours, other) = (Certificate::new("localhost"), Certificate::new("localhost"));
    let misnamed = Certificate::new("elsewhere");
    let right = proxy(handshake_config(Some(ours.server.clone())));
    let wrong_name = proxy(handshake_config(Some(misnamed.server.clone())));
    let app = credentials("app", "secret");
    let gets_in = async |to: &Proxy, mode, ca: Option<PathBuf>| {
        let tls = ClientTls::new(&tls(mode, ca), None).unwrap();
        match connect(to.port(), &tls, &app, "app").await {
            Ok(connected) => Some(connected.stream.is_tls()),
            Err(ConnectError::Tls(_)) => None,
            Err(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(gets_in(&right, TlsMode::Disable, None).await, Some(false));
    assert_eq!(gets_in(&right, TlsMode::Prefer, None).await, Some(true));
    assert_eq!(gets_in(&right, TlsMode::Require, None).await, Some(true));
    assert_eq!(gets_in(&right, TlsMode::VerifyCa, Some(ours.file())).await, Some(true));
    assert_eq!(gets_in(&right, TlsMode::VerifyCa, Some(other.file())).await, None);
    assert_eq!(gets_in(&right, TlsMode::VerifyFull, Some(ours.file())).await, Some(true));
    assert_eq!(gets_in(&right, TlsMode::VerifyFull, Some(other.file())).await, None);
    assert_eq!(gets_in(&wrong_name, TlsMode::VerifyCa, Some(misnamed.file())).await, Some(true));
    assert_eq!(gets_in(&wrong_name, TlsMode::VerifyFull, Some(misnamed.file())).await, None);
}

#[tokio::test]
async fn the_channel_is_bound_to_the_certificate() {
    let ours = Certificate::new("localhost");
    let app = credentials("app", "secret");
    // Somebody in the middle with a certificate of his own: the hash that we expect is not the one the client saw.
    let forged = ServerTls { end_point: Some(vec![0; 32]), ..ours.server.clone() };
    let mut proxy = proxy(handshake_config(Some(forged)));
    let error = connect(proxy.port(), &client_tls(TlsMode::Require), &app, "app").await.unwrap_err();
    assert!(error.to_string().contains("SCRAM channel binding check failed"), "{error}");
    assert!(matches!(proxy.refused.recv().await.unwrap(), HandshakeError::Refused { .. }));
}

#[tokio::test]
async fn tls_can_be_demanded() {
    let config =
        HandshakeConfig { require_tls: true, ..handshake_config(Some(Certificate::new("localhost").server)) };
    let proxy = proxy(config);
    let app = credentials("app", "secret");
    let error = connect(proxy.port(), &client_tls(TlsMode::Disable), &app, "db").await.unwrap_err();
    let told =
        "no pg_hba.conf entry for host \"127.0.0.1\", user \"app\", database \"db\", no encryption (28000)";
    assert_eq!(error.to_string(), told);
    connect(proxy.port(), &client_tls(TlsMode::Require), &app, "db").await.unwrap();
}

#[tokio::test]
async fn no_tls_session_is_taken_up_again() {
    let proxy = proxy(handshake_config(Some(Certificate::new("localhost").server)));
    let (app, client) = (credentials("app", "secret"), client_tls(TlsMode::Require));
    for _ in 0..3 {
        let connected = connect(proxy.port(), &client, &app, "app").await.unwrap();
        let Stream::Tls(tls) = &connected.stream else { panic!("no TLS") };
        // The client would: it keeps what the server gave it.
        assert_eq!(tls.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[tokio::test]
async fn tls_may_begin_at_once() {
    let proxy = proxy(handshake_config(Some(Certificate::new("localhost").server)));
    let tcp = TcpStream::connect(proxy.address).await.unwrap();
    let mut stream = client_tls(TlsMode::Require).connect(Socket::Tokio(tcp), "localhost").await.unwrap();
    let mut out = Vec::new();
    pg_ha_proxy::wire::login::startup(&mut out, 0, [("user", "app")]);
    stream.write_all(&out).await.unwrap();
    let mut answer = [0; 64];
    let n = stream.read(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer[..n]).contains("SCRAM-SHA-256-PLUS"));
}
