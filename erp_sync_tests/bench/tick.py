"""What looking for new orders costs the shop's MariaDB: an empty poll, one that finds 10 orders, a minute of polling.

    python -m erp_sync_tests.bench.tick [--orders 10000 5000000]

The server's own figures: statement times of the performance schema, CPU time of the server's process. The shop's years
of orders run up to now, so that a poll reads the last minutes' rows like any other; the ledger is elsewhere. Seeding 5
million orders takes several minutes and 3 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from erp_sync.sandbox.shop import DemoShop, catalogue, create_schema
from erp_sync.sandbox.shop_history import add_history
from erp_sync.settings import load_settings
from erp_sync.sync.connections import Connections, open_connections
from erp_sync.sync.finding import Finder
from erp_sync.sync.watch import OrdersWatch
from erp_sync_tests.bench.machine import cpu_seconds, machine
from erp_sync_tests.bench.stages import server_pid
from erp_sync_tests.mariadb import MariaDB

YEARS = timedelta(days=2 * 365)
REPEATS = 20
_BUSY = """
SELECT COALESCE(SUM(SUM_TIMER_WAIT), 0) / 1e9, COALESCE(SUM(COUNT_STAR), 0)
FROM performance_schema.events_statements_summary_by_user_by_event_name WHERE USER = 'shop'
"""


@dataclass(frozen=True)
class Ticked:
    orders: int
    rows_in_window: int
    empty_poll_ms: float
    """Of the server, for a poll that finds nothing new; the mean of many."""
    empty_poll_statements: float
    finding_10_ms: float
    """Of the server, for a poll that finds 10 orders, and for reading them with their lines."""
    polls_per_minute: float
    core_share: float
    """Of one core of the server, over the time of polling as the sensor does it."""
    explain: list[str]
    machine: str


class Server:
    """The shop's server, and what it says about the work of the sync."""

    def __init__(self, mariadb: MariaDB) -> None:
        self._mariadb = mariadb
        mariadb.execute("CREATE USER shop@'%' IDENTIFIED BY 'shop'", "GRANT ALL ON *.* TO shop@'%'")

    def busy(self) -> tuple[float, int]:
        """Milliseconds of statements so far, and their number."""
        engine = sa.create_engine(self._mariadb.url("performance_schema"))
        with engine.connect() as connection:
            milliseconds, count = connection.exec_driver_sql(_BUSY).one()
        engine.dispose()
        return float(milliseconds), int(count)

    def cpu_seconds(self) -> float:
        return cpu_seconds(server_pid(self._mariadb))


@contextmanager
def _shop_with(orders: int) -> Iterator[tuple[Server, DemoShop, Connections]]:
    options = ["--performance-schema=ON", "--innodb-buffer-pool-size=1G", "--innodb-log-file-size=512M"]
    with MariaDB(options=options) as mariadb, tempfile.TemporaryDirectory() as folder:
        url = mariadb.create_database()
        engine = sa.create_engine(url)
        create_schema(engine)
        shop = DemoShop(engine)
        shop.stock_catalogue(catalogue(200))
        shop.add_customers(1000)
        now = shop.now()
        # Refunded: a poll reads them, and none of them is the sync's business.
        add_history(engine, orders, since=now - YEARS, until=now, status="refunded")
        with engine.connect() as connection:
            connection.exec_driver_sql("ANALYZE TABLE orders, order_items")
        server = Server(mariadb)
        database = sa.make_url(url).database or ""
        settings = load_settings(
            shop_url=mariadb.url(database, user="shop", password="shop"),
            ledger_url=f"sqlite:///{folder}/ledger.sqlite",
            erp_url="http://127.0.0.1:9/rest",
            erp_user="nobody",
            erp_password="nothing",
            erp_tenant="01,0101",
            orders={"start_day": (datetime.now(UTC) - timedelta(days=7)).date()},
        )
        connections = open_connections(settings)
        connections.ledger.set_mark("finding.swept")
        yield server, shop, connections
        engine.dispose()


def tick(orders: int, *, polling_seconds: float) -> Ticked:
    with _shop_with(orders) as (server, shop, connections):
        finder = Finder(connections.shop, connections.ledger, connections.settings.require_start_day())
        rows = finder.recent().seen
        plans = _plans(connections, finder)
        before, statements = server.busy()
        for _ in range(10 * REPEATS):
            assert finder.recent().count == 0
        after, statements_after = server.busy()
        empty = (after - before) / (10 * REPEATS)
        finding = 0.0
        for _ in range(REPEATS):
            placed = shop.checkout_many(10)
            before, _ = server.busy()
            found = finder.recent().count
            fetched = len(connections.shop.fetch([str(order.order_id) for order in placed]))
            finding += (server.busy()[0] - before) / REPEATS
            assert (found, fetched) == (10, 10)
        share, polls = _poll(server, connections, polling_seconds)
    return Ticked(
        orders=orders,
        rows_in_window=rows,
        empty_poll_ms=round(empty, 3),
        empty_poll_statements=round((statements_after - statements) / (10 * REPEATS), 2),
        finding_10_ms=round(finding, 3),
        polls_per_minute=round(polls, 1),
        core_share=round(share, 5),
        explain=plans,
        machine=machine(),
    )


def _plans(connections: Connections, finder: Finder) -> list[str]:
    """How the server runs a poll's statements, one line per table."""
    heard: list[tuple[str, Any]] = []
    engine = connections.shop.engine

    def hear(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        heard.append((statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", hear)
    finder.recent()
    sa.event.remove(engine, "before_cursor_execute", hear)
    lines = []
    with engine.connect() as connection:
        for statement, parameters in heard:
            for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).mappings():
                lines.append(f"{row['table']}: {row['type']}, key {row['key']}, {row['rows']} rows")
    return lines


def _poll(server: Server, connections: Connections, seconds: float) -> tuple[float, float]:
    """Share of a core of the server, and polls per minute, while the sensor's own loop waits for orders."""
    watch = OrdersWatch(connections)
    # What is due belongs to a run that is at work, as far as the watch can tell.
    with connections.ledger.heartbeat("bench", "orders", connections.ledger.actionable_days(), every=10):
        watch.wait(0.0)
        _, before = server.busy()
        cpu, began = server.cpu_seconds(), time.monotonic()
        watch.wait(seconds)
        passed = time.monotonic() - began
        used = server.cpu_seconds() - cpu
    return used / passed, (server.busy()[1] - before) * 60 / passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, nargs="+", default=[10_000, 5_000_000])
    parser.add_argument("--polling-seconds", type=float, default=60)
    given = parser.parse_args()
    for orders in given.orders:
        print(json.dumps(asdict(tick(orders, polling_seconds=given.polling_seconds))), flush=True)


if __name__ == "__main__":
    main()
