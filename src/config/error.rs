//! The one error of a configuration: a line that a person can act on.

use std::fmt;
use std::path::{Path, PathBuf};

/// What is wrong with a configuration, and where: `proxy.toml:12: pool.wait: …`. Holds no value that could be secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    path: PathBuf,
    line: Option<usize>,
    key: Option<String>,
    message: String,
}

impl Error {
    pub(super) fn new(
        path: &Path,
        line: Option<usize>,
        key: Option<String>,
        message: impl Into<String>,
    ) -> Self {
        let message = message.into().lines().map(str::trim).collect::<Vec<_>>().join(", ");
        Self { path: path.to_owned(), line, key, message }
    }

    /// The line it stands in, from 1; none if it isn't about one.
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// The key it is about, such as `pool.wait`.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if let Some(key) = &self.key {
            write!(f, " {key}:")?;
        }
        write!(f, " {}", self.message)
    }
}

impl std::error::Error for Error {}
