//! Relays before the members' ports, so that a member can be cut off without root and without a firewall.
//!
//! A cut-off member's relays stall: no byte goes either way, connections stay open, new ones are taken and hang.
//! Healing goes on where it stopped, as a network that comes back does. The relays run on a thread of their own, so
//! that a caller which blocks its runtime does not stall them. What a relay can't show is a refused connection: when
//! nobody listens behind it, it takes the connection and resets it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

use super::origin::Origins;
use super::{Error, ports::Port};

/// Connections through one relay at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 1_000;
const BUFFER: usize = 64 * 1024;

/// A way to be relayed.
#[derive(Debug)]
pub(super) struct Route {
    /// The port that is connected to.
    pub(super) port: Port,
    /// The port of 127.0.0.1 behind it.
    pub(super) to: u16,
    /// The number of the member whose partition stalls it.
    pub(super) member: usize,
}

/// All relays of a cluster. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Relays {
    cuts: Vec<watch::Sender<bool>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Relays {
    /// Listens on every route's port. `origins` tells which member a connection comes from.
    pub(super) fn start(members: usize, routes: Vec<Route>, origins: Arc<Origins>) -> Result<Self, Error> {
        let cuts: Vec<_> = (0..members).map(|_| watch::channel(false).0).collect();
        let cut: Arc<[watch::Receiver<bool>]> = cuts.iter().map(watch::Sender::subscribe).collect();
        let (stop, stopped) = oneshot::channel();
        let (ready, outcome) = std::sync::mpsc::sync_channel(1);
        let run = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            runtime.block_on(async {
                let listening = listen_all(&routes).await;
                let listeners = match listening {
                    Ok(listeners) => listeners,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let mut relays = JoinSet::new();
                for (route, listener) in routes.iter().zip(listeners) {
                    relays.spawn(relay(listener, route.to, route.member, cut.clone(), origins.clone()));
                }
                if ready.send(Ok(())).is_ok() {
                    // An error means that the sender is gone, which is the same order.
                    let _ = stopped.await;
                }
            });
        };
        let thread =
            std::thread::Builder::new().name("relays".to_owned()).spawn(run).map_err(Error::io("relays"))?;
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        outcome.recv().map_err(gone).and_then(|outcome| outcome).map_err(Error::io("relays"))?;
        Ok(Self { cuts, stop: Some(stop), thread: Some(thread) })
    }

    /// Cuts a member off from etcd, from the other members and from every client, or heals that.
    pub(super) fn cut(&self, member: usize, cut: bool) {
        if let Some(sender) = self.cuts.get(member) {
            sender.send_replace(cut);
        }
    }

    /// Whether a member is cut off.
    pub(super) fn is_cut(&self, member: usize) -> bool {
        self.cuts.get(member).is_some_and(|sender| *sender.borrow())
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to return, and a panic of its own was printed.
            let _ = thread.join();
        }
    }
}

async fn listen_all(routes: &[Route]) -> std::io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::with_capacity(routes.len());
    for route in routes {
        listeners.push(TcpListener::bind((Ipv4Addr::LOCALHOST, route.port.number())).await?);
    }
    Ok(listeners)
}

async fn relay(
    listener: TcpListener,
    to: u16,
    member: usize,
    cuts: Arc<[watch::Receiver<bool>]>,
    origins: Arc<Origins>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((client, from)) = listener.accept().await else {
            // Out of file descriptors, or the client has gone again.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let local = listener.local_addr().map_or(0, |address| address.port());
        let origin = origins.of_connection(from.port(), local);
        let gates =
            [Some(member), origin].into_iter().flatten().filter_map(|number| cuts.get(number).cloned());
        let gates = Gates(gates.collect());
        connections.spawn(async move {
            connect_and_pass(client, to, gates).await;
            drop(place);
        });
    }
}

async fn connect_and_pass(client: TcpStream, to: u16, mut gates: Gates) {
    gates.open().await;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, to));
    let Ok(server) = TcpStream::connect(address).await else {
        // Reset rather than closed: the nearest to a refusal.
        let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
        return;
    };
    let (near, far) = (client.set_nodelay(true), server.set_nodelay(true));
    if near.is_err() || far.is_err() {
        return;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut ways = JoinSet::new();
    ways.spawn(pass(from_client, to_server, gates.clone()));
    ways.spawn(pass(from_server, to_client, gates));
    while ways.join_next().await.is_some() {}
}

/// Passes bytes one way until the end of the stream or an error, but nothing, not even the end, through a shut gate.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut gates: Gates) {
    let mut buffer = vec![0; BUFFER];
    loop {
        gates.open().await;
        let mut watched = gates.clone();
        let read = tokio::select! {
            biased;
            () = watched.shut() => continue,
            read = from.read(&mut buffer) => read.unwrap_or(0),
        };
        gates.open().await;
        let written = match buffer.get(..read) {
            Some(bytes) if read > 0 => to.write_all(bytes).await.is_ok(),
            _ => false,
        };
        if !written {
            // The other side may be gone already.
            let _ = to.shutdown().await;
            return;
        }
    }
}

/// The partitions that a connection can be caught in: its target's and, if it comes from a member, that one's.
#[derive(Clone)]
struct Gates(Vec<watch::Receiver<bool>>);

impl Gates {
    /// Waits until none is shut.
    async fn open(&mut self) {
        while self.0.iter().any(|gate| *gate.borrow()) {
            for gate in &mut self.0 {
                if gate.wait_for(|cut| !cut).await.is_err() {
                    // The cluster ends, and this task with it.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Waits until one is shut.
    async fn shut(&mut self) {
        let mut first = JoinAny(Vec::new());
        for gate in &mut self.0 {
            first.0.push(Box::pin(async move {
                if gate.wait_for(|cut| *cut).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }));
        }
        first.await;
    }
}

/// Ready when any of its futures is; for the two that there are at most.
struct JoinAny<'a>(Vec<std::pin::Pin<Box<dyn Future<Output = ()> + Send + 'a>>>);

impl Future for JoinAny<'_> {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        match self.0.iter_mut().any(|future| future.as_mut().poll(cx).is_ready()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests;
