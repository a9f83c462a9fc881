//! Rules and maps as a configuration has them, against connections.

use std::path::Path;

use super::*;
use crate::config::{Config, HbaMethod};

fn rules(text: &str) -> Rules {
    let config = Config::parse(text, Path::new("proxy.toml")).unwrap_or_else(|why| panic!("{text}: {why}"));
    Rules::new(&config.hba, &config.ident_map)
}

fn asking<'a>(address: &str, tls: bool, user: &'a str, database: &'a str) -> Asking<'a> {
    let address = address.parse::<IpAddr>().unwrap().to_canonical();
    Asking { address, tls, user, database, replication: Replication::None }
}

/// Whether a rule of these fields is the one for a connection.
fn fits(fields: &str, asking: &Asking<'_>) -> bool {
    rules(&format!("[[hba]]\n{fields}\nmethod = 'reject'\n")).first(asking).is_some()
}

#[test]
fn no_rules_are_scram_for_everybody() {
    let rule = rules("");
    let first = rule.first(&asking("2001:db8::1", false, "anybody", "anything")).unwrap();
    assert_eq!(first.method, HbaMethod::Scram);
    let physical = Asking { replication: Replication::Physical, ..asking("127.0.0.1", false, "a", "a") };
    assert_eq!(rule.first(&physical).unwrap().method, HbaMethod::Scram);
}

#[test]
fn types_and_addresses_are_those_of_the_connection() {
    for (fields, address, tls, expected) in [
        ("", "10.0.0.1", false, true),
        ("type = 'host'", "10.0.0.1", true, true),
        ("type = 'hostssl'", "10.0.0.1", true, true),
        ("type = 'hostssl'", "10.0.0.1", false, false),
        ("type = 'hostnossl'", "10.0.0.1", true, false),
        ("type = 'hostnossl'", "10.0.0.1", false, true),
        ("address = '10.0.0.0/8'", "10.255.0.1", false, true),
        ("address = '10.0.0.0/8'", "11.0.0.1", false, false),
        // Bits behind the prefix don't count, and an address alone is one host.
        ("address = '10.1.2.3/8'", "10.255.0.1", false, true),
        ("address = '10.0.0.1'", "10.0.0.1", false, true),
        ("address = '10.0.0.1'", "10.0.0.2", false, false),
        ("address = '0.0.0.0/0'", "10.0.0.1", false, true),
        ("address = '0.0.0.0/0'", "::1", false, false),
        ("address = '::/0'", "10.0.0.1", false, false),
        ("address = '2001:db8::/32'", "2001:db8:ffff::1", false, true),
        ("address = '2001:db8::/32'", "2001:db9::1", false, false),
        ("address = ['127.0.0.1', '::1']", "::1", false, true),
        ("address = 'all'", "::1", false, true),
        // An IPv4 client that comes by a socket of IPv6.
        ("address = '10.0.0.0/8'", "::ffff:10.0.0.1", false, true),
        ("address = '::/0'", "::ffff:10.0.0.1", false, false),
    ] {
        assert_eq!(fits(fields, &asking(address, tls, "u", "d")), expected, "{fields} {address} {tls}");
    }
}

#[test]
fn names_are_words_patterns_or_themselves() {
    for (fields, user, database, expected) in [
        ("user = 'alice'", "alice", "d", true),
        ("user = 'alice'", "Alice", "d", false),
        ("user = ['bob', 'alice']", "alice", "d", true),
        ("user = 'alic'", "alice", "d", false),
        ("user = '/^al'", "alice", "d", true),
        ("user = '/^al$'", "alice", "d", false),
        // Found anywhere, as PostgreSQL does.
        ("user = '/lic'", "alice", "d", true),
        ("user = '/^a$'", "a\nb", "d", false),
        ("user = '\"all\"'", "alice", "d", false),
        ("user = '\"all\"'", "all", "d", true),
        ("user = '\"+x\"'", "+x", "d", true),
        ("user = '\"a\"\"b\"'", "a\"b", "d", true),
        ("user = '\"/^al\"'", "alice", "d", true),
        // Of databases alone.
        ("user = 'sameuser'", "alice", "alice", false),
        ("user = 'sameuser'", "sameuser", "d", true),
        ("database = 'all'", "alice", "d", true),
        ("database = 'sameuser'", "alice", "alice", true),
        ("database = 'sameuser'", "alice", "bob", false),
        ("database = '\"sameuser\"'", "alice", "sameuser", true),
        ("database = '\"sameuser\"'", "alice", "alice", false),
        ("database = ['a', '/^d\\d+$']", "alice", "d12", true),
        ("database = ['a', '/^d\\d+$']", "alice", "d12x", false),
        ("database = 'replication'", "alice", "replication", false),
        ("database = '\"replication\"'", "alice", "replication", true),
        ("database = 'pgha'", "alice", "pgha", true),
    ] {
        assert_eq!(
            fits(fields, &asking("10.0.0.1", false, user, database)),
            expected,
            "{fields} {user} {database}"
        );
    }
}

