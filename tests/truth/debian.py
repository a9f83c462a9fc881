"""Debian's packages, sources and binaries, by apt with lists and settings of its own below one folder: the machine's stay as they are.

The mirror is the one that this machine's apt uses. What a suite of Debian's offers may be gone from the pool: then the next is asked.
"""
import re
import shutil
import subprocess

SUITES = ("forky", "sid", "trixie")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def source(folder, package, suites=SUITES):
    """The source package's own archive, without Debian's changes, and the suite that it is from."""
    return ask(folder, package, suites, ("source", "--download-only", "--tar-only", package), f"{package}_*.orig.tar.*")


def binary(folder, package, suites=SUITES):
    """The package for this machine, not installed, and the suite that it is from."""
    return ask(folder, package, suites, ("download", package), f"{package}_*.deb")


def dependency(folder, package, pattern, suites=SUITES):
    """What stands in the group of `pattern` in the list of what the package depends on."""
    for suite in suites:
        options = prepare(folder / "apt" / suite, suite)
        told = subprocess.run(["apt-cache", *options, "depends", package], capture_output=True, text=True).stdout
        if found := re.search(pattern, told):
            return found[1]
    raise SystemExit(f"Debian's package {package} isn't in any of {', '.join(suites)}")


def ask(folder, package, suites, command, wanted):
    for suite in suites:
        state = folder / "apt" / suite
        options = prepare(state, suite)
        (state / "packages").mkdir(exist_ok=True)
        if subprocess.run(["apt-get", *options, *command], cwd=state / "packages", capture_output=True).returncode == 0:
            return next((state / "packages").glob(wanted)), suite
    raise SystemExit(f"Debian's package {package} can't be had from any of {', '.join(suites)}")


def prepare(state, suite):
    (state / "lists/partial").mkdir(parents=True, exist_ok=True)
    (state / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    options = [f"-oDir::Etc::SourceList={state}/sources.list", "-oDir::Etc::SourceParts=/dev/null",
               f"-oDir::State::Lists={state}/lists", f"-oDir::State::status={state}/status", f"-oDir::Cache={state}/cache",
               "-oAcquire::Check-Valid-Until=false", "-oAPT::Sandbox::User=root"]
    wanted = "".join(f"{kind} [signed-by={KEYRING}] {mirror()} {suite} main\n" for kind in ("deb", "deb-src"))
    if not (state / "sources.list").exists() or (state / "sources.list").read_text() != wanted:
        (state / "sources.list").write_text(wanted)
        subprocess.run(["apt-get", *options, "update"], capture_output=True, check=True)
    return options


def mirror():
    command = ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)"]
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        label, _, uri = line.partition(" ")
        if label == "Debian":
            return uri
    raise SystemExit("apt knows no mirror of Debian: run apt-get update")


def unpack(archive, target):
    """A source's archive, without the folder that all of it is in."""
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    subprocess.run(["tar", "xf", archive, "-C", fresh, "--strip-components", "1", "--no-same-owner"], check=True)
    fresh.rename(target)
