//! The reactor with sockets of the loopback, on a thread of its own in each test.

use std::future::Future;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::task::yield_now;

use super::{Loose, ReactorListener, ReactorSocket, Ticks, block_on, close, is_here, open};

/// A connection: one end that blocks, one that doesn't.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (own, _) = listener.accept().unwrap();
    own.set_nonblocking(true).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (peer, own)
}

/// A listening socket that doesn't block.
fn listening() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Runs a test on a reactor of this thread.
pub(super) fn on_reactor(test: impl Future<Output = ()> + 'static) {
    open().unwrap();
    block_on(test).unwrap();
    close();
    assert!(!is_here());
}

fn socket(tcp: TcpStream) -> ReactorSocket {
    let socket = ReactorSocket::new(Loose::from(tcp)).unwrap();
    socket.in_turns();
    socket
}

async fn read(socket: &ReactorSocket, buf: &mut [u8]) -> std::io::Result<usize> {
    poll_fn(|cx| socket.poll_read(cx, buf)).await
}

async fn write(socket: &ReactorSocket, buf: &[u8]) {
    let mut done = 0;
    while done < buf.len() {
        done += poll_fn(|cx| socket.poll_write(cx, &buf[done..])).await.unwrap();
    }
}

/// The context of nobody.
fn nobody() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// As many bytes as no socket's buffers hold.
fn many() -> Vec<u8> {
    (0..32 << 20).map(|n: u32| (n >> 4) as u8).collect()
}

/// Gives a socket as many sevens as it takes while its peer doesn't read.
async fn fill(socket: &ReactorSocket) -> usize {
    let mut given = 0;
    while let Poll::Ready(written) = socket.poll_write(&mut nobody(), &[7; 1000]) {
        given += written.unwrap();
        assert!(given < 64 << 20, "it takes without end");
        yield_now().await;
    }
    given
}

/// Reads so many sevens on a thread of its own.
fn read_sevens(mut peer: TcpStream, count: usize) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut got = vec![0; count];
        peer.read_exact(&mut got).unwrap();
        assert!(got.iter().all(|byte| *byte == 7));
    })
}

#[test]
fn what_a_turn_gave_is_sent_when_it_ends() {
    let (mut peer, own) = pair();
    on_reactor(async move {
        let own = socket(own);
        write(&own, b"one").await;
        write(&own, b"two").await;
        peer.set_nonblocking(true).unwrap();
        let early = peer.read(&mut [0; 8]).unwrap_err();
        assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
        yield_now().await;
        peer.set_nonblocking(false).unwrap();
        let mut got = [0; 6];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"onetwo");
    });
}

#[test]
fn a_long_write_comes_behind_what_was_put_off() {
    let (mut peer, own) = pair();
    let long = many();
    let expected = [b"first", &*long, b"last"].concat();
    let reading = std::thread::spawn(move || {
        let mut got = vec![0; expected.len()];
        peer.read_exact(&mut got).unwrap();
        assert!(got == expected);
    });
    on_reactor(async move {
        let own = socket(own);
        write(&own, b"first").await;
        write(&own, &long).await;
        write(&own, b"last").await;
        poll_fn(|cx| own.poll_sent(cx)).await.unwrap();
    });
    reading.join().unwrap();
}

#[test]
fn a_peer_that_does_not_read_stops_the_writer() {
    let (peer, own) = pair();
    on_reactor(async move {
        let own = socket(own);
        let given = fill(&own).await;
        let reading = read_sevens(peer, given);
        poll_fn(|cx| own.poll_sent(cx)).await.unwrap();
        reading.join().unwrap();
    });
}

#[test]
fn the_end_comes_behind_the_last_bytes() {
    let (mut peer, own) = pair();
    on_reactor(async move {
        let own = socket(own);
        peer.write_all(b"goodbye").unwrap();
        drop(peer);
        let mut buf = [0; 64];
        assert_eq!(read(&own, &mut buf).await.unwrap(), 7);
        assert_eq!(read(&own, &mut buf).await.unwrap(), 0);
        assert_eq!(read(&own, &mut buf).await.unwrap(), 0, "again");
    });
}

#[test]
fn more_than_a_buffer_is_read_in_order() {
    let (mut peer, own) = pair();
    let sent = many();
    let writing = {
        let sent = sent.clone();
        std::thread::spawn(move || peer.write_all(&sent).unwrap())
    };
    on_reactor(async move {
        let own = socket(own);
        let (mut got, mut buf) = (Vec::new(), vec![0; 1000]);
        while got.len() < sent.len() {
            let n = read(&own, &mut buf).await.unwrap();
            assert!(n > 0);
            got.extend_from_slice(&buf[..n]);
            // What is read to is now shorter, now longer than what comes.
            buf.resize(if got.len() % 3 == 0 { 1000 } else { 64 << 10 }, 0);
        }
        assert!(got == sent);
    });
    writing.join().unwrap();
}

