//! What a cluster's folder remembers of it: ports and passwords, in `cluster.json`, for its owner alone.

use std::fmt;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::Error;

const FILE: &str = "cluster.json";

/// A password, or a text that holds one. Shown where it is written out on purpose, never by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn generate() -> Self {
        const LETTERS: &[u8] = b"abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
        let mut random = rand::rng();
        Self((0..24).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The contents of the file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) etcd_port: Option<u16>,
    pub(super) etcd_peer_port: Option<u16>,
    pub(super) members: Vec<SavedPorts>,
    pub(super) passwords: Option<Passwords>,
}

/// The ports of a member.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct SavedPorts {
    /// PostgreSQL's own.
    pub(super) postgres: u16,
    /// Patroni's own.
    pub(super) api: u16,
    /// The relays' before PostgreSQL, Patroni and etcd.
    pub(super) postgres_relay: Option<u16>,
    pub(super) api_relay: Option<u16>,
    pub(super) etcd_relay: Option<u16>,
}

/// The passwords of a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Passwords {
    pub(super) superuser: Secret,
    pub(super) replication: Secret,
    pub(super) api: Secret,
    pub(super) app: Secret,
}

impl Passwords {
    /// New ones, with the application's if it was given.
    pub(super) fn generate() -> Self {
        let [superuser, replication, api, app] = std::array::from_fn(|_| Secret::generate());
        Self { superuser, replication, api, app }
    }
}

impl Saved {
    /// What `dir` remembers; nothing if it is new.
    pub(super) fn load(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| {
                Error::Options(format!("{} is not a cluster's file: {error}", path.display()))
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::io(path.display().to_string())(error)),
        }
    }

    /// Writes it, complete or not at all.
    pub(super) fn store(&self, dir: &Path) -> Result<(), Error> {
        let (path, new) = (dir.join(FILE), dir.join("cluster.json.new"));
        let write = || {
            let mut open = std::fs::OpenOptions::new();
            let mut file = open.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            std::fs::rename(&new, &path)
        };
        write().map_err(Error::io(path.display().to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_back_and_shows_no_password() {
        let dir = tempfile::tempdir().expect("a folder");
        let passwords = Passwords::generate();
        let saved = Saved { etcd_port: Some(1), passwords: Some(passwords.clone()), ..Saved::default() };
        saved.store(dir.path()).expect("stored");
        let loaded = Saved::load(dir.path()).expect("loaded");
        assert_eq!(loaded.passwords.as_ref().map(|p| &p.app), Some(&passwords.app));
        assert!(!format!("{loaded:?}").contains(passwords.app.reveal()));
        assert_ne!(passwords.app, passwords.superuser);
    }
}
