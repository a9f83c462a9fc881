"""The monitoring: which metrics it uses, and that its files are in order."""

import json
import pathlib
import re
import subprocess
import tempfile

import yaml

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "monitoring"
# Prometheus' own.
OWN = {"up"}
METRIC = re.compile(r"\b(?:pgha|patroni|etcd)_[a-z_]+|\bup\b")


def dashboard():
    return json.loads((FOLDER / "dashboard.json").read_text())


def expressions():
    """Every PromQL expression of the rules and the dashboard."""
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text())
    for group in rules["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))


def used():
    """The metrics that they use, without Prometheus' own."""
    return {name for expression in expressions() for name in METRIC.findall(expression)} - OWN


def check_dashboard():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels), "an id of a panel twice"
    assert any("pgha_vector_search_seconds" in target["expr"] for panel in panels for target in panel.get("targets", [])), "no panel of vector searches"
    # Labels that are filtered on must have the values that the proxy exports.
    source = (FOLDER.parent.parent / "src/metrics/worker.rs").read_text()
    for value in re.findall(r'class="(\w+)"', " ".join(expressions())):
        assert f'"{value}"' in source, f"no class {value} is exported"


def check_scrapes(services):
    """Every target is a service, and the ports are those that its parts listen on."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    ports = {"proxy": "9187", "patroni": "8008", "backups": "9854", "etcd": "2379"}
    for job in config["scrape_configs"]:
        for target in job["static_configs"][0]["targets"]:
            name, port = target.split(":")
            assert name in services, f"{name} is no service"
            assert port == ports[job["job_name"]], target


def check_by_promtool():
    """promtool reads the rules, tries them, and reads every expression of the dashboard."""
    with tempfile.TemporaryDirectory() as work:
        rules = [{"record": f"dashboard:{number}", "expr": expression.replace("$__rate_interval", "1m")} for number, expression in enumerate(expressions())]
        written = pathlib.Path(work) / "dashboard.yml"
        written.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
        config = (FOLDER / "prometheus.yml").read_text().replace("/etc/prometheus", str(FOLDER))
        files = ("ca.crt", "prometheus.pem")
        for name in files:
            (pathlib.Path(work) / name).touch()
        (pathlib.Path(work) / "prometheus.yml").write_text(config.replace("/run/secrets", work))
        for command in (["check", "rules", str(FOLDER / "alerts.yml"), str(written)], ["test", "rules", str(FOLDER / "alerts_test.yml")],
                        ["check", "config", f"{work}/prometheus.yml"]):
            done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
