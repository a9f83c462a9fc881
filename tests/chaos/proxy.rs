//! The proxy as a process of its own.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pg_ha_proxy::cli::demo::proxy_toml;
use pg_ha_proxy::cluster::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stage::application;

const START_DEADLINE: Duration = Duration::from_secs(20);

/// The process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    child: Child,
    config: PathBuf,
    log: PathBuf,
    pub(crate) port: u16,
    pub(crate) admin_port: u16,
}

impl Proxy {
    /// Starts it before a cluster, its files in `dir`, and waits until it serves.
    pub(crate) async fn start(status: &Status, dir: &Path) -> Self {
        let (port, admin_port) = (free_port(), free_port());
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let text = proxy_toml(status, address(port), address(admin_port));
        let text = text.replace("level = \"warn\"", "level = \"info,pg_ha_proxy=debug\"");
        // Unnamed statements are served from those of others where they may be: the harder case.
        let text = format!("{text}\n[pool]\nprepare_threshold = 1\n");
        let (config, log) = (dir.join("proxy.toml"), dir.join("proxy.log"));
        std::fs::write(&config, text).expect("proxy.toml");
        let mut proxy = Self { child: spawn(&config, &log), config, log, port, admin_port };
        proxy.wait(status).await;
        proxy
    }

    /// `kill -9`, then a new one on the same ports.
    pub(crate) async fn restart(&mut self, status: &Status) {
        self.kill();
        self.child = spawn(&self.config, &self.log);
        self.wait(status).await;
    }

    /// What it answers at a path of its HTTP side.
    pub(crate) async fn ask(&self, path: &str) -> String {
        let ask = async {
            let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.admin_port)).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        ask.await.unwrap_or_else(|error| error.to_string())
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    async fn wait(&mut self, status: &Status) {
        let end = Instant::now() + START_DEADLINE;
        let config = application(status, self.port);
        loop {
            match config.connect(tokio_postgres::NoTls).await {
                Ok(_) => return,
                Err(error) => {
                    let ended = self.child.try_wait().expect("a child");
                    let late = Instant::now() > end;
                    assert!(
                        ended.is_none() && !late,
                        "the proxy: {error} {ended:?}, see {}",
                        self.log.display()
                    );
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn kill(&mut self) {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("its end");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(config: &Path, log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).expect("proxy.log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pg-ha-proxy"));
    command.args(["run", "--config"]).arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("the proxy")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound").port()
}
