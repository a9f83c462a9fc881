//! The servers behind a configuration, asked one by one.
//!
//! What is asked now is whether they take connections. Logging in to members and reading Patroni's keys belong here too,
//! through `backend` and `control`, in [`etcd`] and [`member`].

use std::time::Duration;

use tokio::net::TcpStream;

use crate::config::{Config, Source};

/// What one server said.
pub(super) struct Finding {
    /// Which: `etcd http://…`, `member host:port`.
    pub(super) server: String,
    /// In words.
    pub(super) result: Result<String, String>,
}

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &config.topology.source {
        Source::Etcd(etcd) => {
            for endpoint in &etcd.endpoints {
                let result = check_etcd(endpoint, etcd.timeout).await;
                findings.push(Finding { server: format!("etcd {endpoint}"), result });
            }
        }
        Source::Static(members) => {
            for (host, port) in members {
                let result = connect(&format!("{host}:{port}"), config.topology.monitor_timeout).await;
                findings.push(Finding { server: format!("member {host}:{port}"), result });
            }
        }
    }
    findings
}

async fn check_etcd(endpoint: &str, timeout: Duration) -> Result<String, String> {
    let authority = endpoint.split_once("://").map_or(endpoint, |(_scheme, rest)| rest);
    connect(authority.trim_end_matches('/'), timeout).await
}

async fn connect(authority: &str, timeout: Duration) -> Result<String, String> {
    match tokio::time::timeout(timeout, TcpStream::connect(authority)).await {
        Ok(Ok(_stream)) => Ok("takes connections".to_owned()),
        Ok(Err(why)) => Err(why.to_string()),
        Err(_elapsed) => Err(format!("no answer within {}", humantime::format_duration(timeout))),
    }
}
