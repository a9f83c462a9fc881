//! The control path before the real thing: etcd, Patroni and PostgreSQL. One cluster lives through all of it, one
//! fault after the other.

#![expect(clippy::unwrap_used, reason = "a test may end where something is missing")]
#![expect(clippy::print_stdout, reason = "the times are to be seen")]

#[path = "support/settings.rs"]
mod settings;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pg_ha_proxy::cluster::{Cluster, How, Options};
use pg_ha_proxy::config::{EtcdSource, KeepAlive, Source, Tls, TlsMode, TopologyConfig};
use pg_ha_proxy::control::{self, Control, MonitorLogin};
use pg_ha_proxy::net::tls::ClientTls;
use pg_ha_proxy::scram::{Credentials, Secret};
use pg_ha_proxy::topology::{Lsn, MemberId, Rule, Topology, Transition, What};
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The longest that any step may take: Patroni's ttl of 20 s, and what follows it.
const STEP: Duration = Duration::from_secs(60);

fn login(cluster: &Cluster) -> MonitorLogin {
    let (certificate, key) = cluster.certificates().role("pgha_monitor");
    let tls = Tls {
        client_mode: TlsMode::Disable,
        certificate: None,
        key: None,
        client_ca: None,
        server_mode: TlsMode::VerifyFull,
        server_ca: Some(cluster.certificates().ca()),
    };
    let tls = ClientTls::new(&tls, Some(("auth.monitor_certificate", &certificate, &key))).unwrap();
    MonitorLogin {
        credentials: Credentials { user: "pgha_monitor".into(), secret: Secret::None },
        database: "postgres".to_owned(),
        tls: Arc::new(ArcSwap::from_pointee(tls)),
        keep_alive: KeepAlive {
            idle: Duration::from_secs(5),
            interval: Duration::from_secs(2),
            count: 3,
            user_timeout: Duration::from_secs(10),
        },
    }
}

fn start(endpoint: String, cluster: &Cluster) -> Control {
    let topology = TopologyConfig {
        source: Source::Etcd(EtcdSource {
            endpoints: vec![endpoint],
            user: None,
            ca: None,
            certificate: None,
            namespace: "/".to_owned(),
            scope: "pg-ha-cluster".to_owned(),
            timeout: Duration::from_secs(2),
            check_interval: Duration::from_secs(1),
        }),
        monitor_interval: Duration::from_secs(1),
        monitor_interval_busy: Duration::from_millis(20),
        lsn_interval: Duration::from_millis(5),
        monitor_timeout: Duration::from_secs(2),
        member_grace: Duration::from_secs(2),
        fence_after: None,
    };
    let (routing, failover) = settings::settings();
    control::start(&topology, &routing, &failover, login(cluster)).unwrap()
}

/// The cluster, what follows it, and the relay between that and etcd.
struct World {
    cluster: Cluster,
    control: Control,
    relay: Relay,
}

impl World {
    async fn up() -> Self {
        let begun = Instant::now();
        let cluster = Cluster::up(Options { failsafe: true, ..Options::quick() }).await.unwrap();
        let status = cluster.status().await;
        let port = status.etcd.endpoints[0].rsplit(':').next().unwrap().parse().unwrap();
        let relay = Relay::before(port).await;
        let control = start(format!("http://{}", relay.address), &cluster);
        let world = Self { cluster, control, relay };
        world.until("serving, with two replicas", |topology| readable(topology).len() == 2).await;
        println!("up after {:?}", begun.elapsed());
        world
    }

    /// Waits until the snapshot fits.
    async fn until(&self, what: &str, mut fits: impl FnMut(&Topology) -> bool) -> Arc<Topology> {
        let mut seen = self.control.topology.clone();
        let found = timeout(STEP, seen.wait_for(|topology| fits(topology))).await;
        let now = self.control.topology.borrow().clone();
        assert!(found.is_ok(), "not {what}: {now:#?}\n{:#?}", self.control.transitions.borrow());
        found.unwrap().unwrap().clone()
    }

