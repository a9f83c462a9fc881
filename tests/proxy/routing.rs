//! What goes where, by the members' own counts.

use crate::support::{PATIENCE, Proxy, Psql, World, block_on, connect, direct, leader, on_leader, one, psql};

/// How often statements whose text holds `text` ran on each member, the leader first.
fn calls(world: &World, text: &str) -> Vec<u64> {
    let sql = format!(
        "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements JOIN pg_database d ON d.oid = dbid \
         WHERE datname = '{}' AND query LIKE '%{text}%' AND query NOT LIKE '%pg_stat_statements%'",
        world.status.app
    );
    let members = std::iter::once(leader(&world.status)).chain(world.status.replicas());
    members.map(|member| direct(&world.status, member, &world.status.app, &sql).parse().unwrap()).collect()
}

#[test]
fn reads_and_searches_are_spread_and_writes_reach_the_leader() {
    let world = World::shared();
    // Alone on a proxy: with others the turns would not be ours.
    let proxy = Proxy::start(&world.status, "");
    psql::ask(
        &world.status,
        proxy.port,
        "CREATE TABLE spread (id int PRIMARY KEY, embedding vector(3));\n\
         INSERT INTO spread SELECT n, ARRAY[n, n + 1, n + 2]::real[]::vector FROM generate_series(1, 50) n;",
    );
    block_on(world.replicas_catch_up());
    // In one session any replica is right only where reads may go back, and then they alternate.
    let reads: String = std::iter::once("SET pgha.consistency = 'eventual';\n".to_owned())
        .chain((1..=50).map(|n| format!("SELECT id FROM spread WHERE id = {n};\n")))
        .collect();
    assert_eq!(psql::ask(&world.status, proxy.port, &reads).lines().count(), 50);
    assert_eq!(calls(world, "FROM spread WHERE id"), [0, 25, 25]);
    // Otherwise a session keeps to its replica, whichever was first known to have what its user wrote.
    let searches: String = (1..=10)
        .map(|n| format!("SELECT id FROM spread ORDER BY embedding <-> '[{n},1,1]' LIMIT 1;\n"))
        .collect();
    for _ in 0..10 {
        let mut session = Psql::start(&world.status, proxy.port);
        // Who has just written reads it on the primary, in a new session too, until a replica is known to have it.
        let end = std::time::Instant::now() + PATIENCE;
        while session
            .say("SELECT 'seen' FROM spread;\nSHOW pgha.last;")
            .contains(&format!("{}:", leader(&world.status).name))
        {
            assert!(std::time::Instant::now() < end, "no replica is known to have what was written");
        }
        assert_eq!(session.say(&searches).lines().count(), 10);
    }
    let ran = calls(world, "ORDER BY embedding <->");
    assert_eq!((ran[0], ran[1] + ran[2]), (0, 100), "{ran:?}");
    psql::ask(&world.status, proxy.port, "INSERT INTO spread (id) VALUES (100);");
    assert_eq!(calls(world, "INSERT INTO spread (id)"), [1, 0, 0]);
    assert_eq!(on_leader(&world.status, "SELECT count(*) FROM spread WHERE id = 100"), "1");
    let of = |name: &str| proxy.metric("pgha_statements_total", name);
    let replicas: Vec<_> = world
        .status
        .replicas()
        .map(|member| of(&format!("member=\"{}\",class=\"vector\"", member.name)))
        .collect();
    assert_eq!(replicas.iter().sum::<f64>(), 100.0, "{}", proxy.get("/metrics"));
    let timed =
        |member: &str| proxy.metric("pgha_vector_search_seconds_count", &format!("member=\"{member}\""));
    let timed: f64 = world.status.replicas().map(|member| timed(&member.name)).sum();
    assert_eq!(timed, 100.0, "each search is timed");
    proxy.assert_healthy();
}

