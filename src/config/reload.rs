//! Taking up a changed proxy.toml while the proxy runs.
//!
//! What is not in [`NEEDS_RESTART`] holds for whatever begins after the reload: a new login, statement, backend or
//! check. Certificates and secret files are read anew even where their names stay.

use std::path::Path;

use super::{Config, Error};

/// Keys whose change takes effect only when the proxy starts anew: they shape sockets, threads, caches, or whom the
/// control path is connected to.
pub const NEEDS_RESTART: &[&str] = &[
    "listen.address",
    "listen.workers",
    "listen.backlog",
    "topology.source",
    "topology.etcd_endpoints",
    "topology.etcd_user",
    "topology.etcd_password_file",
    "topology.etcd_ca",
    "topology.etcd_certificate",
    "topology.etcd_key",
    "topology.namespace",
    "topology.scope",
    "topology.etcd_timeout",
    "topology.etcd_check",
    "topology.members",
    "auth.lookup_user",
    "auth.lookup_database",
    "auth.monitor_user",
    "auth.monitor_database",
    "auth.cluster_secret_file",
    "routing.class_cache",
    "admin.address",
    "log.format",
];

/// Reads the file anew, all of it, as at the start.
///
/// # Errors
/// What is wrong with it; the caller then goes on with what it has.
pub fn reload(path: &Path) -> Result<Config, Error> {
    Config::load(path)
}

/// The keys that differ between `running` and `loaded` and take effect only at the next start.
pub fn needs_restart(running: &Config, loaded: &Config) -> Vec<&'static str> {
    let value = |config: &Config, name: &str| {
        config.settings.iter().find(|setting| setting.name == name).map(|setting| setting.value.clone())
    };
    NEEDS_RESTART.iter().copied().filter(|name| value(running, name) != value(loaded, name)).collect()
}
