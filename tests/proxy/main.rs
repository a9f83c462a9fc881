//! The proxy before a real cluster, with the programs that people use: psql, pgbench, pg_dump, drivers.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]
#![expect(clippy::float_cmp, reason = "metrics are counts, exact as they are")]
#![expect(clippy::format_collect, reason = "scripts of statements, made once")]
#![expect(clippy::large_stack_arrays, reason = "20 kB of nonsense, made once")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod catalog;
mod consistency;
mod console;
mod copies;
mod failover;
mod hostile;
mod interleavings;
mod leaving;
mod logins;
mod pipelines;
mod pools;
mod replication;
mod reuse;
mod routing;
mod sessions;
mod statements;
mod stop;
mod switchover;
mod tls;
mod tools;
mod transactions;
mod workers;
