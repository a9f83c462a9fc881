//! What a run has shown: the journal held against the ledger, the members' logs and the probes.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use crate::journal::{DONE, Entry, Journal, Read, Write, now};
use crate::plan::Fault;
use crate::probe::Taken;
use crate::stage::{Stage, Struck, application};

/// How long after the proxy's restart a client may still learn that its connection is gone, in seconds.
const RESTART_GRACE: f64 = 1.0;
/// How long a statement waits for a primary, in seconds: ttl + loop_wait + 5 s.
const HOLD: f64 = 26.0;
/// By how much the probe may see a new primary later than the proxy, in seconds.
const PROBE_LATE: f64 = 1.0;
/// A pause of the cluster's writes that is shorter is none, in seconds.
const STOP: f64 = 0.3;

/// Everything that was seen.
pub(crate) struct Evidence {
    pub(crate) entries: Vec<Entry>,
    pub(crate) struck: Vec<Struck>,
    pub(crate) taken: Vec<Taken>,
    /// Rows in the ledger by id.
    pub(crate) ledger: HashMap<i64, usize>,
    /// INSERTs that a member's log shows: member, time, id.
    pub(crate) logged: Vec<(String, f64, i64)>,
}

impl Evidence {
    /// Collects it, once the load has stopped.
    pub(crate) async fn collect(
        stage: &Stage,
        journal: &Journal,
        struck: Vec<Struck>,
        taken: Vec<Taken>,
    ) -> Self {
        let status = stage.cluster.status().await;
        let leader = status.member(status.leader.as_ref().expect("a leader")).expect("a member");
        let config = application(&status, leader.direct_port);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("the primary");
        let driver = tokio::spawn(connection);
        let sql = "SELECT id, count(*) FROM ledger GROUP BY id";
        let rows = client.query(sql, &[]).await.expect("the ledger");
        driver.abort();
        let ledger =
            rows.iter().map(|row| (row.get(0), usize::try_from(row.get::<_, i64>(1)).unwrap_or(0))).collect();
        stage.keep_logs().await;
        let entries = journal.entries();
        let lines: String =
            entries.iter().map(|entry| serde_json::to_string(entry).expect("JSON") + "\n").collect();
        std::fs::write(stage.folder.join("journal.jsonl"), lines).expect("the journal");
        let mut lines = String::new();
        for Taken { member, at, timeline } in &taken {
            writeln!(lines, "{at:.3} {member} {timeline}").expect("a String");
        }
        std::fs::write(stage.folder.join("probes.txt"), lines).expect("the probes' writes");
        let mut logged = Vec::new();
        for member in &status.members {
            let log = std::fs::read(&member.log).expect("a log");
            let inserts = inserts(&String::from_utf8_lossy(&log));
            logged.extend(inserts.into_iter().map(|(at, id)| (member.name.clone(), at, id)));
        }
        Self { entries, struck, taken, ledger, logged }
    }

    fn writes(&self) -> impl Iterator<Item = &Write> {
        self.entries
            .iter()
            .filter_map(|entry| if let Entry::Write(write) = entry { Some(write) } else { None })
    }

    fn reads(&self) -> impl Iterator<Item = &Read> {
        self.entries.iter().filter_map(|entry| if let Entry::Read(read) = entry { Some(read) } else { None })
    }

    /// Whether the proxy's restart falls into this time.
    fn in_restart(&self, begun: f64, ended: f64) -> bool {
        let restarts = self.struck.iter().filter(|struck| struck.fault == Fault::ProxyRestart);
        restarts
            .into_iter()
            .any(|one| begun < one.over && ended > one.begun && ended < one.over + RESTART_GRACE)
    }

