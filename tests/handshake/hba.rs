//! Rules, certificates and limits, against a PostgreSQL that has the same ones in its pg_hba.conf and pg_ident.conf.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use pg_ha_proxy::client::{HandshakeConfig, Rules};
use pg_ha_proxy::config::{Config, TlsMode, User, UserSecret};
use pg_ha_proxy::net::tls::ServerTls;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use tempfile::TempDir;

use crate::postgres::{Postgres, program};
use crate::proxy::{Proxy, handshake_config, tls, verifiers};
use crate::{ROLES, lookup};

/// Roles beside [`ROLES`], all with the password that the proxy has for them.
const USERS: [&str; 6] = ["carl", "mapped", "u_bob", "trusted", "both", "full"];

const HBA: &str = "
host      all          postgres   127.0.0.1/32  scram-sha-256
host      shut         all        all           reject
hostnossl all          carl       all           reject
hostssl   all          carl       0.0.0.0/0     cert
hostssl   all          mapped,/^u_ all          cert map=staff
hostssl   all          both       all           scram-sha-256 clientcert=verify-ca
hostssl   all          full       all           scram-sha-256 clientcert=verify-full
host      postgres     trusted    127.0.0.1/32  trust
host      LONG         all        all           reject
host      /^post       alice      127.0.0.0/8   scram-sha-256
host      sameuser     alice      127.0.0.1/32  scram-sha-256
host      postgres     nologin    127.0.0.1/32  scram-sha-256
host      replication  expired    all           reject
";

const IDENT: &str = "
staff  \"Carl Clerk\"         mapped
staff  /^(.*)@example\\.com$  u_\\1
";

/// The same for the proxy.
const TOML: &str = r#"
hba = [
    { database = "shut", method = "reject" },
    { type = "hostnossl", user = "carl", method = "reject" },
    { type = "hostssl", user = "carl", address = "0.0.0.0/0", method = "cert" },
    { type = "hostssl", user = ["mapped", "/^u_"], method = "cert", map = "staff" },
    { type = "hostssl", user = "both", method = "scram-sha-256", clientcert = "verify-ca" },
    { type = "hostssl", user = "full", method = "scram-sha-256", clientcert = "verify-full" },
    { database = "postgres", user = "trusted", address = "127.0.0.1/32", method = "trust" },
    { database = "LONG", method = "reject" },
    { database = "/^post", user = "alice", address = "127.0.0.0/8", method = "scram-sha-256" },
    { database = "sameuser", user = "alice", address = "127.0.0.1/32", method = "scram-sha-256" },
    { database = "postgres", user = "nologin", address = "127.0.0.1/32", method = "scram-sha-256" },
    { database = "replication", user = "expired", method = "reject" },
]
ident_map = [
    { map = "staff", system_user = "Carl Clerk", database_user = "mapped" },
    { map = "staff", system_user = '/^(.*)@example\.com$', database_user = 'u_\1' },
]
"#;

/// With the longest name that a database can have.
fn cut(rules: &str) -> String {
    rules.replace("LONG", &"d".repeat(63))
}

/// An authority, and where its certificates lie.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { folder: TempDir::new().unwrap(), issuer };
        authority.write("ca.crt", &authority.issuer.pem());
        authority
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    /// Makes `file.crt` and `file.key` for these common names.
    fn sign(&self, file: &str, names: &[&str], usage: ExtendedKeyUsagePurpose, until: i32) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.extended_key_usages = vec![usage];
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        self.write(&format!("{file}.crt"), &params.signed_by(&key, &self.issuer).unwrap().pem());
        self.write(&format!("{file}.key"), &key.serialize_pem());
    }

    fn client(&self, file: &str, name: &str) {
        self.sign(file, &[name], ExtendedKeyUsagePurpose::ClientAuth, 2100);
    }
}

fn authorities() -> (Authority, Authority) {
    let (ours, other) = (Authority::new("ours"), Authority::new("another"));
    ours.sign("server", &["server"], ExtendedKeyUsagePurpose::ServerAuth, 2100);
    for (file, name) in [
        ("carl", "carl"),
        ("clerk", "Carl Clerk"),
        ("bob", "bob@example.com"),
        ("evil", "bob@example.com.evil"),
        ("full", "full"),
    ] {
        ours.client(file, name);
    }
    ours.sign("nameless", &[], ExtendedKeyUsagePurpose::ClientAuth, 2100);
    ours.sign("wrong-use", &["carl"], ExtendedKeyUsagePurpose::ServerAuth, 2100);
    ours.sign("expired", &["carl"], ExtendedKeyUsagePurpose::ClientAuth, 2001);
    other.client("carl", "carl");
    (ours, other)
}

