//! Few backends for many sessions.

use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};

use crate::support::{Proxy, World, application, block_on, connect, connect_as, on_leader, one, told};

#[test]
fn fifty_sessions_share_two_backends() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.size = 2");
    on_leader(
        &world.status,
        "CREATE TABLE shared_by_fifty (session int, n int); GRANT ALL ON shared_by_fifty TO app",
    );
    block_on(async {
        let clients = try_join_all((0..50).map(|n| {
            let mut config = application(&world.status, proxy.port);
            config.application_name(format!("one of fifty {n}"));
            async move { Ok::<_, ()>(connect_as(&config).await) }
        }))
        .await
        .unwrap();
        assert_eq!(proxy.metric("pgha_sessions", "pgha_sessions"), 50.0);
        let run = |client, session| async move {
            let client: &tokio_postgres::Client = client;
            for n in 0..10 {
                client.batch_execute("BEGIN").await?;
                client.batch_execute(&format!("INSERT INTO shared_by_fifty VALUES ({session}, {n})")).await?;
                client.batch_execute("SELECT pg_sleep(0.001)").await?;
                client.batch_execute("COMMIT").await?;
            }
            Ok::<_, tokio_postgres::Error>(())
        };
        let work = try_join_all(clients.iter().enumerate().map(|(n, client)| run(client, n)));
        let watch = async {
            let mut most = 0;
            loop {
                let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'one of fifty%'";
                most = most.max(on_leader(&world.status, sql).parse::<u32>().unwrap());
                assert!(most <= 2, "{most} backends");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            done = work => done.unwrap(),
            () = watch => unreachable!(),
        };
        assert_eq!(one(&clients[0], "/* pgha: primary */ SELECT count(*) FROM shared_by_fifty").await, "500");
    });
    proxy.assert_healthy();
}

#[test]
fn a_wait_for_a_backend_ends_in_time() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "[pool]\nsize = 1\nwait = '500ms'\nmax_waiting = 2\n");
    block_on(async {
        let holder = connect(&world.status, &proxy).await;
        let others = join_all((0..4).map(|_| connect(&world.status, &proxy))).await;
        holder.batch_execute("BEGIN; SELECT txid_current()").await.unwrap();
        let began = Instant::now();
        let answers =
            join_all(others.iter().map(|client| client.batch_execute("/* pgha: primary */ SELECT 1"))).await;
        for answer in answers {
            let told = told(&answer.unwrap_err());
            assert!(told.starts_with("ERROR 53300"), "{told}");
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        // The sessions live.
        holder.batch_execute("COMMIT").await.unwrap();
        for client in &others {
            client.batch_execute("/* pgha: primary */ SELECT 1").await.unwrap();
        }
    });
    proxy.assert_healthy();
}

#[test]
fn session_mode_keeps_one_backend() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.mode = 'session'\nrouting.reads = 'primary'");
    block_on(async {
        let client = connect(&world.status, &proxy).await;
        let pid = one(&client, "SELECT pg_backend_pid()").await;
        let others = join_all((0..3).map(|_| connect(&world.status, &proxy))).await;
        for other in &others {
            assert_ne!(one(other, "SELECT pg_backend_pid()").await, pid);
            assert_eq!(one(&client, "SELECT pg_backend_pid()").await, pid);
        }
        client.batch_execute("CREATE TEMP TABLE kept (n int)").await.unwrap();
        assert_eq!(one(&client, "SELECT count(*) FROM kept").await, "0");
    });
    proxy.assert_healthy();
}

