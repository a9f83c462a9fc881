//! The rows of the console's tables, as JSON by column: what the sessions, pools and views of the whole proxy come to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};

use super::desk::{ByDatabase, Desk};
use crate::admin::console::{DATABASE, SERVER_VERSION, Table, nodes};
use crate::config::{LIVE, PoolMode};
use crate::metrics::Traffic;
use crate::run::views;
use crate::session::{BackendRow, ClientRow, Identity, Shared, Transaction, Wait};
use crate::topology::{Member, Topology};

/// Rows of a table, and what their reader should know.
pub(super) async fn rows(desk: &Desk, table: Table) -> (Value, Vec<String>) {
    let shared = &desk.shared;
    let (rows, silent) = match table {
        Table::Clients => clients(shared).await,
        Table::Servers => servers(shared).await,
        Table::Pools => pools(shared).await,
        Table::Nodes => (members(shared), 0),
        Table::Databases => databases(shared).await,
        Table::Users => users(shared).await,
        Table::Lists => lists(desk).await,
        Table::Stats => (each_database(desk, |totals, averages| joined(&totals, &averages)), 0),
        Table::StatsTotals => (each_database(desk, |totals, _| named(&totals, &TOTALS, |name| name.1)), 0),
        Table::StatsAverages => {
            (each_database(desk, |_, averages| named(&averages, &AVERAGES, |name| name.1)), 0)
        }
        Table::Totals => (totals(desk), 0),
        Table::Routes => (views::routes(shared)["learnt"].clone(), 0),
        Table::Failovers => (failovers(&desk.record.show()), 0),
        Table::Config => (config(shared), 0),
        Table::Version => (json!([{ "version": concat!("pg-ha-proxy ", env!("CARGO_PKG_VERSION")) }]), 0),
        Table::State => (state(shared), 0),
    };
    let notices =
        (silent > 0).then(|| format!("{silent} workers did not answer in time: their rows are missing"));
    (rows, notices.into_iter().collect())
}

/// A moment as PgBouncer shows it.
fn stamp(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string().replace('T', " ").replace('Z', " UTC")
}

fn since(at: Instant) -> String {
    stamp(SystemTime::now() - at.elapsed())
}

/// Whole seconds, and the microseconds behind them.
fn parts(time: Duration) -> (u64, u32) {
    (time.as_secs(), time.subsec_micros())
}

fn member(topology: &Topology, number: u16) -> Option<&Member> {
    topology.members.iter().find(|member| member.id.0 == number)
}

fn name_of(topology: &Topology, number: u16) -> String {
    member(topology, number).map_or_else(|| number.to_string(), |member| member.name.to_string())
}

fn pool_mode(shared: &Shared) -> &'static str {
    match shared.config.pool.mode {
        PoolMode::Transaction => "transaction",
        PoolMode::Session => "session",
    }
}

/// A row a client: for SHOW CLIENTS and for `/sessions`.
pub(in crate::run) async fn clients(shared: &Arc<Shared>) -> (Value, usize) {
    let (rows, silent) = shared.clients().await;
    let topology = shared.topology.borrow().clone();
    // Each is made from many parts; there may be thousands.
    let rows = tokio::task::block_in_place(|| rows.iter().map(|row| client(row, &topology)).collect());
    (Value::Array(rows), silent)
}

