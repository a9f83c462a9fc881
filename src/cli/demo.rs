//! `demo`: a local cluster and the proxy before it, until Ctrl-C.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::cluster::stop_signal;
use super::{logging, print};
use crate::cluster::{Cluster, Options, Server, Status, default_dir};
use crate::config::Config;
use crate::run::Proxy;

/// How long the proxy may take to find the primary of a cluster that is up.
const READY: Duration = Duration::from_secs(30);

/// `demo`'s arguments.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The proxy's port on the loopback
    #[arg(long, default_value_t = 6432)]
    port: u16,
    /// The port of its HTTP side
    #[arg(long, default_value_t = 9187)]
    admin_port: u16,
    /// Number of members
    #[arg(long, default_value_t = 3)]
    members: usize,
}

/// Starts the cluster, then the proxy in this process, prints the psql line and waits for SIGINT or SIGTERM. The
/// cluster takes `pg-ha-proxy cluster status|kill|switchover|…` meanwhile.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(demonstrate(arguments))
}

async fn demonstrate(arguments: &Arguments) -> anyhow::Result<()> {
    let mut stop = std::pin::pin!(stop_signal()?);
    print(format!("starting a cluster of {} members …\n", arguments.members))?;
    let options = Options { members: arguments.members, dir: Some(default_dir()), ..Options::default() };
    let cluster = tokio::select! {
        cluster = Cluster::up(options) => cluster?,
        () = &mut stop => bail!("interrupted"),
    };
    let server = Server::listen(&cluster)?;
    let status = cluster.status().await;
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut text = proxy_toml(&status, loopback(arguments.port), loopback(arguments.admin_port));
    text.push_str("\n[limits]\n# Ctrl-C waits no longer for open transactions.\ndrain_timeout = \"2s\"\n");
    let path = cluster.dir().join("proxy.toml");
    std::fs::write(&path, &text).with_context(|| path.display().to_string())?;
    let proxy = start(&text, &path)?;
    tokio::select! {
        ready = ready(&proxy) => ready?,
        () = &mut stop => bail!("interrupted"),
    }
    print(greeting(&status, arguments, &path))?;
    let mut proxy = Some(proxy);
    // The proxy first, so that it doesn't report the end of its cluster as a failure.
    let stop = async {
        stop.await;
        if let Err(why) = end(proxy.take()).await {
            tracing::error!("{why:#}");
        }
    };
    let served = server.serve(cluster, stop).await;
    // Ended by `cluster down`: the proxy still runs.
    end(proxy).await?;
    Ok(served?)
}

/// Waits until the proxy serves a primary: it checks even a healthy one before it believes in it.
async fn ready(proxy: &Proxy) -> anyhow::Result<()> {
    let mut topology = proxy.shared().topology.clone();
    let served = topology.wait_for(|topology| topology.primary().is_some());
    tokio::time::timeout(READY, served).await.context("the proxy found no primary")??;
    Ok(())
}

async fn end(proxy: Option<Proxy>) -> anyhow::Result<()> {
    match proxy {
        Some(proxy) => tokio::task::spawn_blocking(move || proxy.stop()).await?,
        None => Ok(()),
    }
}

fn start(text: &str, path: &Path) -> anyhow::Result<Proxy> {
    let config = Config::parse(text, path)?;
    let set_level = logging::start(&config.log)?;
    Proxy::start(config, path, set_level)
}

