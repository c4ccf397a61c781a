"""A worker that kills itself: runs the orders flow and sends itself SIGKILL at the step it is told.

    python -m erp_sync_tests.crash STEP [--clock-ahead SECONDS]

Steps are counted over everything that touches the world: before and after each commit of the ledger, before each call
of the ERP leaves, while it is on its way, and after its answer came back but before it is stored. STEP 0 kills nothing
and prints how many steps there were. `--clock-ahead` lets the ledger's clock run ahead, so that leases and settle
times of a killed worker are over.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from erp_sync.ledger.ledger import open_ledger
from erp_sync.settings import load_settings
from erp_sync.sync.connections import Connections, open_connections
from erp_sync.sync.orders import OrdersFlow

LEDGER_WRITES = {"add", "change", "change_customer", "claim_mark", "set_mark", "remember_early"}
ERP_READS = {"find_orders", "find_customers", "customer"}
ERP_WRITES = {"create_order", "create_customer"}


class Steps:
    """Counts, and kills this process at the one it was told."""

    def __init__(self, kill_at: int) -> None:
        self.reached = 0
        self._kill_at = kill_at
        self._lock = threading.Lock()

    def here(self) -> None:
        if self._count():
            os.kill(os.getpid(), signal.SIGKILL)

    def soon(self, seconds: float) -> None:
        """A step between this line and the next ones: the process dies while a call is under way."""
        if self._count():
            threading.Thread(target=self._die_after, args=(seconds,), daemon=True).start()

    def _count(self) -> bool:
        with self._lock:
            self.reached += 1
            return self.reached == self._kill_at

    @staticmethod
    def _die_after(seconds: float) -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)


class Mortal:
    """Passes every call on, with steps around those that touch the world."""

    def __init__(self, inner: Any, steps: Steps) -> None:
        self._inner = inner
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name in LEDGER_WRITES | ERP_READS:
            return lambda *args, **kwargs: self._around(value, *args, **kwargs)
        if name in ERP_WRITES:
            return lambda *args: self._write(value, *args)
        return value

    def _around(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._steps.here()
        answer = call(*args, **kwargs)
        self._steps.here()
        return answer

    def _write(self, call: Callable[..., Any], *args: Any) -> Any:
        *what, intent = args

        def stepping_intent() -> float:
            send_by: float = intent()
            self._steps.here()  # before the first byte leaves
            self._steps.soon(0.005)  # on its way, or just arrived
            self._steps.soon(0.06)  # the ERP is at work on it, or has just committed it
            return send_by

        answer = call(*what, stepping_intent)
        self._steps.here()  # the answer came, and is not stored
        return answer


def run(kill_at: int, clock_ahead: float) -> int:
    settings = load_settings()
    connections: Connections = open_connections(settings)
    if clock_ahead:
        ahead = timedelta(seconds=clock_ahead)
        ledger = open_ledger(settings.require_ledger_url(), clock=lambda: datetime.now(UTC) + ahead)
        connections = replace(connections, ledger=ledger)
    steps = Steps(kill_at)
    ledger_and_erp: Any = (Mortal(connections.ledger, steps), Mortal(connections.erp, steps))
    flow = OrdersFlow(connections.shop, *ledger_and_erp, settings)
    result = flow.run(sweep=True)
    print(steps.reached, flush=True)
    if result.failure is not None:
        print(result.failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("step", type=int)
    parser.add_argument("--clock-ahead", type=float, default=0.0)
    arguments = parser.parse_args()
    sys.exit(run(arguments.step, arguments.clock_ahead))
