"""The first tables. Complete after a second try, should the first be cut off: MySQL commits every statement of DDL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

ID = sa.String(255).with_variant(mysql.VARCHAR(255, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")
LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql")
MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC).replace(tzinfo=None)


def upgrade() -> None:
    _create(
        "erp_sync_orders",
        _key("order_id", ID),
        sa.Column("number", ID, nullable=False),
        sa.Column("external_id", ID),
        sa.Column("day", sa.Date),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("found_at", MOMENT, nullable=False),
        sa.Column("next_at", MOMENT),
        sa.Column("payload_hash", sa.String(64), nullable=False),
        sa.Column("total", sa.String(40)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("intent_at", MOMENT),
        sa.Column("send_by", MOMENT),
        sa.Column("customer_key", sa.String(64), nullable=False),
        sa.Column("erp_branch", sa.String(32), nullable=False),
        sa.Column("erp_number", sa.String(32), nullable=False),
        sa.Column("sent_at", MOMENT),
        sa.Column("verified_at", MOMENT),
        sa.Column("problems", LONG_TEXT, nullable=False),
    )
    _index("ix_erp_sync_orders_external_id", "erp_sync_orders", ["external_id"], unique=True)
    _index("ix_erp_sync_orders_actionable", "erp_sync_orders", ["next_at", "found_at", "day"])
    _index("ix_erp_sync_orders_day_state", "erp_sync_orders", ["day", "state"])
    _index("ix_erp_sync_orders_number", "erp_sync_orders", ["number"])
    _index("ix_erp_sync_orders_found", "erp_sync_orders", ["found_at"])
    _create(
        "erp_sync_events",
        _key("order_id", ID),
        _key("version", sa.Integer()),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("text", LONG_TEXT, nullable=False),
        sa.Column("milliseconds", sa.Double),
        sa.Column("token", sa.String(16), nullable=False),
    )
    _create(
        "erp_sync_customer_holds",
        _key("customer_key", sa.String(64)),
        sa.Column("order_id", ID, nullable=False),
        sa.Column("until", MOMENT, nullable=False),
    )
    _create(
        "erp_sync_customers",
        _key("customer_key", sa.String(64)),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("send_by", MOMENT),
        sa.Column("next_at", MOMENT),
        sa.Column("problems", LONG_TEXT, nullable=False),
        sa.Column("token", sa.String(16), nullable=False),
    )
    _index("ix_erp_sync_customers_send_by", "erp_sync_customers", ["send_by"])
    _index("ix_erp_sync_customers_next_at", "erp_sync_customers", ["next_at"])
    _create(
        "erp_sync_marks",
        _key("name", sa.String(64)),
        sa.Column("last_at", MOMENT, nullable=False),
        sa.Column("text", LONG_TEXT, nullable=False),
    )
    _create("erp_sync_early_orders", _key("order_id", ID))
    _create(
        "erp_sync_heartbeats",
        _key("run_id", sa.String(64)),
        sa.Column("flow", sa.String(32), nullable=False),
        sa.Column("days", LONG_TEXT, nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("beat_at", MOMENT, nullable=False),
    )
    _create(
        "erp_sync_slots",
        _key("slot", sa.Integer()),
        sa.Column("owner", sa.String(32), nullable=False),
        sa.Column("until", MOMENT, nullable=False),
    )
    _create("erp_sync_waiting", _key("rank", sa.Integer()), sa.Column("until", MOMENT, nullable=False))
    _create(
        "erp_sync_breaker",
        _key("id", sa.Integer()),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("openings", sa.Integer, nullable=False),
        sa.Column("open_until", MOMENT),
        sa.Column("probe", sa.String(32), nullable=False),
        sa.Column("probe_until", MOMENT),
    )
    _create("erp_sync_pace", _key("id", sa.Integer()), sa.Column("next_at", MOMENT, nullable=False))
    _fill("erp_sync_marks", [{"name": "clock.jumped", "last_at": LONG_AGO, "text": ""}])
    _fill("erp_sync_slots", [{"slot": slot, "owner": "", "until": LONG_AGO} for slot in range(64)])
    _fill("erp_sync_waiting", [{"rank": rank, "until": LONG_AGO} for rank in range(5)])
    _fill("erp_sync_breaker", [{"id": 1, "failures": 0, "openings": 0, "probe": ""}])
    _fill("erp_sync_pace", [{"id": 1, "next_at": LONG_AGO}])


def _key(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


def _create(name: str, *columns: sa.Column[Any]) -> None:
    op.create_table(
        name,
        *columns,
        if_not_exists=True,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )


def _index(name: str, table: str, columns: list[str], *, unique: bool = False) -> None:
    if name not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}:
        op.create_index(name, table, columns, unique=unique)


def _fill(name: str, rows: list[dict[str, object]]) -> None:
    table = sa.Table(name, sa.MetaData(), autoload_with=op.get_bind())
    (key,) = table.primary_key
    present = set(op.get_bind().execute(sa.select(key)).scalars())
    missing = [row for row in rows if row[key.name] not in present]
    if missing:
        op.bulk_insert(table, missing)
