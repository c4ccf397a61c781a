"""Connections to the shop's database: TLS, a strict and read-only session, time limits, and what its errors mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from erp_sync.database_url import check_database, parse_url, tls_context, tls_refusal
from erp_sync.errors import ErpSyncError, Misconfigured, ShopUnavailable
from erp_sync.scrub import excerpt
from erp_sync.shop.profile import Profile

CONNECT_SECONDS = 10
STATEMENT_SECONDS = 50
"""The server gives a statement up by itself after this: closing the connection alone would leave it running there."""
READ_SECONDS = 60
"""When a silent server is given up; later than STATEMENT_SECONDS, which says more."""
LOCK_SECONDS = 5
"""How long a row that the shop itself holds is waited for."""
RECYCLE_SECONDS = 280
"""Younger than the usual time-outs of firewalls and `wait_timeout`."""

_URL = "ERP_SYNC_SHOP_URL"


def shop_engine(url: str, profile: Profile, *, ca_bundle: Path | None = None, writes: bool = False) -> Engine:
    """An engine whose every session is read-only, strict, in the profile's time zone, and commits by itself.

    `writes`: its sessions may write, in transactions that hold what they have written and nothing else (READ
    COMMITTED). A lock on what is read would make checkouts wait for the gap behind the newest order, and the shop's own
    UPDATE of such a row would end as the victim of a deadlock.

    TLS: as `tls_context` and `mysql_engine` say. Raises Misconfigured; connects to nothing yet.
    """
    address = parse_url(_URL, url)
    backend = address.get_backend_name()
    if backend == "sqlite":
        return _sqlite(address, writes=writes)
    if backend not in ("mysql", "mariadb"):
        raise Misconfigured(f"{_URL} names the database {backend!r}: only mysql+pymysql and sqlite can be read")
    from erp_sync.database_mysql import mysql_engine

    check_database(_URL, address)
    tls = tls_context(_URL, address, ca_bundle)
    engine = mysql_engine(
        address,
        tls,
        isolation_level="AUTOCOMMIT",  # a look is one statement; BEGIN and ROLLBACK would be two more round trips
        skip_autocommit_rollback=True,
        pool_recycle=RECYCLE_SECONDS,
        execution_options={"erp_sync_verified": tls is not None},
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "write_timeout": READ_SECONDS,
        },
    )
    zone = profile.shop.session_timezone

    @event.listens_for(engine, "connect")
    def _session(connection: Any, _record: object) -> None:
        mariadb = "mariadb" in connection.get_server_info().lower()
        limit = (
            f"max_statement_time = {STATEMENT_SECONDS}" if mariadb else f"max_execution_time = {STATEMENT_SECONDS}000"
        )
        with connection.cursor() as cursor:
            cursor.execute(
                "SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', "
                f"time_zone = '{zone}', group_concat_max_len = 1000000, "
                f"lock_wait_timeout = {STATEMENT_SECONDS}, innodb_lock_wait_timeout = {LOCK_SECONDS}, {limit}"
            )
            mode = "READ COMMITTED" if writes else "REPEATABLE READ, READ ONLY"
            cursor.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {mode}")

    return engine


def _sqlite(address: URL, *, writes: bool) -> Engine:
    engine = create_engine(
        address,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        hide_parameters=True,
        connect_args={"timeout": CONNECT_SECONDS},
    )

    @event.listens_for(engine, "do_connect")
    def _exists(_dialect: object, _record: object, args: list[Any], _options: dict[str, Any]) -> None:
        file = str(args[0])
        if file != ":memory:" and not file.startswith("file:") and not Path(file).is_file():
            raise Misconfigured(f"{_URL}: there is no SQLite file {file}: correct the path")

    @event.listens_for(engine, "connect")
    def _session(connection: Any, _record: object) -> None:
        # It takes any bytes for text. Refused, one such row would stop all others, and its text stand in the error.
        connection.text_factory = lambda text: text.decode(errors="replace")
        if not writes:
            connection.execute("PRAGMA query_only = ON")

    return engine


def is_verified(engine: Engine) -> bool:
    """Whether connections check the server's certificate and name."""
    return bool(engine.get_execution_options().get("erp_sync_verified"))


