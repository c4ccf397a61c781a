"""The ways to write stock beside each other: what each oversells, and what a checkout feels of it.

    python -m erp_sync_tests.bench.stock_forms [--seconds 15] [--rounds 3] [--form NAME ...]

Each form runs against the same buyers, senders and receipts on a real MariaDB (test_stock_race.py). The forms that are
not ours read the ledger's tables by SQL, on the same server: that is the best they can have.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa

from erp_sync.ledger.ledger import open_ledger
from erp_sync.ledger.tables import entries
from erp_sync.shop.profile import load_profile
from erp_sync.sync.results import StockResult
from erp_sync_tests.bench.machine import machine, percentile
from erp_sync_tests.mariadb import MariaDB
from erp_sync_tests.test_stock_race import Race, Sync, as_it_is, bulk_profile, erp_alone, racing

_HELD = """
SELECT i.product_id, SUM(i.quantity) AS quantity FROM order_items i JOIN orders o ON o.id = i.order_id
 WHERE o.status IN ('pending', 'paid') AND NOT EXISTS (
       SELECT 1 FROM {ledger} e WHERE e.order_id = CAST(o.id AS CHAR) COLLATE utf8mb4_bin
          AND e.state = 'sent' {before})
 GROUP BY i.product_id"""
_SENT_BEFORE = "AND e.sent_at < :before"


def _read(race: Race) -> dict[int, int]:
    return {race.ids[balance.sku]: int(balance.balances["01"]) for balance in race.erp.all()}


class _Sql:
    """What one process of such a form works with."""

    def __init__(self, race: Race, isolation: str) -> None:
        self.race = race
        self.engine = sa.create_engine(race.shop_url, isolation_level=isolation)
        self._ledger = open_ledger(race.ledger_url)
        self._entries = f"{sa.make_url(race.ledger_url).database}.{entries.name}"

    def now(self) -> datetime:
        return self._ledger.now().replace(tzinfo=None)

    def held_sql(self, *, since_read: bool = True) -> str:
        return _HELD.format(ledger=self._entries, before=_SENT_BEFORE if since_read else "")

    def held(self, connection: sa.Connection, before: datetime | None) -> dict[int, int]:
        text = self.held_sql(since_read=before is not None)
        rows = connection.execute(sa.text(text), {} if before is None else {"before": before})
        return {row.product_id: int(row.quantity) for row in rows}

    def write(self, connection: sa.Connection, figures: Mapping[int, int]) -> None:
        update = sa.text("UPDATE products SET stock = :stock WHERE id = :id")
        for key in sorted(figures):
            connection.execute(update, {"id": key, "stock": max(0, figures[key])})

    def lock(self, connection: sa.Connection, keys: Sequence[int]) -> None:
        marks = ", ".join(map(str, sorted(keys)))
        connection.execute(sa.text(f"SELECT id FROM products WHERE id IN ({marks}) ORDER BY id FOR UPDATE"))

    def again(self, work: Callable[[sa.Connection], None]) -> StockResult:
        """A deadlock of its own is no error: the next pass heals it."""
        try:
            with self.engine.begin() as connection:
                work(connection)
        except sa.exc.OperationalError as error:
            assert error.orig is not None
            assert error.orig.args[0] in (1205, 1213), error
            self.race.counts["syncs broken off"] += 1
        return StockResult()


def pending_read_first(race: Race) -> Callable[[], StockResult]:
    """erp - pending, with pending read before the ERP is."""
    sql = _Sql(race, "READ COMMITTED")

    def run() -> StockResult:
        with sql.engine.connect() as connection:
            held = sql.held(connection, None)
        figures = {key: units - held.get(key, 0) for key, units in _read(race).items()}
        return sql.again(lambda connection: sql.write(connection, figures))

    return run


def unacknowledged_now(race: Race) -> Callable[[], StockResult]:
    """Locked rows, erp - what is unacknowledged by now, whenever the ERP was read."""
    sql = _Sql(race, "READ COMMITTED")

    def run() -> StockResult:
        figures = _read(race)

        def work(connection: sa.Connection) -> None:
            sql.lock(connection, list(figures))
            held = sql.held(connection, None)
            sql.write(connection, {key: units - held.get(key, 0) for key, units in figures.items()})

        return sql.again(work)

    return run


def one_statement(isolation: str, *, each: bool) -> Sync:
    """The sum within the UPDATE: of all SKUs, or of each by itself."""

    def form(race: Race) -> Callable[[], StockResult]:
        sql = _Sql(race, isolation)

        def run() -> StockResult:
            before = sql.now()
            figures = _read(race)
            if not each:
                return sql.again(lambda connection: update(connection, figures, before))
            for key, units in sorted(figures.items()):
                sql.again(lambda connection, one={key: units}: update(connection, one, before))  # type: ignore[misc]
            return StockResult()

        def update(connection: sa.Connection, figures: Mapping[int, int], before: datetime) -> None:
            rows = " UNION ALL ".join(f"SELECT {key} AS id, {units} AS units" for key, units in sorted(figures.items()))
            connection.execute(
                sa.text(
                    f"UPDATE products p JOIN ({rows}) s ON s.id = p.id LEFT JOIN ({sql.held_sql()}) h "
                    "ON h.product_id = p.id SET p.stock = GREATEST(0, s.units - COALESCE(h.quantity, 0))"
                ),
                {"before": before},
            )

        return run

    return form


def lock_then_sum(isolation: str, *, looks_first: bool) -> Sync:
    """Rows locked, then the sum in a second statement; under REPEATABLE READ a look before the lock fixes what the sum
    sees."""

    def form(race: Race) -> Callable[[], StockResult]:
        sql = _Sql(race, isolation)

        def run() -> StockResult:
            before = sql.now()
            figures = _read(race)

            def work(connection: sa.Connection) -> None:
                if looks_first:
                    connection.execute(sa.text("SELECT COUNT(*) FROM orders"))
                sql.lock(connection, list(figures))
                held = sql.held(connection, before)
                sql.write(connection, {key: units - held.get(key, 0) for key, units in figures.items()})

            return sql.again(work)

        return run

    return form


FORMS: dict[str, Sync] = {
    "qty = erp": erp_alone,
    "pending read before the ERP": pending_read_first,
    "locked, unacknowledged now": unacknowledged_now,
    "one statement for all, RC": one_statement("READ COMMITTED", each=False),
    "one statement per SKU, RC": one_statement("READ COMMITTED", each=True),
    "one statement per SKU, RR": one_statement("REPEATABLE READ", each=True),
    "lock, then sum, older snapshot, RR": lock_then_sum("REPEATABLE READ", looks_first=True),
    "lock, then sum, RC": lock_then_sum("READ COMMITTED", looks_first=False),
    "erp_sync, rows": as_it_is,
    "erp_sync, bulk": as_it_is,
}


def measure(server: MariaDB, name: str, *, seconds: float, rounds: int, folder: Path) -> dict[str, object]:
    profile = bulk_profile(folder) if name.endswith("bulk") else load_profile("laravel")
    uncovered, counts, waits = [], Counter[str](), list[float]()
    for _ in range(rounds):
        with racing(server, profile) as race:
            race.run(FORMS[name], seconds=seconds, stop_at_first=False)
            uncovered.append(f"{race.units} ({race.oversold.total()})")
            counts += race.counts
            waits += race.waits
    return {
        "form": name,
        "units uncovered (sold)": " / ".join(uncovered),
        "orders": counts["orders"],
        "syncs": counts["syncs"],
        "checkout deadlocks": counts["deadlocks"],
        "sync broken off": counts["syncs broken off"],
        "checkout p99 ms": round(percentile(waits, 0.99), 1),
        "longest ms": round(max(waits), 1),
    }


def main() -> None:
    import pandas as pd

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--form", nargs="+", choices=list(FORMS), default=list(FORMS), metavar="NAME")
    given = parser.parse_args()
    rows = []
    with MariaDB(options=["--innodb-flush-log-at-trx-commit=2"]) as server, TemporaryDirectory() as folder:
        for name in given.form:
            rows.append(measure(server, name, seconds=given.seconds, rounds=given.rounds, folder=Path(folder)))
            print(rows[-1], flush=True)
    print(machine())
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
