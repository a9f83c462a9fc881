//! The command line: one file a subcommand.
//!
//! Each takes its arguments, does its work through the folders below and prints for people or, with `--json`, for
//! programs. An error goes up to [`main`], which prints it on one line.

mod check;
pub mod cluster;
pub mod demo;
mod http;
mod logging;
mod route;
mod run;
mod status;
mod table;
mod verifier;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

/// One port in front of a Patroni-run PostgreSQL cluster.
#[derive(Debug, Parser)]
#[command(name = "pg-ha-proxy", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy
    Run(run::Arguments),
    /// Try a configuration, and the servers it names
    Check(check::Arguments),
    /// Say where SQL would run, and why
    Route(route::Arguments),
    /// Show what a running proxy sees
    Status(status::Arguments),
    /// Make a SCRAM verifier of a password, for [[users]]
    Verifier(verifier::Arguments),
    /// Start, look at, break and end a local cluster of real etcd, Patroni and PostgreSQL
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Start a local cluster and the proxy before it
    Demo(demo::Arguments),
    /// Print a shell's completions
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Which configuration is meant.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
    config: PathBuf,
}

/// The whole program: parses the arguments, runs the subcommand. An error is one line on standard error and exit
/// code 1; for wrong usage it is 2.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(why) => {
            // What can't be printed can't be reported either.
            drop(why.print());
            return ExitCode::from(if why.use_stderr() { 2 } else { 0 });
        }
    };
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let line = format!("{why:#}").lines().map(str::trim).collect::<Vec<_>>().join(" ");
            drop(writeln!(io::stderr(), "pg-ha-proxy: {line}"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Route(arguments) => route::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Verifier(arguments) => verifier::run(&arguments),
        // Relays and the supervisor must go on while the command waits for a member.
        Command::Cluster(command) => tokio::runtime::Runtime::new()?.block_on(cluster::run(command)),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "pg-ha-proxy", &mut text);
            print(&text)
        }
    }
}

/// Writes to standard output. A reader that has gone away (`… | head`) is no error.
fn print(text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(why) if why.kind() != io::ErrorKind::BrokenPipe => Err(why.into()),
        _ => Ok(()),
    }
}

/// A runtime for a subcommand that waits for sockets.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
