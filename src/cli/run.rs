//! `run`: the proxy itself.

use clap::Args;

use super::{ConfigFile, logging};
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config = Config::load(&arguments.file.config)?;
    let set_level = logging::start(&config.log)?;
    crate::run::run(config, &arguments.file.config, set_level)
}
