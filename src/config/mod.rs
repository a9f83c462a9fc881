//! proxy.toml: as it is written ([`file`]), and as it is meant ([`Config`]).
//!
//! Each part of the proxy is handed its own struct of these and never sees the rest. Durations are written as
//! `"5s"`, `"20ms"`, sizes as `"16MiB"` or plain bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[listen]`
    pub listen: Listen,
    /// `[tls]`
    pub tls: Tls,
    /// `[topology]`
    pub topology: TopologyConfig,
    /// `[auth]`
    pub auth: Auth,
    /// `[[users]]`
    pub users: Vec<User>,
    /// `[pool]`
    pub pool: Pool,
    /// `[routing]`
    pub routing: Routing,
    /// `[vector]`
    pub vector: Vector,
    /// `[failover]`
    pub failover: Failover,
    /// `[limits]`
    pub limits: Limits,
    /// `[admin]`
    pub admin: Admin,
    /// `[log]`
    pub log: Log,
}

/// `[listen]`: where clients come in.
#[derive(Debug, Clone)]
pub struct Listen {
    /// `address`, one or a list; default `127.0.0.1:6432`.
    pub addresses: Vec<SocketAddr>,
    /// `workers`: worker threads; default one a core.
    pub workers: usize,
    /// `backlog` of the listening socket; default 1024.
    pub backlog: u32,
}

/// How far TLS is asked for, as libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// If the other side can.
    Prefer,
    /// Always, whoever the other side is.
    Require,
    /// Always, with a certificate that the CA signed.
    VerifyCa,
    /// Always, and the certificate names the host.
    VerifyFull,
}

/// `[tls]`
#[derive(Debug, Clone)]
pub struct Tls {
    /// `client_mode`: `disable`, `prefer` (offered; needs a certificate) or `require`; default `disable` without a certificate and `prefer` with one.
    pub client_mode: TlsMode,
    /// `certificate`: PEM chain shown to clients.
    pub certificate: Option<PathBuf>,
    /// `key`: its PEM key.
    pub key: Option<PathBuf>,
    /// `client_ca`: PEM CA that signs client certificates; given, they are asked for.
    pub client_ca: Option<PathBuf>,
    /// `server_mode` towards the members; default `prefer`.
    pub server_mode: TlsMode,
    /// `server_ca`: PEM CA of the members; needed by `verify-ca` and `verify-full`.
    pub server_ca: Option<PathBuf>,
}

/// Where the topology comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// `source = "etcd"`: Patroni's keys in etcd.
    Etcd(EtcdSource),
    /// `source = "static"`: `members = ["host:port", …]`, each asked for its role.
    Static(Vec<(String, u16)>),
}

/// The etcd that Patroni writes to.
#[derive(Debug, Clone)]
pub struct EtcdSource {
    /// `etcd_endpoints`, such as `http://127.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// `etcd_user` and `etcd_password_file`.
    pub user: Option<(String, PathBuf)>,
    /// `etcd_ca`
    pub ca: Option<PathBuf>,
    /// `etcd_certificate` and `etcd_key`
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// `namespace`, default `/`.
    pub namespace: String,
    /// `scope`, default `pg-ha-cluster`.
    pub scope: String,
    /// `etcd_timeout` for connecting and for a request; default 2 s.
    pub timeout: Duration,
    /// `etcd_check`: time between linearizable reads that hold the watch to account; default 1 s.
    pub check_interval: Duration,
}

/// `[topology]`
#[derive(Debug, Clone)]
pub struct TopologyConfig {
    /// `source` and its keys.
    pub source: Source,
    /// `monitor_interval`: time between checks of a member in quiet times; default 1 s.
    pub monitor_interval: Duration,
    /// `monitor_interval_busy`: the same while sessions wait for a primary; default 20 ms.
    pub monitor_interval_busy: Duration,
    /// `lsn_interval`: time between readings of LSNs while a session needs them; default 5 ms.
    pub lsn_interval: Duration,
    /// `monitor_timeout`: how long a check may take; default 2 s.
    pub monitor_timeout: Duration,
    /// `member_grace`: how long a member whose key is gone may still serve reads; default 2 s.
    pub member_grace: Duration,
    /// `fence_after`: how long etcd may be away before writes stop; none (default): as long as live checks pass.
    pub fence_after: Option<Duration>,
}

