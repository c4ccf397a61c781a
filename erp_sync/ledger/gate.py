"""How much of the ERP we may use, shared by all processes through the ledger: breaker, slots, calls per minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from erp_sync.errors import ErpSyncError
from erp_sync.ledger.breaker import Breaker
from erp_sync.ledger.ledger import Ledger
from erp_sync.ledger.pace import Pace
from erp_sync.ledger.slots import Slots
from erp_sync.settings import ErpSection

logger = logging.getLogger(__name__)

FLOWS = ("orders", "cancellations", "statuses", "stock", "backfill")
"""By rank: while a flow waits, those after it get no new slot."""


class LedgerGate:
    """One per process; thread-safe. `patience`: how many seconds a call may wait for its permit."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        parallel: int,
        writes: int,
        per_minute: int = 0,
        patience: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        database = ledger.database
        self._patience = patience
        self._breaker = Breaker(database, ledger.now)
        self._slots = Slots(database, ledger.now, parallel=parallel, writes=writes, tick=self._breaker.renew_probe)
        self._pace = Pace(database, ledger.now, per_minute=per_minute, sleep=sleep) if per_minute else None

    @classmethod
    def from_settings(cls, ledger: Ledger, section: ErpSection) -> LedgerGate:
        return cls(
            ledger,
            parallel=section.max_parallel,
            writes=section.max_parallel_writes,
            per_minute=section.max_per_minute,
            patience=section.write_timeout,
        )

    @contextmanager
    def call(self, flow: str, *, write: bool) -> Iterator[None]:
        """The permit for one call, held as long as the block runs. Inside it, in the same thread, `succeeded` or
        `failed` may say what became of the call.

        Raises BreakerOpen while the ERP is left alone, unless this is a read and the one probe; ErpUnavailable when
        no permit came in time; LedgerUnavailable. Nothing is raised after the block.
        """
        rank = FLOWS.index(flow)
        self._breaker.enter(write=write)
        try:
            slot = self._slots.take(rank, write=write, patience=self._patience)
            try:
                if self._pace is not None:
                    self._pace.wait(rank, self._patience)
                yield
            finally:
                self._slots.give(slot, rank)
        finally:
            self._told(self._breaker.leave)

    def succeeded(self) -> None:
        """The ERP answered, whatever it said."""
        self._told(self._breaker.succeeded)

    def failed(self) -> None:
        """The ERP as a system failed."""
        self._told(self._breaker.failed)

    def breaker_open(self) -> datetime | None:
        """When the next probe may be made. None: the breaker is closed."""
        return self._breaker.open_until()

    def probe_is_due(self) -> bool:
        """Whether a read would be let through as the one probe."""
        return self._breaker.probe_is_due()

    def close(self) -> None:
        """Give the slots back; otherwise they are at the end of the process."""
        self._slots.close()

    @staticmethod
    def _told(tell: Callable[[], None]) -> None:
        # The answer of the ERP in hand is worth more than the breaker's count.
        try:
            tell()
        except ErpSyncError as error:
            logger.warning("the breaker was not told: %s", error)
