//! Builds everything, hands it down; signals, drain.
//!
//! The one place that knows all parts. One thread a worker, each a single-threaded runtime with its sessions, the first with the
//! listener too; the control path and HTTP on a runtime of their own.

mod catalogs;
mod console;
mod record;
mod roles;
mod threads;
mod views;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use self::catalogs::Sources;
use self::console::{Admins, Desk};
use self::record::Record;
use self::roles::RoleTls;
use self::threads::Crew;
use crate::admin;
use crate::client::{
    Busyness, CancelKeys, ClientLimits, Configured, Counters, HandshakeConfig, Incoming, ListenLimits,
    Listener, Reception, Rules, Turns, Verifiers, VerifiersConfig, Worker as Seat,
};
use crate::config::{Config, Quota, TlsMode};
use crate::control::{self, Control};
use crate::metrics::Metrics;
use crate::net::tls::{ClientTls, ServerTls};
use crate::session::{Catalogs, Mail, Parts, Shared};
use crate::sql::Functions;

/// Mail that a worker may have unread.
const MAILBOX: usize = 4096;
/// Connections that a worker may not have taken up yet.
const ARRIVALS: usize = 1024;
/// Roles whose verifiers are kept.
const ROLES: usize = 10_000;
/// How long a verifier serves when no primary can be asked.
const STALE_VERIFIER: Duration = Duration::from_secs(24 * 3600);

/// Takes a new `log.level` up.
pub type SetLevel = Box<dyn Fn(&str) + Send + Sync>;

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    addresses: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    shared: Arc<Shared>,
    crew: Crew,
    control: Option<Control>,
    /// Ends HTTP with it.
    runtime: Option<Runtime>,
    drain: Duration,
    /// The first worker takes connections while this is here.
    accepting: Option<oneshot::Sender<()>>,
    reload: Reloading,
}

/// What SIGHUP and `POST /reload` do.
struct Reloading(admin::Reload);

impl std::fmt::Debug for Reloading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reloading")
    }
}

impl Proxy {
    /// Starts the proxy in this process and returns when it takes connections. `path` is read again for a reload, and
    /// `set_level` then takes `log.level` up.
    ///
    /// # Errors
    /// What kept it from starting.
    pub fn start(config: Config, path: &Path, set_level: SetLevel) -> anyhow::Result<Self> {
        let config = Arc::new(config);
        let runtime = control_runtime()?;
        let entered = runtime.enter();
        let role_tls = RoleTls::new(&config)?;
        let (metrics, worker_metrics) = Metrics::new(config.listen.workers)?;
        let control = control::start(
            &config.topology,
            &config.routing,
            &config.failover,
            roles::monitor(&config, &role_tls)?,
        )?;
        let (shared, mail) = shared(&config, &control, &metrics, &role_tls)?;
        let handshake = Arc::new(ArcSwap::from_pointee(handshake(&config)?));
        let verifiers = Arc::new(verifiers(&config, &control, &role_tls)?);
        let (seats, arrivals): (Vec<_>, Vec<_>) = shared.busyness.iter().map(seat).unzip();
        let admins = Arc::new(ArcSwap::from_pointee(config.admin.users.clone()));
        console::keep_verifiers(&verifiers, &admins, control.topology.clone());
        let live = Live {
            handshake: Arc::clone(&handshake),
            verifiers: Arc::clone(&verifiers),
            admins,
            shared: Arc::clone(&shared),
        };
        let reload = reloader(path.to_owned(), role_tls, live.clone(), set_level);
        let record = Record::follow(&shared, control.transitions.clone(), control.topology.clone());
        let console = Desk::new(live, &record, &reload);
        let door = threads::Door {
            handshake: Arc::clone(&handshake),
            verifiers,
            logins: metrics.logins.clone(),
            console,
        };
        let listener =
            Listener::bind(&config.listen.addresses, config.listen.backlog, &config.limits.keep_alive)
                .with_context(|| format!("listen.address: {}", join(&config.listen.addresses)))?;
        let addresses = listener.addresses();
        let reception = Reception {
            limits: listen_limits(&config),
            counters: Arc::new(Counters::default()),
            workers: seats,
            handshake,
            cancel_keys: Arc::clone(&shared.cancels),
        };
        let (accepting, stopped) = oneshot::channel();
        let entrance = threads::Entrance { listener, reception, stopped };
        let crew = Crew::start(&shared, &door, entrance, worker_metrics, mail, arrivals)?;
        let admin = views::serve(&config, metrics, &control, &shared, &crew, &record, Arc::clone(&reload))?;
        drop(entered);
        tracing::info!(listen = %join(&addresses), workers = config.listen.workers, "pg-ha-proxy takes connections");
        Ok(Self {
            addresses,
            admin,
            shared,
            crew,
            control: Some(control),
            runtime: Some(runtime),
            drain: config.limits.drain_timeout,
            accepting: Some(accepting),
            reload: Reloading(reload),
        })
    }

