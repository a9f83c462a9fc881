"""Where the statements come from: PostgreSQL's regression suite with its contrib modules, and pgvector's tests.

They are fetched as Debian's source packages, by apt with lists and settings of its own below one folder, so that the
machine's stay as they are. The mirror is the one that this machine's apt uses.
"""
import dataclasses
import pathlib
import re
import shutil
import subprocess

# What a suite offers may be gone from the pool: then the next is asked.
SUITES = ("forky", "sid", "trixie")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def fetch(folder, packages=("postgresql-18", "pgvector")):
    """The unpacked sources, fetched if they aren't there yet: package name to folder."""
    found = {}
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        target = folder / package
        if not target.is_dir():
            unpack(download(folder, package), target)
        found[package] = target
    return found


def download(folder, package):
    state = folder / "apt"
    for suite in SUITES:
        options = prepare(state / suite, suite)
        (state / suite / "packages").mkdir(exist_ok=True)
        command = ["apt-get", *options, "source", "--download-only", package]
        if subprocess.run(command, cwd=state / suite / "packages", capture_output=True).returncode == 0:
            print(f"sources: {package} from {suite}", flush=True)
            return next((state / suite / "packages").glob(f"{package}_*.orig.tar.*"))
    raise SystemExit(f"sources: Debian's source package {package} can't be had from any of {', '.join(SUITES)}")


def prepare(state, suite, kind="deb-src"):
    """The options by which apt-get has lists of its own below `state`, of sources or, as "deb", of packages."""
    (state / "lists/partial").mkdir(parents=True, exist_ok=True)
    (state / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
    options = [f"-oDir::Etc::SourceList={state}/sources.list", "-oDir::Etc::SourceParts=/dev/null",
               f"-oDir::State::Lists={state}/lists", f"-oDir::Cache={state}/cache",
               "-oAcquire::Check-Valid-Until=false", "-oAPT::Sandbox::User=root"]
    if not (state / "sources.list").exists():
        (state / "sources.list").write_text(f"{kind} [signed-by={KEYRING}] {mirror()} {suite} main\n")
        subprocess.run(["apt-get", *options, "update"], capture_output=True, check=True)
    return options


def mirror():
    command = ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)"]
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        label, _, uri = line.partition(" ")
        if label == "Debian":
            return uri
    raise SystemExit("sources: apt knows no mirror of Debian: run apt-get update")


def unpack(archive, target):
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    subprocess.run(["tar", "xf", archive, "-C", fresh, "--strip-components", "1", "--no-same-owner"], check=True)
    fresh.rename(target)


@dataclasses.dataclass
class Suite:
    """Files that are run in order in one database."""

    source: str
    database: str
    files: list
    folder: pathlib.Path
    prepare: str = ""


def suites(sources, extensions):
    """Every suite that the servers can run; `extensions` are those that they offer."""
    postgresql = sources["postgresql-18"]
    found = [regression(postgresql / "src/test/regress")]
    for module in sorted((postgresql / "contrib").iterdir()):
        files = contrib_files(module)
        if files and (module.name in extensions or module.name in ("spi", "test_decoding")):
            database = "contrib_" + re.sub(r"\W", "_", module.name)
            found.append(Suite("contrib", database, files, module))
    vector = sources["pgvector"] / "test"
    files = sorted((vector / "sql").glob("*.sql"))
    found.append(Suite("pgvector", "pgvector", files, vector, "CREATE EXTENSION vector"))
    return found


def regression(folder):
    names = []
    for line in (folder / "parallel_schedule").read_text().splitlines():
        if line.startswith("test:"):
            names += line.split()[1:]
    files = [folder / "sql" / f"{name}.sql" for name in names]
    return Suite("regress", "regression", [file for file in files if file.exists()], folder)


def contrib_files(module):
    makefile = module / "Makefile"
    if not makefile.exists():
        return []
    text = makefile.read_text().replace("\\\n", " ")
    names = " ".join(re.findall(r"^REGRESS\s*\+?=(.*)$", text, re.M)).split()
    files = [module / "sql" / f"{name}.sql" for name in names]
    return [file for file in files if file.exists()]
