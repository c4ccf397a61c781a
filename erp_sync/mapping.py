"""A shop order as Protheus takes it: SC5, SC6 and SA1 (contracts/protheus-rest.md, 5.3, 5.4 and 8.2). Pure functions.

money.py has the arithmetic of prices, erp_fields.py the widths and characters, customer_fields.py the customer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import fields, is_dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from erp_sync.customer_fields import address_text, check_country, map_customer
from erp_sync.erp_fields import FieldLimits
from erp_sync.errors import InvalidOrder
from erp_sync.models import Address, ErpCustomer, ErpOrder, Order, OrderLine
from erp_sync.money import Price, cents, line_value, plain, price_lines, sums
from erp_sync.scrub import excerpt

if TYPE_CHECKING:
    from erp_sync.settings import Settings

MAX_ITEMS = 99 + 26 + 26 * 36
"""Lines that C6_ITEM can number: 01 to 99, 9A to 9Z, A0 to ZZ."""

_PRICED = ("lines.quantity", "lines.unit_price", "lines.line_total", "lines.discount", "orders.total")
_PLACE = ("orders.billing_country",)
COLUMN_LINEAGE: dict[str, tuple[str, ...]] = {
    "C5_XPEDWEB": ("orders.number",),
    "C5_TIPO": (),
    "C5_TIPOCLI": (),
    "C5_CONDPAG": ("orders.payment",),
    "C5_EMISSAO": ("orders.ordered_at",),
    "C5_TPFRETE": ("orders.freight", "orders.carrier"),
    "C5_FRETE": ("orders.freight",),
    "C5_DESPESA": ("orders.tax", "lines.tax"),
    "C5_DESCONT": (*_PRICED, "orders.discount", "orders.freight", "orders.tax", "lines.tax"),
    "C5_TRANSP": ("orders.carrier",),
    "C5_MENNOTA": (
        "orders.notes",
        *(
            f"orders.{place}_{part}"
            for place in ("delivery", "billing")
            for part in ("street", "number", "complement", "district", "city", "state", "zip", "country")
        ),
    ),
    "C5_INDPRES": (),
    "LIBERA": (),
    "C6_ITEM": (),
    "C6_PRODUTO": ("lines.sku",),
    "C6_QTDVEN": ("lines.quantity",),
    "C6_PRCVEN": _PRICED,
    "C6_PRUNIT": ("lines.quantity", "lines.unit_price", "lines.line_total", "orders.total"),
    "C6_VALOR": _PRICED,
    "C6_OPER": (),
    "C6_TES": (),
    "C6_LOCAL": ("lines.warehouse",),
    "A1_PESSOA": ("orders.tax_id",),
    "A1_CGC": ("orders.tax_id",),
    "A1_NOME": ("orders.customer_name",),
    "A1_NREDUZ": ("orders.customer_name",),
    "A1_TIPO": (),
    "A1_CONTRIB": (),
    "A1_INSCR": ("orders.tax_id",),
    "A1_DDD": ("orders.phone",),
    "A1_TEL": ("orders.phone",),
    "A1_EMAIL": ("orders.email",),
    "A1_END": ("orders.billing_street", "orders.billing_number"),
    "A1_COMPLEM": ("orders.billing_complement",),
    "A1_BAIRRO": ("orders.billing_district",),
    "A1_MUN": ("orders.billing_city",),
    "A1_EST": ("orders.billing_state", *_PLACE),
    "A1_CEP": ("orders.billing_zip", *_PLACE),
    "A1_COD_MUN": ("orders.billing_city_code", *_PLACE),
    "A1_PAIS": _PLACE,
    "A1_CODPAIS": _PLACE,
}
"""Every ERP field that `map_order` may fill, and the canonical shop columns that it comes from; () is a constant, a
setting or the line's position. The external id stands under its default name."""


