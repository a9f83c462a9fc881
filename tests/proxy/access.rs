//! Who may log in, from where, how, and how many at once; and what a reload changes of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_postgres::{Client, Config, NoTls};

use crate::support::raw::startup;
use crate::support::{
    Proxy, World, application, block_on, connect, connect_as, leader, on_leader, one, told,
};

async fn comes_in(config: &Config) -> Result<Client, String> {
    match config.connect(NoTls).await {
        Ok((client, connection)) => {
            tokio::spawn(async move { drop(connection.await) });
            Ok(client)
        }
        Err(error) => Err(told(&error)),
    }
}

async fn refusal(config: &Config) -> String {
    comes_in(config).await.err().unwrap_or_else(|| "let in".to_owned())
}

/// Waits until a login is answered like this.
async fn until_told(config: &Config, expected: &str) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let said = refusal(config).await;
        if said == expected {
            return;
        }
        assert!(Instant::now() < end, "{said} instead of {expected}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn as_user(world: &World, port: u16, user: &str, database: &str) -> Config {
    let mut config = application(&world.status, port);
    config.user(user).dbname(database);
    config
}

/// A role with the application's password, and its configuration.
fn make_role(world: &World, name: &str, options: &str) {
    let password = world.status.app_password.reveal();
    on_leader(&world.status, &format!("CREATE ROLE {name} LOGIN PASSWORD '{password}' {options}"));
}

/// The configuration that the proxy was started with, and more.
fn rewrite(proxy: &Proxy, before: &str, more: &str) {
    std::fs::write(&proxy.configuration, format!("{before}\n{more}")).unwrap();
}

#[test]
fn rules_decide_in_order_and_a_reload_takes_them_up() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "log.level = 'info'");
    let file = std::fs::read_to_string(&proxy.configuration).unwrap();
    let app = application(&world.status, proxy.port);
    let rules =
        "[[hba]]\ndatabase = 'pgha'\nmethod = 'reject'\n[[hba]]\nuser = 'app'\nmethod = 'scram-sha-256'\n";
    block_on(async {
        let staying = connect(&world.status, &proxy).await;
        rewrite(&proxy, &file, rules);
        proxy.signal(Signal::SIGHUP);
        let to_console = as_user(world, proxy.port, "app", "pgha");
        until_told(
            &to_console,
            "FATAL 28000: pg_hba.conf rejects connection for host \"127.0.0.1\", user \"app\", database \"pgha\", no encryption",
        )
        .await;
        let of_nobody = refusal(&as_user(world, proxy.port, "nobody", "app")).await;
        assert_eq!(
            of_nobody,
            "FATAL 28000: no pg_hba.conf entry for host \"127.0.0.1\", user \"nobody\", database \"app\", no encryption"
        );
        assert_eq!(one(&connect_as(&app).await, "SELECT current_user").await, "app");

        // A bad rule changes nothing.
        for bad in ["method = 'trust'", "method = 'reject'\nuser = '/('", "method = 'password'"] {
            rewrite(&proxy, &file, &format!("[[hba]]\n{bad}"));
            let answer = proxy.post("/reload");
            assert!(answer.starts_with("HTTP/1.1 422") && answer.contains("hba."), "{answer}");
            assert!(refusal(&to_console).await.contains("pg_hba.conf rejects"));
            assert_eq!(one(&connect_as(&app).await, "SELECT 1").await, "1");
        }
        rewrite(&proxy, &file, "[[hba]]\nmethod = 'reject'");
        assert!(proxy.post("/reload").starts_with("HTTP/1.1 200"));
        assert!(refusal(&app).await.contains("pg_hba.conf rejects"));
        // Who is in stays in.
        assert_eq!(one(&staying, "SELECT 2").await, "2");
        rewrite(&proxy, &file, "");
        assert!(proxy.post("/reload").starts_with("HTTP/1.1 200"));
        assert_eq!(one(&connect_as(&app).await, "SELECT 3").await, "3");
    });
    proxy.assert_healthy();
}

