//! Transactions, savepoints, and what a rollback undoes.

use crate::support::raw::{Raw, frame, query};
use crate::support::{World, application, block_on, connect, connect_as, leader, on_leader, one, told};

#[test]
fn a_transaction_is_one_backends_and_all_or_nothing() {
    let world = World::shared();
    block_on(async {
        let (client, other) =
            (connect(&world.status, &world.proxy).await, connect(&world.status, &world.proxy).await);
        client.batch_execute("CREATE TABLE whole (n int)").await.unwrap();
        client.batch_execute("BEGIN").await.unwrap();
        let pid = one(&client, "SELECT pg_backend_pid()").await;
        client.batch_execute("INSERT INTO whole VALUES (1)").await.unwrap();
        assert_eq!(one(&client, "SELECT count(*) FROM whole").await, "1");
        assert_eq!(one(&other, "/* pgha: primary */ SELECT count(*) FROM whole").await, "0");
        assert_eq!(one(&client, "SELECT pg_backend_pid()").await, pid);
        client.batch_execute("COMMIT").await.unwrap();
        assert_eq!(one(&other, "/* pgha: primary */ SELECT count(*) FROM whole").await, "1");

        client.batch_execute("BEGIN; INSERT INTO whole VALUES (2)").await.unwrap();
        assert!(told(&client.batch_execute("SELECT 1/0").await.unwrap_err()).contains("22012"));
        let aborted =
            "ERROR 25P02: current transaction is aborted, commands ignored until end of transaction block";
        assert_eq!(told(&client.batch_execute("INSERT INTO whole VALUES (3)").await.unwrap_err()), aborted);
        // As PostgreSQL has it, COMMIT of a failed transaction rolls back without an error.
        client.batch_execute("COMMIT").await.unwrap();
        assert_eq!(one(&client, "SELECT count(*) FROM whole").await, "1");

        client.batch_execute("BEGIN; SAVEPOINT a; INSERT INTO whole VALUES (4)").await.unwrap();
        client.batch_execute("SAVEPOINT b").await.unwrap();
        assert!(client.batch_execute("SELECT 1/0").await.is_err());
        client.batch_execute("ROLLBACK TO b").await.unwrap();
        client.batch_execute("INSERT INTO whole VALUES (5); RELEASE b; ROLLBACK TO a; INSERT INTO whole VALUES (6); COMMIT").await.unwrap();
        assert_eq!(one(&client, "SELECT string_agg(n::text, ',' ORDER BY n) FROM whole").await, "1,6");
        client.batch_execute("BEGIN; INSERT INTO whole VALUES (7); COMMIT AND CHAIN; INSERT INTO whole VALUES (8); ROLLBACK").await.unwrap();
        assert_eq!(one(&client, "SELECT string_agg(n::text, ',' ORDER BY n) FROM whole").await, "1,6,7");
        // Serializable and read-write ones belong to the primary.
        client.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY").await.unwrap();
        assert_eq!(one(&client, "SELECT count(*) FROM whole").await, "3");
        client
            .batch_execute(
                "COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE; INSERT INTO whole VALUES (9)",
            )
            .await
            .unwrap();
        client.batch_execute("ROLLBACK").await.unwrap();
    });
    world.proxy.assert_healthy();
}

#[test]
fn serializable_by_default_belongs_to_the_primary() {
    let world = World::shared();
    block_on(async {
        let chooses = connect(&world.status, &world.proxy).await;
        let primary = format!("{}:", leader(&world.status).name);
        let setup = "DROP ROLE IF EXISTS strict; CREATE ROLE strict LOGIN PASSWORD 'strict';
                     ALTER ROLE strict SET default_transaction_isolation = 'serializable'";
        on_leader(&world.status, setup);
        world.replicas_catch_up().await;
        for how in [
            "SET default_transaction_isolation = 'Serializable'",
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY",
        ] {
            chooses.batch_execute(how).await.unwrap();
            for _ in 0..3 {
                assert_eq!(
                    one(&chooses, "SELECT current_setting('transaction_isolation')").await,
                    "serializable"
                );
                let last = one(&chooses, "SHOW pgha.last").await;
                assert!(last.starts_with(&primary), "{last}");
            }
            chooses.batch_execute("BEGIN READ ONLY").await.unwrap();
            assert_eq!(one(&chooses, "SELECT 1").await, "1");
            chooses.batch_execute("COMMIT").await.unwrap();
        }
        let reset =
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; RESET default_transaction_isolation";
        chooses.batch_execute(reset).await.unwrap();
        assert_eq!(one(&chooses, "/* pgha: eventual */ SELECT 1").await, "1");
        assert!(!one(&chooses, "SHOW pgha.last").await.starts_with(&primary));

        // What only the server knows: told by the replica, to each kind of first statement, with settings to bring along and without.
        for options in ["", "-c work_mem=7MB"] {
            let mut config = application(&world.status, world.proxy.port);
            config.user("strict").password("strict").options(options);
            for n in 0..8 {
                let client = connect_as(&config).await;
                match n % 4 {
                    0 => client.batch_execute("BEGIN READ ONLY; SELECT 1; COMMIT").await.unwrap(),
                    1 => client.batch_execute("BEGIN READ ONLY").await.unwrap(),
                    2 => assert_eq!(client.query("SELECT 1 WHERE $1 = 2", &[&2]).await.unwrap().len(), 1),
                    _ => {}
                }
                assert_eq!(
                    one(&client, "SELECT current_setting('transaction_isolation')").await,
                    "serializable"
                );
                assert_eq!(one(&client, "SELECT 'once more'").await, "once more");
            }
        }
    });
    world.proxy.assert_healthy();
}

