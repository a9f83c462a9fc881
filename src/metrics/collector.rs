//! Adds the workers' cells up when somebody asks.

use std::collections::HashMap;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::cells::{self, BOUNDS_MICROS, Number, Sum};
use super::parts::Members;
use super::worker::{BackendState, Cells, Class, NAMED, Reroute, SLOTS, SQLSTATES, Worker};

/// Name, help and labels of each family, by the order of [`Family`].
const FAMILIES: [(&str, &str, &[&str]); 11] = [
    (
        "pgha_statements_total",
        "Statements by the member that served them and by class.",
        &["member", "class"],
    ),
    ("pgha_vector_search_seconds", "Time from a vector search's sending to its answer's end.", &["member"]),
    ("pgha_pool_backends", "Connections to a member by state.", &["member", "state"]),
    (
        "pgha_reroutes_total",
        "Statements that ran elsewhere than they would have at first, or once more.",
        &["reason"],
    ),
    ("pgha_errors_total", "Errors that the proxy itself answered with.", &["sqlstate"]),
    ("pgha_parses_spared_total", "Parse messages that no backend was sent, as it had the statement.", &[]),
    ("pgha_sessions", "Clients that are logged in.", &[]),
    ("pgha_pool_waiting", "Sessions that wait for a backend.", &[]),
    ("pgha_failover_waiting", "Sessions that wait for a primary.", &[]),
    ("pgha_pool_wait_seconds", "Waits for a backend, where there was one.", &[]),
    ("pgha_failover_wait_seconds", "Waits for a primary, where there was one.", &[]),
];

#[derive(Clone, Copy)]
enum Family {
    Statements,
    Searches,
    Backends,
    Reroutes,
    Errors,
    ParsesSpared,
    Sessions,
    PoolWaiting,
    FailoverWaiting,
    PoolWait,
    FailoverWait,
}

/// The cells of every worker.
pub(super) struct Workers {
    descs: Vec<Desc>,
    cells: Vec<Arc<Cells>>,
    members: Arc<Members>,
}

impl Workers {
    pub(super) fn new(workers: &[Worker], members: Arc<Members>) -> Result<Self, prometheus::Error> {
        let descs = FAMILIES.iter().map(|(name, help, labels)| {
            let labels = labels.iter().map(ToString::to_string).collect();
            Desc::new((*name).to_owned(), (*help).to_owned(), labels, HashMap::new())
        });
        let cells = workers.iter().map(|worker| Arc::clone(&worker.cells)).collect();
        Ok(Self { descs: descs.collect::<Result<_, _>>()?, cells, members })
    }

    fn sum<'c>(&'c self, cell: impl Fn(&'c Cells) -> &'c Number) -> u64 {
        self.cells.iter().fold(0, |sum, cells| sum.wrapping_add(cell(cells).load()))
    }

    fn histogram<'c>(&'c self, cell: impl Fn(&'c Cells) -> &'c cells::Histogram) -> Sum {
        Sum::of(self.cells.iter().map(|cells| cell(cells)))
    }

    /// The slots to show, with their names: every known member, and whatever has counted.
    fn slots(&self) -> impl Iterator<Item = (usize, String)> {
        (0..SLOTS).filter_map(|slot| {
            let name = match slot {
                _ if slot == NAMED => Some("other".to_owned()),
                _ if slot > NAMED => Some("proxy".to_owned()),
                _ => self.members.name(slot),
            };
            let counted =
                || (0..Class::LABELS.len()).any(|class| self.sum(|cells| &cells.statements[slot][class]) > 0);
            match name {
                Some(name) if slot < NAMED || counted() => Some((slot, name)),
                None if counted() => Some((slot, format!("member-{slot}"))),
                _ => None,
            }
        })
    }

    fn statements(&self) -> MetricFamily {
        let mut metrics = Vec::new();
        for (slot, name) in self.slots() {
            for (class, label) in Class::LABELS.iter().enumerate() {
                let count = self.sum(|cells| &cells.statements[slot][class]);
                metrics.push(counter(count, &[("member", &name), ("class", label)]));
            }
        }
        family(Family::Statements, MetricType::COUNTER, metrics)
    }

