"""The demo shop: a plain in-house Laravel shop with orders arriving, on SQLite, MySQL or MariaDB.

It writes as Laravel does: São Paulo's wall clock in whole seconds, the number made from the id, and stock taken in the
transaction that inserts the order. Whatever it places is returned with the total that the ERP must come to.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Engine, Table, func, select

from erp_sync.sandbox.shop_catalogue import Product, catalogue
from erp_sync.sandbox.shop_people import Home, Person, cnpj, home, person
from erp_sync.sandbox.shop_schema import addresses, create_schema, customers, order_items, orders, products

__all__ = ["BAD_KINDS", "ODD_KINDS", "DemoShop", "PlacedOrder", "Product", "SoldOut", "catalogue", "create_schema"]

SHOP_ZONE = ZoneInfo("America/Sao_Paulo")
_CENT = Decimal("0.01")
_RETURNING = 0.8
_POOL = 2_000


class SoldOut(Exception):
    """The checkout found less stock than the cart asks for; nothing was written."""


@dataclass(frozen=True, slots=True)
class PlacedOrder:
    order_id: int
    number: str
    total: Decimal
    """What the shop's row says."""
    lines: int
    twin: PlacedOrder | None = None
    """Of an order that repeats another one's number: that other one, which is sound."""


@dataclass(frozen=True, slots=True)
class _Line:
    sku: str | None
    name: str
    quantity: int
    unit_price: Decimal
    discount: Decimal = Decimal(0)
    product_id: int | None = None


@dataclass(slots=True)
class _Cart:
    """What goes into a checkout. A kind of odd or bad order is a change to it."""

    lines: list[_Line]
    buyer: Person
    customer_id: int | None = None
    """Of a returning customer."""
    new_customer_id: int | None = None
    """Of a customer whom the checkout registered."""
    guest: bool = False
    coupon: Decimal = Decimal(0)
    freight: Decimal = Decimal(0)
    tax: Decimal = Decimal(0)
    delivery: Home | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    """Columns of the order that are written as they stand here."""
    difference: Decimal = Decimal(0)
    """By how much the stored total is wrong."""

    @property
    def subtotal(self) -> Decimal:
        return sum((line.quantity * line.unit_price for line in self.lines), Decimal(0))

    @property
    def discount(self) -> Decimal:
        return self.coupon + sum((line.discount for line in self.lines), Decimal(0))

    @property
    def total(self) -> Decimal:
        return self.subtotal - self.discount + self.freight + self.tax + self.difference


def _as_it_is(_: _Cart) -> None: ...


