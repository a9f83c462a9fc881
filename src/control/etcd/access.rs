//! How etcd is reached: endpoints in turn, timeouts, keep-alive, credentials.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};

use crate::config::EtcdSource;
use crate::control::Error;

/// An idle connection is asked whether it lives this often, and has that long to answer. etcd refuses more than one in 5 s.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(2));

/// Endpoints and what they ask for. Its `Debug` shows no secret: files are read when a connection is opened.
#[derive(Debug)]
pub(super) struct Access {
    endpoints: Vec<Arc<str>>,
    user: Option<(String, PathBuf)>,
    ca: Option<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
    timeout: Duration,
}

impl Access {
    /// Checks that there is an endpoint, and that the files can be read now.
    pub(super) fn new(source: &EtcdSource) -> Result<Self, Error> {
        if source.endpoints.is_empty() {
            return Err(Error::NoEndpoint);
        }
        let access = Self {
            endpoints: source.endpoints.iter().map(|endpoint| endpoint.as_str().into()).collect(),
            user: source.user.clone(),
            ca: source.ca.clone(),
            certificate: source.certificate.clone(),
            timeout: source.timeout,
        };
        access.options("")?;
        Ok(access)
    }

    pub(super) fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// The endpoint whose turn it is.
    pub(super) fn endpoint(&self, turn: usize) -> Arc<str> {
        self.endpoints[turn % self.endpoints.len()].clone()
    }

    /// How long one request may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Opens a client of one endpoint; logs in where a user is given.
    pub(super) async fn connect(&self, endpoint: &str) -> Result<Client, super::Trouble> {
        let options = self.options(endpoint)?;
        Ok(Client::connect([endpoint], Some(options)).await?)
    }

    fn options(&self, endpoint: &str) -> Result<ConnectOptions, Error> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.timeout)
            .with_timeout(self.timeout)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((user, file)) = &self.user {
            let password = read(file)?;
            options = options.with_user(user.clone(), password.trim_end_matches(['\r', '\n']));
        }
        let mut tls = TlsOptions::new();
        if let Some(ca) = &self.ca {
            tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let Some((certificate, key)) = &self.certificate {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        // TLS options with a plain endpoint are an error of the client's.
        let plain = endpoint.starts_with("http://");
        if (self.ca.is_some() || self.certificate.is_some()) && !plain {
            options = options.with_tls(tls);
        }
        Ok(options)
    }
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|why| Error::File { path: path.to_owned(), why })
}
