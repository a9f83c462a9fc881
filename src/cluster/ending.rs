//! The end of a cluster: in order, at once, or by being dropped.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::keeper::Keeper;
use super::{Cluster, Error, processes, wait};

/// How long the members may take to stop in order before they are killed.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// How long keepers may take to end what they keep.
const END_DEADLINE: Duration = Duration::from_secs(8);

impl Cluster {
    /// Ends the cluster: in order where its folder stays, at once where it goes.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder can't be removed.
    pub async fn down(mut self) -> Result<(), Error> {
        if self.options.keep {
            self.stop_in_order().await;
        }
        self.ask_keepers_to_end();
        let end = tokio::time::Instant::now() + END_DEADLINE;
        while !self.all_ended() && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.finish()
    }

    /// The replicas first, so that none of them takes over.
    async fn stop_in_order(&self) {
        let leader = wait::leader(&self.reports().await);
        let end = tokio::time::Instant::now() + STOP_DEADLINE;
        let (primary, replicas): (Vec<usize>, Vec<usize>) =
            (0..self.members.len()).partition(|number| Some(*number) == leader);
        for group in [replicas, primary] {
            for number in &group {
                self.stop_member(*number);
            }
            for number in group {
                while !self.members[number].keepers().is_empty() && tokio::time::Instant::now() < end {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    /// Asks a member's Patroni to stop, which stops its PostgreSQL first.
    fn stop_member(&self, number: usize) {
        if let Some(relays) = &self.relays {
            relays.cut(number, false);
        }
        let running = self.members[number].running();
        for pid in running.all {
            processes::signal(pid, Signal::SIGCONT);
        }
        match running.patroni {
            Some(patroni) => processes::signal(patroni, Signal::SIGTERM),
            None => self.members[number].keepers().iter_mut().for_each(Keeper::end),
        }
    }

    fn ask_keepers_to_end(&self) {
        for member in &self.members {
            member.keepers().iter_mut().for_each(Keeper::end);
        }
        if let Some(keeper) = self.etcd_keeper().as_mut() {
            keeper.end();
        }
    }

    fn all_ended(&self) -> bool {
        let etcd = self.etcd_keeper().as_mut().is_none_or(Keeper::has_ended);
        etcd && self.members.iter().all(|member| member.keepers().is_empty())
    }

    /// Kills what is left, and removes the folder if it does not stay.
    fn finish(&mut self) -> Result<(), Error> {
        for member in &self.members {
            member.keepers().iter_mut().for_each(Keeper::kill);
        }
        if let Some(mut keeper) = self.etcd_keeper().take() {
            keeper.kill();
        }
        self.relays = None;
        self.folder.close()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.ask_keepers_to_end();
        let end = std::time::Instant::now() + END_DEADLINE;
        while !self.all_ended() && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Err(error) = self.finish() {
            tracing::warn!(%error, "the cluster's folder stays");
        }
    }
}
