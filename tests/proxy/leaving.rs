//! READ ONLY transactions that begin on a replica and come to what belongs to the primary.

use tokio_postgres::Client;

use crate::support::{Proxy, World, application, block_on, connect, connect_as, direct, leader, one, told};

/// Where the statement before went.
async fn last(client: &Client) -> String {
    one(client, "SHOW pgha.last").await.split(':').next().unwrap_or_default().to_owned()
}

/// A session with an open transaction that has read on a replica; which.
async fn reads_on_a_replica(client: &Client, begin: &str) -> String {
    client.batch_execute("SET pgha.consistency = 'eventual'").await.unwrap();
    client.batch_execute(begin).await.unwrap();
    assert_eq!(one(client, "SELECT count(*) > 0 FROM pg_class").await, "t");
    last(client).await
}

#[test]
fn a_transaction_goes_on_where_its_locks_count() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    let primary = leader(&world.status);
    let may_lock = |key: u32| {
        let sql = format!("SELECT pg_try_advisory_xact_lock({key})");
        direct(&world.status, primary, &world.status.app, &sql)
    };
    block_on(async {
        world.replicas_catch_up().await;
        for (key, begin) in [
            "BEGIN READ ONLY",
            "BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY",
            "SET default_transaction_read_only = on; BEGIN",
        ]
        .into_iter()
        .enumerate()
        {
            let key = 770_000 + u32::try_from(key).expect("a small one");
            let client = connect(&world.status, &proxy).await;
            let mut begin = begin;
            if let Some((set, rest)) = begin.split_once("; ") {
                client.batch_execute(set).await.unwrap();
                begin = rest;
            }
            assert_ne!(reads_on_a_replica(&client, begin).await, primary.name, "{begin}");
            one(&client, &format!("SELECT pg_advisory_lock({key})")).await;
            assert_eq!(last(&client).await, primary.name, "{begin}");
            assert_eq!(may_lock(key), "f", "{begin}");
            assert_eq!(one(&client, "SHOW transaction_read_only").await, "on");
            assert_eq!(one(&client, "SELECT pg_current_xact_id() IS NOT NULL").await, "t");
            client.batch_execute("PREPARE leaving AS SELECT 5; NOTIFY leaving").await.unwrap();
            client.batch_execute("COMMIT").await.unwrap();
            client.batch_execute("SET default_transaction_read_only = off").await.unwrap();
            // What it keeps ties it to the primary, where it can write.
            client.batch_execute("CREATE TABLE left_behind (n int); DROP TABLE left_behind").await.unwrap();
            assert_eq!(one(&client, "EXECUTE leaving").await, "5");
            assert_eq!(may_lock(key), "f", "{begin}");
            one(&client, &format!("SELECT pg_advisory_unlock({key})")).await;
            assert_eq!(may_lock(key), "t", "{begin}");
        }
        // A cursor that ends with its transaction is a read.
        let client = connect(&world.status, &proxy).await;
        client.batch_execute("SET pgha.consistency = 'eventual'").await.unwrap();
        client.batch_execute("BEGIN READ ONLY").await.unwrap();
        client.batch_execute("DECLARE c CURSOR FOR SELECT 9").await.unwrap();
        assert_ne!(last(&client).await, primary.name);
        assert_eq!(one(&client, "FETCH c").await, "9");
        client.batch_execute("COMMIT").await.unwrap();
        // By the extended protocol, with BEGIN and its first statement in one batch as drivers send them.
        let client = connect(&world.status, &proxy).await;
        client.batch_execute("SET pgha.consistency = 'eventual'").await.unwrap();
        let begin = client.prepare("BEGIN READ ONLY").await.unwrap();
        client.execute(&begin, &[]).await.unwrap();
        client.query("SELECT count(*) FROM pg_class WHERE relname = $1", &[&"left"]).await.unwrap();
        assert_ne!(last(&client).await, primary.name);
        client.query("SELECT pg_advisory_xact_lock($1)", &[&770_010_i64]).await.unwrap();
        assert_eq!(may_lock(770_010), "f");
        let refused = client.batch_execute("CREATE TABLE not_here (n int)").await.unwrap_err();
        assert!(told(&refused).contains("25006"), "{}", told(&refused));
        client.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(may_lock(770_010), "t");
    });
    assert_eq!(proxy.metric("pgha_reroutes_total", "leaves"), 4.0);
    proxy.assert_healthy();
}

