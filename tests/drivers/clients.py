"""PostgreSQL's own tests of its client libraries, built against the runtime's: libpq_pipeline, and ECPG's suite by its own pg_regress."""
import difflib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess

from sources import fetch

DOWNLOADS = pathlib.Path(__file__).resolve().parent.parent.parent / "target/truth"  # as for `make truth`
TEST_SECONDS, SUITE_SECONDS = 60, 900
ROWS = 700  # as its 001_libpq_pipeline.pl asks for
TAP = re.compile(r"^(ok|not ok) +\d+ +[-+] (\S+) +\d+ ms", re.M)
DATABASES = ("ecpg1_regression", "ecpg2_regression")
# Words of the users that ECPG's tests give one with, or without; PostgreSQL's own run asks nobody for one.
WORDS = {"regress_ecpg_user1": "connectpw", "regress_ecpg_user2": "insecure"}
# What pg_regress does to a server that it may make databases on, which it would ask psql for: the roles have passwords here.
ECPG_PREPARE = "".join(f"CREATE ROLE {role} LOGIN PASSWORD '{word}';\n" for role, word in WORDS.items()) + "".join(
    f"CREATE DATABASE {database} TEMPLATE template0;\n" + "".join(
        f"ALTER DATABASE {database} SET {setting};\n" for setting in (
            "lc_messages TO 'C'", "lc_monetary TO 'C'", "lc_numeric TO 'C'", "lc_time TO 'C'", "bytea_output TO 'hex'",
            "timezone_abbreviations TO 'Default'"))
    + "".join(f"GRANT ALL ON DATABASE {database} TO {role};\n" for role in WORDS) for database in DATABASES)


def build(folder, name, tools):
    """Compiles what the suite runs; `tools` is where the runtime's programs are. The folder that it is left in."""
    target, source = folder / "sources" / name, fetch(DOWNLOADS, ("postgresql-18",))["postgresql-18"]
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / "lib").symlink_to(tools.parent / "lib")
    compiler = Compiler(tools.parent)
    if name == "libpq_pipeline":
        module = source / "src/test/modules/libpq_pipeline"
        shutil.copytree(module / "traces", target / "traces")
        compiler.run([module / "libpq_pipeline.c"], target / "libpq_pipeline", internal=True)
    else:
        build_ecpg(compiler, source, target)
    return target


def build_ecpg(compiler, source, target):
    ecpg, regress = source / "src/interfaces/ecpg", source / "src/test/regress"
    for part in ("include", "test"):
        shutil.copytree(ecpg / part, target / part)
    test = target / "test"
    # pg_regress is told all that this would tell
    (target / "pg_config_paths.h").write_text('#define PGBINDIR ""\n#define PKGLIBDIR ""\n')
    defines = ["-DHOST_TUPLE=\"\"", "-DSHELLPROG=\"/bin/sh\"", "-DFRONTEND", f"-I{target}", f"-I{regress}"]
    compiler.run([test / "pg_regress_ecpg.c", regress / "pg_regress.c"], test / "pg_regress", *defines, internal=True)
    for folder in sorted(path.parent for path in test.glob("*/Makefile")):
        text = (folder / "Makefile").read_text()
        dialect = " ".join(re.findall(r"^ECPG \+= (.*)$", text, re.M))
        rules = {rule: (options, more) for rule, options, more in
                 re.findall(r"^(\w+)\.c:.*\n\t\$\(ECPG\) (.*?) ?-o \$@ (.*)\$<$", text, re.M)}
        for name in sorted(set(re.findall(r"\b(\w+)\.c\b", re.search(r"^TESTS =((?:.*\\\n)*.*)", text, re.M)[1]))):
            options, more = rules.get(name, ("", ""))
            command = f"{compiler.runtime}/bin/ecpg --regression -I./../../include -I. {dialect} {options} -o {name}.c {more} {name}.pgc"
            subprocess.run(command.replace("$(srcdir)", ".").split(), cwd=folder, env=compiler.environment, check=True)
            compiler.run([folder / f"{name}.c"], folder / f"{name}.program", f"-I{target}/include")
            # so that each has its own limit
            (folder / name).write_text(f'#!/bin/sh\nexec timeout -k 5 {TEST_SECONDS} "{folder / name}.program"\n')
            (folder / name).chmod(0o755)


