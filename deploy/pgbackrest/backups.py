#!/usr/bin/python3
"""Backups when they are due, on whichever member leads, and their age for Prometheus.

Runs on every member beside Patroni. On the one that leads: the stanza is made where it is missing, then a full backup
once the last one is older than PGHA_BACKUP_FULL_EVERY (default 7d), a differential one once the last of any kind is older
than PGHA_BACKUP_DIFF_EVERY (1d). Age instead of a clock: a schedule that no change of the leader misses or doubles.

On port 9854, for clients with a certificate of the cluster's CA: /metrics.
"""

import http.server
import json
import os
import ssl
import subprocess
import threading
import time

EVERY_SECONDS = 15
STANZA = "pg-ha"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text):
    """A duration such as 7d or 90m."""
    return int(text[:-1]) * UNITS[text[-1]]


FULL_EVERY = seconds(os.environ.get("PGHA_BACKUP_FULL_EVERY", "7d"))
DIFF_EVERY = seconds(os.environ.get("PGHA_BACKUP_DIFF_EVERY", "1d"))


def say(text):
    print("pg-ha: backups:", text, flush=True)


def output(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def pgbackrest(*arguments):
    return subprocess.run(["pgbackrest", f"--stanza={STANZA}", *arguments], check=False).returncode == 0


class State:
    """What was last seen; read by the metrics' thread."""

    leads = False
    repository_is_fine = False
    # By type (full, diff, incr): when the newest one was done, in seconds since 1970, and its size in the repository.
    newest = {}
    archive_failures = 0
    failed_backups = 0


def look(state):
    """Asks PostgreSQL and the repository."""
    row = output("psql", "-XAtq", "-d", "postgres", "-c",
                 "SELECT pg_is_in_recovery(), failed_count FROM pg_stat_archiver").split("|")
    state.leads, state.archive_failures = row[0] == "f", int(row[1])
    stanzas = json.loads(output("pgbackrest", f"--stanza={STANZA}", "--output=json", "info"))
    # 2: no backup yet, which is no error.
    state.repository_is_fine = bool(stanzas) and stanzas[0]["status"]["code"] in (0, 2)
    newest = {}
    for backup in stanzas[0].get("backup", []) if stanzas else []:
        if not backup.get("error"):
            size = backup["info"]["repository"].get("delta", 0)
            newest[backup["type"]] = (backup["timestamp"]["stop"], size)
    state.newest = newest


def due(state, now):
    """The type of the backup that is due, or None."""
    full = state.newest.get("full", (0, 0))[0]
    any_kind = max([stop for stop, _size in state.newest.values()], default=0)
    if now - full >= FULL_EVERY:
        return "full"
    return "diff" if now - any_kind >= DIFF_EVERY else None


def step(state):
    look(state)
    if not state.leads:
        return
    if not state.repository_is_fine:
        pgbackrest("stanza-create")
        return
    kind = due(state, time.time())
    if kind:
        say(f"a {kind} backup begins")
        started = time.monotonic()
        if pgbackrest(f"--type={kind}", "backup"):
            say(f"the {kind} backup is done, in {time.monotonic() - started:.0f} s")
        else:
            state.failed_backups += 1
            say(f"the {kind} backup failed; the next try is in a minute")
            time.sleep(60)
        look(state)


def metrics(state):
    member = os.environ["PATRONI_NAME"]
    lines = []

    def family(name, kind, description, samples):
        lines.append(f"# HELP {name} {description}\n# TYPE {name} {kind}")
        for labels, value in samples:
            labels = ",".join(f'{key}="{value}"' for key, value in {"member": member, **labels}.items())
            lines.append(f"{name}{{{labels}}} {value}")

    family("pgha_backup_last_seconds", "gauge", "When the newest backup was done, since 1970.",
           [({"type": kind}, stop) for kind, (stop, _size) in state.newest.items()])
    family("pgha_backup_last_bytes", "gauge", "What the newest backup added to the repository.",
           [({"type": kind}, size) for kind, (_stop, size) in state.newest.items()])
    family("pgha_backup_repository_ok", "gauge", "1 while the repository answers and is fine.",
           [({}, int(state.repository_is_fine))])
    family("pgha_backup_failed_total", "counter", "Backups that failed on this member.", [({}, state.failed_backups)])
    family("pgha_archive_failed_total", "counter", "WAL segments that could not be archived at once.",
           [({}, state.archive_failures)])
    return "\n".join(lines) + "\n"


def serve(state):
    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self):  # noqa: N802, the base class's name
            found = self.path == "/metrics"
            body = (metrics(state) if found else "no such path\n").encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def get_request(self):
            # The handshake is left to the request's own thread: a client that never ends it holds up nobody else.
            connection, address = super().get_request()
            connection.settimeout(10)
            # A context for each, so that renewed certificates are taken up.
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile="/run/pg-ha/ca.crt")
            context.load_cert_chain("/run/pg-ha/node.pem")
            context.verify_mode = ssl.CERT_REQUIRED
            return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

        def handle_error(self, request, client_address):
            pass

    Server(("", 9854), Handler).serve_forever()


def main():
    state = State()
    threading.Thread(target=serve, args=(state,), daemon=True).start()
    trouble = None
    while True:
        try:
            step(state)
            trouble = None
        except (subprocess.SubprocessError, OSError, ValueError, IndexError, KeyError) as why:
            # PostgreSQL is away while it is cloned, rewound or restarted: said once each time.
            state.leads = False
            if trouble != str(why):
                trouble = str(why)
                say(f"waiting: {trouble}")
        time.sleep(EVERY_SECONDS)


if __name__ == "__main__":
    main()
