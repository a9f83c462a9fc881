//! Patroni: a member's configuration, and what its REST API is asked.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::certificates::{CERTIFICATE_ROLES, Certificates};
use super::http::{Answer, Request};
use super::member::Place;
use super::options::{NAMESPACE, Options, SCOPE};
use super::saved::Passwords;
use super::{Error, Runtime, Secret};

/// The script that lets open transactions end at a switchover, written into the cluster's folder when it is made.
pub(super) const BEFORE_STOP_SOURCE: &str = include_str!("before_stop.py");
/// Its name there.
pub(super) const BEFORE_STOP: &str = "before_stop.py";

/// PostgreSQL's superuser, made by initdb.
pub(super) const SUPERUSER: &str = "postgres";
const REPLICATION_USER: &str = "replicator";
const API_USER: &str = "patroni";
/// Patroni's `loop_wait` while the cluster starts: slots and synchronous standbys are seen to once a loop.
pub(super) const START_LOOP_WAIT: Duration = Duration::from_secs(1);

/// A member's `patroni.yml`. JSON, which is YAML too.
pub(super) fn configuration(
    place: &Place,
    options: &Options,
    runtime: &Runtime,
    certificates: &Certificates,
    passwords: &Passwords,
) -> Value {
    let address = |port: u16| format!("127.0.0.1:{port}");
    let role = |name: &str, password: &Secret| json!({"username": name, "password": password.reveal()});
    json!({
        "scope": SCOPE,
        "namespace": NAMESPACE,
        "name": place.name,
        "restapi": {
            "listen": address(place.api_port),
            "connect_address": address(place.public_api_port),
            "authentication": role(API_USER, &passwords.api),
        },
        // "use_proxies": only this address, not those that etcd advertises, which lead around the relay.
        "etcd3": {"hosts": [address(place.etcd_port)], "use_proxies": true},
        "bootstrap": {
            "dcs": dynamic(options, START_LOOP_WAIT),
            "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
        },
        "postgresql": {
            "listen": address(place.postgres_port),
            "connect_address": address(place.public_postgres_port),
            "data_dir": place.data_dir,
            "bin_dir": runtime.postgres_bin(),
            "pgpass": place.dir.join("pgpass"),
            "use_unix_socket": true,
            "basebackup": [{"checkpoint": "fast"}],
            "before_stop": before_stop(place, runtime),
            "authentication": {
                "superuser": role(SUPERUSER, &passwords.superuser),
                "replication": role(REPLICATION_USER, &passwords.replication),
            },
            "parameters": local_parameters(place, options, certificates),
            "pg_hba": hba(),
        },
        "tags": options.tags.get(&place.name).cloned().unwrap_or_default(),
        "watchdog": {"mode": "off"},
    })
}

/// What Patroni runs before it stops PostgreSQL. The configuration's path is no argument by itself: by that the Patroni of a
/// member is known.
fn before_stop(place: &Place, runtime: &Runtime) -> String {
    let quoted = |path: &std::path::Path| format!("'{}'", path.display());
    let script = place.dir.with_file_name(BEFORE_STOP);
    let configuration = quoted(&place.configuration());
    let seconds = "--seconds=10";
    format!("{} -I {} --configuration={configuration} {seconds}", quoted(&runtime.python()), quoted(&script))
}

/// What Patroni keeps in etcd for all members.
fn dynamic(options: &Options, loop_wait: Duration) -> Value {
    json!({
        "ttl": options.ttl.as_secs(),
        "loop_wait": loop_wait.as_secs(),
        "retry_timeout": options.retry_timeout.as_secs(),
        "maximum_lag_on_failover": 1_048_576,
        "synchronous_mode": options.synchronous,
        "failsafe_mode": options.failsafe,
        "postgresql": {"use_pg_rewind": true, "use_slots": true, "parameters": parameters(options)},
    })
}

fn parameters(options: &Options) -> BTreeMap<String, String> {
    let built_in = [
        ("wal_level", "logical"),
        ("hot_standby", "on"),
        ("wal_log_hints", "on"),
        ("wal_retrieve_retry_interval", "1s"),
        ("max_connections", "200"),
        ("max_wal_senders", "20"),
        ("max_replication_slots", "20"),
        ("password_encryption", "scram-sha-256"),
        ("shared_preload_libraries", "vector,pg_stat_statements"),
    ];
    let mut all: BTreeMap<_, _> = built_in.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    all.extend(options.parameters.clone());
    all
}

