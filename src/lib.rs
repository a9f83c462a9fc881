//! One port in front of a Patroni-run PostgreSQL cluster: the map of the crate.
//!
//! The life of a statement, by the folder that does each part:
//!
//! ```text
//! client ── client::Listener ── client::accept (TLS, startup, SCRAM as a server)
//!                                   │ Accepted
//!                                session     one task a client, on one worker thread
//!                                   │  a batch: a Query, or messages up to Sync or Flush
//!                                   ▼
//!                                sql::classify    text -> Verdict, cached by text
//!                                   ▼
//!                                routing::decide  class, session, topology -> Target
//!                                   ▼
//!                                pool::Pool::take a backend of that member, user and database
//!                                   ▼
//!                                backend          brought in line; SCRAM as a client when opened
//!                                   ▼
//!                                PostgreSQL ── the answer, passed on as it comes ──► client
//! ```
//!
//! Beside it the control path: [`control`] watches etcd and asks the members, [`topology::Machine`] makes one
//! [`topology::Topology`] of it, and sessions see that snapshot and nothing else of it.
//!
//! - Pure, without tokio, sockets, log and clock: [`wire`] bytes and protocol; [`scram`] both sides of a login; [`sql`] what a
//!   text is; [`topology`] who is primary; [`routing`] where a statement goes.
//! - The data path: [`net`] streams; [`client`] until a connection may ask; [`backend`] one connection to PostgreSQL;
//!   [`pool`] those of a member; [`session`] all that happens between the two.
//! - The control path: [`control`].
//! - Around them: [`config`] proxy.toml; [`metrics`] and [`admin`] what is seen from outside; [`cluster`] a local cluster of the
//!   real programs; [`cli`] the subcommands; [`run`] builds everything and hands it down.
//!
//! ARCHITECTURE.md at the top of the repository has the same in steps, each with its file and function.

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
