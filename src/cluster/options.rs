//! What a caller may choose of a local cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::{Error, Secret};

/// The scope of every local cluster; with [`NAMESPACE`] it makes the leader key `/pg-ha-cluster/leader`.
pub const SCOPE: &str = "pg-ha-cluster";
/// The namespace of the keys in etcd.
pub const NAMESPACE: &str = "/";

/// How a local cluster is made. `Options::default()` is three members with Patroni's own timings and synchronous
/// replication, in a fresh folder that goes with the cluster.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Options {
    /// Number of members, 1 to 9; they are called `pg-node-1`, `pg-node-2` and so on.
    pub members: usize,
    /// The cluster's folder. `None`: a fresh one among the temporary files.
    pub dir: Option<PathBuf>,
    /// Whether the folder outlives the cluster, so that a later `up` on it starts the same cluster again.
    pub keep: bool,
    /// Patroni's `ttl`: how long a dead leader's key stands. Patroni takes no less than 20 s.
    pub ttl: Duration,
    /// Patroni's `loop_wait`, at least 1 s.
    pub loop_wait: Duration,
    /// Patroni's `retry_timeout`, at least 3 s; `loop_wait + 2 * retry_timeout` may not be more than `ttl`.
    pub retry_timeout: Duration,
    /// Patroni's `synchronous_mode`.
    pub synchronous: bool,
    /// Patroni's `failsafe_mode`: the primary stays while etcd is away.
    pub failsafe: bool,
    /// Settings of PostgreSQL for all members, over the built-in ones.
    pub parameters: BTreeMap<String, String>,
    /// Settings of PostgreSQL for one member, by its name, over `parameters`.
    pub member_parameters: BTreeMap<String, BTreeMap<String, String>>,
    /// Patroni's tags for one member, by its name.
    pub tags: BTreeMap<String, BTreeMap<String, Value>>,
    /// A relay before each port of a member, which partitions need. Without them connections are direct.
    pub relays: bool,
    /// Name of the application's role and of its database.
    pub app: String,
    /// Its password. `None`: a generated one, shown by the status.
    pub app_password: Option<Secret>,
    /// How long `up` waits until all members stream.
    pub deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            members: 3,
            dir: None,
            keep: false,
            ttl: Duration::from_secs(30),
            loop_wait: Duration::from_secs(10),
            retry_timeout: Duration::from_secs(10),
            synchronous: true,
            failsafe: false,
            parameters: BTreeMap::new(),
            member_parameters: BTreeMap::new(),
            tags: BTreeMap::new(),
            relays: true,
            app: "app".to_owned(),
            app_password: None,
            deadline: Duration::from_secs(120),
        }
    }
}

impl Options {
    /// The quickest failover that Patroni allows, for tests: ttl 20 s, loop_wait 1 s, retry_timeout 5 s.
    pub fn quick() -> Self {
        Self {
            ttl: Duration::from_secs(20),
            loop_wait: Duration::from_secs(1),
            retry_timeout: Duration::from_secs(5),
            ..Self::default()
        }
    }

    /// The members' names in order.
    pub(super) fn names(&self) -> Vec<String> {
        (1..=self.members).map(|number| format!("pg-node-{number}")).collect()
    }

    /// Refuses what Patroni would silently change or PostgreSQL would not take.
    pub(super) fn check(&self) -> Result<(), Error> {
        let refuse = |text: &str| Err(Error::Options(text.to_owned()));
        let plain =
            |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !(1..=9).contains(&self.members) {
            return refuse("a local cluster has 1 to 9 members");
        }
        if self.ttl.as_secs() < 20 || self.loop_wait.as_secs() < 1 || self.retry_timeout.as_secs() < 3 {
            return refuse(
                "Patroni takes no ttl under 20 s, no loop_wait under 1 s, no retry_timeout under 3 s",
            );
        }
        if self.loop_wait + self.retry_timeout * 2 > self.ttl {
            return refuse("Patroni wants loop_wait + 2 * retry_timeout within ttl");
        }
        if self.app.is_empty() || !plain(&self.app) || self.app == "postgres" || self.app.starts_with("pg") {
            return refuse(
                "the application's name is made of a-z, 0-9 and _, and is none of PostgreSQL's own",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_pass_and_bad_values_are_refused() {
        assert!(Options::default().check().is_ok());
        assert!(Options::quick().check().is_ok());
        let bad = [
            Options { members: 0, ..Options::default() },
            Options { members: 10, ..Options::default() },
            Options { ttl: Duration::from_secs(5), ..Options::quick() },
            Options { loop_wait: Duration::from_secs(11), ..Options::default() },
            Options { app: "o'x".to_owned(), ..Options::default() },
            Options { app: "postgres".to_owned(), ..Options::default() },
        ];
        for options in bad {
            assert!(options.check().is_err(), "{options:?}");
        }
    }
}
