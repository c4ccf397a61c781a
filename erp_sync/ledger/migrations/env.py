"""Alembic runs this; `ledger/migrate.py` gives it the connection."""

from __future__ import annotations

from alembic import context

from erp_sync.ledger.tables import VERSION_TABLE, metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
