//! Sessions that go from worker to worker, under load.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use pg_ha_proxy::cli::demo::proxy_toml;
use pg_ha_proxy::config::Config;
use pg_ha_proxy::run::Proxy;
use pg_ha_proxy::session::Mail;

use crate::support::{PATIENCE, World, application, block_on, connect_as, one};

#[test]
fn sessions_keep_all_they_have_on_their_way_between_workers() {
    let world = World::shared();
    let status = &world.status;
    let text = proxy_toml(status, ([127, 0, 0, 1], 0).into(), ([127, 0, 0, 1], 0).into());
    let text = text.replace("[listen]", "[listen]\nworkers = 2");
    let config = Config::parse(&text, &status.dir.join("workers.toml")).unwrap();
    let proxy = Proxy::start(config, &status.dir.join("workers.toml"), Box::new(|_| ())).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while proxy.shared().topology.borrow().primary().is_none() {
        assert!(Instant::now() < deadline, "no primary");
        std::thread::sleep(Duration::from_millis(5));
    }
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
        block_on(join_all((0..8).map(|n| work(proxy.addresses()[0].port(), n))));
    });
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
