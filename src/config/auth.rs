//! `[auth]` and `[[users]]`: who may log in, and as whom the proxy itself does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::section::Section;
use super::{Error, Quota, pem};

const SECOND: Duration = Duration::from_secs(1);

/// `[auth]`
#[derive(Debug, Clone)]
pub struct Auth {
    /// `lookup_user`: role that may run the lookup function; default `pgha_lookup`; empty: only `[[users]]` can log in.
    pub lookup_user: Option<String>,
    /// `lookup_database`; default `postgres`.
    pub lookup_database: String,
    /// `lookup_certificate` and `lookup_key`: client certificate of the lookup role.
    pub lookup_certificate: Option<(PathBuf, PathBuf)>,
    /// `lookup_password_file`: the lookup role's password, where it has no certificate.
    pub lookup_password_file: Option<PathBuf>,
    /// `monitor_user`: role of the monitors; default `pgha_monitor`.
    pub monitor_user: String,
    /// `monitor_database`; default `postgres`.
    pub monitor_database: String,
    /// `monitor_certificate` and `monitor_key`.
    pub monitor_certificate: Option<(PathBuf, PathBuf)>,
    /// `monitor_password_file`
    pub monitor_password_file: Option<PathBuf>,
    /// `cache_ttl`: how long a verifier is used before it is read again; default 1 s, so that a changed password holds at once.
    pub cache_ttl: Duration,
    /// `lookup_timeout`; default 5 s.
    pub lookup_timeout: Duration,
    /// `cluster_secret_file`: key of the made-up salts, the same on every proxy; default: derived at start, at random.
    pub cluster_secret_file: Option<PathBuf>,
}

/// One of `[[users]]` that needs no lookup.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// `name`
    pub name: String,
    /// `password`, or `password_file`, or `verifier`.
    pub secret: UserSecret,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How a configured user proves itself. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum UserSecret {
    /// A password in clear: serves logins at both sides.
    Password(Arc<str>),
    /// A SCRAM verifier: the ClientKey comes from the client's proof.
    Verifier(Arc<str>),
}

impl Auth {
    pub(super) fn read(section: &mut Section<'_>) -> Result<Self, Error> {
        let lookup_user = section.text("lookup_user", "pgha_lookup")?;
        Ok(Self {
            lookup_user: Some(lookup_user).filter(|user| !user.is_empty()),
            lookup_database: section.name("lookup_database", "postgres")?,
            lookup_certificate: section.key_pair("lookup_certificate", "lookup_key")?,
            lookup_password_file: section.secret_file("lookup_password_file")?,
            monitor_user: section.name("monitor_user", "pgha_monitor")?,
            monitor_database: section.name("monitor_database", "postgres")?,
            monitor_certificate: section.key_pair("monitor_certificate", "monitor_key")?,
            monitor_password_file: section.secret_file("monitor_password_file")?,
            cache_ttl: section.duration("cache_ttl", SECOND, SECOND..=86_400 * SECOND)?,
            lookup_timeout: section.duration("lookup_timeout", 5 * SECOND, SECOND / 10..=60 * SECOND)?,
            cluster_secret_file: section.secret_file("cluster_secret_file")?,
        })
    }
}

impl User {
    /// One of `[[users]]`: its name, how it proves itself where that stands there, and its limits.
    pub(super) fn read(section: &mut Section<'_>) -> Result<(String, Option<UserSecret>, Quota), Error> {
        let name = section.name("name", "")?;
        if name.len() > 63 {
            return Err(section.error("name", "longer than 63 bytes"));
        }
        let password = section.secret("password")?;
        let file = section.secret_file("password_file")?;
        let verifier = section.secret("verifier")?;
        let quota = Quota::read(section, "max_user_client_connections")?;
        let secret = match (password, file, verifier) {
            (None, None, None) if quota != Quota::default() => return Ok((name, None, quota)),
            (Some(password), None, None) if !password.is_empty() => UserSecret::Password(password.into()),
            (Some(_), None, None) => return Err(section.error("password", "must not be empty")),
            (None, Some(file), None) => UserSecret::Password(password_of(section, &file)?),
            (None, None, Some(verifier)) if is_verifier(&verifier) => UserSecret::Verifier(verifier.into()),
            (None, None, Some(_)) => {
                return Err(
                    section.error("verifier", "no verifier of the form SCRAM-SHA-256$iterations:salt$keys")
                );
            }
            _ => {
                let message = "needs one of password, password_file and verifier, or a limit";
                return Err(section.error("name", message));
            }
        };
        Ok((name, Some(secret), quota))
    }
}

/// The file's only line, without its end.
fn password_of(section: &Section<'_>, file: &std::path::Path) -> Result<Arc<str>, Error> {
    let bytes = pem::read(file).map_err(|why| section.error("password_file", why))?;
    let text = String::from_utf8(bytes);
    let text =
        text.map_err(|_why| section.error("password_file", format!("{} is not UTF-8", file.display())))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.contains(['\n', '\0']) {
        let message = format!("{} must hold the password as its only line", file.display());
        return Err(section.error("password_file", message));
    }
    Ok(line.into())
}

/// Whether this has the shape of `pg_authid.rolpassword` for SCRAM-SHA-256 (PostgreSQL's catalog chapter):
/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, salt and keys in base64.
fn is_verifier(text: &str) -> bool {
    let parts = || {
        let (head, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        let bytes = |part: &str| STANDARD.decode(part).ok().map(|bytes| bytes.len());
        Some((iterations.parse::<u32>().ok()?, bytes(salt)?, bytes(stored)?, bytes(server)?))
    };
    parts().is_some_and(|(iterations, salt, stored, server)| {
        iterations > 0 && salt > 0 && stored == 32 && server == 32
    })
}
