//! A GET from the HTTP side of a running proxy: one connection each, answers of bounded size and time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest answer that is read, in bytes.
const LONGEST: u64 = 64 << 20;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks for a path that is answered with JSON.
///
/// # Errors
/// No connection, no answer in time, another status than 200, no JSON.
pub(super) async fn json(address: SocketAddr, path: &str) -> anyhow::Result<Value> {
    let answer = tokio::time::timeout(TIMEOUT, exchange(address, path)).await;
    let answer = answer
        .unwrap_or_else(|_elapsed| Err(io::Error::from(io::ErrorKind::TimedOut)))
        .with_context(|| format!("no proxy answers on http://{address}"))?;
    let answer = String::from_utf8(answer).context("the answer is not UTF-8")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("http://{address}{path} answers {status:?}");
    }
    serde_json::from_str(body).with_context(|| format!("http://{address}{path}"))
}

async fn exchange(address: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    // With 1.0 the answer comes in one piece and the connection ends behind it.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    Ok(answer)
}
