//! `cluster`: the local cluster from the command line.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::{Cluster, How, Options, Request, Server, Status, ask, default_dir};

/// Start, look at, break and end a local cluster: real etcd, Patroni and PostgreSQL as processes of this machine.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a cluster; it ends with this command, or by `down` with --detach
    Up(Up),
    /// End the cluster
    Down(At),
    /// Show members, ports and processes
    Status {
        /// As JSON, with passwords
        #[arg(long)]
        json: bool,
        /// Which cluster
        #[command(flatten)]
        at: At,
    },
    /// Break a member, or mend it
    Kill {
        /// The member, such as pg-node-1
        member: String,
        /// What to do to it
        #[arg(long, value_enum, default_value_t = How::Member)]
        how: How,
        /// Which cluster
        #[command(flatten)]
        at: At,
    },
    /// Start a member that is dead
    Start {
        /// The member, such as pg-node-1
        member: String,
        /// Which cluster
        #[command(flatten)]
        at: At,
    },
    /// Hand the lead over to another member
    Switchover {
        /// The new leader; Patroni chooses if none is given
        #[arg(long)]
        to: Option<String>,
        /// Which cluster
        #[command(flatten)]
        at: At,
    },
    /// Stop, start or compact etcd
    Etcd {
        /// What to do
        action: EtcdAction,
        /// Which cluster
        #[command(flatten)]
        at: At,
    },
}

/// Which cluster is meant.
#[derive(Debug, Clone, Args)]
pub struct At {
    /// The cluster's folder [default: one for each user]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// How to start a cluster.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Up {
    /// Number of members
    #[arg(long, default_value_t = 3)]
    members: usize,
    /// Go on in the background
    #[arg(long)]
    detach: bool,
    /// Patroni's ttl: how long a dead leader's key stands
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Patroni's loop_wait
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    loop_wait: Duration,
    /// Patroni's retry_timeout
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    retry_timeout: Duration,
    /// Replicate asynchronously
    #[arg(long)]
    asynchronous: bool,
    /// Patroni's failsafe_mode: the primary stays while etcd is away
    #[arg(long)]
    failsafe: bool,
    /// No relays before the members: quicker, but no member can be partitioned
    #[arg(long)]
    no_relays: bool,
    /// A setting of PostgreSQL for all members; can be given again
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    parameters: Vec<(String, String)>,
    /// The cluster's folder, which stays when the cluster ends [default: one for each user, removed at the end]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// What to do to etcd.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum EtcdAction {
    /// kill -9
    Stop,
    /// Start it on its data
    Start,
    /// Throw its history away
    Compact,
}

impl At {
    fn dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(default_dir)
    }
}

impl Up {
    fn dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(default_dir)
    }

    fn options(&self) -> Options {
        Options {
            members: self.members,
            dir: Some(self.dir()),
            keep: self.dir.is_some(),
            ttl: self.ttl,
            loop_wait: self.loop_wait,
            retry_timeout: self.retry_timeout,
            synchronous: !self.asynchronous,
            failsafe: self.failsafe,
            relays: !self.no_relays,
            parameters: self.parameters.iter().cloned().collect(),
            ..Options::default()
        }
    }
}

/// Does what the command says.
///
/// # Errors
/// One line for the user: the cluster could not be started or found, or it refused.
pub async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(up) if up.detach => detach(&up).await,
        Command::Up(up) => foreground(&up).await,
        Command::Down(at) => request(&at, &Request::Down).await.map(drop),
        Command::Status { json, at } => {
            let status = request(&at, &Request::Status).await?;
            let text = if json {
                serde_json::to_string_pretty(&status)?
            } else {
                table(&serde_json::from_value(status)?)
            };
            say(&text)
        }
        Command::Kill { member, how, at } => request(&at, &Request::Kill { member, how }).await.map(drop),
        Command::Start { member, at } => {
            request(&at, &Request::Kill { member, how: How::Start }).await.map(drop)
        }
        Command::Switchover { to, at } => {
            let leader = request(&at, &Request::Switchover { to }).await?;
            say(&format!("{} leads", leader.as_str().unwrap_or("another member")))
        }
        Command::Etcd { action: EtcdAction::Stop, at } => request(&at, &Request::EtcdStop).await.map(drop),
        Command::Etcd { action: EtcdAction::Start, at } => request(&at, &Request::EtcdStart).await.map(drop),
        Command::Etcd { action: EtcdAction::Compact, at } => {
            let revision = request(&at, &Request::EtcdCompact).await?;
            say(&format!("compacted up to revision {revision}"))
        }
    }
}

