//! What the end-to-end tests share: one cluster with a proxy before it, and ways to talk to both.
//!
//! Statics are not dropped at a test binary's end. Nothing is left behind all the same: the cluster's keepers end what they keep
//! when this process is gone, with its folder, and proxies are started so that the kernel kills them with it.

pub(crate) mod process;
pub(crate) mod psql;
pub(crate) mod raw;

use std::process::Command;
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use pg_ha_proxy::cluster::{Cluster, MemberStatus, Options, Status};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

pub(crate) use process::Proxy;
pub(crate) use psql::Psql;

/// Long enough for a failover with ttl 20 on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("a runtime")
});

/// Runs a test's future on the runtime that outlives every single test.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// A cluster and the proxy before it.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) status: Status,
    pub(crate) proxy: Proxy,
}

impl World {
    /// A cluster of its own, for a test that breaks it.
    pub(crate) async fn new(options: Options, configuration: &str) -> Self {
        let cluster = Cluster::up(options).await.expect("a cluster");
        let status = cluster.status().await;
        let proxy = Proxy::start(&status, configuration);
        Self { cluster, status, proxy }
    }

    /// The cluster of all tests that leave it whole.
    pub(crate) fn shared() -> &'static Self {
        static WORLD: OnceLock<World> = OnceLock::new();
        // Nothing here fails over, however busy the machine is.
        let patient = Options {
            ttl: Duration::from_secs(300),
            retry_timeout: Duration::from_secs(100),
            failsafe: true,
            ..Options::quick()
        };
        WORLD.get_or_init(|| block_on(Self::new(patient, "")))
    }

    /// Waits until every replica has replayed what is written now.
    pub(crate) async fn replicas_catch_up(&self) {
        caught_up(&self.status, leader(&self.status)).await;
    }

    /// The status at this moment, once it is as wanted.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.cluster.status().await;
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{what} did not happen: {status:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The leader of this status.
pub(crate) fn leader(status: &Status) -> &MemberStatus {
    status.member(status.leader.as_ref().expect("a leader")).expect("a member")
}

/// What a statement returns as the superuser on one member, by its socket.
pub(crate) fn direct(status: &Status, member: &MemberStatus, database: &str, sql: &str) -> String {
    try_direct(status, member, database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// The same; an error is what psql says.
pub(crate) fn try_direct(
    status: &Status,
    member: &MemberStatus,
    database: &str,
    sql: &str,
) -> Result<String, String> {
    let mut command = Command::new(status.postgres_bin.join("psql"));
    command.args(["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", sql]);
    command.arg("-h").arg(&member.socket_dir).args(["-p", &member.direct_port.to_string()]);
    let output = command.output().expect("psql runs");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// What a statement returns as the superuser on the leader.
pub(crate) fn on_leader(status: &Status, sql: &str) -> String {
    direct(status, leader(status), &status.app, sql)
}

/// Waits until every replica has replayed what this member has written by now.
pub(crate) async fn caught_up(status: &Status, primary: &MemberStatus) {
    let position = direct(status, primary, "postgres", "SELECT pg_current_wal_flush_lsn()");
    let reached = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
    let end = Instant::now() + PATIENCE;
    for replica in status.members.iter().filter(|member| member.name != primary.name) {
        while direct(status, replica, "postgres", &reached) != "t" {
            assert!(Instant::now() < end, "{} does not catch up", replica.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// How a driver logs in as the application.
pub(crate) fn application(status: &Status, port: u16) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user(&status.app).dbname(&status.app);
    config.password(status.app_password.reveal()).connect_timeout(Duration::from_secs(10));
    config
}

/// A driver's connection through a proxy.
pub(crate) async fn connect(status: &Status, proxy: &Proxy) -> Client {
    connect_as(&application(status, proxy.port)).await
}

/// A driver's connection.
pub(crate) async fn connect_as(config: &tokio_postgres::Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.expect("a login");
    // Its end is seen by the client's next statement.
    tokio::spawn(async move { drop(connection.await) });
    client
}

/// The first column of the only row of a simple query.
pub(crate) async fn one(client: &Client, sql: &str) -> String {
    use tokio_postgres::SimpleQueryMessage::Row;
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {}", told(&error)));
    let mut rows =
        messages.iter().filter_map(|message| if let Row(row) = message { Some(row) } else { None });
    let row = rows.next().unwrap_or_else(|| panic!("{sql}: no row"));
    row.get(0).unwrap_or("NULL").to_owned()
}

/// The SQLSTATE and the words of a server's error.
pub(crate) fn told(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => {
            format!("{} {}: {}", error.severity(), error.code().code(), error.message())
        }
        None => error.to_string(),
    }
}
