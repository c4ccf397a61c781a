"""The shop's stock, written by the profile's `[stock]` block so that no checkout slips in between
(reliability-facts.md, 2.5).

A row is written first, which locks it and waits for whoever holds it; then what is in flight is counted anew, and the
final figure written before the transaction ends. Every checkout that took from the row before is committed by then and
counted; every later one waits for the row.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from erp_sync.errors import Misconfigured
from erp_sync.shop.connection import is_conflict, shop_engine
from erp_sync.shop.profile import Profile, StockSection
from erp_sync.shop.rows import plain
from erp_sync.shop.statement import Statement
from erp_sync.shop.writing import Command, HeldBySomebody, NoEffect, ShopWriter, why

TOGETHER = 1
"""SKUs of one transaction in row form: who holds one row and waits for no other deadlocks with no checkout."""
TOGETHER_IN_BULK = 200
"""In one statement. MySQL lets it wait for rows while it holds others: a checkout of several of them in another order
may be the one that a deadlock ends."""
_AT_ONCE = "SET STATEMENT innodb_lock_wait_timeout = 0 FOR"
"""MariaDB: who waits for nothing deadlocks with nobody. Where somebody holds a row, all is let go and tried again."""
SECONDS_AT_ONCE = 0.02
"""So long all of a chunk are tried, then its halves; a single one is written by `write`, and waited for."""
LOOKED_AT_TOGETHER = 100
"""SKUs of one look: so many copies of `find` in one statement."""
TEMPORARY = "erp_sync_stock"

Place = tuple[str, str]
"""SKU, and the shop's name of the warehouse ("" where it has but one stock)."""


@dataclass(frozen=True, slots=True)
class StockTarget:
    sku: str
    warehouse: str
    quantity: int
    """What it would be now; `decide` has the last word once the row is locked."""
    previous: int
    """What the shop showed when it was compared."""

    @property
    def place(self) -> Place:
        return self.sku, self.warehouse


@dataclass(frozen=True, slots=True)
class StockOutcome:
    before: Decimal
    """What the shop showed, to the last checkout before our lock."""
    after: int
    problem: str = ""
    """Why nothing was written; "" where it was."""


def open_shop_stock(url: str, profile: Profile) -> ShopStock | None:
    """None: the profile has no `[stock]` block. Connects at the first look. Raises Misconfigured."""
    if profile.stock is None:
        return None
    return ShopStock(ShopWriter(shop_engine(url, profile, writes=True), profile), profile.stock)


