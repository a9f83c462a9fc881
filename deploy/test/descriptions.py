#!/usr/bin/env python3
"""The descriptions of the cluster, held together without an engine: `make deploy-check`.

Terraform's files are parsed (python-hcl2), cluster-ha.tf is worked out by Terraform itself where it is installed, and the
outcome is compared with compose.yaml: the same containers with the same images, commands, ports, environment, mounts.
Also: Terraform's form, what make-secrets makes, shell syntax, the monitoring (monitoring.py). What can't be checked for
want of a program is said aloud.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import hcl2
import yaml

import monitoring

DEPLOY = pathlib.Path(__file__).resolve().parent.parent
TERRAFORM = DEPLOY / "terraform"
# Of a file that is there, but not of make-secrets' making.
GIVEN = {"proxy.toml"}


def interpolated(text):
    """As Compose does it, with nothing set: ${NAME:-default}, and $$ for $."""
    if isinstance(text, str):
        return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text).replace("$$", "$")
    if isinstance(text, list):
        return [interpolated(item) for item in text]
    if isinstance(text, dict):
        return {key: interpolated(value) for key, value in text.items()}
    return text


def compose():
    """Both files as one, defaults filled in."""
    merged = {}
    for name in ("compose.yaml", "compose.ui.yaml"):
        for section, content in interpolated(yaml.safe_load((DEPLOY / name).read_text())).items():
            if isinstance(content, dict):
                merged.setdefault(section, {}).update(content)
    return merged


def parsed(name):
    with open(TERRAFORM / name, encoding="utf-8") as file:
        return hcl2.load(file)


def plain(value):
    """python-hcl2 keeps the quotes of strings."""
    if isinstance(value, str):
        return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items() if not key.startswith("__")}
    return value


def blocks(content, kind):
    """{label: body} of all blocks of a kind; labels of resources are joined."""
    found = {}
    for block in plain(content).get(kind, []):
        for label, body in block.items():
            if kind in ("resource", "data"):
                found.update({f"{label}.{name}": inner for name, inner in body.items()})
            else:
                found[label] = body
    return found


def worked_out(expression, *variables):
    """An expression over cluster-ha.tf's locals, by `terraform console`, which needs no provider for them."""
    with tempfile.TemporaryDirectory() as work:
        for name in ("variables-ha.tf", "cluster-ha.tf"):
            shutil.copy(TERRAFORM / name, work)
        settings = [argument for variable in variables for argument in ("-var", variable)]
        environment = {key: value for key, value in os.environ.items() if key != "TF_CLI_CONFIG_FILE"}
        done = subprocess.run(["terraform", "console", *settings], cwd=work, input=f"jsonencode({expression})\n", env=environment,
                              capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise AssertionError(done.stdout + done.stderr)
        return json.loads(json.loads(done.stdout.strip().splitlines()[-1]))


needs_terraform = unittest.skipUnless(shutil.which("terraform"), "terraform is not installed: HCL is parsed, not worked out")


class Terraform(unittest.TestCase):
    def test_form(self):
        if not shutil.which("terraform"):
            self.skipTest("terraform is not installed")
        done = subprocess.run(["terraform", "fmt", "-check", "-recursive", "-diff", str(TERRAFORM)], capture_output=True, text=True, check=False,
                              env={key: value for key, value in os.environ.items() if key != "TF_CLI_CONFIG_FILE"})
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_provider(self):
        settings = plain(parsed("main-ha.tf"))["terraform"][0]["required_providers"][0]
        self.assertEqual(settings["docker"], {"source": "kreuzwerker/docker", "version": "~> 3.6"})

    def test_every_container_is_made_of_what_is_compared(self):
        resources = blocks(parsed("main-ha.tf"), "resource")
        containers = {name: body for name, body in resources.items() if name.startswith("docker_container.")}
        self.assertEqual({body["for_each"] for body in containers.values()},
                         {"${local.etcd}", "${local.etcd_users}", "${local.members}", "${local.proxy}", "${local.dbhub}"})
        for name, body in containers.items():
            for attribute in ("entrypoint", "command", "restart"):
                self.assertEqual(body[attribute], f"${{each.value.{attribute}}}", name)
            self.assertEqual((body["name"], body["hostname"]), ("${each.key}", "${each.key}"))
            self.assertEqual(len(body["networks_advanced"]), 1)
            dynamic = {label: inner["for_each"] for block in body["dynamic"] for label, inner in block.items()}
            self.assertEqual(dynamic["ports"], "${each.value.ports}")
            self.assertEqual(dynamic["volumes"], "${each.value.volumes}")
            self.assertEqual(dynamic["upload"], "${toset(each.value.secrets)}")
        for name in ("etcd", "member", "proxy", "dbhub"):
            if name != "etcd":
                self.assertIn("depends_on", containers[f"docker_container.{name}"])

    def test_variables(self):
        variables = blocks(parsed("variables-ha.tf"), "variable")
        wanted = {"postgres_user": "pgadmin", "postgres_password": "", "postgres_db": "postgres", "replication_password": "", "proxy_port": 6432,
                  "dbhub_port": 9090, "etcd_port": 2379, "etcd_peer_port": 2380, "patroni_api_port_base": 8008, "pg_node_count": 3, "etcd_count": 3,
                  "postgres_patroni_image": "postgres-patroni:18-pgvector", "network_subnet": "172.20.0.0/16"}
        for name, default in wanted.items():
            self.assertEqual(variables[name]["default"], default, name)
        for name, body in variables.items():
            self.assertIn("description", body, name)
            if "password" in name:
                self.assertEqual((body["default"], body["sensitive"]), ("", True), f"{name} has a default, or is shown")
        # What the example shows as a default is one.
        for name, shown in re.findall(r'^# (\w+) *= *(".*"|\d+)$', (TERRAFORM / "terraform.tfvars.example").read_text(), re.M):
            self.assertEqual(json.loads(shown), variables[name]["default"], name)

    def test_outputs(self):
        outputs = blocks(parsed("outputs-ha.tf"), "output")
        self.assertLessEqual({"container_names", "proxy_endpoint", "primary_endpoint", "replica_endpoints", "dbhub_url", "ha_network", "cluster_info",
                              "postgres_password"}, set(outputs))
        for name, body in outputs.items():
            if "password" in json.dumps(body["value"]) or "local.direct" in json.dumps(body["value"]):
                self.assertTrue(body.get("sensitive"), f"{name} shows a password")

    @needs_terraform
    def test_counts_are_variable(self):
        names = worked_out("keys(local.containers)", "etcd_count=1", "pg_node_count=4", "dbhub_enabled=false")
        self.assertEqual(sorted(names), ["etcd-1", "etcd-users", "pg-node-1", "pg-node-2", "pg-node-3", "pg-node-4", "proxy"])


@needs_terraform
class Same(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.terraform = worked_out("{containers = local.containers, volumes = local.volumes, network = local.network_name, subnet = var.network_subnet}")
        cls.compose = compose()

    def of_compose(self, name):
        service = self.compose["services"][name]
        ports = []
        for port in service.get("ports", []):
            parts = port.split(":")
            ip = parts[0] if len(parts) == 3 else "0.0.0.0"
            ports.append({"ip": ip, "external": int(parts[-2]), "internal": int(parts[-1])})
        health = service.get("healthcheck")
        return {
            "image": service["image"],
            "entrypoint": service.get("entrypoint"),
            "command": service.get("command"),
            "restart": service["restart"],
            "grace": int(service.get("stop_grace_period", "10s").rstrip("s")),
            "ports": ports,
            "volumes": {path: volume for volume, path in (mount.split(":") for mount in service.get("volumes", []))},
            "secrets": sorted(service.get("secrets", [])),
            "environment": service.get("environment", {}),
            "health": None if health is None else ["NONE"] if health.get("disable") else health["test"],
        }

    def test_containers(self):
        self.assertEqual(set(self.terraform["containers"]), set(self.compose["services"]))
        for name, container in self.terraform["containers"].items():
            container["secrets"] = sorted(container["secrets"])
            # YAML's bare on and off are booleans; Docker gets words.
            ours = self.of_compose(name)
            ours["environment"] = {key: {True: "on", False: "off"}.get(value, value) for key, value in ours["environment"].items()}
            self.assertEqual(ours, container, name)
            service = self.compose["services"][name]
            self.assertEqual((service["container_name"], service["hostname"], service["networks"]), (name, name, ["pg-ha-network"]))

    def test_volumes_and_network(self):
        self.assertEqual({volume["name"] for volume in self.compose["volumes"].values()}, set(self.terraform["volumes"]))
        network = self.compose["networks"]["pg-ha-network"]
        self.assertEqual((network["name"], network["ipam"]["config"][0]["subnet"]), (self.terraform["network"], self.terraform["subnet"]))

    def test_secrets(self):
        """make-secrets, secrets-ha.tf and both lists of mounts speak of the same files."""
        with tempfile.TemporaryDirectory() as folder:
            environment = dict(os.environ, PGHA_SECRETS=folder, POSTGRES_PASSWORD="chosen 'one'")
            for _ in range(2):
                subprocess.run([DEPLOY / "make-secrets"], env=environment, check=True)
            made = set(os.listdir(folder))
            self.assertEqual((pathlib.Path(folder) / "postgres-password").read_text(), "chosen 'one'\n")
            subject = subprocess.run(["openssl", "x509", "-noout", "-subject", "-in", f"{folder}/pg-node-1.pem"], capture_output=True, text=True, check=True).stdout
            self.assertNotIn("CN", subject, "etcd refuses a member that shows a common name")
            before = {name: (pathlib.Path(folder) / name).read_bytes() for name in made}
            subprocess.run([DEPLOY / "make-secrets", "--renew"], env=environment, check=True)
            changed = {name for name in made if (pathlib.Path(folder) / name).read_bytes() != before[name]}
            self.assertEqual(changed, {name for name in made if name.endswith(".pem")})
        mounted = {name for service in self.compose["services"].values() for name in service.get("secrets", [])}
        self.assertEqual(mounted - GIVEN, made - {"ca.key", "prometheus.pem"})
        self.assertEqual(mounted, set(self.compose["secrets"]))
        issued = worked_out("keys(local.certificates)")
        self.assertEqual(set(worked_out("local.passwords")) | {f"{name}.pem" for name in issued}, made - {"ca.crt", "ca.key", "dbhub-url"})
        self.assertEqual(set(worked_out("local.nameless")), {"pg-node-1", "pg-node-2", "pg-node-3", "etcd-root"})


class Files(unittest.TestCase):
    def test_swarm_names_what_is_there(self):
        swarm = yaml.safe_load((DEPLOY / "compose.swarm.yaml").read_text())
        self.assertLessEqual(set(swarm["services"]), set(compose()["services"]))

    def test_swarm_is_understood(self):
        """Docker's own reader of stacks takes both files together; nothing is built, and members have their places."""
        command = ["docker", "stack", "config", "-c", "compose.yaml", "-c", "compose.swarm.yaml"]
        if not shutil.which("docker") or subprocess.run(command[:3] + ["--help"], capture_output=True, check=False).returncode:
            self.skipTest("no docker command that knows stacks")
        done = subprocess.run(command, cwd=DEPLOY, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        services = yaml.safe_load(done.stdout)["services"]
        for name, service in services.items():
            self.assertNotIn("build", service, name)
            if name.startswith(("pg-node", "etcd-")) and name != "etcd-users":
                self.assertEqual(service["deploy"]["placement"]["constraints"], [f"node.labels.pg-ha == {name[-1]}"])

    def test_proxy_configuration(self):
        """Each file that it names is mounted, and the endpoints are etcd's."""
        text = (DEPLOY / "proxy/proxy.toml").read_text()
        service = compose()["services"]["proxy"]
        self.assertLessEqual(set(re.findall(r'"/run/secrets/([^"]+)"', text)), set(service["secrets"]))
        self.assertEqual(re.findall(r"https://(etcd-\d):2379", text), ["etcd-1", "etcd-2", "etcd-3"])

    def test_shell(self):
        for path in DEPLOY.rglob("*"):
            if path.is_file() and ".secrets" not in path.parts and path.read_bytes()[:2] == b"#!" and b"sh" in path.read_bytes().split(b"\n")[0]:
                done = subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, 0, done.stderr)

    def test_no_password_is_written_anywhere(self):
        for path in DEPLOY.rglob("*"):
            if path.is_file() and ".secrets" not in path.parts and "__pycache__" not in path.parts:
                text = path.read_text(encoding="utf-8")
                found = re.findall(r"(?i)(?:password|secret)\w*\s*[:=]\s*[\"']?(?:postgres|admin|changeme|secret|password)[\"']?\s*$", text, re.M)
                self.assertEqual(found, [], str(path))


class Monitoring(unittest.TestCase):
    def test_dashboard(self):
        monitoring.check_dashboard()

    def test_scrapes(self):
        monitoring.check_scrapes(compose()["services"])

    def test_rules(self):
        if not shutil.which("promtool"):
            self.skipTest("promtool is not installed (Debian's prometheus has it): the rules were read, not tried")
        monitoring.check_by_promtool()


if __name__ == "__main__":
    outcome = unittest.main(exit=False, verbosity=2).result
    for test, why in outcome.skipped:
        print(f"deploy-check: SKIPPED: {test}: {why}")
    failed, skipped = len(outcome.failures) + len(outcome.errors), len(outcome.skipped)
    print(f"{outcome.testsRun - failed - skipped} passed, {failed} failed, {skipped} skipped")
    sys.exit(0 if outcome.wasSuccessful() else 1)
