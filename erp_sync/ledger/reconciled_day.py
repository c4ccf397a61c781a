"""What the reconciliation of a business day found: its figures, and what does not agree of each order."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal


class Verdict(enum.StrEnum):
    """What is wrong with an order, and in which case: `kind.case`. `reconcile_words` says what is to be done."""

    MISSING_NEW = "missing.new"
    """Ready in the shop, and the ledger never saw it."""
    MISSING_REOPENED = "missing.reopened"
    """Cancelled before it was sent, and ready again since."""
    MISSING_WAITING = "missing.waiting"
    """Due or in doubt for longer than anything should be."""
    MISSING_HELD = "missing.held"
    """Refused or invalid."""
    MISSING_VANISHED = "missing.vanished"
    """Sent, and the ERP has no row of it, not even a deleted one."""
    MISSING_ID_LOST = "missing.id_lost"
    """Sent, and its row in the ERP has another external id now."""
    TWICE = "twice.live"
    TOTAL = "total.erp"
    TOTAL_UNREADABLE = "total.unreadable"
    """A figure of the ERP's row is no number."""
    LINES = "lines.erp"
    CHANGED = "changed.shop"
    """Total or lines, in the shop, after it was sent."""
    CHANGED_UNREADABLE = "changed.unreadable"
    """Sent, and its row in the shop cannot be read any more."""
    FOUND_ADOPT = "found.adopt"
    """The ERP has it, the ledger did not send it: the look-up before the create adopts it."""
    FOUND_PERSON = "found.person"
    """The ERP has it, the ledger did not send it, and it is not for us to adopt."""
    STATUS_STALE = "status.stale"
    """The ERP moved on after the ledger stopped asking."""
    STATUS_SHOP = "status.shop"
    """The shop shows another status than the one it was told."""
    STATUS_KEPT = "status.kept"
    """The shop's status is not ours to overwrite."""
    CANCELLED_SHOP = "cancelled.shop"
    """In the shop alone, so far."""
    CANCELLED_TOO_LATE = "cancelled.too_late"
    """In the shop alone, and the ERP cannot follow by itself."""
    CANCELLED_ERP = "cancelled.erp"
    """In the ERP alone, so far."""
    CANCELLED_ERP_KEPT = "cancelled.erp_kept"
    """In the ERP alone, and the shop does not follow by itself."""
    NFE_MISSING = "nfe_key.missing"
    NFE_INVALID = "nfe_key.invalid"
    UNKNOWN = "unknown.erp"
    """The ERP has it, and neither shop nor ledger knows its number."""
    UNKNOWN_GONE = "unknown.gone"
    """The ERP has it, and the shop has it no more."""

    @property
    def kind(self) -> str:
        return self.partition(".")[0]

    @property
    def is_grave(self) -> bool:
        """Money or goods are wrong; all else is only not as it should be."""
        return self.kind in ("missing", "twice", "total")

    @property
    def is_repaired(self) -> bool:
        """The flows do it by themselves, and were told to do it now; otherwise a person decides."""
        return self in _REPAIRED


KINDS = tuple(dict.fromkeys(verdict.kind for verdict in Verdict))
_REPAIRED = frozenset(
    {
        *(Verdict.MISSING_NEW, Verdict.MISSING_REOPENED, Verdict.MISSING_WAITING, Verdict.FOUND_ADOPT),
        *(Verdict.STATUS_STALE, Verdict.STATUS_SHOP, Verdict.CANCELLED_SHOP, Verdict.CANCELLED_ERP),
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    number: str
    verdict: Verdict
    shop_total: Decimal | None = None
    """None: the shop does not have it, or it cannot be read."""
    erp_total: Decimal | None = None
    """None: the ERP does not have it."""
    shop_says: str = ""
    """Where it is no amount that differs: a status, "2 lines, 5 units"."""
    erp_says: str = ""
    erp_numbers: str = ""
    """C5_NUM; all of them where there are several."""
    note: str = ""
    """What is known besides, without personal data."""


@dataclass
class ReconciledDay:
    day: date
    at: datetime
    """When it was begun, aware, in UTC, on the ledger's clock."""
    shop_orders: int = 0
    """Orders of the day that are to be in the ERP, or on their way to it: the shop has them ready, or had them ready
    when they were sent and did not cancel them."""
    shop_value: Decimal = Decimal(0)
    erp_orders: int = 0
    """Live orders in the ERP, each one counted, but for those whose open rest was given up whole."""
    erp_value: Decimal = Decimal(0)
    waiting: int = 0
    """Of the shop's orders, those that are not in the ERP only because they are a few minutes old."""
    median_minutes: float | None = None
    """From the order's finding to the ERP's number. None: nothing was sent."""
    p95_minutes: float | None = None
    statuses: dict[str, int] = field(default_factory=dict)
    """Orders in the ERP by `OrderStatus`, as it says now."""
    findings: list[Finding] = field(default_factory=list)

    def count(self, kind: str) -> int:
        return sum(finding.verdict.kind == kind for finding in self.findings)

    @property
    def value_difference(self) -> Decimal:
        """What the shop sold less what the ERP has."""
        return self.shop_value - self.erp_value
