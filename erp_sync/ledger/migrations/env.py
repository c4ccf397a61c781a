"""What Alembic runs; `erp_sync.ledger.migrate` hands it the connection."""

from __future__ import annotations

from alembic import context

from erp_sync.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table="erp_sync_version",
)
with context.begin_transaction():
    context.run_migrations()
