"""What becomes of sent orders in the ERP: when each is asked for, what the shop was told, and the story of it.

The row is written in the transaction that makes an order `sent` (ledger/entries.py). Every change is a compare-and-set
on the version and one event row with the same version, in one transaction.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, and_, bindparam, func, or_, select, update

from erp_sync.ledger.entries import SEND_BY_AHEAD
from erp_sync.ledger.part import LedgerPart
from erp_sync.ledger.status_entry import StatusChange, StatusEntry, StatusEvent
from erp_sync.ledger.story import tell_status_story
from erp_sync.ledger.tables import entries, status_events, statuses
from erp_sync.ledger.writing import Writing, Written
from erp_sync.models import LedgerState, OrderStatus

Due = Literal["next_at", "write_at", "cancel_at"]
"""What a row may be due for: to be asked for in the ERP, told to the shop, cancelled in the ERP."""

CHUNK = 500
FARTHEST = timedelta(days=2)
"""Nothing is ever put off for longer than this: what lies further ahead comes from a clock that jumped."""

_JOINED = ("number", "erp_branch", "erp_number", "sent_at")
_COLUMNS = [field.name for field in fields(StatusEntry)]
_OWN = [name for name in _COLUMNS if name not in _JOINED and name != "order_id"]


def _of_sent(*columns: Any) -> Select[Any]:
    """An order whose sending is still being read back is none of this yet."""
    both = statuses.join(entries, entries.c.order_id == statuses.c.order_id)
    settled = (entries.c.state == LedgerState.SENT, entries.c.next_at.is_(None), entries.c.sent_at.is_not(None))
    return select(*columns).select_from(both).where(*settled)


_ROWS = _of_sent(*(entries.c[name] if name in _JOINED else statuses.c[name] for name in _COLUMNS))
_CHANGE = (
    update(statuses)
    .where(statuses.c.order_id == bindparam("key"), statuses.c.version == bindparam("old_version"))
    .values({name: bindparam(f"new_{name}") for name in _OWN})
)


class Statuses(LedgerPart):
    def statuses_due(
        self, due: Due, by: datetime, limit: int, after: tuple[datetime, str] | None = None
    ) -> list[StatusEntry]:
        """Those due until `by`, the longest waiting first; the page `after` the last one's (time, order id)."""
        column = statuses.c[due]
        query = _ROWS.where(column <= by)
        if due == "write_at":
            query = query.where(or_(statuses.c.telling_until.is_(None), statuses.c.telling_until <= self.now()))
        if after is not None:
            at, order_id = after
            query = query.where(column >= at, or_(column > at, statuses.c.order_id > order_id))
        return self._status_entries(query.order_by(column, statuses.c.order_id).limit(limit))

    def statuses_of(
        self,
        limit: int,
        *,
        day: date | None = None,
        numbers: Collection[str] | None = None,
        after: str = "",
    ) -> list[StatusEntry]:
        """Sent orders of a day or of these numbers, final ones too; else those that are not final. By order id, the
        page `after` one."""
        query = _ROWS.where(statuses.c.order_id > after)
        if numbers is not None:
            query = query.where(entries.c.number.in_(numbers))
        if day is not None:
            query = query.where(entries.c.day == day)
        if numbers is None and day is None:
            query = query.where(statuses.c.next_at.is_not(None))
        return self._status_entries(query.order_by(statuses.c.order_id).limit(limit))

    def statuses(self, order_ids: Sequence[str]) -> dict[str, StatusEntry]:
        """Of the sent orders among these."""
        found: dict[str, StatusEntry] = {}
        for start in range(0, len(order_ids), CHUNK):
            query = _ROWS.where(statuses.c.order_id.in_(order_ids[start : start + CHUNK]))
            found |= {entry.order_id: entry for entry in self._status_entries(query)}
        return found

    def change_statuses(self, changes: Sequence[StatusChange]) -> list[bool]:
        """All changes whose entry still has the version they are based on, in one transaction. False: it moved on.

        Raises LedgerUnavailable when it cannot be known what became of them.
        """
        if not changes:
            return []
        writing = Writing(status_events, secrets.token_hex(8), self.now())

        def landed(connection: Connection, written: Written) -> bool:
            # Without an event nothing tells a lost COMMIT: done once more, what landed is refused, and waits its time.
            return written.event is not None and writing.landed(connection, written)

        written = self._database.write(partial(_change, changes, writing), landed)
        tell_status_story(written.made)
        return written.results

    def statuses_unchanged(self, order_ids: Sequence[str], next_at: datetime | None, *, deep: bool) -> None:
        """The ERP was asked, and nothing is new. Only hints are written, so nobody is in the way of anybody."""
        now = self.now()
        values: dict[str, Any] = {"asked_at": now, "next_at": next_at, **({"deep_at": now} if deep else {})}

        def work(connection: Connection) -> None:
            for start in range(0, len(order_ids), CHUNK):
                chunk = order_ids[start : start + CHUNK]
                connection.execute(update(statuses).where(statuses.c.order_id.in_(chunk)).values(values))

        if order_ids:
            self._database.write(work)

    def status_counts(self) -> dict[OrderStatus | None, int]:
        """Sent orders that are not final, by status; None: not asked yet."""
        query = _of_sent(statuses.c.status, func.count().label("n")).where(statuses.c.next_at.is_not(None))
        return {row.status: row.n for row in self._database.rows(query.group_by(statuses.c.status))}

    def told(self) -> int:
        """Of how many orders the shop was told something."""
        query = select(func.count()).select_from(statuses).where(statuses.c.told_hash != "")
        return int(self._database.rows(query)[0][0])

    def statuses_under_way(self) -> int:
        """Orders in the middle of something: a cancellation, a second look, a claim on the shop's row."""
        settled = [OrderStatus.CANCELLED, OrderStatus.DELETED, OrderStatus.NOT_FOUND]
        second_look = and_(statuses.c.missing_since.is_not(None), statuses.c.status.not_in(settled))
        busy = or_(statuses.c.cancel_at.is_not(None), statuses.c.telling_until.is_not(None), second_look)
        return int(self._database.rows(select(func.count()).select_from(statuses).where(busy))[0][0])

    def oldest_untold(self) -> datetime | None:
        """Since when the change is known that waits longest to be told to the shop."""
        query = _of_sent(func.min(statuses.c.changed_at)).where(statuses.c.write_at.is_not(None))
        oldest: datetime | None = self._database.rows(query)[0][0]
        return oldest

    def untold(self) -> int:
        """How many changes the shop does not know yet."""
        query = _of_sent(func.count()).where(statuses.c.write_at.is_not(None))
        return int(self._database.rows(query)[0][0])

    def oldest_overdue(self) -> datetime | None:
        """Since when the order is to be asked for whose turn has been due for longest."""
        query = _of_sent(func.min(statuses.c.next_at)).where(statuses.c.next_at <= self.now())
        oldest: datetime | None = self._database.rows(query)[0][0]
        return oldest

    def status_story(self, order_id: str) -> Sequence[tuple[datetime, StatusEvent, OrderStatus | None]]:
        """Every event of a sent order's life, the oldest first, with the status that it led to."""
        query = select(status_events).where(status_events.c.order_id == order_id).order_by(status_events.c.version)
        return [(row.at, StatusEvent(row.kind, row.text, row.erp_at), row.status) for row in self._database.rows(query)]

    def heal_statuses(self) -> None:
        """After the clock jumped back: pull in what lies further ahead than anything may. Harmless at any time."""
        now = self.now()

        def work(connection: Connection) -> None:
            for name in ("next_at", "write_at", "telling_until", "cancel_at"):
                column = statuses.c[name]
                connection.execute(update(statuses).where(column > now + FARTHEST).values({name: now}))
            waits, send_by = statuses.c.cancel_at.is_not(None), statuses.c.cancel_send_by
            last_byte = now + SEND_BY_AHEAD
            connection.execute(update(statuses).where(waits, send_by > last_byte).values(cancel_send_by=last_byte))

        self._database.write(work)

    def _status_entries(self, query: Select[Any]) -> list[StatusEntry]:
        return [_entry(row) for row in self._database.rows(query)]


def _change(changes: Sequence[StatusChange], writing: Writing, connection: Connection) -> Written:
    results = [False] * len(changes)
    told: list[dict[str, Any]] = []
    made: list[tuple[StatusEntry, StatusEvent]] = []
    # Always in the same order, so that two transactions over the same rows queue up instead of deadlocking.
    for index in sorted(range(len(changes)), key=lambda index: changes[index].old.order_id):
        old, new, event = changes[index].old, changes[index].new, changes[index].event
        values = {f"new_{name}": getattr(new, name) for name in _OWN}
        values |= {"key": old.order_id, "old_version": old.version}
        values["new_version"] = old.version + 1
        results[index] = connection.execute(_CHANGE, values).rowcount == 1
        if results[index] and event is not None:
            made.append((new, event))
            told.append(
                {
                    "order_id": old.order_id,
                    "version": old.version + 1,
                    "erp_at": event.erp_at,
                    "status": new.status,
                    "kind": event.kind,
                    "text": event.text,
                }
            )
    return replace(writing.tell(connection, results, told), made=made)


def _entry(row: Row[Any]) -> StatusEntry:
    values: Sequence[Any] = row
    return StatusEntry(*values)  # the columns are the fields, in their order
