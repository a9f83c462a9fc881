//! `pool.prepare_threshold`: unnamed statements that backends have by now are not parsed again, and nobody can tell.

use crate::support::raw::{Message, Raw, bind_with, describe, execute, frame, parse, sync, values};
use crate::support::{Proxy, World, leader, on_leader};

/// One statement as most drivers send it.
fn run(sql: &str, parameters: &[&str]) -> Vec<u8> {
    [parse("", sql), bind_with("", parameters), describe(), execute(), sync()].concat()
}

fn ask(raw: &mut Raw, sql: &str, parameters: &[&str]) -> Vec<Message> {
    raw.send(&run(sql, parameters));
    raw.until_ready()
}

/// A proxy that takes the second time for often, with one backend for each member, on the primary alone.
fn start(world: &World) -> Proxy {
    Proxy::start(
        &world.status,
        "pool.prepare_threshold = 1\npool.size = 1\nrouting.reads = \"primary\"\nlisten.workers = 1",
    )
}

fn log_in(world: &World, port: u16) -> Raw {
    Raw::log_in(port, "app", "app", world.status.app_password.reveal())
}

fn spared(proxy: &Proxy) -> f64 {
    proxy.metric("pgha_parses_spared_total", "")
}

#[test]
fn what_comes_often_is_parsed_once() {
    let world = World::shared();
    let proxy = start(world);
    let mut sessions = [log_in(world, proxy.port), log_in(world, proxy.port)];
    let mut direct = log_in(world, leader(&world.status).direct_port);
    for n in 0..5 {
        for raw in &mut sessions {
            let parameter = n.to_string();
            assert_eq!(
                ask(raw, "SELECT $1::int + 1", &[&parameter]),
                ask(&mut direct, "SELECT $1::int + 1", &[&parameter])
            );
        }
    }
    assert_eq!(spared(&proxy), 8.0, "the first run is counted, and the second parses what the others use");
    // What the session doesn't bind at once it can bind all the same, on its own parse.
    let [a, b] = &mut sessions;
    a.send(&[bind_with("", &["41"]), execute(), sync()].concat());
    assert_eq!(values(&a.until_ready()), ["42"]);
    b.send(&[frame(b'D', b"S\0"), bind_with("", &["7"]), execute(), sync()].concat());
    assert_eq!(values(&b.until_ready()), ["8"]);
    // The session has no statement of that name, and sees none.
    let seen = ask(a, "SELECT count(*) FROM pg_prepared_statements", &[]);
    assert_eq!(values(&seen), ["0"]);
    // Only one statement at a time, outside of transactions.
    let before = spared(&proxy);
    a.send(
        &[
            parse("", "SELECT $1::int + 1"),
            bind_with("", &["1"]),
            execute(),
            run("SELECT $1::int + 1", &["2"]),
        ]
        .concat(),
    );
    assert_eq!(values(&a.until_ready()), ["2", "3"]);
    ask(a, "BEGIN", &[]);
    assert_eq!(values(&ask(a, "SELECT $1::int + 1", &["3"])), ["4"]);
    ask(a, "COMMIT", &[]);
    assert_eq!(spared(&proxy), before);
    proxy.assert_healthy();
}

