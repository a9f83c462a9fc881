"""Patroni's `postgresql.before_stop`: at a planned switchover, open transactions may end before PostgreSQL is stopped.

    before_stop: python3 before_stop.py --configuration=/path/to/patroni.yml --seconds=10

Patroni runs it and waits for it, whatever it stops PostgreSQL for. It waits for nothing unless the `failover` key in etcd
announces a switchover: a primary that lost its lock has to go at once. Then it waits until no client has a transaction open or
a statement under way, so many seconds at most. The proxy begins no new ones meanwhile, and cuts those that are open for
longer than its `failover.drain`. It never fails a stop: on any error it says so and lets Patroni go on.
"""

import argparse
import base64
import json
import os
import shutil
import ssl
import subprocess
import sys
import urllib.request

# One request to etcd, in seconds: it is there, or the lock is about to be lost and nobody may wait.
ETCD_TIMEOUT = 0.5

# The proxy's own roles ask all the time, and an aborted transaction has nothing left to end.
OPEN = """
SELECT FROM pg_catalog.pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()
    AND state IN ('active', 'idle in transaction', 'fastpath function call')
    AND usename NOT IN ('pgha_monitor', 'pgha_lookup')
"""

WAIT = """
DO $wait$ BEGIN
    WHILE EXISTS ({open}) AND clock_timestamp() < now() + interval '{seconds} s' LOOP
        PERFORM pg_catalog.pg_sleep(0.02);
        PERFORM pg_catalog.pg_stat_clear_snapshot();
    END LOOP;
END $wait$;
SELECT count(*) FROM ({open}) AS still_open;
"""


def settings(path):
    """Patroni's configuration: a file, or a folder whose files are laid over each other in their names' order."""
    if not os.path.isdir(path):
        return read(path)
    merged = {}
    for name in sorted(name for name in os.listdir(path) if name.endswith((".yml", ".yaml"))):
        lay_over(merged, read(os.path.join(path, name)) or {})
    return merged


def read(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        return json.loads(text)
    except ValueError:
        import yaml  # Patroni needs it too.

        return yaml.safe_load(text)


def lay_over(below, above):
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            lay_over(below[key], value)
        else:
            below[key] = value


def announced(patroni):
    """Whether a switchover is announced, by any of etcd's members."""
    etcd = patroni["etcd3"]
    hosts = etcd.get("hosts") or [etcd["host"]]
    hosts = hosts.split(",") if isinstance(hosts, str) else hosts
    context = None
    if etcd.get("protocol") == "https":
        context = ssl.create_default_context(cafile=etcd.get("cacert"))
        if etcd.get("cert"):
            context.load_cert_chain(etcd["cert"], etcd.get("key"))
    parts = [patroni.get("namespace", "/service").strip("/"), patroni["scope"], "failover"]
    key = "/" + "/".join(part for part in parts if part)
    for host in hosts:
        base = f"{etcd.get('protocol', 'http')}://{host.strip()}"
        try:
            token = None
            if etcd.get("username"):
                login = {"name": etcd["username"], "password": etcd["password"]}
                token = ask(base + "/v3/auth/authenticate", login, None, context)["token"]
            wanted = {"key": base64.b64encode(key.encode()).decode()}
            found = ask(base + "/v3/kv/range", wanted, token, context).get("kvs", [])
        except (OSError, ValueError, KeyError) as error:
            say(f"{base}: {error}")
            continue
        value = base64.b64decode(found[0].get("value", "")) if found else b""
        return bool(value.strip() and json.loads(value))
    return False


def ask(url, body, token, context):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    if token:
        request.add_header("Authorization", token)
    with urllib.request.urlopen(request, timeout=ETCD_TIMEOUT, context=context) as answer:
        return json.load(answer)


def wait(postgresql, seconds):
    """Waits for the transactions; how many are open still."""
    parameters = postgresql.get("parameters", {})
    host, port = (postgresql["listen"].rsplit(":", 1) + ["5432"])[:2]
    sockets = parameters.get("unix_socket_directories", "/var/run/postgresql").split(",")[0]
    host = sockets if postgresql.get("use_unix_socket") else host.split(",")[0]
    superuser = postgresql["authentication"]["superuser"]
    psql = os.path.join(postgresql["bin_dir"], "psql") if postgresql.get("bin_dir") else shutil.which("psql")
    command = [psql, "-XAtq", "-h", host, "-p", port, "-U", superuser.get("username", "postgres"), "-d", "postgres"]
    environment = dict(os.environ, PGPASSWORD=str(superuser.get("password", "")), PGCONNECT_TIMEOUT="2")
    sql = WAIT.format(open=OPEN, seconds=seconds)
    done = subprocess.run(command, input=sql, env=environment, stdout=subprocess.PIPE, text=True, timeout=seconds + 5,
                          check=True)
    return int(done.stdout.strip())


def say(text):
    print(f"before_stop: {text}", file=sys.stderr, flush=True)


def main():
    arguments = argparse.ArgumentParser(description="Patroni's before_stop: waits for open transactions")
    arguments.add_argument("--configuration", required=True, help="Patroni's own configuration, a file or a folder")
    arguments.add_argument("--seconds", type=float, default=10, help="how long it waits at most")
    given = arguments.parse_args()
    patroni = settings(given.configuration)
    if announced(patroni):
        left = wait(patroni["postgresql"], given.seconds)
        say(f"a switchover: {left} transactions still open")


try:
    main()
except Exception as error:  # Whatever it is, PostgreSQL has to be stopped.
    say(f"{type(error).__name__}: {error}")
