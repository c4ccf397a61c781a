"""The shop's database behind one class, read through its profile. Nothing is ever created or changed here.

The profile's SELECTs are wrapped, never edited (contracts/shop-profile.md, "Canonical columns"): the outer query names
the few columns that it needs, so that the server may leave out whatever else the author computes.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from pymysql.constants import FIELD_TYPE
from sqlalchemy import Connection, CursorResult, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from erp_sync.errors import Misconfigured
from erp_sync.models import HeldLine, Order, OrderHead, UnreadableOrder
from erp_sync.shop.connection import is_conflict, meaning, shop_engine
from erp_sync.shop.profile import Profile
from erp_sync.shop.rows import REQUIRED_OF_LINES, REQUIRED_OF_ORDERS, Row, RowReader, key_text, missing_columns, plain
from erp_sync.shop.statement import Statement

logger = logging.getLogger(__name__)
T = TypeVar("T")
Value = int | str | datetime

ORDERS, LINES = "[read] orders", "[read] lines"
"""The profile's keys, as messages call them."""
BY_NUMBER = "number"
FETCH_CHUNK = 500
CONFLICT_TRIES = 5

HEAD = "SELECT q.order_id, q.number, q.state, q.changed_at, q.ordered_at, q.total"
_LISTS = frozenset({"order_ids", "keys"})
_INTEGER = re.compile(r"-?[0-9]{1,19}")
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


@dataclass(frozen=True, slots=True)
class Query:
    part: str
    sql: str
    """In the driver's paramstyle."""


@dataclass(frozen=True, slots=True)
class Plan:
    part: str
    what: str
    """What the query is for."""
    statement: Statement
    """The author's, within it."""
    wanted: str
    """By what it looks: a column of the statement, or its parameter."""
    rows: Sequence[Row]
    """EXPLAIN's."""


