"""The main job: finalized orders of the shop become sales orders of the ERP. No Dagster."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

from erp_sync.errors import Misconfigured, ShopUnavailable, Unavailable
from erp_sync.ledger.entry import Change, Event
from erp_sync.ledger.ledger import Ledger
from erp_sync.logs import log_context
from erp_sync.models import LedgerState, Order
from erp_sync.settings import Settings
from erp_sync.shop.database import Shop
from erp_sync.sync.customers import CustomerErp, Customers
from erp_sync.sync.finding import Finder, due_again
from erp_sync.sync.passes import orders_pass_ended
from erp_sync.sync.pipeline import BATCH, EVERYTHING, DueOrders, Pass, Pipeline, Tools, Window
from erp_sync.sync.results import OrdersResult
from erp_sync.sync.sending import OrderErp, Sender

logger = logging.getLogger(__name__)

BUDGET_SECONDS = 240.0
"""A run of Dagster claims nothing new after this long, well before it is ended; a sweep may take half of it."""
POLL_SHARE = 0.01
"""At most this share of the shop's time goes into looking for new orders."""
POLL_SECONDS = 0.1
RETRIED = frozenset({LedgerState.REFUSED, LedgerState.INVALID, LedgerState.CANCELLED})


class FlowErp(OrderErp, CustomerErp, Protocol):
    """What of the ERP this flow needs; `Protheus` has it."""


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
        self._longest_wait = timing["lease"] + timing["doubt"]
        self.tools = Tools(
            shop=shop,
            ledger=ledger,
            sender=Sender(ledger, erp, branch=settings.erp_branch, monotonic=monotonic, **timing),
            customers=Customers(ledger, erp, monotonic=monotonic, **timing),
            settings=settings,
            monotonic=monotonic,
        )
        self._monotonic = monotonic
        self._sleep = sleep

    def run(
        self,
        window: Window = EVERYTHING,
        *,
        sweep: bool | None = False,
        budget: float = BUDGET_SECONDS,
        linger: float = 0.0,
        leave: Callable[[], bool] = lambda: False,
        progress: Callable[[OrdersResult], None] = lambda _: None,
    ) -> OrdersResult:
        """One pass over the window, and then, for `linger` seconds after each find, over what comes in.

        `sweep`: look at every order of the shop first; None: only if that was never done. Nothing new is begun after
        `budget` seconds, and a sweep that takes half of them goes on in the next pass. `leave` is asked every two
        seconds while lingering. Never raises an ErpSyncError: a failure of the system is in the result.
        """
        with log_context(flow="orders"):
            result = self._run(window, sweep=sweep, budget=budget, linger=linger, leave=leave, progress=progress)
            orders_pass_ended(result, self._ledger)
        return result

    def _run(
        self,
        window: Window,
        *,
        sweep: bool | None,
        budget: float,
        linger: float,
        leave: Callable[[], bool],
        progress: Callable[[OrdersResult], None],
    ) -> OrdersResult:
        result = OrdersResult()
        started = self._monotonic()
        running = Pass(window, result, started + budget, progress)
        try:
            self._find(result, sweep, sweep_until=started + budget / 2)
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
            elif isinstance(order, Order) and entry.state in RETRIED and not self.finder.problems(order):
                changes.append(due_again(entry, order, now, "retried by a person"))
        self._ledger.change(changes)
        return known

    def _find(self, result: OrdersResult, sweep: bool | None, sweep_until: float) -> None:
        self._ledger.heal_clock(self._longest_wait)
        if sweep or (sweep is None and self.finder.swept_at() is None):
            result.found += self.finder.sweep(stop=lambda: self._monotonic() >= sweep_until).count
        result.found += self.finder.recent().count + self.finder.day().count

    def _linger(self, running: Pass, linger: float, leave: Callable[[], bool]) -> None:
        quiet_at = self._monotonic() + linger
        ask_at = self._monotonic() + 2
        while (now := self._monotonic()) < min(quiet_at, running.until):
            try:
                found = self.finder.recent()
                running.result.found += found.count
                if now >= ask_at:
                    ask_at = now + 2
                    if leave():
                        return
                    running.result.found += self.finder.day().count
            except ShopUnavailable as error:
                logger.warning("no more looking for new orders in this run: %s", error)
                return
            if self._drain(running):
                quiet_at = self._monotonic() + linger
            self._sleep(max(POLL_SECONDS, found.query_seconds / POLL_SHARE))

    def _standing(self, running: Pass) -> None:
        days = running.window.days
        for day in [None] if days is None else list(days):
            counts = self._ledger.counts(day)
            running.result.due += counts.get(LedgerState.DUE, 0)
            running.result.in_doubt += counts.get(LedgerState.IN_DOUBT, 0) + counts.get(LedgerState.SENDING, 0)

    def _drain(self, running: Pass) -> bool:
        """Everything actionable in the window. Returns whether there was anything. Raises what the system failed of."""
        source = DueOrders(self.tools, running.window)
        first = source.next(BATCH)
        if not first:
            return False
        Pipeline(self.tools, source, running).run(first)
        return True
