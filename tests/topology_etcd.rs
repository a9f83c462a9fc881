//! The control path before a real etcd, with keys as Patroni writes them, put by hand; the members are made up.

#![expect(clippy::unwrap_used, reason = "a test may end where something is missing")]

#[path = "support/settings.rs"]
mod settings;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, CompactionOptions, ConnectOptions, Identity, Permission, PutOptions, TlsOptions,
    Txn, TxnOp,
};
use pg_ha_proxy::cluster::Runtime;
use pg_ha_proxy::config::{EtcdSource, Source, TopologyConfig};
use pg_ha_proxy::control::{self, Connect, Control, Link, LinkError, Rows};
use pg_ha_proxy::topology::{Epoch, HoldReason, Lsn, Rule, Topology, What};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const CLUSTER: &str = "7711122490449545636";

/// A real etcd of its own; killed when dropped.
struct Etcd {
    child: Option<Child>,
    dir: tempfile::TempDir,
    port: u16,
    peer: u16,
    tls: Option<Certificates>,
}

/// Files of a CA, a server and a client, which etcd asks for a certificate.
struct Certificates {
    ca: PathBuf,
    server: (PathBuf, PathBuf),
    client: (PathBuf, PathBuf),
}

impl Certificates {
    fn make(dir: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let signed = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            (
                write(&format!("{name}.crt"), certificate.pem()),
                write(&format!("{name}.key"), key.serialize_pem()),
            )
        };
        Self { ca: write("ca.crt", authority.pem()), server: signed("server"), client: signed("client") }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Etcd {
    async fn start() -> Self {
        let mut etcd = Self::new();
        etcd.go().await;
        etcd
    }

    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { child: None, dir, port: free_port(), peer: free_port(), tls: None }
    }

