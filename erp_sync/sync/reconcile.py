"""Reconciliation: did every order of a business day arrive, to the cent? Shop, ledger and ERP, order by order.

The orders of a day are the ledger's rows of that day, and whatever the shop has besides. For that the shop is read
page by page and each order's day is reckoned here, never in its database: for recent days what changed since the first
of them began (`changed_at`; an order that changed before its own day was found by the nightly sweep), for older days
every order by its key. Either way memory holds a page, and of the day only what does not agree.

The ERP is asked by external ids, deleted orders included, and once by C5_EMISSAO for orders that nobody here knows.

Repairs are the flows' own: what is absent is made due, what the ERP has is looked up and adopted by the look-up that
goes before every create, a status is asked for again. Nothing is sent from here, and an order that the ledger calls
sent is never made due.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

from erp_sync.errors import ErpSyncError, ErpUnavailable, Misconfigured, OddRow, Unavailable
from erp_sync.ledger.entry import Change, Entry, Event
from erp_sync.ledger.reconciled_day import Finding, ReconciledDay, Verdict
from erp_sync.ledger.status_entry import StatusChange, StatusEntry, StatusEvent
from erp_sync.models import (
    ErpRelease,
    FoundOrder,
    Invoice,
    LedgerState,
    Order,
    OrderHead,
    OrderProgress,
    ShopState,
)
from erp_sync.sync.asking import MANY_VANISHED, may_be_blocked, may_be_invoiced
from erp_sync.sync.comparing import YOUNG, Compared, Sides, compare
from erp_sync.sync.finding import CHUNK, Finder, due_again
from erp_sync.sync.odd_rows import apart, readable
from erp_sync.sync.recent import recent_pages
from erp_sync.sync.telling import Telling

if TYPE_CHECKING:
    from erp_sync.ledger.ledger import Ledger
    from erp_sync.settings import Settings
    from erp_sync.shop.database import Shop

PAGE = 240
"""Orders looked at together: four look-ups by external id, three by number."""
SHOP_PAGE = 1000
READERS = 4
RECENT = timedelta(days=14)
"""Days that began longer ago are searched by key: since then more has changed than the shop has orders."""


class OrdersErp(Protocol):
    """`Protheus` has it."""

    def find_orders(self, external_ids: Sequence[str]) -> Mapping[str, list[FoundOrder]]: ...

    def read_orders(self, numbers: Sequence[str]) -> Mapping[str, FoundOrder]: ...

    def external_ids_of(self, day: date) -> Mapping[str, list[str]]: ...


class LivesErp(Protocol):
    """`ErpStatuses` has it."""

    def progress(self, numbers: Sequence[str]) -> Mapping[str, OrderProgress]: ...

    def releases(self, numbers: Sequence[str]) -> Mapping[str, tuple[ErpRelease, ...]]: ...

    def invoices(self, numbers: Sequence[str]) -> Mapping[str, tuple[Invoice, ...]]: ...


@dataclass
class ReconcileResult:
    days: list[ReconciledDay] = field(default_factory=list)
    """Those that were compared whole, and are kept."""
    repaired: int = 0
    """Orders that were made due by this pass."""
    failure: ErpSyncError | None = None
    """Why the system failed; of the day it failed in nothing is kept. None: it did its work, whatever it found."""


@dataclass
class _Looked:
    """What one page of a day came to."""

    compared: list[tuple[Sides, Compared]]
    minutes: list[float]


class ReconcileFlow:
    """Ties shop, ledger and ERP together. `young`: what is younger may simply not be there yet."""

    def __init__(
        self,
        shop: Shop,
        ledger: Ledger,
        erp: OrdersErp,
        lives: LivesErp,
        settings: Settings,
        *,
        young: timedelta = YOUNG,
    ) -> None:
        self._shop = shop
        self._ledger = ledger
        self._erp = erp
        self._lives = lives
        self._young = young
        self._finder = Finder(shop, ledger, settings.require_start_day())
        self._telling = Telling(shop.profile.status, settings.statuses.issuers)
        # Half of what the ERP takes at once: whatever else wants a call finds a slot.
        self._readers = max(min(READERS, settings.erp.max_parallel // 2), 1)
        self._last_days = settings.reconcile.days

    def today(self) -> date:
        return self._ledger.now().astimezone(self._shop.business_timezone).date()

    def last_days(self) -> list[date]:
        """The last `reconcile.days` business days, and today so far."""
        today = self.today()
        return [today - timedelta(days=back) for back in range(self._last_days, -1, -1)]

    def run(
        self, days: Sequence[date], progress: Callable[[ReconcileResult], None] = lambda _: None
    ) -> ReconcileResult:
        """Compare these days, repair what repairs itself, and keep the result. Never raises an ErpSyncError."""
        result = ReconcileResult()
        try:
            new = self._unknown_to_ledger(days)
            for day in sorted(days):
                result.repaired += self._reconcile(day, new.get(day, []), result)
                progress(result)
        except (Unavailable, Misconfigured) as failure:
            result.failure = failure
        return result

    # Which orders ---------------------------------------------------------------------------------------------------

    def _unknown_to_ledger(self, days: Sequence[date]) -> dict[date, list[OrderHead]]:
        """Orders of these days that the shop calls ready and the ledger does not know."""
        wanted = set(days)
        unknown: dict[date, list[OrderHead]] = {}
        for heads in self._shop_pages(min(days)) if days else ():
            ready = [head for head in heads if head.business_day in wanted and head.state == ShopState.READY]
            known = self._ledger.entries([head.order_id for head in ready]) if ready else {}
            for head in ready:
                if head.order_id not in known and head.business_day is not None:
                    unknown.setdefault(head.business_day, []).append(head)
        return unknown

    def _shop_pages(self, first: date) -> Iterator[Sequence[OrderHead]]:
        began = datetime.combine(first, datetime.min.time(), self._shop.business_timezone)
        if self._ledger.now() - began <= RECENT:
            yield from recent_pages(self._shop, began, SHOP_PAGE)
            return
        heads = self._shop.sweep(None, CHUNK)
        while heads:
            yield heads
            heads = self._shop.sweep(heads[-1].order_id, CHUNK) if len(heads) == CHUNK else []

    def _pages(self, day: date) -> Iterator[list[Entry]]:
        after = ""
        while page := self._ledger.of_day(day, PAGE, after):
            yield page
            after = page[-1].order_id

    # One day --------------------------------------------------------------------------------------------------------

    def _reconcile(self, day: date, new: Sequence[OrderHead], result: ReconcileResult) -> int:
        found = ReconciledDay(day, at=self._ledger.now())
        minutes: list[float] = []
        troubled: list[tuple[Sides, Compared]] = []
        unseen = {head.order_id: head for head in new}
        for looked in self._looks(day):
            minutes += looked.minutes
            for sides, compared in looked.compared:
                unseen.pop(sides.entry.order_id, None)  # found by another process since
                _add(found, compared)
                if compared.findings:
                    troubled.append((sides, compared))
        new = list(unseen.values())
        rows, orders = self._never_seen(new)
        told = {finding.erp_numbers for _, compared in troubled for finding in compared.findings}
        strangers = [finding for finding in self._strangers(day) if finding.erp_numbers not in told]
        # The ERP is not asked any more: what could not be compared whole has repaired nothing.
        repaired = sum(self._repair(sides, compared.findings) for sides, compared in troubled)
        repaired += self._take_in(new, rows, orders, found)
        found.findings += [finding for _, compared in troubled for finding in compared.findings] + strangers
        found.findings.sort(key=lambda finding: (not finding.verdict.is_grave, finding.verdict, finding.number))
        found.median_minutes, found.p95_minutes = _percentile(minutes, 0.5), _percentile(minutes, 0.95)
        self._ledger.keep_reconciliation(found)
        result.days.append(found)
        return repaired

    def _looks(self, day: date) -> Iterator[_Looked]:
        """Every order of the day, a few pages at once."""
        at_work: deque[Future[_Looked]] = deque()
        at_once = 1
        with ThreadPoolExecutor(self._readers, "reconcile") as pool:
            try:
                for page in self._pages(day):
                    at_work.append(pool.submit(self._look, page))
                    while len(at_work) >= at_once:
                        yield at_work.popleft().result()
                        # The first page alone: after an outage it is the breaker's probe.
                        at_once = self._readers
                while at_work:
                    yield at_work.popleft().result()
            finally:
                for future in at_work:
                    future.cancel()

    def _look(self, page: Sequence[Entry]) -> _Looked:
        """What moved while it was looked at is looked at once more; what moves again is at work, and no finding."""
        compared = {sides.entry.order_id: (sides, result) for sides, result in self._compared(page)}
        again = self._moved([sides for sides, result in compared.values() if result.findings])
        if again:
            compared |= {sides.entry.order_id: (sides, result) for sides, result in self._compared(again)}
            still = self._moved([compared[entry.order_id][0] for entry in again])
            for entry in still:
                compared[entry.order_id][1].findings.clear()
        took = [
            max((entry.sent_at - entry.found_at).total_seconds() / 60, 0.0)
            for entry in page
            if entry.state is LedgerState.SENT and entry.sent_at is not None
        ]
        return _Looked(list(compared.values()), took)

    def _compared(self, entries: Sequence[Entry]) -> list[tuple[Sides, Compared]]:
        """One order's row that nobody can read stops no other."""
        compared = []
        for part, looked in apart(self._sides, entries):
            if isinstance(looked, OddRow):
                (entry,) = part
                sides = Sides(entry, self._ledger.statuses([entry.order_id]).get(entry.order_id))
                finding = Finding(entry.number, Verdict.TOTAL_UNREADABLE, shop_total=entry.total, note=str(looked))
                compared.append((sides, Compared([finding], in_shop=entry.total)))
            else:
                now = self._ledger.now()
                compared += [(sides, compare(sides, self._telling, now, self._young)) for sides in looked]
        return compared

    def _moved(self, looked: Sequence[Sides]) -> list[Entry]:
        """The ledger's rows now of those that it changed since they were read."""
        ids = [sides.entry.order_id for sides in looked]
        entries, lives = self._ledger.entries(ids), self._ledger.statuses(ids)
        return [
            entries[sides.entry.order_id]
            for sides in looked
            if sides.entry.order_id in entries
            and (
                entries[sides.entry.order_id].version != sides.entry.version
                or _version(lives.get(sides.entry.order_id)) != _version(sides.life)
            )
        ]

    def _sides(self, entries: Sequence[Entry]) -> list[Sides]:
        ids = [entry.order_id for entry in entries]
        lives = self._ledger.statuses(ids)
        rows = self._erp.find_orders(_askable(entry.number for entry in entries if entry.external_id is not None))
        sent = [entry for entry in entries if entry.state is LedgerState.SENT]
        rowless = [entry for entry in sent if entry.number not in rows and entry.next_at is None]
        by_number = self._erp.read_orders([entry.erp_number for entry in rowless]) if rowless else {}
        self._doubt_the_erp(entries, [entry for entry in rowless if entry.erp_number not in by_number])
        alive = {row.number for found in rows.values() for row in found if not row.deleted}
        progress = self._progress([entry.erp_number for entry in sent if entry.erp_number in alive])
        heads = self._shop.heads(ids)
        orders = {order.order_id: order for order in self._shop.fetch(ids)}
        shown = self._shop.shown_statuses([entry.number for entry in sent])
        return [
            Sides(
                entry=entry,
                life=lives.get(entry.order_id),
                order=orders.get(entry.order_id),
                state=heads[entry.order_id].state if entry.order_id in heads else "",
                changed_at=heads[entry.order_id].changed_at if entry.order_id in heads else None,
                shown=shown.get(entry.number),
                rows=rows.get(entry.number, ()),
                progress=progress.get(entry.erp_number),
                renamed=_renamed(entry, by_number.get(entry.erp_number)),
            )
            for entry in entries
        ]

    @staticmethod
    def _doubt_the_erp(entries: Sequence[Entry], lost: Sequence[Entry]) -> None:
        if len(lost) >= MANY_VANISHED and len(lost) > len(entries) / 2:
            raise ErpUnavailable(
                f"the ERP shows neither {lost[0].erp_number} nor {len(lost) - 1} others of {len(entries)} orders that "
                "it confirmed, not even as deleted ones: nothing is concluded; see which branch and rows its REST "
                "user reads"
            )

    def _progress(self, numbers: Sequence[str]) -> dict[str, OrderProgress]:
        """How far these orders have come, with releases and invoices."""
        if not numbers:
            return {}
        found = self._lives.progress(numbers)
        blocked = [number for number, order in found.items() if may_be_blocked(order)]
        invoiced = [number for number, order in found.items() if may_be_invoiced(order)]
        releases = self._lives.releases(blocked) if blocked else {}
        invoices = self._lives.invoices(invoiced) if invoiced else {}
        return {
            number: replace(order, releases=releases.get(number, ()), invoices=invoices.get(number, ()))
            for number, order in found.items()
        }

    # What only one side knows ---------------------------------------------------------------------------------------

    def _never_seen(self, heads: Sequence[OrderHead]) -> tuple[Mapping[str, list[FoundOrder]], Mapping[str, Order]]:
        """What ERP and shop have of ready orders that the ledger does not know."""
        rows, _ = readable(self._erp.find_orders, _askable(head.number for head in heads))
        orders = self._shop.fetch([head.order_id for head in heads]) if heads else []
        return rows, {order.order_id: order for order in orders if isinstance(order, Order)}

    def _strangers(self, day: date) -> list[Finding]:
        """Orders of that C5_EMISSAO whose external id neither ledger nor shop knows."""
        there = self._erp.external_ids_of(day)
        unknown = sorted(there.keys() - self._ledger.numbers_known(list(there)))
        in_shop = {head.number: head.state for head in self._shop.heads_by_number(unknown)} if unknown else {}
        # What is ready in the shop is on its way into the ledger; what waits there will be.
        strangers = [number for number in unknown if in_shop.get(number, ShopState.CANCELLED) == ShopState.CANCELLED]
        rows, odd = readable(self._erp.find_orders, _askable(strangers))
        found = []
        for number in strangers:
            live = [row for row in rows.get(number, []) if not row.deleted]
            if number in odd:
                verdict, total = Verdict.TOTAL_UNREADABLE, None
            elif live or number not in rows:
                verdict = Verdict.FOUND_PERSON if number in in_shop else Verdict.UNKNOWN
                total = sum((row.total for row in live), Decimal(0)) if live else None
            else:
                continue  # deleted since
            finding = Finding(
                number=number if number.isprintable() else ascii(number)[1:-1],
                verdict=verdict,
                erp_total=total,
                shop_says=in_shop.get(number, "unknown"),
                erp_says="there",
                erp_numbers=", ".join([row.number for row in live] or there[number]),
                note=str(odd.get(number, "")),
            )
            found.append(finding)
        return found

    # Repairs --------------------------------------------------------------------------------------------------------

    def _repair(self, sides: Sides, findings: Sequence[Finding]) -> int:
        """Whether the order was made due, for the flows to do what is theirs. An entry that moved on is left alone."""
        verdicts = {finding.verdict for finding in findings if finding.verdict.is_repaired}
        if verdicts & _BY_SENDING:
            change = self._due(sides, min(verdicts & _BY_SENDING))
            return sum(self._ledger.change([change])) if change is not None else 0
        if verdicts and sides.life is not None:
            return self._ask_again(sides.life, min(verdicts))
        return 0

    def _due(self, sides: Sides, verdict: Verdict) -> Change | None:
        entry, now = sides.entry, self._ledger.now()
        event = Event("reconciled", _STORY[verdict])
        if entry.state in (LedgerState.REFUSED, LedgerState.CANCELLED):
            if not isinstance(sides.order, Order):
                return None
            return replace(due_again(entry, sides.order, now, ""), event=event)
        if entry.next_at is not None and entry.next_at <= now:
            return None  # it is due already
        return Change(entry, replace(entry, version=entry.version + 1, next_at=now), event)

    def _ask_again(self, life: StatusEntry, verdict: Verdict) -> int:
        now = self._ledger.now()
        new = replace(life, next_at=now, write_at=now if verdict is Verdict.STATUS_SHOP else life.write_at)
        if life.next_at is not None and life.next_at <= now and new.write_at == life.write_at:
            return 0
        change = StatusChange(life, new, StatusEvent("reconciled", _STORY[verdict]))
        return sum(self._ledger.change_statuses([change]))

    def _take_in(
        self,
        heads: Sequence[OrderHead],
        rows: Mapping[str, list[FoundOrder]],
        orders: Mapping[str, Order],
        found: ReconciledDay,
    ) -> int:
        """Orders that the ledger does not know become due as if any look had found them: the create's own look-up
        adopts those that the ERP has. What is not ours (ready before the day of going live) stays out."""
        for start in range(0, len(heads), CHUNK):
            self._finder.look_at(heads[start : start + CHUNK])
        entries = self._ledger.entries([head.order_id for head in heads])
        stories = []
        for head in heads:
            entry, order = entries.get(head.order_id), orders.get(head.order_id)
            if entry is None:
                continue
            live = [row for row in rows.get(head.number, []) if not row.deleted] if entry.external_id else []
            total = order.total if order is not None else None
            values = tuple(row.total for row in live)
            compared = Compared(in_shop=total or Decimal(0), in_erp=values)
            if not live and head.changed_at is not None and self._ledger.now() - head.changed_at < self._young:
                compared.waiting = True
            else:
                verdict = _verdict(entry, live)
                says = ShopState.READY if entry.state is not LedgerState.INVALID else entry.state
                finding = Finding(
                    number=head.number,
                    verdict=verdict,
                    shop_total=total,
                    erp_total=sum(values, Decimal(0)) if values else None,
                    shop_says=says,
                    erp_numbers=", ".join(row.number for row in live),
                    note="; ".join(map(str, entry.problems)),
                )
                compared.findings.append(finding)
                found.findings.append(finding)
                # One that a flow has claimed since is its own: a step of ours would take the claim from it.
                if verdict in _STORY and entry.version == 1:
                    told = replace(entry, version=entry.version + 1)
                    stories.append(Change(entry, told, Event("reconciled", _STORY[verdict])))
            _add(found, compared)
        return sum(self._ledger.change(stories))