fn client(row: &ClientRow, topology: &Topology) -> Value {
    let card = &row.card;
    let (wait, wait_us) = row.waits.map_or((0, 0), |(_, since)| parts(since.elapsed()));
    let state = match (row.waits, &row.backend) {
        (Some(_), _) => "waiting",
        (None, Some(_)) => "active",
        (None, None) if row.running => "active",
        (None, None) => "idle",
    };
    json!({
        "type": "C", "user": &*card.user, "database": &*card.database, "replication": "none", "state": state,
        "addr": card.peer.ip().to_string(), "port": card.peer.port(),
        "local_addr": card.local.map(|local| local.ip().to_string()), "local_port": card.local.map(|local| local.port()),
        "connect_time": stamp(card.since), "request_time": since(row.asked),
        "wait": wait, "wait_us": wait_us, "close_needed": 0,
        "ptr": card.id.to_string(), "link": row.backend.as_ref().map_or_else(String::new, link),
        "remote_pid": card.process_id(), "tls": card.tls.as_deref().unwrap_or_default(),
        "application_name": row.application_name, "prepared_statements": row.statements, "id": card.id,
        "worker": row.worker,
        "transaction": match row.transaction {
            Transaction::Idle => "idle",
            Transaction::Begun => "begun",
            Transaction::Open => "open",
            Transaction::Failed => "failed",
            Transaction::Lost => "lost",
        },
        "waits_for": row.waits.map(|(wait, _)| match wait {
            Wait::Backend => "backend",
            Wait::Primary => "primary",
            Wait::Search => "search",
            Wait::Resume => "resume",
        }),
        "pinned": (!row.pinned.is_empty()).then_some(&row.pinned), "pinned_since": row.pinned_since.map(since),
        "member": row.backend.as_ref().map(|backend| name_of(topology, backend.member)),
    })
}

/// What a client is linked to, as SHOW SERVERS names it: member and process id there.
fn link(backend: &BackendRow) -> String {
    format!("{}/{}", backend.member, backend.process_id)
}

/// Who a backend is for.
struct For<'a> {
    user: &'a str,
    database: &'a str,
    client: Option<&'a ClientRow>,
}

async fn servers(shared: &Arc<Shared>) -> (Value, usize) {
    let (clients, silent) = shared.clients().await;
    let (idle, _) = shared.idle_backends().await;
    let topology = shared.topology.borrow().clone();
    let mut rows = Vec::new();
    for row in &clients {
        if let Some(backend) = &row.backend {
            let of = For { user: &row.card.user, database: &row.card.database, client: Some(row) };
            rows.push(server(backend, &of, &topology));
        }
    }
    for (identity, backend) in &idle {
        let of = For { user: &identity.user, database: &identity.database, client: None };
        rows.push(server(backend, &of, &topology));
    }
    (Value::Array(rows), silent)
}

fn server(row: &BackendRow, of: &For<'_>, topology: &Topology) -> Value {
    let at = member(topology, row.member);
    let is_primary = topology.primary().is_some_and(|primary| primary.id.0 == row.member);
    json!({
        "type": "S", "user": of.user, "database": of.database, "replication": "none",
        "state": if of.client.is_some() { "active" } else { "idle" },
        "addr": at.map(|member| &*member.host), "port": at.map(|member| member.port),
        "local_addr": row.local.map(|local| local.ip().to_string()), "local_port": row.local.map(|local| local.port()),
        "connect_time": since(row.opened), "request_time": since(row.since),
        "wait": 0, "wait_us": 0, "close_needed": 0,
        "ptr": link(row), "link": of.client.map_or_else(String::new, |client| client.card.id.to_string()),
        "remote_pid": row.process_id, "tls": if row.tls { "TLS" } else { "" },
        "application_name": of.client.map_or("", |client| &client.application_name), "prepared_statements": 0,
        "id": row.process_id, "worker": row.worker, "member": name_of(topology, row.member),
        "role": if is_primary { "primary" } else { "replica" }, "epoch": topology.epoch.0, "generation": row.generation,
    })
}

/// What is counted for one user in one database.
#[derive(Default)]
struct Pool {
    active: usize,
    waiting: usize,
    pinned: usize,
    for_primary: usize,
    paused: usize,
    sv_active: usize,
    sv_idle: usize,
    sv_login: usize,
    on_primary: usize,
    on_replicas: usize,
    longest: Duration,
}

