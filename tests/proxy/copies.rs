//! COPY both ways, large results, cancel, errors and notices.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt, stream};
use tokio_postgres::{AsyncMessage, NoTls};

use crate::support::raw::{Raw, frame, query};
use crate::support::{Proxy, World, application, block_on, connect, one, told};

#[test]
fn copy_goes_in_and_out() {
    let world = World::shared();
    block_on(async {
        let client = connect(&world.status, &world.proxy).await;
        client.batch_execute("CREATE TABLE copied (id int PRIMARY KEY, name text)").await.unwrap();
        let sink = client.copy_in("COPY copied FROM STDIN").await.unwrap();
        tokio::pin!(sink);
        for block in 0..100 {
            let rows: String = (0..100).map(|n| format!("{}\tname of {n}\n", block * 100 + n)).collect();
            sink.send(Bytes::from(rows)).await.unwrap();
        }
        assert_eq!(sink.finish().await.unwrap(), 10_000);
        let out = client.copy_out("COPY (SELECT * FROM copied ORDER BY id) TO STDOUT").await.unwrap();
        let bytes: Vec<Bytes> = out.try_collect().await.unwrap();
        let text = String::from_utf8(bytes.concat()).unwrap();
        assert_eq!(text.lines().count(), 10_000);
        assert_eq!(text.lines().nth(9_999), Some("9999\tname of 99"));

        // A bad row in the middle: nothing of it stays, the session does.
        let sink = client.copy_in("COPY copied FROM STDIN").await.unwrap();
        tokio::pin!(sink);
        let mut rows = stream::iter((0..2000).map(|n| {
            let id = if n == 1000 { "nonsense".to_owned() } else { (20_000 + n).to_string() };
            Ok(Bytes::from(format!("{id}\t{}\n", "x".repeat(500))))
        }));
        let failed = match sink.send_all(&mut rows).await {
            Ok(()) => sink.finish().await.map(|_| ()),
            Err(error) => Err(error),
        };
        assert!(told(&failed.unwrap_err()).contains("22P02"));
        assert_eq!(one(&client, "SELECT count(*) FROM copied").await, "10000");
        // Given up by the client in the middle.
        {
            let sink = client.copy_in("COPY copied FROM STDIN").await.unwrap();
            tokio::pin!(sink);
            sink.send(Bytes::from_static(b"30000\tnever\n")).await.unwrap();
        }
        assert_eq!(one(&client, "SELECT count(*) FROM copied").await, "10000");
        assert_eq!(one(&client, "SELECT 'still here'").await, "still here");
    });
    world.proxy.assert_healthy();
}

#[test]
fn a_copy_that_fails_at_once_drops_what_was_sent_ahead() {
    let world = World::shared();
    let mut raw = Raw::log_in(world.proxy.port, "app", "app", world.status.app_password.reveal());
    raw.send(&query("CREATE TEMP TABLE ahead (id int)"));
    assert_eq!(raw.tags(), "CZ");
    // All at once: the data is sent before anyone said that it is wanted.
    let data: Vec<u8> = (0..1000).flat_map(|n| frame(b'd', format!("{n}\n").as_bytes())).collect();
    raw.send(
        &[
            query("COPY ahead FROM STDIN"),
            data.clone(),
            frame(b'c', b""),
            query("SELECT count(*) FROM ahead"),
        ]
        .concat(),
    );
    assert_eq!(raw.tags(), "GCZ");
    let answer = raw.until_ready();
    assert!(answer.iter().any(|(tag, body)| *tag == b'D' && body.ends_with(b"1000")));
    raw.send(
        &[
            query("COPY ahead FROM STDIN"),
            frame(b'd', b"nonsense\n"),
            data,
            frame(b'c', b""),
            query("SELECT 1"),
        ]
        .concat(),
    );
    assert_eq!(raw.tags(), "GEZ");
    assert_eq!(raw.tags(), "TDCZ");
    world.proxy.assert_healthy();
}

#[test]
fn a_large_result_streams_through_little_memory() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    let mut raw = Raw::log_in(proxy.port, "app", "app", world.status.app_password.reveal());
    raw.send(&query("SELECT 1"));
    raw.until_ready();
    let before = proxy.memory();
    let bounded = || assert!(proxy.memory() < before + (16 << 20), "{before} grew to {}", proxy.memory());
    raw.send(&query("SELECT repeat('x', 100000) FROM generate_series(1, 1200)"));
    let mut bytes = 0;
    loop {
        let (tag, body) = raw.receive().expect("a message");
        match tag {
            b'D' => bytes += body.len() - 6,
            b'Z' => break,
            _ => {}
        }
        if bytes % 20_000_000 == 0 {
            bounded();
        }
    }
    assert_eq!(bytes, 120_000_000);
    // One row of 100 MB, too.
    raw.send(&query("SELECT repeat('y', 100000000)"));
    let row = raw.until_ready().into_iter().find(|(tag, _)| *tag == b'D').expect("a row");
    assert_eq!(row.1.len(), 100_000_006);
    bounded();
    // And a long one in the other direction.
    raw.send(&query(&format!("SELECT length('{}')", "z".repeat(50_000_000))));
    let row = raw.until_ready().into_iter().find(|(tag, _)| *tag == b'D').expect("a row");
    assert!(row.1.ends_with(b"50000000"));
    raw.send(&query("COPY (SELECT repeat('c', 100000) FROM generate_series(1, 500)) TO STDOUT"));
    assert_eq!(raw.until_ready().iter().filter(|(tag, _)| *tag == b'd').count(), 500);
    drop(raw);
    proxy.assert_healthy();
}

