#!/usr/bin/env python3
"""The drivers' own suites, directly and through the proxy: see README.md beside this file. Run by `make drivers`."""
import argparse
import pathlib
import re
import signal
import sys
import time
import tomllib

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path += [str(TOP / "tests/truth"), str(TOP / "tests/conformance")]

import suites
from cluster import PASSWORD, Cluster, Member, Proxy

HERE = pathlib.Path(__file__).resolve().parent
WAYS = ("direct", "proxy")


class Roomy(Member):
    """With room for the prepared transactions that these suites make, and WAL that can be decoded."""

    def settings(self):
        return dict(super().settings(), max_prepared_transactions=20, wal_level="logical")


class Servers(Cluster):
    """Primary and standby of that kind."""

    server = Roomy


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--program", type=pathlib.Path, default=TOP / "target/debug/pg-ha-proxy")
    arguments.add_argument("--folder", type=pathlib.Path, default=TOP / "target/drivers")
    arguments.add_argument("--suite", action="append", choices=[suite.name for suite in suites.SUITES], help="only these")
    arguments.add_argument("--keep-direct", action="store_true", help="compare with the direct run of last time")
    arguments = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers end with us
    folder, runtime = arguments.folder.resolve(), (TOP / ".local/runtime").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [suite for suite in suites.SUITES if suite.name in (arguments.suite or suite.name)]
    python = suites.install(folder)
    sources = {suite.name: suites.fetch(folder, python, suite, runtime / "pgsql/bin") for suite in chosen}
    broken, told = None, {}
    for way in WAYS:
        kept = folder / way
        kept.mkdir(exist_ok=True)
        if way == "proxy" or not arguments.keep_direct:
            broken = run(way, kept, chosen, python, sources, runtime, arguments.program.resolve())
        told[way] = {suite.name: suites.outcomes(suite, kept) for suite in chosen}
    return 1 if report(chosen, told["direct"], told["proxy"]) or broken else 0


def run(way, kept, chosen, python, sources, runtime, program):
    """Runs the suites against a fresh cluster, straight or through the proxy; what was wrong with the proxy, if anything."""
    wrong = None
    with Servers(runtime, program) as cluster:
        def all_of_them(port):
            for suite in chosen:
                begun = time.monotonic()
                for old in kept.glob(f"{suite.name}.*"):
                    old.unlink()
                if suite.database:
                    cluster.psql(f"CREATE DATABASE {suite.database}")
                cluster.psql(suite.prepare, suite.database or "template1")
                suites.run(suite, python, sources[suite.name], port, PASSWORD, kept)
                count = len(suites.outcomes(suite, kept))
                print(f"drivers: {way}: {suite.name}: {count} tests in {time.monotonic() - begun:.0f} s", flush=True)

        if way == "direct":
            all_of_them(cluster.primary.port)
        else:
            with Proxy(cluster, kept) as proxy:
                all_of_them(proxy.port)
                wrong = proxy.failure()
                if not wrong:
                    print("drivers: {primary} statements on the primary, {standby} on the standby".format(**proxy.statements()))
    if wrong:
        print(f"drivers: {wrong}: see {kept}/proxy.log")
    return wrong


def report(chosen, direct, proxy):
    """Prints what came of it; true if a difference has no reason, or a suite didn't run."""
    known = tomllib.loads((HERE / "known.toml").read_text())
    print(f"\n{'':20} {'tests':>6} {'skipped':>8} {'direct':>8} {'proxy':>8} {'differing':>10} {'unexplained':>12}")
    bad = False
    for suite in chosen:
        there, here = direct[suite.name], proxy[suite.name]
        differing = {test for test in there | here if result(there, test) != result(here, test)}
        reasons = {test: reason(known.get(suite.name, []), test, there, here) for test in sorted(differing)}
        new = [test for test, why in reasons.items() if not why]
        skipped, passed, passed_there = count(there, "skipped"), count(there, "passed"), count(here, "passed")
        print(f"{suite.name:20} {len(there):6} {skipped:8} {passed:8} {passed_there:8} {len(differing):10} {len(new):12}")
        for test, why in reasons.items():
            print(f"    {test}: {why or 'UNEXPLAINED'}: {result(there, test)} directly, {result(here, test)} through the proxy")
        bad = bad or new or not passed
    print("\nWhat was printed is in target/drivers: direct/ and proxy/, by suite.")
    return bad


def count(found, wanted):
    return sum(outcome.result == wanted for outcome in found.values())


def result(found, test):
    return found[test].result if test in found else "missing"


def reason(known, test, direct, proxy):
    """Why a test may differ: the reason whose pattern is the test's whole name, if what the failing side said has `says` in it."""
    said = "\n".join(found[test].said for found in (direct, proxy) if test in found)
    for entry in known:
        if any(re.fullmatch(pattern, test) for pattern in entry["tests"]) and re.search(entry["says"], said):
            return entry["why"]
    return None


if __name__ == "__main__":
    sys.exit(main())
