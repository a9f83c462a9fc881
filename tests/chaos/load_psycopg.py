"""Load through psycopg 3: one thread a session. argv: conninfo, first client number, seconds of pause.

Prints one JSON line for each write, read and session event; ends when its standard input does."""

import json
import sys
import threading
import time

import psycopg

INSERT = (
    "INSERT INTO ledger (id, part, client) VALUES (%s, %s, %s) "
    "RETURNING left(pg_walfile_name(pg_current_wal_lsn()), 8)"
)
stop = threading.Event()
lock = threading.Lock()


def say(what, **entry):
    with lock:
        print(json.dumps({"what": what, **entry}), flush=True)


def outcome(connection, error):
    if connection.closed or connection.broken:
        return "closed", str(error)
    return getattr(error, "sqlstate", None) or type(error).__name__, str(error)


def autocommit(connection, write, client):
    return connection.execute(INSERT, (write, 1, client)).fetchone()[0]


def transaction(connection, write, client):
    """Two rows in one transaction."""
    with connection.transaction():
        connection.execute(INSERT, (write, 1, client))
        return connection.execute(INSERT, (write, 2, client)).fetchone()[0]


def session(connection, client, number, style, parts, pause):
    while not stop.is_set():
        number[0] += 1
        begun, result, text, timeline = time.time(), "ok", "", ""
        try:
            timeline = style(connection, number[0], client)
        except psycopg.Error as error:
            result, text = outcome(connection, error)
        say("write", client=client, id=number[0], parts=parts, begun=begun, ended=time.time(), outcome=result,
            text=text, timeline=timeline)
        if result == "closed":
            raise ConnectionError(text)
        if result == "ok":
            own_write(connection, client, number[0], parts)
        time.sleep(pause)


def own_write(connection, client, write, parts):
    begun, result, text, missing = time.time(), "ok", "", None
    try:
        seen = connection.execute("SELECT count(*) FROM ledger WHERE id = %s", (write,)).fetchone()[0]
        missing = write if seen < parts else None
    except psycopg.Error as error:
        result, text = outcome(connection, error)
    say("read", client=client, kind="own", begun=begun, ended=time.time(), outcome=result, text=text,
        missing=missing)
    if result == "closed":
        raise ConnectionError(text)


def run(conninfo, client, number, style, parts, pause):
    numbers = [number * 1_000_000_000]
    while not stop.is_set():
        try:
            connection = psycopg.connect(conninfo, autocommit=True, application_name=client)
        except psycopg.OperationalError:
            time.sleep(0.05)
            continue
        say("session", client=client, at=time.time(), lost=False, text="")
        try:
            with connection:
                session(connection, client, numbers, style, parts, pause)
        except (ConnectionError, psycopg.Error) as error:
            say("session", client=client, at=time.time(), lost=True, text=str(error))


def main():
    conninfo, first, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    styles = [("psycopg-autocommit", autocommit, 1), ("psycopg-transaction", transaction, 2)]
    threads = [
        threading.Thread(target=run, args=(conninfo, name, first + at, style, parts, pause))
        for at, (name, style, parts) in enumerate(styles)
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()


main()
