"""Marks: when something was last done, by whichever process, and a text to go on from."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from erp_sync.ledger.part import LedgerPart
from erp_sync.ledger.tables import marks


class Marks(LedgerPart):
    def mark(self, name: str) -> tuple[datetime, str] | None:
        """When it was last set, and its text. None: never."""
        rows = self._database.rows(select(marks.c.last_at, marks.c.text).where(marks.c.name == name))
        return (rows[0].last_at, rows[0].text) if rows else None

    def set_mark(self, name: str, text: str = "") -> None:
        now = self.now()

        def work(connection: Connection) -> None:
            changed = connection.execute(update(marks).where(marks.c.name == name).values(last_at=now, text=text))
            if not changed.rowcount:
                _insert(connection, name, now, text)

        self._database.write(work)

    def raise_mark(self, name: str, text: str, at_most: str) -> None:
        """The later text stays, whoever comes last; a stored one beyond `at_most` counts for nothing."""
        now = self.now()

        def work(connection: Connection) -> None:
            earlier = or_(marks.c.text < text, marks.c.text > at_most)
            change = update(marks).where(marks.c.name == name, earlier).values(last_at=now, text=text)
            if not connection.execute(change).rowcount:
                _insert(connection, name, now, text)

        self._database.write(work)

    def claim_mark(self, name: str, every: timedelta) -> bool:
        """True for one caller of all processes, if nobody got it in the last `every`; its text stays.

        A mark that lies ahead of the clock, because the clock jumped back, holds nobody up.
        """
        last = self.mark(name)
        now = self.now()
        if last is not None and now - every < last[0] <= now + every:
            return False
        free = or_(marks.c.last_at <= now - every, marks.c.last_at > now + every)

        def work(connection: Connection) -> bool:
            claim = update(marks).where(marks.c.name == name, free).values(last_at=now)
            return connection.execute(claim).rowcount == 1 or (last is None and _insert(connection, name, now, ""))

        def landed(connection: Connection, claimed: bool) -> bool:
            mine = select(marks.c.last_at).where(marks.c.name == name).with_for_update()
            return not claimed or connection.execute(mine).scalar() == now

        return self._database.write(work, landed)


def _insert(connection: Connection, name: str, now: datetime, text: str) -> bool:
    try:
        connection.execute(insert(marks), {"name": name, "last_at": now, "text": text})
    except IntegrityError:
        return False
    return True
