"""A shop's database that holds anything: each row becomes an order, or an invalid one with reasons, and never stops the
others. ERP_SYNC_FUZZ_EXAMPLES: how many generated rows each test looks at (100)."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from erp_sync.demo import environment, stage
from erp_sync.errors import InvalidOrder
from erp_sync.mapping import map_order, payload_hash
from erp_sync.models import LedgerState, OrderHead, UnreadableOrder
from erp_sync.settings import OrdersSection, Settings, load_settings
from erp_sync.shop.profile import load_profile
from erp_sync.shop.rows import RowReader
from erp_sync.sync.connections import open_connections
from erp_sync_tests.conftest import FreshDatabase
from erp_sync_tests.live import CONFIG, numbers_in

EXAMPLES = int(os.environ.get("ERP_SYNC_FUZZ_EXAMPLES", "100"))
PROFILE = load_profile("laravel")
IN_UTC = PROFILE.model_copy(update={"shop": PROFILE.shop.model_copy(update={"app_timezone": "UTC"})})
TODAY = date(2026, 11, 24)
FIRST, LAST = datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59)  # noqa: DTZ001
NOON = datetime(2026, 11, 24, 12)  # noqa: DTZ001 - a wall clock
HEADER: dict[str, Any] = {
    "order_id": 7, "number": "LJ-7", "state": "ready", "changed_at": NOON, "ordered_at": NOON, "currency": "BRL",
    "total": Decimal("10.00"), "goods_total": None, "discount": None, "freight": Decimal(0), "tax": None,
    "customer_name": "Ana", "tax_id": "52998224725", "erp_customer": None, "email": "a@example.com",
    "phone": "11988887777",
    "payment": "pix", "carrier": None, "notes": None,
    **{f"{kind}_{part}": "x" for kind in ("billing", "delivery")
       for part in ("street", "number", "complement", "district", "city", "city_code", "state", "zip")},
    "billing_country": "BR", "delivery_country": "BR",
}  # fmt: skip
LINE: dict[str, Any] = {
    "order_id": 7, "line_id": 1, "sku": "A", "quantity": Decimal(1), "unit_price": Decimal("10.00"), "line_total": None,
    "description": "x", "discount": Decimal(0), "tax": None, "warehouse": None,
}  # fmt: skip
TEXTS: tuple[str, ...] = (
    "",
    " ",
    "\x00",
    "a\x00b",
    "\u202e",
    "🌻" * 50,
    "\ud800",
    "x" * 10_000,
    "' OR 1=1 --",
    "%_\\",
    "²",
    "ready",
    "NaN",
)
TEXTS += ("2026-13-45", "0001-01-01", "9999-12-31 23:59:59", "1e999999", "٣", "Ａ", "\u0301" * 100, "529.982.247-25")
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.sampled_from(
        [Decimal("sNaN"), Decimal("1E+400"), Decimal("-0.00"), Decimal("9" * 65), Decimal("1E-300"), 10**400]
    ),
    st.binary(max_size=20),
    st.text(st.characters(codec=None), max_size=30),
    st.sampled_from(TEXTS),
    st.datetimes(),
    st.dates(),
    st.timedeltas(),
    st.sampled_from([FIRST, LAST, date.min, date.max]),
)
EDGE: dict[str, Any] = {"ordered_at": FIRST, "number": Decimal("9" * 65), "total": Decimal("sNaN")}


@settings(max_examples=EXAMPLES * 5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(sorted(HEADER)), VALUES, max_size=4),
    st.dictionaries(st.sampled_from(sorted(LINE)), VALUES, max_size=3),
    st.booleans(),
    st.sampled_from([PROFILE, IN_UTC]),
)
@example(EDGE, {}, True, IN_UTC)
@example({"ordered_at": LAST}, {"sku": Decimal("9" * 65)}, True, IN_UTC)
def test_any_row_is_an_order_or_says_what_is_wrong(
    header: dict[str, Any], line: dict[str, Any], exact: bool, profile: Any
) -> None:
    reader = RowReader(profile, float_is_exact=exact)
    head = reader.head({**HEADER, **header})
    assert isinstance(head, OrderHead)
    order = reader.order([{**HEADER, **header}], [{**LINE, **line}])
    reader.held({**LINE, **line})
    if isinstance(order, UnreadableOrder):
        assert order.problems
        assert all(len(problem.value) < 20_000 for problem in order.problems)
        return
    assert order.total.is_finite()
    payload_hash(order)
    try:
        mapped = map_order(order, Settings(orders=OrdersSection()), TODAY, ["BRL"])
    except InvalidOrder as invalid:
        assert invalid.problems
    else:
        assert mapped.total == order.total
        assert all(str(value).isprintable() for value in (*mapped.header.values(), *mapped.items[0].values()))


HOSTILE: tuple[dict[str, Any], ...] = (
    {"number": "'; DROP TABLE orders; --"},
    {"number": "LJ\u202e-1"},
    {"number": "x" * 60},
    {"customer_name": "🌻" * 100, "notes": "\u0007\u001b[31m" * 100},
    {"notes": "x" * 10_000_000},
    {"customer_cpf_cnpj": "' OR ''='"},
    {"status": "\u0000ready"},
    {"currency": "???"},
    {"placed_at": "0001-01-01 00:00:00"},
    {"placed_at": "9999-12-31 23:59:59"},
    {"total": "-1"},
    {"total": "99999999.99"},
    {"discount": "-5"},
    {"payment_method": "💳"},
    {"shipping_method": "\\"},
)


RAW = (
    {"customer_name": "CAST(X'4A6FE36F' AS TEXT)"},
    {"number": "CAST(X'FFFE' AS TEXT)"},
    {"notes": "X'FFFEFD'"},
    {"total": "'abc'"},
    {"total": "9e999"},
    {"placed_at": "'not a date'"},
    {"placed_at": "12345"},
    {"updated_at": "'2026-99-99'"},
    {"status": "X'00'"},
)
"""Of SQLite, which takes anything anywhere: text that is no UTF-8, words for numbers."""


def test_hostile_rows_stop_no_other(fresh_database: FreshDatabase) -> None:
    shop_url, ledger_url = fresh_database(), fresh_database()
    with (
        stage(latency_ms=0, config=CONFIG, shop_url=shop_url, ledger_url=ledger_url) as on,
        environment(on.environment),
    ):
        good = on.shop.checkout_many(2)
        changes = [({name: f":{name}" for name in columns}, columns) for columns in HOSTILE]
        if shop_url.startswith("sqlite"):
            changes += [(columns, {}) for columns in RAW]
        engine = sa.create_engine(shop_url)
        bad = []
        placed = on.shop.checkout_many(len(changes))
        with engine.connect() as connection:
            for (names, values), order in zip(changes, placed, strict=True):
                setting = ", ".join(f"{name} = {value}" for name, value in names.items())
                statement = sa.text(f"UPDATE orders SET {setting} WHERE id = {order.order_id}")
                with suppress(DBAPIError):  # what the database itself refuses never comes to us
                    connection.execute(statement, values)
                    bad.append(str(order.order_id))
                connection.commit()
        engine.dispose()
        good += on.shop.checkout_many(2)
        connections = open_connections(load_settings())
        flow = connections.orders_flow()
        for _ in range(3):
            assert flow.run(sweep=True).failure is None
        assert {order.number for order in good} <= set(numbers_in(on))
        entries = connections.ledger.entries(bad)
        connections.close()
    assert len(bad) > 10
    told = [entry for entry in entries.values() if entry.state is LedgerState.INVALID]
    assert all(entry.problems for entry in told)
    assert all(
        entry.state in (LedgerState.SENT, LedgerState.INVALID, LedgerState.REFUSED) for entry in entries.values()
    )
    assert len(told) >= 4
    assert not [entry for entry in entries.values() if "report this defect" in str(entry.problems)]
