"""What the checks ask of the ledger: which orders have a problem. Complete after a second try, should the first be cut
off: MySQL commits every statement of DDL."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

TABLES = ("erp_sync_orders", "erp_sync_statuses")


def upgrade() -> None:
    for table in TABLES:
        if "troubled" not in {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}:
            # Computed by the database, not stored: no row is written, whoever writes the problems.
            computed = sa.Computed("CASE WHEN length(problems) > 0 THEN 1 END", persisted=False)
            op.add_column(table, sa.Column("troubled", sa.Integer, computed))
        name = f"ix_{table}_troubled"
        if name not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}:
            op.create_index(name, table, ["troubled", "order_id"])