async fn pools(shared: &Arc<Shared>) -> (Value, usize) {
    let (clients, silent) = shared.clients().await;
    let (idle, _) = shared.idle_backends().await;
    let primary = shared.topology.borrow().primary().map(|primary| primary.id.0);
    let mut pools: BTreeMap<(String, String), Pool> = BTreeMap::new();
    let key = |user: &str, database: &str| (database.to_owned(), user.to_owned());
    let on = |pool: &mut Pool, member: u16| {
        *(if Some(member) == primary { &mut pool.on_primary } else { &mut pool.on_replicas }) += 1;
    };
    for row in &clients {
        let pool = pools.entry(key(&row.card.user, &row.card.database)).or_default();
        match row.waits {
            Some((wait, since)) => {
                pool.waiting += 1;
                pool.longest = pool.longest.max(since.elapsed());
                pool.for_primary += usize::from(wait == Wait::Primary);
                pool.paused += usize::from(wait == Wait::Resume);
            }
            None => pool.active += 1,
        }
        pool.pinned += usize::from(!row.pinned.is_empty());
        if let Some(backend) = &row.backend {
            pool.sv_active += 1;
            on(pool, backend.member);
        }
    }
    for (identity, backend) in &idle {
        let pool = pools.entry(key(&identity.user, &identity.database)).or_default();
        pool.sv_idle += 1;
        on(pool, backend.member);
    }
    for row in shared.pools().iter().filter(|row| row.opening > 0) {
        pools.entry(key(&row.identity.user, &row.identity.database)).or_default().sv_login += row.opening;
    }
    let rows = pools.iter().map(|((database, user), pool)| {
        let (maxwait, maxwait_us) = parts(pool.longest);
        json!({
            "database": database, "user": user, "cl_active": pool.active, "cl_waiting": pool.waiting,
            "cl_active_cancel_req": 0, "cl_waiting_cancel_req": 0, "sv_active": pool.sv_active, "sv_active_cancel": 0,
            "sv_being_canceled": 0, "sv_idle": pool.sv_idle, "sv_used": 0, "sv_tested": 0, "sv_login": pool.sv_login,
            "maxwait": maxwait, "maxwait_us": maxwait_us,
            "pool_mode": if database == DATABASE { "statement" } else { pool_mode(shared) },
            "paused": u8::from(shared.pauses.holds(database) && database != DATABASE), "cl_pinned": pool.pinned,
            "cl_waiting_primary": pool.for_primary, "cl_paused": pool.paused,
            "sv_primary": pool.on_primary, "sv_replica": pool.on_replicas,
        })
    });
    (Value::Array(rows.collect()), silent)
}

fn members(shared: &Shared) -> Value {
    let topology = shared.topology.borrow().clone();
    let pools = shared.pools();
    nodes(&topology, |name| {
        let here = pools.iter().filter(|row| name_of(&topology, row.member) == name);
        here.fold([0; 3], |[active, idle, login], row| {
            [active + row.busy, idle + row.idle, login + row.opening]
        })
    })
}

/// Clients and backends of each by a key: a database, or a user.
async fn counts(
    shared: &Arc<Shared>,
    of_client: fn(&ClientRow) -> &str,
    of_identity: fn(&Identity) -> &str,
) -> (BTreeMap<String, (usize, usize)>, usize) {
    let (clients, silent) = shared.clients().await;
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (identity, _) in shared.traffic() {
        counts.entry(of_identity(&identity).to_owned()).or_default();
    }
    for row in &clients {
        counts.entry(of_client(row).to_owned()).or_default().0 += 1;
    }
    for row in shared.pools() {
        counts.entry(of_identity(&row.identity).to_owned()).or_default().1 +=
            row.idle + row.busy + row.opening;
    }
    (counts, silent)
}

async fn databases(shared: &Arc<Shared>) -> (Value, usize) {
    let (mut counts, silent) = counts(shared, |row| &row.card.database, |identity| &identity.database).await;
    counts.entry(DATABASE.to_owned()).or_default();
    for paused in shared.pauses.databases() {
        counts.entry(paused.to_string()).or_default();
    }
    let topology = shared.topology.borrow().clone();
    let (primary, config) = (topology.primary(), &shared.config);
    let rows = counts.iter().map(|(name, (clients, servers))| {
        let console = name == DATABASE;
        let primary = primary.filter(|_| !console);
        json!({
            "name": name, "host": primary.map(|member| &*member.host), "port": primary.map_or(0, |member| member.port),
            "database": name, "pool_size": config.pool.size, "min_pool_size": 0, "reserve_pool_size": 0,
            "server_lifetime": config.pool.lifetime.as_secs().to_string(),
            "pool_mode": if console { "statement" } else { pool_mode(shared) },
            "max_connections": config.pool.member_size, "current_connections": servers,
            "max_client_connections": config.limits.clients, "current_client_connections": clients,
            "paused": u8::from(shared.pauses.holds(name) && !console), "disabled": 0, "reserve_pool": 0,
        })
    });
    (Value::Array(rows.collect()), silent)
}

