//! The local cluster: real etcd, real Patroni and real PostgreSQL members as processes of this machine.
//!
//! [`Cluster::up`] starts it, its methods look at it and break it, [`Cluster::down`] or dropping it ends it. Every
//! program runs under a small keeper (`keeper.py`), which ends all that the program has started when we are gone, were
//! it by `kill -9`. Before each port of a member stands a relay of ours, which is how a member is cut off without root.
//! It is the harness of the tests and what `cluster up` and `demo` start; it knows nothing of the proxy.

mod bootstrap;
mod certificates;
mod control;
mod ending;
mod error;
mod etcd;
mod faults;
mod folder;
mod http;
mod keeper;
mod member;
mod network;
mod options;
mod origin;
mod patroni;
mod ports;
mod processes;
mod relay;
mod runtime;
mod saved;
mod status;
mod wait;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use bootstrap::ROLES_SQL;
pub use certificates::{CERTIFICATE_ROLES, Certificates};
pub use control::{Request, Server, ask, default_dir};
pub use error::Error;
pub use faults::How;
pub use options::{NAMESPACE, Options, SCOPE};
pub use runtime::Runtime;
pub use saved::Secret;
pub use status::{EtcdStatus, MemberStatus, Status};

use folder::Folder;
use keeper::{Keeper, Program};
use member::Member;
use network::Network;
use origin::Origins;
use ports::Port;
use relay::Relays;
use saved::{Passwords, Saved};

/// A running cluster. It ends when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    runtime: Runtime,
    options: Options,
    folder: Folder,
    certificates: Certificates,
    passwords: Passwords,
    members: Vec<Member>,
    etcd: Mutex<Option<Keeper>>,
    etcd_port: u16,
    etcd_peer_port: u16,
    origins: Arc<Origins>,
    relays: Option<Relays>,
    /// The ports of servers, held while the cluster lives.
    _held: Vec<Port>,
}

impl Cluster {
    /// Starts a cluster and waits until its primary takes writes, all replicas stream, and roles, extensions and the
    /// application's database are there. An error, or dropping the future, ends what was started.
    ///
    /// # Errors
    /// [`Error::Missing`] before `make setup`, [`Error::Options`], [`Error::Deadline`] with what was seen last, and
    /// what the system and the programs refuse.
    pub async fn up(options: Options) -> Result<Self, Error> {
        options.check()?;
        let runtime = Runtime::find()?;
        let folder = Folder::open(&options, &runtime)?;
        let saved = Saved::load(folder.path())?;
        let again = saved.passwords.is_some();
        let cluster = Self::lay_out(options, runtime, folder, saved)?;
        cluster.bring_up(again).await?;
        Ok(cluster)
    }

    /// Folders, ports, certificates and relays, nothing running yet.
    fn lay_out(options: Options, runtime: Runtime, folder: Folder, mut saved: Saved) -> Result<Self, Error> {
        if !saved.members.is_empty() && saved.members.len() != options.members {
            let text =
                format!("{} holds a cluster of {} members", folder.path().display(), saved.members.len());
            return Err(Error::Options(text));
        }
        let mut passwords = saved.passwords.take().unwrap_or_else(Passwords::generate);
        if let Some(given) = &options.app_password {
            passwords.app = given.clone();
        }
        let certificates = Certificates::ensure(folder.path().join("certs"), &runtime)?;
        let mut network = Network::new(&options, &saved)?;
        let names = options.names();
        let members: Vec<_> = names
            .iter()
            .zip(&network.members)
            .map(|(name, ports)| Member::new(folder.place(name, *ports, network.etcd)))
            .collect();
        let saved = Saved {
            etcd_port: Some(network.etcd),
            etcd_peer_port: Some(network.etcd_peer),
            members: network.members.clone(),
            passwords: Some(passwords.clone()),
        };
        saved.store(folder.path())?;
        let origins = Arc::<Origins>::default();
        let routes = std::mem::take(&mut network.routes);
        let relays =
            options.relays.then(|| Relays::start(options.members, routes, origins.clone())).transpose()?;
        Ok(Self {
            runtime,
            folder,
            certificates,
            passwords,
            members,
            etcd: Mutex::new(None),
            etcd_port: network.etcd,
            etcd_peer_port: network.etcd_peer,
            origins,
            relays,
            _held: network.held,
            options,
        })
    }

    async fn bring_up(&self, again: bool) -> Result<(), Error> {
        let deadline = wait::Deadline::new(self.options.deadline, self.folder.logs());
        self.start_etcd().await?;
        for number in 0..self.members.len() {
            folder::prepare_member(&self.members[number].place, &self.runtime, &self.configuration(number))?;
            self.start_member(number)?;
        }
        tracing::info!(members = self.members.len(), "waiting for a primary");
        let leader = self.wait_for_leader(&deadline).await?;
        let place = &self.members[leader].place;
        if again {
            self.configure(leader, patroni::START_LOOP_WAIT).await?;
        }
        bootstrap::run(&self.runtime, place, &self.options.app, &self.passwords.app).await?;
        tracing::info!(primary = place.name, "waiting for the replicas to stream");
        self.wait_for_streaming(&deadline).await?;
        self.configure(leader, self.options.loop_wait).await
    }

    async fn configure(&self, member: usize, loop_wait: Duration) -> Result<(), Error> {
        let port = self.members[member].place.api_port;
        patroni::configure(port, &self.passwords.api, &self.options, loop_wait).await
    }

