"""How many requests, seconds and megabytes the reconciliation of one business day takes.

    python -m erp_sync_tests.bench.reconcile [--orders 1000 10000] [--latency-ms 50]

Shop and ledger are on a real MariaDB with durable commits, the ERP on loopback answers every call after the latency.
Every order is in the ERP; a hundredth of them is changed there, so that there is something to find.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from erp_sync.demo import Stage
from erp_sync.models import LedgerState
from erp_sync.sandbox.shop_schema import orders as shop_orders
from erp_sync.settings import load_settings
from erp_sync.sync.connections import open_connections
from erp_sync_tests.bench.machine import machine
from erp_sync_tests.bench.memory import high_water_mb
from erp_sync_tests.bench.stages import fill_shop, shop_engine, stage_on_mariadb


@dataclass(frozen=True)
class Reconciled:
    orders: int
    findings: int
    seconds: float
    cpu_seconds: float
    """Of this process."""
    requests: int
    orders_per_request: float
    grew_mb: float
    """The process's high-water mark, by the reconciliation."""
    machine: str


def reconcile(count: int, *, latency_ms: float) -> Reconciled:
    """Raises AssertionError where it does not find exactly what was changed."""
    with stage_on_mariadb(latency_ms=0, erp={"max_parallel": 4, "max_parallel_writes": 4}) as (on, _):
        fill_shop(on, count, customers=count // 2, known=count // 2)
        engine = shop_engine(on)
        with engine.begin() as connection:
            connection.execute(sa.update(shop_orders).values(placed_at=on.shop.now()))  # one day, at midnight too
        engine.dispose()
        connections = open_connections(load_settings())
        flow = connections.orders_flow()
        while connections.ledger.counts() != {LedgerState.SENT: count}:
            result = flow.run(sweep=None)
            assert result.failure is None, result.failure
        while (looked := connections.statuses_flow().run(budget=3600)).failure is not None:
            print(f"once more: {looked.failure}", file=sys.stderr)
        changed = on.erp.admin("GET", f"/orders?limit={count // 100}")
        for order in changed:
            change = {"items": {order["items"][0]["C6_ITEM"]: {"price": "0.01"}}}
            on.erp.admin("PATCH", f"/orders/{order['branch']}/{order['number']}", change)
        on.erp.switch(latency_ms=latency_ms)
        before, memory = _requests(on), high_water_mb()
        began, busy = time.perf_counter(), time.process_time()
        reconciling = connections.reconcile_flow()
        reconciled = reconciling.run([reconciling.today()])
        seconds, cpu = time.perf_counter() - began, time.process_time() - busy
        requests, grew = _requests(on) - before, high_water_mb() - memory
        connections.close()
    assert reconciled.failure is None, reconciled.failure
    (day,) = reconciled.days
    assert day.shop_orders == day.erp_orders == count
    assert {str(finding.verdict) for finding in day.findings} <= {"total.erp"}
    assert len(day.findings) == len(changed)
    return Reconciled(
        orders=count,
        findings=len(day.findings),
        seconds=round(seconds, 2),
        cpu_seconds=round(cpu, 2),
        requests=requests,
        orders_per_request=round(count / requests, 1),
        grew_mb=round(grew, 1),
        machine=machine(),
    )


def _requests(on: Stage) -> int:
    return sum(on.erp.admin("GET", "/state")["requests"].values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--latency-ms", type=float, default=50)
    given = parser.parse_args()
    for orders in given.orders:
        print(json.dumps(asdict(reconcile(orders, latency_ms=given.latency_ms))), flush=True)


if __name__ == "__main__":
    main()
