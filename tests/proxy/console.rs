//! The console database `pgha`: what it shows, holds and ends, over psql and drivers.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use pg_ha_proxy::cluster::{How, Options};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::support::{
    PATIENCE, Proxy, Psql, World, application, block_on, connect, connect_as, leader, on_leader, one, psql,
    told,
};

/// A row by column; no value is NULL.
type Row = BTreeMap<String, String>;

fn console_of(world: &World, proxy: &Proxy) -> Config {
    let mut config = application(&world.status, proxy.port);
    config.dbname("pgha");
    config
}

async fn console(world: &World, proxy: &Proxy) -> Client {
    connect_as(&console_of(world, proxy)).await
}

/// What a command shows.
async fn shown(console: &Client, sql: &str) -> Vec<Row> {
    let messages = console.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {}", told(&error)));
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(
            row.columns()
                .iter()
                .enumerate()
                .filter_map(|(at, column)| Some((column.name().to_owned(), row.get(at)?.to_owned())))
                .collect(),
        ),
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

/// Its rows in which `column` is `value`.
async fn shown_where(console: &Client, sql: &str, column: &str, value: &str) -> Vec<Row> {
    let rows = shown(console, sql).await;
    rows.into_iter().filter(|row| row.get(column).is_some_and(|is| is == value)).collect()
}

/// Waits until the rows are as wanted.
async fn until(console: &Client, sql: &str, what: &str, holds: impl Fn(&[Row]) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let rows = shown(console, sql).await;
        if holds(&rows) {
            return;
        }
        assert!(Instant::now() < end, "{what}: {rows:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn named(client: &str, world: &World, proxy: &Proxy) -> Config {
    let mut config = application(&world.status, proxy.port);
    config.application_name(client);
    config
}

/// The columns of each table as PgBouncer has them: its documentation, "SHOW commands", and what 1.18 to 1.24 answer.
const PGBOUNCERS: &[(&str, &str)] = &[
    (
        "POOLS",
        "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel \
         sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode load_balance_hosts",
    ),
    ("CLIENTS", SOCKETS),
    ("SERVERS", SOCKETS),
    (
        "DATABASES",
        "name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime pool_mode \
         load_balance_hosts max_connections current_connections max_client_connections current_client_connections paused \
         disabled",
    ),
    (
        "USERS",
        "name pool_size reserve_pool_size pool_mode max_user_connections current_connections \
         max_user_client_connections current_client_connections",
    ),
    (
        "STATS",
        "database total_server_assignment_count total_xact_count total_query_count total_received total_sent \
         total_xact_time total_query_time total_wait_time avg_server_assignment_count avg_xact_count avg_query_count \
         avg_recv avg_sent avg_xact_time avg_query_time avg_wait_time",
    ),
    ("STATS_TOTALS", COUNTS),
    ("STATS_AVERAGES", COUNTS),
    ("TOTALS", "name value"),
    ("LISTS", "list items"),
    ("CONFIG", "key value default changeable"),
    ("VERSION", "version"),
    ("STATE", "key value"),
];
const SOCKETS: &str = "type user database replication state addr port local_addr local_port connect_time request_time wait \
                       wait_us close_needed ptr link remote_pid tls application_name prepared_statements id";
const COUNTS: &str = "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time \
                      wait_time";

#[test]
fn tables_have_pgbouncers_columns() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    block_on(async {
        let console = console(world, &proxy).await;
        for (table, columns) in PGBOUNCERS {
            let sql = format!("SHOW {table}");
            let statement =
                console.prepare(&sql).await.unwrap_or_else(|error| panic!("{sql}: {}", told(&error)));
            let names: Vec<_> = statement.columns().iter().map(tokio_postgres::Column::name).collect();
            let theirs: Vec<_> = columns.split_whitespace().collect();
            assert!(names.starts_with(&theirs), "{table}: {names:?}");
            for column in statement.columns() {
                let is_text =
                    matches!(column.name(), "database" | "name" | "user" | "addr" | "link" | "tls" | "host");
                let is_number =
                    column.name().starts_with("cl_") || matches!(column.name(), "port" | "wait" | "items");
                assert!(!is_text || *column.type_() == Type::TEXT, "{table}: {column:?}");
                assert!(!is_number || *column.type_() == Type::INT4, "{table}: {column:?}");
                let is_sum = column.name().starts_with("total_") || column.name().starts_with("avg_");
                assert!(!is_sum || *column.type_() == Type::NUMERIC, "{table}: {column:?}");
            }
            // In binary, as this driver asks for it, it is the same as in text.
            let rows = console
                .query(&statement, &[])
                .await
                .unwrap_or_else(|error| panic!("{sql}: {}", told(&error)));
            assert_eq!(rows.is_empty(), shown(&console, &sql).await.is_empty(), "{table}");
        }
        for ours in ["NODES", "ROUTES", "FAILOVERS"] {
            console.prepare(&format!("SHOW {ours}")).await.unwrap();
        }
        let nodes = shown(&console, "SHOW NODES").await;
        assert_eq!(nodes.len(), world.status.members.len());
        let leads = nodes.iter().find(|node| node["primary"] == "1").unwrap();
        assert_eq!(leads["name"], leader(&world.status).name);
        let typed = console.query("SHOW NODES", &[]).await.unwrap();
        let ports: Vec<i32> = typed.iter().map(|row| row.get("port")).collect();
        let same: Vec<i32> = nodes.iter().map(|node| node["port"].parse().unwrap()).collect();
        assert_eq!(ports, same);
        let config = shown_where(&console, "SHOW CONFIG", "key", "max_client_conn").await;
        assert_eq!(config[0]["value"], "10000");
    });
    proxy.assert_healthy();
}

#[test]
fn sessions_and_backends_are_shown() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    block_on(async {
        let console = console(world, &proxy).await;
        let pinned = connect_as(&named("the pinned one", world, &proxy)).await;
        pinned.batch_execute("CREATE TEMP TABLE its_own (n int)").await.unwrap();
        let pid = one(&pinned, "SELECT pg_backend_pid()").await;
        let open = connect_as(&named("first name", world, &proxy)).await;
        open.batch_execute("SET application_name = 'the open one'").await.unwrap();
        open.batch_execute("BEGIN").await.unwrap();
        let mine =
            |sql: &'static str, name: &'static str| shown_where(&console, sql, "application_name", name);
        assert_eq!(mine("SHOW CLIENTS", "the open one").await[0]["transaction"], "begun");
        open.batch_execute("SELECT txid_current()").await.unwrap();
        let idle = connect_as(&named("the idle one", world, &proxy)).await;

        let row = mine("SHOW CLIENTS", "the pinned one").await.remove(0);
        assert_eq!(
            (&*row["pinned"], &*row["state"], &*row["transaction"]),
            ("temporary tables", "active", "idle")
        );
        assert!(row.contains_key("pinned_since"), "{row:?}");
        assert_eq!(row["member"], leader(&world.status).name);
        let servers = shown_where(&console, "SHOW SERVERS", "link", &row["ptr"]).await;
        assert_eq!(servers.len(), 1, "{servers:?}");
        assert_eq!((&servers[0]["remote_pid"], &*servers[0]["role"]), (&pid, "primary"));
        assert_eq!((&servers[0]["ptr"], &servers[0]["member"]), (&row["link"], &row["member"]));
        assert!(servers[0]["local_port"].parse::<u16>().unwrap() > 0);

        let row = mine("SHOW CLIENTS", "the open one").await.remove(0);
        assert_eq!((&*row["transaction"], &*row["state"]), ("open", "active"));
        assert!(!row.contains_key("pinned"), "{row:?}");
        assert!(told(&open.batch_execute("SELECT 1 / 0").await.unwrap_err()).contains("22012"));
        // The driver gives the error before the answer's end, by which the transaction is known to have failed.
        until(&console, "SHOW CLIENTS", "a failed transaction", |rows| {
            rows.iter().any(|row| {
                row.get("application_name").is_some_and(|name| name == "the open one")
                    && row["transaction"] == "failed"
            })
        })
        .await;
        open.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(mine("SHOW CLIENTS", "the open one").await[0]["state"], "idle");

        let row = mine("SHOW CLIENTS", "the idle one").await.remove(0);
        assert_eq!((&*row["state"], &*row["database"], &*row["user"]), ("idle", "app", "app"));
        assert!(row["remote_pid"].parse::<u32>().unwrap() > 0 && row["tls"].is_empty());
        let us = shown_where(&console, "SHOW CLIENTS", "database", "pgha").await;
        assert_eq!((us.len(), &*us[0]["state"]), (1, "active"), "{us:?}");

        let pools = shown_where(&console, "SHOW POOLS", "database", "app").await;
        assert_eq!(pools.len(), 1, "{pools:?}");
        assert_eq!(
            (&*pools[0]["cl_active"], &*pools[0]["cl_pinned"], &*pools[0]["sv_active"]),
            ("3", "1", "1")
        );
        // The HTTP side has the same.
        let sessions = proxy.get("/sessions");
        assert!(
            sessions.contains("\"pinned\":\"temporary tables\"") && sessions.contains("the idle one"),
            "{sessions}"
        );
        pinned.batch_execute("DISCARD ALL").await.unwrap();
        assert!(!mine("SHOW CLIENTS", "the pinned one").await[0].contains_key("pinned"));
        drop(idle);
    });
    proxy.assert_healthy();
}

