//! Taking up a changed proxy.toml while the proxy runs.
//!
//! What is in [`LIVE`] holds for whatever begins after the reload: a new login, statement or backend. Certificates are
//! read anew even where their names stay. Everything else waits for the next start, and [`needs_restart`] names it.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Config, Error, PoolMode, Quota};

/// Keys that take effect without a restart. proxy.toml marks them with `(reload)`.
pub const LIVE: &[&str] = &[
    "tls.client_mode",
    "tls.certificate",
    "tls.key",
    "tls.client_ca",
    "tls.server_mode",
    "tls.server_ca",
    "hba.type",
    "hba.database",
    "hba.user",
    "hba.address",
    "hba.method",
    "hba.clientcert",
    "hba.map",
    "ident_map.map",
    "ident_map.system_user",
    "ident_map.database_user",
    "users.name",
    "users.password",
    "users.password_file",
    "users.verifier",
    "users.max_user_client_connections",
    "databases.name",
    "databases.max_db_client_connections",
    "routing.read_only_functions",
    "routing.primary_functions",
    "limits.logins",
    "limits.login_timeout",
    "admin.users",
    "log.level",
];

/// Reads the file anew, all of it, as at the start.
///
/// # Errors
/// What is wrong with it; the caller then goes on with what it has.
pub fn reload(path: &Path) -> Result<Config, Error> {
    Config::load(path)
}

/// The keys that differ between `running` and `loaded` and take effect only at the next start, in the order of the file; those of
/// arrays of tables come last.
pub fn needs_restart(running: &Config, loaded: &Config) -> Vec<String> {
    let pairs = running.settings.iter().zip(&loaded.settings);
    let changed = pairs.filter(|(before, after)| before.value != after.value).map(|(before, _)| &before.name);
    let mut waiting: Vec<String> = changed.filter(|name| !LIVE.contains(&name.as_str())).cloned().collect();
    for (name, running, loaded) in [
        ("users", &running.user_quotas, &loaded.user_quotas),
        ("databases", &running.databases, &loaded.databases),
    ] {
        if sizes(running) != sizes(loaded) {
            waiting.push(format!("{name}.pool_size"));
        }
        if modes(running) != modes(loaded) {
            waiting.push(format!("{name}.pool_mode"));
        }
    }
    waiting
}

fn sizes(quotas: &BTreeMap<String, Quota>) -> Vec<(&str, usize)> {
    quotas.iter().filter_map(|(name, quota)| Some((&**name, quota.pool_size?))).collect()
}

fn modes(quotas: &BTreeMap<String, Quota>) -> Vec<(&str, PoolMode)> {
    quotas.iter().filter_map(|(name, quota)| Some((&**name, quota.pool_mode?))).collect()
}
