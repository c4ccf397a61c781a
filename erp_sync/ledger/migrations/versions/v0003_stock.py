"""What stock asks of the ledger: which orders were not in the ERP at an instant."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

NAME = "ix_erp_sync_orders_sent"


def upgrade() -> None:
    if NAME not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes("erp_sync_orders")}:
        op.create_index(NAME, "erp_sync_orders", ["state", "sent_at"])
