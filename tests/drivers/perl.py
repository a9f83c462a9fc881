"""The suite of Perl's DBD::Pg: built from Debian's source package for this machine's own Perl, with Debian's package of
DBI for that Perl and the servers' libpq. All is unpacked below the run's folder.

Each of its files is a program whose tests are numbered (TAP); a later file finds the tables that an earlier one left, and the last takes them away.
"""
import os
import re
import shutil
import subprocess

import debian
import native

# Asked in this order for the source.
SUITES_OF_DEBIAN = ("trixie", "forky", "sid")
FILE_SECONDS = 180


class DbdPg(native.Suite):
    """DBD::Pg's t/*.t."""

    name, database = "dbd-pg", "dbd_pg_test"
    prepare = ""

    def fetch(self, folder, runtime):
        target = folder / "perl"
        if not (target / "ready").exists():
            shutil.rmtree(target, ignore_errors=True)
            archive, suite = debian.binary(folder, "libdbi-perl", (own_suite(),))
            print(f"drivers: {archive.name} from {suite}", flush=True)
            subprocess.run(["dpkg-deb", "-x", archive, target], check=True)
            archive, suite = debian.source(folder, "libdbd-pg-perl", SUITES_OF_DEBIAN)
            print(f"drivers: {archive.name} from {suite}", flush=True)
            debian.unpack(archive, target / "source")
            environment = dict(os.environ, PERL5LIB=dbi(target), PATH=f"{runtime}/pgsql/bin:{os.environ['PATH']}", AUTOMATED_TESTING="1",
                               POSTGRES_INCLUDE=f"{runtime}/pgsql/include", POSTGRES_LIB=f"{runtime}/pgsql/lib", LD_LIBRARY_PATH=f"{runtime}/pgsql/lib")
            for command in (["perl", "Makefile.PL"], ["make"]):
                subprocess.run(command, cwd=target / "source", env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
            (target / "libpq").symlink_to(runtime / "pgsql/lib")
            (target / "ready").touch()
        return target

    def environment(self, source, port, password):
        return {"PERL5LIB": f"{source}/source/blib/lib:{source}/source/blib/arch:{dbi(source)}", "LD_LIBRARY_PATH": str(source / "libpq"), "DBI_USER": "postgres", "DBI_PASS": password,
                "DBI_DSN": f"dbi:Pg:dbname={self.database};host=127.0.0.1;port={port}", "DBDPG_TEST_ALWAYS_ENV": "1", "AUTOMATED_TESTING": "1"}

    def cases(self, source, environment):
        for file in sorted((source / "source/t").glob("*.t")):
            yield native.Case(file.name, ["perl", f"t/{file.name}"], source / "source", FILE_SECONDS)

    def read(self, case, printed, code):
        found, said = {}, {}
        test = None
        for line in printed.splitlines():
            if told := re.match(r"(not )?ok (\d+)\b(.*)", line):
                test = f"{case.name}/{told[2]}"
                skipped = re.search(r"#\s*(skip|TODO)\b", told[3], re.I)
                found[test], said[test] = ("skipped" if skipped else "failed" if told[1] else "passed"), [line]
            elif test and line.startswith("#"):
                said[test].append(line)
        if re.search(r"^1\.\.0\b.*skip", printed, re.I | re.M):
            found[case.name] = "skipped"
        else:
            # It came to its end: it exits with the number of those that failed, and with another number if it died.
            failures = sum(result == "failed" for result in found.values())
            found[case.name] = "passed" if code == min(failures, 254) else "failed"
        said[case.name] = [printed]
        return {test: (result, "\n".join(said[test]) if result == "failed" else "") for test, result in found.items()}


def dbi(target):
    return ":".join(str(path) for path in ((target / "usr/lib").glob("*/perl5/*")))


def own_suite():
    """The Debian that this machine is, whose packages fit its Perl."""
    with open("/etc/os-release") as file:
        return re.search(r"^VERSION_CODENAME=(\w+)$", file.read(), re.M)[1]


SUITES = [DbdPg()]
