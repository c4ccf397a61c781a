"""What a pass of the orders flow did."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date

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
