"""From a row to an order: exact money, aware clocks, problems instead of exceptions."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erp_sync.models import Order, UnreadableOrder
from erp_sync.shop.profile import Profile, ReadSection, ShopSection
from erp_sync.shop.rows import RowReader


def profile(**shop: Any) -> Profile:
    values = {"app_timezone": "America/Sao_Paulo", "business_timezone": "America/Sao_Paulo", "currencies": ["BRL"]}
    read = ReadSection.model_validate({"orders": "SELECT 1", "lines": "SELECT 1"})
    return Profile(name="test", shop=ShopSection.model_validate(values | shop), read=read)


def header(**values: Any) -> dict[str, Any]:
    return {
        "order_id": 7,
        "number": "LJ-7",
        "state": "ready",
        "changed_at": datetime(2026, 11, 20, 10, 0),  # noqa: DTZ001 - the shop's wall clock
        "ordered_at": datetime(2026, 11, 20, 10, 0),  # noqa: DTZ001
        "currency": "BRL",
        "total": Decimal("10.00"),
        "customer_name": "Ana",
    } | values


def line(**values: Any) -> dict[str, Any]:
    return {"order_id": 7, "line_id": 1, "sku": "A", "quantity": 1, "unit_price": Decimal("10.00")} | values


def read(*, sqlite: bool = False, shop: dict[str, Any] | None = None, **values: Any) -> Order | UnreadableOrder:
    lines = values.pop("lines", [line()])
    return RowReader(profile(**(shop or {})), float_is_exact=sqlite).order([header(**values)], lines)


def good(order: Order | UnreadableOrder) -> Order:
    assert isinstance(order, Order), order
    return order


def problem(order: Order | UnreadableOrder) -> str:
    assert isinstance(order, UnreadableOrder)
    assert len(order.problems) == 1, order.problems
    return str(order.problems[0])


@pytest.mark.parametrize(
    ("zone", "value", "utc", "day"),
    [
        ("America/Sao_Paulo", datetime(2026, 11, 20, 22, 30), datetime(2026, 11, 21, 1, 30), date(2026, 11, 20)),  # noqa: DTZ001
        ("UTC", datetime(2026, 11, 21, 1, 30), datetime(2026, 11, 21, 1, 30), date(2026, 11, 20)),  # noqa: DTZ001
        ("UTC", date(2026, 11, 20), datetime(2026, 11, 20, 3, 0), date(2026, 11, 20)),  # noqa: DTZ001
        ("UTC", "2026-11-20", datetime(2026, 11, 20, 3, 0), date(2026, 11, 20)),  # noqa: DTZ001
        ("UTC", "2026-11-20 12:00:00.500", datetime(2026, 11, 20, 12, 0, 0, 500_000), date(2026, 11, 20)),  # noqa: DTZ001
        ("UTC", "2026-11-20T23:00:00-05:00", datetime(2026, 11, 21, 4, 0), date(2026, 11, 21)),  # noqa: DTZ001
        # Brazil's last summer times: an hour that never was, and one that was twice.
        ("America/Sao_Paulo", datetime(2018, 11, 4, 0, 30), datetime(2018, 11, 4, 3, 30), date(2018, 11, 4)),  # noqa: DTZ001
        ("America/Sao_Paulo", datetime(2019, 2, 16, 23, 30), datetime(2019, 2, 17, 1, 30), date(2019, 2, 16)),  # noqa: DTZ001
    ],
)
def test_clocks(zone: str, value: object, utc: datetime, day: date) -> None:
    order = good(read(shop={"app_timezone": zone}, ordered_at=value))
    assert order.ordered_at == utc.replace(tzinfo=UTC)
    assert order.business_day == day


@pytest.mark.parametrize(
    "value", [None, "", "0000-00-00 00:00:00", "yesterday", 1_790_000_000, b"\xff", "9999-12-31 23:59:59"]
)
def test_an_ordered_at_that_is_none(value: object) -> None:
    order = read(ordered_at=value)
    assert problem(order).startswith("ordered_at = ")
    assert isinstance(order, UnreadableOrder)
    assert order.business_day is None
    assert order.number == "LJ-7"
    assert RowReader(profile(), float_is_exact=False).head(header(ordered_at=value)).business_day is None


def test_the_far_future_is_delivered_for_others_to_judge() -> None:
    assert good(read(ordered_at="2099-01-01 00:00:00")).business_day == date(2099, 1, 1)


@pytest.mark.parametrize(
    ("currency", "raw", "amount"),
    [("BRL", 12345, "123.45"), ("JPY", 12345, "12345"), ("KWD", Decimal("12345.000"), "12.345"), ("XXX", 5, "0.0005")],
)
def test_minor_units(currency: str, raw: object, amount: str) -> None:
    shop = {"money": "minor", "currencies": ["BRL", "JPY", "KWD", "XXX"], "exponents": {"XXX": 4}}
    order = good(read(shop=shop, currency=currency, total=raw, lines=[line(unit_price=raw)]))
    assert str(order.total) == amount
    assert order.lines[0].unit_price == order.total


def test_a_fraction_of_a_minor_unit_is_refused_but_in_a_price() -> None:
    shop = {"money": "minor"}
    assert problem(read(shop=shop, total=Decimal("10.5"))).startswith("total = '10.5'")
    assert problem(read(shop=shop, total=1000, lines=[line(unit_price=None, line_total=Decimal("1.5"))]))
    order = good(read(shop=shop, total=1000, lines=[line(unit_price=Decimal("333.3333"))]))
    assert order.lines[0].unit_price == Decimal("3.333333")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "is empty"),
        ("ten", "is no number"),
        (Decimal("1.005"), "more than 2 decimals"),
        (1.5, "binary float"),
        (Decimal("NaN"), "is no number that money"),
        (Decimal("1E+30"), "is no number that money"),
        (b"12", "is no number"),
        (datetime(2026, 1, 1), "is no number"),  # noqa: DTZ001
    ],
)
def test_a_total_that_cannot_be_counted(value: object, says: str) -> None:
    assert says in problem(read(total=value))


def test_a_float_of_sqlite_is_what_was_written() -> None:
    assert good(read(sqlite=True, total=19.9)).total == Decimal("19.90")
    assert str(good(read(sqlite=True, total=1e2)).total) == "100.00"
    assert "computed in binary" in problem(read(sqlite=True, total=0.1 + 0.2))
    assert "no number" in problem(read(sqlite=True, total=float("inf")))


@given(st.integers(-(10**14), 10**14))
def test_any_amount_of_cents_survives_sqlite(cents: int) -> None:
    amount = Decimal(cents).scaleb(-2)
    assert good(read(sqlite=True, total=float(amount))).total == amount


@given(
    st.dictionaries(
        st.sampled_from(
            ["number", "state", "changed_at", "ordered_at", "currency", "total", "customer_name", "freight"]
        ),
        st.one_of(
            st.none(),
            st.text(max_size=30),
            st.binary(max_size=8),
            st.floats(),
            st.decimals(),
            st.integers(),
            st.dates(),
            st.datetimes(),
            st.timedeltas(),
            st.booleans(),
        ),
    ),
    st.booleans(),
)
def test_no_value_raises(values: dict[str, Any], sqlite: bool) -> None:
    order = read(sqlite=sqlite, **values)
    RowReader(profile(), float_is_exact=sqlite).head(header(**values))
    if isinstance(order, Order):
        assert order.ordered_at.tzinfo is not None
        assert order.total == order.total.quantize(Decimal("0.01"))
    else:
        assert order.problems


def test_the_same_order_whatever_scale_the_column_has() -> None:
    one = read(total=Decimal("10.0000"), lines=[line(unit_price=Decimal("10.000000"), quantity=Decimal("1.000"))])
    two = read(sqlite=True, total=10, lines=[line(unit_price=10.0, quantity=1)])
    assert repr(one) == repr(two)


def test_texts_are_stripped_and_absent_ones_empty() -> None:
    order = good(read(number="  LJ-7 ", customer_name=" João ", tax_id=12345678901, notes=None, payment=b"pix"))
    assert (order.number, order.customer.name, order.customer.tax_id) == ("LJ-7", "João", "12345678901")
    assert (order.notes, order.payment, order.delivery) == ("", "pix", None)


def test_a_delivery_address_is_one_only_if_something_is_in_it() -> None:
    assert good(read(delivery_street=" ", delivery_country="BR")).delivery is None
    delivery = good(read(delivery_street="Rua A", delivery_zip="01000-000")).delivery
    assert delivery is not None
    assert (delivery.street, delivery.zip, delivery.country) == ("Rua A", "01000-000", "BR")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"number": " "}, "number = '': is empty"),
        ({"state": "paid"}, "state = 'paid': is none of ready"),
        ({"state": None}, "state = '': is none of ready"),
        ({"customer_name": b"\xff\xfe"}, "customer_name = '': is binary"),
        ({"lines": [line(quantity=None)]}, "quantity (line 1) = '': is empty"),
        ({"lines": [line(unit_price=None)]}, "unit_price (line 1) = '': is empty, and so is line_total"),
    ],
)
def test_the_reason_names_field_value_and_what_to_do(values: dict[str, Any], says: str) -> None:
    assert problem(read(**values)).startswith(says)


def test_a_mistaken_column_shows_nobody_s_data() -> None:
    """Whatever column of the profile it is: of a customer no problem says more than of a tax id the end."""
    order = read(
        state="529.982.247-25",
        ordered_at="ana.maria@example.com",
        currency="Rua das Flores, 12",
        total="52998224725 Ana",
        freight=Decimal("1.234"),
        lines=[line(line_id="(11) 98888-7777", quantity="11.222.333/0001-81 und etwas")],
    )
    assert isinstance(order, UnreadableOrder)
    assert [(problem.field, problem.value) for problem in order.problems] == [
        ("ordered_at", "***"),
        ("state", "************25"),
        ("total", "*********25 Ana"),
        ("quantity (line ***)", "****************81 und etwas"),
        ("freight", "1.234"),
    ]
    assert "Flores" not in str(order.problems)


@pytest.mark.parametrize("value", ["20/11/2026 10:00", "2026-02-30 10:00:00", "0000-00-00", "20261320", "12345678901"])
def test_what_is_nobody_s_data_stays_readable(value: str) -> None:
    assert f"ordered_at = {value!r}: is no date" in problem(read(ordered_at=value))


def test_a_join_that_fans_out_is_noticed() -> None:
    order = RowReader(profile(), float_is_exact=False).order([header(), header()], [line()])
    assert "yields this order 2 times" in problem(order)


def test_an_absent_header_amount_is_none_not_zero() -> None:
    order = good(read(discount=None))
    assert (order.discount, order.tax, order.goods_total, order.freight) == (None, None, None, Decimal(0))
