//! `route`: where SQL would run, and why.

use anyhow::bail;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The SQL; without it, standard input is read
    sql: Option<String>,
    /// One JSON string a line in, one object a line out: sql, route, vector, reason
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let _ = (&arguments.sql, arguments.json);
    bail!("route: not there yet")
}
