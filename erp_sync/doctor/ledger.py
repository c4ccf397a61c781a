"""The ledger: server, durability, rights, schema; and what must not be made by looking."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Row, inspect, text
from sqlalchemy.exc import DBAPIError

from erp_sync.database_server import clock, encryption, version
from erp_sync.database_url import is_local, parse_url, tls_context
from erp_sync.doctor.installation import Installation
from erp_sync.errors import Misconfigured
from erp_sync.ledger.database import Database
from erp_sync.ledger.ledger import stored_revision
from erp_sync.ledger.part import DATABASE_TIME
from erp_sync.ledger.tables import REVISION, VERSION_TABLE, metadata
from erp_sync.models import Finding, Level
from erp_sync.settings import Settings
from erp_sync.shop.grants import AT_WORK, TO_MIGRATE, all_of
from erp_sync.shop.rights import Right, granted, quoted, revocations

_URL = "ERP_SYNC_LEDGER_URL"


def ledger(installation: Installation) -> Iterator[Finding]:
    """Server, durability, rights and schema. Nothing is migrated, and no SQLite file is made."""
    settings = installation.settings
    if settings.ledger_url is None:
        yield Finding("warning", "ledger", f"not looked at: {_URL} is missing or wrong", "set it first")
        return
    if (missing := missing_file(settings)) is not None:
        yield missing
        return
    with closing(Database(settings.ledger_url.get_secret_value())) as database:
        at = database.rows(DATABASE_TIME)[0][0] if not database.is_sqlite else None
        yield Finding("ok", "ledger", f"answers at {database.name}")
        if at is not None:
            tls = tls_context(_URL, parse_url(_URL, settings.ledger_url.get_secret_value()))
            yield from _server(database, at.replace(tzinfo=UTC), is_verified=tls is not None)
            yield from _durability(database)
        revision = _revision(database)
        if at is not None:
            yield from _grants(database, settings, must_migrate=revision.level != "ok")
        yield _apart(database, settings)
        yield revision


def missing_file(settings: Settings) -> Finding | None:
    """An error where the ledger is a SQLite file that is not there, or no ledger yet: to open it would change it."""
    try:
        address = parse_url(_URL, settings.ledger_url.get_secret_value() if settings.ledger_url else "")
    except Misconfigured:
        return None  # said by whoever opens it
    if address.get_backend_name() != "sqlite" or not address.database:
        return None
    advice = "run erp-sync migrate"
    if not Path(address.database).is_file():
        return Finding("error", "ledger", f"{_URL}: there is no file {address.database}", f"correct it, or {advice}")
    try:
        with closing(sqlite3.connect(f"{Path(address.database).resolve().as_uri()}?mode=ro", uri=True)) as file:
            known = file.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (VERSION_TABLE,)).fetchone()
    except sqlite3.Error as error:
        return Finding("error", "ledger", f"{_URL}: {address.database} cannot be read: {error}", "correct it")
    return None if known else Finding("error", "migrations", f"{_URL}: {address.database} has no tables yet", advice)


def time_of_ledger(settings: Settings) -> datetime | None:
    """None: there is no server to ask. Raises LedgerUnavailable and Misconfigured."""
    if settings.ledger_url is None or missing_file(settings) is not None:
        return None
    with closing(Database(settings.ledger_url.get_secret_value())) as database:
        if database.is_sqlite:
            return None
        at: datetime = database.rows(DATABASE_TIME)[0][0]
        return at.replace(tzinfo=UTC)


def same_server(one: URL, other: URL) -> bool:
    def place(url: URL) -> tuple[str, int]:
        host = url.host or "localhost"
        return ("localhost" if host in ("127.0.0.1", "::1") else host.lower()), url.port or 3306

    return "sqlite" not in (one.get_backend_name(), other.get_backend_name()) and place(one) == place(other)


def _server(database: Database, at: datetime, *, is_verified: bool) -> Iterator[Finding]:
    now = datetime.now(UTC)
    yield version(str(database.rows(text("SELECT VERSION()"))[0][0]))
    status = _named(database.rows(text("SHOW STATUS LIKE 'Ssl_%'")))
    yield encryption(
        _URL,
        status.get("Ssl_version", ""),
        status.get("Ssl_cipher", ""),
        is_local=is_local(database.reader.url),
        is_verified=is_verified,
    )
    yield clock("the ledger's clock", at, "this machine's", now)


def _named(rows: Sequence[Row[Any]]) -> dict[str, str]:
    return {str(name): str(value) for name, value in map(tuple, rows)}


def _durability(database: Database) -> Iterator[Finding]:
    """What a power cut would take although it was committed: an intent, and with it an order sent twice."""
    names = "'innodb_flush_log_at_trx_commit', 'sync_binlog', 'log_bin', 'wsrep_on'"
    rows = database.rows(text(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})"))
    found = _named(rows)
    loose = []
    if found.get("innodb_flush_log_at_trx_commit", "1") != "1":
        loose.append("innodb_flush_log_at_trx_commit")
    if found.get("log_bin", "OFF") == "ON" and found.get("sync_binlog", "1") != "1":
        loose.append("sync_binlog")
    for name in loose:
        message = f"{name} = {found[name]}: a power cut may take what was committed"
        yield Finding("warning", "durability", message, f"set {name} = 1 on the ledger's server")
    if found.get("wsrep_on", "OFF") == "ON":
        message = "a Galera cluster: with several primaries committed rows may be lost"
        advice = "let erp_sync reach one node alone, or give it a database with one primary"
        yield Finding("warning", "durability", message, advice)
    elif not loose:
        yield Finding("ok", "durability", "what is committed survives a power cut")


def _grants(database: Database, settings: Settings, *, must_migrate: bool) -> Iterator[Finding]:
    """Who is at work needs no right to change tables, where another user migrates."""
    address = database.reader.url
    user, own = address.username or "erp_sync", f"{address.database}.*"
    has = granted(str(row[0]) for row in database.rows(text("SHOW GRANTS")))
    account = quoted(str(database.rows(text("SELECT CURRENT_USER()"))[0][0]))

    needed = (*AT_WORK, *TO_MIGRATE)
    held = [name for name in needed if has.has(Right(name, own))]

    def grant(names: Collection[str]) -> str:
        # What it has is said again: rights that were given on the name as a pattern no longer count beside these.
        rights = ", ".join(name for name in needed if name in names or name in held)
        return f"GRANT {rights} ON {all_of(address.database or '')} TO {account}"

    fine = True
    levels: dict[tuple[str, ...], tuple[str, Level]] = {AT_WORK: ("work", "error")}
    if must_migrate:
        levels[TO_MIGRATE] = ("run erp-sync migrate", "warning")
    for names, (purpose, level) in levels.items():
        lacks = [name for name in names if name not in held]
        if lacks:
            fine = False
            message = f"the user {user!r} lacks {', '.join(lacks)} ON {own}, which it needs to {purpose}"
            yield Finding("warning" if has.has_roles else level, "grants", message, grant(lacks))
    theirs = _shop(settings)
    shared = theirs is not None and same_server(address, theirs) and theirs.username == address.username
    # Those on the shop are told where the shop is looked at.
    elsewhere = theirs.database if theirs is not None and shared else None
    beyond = [
        right
        for right in has.rights
        if right.name != "USAGE"
        and (place := right.on.partition(".")[0]) != elsewhere
        and (place != address.database or right.name not in needed)
    ]
    if beyond:
        message = f"the user {user!r} may do more than needed: {', '.join(map(str, beyond))}"
        statements = revocations(beyond, account)
        if not statements or any(right.on == "*.*" for right in beyond):
            # An administrator, whom a REVOKE could lock out; or rights that come with a role.
            advice = f"make a user for the ledger alone, with no more than: {grant(needed)}"
        else:
            advice = "; ".join([*statements, *([grant(held)] if held else [])])
        yield Finding("warning", "grants", message, advice)
    for level, message, advice in has.unseen(user):
        yield Finding(level, "grants", message, advice)
    if fine and not beyond and not has.has_roles:
        yield Finding("ok", "grants", f"the user {user!r} has the rights on {own}, and no others")


def _shop(settings: Settings) -> URL | None:
    """None: it is missing or wrong, which is told where the shop is looked at."""
    try:
        return parse_url("ERP_SYNC_SHOP_URL", settings.shop_url.get_secret_value()) if settings.shop_url else None
    except Misconfigured:
        return None


def _apart(database: Database, settings: Settings) -> Finding:
    address, theirs = database.reader.url, _shop(settings)
    advice = "give the ledger a database of its own"
    if theirs is not None:
        if database.is_sqlite and theirs.get_backend_name() == "sqlite" and theirs.database and address.database:
            same = Path(theirs.database).resolve() == Path(address.database).resolve()
        else:
            same = same_server(address, theirs) and theirs.database == address.database
        if same:
            return Finding("error", _URL, "shop and ledger are the same database", advice)
    try:
        with database.reader.connect() as connection:
            foreign = set(inspect(connection).get_table_names()) - set(metadata.tables) - {VERSION_TABLE}
    except DBAPIError as error:
        raise database.meaning(error) from None
    if foreign:
        return Finding("error", _URL, f"{database.name} holds other tables too, such as {min(foreign)}", advice)
    return Finding("ok", _URL, "a database of its own")


def _revision(database: Database) -> Finding:
    found = stored_revision(database)
    if found == REVISION:
        return Finding("ok", "migrations", f"the tables are at revision {REVISION}")
    if found is None or found < REVISION:
        state = "there are no tables yet" if found is None else f"the tables are at revision {found}, before {REVISION}"
        return Finding("error", "migrations", state, "run erp-sync migrate")
    message = f"the tables are at revision {found}, after {REVISION}: of a newer erp_sync"
    return Finding("error", "migrations", message, "install that erp_sync here")
