"""From the commit in the shop to the order in the ERP, through Dagster's real daemon.

    python -m erp_sync_tests.bench.latency [--every 1 30] [--seconds 120 240] [--latency-ms 50]

Shop and ledger are on a real MariaDB, Dagster's storage on SQLite. Orders are committed at fixed times, whatever became
of those before; the end is when the ERP's own journal says that it was committed there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from erp_sync.demo import Stage
from erp_sync.sandbox.shop import PlacedOrder
from erp_sync_tests.bench.machine import machine, percentile
from erp_sync_tests.bench.stages import stage_on_mariadb
from erp_sync_tests.live import LiveDagster

PATIENCE = 120


@dataclass(frozen=True)
class Waited:
    orders: int
    every_seconds: float
    p50_seconds: float
    p95_seconds: float
    longest_seconds: float
    runs: int
    runs_per_1000_orders: float
    storage_grew_bytes: int
    """Everything under DAGSTER_HOME."""
    storage_grew_mb_per_day: float
    """Were it always like this."""
    machine: str


def wait_for_orders(every: float, seconds: float, *, latency_ms: float, linger: float = 60) -> Waited:
    """One order `every` so many seconds, for `seconds`. Raises TimeoutError where one does not come."""
    erp = {"max_parallel": 8, "max_parallel_writes": 8}
    with (
        stage_on_mariadb(latency_ms=latency_ms, erp=erp, orders={"linger_seconds": linger}) as (on, _),
        LiveDagster(on) as dagster,
    ):
        dagster.start(web=False)
        on.shop.add_customers(100)
        committed_at(on, [on.shop.checkout()])  # the first sweep, with everything that starts for the first time
        with dagster.instance() as instance:
            runs, size = instance.get_runs_count(), _bytes_in(dagster.home)
            began = time.monotonic()
            placed: list[tuple[float, PlacedOrder]] = []
            for number in range(max(1, int(seconds / every))):
                time.sleep(max(0.0, began + number * every - time.monotonic()))
                order = on.shop.checkout()
                placed.append((time.time(), order))
            arrived = committed_at(on, [order for _, order in placed])
            passed = time.monotonic() - began
            runs = instance.get_runs_count() - runs
            grew = _bytes_in(dagster.home) - size
    waits = [arrived[order.number] - at for at, order in placed]
    return Waited(
        orders=len(placed),
        every_seconds=every,
        p50_seconds=round(percentile(waits, 0.5), 2),
        p95_seconds=round(percentile(waits, 0.95), 2),
        longest_seconds=round(max(waits), 2),
        runs=runs,
        runs_per_1000_orders=round(runs * 1000 / len(placed), 1),
        storage_grew_bytes=grew,
        storage_grew_mb_per_day=round(grew / passed * 86_400 / 1e6, 1),
        machine=machine(),
    )


def committed_at(on: Stage, orders: list[PlacedOrder]) -> Mapping[str, float]:
    """When each of these orders was committed in the ERP, as seconds since 1970, once they all were."""
    wanted = {order.number for order in orders}
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        lines = [line for line in on.erp.journal() if line["external_id"] in wanted]
        if len(lines) >= len(wanted):
            return {line["external_id"]: datetime.fromisoformat(line["at"]).timestamp() for line in lines}
        time.sleep(0.5)
    raise TimeoutError(f"{len(wanted) - len(lines)} orders are not in the ERP after {PATIENCE} s")


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=float, nargs="+", default=[1, 30], help="seconds between two orders")
    parser.add_argument("--seconds", type=float, nargs="+", default=[120, 240], help="for how long, each")
    parser.add_argument("--latency-ms", type=float, default=50)
    given = parser.parse_args()
    for every, seconds in zip(given.every, given.seconds, strict=True):
        print(json.dumps(asdict(wait_for_orders(every, seconds, latency_ms=given.latency_ms))), flush=True)


if __name__ == "__main__":
    main()
