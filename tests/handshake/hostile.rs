//! What must end a connection, and never with ReadyForQuery.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pg_ha_proxy::client::{Counters, HandshakeError, ListenLimits, Listener, Reception, Worker};
use pg_ha_proxy::config::{User, UserSecret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::proxy::{LONG, Proxy, handshake_config, keep_alive, verifiers};

fn packet(version: u32, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_be_bytes()[..], &version.to_be_bytes(), body].concat()
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

fn startup() -> Vec<u8> {
    packet(0x3_0000, b"user\0app\0\0")
}

fn sasl_initial(mechanism: &str, data: &str) -> Vec<u8> {
    let length = (data.len() as u32).to_be_bytes();
    message(b'p', &[mechanism.as_bytes(), b"\0", &length, data.as_bytes()].concat())
}

fn plain_proxy() -> Proxy {
    let users = [User { name: "app".into(), secret: UserSecret::Password(Arc::from("secret")) }];
    Proxy::start(handshake_config(None), verifiers(&users, None), None)
}

/// Sends all steps, waiting for an answer between them, closes its own side if told to, and reads to the end.
async fn answer_to(proxy: &Proxy, steps: &[Vec<u8>], half_close: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let mut answer = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        if n > 0 {
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return answer,
                Ok(n) => answer.extend_from_slice(&chunk[..n]),
            }
        }
        if stream.write_all(step).await.is_err() {
            return answer;
        }
    }
    if half_close {
        stream.shutdown().await.unwrap();
    }
    // A reset is an end too: bytes that nobody read were thrown away.
    let _reset =
        tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the connection stays open");
    answer
}

fn shows(answer: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(answer).contains(text)
}

/// What is sent, in steps, and what has to be in the answer; where that is empty, nothing may be answered.
type Case = (&'static str, Vec<Vec<u8>>, &'static str);

fn instead_of_a_startup() -> Vec<Case> {
    let ssl = || packet(80_877_103, b"");
    let gss = || packet(80_877_104, b"");
    vec![
        ("garbage", vec![b"GET / HTTP/1.0\r\n\r\n".to_vec()], ""),
        ("2 GiB", vec![[&[0x7f, 0xff, 0xff, 0xff][..], &startup()[4..]].concat()], ""),
        ("length 10,001", vec![[&10_001u32.to_be_bytes()[..], &[0; 10_000]].concat()], ""),
        ("length 3", vec![vec![0, 0, 0, 3, 0, 0, 0, 0]], ""),
        ("TLS without TLS", vec![b"\x16\x03\x01\x00\x05hello".to_vec()], ""),
        (
            "clear bytes behind SSLRequest",
            vec![[ssl(), startup()].concat()],
            "received unencrypted data after SSL request",
        ),
        (
            "clear bytes behind GSSENCRequest",
            vec![[gss(), startup()].concat()],
            "received unencrypted data after GSSAPI",
        ),
        ("two SSLRequests", vec![ssl(), ssl()], "unsupported frontend protocol 1234.5679"),
        ("two GSSENCRequests", vec![gss(), gss()], "unsupported frontend protocol 1234.5680"),
        ("protocol 2", vec![packet(0x2_0000, b"user\0app\0\0")], "unsupported frontend protocol 2.0"),
        ("protocol 4", vec![packet(0x4_0000, b"user\0app\0\0")], "unsupported frontend protocol 4.0"),
        ("no user", vec![packet(0x3_0000, b"\0")], "no PostgreSQL user name specified in startup packet"),
        ("no terminator", vec![packet(0x3_0000, b"user\0app\0")], "expected terminator as last byte"),
    ]
}

fn instead_of_a_login() -> Vec<Case> {
    let first = || sasl_initial("SCRAM-SHA-256", "n,,n=,r=abc");
    let query = || message(b'Q', b"SELECT 1\0");
    vec![
        ("query first", vec![startup(), query()], "expected SASL response, got message type 81"),
        ("query behind startup", vec![[startup(), query()].concat()], "expected SASL response"),
        ("query in SASL", vec![startup(), [first(), query()].concat()], "expected SASL response"),
        (
            "password of 16 KiB",
            vec![startup(), message(b'p', &[b'x'; 16 * 1024])],
            "authentication failed for user",
        ),
        (
            "password of 2 GiB",
            vec![startup(), b"p\x7f\xff\xff\xff".to_vec()],
            "authentication failed for user",
        ),
        ("password of -1", vec![startup(), b"p\xff\xff\xff\xff".to_vec()], "authentication failed for user"),
        (
            "clear password",
            vec![startup(), message(b'p', b"secret\0")],
            "invalid SASL authentication mechanism",
        ),
        (
            "no such mechanism",
            vec![startup(), sasl_initial("FOO", "n,,n=,r=a")],
            "invalid SASL authentication mechanism",
        ),
        (
            "-PLUS without TLS",
            vec![startup(), sasl_initial("SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,n=,r=a")],
            "invalid SASL authentication mechanism",
        ),
        ("no SCRAM", vec![startup(), sasl_initial("SCRAM-SHA-256", "hello")], "malformed SCRAM message"),
        ("no proof", vec![startup(), first(), message(b'p', b"c=biws,r=abc")], "malformed SCRAM message"),
        (
            "another nonce",
            vec![startup(), first(), message(b'p', b"c=biws,r=abc,p=AAAA")],
            "invalid SCRAM response",
        ),
    ]
}

