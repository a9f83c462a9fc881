//! `route --database`: what a database's own catalog says of its functions.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use axum::http::Uri;
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::super::runtime;
use crate::backend::{ClientTls, Credentials, Secret, Server};
use crate::config::{Config, Tls, TlsMode};
use crate::control::{CatalogQuestions, open_catalog, read_catalog};
use crate::scram::Password;
use crate::sql::{self, Functions};

/// How long connecting, and each question, may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Where `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…` points.
struct Url {
    host: String,
    port: u16,
    user: String,
    password: Option<Zeroizing<String>>,
    database: String,
    mode: Option<TlsMode>,
    ca: Option<PathBuf>,
}

/// `functions` with what the database says of its own. The password is the URL's, that of the file, or `PGPASSWORD`.
pub(super) fn ask(
    url: &str,
    password_file: Option<&Path>,
    config: &Config,
    functions: Functions,
) -> anyhow::Result<Functions> {
    // The URL may hold a password: no message shows it.
    let url = Url::parse(url).context("--database")?;
    let password = match (url.password, password_file) {
        (Some(password), _) => Some(password),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            Some(Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned()))
        }
        (None, None) => std::env::var("PGPASSWORD").ok().map(Zeroizing::new),
    };
    let secret =
        password.map_or(Secret::None, |password| Secret::Password(Arc::new(Password::new(&password))));
    let server_mode = url.mode.unwrap_or(config.tls.server_mode);
    let server_ca = url.ca.or_else(|| config.tls.server_ca.clone());
    ensure!(
        !matches!(server_mode, TlsMode::VerifyCa | TlsMode::VerifyFull) || server_ca.is_some(),
        "--database: that sslmode needs sslrootcert"
    );
    let tls = ClientTls::new(&Tls { server_mode, server_ca, ..config.tls.clone() }, None)?;
    let server = Server {
        host: &url.host,
        port: url.port,
        tls: &tls,
        keep_alive: &config.limits.keep_alive,
        timeout: TIMEOUT,
    };
    let credentials = Credentials { user: url.user.into(), secret };
    let asked = CatalogQuestions { revision: sql::revision(), questions: sql::questions().into() };
    let found = runtime()?.block_on(async {
        let mut client = open_catalog(&server, &credentials, &url.database, TIMEOUT).await?;
        read_catalog(&mut client, &asked, None, false).await
    });
    let found = found.with_context(|| format!("{}:{}", url.host, url.port))?;
    let answers = found.answers.unwrap_or_default();
    functions.with_answers(&answers).context("the catalog's answers can't be read")
}

impl Url {
    fn parse(text: &str) -> anyhow::Result<Self> {
        const SHAPE: &str = "expected postgres://user@host:port/database";
        let uri: Uri = text.parse().ok().context(SHAPE)?;
        ensure!(matches!(uri.scheme_str(), Some("postgres" | "postgresql")), SHAPE);
        let authority = uri.authority().context(SHAPE)?;
        let (user, password) = match authority.as_str().rsplit_once('@').map(|(login, _host)| login) {
            Some(login) => match login.split_once(':') {
                Some((user, password)) => (decoded(user)?, Some(Zeroizing::new(decoded(password)?))),
                None => (decoded(login)?, None),
            },
            None => bail!("names no user: {SHAPE}"),
        };
        let database = match uri.path().trim_start_matches('/') {
            "" => user.clone(),
            name => decoded(name)?,
        };
        let mut url = Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(5432),
            user,
            password,
            database,
            mode: None,
            ca: None,
        };
        for (key, value) in uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='))
        {
            match key {
                "sslmode" => url.mode = Some(mode(value)?),
                "sslrootcert" => url.ca = Some(decoded(value)?.into()),
                // What libpq understands beyond that says nothing of the catalog.
                _ => {}
            }
        }
        Ok(url)
    }
}

fn mode(word: &str) -> anyhow::Result<TlsMode> {
    Ok(match word {
        "disable" => TlsMode::Disable,
        "allow" | "prefer" => TlsMode::Prefer,
        "require" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyCa,
        "verify-full" => TlsMode::VerifyFull,
        _ => bail!("unknown sslmode {word:?}"),
    })
}

fn decoded(text: &str) -> anyhow::Result<String> {
    Ok(percent_decode_str(text).decode_utf8().context("not UTF-8")?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = Url::parse("postgres://a%40b:p%3Aw@[::1]:6543/my%20db?sslmode=require&connect_timeout=3")
            .unwrap();
        assert_eq!((&*url.host, url.port, &*url.user, &*url.database), ("::1", 6543, "a@b", "my db"));
        assert_eq!(
            (url.password.as_ref().map(|word| word.as_str()), url.mode),
            (Some("p:w"), Some(TlsMode::Require))
        );
        let url = Url::parse("postgresql://me@db.example").unwrap();
        assert_eq!((&*url.host, url.port, &*url.database, url.password), ("db.example", 5432, "me", None));
        for wrong in
            ["", "http://a@b/c", "postgres://host/db", "postgres://a:secret@b/c?sslmode=maybe", "a:secret@b"]
        {
            let error = Url::parse(wrong).map(|_| ()).unwrap_err();
            assert!(!format!("{error:#}").contains("secret"), "{wrong}: {error:#}");
        }
    }
}
