"""What a pass of the orders flow did."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from itertools import islice

from erp_sync.errors import ErpSyncError
from erp_sync.ledger.entry import Change
from erp_sync.models import LedgerState


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
    erp_milliseconds: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    """Of the latest creates: a pass over a year's orders must not grow with them."""
    minutes_to_erp: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    """Of the latest orders that were sent or adopted, from their first sight on."""
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
            if name in ("sent", "adopted") and change.new.sent_at is not None:
                self.minutes_to_erp.append((change.new.sent_at - change.new.found_at).total_seconds() / 60)
            if name is not None:
                setattr(self, name, getattr(self, name) + 1)
                if change.new.day is not None:
                    day = self.days[change.new.day]
                    setattr(day, name, getattr(day, name) + 1)
            if change.event.milliseconds is not None:
                self.erp_milliseconds.append(change.event.milliseconds)

    def add(self, other: OrdersResult) -> None:
        """What another pass did; what stands at its end is left out."""
        for name in ("found", "sent", "adopted", "refused", "invalid", "cancelled", "incidents"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.erp_milliseconds += other.erp_milliseconds
        self.minutes_to_erp += other.minutes_to_erp
        for day, done in other.days.items():
            for count in fields(DayResult):
                setattr(self.days[day], count.name, getattr(self.days[day], count.name) + getattr(done, count.name))
        self.failure = self.failure or other.failure

    def p95_milliseconds(self) -> float:
        """Of the ERP's answers to creates. 0.0 if there were none."""
        ordered = sorted(self.erp_milliseconds)
        return ordered[int(len(ordered) * 0.95)] if ordered else 0.0


@dataclass
class StatusesResult:
    """What one pass of the statuses flow did."""

    asked: int = 0
    """Orders that the ERP was asked for."""
    changed: int = 0
    """Of them, whose life in the ERP went on."""
    told: int = 0
    """Orders whose status was written to the shop."""
    kept: int = 0
    """Orders that the shop keeps as they are, against what the ERP says: each has a problem."""
    cancelled: int = 0
    """Orders cancelled in the ERP, whole or the open rest, because the shop cancelled them."""
    too_late: int = 0
    """Orders that the shop cancelled and the ERP has invoiced."""
    cancel_refused: int = 0
    failure: ErpSyncError | None = None
    """Why the system failed. None: it did its work, whatever became of single orders."""

    def add(self, other: StatusesResult) -> None:
        for name in ("asked", "changed", "told", "kept", "cancelled", "too_late", "cancel_refused"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failure = self.failure or other.failure


EXAMPLES = 20
"""SKUs that are named of each kind of trouble."""


@dataclass(frozen=True, slots=True)
class StockChange:
    sku: str
    warehouse: str
    """The shop's name; "" where it has but one stock."""
    before: int
    after: int


@dataclass
class StockResult:
    """What one pass of the stock flow saw and did."""

    read_at: datetime | None = None
    """T: the ERP's figures were certainly valid then. None: the ERP was not read."""
    skus: int = 0
    """Products of the ERP, in the configured warehouses."""
    found: int = 0
    """Stocks of the shop that belong to them."""
    unknown: int = 0
    """Products that the shop does not have."""
    ambiguous: int = 0
    """Products that the shop has more than once: refused."""
    known: int = 0
    """Products of the shop that the ERP has; as often as the shop has them."""
    unknown_to_erp: int = 0
    """Products of the shop that the ERP has not, as far as was asked. 0 where the profile lists no SKUs."""
    asked_by_name: int = 0
    """Products that no page of the ERP showed, and that it was asked for by name."""
    zero_by_name: int = 0
    """Of them, those that the ERP has without a row of stock: their balance is zero (`stock.without_row`)."""
    different: int = 0
    """Stocks that are not what they should be; what would be written."""
    written: int = 0
    raised: int = 0
    lowered: int = 0
    held_back: int = 0
    """Stocks that would rise by a figure too old to trust."""
    failed: int = 0
    in_flight_orders: int = 0
    in_flight_units: int = 0
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """A few SKUs of each kind of trouble: unknown, unknown_to_erp, ambiguous, failed."""
    changes: list[StockChange] = field(default_factory=list)
    """The largest ones."""
    csv_problem: str = ""
    """Why the file of differences was not written. "": it was, or nobody wants it."""
    guard: str = ""
    """Why nothing was written until a person accepts it. "": it was."""
    failure: ErpSyncError | None = None
    """Why the system failed. None: it did its work."""

    def add(self, written: StockResult) -> None:
        """What became of one chunk."""
        for name in ("written", "raised", "lowered", "held_back", "failed"):
            setattr(self, name, getattr(self, name) + getattr(written, name))
        for kind, skus in written.examples.items():
            self.examples[kind] = (self.examples[kind] + skus)[:EXAMPLES]

    def trouble(self, kind: str, what: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        self.name(kind, (what,))

    def name(self, kind: str, what: Iterable[str]) -> None:
        """As examples, as many as there is room for."""
        self.examples[kind] += islice(what, EXAMPLES - len(self.examples[kind]))
