"""One shop order as the ledger knows it, and one line of its story."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from erp_sync.models import LedgerState, Problem


@dataclass(frozen=True, slots=True)
class Entry:
    """All datetimes are aware, in UTC, on the ledger's clock."""

    order_id: str
    number: str
    """What people call the order; on its way to the ERP it is the external id."""
    external_id: str | None
    """`number`, unique over all entries. None: another shop row has that number already; this one is invalid."""
    day: date | None
    """The business day, from the first sight on. None: the shop's `ordered_at` cannot be read; the entry is invalid."""
    state: LedgerState
    version: int
    """The fencing token: every change adds one, and a change is made only to the version it was based on."""
    found_at: datetime
    next_at: datetime | None
    """When somebody should look at it again: for `sending` the end of the lease. None: settled."""
    payload_hash: str = ""
    """Of what was (or would have been) sent. "": not looked at yet."""
    total: Decimal | None = None
    """The shop's total at the last look. None: not looked at yet."""
    attempts: int = 0
    """Creates that left this machine or may have."""
    intent_at: datetime | None = None
    """When the running attempt's intent was committed. None: nothing of this claim has left the machine."""
    send_by: datetime | None = None
    """No byte of any attempt so far leaves after this. None: there was none."""
    customer_key: str = ""
    """A1_COD/A1_LOJA of the last attempt: no two creates for one customer at once."""
    erp_branch: str = ""
    erp_number: str = ""
    """C5_NUM. Once it is known the order is never created again."""
    sent_at: datetime | None = None
    """When the ERP's number was first known here."""
    verified_at: datetime | None = None
    """When the order was read back from the ERP."""
    problems: tuple[Problem, ...] = ()

    @property
    def nothing_on_its_way(self) -> bool:
        """No create of this claim, or of any before it that is not proven absent, can have left the machine."""
        return self.state is LedgerState.DUE or (self.state is LedgerState.SENDING and self.intent_at is None)


@dataclass(frozen=True, slots=True)
class Event:
    """Why an entry changed: one line of the order's story."""

    kind: str
    """found, claimed, intent, sent, adopted, in_doubt, due, refused, invalid, cancelled, verified, released, retried,
    incident, note, reconciled, forgotten"""
    text: str = ""
    """In plain words, without personal data."""
    milliseconds: float | None = None
    """How long the ERP took. None: it was not asked."""


@dataclass(frozen=True, slots=True)
class Change:
    """A compare-and-set: `new` replaces `old` only while the stored entry still has `old.version`.

    `hold` and `release` guard the customer (`customer_key`) in the same transaction: a change with `hold` is not made
    while another order's live hold on that customer lasts; `release` ends the hold of this order.
    """

    old: Entry
    new: Entry
    event: Event
    hold: str = ""
    release: str = ""
