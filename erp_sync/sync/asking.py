"""Asking the ERP what became of orders, and the shop whether it still wants them.

Two requests for a hundred orders tell which of them moved; only those are looked at more deeply (releases, invoices).
An order that the ERP does not show is asked for once more before that counts, and so is one that looks cancelled only
because its invoices do not show.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from erp_sync.errors import ErpUnavailable, OddRow
from erp_sync.ledger.status_entry import StatusChange, StatusEntry, StatusEvent, stored
from erp_sync.models import (
    CANCEL_UNDER_WAY,
    CancelAnswer,
    Cancellation,
    ErpRelease,
    Invoice,
    OrderHead,
    OrderProgress,
    OrderStatus,
    Problem,
    ShopState,
)
from erp_sync.order_status import ENDED, INVOICED, RESIDUE, derive, fingerprint, lacks_invoices, unknown_codes
from erp_sync.sync.odd_rows import apart, unreadable
from erp_sync.sync.problems import CANCELLATION, ERP_ORDER, SHOP_ORDER, problem_of, with_problem
from erp_sync.sync.results import StatusesResult
from erp_sync.sync.telling import Telling

if TYPE_CHECKING:
    from erp_sync.ledger.ledger import Ledger
    from erp_sync.settings import StatusesSection
    from erp_sync.shop.database import Shop

logger = logging.getLogger(__name__)

DEEP_EVERY = timedelta(minutes=30)
"""How often releases and invoices are read although neither a quantity nor a flag has moved."""
SECOND_LOOK = timedelta(seconds=30)
"""So far apart two looks are at least: what the ERP rewrites this moment may be unseen for seconds, and a pass may ask
for an order twice."""
MANY_VANISHED = 10
"""So many orders of one look without a trace, and more than half of it: the ERP's answers are wrong, not the orders."""

_BY_RELEASES = frozenset({OrderStatus.BLOCKED_CREDIT, OrderStatus.REJECTED_CREDIT, OrderStatus.BLOCKED_STOCK})
"""Statuses that end without a trace in header and items."""


class StatusErp(Protocol):
    """What of the ERP this flow needs; `ErpStatuses` has it."""

    @property
    def erp_time(self) -> datetime | None: ...

    def progress(self, numbers: Sequence[str]) -> Mapping[str, OrderProgress]: ...

    def deleted(self, numbers: Sequence[str]) -> set[str]: ...

    def releases(self, numbers: Sequence[str]) -> Mapping[str, tuple[ErpRelease, ...]]: ...

    def invoices(self, numbers: Sequence[str]) -> Mapping[str, tuple[Invoice, ...]]: ...

    def cancel(self, branch: str, order_number: str, external_id: str, intent: Callable[[], float]) -> CancelAnswer: ...


@dataclass
class _Look:
    """One batch, as ERP and shop show it."""

    now: datetime
    """Of the ledger, before the ERP was asked."""
    erp_time: datetime | None
    here: dict[str, OrderProgress]
    """By order id; whole where `deep` names it."""
    deep: set[str]
    heads: Mapping[str, OrderHead]
    changes: list[StatusChange] = field(default_factory=list)
    unchanged: list[StatusEntry] = field(default_factory=list)