fn local_parameters(place: &Place, options: &Options, certificates: &Certificates) -> Map<String, Value> {
    let (certificate, key) = certificates.server();
    let own = [
        ("unix_socket_directories", json!(place.socket_dir)),
        ("ssl", json!("on")),
        ("ssl_ca_file", json!(certificates.ca())),
        ("ssl_cert_file", json!(certificate)),
        ("ssl_key_file", json!(key)),
        // Files in the data folder, which go with it: what a killed server leaves in /dev/shm stays for good.
        ("dynamic_shared_memory_type", json!("mmap")),
    ];
    let mut all: Map<_, _> = own.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
    let given = options.member_parameters.get(&place.name).into_iter().flatten();
    all.extend(given.map(|(name, value)| (name.clone(), json!(value))));
    all
}

/// The socket is in a folder that only the members' user can enter. Over TCP a password or a certificate is needed.
fn hba() -> Vec<String> {
    let roles = CERTIFICATE_ROLES.join(",");
    vec![
        "local all all trust".to_owned(),
        format!("hostssl all {roles} 127.0.0.1/32 cert"),
        format!("host all {roles} all reject"),
        "host replication all 127.0.0.1/32 scram-sha-256".to_owned(),
        "host all all 127.0.0.1/32 scram-sha-256".to_owned(),
    ]
}

/// What a member's Patroni says of it; only what is used here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Report {
    pub(super) role: String,
    pub(super) state: String,
    pub(super) timeline: Option<u64>,
    pub(super) sync_standby: bool,
    pub(super) quorum_standby: bool,
    pub(super) replication_state: Option<String>,
    pub(super) replication: Vec<Standby>,
}

/// A standby as its primary sees it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Standby {
    pub(super) application_name: String,
    pub(super) state: String,
}

impl Report {
    /// Whether it says that it is the primary and runs.
    pub(super) fn is_running_primary(&self) -> bool {
        matches!(self.role.as_str(), "primary" | "master") && self.state == "running"
    }
}

/// Asks a member's Patroni for its report; `None` when it does not answer within a second.
pub(super) async fn report(api_port: u16) -> Option<Report> {
    let answer = Request::get(api_port, "/patroni").send().await.ok()?;
    serde_json::from_str(&answer.body).ok()
}

/// Hands the lead over and waits for Patroni's answer. A member that may not be the target of a switchover, because it
/// is not the synchronous standby, is made leader by Patroni's manual failover, which hands over in order too.
pub(super) async fn switchover(
    api_port: u16,
    api: &Secret,
    leader: &str,
    to: Option<&str>,
) -> Result<(), Error> {
    let first = post(api_port, api, "/switchover", &json!({"leader": leader, "candidate": to})).await?;
    let asynchronous = first.status == 412 && first.body.contains("sync_standby");
    let answer = match to {
        Some(to) if asynchronous => post(api_port, api, "/failover", &json!({"candidate": to})).await?,
        _ => first,
    };
    match answer.status {
        200 | 202 => Ok(()),
        status => {
            Err(Error::Patroni { status, body: answer.body.lines().next().unwrap_or_default().to_owned() })
        }
    }
}

/// Asks a member's Patroni for something, logged in, and gives what it says.
pub(super) async fn ask(
    port: u16,
    api: &Secret,
    method: &'static str,
    path: &str,
    body: &Value,
) -> Result<String, Error> {
    let (login, body) = (Some((API_USER, api.reveal())), body.to_string());
    let request = Request { method, port, path, login, body: &body, deadline: Duration::from_secs(90) };
    let answer = request.send().await.map_err(Error::io(format!("Patroni's API on port {port}")))?;
    match answer.status {
        200 | 202 => Ok(answer.body),
        status => Err(Error::Patroni { status, body: answer.body }),
    }
}

async fn post(port: u16, api: &Secret, path: &str, body: &Value) -> Result<Answer, Error> {
    let login = Some((API_USER, api.reveal()));
    let body = body.to_string();
    let request =
        Request { method: "POST", port, path, login, body: &body, deadline: Duration::from_secs(90) };
    request.send().await.map_err(Error::io(format!("Patroni's API on port {port}")))
}

/// Brings what Patroni keeps in etcd in line with the options, but for its `loop_wait`.
pub(super) async fn configure(
    api_port: u16,
    api: &Secret,
    options: &Options,
    loop_wait: Duration,
) -> Result<(), Error> {
    ask(api_port, api, "PATCH", "/config", &dynamic(options, loop_wait)).await.map(drop)
}
