//! What a login costs on a worker: the server's side of SCRAM-SHA-256, and the client's side by ClientKey.
//! No key is derived here; that is a matter of milliseconds and never runs on a worker.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use pg_ha_proxy::scram::{
    Channel, ClientChallenged, ClientStart, Nonce, SCRAM_SHA_256, ServerStart, Verifier,
};

fn server_start() -> ServerStart {
    ServerStart::new(Channel::Unbound, Nonce::from_random([1; 18]))
}

fn client_start() -> ClientStart {
    ClientStart::new([SCRAM_SHA_256], Channel::Unbound, Nonce::from_random([2; 18])).expect("it is offered")
}

fn challenged(server_first: &str) -> ClientChallenged {
    client_start().handle_server_first(server_first.as_bytes()).expect("it answers ours")
}

fn login(c: &mut Criterion) {
    let verifier = Verifier::from_password("pencil", [7; 16], 4096);
    let keys = verifier.matches("pencil").expect("it is its password");
    let client_first = client_start().client_first();
    let challenge = || {
        server_start()
            .handle_client_first(SCRAM_SHA_256, client_first.as_bytes(), verifier.clone())
            .expect("it is well-formed")
    };
    let server_first = challenge().server_first().to_owned();
    let client_final = challenged(&server_first).prove(&keys).client_final().to_owned();

    c.bench_function("scram/server", |b| {
        b.iter(|| {
            challenge().handle_client_final(black_box(client_final.as_bytes())).expect("the proof is right")
        });
    });
    c.bench_function("scram/client_by_key", |b| {
        b.iter(|| challenged(black_box(&server_first)).prove(&keys));
    });
    let stored = verifier.to_secret_string();
    c.bench_function("scram/parse_verifier", |b| b.iter(|| Verifier::parse(black_box(&stored))));
}

criterion_group!(benches, login);
criterion_main!(benches);
