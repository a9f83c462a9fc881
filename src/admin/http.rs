//! Connections of the HTTP side, each with little memory and little time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::{Views, routes};

/// Connections at once; more wait in the listening socket's queue.
const CONNECTIONS: usize = 64;
/// A request's head must have come in full by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection, which serves one request, is cut after this time.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest head of a request, in bytes.
const HEAD_LIMIT: usize = 16 << 10;
/// A wait after `accept` failed, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds the address of the HTTP side.
///
/// # Errors
/// Those of `bind`.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until `stop` is done; then open connections are cut.
pub async fn serve(listener: TcpListener, views: Views, stop: impl Future<Output = ()>) {
    let router = routes::router(views);
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return,
            Some(_ended) = connections.join_next() => continue,
            accepted = accept(&listener, &free) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                connections.spawn(connection(stream, router.clone(), permit));
            }
            Err(why) => {
                tracing::warn!(%why, "HTTP: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(free).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _peer) = listener.accept().await?;
    Ok((stream, permit))
}

async fn connection(stream: TcpStream, router: Router, _permit: OwnedSemaphorePermit) {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_TIMEOUT, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => tracing::debug!(%why, "HTTP: connection failed"),
        Err(_elapsed) => tracing::debug!("HTTP: connection took too long"),
    }
}
