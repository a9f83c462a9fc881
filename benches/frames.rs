//! What cutting a byte stream into frames costs: a result of many rows, and what a pipelining client sends.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pg_ha_proxy::wire::{Frames, build, frame::MAX_FRAME_LEN};

/// 64 KiB of rows as a server sends them: a number and a name.
fn rows() -> Vec<u8> {
    let mut out = Vec::new();
    for number in 0_u32.. {
        if out.len() >= 64 << 10 {
            break;
        }
        build::text_row(&mut out, &[Some(&number.to_string()), Some("a name of some length")]);
    }
    out
}

/// 100 times Parse, Bind, Describe, Execute, and one Sync.
fn pipeline() -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..100 {
        build::parse(&mut out, b"", b"SELECT abalance FROM pgbench_accounts WHERE aid = $1", &[0, 0]);
        build::frame(&mut out, b'B', |out| out.extend_from_slice(b"\0\0\0\0\0\x01\0\0\0\x0512345\0\0"));
        build::frame(&mut out, b'D', |out| out.extend_from_slice(b"P\0"));
        build::frame(&mut out, b'E', |out| out.extend_from_slice(b"\0\0\0\0\0"));
    }
    build::empty(&mut out, b'S');
    out
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frames");
    for (name, bytes) in [("rows_64k", rows()), ("pipeline_100", pipeline())] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut frames = Frames::new(black_box(&bytes), MAX_FRAME_LEN);
                let mut tags = 0_usize;
                while let Some(frame) = frames.next_frame().expect("they are frames") {
                    tags += usize::from(frame.tag);
                }
                tags
            });
        });
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
