//! Just enough of a proxy to log in through: our server side towards the client, our client side towards PostgreSQL,
//! and a copy of bytes between them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pg_ha_proxy::backend::{self, ConnectError, Connected, Login, Server};
use pg_ha_proxy::client::{
    Accepted, ClientLimits, Configured, HandshakeConfig, HandshakeError, Lookup, Outcome, Rules, Turns,
    Verifiers, VerifiersConfig, accept,
};
use pg_ha_proxy::config::{KeepAlive, Tls, TlsMode, User};
use pg_ha_proxy::net::tls::{ClientTls, ServerTls};
use pg_ha_proxy::net::{Listening, Stream, reactor};
use pg_ha_proxy::scram::{Credentials, LookupError};
use pg_ha_proxy::wire::{TxStatus, build};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) fn keep_alive() -> KeepAlive {
    KeepAlive { idle: LONG, interval: LONG, count: 3, user_timeout: LONG }
}

pub(crate) fn tls(mode: TlsMode, ca: Option<PathBuf>) -> Tls {
    Tls {
        client_mode: TlsMode::Prefer,
        certificate: None,
        key: None,
        client_ca: None,
        server_mode: mode,
        server_ca: ca,
    }
}

pub(crate) fn client_tls(mode: TlsMode) -> ClientTls {
    ClientTls::new(&tls(mode, None), None).unwrap()
}

pub(crate) fn handshake_config(tls: Option<ServerTls>) -> HandshakeConfig {
    HandshakeConfig {
        tls,
        require_tls: false,
        rules: Rules::new(&[], &[]),
        limits: ClientLimits::default(),
        login_timeout: LONG,
        logins: Arc::new(Turns::new(8)),
    }
}

pub(crate) fn verifiers(users: &[User], lookup: Option<Lookup>) -> Verifiers {
    let config = VerifiersConfig {
        ttl: Duration::ZERO,
        stale: LONG,
        timeout: LONG,
        capacity: 100,
        cluster_secret: Arc::from(&b"secret"[..]),
    };
    Verifiers::new(Configured::new(users).unwrap(), lookup, config)
}

/// Logs in at a server on this machine.
pub(crate) async fn connect(
    port: u16,
    tls: &ClientTls,
    credentials: &Credentials,
    database: &str,
) -> Result<Connected, ConnectError> {
    let server = Server { host: "localhost", port, tls, keep_alive: &keep_alive(), timeout: LONG };
    backend::connect(&server, &Login { credentials, database, parameters: &[] }).await
}

/// A running proxy, on a reactor as a worker's. It ends when this is dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// What became of each connection that did not get in, in turn.
    pub(crate) refused: mpsc::Receiver<HandshakeError>,
    _running: oneshot::Sender<()>,
}

impl Proxy {
    /// Lets clients in by `verifiers`; those who are in go on to the server at `upstream`, or without one get a
    /// ReadyForQuery and nothing else.
    pub(crate) fn start(config: HandshakeConfig, verifiers: Verifiers, upstream: Option<u16>) -> Self {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let (sender, refused) = mpsc::channel(100);
        let shared = Arc::new((config, verifiers, sender));
        let (running, stopped) = oneshot::channel();
        let timers = Handle::current();
        std::thread::spawn(move || {
            let _entered = timers.enter();
            reactor::open().unwrap();
            reactor::block_on(async move {
                tokio::select! {
                    _dropped = stopped => {}
                    () = take(socket, shared, upstream) => {}
                }
            })
            .unwrap();
            reactor::close();
        });
        Self { address, refused, _running: running }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}

type Shared = (HandshakeConfig, Verifiers, mpsc::Sender<HandshakeError>);

/// Takes connections, each in a task of its own.
async fn take(socket: std::net::TcpListener, shared: Arc<Shared>, upstream: Option<u16>) {
    let socket = Listening::take_up(socket).unwrap();
    while let Ok((tcp, peer)) = socket.accept().await {
        let shared = Arc::clone(&shared);
        reactor::spawn(async move {
            let (config, verifiers, sender) = &*shared;
            match accept(tcp, peer, config, verifiers).await {
                Ok(Outcome::Accepted(accepted)) => serve(*accepted, upstream).await,
                Ok(Outcome::Cancel { .. }) => {}
                Err(error) => sender.send(error).await.unwrap(),
            }
        });
    }
}

async fn serve(mut accepted: Accepted, upstream: Option<u16>) {
    let mut out = std::mem::take(&mut accepted.greeting);
    let Some(port) = upstream else {
        build::ready_for_query(&mut out, TxStatus::Idle);
        accepted.stream.write_all(&out).await.unwrap();
        return;
    };
    let tls = client_tls(TlsMode::Prefer);
    let connected = match connect(port, &tls, &accepted.credentials, &accepted.database).await {
        Ok(connected) => connected,
        Err(error) => panic!("{} can't go on: {error}", accepted.user),
    };
    for (name, value) in connected.parameters.iter() {
        build::parameter_status(&mut out, name, value);
    }
    build::backend_key_data(&mut out, connected.process_id, &[1; 4]);
    build::ready_for_query(&mut out, TxStatus::Idle);
    accepted.stream.write_all(&out).await.unwrap();
    // Either side may end first.
    let _ended = copy_bidirectional(&mut boxed(accepted.stream), &mut boxed(connected.stream)).await;
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

fn boxed(stream: Stream) -> Box<dyn Io> {
    match stream {
        Stream::Plain(tcp) => Box::new(tcp),
        Stream::Tls(tls) => tls,
    }
}

/// A lookup for users that are all configured.
pub(crate) fn no_primary() -> Lookup {
    Arc::new(|_user| Box::pin(async { Err(LookupError::NoPrimary) }))
}