def map_order(order: Order, settings: Settings, today: date, currencies: Collection[str]) -> ErpOrder:
    """The order as the ERP wants it; its total there is the shop's, to the cent.

    `today` is the present day in the profile's business time zone, `currencies` are the profile's. Raises InvalidOrder
    with everything that is wrong with the order, each problem with its canonical column, its value and what to do.

    Amounts: freight goes into C5_FRETE, tax into C5_DESPESA (or is refused, `orders.tax_to`), discounts as
    `money.price_lines` says. Fields without a value are left out, never null. A zero total is sent like any other:
    its prices are above zero and C5_DESCONT takes them back.
    """
    limits = FieldLimits(settings.erp.widths)
    customer = map_customer(order.customer, settings.orders, limits)
    header = _header(order, settings, today, currencies, limits)
    amounts: dict[str, Decimal] = {}
    prices: tuple[Price, ...] = ()
    # Without every line and amount in order, adding up would only tell the same again in a less helpful way.
    lines_add_up = _check_lines(order, limits)
    if _check_amounts(order, limits) and lines_add_up:
        prices, amounts = _amounts(order, settings, limits)
    if limits.problems:
        raise InvalidOrder(tuple(limits.problems))
    header |= {field: amount for field, amount in amounts.items() if amount}
    lines = enumerate(zip(order.lines, prices, strict=True), start=1)
    items = tuple(_item(position, line, price, settings) for position, (line, price) in lines)
    total = sum((price.value for price in prices), Decimal(0))
    total += amounts["C5_FRETE"] + amounts["C5_DESPESA"] - amounts["C5_DESCONT"]
    return ErpOrder(order.number, header, items, customer, total, tuple(limits.notes))


def item_code(position: int) -> str:
    """C6_ITEM of the line at `position`, from 1: 01 to 99, then 9A to 9Z, A0 to ZZ (5.4)."""
    if not 1 <= position <= MAX_ITEMS:
        raise ValueError(f"position {position}: C6_ITEM numbers 1 to {MAX_ITEMS}")
    if position <= 99:
        return f"{position:02d}"
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    high, low = divmod(digits.index("9") * 36 + digits.index("A") + position - 100, 36)
    return digits[high] + digits[low]


