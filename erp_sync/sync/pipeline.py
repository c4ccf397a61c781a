"""Everything that is actionable in a window, sent as a pipeline: while one batch is on its way to the ERP, the next one
is examined and the last one read back.

The safety of each step is in sending.py and customers.py; what is here is order and speed.
"""

from __future__ import annotations

import logging
import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import copy_context
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, Protocol, Self, TypeVar

from erp_sync.errors import BreakerOpen, ErpSyncError, ErpUnavailable, InvalidOrder, Misconfigured, Unavailable
from erp_sync.ledger.entry import Change, Entry, Event
from erp_sync.ledger.ledger import Ledger
from erp_sync.logs import carry_log_context
from erp_sync.mapping import customer_key, map_order, payload_hash
from erp_sync.models import ErpOrder, LedgerState, Order, Problem, ShopState, UnreadableOrder
from erp_sync.settings import Settings
from erp_sync.shop.database import Shop
from erp_sync.sync.customers import Customers, Match
from erp_sync.sync.finding import due_again
from erp_sync.sync.results import OrdersResult
from erp_sync.sync.sending import Expected, Sender

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

BATCH = 60
"""External ids per look-up (contracts/protheus-rest.md, 3: real clients batch by 60 to 100)."""
UNREADABLE = "unreadable"
"""Stands for the payload of a row that could not be read, so that any readable one differs."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a pass may touch: the entries of these days, or of these numbers; None: all."""

    days: Collection[date] | None = None
    numbers: Collection[str] | None = None


EVERYTHING = Window()


