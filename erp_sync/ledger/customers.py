"""Customers that we created or may have created in the ERP, under the protocol of an order."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from erp_sync.ledger.part import LedgerPart
from erp_sync.ledger.tables import customers
from erp_sync.models import Problem


@dataclass(frozen=True, slots=True)
class CustomerEntry:
    """All datetimes are aware, in UTC, on the ledger's clock."""

    customer_key: str
    """`mapping.customer_key`."""
    version: int
    """The fencing token, as of an order's entry; the first one is 1."""
    send_by: datetime | None = None
    """No byte of any create so far leaves after this. None: none is on its way, or its absence is proven."""
    next_at: datetime | None = None
    """Until then it is left alone: the end of a create's lease, or when to look again. None: it is at rest."""
    problems: tuple[Problem, ...] = ()
    """Why a create whose outcome is unknown was probably refused."""


_SELECT = select(*(column for column in customers.c if column.name != "token"))
_TOKEN = select(customers.c.token).where(customers.c.customer_key == bindparam("sought")).with_for_update()
_CHANGE = (
    update(customers)
    .where(customers.c.customer_key == bindparam("sought"), customers.c.version == bindparam("old_version"))
    .values({column: bindparam(f"new_{column.name}") for column in customers.c if column.name != "customer_key"})
)


class Customers(LedgerPart):
    def customer(self, key: str) -> CustomerEntry | None:
        """None: we never tried to create it."""
        rows = self._database.rows(_SELECT.where(customers.c.customer_key == key))
        return CustomerEntry(**rows[0]._asdict()) if rows else None

    def change_customer(self, old: CustomerEntry | None, new: CustomerEntry) -> bool:
        """A compare-and-set, as `change` of an order; `old` None: only if there is no such entry yet.

        False: the stored entry is another one by now, or its intent came too late. Raises LedgerUnavailable when it
        cannot be known what became of it.
        """
        token = secrets.token_hex(8)
        values = {
            "version": new.version,
            "send_by": new.send_by,
            "next_at": new.next_at,
            "problems": new.problems,
            "token": token,
        }

        def work(connection: Connection) -> bool:
            if self._too_late(connection, old.send_by if old else None, new.send_by):
                return False
            if old is None:
                try:
                    connection.execute(insert(customers), {"customer_key": new.customer_key, **values})
                except IntegrityError:
                    return False
                return True
            changed: dict[str, Any] = {f"new_{name}": value for name, value in values.items()}
            changed |= {"sought": old.customer_key, "old_version": old.version}
            return connection.execute(_CHANGE, changed).rowcount == 1

        def landed(connection: Connection, made: bool) -> bool:
            # The token alone: nobody else changes an entry of ours before its lease is over.
            return not made or connection.execute(_TOKEN, {"sought": new.customer_key}).scalar() == token

        return self._database.write(work, landed)
