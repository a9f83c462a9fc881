//! The control path: follows etcd or a fixed list, checks the members, and publishes the topology.
//!
//! ```text
//! etcd watch ──► driver (topology::Machine) ──► watch::Receiver<Arc<Topology>> ──► sessions
//! monitors ────►    │ which members, how often       monitors ──► Positions ──► sessions
//!     ▲─────────────┘
//! ```
//! It never learns that statements exist: `catalog` asks what it is handed.

mod catalog;
mod driver;
mod error;
mod etcd;
mod link;
mod login;
mod lookup;
mod monitor;
mod probe;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::{Failover, Routing, Source, TopologyConfig};
use crate::topology::{Machine, MemberId, Positions, Settings, Topology, Transition};
pub use catalog::{Answers, CatalogError, CatalogFound, CatalogQuestions, open_catalog, read_catalog};
pub use error::Error;
pub use link::{Connect, Link, LinkError, Rows};
pub use login::MonitorLogin;
pub use lookup::{LookupConfig, LookupTask, Lookups};

/// Suspicions waiting for the driver; more at once tell nothing new.
const SUSPICIONS: usize = 64;
/// Findings of etcd and of the monitors waiting for the driver.
const EVENTS: usize = 256;

/// The running control path. Dropping it ends its tasks.
#[derive(Debug)]
pub struct Control {
    /// Who is primary and who serves reads, swapped whole.
    pub topology: watch::Receiver<Arc<Topology>>,
    /// WAL positions.
    pub positions: Arc<Positions>,
    /// The last 256 things that happened, oldest first.
    pub transitions: watch::Receiver<Arc<[Transition]>>,
    /// Where sessions say that a member's connection ended on them.
    pub suspects: Suspects,
    tasks: JoinSet<()>,
}

/// Takes what sessions saw: the member is then checked at once, and often for two seconds.
#[derive(Debug, Clone)]
pub struct Suspects(mpsc::Sender<MemberId>);

impl Suspects {
    /// This member's connection ended, or it refused a statement as no primary would. Never waits.
    pub fn tell(&self, member: MemberId) {
        // Full: the driver has enough to look at already.
        let _full = self.0.try_send(member);
    }
}

impl Control {
    /// Ends the control path and waits for its tasks.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Starts following. `connect` opens the monitors' connections. Must be called within a tokio runtime, whose tasks these are.
///
/// # Errors
/// Files of `[topology]` that can't be read, or endpoints that are none.
pub fn start<C: Connect>(
    topology: &TopologyConfig,
    routing: &Routing,
    failover: &Failover,
    connect: C,
) -> Result<Control, Error> {
    let now = Instant::now();
    let settings = settings(topology, routing, failover);
    let mut tasks = JoinSet::new();
    let (events, inbox) = mpsc::channel(EVENTS);
    let machine = match &topology.source {
        Source::Static(members) => Machine::with_members(settings, members, now),
        Source::Etcd(source) => {
            let follower = etcd::Follower::new(source, events.clone())?;
            tasks.spawn(follower.run());
            Machine::new(settings, now)
        }
    };
    let (wake, woken) = watch::channel(());
    let positions = Arc::new(Positions::with_wake(now, move || wake.send_modify(|()| {})));
    let monitors = monitor::Monitors::new(topology, connect, positions.clone(), woken, events);
    let (suspects, suspected) = mpsc::channel(SUSPICIONS);
    let (driver, (topology, transitions)) =
        driver::Driver::new(machine, monitors, positions.clone(), inbox, suspected);
    tasks.spawn(driver.run());
    Ok(Control { topology, positions, transitions, suspects: Suspects(suspects), tasks })
}

fn settings(topology: &TopologyConfig, routing: &Routing, failover: &Failover) -> Settings {
    Settings {
        check_quiet: topology.monitor_interval,
        check_busy: topology.monitor_interval_busy,
        check_timeout: topology.monitor_timeout,
        member_grace: topology.member_grace,
        fence_after: topology.fence_after,
        drain: failover.drain,
        hold: failover.hold,
        max_lag: routing.max_lag,
        max_lag_bytes: routing.max_lag_bytes,
        eject_after: routing.eject_after,
        eject_time: routing.eject_time,
        slow_start: routing.slow_start,
        weights: routing.weights.clone(),
    }
}