@dataclass(frozen=True, slots=True)
class Pass:
    window: Window
    result: OrdersResult
    until: float
    """Monotonic: nothing new is claimed after it."""
    progress: Callable[[OrdersResult], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Tools:
    """What a pipeline works with."""

    shop: Shop
    ledger: Ledger
    sender: Sender
    customers: Customers
    settings: Settings
    monotonic: Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Ready:
    """A claimed order, absent from the ERP."""

    entry: Entry
    expected: Expected


class Pools:
    """The threads of one pipeline, or of several that run side by side: none of their work waits for other work of
    theirs."""

    def __init__(self, writes: int, *, pipelines: int = 1) -> None:
        # More threads than the ERP takes calls: while one waits for the ledger's disk, another one uses its slot.
        carry = carry_log_context()
        self.pipelines = pipelines
        self.writers = ThreadPoolExecutor(writes + max(2, writes // 2), "erp-write", carry)
        self.readers = ThreadPoolExecutor(3 * pipelines, "erp-read", carry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close(wait=True)

    def close(self, *, wait: bool) -> None:
        """Nothing new is begun."""
        self.writers.shutdown(wait)
        self.readers.shutdown(wait)


def first_batch(writes: int) -> int:
    """How many orders are enough while nobody knows how fast the ERP is."""
    return min(BATCH, 4 * writes)


class Source(Protocol):
    """Where a pipeline's orders come from, and how they become its own."""

    claims_late: bool
    """Whether `claim` runs beside the look-up. Its entries must have been read before: a claim is made only to the
    version that was read, so in between nobody else can have had the order."""

    def next(self, limit: int) -> list[Entry]:
        """Entries to be examined, at most so many. []: none now."""

    def claim(self, entries: Sequence[Entry], since: datetime) -> list[Entry]:
        """Those that are ours now, as they are stored. The lease counts from `since`: nobody was asked before it."""

    def put_off(self, entries: Sequence[Entry]) -> None:
        """They were given back, to be tried again in a moment."""


class DueOrders:
    """Whatever is actionable in a window."""

    claims_late = False

    def __init__(self, tools: Tools, window: Window) -> None:
        self._ledger = tools.ledger
        self._window = window
        self.claim = tools.sender.claim

    def next(self, limit: int) -> list[Entry]:
        return self._ledger.actionable(limit, days=self._window.days, numbers=self._window.numbers)

    def put_off(self, entries: Sequence[Entry]) -> None:
        """Whoever is actionable comes again by itself."""


class Pipeline:
    """One drain: a pool that writes to the ERP, a pool that reads from it, and the thread that ties them together.

    `pools`: shared with others; None: its own.
    """

    def __init__(self, tools: Tools, source: Source, running: Pass, pools: Pools | None = None) -> None:
        self._tools = tools
        self._source = source
        self._result = running.result
        self._until = running.until
        self._progress = running.progress
        self._sender = tools.sender
        self._customers = tools.customers
        self._writes = tools.settings.erp.max_parallel_writes
        self._pools = pools or Pools(self._writes)
        self._closing: AbstractContextManager[object] = nullcontext() if pools else self._pools
        self._then: dict[Future[Any], Callable[[Any], None]] = {}
        self._outstanding = 0
        self._unread: list[tuple[Entry, Expected]] = []
        self._unsent: list[Entry] = []
        self._failure: ErpSyncError | None = None
        self._stopped = False
        self._seconds_per_order = 0.0

    def stop(self) -> None:
        """From any thread: what is on its way to the ERP ends, everything else is given back."""
        self._stopped = True

    def run(self, batch: list[Entry]) -> None:
        """Raises what the system failed of, once everything is settled or given back."""
        with self._closing:
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
            batch = [] if self._stopping() else self._source.next(limit)

    def _batch_size(self) -> int:
        """So many that the last one's turn comes well within its lease, however slow the ERP is and however many
        pipelines wait for the same writers."""
        if not self._seconds_per_order:
            return first_batch(self._writes)
        own = self._writes / self._pools.pipelines
        return max(self._writes, min(BATCH, int(30.0 * own / self._seconds_per_order)))

    @property
    def _over(self) -> bool:
        return self._stopped or self._failure is not None

    def _stopping(self) -> bool:
        return self._over or self._tools.monotonic() >= self._until

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
        others = [entry for entry in batch if not entry.nothing_on_its_way]
        claimed: list[Entry] = []
        try:
            since = self._tools.ledger.now()
            if not self._source.claims_late:
                claimed = unsent = self._source.claim(unsent, since) if unsent else []
            self._look_up(unsent, others, claimed, since)
        except (Unavailable, Misconfigured) as failure:
            self._unsent += claimed
            self._fail(failure)

    def _look_up(self, unsent: Sequence[Entry], others: Sequence[Entry], claimed: list[Entry], since: datetime) -> None:
        """`claimed` is filled here where the source claims late."""
        shop_orders = {
            order.order_id: order for order in self._tools.shop.fetch([entry.order_id for entry in (*unsent, *others)])
        }
        mapped: dict[str, ErpOrder] = {}
        settling: dict[str, Callable[[Entry], None]] = {}
        for entry in unsent:
            meant = self._meant(entry, shop_orders.get(entry.order_id))
            if isinstance(meant, ErpOrder):
                mapped[entry.order_id] = meant
            else:
                settling[entry.order_id] = meant
        for entry in others:
            again = shop_orders.get(entry.order_id)
            if isinstance(again, Order):
                # What cannot be mapped any more is compared by its total alone.
                with suppress(InvalidOrder):
                    mapped[entry.order_id] = self._map(again)
        unread = [entry for entry in others if entry.state is LedgerState.SENT]
        doubted = [entry for entry in others if entry.state is not LedgerState.SENT]
        asked = [*(entry for entry in unsent if entry.order_id in mapped), *doubted]
        # Before the question, and one for each: a customer created in between must not count as absent since later.
        matched_at = asked_at = self._tools.ledger.now()
        customers = [order.customer for order in mapped.values()]
        matching = self._submit(self._pools.readers, lambda: self._customers.match(customers))
        asking = self._submit(self._pools.readers, lambda: self._sender.look_up(asked) if asked else (asked_at, {}))
        try:
            if self._source.claims_late:
                claimed += self._source.claim(unsent, since)
            # Whatever the ERP answers: what is wrong with an order is known while it is away, too.
            for entry in claimed:
                if entry.order_id in settling:
                    settling[entry.order_id](entry)
        finally:
            for answer in (matching, asking):
                answer.exception()
        matches = matching.result()
        asked_at, found = asking.result()
        expected: dict[str, Expected] = {}
        for order_id, order in mapped.items():
            shop_order = shop_orders[order_id]
            assert isinstance(shop_order, Order)  # noqa: S101 - only readable orders were mapped
            key = customer_key(order.customer)
            codes = matches[key].codes if key in matches else frozenset()
            expected[order_id] = Expected(order, payload_hash(shop_order), key, codes)
        judged = [*(entry for entry in claimed if entry.order_id in mapped), *doubted]
        absent, changes = self._sender.judge(judged, found, asked_at, expected)
        self._result.count(changes)
        if unread:
            self._result.count(self._sender.read_back(unread, expected))
        self._dispatch([_Ready(entry, expected[entry.order_id]) for entry in absent], matches, matched_at)

    def _meant(self, entry: Entry, order: Order | UnreadableOrder | None) -> ErpOrder | Callable[[Entry], None]:
        """The order as the ERP wants it; or how its claimed entry is settled: by the shop's row, and not sent."""
        if order is None:
            return partial(self._cancel, why="the shop does not have it any more: never sent")
        if isinstance(order, UnreadableOrder):
            return partial(self._invalid, invalid=InvalidOrder(order.problems), payload=UNREADABLE)
        if order.state is not ShopState.READY:
            return partial(self._cancel, why=f"{order.state} in the shop before it was sent: never sent")
        if order.number != entry.number:
            return partial(self._renumber, order=order)
        try:
            return self._map(order)
        except InvalidOrder as invalid:
            return partial(self._invalid, invalid=invalid, payload=payload_hash(order))

    def _map(self, order: Order) -> ErpOrder:
        """Raises InvalidOrder, whatever is wrong with the order: one bad row never stops the others."""
        tools = self._tools
        today = tools.ledger.now().astimezone(tools.shop.business_timezone).date()
        try:
            return map_order(order, tools.settings, today=today, currencies=tools.shop.profile.shop.currencies)
        except InvalidOrder:
            raise
        except Exception as error:
            logger.error("order %s cannot be mapped: %s", order.number, _defect(error))
            problem = Problem("order", order.number, f"cannot be mapped ({_defect(error)}): report this defect")
            raise InvalidOrder((problem,)) from None

    def _renumber(self, entry: Entry, order: Order) -> None:
        """The number of the look-up must be that of the create: the order is due under its new one."""
        ledger = self._tools.ledger
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
                self._when(self._pools.writers, lambda: self._or_fail(self._customers.rest, match), lambda _: None)
            else:
                self._send_all(items, match)
            if created and not waiting:
                customers = [items[0].expected.order.customer for items in created.values()]
                self._when(self._pools.readers, lambda: self._or_fail(self._customers.read_back, customers), use)

        def use(matches: dict[str, Match] | None) -> None:
            for key, items in created.items():
                if matches is None:
                    self._give_back([item.entry for item in items])
                else:
                    self._send_all(items, matches[key])

        def ask(key: str, items: list[_Ready]) -> None:
            customer = items[0].expected.order.customer
            self._when(
                self._pools.writers,
                lambda: self._or_fail(self._customers.create, customer, asked_at),
                lambda match: came(key, items, match),
            )

        for key, items in missing.items():
            ask(key, items)

    def _send_all(self, items: Sequence[_Ready], match: Match) -> None:
        """All orders of one customer, one after the other: the ERP locks its row."""
        if match.chosen is not None:
            self._when(self._pools.writers, lambda: self._send(items, match), self._sent)
        elif match.problem is not None:
            event = Event("refused", str(match.problem))
            for item in items:
                problems, payload = (match.problem,), item.expected.payload_hash
                self._result.count(self._sender.settle(item.entry, LedgerState.REFUSED, event, problems, payload))
            self._outstanding -= len(items)
        elif match.wait_until is not None:
            wait_for = max(match.wait_until - self._tools.ledger.now(), timedelta(0))
            entries = [item.entry for item in items]
            self._sender.release(entries, "its customer is being created", wait_for)
            self._source.put_off(entries)
            self._outstanding -= len(items)

    def _send(self, items: Sequence[_Ready], match: Match) -> tuple[list[tuple[Change, Expected]], list[Entry], int]:
        assert match.chosen is not None  # noqa: S101 - the caller's branch, told to the type checker
        changes = []
        unsent = []
        for item in items:
            if self._over:
                unsent.append(item.entry)
                continue
            started = self._tools.monotonic()
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
            took = self._tools.monotonic() - started
            self._seconds_per_order += (took - self._seconds_per_order) * (0.1 if self._seconds_per_order else 1.0)
            if change is not None:
                changes.append((change, item.expected))
            else:
                self._source.put_off([item.entry])
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

        self._when(self._pools.readers, read, lambda changes: self._result.count(changes or ()))

    def _give_back(self, entries: Sequence[Entry]) -> None:
        self._unsent += entries
        self._outstanding -= len(entries)

    def _or_fail(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """None: the system failed, or we were told to stop: the pass ends."""
        if self._over:
            return None
        try:
            return call(*args, **kwargs)
        except ErpSyncError as failure:
            self._fail(failure)
            return None

    def _when(self, pool: ThreadPoolExecutor, call: Callable[[], T], then: Callable[[T], None]) -> None:
        self._then[self._submit(pool, call)] = then

    @staticmethod
    def _submit(pool: ThreadPoolExecutor, call: Callable[[], T]) -> Future[T]:
        # What is logged of it belongs to this pipeline, whoever else uses the pool.
        return pool.submit(copy_context().run, call)


def _defect(error: Exception) -> str:
    """Type and place, without the message."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
