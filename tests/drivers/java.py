"""The tests of jdbc/: where the JDBC driver and what they need besides come from, how they are run, and what came of them.

The jars are those of Debian's packages, fetched by apt with lists of its own below the run's folder.
"""
import difflib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml

import debian

HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = """libpostgresql-jdbc-java junit5 libapiguardian-java libopentest4j-java libopentest4j-reporting-java libpicocli-java
    libunivocity-parsers-java libhikaricp-java libslf4j-java""".split()
JARS = "postgresql junit-jupiter-* junit-platform-* apiguardian-api opentest4j opentest4j-reporting-* picocli univocity-parsers HikariCP slf4j-api slf4j-nop".split()
# Of one test, and of all of them.
TEST_SECONDS, ALL_SECONDS = 60, 1500
# Lines of an account that are told of a test that differs.
SHOWN = 12


def fetch(folder):
    """The folder with the jars, fetched if they aren't there yet."""
    if not shutil.which("javac"):
        raise SystemExit("drivers: the JDBC tests want a JDK: apt-get install default-jdk-headless")
    target = folder / "sources/java"
    if target.is_dir():
        return target
    fresh = target.with_name("java.new")
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "packages").mkdir(parents=True)
    for suite in debian.SUITES:
        options = debian.prepare(folder / "apt" / suite, suite)
        command = ["apt-get", *options, "download", *PACKAGES]
        if subprocess.run(command, cwd=fresh / "packages", capture_output=True).returncode == 0:
            break
    else:
        raise SystemExit(f"drivers: Debian's {' '.join(PACKAGES)} can't be had from any of {', '.join(debian.SUITES)}")
    for package in (fresh / "packages").glob("*.deb"):
        print(f"drivers: {package.name} from {suite}", flush=True)
        subprocess.run(["dpkg-deb", "-x", package, fresh / "unpacked"], check=True)
    for jar in JARS:
        for path in (fresh / "unpacked/usr/share/java").glob(f"{jar}.jar"):
            # Each is there by a second name too, as a link; and the launcher once more with all that it needs inside.
            if not path.is_symlink() and "standalone" not in path.name or jar == path.stem:
                shutil.copy(path, fresh / path.name)
    shutil.rmtree(fresh / "unpacked")
    fresh.rename(target)
    return target


def run(suite, jars, port, password, kept):
    """Compiles the tests and runs them against `port`; what they printed, came to and were told is left in `kept`, by the suite's name."""
    work = kept / suite.name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    classpath = f"{work}/classes:{jars}/*"
    environment = {
        "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": "/nonexistent", "PGHOST": "127.0.0.1", "PGPORT": str(port),
        "PGUSER": "postgres", "PGPASSWORD": password, "PGDATABASE": suite.database}
    settings = {"junit.jupiter.execution.timeout.testable.method.default": f"{TEST_SECONDS} s",
                "junit.jupiter.execution.timeout.thread.mode.default": "SEPARATE_THREAD"}
    with open(kept / f"{suite.name}.log", "w") as log:
        def call(*command):
            try:
                return subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=ALL_SECONDS)
            except subprocess.TimeoutExpired:
                print(f"drivers: {suite.name} took longer than {ALL_SECONDS} s", file=sys.stderr)

        call("javac", "-nowarn", "-encoding", "UTF-8", "-d", work / "classes", "-cp", classpath, *sorted((HERE / "jdbc").glob("*.java")))
        call("java", "-cp", classpath, "org.junit.platform.console.ConsoleLauncher", "--scan-classpath", work / "classes",
             "--include-classname", ".*Test", "--reports-dir", work / "reports", "--details", "tree", "--disable-banner",
             *(f"--config={key}={value}" for key, value in settings.items()), *suite.arguments)
    report = work / "reports/TEST-junit-jupiter.xml"
    if report.exists():
        report.rename(kept / f"{suite.name}.xml")
    shutil.rmtree(work)


def outcomes(suite, kept):
    """Test to its result and what it said, of the last run. Through the proxy a test fails too if its account is not that of the direct run."""
    found = {test: (result, said) for test, (result, said, _) in read(suite, kept).items()}
    if kept.name == "proxy":
        direct = read(suite, kept.with_name("direct"))
        for test, (result, _, account) in read(suite, kept).items():
            if result == "passed" and test in direct and direct[test][0] == "passed" and account != direct[test][2]:
                found[test] = ("failed", difference(direct[test][2], account))
    return found


def read(suite, kept):
    """Test to result, what it said, and its account."""
    path = kept / f"{suite.name}.xml"
    found = {}
    for case in xml.parse(path).iter("testcase") if path.exists() else ():
        told = "\n".join(part.text or "" for part in case.iter("system-out"))
        name = re.search(r"^display-name: (.*)$", told, re.M)[1].split(" > ", 3)[-1]
        method = re.sub(r"[({].*", "", case.get("name"))
        test = f"{case.get('classname')}.{method}" + ("" if name.startswith(method) else f" {name}")
        failures = [part for part in case if part.tag in ("failure", "error")]
        said = "\n".join(part.text or part.get("message") or "" for part in failures)
        result = "failed" if failures else "skipped" if case.find("skipped") is not None else "passed"
        found[test] = (result, said, told.partition("\t- told: ")[2])
    return found


def difference(direct, proxy):
    lines = [line for line in difflib.unified_diff(direct.splitlines(), proxy.splitlines(), "direct", "proxy", lineterm="", n=1)]
    return "\n".join(lines[:SHOWN] + ["…"] * (len(lines) > SHOWN))
