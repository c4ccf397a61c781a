"""The ledger's tables, as its queries see them. `migrations/` makes them; a test holds both alike.

Ids compare byte by byte (`utf8mb4_bin`), every datetime is UTC with microseconds, money is text so that no database
rounds it.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Column, Computed, Date, DateTime, Dialect, Double, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator

from erp_sync.models import CAUSE_LENGTH, Cancellation, Invoice, LedgerState, OrderStatus, Problem, Severity

REVISION = "0007"
"""The migration these tables belong to."""
VERSION_TABLE = "erp_sync_version"
ID_LENGTH = 255
SOURCE_LENGTH = 64

metadata = MetaData()


def _id(length: int) -> String:
    return String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql")


TEXT_ID = _id(ID_LENGTH)
LONG_TEXT = Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql")
MOMENT = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}


class Moment(TypeDecorator[datetime]):
    """An aware datetime, stored in UTC."""

    impl = MOMENT
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Words(TypeDecorator[str]):
    """Text that may come from a foreign system: what is no Unicode text (lone surrogates) is replaced, not refused."""

    impl = LONG_TEXT
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else value.encode("utf-8", "replace").decode()


class Problems(TypeDecorator[tuple[Problem, ...]]):
    impl = LONG_TEXT
    cache_ok = True

    def process_bind_param(self, value: tuple[Problem, ...] | None, dialect: Dialect) -> str:
        if not value:
            return ""
        text = json.dumps([(problem.field, problem.value, problem.advice) for problem in value], ensure_ascii=False)
        return text.encode("utf-8", "replace").decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[Problem, ...]:
        return tuple(Problem(*parts) for parts in json.loads(value)) if value else ()


class Invoices(TypeDecorator[tuple[Invoice, ...]]):
    impl = LONG_TEXT
    cache_ok = True

    def process_bind_param(self, value: tuple[Invoice, ...] | None, dialect: Dialect) -> str:
        rows = [
            (invoice.number, invoice.series, _iso(invoice.issued_on), invoice.key, _iso(invoice.delivered_at))
            for invoice in value or ()
        ]
        return json.dumps(rows) if rows else ""

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[Invoice, ...]:
        return tuple(
            Invoice(
                number,
                series,
                date.fromisoformat(issued_on) if issued_on else None,
                key,
                datetime.fromisoformat(delivered_at) if delivered_at else None,
            )
            for number, series, issued_on, key, delivered_at in (json.loads(value) if value else ())
        )


class Texts(TypeDecorator[tuple[str, ...]]):
    impl = LONG_TEXT
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str:
        return json.dumps(value, ensure_ascii=False) if value else ""

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[str, ...]:
        return tuple(json.loads(value)) if value else ()


class Money(TypeDecorator[Decimal]):
    impl = String(40)
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        return None if value is None else format(value, "f")

    def process_result_value(self, value: str | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class State(TypeDecorator[LedgerState]):
    impl = String(16)
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> LedgerState | None:
        return None if value is None else LedgerState(value)


class Status(TypeDecorator[OrderStatus]):
    """None, the ERP was not asked yet, is stored as ""."""

    impl = String(32)
    cache_ok = True

    def process_bind_param(self, value: OrderStatus | None, dialect: Dialect) -> str:
        return value or ""

    def process_result_value(self, value: str | None, dialect: Dialect) -> OrderStatus | None:
        return OrderStatus(value) if value else None


class CancellationState(TypeDecorator[Cancellation]):
    impl = String(16)
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> Cancellation | None:
        return None if value is None else Cancellation(value)


class Weight(TypeDecorator[Severity]):
    impl = String(16)
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> Severity | None:
        return None if value is None else Severity(value)


def _iso(value: date | None) -> str | None:
    return None if value is None else value.isoformat()


def _key(name: str) -> Column[str]:
    return Column(name, TEXT_ID, primary_key=True)


def _number(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False)


def _word(name: str, length: int) -> Column[str]:
    return Column(name, String(length), nullable=False)


def _troubled() -> Column[int]:
    """1 where there are problems, else NULL: an index finds the few among a million."""
    return Column("troubled", Integer, Computed("CASE WHEN length(problems) > 0 THEN 1 END", persisted=False))


entries = Table(
    "erp_sync_orders",
    metadata,
    _key("order_id"),
    Column("number", TEXT_ID, nullable=False),
    Column("external_id", TEXT_ID),
    Column("day", Date),
    Column("state", State, nullable=False),
    _number("version"),
    Column("found_at", Moment, nullable=False),
    Column("next_at", Moment),
    Column("payload_hash", String(64), nullable=False),
    Column("total", Money),
    _number("attempts"),
    Column("intent_at", Moment),
    Column("send_by", Moment),
    Column("customer_key", String(64), nullable=False),
    Column("erp_branch", String(32), nullable=False),
    Column("erp_number", String(32), nullable=False),
    Column("sent_at", Moment),
    Column("verified_at", Moment),
    Column("problems", Problems, nullable=False),
    _troubled(),
    Index("ix_erp_sync_orders_external_id", "external_id", unique=True),
    Index("ix_erp_sync_orders_actionable", "next_at", "found_at", "day"),
    Index("ix_erp_sync_orders_day_state", "day", "state"),
    Index("ix_erp_sync_orders_number", "number"),
    Index("ix_erp_sync_orders_found", "found_at"),
    Index("ix_erp_sync_orders_sent", "state", "sent_at"),
    Index("ix_erp_sync_orders_troubled", "troubled", "order_id"),
    **MYSQL,
)

events = Table(
    "erp_sync_events",
    metadata,
    _key("order_id"),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("state", State, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("text", Words, nullable=False),
    Column("milliseconds", Double),
    Column("token", String(16), nullable=False),
    **MYSQL,
)

statuses = Table(
    "erp_sync_statuses",
    metadata,
    _key("order_id"),
    _number("version"),
    Column("status", Status, nullable=False),
    _word("fingerprint", 32),
    Column("changed_at", Moment),
    Column("asked_at", Moment),
    Column("deep_at", Moment),
    Column("next_at", Moment),
    Column("missing_since", Moment),
    Column("tracking_code", TEXT_ID, nullable=False),
    Column("invoices", Invoices, nullable=False),
    Column("told_status", Status, nullable=False),
    _word("told_hash", 32),
    Column("told_values", Texts, nullable=False),
    Column("write_at", Moment),
    Column("telling_until", Moment),
    Column("cancellation", CancellationState, nullable=False),
    Column("cancel_send_by", Moment),
    Column("cancel_at", Moment),
    _number("cancel_attempts"),
    Column("problems", Problems, nullable=False),
    _troubled(),
    Index("ix_erp_sync_statuses_next_at", "next_at"),
    Index("ix_erp_sync_statuses_write_at", "write_at"),
    Index("ix_erp_sync_statuses_cancel_at", "cancel_at"),
    Index("ix_erp_sync_statuses_status", "status"),
    Index("ix_erp_sync_statuses_troubled", "troubled", "order_id"),
    **MYSQL,
)

status_events = Table(
    "erp_sync_status_events",
    metadata,
    _key("order_id"),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("erp_at", Moment),
    Column("status", Status, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("text", Words, nullable=False),
    Column("token", String(16), nullable=False),
    **MYSQL,
)

customer_holds = Table(
    "erp_sync_customer_holds",
    metadata,
    Column("customer_key", String(64), primary_key=True),
    Column("order_id", TEXT_ID, nullable=False),
    Column("until", Moment, nullable=False),
    **MYSQL,
)

customers = Table(
    "erp_sync_customers",
    metadata,
    Column("customer_key", String(64), primary_key=True),
    _number("version"),
    Column("send_by", Moment),
    Column("next_at", Moment),
    Column("problems", Problems, nullable=False),
    Column("token", String(16), nullable=False),
    Index("ix_erp_sync_customers_send_by", "send_by"),
    Index("ix_erp_sync_customers_next_at", "next_at"),
    **MYSQL,
)

marks = Table(
    "erp_sync_marks",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("last_at", Moment, nullable=False),
    Column("text", Words, nullable=False),
    **MYSQL,
)

early_orders = Table("erp_sync_early_orders", metadata, _key("order_id"), **MYSQL)

heartbeats = Table(
    "erp_sync_heartbeats",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("flow", String(32), nullable=False),
    Column("days", LONG_TEXT, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("beat_at", Moment, nullable=False),
    **MYSQL,
)

reconciliations = Table(
    "erp_sync_reconciliations",
    metadata,
    Column("day", Date, primary_key=True),
    Column("at", Moment, nullable=False),
    _number("shop_orders"),
    Column("shop_value", Money, nullable=False),
    _number("erp_orders"),
    Column("erp_value", Money, nullable=False),
    _number("waiting"),
    Column("median_minutes", Double),
    Column("p95_minutes", Double),
    Column("statuses", LONG_TEXT, nullable=False),
    **MYSQL,
)

findings = Table(
    "erp_sync_findings",
    metadata,
    Column("day", Date, primary_key=True),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("number", TEXT_ID, nullable=False),
    _word("verdict", 32),
    Column("shop_total", Money),
    Column("erp_total", Money),
    Column("shop_says", Words, nullable=False),
    Column("erp_says", Words, nullable=False),
    Column("erp_numbers", Words, nullable=False),
    Column("note", Words, nullable=False),
    **MYSQL,
)

inbox = Table(
    "erp_sync_inbox",
    metadata,
    Column("source", _id(SOURCE_LENGTH), primary_key=True),
    Column("event_id", TEXT_ID, primary_key=True),
    Column("reference", TEXT_ID, nullable=False),
    Column("received_at", Moment, nullable=False),
    Column("next_at", Moment),
    _number("looks"),
    Index("ix_erp_sync_inbox_next_at", "next_at"),
    Index("ix_erp_sync_inbox_received_at", "received_at"),
    **MYSQL,
)

slots = Table(
    "erp_sync_slots",
    metadata,
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("owner", String(32), nullable=False),
    Column("until", Moment, nullable=False),
    **MYSQL,
)

waiting = Table(
    "erp_sync_waiting",
    metadata,
    Column("rank", Integer, primary_key=True, autoincrement=False),
    Column("until", Moment, nullable=False),
    **MYSQL,
)

breaker = Table(
    "erp_sync_breaker",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    _number("failures"),
    _number("openings"),
    Column("open_until", Moment),
    Column("probe", String(32), nullable=False),
    Column("probe_until", Moment),
    **MYSQL,
)

pace = Table(
    "erp_sync_pace",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("next_at", Moment, nullable=False),
    **MYSQL,
)

incidents = Table(
    "erp_sync_incidents",
    metadata,
    Column("cause", _id(CAUSE_LENGTH), primary_key=True),
    _number("version"),
    Column("kind", _id(CAUSE_LENGTH), nullable=False),
    Column("severity", Weight, nullable=False),
    Column("subject", Words, nullable=False),
    Column("detail", Words, nullable=False),
    _number("count"),
    Column("oldest_at", Moment),
    Column("sample", Texts, nullable=False),
    Column("run_id", TEXT_ID, nullable=False),
    Column("opened_at", Moment, nullable=False),
    Column("last_seen_at", Moment, nullable=False),
    Column("closed_at", Moment),
    _number("seen"),
    _number("peak"),
    _number("openings"),
    _number("told_opening"),
    _number("told_ending"),
    _number("told_listed"),
    Column("told_channel", TEXT_ID, nullable=False),
    _word("told_ts", 32),
    _word("told_hash", 32),
    Column("told_at", Moment),
    Column("told_next_try_at", Moment),
    _number("told_tries"),
    Index("ix_erp_sync_incidents_closed_at", "closed_at"),
    **MYSQL,
)

outlet = Table(
    "erp_sync_outlet",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    _word("owner", 32),
    Column("until", Moment),
    Column("next_try_at", Moment),
    _number("failures"),
    Column("free_at", Moment),
    **MYSQL,
)
