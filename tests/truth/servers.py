"""A private primary with a streaming hot standby, made from the programs that `make setup` puts in place."""
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
import time

from wire import Closed, Session

USER = "pgha"  # whom PostgreSQL runs as when we are root

SETTINGS = {
    "listen_addresses": "127.0.0.1", "fsync": "off", "full_page_writes": "off", "autovacuum": "off",
    "wal_level": "logical", "max_wal_senders": 8, "max_replication_slots": 8, "max_prepared_transactions": 10,
    "max_connections": 60, "max_locks_per_transaction": 256, "track_commit_timestamp": "on",
    "shared_buffers": "128MB", "max_wal_size": "2GB", "max_stack_depth": "1MB",
    "shared_preload_libraries": "pg_stat_statements", "max_standby_streaming_delay": "10s",
    "log_min_messages": "fatal", "lc_messages": "C", "allow_in_place_tablespaces": "on", "wal_receiver_status_interval": "1s",
}


class Server:
    """One PostgreSQL on a port of its own."""

    def __init__(self, pair, name):
        self.pair, self.name, self.folder = pair, name, pair.folder / name
        self.port = free_port()
        self.process = None

    def start(self):
        settings = dict(self.settings(), port=self.port, unix_socket_directories=str(self.pair.folder))
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        log = open(self.pair.folder / f"{self.name}.log", "ab")
        environment = dict(self.pair.environment, PGHOST=str(self.pair.folder), PGPORT=str(self.port))
        self.process = subprocess.Popen(
            [self.pair.bin / "postgres", "-D", self.folder, *options], stdout=log, stderr=log, env=environment,
            cwd="/", **self.pair.as_user)
        deadline = time.monotonic() + 60
        while not self.is_up():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} does not start: see {log.name}")
            time.sleep(0.1)

    def settings(self):
        return SETTINGS

    def is_up(self):
        try:
            Session(self.port, b"postgres", b"postgres").close()
        except (OSError, Closed):
            return False
        return True

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(3)  # SIGQUIT: immediate
            self.process.wait(30)


class Pair:
    """The primary, its standby, and the folder that both live in. A context manager."""

    server = Server

    def __init__(self, runtime):
        self.bin = (runtime / "pgsql/bin").resolve()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pgha-truth-"))
        # the runtime's own libpq, not the machine's
        self.environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(self.bin.parent / "lib"), "LC_ALL": "C",
                            "TZ": "UTC"}
        self.as_user = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam(USER)
            self.as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        self.folder.chmod(0o755)
        self.primary, self.standby = self.server(self, "primary"), self.server(self, "standby")

    def run(self, *command):
        result = subprocess.run([str(word) for word in command], env=self.environment, cwd="/", text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **self.as_user)
        if result.returncode:
            raise SystemExit(f"{command[0]}: {result.stdout}")

    def __enter__(self):
        try:
            self.run(self.bin / "initdb", "-D", self.primary.folder, "-U", "postgres", "-A", "trust", "-N",
                     "--no-locale", "-E", "UTF8")
            self.primary.start()
            self.run(self.bin / "pg_basebackup", "-h", "127.0.0.1", "-p", self.primary.port, "-U", "postgres", "-c",
                     "fast", "-R", "-C", "-S", "truth", "-D", self.standby.folder)
            self.standby.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.standby.stop()
        self.primary.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def regress_library(regress, pair):
    """PostgreSQL's regress.so where a C compiler makes it, and the suite's data where the servers can read it."""
    folder = pair.folder
    data = folder / "regress"
    subprocess.run(["cp", "-r", regress / "data", folder / "data-new"], check=True)
    data.mkdir()
    (folder / "data-new").rename(data / "data")
    (folder / "results").mkdir()
    for name in ("autoinc", "refint"):
        (folder / f"{name}.so").symlink_to(pair.bin.parent / f"lib/{name}.so")
    command = ["cc", "-shared", "-fPIC", "-O1", "-w", "-I", pair.bin.parent / "include/server", "-I", regress,
               regress / "regress.c", "-o", folder / "regress.so"]
    if subprocess.run(command, capture_output=True).returncode:
        print("regress.so can't be made: what needs its functions fails everywhere", flush=True)
    subprocess.run(["chmod", "-R", "a+rwX", data, folder / "results"], check=True)
    return {"folder": folder, "sources": data}


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
