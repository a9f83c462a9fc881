//! `status`: what a running proxy sees, asked from its HTTP side.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value, json};

use super::table::table;
use super::{http, print, runtime};
use crate::config::Config;

/// Between two looks of `--watch`.
const EVERY: Duration = Duration::from_secs(1);
/// Moves the cursor home and clears what is below (ECMA-48, CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[J";

/// Lines of sessions that wait or are pinned.
const HELD: usize = 20;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration of the running proxy [default: proxy.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of its HTTP side, instead of the configuration's
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "config")]
    address: Option<SocketAddr>,
    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
    /// Again every second, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Only whether it can serve: prints that, and fails if it can't, for the health checks of containers
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    ready: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let address = address(arguments)?;
    if arguments.ready {
        return print(runtime()?.block_on(ready(address))?);
    }
    runtime()?.block_on(async {
        loop {
            let status = ask(address).await;
            if !arguments.watch {
                return print(shown(&status?, arguments.json));
            }
            let clear = if arguments.json { "" } else { CLEAR };
            match status {
                Ok(status) => print(format!("{clear}{}", shown(&status, arguments.json)))?,
                Err(why) if arguments.json => print(format!("{}\n", json!({ "error": format!("{why:#}") })))?,
                Err(why) => print(format!("{clear}{why:#}\n"))?,
            }
            tokio::time::sleep(EVERY).await;
        }
    })
}

/// The address as given, as configured, or the default.
fn address(arguments: &Arguments) -> anyhow::Result<SocketAddr> {
    if let Some(address) = arguments.address {
        return Ok(address);
    }
    let default = Path::new("proxy.toml");
    let config = match &arguments.config {
        Some(path) => Config::load(path)?,
        None if default.exists() => Config::load(default)?,
        None => Config::parse("", default)?,
    };
    let mut address = config.admin.address.context("admin.address is empty: the proxy has no HTTP side")?;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Ok(address)
}

/// `/readyz` answers with another status than 200 where neither the primary nor a replica can be served.
async fn ready(address: SocketAddr) -> anyhow::Result<String> {
    let answer = http::json(address, "/readyz").await?;
    let primary = if answer["primary"] == json!(true) { "a primary" } else { "no primary" };
    Ok(format!("ready: {primary}, {} replicas\n", answer["replicas"]))
}

async fn ask(address: SocketAddr) -> anyhow::Result<Value> {
    let mut status = Map::new();
    for part in ["topology", "pools", "sessions", "failovers"] {
        status.insert(part.to_owned(), http::json(address, &format!("/{part}")).await?);
    }
    Ok(Value::Object(status))
}

fn shown(status: &Value, as_json: bool) -> String {
    if as_json {
        return format!("{status}\n");
    }
    let failovers = failovers(&status["failovers"]["failovers"]);
    let (counts, held) = sessions(&status["sessions"]);
    let mut text = rule(&status["topology"]);
    for (title, rows) in [
        ("Members", &status["topology"]["members"]),
        ("Pools", &status["pools"]),
        ("Sessions", &counts),
        ("Sessions that wait or are pinned", &held),
        ("Failovers", &failovers),
    ] {
        let rows = table(rows);
        let rows = if rows.is_empty() { "none\n" } else { &rows };
        text += &["\n", title, "\n", rows].concat();
    }
    text
}

fn rule(topology: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("?").replace('_', " ");
    let rule = &topology["rule"];
    let state = match rule["state"].as_str() {
        Some("serving") => format!("{} is primary", rule["primary"].as_str().unwrap_or("?")),
        _ => format!("no primary: {}", word(&rule["reason"])),
    };
    format!("{state}, epoch {}\n", topology["epoch"])
}

/// The counts of sessions, and a line for each of the first that wait or are tied to a backend.
fn sessions(all: &Value) -> (Value, Value) {
    let counts: Map<String, Value> = all
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| value.is_number())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let held = all["clients"].as_array().into_iter().flatten();
    let held = held.filter(|row| !row["waits_for"].is_null() || !row["pinned"].is_null());
    let row = |row: &Value| {
        let columns =
            ["ptr", "user", "database", "addr", "member", "waits_for", "wait", "pinned", "pinned_since"];
        Value::Object(columns.map(|name| (name.to_owned(), row[name].clone())).into_iter().collect())
    };
    (Value::Object(counts), Value::Array(held.take(HELD).map(row).collect()))
}

/// Of each failover's record what fits on a line; times are in milliseconds from its first sign.
fn failovers(list: &Value) -> Value {
    let row = |one: &Value| {
        let (times, sessions) = (&one["milliseconds"], &one["sessions"]);
        let began = one["began"].as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let began = began.map(|since| humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string());
        json!({
            "began": began, "kind": one["kind"], "from": one["from"], "to": one["to"], "epoch": one["epoch"],
            "key_ms": times["key_written"], "verified_ms": times["verified"], "write_ms": times["first_write"],
            "waited": sessions["waited"], "rerun": sessions["rerun"], "40001": sessions["told_40001"],
            "08007": sessions["told_08007"], "08006": sessions["told_08006"], "ended": sessions["ended"],
        })
    };
    Value::Array(list.as_array().into_iter().flatten().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_wait_or_are_pinned_have_lines() {
        let client = |ptr: &str, pinned: Value| json!({ "ptr": ptr, "pinned": pinned, "waits_for": null });
        let clients = json!([client("1", json!(null)), client("2", json!("LISTEN"))]);
        let (counts, held) = sessions(&json!({ "sessions": 2, "paused": [], "clients": clients }));
        assert_eq!(counts, json!({ "sessions": 2 }));
        assert_eq!(held.as_array().map(Vec::len), Some(1));
        assert_eq!((&held[0]["ptr"], &held[0]["pinned"]), (&json!("2"), &json!("LISTEN")));
    }
}
