//! A real PostgreSQL for one test, as another user where this one is root, gone when dropped.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown, geteuid};
use tempfile::TempDir;

/// The superuser's password.
pub(crate) const PASSWORD: &str = "super";

/// Where `make setup` puts PostgreSQL's programs.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".local/runtime/pgsql/bin").join(name);
    assert!(path.exists(), "{} is missing: run `make setup`", path.display());
    path
}

pub(crate) struct Postgres {
    pub(crate) port: u16,
    postmaster: Child,
    _folder: TempDir,
}

impl Postgres {
    /// Makes a cluster with SCRAM for everybody, and runs `sql` in it.
    pub(crate) fn start(sql: &str) -> Self {
        Self::start_with(sql, &[], &[])
    }

    /// The same with these files in its data directory, and these settings.
    pub(crate) fn start_with(sql: &str, files: &[(&str, &str)], settings: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let owner = geteuid()
            .is_root()
            .then(|| User::from_name("pgha").unwrap().expect("the user pgha is missing: run `make setup`"));
        if let Some(owner) = &owner {
            chown(folder.path(), Some(owner.uid), Some(owner.gid)).unwrap();
        }
        let as_owner = |name: &str| {
            let mut command = Command::new(program(name));
            command.current_dir(folder.path()).env_clear().env("LC_ALL", "C").env("TZ", "UTC");
            if let Some(owner) = &owner {
                command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
            }
            command.stdout(File::create(folder.path().join(format!("{name}.log"))).unwrap());
            command.stderr(File::create(folder.path().join(format!("{name}.err"))).unwrap());
            command
        };
        let log =
            |name: &str| fs::read_to_string(folder.path().join(format!("{name}.err"))).unwrap_or_default();

        let password_file = folder.path().join("pw");
        fs::write(&password_file, PASSWORD).unwrap();
        let mut initdb = as_owner("initdb");
        initdb.args(["-D", "data", "-U", "postgres", "-A", "scram-sha-256", "--no-sync", "--pwfile=pw"]);
        assert!(initdb.status().unwrap().success(), "{}", log("initdb"));

        for (name, text) in files {
            let path = folder.path().join("data").join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            if let Some(owner) = &owner {
                chown(&path, Some(owner.uid), Some(owner.gid)).unwrap();
            }
        }
        let port = free_port();
        let mut command = as_owner("postgres");
        command.args(["-D", "data", "-p", &port.to_string(), "-k", "", "-h", "127.0.0.1", "-F"]);
        command.args(settings.iter().flat_map(|setting| ["-c", setting]));
        let mut postmaster = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !psql(port, "postgres", PASSWORD, "SELECT 1").status.success() {
            assert!(postmaster.try_wait().unwrap().is_none(), "{}", log("postgres"));
            assert!(Instant::now() < deadline, "PostgreSQL does not start: {}", log("postgres"));
            std::thread::sleep(Duration::from_millis(50));
        }
        let postgres = Self { port, postmaster, _folder: folder };
        postgres.run(sql);
        postgres
    }

    /// Runs `sql` as the superuser.
    pub(crate) fn run(&self, sql: &str) {
        let output = psql(self.port, "postgres", PASSWORD, sql);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An immediate shutdown: the data is thrown away anyway.
        let _gone = kill(Pid::from_raw(self.postmaster.id() as i32), Signal::SIGQUIT);
        let _gone = self.postmaster.wait();
    }
}

/// psql with `sql` in the database `postgres`; rows unaligned on stdout, stops at the first error.
pub(crate) fn psql(port: u16, user: &str, password: &str, sql: &str) -> std::process::Output {
    Command::new(program("psql"))
        .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", user, "-d", "postgres", "-c", sql])
        .args(["-p", &port.to_string()])
        .env("PGPASSWORD", password)
        .output()
        .unwrap()
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
