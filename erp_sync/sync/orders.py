"""The main job: finalized orders of the shop become sales orders of the ERP.

One pass finds, claims, looks up, sends and reads back, as a pipeline: while one batch is being sent, the next one is
examined and the last one read back. The safety of each step is in sending.py and customers.py; what is here is order
and speed. No Dagster.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from erp_sync.errors import BreakerOpen, ErpSyncError, ErpUnavailable, InvalidOrder, Misconfigured, Unavailable
from erp_sync.ledger.entry import Change, Entry, Event
from erp_sync.ledger.ledger import Ledger
from erp_sync.mapping import customer_key, map_order, payload_hash
from erp_sync.models import ErpOrder, LedgerState, Order, Problem, ShopState, UnreadableOrder
from erp_sync.settings import Settings
from erp_sync.shop.database import Shop
from erp_sync.sync.customers import CustomerErp, Customers, Match
from erp_sync.sync.finding import Finder, due_again
from erp_sync.sync.sending import Expected, OrderErp, Sender

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

BATCH = 60
"""External ids per look-up (contracts/protheus-rest.md, 3: real clients batch by 60 to 100)."""
BUDGET_SECONDS = 240.0
"""A flow claims nothing new after this long, well before Dagster ends its run."""
POLL_SHARE = 0.01
"""At most this share of the shop's time goes into looking for new orders."""
POLL_SECONDS = 0.1
RETRIED = frozenset({LedgerState.REFUSED, LedgerState.INVALID, LedgerState.CANCELLED})
UNREADABLE = "unreadable"
"""Stands for the payload of a row that could not be read, so that any readable one differs."""


class FlowErp(OrderErp, CustomerErp, Protocol):
    """What of the ERP this flow needs; `Protheus` has it."""


@dataclass
class DayResult:
    sent: int = 0
    adopted: int = 0
    refused: int = 0
    invalid: int = 0
    cancelled: int = 0


@dataclass
class OrdersResult:
    """What one pass did, and what stands at its end."""

    found: int = 0
    sent: int = 0
    adopted: int = 0
    refused: int = 0
    invalid: int = 0
    cancelled: int = 0
    incidents: int = 0
    due: int = 0
    in_doubt: int = 0
    """`sending` included."""
    erp_milliseconds: list[float] = field(default_factory=list)
    days: dict[date, DayResult] = field(default_factory=lambda: defaultdict(DayResult))
    failure: ErpSyncError | None = None
    """Why the system failed. None: it did its work, whatever became of single orders."""

    def count(self, changes: Iterable[Change]) -> None:
        for change in changes:
            kind, state = change.event.kind, change.new.state
            if kind == "incident":
                self.incidents += 1
            name = {"sent": "sent", "adopted": "adopted"}.get(kind)
            if name is None and kind != "verified" and state is not change.old.state:
                name = {
                    LedgerState.REFUSED: "refused",
                    LedgerState.INVALID: "invalid",
                    LedgerState.CANCELLED: "cancelled",
                }.get(state)
            if name is not None:
                setattr(self, name, getattr(self, name) + 1)
                if change.new.day is not None:
                    day = self.days[change.new.day]
                    setattr(day, name, getattr(day, name) + 1)
            if change.event.milliseconds is not None:
                self.erp_milliseconds.append(change.event.milliseconds)

    def p95_milliseconds(self) -> float:
        """Of the ERP's answers to creates. 0.0 if there were none."""
        ordered = sorted(self.erp_milliseconds)
        return ordered[int(len(ordered) * 0.95)] if ordered else 0.0


@dataclass(frozen=True, slots=True)
class _Ready:
    """A claimed order, absent from the ERP."""

    entry: Entry
    expected: Expected


@dataclass(frozen=True, slots=True)
class Window:
    """What a pass may touch: the entries of these days, or of these numbers; None: all."""

    days: Collection[date] | None = None
    numbers: Collection[str] | None = None


EVERYTHING = Window()


@dataclass(frozen=True, slots=True)
class _Pass:
    window: Window
    result: OrdersResult
    until: float
    """Monotonic: nothing new is claimed after it."""
    progress: Callable[[OrdersResult], None]


