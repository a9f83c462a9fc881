//! Pipelines: many messages before the first answer.

use futures_util::future::join_all;

use crate::support::raw::{Raw, bind, describe, execute, frame, parse, query};
use crate::support::{Proxy, World, block_on, connect, leader, on_leader, told};

fn statement(sql: &str) -> Vec<u8> {
    [parse("", sql), bind(""), describe(), execute()].concat()
}

#[test]
fn a_pipeline_is_answered_in_order() {
    let world = World::shared();
    block_on(async {
        let client = connect(&world.status, &world.proxy).await;
        client.batch_execute("CREATE TABLE piped (id int PRIMARY KEY)").await.unwrap();
        world.replicas_catch_up().await;
        let insert = client.prepare("INSERT INTO piped VALUES ($1)").await.unwrap();
        let read = client.prepare("SELECT count(*) FROM piped").await.unwrap();
        let numbers: Vec<i32> = (1..=100).collect();
        let all = join_all(numbers.iter().map(|n| {
            let (client, insert, read) = (&client, &insert, &read);
            async move {
                // Both go out before either is answered.
                let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [n];
                let (wrote, seen) =
                    tokio::join!(client.execute(insert, &parameters), client.query_one(read, &[]));
                (wrote.unwrap(), seen.unwrap().get::<_, i64>(0))
            }
        }))
        .await;
        for (place, (wrote, seen)) in all.into_iter().enumerate() {
            assert_eq!((wrote, seen), (1, place as i64 + 1));
        }
        // A failure in the middle is that statement's own.
        let (one, two, three) = tokio::join!(
            client.query_one("SELECT 1", &[]),
            client.execute(&insert, &[&1_i32]),
            client.query_one("SELECT 3", &[])
        );
        assert_eq!((one.unwrap().get::<_, i32>(0), three.unwrap().get::<_, i32>(0)), (1, 3));
        assert!(told(&two.unwrap_err()).contains("23505"));
    });
    world.proxy.assert_healthy();
}

#[test]
fn one_sync_ends_many_statements_as_it_does_directly() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    let direct = world.status.member(world.status.leader.as_ref().unwrap()).unwrap().direct_port;
    let log_in = |port| Raw::log_in(port, "app", "app", world.status.app_password.reveal());
    let (mut through, mut directly) = (log_in(proxy.port), log_in(direct));
    for raw in [&mut through, &mut directly] {
        raw.send(&query("CREATE TEMP TABLE synced (id int PRIMARY KEY)"));
        assert_eq!(raw.tags(), "CZ");
    }
    let sync = frame(b'S', b"");
    let cases = [
        [statement("INSERT INTO synced VALUES (1)"), statement("SELECT count(*) FROM synced"), sync.clone()]
            .concat(),
        // All of it is one transaction: nothing of it stays.
        [
            statement("INSERT INTO synced VALUES (2)"),
            statement("SELECT 1/0"),
            statement("SELECT 3"),
            sync.clone(),
        ]
        .concat(),
        [statement("SELECT count(*) FROM synced"), sync.clone()].concat(),
        [
            statement("BEGIN"),
            statement("INSERT INTO synced VALUES (3)"),
            sync.clone(),
            statement("SELECT 1"),
            sync.clone(),
        ]
        .concat(),
        [
            statement("nonsense"),
            sync.clone(),
            statement("SELECT 1"),
            sync.clone(),
            statement("ROLLBACK"),
            sync.clone(),
        ]
        .concat(),
        [statement("SELECT 1"), frame(b'H', b""), statement("SELECT 2"), sync.clone()].concat(),
        [sync.clone(), sync.clone(), statement(""), sync.clone()].concat(),
        [statement("SELECT 1; SELECT 2"), sync.clone()].concat(),
        [statement("SELECT generate_series(1, 3)"), frame(b'C', b"P\0"), sync.clone()].concat(),
        query("SELECT 1; SELECT 2; INSERT INTO synced VALUES (4); SELECT count(*) FROM synced"),
        query("INSERT INTO synced VALUES (5); SELECT 1/0; SELECT 1"),
        query("SELECT count(*) FROM synced"),
        query("BEGIN; INSERT INTO synced VALUES (6); COMMIT; SELECT 1/0"),
        query("SELECT count(*) FROM synced;;"),
    ];
    for case in cases {
        let end = query("SELECT 'the end'");
        let mut heard = [&mut through, &mut directly].map(|raw| {
            raw.send(&[case.clone(), end.clone()].concat());
            let mut all = Vec::new();
            while !all.iter().any(|(tag, body): &(u8, Vec<u8>)| *tag == b'D' && body.ends_with(b"the end")) {
                all.extend(raw.until_ready());
            }
            // Where an error is in the server's source is nobody's business.
            all.retain(|(tag, _)| *tag != b'N');
            all
        });
        let directly = heard[1].split_off(0);
        assert_eq!(heard[0], directly, "{}", String::from_utf8_lossy(&case));
    }
    proxy.assert_healthy();
}

#[test]
fn rows_come_in_portions() {
    let world = World::shared();
    block_on(async {
        let mut client = connect(&world.status, &world.proxy).await;
        let transaction = client.transaction().await.unwrap();
        let portal = transaction.bind("SELECT generate_series(1, 100)", &[]).await.unwrap();
        let mut seen = 0;
        for size in [30, 30, 40, 10] {
            seen += transaction.query_portal(&portal, size).await.unwrap().len();
        }
        assert_eq!(seen, 100);
        transaction.commit().await.unwrap();
    });
    world.proxy.assert_healthy();
}