class ShopStock:
    """Thread-safe. Raises ShopUnavailable when the database cannot be asked now, and Misconfigured when a person must
    correct the profile or grant a right."""

    def __init__(self, writer: ShopWriter, section: StockSection) -> None:
        self._writer = writer
        self._section = section
        self._write = [Command("[stock] write", statement, is_sqlite=writer.is_sqlite) for statement in section.write]
        self._bulk = self._bulk_at_once = None
        if section.bulk is not None:
            at_once = replace(section.bulk, sql=f"{_AT_ONCE} {section.bulk.sql}")
            self._bulk, self._bulk_at_once = (
                Command("[stock] bulk", statement, is_sqlite=writer.is_sqlite) for statement in (section.bulk, at_once)
            )
        self._finds: dict[int, Command] = {}
        self._skus = _listing(section.skus, is_sqlite=writer.is_sqlite) if section.skus else None

    @property
    def together(self) -> int:
        """How many targets one transaction takes."""
        return TOGETHER_IN_BULK if self._bulk is not None else TOGETHER

    def close(self) -> None:
        self._writer.close()

    def present(self, places: Sequence[Place]) -> dict[Place, list[Decimal]]:
        """What each row of the shop shows: [] no row, several where `find` is ambiguous."""
        return self._writer.read(lambda connection: self._present(connection, places))

    def skus(self, since: str, limit: int) -> list[str]:
        """SKUs of the shop in its database's order, from this one on; [] where the profile does not list them."""
        if self._skus is None:
            return []
        command, values = self._skus[0], {"since": since, "most": limit}
        rows = self._writer.read(lambda connection: command.execute(connection, values).all())
        return [plain(row[0]) for row in rows]

    def count_skus(self) -> int | None:
        """None where the profile does not list them."""
        if self._skus is None:
            return None
        command = self._skus[1]
        return int(self._writer.read(lambda connection: command.execute(connection, {}).scalar_one()))

    def write(
        self,
        targets: Sequence[StockTarget],
        recount: Callable[[], None],
        decide: Callable[[StockTarget, Decimal], int],
        commit_by: float,
    ) -> list[StockOutcome]:
        """At most `together` targets, each with exactly one row in the shop. `recount` is called once all rows are
        locked; `decide` gives the final quantity, told what the shop shows. What some hold is written in several
        transactions: none commits later after its start than `commit_by` (`time.monotonic`) is away now."""
        outcomes: dict[Place, StockOutcome] = {}
        parts = [sorted(targets, key=lambda target: target.place)]
        seconds = commit_by - time.monotonic()
        held = ""
        while parts:
            part = parts.pop()
            if held and time.monotonic() >= commit_by:
                # Whoever holds one may hold them all, and each is waited for as long again.
                outcomes |= {target.place: StockOutcome(Decimal(0), 0, held) for target in part}
                continue
            try:
                outcomes |= self._write_part(part, recount, decide, time.monotonic() + seconds)
            except HeldBySomebody as somebody:
                held = f"{somebody}: written by a later pass"
                outcomes |= {target.place: StockOutcome(Decimal(0), 0, held) for target in part}
            except (DBAPIError, NoEffect) as error:
                if len(part) == 1:
                    outcomes[part[0].place] = StockOutcome(Decimal(0), 0, why(error))
                else:
                    half = len(part) // 2
                    parts += [part[half:], part[:half]]
        return [outcomes[target.place] for target in targets]

    def _write_part(
        self,
        order: Sequence[StockTarget],
        recount: Callable[[], None],
        decide: Callable[[StockTarget, Decimal], int],
        commit_by: float,
    ) -> dict[Place, StockOutcome]:
        def work(connection: Connection, outside: Connection | None) -> dict[Place, StockOutcome]:
            places = [target.place for target in order]
            # SQLite: nobody else writes from here on, and after our writes there is no other look at what was before.
            before = self._present(connection, places) if outside is None else {}
            self._lock(connection, order)
            recount()
            before = before or self._present(outside or connection, places)
            final = {}
            for target in order:
                shown = before[target.place]
                if len(shown) != 1:
                    raise NoEffect(f"the shop has {len(shown)} rows for SKU {target.sku!r} now: looked at again later")
                final[target.place] = decide(target, shown[0])
            changed = [
                StockTarget(target.sku, target.warehouse, final[target.place], previous=target.quantity)
                for target in order
                if final[target.place] != target.quantity
            ]
            if changed:
                try:
                    self._put(connection, changed)
                except DBAPIError as error:
                    if len(order) > 1 and _is_mariadb(connection) and is_conflict(error):
                        raise NoEffect("[stock] bulk looks at other rows too: fewer at a time") from None
                    raise
            after = self._present(connection, places)
            for place, quantity in final.items():
                if after[place] != [quantity]:
                    shows = ", ".join(map(plain, after[place])) or "nothing"
                    raise NoEffect(f"[stock] makes SKU {place[0]!r} show {shows}, not {quantity}: correct its WHERE")
            return {place: StockOutcome(before[place][0], quantity) for place, quantity in final.items()}

        return self._writer.transaction(work, commit_by)

    def _lock(self, connection: Connection, targets: Sequence[StockTarget]) -> None:
        """Writes them, which locks them."""
        give_up = time.monotonic() + SECONDS_AT_ONCE
        while True:
            try:
                return self._put(connection, targets)
            except DBAPIError as error:
                if len(targets) == 1 or not (_is_mariadb(connection) and is_conflict(error)):
                    raise
            if time.monotonic() >= give_up:
                raise NoEffect("somebody holds one of the rows: fewer at a time")
            connection.exec_driver_sql("ROLLBACK")
            time.sleep(random.uniform(0.001, 0.004))  # noqa: S311 - jitter
            connection.exec_driver_sql("START TRANSACTION")

    def _put(self, connection: Connection, targets: Sequence[StockTarget]) -> None:
        if self._bulk is None or self._bulk_at_once is None or len(targets) == 1:
            for target in targets:
                values = {
                    "sku": target.sku,
                    "warehouse": target.warehouse,
                    "quantity": target.quantity,
                    "previous": target.previous,
                }
                for command in self._write:
                    command.execute(connection, values).close()
            return
        self._fill_temporary(connection, targets)
        bulk = self._bulk_at_once if _is_mariadb(connection) else self._bulk
        bulk.execute(connection, {}).close()

    def _fill_temporary(self, connection: Connection, targets: Sequence[StockTarget]) -> None:
        text = "TEXT" if self._writer.is_sqlite else "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        connection.exec_driver_sql(
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {TEMPORARY} (sku {text} NOT NULL, warehouse {text} NOT NULL, "
            "quantity BIGINT NOT NULL, previous BIGINT, PRIMARY KEY (sku, warehouse))"
        )
        connection.exec_driver_sql(f"DELETE FROM {TEMPORARY}")  # noqa: S608 - a constant
        marks = "(?, ?, ?, ?)" if self._writer.is_sqlite else "(%s, %s, %s, %s)"
        rows = [(target.sku, target.warehouse, target.quantity, target.previous) for target in targets]
        connection.exec_driver_sql(f"INSERT INTO {TEMPORARY} VALUES {marks}", rows)  # noqa: S608 - a constant

    def _present(self, connection: Connection, places: Sequence[Place]) -> dict[Place, list[Decimal]]:
        found: dict[Place, list[Decimal]] = {place: [] for place in places}
        for start in range(0, len(places), LOOKED_AT_TOGETHER):
            some = places[start : start + LOOKED_AT_TOGETHER]
            values: dict[str, Any] = {}
            for index, (sku, warehouse) in enumerate(some):
                values |= {f"sku_{index}": sku, f"warehouse_{index}": warehouse}
            for row in self._find(len(some)).execute(connection, values).mappings():
                place = some[int(row["erp_sync_place"])]
                found[place].append(self._quantity(place[0], row["quantity"]))
        return found

    def _find(self, count: int) -> Command:
        """`find` for so many SKUs at once: one round trip, each by its index."""
        if count not in self._finds:
            copies = [
                f"SELECT {index} AS erp_sync_place, q.quantity AS quantity FROM (\n"  # noqa: S608 - the profile is SQL
                f"{self._section.find.renamed(lambda name, index=index: f'{name}_{index}')}\n) q"  # type: ignore[misc]
                for index in range(count)
            ]
            union = Statement.reading("\nUNION ALL\n".join(copies))
            self._finds[count] = Command("[stock] find", union, is_sqlite=self._writer.is_sqlite)
        return self._finds[count]

    def _quantity(self, sku: str, value: Any) -> Decimal:
        try:
            return Decimal(plain(value) or "0")
        except InvalidOperation:
            name = self._writer.profile_name
            raise Misconfigured(
                f"profile {name}: [stock] find gives SKU {sku!r} a quantity that is no number: select the number"
            ) from None


def _listing(skus: Statement, *, is_sqlite: bool) -> tuple[Command, Command]:
    """A part of the list, and how long it is."""
    inner = f"(\n{skus.renamed(str)}\n) q"
    texts = (
        f"SELECT q.sku FROM {inner} WHERE q.sku >= :since AND q.sku <> '' ORDER BY q.sku LIMIT :most",  # noqa: S608
        f"SELECT COUNT(*) FROM {inner} WHERE q.sku <> ''",  # noqa: S608 - the profile is SQL
    )
    part, count = (Command("[stock] skus", Statement.reading(text), is_sqlite=is_sqlite) for text in texts)
    return part, count


def _is_mariadb(connection: Connection) -> bool:
    return getattr(connection.dialect, "is_mariadb", False)
