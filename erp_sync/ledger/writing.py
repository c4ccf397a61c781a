"""One transaction's events, and how it is recognised after its COMMIT's answer was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, insert, select


@dataclass(frozen=True, slots=True)
class Written:
    """What a transaction did, and the event that tells its COMMIT. None: it wrote nothing."""

    results: list[bool]
    event: tuple[str, int] | None
    made: Sequence[tuple[Any, Any]] = ()
    """The entries and events that were written."""


@dataclass(frozen=True, slots=True)
class Writing:
    """Its events carry the token. `events` has the key `order_id`, `version`."""

    events: Table
    token: str
    now: datetime

    def tell(self, connection: Connection, results: list[bool], rows: Sequence[Mapping[str, Any]]) -> Written:
        if not rows:
            return Written(results, None)
        connection.execute(insert(self.events), [{**row, "at": self.now, "token": self.token} for row in rows])
        return Written(results, (rows[0]["order_id"], rows[0]["version"]))

    def landed(self, connection: Connection, written: Written) -> bool:
        """Reads with a lock: a transaction that still commits holds its event row."""
        if written.event is None:
            return True
        order_id, version = written.event
        table = self.events.c
        own = select(table.token).where(table.order_id == order_id, table.version == version).with_for_update()
        return connection.execute(own).scalar() == self.token