#[test]
fn what_sessions_do_is_counted() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    block_on(async {
        let console = console(world, &proxy).await;
        let client = connect(&world.status, &proxy).await;
        let stats = async || shown_where(&console, "SHOW STATS", "database", "app").await.remove(0);
        let number = |row: &Row, name: &str| row[name].parse::<u64>().unwrap();
        let before = stats().await;
        for _ in 0..10 {
            client.batch_execute("SELECT 1").await.unwrap();
        }
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute("SELECT pg_sleep(0.5)").await.unwrap();
        client.batch_execute("COMMIT").await.unwrap();
        client.batch_execute("SELECT repeat('x', 10000)").await.unwrap();
        let after = stats().await;
        let grew = |name| number(&after, name) - number(&before, name);
        assert_eq!((grew("total_xact_count"), grew("total_query_count")), (12, 14), "{before:?} {after:?}");
        assert_eq!(grew("total_server_assignment_count"), 12);
        assert!((150..2000).contains(&grew("total_received")), "{}", grew("total_received"));
        assert!((10_000..12_000).contains(&grew("total_sent")), "{}", grew("total_sent"));
        // By a clock that moves every tenth of a second.
        assert!((300_000..2_000_000).contains(&grew("total_query_time")), "{}", grew("total_query_time"));
        assert!((300_000..2_000_000).contains(&grew("total_xact_time")), "{}", grew("total_xact_time"));
        let totals = shown_where(&console, "SHOW STATS_TOTALS", "database", "app").await.remove(0);
        assert_eq!(totals["xact_count"], after["total_xact_count"]);
        let all = shown_where(&console, "SHOW TOTALS", "name", "total_query_count").await.remove(0);
        assert_eq!(all["value"], after["total_query_count"]);
    });
    proxy.assert_healthy();
}

