"""What is wrong and who was told: incidents, and the one way out to Slack. Complete after a second try."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"

LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql")
MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
MYSQL = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
NAME = "ix_erp_sync_incidents_closed_at"


def words(length: int) -> sa.String:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")


def upgrade() -> None:
    op.create_table(
        "erp_sync_incidents",
        sa.Column("cause", words(191), primary_key=True, autoincrement=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("kind", words(191), nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("subject", LONG_TEXT, nullable=False),
        sa.Column("detail", LONG_TEXT, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("oldest_at", MOMENT),
        sa.Column("sample", LONG_TEXT, nullable=False),
        sa.Column("run_id", words(255), nullable=False),
        sa.Column("opened_at", MOMENT, nullable=False),
        sa.Column("last_seen_at", MOMENT, nullable=False),
        sa.Column("closed_at", MOMENT),
        sa.Column("seen", sa.Integer, nullable=False),
        sa.Column("peak", sa.Integer, nullable=False),
        sa.Column("openings", sa.Integer, nullable=False),
        sa.Column("told_opening", sa.Integer, nullable=False),
        sa.Column("told_ending", sa.Integer, nullable=False),
        sa.Column("told_listed", sa.Integer, nullable=False),
        sa.Column("told_channel", words(255), nullable=False),
        sa.Column("told_ts", sa.String(32), nullable=False),
        sa.Column("told_hash", sa.String(32), nullable=False),
        sa.Column("told_at", MOMENT),
        sa.Column("told_next_try_at", MOMENT),
        sa.Column("told_tries", sa.Integer, nullable=False),
        if_not_exists=True,
        **MYSQL,
    )
    if NAME not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes("erp_sync_incidents")}:
        op.create_index(NAME, "erp_sync_incidents", ["closed_at"])
    op.create_table(
        "erp_sync_outlet",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("owner", sa.String(32), nullable=False),
        sa.Column("until", MOMENT),
        sa.Column("next_try_at", MOMENT),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("free_at", MOMENT),
        if_not_exists=True,
        **MYSQL,
    )
