//! The rules, one by one: what a wrong file is answered with, and that proxy.toml says what the code does.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::*;

const SHIPPED: &str = include_str!("../../proxy.toml");
/// A SCRAM verifier of no password in use: salt and keys are zeros.
const VERIFIER: &str = "SCRAM-SHA-256$4096:AAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(text, Path::new("proxy.toml"))
}

/// The message that a wrong file gets.
fn refused(text: &str) -> String {
    match parse(text) {
        Ok(_) => panic!("taken: {text}"),
        Err(why) => why.to_string(),
    }
}

/// `section.key` of each line `key = …` and, behind `# `, `# key = …`.
fn keys_of(text: &str) -> BTreeSet<String> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in text.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = line.split_once(" = ")
            && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        {
            keys.insert(format!("{section}.{key}"));
        }
    }
    keys
}

/// The keys of arrays of tables, which no setting stands for.
fn keys_of_arrays() -> Vec<String> {
    let arrays: [(&str, &[&str]); 4] = [
        ("hba", &["type", "database", "user", "address", "method", "clientcert", "map"]),
        ("ident_map", &["map", "system_user", "database_user"]),
        (
            "users",
            &[
                "name",
                "password",
                "password_file",
                "verifier",
                "max_user_client_connections",
                "pool_size",
                "pool_mode",
            ],
        ),
        ("databases", &["name", "max_db_client_connections", "pool_size", "pool_mode"]),
    ];
    arrays.iter().flat_map(|(array, keys)| keys.iter().map(move |key| format!("{array}.{key}"))).collect()
}

#[test]
fn the_shipped_file_holds_the_defaults() {
    let (empty, shipped) = (parse("").unwrap(), parse(SHIPPED).unwrap());
    assert_eq!(shipped.settings, empty.settings);
    assert_eq!(format!("{shipped:?}"), format!("{empty:?}"));
    for setting in &shipped.settings {
        assert_eq!(setting.value, setting.default, "{}", setting.name);
    }
}

#[test]
fn the_shipped_file_holds_every_key() {
    let mut known: BTreeSet<String> = parse("").unwrap().settings.into_iter().map(|key| key.name).collect();
    known.extend(keys_of_arrays());
    assert_eq!(keys_of(SHIPPED), known);
}

#[test]
fn the_shipped_file_marks_what_a_reload_takes_up() {
    let mut marked = BTreeSet::new();
    let (mut section, mut before) = ("", "");
    for line in SHIPPED.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = bare.strip_prefix('[') {
            section = name.trim_matches(['[', ']']);
        }
        if let Some((key, _)) = bare.split_once(" = ")
            && before.ends_with("(reload).")
        {
            marked.insert(format!("{section}.{key}"));
        }
        before = line;
    }
    assert_eq!(marked, LIVE.iter().map(ToString::to_string).collect());
}

#[test]
fn every_key_has_a_line_of_documentation() {
    let lines: Vec<_> = SHIPPED.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let is_key = bare
            .split_once(" = ")
            .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        if is_key {
            assert!(lines[at - 1].starts_with("# ") && lines[at - 1].ends_with('.'), "{line}");
        }
    }
}

#[test]
fn defaults_are_the_agreed_ones() {
    let config = parse("").unwrap();
    assert_eq!(config.listen.addresses, ["127.0.0.1:6432".parse().unwrap()]);
    assert!(config.listen.workers >= 1);
    assert_eq!(config.tls.client_mode, TlsMode::Disable);
    assert_eq!(config.tls.server_mode, TlsMode::Prefer);
    assert!(matches!(&config.topology.source, Source::Etcd(etcd) if etcd.scope == "pg-ha-cluster"));
    assert_eq!(config.auth.lookup_user.as_deref(), Some("pgha_lookup"));
    assert_eq!(config.pool.idle_timeout, Duration::from_secs(600));
    assert_eq!(config.routing.max_lag_bytes, 16 << 20);
    assert_eq!(config.failover.hold, None);
    assert_eq!(config.limits.message, 1 << 30);
    assert_eq!(config.limits.keep_alive.user_timeout, Duration::from_secs(10));
    assert_eq!(config.admin.address, Some("127.0.0.1:9187".parse().unwrap()));
}