#[test]
fn pause_lets_open_transactions_end_and_holds_new_ones() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    block_on(async {
        let (console, other) = (console(world, &proxy).await, console(world, &proxy).await);
        let open = connect(&world.status, &proxy).await;
        open.batch_execute("BEGIN; SELECT txid_current()").await.unwrap();
        let waits = connect_as(&named("the one that waits", world, &proxy)).await;
        let begun = connect(&world.status, &proxy).await;
        begun.batch_execute("BEGIN").await.unwrap();
        let paused = async { console.batch_execute("PAUSE app").await.unwrap() };
        let rest = async {
            until(&other, "SHOW DATABASES", "a pause", |rows| {
                rows.iter().any(|row| row["name"] == "app" && row["paused"] == "1")
            })
            .await;
            let asks = async { one(&waits, "SELECT 'answered'").await };
            let begins = async { one(&begun, "SELECT 'begun'").await };
            let looks = async {
                until(&other, "SHOW CLIENTS", "two that wait", |rows| {
                    rows.iter()
                        .filter(|row| row.get("waits_for").is_some_and(|what| what == "resume"))
                        .count()
                        == 2
                })
                .await;
                let pool = shown_where(&other, "SHOW POOLS", "database", "app").await.remove(0);
                assert_eq!((&*pool["cl_paused"], &*pool["cl_waiting"], &*pool["sv_active"]), ("2", "2", "1"));
                // PAUSE is not over: its console still runs it.
                let consoles = shown_where(&other, "SHOW CLIENTS", "database", "pgha").await;
                assert_eq!(consoles.iter().filter(|row| row["state"] == "active").count(), 2, "{consoles:?}");
                open.batch_execute("SELECT 1").await.unwrap();
                open.batch_execute("COMMIT").await.unwrap();
                // Now it ends, and with it all backends.
                until(&other, "SHOW SERVERS", "no backend", |rows| {
                    rows.iter().all(|row| row["database"] != "app")
                })
                .await;
                until(&other, "SHOW CLIENTS", "PAUSE to return", |rows| {
                    let of = |row: &&Row| row["database"] == "pgha" && row["state"] == "active";
                    rows.iter().filter(of).count() == 1
                })
                .await;
                let again = told(&other.batch_execute("PAUSE app").await.unwrap_err());
                assert_eq!(again, "ERROR 55000: database app is paused already");
                other.batch_execute("RESUME app").await.unwrap();
            };
            tokio::join!(asks, begins, looks)
        };
        let ((), (answered, begun_says, ())) = tokio::join!(paused, rest);
        assert_eq!((&*answered, &*begun_says), ("answered", "begun"));
        begun.batch_execute("COMMIT").await.unwrap();
        let refused = told(&console.batch_execute("RESUME app").await.unwrap_err());
        assert_eq!(refused, "ERROR 55000: database app is not paused");
        assert_eq!(one(&open, "SELECT 'lives'").await, "lives");
    });
    proxy.assert_healthy();
}

