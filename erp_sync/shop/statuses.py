"""The shop's statuses, written by the profile's `[status]` block: look, decide, write, look again, in one transaction
(contracts/shop-profile.md; affected-row counts cannot tell "written" from "was so already")."""

from __future__ import annotations

import enum
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from erp_sync.errors import Misconfigured
from erp_sync.scrub import excerpt
from erp_sync.shop.connection import shop_engine
from erp_sync.shop.profile import Profile, StatusSection
from erp_sync.shop.rows import plain
from erp_sync.shop.writing import ChangedMeanwhile, Command, NoEffect, ShopWriter, why

_SOME_DAY = datetime(2026, 1, 2)  # noqa: DTZ001 - the shop's wall clock
TOGETHER = 50
"""Orders of one transaction: their rows are locked for some milliseconds."""


class Outcome(enum.Enum):
    WRITTEN = "written"
    SAME = "same"
    """Nothing to do."""
    KEPT = "kept"
    """The shop shows a value that may not be overwritten."""
    UNKNOWN = "unknown"
    """The shop has no such order."""
    AMBIGUOUS = "ambiguous"
    """Several rows of the shop have this number."""
    FAILED = "failed"
    """The statements do not make the shop show the status, or its database refuses the values; nothing is changed."""


@dataclass(frozen=True, slots=True)
class StatusWrite:
    """What the shop should show of an order."""

    number: str
    value: str
    """The shop's own word."""
    details: Mapping[str, str | datetime | None]
    """The other parameters of `[status] write`. None: not known. Datetimes: the shop's wall clock."""
    news: bool
    """Whether the details may be new to the shop: then they are written although it shows the value already."""
    ours: Collection[str]
    """The values that we wrote before, or may have written: they may be overwritten, as those of `allow_from`."""


@dataclass(frozen=True, slots=True)
class StatusOutcome:
    outcome: Outcome
    present: str = ""
    """What the shop shows, where that is what stands in the way."""
    why: str = ""
    """Of FAILED."""


def open_shop_statuses(url: str, profile: Profile) -> ShopStatuses | None:
    """None: the profile has no `[status]` block. Connects at the first write. Raises Misconfigured."""
    if profile.status is None:
        return None
    return ShopStatuses(ShopWriter(shop_engine(url, profile, writes=True), profile), profile.status)


class _Rehearsed(Exception):
    """Rolls a rehearsal back."""

    def __init__(self, outcome: StatusOutcome) -> None:
        super().__init__()
        self.outcome = outcome


