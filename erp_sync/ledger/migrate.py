"""Bringing the ledger's schema up to date. Alembic is loaded only when there is something to do."""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from erp_sync.errors import LedgerUnavailable, Misconfigured
from erp_sync.ledger.database import Database
from erp_sync.ledger.ledger import check_revision, stored_revision
from erp_sync.ledger.tables import REVISION, VERSION_TABLE, metadata

logger = logging.getLogger(__name__)

LOCK_SECONDS = 120


def migrate(url: str) -> str:
    """Create the ledger's tables in an existing database, or bring them up to date. Returns the revision.

    Says and does nothing when they are; safe while others run it, and after it was killed. Raises LedgerUnavailable;
    and Misconfigured when the database is not ours alone, or a newer erp_sync's.
    """
    database = Database(url)
    try:
        found = stored_revision(database)
        if found is None or found < REVISION:
            if found is None:
                _refuse_foreign_tables(database)
            _upgrade(database)
            logger.info("the ledger is at revision %s now, it was at %s", REVISION, found or "none")
        check_revision(database)
    finally:
        database.close()
    return REVISION


def _refuse_foreign_tables(database: Database) -> None:
    with database.reader.connect() as connection:
        foreign = set(inspect(connection).get_table_names()) - set(metadata.tables) - {VERSION_TABLE}
    if foreign:
        raise Misconfigured(
            f"ERP_SYNC_LEDGER_URL: {database.name} holds other tables ({min(foreign)}): "
            "give erp_sync a database of its own, never the shop's"
        )


def _upgrade(database: Database) -> None:
    """One process at a time; on SQLite a transaction is the lock, and all of it happens or nothing."""
    try:
        with database.writer.connect() as connection:
            if database.is_sqlite:
                with connection.begin():
                    _run_alembic(connection)
                return
            lock = {"name": f"erp_sync_migrate:{connection.scalar(text('SELECT DATABASE()'))}"[:64]}
            if not connection.scalar(text(f"SELECT GET_LOCK(:name, {LOCK_SECONDS})"), lock):
                raise LedgerUnavailable("another process is migrating the ledger: try again in a minute")
            connection.exec_driver_sql("SET SESSION wait_timeout = 3600")
            try:
                _run_alembic(connection)
                connection.commit()
            finally:
                connection.scalar(text("SELECT RELEASE_LOCK(:name)"), lock)
                connection.invalidate()
    except DBAPIError as error:
        raise database.meaning(error) from error


def _run_alembic(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    logging.getLogger("alembic.runtime").setLevel(logging.WARNING)
    command.upgrade(config, "head")
