//! What the proxy adds to a round trip: the same client, asking a stand-in server directly and through the proxy's own
//! listener, login, session, routing and pool, all in this process on the loopback.
//!
//! `direct` less `replica` or `primary` is not CPU but time: a second hop's wake-ups are most of it.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pg_ha_proxy::config::Config;
use pg_ha_proxy::run::Proxy;
use pg_ha_proxy::wire::build;

use support::client::Client;
use support::server::{self, LONG, LONG_BYTES, Role};

const USER: &str = "bench";
const PASSWORD: &str = "a password for the loopback";

fn query(sql: &str) -> Vec<u8> {
    let mut out = Vec::new();
    build::query(&mut out, sql.as_bytes());
    out
}

/// Parse, Bind, Describe, Execute, Sync, as a driver sends them for one statement.
fn extended(sql: &str) -> Vec<u8> {
    let mut out = Vec::new();
    build::parse(&mut out, b"", sql.as_bytes(), &[0, 0]);
    build::frame(&mut out, b'B', |out| out.extend_from_slice(b"\0\0\0\0\0\0\0\0"));
    build::frame(&mut out, b'D', |out| out.extend_from_slice(b"P\0"));
    build::frame(&mut out, b'E', |out| out.extend_from_slice(b"\0\0\0\0\0"));
    build::empty(&mut out, b'S');
    out
}

fn start_proxy(members: &[SocketAddr]) -> Proxy {
    let members: Vec<_> = members.iter().map(|member| format!("\"{member}\"")).collect();
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\nworkers = 1\n[tls]\nserver_mode = \"disable\"\n\
         [topology]\nsource = \"static\"\nmembers = [{}]\n[auth]\nlookup_user = \"\"\n\
         [[users]]\nname = \"{USER}\"\npassword = \"{PASSWORD}\"\n[routing]\ncatalog_interval = \"0s\"\n[admin]\naddress = \"\"\n",
        members.join(", ")
    );
    let config = Config::parse(&text, Path::new("proxy.toml")).expect("it is good");
    Proxy::start(config, Path::new("proxy.toml"), Box::new(|_| ())).expect("a proxy")
}

/// Waits until the proxy has found the primary and its two replicas.
fn until_serving(proxy: &Proxy) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let topology = proxy.shared().topology.borrow().clone();
        let replicas = topology.members.iter().filter(|member| member.serves_reads).count();
        if topology.primary().is_some() && replicas == 2 {
            return;
        }
        assert!(Instant::now() < deadline, "the stand-ins were not taken for a cluster: {topology:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn benches(criterion: &mut Criterion) {
    let members = [Role::Primary, Role::Replica, Role::Replica].map(server::start);
    let proxy = start_proxy(&members);
    until_serving(&proxy);
    let mut direct = Client::connect(members[0], USER, PASSWORD);
    let mut through = Client::connect(proxy.addresses()[0], USER, PASSWORD);

    let mut group = criterion.benchmark_group("relay");
    let select = "SELECT abalance FROM pgbench_accounts WHERE aid = 12345";
    let cases = [("simple", query(select)), ("extended", extended(select))];
    for (name, request) in &cases {
        group.bench_function(format!("{name}/direct"), |bencher| bencher.iter(|| direct.ask(request)));
        group.bench_function(format!("{name}/replica"), |bencher| bencher.iter(|| through.ask(request)));
    }
    let insert = query("INSERT INTO history VALUES (1)");
    group.bench_function("insert/direct", |bencher| bencher.iter(|| direct.ask(&insert)));
    group.bench_function("insert/primary", |bencher| bencher.iter(|| through.ask(&insert)));

    let long = query(&format!("SELECT * FROM {LONG}"));
    assert_eq!(direct.ask(&long), through.ask(&long));
    group.throughput(Throughput::Bytes(LONG_BYTES as u64)).sample_size(20);
    group.bench_function("result_8MiB/direct", |bencher| bencher.iter(|| direct.ask(&long)));
    group.bench_function("result_8MiB/replica", |bencher| bencher.iter(|| through.ask(&long)));
    group.finish();

    drop((direct, through));
    proxy.stop().expect("an end");
}

criterion_group!(all, benches);
criterion_main!(all);
