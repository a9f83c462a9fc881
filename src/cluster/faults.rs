//! Breaking the cluster, and mending it.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::keeper::{Keeper, Program};
use super::wait::Deadline;
use super::{Cluster, Error, etcd, patroni, processes};

/// How long processes may take to die of SIGKILL.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// How long etcd may take to answer after its start.
const ETCD_DEADLINE: Duration = Duration::from_secs(30);

/// What to do to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// `kill -9` to every process of PostgreSQL; its Patroni lives and starts it again.
    Postgres,
    /// `kill -9` to Patroni; its PostgreSQL lives on alone.
    Patroni,
    /// `kill -9` to every process of the member: the node is dead.
    Member,
    /// Stops every process of the member, as a machine that hangs.
    Freeze,
    /// Stops Patroni alone; its PostgreSQL goes on.
    FreezePatroni,
    /// Lets the stopped processes go on.
    Thaw,
    /// Cuts the member off from etcd, from the other members and from clients.
    Partition,
    /// Undoes that.
    Heal,
    /// Starts a member that is dead, or its Patroni.
    Start,
}

impl Cluster {
    /// Does something to a member, and returns when it is done: the processes are dead, or started. What the cluster
    /// makes of it is not waited for.
    ///
    /// # Errors
    /// [`Error::UnknownMember`], and [`Error::State`] when the member is not in a state for it.
    pub async fn kill(&self, member: &str, how: How) -> Result<(), Error> {
        let number = self.number_of(member)?;
        tracing::info!(member, ?how, "fault");
        match how {
            How::Postgres => self.kill_postgres(number).await,
            How::Patroni => self.signal_patroni(number, Signal::SIGKILL),
            How::Member => self.kill_member(number).await,
            How::Freeze => self.signal_member(number, Signal::SIGSTOP),
            How::FreezePatroni => self.signal_patroni(number, Signal::SIGSTOP),
            How::Thaw => self.signal_member(number, Signal::SIGCONT),
            How::Partition => self.cut(number, true),
            How::Heal => self.cut(number, false),
            How::Start if self.members[number].has_patroni() => {
                Err(Error::State(format!("{member} runs already")))
            }
            How::Start => self.start_member(number),
        }
    }

    /// Hands the lead over to a member, or to whichever Patroni chooses, and waits until the new leader runs as the
    /// primary. Returns its name.
    ///
    /// # Errors
    /// [`Error::Patroni`] when Patroni refuses, [`Error::Deadline`] when it does not happen in two minutes.
    pub async fn switchover(&self, to: Option<&str>) -> Result<String, Error> {
        if let Some(to) = to {
            self.number_of(to)?;
        }
        let deadline = Deadline::new(Duration::from_secs(120), self.folder.logs());
        let old = self.wait_for_leader(&deadline).await?;
        let place = &self.members[old].place;
        patroni::switchover(place.api_port, &self.passwords.api, &place.name, to).await?;
        loop {
            let leader = self.wait_for_leader(&deadline).await?;
            if leader != old {
                return Ok(self.members[leader].place.name.clone());
            }
            deadline.pause("the switchover", "the old primary leads").await?;
        }
    }

    /// `kill -9` to etcd.
    ///
    /// # Errors
    /// [`Error::State`] when it is stopped already.
    pub async fn stop_etcd(&self) -> Result<(), Error> {
        let keeper = self.etcd_keeper().as_ref().map(Keeper::pid);
        let Some(keeper) = keeper else { return Err(Error::State("etcd is stopped already".to_owned())) };
        self.kill_all(keeper, "etcd").await?;
        if let Some(mut keeper) = self.etcd_keeper().take() {
            keeper.kill();
        }
        Ok(())
    }

