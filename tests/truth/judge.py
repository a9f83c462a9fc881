"""The two judges as programs that answer line by line: `pg-ha-proxy route --json`, and judge.rs, which knows a catalog."""
import json
import subprocess


class Program:
    """A program that answers each line of JSON with a line of JSON."""

    def __init__(self, *command):
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, request):
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[0]} ended")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)


class Judge:
    """What the proxy says of a text, by the text alone and with a database's catalog."""

    def __init__(self, programs):
        self.route = Program(programs / "pg-ha-proxy", "route", "--json")
        self.judge = Program(programs / "examples/truth_judge")
        self.questions = self.judge.ask({"questions": True})
        self.catalog = None

    def learn(self, session):
        """Takes up the catalog of the database that `session` is in."""
        # As the proxy asks: with nobody's operators and functions in the way.
        ask = lambda text: session.rows(f"BEGIN; SET LOCAL search_path = pg_catalog; {text}; COMMIT")
        answers = [[[value and value.hex() for value in row] for row in ask(text)] for text in self.questions]
        if answers != self.catalog:
            self.judge.ask({"answers": answers})
            self.catalog = answers

    def verdict(self, sql, scs=True, encoding="UTF8"):
        """`text` and `catalog`, each with route, reason and statements."""
        verdict = self.judge.ask({"sql": sql.hex(), "scs": scs, "encoding": encoding})
        if scs and encoding == "UTF8":
            try:
                route = self.route.ask(sql.decode())
            except UnicodeDecodeError:
                return verdict
            if route["route"] != verdict["text"]["route"]:
                raise SystemExit(f"route --json and the library differ on {sql!r}")
        return verdict

    def close(self):
        self.route.close()
        self.judge.close()
