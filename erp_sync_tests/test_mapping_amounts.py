"""The arithmetic: what the ERP makes of an order is the shop's total, to the cent, or the order is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erp_sync.errors import InvalidOrder
from erp_sync.mapping import map_order
from erp_sync.models import Customer, ErpOrder, Order, OrderLine, ShopState
from erp_sync.settings import Settings

D = Decimal
DEFAULTS = Settings()
TODAY = date(2026, 11, 23)


def line(quantity: str, unit_price: str | None = None, line_total: str | None = None, **amounts: str) -> OrderLine:
    more: dict[str, Any] = {name: D(value) for name, value in amounts.items()}
    return OrderLine(
        line_id="1",
        sku="CAFE-500",
        quantity=D(quantity),
        unit_price=None if unit_price is None else D(unit_price),
        line_total=None if line_total is None else D(line_total),
        **more,
    )


def order(total: str | Decimal, lines: Sequence[OrderLine], **amounts: str | Decimal) -> Order:
    more: dict[str, Any] = {name: D(value) for name, value in amounts.items()}
    return Order(
        order_id="7",
        number="WEB-100045",
        state=ShopState.READY,
        changed_at=datetime(2026, 11, 23, 13, tzinfo=UTC),
        ordered_at=datetime(2026, 11, 23, 12, tzinfo=UTC),
        business_day=TODAY,
        currency="BRL",
        total=D(total),
        customer=Customer("Ana Souza", "52998224725"),
        lines=tuple(lines),
        payment="pix",
        **more,
    )


def mapped(shop_order: Order) -> ErpOrder:
    return map_order(shop_order, DEFAULTS, TODAY, {"BRL"})


def erp_total(sent: ErpOrder) -> Decimal:
    """The ERP's own sum, from the fields that are sent (DESIGN.md, "Money and widths")."""
    header = {name: value for name, value in sent.header.items() if isinstance(value, Decimal)}
    total = sum((number(item, "C6_VALOR") for item in sent.items), D(0))
    plus = sum(header.get(field, D(0)) for field in ("C5_FRETE", "C5_SEGURO", "C5_DESPESA"))
    return total + plus - header.get("C5_DESCONT", D(0))


def number(item: dict[str, str | Decimal], field: str) -> Decimal:
    value = item[field]
    assert isinstance(value, Decimal)
    return value


def assert_acceptable(sent: ErpOrder) -> None:
    """What MATA410 and the contract's widths ask for (5.4)."""
    for item in sent.items:
        quantity, price, value = (number(item, f"C6_{name}") for name in ("QTDVEN", "PRCVEN", "VALOR"))
        assert value == (quantity * price).quantize(D("0.01"), ROUND_HALF_UP)
        assert D("0.01") <= price <= number(item, "C6_PRUNIT") <= D("99999999.99")
        assert D("0.01") <= value <= D("999999999.99")
        assert D("0.01") <= quantity <= D("999999.99")
    for amount in [*sent.header.values(), *(value for item in sent.items for value in item.values())]:
        assert not isinstance(amount, Decimal) or (amount > 0 and amount.as_tuple().exponent in (-2, -1, 0))