#[test]
fn replication_is_a_word_of_its_own() {
    let physical = Asking { replication: Replication::Physical, ..asking("10.0.0.1", false, "r", "r") };
    let logical = Asking { replication: Replication::Logical, ..asking("10.0.0.1", false, "r", "d") };
    for (database, of_physical, of_logical) in [
        ("all", false, true),
        ("replication", true, false),
        ("\"replication\"", false, false),
        ("r", false, false),
        ("sameuser", false, false),
        ("/.*", false, true),
        ("d", false, true),
    ] {
        let fields = format!("database = '{database}'");
        assert_eq!(
            (fits(&fields, &physical), fits(&fields, &logical)),
            (of_physical, of_logical),
            "{database}"
        );
    }
}

#[test]
fn the_first_that_fits_decides() {
    let rules = rules(
        "[[hba]]\ndatabase = 'secret'\nuser = 'alice'\nmethod = 'scram-sha-256'
         [[hba]]\ndatabase = 'secret'\nmethod = 'reject'
         [[hba]]\naddress = ['127.0.0.1', '::1']\nmethod = 'trust'
         [[hba]]\ntype = 'hostssl'\naddress = '10.0.0.0/8'\nmethod = 'scram-sha-256'",
    );
    let of = |address, tls, user, database| {
        rules.first(&asking(address, tls, user, database)).map(|rule| (rule.line, rule.method))
    };
    assert_eq!(of("127.0.0.1", false, "alice", "secret"), Some((1, HbaMethod::Scram)));
    assert_eq!(of("127.0.0.1", false, "bob", "secret"), Some((5, HbaMethod::Reject)));
    assert_eq!(of("::1", false, "bob", "app"), Some((8, HbaMethod::Trust)));
    assert_eq!(of("10.0.0.1", true, "bob", "app"), Some((11, HbaMethod::Scram)));
    assert_eq!(of("10.0.0.1", false, "bob", "app"), None);
}

#[test]
fn maps_lead_from_certificates_to_users() {
    let rules = rules(
        r#"
        [[ident_map]]
        map = "m"
        system_user = '"Alice Liddell"'
        database_user = "alice"
        [[ident_map]]
        map = "m"
        system_user = '/^(.*)@example\.com$'
        database_user = 'u_\1_x'
        [[ident_map]]
        map = "m"
        system_user = '/^admin-'
        database_user = "all"
        [[ident_map]]
        map = "m"
        system_user = "ops"
        database_user = '/^(a|b)$'
        [[ident_map]]
        map = "m"
        system_user = '/^odd(-x)?$'
        database_user = 'odd\1'
        [[ident_map]]
        map = "m"
        system_user = "plain"
        database_user = 'p\1'
        [[ident_map]]
        map = "other"
        system_user = "all"
        database_user = "bob"
        "#,
    );
    for (map, name, user, expected) in [
        (None, "alice", "alice", true),
        (None, "alice", "Alice", false),
        (None, "Alice Liddell", "alice", false),
        (Some("m"), "Alice Liddell", "alice", true),
        // With a map the same name is not enough.
        (Some("m"), "alice", "alice", false),
        (Some("m"), "bob@example.com", "u_bob_x", true),
        (Some("m"), "bob@example.com", "bob", false),
        (Some("m"), "bob@example.com", "u_carol_x", false),
        (Some("m"), "bob@example.com.evil", "u_bob_x", false),
        // What comes from a certificate is a name, and no word of pg_ident.conf.
        (Some("m"), "all@example.com", "u_bob_x", false),
        (Some("m"), ".*@example.com", "u_bob_x", false),
        (Some("m"), "_@example.com", "u_x", false),
        (Some("m"), "admin-1", "anybody", true),
        (Some("m"), "ops", "b", true),
        (Some("m"), "ops", "c", false),
        (Some("m"), "odd-x", "odd-x", true),
        // A group that takes no part stands for nothing.
        (Some("m"), "odd", "odd", false),
        (Some("m"), "plain", "p\\1", true),
        (Some("other"), "anybody", "bob", false),
        (Some("other"), "all", "bob", true),
        (Some("nowhere"), "alice", "alice", false),
    ] {
        assert_eq!(rules.may_be(map, name, user), expected, "{map:?} {name} {user}");
    }
}
