//! Free ports of the loopback, kept free until their servers take them.

use std::net::{Ipv4Addr, SocketAddr};

use rand::RngExt;
use socket2::{Domain, Socket, Type};

use super::Error;

/// Below the ports that Linux gives to outgoing connections, so that none of those is in the way.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// A port that nobody else is given. The socket is bound but does not listen, which leaves the port to a server that
/// binds with `SO_REUSEADDR`, as PostgreSQL, etcd and Patroni do, and keeps it from whoever looks for a free one.
#[derive(Debug)]
pub(super) struct Port {
    number: u16,
    _held: Socket,
}

impl Port {
    /// Any free port.
    pub(super) fn free() -> Result<Self, Error> {
        let mut last = None;
        for _ in 0..200 {
            match Self::take(rand::rng().random_range(RANGE)) {
                Ok(port) => return Ok(port),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::State("no port of 127.0.0.1 is free".to_owned())))
    }

    /// This port if it is free, else any.
    pub(super) fn preferably(number: Option<u16>) -> Result<Self, Error> {
        match number.map(Self::take) {
            Some(Ok(port)) => Ok(port),
            _ => Self::free(),
        }
    }

    /// Its number.
    pub(super) fn number(&self) -> u16 {
        self.number
    }

    fn take(number: u16) -> Result<Self, Error> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
        let hold = || -> std::io::Result<Socket> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&address.into())?;
            socket.set_reuse_address(true)?;
            Ok(socket)
        };
        Ok(Self { number, _held: hold().map_err(Error::io(format!("port {number} of 127.0.0.1")))? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_port_is_the_servers_alone() {
        let port = Port::free().expect("a free port");
        assert!(Port::take(port.number()).is_err(), "two would have the same port");
        // std's listener binds with SO_REUSEADDR, as servers do.
        let server =
            std::net::TcpListener::bind(("127.0.0.1", port.number())).expect("its server may bind it");
        std::net::TcpStream::connect(server.local_addr().expect("bound")).expect("and be reached");
        assert_ne!(Port::preferably(Some(port.number())).expect("another").number(), port.number());
    }
}
