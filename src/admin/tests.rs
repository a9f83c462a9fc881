//! The HTTP side over a real socket.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::topology::{Epoch, HoldReason, Member, MemberId, Rule};

fn member(id: u16, serves_reads: bool) -> Member {
    Member {
        id: MemberId(id),
        answers: true,
        name: format!("pg-node-{id}").into(),
        host: "127.0.0.1".into(),
        port: 5432,
        role: "replica".into(),
        serves_reads,
        why_not: (!serves_reads).then_some("does not stream"),
        weight: 1,
        lag_bytes: Some(42),
        lag: Some(Duration::from_millis(1500)),
        timeline: Some(3),
        generation: 0,
    }
}

fn topology(rule: Rule, members: Vec<Member>) -> Arc<Topology> {
    let hold = Duration::from_secs(45);
    Arc::new(Topology {
        version: 9,
        epoch: Epoch(4),
        rule,
        members: members.into(),
        hold,
        candidate: None,
        drained: false,
        insert_lsn: false,
    })
}

const HOLDING: Rule = Rule::Holding { reason: HoldReason::NoLeader, last: Some(MemberId(1)) };

/// A running HTTP side.
struct Side {
    address: SocketAddr,
    topology: watch::Sender<Arc<Topology>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Side {
    async fn start() -> Self {
        let (sender, receiver) = watch::channel(topology(HOLDING, vec![member(1, false)]));
        let views = Views {
            metrics: Arc::new(Metrics::new(1).unwrap().0),
            topology: receiver,
            pools: Arc::new(|| json!([{ "member": "pg-node-1", "idle": 3 }])),
            sessions: Arc::new(|| Box::pin(std::future::ready(json!({ "sessions": 5 })))),
            routes: Arc::new(|| json!([])),
            failovers: Arc::new(|| json!([{ "epoch": 4 }])),
            reload: Arc::new(|| Err("proxy.toml:1: x: wrong".to_owned())),
        };
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, views, async {
            stopped.await.unwrap();
        }));
        Self { address, topology: sender, stop, task }
    }

    /// Sends bytes, and reads until the other side closes.
    async fn raw(&self, request: &[u8]) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await??;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    async fn ask(&self, request: &str, headers: &str) -> (u16, String) {
        let text = format!("{request} HTTP/1.1\r\nHost: proxy:9187\r\n{headers}\r\n");
        let answer = self.raw(text.as_bytes()).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn health_follows_the_topology() {
    let side = Side::start().await;
    assert_eq!(side.ask("GET /healthz", "").await.0, 200);
    assert_eq!(side.ask("GET /readyz", "").await.0, 503);
    side.topology.send(topology(HOLDING, vec![member(1, false), member(2, true)])).unwrap();
    assert_eq!(side.ask("GET /readyz", "").await.0, 200);
    side.topology.send(topology(Rule::Serving(MemberId(1)), vec![member(1, false)])).unwrap();
    assert_eq!(side.ask("GET /readyz", "").await.0, 200);
    side.topology.send(topology(Rule::Serving(MemberId(7)), vec![])).unwrap();
    assert_eq!(side.ask("GET /readyz", "").await.0, 503);
    side.stop().await;
}

#[tokio::test]
async fn views_are_shown_as_json() {
    let side = Side::start().await;
    let (status, body) = side.ask("GET /topology", "").await;
    let shown: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(shown["rule"], json!({ "state": "holding", "reason": "no_leader", "last": "pg-node-1" }));
    assert_eq!(shown["epoch"], 4);
    assert_eq!(shown["members"][0]["why_not"], "does not stream");
    assert_eq!(shown["members"][0]["lag_seconds"], 1.5);
    side.topology.send(topology(Rule::Serving(MemberId(2)), vec![member(2, true)])).unwrap();
    let shown: Value = serde_json::from_str(&side.ask("GET /topology", "").await.1).unwrap();
    assert_eq!(shown["rule"], json!({ "state": "serving", "primary": "pg-node-2" }));
    assert_eq!(shown["members"][0]["primary"], true);
    for (path, body) in [
        ("/pools", "[{\"member\":\"pg-node-1\",\"idle\":3}]"),
        ("/sessions", "{\"sessions\":5}"),
        ("/routes", "[]"),
        ("/failovers", "[{\"epoch\":4}]"),
    ] {
        assert_eq!(side.ask(&format!("GET {path}"), "").await, (200, body.to_owned()));
    }
    side.stop().await;
}

#[tokio::test]
async fn the_page_and_the_metrics_are_there() {
    let side = Side::start().await;
    let (status, page) = side.ask("GET /", "").await;
    assert_eq!(status, 200);
    assert!(page.contains("<title>pg-ha-proxy</title>"));
    // Nothing is fetched from elsewhere.
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("//cdn"));
    let (status, text) = side.ask("GET /metrics", "").await;
    assert_eq!(status, 200);
    assert!(text.contains("pgha_sessions 0\n"), "{text}");
    side.stop().await;
}

#[tokio::test]
async fn reload_is_for_post_and_for_us() {
    let side = Side::start().await;
    assert_eq!(side.ask("GET /reload", "").await.0, 405);
    assert_eq!(side.ask("POST /reload", "").await, (422, "proxy.toml:1: x: wrong\n".to_owned()));
    assert_eq!(side.ask("POST /reload", "Origin: http://proxy:9187\r\n").await.0, 422);
    assert_eq!(side.ask("POST /reload", "Origin: http://evil.example\r\n").await.0, 403);
    assert_eq!(side.ask("POST /reload", "Origin: null\r\n").await.0, 403);
    assert_eq!(side.ask("GET /nothing", "").await.0, 404);
    side.stop().await;
}

#[tokio::test]
async fn long_heads_and_garbage_are_closed() {
    let side = Side::start().await;
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
    // Refused with an answer, or cut while we still wrote: both are right, being served is not.
    let served = |answer: io::Result<String>| answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
    assert!(!served(side.raw(long.as_bytes()).await));
    assert!(!served(side.raw(b"\x00\x00\x00\x08\x04\xd2\x16\x2f\r\n\r\n").await));
    assert_eq!(side.ask("GET /healthz", "").await.0, 200);
    side.stop().await;
}

#[tokio::test]
async fn a_slow_head_is_cut() {
    let side = Side::start().await;
    // An error of `raw` would be its deadline: nobody closed.
    let answer = side.raw(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    side.stop().await;
}
