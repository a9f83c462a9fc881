//! What is to be known of a running cluster, as a value that can be written as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Secret;

/// A cluster at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Patroni's scope.
    pub scope: String,
    /// Patroni's namespace.
    pub namespace: String,
    /// The cluster's folder.
    pub dir: PathBuf,
    /// The process that holds the cluster.
    pub supervisor_pid: u32,
    /// etcd.
    pub etcd: EtcdStatus,
    /// The member that says it is the running primary; of several the one on the highest timeline.
    pub leader: Option<String>,
    /// The members in order.
    pub members: Vec<MemberStatus>,
    /// How a superuser connects to whichever member is the primary.
    pub superuser_dsn: Secret,
    /// The application's role, which is also the name of its database.
    pub app: String,
    /// The application's password.
    pub app_password: Secret,
    /// How the application connects to whichever member is the primary.
    pub app_dsn: Secret,
    /// The certificate of the authority that signed the servers' and the clients' certificates.
    pub ca: PathBuf,
    /// For each role that logs in by certificate, the certificate and the key.
    pub client_certificates: BTreeMap<String, (PathBuf, PathBuf)>,
    /// PostgreSQL's programs: psql, pgbench and the rest.
    pub postgres_bin: PathBuf,
}

/// etcd at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EtcdStatus {
    /// Its addresses for clients, as URLs.
    pub endpoints: Vec<String>,
    /// Whether it answers.
    pub running: bool,
    /// Its process.
    pub pid: Option<u32>,
}

/// A member at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Patroni's word for its role; `unknown` when its Patroni does not answer.
    pub role: String,
    /// Patroni's word for its state; `down` without any process, `frozen`, or `unknown`.
    pub state: String,
    /// Whether the primary counts on it before it acknowledges a commit.
    pub synchronous: bool,
    /// For a replica, whether its WAL comes by streaming.
    pub streaming: bool,
    /// PostgreSQL's timeline.
    pub timeline: Option<u64>,
    /// Whether it is cut off.
    pub partitioned: bool,
    /// The address of PostgreSQL that Patroni publishes.
    pub host: String,
    /// Its port; the relay's, where there are relays.
    pub port: u16,
    /// PostgreSQL's own port, which no partition reaches.
    pub direct_port: u16,
    /// Patroni's REST API as published.
    pub api_url: String,
    /// Patroni's process.
    pub patroni_pid: Option<u32>,
    /// PostgreSQL's first process.
    pub postgres_pid: Option<u32>,
    /// Every process of the member.
    pub pids: Vec<u32>,
    /// PostgreSQL's data folder.
    pub data_dir: PathBuf,
    /// The folder of its Unix socket, where the superuser needs no password.
    pub socket_dir: PathBuf,
    /// What its Patroni and its PostgreSQL wrote.
    pub log: PathBuf,
}

impl Status {
    /// The member of this name.
    pub fn member(&self, name: &str) -> Option<&MemberStatus> {
        self.members.iter().find(|member| member.name == name)
    }

    /// The members that are not the leader.
    pub fn replicas(&self) -> impl Iterator<Item = &MemberStatus> {
        self.members.iter().filter(|member| self.leader.as_ref() != Some(&member.name))
    }
}
