"""What the reconciliation of a business day found. Complete after a second try, should the first be cut off."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0006"
down_revision = "0005"

ID = sa.String(255).with_variant(mysql.VARCHAR(255, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")
LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql")
MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
MYSQL = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    op.create_table(
        "erp_sync_reconciliations",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("shop_orders", sa.Integer, nullable=False),
        sa.Column("shop_value", sa.String(40), nullable=False),
        sa.Column("erp_orders", sa.Integer, nullable=False),
        sa.Column("erp_value", sa.String(40), nullable=False),
        sa.Column("waiting", sa.Integer, nullable=False),
        sa.Column("median_minutes", sa.Double),
        sa.Column("p95_minutes", sa.Double),
        sa.Column("statuses", LONG_TEXT, nullable=False),
        if_not_exists=True,
        **MYSQL,
    )
    op.create_table(
        "erp_sync_findings",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", ID, nullable=False),
        sa.Column("verdict", sa.String(32), nullable=False),
        sa.Column("shop_total", sa.String(40)),
        sa.Column("erp_total", sa.String(40)),
        sa.Column("shop_says", LONG_TEXT, nullable=False),
        sa.Column("erp_says", LONG_TEXT, nullable=False),
        sa.Column("erp_numbers", LONG_TEXT, nullable=False),
        sa.Column("note", LONG_TEXT, nullable=False),
        if_not_exists=True,
        **MYSQL,
    )
