"""The connection to the ledger's database: sessions, transactions that survive lost answers, what errors mean.

A transaction is repeated as a whole after a deadlock, a lock wait, or a connection lost before COMMIT: the server has
rolled it back. A COMMIT whose answer is lost may have happened: it is looked up, never assumed.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Executable, Row, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from erp_sync.database_url import check_database, parse_url, tls_context, tls_refusal
from erp_sync.errors import ErpSyncError, LedgerUnavailable, Misconfigured
from erp_sync.scrub import excerpt

logger = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_SECONDS = 5
ANSWER_SECONDS = 20
LOCK_SECONDS = 5
IDLE_SECONDS = 60
"""The server ends a silent session after this: how long a transaction cut off by the network can hold its locks."""
RECYCLE_SECONDS = 45
CONFLICT_TRIES = 10
CONFLICT_SECONDS = 30.0
LOST_PATIENCE = 0.5
"""Seconds for which a connection that broke before COMMIT is made anew; but it is tried three times at least."""
COMMIT_PATIENCE = 15.0
"""Seconds for which the database is asked what became of a COMMIT."""

_URL = "ERP_SYNC_LEDGER_URL"
_CONFLICTS = {1213, 1205, 1020, 1305}
"""1305: the savepoint is gone. A deadlock within it has rolled the whole transaction back, and is told as this."""
_LOST = {1053, 1158, 1159, 1160, 1161, 1317, 1927, 2002, 2003, 2006, 2013, 2014, 2055, 4031}
_ADVICE = {
    1045: "refuses the user or the password: correct them",
    1698: "refuses the user: it has no password login",
    1049: "has no such database: create it, or correct the name",
    1044: "denies the user this database: grant it the rights of deploy/grants.sql",
    1142: "denies the user a right: grant it the rights of deploy/grants.sql",
    1146: "lacks a table: run erp-sync migrate",
}


class Database:
    """Thread-safe. Connections are made when they are needed, and anew when they break."""

    def __init__(self, url: str) -> None:
        address = _address(url)
        self.is_sqlite = address.get_backend_name() == "sqlite"
        host = "" if self.is_sqlite else f"{address.host or 'localhost'}:{address.port or 3306}"
        self.name = f"{address.get_backend_name()}://{host}/{address.database}"
        make = _sqlite if self.is_sqlite else _mysql
        # A read is one statement and its own transaction: BEGIN, COMMIT and ROLLBACK would be three more round trips.
        self.reader = make(address, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True)
        self.writer = make(address, pool_reset_on_return=None, isolation_level=None)
        # SQLite's own queue for writers is a poll with growing pauses; between threads a lock is fair and fast.
        self._turn: AbstractContextManager[Any] = threading.Lock() if self.is_sqlite else nullcontext()

    def rows(self, statement: Executable, values: dict[str, Any] | None = None) -> Sequence[Row[Any]]:
        """Run one statement that reads. Raises LedgerUnavailable and Misconfigured, like everything here."""
        give_up = time.monotonic() + LOST_PATIENCE
        losses = 0
        while True:
            try:
                with self.reader.connect() as connection:
                    return connection.execute(statement, values or {}).all()
            except (DBAPIError, PoolTimeout) as error:
                losses += 1
                if not _is_lost(error) or (losses >= 3 and time.monotonic() >= give_up):
                    raise self.meaning(error) from error
                time.sleep(0.05)

    def write(self, work: Callable[[Connection], T], landed: Callable[[Connection, T], bool] | None = None) -> T:
        """Run `work` in a transaction and commit it. It may run several times; only the last run's effect stays.

        `landed` decides after a COMMIT without an answer whether it happened. It must read with a lock: a transaction
        that is still committing is waited for. None: running twice is harmless.
        """
        conflicts = losses = 0
        started = time.monotonic()
        give_up = started + LOST_PATIENCE
        unknown: list[T] = []
        while True:
            committing = False
            try:
                with self._turn, self.writer.connect() as connection:
                    if unknown:
                        if landed is not None and landed(connection, unknown[0]):
                            return unknown[0]
                        unknown.clear()
                    result = work(connection)
                    committing = True
                    connection.commit()
                    return result
            except (DBAPIError, PoolTimeout) as error:
                now = time.monotonic()
                if _code(error) in _CONFLICTS:
                    conflicts += 1
                    again = conflicts < CONFLICT_TRIES and now < started + CONFLICT_SECONDS
                    pause = random.uniform(0.002, 0.01) * 2 ** min(conflicts, 5)  # noqa: S311
                else:
                    if committing and _is_lost(error):
                        unknown[:] = [result]
                        logger.warning("the ledger's answer to a COMMIT was lost: it is looked up")
                        give_up = now + COMMIT_PATIENCE
                    losses += 1
                    again = _is_lost(error) and (now < give_up or losses < 3)
                    pause = 0.05
                if not again:
                    raise self.meaning(error) from error
                time.sleep(pause)

    def close(self) -> None:
        self.reader.dispose()
        self.writer.dispose()

    def meaning(self, error: DBAPIError | PoolTimeout) -> ErpSyncError:
        """What a database error means for the caller, without the URL's password or a statement's values."""
        text = _text(error)
        if isinstance(error, PoolTimeout):
            return LedgerUnavailable("all connections to the ledger are busy")
        code = _code(error)
        if code in _ADVICE:
            return Misconfigured(f"{_URL}: {self.name} {_ADVICE[code]}")
        if (refusal := tls_refusal(_URL, self.name, code, text)) is not None:
            return refusal
        if self.is_sqlite and ("unable to open" in text or "not a database" in text or "readonly" in text):
            return Misconfigured(f"{_URL}: {self.name} cannot be used ({text}): correct the path or its rights")
        if "no such table" in text:
            return Misconfigured(f"{_URL}: {self.name} lacks a table: run erp-sync migrate")
        return LedgerUnavailable(f"the ledger at {self.name} is not available: {text}")


def _address(url: str) -> URL:
    address = parse_url(_URL, url)
    backend = address.get_backend_name()
    if backend not in ("sqlite", "mysql", "mariadb"):
        raise Misconfigured(f"{_URL} names the database {backend!r}: use mysql+pymysql or sqlite")
    check_database(_URL, address)
    return address


def _sqlite(address: URL, **options: Any) -> Engine:
    engine = create_engine(
        address, hide_parameters=True, connect_args={"timeout": 10.0, "check_same_thread": False}, **_pool(), **options
    )

    @event.listens_for(engine, "connect")
    def _session(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        _switch_to_wal(connection)
        # FULL: an intent survives a power cut. In WAL mode NORMAL may lose the last transactions.
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that began as a reader could not become a writer once somebody else wrote.
        if options.get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _switch_to_wal(connection: Any) -> None:
    """SQLite's own patience with locks does not cover the switch, which several first connections may make at once."""
    give_up = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() >= give_up:
                raise
            time.sleep(0.02)