#[test]
fn a_pause_that_is_cancelled_or_forsaken_never_was() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    block_on(async {
        let (console, other) = (console(world, &proxy).await, console(world, &proxy).await);
        let open = connect(&world.status, &proxy).await;
        open.batch_execute("BEGIN; SELECT txid_current()").await.unwrap();
        let state = async |paused: &str| {
            until(&other, "SHOW STATE", paused, |rows| {
                rows.iter().any(|row| row["key"] == "paused" && row["value"] == paused)
            })
            .await;
        };
        let cancel = console.cancel_token();
        let pausing = async { told(&console.batch_execute("PAUSE").await.unwrap_err()) };
        let cancelling = async {
            state("yes").await;
            cancel.cancel_query(NoTls).await.unwrap();
        };
        let (told, ()) = tokio::join!(pausing, cancelling);
        assert_eq!(told, "ERROR 57014: canceling statement due to user request");
        state("no").await;
        // The console is whole.
        assert_eq!(one(&console, "SELECT 1").await, "1");
        // A console that goes away while its PAUSE waits.
        let (client, connection) = console_of(world, &proxy).connect(NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let forsaken = tokio::spawn(async move { client.batch_execute("PAUSE").await });
        state("yes").await;
        connection.abort();
        forsaken.abort();
        state("no").await;
        open.batch_execute("COMMIT").await.unwrap();
        // One that has returned stays when its console goes.
        drop(console);
        let last = connect_as(&console_of(world, &proxy)).await;
        last.batch_execute("PAUSE").await.unwrap();
        drop(last);
        until(&other, "SHOW CLIENTS", "one console", |rows| {
            rows.iter().filter(|row| row["database"] == "pgha").count() == 1
        })
        .await;
        state("yes").await;
        other.batch_execute("RESUME").await.unwrap();
        assert_eq!(one(&open, "SELECT 'goes on'").await, "goes on");
    });
    proxy.assert_healthy();
}

