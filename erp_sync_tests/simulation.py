"""A deterministic simulation of the protocol: the production steps, with clock, ledger and ERP replaced.

Workers are greenlets that run `Sender` as the flow does. Every call to the ledger, the clock or the ERP is a point at
which the scheduler may let another worker run, pause this one for minutes, or kill it, before the call's effect or
after it. The ERP commits late, loses answers, answers 500 after a commit, says 201 and writes nothing. One seed is
one schedule; the same seed is the same schedule.

Some passes claim before the look-up, as a run does, some after it, as those for webhooks do.

    python -m erp_sync_tests.simulation --schedules 100000 [--without SAFEGUARD]
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import repeat

from greenlet import GreenletExit, getcurrent, greenlet

from erp_sync.errors import ErpUnavailable, InDoubt, LedgerUnavailable, Refused
from erp_sync.ledger.entry import Change, Entry
from erp_sync.models import CreatedOrder, CustomerCode, ErpCustomer, ErpOrder, FoundOrder, LedgerState
from erp_sync.sync.sending import SEND_WINDOW, Expected, Sender

EPOCH = datetime(2026, 11, 23, tzinfo=UTC)
LEASE = timedelta(seconds=210)
DOUBT = timedelta(seconds=360)
SLOWEST_COMMIT = 355.0
"""Seconds after its last byte at which the ERP may still commit a request: less than DOUBT."""
FAULTS_END = 1500.0
GIVE_UP = 8_000.0
SAFEGUARDS = ("intent", "look_up", "settle", "fence", "deadline", "version", "age")
OLDEST_LOOK_UP = (LEASE + SEND_WINDOW).total_seconds()
"""No byte of a create leaves on the word of an older one."""
CODE = CustomerCode("000001", "01")


class Scheduler:
    """Runs one greenlet at a time, on a virtual clock."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.kills = 0
        self.on_kill: Callable[[greenlet], None] = lambda _: None
        self._hub = getcurrent()
        self._queue: list[tuple[float, int, Callable[..., object]]] = []
        self._sequence = 0

    @property
    def faulty(self) -> bool:
        return self.now < FAULTS_END

    def utc(self) -> datetime:
        return EPOCH + timedelta(seconds=self.now)

    def at(self, when: float, action: Callable[..., object]) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (when, self._sequence, action))

    def spawn(self, work: Callable[[], None]) -> None:
        """Start a worker, and start it anew some time after each kill."""

        def run() -> None:
            try:
                work()
            except GreenletExit:
                self.at(self.now + self.random.uniform(0, 60), start)

        def start() -> None:
            greenlet(run, self._hub).switch()

        self.at(self.random.uniform(0, 5), start)

    def sleep(self, seconds: float) -> None:
        self.at(self.now + seconds, getcurrent().switch)
        self._hub.switch()

    def step(self) -> None:
        """A point at which anything may happen to the running worker."""
        dice = self.random.random()
        if self.faulty:
            if dice < 0.015:
                self.kills += 1
                self.on_kill(getcurrent())
                raise GreenletExit
            if dice < 0.04:
                self.sleep(self.random.uniform(1, 700))
                return
        self.sleep(0.01 + dice)

    def run(self, settled: Callable[[], bool]) -> None:
        while self._queue and self.now < GIVE_UP and not (self.now > FAULTS_END and settled()):
            self.now, _, action = heapq.heappop(self._queue)
            action()


class SimulatedLedger:
    """The compare-and-set of the ledger, over a dictionary."""

    def __init__(self, scheduler: Scheduler, entries: Iterable[Entry], without: str) -> None:
        self.entries = {entry.order_id: entry for entry in entries}
        self._scheduler = scheduler
        self._without = without
        self._holds: dict[str, tuple[str, datetime]] = {}
        self._uncommitted: dict[str, tuple[greenlet, Entry]] = {}
        scheduler.on_kill = self._lose_uncommitted

    def now(self) -> datetime:
        return self._scheduler.utc()

    def change(self, changes: Sequence[Change]) -> list[bool]:
        self._scheduler.step()
        lost = self._scheduler.faulty and self._scheduler.random.random() < 0.01
        if lost and self._scheduler.random.random() < 0.5:
            raise LedgerUnavailable("the request was lost")
        made = [self._apply(change) for change in changes]
        if lost:
            raise LedgerUnavailable("the answer was lost")
        self._scheduler.step()
        return made

    def _apply(self, change: Change) -> bool:
        current = self.entries[change.old.order_id]
        if current.version != change.old.version and self._without != "fence":
            return False
        holder = self._holds.get(change.hold)
        if change.hold and change.new.next_at is not None:
            if holder is not None and holder[0] != current.order_id and holder[1] > self.now():
                return False
            self._holds[change.hold] = (current.order_id, change.new.next_at)
        if change.release and self._holds.get(change.release, ("",))[0] == current.order_id:
            del self._holds[change.release]
        if self._without == "intent":
            if change.event.kind == "intent":
                self._uncommitted[current.order_id] = (getcurrent(), current)
            else:
                self._uncommitted.pop(current.order_id, None)
        self.entries[current.order_id] = change.new
        return True

    def _lose_uncommitted(self, worker: greenlet) -> None:
        for order_id, (writer, before) in list(self._uncommitted.items()):
            if writer is worker:
                self.entries[order_id] = replace(before, version=self.entries[order_id].version + 1)
                del self._uncommitted[order_id]


