//! One port in front of a Patroni-run PostgreSQL cluster.

pub mod admin;
pub mod backend;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod control;
pub mod metrics;
pub mod net;
pub mod pool;
pub mod routing;
pub mod run;
pub mod scram;
pub mod session;
pub mod sql;
pub mod topology;
pub mod wire;
