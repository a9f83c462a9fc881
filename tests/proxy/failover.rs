//! The primary goes, etcd goes: sessions stay.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pg_ha_proxy::cluster::{How, Options, Status};

use crate::replication::{self, Running};
use crate::support::{PATIENCE, Psql, World, block_on, connect, direct, leader, one, psql, try_direct};

/// A psql that asks the same kind of thing all the time. Any error ends it.
struct Asking {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u32, Duration)>,
}

impl Asking {
    /// `sql` makes the statement number n, and its answer has to be `answer`.
    fn start(
        world: &World,
        sql: impl Fn(u32) -> String + Send + 'static,
        answer: impl Fn(u32) -> String + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, mut psql) = (Arc::clone(&stop), Psql::start(&world.status, world.proxy.port));
        let thread = std::thread::spawn(move || {
            let (mut n, mut longest) = (0, Duration::ZERO);
            while !told.load(Relaxed) {
                let asked = Instant::now();
                assert_eq!(psql.say(&sql(n)), answer(n), "statement {n}, after {:?}", asked.elapsed());
                longest = longest.max(asked.elapsed());
                n += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            (n, longest)
        });
        Self { stop, thread }
    }

    /// Reads that may run anywhere.
    fn reads(world: &World) -> Self {
        Self::start(world, |n| format!("SELECT stays({n}) FROM ledger WHERE id = 0;"), |n| n.to_string())
    }

    fn writes(world: &World, first: u32) -> Self {
        Self::start(
            world,
            move |n| format!("INSERT INTO ledger VALUES ({}) RETURNING id;", first + n),
            move |n| (first + n).to_string(),
        )
    }

    /// How many were answered, all without an error, and how long the longest took.
    fn end(self) -> (u32, Duration) {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("no error all through it")
    }
}

/// A cluster with a table, and a session with state of its own. On a busy machine Patroni takes longer than its ttl.
async fn world(options: Options) -> (World, Psql) {
    let world = World::new(options, "failover.hold = '90s'").await;
    psql::ask(
        &world.status,
        world.proxy.port,
        "CREATE TABLE ledger (id int PRIMARY KEY); INSERT INTO ledger VALUES (0);
         CREATE FUNCTION stays(n int) RETURNS int LANGUAGE sql STABLE AS 'SELECT n';",
    );
    world.replicas_catch_up().await;
    until_replica(&world, "SELECT stays(1)").await;
    let mut session = Psql::start(&world.status, world.proxy.port);
    assert_eq!(session.say("SET my.own = 'kept';\n\\set kept here"), "");
    (world, session)
}

fn is_the_same(session: &mut Psql) {
    assert_eq!(
        session.say("SHOW my.own;\n\\warn :kept\nSELECT 1;").lines().collect::<Vec<_>>(),
        ["kept", "here", "1"]
    );
}

/// `pg_receivewal`, which connects again by itself when it is cut off.
fn receive_wal(world: &World, status: &Status, folder: &Path) -> Running {
    direct(status, leader(status), "postgres", "ALTER ROLE app REPLICATION");
    let running = Running::start(
        replication::command(&world.status, "pg_receivewal", world.proxy.port).arg("-D").arg(folder),
    );
    replication::until("some WAL", || std::fs::read_dir(folder).is_ok_and(|files| files.count() > 0));
    running
}

/// Everything that was acknowledged is there.
async fn rows(world: &World, expected: u32) {
    let status = world.until("a leader", |status| status.leader.is_some()).await;
    let count = direct(&status, leader(&status), "app", "SELECT count(*) FROM ledger");
    assert_eq!(count, expected.to_string());
}