def payload_hash(order: Order) -> str:
    """A digest of all that may change what the ERP gets, or whether it can be sent: sha256, 64 hex digits.

    The same for amounts written differently (1.0 and 1.00); another for another order of the lines. `state`,
    `changed_at` and the time of day of `ordered_at` do not count. Settings are no part of it.
    """
    text = json.dumps(_part(order), separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def customer_key(customer: ErpCustomer) -> str:
    """A digest of the tax id and the given code: the first 32 hex digits of a sha256.

    Customers with one key are matched in the ERP with one result. A pseudonym, not anonymous: tax ids can be tried out.
    """
    text = json.dumps([customer.tax_id, str(customer.given or "")])
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def _header(
    order: Order, settings: Settings, today: date, currencies: Collection[str], limits: FieldLimits
) -> dict[str, str | Decimal | bool]:
    external_id = settings.erp.external_id_field
    if order.number:
        limits.code("number", order.number, settings.erp.external_id_width, external_id, ascii_only=True)
    else:
        limits.refuse("number", "", f"is empty, and {external_id} needs it: correct it in the shop")
    if order.currency not in currencies:
        accepted = ", ".join(sorted(currencies))
        limits.refuse("currency", order.currency, f"is not accepted: the profile's shop.currencies are {accepted}")
    if order.business_day > today + timedelta(days=1):
        limits.refuse("ordered_at", order.business_day, "lies in the future: correct the date in the shop")
    header: dict[str, str | Decimal | bool] = {
        external_id: order.number,
        "C5_TIPO": "N",
        "C5_TIPOCLI": "F",
        "C5_CONDPAG": _payment(order, settings, limits),
        "C5_EMISSAO": f"{order.business_day:%Y%m%d}",
        "C5_TPFRETE": "C" if order.freight or order.carrier else "S",
        "C5_TRANSP": _carrier(order, settings, limits),
        "C5_MENNOTA": _message(order, settings, limits),
        "C5_INDPRES": "2",
        "LIBERA": False,
    }
    return {field: value for field, value in header.items() if value != ""}


def _payment(order: Order, settings: Settings, limits: FieldLimits) -> str:
    payment = settings.orders.payments.get(order.payment, settings.orders.default_payment)
    if not payment:
        advice = "has no payment condition: add it to orders.payments in the settings, or set orders.default_payment"
        limits.refuse("payment", order.payment, advice)
    return payment


def _carrier(order: Order, settings: Settings, limits: FieldLimits) -> str:
    carrier = settings.orders.carriers.get(order.carrier, "")
    if order.carrier and not carrier:
        shown = excerpt(order.carrier, 40)
        limits.note(f"C5_TRANSP: left out, carrier {shown!r} is not in orders.carriers of the settings")
    return carrier


def _message(order: Order, settings: Settings, limits: FieldLimits) -> str:
    """The delivery address, where it is another than the billing address, comes before the notes: a cut must not
    take the address first."""
    delivery = order.delivery
    parts = [order.notes]
    if delivery is not None and _comparable(delivery) != _comparable(order.customer.billing):
        check_country("delivery_country", delivery, settings.orders, limits)
        if settings.orders.delivery_to == "store":
            advice = "a second store (A1_LOJA) for another delivery address is not supported: set C5_MENNOTA"
            limits.refuse("orders.delivery_to", "store", advice)
        parts.insert(0, f"Entrega: {address_text(delivery)}")
    return limits.text("C5_MENNOTA", " - ".join(filter(None, parts)))


def _comparable(address: Address) -> tuple[str, ...]:
    """What tells two addresses apart; how they are written does not, and the city's code says the city again."""
    zip_code = "".join(filter(str.isalnum, address.zip))
    country = address.country or "BR"
    parts = (address.street, address.number, address.complement, address.district, address.city, address.state)
    return tuple(" ".join(part.casefold().split()) for part in (*parts, zip_code, country))


def _check_lines(order: Order, limits: FieldLimits) -> bool:
    """Whether every line's amounts can be reckoned with; codes are checked along the way."""
    count = len(order.lines)
    if not 1 <= count <= MAX_ITEMS:
        advice = (
            "has no line: add one" if count == 0 else f"is more than C6_ITEM numbers ({MAX_ITEMS}): split the order"
        )
        limits.refuse("lines", count, advice)
    good = [_check_line(line, limits) for line in order.lines]
    return all(good) and 1 <= count <= MAX_ITEMS


def _check_line(line: OrderLine, limits: FieldLimits) -> bool:
    def name(column: str) -> str:
        return f"lines.{column} (line_id {line.line_id})"

    if line.sku:
        limits.code(name("sku"), line.sku, limits.width("C6_PRODUTO"), "C6_PRODUTO")
    else:
        limits.refuse(name("sku"), "", "is empty: fill in the product's code in the shop")
    if line.warehouse:
        limits.code(name("warehouse"), line.warehouse, limits.width("C6_LOCAL"), "C6_LOCAL")
    good = limits.amount(name("quantity"), line.quantity, "C6_QTDVEN")
    if good and line.quantity == 0:
        limits.refuse(name("quantity"), line.quantity, "is zero: correct the quantity or take the line out")
        good = False
    if line.unit_price is not None:
        good &= limits.amount(name("unit_price"), line.unit_price, "C6_PRUNIT", decimals=False)
    if line.line_total is not None:
        good &= limits.amount(name("line_total"), line.line_total, "C6_VALOR", decimals=False)
    if line.unit_price is None and line.line_total is None:
        limits.refuse(name("unit_price"), "", "is empty, and so is line_total: one of them must be there")
        good = False
    good &= limits.amount(name("discount"), line.discount, "C6_VALOR", decimals=False)
    good &= limits.amount(name("tax"), line.tax, "C5_DESPESA", decimals=False)
    if good and cents(line.discount) > cents(line_value(line)):
        limits.refuse(name("discount"), line.discount, f"is more than the line costs ({line_value(line)}): correct it")
        good = False
    return good


def _check_amounts(order: Order, limits: FieldLimits) -> bool:
    good = limits.amount("total", order.total, "C6_VALOR")
    good &= limits.amount("freight", order.freight, "C5_FRETE")
    for name, amount, field in (
        ("discount", order.discount, "C5_DESCONT"),
        ("tax", order.tax, "C5_DESPESA"),
        ("goods_total", order.goods_total, "C6_VALOR"),
    ):
        if amount is not None:
            good &= limits.amount(name, amount, field)
    return good


def _amounts(order: Order, settings: Settings, limits: FieldLimits) -> tuple[tuple[Price, ...], dict[str, Decimal]]:
    """Prices and the header's amounts; sound unless `limits` has a problem."""
    ways = sums(order)
    if order.goods_total is not None and order.goods_total not in {cents(way.goods) for way in ways}:
        advice = f"the lines add up to {cents(ways[0].goods)} before discounts: correct the lines or goods_total"
        limits.refuse("goods_total", order.goods_total, advice)
    whole = next((way for way in ways if way.total == order.total), None)
    if whole is None:
        parts = (ways[0].goods, ways[0].discount, ways[0].tax, order.freight)
        spelled = "{} goods - {} discount + {} tax + {} freight".format(*map(plain, parts))
        limits.refuse("total", order.total, f"{spelled} add up to {ways[0].total}: correct the order in the shop")
        return (), {}
    if order.discount is not None:
        exact = sum((line.discount for line in order.lines), Decimal(0))
        rounded = sum((cents(line.discount) for line in order.lines), Decimal(0))
        if order.discount < min(cents(exact), rounded):
            advice = f"is less than its lines' discounts ({plain(exact)}): the header's must be the whole; correct it"
            limits.refuse("discount", order.discount, advice)
            return (), {}
    tax = cents(whole.tax)
    if tax and settings.orders.tax_to == "refuse":
        limits.refuse("tax", tax, "must be zero while orders.tax_to is refuse: correct the order, or set C5_DESPESA")
    net = order.total - order.freight - tax
    if net < 0:
        advice = f"is more than the goods ({cents(whole.goods)}): take a discount on the freight out of the freight"
        limits.refuse("discount", cents(whole.discount), advice)
        return (), {}
    prices, discount = price_lines(order.lines, net)
    limits.amount("discount", discount, "C5_DESCONT")
    limits.amount("tax", tax, "C5_DESPESA")
    adjusted = 0
    for line, price in zip(order.lines, prices, strict=True):
        limits.amount(f"lines.unit_price (line_id {line.line_id})", price.list_price, "C6_PRCVEN")
        limits.amount(f"lines.line_total (line_id {line.line_id})", price.value, "C6_VALOR")
        value = line_value(line)
        adjusted += price.value not in {cents(value), cents(value - line.discount)}
    if adjusted:
        limits.note(f"C6_PRCVEN: raised in {adjusted} lines, the shop's prices cannot be sent; the total is the same")
    return prices, {"C5_FRETE": order.freight, "C5_DESCONT": discount, "C5_DESPESA": tax}


def _item(position: int, line: OrderLine, price: Price, settings: Settings) -> dict[str, str | Decimal]:
    orders = settings.orders
    item: dict[str, str | Decimal] = {
        "C6_ITEM": item_code(position),
        "C6_PRODUTO": line.sku,
        "C6_QTDVEN": cents(price.quantity),
        "C6_PRCVEN": price.price,
        "C6_PRUNIT": price.list_price,
        "C6_VALOR": price.value,
        "C6_TES": orders.tes,
        "C6_OPER": "" if orders.tes else orders.operation,
        "C6_LOCAL": line.warehouse,
    }
    return {field: value for field, value in item.items() if value != ""}


_NO_PAYLOAD = frozenset({"state", "changed_at", "ordered_at"})
"""Of an order; an address has a state too."""


def _part(value: Any) -> Any:
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, tuple):
        return [_part(each) for each in value]
    if is_dataclass(value):
        left_out = _NO_PAYLOAD if isinstance(value, Order) else frozenset()
        return [_part(getattr(value, field.name)) for field in fields(value) if field.name not in left_out]
    return value
