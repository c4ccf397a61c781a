"""Peak memory of one process that drains 20,000 orders, against one that drains 2,000: it must be flat.

python -m erp_sync_tests.bench.memory [--orders 2000 20000]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from erp_sync.models import LedgerState
from erp_sync.settings import load_settings
from erp_sync.sync.connections import open_connections
from erp_sync_tests.bench.machine import machine
from erp_sync_tests.bench.stages import fill_shop, stage_on_mariadb

PASSES = 10
"""A pass claims nothing new after its budget of time: a slow machine needs several."""


@dataclass(frozen=True)
class Peak:
    orders: int
    before_mb: float
    """Everything imported and connected, nothing sent yet."""
    peak_mb: float
    machine: str


def peak(orders: int) -> Peak:
    """Of a process of its own. Raises EOFError if it fails."""
    with stage_on_mariadb(latency_ms=0, erp={"max_parallel": 8, "max_parallel_writes": 8}) as (on, _):
        fill_shop(on, orders, customers=1000, known=1000)
        fresh = multiprocessing.get_context("spawn")
        ours, theirs = fresh.Pipe(duplex=False)
        os.environ["MALLOC_ARENA_MAX"] = "2"  # as the image has it
        process = fresh.Process(target=_drain, args=(orders, theirs))
        process.start()
        theirs.close()
        before, after = ours.recv()
        process.join()
    return Peak(orders, before, after, machine())


def _drain(orders: int, tell: Connection) -> None:
    connections = open_connections(load_settings())
    flow = connections.orders_flow()
    connections.erp.probe()
    before = high_water_mb()
    for _ in range(PASSES):
        result = flow.run(sweep=None)
        assert result.failure is None, result.failure
        if connections.ledger.counts() == {LedgerState.SENT: orders}:
            tell.send((before, high_water_mb()))
            return


def high_water_mb() -> float:
    """The most that this process ever had in memory, in MB. Of its own pages: `getrusage` counts its parent's too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise LookupError("this system does not tell a process its high-water mark (VmHWM)")
    return round(int(found[1]) / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, nargs="+", default=[2_000, 20_000])
    for orders in parser.parse_args().orders:
        print(json.dumps(asdict(peak(orders))), flush=True)


if __name__ == "__main__":
    main()