#[test]
fn one_that_always_has_something_leaves_the_others_their_turn() {
    const ALL: usize = 4 << 20;
    let (mut peer, own) = pair();
    let writing = std::thread::spawn(move || peer.write_all(&vec![7; ALL]).unwrap());
    on_reactor(async move {
        let own = socket(own);
        let (mut got, mut turns) = (0, 0);
        poll_fn(|cx| {
            turns += 1;
            let mut in_a_row = 0;
            while got < ALL
                && let Poll::Ready(read) = own.poll_read(cx, &mut [0; 4096])
            {
                got += read.unwrap();
                in_a_row += 1;
                // What it is asked, and what had come as the turn began.
                assert!(in_a_row <= 32 + 1, "{in_a_row} times without a look at others");
            }
            if got < ALL { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        assert!(turns > 10, "all in {turns} turns");
    });
    writing.join().unwrap();
}

#[test]
fn a_socket_that_has_something_is_not_quiet() {
    let (mut peer, own) = pair();
    on_reactor(async move {
        let own = socket(own);
        assert!(own.is_quiet());
        peer.write_all(b"x").unwrap();
        // Until epoll has told it.
        while own.is_quiet() {
            yield_now().await;
        }
        let mut buf = [0; 4];
        let waits = own.poll_read(&mut nobody(), &mut buf);
        assert!(waits.is_pending(), "what it found is lost");
        drop(peer);
        assert_eq!(read(&own, &mut buf).await.unwrap(), 0);
        assert!(!own.is_quiet(), "nor is one that has ended");
    });
}

#[test]
fn a_reset_reaches_who_reads_and_who_writes() {
    for write_first in [true, false] {
        let (mut peer, own) = pair();
        on_reactor(async move {
            let own = socket(own);
            // Closed with bytes that nobody has read: a reset.
            write(&own, b"unread").await;
            yield_now().await;
            peer.read_exact(&mut [0; 1]).unwrap();
            drop(peer);
            if write_first {
                write(&own, b"into the void").await;
            }
            let outcome = read(&own, &mut [0; 8]).await;
            assert!(matches!(outcome, Err(_) | Ok(0)), "{outcome:?}");
            let mut failed = false;
            for _ in 0..100 {
                failed |= matches!(own.poll_write(&mut nobody(), b"x"), Poll::Ready(Err(_)));
                yield_now().await;
            }
            assert!(failed, "who writes on hears of it");
        });
    }
}

#[test]
fn another_thread_wakes_it() {
    let (give, take) = tokio::sync::oneshot::channel();
    let giving = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        give.send(5).unwrap();
    });
    on_reactor(async move { assert_eq!(take.await.unwrap(), 5) });
    giving.join().unwrap();
}

#[test]
fn a_dropped_socket_has_sent_what_it_took() {
    let (mut peer, own) = pair();
    on_reactor(async move {
        let own = socket(own);
        write(&own, b"last words").await;
        drop(own);
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"last words");
    });
}

#[test]
fn a_socket_takes_all_along_to_another_thread() {
    let (mut peer, own) = pair();
    on_reactor(async move {
        let own = socket(own);
        peer.write_all(b"abcde").unwrap();
        let mut buf = [0; 2];
        assert_eq!((read(&own, &mut buf).await.unwrap(), &buf), (2, b"ab"));
        let given = fill(&own).await;
        let loose = own.let_go().unwrap();
        std::thread::spawn(move || arrive(loose, given, peer)).join().unwrap();
    });
}

/// Takes a socket over that has three bytes unread and more to send than its peer takes.
fn arrive(loose: Loose, given: usize, peer: TcpStream) {
    let reading = read_sevens(peer, given);
    on_reactor(async move {
        let own = ReactorSocket::new(loose).unwrap();
        let mut buf = [0; 3];
        assert_eq!((read(&own, &mut buf).await.unwrap(), &buf), (3, b"cde"));
        poll_fn(|cx| own.poll_sent(cx)).await.unwrap();
        reading.join().unwrap();
        assert_eq!(read(&own, &mut buf).await.unwrap(), 0);
    });
}

#[test]
fn a_socket_is_of_no_use_on_another_thread() {
    let (_peer, own) = pair();
    on_reactor(async move {
        let own = socket(own);
        std::thread::spawn(move || {
            let read = own.poll_read(&mut nobody(), &mut [0; 1]);
            assert!(matches!(read, Poll::Ready(Err(_))), "{read:?}");
            open().unwrap();
            assert!(own.let_go().is_err(), "nor on one with another reactor");
            close();
        })
        .join()
        .unwrap();
    });
}

