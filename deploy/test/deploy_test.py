#!/usr/bin/env python3
"""The deployment on a real Docker engine: from nothing to a cluster that loses its leader in four ways, is put away and
taken out again, goes back in time and gets a lost member back from the backup.

    deploy_test.py [full|short]    `make deploy-test` runs it, DEPLOY_TEST=short for its short form

It skips aloud where no engine answers, and refuses to start where containers, volumes or a network of the cluster's names
are that it did not make. What it made it takes away, however it ends; images stay. KEEP=yes keeps the cluster.

Each session is one psql process for the whole run: a client that were disconnected would end the test.
"""

import atexit
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

DEPLOY = pathlib.Path(__file__).resolve().parent.parent
PROJECT = "pg-ha-deploy-test"
MEMBERS = ["pg-node-1", "pg-node-2", "pg-node-3"]
NAMES = ["etcd-1", "etcd-2", "etcd-3", "etcd-users", *MEMBERS, "proxy", "dbhub"]
VOLUMES = ["etcd-data-1", "etcd-data-2", "etcd-data-3", *(f"{name}-data" for name in MEMBERS), "pgbackrest-repo", "dbhub-data"]
NETWORK = "pg-ha-network"
IMAGE = os.environ.get("POSTGRES_PATRONI_IMAGE", "postgres-patroni:18-pgvector")
PORTS = {"PROXY_PORT": 6432, "POSTGRES_PORT_1": 5432, "POSTGRES_PORT_2": 5433, "POSTGRES_PORT_3": 5434,
         "PATRONI_API_PORT_1": 8008, "PATRONI_API_PORT_2": 8009, "PATRONI_API_PORT_3": 8010, "DBHUB_PORT": 9090}
# What an acknowledged write may be told when the primary goes down under it: its outcome can't be known.
OUTCOME_UNKNOWN = "08007"
# ttl, loop_wait and the proxy's own 5 s: the hold, after which a statement gives up.
HOLD_SECONDS = 45

figures = []
started = time.monotonic()


class Failed(Exception):
    """Something that the deployment promises does not hold."""


def say(text):
    print(f"[{time.monotonic() - started:6.1f} s] {text}", flush=True)


def check(condition, what):
    if not condition:
        raise Failed(what)


def figure(what, seconds):
    figures.append((what, seconds))
    say(f"{what}: {seconds:.1f} s")