class Shop:
    """Thread-safe. Every method raises ShopUnavailable when the database cannot be asked now, and Misconfigured when a
    person must correct the URL, the credentials or the profile. A broken connection is replaced once per call;
    deadlocks and lock waits are tried again as a whole.

    `engine` comes from `shop_engine`.
    """

    def __init__(self, engine: Engine, profile: Profile) -> None:
        self.engine = engine
        self.profile = profile
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._reader = RowReader(profile, float_is_exact=self.is_sqlite)
        self._numeric: dict[str, bool] = {}
        orders = f"FROM (\n{profile.read.orders.sql}\n) q"
        lines = f"FROM (\n{profile.read.lines.sql}\n) q"
        # SQLite has no datetimes, only texts of several forms: they are ordered by what they mean.
        changed_at = _sqlite_time("q.changed_at") if self.is_sqlite else "q.changed_at"
        after_at = _sqlite_time(":after_at") if self.is_sqlite else ":after_at"
        alive = "COALESCE(q.state, '') NOT IN ('cancelled', 'closed')"
        in_time, by_key = f"ORDER BY {changed_at}, q.order_id LIMIT :count", "ORDER BY q.order_id LIMIT :count"
        self._recent = self.query(ORDERS, f"{HEAD} {orders} WHERE q.changed_at >= :since_at {in_time}")
        self._recent_after = self.query(
            ORDERS,
            f"{HEAD} {orders} WHERE q.changed_at >= :since_at AND {changed_at} >= {after_at} "
            f"AND ({changed_at} > {after_at} OR q.order_id > :after_id) {in_time}",
        )
        self._sweep = self.query(ORDERS, f"{HEAD} {orders} WHERE {alive} {by_key}")
        self._sweep_after = self.query(ORDERS, f"{HEAD} {orders} WHERE q.order_id > :after_id AND {alive} {by_key}")
        self._by_number = self.query(ORDERS, f"{HEAD} {orders} WHERE q.number IN :keys")
        self._by_id = self.query(ORDERS, f"{HEAD} {orders} WHERE q.order_id IN :keys")
        self._orders = self.query(ORDERS, f"SELECT * {orders} WHERE q.order_id IN :keys")
        self._lines = self.query(LINES, f"SELECT * {lines} WHERE q.order_id IN :keys ORDER BY q.order_id, q.line_id")
        self._keys = self.query(ORDERS, f"SELECT q.order_id, q.number {orders} LIMIT :count")
        # An author who takes :order_ids in `orders` means "changed since, or one of these": a fetch needs the latter.
        self._fetch_since = _END if "order_ids" in profile.read.orders.parameters else _EPOCH

    @property
    def business_timezone(self) -> ZoneInfo:
        return self.profile.business_timezone

    def now(self) -> datetime:
        """The clock of the shop's database, in UTC (SQLite: of this machine)."""
        if self.is_sqlite:
            return datetime.now(UTC)

        def ask(connection: Connection) -> datetime:
            clock: datetime = connection.exec_driver_sql("SELECT UTC_TIMESTAMP(6)").scalar_one()
            return clock.replace(tzinfo=UTC)

        return self.read(ask)

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
            since_at=max(wall, after_at - timedelta(seconds=1)),  # by the index; SQLite rounds fractions
            after_at=after_at,
            after_id=self._native("order_id", [after[1]])[0],
            count=limit,
        )

    def sweep(self, after: str | None, limit: int) -> list[OrderHead]:
        """Orders that are neither cancelled nor closed, in the order of their key, at most `limit`, after a key."""
        keys = self._native("order_id", [after]) if after is not None else []
        if not keys:
            return self._heads(self._sweep, count=limit)
        return self._heads(self._sweep_after, after_id=keys[0], count=limit)

    def heads_by_number(self, numbers: Sequence[str]) -> list[OrderHead]:
        """The orders of these numbers exactly, whatever the collation takes for equal, by their key; several may share
        a number."""
        wanted = {number.strip() for number in numbers}
        keys = self._native("number", sorted(wanted))
        heads = self._heads(self._by_number, keys=keys) if keys else []
        found = [head for head in heads if head.number in wanted]
        return sorted(found, key=lambda head: (len(head.order_id), head.order_id))

    def heads(self, order_ids: Sequence[str]) -> dict[str, OrderHead]:
        """The orders with these ids, whatever their state; ids that the shop lacks are left out."""
        found: dict[str, OrderHead] = {}
        for start in range(0, len(order_ids), FETCH_CHUNK):
            keys = self._native("order_id", order_ids[start : start + FETCH_CHUNK])
            if keys:
                heads = self._heads(self._by_id, keys=keys, order_ids=keys, since=self._fetch_since)
                found |= {head.order_id: head for head in heads}
        return found

    def shown_statuses(self, numbers: Sequence[str]) -> dict[str, str]:
        """The shop's own word for the status of each of these orders, as `[status] find` has it. Left out: numbers that
        the shop lacks or has several times; all of them where the profile has no `[status]` block."""
        section = self.profile.status
        if section is None:
            return {}
        find = self.query("[status] find", section.find.sql)

        def ask(connection: Connection) -> dict[str, str]:
            found = {number: self.rows(connection, find, number=number) for number in numbers}
            return {number: plain(rows[0]["status"]) for number, rows in found.items() if len(rows) == 1}

        return self.read(ask)

    def held_lines(self, order_ids: Sequence[str]) -> list[HeldLine]:
        """What the orders with these ids hold of the stock. A line without SKU or with no number for a quantity holds
        nothing that could be named, and is left out."""
        held: list[HeldLine] = []
        for start in range(0, len(order_ids), FETCH_CHUNK):
            keys = self._native("order_id", order_ids[start : start + FETCH_CHUNK])
            if keys:
                rows = self.read(partial(self.rows, query=self._lines, keys=keys, order_ids=keys))
                self._complete(LINES, missing_columns(rows, REQUIRED_OF_LINES, ("unit_price", "line_total")))
                held += filter(None, map(self._reader.held, rows))
        return held

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

    def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, called with a connection in autocommit; it may be called again, with another one."""
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
                    part = error.detail[-1] if error.detail else ""
                    raise meaning(error, self.engine, self.profile, part) from None
                logger.info("the shop's database broke a read off (%s): once more", type(error.orig).__name__)
            except PoolTimeout as error:
                raise meaning(error, self.engine, self.profile, "") from None

    @contextmanager
    def snapshot(self, connection: Connection) -> Iterator[None]:
        """One read-only view of the database for all statements inside."""
        connection.exec_driver_sql(
            "BEGIN" if self.is_sqlite else "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
        )
        try:
            yield
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            connection.invalidate()  # nobody may inherit an open transaction; such errors are rare
            raise

    def query(self, part: str, sql: str) -> Query:
        """A statement of ours around the SQL of `part`, a key of the profile. Lists are `:keys` and `:order_ids`."""
        return Query(part, Statement.reading(sql).for_driver("named" if self.is_sqlite else "pyformat", _LISTS))

    def rows(self, connection: Connection, query: Query, **values: Value | Sequence[Value]) -> Sequence[Row]:
        """All rows; what the author's SQL may use besides (`:since`, `:order_ids`) defaults to every order."""
        return self.execute(connection, query, **values).mappings().all()

    def execute(self, connection: Connection, query: Query, **values: Value | Sequence[Value]) -> CursorResult[Any]:
        """As `rows`, but the result as it comes."""
        bound = {name: self._bound(value) for name, value in {"since": _EPOCH, "order_ids": (), **values}.items()}
        try:
            return connection.exec_driver_sql(query.sql, bound)
        except DBAPIError as error:
            error.add_detail(query.part)
            raise

    def head(self, row: Row) -> OrderHead:
        return self._reader.head(row)

    def plans(self, since: datetime) -> list[Plan]:
        """What EXPLAIN says about what a tick and its run ask, and whoever names an order by its number."""
        explain = "EXPLAIN QUERY PLAN " if self.is_sqlite else "EXPLAIN "
        wall = self._earliest_wall(since)
        row = self.read(lambda connection: self.rows(connection, self._sweep, count=1))
        keys: list[Value] = [row[0]["order_id"]] if row else [""]
        numbers: list[Value] = [row[0]["number"]] if row else [""]
        after: dict[str, Value | Sequence[Value]] = {"after_at": wall, "after_id": keys[0], "count": 500}
        read, recent = self.profile.read, {"since": wall, "since_at": wall}
        looks: list[tuple[str, str, Statement, Query, dict[str, Any]]] = [
            ("look for recent changes", "changed_at", read.orders, self._recent, {**recent, "count": 500}),
            ("next page of recent changes", "changed_at", read.orders, self._recent_after, {**recent, **after}),
            ("sweep", "order_id", read.orders, self._sweep_after, {"after_id": keys[0], "count": 500}),
            (
                *("fetch", "order_id", read.orders, self._orders),
                {"keys": keys, "order_ids": keys, "since": self._fetch_since},
            ),
            ("fetch", "order_id", read.lines, self._lines, {"keys": keys, "order_ids": keys}),
            ("look by number", BY_NUMBER, read.orders, self._by_number, {"keys": numbers}),
        ]
        if self.profile.status is not None:
            statement = self.profile.status.find
            find = self.query("[status] find", statement.sql)
            looks.append(("look for one order", ":number", statement, find, {"number": str(numbers[0])}))
        if self.profile.stock is not None:
            statement = self.profile.stock.find
            find = self.query("[stock] find", statement.sql)
            looks.append(("look for one stock", ":sku", statement, find, {"sku": "-", "warehouse": "-"}))

        def ask(connection: Connection) -> list[Plan]:
            return [
                Plan(
                    query.part,
                    what,
                    statement,
                    wanted,
                    self.rows(connection, Query(query.part, explain + query.sql), **values),
                )
                for what, wanted, statement, query, values in looks
            ]

        return self.read(ask)

    def _heads(self, query: Query, **values: Value | Sequence[Value]) -> list[OrderHead]:
        return [self._reader.head(row) for row in self.read(lambda connection: self.rows(connection, query, **values))]

    def _fetch(self, ids: Sequence[str]) -> list[Order | UnreadableOrder]:
        keys = self._native("order_id", ids)
        if not keys:
            return []

        def headers_and_lines(connection: Connection) -> tuple[Sequence[Row], Sequence[Row]]:
            with self.snapshot(connection):
                headers = self.rows(connection, self._orders, keys=keys, order_ids=keys, since=self._fetch_since)
                return headers, self.rows(connection, self._lines, keys=keys, order_ids=keys)

        header_rows, line_rows = self.read(headers_and_lines)
        self._complete(ORDERS, missing_columns(header_rows, REQUIRED_OF_ORDERS))
        self._complete(LINES, missing_columns(line_rows, REQUIRED_OF_LINES, ("unit_price", "line_total")))
        headers, lines = _by_order(header_rows), _by_order(line_rows)
        return [self._reader.order(headers[key], lines.get(key, [])) for key in ids if key in headers]

    def _complete(self, part: str, missing: Sequence[str]) -> None:
        if missing:
            raise Misconfigured(
                f"profile {self.profile.name}: {part} lacks the column {missing[0]}: add it to the SELECT"
            )

    def _native(self, column: str, texts: Sequence[str]) -> list[Value]:
        """Keys as the column has them: a number compared as a text would neither be exact nor use the index."""
        if column not in self._numeric:
            self._numeric |= self.read(self._numeric_columns)
        if not self._numeric.get(column):
            return list(texts)
        return [int(text) for text in texts if _INTEGER.fullmatch(text)]

    def _numeric_columns(self, connection: Connection) -> dict[str, bool]:
        result = self.execute(connection, self._keys, count=1 if self.is_sqlite else 0)
        if not self.is_sqlite:
            description = result.cursor.description if result.cursor else ()
            return {column[0]: column[1] in _NUMBERS for column in description}
        row = result.mappings().first()  # SQLite's columns have no type, its values have: an empty shop teaches nothing
        return {name: isinstance(value, int) for name, value in row.items()} if row else {}

    def _bound(self, value: Value | Sequence[Value]) -> object:
        if isinstance(value, datetime):
            return value.isoformat(" ") if self.is_sqlite else value
        if isinstance(value, int | str):
            return value
        if self.is_sqlite:
            return json.dumps(list(value))
        return tuple(value) or (None,)  # IN (NULL) matches nothing

    def _earliest_wall(self, since: datetime) -> datetime:
        """The lowest time that the shop's clock has shown from `since` on, in whole seconds: where it is set back soon
        after, that is the time it was set back to, or before."""
        zone = self.profile.app_timezone
        soon = since + timedelta(hours=3)
        offset, later = since.astimezone(zone).utcoffset(), soon.astimezone(zone).utcoffset()
        back = max(timedelta(0), (offset or timedelta(0)) - (later or timedelta(0)))
        return since.astimezone(zone).replace(tzinfo=None, microsecond=0) - back


def _by_order(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[key_text(row["order_id"])].append(row)
    return found


def _sqlite_time(sql: str) -> str:
    return f"strftime('%Y-%m-%d %H:%M:%f', {sql})"
