//! A client that sends prepared bytes and reads up to ReadyForQuery, without looking at what it gets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pg_ha_proxy::backend::{self, ClientTls, Credentials, Login, Secret, Server};
use pg_ha_proxy::config::Config;
use pg_ha_proxy::net::Stream;
use pg_ha_proxy::scram::Password;

/// ReadyForQuery outside of a transaction: what every answer ends with.
const READY: &[u8] = b"Z\0\0\0\x05I";

/// A logged-in connection, blocking.
pub(crate) struct Client {
    tcp: TcpStream,
    buffer: Box<[u8]>,
}

impl Client {
    /// Logs in as `user` to a server or a proxy.
    pub(crate) fn connect(address: SocketAddr, user: &str, password: &str) -> Self {
        let config =
            Config::parse("[tls]\nserver_mode = \"disable\"", Path::new("none")).expect("it is good");
        let tls = ClientTls::new(&config.tls, None).expect("TLS is off");
        let secret = Secret::Password(Arc::new(Password::new(password)));
        let credentials = Credentials { user: user.into(), secret };
        let host = address.ip().to_string();
        let server = Server {
            host: &host,
            port: address.port(),
            tls: &tls,
            keep_alive: &config.limits.keep_alive,
            timeout: Duration::from_secs(10),
        };
        let login = Login { credentials: &credentials, database: user, parameters: &[] };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let connected = runtime.block_on(backend::connect(&server, &login)).expect("a login");
        let Stream::Plain(tcp) = connected.stream else { panic!("TLS is off") };
        let tcp = runtime.block_on(async { tcp.into_std() }).expect("a socket");
        tcp.set_nonblocking(false).expect("it blocks");
        Self { tcp, buffer: vec![0; 256 << 10].into() }
    }

    /// Sends `request` and reads its answer to the end; how many bytes that were.
    pub(crate) fn ask(&mut self, request: &[u8]) -> usize {
        self.tcp.write_all(request).expect("it is taken");
        let mut total = 0;
        let mut tail = [0; READY.len()];
        loop {
            let n = self.tcp.read(&mut self.buffer).expect("an answer");
            assert_ne!(n, 0, "the server closed");
            total += n;
            let last = n.min(READY.len());
            tail.rotate_left(last);
            tail[READY.len() - last..].copy_from_slice(&self.buffer[n - last..n]);
            if tail == READY {
                return total;
            }
        }
    }
}
