//! A cluster with the proxy before it, and what is done to them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pg_ha_proxy::cluster::{Cluster, How, Options, Runtime, Status};
use tokio_postgres::{Config, NoTls};

use crate::journal::{Journal, now};
use crate::plan::{Fault, Planned, Victim};
use crate::proxy::Proxy;

/// How long a cluster may take to be whole again, on a busy machine.
const WHOLE_AGAIN: Duration = Duration::from_secs(120);
/// Writes that have to be acknowledged after a fault before it counts as over.
const PROOF: usize = 20;

const TABLES: &str = "
    CREATE TABLE ledger (id bigint NOT NULL, part int NOT NULL, client text NOT NULL);
    CREATE INDEX ON ledger (id);
    CREATE TABLE probe (n bigint NOT NULL);
    INSERT INTO probe VALUES (0);
    CREATE TABLE items (id int PRIMARY KEY, v vector(3));
    INSERT INTO items SELECT n, ARRAY[n, n % 7, n % 11]::vector(3) FROM generate_series(1, 200) n;";

/// How the application logs in on a port of the loopback.
pub(crate) fn application(status: &Status, port: u16) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user(&status.app).dbname(&status.app);
    config.password(status.app_password.reveal()).connect_timeout(Duration::from_secs(5));
    config
}

/// A fault that was done, and how long it lasted.
#[derive(Debug, Clone)]
pub(crate) struct Struck {
    pub(crate) fault: Fault,
    pub(crate) member: String,
    pub(crate) begun: f64,
    /// When the cluster was whole and writes went on.
    pub(crate) over: f64,
}

/// Cluster and proxy.
pub(crate) struct Stage {
    pub(crate) proxy: Proxy,
    pub(crate) cluster: Cluster,
    /// What the run leaves behind.
    pub(crate) folder: PathBuf,
    dsn: String,
}

impl Stage {
    /// Starts both, with tables; `name` is the folder's under `target`.
    pub(crate) async fn set(name: &str, failsafe: bool) -> Self {
        let parameters = [("log_statement", "mod"), ("log_line_prefix", "%n %p ")];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let options = Options { failsafe, parameters, ..Options::quick() };
        let cluster = Cluster::up(options).await.expect("a cluster");
        let status = cluster.status().await;
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos").join(name);
        // Of an earlier run.
        let _none = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        let proxy = Proxy::start(&status, &folder).await;
        let (client, connection) =
            application(&status, proxy.port).connect(NoTls).await.expect("a login through the proxy");
        let driver = tokio::spawn(connection);
        client.batch_execute(TABLES).await.expect("tables");
        drop(client);
        driver.await.expect("joined").expect("a good end");
        let (app, password) = (&status.app, status.app_password.reveal());
        let dsn = format!("postgresql://{app}:{password}@127.0.0.1:{}/{app}", proxy.port);
        Self { proxy, cluster, folder, dsn }
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        self.cluster.runtime()
    }

    /// Ends the proxy, then the cluster.
    pub(crate) async fn end(self) {
        drop(self.proxy);
        self.cluster.down().await.expect("an end");
    }

    /// How the application connects through the proxy, as a URL.
    pub(crate) fn dsn(&self) -> &str {
        &self.dsn
    }

    /// Does a fault and waits until all is well again.
    pub(crate) async fn strike(&mut self, planned: Planned, journal: &Journal) -> Struck {
        tokio::time::sleep(Duration::from_millis(planned.pause_ms)).await;
        let status = self.cluster.status().await;
        let leader = status.leader.clone().expect("a leader");
        let member = match planned.victim {
            Victim::Leader => leader.clone(),
            Victim::Replica => status.replicas().next().expect("a replica").name.clone(),
        };
        let begun = now();
        eprintln!("chaos: {} ({member}, leader {leader})", planned.fault);
        self.do_to(planned, &member, &status).await;
        self.until_whole(journal).await;
        let over = now();
        eprintln!("chaos: {} over after {:.1} s", planned.fault, over - begun);
        Struck { fault: planned.fault, member, begun, over }
    }

    async fn do_to(&mut self, planned: Planned, member: &str, status: &Status) {
        let cluster = &self.cluster;
        let kill = async |how| cluster.kill(member, how).await.expect("a fault");
        match planned.fault {
            Fault::KillPostgres => kill(How::Postgres).await,
            Fault::KillMember => {
                kill(How::Member).await;
                self.let_it_tell(planned, member).await;
                kill(How::Start).await;
            }
            Fault::Freeze => {
                kill(How::Freeze).await;
                self.let_it_tell(planned, member).await;
                kill(How::Thaw).await;
            }
            Fault::Partition => {
                kill(How::Partition).await;
                self.let_it_tell(planned, member).await;
                kill(How::Heal).await;
            }
            Fault::Switchover => {
                if let Err(error) = cluster.switchover(None).await {
                    self.keep_logs().await;
                    panic!("a switchover: {error}; see {}", self.folder.display());
                }
            }
            Fault::EtcdDown => {
                cluster.stop_etcd().await.expect("etcd's end");
                tokio::time::sleep(Duration::from_millis(planned.outage_ms)).await;
                cluster.start_etcd().await.expect("etcd");
            }
            Fault::EtcdCompact => {
                cluster.stop_etcd().await.expect("etcd's end");
                cluster.start_etcd().await.expect("etcd");
                cluster.compact_etcd().await.expect("a compaction");
            }
            Fault::ProxyRestart => self.proxy.restart(status).await,
        }
    }

    /// Leaves a replica in its state for the outage's time, a leader until another leads.
    async fn let_it_tell(&self, planned: Planned, member: &str) {
        if planned.victim == Victim::Replica {
            tokio::time::sleep(Duration::from_millis(planned.outage_ms)).await;
        }
        self.until_another_leads(member).await;
    }

    /// Waits until a member other than this one is the primary, by its own Patroni's word.
    async fn until_another_leads(&self, member: &str) {
        let end = Instant::now() + WHOLE_AGAIN;
        loop {
            let status = self.cluster.status().await;
            let others = status.members.iter().filter(|other| other.name != member);
            if others.into_iter().any(|other| other.role == "primary" && other.state == "running") {
                return;
            }
            assert!(Instant::now() < end, "no other leader than {member}: {status:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn until_whole(&self, journal: &Journal) {
        if let Err(error) = self.cluster.wait_ready(WHOLE_AGAIN).await {
            self.keep_logs().await;
            panic!("{error}");
        }
        let (end, before) = (Instant::now() + WHOLE_AGAIN, journal.acknowledged());
        while journal.acknowledged() < before + PROOF {
            if Instant::now() > end {
                self.keep_logs().await;
                panic!("no writes though the cluster is whole; see {}", self.folder.display());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Copies the members' logs, and what the proxy says of itself, beside the proxy's log.
    pub(crate) async fn keep_logs(&self) {
        for member in self.cluster.status().await.members {
            std::fs::copy(&member.log, self.folder.join(format!("{}.log", member.name))).expect("a log");
        }
        for path in ["topology", "failovers", "pools", "metrics"] {
            let text = self.proxy.ask(&format!("/{path}")).await;
            std::fs::write(self.folder.join(format!("{path}.txt")), text).expect("a file");
        }
    }
}
