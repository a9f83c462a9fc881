#!/usr/bin/env python3
"""The conformance run: see README.md beside this file. Run by `make conformance` and `make conformance-short`."""
import argparse
import dataclasses
import difflib
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.append(str(TOP / "tests/truth"))

from cluster import PASSWORD, Cluster, Proxy
from servers import regress_library
from sources import contrib_files, fetch

HERE = pathlib.Path(__file__).resolve().parent
# How the suite reaches the primary, and what proxy.toml says beside addresses and passwords.
WAYS = {"direct": None, "proxy": "", "spread": '[routing]\nfence_wait = "5s"\n'}
TAP = re.compile(r"^(ok|not ok) +\d+ +[-+] (\S+) +\d+ ms", re.M)


@dataclasses.dataclass
class Suite:
    """Tests that one call of pg_regress runs in one database. Its tests go by `name/test`, the first suite's by their own."""

    name: str
    folder: pathlib.Path
    arguments: list


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--program", type=pathlib.Path, default=TOP / "target/debug/pg-ha-proxy")
    arguments.add_argument("--folder", type=pathlib.Path, default=TOP / "target/conformance")
    arguments.add_argument("--schedule", type=pathlib.Path, help="this schedule instead of all suites")
    arguments.add_argument("--way", action="append", choices=[way for way in WAYS if way != "direct"], help="only these, beside direct")
    arguments.add_argument("--keep-direct", action="store_true", help="compare with the direct run of last time")
    arguments = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers end with us
    sources = fetch(TOP / "target/truth")
    runtime = (TOP / ".local/runtime").resolve()
    chosen = suites(sources, runtime, arguments.schedule)
    found, broken = {}, None
    for way in [way for way in WAYS if way == "direct" or way in (arguments.way or WAYS)]:
        folder = arguments.folder.resolve() / way
        if not (way == "direct" and arguments.keep_direct and folder.exists()):
            broken = run(way, folder, chosen, sources, runtime, arguments.program.resolve()) or broken
        found[way] = outcomes(folder, chosen)
    return 1 if report(found) or broken else 0


def suites(sources, runtime, schedule):
    """PostgreSQL's own suite, and those of contrib and pgvector that an installed server can run."""
    postgresql = sources["postgresql-18"]
    regress = postgresql / "src/test/regress"
    chosen = [Suite("", regress, [f"--schedule={(schedule or regress / 'parallel_schedule').resolve()}"])]
    if schedule:
        return chosen
    offered = {path.stem for path in (runtime / "pgsql/share/extension").glob("*.control")}
    for module in sorted((postgresql / "contrib").iterdir()):
        files = contrib_files(module)
        if files and module.name in offered and "NO_INSTALLCHECK" not in (text := (module / "Makefile").read_text()):
            chosen.append(Suite(module.name, module, re.findall(r"--load-extension=\w+", text) + [file.stem for file in files]))
    vector = sources["pgvector"] / "test"
    tests = sorted(file.stem for file in (vector / "sql").glob("*.sql"))
    return chosen + [Suite("vector", vector, ["--load-extension=vector", *tests])]


