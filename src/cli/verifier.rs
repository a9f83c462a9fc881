//! `verifier`: a password into what `[[users]] verifier` takes, so that no password stands in a file.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context, bail, ensure};
use clap::Args;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::print;
use crate::scram::{DEFAULT_ITERATIONS, MAX_ITERATIONS, Verifier};

/// The longest password that is taken, in bytes: PostgreSQL's own limit on a password message is 1,024 for libpq.
const LONGEST: usize = 1024;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Rounds of PBKDF2: PostgreSQL's scram_iterations
    #[arg(long, default_value_t = DEFAULT_ITERATIONS, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_ITERATIONS)))]
    iterations: u32,
}

/// Asks for the password, twice at a terminal; from a pipe it is the first line.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let password = if io::stdin().is_terminal() { ask()? } else { line()? };
    ensure!(!password.is_empty(), "an empty password");
    let verifier = Verifier::from_password(&password, rand::random(), arguments.iterations);
    print(verifier.to_secret_string() + "\n")
}

fn ask() -> anyhow::Result<Zeroizing<String>> {
    let _silent = Silent::begin()?;
    let prompt = |text: &str| -> anyhow::Result<Zeroizing<String>> {
        write!(io::stderr(), "{text}: ")?;
        let password = line();
        writeln!(io::stderr())?;
        password
    };
    let password = prompt("Password")?;
    if *prompt("Again")? != *password {
        bail!("the two differ");
    }
    Ok(password)
}

fn line() -> anyhow::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::with_capacity(LONGEST + 2));
    let mut input = io::Read::take(io::stdin().lock(), (LONGEST + 2) as u64);
    input.read_line(&mut line).context("the password is not UTF-8 text")?;
    for end in ['\n', '\r'] {
        if line.ends_with(end) {
            line.pop();
        }
    }
    ensure!(line.len() <= LONGEST, "the password is longer than {LONGEST} bytes");
    Ok(line)
}

/// Standard input without echo, until this is dropped.
struct Silent(Termios);

impl Silent {
    fn begin() -> anyhow::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // If it can't be set back there is nobody to tell.
        let _unheard = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.0);
    }
}
