//! What Patroni keeps in etcd under `/<namespace>/<scope>/`, as far as the proxy needs it.
//!
//! Tolerant: a key that can't be read is handed back as [`Unreadable`] and counts as absent; a field that is missing or of
//! another type has its default; a state or role that is not known here makes a member not routable, never an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

/// At most this many members are kept; a scope has a handful.
const MAX_MEMBERS: usize = 256;

/// The prefix of a scope's keys, as Patroni forms it: `/pg-ha-cluster/` for namespace `/` and scope `pg-ha-cluster`.
pub fn prefix(namespace: &str, scope: &str) -> String {
    match namespace.trim_matches('/') {
        "" => format!("/{scope}/"),
        namespace => format!("/{namespace}/{scope}/"),
    }
}

/// A change of one key: its name without the scope's prefix, and its new value; none when it was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// Such as `leader` or `members/pg-node-1`.
    pub key: String,
    /// The value, none when deleted.
    pub value: Option<Vec<u8>>,
}

impl KeyChange {
    /// A key's new value.
    pub fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), value: Some(value.into()) }
    }

    /// A key's deletion.
    pub fn delete(key: impl Into<String>) -> Self {
        Self { key: key.into(), value: None }
    }
}

/// A key that couldn't be read. It counts as absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The key, without the scope's prefix.
    pub key: String,
    /// What was wrong with it.
    pub why: &'static str,
}

/// All keys of a scope that the proxy reads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keys {
    /// `leader`: the member that holds the lock.
    pub leader: Option<Arc<str>>,
    /// `members/*`, by name.
    pub members: BTreeMap<Arc<str>, MemberKey>,
    /// `config`
    pub config: ClusterConfig,
    /// `initialize`: the system identifier; none while the cluster is being made.
    pub initialize: Option<u64>,
    /// `failover`: a switchover that was asked for and not yet done. Scheduled ones are not here: they may be hours away.
    pub failover: Option<Announced>,
    /// `sync`: leader and its synchronous standbys.
    pub sync: Option<SyncState>,
    /// `failsafe`: whether the leader keeps a list of members for Patroni's failsafe mode.
    pub failsafe: bool,
    /// `history`: the timeline that follows the last one which ended.
    pub history_timeline: Option<u32>,
    /// `status`: the leader's position in bytes when it last wrote the key; up to `loop_wait` old.
    pub optime: Option<u64>,
}

/// One `members/<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberKey {
    /// Host of `conn_url`.
    pub host: Arc<str>,
    /// Port of `conn_url`, 5432 when it names none.
    pub port: u16,
    /// `state`, such as `running`.
    pub state: Arc<str>,
    /// `role`, such as `replica`.
    pub role: Arc<str>,
    /// Timeline as of the last time the member wrote its key.
    pub timeline: Option<u32>,
    /// Tag `noloadbalance`: takes no reads.
    pub no_load_balance: bool,
    /// Tag `nofailover`: never becomes primary.
    pub no_failover: bool,
}

impl MemberKey {
    /// Whether Patroni says that it runs, in a role that is known here.
    pub fn routable(&self) -> bool {
        matches!(&*self.state, "running" | "streaming")
            && matches!(
                &*self.role,
                "replica" | "primary" | "master" | "standby_leader" | "promoted" | "demoted"
            )
    }

    /// Whether it leads a standby cluster: it holds the key and is in recovery.
    pub fn standby_leader(&self) -> bool {
        &*self.role == "standby_leader"
    }
}

/// The parts of `config` that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent settings of Patroni's")]
pub struct ClusterConfig {
    /// `ttl`: life of the leader's lease; Patroni's default 30 s.
    pub ttl: Duration,
    /// `loop_wait`; Patroni's default 10 s.
    pub loop_wait: Duration,
    /// `pause`: Patroni watches and does nothing.
    pub pause: bool,
    /// `failsafe_mode`
    pub failsafe_mode: bool,
    /// `synchronous_mode` in any of its forms.
    pub synchronous_mode: bool,
    /// `standby_cluster` is given: the leader is in recovery.
    pub standby_cluster: bool,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30),
            loop_wait: Duration::from_secs(10),
            pause: false,
            failsafe_mode: false,
            synchronous_mode: false,
            standby_cluster: false,
        }
    }
}

