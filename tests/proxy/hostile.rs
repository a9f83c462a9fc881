//! Clients that break the protocol: each is closed, and nobody else notices.

use std::time::Duration;

use crate::support::raw::{Raw, frame, query, startup};
use crate::support::{Proxy, World, block_on, connect, one};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Somebody else can log in and be served, and nothing has panicked.
fn others_go_on(world: &World, proxy: &Proxy) {
    block_on(async {
        let client = connect(&world.status, proxy).await;
        assert_eq!(one(&client, "SELECT 42").await, "42");
    });
    proxy.assert_healthy();
}

#[test]
fn nonsense_before_the_login_ends_only_that_connection() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "limits.login_timeout = '2s'");
    let witness = block_on(connect(&world.status, &proxy));
    let good = startup(&[("user", "app"), ("database", "app")]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("garbage", (0..5000_u32).map(|n| ((n * 7919) >> 3) as u8).collect()),
        ("http", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("zeros", vec![0; 100]),
        ("half a startup packet", good[..good.len() / 2].to_vec()),
        ("a length alone", vec![0, 0]),
        ("a startup packet of 2 GiB", [&[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0], &[b'a'; 20_000][..]].concat()),
        ("a negative length", vec![0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0]),
        ("plaintext behind SSLRequest", [&SSL_REQUEST[..], &good].concat()),
        ("SSLRequest twice", [&SSL_REQUEST[..], &SSL_REQUEST, &SSL_REQUEST].concat()),
        ("a query instead of a password", [&good[..], &query("SELECT 1")].concat()),
        ("a password of 2 GiB", [&good[..], &[b'p', 0x7f, 0xff, 0xff, 0xff], &[0; 20_000]].concat()),
        ("no SCRAM message", [&good[..], &frame(b'p', b"SCRAM-SHA-256\0\0\0\0\x05hello")].concat()),
        ("no user", startup(&[("database", "app")])),
        ("a startup packet without an end", vec![0, 0, 0, 14, 0, 3, 0, 0, b'u', b's', b'e', b'r', 0, b'x']),
        ("an old protocol", vec![0, 0, 0, 8, 0, 2, 0, 0]),
    ];
    for (what, bytes) in cases {
        let mut raw = Raw::connect(proxy.port);
        // It may close before it has read all.
        let _ = std::io::Write::write_all(&mut raw.stream, &bytes);
        let said = raw.until_closed(what);
        assert!(
            !said.windows(6).any(|window| window == b"Z\0\0\0\x05I"),
            "{what}: ReadyForQuery before a login"
        );
        assert_eq!(block_on(one(&witness, "SELECT 1")), "1", "{what}");
    }
    others_go_on(world, &proxy);
}

#[test]
fn nonsense_after_the_login_ends_only_that_session() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    let witness = block_on(connect(&world.status, &proxy));
    let before = proxy.memory();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a message of 2 GiB", [&[b'Q', 0x7f, 0xff, 0xff, 0xff][..], b"SELECT 1"].concat()),
        ("a negative length", vec![b'Q', 0xff, 0xff, 0xff, 0xff, b'x']),
        ("a length of 3", vec![b'Q', 0, 0, 0, 3]),
        ("an unknown message", frame(0xee, b"what")),
        ("a zero tag", frame(0, b"")),
        ("a startup packet again", startup(&[("user", "postgres")])),
        ("SSLRequest", SSL_REQUEST.to_vec()),
        ("a Query without its zero", frame(b'Q', b"SELECT 1")),
        ("a Parse cut off", [frame(b'P', b"\0SELECT 1"), frame(b'S', b"")].concat()),
        ("in a transaction", [query("BEGIN; SELECT 1"), frame(0xee, b"")].concat()),
    ];
    for (what, bytes) in cases {
        let password = world.status.app_password.reveal();
        let mut raw = Raw::log_in(proxy.port, "app", "app", password);
        raw.send(&query("SELECT 1"));
        assert_eq!(raw.tags(), "TDCZ", "{what}");
        raw.send(&bytes);
        let said = raw.until_closed(what);
        assert!(
            said.windows(5).any(|window| window == b"08P01"),
            "{what}: {}",
            String::from_utf8_lossy(&said)
        );
        assert_eq!(block_on(one(&witness, "SELECT 1")), "1", "{what}");
    }
    assert!(proxy.memory() < before + (64 << 20), "{} grew to {}", before, proxy.memory());
    others_go_on(world, &proxy);
}

