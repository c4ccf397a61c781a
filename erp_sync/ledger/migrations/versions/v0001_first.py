"""The ledger as it began."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from erp_sync.ledger.tables import AUTO_ID, LONG_TEXT, UtcDateTime, text_id

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "erp_sync_orders",
        sa.Column("order_id", text_id(64), primary_key=True),
        sa.Column("number", text_id(190), nullable=False),
        sa.Column("external_id", text_id(190), unique=True),
        sa.Column("day", sa.Date),
        sa.Column("state", text_id(16), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("token", text_id(16), nullable=False),
        sa.Column("found_at", UtcDateTime, nullable=False),
        sa.Column("next_at", UtcDateTime),
        sa.Column("payload_hash", text_id(64), nullable=False),
        sa.Column("total", sa.String(32)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("intent_at", UtcDateTime),
        sa.Column("send_by", UtcDateTime),
        sa.Column("customer_key", text_id(64), nullable=False),
        sa.Column("erp_branch", text_id(16), nullable=False),
        sa.Column("erp_number", text_id(16), nullable=False),
        sa.Column("sent_at", UtcDateTime),
        sa.Column("verified_at", UtcDateTime),
        sa.Column("problems", LONG_TEXT),
    )
    op.create_index("ix_erp_sync_orders_next_at", "erp_sync_orders", ["next_at", "day"])
    op.create_index("ix_erp_sync_orders_day_state", "erp_sync_orders", ["day", "state"])
    op.create_index("ix_erp_sync_orders_state", "erp_sync_orders", ["state", "found_at"])
    op.create_index("ix_erp_sync_orders_number", "erp_sync_orders", ["number"])
    op.create_table(
        "erp_sync_events",
        sa.Column("id", AUTO_ID, primary_key=True, autoincrement=True),
        sa.Column("order_id", text_id(64), nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", text_id(16), nullable=False),
        sa.Column("kind", text_id(16), nullable=False),
        sa.Column("text", LONG_TEXT, nullable=False),
        sa.Column("milliseconds", sa.Float),
    )
    op.create_index("ix_erp_sync_events_order", "erp_sync_events", ["order_id", "id"])
    op.create_table(
        "erp_sync_customer_holds",
        sa.Column("customer_key", text_id(64), primary_key=True),
        sa.Column("order_id", text_id(64), nullable=False),
        sa.Column("until", UtcDateTime, nullable=False),
    )
    op.create_table(
        "erp_sync_customers",
        sa.Column("customer_key", text_id(64), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("token", text_id(16), nullable=False),
        sa.Column("send_by", UtcDateTime),
        sa.Column("next_at", UtcDateTime),
        sa.Column("problems", LONG_TEXT),
    )
    op.create_table(
        "erp_sync_marks",
        sa.Column("name", text_id(64), primary_key=True),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("text", text_id(190), nullable=False),
    )
    op.create_table(
        "erp_sync_heartbeats",
        sa.Column("run_id", text_id(64), primary_key=True),
        sa.Column("flow", text_id(16), nullable=False),
        sa.Column("days", LONG_TEXT, nullable=False),
        sa.Column("beat_at", UtcDateTime, nullable=False),
    )
    op.create_table(
        "erp_sync_slots",
        sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("holder", text_id(64), nullable=False),
        sa.Column("flow", text_id(16), nullable=False),
        sa.Column("writes", sa.Boolean, nullable=False),
        sa.Column("until", UtcDateTime, nullable=False),
    )
    op.create_table(
        "erp_sync_breaker",
        sa.Column("name", text_id(16), primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("open_until", UtcDateTime),
        sa.Column("probe_until", UtcDateTime),
    )
    op.create_table(
        "erp_sync_minutes",
        sa.Column("minute", UtcDateTime, primary_key=True),
        sa.Column("calls", sa.Integer, nullable=False),
    )
    op.create_table("erp_sync_early_orders", sa.Column("order_id", text_id(64), primary_key=True))
    op.bulk_insert(
        sa.table("erp_sync_breaker", sa.column("name"), sa.column("failures")), [{"name": "erp", "failures": 0}]
    )
