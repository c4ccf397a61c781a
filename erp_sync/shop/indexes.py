"""Which index a look at the shop misses, as the statement that its owner may run."""

from __future__ import annotations

import re
from collections.abc import Iterator

from erp_sync.shop.statement import Statement

_NO_ALIAS = {"as", "on", "where", "join", "left", "right", "inner", "cross", "straight_join", "using", "order", "group"}


def missing_index(statement: Statement, scanned: str, wanted: str) -> str:
    """CREATE INDEX for the table that EXPLAIN calls `scanned` and that is read from end to end; "" where the text does
    not tell the column: it is computed, or of a derived table.

    `wanted`: what the rows are looked for by: a column of the SELECT, or a parameter (`:number`).
    """
    words = [text.strip('`"') for text in statement.words()]
    tables = dict(_aliases(words))
    table = tables.get(scanned.lower())
    if table is None:
        return ""
    found = _sources(words, wanted) if table == tables[""] else _joined(words)
    for alias, column in found:
        if tables.get(alias.lower()) == table and (alias or len(set(tables.values())) == 1):
            return f"CREATE INDEX erp_sync_{column} ON {table} ({column})"
    return ""


def _aliases(words: list[str]) -> Iterator[tuple[str, str]]:
    """Alias = table, in lower case; "" = the first table."""
    first = True
    for i, word in enumerate(words):
        if word.lower() not in ("from", "join") or i + 1 >= len(words) or not _is_name(words[i + 1]):
            continue
        end = i + 2
        while end + 1 < len(words) and words[end] == ".":
            end += 2
        table = "".join(words[i + 1 : end])
        end += end < len(words) and words[end].lower() == "as"
        named = end < len(words) and _is_name(words[end]) and words[end].lower() not in _NO_ALIAS
        yield (words[end] if named else table.rpartition(".")[2]).lower(), table
        if first:
            yield "", table
            first = False


def _sources(words: list[str], wanted: str) -> Iterator[tuple[str, str]]:
    """Alias ("" for none) and column of what is bare: `o.updated_at AS changed_at`, `number = :number`."""
    for i, word in enumerate(words):
        if wanted.startswith(":"):
            if word == wanted and words[i - 1] == "=":
                yield from _bare(words, i - 2)
        elif word.lower() == wanted and words[i - 1].lower() == "as":
            yield from _bare(words, i - 2, before=(",", "select", "distinct"))


def _joined(words: list[str]) -> Iterator[tuple[str, str]]:
    """Both sides of `ON c.id = o.customer_id`."""
    for i, word in enumerate(words):
        if word == "=" and i + 2 < len(words) and words[i + 2] == ".":
            yield words[i + 1], words[i + 3]
        if word == "=" and i > 2 and words[i - 2] == ".":
            yield words[i - 3], words[i - 1]


def _bare(words: list[str], at: int, before: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    if at < 0 or not _is_name(words[at]):
        return
    has_alias = words[at - 1] == "."
    start = at - 2 if has_alias else at
    if not before or words[start - 1].lower() in before:
        yield (words[at - 2] if has_alias else ""), words[at]


def _is_name(word: str) -> bool:
    return re.fullmatch(r"[A-Za-z_]\w*", word) is not None and word.lower() != "select"
