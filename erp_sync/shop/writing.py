"""Transactions that write to the shop without locking what they read: whoever wrote in between is found out, and the
transaction is done once more."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from erp_sync.errors import ShopUnavailable
from erp_sync.shop.connection import is_conflict, is_of_the_row, meaning
from erp_sync.shop.profile import Profile
from erp_sync.shop.statement import Statement

logger = logging.getLogger(__name__)
T = TypeVar("T")

TRIES = 5


class ChangedMeanwhile(Exception):
    """What a write rests on was changed after it had been read: the transaction is rolled back and done once more."""


class NoEffect(Exception):
    """The profile's statements do not do what they should: the transaction is rolled back; the message says why."""


class HeldBySomebody(ShopUnavailable):
    """Through every try somebody held what would be written, or deadlocked with it."""


def why(error: DBAPIError | NoEffect | ChangedMeanwhile) -> str:
    """Why nothing was written. Of a database's error its class and number alone: the text may repeat what was
    written."""
    if not isinstance(error, DBAPIError):
        return str(error)
    args = getattr(error.orig, "args", ())
    code = f" {args[0]}" if args and isinstance(args[0], int) else ""
    return f"the shop's database refuses it ({type(error.orig).__name__}{code})"


class ShopWriter:
    """Over an engine of `shop_engine(..., writes=True)`. Thread-safe."""

    def __init__(self, engine: Engine, profile: Profile) -> None:
        self._engine = engine
        self._profile = profile
        self.is_sqlite = engine.dialect.name == "sqlite"

    @property
    def profile_name(self) -> str:
        return self._profile.name

    def close(self) -> None:
        self._engine.dispose()

    def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, outside any transaction; a broken connection is replaced once."""
        for attempt in (1, 2):
            try:
                with self._engine.connect() as connection:
                    return work(connection)
            except DBAPIError as error:
                if attempt == 1 and error.connection_invalidated:
                    continue
                part = error.detail[-1] if error.detail else ""
                raise meaning(error, self._engine, self._profile, part) from None
            except PoolTimeout as error:
                raise meaning(error, self._engine, self._profile, "") from None
        raise AssertionError

    def transaction(self, work: Callable[[Connection, Connection | None], T], commit_by: float) -> T:
        """What `work` returns, committed. It may run several times: after a deadlock, and after a connection or a
        COMMIT's answer that was lost; so it must look before it writes, and what it writes must be harmless twice.

        It is given the transaction's connection, and one that sees what is committed: as nobody else can change what
        the transaction has written, that shows what it has written over. It raises ChangedMeanwhile where this is not
        what it read. None (SQLite): nobody else can write at all.

        Nothing is committed after `commit_by` (`time.monotonic`): the caller's claim is over then. Raises
        ShopUnavailable, for that too, and Misconfigured; a DBAPIError that concerns one row's values, and a
        ChangedMeanwhile of every try, are passed on.
        """
        lost = False
        for attempt in range(1, TRIES + 1):
            try:
                with self._engine.connect() as connection, self._outside() as outside:
                    return self._once(connection, outside, work, commit_by)
            except ChangedMeanwhile:
                if attempt == TRIES:
                    raise
                logger.info("the shop changed what was being written: once more")
            except DBAPIError as error:
                if is_of_the_row(error):
                    raise
                again = is_conflict(error) or (error.connection_invalidated and not lost)
                lost |= error.connection_invalidated
                if is_conflict(error) and attempt == TRIES:
                    raise HeldBySomebody("somebody holds a row of the shop's database that is to be written") from None
                if not again or attempt == TRIES:
                    part = error.detail[-1] if error.detail else ""
                    raise meaning(error, self._engine, self._profile, part) from None
                logger.info("the shop's database broke a write off (%s): once more", type(error.orig).__name__)
                time.sleep(random.uniform(0.01, 0.05) * 2**attempt)  # noqa: S311 - jitter
            except PoolTimeout as error:
                raise meaning(error, self._engine, self._profile, "") from None
        raise AssertionError

    def _outside(self) -> AbstractContextManager[Connection | None]:
        return nullcontext() if self.is_sqlite else self._engine.connect()

    def _once(
        self,
        connection: Connection,
        outside: Connection | None,
        work: Callable[[Connection, Connection | None], T],
        commit_by: float,
    ) -> T:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if self.is_sqlite else "START TRANSACTION")
        try:
            if outside is not None:
                outside.exec_driver_sql("START TRANSACTION")  # else a proxy may ask a replica, which lags behind
            result = work(connection, outside)
            if time.monotonic() >= commit_by:
                raise ShopUnavailable("writing to the shop took longer than the claim on its orders: tried again later")
            if outside is not None:
                outside.exec_driver_sql("ROLLBACK")
            connection.exec_driver_sql("COMMIT")
        except BaseException as error:
            # Nobody may inherit an open transaction; such errors are rare, but for those that are our own.
            for each in (connection, outside):
                if each is not None and not each.invalidated:
                    with suppress(DBAPIError):
                        each.exec_driver_sql("ROLLBACK")
                        if isinstance(error, NoEffect):
                            continue
                    each.invalidate()
            raise
        return result


class Command:
    """A statement of the profile, `part` its key there, made ready for the driver once."""

    def __init__(self, part: str, statement: Statement, *, is_sqlite: bool) -> None:
        self._part = part
        self._sql = statement.for_driver("named" if is_sqlite else "pyformat")
        self._names = statement.parameters

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        try:
            return connection.exec_driver_sql(self._sql, {name: values[name] for name in self._names})
        except DBAPIError as error:
            error.add_detail(self._part)
            raise
