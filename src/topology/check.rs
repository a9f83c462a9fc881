//! What a live check of one member found.

use std::time::{Duration, Instant};

use super::Lsn;

/// The outcome of one check.
pub type CheckResult = Result<Check, CheckFailure>;

/// A check that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Before the question was sent: what it found was true at this time or later.
    pub begun: Instant,
    /// When the connection that it went through was opened.
    pub connected: Instant,
    /// From sending the question to having the answer.
    pub took: Duration,
    /// Of `pg_control_system()`.
    pub system_identifier: u64,
    /// `pg_postmaster_start_time()` in microseconds since 1970: another one, and every older connection is dead.
    pub postmaster_start: i64,
    /// `transaction_read_only`
    pub read_only: bool,
    /// `synchronous_commit` is off for the server, or for some role or database.
    pub asynchronous_commit: bool,
    /// By `pg_is_in_recovery()`.
    pub found: Found,
}

/// Whether the member is in recovery, and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// `pg_is_in_recovery()` is false.
    Primary {
        /// Of `pg_walfile_name(pg_current_wal_lsn())`.
        timeline: u32,
        /// `pg_current_wal_flush_lsn()`
        flush: Lsn,
    },
    /// It is true.
    Standby {
        /// `pg_last_wal_replay_lsn()`
        replayed: Lsn,
        /// `pg_stat_wal_receiver.received_tli`; none without a WAL receiver.
        received_tli: Option<u32>,
        /// `pg_stat_wal_receiver.status` is `streaming`.
        streaming: bool,
        /// `now() - pg_last_xact_replay_timestamp()`: how old the last replayed commit is, on an idle primary too.
        replay_age: Option<Duration>,
    },
}

impl Check {
    /// Whether the member takes writes, by its own word.
    pub fn writable(&self) -> bool {
        !self.in_recovery() && !self.read_only
    }

    /// Whether it is in recovery: a standby, or on its way to become a primary.
    pub fn in_recovery(&self) -> bool {
        matches!(self.found, Found::Standby { .. })
    }
}

/// A check that got no answer, on a connection opened for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckFailure {
    /// When the attempt began.
    pub begun: Instant,
    /// What it failed for.
    pub why: Failure,
}

/// Why a check failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection: refused, unreachable, name unknown.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// The server refused: starting up (57P03), shutting down, login refused.
    Refused,
    /// An answer that can't be read.
    Unreadable,
}
