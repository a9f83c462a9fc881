//! `[pool]` and `[failover]`: backends, and waiting for one.

use std::time::Duration;

use super::Error;
use super::section::Section;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// `pool.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// A backend for the length of a transaction.
    Transaction,
    /// One primary connection for the session's life.
    Session,
}

/// `[pool]`
#[derive(Debug, Clone)]
pub struct Pool {
    /// `mode`; default `transaction`.
    pub mode: PoolMode,
    /// `size`: backends for one member, user and database; default 20.
    pub size: usize,
    /// `member_size`: backends for one member in all; default 100.
    pub member_size: usize,
    /// `wait`: how long a statement waits for a backend; default 10 s.
    pub wait: Duration,
    /// `max_waiting`: sessions that wait for one member, user and database; default 1000.
    pub max_waiting: usize,
    /// `connect_timeout` to a member, login included; default 5 s.
    pub connect_timeout: Duration,
    /// `idle_timeout`: an idle backend is closed after it; default 10 min.
    pub idle_timeout: Duration,
    /// `prepare_threshold`: an unnamed statement that came so often is served from a prepared one; 0: none ever is; default 0.
    pub prepare_threshold: u32,
    /// `lifetime`: a backend older than this is closed when it comes back; default 1 h.
    pub lifetime: Duration,
}

/// What is set for one user or one database on its own, in `[[users]]` and `[[databases]]`. Names of keys are PgBouncer's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quota {
    /// `max_user_client_connections`, `max_db_client_connections`: clients that may be logged in.
    pub clients: Option<u32>,
    /// `pool_size`: in place of `pool.size`.
    pub pool_size: Option<usize>,
    /// `pool_mode`: in place of `pool.mode`.
    pub pool_mode: Option<PoolMode>,
}

/// `[failover]`
#[derive(Debug, Clone)]
pub struct Failover {
    /// `hold`: how long a statement waits for a primary; default (none) Patroni's ttl + loop_wait + 5 s.
    pub hold: Option<Duration>,
    /// `max_waiting`: sessions that may wait for a primary; default 10,000.
    pub max_waiting: usize,
    /// `max_waiting_bytes`: bytes of their statements; default 64 MiB.
    pub max_waiting_bytes: usize,
    /// `fail_fast`: users whose statements get an error at once instead of waiting for a primary; default none.
    pub fail_fast: Vec<String>,
    /// `drain`: how long open transactions may run on at a switchover; default 5 s.
    pub drain: Duration,
}

const MODES: [(&str, PoolMode); 2] = [("transaction", PoolMode::Transaction), ("session", PoolMode::Session)];

impl Pool {
    pub(super) fn read(section: &mut Section<'_>) -> Result<Self, Error> {
        let mode = section.choice("mode", "transaction", &MODES)?;
        let size = section.number("size", 20, 1..=10_000)?;
        let member_size = section.number("member_size", 100, 1..=100_000)?;
        if size > member_size {
            return Err(section.error("size", format!("more than pool.member_size, {member_size}")));
        }
        Ok(Self {
            mode,
            size,
            member_size,
            wait: section.duration("wait", 10 * SECOND, Duration::ZERO..=HOUR)?,
            max_waiting: section.number("max_waiting", 1000, 0..=1_000_000)?,
            connect_timeout: section.duration("connect_timeout", 5 * SECOND, 50 * MILLISECOND..=HOUR)?,
            idle_timeout: section.duration("idle_timeout", HOUR / 6, SECOND..=24 * HOUR)?,
            prepare_threshold: section.number("prepare_threshold", 0, 0..=1_000_000)?,
            lifetime: section.duration("lifetime", HOUR, SECOND..=30 * 24 * HOUR)?,
        })
    }
}

impl Quota {
    /// `clients` is the name of the key that limits them.
    pub(super) fn read(section: &mut Section<'_>, clients: &str) -> Result<Self, Error> {
        Ok(Self {
            clients: section.optional_number(clients, "", 0..=1_000_000)?,
            pool_size: section.optional_number("pool_size", "pool.size", 1..=10_000)?,
            pool_mode: section.optional_choice("pool_mode", "pool.mode", &MODES)?,
        })
    }

    /// One of `[[databases]]`, with its name.
    pub(super) fn of_database(section: &mut Section<'_>) -> Result<(String, Self), Error> {
        let name = section.name("name", "")?;
        if name.len() > 63 {
            return Err(section.error("name", "longer than 63 bytes"));
        }
        let quota = Self::read(section, "max_db_client_connections")?;
        if quota == Self::default() {
            return Err(section.error("name", "nothing is set for it"));
        }
        Ok((name, quota))
    }
}

impl Failover {
    pub(super) fn read(section: &mut Section<'_>) -> Result<Self, Error> {
        Ok(Self {
            hold: section.optional_duration("hold", "ttl + loop_wait + 5s", Duration::ZERO..=HOUR)?,
            max_waiting: section.number("max_waiting", 10_000, 0..=1_000_000)?,
            max_waiting_bytes: section.size("max_waiting_bytes", 64 << 20, 0..=64 << 30)?,
            fail_fast: section.texts("fail_fast", &[])?,
            drain: section.duration("drain", 5 * SECOND, Duration::ZERO..=HOUR)?,
        })
    }
}
