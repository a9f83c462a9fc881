//! `[listen]`, `[limits]`, `[admin]` and `[log]`: the process as a server.

use std::net::SocketAddr;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::Error;
use super::section::Section;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// `[listen]`: where clients come in.
#[derive(Debug, Clone)]
pub struct Listen {
    /// `address`, one or a list; default `127.0.0.1:6432`.
    pub addresses: Vec<SocketAddr>,
    /// `workers`: worker threads; default one a core.
    pub workers: usize,
    /// `backlog` of the listening socket; default 1024.
    pub backlog: u32,
}

/// `[limits]`
#[derive(Debug, Clone)]
pub struct Limits {
    /// `clients` in all; default 10,000.
    pub clients: usize,
    /// `clients_per_address`; default 0, no limit.
    pub clients_per_address: usize,
    /// `logins` under way at once; default 256.
    pub logins: usize,
    /// `login_timeout`; default 30 s.
    pub login_timeout: Duration,
    /// `message`: the longest message of a client in bytes; default 1 GiB, PostgreSQL's own.
    pub message: usize,
    /// `statements`: prepared statements a session may hold; default 10,000.
    pub statements: usize,
    /// `keepalive_idle`, `keepalive_interval`, `keepalive_count`, `tcp_user_timeout`; default 5 s, 2 s, 3, 10 s.
    pub keep_alive: KeepAlive,
    /// `drain_timeout`: how long a stopping proxy waits for open transactions; default 30 s.
    pub drain_timeout: Duration,
}

/// Socket options of clients and backends.
#[derive(Debug, Clone, Copy)]
pub struct KeepAlive {
    /// Idle time before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Probes without an answer.
    pub count: u32,
    /// How long sent bytes may stay without acknowledgement.
    pub user_timeout: Duration,
}

/// `[admin]`
#[derive(Debug, Clone)]
pub struct Admin {
    /// `address` of the HTTP side; none switches it off; default `127.0.0.1:9187`.
    pub address: Option<SocketAddr>,
    /// `users` who may use the console database `pgha`.
    pub users: Vec<String>,
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct Log {
    /// `level`: a filter as of tracing's EnvFilter; default `info`.
    pub level: String,
    /// `format`; default `text`.
    pub format: LogFormat,
}

impl Listen {
    pub(super) fn read(section: &mut Section<'_>) -> Result<Self, Error> {
        let texts = section.texts("address", &["127.0.0.1:6432"])?;
        if texts.is_empty() {
            return Err(section.error("address", "an empty list"));
        }
        let addresses: Result<Vec<_>, _> = texts.iter().map(|text| socket_address(section, text)).collect();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = section.number("workers", 0, 0..=1024)?;
        Ok(Self {
            addresses: addresses?,
            workers: if workers == 0 { cores } else { workers },
            backlog: section.number("backlog", 1024, 1..=65_535)?,
        })
    }
}

impl Limits {
    pub(super) fn read(section: &mut Section<'_>) -> Result<Self, Error> {
        Ok(Self {
            clients: section.number("clients", 10_000, 1..=1_000_000)?,
            clients_per_address: section.number("clients_per_address", 0, 0..=1_000_000)?,
            logins: section.number("logins", 256, 1..=100_000)?,
            login_timeout: section.duration("login_timeout", 30 * SECOND, 100 * MILLISECOND..=HOUR)?,
            message: section.size("message", 1 << 30, 64 << 10..=1 << 30)?,
            statements: section.number("statements", 10_000, 1..=10_000_000)?,
            keep_alive: KeepAlive::read(section)?,
            drain_timeout: section.duration("drain_timeout", 30 * SECOND, Duration::ZERO..=24 * HOUR)?,
        })
    }
}

impl KeepAlive {
    fn read(section: &mut Section<'_>) -> Result<Self, Error> {
        // The kernel counts the first two in whole seconds, up to 32767.
        let whole = SECOND..=9 * HOUR;
        let mut seconds = |key: &str, default| {
            let duration = section.duration(key, default, whole.clone())?;
            match duration.subsec_nanos() {
                0 => Ok(duration),
                _ => Err(section.error(key, "must be whole seconds")),
            }
        };
        Ok(Self {
            idle: seconds("keepalive_idle", 5 * SECOND)?,
            interval: seconds("keepalive_interval", 2 * SECOND)?,
            count: section.number("keepalive_count", 3, 1..=127)?,
            user_timeout: section.duration("tcp_user_timeout", 10 * SECOND, 100 * MILLISECOND..=24 * HOUR)?,
        })
    }
}

impl Admin {
    pub(super) fn read(section: &mut Section<'_>) -> Result<Self, Error> {
        let text = section.text("address", "127.0.0.1:9187")?;
        let address = if text.is_empty() { None } else { Some(socket_address(section, &text)?) };
        Ok(Self { address, users: section.texts("users", &[])? })
    }
}

impl Log {
    pub(super) fn read(section: &mut Section<'_>) -> Result<Self, Error> {
        let level = section.name("level", "info")?;
        EnvFilter::try_new(&level)
            .map_err(|_why| section.error("level", "expected error, warn, info, debug, trace or a filter"))?;
        let format =
            section.choice("format", "text", &[("text", LogFormat::Text), ("json", LogFormat::Json)])?;
        Ok(Self { level, format })
    }
}

fn socket_address(section: &Section<'_>, text: &str) -> Result<SocketAddr, Error> {
    text.parse().map_err(|_why| {
        section.error("address", format!("{text:?} is no IP address and port, such as \"127.0.0.1:6432\""))
    })
}