#[test]
fn unknown_names_get_line_and_nearest() {
    for (text, message) in [
        ("\n[pool]\nsizes = 3\n", "proxy.toml:3: pool.sizes: unknown key; did you mean pool.size?"),
        (
            "[listen]\nadress = \"x\"\n",
            "proxy.toml:2: listen.adress: unknown key; did you mean listen.address?",
        ),
        ("[pool]\nhold = \"5s\"\n", "proxy.toml:2: pool.hold: unknown key; did you mean failover.hold?"),
        ("[rooting]\n", "proxy.toml:1: rooting: unknown section; did you mean routing?"),
        (
            "[[users]]\nname=\"a\"\npassword=\"b\"\nrole=\"c\"\n",
            "proxy.toml:4: users.role: unknown key; did you mean users.name?",
        ),
        ("size = 3\n", "proxy.toml:1: size: unknown section; did you mean users?"),
    ] {
        let got = refused(text);
        if text.starts_with("size") {
            assert!(got.starts_with("proxy.toml:1: size: unknown section"), "{got}");
        } else {
            assert_eq!(got, message);
        }
    }
}

#[test]
fn wrong_values_get_line_and_key() {
    for (text, message) in [
        ("[pool]\nsize = \"3\"", "proxy.toml:2: pool.size: expected a whole number, found a string"),
        ("[pool]\n\nsize = -3", "proxy.toml:3: pool.size: must be from 1 to 10000"),
        ("[pool]\nsize = 0", "proxy.toml:2: pool.size: must be from 1 to 10000"),
        ("[pool]\nsize = 99999999999999999999999", "proxy.toml:2: pool.size: must be from 1 to 10000"),
        ("[pool]\nsize = 101", "proxy.toml:2: pool.size: more than pool.member_size, 100"),
        (
            "[pool]\nwait = 5",
            "proxy.toml:2: pool.wait: expected a duration such as \"5s\", found a whole number",
        ),
        (
            "[pool]\nwait = \"5\"",
            "proxy.toml:2: pool.wait: expected a duration with its unit, such as \"20ms\", \"5s\" or \"10min\"",
        ),
        ("[pool]\nwait = \"2h\"", "proxy.toml:2: pool.wait: must be from 0s to 1h"),
        (
            "[routing]\nretry_buffer = \"16MB\"",
            "proxy.toml:2: routing.retry_buffer: expected a size in bytes, KiB, MiB or GiB, such as \"16MiB\"",
        ),
        ("[limits]\nmessage = \"2GiB\"", "proxy.toml:2: limits.message: must be from 64KiB to 1GiB"),
        (
            "[limits]\nkeepalive_idle = \"1500ms\"",
            "proxy.toml:2: limits.keepalive_idle: must be whole seconds",
        ),
        (
            "[routing]\nreads = \"both\"",
            "proxy.toml:2: routing.reads: \"both\" is none of \"replicas\", \"primary\"",
        ),
    ] {
        assert_eq!(refused(text), message);
    }
}

#[test]
fn wrong_lists_and_tables_get_line_and_key() {
    for (text, message) in [
        (
            "[routing]\nweights = { a = \"much\" }",
            "proxy.toml:2: routing.weights: a: expected a whole number from 0 to 1000",
        ),
        (
            "[routing]\nprimary_functions = [1]",
            "proxy.toml:2: routing.primary_functions: expected a list of strings, found a whole number",
        ),
        ("[vector.settings]\n\"a;b\" = 1", "proxy.toml:1: vector.settings: \"a;b\" is no name of a setting"),
        (
            "[listen]\naddress = [\"127.0.0.1:1\", \"127.0.0.1:1\"]",
            "proxy.toml:2: listen.address: \"127.0.0.1:1\" stands there twice",
        ),
        ("[listen]\naddress = []", "proxy.toml:2: listen.address: an empty list"),
        (
            "[listen]\naddress = \"here\"",
            "proxy.toml:2: listen.address: \"here\" is no IP address and port, such as \"127.0.0.1:6432\"",
        ),
        ("listen = 5", "proxy.toml:1: listen: expected a table, found a whole number"),
        ("[users]\nname = \"a\"", "proxy.toml:1: users: expected [[users]], an array of tables"),
        (
            "[log]\nlevel = \"a=b=c\"",
            "proxy.toml:2: log.level: expected error, warn, info, debug, trace or a filter",
        ),
        (
            "[topology]\nsource = \"static\"",
            "proxy.toml:2: topology.source: \"static\" needs topology.members",
        ),
        (
            "[topology]\nmembers = [\"a\"]",
            "proxy.toml:2: topology.members: \"a\" is no host and port, such as \"10.0.0.1:5432\"",
        ),
        (
            "[topology]\netcd_user = \"a\"",
            "proxy.toml:2: topology.etcd_user: needs topology.etcd_password_file",
        ),
        (
            "[auth]\nlookup_user = \"\"",
            "proxy.toml:2: auth.lookup_user: empty, and there are no [[users]] with a password or verifier: nobody could log in",
        ),
    ] {
        assert_eq!(refused(text), message);
    }
}

