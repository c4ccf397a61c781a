"""What was found, what was sent, and how it went: the only truth about it."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from erp_sync.errors import LedgerUnavailable
from erp_sync.ledger.customers import CustomerEntry
from erp_sync.ledger.database import Database
from erp_sync.ledger.entry import Change, Entry, Event
from erp_sync.ledger.tables import customer_holds, customers, early_orders, events, heartbeats, marks, orders
from erp_sync.models import LedgerState, Problem

CHUNK = 500
"""Keys in one IN list."""
UNSENT = (LedgerState.DUE, LedgerState.SENDING, LedgerState.IN_DOUBT)


def open_ledger(url: str, *, clock: Callable[[], datetime] | None = None) -> Ledger:
    """The ledger at a SQLAlchemy URL; connects when it is first used. `clock` replaces the database's own."""
    return Ledger(Database(url), clock)


class Ledger:
    """Safe to share between threads. Every method raises LedgerUnavailable when it has not done what it says."""

    def __init__(self, database: Database, clock: Callable[[], datetime] | None = None) -> None:
        self.database = database
        self._clock = clock

    def close(self) -> None:
        self.database.dispose()

    def now(self) -> datetime:
        """The database's clock, which all processes share; for SQLite, whose processes share a machine, its clock."""
        if self._clock is not None:
            return self._clock()
        if self.database.is_sqlite:
            return datetime.now(UTC)
        found: datetime = self.database.read(lambda connection: connection.execute(_NOW).scalar_one())
        return found.replace(tzinfo=UTC)

    # Orders -------------------------------------------------------------------------------------------------------

    def add(self, found: Sequence[tuple[Entry, Event]]) -> list[bool]:
        """Write down orders for the first time. False: the ledger has that order already.

        A number that another order has makes the new one invalid: its external id would not be unique in the ERP.
        """
        if not found:
            return []
        now = self.now()

        def work(connection: Connection) -> list[bool]:
            return [self._add(connection, entry, event, now) for entry, event in found]

        return self.database.write(work)

    def entries(self, order_ids: Sequence[str]) -> dict[str, Entry]:
        """The entries of these orders, by order id; unknown ones are left out."""
        found: dict[str, Entry] = {}
        for start in range(0, len(order_ids), CHUNK):
            chosen = order_ids[start : start + CHUNK]
            rows = self._rows(_BY_IDS, {"ids": chosen})
            found.update((row.order_id, _entry(row)) for row in rows)
        return found

    def by_number(self, number: str) -> list[Entry]:
        """All orders of that number: the valid one, and other shop rows that claim it too."""
        return [_entry(row) for row in self._rows(_BY_NUMBER, {"number": number})]

    def number_taken(self, number: str) -> bool:
        """Whether an order has this number as its external id."""
        return any(entry.external_id == number for entry in self.by_number(number))

    def change(self, changes: Sequence[Change]) -> list[bool]:
        """Make each change whose order still has the version it was based on, all in one transaction.

        True: made, with its event. False: somebody else was faster, the customer is held by another order, or the
        new external id belongs to another order.
        """
        if not changes:
            return []
        token = secrets.token_hex(8)
        now = self.now()

        def work(connection: Connection) -> list[bool]:
            made = [self._change(connection, change, token, now) for change in changes]
            story = [_event(change.new, change.event, now) for change, ok in zip(changes, made, strict=True) if ok]
            if story:
                connection.execute(sa.insert(events), story)
            return made

        def committed(connection: Connection) -> bool:
            ids = [change.old.order_id for change in changes]
            rows = connection.execute(_TOKENS, {"ids": ids})
            return any(row.token == token for row in rows)

        return self.database.write(work, committed)

    def actionable(
        self, limit: int, *, days: Collection[date] | None = None, numbers: Collection[str] | None = None
    ) -> list[Entry]:
        """What somebody should look at now: the longest due first."""
        query = sa.select(orders).where(orders.c.next_at <= sa.bindparam("now"))
        if days is not None:
            query = query.where(orders.c.day.in_(list(days)))
        if numbers is not None:
            query = query.where(orders.c.number.in_(list(numbers)))
        query = query.order_by(orders.c.next_at, orders.c.order_id).limit(limit)
        return [_entry(row) for row in self._rows(query, {"now": self.now()})]

    def actionable_days(self) -> list[date]:
        """The business days that have something actionable."""
        return [row.day for row in self._rows(_ACTIONABLE_DAYS, {"now": self.now()})]

    def counts(self, day: date | None = None) -> dict[LedgerState, int]:
        """Orders by state, of one day or of all."""
        query = sa.select(orders.c.state, sa.func.count().label("n")).group_by(orders.c.state)
        if day is not None:
            query = query.where(orders.c.day == day)
        return {LedgerState(row.state): row.n for row in self._rows(query, {})}

    def oldest_unsent(self, day: date | None = None) -> datetime | None:
        """When the order was found that has waited longest to be in the ERP. None: none waits."""
        query = sa.select(sa.func.min(orders.c.found_at).label("at")).where(orders.c.state.in_(UNSENT))
        if day is not None:
            query = query.where(orders.c.day == day)
        [row] = self._rows(query, {})
        at: datetime | None = row.at
        return at

    def next_wake(self) -> datetime | None:
        [row] = self._rows(
            sa.select(sa.func.min(orders.c.next_at).label("at")).where(orders.c.next_at > self.now()), {}
        )
        at: datetime | None = row.at
        return at

    def list(self, *, state: LedgerState | None = None, day: date | None = None, limit: int = 100) -> list[Entry]:
        """The newest entries first."""
        query = sa.select(orders).order_by(orders.c.found_at.desc(), orders.c.order_id.desc()).limit(limit)
        if state is not None:
            query = query.where(orders.c.state == state.value)
        if day is not None:
            query = query.where(orders.c.day == day)
        return [_entry(row) for row in self._rows(query, {})]

    def story(self, order_id: str) -> Sequence[tuple[datetime, Event, LedgerState]]:
        """Every change of state since the order was found, the oldest first."""
        query = sa.select(events).where(events.c.order_id == order_id).order_by(events.c.id)
        return [
            (row.at, Event(row.kind, row.text, row.milliseconds), LedgerState(row.state))
            for row in self._rows(query, {})
        ]

    def heal_clock(self, longest: timedelta) -> None:
        """After the clock was set back: what lies further ahead than it may is pulled in.

        `longest` is the longest that anything legitimately waits. Nothing is made shorter than that.
        """
        now = self.now()
        far = now + longest
        ahead = sa.or_(orders.c.next_at > far, sa.and_(orders.c.next_at.is_not(None), orders.c.send_by > far))
        if not self._rows(sa.select(orders.c.order_id).where(ahead).limit(1), {}):
            return

        def work(connection: Connection) -> None:
            connection.execute(sa.update(orders).where(orders.c.next_at > far).values(next_at=far))
            waiting = sa.and_(orders.c.next_at.is_not(None), orders.c.send_by > now)
            connection.execute(sa.update(orders).where(waiting).values(send_by=now))
            connection.execute(sa.update(customers).where(customers.c.next_at > far).values(next_at=far))
            connection.execute(sa.update(customers).where(customers.c.send_by > now).values(send_by=now))
            connection.execute(sa.update(customer_holds).where(customer_holds.c.until > far).values(until=far))

        self.database.write(work)

    # Customers, marks, early orders, heartbeats ---------------------------------------------------------------------

    def customer(self, key: str) -> CustomerEntry | None:
        """The create of this customer that we began. None: we never did."""
        for row in self._rows(_CUSTOMER, {"key": key}):
            return CustomerEntry(row.customer_key, row.version, row.send_by, row.next_at, _problems(row.problems))
        return None

    def change_customer(self, old: CustomerEntry | None, new: CustomerEntry) -> bool:
        """A compare-and-set on the version; `old` None: there must be no entry yet."""
        token = secrets.token_hex(8)
        values = {
            "customer_key": new.customer_key,
            "version": new.version,
            "token": token,
            "send_by": new.send_by,
            "next_at": new.next_at,
            "problems": _problems_text(new.problems),
        }

        def work(connection: Connection) -> bool:
            if old is None:
                try:
                    with connection.begin_nested():
                        connection.execute(sa.insert(customers), values)
                except IntegrityError:
                    return False
                return True
            where = sa.and_(customers.c.customer_key == old.customer_key, customers.c.version == old.version)
            return connection.execute(sa.update(customers).where(where).values(values)).rowcount == 1

        def committed(connection: Connection) -> bool:
            query = sa.select(customers.c.token).where(customers.c.customer_key == new.customer_key).with_for_update()
            return connection.execute(query).scalar() == token

        return self.database.write(work, committed)

    def mark(self, name: str) -> tuple[datetime, str] | None:
        """When something was last done, and what was noted about it."""
        for row in self._rows(sa.select(marks).where(marks.c.name == name), {}):
            return row.at, row.text
        return None

    def set_mark(self, name: str, text: str = "") -> None:
        now = self.now()
        self.database.write(lambda connection: _upsert(connection, marks, {"name": name}, {"at": now, "text": text}))

    def claim_mark(self, name: str, every: timedelta) -> bool:
        """Whether it is our turn to do what is done once in a while by one process of all."""
        now = self.now()

        def work(connection: Connection) -> bool:
            due = sa.and_(marks.c.name == name, sa.or_(marks.c.at <= now - every, marks.c.at > now + every))
            if connection.execute(sa.update(marks).where(due).values(at=now)).rowcount:
                return True
            try:
                with connection.begin_nested():
                    connection.execute(sa.insert(marks), {"name": name, "at": now, "text": ""})
            except IntegrityError:
                return False
            return True

        return self.database.write(work)

    def early(self, order_ids: Sequence[str]) -> set[str]:
        """Those that were placed before `start_day` and still waited at the first sweep."""
        known: set[str] = set()
        for start in range(0, len(order_ids), CHUNK):
            chosen = order_ids[start : start + CHUNK]
            query = sa.select(early_orders.c.order_id).where(early_orders.c.order_id.in_(chosen))
            known.update(row.order_id for row in self._rows(query, {}))
        return known

    def remember_early(self, order_ids: Sequence[str]) -> None:
        new = sorted(set(order_ids) - self.early(order_ids))
        if new:

            def work(connection: Connection) -> None:
                for order_id in new:
                    _upsert(connection, early_orders, {"order_id": order_id}, {})

            self.database.write(work)

    @contextmanager
    def heartbeat(self, run_id: str, flow: str, days: Sequence[date], every: float) -> Iterator[None]:
        """While the block runs, others see this run at work. A beat that the ledger does not take is left out."""
        values = {"flow": flow, "days": ",".join(day.isoformat() for day in days)}
        ended = threading.Event()

        def beat() -> None:
            now = self.now()
            self.database.write(
                lambda connection: _upsert(connection, heartbeats, {"run_id": run_id}, {**values, "beat_at": now})
            )

        def keep_beating() -> None:
            while not ended.wait(every):
                with suppress(LedgerUnavailable):  # a beat is a hint for others
                    beat()

        with suppress(LedgerUnavailable):  # a beat is a hint for others
            beat()
        thread = threading.Thread(target=keep_beating, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(timeout=5)
            with suppress(LedgerUnavailable):  # a beat is a hint for others
                where = heartbeats.c.run_id == run_id
                self.database.write(lambda connection: connection.execute(sa.delete(heartbeats).where(where)))

    def heartbeats_alive(self, flow: str, within: timedelta) -> dict[str, Sequence[date]]:
        """The runs that are at work, and on which days."""
        now = self.now()
        query = sa.select(heartbeats).where(
            heartbeats.c.flow == flow, heartbeats.c.beat_at > now - within, heartbeats.c.beat_at < now + within
        )
        return {
            row.run_id: [date.fromisoformat(day) for day in row.days.split(",") if day] for row in self._rows(query, {})
        }

    def _rows(self, query: sa.Select[Any], parameters: dict[str, Any]) -> Sequence[sa.Row[Any]]:
        return self.database.read(lambda connection: connection.execute(query, parameters).all())

    def _add(self, connection: Connection, entry: Entry, event: Event, now: datetime) -> bool:
        if connection.execute(_BY_IDS, {"ids": [entry.order_id]}).first() is not None:
            return False
        if entry.external_id is not None:
            other = connection.execute(_OWNER, {"external_id": entry.external_id}).scalar()
            if other is not None:
                entry, event = _number_taken(entry, other)
        connection.execute(sa.insert(orders), {**_values(entry), "token": secrets.token_hex(8)})
        connection.execute(sa.insert(events), [_event(entry, event, now)])
        return True

    def _change(self, connection: Connection, change: Change, token: str, now: datetime) -> bool:
        old, new = change.old, change.new
        if change.hold and new.next_at is not None and not _hold(connection, change.hold, new, now):
            return False
        values = {**_values(new), "token": token, "old_order_id": old.order_id, "old_version": old.version}
        try:
            if new.external_id != old.external_id:
                with connection.begin_nested():
                    made = connection.execute(_CHANGE, values).rowcount == 1
            else:
                made = connection.execute(_CHANGE, values).rowcount == 1
        except IntegrityError:
            return False
        if made and change.release:
            connection.execute(_RELEASE, {"key": change.release, "holder": old.order_id})
        return made


_NOW = sa.text("SELECT UTC_TIMESTAMP(6)")
_BY_IDS = sa.select(orders).where(orders.c.order_id.in_(sa.bindparam("ids", expanding=True)))
_TOKENS = sa.select(orders.c.token).where(orders.c.order_id.in_(sa.bindparam("ids", expanding=True))).with_for_update()
_BY_NUMBER = sa.select(orders).where(orders.c.number == sa.bindparam("number")).order_by(orders.c.found_at)
_OWNER = sa.select(orders.c.order_id).where(orders.c.external_id == sa.bindparam("external_id"))
_CUSTOMER = sa.select(customers).where(customers.c.customer_key == sa.bindparam("key"))
_ACTIONABLE_DAYS = (
    sa.select(orders.c.day)
    .where(orders.c.next_at <= sa.bindparam("now"), orders.c.day.is_not(None))
    .distinct()
    .order_by(orders.c.day)
)
_CHANGE = (
    sa.update(orders)
    .where(orders.c.order_id == sa.bindparam("old_order_id"), orders.c.version == sa.bindparam("old_version"))
    .values({column.name: sa.bindparam(column.name) for column in orders.c if column.name != "order_id"})
)
_RELEASE = sa.delete(customer_holds).where(
    customer_holds.c.customer_key == sa.bindparam("key"), customer_holds.c.order_id == sa.bindparam("holder")
)
_TAKE_HOLD = (
    sa.update(customer_holds)
    .where(
        customer_holds.c.customer_key == sa.bindparam("key"),
        sa.or_(customer_holds.c.until <= sa.bindparam("now"), customer_holds.c.order_id == sa.bindparam("holder")),
    )
    .values(order_id=sa.bindparam("holder"), until=sa.bindparam("lease"))
)


def _hold(connection: Connection, key: str, entry: Entry, now: datetime) -> bool:
    values = {"key": key, "now": now, "holder": entry.order_id, "lease": entry.next_at}
    if connection.execute(_TAKE_HOLD, values).rowcount:
        return True
    try:
        with connection.begin_nested():
            row = {"customer_key": key, "order_id": entry.order_id, "until": entry.next_at}
            connection.execute(sa.insert(customer_holds), row)
    except IntegrityError:
        return False
    return True


def _upsert(connection: Connection, table: sa.Table, key: dict[str, Any], values: dict[str, Any]) -> None:
    where = sa.and_(*(table.c[name] == value for name, value in key.items()))
    if values and connection.execute(sa.update(table).where(where).values(values)).rowcount:
        return
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(table), {**key, **values})
    except IntegrityError:
        if values:
            connection.execute(sa.update(table).where(where).values(values))