class Asker:
    """Thread-safe: it keeps nothing but its collaborators."""

    def __init__(self, ledger: Ledger, shop: Shop, erp: StatusErp, telling: Telling, section: StatusesSection) -> None:
        self._ledger = ledger
        self._shop = shop
        self._erp = erp
        self._telling = telling
        self._final = (
            ENDED
            | {OrderStatus.NOT_FOUND}
            | (INVOICED if section.delivered_from == "none" else {OrderStatus.DELIVERED})
        )
        self._young = timedelta(days=section.young_days)
        self._old = timedelta(minutes=section.old_minutes)
        self._grace = timedelta(days=section.grace_days)

    def ask(self, entries: Sequence[StatusEntry]) -> StatusesResult:
        """Everything about these orders, written down. Raises ErpUnavailable, ShopUnavailable, LedgerUnavailable and
        Misconfigured; a row that cannot be read is its own order's problem alone."""
        result = StatusesResult()
        for part, look in apart(self._look, entries):
            result.add(self._unreadable(part[0], look) if isinstance(look, OddRow) else self._seen_all(part, look))
        return result

    def _seen_all(self, entries: Sequence[StatusEntry], look: _Look) -> StatusesResult:
        missing = [entry for entry in entries if entry.order_id not in look.here]
        for entry in entries:
            if entry.order_id in look.here:
                self._seen(entry, look.here[entry.order_id], look)
        if missing:
            self._missing(missing, look, len(entries))
        return self._write(look, len(entries))

    def _look(self, entries: Sequence[StatusEntry]) -> _Look:
        now = self._ledger.now()
        progress = self._erp.progress([entry.erp_number for entry in entries])
        erp_time = self._erp.erp_time
        here = {}
        for entry in entries:
            found = progress.get(entry.erp_number)
            # Between two requests an order can go: a header without items is no order.
            if found is not None and found.items and _is_ours(entry, found):
                here[entry.order_id] = found
        deep = {entry.order_id for entry in entries if entry.order_id in here and self._is_deep(entry, here, now)}
        self._deepen(entries, here, deep)
        heads = self._shop.heads([entry.order_id for entry in entries])
        return _Look(now, erp_time, here, deep, heads)

    def _is_deep(self, entry: StatusEntry, here: Mapping[str, OrderProgress], now: datetime) -> bool:
        if fingerprint(here[entry.order_id]) != entry.fingerprint or entry.missing_since is not None:
            return True
        if entry.status in _BY_RELEASES or self._awaits_invoice_news(entry):
            return True
        fresh = entry.deep_at is not None and now - entry.deep_at < DEEP_EVERY
        return not fresh

    def _awaits_invoice_news(self, entry: StatusEntry) -> bool:
        """A key that the tax office has not given yet, a delivery."""
        if not entry.invoices:
            return False
        waits_for_delivery = entry.status in INVOICED and entry.status not in self._final
        return waits_for_delivery or any(not invoice.key for invoice in entry.invoices)

    def _deepen(self, entries: Sequence[StatusEntry], here: dict[str, OrderProgress], deep: set[str]) -> None:
        """Releases where something may be blocked, invoices where something is or was invoiced."""
        chosen = {entry.order_id: entry for entry in entries if entry.order_id in deep}
        released = [here[key].number for key in chosen if may_be_blocked(here[key])]
        invoiced = [here[key].number for key, entry in chosen.items() if entry.invoices or may_be_invoiced(here[key])]
        releases = self._erp.releases(released) if released else {}
        invoices = self._erp.invoices(invoiced) if invoiced else {}
        for key in chosen:
            number = here[key].number
            here[key] = replace(here[key], releases=releases.get(number, ()), invoices=invoices.get(number, ()))

    # What is written down -------------------------------------------------------------------------------------------

    def _seen(self, entry: StatusEntry, order: OrderProgress, look: _Look) -> None:
        new, event = entry, None
        if entry.order_id in look.deep:
            new, event = self._moved(entry, order, look)
        self._settle(entry, new, event, look)

    def _moved(self, entry: StatusEntry, order: OrderProgress, look: _Look) -> tuple[StatusEntry, StatusEvent | None]:
        status = derive(order)
        believed = entry.status in ENDED or _is_second(entry, look)
        if status in ENDED and lacks_invoices(order) and not believed:
            if entry.missing_since is not None:
                return entry, None
            text = f"the ERP does not show the invoices of order {entry.erp_number}; asked again before it counts"
            waits = replace(entry, missing_since=look.now, fingerprint="")
            return waits, StatusEvent("missing", text, look.erp_time)
        same = (status, order.invoices, order.tracking_code) == (entry.status, entry.invoices, entry.tracking_code)
        new = replace(
            entry,
            status=status,
            fingerprint=fingerprint(order),
            invoices=order.invoices,
            tracking_code=order.tracking_code,
            missing_since=None,
            problems=with_problem(entry.problems, ERP_ORDER, None),
        )
        if same and entry.missing_since is None:
            return new, None
        words = _words(entry, order, status)
        if entry.missing_since is not None and not lacks_invoices(order):
            words = f"the ERP shows it again; {words}"
        return replace(new, changed_at=look.now), StatusEvent("status", words, look.erp_time)

    def _missing(self, entries: Sequence[StatusEntry], look: _Look, asked: int) -> None:
        """Orders without a live row: the first time it is only noted."""
        counts = [entry for entry in entries if _is_second(entry, look) or _cancel_may_be_done(entry)]
        deleted = self._erp.deleted([entry.erp_number for entry in counts]) if counts else set()
        # What a cancel call may have done shows as a deleted order; without that, one look proves nothing here either.
        counts = [entry for entry in counts if _is_second(entry, look) or entry.erp_number in deleted]
        lost = [entry for entry in counts if entry.erp_number not in deleted and entry.status is not _NOT_FOUND]
        if len(lost) >= MANY_VANISHED and len(lost) > asked / 2:
            raise ErpUnavailable(
                f"the ERP shows neither {lost[0].erp_number} nor {len(lost) - 1} others of {asked} orders that it "
                "confirmed, not even as deleted ones: nothing is changed; see which branch and rows its REST user reads"
            )
        for entry in entries:
            if entry not in counts and entry.missing_since is not None:
                self._settle(entry, entry, None, look)
                continue
            if entry not in counts:
                waits = replace(entry, missing_since=look.now, fingerprint="")
                text = f"the ERP does not show order {entry.erp_number}; asked again before it counts"
                self._settle(entry, waits, StatusEvent("missing", text, look.erp_time), look)
                continue
            self._settle(entry, *self._gone(entry, entry.erp_number in deleted, look), look)

    def _gone(self, entry: StatusEntry, is_deleted: bool, look: _Look) -> tuple[StatusEntry, StatusEvent | None]:
        problem = None
        if entry.status in ENDED:
            status, text = entry.status, ""
        elif is_deleted or entry.cancellation is Cancellation.CANCELLED:
            status = OrderStatus.CANCELLED if _cancel_may_be_done(entry) else OrderStatus.DELETED
            text = f"order {entry.erp_number} was deleted in the ERP"
        else:
            status, text = _NOT_FOUND, f"order {entry.erp_number} is not in the ERP, not even as a deleted one"
            advice = (
                "is not in the ERP any more, not even as a deleted order: ask who removed it; the shop is left alone"
            )
            problem = Problem(ERP_ORDER, entry.erp_number, advice)
        new = replace(
            entry,
            status=status,
            fingerprint="",
            missing_since=entry.missing_since or look.now,
            problems=with_problem(entry.problems, ERP_ORDER, problem),
        )
        if status is entry.status:
            return new, None
        return replace(new, changed_at=look.now), StatusEvent("status", text, look.erp_time)

    def _settle(self, old: StatusEntry, new: StatusEntry, event: StatusEvent | None, look: _Look) -> None:
        """One look's effect on one order: at most one change for the ERP's side, then one for the shop's."""
        if event is not None:
            new = self._telling.planned(new, look.now)
        new = replace(new, asked_at=look.now, deep_at=look.now if old.order_id in look.deep else old.deep_at)
        new = replace(new, next_at=self._next(new, look.now))
        wished, wish = self._wish(old, new, look.heads.get(old.order_id), look.now)
        if event is None and wish is None and _only_hints(old, new) and new.problems == wished.problems:
            look.unchanged.append(new)
            return
        if event is None:
            look.changes.append(StatusChange(old, wished, wish))
            return
        told = StatusChange(old, wished if wish is None else new, event)
        look.changes.append(told)
        if wish is not None:
            look.changes.append(StatusChange(stored(told), replace(wished, version=stored(told).version), wish))

    def _wish(
        self, old: StatusEntry, entry: StatusEntry, head: OrderHead | None, now: datetime
    ) -> tuple[StatusEntry, StatusEvent | None]:
        """What the shop's state asks for: cancel it in the ERP, or do not."""
        if head is None:
            if problem_of(entry.problems, SHOP_ORDER) is not None:
                return entry, None
            problem = Problem(SHOP_ORDER, entry.number, "is not in the shop any more: restore it, or let it be")
            return _with(entry, SHOP_ORDER, problem), StatusEvent("shop_order_gone", str(problem))
        entry = _with(entry, SHOP_ORDER, None)
        state, stage = head.state, entry.cancellation
        if entry.status in ENDED and stage not in (Cancellation.NONE, Cancellation.CANCELLED):
            done = _cancellation(entry, Cancellation.CANCELLED, None)
            return done, StatusEvent("cancelled", "nothing is left of it in the ERP: the cancellation is done")
        if state == ShopState.CANCELLED:
            return self._wanted(old, entry, now)
        if state == ShopState.CLOSED or stage is Cancellation.NONE:
            return entry, None
        is_wanted = state in (ShopState.READY, ShopState.WAITING)
        if is_wanted and (
            stage in (Cancellation.TOO_LATE, Cancellation.REFUSED, Cancellation.RESTORED)
            or (stage is Cancellation.WANTED and entry.cancel_send_by is None)
            or _is_alive_again(entry)
        ):
            withdrawn = _cancellation(entry, Cancellation.NONE, None)
            return withdrawn, StatusEvent("cancel_withdrawn", f"the shop has it {state} again: it stays in the ERP")
        if stage in (Cancellation.CANCELLED, Cancellation.RESIDUE):
            advice = (
                f"the shop has it {state} again, but it was cancelled in the ERP: place it anew, under another number"
            )
            problem = Problem(CANCELLATION, entry.number, advice)
            if problem_of(entry.problems, CANCELLATION) == problem:
                return entry, None
            return _with(entry, CANCELLATION, problem), StatusEvent("cancel_withdrawn", str(problem))
        return entry, None

    def _wanted(self, old: StatusEntry, entry: StatusEntry, now: datetime) -> tuple[StatusEntry, StatusEvent | None]:
        stage, status = entry.cancellation, entry.status
        if status in ENDED and stage is Cancellation.CANCELLED:
            return _with(entry, CANCELLATION, None), None
        if status in ENDED or status is None or status is _NOT_FOUND or entry.missing_since is not None:
            return entry, None
        gone_before = old.status in ENDED or (stage is Cancellation.NONE and self._telling.told_the_end(entry))
        if gone_before and stage in (Cancellation.NONE, Cancellation.CANCELLED):
            advice = (
                "the shop has it cancelled, but somebody restored it in the ERP: reopen the one, or cancel the other"
            )
            problem = Problem(CANCELLATION, entry.erp_number, advice)
            restored = _with(_cancellation(entry, Cancellation.RESTORED, None), CANCELLATION, problem)
            return restored, StatusEvent("restored", str(problem))
        moved = status is not old.status
        if stage is Cancellation.IN_DOUBT and moved:
            # Why the call was probably refused says nothing about what the order is now.
            return _with(entry, CANCELLATION, None), None
        reasons = {
            Cancellation.NONE: "cancelled in the shop: it is to be cancelled in the ERP",
            Cancellation.CANCELLED: "the ERP confirmed its cancellation, but has it all the same: once more",
            Cancellation.RESIDUE: "the ERP confirmed that its open rest is cancelled, but it is not: once more",
            Cancellation.TOO_LATE: f"it is {status} in the ERP now: the cancellation is tried again",
            Cancellation.REFUSED: f"it is {status} in the ERP now: the cancellation is tried again",
        }
        due = (
            stage is Cancellation.NONE
            or stage is Cancellation.CANCELLED
            or (stage is Cancellation.RESIDUE and status not in INVOICED)
            or (stage is Cancellation.TOO_LATE and moved and status not in INVOICED)
            or (stage is Cancellation.REFUSED and moved)
        )
        if not due:
            return entry, None
        return _cancellation(entry, Cancellation.WANTED, now), StatusEvent("cancel_wanted", reasons[stage])

    def _next(self, entry: StatusEntry, now: datetime) -> datetime | None:
        """DESIGN's rule: young orders at every pass, old ones rarely, final ones never again after a grace time."""
        if entry.missing_since is not None and entry.status not in self._final:
            return now
        since = now - (entry.changed_at or entry.sent_at)
        if entry.status in self._final and not self._awaits_key(entry):
            # The person who has to cancel its invoice waits to see that it was enough.
            soon = now if entry.cancellation is Cancellation.TOO_LATE else now + self._old
            return soon if since < self._grace else None
        return now if since < self._young else now + self._old

    def _awaits_key(self, entry: StatusEntry) -> bool:
        return entry.status in INVOICED and any(not invoice.key for invoice in entry.invoices)

    def _unreadable(self, entry: StatusEntry, odd: OddRow) -> StatusesResult:
        """One order's row that nobody can read stops no other, and is not asked for at every pass."""
        problem = unreadable(entry.erp_number, odd)
        now = self._ledger.now()
        new = replace(_with(entry, ERP_ORDER, problem), asked_at=now, next_at=now + self._old)
        known = problem_of(entry.problems, ERP_ORDER) == problem
        self._ledger.change_statuses(
            [StatusChange(entry, new, None if known else StatusEvent("missing", str(problem)))]
        )
        return StatusesResult(asked=1)

    def _write(self, look: _Look, asked: int) -> StatusesResult:
        made = self._ledger.change_statuses(look.changes)
        groups: dict[tuple[datetime | None, bool], list[str]] = {}
        for entry in look.unchanged:
            groups.setdefault((entry.next_at, entry.order_id in look.deep), []).append(entry.order_id)
        for (next_at, deep), order_ids in groups.items():
            self._ledger.statuses_unchanged(order_ids, next_at, deep=deep)
        kinds = [change.event.kind for change, done in zip(look.changes, made, strict=True) if done and change.event]
        result = StatusesResult(asked=asked)
        result.changed = kinds.count("status")
        result.cancelled = kinds.count("cancelled")
        return result


