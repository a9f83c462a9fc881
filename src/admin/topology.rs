//! The topology as JSON, for `/topology`.

use serde_json::{Value, json};

use crate::topology::{HoldReason, Member, Rule, Topology};

/// One snapshot: epoch, who rules, every member with its role, its lag and why it serves no reads.
pub(super) fn show(topology: &Topology) -> Value {
    let name = |id| topology.member(id).map(|member| &*member.name);
    let rule = match topology.rule {
        Rule::Serving(id) => json!({ "state": "serving", "primary": name(id) }),
        Rule::Holding { reason, last } => {
            json!({ "state": "holding", "reason": reason_word(reason), "last": last.and_then(name) })
        }
    };
    let primary = topology.primary().map(|member| member.id);
    let members: Vec<Value> =
        topology.members.iter().map(|member| show_member(member, primary == Some(member.id))).collect();
    json!({
        "version": topology.version,
        "epoch": topology.epoch.0,
        "rule": rule,
        "hold_seconds": topology.hold.as_secs_f64(),
        "members": members,
    })
}

fn show_member(member: &Member, is_primary: bool) -> Value {
    json!({
        "name": &*member.name,
        "host": &*member.host,
        "port": member.port,
        "role": &*member.role,
        "primary": is_primary,
        "answers": member.answers,
        "serves_reads": member.serves_reads,
        "why_not": member.why_not,
        "weight": member.weight,
        "lag_bytes": member.lag_bytes,
        "lag_seconds": member.lag.map(|lag| lag.as_secs_f64()),
        "timeline": member.timeline,
    })
}

fn reason_word(reason: HoldReason) -> &'static str {
    match reason {
        HoldReason::Starting => "starting",
        HoldReason::NoLeader => "no_leader",
        HoldReason::Switchover => "switchover",
        HoldReason::Verifying => "verifying",
        HoldReason::NotWritable => "not_writable",
        HoldReason::TwoPrimaries => "two_primaries",
        HoldReason::StandbyCluster => "standby_cluster",
        HoldReason::EtcdAway => "etcd_away",
    }
}