    fn primary(&self) -> (String, MemberId, u64) {
        let topology = self.control.topology.borrow().clone();
        let primary = topology.primary().expect("a primary");
        (primary.name.to_string(), primary.id, topology.epoch.0)
    }

    async fn healed(&self) {
        self.cluster.wait_ready(STEP).await.unwrap();
        self.until("with two replicas", |topology| {
            topology.primary().is_some() && readable(topology).len() == 2
        })
        .await;
    }

    fn happened(&self, what: impl Fn(&What) -> bool) -> usize {
        self.control.transitions.borrow().iter().filter(|transition| what(&transition.what)).count()
    }
}

fn readable(topology: &Topology) -> Vec<&str> {
    topology.members.iter().filter(|member| member.serves_reads).map(|member| &*member.name).collect()
}

/// Tags, a restarted replica, pause with a promotion by hand, a replica made anew, a member that goes and comes back.
async fn follows_what_operators_do(world: &World) {
    let (primary, _, epoch) = world.primary();
    let others: Vec<String> =
        readable(&world.control.topology.borrow()).into_iter().map(str::to_owned).collect();
    let [tagged, other] = <[String; 2]>::try_from(others).expect("two replicas");
    let alone = |topology: &Topology| topology.primary().is_some() && readable(topology) == [&*other];

    let file = world.cluster.dir().join(&tagged).join("patroni.yml");
    let configuration = std::fs::read_to_string(&file).unwrap();
    let mut with_tag: serde_json::Value = serde_json::from_str(&configuration).unwrap();
    with_tag["tags"]["noloadbalance"] = true.into();
    let reload = async |text: &str| {
        std::fs::write(&file, text).unwrap();
        world.cluster.ask_patroni(&tagged, "POST", "/reload", &json!({})).await.unwrap();
    };
    reload(&with_tag.to_string()).await;
    world.until("without the tagged one", alone).await;
    reload(&configuration).await;
    world.healed().await;

    world.cluster.kill(&tagged, How::Postgres).await.unwrap();
    world.until("without the one that restarts", alone).await;
    world.healed().await;

    world.cluster.ask_patroni(&primary, "PATCH", "/config", &json!({"pause": true})).await.unwrap();
    let client = superuser(world, &tagged).await;
    client.query_one("SELECT pg_promote()", &[]).await.unwrap();
    world.until("without the one promoted by hand", alone).await;
    assert_eq!((world.primary().0, world.primary().2), (primary.clone(), epoch), "who holds the key leads");
    world.cluster.ask_patroni(&tagged, "POST", "/reinitialize", &json!({"force": true})).await.unwrap();
    world.healed().await;
    world.cluster.ask_patroni(&primary, "PATCH", "/config", &json!({"pause": null})).await.unwrap();

    let two = |topology: &Topology| topology.members.len() == 2;
    world.cluster.kill(&tagged, How::Member).await.unwrap();
    world.until("without the one that is gone", |topology| two(topology) && alone(topology)).await;
    world.cluster.kill(&tagged, How::Start).await.unwrap();
    world.healed().await;
    assert_eq!((world.primary().0, world.primary().2), (primary, epoch), "all that was no failover");
}