@dataclass
class Row:
    number: str
    external_id: str
    total: Decimal


class SimulatedErp:
    """Commits what it is asked to create, when and as truthfully as its faults allow."""

    def __init__(self, scheduler: Scheduler, without: str) -> None:
        self.rows: list[Row] = []
        self.stale: list[str] = []
        self._scheduler = scheduler
        self._without = without
        self._asked: dict[tuple[greenlet, str], float] = {}

    def find_orders(self, external_ids: Sequence[str]) -> dict[str, list[FoundOrder]]:
        self._asked |= {(getcurrent(), external_id): self._scheduler.now for external_id in external_ids}
        self._scheduler.step()
        if self._scheduler.faulty and self._scheduler.random.random() < 0.02:
            raise ErpUnavailable("no answer to a read")
        found: dict[str, list[FoundOrder]] = {}
        for row in self.rows if self._without != "look_up" else ():
            if row.external_id in external_ids:
                order = FoundOrder(row.external_id, "0101", row.number, False, CODE, row.total, 1)
                found.setdefault(row.external_id, []).append(order)
        self._scheduler.step()
        return found

    def read_orders(self, numbers: Sequence[str]) -> dict[str, FoundOrder]:
        self._scheduler.step()
        orders = (FoundOrder(row.external_id, "0101", row.number, False, CODE, row.total, 1) for row in self.rows)
        return {order.number: order for order in orders if order.number in numbers}

    def create_order(self, order: ErpOrder, customer: CustomerCode, intent: Callable[[], float]) -> CreatedOrder:
        dice, faulty = self._scheduler.random.random(), self._scheduler.faulty
        if faulty and dice < 0.03:
            raise ErpUnavailable("no connection")
        send_by = intent()
        self._scheduler.step()
        if self._scheduler.now >= send_by and self._without != "deadline":
            raise ErpUnavailable("the deadline passed before a byte left")
        age = self._scheduler.now - self._asked[getcurrent(), order.external_id]
        if age > OLDEST_LOOK_UP:
            self.stale.append(f"{order.external_id} left on a look-up of {age:.0f} s ago")
        if faulty and 0.03 <= dice < 0.06:
            raise Refused("no such product", status=400, help_code="REGNOIS")
        if faulty and 0.06 <= dice < 0.09:
            raise Refused("HELP text under a 500, nothing written", status=500, certain=False)
        if faulty and 0.09 <= dice < 0.12:
            return CreatedOrder("0101", "000000", False, order.external_id, 1.0)  # and wrote nothing
        if faulty and 0.12 <= dice < 0.25:
            late = self._scheduler.random.uniform(0, SLOWEST_COMMIT)
            self._scheduler.at(self._scheduler.now + late, lambda: self._commit(order))
            self._scheduler.sleep(min(late, 180.0))
            raise InDoubt("no answer within the time limit")
        self._scheduler.sleep(0.05 + dice)
        row = self._commit(order)
        if faulty and 0.25 <= dice < 0.32:
            raise InDoubt("connection reset")
        if faulty and 0.32 <= dice < 0.36:
            raise Refused("HELP text under a 500, after the commit", status=500, certain=False)
        self._scheduler.step()
        return CreatedOrder("0101", row.number, False, order.external_id, 1.0)

    def _commit(self, order: ErpOrder) -> Row:
        row = Row(f"{len(self.rows) + 1:06}", order.external_id, order.total)
        self.rows.append(row)
        return row


