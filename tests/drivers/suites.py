"""The suites: where each comes from, and how it is run against a port."""
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml

import clients
import golang
import java
import native
import perl
import rust

HERE = pathlib.Path(__file__).resolve().parent
# Django's tests that have most to do with the database.
DJANGO = """aggregation annotations backends basic bulk_create constraints custom_pk datatypes db_functions delete expressions
    expressions_case expressions_window fixtures get_or_create indexes introspection inspectdb lookup many_to_many migrations
    multiple_database postgres_tests prefetch_related queries raw_query schema select_for_update transaction_hooks transactions update
    """.split()
# What SQLAlchemy's README.unittests.rst asks for.
SQLALCHEMY = "CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2; CREATE EXTENSION hstore; CREATE EXTENSION citext;"

# What Django's tests name and make no use of, for servers that were built without ICU or can't load uuid-ossp.
DJANGO_WANTS = """CREATE COLLATION IF NOT EXISTS "sv-x-icu" (provider = libc, locale = 'C');
    DO $$BEGIN CREATE EXTENSION "uuid-ossp"; EXCEPTION WHEN undefined_file THEN
        SET LOCAL allow_system_table_mods = on;
        INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
            VALUES (9999, 'uuid-ossp', 10, 'public'::regnamespace, true, '1.1');
    END$$;"""


@dataclasses.dataclass
class Suite:
    """One suite of tests. `runner` says how its tests are called: "pytest", "django", "clients", "junit" or "native"."""

    name: str
    package: str
    arguments: list
    runner: str = "pytest"
    # The part of the source distribution that is wanted: a driver's own modules beside its tests would hide the installed ones.
    part: str = "."
    # A database that is made for it, and the SQL that makes that ready; without one, what it makes itself begins with that.
    database: str = ""
    prepare: str = ""
    environment: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Outcome:
    """What came of one test: "passed", "failed" or "skipped", and what it said when it failed."""

    result: str
    said: str = ""


def sqlalchemy(driver, *tests):
    url = f"postgresql+{driver}://postgres:{{password}}@127.0.0.1:{{port}}/sqlalchemy_{driver}"
    return Suite(f"sqlalchemy-{driver}", "SQLAlchemy", ["--dburi", url, "--maxfail=100000", *tests],
                 database=f"sqlalchemy_{driver}", prepare=SQLALCHEMY)


DIALECT = [f"test/dialect/postgresql/test_{part}.py" for part in ("dialect", "on_conflict", "query")]
SUITES = [
    Suite("asyncpg", "asyncpg", ["tests"], part="tests"),
    Suite("psycopg2", "psycopg2", ["tests"], part="tests", database="psycopg2_test",
          environment={"PSYCOPG2_TESTDB": "psycopg2_test", "PSYCOPG2_TEST_REPL_DSN": ""}),
    Suite("django", "Django", DJANGO, runner="django", prepare=DJANGO_WANTS),
    sqlalchemy("psycopg", *DIALECT, "test/dialect/postgresql/test_reflection.py", "test/orm/test_transaction.py", "test/engine/test_transaction.py"),
    sqlalchemy("psycopg2", *DIALECT),
    sqlalchemy("asyncpg", *DIALECT),
    Suite("libpq_pipeline", "postgresql-18", [], runner="clients"),
    Suite("ecpg", "postgresql-18", [], runner="clients", prepare=clients.ECPG_PREPARE),
    Suite("jdbc", "", [], runner="junit", database="jdbc_test"),
    *rust.SUITES, *golang.SUITES, *perl.SUITES,
]


def install(folder):
    """A Python of its own with all that requirements.txt names. Its path."""
    python = folder / "python/bin/python"
    wanted = (HERE / "requirements.txt").read_text()
    stamp = folder / "python/requirements.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder / "python", ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder / "python"], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", HERE / "requirements.txt"], check=True)
        stamp.write_text(wanted)
    return python


def version(package):
    return re.search(rf"^{package}(-binary|\[binary\])?==(\S+)$", (HERE / "requirements.txt").read_text(), re.M)[2]


def fetch(folder, python, suite, tools):
    """The suite's source distribution, unpacked; fetched if it isn't there yet. `tools` has the pg_config that psycopg2 asks for."""
    if suite.runner == "clients":
        return clients.build(folder, suite.name, tools)
    if suite.runner == "junit":
        return java.fetch(folder)
    if suite.runner == "native":
        return suite.fetch(folder, tools.parent.parent)
    target = folder / "sources" / f"{suite.package}-{version(suite.package)}"
    if not target.is_dir():
        fresh = target.with_name(target.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        subprocess.run(
            [python, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-binary", ":all:",
             f"{suite.package}=={version(suite.package)}", "-d", fresh], env=dict(os.environ, PATH=f"{tools}:{os.environ['PATH']}"), check=True)
        archive = next(fresh.glob("*.tar.gz"))
        subprocess.run(["tar", "xf", archive, "-C", fresh, "--strip-components", "1", "--no-same-owner"], check=True)
        archive.unlink()
        fresh.rename(target)
    return target


def run(suite, python, source, port, password, kept):
    """Runs it against `port`; what its tests printed and came to is left in `kept`, by the suite's name."""
    if suite.runner == "clients":
        clients.run(suite.name, source, port, password, kept)
        return
    if suite.runner == "junit":
        return java.run(suite, source, port, password, kept)
    if suite.runner == "native":
        return native.run(suite, source, port, password, kept)
    work = kept / suite.name
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source / suite.part, work / suite.part if suite.part != "." else work)
    environment = {
        "PATH": f"{python.parent}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1",
        "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres", "PGPASSWORD": password, "PGDATABASE": suite.database or "postgres",
        **suite.environment}
    if suite.runner == "django":
        environment |= {"PYTHONPATH": str(HERE), "OUTCOMES": str(kept / f"{suite.name}.json")}
        command = [python, "tests/runtests.py", "--settings=django_settings", "--parallel=1", "--noinput", "--timing", *suite.arguments]
    else:
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=60", f"--junit-xml={kept / suite.name}.xml",
                   "-o", "junit_family=xunit1", *(word.format(port=port, password=password) for word in suite.arguments)]
    with open(kept / f"{suite.name}.log", "w") as log:
        subprocess.run(command, env=environment, cwd=work, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    shutil.rmtree(work)


def outcomes(suite, kept):
    """Test to Outcome, of the last run."""
    if suite.runner == "junit":
        return {test: Outcome(*told) for test, told in java.outcomes(suite, kept).items()}
    if suite.runner != "pytest":
        path = kept / f"{suite.name}.json"
        return {test: Outcome(*told) for test, told in json.loads(path.read_text()).items()} if path.exists() else {}
    path = kept / f"{suite.name}.xml"
    found = {}
    for case in xml.parse(path).iter("testcase") if path.exists() else ():
        test = f"{case.get('classname')}.{case.get('name')}"
        failures = [part for part in case if part.tag in ("failure", "error")]
        if failures:
            found[test] = Outcome("failed", "\n".join(part.text or part.get("message") or "" for part in failures))
        elif test not in found:
            found[test] = Outcome("skipped" if case.find("skipped") is not None else "passed")
    return found
