//! Stopping, and taking up a new file.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Proxy, World, block_on, connect, one, told};

#[test]
fn an_open_transaction_ends_before_the_proxy_does() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "");
    block_on(async {
        let (busy, idle) = (connect(&world.status, &proxy).await, connect(&world.status, &proxy).await);
        busy.batch_execute("CREATE TABLE stopping (n int); BEGIN; INSERT INTO stopping VALUES (1)")
            .await
            .unwrap();
        assert_eq!(one(&idle, "SELECT 1").await, "1");
        proxy.signal(Signal::SIGTERM);
        let end = Instant::now() + Duration::from_secs(10);
        while !idle.is_closed() {
            assert!(Instant::now() < end, "an idle session stays");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(proxy.ended().is_none());
        assert!(std::net::TcpStream::connect(("127.0.0.1", proxy.port)).is_err(), "new clients are taken");
        busy.batch_execute("INSERT INTO stopping VALUES (2)").await.unwrap();
        busy.batch_execute("COMMIT").await.unwrap();
        let status = ended(&proxy).await;
        assert_eq!(status.code(), Some(0), "{}", proxy.log());
        let client = connect(&world.status, &world.proxy).await;
        assert_eq!(one(&client, "/* pgha: primary */ SELECT sum(n) FROM stopping").await, "3");
    });
}

#[test]
fn a_transaction_that_does_not_end_is_cut_off_in_time() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "limits.drain_timeout = '1s'");
    block_on(async {
        let busy = connect(&world.status, &proxy).await;
        busy.batch_execute("BEGIN; CREATE TABLE never_there (n int)").await.unwrap();
        let told_to = Instant::now();
        proxy.signal(Signal::SIGTERM);
        assert_eq!(ended(&proxy).await.code(), Some(0), "{}", proxy.log());
        assert!(told_to.elapsed() > Duration::from_secs(1), "{:?}", told_to.elapsed());
        busy.batch_execute("COMMIT").await.unwrap_err();
        let client = connect(&world.status, &world.proxy).await;
        let error = client.batch_execute("/* pgha: primary */ SELECT FROM never_there").await.unwrap_err();
        assert!(told(&error).contains("42P01"), "{error}");
    });
}

async fn ended(proxy: &Proxy) -> std::process::ExitStatus {
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        if let Some(status) = proxy.ended() {
            return status;
        }
        assert!(Instant::now() < end, "the proxy does not end: {}", proxy.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_bad_file_changes_nothing() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, "log.level = 'info'");
    let good = std::fs::read_to_string(&proxy.configuration).unwrap();
    block_on(async {
        let client = connect(&world.status, &proxy).await;
        std::fs::write(&proxy.configuration, format!("{good}\n[nonsense]\nkey = 1\n")).unwrap();
        proxy.signal(Signal::SIGHUP);
        proxy.until("a refused reload", |proxy| proxy.log().contains("unknown section"));
        let answer = proxy.post("/reload");
        assert!(answer.starts_with("HTTP/1.1 422") && answer.contains("nonsense"), "{answer}");
        assert_eq!(one(&client, "SELECT 1").await, "1");
        assert_eq!(one(&connect(&world.status, &proxy).await, "SELECT 2").await, "2");

        std::fs::write(&proxy.configuration, &good).unwrap();
        proxy.signal(Signal::SIGHUP);
        proxy.until("a reload", |proxy| proxy.log().contains("reloaded"));
        assert!(proxy.post("/reload").starts_with("HTTP/1.1 200"));
        assert_eq!(one(&client, "SELECT 3").await, "3");
    });
    proxy.assert_healthy();
}