_CONFLICTS = {1213, 1205, 1020}
"""Deadlock, lock wait, row changed since: the whole transaction may be tried again."""
_TOO_SLOW = {1969, 3024}
_LOST = {1040, 1053, 1158, 1159, 1160, 1161, 1203, 1317, 1927, 2002, 2003, 2006, 2013, 2055, 4031}
_ROW = {1292, 1644, 3819, 4025}
"""A date that does not exist there, a trigger's SIGNAL, and CHECK constraints of MySQL and MariaDB."""
_NO_RIGHT = {1044, 1142, 1143, 1227, 1370}


def is_of_the_row(error: DBAPIError) -> bool:
    """Whether the database took offence at the values of one row: others may be written all the same."""
    return isinstance(error, DataError | IntegrityError) or _code(error) in _ROW


def is_conflict(error: DBAPIError) -> bool:
    return _code(error) in _CONFLICTS


def meaning(error: DBAPIError | PoolTimeout, engine: Engine, profile: Profile, part: str) -> ErpSyncError:
    """What a database error means for the caller. `part` is the profile's key whose SQL ran, such as `[read] orders`;
    empty: none did. The message holds neither the password nor the statement's values."""
    if isinstance(error, PoolTimeout):
        return ShopUnavailable("all connections to the shop's database are busy: try again")
    code, url = _code(error), engine.url
    text = _text(error)
    where = f"{url.host or 'localhost'}:{url.port or 3306}" if engine.dialect.name != "sqlite" else str(url.database)
    sql = f"profile {profile.name}: {part or 'its SQL'}"
    if (refusal := tls_refusal(_URL, f"the shop's database at {where}", code, text)) is not None:
        return refusal
    by_code = {
        1045: f"{_URL}: the shop's database refuses the user {url.username!r} or the password: correct them",
        1698: f"{_URL}: the shop's database refuses the user {url.username!r} without a proper login: correct it",
        1049: f"{_URL}: the shop's server has no database {url.database!r}: correct the name",
        1298: f"profile {profile.name}: [shop] session_timezone = {profile.shop.session_timezone!r} is unknown to the "
        "shop's server: write an offset such as -03:00",
        **dict.fromkeys(_NO_RIGHT, f"{sql}: the user {url.username!r} lacks a right ({text}): grant it"),
    }
    if code in by_code:
        return Misconfigured(by_code[code])
    if code in _TOO_SLOW:
        return ShopUnavailable(f"{sql} took longer than {STATEMENT_SECONDS} s: run erp-sync profile check")
    if code in _LOST or code in _CONFLICTS or error.connection_invalidated:
        return ShopUnavailable(f"the shop's database at {where} is not available: {text}")
    if engine.dialect.name == "sqlite":
        if any(sign in text for sign in ("no such", "syntax error", "incomplete input", "ambiguous", "misuse")):
            return Misconfigured(f"{sql} cannot be run: {text}")
        if "unable to open" in text or "not a database" in text:
            return Misconfigured(f"{_URL}: {where} cannot be opened as a SQLite database: {text}")
    elif not isinstance(error, InterfaceError) and (part or not isinstance(error, OperationalError)):
        return Misconfigured(f"{sql} cannot be run: {text}")
    return ShopUnavailable(f"the shop's database at {where} is not available: {text}")


def _code(error: DBAPIError) -> int:
    args = getattr(error.orig, "args", ())
    return args[0] if args and isinstance(args[0], int) else 0


def _text(error: DBAPIError) -> str:
    args = getattr(error.orig, "args", ())
    return " ".join(excerpt(str(args[-1] if args else error.orig), 300).split())


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
