//! Keys as Patroni writes them, and as it never should.

use super::*;

fn applied(changes: &[(&str, &str)]) -> (Keys, Vec<Unreadable>) {
    let mut keys = Keys::default();
    let unreadable =
        changes.iter().filter_map(|(key, value)| keys.apply(&KeyChange::put(*key, *value)).err()).collect();
    (keys, unreadable)
}

#[test]
fn reads_the_keys_of_a_running_cluster() {
    let (keys, unreadable) = applied(&[
        ("config", r#"{"ttl":30,"loop_wait":10,"retry_timeout":10,"synchronous_mode":true,"postgresql":{}}"#),
        ("initialize", "7711078221935169582"),
        ("leader", "pg-node-1"),
        (
            "members/pg-node-1",
            r#"{"conn_url":"postgres://127.0.0.1:5431/postgres","api_url":"http://127.0.0.1:8001/patroni","state":"running",
            "role":"primary","version":"4.1.4","xlog_location":67108960,"timeline":1}"#,
        ),
        (
            "members/pg-node-2",
            r#"{"conn_url":"postgres://127.0.0.1:5432/postgres","state":"running","role":"replica",
            "tags":{"clonefrom":true,"noloadbalance":true},"replication_state":"streaming","timeline":1}"#,
        ),
        ("status", r#"{"optime":67108960,"slots":{"a":1},"retain_slots":["a"]}"#),
        ("failover", "{}"),
        (
            "history",
            r#"[[1,67624376,"no recovery target specified","2026-11-22T19:23:38+00:00","pg-node-2"]]"#,
        ),
        ("sync", r#"{"leader":"pg-node-1","sync_standby":"pg-node-2,pg-node-3","quorum":1}"#),
        ("failsafe", r#"{"pg-node-3":"http://127.0.0.1:8003/patroni"}"#),
        ("somebody/elses", "\u{0}"),
    ]);
    assert_eq!(unreadable, []);
    assert_eq!(keys.leader.as_deref(), Some("pg-node-1"));
    assert_eq!(keys.initialize, Some(7_711_078_221_935_169_582));
    assert_eq!(keys.config, ClusterConfig { synchronous_mode: true, ..ClusterConfig::default() });
    let first = &keys.members["pg-node-1"];
    assert_eq!((&*first.host, first.port, first.timeline), ("127.0.0.1", 5431, Some(1)));
    assert!(first.routable() && !first.no_load_balance);
    assert!(keys.members["pg-node-2"].no_load_balance);
    assert_eq!(keys.failover, None);
    assert_eq!(keys.history_timeline, Some(2));
    assert_eq!(keys.sync.unwrap().standbys.len(), 2);
    assert!(keys.failsafe);
    assert_eq!(keys.optime, Some(67_108_960));
}

#[test]
fn an_unreadable_key_is_reported_and_absent() {
    for (key, good, bad) in [
        ("leader", "a", ""),
        ("leader", "a", " \n"),
        ("config", r#"{"ttl":99}"#, "{"),
        ("config", r#"{"ttl":99}"#, "[]"),
        ("initialize", "5", "five"),
        ("failover", r#"{"leader":"a"}"#, "nonsense"),
        ("sync", r#"{"leader":"a"}"#, "1"),
        ("failsafe", r#"{"a":"b"}"#, "[]"),
        ("history", "[[1,2]]", "{}"),
        ("status", r#"{"optime":1}"#, "x"),
        ("members/a", r#"{"conn_url":"postgres://a/b"}"#, "{}"),
        ("members/a", r#"{"conn_url":"postgres://a/b"}"#, r#"{"conn_url":"http://a/b"}"#),
        ("members/a", r#"{"conn_url":"postgres://a/b"}"#, r#"{"conn_url":"postgres://a:99999/b"}"#),
    ] {
        let (keys, unreadable) = applied(&[(key, good), (key, bad)]);
        assert_eq!(keys, Keys::default(), "{key}: {bad}");
        assert_eq!(unreadable.len(), 1, "{key}: {bad}");
        assert_eq!(unreadable[0].key, key);
    }
    let mut keys = Keys::default();
    assert!(keys.apply(&KeyChange::put("leader", vec![0xff])).is_err());
    assert_eq!(keys, Keys::default());
}

#[test]
fn deleting_takes_away() {
    let (mut keys, _) = applied(&[("leader", "a"), ("members/a", r#"{"conn_url":"postgres://a/b"}"#)]);
    keys.apply(&KeyChange::delete("leader")).unwrap();
    keys.apply(&KeyChange::delete("members/a")).unwrap();
    assert_eq!(keys, Keys::default());
}

#[test]
fn unknown_states_and_roles_are_not_routable() {
    for (state, role, routable) in [
        ("running", "replica", true),
        ("streaming", "replica", true),
        ("running", "master", true),
        ("running", "standby_leader", true),
        ("running", "uninitialized", false),
        ("running", "emperor", false),
        ("crashed", "primary", false),
        ("starting", "replica", false),
        ("dancing", "replica", false),
        ("", "", false),
    ] {
        let json = format!(r#"{{"conn_url":"postgres://h:1/p","state":"{state}","role":"{role}"}}"#);
        let (keys, _) = applied(&[("members/a", &json)]);
        assert_eq!(keys.members["a"].routable(), routable, "{state} {role}");
    }
    // Fields of another type are as good as missing.
    let (keys, unreadable) = applied(&[(
        "members/a",
        r#"{"conn_url":"postgres://h:1/p","state":7,"role":null,"timeline":"x","tags":[]}"#,
    )]);
    assert_eq!(unreadable, []);
    assert!(!keys.members["a"].routable());
}

#[test]
fn hosts_and_ports() {
    for (url, expected) in [
        ("postgres://10.0.0.1:5433/postgres", Some(("10.0.0.1", 5433))),
        ("postgresql://node/postgres?x=y", Some(("node", 5432))),
        ("postgres://user:secret@node:1/x", Some(("node", 1))),
        ("postgres://[fe80::1]:6000/postgres", Some(("fe80::1", 6000))),
        ("postgres://[::1]/postgres", Some(("::1", 5432))),
        ("postgres://node", Some(("node", 5432))),
        ("postgres://:5432/x", None),
        ("postgres://node:0/x", None),
        ("postgres://[::1/x", None),
        ("", None),
    ] {
        let found = host_and_port(url);
        assert_eq!(found.as_ref().map(|(host, port)| (&**host, *port)), expected, "{url}");
    }
}

#[test]
fn announcements() {
    for (value, announced) in [
        ("", false),
        ("{}", false),
        (r#"{"leader":"","member":""}"#, false),
        (r#"{"leader":"a","member":"b"}"#, true),
        (r#"{"leader":"a"}"#, true),
        (r#"{"member":"b"}"#, true),
        (r#"{"leader":"a","scheduled_at":"2030-01-01T00:00:00+00:00"}"#, false),
        (r#"{"leader":"a","scheduled_at":null}"#, true),
    ] {
        assert_eq!(applied(&[("failover", value)]).0.failover.is_some(), announced, "{value}");
    }
}

#[test]
fn config_takes_only_sane_times() {
    for (value, ttl) in
        [(r#"{"ttl":20}"#, 20), (r#"{"ttl":"25"}"#, 25), (r#"{"ttl":-1}"#, 30), (r#"{"ttl":1e30}"#, 30)]
    {
        assert_eq!(applied(&[("config", value)]).0.config.ttl, Duration::from_secs(ttl), "{value}");
    }
    let (keys, _) =
        applied(&[("config", r#"{"pause":true,"failsafe_mode":"on","standby_cluster":{"host":"x"}}"#)]);
    assert!(keys.config.pause && keys.config.failsafe_mode && keys.config.standby_cluster);
    assert!(!applied(&[("config", r#"{"standby_cluster":{}}"#)]).0.config.standby_cluster);
}

#[test]
fn members_are_bounded() {
    let mut keys = Keys::default();
    let value = r#"{"conn_url":"postgres://h/p"}"#;
    for n in 0..MAX_MEMBERS {
        keys.apply(&KeyChange::put(format!("members/m{n}"), value)).unwrap();
    }
    assert!(keys.apply(&KeyChange::put("members/more", value)).is_err());
    keys.apply(&KeyChange::put("members/m0", value)).unwrap();
}

#[test]
fn prefixes_as_patroni_forms_them() {
    assert_eq!(prefix("/", "pg-ha-cluster"), "/pg-ha-cluster/");
    assert_eq!(prefix("", "s"), "/s/");
    assert_eq!(prefix("/service/", "batman"), "/service/batman/");
}