#[test]
fn own_writes_are_read() {
    let world = World::shared();
    block_on(async {
        let client = connect(&world.status, &world.proxy).await;
        client.batch_execute("CREATE TABLE own_writes (id int PRIMARY KEY)").await.unwrap();
        let insert = client.prepare("INSERT INTO own_writes VALUES ($1)").await.unwrap();
        let read = client.prepare("SELECT count(*), max(id) FROM own_writes").await.unwrap();
        for n in 1..=500_i32 {
            client.execute(&insert, &[&n]).await.unwrap();
            let row = client.query_one(&read, &[]).await.unwrap();
            assert_eq!(
                (row.get::<_, i64>(0), row.get::<_, i32>(1)),
                (i64::from(n), n),
                "a read went back in time"
            );
        }
    });
    world.proxy.assert_healthy();
}

#[test]
fn read_only_transactions_run_on_a_replica() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    psql::ask(
        &world.status,
        proxy.port,
        "CREATE TABLE read_only (id int); INSERT INTO read_only VALUES (1);",
    );
    block_on(async {
        world.replicas_catch_up().await;
        let client = connect(&world.status, &proxy).await;
        // What was read on the primary may be read on a replica at once.
        client.batch_execute("SET pgha.consistency = 'eventual'").await.unwrap();
        for _ in 0..10 {
            client.batch_execute("BEGIN READ ONLY").await.unwrap();
            assert_eq!(one(&client, "SELECT id FROM read_only").await, "1");
            assert_eq!(one(&client, "SHOW transaction_read_only").await, "on");
            let error = client.batch_execute("INSERT INTO read_only VALUES (2)").await.unwrap_err();
            assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("25006"));
            let error = client.batch_execute("SELECT 1").await.unwrap_err();
            assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("25P02"));
            client.batch_execute("ROLLBACK").await.unwrap();
        }
        let ran = calls(world, "SELECT id FROM read_only");
        assert_eq!((ran[0], ran[1] + ran[2]), (0, 10), "{ran:?}");
        client.batch_execute("BEGIN").await.unwrap();
        assert_eq!(one(&client, "SELECT id FROM read_only").await, "1");
        client.batch_execute("COMMIT").await.unwrap();
        assert_eq!(calls(world, "SELECT id FROM read_only")[0], 1);
        // The same said by SET TRANSACTION, with what else stands there.
        for n in 1..=10 {
            client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ -- as drivers do").await.unwrap();
            client.batch_execute("SET TRANSACTION READ ONLY").await.unwrap();
            assert_eq!(one(&client, "SELECT id, 'set' FROM read_only").await, "1");
            assert_eq!(one(&client, "SHOW transaction_isolation").await, "repeatable read");
            assert_eq!(one(&client, "SHOW transaction_read_only").await, "on");
            client.batch_execute("COMMIT").await.unwrap();
            let ran = calls(world, "SELECT id, $1 FROM read_only");
            assert_eq!((ran[0], ran[1] + ran[2]), (0, n), "{ran:?}");
        }
        client.batch_execute("BEGIN READ ONLY").await.unwrap();
        client.batch_execute("SET TRANSACTION READ WRITE").await.unwrap();
        client.batch_execute("INSERT INTO read_only VALUES (2)").await.expect("the last word counts");
        client.batch_execute("ROLLBACK").await.unwrap();
    });
    proxy.assert_healthy();
}

#[test]
fn a_write_that_no_text_shows_runs_on_the_primary() {
    let world = World::shared();
    block_on(async {
        let client = connect(&world.status, &world.proxy).await;
        client
            .batch_execute(
                "CREATE TABLE hidden_log (n int);
                 CREATE FUNCTION hidden_write() RETURNS int LANGUAGE sql AS 'INSERT INTO hidden_log VALUES (1) RETURNING n';
                 CREATE VIEW hidden AS SELECT hidden_write() AS n;
                 CREATE SEQUENCE hidden_numbers; CREATE VIEW hidden_number AS SELECT nextval('hidden_numbers') AS n",
            )
            .await
            .unwrap();
        world.replicas_catch_up().await;
        let fresh = connect(&world.status, &world.proxy).await;
        for n in 1..=4_i64 {
            assert_eq!(one(&fresh, "SELECT n FROM hidden").await, "1");
            assert_eq!(
                fresh.query_one("SELECT n FROM hidden_number", &[]).await.unwrap().get::<_, i64>(0),
                n
            );
        }
        assert_eq!(one(&fresh, "SELECT count(*) FROM hidden_log").await, "4");
    });
    world.proxy.assert_healthy();
}