async fn users(shared: &Arc<Shared>) -> (Value, usize) {
    let (counts, silent) = counts(shared, |row| &row.card.user, |identity| &identity.user).await;
    let rows = counts.iter().map(|(name, (clients, servers))| {
        json!({
            "name": name, "pool_size": "", "reserve_pool_size": "", "pool_mode": null, "max_user_connections": 0,
            "current_connections": servers, "max_user_client_connections": 0, "current_client_connections": clients,
        })
    });
    (Value::Array(rows.collect()), silent)
}

async fn lists(desk: &Desk) -> (Value, usize) {
    let shared = &desk.shared;
    let (databases, silent) = counts(shared, |row| &row.card.database, |identity| &identity.database).await;
    let (users, _) = counts(shared, |row| &row.card.user, |identity| &identity.user).await;
    let clients: usize = databases.values().map(|(clients, _)| clients).sum();
    let servers: usize = databases.values().map(|(_, servers)| servers).sum();
    let logins = shared.config.limits.logins.saturating_sub(desk.handshake.load().logins.free());
    let places = shared.config.pool.member_size * shared.topology.borrow().members.len();
    let list = |name: &str, items: usize| json!({ "list": name, "items": items });
    let rows = json!([
        list("databases", databases.len()),
        list("users", users.len()),
        list("peers", 0),
        list("pools", shared.traffic().len()),
        list("peer_pools", 0),
        list("free_clients", shared.config.limits.clients.saturating_sub(clients + logins)),
        list("used_clients", clients),
        list("login_clients", logins),
        list("free_servers", places.saturating_sub(servers)),
        list("used_servers", servers),
        list("dns_names", 0),
        list("dns_zones", 0),
        list("dns_queries", 0),
        list("dns_pending", 0),
    ]);
    (rows, silent)
}

/// What was counted so far, by database.
pub(super) fn by_database(shared: &Shared) -> ByDatabase {
    let mut counted = ByDatabase::new();
    for (identity, traffic) in shared.traffic() {
        let sum = counted.entry(Arc::clone(&identity.database)).or_default();
        *sum = sum.plus(traffic);
    }
    counted
}

/// A figure's names: in SHOW STATS, and in the table of its own.
type Names = [(&'static str, &'static str); 8];

const TOTALS: Names = [
    ("total_server_assignment_count", "server_assignment_count"),
    ("total_xact_count", "xact_count"),
    ("total_query_count", "query_count"),
    ("total_received", "bytes_received"),
    ("total_sent", "bytes_sent"),
    ("total_xact_time", "xact_time"),
    ("total_query_time", "query_time"),
    ("total_wait_time", "wait_time"),
];

const AVERAGES: Names = [
    ("avg_server_assignment_count", "server_assignment_count"),
    ("avg_xact_count", "xact_count"),
    ("avg_query_count", "query_count"),
    ("avg_recv", "bytes_received"),
    ("avg_sent", "bytes_sent"),
    ("avg_xact_time", "xact_time"),
    ("avg_query_time", "query_time"),
    ("avg_wait_time", "wait_time"),
];

/// The figures in the order of their names.
fn figures(traffic: &Traffic) -> [u64; 8] {
    [
        traffic.assignments,
        traffic.transactions,
        traffic.queries,
        traffic.received,
        traffic.sent,
        traffic.transaction_micros,
        traffic.query_micros,
        traffic.wait_micros,
    ]
}

/// Counts a second; times a transaction, a statement and a backend given.
fn averages(counted: &Traffic, over: Duration) -> Traffic {
    let a_second = |count: u64| (count as f64 / over.as_secs_f64().max(1.0)) as u64;
    Traffic {
        assignments: a_second(counted.assignments),
        transactions: a_second(counted.transactions),
        queries: a_second(counted.queries),
        received: a_second(counted.received),
        sent: a_second(counted.sent),
        transaction_micros: counted.transaction_micros / counted.transactions.max(1),
        query_micros: counted.query_micros / counted.queries.max(1),
        wait_micros: counted.wait_micros / counted.assignments.max(1),
    }
}