_NOT_FOUND = OrderStatus.NOT_FOUND


def _is_second(entry: StatusEntry, look: _Look) -> bool:
    return entry.missing_since is not None and look.now - entry.missing_since >= SECOND_LOOK


def _is_ours(entry: StatusEntry, order: OrderProgress) -> bool:
    """Whether the order with our number is ours: its external id may have been cut or left out, but is no other's."""
    return entry.number.startswith(order.external_id)


def _cancel_may_be_done(entry: StatusEntry) -> bool:
    """A cancel call left us, so that an order which shows as deleted needs no second look
    (contracts/protheus-rest.md, 7: "row vanished" is success)."""
    sent = entry.cancel_send_by is not None
    return sent and entry.cancellation in (*CANCEL_UNDER_WAY, Cancellation.CANCELLED)


def _is_alive_again(entry: StatusEntry) -> bool:
    """Its cancellation was done, or so the ERP said, and the ERP has it all the same."""
    if entry.missing_since is not None or entry.status in (*ENDED, _NOT_FOUND):
        return False
    stage = entry.cancellation
    return stage is Cancellation.CANCELLED or (stage is Cancellation.RESIDUE and entry.status not in INVOICED)


def may_be_blocked(order: OrderProgress) -> bool:
    return any(item.invoiced < item.quantity and item.block != RESIDUE for item in order.items)


