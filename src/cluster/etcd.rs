//! The cluster's etcd: one process, its data in the cluster's folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::http::Request;
use super::{Error, Runtime};

/// etcd and its arguments.
pub(super) fn command(runtime: &Runtime, dir: &Path, port: u16, peer_port: u16) -> Vec<PathBuf> {
    let client = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let mut command = vec![runtime.etcd(), "--data-dir".into(), dir.join("etcd")];
    let settings = [
        ("--name", "etcd-1".to_owned()),
        ("--listen-client-urls", client.clone()),
        ("--advertise-client-urls", client),
        ("--listen-peer-urls", peer.clone()),
        ("--initial-advertise-peer-urls", peer.clone()),
        ("--initial-cluster", format!("etcd-1={peer}")),
        ("--logger", "zap".to_owned()),
        ("--log-level", "warn".to_owned()),
    ];
    command.extend(settings.into_iter().flat_map(|(name, value)| [name.into(), value.into()]));
    command
}

/// Whether it answers and has a leader.
pub(super) async fn is_healthy(port: u16) -> bool {
    Request::get(port, "/health").send().await.is_ok_and(|answer| answer.body.contains("\"true\""))
}

/// The value of a key, through etcd's JSON gateway. `None` when there is none or etcd does not answer.
pub(super) async fn value(port: u16, key: &str) -> Option<String> {
    let body = json!({"key": BASE64_STANDARD.encode(key)}).to_string();
    let request = Request { method: "POST", body: &body, ..Request::get(port, "/v3/kv/range") };
    let answer: Value = serde_json::from_str(&request.send().await.ok()?.body).ok()?;
    let value = answer.pointer("/kvs/0/value")?.as_str()?;
    String::from_utf8(BASE64_STANDARD.decode(value).ok()?).ok()
}

/// Throws away all history before the present revision, so that an older watch can't go on. Returns that revision.
pub(super) async fn compact(port: u16) -> Result<i64, Error> {
    let refused = |error: etcd_client::Error| Error::Etcd(error.to_string());
    let timeout = Duration::from_secs(2);
    let options = etcd_client::ConnectOptions::new().with_connect_timeout(timeout).with_timeout(timeout);
    let endpoint = format!("http://127.0.0.1:{port}");
    let mut client = etcd_client::Client::connect([endpoint], Some(options)).await.map_err(refused)?;
    let answer = client.get("revision", None).await.map_err(refused)?;
    let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
    let physical = etcd_client::CompactionOptions::new().with_physical();
    client.compact(revision, Some(physical)).await.map_err(refused)?;
    Ok(revision)
}