fn named(
    traffic: &Traffic,
    names: &Names,
    pick: fn(&(&'static str, &'static str)) -> &'static str,
) -> Map<String, Value> {
    names.iter().zip(figures(traffic)).map(|(name, figure)| (pick(name).to_owned(), json!(figure))).collect()
}

fn joined(totals: &Traffic, averages: &Traffic) -> Map<String, Value> {
    let mut row = named(totals, &TOTALS, |name| name.0);
    row.extend(named(averages, &AVERAGES, |name| name.0));
    row
}

/// A row a database, of its totals and averages.
fn each_database(desk: &Desk, row: fn(Traffic, Traffic) -> Map<String, Value>) -> Value {
    let rows = by_database(&desk.shared).into_iter().map(|(database, totals)| {
        let (before, over) = desk.averages.before(&database);
        let mut row = row(totals, averages(&totals.since(before), over));
        row.insert("database".to_owned(), json!(&*database));
        Value::Object(row)
    });
    Value::Array(rows.collect())
}

fn totals(desk: &Desk) -> Value {
    let (mut totals, mut recent, mut over) = (Traffic::default(), Traffic::default(), Duration::ZERO);
    for (database, traffic) in by_database(&desk.shared) {
        let (before, since) = desk.averages.before(&database);
        totals = totals.plus(traffic);
        recent = recent.plus(traffic.since(before));
        over = since;
    }
    let rows = joined(&totals, &averages(&recent, over));
    Value::Array(rows.into_iter().map(|(name, value)| json!({ "name": name, "value": value })).collect())
}

fn failovers(record: &Value) -> Value {
    let row = |one: &Value| {
        let (times, sessions) = (&one["milliseconds"], &one["sessions"]);
        let began = one["began"].as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        json!({
            "began": began.map(|began| stamp(SystemTime::UNIX_EPOCH + began)), "kind": one["kind"],
            "from": one["from"], "to": one["to"], "epoch": one["epoch"],
            "key_deleted_ms": times["key_deleted"], "key_written_ms": times["key_written"],
            "verified_ms": times["verified"], "first_write_ms": times["first_write"],
            "sessions": sessions["there"], "kept": sessions["kept"], "waited": sessions["waited"],
            "longest_wait_ms": sessions["longest_wait_ms"], "rerun": sessions["rerun"],
            "told_40001": sessions["told_40001"], "told_08007": sessions["told_08007"],
            "told_08006": sessions["told_08006"], "gave_up": sessions["gave_up"], "ended": sessions["ended"],
        })
    };
    Value::Array(record.as_array().into_iter().flatten().map(row).collect())
}

/// PgBouncer's keys that have a counterpart, as exporters look for them, then all of proxy.toml.
fn config(shared: &Shared) -> Value {
    let config = &shared.config;
    let counterparts = [
        ("max_client_conn", config.limits.clients, 10_000),
        ("default_pool_size", config.pool.size, 20),
        ("max_db_connections", config.pool.member_size, 100),
        ("max_user_connections", 0, 0),
        ("listen_backlog", config.listen.backlog as usize, 1024),
    ];
    let row = |key: &str, value: &str, default: &str| {
        let changeable = if LIVE.contains(&key) { "yes" } else { "no" };
        json!({ "key": key, "value": value, "default": default, "changeable": changeable })
    };
    let theirs =
        counterparts.iter().map(|(key, value, default)| row(key, &value.to_string(), &default.to_string()));
    let ours = config.settings.iter().map(|setting| row(&setting.name, &setting.value, &setting.default));
    let server = std::iter::once(row("server_version", SERVER_VERSION, SERVER_VERSION));
    Value::Array(theirs.chain(ours).chain(server).collect())
}

fn state(shared: &Shared) -> Value {
    let yes = |value: bool| if value { "yes" } else { "no" };
    let all = shared.pauses.all();
    let databases = shared.pauses.databases().join(", ");
    json!([
        { "key": "active", "value": yes(!all) },
        { "key": "paused", "value": yes(all) },
        { "key": "suspended", "value": "no" },
        { "key": "paused_databases", "value": databases },
    ])
}
