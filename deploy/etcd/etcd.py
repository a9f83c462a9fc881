#!/usr/bin/python3
"""What the cluster needs of etcd besides Patroni: its users, and Patroni's keys taken away where that is safe.

  users             makes root, Patroni's user and the proxy's read-only one, switches authentication on; as root.
                    Run again, it sets Patroni's password to what the secret holds now.
  unlock-bootstrap  takes the `initialize` key away if a bootstrap that was cut short left it empty; as Patroni's user
  forget-cluster    takes all of Patroni's keys away: the next member that starts leads with its data

It speaks to etcd's JSON gateway, as Patroni does. The endpoints are PATRONI_ETCD3_HOSTS.
"""

import base64
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request

PREFIX = "/pg-ha-cluster/"
SECRETS = "/run/secrets"
DEADLINE_SECONDS = 120


class Refused(Exception):
    """etcd answered, with an error."""


class Etcd:
    """etcd over its gateway, at whichever endpoint answers."""

    def __init__(self, certificate):
        self.endpoints = [f"https://{host.strip()}" for host in os.environ["PATRONI_ETCD3_HOSTS"].split(",")]
        self.context = ssl.create_default_context(cafile=f"{SECRETS}/ca.crt")
        self.context.load_cert_chain(certificate)
        self.token = None

    def call(self, path, **body):
        """One request, tried at every endpoint until one answers or the deadline is over."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            for endpoint in self.endpoints:
                try:
                    return self._post(endpoint, path, body)
                except OSError as why:
                    last = f"{endpoint}: {why}"
            if time.monotonic() > deadline:
                sys.exit(f"pg-ha: etcd doesn't answer: {last}")
            time.sleep(1)

    def _post(self, endpoint, path, body):
        headers = {"Authorization": self.token} if self.token else {}
        request = urllib.request.Request(endpoint + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=5, context=self.context) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            message = error.read().decode(errors="replace")
            # No leader yet, or a member that is starting: another try may do.
            if error.code in (503, 504):
                raise OSError(message) from error
            raise Refused(message) from error

    def log_in(self, name, password):
        """Takes a token; without authentication none is needed."""
        try:
            # The token holds at the endpoint that gave it alone, so stay with that one.
            for endpoint in self.endpoints:
                try:
                    self.token = self._post(endpoint, "/v3/auth/authenticate", {"name": name, "password": password})["token"]
                except OSError:
                    continue
                self.endpoints = [endpoint]
                return
            raise OSError("no endpoint answers")
        except Refused as why:
            if "not enabled" not in str(why):
                raise

    def log_in_patiently(self, name, password):
        """As log_in, while etcd may still be starting."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                return self.log_in(name, password)
            except OSError as why:
                if time.monotonic() > deadline:
                    sys.exit(f"pg-ha: etcd doesn't answer: {why}")
                time.sleep(1)

    def unless_there(self, path, **body):
        """A call whose refusal because it was done before is no error."""
        try:
            self.call(path, **body)
        except Refused as why:
            if "already" not in str(why):
                raise


def secret(name):
    with open(f"{SECRETS}/{name}", encoding="utf-8") as file:
        return file.read().strip()


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def prefix_end(prefix):
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def under(prefix):
    return {"key": encoded(prefix), "range_end": encoded(prefix_end(prefix))}


def make_users():
    etcd = Etcd(f"{SECRETS}/etcd-root.pem")
    passwords = {"root": secret("etcd-root-password"), "patroni": secret("etcd-patroni-password")}
    etcd.log_in_patiently("root", passwords["root"])
    roles = {"patroni": "READWRITE", "pgha": "READ"}
    etcd.unless_there("/v3/auth/role/add", name="root")
    for role, kind in roles.items():
        etcd.unless_there("/v3/auth/role/add", name=role)
        etcd.call("/v3/auth/role/grant", name=role, perm={"permType": kind, **under(PREFIX)})
    for user, password in passwords.items():
        etcd.unless_there("/v3/auth/user/add", name=user, password=password)
        # Root has just logged in with its own, and a change would end the token in use.
        if user != "root":
            etcd.call("/v3/auth/user/changepw", name=user, password=password)
    # The proxy logs in by its certificate's name alone.
    etcd.unless_there("/v3/auth/user/add", name="pgha", options={"no_password": True})
    # Health checks show etcd's own certificates: users that may do nothing, else each check is an error in its log.
    for host in os.environ["PATRONI_ETCD3_HOSTS"].split(","):
        etcd.unless_there("/v3/auth/user/add", name=host.strip().split(":")[0], options={"no_password": True})
    for user in ("root", *roles):
        etcd.call("/v3/auth/user/grant", user=user, role=user)
    etcd.unless_there("/v3/auth/enable")
    print("pg-ha: etcd: authentication is on; users root, patroni (read and write) and pgha (read)")


def as_patroni():
    etcd = Etcd("/run/pg-ha/node.pem")
    etcd.log_in_patiently("patroni", secret("etcd-patroni-password"))
    return etcd


def unlock_bootstrap():
    etcd, key = as_patroni(), encoded(PREFIX + "initialize")
    # Only while it is empty: the system identifier in it means that another member has made the cluster meanwhile.
    empty = {"key": key, "target": "VALUE", "result": "EQUAL", "value": ""}
    answer = etcd.call("/v3/kv/txn", compare=[empty], success=[{"request_delete_range": {"key": key}}])
    print("pg-ha: etcd: the bootstrap lock", "is free again" if answer.get("succeeded") else "is not this member's")


def forget_cluster():
    answer = as_patroni().call("/v3/kv/deleterange", **under(PREFIX))
    print("pg-ha: etcd: Patroni's keys taken away:", answer.get("deleted", 0))


COMMANDS = {"users": make_users, "unlock-bootstrap": unlock_bootstrap, "forget-cluster": forget_cluster}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    try:
        COMMANDS[sys.argv[1]]()
    except (Refused, OSError) as trouble:
        sys.exit(f"pg-ha: etcd: {trouble}")
