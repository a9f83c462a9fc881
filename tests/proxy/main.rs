//! The proxy before a real cluster, with the programs that people use: psql, pgbench, pg_dump, drivers.

#[path = "../support/mod.rs"]
mod support;

mod copies;
mod failover;
mod hostile;
mod logins;
mod pipelines;
mod pools;
mod routing;
mod sessions;
mod statements;
mod stop;
mod tls;
mod tools;
mod transactions;
