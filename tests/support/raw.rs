//! The protocol by hand, for what no driver says.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use pg_ha_proxy::scram::{Channel, ClientStart, Nonce};

/// A connection on which anything can be said.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    /// Of its BackendKeyData, once it has logged in.
    pub(crate) process_id: u32,
}

/// A message as it comes: its tag and its body.
pub(crate) type Message = (u8, Vec<u8>);

impl Raw {
    pub(crate) fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        Self { stream, process_id: 0 }
    }

    /// A connection that has logged in.
    pub(crate) fn log_in(port: u16, user: &str, database: &str, password: &str) -> Self {
        Self::log_in_with(port, user, database, password, &[])
    }

    /// The same with more in its startup packet.
    pub(crate) fn log_in_with(
        port: u16,
        user: &str,
        database: &str,
        password: &str,
        more: &[(&str, &str)],
    ) -> Self {
        let mut raw = Self::connect(port);
        raw.send(&startup(&[&[("user", user), ("database", database)], more].concat()));
        let (_, body) = raw.expect(b'R');
        let offered = body[4..].split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
        let start = ClientStart::new(offered, Channel::Unbound, Nonce::from_random([7; 18])).expect("SCRAM");
        let first = start.client_first();
        let mut message = start.mechanism().as_bytes().to_vec();
        message.push(0);
        message.extend_from_slice(&(first.len() as u32).to_be_bytes());
        message.extend_from_slice(first.as_bytes());
        raw.send(&frame(b'p', &message));
        let (_, body) = raw.expect(b'R');
        let challenged = start.handle_server_first(&body[4..]).expect("a challenge");
        let keys = challenged.derivation(password).expect("its cost").run();
        raw.send(&frame(b'p', challenged.prove(&keys).client_final().as_bytes()));
        for (tag, body) in raw.until_ready() {
            if let (b'K', Some(id)) = (tag, body.first_chunk()) {
                raw.process_id = u32::from_be_bytes(*id);
            }
        }
        raw
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("it takes bytes");
    }

    /// The next message; none when the other side closed.
    pub(crate) fn receive(&mut self) -> Option<Message> {
        let mut head = [0; 5];
        let closed = |kind| matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset);
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if closed(error.kind()) => return None,
            Err(error) => panic!("neither an answer nor an end: {error}"),
        }
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; len - 4];
        self.stream.read_exact(&mut body).expect("a body");
        Some((head[0], body))
    }

    pub(crate) fn expect(&mut self, tag: u8) -> Message {
        let message = self.receive().expect("a message");
        let text = String::from_utf8_lossy(&message.1);
        assert_eq!(char::from(message.0), char::from(tag), "{text}");
        message
    }

    /// All messages up to ReadyForQuery, which comes last.
    pub(crate) fn until_ready(&mut self) -> Vec<Message> {
        let mut all = Vec::new();
        loop {
            let message = self.receive().expect("a message");
            all.push(message);
            if all.last().is_some_and(|message| message.0 == b'Z') {
                return all;
            }
        }
    }

    /// Their tags alone.
    pub(crate) fn tags(&mut self) -> String {
        self.until_ready().iter().map(|message| char::from(message.0)).collect()
    }

    /// Everything until the other side closes.
    pub(crate) fn until_closed(&mut self, what: &str) -> Vec<u8> {
        let mut all = Vec::new();
        match self.stream.read_to_end(&mut all) {
            Ok(_) => all,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => all,
            Err(error) => panic!("{what}: it stays open: {error}, after {}", String::from_utf8_lossy(&all)),
        }
    }
}

/// A startup packet of protocol 3.0.
pub(crate) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for (name, value) in parameters {
        for text in [name, value] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
    }
    body.push(0);
    let mut packet = (body.len() as u32 + 4).to_be_bytes().to_vec();
    packet.extend_from_slice(&body);
    packet
}

/// A message.
pub(crate) fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// A simple query.
pub(crate) fn query(sql: &str) -> Vec<u8> {
    frame(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

/// A Parse that gives no types.
pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    frame(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat())
}

/// A Bind of the unnamed portal, without parameters.
pub(crate) fn bind(name: &str) -> Vec<u8> {
    bind_with(name, &[])
}

/// A Bind of the unnamed portal; parameters and results as text.
pub(crate) fn bind_with(name: &str, values: &[&str]) -> Vec<u8> {
    let mut body = [b"\0", name.as_bytes(), b"\0\0\0"].concat();
    body.extend_from_slice(&(values.len() as u16).to_be_bytes());
    for value in values {
        body.extend_from_slice(&(value.len() as u32).to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    body.extend_from_slice(b"\0\0");
    frame(b'B', &body)
}

/// A Describe of the unnamed portal.
pub(crate) fn describe() -> Vec<u8> {
    frame(b'D', b"P\0")
}

/// An Execute of the unnamed portal, all rows of it.
pub(crate) fn execute() -> Vec<u8> {
    frame(b'E', b"\0\0\0\0\0")
}

/// A Sync.
pub(crate) fn sync() -> Vec<u8> {
    frame(b'S', b"")
}

/// The first column of every row among these messages.
pub(crate) fn values(messages: &[Message]) -> Vec<String> {
    let rows = messages.iter().filter(|(tag, _)| *tag == b'D');
    rows.map(|(_, body)| String::from_utf8_lossy(&body[6..]).into_owned()).collect()
}
