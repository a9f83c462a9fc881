//! The local cluster against its real parts: what it promises to everyone who starts one.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use pg_ha_proxy::cluster::{Cluster, How, MemberStatus, Options, Runtime, Status};

/// Long enough for a failover with ttl 20 on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn psql(status: &Status, connection: &str, sql: &str) -> Output {
    let mut command = Command::new(status.postgres_bin.join("psql"));
    command.args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql, connection]).env("PGCONNECT_TIMEOUT", "5");
    command.output().expect("psql runs")
}

/// What a statement returns; it has to succeed.
fn ask(status: &Status, connection: &str, sql: &str) -> String {
    let output = psql(status, connection, sql);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{sql}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What a statement, or the login, is refused with.
fn refusal(status: &Status, connection: &str, sql: &str) -> String {
    let output = psql(status, connection, sql);
    assert!(!output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn leader(status: &Status) -> &MemberStatus {
    status.member(status.leader.as_ref().expect("a leader")).expect("a member")
}

async fn until(cluster: &Cluster, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
    let end = Instant::now() + PATIENCE;
    loop {
        let status = cluster.status().await;
        if holds(&status) {
            return status;
        }
        assert!(Instant::now() < end, "{what} did not happen: {status:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn comes_up_whole_and_outlives_its_leader() {
    let begun = Instant::now();
    let cluster = Cluster::up(Options::quick()).await.expect("a cluster");
    eprintln!("up in {:?}", begun.elapsed());
    let status = cluster.status().await;
    a_whole_cluster(&status);
    an_application(&status);
    the_lookup_role(&status);
    switches_over(&cluster).await;
    restarts_postgresql(&cluster).await;
    eprintln!("failover after {:?}", fails_over(&cluster).await);
    etcd_goes_and_comes(&cluster).await;

    let dir = cluster.dir().to_path_buf();
    let status = cluster.status().await;
    cluster.down().await.expect("an end");
    assert!(!dir.exists(), "the folder stayed");
    assert_eq!(alive(&status), Vec::<u32>::new());
}

fn a_whole_cluster(status: &Status) {
    assert_eq!(status.members.len(), 3);
    assert_eq!(status.replicas().filter(|member| member.streaming).count(), 2, "{status:#?}");
    assert_eq!(status.members.iter().filter(|member| member.role == "primary").count(), 1);
    let superuser = status.superuser_dsn.reveal();
    let settings = [
        ("server_version_num / 10000", "18"),
        ("data_checksums", "on"),
        ("wal_level", "logical"),
        ("ssl", "on"),
        ("password_encryption", "scram-sha-256"),
        ("shared_preload_libraries", "vector,pg_stat_statements"),
    ];
    for (name, value) in settings {
        let sql = match name.split_once(' ') {
            Some((name, rest)) => format!("SELECT current_setting('{name}')::int {rest}"),
            None => format!("SHOW {name}"),
        };
        assert_eq!(ask(status, superuser, &sql), value, "{name}");
    }
    assert_ne!(ask(status, superuser, "SHOW synchronous_standby_names"), "");
    for pid in status.members.iter().flat_map(|member| &member.pids) {
        let owner = std::fs::metadata(format!("/proc/{pid}"));
        assert!(owner.is_ok(), "{pid} is no process");
    }
}

fn an_application(status: &Status) {
    let app = status.app_dsn.reveal();
    ask(
        status,
        app,
        "CREATE TABLE items (id int PRIMARY KEY, v vector(3)); INSERT INTO items VALUES (1, '[1,2,3]')",
    );
    assert_eq!(ask(status, app, "SELECT id FROM items ORDER BY v <-> '[1,1,1]' LIMIT 1"), "1");
    let on_replica = app.replace("read-write", "read-only");
    assert_eq!(ask(status, &on_replica, "SELECT pg_is_in_recovery()"), "t");
    let wrong = app.replace(status.app_password.reveal(), "wrong");
    assert!(refusal(status, &wrong, "SELECT 1").contains("password authentication failed"));
}

fn the_lookup_role(status: &Status) {
    let port = leader(status).port;
    let as_role = |role: &str, certificate: &str| {
        let (file, key) = &status.client_certificates[certificate];
        let (ca, file, key) = (status.ca.display(), file.display(), key.display());
        format!(
            "host=127.0.0.1 port={port} dbname=postgres user={role} sslmode=verify-full sslrootcert={ca} \
             sslcert={file} sslkey={key}"
        )
    };
    let lookup = as_role("pgha_lookup", "pgha_lookup");
    let row = ask(
        status,
        &lookup,
        "SELECT verifier, can_login, valid_until, connection_limit FROM pgha.verifier('app')",
    );
    assert!(row.starts_with("SCRAM-SHA-256$4096:") && row.ends_with("|t||-1"), "{row}");
    assert_eq!(ask(status, &lookup, "SELECT count(*) FROM pgha.verifier('nobody')"), "0");
    let superuser = status.superuser_dsn.reveal();
    ask(status, superuser, "CREATE ROLE ends LOGIN VALID UNTIL '2001-09-09 01:46:40 UTC' CONNECTION LIMIT 7");
    let row = ask(
        status,
        &lookup,
        "SELECT verifier IS NULL, valid_until, connection_limit FROM pgha.verifier('ends')",
    );
    assert_eq!(row, "t|1000000000|7");
    for sql in [
        "TABLE pg_authid",
        "CREATE TABLE public.t ()",
        "CREATE SCHEMA s",
        "SELECT pg_read_file('/etc/passwd')",
    ] {
        let text = refusal(status, &lookup, sql);
        assert!(text.contains("permission denied") || text.contains("read-only"), "{sql}: {text}");
    }
    let app = format!("{}&application_name=x", status.app_dsn.reveal()).replace("/app?", "/postgres?");
    assert!(refusal(status, &app, "SELECT * FROM pgha.verifier('app')").contains("permission denied"));

    let monitor = as_role("pgha_monitor", "pgha_monitor");
    assert_eq!(
        ask(status, &monitor, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"),
        "2"
    );
    assert!(refusal(status, &monitor, "SELECT * FROM pgha.verifier('app')").contains("permission denied"));
    assert!(
        refusal(status, &as_role("pgha_lookup", "pgha_monitor"), "SELECT 1")
            .contains("authentication failed")
    );
    let bare = format!("host=127.0.0.1 port={port} dbname=postgres user=pgha_lookup password=x sslmode=");
    assert!(refusal(status, &format!("{bare}disable"), "SELECT 1").contains("pg_hba.conf rejects"));
    assert!(refusal(status, &format!("{bare}require"), "SELECT 1").contains("certificate"));
}

async fn switches_over(cluster: &Cluster) {
    let status = cluster.status().await;
    // Not the synchronous standby, which Patroni's own switchover would refuse.
    let to =
        status.replicas().find(|member| !member.synchronous).expect("an asynchronous replica").name.clone();
    assert_eq!(cluster.switchover(Some(&to)).await.expect("a switchover"), to);
    cluster.wait_ready(PATIENCE).await.expect("all follow");
    let status = cluster.status().await;
    assert_eq!(status.leader.as_deref(), Some(to.as_str()));
    assert_eq!(ask(&status, status.app_dsn.reveal(), "SELECT count(*) FROM items"), "1");
    assert!(
        cluster
            .switchover(Some("pg-node-9"))
            .await
            .is_err_and(|error| error.to_string().contains("pg-node-1"))
    );
}

async fn restarts_postgresql(cluster: &Cluster) {
    let before = leader(&cluster.status().await).clone();
    cluster.kill(&before.name, How::Postgres).await.expect("a kill");
    let status = until(cluster, "PostgreSQL's restart", |status| {
        let member = status.member(&before.name).expect("a member");
        status.leader.is_some() && member.postgres_pid.is_some_and(|pid| Some(pid) != before.postgres_pid)
    })
    .await;
    assert_eq!(
        status.member(&before.name).expect("a member").patroni_pid,
        before.patroni_pid,
        "Patroni lived on"
    );
    cluster.wait_ready(PATIENCE).await.expect("all follow");
}

async fn fails_over(cluster: &Cluster) -> Duration {
    let old = leader(&cluster.status().await).clone();
    let killed = Instant::now();
    cluster.kill(&old.name, How::Member).await.expect("a kill");
    let status = cluster.status().await;
    let dead = status.member(&old.name).expect("a member");
    assert_eq!((dead.state.as_str(), dead.pids.len()), ("down", 0));
    assert!(old.pids.iter().all(|pid| !alive(&status).contains(pid)));
    let status =
        until(cluster, "a failover", |status| status.leader.as_ref().is_some_and(|name| *name != old.name))
            .await;
    let lasted = killed.elapsed();
    assert_eq!(ask(&status, status.app_dsn.reveal(), "SELECT count(*) FROM items"), "1");
    cluster.kill(&old.name, How::Start).await.expect("a start");
    assert!(cluster.kill(&old.name, How::Start).await.is_err(), "it runs already");
    cluster.wait_ready(PATIENCE).await.expect("it follows the new leader");
    lasted
}

async fn etcd_goes_and_comes(cluster: &Cluster) {
    cluster.stop_etcd().await.expect("a stop");
    assert!(!cluster.status().await.etcd.running);
    assert!(cluster.stop_etcd().await.is_err(), "it is stopped already");
    cluster.start_etcd().await.expect("a start");
    assert!(cluster.compact_etcd().await.expect("a compaction") > 1);
    cluster.wait_ready(PATIENCE).await.expect("all is as it was");
}

#[tokio::test]
async fn a_partition_leaves_the_member_alone() {
    let cluster = Cluster::up(Options { members: 2, ..Options::quick() }).await.expect("a cluster");
    let status = cluster.status().await;
    let old = leader(&status).clone();
    let other = status.replicas().next().expect("a replica").name.clone();
    cluster.kill(&old.name, How::Partition).await.expect("a partition");
    let through_relay = format!("{}&connect_timeout=2", status.app_dsn.reveal());
    assert!(!psql(&status, &through_relay, "SELECT 1").status.success(), "a partitioned primary answered");

    let status = until(&cluster, "a failover", |status| status.leader.as_deref() == Some(&other)).await;
    assert!(status.member(&old.name).expect("a member").partitioned);
    assert!(status.member(&old.name).expect("a member").patroni_pid.is_some(), "nothing was killed");
    cluster.kill(&old.name, How::Heal).await.expect("a healing");
    cluster.wait_ready(PATIENCE).await.expect("it follows the new leader");
    assert_eq!(cluster.status().await.leader, Some(other.clone()));

    cluster.kill(&old.name, How::Freeze).await.expect("a freeze");
    assert_eq!(cluster.status().await.member(&old.name).expect("a member").state, "frozen");
    cluster.kill(&old.name, How::Thaw).await.expect("a thaw");
    cluster.wait_ready(PATIENCE).await.expect("it goes on");
}

#[tokio::test]
async fn a_kept_folder_is_the_same_cluster_again() {
    let dir = std::env::temp_dir().join(format!("pg-ha-kept-{}", std::process::id()));
    let options = || Options { members: 1, dir: Some(dir.clone()), keep: true, ..Options::quick() };
    let cluster = Cluster::up(options()).await.expect("a cluster");
    let status = cluster.status().await;
    ask(&status, status.app_dsn.reveal(), "CREATE TABLE kept AS SELECT 1");
    let twice = Cluster::up(options()).await.expect_err("a second supervisor");
    assert!(twice.to_string().contains("runs in"), "{twice}");
    cluster.down().await.expect("an end");
    assert_eq!(alive(&status), Vec::<u32>::new());

    let cluster = Cluster::up(options()).await.expect("the cluster again");
    let again = cluster.status().await;
    assert_eq!(ask(&again, again.app_dsn.reveal(), "SELECT count(*) FROM kept"), "1");
    assert_eq!(again.app_password, status.app_password);
    drop(cluster);
    assert_eq!(alive(&again), Vec::<u32>::new());
    std::fs::remove_dir_all(&dir).expect("the folder had stayed");
}

#[tokio::test]
async fn nothing_outlives_a_killed_supervisor() {
    let mut supervisor = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "--ignored", "--nocapture", "supervisor_to_be_killed"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the supervisor");
    let lines = BufReader::new(supervisor.stdout.take().expect("piped")).lines();
    let status: Status = lines
        .map_while(Result::ok)
        .find_map(|line| serde_json::from_str(line.strip_prefix("status ")?).ok())
        .expect("a cluster's status");
    let before = alive(&status);
    assert!(before.len() > 5, "{status:#?}");
    supervisor.kill().expect("kill -9");
    supervisor.wait().expect("its end");
    let killed = Instant::now();
    while !alive(&status).is_empty() || status.dir.exists() {
        assert!(
            killed.elapsed() < Duration::from_secs(15),
            "left: {:?} {}",
            alive(&status),
            status.dir.display()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("{} processes and the folder were gone {:?} after kill -9", before.len(), killed.elapsed());
}

#[tokio::test]
#[ignore = "started and killed by nothing_outlives_a_killed_supervisor"]
async fn supervisor_to_be_killed() {
    let cluster = Cluster::up(Options { members: 2, ..Options::quick() }).await.expect("a cluster");
    // On a line of its own: the test's name stands before it.
    println!("\nstatus {}", serde_json::to_string(&cluster.status().await).expect("JSON"));
    std::future::pending::<()>().await;
}

#[test]
fn the_programs_are_where_setup_put_them() {
    let runtime = Runtime::find().expect("make setup");
    for program in [runtime.python(), runtime.etcd(), runtime.postgres_bin().join("pgbench")] {
        assert!(program.is_file(), "{}", program.display());
    }
}

/// The processes of a cluster that still run.
fn alive(status: &Status) -> Vec<u32> {
    let known = status.members.iter().flat_map(|member| member.pids.iter().copied()).chain(status.etcd.pid);
    let dir = status.dir.display().to_string();
    let mut pids: Vec<u32> = known.filter(|pid| runs_in(*pid, "")).collect();
    // Also those that were not there when the status was taken: by their command line or working folder.
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    let others = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.extend(others.filter(|pid| *pid != std::process::id() && runs_in(*pid, &dir)));
    pids.sort_unstable();
    pids.dedup();
    pids
}

fn runs_in(pid: u32, dir: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let zombie = stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with('Z'));
    let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let names_it = folder.starts_with(dir) || String::from_utf8_lossy(&line).contains(dir);
    !zombie && (dir.is_empty() || names_it)
}
