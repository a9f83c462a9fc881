//! Connecting, and the socket options that notice a dead peer in seconds.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::Socket;
use crate::config::KeepAlive;

/// Sets `TCP_NODELAY` and keep-alive on a socket. What a listening socket has, Linux gives to those that it accepts (tcp(7)).
///
/// # Errors
/// Those of `setsockopt`.
pub fn tune<'s>(socket: impl Into<SockRef<'s>>, keep_alive: &KeepAlive) -> io::Result<()> {
    let socket = socket.into();
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(keep_alive.idle)
            .with_interval(keep_alive.interval)
            .with_retries(keep_alive.count),
    )?;
    socket.set_tcp_user_timeout(Some(keep_alive.user_timeout))
}

/// Connects to `host:port` within `timeout`; names are resolved, each address tried in turn.
///
/// # Errors
/// Those of the resolver and of `connect`; `TimedOut` when `timeout` is over.
pub async fn dial(host: &str, port: u16, timeout: Duration, keep_alive: &KeepAlive) -> io::Result<Socket> {
    let stream = tokio::time::timeout(timeout, TcpStream::connect((host, port)))
        .await
        .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    tune(&stream, keep_alive)?;
    Socket::here(stream)
}