/// `[auth]`
#[derive(Debug, Clone)]
pub struct Auth {
    /// `lookup_user`: role that may run the lookup function; default `pgha_lookup`; empty: only `[[users]]` can log in.
    pub lookup_user: Option<String>,
    /// `lookup_database`; default `postgres`.
    pub lookup_database: String,
    /// `lookup_certificate` and `lookup_key`: client certificate of the lookup role.
    pub lookup_certificate: Option<(PathBuf, PathBuf)>,
    /// `lookup_password_file`: the lookup role's password, where it has no certificate.
    pub lookup_password_file: Option<PathBuf>,
    /// `monitor_user`: role of the monitors; default `pgha_monitor`.
    pub monitor_user: String,
    /// `monitor_database`; default `postgres`.
    pub monitor_database: String,
    /// `monitor_certificate` and `monitor_key`.
    pub monitor_certificate: Option<(PathBuf, PathBuf)>,
    /// `monitor_password_file`
    pub monitor_password_file: Option<PathBuf>,
    /// `cache_ttl`: how long a verifier is used before it is read again; default 60 s.
    pub cache_ttl: Duration,
    /// `lookup_timeout`; default 5 s.
    pub lookup_timeout: Duration,
    /// `cluster_secret_file`: key of the made-up salts, the same on every proxy; default: derived at start, at random.
    pub cluster_secret_file: Option<PathBuf>,
}

/// One of `[[users]]`: a user that needs no lookup.
#[derive(Clone)]
pub struct User {
    /// `name`
    pub name: String,
    /// `password`, or `password_file`, or `verifier`.
    pub secret: UserSecret,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How a configured user proves itself. Its `Debug` shows no secret.
#[derive(Clone)]
pub enum UserSecret {
    /// A password in clear: serves logins at both sides.
    Password(Arc<str>),
    /// A SCRAM verifier: the ClientKey comes from the client's proof.
    Verifier(Arc<str>),
}

/// `pool.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// A backend for the length of a transaction.
    Transaction,
    /// One primary connection for the session's life.
    Session,
}

/// `[pool]`
#[derive(Debug, Clone)]
pub struct Pool {
    /// `mode`; default `transaction`.
    pub mode: PoolMode,
    /// `size`: backends for one member, user and database; default 20.
    pub size: usize,
    /// `member_size`: backends for one member in all; default 100.
    pub member_size: usize,
    /// `wait`: how long a statement waits for a backend; default 10 s.
    pub wait: Duration,
    /// `max_waiting`: sessions that wait for one member, user and database; default 1000.
    pub max_waiting: usize,
    /// `connect_timeout` to a member, login included; default 5 s.
    pub connect_timeout: Duration,
    /// `idle_timeout`: an idle backend is closed after it; default 10 min.
    pub idle_timeout: Duration,
    /// `lifetime`: a backend older than this is closed when it comes back; default 1 h.
    pub lifetime: Duration,
}

/// `routing.reads`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Spread over the replicas.
    Replicas,
    /// Everything to the primary.
    Primary,
}

/// `routing.consistency`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Any eligible replica.
    Eventual,
    /// Own writes are seen, reads don't go back.
    Session,
    /// The writes of every session of this proxy are seen.
    Strong,
}

/// `routing.balance`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// In turn.
    RoundRobin,
    /// The one with the fewest statements under way.
    LeastBusy,
    /// The one with the lowest moving average of answer times.
    Ewma,
}

