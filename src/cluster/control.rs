//! Talking to the process that holds a cluster: one line of JSON each way over a Unix socket in the cluster's folder.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::{Cluster, Error, How};

const SOCKET: &str = "control.sock";
/// Longest line of a request or an answer.
const LONGEST_LINE: u64 = 1 << 20;

/// What can be asked of a running cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// [`Cluster::status`].
    Status,
    /// [`Cluster::kill`].
    Kill {
        /// The member.
        member: String,
        /// What to do to it.
        how: How,
    },
    /// [`Cluster::switchover`].
    Switchover {
        /// The new leader, if it matters.
        to: Option<String>,
    },
    /// [`Cluster::stop_etcd`].
    EtcdStop,
    /// [`Cluster::start_etcd`].
    EtcdStart,
    /// [`Cluster::compact_etcd`].
    EtcdCompact,
    /// [`Cluster::down`]; answered when it is done.
    Down,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Done(Value),
    Failed(String),
}

/// Where a cluster is when nobody says: one for each user.
pub fn default_dir() -> PathBuf {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    match state.or_else(home).filter(|path| path.is_absolute()) {
        // The members' user can't enter root's home.
        _ if Uid::effective().is_root() => PathBuf::from("/var/lib/pg-ha-proxy/cluster"),
        Some(state) => state.join("pg-ha-proxy/cluster"),
        None => std::env::temp_dir().join(format!("pg-ha-proxy-{}", Uid::effective())),
    }
}

/// Asks the cluster that runs in `dir`.
///
/// # Errors
/// [`Error::State`] when none runs there, and with the cluster's own text when it refused.
pub async fn ask(dir: &Path, request: &Request) -> Result<Value, Error> {
    let nobody = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            Error::State(format!("no cluster runs in {}", dir.display()))
        }
        _ => Error::io(dir.join(SOCKET).display().to_string())(error),
    };
    let stream = UnixStream::connect(dir.join(SOCKET)).await.map_err(nobody)?;
    let lost = || Error::State("the cluster's process went away".to_owned());
    let (read, mut write) = stream.into_split();
    write.write_all(&line(request)).await.map_err(|_| lost())?;
    let mut answer = String::new();
    BufReader::new(read.take(LONGEST_LINE)).read_line(&mut answer).await.map_err(|_| lost())?;
    match serde_json::from_str(&answer).map_err(|_| lost())? {
        Answer::Done(value) => Ok(value),
        Answer::Failed(text) => Err(Error::State(text)),
    }
}

/// Answers requests for a cluster.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
}

impl Server {
    /// Listens in the cluster's folder; its owner alone can connect.
    ///
    /// # Errors
    /// [`Error::Io`] when the socket can't be made.
    pub fn listen(cluster: &Cluster) -> Result<Self, Error> {
        let path = cluster.dir().join(SOCKET);
        let bind = || {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        Ok(Self { listener: bind().map_err(Error::io(path.display().to_string()))? })
    }

    /// Answers one request after the other until `stop` is ready or someone asks for the end; then ends the cluster.
    ///
    /// # Errors
    /// Those of [`Cluster::down`], and [`Error::Io`] when the socket fails.
    pub async fn serve(self, cluster: Cluster, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let mut stop = std::pin::pin!(stop);
        loop {
            let mut stream = tokio::select! {
                () = &mut stop => return cluster.down().await,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => return Err(Error::io("the control socket")(error)),
                },
            };
            let Some(request) = read(&mut stream).await else { continue };
            if matches!(request, Request::Down) {
                let outcome = cluster.down().await;
                reply(stream, outcome.as_ref().map(|()| Value::Null)).await;
                return outcome;
            }
            let outcome = tokio::select! {
                () = &mut stop => return cluster.down().await,
                outcome = handle(&cluster, request) => outcome,
            };
            reply(stream, outcome.as_ref().map(Clone::clone)).await;
        }
    }
}

async fn handle(cluster: &Cluster, request: Request) -> Result<Value, Error> {
    match request {
        Request::Status => Ok(json!(cluster.status().await)),
        Request::Kill { member, how } => cluster.kill(&member, how).await.map(|()| Value::Null),
        Request::Switchover { to } => cluster.switchover(to.as_deref()).await.map(Value::from),
        Request::EtcdStop => cluster.stop_etcd().await.map(|()| Value::Null),
        Request::EtcdStart => cluster.start_etcd().await.map(|()| Value::Null),
        Request::EtcdCompact => cluster.compact_etcd().await.map(Value::from),
        Request::Down => Ok(Value::Null),
    }
}

/// One request, from a client that has five seconds for it.
async fn read(stream: &mut UnixStream) -> Option<Request> {
    let mut text = String::new();
    let mut reader = BufReader::new(stream.take(LONGEST_LINE));
    let line = tokio::time::timeout(std::time::Duration::from_secs(5), reader.read_line(&mut text)).await;
    line.ok()?.ok()?;
    serde_json::from_str(&text).ok()
}

async fn reply(mut stream: UnixStream, outcome: Result<Value, &Error>) {
    let answer = match outcome {
        Ok(value) => Answer::Done(value),
        Err(error) => Answer::Failed(error.to_string()),
    };
    // The one who asked may have gone.
    let _ = stream.write_all(&line(&answer)).await;
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = json!(value).to_string().into_bytes();
    line.push(b'\n');
    line
}
