"""Which rights a database gives its user, compared with those that are needed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from erp_sync.models import Level
from erp_sync.shop.database import Shop
from erp_sync.shop.grants import needed_grants

_GRANT = re.compile(
    r"GRANT (?P<rights>.+?) ON (?P<place>(?:(?:FUNCTION|PROCEDURE|PACKAGE(?: BODY)?) )?(?P<on>.+?)) TO ", re.DOTALL
)
_RIGHT = re.compile(r"(?P<name>[A-Z][A-Z_ ]*[A-Z])(?: \((?P<columns>[^)]*)\))?")


@dataclass(frozen=True, slots=True)
class Right:
    name: str
    """SELECT; ALL PRIVILEGES."""
    on: str
    """`*.*`, `shop.*` or `shop.orders`, without quotes."""
    columns: frozenset[str] = frozenset()
    """In lower case; empty: the whole table."""
    place: str = field(default="", compare=False)
    """`on` as the server writes it: a REVOKE must name the same pattern. "" for what comes with a role."""

    def __str__(self) -> str:
        columns = f" ({', '.join(sorted(self.columns))})" if self.columns else ""
        return f"{self.name}{columns} ON {self.on}"

    def covers(self, on: str) -> bool:
        """Whether a right on this is one on that table, or on the whole of that database (`shop.*`)."""
        return self.on == "*.*" or _alike(self.on, on)


@dataclass(frozen=True, slots=True)
class Granted:
    """What a user may do, by SHOW GRANTS."""

    rights: tuple[Right, ...]
    has_roles: bool
    """What comes with a role is not among the rights: MariaDB and MySQL are asked for it in different words."""

    def has(self, right: Right) -> bool:
        found = [one for one in self.rights if one.name in (right.name, "ALL PRIVILEGES") and one.covers(right.on)]
        # Of a SELECT on columns the statements themselves tell whether it is enough: they are run.
        if right.name == "SELECT" or any(not one.columns for one in found):
            return bool(found)
        return bool(found) and right.columns <= frozenset().union(*(one.columns for one in found))

    def unseen(self, user: str | None) -> Iterator[tuple[Level, str, str]]:
        """Level, message, advice where rights may come with roles."""
        if self.has_roles:
            advice = "take its roles from it, or look at each with SHOW GRANTS FOR"
            yield "warning", f"the user {user!r} has roles: what they allow it was not looked at", advice


def revocations(rights: Iterable[Right], account: str) -> list[str]:
    """The statements that take these rights from `account`, which is quoted."""
    # ALL PRIVILEGES stands alone, also without GRANT OPTION.
    grouped: dict[tuple[str, bool], list[str]] = {}
    for right in rights:
        if right.place:
            grouped.setdefault((right.place, right.name == "ALL PRIVILEGES"), []).append(
                str(right).partition(" ON ")[0]
            )
    return [f"REVOKE {', '.join(names)} ON {place} FROM {account}" for (place, _), names in grouped.items()]


def quoted(account: str) -> str:
    """`user@host`, as CURRENT_USER() gives it, for a statement; any host where there is none."""
    user, at, host = account.rpartition("@")
    name, place = (user, host) if at else (account, "%")
    return "@".join("'" + part.replace("'", "''") + "'" for part in (name, place))


def granted(lines: Iterable[str]) -> Granted:
    """By the lines of SHOW GRANTS, or GRANT statements."""
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
    user = shop.engine.url.username
    grants = {
        f"{statement.rpartition(' TO ')[0]} TO {account}": granted([statement]).rights
        for statement in needed_grants(shop)
    }
    needed = [right for rights in grants.values() for right in rights]
    advice = "give the user these rights and no others: " + "; ".join(grants)
    missing = [right for right in needed if not has.has(right)]
    if missing:
        message = f"the user {user!r} lacks {', '.join(map(str, missing))}"
        # As they are written there: unquoted, a _ in a database's name would stand for any letter. And a right on the
        # database takes the place of those that were given on its name as a pattern: then all are said again.
        is_whole = any(right.on.endswith(".*") for right in missing)
        statements = "; ".join(
            statement for statement, rights in grants.items() if is_whole or not all(map(has.has, rights))
        )
        if has.has_roles:
            yield "warning", f"{message}, unless a role of it has that", statements
        else:
            yield "error", message, statements
    excess = [
        str(beyond)
        for right in has.rights
        if right.name != "USAGE" and not (besides and _database(right) == besides.lower())
        if (beyond := _beyond(right, needed)) is not None
    ]
    if excess:
        yield "warning", f"the user {user!r} may do more than needed: {', '.join(excess)}", advice
    yield from has.unseen(user)
    if not (missing or excess or has.has_roles):
        yield "ok", f"the user {user!r} has no rights beyond need", advice


def _beyond(right: Right, needed: Sequence[Right]) -> Right | None:
    """What of it nobody needs; None: nothing."""
    if right.name in ("SELECT", "SHOW VIEW") and _database(right) in map(_database, needed):
        return None
    same = [one for one in needed if one.name == right.name and _alike(one.on, right.on)]
    if right.name == "UPDATE" and same and right.columns:
        columns = right.columns - frozenset().union(*(one.columns for one in same))
        return Right("UPDATE", right.on, columns) if columns else None
    return None if same and right.name != "UPDATE" else right


def _rights(lines: Iterable[str]) -> Iterator[Right]:
    for line in lines:
        match = _GRANT.match(line)
        if match:
            on = re.sub(r"\\(.)", r"\1", match["on"].replace("`", ""))
            place = match["place"] if "@" in line[match.end() :] else ""
            for right in _RIGHT.finditer(match["rights"]):
                columns = re.findall(r"\w+", (right["columns"] or "").lower())
                yield Right(right["name"], on, frozenset(columns), place)
            if " WITH GRANT OPTION" in line:
                yield Right("GRANT OPTION", on, place=place)


def _database(right: Right) -> str:
    return right.on.partition(".")[0].lower()


def _alike(granted_on: str, on: str) -> bool:
    """`shop.*` is alike to every table of it."""
    database, _, table = granted_on.lower().partition(".")
    wanted, _, name = on.lower().partition(".")
    return database == wanted and table in ("*", name)
