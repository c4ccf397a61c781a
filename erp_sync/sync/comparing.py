"""One order as shop, ledger and ERP show it, compared: pure functions.

What is only on its way is no finding: an order, a cancellation or a status that is a few minutes old is for the flows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from erp_sync.ledger.entry import Entry
from erp_sync.ledger.reconciled_day import Finding, Verdict
from erp_sync.ledger.status_entry import StatusEntry
from erp_sync.mapping import payload_hash
from erp_sync.models import (
    CANCEL_UNDER_WAY,
    Cancellation,
    FoundOrder,
    LedgerState,
    Order,
    OrderProgress,
    OrderStatus,
    ShopState,
    UnreadableOrder,
)
from erp_sync.money import cents
from erp_sync.order_status import ENDED, INVOICED, derive, lacks_invoices
from erp_sync.sync.problems import CANCELLATION, SHOP_STATUS, problem_of
from erp_sync.sync.telling import Telling

YOUNG = timedelta(minutes=15)
"""What is younger than this may simply not be there yet."""
KEY_WAITS = timedelta(hours=1)
"""So long the tax office may take to authorise an invoice."""

_ALIVE = frozenset({ShopState.READY, ShopState.WAITING})
_PERSON_CANCELS = frozenset({Cancellation.TOO_LATE, Cancellation.REFUSED, Cancellation.RESTORED, Cancellation.RESIDUE})


@dataclass(frozen=True, slots=True)
class Sides:
    entry: Entry
    """As the ledger had it before the others were asked."""
    life: StatusEntry | None = None
    """None: it is not sent, or still being read back."""
    order: Order | UnreadableOrder | None = None
    """None: the shop does not have it."""
    state: str = ""
    """Of the shop; "" where it does not have the order."""
    changed_at: datetime | None = None
    """By the shop."""
    shown: str | None = None
    """The shop's own word for its status. None: it has none, or the profile does not say where."""
    rows: Sequence[FoundOrder] = ()
    """What the ERP has under its external id, deleted orders included."""
    progress: OrderProgress | None = None
    """How far the order with the ledger's C5_NUM has come. None: it was not asked, or does not show."""
    renamed: FoundOrder | None = None
    """The live order with the ledger's C5_NUM, where none has the external id."""


@dataclass
class Compared:
    findings: list[Finding] = field(default_factory=list)
    in_shop: Decimal | None = None
    """What it is worth in the shop. None: it is not to be in the ERP."""
    in_erp: tuple[Decimal, ...] = ()
    """What it is worth in the ERP: once, if all is well."""
    status: OrderStatus | None = None
    waiting: bool = False


def compare(sides: Sides, telling: Telling, now: datetime, young: timedelta = YOUNG) -> Compared:
    return _Comparison(sides, telling, now, young).result