#[test]
fn who_waits_too_long_for_a_resume_is_told() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "failover.hold = '1s'");
    block_on(async {
        let console = console(world, &proxy).await;
        let client = connect(&world.status, &proxy).await;
        let pinned = connect(&world.status, &proxy).await;
        pinned.batch_execute("CREATE TEMP TABLE its_own AS SELECT 7 AS n").await.unwrap();
        console.batch_execute("PAUSE").await.unwrap();
        let message = "ERROR 57P03: database \"app\" has been paused for 1 s; try again later";
        assert_eq!(told(&client.batch_execute("SELECT 1").await.unwrap_err()), message);
        assert_eq!(told(&client.query("SELECT 1", &[]).await.unwrap_err()), message);
        assert_eq!(told(&pinned.batch_execute("SELECT n FROM its_own").await.unwrap_err()), message);
        console.batch_execute("RESUME").await.unwrap();
        assert_eq!(one(&client, "SELECT 'lives'").await, "lives");
        assert_eq!(one(&pinned, "SELECT n FROM its_own").await, "7");
    });
    proxy.assert_healthy();
}

#[test]
fn kill_ends_sessions_and_holds_the_database() {
    let world = World::shared();
    on_leader(&world.status, "CREATE DATABASE to_be_killed OWNER app");
    let proxy = Proxy::start(&world.status, "");
    block_on(async {
        world.replicas_catch_up().await;
        let console = console(world, &proxy).await;
        let there = |name: &str| {
            let mut config = named(name, world, &proxy);
            config.dbname("to_be_killed");
            config
        };
        let elsewhere = connect(&world.status, &proxy).await;
        let idle = connect_as(&there("idle")).await;
        let open = connect_as(&there("open")).await;
        open.batch_execute("BEGIN; CREATE TABLE never (n int)").await.unwrap();
        let (killed, told_of_it) = tokio::join!(console.batch_execute("KILL to_be_killed"), async {
            open.batch_execute("SELECT pg_sleep(60)").await.unwrap_err()
        });
        killed.unwrap();
        let told_of_it = told(&told_of_it);
        assert!(told_of_it.contains("57P01") || told_of_it.contains("closed"), "{told_of_it}");
        idle.batch_execute("SELECT 1").await.unwrap_err();
        let servers = shown_where(&console, "SHOW SERVERS", "database", "to_be_killed").await;
        assert!(servers.is_empty(), "{servers:?}");
        assert_eq!(one(&elsewhere, "SELECT 'is another'").await, "is another");
        // Who comes now waits.
        let (next, ()) = tokio::join!(
            async {
                let next = connect_as(&there("next")).await;
                one(&next, "SELECT to_regclass('never') IS NULL").await
            },
            async {
                until(&console, "SHOW CLIENTS", "one that waits", |rows| {
                    rows.iter().any(|row| row.get("waits_for").is_some_and(|what| what == "resume"))
                })
                .await;
                console.batch_execute("RESUME to_be_killed").await.unwrap();
            }
        );
        assert_eq!(next, "t");

        let victim = connect_as(&named("the victim", world, &proxy)).await;
        let row = shown_where(&console, "SHOW CLIENTS", "application_name", "the victim").await.remove(0);
        console.batch_execute(&format!("KILL_CLIENT {}", row["ptr"])).await.unwrap();
        victim.batch_execute("SELECT 1").await.unwrap_err();
        let twice = told(&console.batch_execute(&format!("KILL_CLIENT {}", row["ptr"])).await.unwrap_err());
        assert_eq!(twice, format!("ERROR 42704: client {} not found", row["ptr"]));
        let refused = told(&console.batch_execute("KILL pgha").await.unwrap_err());
        assert_eq!(refused, "ERROR 22023: cannot kill admin db: pgha");
    });
    proxy.assert_healthy();
}

