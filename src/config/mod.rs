//! proxy.toml: as it is written ([`file`]), and as it is meant ([`Config`]).
//!
//! Each part of the proxy is handed its own struct of these and never sees the rest. Durations are written as
//! `"5s"`, `"20ms"`, sizes as `"16MiB"` or plain bytes. A bad value is refused with its line and key, never
//! repaired; a file that is named must be there and serve. Knows nothing of the other folders.

mod auth;
mod error;
mod file;
mod hba;
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

use std::collections::BTreeMap;
use std::path::Path;

pub use auth::{Auth, User, UserSecret};
pub use error::Error;
pub use hba::{ClientCert, HbaMethod, HbaName, HbaRule, HbaType, IdentLine, MappedUser};
pub use listen::{Admin, KeepAlive, Limits, Listen, Log, LogFormat};
pub use pool::{Failover, Pool, PoolMode, Quota};
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
    /// `[[users]]` that need no lookup.
    pub users: Vec<User>,
    /// What is set for users of `[[users]]` on their own.
    pub user_quotas: BTreeMap<String, Quota>,
    /// `[[databases]]`
    pub databases: BTreeMap<String, Quota>,
    /// `[[hba]]`, in its order; empty: SCRAM for everybody.
    pub hba: Vec<HbaRule>,
    /// `[[ident_map]]`, in its order.
    pub ident_map: Vec<IdentLine>,
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
    /// Every key with its value and default as text, in the order of the sections, arrays of tables left out. Holds no secret.
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

const SECTIONS: [&str; 15] = [
    "listen",
    "tls",
    "topology",
    "auth",
    "hba",
    "ident_map",
    "users",
    "databases",
    "pool",
    "routing",
    "vector",
    "failover",
    "limits",
    "admin",
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
        let (users, user_quotas) = read_users(&file)?;
        let config = Self {
            listen: read(&file, &mut sections, "listen", Listen::read)?,
            tls: read(&file, &mut sections, "tls", Tls::read)?,
            topology: read(&file, &mut sections, "topology", TopologyConfig::read)?,
            auth: read(&file, &mut sections, "auth", Auth::read)?,
            users,
            user_quotas,
            databases: read_databases(&file)?,
            hba: Vec::new(),
            ident_map: Vec::new(),
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
            let message =
                "empty, and there are no [[users]] with a password or verifier: nobody could log in";
            return Err(sections[AUTH].error("lookup_user", message));
        }
        config.refuse_big_pools(&file)?;
        let (hba, ident_map) = hba::read(&file, &config.tls)?;
        Ok(Self { hba, ident_map, settings, ..config })
    }

    /// How backends of a user in a database are pooled, and how many of them one member may have. What is set for the user comes
    /// before what is set for the database, as with PgBouncer.
    pub fn pool_of(&self, user: &str, database: &str) -> (PoolMode, usize) {
        let (user, database) = (self.user_quotas.get(user), self.databases.get(database));
        let of = |quota: Option<&Quota>| (quota.and_then(|q| q.pool_mode), quota.and_then(|q| q.pool_size));
        let ((user_mode, user_size), (mode, size)) = (of(user), of(database));
        (user_mode.or(mode).unwrap_or(self.pool.mode), user_size.or(size).unwrap_or(self.pool.size))
    }

    fn refuse_big_pools(&self, file: &FileConfig<'_>) -> Result<(), Error> {
        let limit = self.pool.member_size;
        for (name, quotas) in [("users", &self.user_quotas), ("databases", &self.databases)] {
            // A quota of each section is kept under the name in it.
            for mut section in file.sections(name)? {
                let quota = quotas.get(&section.text("name", "")?);
                if quota.and_then(|quota| quota.pool_size).is_some_and(|size| size > limit) {
                    return Err(section.error("pool_size", format!("more than pool.member_size, {limit}")));
                }
            }
        }
        Ok(())
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

fn read_users(file: &FileConfig<'_>) -> Result<(Vec<User>, BTreeMap<String, Quota>), Error> {
    let (mut users, mut quotas) = (Vec::new(), BTreeMap::new());
    for mut section in file.sections("users")? {
        let (name, secret, quota) = User::read(&mut section)?;
        section.refuse_unknown(&[])?;
        if quotas.insert(name.clone(), quota).is_some() {
            return Err(section.error("name", format!("{name:?} stands there twice")));
        }
        users.extend(secret.map(|secret| User { name, secret }));
    }
    Ok((users, quotas))
}

fn read_databases(file: &FileConfig<'_>) -> Result<BTreeMap<String, Quota>, Error> {
    let mut quotas = BTreeMap::new();
    for mut section in file.sections("databases")? {
        let (name, quota) = Quota::of_database(&mut section)?;
        section.refuse_unknown(&[])?;
        if quotas.contains_key(&name) {
            return Err(section.error("name", format!("{name:?} stands there twice")));
        }
        quotas.insert(name, quota);
    }
    Ok(quotas)
}
