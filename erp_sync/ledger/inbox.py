"""The inbox: what webhooks told, until each of those orders was looked at. A hint is kept here, never data."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from erp_sync.ledger.part import LedgerPart
from erp_sync.ledger.tables import inbox


@dataclass(frozen=True, slots=True)
class Hint:
    """An event of a webhook: some order of the shop is worth a look."""

    source: str
    event_id: str
    reference: str
    """The shop's `order_id` or the order number, as the source's settings say."""
    received_at: datetime
    looks: int = 0
    """How often the order was looked for without being seen."""


class Inbox(LedgerPart):
    def receive(self, source: str, event_id: str, reference: str) -> Hint | None:
        """Keep an event; it is durable when this returns. None: the source has sent it before."""
        now = self.now()
        row = {
            "source": source,
            "event_id": event_id,
            "reference": reference,
            "received_at": now,
            "next_at": now,
            "looks": 0,
        }
        found = select(inbox.c.received_at).where(inbox.c.source == source, inbox.c.event_id == event_id)

        def work(connection: Connection) -> bool:
            try:
                connection.execute(insert(inbox), row)
            except IntegrityError:
                return False
            return True

        def landed(connection: Connection, new: bool) -> bool:
            return not new or connection.execute(found).scalar() == now

        return Hint(source, event_id, reference, now) if self._database.write(work, landed) else None

    def waiting_hints(self, limit: int) -> Sequence[Hint]:
        """Those whose time to be looked at has come, the oldest first."""
        query = (
            select(inbox.c.source, inbox.c.event_id, inbox.c.reference, inbox.c.received_at, inbox.c.looks)
            .where(inbox.c.next_at <= self.now())
            .order_by(inbox.c.next_at, inbox.c.received_at)
            .limit(limit)
        )
        return [Hint(*tuple(row)) for row in self._database.rows(query)]

    def hints_seen(self, hints: Collection[Hint]) -> None:
        """Their orders were looked at: nothing is left to do for them here."""
        self._set(hints, next_at=None)

    def look_again(self, hint: Hint, at: datetime) -> None:
        """The order was not there yet."""
        self._set([hint], next_at=at, looks=hint.looks + 1)

    def _set(self, hints: Collection[Hint], **values: datetime | int | None) -> None:
        keys = [(hint.source, hint.event_id) for hint in hints]
        if keys:
            change = update(inbox).where(tuple_(inbox.c.source, inbox.c.event_id).in_(keys)).values(**values)
            self._database.write(lambda connection: connection.execute(change))
