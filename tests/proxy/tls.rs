//! TLS on both sides, with certificates of the cluster's authority.

use std::process::Output;

use crate::support::{Proxy, World, direct, on_leader, psql};

fn configuration(world: &World, mode: &str) -> String {
    let (certificate, key) = world.cluster.certificates().server();
    format!(
        "[tls]\nclient_mode = '{mode}'\ncertificate = '{}'\nkey = '{}'\n",
        certificate.display(),
        key.display()
    )
}

/// psql with these settings of a connection.
fn psql_with(world: &World, proxy: &Proxy, settings: &str, sql: &str) -> Output {
    let connection = format!("host=127.0.0.1 port={} user=app dbname=app {settings}", proxy.port);
    let mut command = std::process::Command::new(world.status.postgres_bin.join("psql"));
    command.args(["-X", "-At", "-v", "VERBOSITY=verbose", "-c", sql, &connection]);
    command.env("PGPASSWORD", world.status.app_password.reveal()).env("PGCONNECT_TIMEOUT", "10");
    command.output().expect("psql runs")
}

fn answer(world: &World, proxy: &Proxy, settings: &str, sql: &str) -> String {
    let output = psql_with(world, proxy, settings, sql);
    assert!(output.status.success(), "{settings}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn refusal(world: &World, proxy: &Proxy, settings: &str) -> String {
    let output = psql_with(world, proxy, settings, "SELECT 1");
    assert!(!output.status.success(), "{settings} was let in");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn clients_check_the_proxy_and_the_proxy_checks_the_members() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, &configuration(world, "require"));
    let ca = world.status.ca.display();
    let verified = format!("sslmode=verify-full sslrootcert={ca}");
    for settings in [
        "sslmode=require".to_owned(),
        verified.clone(),
        format!("{verified} channel_binding=require"),
        format!("{verified} channel_binding=disable"),
        format!("{verified} sslnegotiation=direct"),
        format!("{verified} ssl_min_protocol_version=TLSv1.3"),
        format!("{verified} ssl_max_protocol_version=TLSv1.2"),
    ] {
        // The backend's side of the same: the proxy speaks TLS to the member.
        let sql = "/* pgha: primary */ SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        assert_eq!(answer(world, &proxy, &settings, sql), "t", "{settings}");
    }
    let big = "SELECT length(repeat('x', 20000000)), repeat('y', 5000000)";
    assert_eq!(answer(world, &proxy, &verified, big).len(), "20000000|".len() + 5_000_000);
    assert!(refusal(world, &proxy, "sslmode=disable").contains("no encryption"));
    // Another authority's certificate is none.
    let other = another_authority(world);
    assert!(
        refusal(world, &proxy, &format!("sslmode=verify-full sslrootcert={other}")).contains("certificate")
    );
    proxy.assert_healthy();
}

#[test]
fn tls_is_as_wanted_where_it_is_preferred_and_refused_where_there_is_none() {
    let world = World::shared();
    let proxy = Proxy::start(&world.status, &configuration(world, "prefer"));
    for settings in
        ["sslmode=disable", "sslmode=prefer", "sslmode=require", "gssencmode=prefer sslmode=prefer"]
    {
        assert_eq!(answer(world, &proxy, settings, "SELECT 1"), "1", "{settings}");
    }
    proxy.assert_healthy();
    assert!(refusal(world, &world.proxy, "sslmode=require").contains("does not support SSL"));
    assert_eq!(answer(world, &world.proxy, "sslmode=prefer", "SELECT 1"), "1");
}

#[test]
fn a_member_with_a_certificate_of_somebody_else_is_not_used() {
    let world = World::shared();
    let other = another_authority(world);
    let proxy = Proxy::launch(&world.status, &format!("tls.server_ca = '{other}'\nlog.level = 'info'"));
    proxy.until("all members refused", |proxy| proxy.log().matches("the member doesn't answer").count() >= 3);
    assert!(proxy.get("/readyz").contains("503"), "{}", proxy.get("/readyz"));
    let members = world.status.members.iter();
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'nobody'";
    assert!(members.map(|member| direct(&world.status, member, "postgres", sql)).all(|count| count == "0"));
    assert_eq!(on_leader(&world.status, "SELECT 1"), "1");
}

/// The certificate of an authority that has signed nothing here.
fn another_authority(world: &World) -> String {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let path = world.status.dir.join("other-authority.crt");
    std::fs::write(&path, params.self_signed(&key).expect("a certificate").pem()).expect("a file");
    path.display().to_string()
}

#[test]
fn a_certificate_is_renewed_without_a_restart() {
    let world = World::shared();
    let (certificate, key) = world.cluster.certificates().server();
    let (own, own_key) = (world.status.dir.join("renewed.crt"), world.status.dir.join("renewed.key"));
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&own, made.cert.pem()).unwrap();
    std::fs::write(&own_key, made.signing_key.serialize_pem()).unwrap();
    let text = format!(
        "[tls]\nclient_mode = 'require'\ncertificate = '{}'\nkey = '{}'\n",
        own.display(),
        own_key.display()
    );
    let proxy = Proxy::start(&world.status, &text);
    let verified = format!("sslmode=verify-full sslrootcert={}", world.status.ca.display());
    assert!(refusal(world, &proxy, &verified).contains("certificate"));
    let mut staying = psql::Psql::start_with(&world.status, proxy.port, "require");
    assert_eq!(staying.say("SELECT 1;"), "1");
    std::fs::copy(certificate, &own).unwrap();
    std::fs::copy(key, &own_key).unwrap();
    assert!(proxy.post("/reload").starts_with("HTTP/1.1 200"));
    assert_eq!(answer(world, &proxy, &verified, "SELECT 1"), "1");
    assert_eq!(staying.say("SELECT 2;"), "2");
    proxy.assert_healthy();
}
