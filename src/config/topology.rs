//! `[topology]`: where the members and their roles come from.

use std::path::PathBuf;
use std::time::Duration;

use super::Error;
use super::section::Section;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Where the topology comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// `source = "etcd"`: Patroni's keys in etcd.
    Etcd(EtcdSource),
    /// `source = "static"`: `members = ["host:port", …]`, each asked for its role.
    Static(Vec<(String, u16)>),
}

/// The etcd that Patroni writes to.
#[derive(Debug, Clone)]
pub struct EtcdSource {
    /// `etcd_endpoints`, such as `http://127.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// `etcd_user` and `etcd_password_file`.
    pub user: Option<(String, PathBuf)>,
    /// `etcd_ca`
    pub ca: Option<PathBuf>,
    /// `etcd_certificate` and `etcd_key`
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// `namespace`, default `/`.
    pub namespace: String,
    /// `scope`, default `pg-ha-cluster`.
    pub scope: String,
    /// `etcd_timeout` for connecting and for a request; default 2 s.
    pub timeout: Duration,
    /// `etcd_check`: time between linearizable reads that hold the watch to account; default 1 s.
    pub check_interval: Duration,
}

/// `[topology]`
#[derive(Debug, Clone)]
pub struct TopologyConfig {
    /// `source` and its keys.
    pub source: Source,
    /// `monitor_interval`: time between checks of a member in quiet times; default 1 s.
    pub monitor_interval: Duration,
    /// `monitor_interval_busy`: the same while sessions wait for a primary, and of replicas that are to follow a new one;
    /// default 20 ms.
    pub monitor_interval_busy: Duration,
    /// `lsn_interval`: time between readings of LSNs while a session needs them; default 5 ms.
    pub lsn_interval: Duration,
    /// `monitor_timeout`: how long a check may take; default 2 s.
    pub monitor_timeout: Duration,
    /// `member_grace`: how long a member whose key is gone may still serve reads; default 2 s.
    pub member_grace: Duration,
    /// `fence_after`: how long etcd may be away before writes stop; none (default): as long as live checks pass.
    pub fence_after: Option<Duration>,
}

impl TopologyConfig {
    pub(super) fn read(section: &mut Section<'_>) -> Result<Self, Error> {
        let is_static = section.choice("source", "etcd", &[("etcd", false), ("static", true)])?;
        // Both are read, so that switching from one to the other finds no surprise.
        let etcd = EtcdSource::read(section)?;
        let members = members(section)?;
        if is_static && members.is_empty() {
            return Err(section.error("source", "\"static\" needs topology.members"));
        }
        let monitor_interval = section.duration("monitor_interval", SECOND, 10 * MILLISECOND..=MINUTE)?;
        let busy = section.duration("monitor_interval_busy", 20 * MILLISECOND, MILLISECOND..=MINUTE)?;
        if busy > monitor_interval {
            return Err(
                section.error("monitor_interval_busy", "must not be longer than topology.monitor_interval")
            );
        }
        Ok(Self {
            source: if is_static { Source::Static(members) } else { Source::Etcd(etcd) },
            monitor_interval,
            monitor_interval_busy: busy,
            lsn_interval: section.duration("lsn_interval", 5 * MILLISECOND, MILLISECOND..=SECOND)?,
            monitor_timeout: section.duration("monitor_timeout", 2 * SECOND, 50 * MILLISECOND..=MINUTE)?,
            member_grace: section.duration("member_grace", 2 * SECOND, Duration::ZERO..=60 * MINUTE)?,
            fence_after: section.optional_duration("fence_after", "never", SECOND..=24 * 60 * MINUTE)?,
        })
    }
}

impl EtcdSource {
    fn read(section: &mut Section<'_>) -> Result<Self, Error> {
        let endpoints = section.texts("etcd_endpoints", &["http://127.0.0.1:2379"])?;
        check_endpoints(section, &endpoints)?;
        let user = section.optional_text("etcd_user", "")?.filter(|user| !user.is_empty());
        let user = match (user, section.secret_file("etcd_password_file")?) {
            (Some(user), Some(file)) => Some((user, file)),
            (None, None) => None,
            (Some(_), None) => return Err(section.error("etcd_user", "needs topology.etcd_password_file")),
            (None, Some(_)) => return Err(section.error("etcd_password_file", "needs topology.etcd_user")),
        };
        Ok(Self {
            endpoints,
            user,
            ca: section.ca("etcd_ca")?,
            certificate: section.key_pair("etcd_certificate", "etcd_key")?,
            namespace: section.name("namespace", "/")?,
            scope: section.name("scope", "pg-ha-cluster")?,
            timeout: section.duration("etcd_timeout", 2 * SECOND, 50 * MILLISECOND..=MINUTE)?,
            check_interval: section.duration("etcd_check", SECOND, 100 * MILLISECOND..=MINUTE)?,
        })
    }
}

fn check_endpoints(section: &Section<'_>, endpoints: &[String]) -> Result<(), Error> {
    if endpoints.is_empty() {
        return Err(section.error("etcd_endpoints", "an empty list"));
    }
    for endpoint in endpoints {
        let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
        // Whoever writes a password into the address: it would end up in logs.
        if endpoint.contains('@') {
            return Err(section
                .error("etcd_endpoints", "user and password belong into etcd_user and etcd_password_file"));
        }
        if rest.and_then(|rest| host_port(rest.trim_end_matches('/'))).is_none() {
            let message = format!("{endpoint:?} is no address such as \"http://127.0.0.1:2379\"");
            return Err(section.error("etcd_endpoints", message));
        }
    }
    Ok(())
}

fn members(section: &mut Section<'_>) -> Result<Vec<(String, u16)>, Error> {
    let texts = section.texts("members", &[])?;
    let members = texts.iter().map(|text| {
        host_port(text).ok_or_else(|| {
            section.error("members", format!("{text:?} is no host and port, such as \"10.0.0.1:5432\""))
        })
    });
    members.collect()
}

/// Takes `host:port` or `[v6]:port` apart.
fn host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').filter(|inner| inner.contains(':'))?,
        None => host,
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:%".contains(&byte);
    let is_v6 = text.starts_with('[');
    if host.is_empty() || !host.bytes().all(plain) || (host.contains(':') && !is_v6) {
        return None;
    }
    let port = port.parse().ok().filter(|&port| port != 0)?;
    Some((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::host_port;

    #[test]
    fn hosts_and_ports() {
        for (text, host, port) in
            [("a.b:5432", "a.b", 5432), ("10.0.0.1:1", "10.0.0.1", 1), ("[::1]:65535", "::1", 65535)]
        {
            assert_eq!(host_port(text), Some((host.to_owned(), port)), "{text}");
        }
        for text in ["", "a", ":1", "a:", "a:0", "a:65536", "::1:5", "[::1]", "[a]:1", "a b:1", "a/b:1"] {
            assert_eq!(host_port(text), None, "{text}");
        }
    }
}