#[test]
fn session_mode_reads_on_replicas_and_keeps_its_backend() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "pool.mode = 'session'\npool.size = 2");
    block_on(async {
        let (a, b) = (connect(&world.status, &proxy).await, connect(&world.status, &proxy).await);
        a.batch_execute("CREATE TABLE read_apart AS SELECT 7 AS n").await.unwrap();
        world.replicas_catch_up().await;
        let (of_a, of_b) =
            (one(&a, "SELECT pg_backend_pid()").await, one(&b, "SELECT pg_backend_pid()").await);
        assert_ne!(of_a, of_b);
        a.batch_execute("SET work_mem = '11MB'; SET pgha.consistency = 'eventual'").await.unwrap();
        let replicas: Vec<_> = world.status.replicas().map(|member| member.name.clone()).collect();
        let mut served = std::collections::BTreeSet::new();
        for _ in 0..8 {
            assert_eq!(one(&a, "SELECT n FROM read_apart").await, "7");
            served.insert(one(&a, "SHOW pgha.last").await.split(':').next().unwrap().to_owned());
            assert_eq!(one(&a, "SHOW work_mem").await, "11MB");
            assert_eq!(one(&a, "SELECT pg_backend_pid()").await, of_a, "its own backend");
        }
        assert!(served.iter().eq(replicas.iter().collect::<std::collections::BTreeSet<_>>()), "{served:?}");
        // A replica refuses what writes after all, and the session's own backend runs it.
        a.batch_execute("CREATE SEQUENCE counted_apart; CREATE VIEW counting_apart AS SELECT nextval('counted_apart') AS n")
            .await
            .unwrap();
        world.replicas_catch_up().await;
        assert_eq!(one(&a, "/* pgha: replica */ SELECT n FROM counting_apart").await, "1");
        a.batch_execute("BEGIN; CREATE TEMP TABLE own AS SELECT 5 AS n").await.unwrap();
        assert_eq!(one(&a, "SELECT n FROM own").await, "5");
        a.batch_execute("COMMIT").await.unwrap();
        assert_eq!(one(&a, "SELECT n FROM own").await, "5");
        a.batch_execute("DISCARD ALL").await.unwrap();
        assert_eq!(one(&a, "SELECT pg_backend_pid()").await, of_a);
        // Its backend dies while it is set aside or right after: the session gets another.
        assert_eq!(one(&a, "SELECT n FROM read_apart").await, "7");
        on_leader(&world.status, &format!("SELECT pg_terminate_backend({of_a}, 10000)"));
        assert_eq!(one(&a, "SELECT n FROM read_apart").await, "7");
        assert_ne!(one(&a, "SELECT pg_backend_pid()").await, of_a);
        assert_eq!(one(&b, "SELECT pg_backend_pid()").await, of_b);
    });
    proxy.assert_healthy();
}

#[test]
fn idle_backends_dont_keep_a_database() {
    let world = World::shared();
    // Its own: ALTER ROLE … SET of anybody's has all backends opened anew.
    let proxy = Proxy::start(&world.status, "");
    on_leader(&world.status, "CREATE ROLE dropper LOGIN CREATEDB PASSWORD 'dropper'");
    block_on(async {
        let of = |database: &str| {
            let mut config = application(&world.status, proxy.port);
            config.user("dropper").password("dropper").dbname(database);
            config
        };
        let client = connect_as(&of("postgres")).await;
        for round in 0..2 {
            client.batch_execute("CREATE DATABASE \"To be dropped\"").await.unwrap();
            world.replicas_catch_up().await;
            let inside = connect_as(&of("To be dropped")).await;
            inside.batch_execute("CREATE TABLE t (n int)").await.unwrap();
            assert_eq!(one(&inside, "/* pgha: replica */ SELECT count(*) FROM t").await, "0");
            let drop_it = "DROP DATABASE IF EXISTS \"To be dropped\"";
            if round == 0 {
                // A client that is connected keeps it, as it would without a proxy.
                assert!(told(&client.batch_execute(drop_it).await.unwrap_err()).contains("55006"));
            }
            drop(inside);
            proxy.until("the client gone", |proxy| !proxy.get("/sessions").contains("To be dropped"));
            let begun = Instant::now();
            client.batch_execute("CREATE DATABASE copied TEMPLATE = \"To be dropped\"").await.unwrap();
            client.batch_execute(drop_it).await.unwrap();
            client.batch_execute("DROP DATABASE copied").await.unwrap();
            // PostgreSQL itself waits 5 s for those that are connected, before it refuses.
            assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        }
    });
    proxy.assert_healthy();
}

#[test]
fn what_a_role_sets_at_login_holds_for_the_next_login() {
    let world = World::shared();
    on_leader(&world.status, "CREATE ROLE changing LOGIN PASSWORD 'changing'");
    block_on(async {
        let mut config = application(&world.status, world.proxy.port);
        config.user("changing").password("changing");
        let before = connect_as(&config).await;
        for (style, work_mem) in [("German, DMY", "7MB"), ("SQL, MDY", "8MB")] {
            one(&before, "/* pgha: primary */ SHOW work_mem").await;
            let set = format!(
                "ALTER ROLE changing SET datestyle = {style}; ALTER ROLE changing SET work_mem = '{work_mem}'"
            );
            before.batch_execute(&set).await.unwrap();
            let after = connect_as(&config).await;
            assert_eq!(one(&after, "/* pgha: primary */ SHOW work_mem").await, work_mem);
            assert_eq!(one(&after, "/* pgha: primary */ SHOW datestyle").await, style);
        }
    });
    world.proxy.assert_healthy();
}
