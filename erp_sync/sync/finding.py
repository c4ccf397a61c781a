"""Finding orders: what the shop finalized and the ledger has not settled.

`changed_at` is only a hint (ties, late commits, raw SQL fixes that do not touch it), so three nets of different width
go over the same shop; only the ledger decides what is new (DESIGN.md, "Finding orders"):

    recent   the last minutes, at every look
    day      the last day, every few minutes, by one process of all
    sweep    every order, in chunks of its key: once at the start, nightly and on demand; goes on where it was cut off
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from erp_sync.ledger.entry import Change, Entry, Event
from erp_sync.mapping import payload_hash
from erp_sync.models import LedgerState, Order, OrderHead, Problem, ShopState
from erp_sync.sync.recent import recent_pages

if TYPE_CHECKING:
    from erp_sync.ledger.ledger import Ledger
    from erp_sync.shop.database import Shop

logger = logging.getLogger(__name__)

RECENT = timedelta(minutes=5)
DAY = timedelta(days=1)
DAY_EVERY = timedelta(minutes=5)
PAGE = 500
CHUNK = 2000
KNOWN = 5_000
"""Heads that a process remembers, so that an empty look does not ask the ledger: more than minutes bring."""
EARLY_DAYS = timedelta(days=60)
"""Orders placed this long before `start_day` still have a partition, when they are finalized after it."""
CLOCK_SLACK = timedelta(minutes=10)
"""How far ahead of the database's clock a shop may date an order."""


@dataclass
class Found:
    """What the looks of one pass saw."""

    new: int = 0
    invalid: int = 0
    again: int = 0
    """Refused, invalid or cancelled orders that the shop changed since."""
    seen: int = 0
    query_seconds: float = 0.0
    """How long the last look at the shop took."""
    days: Counter[date] = field(default_factory=Counter)
    """New and reopened orders, by business day."""

    @property
    def count(self) -> int:
        return self.new + self.again


