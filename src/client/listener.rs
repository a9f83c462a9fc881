//! Accepts connections, applies the limits, and hands each to the first worker that has room.
//!
//! The first worker does it, between its sessions' work: most connections are its own then, and no other thread has to be woken.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use socket2::{Domain, Type};
use tokio::sync::{Semaphore, mpsc};

use super::cancel::CancelKeys;
use super::handshake::{HandshakeConfig, refuse};
use super::tally::{Counted, Tally};
use crate::config::KeepAlive;
use crate::net::{Listening, Socket, reactor, tune};
use crate::wire::{Refusal, SqlState};

/// How long a connection over the limit may take to hear so.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How many may be told at once; the others are closed without a word.
const MAX_REFUSALS: usize = 64;
/// What a worker may have to do, in thousandths of a core, and still gets more: clients are packed on few workers while those suffice.
pub const ROOM: u32 = 500;
/// What a client that has just come counts for until its worker is measured.
const ARRIVAL: u32 = 4;
/// Pause after a failure to accept, such as running out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Limits of `[limits]` that hold before the login.
#[derive(Debug, Clone, Copy)]
pub struct ListenLimits {
    /// Clients in all.
    pub clients: usize,
    /// Clients of one address; 0 is no limit.
    pub clients_per_address: usize,
}

/// How many clients there are.
#[derive(Debug, Default)]
pub struct Counters {
    clients: AtomicUsize,
    by_address: Arc<Tally<IpAddr>>,
}

/// One client's place; given back when dropped.
#[derive(Debug)]
pub struct ClientGuard {
    counters: Arc<Counters>,
    _of_address: Counted<IpAddr>,
    /// The worker that it was sent to, where it counts until that is measured.
    worker: Option<Arc<Busyness>>,
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub struct Incoming {
    /// Its socket.
    pub tcp: Arrived,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Its place, kept while it lives.
    pub guard: ClientGuard,
}

/// The socket of a connection that was accepted.
#[derive(Debug)]
pub enum Arrived {
    /// On what the worker runs on that it is given to.
    Here(Socket),
    /// On none yet.
    Loose(std::net::TcpStream),
}

impl Arrived {
    /// The socket on what this thread runs on, which has to be that of the worker that it was given to.
    ///
    /// # Errors
    /// Those of registering it.
    pub fn take_up(self) -> io::Result<Socket> {
        match self {
            Self::Here(tcp) => Ok(tcp),
            Self::Loose(tcp) => Socket::take_up(tcp),
        }
    }
}

/// One worker as the acceptor sees it.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Takes connections up.
    pub incoming: mpsc::Sender<Incoming>,
    /// How busy it is.
    pub busy: Arc<Busyness>,
}

/// How busy a worker is.
#[derive(Debug, Default)]
pub struct Busyness {
    share: AtomicU32,
    arrived: AtomicU32,
}

impl Busyness {
    /// Thousandths of a core, with what arrived since they were measured.
    pub fn now(&self) -> u32 {
        let arrived = self.arrived.load(Ordering::Relaxed).saturating_mul(ARRIVAL);
        self.share.load(Ordering::Relaxed).saturating_add(arrived)
    }

    /// A client was sent there.
    fn arrives(&self) {
        self.arrived.fetch_add(1, Ordering::Relaxed);
    }

    /// A client that was sent there is gone. One that came and went between two measurements counts no more: a storm of logins is no
    /// crowd. Who came before the last takes another's count with it, which that measurement makes good.
    fn leaves(&self) {
        let _none =
            self.arrived.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
    }

    /// The worker used that many thousandths of a core lately.
    pub fn measured(&self, share: u32) {
        self.share.store(share, Ordering::Relaxed);
        self.arrived.store(0, Ordering::Relaxed);
    }
}

/// The listening sockets.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<std::net::TcpListener>,
}

