"""What all parts of the ledger share: the database and its clock."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, text

from erp_sync.ledger.clock import Clock
from erp_sync.ledger.database import Database

DATABASE_TIME = text("SELECT UTC_TIMESTAMP(6)")


class LedgerPart:
    def __init__(self, database: Database, clock: Clock, *, asks_database: bool) -> None:
        self._database = database
        self._clock = clock
        self._asks_database = asks_database

    def now(self) -> datetime:
        """The ledger's time, aware, in UTC: every datetime of the ledger is on this clock."""
        return self._clock.now()

    def _time(self, connection: Connection) -> datetime:
        """The same clock, not a moment old. In a transaction nothing else may ask for the time: see Clock."""
        if not self._asks_database:
            return self._clock.ask()
        time: datetime = connection.execute(DATABASE_TIME).scalar_one()
        return time.replace(tzinfo=UTC)

    def _too_late(self, connection: Connection, old: datetime | None, new: datetime | None) -> bool:
        """Whether a new intent's `send_by` is over already: it was made on a clock that stood still."""
        intent = new is not None and (old is None or new > old)
        return intent and new is not None and self._time(connection) > new
