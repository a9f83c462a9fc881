//! Both sides of a login against a real PostgreSQL, its psql and a driver; and what must not get in.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod hba;
mod hostile;
mod postgres;
mod proxy;
mod tls;

use std::sync::Arc;

use arc_swap::ArcSwap;
use pg_ha_proxy::backend::{self, ConnectError, Credentials, Login, QueryError, Server, SimpleClient};
use pg_ha_proxy::client::Lookup;
use pg_ha_proxy::config::{TlsMode, User, UserSecret};
use pg_ha_proxy::control::{LookupConfig, Lookups};
use pg_ha_proxy::scram::{Password, Secret};
use pg_ha_proxy::topology::{Epoch, Member, MemberId, Rule, Topology};
use pg_ha_proxy::wire::SqlState;
use postgres::{PASSWORD, Postgres, psql};
use proxy::{LONG, Proxy, client_tls, connect, handshake_config, keep_alive, verifiers};
use tokio::sync::watch;

const ROLES: &str = concat!(
    include_str!("../../src/cluster/roles.sql"),
    "ALTER ROLE pgha_lookup PASSWORD 'look';
     CREATE ROLE alice LOGIN PASSWORD 'wonder';
     CREATE ROLE nologin PASSWORD 'wonder';
     CREATE ROLE expired LOGIN PASSWORD 'wonder' VALID UNTIL '2001-01-01';
     CREATE ROLE expired_nologin PASSWORD 'wonder' VALID UNTIL '2001-01-01';
     CREATE ROLE lasting LOGIN PASSWORD 'wonder' VALID UNTIL '2999-01-01';
     CREATE ROLE forever LOGIN PASSWORD 'wonder' VALID UNTIL 'infinity';
     CREATE ROLE nobody_more LOGIN PASSWORD 'wonder' CONNECTION LIMIT 0;
     CREATE ROLE no_password LOGIN;
     SET password_encryption = 'md5';
     CREATE ROLE old LOGIN PASSWORD 'wonder';"
);

fn credentials(user: &str, password: &str) -> Credentials {
    Credentials { user: Arc::from(user), secret: Secret::Password(Arc::new(Password::new(password))) }
}

/// A topology of one server, which is the primary.
fn topology(port: u16) -> watch::Receiver<Arc<Topology>> {
    let member = Member {
        id: MemberId(0),
        name: Arc::from("node"),
        host: Arc::from("127.0.0.1"),
        port,
        role: Arc::from("primary"),
        serves_reads: false,
        answers: true,
        why_not: None,
        weight: 1,
        lag_bytes: None,
        lag: None,
        timeline: None,
        generation: 0,
    };
    let topology = Topology {
        version: 1,
        epoch: Epoch(1),
        rule: Rule::Serving(MemberId(0)),
        members: Arc::from([member]),
        hold: LONG,
        candidate: None,
        drained: false,
        insert_lsn: false,
    };
    watch::channel(Arc::new(topology)).1
}

/// The real lookup, as the lookup role.
fn lookup(port: u16) -> Lookup {
    lookup_as(port, credentials("pgha_lookup", "look"))
}

fn lookup_as(port: u16, credentials: Credentials) -> Lookup {
    let config = LookupConfig {
        credentials,
        database: "postgres".into(),
        tls: Arc::new(ArcSwap::from_pointee(client_tls(TlsMode::Prefer))),
        keep_alive: keep_alive(),
        timeout: LONG,
    };
    let (lookups, task) = Lookups::new(config, topology(port));
    tokio::spawn(task.run());
    Arc::new(move |user| {
        let lookups = lookups.clone();
        Box::pin(async move { lookups.role(user).await })
    })
}

fn proxy_before(postgres: &Postgres) -> Proxy {
    let verifiers = verifiers(&[], Some(lookup(postgres.port)));
    Proxy::start(handshake_config(None), verifiers, Some(postgres.port))
}