class _Comparison:
    def __init__(self, sides: Sides, telling: Telling, now: datetime, young: timedelta) -> None:
        self.result = Compared()
        self._sides = sides
        self._entry = sides.entry
        self._telling = telling
        self._now = now
        self._young = young
        # The number of a second shop row with it belongs to the first one, and so does the ERP's order.
        rows = sides.rows if sides.entry.external_id is not None else ()
        self._live = [row for row in rows if not row.deleted]
        self._shop_total = sides.order.total if isinstance(sides.order, Order) else None
        sent = self._entry.state is LedgerState.SENT
        if sides.state == ShopState.READY or (sent and sides.state not in ("", ShopState.CANCELLED)):
            self.result.in_shop = self._shop_total or Decimal(0)
        if len(self._live) > 1:
            self._find(Verdict.TWICE)
            self._count_rows()
        elif sent:
            self._sent(rows)
        else:
            self._unsent()

    def _find(
        self, verdict: Verdict, shop_says: str = "", erp_says: str = "", note: str = "", rows: Sequence[FoundOrder] = ()
    ) -> None:
        rows = rows or self._live
        self.result.findings.append(
            Finding(
                number=self._entry.number,
                verdict=verdict,
                shop_total=self._shop_total,
                erp_total=sum((row.total for row in rows), Decimal(0)) if rows else None,
                shop_says=shop_says,
                erp_says=erp_says,
                erp_numbers=", ".join(row.number for row in rows) or self._entry.erp_number,
                note=note,
            )
        )

    def _count_rows(self) -> None:
        self.result.in_erp = tuple(row.total for row in self._live)

    def _is_fresh(self, moment: datetime | None) -> bool:
        return moment is not None and self._now - moment < self._young

    # Not sent -------------------------------------------------------------------------------------------------------

    def _unsent(self) -> None:
        entry, state = self._entry, self._sides.state
        claimed = entry.state is LedgerState.SENDING and entry.next_at is not None and entry.next_at > self._now
        problems = "; ".join(map(str, entry.problems))
        if self._live:
            self._count_rows()
            if claimed:
                self.result.waiting = True
            elif entry.erp_number or state != ShopState.READY or not self._may_be_adopted():
                self._find(Verdict.FOUND_PERSON, shop_says=state or "gone", erp_says="there", note=problems)
            else:
                self._find(Verdict.FOUND_ADOPT, shop_says=state, erp_says="there", note=problems)
        elif state != ShopState.READY:
            return  # whatever it was: nobody wants it in the ERP, and it is not there
        elif entry.state in (LedgerState.REFUSED, LedgerState.INVALID):
            self._find(Verdict.MISSING_HELD, shop_says=entry.state, note=problems)
        elif entry.state is LedgerState.CANCELLED:
            if self._is_fresh(self._sides.changed_at):
                self.result.waiting = True
            else:
                self._find(Verdict.MISSING_REOPENED, shop_says=state)
        elif claimed or self._is_fresh(entry.found_at):
            self.result.waiting = True
        else:
            self._find(Verdict.MISSING_WAITING, shop_says=entry.state)

    def _may_be_adopted(self) -> bool:
        """Under another number the look-up would miss it, and an invalid order is never looked up."""
        order, entry = self._sides.order, self._entry
        return isinstance(order, Order) and order.number == entry.number and entry.state is not LedgerState.INVALID

    # Sent -----------------------------------------------------------------------------------------------------------

    def _sent(self, rows: Sequence[FoundOrder]) -> None:
        life, progress = self._sides.life, self._sides.progress
        known_ended = life is not None and life.status in ENDED
        if not self._live and not rows and not known_ended:
            self._without_row()
            return
        status = derive(progress) if progress is not None and self._live else None
        if self._live and (status is None or lacks_invoices_for(progress, status)):
            status = life.status if life is not None and life.status not in ENDED else None
        if not self._live:
            status = life.status if life is not None and life.status in ENDED else OrderStatus.DELETED
        self.result.status = status
        ended = status in ENDED
        if self._live and not ended:
            self._count_rows()
        state = self._sides.state
        if not state:
            if not ended:
                self._find(Verdict.UNKNOWN_GONE, shop_says="gone", erp_says=status or "there")
            return
        if ended:
            self._ended(status)
        elif state == ShopState.CANCELLED:
            self._cancelled_in_shop(status)
        else:
            self._figures()
            self._status(status)
        if not ended:
            self._nfe_keys(status)
        if ended or state == ShopState.CANCELLED:
            self.result.in_shop = None

    def _without_row(self) -> None:
        if self._entry.next_at is not None:
            self.result.waiting = True  # its sending is still being read back
        elif self._sides.renamed is not None:
            row = self._sides.renamed
            self._find(Verdict.MISSING_ID_LOST, self._entry.number, row.external_id or "none", rows=[row])
        else:
            self._find(Verdict.MISSING_VANISHED, shop_says=self._sides.state or "gone")

    def _ended(self, status: OrderStatus | None) -> None:
        life = self._sides.life
        if self._sides.state not in _ALIVE:
            return
        if life is None or life.status not in ENDED:
            if not self._flow_is_at(life):
                self._find(Verdict.CANCELLED_ERP, self._sides.state, status or "")
        elif not self._is_pending(life.write_at):
            note = str(problem_of(life.problems, SHOP_STATUS) or "")
            self._find(Verdict.CANCELLED_ERP_KEPT, self._sides.state, status or "", note)

    def _cancelled_in_shop(self, status: OrderStatus | None) -> None:
        life = self._sides.life
        if life is None or self._is_fresh(self._sides.changed_at):
            return
        if life.cancellation in _PERSON_CANCELS:
            note = str(problem_of(life.problems, CANCELLATION) or "")
            self._find(Verdict.CANCELLED_TOO_LATE, ShopState.CANCELLED, status or "there", note)
        elif life.cancellation not in CANCEL_UNDER_WAY or not self._is_pending(life.cancel_at):
            self._find(Verdict.CANCELLED_SHOP, ShopState.CANCELLED, status or "there")

    def _figures(self) -> None:
        order, entry, row = self._sides.order, self._entry, self._live[0]
        if not isinstance(order, Order):
            note = "; ".join(map(str, order.problems)) if order is not None else ""
            self._find(Verdict.CHANGED_UNREADABLE, note=note)
            return
        sent = entry.total if entry.total is not None else order.total
        changed = bool(entry.payload_hash) and payload_hash(order) != entry.payload_hash
        if row.total not in (sent, order.total):
            self._find(Verdict.TOTAL)
            return
        shop_lines = _lines(len(order.lines), [cents(line.quantity) for line in order.lines])
        progress = self._sides.progress
        erp_lines = _lines(row.line_count, [item.quantity for item in progress.items]) if progress else shop_lines
        if row.total != order.total:
            self._find(Verdict.CHANGED if changed else Verdict.TOTAL, shop_lines, erp_lines)
        elif shop_lines != erp_lines:
            self._find(Verdict.CHANGED if changed else Verdict.LINES, shop_lines, erp_lines)

    def _status(self, status: OrderStatus | None) -> None:
        life, shown = self._sides.life, self._sides.shown
        value = self._telling.value(status)
        if life is None or status is None or shown is None or value is None:
            return
        if not self._telling.is_behind(shown, value):
            return
        problem = problem_of(life.problems, SHOP_STATUS)
        if life.status is not status:
            if not self._flow_is_at(life):
                self._find(Verdict.STATUS_STALE, shown, status)
        elif problem is not None:
            self._find(Verdict.STATUS_KEPT, shown, status, str(problem))
        elif not self._is_pending(life.write_at):
            self._find(Verdict.STATUS_SHOP, shown, status)

    def _nfe_keys(self, status: OrderStatus | None) -> None:
        progress, life = self._sides.progress, self._sides.life
        if progress is None or life is None:
            return
        problem = self._telling.key_problem(progress.invoices)
        if problem is not None:
            self._find(Verdict.NFE_INVALID, erp_says=problem.value, note=problem.advice)
        without = [invoice for invoice in progress.invoices if not invoice.key]
        waited = min(KEY_WAITS, self._young * 4)
        if without and status in INVOICED and (life.changed_at is None or self._now - life.changed_at >= waited):
            names = ", ".join(f"{invoice.number}/{invoice.series}" for invoice in without)
            self._find(Verdict.NFE_MISSING, erp_says=f"invoice {names}")

    def _flow_is_at(self, life: StatusEntry | None) -> bool:
        """Whether the statuses flow asks for it soon enough, or does so this moment."""
        return life is None or self._is_pending(life.next_at)

    def _is_pending(self, due: datetime | None) -> bool:
        return due is not None and abs(self._now - due) < self._young


def lacks_invoices_for(progress: OrderProgress | None, status: OrderStatus) -> bool:
    """One look without its invoices proves no end."""
    return progress is not None and status in ENDED and lacks_invoices(progress)


def _lines(count: int, quantities: Sequence[Decimal]) -> str:
    units = sum(quantities, Decimal(0)).normalize()
    return f"{count} lines, {units:f} units"