#[test]
fn a_cancel_reaches_what_runs_and_nothing_else() {
    let world = World::shared();
    block_on(async {
        let client = connect(&world.status, &world.proxy).await;
        for sql in ["SELECT pg_sleep(30)", "/* pgha: primary */ SELECT pg_sleep(30)"] {
            let token = client.cancel_token();
            let began = Instant::now();
            let canceller = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                token.cancel_query(NoTls).await
            });
            let error = client.batch_execute(sql).await.unwrap_err();
            canceller.await.unwrap().unwrap();
            assert!(told(&error).contains("57014: canceling statement due to user request"), "{error}");
            assert!(began.elapsed() < Duration::from_secs(10), "{sql} took {:?}", began.elapsed());
            // Nobody is hit by it later.
            for n in 0..20 {
                assert_eq!(one(&client, &format!("SELECT {n}")).await, n.to_string());
            }
        }
        // When nothing runs it is forgotten.
        client.cancel_token().cancel_query(NoTls).await.unwrap();
        assert_eq!(one(&client, "SELECT count(*) FROM generate_series(1, 1000)").await, "1000");
        // Within a transaction it fails that, as on a direct connection.
        client.batch_execute("BEGIN; CREATE TABLE cancelled (id int)").await.unwrap();
        let token = client.cancel_token();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            token.cancel_query(NoTls).await
        });
        assert!(told(&client.batch_execute("SELECT pg_sleep(30)").await.unwrap_err()).contains("57014"));
        assert!(told(&client.batch_execute("SELECT 1").await.unwrap_err()).contains("25P02"));
        client.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(one(&client, "SELECT to_regclass('cancelled') IS NULL").await, "t");
    });
    world.proxy.assert_healthy();
}

#[test]
fn errors_and_notices_come_as_they_are() {
    let world = World::shared();
    block_on(async {
        let (client, mut connection) =
            application(&world.status, world.proxy.port).connect(NoTls).await.unwrap();
        let notices = tokio::spawn(async move {
            let mut notices = Vec::new();
            while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let Ok(AsyncMessage::Notice(notice)) = message {
                    notices.push(format!(
                        "{} {}: {}",
                        notice.severity(),
                        notice.code().code(),
                        notice.message()
                    ));
                }
            }
            notices
        });
        client
            .batch_execute("DO $$ BEGIN RAISE WARNING 'careful %', 1; RAISE NOTICE 'well'; END $$")
            .await
            .unwrap();
        client.batch_execute("COMMIT").await.unwrap();
        let error = client
            .batch_execute("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'ZZ123', DETAIL = 'd', HINT = 'h', TABLE = 't'; END $$")
            .await
            .unwrap_err();
        let error = error.as_db_error().unwrap().clone();
        assert_eq!((error.code().code(), error.message()), ("ZZ123", "no"));
        assert_eq!((error.detail(), error.hint(), error.table()), (Some("d"), Some("h"), Some("t")));
        let error = client.batch_execute("SELECT nonsense").await.unwrap_err();
        let error = error.as_db_error().unwrap().clone();
        assert_eq!(error.position(), Some(&tokio_postgres::error::ErrorPosition::Original(8)));
        drop(client);
        let notices = notices.await.unwrap();
        assert_eq!(
            notices,
            [
                "WARNING 01000: careful 1",
                "NOTICE 00000: well",
                "WARNING 25P01: there is no transaction in progress"
            ]
        );
    });
    world.proxy.assert_healthy();
}

#[test]
fn a_copy_that_fails_in_the_middle_of_a_message_leaves_its_backend_in_step() {
    let world = World::shared();
    let mut raw = Raw::log_in(world.proxy.port, "app", "app", world.status.app_password.reveal());
    for setup in ["", "BEGIN", "CREATE TEMP TABLE pinned (id int)"] {
        raw.send(&query(setup));
        raw.until_ready();
        raw.send(&query("CREATE TABLE IF NOT EXISTS cut_short (id int)"));
        raw.until_ready();
        for size in [9, 1_000, 300_000] {
            raw.send(&query("COPY cut_short FROM STDIN"));
            assert_eq!(raw.receive().expect("an answer").0, b'G');
            let data = frame(b'd', &vec![b'1'; size]);
            // The row that fails it, and of the next message all but a part.
            let (first, rest) = data.split_at(data.len() - 4);
            raw.send(&[&frame(b'd', b"nonsense\n")[..], first].concat());
            assert_eq!(raw.tags(), "EZ");
            raw.send(&[rest, &frame(b'd', b"2\n"), &frame(b'c', b"")].concat());
            raw.send(&query("ROLLBACK TO nothing"));
            assert_eq!(raw.tags(), "EZ");
            raw.send(&query("ROLLBACK"));
            raw.until_ready();
            raw.send(&query("SELECT 1"));
            assert_eq!(raw.tags(), "TDCZ");
            raw.send(&query("CREATE TABLE IF NOT EXISTS cut_short (id int)"));
            raw.until_ready();
        }
    }
    world.proxy.assert_healthy();
}
