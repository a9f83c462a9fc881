//! What it costs to tell where a statement may run: short ones, an ORM's, a vector search, and one seen before.

use std::fmt::Write;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pg_ha_proxy::sql::{ClassCache, Functions, Lexing, classify, fingerprint};

const SHORT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;";
const ORM: &str = r#"SELECT "users"."id", "users"."email", "users"."name", "users"."created_at", "users"."updated_at", "orders"."id" AS "o_id", "orders"."total", "orders"."state", COALESCE("orders"."note", '') AS "note", COUNT("items"."id") AS "items" FROM "users" INNER JOIN "orders" ON ("users"."id" = "orders"."user_id") LEFT OUTER JOIN "items" ON ("items"."order_id" = "orders"."id") WHERE ("users"."active" AND "orders"."state" IN ($1, $2, $3) AND UPPER("users"."email"::text) LIKE UPPER($4)) GROUP BY "users"."id", "orders"."id" ORDER BY "orders"."id" DESC LIMIT 21"#;

/// A search with a literal of 1536 dimensions, some 30 kB.
fn search() -> String {
    let mut text = String::from("SELECT id, content FROM items ORDER BY embedding <=> '[");
    for dimension in 0..1536_u32 {
        let value = f64::from(dimension.wrapping_mul(2_654_435_761) % 2_000_000) / 1e6 - 1.0;
        let comma = if dimension == 0 { "" } else { "," };
        write!(text, "{comma}{value:.16}").expect("a String takes everything");
    }
    text.push_str("]' LIMIT 10");
    text
}

fn benches(criterion: &mut Criterion) {
    let functions = Functions::builtin();
    let lexing = Lexing::default();
    let search = search();
    let mut group = criterion.benchmark_group("classify");
    for (name, text) in [("short", SHORT), ("orm", ORM), ("search_1536", &search)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| classify(black_box(text.as_bytes()), &lexing, &functions));
        });
    }
    for (name, text) in [("short_cached", SHORT), ("orm_cached", ORM)] {
        let mut cache = ClassCache::new(1024, 16 * 1024);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| cache.classify(black_box(text.as_bytes()), &lexing, &functions));
        });
    }
    // Texts that differ in a value alone, as they come with the simple protocol.
    let texts: Vec<String> =
        (0..10_000).map(|id| SHORT.replace("12345", &(id * 7919 % 100_003).to_string())).collect();
    let (mut cache, mut next) = (ClassCache::new(10_000, 16 * 1024), 0);
    group.throughput(Throughput::Bytes(SHORT.len() as u64));
    group.bench_function("short_of_a_kind", |bencher| {
        bencher.iter(|| {
            next = (next + 1) % texts.len();
            cache.classify(black_box(texts[next].as_bytes()), &lexing, &functions)
        });
    });
    group.throughput(Throughput::Bytes(ORM.len() as u64));
    group.bench_function("orm_fingerprint", |bencher| {
        bencher.iter(|| fingerprint(black_box(ORM.as_bytes()), &lexing));
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
