"""The entries and their events: what is known of every order, and its story.

Every change is a compare-and-set on the version, and one event row with the same version, in one transaction.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, replace
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, Select, and_, bindparam, func, insert, null, or_, select, update
from sqlalchemy.exc import IntegrityError

from erp_sync.errors import Misconfigured
from erp_sync.ledger.entry import Change, Entry, Event
from erp_sync.ledger.part import LedgerPart
from erp_sync.ledger.story import tell_story
from erp_sync.ledger.tables import ID_LENGTH, customer_holds, customers, entries, events, statuses
from erp_sync.ledger.writing import Writing, Written
from erp_sync.models import Cancellation, LedgerState, Problem

T = TypeVar("T")

CHUNK = 500
SEND_BY_AHEAD = timedelta(seconds=10)
"""No intent is ever sent later than this after it is committed: a `send_by` further ahead comes from another clock."""


_COLUMNS = [field.name for field in fields(Entry)]
entry_columns = [entries.c[name] for name in _COLUMNS]
_INSERT = insert(entries)
_CHANGE = (
    update(entries)
    .where(entries.c.order_id == bindparam("key"), entries.c.version == bindparam("old_version"))
    .values({name: bindparam(f"new_{name}") for name in _COLUMNS if name != "order_id"})
)
_KNOWN = select(entries.c.order_id).where(entries.c.order_id.in_(bindparam("ids", expanding=True)))
_TAKEN = select(entries.c.external_id, entries.c.order_id).where(
    entries.c.external_id.in_(bindparam("numbers", expanding=True))
)
_ENTRIES = select(*entry_columns).where(entries.c.order_id.in_(bindparam("ids", expanding=True)))
_LOCK = select(entries.c.version).where(entries.c.order_id == bindparam("key")).with_for_update()
_HOLD = insert(customer_holds)
_TAKE_OVER_HOLD = (
    update(customer_holds)
    .where(
        customer_holds.c.customer_key == bindparam("hold"),
        or_(customer_holds.c.order_id == bindparam("key"), customer_holds.c.until <= bindparam("now")),
    )
    .values(order_id=bindparam("key"), until=bindparam("new_until"))
)
_TRACK = insert(statuses).prefix_with("OR IGNORE", dialect="sqlite").prefix_with("IGNORE", dialect="mysql")
_RELEASE = customer_holds.delete().where(
    customer_holds.c.customer_key == bindparam("hold"), customer_holds.c.order_id == bindparam("key")
)


class _CustomerBusy(Exception):
    """The transaction is rolled back and done again without this change."""

    def __init__(self, index: int) -> None:
        self.index = index


class Entries(LedgerPart):
    def add(self, found: Sequence[tuple[Entry, Event]]) -> list[bool]:
        """Write new orders, in one transaction per 500. False: the ledger has that order already.

        The first of several with one number gets it; the others are written as invalid, without an external id.
        """
        results: list[bool] = []
        for chunk in _chunks([_fitting(entry, event) for entry, event in found]):
            writing = Writing(events, secrets.token_hex(8), self.now())
            written = self._database.write(partial(self._add, chunk, writing), writing.landed)
            tell_story(written.made)
            results += written.results
        return results

    def change(self, changes: Sequence[Change]) -> list[bool]:
        """Make all changes whose entry still has the version they are based on, in one transaction.

        False: the entry moved on, its customer is held by another order, its number is too wide or taken by another
        entry, or its intent came too late (`send_by` is over on the database's clock). Raises LedgerUnavailable when
        it cannot be known what became of them.
        """
        if not changes:
            return []
        writing = Writing(events, secrets.token_hex(8), self.now())
        busy: set[int] = set()
        while True:
            try:
                written = self._database.write(partial(self._change, changes, writing, busy), writing.landed)
            except _CustomerBusy as held:
                busy.add(held.index)
            else:
                tell_story(written.made)
                return written.results

    def entries(self, order_ids: Sequence[str]) -> dict[str, Entry]:
        """Those that the ledger knows."""
        rows = [row for chunk in _chunks(order_ids) for row in self._database.rows(_ENTRIES, {"ids": list(chunk)})]
        return {row.order_id: as_entry(row) for row in rows}

    def by_number(self, number: str) -> list[Entry]:
        """Exactly this number; more than one where shop rows share it, the one that may be sent first."""
        query = select(*entry_columns).where(entries.c.number == number)
        return [as_entry(row) for row in self._database.rows(query.order_by(entries.c.external_id.is_(None)))]

    def number_taken(self, number: str) -> bool:
        """Whether some entry has it as external id."""
        return bool(self._database.rows(select(entries.c.order_id).where(entries.c.external_id == number)))

    def actionable(
        self, limit: int, *, days: Collection[date] | None = None, numbers: Collection[str] | None = None
    ) -> list[Entry]:
        """The entries whose `next_at` has come, the longest waiting first; of these days and numbers. None: of all."""
        query = select(*entry_columns).where(entries.c.next_at <= self.now())
        query = _of_days(query, days)
        if numbers is not None:
            query = query.where(entries.c.number.in_(numbers))
        return [
            as_entry(row)
            for row in self._database.rows(query.order_by(entries.c.next_at, entries.c.found_at).limit(limit))
        ]

    def actionable_days(self) -> list[date]:
        """The business days with an actionable entry, the oldest first."""
        query = select(entries.c.day).where(entries.c.next_at <= self.now(), entries.c.day.is_not(None)).distinct()
        return [row.day for row in self._database.rows(query.order_by(entries.c.day))]

    def unsent_before(self, moment: datetime) -> list[str]:
        """Ids of the orders that were certainly not sent before this moment, but for those that the shop cancelled."""
        waiting = [state for state in LedgerState if state not in (LedgerState.SENT, LedgerState.CANCELLED)]
        later = and_(entries.c.state == LedgerState.SENT, entries.c.sent_at >= moment)
        query = select(entries.c.order_id).where(or_(entries.c.state.in_(waiting), later))
        return [row.order_id for row in self._database.rows(query)]

    def sent_before(self, order_ids: Sequence[str], moment: datetime) -> set[str]:
        """Those of these orders that were in the ERP before this moment."""
        sent: set[str] = set()
        for chunk in _chunks(order_ids):
            query = select(entries.c.order_id).where(
                entries.c.order_id.in_(chunk), entries.c.state == LedgerState.SENT, entries.c.sent_at < moment
            )
            sent |= {row.order_id for row in self._database.rows(query)}
        return sent

    def next_wake(self, days: Collection[date] | None = None) -> datetime | None:
        """When the next entry becomes actionable. None: none will by itself."""
        query = _of_days(select(func.min(entries.c.next_at)).where(entries.c.next_at > self.now()), days)
        wake: datetime | None = self._database.rows(query)[0][0]
        return wake

    def counts(
        self, day: date | None = None, *, states: Collection[LedgerState] | None = None
    ) -> dict[LedgerState, int]:
        """Entries by state, of a business day or of all. A state without entries is left out. `states`: of these alone,
        by an index, however many orders were sent."""
        query = _of_days(select(entries.c.state, func.count().label("n")), None if day is None else [day])
        if states is not None:
            query = query.where(entries.c.state.in_(states))
        return {row.state: row.n for row in self._database.rows(query.group_by(entries.c.state))}

    def oldest_unsent(self, day: date | None = None) -> datetime | None:
        """When the longest waiting of the entries that are due, sending or in doubt was found."""
        waiting = entries.c.state.in_([LedgerState.DUE, LedgerState.SENDING, LedgerState.IN_DOUBT])
        query = _of_days(select(func.min(entries.c.found_at)).where(waiting), None if day is None else [day])
        oldest: datetime | None = self._database.rows(query.where(entries.c.next_at.is_not(None)))[0][0]
        return oldest

    def list(self, state: LedgerState | None = None, day: date | None = None, limit: int = 100) -> list[Entry]:
        """The newest `limit` entries, the newest first."""
        query = _of_days(select(*entry_columns), None if day is None else [day])
        if state is not None:
            query = query.where(entries.c.state == state)
        query = query.order_by(entries.c.found_at.desc(), entries.c.order_id.desc()).limit(limit)
        return [as_entry(row) for row in self._database.rows(query)]

    def story(self, order_id: str) -> Sequence[tuple[datetime, Event, LedgerState]]:
        """Every event of an order, the oldest first, with the state that it led to."""
        query = select(events).where(events.c.order_id == order_id).order_by(events.c.version)
        return [(row.at, Event(row.kind, row.text, row.milliseconds), row.state) for row in self._database.rows(query)]

    def heal_clock(self, max_wait: timedelta) -> int:
        """After the clock jumped back: pull in what lies further ahead than it may. Returns how many entries did.

        `max_wait` is the longest that anything may wait, a lease included. Harmless at any time, and cheap: ranges of
        an index. A `send_by` is never pulled nearer than any byte may still leave.
        """
        now = self.now()
        latest, last_byte = now + max_wait, now + SEND_BY_AHEAD

        def work(connection: Connection) -> int:
            healed = connection.execute(
                update(entries).where(entries.c.next_at > latest).values(next_at=latest)
            ).rowcount
            # An entry with a `send_by` ahead has a `next_at` ahead: the index finds it.
            ahead = and_(entries.c.next_at > now, entries.c.send_by > last_byte)
            healed += connection.execute(update(entries).where(ahead).values(send_by=last_byte)).rowcount
            connection.execute(update(customers).where(customers.c.next_at > latest).values(next_at=latest))
            connection.execute(update(customers).where(customers.c.send_by > last_byte).values(send_by=last_byte))
            connection.execute(update(customer_holds).where(customer_holds.c.until > latest).values(until=latest))
            return healed

        return self._database.write(work)

    def give_time_to_settle(self, connection: Connection, before: datetime, by: timedelta) -> None:
        """After the clock jumped ahead: what was sent before, on the old clock, has that much longer to settle.

        Whoever read it before that, and asks the ERP after it, must not take it for settled: the version goes on.
        """
        for table in (entries, customers):
            keys = list(table.primary_key)
            late = select(*keys, table.c.send_by).where(
                table.c.next_at.is_not(null()), table.c.send_by <= before + SEND_BY_AHEAD
            )
            for row in connection.execute(late.with_for_update()).all():
                longer = {"send_by": row.send_by + by, "version": table.c.version + 1}
                connection.execute(update(table).where(keys[0] == row[0]).values(longer))

    def _add(self, found: Sequence[tuple[Entry, Event]], writing: Writing, connection: Connection) -> Written:
        ids = [entry.order_id for entry, _ in found]
        known = set(connection.execute(_KNOWN, {"ids": ids}).scalars())
        numbers = [entry.external_id for entry, _ in found if entry.external_id is not None]
        rows = connection.execute(_TAKEN, {"numbers": numbers}).all() if numbers else []
        taken: dict[str, str] = {row[0]: row[1] for row in rows}
        results: list[bool] = []
        new: list[tuple[Entry, Event]] = []
        for entry, event in found:
            if entry.order_id in known:
                results.append(False)
                continue
            known.add(entry.order_id)
            other = taken.get(entry.external_id) if entry.external_id is not None else None
            results.append(True)
            new.append((entry, event) if other is None else _number_taken(entry, other))
            if entry.external_id is not None:
                taken.setdefault(entry.external_id, entry.order_id)
        try:
            if new:
                with connection.begin_nested():
                    connection.execute(_INSERT, [_values(entry) for entry, _ in new])
        except IntegrityError:
            # Somebody else added one of them since we looked.
            return self._add_singly(found, writing, connection)
        return replace(writing.tell(connection, results, _told(new)), made=new)

    def _add_singly(self, found: Sequence[tuple[Entry, Event]], writing: Writing, connection: Connection) -> Written:
        results: list[bool] = []
        new: list[tuple[Entry, Event]] = []
        for wanted in found:
            (entry, event), added = wanted, True
            try:
                connection.execute(_INSERT, _values(entry))
            except IntegrityError:
                added = connection.execute(_LOCK, {"key": entry.order_id}).first() is None
                if added:
                    other = connection.execute(_TAKEN, {"numbers": [entry.external_id]}).one()
                    entry, event = _number_taken(entry, other.order_id)
                    connection.execute(_INSERT, _values(entry))
            results.append(added)
            if added:
                new.append((entry, event))
        return replace(writing.tell(connection, results, _told(new)), made=new)

    def _change(self, changes: Sequence[Change], writing: Writing, busy: set[int], connection: Connection) -> Written:
        results = [False] * len(changes)
        made: list[tuple[Entry, Event]] = []
        # Always in the same order, so that two transactions over the same entries queue up instead of deadlocking.
        for index in sorted(range(len(changes)), key=lambda index: changes[index].old.order_id):
            change = changes[index]
            if index not in busy and self._store(connection, change):
                if change.hold and not _hold(connection, change, writing.now):
                    raise _CustomerBusy(index)
                if change.release:
                    connection.execute(_RELEASE, {"hold": change.release, "key": change.old.order_id})
                results[index] = True
                made.append((change.new, change.event))
        sent = [change.new for change, done in zip(changes, results, strict=True) if done and _is_sent_now(change)]
        if sent:
            # In the same transaction: no order is ever in the ERP without being asked for.
            connection.execute(_TRACK, [_untold(new.order_id, writing.now) for new in sent])
        return replace(writing.tell(connection, results, _told(made)), made=made)

    def _store(self, connection: Connection, change: Change) -> bool:
        if self._too_late(connection, change.old.send_by, change.new.send_by) or len(change.new.number) > ID_LENGTH:
            return False
        values = {f"new_{name}": value for name, value in _values(change.new).items() if name != "order_id"}
        values |= {"key": change.old.order_id, "old_version": change.old.version}
        try:
            return connection.execute(_CHANGE, values).rowcount == 1
        except IntegrityError:
            return False  # of this statement only: the transaction goes on


def _hold(connection: Connection, change: Change, now: datetime) -> bool:
    until = change.new.next_at
    if until is None:
        return True
    order_id = change.old.order_id
    try:
        connection.execute(_HOLD, {"customer_key": change.hold, "order_id": order_id, "until": until})
    except IntegrityError:
        values = {"hold": change.hold, "key": order_id, "now": now, "new_until": until}
        return connection.execute(_TAKE_OVER_HOLD, values).rowcount == 1
    return True


def _is_sent_now(change: Change) -> bool:
    return change.new.state is LedgerState.SENT and change.old.state is not LedgerState.SENT


def _untold(order_id: str, now: datetime) -> dict[str, Any]:
    """The first row of a sent order's life: nothing is known yet."""
    return {
        "order_id": order_id,
        "version": 0,
        "status": None,
        "fingerprint": "",
        "next_at": now,
        "tracking_code": "",
        "invoices": (),
        "told_status": None,
        "told_hash": "",
        "told_values": (),
        "cancellation": Cancellation.NONE,
        "cancel_attempts": 0,
        "problems": (),
    }


def _told(made: Sequence[tuple[Entry, Event]]) -> list[dict[str, Any]]:
    return [
        {
            "order_id": entry.order_id,
            "version": entry.version,
            "state": entry.state,
            "kind": event.kind,
            "text": event.text,
            "milliseconds": event.milliseconds,
        }
        for entry, event in made
    ]


def _values(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in _COLUMNS}


def as_entry(row: Row[Any]) -> Entry:
    values: Sequence[Any] = row
    return Entry(*values)  # the columns are the fields, in their order


def _of_days(query: Select[Any], days: Collection[date] | None) -> Select[Any]:
    return query if days is None else query.where(entries.c.day.in_(days))


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def _number_taken(entry: Entry, other: str) -> tuple[Entry, Event]:
    advice = f"the shop's order {other} has this number already: give this one (order {entry.order_id}) another"
    problem = Problem("number", entry.number, advice)
    invalid = replace(
        entry,
        external_id=None,
        state=LedgerState.INVALID,
        next_at=None,
        problems=(*entry.problems, problem),
    )
    return invalid, Event("invalid", str(problem))


def _fitting(entry: Entry, event: Event) -> tuple[Entry, Event]:
    if len(entry.order_id) > ID_LENGTH:
        raise Misconfigured(
            f"order_id = {entry.order_id[:40]!r}… is wider than {ID_LENGTH} characters: "
            "let the profile select the key of the shop's orders"
        )
    if len(entry.number) <= ID_LENGTH:
        return entry, event
    problem = Problem(
        "number", entry.number[:40] + "…", f"is wider than {ID_LENGTH} characters: shorten it in the shop"
    )
    cut = replace(
        entry,
        number=entry.number[:ID_LENGTH],
        external_id=None,
        state=LedgerState.INVALID,
        next_at=None,
        problems=(*entry.problems, problem),
    )
    return cut, Event("invalid", str(problem))
