"""What a suite is run against: a primary with a streaming standby that ask for passwords, and a proxy before them."""
import json
import subprocess
import sys
import time
import urllib.request

from servers import Pair, Server, free_port

PASSWORD = "of-the-conformance-run"
# PostgreSQL's own settings but for speed, for what streams, and for what the suite's own temporary instance sets.
SETTINGS = {
    "listen_addresses": "127.0.0.1", "fsync": "off", "max_connections": 120, "max_prepared_transactions": 2,
    "max_wal_size": "2GB", "password_encryption": "scram-sha-256", "wal_receiver_status_interval": "1s", "log_statement": "none",
}
# psql and the proxy log in with a password, as they would anywhere.
HBA = """local all all trust
local replication all trust
host replication postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""


class Member(Server):
    """A server that is asked by its socket whether it is up."""

    def settings(self):
        return SETTINGS

    def is_up(self):
        command = [self.pair.bin / "pg_isready", "-q", "-h", self.pair.folder, "-p", str(self.port)]
        return subprocess.run(command, env=self.pair.environment).returncode == 0


class Cluster(Pair):
    """Primary and standby, with the proxy's roles and passwords."""

    server = Member

    def __init__(self, runtime, proxy):
        super().__init__(runtime)
        self.environment["PGUSER"] = "postgres"  # for what connects from inside a server: dblink, postgres_fdw
        self.program = proxy

    def __enter__(self):
        super().__enter__()
        try:
            for server in (self.primary, self.standby):
                (server.folder / "pg_hba.conf").write_text(HBA)
            printed = subprocess.run([self.program, "check", "--print-sql"], check=True, capture_output=True, text=True).stdout
            words = "".join(f"ALTER ROLE {role} PASSWORD '{PASSWORD}';" for role in ("postgres", "pgha_lookup", "pgha_monitor"))
            self.psql(printed + words)
            for server in (self.primary, self.standby):
                self.run(self.bin / "pg_ctl", "reload", "-D", server.folder)
        except BaseException:
            self.__exit__()
            raise
        return self

    def psql(self, sql, database="postgres"):
        """Runs SQL on the primary by its socket, as the superuser."""
        command = [self.bin / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", self.folder, "-p", str(self.primary.port), "-U", "postgres"]
        subprocess.run([*command, "-d", database], input=sql, text=True, env=self.environment, check=True)


class Proxy:
    """`pg-ha-proxy run` before a cluster, all but addresses and passwords as by default. A context manager."""

    def __init__(self, cluster, folder, more=""):
        self.more = more
        self.cluster, self.log = cluster, folder / "proxy.log"
        self.port, self.admin = free_port(), free_port()
        self.configuration = cluster.folder / "proxy.toml"

    def __enter__(self):
        secret = self.cluster.folder / "password"
        secret.write_text(PASSWORD)
        members = [f"127.0.0.1:{server.port}" for server in (self.cluster.primary, self.cluster.standby)]
        self.configuration.write_text(
            f'[listen]\naddress = "127.0.0.1:{self.port}"\n[admin]\naddress = "127.0.0.1:{self.admin}"\n'
            f'[topology]\nsource = "static"\nmembers = {json.dumps(members)}\n'
            f'[auth]\nlookup_password_file = "{secret}"\nmonitor_password_file = "{secret}"\n{self.more}')
        self.process = subprocess.Popen(
            [self.cluster.program, "run", "--config", self.configuration], stderr=open(self.log, "wb"))
        self.wait()
        return self

    def wait(self):
        """Until it serves by both members."""
        deadline = time.monotonic() + 60
        while True:
            try:
                if self.get("/readyz").endswith('{"primary":true,"replicas":1}'):
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise SystemExit(f"the proxy does not serve by both members: see {self.log}")
            time.sleep(0.05)

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=5) as answer:
            return answer.read().decode()

    def statements(self):
        """How many statements went to the primary, and how many to the standby."""
        counts = {"primary": 0, "standby": 0}
        primary = f"127.0.0.1:{self.cluster.primary.port}"
        for line in self.get("/metrics").splitlines():
            if line.startswith("pgha_statements_total{"):
                counts["primary" if primary in line else "standby"] += int(float(line.rsplit(" ", 1)[1]))
        return counts

    def failure(self):
        """What is wrong with it after a run, or None."""
        if self.process.poll() is not None:
            return f"the proxy ended with {self.process.returncode}"
        if "pgha_panics_total 0" not in self.get("/metrics"):
            return "a session panicked"
        return None

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            print("the proxy did not stop", file=sys.stderr)
            self.process.kill()
            self.process.wait()
