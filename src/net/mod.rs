//! Sockets: a plain or TLS stream, dialling and keep-alive. Knows bytes and deadlines, no messages.

mod dial;
pub mod reactor;
mod socket;
mod stream;
pub mod tls;

pub use dial::{dial, tune};
pub use socket::{Listening, Socket};
pub use stream::Stream;
