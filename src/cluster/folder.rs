//! The cluster's folder: made, entered, locked against a second supervisor, and removed.
//!
//! ```text
//! cluster.json  keeper.py  before_stop.py  keepers.lock  supervisor.lock  control.sock
//! certs/  etcd/  log/  sock/  pg-node-1/{patroni.yml, pgpass, data/} ...
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rand::RngExt;

use super::member::Place;
use super::options::Options;
use super::saved::SavedPorts;
use super::{Error, Runtime, keeper, patroni};

/// A Unix socket's path has 107 bytes at most; `/sock/.s.PGSQL.65535` is added to the folder's.
const LONGEST_PATH: usize = 107 - 21;

/// The folder of a running cluster.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    keep: bool,
    _lock: File,
}

impl Folder {
    /// Makes the folder or enters it, for this supervisor alone.
    pub(super) fn open(options: &Options, runtime: &Runtime) -> Result<Self, Error> {
        let path = match &options.dir {
            Some(dir) => std::path::absolute(dir).map_err(Error::io(dir.display().to_string()))?,
            None => fresh(),
        };
        if path.as_os_str().len() > LONGEST_PATH {
            return Err(Error::Options(format!(
                "{}: the name is too long for a Unix socket",
                path.display()
            )));
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent.display().to_string()))?;
            if let Some(closed) = runtime.unreachable(parent) {
                let text = format!("the members' user can't pass {}; choose another --dir", closed.display());
                return Err(Error::Options(text));
            }
        }
        own_folder(&path, runtime)?;
        let lock = lock(&path)?;
        let folder = Self { path, keep: options.keep, _lock: lock };
        for name in ["certs", "etcd", "log", "sock"] {
            own_folder(&folder.path.join(name), runtime)?;
        }
        own_file(&folder.path.join("keepers.lock"), b"", runtime)?;
        own_file(&folder.path.join(keeper::FILE), keeper::SOURCE.as_bytes(), runtime)?;
        own_file(&folder.path.join(patroni::BEFORE_STOP), patroni::BEFORE_STOP_SOURCE.as_bytes(), runtime)?;
        Ok(folder)
    }

    /// The folder itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where everyone's output goes.
    pub(super) fn logs(&self) -> PathBuf {
        self.path.join("log")
    }

    /// A member's place in it.
    pub(super) fn place(&self, name: &str, ports: SavedPorts, etcd_port: u16) -> Place {
        let dir = self.path.join(name);
        Place {
            name: name.to_owned(),
            data_dir: dir.join("data"),
            dir,
            socket_dir: self.path.join("sock"),
            log: self.logs().join(format!("{name}.log")),
            postgres_port: ports.postgres,
            public_postgres_port: ports.postgres_relay.unwrap_or(ports.postgres),
            api_port: ports.api,
            public_api_port: ports.api_relay.unwrap_or(ports.api),
            etcd_port: ports.etcd_relay.unwrap_or(etcd_port),
        }
    }

    /// Removes the folder, unless it stays.
    pub(super) fn close(&mut self) -> Result<(), Error> {
        if self.keep {
            return Ok(());
        }
        // A keeper may have been here first.
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(self.path.display().to_string())(error))
            }
            _ => Ok(()),
        }
    }
}

/// Makes a member's folder and writes its configuration.
pub(super) fn prepare_member(
    place: &Place,
    runtime: &Runtime,
    configuration: &serde_json::Value,
) -> Result<(), Error> {
    own_folder(&place.dir, runtime)?;
    own_file(&place.configuration(), configuration.to_string().as_bytes(), runtime)
}

fn fresh() -> PathBuf {
    std::env::temp_dir().join(format!("pg-ha-{:08x}", rand::rng().random::<u32>()))
}

/// A folder that belongs to the members' user and is closed to others.
fn own_folder(path: &Path, runtime: &Runtime) -> Result<(), Error> {
    let make = || {
        if !path.is_dir() {
            DirBuilder::new().mode(0o700).create(path)?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        give(path, runtime)
    };
    make().map_err(Error::io(path.display().to_string()))
}

/// A file that belongs to the members' user and is closed to others.
fn own_file(path: &Path, text: &[u8], runtime: &Runtime) -> Result<(), Error> {
    let make = || {
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?
            .write_all(text)?;
        give(path, runtime)
    };
    make().map_err(Error::io(path.display().to_string()))
}

fn give(path: &Path, runtime: &Runtime) -> std::io::Result<()> {
    match runtime.user {
        Some(user) => chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())),
        None => Ok(()),
    }
}

/// Held as long as the supervisor lives.
fn lock(path: &Path) -> Result<File, Error> {
    let name = path.join("supervisor.lock");
    let file = File::create(&name).map_err(Error::io(name.display().to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::State(format!("a cluster runs in {} already", path.display()))),
    }
}