async fn request(at: &At, request: &Request) -> anyhow::Result<serde_json::Value> {
    Ok(ask(&at.dir(), request).await?)
}

async fn foreground(up: &Up) -> anyhow::Result<()> {
    let mut stop = std::pin::pin!(stop_signal()?);
    say(&format!("starting a cluster of {} in {}", up.members, up.dir().display()))?;
    let cluster = tokio::select! {
        cluster = Cluster::up(up.options()) => cluster?,
        () = &mut stop => bail!("interrupted"),
    };
    let server = Server::listen(&cluster)?;
    say(&table(&cluster.status().await))?;
    server.serve(cluster, stop).await?;
    Ok(())
}

/// Ready at the first SIGINT, SIGTERM or SIGHUP.
pub(super) fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}

/// Starts the same command without --detach in a session of its own, and waits until it answers.
async fn detach(up: &Up) -> anyhow::Result<()> {
    let dir = up.dir();
    if ask(&dir, &Request::Status).await.is_ok() {
        bail!("a cluster runs in {} already", dir.display());
    }
    let log = std::env::temp_dir().join(format!("pg-ha-proxy-cluster-{}.log", std::process::id()));
    let output = std::fs::File::create_new(&log).with_context(|| log.display().to_string())?;
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--detach");
    let mut process = Process::new(std::env::current_exe()?);
    process.args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
    let mut child = process.spawn().context("the cluster's process")?;
    let outcome = loop {
        if child.try_wait()?.is_some() {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
            break Err(anyhow::anyhow!(
                "{}",
                last.trim_start_matches("Error: ").trim_start_matches("error: ")
            ));
        }
        if let Ok(status) = ask(&dir, &Request::Status).await {
            break Ok(status);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    remove(&log);
    say(&table(&serde_json::from_value(outcome?)?))
}

fn remove(log: &Path) {
    // It is among the temporary files: nothing is lost if it stays.
    let _ = std::fs::remove_file(log);
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn table(status: &Status) -> String {
    let mut lines =
        vec![format!("{:<11} {:<10} {:<10} {:<17} {}", "member", "role", "state", "address", "notes")];
    for member in &status.members {
        let notes = [
            (member.streaming, "streams"),
            (member.synchronous, "synchronous"),
            (member.partitioned, "partitioned"),
        ];
        let notes: Vec<_> = notes.into_iter().filter_map(|(holds, note)| holds.then_some(note)).collect();
        let address = format!("{}:{}", member.host, member.port);
        let (name, role, state, notes) = (&member.name, &member.role, &member.state, notes.join(", "));
        lines.push(format!("{name:<11} {role:<10} {state:<10} {address:<17} {notes}").trim_end().to_owned());
    }
    let etcd = if status.etcd.running { "" } else { " (does not answer)" };
    lines.push(format!("etcd        {}{etcd}", status.etcd.endpoints.join(", ")));
    lines.push(format!("folder      {}", status.dir.display()));
    lines.push(format!("psql        {}", status.app_dsn.reveal()));
    lines.join("\n")
}

#[expect(clippy::print_stdout, reason = "what the user asked for")]
fn say(text: &str) -> anyhow::Result<()> {
    println!("{text}");
    Ok(std::io::stdout().flush()?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn takes_what_the_readme_says() {
        let parse = |line: &str| Line::try_parse_from(line.split(' ')).map(|line| line.command);
        for line in ["x status --json", "x start pg-node-2", "x etcd compact", "x switchover --to pg-node-2"]
        {
            assert!(parse(line).is_ok(), "{line}");
        }
        let Ok(Command::Up(up)) = parse("x up --members 2 --set work_mem=8MB --dir /d") else { panic!("up") };
        let options = up.options();
        assert_eq!((options.members, options.keep), (2, true));
        assert_eq!(options.parameters["work_mem"], "8MB");
        let Ok(Command::Kill { how, .. }) = parse("x kill pg-node-1 --how freeze-patroni") else {
            panic!("kill")
        };
        assert_eq!(how, How::FreezePatroni);
        assert!(parse("x kill pg-node-1 --how nicely").is_err() && parse("x up --set work_mem").is_err());
    }
}