    fn searches(&self) -> MetricFamily {
        let slots = self.slots().map(|(slot, name)| {
            histogram(&self.histogram(|cells| &cells.searches[slot]), &[("member", &name)])
        });
        family(Family::Searches, MetricType::HISTOGRAM, slots.collect())
    }

    fn backends(&self) -> MetricFamily {
        let mut metrics = Vec::new();
        for (slot, name) in self.slots() {
            for (state, label) in BackendState::LABELS.iter().enumerate() {
                let count = self.sum(|cells| &cells.backends[slot][state]);
                metrics.push(gauge(count, &[("member", &name), ("state", label)]));
            }
        }
        family(Family::Backends, MetricType::GAUGE, metrics)
    }

    fn reroutes(&self) -> MetricFamily {
        let metrics = Reroute::LABELS
            .iter()
            .enumerate()
            .map(|(reason, label)| counter(self.sum(|cells| &cells.reroutes[reason]), &[("reason", label)]));
        family(Family::Reroutes, MetricType::COUNTER, metrics.collect())
    }

    fn errors(&self) -> MetricFamily {
        let labels = SQLSTATES.iter().chain(&["other"]);
        let metrics = labels
            .enumerate()
            .map(|(at, label)| counter(self.sum(|cells| &cells.errors[at]), &[("sqlstate", label)]));
        family(Family::Errors, MetricType::COUNTER, metrics.collect())
    }

    fn parses_spared(&self) -> MetricFamily {
        let count = counter(self.sum(|cells| &cells.parses_spared), &[]);
        family(Family::ParsesSpared, MetricType::COUNTER, vec![count])
    }

    fn plain_gauge(&self, which: Family, cell: impl Fn(&Cells) -> &Number) -> MetricFamily {
        family(which, MetricType::GAUGE, vec![gauge(self.sum(cell), &[])])
    }

    fn wait(&self, which: Family, cell: impl Fn(&Cells) -> &cells::Histogram) -> MetricFamily {
        family(which, MetricType::HISTOGRAM, vec![histogram(&self.histogram(cell), &[])])
    }
}

impl Collector for Workers {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = vec![
            self.statements(),
            self.searches(),
            self.backends(),
            self.reroutes(),
            self.errors(),
            self.parses_spared(),
            self.plain_gauge(Family::Sessions, |cells| &cells.sessions),
            self.plain_gauge(Family::PoolWaiting, |cells| &cells.pool_waiting),
            self.plain_gauge(Family::FailoverWaiting, |cells| &cells.failover_waiting),
            self.wait(Family::PoolWait, |cells| &cells.pool_wait),
            self.wait(Family::FailoverWait, |cells| &cells.failover_wait),
        ];
        // The encoder refuses a family without samples: no member is known yet.
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

fn family(which: Family, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let (name, help, _labels) = FAMILIES[which as usize];
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    Metric::from_label(pairs.collect())
}

fn counter(count: u64, labels: &[(&str, &str)]) -> Metric {
    let mut value = Counter::default();
    value.set_value(count as f64);
    let mut metric = labelled(labels);
    metric.set_counter(value);
    metric
}

fn gauge(count: u64, labels: &[(&str, &str)]) -> Metric {
    let mut value = Gauge::default();
    // Between two threads' cells a gauge may be seen below zero for a moment.
    value.set_value((count as i64).max(0) as f64);
    let mut metric = labelled(labels);
    metric.set_gauge(value);
    metric
}

fn histogram(sum: &Sum, labels: &[(&str, &str)]) -> Metric {
    let mut below = 0;
    let buckets = BOUNDS_MICROS.iter().zip(&sum.buckets).map(|(&bound, count)| {
        below += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound as f64 / 1e6);
        bucket.set_cumulative_count(below);
        bucket
    });
    let mut value = Histogram::default();
    value.set_bucket(buckets.collect());
    value.set_sample_count(sum.count());
    value.set_sample_sum(sum.micros as f64 / 1e6);
    let mut metric = labelled(labels);
    metric.set_histogram(value);
    metric
}