/// A `failover` key with something in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// The member that is to give up, if it was named.
    pub from: Option<Arc<str>>,
    /// The member that is to take over, if it was named.
    pub to: Option<Arc<str>>,
}

/// `sync`, in synchronous mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncState {
    /// The leader that wrote it.
    pub leader: Option<Arc<str>>,
    /// Names of the synchronous standbys.
    pub standbys: Vec<Arc<str>>,
}

impl Keys {
    /// Takes one key's change in. A key that is not one of Patroni's known ones is passed over.
    ///
    /// # Errors
    /// [`Unreadable`]: the key is now absent.
    pub fn apply(&mut self, change: &KeyChange) -> Result<(), Unreadable> {
        let read = self.store(&change.key, change.value.as_deref());
        if read.is_err() {
            // Absent is always readable.
            let _absent = self.store(&change.key, None);
        }
        read.map_err(|why| Unreadable { key: change.key.clone(), why })
    }

    fn store(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), &'static str> {
        match key {
            "leader" => self.leader = value.map(name).transpose()?,
            "config" => self.config = value.map(config).transpose()?.unwrap_or_default(),
            "initialize" => self.initialize = value.map(initialize).transpose()?.flatten(),
            "failover" => self.failover = value.map(failover).transpose()?.flatten(),
            "sync" => self.sync = value.map(sync).transpose()?,
            "failsafe" => self.failsafe = value.map(object).transpose()?.is_some(),
            "history" => self.history_timeline = value.map(history).transpose()?.flatten(),
            "status" => self.optime = value.map(status).transpose()?.flatten(),
            _ => {
                if let Some(member_name) = key.strip_prefix("members/") {
                    return self.store_member(member_name, value);
                }
            }
        }
        Ok(())
    }

    fn store_member(&mut self, name: &str, value: Option<&[u8]>) -> Result<(), &'static str> {
        match value {
            None => {
                self.members.remove(name);
            }
            Some(_) if self.members.len() >= MAX_MEMBERS && !self.members.contains_key(name) => {
                return Err("more members than the proxy keeps");
            }
            Some(value) => {
                self.members.insert(Arc::from(name), member(value)?);
            }
        }
        Ok(())
    }
}

fn text(value: &[u8]) -> Result<&str, &'static str> {
    std::str::from_utf8(value).map(str::trim).map_err(|_invalid| "not UTF-8")
}

fn name(value: &[u8]) -> Result<Arc<str>, &'static str> {
    match text(value)? {
        "" => Err("empty"),
        name => Ok(Arc::from(name)),
    }
}

fn object(value: &[u8]) -> Result<Map<String, Value>, &'static str> {
    match serde_json::from_slice(value) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err("not a JSON object"),
        Err(_) => Err("not JSON"),
    }
}

/// Empty while the cluster is being made.
fn initialize(value: &[u8]) -> Result<Option<u64>, &'static str> {
    match text(value)? {
        "" => Ok(None),
        digits => digits.parse().map(Some).map_err(|_invalid| "not a system identifier"),
    }
}

fn member(value: &[u8]) -> Result<MemberKey, &'static str> {
    let map = object(value)?;
    let url = map.get("conn_url").and_then(Value::as_str).ok_or("no conn_url")?;
    let (host, port) = host_and_port(url).ok_or("conn_url names no host")?;
    let tags = map.get("tags").and_then(Value::as_object);
    let tag = |name: &str| tags.and_then(|tags| tags.get(name)).is_some_and(truthy);
    Ok(MemberKey {
        host,
        port,
        state: field(&map, "state"),
        role: field(&map, "role"),
        timeline: map.get("timeline").and_then(Value::as_u64).and_then(|tli| u32::try_from(tli).ok()),
        no_load_balance: tag("noloadbalance"),
        no_failover: tag("nofailover"),
    })
}

fn field(map: &Map<String, Value>, name: &str) -> Arc<str> {
    Arc::from(map.get(name).and_then(Value::as_str).unwrap_or(""))
}

