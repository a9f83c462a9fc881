//! The command line from outside: what it prints, what it exits with.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use pg_ha_proxy::scram::Verifier;
use serde_json::{Value, json};

fn run(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pg-ha-proxy"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that doesn't read its input may be gone already.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    child.wait_with_output().unwrap()
}

/// Standard output of a run that must succeed.
fn out(arguments: &[&str], input: &str) -> String {
    let output = run(arguments, input);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a run that must fail with this code.
fn failure(arguments: &[&str], input: &str, code: i32) -> String {
    let output = run(arguments, input);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [&["nonsense"][..], &[], &["run", "--nonsense"], &["check", "--online", "--print-sql"]] {
        assert!(failure(arguments, "", 2).contains("Usage:"), "{arguments:?}");
    }
    assert!(out(&["--version"], "").starts_with("pg-ha-proxy "));
}

#[test]
fn help_names_every_subcommand() {
    let help = out(&["--help"], "");
    for name in ["run", "check", "route", "status", "verifier", "cluster", "demo", "completions"] {
        assert!(help.contains(&format!("\n  {name} ")), "{name} in {help}");
    }
}

#[test]
fn completions_know_the_subcommands() {
    for shell in ["bash", "zsh", "fish"] {
        let text = out(&["completions", shell], "");
        assert!(text.contains("verifier") && text.contains("pg-ha-proxy"), "{shell}");
    }
}

#[test]
fn a_verifier_is_of_its_password() {
    let text = out(&["verifier"], "pass word\n");
    let verifier = Verifier::parse(text.trim_end()).unwrap();
    assert!(verifier.matches("pass word").is_some());
    assert!(verifier.matches("pass word\n").is_none());
    assert!(text.starts_with("SCRAM-SHA-256$4096:"));
    assert_ne!(text, out(&["verifier"], "pass word\n"), "the salt must be fresh");
    assert!(out(&["verifier", "--iterations", "5000"], "x").starts_with("SCRAM-SHA-256$5000:"));
    assert_eq!(failure(&["verifier"], "\n", 1), "pg-ha-proxy: an empty password\n");
    failure(&["verifier", "--iterations", "0"], "x", 2);
}

#[test]
fn a_verifier_is_taken_by_the_configuration() {
    let verifier = out(&["verifier"], "secret\n");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.toml");
    std::fs::write(&path, format!("[[users]]\nname = \"app\"\nverifier = \"{}\"\n", verifier.trim_end()))
        .unwrap();
    assert!(out(&["check", "--config", path.to_str().unwrap()], "").ends_with(": good\n"));
}

#[test]
fn routes_come_as_one_object_a_line() {
    let input = "\"select 1\"\n\"insert into t values (1)\"\n\"set search_path = a\"\n\
                 \"select * from items order by embedding <-> '[1]' limit 5\"\n\"select\\n'ü'\"\n";
    let lines: Vec<Value> =
        out(&["route", "--json"], input).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let short: Vec<_> =
        lines.iter().map(|line| (line["route"].as_str().unwrap(), line["vector"] == true)).collect();
    assert_eq!(
        short,
        [("replica", false), ("primary", false), ("session", false), ("replica", true), ("replica", false)]
    );
    assert_eq!(lines[4]["sql"], "select\n'ü'");
    for line in &lines {
        let keys: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["sql", "route", "vector", "reason"]);
        assert!(!line["reason"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_route_is_told_for_people() {
    for text in [out(&["route", "select nextval('s')"], ""), out(&["route"], "select nextval('s')")] {
        assert_eq!(text, "route   primary\nclass   write\nreason  nextval\n");
    }
    assert!(out(&["route", "/* pgha: primary */ select 1"], "").contains("route   primary\n"));
    let message = failure(&["route", "--json"], "\"select 1\"\nselect 1\n", 1);
    assert!(message.starts_with("pg-ha-proxy: line 2 is no JSON string"), "{message}");
}

#[test]
fn a_route_heeds_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.toml");
    let route = |text: &str, sql: &str| {
        std::fs::write(&path, text).unwrap();
        out(&["route", "--config", path.to_str().unwrap(), sql], "").lines().next().unwrap().to_owned()
    };
    assert_eq!(route("", "select audit()"), "route   primary");
    assert_eq!(route("[routing]\nread_only_functions = \"audit\"", "select audit()"), "route   replica");
    assert_eq!(route("[routing]\nprimary_functions = \"lower\"", "select lower('A')"), "route   primary");
    assert_eq!(route("[routing]\nreads = \"primary\"", "select 1"), "route   primary");
    assert_eq!(route("[routing]\nreads = \"primary\"", "/* pgha: replica */ select 1"), "route   replica");
}

#[test]
fn the_lookup_sql_can_be_printed() {
    let sql = out(&["check", "--print-sql"], "");
    assert!(sql.contains("pgha_lookup") && sql.contains("SECURITY DEFINER"));
}

#[test]
fn servers_that_do_not_answer_are_named() {
    // Bound and closed again: nobody else is given this port at once.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.toml");
    std::fs::write(&path, format!("[topology]\netcd_endpoints = \"http://127.0.0.1:{port}\"\n")).unwrap();
    let output = run(&["check", "--online", "--config", path.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&format!("etcd http://127.0.0.1:{port}: FAILED: ")), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "pg-ha-proxy: 1 of 1 checks failed\n");
}

/// Answers `count` requests as the proxy's HTTP side would.
fn serve(listener: &TcpListener, count: usize) {
    for _ in 0..count {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        let body = if request.starts_with(b"GET /topology ") {
            json!({ "epoch": 4, "rule": { "state": "serving", "primary": "pg-node-1" },
                    "members": [{ "name": "pg-node-1", "role": "primary" }] })
        } else if request.starts_with(b"GET /failovers ") {
            json!({ "failovers": [{ "kind": "switchover", "began": 1.5, "to": "pg-node-2", "epoch": 4,
                                    "milliseconds": { "verified": 12.5 }, "sessions": { "waited": 3 } }],
                    "transitions": ["one"] })
        } else if request.starts_with(b"GET /readyz ") {
            json!({ "primary": count > 1, "replicas": 2 })
        } else {
            json!([])
        };
        write!(stream, "HTTP/1.0 200 OK\r\n\r\n{body}").unwrap();
    }
}

#[test]
fn status_shows_what_the_proxy_sees() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || serve(&listener, 8));
    let text = out(&["status", "--address", &address], "");
    assert!(
        text.starts_with("pg-node-1 is primary, epoch 4\n\nMembers\nNAME       ROLE\npg-node-1  primary\n"),
        "{text}"
    );
    assert!(text.contains("1970-01-01T00:00:01Z  switchover        pg-node-2  4"), "{text}");
    let status: Value = serde_json::from_str(&out(&["status", "--json", "--address", &address], "")).unwrap();
    assert_eq!(status["topology"]["epoch"], 4);
    server.join().unwrap();
    let message = failure(&["status", "--address", &address], "", 1);
    assert!(message.starts_with(&format!("pg-ha-proxy: no proxy answers on http://{address}")), "{message}");
}

#[test]
fn ready_asks_whether_anything_can_be_served() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        serve(&listener, 2);
        serve(&listener, 1);
        // What a proxy answers that has neither a primary nor a replica.
        let (mut stream, _) = listener.accept().unwrap();
        drop(stream.read(&mut [0; 1024]));
        write!(stream, "HTTP/1.0 503 Service Unavailable\r\n\r\n{{}}").unwrap();
    });
    let ask = ["status", "--ready", "--address", &address];
    assert_eq!(out(&ask, ""), "ready: a primary, 2 replicas\n");
    assert_eq!(out(&ask, ""), "ready: a primary, 2 replicas\n");
    assert_eq!(out(&ask, ""), "ready: no primary, 2 replicas\n");
    assert!(failure(&ask, "", 1).contains("/readyz answers \"HTTP/1.0 503 Service Unavailable\""));
    server.join().unwrap();
    assert!(failure(&ask, "", 1).starts_with("pg-ha-proxy: no proxy answers on http://"));
    failure(&["status", "--ready", "--json", "--address", &address], "", 2);
}
