"""SQL by dice: valid for the most part, of every shape in which a write can hide."""
import re

READ_FUNCTIONS = {"lower", "now", "count", "abs", "unnest", "generate_series", "max", "random", "row_number", "format", "btrim",
                  "overlay", "position", "substring", "extract", "timezone", "pg_get_expr", "overlaps", "date_part"}
STRINGS = ["''", "'x'", "'it''s'", "'-- no'", "'/* no'", "'; insert into t values (1); '", "E'a\\'; delete from t; --'", "e'\\\\'",
           "U&'d\\0061t\\+000061'", "u&'!0061' UESCAPE '!'", "$$; delete from t $$", "$a$ $b$ ' $$ $a$", "'a'\n'b'", "'a' -- c\n 'b'",
           "B'01'", "x'1F'", "N'x'", "'\\'", "$é$ insert $é$", "E'\\047; nextval(1)'"]
TRIVIA = [" ", " ", " ", " ", "\n", "\t", "  ", " /* insert into t */ ", " -- for update\n", "/**/ ", " /* a /* nested */ ' */ ", "\r\n", " --\r "]
TOKEN = re.compile(r"""[eE]'(?:[^'\\]|\\.|'')*'|(?:[uU]&|[bBxXnN])?'(?:[^']|'')*'|(?:[uU]&)?"(?:[^"]|"")*"|\$(\w*)\$.*?\$\1\$|--[^\n\r]*"""
                   r"""|/\*.*?\*/|[^\W\d][\w$]*|\s+|.""", re.S)



