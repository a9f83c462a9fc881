//! What choosing a member costs: with two and with eight replicas, without a fence, by load, with one that is reached, with one
//! that nobody has reached, and a write.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use pg_ha_proxy::routing::{Ask, Balance, Fence, Turn, decide};
use pg_ha_proxy::sql::Class;
use pg_ha_proxy::topology::{Epoch, Lsn, Member, MemberId, Positions, Reading, Rule, Topology};

const EPOCH: Epoch = Epoch(1);

fn topology(replicas: u16) -> Topology {
    let member = |id: u16| Member {
        id: MemberId(id),
        name: format!("member-{id}").into(),
        host: "127.0.0.1".into(),
        port: 5432,
        role: if id == 0 { "primary" } else { "replica" }.into(),
        serves_reads: id > 0,
        answers: true,
        why_not: None,
        weight: 1,
        lag_bytes: Some(0),
        lag: Some(Duration::ZERO),
        timeline: Some(1),
        generation: 0,
    };
    Topology {
        version: 1,
        epoch: EPOCH,
        rule: Rule::Serving(MemberId(0)),
        members: (0..=replicas).map(member).collect::<Vec<_>>().into(),
        hold: Duration::from_secs(45),
        candidate: None,
        drained: false,
        insert_lsn: false,
    }
}

/// Positions of a primary at 1000 and replicas that have replayed up to `replayed`.
fn positions(replicas: u16, replayed: u64) -> Arc<Positions> {
    let positions = Positions::new(Instant::now());
    positions.enter(EPOCH);
    positions.publish_primary(Reading { begun: 100, lsn: Lsn(1000), insert: Lsn(1000), epoch: EPOCH });
    for id in 1..=replicas {
        positions.publish_replica(MemberId(id), EPOCH, Lsn(replayed));
    }
    Arc::new(positions)
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("routing");
    let read = Ask {
        class: Class::Read,
        transaction_read_only: None,
        hint: None,
        split: true,
        balance: Balance::InTurn,
    };
    let least = Ask { balance: Balance::Least, ..read };
    let write = Ask { class: Class::Write, ..read };
    let fenced = Fence::Wrote { at: 50 };
    for replicas in [2, 8] {
        let topology = topology(replicas);
        let cases = [
            ("write", write, Fence::None, 1000),
            ("read", read, Fence::None, 1000),
            ("read_least_busy", least, Fence::None, 1000),
            ("read_fence_reached", read, fenced, 1000),
            ("read_fence_not_reached", read, fenced, 999),
        ];
        for (name, ask, fence, replayed) in cases {
            let (turn, positions) = (Turn::default(), positions(replicas, replayed));
            group.bench_function(format!("{name}/{replicas}"), |bencher| {
                bencher.iter(|| {
                    let mut fence = black_box(fence);
                    if fence != Fence::None {
                        fence.resolve(positions.reading(), EPOCH);
                    }
                    let ready = |member: &Member| {
                        fence == Fence::None || fence.is_reached(positions.replayed_in(member.id, EPOCH))
                    };
                    decide(black_box(&topology), black_box(&ask), &turn, ready, |id| u64::from(id.0 % 2))
                });
            });
        }
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