/// From the last good answer of the old primary to the first moment that another one served.
fn report(world: &World, what: &str, from: Instant) {
    let kept = world.control.transitions.borrow().clone();
    println!("{what}:");
    for transition in kept.iter().filter(|transition| transition.at >= from) {
        let after = transition.at - from;
        println!("  {:>8.3} s  epoch {}  {:?}", after.as_secs_f64(), transition.epoch.0, transition.what);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_topology_follows_a_real_cluster() {
    let world = World::up().await;
    reads_positions(&world).await;
    follows_a_switchover(&world).await;
    follows_what_operators_do(&world).await;
    follows_over_a_compaction(&world).await;
    goes_on_without_etcd(&world).await;
    gives_a_zombie_nothing(&world).await;
    follows_a_killed_leader(&world).await;
    let World { cluster, control, .. } = world;
    control.shutdown().await;
    cluster.down().await.unwrap();
}

/// A commit's position is read from the primary, and the replicas are seen to reach it.
async fn reads_positions(world: &World) {
    let positions = &world.control.positions;
    let topology = world.control.topology.borrow().clone();
    let (client, connection) =
        tokio_postgres::connect(world.cluster.status().await.superuser_dsn.reveal(), tokio_postgres::NoTls)
            .await
            .unwrap();
    let _connection = tokio::spawn(connection);
    client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
    let row = client.query_one("SELECT (pg_current_wal_flush_lsn() - '0/0')::text", &[]).await.unwrap();
    let committed = Lsn(row.get::<_, String>(0).parse().unwrap());
    let written = positions.nanos(Instant::now());
    let deadline = Instant::now() + Duration::from_secs(5);
    let reached = loop {
        positions.want(positions.nanos(Instant::now()));
        let reading = positions.reading().filter(|reading| reading.begun > written);
        let replicas = topology.members.iter().filter(|member| member.serves_reads);
        if let Some(reading) = reading
            && replicas.clone().count() == 2
            && replicas.clone().all(|member| positions.replayed(member.id) >= reading.lsn.min(committed))
        {
            break reading;
        }
        assert!(Instant::now() < deadline, "{positions:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert_eq!(reached.epoch, topology.epoch);
    assert!(reached.lsn >= committed);
    let took = positions.nanos(Instant::now()) - written;
    println!("both replicas seen at the commit's position after {} us", took / 1000);
}

async fn follows_a_switchover(world: &World) {
    let (_, old_id, epoch) = world.primary();
    let topology = world.control.topology.borrow().clone();
    let generation = topology.member(old_id).unwrap().generation;
    let target = readable(&topology)[0].to_owned();
    let from = Instant::now();
    let writable = tokio::spawn(first_writable(superuser(world, &target).await));
    let next = world.cluster.switchover(Some(&target)).await.unwrap();
    assert_eq!(next, target);
    let topology = world
        .until("following the switchover", |topology| {
            topology.epoch.0 == epoch + 1 && topology.primary().is_some_and(|primary| *primary.name == *next)
        })
        .await;
    let member = topology.member(old_id).unwrap();
    assert!(member.generation > generation, "its connections are not used any more");
    assert!(world.happened(|what| matches!(what, What::Announced { .. })) >= 1, "held before the demotion");
    report(world, "switchover", from);
    let writable = writable.await.unwrap();
    let kept = world.control.transitions.borrow().clone();
    let serving = |it: &&Transition| it.at > from && matches!(it.what, What::Serving { .. });
    let late = kept.iter().find(serving).unwrap().at.saturating_duration_since(writable);
    println!("serving {late:?} after it took writes");
    assert!(late < Duration::from_millis(500), "{late:?}");
    world.healed().await;
}

/// A superuser's connection past all relays.
async fn superuser(world: &World, member: &str) -> tokio_postgres::Client {
    let status = world.cluster.status().await;
    let member = status.member(member).unwrap();
    let (dir, port) = (member.socket_dir.display(), member.direct_port);
    let dsn = format!("host={dir} port={port} user=postgres dbname=postgres");
    let (client, connection) = tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn first_writable(client: tokio_postgres::Client) -> Instant {
    loop {
        let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap();
        if !row.get::<_, bool>(0) {
            return Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The watch ends, another leader comes, and what was between is compacted.
async fn follows_over_a_compaction(world: &World) {
    let (_, _, epoch) = world.primary();
    world.relay.open.send_replace(false);
    let from = Instant::now();
    let next = world.cluster.switchover(None).await.unwrap();
    world.cluster.compact_etcd().await.unwrap();
    assert_eq!(world.control.topology.borrow().epoch.0, epoch);
    assert_eq!(
        world.control.topology.borrow().primary(),
        None,
        "the old one takes no writes, nobody names another"
    );
    world.relay.open.send_replace(true);
    world
        .until("following over the compaction", |topology| {
            topology.epoch.0 == epoch + 1 && topology.primary().is_some_and(|primary| *primary.name == *next)
        })
        .await;
    report(world, "switchover and compaction while the watch is cut", from);
    world.healed().await;
}

async fn goes_on_without_etcd(world: &World) {
    let (name, _, epoch) = world.primary();
    let listed = world.happened(|what| *what == What::EtcdListed);
    let from = Instant::now();
    world.cluster.stop_etcd().await.unwrap();
    let mut seen = world.control.transitions.clone();
    let lost = seen.wait_for(|kept| kept.iter().any(|it| it.at > from && it.what == What::EtcdLost));
    timeout(STEP, lost).await.expect("noticed").unwrap();
    // For as long as nobody demotes it, it is primary.
    let mut watching = world.control.topology.clone();
    let gone = watching.wait_for(|topology| topology.primary().is_none() || readable(topology).len() != 2);
    assert!(timeout(Duration::from_secs(8), gone).await.is_err(), "{:#?}", world.control.topology.borrow());
    world.cluster.start_etcd().await.unwrap();
    let listed_again =
        seen.wait_for(|kept| kept.iter().filter(|it| it.what == What::EtcdListed).count() > listed);
    timeout(STEP, listed_again).await.expect("listed again").unwrap();
    world.healed().await;
    report(world, "etcd killed and back", from);
    assert_eq!((world.primary().0, world.primary().2), (name, epoch), "the same primary in the same epoch");
}

/// Patroni freezes, its PostgreSQL takes writes for ever; thawed, it believes that it leads.
async fn gives_a_zombie_nothing(world: &World) {
    let (old, old_id, epoch) = world.primary();
    let from = Instant::now();
    world.cluster.kill(&old, How::FreezePatroni).await.unwrap();
    world
        .until("another primary", |topology| {
            topology.epoch.0 == epoch + 1 && matches!(topology.rule, Rule::Serving(id) if id != old_id)
        })
        .await;
    let client = superuser(world, &old).await;
    let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap();
    assert!(!row.get::<_, bool>(0), "it is a zombie primary");
    world.cluster.kill(&old, How::Thaw).await.unwrap();
    world.healed().await;
    report(world, "Patroni frozen and thawed", from);
    assert_eq!(world.primary().2, epoch + 1);
    let kept = world.control.transitions.borrow().clone();
    let served: Vec<_> = kept
        .iter()
        .filter(|it| it.at >= from)
        .filter_map(|it| {
            if let What::Serving { member, .. } = it.what { Some((it.epoch.0, member)) } else { None }
        })
        .collect();
    assert!(served.iter().all(|(at, member)| *at == epoch || *member != old_id), "{served:?}");
    assert!(world.happened(|what| *what == What::Fenced(old_id)) >= 1);
}

async fn follows_a_killed_leader(world: &World) {
    let (old, old_id, epoch) = world.primary();
    let from = Instant::now();
    world.cluster.kill(&old, How::Member).await.unwrap();
    world.until("held", |topology| topology.primary().is_none()).await;
    let held = from.elapsed();
    assert!(held < Duration::from_secs(3), "noticed at the next check: {held:?}");
    // Reads go on all the time.
    let mut seen = world.control.topology.clone();
    let follow = seen.wait_for(|topology| {
        assert!(!readable(topology).is_empty() || topology.epoch.0 > epoch, "{topology:#?}");
        topology.primary().is_some()
    });
    let topology = timeout(STEP, follow).await.expect("another primary").unwrap().clone();
    assert_eq!(topology.epoch.0, epoch + 1);
    assert_ne!(topology.primary().unwrap().id, old_id);
    report(world, "leader killed", from);
}

/// Hands bytes on between a port of its own and etcd, until it is told to stop.
struct Relay {
    address: SocketAddr,
    open: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Relay {
    async fn before(port: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, seen) = watch::channel(true);
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
                    // etcd may be away: then the connection just ends.
                    let Ok(mut to) = TcpStream::connect(("127.0.0.1", port)).await else { return };
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
