//! Replication connections: PostgreSQL's own programs that replicate, through the port.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_ha_proxy::cluster::Status;

use crate::support::{PATIENCE, Proxy, World, direct, leader, on_leader, psql};

/// A program of PostgreSQL's as the application, which may replicate.
pub(crate) fn command(status: &Status, program: &str, port: u16) -> Command {
    let mut command = Command::new(status.postgres_bin.join(program));
    command.args(["-h", "127.0.0.1", "-U", &status.app, "-p", &port.to_string()]);
    command.env("PGPASSWORD", status.app_password.reveal());
    command
}

fn succeeds(output: &Output) -> String {
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{told}");
    said.trim_end().to_owned()
}

/// Lets the application replicate; once, for of two at a time a server refuses one.
fn may_replicate(world: &World) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        on_leader(&world.status, "ALTER ROLE app REPLICATION");
    });
}

/// What a walsender answers.
fn walsender(status: &Status, port: u16, mode: &str, options: &str, sql: &str) -> Output {
    let mut command = psql::command(status, port);
    command
        .args(["-c", sql, "-d", &format!("replication={mode} dbname={}", status.app)])
        .env("PGOPTIONS", options);
    command.output().expect("psql runs")
}

/// A program in the background; ended when dropped.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs"))
    }

    fn stop(&mut self) {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGINT).expect("it is there");
        self.0.wait().expect("it ends");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waiting for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether WAL of this timeline was received.
pub(crate) fn has_wal(folder: &Path, timeline: u64) -> bool {
    let files = std::fs::read_dir(folder).expect("a folder").map_while(Result::ok);
    files.into_iter().any(|file| {
        file.file_name().to_string_lossy().starts_with(&format!("{timeline:08X}"))
            && file.path().extension().is_none_or(|kind| kind == "partial")
    })
}

#[test]
fn a_walsender_answers_as_it_does_directly() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    may_replicate(world);
    let port = leader(&world.status).direct_port;
    for mode in ["database", "true"] {
        let through = succeeds(&walsender(&world.status, proxy.port, mode, "", "IDENTIFY_SYSTEM"));
        let directly = succeeds(&walsender(&world.status, port, mode, "", "IDENTIFY_SYSTEM"));
        let field = |line: &str, at: usize| line.split('|').nth(at).map(str::to_owned);
        for at in [0, 1, 3] {
            assert_eq!(field(&through, at), field(&directly, at), "{mode}");
        }
    }
    // Physical replication may wish for a replica; logical decoding is the primary's.
    let replica = "-c pgha.route=replica";
    let served = |mode| {
        succeeds(&walsender(&world.status, proxy.port, mode, replica, "SHOW port"))
            .parse::<u16>()
            .expect("a port")
    };
    let own_port = |name: &str| -> u16 {
        let member = world.status.members.iter().find(|member| member.name == name).expect("a member");
        direct(&world.status, member, "postgres", "SHOW port").parse().expect("a port")
    };
    let leads = own_port(&leader(&world.status).name);
    assert_eq!(served("database"), leads);
    assert!(world.status.replicas().any(|member| own_port(&member.name) == served("true")));
    // The server's own words.
    let words = |output: Output| {
        String::from_utf8_lossy(&output.stderr)
            .trim_end()
            .replace("LOCATION:", "")
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let nonsense = |port| {
        words(walsender(&world.status, port, "true", "", "START_REPLICATION SLOT \"no such\" PHYSICAL 0/0"))
    };
    assert!(nonsense(proxy.port).contains("ERROR"), "{}", nonsense(proxy.port));
    assert_eq!(nonsense(proxy.port), nonsense(port));
    on_leader(&world.status, "CREATE ROLE plain LOGIN PASSWORD 'plain'");
    let refused = |port: u16| {
        let mut command = psql::command(&world.status, port);
        command
            .args(["-c", "IDENTIFY_SYSTEM", "-d", "replication=true user=plain"])
            .env("PGPASSWORD", "plain");
        let output = command.output().expect("psql runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        text.split("FATAL:").nth(1).map_or(&*text, str::trim).to_owned()
    };
    assert!(refused(port).contains("permission denied"), "{}", refused(port));
    assert_eq!(refused(proxy.port), refused(port));
    proxy.assert_healthy();
}

#[test]
fn a_base_backup_and_logical_decoding_go_through() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    may_replicate(world);
    let folder = tempfile::tempdir().expect("a folder");
    let backup = folder.path().join("backup");
    let mut taking = command(&world.status, "pg_basebackup", proxy.port);
    // Its WAL comes on a second connection meanwhile.
    taking.args(["-X", "stream", "-c", "fast", "--no-sync", "-D"]).arg(&backup);
    succeeds(&taking.output().expect("it runs"));
    let mut verifying = Command::new(world.status.postgres_bin.join("pg_verifybackup"));
    succeeds(&verifying.arg(&backup).output().expect("it runs"));

    let changes = folder.path().join("changes");
    let decoding = |arguments: &[&str]| {
        let mut command = command(&world.status, "pg_recvlogical", proxy.port);
        command.args(["-d", &world.status.app, "-S", "through_the_port"]).args(arguments);
        command
    };
    succeeds(&decoding(&["--create-slot", "-P", "test_decoding"]).output().expect("it runs"));
    let file = changes.display().to_string();
    let mut running = Running::start(&mut decoding(&["--start", "-F", "1", "-f", &file]));
    psql::ask(
        &world.status,
        proxy.port,
        "CREATE TABLE decoded (n int); INSERT INTO decoded SELECT generate_series(1, 1000)",
    );
    until("the changes", || {
        std::fs::read_to_string(&changes)
            .is_ok_and(|text| text.matches("table public.decoded: INSERT: n[integer]:").count() == 1000)
    });
    running.stop();
    succeeds(&decoding(&["--drop-slot"]).output().expect("it runs"));
    proxy.assert_healthy();
}

#[test]
fn the_end_of_the_proxy_ends_replication() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "limits.drain_timeout = '60s'");
    may_replicate(world);
    let folder = tempfile::tempdir().expect("a folder");
    let mut receiving = command(&world.status, "pg_receivewal", proxy.port);
    let _running = Running::start(receiving.arg("-D").arg(folder.path()));
    until("some WAL", || std::fs::read_dir(folder.path()).is_ok_and(|files| files.count() > 0));
    let began = Instant::now();
    proxy.signal(Signal::SIGTERM);
    until("its end", || proxy.ended().is_some());
    assert!(began.elapsed() < Duration::from_secs(30), "it waited for a connection that never ends");
}
