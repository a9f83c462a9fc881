//! What can be wrong before the control path runs. Once it runs it has no errors, only states.

use std::path::PathBuf;

/// The control path can't be started as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of `[topology]` can't be read.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// No etcd endpoint is given.
    #[error("topology.etcd_endpoints is empty")]
    NoEndpoint,
}
