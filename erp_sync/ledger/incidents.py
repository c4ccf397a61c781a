"""Incidents: one row per cause of trouble. An open one is counted up, a closed one that comes back is opened again.

Whoever reports and whoever tells write different columns of a row: the one by a compare-and-set on its version, the
other under the lease of the outlet (ledger/outlet.py). So neither loses what the other wrote.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from erp_sync.ledger.part import LedgerPart
from erp_sync.ledger.tables import ID_LENGTH, incidents
from erp_sync.models import CAUSE_LENGTH, Incident, Sighting
from erp_sync.scrub import excerpt

DETAIL_LENGTH = 2000
SAMPLES = 5
SHOWN = 2
LARGEST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Told:
    """What the channel knows of an incident."""

    opening: int = 0
    """Which occurrence the message is about. 0: there is none yet."""
    ending: int = 0
    """1: it is told that this occurrence is over; 2: and its message shows it."""
    listed: int = 0
    """1: the message is a list that tells several incidents."""
    channel: str = ""
    ts: str = ""
    """With the channel the message's address, and its thread's."""
    hash: str = ""
    """Of what the message says now."""
    at: datetime | None = None
    """When it was last written. None: never."""
    next_try_at: datetime | None = None
    """Not before; because of this one message, not of the whole outlet."""
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Telling:
    """An incident, and how far it has been told."""

    incident: Incident
    told: Told


_INCIDENT = [field.name for field in fields(Incident)]
_TOLD = [f"told_{field.name}" for field in fields(Told)]
_OLDEST_FIRST = (incidents.c.opened_at, incidents.c.cause)


class Incidents(LedgerPart):
    def report(self, sighting: Sighting) -> None:
        """Opens the incident, opens it again where it was closed (a new occurrence), or brings it up to date.

        Harmless to repeat, and from several processes at once. Texts are cut to what the ledger holds.
        """
        now = self.now()
        seen = _fitting(sighting) | {"last_seen_at": now}

        def work(connection: Connection) -> None:
            while not _put(connection, seen):
                pass

        self._database.write(work)

    def resolve(self, cause: str, *, expected_opening: int | None = None) -> bool:
        """Closes it. False: it was not open, or was opened anew since `expected_opening`. Harmless to repeat."""
        now = self.now()
        closing = update(incidents).where(incidents.c.cause == cause, incidents.c.closed_at.is_(None))
        if expected_opening is not None:
            closing = closing.where(incidents.c.openings == expected_opening)

        def work(connection: Connection) -> bool:
            return connection.execute(closing.values(closed_at=now, version=incidents.c.version + 1)).rowcount == 1

        def landed(connection: Connection, closed: bool) -> bool:
            at = select(incidents.c.closed_at).where(incidents.c.cause == cause).with_for_update()
            return not closed or connection.execute(at).scalar() == now

        return self._database.write(work, landed)

    def open_incidents(self) -> list[Incident]:
        """The oldest first."""
        query = _incidents().where(incidents.c.closed_at.is_(None)).order_by(*_OLDEST_FIRST)
        return [_incident(row) for row in self._database.rows(query)]

    def incidents(self, since: datetime, limit: int) -> list[Incident]:
        """Those that are open, or were closed since; the newest first."""
        recent = or_(incidents.c.closed_at.is_(None), incidents.c.closed_at >= since)
        query = _incidents().where(recent).order_by(incidents.c.opened_at.desc(), incidents.c.cause).limit(limit)
        return [_incident(row) for row in self._database.rows(query)]

    def tellings(self) -> list[Telling]:
        """What may have to be told: the open ones, and those whose end the channel does not know; the oldest first."""
        unknown = or_(
            incidents.c.closed_at.is_(None),
            incidents.c.told_ending < SHOWN,
            incidents.c.told_opening < incidents.c.openings,
        )
        return self._tellings(unknown)

    def listed_in(self, channel: str, ts: str) -> list[Telling]:
        """All that one list tells, those that are over too; but not what has a newer message."""
        table = incidents.c
        return self._tellings((table.told_listed == 1) & (table.told_channel == channel) & (table.told_ts == ts))

    def _tellings(self, condition: Any) -> list[Telling]:
        columns = (incidents.c[name] for name in (*_INCIDENT, *_TOLD))
        query = select(*columns).where(condition).order_by(*_OLDEST_FIRST)
        return [_telling(row) for row in self._database.rows(query)]


def _fitting(sighting: Sighting) -> dict[str, Any]:
    values = {field.name: getattr(sighting, field.name) for field in fields(Sighting)}
    return values | {
        "kind": sighting.kind[:CAUSE_LENGTH],
        "subject": sighting.subject[:ID_LENGTH],
        "detail": excerpt(sighting.detail, DETAIL_LENGTH),
        "count": min(max(sighting.count, 0), LARGEST),
        "sample": tuple(text[:ID_LENGTH].encode("utf-8", "replace").decode() for text in sighting.sample[:SAMPLES]),
        "run_id": sighting.run_id[:ID_LENGTH],
    }


def _put(connection: Connection, seen: dict[str, Any]) -> bool:
    """False: somebody else wrote the row in between."""
    mine = incidents.c.cause == seen["cause"]
    old = connection.execute(select(incidents).where(mine)).first()
    anew = {"opened_at": seen["last_seen_at"], "closed_at": None, "seen": 1, "peak": seen["count"]}
    if old is None:
        told = {f"told_{name}": value for name, value in asdict(Told()).items()}
        try:
            connection.execute(insert(incidents), seen | anew | told | {"version": 0, "openings": 1})
        except IntegrityError:
            return False
        return True
    new = seen | {"version": old.version + 1}
    if old.closed_at is None:
        new |= {"seen": old.seen + 1, "peak": max(old.peak, seen["count"])}
    else:
        new |= anew | {"openings": old.openings + 1}
    # Without the version, a sighting that crosses a closing would land in the closed row, and nobody would hear of it.
    change = update(incidents).where(mine, incidents.c.version == old.version).values(new)
    return connection.execute(change).rowcount == 1


def _incidents() -> Select[Any]:
    return select(*(incidents.c[name] for name in _INCIDENT))


def _incident(row: Row[Any]) -> Incident:
    return Incident(**{name: getattr(row, name) for name in _INCIDENT})


def _telling(row: Row[Any]) -> Telling:
    return Telling(_incident(row), Told(*(getattr(row, name) for name in _TOLD)))
