"""A rough look at a statement's text, independent of the proxy's lexer: words outside of strings and comments."""
import fnmatch
import pathlib
import re
import tomllib

ACTS = tomllib.loads((pathlib.Path(__file__).parent / "acts.toml").read_text())
# Strings, quoted names, comments (nested ones two deep), numbers and names, and else one character
TOKEN = re.compile(
    r"""(?P<blank>\s+|--[^\n\r]*|/\*(?:[^*/]|\*(?!/)|/(?!\*)|/\*.*?\*/)*\*/)"""
    r"""|(?P<string>[eE]'(?:[^'\\]|\\.|'')*'|(?:[uU]&|[bBxXnN])?'(?:[^']|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)"""
    r"""|(?P<quoted>"(?:[^"]|"")*")|(?P<word>[^\W\d][\w$]*)|(?P<other>.)""", re.S)
NAMES = {kind: re.compile("|".join(map(fnmatch.translate, ACTS[kind]))) for kind in ("functions", "relations")}
READS = {"select", "values", "table", "with", "show", "explain", "copy"}


class Words:
    """The tokens of a text: `(kind, value)`, names folded, strings without their quotes."""

    def __init__(self, sql):
        self.tokens = []
        for found in TOKEN.finditer(sql.decode("utf-8", "replace")):
            kind = found.lastgroup if found.lastgroup != "tag" else "string"
            value = found.group()
            if kind == "word":
                value = value.lower()
            elif kind == "quoted":
                kind, value = "word", value[1:-1].replace('""', '"')
            elif kind == "string":
                value = value.strip("eE'").lower()
            if kind != "blank":
                self.tokens.append((kind, value))

    def first(self):
        return next((value for kind, value in self.tokens if kind == "word"), "")

    def is_read(self):
        """Whether it is of a kind that may be a read: by its first word, and COPY by its end."""
        first = self.first()
        if first == "copy":
            values = [value for _, value in self.tokens]
            return "to" in values and ("stdout" in values or "stdin" in values)
        return first in READS

    def act(self):
        """What in it is on the list of acts, or None."""
        if self.first() == "explain" and not {"analyze", "analyse"} & {value for _, value in self.tokens}:
            return None
        start = " ".join(value for _, value in self.tokens[:2])
        for verb in ACTS["verbs"]:
            if start == verb or start.startswith(verb + " "):
                return verb
        values = [value for _, value in self.tokens]
        if values[0] == "declare" and ("with", "hold") in zip(values, values[1:]):
            return "declare with hold"
        for at, (kind, value) in enumerate(self.tokens):
            follows = values[at + 1] if at + 1 < len(values) else ""
            if kind == "word":
                names = "functions" if follows == "(" else "relations"
                if NAMES[names].match(value):
                    return value
            shown = kind == "string" and "current_setting" in values[max(0, at - 2):at]
            if (shown or values[0] == "show") and value in ACTS["settings"]:
                return value
        return None


def doubtful_backslash(sql):
    """Whether standard_conforming_strings may change what the text is."""
    return b"\\" in sql and b"'" in sql


def known(file, sql):
    """The reason of a misroute that is known, or None."""
    words = {value for _, value in Words(sql).tokens}
    return next((one["why"] for one in ACTS["known"] if one["file"] == file and words.issuperset(one["words"])), None)