#[tokio::test]
async fn what_is_no_login_is_closed_and_the_rest_go_on() {
    let mut proxy = plain_proxy();
    let cases = instead_of_a_startup().into_iter().chain(instead_of_a_login());
    for (name, steps, expected) in cases {
        let answer = answer_to(&proxy, &steps, false).await;
        assert!(shows(&answer, expected), "{name}: {}", String::from_utf8_lossy(&answer));
        assert!(expected.is_empty() || shows(&answer, "FATAL"), "{name}");
        assert!(!expected.is_empty() || answer.is_empty(), "{name}: {}", String::from_utf8_lossy(&answer));
        assert!(!answer.ends_with(b"Z\0\0\0\x05I"), "{name}");
        let error = proxy.refused.recv().await.unwrap();
        assert!(matches!(error, HandshakeError::Refused { .. }), "{name}: {error:?}");
    }
    let target = format!("host=127.0.0.1 port={} user=app password=secret", proxy.port());
    let others = tokio_postgres::connect(&target, tokio_postgres::NoTls).await;
    assert!(others.is_ok(), "others still get in");
}

#[tokio::test]
async fn half_a_message_and_a_closed_socket_are_no_more_than_that() {
    let mut proxy = plain_proxy();
    for cut in [&startup()[..9], &startup()[..3], b""] {
        assert_eq!(answer_to(&proxy, &[cut.to_vec()], true).await, b"");
        let error = proxy.refused.recv().await.unwrap();
        assert!(matches!(error, HandshakeError::Closed), "{error:?}");
    }
}

#[tokio::test]
async fn who_takes_too_long_is_closed() {
    let config = pg_ha_proxy::client::HandshakeConfig {
        login_timeout: Duration::from_millis(100),
        ..handshake_config(None)
    };
    let mut proxy = Proxy::start(config, verifiers(&[], None), None);
    for steps in [vec![], vec![startup()], vec![startup(), b"p".to_vec()]] {
        let answer = answer_to(&proxy, &steps, false).await;
        assert!(!shows(&answer, "FATAL"), "PostgreSQL says nothing either");
        assert!(matches!(proxy.refused.recv().await.unwrap(), HandshakeError::Timeout));
    }
}

#[tokio::test]
async fn versions_and_options_are_negotiated() {
    let proxy = plain_proxy();
    let first_of = async |packet: Vec<u8>| {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(&packet).await.unwrap();
        let mut answer = vec![0; 40];
        let n = stream.read(&mut answer).await.unwrap();
        answer.truncate(n);
        answer
    };
    // As PostgreSQL 18 answers the same bytes.
    let asked = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";
    assert_eq!(first_of(packet(0x3_0002, b"user\0app\0\0")).await, asked);
    let newer = first_of(packet(0x3_0003, b"user\0app\0\0")).await;
    assert_eq!(newer, [&b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0"[..], asked].concat());
    let options = first_of(packet(0x3_0000, b"user\0app\0_pq_.a\x001\0\0")).await;
    assert!(options.starts_with(b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.a\0R"), "{options:?}");
}

#[tokio::test]
async fn clients_over_the_limit_are_told_so() {
    tokio::task::LocalSet::new().run_until(over_the_limit()).await;
}

async fn over_the_limit() {
    let listener = Listener::bind(&[(Ipv4Addr::LOCALHOST, 0).into()], 16, &keep_alive()).unwrap();
    let address = listener.addresses()[0];
    let limits = ListenLimits { clients: 1, clients_per_address: 0 };
    let (incoming, mut arrived) = mpsc::channel(4);
    let worker = Worker { incoming, busy: Arc::default() };
    let busy = Arc::clone(&worker.busy);
    let counters = Arc::new(Counters::default());
    let handshake = Arc::new(ArcSwap::from_pointee(handshake_config(None)));
    let reception = Reception {
        limits,
        counters: Arc::clone(&counters),
        workers: vec![worker],
        handshake,
        cancel_keys: Arc::default(),
    };
    tokio::task::spawn_local(listener.open(reception).unwrap());

    let _first = TcpStream::connect(address).await.unwrap();
    let taken = arrived.recv().await.unwrap();
    assert_eq!(counters.clients(), 1);
    assert!(busy.now() > 0, "the client that came counts until its worker is measured");
    let target = format!("host=127.0.0.1 port={} user=app password=x", address.port());
    let error = tokio_postgres::connect(&target, tokio_postgres::NoTls).await.err().unwrap();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.message()), ("53300", "sorry, too many clients already"));
    drop(taken);
    let _second = TcpStream::connect(address).await.unwrap();
    arrived.recv().await.expect("the place was given back");
}
