//! Logging to standard error, as text or JSON.

use std::io::{self, IsTerminal};

use anyhow::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// Changes `log.level` of the running process; the text was checked when the configuration was read.
pub(super) type SetLevel = Box<dyn Fn(&str) + Send + Sync>;

/// Starts logging for the process.
///
/// # Errors
/// The level is no filter, or logging runs already.
pub(super) fn start(log: &Log) -> anyhow::Result<SetLevel> {
    let filter = EnvFilter::try_new(&log.level).context("log.level")?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let lines: Box<dyn Layer<_> + Send + Sync> = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let filtered = lines.with_filter(filter);
    Registry::default().with(filtered).try_init().context("logging")?;
    Ok(Box::new(move |level| {
        let changed = EnvFilter::try_new(level).map(|filter| handle.reload(filter));
        if !matches!(changed, Ok(Ok(()))) {
            tracing::warn!(level, "the log level stays as it was");
        }
    }))
}