def run_schedule(seed: int, without: str = "", orders: int = 2, workers: int = 2) -> list[str]:
    """What is wrong at the end of the schedule. []: nothing."""
    scheduler = Scheduler(seed)
    numbers = [f"W{index}" for index in range(orders)]
    ledger = SimulatedLedger(scheduler, map(_due, numbers), without)
    erp = SimulatedErp(scheduler, without)
    expected = {number: _expected(number) for number in numbers}
    doubt = timedelta(0) if without == "settle" else DOUBT
    sender = Sender(ledger, erp, branch="0101", lease=LEASE, doubt=doubt, monotonic=lambda: scheduler.now)

    def work() -> None:
        while True:
            with contextlib.suppress(ErpUnavailable, LedgerUnavailable):
                _pass(sender, ledger, expected, without, claims_late=scheduler.random.random() < 0.5)
            scheduler.sleep(scheduler.random.uniform(1, 10))

    for _ in range(workers):
        scheduler.spawn(work)
    scheduler.run(lambda: all(entry.next_at is None for entry in ledger.entries.values()))
    return erp.stale + [problem for entry in ledger.entries.values() for problem in _wrong(entry, erp.rows)]


def _pass(
    sender: Sender, ledger: SimulatedLedger, expected: dict[str, Expected], without: str, *, claims_late: bool
) -> None:
    """The flow's order of steps, one batch after the other."""
    now = ledger.now()
    batch = [entry for entry in ledger.entries.values() if entry.next_at is not None and entry.next_at <= now]
    unsent = [entry for entry in batch if entry.nothing_on_its_way]
    sent = [entry for entry in batch if entry.state is LedgerState.SENT]
    doubted = [entry for entry in batch if entry not in unsent and entry not in sent]
    if not claims_late:
        unsent = sender.claim(unsent, now) if unsent else []
    if unsent or doubted:
        asked_at, found = sender.look_up(unsent + doubted)
        if claims_late and unsent:
            if without == "version":
                unsent = [replace(entry, version=ledger.entries[entry.order_id].version) for entry in unsent]
            unsent = sender.claim(unsent, None if without == "age" else now)
        absent, _ = sender.judge(unsent + doubted, found, asked_at, expected)
        for entry in absent:
            change = sender.send(entry, expected[entry.order_id], CODE)
            if change is not None and change.new.state is LedgerState.SENT:
                sent.append(change.new)
    if sent:
        sender.read_back(sent, expected)


def _wrong(entry: Entry, rows: Sequence[Row]) -> Iterable[str]:
    live = [row.number for row in rows if row.external_id == entry.number]
    if len(live) > 1:
        yield f"{entry.number} is in the ERP {len(live)} times: {live}"
    if entry.state is LedgerState.SENT and live != [entry.erp_number]:
        yield f"{entry.number} is sent as {entry.erp_number}, the ERP has {live}"
    if entry.state is LedgerState.REFUSED and live:
        yield f"{entry.number} is refused, the ERP has {live}"
    if entry.state not in (LedgerState.SENT, LedgerState.REFUSED):
        yield f"{entry.number} ends {entry.state}"


def _due(number: str) -> Entry:
    return Entry(
        order_id=number,
        number=number,
        external_id=number,
        day=EPOCH.date(),
        state=LedgerState.DUE,
        version=1,
        found_at=EPOCH,
        next_at=EPOCH,
    )


def _expected(number: str) -> Expected:
    order = ErpOrder(number, {}, ({},), ErpCustomer("", None, {}), Decimal(len(number)))
    return Expected(order, f"payload of {number}", f"customer of {number}", frozenset({CODE}))


def _bad_seeds(seeds: range, without: str) -> list[tuple[int, list[str]]]:
    return [(seed, wrong) for seed in seeds if (wrong := run_schedule(seed, without))]


def run_schedules(count: int, without: str = "", first: int = 0, processes: int = 1) -> list[tuple[int, list[str]]]:
    """The seeds whose schedule ends badly, and how."""
    logger = logging.getLogger("erp_sync")
    level = logger.level
    logger.setLevel(logging.ERROR)  # inherited by the processes
    try:
        if processes == 1:
            return _bad_seeds(range(first, first + count), without)
        chunk = 500
        chunks = [range(start, min(start + chunk, first + count)) for start in range(first, first + count, chunk)]
        with ProcessPoolExecutor(processes) as pool:
            return [bad for found in pool.map(_bad_seeds, chunks, repeat(without)) for bad in found]
    finally:
        logger.setLevel(level)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the protocol through seeded schedules and count bad ends.")
    parser.add_argument("--schedules", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--without", choices=SAFEGUARDS, default="", help="remove a safeguard: must be caught")
    arguments = parser.parse_args()
    started = time.perf_counter()
    bad = run_schedules(arguments.schedules, arguments.without, arguments.first, os.cpu_count() or 1)
    took = time.perf_counter() - started
    print(f"{arguments.schedules} schedules in {took:.1f} s, {arguments.schedules / took:.0f}/s, {len(bad)} bad")
    for seed, wrong in bad[:5]:
        print(f"seed {seed}: {'; '.join(wrong)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
