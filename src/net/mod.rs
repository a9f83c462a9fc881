//! Sockets: a plain or TLS stream, dialling and keep-alive. Knows bytes and deadlines, no messages.

mod dial;
mod stream;
pub mod tls;

pub use dial::{dial, has_pending, tune};
pub use stream::Stream;