#[test]
fn users_come_and_go_with_a_reload() {
    let world = World::shared();
    make_role(world, "trusted_here", "");
    block_on(world.replicas_catch_up());
    let proxy = Proxy::start(&world.status, "");
    let file = std::fs::read_to_string(&proxy.configuration).unwrap();
    let mut config = as_user(world, proxy.port, "trusted_here", "app");
    config.password("none is asked for");
    let rules = "[[hba]]\nuser = 'trusted_here'\naddress = ['127.0.0.0/8', '::1']\nmethod = 'trust'\n";
    let password = world.status.app_password.reveal();
    block_on(async {
        rewrite(&proxy, &file, rules);
        assert!(proxy.post("/reload").starts_with("HTTP/1.1 200"));
        assert_eq!(
            refusal(&config).await,
            "FATAL 28000: the proxy has no password to log in at the members with as user \"trusted_here\""
        );
        rewrite(
            &proxy,
            &file,
            &format!("{rules}[[users]]\nname = 'trusted_here'\npassword = '{password}'\n"),
        );
        let answer = proxy.post("/reload");
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("next start"), "{answer}");
        let client = connect_as(&config).await;
        assert_eq!(one(&client, "SELECT current_user").await, "trusted_here");
        assert_eq!(one(&client, "/* pgha: primary */ SELECT current_user").await, "trusted_here");
        rewrite(&proxy, &file, rules);
        assert!(proxy.post("/reload").starts_with("HTTP/1.1 200"));
        assert!(refusal(&config).await.contains("has no password to log in"));
        // Others have no rule at all.
        assert!(refusal(&application(&world.status, proxy.port)).await.contains("no pg_hba.conf entry"));
    });
    proxy.assert_healthy();
}

/// Takes the port, the authority's file, and two certificates without their ends: one for `monitor`, and one for somebody else.
const PSYCOPG: &str = r#"
import sys, psycopg
port, ca, own, other = sys.argv[1:5]
common = f"host=127.0.0.1 port={port} dbname=app user=monitor sslrootcert={ca} "
pair = lambda path: f"sslmode=verify-full sslcert={path}.crt sslkey={path}.key"
def refused(settings):
    try:
        psycopg.connect(common + settings).close()
    except psycopg.OperationalError as error:
        return str(error)
    return "let in"
for autocommit in (True, False):
    with psycopg.connect(common + pair(own), autocommit=autocommit) as connection:
        for n in range(5):
            row = connection.execute("SELECT current_user, %s::int", (n,)).fetchone()
            assert row == ("monitor", n), row
        assert connection.execute("/* pgha: primary */ SELECT pg_is_in_recovery()").fetchone() == (False,)
told = refused("sslmode=verify-full")
assert "connection requires a valid client certificate" in told, told
told = refused(pair(other))
assert "certificate authentication failed for user \"monitor\"" in told, told
# Without TLS the next rule decides, by password.
told = refused("sslmode=disable password=wrong")
assert "password authentication failed for user \"monitor\"" in told, told
print("done")
"#;

#[test]
fn psycopg_logs_in_by_certificate() {
    let world = World::shared();
    make_role(world, "monitor", "");
    block_on(world.replicas_catch_up());
    let password = world.cluster.certificates().ca().with_file_name("monitor-password");
    std::fs::write(&password, world.status.app_password.reveal()).unwrap();
    let (certificate, key) = world.cluster.certificates().server();
    let ca = world.status.ca.display();
    let proxy = Proxy::start(
        &world.status,
        &format!(
            r"
            [tls]
            client_mode = 'prefer'
            certificate = '{}'
            key = '{}'
            client_ca = '{ca}'
            [[hba]]
            type = 'hostssl'
            user = 'monitor'
            method = 'cert'
            map = 'roles'
            [[hba]]
            method = 'scram-sha-256'
            [[ident_map]]
            map = 'roles'
            system_user = '/^pgha_(.*)$'
            database_user = '\1'
            [[users]]
            name = 'monitor'
            password_file = '{}'
            ",
            certificate.display(),
            key.display(),
            password.display(),
        ),
    );
    let stem = |pair: (PathBuf, PathBuf)| pair.0.with_extension("").display().to_string();
    let mut command =
        Command::new(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".local/runtime/bin/python"));
    command.args(["-c", PSYCOPG, &proxy.port.to_string(), &ca.to_string()]);
    command.arg(stem(world.cluster.certificates().role("pgha_monitor")));
    command.arg(stem(world.cluster.certificates().role("pgha_lookup")));
    let output = command.output().expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    proxy.assert_healthy();
}