_BY_SENDING = frozenset({Verdict.MISSING_WAITING, Verdict.MISSING_REOPENED, Verdict.FOUND_ADOPT})
_STORY = {
    Verdict.MISSING_NEW: "ready in the shop, and no look had found it: due now",
    Verdict.MISSING_REOPENED: "ready in the shop again: due now",
    Verdict.MISSING_WAITING: "not in the ERP for longer than it should take: due now",
    Verdict.FOUND_ADOPT: "the ERP has it, and the ledger did not send it: due now, to be looked up and adopted",
    Verdict.STATUS_STALE: "the ERP moved on since it was last asked: asked again now",
    Verdict.STATUS_SHOP: "the shop shows another status than it was told: told again now",
    Verdict.CANCELLED_SHOP: "cancelled in the shop, and not in the ERP: asked again now",
    Verdict.CANCELLED_ERP: "cancelled in the ERP, and not in the shop: asked again now",
}
"""What a repair is, for the order's story."""


def _verdict(entry: Entry, live: Sequence[FoundOrder]) -> Verdict:
    if len(live) > 1:
        return Verdict.TWICE
    if entry.state is LedgerState.INVALID:
        return Verdict.FOUND_PERSON if live else Verdict.MISSING_HELD
    return Verdict.FOUND_ADOPT if live else Verdict.MISSING_NEW


def _add(found: ReconciledDay, compared: Compared) -> None:
    if compared.in_shop is not None:
        found.shop_orders += 1
        found.shop_value += compared.in_shop
    found.erp_orders += len(compared.in_erp)
    found.erp_value += sum(compared.in_erp, Decimal(0))
    found.waiting += compared.waiting
    if compared.status is not None:
        found.statuses[compared.status] = found.statuses.get(compared.status, 0) + 1


def _askable(numbers: Iterable[str]) -> list[str]:
    """An order whose number holds control characters is invalid: no ERP has it."""
    return [number for number in numbers if number and number.isprintable()]


def _renamed(entry: Entry, row: FoundOrder | None) -> FoundOrder | None:
    """After a success that wrote nothing another order may have got the number."""
    if row is None or row.deleted or str(row.customer) != entry.customer_key:
        return None
    return row


def _version(life: StatusEntry | None) -> int | None:
    return None if life is None else life.version


def _percentile(values: Sequence[float], share: float) -> float | None:
    ordered = sorted(values)
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 2) if ordered else None
