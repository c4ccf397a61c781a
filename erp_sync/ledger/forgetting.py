"""What the ledger lets go of a person, on request, while every order keeps its story.

One order is one transaction: its row, its life's row, the texts of both stories and what the reconciliation noted of it
change together or not at all. Numbers, amounts, states, ERP numbers and invoices are never touched.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, delete, or_, select, update

from erp_sync.ledger.entries import as_entry, entry_columns
from erp_sync.ledger.entry import Entry, Event
from erp_sync.ledger.part import LedgerPart
from erp_sync.ledger.story import tell_story
from erp_sync.ledger.tables import (
    customer_holds,
    customers,
    entries,
    events,
    findings,
    incidents,
    status_events,
    statuses,
)
from erp_sync.ledger.writing import Writing, Written
from erp_sync.models import CANCEL_UNDER_WAY, LedgerState, Problem

_SETTLED = frozenset({LedgerState.SENT, LedgerState.REFUSED, LedgerState.INVALID, LedgerState.CANCELLED})

Clean = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class _Words:
    """Where words about an order stand: the first column of the key says which order."""

    key: tuple[Column[Any], ...]
    texts: tuple[Column[str], ...]


_STORY = _Words((events.c.order_id, events.c.version), (events.c.text,))
_LIFE = _Words((status_events.c.order_id, status_events.c.version), (status_events.c.text,))
_FOUND = _Words(
    (findings.c.number, findings.c.day, findings.c.place), (findings.c.shop_says, findings.c.erp_says, findings.c.note)
)


class Outcome(enum.StrEnum):
    FORGOTTEN = "forgotten"
    NOTHING = "nothing"
    """Nothing in the ledger tells whose order it is."""
    UNDER_WAY = "under_way"
    """It is on its way, in doubt, or being cancelled or told to the shop: it is left as it is, whole."""


@dataclass(frozen=True, slots=True)
class Cleaning:
    """How texts and problems of one person lose what names him. Both give back what has nothing to lose."""

    text: Clean
    problem: Callable[[Problem], Problem]


class Forgetting(LedgerPart):
    def of_customers(self, codes: Collection[str], after: str, limit: int) -> list[Entry]:
        """Orders last sent for one of these customers (`A1_COD/A1_LOJA`; "": never sent), by order id, the page
        `after` one."""
        query = select(*entry_columns).where(entries.c.customer_key.in_(codes), entries.c.order_id > after)
        return [as_entry(row) for row in self._database.rows(query.order_by(entries.c.order_id).limit(limit))]

    def forget_order(self, order_id: str, cleaning: Cleaning, *, dry_run: bool = False) -> Outcome:
        """Take out of an order's rows whose it is. Harmless to repeat, and beside everything that runs: rows are locked
        while they are looked at, and whoever worked on them finds another version."""
        writing = Writing(events, secrets.token_hex(8), self.now())

        def work(connection: Connection) -> tuple[Outcome, Written]:
            outcome, made = _forget(connection, order_id, cleaning, writing.now, dry_run=dry_run)
            rows = [_told(entry, event) for entry, event in made]
            return outcome, replace(writing.tell(connection, [], rows), made=made)

        outcome, written = self._database.write(work, lambda connection, result: writing.landed(connection, result[1]))
        tell_story(written.made)
        return outcome

    def forget_customer(self, key: str, codes: Collection[str], settled_by: datetime, *, dry_run: bool = False) -> bool:
        """Delete what is kept of a customer's create (`mapping.customer_key`) and of the turns of his codes.

        False: something of it is on its way or in doubt, or its last byte left after `settled_by`; that stays.
        """
        now = self.now()
        own = customers.c.customer_key == key
        at_rest = (
            or_(customers.c.send_by.is_(None), customers.c.send_by < settled_by),
            or_(customers.c.next_at.is_(None), customers.c.next_at <= now),
        )
        turns = customer_holds.c.customer_key.in_(codes)

        def work(connection: Connection) -> bool:
            if not dry_run:
                connection.execute(delete(customers).where(own, *at_rest))
                connection.execute(delete(customer_holds).where(turns, customer_holds.c.until <= now))
                left = connection.execute(select(customers.c.customer_key).where(own)).first()
            else:
                resting = connection.execute(select(customers.c.customer_key).where(own, *at_rest)).first()
                left = None if resting else connection.execute(select(customers.c.customer_key).where(own)).first()
            held = select(customer_holds.c.customer_key).where(turns, customer_holds.c.until > now)
            return left is None and connection.execute(held).first() is None

        return self._database.write(work)

    def forget_in_incidents(self, clean: Clean, *, dry_run: bool = False) -> int:
        """Take it out of what is kept of troubles, open and over. Returns how many held something."""

        def work(connection: Connection) -> int:
            held = 0
            columns = (incidents.c.cause, incidents.c.version, incidents.c.subject, incidents.c.detail)
            for row in connection.execute(select(*columns).with_for_update()).all():
                changed = {name: clean(getattr(row, name)) for name in ("subject", "detail")}
                if all(getattr(row, name) == text for name, text in changed.items()):
                    continue
                held += 1
                if not dry_run:
                    values = {**changed, "version": row.version + 1}
                    connection.execute(update(incidents).where(incidents.c.cause == row.cause).values(values))
            return held

        return self._database.write(work)


def _forget(
    connection: Connection, order_id: str, cleaning: Cleaning, now: datetime, *, dry_run: bool
) -> tuple[Outcome, list[tuple[Entry, Event]]]:
    own = select(*entry_columns).where(entries.c.order_id == order_id).with_for_update()
    row = connection.execute(own).first()
    if row is None:
        return Outcome.NOTHING, []
    entry = as_entry(row)
    life = connection.execute(select(statuses).where(statuses.c.order_id == order_id).with_for_update()).first()
    if entry.state not in _SETTLED or entry.next_at is not None or (life is not None and _is_busy(life, now)):
        return Outcome.UNDER_WAY, []
    problems = tuple(map(cleaning.problem, entry.problems))
    lives = tuple(map(cleaning.problem, life.problems)) if life is not None else ()
    texts = [
        *_cleaned(connection, _STORY, order_id, cleaning.text),
        *_cleaned(connection, _LIFE, order_id, cleaning.text),
        *_cleaned(connection, _FOUND, entry.number, cleaning.text),
    ]
    of_life = life is not None and lives != life.problems
    if not (entry.customer_key or problems != entry.problems or texts or of_life):
        return Outcome.NOTHING, []
    if dry_run:
        return Outcome.FORGOTTEN, []
    forgotten = replace(entry, version=entry.version + 1, customer_key="", problems=problems)
    change = {"version": forgotten.version, "customer_key": "", "problems": problems}
    connection.execute(update(entries).where(entries.c.order_id == order_id).values(change))
    if life is not None and of_life:
        values = {"version": life.version + 1, "problems": lives}
        connection.execute(update(statuses).where(statuses.c.order_id == order_id).values(values))
    for statement in texts:
        connection.execute(statement)
    return Outcome.FORGOTTEN, [(forgotten, Event("forgotten", "whose order it is was taken out of the ledger"))]


def _is_busy(life: Any, now: datetime) -> bool:
    told = life.telling_until is not None and life.telling_until > now
    return told or life.cancellation in CANCEL_UNDER_WAY


def _cleaned(connection: Connection, words: _Words, order: str, clean: Clean) -> list[Any]:
    """The UPDATEs of the rows of this order that have something to lose."""
    changes = []
    for row in connection.execute(select(*words.key, *words.texts).where(words.key[0] == order)).all():
        changed = {column: clean(getattr(row, column.name)) for column in words.texts}
        if any(text != getattr(row, column.name) for column, text in changed.items()):
            same = [column == getattr(row, column.name) for column in words.key]
            changes.append(update(words.key[0].table).where(*same).values({c.name: t for c, t in changed.items()}))
    return changes


def _told(entry: Entry, event: Event) -> dict[str, Any]:
    return {
        "order_id": entry.order_id,
        "version": entry.version,
        "state": entry.state,
        "kind": event.kind,
        "text": event.text,
        "milliseconds": None,
    }
