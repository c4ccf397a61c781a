"""Which rights a profile needs: GRANT statements ready to be run.

`deploy/grants.sql` is `grants_file` of the shipped profile; a test holds both alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sqlalchemy.dialects.mysql.reserved_words import RESERVED_WORDS_MARIADB, RESERVED_WORDS_MYSQL

from erp_sync.shop.database import Shop
from erp_sync.shop.profile import Profile
from erp_sync.shop.statement import Statement
from erp_sync.shop.stock import TEMPORARY

AT_WORK = ("SELECT", "INSERT", "UPDATE", "DELETE")
"""What the ledger's user may do with its tables."""
TO_MIGRATE = ("CREATE", "ALTER", "INDEX")
"""And to make and change them."""
SHOP_USER, LEDGER_USER, MIGRATE_USER = "erp_sync_shop", "erp_sync_ledger", "erp_sync_migrate"

_BEFORE_TARGET = {"insert", "low_priority", "high_priority", "delayed", "ignore", "into"}
_HAVE_FROM = {"extract", "trim", "substring", "substr"}
_RESERVED = RESERVED_WORDS_MYSQL | RESERVED_WORDS_MARIADB
_AFTER_TABLE = {"join", "straight_join", "inner", "left", "right", "cross", "natural", "on", "using", "force", "use"}


def needed_grants(shop: Shop) -> list[str]:
    """`shop_grants` for the user and the database of the shop's URL."""
    url = shop.engine.url
    return shop_grants(shop.profile, url.database or "", url.username or "erp_sync")


def shop_grants(profile: Profile, database: str, user: str) -> list[str]:
    """The GRANT statements for this profile: SELECT on the tables it reads, UPDATE on the columns it writes."""
    reading = [profile.read.orders, profile.read.lines]
    reading += [section.find for section in (profile.status, profile.stock) if section is not None]
    reading += [profile.stock.skus] if profile.stock and profile.stock.skus else []
    to = _to(user)
    read = {table for statement in reading for table in read_tables(statement)}
    # An UPDATE reads the columns of its WHERE; and what is copied, joined or looked at in a sub-SELECT is read too.
    read |= {table for verb, table, _ in _written(profile) if verb == "UPDATE"}
    read |= {table for statement in _writing(profile) for table in read_tables(statement)} - {TEMPORARY}
    grants = [f"GRANT SELECT ON {_qualified(table, database)} {to}" for table in sorted(read)]
    for verb, table, columns in _written(profile):
        if verb == "UPDATE" and not columns:
            continue
        right = f"UPDATE ({', '.join(map(_name, columns))})" if verb == "UPDATE" else verb
        grants.append(f"GRANT {right} ON {_qualified(table, database)} {to}")
    if _has_bulk(profile):
        grants.append(f"GRANT CREATE TEMPORARY TABLES ON {all_of(database)} {to}")
    return list(dict.fromkeys(grants))


def ledger_grants(database: str, user: str, *, migrates: bool) -> list[str]:
    """What the ledger's user needs of its own database: to work, or besides that to make and change the tables."""
    rights = ", ".join([*AT_WORK, *(TO_MIGRATE if migrates else ())])
    return [f"GRANT {rights} ON {all_of(database)} {_to(user)}"]


def grants_file(profile: Profile, shop: str, ledger: str) -> str:
    """A SQL script with the least rights of the three users, for databases of these names."""
    blocks = (
        (
            "ERP_SYNC_SHOP_URL: reads the tables that the profile names, writes the columns that it writes.",
            shop_grants(profile, shop, SHOP_USER),
        ),
        ("ERP_SYNC_LEDGER_URL, of everything that runs.", ledger_grants(ledger, LEDGER_USER, migrates=False)),
        (
            "ERP_SYNC_LEDGER_URL, of erp-sync migrate alone: run it with this user before a new version starts.",
            ledger_grants(ledger, MIGRATE_USER, migrates=True),
        ),
    )
    head = (
        f"-- The least rights with which everything runs, for the profile {profile.name} (MySQL 8, MariaDB 10.6 or "
        f"later).\n-- Made by: erp-sync profile grants {profile.name} --shop {shop} --ledger {ledger}\n"
        "-- Create the users first, each with a password of its own and for the hosts that erp_sync runs on, such as:\n"
        f"--   CREATE USER '{SHOP_USER}'@'%' IDENTIFIED BY '...' REQUIRE SSL;\n"
    )
    return "\n".join(
        [head, *("\n".join([f"-- {what}", *(f"{grant};" for grant in grants), ""]) for what, grants in blocks)]
    )


