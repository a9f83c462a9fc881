"""The proxy's classes against PostgreSQL's own grammar (pglast), over generated SQL and over the suites' statements in new
surroundings: what parses and holds a writing node must not be a read, and a plain read should be one.
"""
import collections
import json
import random

from generator import READ_FUNCTIONS, Generator

WRITING = {"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "IntoClause", "LockingClause"}
FALSE = {"false", "off", "0"}
# CURSOR_OPT_HOLD, of WITH HOLD (nodes/parsenodes.h)
HOLD = 0x20
WRAPS = [
    "with q as ({0}) select * from q", "with q(a, b) as materialized ({0}) {1}", "WITH p AS ({1}), q AS NOT MATERIALIZED ({0}) TABLE q",
    "explain {0}", "explain (analyze) {0}", "EXPLAIN ANALYZE VERBOSE {0}", "explain (costs off, analyze false) {0}",
    "explain (analyze, \"analyze\" off, verbose) {0}", "copy ({0}) to stdout", "copy ({0}) to stdout with (format csv, header)",
    "copy ({0}) to program 'cat'", "{0};{1}", "{1} ; ; {0};", "/* {1} */ {0}", "-- {1}\n{0}", "select ({0}) as x", "select * from ({0}) as q",
    "select * from t, lateral ({0}) q(a)", "({0})", "(({0})) union all {1}", "select case when exists ({0}) then 1 end",
    "prepare p as {0}", "declare c cursor for {0}", "create table n as {0}", "create view v as {0}", "create function f() returns int begin atomic {0}; end; {1}",
    "create or replace procedure p() language sql begin atomic {0}; {1}; select case when true then 1 end; END; {1}",
    "select array({0}), row(1, 2)", "insert into t {0}", "do $$ {0} $$; {1}", "select $a${0}$a$", "values (1), (({0}))",
]


def nodes(tree):
    """Every node of a parsed tree: `(name, fields)`."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if isinstance(value, dict) and name[:1].isupper():
                yield name, value
            yield from nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from nodes(value)


def analyzes(statement):
    runs = False
    for option in statement.get("options", []):
        option = option["DefElem"]
        if option["defname"] == "analyze":
            value = option.get("arg", {})
            text = value.get("String", {}).get("sval", str(value.get("Integer", {}).get("ival", 0)) if "Integer" in value else "true")
            runs = text.lower() not in FALSE
    return runs


def is_read(statement):
    """Whether a statement is one that any server may run: True, False, or None where the grammar doesn't tell."""
    (name, fields), = statement.items()
    if name == "ExplainStmt":
        if not analyzes(fields):
            return None if "ExecuteStmt" in fields["query"] else True
        return is_read(fields["query"])
    if name == "CopyStmt":
        if fields.get("is_from") or fields.get("is_program") or "filename" in fields:
            return False
        return is_read(fields["query"]) if "query" in fields else True
    if name == "DeclareCursorStmt":
        return False if fields["options"] & HOLD else is_read(fields["query"])
    if name != "SelectStmt":
        return None if name == "VariableShowStmt" else False
    sure = True
    for inner, value in nodes(statement):
        if inner in WRITING:
            return False
        if inner == "FuncCall":
            sure &= value["funcname"][-1]["String"]["sval"] in READ_FUNCTIONS
    # lists and into clauses stand under their fields' names
    text = json.dumps(statement)
    if '"intoClause"' in text or '"lockingClause"' in text:
        return False
    return True if sure else None


class Comparison:
    """Counts, and what was found wrong."""

    def __init__(self, judge, parse):
        self.judge, self.parse = judge, parse
        self.counts = collections.Counter()
        self.wrong, self.needless = [], []

    def check(self, sql, unknown_calls_write):
        """One string. With `unknown_calls_write`, calls that aren't known reads make it one for the primary."""
        try:
            statements = [statement["stmt"] for statement in json.loads(self.parse(sql))["stmts"] if statement.get("stmt")]
        except Exception:
            self.counts["not SQL"] += 1
            # nothing is to be known of it, but that it is taken
            self.judge.verdict(sql.encode())
            return
        verdict = self.judge.verdict(sql.encode())["text"]
        self.counts["strings"] += 1
        self.counts["several"] += len(statements) > 1
        reads = [is_read(statement) for statement in statements]
        if verdict["statements"] != len(statements):
            self.wrong.append((f"{len(statements)} statements, not {verdict['statements']}", sql))
        writes = False in reads or (unknown_calls_write and None in reads)
        if writes:
            self.counts["writes"] += 1
            if verdict["route"] == "replica":
                self.wrong.append(("a write to a replica", sql))
        elif reads and all(reads):
            self.counts["reads"] += 1
            if verdict["route"] == "primary":
                self.counts["needless"] += 1
                self.counts[f"needless: {verdict['reason']}"] += 1
                self.needless.append((verdict["reason"], sql))

    def print(self):
        keys = ["strings", "several", "writes", "reads", "needless", "not SQL"]
        print("\ngrammar: " + ", ".join(f"{self.counts[key]} {key}" for key in keys) + f", {len(self.wrong)} wrong")
        common = [(key, count) for key, count in self.counts.most_common() if key.startswith("needless: ")][:10]
        print("  " + ", ".join(f"{key} {count}" for key, count in common))
        for reason, sql in [found for found in self.needless if found[0] != "U& name"][:6]:
            print(f"  needless by {reason}: {' '.join(sql.split())[:200]}")
        for why, sql in self.wrong[:40]:
            print(f"\nWRONG, {why}:\n  {sql[:400]}")
        return not self.wrong


def compare(judge, parse, statements, count, seed):
    """`count` generated strings, and `statements` in new surroundings. True if nothing is wrong."""
    dice = random.Random(seed)
    comparison = Comparison(judge, parse)
    generator = Generator(dice)
    for _ in range(count):
        comparison.check(generator.string(), unknown_calls_write=True)
    generated = comparison.counts.copy()
    for statement in statements:
        comparison.check(statement, unknown_calls_write=False)
        wrap = dice.choice(WRAPS)
        comparison.check(wrap.format(statement.rstrip("; \n"), dice.choice(statements).rstrip("; \n")), unknown_calls_write=False)
        comparison.check(generator.dress(statement), unknown_calls_write=False)
    print(f"grammar: seed {seed}; of these generated: {generated['strings']} strings, {generated['writes']} writes, "
          f"{generated['reads']} reads, {generated['needless']} needless")
    return comparison.print()
