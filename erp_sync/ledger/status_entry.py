"""What the ledger knows of a sent order's life in the ERP, and one line of that story."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from erp_sync.models import Cancellation, Invoice, OrderStatus, Problem


@dataclass(frozen=True, slots=True)
class StatusEntry:
    """All datetimes are aware, in UTC, on the ledger's clock."""

    order_id: str
    version: int
    """The fencing token, as of an order's entry: every change adds one."""
    status: OrderStatus | None
    """None: the ERP was not asked yet."""
    fingerprint: str
    """`order_status.fingerprint` of the last look; "" makes the next one go deep."""
    changed_at: datetime | None
    """When the ERP's side last changed, as we saw it. None: it was not asked yet."""
    asked_at: datetime | None
    deep_at: datetime | None
    """When releases and invoices were last read."""
    next_at: datetime | None
    """When the ERP should be asked again. None: never, this is final."""
    missing_since: datetime | None
    """Since when the ERP does not show the order, or invoices that its items count; counts once a second look confirms
    it. None: it is there."""
    tracking_code: str
    invoices: tuple[Invoice, ...]
    told_status: OrderStatus | None
    """What the shop was last told. None: nothing yet."""
    told_hash: str
    """Of all that the shop was last told."""
    told_values: tuple[str, ...]
    """The shop's words that we wrote, or were about to: those are ours to overwrite."""
    write_at: datetime | None
    """When the shop is to be told. None: it knows, or is to be left alone."""
    telling_until: datetime | None
    """Until then one process alone may write to the shop. None: nobody does."""
    cancellation: Cancellation
    cancel_send_by: datetime | None
    """No byte of any cancel call so far leaves after this. None: there was none."""
    cancel_at: datetime | None
    """When the cancellation goes on; while it is being sent, the end of its lease. None: at rest."""
    cancel_attempts: int
    """Cancel calls that left this machine or may have."""
    problems: tuple[Problem, ...]

    # Of the order's own entry; never written from here.
    number: str
    erp_branch: str
    erp_number: str
    sent_at: datetime


@dataclass(frozen=True, slots=True)
class StatusEvent:
    kind: str
    """status, missing, told, kept, shop_order_gone, cancel_wanted, cancel_sent, cancel_in_doubt, cancelled, residue,
    too_late, cancel_refused, cancel_withdrawn, restored, reconciled"""
    text: str
    """In plain words, without personal data."""
    erp_at: datetime | None = None
    """The ERP's own clock when it said so, aware, in UTC. None: it was not asked, or does not say."""


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A compare-and-set: `new` replaces `old` only while the stored entry still has `old.version`.

    `event` None: nothing of the order's story happened (a look without news, a claim).
    """

    old: StatusEntry
    new: StatusEntry
    event: StatusEvent | None


def stored(change: StatusChange) -> StatusEntry:
    """The entry as it is stored once the change was made: what the next change is based on."""
    return replace(change.new, version=change.old.version + 1)
