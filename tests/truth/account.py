"""The account: what each query string was found to be, against where the proxy sends it."""
import collections
import json

from text import known
from trial import refused

JUDGES = ("text", "catalog")
# The double gave up, for reasons of this run: nothing is known
GAVE_UP = {"57014", "55P03", "40001", "40P01", "57P01", "57P02", "57P03"}
# Reasons that come from a label which the database's users left as it is by default: on a function, or on one below a view
USERS = ("is VOLATILE in the catalog", "is a VOLATILE function of a row", "is a type with a VOLATILE cast",
         "is a view over what belongs on the primary")


def truth(pending, primary, standby, twin):
    """`(kind, why)`: `must` run on the primary, `read`, `other` kinds that any server ran, `error` everywhere, or `unknown`."""
    words = pending["words"]
    if standby is None:
        act = words.act() if primary.code is None else None
        return ("must", act) if act and words.is_read() else ("unknown", "not tried")
    if refused(standby) and not (refused(primary) and primary.code == standby.code):
        return "must", f"refused: {standby.code} {standby.message}"
    if primary.code is None and words.act():
        return "must", f"act: {words.act()}"
    if standby.same_answer(primary):
        return ("error", primary.code) if primary.code else ("read" if words.is_read() else "other", "")
    if standby.code in GAVE_UP or twin is None:
        return "unknown", standby.code or "not run twice"
    first, second = twin
    if standby.same_answer(first):
        return ("unknown", "the session's own") if first.code else ("read", "")
    if first.same_answer(second):
        return "must", "answers otherwise"
    return ("unknown", "varies") if first.code or standby.code else ("read", "varies")


class Account:
    """Takes every string in and adds up, by source."""

    def __init__(self, folder, judge):
        self.judge = judge
        self.records = open(folder / "records.jsonl", "w")
        self.counts = collections.defaultdict(collections.Counter)
        self.wrong, self.known = [], collections.Counter()
        self.needless = {name: collections.Counter() for name in JUDGES}
        self.source = self.file = ""
        self.before = None

    def begin(self, source, file):
        self.source, self.file, self.before = source, file, None

    def enter(self, pending, primary, standby, twin):
        if not pending["words"].tokens:
            return
        kind, why = truth(pending, primary, standby, twin)
        verdict, counts = pending["verdict"], self.counts[self.source]
        counts["strings"] += 1
        counts[kind] += 1
        counts["several"] += verdict["text"]["statements"] > 1
        for name in JUDGES:
            route = verdict[name]["route"]
            if kind == "must" and route == "replica":
                self.misrouted(name, pending["sql"], why)
            if kind == "read" and route == "primary":
                reason = verdict[name]["reason"]
                counts[f"needless {name}"] += 1
                counts[f"users {name}"] += reason.endswith(USERS)
                self.needless[name][reason] += 1
        self.joined(pending, kind)
        self.write(pending, kind, why, primary, standby)

    def enter_flipped(self, pending, was_refused):
        """A text with a backslash under the other standard_conforming_strings."""
        counts = self.counts[self.source]
        counts["flipped"] += 1
        if was_refused:
            for name in JUDGES:
                if pending["other"][name]["route"] == "replica":
                    self.misrouted(name, pending["sql"], "refused under the other standard_conforming_strings")

    def joined(self, pending, kind):
        """Two neighbours as one string: it must go where the stricter of them does."""
        before, self.before = self.before, (pending, kind)
        if before is None or (before[0]["scs"], before[0]["encoding"]) != (pending["scs"], pending["encoding"]):
            return
        kinds = {before[1], kind}
        if "must" not in kinds and kinds != {"read"}:
            return
        # what SET and BEGIN are to a session, they are not in a string of several
        sql = before[0]["sql"] + b"\n;\n" + pending["sql"]
        verdict = self.judge.verdict(sql, pending["scs"], pending["encoding"])
        counts = self.counts[self.source]
        counts["joined"] += 1
        for name in JUDGES:
            parts = {before[0]["verdict"][name]["route"], pending["verdict"][name]["route"]}
            route = verdict[name]["route"]
            if "must" in kinds and route == "replica":
                self.misrouted(name, sql, "two as one string")
            if kinds == {"read"} and parts == {"replica"} and route == "primary":
                counts[f"joined needless {name}"] += 1

    def misrouted(self, name, sql, why):
        if reason := known(self.file, sql):
            return self.known.update([reason])
        self.counts[self.source][f"misrouted {name}"] += 1
        self.counts[self.source][f"refused {name}"] += why.startswith("refused")
        self.wrong.append((name, self.file, why, sql.decode("utf-8", "replace")))

    def write(self, pending, kind, why, primary, standby):
        verdict = pending["verdict"]
        told = {name: f"{verdict[name]['route']}: {verdict[name]['reason']}" for name in JUDGES}
        record = {
            "source": self.source, "file": self.file, "sql": pending["sql"].decode("utf-8", "replace"), "truth": kind,
            "why": why, **told, "status": pending["status"], "primary": primary.code,
            "standby": standby and (standby.code or ""),
        }
        self.records.write(json.dumps(record) + "\n")

    def print(self):
        """The tables. True if the catalog's judge misrouted nothing."""
        self.records.close()
        heads = ["source", "strings", "several", "must", "reads", "errors", "unknown", "flipped", "joined"]
        keys = ["strings", "several", "must", "read", "error", "unknown", "flipped", "joined"]
        table = [heads + ["misrouted text", "catalog", "needless text", "catalog", "but users'"]]
        total = collections.Counter()
        for source, counts in self.counts.items():
            total.update(counts)
            table.append(self.line(source, counts, keys))
        table.append(self.line("all", total, keys))
        widths = [max(len(line[at]) for line in table) for at in range(len(table[0]))]
        print()
        for line in table:
            print("  ".join(cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(zip(line, widths))))
        for name in JUDGES:
            common = ", ".join(f"{reason} {count}" for reason, count in self.needless[name].most_common(12))
            print(f"\nneedless by {name}: {common}")
        for reason, count in self.known.items():
            print(f"\nknown, {count} strings by either judge: {reason}")
        # what the catalog doesn't know either is what counts
        for name, file, why, sql in sorted(self.wrong, key=lambda wrong: wrong[0])[:40]:
            print(f"\nMISROUTED by {name}, {file}: {why}\n  {sql[:300]}")
        return not any(name == "catalog" for name, *_ in self.wrong)

    def line(self, source, counts, keys):
        cells = [source] + [str(counts[key]) for key in keys]
        cells += [f"{counts[f'misrouted {name}']} ({counts[f'refused {name}']})" for name in JUDGES]
        reads = max(counts["read"], 1)
        needless = [counts["needless text"], counts["needless catalog"], counts["needless catalog"] - counts["users catalog"]]
        return cells + [f"{count} ({100 * count / reads:.2f} %)" for count in needless]