/// As Patroni's own reading of a flag: a boolean, or the words that YAML takes for one.
fn truthy(value: &Value) -> bool {
    match value {
        Value::Bool(set) => *set,
        Value::String(word) => {
            matches!(word.to_ascii_lowercase().as_str(), "true" | "on" | "yes" | "t" | "y" | "1" | "quorum")
        }
        Value::Number(number) => number.as_f64().is_some_and(|number| number != 0.0),
        _ => false,
    }
}

/// `postgres://[user@]host[:port][/…]`; an IPv6 host stands in brackets.
fn host_and_port(url: &str) -> Option<(Arc<str>, u16)> {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"))?;
    let authority = rest.split(['/', '?']).next()?;
    let address = authority.rsplit('@').next()?;
    let (host, port) = if let Some(bracketed) = address.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']')?;
        (host, after.strip_prefix(':'))
    } else if let Some((host, port)) = address.split_once(':') {
        (host, Some(port))
    } else {
        (address, None)
    };
    let port = match port {
        None | Some("") => 5432,
        Some(digits) => digits.parse().ok().filter(|port| *port != 0)?,
    };
    (!host.is_empty()).then(|| (Arc::from(host), port))
}

fn config(value: &[u8]) -> Result<ClusterConfig, &'static str> {
    let map = object(value)?;
    let default = ClusterConfig::default();
    let flag = |name: &str| map.get(name).is_some_and(truthy);
    Ok(ClusterConfig {
        ttl: seconds(map.get("ttl")).unwrap_or(default.ttl),
        loop_wait: seconds(map.get("loop_wait")).unwrap_or(default.loop_wait),
        pause: flag("pause"),
        failsafe_mode: flag("failsafe_mode"),
        synchronous_mode: flag("synchronous_mode"),
        standby_cluster: map
            .get("standby_cluster")
            .and_then(Value::as_object)
            .is_some_and(|it| !it.is_empty()),
    })
}

/// A day at most: what is longer is a mistake, and would overflow somebody's sum.
fn seconds(value: Option<&Value>) -> Option<Duration> {
    let value = value?;
    let seconds = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
    (0.0..=86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// `{}` or nothing when there is none. A scheduled one (`scheduled_at`) is not yet announced.
fn failover(value: &[u8]) -> Result<Option<Announced>, &'static str> {
    if text(value)?.is_empty() {
        return Ok(None);
    }
    let map = object(value)?;
    let named = |name: &str| {
        map.get(name).and_then(Value::as_str).filter(|name| !name.is_empty()).map(Arc::<str>::from)
    };
    let (from, to) = (named("leader"), named("member"));
    if (from.is_none() && to.is_none()) || named("scheduled_at").is_some() {
        return Ok(None);
    }
    Ok(Some(Announced { from, to }))
}

fn sync(value: &[u8]) -> Result<SyncState, &'static str> {
    let map = object(value)?;
    let leader = map.get("leader").and_then(Value::as_str).map(Arc::from);
    let standbys = map.get("sync_standby").and_then(Value::as_str).unwrap_or("");
    let standbys = standbys.split(',').map(str::trim).filter(|name| !name.is_empty()).map(Arc::from);
    Ok(SyncState { leader, standbys: standbys.take(MAX_MEMBERS).collect() })
}

/// `[[1, 67624376, "…", "…", "pg-node-2"], …]`: timelines that ended, in order.
fn history(value: &[u8]) -> Result<Option<u32>, &'static str> {
    let value: Value = serde_json::from_slice(value).map_err(|_invalid| "not JSON")?;
    let lines = value.as_array().ok_or("not a JSON array")?;
    let ended = lines.last().and_then(|line| line.get(0)).and_then(Value::as_u64);
    Ok(ended.and_then(|tli| u32::try_from(tli).ok()).and_then(|tli| tli.checked_add(1)))
}

fn status(value: &[u8]) -> Result<Option<u64>, &'static str> {
    Ok(object(value)?.get("optime").and_then(Value::as_u64))
}

#[cfg(test)]
mod tests;