/// Waits until a statement may run on a replica: the catalog says so, whoever is the primary.
async fn until_replica(world: &World, sql: &str) {
    let client = connect(&world.status, &world.proxy).await;
    // Replicas are behind, and the client's user wrote.
    client.batch_execute("SET pgha.consistency = 'eventual'").await.unwrap();
    let end = Instant::now() + PATIENCE;
    while one(&client, &format!("EXPLAIN (ROUTE) {sql}")).await != "replica" {
        assert!(Instant::now() < end, "{sql} is not routed to a replica: {}", world.proxy.get("/routes"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The catalog is the primary's: where a replica is behind it, the primary answers, and nothing is learnt of it.
async fn a_function_that_no_replica_has_yet_runs(world: &World, driver: &tokio_postgres::Client) {
    let status = world.cluster.status().await;
    let alive = |sql| status.replicas().find(|member| try_direct(&status, member, &status.app, sql).is_ok());
    driver.batch_execute("CREATE TABLE held (n int)").await.unwrap();
    let end = Instant::now() + PATIENCE;
    let replica = loop {
        match alive("SELECT FROM held") {
            Some(replica) => break replica,
            None => assert!(Instant::now() < end, "no replica has the table"),
        }
    };
    // Replay waits for who reads the table, up to max_standby_streaming_delay.
    let mut reader = Psql::start(&world.status, replica.direct_port);
    assert_eq!(reader.say("BEGIN; SELECT count(*) FROM held;"), "0");
    driver.batch_execute("ALTER TABLE held ADD m int").await.unwrap();
    let create = "CREATE FUNCTION ahead(n int) RETURNS int LANGUAGE sql STABLE AS 'SELECT n'";
    driver.batch_execute(create).await.unwrap();
    until_replica(world, "SELECT ahead(1)").await;
    let fresh = connect(&world.status, &world.proxy).await;
    fresh.batch_execute("SET pgha.consistency = 'eventual'").await.unwrap();
    assert_eq!(one(&fresh, "SELECT ahead(2)").await, "2");
    let behind = || world.proxy.metric("pgha_reroutes_total", "behind");
    assert_eq!(behind(), 1.0);
    // Prepared on the primary, for no replica can; and at each use refused by the replica and run there.
    let prepared = fresh.prepare("SELECT ahead($1)").await.unwrap();
    for n in 3..=5_i32 {
        assert_eq!(fresh.query_one(&prepared, &[&n]).await.unwrap().get::<_, i32>(0), n);
    }
    assert_eq!(behind(), 5.0);
    let error = fresh.simple_query("SELECT now(1, 2, 3)").await.unwrap_err();
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("42883"));
    assert_eq!(world.proxy.metric("pgha_learnt_entries", ""), 0.0);
    assert_eq!(reader.say("ROLLBACK;"), "");
}

#[test]
fn sessions_outlive_a_switchover_and_a_dead_primary() {
    block_on(async {
        let (world, mut session) = world(Options::quick()).await;
        let driver = connect(&world.status, &world.proxy).await;
        let prepared = driver.prepare("INSERT INTO ledger VALUES ($1)").await.unwrap();

        let (reads, writes) = (Asking::reads(&world), Asking::writes(&world, 1));
        let epoch = world.proxy.metric("pgha_epoch", "pgha_epoch");
        world.cluster.switchover(None).await.expect("a switchover");
        world.cluster.wait_ready(PATIENCE).await.expect("all follow");
        let ((_, longest_read), (written, longest_write)) = (reads.end(), writes.end());
        assert!(written > 10 && longest_read < Duration::from_secs(5), "{written}, {longest_read:?}");
        assert!(longest_write < Duration::from_secs(15), "{longest_write:?}");
        is_the_same(&mut session);
        rows(&world, written + 1).await;
        assert_eq!(world.proxy.metric("pgha_epoch", "pgha_epoch"), epoch + 1.0);

        let old = leader(&world.cluster.status().await).name.clone();
        // Until they were seen on the new timeline replicas serve nothing, and with the primary gone they can't be seen there.
        world.proxy.until("both replicas", |proxy| proxy.get("/readyz").contains("\"replicas\":2"));
        let reads = Asking::reads(&world);
        let wal = tempfile::tempdir().expect("a folder");
        let _receiving = receive_wal(&world, &world.cluster.status().await, wal.path());
        let killed = Instant::now();
        world.cluster.kill(&old, How::Member).await.expect("a kill");
        // Before that a statement may still be written to the dying connection, and its outcome be unknown.
        world.proxy.until("the loss", |proxy| proxy.get("/readyz").contains("\"primary\":false"));
        world.proxy.until("the gauge's fall", |proxy| proxy.metric("pgha_primary", "") == 0.0);
        assert_eq!(session.say("INSERT INTO ledger VALUES (1000000) RETURNING id;"), "1000000");
        world.proxy.until("the gauge's rise", |proxy| proxy.metric("pgha_primary", "") == 1.0);
        let took = killed.elapsed();
        assert!(took > Duration::from_secs(1), "the primary was dead, and a write took {took:?}");
        let status = world.cluster.status().await;
        assert!(status.leader.as_ref().is_some_and(|name| *name != old));
        driver.execute(&prepared, &[&1_000_001_i32]).await.unwrap();
        let timeline = "SELECT timeline_id FROM pg_control_checkpoint()";
        direct(&status, leader(&status), "postgres", "CHECKPOINT");
        let timeline = direct(&status, leader(&status), "postgres", timeline).parse().expect("a number");
        replication::until("the next timeline", || replication::has_wal(wal.path(), timeline));
        is_the_same(&mut session);
        let (read, longest_read) = reads.end();
        assert!(read > 100 && longest_read < Duration::from_secs(5), "{read} reads, {longest_read:?}");
        rows(&world, written + 3).await;
        // The next primary's catalog is followed like the one before.
        driver
            .batch_execute(
                "CREATE FUNCTION later(n int) RETURNS int LANGUAGE sql STABLE AS 'SELECT stays(n)'",
            )
            .await
            .unwrap();
        assert_eq!(one(&driver, "SELECT later(2)").await, "2");
        until_replica(&world, "SELECT later(3)").await;
        a_function_that_no_replica_has_yet_runs(&world, &driver).await;

        world.cluster.kill(&old, How::Start).await.expect("a start");
        world.cluster.wait_ready(PATIENCE).await.expect("it follows");
        world
            .proxy
            .until("the old primary's return", |proxy| proxy.get("/readyz").contains("\"replicas\":2"));
        is_the_same(&mut session);
        world.proxy.assert_healthy();
        world.cluster.down().await.expect("an end");
    });
}

#[test]
fn open_transactions_are_told_and_their_sessions_live() {
    block_on(async {
        let (world, mut session) = world(Options::quick()).await;
        assert_eq!(session.say("BEGIN;\nINSERT INTO ledger VALUES (1);"), "");
        let idle = connect(&world.status, &world.proxy).await;
        idle.batch_execute("BEGIN").await.unwrap();
        // On a replica, until it wants what only the primary gives.
        let reader = connect(&world.status, &world.proxy).await;
        reader.batch_execute("SET pgha.consistency = 'eventual'").await.unwrap();
        reader.batch_execute("BEGIN READ ONLY").await.unwrap();
        assert_eq!(one(&reader, "SELECT 1").await, "1");
        let pinned = connect(&world.status, &world.proxy).await;
        pinned.batch_execute("CREATE TEMP TABLE lost (n int)").await.unwrap();
        let old = leader(&world.cluster.status().await).name.clone();
        world.cluster.kill(&old, How::Postgres).await.expect("a kill");
        let said = session.say("INSERT INTO ledger VALUES (2);");
        assert!(said.contains("40001") && said.contains("retry the transaction"), "{said}");
        assert!(session.say("SELECT 1;").contains("25P02"));
        assert_eq!(session.say("ROLLBACK;"), "");
        world.proxy.until("the loss", |proxy| proxy.get("/readyz").contains("\"primary\":false"));
        let reader = tokio::spawn(async move {
            reader.batch_execute("SELECT pg_advisory_xact_lock(1)").await.expect("it waits for a primary");
            reader.batch_execute("COMMIT").await.expect("an end");
        });
        // Only BEGIN was sent: nothing is lost.
        idle.batch_execute("INSERT INTO ledger VALUES (3)").await.unwrap();
        idle.batch_execute("COMMIT").await.unwrap();
        let error = pinned.batch_execute("SELECT FROM lost").await.unwrap_err();
        assert!(
            error.is_closed()
                || error.to_string().contains("57P01")
                || error.code().is_some_and(|code| code.code() == "57P01"),
            "{error}"
        );
        assert_eq!(session.say("INSERT INTO ledger VALUES (4) RETURNING id;"), "4");
        is_the_same(&mut session);
        rows(&world, 3).await;
        reader.await.unwrap();
        world.proxy.assert_healthy();
        world.cluster.down().await.expect("an end");
    });
}

#[test]
fn reads_go_on_without_etcd_and_a_compacted_watch_finds_the_next_leader() {
    block_on(async {
        let (world, mut session) = world(Options::quick()).await;
        let reads = Asking::reads(&world);
        world.cluster.stop_etcd().await.expect("a stop");
        // Without failsafe mode the primary demotes itself, and nobody may be written to until etcd is back.
        let old = leader(&world.status).clone();
        let in_recovery = "SELECT pg_is_in_recovery()";
        let end = Instant::now() + PATIENCE;
        while try_direct(&world.status, &old, "postgres", in_recovery).as_deref() != Ok("t") {
            assert!(Instant::now() < end, "the primary does not demote itself");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let writer = std::thread::spawn(move || {
            let said = session.say("INSERT INTO ledger VALUES (1) RETURNING id;");
            (session, said)
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!writer.is_finished(), "a write while nobody leads");
        world.cluster.start_etcd().await.expect("a start");
        let (mut session, said) = writer.join().unwrap();
        assert_eq!(said, "1");
        world.cluster.wait_ready(PATIENCE).await.expect("all is as it was");
        let (read, longest) = reads.end();
        assert!(read > 100 && longest < Duration::from_secs(5), "{read} reads, {longest:?}");
        is_the_same(&mut session);

        // The proxy sleeps while its watch breaks and all that happens meanwhile is forgotten.
        world.proxy.signal(Signal::SIGSTOP);
        world.cluster.stop_etcd().await.expect("a stop");
        world.cluster.start_etcd().await.expect("a start");
        world.cluster.wait_ready(PATIENCE).await.expect("all go on");
        let next = world.cluster.switchover(None).await.expect("a switchover");
        assert!(world.cluster.compact_etcd().await.expect("a compaction") > 1);
        world.proxy.signal(Signal::SIGCONT);
        assert_eq!(session.say("INSERT INTO ledger VALUES (2) RETURNING id;"), "2");
        assert_eq!(session.say("/* pgha: primary */ SELECT count(*) FROM ledger;"), "3");
        world.proxy.until("the new leader", |proxy| {
            proxy.get("/topology").contains(&format!("\"primary\":\"{next}\""))
        });
        world.cluster.wait_ready(PATIENCE).await.expect("all follow");
        is_the_same(&mut session);
        rows(&world, 3).await;
        world.proxy.assert_healthy();
        world.cluster.down().await.expect("an end");
    });
}

#[test]
fn with_failsafe_mode_nobody_notices_that_etcd_is_away() {
    block_on(async {
        let (world, mut session) = world(Options { failsafe: true, ..Options::quick() }).await;
        let (reads, writes) = (Asking::reads(&world), Asking::writes(&world, 1));
        world.cluster.stop_etcd().await.expect("a stop");
        // Longer than ttl: without failsafe mode nobody would lead.
        tokio::time::sleep(Duration::from_secs(22)).await;
        world.cluster.start_etcd().await.expect("a start");
        world.cluster.wait_ready(PATIENCE).await.expect("all is as it was");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let ((read, longest_read), (written, longest_write)) = (reads.end(), writes.end());
        assert!(read > 100 && written > 100, "{read} reads, {written} writes");
        assert!(
            longest_read.max(longest_write) < Duration::from_secs(10),
            "{longest_read:?}, {longest_write:?}"
        );
        is_the_same(&mut session);
        rows(&world, written + 1).await;
        let client = connect(&world.status, &world.proxy).await;
        assert_eq!(one(&client, "SELECT 1").await, "1");
        world.proxy.assert_healthy();
        world.cluster.down().await.expect("an end");
    });
}
