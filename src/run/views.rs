//! What is seen from outside: the HTTP side and the views it is handed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use serde_json::{Value, json};

use super::console::tables;
use super::record::Record;
use super::threads::Crew;
use crate::admin::{self, Reload, Survey, View, Views};
use crate::config::Config;
use crate::control::Control;
use crate::metrics::Metrics;
use crate::routing::Lesson;
use crate::session::{Shared, Shown};
use crate::topology::Epoch;

/// Sessions that `/sessions` shows one by one.
const SESSIONS: usize = 1000;

/// Starts the HTTP side, if there is to be one; gives the address it is bound to.
pub(super) fn serve(
    config: &Config,
    metrics: Metrics,
    control: &Control,
    shared: &Arc<Shared>,
    crew: &Crew,
    record: &Arc<Record>,
    reload: Reload,
) -> anyhow::Result<Option<SocketAddr>> {
    let metrics = Arc::new(metrics);
    follow(&metrics, control);
    let Some(address) = config.admin.address else { return Ok(None) };
    let listener = std::net::TcpListener::bind(address)
        .and_then(|listener| {
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)
        })
        .with_context(|| format!("admin.address: {address}"))?;
    let bound = listener.local_addr().context("admin.address")?;
    let views = Views {
        metrics,
        topology: control.topology.clone(),
        pools: pools(shared),
        sessions: sessions(shared, crew),
        routes: {
            let shared = Arc::clone(shared);
            Arc::new(move || routes(&shared))
        },
        failovers: failovers(record, control),
        reload,
    };
    tokio::spawn(admin::serve(listener, views, std::future::pending()));
    Ok(Some(bound))
}

/// Keeps the control path's gauges and the members' names in line with the topology.
fn follow(metrics: &Arc<Metrics>, control: &Control) {
    let (metrics, mut topology) = (Arc::clone(metrics), control.topology.clone());
    tokio::spawn(async move {
        let mut epoch: Option<Epoch> = None;
        loop {
            let now = topology.borrow_and_update().clone();
            for member in now.members.iter() {
                metrics.members.set(member.id.0, &member.name);
            }
            let primary = now.primary().map(|primary| primary.id);
            metrics.control.show_members(now.members.iter().map(|member| {
                (&*member.name, member.serves_reads || Some(member.id) == primary, member.lag_bytes)
            }));
            metrics.control.primary.set(i64::from(primary.is_some()));
            metrics.control.epoch.set(i64::try_from(now.epoch.0).unwrap_or(i64::MAX));
            if epoch.is_some_and(|before| before != now.epoch && before.0 > 0) {
                metrics.control.failovers.inc();
            }
            epoch = Some(now.epoch);
            if topology.changed().await.is_err() {
                return;
            }
        }
    });
}

fn pools(shared: &Arc<Shared>) -> View {
    let shared = Arc::clone(shared);
    Arc::new(move || {
        let topology = shared.topology.borrow().clone();
        let name = |number: u16| {
            let known = topology.members.iter().find(|member| member.id.0 == number);
            known.map_or_else(|| number.to_string(), |member| member.name.to_string())
        };
        let rows: Vec<Value> = shared
            .pools()
            .into_iter()
            .map(|row| {
                json!({
                    "worker": row.worker, "member": name(row.member), "user": &*row.identity.user,
                    "database": &*row.identity.database, "idle": row.idle, "busy": row.busy,
                    "connecting": row.opening, "waiting": row.waiting,
                })
            })
            .collect();
        json!({ "pools": rows })
    })
}

fn sessions(shared: &Arc<Shared>, crew: &Crew) -> Survey {
    let (shared, count) = (Arc::clone(shared), Arc::new(crew.count()));
    Arc::new(move || {
        let (shared, count) = (Arc::clone(&shared), Arc::clone(&count));
        Box::pin(async move {
            let (mut clients, silent) = tables::clients(&shared).await;
            let rows = clients.as_array_mut().map(std::mem::take).unwrap_or_default();
            let waiting = rows.iter().filter(|row| !row["waits_for"].is_null()).count();
            let for_primary = rows.iter().filter(|row| row["waits_for"] == "primary").count();
            let pinned = rows.iter().filter(|row| !row["pinned"].is_null()).count();
            let left_out = rows.len().saturating_sub(SESSIONS);
            json!({
                "sessions": count(), "waiting": waiting, "waiting_for_primary": for_primary,
                "pinned": pinned, "paused": paused(&shared), "silent_workers": silent, "left_out": left_out,
                "clients": rows.into_iter().take(SESSIONS).collect::<Vec<_>>(),
            })
        })
    })
}

/// The databases that the console has paused; `*` for all.
fn paused(shared: &Shared) -> Vec<Arc<str>> {
    let all = shared.pauses.all().then(|| Arc::from("*"));
    all.into_iter().chain(shared.pauses.databases()).collect()
}

/// What is known of functions and statements; no literal of a client's is in it.
pub(super) fn routes(shared: &Shared) -> Value {
    let routing = &shared.config.routing;
    let all = shared.catalogs.show();
    let lessons = |catalog: &Shown| -> Vec<Value> {
        let lesson = |lesson: &Arc<Lesson>| {
            json!({
                "database": &*catalog.database, "statement": &*lesson.text,
                "count": lesson.count.load(Relaxed), "since": time(lesson.since),
            })
        };
        catalog.lessons.iter().map(lesson).collect()
    };
    let catalog = |catalog: &Shown| {
        let [functions, relations, operators] = catalog.names;
        json!({
            "database": &*catalog.database, "read": catalog.read.map(time), "functions": functions,
            "relations": relations, "operators": operators, "error": catalog.error.as_deref(),
        })
    };
    json!({
        "read_only_functions": routing.read_only_functions,
        "primary_functions": routing.primary_functions,
        "catalogs": all.iter().map(catalog).collect::<Vec<_>>(),
        "learnt": all.iter().flat_map(lessons).collect::<Vec<_>>(),
    })
}

/// Seconds of the Unix epoch as people read them.
fn time(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

fn failovers(record: &Arc<Record>, control: &Control) -> View {
    let (record, transitions) = (Arc::clone(record), control.transitions.clone());
    Arc::new(move || {
        let list: Vec<Value> = transitions.borrow().iter().map(|one| json!(format!("{one:?}"))).collect();
        json!({ "failovers": record.show(), "transitions": list })
    })
}