#[test]
fn connections_are_accepted_as_they_come() {
    let (listener, address) = listening();
    on_reactor(async move {
        let listener = ReactorListener::new(listener).unwrap();
        for _ in 0..3 {
            let connecting = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(10));
                let mut tcp = TcpStream::connect(address).unwrap();
                tcp.write_all(b"hello").unwrap();
                tcp.read_to_end(&mut Vec::new()).unwrap();
                tcp.local_addr().unwrap()
            });
            let (tcp, from) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
            let own = ReactorSocket::new(Loose::from(tcp)).unwrap();
            let mut buf = [0; 8];
            assert_eq!(poll_fn(|cx| own.poll_peek(cx, &mut buf)).await.unwrap(), 5);
            assert_eq!(read(&own, &mut buf).await.unwrap(), 5);
            drop(own);
            assert_eq!(connecting.join().unwrap(), from);
        }
    });
}

#[test]
fn who_comes_in_a_storm_is_accepted_to_the_last() {
    let (listener, address) = listening();
    on_reactor(async move {
        let listener = ReactorListener::new(listener).unwrap();
        for crowd in [1, 100, 1, 2] {
            let waiting: Vec<_> = (0..crowd).map(|_| TcpStream::connect(address).unwrap()).collect();
            let mut here: Vec<_> = waiting.iter().map(|tcp| tcp.local_addr().unwrap()).collect();
            for _ in 0..crowd {
                let (_tcp, from) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
                here.retain(|address| *address != from);
            }
            assert!(here.is_empty());
            assert!(listener.poll_accept(&mut nobody()).is_pending());
        }
    });
}

#[test]
fn a_listener_that_fails_is_silent_until_it_is_tried_again() {
    // No listening socket: accepting from it fails, and it has always something to say.
    let (peer, own) = pair();
    on_reactor(async move {
        let listener = ReactorListener::new(std::os::fd::OwnedFd::from(own).into()).unwrap();
        drop(peer);
        for _ in 0..2 {
            let accepted = poll_fn(|cx| listener.poll_accept(cx)).await;
            assert_eq!(accepted.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
            let reactor = super::here().unwrap();
            let events =
                || reactor.poll.borrow_mut().poll(&mut reactor.events.borrow_mut(), Some(Duration::ZERO));
            events().unwrap();
            assert!(reactor.events.borrow().is_empty());
        }
    });
}

#[test]
fn a_clock_ticks_once_each_time() {
    on_reactor(async {
        let period = Duration::from_millis(20);
        let (began, ticks) = (Instant::now(), Ticks::new(period, period).unwrap());
        for n in 1..4 {
            ticks.tick().await.unwrap();
            assert!(began.elapsed() >= n * period);
            let next = ticks.tick();
            assert!(pin!(next).poll(&mut nobody()).is_pending());
            ticks.go_on(false).unwrap();
        }
    });
}

#[test]
fn at_rest_the_clock_is_slow_until_something_comes() {
    let (mut peer, own) = pair();
    on_reactor(async move {
        let socket = socket(own);
        let (period, rest) = (Duration::from_millis(10), Duration::from_secs(100));
        let ticks = Ticks::new(period, rest).unwrap();
        ticks.tick().await.unwrap();
        // Nothing has come so far.
        ticks.go_on(true).unwrap();
        let sending = std::thread::spawn(move || {
            std::thread::sleep(10 * period);
            peer.write_all(b"one").unwrap();
            peer
        });
        let began = Instant::now();
        assert_eq!(read(&socket, &mut [0; 8]).await.unwrap(), 3);
        let tick = ticks.tick();
        assert!(pin!(tick).poll(&mut nobody()).is_ready(), "what comes is a tick");
        assert!(began.elapsed() >= 10 * period, "and nothing was one before");
        // That was something: no rest yet.
        ticks.go_on(true).unwrap();
        ticks.tick().await.unwrap();
        assert!(began.elapsed() < rest);
        drop(sending.join().unwrap());
    });
}

#[test]
fn what_is_read_ahead_is_pending_until_it_is_taken() {
    let (mut peer, own) = pair();
    on_reactor(async move {
        let socket = ReactorSocket::new(Loose::from(own)).unwrap();
        assert!(!socket.has_pending().unwrap());
        peer.write_all(b"first second").unwrap();
        let mut glance = [0; 512];
        for _ in 0..2 {
            assert_eq!(poll_fn(|cx| socket.poll_peek(cx, &mut glance)).await.unwrap(), 12);
            assert_eq!(&glance[..12], b"first second");
        }
        let mut some = [0; 6];
        assert_eq!(read(&socket, &mut some).await.unwrap(), 6);
        assert!(socket.has_pending().unwrap());
        assert_eq!(poll_fn(|cx| socket.poll_peek(cx, &mut glance[..3])).await.unwrap(), 3);
        assert_eq!(&glance[..3], b"sec");
        assert_eq!(read(&socket, &mut some).await.unwrap(), 6);
        assert_eq!(&some, b"second");
        assert!(!socket.has_pending().unwrap());
        drop(peer);
        assert_eq!(poll_fn(|cx| socket.poll_peek(cx, &mut glance)).await.unwrap(), 0);
        assert_eq!(read(&socket, &mut some).await.unwrap(), 0);
    });
}