def read_tables(statement: Statement) -> set[str]:
    """The tables after FROM and JOIN (and the commas of an old-style join), without the names that WITH defines and
    the FROM of `EXTRACT(YEAR FROM x)`."""
    words = [text.strip('`"') for text in statement.words()]
    lower = [word.lower() for word in words]
    defined = {lower[i] for i in range(len(words) - 2) if lower[i + 1] == "as" and words[i + 2] == "("}
    defined &= set(lower) if "with" in lower else set()
    tables: set[str] = set()
    in_from = False
    before = [""]
    for i, word in enumerate(lower):
        if word == "(":
            before.append(lower[i - 1])
        elif word == ")":
            before.pop()
        if word in ("from", "join", "straight_join") and before[-1] not in _HAVE_FROM:
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


def _writing(profile: Profile) -> list[Statement]:
    statements = [*(profile.status.write if profile.status else ()), *(profile.stock.write if profile.stock else ())]
    return [*statements, profile.stock.bulk] if profile.stock and profile.stock.bulk else statements


def _written(profile: Profile) -> Iterator[tuple[str, str, list[str]]]:
    """Verb, table and, of an UPDATE, its columns. Tables that an UPDATE only joins come without columns."""
    for statement in _writing(profile):
        words = [text.strip('`"') for text in statement.words()]
        lower = [word.lower() for word in words]
        if statement.verb != "update":
            yield from _inserted(words, lower)
            continue
        named = _tables_by_alias(words[: lower.index("set")])
        columns: dict[str, list[str]] = {table: [] for table in named.values() if table != TEMPORARY}
        for alias, column in _assigned(words, lower, lower.index("set")):
            columns.setdefault(named.get(alias, next(iter(columns), "")), []).append(column)
        yield from (("UPDATE", table, names) for table, names in columns.items())


def _inserted(words: list[str], lower: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    start = next(i for i, word in enumerate(lower) if word not in _BEFORE_TARGET)
    parts = list(_dotted(words, start))
    yield "INSERT", ".".join(parts), []
    if "duplicate" in lower:
        # MariaDB asks for UPDATE on each column that is inserted, not only on those that are assigned.
        listed = start + 2 * len(parts) - 1
        inserted = words[listed + 1 : lower.index(")", listed) : 2] if lower[listed] == "(" else []
        assigned = [column for _, column in _assigned(words, lower, lower.index("duplicate") + 2)]
        yield "UPDATE", ".".join(parts), list(dict.fromkeys([*inserted, *assigned]))


def _assigned(words: list[str], lower: list[str], start: int) -> Iterator[tuple[str, str]]:
    """Alias ("" for none) and column of `a = 1, t.b = 2`, from the word before them up to WHERE."""
    depth = 0
    for i in range(start, len(words)):
        depth += (words[i] == "(") - (words[i] == ")")
        if depth == 0 and lower[i] == "where":
            return
        if depth == 0 and words[i] == "=" and lower[i - 2] in (lower[start], ",", "."):
            yield lower[i - 3] if words[i - 2] == "." else "", words[i - 1]


def _tables_by_alias(words: list[str]) -> dict[str, str]:
    """What stands between UPDATE and SET, by the names that the rest of the statement calls it."""
    named: dict[str, str] = {}
    for i, word in enumerate(words):
        if word.lower() not in ("update", "ignore", "low_priority", "join", "straight_join", ","):
            continue
        parts = list(_dotted(words, i + 1))
        if not parts or parts[0].lower() in ("ignore", "low_priority"):
            continue
        table = ".".join(parts)
        rest = words[i + 2 * len(parts) :]
        alias = rest[1] if rest[:1] and rest[0].lower() == "as" and len(rest) > 1 else next(iter(rest), "")
        named[parts[-1].lower()] = table
        if re.fullmatch(r"\w+", alias) and alias.lower() not in _AFTER_TABLE:
            named[alias.lower()] = table
    return named


def _has_bulk(profile: Profile) -> bool:
    return profile.stock is not None and profile.stock.bulk is not None


def _qualified(table: str, database: str) -> str:
    return ".".join(map(_name, table.split("."))) if "." in table else f"{_name(database)}.{_name(table)}"


def _name(name: str) -> str:
    return (
        name
        if re.fullmatch(r"\w*[^\W\d]\w*", name) and name.lower() not in _RESERVED
        else f"`{name.replace('`', '``')}`"
    )


def all_of(database: str) -> str:
    """Here, and here alone, _ and % stand for any letters: unescaped, erp_sync would be erp-sync and erp2sync too."""
    escaped = re.sub(r"([_%])", r"\\\1", database.replace("`", "``"))
    return f"`{escaped}`.*"


def _to(user: str) -> str:
    return "TO '{}'@'%'".format(user.replace("\\", "\\\\").replace("'", "''"))
