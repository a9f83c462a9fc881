//! The program: everything is in the library, see [`pg_ha_proxy::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    pg_ha_proxy::cli::main()
}