/// To whom the connections go, and within which limits.
#[derive(Debug)]
pub struct Reception {
    /// What holds before the login.
    pub limits: ListenLimits,
    /// How many clients there are.
    pub counters: Arc<Counters>,
    /// The workers; the listener runs on the first one's runtime.
    pub workers: Vec<Worker>,
    /// How those are told that are turned away.
    pub handshake: Arc<ArcSwap<HandshakeConfig>>,
    /// What a cancel request reaches, though there is no place for its connection.
    pub cancel_keys: Arc<CancelKeys>,
}

/// What the accepting tasks share.
struct Acceptor {
    reception: Reception,
    refusals: Arc<Semaphore>,
}

impl Counters {
    /// Clients now.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// A place for a client of `address`, if there is one.
    pub fn admit(self: &Arc<Self>, address: IpAddr, limits: &ListenLimits) -> Option<ClientGuard> {
        let each = Some(limits.clients_per_address).filter(|limit| *limit > 0);
        let each = each.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX));
        let of_address = self.by_address.count(&address, each)?;
        let before = self.clients.fetch_add(1, Ordering::AcqRel);
        // Counts both down again if there is no place.
        let guard = ClientGuard { counters: Arc::clone(self), _of_address: of_address, worker: None };
        (before < limits.clients).then_some(guard)
    }
}