class DemoShop:
    """A shop over `engine`, whose tables exist (`create_schema`). Not for use by several threads at once.

    The same seed and the same calls place the same orders. `clock` gives aware datetimes. `tries`: so many carts are
    filled by who finds products sold out, until SoldOut is raised.
    """

    def __init__(
        self,
        engine: Engine,
        seed: int = 1,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        tries: int = 20,
    ) -> None:
        self._engine = engine
        self._tries = tries
        self._random = random.Random(seed)
        self._clock = clock
        self._shelf: list[_Line] = []
        self._regulars: list[int] = []

    def now(self) -> datetime:
        """The wall clock that the shop writes: naive, whole seconds."""
        return self._clock().astimezone(SHOP_ZONE).replace(tzinfo=None, microsecond=0)

    def stock_catalogue(self, stocked: Sequence[Product]) -> None:
        """Puts products on sale; those whose SKU is there already, to the letter, stay as they are."""
        now = self.now()
        with self._engine.begin() as connection:
            known = set(connection.scalars(select(products.c.sku)))
            rows = [
                asdict(product) | {"created_at": now, "updated_at": now}
                for product in stocked
                if product.sku not in known
            ]
            for start in range(0, len(rows), 5_000):
                connection.execute(products.insert(), rows[start : start + 5_000])
        self._shelf.clear()

    def place_order(self, status: str = "pending") -> PlacedOrder:
        """One ordinary order of a mostly returning customer."""
        return self._buy(status)

    def checkout(self) -> PlacedOrder:
        """An order that is paid at once: ready for the ERP with its first commit."""
        return self.place_order(status="paid")

    def checkout_many(self, count: int) -> list[PlacedOrder]:
        """So many paid orders, a hundred to a transaction."""
        placed: list[PlacedOrder] = []
        while len(placed) < count:
            placed += self._until_in_stock([_as_it_is] * min(100, count - len(placed)), "paid")
        return placed

    def place_odd_order(self, kind: str, status: str = "paid") -> PlacedOrder:
        """An unusual order that is fine; `kind` is one of ODD_KINDS."""
        return self._buy(status, lambda cart: ODD_KINDS[kind](self, cart))

    def place_bad_order(self, kind: str, status: str = "paid") -> PlacedOrder:
        """An order that must not reach the ERP; `kind` is one of BAD_KINDS.

        `number_twice` places a sound order as well, before it: the `twin`.
        """
        if kind == "number_twice":
            sound = self._buy(status)
            again = self._buy(status, lambda cart: cart.columns.update(number=sound.number))
            return replace(again, twin=sound)
        return self._buy(status, lambda cart: BAD_KINDS[kind](self, cart))

    @contextmanager
    def late_commit(self, seconds: float = 0) -> Iterator[PlacedOrder]:
        """A paid order whose `updated_at` is `seconds` old, committed when the block ends; an exception rolls it back.

        On SQLite no one else can write meanwhile.
        """
        cart = self._cart()
        cart.columns["updated_at"] = self.now() - timedelta(seconds=seconds)
        with self._engine.begin() as connection:
            yield self._write(connection, cart, "paid")
        self._remember([cart])

    def finalize(self, placed: PlacedOrder) -> None:
        """The payment arrived."""
        self.change_order(placed, status="paid", paid_at=self.now())

    def cancel(self, placed: PlacedOrder) -> None:
        self.change_order(placed, status="cancelled")

    def change_order(self, placed: PlacedOrder, *, touch: bool = True, **columns: Any) -> None:
        """Changes columns of the order's row; without `touch`, as a raw UPDATE does, `updated_at` stays as it is."""
        if touch:
            columns["updated_at"] = self.now()
        with self._engine.begin() as connection:
            connection.execute(orders.update().where(orders.c.id == placed.order_id).values(**columns))

    def change_lines(self, placed: PlacedOrder, **columns: Any) -> None:
        """Changes columns of every line of the order; the order's row is not touched."""
        with self._engine.begin() as connection:
            connection.execute(order_items.update().where(order_items.c.order_id == placed.order_id).values(**columns))

    def add_customers(self, count: int) -> None:
        """New customers with an address each, for the pool of those who return. Nobody else may write meanwhile."""
        now = self.now()
        people = [person(self._random) for _ in range(count)]
        with self._engine.begin() as connection:
            first = (connection.scalar(select(func.max(customers.c.id))) or 0) + 1
            for start in range(0, count, 5_000):
                chunk = list(enumerate(people[start : start + 5_000], first + start))
                connection.execute(customers.insert(), [_customer_row(who, now) | {"id": id_} for id_, who in chunk])
                connection.execute(addresses.insert(), [_address_row(who.home, id_, now) for id_, who in chunk])
        self._shelf.clear()

    def _cart(self) -> _Cart:
        random_ = self._random
        self._load()
        cart = _Cart(lines=[], buyer=person(random_))
        if self._regulars and random_.random() < _RETURNING:
            cart.customer_id = random_.choice(self._regulars)
        for line in random_.sample(self._shelf, min(len(self._shelf), random_.choice([1, 1, 2, 2, 3, 5]))):
            quantity = random_.choice([1, 1, 1, 2, 3])
            discount = _share(quantity * line.unit_price, "0.07") if random_.random() < 0.15 else Decimal(0)
            cart.lines.append(replace(line, quantity=quantity, discount=discount))
        cart.freight = random_.choice([Decimal(0), Decimal("19.90"), Decimal(random_.randint(900, 9_900)) / 100])
        if random_.random() < 0.1:
            cart.coupon = _share(cart.subtotal - cart.discount, "0.1")
        cart.columns["payment_method"] = random_.choice(["pix", "pix", "card", "card", "boleto"])
        cart.columns["shipping_method"] = random_.choice(["sedex", "pac", "transportadora"])
        if random_.random() < 0.1:
            cart.columns["notes"] = "Deixar na portaria, por favor. Não tocar a campainha."
        return cart

    def _load(self) -> None:
        """What is on sale and who returns, as the database has it: other processes may have put it there."""
        if self._shelf:
            return
        with self._engine.connect() as connection:
            for row in connection.execute(select(products).order_by(products.c.id).limit(_POOL)):
                self._shelf.append(_Line(row.sku, row.name, 1, row.price, product_id=row.id))
            self._regulars = list(connection.scalars(select(customers.c.id).order_by(customers.c.id).limit(_POOL)))
        if not self._shelf:
            raise LookupError("the demo shop sells nothing yet: call stock_catalogue first")

    def _buy(self, status: str, alter: Callable[[_Cart], None] = _as_it_is) -> PlacedOrder:
        return self._until_in_stock([alter], status)[0]

    def _until_in_stock(self, alters: Sequence[Callable[[_Cart], None]], status: str) -> list[PlacedOrder]:
        """A cart for each, in one transaction. Who finds a product sold out fills the cart anew."""
        tries = 0
        while True:
            tries += 1
            carts = [self._cart() for _ in alters]
            for cart, alter in zip(carts, alters, strict=True):
                alter(cart)
            try:
                with self._engine.begin() as connection:
                    placed = [self._write(connection, cart, status) for cart in carts]
            except SoldOut:
                if tries == self._tries:
                    raise
            else:
                self._remember(carts)
                return placed

    def _remember(self, carts: Sequence[_Cart]) -> None:
        """Those who were new are regulars now: only after the commit, a roll-back takes a customer away again."""
        for cart in carts:
            if cart.new_customer_id is not None and len(self._regulars) < _POOL:
                self._regulars.append(cart.new_customer_id)

    def _write(self, connection: Connection, cart: _Cart, status: str) -> PlacedOrder:
        now = self.now()
        self._take_stock(connection, cart.lines, now)
        row: dict[str, Any] = {
            "status": status,
            "subtotal": cart.subtotal,
            "discount": cart.discount,
            "shipping_cost": cart.freight,
            "tax": cart.tax,
            "total": cart.total,
            "placed_at": now,
            "paid_at": now if status == "paid" else None,
            "created_at": now,
            "updated_at": now,
        }
        row |= self._buyer_columns(connection, cart, now)
        if cart.delivery is not None:
            row["delivery_address_id"] = _insert(
                connection, addresses, _address_row(cart.delivery, row["customer_id"], now)
            )
        row |= cart.columns
        order_id = _insert(connection, orders, row)
        number = row.get("number")
        if number is None:
            number = f"LJ-{100_000 + order_id}"
            connection.execute(orders.update().where(orders.c.id == order_id).values(number=number))
        if cart.lines:
            stamps = {"order_id": order_id, "created_at": now, "updated_at": now}
            connection.execute(order_items.insert(), [asdict(line) | stamps for line in cart.lines])
        return PlacedOrder(order_id, number, cart.total, len(cart.lines))

    def _take_stock(self, connection: Connection, lines: Sequence[_Line], now: datetime) -> None:
        wanted: dict[int, int] = {}
        for line in lines:
            if line.product_id is not None:
                wanted[line.product_id] = wanted.get(line.product_id, 0) + line.quantity
        for product_id, quantity in sorted(wanted.items()):  # one order of locking: checkouts do not deadlock
            taken = connection.execute(
                products.update()
                .where(products.c.id == product_id, products.c.stock >= quantity)
                .values(stock=products.c.stock - quantity, updated_at=now)
            )
            if not taken.rowcount:
                raise SoldOut(f"product {product_id}: fewer than {quantity} in stock")

    def _buyer_columns(self, connection: Connection, cart: _Cart, now: datetime) -> dict[str, Any]:
        """Registers a new customer, unless it is a guest, who stays on the order's row."""
        who = cart.buyer
        if cart.guest:
            guest: dict[str, Any] = {
                f"customer_{name}": value for name, value in _customer_row(who, now).items() if not name.endswith("_at")
            }
            return guest | {
                "customer_id": None,
                "billing_address_id": _insert(connection, addresses, _address_row(who.home, None, now)),
            }
        if cart.customer_id is not None:
            own = select(func.min(addresses.c.id)).where(addresses.c.customer_id == cart.customer_id)
            return {"customer_id": cart.customer_id, "billing_address_id": connection.scalar(own)}
        customer_id = cart.new_customer_id = _insert(connection, customers, _customer_row(who, now))
        return {
            "customer_id": customer_id,
            "billing_address_id": _insert(connection, addresses, _address_row(who.home, customer_id, now)),
        }

    def _guest(self, cart: _Cart, cpf_cnpj: str | None) -> None:
        """Kept on the order's row, so that the tax id is no regular's."""
        cart.guest = True
        cart.buyer = replace(cart.buyer, cpf_cnpj=cpf_cnpj)

    def _zero_total(self, cart: _Cart) -> None:
        cart.freight = cart.tax = Decimal(0)
        cart.coupon += cart.subtotal - cart.discount

    def _two_lines_one_sku(self, cart: _Cart) -> None:
        cart.lines = [cart.lines[0], replace(cart.lines[0], quantity=cart.lines[0].quantity + 1)]
        cart.coupon = Decimal(0)

    def _case_twins(self, cart: _Cart) -> None:
        twins = {line.sku: line for line in self._shelf if line.sku in ("BOLSA-01", "bolsa-01")}
        cart.lines = [replace(twins["BOLSA-01"], quantity=1), replace(twins["bolsa-01"], quantity=2)]
        cart.coupon = Decimal(0)

    def _emoji_accents(self, cart: _Cart) -> None:
        cart.customer_id = None
        cart.buyer = replace(cart.buyer, name="Conceição d'Ávila Müller 🌻 & Irmãos")
        cart.columns["notes"] = "Presente 🎁 para a vovó: embrulhar, não amassar!\nObrigada — até já"

    def _alphanumeric_cnpj(self, cart: _Cart) -> None:
        cart.customer_id = None
        cart.buyer = replace(cart.buyer, name="Floricultura Ipê Ltda", cpf_cnpj=cnpj(self._random, letters=True))

    def _many_lines(self, cart: _Cart) -> None:
        cart.lines = [replace(self._shelf[place % len(self._shelf)], quantity=1 + place % 2) for place in range(150)]
        cart.coupon = Decimal(0)

    def _thirds(self, cart: _Cart) -> None:
        third = next(line for line in self._shelf if line.unit_price == Decimal("33.33"))
        cart.lines = [replace(third, quantity=1) for _ in range(3)]
        cart.coupon = Decimal("10.00")

    def _header_discount(self, cart: _Cart) -> None:
        cart.coupon = _share(cart.subtotal - cart.discount, "0.13")

    def _line_discount(self, cart: _Cart) -> None:
        line = replace(cart.lines[0], quantity=3)
        cart.lines = [replace(line, discount=_share(3 * line.unit_price, "0.05") + _CENT)]
        cart.coupon = Decimal(0)

    def _freight(self, cart: _Cart) -> None:
        cart.freight = Decimal("37.45")

    def _tax(self, cart: _Cart) -> None:
        cart.tax = _share(cart.subtotal - cart.discount, "0.0325")

    def _other_delivery_address(self, cart: _Cart) -> None:
        cart.delivery = replace(home(self._random), street="Rua do Trabalho", complement="recepção")

    def _line_without_sku(self, cart: _Cart) -> None:
        cart.lines[0] = replace(cart.lines[0], sku=None, product_id=None)

    def _unknown_sku(self, cart: _Cart) -> None:
        cart.lines[0] = replace(cart.lines[0], sku="SO-NA-LOJA", product_id=None)

    def _no_lines(self, cart: _Cart) -> None:
        cart.lines, cart.coupon = [], Decimal(0)


