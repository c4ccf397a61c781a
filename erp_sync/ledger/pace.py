"""The ceiling of calls per minute: every call of every process gets a moment of its own, evenly spaced."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import Connection, select, update

from erp_sync.errors import ErpUnavailable
from erp_sync.ledger.clock import since_boot
from erp_sync.ledger.database import Database
from erp_sync.ledger.tables import pace


class Pace:
    """Never more than `per_minute` calls begin in any minute. Only flows of rank 0 may queue up for the next moments:
    the others get what is left."""

    def __init__(
        self,
        database: Database,
        now: Callable[[], datetime],
        *,
        per_minute: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._database = database
        self._now = now
        self._interval = timedelta(seconds=60 / per_minute)
        self._per_minute = per_minute
        self._sleep = sleep

    def wait(self, rank: int, patience: float) -> None:
        """Returns when the call may begin. Raises ErpUnavailable if that is not within `patience` seconds."""
        give_up = since_boot() + patience
        while True:
            wait, reserved = self._reserve(rank, patience)
            if reserved:
                self._sleep(wait)
                return
            if wait > patience or since_boot() + wait >= give_up:
                raise ErpUnavailable(
                    f"erp.max_per_minute = {self._per_minute} is used up for {wait:.0f} s", retry_after=wait
                )
            self._sleep(min(wait, 1.0))

    def _reserve(self, rank: int, patience: float) -> tuple[float, bool]:
        now = self._now()

        def work(connection: Connection) -> tuple[float, bool]:
            next_at: datetime = connection.execute(select(pace.c.next_at).with_for_update()).scalar_one()
            if next_at > now + timedelta(hours=1):
                next_at = now  # nobody waits that long: the clock jumped back
            at = max(next_at, now)
            wait = (at - now).total_seconds()
            if wait > patience or (rank and at - now > self._interval):
                return wait, False
            connection.execute(update(pace).values(next_at=at + self._interval))
            return wait, True

        return self._database.write(work)
