"""How fast a queue of due orders reaches the ERP, against what the ERP's latency and parallel calls allow.

    python -m erp_sync_tests.bench.drain [--orders 2000] [--latency-ms 50] [--parallel 8] [--unknown 500]

Shop and ledger are on a real MariaDB with durable commits, the ERP on loopback answers every call after the latency.
Ideal: one create per order, and per customer that the ERP does not know, over all parallel calls all the time. What the
protocol asks besides (look-up, read-back) is not in the ideal.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass

from erp_sync.models import LedgerState
from erp_sync.settings import load_settings
from erp_sync.sync.connections import open_connections
from erp_sync_tests.bench.machine import cpu_seconds, machine
from erp_sync_tests.bench.stages import fill_shop, server_pid, stage_on_mariadb

CUSTOMERS_PER_ORDER = 0.5


@dataclass(frozen=True)
class Drained:
    orders: int
    unknown_customers: int
    seconds: float
    orders_per_second: float
    ideal: float
    ratio: float
    """Of the ideal."""
    ratio_with_own_requests: float
    """Of the ideal for everything that was asked: look-ups and read-backs share the parallel calls."""
    requests: dict[str, int]
    requests_per_order: float
    cpu_ms_per_order: dict[str, float]
    """Of each process: what is left of the machine is what the figure may be short of."""
    machine: str


def drain(orders: int, *, unknown: int, latency_ms: float, parallel: int) -> Drained:
    """Raises AssertionError where an order is not in the ERP at the end."""
    erp = {"max_parallel": parallel, "max_parallel_writes": parallel}
    with stage_on_mariadb(latency_ms=latency_ms, erp=erp) as (on, mariadb):
        customers = max(unknown, int(orders * CUSTOMERS_PER_ORDER))
        fill_shop(on, orders, customers=customers, known=customers - unknown)
        connections = open_connections(load_settings())
        flow = connections.orders_flow()
        assert flow.finder.sweep().count == orders
        # A call before the clock starts: connections, token and the server's pages are warm in a living process too.
        connections.erp.probe()
        before = on.erp.admin("GET", "/state")["requests"]
        pids = {"sync": os.getpid(), "erp": on.erp.pid, "mariadb": server_pid(mariadb)}
        cpu = {name: cpu_seconds(pid) for name, pid in pids.items()}
        began = time.perf_counter()
        result = flow.run()
        seconds = time.perf_counter() - began
        cpu = {name: round((cpu_seconds(pid) - cpu[name]) / orders * 1000, 2) for name, pid in pids.items()}
        state = on.erp.admin("GET", "/state")
        assert result.failure is None, result.failure
        assert connections.ledger.counts() == {LedgerState.SENT: orders}
        assert state["orders"] == orders
        connections.gate.close()
        requests = {name: count - before.get(name, 0) for name, count in state["requests"].items()}
    ideal = orders / ((orders + unknown) * latency_ms / 1000 / parallel)
    return Drained(
        orders=orders,
        unknown_customers=unknown,
        seconds=round(seconds, 2),
        orders_per_second=round(orders / seconds, 1),
        ideal=round(ideal, 1),
        ratio=round(orders / seconds / ideal, 3),
        ratio_with_own_requests=round(sum(requests.values()) * latency_ms / 1000 / parallel / seconds, 3),
        requests=requests,
        requests_per_order=round(sum(requests.values()) / orders, 3),
        cpu_ms_per_order=cpu,
        machine=machine(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=2000)
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--unknown", type=int, default=500, help="customers unknown to the ERP, in the second run")
    given = parser.parse_args()
    for unknown in (0, given.unknown):
        drained = drain(given.orders, unknown=unknown, latency_ms=given.latency_ms, parallel=given.parallel)
        print(json.dumps(asdict(drained)), flush=True)


if __name__ == "__main__":
    main()
