//! The proxy as a process of its own, so that a crash is seen.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pg_ha_proxy::cli::demo::proxy_toml;
use pg_ha_proxy::cluster::Status;

/// A running proxy; dropping it kills it.
pub(crate) struct Proxy {
    child: Mutex<Child>,
    pub(crate) port: u16,
    admin: u16,
    pub(crate) configuration: PathBuf,
    log: PathBuf,
}

impl Proxy {
    /// Starts a proxy before a cluster and waits until it has a primary and all replicas. `configuration` is laid over the one
    /// that `demo` would write.
    pub(crate) fn start(status: &Status, configuration: &str) -> Self {
        let proxy = Self::launch(status, configuration);
        let expected = format!("{{\"primary\":true,\"replicas\":{}}}", status.members.len() - 1);
        proxy.until("all members", |proxy| proxy.get("/readyz").ends_with(&expected));
        proxy
    }

    /// Starts it and waits for nothing.
    pub(crate) fn launch(status: &Status, configuration: &str) -> Self {
        let (port, admin) = (free_port(), free_port());
        let loopback = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let text = proxy_toml(status, loopback(port), loopback(admin));
        let mut table: toml::Table = text.parse().expect("demo's file");
        lay_over(&mut table, configuration.parse().expect("TOML"));
        // In the cluster's folder, which goes with it.
        let path = status.dir.join(format!("proxy-{port}.toml"));
        std::fs::write(&path, table.to_string()).expect("a file");
        let log = path.with_extension("log");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_pg-ha-proxy"), "run", "--config"]);
        command.arg(&path).stderr(std::fs::File::create(&log).expect("a file"));
        let child = Mutex::new(spawn(command));
        Self { child, port, admin, configuration: path, log }
    }

    /// Waits until something holds.
    pub(crate) fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !holds(self) {
            let ended = self.child().try_wait().expect("its state");
            assert!(ended.is_none(), "the proxy ended ({ended:?}): {}", self.log());
            assert!(Instant::now() < end, "{what}: {} {}", self.get("/topology"), self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What its HTTP side answers; empty when it doesn't.
    pub(crate) fn get(&self, path: &str) -> String {
        self.http("GET", path).unwrap_or_default()
    }

    /// Sends a POST without a body; the answer with its head.
    pub(crate) fn post(&self, path: &str) -> String {
        self.http("POST", path).expect("an answer")
    }

    fn http(&self, method: &str, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// The sum of a metric over all lines that begin with `name` and hold `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.get("/metrics");
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// It runs, and none of its sessions has panicked.
    pub(crate) fn assert_healthy(&self) {
        assert!(self.child().try_wait().expect("its state").is_none(), "the proxy ended: {}", self.log());
        assert!(self.get("/metrics").contains("pgha_panics_total 0"), "{}", self.log());
    }

    /// What it wrote to standard error.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its resident memory, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child().id())).expect("/proc");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child().id() as i32), signal).expect("a signal");
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        self.child().try_wait().expect("its state")
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    #[expect(clippy::print_stderr, reason = "shown with the failed test")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ask = |path| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.get(path)));
            for path in ["/topology", "/pools", "/sessions"] {
                eprintln!("the proxy's {path}: {}", ask(path).unwrap_or_default());
            }
            eprintln!("the proxy's log:\n{}", self.log());
        }
        let mut child = self.child();
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Puts every key of `over` into `table`.
fn lay_over(table: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(value)) => lay_over(under, value),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

/// A port below those that Linux gives to outgoing connections and below those of the local clusters.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 50) as u16 * 100;
    for _ in 0..1000 {
        let port = first + NEXT.fetch_add(1, Relaxed) % 100;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {first} on is free")
}

/// Starts a program from a thread that lives as long as this process: the kernel counts the death of the thread that started it,
/// and those of single tests end.
fn spawn(command: Command) -> Child {
    type Order = (Command, mpsc::SyncSender<std::io::Result<Child>>);
    static STARTER: LazyLock<mpsc::SyncSender<Order>> = LazyLock::new(|| {
        let (send, orders) = mpsc::sync_channel::<Order>(1);
        std::thread::spawn(move || {
            for (mut command, answer) in orders {
                drop(answer.send(command.spawn()));
            }
        });
        send
    });
    let (answer, child) = mpsc::sync_channel(1);
    STARTER.send((command, answer)).expect("the thread lives");
    child.recv().expect("the thread lives").expect("the proxy starts")
}