#[test]
fn what_is_said_when_it_fails_is_the_statements_own() {
    let world = World::shared();
    let proxy = start(world);
    let mut through = log_in(world, proxy.port);
    let mut direct = log_in(world, leader(&world.status).direct_port);
    on_leader(
        &world.status,
        "CREATE TABLE reused (a int); INSERT INTO reused VALUES (1); GRANT ALL ON reused TO app",
    );
    let mut same = |sql: &str, parameters: &[&str], after: &str| {
        let (there, here) = (ask(&mut direct, sql, parameters), ask(&mut through, sql, parameters));
        assert_eq!(there, here, "{sql} with {parameters:?} {after}");
        there.iter().map(|(tag, _)| char::from(*tag)).collect::<String>()
    };
    let all = "SELECT * FROM reused WHERE a >= $1";
    for _ in 0..3 {
        assert_eq!(same(all, &["1"], ""), "12TDCZ");
    }
    assert_eq!(same(all, &[], "too few"), "1EZ");
    assert_eq!(same(all, &["1", "2"], "too many"), "1EZ");
    assert_eq!(same(all, &["one"], "of another type"), "1EZ");
    assert_eq!(same("SELECT 1 / (a - $1) FROM reused", &["1"], "once"), "12TEZ");
    assert_eq!(same("SELECT 1 / (a - $1) FROM reused", &["1"], "twice"), "12TEZ");
    // DDL past the proxy: other columns, no such table, another one.
    assert_eq!(same(all, &["1"], ""), "12TDCZ");
    on_leader(&world.status, "ALTER TABLE reused ADD b text DEFAULT 'new'");
    assert_eq!(same(all, &["1"], "with another column"), "12TDCZ");
    assert_eq!(proxy.metric("pgha_reroutes_total", "parses"), 4.0, "three wrong Binds, and other columns");
    assert_eq!(same(all, &["1"], "with another column, again"), "12TDCZ");
    on_leader(&world.status, "DROP TABLE reused");
    assert_eq!(same(all, &["1"], "without its table"), "EZ");
    on_leader(&world.status, "CREATE TABLE reused (a bigint); GRANT ALL ON reused TO app");
    assert_eq!(same(all, &["1"], "with another table"), "12TCZ");
    on_leader(&world.status, "DROP TABLE reused");
    // Behind a Flush nothing can be run again.
    assert_eq!(same("SELECT $1::int + 1", &["1"], ""), "12TDCZ");
    assert_eq!(same("SELECT $1::int + 1", &["1"], "again"), "12TDCZ");
    let flushed = [parse("", "SELECT $1::int + 1"), bind_with("", &[]), execute(), frame(b'H', b"")].concat();
    let told = [&mut direct, &mut through].map(|raw| {
        raw.send(&flushed);
        let told = [raw.expect(b'1'), raw.expect(b'E')];
        raw.send(&sync());
        (told, raw.tags())
    });
    assert_eq!(told[0], told[1]);
    proxy.assert_healthy();
}

#[test]
fn sessions_that_differ_share_nothing() {
    let world = World::shared();
    let proxy = start(world);
    on_leader(
        &world.status,
        "CREATE SCHEMA reuse_a; CREATE TABLE reuse_a.spot AS SELECT 1 AS n; CREATE SCHEMA reuse_b; CREATE TABLE reuse_b.spot AS SELECT 2 AS n;
         GRANT USAGE ON SCHEMA reuse_a, reuse_b TO app; GRANT SELECT ON reuse_a.spot, reuse_b.spot TO app",
    );
    let mut sessions = ["reuse_a", "reuse_b"].map(|path| {
        let mut raw = log_in(world, proxy.port);
        ask(&mut raw, &format!("SET search_path = {path}"), &[]);
        raw
    });
    for _ in 0..3 {
        for (raw, n) in sessions.iter_mut().zip(["1", "2"]) {
            assert_eq!(values(&ask(raw, "SELECT n FROM spot", &[])), [n]);
        }
    }
    assert_eq!(spared(&proxy), 2.0, "one each: first counted, then parsed");
    // A table that hides the other from here on; the session is tied to its backend, and to its own Parse.
    let [a, b] = &mut sessions;
    ask(a, "CREATE TEMP TABLE spot AS SELECT 3 AS n", &[]);
    assert_eq!(values(&ask(a, "SELECT n FROM spot", &[])), ["3"]);
    ask(a, "DROP TABLE pg_temp.spot", &[]);
    assert_eq!(values(&ask(a, "SELECT n FROM spot", &[])), ["1"]);
    // DDL through the proxy: what was parsed before it is parsed again, though PostgreSQL would keep to the table that it found.
    let second = "SELECT n FROM second_spot";
    on_leader(
        &world.status,
        "CREATE TABLE reuse_a.second_spot AS SELECT 1 AS n; GRANT ALL ON reuse_a.second_spot TO app; GRANT CREATE ON SCHEMA reuse_b TO app",
    );
    ask(a, "DISCARD ALL", &[]);
    ask(a, "SET search_path = reuse_b, reuse_a", &[]);
    for _ in 0..3 {
        assert_eq!(values(&ask(a, second, &[])), ["1"]);
    }
    assert_eq!(spared(&proxy), 3.0);
    ask(b, "CREATE TABLE reuse_b.second_spot AS SELECT 2 AS n", &[]);
    assert_eq!(values(&ask(a, second, &[])), ["2"]);
    // A string is a value from its Parse on.
    let now = "SELECT 'now'::timestamptz::text";
    let times: Vec<_> = (0..4).flat_map(|_| values(&ask(a, now, &[]))).collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    proxy.assert_healthy();
}
