//! Relays before the members' ports, so that a member can be cut off without root and without a firewall.
//!
//! A cut-off member's relays stall: no byte goes either way, connections stay open, new ones are taken and hang.
//! Healing goes on where it stopped, as a network that comes back does. The relays run on a thread of their own, so
//! that a caller which blocks its runtime does not stall them. A relay listens while the server behind it does; in the
//! moment before it has seen that the server went, it takes connections and resets them.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

use super::origin::{self, Origins};
use super::{Error, ports::Port};

/// Connections through one relay at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 1_000;
const BUFFER: usize = 64 * 1024;
/// How long a server may be gone before its relay refuses connections.
const LOOK_EVERY: Duration = Duration::from_millis(20);

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

/// A route without its hold on the port.
struct Numbers {
    port: u16,
    to: u16,
    member: usize,
}

impl Route {
    fn numbers(&self) -> Numbers {
        Numbers { port: self.port.number(), to: self.to, member: self.member }
    }
}

/// All relays of a cluster. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Relays {
    cuts: Vec<watch::Sender<bool>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Relays {
    /// Serves every route from now on. `origins` tells which member a connection comes from.
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
                let mut relays = JoinSet::new();
                let (publish, listening) = watch::channel(HashSet::new());
                relays.spawn(look_who_listens(publish, routes.iter().map(|route| route.to).collect()));
                for route in &routes {
                    let cut = cut.clone();
                    let relay = Relay { route: route.numbers(), cut, origins: origins.clone() };
                    relays.spawn(relay.run(listening.clone()));
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

/// Looks which of the servers listen, and says so whenever that changes.
async fn look_who_listens(publish: watch::Sender<HashSet<u16>>, servers: HashSet<u16>) {
    loop {
        let now: HashSet<u16> = origin::listening().intersection(&servers).copied().collect();
        publish.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// One relay.
struct Relay {
    route: Numbers,
    cut: Arc<[watch::Receiver<bool>]>,
    origins: Arc<Origins>,
}

impl Relay {
    /// Listens as long as the server does, so that a connection is refused where the server would refuse it. A member
    /// that is cut off goes on listening: nobody can see that its server is dead.
    async fn run(self, mut listening: watch::Receiver<HashSet<u16>>) {
        let Some(mut cut) = self.cut.get(self.route.member).cloned() else { return };
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let to = self.route.to;
            if listening.wait_for(|ports| ports.contains(&to)).await.is_err() {
                return;
            }
            let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, self.route.port)).await {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::warn!(port = self.route.port, %error, "a relay can't listen");
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
            };
            tokio::select! {
                () = self.accept(&listener, &places, &mut connections) => {}
                () = refused(&mut listening, &mut cut, to) => {}
            }
        }
    }

    async fn accept(&self, listener: &TcpListener, places: &Arc<Semaphore>, connections: &mut JoinSet<()>) {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Ok((client, from)) = listener.accept().await else {
                // Out of file descriptors, or the client has gone again.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            while connections.try_join_next().is_some() {}
            let origin = self.origins.of_connection(from.port(), self.route.port);
            let members = [Some(self.route.member), origin].into_iter().flatten();
            let gates = Gates(members.filter_map(|number| self.cut.get(number).cloned()).collect());
            let to = self.route.to;
            connections.spawn(async move {
                connect_and_pass(client, to, gates).await;
                drop(place);
            });
        }
    }
}

/// Waits until the server does not listen while its member is not cut off.
async fn refused(listening: &mut watch::Receiver<HashSet<u16>>, cut: &mut watch::Receiver<bool>, to: u16) {
    loop {
        let gone = listening.wait_for(|ports| !ports.contains(&to)).await.is_err();
        let healed = cut.wait_for(|cut| !cut).await.is_err();
        if gone || healed || !listening.borrow().contains(&to) {
            return;
        }
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
        if self.0.iter_mut().any(|future| future.as_mut().poll(cx).is_ready()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests;
