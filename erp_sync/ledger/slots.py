"""Parallel slots: how many calls of all processes may be under way at the ERP at once.

Slots 0 to `writes - 1` may be used for writes and reads, the others for reads only: so both limits hold with one lease
per slot. A process keeps a slot for a moment after its call: a permit in a busy process costs no transaction. A thread
renews what is held and gives back what is idle; the slots of a killed process come back with their lease.
"""

from __future__ import annotations

import logging
import secrets
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, select, update

from erp_sync.errors import ErpSyncError, ErpUnavailable
from erp_sync.ledger.clock import since_boot
from erp_sync.ledger.database import Database
from erp_sync.ledger.tables import slots, waiting

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=15)
RENEW_SECONDS = 5.0
KEEP_SECONDS = 1.5
"""How long an idle slot is kept; and how long a flow that is not the first in rank keeps one at all."""
TICK_SECONDS = 0.5
WAITING_SECONDS = 2.0


@dataclass(slots=True)
class _Held:
    busy: bool
    leased_at: float
    used_at: float
    valid_until: float


@dataclass(slots=True)
class _Waiter:
    rank: int
    numbers: Sequence[int]
    handed: int | None = None
    event: threading.Event = field(default_factory=threading.Event)


class Slots:
    """Thread-safe, one per process. `tick` is called every few seconds while slots are held."""

    def __init__(
        self,
        database: Database,
        now: Callable[[], datetime],
        *,
        parallel: int,
        writes: int,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._now = now
        self._parallel = parallel
        self._writes = writes
        self._tick = tick
        self._owner = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._held: dict[int, _Held] = {}
        self._waiters: list[_Waiter] = []
        self._keeper_runs = False
        self._at_exit = weakref.finalize(self, _give_all_back, database, self._owner, self._held)

    def take(self, rank: int, *, write: bool, patience: float) -> int:
        """A slot, the lowest rank and the longest waiting first. Raises ErpUnavailable after `patience` seconds."""
        numbers = range(self._writes) if write else range(self._parallel - 1, -1, -1)
        with self._lock:
            number = self._kept(numbers, rank)
            if number is not None:
                return number
            waiter = _Waiter(rank, numbers)
            self._waiters.append(waiter)
        give_up = since_boot() + patience
        pause = 0.02
        while True:
            number = self._ask(waiter)
            if number is not None or waiter.event.wait(pause) or since_boot() >= give_up:
                return self._settle(waiter, number, patience)
            pause = min(pause * 1.5, 0.25)

    def give(self, number: int, rank: int) -> None:
        """Back from a call of this rank: to who waits in this process, or kept for a moment."""
        with self._lock:
            held = self._held[number]
            now = held.used_at = since_boot()
            # A flow that is not the first in rank asks again now and then, and finds out who waits elsewhere.
            fresh = now - held.leased_at < KEEP_SECONDS
            waiter = min(
                (
                    waiter
                    for waiter in self._waiters
                    if waiter.handed is None and number in waiter.numbers and (fresh or not waiter.rank)
                ),
                key=lambda waiter: waiter.rank,
                default=None,
            )
            valid = now < held.valid_until
            if waiter is not None and valid:
                waiter.handed = number
                waiter.event.set()
                return
            held.busy = False
            if valid and (fresh or not rank):
                return
            del self._held[number]
        try:
            _give_back(self._database, self._owner, [number])
        except ErpSyncError as error:
            logger.info("slot %d comes back with its lease: %s", number, error)

    def close(self) -> None:
        """Give back whatever this process holds."""
        self._at_exit()

    def _settle(self, waiter: _Waiter, leased: int | None, patience: float) -> int:
        with self._lock:
            self._waiters.remove(waiter)
            handed = waiter.handed
        if leased is not None and handed is not None:
            self.give(handed, waiter.rank)
        number = leased if leased is not None else handed
        if number is None:
            raise ErpUnavailable(
                f"no free slot for {patience:.0f} s: erp.max_parallel = {self._parallel} "
                f"(writes: {self._writes}) calls are under way"
            )
        return number

    def _kept(self, numbers: Sequence[int], rank: int) -> int | None:
        now = since_boot()
        for number in numbers:
            held = self._held.get(number)
            fresh = held is not None and (not rank or now - held.leased_at < KEEP_SECONDS)
            if held is not None and not held.busy and fresh and now < held.valid_until:
                held.busy = True
                return number
        return None

    def _ask(self, waiter: _Waiter) -> int | None:
        """Lease one that no process holds. One thread at a time asks: the others would get the same answer."""
        with self._lock:
            if all(number in self._held for number in waiter.numbers):
                return None  # they are all ours: the ledger would tell nothing new
        if not self._asking.acquire(blocking=False):
            return None
        try:
            started = since_boot()
            number = self._lease(waiter)
            if number is not None:
                with self._lock:
                    valid = started + LEASE.total_seconds() - 1.0
                    self._held[number] = _Held(True, started, started, valid)
                    self._keep_up()
            return number
        finally:
            self._asking.release()

    def _lease(self, waiter: _Waiter) -> int | None:
        now = self._now()
        rows = self._database.rows(select(slots).where(slots.c.slot < self._parallel))
        free = {row.slot: row for row in rows if not now < row.until <= now + 2 * LEASE}
        with self._lock:
            numbers = [number for number in waiter.numbers if number in free and number not in self._held]
        if numbers and not (waiter.rank and self._somebody_waits(waiter.rank, now)):
            for number in numbers:
                if self._compare_and_set(number, free[number].owner, free[number].until, now + LEASE):
                    return number
        self._announce(waiter.rank, now)
        return None

    def _compare_and_set(self, number: int, owner: str, until: datetime, new_until: datetime) -> bool:
        same = and_(slots.c.slot == number, slots.c.owner == owner, slots.c.until == until)
        claim = update(slots).where(same).values(owner=self._owner, until=new_until)

        def landed(connection: Connection, claimed: bool) -> bool:
            query = select(slots.c.owner).where(slots.c.slot == number).with_for_update()
            return not claimed or connection.execute(query).scalar_one() == self._owner

        return self._database.write(lambda connection: connection.execute(claim).rowcount == 1, landed)

    def _somebody_waits(self, rank: int, now: datetime) -> bool:
        lately = and_(waiting.c.until > now, waiting.c.until <= now + timedelta(seconds=2 * WAITING_SECONDS))
        return bool(self._database.rows(select(waiting.c.rank).where(waiting.c.rank < rank, lately)))

    def _announce(self, rank: int, now: datetime) -> None:
        until = now + timedelta(seconds=WAITING_SECONDS)
        soon = and_(waiting.c.rank == rank, waiting.c.until <= until - timedelta(seconds=WAITING_SECONDS / 2))
        late = and_(waiting.c.rank == rank, waiting.c.until > until)
        if self._database.rows(select(waiting.c.rank).where(soon | late)):
            new = update(waiting).where(waiting.c.rank == rank).values(until=until)
            self._database.write(lambda connection: connection.execute(new))

    def _keep_up(self) -> None:
        if not self._keeper_runs:
            self._keeper_runs = True
            threading.Thread(target=self._keep, name="erp-slots", daemon=True).start()

    def _keep(self) -> None:
        renewed = since_boot()
        over = threading.Event()
        while True:
            over.wait(TICK_SECONDS)
            now = since_boot()
            with self._lock:
                idle = [
                    number
                    for number, held in self._held.items()
                    if not held.busy and now - max(held.used_at, held.leased_at) > KEEP_SECONDS
                ]
                for number in idle:
                    del self._held[number]
                busy = list(self._held)
                if not busy:
                    self._keeper_runs = False
            try:
                _give_back(self._database, self._owner, idle)
                if busy and now - renewed >= RENEW_SECONDS:
                    renewed = now
                    self._renew(busy, now)
            except ErpSyncError as error:
                logger.warning("slots of the ERP are not renewed: %s", error)
            if not busy:
                return

    def _renew(self, numbers: Sequence[int], started: float) -> None:
        self._tick()
        until = self._now() + LEASE
        mine = and_(slots.c.owner == self._owner, slots.c.slot.in_(numbers))
        longer = update(slots).where(mine).values(until=until)
        self._database.write(lambda connection: connection.execute(longer))
        still = {row.slot for row in self._database.rows(select(slots.c.slot).where(mine))}
        with self._lock:
            for number in still & self._held.keys():
                self._held[number].valid_until = started + LEASE.total_seconds() - 1.0


def _give_back(database: Database, owner: str, numbers: Sequence[int]) -> None:
    if numbers:
        mine = and_(slots.c.owner == owner, slots.c.slot.in_(numbers))
        # As long ago as a free slot says, whatever the clock does.
        free = update(slots).where(mine).values(owner="", until=datetime.fromisoformat("2000-01-01T00:00:00+00:00"))
        database.write(lambda connection: connection.execute(free))


def _give_all_back(database: Database, owner: str, held: dict[int, _Held]) -> None:
    try:
        _give_back(database, owner, list(held))
    except ErpSyncError as error:
        logger.info("slots of the ERP come back with their lease: %s", error)
    held.clear()
