"""The demo shop's tables, as the migrations of a plain in-house Laravel shop make them.

Datetimes are the shop's wall clock without a zone, whole seconds. `number` has an index that is not unique, and neither
is the one on `sku`: MySQL's default collation calls `BOLSA-01` and `bolsa-01` the same.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.engine import Dialect, Engine
from sqlalchemy.types import UserDefinedType


class Amount(UserDefinedType[Decimal]):
    """DECIMAL(12,2). SQLite has no such type: it keeps a number, which is read back as the cents it stands for."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "DECIMAL(12,2)"

    def bind_processor(self, dialect: Dialect) -> Callable[[Decimal | None], str | None]:  # noqa: ARG002
        return lambda amount: None if amount is None else str(amount)

    def result_processor(  # SQLAlchemy fixes these signatures
        self,
        dialect: Dialect,  # noqa: ARG002
        coltype: object,  # noqa: ARG002
    ) -> Callable[[Any], Decimal | None]:
        return lambda amount: None if amount is None else Decimal(str(amount)).quantize(Decimal("0.01"))


metadata = MetaData()
_BIGINT = BigInteger().with_variant(Integer, "sqlite")
# MySQL's own type: some libraries change what the generic one means there for a whole process (Dagster: DATETIME(6)).
_MYSQL_DATETIME = mysql.DATETIME()
_SQLITE_DATETIME = sqlite.DATETIME(truncate_microseconds=True)  # type: ignore[no-untyped-call]
_DATETIME = DateTime().with_variant(_MYSQL_DATETIME, "mysql", "mariadb").with_variant(_SQLITE_DATETIME, "sqlite")


def _table(name: str, *columns: Column[Any] | Index) -> Table:
    return Table(
        name,
        metadata,
        Column("id", _BIGINT, primary_key=True, autoincrement=True),
        *columns,
        Column("created_at", _DATETIME),
        Column("updated_at", _DATETIME),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_unicode_ci",
    )


def _amount(name: str) -> Column[Decimal]:
    return Column(name, Amount, nullable=False, server_default=text("0"))


customers = _table(
    "customers",
    Column("name", String(255), nullable=False),
    Column("email", String(255), nullable=False),
    Column("phone", String(30)),
    Column("cpf_cnpj", String(20), index=True),
)

addresses = _table(
    "addresses",
    Column("customer_id", _BIGINT, ForeignKey("customers.id"), nullable=True),  # NULL: a guest's
    Column("street", String(255), nullable=False),
    Column("number", String(20)),
    Column("complement", String(100)),
    Column("district", String(100)),
    Column("city", String(100), nullable=False),
    Column("city_ibge", String(7)),
    Column("state", String(2), nullable=False),
    Column("zip_code", String(9), nullable=False),
    Column("country", String(2), nullable=False, server_default="BR"),
)

products = _table(
    "products",
    Column("sku", String(64), nullable=False, index=True),
    Column("name", String(255), nullable=False),
    _amount("price"),
    Column("stock", Integer, nullable=False, server_default=text("0")),
)

orders = _table(
    "orders",
    Column("number", String(40), nullable=False, server_default="", index=True),
    Column("status", String(20), nullable=False, server_default="pending"),
    Column("customer_id", _BIGINT, ForeignKey("customers.id"), nullable=True),  # NULL: a guest
    Column("customer_name", String(255)),  # this one and the three below: of a guest, else NULL
    Column("customer_email", String(255)),
    Column("customer_phone", String(30)),
    Column("customer_cpf_cnpj", String(20)),
    Column("billing_address_id", _BIGINT, ForeignKey("addresses.id"), nullable=True),
    Column("delivery_address_id", _BIGINT, ForeignKey("addresses.id"), nullable=True),  # NULL: the billing address
    Column("currency", String(3), nullable=False, server_default="BRL"),
    _amount("subtotal"),
    _amount("discount"),  # of the whole order: coupon and the lines' discounts
    _amount("shipping_cost"),
    _amount("tax"),
    _amount("total"),
    Column("payment_method", String(30)),
    Column("shipping_method", String(60)),
    Column("notes", Text),
    Column("tracking_code", String(60)),
    Column("erp_number", String(20)),
    Column("invoice_number", String(20)),
    Column("invoice_series", String(5)),
    Column("invoice_key", String(44)),
    Column("placed_at", _DATETIME),
    Column("paid_at", _DATETIME),
    Column("invoiced_at", _DATETIME),
    Column("delivered_at", _DATETIME),
)
Index("orders_updated_at_index", orders.c.updated_at)
Index("orders_status_updated_at_index", orders.c.status, orders.c.updated_at)

order_items = _table(
    "order_items",
    Column("order_id", _BIGINT, ForeignKey("orders.id"), nullable=False, index=True),
    Column("product_id", _BIGINT, ForeignKey("products.id"), nullable=True),
    Column("sku", String(64)),
    Column("name", String(255), nullable=False),
    Column("quantity", Integer, nullable=False),
    _amount("unit_price"),
    _amount("discount"),  # of the whole line
)


def create_schema(engine: Engine) -> None:
    """The tables, where they are missing. A SQLite file is switched to WAL: the shop writes while others read."""
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    metadata.create_all(engine)
