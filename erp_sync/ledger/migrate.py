"""Bringing the ledger's tables up to date. Alembic is imported here and nowhere else."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from erp_sync.errors import Misconfigured
from erp_sync.ledger.database import Database

MIGRATIONS = Path(__file__).parent / "migrations"
LATEST = "0001"
"""The newest revision; a test holds it equal to migrations/versions."""
LOCK = "erp_sync migrate"


def migrate(url: str) -> str:
    """Create or upgrade the tables; returns the revision. Nothing happens when they are up to date.

    Safe to call from several processes at once. Raises LedgerUnavailable, and Misconfigured for a wrong URL or for a
    ledger that a newer erp_sync has upgraded.
    """
    database = Database(url)
    try:
        found = database.read(_revision)
        if found == LATEST:
            return found
        if found is not None and found > LATEST:
            raise Misconfigured(
                f"ERP_SYNC_LEDGER_URL: the ledger is at revision {found}, newer than {LATEST}: upgrade erp_sync"
            )
        database.write(lambda connection: _upgrade(connection, database.is_sqlite))
    finally:
        database.dispose()
    return LATEST


def _revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("erp_sync_version"):
        return None
    found: str | None = connection.execute(sa.text("SELECT version_num FROM erp_sync_version")).scalar()
    return found


def _upgrade(connection: Connection, is_sqlite: bool) -> None:
    """SQLite: the transaction that is open excludes all others. MySQL: a named lock does, DDL commits by itself."""
    from alembic import command
    from alembic.config import Config

    if not is_sqlite:
        connection.execute(sa.text("SELECT GET_LOCK(:name, 120)"), {"name": LOCK})
    try:
        if _revision(connection) != LATEST:
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        if not is_sqlite:
            connection.execute(sa.text("SELECT RELEASE_LOCK(:name)"), {"name": LOCK})
