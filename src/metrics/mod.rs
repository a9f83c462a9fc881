//! What the proxy counts, in one registry that is built once and handed down.
//!
//! Each part is given its own struct: a worker thread its [`Worker`], whose cells cost a plain load and store and are
//! added up when somebody asks; the control path [`Control`]; logins [`Logins`]; the rest are single counters. Knows
//! nothing of the other folders: members are numbers here, named by [`Members`].

mod cells;
mod collector;
mod parts;
mod tally;
mod worker;

use std::sync::Arc;

use prometheus::{IntCounter, IntGaugeVec, Opts, Registry, TextEncoder};

pub use parts::{CatalogRead, Control, LoginResult, Logins, Members, Routing};
pub use tally::{Tally, TallyReader, Traffic};
pub use worker::{BackendState, Class, Reroute, SQLSTATES, Slot, Worker};

/// All of it. What each part needs is taken from here once, at the start.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Names of the members.
    pub members: Arc<Members>,
    /// For the control path.
    pub control: Arc<Control>,
    /// For logins.
    pub logins: Arc<Logins>,
    /// For what is known of statements and functions.
    pub routing: Arc<Routing>,
    /// `pgha_panics_total`: sessions that ended in a panic. Stands at 0.
    pub panics: IntCounter,
}

impl Metrics {
    /// Builds the registry, and the counters of `workers` threads, each to be moved into its own.
    ///
    /// # Errors
    /// Two metrics of one name: a mistake in this folder.
    pub fn new(workers: usize) -> Result<(Self, Vec<Worker>), prometheus::Error> {
        let registry = Registry::new();
        let members = Arc::new(Members::default());
        let workers: Vec<Worker> = (0..workers).map(|_| Worker::new()).collect();
        registry.register(Box::new(collector::Workers::new(&workers, Arc::clone(&members))?))?;
        let panics = IntCounter::new("pgha_panics_total", "Sessions that ended in a panic of the proxy.")?;
        registry.register(Box::new(panics.clone()))?;
        let control = Arc::new(Control::register(&registry)?);
        let logins = Arc::new(Logins::register(&registry)?);
        let routing = Arc::new(Routing::register(&registry)?);
        build_info(&registry)?;
        Ok((Self { registry, members, control, logins, routing, panics }, workers))
    }

    /// Everything in Prometheus' text format (version 0.0.4).
    ///
    /// # Errors
    /// A metric without samples or a name: a mistake in this folder.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn build_info(registry: &Registry) -> Result<(), prometheus::Error> {
    let opts = Opts::new("pgha_build_info", "1, with the version that runs.");
    let info = IntGaugeVec::new(opts, &["version"])?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(info))
}

#[cfg(test)]
mod tests;
