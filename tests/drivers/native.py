"""Suites of drivers that are no Python: each is programs that are called one by one, with a time limit each and one for all of them.

What is special to a language is beside this file: rust.py, golang.py, perl.py.
"""
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import time

# A test that hangs is killed after this long, and a suite's remaining tests fail when it takes longer than that.
CASE_SECONDS, SUITE_SECONDS = 60, 1200


@dataclasses.dataclass
class Case:
    """One call of a program: `name` stands for all that it runs if it can't tell."""

    name: str
    command: list
    folder: pathlib.Path
    seconds: int = CASE_SECONDS


class Suite:
    """One driver's suite: where it comes from, what it calls, and how what that printed is read."""

    name, database, prepare, runner = "", "", "", "native"

    def fetch(self, folder, runtime):
        """Has it below `folder`, ready to run; where. `runtime` has PostgreSQL's programs and libraries."""
        raise NotImplementedError

    def environment(self, source, port, password):
        """What its programs find in their environment beside `surroundings`."""
        return {}

    def cases(self, source, environment):
        """The programs to call."""
        raise NotImplementedError

    def read(self, case, printed, code):
        """What came of a call: test to (result, what it said)."""
        raise NotImplementedError


def surroundings(suite, port, password):
    return {
        "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": "/nonexistent", "PGHOST": "127.0.0.1", "PGPORT": str(port),
        "PGUSER": "postgres", "PGPASSWORD": password, "PGDATABASE": suite.database}


def run(suite, source, port, password, kept):
    """Runs all its cases against `port`; what they printed and came to is left in `kept`, by the suite's name."""
    environment = surroundings(suite, port, password) | suite.environment(source, port, password)
    found, end = {}, time.monotonic() + SUITE_SECONDS
    with open(kept / f"{suite.name}.log", "w") as log:
        for case in suite.cases(source, environment):
            begun = time.monotonic()
            left = min(case.seconds, end - begun)
            printed, code = call(case, environment, left) if left > 0 else ("the suite took too long", None)
            log.write(f"=== {case.name}: {code} after {time.monotonic() - begun:.1f} s\n{printed}\n")
            found |= suite.read(case, printed, code) or {case.name: ("failed", printed)}
    (kept / f"{suite.name}.json").write_text(json.dumps(found))


def call(case, environment, seconds):
    """What a program printed, and its exit status, None if it was killed for its time."""
    process = subprocess.Popen(case.command, cwd=case.folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True)
    try:
        printed, code = process.communicate(timeout=seconds)[0], process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, code = process.communicate()[0] + b"\nkilled: it took too long", None
    return printed.decode(errors="replace"), code
