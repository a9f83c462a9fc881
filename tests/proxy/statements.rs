//! Prepared statements, named and unnamed, over backends that change under them.

use futures_util::future::try_join_all;

use crate::support::raw::{Raw, bind, execute, frame, parse, query, sync, values};
use crate::support::{Proxy, World, application, block_on, connect, connect_as, one, told};

#[test]
fn prepared_statements_live_on_whichever_backend() {
    let world = World::shared();
    block_on(async {
        let client = connect(&world.status, &world.proxy).await;
        client
            .batch_execute("CREATE TABLE prepared (id int PRIMARY KEY, name text); INSERT INTO prepared VALUES (1, 'one'), (2, 'two')")
            .await
            .unwrap();
        world.replicas_catch_up().await;
        let client = connect(&world.status, &world.proxy).await;
        let read = client.prepare("SELECT name FROM prepared WHERE id = $1").await.unwrap();
        let write =
            client.prepare("UPDATE prepared SET name = $2 WHERE id = $1 RETURNING name").await.unwrap();
        for n in 0..30 {
            let row = client.query_one(&read, &[&2_i32]).await.unwrap();
            assert_eq!(row.get::<_, String>(0), "two");
            let name = format!("one, {n}");
            let row = client.query_one(&write, &[&1_i32, &name]).await.unwrap();
            assert_eq!(row.get::<_, String>(0), name);
            assert_eq!(client.query_one(&read, &[&1_i32]).await.unwrap().get::<_, String>(0), name);
        }
        // A plan that a changed table makes invalid fails as it does directly, and once parsed again is right.
        client.batch_execute("ALTER TABLE prepared ADD extra int DEFAULT 7").await.unwrap();
        let all = client.prepare("SELECT * FROM prepared WHERE id = $1").await.unwrap();
        assert_eq!(client.query_one(&all, &[&1_i32]).await.unwrap().len(), 3);
        client.batch_execute("ALTER TABLE prepared DROP extra").await.unwrap();
        let error = client.query_one(&all, &[&1_i32]).await.unwrap_err();
        assert!(told(&error).contains("cached plan must not change result type"), "{error}");
        let all = client.prepare("SELECT * FROM prepared WHERE id = $1").await.unwrap();
        assert_eq!(client.query_one(&all, &[&1_i32]).await.unwrap().len(), 2);
    });
    world.proxy.assert_healthy();
}

/// Has sessions prepare a statement with one parameter and use it side by side, on as many backends.
async fn spread(world: &World, proxy: &Proxy, sql: &str) {
    let clients = (0..6).map(|_| async {
        let client = connect(&world.status, proxy).await;
        let read = client.prepare(sql).await?;
        Ok::<_, tokio_postgres::Error>((client, read))
    });
    let clients = try_join_all(clients).await.unwrap();
    for _ in 0..3 {
        let all = clients.iter().map(|(client, read)| client.query_one(read, &[&1_i32]));
        try_join_all(all).await.unwrap();
    }
}