# Each rule's alternatives; {rule} stands for one of another's. The first is what stays when it has gone deep enough.
RULES = {
    "string": ["{statement}", "{statement}", "{statement};", "{statement};{statement}", "{statement} ;; {statement} ; {statement};"],
    "statement": ["{query}"] * 8 + ["{explain}"] * 2 + ["{copy}"] * 2 + ["{modify}"] * 2 + ["{other}"],
    "other": [
        "lock table t", "truncate t", "notify n", "vacuum", "call f(1)", "execute p(1)", "cluster", "reindex table t",
        "create table x (a int)", "create table x as {query}", "alter table t add insert int", "comment on table t is {literal}",
        "refresh materialized view v", "do $$ begin end $$", "prepare p as {query}", "declare c cursor with hold for {query}",
        "create function f() returns int language sql begin atomic {query}; select case when true then 1 end; end",
        "create procedure p() begin atomic {modify}; {query}; end",
    ],
    "explain": ["explain {options}{query}", "explain {options}{modify}", "explain {options}create table x as {query}",
                "explain {options}declare c cursor for {query}", "explain {options}({query})", "explain {options}execute p"],
    "options": [
        "", "analyze ", "verbose ", "analyze verbose ", "(analyze) ", "(analyze off) ", "(analyze false, verbose) ", "(verbose, analyze 0) ",
        "(costs off, analyze 1) ", "(analyze, buffers off) ", "(\"analyze\" 'off') ", "(analyze off, analyze on) ",
        "(analyze on, analyze off) ", "(format json) ", "(analyze true, format 'xml') ", "(analyze 'on') ", "(analyze 'OFF') ",
    ],
    "copy": ["copy {source} to stdout", "copy {source} {way}{form}", "copy {source} {way}{form}"],
    "source": ["t", "s.t (a, b)", "({query})", "({query})", "({modify} returning *)", '"copy"', '"to"', "s.\"from\" (\"to\")"],
    "way": ["to stdout", "to stdout", "to stdin", "to '/f'", "to program 'x'", "from stdin", "from '/f'", "from stdout"],
    "form": ["", " (format csv)", " with (header, null $$x$$)", " csv"],
    "query": ["{core}", "{core}{tail}", "{core}{tail}", "{with}{core}{tail}", "{with}({query}){tail}", "({query})", "{core}{tail}{lock}"],
    "core": ["{select}"] * 6 + ["values ({value}), ({value})", "table {name}", "({query}) {set} {select}", "{select} {set} ({query})"],
    "set": ["union", "union all", "except", "intersect distinct"],
    "tail": ["", "", " order by {value}", " limit {simple}", " offset 1 rows fetch first 2 rows only", " order by {value} desc nulls last limit all"],
    "lock": ["", "", "", "", " for update", " for no key update", " for share", " for key share nowait", " for update of t skip locked",
             " for read only"],
    "with": ["with q as ({query}) ", "with {cte} ", "with recursive {cte}, {cte} ", "with {cte}, q3 as ({query}) "],
    "cte": [
        "q1 as ({query})", "q1(a, b) as ({query})", "q2 as materialized ({query})", "q2 as not materialized ({query})", "q4 as ({modify})",
        "\"Q\" as ({query}) search depth first by a set o", "q5(a) as ({query}) cycle a set c using p", "q6 as not materialized ({modify} returning *)",
        "q7 as ({query}) cycle a set c to true default false using p",
    ],
    "select": ["select {value}{alias}"] + ["select {distinct}{value}{alias}, {value}{alias} from {relation}{where}{group}"] * 6
    + ["select {distinct}{value}{alias} from {relation}, {relation}{where}"] * 4 + ["select {value}{into} from {relation}", "select from {relation}"],
    "into": [" into x", " into temp x", " into unlogged table x", "", "", "", ""],
    "distinct": ["", "", "", "distinct ", "distinct on ({value}) ", "all "],
    "where": ["", "", " where {condition}", " where {condition} and {condition}"],
    "group": ["", "", "", "", " group by a", " group by rollup (a, b), cube (a)", " group by grouping sets ((a), ())", " group by distinct a",
              " group by a having {condition}", " window w as (partition by a order by b rows 1 preceding)"],
    "relation": [
        "{name}", "s.{name}", "only {name}", "{name} as q", "{name} q(x, y)", "{name} tablesample bernoulli (10)", "({query}) q", "({query}) as q(x)",
        "lateral ({query}) q(x, y)", "{call} as r", "{call} with ordinality as r(x, n)", "{call} as r(a int, b numeric(10,2))",
        "rows from ({call}, {call}) as r", "{name} q1 join {name} q2 on (q1.a = q2.a)", "{name} q1 left join {relation} using (a)",
        "{name} q1 full join {name} q2 using (a, b) as j",
    ],
    "call": ["lower(a)", "{function}({simple})", "{function}({value}, b => {simple})", "{function} ()", "s.{function}({value})", "{unknown}({value})"],
    "function": ["lower", "now", "abs", "unnest", "generate_series", "random", "format", '"lower"', "pg_get_expr"],
    "unknown": ["lower", "lower", "lower", "lower", "f", "nextval", "My_Func", '"pg_advisory_lock"', "set_config", "s . \"nextval\"", "rollup_x"],
    "condition": [
        "a = 1", "{value} = {simple}", "exists ({query})", "a in ({query})", "a in (1, {simple})", "not a = any (array({query}))",
        "a between {simple} and 2", "a is distinct from {value}", "a like ({simple})", "(a, b) overlaps (c, d)", "a is null", "(a, 1) = ({query})",
    ],
    "value": [
        "{simple}", "{simple}", "{call}", "{value} {operator} {simple}", "({query})", "case when {condition} then {value} else {simple} end",
        "cast({value} as numeric(10, 2))", "{simple}::varchar(10)", "array[{value}, {simple}]", "row({value}, {simple})", "coalesce({value}, {simple})",
        "exists ({query})", "count(*) filter (where {condition})", "row_number() over (partition by a order by {simple})", "max({value}) over w",
        "extract(year from {simple})", "substring({simple} from 1 for 2)", "overlay(a placing {simple} from 1)", "position('a' in {simple})",
        "greatest({value}, 1)", "trim(both 'x' from {simple})", "a at time zone ('utc')", "a collate \"C\"", "not {simple}", "- {simple}", "array({query})",
    ],
    "simple": ["1", "$1", "a", "q.b", "0x1F", "1.5e-3", "null", "true", "1_000", "{literal}", "{literal}", "{literal}", "{name}", "current_user",
               "current_timestamp(3)", "interval '1' day", "interval '1' second(3)", "date '2020-01-01'", "(a).b", "a[1:2]", ".5", "q.\"into\""],
    "alias": ["", "", "", " as {name}", ' as "into"', " as update", " x", ' as U&"d\\0061ta"', " as for", " as into"],
    "name": ["t", "a", "b", '"update"', "update", "insert", "into_x", "delete", "key", "share", "no", "values_x", "data", "Ünï", "x$y", "merge", "temp",
             "cursor", "explain", "copy", "begin", "nextval", "lock", '"set"', '"over"', "by", '"do"', "call", "end_x", '"my ""quoted"" into"'],
    "modify": [
        "insert into t values (1)", "insert into t {query}", "insert into t default values", "insert into t values ({value}) on conflict do nothing",
        "update t set a = {value}", "update only t q set (a, b) = ({query}) where a = 1", "delete from t using u where {condition}",
        "delete from only t", "merge into t using u on t.a = u.a when matched then do nothing", "with q as ({query}) delete from t",
        "with {cte} insert into t table q", "with {cte} update t set a = 1 where {condition}",
    ],
    "literal": STRINGS,
    "operator": ["+", "-", "*", "=", "<>", "<=", "||", "->>", "@>", "#-", "<->", "<=>", "&&", "!~*", "~~", "@-", "<%>", "operator(pg_catalog.+)"],
}


class Generator:
    """Makes strings of one or more statements."""

    def __init__(self, dice):
        self.dice = dice

    def string(self):
        return self.dress(self.expand("string", 9))

    def expand(self, rule, depth):
        chosen = self.dice.choice(RULES[rule]) if depth > 0 else RULES[rule][0]
        if rule == "literal":
            return self.dice.choice(STRINGS)
        return re.sub(r"\{(\w+)\}", lambda found: self.expand(found.group(1), depth - 1), chosen)

    def dress(self, text):
        """Other blanks, comments and case: nothing that changes what it means."""
        out = []
        for found in TOKEN.finditer(text):
            token = found.group()
            if token.isspace() and "\n" not in token:
                token = self.dice.choice(TRIVIA)
            elif token.isascii() and token.isidentifier() and self.dice.random() < 0.3:
                token = "".join(self.dice.choice((letter.upper(), letter.lower())) for letter in token)
            out.append(token)
        return "".join(out)
