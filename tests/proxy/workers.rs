//! Sessions that go from worker to worker, under load.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use pg_ha_proxy::cli::demo::proxy_toml;
use pg_ha_proxy::config::Config;
use pg_ha_proxy::run::Proxy;
use pg_ha_proxy::session::Mail;

use crate::support::{PATIENCE, Psql, World, application, block_on, connect_as, one};

#[test]
fn sessions_keep_all_they_have_on_their_way_between_workers() {
    let proxy = of_two_workers("");
    while_they_are_moved(&proxy, || {
        block_on(join_all((0..8).map(|n| work(proxy.addresses()[0].port(), n))));
    });
    all_workers_served(proxy);
}

#[test]
fn sessions_under_tls_go_too() {
    let world = World::shared();
    let (certificate, key) = world.cluster.certificates().server();
    let (certificate, key) = (certificate.display(), key.display());
    let proxy = of_two_workers(&format!(
        "client_mode = \"require\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n"
    ));
    while_they_are_moved(&proxy, || {
        std::thread::scope(|scope| {
            for n in 0..4_usize {
                let port = proxy.addresses()[0].port();
                scope.spawn(move || work_under_tls(&mut Psql::start_with(&world.status, port, "require"), n));
            }
        });
    });
    all_workers_served(proxy);
}

/// A proxy before the shared cluster, with these lines under `[tls]`.
fn of_two_workers(tls: &str) -> Proxy {
    let status = &World::shared().status;
    let text = proxy_toml(status, ([127, 0, 0, 1], 0).into(), ([127, 0, 0, 1], 0).into());
    let text = text.replace("[listen]", "[listen]\nworkers = 2").replace("[tls]\n", &format!("[tls]\n{tls}"));
    assert!(text.contains(tls), "{text}");
    let config = Config::parse(&text, &status.dir.join("workers.toml")).unwrap();
    let proxy = Proxy::start(config, &status.dir.join("workers.toml"), Box::new(|_| ())).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while proxy.shared().topology.borrow().primary().is_none() {
        assert!(Instant::now() < deadline, "no primary");
        std::thread::sleep(Duration::from_millis(5));
    }
    proxy
}

/// Sends all sessions from worker to worker for as long as they are at work.
fn while_they_are_moved(proxy: &Proxy, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0;
            while !done.load(Relaxed) {
                for session in 1..=16 {
                    turn += 1;
                    proxy.shared().post(turn % 2, Mail::Move(session, (turn + 1) % 2));
                }
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let _done = Done(&done);
        work();
    });
}

fn all_workers_served(proxy: Proxy) {
    let pools = proxy.shared().pools();
    for worker in [0, 1] {
        assert!(pools.iter().any(|pool| pool.worker == worker), "nobody came to worker {worker}: {pools:?}");
    }
    assert_eq!(proxy.shared().panics.get(), 0);
    proxy.stop().unwrap();
}

/// Ends the moving, however the sessions end.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A session with a setting, and answers of many TLS records.
fn work_under_tls(psql: &mut Psql, n: usize) {
    psql.say(&format!("SET work_mem = '{}kB';", 2000 + n));
    for round in 0..60 {
        let length = 1 + round * 1000;
        let said = psql.say(&format!("SELECT repeat('x', {length}); SHOW work_mem;"));
        let setting = format!("{}kB", 2000 + n);
        assert_eq!(said.split('\n').map(str::len).collect::<Vec<_>>(), [length, setting.len()]);
        assert!(said.ends_with(&setting), "{:?}", said.rsplit('\n').next());
    }
}

/// A session with a setting, a prepared statement and transactions of its own.
async fn work(port: u16, n: u32) {
    let client = connect_as(&application(&World::shared().status, port)).await;
    client.batch_execute(&format!("SET work_mem = '{}kB'", 1000 + n)).await.unwrap();
    let prepared = client.prepare(&format!("SELECT $1::int + {n}")).await.unwrap();
    for round in 0..150_i32 {
        assert_eq!(one(&client, "SHOW work_mem").await, format!("{}kB", 1000 + n));
        let sum: i32 = client.query_one(&prepared, &[&round]).await.unwrap().get(0);
        assert_eq!(sum, round + n.cast_signed());
        if round % 10 == 0 {
            client.batch_execute("BEGIN; SET LOCAL work_mem = '2MB'").await.unwrap();
            assert_eq!(one(&client, "SHOW work_mem").await, "2MB");
            client.batch_execute("COMMIT").await.unwrap();
        }
    }
    // A cancel finds the session wherever it is.
    let begun = Instant::now();
    let (cancel, sleep) = (client.cancel_token(), client.batch_execute("SELECT pg_sleep(60)"));
    let canceller = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        loop {
            cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        ended = sleep => {
            let error = ended.err().unwrap_or_else(|| panic!("session {n} slept for {:?}", begun.elapsed()));
            assert_eq!(error.code().unwrap().code(), "57014");
        }
        () = canceller => unreachable!(),
    }
}
