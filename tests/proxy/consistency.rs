//! Reads never go back, however late the replicas are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use pg_ha_proxy::cluster::{MemberStatus, Options};
use tokio_postgres::Client;

use crate::support::{Proxy, World, block_on, connect, direct, one};

const LOAD: Duration = Duration::from_secs(12);

/// Reads of one kind: how many, and how many showed less than had been known.
#[derive(Default)]
struct Count {
    reads: AtomicU64,
    stale: AtomicU64,
}

impl Count {
    fn read(&self, good: bool) {
        self.reads.fetch_add(1, Relaxed);
        self.stale.fetch_add(u64::from(!good), Relaxed);
    }
}

#[test]
fn late_replicas_show_nothing_stale() {
    block_on(async {
        let world = World::new(Options::quick(), "").await;
        let setup = connect(&world.status, &world.proxy).await;
        let table = "CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL);
                     INSERT INTO counters SELECT id, 0 FROM generate_series(0, 63) id";
        setup.batch_execute(table).await.unwrap();
        world.replicas_catch_up().await;
        let replicas: Vec<MemberStatus> = world.status.replicas().cloned().collect();
        let on = |replica: usize, sql: &str| direct(&world.status, &replicas[replica], "postgres", sql);
        on(0, "ALTER SYSTEM SET recovery_min_apply_delay = '500ms'");
        on(0, "SELECT pg_reload_conf()");

        let others = Proxy::start(&world.status, "");
        let (own, plain) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for id in 0..64 {
            let client = connect(&world.status, &world.proxy).await;
            tasks.push(tokio::spawn(write_and_read(client, id, Arc::clone(&own), Arc::clone(&stop))));
        }
        for _ in 0..8 {
            let client = connect(&world.status, &others).await;
            tasks.push(tokio::spawn(only_read(client, Arc::clone(&plain), Arc::clone(&stop))));
        }
        let end = Instant::now() + LOAD;
        while Instant::now() < end {
            on(1, "SELECT pg_wal_replay_pause()");
            tokio::time::sleep(Duration::from_millis(1500)).await;
            on(1, "SELECT pg_wal_replay_resume()");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        stop.store(true, Relaxed);
        for ended in join_all(tasks).await {
            ended.expect("no error");
        }
        on(1, "SELECT pg_wal_replay_pause()");
        for n in 1000..1010 {
            let writer = connect(&world.status, &world.proxy).await;
            writer.batch_execute(&format!("UPDATE counters SET n = {n} WHERE id = 0")).await.unwrap();
            drop(writer);
            let reader = connect(&world.status, &world.proxy).await;
            let read = one(&reader, "SELECT n FROM counters WHERE id = 0").await;
            assert_eq!(read, n.to_string(), "who wrote and connects again");
        }
        on(1, "SELECT pg_wal_replay_resume()");
        let counts = |count: &Count| (count.reads.load(Relaxed), count.stale.load(Relaxed));
        let (own, plain) = (counts(&own), counts(&plain));
        let read_by = |member: &str| {
            others.metric("pgha_statements_total", &format!("member=\"{member}\",class=\"read\""))
        };
        let by_replicas: f64 = replicas.iter().map(|member| read_by(&member.name)).sum();
        let share = by_replicas / plain.0 as f64;
        println!("own writes: {own:?} reads, stale; others': {plain:?}, {share:.3} of them by replicas");
        assert!(own.0 > 500 && plain.0 > 500, "{own:?} {plain:?}");
        assert_eq!((own.1, plain.1), (0, 0), "reads went back");
        assert!(share > 0.9, "{share}");
        world.proxy.assert_healthy();
        others.assert_healthy();
        world.cluster.down().await.expect("an end");
    });
}

async fn write_and_read(client: Client, id: i32, count: Arc<Count>, stop: Arc<AtomicBool>) {
    let write = client.prepare("UPDATE counters SET n = $2 WHERE id = $1").await.unwrap();
    let read = client.prepare("SELECT n FROM counters WHERE id = $1").await.unwrap();
    let mut n = 0;
    while !stop.load(Relaxed) {
        n += 1;
        client.execute(&write, &[&id, &n]).await.unwrap();
        for _ in 0..3 {
            count.read(client.query_one(&read, &[&id]).await.unwrap().get::<_, i32>(0) == n);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn only_read(client: Client, count: Arc<Count>, stop: Arc<AtomicBool>) {
    let read = client.prepare("SELECT sum(n) FROM counters").await.unwrap();
    let mut last = 0;
    while !stop.load(Relaxed) {
        let sum: i64 = client.query_one(&read, &[]).await.unwrap().get(0);
        count.read(sum >= last);
        last = sum;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
