"""One SQL statement of a profile: its words are checked, its `:parameters` become the driver's own.

The author's text is trusted to read his own shop, not to be free of accidents: a statement that would be cut in two, or
understood differently by MySQL, MariaDB and SQLite, is refused. That it cannot write is the transaction's business
(READ ONLY), that several statements cannot be sent at once is the driver's; this is the third lock on the same door.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Paramstyle = Literal["named", "pyformat"]

_TOKEN = re.compile(
    r"""
      (?P<comment> --(?=\s|\Z)[^\n]* | /\*.*?\*/ )
    | (?P<doubtful> -- | /\* )
    | (?P<quoted> '(?:[^'\\]|\\[^']|'')*' | "(?:[^"\\]|\\[^"]|"")*" | `(?:[^`]|``)*` )
    | (?P<list_parameter> \(\s*:[A-Za-z_]\w*\s*\) )
    | (?P<parameter> (?<![:\w]):[A-Za-z_]\w* )
    | (?P<word> [^\W\d]\w* )
    | (?P<blank> \s+ )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)

_PARAMETER = re.compile(r":([A-Za-z_]\w*)")
_NEVER = frozenset(
    [
        "into",
        "update",
        "delete",
        "drop",
        "alter",
        "create",
        "grant",
        "revoke",
        "call",
        "outfile",
        "dumpfile",
        "load_file",
        "load_extension",
        "sleep",
        "benchmark",
        "get_lock",
        "release_lock",
    ]
)
"""What a SELECT has no business with: words that write, wait, or touch the server's files."""
_FUNCTIONS_TOO = frozenset({"insert", "replace", "truncate"})
"""Verbs that are also harmless functions: `REPLACE(phone, '-', '')`."""
_LOCKS = {("for", "update"), ("for", "share"), ("lock", "in")}


class BadStatement(ValueError):
    """Why the statement is refused and what to do, in words that fit after `[read] orders: `."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A checked statement, without a closing semicolon."""

    sql: str
    parameters: frozenset[str]
    verb: str
    """Its first word, in lower case."""

    @classmethod
    def reading(cls, sql: str) -> Statement:
        """One SELECT or WITH that can stand inside `FROM (...)`. Raises BadStatement."""
        statement = cls._parsed(sql)
        if statement.verb not in ("select", "with"):
            raise BadStatement(f"starts with {statement.verb.upper()}: write one SELECT, or WITH ... SELECT")
        for (kind, text), (_, after) in pairwise([*_meaningful(sql), ("other", "")]):
            word, then = text.lower(), after.lower()
            if kind != "word":
                continue
            if word in _NEVER or (word in _FUNCTIONS_TOO and not then.startswith("(")):
                raise BadStatement(f"holds {text.upper()}: a SELECT only reads (put a column of that name into quotes)")
            if (word, then) in _LOCKS:
                raise BadStatement(f"locks rows ({text} {after}): leave that out")
        return statement

    @classmethod
    def writing(cls, sql: str) -> Statement:
        """One UPDATE or one INSERT. Raises BadStatement."""
        statement = cls._parsed(sql)
        if statement.verb not in ("update", "insert"):
            raise BadStatement(f"starts with {statement.verb.upper()}: write one UPDATE or one INSERT")
        return statement

    @classmethod
    def _parsed(cls, sql: str) -> Statement:
        end = len(sql.rstrip().removesuffix(";"))
        tokens = _meaningful(sql[:end])
        if not tokens:
            raise BadStatement("is empty: write the statement")
        depth = 0
        for _, text in tokens:
            if text == ";":
                raise BadStatement("holds more than one statement: keep one")
            depth += (text == "(") - (text == ")")
            if depth < 0:
                raise BadStatement("closes a parenthesis that it did not open: remove it")
        if depth:
            raise BadStatement("leaves a parenthesis open: close it")
        parameters = (text.strip("(): \t\r\n") for kind, text in tokens if kind.endswith("parameter"))
        return cls(sql[:end], frozenset(parameters), tokens[0][1].lower())

    def words(self) -> list[str]:
        """Its words, quoted texts, parameters and signs, without comments and blanks."""
        return [text for _, text in _meaningful(self.sql)]

    def renamed(self, name: Callable[[str], str]) -> str:
        """The text with other parameter names, without comments."""
        return "".join(
            " "
            if kind == "comment"
            else _PARAMETER.sub(lambda found: f":{name(found[1])}", text)
            if kind.endswith("parameter")
            else text
            for kind, text in _tokens(self.sql)
        )

    def for_driver(self, paramstyle: Paramstyle, lists: frozenset[str] = frozenset()) -> str:
        """The text with the driver's placeholders, without comments.

        A parameter of `lists` holds several values, written `IN :name` or `IN (:name)`. `pyformat` (PyMySQL): it is
        bound as a tuple, which the driver puts into parentheses itself. `named` (SQLite): as the JSON text of an array.
        """
        return "".join(_placeholder(kind, text, paramstyle, lists) for kind, text in _tokens(self.sql))


def _placeholder(kind: str, text: str, paramstyle: Paramstyle, lists: frozenset[str]) -> str:
    if kind == "comment":
        return " "
    if not kind.endswith("parameter"):
        return text.replace("%", "%%") if paramstyle == "pyformat" else text
    name = text.strip("(): \t\r\n")
    if name in lists:
        array = f"(SELECT value FROM json_each(:{name}))"  # noqa: S608 - a name of the tokenizer's: letters and digits
        return f"%({name})s" if paramstyle == "pyformat" else array
    one = f"%({name})s" if paramstyle == "pyformat" else f":{name}"
    return f"({one})" if kind == "list_parameter" else one


def _meaningful(sql: str) -> list[tuple[str, str]]:
    return [(kind, text) for kind, text in _tokens(sql) if kind not in ("comment", "blank")]


_REFUSED = {
    "'": "has a ' that is never closed, or \\' inside a text: write '' for a quote inside a text",
    '"': 'has a " that is never closed, or \\" inside a text: write "" for a quote inside it',
    "`": "has a ` that is never closed: close it",
    "#": "holds # outside a text: write a comment as -- comment",
    "?": "holds ? outside a text: parameters are written :name",
    "\\": "holds a backslash outside a text: remove it",
    "\0": "holds a NUL character: remove it",
}


def _tokens(sql: str) -> Iterator[tuple[str, str]]:
    for match in _TOKEN.finditer(sql):
        kind, text = str(match.lastgroup), match.group()
        if kind == "doubtful":
            raise BadStatement(
                "holds -- without a blank after it: databases disagree whether that is a comment"
                if text == "--"
                else "opens a comment /* that is never closed: close it"
            )
        if kind == "comment" and re.match(r"/\*M?!", text):
            raise BadStatement("holds an executable comment (/*! ... */): write its text plainly")
        if kind == "other" and text in _REFUSED:
            raise BadStatement(_REFUSED[text])
        yield kind, text
