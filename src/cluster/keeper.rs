//! Programs under a keeper: a small process that is the ancestor of all that a program starts, and that ends all of
//! it when we are gone. `keeper.py` says how.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::runtime::Runtime;
use super::{Error, processes};

/// The keeper's text, written into the cluster's folder when it is made.
pub(super) const SOURCE: &str = include_str!("keeper.py");
/// Its name there.
pub(super) const FILE: &str = "keeper.py";

/// A program to run under a keeper.
pub(super) struct Program<'a> {
    /// The cluster's folder, which holds the keeper's text and becomes the working folder and the home.
    pub(super) dir: &'a Path,
    /// The program and its arguments.
    pub(super) command: Vec<PathBuf>,
    /// PostgreSQL's data folder, if the program runs one.
    pub(super) pgdata: Option<&'a Path>,
    /// Where its output goes, behind what is there.
    pub(super) log: PathBuf,
    /// Whether the cluster's folder goes when the supervisor dies.
    pub(super) remove: bool,
}

/// A running keeper. Dropping it makes it end what it keeps, without waiting for that.
#[derive(Debug)]
pub(super) struct Keeper {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Keeper {
    /// Starts a program as the members' user.
    pub(super) fn start(runtime: &Runtime, program: &Program<'_>) -> Result<Self, Error> {
        let what = || program.log.display().to_string();
        let log =
            OpenOptions::new().create(true).append(true).open(&program.log).map_err(Error::io(what()))?;
        let errors = log.try_clone().map_err(Error::io(what()))?;
        let mut command = Command::new(runtime.python());
        command.args(["-I", "-S"]).arg(program.dir.join(FILE));
        if let Some(pgdata) = program.pgdata {
            command.arg("--pgdata").arg(pgdata);
        }
        if program.remove {
            command.arg("--remove").arg(program.dir);
        }
        command.arg("--").args(&program.command);
        environment(&mut command, runtime, program.dir);
        command.stdin(Stdio::piped()).stdout(log).stderr(errors);
        // A group of its own: Ctrl-C in the terminal is for the supervisor, which ends its cluster in order.
        command.process_group(0);
        if let Some(user) = runtime.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let mut child = command.spawn().map_err(Error::io(runtime.python().display().to_string()))?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// The keeper's process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The program and all that descends from it, parents first.
    pub(super) fn descendants(&self) -> Vec<u32> {
        processes::descendants(self.child.id())
    }

    /// Whether the keeper has ended, and with it all that it kept.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks the keeper to end everything at once.
    pub(super) fn end(&mut self) {
        self.pipe = None;
    }

    /// Ends what a keeper that would not end, or was killed itself, has left.
    pub(super) fn kill(&mut self) {
        self.pipe = None;
        processes::signal_descendants(self.child.id(), nix::sys::signal::Signal::SIGKILL);
        // It may have ended by now, which is what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nothing of ours but a way to programs, a home and a locale: PG*, PATRONI_* and PYTHON* would change what runs.
fn environment(command: &mut Command, runtime: &Runtime, dir: &Path) {
    command.env_clear().current_dir(dir).env("HOME", dir).env("LANG", "C.UTF-8");
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("PYTHONUNBUFFERED", "1");
    // PostgreSQL's programs find their libpq by themselves; the module that receives WAL does not.
    command.env("LD_LIBRARY_PATH", runtime.postgres_lib());
    if cfg!(target_arch = "aarch64") {
        command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
    }
}