#[test]
fn types_that_another_session_changed_are_refused() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.size = 3\nlisten.workers = 1");
    let sql = "SELECT * FROM retyped WHERE id = $1";
    let insert = "INSERT INTO retyped (name) VALUES ('new') RETURNING *";
    block_on(async {
        let connect = || connect(&world.status, &proxy);
        let other = connect().await;
        other
            .batch_execute(
                "CREATE TABLE retyped (id serial, name text); INSERT INTO retyped (name) VALUES ('one')",
            )
            .await
            .unwrap();
        world.replicas_catch_up().await;
        let before = connect().await;
        let (read, write) = (before.prepare(sql).await.unwrap(), before.prepare(insert).await.unwrap());
        assert_eq!(before.query_one(&read, &[&1_i32]).await.unwrap().len(), 2);
        // Backends that have it from before the change.
        spread(world, &proxy, sql).await;
        other.batch_execute("ALTER TABLE retyped ADD extra int DEFAULT 7").await.unwrap();
        world.replicas_catch_up().await;
        let after = connect().await;
        let anew = after.prepare(sql).await.unwrap();
        let changed = "ERROR 0A000: cached plan must not change result type";
        let others = [connect().await, connect().await];
        for round in 0..10 {
            // On backends that have it from before, and on some that have never had it.
            for holds in &others[..round % 3] {
                holds.batch_execute("BEGIN; SELECT txid_current()").await.unwrap();
            }
            before.batch_execute("BEGIN; SELECT txid_current()").await.unwrap();
            assert_eq!(told(&before.query_one(&read, &[&1_i32]).await.unwrap_err()), changed, "{round}");
            before.batch_execute("ROLLBACK").await.unwrap();
            let refused = told(&before.query_one(&read, &[&1_i32]).await.unwrap_err());
            assert_eq!(refused, changed, "round {round}");
            assert_eq!(after.query_one(&anew, &[&1_i32]).await.unwrap().len(), 3, "round {round}");
            assert_eq!(told(&before.query(&write, &[]).await.unwrap_err()), changed, "round {round}");
            for holds in &others[..round % 3] {
                holds.batch_execute("ROLLBACK").await.unwrap();
            }
        }
        assert_eq!(one(&other, "SELECT count(*) FROM retyped").await, "1", "what is refused writes nothing");
        before.batch_execute("BEGIN").await.unwrap();
        assert_eq!(told(&before.query_one(&read, &[&1_i32]).await.unwrap_err()), changed);
        assert!(told(&before.batch_execute("SELECT 1").await.unwrap_err()).contains("25P02"));
        before.batch_execute("ROLLBACK").await.unwrap();
        // What is gone is an error of its own.
        other.batch_execute("ALTER TABLE retyped RENAME TO retyped_away").await.unwrap();
        world.replicas_catch_up().await;
        for _ in 0..4 {
            let gone = told(&before.query_one(&read, &[&1_i32]).await.unwrap_err());
            assert!(gone.contains("relation \"retyped\" does not exist"), "{gone}");
        }
        // As it was, it is good again; and who was told of the other one is refused.
        other
            .batch_execute("ALTER TABLE retyped_away DROP extra; ALTER TABLE retyped_away RENAME TO retyped")
            .await
            .unwrap();
        world.replicas_catch_up().await;
        for _ in 0..10 {
            assert_eq!(before.query_one(&read, &[&1_i32]).await.unwrap().len(), 2);
            assert_eq!(told(&after.query_one(&anew, &[&1_i32]).await.unwrap_err()), changed);
        }
        assert_eq!(before.query(&write, &[]).await.unwrap().len(), 1);
    });
    proxy.assert_healthy();
}

#[test]
fn types_of_columns_and_parameters_count_and_not_tables() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    block_on(async {
        let other = connect(&world.status, &proxy).await;
        other
            .batch_execute("CREATE TABLE remade (id int, name text); INSERT INTO remade VALUES (1)")
            .await
            .unwrap();
        world.replicas_catch_up().await;
        let before = connect(&world.status, &proxy).await;
        let read = before.prepare("SELECT * FROM remade WHERE id = $1").await.unwrap();
        // Another table of the same columns is none to a client, another type of a parameter is.
        other
            .batch_execute(
                "DROP TABLE remade; CREATE TABLE remade (id int, name text); INSERT INTO remade VALUES (1)",
            )
            .await
            .unwrap();
        world.replicas_catch_up().await;
        for _ in 0..4 {
            assert_eq!(before.query_one(&read, &[&1_i32]).await.unwrap().len(), 2);
        }
        other.batch_execute("ALTER TABLE remade ALTER id TYPE text").await.unwrap();
        world.replicas_catch_up().await;
        for _ in 0..4 {
            before.query_one(&read, &[&1_i32]).await.unwrap_err();
        }
    });
    proxy.assert_healthy();
}

#[test]
fn one_name_is_each_sessions_own() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.size = 1\nlisten.workers = 1");
    let log_in = || Raw::log_in(proxy.port, "app", "app", world.status.app_password.reveal());
    let (mut a, mut b) = (log_in(), log_in());
    a.send(&[parse("same", "SELECT 'of a'"), sync()].concat());
    b.send(&[parse("same", "SELECT 'of b'"), sync()].concat());
    assert_eq!((a.tags(), b.tags()), ("1Z".to_owned(), "1Z".to_owned()));
    // The unnamed one too.
    a.send(&[parse("", "SELECT 'unnamed a'"), sync()].concat());
    b.send(&[parse("", "SELECT 'unnamed b'"), sync()].concat());
    assert_eq!((a.tags(), b.tags()), ("1Z".to_owned(), "1Z".to_owned()));
    for _ in 0..3 {
        for (raw, own) in [(&mut a, "a"), (&mut b, "b")] {
            raw.send(&[bind("same"), execute(), bind(""), execute(), sync()].concat());
            assert_eq!(values(&raw.until_ready()), [format!("of {own}"), format!("unnamed {own}")]);
        }
    }
    // A name in use is refused, an unknown one too; closed, it is free.
    a.send(&[parse("same", "SELECT 1"), bind("same"), sync()].concat());
    assert_eq!(a.tags(), "EZ");
    a.send(
        &[frame(b'C', b"Ssame\0"), parse("same", "SELECT 'again'"), bind("same"), execute(), sync()].concat(),
    );
    assert_eq!(values(&a.until_ready()), ["again"]);
    b.send(&[bind("same"), execute(), sync()].concat());
    assert_eq!(values(&b.until_ready()), ["of b"]);
    a.send(&[bind("never"), execute(), sync()].concat());
    assert_eq!(a.tags(), "EZ");
    // A failed Parse leaves nothing under its name.
    a.send(&[parse("bad", "SELECT nonsense FROM nowhere"), sync()].concat());
    assert_eq!(a.tags(), "EZ");
    a.send(&[parse("bad", "SELECT 'good now'"), bind("bad"), execute(), sync()].concat());
    assert_eq!(values(&a.until_ready()), ["good now"]);
    // A simple Query drops the unnamed statement, DEALLOCATE ALL the named ones.
    a.send(&[query("SELECT 1"), bind(""), execute(), sync()].concat());
    assert_eq!(a.tags(), "TDCZ");
    assert_eq!(a.tags(), "EZ");
    a.send(&[query("DEALLOCATE ALL"), bind("same"), sync()].concat());
    assert_eq!(a.tags(), "CZ");
    assert_eq!(a.tags(), "EZ");
    proxy.assert_healthy();
}

