//! The settings of routing and failover that the control path is started with where it is tried by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use pg_ha_proxy::config::{Balance, Consistency, Failover, Reads, Routing};

pub(crate) fn settings() -> (Routing, Failover) {
    let routing = Routing {
        catalog_interval: Duration::ZERO,
        learnt: 0,
        reads: Reads::Replicas,
        consistency: Consistency::Session,
        balance: Balance::RoundRobin,
        user_consistency: BTreeMap::new(),
        eject_after: 0,
        eject_time: Duration::from_secs(10),
        slow_start: Duration::ZERO,
        weights: BTreeMap::new(),
        fence_wait: Duration::ZERO,
        max_lag: Duration::from_secs(10),
        max_lag_bytes: 16 << 20,
        read_only_functions: Vec::new(),
        primary_functions: Vec::new(),
        class_cache: 1,
        retry_buffer: 1,
        answer_buffer: 1,
    };
    let failover = Failover {
        hold: None,
        max_waiting: 1,
        max_waiting_bytes: 1,
        fail_fast: Vec::new(),
        drain: Duration::from_secs(5),
    };
    (routing, failover)
}