    async fn go(&mut self) {
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer));
        let mut command = Command::new(Runtime::find().unwrap().etcd());
        command.arg("--data-dir").arg(self.dir.path().join("data")).args(["--name", "e"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("e={peer}")]);
        if let Some(tls) = &self.tls {
            command.arg("--cert-file").arg(&tls.server.0).arg("--key-file").arg(&tls.server.1);
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&tls.ca);
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("etcd starts"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.try_get().await.is_none() {
            assert!(Instant::now() < deadline, "etcd doesn't answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn try_get(&self) -> Option<()> {
        let client = Client::connect([self.url()], self.options());
        let mut client = timeout(Duration::from_secs(1), client).await.ok()?.ok()?;
        timeout(Duration::from_secs(1), client.get("x", None)).await.ok()?.ok()?;
        Some(())
    }

    fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    fn options(&self) -> Option<ConnectOptions> {
        let tls = self.tls.as_ref()?;
        let read = |path: &Path| std::fs::read(path).unwrap();
        let options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca)));
        let identity = Identity::from_pem(read(&tls.client.0), read(&tls.client.1));
        Some(ConnectOptions::new().with_tls(options.identity(identity)))
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    async fn client(&self) -> Client {
        Client::connect([self.url()], self.options()).await.unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Members a, b, c at ports 1, 2, 3, as they are now.
#[derive(Clone, Default)]
struct Members(Arc<Mutex<HashMap<u16, State>>>);

#[derive(Clone, Copy)]
struct State {
    /// None: in recovery, streaming on `timeline`.
    writable: bool,
    timeline: u32,
    lsn: u64,
}

impl Members {
    fn set(&self, n: u16, writable: bool, timeline: u32, lsn: u64) {
        self.0.lock().unwrap().insert(n, State { writable, timeline, lsn });
    }

    fn kill(&self, n: u16) {
        self.0.lock().unwrap().remove(&n);
    }
}

struct FakeLink(Members, u16);

impl Connect for Members {
    type Link = FakeLink;

    async fn connect(&self, _host: &str, port: u16, _timeout: Duration) -> Result<FakeLink, LinkError> {
        if self.0.lock().unwrap().contains_key(&port) {
            Ok(FakeLink(self.clone(), port))
        } else {
            Err(LinkError::Closed("refused".to_owned()))
        }
    }
}

impl Link for FakeLink {
    async fn query(&mut self, sql: &'static str) -> Result<Rows, LinkError> {
        let state = self.0.0.lock().unwrap().get(&self.1).copied();
        let Some(State { writable, timeline, lsn }) = state else {
            return Err(LinkError::Closed("gone".to_owned()));
        };
        let some = |text: &dyn ToString| Some(text.to_string());
        let row = if sql.contains("system_identifier") {
            let mut row =
                vec![some(if writable { &"f" } else { &"t" }), some(&"off"), some(&CLUSTER), some(&"1")];
            if writable {
                row.extend([
                    Some(format!("{timeline:08X}0000000000000001")),
                    some(&lsn),
                    some(&lsn),
                    None,
                    None,
                ]);
            } else {
                row.extend([None, some(&lsn), None, some(&timeline), some(&"streaming")]);
            }
            row.extend([None, some(&"f")]);
            row
        } else if writable {
            vec![some(&lsn), some(&lsn)]
        } else {
            vec![some(&lsn), some(&timeline)]
        };
        Ok(vec![row])
    }
}

fn key(name: &str) -> String {
    format!("/pg-ha-cluster/{name}")
}

fn member_value(n: u16) -> String {
    format!(r#"{{"conn_url":"postgres://127.0.0.1:{n}/postgres","state":"running","role":"replica"}}"#)
}

/// Three members, `a` leads.
async fn world(etcd: &Etcd) -> (Client, Members) {
    let mut client = etcd.client().await;
    let mut puts = vec![
        TxnOp::put(key("initialize"), CLUSTER, None),
        TxnOp::put(key("config"), r#"{"ttl":20,"loop_wait":1}"#, None),
        TxnOp::put(key("leader"), "a", None),
    ];
    for (n, name) in [(1, "a"), (2, "b"), (3, "c")] {
        puts.push(TxnOp::put(key(&format!("members/{name}")), member_value(n), None));
    }
    client.txn(Txn::new().and_then(puts)).await.unwrap();
    let members = Members::default();
    members.set(1, true, 1, 1000);
    members.set(2, false, 1, 1000);
    members.set(3, false, 1, 1000);
    (client, members)
}

fn start(endpoints: &[String], members: &Members) -> Control {
    start_with(Source::Etcd(source(endpoints)), members)
}

fn source(endpoints: &[String]) -> EtcdSource {
    EtcdSource {
        endpoints: endpoints.to_vec(),
        user: None,
        ca: None,
        certificate: None,
        namespace: "/".to_owned(),
        scope: "pg-ha-cluster".to_owned(),
        timeout: Duration::from_secs(1),
        check_interval: Duration::from_millis(300),
    }
}

fn start_with(source: Source, members: &Members) -> Control {
    try_start_with(source, members).unwrap()
}

fn try_start_with(source: Source, members: &Members) -> Result<Control, control::Error> {
    let topology = TopologyConfig {
        source,
        monitor_interval: Duration::from_millis(500),
        monitor_interval_busy: Duration::from_millis(20),
        lsn_interval: Duration::from_millis(5),
        monitor_timeout: Duration::from_secs(1),
        member_grace: Duration::from_millis(500),
        fence_after: None,
    };
    let (routing, failover) = settings::settings();
    control::start(&topology, &routing, &failover, members.clone())
}

async fn wait_for(
    control: &mut Control,
    what: &str,
    mut fits: impl FnMut(&Topology) -> bool,
) -> Arc<Topology> {
    let mut seen = control.topology.clone();
    let found = timeout(Duration::from_secs(20), seen.wait_for(|topology| fits(topology))).await;
    assert!(found.is_ok(), "not {what}: {:#?}", control.topology.borrow());
    found.unwrap().unwrap().clone()
}

fn serves(topology: &Topology, name: &str, epoch: u64) -> bool {
    topology.epoch == Epoch(epoch) && topology.primary().is_some_and(|primary| &*primary.name == name)
}

fn reason(topology: &Topology) -> Option<HoldReason> {
    match topology.rule {
        Rule::Holding { reason, .. } => Some(reason),
        Rule::Serving(_) => None,
    }
}

fn readable(topology: &Topology) -> Vec<&str> {
    topology.members.iter().filter(|member| member.serves_reads).map(|member| &*member.name).collect()
}

fn happened(control: &Control, what: &What) -> usize {
    control.transitions.borrow().iter().filter(|transition| transition.what == *what).count()
}

/// `b` takes over, on timeline 2.
async fn fail_over(client: &mut Client, members: &Members) {
    members.kill(1);
    let gone = vec![TxnOp::delete(key("leader"), None), TxnOp::delete(key("members/a"), None)];
    client.txn(Txn::new().and_then(gone)).await.unwrap();
    client.put(key("leader"), "b", None).await.unwrap();
    members.set(2, true, 2, 1100);
    members.set(3, false, 2, 1100);
}

#[tokio::test]
async fn follows_keys_and_checks() {
    let etcd = Etcd::start().await;
    let (mut client, members) = world(&etcd).await;
    let mut control = start(&[etcd.url()], &members);
    let topology = wait_for(&mut control, "serving", |topology| {
        serves(topology, "a", 1) && readable(topology).len() == 2
    })
    .await;
    assert_eq!(readable(&topology), ["b", "c"]);
    assert_eq!(topology.hold, Duration::from_secs(26));

    // Positions come every few milliseconds while wanted.
    let positions = control.positions.clone();
    let asked = positions.nanos(std::time::Instant::now());
    positions.want(asked);
    members.set(1, true, 1, 1050);
    let deadline = Instant::now() + Duration::from_secs(5);
    let id = |name: &str| topology.members.iter().find(|member| &*member.name == name).unwrap().id;
    let fresh = |lsn| positions.reading().is_some_and(|read| read.begun > asked && read.lsn == Lsn(lsn));
    while !fresh(1050) || positions.replayed(id("b")) != Lsn(1000) {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    let waited = positions.nanos(std::time::Instant::now()) - asked;
    assert!(waited < 200_000_000, "woken at once, not by the quiet interval: {waited} ns");

    // The same name again: nothing dropped.
    client.delete(key("leader"), None).await.unwrap();
    let held =
        wait_for(&mut control, "held", |topology| reason(topology) == Some(HoldReason::NoLeader)).await;
    assert_eq!(held.rule, Rule::Holding { reason: HoldReason::NoLeader, last: Some(id("a")) });
    client.put(key("leader"), "a", None).await.unwrap();
    wait_for(&mut control, "resumed", |topology| serves(topology, "a", 1)).await;

    // Another name: another epoch.
    fail_over(&mut client, &members).await;
    let topology = wait_for(&mut control, "following", |topology| {
        serves(topology, "b", 2) && readable(topology) == ["c"] && topology.members.len() == 2
    })
    .await;
    assert_eq!(topology.member(id("a")), None);
    assert_eq!(happened(&control, &What::Fenced(id("a"))), 1);
    let keys = control.transitions.borrow().clone();
    let gone = keys.iter().position(|it| it.what == What::LeaderDeleted("a".into())).unwrap();
    assert!(keys[gone..].iter().any(|it| it.what == What::LeaderPut("b".into())));

    // A check that fails, and what a session saw.
    members.kill(2);
    control.suspects.tell(id("b"));
    wait_for(&mut control, "held", |topology| reason(topology) == Some(HoldReason::NotWritable)).await;
    members.set(2, true, 2, 1200);
    wait_for(&mut control, "back", |topology| serves(topology, "b", 2)).await;
    control.shutdown().await;
}

#[tokio::test]
async fn one_revision_is_one_change() {
    let etcd = Etcd::start().await;
    let (mut client, members) = world(&etcd).await;
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let with_lease = || Some(PutOptions::new().with_lease(lease));
    client.put(key("leader"), "a", with_lease()).await.unwrap();
    client.put(key("members/a"), member_value(1), with_lease()).await.unwrap();
    let mut control = start(&[etcd.url()], &members);
    let topology = wait_for(&mut control, "serving", |topology| serves(topology, "a", 1)).await;
    let a = topology.primary().unwrap().id;
    client.lease_revoke(lease).await.unwrap();
    wait_for(&mut control, "held", |topology| reason(topology) == Some(HoldReason::NoLeader)).await;
    let transitions = control.transitions.borrow().clone();
    let at = |what: &What| transitions.iter().find(|it| it.what == *what).unwrap().at;
    assert_eq!(at(&What::LeaderDeleted("a".into())), at(&What::MemberGone(a)));
}

#[tokio::test]
async fn etcd_killed_and_back() {
    let mut etcd = Etcd::start().await;
    let (_, members) = world(&etcd).await;
    let mut control = start(&[etcd.url()], &members);
    wait_for(&mut control, "serving", |topology| serves(topology, "a", 1)).await;
    etcd.kill();
    let lost = timeout(
        Duration::from_secs(20),
        control.transitions.wait_for(|kept| kept.iter().any(|it| it.what == What::EtcdLost)),
    )
    .await;
    lost.expect("noticed").unwrap();
    assert!(serves(&control.topology.borrow(), "a", 1), "the last topology holds");
    // Checks go on meanwhile.
    members.kill(1);
    wait_for(&mut control, "held", |topology| reason(topology) == Some(HoldReason::NotWritable)).await;
    members.set(1, true, 1, 1000);
    wait_for(&mut control, "resumed", |topology| serves(topology, "a", 1)).await;
    etcd.go().await;
    let listed = control
        .transitions
        .wait_for(|kept| kept.iter().filter(|it| it.what == What::EtcdListed).count() == 2);
    timeout(Duration::from_secs(20), listed).await.expect("listed again").unwrap();
    fail_over(&mut etcd.client().await, &members).await;
    wait_for(&mut control, "following", |topology| serves(topology, "b", 2)).await;
}

/// Hands bytes on between a port of its own and etcd, until it is told to stop.
struct Relay {
    address: SocketAddr,
    open: tokio::sync::watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Relay {
    async fn before(port: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, seen) = tokio::sync::watch::channel(true);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                let mut seen = seen.clone();
                if !*seen.borrow_and_update() {
                    continue;
                }
                connections.spawn(async move {
                    let mut to = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut from, &mut to) => {}
                        _ = seen.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { address, open, _tasks: tasks }
    }
}

#[tokio::test]
async fn compacted_between_two_watches() {
    let etcd = Etcd::start().await;
    let (mut client, members) = world(&etcd).await;
    let relay = Relay::before(etcd.port).await;
    let mut control = start(&[format!("http://{}", relay.address)], &members);
    wait_for(&mut control, "serving", |topology| serves(topology, "a", 1)).await;
    relay.open.send_replace(false);
    fail_over(&mut client, &members).await;
    let revision = client.put("elsewhere", "x", None).await.unwrap().header().unwrap().revision();
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await.unwrap();
    wait_for(&mut control, "held", |topology| reason(topology) == Some(HoldReason::NotWritable)).await;
    assert!(control.topology.borrow().epoch == Epoch(1));
    relay.open.send_replace(true);
    wait_for(&mut control, "following", |topology| serves(topology, "b", 2)).await;
}

#[tokio::test]
async fn another_endpoint_serves_when_one_is_cut_off() {
    let etcd = Etcd::start().await;
    let (mut client, members) = world(&etcd).await;
    let relay = Relay::before(etcd.port).await;
    let endpoints =
        [format!("http://127.0.0.1:{}", free_port()), format!("http://{}", relay.address), etcd.url()];
    let mut control = start(&endpoints, &members);
    wait_for(&mut control, "serving", |topology| serves(topology, "a", 1)).await;
    relay.open.send_replace(false);
    fail_over(&mut client, &members).await;
    wait_for(&mut control, "following", |topology| serves(topology, "b", 2)).await;
    assert_eq!(happened(&control, &What::EtcdLost), 0, "one was there all the time");
}

#[tokio::test]
async fn another_etcd_cluster_is_not_believed() {
    let mut etcd = Etcd::start().await;
    let other = Etcd::start().await;
    let (_, members) = world(&etcd).await;
    let (mut client, _) = world(&other).await;
    client.put(key("leader"), "b", None).await.unwrap();
    let mut control = start(&[etcd.url(), other.url()], &members);
    wait_for(&mut control, "serving", |topology| serves(topology, "a", 1)).await;
    members.set(2, true, 2, 1100);
    etcd.kill();
    wait_for(&mut control, "held", |topology| reason(topology) == Some(HoldReason::TwoPrimaries)).await;
    assert_eq!(happened(&control, &What::LeaderPut("b".into())), 0);
    assert_eq!(happened(&control, &What::EtcdListed), 1);
}

#[tokio::test]
async fn client_certificates() {
    let mut etcd = Etcd::new();
    etcd.tls = Some(Certificates::make(etcd.dir.path()));
    etcd.go().await;
    let (mut client, members) = world(&etcd).await;
    let tls = etcd.tls.as_ref().unwrap();
    let with = |certificate: Option<(PathBuf, PathBuf)>| {
        let ca = Some(tls.ca.clone());
        Source::Etcd(EtcdSource { ca, certificate, ..source(&[etcd.url()]) })
    };
    let stranger = start_with(with(None), &members);
    let mut control = start_with(with(Some(tls.client.clone())), &members);
    wait_for(&mut control, "serving", |topology| serves(topology, "a", 1)).await;
    fail_over(&mut client, &members).await;
    wait_for(&mut control, "following", |topology| serves(topology, "b", 2)).await;
    assert_eq!(reason(&stranger.topology.borrow()), Some(HoldReason::Starting));
}

/// A user that may read the scope's keys and nothing else is enough.
#[tokio::test]
async fn user_and_password() {
    let etcd = Etcd::start().await;
    let (mut client, members) = world(&etcd).await;
    client.user_add("root", "r", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("reader").await.unwrap();
    let permission = Permission::read("/pg-ha-cluster/").with_prefix();
    client.role_grant_permission("reader", permission).await.unwrap();
    client.user_add("proxy", "se cret", None).await.unwrap();
    client.user_grant_role("proxy", "reader").await.unwrap();
    client.auth_enable().await.unwrap();
    let file = etcd.dir.path().join("password");
    let with = |password: &str| {
        std::fs::write(&file, password).unwrap();
        let user = Some(("proxy".to_owned(), file.clone()));
        start_with(Source::Etcd(EtcdSource { user, ..source(&[etcd.url()]) }), &members)
    };
    let mut control = with("se cret\n");
    wait_for(&mut control, "serving", |topology| serves(topology, "a", 1)).await;
    let root = ConnectOptions::new().with_user("root", "r");
    let mut client = Client::connect([etcd.url()], Some(root)).await.unwrap();
    fail_over(&mut client, &members).await;
    wait_for(&mut control, "following", |topology| serves(topology, "b", 2)).await;
    drop(control);
    let wrong = with("wrong");
    let mut seen = wrong.topology.clone();
    let served = seen.wait_for(|topology| topology.primary().is_some());
    assert!(timeout(Duration::from_secs(1), served).await.is_err());
}

#[tokio::test]
async fn files_that_are_missing_are_told() {
    let missing = PathBuf::from("/nowhere/ca.crt");
    let source =
        Source::Etcd(EtcdSource { ca: Some(missing), ..source(&["https://127.0.0.1:1".to_owned()]) });
    let error = try_start_with(source, &Members::default()).unwrap_err().to_string();
    assert!(error.contains("/nowhere/ca.crt"), "{error}");
}

#[tokio::test]
async fn static_members() {
    let members = Members::default();
    members.set(1, false, 1, 1000);
    members.set(2, true, 1, 1000);
    let source = Source::Static(vec![("127.0.0.1".to_owned(), 1), ("127.0.0.1".to_owned(), 2)]);
    let mut control = start_with(source, &members);
    let name = "127.0.0.1:2";
    wait_for(&mut control, "serving", |topology| serves(topology, name, 1) && readable(topology).len() == 1)
        .await;
    members.kill(2);
    wait_for(&mut control, "held", |topology| reason(topology) == Some(HoldReason::NotWritable)).await;
    members.set(1, true, 2, 1000);
    wait_for(&mut control, "following", |topology| serves(topology, "127.0.0.1:1", 2)).await;
}
