//! The few HTTP requests that Patroni and etcd are asked: one connection each, small answers.

use std::time::Duration;

use base64::Engine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Answers longer than this are cut.
const LONGEST_ANSWER: u64 = 1 << 20;

/// An answer: the status and the text.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// A request to a server on the loopback.
pub(super) struct Request<'a> {
    pub(super) method: &'static str,
    pub(super) port: u16,
    pub(super) path: &'a str,
    /// User and password.
    pub(super) login: Option<(&'a str, &'a str)>,
    pub(super) body: &'a str,
    pub(super) deadline: Duration,
}

impl<'a> Request<'a> {
    /// A plain GET that is given up after a second.
    pub(super) fn get(port: u16, path: &'a str) -> Self {
        Self { method: "GET", port, path, login: None, body: "", deadline: Duration::from_secs(1) }
    }

    /// Sends it and waits for the whole answer.
    pub(super) async fn send(self) -> std::io::Result<Answer> {
        let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
        tokio::time::timeout(self.deadline, self.exchange()).await.map_err(late)?
    }

    async fn exchange(&self) -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.write_all(self.text().as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
        parse(&answer).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidData))
    }

    fn text(&self) -> String {
        let Self { method, port, path, body, .. } = self;
        let login = self.login.map_or_else(String::new, |(user, password)| {
            let token = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            format!("Authorization: Basic {token}\r\n")
        });
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n{login}Content-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    }
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_an_answer_apart() {
        let answer = parse(b"HTTP/1.0 412 Precondition Failed\r\nServer: x\r\n\r\nno").expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (412, "no"));
        assert!(parse(b"HTTP/1.0 200").is_none() && parse(b"\xff\xfe\r\n\r\n").is_none());
    }
}
