//! A planned switchover costs no error: new writes wait, open transactions end first.

use std::time::{Duration, Instant};

use pg_ha_proxy::cluster::Options;

use crate::support::{PATIENCE, Proxy, World, block_on, connect, direct, leader, one, psql, told};

/// How long the transaction that ends in time is at work during the switchover.
const WORK: Duration = Duration::from_secs(1);

#[test]
fn open_transactions_end_before_a_switchover() {
    block_on(async {
        let world = World::new(Options::quick(), "failover.drain = '3s'").await;
        let hasty = Proxy::start(&world.status, "failover.fail_fast = ['app']");
        let setup = connect(&world.status, &world.proxy).await;
        setup.batch_execute("CREATE TABLE ledger (id int PRIMARY KEY)").await.unwrap();
        let [working, resting, resetting, waiting] = {
            let mut sessions = Vec::new();
            for id in 1..=4 {
                let session = connect(&world.status, &world.proxy).await;
                if id < 4 {
                    session.batch_execute(&format!("BEGIN; INSERT INTO ledger VALUES ({id})")).await.unwrap();
                }
                sessions.push(session);
            }
            <[_; 4]>::try_from(sessions).unwrap_or_else(|_| unreachable!("four"))
        };
        let impatient = connect(&world.status, &hasty).await;
        let old = leader(&world.cluster.status().await).name.clone();

        let work = async {
            // From the moment that new writes wait.
            let refused = loop {
                let asked = Instant::now();
                match impatient.batch_execute("UPDATE ledger SET id = 0 WHERE false").await {
                    Ok(()) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Err(error) => break (told(&error), asked.elapsed()),
                }
            };
            assert!(refused.0.contains("57P03") && refused.0.contains("fail_fast"), "{refused:?}");
            assert!(refused.1 < Duration::from_secs(1), "{refused:?}");
            let end = Instant::now() + WORK;
            while Instant::now() < end {
                assert_eq!(one(&working, "SELECT count(*) FROM ledger").await, "1");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            working.batch_execute("INSERT INTO ledger VALUES (10)").await.expect("it may go on");
            working.batch_execute("COMMIT").await.expect("it may end");
        };
        let wait = async {
            tokio::time::sleep(WORK / 2).await;
            waiting.batch_execute("INSERT INTO ledger VALUES (4)").await.expect("it waits");
        };
        let (next, (), ()) = tokio::join!(world.cluster.switchover(None), work, wait);
        assert_ne!(next.expect("a switchover"), old);

        // Those that did nothing about their transactions were cut when their time was over.
        let error = told(&resting.batch_execute("INSERT INTO ledger VALUES (20)").await.unwrap_err());
        assert!(error.contains("40001"), "{error}");
        resting.batch_execute("ROLLBACK").await.unwrap();
        resting.batch_execute("INSERT INTO ledger VALUES (21)").await.expect("the session lives");
        // As asyncpg resets a connection.
        let reset = resetting.simple_query("ROLLBACK;\nSET work_mem = '7MB'; SHOW work_mem").await.unwrap();
        assert!(
            reset.iter().any(|message| matches!(message,
                tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("7MB"))),
            "{reset:?}"
        );
        resetting.batch_execute("INSERT INTO ledger VALUES (30)").await.unwrap();

        world.cluster.wait_ready(PATIENCE).await.expect("all follow");
        let status = world.cluster.status().await;
        let rows = direct(
            &status,
            leader(&status),
            "app",
            "SELECT string_agg(id::text, ' ' ORDER BY id) FROM ledger",
        );
        assert_eq!(rows, "1 4 10 21 30");
        let record = world.proxy.get("/failovers");
        assert!(record.contains("\"kind\":\"switchover\""), "{record}");
        world.proxy.assert_healthy();
        hasty.assert_healthy();
        world.cluster.down().await.expect("an end");
    });
}

#[test]
fn drivers_that_look_for_a_primary_find_one() {
    let world = World::shared();
    let ask = |wanted: &str| {
        let mut command = psql::command(&world.status, world.proxy.port);
        command.env("PGTARGETSESSIONATTRS", wanted).args(["-c", "SHOW in_hot_standby"]);
        command.output().expect("psql runs")
    };
    for wanted in ["read-write", "primary", "prefer-standby"] {
        let output = ask(wanted);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!((output.status.success(), said.trim()), (true, "off"), "{wanted}: {output:?}");
    }
    for wanted in ["read-only", "standby"] {
        assert!(!ask(wanted).status.success(), "{wanted}");
    }
}
