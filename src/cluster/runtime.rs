//! Where the programs of the cluster are, and who runs them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User};

use super::Error;

/// Names the folder of the programs where it is not found by itself.
const VARIABLE: &str = "PGHA_RUNTIME";
/// The user that members run as when we are root; PostgreSQL does not run as root.
const MEMBER_USER: &str = "pgha";

/// The programs that `scripts/setup` put in place.
#[derive(Debug, Clone)]
pub struct Runtime {
    root: PathBuf,
    /// Whom the members run as; `None` for the user we are.
    pub(super) user: Option<MemberUser>,
}

/// A user other than the one we are.
#[derive(Debug, Clone, Copy)]
pub(super) struct MemberUser {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
}

impl Runtime {
    /// Looks in `PGHA_RUNTIME`, then for `.local/runtime` above the program and above the working folder, then in
    /// `/var/lib/pg-ha-proxy`.
    ///
    /// # Errors
    /// [`Error::Missing`] with what `make setup` would put in place.
    pub fn find() -> Result<Self, Error> {
        let user = member_user()?;
        let root = candidates()
            .into_iter()
            .find(|root| root.join("stamp").is_file() && root.join("bin/python").is_file())
            .ok_or_else(|| Error::Missing("Patroni and PostgreSQL are not set up".to_owned()))?;
        let root = root.canonicalize().map_err(Error::io(root.display().to_string()))?;
        let runtime = Self { root, user };
        if let Some(folder) = runtime.unreachable(&runtime.root) {
            let text =
                format!("the user {MEMBER_USER} can't reach the programs through {}", folder.display());
            return Err(Error::Missing(text));
        }
        Ok(runtime)
    }

    /// The Python interpreter that has Patroni.
    pub fn python(&self) -> PathBuf {
        self.root.join("bin/python")
    }

    /// etcd.
    pub fn etcd(&self) -> PathBuf {
        self.root.join("bin/etcd")
    }

    /// The folder of PostgreSQL's programs: `postgres`, `psql`, `pgbench` and the rest.
    pub fn postgres_bin(&self) -> PathBuf {
        self.root.join("pgsql/bin")
    }

    /// The folder of PostgreSQL's libraries.
    pub(super) fn postgres_lib(&self) -> PathBuf {
        self.root.join("pgsql/lib")
    }

    /// The first folder on the way to `path` that the members' user can't pass.
    pub(super) fn unreachable(&self, path: &Path) -> Option<PathBuf> {
        let user = self.user?;
        let mut way: Vec<&Path> = path.ancestors().collect();
        way.reverse();
        way.into_iter().find(|folder| !may_pass(folder, user)).map(Path::to_path_buf)
    }
}

fn may_pass(folder: &Path, user: MemberUser) -> bool {
    let Ok(meta) = folder.metadata() else { return true };
    let bit = if meta.uid() == user.uid.as_raw() {
        0o100
    } else if meta.gid() == user.gid.as_raw() {
        0o010
    } else {
        0o001
    };
    meta.mode() & bit != 0
}

fn member_user() -> Result<Option<MemberUser>, Error> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    match User::from_name(MEMBER_USER) {
        Ok(Some(user)) => Ok(Some(MemberUser { uid: user.uid, gid: user.gid })),
        _ => {
            Err(Error::Missing(format!("the user {MEMBER_USER}, which members run as for root, is missing")))
        }
    }
}

fn candidates() -> Vec<PathBuf> {
    let above = |path: Option<PathBuf>| -> Vec<PathBuf> {
        path.iter().flat_map(|path| path.ancestors()).map(|folder| folder.join(".local/runtime")).collect()
    };
    let mut roots: Vec<PathBuf> = std::env::var_os(VARIABLE).map(PathBuf::from).into_iter().collect();
    roots.extend(above(std::env::current_exe().ok()));
    roots.extend(above(std::env::current_dir().ok()));
    roots.push(PathBuf::from("/var/lib/pg-ha-proxy/runtime"));
    roots
}
