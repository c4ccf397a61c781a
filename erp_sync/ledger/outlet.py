"""The one way out to the channel: leased, so that one process tells at a time, and when it may be used again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from erp_sync.ledger.incidents import Told
from erp_sync.ledger.part import LedgerPart
from erp_sync.ledger.tables import incidents, outlet

FARTHEST = timedelta(hours=1)
"""Nothing is put off for longer: what lies further ahead comes from a clock that jumped."""

_ROW = outlet.c.id == 1


@dataclass(frozen=True, slots=True)
class Outlet:
    next_try_at: datetime | None = None
    """The channel could not be reached, or asked for a pause: not before. None: it works."""
    failures: int = 0
    """How many times in a row it did not work."""
    free_at: datetime | None = None
    """When the next message may leave at the earliest, because of the last one. None: at once."""


class Outlets(LedgerPart):
    def outlet(self) -> Outlet:
        query = select(outlet.c.next_try_at, outlet.c.failures, outlet.c.free_at).where(_ROW)
        rows = self._database.rows(query)
        return Outlet(*rows[0]) if rows else Outlet()

    def take_outlet(self, owner: str, lease: timedelta) -> Outlet | None:
        """For one caller of all processes, until the lease is over or given back. None: somebody else has it."""
        now = self.now()
        mine = {"owner": owner, "until": now + lease}

        def work(connection: Connection) -> Outlet | None:
            row = connection.execute(select(outlet).where(_ROW).with_for_update()).first()
            if row is None:
                try:
                    connection.execute(insert(outlet), {"id": 1, "failures": 0, **mine})
                except IntegrityError:
                    return None
                return Outlet()
            if row.owner not in ("", owner) and row.until is not None and now < row.until <= now + FARTHEST:
                return None
            connection.execute(update(outlet).where(_ROW).values(mine))
            return Outlet(row.next_try_at, row.failures, row.free_at)

        return self._database.write(work)

    def keep_outlet(self, owner: str, lease: timedelta, state: Outlet) -> bool:
        """Renews the lease and remembers the state. False: the lease is lost, and nothing more may be told."""
        now = self.now()
        values = {"until": now + lease, **asdict(state)}

        def work(connection: Connection) -> bool:
            kept = update(outlet).where(_ROW, outlet.c.owner == owner).values(values)
            return connection.execute(kept).rowcount == 1

        return self._database.write(work)

    def give_outlet_back(self, owner: str, state: Outlet) -> None:
        """Harmless where it is lost."""
        values = {"owner": "", "until": None, **asdict(state)}

        def work(connection: Connection) -> None:
            connection.execute(update(outlet).where(_ROW, outlet.c.owner == owner).values(values))

        self._database.write(work)

    def tell(self, owner: str, told: Mapping[str, Told]) -> bool:
        """Remembers by cause what the channel knows now. False: the lease is lost, and nothing was written."""

        def work(connection: Connection) -> bool:
            row = connection.execute(select(outlet.c.owner).where(_ROW).with_for_update()).first()
            if row is None or row.owner != owner:
                return False
            for cause in sorted(told):
                values = {f"told_{name}": value for name, value in asdict(told[cause]).items()}
                connection.execute(update(incidents).where(incidents.c.cause == cause).values(values))
            return True

        return self._database.write(work)
