//! One application's connection until it may ask: listener, handshake, authentication.
//!
//! A connection leaves here logged in ([`Accepted`]), as a cancel request, or closed. Nothing here knows a server:
//! verifiers come through [`Verifiers`], what a cancel request reaches through [`CancelKeys`].

mod cancel;
mod handshake;
mod hba;
mod listener;
mod login;
mod opening;
mod tally;
mod turns;
mod verifiers;

pub use crate::wire::startup::Replication;
pub use cancel::{CancelEntry, CancelKeys, CancelSecret, Target};
pub use handshake::{Accepted, ClientLimits, HandshakeConfig, HandshakeError, Outcome, accept, refuse};
pub use hba::Rules;
pub use listener::{
    Busyness, ClientGuard, Counters, Incoming, ListenLimits, Listener, ROOM, Reception, Worker,
};
pub use login::RoleGuard;
pub use turns::Turns;
pub use verifiers::{Configured, Lookup, LookupFuture, Verifiers, VerifiersConfig};
