//! What is counted comes out, under the names that are promised.

use std::time::Duration;

use super::*;

/// The value of one line of the text format, by the whole of what stands before it.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == series))?;
    line.rsplit_once(' ').unwrap().1.parse().ok()
}

#[test]
fn workers_are_added_up() {
    let (metrics, workers) = Metrics::new(2).unwrap();
    metrics.members.set(0, "pg-node-1");
    workers[0].statement(Slot::member(0), Class::Read);
    workers[1].statement(Slot::member(0), Class::Read);
    workers[1].statement(Slot::member(0), Class::Vector);
    workers[1].statement(Slot::PROXY, Class::Session);
    workers[0].statement(Slot::member(63), Class::Write);
    workers[0].statement(Slot::member(u16::MAX), Class::Write);
    workers[0].statement(Slot::member(5), Class::Write);
    workers[0].session_began();
    workers[1].session_began();
    workers[0].session_ended();
    workers[0].set_backends(Slot::member(0), BackendState::Idle, 3);
    workers[1].set_backends(Slot::member(0), BackendState::Idle, 4);
    workers[0].error(*b"40001");
    workers[0].error(*b"?????");
    workers[1].reroute(Reroute::ReadOnly);
    workers[0].parse_spared();
    let text = metrics.render().unwrap();
    for (series, expected) in [
        ("pgha_statements_total{member=\"pg-node-1\",class=\"read\"}", 2.0),
        ("pgha_statements_total{member=\"pg-node-1\",class=\"vector\"}", 1.0),
        ("pgha_statements_total{member=\"pg-node-1\",class=\"copy\"}", 0.0),
        ("pgha_statements_total{member=\"proxy\",class=\"session\"}", 1.0),
        ("pgha_statements_total{member=\"other\",class=\"write\"}", 2.0),
        ("pgha_statements_total{member=\"member-5\",class=\"write\"}", 1.0),
        ("pgha_sessions", 1.0),
        ("pgha_pool_backends{member=\"pg-node-1\",state=\"idle\"}", 7.0),
        ("pgha_errors_total{sqlstate=\"40001\"}", 1.0),
        ("pgha_errors_total{sqlstate=\"other\"}", 1.0),
        ("pgha_reroutes_total{reason=\"read_only\"}", 1.0),
        ("pgha_parses_spared_total", 1.0),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series} in\n{text}");
    }
}

#[test]
fn waits_fall_into_their_buckets() {
    let (metrics, workers) = Metrics::new(1).unwrap();
    workers[0].pool_wait_began();
    workers[0].pool_wait_began();
    workers[0].pool_wait_ended(Duration::from_millis(1));
    workers[0].failover_wait_began();
    workers[0].failover_wait_ended(Duration::from_mins(2));
    let text = metrics.render().unwrap();
    for (series, expected) in [
        ("pgha_pool_waiting", 1.0),
        ("pgha_pool_wait_seconds_bucket{le=\"0.0005\"}", 0.0),
        ("pgha_pool_wait_seconds_bucket{le=\"0.001\"}", 1.0),
        ("pgha_pool_wait_seconds_bucket{le=\"+Inf\"}", 1.0),
        ("pgha_pool_wait_seconds_sum", 0.001),
        ("pgha_failover_waiting", 0.0),
        ("pgha_failover_wait_seconds_bucket{le=\"30\"}", 0.0),
        ("pgha_failover_wait_seconds_bucket{le=\"+Inf\"}", 1.0),
        ("pgha_failover_wait_seconds_count", 1.0),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series} in\n{text}");
    }
}

#[test]
fn searches_are_timed_by_member() {
    let (metrics, workers) = Metrics::new(1).unwrap();
    metrics.members.set(1, "pg-node-2");
    workers[0].search(Slot::member(1), Duration::from_millis(3));
    let text = metrics.render().unwrap();
    assert_eq!(value(&text, "pgha_vector_search_seconds_count{member=\"pg-node-2\"}"), Some(1.0));
    assert_eq!(value(&text, "pgha_vector_search_seconds_sum{member=\"pg-node-2\"}"), Some(0.003));
}

#[test]
fn members_that_are_gone_are_not_shown() {
    let (metrics, _workers) = Metrics::new(1).unwrap();
    metrics.control.show_members([("a", true, None), ("b", false, Some(7))]);
    let text = metrics.render().unwrap();
    assert_eq!(value(&text, "pgha_member_up{member=\"a\"}"), Some(1.0));
    assert_eq!(value(&text, "pgha_member_up{member=\"b\"}"), Some(0.0));
    assert_eq!(value(&text, "pgha_member_lag_bytes{member=\"b\"}"), Some(7.0));
    assert_eq!(value(&text, "pgha_member_lag_bytes{member=\"a\"}"), None);
    metrics.control.show_members([("b", true, None)]);
    let text = metrics.render().unwrap();
    assert_eq!(value(&text, "pgha_member_up{member=\"a\"}"), None);
    assert_eq!(value(&text, "pgha_member_up{member=\"b\"}"), Some(1.0));
    assert_eq!(value(&text, "pgha_member_lag_bytes{member=\"b\"}"), None);
}

#[test]
fn every_promised_name_is_there_from_the_start() {
    let (metrics, workers) = Metrics::new(1).unwrap();
    metrics.members.set(0, "a");
    metrics.control.show_members([("a", true, Some(0))]);
    metrics.logins.count(LoginResult::Refused);
    metrics.panics.inc();
    let text = metrics.render().unwrap();
    for name in [
        "pgha_statements_total",
        "pgha_sessions",
        "pgha_pool_backends",
        "pgha_pool_waiting",
        "pgha_pool_wait_seconds",
        "pgha_failover_wait_seconds",
        "pgha_failovers_total",
        "pgha_epoch",
        "pgha_member_up",
        "pgha_member_lag_bytes",
        "pgha_logins_total",
        "pgha_learnt_total",
        "pgha_learnt_entries",
        "pgha_catalog_reads_total",
        "pgha_errors_total",
        "pgha_reroutes_total",
        "pgha_parses_spared_total",
        "pgha_panics_total",
        "pgha_build_info",
        "pgha_vector_search_seconds",
    ] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} in\n{text}");
    }
    assert_eq!(value(&text, "pgha_logins_total{result=\"refused\"}"), Some(1.0));
    assert_eq!(value(&text, "pgha_panics_total"), Some(1.0));
    drop(workers);
}

#[test]
fn a_worker_moves_to_its_thread() {
    let (metrics, mut workers) = Metrics::new(1).unwrap();
    let worker = workers.pop().unwrap();
    std::thread::spawn(move || worker.session_began()).join().unwrap();
    assert_eq!(value(&metrics.render().unwrap(), "pgha_sessions"), Some(1.0));
}
