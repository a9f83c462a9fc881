//! What can go wrong with the local cluster, in one line each.

use std::path::PathBuf;
use std::time::Duration;

/// Why the local cluster could not do what it was asked. Every text is one line, and names what to do where that is
/// known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Programs, or the user that the members run as, are missing.
    #[error("{0}; run `make setup`")]
    Missing(String),
    /// The options can't be met.
    #[error("{0}")]
    Options(String),
    /// A file, folder, process or socket refused.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, and to what.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// No member of this name.
    #[error("no member is called {name}; there are {known}")]
    UnknownMember {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The member is not in a state for this.
    #[error("{0}")]
    State(String),
    /// A condition did not come true in time.
    #[error("{what} did not happen within {}; {last} (logs: {})", humantime::format_duration(*.after), .logs.display())]
    Deadline {
        /// The condition.
        what: String,
        /// How long it was waited for.
        after: Duration,
        /// What was seen last.
        last: String,
        /// The folder of the logs.
        logs: PathBuf,
    },
    /// Patroni answered with a refusal.
    #[error("Patroni refused: {body} (HTTP status {status})")]
    Patroni {
        /// The HTTP status.
        status: u16,
        /// The text of its answer.
        body: String,
    },
    /// A program ended with an error.
    #[error("{program} failed: {output}")]
    Program {
        /// The program's name.
        program: &'static str,
        /// The last line of what it said.
        output: String,
    },
    /// etcd answered with an error or not at all.
    #[error("etcd: {0}")]
    Etcd(String),
    /// A certificate could not be made.
    #[error("certificates: {0}")]
    Certificate(#[from] rcgen::Error),
}

impl Error {
    /// For `map_err`: an I/O error with what was being done.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}
