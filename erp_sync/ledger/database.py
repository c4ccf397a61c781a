"""The connection to the ledger's database: SQLite, MySQL or MariaDB.

A transaction is made or not made, and the caller is told which, also when the answer to its COMMIT is lost.
"""

from __future__ import annotations

import logging
import random
import ssl
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from erp_sync.errors import LedgerUnavailable, Misconfigured

logger = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 6
DEADLOCKS = {1205, 1213, 1020}
WRONG_SETTING = {1044: "access denied", 1045: "wrong user or password", 1049: "no such database", 1698: "access denied"}
_WRITES = "erp_sync_writes"


class Database:
    """Two pools over one database: single statements commit by themselves, transactions are serialised where SQLite
    asks for it. Safe to share between threads; not between a process and its fork."""

    def __init__(self, url: str) -> None:
        self.url = _parsed(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            engine = _sqlite(self.url)
            self._reads = self._writes = engine
        else:
            self._reads = _mysql(self.url, isolation_level="AUTOCOMMIT")
            self._writes = _mysql(self.url, isolation_level="READ COMMITTED")

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run statements that only read. Tried again when the connection was lost."""
        return self._retried(lambda: self._read_once(work))

    def write(self, work: Callable[[Connection], T], committed: Callable[[Connection], bool] | None = None) -> T:
        """Run `work` in one transaction; tried again as a whole after a deadlock or a lost connection.

        `committed` tells, on a new connection, whether this very transaction was made; without it `work` must be
        harmless twice. Raises LedgerUnavailable when it was not made, or nobody can tell: the caller must not go on.
        """
        done: list[T] = []

        def once() -> T:
            if done and committed is not None and self._read_locked(committed):
                return done[-1]
            connection = self._writes.connect()
            try:
                connection = connection.execution_options(**{_WRITES: True})
                with connection.begin() as transaction:
                    result = work(connection)
                    done.append(result)
                    transaction.commit()
                return result
            except BaseException:
                connection.invalidate()
                raise
            finally:
                connection.close()

        return self._retried(once)

    def dispose(self) -> None:
        self._reads.dispose()
        self._writes.dispose()

    def _read_once(self, work: Callable[[Connection], T]) -> T:
        with self._reads.connect() as connection:
            return work(connection)

    def _read_locked(self, committed: Callable[[Connection], bool]) -> bool:
        """With a lock: a COMMIT that is still under way on the server is waited for."""
        with self._writes.connect() as connection, connection.execution_options(**{_WRITES: True}).begin():
            return committed(connection)

    def _retried(self, call: Callable[[], T]) -> T:
        for attempt in range(TRIES):
            try:
                return call()
            except DBAPIError as error:
                code = _code(error)
                if code in WRONG_SETTING:
                    raise Misconfigured(f"ERP_SYNC_LEDGER_URL: {WRONG_SETTING[code]} ({self._name()})") from None
                transient = code in DEADLOCKS or error.connection_invalidated or isinstance(error, OperationalError)
                if not transient or self.is_sqlite or attempt == TRIES - 1:
                    reason = "no such table: run erp-sync migrate" if code == 1146 else type(error.orig).__name__
                    raise LedgerUnavailable(f"the ledger ({self._name()}) cannot be used: {reason} {code}") from None
                logger.info("ledger: %s %s, tried again", type(error.orig).__name__, code)
                time.sleep(random.uniform(0.02, 0.08) * 2**attempt)  # noqa: S311 - jitter
        raise AssertionError("unreachable")

    def _name(self) -> str:
        return f"{self.url.host}:{self.url.port or 3306}/{self.url.database}" if self.url.host else "SQLite"


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise Misconfigured(
            "ERP_SYNC_LEDGER_URL is no SQLAlchemy URL such as mysql+pymysql://user:password@host/erp_sync"
        ) from None
    if parsed.get_backend_name() not in ("sqlite", "mysql", "mariadb"):
        raise Misconfigured(f"ERP_SYNC_LEDGER_URL: {parsed.get_backend_name()} is not supported: use MySQL or SQLite")
    return parsed


def _sqlite(url: URL) -> Engine:
    engine = sa.create_engine(url, connect_args={"timeout": 30.0, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, and nowhere else
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # an intent survives a power failure
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        if connection.get_execution_options().get(_WRITES):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _mysql(url: URL, isolation_level: Any) -> Engine:
    query = dict(url.query)
    bundle = query.pop("ssl_ca", None)
    arguments: dict[str, Any] = {
        "charset": "utf8mb4",
        "connect_timeout": 5,
        "read_timeout": 60,
        "write_timeout": 30,
        "init_command": (
            "SET time_zone='+00:00', sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', innodb_lock_wait_timeout=10"
        ),
    }
    if bundle is not None:
        try:
            context = ssl.create_default_context(cafile=str(bundle))
        except OSError:
            raise Misconfigured(f"ERP_SYNC_LEDGER_URL: ssl_ca={bundle} cannot be read") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        arguments["ssl"] = context
    return sa.create_engine(
        url.set(query=query),
        isolation_level=isolation_level,
        connect_args=arguments,
        pool_pre_ping=True,
        pool_recycle=600,
        pool_size=20,
        max_overflow=60,
        pool_reset_on_return="rollback" if isolation_level != "AUTOCOMMIT" else None,
    )


def _code(error: DBAPIError) -> int | str:
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else ""