#[test]
fn limits_of_users_and_databases_hold() {
    let world = World::shared();
    make_role(world, "limited_there", "CONNECTION LIMIT 1");
    make_role(world, "limited_here", "");
    make_role(world, "over_all", "SUPERUSER");
    on_leader(&world.status, "CREATE DATABASE small CONNECTION LIMIT 1");
    on_leader(&world.status, "CREATE DATABASE smaller");
    let limits = |user: u32, database: u32| {
        format!(
            "[[users]]\nname = 'limited_here'\nmax_user_client_connections = {user}\n
             [[databases]]\nname = 'smaller'\nmax_db_client_connections = {database}\n"
        )
    };
    let proxy = Proxy::start(&world.status, &limits(1, 1));
    let port = proxy.port;
    block_on(async {
        world.replicas_catch_up().await;
        // The words of a server with limits of its own.
        let at_server = leader(&world.status).direct_port;
        let _held = connect_as(&as_user(world, at_server, "limited_there", "app")).await;
        let of_role = refusal(&as_user(world, at_server, "limited_there", "app")).await;
        let _held = connect_as(&as_user(world, at_server, "app", "small")).await;
        let of_database = refusal(&as_user(world, at_server, "app", "small")).await;
        let of_role = of_role.replace("limited_there", "limited_here");
        let of_database = of_database.replace("small", "smaller");
        assert_eq!(of_role, "FATAL 53300: too many connections for role \"limited_here\"");

        let first = connect_as(&as_user(world, port, "limited_here", "app")).await;
        assert_eq!(refusal(&as_user(world, port, "limited_here", "app")).await, of_role);
        assert_eq!(refusal(&as_user(world, port, "limited_here", "postgres")).await, of_role);
        assert_eq!(refusal(&as_user(world, port, "app", "app")).await, "let in");
        let in_database = connect_as(&as_user(world, port, "app", "smaller")).await;
        assert_eq!(refusal(&as_user(world, port, "app", "smaller")).await, of_database);
        let superuser = connect_as(&as_user(world, port, "over_all", "smaller")).await;
        assert_eq!(one(&superuser, "SELECT current_user").await, "over_all");
        // A wrong password takes nobody's place, and isn't told of limits.
        let mut wrong = as_user(world, port, "limited_here", "app");
        assert!(refusal(wrong.password("wrong")).await.contains("28P01"));
        assert_eq!(one(&first, "SELECT 1").await, "1");
        drop((first, superuser));
        until_told(&as_user(world, port, "limited_here", "app"), "let in").await;
        drop(in_database);
        until_told(&as_user(world, port, "app", "smaller"), "let in").await;

        // Who came under no limit counts under the next one.
        let file = std::fs::read_to_string(&proxy.configuration).unwrap();
        let table = |user, database| {
            let mut table: toml::Table = file.parse().unwrap();
            table.extend(limits(user, database).parse::<toml::Table>().unwrap());
            table.to_string()
        };
        std::fs::write(&proxy.configuration, table(3, 9)).unwrap();
        assert!(proxy.post("/reload").starts_with("HTTP/1.1 200"));
        let config = as_user(world, port, "limited_here", "app");
        let three = try_join_all((0..3).map(|_| comes_in(&config))).await.unwrap();
        assert_eq!(refusal(&config).await, of_role);
        std::fs::write(&proxy.configuration, table(2, 9)).unwrap();
        assert!(proxy.post("/reload").starts_with("HTTP/1.1 200"));
        for client in &three {
            assert_eq!(one(client, "SELECT 1").await, "1");
        }
        assert_eq!(refusal(&config).await, of_role);
    });
    proxy.assert_healthy();
}

#[test]
fn what_a_role_may_not_holds_with_a_warm_cache() {
    let world = World::shared();
    make_role(world, "alone", "CONNECTION LIMIT 1");
    make_role(world, "warm", "");
    let proxy = Proxy::start(&world.status, "auth.cache_ttl = '1h'");
    let quick = Proxy::start(&world.status, "auth.cache_ttl = '1s'");
    let config = as_user(world, proxy.port, "alone", "app");
    let at_quick = as_user(world, quick.port, "warm", "app");
    block_on(async {
        world.replicas_catch_up().await;
        let first = connect_as(&config).await;
        // Nothing is asked of the primary here: what the cache says is enough.
        assert_eq!(refusal(&config).await, "FATAL 53300: too many connections for role \"alone\"");
        drop(first);
        until_told(&config, "let in").await;
        until_told(&at_quick, "let in").await;
        on_leader(&world.status, "ALTER ROLE warm NOLOGIN");
        until_told(&at_quick, "FATAL 28000: role \"warm\" is not permitted to log in").await;
        on_leader(&world.status, "ALTER ROLE warm LOGIN VALID UNTIL '2001-01-01'");
        until_told(&at_quick, "FATAL 28P01: password authentication failed for user \"warm\"").await;
        on_leader(&world.status, "ALTER ROLE warm VALID UNTIL 'infinity' CONNECTION LIMIT 0");
        until_told(&at_quick, "FATAL 53300: too many connections for role \"warm\"").await;
    });
    proxy.assert_healthy();
}