/// As asyncpg prepares: Parse and Flush, and what follows before the Sync may be anything.
#[test]
fn what_follows_a_flush_may_write() {
    let world = World::shared();
    let mut raw = Raw::log_in(world.proxy.port, "app", "app", world.status.app_password.reveal());
    let (flush, sync) = (frame(b'H', b""), frame(b'S', b""));
    raw.send(&query("CREATE TABLE flushed (n int)"));
    assert_eq!(raw.tags(), "CZ");
    for _ in 0..4 {
        raw.send(&[statement("SELECT 1"), flush.clone()].concat());
        for tag in *b"12TDC" {
            raw.expect(tag);
        }
        raw.send(&[statement("INSERT INTO flushed VALUES (1)"), sync.clone()].concat());
        assert_eq!(raw.tags(), "12nCZ");
    }
    // What ties the session to its backend ties it to one that can write.
    raw.send(&[statement("SELECT 1"), flush].concat());
    for tag in *b"12TDC" {
        raw.expect(tag);
    }
    raw.send(&[statement("SELECT set_config('jit', 'off', false)"), sync].concat());
    assert_eq!(raw.tags(), "12TDCZ");
    raw.send(&query("DROP TABLE flushed"));
    assert_eq!(raw.tags(), "CZ");
    world.proxy.assert_healthy();
}

/// What a primary refuses as a standby would is run again, in case that it isn't the primary any more: behind a Flush on another backend, as
/// the first waits for the Sync.
#[test]
fn what_is_refused_behind_a_flush_is_told() {
    let world = World::shared();
    on_leader(
        &world.status,
        "CREATE FUNCTION recovers() RETURNS int LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'recovery is in progress' USING ERRCODE = '55000'; END $$",
    );
    let log_in = |port| Raw::log_in(port, "app", "app", world.status.app_password.reveal());
    let mut sessions = [log_in(leader(&world.status).direct_port), log_in(world.proxy.port)];
    let told = sessions.each_mut().map(|raw| {
        raw.send(&[statement("SELECT recovers()"), frame(b'H', b"")].concat());
        let mut tags: String = (0..4).map(|_| char::from(raw.receive().expect("an answer").0)).collect();
        raw.send(&frame(b'S', b""));
        tags += &raw.tags();
        raw.send(&query("SELECT 1"));
        tags + &raw.tags()
    });
    assert_eq!(told, ["12TEZTDCZ"; 2]);
    on_leader(&world.status, "DROP FUNCTION recovers()");
    world.proxy.assert_healthy();
}

/// A session that tied itself to a replica in a READ ONLY transaction is told that it can't write there, and not kept waiting.
#[test]
fn who_is_tied_to_a_replica_is_told() {
    let world = World::shared();
    block_on(async {
        let client = connect(&world.status, &world.proxy).await;
        client.batch_execute("SET pgha.consistency = 'eventual'").await.unwrap();
        // At READ COMMITTED it would go to the primary.
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await.unwrap();
        client.batch_execute("SELECT 1").await.unwrap();
        client.batch_execute("PREPARE tied AS SELECT 1").await.unwrap();
        client.batch_execute("COMMIT").await.unwrap();
        let refused = client.batch_execute("CREATE TABLE not_there (n int)").await.unwrap_err();
        assert!(told(&refused).contains("25006"), "{}", told(&refused));
        client.batch_execute("DISCARD ALL").await.unwrap();
        client.batch_execute("CREATE TABLE there (n int); DROP TABLE there").await.unwrap();
    });
    world.proxy.assert_healthy();
}

/// A batch longer than what is kept of one (`routing.retry_buffer`) is sent in parts, and each is answered.
#[test]
fn long_parameters_are_passed_on() {
    let world = World::shared();
    block_on(async {
        let client = connect(&world.status, &world.proxy).await;
        for len in [1 << 20, 3 << 20] {
            let long = vec![7_u8; len];
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&long];
            let asked = client.query_one("SELECT length($1::bytea)", &parameters);
            let row = tokio::time::timeout(std::time::Duration::from_secs(20), asked)
                .await
                .expect("an answer")
                .unwrap();
            assert_eq!(row.get::<_, i32>(0), len as i32);
        }
    });
    world.proxy.assert_healthy();
}

/// As on a direct connection, where the server rolls back; the next session on that backend must not commit it, nor be skipped.
#[test]
fn a_batch_without_its_sync_ends_with_its_session() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.size = 1");
    let log_in = || Raw::log_in(proxy.port, "app", "app", world.status.app_password.reveal());
    let mut next = log_in();
    next.send(&query("DROP TABLE IF EXISTS without_sync; CREATE TABLE without_sync (id int)"));
    let _ = next.until_ready();
    let insert = "INSERT INTO without_sync VALUES (1)";
    let flush = frame(b'H', b"");
    let left = [
        ([statement(insert), statement(insert), flush.clone()].concat(), "12nC12nC"),
        ([statement(insert), statement("SELECT 1/0"), flush.clone()].concat(), "12nC1E"),
        ([statement("SELECT 1"), statement("SELECT 2"), flush].concat(), "12TDC12TDC"),
    ];
    for (batch, tags) in left {
        let mut gone = log_in();
        gone.send(&batch);
        let told: String = tags.chars().map(|_| char::from(gone.receive().expect("an answer").0)).collect();
        assert_eq!(told, tags);
        gone.send(&frame(b'X', b""));
        drop(gone);
        next.send(&query("/* pgha: primary */ SELECT count(*) FROM without_sync"));
        let all = next.until_ready();
        let ready = all.last().expect("ReadyForQuery");
        assert_eq!((&all[1].1[6..], &ready.1[..]), (&b"0"[..], &b"I"[..]), "after {tags}");
    }
    proxy.assert_healthy();
}
