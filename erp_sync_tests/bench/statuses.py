"""What became of orders: how many requests and seconds a poll takes, how fast the shop is told, and how long it takes
from a change in the ERP to the row in the shop.

    python -m erp_sync_tests.bench.statuses [--orders 10000] [--latency-ms 50] [--lag-seconds 240]

Shop and ledger are on a real MariaDB with durable commits, the ERP on loopback answers every call after the latency.
The lag is measured through Dagster's real daemon and its schedule, once a minute; 0 leaves it out.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from erp_sync.demo import Stage
from erp_sync.models import LedgerState
from erp_sync.sandbox.shop_schema import orders as shop_orders
from erp_sync.settings import load_settings
from erp_sync.sync.connections import Connections, open_connections
from erp_sync.sync.results import StatusesResult
from erp_sync_tests.bench.machine import machine, percentile
from erp_sync_tests.bench.memory import high_water_mb
from erp_sync_tests.bench.stages import fill_shop, shop_engine, stage_on_mariadb
from erp_sync_tests.live import LiveDagster

PARALLEL = {"max_parallel": 4, "max_parallel_writes": 4}


@dataclass(frozen=True)
class Polled:
    orders: int
    first_poll_seconds: float
    """Every order looked at deeply."""
    first_poll_requests: int
    poll_seconds: float
    """Nothing has changed."""
    poll_requests: int
    orders_per_request: float
    seconds_per_1000: float
    grew_mb: float
    """The process's high-water mark, by the unchanged poll."""
    changed_poll_seconds: float
    """Every order was released since."""
    changed_poll_requests: int
    told_seconds: float
    told_per_second: float
    machine: str


@dataclass(frozen=True)
class Lagged:
    changes: int
    interval_seconds: float
    p50_seconds: float
    p95_seconds: float
    longest_seconds: float
    machine: str


def poll(count: int, *, latency_ms: float) -> Polled:
    """Raises AssertionError where an order is not told in the end."""
    with stage_on_mariadb(latency_ms=0, erp=PARALLEL) as (on, _):
        fill_shop(on, count, customers=count // 2, known=count // 2)
        connections = open_connections(load_settings())
        flow = connections.orders_flow()
        while connections.ledger.counts() != {LedgerState.SENT: count}:
            result = flow.run(sweep=None)
            assert result.failure is None, result.failure
        on.erp.switch(latency_ms=latency_ms)
        first, first_requests, _ = _ask(on, connections)
        before = high_water_mb()
        seconds, requests, asked = _ask(on, connections)
        assert (asked.asked, asked.changed) == (count, 0)
        grew = high_water_mb() - before
        _release_all(on)
        changed_seconds, changed_requests, asked = _ask(on, connections)
        assert asked.changed == count
        began = time.perf_counter()
        told = connections.statuses_flow().tell(budget=3600)
        told_seconds = time.perf_counter() - began
        assert (told.told, told.failure) == (count, None)
        connections.close()
    return Polled(
        orders=count,
        first_poll_seconds=round(first, 2),
        first_poll_requests=first_requests,
        poll_seconds=round(seconds, 2),
        poll_requests=requests,
        orders_per_request=round(count / requests, 1),
        seconds_per_1000=round(seconds * 1000 / count, 3),
        grew_mb=round(grew, 1),
        changed_poll_seconds=round(changed_seconds, 2),
        changed_poll_requests=changed_requests,
        told_seconds=round(told_seconds, 2),
        told_per_second=round(count / told_seconds, 1),
        machine=machine(),
    )


def _ask(on: Stage, connections: Connections) -> tuple[float, int, StatusesResult]:
    before = sum(on.erp.admin("GET", "/state")["requests"].values())
    began = time.perf_counter()
    result = connections.statuses_flow().ask(budget=3600)
    seconds = time.perf_counter() - began
    assert result.failure is None, result.failure
    return seconds, sum(on.erp.admin("GET", "/state")["requests"].values()) - before, result


def _release_all(on: Stage) -> None:
    after = 0
    while page := on.erp.admin("GET", f"/orders?after={after}&limit=500"):
        after = page[-1]["record"]
        for order in page:
            on.erp.admin("POST", f"/orders/{order['branch']}/{order['number']}/release", {})


def lag(seconds: float, *, latency_ms: float) -> Lagged:
    """Orders are released at random moments, for so many seconds. Raises TimeoutError where one is not told of."""
    statuses = {"every_minutes": 1}
    with (
        stage_on_mariadb(latency_ms=latency_ms, erp=PARALLEL, statuses=statuses) as (on, _),
        LiveDagster(on) as dagster,
    ):
        on.shop.add_customers(50)
        on.shop.checkout_many(60)
        dagster.start(web=False)
        engine = shop_engine(on)
        waiting = _in_erp(on, 60)
        dice = random.Random(1)
        released: dict[str, float] = {}
        shown: dict[str, float] = {}
        until = time.monotonic() + seconds
        give_up = until + 120
        while time.monotonic() < give_up and (time.monotonic() < until or len(shown) < len(released)):
            if waiting and time.monotonic() < until and dice.random() < 60 * 0.25 / seconds:
                order = waiting.pop()
                on.erp.admin("POST", f"/orders/{order['branch']}/{order['number']}/release", {})
                released[order["external_id"]] = time.monotonic()
            for number in _packing(engine):
                shown.setdefault(number, time.monotonic())
            time.sleep(0.25)
        engine.dispose()
    if len(shown) < len(released):
        raise TimeoutError(f"the shop was told of {len(shown)} of {len(released)} releases")
    waits = [shown[number] - at for number, at in released.items()]
    return Lagged(
        changes=len(waits),
        interval_seconds=60,
        p50_seconds=round(percentile(waits, 0.5), 1),
        p95_seconds=round(percentile(waits, 0.95), 1),
        longest_seconds=round(max(waits), 1),
        machine=machine(),
    )


def _in_erp(on: Stage, count: int) -> list[dict[str, str]]:
    give_up = time.monotonic() + 180
    while time.monotonic() < give_up:
        found: list[dict[str, str]] = on.erp.admin("GET", "/orders")
        if len(found) >= count:
            return found
        time.sleep(0.5)
    raise TimeoutError(f"{count - len(found)} orders are not in the ERP at {datetime.now(UTC):%H:%M:%S} UTC")


def _packing(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        query = sa.select(shop_orders.c.number).where(shop_orders.c.status == "packing")
        return list(connection.scalars(query))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=10_000)
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--lag-seconds", type=float, default=240)
    given = parser.parse_args()
    print(json.dumps(asdict(poll(given.orders, latency_ms=given.latency_ms))), flush=True)
    if given.lag_seconds:
        print(json.dumps(asdict(lag(given.lag_seconds, latency_ms=given.latency_ms))), flush=True)


if __name__ == "__main__":
    main()