#[test]
fn pools_are_as_their_users_and_databases_say() {
    let world = World::shared();
    make_role(world, "one_backend", "");
    make_role(world, "keeps_its_own", "");
    let proxy = Proxy::start(
        &world.status,
        "[pool]\nwait = '3s'\nsize = 2\n[[users]]\nname = 'one_backend'\npool_size = 1\n
         [[users]]\nname = 'keeps_its_own'\npool_mode = 'session'\n[[databases]]\nname = 'postgres'\npool_size = 3\npool_mode = 'session'",
    );
    let primary = "/* pgha: primary */ SELECT pg_backend_pid()";
    block_on(async {
        world.replicas_catch_up().await;
        for (user, database, most) in [
            ("app", "app", 2),
            ("one_backend", "app", 1),
            ("app", "postgres", 3),
            // What is set for the user comes first.
            ("one_backend", "postgres", 1),
        ] {
            let config = as_user(world, proxy.port, user, database);
            let mut held = Vec::new();
            while held.len() < 5 {
                // In session mode the login may have found none already.
                let Ok(client) = comes_in(&config).await else { break };
                if client.batch_execute("BEGIN; SELECT txid_current()").await.is_err() {
                    break;
                }
                held.push(client);
            }
            assert_eq!(held.len(), most, "{user} in {database}");
        }
        for (user, database, keeps) in
            [("app", "app", false), ("keeps_its_own", "app", true), ("app", "postgres", true)]
        {
            let config = as_user(world, proxy.port, user, database);
            let clients = [connect_as(&config).await, connect_as(&config).await];
            let mut pids = Vec::new();
            for client in clients.iter().cycle().take(6) {
                pids.push(one(client, primary).await);
            }
            assert_eq!(pids[0] != pids[1], keeps, "{user} in {database}: {pids:?}");
            assert!(pids.windows(3).all(|pids| pids[0] == pids[2]) || !keeps, "{pids:?}");
        }
    });
    proxy.assert_healthy();
}

/// A connection from another address of this machine's.
async fn from(address: &str, port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap()
}

#[test]
fn a_storm_of_logins_waits_and_is_let_in() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "[limits]\nlogins = 2\nlogin_timeout = '2min'");
    let app = application(&world.status, proxy.port);
    block_on(async {
        let clients = try_join_all((0..60).map(|_| comes_in(&app))).await.unwrap();
        assert_eq!(clients.len(), 60);
        assert_eq!(proxy.metric("pgha_logins_total", "refused"), 0.0);
        let answers = join_all(clients.iter().map(|client| one(client, "SELECT 1"))).await;
        assert!(answers.iter().all(|answer| answer == "1"));
    });
    proxy.assert_healthy();
}

#[test]
fn a_source_that_fails_over_and_over_starves_nobody() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "[limits]\nlogins = 4\nlogin_timeout = '2min'");
    let (app, port) = (application(&world.status, proxy.port), proxy.port);
    block_on(async {
        // They ask to log in and say no more: each holds its place, or waits for one, until its time is over.
        let silent = join_all((0..40).map(|_| async {
            let mut stream = from("127.0.0.9", port).await;
            stream.write_all(&startup(&[("user", "app")])).await.unwrap();
            stream
        }))
        .await;
        // And these fail as fast as they can.
        let failing: Vec<_> = (0..8)
            .map(|_| {
                tokio::spawn(async move {
                    loop {
                        let mut stream = from("127.0.0.8", port).await;
                        let nonsense = [&startup(&[("user", "app")])[..], b"p\0\0\0\x06x\0"].concat();
                        stream.write_all(&nonsense).await.unwrap();
                        let mut answer = Vec::new();
                        // Closed with bytes unread is a reset.
                        let _reset = stream.read_to_end(&mut answer).await;
                    }
                })
            })
            .collect();
        proxy.until("failed logins", |proxy| proxy.metric("pgha_logins_total", "refused") > 100.0);
        let began = Instant::now();
        for _ in 0..20 {
            assert_eq!(one(&connect_as(&app).await, "SELECT 1").await, "1");
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        for task in failing {
            task.abort();
        }
        drop(silent);
    });
    proxy.assert_healthy();
}