#[test]
fn what_is_no_toml_gets_one_line() {
    for text in ["[pool\nsize = 3", "\n\nsize 3", "[pool]\nsize = 1\nsize = 2", "[pool]\nmode = transaction"]
    {
        let message = refused(text);
        assert!(message.starts_with("proxy.toml:"), "{message}");
        assert!(message.contains("not TOML: "), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    assert!(refused("[pool]\nsize = 1\nsize = 2").starts_with("proxy.toml:3:"));
}

#[test]
fn secrets_stay_out_of_messages_and_debug() {
    let secret = "hunter2hunter2";
    for text in [
        format!("[[users]]\nname = \"a\"\nverifier = \"{secret}\""),
        format!("[[users]]\nname = \"a\"\npassword = \"{secret}\"\nverifier = \"{VERIFIER}\""),
        format!(
            "[[users]]\nname = \"a\"\npassword = \"{secret}\"\n[[users]]\nname = \"a\"\npassword = \"{secret}\""
        ),
        format!("[[users]]\nname = \"a\"\npassword = {secret}"),
        format!("[topology]\netcd_endpoints = \"http://root:{secret}@127.0.0.1:2379\""),
    ] {
        let message = refused(&text);
        assert!(!message.contains(secret), "{message}");
    }
    let config = parse(&format!("[[users]]\nname = \"a\"\npassword = \"{secret}\"")).unwrap();
    assert!(!format!("{config:?}").contains(secret));
    assert!(matches!(&config.users[0].secret, UserSecret::Password(password) if &**password == secret));
}

#[test]
fn users_prove_themselves_in_one_way() {
    let config = parse(&format!("[[users]]\nname = \"a\"\nverifier = \"{VERIFIER}\"")).unwrap();
    assert!(matches!(&config.users[0].secret, UserSecret::Verifier(verifier) if &**verifier == VERIFIER));
    for (text, message) in [
        (
            "[[users]]\nname = \"a\"",
            "proxy.toml:2: users.name: needs one of password, password_file and verifier, or a limit",
        ),
        ("[[users]]\npassword = \"a\"", "proxy.toml:1: users.name: must not be empty"),
        ("[[users]]\nname = \"a\"\npassword = \"\"", "proxy.toml:3: users.password: must not be empty"),
        (
            "[[users]]\nname = \"a\"\npassword = \"x\"\n[[users]]\nname = \"a\"\npassword = \"y\"",
            "proxy.toml:5: users.name: \"a\" stands there twice",
        ),
    ] {
        assert_eq!(refused(text), message);
    }
}

#[test]
fn settings_may_be_dotted_or_quoted() {
    for text in [
        "[vector.settings]\nhnsw.ef_search = 100\njit = false",
        "[vector]\nsettings = { \"hnsw.ef_search\" = \"100\", jit = \"off\" }",
    ] {
        let settings = parse(text).unwrap().vector.settings;
        let expected = [("hnsw.ef_search", "100"), ("jit", "off")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(settings, expected.into());
    }
}

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        for name in ["a", "b"] {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
            files.write(&format!("{name}.crt"), &made.cert.pem());
            files.write(&format!("{name}.key"), &made.signing_key.serialize_pem());
        }
        files
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn parse(&self, text: &str) -> Result<Config, Error> {
        Config::parse(text, &self.folder.path().join("proxy.toml"))
    }

    /// The message without the folder's name.
    fn refused(&self, text: &str) -> String {
        let message = self.parse(text).unwrap_err().to_string();
        message.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

#[test]
fn certificates_are_tried() {
    let files = Files::new();
    let config =
        files.parse("[tls]\ncertificate = \"a.crt\"\nkey = \"a.key\"\nclient_ca = \"b.crt\"").unwrap();
    assert_eq!(config.tls.client_mode, TlsMode::Prefer);
    assert_eq!(config.tls.certificate, Some(files.folder.path().join("a.crt")));
    files.write("empty", "");
    let missing = "can't be read: No such file or directory (os error 2)";
    for (text, message) in [
        (
            "certificate = \"no.crt\"\nkey = \"a.key\"",
            format!("proxy.toml:2: tls.certificate: no.crt {missing}"),
        ),
        ("certificate = \"a.crt\"\nkey = \"no.key\"", format!("proxy.toml:3: tls.key: no.key {missing}")),
        ("certificate = \"a.crt\"", "proxy.toml:2: tls.certificate: needs tls.key beside it".to_owned()),
        ("key = \"a.key\"", "proxy.toml:2: tls.key: needs tls.certificate beside it".to_owned()),
        (
            "certificate = \"a.crt\"\nkey = \"b.key\"",
            "proxy.toml:3: tls.key: b.key is not the key of the certificate a.crt".to_owned(),
        ),
        (
            "certificate = \"a.key\"\nkey = \"a.key\"",
            "proxy.toml:2: tls.certificate: a.key holds no PEM certificate".to_owned(),
        ),
        (
            "certificate = \"a.crt\"\nkey = \"a.crt\"",
            "proxy.toml:3: tls.key: a.crt holds no PEM private key".to_owned(),
        ),
        ("server_ca = \"empty\"", "proxy.toml:2: tls.server_ca: empty holds no PEM certificate".to_owned()),
        ("server_mode = \"verify-full\"", "proxy.toml:2: tls.server_mode: needs tls.server_ca".to_owned()),
        (
            "client_mode = \"require\"",
            "proxy.toml:2: tls.client_mode: needs tls.certificate and tls.key".to_owned(),
        ),
    ] {
        assert_eq!(files.refused(&format!("[tls]\n{text}")), message);
    }
}

#[test]
fn secret_files_hold_one_line() {
    let files = Files::new();
    files.write("good", "pass word\r\n");
    files.write("two", "a\nb\n");
    files.write("empty", "\n");
    let user = |file: &str| format!("[[users]]\nname = \"a\"\npassword_file = \"{file}\"");
    let config = files.parse(&user("good")).unwrap();
    assert!(matches!(&config.users[0].secret, UserSecret::Password(password) if &**password == "pass word"));
    assert_eq!(files.refused(&user("empty")), "proxy.toml:3: users.password_file: empty is empty");
    assert_eq!(
        files.refused(&user("two")),
        "proxy.toml:3: users.password_file: two must hold the password as its only line"
    );
}

#[test]
fn a_reload_names_what_must_wait() {
    let files = Files::new();
    let path = files.folder.path().join("proxy.toml");
    let running = files.parse("").unwrap();
    files.write(
        "proxy.toml",
        "[listen]\nworkers = 3\n[pool]\nwait = \"1s\"\n[log]\nlevel = \"warn\"\n[[users]]\nname = \"a\"\npassword = \"b\"\npool_mode = \"session\"\n[[databases]]\nname = \"d\"\npool_size = 3",
    );
    let loaded = reload(&path).unwrap();
    assert_eq!(loaded.pool.wait, Duration::from_secs(1));
    let waiting = ["listen.workers", "pool.wait", "users.pool_mode", "databases.pool_size"];
    assert_eq!(needs_restart(&running, &loaded), waiting);
    files.write(
        "proxy.toml",
        "[[hba]]\nmethod = \"reject\"\n[[users]]\nname = \"a\"\nmax_user_client_connections = 1",
    );
    assert_eq!(needs_restart(&running, &reload(&path).unwrap()), [""; 0]);
    files.write("proxy.toml", "[pool]\nwait = 1");
    assert_eq!(reload(&path).unwrap_err().line(), Some(2));
}

#[test]
fn keys_that_a_reload_takes_up_exist() {
    let settings = parse("").unwrap().settings;
    for name in LIVE {
        let known = settings.iter().any(|setting| setting.name == *name);
        assert!(known || keys_of_arrays().iter().any(|key| key == name), "{name}");
    }
}

/// What is wrong with a rule of these fields.
fn refused_rule(fields: &str) -> String {
    let message = refused(&format!("[[hba]]\n{fields}"));
    message.strip_prefix("proxy.toml:").unwrap().to_owned()
}

#[test]
fn wrong_rules_get_line_and_key() {
    for (fields, message) in [
        ("type = 'host'", "1: hba.method: must be given"),
        (
            "method = 'md5'",
            "2: hba.method: \"md5\" is none of \"scram-sha-256\", \"cert\", \"trust\", \"reject\"",
        ),
        ("metod = 'trust'\nmethod = 'reject'", "2: hba.metod: unknown key; did you mean hba.method?"),
        (
            "type = 'local'\nmethod = 'reject'",
            "2: hba.type: \"local\" is none of \"host\", \"hostssl\", \"hostnossl\"",
        ),
        ("user = []\nmethod = 'reject'", "2: hba.user: an empty list"),
        ("user = '\"\"'\nmethod = 'reject'", "2: hba.user: an empty name"),
        ("user = '/'\nmethod = 'reject'", "2: hba.user: an empty pattern behind \"/\""),
        (
            "user = '/(a'\nmethod = 'reject'",
            "2: hba.user: \"(a\" is no regular expression that is known here: unclosed group",
        ),
        (
            "database = '+admins'\nmethod = 'reject'",
            "2: hba.database: \"+admins\": the members of a role are not asked for; name the users, or write a /pattern",
        ),
        (
            "database = 'samerole'\nmethod = 'reject'",
            "2: hba.database: \"samerole\": the members of a role are not asked for; name the databases, or write a /pattern",
        ),
        (
            "user = '@file'\nmethod = 'reject'",
            "2: hba.user: \"@file\": names are not read from files; write them here",
        ),
        (
            "user = 'a,b'\nmethod = 'reject'",
            "2: hba.user: \"a,b\": a comma is no part of a name; write a list, [\"a\", \"b\"]",
        ),
        (
            "address = 'samehost'\nmethod = 'reject'",
            "2: hba.address: \"samehost\" is no address such as \"10.0.0.0/8\", \"::1\" or \"all\"; names of hosts are not looked up",
        ),
        ("method = 'trust'", "2: hba.method: \"trust\" goes with addresses in 127.0.0.0/8 and ::1 alone"),
        ("method = 'cert'", "2: hba.method: \"cert\" goes with the type \"hostssl\" alone"),
        (
            "type = 'hostssl'\nmethod = 'cert'",
            "3: hba.method: needs tls.client_ca, and tls.client_mode not to be \"disable\"",
        ),
        ("method = 'scram-sha-256'\nmap = 'x'", "3: hba.map: goes with the method \"cert\" alone"),
        (
            "method = 'scram-sha-256'\nclientcert = 'verify-ca'",
            "3: hba.clientcert: goes with the type \"hostssl\" alone",
        ),
        (
            "type = 'hostssl'\nmethod = 'scram-sha-256'\nclientcert = 'verify-ca'",
            "4: hba.clientcert: needs tls.client_ca, and tls.client_mode not to be \"disable\"",
        ),
    ] {
        assert_eq!(refused_rule(fields), message, "{fields}");
    }
}

#[test]
fn trust_is_for_this_machine_alone() {
    for address in ["127.0.0.1", "127.0.0.0/8", "127.1.0.0/16", "::1", "::1/128"] {
        parse(&format!("[[hba]]\naddress = '{address}'\nmethod = 'trust'")).unwrap();
    }
    for address in ["all", "127.0.0.0/7", "0.0.0.0/0", "10.0.0.1", "::/0", "::1/127", "::ffff:127.0.0.1"] {
        let message = refused_rule(&format!("address = ['127.0.0.1', '{address}']\nmethod = 'trust'"));
        assert!(message.starts_with("3: hba.method: \"trust\" goes with"), "{address}: {message}");
    }
}

#[test]
fn certificates_need_a_ca_and_maps_are_there() {
    let files = Files::new();
    let tls = "[tls]\ncertificate = 'a.crt'\nkey = 'a.key'\nclient_ca = 'b.crt'\n";
    let rule = "[[hba]]\ntype = 'hostssl'\nmethod = 'cert'\n";
    let config = files.parse(&format!("{tls}{rule}")).unwrap();
    assert_eq!(config.hba[0].client_cert, ClientCert::VerifyFull);
    let message = files.refused(&format!("{tls}client_mode = 'disable'\n{rule}"));
    assert!(message.starts_with("proxy.toml:8: hba.method: needs tls.client_ca"), "{message}");
    let message = files.refused(&format!("{tls}{rule}clientcert = 'verify-ca'"));
    assert_eq!(
        message,
        "proxy.toml:8: hba.clientcert: with the method \"cert\" it is always \"verify-full\""
    );
    let message = files.refused(&format!("{tls}{rule}map = 'm'"));
    assert_eq!(message, "proxy.toml:8: hba.map: there is no [[ident_map]] of the name \"m\"");
    let line = "[[ident_map]]\nmap = 'm'\nsystem_user = '/^(.*)$'\ndatabase_user = '\\1'\n";
    assert_eq!(files.parse(&format!("{tls}{rule}map = 'm'\n{line}")).unwrap().ident_map.len(), 1);
    let message = refused("[[ident_map]]\nmap = 'm'\nsystem_user = '/^.*$'\ndatabase_user = '\\1'\n");
    assert_eq!(
        message,
        "proxy.toml:4: ident_map.database_user: has \\1, and ident_map.system_user no group in parentheses"
    );
    assert!(
        refused("[[ident_map]]\nmap = 'm'\nsystem_user = 'a'\ndatabase_user = '+a'\n")
            .contains("members of a role")
    );
}

#[test]
fn users_and_databases_have_limits_of_their_own() {
    let config = parse(
        "[[users]]\nname = 'a'\nmax_user_client_connections = 0\npool_size = 2\n[[users]]\nname = 'b'\npassword = 'x'\npool_mode = 'session'
         [[databases]]\nname = 'd'\npool_size = 3\npool_mode = 'transaction'\nmax_db_client_connections = 7",
    )
    .unwrap();
    assert_eq!(config.users.iter().map(|user| &*user.name).collect::<Vec<_>>(), ["b"]);
    assert_eq!((config.user_quotas["a"].clients, config.databases["d"].clients), (Some(0), Some(7)));
    assert_eq!(config.pool_of("a", "d"), (PoolMode::Transaction, 2));
    assert_eq!(config.pool_of("b", "d"), (PoolMode::Session, 3));
    assert_eq!(config.pool_of("c", "e"), (PoolMode::Transaction, 20));
    for (text, message) in [
        (
            "[[users]]\nname = 'a'\npool_size = 101",
            "proxy.toml:3: users.pool_size: more than pool.member_size, 100",
        ),
        (
            "[[databases]]\nname = 'a'\npool_size = 0",
            "proxy.toml:3: databases.pool_size: must be from 1 to 10000",
        ),
        ("[[databases]]\nname = 'a'", "proxy.toml:2: databases.name: nothing is set for it"),
        ("[[databases]]\npool_size = 1", "proxy.toml:1: databases.name: must not be empty"),
        (
            "[[databases]]\nname = 'a'\npool_size = 1\n[[databases]]\nname = 'a'\npool_size = 2",
            "proxy.toml:5: databases.name: \"a\" stands there twice",
        ),
        (
            "[auth]\nlookup_user = ''\n[[users]]\nname = 'a'\npool_size = 1",
            "proxy.toml:2: auth.lookup_user: empty, and there are no [[users]] with a password or verifier: nobody could log in",
        ),
    ] {
        assert_eq!(refused(text), message);
    }
}

proptest::proptest! {
    /// Whatever is typed into the file: it is taken, or refused in one line; never a panic.
    #[test]
    fn any_change_is_taken_or_refused_in_one_line(at in 0..SHIPPED.len(), cut in 0_usize..40, put in "\\PC{0,8}|[\\[\\]{}=\"'\\\\n#.,0-9a-z]{0,8}") {
        let floor = |mut at: usize| {
            while !SHIPPED.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let text = [&SHIPPED[..floor(at)], &put, &SHIPPED[floor((at + cut).min(SHIPPED.len()))..]].concat();
        if let Err(why) = parse(&text) {
            let message = why.to_string();
            proptest::prop_assert!(message.starts_with("proxy.toml:") && message.lines().count() == 1, "{message}");
            proptest::prop_assert!(why.line().is_some(), "{message}");
        }
    }
}
