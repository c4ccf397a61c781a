"""Which rights a profile needs: GRANT statements ready to be run."""

from __future__ import annotations

import re
from collections.abc import Iterator

from erp_sync.shop.database import Shop
from erp_sync.shop.statement import Statement


def needed_grants(shop: Shop) -> list[str]:
    """The GRANT statements for this profile: SELECT on the tables it reads, UPDATE on the columns it writes."""
    profile, url = shop.profile, shop.engine.url
    reading = [profile.read.orders, profile.read.lines]
    reading += [section.find for section in (profile.status, profile.stock) if section is not None]
    reading += [profile.stock.skus] if profile.stock and profile.stock.skus else []
    to = f"TO '{url.username or 'erp_sync'}'@'%'"
    tables = sorted({table for statement in reading for table in read_tables(statement)})
    grants = [f"GRANT SELECT ON {_qualified(table, url.database)} {to}" for table in tables]
    for verb, table, columns in _written(shop):
        right = f"UPDATE ({', '.join(columns)})" if verb == "UPDATE" else verb
        grants.append(f"GRANT {right} ON {_qualified(table, url.database)} {to}")
    if _has_bulk(shop):
        grants.append(f"GRANT CREATE TEMPORARY TABLES ON {url.database}.* {to}")
    return grants


def read_tables(statement: Statement) -> set[str]:
    """The tables after FROM and JOIN (and the commas of an old-style join), without the names that WITH defines."""
    words = [text.strip('`"') for text in statement.words()]
    lower = [word.lower() for word in words]
    defined = {lower[i] for i in range(len(words) - 2) if lower[i + 1] == "as" and words[i + 2] == "("}
    defined &= set(lower) if "with" in lower else set()
    tables: set[str] = set()
    in_from = False
    for i, word in enumerate(lower):
        if word in ("from", "join"):
            in_from = True
        elif not (in_from and word == ","):
            in_from = in_from and word not in ("where", "group", "order", "limit", "having", "union", "(", ")", "on")
            continue
        name = ".".join(_dotted(words, i + 1))
        if name and name.lower() not in defined:
            tables.add(name)
    return tables


def _dotted(words: list[str], start: int) -> Iterator[str]:
    while start < len(words) and re.fullmatch(r"\w+", words[start]) and words[start].lower() != "select":
        yield words[start]
        if start + 1 >= len(words) or words[start + 1] != ".":
            return
        start += 2


def _written(shop: Shop) -> Iterator[tuple[str, str, list[str]]]:
    """Verb, table and, of an UPDATE, its columns."""
    profile = shop.profile
    statements = [*(profile.status.write if profile.status else ()), *(profile.stock.write if profile.stock else ())]
    if profile.stock and profile.stock.bulk:
        statements.append(profile.stock.bulk)
    for statement in statements:
        words = [text.strip('`"') for text in statement.words()]
        lower = [word.lower() for word in words]
        table = ".".join(_dotted(words, 2 if lower[1:2] in (["into"], ["ignore"]) else 1))
        columns: list[str] = []
        depth = 0
        for i in range(lower.index("set") if "set" in lower else len(words), len(words)):
            depth += (words[i] == "(") - (words[i] == ")")
            if depth == 0 and lower[i] == "where":
                break
            if depth == 0 and words[i] == "=" and lower[i - 2] in ("set", ",", "."):
                columns.append(words[i - 1])
        yield statement.verb.upper(), table, columns


def _has_bulk(shop: Shop) -> bool:
    return shop.profile.stock is not None and shop.profile.stock.bulk is not None


def _qualified(table: str, database: str | None) -> str:
    return table if "." in table else f"{database}.{table}"
