"""The inbox: what webhooks told, until each of those orders was looked at. A hint is kept here, never data."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, insert, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from erp_sync.ledger.part import LedgerPart
from erp_sync.ledger.tables import inbox

IN_HAND = timedelta(seconds=10)
"""How long a hint is left to the process that has it; then that one is gone, or could not look."""


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
        """Keep an event, in the caller's hands; it is durable when this returns. None: its source sent it before."""
        now = self.now()
        row = {
            "source": source,
            "event_id": event_id,
            "reference": reference,
            "received_at": now,
            "next_at": now + IN_HAND,
            "looks": 0,
        }
        own = inbox.c.source == source, inbox.c.event_id == event_id
        found = select(inbox.c.received_at).where(*own).with_for_update()

        def work(connection: Connection) -> bool:
            try:
                connection.execute(insert(inbox), row)
            except IntegrityError:
                return False
            return True

        def landed(connection: Connection, new: bool) -> bool:
            return not new or connection.execute(found).scalar() == now

        return Hint(source, event_id, reference, now) if self._database.write(work, landed) else None

    def take_hints(self, limit: int) -> Sequence[Hint]:
        """Those that wait and are in nobody's hands, the oldest first: in the caller's now. Two who take at the same
        moment may both get one."""
        now = self.now()
        query = (
            select(inbox.c.source, inbox.c.event_id, inbox.c.reference, inbox.c.received_at, inbox.c.looks)
            .where(inbox.c.next_at <= now)
            .order_by(inbox.c.next_at, inbox.c.received_at)
            .limit(limit)
        )
        hints = [Hint(*tuple(row)) for row in self._database.rows(query)]
        self._set(hints, next_at=now + IN_HAND)
        return hints

    def hints_seen(self, hints: Collection[Hint]) -> None:
        """Their orders were looked at: nothing is left to do for them here."""
        self._set(hints, next_at=None)

    def look_again(self, hints: Collection[Hint], at: datetime) -> None:
        """Their orders were not there yet; in nobody's hands until then."""
        for looks in {hint.looks for hint in hints}:
            self._set([hint for hint in hints if hint.looks == looks], next_at=at, looks=looks)

    def _set(self, hints: Collection[Hint], **values: datetime | int | None) -> None:
        keys = [(hint.source, hint.event_id) for hint in hints]
        if keys:
            # What was seen stays seen, whoever else had it in hand.
            waits = and_(inbox.c.next_at.is_not(None), tuple_(inbox.c.source, inbox.c.event_id).in_(keys))
            change = update(inbox).where(waits).values(**values)
            self._database.write(lambda connection: connection.execute(change))