def run(way, folder, chosen, sources, runtime, program):
    """Runs the suites against a fresh cluster, straight or through a proxy; what was wrong with the proxy, if anything."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begun = time.monotonic()
    told, wrong = "", None
    with Cluster(runtime, program) as cluster:
        library = regress_library(sources["postgresql-18"] / "src/test/regress", cluster)["folder"]
        if way == "direct":
            count = sum(pg_regress(cluster, cluster.primary.port, folder, suite, library) for suite in chosen)
        else:
            with Proxy(cluster, folder, WAYS[way]) as proxy:
                count = sum(pg_regress(cluster, proxy.port, folder, suite, library) for suite in chosen)
                wrong = proxy.failure()
                told = "" if wrong else ", {primary} statements on the primary, {standby} on the standby".format(**proxy.statements())
        for server in (cluster.primary, cluster.standby):
            shutil.copy(cluster.folder / f"{server.name}.log", folder)
    print(f"conformance: {way}: {count} tests in {time.monotonic() - begun:.0f} s{told}", flush=True)
    if wrong:
        print(f"conformance: {wrong}: see {folder}/proxy.log")
    return wrong


def pg_regress(cluster, port, folder, suite, library):
    """Runs one suite and leaves its results in `folder`. How many tests there were."""
    work = cluster.folder / f"suite-{suite.name or 'regress'}"
    shutil.copytree(suite.folder, work)  # where the servers can read it, and their user write
    output = work / "output"
    output.mkdir()
    output.chmod(0o777)
    environment = dict(cluster.environment, PGPASSWORD=PASSWORD, HOME="/nonexistent")
    command = [
        cluster.bin.parent / "lib/pgxs/src/test/regress/pg_regress", f"--inputdir={work}", f"--expecteddir={work}",
        f"--outputdir={output}", f"--bindir={cluster.bin}", f"--dlpath={library}", "--host=127.0.0.1", f"--port={port}",
        "--user=postgres", *(["--dbname=contrib_regression"] if suite.name else []), *suite.arguments]
    kept = folder / suite.name
    kept.mkdir(exist_ok=True)
    with open(kept / "tap", "w+") as log:
        subprocess.run(command, env=environment, cwd=work, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **cluster.as_user)
        log.seek(0)
        result = log.read()
    if (output / "regression.diffs").exists():
        shutil.copy(output / "regression.diffs", kept)
    if (output / "results").exists():
        shutil.copytree(output / "results", kept / "results")
    shutil.rmtree(work)
    count = len(TAP.findall(result))
    if not count and not suite.name:
        raise SystemExit(f"pg_regress ran no test: {result}")
    return count


def outcomes(folder, chosen):
    """Test to (passed, what it printed)."""
    found = {}
    for suite in chosen:
        kept = folder / suite.name
        for verdict, test in TAP.findall((kept / "tap").read_text()):
            printed = kept / "results" / f"{test}.out"
            name = f"{suite.name}/{test}" if suite.name else test
            found[name] = (verdict == "ok", printed.read_bytes() if printed.exists() else None)
    return found


def differences(direct, proxy):
    """Tests that passed directly and not through the proxy, or failed in another way, each with the lines that differ."""
    found = {}
    for test, (passed, printed) in direct.items():
        passed_there, printed_there = proxy.get(test, (False, None))
        if passed != passed_there or (not passed and printed != printed_there):
            before, after = ((text or b"").decode("utf-8", "replace").splitlines() for text in (printed, printed_there))
            lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
            found[test] = [line[1:] for line in lines if not line.startswith("@@")] if printed_there else ["(printed nothing)"]
    return found


def is_known(reason, lines):
    """Whether a test's differing lines are those that its reason allows."""
    return reason is not None and all(any(re.fullmatch(allowed, line) for allowed in reason["lines"]) for line in lines)


def report(found):
    """Prints what came of it; true if a difference has no reason."""
    known = tomllib.loads((HERE / "known.toml").read_text())
    direct = found.pop("direct")
    print(f"\n{'':8} {'tests':>6} {'passed':>7} {'differing':>10} {'unexplained':>12}")
    print(f"{'direct':8} {len(direct):6} {sum(passed for passed, _ in direct.values()):7}")
    unexplained = []
    for way, proxy in found.items():
        differing = differences(direct, proxy)
        new = [test for test, lines in differing.items() if not is_known(known.get(test), lines)]
        passed = sum(passed for passed, _ in proxy.values())
        print(f"{way:8} {len(proxy):6} {passed:7} {len(differing):10} {len(new):12}")
        for test in differing:
            print(f"    {test}: {'UNEXPLAINED' if test in new else known[test]['why']}")
        unexplained += [f"{test} ({way})" for test in new]
    if unexplained:
        print(f"\nUnexplained: {', '.join(unexplained)}. See regression.diffs and results/ of that way.")
    return unexplained


if __name__ == "__main__":
    sys.exit(main())
