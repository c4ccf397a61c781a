"""The shop's database behind one class, read through its profile. Nothing is ever created or changed here.

The profile's SELECTs are wrapped, never edited (contracts/shop-profile.md, "Canonical columns"): the outer query names the
few columns that it needs, so that the server may leave out whatever else the author computes.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from pymysql.constants import FIELD_TYPE
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from erp_sync.models import Order, OrderHead, UnreadableOrder
from erp_sync.shop.connection import is_conflict, meaning, shop_engine
from erp_sync.shop.profile import Profile
from erp_sync.shop.rows import Row, RowReader, key_text
from erp_sync.shop.statement import Statement

logger = logging.getLogger(__name__)
T = TypeVar("T")

ORDERS, LINES = "[read] orders", "[read] lines"
"""The profile's keys, as messages call them."""
FETCH_CHUNK = 500
CONFLICT_TRIES = 5

_HEAD = "SELECT q.order_id, q.number, q.state, q.changed_at, q.ordered_at, q.total"
_LISTS = frozenset({"order_ids", "keys"})
_EPOCH = datetime(1970, 1, 2)  # noqa: DTZ001 - a wall clock; the day after the epoch is a valid TIMESTAMP in every zone
_END = datetime(9999, 12, 31)  # noqa: DTZ001
_NUMBERS = frozenset(
    {
        FIELD_TYPE.TINY,
        FIELD_TYPE.SHORT,
        FIELD_TYPE.INT24,
        FIELD_TYPE.LONG,
        FIELD_TYPE.LONGLONG,
        FIELD_TYPE.DECIMAL,
        FIELD_TYPE.NEWDECIMAL,
    }
)


def open_shop(url: str, profile: Profile, *, ca_bundle: Path | None = None) -> Shop:
    """The shop at `ERP_SYNC_SHOP_URL`; TLS as `shop_engine` says. Connects at the first call. Raises Misconfigured."""
    return Shop(shop_engine(url, profile, ca_bundle=ca_bundle), profile)