    /// What must not be, one line each.
    pub(crate) fn wrongs(&self) -> Wrongs {
        let rows = |write: &Write| self.ledger.get(&write.id).copied().unwrap_or(0);
        let show = |write: &Write| {
            let Write { client, id, outcome, text, begun, ended, .. } = write;
            format!("{client} {id} {begun:.3} +{:.3} {outcome} {text}", ended - begun)
        };
        let writes = |is: &dyn Fn(&Write) -> bool| self.writes().filter(|w| is(w)).map(show).collect();
        let reads = |is: &dyn Fn(&Read) -> bool| {
            let failed = self.reads().filter(|read| is(read));
            failed.map(|read| format!("{read:?}")).collect::<Vec<_>>()
        };
        let lost_sessions = self.entries.iter().filter_map(|entry| match entry {
            Entry::Session { client, at, lost: true, text } if !self.in_restart(*at, *at) => {
                Some(format!("{client} {at:.3} {text}"))
            }
            _ => None,
        });
        let refused = |write: &Write| write.outcome != DONE && write.outcome != "08007";
        // As promised, when the cluster itself has no primary for longer than a statement may wait.
        let held_out = |write: &Write| write.outcome == "57P03" && write.ended - write.begun >= HOLD;
        let in_restart = |write: &Write| self.in_restart(write.begun, write.ended);
        Wrongs(vec![
            ("acknowledged writes lost", writes(&|w| w.outcome == DONE && rows(w) < w.parts)),
            ("writes applied twice", writes(&|w| rows(w) > w.parts)),
            ("transactions applied in part", writes(&|w| rows(w) > 0 && rows(w) < w.parts)),
            ("writes reported failed that stand", writes(&|w| refused(w) && !in_restart(w) && rows(w) > 0)),
            ("writes on a wrong member", self.on_wrong_member()),
            ("writes failed otherwise than by 40001 or 08007", {
                writes(&|w| refused(w) && w.outcome != "40001" && !in_restart(w) && !held_out(w))
            }),
            ("own writes not read", reads(&|read| read.missing.is_some())),
            ("sessions lost", lost_sessions.collect()),
            ("reads failed", reads(&|r| r.outcome != DONE && !self.in_restart(r.begun, r.ended))),
        ])
    }

    /// Everything that any client was refused.
    pub(crate) fn errors(&self) -> Vec<String> {
        let writes = self.writes().filter(|write| write.outcome != DONE).map(|write| format!("{write:?}"));
        let reads = self.reads().filter(|read| read.outcome != DONE).map(|read| format!("{read:?}"));
        writes.chain(reads).collect()
    }

    /// Writes acknowledged on a timeline older than one that was acknowledged on before they began, and writes that began
    /// after another member was promoted and that stand in the log of one promoted before.
    fn on_wrong_member(&self) -> Vec<String> {
        let mut newest: Vec<(f64, &str)> = Vec::new();
        let mut done: Vec<&Write> = self.writes().filter(|write| write.outcome == DONE).collect();
        done.sort_by(|a, b| a.ended.total_cmp(&b.ended));
        for write in &done {
            if newest.last().is_none_or(|(_, timeline)| write.timeline.as_str() > *timeline) {
                newest.push((write.ended, &write.timeline));
            }
        }
        let behind = done.iter().filter(|write| {
            newest.iter().any(|(at, timeline)| *at < write.begun && *timeline > write.timeline.as_str())
        });
        let mut wrong: Vec<String> =
            behind.map(|w| format!("{} {} on timeline {}", w.client, w.id, w.timeline)).collect();
        let begun: HashMap<i64, f64> = self.writes().map(|write| (write.id, write.begun)).collect();
        let rules = self.rules();
        for (member, at, id) in &self.logged {
            let Some(begun) = begun.get(id) else { continue };
            // Whose rule it was when the write began; an INSERT in flight at its end may be logged anywhere.
            let ruler = rules.iter().rev().find(|(since, _)| since <= begun).map(|(_, name)| name);
            // The proxy may be the first to write to the next one: the probe looks every 20 ms, and waits for its own commit.
            let next = rules.iter().find(|(since, _)| since > begun && *since <= at + PROBE_LATE);
            let next = next.map(|(_, name)| name);
            if ruler.is_some_and(|ruler| ruler != member) && next.is_none_or(|next| next != member) {
                wrong.push(format!("{id}, begun {begun:.3}, ran on {member} at {at:.3}"));
            }
        }
        wrong
    }

    /// Since when which member is the primary: the first write that it took on a new timeline.
    fn rules(&self) -> Vec<(f64, &str)> {
        let mut newest = "";
        let mut rules = Vec::new();
        for taken in &self.taken {
            if taken.timeline.as_str() > newest {
                newest = &taken.timeline;
                rules.push((taken.at, taken.member.as_str()));
            }
        }
        rules
    }

