"""What webhooks told. Complete after a second try, should the first be cut off."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0007"
down_revision = "0006"

MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
MYSQL = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    op.create_table(
        "erp_sync_inbox",
        sa.Column("source", _id(64), primary_key=True),
        sa.Column("event_id", _id(255), primary_key=True),
        sa.Column("reference", _id(255), nullable=False),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.Column("next_at", MOMENT),
        sa.Column("looks", sa.Integer, nullable=False),
        if_not_exists=True,
        **MYSQL,
    )
    there = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes("erp_sync_inbox")}
    for column in ("next_at", "received_at"):
        if (name := f"ix_erp_sync_inbox_{column}") not in there:
            op.create_index(name, "erp_sync_inbox", [column])


def _id(length: int) -> sa.String:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")
