"""The `where` of genericQuery, read by a parser that knows a small part of SQL and refuses everything else.

    condition  = conjunction {OR conjunction}
    conjunction = primary {AND primary}
    primary    = "(" condition ")" | operand compare operand | operand IN "(" literal {"," literal} ")"
               | operand LIKE text
    compare    = "=" | "<>" | ">=" | "<="
    operand    = field | RTRIM "(" field ")" | literal
    field      = [alias "."] name
    literal    = 'text, with '' for a quote' | number

The result is a condition for SQLite, every literal a bound parameter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from erp_sync.sandbox.dictionary import Column

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>'(?:[^']|'')*')
      | (?P<number>-?\d+(?:\.\d+)?(?![\w.]))
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign><>|>=|<=|=|\(|\)|,|\.)
    )""",
    re.VERBOSE,
)
_IN_LIMIT = 1000
_DEPTH_LIMIT = 50

Value = str | float
Resolve = Callable[[str, str], Column]


class WhereError(ValueError):
    """The text is none of the SQL above."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the site's database compares texts."""

    padded: bool = False
    caseless: bool = False


@dataclass(frozen=True, slots=True)
class _Literal:
    value: Value


@dataclass(frozen=True, slots=True)
class _Field:
    column: Column
    trimmed: bool

    @property
    def sql(self) -> str:
        return f"{self.column.table}.{self.column.name}"

    @property
    def is_text(self) -> bool:
        return self.column.kind != "N"


@dataclass(slots=True)
class _Parser:
    tokens: list[tuple[str, str]]
    resolve: Resolve
    comparison: Comparison
    at: int = 0
    depth: int = 0
    parameters: list[Value] = field(default_factory=list)

    def condition(self) -> str:
        self.depth += 1
        if self.depth > _DEPTH_LIMIT:
            raise WhereError("the condition is nested too deeply")
        parts = [self.conjunction()]
        while self.accept("OR"):
            parts.append(self.conjunction())
        self.depth -= 1
        return f"({' OR '.join(parts)})"

    def conjunction(self) -> str:
        parts = [self.primary()]
        while self.accept("AND"):
            parts.append(self.primary())
        return f"({' AND '.join(parts)})"

    def primary(self) -> str:
        if self.accept("("):
            inside = self.condition()
            self.expect(")")
            return inside
        left = self.operand()
        if self.accept("IN"):
            return self.membership(left)
        if self.accept("LIKE"):
            return self.likeness(left)
        for sign in ("=", "<>", ">=", "<="):
            if self.accept(sign):
                return self.compared(left, sign, self.operand())
        raise self.error("a comparison")

    def membership(self, left: _Field | _Literal) -> str:
        if isinstance(left, _Literal):
            raise self.error("a field before IN")
        self.expect("(")
        values = [self.literal()]
        while self.accept(","):
            values.append(self.literal())
        self.expect(")")
        if len(values) > _IN_LIMIT:
            raise WhereError(f"an IN list has at most {_IN_LIMIT} values")
        found = [bound for literal in values if (bound := self.bindable(left, literal)) is not None]
        self.parameters.extend(found)
        return f"{left.sql}{self.collation(left)} IN ({', '.join('?' * len(found))})"

    def likeness(self, left: _Field | _Literal) -> str:
        pattern = self.literal().value
        if isinstance(left, _Literal) or not left.is_text or not isinstance(pattern, str):
            raise self.error("a CHAR field LIKE a text")
        glob = "".join({"%": "*", "_": "?"}.get(sign, f"[{sign}]" if sign in "*?[" else sign) for sign in pattern)
        width = left.column.width
        subject = left.sql if left.trimmed else f"substr({left.sql} || '{' ' * width}', 1, {width})"
        if self.comparison.caseless:
            subject, glob = f"lower({subject})", glob.lower()
        self.parameters.append(glob)
        return f"{subject} GLOB ?"

    def compared(self, left: _Field | _Literal, sign: str, right: _Field | _Literal) -> str:
        if isinstance(left, _Literal):
            if isinstance(right, _Literal):
                raise self.error("a field in every comparison")
            return self.compared(right, {">=": "<=", "<=": ">="}.get(sign, sign), left)
        if isinstance(right, _Field):
            if left.is_text != right.is_text:
                raise WhereError(f"{left.column.name} and {right.column.name} are of different types")
            return f"{left.sql} {sign} {right.sql}{self.collation(left)}"
        bound = self.bindable(left, right)
        if bound is None:
            return "1" if sign == "<>" else "0"
        self.parameters.append(bound)
        return f"{left.sql} {sign} ?{self.collation(left)}"

    def bindable(self, left: _Field, literal: _Literal) -> Value | None:
        """The literal as the stored, unpadded value would have it. None: nothing can be equal to it."""
        value = literal.value
        if left.is_text != isinstance(value, str):
            raise WhereError(f"{left.column.name} is compared with a value of another type")
        if not isinstance(value, str):
            return value
        plain = value.rstrip(" ")
        if self.comparison.padded and len(value) != (len(plain) if left.trimmed else left.column.width):
            return None
        return plain

    def collation(self, left: _Field) -> str:
        return " COLLATE NOCASE" if self.comparison.caseless and left.is_text else ""

    def operand(self) -> _Field | _Literal:
        kind, text = self.peek()
        if kind in ("text", "number"):
            return self.literal()
        if kind != "name":
            raise self.error("a field or a value")
        if text.upper() == "RTRIM":
            self.at += 1
            self.expect("(")
            column = self.column()
            self.expect(")")
            return _Field(column, trimmed=True)
        return _Field(self.column(), trimmed=False)

    def column(self) -> Column:
        name = self.name()
        if self.accept("."):
            return self.resolve(self.name(), name)
        return self.resolve(name, "")

    def name(self) -> str:
        kind, text = self.peek()
        if kind != "name":
            raise self.error("a field")
        self.at += 1
        return text.upper()

    def literal(self) -> _Literal:
        kind, text = self.peek()
        if kind not in ("text", "number"):
            raise self.error("a value")
        self.at += 1
        return _Literal(text[1:-1].replace("''", "'") if kind == "text" else float(text))

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def accept(self, word: str) -> bool:
        kind, text = self.peek()
        if kind in ("name", "sign") and text.upper() == word:
            self.at += 1
            return True
        return False

    def expect(self, word: str) -> None:
        if not self.accept(word):
            raise self.error(word)

    def error(self, wanted: str) -> WhereError:
        kind, text = self.peek()
        raise WhereError(
            f"incorrect syntax near {text!r}: {wanted} expected" if kind != "end" else f"{wanted} expected"
        )


def parse_where(text: str, resolve: Resolve, comparison: Comparison) -> tuple[str, list[Value]]:
    """The condition in SQLite's words, and its parameters.

    `resolve` gives the column of a name and an alias ("" where none is written) or raises WhereError.
    """
    parser = _Parser(_tokens(text), resolve, comparison)
    condition = parser.condition()
    if parser.peek()[0] != "end":
        raise parser.error("AND, OR or the end")
    return condition, parser.parameters


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens = []
    at = 0
    rest = len(text.rstrip())
    while at < rest:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise WhereError(f"incorrect syntax near {text[at : at + 10]!r}")
        value = match[match.lastgroup]
        if match.lastgroup == "text" and any(ord(character) < 32 or ord(character) == 127 for character in value):
            raise WhereError("a text holds a control character")
        tokens.append((match.lastgroup, value))
        at = match.end()
    return tokens