/// `[routing]`
#[derive(Debug, Clone)]
pub struct Routing {
    /// `reads`; default `replicas`.
    pub reads: Reads,
    /// `consistency`; default `session`.
    pub consistency: Consistency,
    /// `balance`; default `round_robin`.
    pub balance: Balance,
    /// `weights` by member name; default 1 each, 0 takes a member out.
    pub weights: BTreeMap<String, u32>,
    /// `fence_wait`: how long a read may wait for a replica to catch up before it goes to the primary; default 0.
    pub fence_wait: Duration,
    /// `max_lag`: a replica further behind in time serves nothing; default 10 s.
    pub max_lag: Duration,
    /// `max_lag_bytes`: the same in WAL bytes; default 16 MiB.
    pub max_lag_bytes: u64,
    /// `read_only_functions`: VOLATILE functions that may run on a replica.
    pub read_only_functions: Vec<String>,
    /// `primary_functions`: functions that must run on the primary.
    pub primary_functions: Vec<String>,
    /// `class_cache`: statement texts whose class is kept, per worker; default 10,000.
    pub class_cache: usize,
    /// `retry_buffer`: a statement up to this size can be sent again after a loss; default 1 MiB.
    pub retry_buffer: usize,
    /// `answer_buffer`: bytes of a read's answer that are held back so that it can be run again; default 16 KiB.
    pub answer_buffer: usize,
}

/// `[vector]`
#[derive(Debug, Clone)]
pub struct Vector {
    /// `balance`; default as in `[routing]`.
    pub balance: Option<Balance>,
    /// `max_per_replica`: searches at once on one replica; default 0, no limit.
    pub max_per_replica: usize,
    /// `settings` for vector searches alone, such as `hnsw.ef_search = 100`.
    pub settings: BTreeMap<String, String>,
}

/// `[failover]`
#[derive(Debug, Clone)]
pub struct Failover {
    /// `hold`: how long a statement waits for a primary; default (none) Patroni's ttl + loop_wait + 5 s.
    pub hold: Option<Duration>,
    /// `max_waiting`: sessions that may wait for a primary; default 10,000.
    pub max_waiting: usize,
    /// `max_waiting_bytes`: bytes of their statements; default 64 MiB.
    pub max_waiting_bytes: usize,
    /// `drain`: how long open transactions may run on at a switchover; default 5 s.
    pub drain: Duration,
}

/// `[limits]`
#[derive(Debug, Clone)]
pub struct Limits {
    /// `clients` in all; default 10,000.
    pub clients: usize,
    /// `clients_per_address`; default 0, no limit.
    pub clients_per_address: usize,
    /// `logins` under way at once; default 256.
    pub logins: usize,
    /// `login_timeout`; default 30 s.
    pub login_timeout: Duration,
    /// `message`: the longest message of a client in bytes; default 1 GiB, PostgreSQL's own.
    pub message: usize,
    /// `statements`: prepared statements a session may hold; default 10,000.
    pub statements: usize,
    /// `keepalive_idle`, `keepalive_interval`, `keepalive_count`, `tcp_user_timeout`; default 5 s, 2 s, 3, 10 s.
    pub keep_alive: KeepAlive,
    /// `drain_timeout`: how long a stopping proxy waits for open transactions; default 30 s.
    pub drain_timeout: Duration,
}

/// Socket options of clients and backends.
#[derive(Debug, Clone, Copy)]
pub struct KeepAlive {
    /// Idle time before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Probes without an answer.
    pub count: u32,
    /// How long sent bytes may stay without acknowledgement.
    pub user_timeout: Duration,
}

/// `[admin]`
#[derive(Debug, Clone)]
pub struct Admin {
    /// `address` of the HTTP side; none switches it off; default `127.0.0.1:9187`.
    pub address: Option<SocketAddr>,
    /// `users` who may use the console database `pgha`.
    pub users: Vec<String>,
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct Log {
    /// `level`: a filter as of tracing's EnvFilter; default `info`.
    pub level: String,
    /// `format`; default `text`.
    pub format: LogFormat,
}