class Finder:
    """Looks into the shop and writes what it finds into the ledger. One per process and flow; not thread-safe."""

    def __init__(self, shop: Shop, ledger: Ledger, start_day: date) -> None:
        self._shop = shop
        self._ledger = ledger
        self._start_day = start_day
        self._known: dict[str, OrderHead] = {}
        self._offset = timedelta(0)
        self._offset_until = 0.0

    def recent(self) -> Found:
        """The net of every look: one query of the shop, and the ledger only if something is new."""
        found = Found()
        started = time.perf_counter()
        self._window(RECENT, found)
        found.query_seconds = time.perf_counter() - started
        return found

    def day(self) -> Found:
        """The net of every few minutes: nothing, if any process did it a moment ago."""
        found = Found()
        if self._ledger.claim_mark("finding.day", DAY_EVERY):
            self._known.clear()
            self._window(DAY, found)
        return found

    def swept_at(self) -> datetime | None:
        """When the last complete sweep ended. None: there was none yet."""
        mark = self._ledger.mark("finding.swept")
        return mark[0] if mark else None

    def sweep(self, stop: Callable[[], bool] = lambda: False, progress: Callable[[int], None] | None = None) -> Found:
        """Every order of the shop, from where the last sweep was cut off.

        `stop` is asked between two chunks; `progress` is told how many orders were looked at.
        """
        found = Found()
        mark = self._ledger.mark("finding.sweep")
        after = mark[1] if mark and mark[1] else None
        while not stop():
            heads = self._shop.sweep(after, CHUNK)
            self._take(heads, found, sweeping=True)
            if progress is not None:
                progress(found.seen)
            if len(heads) < CHUNK:
                self._ledger.set_mark("finding.sweep")
                self._ledger.set_mark("finding.swept")
                break
            after = heads[-1].order_id
            self._ledger.set_mark("finding.sweep", after)
        return found

    def look_at(self, heads: Sequence[OrderHead]) -> Found:
        """Exactly these orders, for a person who named them."""
        found = Found()
        self._take(heads, found, sweeping=False)
        return found

    def newborn(self, heads: Sequence[OrderHead]) -> list[tuple[Entry, Event]]:
        """What `look_at` would add of these orders if the ledger knows none of them. Safe from several threads."""
        return self._newborn(heads, sweeping=False)

    def reopen(self, entries: Sequence[Entry], heads: Sequence[OrderHead]) -> bool:
        """What `look_at` would do for these entries of settled orders. Returns whether one is due again. Safe from
        several threads."""
        found = Found()
        self._reopen([entry for entry in entries if _may_change(entry)], heads, found)
        return found.again > 0

    def problems(self, order: Order) -> tuple[Problem, ...]:
        """What keeps the order out of every partition or without an id, whoever asks for it."""
        return self._first_sight(order.number, order.ordered_at, order.business_day, self._shop_now() + CLOCK_SLACK)

    def _window(self, width: timedelta, found: Found) -> None:
        since = self._shop_now() - width
        for heads in recent_pages(self._shop, since, PAGE):
            self._take(heads, found, sweeping=False)

    def _shop_now(self) -> datetime:
        """The shop's clock, asked once a minute: the windows overlap by far more than it drifts."""
        if time.monotonic() >= self._offset_until:
            self._offset = self._shop.now() - datetime.now(UTC)
            self._offset_until = time.monotonic() + 60
        return datetime.now(UTC) + self._offset

    def _take(self, heads: Sequence[OrderHead], found: Found, *, sweeping: bool) -> None:
        found.seen += len(heads)
        fresh = [head for head in heads if self._known.get(head.order_id) != head]
        if not fresh:
            return
        entries = self._ledger.entries([head.order_id for head in fresh])
        self._add([head for head in fresh if head.order_id not in entries], found, sweeping)
        self._reopen([entry for entry in entries.values() if _may_change(entry)], fresh, found)
        if not sweeping:
            if len(self._known) > KNOWN:
                self._known.clear()
            self._known.update((head.order_id, head) for head in fresh)

    def _add(self, heads: Sequence[OrderHead], found: Found, sweeping: bool) -> None:
        rows = self._newborn(heads, sweeping)
        self._ledger.add(rows)
        for entry, _ in rows:
            if entry.day is None:
                found.invalid += 1
            else:
                found.new += 1
                found.days[entry.day] += 1

    def _newborn(self, heads: Sequence[OrderHead], sweeping: bool) -> list[tuple[Entry, Event]]:
        now = self._ledger.now()
        return [_entry(head, now, problems) for head, problems in self._wanted(heads, sweeping)]

    def _wanted(self, heads: Sequence[OrderHead], sweeping: bool) -> Iterator[tuple[OrderHead, tuple[Problem, ...]]]:
        """Those that belong into the ledger, with what makes them invalid at first sight.

        What was ready before the day of going live is left alone. Placed before it and finalized after it: known from
        the first sweep, when it was still waiting. Ready already at that sweep, but changed since `start_day`: only a
        person knows when it was finalized.
        """
        early = [head for head in heads if self._is_early(head)]
        remembered = self._ledger.early([head.order_id for head in early]) if early else set()
        learning = bool(early) and self._learning()
        waiting = [head.order_id for head in early if learning and head.state == ShopState.WAITING]
        if waiting:
            self._ledger.remember_early(waiting)
        latest = self._shop_now() + CLOCK_SLACK
        for head in heads:
            if head.state in _NOT_FINALIZED:
                continue
            if not self._is_early(head) or head.order_id in remembered:
                yield head, self._first_sight(head.number, head.ordered_at, head.business_day, latest)
            elif sweeping and learning and self._may_be_ours(head):
                advice = (
                    f"was placed before orders.start_day ({self._start_day}) and changed after it: "
                    f"if the ERP does not have it, send it with erp-sync retry {head.number}"
                )
                yield head, (Problem(_FINALIZED, str(head.business_day), advice),)

    def _is_early(self, head: OrderHead) -> bool:
        return head.business_day is not None and head.business_day < self._start_day

    def _learning(self) -> bool:
        """Until the first sweep on or after `start_day` is complete, orders that still wait are remembered."""
        swept = self.swept_at()
        return swept is None or swept.astimezone(self._shop.business_timezone).date() < self._start_day

    def _may_be_ours(self, head: OrderHead) -> bool:
        start = datetime.combine(self._start_day, datetime.min.time(), self._shop.business_timezone)
        has_partition = head.business_day is not None and head.business_day >= self._start_day - EARLY_DAYS
        return has_partition and head.changed_at is not None and head.changed_at >= start

    def _first_sight(
        self, number: str, ordered_at: datetime | None, day: date | None, latest: datetime
    ) -> tuple[Problem, ...]:
        if not number:
            return (Problem("number", "", "give the order a number in the shop"),)
        if ordered_at is None or day is None:
            return (Problem("ordered_at", "", "is empty or no date: give the order its date in the shop"),)
        if ordered_at > latest:
            return (Problem("ordered_at", ordered_at.isoformat(), "is in the future: correct it in the shop"),)
        if day < self._start_day - EARLY_DAYS:
            advice = f"is more than {EARLY_DAYS.days} days before orders.start_day ({self._start_day}): retype this one"
            return (Problem("ordered_at", day.isoformat(), advice),)
        return ()

    def _reopen(self, entries: Sequence[Entry], heads: Sequence[OrderHead], found: Found) -> None:
        """Refused, invalid and cancelled orders are due again once the shop's row is another one."""
        ready = {head.order_id for head in heads if head.state == ShopState.READY}
        wanted = {entry.order_id: entry for entry in entries if entry.order_id in ready}
        orders = self._shop.fetch(list(wanted)) if wanted else ()
        now = self._ledger.now()
        changes = [
            due_again(wanted[order.order_id], order, now, "the shop changed it")
            for order in orders
            if isinstance(order, Order) and self._changed(wanted[order.order_id], order)
        ]
        made = self._ledger.change(changes) if changes else []
        days = [change.new.day for change, ok in zip(changes, made, strict=True) if ok]
        found.again += sum(made)
        found.days.update(day for day in days if day is not None)

    def _changed(self, entry: Entry, order: Order) -> bool:
        if entry.state is LedgerState.CANCELLED:
            return True
        if entry.payload_hash:
            return payload_hash(order) != entry.payload_hash
        if any(problem.field == _FINALIZED for problem in entry.problems):
            return False
        return not self.problems(order) and (
            entry.external_id is not None or not self._ledger.number_taken(order.number)
        )


