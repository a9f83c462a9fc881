//! Functions of the users' own: what the catalog says of them, what is learnt of them, and how that is told.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_postgres::Client;

use crate::support::raw::{Raw, frame};
use crate::support::{
    PATIENCE, Proxy, World, application, block_on, connect, connect_as, direct, leader, one, told,
};

/// The last column of `SHOW pgha.last`: member, class and reason of the statement before.
async fn last(client: &Client) -> String {
    one(client, "SHOW pgha.last").await
}

/// What `EXPLAIN (ROUTE)` tells: route, class, reason, member, lag, fence.
async fn route(client: &Client, sql: &str) -> [String; 6] {
    use tokio_postgres::SimpleQueryMessage::Row;
    let messages = client.simple_query(&format!("EXPLAIN (ROUTE) {sql}")).await;
    let messages = messages.unwrap_or_else(|error| panic!("{sql}: {}", told(&error)));
    let row = messages.iter().find_map(|message| if let Row(row) = message { Some(row) } else { None });
    let row = row.expect("a row");
    std::array::from_fn(|column| row.get(column).unwrap_or("NULL").to_owned())
}

/// Waits until a statement is routed as wanted.
async fn routed(client: &Client, sql: &str, to: &str) -> [String; 6] {
    let end = Instant::now() + PATIENCE;
    loop {
        let route = route(client, sql).await;
        if route[0] == to {
            return route;
        }
        assert!(Instant::now() < end, "{sql} is not routed to {to}: {route:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn routes(proxy: &Proxy) -> Value {
    let answer = proxy.get("/routes");
    serde_json::from_str(answer.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON")
}

/// What stands in `/routes` of a database.
fn catalog_of(proxy: &Proxy, database: &str) -> Value {
    let routes = routes(proxy);
    let all = routes["catalogs"].as_array().expect("an array");
    all.iter().find(|catalog| catalog["database"] == database).cloned().unwrap_or_default()
}

fn is_replica(world: &World, last: &str) -> bool {
    !last.starts_with(&format!("{}:", leader(&world.status).name))
}

/// A proxy of its own: what it has learnt and how often it rerouted is then this test's doing.
async fn alone(world: &World) -> (Proxy, Client) {
    let proxy = Proxy::start(&world.status, "");
    let client = connect(&world.status, &proxy).await;
    (proxy, client)
}

#[test]
fn functions_run_where_the_catalog_says() {
    let world = World::shared();
    block_on(async {
        let (proxy, client) = alone(world).await;
        client
            .batch_execute(
                "CREATE TABLE catalog_log (n int);
                 CREATE FUNCTION cat_stable(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';
                 CREATE FUNCTION cat_immutable(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
                 CREATE FUNCTION \"Cat Odd\"(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';
                 CREATE FUNCTION \"cat odd\"(int) RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO catalog_log VALUES ($1) RETURNING n';
                 CREATE FUNCTION cat_over(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';
                 CREATE FUNCTION cat_over(text) RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO catalog_log VALUES (1) RETURNING n';
                 CREATE FUNCTION cat_write(int) RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO catalog_log VALUES ($1) RETURNING n';
                 CREATE FUNCTION cat_atomic(int) RETURNS int LANGUAGE sql STABLE BEGIN ATOMIC SELECT pg_try_advisory_xact_lock($1)::int; END;
                 CREATE FUNCTION cat_sum(int, int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1 + cat_write($2)';
                 CREATE AGGREGATE cat_total(int) (sfunc = cat_sum, stype = int, initcond = '0');
                 CREATE OPERATOR %%% (leftarg = int, rightarg = int, function = cat_sum);
                 CREATE SEQUENCE cat_numbers;
                 CREATE VIEW cat_next AS SELECT nextval('cat_numbers') AS n;
                 CREATE VIEW cat_plain AS SELECT cat_stable(1) AS n",
            )
            .await
            .unwrap();
        routed(&client, "SELECT cat_stable(1)", "replica").await;
        world.replicas_catch_up().await;
        let fresh = connect(&world.status, &proxy).await;
        for (sql, value) in [
            ("SELECT cat_stable(1)", "1"),
            ("SELECT public.CAT_IMMUTABLE(2)", "2"),
            ("SELECT \"Cat Odd\"(3)", "3"),
            ("SELECT n FROM cat_plain", "1"),
        ] {
            for _twice in 0..2 {
                assert_eq!(one(&fresh, sql).await, value, "{sql}");
                let last = last(&fresh).await;
                assert!(is_replica(world, &last), "{sql}: {last}");
            }
            let row =
                fresh.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {}", told(&error)));
            assert_eq!(row.get::<_, i32>(0).to_string(), value, "{sql}");
        }
        for (sql, value, reason) in [
            ("SELECT cat_write(4)", "4", "function cat_write is VOLATILE in the catalog"),
            ("SELECT public.\"cat odd\"(5)", "5", "function cat odd is VOLATILE in the catalog"),
            ("SELECT cat_over(6)", "6", "function cat_over is VOLATILE in the catalog"),
            ("SELECT cat_total(7)", "7", "function cat_total is VOLATILE in the catalog"),
            (
                "SELECT cat_atomic(8)",
                "1",
                "function cat_atomic calls in its body what belongs on the primary",
            ),
            ("SELECT 1 %%% 9", "10", "operator %%% is on a function for the primary"),
            ("SELECT n FROM cat_next", "1", "cat_next is a view over what belongs on the primary"),
        ] {
            assert_eq!(one(&fresh, sql).await, value, "{sql}");
            let last = last(&fresh).await;
            assert_eq!(last, format!("{}: write ({reason})", leader(&world.status).name), "{sql}");
        }
        assert_eq!(one(&fresh, "SELECT count(*) FROM catalog_log").await, "4");
        assert_eq!(
            proxy.metric("pgha_reroutes_total", "read_only").to_string(),
            "0",
            "the catalog said it all"
        );
        assert!(proxy.metric("pgha_catalog_reads_total", "result=\"read\"") >= 1.0);
        let shown = catalog_of(&proxy, &world.status.app);
        assert!(shown["functions"].as_u64() >= Some(9) && shown["read"].is_string(), "{shown}");
        assert!(shown["error"].is_null(), "{shown}");
        proxy.assert_healthy();
    });
}

#[test]
fn what_a_replica_refuses_is_learnt_with_all_that_is_like_it() {
    let world = World::shared();
    block_on(async {
        let (proxy, client) = alone(world).await;
        // The labels lie, and the bodies hide it from who reads them.
        client
            .batch_execute(
                "CREATE TABLE lies_log (n int);
                 CREATE FUNCTION lies_write(n int) RETURNS int LANGUAGE plpgsql VOLATILE AS
                     'BEGIN INSERT INTO lies_log VALUES (n); RETURN n; END';
                 CREATE FUNCTION lies(n int) RETURNS int LANGUAGE plpgsql STABLE AS
                     'DECLARE r int; BEGIN EXECUTE ''SELECT lies_'' || ''write($1)'' INTO r USING n; RETURN r; END'",
            )
            .await
            .unwrap();
        routed(&client, "SELECT lies(0)", "replica").await;
        world.replicas_catch_up().await;
        let fresh = connect(&world.status, &proxy).await;
        let reroutes = || proxy.metric("pgha_reroutes_total", "read_only").to_string();
        assert_eq!(one(&fresh, "SELECT lies(1)").await, "1");
        assert_eq!(reroutes(), "1");
        let on_leader = format!("{}: write (learnt: a replica refused it)", leader(&world.status).name);
        for n in 2..=4 {
            assert_eq!(one(&fresh, &format!("SELECT  lies({n}) -- again")).await, n.to_string());
            assert_eq!(last(&fresh).await, on_leader);
        }
        // Another session, on whichever worker, by the extended protocol too.
        for n in 5..=8_i32 {
            let other = connect(&world.status, &proxy).await;
            let statement = other.prepare("SELECT lies($1)").await.unwrap();
            assert_eq!(other.query_one(&statement, &[&n]).await.unwrap().get::<_, i32>(0), n);
            assert_eq!(last(&other).await, on_leader);
        }
        assert_eq!(reroutes(), "1", "one refusal for all of them");
        assert_eq!(one(&fresh, "SELECT count(*), sum(n) FROM lies_log").await, "8");
        let routes = routes(&proxy);
        let lesson = &routes["learnt"][0];
        assert_eq!(
            (&lesson["statement"], &lesson["database"]),
            (&"select lies ( ? )".into(), &world.status.app.as_str().into())
        );
        assert!(lesson["count"].as_u64() >= Some(2) && lesson["since"].is_string(), "{routes}");
        assert_eq!(proxy.metric("pgha_learnt_total", "").to_string(), "1");
        assert_eq!(proxy.metric("pgha_learnt_entries", "").to_string(), "1");
        // After DDL it may be another function.
        client
            .batch_execute(
                "CREATE OR REPLACE FUNCTION lies(n int) RETURNS int LANGUAGE sql STABLE AS 'SELECT 100'",
            )
            .await
            .unwrap();
        assert_eq!(proxy.metric("pgha_learnt_entries", "").to_string(), "0");
        routed(&fresh, "SELECT lies(0)", "replica").await;
        world.replicas_catch_up().await;
        assert_eq!(one(&fresh, "SELECT lies(9)").await, "100");
        let last = last(&fresh).await;
        assert!(is_replica(world, &last), "{last}");
        proxy.assert_healthy();
    });
}

#[test]
fn of_many_statements_before_one_sync_the_refused_one_is_learnt() {
    let world = World::shared();
    block_on(async {
        let (proxy, client) = alone(world).await;
        client
            .batch_execute(
                "CREATE SEQUENCE synced_numbers;
                 CREATE FUNCTION synced() RETURNS bigint LANGUAGE plpgsql STABLE AS
                     $$ DECLARE n bigint; BEGIN EXECUTE 'SELECT next' || 'val(''synced_numbers'')' INTO n; RETURN n; END $$",
            )
            .await
            .unwrap();
        routed(&client, "SELECT synced()", "replica").await;
        world.replicas_catch_up().await;
        let app = &world.status.app;
        let mut raw = Raw::log_in(proxy.port, app, app, world.status.app_password.reveal());
        let statement = |sql: &str| {
            let parse = frame(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat());
            [parse, frame(b'B', b"\0\0\0\0\0\0\0\0"), frame(b'E', b"\0\0\0\0\0")].concat()
        };
        let reroutes = || proxy.metric("pgha_reroutes_total", "read_only").to_string();
        for round in 1..=2 {
            let texts = ["SELECT 1", "SELECT 'x', synced()", "SELECT 'last'"];
            raw.send(&[texts.map(statement).concat(), frame(b'S', b"")].concat());
            let answers = raw.until_ready();
            let tags: String = answers.iter().map(|(tag, _)| char::from(*tag)).collect();
            let words = answers.iter().map(|(_, body)| String::from_utf8_lossy(body));
            assert_eq!(tags, "12DC12DC12DCZ", "round {round}: {:?}", words.collect::<Vec<_>>());
            assert_eq!(reroutes(), "1", "round {round}");
        }
        let learnt = routes(&proxy)["learnt"].clone();
        let texts: Vec<_> =
            learnt.as_array().expect("an array").iter().map(|one| &one["statement"]).collect();
        assert_eq!(texts, ["select ? , synced ( )"]);
        assert_eq!(one(&client, "SELECT nextval('synced_numbers')").await, "3", "none ran twice");
        proxy.assert_healthy();
    });
}

#[test]
fn databases_have_functions_of_their_own() {
    let world = World::shared();
    let status = &world.status;
    let other = "catalog_other";
    direct(status, leader(status), "postgres", &format!("CREATE DATABASE {other} OWNER {}", status.app));
    block_on(async {
        // One worker has the sessions of both.
        let proxy = Proxy::start(status, "listen = { workers = 1 }");
        let here = connect(status, &proxy).await;
        let there = connect_as(application(status, proxy.port).dbname(other)).await;
        here.batch_execute("CREATE FUNCTION twofold(n int) RETURNS int LANGUAGE sql STABLE AS 'SELECT n'")
            .await
            .unwrap();
        there
            .batch_execute(
                "CREATE TABLE twofold_log (n int);
                 CREATE FUNCTION twofold(n int) RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO twofold_log VALUES (n) RETURNING n'",
            )
            .await
            .unwrap();
        routed(&here, "SELECT twofold(1)", "replica").await;
        proxy.until("the other catalog is read", |proxy| catalog_of(proxy, other)["functions"] == 1);
        world.replicas_catch_up().await;
        let (here_read, there_write) = (
            here.prepare("SELECT twofold($1)").await.unwrap(),
            there.prepare("SELECT twofold($1)").await.unwrap(),
        );
        for n in 1..=10_i32 {
            let text = "SELECT twofold(11)";
            assert_eq!((one(&here, text).await, one(&there, text).await), ("11".into(), "11".into()));
            let (a, b) = (last(&here).await, last(&there).await);
            assert!(is_replica(world, &a) && !is_replica(world, &b), "{a}, {b}");
            assert_eq!(here.query_one(&here_read, &[&n]).await.unwrap().get::<_, i32>(0), n);
            assert_eq!(there.query_one(&there_write, &[&n]).await.unwrap().get::<_, i32>(0), n);
            let (a, b) = (last(&here).await, last(&there).await);
            assert!(is_replica(world, &a) && !is_replica(world, &b), "{a}, {b}");
        }
        assert_eq!(one(&there, "SELECT count(*) FROM twofold_log").await, "20");
        assert_eq!(proxy.metric("pgha_reroutes_total", "read_only").to_string(), "0");
        // A statement that was prepared before follows what its function becomes.
        here.batch_execute(
            "CREATE TABLE twofold_log (n int);
             CREATE OR REPLACE FUNCTION twofold(n int) RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO twofold_log VALUES (n) RETURNING n'",
        )
        .await
        .unwrap();
        assert_eq!(here.query_one(&here_read, &[&1_i32]).await.unwrap().get::<_, i32>(0), 1);
        let last = last(&here).await;
        assert!(!is_replica(world, &last), "{last}");
        assert_eq!(proxy.metric("pgha_reroutes_total", "read_only").to_string(), "0");
        proxy.assert_healthy();
    });
}

#[test]
fn a_route_is_explained_in_either_protocol_and_nothing_runs() {
    let world = World::shared();
    block_on(async {
        let (proxy, client) = alone(world).await;
        // Logged in before anything was written.
        let fresh = connect(&world.status, &proxy).await;
        client
            .batch_execute("CREATE TABLE explained (n int); CREATE SEQUENCE explained_numbers")
            .await
            .unwrap();
        world.replicas_catch_up().await;
        // A replica's lag is known from its second check on.
        proxy.until("the lag of replicas", |proxy| {
            let topology = proxy.get("/topology");
            topology.matches("\"lag_bytes\":").count() - topology.matches("\"lag_bytes\":null").count() >= 2
        });
        let leader = leader(&world.status).name.clone();
        let written = route(&client, "INSERT INTO explained VALUES (1)").await;
        assert_eq!(written[..4], ["primary", "write", "INSERT", &leader].map(str::to_owned));
        assert_eq!(written[4], "NULL");
        assert_ne!(written[5], "none", "the session wrote");
        let read = route(&fresh, "/* a */ SELECT n FROM explained").await;
        assert_eq!(read[..3], ["replica", "read", "SELECT"].map(str::to_owned));
        assert!(read[3] != leader && read[4].contains("bytes") && read[5] == "none", "{read:?}");
        let search = route(&fresh, "SELECT 1 ORDER BY '[1]'::vector <-> '[2]'").await;
        assert_eq!(search[..2], ["replica", "vector read"].map(str::to_owned));
        assert_eq!(route(&fresh, "SET a.b = 1").await[..2], ["session", "session"].map(str::to_owned));
        let hinted = fresh.query_one("/* pgha: primary */ EXPLAIN (ROUTE) SELECT 1", &[]).await.unwrap();
        assert_eq!((hinted.get::<_, &str>(0), hinted.get::<_, &str>(2)), ("primary", "SELECT, hint"));
        // Prepared, with a parameter, and run again and again.
        let statement =
            fresh.prepare("EXPLAIN (ROUTE) SELECT nextval('explained_numbers'), $1").await.unwrap();
        let names: Vec<_> = statement.columns().iter().map(|column| column.name().to_owned()).collect();
        assert_eq!(names, ["route", "class", "reason", "member", "lag", "fence"]);
        for _ in 0..3 {
            let row = fresh.query_one(&statement, &[&"x"]).await.unwrap();
            assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(2)), ("primary", "nextval"));
            assert_eq!(row.get::<_, Option<&str>>(4), None);
        }
        // In a transaction it tells of the connection that the transaction has.
        fresh.batch_execute("BEGIN; SELECT 1").await.unwrap();
        let held = route(&fresh, "SELECT n FROM explained").await;
        assert_eq!(held[..3], ["primary", "read", "SELECT, the session's own connection"].map(str::to_owned));
        let row = fresh.query_one(&statement, &[&"x"]).await.unwrap();
        assert_eq!(row.get::<_, &str>(3), leader);
        fresh.batch_execute("COMMIT").await.unwrap();
        let unknown = route(&fresh, "SELECT nobodys_function(1)").await;
        assert!(unknown[2].contains("nobodys_function"), "{unknown:?}");
        assert_eq!(one(&fresh, "SELECT count(*) FROM explained").await, "0");
        assert_eq!(one(&fresh, "SELECT nextval('explained_numbers')").await, "1", "nothing was run");
        proxy.assert_healthy();
    });
}

#[test]
fn a_catalog_that_cannot_be_read_leaves_functions_to_the_primary() {
    let world = World::shared();
    let status = &world.status;
    let database = "catalog_closed";
    let super_user = |database: &str, sql: &str| direct(status, leader(status), database, sql);
    super_user("postgres", &format!("CREATE DATABASE {database} OWNER {}", status.app));
    super_user("postgres", &format!("REVOKE CONNECT ON DATABASE {database} FROM public"));
    block_on(async {
        let proxy = Proxy::start(status, "");
        let client = connect_as(application(status, proxy.port).dbname(database)).await;
        client
            .batch_execute("CREATE FUNCTION closed(n int) RETURNS int LANGUAGE sql STABLE AS 'SELECT n'")
            .await
            .unwrap();
        proxy.until("it is told", |proxy| catalog_of(proxy, database)["error"].is_string());
        let shown = catalog_of(&proxy, database);
        assert!(shown["error"].as_str().is_some_and(|error| error.contains("permission denied")), "{shown}");
        assert!(shown["read"].is_null(), "{shown}");
        assert_eq!(one(&client, "SELECT closed(1)").await, "1");
        assert_eq!(last(&client).await, format!("{}: write (closed)", leader(status).name));
        // Opened again, it is read at the next try.
        super_user("postgres", &format!("GRANT CONNECT ON DATABASE {database} TO public"));
        routed(&client, "SELECT closed(1)", "replica").await;
        assert!(catalog_of(&proxy, database)["error"].is_null());
        proxy.assert_healthy();
    });
}

#[test]
fn reading_can_be_switched_off() {
    let world = World::shared();
    block_on(async {
        let proxy = Proxy::start(&world.status, "routing = { catalog_interval = \"0s\", learnt = 0 }");
        let client = connect(&world.status, &proxy).await;
        client
            .batch_execute("CREATE FUNCTION unread(n int) RETURNS int LANGUAGE sql STABLE AS 'SELECT n'")
            .await
            .unwrap();
        for n in 1..=3 {
            assert_eq!(one(&client, &format!("SELECT unread({n})")).await, n.to_string());
            assert_eq!(last(&client).await, format!("{}: write (unread)", leader(&world.status).name));
        }
        assert_eq!(proxy.metric("pgha_catalog_reads_total", "").to_string(), "0");
        proxy.assert_healthy();
    });
}

#[test]
fn the_command_line_asks_a_database() {
    let world = World::shared();
    let status = &world.status;
    direct(
        status,
        leader(status),
        &status.app,
        "CREATE FUNCTION cli_stable(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';
         CREATE FUNCTION cli_volatile(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1'",
    );
    let url = |password: &str| {
        format!("postgres://{0}{password}@127.0.0.1:{1}/{0}", status.app, leader(status).direct_port)
    };
    let route = |url: &str, sql: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pg-ha-proxy"));
        command.args(["route", "--database", url, sql]).env("PGPASSWORD", status.app_password.reveal());
        let output = command.output().expect("it runs");
        (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let plain = url("");
    assert_eq!(route(&plain, "SELECT cli_stable(1)").0, "route   replica\nclass   read\nreason  SELECT\n");
    assert_eq!(
        route(&plain, "SELECT cli_volatile(1)").0,
        "route   primary\nclass   write\nreason  function cli_volatile is VOLATILE in the catalog\n"
    );
    let full = url(&format!(":{}", status.app_password.reveal()));
    assert!(route(&full, "SELECT cli_stable(1)").0.starts_with("route   replica"));
    let (_, error) = route(&url(":wrong-word"), "SELECT 1");
    assert!(error.contains("28P01") && !error.contains("wrong-word"), "{error}");
}
