//! `[routing]` and `[vector]`: which member serves what.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Error;
use super::section::Section;

const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const BALANCES: [(&str, Balance); 3] =
    [("round_robin", Balance::RoundRobin), ("least_busy", Balance::LeastBusy), ("ewma", Balance::Ewma)];

/// `routing.reads`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Spread over the replicas.
    Replicas,
    /// Everything to the primary.
    Primary,
}

/// `routing.consistency`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Any eligible replica.
    Eventual,
    /// Own writes are seen, reads don't go back.
    Session,
    /// The writes of every session of this proxy are seen.
    Strong,
}

/// `routing.balance`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// In turn.
    RoundRobin,
    /// The one with the fewest statements under way.
    LeastBusy,
    /// The one with the lowest moving average of answer times.
    Ewma,
}

/// `[routing]`
#[derive(Debug, Clone)]
pub struct Routing {
    /// `reads`; default `replicas`.
    pub reads: Reads,
    /// `consistency`; default `session`.
    pub consistency: Consistency,
    /// `balance`; default `round_robin`.
    pub balance: Balance,
    /// `weights` by member name; default 1 each, 0 takes a member out.
    pub weights: BTreeMap<String, u32>,
    /// `fence_wait`: how long a read may wait for a replica to catch up before it goes to the primary; default 0.
    pub fence_wait: Duration,
    /// `max_lag`: a replica further behind in time serves nothing; default 10 s.
    pub max_lag: Duration,
    /// `max_lag_bytes`: the same in WAL bytes; default 16 MiB.
    pub max_lag_bytes: u64,
    /// `user_consistency`: the same for these users.
    pub user_consistency: BTreeMap<String, Consistency>,
    /// `eject_after`: so many errors of a replica's within 10 s take it out for a while; default 10, 0 for never.
    pub eject_after: u32,
    /// `eject_time`: for how long, doubled each next time; default 10 s.
    pub eject_time: Duration,
    /// `slow_start`: how long a replica that serves again has less than its weight; default 10 s.
    pub slow_start: Duration,
    /// `read_only_functions`: VOLATILE functions that may run on a replica.
    pub read_only_functions: Vec<String>,
    /// `primary_functions`: functions that must run on the primary.
    pub primary_functions: Vec<String>,
    /// `catalog_interval`: how often each database's catalog is looked at for changes; default 1 min, 0 reads none.
    pub catalog_interval: Duration,
    /// `learnt`: kinds of statements that a replica refused which are remembered, for each database; default 1000.
    pub learnt: usize,
    /// `class_cache`: statement texts whose class is kept, per worker; default 10,000.
    pub class_cache: usize,
    /// `retry_buffer`: a statement up to this size can be sent again after a loss; default 1 MiB.
    pub retry_buffer: usize,
    /// `answer_buffer`: bytes of a read's answer that are held back so that it can be run again; default 16 KiB.
    pub answer_buffer: usize,
}

/// `[vector]`
#[derive(Debug, Clone)]
pub struct Vector {
    /// `balance`; default as in `[routing]`.
    pub balance: Option<Balance>,
    /// `max_per_replica`: searches at once on one replica; default 0, no limit.
    pub max_per_replica: usize,
    /// `settings` for vector searches alone, such as `hnsw.ef_search = 100`.
    pub settings: BTreeMap<String, String>,
}

const LEVELS: [(&str, Consistency); 3] =
    [("eventual", Consistency::Eventual), ("session", Consistency::Session), ("strong", Consistency::Strong)];

impl Routing {
    pub(super) fn read(section: &mut Section<'_>) -> Result<Self, Error> {
        let reads = [("replicas", Reads::Replicas), ("primary", Reads::Primary)];
        Ok(Self {
            reads: section.choice("reads", "replicas", &reads)?,
            consistency: section.choice("consistency", "session", &LEVELS)?,
            user_consistency: user_consistency(section)?,
            balance: section.choice("balance", "round_robin", &BALANCES)?,
            weights: weights(section)?,
            fence_wait: section.duration("fence_wait", Duration::ZERO, Duration::ZERO..=MINUTE)?,
            max_lag: section.duration("max_lag", MINUTE / 6, MILLISECOND..=24 * 60 * MINUTE)?,
            max_lag_bytes: section.size("max_lag_bytes", 16 << 20, 0..=1 << 50)?,
            eject_after: section.number("eject_after", 10, 0..=1_000_000)?,
            eject_time: section.duration("eject_time", MINUTE / 6, MINUTE / 60..=60 * MINUTE)?,
            slow_start: section.duration("slow_start", MINUTE / 6, Duration::ZERO..=60 * MINUTE)?,
            read_only_functions: section.texts("read_only_functions", &[])?,
            primary_functions: section.texts("primary_functions", &[])?,
            catalog_interval: section.duration(
                "catalog_interval",
                MINUTE,
                Duration::ZERO..=24 * 60 * MINUTE,
            )?,
            learnt: section.number("learnt", 1000, 0..=100_000)?,
            class_cache: section.number("class_cache", 10_000, 0..=10_000_000)?,
            retry_buffer: section.size("retry_buffer", 1 << 20, 0..=1 << 30)?,
            answer_buffer: section.size("answer_buffer", 16 << 10, 0..=1 << 30)?,
        })
    }
}

impl Vector {
    pub(super) fn read(section: &mut Section<'_>) -> Result<Self, Error> {
        let settings = section.values("settings")?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
        for (name, value) in &settings {
            if name.is_empty() || !name.bytes().all(plain) {
                return Err(section.error("settings", format!("{name:?} is no name of a setting")));
            }
            if value.contains('\0') {
                return Err(section.error("settings", format!("the value of {name} holds a zero byte")));
            }
        }
        Ok(Self {
            balance: section.optional_choice("balance", "as in [routing]", &BALANCES)?,
            max_per_replica: section.number("max_per_replica", 0, 0..=100_000)?,
            settings,
        })
    }
}

fn user_consistency(section: &mut Section<'_>) -> Result<BTreeMap<String, Consistency>, Error> {
    let key = "user_consistency";
    let written = section.values(key)?;
    let of = |(user, word): (String, String)| match LEVELS.iter().find(|(name, _)| *name == word) {
        Some((_, level)) => Ok((user, *level)),
        None => {
            let text = format!("{word:?} for {user} is none of \"eventual\", \"session\", \"strong\"");
            Err(section.error(key, text))
        }
    };
    written.into_iter().map(of).collect()
}

fn weights(section: &mut Section<'_>) -> Result<BTreeMap<String, u32>, Error> {
    let values = section.values("weights")?;
    let weights = values.into_iter().map(|(member, weight)| {
        let number = weight.parse().ok().filter(|number| *number <= 1000);
        let wrong = || section.error("weights", format!("{member}: expected a whole number from 0 to 1000"));
        Ok((member.clone(), number.ok_or_else(wrong)?))
    });
    weights.collect()
}