def may_be_invoiced(order: OrderProgress) -> bool:
    return bool(order.note) or any(item.invoiced > 0 or item.invoice for item in order.items)


def _only_hints(old: StatusEntry, new: StatusEntry) -> bool:
    """Whether nothing but the times of a look differs."""
    return replace(new, asked_at=old.asked_at, deep_at=old.deep_at, next_at=old.next_at) == old


def _with(entry: StatusEntry, name: str, problem: Problem | None) -> StatusEntry:
    return replace(entry, problems=with_problem(entry.problems, name, problem))


def _cancellation(entry: StatusEntry, stage: Cancellation, at: datetime | None) -> StatusEntry:
    return replace(_with(entry, CANCELLATION, None), cancellation=stage, cancel_at=at)


def _words(entry: StatusEntry, order: OrderProgress, status: OrderStatus) -> str:
    """What is new, for the order's story."""
    old = {(invoice.number, invoice.series): invoice for invoice in entry.invoices}
    new = {(invoice.number, invoice.series): invoice for invoice in order.invoices}
    words = [f"{status} in the ERP" if status is not entry.status else f"still {status} in the ERP"]
    for key, invoice in new.items():
        before = old.get(key)
        name = f"invoice {invoice.number}/{invoice.series}"
        if before is None:
            issued = f" of {invoice.issued_on}" if invoice.issued_on else ""
            words.append(f"{name}{issued}{'' if invoice.key else ', not authorised yet'}")
        elif invoice.key != before.key:
            words.append(f"{name} has its NF-e key now" if not before.key else f"{name} has another NF-e key")
        if invoice.delivered_at is not None and (before is None or before.delivered_at is None):
            words.append(f"{name} was delivered on {invoice.delivered_at.date()}")
    words += [f"invoice {number}/{series} was cancelled" for number, series in old.keys() - new.keys()]
    if order.tracking_code != entry.tracking_code:
        words.append(f"tracking code {order.tracking_code or 'taken away'}")
    words += [f"{code} is unknown, and taken for a block" for code in unknown_codes(order)]
    return "; ".join(words)
