//! Waiting for a condition of the cluster, with a deadline and with what was seen last.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::member::Member;
use super::patroni::{self, Report};
use super::{Cluster, Error, etcd};

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Looks in a row that have to find the cluster ready: Patroni may be about to record what it saw before.
const SETTLED_LOOKS: u32 = 4;
/// Patroni's record of the synchronous standbys.
const SYNC_KEY: &str = "/pg-ha-cluster/sync";

/// The moment by which something must have happened.
#[derive(Debug)]
pub(super) struct Deadline {
    end: Instant,
    after: Duration,
    logs: PathBuf,
}

impl Deadline {
    pub(super) fn new(after: Duration, logs: PathBuf) -> Self {
        Self { end: Instant::now() + after, after, logs }
    }

    /// Waits a little before the next look; an error once the deadline has passed.
    pub(super) async fn pause(&self, what: &str, last: &str) -> Result<(), Error> {
        if Instant::now() >= self.end {
            let (what, last, logs) = (what.to_owned(), last.to_owned(), self.logs.clone());
            return Err(Error::Deadline { what, after: self.after, last, logs });
        }
        tokio::time::sleep(LOOK_EVERY).await;
        Ok(())
    }
}

/// The member that says it is the running primary; of several the one on the highest timeline.
pub(super) fn leader(reports: &[Option<Report>]) -> Option<usize> {
    let primaries = reports.iter().enumerate().filter_map(|(number, report)| {
        let report = report.as_ref().filter(|report| report.is_running_primary())?;
        Some((report.timeline, number))
    });
    primaries.max().map(|(_, number)| number)
}

impl Cluster {
    /// What each member's Patroni says, all asked at once.
    pub(super) async fn reports(&self) -> Vec<Option<Report>> {
        let mut asked = JoinSet::new();
        for (number, member) in self.members.iter().enumerate() {
            let port = member.place.api_port;
            asked.spawn(async move { (number, patroni::report(port).await) });
        }
        let mut reports = vec![None; self.members.len()];
        for (number, report) in asked.join_all().await {
            reports[number] = report;
        }
        reports
    }

    pub(super) async fn wait_for_leader(&self, deadline: &Deadline) -> Result<usize, Error> {
        loop {
            let reports = self.reports().await;
            if let Some(number) = leader(&reports) {
                return Ok(number);
            }
            self.check_alive()?;
            deadline.pause("a primary", &self.describe(&reports)).await?;
        }
    }

    pub(super) async fn wait_for_streaming(&self, deadline: &Deadline) -> Result<(), Error> {
        let mut looks = 0;
        loop {
            let reports = self.reports().await;
            let ready = match leader(&reports) {
                Some(number) => self.all_stream(number, &reports) && self.has_heir(number).await,
                None => false,
            };
            looks = if ready { looks + 1 } else { 0 };
            if looks == SETTLED_LOOKS {
                return Ok(());
            }
            deadline.pause("streaming by all members", &self.describe(&reports)).await?;
        }
    }

    /// Whether every member that has processes streams from this one.
    fn all_stream(&self, leader: usize, reports: &[Option<Report>]) -> bool {
        let Some(report) = &reports[leader] else { return false };
        let streams = |name: &str| {
            report
                .replication
                .iter()
                .any(|standby| standby.application_name == name && standby.state == "streaming")
        };
        self.standbys(leader).all(|(number, member)| {
            let running = reports[number].as_ref().is_some_and(|report| report.replication_state.is_some());
            running && streams(&member.place.name)
        })
    }

    /// Whether Patroni has recorded in etcd that a standby is synchronous. PostgreSQL's own word comes earlier, and the
    /// standbys' Patroni has an old one for a while, but only a member that stands there may take over.
    async fn has_heir(&self, leader: usize) -> bool {
        if !self.options.synchronous || self.standbys(leader).next().is_none() {
            return true;
        }
        let Some(text) = etcd::value(self.etcd_port, SYNC_KEY).await else { return false };
        let sync: Value = serde_json::from_str(&text).unwrap_or_default();
        let heirs = sync["sync_standby"].as_str().unwrap_or_default();
        sync["leader"] == self.members[leader].place.name.as_str()
            && self.standbys(leader).any(|(_, member)| heirs.split(',').any(|heir| heir == member.place.name))
    }

    /// The members other than the leader that have processes.
    fn standbys(&self, leader: usize) -> impl Iterator<Item = (usize, &Member)> {
        let others = self.members.iter().enumerate().filter(move |(number, _)| *number != leader);
        others.filter(|(_, member)| !member.running().all.is_empty())
    }

    /// A member whose processes are all gone won't come up any more.
    fn check_alive(&self) -> Result<(), Error> {
        let Some(gone) = self.members.iter().find(|member| member.keepers().is_empty()) else {
            return Ok(());
        };
        let log = std::fs::read_to_string(&gone.place.log).unwrap_or_default();
        let output =
            log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message").to_owned();
        Err(Error::Program { program: "patroni", output })
    }

    fn describe(&self, reports: &[Option<Report>]) -> String {
        let texts: Vec<String> = self
            .members
            .iter()
            .zip(reports)
            .map(|(member, report)| match report {
                Some(report) => format!("{} is {} ({})", member.place.name, report.role, report.state),
                None => format!("{} does not answer", member.place.name),
            })
            .collect();
        texts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_primaries_the_higher_timeline_leads() {
        let report = |role: &str, state: &str, timeline| {
            Some(Report {
                role: role.into(),
                state: state.into(),
                timeline: Some(timeline),
                ..Report::default()
            })
        };
        let reports = [report("primary", "running", 1), None, report("primary", "running", 2)];
        assert_eq!(leader(&reports), Some(2));
        assert_eq!(leader(&[report("replica", "running", 2), report("primary", "starting", 2), None]), None);
    }
}