CASES: dict[str, tuple[Order, list[tuple[str, str]], str]] = {
    # name: the order, (C6_PRCVEN, C6_PRUNIT) of each line, C5_DESCONT
    "plain": (order("63.00", [line("2", "31.50")]), [("31.50", "31.50")], "0"),
    "the contract's example": (
        order("76.90", [line("2", "31.50")], freight="18.90", discount="5.00"),
        [("31.50", "31.50")],
        "5.00",
    ),
    "a line's discount that divides": (order("58", [line("2", "31.5", discount="5")]), [("29.00", "31.50")], "0"),
    "a line's discount that does not": (
        order("89.99", [line("3", "33.33", discount="10")]),
        [("33.33", "33.33")],
        "10",
    ),
    "header discount over the line's": (
        order("55", [line("2", "31.5", discount="5")], discount="8"),
        [("29.00", "31.50")],
        "3",
    ),
    "a line discounted to nothing": (
        order("10", [line("1", "10"), line("2", "5", discount="10")]),
        [("10.00", "10.00"), ("5.00", "5.00")],
        "10",
    ),
    "a gift": (order("10", [line("1", "10"), line("3", "0")]), [("10.00", "10.00"), ("0.01", "0.01")], "0.03"),
    "a gift of a hundredth": (order("0", [line("0.01", "0")]), [("0.50", "0.50")], "0.01"),
    "all for nothing": (order("0", [line("2", "31.5")], discount="63"), [("31.50", "31.50")], "63"),
    "line_total that divides": (order("66.66", [line("2", None, "66.66")]), [("33.33", "33.33")], "0"),
    "line_total that does not": (order("100", [line("3", None, "100")]), [("33.34", "33.34")], "0.02"),
    "line_total wins, its unit_price kept": (
        order("3.30", [line("0.33", "9.99", "3.30")]),
        [("9.99", "9.99")],
        "0",
    ),
    "line_total with another unit_price": (order("50", [line("2", "31.50", "50")]), [("25.00", "25.00")], "0"),
    "a fraction that can be met": (order("9.99", [line("0.7", None, "9.99")]), [("14.27", "14.27")], "0"),
    "four decimals, each line rounded": (order("3.69", [line("1", "1.2345")] * 3), [("1.23", "1.23")] * 3, "0"),
    "four decimals, the sum rounded": (
        order("3.70", [line("1", "1.2345")] * 3),
        [("1.24", "1.24"), ("1.23", "1.23"), ("1.23", "1.23")],
        "0",
    ),
    "weights, each line rounded": (order("6.60", [line("0.33", "9.99")] * 2), [("9.99", "9.99")] * 2, "0"),
    "weights, the sum rounded": (order("6.59", [line("0.33", "9.99")] * 2), [("9.99", "9.99")] * 2, "0.01"),
    "the raise that costs least": (
        order("16", [line("10", "1.23"), *[line("1", "1.2345")] * 3]),
        [("1.23", "1.23"), ("1.24", "1.24"), ("1.23", "1.23"), ("1.23", "1.23")],
        "0",
    ),
    "a line of less than half a cent": (order("0", [line("0.1", "0.03")]), [("0.05", "0.05")], "0.01"),
    "taxes of lines with fractions": (
        order("21.01", [line("1", "10", tax="0.5025"), line("1", "10", tax="0.5025")]),
        [("10.00", "10.00")] * 2,
        "0",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_prices_and_discount(name: str) -> None:
    shop_order, prices, discount = CASES[name]
    sent = mapped(shop_order)
    assert [(item["C6_PRCVEN"], item["C6_PRUNIT"]) for item in sent.items] == [(D(p), D(u)) for p, u in prices]
    assert sent.header.get("C5_DESCONT", D(0)) == D(discount)
    assert erp_total(sent) == sent.total == shop_order.total
    assert_acceptable(sent)


@pytest.mark.parametrize(
    ("shop_order", "field", "advice"),
    [
        (order("62.99", [line("2", "31.50")]), "total", "63.00"),
        (order("63.01", [line("2", "31.50")]), "total", "63.00"),
        (order("63.00", [line("2", "31.50")], freight="1"), "total", "64.00"),
        (order("63", [line("2", "31.50")], goods_total="62"), "goods_total", "63.00"),
        (order("5", [line("1", "10")], discount="15", freight="10"), "discount", "freight"),
        (order("10", [line("1", "10", discount="1")], discount="0"), "discount", "the whole"),
        (order("0", [line("1", "10", discount="11")], freight="1"), "lines.discount (line_id 1)", "10"),
        (order("10.001", [line("1", "10.001")]), "total", "two decimals"),
        (order("10", [line("1", "10")], freight="-1"), "freight", "negative"),
        (order("10", [line("1", "10")], tax="NaN"), "tax", "not a number"),
        (order("10", [line("1", "10", tax="sNaN")]), "lines.tax (line_id 1)", "not a number"),
        (order("Infinity", [line("1", "10")]), "total", "not a number"),
        (order("1E+50", [line("1", "10")]), "total", "999999999.99"),
        (order("10", [line("1", "1E+50")]), "lines.unit_price (line_id 1)", "99999999.99"),
        (order("1000000", [line("1000000", "1")]), "lines.quantity (line_id 1)", "999999.99"),
        (order("1", [line("0.333", "3")]), "lines.quantity (line_id 1)", "two decimals"),
        (order("0", [line("0", "3")]), "lines.quantity (line_id 1)", "zero"),
        (order("3", [line("-1", "3")]), "lines.quantity (line_id 1)", "negative"),
        (order("3", [line("1")]), "lines.unit_price (line_id 1)", "line_total"),
        (order("99999999", [line("0.01", None, "99999999")]), "lines.unit_price (line_id 1)", "99999999.99"),
    ],
)
def test_what_cannot_be_expressed_is_refused(shop_order: Order, field: str, advice: str) -> None:
    with pytest.raises(InvalidOrder) as caught:
        mapped(shop_order)
    assert [problem.field for problem in caught.value.problems] == [field]
    assert advice in caught.value.problems[0].advice


def test_tax_goes_where_the_settings_say() -> None:
    shop_order = order("71.50", [line("2", "31.50", tax="6"), line("1", "0.5", tax="2")])
    assert mapped(shop_order).header["C5_DESPESA"] == 8
    assert mapped(replace(shop_order, tax=D("8.00"))).header["C5_DESPESA"] == 8
    refusing = Settings(orders={"tax_to": "refuse"})  # type: ignore[arg-type]
    with pytest.raises(InvalidOrder, match=r"tax = '8\.00'"):
        map_order(shop_order, refusing, TODAY, {"BRL"})
    map_order(order("63", [line("2", "31.5")]), refusing, TODAY, {"BRL"})


def test_what_was_adjusted_is_noted() -> None:
    assert not mapped(order("58", [line("2", "31.5", discount="5")])).notes
    (note,) = mapped(order("110", [line("3", None, "100"), line("1", "10"), line("1", "0")])).notes
    assert "2 lines" in note


@st.composite
def shop_orders(draw: st.DrawFn) -> Order:
    """Orders of shops that add up in either of the two ways, now and then wrong by a cent."""
    cent = D("0.01")

    def amount(most: int, places: int = 2) -> Decimal:
        return D(draw(st.integers(0, most))).scaleb(-places)

    lines = []
    for _ in range(draw(st.integers(1, 5))):
        quantity = D(draw(st.one_of(st.integers(1, 20).map(lambda n: n * 100), st.integers(1, 5_000)))).scaleb(-2)
        unit_price = amount(2_000_000, draw(st.sampled_from([2, 2, 3, 4])))
        value = quantity * unit_price
        line_total = None
        if draw(st.booleans()):
            line_total = value.quantize(cent, ROUND_HALF_UP) if draw(st.booleans()) else amount(100_000)
            value = line_total
        discount = min(amount(5_000, draw(st.sampled_from([2, 4]))), value) if draw(st.booleans()) else D(0)
        given = None if line_total is not None and draw(st.booleans()) else unit_price
        lines.append(OrderLine("1", "CAFE-500", quantity, given, line_total, discount=discount, tax=amount(30_000, 4)))
    rounded = draw(st.booleans())

    def added(values: list[Decimal]) -> Decimal:
        return sum((value.quantize(cent, ROUND_HALF_UP) if rounded else value for value in values), D(0))

    goods = added(
        [item.quantity * (item.unit_price or 0) if item.line_total is None else item.line_total for item in lines]
    )
    discount, tax, freight = (
        added([item.discount for item in lines]),
        added([item.tax for item in lines]),
        amount(5_000),
    )
    header: dict[str, Decimal] = {"freight": freight}
    if draw(st.booleans()):
        discount = header["discount"] = discount.quantize(cent, ROUND_HALF_UP) + amount(3_000)
    if draw(st.booleans()):
        tax = header["tax"] = tax.quantize(cent, ROUND_HALF_UP) + amount(300)
    off = draw(st.sampled_from([0] * 9 + [1])) * cent
    total = (goods - discount + tax + freight).quantize(cent, ROUND_HALF_UP) + off
    return order(total, lines, **header)


@settings(max_examples=500, deadline=None)
@given(shop_orders())
def test_the_erp_total_is_the_shops_or_the_order_is_refused(shop_order: Order) -> None:
    try:
        sent = mapped(shop_order)
    except InvalidOrder as invalid:
        assert {problem.field for problem in invalid.problems} <= {"total", "discount", "lines.unit_price (line_id 1)"}
        return
    assert erp_total(sent) == sent.total == shop_order.total
    assert_acceptable(sent)
    assert [item["C6_QTDVEN"] for item in sent.items] == [item.quantity for item in shop_order.lines]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 10_000), st.integers(0, 10_000_000)), min_size=1, max_size=8),
    st.integers(0, 100),
    st.integers(0, 10_000),
)
def test_prices_of_two_decimals_are_never_refused(lines: list[tuple[int, int]], percent: int, freight: int) -> None:
    parts = [line(str(quantity), str(D(price).scaleb(-2))) for quantity, price in lines]
    goods = sum((D(quantity) * D(price).scaleb(-2) for quantity, price in lines), D(0))
    discount = (goods * percent / 100).quantize(D("0.01"), ROUND_HALF_UP)
    if goods > D("999999999.99"):
        return
    total = goods - discount + D(freight).scaleb(-2)
    if total <= D("999999999.99"):
        sent = mapped(order(total, parts, discount=discount, freight=D(freight).scaleb(-2)))
        assert erp_total(sent) == total
        gifts = sum(quantity for quantity, price in lines if price == 0) * D("0.01")
        assert sent.header.get("C5_DESCONT", D(0)) == discount + gifts
