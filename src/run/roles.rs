//! How the proxy's own two roles log in: the one that looks verifiers up, the one that monitors.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::client::{Lookup, LookupFuture};
use crate::config::{Auth, Config};
use crate::control::{LookupConfig, Lookups, MonitorLogin};
use crate::net::tls::ClientTls;
use crate::scram::{Credentials, Password, Secret};
use crate::topology::Topology;

/// TLS of the two roles, each with its own certificate; renewed by a reload.
#[derive(Debug, Clone)]
pub(super) struct RoleTls {
    lookup: Arc<ArcSwap<ClientTls>>,
    monitor: Arc<ArcSwap<ClientTls>>,
}

impl RoleTls {
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            lookup: Arc::new(ArcSwap::from_pointee(lookup_tls(config)?)),
            monitor: Arc::new(ArcSwap::from_pointee(monitor_tls(config)?)),
        })
    }

    /// Reads the certificates anew; changes nothing if one of them can't be read.
    pub(super) fn renew(&self, config: &Config) -> anyhow::Result<()> {
        let (lookup, monitor) = (lookup_tls(config)?, monitor_tls(config)?);
        self.lookup.store(Arc::new(lookup));
        self.monitor.store(Arc::new(monitor));
        Ok(())
    }
}

fn lookup_tls(config: &Config) -> anyhow::Result<ClientTls> {
    let identity = pair("auth.lookup_certificate", config.auth.lookup_certificate.as_ref());
    Ok(ClientTls::new(&config.tls, identity)?)
}

fn monitor_tls(config: &Config) -> anyhow::Result<ClientTls> {
    let identity = pair("auth.monitor_certificate", config.auth.monitor_certificate.as_ref());
    Ok(ClientTls::new(&config.tls, identity)?)
}

fn pair<'a>(
    key: &'static str,
    files: Option<&'a (PathBuf, PathBuf)>,
) -> Option<(&'static str, &'a Path, &'a Path)> {
    files.map(|(certificate, private)| (key, certificate.as_path(), private.as_path()))
}

/// The monitors' login.
pub(super) fn monitor(config: &Config, tls: &RoleTls) -> anyhow::Result<MonitorLogin> {
    let auth = &config.auth;
    let secret = secret("auth.monitor_password_file", auth.monitor_password_file.as_deref())?;
    Ok(MonitorLogin {
        credentials: Credentials { user: auth.monitor_user.as_str().into(), secret },
        database: auth.monitor_database.clone(),
        tls: Arc::clone(&tls.monitor),
        keep_alive: config.limits.keep_alive,
    })
}

/// Lookups of verifiers on the primary; none when only `[[users]]` may log in. Runs on the runtime it is called in.
pub(super) fn lookup(
    config: &Config,
    tls: &RoleTls,
    topology: watch::Receiver<Arc<Topology>>,
) -> anyhow::Result<Option<Lookup>> {
    let auth: &Auth = &config.auth;
    let Some(user) = &auth.lookup_user else { return Ok(None) };
    let secret = secret("auth.lookup_password_file", auth.lookup_password_file.as_deref())?;
    let settings = LookupConfig {
        credentials: Credentials { user: user.as_str().into(), secret },
        database: auth.lookup_database.clone(),
        tls: Arc::clone(&tls.lookup),
        keep_alive: config.limits.keep_alive,
        timeout: auth.lookup_timeout,
    };
    let (lookups, task) = Lookups::new(settings, topology);
    tokio::spawn(task.run());
    let lookups = Arc::new(lookups);
    Ok(Some(Arc::new(move |user: Arc<str>| -> LookupFuture {
        let lookups = Arc::clone(&lookups);
        Box::pin(async move { lookups.role(user).await })
    })))
}

fn secret(key: &str, file: Option<&Path>) -> anyhow::Result<Secret> {
    let Some(file) = file else { return Ok(Secret::None) };
    let text = std::fs::read_to_string(file).with_context(|| format!("{key}: {}", file.display()))?;
    Ok(Secret::Password(Arc::new(Password::new(text.trim_end_matches(['\r', '\n'])))))
}