/// What a driver is told: severity, SQLSTATE and message; or that it got in.
async fn told(port: u16, user: &str, password: &str) -> Result<String, (String, String, String)> {
    let target = format!("host=127.0.0.1 port={port} user={user} password={password} dbname=postgres");
    match tokio_postgres::connect(&target, tokio_postgres::NoTls).await {
        Ok((client, connection)) => {
            tokio::spawn(connection);
            Ok(client.query_one("SELECT current_user::text", &[]).await.unwrap().get(0))
        }
        Err(error) => {
            let error = error.as_db_error().unwrap_or_else(|| panic!("{user}: {error:?}"));
            Err((error.severity().into(), error.code().code().into(), error.message().into()))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_told_what_postgres_tells_them() {
    let postgres = Postgres::start(ROLES);
    let proxy = proxy_before(&postgres);
    let users = [
        "alice",
        "nologin",
        "expired",
        "expired_nologin",
        "lasting",
        "forever",
        "nobody_more",
        "no_password",
        "ghost",
        "\u{fc}nknown",
    ];
    for user in users {
        for password in ["wonder", "wrong"] {
            let direct = told(postgres.port, user, password).await;
            assert_eq!(told(proxy.port(), user, password).await, direct, "{user}/{password}");
            let gets_in = password == "wonder" && ["alice", "lasting", "forever"].contains(&user);
            assert_eq!(direct.is_ok(), gets_in, "{user}/{password}");
        }
    }
    // Kept as md5, which PostgreSQL itself still serves where its pg_hba.conf says scram-sha-256: it fails there.
    assert_eq!(told(proxy.port(), "old", "wonder").await, told(postgres.port, "old", "wonder").await);
}

#[tokio::test]
async fn no_superuser_looks_verifiers_up() {
    let postgres = Postgres::start(ROLES);
    let role = lookup(postgres.port)(Arc::from("alice")).await.unwrap().unwrap();
    assert!(role.verifier.is_ok() && role.can_login);
    let error =
        lookup_as(postgres.port, credentials("postgres", PASSWORD))(Arc::from("alice")).await.unwrap_err();
    assert!(error.to_string().contains("auth.lookup_user is a superuser"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_works_and_a_new_password_is_taken_up() {
    let postgres = Postgres::start(ROLES);
    let proxy = proxy_before(&postgres);
    let port = proxy.port();
    let run = async |password: &'static str| {
        tokio::task::spawn_blocking(move || psql(port, "alice", password, "SELECT current_user, 6 * 7"))
            .await
            .unwrap()
    };
    let output = run("wonder").await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "alice|42\n", "{output:?}");
    postgres.run("ALTER ROLE alice PASSWORD 'new'");
    let output = run("wonder").await;
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("password authentication failed for user \"alice\"")
    );
    assert_eq!(run("new").await.stdout, b"alice|42\n");
    postgres.run("ALTER ROLE alice NOLOGIN");
    assert!(
        String::from_utf8_lossy(&run("new").await.stderr)
            .contains("role \"alice\" is not permitted to log in")
    );
}

#[tokio::test]
async fn a_configured_password_logs_in_on_both_sides() {
    let postgres = Postgres::start("CREATE ROLE app LOGIN PASSWORD 'app-secret'");
    let users = [User { name: "app".into(), secret: UserSecret::Password(Arc::from("app-secret")) }];
    let verifiers = verifiers(&users, Some(proxy::no_primary()));
    let proxy = Proxy::start(handshake_config(None), verifiers, Some(postgres.port));
    assert_eq!(told(proxy.port(), "app", "app-secret").await, Ok("app".into()));
    let (_, state, _) = told(proxy.port(), "app", "wrong").await.unwrap_err();
    assert_eq!(state, "28P01");
    // Nobody can say whether this one exists.
    let (severity, state, _) = told(proxy.port(), "other", "x").await.unwrap_err();
    assert_eq!((severity.as_str(), state.as_str()), ("FATAL", "57P03"));
}

#[tokio::test]
async fn a_connection_says_why_it_did_not_come_about() {
    let postgres = Postgres::start("CREATE ROLE few LOGIN PASSWORD 'x' CONNECTION LIMIT 0");
    let tls = client_tls(TlsMode::Prefer);
    let attempt = async |credentials: Credentials, database: &'static str| {
        connect(postgres.port, &tls, &credentials, database).await
    };
    let superuser = || credentials("postgres", PASSWORD);

    let connected = attempt(superuser(), "postgres").await.unwrap();
    assert!(connected.parameters.value(b"server_version").unwrap().starts_with(b"18"));
    assert_eq!(connected.secret.len(), 32, "protocol 3.2 gives long cancel keys");

    let refused = |error: ConnectError| match error {
        ConnectError::Refused(error) => error.state(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(attempt(superuser(), "nowhere").await.unwrap_err()), SqlState::INVALID_CATALOG_NAME);
    assert_eq!(
        refused(attempt(credentials("few", "x"), "postgres").await.unwrap_err()),
        SqlState::TOO_MANY_CONNECTIONS
    );
    let wrong = attempt(credentials("postgres", "wrong"), "postgres").await.unwrap_err();
    assert!(
        matches!(&wrong, ConnectError::AuthRefused(e) if e.state() == SqlState::INVALID_PASSWORD),
        "{wrong:?}"
    );
    let none = Credentials { user: Arc::from("postgres"), secret: Secret::None };
    assert!(matches!(attempt(none, "postgres").await, Err(ConnectError::Auth(_))));
    let nobody = connect(postgres::free_port(), &tls, &superuser(), "postgres").await.unwrap_err();
    assert!(matches!(nobody, ConnectError::Unreachable(_)) && nobody.is_transient(), "{nobody:?}");
    // This PostgreSQL has no certificate.
    let demanding = connect(postgres.port, &client_tls(TlsMode::Require), &superuser(), "postgres").await;
    assert!(matches!(demanding, Err(ConnectError::Tls(_))), "{demanding:?}");
}

#[tokio::test]
async fn the_plain_client_asks_and_cancels() {
    let postgres = Postgres::start("");
    let (tls, keep_alive) = (client_tls(TlsMode::Prefer), keep_alive());
    let server =
        Server { host: "127.0.0.1", port: postgres.port, tls: &tls, keep_alive: &keep_alive, timeout: LONG };
    let credentials = credentials("postgres", PASSWORD);
    let login =
        Login { credentials: &credentials, database: "postgres", parameters: &[("application_name", "t")] };
    let mut client = SimpleClient::connect(&server, &login, LONG, 64 * 1024).await.unwrap();

    let text = |values: &[Option<&str>]| values.iter().map(|v| v.map(str::to_owned)).collect::<Vec<_>>();
    let rows = client.query("SELECT 1, NULL; SELECT current_setting('application_name'), 'x'").await.unwrap();
    assert_eq!(rows, [text(&[Some("1"), None]), text(&[Some("t"), Some("x")])]);
    let hostile = "'; DROP TABLE x; --";
    assert_eq!(client.query_params("SELECT $1", &[hostile]).await.unwrap(), [text(&[Some(hostile)])]);
    let error = client.query("SELECT 1/0").await.unwrap_err();
    assert!(matches!(&error, QueryError::Server(e) if e.state().as_str() == "22012"), "{error:?}");
    let error = client.query_params("SELECT nonsense", &[]).await.unwrap_err();
    assert!(matches!(&error, QueryError::Server(e) if e.state().as_str() == "42703"), "{error:?}");
    assert!(!client.is_broken());

    // A cancel request reaches exactly the connection whose key it has.
    let victim = backend::connect(&server, &login).await.unwrap();
    let mut stream = victim.stream;
    let mut out = Vec::new();
    pg_ha_proxy::wire::build::query(&mut out, b"SELECT pg_sleep(60)");
    stream.write_all(&out).await.unwrap();
    let sleeping = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    while client.query(sleeping).await.unwrap().is_empty() {}
    backend::cancel(&server, victim.process_id, &victim.secret).await.unwrap();
    while !client.query(sleeping).await.unwrap().is_empty() {}

    let error = client.query("SELECT repeat('x', 100000)").await.unwrap_err();
    assert!(matches!(error, QueryError::TooLong), "{error:?}");
    assert!(client.is_broken());
}
