"""The ledger's tables. Their history is in migrations/; a test holds both equal.

Ids are compared byte by byte (`utf8mb4_bin`; SQLite does so anyway); datetimes are UTC with microseconds.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect


class UtcDateTime(sa.TypeDecorator[datetime]):
    """Aware in Python, UTC with microseconds in the database."""

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(sa.DateTime())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def text_id(length: int) -> sa.types.TypeEngine[str]:
    """Compared exactly, in every database."""
    exact = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return sa.String(length).with_variant(exact, "mysql", "mariadb")


LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4"), "mysql", "mariadb")
AUTO_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

metadata = sa.MetaData()

orders = sa.Table(
    "erp_sync_orders",
    metadata,
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
    sa.Index("ix_erp_sync_orders_next_at", "next_at", "day"),
    sa.Index("ix_erp_sync_orders_day_state", "day", "state"),
    sa.Index("ix_erp_sync_orders_state", "state", "found_at"),
    sa.Index("ix_erp_sync_orders_number", "number"),
)

events = sa.Table(
    "erp_sync_events",
    metadata,
    sa.Column("id", AUTO_ID, primary_key=True, autoincrement=True),
    sa.Column("order_id", text_id(64), nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("state", text_id(16), nullable=False),
    sa.Column("kind", text_id(16), nullable=False),
    sa.Column("text", LONG_TEXT, nullable=False),
    sa.Column("milliseconds", sa.Float),
    sa.Index("ix_erp_sync_events_order", "order_id", "id"),
)

customer_holds = sa.Table(
    "erp_sync_customer_holds",
    metadata,
    sa.Column("customer_key", text_id(64), primary_key=True),
    sa.Column("order_id", text_id(64), nullable=False),
    sa.Column("until", UtcDateTime, nullable=False),
)

customers = sa.Table(
    "erp_sync_customers",
    metadata,
    sa.Column("customer_key", text_id(64), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("token", text_id(16), nullable=False),
    sa.Column("send_by", UtcDateTime),
    sa.Column("next_at", UtcDateTime),
    sa.Column("problems", LONG_TEXT),
)

marks = sa.Table(
    "erp_sync_marks",
    metadata,
    sa.Column("name", text_id(64), primary_key=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("text", text_id(190), nullable=False),
)

early_orders = sa.Table("erp_sync_early_orders", metadata, sa.Column("order_id", text_id(64), primary_key=True))

heartbeats = sa.Table(
    "erp_sync_heartbeats",
    metadata,
    sa.Column("run_id", text_id(64), primary_key=True),
    sa.Column("flow", text_id(16), nullable=False),
    sa.Column("days", LONG_TEXT, nullable=False),
    sa.Column("beat_at", UtcDateTime, nullable=False),
)

slots = sa.Table(
    "erp_sync_slots",
    metadata,
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("holder", text_id(64), nullable=False),
    sa.Column("flow", text_id(16), nullable=False),
    sa.Column("writes", sa.Boolean, nullable=False),
    sa.Column("until", UtcDateTime, nullable=False),
)

breaker = sa.Table(
    "erp_sync_breaker",
    metadata,
    sa.Column("name", text_id(16), primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("open_until", UtcDateTime),
    sa.Column("probe_until", UtcDateTime),
)

minutes = sa.Table(
    "erp_sync_minutes",
    metadata,
    sa.Column("minute", UtcDateTime, primary_key=True),
    sa.Column("calls", sa.Integer, nullable=False),
)
