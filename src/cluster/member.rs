//! One member: its place on disk and on the network, and its processes.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::keeper::Keeper;
use super::processes;

/// Where a member is: folders and ports.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) name: String,
    /// The member's own folder.
    pub(super) dir: PathBuf,
    pub(super) data_dir: PathBuf,
    /// The folder of all members' Unix sockets; the port tells them apart.
    pub(super) socket_dir: PathBuf,
    pub(super) log: PathBuf,
    /// PostgreSQL's own port, and the one that is published: the relay's, or the same.
    pub(super) postgres_port: u16,
    pub(super) public_postgres_port: u16,
    /// Patroni's own port, and the one that is published.
    pub(super) api_port: u16,
    pub(super) public_api_port: u16,
    /// Where this member finds etcd.
    pub(super) etcd_port: u16,
}

impl Place {
    /// Patroni's configuration file.
    pub(super) fn configuration(&self) -> PathBuf {
        self.dir.join("patroni.yml")
    }
}

/// The processes of a member at one moment.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Running {
    /// Patroni, if it runs.
    pub(super) patroni: Option<u32>,
    /// The postmaster, if it runs.
    pub(super) postgres: Option<u32>,
    /// Every process of the member.
    pub(super) all: Vec<u32>,
}

/// A member and the keepers of its processes. More than one only while a PostgreSQL outlives its Patroni.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) place: Place,
    keepers: Mutex<Vec<Keeper>>,
}

impl Member {
    pub(super) fn new(place: Place) -> Self {
        Self { place, keepers: Mutex::new(Vec::new()) }
    }

    /// The keepers that have not ended.
    pub(super) fn keepers(&self) -> MutexGuard<'_, Vec<Keeper>> {
        let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        keepers.retain_mut(|keeper| !keeper.has_ended());
        keepers
    }

    /// The keepers' process ids.
    pub(super) fn keeper_pids(&self) -> Vec<u32> {
        self.keepers().iter().map(Keeper::pid).collect()
    }

    /// Whether its Patroni runs or is about to.
    pub(super) fn has_patroni(&self) -> bool {
        let starting = self.keepers().iter().any(|keeper| keeper.descendants().is_empty());
        starting || self.running().patroni.is_some()
    }

    /// Its processes now.
    pub(super) fn running(&self) -> Running {
        let all: Vec<u32> = self.keepers().iter().flat_map(Keeper::descendants).collect();
        let configuration = self.place.configuration();
        let patroni = all.iter().copied().find(|pid| has_argument(*pid, &configuration));
        let postgres = postmaster(&self.place.data_dir).filter(|pid| all.contains(pid));
        Running { patroni, postgres, all: all.into_iter().filter(|pid| processes::runs(*pid)).collect() }
    }
}

/// The process id that PostgreSQL wrote into its data folder; it may be an old one.
fn postmaster(data_dir: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok().filter(|pid| processes::runs(*pid))
}

fn has_argument(pid: u32, argument: &Path) -> bool {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let wanted = argument.as_os_str().as_encoded_bytes();
    processes::runs(pid) && arguments.split(|byte| *byte == 0).any(|found| found == wanted)
}