#[test]
fn mistakes_are_answered_as_postgresql_does() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    let password = world.status.app_password.reveal();
    let sync = frame(b'S', b"");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a Bind of no statement", [frame(b'B', b"\0nope\0\0\0\0\0\0\0"), sync.clone()].concat()),
        ("an Execute of no portal", [frame(b'E', b"nope\0\0\0\0\0"), sync.clone()].concat()),
        ("a Describe of no statement", [frame(b'D', b"Snope\0"), sync.clone()].concat()),
        ("a Describe of no portal", [frame(b'D', b"Pnope\0"), sync.clone()].concat()),
        ("a Close of nothing", [frame(b'C', b"Snope\0"), sync.clone()].concat()),
        ("an empty Query", query("")),
        (
            "a COPY that fails before the client gives it up",
            [
                frame(b'P', b"\0COPY nowhere FROM STDIN\0\0\0"),
                frame(b'B', b"\0\0\0\0\0\0\0\0"),
                frame(b'E', b"\0\0\0\0\0"),
                sync.clone(),
                frame(b'f', b"no\0"),
                sync.clone(),
            ]
            .concat(),
        ),
        ("CopyData out of a COPY", [frame(b'd', b"x"), query("SELECT 1")].concat()),
        ("a password after the login", frame(b'p', b"x")),
    ];
    let port = world.status.member(world.status.leader.as_ref().unwrap()).unwrap().direct_port;
    let tell = |what: &str, port: u16, bytes: &[u8]| {
        let mut raw = Raw::log_in(port, "app", "app", password);
        raw.send(bytes);
        // Whatever it does, what was sent last ends it.
        raw.send(&[query("SELECT 'the end'"), frame(b'X', b"")].concat());
        let said = raw.until_closed(what);
        let mut told = String::new();
        let mut rest = &said[..];
        while rest.len() >= 5 {
            let len = u32::from_be_bytes([rest[1], rest[2], rest[3], rest[4]]) as usize;
            told.push(char::from(rest[0]));
            if rest[0] == b'E' {
                let fields = rest[5..=len].split(|byte| *byte == 0);
                for field in fields.filter(|field| matches!(field.first(), Some(b'V' | b'C' | b'M'))) {
                    told.push('[');
                    told.push_str(&String::from_utf8_lossy(&field[1..]));
                    told.push(']');
                }
            }
            rest = &rest[len + 1..];
        }
        told
    };
    for (what, bytes) in cases {
        assert_eq!(tell(what, proxy.port, &bytes), tell(what, port, &bytes), "{what}");
    }
    others_go_on(world, &proxy);
}

#[test]
fn a_client_that_does_not_read_stops_nobody() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "listen.workers = 1");
    let witness = block_on(connect(&world.status, &proxy));
    let password = world.status.app_password.reveal();
    let mut lazy = Raw::log_in(proxy.port, "app", "app", password);
    let before = proxy.memory();
    // Over 1 GiB.
    let rows = 1_100_000;
    lazy.send(&query(&format!("SELECT repeat('x', 1000) FROM generate_series(1, {rows})")));
    for _ in 0..20 {
        assert_eq!(block_on(one(&witness, "SELECT 1")), "1");
        std::thread::sleep(Duration::from_millis(50));
    }
    let grown = |proxy: &Proxy| proxy.memory().saturating_sub(before);
    assert!(grown(&proxy) < 16 << 20, "{before} grew by {}", grown(&proxy));
    let mut got = 0;
    loop {
        match lazy.receive().expect("an answer to its end").0 {
            b'D' => got += 1,
            b'Z' => break,
            _ => {}
        }
    }
    assert_eq!(got, rows);
    assert!(grown(&proxy) < 16 << 20, "{before} grew by {}", grown(&proxy));
    println!(
        "1.1 GB to a client that reads nothing for a second: the proxy grew by {} KiB",
        grown(&proxy) >> 10
    );
    drop(lazy);
    others_go_on(world, &proxy);
}