    /// Starts etcd on the data that it had, and waits until it answers.
    ///
    /// # Errors
    /// [`Error::State`] when it runs already, [`Error::Deadline`] when it does not answer.
    pub async fn start_etcd(&self) -> Result<(), Error> {
        let runs = self.etcd_keeper().as_mut().is_some_and(|keeper| !keeper.has_ended());
        if runs {
            return Err(Error::State("etcd runs already".to_owned()));
        }
        let dir = self.folder.path();
        let program = Program {
            dir,
            command: etcd::command(&self.runtime, dir, self.etcd_port, self.etcd_peer_port),
            pgdata: None,
            log: self.folder.logs().join("etcd.log"),
            remove: !self.options.keep,
        };
        let keeper = Keeper::start(&self.runtime, &program)?;
        *self.etcd_keeper() = Some(keeper);
        let deadline = Deadline::new(ETCD_DEADLINE, self.folder.logs());
        while !etcd::is_healthy(self.etcd_port).await {
            deadline.pause("etcd's start", "it does not answer").await?;
        }
        Ok(())
    }

    /// Throws away etcd's history, so that a watch from an older revision can't go on. Returns the revision kept.
    ///
    /// # Errors
    /// [`Error::Etcd`] when etcd does not answer.
    pub async fn compact_etcd(&self) -> Result<i64, Error> {
        etcd::compact(self.etcd_port).await
    }

    fn number_of(&self, name: &str) -> Result<usize, Error> {
        let found = self.members.iter().position(|member| member.place.name == name);
        found.ok_or_else(|| {
            let known: Vec<_> = self.members.iter().map(|member| member.place.name.as_str()).collect();
            Error::UnknownMember { name: name.to_owned(), known: known.join(", ") }
        })
    }

    async fn kill_postgres(&self, number: usize) -> Result<(), Error> {
        let member = &self.members[number];
        let Some(postmaster) = member.running().postgres else {
            return Err(Error::State(format!("{} runs no PostgreSQL", member.place.name)));
        };
        let backends = processes::descendants(postmaster);
        processes::signal(postmaster, Signal::SIGKILL);
        for pid in &backends {
            processes::signal(*pid, Signal::SIGKILL);
        }
        self.gone(&[&[postmaster], backends.as_slice()].concat(), &member.place.name).await
    }

    async fn kill_member(&self, number: usize) -> Result<(), Error> {
        let member = &self.members[number];
        for keeper in member.keeper_pids() {
            self.kill_all(keeper, &member.place.name).await?;
        }
        let deadline = Deadline::new(KILL_DEADLINE, self.folder.logs());
        while !member.keepers().is_empty() {
            deadline.pause("the death of a member's keeper", &member.place.name).await?;
        }
        self.origins.set(number, Vec::new());
        Ok(())
    }

    fn signal_patroni(&self, number: usize, signal: Signal) -> Result<(), Error> {
        let member = &self.members[number];
        let Some(patroni) = member.running().patroni else {
            return Err(Error::State(format!("{} runs no Patroni", member.place.name)));
        };
        processes::signal(patroni, signal);
        Ok(())
    }

    fn signal_member(&self, number: usize, signal: Signal) -> Result<(), Error> {
        let member = &self.members[number];
        let keepers = member.keeper_pids();
        if keepers.is_empty() {
            return Err(Error::State(format!("{} has no process", member.place.name)));
        }
        for keeper in keepers {
            processes::signal_descendants(keeper, signal);
        }
        Ok(())
    }

    fn cut(&self, number: usize, cut: bool) -> Result<(), Error> {
        let Some(relays) = &self.relays else {
            return Err(Error::State("this cluster has no relays, so no member can be cut off".to_owned()));
        };
        relays.cut(number, cut);
        Ok(())
    }

    async fn kill_all(&self, keeper: u32, name: &str) -> Result<(), Error> {
        if processes::kill_descendants(keeper, KILL_DEADLINE).await {
            Ok(())
        } else {
            Err(Error::State(format!("processes of {name} do not die")))
        }
    }

    async fn gone(&self, pids: &[u32], name: &str) -> Result<(), Error> {
        let deadline = Deadline::new(KILL_DEADLINE, self.folder.logs());
        while pids.iter().any(|pid| processes::runs(*pid)) {
            deadline.pause("the death of PostgreSQL", name).await?;
        }
        Ok(())
    }
}