#[test]
fn reload_is_sighups_and_admits_others() {
    let world = World::shared();
    on_leader(&world.status, "CREATE ROLE operator LOGIN PASSWORD 'operates'");
    let proxy = Proxy::start(&world.status, "");
    block_on(async {
        world.replicas_catch_up().await;
        let console = console(world, &proxy).await;
        let mut operator = console_of(world, &proxy);
        operator.user("operator").password("operates");
        let refused = operator.connect(NoTls).await.err().expect("no administrator");
        assert_eq!(told(&refused), "FATAL 42501: permission denied for database \"pgha\"");
        assert!(refused.as_db_error().unwrap().detail().unwrap().contains("admin.users"));
        // Not even its name tells who isn't logged in that the console is there.
        let wrong =
            operator.clone().password("guessed").connect(NoTls).await.err().expect("a wrong password");
        assert!(told(&wrong).contains("28P01"), "{}", told(&wrong));
        let good = std::fs::read_to_string(&proxy.configuration).unwrap();
        std::fs::write(&proxy.configuration, good.replace("users = [\"app\"]", "users = [\"operator\"]"))
            .unwrap();
        console.batch_execute("RELOAD").await.unwrap();
        let operator = connect_as(&operator).await;
        assert_eq!(shown(&operator, "SHOW VERSION").await.len(), 1);
        assert!(console_of(world, &proxy).connect(NoTls).await.is_err(), "no administrator any more");
        std::fs::write(&proxy.configuration, "[pool]\nsize = 'many'").unwrap();
        let bad = told(&operator.batch_execute("RELOAD").await.unwrap_err());
        assert!(bad.starts_with("ERROR F0000: the configuration stays as it was"), "{bad}");
        assert!(bad.contains("pool") && bad.contains("size"), "{bad}");
    });
    proxy.assert_healthy();
}

