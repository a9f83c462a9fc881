"""The suites of Go's drivers: from Debian's source packages, built with Debian's Go and its packages of what they import, in GOPATH mode.

All is unpacked below the run's folder. Debian keeps no version for long, so that none is pinned but by its suites: what was had is printed.
"""
import json
import os
import re
import shutil
import subprocess

import debian
import native

# Asked in this order: pgx 5 is younger than Debian's stable suite, and wants a Go that is too.
SUITES_OF_DEBIAN = ("forky", "sid")
IMPORTED = """golang-github-jackc-pgpassfile-dev golang-github-jackc-pgservicefile-dev golang-github-jackc-puddle-v2-dev
    golang-github-stretchr-testify-dev golang-github-stretchr-objx-dev golang-github-davecgh-go-spew-dev golang-github-pmezard-go-difflib-dev
    golang-gopkg-yaml.v3-dev golang-golang-x-sync-dev golang-golang-x-text-dev""".split()
# A test that makes 100,000 statements has more time than the others.
SLOW = {"./TestListenNotifyWhileBusyIsSafe": 300}


class Module(native.Suite):
    """A module's tests: one process for each test function of each of its `packages`."""

    def __init__(self, name, source, path, packages, prepare, environment):
        self.name, self.source, self.path, self.packages, self.prepare, self.words = name, source, path, packages, prepare, environment
        self.database = f"{name}_test"

    def fetch(self, folder, runtime):
        go, root = folder / "go", toolchain(folder)
        target = go / "path/src" / self.path
        if not (target / "tests.json").exists():
            archive, suite = debian.source(folder, self.source, SUITES_OF_DEBIAN)
            print(f"drivers: {archive.name} from {suite}", flush=True)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            debian.unpack(archive, target)
            environment = dict(os.environ, GOROOT=str(root), GOPATH=f"{go}/path:{go}/usr/share/gocode", GO111MODULE="off", GOCACHE=str(go / "cache"),
                               CGO_ENABLED="0", GOTELEMETRY="off")
            built = {}
            for package in self.packages:
                built[package] = str(go / "tests" / self.name / re.sub(r"\W", "_", package))
                subprocess.run([root / "bin/go", "test", "-c", "-vet=off", "-o", built[package], f"./{package}"], cwd=target, env=environment, check=True)
            (target / "tests.json").write_text(json.dumps(built))
        return target

    def environment(self, source, port, password):
        return {name: text.format(port=port, password=password, database=self.database) for name, text in self.words.items()}

    def cases(self, source, environment):
        for package, program in json.loads((source / "tests.json").read_text()).items():
            listed = subprocess.run([program, "-test.list", "."], cwd=source / package, env=environment, capture_output=True, text=True, check=True).stdout
            for name in re.findall(r"^(?:Test|Example|Fuzz)\w*$", listed, re.M):
                seconds = SLOW.get(f"{package}/{name}", native.CASE_SECONDS)
                # Go tells where it hangs before it is killed.
                command = [program, "-test.v", "-test.run", f"^{name}$", "-test.timeout", f"{seconds - 10}s"]
                yield native.Case(f"{package}/{name}", command, source / package, seconds)

    def read(self, case, printed, code):
        package, _, name = case.name.rpartition("/")
        found = {}
        for result, test in re.findall(r"^\s*--- (PASS|FAIL|SKIP): (.*) \([\d.]+s\)$", printed, re.M):
            found[f"{package}/{test}"] = {"PASS": ("passed", ""), "SKIP": ("skipped", ""), "FAIL": ("failed", printed)}[result]
        if code != 0 and found.get(case.name, ("failed",))[0] != "failed":
            found[case.name] = ("failed", printed)
        return found


def toolchain(folder):
    """Debian's Go, unpacked with the packages that the modules import: its GOROOT."""
    go = folder / "go"
    if not (go / "ready").exists():
        shutil.rmtree(go, ignore_errors=True)
        wanted = debian.dependency(folder, "golang-go", r"golang-(\d+\.\d+)-go", SUITES_OF_DEBIAN)
        for package in (f"golang-{wanted}-go", f"golang-{wanted}-src", *IMPORTED):
            archive, suite = debian.binary(folder, package, SUITES_OF_DEBIAN)
            print(f"drivers: {archive.name} from {suite}", flush=True)
            subprocess.run(["dpkg-deb", "-x", archive, go], check=True)
        (go / "ready").touch()
    return next((go / "usr/lib").glob("go-*"))


PLACE = "host=127.0.0.1 port={port} user=postgres password={password} dbname={database} sslmode=disable"
SUITES = [
    Module("pgx", "golang-github-jackc-pgx-v5", "github.com/jackc/pgx/v5", [".", "pgconn", "pgtype", "pgtype/zeronull", "pgxpool", "stdlib", "tracelog"],
           # Its testsetup/postgresql_setup.sql, but for users with other ways to log in.
           "CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE DOMAIN uint64 AS numeric(20,0); DROP ROLE IF EXISTS \" tricky, ' } \"\" \\ test user \";"
           "CREATE ROLE \" tricky, ' } \"\" \\ test user \" SUPERUSER LOGIN PASSWORD 'secret';",
           {"PGX_TEST_DATABASE": PLACE, "PGX_TEST_TCP_CONN_STRING": PLACE, "PGX_TEST_SCRAM_PASSWORD_CONN_STRING": PLACE}),
    Module("pq", "golang-github-lib-pq", "github.com/lib/pq", [".", "hstore"], "", {"PGSSLMODE": "disable"}),
]
