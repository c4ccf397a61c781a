"""The demo shop: what it writes is what a Laravel shop writes, and its totals are right to the cent."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, func, inspect, select, text
from validate_docbr import CNPJ, CPF

from erp_sync.sandbox.shop import (
    BAD_KINDS,
    ODD_KINDS,
    DemoShop,
    PlacedOrder,
    SoldOut,
    catalogue,
    create_schema,
)
from erp_sync.sandbox.shop_history import CHUNK, add_history
from erp_sync.sandbox.shop_people import cnpj, cpf, masked, person
from erp_sync.sandbox.shop_schema import addresses, customers, order_items, orders, products

AT = datetime(2026, 3, 10, 1, 30, 15, 999_999, tzinfo=UTC)  # the evening before, in São Paulo


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    create_schema(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def shop(engine: Engine) -> DemoShop:
    shop = DemoShop(engine, seed=7, clock=lambda: AT)
    shop.stock_catalogue(catalogue(40))
    shop.add_customers(5)
    return shop


def row(engine: Engine, placed: PlacedOrder) -> Any:
    with engine.connect() as connection:
        return connection.execute(select(orders).where(orders.c.id == placed.order_id)).one()


def lines(engine: Engine, placed: PlacedOrder) -> list[Any]:
    query = select(order_items).where(order_items.c.order_id == placed.order_id).order_by(order_items.c.id)
    with engine.connect() as connection:
        return list(connection.execute(query))


def sum_of_parts(engine: Engine, placed: PlacedOrder) -> Decimal:
    order = row(engine, placed)
    goods: Decimal = sum((line.quantity * line.unit_price for line in lines(engine, placed)), Decimal(0))
    assert order.subtotal == goods
    return Decimal(goods - order.discount + order.shipping_cost + order.tax)


def test_an_order_is_written_with_its_number_on_the_shops_wall_clock_and_with_its_stock_taken(
    engine: Engine, shop: DemoShop
) -> None:
    stock = select(func.sum(products.c.stock))
    with engine.connect() as connection:
        before = connection.execute(stock).scalar_one()
    placed = shop.place_order()
    order = row(engine, placed)
    assert placed.number == order.number == f"LJ-{100_000 + placed.order_id}"
    assert (order.status, order.paid_at) == ("pending", None)
    assert order.placed_at == order.created_at == order.updated_at == datetime(2026, 3, 9, 22, 30, 15)  # noqa: DTZ001
    with engine.connect() as connection:
        after = connection.execute(stock).scalar_one()
    assert before - after == sum(line.quantity for line in lines(engine, placed)) > 0


def test_datetimes_are_stored_as_laravel_stores_them(engine: Engine, shop: DemoShop) -> None:
    shop.place_order()
    with engine.connect() as connection:
        stored = connection.execute(text("SELECT CAST(placed_at AS CHAR) FROM orders")).scalar_one()
    assert stored == "2026-03-09 22:30:15"


def test_the_indexes_are_those_of_the_migrations_and_number_is_not_unique(engine: Engine) -> None:
    indexes = inspect(engine).get_indexes("orders")
    assert {tuple(index["column_names"]) for index in indexes} >= {
        ("number",),
        ("updated_at",),
        ("status", "updated_at"),
    }
    assert not any(index["unique"] for index in indexes)


def test_ordinary_totals_add_up_to_the_cent_and_mostly_belong_to_regulars(engine: Engine, shop: DemoShop) -> None:
    placed = shop.checkout_many(230)
    assert len({order.number for order in placed}) == 230
    with engine.connect() as connection:
        bought = connection.execute(select(func.count(orders.c.customer_id.distinct()))).scalar_one()
        paid = connection.scalar(select(func.count()).where(orders.c.status == "paid"))
    assert paid == 230
    assert 20 < bought < 100
    for order in placed[:60]:
        assert sum_of_parts(engine, order) == order.total == row(engine, order).total
        assert len(lines(engine, order)) == order.lines


@pytest.mark.parametrize("kind", ODD_KINDS)
def test_odd_orders_add_up(engine: Engine, shop: DemoShop, kind: str) -> None:
    for _ in range(3):
        placed = shop.place_odd_order(kind)
        order = row(engine, placed)
        assert sum_of_parts(engine, placed) == placed.total == order.total >= 0
        discounts = sum((line.discount for line in lines(engine, placed)), Decimal(0))
        assert discounts <= order.discount
        assert order.status == "paid"


def test_odd_orders_are_what_their_name_says(engine: Engine, shop: DemoShop) -> None:
    placed = {kind: shop.place_odd_order(kind) for kind in ODD_KINDS}
    rows = {kind: row(engine, order) for kind, order in placed.items()}
    skus = {kind: [line.sku for line in lines(engine, order)] for kind, order in placed.items()}
    with engine.connect() as connection:
        buyer = {
            kind: connection.execute(select(customers).where(customers.c.id == order.customer_id)).one_or_none()
            for kind, order in rows.items()
        }
        homes = {where.id: where.street for where in connection.execute(select(addresses))}
    assert rows["zero_total"].total == 0 < rows["zero_total"].subtotal
    assert rows["guest"].customer_id is None
    assert rows["guest"].customer_name
    assert rows["guest"].customer_cpf_cnpj
    assert rows["guest"].billing_address_id in homes
    assert skus["two_lines_one_sku"][0] == skus["two_lines_one_sku"][1]
    assert skus["case_twins"] == ["BOLSA-01", "bolsa-01"]
    twins = lines(engine, placed["case_twins"])
    assert twins[0].product_id != twins[1].product_id
    assert buyer["emoji_accents"] is not None
    assert "🌻" in buyer["emoji_accents"].name
    assert "🎁" in rows["emoji_accents"].notes
    assert buyer["alphanumeric_cnpj"] is not None
    assert buyer["alphanumeric_cnpj"].cpf_cnpj[0].isalpha()
    assert len(skus["many_lines"]) == 150
    assert [line.unit_price for line in lines(engine, placed["thirds"])] == [Decimal("33.33")] * 3
    assert rows["thirds"].discount == Decimal("10.00")
    assert rows["header_discount"].discount > sum(line.discount for line in lines(engine, placed["header_discount"]))
    assert lines(engine, placed["line_discount"])[0].discount % 3 or rows["line_discount"].discount
    assert rows["freight"].shipping_cost == Decimal("37.45")
    assert rows["tax"].tax > 0
    delivery = rows["other_delivery_address"]
    assert homes[delivery.delivery_address_id] == "Rua do Trabalho" != homes[delivery.billing_address_id]


def test_bad_orders_are_bad_in_one_way_each(engine: Engine, shop: DemoShop) -> None:
    placed = {kind: shop.place_bad_order(kind) for kind in BAD_KINDS}
    rows = {kind: row(engine, order) for kind, order in placed.items()}
    skus = {kind: [line.sku for line in lines(engine, order)] for kind, order in placed.items()}
    known = {product.sku for product in catalogue(40)}

    def faults(kind: str) -> set[str]:
        order = rows[kind]
        found = {
            "line_without_sku": None in skus[kind],
            "unknown_sku": any(sku is not None and sku not in known for sku in skus[kind]),
            "repeated_cpf": order.customer_cpf_cnpj == "111.111.111-11",
            "no_tax_id": order.customer_id is None and order.customer_cpf_cnpj is None,
            "currency": order.currency != "BRL",
            "totals": sum_of_parts(engine, placed[kind]) != order.total,
            "payment": order.payment_method not in ("pix", "boleto", "card"),
            "long_number": len(order.number) > 20,
            "no_lines": not skus[kind],
            "no_ordered_at": order.placed_at is None,
            "ordered_in_2099": order.placed_at is not None and order.placed_at.year == 2099,
            "number_twice": placed[kind].twin is not None,
        }
        return {name for name, wrong in found.items() if wrong}

    assert {kind: faults(kind) for kind in BAD_KINDS} == {kind: {kind} for kind in BAD_KINDS}
    twice = placed["number_twice"]
    assert twice.twin is not None
    assert twice.number == twice.twin.number
    assert twice.order_id != twice.twin.order_id


def test_no_regular_ever_has_a_bad_tax_id(engine: Engine, shop: DemoShop) -> None:
    for kind in BAD_KINDS:
        shop.place_bad_order(kind)
    shop.checkout_many(50)
    with engine.connect() as connection:
        ids = list(connection.scalars(select(customers.c.cpf_cnpj)))
    assert len(ids) > 5
    assert all(CPF().validate(id_) or CNPJ().validate(id_) for id_ in ids)


def test_finalize_touches_the_row_and_a_raw_fix_does_not(engine: Engine) -> None:
    now = [AT]
    shop = DemoShop(engine, clock=lambda: now[0])
    shop.stock_catalogue(catalogue(5))
    placed = shop.place_bad_order("payment", status="pending")
    old = row(engine, placed).updated_at
    now[0] += timedelta(hours=1)
    shop.change_order(placed, touch=False, payment_method="pix")
    assert (row(engine, placed).payment_method, row(engine, placed).updated_at) == ("pix", old)
    shop.finalize(placed)
    order = row(engine, placed)
    assert (order.status, order.updated_at, order.paid_at) == ("paid", old + timedelta(hours=1), order.updated_at)
    shop.change_lines(placed, sku="OUTRO")
    assert {line.sku for line in lines(engine, placed)} == {"OUTRO"}
    shop.cancel(placed)
    assert row(engine, placed).status == "cancelled"


def test_a_late_commit_is_unseen_until_it_ends_and_then_carries_an_old_time(engine: Engine, shop: DemoShop) -> None:
    with shop.late_commit(seconds=90) as placed, engine.connect() as other:
        assert other.scalar(select(func.count()).select_from(orders)) == 0
    assert row(engine, placed).updated_at == shop.now() - timedelta(seconds=90)


def test_a_late_commit_that_fails_leaves_no_order_and_no_regular(engine: Engine, shop: DemoShop) -> None:
    for _ in range(20):
        with pytest.raises(KeyError), shop.late_commit():
            raise KeyError
    shop.checkout_many(20)
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(orders)) == 20


def test_a_sold_out_product_is_not_sold(engine: Engine, shop: DemoShop) -> None:
    with engine.begin() as connection:
        connection.execute(products.update().values(stock=0))
    with pytest.raises(SoldOut, match="fewer than"):
        shop.checkout()
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(orders)) == 0


def test_who_finds_a_product_sold_out_buys_others(engine: Engine, shop: DemoShop) -> None:
    with engine.begin() as connection:
        connection.execute(products.update().where(products.c.id % 2 == 0).values(stock=0))
    placed = [shop.checkout() for _ in range(20)]
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(orders)) == len(placed)
        assert connection.scalar(select(func.min(products.c.stock))) == 0


def test_the_same_seed_places_the_same_orders(tmp_path: Any) -> None:
    def place(name: str, seed: int) -> list[PlacedOrder]:
        engine = create_engine(f"sqlite:///{tmp_path / name}")
        create_schema(engine)
        shop = DemoShop(engine, seed)
        shop.stock_catalogue(catalogue(30))
        placed = shop.checkout_many(30)
        engine.dispose()
        return placed

    assert place("a", 1) == place("b", 1) != place("c", 2)


def test_a_catalogue_is_stocked_once_case_twins_included(engine: Engine, shop: DemoShop) -> None:
    shop.stock_catalogue(catalogue(45))
    with engine.connect() as connection:
        skus = list(connection.scalars(select(products.c.sku)))
    assert len(skus) == len(set(skus)) == 45
    assert {"BOLSA-01", "bolsa-01"} <= set(skus)
    assert max(map(len, skus)) <= 15


def test_a_shop_without_products_says_so(engine: Engine) -> None:
    with pytest.raises(LookupError, match="stock_catalogue"):
        DemoShop(engine).checkout()
    with pytest.raises(ValueError, match="at least 3"):
        catalogue(2)


def test_tax_ids_are_valid_by_an_independent_library() -> None:
    random_ = random.Random(5)
    for _ in range(500):
        assert CPF().validate(cpf(random_))
        assert CPF().validate(masked(cpf(random_)))
        assert CNPJ().validate(cnpj(random_))
        assert CNPJ().validate(masked(cnpj(random_)))
        assert CNPJ().validate(cnpj(random_, letters=True))
    assert cnpj(random.Random(1), letters=True)[:2].isalpha()
    assert {len("".join(filter(str.isdigit, person(random_).cpf_cnpj or ""))) for _ in range(99)} == {11, 14}


def test_history_is_sound_spread_and_numbered_across_chunks(
    engine: Engine, shop: DemoShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = shop.checkout()
    assert CHUNK % 2 == 0
    monkeypatch.setattr("erp_sync.sandbox.shop_history.CHUNK", 400)
    since, until = datetime(2024, 1, 1), datetime(2026, 1, 1)  # noqa: DTZ001
    add_history(engine, 1_000, since=since, until=until)
    goods = (
        select(func.sum(order_items.c.quantity * order_items.c.unit_price))
        .where(order_items.c.order_id == orders.c.id)
        .scalar_subquery()
    )
    with engine.connect() as connection:
        rows = connection.execute(
            select(orders, goods.label("goods")).where(orders.c.status == "delivered").order_by(orders.c.id)
        ).all()
        several = connection.execute(select(func.count()).select_from(order_items)).scalar_one() - placed.lines
    assert [order.id for order in rows] == list(range(placed.order_id + 1, placed.order_id + 1_001))
    assert all(order.number == f"LJ-{100_000 + order.id}" for order in rows)
    assert all(Decimal(str(order.goods)).quantize(Decimal("0.01")) == order.subtotal for order in rows)
    assert all(order.total == order.subtotal + order.shipping_cost for order in rows)
    assert all(order.customer_id and order.billing_address_id for order in rows)
    assert {order.customer_id for order in rows} >= set(range(1, 6))
    assert several == 1_500
    assert rows[0].placed_at == since
    assert until - rows[-1].placed_at < timedelta(days=1)
    assert all(order.placed_at == order.updated_at for order in rows)
    assert shop.checkout().order_id == rows[-1].id + 1