/// A proxy.toml for a local cluster: its etcd, its CA, the client certificates of the proxy's two roles.
pub fn proxy_toml(status: &Status, listen: SocketAddr, admin: SocketAddr) -> String {
    let quoted = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
    let endpoints = toml::Value::from(status.etcd.endpoints.clone());
    let mut text = format!(
        "[listen]\naddress = \"{listen}\"\n\n[tls]\nserver_mode = \"verify-full\"\nserver_ca = {ca}\n\n\
         [topology]\netcd_endpoints = {endpoints}\nnamespace = \"{namespace}\"\nscope = \"{scope}\"\n\n\
         [admin]\naddress = \"{admin}\"\nusers = {users}\n\n[log]\nlevel = \"warn\"\n\n[auth]\n",
        ca = quoted(&status.ca),
        users = toml::Value::from(vec![status.app.clone()]),
        namespace = status.namespace,
        scope = status.scope,
    );
    for (key, role) in [("lookup", "pgha_lookup"), ("monitor", "pgha_monitor")] {
        if let Some((certificate, private)) = status.client_certificates.get(role) {
            // Writing to a String can't fail.
            let _infallible = writeln!(
                text,
                "{key}_certificate = {}\n{key}_key = {}",
                quoted(certificate),
                quoted(private)
            );
        }
    }
    text
}

fn greeting(status: &Status, arguments: &Arguments, path: &Path) -> String {
    let Arguments { port, admin_port, .. } = arguments;
    let program = std::env::args_os().next().map_or("pg-ha-proxy".into(), PathBuf::from);
    let program = program.display();
    let (app, password, bin) = (&status.app, status.app_password.reveal(), status.postgres_bin.display());
    format!(
        "\nThe proxy takes connections:\n\n    PGPASSWORD={password} {bin}/psql -h 127.0.0.1 -p {port} -U {app} {app}\n\n\
         page for people   http://127.0.0.1:{admin_port}/\nconfiguration     {}\n\
         break something   {program} cluster kill {}, {program} cluster switchover\n\nCtrl-C ends all of it.\n",
        path.display(),
        status.leader.as_deref().unwrap_or("pg-node-1"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{EtcdStatus, Secret};
    use crate::config::{Source, TlsMode};

    /// A cluster's status with one self-signed certificate for everything, in `dir`.
    fn status(dir: &Path) -> Status {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (certificate, key) = (dir.join("a \"quoted\" name.crt"), dir.join("a.key"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let roles = ["pgha_lookup", "pgha_monitor"];
        Status {
            scope: "a-scope".to_owned(),
            namespace: "/n".to_owned(),
            dir: dir.to_owned(),
            supervisor_pid: 1,
            etcd: EtcdStatus {
                endpoints: vec!["http://127.0.0.1:4711".to_owned()],
                running: true,
                pid: None,
            },
            leader: None,
            members: Vec::new(),
            superuser_dsn: Secret::from("a secret"),
            app: "app".to_owned(),
            app_password: Secret::from("a secret"),
            app_dsn: Secret::from("a secret"),
            ca: certificate.clone(),
            client_certificates: roles
                .map(|role| (role.to_owned(), (certificate.clone(), key.clone())))
                .into(),
            postgres_bin: PathBuf::new(),
        }
    }

    #[test]
    fn a_clusters_proxy_toml_is_good() {
        let folder = tempfile::tempdir().unwrap();
        let status = status(folder.path());
        let text = proxy_toml(&status, "127.0.0.1:7000".parse().unwrap(), "127.0.0.1:7001".parse().unwrap());
        assert!(!text.contains("a secret"));
        let config = Config::parse(&text, &folder.path().join("proxy.toml")).unwrap();
        assert_eq!(config.listen.addresses, ["127.0.0.1:7000".parse().unwrap()]);
        assert_eq!(config.admin.address, Some("127.0.0.1:7001".parse().unwrap()));
        assert_eq!(
            (config.tls.server_mode, config.tls.server_ca),
            (TlsMode::VerifyFull, Some(status.ca.clone()))
        );
        assert_eq!(config.auth.lookup_certificate, status.client_certificates.get("pgha_lookup").cloned());
        assert_eq!(config.auth.monitor_certificate, status.client_certificates.get("pgha_monitor").cloned());
        let Source::Etcd(etcd) = config.topology.source else { panic!("not etcd") };
        assert_eq!((&*etcd.scope, &*etcd.namespace), ("a-scope", "/n"));
        assert_eq!(etcd.endpoints, status.etcd.endpoints);
    }
}