def _mysql(address: URL, **options: Any) -> Engine:
    from erp_sync.database_mysql import mysql_engine

    tls = tls_context(_URL, address)
    options["isolation_level"] = options["isolation_level"] or "READ COMMITTED"
    return mysql_engine(
        address,
        tls,
        # Without pre-ping: a connection that broke while idle fails at its first statement and is made anew.
        pool_recycle=RECYCLE_SECONDS,
        connect_args={
            "collation": "utf8mb4_bin",
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": ANSWER_SECONDS,
            "write_timeout": ANSWER_SECONDS,
            "init_command": "SET SESSION time_zone = '+00:00', "
            "sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', "
            f"innodb_lock_wait_timeout = {LOCK_SECONDS}, wait_timeout = {IDLE_SECONDS}",
        },
        **_pool(),
        **options,
    )


def _pool() -> dict[str, Any]:
    return {"pool_size": 10, "max_overflow": 60, "pool_timeout": 10, "pool_use_lifo": True}


def _is_lost(error: DBAPIError | PoolTimeout) -> bool:
    if isinstance(error, PoolTimeout):
        return False
    return error.connection_invalidated or (isinstance(error, OperationalError) and _code(error) in _LOST)


def _code(error: DBAPIError | PoolTimeout) -> int:
    args = getattr(getattr(error, "orig", None), "args", ())
    return args[0] if args and isinstance(args[0], int) else 0


def _text(error: DBAPIError | PoolTimeout) -> str:
    args = getattr(getattr(error, "orig", None), "args", ())
    return " ".join(excerpt(str(args[-1] if args else error), 300).split())
