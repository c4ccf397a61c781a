"""What all checks of the ledger cost on a large one: seconds, queries, and memory, each check and all of them.

    python -m erp_sync_tests.bench.checks [--orders 1000000] [--mariadb] [--outage 20000]

A generated ledger of sent orders with their lives, most of them final; with `--outage` so many newer ones wait, as many
are refused, and 1 % of the sent ones have an incident or a status that a person must look at.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.ledger.tables import entries, statuses
from erp_sync.models import Cancellation, LedgerState, OrderStatus, Problem
from erp_sync.settings import Settings
from erp_sync.sync.findings import LEDGER_CHECKS
from erp_sync.sync.health import LedgerHealth
from erp_sync.sync.problems import ERP_ORDERS, SHOP_STATUS
from erp_sync_tests.bench.machine import machine
from erp_sync_tests.mariadb import MariaDB

TOGETHER = 5000


@dataclass(frozen=True)
class Cost:
    database: str
    orders: int
    in_trouble: int
    seconds: float
    """Of all checks, the median of three rounds."""
    slowest: str
    slowest_seconds: float
    queries: int
    grown_mb: float
    """By which the process's largest memory grew while they ran."""
    machine: str


def fill(url: str, orders: int, outage: int) -> None:
    """A year of orders."""
    now = datetime.now(UTC)
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        for start in range(0, orders, TOGETHER):
            numbers = range(start, min(start + TOGETHER, orders))
            ages = {number: timedelta(days=365) * (1 - number / orders) for number in numbers}
            connection.execute(sa.insert(entries), [_sent(number, now - ages[number], outage) for number in numbers])
            connection.execute(sa.insert(statuses), [_life(number, now - ages[number], outage) for number in numbers])
            connection.commit()
        for start in range(0, outage, TOGETHER):
            numbers = range(start, min(start + TOGETHER, outage))
            late = now - timedelta(hours=2)
            connection.execute(sa.insert(entries), [_waiting(f"w{number}", late) for number in numbers])
            connection.execute(sa.insert(entries), [_refused(f"r{number}", late) for number in numbers])
            connection.commit()
        if engine.dialect.name == "mysql":
            connection.exec_driver_sql("ANALYZE TABLE erp_sync_orders, erp_sync_statuses")
    engine.dispose()


def cost(url: str, orders: int, outage: int) -> Cost:
    """Fills an empty database, and asks all checks three times."""
    migrate(url)
    fill(url, orders, outage)
    ledger = open_ledger(url)
    try:
        return _measured(ledger, orders, outage)
    finally:
        ledger.close()


def _measured(ledger: Ledger, orders: int, outage: int) -> Cost:
    queries = 0

    def count(*_given: Any) -> None:
        nonlocal queries
        queries += 1

    health = LedgerHealth(ledger, Settings(), follows_stock=True)
    health.find("stock_fresh")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sa.event.listen(ledger.database.reader, "before_cursor_execute", count)
    rounds = []
    for _ in range(3):
        took = {}
        for name in LEDGER_CHECKS:
            started = time.perf_counter()
            health.find(name)
            took[name] = time.perf_counter() - started
        rounds.append(took)
    middle = sorted(rounds, key=lambda took: sum(took.values()))[1]
    slowest = max(middle, key=lambda name: middle[name])
    return Cost(
        database=ledger.database.name.partition(":")[0],
        orders=orders,
        in_trouble=2 * outage + (orders // 50 if outage else 0),
        seconds=round(sum(middle.values()), 3),
        slowest=slowest,
        slowest_seconds=round(middle[slowest], 3),
        queries=queries // 3,
        grown_mb=round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1),
        machine=machine(),
    )


def _entry(order_id: str, at: datetime, **values: Any) -> dict[str, Any]:
    return {
        "order_id": order_id,
        "number": f"LJ-{order_id}",
        "external_id": f"LJ-{order_id}",
        "day": at.date(),
        "version": 4,
        "found_at": at,
        "next_at": None,
        "payload_hash": "0" * 64,
        "attempts": 1,
        "intent_at": at,
        "customer_key": "000001/01",
        "erp_branch": "",
        "erp_number": "",
        "sent_at": None,
        "problems": (),
        **values,
    }


def _sent(number: int, at: datetime, outage: int) -> dict[str, Any]:
    problems = (Problem(ERP_ORDERS, "A, B", "the ERP has it twice: keep one"),) if outage and number % 100 == 0 else ()
    sent = {"state": LedgerState.SENT, "sent_at": at, "erp_branch": "01", "erp_number": f"{number:06d}"}
    return _entry(str(number), at, problems=problems, **sent)


def _waiting(order_id: str, at: datetime) -> dict[str, Any]:
    return _entry(order_id, at, state=LedgerState.DUE, next_at=at, intent_at=None)


def _refused(order_id: str, at: datetime) -> dict[str, Any]:
    return _entry(order_id, at, state=LedgerState.REFUSED, problems=(Problem("payment", "x", "map it"),))


def _life(number: int, at: datetime, outage: int) -> dict[str, Any]:
    """The last two weeks' orders are still watched."""
    watched = datetime.now(UTC) - at < timedelta(days=14)
    trouble = outage and number % 100 == 50
    return {
        "order_id": str(number),
        "version": 5,
        "status": OrderStatus.RELEASED if watched else OrderStatus.INVOICED,
        "fingerprint": "0" * 32,
        "changed_at": at,
        "next_at": datetime.now(UTC) if watched or trouble else None,
        "tracking_code": "",
        "invoices": (),
        "told_status": None,
        "told_hash": "",
        "told_values": (),
        "cancellation": Cancellation.NONE,
        "cancel_attempts": 0,
        "problems": (Problem(SHOP_STATUS, "x", "somebody set it"),) if trouble else (),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--mariadb", action="store_true", help="instead of SQLite")
    parser.add_argument("--outage", type=int, default=0, metavar="N", help="so many orders wait, and are refused")
    options = parser.parse_args()
    with ExitStack() as stack:
        if options.mariadb:
            url = stack.enter_context(MariaDB()).create_database()
        else:
            url = f"sqlite:///{Path(stack.enter_context(tempfile.TemporaryDirectory())) / 'ledger.sqlite'}"
        print(json.dumps(asdict(cost(url, options.orders, options.outage)), indent=2))


if __name__ == "__main__":
    main()