/// A COMMIT or ROLLBACK between two Syncs ends what came before it there, also where no BEGIN did.
#[test]
fn settings_end_with_the_implicit_transaction() {
    let world = World::shared();
    let mut raw = Raw::log_in(world.proxy.port, "app", "app", world.status.app_password.reveal());
    let sync = frame(b'S', b"");
    let run = |sql: &str| {
        let parse = frame(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat());
        [parse, frame(b'B', b"\0\0\0\0\0\0\0\0"), frame(b'E', b"\0\0\0\0\0")].concat()
    };
    for (statements, value) in [
        (&["SET work_mem = '5MB'"][..], "5MB"),
        (&["SET work_mem = '6MB'", "ROLLBACK"], "5MB"),
        (&["SET work_mem = '6MB'", "ROLLBACK", "SET work_mem = '7MB'"], "7MB"),
        (&["SET work_mem = '8MB'", "COMMIT", "SET work_mem = '9MB'", "SELECT 1/0"], "8MB"),
        (&["SET work_mem = '9MB'", "SELECT 1/0"], "8MB"),
    ] {
        let batch: Vec<_> = statements.iter().flat_map(|sql| run(sql)).chain(sync.clone()).collect();
        raw.send(&batch);
        raw.tags();
        raw.send(&query("SELECT current_setting('work_mem')"));
        let shown = raw.until_ready();
        let row = shown.iter().find(|message| message.0 == b'D').expect("a row");
        assert!(row.1.ends_with(value.as_bytes()), "{statements:?}: {row:?}");
    }
    world.proxy.assert_healthy();
}

/// RESET of one setting tells nothing of another that SET LOCAL has for the transaction.
#[test]
fn a_reset_tells_of_its_own_setting() {
    let world = World::shared();
    let options = [("options", "-c search_path=pg_catalog -c my.own=a")];
    let password = world.status.app_password.reveal();
    let mut raw = Raw::log_in_with(world.proxy.port, "app", "app", password, &options);
    for (sql, tags) in [
        ("BEGIN", "CZ"),
        ("SET LOCAL search_path = ''", "CSZ"),
        ("SET my.own = 'b'", "CZ"),
        ("RESET my.own", "CZ"),
        ("SELECT 1 FROM pg_class LIMIT 0", "TCZ"),
        ("COMMIT", "CSZ"),
    ] {
        raw.send(&query(sql));
        assert_eq!(raw.tags(), tags, "{sql}");
    }
    world.proxy.assert_healthy();
}

/// What the proxy puts in front of a statement takes no snapshot: the isolation level may be chosen up to the first query.
#[test]
fn a_setting_that_goes_back_is_no_query() {
    let world = World::shared();
    block_on(async {
        let mut config = application(&world.status, world.proxy.port);
        config.application_name("first");
        let client = connect_as(&config).await;
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute("SET application_name = 'second'").await.unwrap();
        client.batch_execute("RESET application_name").await.unwrap();
        client.batch_execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await.unwrap();
        assert_eq!(one(&client, "SHOW transaction_isolation").await, "repeatable read");
        assert_eq!(one(&client, "SHOW application_name").await, "first");
        client.batch_execute("COMMIT").await.unwrap();
    });
    world.proxy.assert_healthy();
}

#[test]
fn a_client_that_goes_leaves_no_open_transaction() {
    let world = World::shared();
    block_on(async {
        let witness = connect(&world.status, &world.proxy).await;
        witness.batch_execute("CREATE TABLE left_open (n int PRIMARY KEY)").await.unwrap();
        for end in 0..2 {
            let client = connect(&world.status, &world.proxy).await;
            client.batch_execute("BEGIN; INSERT INTO left_open VALUES (1)").await.unwrap();
            if end == 1 {
                assert!(client.batch_execute("SELECT 1/0").await.is_err());
            }
            drop(client);
        }
        // It would wait for the lock of a transaction that is still open.
        witness.batch_execute("SET lock_timeout = '10s'; INSERT INTO left_open VALUES (1)").await.unwrap();
    });
    world.proxy.assert_healthy();
}

#[test]
fn settings_follow_their_transaction() {
    let world = World::shared();
    block_on(async {
        let client = connect(&world.status, &world.proxy).await;
        let show = "SHOW work_mem";
        let before = one(&client, show).await;
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute("SET work_mem = '5MB'").await.unwrap();
        client.batch_execute("SAVEPOINT s; SET work_mem = '6MB'").await.unwrap();
        assert_eq!(one(&client, show).await, "6MB");
        client.batch_execute("ROLLBACK TO s").await.unwrap();
        assert_eq!(one(&client, show).await, "5MB");
        client.batch_execute("SET LOCAL work_mem = '7MB'").await.unwrap();
        assert_eq!(one(&client, show).await, "7MB");
        client.batch_execute("COMMIT").await.unwrap();
        for _ in 0..6 {
            assert_eq!(one(&client, show).await, "5MB");
        }
        client.batch_execute("BEGIN; SET work_mem = '9MB'; ROLLBACK").await.unwrap();
        assert_eq!(one(&client, show).await, "5MB");
        client.batch_execute("BEGIN; SET work_mem = '9MB'").await.unwrap();
        client.batch_execute("ROLLBACK").await.unwrap();
        for _ in 0..6 {
            assert_eq!(one(&client, show).await, "5MB");
        }
        assert!(client.batch_execute("SET work_mem = 'nonsense'").await.is_err());
        client.batch_execute("RESET work_mem").await.unwrap();
        for _ in 0..6 {
            assert_eq!(one(&client, show).await, before);
        }
    });
    world.proxy.assert_healthy();
}