    /// Where clients connect: the ports as bound, where the configuration said 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the HTTP side answers, if it does.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// What the sessions share, for a look from outside.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Takes no more clients, lets open transactions end, and returns when all is closed.
    ///
    /// # Errors
    /// What went wrong on the way.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.accepting = None;
        for worker in 0..self.shared.workers() {
            self.shared.post(worker, Mail::Drain { now: false });
        }
        let deadline = Instant::now() + self.drain;
        while self.crew.sessions() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        for worker in 0..self.shared.workers() {
            self.shared.post(worker, Mail::Drain { now: true });
        }
        self.crew.join();
        if let (Some(control), Some(runtime)) = (self.control.take(), self.runtime.take()) {
            runtime.block_on(control.shutdown());
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
        Ok(())
    }
}

/// Runs the proxy until SIGTERM or SIGINT, taking up the file anew at SIGHUP; the rest as [`Proxy::start`].
///
/// # Errors
/// What kept it from starting.
pub fn run(config: Config, path: &Path, set_level: SetLevel) -> anyhow::Result<()> {
    let proxy = Proxy::start(config, path, set_level)?;
    if let Some(runtime) = &proxy.runtime {
        runtime.block_on(told_to_stop(&proxy.reload.0)).context("waiting for a signal")?;
    }
    tracing::info!("stopping: no new clients, open transactions end");
    proxy.stop()
}

/// Waits for SIGTERM or SIGINT; reads the configuration again at each SIGHUP.
async fn told_to_stop(reload: &admin::Reload) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => {
                let reload = Arc::clone(reload);
                match tokio::task::spawn_blocking(move || reload()).await {
                    Ok(Ok(done)) => tracing::info!("the configuration is {done}"),
                    Ok(Err(error)) => tracing::error!(%error, "the configuration stays as it was"),
                    Err(_panicked) => tracing::error!("the reload failed"),
                }
            }
        }
    }
}

/// One thread for all that is not a worker's.
fn control_runtime() -> anyhow::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).thread_name("control").enable_all();
    builder.build().context("starting the control runtime")
}

/// What the sessions share, and each worker's mail.
fn shared(
    config: &Arc<Config>,
    control: &Control,
    metrics: &Metrics,
    role_tls: &RoleTls,
) -> anyhow::Result<(Arc<Shared>, Vec<mpsc::Receiver<Mail>>)> {
    let workers = 0..config.listen.workers;
    let (mailboxes, mail): (Vec<_>, Vec<_>) = workers.map(|_| mpsc::channel::<Mail>(MAILBOX)).unzip();
    let suspects = control.suspects.clone();
    let shared = Shared::new(Parts {
        topology: control.topology.clone(),
        positions: Arc::clone(&control.positions),
        catalogs: catalogs(config, control, metrics, role_tls)?,
        backend_tls: ClientTls::new(&config.tls, None)?,
        panics: metrics.panics.clone(),
        cancels: Arc::new(CancelKeys::default()),
        suspect: Box::new(move |member| suspects.tell(member)),
        busyness: mailboxes.iter().map(|_| Arc::default()).collect(),
        mailboxes,
        config: Arc::clone(config),
    });
    Ok((shared, mail))
}

/// A worker's place at the acceptor, and where its clients arrive.
fn seat(busy: &Arc<Busyness>) -> (Seat, mpsc::Receiver<Incoming>) {
    let (incoming, arrivals) = mpsc::channel(ARRIVALS);
    (Seat { incoming, busy: Arc::clone(busy) }, arrivals)
}

