"""Load through asyncpg: one task a session. argv: dsn, first client number, seconds of pause.

Prints one JSON line for each write, read and session event; ends when its standard input does."""

import asyncio
import json
import sys
import time

import asyncpg

INSERT = (
    "INSERT INTO ledger (id, part, client) VALUES ($1, $2, $3) "
    "RETURNING left(pg_walfile_name(pg_current_wal_lsn()), 8)"
)
FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, asyncio.TimeoutError)
stop = asyncio.Event()


def say(what, **entry):
    print(json.dumps({"what": what, **entry}), flush=True)


def outcome(connection, error):
    if connection.is_closed():
        return "closed", str(error)
    return getattr(error, "sqlstate", None) or type(error).__name__, str(error)


async def autocommit(connection, write, client):
    return await connection.fetchval(INSERT, write, 1, client)


async def transaction(connection, write, client):
    """Two rows in one transaction."""
    async with connection.transaction():
        await connection.fetchval(INSERT, write, 1, client)
        return await connection.fetchval(INSERT, write, 2, client)


async def session(connection, client, number, style, parts, pause):
    while not stop.is_set():
        number[0] += 1
        begun, result, text, timeline = time.time(), "ok", "", ""
        try:
            timeline = await style(connection, number[0], client)
        except FAILURES as error:
            result, text = outcome(connection, error)
        say("write", client=client, id=number[0], parts=parts, begun=begun, ended=time.time(), outcome=result,
            text=text, timeline=timeline)
        if result == "closed":
            raise ConnectionError(text)
        if result == "ok":
            await own_write(connection, client, number[0], parts)
        await asyncio.sleep(pause)


async def own_write(connection, client, write, parts):
    begun, result, text, missing = time.time(), "ok", "", None
    try:
        seen = await connection.fetchval("SELECT count(*) FROM ledger WHERE id = $1", write)
        missing = write if seen < parts else None
    except FAILURES as error:
        result, text = outcome(connection, error)
    say("read", client=client, kind="own", begun=begun, ended=time.time(), outcome=result, text=text,
        missing=missing)
    if result == "closed":
        raise ConnectionError(text)


async def run(dsn, client, number, style, parts, pause):
    numbers = [number * 1_000_000_000]
    while not stop.is_set():
        try:
            settings = {"application_name": client}
            connection = await asyncpg.connect(dsn, server_settings=settings, command_timeout=120)
        except FAILURES:
            await asyncio.sleep(0.05)
            continue
        say("session", client=client, at=time.time(), lost=False, text="")
        try:
            await session(connection, client, numbers, style, parts, pause)
        except FAILURES as error:
            say("session", client=client, at=time.time(), lost=True, text=str(error))
        finally:
            try:
                await connection.close(timeout=2)
            except FAILURES:
                connection.terminate()


async def main():
    dsn, first, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    styles = [("asyncpg-autocommit", autocommit, 1), ("asyncpg-transaction", transaction, 2)]
    clients = [
        asyncio.ensure_future(run(dsn, name, first + at, style, parts, pause))
        for at, (name, style, parts) in enumerate(styles)
    ]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    stop.set()
    await asyncio.gather(*clients)


asyncio.run(main())
