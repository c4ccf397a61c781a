"""What was sent outside of any run, told to Dagster: observations of the day, so that lineage and figures show it.

An observation, and not a materialization: that would turn a day green whose run had failed. A process that is killed
takes along what it had not told yet, a minute as a rule: these orders are in the ledger, as all are, and in no
observation.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import date

import dagster as dg

from erp_sync.defs.names import ERP_ORDERS
from erp_sync.sync.results import DayResult, OrdersResult

logger = logging.getLogger(__name__)

RETRY_SECONDS = 60.0


class Observations:
    """Told from a thread of its own, so that a slow storage keeps nobody waiting. What it does not take is added to
    what comes next: one row for each day is all that waits here, however long it is away."""

    def __init__(
        self, instance: Callable[[], dg.DagsterInstance] = dg.DagsterInstance.get, *, retry: float = RETRY_SECONDS
    ) -> None:
        self._open = instance
        self._instance: dg.DagsterInstance | None = None
        self._retry = retry
        self._turn = threading.Lock()
        self._waiting = OrdersResult()
        self._told = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="observations", daemon=True)
        self._thread.start()

    def note(self, done: OrdersResult) -> None:
        """Returns at once, and never raises."""
        with self._turn:
            self._waiting.add(done)
        self._told.set()

    def close(self, seconds: float = 5.0) -> None:
        """Tells what is left. What Dagster does not take within `seconds` is left out: the ledger has it."""
        self._closing.set()
        self._told.set()
        self._thread.join(seconds)

    def _work(self) -> None:
        closing = False
        while not closing:
            self._told.wait()
            # Before the last time of telling, not after it: it may have begun without the last note.
            closing = self._closing.is_set()
            self._told.clear()
            if not self._tell():
                self._closing.wait(self._retry)
                self._told.set()
        self._leave()

    def _tell(self) -> bool:
        with self._turn:
            waiting, self._waiting = self._waiting, OrdersResult()
        seconds = sorted(minutes * 60 for minutes in waiting.minutes_to_erp)
        try:
            for day in sorted(waiting.days):
                # One is kept: each costs a tenth of a second, and memory that it does not give back.
                self._instance = self._instance or self._open()
                self._instance.report_runless_asset_event(_observation(day, waiting.days[day], seconds))
                del waiting.days[day]
        except Exception as error:
            # Of whatever kind: a storage has many ways to be away.
            logger.warning("Dagster was not told of %d days: %s", len(waiting.days), type(error).__name__)
            with self._turn:
                self._waiting.add(waiting)
            self._leave()
            return False
        return True

    def _leave(self) -> None:
        left, self._instance = self._instance, None
        if left is not None:
            with suppress(Exception):
                left.dispose()


def _observation(day: date, done: DayResult, seconds: list[float]) -> dg.AssetObservation:
    """The names are those of a run's own figures; the seconds are those of all days together."""
    metadata: dict[str, int | float] = {
        "orders_sent": done.sent,
        "orders_adopted": done.adopted,
        "orders_refused": done.refused,
        "orders_invalid": done.invalid,
    }
    if seconds:
        metadata["seconds_to_erp_p50"] = round(seconds[len(seconds) // 2], 3)
        metadata["seconds_to_erp_longest"] = round(seconds[-1], 3)
    return dg.AssetObservation(ERP_ORDERS, partition=day.isoformat(), metadata=metadata)
