"""What stands in the ledger that should not: counted over all of it, by ranges of an index."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, FromClause, and_, func, or_, select

from erp_sync.ledger.part import LedgerPart
from erp_sync.ledger.tables import entries, status_events, statuses
from erp_sync.models import Cancellation, LedgerState, Problem

SAMPLE = 5
PAGE = 1000

_LIFE = statuses.join(entries, entries.c.order_id == statuses.c.order_id)


@dataclass(frozen=True, slots=True)
class Standing:
    """Orders of one kind."""

    count: int = 0
    oldest_at: datetime | None = None
    """None: there is none."""
    sample: tuple[str, ...] = ()
    """The numbers of the oldest ones."""


@dataclass(frozen=True, slots=True)
class Troubled:
    """An order that the ERP has, and not as it was sent."""

    number: str
    found_at: datetime
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class TroubledStatus:
    """A sent order with a problem, for as long as it is watched or its cancellation is a person's task."""

    order_id: str
    number: str
    cancellation: Cancellation
    is_watched: bool
    changed_at: datetime | None
    problems: tuple[Problem, ...]


class Health(LedgerPart):
    def unsent(self, found_before: datetime) -> Standing:
        """Orders found before, that are due, being sent or in doubt."""
        waits = entries.c.state.in_([LedgerState.DUE, LedgerState.SENDING, LedgerState.IN_DOUBT])
        return self._standing(entries, entries.c.found_at, and_(waits, entries.c.found_at <= found_before))

    def in_doubt(self, since: datetime) -> Standing:
        """Orders whose create left before, or may have, and whose outcome is not known."""
        doubted = entries.c.state.in_([LedgerState.SENDING, LedgerState.IN_DOUBT])
        return self._standing(entries, entries.c.intent_at, and_(doubted, entries.c.intent_at <= since))

    def rejected(self) -> Standing:
        """Orders that are refused or invalid; not those that the ERP has otherwise than they were meant."""
        rejected = entries.c.state.in_([LedgerState.REFUSED, LedgerState.INVALID])
        return self._standing(entries, entries.c.found_at, and_(rejected, entries.c.erp_number == ""))

    def troubled(self) -> Iterator[Troubled]:
        """Orders that the ERP has and that are not as they were sent: twice, deleted, of another total. In pages."""
        there = and_(entries.c.state.in_([LedgerState.SENT, LedgerState.REFUSED]), entries.c.erp_number != "")
        columns = (entries.c.order_id, entries.c.number, entries.c.found_at, entries.c.problems)
        after = ""
        while True:
            mine = and_(entries.c.troubled == 1, entries.c.order_id > after, there)
            rows = self._database.rows(select(*columns).where(mine).order_by(entries.c.order_id).limit(PAGE))
            yield from (Troubled(row.number, row.found_at, row.problems) for row in rows)
            if len(rows) < PAGE:
                return
            after = rows[-1].order_id

    def overdue(self, due: Literal["next_at", "write_at", "cancel_at"], since: datetime) -> Standing:
        """Sent orders whose turn came before: to be asked for in the ERP, told to the shop, cancelled in the ERP."""
        column = statuses.c[due]
        return self._standing(_LIFE, column, column <= since)

    def troubled_statuses(self) -> Iterator[TroubledStatus]:
        """Of sent orders. In pages."""
        task = statuses.c.cancellation.in_([Cancellation.TOO_LATE, Cancellation.RESIDUE])
        names = ("order_id", "cancellation", "next_at", "changed_at", "problems")
        columns = (*(statuses.c[name] for name in names), entries.c.number)
        after = ""
        while True:
            mine = and_(statuses.c.troubled == 1, statuses.c.order_id > after)
            query = select(*columns).select_from(_LIFE).where(mine, or_(statuses.c.next_at.is_not(None), task))
            rows = self._database.rows(query.order_by(statuses.c.order_id).limit(PAGE))
            for row in rows:
                watched = row.next_at is not None
                yield TroubledStatus(row.order_id, row.number, row.cancellation, watched, row.changed_at, row.problems)
            if len(rows) < PAGE:
                return
            after = rows[-1].order_id

    def last_status_events(self, order_ids: Sequence[str], kinds: Collection[str]) -> dict[str, datetime]:
        """When the latest event of these kinds was, by order id; one without any is left out."""
        found: dict[str, datetime] = {}
        for start in range(0, len(order_ids), PAGE):
            mine = status_events.c.order_id.in_(order_ids[start : start + PAGE])
            query = select(status_events.c.order_id, func.max(status_events.c.at).label("at"))
            query = query.where(mine, status_events.c.kind.in_(kinds)).group_by(status_events.c.order_id)
            found |= {row.order_id: row.at for row in self._database.rows(query)}
        return found

    def _standing(self, rows: FromClause, since: Any, condition: ColumnElement[bool]) -> Standing:
        tally = select(func.count().label("n"), func.min(since).label("oldest")).select_from(rows).where(condition)
        row = self._database.rows(tally)[0]
        if not row.n:
            return Standing()
        # Of the plain column's order MariaDB takes the index, and passes by nearly all orders before it finds a few.
        first = since if rows is _LIFE else func.coalesce(since, since)
        oldest = select(entries.c.number).select_from(rows).where(condition).order_by(first).limit(SAMPLE)
        return Standing(row.n, row.oldest, tuple(each.number for each in self._database.rows(oldest)))
