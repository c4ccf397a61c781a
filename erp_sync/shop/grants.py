"""Which rights the shop's database gives us, and which a profile needs: GRANT statements ready to be run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from erp_sync.models import Level
from erp_sync.shop.database import Shop
from erp_sync.shop.statement import Statement

_GRANT = re.compile(r"GRANT (?P<rights>.+?) ON (?P<on>\S+) TO ", re.DOTALL)
_RIGHT = re.compile(r"(?P<name>[A-Z][A-Z ]*[A-Z])(?: \((?P<columns>[^)]*)\))?")


@dataclass(frozen=True, slots=True)
class Right:
    name: str
    """SELECT; ALL PRIVILEGES."""
    on: str
    """`*.*`, `shop.*` or `shop.orders`, without quotes."""
    columns: frozenset[str] = frozenset()
    """In lower case; empty: the whole table."""

    def __str__(self) -> str:
        return f"{self._right} ON {self.on}"

    def granted_to(self, account: str) -> str:
        """As a statement. `account` is what `quoted` gives."""
        return f"GRANT {self._right} ON {self.on} TO {account}"

    @property
    def _right(self) -> str:
        return f"{self.name} ({', '.join(sorted(self.columns))})" if self.columns else self.name

    def covers(self, on: str) -> bool:
        """Whether a right on this is one on that table, or on the whole of that database (`shop.*`)."""
        return self.on == "*.*" or _alike(self.on, on)


@dataclass(frozen=True, slots=True)
class Granted:
    """What a user may do, by SHOW GRANTS."""

    rights: tuple[Right, ...]
    has_roles: bool
    """What comes with a role is not among the rights."""

    def has(self, right: Right) -> bool:
        found = [one for one in self.rights if one.name in (right.name, "ALL PRIVILEGES") and one.covers(right.on)]
        # Of a SELECT on columns the statements themselves tell whether it is enough: they are run.
        if right.name == "SELECT" or any(not one.columns for one in found):
            return bool(found)
        return bool(found) and right.columns <= frozenset().union(*(one.columns for one in found))


def quoted(account: str) -> str:
    """`user@host`, as CURRENT_USER() gives it, for a statement; any host where there is none."""
    user, at, host = account.rpartition("@")
    name, place = (user, host) if at else (account, "%")
    return "@".join("'" + part.replace("'", "''") + "'" for part in (name, place))


def granted(lines: Iterable[str]) -> Granted:
    """`lines` are those of SHOW GRANTS."""
    lines = list(lines)
    return Granted(tuple(_rights(lines)), any(" ON " not in line for line in lines))


def check_grants(shop: Shop, besides: str = "") -> Iterator[tuple[Level, str, str]]:
    """Level, message, advice: what the user may not do and must, and what it may do beyond need. Nothing on SQLite,
    which has no rights. `besides`: a database that is the user's own, such as the ledger."""
    if shop.is_sqlite:
        return
    rows = shop.read(lambda connection: connection.exec_driver_sql("SHOW GRANTS").all())
    account = quoted(str(shop.read(lambda connection: connection.exec_driver_sql("SELECT CURRENT_USER()").scalar())))
    has = granted(str(row[0]) for row in rows)
    user, needed = shop.engine.url.username, list(_needed(shop))
    advice = "give the user these rights and no others: " + "; ".join(right.granted_to(account) for right in needed)
    missing = [right for right in needed if not has.has(right)]
    if missing:
        message = f"the user {user!r} lacks {', '.join(map(str, missing))}"
        statements = "; ".join(right.granted_to(account) for right in missing)
        if has.has_roles:
            yield "warning", f"{message}, unless a role of it has that", statements
        else:
            yield "error", message, statements
    excess = [
        str(beyond)
        for right in has.rights
        if right.name != "USAGE" and not (besides and right.on.partition(".")[0].lower() == besides.lower())
        if (beyond := _beyond(right, needed)) is not None
    ]
    if excess:
        yield "warning", f"the user {user!r} may do more than needed: {', '.join(excess)}", advice
    elif not missing:
        yield "ok", f"the user {user!r} has no rights beyond need", advice


def _beyond(right: Right, needed: Sequence[Right]) -> Right | None:
    """What of it nobody needs; None: nothing."""
    if right.name in ("SELECT", "SHOW VIEW") and right.on != "*.*":
        return None
    same = [one for one in needed if one.name == right.name and _alike(one.on, right.on)]
    if right.name == "UPDATE" and same and right.columns:
        columns = right.columns - frozenset().union(*(one.columns for one in same))
        return Right("UPDATE", right.on, columns) if columns else None
    return None if same and right.name != "UPDATE" else right


def needed_grants(shop: Shop) -> list[str]:
    """The GRANT statements for this profile: SELECT on the tables it reads, UPDATE on the columns it writes."""
    account = quoted(f"{shop.engine.url.username or 'erp_sync'}@%")
    return [right.granted_to(account) for right in _needed(shop)]


def _needed(shop: Shop) -> Iterator[Right]:
    profile, database = shop.profile, shop.engine.url.database
    reading = [profile.read.orders, profile.read.lines]
    reading += [section.find for section in (profile.status, profile.stock) if section is not None]
    reading += [profile.stock.skus] if profile.stock and profile.stock.skus else []
    for table in sorted({table for statement in reading for table in read_tables(statement)}):
        yield Right("SELECT", _qualified(table, database))
    for verb, table, columns in _written(shop):
        yield Right(verb, _qualified(table, database), frozenset(columns if verb == "UPDATE" else ()))
    if _has_bulk(shop):
        yield Right("CREATE TEMPORARY TABLES", f"{database}.*")


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


def _rights(lines: Iterable[str]) -> Iterator[Right]:
    for line in lines:
        match = _GRANT.match(line)
        if match:
            on = re.sub(r"\\(.)", r"\1", match["on"].replace("`", ""))
            for right in _RIGHT.finditer(match["rights"]):
                columns = re.findall(r"\w+", (right["columns"] or "").lower())
                yield Right(right["name"], on, frozenset(columns))


def _has_bulk(shop: Shop) -> bool:
    return shop.profile.stock is not None and shop.profile.stock.bulk is not None


def _qualified(table: str, database: str | None) -> str:
    return table if "." in table else f"{database}.{table}"


def _alike(granted_on: str, on: str) -> bool:
    """`shop.*` is alike to every table of it."""
    database, _, table = granted_on.lower().partition(".")
    wanted, _, name = on.lower().partition(".")
    return database == wanted and table in ("*", name)