/// ECPG does it for every statement that a program prepared.
#[test]
fn deallocate_reaches_statements_of_the_protocol() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.size = 1");
    let log_in = || Raw::log_in(proxy.port, "app", "app", world.status.app_password.reveal());
    let (mut a, mut b) = (log_in(), log_in());
    for (raw, own) in [(&mut a, "a"), (&mut b, "b")] {
        let other = parse("other", "SELECT 'of both'");
        raw.send(&[parse("Own", &format!("SELECT 'of {own}'")), other, sync()].concat());
        assert_eq!(raw.tags(), "11Z");
    }
    // By a Query, in a transaction and by the extended protocol; the second time there is none.
    for (in_front, tags) in [("BEGIN", "CZ"), ("SELECT 1", "TDCZ")] {
        a.send(&query(in_front));
        assert_eq!(a.tags(), tags);
        a.send(&query("DEALLOCATE PREPARE \"Own\""));
        assert_eq!(a.tags(), "CZ", "after {in_front}");
        a.send(&[bind("Own"), sync()].concat());
        assert_eq!(a.tags(), "EZ");
        a.send(&[query("ROLLBACK"), query("DEALLOCATE \"Own\"")].concat());
        let _ = a.until_ready();
        assert_eq!(a.tags(), "EZ");
        a.send(&[parse("Own", "SELECT 'again'"), bind("Own"), execute(), sync()].concat());
        assert_eq!(values(&a.until_ready()), ["again"]);
    }
    let both =
        [parse("", "DEALLOCATE \"Own\""), bind(""), execute(), parse("", "DEALLOCATE other"), bind("")];
    a.send(&[both.concat(), execute(), sync()].concat());
    assert_eq!(a.tags(), "12C12CZ");
    // A failed transaction deallocates nothing, and what failed leaves nothing behind for others.
    a.send(&[parse("Own", "SELECT 'at last'"), sync()].concat());
    assert_eq!(a.tags(), "1Z");
    a.send(&query("BEGIN; SELECT 1/0"));
    assert_eq!(a.tags(), "CEZ");
    a.send(&[query("DEALLOCATE \"Own\""), query("ROLLBACK")].concat());
    assert_eq!((a.tags(), a.tags()), ("EZ".into(), "CZ".into()));
    a.send(&[parse("", "SELECT 1/0"), bind(""), execute(), both.concat(), execute(), sync()].concat());
    assert!(a.tags().ends_with("EZ"));
    a.send(&[bind("Own"), execute(), sync()].concat());
    assert_eq!(values(&a.until_ready()), ["at last"]);
    b.send(&[bind("Own"), execute(), bind("other"), execute(), sync()].concat());
    assert_eq!(values(&b.until_ready()), ["of b", "of both"]);
    let mut c = log_in();
    c.send(&query("DEALLOCATE \"Own\""));
    assert_eq!(c.tags(), "EZ");
    c.send(&[query("PREPARE \"Own\" AS SELECT 'of c'"), query("EXECUTE \"Own\"")].concat());
    assert_eq!((c.tags(), values(&c.until_ready())), ("CZ".into(), vec!["of c".to_owned()]));
    proxy.assert_healthy();
}

