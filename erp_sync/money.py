"""How the shop's amounts become prices of two decimals and one discount whose total is the same, to the cent.

All amounts are finite and not negative; quantities are above zero. mapping.py sees to that before it asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal

from erp_sync.models import Order, OrderLine

CENT = Decimal("0.01")
_HALF_CENT = Decimal("0.005")


def cents(amount: Decimal) -> Decimal:
    """Rounded half up to two decimals, as the ERP does (contracts/protheus-rest.md, 5.4: C6_VALOR)."""
    return amount.quantize(CENT, ROUND_HALF_UP)


def plain(amount: Decimal) -> str:
    """Without exponent and trailing zeros: one text for one amount."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def largest(width: int) -> Decimal:
    """The largest amount of a numeric field "N width,2": the width counts the point and both decimals."""
    return Decimal(10).scaleb(width - 4) - CENT


def line_value(line: OrderLine) -> Decimal:
    """What the line costs before its discount, unrounded: `line_total`, or else quantity x `unit_price`."""
    if line.line_total is not None:
        return line.line_total
    if line.unit_price is None:
        raise ValueError(f"line {line.line_id} has neither unit_price nor line_total")
    return line.quantity * line.unit_price


@dataclass(frozen=True, slots=True)
class Sums:
    """An order's parts as they add up to its total."""

    goods: Decimal
    """The lines before any discount."""
    discount: Decimal
    """Of the whole order: the header's, or else the lines'."""
    tax: Decimal
    """Of the whole order: the header's, or else the lines'."""
    freight: Decimal

    @property
    def total(self) -> Decimal:
        return cents(self.goods - self.discount + self.tax + self.freight)


def sums(order: Order) -> tuple[Sums, Sums]:
    """The order added up in the two ways that shops do: exactly, rounding only the total; and rounding each line."""
    values = [line_value(line) for line in order.lines]
    discounts = [line.discount for line in order.lines]
    taxes = [line.tax for line in order.lines]

    def add(goods: Sequence[Decimal], discounts: Sequence[Decimal], taxes: Sequence[Decimal]) -> Sums:
        discount = sum(discounts, Decimal(0)) if order.discount is None else order.discount
        tax = sum(taxes, Decimal(0)) if order.tax is None else order.tax
        return Sums(sum(goods, Decimal(0)), discount, tax, order.freight)

    return add(values, discounts, taxes), add(*([cents(each) for each in part] for part in (values, discounts, taxes)))


@dataclass(frozen=True, slots=True)
class Price:
    """One line as the ERP takes it."""

    quantity: Decimal
    price: Decimal
    """C6_PRCVEN: two decimals, at least 0.01, and such that `value` is at least 0.01 (MATA410 refuses blank ones)."""
    listed: Decimal
    """The shop's price before the line's discount, to the cent."""

    @property
    def value(self) -> Decimal:
        """C6_VALOR."""
        return cents(self.quantity * self.price)

    @property
    def list_price(self) -> Decimal:
        """C6_PRUNIT: never below the price."""
        return max(self.listed, self.price)


def price_lines(lines: Sequence[OrderLine], net: Decimal) -> tuple[tuple[Price, ...], Decimal]:
    """The lines' prices and C5_DESCONT, such that sum(C6_VALOR) - C5_DESCONT = `net`, what all goods cost in the end.

    - A line's discount goes into its price where the price then gives the line's net value to the cent and is above
      zero; else it is part of C5_DESCONT.
    - The shop's price is kept where it has two decimals, or gives the line's value to the cent. Else the price is the
      lowest one that gives no less than the line's value, and C5_DESCONT takes the difference. So a gift costs 0.01
      here, and 0.01 is in C5_DESCONT.
    - Where rounding each line yields a few cents less than `net`, one price is raised by as little as possible.
    C5_DESCONT is never negative, as long as the lines' discounts are no more than the order's.
    """
    prices = [_price(line) for line in lines]
    missing = net - sum(price.value for price in prices)
    if missing > 0:
        raised = [replace(each, price=_lowest_price(each.quantity, each.value + missing)) for each in prices]
        best = min(range(len(prices)), key=lambda index: raised[index].value - prices[index].value)
        prices[best] = raised[best]
    return tuple(prices), sum((price.value for price in prices), Decimal(0)) - net


def _price(line: OrderLine) -> Price:
    value = line_value(line)
    exact = line.unit_price
    if exact is None or cents(line.quantity * exact) != cents(value):
        exact = value / line.quantity
    listed = cents(exact)
    if line.discount > 0:
        net = value - line.discount
        price = cents(net / line.quantity)
        if _gives(line.quantity, price, net):
            return Price(line.quantity, price, listed)
    if _gives(line.quantity, listed, value):
        return Price(line.quantity, listed, listed)
    return Price(line.quantity, _lowest_price(line.quantity, cents(value)), listed)


def _gives(quantity: Decimal, price: Decimal, value: Decimal) -> bool:
    return cents(quantity * price) == cents(value) >= CENT


def _lowest_price(quantity: Decimal, value: Decimal) -> Decimal:
    """The lowest price of two decimals whose C6_VALOR is at least `value` (in cents) and not blank."""
    return ((max(value, CENT) - _HALF_CENT) / quantity).quantize(CENT, ROUND_CEILING)
