//! `check`: is this configuration good, and do the servers that it names answer?

mod online;

use std::fmt::Write;

use anyhow::bail;
use clap::Args;

use super::{ConfigFile, print, runtime};
use crate::cluster::ROLES_SQL;
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Also connect to etcd and to the members
    #[arg(long)]
    online: bool,
    /// Print the SQL that makes the roles and the function which the proxy logs in with
    #[arg(long, conflicts_with = "online")]
    print_sql: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.print_sql {
        return print(ROLES_SQL);
    }
    let config = Config::load(&arguments.file.config)?;
    print(format!("{}: good\n", arguments.file.config.display()))?;
    if arguments.online { report(&runtime()?.block_on(online::check(&config))) } else { Ok(()) }
}

/// Prints what was found, one line each; an error when something didn't answer.
fn report(findings: &[online::Finding]) -> anyhow::Result<()> {
    let mut text = String::new();
    for finding in findings {
        match &finding.result {
            Ok(what) => writeln!(text, "{}: {what}", finding.server)?,
            Err(why) => writeln!(text, "{}: FAILED: {why}", finding.server)?,
        }
    }
    print(text)?;
    match findings.iter().filter(|finding| finding.result.is_err()).count() {
        0 => Ok(()),
        failed => bail!("{failed} of {} checks failed", findings.len()),
    }
}
