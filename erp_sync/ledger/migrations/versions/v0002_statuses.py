"""What becomes of sent orders in the ERP. Complete after a second try, should the first be cut off."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"

ID = sa.String(255).with_variant(mysql.VARCHAR(255, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")
LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql")
MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
MYSQL = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


def upgrade() -> None:
    op.create_table(
        "erp_sync_statuses",
        sa.Column("order_id", ID, primary_key=True, autoincrement=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("fingerprint", sa.String(32), nullable=False),
        sa.Column("changed_at", MOMENT),
        sa.Column("asked_at", MOMENT),
        sa.Column("deep_at", MOMENT),
        sa.Column("next_at", MOMENT),
        sa.Column("missing_since", MOMENT),
        sa.Column("tracking_code", ID, nullable=False),
        sa.Column("invoices", LONG_TEXT, nullable=False),
        sa.Column("told_status", sa.String(32), nullable=False),
        sa.Column("told_hash", sa.String(32), nullable=False),
        sa.Column("told_values", LONG_TEXT, nullable=False),
        sa.Column("write_at", MOMENT),
        sa.Column("telling_until", MOMENT),
        sa.Column("cancellation", sa.String(16), nullable=False),
        sa.Column("cancel_send_by", MOMENT),
        sa.Column("cancel_at", MOMENT),
        sa.Column("cancel_attempts", sa.Integer, nullable=False),
        sa.Column("problems", LONG_TEXT, nullable=False),
        if_not_exists=True,
        **MYSQL,
    )
    present = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes("erp_sync_statuses")}
    for column in ("next_at", "write_at", "cancel_at", "status"):
        if f"ix_erp_sync_statuses_{column}" not in present:
            op.create_index(f"ix_erp_sync_statuses_{column}", "erp_sync_statuses", [column])
    op.create_table(
        "erp_sync_status_events",
        sa.Column("order_id", ID, primary_key=True, autoincrement=False),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("erp_at", MOMENT),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("text", LONG_TEXT, nullable=False),
        sa.Column("token", sa.String(16), nullable=False),
        if_not_exists=True,
        **MYSQL,
    )
    # Orders that were sent before: each is asked for once.
    op.execute(
        "INSERT INTO erp_sync_statuses (order_id, version, status, fingerprint, next_at, tracking_code, invoices, "
        "told_status, told_hash, told_values, cancellation, cancel_attempts, problems) "
        "SELECT o.order_id, 0, '', '', o.sent_at, '', '', '', '', '', '', 0, '' FROM erp_sync_orders o "
        "WHERE o.state = 'sent' AND o.sent_at IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM erp_sync_statuses s WHERE s.order_id = o.order_id)"
    )
