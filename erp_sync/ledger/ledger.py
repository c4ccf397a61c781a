"""The ledger: our own tables, the only truth about what was sent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, select, text, update

from erp_sync.errors import Misconfigured
from erp_sync.ledger.clock import KEEP_SECONDS, Clock, local_time, since_boot
from erp_sync.ledger.customers import Customers
from erp_sync.ledger.database import Database
from erp_sync.ledger.early_orders import EarlyOrders
from erp_sync.ledger.entries import Entries
from erp_sync.ledger.forgetting import Forgetting
from erp_sync.ledger.health import Health
from erp_sync.ledger.heartbeats import Heartbeats
from erp_sync.ledger.inbox import Inbox
from erp_sync.ledger.incidents import Incidents
from erp_sync.ledger.marks import Marks
from erp_sync.ledger.outlet import Outlets
from erp_sync.ledger.part import DATABASE_TIME
from erp_sync.ledger.reconciliations import Reconciliations
from erp_sync.ledger.retention import Retention
from erp_sync.ledger.statuses import Statuses
from erp_sync.ledger.tables import REVISION, VERSION_TABLE, marks

logger = logging.getLogger(__name__)

JUMPED = "clock.jumped"


class Ledger(
    Entries,
    Statuses,
    Customers,
    Marks,
    EarlyOrders,
    Heartbeats,
    Health,
    Inbox,
    Incidents,
    Outlets,
    Reconciliations,
    Retention,
    Forgetting,
):
    """Thread-safe; each call is a transaction of its own. Every call raises LedgerUnavailable when the database does
    not answer, and Misconfigured when it refuses us."""

    @property
    def database(self) -> Database:
        """For the limits of the ERP, which are rows of the same database."""
        return self._database

    def close(self) -> None:
        self._database.close()


def open_ledger(
    url: str,
    *,
    clock: Callable[[], datetime] | None = None,
    steady: Callable[[], float] | None = None,
    check: bool = True,
) -> Ledger:
    """The ledger at a SQLAlchemy URL, of SQLite, MySQL or MariaDB. It must have been migrated.

    `clock` replaces the database's clock, and is asked every time. It may jump as tests please; only with `steady`,
    the seconds that really passed, a jump ahead is noticed. Without `check` the database is not asked for anything yet,
    and need not be there: `check_revision` is then for later.

    Raises LedgerUnavailable; and Misconfigured for a wrong URL, password or database, or an older or newer schema.
    """
    database = Database(url)
    file = str(database.reader.url.database)
    if check and database.is_sqlite and not file.startswith("file:") and not Path(file).exists():
        # To ask it would make it.
        raise Misconfigured(f"ERP_SYNC_LEDGER_URL: {database.name} does not exist: correct it, or run erp-sync migrate")
    asks_database = clock is None and not database.is_sqlite
    ledger: Ledger

    def ask() -> datetime:
        if clock is not None:
            return clock()
        if database.is_sqlite:
            return local_time()
        time: datetime = database.rows(DATABASE_TIME)[0][0]
        return time.replace(tzinfo=UTC)

    def jumped(expected: datetime, shown: datetime) -> None:
        _more_time_to_settle(ledger, expected, shown)

    watched = clock is None or steady is not None
    source = Clock(
        ask,
        keep=KEEP_SECONDS if asks_database else 0.0,
        steady=steady or since_boot,
        jumped=jumped if watched else None,
    )
    ledger = Ledger(database, source, asks_database=asks_database)
    if check:
        check_revision(database)
    return ledger


def stored_revision(database: Database) -> str | None:
    """The schema's revision. None: the database has no table of ours."""
    try:
        rows = database.rows(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608 - a constant
    except Misconfigured as error:
        if "lacks a table" in str(error):
            return None
        raise
    return str(rows[0][0]) if rows else None


def check_revision(database: Database) -> None:
    """Raises Misconfigured unless the schema is the one this code was written for."""
    found = stored_revision(database)
    if found == REVISION:
        return
    if found is None or found < REVISION:
        state = "has no tables yet" if found is None else f"is at revision {found}, before {REVISION}"
        raise Misconfigured(f"ERP_SYNC_LEDGER_URL: {database.name} {state}: run erp-sync migrate")
    raise Misconfigured(
        f"ERP_SYNC_LEDGER_URL: {database.name} is at revision {found}, after {REVISION}: it belongs to a newer "
        "erp_sync, install that one"
    )


def _more_time_to_settle(ledger: Ledger, expected: datetime, shown: datetime) -> None:
    """The first process that notices a jump gives everything in doubt the time back that the jump took from it."""
    by = shown - expected

    def work(connection: Connection) -> None:
        mark = select(marks.c.last_at).where(marks.c.name == JUMPED).with_for_update()
        if expected + timedelta(seconds=5) < connection.execute(mark).scalar_one() <= shown + timedelta(seconds=60):
            return  # written on the clock after the jump: another process was faster
        row = {"last_at": shown, "text": f"from {expected.isoformat()} to {shown.isoformat()}"}
        connection.execute(update(marks).where(marks.c.name == JUMPED).values(row))
        ledger.give_time_to_settle(connection, before=expected, by=by)

    ledger.database.write(work)
