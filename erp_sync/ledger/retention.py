"""What the ledger may forget: the routine steps of orders that have long been final, and rows whose time is over.

Never an order's row, never a step of an order that is not final, never the last step of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, Connection, Row, Select, Table, and_, delete, or_, select, tuple_

from erp_sync.ledger.part import LedgerPart
from erp_sync.ledger.tables import customer_holds, entries, events, inbox, incidents, status_events, statuses
from erp_sync.models import LedgerState

CHUNK = 1000
"""Rows that go in one transaction: milliseconds, so that no flow waits for it."""
ORDERS = 100
"""Orders that are looked at in one step; each has about ten steps."""

ROUTINE = {
    events: frozenset({"claimed", "intent", "in_doubt", "due", "verified", "released", "retried", "note"}),
    status_events: frozenset(
        {"status", "missing", "told", "kept", "cancel_wanted", "cancel_sent", "cancel_in_doubt", "cancel_withdrawn"}
        | {"restored"}
    ),
}
"""Kinds that may go. What is named nowhere stays: found, sent, refused, incidents, cancellations and their failures."""

DATED: tuple[tuple[Table, Column[datetime], timedelta], ...] = (
    (customer_holds, customer_holds.c.until, timedelta(days=7)),
    (incidents, incidents.c.closed_at, timedelta(days=400)),
    (inbox, inbox.c.received_at, timedelta(days=30)),
)
"""A row goes once the time in this column is so long over; one without a time stays."""

_Rows = Callable[[Select[Any]], Sequence[Row[Any]]]
_Keys = dict[Table, list[tuple[str, int]]]


@dataclass(frozen=True, slots=True)
class Place:
    """How far a walk over the orders, the oldest first, has come."""

    found_at: datetime
    order_id: str


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What one step of the walk did, or would have done."""

    orders: int
    steps: int
    place: Place | None
    """None: there are no older orders than those looked at."""


class Retention(LedgerPart):
    def forget_steps(self, before: datetime, after: Place | None, *, dry_run: bool = False) -> Forgotten:
        """Delete the routine steps of the next orders, found before then, whose whole story ended before then.

        One transaction. Safe beside everything: what is not final when it is deleted from keeps every step.
        """
        place = tuple_(entries.c.found_at, entries.c.order_id)
        page = select(entries.c.found_at, entries.c.order_id).where(entries.c.found_at < before)
        if after is not None:
            # The first condition is the second one's range of the index, which not every server sees by itself.
            page = page.where(entries.c.found_at >= after.found_at, place > (after.found_at, after.order_id))
        rows = self._database.rows(page.order_by(entries.c.found_at, entries.c.order_id).limit(ORDERS))
        if not rows:
            return Forgotten(0, 0, None)
        order_ids = [row.order_id for row in rows]
        # First without locks: nearly always there is nothing to do.
        found = _routine(self._database.rows, order_ids, before)
        if not dry_run and found:
            found = self._database.write(lambda connection: _forget(connection, order_ids, before))
        keys = [key for keys in found.values() for key in keys]
        last = Place(rows[-1].found_at, rows[-1].order_id) if len(rows) == ORDERS else None
        return Forgotten(len({order_id for order_id, _ in keys}), len(keys), last)

    def forget_dated(self, table: Table, column: Column[datetime], age: timedelta, *, dry_run: bool = False) -> int:
        """Delete at most `CHUNK` rows of a table whose time is over for `age`, in one transaction. Returns how many."""
        key = list(table.primary_key)
        over = column < self.now() - age
        query = select(*key).where(over).limit(CHUNK)
        old = [tuple(row) for row in self._database.rows(query)]
        if old and not dry_run:
            # The time is asked again: a hold may have been taken anew.
            gone = delete(table).where(tuple_(*key).in_(old), over)
            return self._database.write(lambda connection: connection.execute(gone).rowcount)
        return len(old)


def _forget(connection: Connection, order_ids: Sequence[str], before: datetime) -> _Keys:
    found = _routine(lambda query: connection.execute(query).all(), order_ids, before, lock=True)
    for table, keys in found.items():
        of_orders = table.c.order_id.in_({order_id for order_id, _ in keys})
        for start in range(0, len(keys), CHUNK):
            these = tuple_(table.c.order_id, table.c.version).in_(keys[start : start + CHUNK])
            connection.execute(delete(table).where(of_orders, these))
    return found


def _routine(rows: _Rows, order_ids: Sequence[str], before: datetime, *, lock: bool = False) -> _Keys:
    """The keys of the steps that may go, by table. {}: none."""
    life_is_over = and_(statuses.c.next_at.is_(None), statuses.c.write_at.is_(None), statuses.c.cancel_at.is_(None))
    final = or_(
        and_(entries.c.state == LedgerState.SENT, statuses.c.order_id.is_not(None)),
        entries.c.state == LedgerState.CANCELLED,
    )
    both = entries.outerjoin(statuses, statuses.c.order_id == entries.c.order_id)
    settled = select(entries.c.order_id).select_from(both)
    settled = settled.where(entries.c.order_id.in_(order_ids), entries.c.next_at.is_(None), final, life_is_over)
    # Who holds one of these rows is about to write to it: that order is left alone.
    finals = [row.order_id for row in rows(settled.with_for_update(skip_locked=True) if lock else settled)]
    steps = {
        table: rows(
            select(table.c.order_id, table.c.version, table.c.at, table.c.kind)
            .where(table.c.order_id.in_(finals))
            .order_by(table.c.order_id, table.c.version)
        )
        for table in ROUTINE
    }
    young = {row.order_id for told in steps.values() for row in told if row.at >= before}
    found: _Keys = {}
    for table, told in steps.items():
        # In the order of their versions: the last one of each order stays, and the last status too.
        last = {row.order_id: row.version for row in told}
        last_status = {row.order_id: row.version for row in told if row.kind == "status"}
        keys = [
            (row.order_id, row.version)
            for row in told
            if row.kind in ROUTINE[table]
            and row.order_id not in young
            and row.version not in (last[row.order_id], last_status.get(row.order_id))
        ]
        if keys:
            found[table] = keys
    return found