#[test]
fn psql_is_answered_as_by_a_server() {
    let world = World::shared();
    let port = world.proxy.port;
    let mut command = psql::command(&world.status, port);
    command.args(["-d", "pgha", "-c", "SHOW HELP", "-c", "SHOW VERSION"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("SHOW HELP|CONFIG|DATABASES"), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("pg-ha-proxy 0."), "{output:?}");
    let mut psql = Psql::start(&world.status, port);
    assert_eq!(psql.say("\\c pgha"), "");
    assert_eq!(psql.say("SELECT 1; SHOW client_encoding; ;"), "1\nUTF8");
    assert_eq!(psql.say("SET extra_float_digits = 3; BEGIN; SELECT current_database(); COMMIT;"), "pgha");
    assert!(psql.say("SELECT * FROM t;").contains("ERROR:  42601: invalid command: SELECT * FROM t"));
    assert!(psql.say("SHOW nothing;").contains("SHOW HELP tells what there is."));
    assert!(psql.say("SUSPEND;").contains("ERROR:  0A000: SUSPEND is not supported"));
    assert_eq!(psql.say("SHOW VERSION \\bind \\g"), format!("pg-ha-proxy {}", env!("CARGO_PKG_VERSION")));
    assert!(psql.say("SHOW VERSION \\bind 1 \\g").contains("08P01"));
    // A failed transaction is one until it is ended.
    assert!(psql.say("BEGIN; nonsense;").contains("42601"));
    assert!(psql.say("SHOW VERSION;").contains("25P02"));
    assert_eq!(psql.say("ROLLBACK; SELECT 2;"), "2");
    world.proxy.assert_healthy();
}

const PYTHON: &str = r#"
import sys, asyncio, asyncpg, psycopg
from decimal import Decimal
from psycopg.rows import dict_row
dsn, pool_dsn = sys.argv[1:]
with psycopg.connect(dsn, row_factory=dict_row) as connection:
    # In a transaction, as the driver begins one by itself.
    pools = connection.execute("SHOW POOLS").fetchall()
    assert any(pool["database"] == "pgha" and isinstance(pool["cl_active"], int) for pool in pools), pools
    connection.commit()
    for binary in (False, True):
        with connection.cursor(binary=binary) as cursor:
            stats = cursor.execute("SHOW STATS").fetchall()
            assert all(isinstance(row["total_query_count"], Decimal) for row in stats), stats
            version = cursor.execute("SHOW VERSION", prepare=True).fetchone()
            assert version["version"].startswith("pg-ha-proxy "), version
    connection.commit()
    try:
        connection.execute("SHOW NONSENSE")
        raise SystemExit("no error")
    except psycopg.errors.SyntaxError:
        connection.rollback()
    with connection.transaction():
        assert connection.execute("SELECT 1").fetchone() == {"?column?": 1}
    with connection.pipeline():
        answers = [connection.execute("SHOW LISTS") for _ in range(20)]
        for answer in answers:
            assert {row["list"] for row in answer.fetchall()} >= {"databases", "used_clients"}
    connection.commit()
async def asynchronous():
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        clients = await (await connection.execute("SHOW CLIENTS")).fetchall()
        assert any("pgha" in row for row in clients), clients
    # In binary, and with what its pool resets a connection with.
    async with asyncpg.create_pool(pool_dsn, min_size=1, max_size=1) as pool:
        for _ in range(3):
            async with pool.acquire() as connection:
                rows = await connection.fetch("SHOW STATS")
                assert all(isinstance(row["total_sent"], Decimal) for row in rows), rows
                clients = await connection.fetch("SHOW CLIENTS")
                assert any(row["database"] == "pgha" and isinstance(row["port"], int) for row in clients), clients
asyncio.run(asynchronous())
print("done")
"#;

#[test]
fn drivers_work_with_the_console() {
    let world = World::shared();
    let mut command = Command::new(world.cluster.runtime().python());
    let (port, password) = (world.proxy.port, world.status.app_password.reveal());
    let words = format!("host=127.0.0.1 port={port} user=app dbname=pgha password={password}");
    let address = format!("postgres://app:{password}@127.0.0.1:{port}/pgha");
    command.args(["-c", PYTHON, &words, &address]);
    let output = command.output().expect("Python runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "done", "{output:?}");
    world.proxy.assert_healthy();
}

#[test]
fn the_console_is_there_without_a_primary() {
    block_on(async {
        let world = World::new(Options::quick(), "failover.hold = '90s'").await;
        // One administrator is of the configuration; the other one is looked up, and has never logged in here.
        let proxy = Proxy::start(
            &world.status,
            "failover.hold = '90s'\n[admin]\nusers = ['app', 'given']\n\
             [[users]]\nname = 'given'\npassword = 'known'\n",
        );
        // Both proxies have read what they need to know of their administrators.
        let read = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'pgha_lookup' AND state = 'idle' AND query <> ''";
        let end = Instant::now() + PATIENCE;
        while on_leader(&world.status, read).parse::<u32>().unwrap() < 2 {
            assert!(Instant::now() < end, "no lookup: {}", proxy.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let lead = leader(&world.status).name.clone();
        world.cluster.kill(&lead, How::Member).await.expect("a kill");
        proxy.until("no primary", |proxy| proxy.get("/readyz").contains("\"primary\":false"));
        let mut given = console_of(&world, &proxy);
        given.user("given").password("known");
        let given = connect_as(&given).await;
        let looked_up = console(&world, &proxy).await;
        for console in [&given, &looked_up] {
            let nodes = shown_where(console, "SHOW NODES", "name", &lead).await;
            assert!(nodes.iter().all(|node| node["primary"] == "0"), "{nodes:?}");
            assert!(!shown(console, "SHOW CLIENTS").await.is_empty());
            shown(console, "SHOW FAILOVERS").await;
        }
        // PAUSE, too, is over at once: nothing is open.
        given.batch_execute("PAUSE").await.unwrap();
        given.batch_execute("RESUME").await.unwrap();
        until(&looked_up, "SHOW NODES", "another primary", |rows| {
            rows.iter().any(|row| row["primary"] == "1")
        })
        .await;
        until(&looked_up, "SHOW FAILOVERS", "its record", |rows| {
            rows.iter().any(|row| row["kind"] == "failover" && row.get("from") == Some(&lead))
        })
        .await;
        proxy.assert_healthy();
    });
}