_FIELDS = [field.name for field in fields(Entry)]


def _values(entry: Entry) -> dict[str, Any]:
    values = {name: getattr(entry, name) for name in _FIELDS}
    values["state"] = entry.state.value
    values["total"] = None if entry.total is None else str(entry.total)
    values["problems"] = _problems_text(entry.problems)
    return values


def _entry(row: sa.Row[Any]) -> Entry:
    values = {name: getattr(row, name) for name in _FIELDS}
    values["state"] = LedgerState(row.state)
    values["total"] = None if row.total is None else Decimal(row.total)
    values["problems"] = _problems(row.problems)
    return Entry(**values)


def _event(entry: Entry, event: Event, now: datetime) -> dict[str, Any]:
    return {
        "order_id": entry.order_id,
        "at": now,
        "version": entry.version,
        "state": entry.state.value,
        "kind": event.kind,
        "text": event.text,
        "milliseconds": event.milliseconds,
    }


def _problems_text(problems: tuple[Problem, ...]) -> str | None:
    return json.dumps([asdict(problem) for problem in problems], ensure_ascii=False) if problems else None


def _problems(text: str | None) -> tuple[Problem, ...]:
    return tuple(Problem(**problem) for problem in json.loads(text)) if text else ()


def _number_taken(entry: Entry, owner: str) -> tuple[Entry, Event]:
    problem = Problem("number", entry.number, f"the shop's order {owner} has this number too: give one another number")
    invalid = replace(entry, external_id=None, state=LedgerState.INVALID, next_at=None, problems=(problem,))
    return invalid, Event("invalid", str(problem))
