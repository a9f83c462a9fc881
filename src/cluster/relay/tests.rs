//! Relays against real sockets: what passes, what stalls, what comes back.

use std::time::Duration;

use tokio::time::timeout;

use super::*;

async fn relayed() -> (Relays, TcpListener, u16) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = Port::free().unwrap();
    let number = port.number();
    let route = Route { port, to: server.local_addr().unwrap().port(), member: 0 };
    let relays = Relays::start(1, vec![route], Arc::default()).unwrap();
    let up = async { while TcpStream::connect(("127.0.0.1", number)).await.is_err() {} };
    timeout(Duration::from_secs(5), up).await.expect("the relay listens");
    server.accept().await.expect("that connection");
    (relays, server, number)
}

async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut buffer = [0; 16];
    let read = timeout(Duration::from_millis(200), stream.read(&mut buffer)).await.ok()?.unwrap();
    Some(String::from_utf8_lossy(&buffer[..read]).into_owned())
}

#[tokio::test]
async fn a_cut_stalls_and_healing_goes_on() {
    let (relays, server, port) = relayed().await;
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut behind, _) = server.accept().await.unwrap();
    client.write_all(b"one").await.unwrap();
    assert_eq!(read(&mut behind).await.as_deref(), Some("one"));

    relays.cut(0, true);
    client.write_all(b"two").await.unwrap();
    behind.write_all(b"back").await.unwrap();
    assert_eq!(read(&mut behind).await, None, "bytes went through a partition");
    assert_eq!(read(&mut client).await, None, "bytes came back through a partition");
    let mut late = TcpStream::connect(("127.0.0.1", port)).await.expect("new connections are taken");
    late.write_all(b"late").await.unwrap();
    assert!(timeout(Duration::from_millis(100), server.accept()).await.is_err(), "and hang");

    relays.cut(0, false);
    assert_eq!(read(&mut behind).await.as_deref(), Some("two"));
    assert_eq!(read(&mut client).await.as_deref(), Some("back"));
    let (mut behind, _) = server.accept().await.unwrap();
    assert_eq!(read(&mut behind).await.as_deref(), Some("late"));
}

#[tokio::test]
async fn the_end_of_a_stream_waits_for_the_healing_too() {
    let (relays, server, port) = relayed().await;
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (behind, _) = server.accept().await.unwrap();
    relays.cut(0, true);
    drop(behind);
    assert_eq!(read(&mut client).await, None, "the end went through a partition");
    relays.cut(0, false);
    assert_eq!(read(&mut client).await.as_deref(), Some(""));
}

#[tokio::test]
async fn a_dead_server_refuses_and_comes_back() {
    let (relays, server, port) = relayed().await;
    let address = server.local_addr().unwrap();
    drop(server);
    let refused = || async { TcpStream::connect(("127.0.0.1", port)).await.is_err() };
    timeout(Duration::from_secs(5), async { while !refused().await {} }).await.expect("a refusal");
    let server = TcpListener::bind(address).await.unwrap();
    timeout(Duration::from_secs(5), async { while refused().await {} }).await.expect("its return");

    relays.cut(0, true);
    drop(server);
    tokio::time::sleep(LOOK_EVERY * 5).await;
    assert!(!refused().await, "a partition shows who is dead");
}