    /// Waits until one member is the primary and all others that run stream from it, one of them synchronously if the
    /// cluster is synchronous.
    ///
    /// # Errors
    /// [`Error::Deadline`] with what was seen last.
    pub async fn wait_ready(&self, deadline: Duration) -> Result<(), Error> {
        self.wait_for_streaming(&wait::Deadline::new(deadline, self.folder.logs())).await
    }

    /// Asks a member's Patroni for something by its REST API, as who may change things: such as `PATCH` `/config`.
    ///
    /// # Errors
    /// [`Error::Patroni`] with its answer when that is no success, [`Error::State`] without such a member.
    pub async fn ask_patroni(
        &self,
        member: &str,
        method: &'static str,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<String, Error> {
        let found = self.members.iter().find(|known| known.place.name == member);
        let found = found.ok_or_else(|| Error::State(format!("no member is called {member}")))?;
        patroni::ask(found.place.api_port, &self.passwords.api, method, path, body).await
    }

    /// The cluster's folder.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// The programs that the cluster runs.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The cluster's certificates.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// What is to be known of the cluster now. Members are asked at the same time, for a second at most.
    pub async fn status(&self) -> Status {
        let reports = self.reports().await;
        let leader = wait::leader(&reports).map(|number| self.members[number].place.name.clone());
        let standbys = wait::leader(&reports).and_then(|number| reports[number].clone()).unwrap_or_default();
        let members = self.members.iter().zip(&reports).enumerate();
        let members = members
            .map(|(number, (member, report))| self.member_status(number, member, report.as_ref(), &standbys))
            .collect();
        let etcd_pid = self.etcd_processes().first().copied();
        let app = &self.options.app;
        Status {
            scope: SCOPE.to_owned(),
            namespace: NAMESPACE.to_owned(),
            dir: self.folder.path().to_path_buf(),
            supervisor_pid: std::process::id(),
            etcd: EtcdStatus {
                endpoints: vec![format!("http://127.0.0.1:{}", self.etcd_port)],
                running: etcd::is_healthy(self.etcd_port).await,
                pid: etcd_pid,
            },
            leader,
            members,
            superuser_dsn: self.dsn(patroni::SUPERUSER, &self.passwords.superuser, "postgres"),
            app: app.clone(),
            app_password: self.passwords.app.clone(),
            app_dsn: self.dsn(app, &self.passwords.app, app),
            ca: self.certificates.ca(),
            client_certificates: CERTIFICATE_ROLES
                .map(|role| (role.to_owned(), self.certificates.role(role)))
                .into_iter()
                .collect(),
            postgres_bin: self.runtime.postgres_bin(),
        }
    }

    fn member_status(
        &self,
        number: usize,
        member: &Member,
        report: Option<&patroni::Report>,
        primary: &patroni::Report,
    ) -> MemberStatus {
        let place = &member.place;
        let running = member.running();
        let frozen = running.all.first().is_some_and(|pid| processes::is_stopped(*pid));
        let silent = if running.all.is_empty() { "down" } else { "unknown" };
        let standby = primary.replication.iter().find(|standby| standby.application_name == place.name);
        MemberStatus {
            name: place.name.clone(),
            role: report.map_or("unknown", |report| report.role.as_str()).to_owned(),
            state: report
                .map_or(if frozen { "frozen" } else { silent }, |report| report.state.as_str())
                .to_owned(),
            synchronous: report.is_some_and(|report| report.sync_standby || report.quorum_standby),
            streaming: standby.is_some_and(|standby| standby.state == "streaming"),
            timeline: report.and_then(|report| report.timeline),
            partitioned: self.relays.as_ref().is_some_and(|relays| relays.is_cut(number)),
            host: "127.0.0.1".to_owned(),
            port: place.public_postgres_port,
            direct_port: place.postgres_port,
            api_url: format!("http://127.0.0.1:{}/patroni", place.public_api_port),
            patroni_pid: running.patroni,
            postgres_pid: running.postgres,
            pids: running.all,
            data_dir: place.data_dir.clone(),
            socket_dir: place.socket_dir.clone(),
            log: place.log.clone(),
        }
    }

    fn dsn(&self, user: &str, password: &Secret, database: &str) -> Secret {
        let hosts: Vec<_> = self
            .members
            .iter()
            .map(|member| format!("127.0.0.1:{}", member.place.public_postgres_port))
            .collect();
        let (hosts, password) = (hosts.join(","), password.reveal());
        format!("postgresql://{user}:{password}@{hosts}/{database}?target_session_attrs=read-write").into()
    }

    fn configuration(&self, number: usize) -> serde_json::Value {
        let place = &self.members[number].place;
        patroni::configuration(place, &self.options, &self.runtime, &self.certificates, &self.passwords)
    }

    /// Starts a member's Patroni under a new keeper.
    fn start_member(&self, number: usize) -> Result<(), Error> {
        let member = &self.members[number];
        let command = vec![
            self.runtime.python(),
            PathBuf::from("-m"),
            PathBuf::from("patroni"),
            member.place.configuration(),
        ];
        let program = Program {
            dir: self.folder.path(),
            command,
            pgdata: Some(&member.place.data_dir),
            log: member.place.log.clone(),
            remove: !self.options.keep,
        };
        let keeper = Keeper::start(&self.runtime, &program)?;
        member.keepers().push(keeper);
        self.origins.set(number, member.keeper_pids());
        Ok(())
    }

    fn etcd_keeper(&self) -> std::sync::MutexGuard<'_, Option<Keeper>> {
        self.etcd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn etcd_processes(&self) -> Vec<u32> {
        self.etcd_keeper().as_ref().map(Keeper::descendants).unwrap_or_default()
    }
}