ODD_KINDS: dict[str, Callable[[DemoShop, _Cart], None]] = {
    "zero_total": DemoShop._zero_total,
    "guest": lambda shop, cart: shop._guest(cart, cart.buyer.cpf_cnpj),
    "two_lines_one_sku": DemoShop._two_lines_one_sku,
    "case_twins": DemoShop._case_twins,
    "emoji_accents": DemoShop._emoji_accents,
    "alphanumeric_cnpj": DemoShop._alphanumeric_cnpj,
    "many_lines": DemoShop._many_lines,
    "thirds": DemoShop._thirds,
    "header_discount": DemoShop._header_discount,
    "line_discount": DemoShop._line_discount,
    "freight": DemoShop._freight,
    "tax": DemoShop._tax,
    "other_delivery_address": DemoShop._other_delivery_address,
}
"""Unusual orders that must be sent, exactly."""


def _write_column(**columns: Any) -> Callable[[DemoShop, _Cart], None]:
    return lambda _, cart: cart.columns.update(columns)


def _off_by_a_cent(_: DemoShop, cart: _Cart) -> None:
    cart.difference = _CENT


def _long_number(shop: DemoShop, cart: _Cart) -> None:
    cart.columns["number"] = f"LJ-{shop.now():%Y%m%d}-{shop._random.randrange(10**12):012d}"