class ShopStatuses:
    """Thread-safe. Raises ShopUnavailable when the database cannot be asked now, and Misconfigured when a person must
    correct the profile or grant a right."""

    def __init__(self, writer: ShopWriter, section: StatusSection) -> None:
        self._writer = writer
        self._section = section
        self._find = Command("[status] find", section.find, is_sqlite=writer.is_sqlite)
        self._write = [Command("[status] write", statement, is_sqlite=writer.is_sqlite) for statement in section.write]

    def close(self) -> None:
        self._writer.close()

    def write(self, wanted: Sequence[StatusWrite], commit_by: float) -> list[StatusOutcome]:
        """The outcome of each, in their order; nothing is committed after `commit_by` (`time.monotonic`). One order's
        trouble is never another's."""
        outcomes: list[StatusOutcome] = []
        for start in range(0, len(wanted), TOGETHER):
            outcomes += self._together(wanted[start : start + TOGETHER], commit_by)
        return outcomes

    def rehearse(self, number: str) -> dict[str, StatusOutcome]:
        """Every value of `map` written to this order as if it might be, and rolled back: what would come of it."""
        return {value: self._rehearse(number, value) for value in dict.fromkeys(self._section.map.values())}

    def _rehearse(self, number: str, value: str) -> StatusOutcome:
        details: dict[str, str | datetime | None] = {
            **{"erp_number": "000001", "invoice_number": "000000001", "invoice_series": "1", "invoice_key": "0" * 44},
            **{"tracking_code": "BR000000000BR", "invoiced_at": _SOME_DAY, "delivered_at": _SOME_DAY},
        }

        def work(connection: Connection, _outside: Connection | None) -> None:
            ours = self._found(connection, number)
            raise _Rehearsed(self._one(connection, StatusWrite(number, value, details, news=True, ours=ours), {}))

        try:
            self._writer.transaction(work, commit_by=time.monotonic())
        except _Rehearsed as rehearsed:
            return rehearsed.outcome
        except (DBAPIError, NoEffect) as error:
            return StatusOutcome(Outcome.FAILED, why=why(error))
        raise AssertionError

    def _together(self, wanted: Sequence[StatusWrite], commit_by: float) -> list[StatusOutcome]:
        # Always in the same order, so that two writers queue up instead of deadlocking.
        order = sorted(range(len(wanted)), key=lambda index: wanted[index].number)

        def work(connection: Connection, outside: Connection | None) -> dict[int, StatusOutcome]:
            seen: dict[str, list[str]] = {}
            done = {index: self._one(connection, wanted[index], seen) for index in order}
            if outside is not None and any(self._found(outside, number) != found for number, found in seen.items()):
                raise ChangedMeanwhile("the shop's status changes while it is being written: correct [status] find")
            return done

        try:
            done = self._writer.transaction(work, commit_by)
        except (DBAPIError, NoEffect, ChangedMeanwhile) as error:
            if len(wanted) > 1:
                return [self._together([one], commit_by)[0] for one in wanted]
            return [StatusOutcome(Outcome.FAILED, why=why(error))]
        return [done[index] for index in range(len(wanted))]

    def _one(self, connection: Connection, wanted: StatusWrite, seen: dict[str, list[str]]) -> StatusOutcome:
        """`seen` gets what the shop showed of the order before it was written."""
        found = self._found(connection, wanted.number)
        if len(found) != 1:
            return StatusOutcome(Outcome.AMBIGUOUS if found else Outcome.UNKNOWN)
        (present,) = found
        value = self._value(present, wanted)
        if value is None:
            return StatusOutcome(Outcome.KEPT, present)
        if value == present and not wanted.news:
            return StatusOutcome(Outcome.SAME, present)
        values = {name: self._bound(value) for name, value in wanted.details.items()}
        for command in self._write:
            command.execute(connection, {**values, "number": wanted.number, "status": value}).close()
        after = self._found(connection, wanted.number)
        shown = after[0] if len(after) == 1 else ""
        if shown != value:
            # Whatever the statements changed instead is rolled back.
            instead = excerpt(shown, 40)
            raise NoEffect(f"[status] write makes the shop show {instead!r}, not {value!r}: correct its WHERE and SET")
        seen.setdefault(wanted.number, found)
        return StatusOutcome(Outcome.WRITTEN, value)

    def _found(self, connection: Connection, number: str) -> list[str]:
        """What each row of the shop with this number shows."""
        rows = self._find.execute(connection, {"number": number}).mappings().all()
        if rows and "status" not in rows[0]:
            name = self._writer.profile_name
            raise Misconfigured(f"profile {name}: [status] find lacks the column status: write ... AS status")
        return [plain(row["status"]) for row in rows]

    def _value(self, present: str, wanted: StatusWrite) -> str | None:
        """What the shop is to show; None: it is left alone.

        `allow_from` names the shop's values in the order of an order's life: one that comes after what we would write
        stays, and gets the details alone.
        """
        life = self._section.allow_from
        if present == wanted.value:
            return present
        if present in life and wanted.value in life and life.index(wanted.value) < life.index(present):
            return present
        return wanted.value if present in life or present in wanted.ours else None

    def _bound(self, value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat(" ", "seconds") if self._writer.is_sqlite else value
        return value