impl ClientGuard {
    /// The client is sent to this worker, where it counts until it leaves or that is measured.
    fn goes_to(&mut self, worker: &Arc<Busyness>) {
        worker.arrives();
        self.worker = Some(Arc::clone(worker));
    }
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        if let Some(worker) = &self.worker {
            worker.leaves();
        }
        self.counters.clients.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Listener {
    /// Binds all addresses. Connections have these socket options from the start.
    ///
    /// # Errors
    /// Those of `bind`, with the address in the text.
    pub fn bind(addresses: &[SocketAddr], backlog: u32, keep_alive: &KeepAlive) -> io::Result<Self> {
        let sockets = addresses.iter().map(|&address| {
            bind(address, backlog, keep_alive)
                .map_err(|error| io::Error::new(error.kind(), format!("can't listen on {address}: {error}")))
        });
        Ok(Self { sockets: sockets.collect::<io::Result<_>>()? })
    }

    /// The addresses as they came out, where port 0 was asked for.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Takes connections from now on, on the runtime that this is called on, until what comes back is dropped.
    ///
    /// # Errors
    /// Those of registering the sockets.
    pub fn open(self, reception: Reception) -> io::Result<impl Future<Output = ()>> {
        let sockets = self.sockets.into_iter().map(Listening::take_up).collect::<io::Result<Vec<_>>>()?;
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        let acceptor = Acceptor { reception, refusals };
        Ok(async move {
            join_all(sockets.into_iter().map(|socket| acceptor.accept(socket))).await;
        })
    }
}

impl Acceptor {
    async fn accept(&self, socket: Listening) {
        loop {
            match socket.accept().await {
                Ok((tcp, peer)) => self.take(tcp, plain(peer)),
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn take(&self, tcp: Socket, peer: SocketAddr) {
        let Reception { counters, limits, .. } = &self.reception;
        let Some(guard) = counters.admit(peer.ip(), limits) else {
            return self.turn_away(tcp, peer);
        };
        if let Some((tcp, peer)) = self.hand_over(tcp, peer, guard) {
            self.turn_away(tcp, peer);
        }
    }

    /// Gives a connection to the first worker with room for it, else to the one with the least to do; gives it back when none takes it.
    fn hand_over(
        &self,
        tcp: Socket,
        peer: SocketAddr,
        mut guard: ClientGuard,
    ) -> Option<(Socket, SocketAddr)> {
        let workers = self.reception.workers.iter().enumerate();
        let room =
            workers.filter_map(|(index, worker)| Some((index, worker, worker.incoming.try_reserve().ok()?)));
        // A worker with room has nothing to do, as it were: the first of them is the least.
        let to_do = |busy: u32| if busy < ROOM { 0 } else { busy };
        let Some((index, worker, place)) = room.min_by_key(|(_, worker, _)| to_do(worker.busy.now())) else {
            return Some((tcp, peer));
        };
        guard.goes_to(&worker.busy);
        let tcp = if index == 0 { Ok(Arrived::Here(tcp)) } else { tcp.into_std().map(Arrived::Loose) };
        match tcp {
            Ok(tcp) => place.send(Incoming { tcp, peer, guard }),
            Err(error) => tracing::warn!(%peer, %error, "can't hand a connection over"),
        }
        None
    }

    fn turn_away(&self, tcp: Socket, peer: SocketAddr) {
        tracing::debug!(%peer, "too many clients");
        let Ok(place) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
        let (handshake, cancel_keys) =
            (self.reception.handshake.load_full(), Arc::clone(&self.reception.cancel_keys));
        reactor::spawn(async move {
            let refusal = Refusal::new(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already");
            if let Some((process_id, secret)) = refuse(tcp, &handshake, &refusal, REFUSAL_TIMEOUT).await {
                cancel_keys.cancel(process_id, &secret);
            }
            drop(place);
        });
    }
}

/// An IPv4 client of a socket that listens on IPv6 comes under an address of IPv6: limits and rules are to know it by its own.
fn plain(peer: SocketAddr) -> SocketAddr {
    match peer.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, peer.port()),
        IpAddr::V6(_) => peer,
    }
}

fn bind(address: SocketAddr, backlog: u32, keep_alive: &KeepAlive) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    tune(&socket, keep_alive)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(clients: usize, clients_per_address: usize) -> ListenLimits {
        ListenLimits { clients, clients_per_address }
    }

    #[test]
    fn connections_have_the_options_of_the_socket_that_accepts_them() {
        let seconds = Duration::from_secs;
        let keep_alive =
            KeepAlive { idle: seconds(11), interval: seconds(12), count: 13, user_timeout: seconds(14) };
        let listener = Listener::bind(&["127.0.0.1:0".parse().unwrap()], 1, &keep_alive).unwrap();
        let client = std::net::TcpStream::connect(listener.addresses()[0]).unwrap();
        let accepted = loop {
            match listener.sockets[0].accept() {
                Ok((accepted, _)) => break accepted,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        let socket = socket2::SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), keep_alive.idle);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), keep_alive.interval);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), keep_alive.count);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(keep_alive.user_timeout));
        drop(client);
    }

    #[test]
    fn a_mapped_address_is_taken_for_what_it_is() {
        let plainly = |text: &str| plain(text.parse().unwrap()).to_string();
        assert_eq!(plainly("[::ffff:10.0.0.1]:5"), "10.0.0.1:5");
        assert_eq!(plainly("[fe80::1%3]:5"), "[fe80::1%3]:5");
    }

    #[test]
    fn who_comes_and_goes_is_no_crowd() {
        let busy = Arc::new(Busyness::default());
        let counters = Arc::new(Counters::default());
        let comes = || {
            let mut guard = counters.admit(IpAddr::from([127, 0, 0, 1]), &limits(9, 9)).unwrap();
            guard.goes_to(&busy);
            guard
        };
        let stays = comes();
        for _ in 0..1000 {
            comes();
        }
        assert_eq!(busy.now(), ARRIVAL);
        busy.measured(100);
        drop(stays);
        assert_eq!(busy.now(), 100, "it was measured");
        let _another = comes();
        assert_eq!(busy.now(), 100 + ARRIVAL);
    }

    #[test]
    fn places_are_limited_and_given_back() {
        let (here, there) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let counters = Arc::new(Counters::default());
        let limits = limits(3, 2);
        let first = counters.admit(here, &limits).unwrap();
        let second = counters.admit(here, &limits).unwrap();
        assert!(counters.admit(here, &limits).is_none(), "over the limit of one address");
        let third = counters.admit(there, &limits).unwrap();
        assert!(counters.admit(there, &limits).is_none(), "over the limit in all");
        assert_eq!(counters.clients(), 3);
        drop(first);
        let again = counters.admit(here, &limits).unwrap();
        drop((second, third, again));
        assert_eq!((counters.clients(), counters.by_address.len()), (0, 0));
    }
}
