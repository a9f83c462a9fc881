//! What a connection begins with: packets without a tag, read before anybody is known.
//!
//! Their length is checked before anything is reserved ([`packet_len`]), everything else in [`Opening::read`].
//! What is refused is refused in PostgreSQL's own words.
//!
//! Sources: PostgreSQL 18 documentation, "Start-up" and "Message Formats"; `backend_startup.c`.

use super::options::{self, Options};
use super::parts::cstr;
use super::{Refusal, SqlState};

/// The longest first packet, its length field included (`MAX_STARTUP_PACKET_LENGTH`).
pub const MAX_PACKET_LEN: usize = 10_000;
/// The longest name of a user or database, in bytes (`NAMEDATALEN` less its end); what is longer is cut there, as by a server. So
/// rules by name see what the server will see.
const MAX_NAME_LEN: usize = 63;
/// The latest minor version of protocol 3 that is spoken here.
pub const LATEST_MINOR: u16 = 2;

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// The SSLRequest packet.
pub const SSL_REQUEST_PACKET: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The answer to an SSLRequest that TLS follows.
pub const ENCRYPTION_FOLLOWS: u8 = b'S';
/// The answer to an SSLRequest or GSSENCRequest that it doesn't.
pub const NO_ENCRYPTION: u8 = b'N';

/// A first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// Asks for TLS.
    Ssl,
    /// Asks for encryption by GSSAPI.
    GssEnc,
    /// Asks to cancel what another connection does.
    Cancel {
        /// As that connection's BackendKeyData named it.
        process_id: u32,
        /// The same, 4 to 256 bytes.
        secret: Vec<u8>,
    },
    /// Wants to log in.
    Startup(Startup),
}

/// What kind of walsender is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replication {
    /// An ordinary session.
    #[default]
    None,
    /// Physical replication, tied to no database.
    Physical,
    /// Logical replication in a database.
    Logical,
}

/// A startup packet of protocol 3.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Startup {
    /// The minor version asked for; may be newer than [`LATEST_MINOR`].
    pub minor: u16,
    /// The user, never empty.
    pub user: String,
    /// The database; the user's name where none was given.
    pub database: String,
    /// Whether it is to be a walsender.
    pub replication: Replication,
    /// Settings: those in `options` first, then the packet's own, in its order. A later one wins.
    pub parameters: Vec<(String, String)>,
    /// `_pq_.` options, none of which is known here.
    pub unknown_options: Vec<String>,
}

/// The length of the packet that this header begins, itself included; none for a length that no first packet
/// has. PostgreSQL closes such a connection without a word.
pub fn packet_len(header: [u8; 4]) -> Option<usize> {
    let length = u32::from_be_bytes(header) as usize;
    (8..=MAX_PACKET_LEN).contains(&length).then_some(length)
}

impl Opening {
    /// Reads what stands behind a packet's length.
    ///
    /// # Errors
    /// The refusal to send before the connection is closed; [`Refusal::silent`] where PostgreSQL says nothing.
    pub fn read(body: &[u8]) -> Result<Self, Refusal> {
        let Some((&code, rest)) = body.split_first_chunk::<4>() else { return Err(Refusal::silent()) };
        match u32::from_be_bytes(code) {
            SSL_REQUEST if rest.is_empty() => Ok(Self::Ssl),
            GSSENC_REQUEST if rest.is_empty() => Ok(Self::GssEnc),
            CANCEL_REQUEST => match rest.split_first_chunk::<4>() {
                Some((id, secret)) if (4..=256).contains(&secret.len()) => {
                    Ok(Self::Cancel { process_id: u32::from_be_bytes(*id), secret: secret.to_vec() })
                }
                _ => Err(Refusal::silent()),
            },
            version if version >> 16 == 3 => {
                Startup::read((version & 0xffff) as u16, rest).map(Self::Startup)
            }
            version => Err(unsupported(version)),
        }
    }

    /// The refusal of a second SSLRequest or GSSENCRequest: by then only a protocol version may come.
    pub fn unexpected(&self) -> Refusal {
        match self {
            Self::Ssl => unsupported(SSL_REQUEST),
            Self::GssEnc => unsupported(GSSENC_REQUEST),
            Self::Cancel { .. } | Self::Startup(_) => Refusal::silent(),
        }
    }
}

/// As much of a name as a server keeps: up to 63 bytes, and no part of a character.
pub fn cut_name(name: &str) -> &str {
    let end = (0..=MAX_NAME_LEN.min(name.len())).rev().find(|at| name.is_char_boundary(*at));
    &name[..end.unwrap_or_default()]
}

impl Startup {
    /// The minor version to speak.
    pub fn negotiated_minor(&self) -> u16 {
        self.minor.min(LATEST_MINOR)
    }

    /// Whether NegotiateProtocolVersion has to say what is not spoken.
    pub fn needs_negotiation(&self) -> bool {
        self.minor > LATEST_MINOR || !self.unknown_options.is_empty()
    }

    fn read(minor: u16, mut rest: &[u8]) -> Result<Self, Refusal> {
        let (mut startup, mut options) = (Self { minor, ..Self::default() }, Options::default());
        loop {
            let (name, tail) = cstr(rest).ok_or_else(no_terminator)?;
            if name.is_empty() {
                rest = tail;
                break;
            }
            let (value, tail) = cstr(tail).ok_or_else(no_terminator)?;
            startup.take(text(name)?, text(value)?, &mut options)?;
            rest = tail;
        }
        if !rest.is_empty() {
            return Err(no_terminator());
        }
        if startup.user.is_empty() {
            return Err(Refusal::new(
                SqlState::INVALID_AUTHORIZATION,
                "no PostgreSQL user name specified in startup packet",
            ));
        }
        if startup.database.is_empty() {
            startup.database.clone_from(&startup.user);
        }
        for name in [&mut startup.user, &mut startup.database] {
            name.truncate(cut_name(name).len());
        }
        startup.parameters.splice(0..0, options.settings);
        Ok(startup)
    }