/// What a new transaction would not have keeps the old one where it is.
#[test]
fn a_transaction_stays_with_what_it_has() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    let lock = "SELECT pg_advisory_xact_lock(770020)";
    block_on(async {
        world.replicas_catch_up().await;
        for (begin, has, shows, value) in [
            ("BEGIN READ ONLY", "SET LOCAL work_mem = '5MB'", "SHOW work_mem", "5MB"),
            ("BEGIN READ ONLY", "SELECT set_config('work_mem', '6MB', true)", "SHOW work_mem", "6MB"),
            ("BEGIN READ ONLY", "SET work_mem = '7MB'", "SHOW work_mem", "7MB"),
            ("BEGIN READ ONLY", "DECLARE c CURSOR FOR SELECT 9", "FETCH c", "9"),
            ("BEGIN READ ONLY", "SAVEPOINT s", "ROLLBACK TO s; SELECT 10", "10"),
            (
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
                "SELECT 1",
                "SHOW transaction_isolation",
                "repeatable read",
            ),
        ] {
            let client = connect(&world.status, &proxy).await;
            let at = reads_on_a_replica(&client, begin).await;
            client.batch_execute(has).await.unwrap();
            client.batch_execute(lock).await.unwrap();
            assert_eq!(last(&client).await, at, "{has}");
            assert_ne!(at, leader(&world.status).name, "{has}");
            assert_eq!(one(&client, shows).await, value, "{has}");
            client.batch_execute("COMMIT").await.unwrap();
        }
        // What ends with the transaction doesn't tie the session to the replica, in whatever string it stands.
        let client = connect(&world.status, &proxy).await;
        reads_on_a_replica(&client, "BEGIN READ ONLY").await;
        client.batch_execute("SET work_mem = '3MB'").await.unwrap();
        client.batch_execute("BEGIN; SET LOCAL work_mem = '4MB'; COMMIT").await.unwrap();
        client.batch_execute("CREATE TABLE not_tied (n int); DROP TABLE not_tied").await.unwrap();
        assert_eq!(one(&client, "SHOW work_mem").await, "3MB");
        // As PostgreSQL has it, what is chained to a transaction that failed has none of its modes.
        for chain in ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN"] {
            let client = connect(&world.status, &proxy).await;
            reads_on_a_replica(&client, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await;
            client.batch_execute("SELECT 1/0").await.unwrap_err();
            client.batch_execute(chain).await.unwrap();
            assert_eq!(one(&client, "SHOW transaction_read_only").await, "off", "{chain}");
            assert_eq!(one(&client, "SHOW transaction_isolation").await, "read committed", "{chain}");
            client.batch_execute("CREATE TABLE chained (n int)").await.unwrap();
            client.batch_execute("ROLLBACK").await.unwrap();
        }
        // A role's own isolation level, which only the server knows.
        let mut config = application(&world.status, proxy.port);
        config.options("-c default_transaction_isolation=repeatable\\ read");
        let client = connect_as(&config).await;
        let at = reads_on_a_replica(&client, "BEGIN READ ONLY").await;
        client.batch_execute(lock).await.unwrap();
        assert_eq!(last(&client).await, at);
        client.batch_execute("COMMIT").await.unwrap();
    });
    assert_eq!(proxy.metric("pgha_reroutes_total", "leaves"), 0.0);
    proxy.assert_healthy();
}
