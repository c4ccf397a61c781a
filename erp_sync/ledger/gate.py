"""How much of the ERP we may use, shared by all processes through the ledger: a breaker, slots, calls per minute.

A permit must cost next to nothing, so a process keeps a slot for a moment after a call and uses it again; a thread
renews the slots in use and gives idle ones back. A process that dies gives its slots back by their lease.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from erp_sync.errors import BreakerOpen, ErpSyncError, ErpUnavailable
from erp_sync.ledger.ledger import Ledger
from erp_sync.ledger.tables import breaker, minutes, slots
from erp_sync.settings import ErpSection

logger = logging.getLogger(__name__)

FAILURES = 5
"""In a row, before the ERP is left alone."""
FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(seconds=60)
SLOT_LEASE = timedelta(seconds=20)
RENEW_SECONDS = 5.0
KEEP_SECONDS = 1.0
BREAKER_AGE = 0.5
"""Seconds for which a closed breaker is believed without asking again."""
ORDERS = "orders"


@dataclass
class _Slot:
    number: int
    used_at: float
    busy: bool


class LedgerGate:
    """One per process; safe to share between threads."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        parallel: int,
        writes: int,
        per_minute: int,
        patience: float,
        call_seconds: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ledger = ledger
        self._database = ledger.database
        self._parallel = parallel
        self._writes = writes
        self._per_minute = per_minute
        self._patience = patience
        self._probe_lease = timedelta(seconds=call_seconds)
        self._sleep = sleep
        self._holder = secrets.token_hex(8)
        self._condition = threading.Condition()
        self._slots: dict[int, _Slot] = {}
        self._renewing = False
        self._closed_until = 0.0
        self._failures = 0

    @classmethod
    def from_settings(cls, ledger: Ledger, section: ErpSection) -> LedgerGate:
        return cls(
            ledger,
            parallel=section.max_parallel,
            writes=section.max_parallel_writes,
            per_minute=section.max_per_minute,
            patience=section.write_timeout,
            call_seconds=section.write_timeout + section.connect_timeout,
        )

    @contextmanager
    def call(self, flow: str, *, write: bool) -> Iterator[None]:
        """Hold a permit for one call. Waits for a slot and for the minute's ceiling.

        Raises BreakerOpen while the ERP is left alone (unless this call is the one probe), ErpUnavailable when no slot
        came free in time, and LedgerUnavailable.
        """
        self._pass_breaker()
        slot = self._take(flow, write)
        try:
            if self._per_minute:
                self._count_minute()
            yield
        finally:
            with self._condition:
                slot.busy = False
                slot.used_at = time.monotonic()
                self._condition.notify()

    def succeeded(self) -> None:
        """The ERP answered, whatever it said."""
        if self._failures or time.monotonic() >= self._closed_until:
            values = {"failures": 0, "open_until": None, "probe_until": None}
            self._database.write(lambda connection: connection.execute(sa.update(breaker).values(values)))
            self._failures = 0
            self._closed_until = time.monotonic() + BREAKER_AGE

    def failed(self) -> None:
        """The ERP did not answer, or not as itself."""
        now = self._ledger.now()

        def work(connection: Connection) -> int:
            connection.execute(sa.update(breaker).values(failures=breaker.c.failures + 1))
            failures: int = connection.execute(sa.select(breaker.c.failures)).scalar_one()
            if failures >= FAILURES:
                pause = min(FIRST_PAUSE * 2 ** min(failures - FAILURES, 10), LONGEST_PAUSE)
                connection.execute(sa.update(breaker).values(open_until=now + pause, probe_until=None))
            return failures

        self._failures = self._database.write(work)
        if self._failures >= FAILURES:
            self._closed_until = 0.0
            logger.warning("the ERP failed %d times in a row: it is left alone for a while", self._failures)

    def breaker_open(self) -> datetime | None:
        """Since when a probe may be made, or from when on. None: the breaker is closed."""
        query = sa.select(breaker.c.open_until, breaker.c.failures)
        row = self._database.read(lambda connection: connection.execute(query).one())
        self._failures = row.failures
        open_until: datetime | None = row.open_until
        return open_until

    def probe_is_due(self) -> bool:
        """Whether the breaker is open and its pause is over."""
        open_until = self.breaker_open()
        return open_until is not None and open_until <= self._ledger.now()

    def close(self) -> None:
        """Give back what this process holds."""
        with self._condition:
            self._give_back(list(self._slots))

    # Breaker ------------------------------------------------------------------------------------------------------

    def _pass_breaker(self) -> None:
        if time.monotonic() < self._closed_until:
            return
        open_until = self.breaker_open()
        if open_until is None:
            self._closed_until = time.monotonic() + BREAKER_AGE
            return
        now = self._ledger.now()
        if open_until - now > LONGEST_PAUSE:
            now = open_until  # the clock was set back
        if open_until > now or not self._claim_probe(now):
            raise BreakerOpen(f"the ERP does not answer: it is left alone until {open_until:%H:%M:%S} UTC")

    def _claim_probe(self, now: datetime) -> bool:
        free = sa.or_(breaker.c.probe_until.is_(None), breaker.c.probe_until <= now)
        statement = (
            sa.update(breaker).where(breaker.c.open_until <= now, free).values(probe_until=now + self._probe_lease)
        )
        return self._database.write(lambda connection: connection.execute(statement).rowcount == 1)

    # Slots --------------------------------------------------------------------------------------------------------

    def _take(self, flow: str, write: bool) -> _Slot:
        """Writes share the first slots; reads take the others first. Only orders may take the very first one."""
        first = 0 if flow == ORDERS or self._parallel == 1 else 1
        numbers = (
            list(range(first, self._writes))
            if write
            else [
                *range(max(self._writes, first), self._parallel),
                *range(first, min(self._writes, self._parallel)),
            ]
        )
        give_up = time.monotonic() + self._patience
        while True:
            with self._condition:
                slot = self._kept(numbers)
                if slot is not None:
                    return slot
                lacking = [number for number in numbers if number not in self._slots]
            for number in self._free(lacking):
                if self._lease(number, flow, write):
                    with self._condition:
                        slot = self._slots[number] = _Slot(number, time.monotonic(), busy=True)
                        self._keep_renewing()
                    return slot
            if time.monotonic() >= give_up:
                raise ErpUnavailable(f"no free slot for {self._patience:.0f} s: erp.max_parallel calls are under way")
            with self._condition:
                self._condition.wait(0.05)

    def _kept(self, numbers: list[int]) -> _Slot | None:
        for number in numbers:
            slot = self._slots.get(number)
            if slot is not None and not slot.busy:
                slot.busy = True
                return slot
        return None

    def _free(self, numbers: list[int]) -> list[int]:
        if not numbers:
            return []
        now = self._ledger.now()
        taken = sa.select(slots.c.slot).where(slots.c.until > now, slots.c.until < now + 2 * SLOT_LEASE)
        held = set(self._database.read(lambda connection: connection.execute(taken).scalars().all()))
        return [number for number in numbers if number not in held]

    def _lease(self, number: int, flow: str, write: bool) -> bool:
        now = self._ledger.now()
        values = {"holder": self._holder, "flow": flow, "writes": write, "until": now + SLOT_LEASE}
        lapsed = sa.or_(slots.c.until <= now, slots.c.until >= now + 2 * SLOT_LEASE)

        def work(connection: Connection) -> bool:
            where = sa.and_(slots.c.slot == number, lapsed)
            if connection.execute(sa.update(slots).where(where).values(values)).rowcount:
                return True
            try:
                with connection.begin_nested():
                    connection.execute(sa.insert(slots), {"slot": number, **values})
            except IntegrityError:
                return False
            return True

        return self._database.write(work)

    def _keep_renewing(self) -> None:
        if not self._renewing:
            self._renewing = True
            threading.Thread(target=self._renew, name="erp-slots", daemon=True).start()

    def _renew(self) -> None:
        renewed = time.monotonic()
        while True:
            time.sleep(KEEP_SECONDS / 2)
            with self._condition:
                now = time.monotonic()
                idle = [
                    slot.number for slot in self._slots.values() if not slot.busy and now - slot.used_at > KEEP_SECONDS
                ]
                try:
                    if idle:
                        self._give_back(idle)
                    if not self._slots:
                        self._renewing = False
                        return
                    if now - renewed >= RENEW_SECONDS:
                        renewed = now
                        self._extend(list(self._slots))
                except ErpSyncError as error:
                    logger.info("slots are not renewed: %s", error)

    def _give_back(self, numbers: list[int]) -> None:
        for number in numbers:
            del self._slots[number]
        mine = sa.and_(slots.c.holder == self._holder, slots.c.slot.in_(numbers))
        self._database.write(lambda connection: connection.execute(sa.delete(slots).where(mine)))

    def _extend(self, numbers: list[int]) -> None:
        mine = sa.and_(slots.c.holder == self._holder, slots.c.slot.in_(numbers))
        until = self._ledger.now() + SLOT_LEASE
        self._database.write(lambda connection: connection.execute(sa.update(slots).where(mine).values(until=until)))

    # Calls per minute -----------------------------------------------------------------------------------------------

    def _count_minute(self) -> None:
        give_up = time.monotonic() + max(self._patience, 120.0)
        while True:
            now = self._ledger.now()
            minute = now.replace(second=0, microsecond=0)
            if self._one_more(minute):
                return
            if time.monotonic() >= give_up:
                raise ErpUnavailable("the ceiling of erp.max_per_minute is used up by other flows")
            self._sleep(min(60.0 - (now - minute).total_seconds() + 0.05, 5.0))

    def _one_more(self, minute: datetime) -> bool:
        below = sa.and_(minutes.c.minute == minute, minutes.c.calls < self._per_minute)

        def work(connection: Connection) -> bool:
            if connection.execute(sa.update(minutes).where(below).values(calls=minutes.c.calls + 1)).rowcount:
                return True
            try:
                with connection.begin_nested():
                    connection.execute(sa.insert(minutes), {"minute": minute, "calls": 1})
                connection.execute(sa.delete(minutes).where(minutes.c.minute < minute - timedelta(hours=1)))
            except IntegrityError:
                return False
            return True

        return self._database.write(work)
