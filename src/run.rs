//! Builds everything, hands it down; signals, drain.

use std::path::Path;

use crate::config::Config;

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {}

impl Proxy {
    /// Starts the proxy in this process and returns when it takes connections. `path` is read again for a reload, and
    /// `set_level` then takes `log.level` up.
    ///
    /// # Errors
    /// What kept it from starting.
    pub fn start(
        config: Config,
        path: &Path,
        set_level: Box<dyn Fn(&str) + Send + Sync>,
    ) -> anyhow::Result<Self> {
        drop((config, set_level));
        anyhow::bail!("{}: the proxy can't be run yet", path.display())
    }

    /// Takes no more clients, lets open transactions end, and returns when all is closed.
    ///
    /// # Errors
    /// What went wrong on the way.
    pub fn stop(self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Runs the proxy until SIGTERM or SIGINT; the rest as [`Proxy::start`].
///
/// # Errors
/// What kept it from starting.
pub fn run(config: Config, path: &Path, set_level: Box<dyn Fn(&str) + Send + Sync>) -> anyhow::Result<()> {
    Proxy::start(config, path, set_level)?.stop()
}
