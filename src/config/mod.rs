//! proxy.toml: as it is written ([`file`]), and as it is meant ([`Config`]).
//!
//! Each part of the proxy is handed its own struct of these and never sees the rest. Durations are written as
//! `"5s"`, `"20ms"`, sizes as `"16MiB"` or plain bytes. A bad value is refused with its line and key, never
//! repaired; a file that is named must be there and serve. Knows nothing of the other folders.

mod auth;
mod error;
mod file;
mod listen;
mod pem;
mod pool;
mod reload;
mod routing;
mod section;
#[cfg(test)]
mod tests;
mod tls;
mod topology;
mod units;

use std::path::Path;

pub use auth::{Auth, User, UserSecret};
pub use error::Error;
pub use listen::{Admin, KeepAlive, Limits, Listen, Log, LogFormat};
pub use pool::{Failover, Pool, PoolMode};
pub use reload::{LIVE, needs_restart, reload};
pub use routing::{Balance, Consistency, Reads, Routing, Vector};
pub use tls::{Tls, TlsMode};
pub use topology::{EtcdSource, Source, TopologyConfig};

use file::FileConfig;
use section::Section;

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[listen]`
    pub listen: Listen,
    /// `[tls]`
    pub tls: Tls,
    /// `[topology]`
    pub topology: TopologyConfig,
    /// `[auth]`
    pub auth: Auth,
    /// `[[users]]`
    pub users: Vec<User>,
    /// `[pool]`
    pub pool: Pool,
    /// `[routing]`
    pub routing: Routing,
    /// `[vector]`
    pub vector: Vector,
    /// `[failover]`
    pub failover: Failover,
    /// `[limits]`
    pub limits: Limits,
    /// `[admin]`
    pub admin: Admin,
    /// `[log]`
    pub log: Log,
    /// Every key with its value and default as text, in the order of the sections, `[[users]]` left out. Holds no secret.
    pub settings: Vec<Setting>,
}

/// One key of proxy.toml as text, for people (`SHOW CONFIG`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Section and key, such as `pool.wait`.
    pub name: String,
    /// What holds.
    pub value: String,
    /// What would hold were the key left out.
    pub default: String,
}

const SECTIONS: [&str; 12] = [
    "listen", "tls", "topology", "auth", "users", "pool", "routing", "vector", "failover", "limits", "admin",
    "log",
];

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// The file can't be read, or the first thing that is wrong in it.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|why| Error::new(path, None, None, format!("can't be read: {why}")))?;
        Self::parse(&text, path)
    }

    /// Understands a file's text. `path` is for messages, and the names of other files in it are taken relative to its
    /// folder.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let file = FileConfig::parse(text, path)?;
        file.refuse_unknown_sections(&SECTIONS)?;
        let mut sections = Vec::new();
        let users = read_users(&file)?;
        let config = Self {
            listen: read(&file, &mut sections, "listen", Listen::read)?,
            tls: read(&file, &mut sections, "tls", Tls::read)?,
            topology: read(&file, &mut sections, "topology", TopologyConfig::read)?,
            auth: read(&file, &mut sections, "auth", Auth::read)?,
            users,
            pool: read(&file, &mut sections, "pool", Pool::read)?,
            routing: read(&file, &mut sections, "routing", Routing::read)?,
            vector: read(&file, &mut sections, "vector", Vector::read)?,
            failover: read(&file, &mut sections, "failover", Failover::read)?,
            limits: read(&file, &mut sections, "limits", Limits::read)?,
            admin: read(&file, &mut sections, "admin", Admin::read)?,
            log: read(&file, &mut sections, "log", Log::read)?,
            settings: Vec::new(),
        };
        let settings: Vec<Setting> = sections.iter().flat_map(Section::read).cloned().collect();
        for section in &sections {
            section.refuse_unknown(&settings)?;
        }
        if config.auth.lookup_user.is_none() && config.users.is_empty() {
            let message = "empty, and there are no [[users]]: nobody could log in";
            return Err(sections[AUTH].error("lookup_user", message));
        }
        Ok(Self { settings, ..config })
    }
}

/// Where `[auth]` stands among the sections that [`Config::parse`] reads.
const AUTH: usize = 3;

fn read<'f, T>(
    file: &'f FileConfig<'_>,
    sections: &mut Vec<Section<'f>>,
    name: &'static str,
    understand: impl FnOnce(&mut Section<'f>) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut section = file.section(name)?;
    let meant = understand(&mut section)?;
    sections.push(section);
    Ok(meant)
}

fn read_users(file: &FileConfig<'_>) -> Result<Vec<User>, Error> {
    let mut users: Vec<User> = Vec::new();
    for mut section in file.sections("users")? {
        let user = User::read(&mut section)?;
        section.refuse_unknown(&[])?;
        if users.iter().any(|other| other.name == user.name) {
            return Err(section.error("name", format!("{:?} stands there twice", user.name)));
        }
        users.push(user);
    }
    Ok(users)
}