class Compiler:
    """The machine's own, with the runtime's headers and libraries."""

    def __init__(self, runtime):
        self.runtime = runtime
        self.environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": f"{runtime}/lib", "LC_ALL": "C"}

    def run(self, sources, program, *options, internal=False):
        """`internal` is for what is written as PostgreSQL's own programs are, with what they share."""
        headers, libraries = self.runtime / "include", self.runtime / "lib"
        inner = [f"-I{headers}/internal", f"-I{headers}/server"] if internal else []
        shared = ["-lpgcommon", "-lpgport"] if internal else ["-lecpg_compat", "-lecpg", "-lpgtypes"]
        subprocess.run(
            ["cc", "-O1", "-w", *options, f"-I{headers}", *inner, *sources, "-o", program, f"-L{libraries}",
             *shared, "-lpq", "-lpthread", "-lm"], check=True)


def run(name, source, port, password, kept):
    """Runs it against `port`; {test: [result, said]} is left in `kept`, by the suite's name."""
    environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": f"{source}/lib", "LC_ALL": "C", "TZ": "UTC", "HOME": "/nonexistent",
                   "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres"}
    work = kept / name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    if name == "libpq_pipeline":
        found = pipelines(source, dict(environment, PGPASSWORD=password, PGDATABASE="postgres"), work)
    else:
        found = ecpg(source, environment, password, work)
    (kept / f"{name}.json").write_text(json.dumps(found, indent=1))


def pipelines(source, environment, work):
    """As 001_libpq_pipeline.pl does: every test by itself, and the traces of those that PostgreSQL has one of against that."""
    program, found = source / "libpq_pipeline", {}
    for test in subprocess.run([program, "tests"], capture_output=True, text=True, check=True).stdout.split():
        for version in ("latest", "3.0") if test == "cancel" else ("latest",):
            expected = source / "traces" / f"{test}.trace"
            trace = work / f"{test}.trace"
            options = ["-t", trace] if expected.exists() else []
            command = [program, "-r", str(ROWS), *options, test, f"max_protocol_version={version}"]
            code, said = limited(command, environment, TEST_SECONDS, work / f"{test}-{version}.log")
            found[f"{test}, protocol {version}"] = ["failed" if code else "passed", said[-4000:]]
            if options:
                lines = trace.read_text().splitlines() if trace.exists() else []
                differing = difflib.unified_diff(expected.read_text().splitlines(), lines, "PostgreSQL's", "this one", n=2, lineterm="")
                said = "\n".join(differing)
                found[f"{test}, trace"] = ["failed" if said else "passed", said[-4000:]]
    return found


def ecpg(source, environment, password, work):
    """All of its schedule, with what its `checktcp` adds. A test passes if both that it prints and what the preprocessor made is as expected."""
    words = work / "passwords"
    words.write_text("".join(f"*:*:*:{role}:{word}\n" for role, word in {"postgres": password, **WORDS}.items()))
    words.chmod(0o600)
    test = source / "test"
    command = [test / "pg_regress", f"--inputdir={test}", f"--expecteddir={test}", f"--outputdir={work}", f"--dbname={','.join(DATABASES)}",
               "--use-existing", "--host=127.0.0.1", f"--port={environment['PGPORT']}", "--user=postgres",
               f"--schedule={test / 'ecpg_schedule'}", "sql/twophase", "connect/test1"]
    _, printed = limited(command, dict(environment, PGPASSFILE=str(words)), SUITE_SECONDS, work / "tap")
    diffs = work / "regression.diffs"
    said = diffs.read_text(errors="replace") if diffs.exists() else ""
    found = {}
    for verdict, name in TAP.findall(printed):
        about = [part for part in re.split(r"^(?=diff )", said, flags=re.M) if f"/{name.replace('/', '-')}." in part.partition("\n")[0]]
        found[name] = ["passed" if verdict == "ok" else "failed", "".join(about)]
    return found


def limited(command, environment, seconds, log):
    """Runs a command for so long at most, all that it started with it. Its exit code and what it printed, which `log` keeps."""
    with open(log, "w+", errors="replace") as output:
        process = subprocess.Popen(command, env=environment, cwd=log.parent, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   start_new_session=True)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = "over time"
            output.write(f"\nnot done within {seconds} s\n")
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        output.seek(0)
        return code, output.read()