fn functions(config: &Config) -> Functions {
    let routing = &config.routing;
    Functions::builtin().with_config(
        routing.read_only_functions.iter().map(String::as_str),
        routing.primary_functions.iter().map(String::as_str),
    )
}

/// What is known of the databases, followed on the runtime it is called in.
fn catalogs(
    config: &Config,
    control: &Control,
    metrics: &Metrics,
    tls: &RoleTls,
) -> anyhow::Result<Catalogs> {
    let metrics = Arc::clone(&metrics.routing);
    let (catalogs, wanted) = Catalogs::new(functions(config), config.routing.learnt, Arc::clone(&metrics));
    let (login, topology) = (roles::monitor(config, tls)?, control.topology.clone());
    let interval = config.routing.catalog_interval;
    catalogs::follow(Sources { login, topology, interval, metrics }, wanted);
    Ok(catalogs)
}

fn handshake(config: &Config) -> anyhow::Result<HandshakeConfig> {
    Ok(HandshakeConfig {
        tls: ServerTls::new(&config.tls)?,
        require_tls: !matches!(config.tls.client_mode, TlsMode::Disable | TlsMode::Prefer),
        rules: Rules::new(&config.hba, &config.ident_map),
        limits: ClientLimits {
            users: client_limits(&config.user_quotas),
            databases: client_limits(&config.databases),
        },
        login_timeout: config.limits.login_timeout,
        logins: Arc::new(Turns::new(config.limits.logins)),
    })
}

fn client_limits(quotas: &BTreeMap<String, Quota>) -> HashMap<String, u32> {
    quotas.iter().filter_map(|(name, quota)| Some((name.clone(), quota.clients?))).collect()
}

fn listen_limits(config: &Config) -> ListenLimits {
    ListenLimits { clients: config.limits.clients, clients_per_address: config.limits.clients_per_address }
}

fn verifiers(config: &Config, control: &Control, tls: &RoleTls) -> anyhow::Result<Verifiers> {
    let secret = match &config.auth.cluster_secret_file {
        Some(path) => {
            std::fs::read(path).with_context(|| format!("auth.cluster_secret_file: {}", path.display()))?
        }
        None => rand::random::<[u8; 32]>().to_vec(),
    };
    let lookup = roles::lookup(config, tls, control.topology.clone())?;
    let settings = VerifiersConfig {
        ttl: config.auth.cache_ttl,
        stale: STALE_VERIFIER,
        timeout: config.auth.lookup_timeout,
        capacity: ROLES,
        cluster_secret: secret.into(),
    };
    Ok(Verifiers::new(configured(config)?, lookup, settings))
}

fn configured(config: &Config) -> anyhow::Result<Configured> {
    Configured::new(&config.users).map_err(|(user, error)| anyhow::anyhow!("[[users]] {user}: {error}"))
}

/// What a reload changes.
#[derive(Clone)]
struct Live {
    handshake: Arc<ArcSwap<HandshakeConfig>>,
    verifiers: Arc<Verifiers>,
    admins: Admins,
    shared: Arc<Shared>,
}

/// What a reload does: everything that can change without a restart, or nothing.
fn reloader(path: PathBuf, role_tls: RoleTls, live: Live, set_level: SetLevel) -> admin::Reload {
    let set_level = Arc::new(set_level);
    Arc::new(move || {
        let reload = || -> anyhow::Result<String> {
            let config = crate::config::reload(&path)?;
            let handshake = handshake(&config)?;
            let backend_tls = ClientTls::new(&config.tls, None)?;
            let users = configured(&config)?;
            role_tls.renew(&config)?;
            live.verifiers.configure(users);
            live.handshake.store(Arc::new(handshake));
            live.admins.store(Arc::new(config.admin.users.clone()));
            live.shared.backend_tls.store(Arc::new(backend_tls));
            live.shared.catalogs.rebase(functions(&config));
            set_level(&config.log.level);
            let waiting = crate::config::needs_restart(&live.shared.config, &config);
            Ok(if waiting.is_empty() {
                "reloaded".to_owned()
            } else {
                format!("reloaded; these take effect at the next start: {}", waiting.join(", "))
            })
        };
        reload().map_err(|error| format!("{error:#}"))
    })
}

fn join(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
