//! The programs that come with PostgreSQL, and Python's driver.

use std::process::{Command, Output};

use crate::support::{Proxy, World, block_on, caught_up, direct, leader};

/// A database of its own, owned by the application.
fn database(world: &World, name: &str) {
    direct(&world.status, leader(&world.status), "postgres", &format!("CREATE DATABASE {name} OWNER app"));
}

fn run(world: &World, program: &str, port: u16, arguments: &[&str]) -> Output {
    let mut command = Command::new(world.status.postgres_bin.join(program));
    command.args(["-h", "127.0.0.1", "-U", "app", "-p", &port.to_string()]).args(arguments);
    command.env("PGPASSWORD", world.status.app_password.reveal()).env("LANG", "C.UTF-8");
    command.output().expect("it runs")
}

fn succeeds(output: &Output) -> String {
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{told}");
    said.into_owned()
}

#[test]
fn pgbench_fails_in_nothing() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    database(world, "bench");
    succeeds(&run(world, "pgbench", proxy.port, &["-i", "-q", "-s", "1", "bench"]));
    block_on(caught_up(&world.status, leader(&world.status)));
    for protocol in ["simple", "extended", "prepared"] {
        for script in ["tpcb-like", "select-only"] {
            let arguments = ["-n", "-b", script, "-M", protocol, "-c", "8", "-j", "2", "-t", "60", "bench"];
            let said = succeeds(&run(world, "pgbench", proxy.port, &arguments));
            assert!(said.contains("transactions actually processed: 480/480"), "{protocol}: {said}");
            assert!(said.contains("number of failed transactions: 0 "), "{protocol}: {said}");
        }
    }
    let sql =
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history),
               (SELECT count(*) FROM pgbench_history)";
    assert_eq!(direct(&world.status, leader(&world.status), "bench", sql), "t|1440");
    proxy.assert_healthy();
}

#[test]
fn pg_dump_is_the_same_and_can_be_restored() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    database(world, "dumped");
    database(world, "restored");
    let script = "CREATE TABLE things (id serial PRIMARY KEY, name text NOT NULL, made timestamptz, data bytea);
        INSERT INTO things (name, made, data) SELECT 'thing ' || n, '2020-01-01'::timestamptz + n * interval '1 hour',
            decode(md5(n::text), 'hex') FROM generate_series(1, 2000) n;
        CREATE VIEW names AS SELECT name FROM things; CREATE INDEX ON things (name);
        CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';
        COMMENT ON TABLE things IS 'with a ''quote''';
        SELECT lo_from_bytea(0, 'a large object');";
    succeeds(&run(
        world,
        "psql",
        proxy.port,
        &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "dumped", "-c", script],
    ));
    let dump = |port: u16, database: &str| {
        let text = succeeds(&run(world, "pg_dump", port, &["--restrict-key=x", "-d", database]));
        assert!(text.len() > 100_000, "{}", text.len());
        text
    };
    let through = dump(proxy.port, "dumped");
    assert!(through == dump(leader(&world.status).direct_port, "dumped"), "the dumps differ");
    let path = world.status.dir.join("dump.sql");
    std::fs::write(&path, &through).expect("a file");
    let file = path.display().to_string();
    succeeds(&run(
        world,
        "psql",
        proxy.port,
        &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "restored", "-f", &file],
    ));
    assert!(through == dump(proxy.port, "restored"), "what was restored differs");
    let copy = world.status.dir.join("dump.custom").display().to_string();
    succeeds(&run(world, "pg_dump", proxy.port, &["-Fc", "-f", &copy, "-d", "dumped"]));
    proxy.assert_healthy();
}

const PYTHON: &str = r#"
import sys, threading, psycopg
dsn = sys.argv[1]
with psycopg.connect(dsn) as connection:
    connection.execute("CREATE TABLE of_psycopg (id int PRIMARY KEY, name text)")
    connection.commit()
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO of_psycopg VALUES (%s, %s)", [(n, "n%d" % n) for n in range(100)])
        connection.commit()
        # Prepared after five runs, then bound in binary.
        for n in range(20):
            cursor.execute("SELECT name FROM of_psycopg WHERE id = %s", (n,), binary=True)
            assert cursor.fetchone() == ("n%d" % n,)
            connection.commit()
        with cursor.copy("COPY of_psycopg FROM STDIN") as copy:
            for n in range(100, 200):
                copy.write_row((n, "copied"))
        connection.commit()
        with cursor.copy("COPY (SELECT id FROM of_psycopg ORDER BY id) TO STDOUT") as copy:
            assert [int(row[0]) for row in copy.rows()] == list(range(200))
        with connection.cursor(name="server_side") as named:
            named.itersize = 30
            named.execute("SELECT id FROM of_psycopg ORDER BY id")
            assert [row[0] for row in named] == list(range(200))
    connection.commit()
    try:
        with connection.transaction():
            connection.execute("INSERT INTO of_psycopg VALUES (0, 'twice')")
        raise SystemExit("no error")
    except psycopg.errors.UniqueViolation:
        pass
    with connection.transaction():
        with connection.transaction():
            connection.execute("INSERT INTO of_psycopg VALUES (1000, 'nested')")
    with connection.pipeline():
        answers = [connection.execute("SELECT %s::int", (n,)) for n in range(50)]
    assert [answer.fetchone()[0] for answer in answers] == list(range(50))
    connection.rollback()
with psycopg.connect(dsn, autocommit=True) as connection:
    timer = threading.Timer(0.5, connection.cancel)
    timer.start()
    try:
        connection.execute("SELECT pg_sleep(30)")
        raise SystemExit("not cancelled")
    except psycopg.errors.QueryCanceled:
        pass
    assert connection.execute("SELECT count(*) FROM of_psycopg").fetchone() == (201,)
print("done")
"#;

#[test]
fn psycopg_works_as_it_does_directly() {
    let world = World::shared();
    let mut command = Command::new(world.cluster.runtime().python());
    let (port, password) = (world.proxy.port, world.status.app_password.reveal());
    command.args([
        "-c",
        PYTHON,
        &format!("host=127.0.0.1 port={port} user=app dbname=app password={password}"),
    ]);
    assert_eq!(succeeds(&command.output().expect("Python runs")).trim(), "done");
    world.proxy.assert_healthy();
}
