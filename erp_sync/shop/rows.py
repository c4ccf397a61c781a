"""Rows of the profile's SELECTs become orders: money exact, clocks aware, texts stripped.

A value that cannot be understood makes its own order an `UnreadableOrder` that says where, what and what to do; nothing
here raises because of a shop's data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

from erp_sync.models import (
    Address,
    Customer,
    HeldLine,
    Order,
    OrderHead,
    OrderLine,
    Problem,
    ShopState,
    UnreadableOrder,
)
from erp_sync.scrub import excerpt, redact
from erp_sync.shop.profile import Profile

Row = Mapping[Any, Any]

_ADDRESS = ("street", "number", "complement", "district", "city", "city_code", "state", "zip", "country")
REQUIRED_OF_ORDERS = ("order_id", "number", "state", "changed_at", "ordered_at", "currency", "total", "customer_name")
OPTIONAL_OF_ORDERS = (
    *("goods_total", "discount", "freight", "tax", "tax_id", "erp_customer", "email", "phone"),
    *(f"{kind}_{name}" for kind in ("billing", "delivery") for name in _ADDRESS),
    *("payment", "carrier", "notes"),
)
REQUIRED_OF_LINES = ("order_id", "line_id", "sku", "quantity")
OPTIONAL_OF_LINES = ("unit_price", "line_total", "description", "discount", "tax", "warehouse")
"""The canonical columns (contracts/shop-profile.md); a line needs `unit_price` or `line_total` besides."""

FLOAT_DIGITS = 15
"""Every decimal of up to 15 significant digits survives a binary64 float unchanged (IEEE 754); longer ones may not."""


class RowReader:
    """`float_is_exact`: the database has no decimal type and hands decimals over as floats (SQLite). A float of at most
    15 significant digits is then read by its shortest form, which is what was written; a longer one came out of float
    arithmetic and is refused. Elsewhere a float means that the shop or the profile computes money in binary: refused.
    """

    def __init__(self, profile: Profile, *, float_is_exact: bool) -> None:
        self._profile = profile
        self._float_is_exact = float_is_exact

    def head(self, row: Row) -> OrderHead:
        ignored: list[Problem] = []
        ordered_at, day = self._ordered(row, ignored)
        return OrderHead(
            order_id=key_text(row["order_id"]),
            number=self._text(row, "number", ignored),
            state=self._text(row, "state", ignored),
            changed_at=self._instant(row, "changed_at", self._profile.app_timezone, ignored),
            ordered_at=ordered_at,
            business_day=day,
            total=str(row["total"]) if row["total"] is not None else "",
        )

    def order(self, headers: Sequence[Row], lines: Sequence[Row]) -> Order | UnreadableOrder:
        """One order; more than one header means that the profile's join fans out."""
        row, problems = headers[0], list[Problem]()
        if len(headers) > 1:
            advice = f"[read] orders yields this order {len(headers)} times: correct the join that multiplies its rows"
            problems.append(Problem("order_id", key_text(row["order_id"]), advice))
        currency = self._text(row, "currency", problems)
        number = self._text(row, "number", problems)
        if not number:
            problems.append(Problem("number", "", "is empty: give the order a number in the shop"))
        ordered_at, day = self._ordered(row, problems)
        if ordered_at is None and not _has_problem(problems, "ordered_at"):
            problems.append(Problem("ordered_at", "", "is empty: give the order its date in the shop"))
        changed_at = self._instant(row, "changed_at", self._profile.app_timezone, problems)
        state = self._state(row, problems)
        total = self._amount(row, "total", currency, problems)
        if total is None and not _has_problem(problems, "total"):
            problems.append(Problem("total", "", "is empty: write the total that the customer pays"))
        order_lines = tuple(self._line(line, currency, problems) for line in lines)
        billing = self._address(row, "billing", problems)
        delivery = self._address(row, "delivery", problems)
        customer = Customer(
            name=self._text(row, "customer_name", problems),
            tax_id=self._text(row, "tax_id", problems),
            erp_customer=self._text(row, "erp_customer", problems),
            email=self._text(row, "email", problems),
            phone=self._text(row, "phone", problems),
            billing=billing or Address(),
        )
        goods_total = self._amount(row, "goods_total", currency, problems)
        discount = self._amount(row, "discount", currency, problems)
        freight = self._amount(row, "freight", currency, problems)
        tax = self._amount(row, "tax", currency, problems)
        payment = self._text(row, "payment", problems)
        carrier = self._text(row, "carrier", problems)
        notes = self._text(row, "notes", problems)
        order_id = key_text(row["order_id"])
        if problems or state is None or total is None or ordered_at is None or day is None:
            return UnreadableOrder(order_id, number, day, tuple(map(_shown, problems)))
        return Order(
            order_id=order_id,
            number=number,
            state=state,
            changed_at=changed_at or ordered_at,
            ordered_at=ordered_at,
            business_day=day,
            currency=currency,
            total=total,
            customer=customer,
            lines=order_lines,
            goods_total=goods_total,
            discount=discount,
            freight=freight or Decimal(0),
            tax=tax,
            delivery=delivery,
            payment=payment,
            carrier=carrier,
            notes=notes,
        )

    def held(self, row: Row) -> HeldLine | None:
        """None: the line names no SKU, or no quantity."""
        ignored: list[Problem] = []
        sku, quantity = self._text(row, "sku", ignored), self._number(row, "quantity", ignored)
        if not sku or quantity is None:
            return None
        return HeldLine(key_text(row["order_id"]), sku, self._text(row, "warehouse", ignored), quantity)

    def _line(self, row: Row, currency: str, problems: list[Problem]) -> OrderLine:
        line_id = self._text(row, "line_id", problems)
        mine: list[Problem] = []
        quantity = self._number(row, "quantity", mine)
        if quantity is None and not mine:
            mine.append(Problem("quantity", "", "is empty: write how many were sold"))
        unit_price = self._amount(row, "unit_price", currency, mine, per_unit=True)
        line_total = self._amount(row, "line_total", currency, mine)
        if unit_price is None and line_total is None and not mine:
            mine.append(Problem("unit_price", "", "is empty, and so is line_total: one of them must say the price"))
        line = OrderLine(
            line_id=line_id,
            sku=self._text(row, "sku", mine),
            quantity=quantity or Decimal(0),
            unit_price=unit_price,
            line_total=line_total,
            description=self._text(row, "description", mine),
            discount=self._amount(row, "discount", currency, mine) or Decimal(0),
            tax=self._amount(row, "tax", currency, mine) or Decimal(0),
            warehouse=self._text(row, "warehouse", mine),
        )
        problems.extend(Problem(f"{p.field} (line {line_id})", p.value, p.advice) for p in mine)
        return line

    def _address(self, row: Row, kind: str, problems: list[Problem]) -> Address | None:
        """None: every field but the country is empty."""
        values = {name: self._text(row, f"{kind}_{name}", problems) for name in _ADDRESS}
        country = values.pop("country")
        if not any(values.values()):
            return Address(country=country) if country and kind == "billing" else None
        return Address(**values, country=country or "BR")

    def _state(self, row: Row, problems: list[Problem]) -> ShopState | None:
        text = self._text(row, "state", problems)
        try:
            return ShopState(text)
        except ValueError:
            advice = "is none of ready, waiting, cancelled, closed: complete the CASE of state in [read] orders"
            problems.append(Problem("state", text, advice))
            return None

    def _text(self, row: Row, field: str, problems: list[Problem]) -> str:
        value = row.get(field)
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError:
                problems.append(
                    Problem(field, "", "is binary, no text: convert it in the profile (HEX, CONVERT ... USING)")
                )
                return ""
        return plain(value).strip()

    def _number(self, row: Row, field: str, problems: list[Problem]) -> Decimal | None:
        """None: empty, or a problem was noted."""
        value = row.get(field)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        if isinstance(value, float):
            if not self._float_is_exact:
                advice = "comes as a binary float, which loses cents: CAST it to DECIMAL in the profile"
                problems.append(Problem(field, repr(value), advice))
                return None
            number = Decimal(repr(value))
            if number.is_finite() and len(number.normalize().as_tuple().digits) > FLOAT_DIGITS:
                advice = f"has more than {FLOAT_DIGITS} digits, so it was computed in binary: ROUND it in the profile"
                problems.append(Problem(field, repr(value), advice))
                return None
        else:
            try:
                number = Decimal(value.strip() if isinstance(value, str) else value)
            except (InvalidOperation, TypeError, ValueError):
                problems.append(Problem(field, str(value), "is no number: correct it in the shop"))
                return None
        if not number.is_finite() or abs(number.adjusted()) > 15 or number.normalize() != number:
            advice = "is no number that money or quantities can be counted in: correct it, or ROUND it in the profile"
            problems.append(Problem(field, str(value), advice))
            return None
        return _fewest_decimals(number)

    def _amount(
        self, row: Row, field: str, currency: str, problems: list[Problem], *, per_unit: bool = False
    ) -> Decimal | None:
        """In units of the currency, with its usual decimals. `per_unit`: a price, which may have more of them."""
        number = self._number(row, field, problems)
        if number is None:
            return None
        decimals = self._profile.shop.decimals(currency)
        if self._profile.shop.money == "minor":
            if not per_unit and number != number.to_integral_value():
                advice = 'has a fraction, but money = "minor" counts whole minor units: correct it in the profile'
                problems.append(Problem(field, f"{number:f}", advice))
                return None
            number = number.scaleb(-decimals)
        if number == number.quantize(Decimal(1).scaleb(-decimals)):
            return number.quantize(Decimal(1).scaleb(-decimals))
        if not per_unit:
            advice = f"has more than {decimals} decimals, which {currency or 'its currency'} does not have: ROUND it"
            problems.append(Problem(field, f"{number:f}", advice))
            return None
        return _fewest_decimals(number)

    def _ordered(self, row: Row, problems: list[Problem]) -> tuple[datetime | None, date | None]:
        """A date without a time is a business day already: its midnight is that of the business time zone."""
        business = self._profile.business_timezone
        value = row.get("ordered_at")
        whole_day = (isinstance(value, date) and not isinstance(value, datetime)) or (
            isinstance(value, str) and len(value.strip()) == len("2026-11-20")
        )
        ordered_at = self._instant(row, "ordered_at", business if whole_day else self._profile.app_timezone, problems)
        try:
            return ordered_at, ordered_at.astimezone(business).date() if ordered_at else None
        except OverflowError:
            advice = "is no date and time: correct it in the shop or the profile"
            problems.append(Problem("ordered_at", str(value), advice))
            return None, None

    def _instant(self, row: Row, field: str, zone: ZoneInfo, problems: list[Problem]) -> datetime | None:
        """In UTC. An hour that a clock shows twice is read as its first pass, one that it skips as if it had not."""
        value = row.get(field)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        try:
            if isinstance(value, str):
                value = datetime.fromisoformat(value.strip())
            elif isinstance(value, date) and not isinstance(value, datetime):
                value = datetime.combine(value, time())
            if not isinstance(value, datetime):
                raise TypeError
            return (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(UTC)
        except (ValueError, TypeError, OverflowError):
            problems.append(Problem(field, str(value), "is no date and time: correct it in the shop or the profile"))
            return None


def missing_columns(rows: Sequence[Row], required: Sequence[str], one_of: Sequence[str] = ()) -> list[str]:
    """What the rows lack; nothing is known of no rows."""
    if not rows:
        return []
    missing = [name for name in required if name not in rows[0]]
    return missing if not one_of or any(name in rows[0] for name in one_of) else [*missing, " or ".join(one_of)]


def key_text(value: object) -> str:
    """An `order_id` as the text it is known by outside the shop; the same for 42, Decimal("42") and "42"."""
    return value.decode(errors="replace") if isinstance(value, bytes) else plain(value)


def plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) < 100:
        # Not by arithmetic, which keeps fewer digits than a DECIMAL(65) has.
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return str(value)


def _fewest_decimals(number: Decimal) -> Decimal:
    """1.50 and 1.5 become the same; never in the 1E+2 form."""
    return number.quantize(Decimal(1)) if number == number.to_integral_value() else number.normalize()


def _shown(problem: Problem) -> Problem:
    """A column of the profile may be mistaken, and anything stand in it. A line's id and the currency are of the shop
    too."""
    return Problem(redact(problem.field), excerpt(problem.value, 40), redact(problem.advice))


def _has_problem(problems: Sequence[Problem], field: str) -> bool:
    return any(problem.field == field for problem in problems)
