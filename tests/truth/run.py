#!/usr/bin/env python3
"""The truth run: see README.md beside this file. Run by `make truth`."""
import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

from account import Account
from grammar import compare
from judge import Judge
from relay import Relay
from servers import Pair, regress_library
from sources import fetch, suites
from wire import Session

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
FILE_SECONDS = 300
GENERATED = 20_000


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--programs", type=pathlib.Path, default=TOP / "target/debug")
    arguments.add_argument("--folder", type=pathlib.Path, default=TOP / "target/truth")
    arguments.add_argument("--source", action="append", choices=["regress", "contrib", "pgvector"], help="only these")
    arguments.add_argument("files", nargs="*", help="only files of these names, without .sql; their suites' first ones too")
    arguments = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers end with us
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    sources = fetch(folder)
    runtime = (TOP / ".local/runtime").resolve()
    judge = Judge(arguments.programs)
    account = Account(folder, judge)
    with Pair(runtime) as pair:
        relay = Relay(pair, judge, account)
        library = regress_library(sources["postgresql-18"] / "src/test/regress", pair)
        offered = {path.stem for path in (runtime / "pgsql/share/extension").glob("*.control")}
        chosen = [suite for suite in suites(sources, offered) if suite.source in (arguments.source or suite.source)]
        for suite in chosen:
            run_suite(suite, set(arguments.files), pair, relay, account, library)
    right = account.print()
    right &= compare(judge, grammar(folder), texts(folder), GENERATED, int(os.environ.get("TRUTH_SEED", random.randrange(10**6))))
    judge.close()
    return 0 if right else 1


def grammar(folder):
    """PostgreSQL's parser, from PyPI into a folder of its own."""
    target = folder / "python"
    if not (target / "pglast").is_dir():
        requirements = pathlib.Path(__file__).with_name("requirements.txt")
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", target, "-r", requirements], check=True)
    sys.path.append(str(target))
    from pglast.parser import parse_sql_json
    return parse_sql_json


def texts(folder):
    """What the primary took, each text once."""
    records = map(json.loads, open(folder / "records.jsonl"))
    return list(dict.fromkeys(record["sql"] for record in records if record["primary"] is None))


def run_suite(suite, only, pair, relay, account, library):
    chosen = [file for file in suite.files if not only or file.stem in only or file.stem == "test_setup"]
    if only and not any(file.stem in only for file in chosen):
        return
    postgres = Session(pair.primary.port, b"postgres", b"postgres")
    postgres.rows(f"CREATE DATABASE {suite.database} TEMPLATE template0")
    for setting in ("lc_messages TO 'C'", "bytea_output TO 'hex'", "timezone_abbreviations TO 'Default'"):
        postgres.rows(f"ALTER DATABASE {suite.database} SET {setting}")
    postgres.close()
    if suite.prepare:
        session = Session(pair.primary.port, b"postgres", suite.database.encode())
        session.rows(suite.prepare)
        session.close()
    for file in chosen:
        begun = time.monotonic()
        before = account.counts[suite.source]["strings"]
        account.begin(suite.source, f"{suite.source}/{file.parent.parent.name}/{file.stem}")
        run_file(file, suite, pair, relay, library)
        if relay.error:
            raise relay.error
        strings = account.counts[suite.source]["strings"] - before
        print(f"truth: {suite.source} {file.stem}: {strings} strings in {time.monotonic() - begun:.1f} s", flush=True)


def run_file(file, suite, pair, relay, library):
    environment = dict(
        pair.environment, HOME="/nonexistent", PGHOST="127.0.0.1", PGPORT=str(relay.port),
        PGUSER="postgres", PGDATABASE=suite.database, PGTZ="America/Los_Angeles", PGDATESTYLE="Postgres, MDY",
        PG_ABS_SRCDIR=str(library["sources"] if suite.source == "regress" else suite.folder),
        PG_ABS_BUILDDIR=str(pair.folder), PG_LIBDIR=str(library["folder"]), PG_DLSUFFIX=".so", PGSSLMODE="disable",
        PGGSSENCMODE="disable", PG_TEST_TIMEOUT_DEFAULT="60")
    process = subprocess.Popen(
        [pair.bin / "psql", "-X", "-a", "-q", "-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on", "-f", file],
        env=environment, cwd=suite.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(FILE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        print(f"truth: {file.stem} was ended after {FILE_SECONDS} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