    /// The figures, for people.
    pub(crate) fn account(&self) -> String {
        let mut out = String::new();
        let mut outcomes: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for write in self.writes() {
            let count = outcomes.entry(&write.outcome).or_default();
            count.0 += 1;
            count.1 += usize::from(self.ledger.contains_key(&write.id));
        }
        let mut line = |text: String| writeln!(out, "{text}").expect("a String");
        for (outcome, (count, stand)) in outcomes {
            line(format!("writes {outcome:<8} {count:>7}, of which stand {stand:>7}"));
        }
        for kind in ["own", "plain", "search"] {
            let times = self.reads().filter(|read| read.kind == kind).map(|read| read.ended - read.begun);
            let times: Vec<f64> = times.collect();
            let longest = times.iter().copied().fold(0.0, f64::max);
            line(format!("reads  {kind:<8} {:>7}, longest {longest:.2} s", times.len()));
        }
        line(
            "fault                member      write stop   the cluster's   ours      reads' stop".to_owned(),
        );
        for one in &self.struck {
            let Stops { seen, cluster, ours, reads } = self.stops(one);
            let ours = ours.map_or("–".to_owned(), |ours| format!("{:.0} ms", ours * 1000.0));
            line(format!(
                "{:<20} {:<10} {seen:>8.2} s {cluster:>13.2} s {ours:>9} {reads:>11.2} s",
                one.fault, one.member
            ));
        }
        let mut kinds: BTreeMap<Fault, (f64, f64, f64)> = BTreeMap::new();
        for one in &self.struck {
            let Stops { seen, cluster, ours, .. } = self.stops(one);
            let kind = kinds.entry(one.fault).or_insert((0.0, 0.0, f64::MIN));
            *kind = (kind.0.max(seen), kind.1.max(cluster), kind.2.max(ours.unwrap_or(f64::MIN)));
        }
        line("longest by kind".to_owned());
        for (fault, (seen, cluster, ours)) in kinds {
            let ours = if ours > f64::MIN { format!("{:.0} ms", ours * 1000.0) } else { "–".to_owned() };
            line(format!("{fault:<20} {seen:>19.2} s {cluster:>13.2} s {ours:>9}"));
        }
        out
    }

    fn stops(&self, one: &Struck) -> Stops {
        let acknowledged = self.writes().filter(|write| write.outcome == DONE).map(|write| write.ended);
        let seen = gap(acknowledged.collect(), one);
        let cluster = gap(self.taken.iter().map(|taken| taken.at).collect(), one);
        let reads = self.reads().filter(|read| read.begun < one.over && read.ended > one.begun);
        let ours = (cluster.1 - cluster.0 > STOP).then_some(seen.1 - cluster.1);
        Stops {
            seen: seen.1 - seen.0,
            cluster: cluster.1 - cluster.0,
            ours,
            reads: reads.map(|read| read.ended - read.begun).fold(0.0, f64::max),
        }
    }
}

/// How long what stood still during a fault, in seconds.
struct Stops {
    /// The longest time without an acknowledged write through the proxy.
    seen: f64,
    /// The same past the proxy.
    cluster: f64,
    /// From the first write that the new primary took to the first through the proxy.
    ours: Option<f64>,
    /// The longest read.
    reads: f64,
}

/// The longest time between two moments that overlaps the fault.
fn gap(mut moments: Vec<f64>, one: &Struck) -> (f64, f64) {
    moments.sort_by(f64::total_cmp);
    let gaps = moments.windows(2).map(|pair| (pair[0], pair[1]));
    let overlapping = gaps.filter(|(from, to)| *to > one.begun && *from < one.over);
    overlapping.max_by(|a, b| (a.1 - a.0).total_cmp(&(b.1 - b.0))).unwrap_or((one.begun, now()))
}

/// What must be empty, by what it is.
pub(crate) struct Wrongs(Vec<(&'static str, Vec<String>)>);

impl Wrongs {
    /// Prints the counts, with the first of each, and fails if any is not 0.
    pub(crate) fn hold(&self, about: &str) {
        for (what, found) in &self.0 {
            eprintln!("{:>7} {what}", found.len());
            found.iter().take(5).for_each(|one| eprintln!("        {one}"));
        }
        let wrong: Vec<_> =
            self.0.iter().filter(|(_, found)| !found.is_empty()).map(|(what, _)| *what).collect();
        assert!(wrong.is_empty(), "{}; {about}", wrong.join(", "));
    }
}

/// The INSERTs into the ledger that a server's log shows, with time and id. A prepared statement's values stand on the
/// next line, in its DETAIL.
fn inserts(log: &str) -> Vec<(f64, i64)> {
    let mut found = Vec::new();
    let mut lines = log.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((_, statement)) = line.split_once("INSERT INTO ledger") else { continue };
        let Some(at) = line.split(' ').next().and_then(|at| at.parse().ok()) else { continue };
        let text = match lines.peek().and_then(|next| next.split_once("$1 = '")) {
            Some((_, values)) if statement.contains("$1") => values,
            _ => statement.split_once("VALUES (").map_or("", |(_, values)| values),
        };
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        found.extend(digits.parse().ok().map(|id| (at, id)));
    }
    found
}

#[test]
fn a_servers_log_shows_ids() {
    let log = "1700000000.123 77 LOG:  statement: INSERT INTO ledger (id, part, client) VALUES (42, 1, 'a')\n\
               noise\n\
               1700000001.500 78 LOG:  execute s1: INSERT INTO ledger (id, part, client) VALUES ($1, $2, $3)\n\
               1700000001.500 78 DETAIL:  Parameters: $1 = '43', $2 = '1', $3 = 'b'\n";
    assert_eq!(inserts(log), [(1_700_000_000.123, 42), (1_700_000_001.5, 43)]);
}