class OrdersFlow:
    """Ties shop, ledger and ERP together."""

    def __init__(
        self,
        shop: Shop,
        ledger: Ledger,
        erp: FlowErp,
        settings: Settings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        timing = {
            "lease": timedelta(seconds=settings.erp.lease_seconds),
            "doubt": timedelta(seconds=settings.erp.doubt_seconds),
        }
        self.finder = Finder(shop, ledger, settings.require_start_day())
        self._shop = shop
        self._ledger = ledger
        self._settings = settings
        self._longest_wait = timing["lease"] + timing["doubt"]
        self._sender = Sender(ledger, erp, branch=settings.erp_branch, monotonic=monotonic, **timing)
        self._customers = Customers(ledger, erp, monotonic=monotonic, **timing)
        self._monotonic = monotonic
        self._sleep = sleep

    def run(
        self,
        window: Window = EVERYTHING,
        *,
        sweep: bool | None = False,
        linger: float = 0.0,
        leave: Callable[[], bool] = lambda: False,
        progress: Callable[[OrdersResult], None] = lambda _: None,
    ) -> OrdersResult:
        """One pass over the window, and then, for `linger` seconds after each find, over what comes in.

        `sweep`: look at every order of the shop first; None: only if that was never done. `leave` is asked every two
        seconds while lingering. Never raises an ErpSyncError: a failure of the system is in the result.
        """
        result = OrdersResult()
        running = _Pass(window, result, self._monotonic() + BUDGET_SECONDS, progress)
        try:
            self._find(result, sweep)
            self._drain(running)
            if linger:
                self._linger(running, linger, leave)
        except (Unavailable, Misconfigured) as failure:
            result.failure = failure
        try:
            self._standing(running)
        except Unavailable as failure:
            result.failure = result.failure or failure
        return result

    def look_for(self, numbers: Sequence[str]) -> set[str]:
        """Find these orders in the shop, whenever they changed. Returns the numbers that the ledger knows now."""
        self.finder.look_at(self._shop.heads_by_number(numbers))
        return {number for number in numbers if self._ledger.by_number(number)}

    def retry(self, numbers: Sequence[str]) -> set[str]:
        """Make settled orders that are not in the ERP due again, and have those in doubt looked up at once.

        Returns the numbers that the ledger knows.
        """
        known = self.look_for(numbers)
        now = self._ledger.now()
        entries = {entry.order_id: entry for number in numbers for entry in self._ledger.by_number(number)}
        orders = {order.order_id: order for order in self._shop.fetch(list(entries))}
        changes = []
        for entry in entries.values():
            order = orders.get(entry.order_id)
            if entry.state is LedgerState.IN_DOUBT:
                soon = replace(entry, version=entry.version + 1, next_at=now)
                changes.append(Change(entry, soon, Event("retried", "looked up at once, for a person")))
            elif isinstance(order, Order) and entry.state in RETRIED:
                changes.append(due_again(entry, order, now, "retried by a person"))
        self._ledger.change(changes)
        return known

    def _find(self, result: OrdersResult, sweep: bool | None) -> None:
        self._ledger.heal_clock(self._longest_wait)
        if sweep or (sweep is None and self.finder.swept_at() is None):
            result.found += self.finder.sweep().count
        result.found += self.finder.recent().count + self.finder.day().count

    def _linger(self, running: _Pass, linger: float, leave: Callable[[], bool]) -> None:
        quiet_at = self._monotonic() + linger
        ask_at = self._monotonic() + 2
        while (now := self._monotonic()) < min(quiet_at, running.until):
            found = self.finder.recent()
            running.result.found += found.count
            if now >= ask_at:
                ask_at = now + 2
                if leave():
                    return
                running.result.found += self.finder.day().count
            if self._drain(running):
                quiet_at = self._monotonic() + linger
            self._sleep(max(POLL_SECONDS, found.query_seconds / POLL_SHARE))

    def _standing(self, running: _Pass) -> None:
        days = running.window.days
        for day in [None] if days is None else list(days):
            counts = self._ledger.counts(day)
            running.result.due += counts.get(LedgerState.DUE, 0)
            running.result.in_doubt += counts.get(LedgerState.IN_DOUBT, 0) + counts.get(LedgerState.SENDING, 0)

    def _drain(self, running: _Pass) -> bool:
        """Everything actionable in the window. Returns whether there was anything. Raises what the system failed of."""
        first = self._ledger.actionable(BATCH, days=running.window.days, numbers=running.window.numbers)
        if not first:
            return False
        _Drain(self, running).run(first)
        return True


class _Drain:
    """One drain: a pool that writes to the ERP, a pool that reads from it, and the thread that ties them together."""

    def __init__(self, flow: OrdersFlow, running: _Pass) -> None:
        settings = flow._settings
        self._flow = flow
        self._window = running.window
        self._result = running.result
        self._until = running.until
        self._progress = running.progress
        self._sender = flow._sender
        self._customers = flow._customers
        self._writes = settings.erp.max_parallel_writes
        # More threads than the ERP takes calls: while one waits for the ledger's disk, another one uses its slot.
        self._writers = ThreadPoolExecutor(self._writes + max(2, self._writes // 2), "erp-write")
        self._readers = ThreadPoolExecutor(3, "erp-read")
        self._then: dict[Future[Any], Callable[[Any], None]] = {}
        self._outstanding = 0
        self._unread: list[tuple[Entry, Expected]] = []
        self._unsent: list[Entry] = []
        self._failure: ErpSyncError | None = None
        self._seconds_per_order = 0.0

    def run(self, batch: list[Entry]) -> None:
        with self._writers, self._readers:
            try:
                self._loop(batch)
            finally:
                while self._then:
                    self._collect(timeout=5.0)
                if self._unsent:
                    self._sender.release(self._unsent, "the pass ended before it was sent")
        if self._failure is not None:
            raise self._failure

    def _loop(self, batch: list[Entry]) -> None:
        while True:
            if batch:
                self._examine(batch)
            elif not self._then and not self._unread:
                return
            # `_outstanding` alone would wait for ever for orders whose turn ended in a failure of the ledger.
            if self._unread and (len(self._unread) >= BATCH or (not batch and not (self._outstanding and self._then))):
                self._read_back()
            limit = self._batch_size()
            self._collect(timeout=0.0 if batch and self._outstanding < limit else 5.0)
            while self._outstanding >= limit and self._then:
                self._collect(timeout=5.0)
            batch = [] if self._stopping() else self._next(limit)

    def _next(self, limit: int) -> list[Entry]:
        ledger = self._flow._ledger
        return ledger.actionable(limit, days=self._window.days, numbers=self._window.numbers)

    def _batch_size(self) -> int:
        """So many that the last one's turn comes well within its lease, however slow the ERP is."""
        if not self._seconds_per_order:
            return min(BATCH, 4 * self._writes)
        return max(self._writes, min(BATCH, int(30.0 * self._writes / self._seconds_per_order)))

    def _stopping(self) -> bool:
        return self._failure is not None or self._flow._monotonic() >= self._until

    def _collect(self, timeout: float) -> None:
        if not self._then:
            return
        done, _ = wait(self._then, timeout=timeout, return_when=FIRST_COMPLETED)
        for future in done:
            then = self._then.pop(future)
            try:
                then(future.result())
            except ErpSyncError as failure:
                self._fail(failure)
        if done:
            self._progress(self._result)

    def _fail(self, failure: ErpSyncError) -> None:
        # The one that names a setting says more than the silence that follows it.
        if self._failure is None or (isinstance(failure, Misconfigured) and isinstance(self._failure, Unavailable)):
            self._failure = failure

    # Examining ------------------------------------------------------------------------------------------------------

    def _examine(self, batch: Sequence[Entry]) -> None:
        unsent = [entry for entry in batch if entry.nothing_on_its_way]
        claimed = self._sender.claim(unsent) if unsent else []
        others = [entry for entry in batch if not entry.nothing_on_its_way]
        try:
            self._look_up(claimed, others)
        except (Unavailable, Misconfigured) as failure:
            self._unsent += claimed
            self._fail(failure)

    def _look_up(self, claimed: Sequence[Entry], others: Sequence[Entry]) -> None:
        shop_orders = {
            order.order_id: order for order in self._flow._shop.fetch([entry.order_id for entry in (*claimed, *others)])
        }
        mapped: dict[str, ErpOrder] = {}
        asked: list[Entry] = []
        for entry in claimed:
            order = self._settled_by_shop(entry, shop_orders.get(entry.order_id))
            if order is not None:
                mapped[entry.order_id] = order
                asked.append(entry)
        for entry in others:
            again = shop_orders.get(entry.order_id)
            if isinstance(again, Order):
                # What cannot be mapped any more is compared by its total alone.
                with suppress(InvalidOrder):
                    mapped[entry.order_id] = self._map(again)
        unread = [entry for entry in others if entry.state is LedgerState.SENT]
        asked += [entry for entry in others if entry.state is not LedgerState.SENT]
        # Before the question, and one for each: a customer created in between must not count as absent since later.
        matched_at = asked_at = self._flow._ledger.now()
        matching = self._readers.submit(self._customers.match, [order.customer for order in mapped.values()])
        try:
            asked_at, found = self._sender.look_up(asked) if asked else (asked_at, {})
        finally:
            matches = matching.result()
        expected: dict[str, Expected] = {}
        for order_id, order in mapped.items():
            shop_order = shop_orders[order_id]
            assert isinstance(shop_order, Order)  # noqa: S101 - only readable orders were mapped
            key = customer_key(order.customer)
            codes = matches[key].codes if key in matches else frozenset()
            expected[order_id] = Expected(order, payload_hash(shop_order), key, codes)
        absent, changes = self._sender.judge(asked, found, asked_at, expected)
        self._result.count(changes)
        if unread:
            self._result.count(self._sender.read_back(unread, expected))
        self._dispatch([_Ready(entry, expected[entry.order_id]) for entry in absent], matches, matched_at)

    def _settled_by_shop(self, entry: Entry, order: Order | UnreadableOrder | None) -> ErpOrder | None:
        """The order as the ERP wants it; None: the shop's row settled it, and it is not sent."""
        if order is None:
            self._cancel(entry, "the shop does not have it any more: never sent")
        elif isinstance(order, UnreadableOrder):
            self._invalid(entry, InvalidOrder(order.problems), UNREADABLE)
        elif order.state is not ShopState.READY:
            self._cancel(entry, f"{order.state} in the shop before it was sent: never sent")
        elif order.number != entry.number:
            self._renumber(entry, order)
        else:
            try:
                return self._map(order)
            except InvalidOrder as invalid:
                self._invalid(entry, invalid, payload_hash(order))
        return None

    def _map(self, order: Order) -> ErpOrder:
        """Raises InvalidOrder, whatever is wrong with the order: one bad row never stops the others."""
        flow = self._flow
        today = flow._ledger.now().astimezone(flow._shop.business_timezone).date()
        try:
            return map_order(order, flow._settings, today=today, currencies=flow._shop.profile.shop.currencies)
        except InvalidOrder:
            raise
        except Exception as error:
            logger.error("order %s cannot be mapped: %s", order.number, _defect(error))
            problem = Problem("order", order.number, f"cannot be mapped ({_defect(error)}): report this defect")
            raise InvalidOrder((problem,)) from None

    def _renumber(self, entry: Entry, order: Order) -> None:
        """The number of the look-up must be that of the create: the order is due under its new one."""
        ledger = self._flow._ledger
        change = due_again(entry, order, ledger.now(), f"the shop changed its number from {entry.number}")
        if not ledger.change([change])[0]:
            advice = f"cannot replace {entry.number}, another order has it or it is too wide: correct it in the shop"
            problem = Problem("number", order.number[:60], advice)
            self._invalid(entry, InvalidOrder((problem,)), payload_hash(order))

    def _cancel(self, entry: Entry, why: str) -> None:
        self._result.count(self._sender.settle(entry, LedgerState.CANCELLED, Event("cancelled", why)))

    def _invalid(self, entry: Entry, invalid: InvalidOrder, payload: str) -> None:
        event = Event("invalid", str(invalid))
        self._result.count(self._sender.settle(entry, LedgerState.INVALID, event, invalid.problems, payload))

    # Sending --------------------------------------------------------------------------------------------------------

    def _dispatch(self, ready: Sequence[_Ready], matches: dict[str, Match], asked_at: datetime) -> None:
        by_customer: dict[str, list[_Ready]] = defaultdict(list)
        for item in ready:
            by_customer[item.expected.customer_key].append(item)
        missing: dict[str, list[_Ready]] = {}
        for key, items in by_customer.items():
            self._outstanding += len(items)
            if key in matches:
                self._send_all(items, matches[key])
            else:
                missing[key] = items
        if missing:
            self._create(missing, asked_at)

    def _create(self, missing: dict[str, list[_Ready]], asked_at: datetime) -> None:
        """The customers first, all at once; then one query for what was created; then their orders."""
        waiting = dict(missing)
        created: dict[str, list[_Ready]] = {}

        def came(key: str, items: list[_Ready], match: Match | None) -> None:
            del waiting[key]
            if match is None:
                self._give_back([item.entry for item in items])
            elif match.created:
                created[key] = items
            else:
                self._send_all(items, match)
            if created and not waiting:
                customers = [items[0].expected.order.customer for items in created.values()]
                self._when(self._readers, lambda: self._or_fail(self._customers.read_back, customers), use)

        def use(matches: dict[str, Match] | None) -> None:
            for key, items in created.items():
                if matches is None:
                    self._give_back([item.entry for item in items])
                else:
                    self._send_all(items, matches[key])

        def ask(key: str, items: list[_Ready]) -> None:
            customer = items[0].expected.order.customer
            self._when(
                self._writers,
                lambda: self._or_fail(self._customers.create, customer, asked_at),
                lambda match: came(key, items, match),
            )

        for key, items in missing.items():
            ask(key, items)

    def _send_all(self, items: Sequence[_Ready], match: Match) -> None:
        """All orders of one customer, one after the other: the ERP locks its row."""
        if match.chosen is not None:
            self._when(self._writers, lambda: self._send(items, match), self._sent)
        elif match.problem is not None:
            event = Event("refused", str(match.problem))
            for item in items:
                problems, payload = (match.problem,), item.expected.payload_hash
                self._result.count(self._sender.settle(item.entry, LedgerState.REFUSED, event, problems, payload))
            self._outstanding -= len(items)
        elif match.wait_until is not None:
            wait_for = max(match.wait_until - self._flow._ledger.now(), timedelta(0))
            self._sender.release([item.entry for item in items], "its customer is being created", wait_for)
            self._outstanding -= len(items)

    def _send(self, items: Sequence[_Ready], match: Match) -> tuple[list[tuple[Change, Expected]], list[Entry], int]:
        assert match.chosen is not None  # noqa: S101 - the caller's branch, told to the type checker
        changes = []
        unsent = []
        for item in items:
            if self._failure is not None:
                unsent.append(item.entry)
                continue
            started = self._flow._monotonic()
            try:
                change = self._sender.send(item.entry, item.expected, match.chosen, new_customer=match.created)
            except ErpSyncError as failure:
                # An order that the ERP did not get is due again in a moment; only an open breaker ends the pass.
                if isinstance(failure, BreakerOpen) or not isinstance(failure, ErpUnavailable):
                    self._fail(failure)
                continue
            except Exception as error:
                logger.error("order %s was not sent properly: %s", item.entry.number, _defect(error))
                continue
            took = self._flow._monotonic() - started
            self._seconds_per_order += (took - self._seconds_per_order) * (0.1 if self._seconds_per_order else 1.0)
            if change is not None:
                changes.append((change, item.expected))
        return changes, unsent, len(items)

    def _sent(self, outcome: tuple[list[tuple[Change, Expected]], list[Entry], int]) -> None:
        changes, unsent, count = outcome
        self._outstanding -= count
        self._unsent += unsent
        self._result.count(change for change, _ in changes)
        self._unread += [(change.new, meant) for change, meant in changes if change.new.state is LedgerState.SENT]

    def _read_back(self) -> None:
        batch, self._unread = self._unread[:BATCH], self._unread[BATCH:]
        entries = [entry for entry, _ in batch]
        expected = {entry.order_id: meant for entry, meant in batch}

        def read() -> list[Change] | None:
            return self._or_fail(self._sender.read_back, entries, expected)

        self._when(self._readers, read, lambda changes: self._result.count(changes or ()))

    def _give_back(self, entries: Sequence[Entry]) -> None:
        self._unsent += entries
        self._outstanding -= len(entries)

    def _or_fail(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """None: the system failed, and the pass ends."""
        if self._failure is not None:
            return None
        try:
            return call(*args, **kwargs)
        except ErpSyncError as failure:
            self._fail(failure)
            return None

    def _when(self, pool: ThreadPoolExecutor, call: Callable[[], T], then: Callable[[T], None]) -> None:
        self._then[pool.submit(call)] = then


def _defect(error: Exception) -> str:
    """Type and place, without the message."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
