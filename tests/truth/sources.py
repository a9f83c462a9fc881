"""Where the statements come from: PostgreSQL's regression suite with its contrib modules, and pgvector's tests.

They are fetched as Debian's source packages.
"""
import dataclasses
import pathlib
import re

import debian


def fetch(folder, packages=("postgresql-18", "pgvector")):
    """The unpacked sources, fetched if they aren't there yet: package name to folder."""
    found = {}
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        target = folder / package
        if not target.is_dir():
            archive, suite = debian.source(folder, package)
            print(f"truth: {package} from {suite}", flush=True)
            debian.unpack(archive, target)
        found[package] = target
    return found


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