_NOT_FINALIZED = frozenset({ShopState.WAITING, ShopState.CANCELLED, ShopState.CLOSED})
_FINALIZED = "finalized"


def due_again(entry: Entry, order: Order, now: datetime, why: str) -> Change:
    """A settled entry that is tried once more, with what the shop says now; its business day stays."""
    new = replace(
        entry,
        version=entry.version + 1,
        number=order.number,
        external_id=order.number,
        day=entry.day if entry.day is not None else order.business_day,
        state=LedgerState.DUE,
        next_at=now,
        intent_at=None,
        problems=(),
    )
    return Change(entry, new, Event("due", why))


def _may_change(entry: Entry) -> bool:
    settled = entry.state in (LedgerState.REFUSED, LedgerState.INVALID, LedgerState.CANCELLED)
    return settled and not entry.erp_number


def _entry(head: OrderHead, now: datetime, problems: tuple[Problem, ...]) -> tuple[Entry, Event]:
    entry = Entry(
        order_id=head.order_id,
        number=head.number,
        external_id=head.number or None,
        day=None if problems else head.business_day,
        state=LedgerState.INVALID if problems else LedgerState.DUE,
        version=1,
        found_at=now,
        next_at=None if problems else now,
        problems=problems,
    )
    if problems:
        return entry, Event("invalid", "; ".join(map(str, problems)))
    return entry, Event("found", f"finalized in the shop, business day {head.business_day}")