fn direct(ours: &Authority, sql: &str) -> Postgres {
    let files = [
        ("pg_hba.conf", &*cut(HBA)),
        ("pg_ident.conf", IDENT),
        ("server.crt", &*ours.read("server.crt")),
        ("server.key", &*ours.read("server.key")),
        ("root.crt", &*ours.read("ca.crt")),
    ];
    Postgres::start_with(sql, &files, &["ssl=on", "ssl_ca_file=root.crt"])
}

fn config(ours: &Authority) -> HandshakeConfig {
    let at = |name: &str| ours.folder.path().join(name);
    let tls = pg_ha_proxy::config::Tls {
        certificate: Some(at("server.crt")),
        key: Some(at("server.key")),
        client_ca: Some(at("ca.crt")),
        ..tls(TlsMode::Prefer, None)
    };
    let toml = "[tls]\ncertificate = 'server.crt'\nkey = 'server.key'\nclient_ca = 'ca.crt'\n";
    let meant = Config::parse(&cut(&format!("{TOML}\n{toml}")), &at("proxy.toml")).unwrap();
    HandshakeConfig {
        rules: Rules::new(&meant.hba, &meant.ident_map),
        ..handshake_config(ServerTls::new(&tls).unwrap())
    }
}

/// What psql says: an answer, or an error without the port.
async fn says(port: u16, settings: &str) -> String {
    let connection = format!("host=127.0.0.1 port={port} gssencmode=disable connect_timeout=20 {settings}");
    tokio::task::spawn_blocking(move || {
        let output = Command::new(program("psql"))
            .args(["-XAtq", "-v", "VERBOSITY=verbose", "-c", "SELECT current_user", &connection])
            .env("PGPASSWORD", "wonder")
            .env("HOME", "/nonexistent")
            .output()
            .unwrap();
        let told = if output.status.success() { output.stdout } else { output.stderr };
        String::from_utf8_lossy(&told).trim().replace(&port.to_string(), "PORT")
    })
    .await
    .unwrap()
}

fn with(authority: &Authority, file: &str) -> String {
    let at = |name: String| authority.folder.path().join(name).display().to_string();
    format!("sslmode=require sslcert={} sslkey={}", at(format!("{file}.crt")), at(format!("{file}.key")))
}