    fn take(&mut self, name: &str, value: &str, options: &mut Options) -> Result<(), Refusal> {
        match name {
            "user" => value.clone_into(&mut self.user),
            "database" => value.clone_into(&mut self.database),
            "options" => *options = options::read(value)?,
            "replication" => self.replication = replication(value)?,
            name if name.starts_with("_pq_.") => self.unknown_options.push(name.to_owned()),
            name => self.parameters.push((name.to_owned(), value.to_owned())),
        }
        Ok(())
    }
}

fn replication(value: &str) -> Result<Replication, Refusal> {
    if value == "database" {
        return Ok(Replication::Logical);
    }
    match options::boolean(value) {
        Some(true) => Ok(Replication::Physical),
        Some(false) => Ok(Replication::None),
        None => Err(Refusal::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("invalid value for parameter \"replication\": \"{value}\""),
        )
        .with_hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")),
    }
}

fn text(bytes: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(bytes)
        .map_err(|_| Refusal::new(SqlState::FEATURE_NOT_SUPPORTED, "startup packet is not in UTF-8"))
}

fn no_terminator() -> Refusal {
    Refusal::new(
        SqlState::PROTOCOL_VIOLATION,
        "invalid startup packet layout: expected terminator as last byte",
    )
}

fn unsupported(version: u32) -> Refusal {
    let (major, minor) = (version >> 16, version & 0xffff);
    let text =
        format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{LATEST_MINOR}");
    let refusal = Refusal::new(SqlState::FEATURE_NOT_SUPPORTED, text);
    if major < 3 { refusal.for_protocol_2() } else { refusal }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(version: u32, pairs: &[u8]) -> Result<Opening, Refusal> {
        Opening::read(&[&version.to_be_bytes()[..], pairs].concat())
    }

    fn accepted(pairs: &[u8]) -> Startup {
        match startup(0x3_0000, pairs) {
            Ok(Opening::Startup(startup)) => startup,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_short_packets_are_read() {
        assert_eq!(packet_len([0, 0, 0, 7]), None);
        assert_eq!(packet_len([0, 0, 0, 8]), Some(8));
        assert_eq!(packet_len(10_000u32.to_be_bytes()), Some(10_000));
        assert_eq!(packet_len(10_001u32.to_be_bytes()), None);
        assert_eq!(packet_len(*b"GET "), None);
        assert_eq!(packet_len([0x7f, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn requests_are_told_apart() {
        assert_eq!(Opening::read(&SSL_REQUEST_PACKET[4..]), Ok(Opening::Ssl));
        assert_eq!(Opening::read(&GSSENC_REQUEST.to_be_bytes()), Ok(Opening::GssEnc));
        let cancel = [&CANCEL_REQUEST.to_be_bytes()[..], &[0, 0, 0, 9, 1, 2, 3, 4]].concat();
        assert_eq!(Opening::read(&cancel), Ok(Opening::Cancel { process_id: 9, secret: vec![1, 2, 3, 4] }));
        assert_eq!(Opening::read(&cancel[..11]), Err(Refusal::silent()));
    }

    #[test]
    fn a_startup_is_taken_apart() {
        let read = accepted(b"user\0alice\0options\0-c geqo=off\0application_name\0x\0_pq_.foo\x001\0\0");
        assert_eq!((read.user.as_str(), read.database.as_str()), ("alice", "alice"));
        let expected =
            [("geqo", "off"), ("application_name", "x")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(read.parameters, expected);
        assert_eq!(read.unknown_options, ["_pq_.foo"]);
        assert!(read.needs_negotiation());
    }

    #[test]
    fn long_names_are_cut_as_by_a_server() {
        let (long, kept) = ("d".repeat(70), "d".repeat(63));
        let read = accepted(format!("user\0{}\u{e4}x\0database\0{long}\0\0", &kept[1..]).as_bytes());
        assert_eq!((read.user.as_str(), read.database.as_str()), (&kept[1..], kept.as_str()));
    }

    #[test]
    fn replication_takes_postgres_values() {
        let ask = |value: &str| startup(0x3_0000, format!("user\0a\0replication\0{value}\0\0").as_bytes());
        let kind = |value| match ask(value) {
            Ok(Opening::Startup(startup)) => Some(startup.replication),
            _ => None,
        };
        assert_eq!(kind("on"), Some(Replication::Physical));
        assert_eq!(kind("FALSE"), Some(Replication::None));
        assert_eq!(kind("database"), Some(Replication::Logical));
        assert_eq!(ask("maybe").unwrap_err().state, SqlState::INVALID_PARAMETER_VALUE);
    }

    #[test]
    fn refusals_are_postgres_own() {
        let says = |outcome: Result<Opening, Refusal>| outcome.unwrap_err().message;
        assert_eq!(
            says(startup(0x3_0000, b"database\0x\0\0")),
            "no PostgreSQL user name specified in startup packet"
        );
        for bad in [&b"user\0alice\0"[..], b"user\0alice\0\0x", b"user\0alice", b""] {
            assert_eq!(
                says(startup(0x3_0000, bad)),
                "invalid startup packet layout: expected terminator as last byte"
            );
        }
        let unsupported = "unsupported frontend protocol 4.0: server supports 3.0 to 3.2";
        assert_eq!(says(startup(0x4_0000, b"user\0a\0\0")), unsupported);
        assert!(
            startup(0x2_0000, b"user\0a\0\0").unwrap_err().to_bytes().starts_with(b"EFATAL:  unsupported")
        );
    }
}
