//! What the benches of the whole data path share: a server that always knows the answer, and a client that only counts it.

pub(crate) mod client;
pub(crate) mod server;
