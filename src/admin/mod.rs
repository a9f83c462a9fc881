//! HTTP on `[admin] address`: metrics, health, and what the proxy knows, as JSON and as a page for people.
//!
//! It only reads, from the views it is handed, and passes one request on: to reload proxy.toml. Nothing that it can
//! reach holds a secret.

pub mod console;
mod http;
mod routes;
mod topology;

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::topology::Topology;

pub use http::{listen, serve};

/// Looks at one part of the proxy, as JSON. Called on the control runtime for each request: must not block.
pub type View = Arc<dyn Fn() -> Value + Send + Sync>;

/// The same for what has to be asked of the workers.
pub type Survey = Arc<dyn Fn() -> console::Answer<Value> + Send + Sync>;

/// Takes proxy.toml up again; the text is for the caller: what waits for a restart, or what is wrong.
pub type Reload = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// All that the HTTP side may look at.
#[derive(Clone)]
pub struct Views {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/topology` and `/readyz`.
    pub topology: watch::Receiver<Arc<Topology>>,
    /// For `/pools`: an array of objects, one a pool.
    pub pools: View,
    /// For `/sessions`: counts, and a row a client up to a limit.
    pub sessions: Survey,
    /// For `/routes`: what was learnt of statements.
    pub routes: View,
    /// For `/failovers`: the records, newest first.
    pub failovers: View,
    /// For `POST /reload`.
    pub reload: Reload,
}

#[cfg(test)]
mod tests;