def run(*command, may_fail=False, timeout=600, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)
    if done.returncode and not may_fail:
        raise Failed(f"{' '.join(command[:6])}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done


def docker(*arguments, **options):
    return run("docker", *arguments, **options).stdout.strip()


def cluster(*arguments, **options):
    return run(str(DEPLOY / "cluster"), *arguments, **options).stdout.strip()


def until(what, seconds, condition):
    """Waits for a condition with a deadline; returns what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = condition()
        except (Failed, subprocess.TimeoutExpired, ValueError) as why:
            found, trouble = None, why
        else:
            trouble = None
        if found:
            return found
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds} s" + (f" ({trouble})" if trouble else ""))
        time.sleep(0.25)


# ── the cluster, from outside ────────────────────────────────────────────────────────────────────────────────────────

def running():
    return [name for name in docker("ps", "--filter", "status=running", "--format", "{{.Names}}").split() if name in MEMBERS]


def patroni(asked=None):
    """Patroni's view, of a member that surely sees it."""
    asked = asked or running()[0]
    return {member["Member"]: member for member in json.loads(docker("exec", "-u", "postgres", asked, "patronictl", "list", "-f", "json", timeout=20))}


def leader(asked=None):
    return next((name for name, member in patroni(asked).items() if member["Role"] == "Leader"), None)


def is_whole():
    view = patroni()
    roles = sorted(member["Role"] for member in view.values())
    streaming = "SELECT count(*) FILTER (WHERE state = 'streaming'), count(*) FILTER (WHERE sync_state <> 'async') FROM pg_stat_replication"
    return roles == ["Leader", "Replica", "Sync Standby"] and on_member(leader(), streaming) == "2|1"


def health(name):
    return docker("inspect", "--format", "{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}", name)


def logs_since(name, moment):
    done = run("docker", "logs", "--since", str(moment), name)
    return done.stdout + done.stderr


def on_member(name, sql, **options):
    return docker("exec", "-u", "postgres", name, "psql", "-XAtq", "-d", "postgres", "-c", sql, **options)


# ── sessions through the proxy ───────────────────────────────────────────────────────────────────────────────────────

class Session:
    """One psql process, on the host's side of the published port."""

    count = 0

    def __init__(self):
        Session.count += 1
        self.name = f"{PROJECT}-client-{Session.count}"
        connection = (f"host=127.0.0.1 port={os.environ['PROXY_PORT']} user=pgadmin dbname=postgres sslmode=verify-full "
                      "sslrootcert=/ca.crt")
        environment = dict(os.environ, PGPASSWORD=cluster("password"))
        self.process = subprocess.Popen(
            ["docker", "run", "-i", "--rm", "--name", self.name, "--label", f"project={PROJECT}", "--network", "host", "-e", "PGPASSWORD",
             "-v", f"{os.environ['PGHA_SECRETS']}/ca.crt:/ca.crt:ro", "--tmpfs", "/var/lib/postgresql", "--tmpfs", "/var/lib/pgbackrest",
             "--entrypoint", "sh", IMAGE, "-c", 'exec psql "$0" -XAtq -v VERBOSITY=verbose 2>&1', connection],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment)
        self.lines = queue.Queue()
        self.number = 0
        threading.Thread(target=self._read, daemon=True).start()
        self.ask("SELECT 1", 60)

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def try_ask(self, sql, seconds=HOLD_SECONDS + 30):
        """Rows, and the SQLSTATE of an error or None."""
        self.number += 1
        mark = f"-- end of {self.number} --"
        try:
            self.process.stdin.write(f"{sql};\n\\echo {mark}\n")
            self.process.stdin.flush()
        except OSError as why:
            raise Failed(f"{self.name}: psql is gone: {why}") from why
        rows, state = [], None
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise Failed(f"no answer within {seconds} s to: {sql}") from None
            if line is None:
                raise Failed(f"psql ended at: {sql}\n" + "\n".join(rows))
            if line == mark:
                return rows, state
            error = re.match(r"(?:psql:\S+ )?(?:ERROR|FATAL|PANIC):\s+(\w{5}):", line)
            state = error.group(1) if error else state
            check("connection to server was lost" not in line, f"the session was cut at: {sql}\n{line}")
            rows.append(line)

    def ask(self, sql, seconds=HOLD_SECONDS + 30):
        rows, state = self.try_ask(sql, seconds)
        check(state is None, f"{sql}: " + " ".join(rows))
        return rows

    def end(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()


class Load(threading.Thread):
    """Writes one row after the other in one session, or reads, and keeps a ledger."""

    def __init__(self, writes):
        super().__init__(daemon=True)
        self.writes, self.session = writes, Session()
        self.acknowledged, self.unknown, self.errors, self.answered = [], [], [], []
        self.trouble, self.stopping, self.at = None, threading.Event(), 0

    def run(self):
        try:
            while not self.stopping.is_set():
                self.at += 1
                sql = f"INSERT INTO ledger VALUES ({self.at})" if self.writes else "SELECT count(*) FROM ledger"
                _rows, state = self.session.try_ask(sql)
                if state is None:
                    self.answered.append(time.monotonic())
                    if self.writes:
                        self.acknowledged.append(self.at)
                elif self.writes and state == OUTCOME_UNKNOWN:
                    self.unknown.append(self.at)
                else:
                    self.errors.append((state, _rows))
                time.sleep(0.02)
        except Failed as why:
            self.trouble = why

    def stall(self, since):
        """The longest time without an answer since then, in seconds."""
        moments = [since, *(moment for moment in list(self.answered) if moment > since)]
        return max((after - before for before, after in zip(moments, moments[1:])), default=0.0)

    def goes_on(self, since):
        check(self.trouble is None, f"the session failed: {self.trouble}")
        check(self.is_alive(), "the session ended")
        return bool(self.answered) and self.answered[-1] > since

    def finish(self):
        self.stopping.set()
        self.join(HOLD_SECONDS + 40)
        check(not self.is_alive(), "the load does not end")
        self.session.end()
        check(self.trouble is None, f"the session failed: {self.trouble}")


class Watched:
    """A writer and a reader over something that is done to the cluster."""

    def __enter__(self):
        self.sql = Session()
        self.sql.ask("CREATE TABLE IF NOT EXISTS ledger (n bigint PRIMARY KEY)")
        self.sql.ask("TRUNCATE ledger")
        self.writer, self.reader = Load(True), Load(False)
        for load in (self.writer, self.reader):
            load.start()
        now = time.monotonic()
        until("writes and reads", 30, lambda: self.writer.goes_on(now) and self.reader.goes_on(now))
        return self

    def wait(self, what, since, seconds=HOLD_SECONDS + 30):
        until(what, seconds, lambda: self.writer.goes_on(since) and self.reader.goes_on(since))

    def __exit__(self, kind, _value, _trace):
        if kind is not None:
            self.writer.stopping.set(), self.reader.stopping.set()
            return
        self.writer.finish(), self.reader.finish()
        # Right after a switch a replica may be behind, so the ledger is read on the primary.
        there = {int(row) for row in self.sql.ask("/* pgha: primary */ SELECT n FROM ledger")}
        lost = set(self.writer.acknowledged) - there
        check(not lost, f"{len(lost)} acknowledged writes are lost: {sorted(lost)[:10]}")
        check(there <= set(self.writer.acknowledged) | set(self.writer.unknown), "a row is there that nobody was told of")
        for load in (self.writer, self.reader):
            check(not load.errors, f"a session was told {load.errors[:3]}")
        self.sql.end()


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────────

def images():
    wanted = [IMAGE, os.environ.get("PROXY_IMAGE", "pg-ha-proxy:0.1"), os.environ.get("ETCD_IMAGE", "gcr.io/etcd-development/etcd:v3.6.14")]
    kept = all(run("docker", "image", "inspect", name, may_fail=True).returncode == 0 for name in wanted)
    began = time.monotonic()
    if os.environ.get("IMAGES") == "keep" and kept:
        say("the images that are here are taken as they are")
        return
    cluster("build", "--stand-ins", timeout=1800)
    figure("images made" + (", on stand-ins that were here" if kept else ", from nothing"), time.monotonic() - began)


def from_nothing():
    """One command, and the first INSERT by the port."""
    began = time.monotonic()
    up = subprocess.Popen([str(DEPLOY / "cluster"), "up"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=dict(os.environ, DBHUB="off"))
    text = []
    reader = threading.Thread(target=lambda: text.extend(up.stdout), daemon=True)
    reader.start()
    until("the first INSERT through the proxy", 240, first_insert)
    figure("from nothing to the first INSERT through the proxy", time.monotonic() - began)
    check(up.wait(400) == 0, "cluster up failed:\n" + "".join(text))
    figure("from nothing to three members, two streaming, one synchronous", time.monotonic() - began)


def first_insert():
    secrets = pathlib.Path(os.environ["PGHA_SECRETS"])
    if not (secrets / "postgres-password").exists() or not running():
        return False
    session = None
    try:
        session = Session()
        session.ask("CREATE TABLE IF NOT EXISTS first (n int)")
        session.ask("INSERT INTO first VALUES (1)")
        return True
    finally:
        if session:
            session.end()


def all_healthy():
    for name in NAMES:
        if name == "etcd-users":
            check(docker("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name) == "exited 0", "etcd-users did not end well")
        elif name != "dbhub":
            until(f"{name} healthy", 60, lambda name=name: health(name) == "running healthy")
    until("two replicas, one synchronous", 60, is_whole)
    say("every container is healthy; 3 members, 2 streaming, 1 synchronous")


def searches_on_replicas():
    session = Session()
    session.ask("SELECT 1 FROM items LIMIT 1")
    # By default one session keeps to one replica, so that its reads never go back.
    session.ask("SET pgha.consistency = 'eventual'")
    search = "SELECT id FROM items ORDER BY embedding <=> (SELECT embedding FROM items WHERE name = 'sample-7') LIMIT 5"
    served = set()
    for _ in range(12):
        rows = session.ask(search)
        check(len(rows) == 5, f"a search found {rows}")
        served.add(session.ask("SHOW pgha.last")[0])
    replicas = {name for name, member in patroni().items() if member["Role"] != "Leader"}
    check({line.split(":")[0] for line in served} == replicas and all("vector read" in line for line in served),
          f"searches were served by {served}, the replicas are {replicas}")
    # The sample file can be run again, and both indexes serve.
    again = (DEPLOY / "patroni/init-pgvector-ha.sql").read_text()
    run(str(DEPLOY / "cluster"), "psql", "-v", "ON_ERROR_STOP=1", "-q", "-f", "-", input=again)
    check(session.ask("/* pgha: primary */ SELECT count(*) FROM items WHERE name LIKE 'sample-%'") == ["100"], "sample rows twice")
    for operator, index in (("<=>", "items_embedding_hnsw"), ("<->", "items_embedding_ivfflat")):
        plan = session.ask("BEGIN; SET LOCAL enable_seqscan = off; EXPLAIN SELECT id FROM items ORDER BY embedding "
                           f"{operator} (SELECT embedding FROM items LIMIT 1) LIMIT 5; COMMIT")
        check(any(index in line for line in plan), f"{index} does not serve {operator}: {plan}")
    session.end()
    say(f"vector searches were served by {', '.join(sorted(replicas))}")


def nothing_without_credentials():
    """Each door, knocked at from inside of the network without a certificate or a password."""
    member = MEMBERS[0]

    def refused(*command):
        done = run("docker", "exec", "-u", "nobody", member, *command, may_fail=True, timeout=30)
        return done.returncode != 0

    check(refused("curl", "-fsSk", "https://etcd-1:2379/v3/maintenance/status"), "etcd answers without a certificate")
    check(refused("curl", "-fsSk", "https://pg-node-2:8008/patroni"), "Patroni's API answers without a certificate")
    check(refused("curl", "-fsSk", "https://pg-node-2:9854/metrics"), "the backups' metrics answer without a certificate")
    check(refused("psql", "-w", "host=pg-node-2 user=postgres dbname=postgres", "-c", "SELECT 1"), "the superuser gets in")
    check(refused("psql", "-w", "host=pg-node-2 user=pgha_lookup dbname=postgres", "-c", "SELECT 1"), "the lookup role gets in")
    check(refused("psql", "-w", "host=proxy port=6432 user=pgadmin dbname=postgres", "-c", "SELECT 1"), "the proxy asks for no password")
    check(refused("psql", "-w", "host=proxy port=6432 sslmode=disable user=pgadmin dbname=postgres", "-c", "SELECT 1"), "the proxy takes clear text")
    with_certificate = ["docker", "exec", "-u", "postgres", member, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", "/run/pg-ha/ca.crt",
                        "--cert", "/run/pg-ha/node.pem"]
    changes = run(*with_certificate, "-X", "POST", "https://pg-node-2:8008/restart").stdout
    check(changes == "401", f"Patroni's API restarts a member without a password: {changes}")
    written = run(*with_certificate, "-d", '{"key": "eA==", "value": "eA=="}', "https://etcd-1:2379/v3/kv/put").stdout
    check(written != "200", f"etcd takes a write of nobody's: {written}")
    inspected = docker("inspect", *[name for name in NAMES if name != "dbhub"])
    for name in ("postgres-password", "replication-password", "etcd-root-password", "patroni-api-password"):
        check((pathlib.Path(os.environ["PGHA_SECRETS"]) / name).read_text().strip() not in inspected, f"docker inspect shows {name}")
        logs = "".join(logs_since(member, 0) for member in MEMBERS)
        check((pathlib.Path(os.environ["PGHA_SECRETS"]) / name).read_text().strip() not in logs, f"a log shows {name}")
    say("without credentials nothing answers; no password in docker inspect or in a log")


def leader_lost(how, do, undo, bound, needs_rewind=False):
    """The leader is lost in one way, under a writer and a reader; then it comes back as a replica."""
    old = leader()
    # What docker is asked right after, `docker logs --since` must tell from what was before.
    moment = int(time.time())
    with Watched() as watched:
        struck = time.monotonic()
        do(old)
        others = [name for name in MEMBERS if name != old]
        watched.wait(f"writes after {how}", struck + 1)
        # A fault needn't be felt at once: pause and disconnect are noticed when something is asked.
        new = until("another leader", 90, lambda: (name := leader(others[0])) and name != old and name)
        watched.wait(f"writes on {new}", time.monotonic())
        figure(f"{how}: write stop", watched.writer.stall(struck))
        figure(f"{how}: longest read", watched.reader.stall(struck))
        check(watched.writer.stall(struck) < bound, f"{how}: no write for {watched.writer.stall(struck):.1f} s, more than {bound} s")
        healed = time.monotonic()
        undo(old)
        until(f"{old} back as a replica", 180, is_whole)
        figure(f"{how}: back as a streaming replica, after", time.monotonic() - healed)
        watched.wait("writes afterwards", time.monotonic())
        unknown = len(watched.writer.unknown)
    check(unknown <= 1, f"{unknown} writes with an unknown outcome")
    rewound = "running pg_rewind" in logs_since(old, moment) or "pg_rewind: Done" in logs_since(old, moment)
    say(f"{how}: {len(watched.writer.acknowledged)} writes acknowledged, none lost, {unknown} of unknown outcome; {old} "
        + ("was rewound" if rewound else "followed without a rewind"))
    check(rewound or not needs_rewind, f"{old} did not come back by pg_rewind")


def cut_off(old):
    """Takes the leader off the network, with a row that nobody else gets: it has to be rewound."""
    docker("network", "disconnect", NETWORK, old)
    subprocess.Popen(["docker", "exec", "-u", "postgres", old, "psql", "-XAtq", "-d", "postgres", "-c", "INSERT INTO first VALUES (-1)"],
                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def brought_back(old):
    docker("network", "connect", NETWORK, old)


def members_agree():
    """After all that was lost and rewound, each member holds the same rows. What a cut-off leader wrote may be among them: it
    archives its last WAL when it steps down, and the next leader replays the archive to its end before it takes over."""
    digest = "SELECT (SELECT md5(string_agg(n::text, ',' ORDER BY n)) FROM first), (SELECT md5(string_agg(n::text, ',' ORDER BY n)) FROM ledger)"

    def same():
        found = {on_member(name, digest) for name in MEMBERS}
        return len(found) == 1

    until("the same rows on all members", 60, same)
    say("all members hold the same rows")


def handed_over():
    """A switchover under load, and new containers one after the other: no error, nothing unknown."""
    with Watched() as watched:
        # Open for longer than Patroni's own 0.3 s: before_stop waits for it.
        slow = Session()
        slow.ask("BEGIN; CREATE TABLE slow AS SELECT 1 AS n")
        began = time.monotonic()
        switching = threading.Thread(target=cluster, args=["switchover"], daemon=True)
        switching.start()
        slow.ask("SELECT pg_sleep(4); INSERT INTO slow VALUES (2); COMMIT")
        switching.join(120)
        check(not switching.is_alive(), "the switchover does not end")
        check(slow.ask("SELECT sum(n) FROM slow") == ["3"], "the open transaction's rows are not there")
        slow.end()
        watched.wait("writes", time.monotonic())
        figure("switchover with a transaction of 4 s open: write stop", watched.writer.stall(began))
        if MODE == "full":
            began = time.monotonic()
            cluster("remake", *MEMBERS, timeout=1200)
            watched.wait("writes", time.monotonic())
            figure("new containers for all members, one after the other", time.monotonic() - began)
            figure("the same: write stop", watched.writer.stall(began))
    check(not watched.writer.unknown, f"{len(watched.writer.unknown)} writes with an unknown outcome at a switchover")
    say(f"handed over: {len(watched.writer.acknowledged)} writes, {len(watched.reader.answered)} reads, no error")


def etcd_away():
    """All of etcd is down for longer than the ttl: failsafe mode keeps the leader leading."""
    with Watched() as watched:
        began = time.monotonic()
        docker("stop", "etcd-1", "etcd-2", "etcd-3", timeout=120)
        while time.monotonic() < began + 45:
            check(watched.writer.goes_on(0), "")
            time.sleep(0.5)
        docker("start", "etcd-1", "etcd-2", "etcd-3")
        until("etcd healthy", 90, lambda: all(health(f"etcd-{n}") == "running healthy" for n in (1, 2, 3)))
        watched.wait("writes", time.monotonic())
        figure("etcd away for 45 s: write stop", watched.writer.stall(began))
    until("whole", 90, is_whole)


def down_and_up():
    session = Session()
    session.ask("CREATE TABLE kept AS SELECT g AS n FROM generate_series(1, 1000) AS g")
    session.end()
    system = on_member(leader(), "SELECT system_identifier FROM pg_control_system()")
    cluster("down")
    check(not docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}"), "containers after down")
    began = time.monotonic()
    cluster("up", env=dict(os.environ, DBHUB="off"))
    figure("down, then up: whole again", time.monotonic() - began)
    session = Session()
    check(session.ask("/* pgha: primary */ SELECT count(*), sum(n) FROM kept") == ["1000|500500"], "rows are missing after down and up")
    session.end()
    check(on_member(leader(), "SELECT system_identifier FROM pg_control_system()") == system, "another cluster after down and up")


def backup_exists():
    stanza = json.loads(docker("exec", "-u", "postgres", MEMBERS[0], "pgbackrest", "--stanza=pg-ha", "--output=json", "info"))
    return stanza and stanza[0]["backup"]


def point_in_time():
    """A backup, a table dropped, the cluster as it was before that."""
    until("the first backup, by the schedule", 120, backup_exists)
    cluster("backup", "diff")
    session = Session()
    session.ask("CREATE TABLE treasure AS SELECT g AS n FROM generate_series(1, 500) AS g")
    session.ask("INSERT INTO treasure VALUES (0)")
    # Commits are on both sides of the moment, as in life.
    time.sleep(1.1)
    moment = session.ask("/* pgha: primary */ SELECT clock_timestamp()")[0]
    time.sleep(1.1)
    session.ask("DROP TABLE treasure")
    session.ask("CREATE TABLE after_the_moment (n int)")
    session.end()
    began = time.monotonic()
    print(cluster("restore", "--time", moment, timeout=900), flush=True)
    figure("restore to a point in time: whole again", time.monotonic() - began)
    session = Session()
    check(session.ask("SELECT count(*) FROM treasure") == ["501"], "the dropped table is not back")
    check(session.ask("/* pgha: primary */ SELECT to_regclass('after_the_moment') IS NULL") == ["t"], "what came after is there")
    session.ask("INSERT INTO treasure VALUES (-1)")
    session.end()
    say("the dropped table is back, what came after is not")


def failed_restore():
    """A moment that the archive never saw: the cluster goes on with the data of before."""
    done = run(str(DEPLOY / "cluster"), "restore", "--time", "2001-01-01 00:00:00+00", may_fail=True, timeout=900)
    check(done.returncode != 0 and "goes on with the data of before" in done.stderr, f"restore to 2001: {done.stdout}{done.stderr}")
    session = Session()
    check(session.ask("SELECT count(*) FROM kept") == ["1000"], "rows are missing after a restore that failed")
    session.end()
    say("a restore that can't be: the cluster goes on with the data of before")


def lost_volume():
    victim = next(name for name, member in patroni().items() if member["Role"] == "Replica")
    docker("rm", "-f", victim)
    docker("volume", "rm", f"{victim}-data")
    moment, began = int(time.time()), time.monotonic()
    cluster("up", env=dict(os.environ, DBHUB="off"))
    figure("a member whose volume was deleted: streaming again", time.monotonic() - began)
    text = logs_since(victim, moment)
    check("replica has been created using pgbackrest" in text, f"{victim} did not come from the backup:\n{text[-3000:]}")
    say(f"{victim} is back, made from the backup")


def cut_short_first_start():
    """A volume that a killed initdb left, and one that is no cluster's: neither is built upon, neither is deleted."""
    victim = next(name for name, member in patroni().items() if member["Role"] == "Replica")
    moment = int(time.time())
    docker("stop", victim)
    docker("run", "--rm", "--volumes-from", victim, "--entrypoint", "sh", IMAGE, "-c",
           "cd /var/lib/postgresql/18 && rm main/global/pg_control && touch main/precious")
    docker("start", victim)
    until(f"{victim} back", 120, is_whole)
    text = logs_since(victim, moment)
    check("no global/pg_control" in text, f"nothing is said of the incomplete data:\n{text[-2000:]}")
    docker("exec", victim, "test", "-e", "/var/lib/postgresql/18/main.incomplete/precious")
    docker("exec", victim, "rm", "-rf", "/var/lib/postgresql/18/main.incomplete")
    # All of the cluster's memory is gone but the backup: an empty member must not begin another cluster.
    empty = docker("run", "--rm", "--volumes-from", victim, "--tmpfs", "/var/lib/postgresql", "--entrypoint", "sh", IMAGE, "-c",
                   "chown postgres /var/lib/postgresql; setpriv --reuid=postgres --regid=postgres --init-groups /usr/local/lib/pg-ha/bootstrap.sh 2>&1 || true")
    check("no new one is made beside it" in empty, f"initdb beside a repository with backups: {empty}")
    say("data that is incomplete is moved aside; no second cluster beside a repository with backups")


def killed_in_first_start():
    """The very first start is killed between initdb and its end: it is taken back and made again, and nothing waits for ever."""
    cluster("down", "--volumes", env=dict(os.environ, SURE="yes"))
    compose = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    run(*compose, "-p", PROJECT, "-f", str(DEPLOY / "compose.yaml"), "up", "-d", "pg-node-1")
    mark = ["docker", "exec", "pg-node-1", "test", "-e", "/var/lib/postgresql/bootstrapping"]
    until("initdb under way", 90, lambda: run(*mark, may_fail=True).returncode == 0)
    docker("kill", "pg-node-1")
    moment, began = int(time.time()), time.monotonic()
    docker("start", "pg-node-1")
    until("the first start made again", 120, lambda: leader("pg-node-1") == "pg-node-1"
          and on_member("pg-node-1", "SELECT count(*) FROM items") == "100")
    figure("first start killed in the middle: made again", time.monotonic() - began)
    text = logs_since("pg-node-1", moment)
    check("did not get to its end" in text and "the bootstrap lock is free again" in text, f"nothing is said of it:\n{text[-2000:]}")
    run(*mark[:3], "test", "!", "-e", "/var/lib/postgresql/bootstrapping")


def full_volume():
    volume = f"{PROJECT}-small"
    docker("volume", "create", "--label", f"project={PROJECT}", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=40m", volume)
    done = run("docker", "run", "--rm", "--label", f"project={PROJECT}", "-e", "PATRONI_NAME=pg-node-1", "-e", "PATRONI_ETCD3_HOSTS=etcd-1:2379", "-e", "PGHA_NETWORK=172.20.0.0/16",
               "-v", f"{volume}:/var/lib/postgresql", "--tmpfs", "/var/lib/pgbackrest", IMAGE, may_fail=True)
    docker("volume", "rm", volume)
    check(done.returncode == 1 and "is full: 40 MiB free" in done.stderr, f"a full volume: {done.stdout}{done.stderr}")
    say("a full volume is said to be full")


def passwords_rotated():
    old = cluster("password")
    with Watched() as watched:
        cluster("rotate")
        check(cluster("password") != old, "the password is the old one")
        watched.wait("writes", time.monotonic())
    refused = run("docker", "exec", "-e", "PGPASSWORD", MEMBERS[0], "psql", "-w", "host=proxy port=6432 user=pgadmin dbname=postgres", "-c", "SELECT 1",
                  may_fail=True, env=dict(os.environ, PGPASSWORD=old))
    check(refused.returncode != 0, "the old password still serves")
    cluster("renew")
    victim = next(name for name, member in patroni().items() if member["Role"] == "Sync Standby")
    docker("restart", victim)
    until(f"{victim} back with the new password", 120, is_whole)
    say("passwords rotated and certificates renewed under load, without an error")


def ui_connection():
    """What the UI is given to connect with, by its file: through the proxy."""
    url = (pathlib.Path(os.environ["PGHA_SECRETS"]) / "dbhub-url").read_text().strip()
    done = docker("exec", "-e", f"PG_URL={url}", MEMBERS[0], "sh", "-c", 'psql "$PG_URL" -XAtqc "CREATE TABLE IF NOT EXISTS ui (n int); SELECT current_user"')
    check(done == "dbhub", f"the UI's connection: {done}")


def metrics_are_there():
    """Every metric that the dashboard and the rules use is exported by what Prometheus scrapes."""
    sys.path.insert(0, str(DEPLOY / "test"))
    import monitoring
    by_certificate = ["docker", "exec", "-u", "postgres", MEMBERS[0], "curl", "-fsS", "--cacert", "/run/pg-ha/ca.crt", "--cert", "/run/pg-ha/node.pem"]
    exported = set()
    for address in ("http://proxy:9187/metrics", "https://pg-node-1:8008/metrics", "https://pg-node-1:9854/metrics", "https://etcd-1:2379/metrics"):
        text = until(address, 60, lambda address=address: run(*by_certificate, address).stdout)
        exported |= set(re.findall(r"^# TYPE (\S+)", text, re.M))
    missing = {name for name in monitoring.used() if re.sub(r"_(bucket|sum|count)$", "", name) not in exported and name not in exported}
    check(not missing, f"nobody exports {sorted(missing)}")
    say(f"all {len(monitoring.used())} metrics of the dashboard and the rules are exported")


# ── before and after ─────────────────────────────────────────────────────────────────────────────────────────────────

def engine_answers():
    return shutil.which("docker") and run("docker", "version", may_fail=True, timeout=60).returncode == 0


def compose_answers():
    return shutil.which("docker-compose") or run("docker", "compose", "version", may_fail=True).returncode == 0


def foreign():
    """Names of the cluster's that something else has."""
    label = "{{.Label \"com.docker.compose.project\"}}"
    found = [f"container {name}" for name, owner in
             (line.split(" ", 1) for line in docker("ps", "-a", "--format", "{{.Names}} " + label).splitlines())
             if name in NAMES and owner != PROJECT]
    for kind, names in (("volume", VOLUMES), ("network", [NETWORK])):
        listed = docker(kind, "ls", "--format", "{{.Name}} " + label).splitlines()
        found += [f"{kind} {line.split(' ')[0]}" for line in listed if line.split(" ")[0] in names and line.split(" ", 1)[1] != PROJECT]
    return found


def clean():
    """Takes away what a run of this test made, this one or one before that was killed."""
    for kind in (f"label=com.docker.compose.project={PROJECT}", f"label=project={PROJECT}"):
        containers = docker("ps", "-aq", "--filter", kind).split()
        if containers:
            run("docker", "rm", "-f", "-v", *containers, may_fail=True, timeout=300)
        for what in ("volume", "network"):
            names = docker(what, "ls", "-q", "--filter", kind).split()
            if names:
                run("docker", what, "rm", *names, may_fail=True)


def free_ports():
    """The ports of the defaults, or others where something else has them."""
    for variable, port in PORTS.items():
        while not is_free(port):
            port += 10000 if port < 50000 else 1
        if port != PORTS[variable]:
            say(f"{variable}={port}: the default is taken on this machine")
        os.environ[variable] = str(port)


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
            return True
        except OSError:
            return False


def show_trouble():
    for name in NAMES:
        done = run("docker", "logs", "--tail", "25", name, may_fail=True)
        if done.returncode == 0:
            print(f"---- {name}: {health(name)}\n{done.stdout[-2500:]}{done.stderr[-2500:]}", flush=True)


def lost(how, *arguments, **options):
    """A step of that name."""
    def step():
        leader_lost(how, *arguments, **options)
    step.__name__ = how.replace(" ", "_")
    return step


def steps():
    yield images
    yield full_volume
    yield from_nothing
    yield all_healthy
    yield searches_on_replicas
    yield nothing_without_credentials
    yield metrics_are_there
    yield ui_connection
    yield lost("docker kill", lambda old: docker("kill", old), lambda old: docker("start", old), 60)
    if MODE == "full":
        yield lost("docker stop", lambda old: docker("stop", old, timeout=120), lambda old: docker("start", old), 20)
        yield lost("docker pause", lambda old: docker("pause", old), lambda old: docker("unpause", old), 60)
        yield lost("docker network disconnect", cut_off, brought_back, 60, needs_rewind=True)
        yield members_agree
    yield handed_over
    if MODE == "full":
        yield down_and_up
    yield point_in_time
    yield lost_volume
    if MODE == "full":
        yield failed_restore
        yield cut_short_first_start
        yield etcd_away
        yield passwords_rotated
        yield killed_in_first_start


def main():
    if not engine_answers() or not compose_answers():
        print("deploy-test: SKIPPED: no Docker engine with Compose answers here. Nothing of the deployment was tried.", flush=True)
        return 0
    clean()
    taken = foreign()
    if taken:
        print(f"deploy-test: not started: here are already {', '.join(taken)}, which this test did not make", flush=True)
        return 1
    secrets = tempfile.mkdtemp(prefix="pg-ha-deploy-test-")
    os.environ.update(PGHA_SECRETS=secrets, PGHA_PROJECT=PROJECT)
    keep = os.environ.get("KEEP") == "yes"
    if not keep:
        atexit.register(shutil.rmtree, secrets, True)
        atexit.register(clean)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    free_ports()
    passed, failed = 0, 0
    only = os.environ.get("ONLY")
    for step in steps():
        if only and step.__name__ not in only.split(",") + ["from_nothing"]:
            continue
        began = time.monotonic()
        try:
            step()
            passed += 1
            print(f"ok   {step.__name__} ({time.monotonic() - began:.0f} s)", flush=True)
        except (Failed, subprocess.TimeoutExpired) as why:
            failed += 1
            print(f"FAIL {step.__name__}: {why}", flush=True)
            show_trouble()
            break
    print("\n" + "\n".join(f"{seconds:7.1f} s  {what}" for what, seconds in figures))
    print(f"\ndeploy-test ({MODE}): after {time.monotonic() - started:.0f} s\n{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


MODE = (sys.argv[1:] or ["full"])[0]

if __name__ == "__main__":
    if MODE not in ("full", "short"):
        sys.exit(__doc__)
    sys.exit(main())
