"""The statuses flow: what happens to an order in the ERP comes back to the shop, and cancellations go both ways."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from erp_sync.errors import ErpSyncError, Misconfigured, Unavailable
from erp_sync.logs import carry_log_context, log_context
from erp_sync.models import Cancellation, ShopState
from erp_sync.order_status import ENDED
from erp_sync.sync.asking import Asker, StatusErp
from erp_sync.sync.cancelling import Canceller
from erp_sync.sync.passes import statuses_pass_ended
from erp_sync.sync.recent import recent_pages
from erp_sync.sync.results import StatusesResult
from erp_sync.sync.telling import Teller, Telling

if TYPE_CHECKING:
    from erp_sync.ledger.ledger import Ledger
    from erp_sync.ledger.status_entry import StatusEntry
    from erp_sync.ledger.statuses import Due
    from erp_sync.settings import Settings
    from erp_sync.shop.database import Shop
    from erp_sync.shop.statuses import ShopStatuses

logger = logging.getLogger(__name__)

BUDGET_SECONDS = 240.0
"""A run of Dagster begins nothing new after this long, well before it is ended."""
BATCH = 100
PAGE = 1000
READERS = 4
OVERLAP = timedelta(minutes=10)
"""So far back before the last look orders are searched that the shop cancelled; whatever commits later is found when
its order is asked for."""
_MARK = "statuses.cancelled"

Progress = Callable[[StatusesResult], None]


@dataclass(frozen=True, slots=True)
class StatusWindow:
    """Which orders a pass asks for: those of a day or of these numbers, final ones too. Neither: `due` ones."""

    day: date | None = None
    numbers: Collection[str] | None = None
    everything: bool = False
    """Every order that is not final, due or not."""

    @property
    def is_due_only(self) -> bool:
        return self.day is None and self.numbers is None and not self.everything


DUE = StatusWindow()
_DONE = frozenset({Cancellation.CANCELLED, Cancellation.RESIDUE})


@dataclass(frozen=True, slots=True)
class _Pass:
    result: StatusesResult
    until: float
    """Monotonic: nothing new is begun after it."""
    progress: Progress = lambda _: None


class StatusesFlow:
    """Ties ERP, ledger and shop together. Never raises an ErpSyncError: a failure of the system is in the result.

    `shop_statuses` None: the profile has no `[status]` block, and the shop is told nothing.
    """

    def __init__(
        self,
        shop: Shop,
        shop_statuses: ShopStatuses | None,
        ledger: Ledger,
        erp: StatusErp,
        settings: Settings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        section = settings.statuses
        telling = Telling(shop.profile.status, section.issuers)
        self._shop = shop
        self._ledger = ledger
        self._monotonic = monotonic
        self._asker = Asker(ledger, shop, erp, telling, section)
        self._canceller = Canceller(
            ledger,
            erp,
            lease=timedelta(seconds=settings.erp.lease_seconds),
            doubt=timedelta(seconds=settings.erp.doubt_seconds),
            too_late=timedelta(hours=section.too_late_hours),
            zone=shop.business_timezone,
            monotonic=monotonic,
        )
        self._teller = (
            Teller(ledger, shop_statuses, telling, grace=timedelta(days=section.grace_days), monotonic=monotonic)
            if shop_statuses is not None
            else None
        )
        self._readers = min(READERS, settings.erp.max_parallel)
        self._writers = settings.erp.max_parallel_writes

    def run(
        self, window: StatusWindow = DUE, *, budget: float = BUDGET_SECONDS, progress: Progress = lambda _: None
    ) -> StatusesResult:
        """One pass: ask the ERP, cancel there what the shop cancelled, and tell the shop. While the ERP cannot be asked
        the shop is told nothing."""
        result = self.ask(window, budget=budget, progress=progress)
        if result.failure is None:
            result.add(self.tell(budget=budget))
            progress(result)
        return result

    def ask(
        self, window: StatusWindow = DUE, *, budget: float = BUDGET_SECONDS, progress: Progress = lambda _: None
    ) -> StatusesResult:
        """The ERP's side: statuses into the ledger, and cancellations into the ERP; first what the shop cancelled a
        moment ago."""
        with log_context(flow="statuses"):
            result = self._ask(window, budget, progress)
            statuses_pass_ended("ask", result, self._ledger)
        return result

    def _ask(self, window: StatusWindow, budget: float, progress: Progress) -> StatusesResult:
        result = StatusesResult()
        running = _Pass(result, self._monotonic() + budget, progress)
        try:
            self._ledger.heal_statuses()
            if window.is_due_only:
                self._each(running, self._cancelled_in_shop(), self._asker.ask, self._readers)
                self._cancel(running)
            self._each(running, self._chosen(window), self._asker.ask, self._readers)
            self._cancel(running)
        except (Unavailable, Misconfigured) as failure:
            result.failure = failure
        return result

    def tell(self, *, budget: float = BUDGET_SECONDS) -> StatusesResult:
        """The shop's side: what the ledger knows and the shop does not."""
        if self._teller is None:
            return StatusesResult()
        with log_context(flow="statuses"):
            result = self._tell(self._teller, budget)
            statuses_pass_ended("tell", result, self._ledger)
        return result

    def _tell(self, teller: Teller, budget: float) -> StatusesResult:
        result = StatusesResult()
        running = _Pass(result, self._monotonic() + budget)
        try:
            self._each(running, self._due("write_at"), teller.tell, threads=1)
        except (Unavailable, Misconfigured) as failure:
            result.failure = failure
        return result

    # Which orders ---------------------------------------------------------------------------------------------------

    def _due(self, due: Due) -> Iterator[list[StatusEntry]]:
        by = self._ledger.now()
        after: tuple[datetime, str] | None = None
        while page := self._ledger.statuses_due(due, by, PAGE, after):
            yield from _batches(page)
            last = page[-1]
            at = {"next_at": last.next_at, "write_at": last.write_at, "cancel_at": last.cancel_at}[due]
            if len(page) < PAGE or at is None:
                return
            after = at, last.order_id

    def _chosen(self, window: StatusWindow) -> Iterator[list[StatusEntry]]:
        if window.is_due_only:
            yield from self._due("next_at")
            return
        after = ""
        while page := self._ledger.statuses_of(PAGE, day=window.day, numbers=window.numbers, after=after):
            yield from _batches(page)
            after = page[-1].order_id

    def _cancelled_in_shop(self) -> Iterator[list[StatusEntry]]:
        """Sent orders that the shop cancelled since the last look, before all others: somebody may be packing them."""
        mark = self._ledger.mark(_MARK)
        offset = self._shop.now() - datetime.now(UTC)
        now = self._ledger.now()
        since = (mark[0] if mark else now - timedelta(days=1)) - OVERLAP + offset
        for heads in recent_pages(self._shop, since, PAGE):
            ids = [head.order_id for head in heads if head.state == ShopState.CANCELLED]
            known = self._ledger.statuses(ids).values() if ids else ()
            fresh = [entry for entry in known if entry.cancellation is Cancellation.NONE and entry.status not in ENDED]
            yield from _batches(fresh)
        self._ledger.set_mark(_MARK)

    def _cancel(self, running: _Pass) -> None:
        """Each cancellation that is due goes one step on, after one more look at shop and ERP: it may be days old."""
        for batch in self._due("cancel_at"):
            if self._monotonic() >= running.until:
                return
            running.result.add(self._asker.ask(batch))
            now = self._ledger.now()
            entries = self._ledger.statuses([entry.order_id for entry in batch]).values()
            still = [[entry] for entry in entries if entry.cancel_at is not None and entry.cancel_at <= now]
            self._each(running, iter(still), self._go_on, self._writers)
            # What came of it is the order's new status: read while we are at it.
            ended = self._ledger.statuses([one[0].order_id for one in still]).values()
            gone = [entry for entry in ended if entry.cancellation in _DONE]
            if gone:
                running.result.add(self._asker.ask(gone))

    def _go_on(self, one: Sequence[StatusEntry]) -> StatusesResult:
        return self._canceller.go_on(one[0])

    def _each(
        self,
        running: _Pass,
        batches: Iterator[list[StatusEntry]],
        work: Callable[[Sequence[StatusEntry]], StatusesResult],
        threads: int,
    ) -> None:
        """`work` on every batch, a few at once. After the first failure nothing new is begun, and it is raised."""
        at_work: set[Future[StatusesResult]] = set()
        failure: ErpSyncError | None = None
        with ThreadPoolExecutor(threads, "statuses", carry_log_context()) as pool:
            more, at_once = True, 1
            while more or at_work:
                while more and len(at_work) < at_once:
                    batch = next(batches, None)
                    if batch is None:
                        more = False
                    else:
                        at_work.add(pool.submit(work, batch))
                done, at_work = wait(at_work, return_when=FIRST_COMPLETED)
                for future in done:
                    try:
                        running.result.add(future.result())
                    except ErpSyncError as error:
                        # The one that names a setting says more than the silence that follows it.
                        if failure is None or isinstance(error, Misconfigured):
                            failure = error
                # The first one alone: after an outage it is the breaker's probe, and all others would be turned away.
                at_once = threads
                more = more and failure is None and self._monotonic() < running.until
                running.progress(running.result)
        if failure is not None:
            raise failure


def _batches(entries: Sequence[StatusEntry]) -> Iterator[list[StatusEntry]]:
    for start in range(0, len(entries), BATCH):
        yield list(entries[start : start + BATCH])