/// Settings of a connection, and what has to be in the answer.
fn cases(ours: &Authority, other: &Authority) -> Vec<(String, &'static str)> {
    let own = |file: &str| with(ours, file);
    let long = "d".repeat(70);
    vec![
        // Order, types, databases.
        ("user=alice dbname=postgres sslmode=disable".into(), "alice"),
        ("user=alice dbname=postgres sslmode=require".into(), "alice"),
        ("user=alice dbname=alice sslmode=disable".into(), "database \"alice\" does not exist"),
        ("user=alice dbname=shut sslmode=disable".into(), "pg_hba.conf rejects connection for host"),
        ("user=alice dbname=shut sslmode=require".into(), "\"shut\", SSL encryption"),
        (format!("user=alice dbname={long} sslmode=disable"), "pg_hba.conf rejects"),
        ("user=alice dbname=other sslmode=disable".into(), "no pg_hba.conf entry for host \"127.0.0.1\""),
        ("user=alice dbname=other sslmode=require".into(), "\"other\", SSL encryption"),
        (
            "user=ghost dbname=postgres sslmode=disable".into(),
            "\"ghost\", database \"postgres\", no encryption",
        ),
        ("user=nologin dbname=postgres sslmode=disable".into(), "is not permitted to log in"),
        (
            "user=alice dbname=x sslmode=disable replication=true".into(),
            "no pg_hba.conf entry for replication",
        ),
        ("user=expired dbname=x sslmode=disable replication=true".into(), "rejects replication connection"),
        ("user=alice dbname=x sslmode=disable replication=database".into(), "database \"x\", no encryption"),
        ("user=trusted dbname=postgres sslmode=disable".into(), "trusted"),
        ("user=trusted dbname=template1 sslmode=disable".into(), "no pg_hba.conf entry"),
        // Certificates.
        (format!("user=carl dbname=postgres {}", own("carl")), "carl"),
        ("user=carl dbname=postgres sslmode=disable".into(), "pg_hba.conf rejects"),
        (
            "user=carl dbname=postgres sslmode=require".into(),
            "connection requires a valid client certificate",
        ),
        (
            format!("user=carl dbname=postgres {}", own("clerk")),
            "certificate authentication failed for user \"carl\"",
        ),
        (format!("user=carl dbname=postgres {}", own("nameless")), "certificate authentication failed"),
        (format!("user=mapped dbname=postgres {}", own("clerk")), "mapped"),
        (format!("user=mapped dbname=postgres {}", own("carl")), "certificate authentication failed"),
        (format!("user=u_bob dbname=postgres {}", own("bob")), "u_bob"),
        (format!("user=u_bob dbname=postgres {}", own("evil")), "certificate authentication failed"),
        (format!("user=u_bob dbname=postgres {}", own("clerk")), "certificate authentication failed"),
        (format!("user=carl dbname=postgres {}", own("expired")), "certificate expired"),
        (format!("user=carl dbname=postgres {}", with(other, "carl")), "unknown ca"),
        // A bad certificate ends the connection whatever the rule says.
        (format!("user=alice dbname=postgres {}", own("expired")), "certificate expired"),
        // A certificate besides the password.
        (format!("user=both dbname=postgres {}", own("clerk")), "both"),
        (
            "user=both dbname=postgres sslmode=require".into(),
            "connection requires a valid client certificate",
        ),
        ("user=both dbname=postgres sslmode=disable".into(), "no pg_hba.conf entry"),
        (format!("user=full dbname=postgres {}", own("full")), "full"),
        (
            format!("user=full dbname=postgres password=wrong {}", own("full")),
            "password authentication failed",
        ),
        (
            format!("user=full dbname=postgres {}", own("carl")),
            "password authentication failed for user \"full\"",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rule_says_what_postgres_says() {
    let (ours, other) = authorities();
    let made = USERS.map(|user| format!("CREATE ROLE \"{user}\" LOGIN PASSWORD 'wonder';\n"));
    let sql = format!("{}{ROLES}", made.concat());
    let (direct, behind) = (direct(&ours, &sql), Postgres::start(&sql));
    let users: Vec<_> = ["carl", "mapped", "u_bob", "trusted"]
        .map(|name| User { name: name.into(), secret: UserSecret::Password("wonder".into()) })
        .into();
    let verifiers = verifiers(&users, Some(lookup(behind.port)));
    let mut proxy = Proxy::start(config(&ours), verifiers, Some(behind.port));
    // Only what happens before a backend is asked for is compared: what is no database is the members' business.
    for (settings, expected) in cases(&ours, &other) {
        let told = says(direct.port, &settings).await;
        assert!(told.contains(expected), "{settings}: {told}");
        if !expected.ends_with("does not exist") {
            assert_eq!(says(proxy.port(), &settings).await, told, "{settings}");
        }
    }
    // OpenSSL says of this one that its purpose is another, in an alert that rustls doesn't have.
    let settings = format!("user=carl dbname=postgres {}", with(&ours, "wrong-use"));
    assert!(says(direct.port, &settings).await.contains("alert"));
    assert!(says(proxy.port(), &settings).await.contains("alert"));
    while proxy.refused.try_recv().is_ok() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_password_for_the_members_nobody_comes_in_by_certificate() {
    let (ours, _) = authorities();
    let verifier = "SCRAM-SHA-256$4096:AAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let users = [User { name: "mapped".into(), secret: UserSecret::Verifier(verifier.into()) }];
    let mut proxy = Proxy::start(config(&ours), verifiers(&users, None), None);
    for (user, settings) in [
        ("carl", with(&ours, "carl")),
        // A verifier proves nothing to anybody.
        ("mapped", with(&ours, "clerk")),
        ("trusted", "sslmode=disable".to_owned()),
    ] {
        let told = says(proxy.port(), &format!("user={user} dbname=postgres {settings}")).await;
        let message =
            format!("FATAL:  the proxy has no password to log in at the members with as user \"{user}\"");
        assert!(told.contains(&message) && told.contains("HINT:  Give the user a password"), "{told}");
        assert!(proxy.refused.recv().await.unwrap().to_string().contains("by the rule in line "));
    }
    // Who has no right to come in isn't told that either.
    let told = says(proxy.port(), &format!("user=carl dbname=postgres {}", with(&ours, "clerk"))).await;
    assert!(told.contains("certificate authentication failed"), "{told}");
    let why = proxy.refused.recv().await.unwrap().to_string();
    assert!(why.contains("the client's certificate is \"Carl Clerk\"'s, who is not this user"), "{why}");
}
