"""The suites of Rust's drivers: their crates as published, copied, with place and user of the server substituted, and built by cargo.

The substitution: rust-postgres's tests want the server of their project's Docker file, on port 5433, that trusts `postgres`. HERE puts this
run's port and password in, and a database of the suite's own; nothing else of a test is changed. That Docker file's users all log in by SCRAM
here, the only way by password that the proxy offers.
"""
import json
import os
import re
import shutil
import subprocess
import tomllib

import native

HERE = """
#[cfg(test)]
mod here {
    pub(crate) fn place(wanted: &str) -> String {
        let told = |name| std::env::var(name).unwrap();
        let place = wanted.replace("5433", &told("PGPORT"));
        if !wanted.contains("user=postgres") {
            return place;
        }
        format!("{place} password={} dbname={}", told("PGPASSWORD"), told("PGDATABASE"))
    }
}
"""
USERS = """CREATE EXTENSION IF NOT EXISTS hstore; CREATE EXTENSION IF NOT EXISTS citext; CREATE EXTENSION IF NOT EXISTS ltree;
    DROP ROLE IF EXISTS pass_user, md5_user, scram_user;
    CREATE ROLE pass_user PASSWORD 'password' LOGIN; CREATE ROLE md5_user PASSWORD 'password' LOGIN; CREATE ROLE scram_user PASSWORD 'password' LOGIN;"""


class Crate(native.Suite):
    """A crate's tests, one process each."""

    def __init__(self, name, version, root, *files):
        self.name, self.version, self.root, self.files = name, version, root, files
        self.database = f"{name.replace('-', '_')}_test"
        self.prepare = USERS

    def fetch(self, folder, runtime):
        target = folder / "sources" / f"{self.name}-{self.version}"
        if not (target / "executables.json").exists():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(published(folder, self.name, self.version), target)
            self.substitute(target)
            (target / "executables.json").write_text(json.dumps(self.build(folder, target)))
        return target

    def substitute(self, target):
        root = target / self.root
        for file in (target / name for name in self.files):
            text = file.read_text()
            text = re.sub(r'"[^"]*port=(?:5432,)?5433[^"]*"', r"&crate::here::place(\g<0>)", text)
            text = text.replace('"127.0.0.1:5433"', 'crate::here::place("127.0.0.1:5433")')
            text = text.replace("= s.parse::<Config>()", "= crate::here::place(s).parse::<Config>()")
            file.write_text(text)
        root.write_text(root.read_text() + HERE)
        # Benchmarks, and what they want, aren't built.
        manifest = (target / "Cargo.toml").read_text()
        manifest = re.sub(r"(?ms)^(\[\[bench\]\]|\[dev-dependencies\.criterion\])$.*?(?=^\[|\Z)", "", manifest)
        (target / "Cargo.toml").write_text(manifest + "\n[workspace]\n")

    def build(self, folder, target):
        """The programs that hold its tests."""
        features = tomllib.loads((target / "Cargo.toml").read_text())["features"]
        chosen = ",".join(feature for feature in features if feature != "js" and "cidr" not in feature)
        printed = subprocess.run(
            ["cargo", "test", "--no-run", "--lib", "--tests", "--features", chosen, "--message-format", "json-render-diagnostics", "--target-dir", folder / "rust"],
            cwd=target, env=dict(os.environ, CARGO_PROFILE_TEST_DEBUG="0", CARGO_PROFILE_DEV_DEBUG="0"), stdout=subprocess.PIPE, check=True, text=True).stdout
        built = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        return [line["executable"] for line in built if line.get("profile", {}).get("test") and line["executable"]]

    def cases(self, source, environment):
        for program in json.loads((source / "executables.json").read_text()):
            listed = subprocess.run([program, "--list", "--format", "terse"], capture_output=True, text=True, check=True).stdout
            for name in re.findall(r"^(.*): test$", listed, re.M):
                yield native.Case(name, [program, "--exact", name, "--nocapture"], source)

    def read(self, case, printed, code):
        if code == 0:
            return {case.name: ("skipped" if "1 ignored" in printed else "passed", "")}
        return {case.name: ("failed", printed)}


def published(folder, name, version):
    """The crate as cargo fetched it."""
    asking = folder / "crates" / f"{name}-{version}"
    asking.mkdir(parents=True, exist_ok=True)
    (asking / "lib.rs").touch()
    (asking / "Cargo.toml").write_text(f'[package]\nname = "asking"\nversion = "0.0.0"\n[lib]\npath = "lib.rs"\n[dependencies]\n{name} = "={version}"\n[workspace]\n')
    told = subprocess.run(["cargo", "metadata", "--format-version", "1"], cwd=asking, stdout=subprocess.PIPE, check=True).stdout
    manifests = [package["manifest_path"] for package in json.loads(told)["packages"] if package["name"] == name]
    return os.path.dirname(manifests[0])


SUITES = [
    Crate("tokio-postgres", "0.7.18", "tests/test/main.rs", "tests/test/main.rs", "tests/test/runtime.rs"),
    Crate("postgres", "0.19.14", "src/lib.rs", "src/test.rs"),
]