class Shop:
    """Thread-safe. Every method raises ShopUnavailable when the database cannot be asked now, and Misconfigured when a
    person must correct the URL, the credentials or the profile. A broken connection is replaced once per call;
    deadlocks and lock waits are tried again as a whole.

    `engine` comes from `shop_engine`.
    """

    def __init__(self, engine: Engine, profile: Profile) -> None:
        self.engine = engine
        self.profile = profile
        self._sqlite = engine.dialect.name == "sqlite"
        self._reader = RowReader(profile, float_is_exact=self._sqlite)
        self._numeric: dict[str, bool] = {}
        read = profile.read
        orders = f"FROM (\n{read.orders.sql}\n) q"
        lines = f"FROM (\n{read.lines.sql}\n) q"
        # SQLite has no datetimes, only texts of several forms: they are ordered by what they mean.
        changed_at = _sqlite_time("q.changed_at") if self._sqlite else "q.changed_at"
        after_at = _sqlite_time(":after_at") if self._sqlite else ":after_at"
        newest_last = f"ORDER BY {changed_at}, q.order_id LIMIT :count"
        self._recent = self._sql(f"{_HEAD} {orders} WHERE q.changed_at >= :since_at {newest_last}")
        self._recent_after = self._sql(
            f"{_HEAD} {orders} WHERE q.changed_at >= :since_at AND {changed_at} >= {after_at} "
            f"AND ({changed_at} > {after_at} OR q.order_id > :after_id) {newest_last}"
        )
        alive = "COALESCE(q.state, '') NOT IN ('cancelled', 'closed')"
        by_key = "ORDER BY q.order_id LIMIT :count"
        self._sweep = self._sql(f"{_HEAD} {orders} WHERE {alive} {by_key}")
        self._sweep_after = self._sql(f"{_HEAD} {orders} WHERE q.order_id > :after_id AND {alive} {by_key}")
        self._by_number = self._sql(f"{_HEAD} {orders} WHERE q.number IN :keys ORDER BY q.order_id")
        self._orders = self._sql(f"SELECT * {orders} WHERE q.order_id IN :keys")
        self._lines = self._sql(f"SELECT * {lines} WHERE q.order_id IN :keys ORDER BY q.order_id, q.line_id")
        self._keys = self._sql(f"SELECT q.order_id, q.number {orders} LIMIT :count")
        # An author who takes :order_ids in `orders` means "changed since, or one of these": a fetch needs the latter only.
        self._fetch_since = _END if "order_ids" in read.orders.parameters else _EPOCH

    @property
    def business_timezone(self) -> ZoneInfo:
        return self.profile.business_timezone

    def now(self) -> datetime:
        """The clock of the shop's database, in UTC (SQLite: of this machine)."""
        if self._sqlite:
            return datetime.now(UTC)

        def ask(connection: Connection) -> datetime:
            clock: datetime = connection.exec_driver_sql("SELECT UTC_TIMESTAMP(6)").scalar_one()
            return clock.replace(tzinfo=UTC)

        return self.read("", ask)

    def recent(self, since: datetime, limit: int, after: tuple[datetime, str] | None = None) -> list[OrderHead]:
        """Orders with `changed_at >= since`, by `changed_at` and `order_id`, at most `limit`; the page `after` the last
        head's (changed_at, order_id). One round trip."""
        wall = self._earliest_wall(since)
        if after is None:
            return self._heads(self._recent, since=wall, since_at=wall, count=limit)
        after_at = after[0].astimezone(self.profile.app_timezone).replace(tzinfo=None)
        return self._heads(
            self._recent_after,
            since=wall,
            since_at=max(wall, after_at.replace(microsecond=0)),
            after_at=after_at,
            after_id=self._native("order_id", [after[1]])[0],
            count=limit,
        )

    def sweep(self, after: str | None, limit: int) -> list[OrderHead]:
        """Orders that are neither cancelled nor closed, in the order of their key, at most `limit`, after a key."""
        if after is None:
            return self._heads(self._sweep, count=limit)
        return self._heads(self._sweep_after, after_id=self._native("order_id", [after])[0], count=limit)

    def heads_by_number(self, numbers: Sequence[str]) -> list[OrderHead]:
        """The orders of these numbers exactly, whatever the collation takes for equal; several may share a number."""
        wanted = {number.strip() for number in numbers}
        keys = self._native("number", sorted(wanted))
        heads = self._heads(self._by_number, keys=keys) if keys else []
        return [head for head in heads if head.number in wanted]

    def fetch(self, order_ids: Sequence[str]) -> list[Order | UnreadableOrder]:
        """Whole orders, header and lines of one snapshot, in the order asked for; ids that the shop lacks are left out.

        Up to 500 ids share a snapshot; longer lists are read in several.
        """
        ids = list(dict.fromkeys(order_ids))
        orders: list[Order | UnreadableOrder] = []
        for start in range(0, len(ids), FETCH_CHUNK):
            orders += self._fetch(ids[start : start + FETCH_CHUNK])
        return orders

    def close(self) -> None:
        self.engine.dispose()

    def _fetch(self, ids: Sequence[str]) -> Iterator[Order | UnreadableOrder]:
        keys = self._native("order_id", ids)
        if not keys:
            return iter(())
        parameters = self._bound(keys=keys, order_ids=keys, since=self._fetch_since)

        def headers_and_lines(connection: Connection) -> tuple[list[Row], list[Row]]:
            with self.snapshot(connection):
                with self._part(ORDERS):
                    headers = _rows(connection, self._orders, parameters)
                with self._part(LINES):
                    return headers, _rows(connection, self._lines, parameters)

        headers, lines = self.read("", headers_and_lines)
        headers_of, lines_of = _by_order(headers), _by_order(lines)
        return (self._reader.order(headers_of[i], lines_of.get(i, ())) for i in ids if i in headers_of)

    def _heads(self, sql: str, **values: Any) -> list[OrderHead]:
        parameters = self._bound(**{"since": _EPOCH, "order_ids": (), **values})
        rows = self.read(ORDERS, lambda connection: _rows(connection, sql, parameters))
        return [self._reader.head(row) for row in rows]

    def read(self, part: str, work: Callable[[Connection], T]) -> T:
        """What `work` returns, called with a connection in autocommit; it may be called again, on another connection.

        `part` is the profile's key that an error of it is about; "" for none.
        """
        reconnected, tries = False, 1
        while True:
            try:
                with self.engine.connect() as connection:
                    return work(connection)
            except DBAPIError as error:
                if error.connection_invalidated and not reconnected:
                    reconnected = True
                elif is_conflict(error) and tries < CONFLICT_TRIES:
                    time.sleep(random.uniform(0.01, 0.05) * 2**tries)  # noqa: S311 - jitter
                    tries += 1
                else:
                    raise meaning(error, self.engine, self.profile, getattr(error, "_part", part)) from None
                logger.info("reading the shop again after a database error")
            except PoolTimeout as error:
                raise meaning(error, self.engine, self.profile, part) from None

    @contextmanager
    def snapshot(self, connection: Connection) -> Iterator[None]:
        """One read-only view of the database for all statements inside."""
        begin = "BEGIN" if self._sqlite else "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
        connection.exec_driver_sql(begin)
        try:
            yield
        except DBAPIError as error:
            if not error.connection_invalidated:
                connection.exec_driver_sql("ROLLBACK")
            raise
        except BaseException:
            connection.invalidate()
            raise
        connection.exec_driver_sql("COMMIT")