def _same_number(shop: DemoShop, cart: _Cart) -> None:
    """`place_bad_order` knows the number."""


BAD_KINDS: dict[str, Callable[[DemoShop, _Cart], None]] = {
    "line_without_sku": DemoShop._line_without_sku,
    "unknown_sku": DemoShop._unknown_sku,
    "repeated_cpf": lambda shop, cart: shop._guest(cart, "111.111.111-11"),
    "no_tax_id": lambda shop, cart: shop._guest(cart, None),
    "currency": _write_column(currency="USD"),
    "totals": _off_by_a_cent,
    "payment": _write_column(payment_method="criptomoeda"),
    "long_number": _long_number,
    "no_lines": DemoShop._no_lines,
    "no_ordered_at": _write_column(placed_at=None),
    "ordered_in_2099": _write_column(placed_at=datetime(2099, 12, 31, 23, 59, 59)),  # noqa: DTZ001
    "number_twice": _same_number,
}
"""Orders that must become `invalid` or `refused`, each on its own."""


def _share(amount: Decimal, share: str) -> Decimal:
    return (amount * Decimal(share)).quantize(_CENT, ROUND_HALF_UP)


def _customer_row(who: Person, now: datetime) -> dict[str, Any]:
    return {
        "name": who.name,
        "email": who.email,
        "phone": who.phone,
        "cpf_cnpj": who.cpf_cnpj,
        "created_at": now,
        "updated_at": now,
    }


def _address_row(where: Home, customer_id: int | None, now: datetime) -> dict[str, Any]:
    return asdict(where) | {"customer_id": customer_id, "created_at": now, "updated_at": now}


def _insert(connection: Connection, table: Table, row: dict[str, Any]) -> int:
    return int(connection.execute(table.insert().values(row)).inserted_primary_key[0])  # type: ignore[index]