/// Errors to the last field, and a statement of SQL's PREPARE by the protocol.
#[test]
fn a_name_that_no_parse_gave_means_what_it_does_directly() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.size = 1");
    let direct = world.status.member(world.status.leader.as_ref().unwrap()).unwrap().direct_port;
    let log_in = |port| Raw::log_in(port, "app", "app", world.status.app_password.reveal());
    let (mut through, mut directly) = (log_in(proxy.port), log_in(direct));
    let describe = frame(b'D', b"Snever\0");
    let unnamed = [parse("", "SELECT 'unnamed'"), bind(""), execute()].concat();
    let cases = [
        [bind("never"), execute(), sync()].concat(),
        [describe.clone(), sync()].concat(),
        [unnamed.clone(), bind("never"), execute(), bind(""), execute(), sync()].concat(),
        [bind(""), execute(), sync()].concat(),
        query("BEGIN; SELECT 1/0"),
        [bind("never"), execute(), sync()].concat(),
        [describe.clone(), sync()].concat(),
        query("ROLLBACK"),
        query(
            "CREATE TEMP TABLE by_name (n int); PREPARE never AS INSERT INTO by_name VALUES (1) RETURNING n + 0",
        ),
        [unnamed, bind("never"), execute(), bind(""), execute(), describe, sync()].concat(),
        query("SELECT count(*) FROM by_name"),
    ];
    for (at, case) in cases.iter().enumerate() {
        through.send(case);
        directly.send(case);
        assert_eq!(through.until_ready(), directly.until_ready(), "case {at}");
    }
    through.send(&[bind("pgha_0000000000000001"), sync()].concat());
    assert_eq!(through.tags(), "EZ");
    proxy.assert_healthy();
}

#[test]
fn deallocate_takes_away_what_was_parsed() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.size = 1\nlisten.workers = 1");
    let log_in = || Raw::log_in(proxy.port, "app", "app", world.status.app_password.reveal());
    let (mut a, mut b) = (log_in(), log_in());
    for raw in [&mut a, &mut b] {
        raw.send(&[parse("same", "SELECT 'shared'"), bind("same"), execute(), sync()].concat());
        assert_eq!(values(&raw.until_ready()), ["shared"]);
    }
    let deallocate = [parse("", "DEALLOCATE PREPARE same"), bind(""), execute(), sync()].concat();
    for (taken, tags) in [(query("DEALLOCATE same"), "CZ"), (deallocate, "12CZ")] {
        a.send(&taken);
        assert_eq!(a.tags(), tags);
        a.send(&[bind("same"), sync()].concat());
        assert_eq!(a.tags(), "EZ");
        a.send(&query("DEALLOCATE same"));
        assert_eq!(a.tags(), "EZ");
        // The other session has it still, and its name is free.
        b.send(&[bind("same"), execute(), sync()].concat());
        assert_eq!(values(&b.until_ready()), ["shared"]);
        a.send(&[parse("same", "SELECT 'anew'"), bind("same"), execute(), sync()].concat());
        assert_eq!(values(&a.until_ready()), ["anew"]);
    }
    // In a failed transaction it is refused and nothing is taken away.
    for (sql, tags) in
        [("BEGIN", "CZ"), ("SELECT 1 FROM nowhere", "EZ"), ("DEALLOCATE same", "EZ"), ("ROLLBACK", "CZ")]
    {
        a.send(&query(sql));
        assert_eq!(a.tags(), tags, "{sql}");
    }
    a.send(&[bind("same"), execute(), sync()].concat());
    assert_eq!(values(&a.until_ready()), ["anew"]);
    proxy.assert_healthy();
}

#[test]
fn many_sessions_share_few_backends_and_mix_up_nothing() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.size = 2");
    block_on(async {
        let sessions = (0..50_i32).map(|n| {
            let proxy = &proxy;
            async move {
                let mut config = application(&world.status, proxy.port);
                config.application_name(format!("session {n}"));
                let client = connect_as(&config).await;
                let own = client
                    .prepare(&format!("SELECT $1::int + {n}, current_setting('application_name')"))
                    .await?;
                for k in 0..20_i32 {
                    let row = client.query_one(&own, &[&k]).await?;
                    assert_eq!(row.get::<_, i32>(0), n + k);
                    assert_eq!(row.get::<_, String>(1), format!("session {n}"));
                    let row = client.query_one("/* pgha: primary */ SELECT $1::int * 2", &[&n]).await?;
                    assert_eq!(row.get::<_, i32>(0), n * 2);
                }
                Ok::<_, tokio_postgres::Error>(())
            }
        });
        try_join_all(sessions).await.unwrap();
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND application_name LIKE 'session %'";
        let backends: u32 = one(&connect(&world.status, &proxy).await, sql).await.parse().unwrap();
        assert!((1..=2).contains(&backends), "{backends} backends on the primary");
    });
    proxy.assert_healthy();
}
