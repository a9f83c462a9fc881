//! `demo`: a local cluster and the proxy before it, until Ctrl-C.

use anyhow::bail;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) fn run(_arguments: &Arguments) -> anyhow::Result<()> {
    bail!("demo: not there yet")
}
