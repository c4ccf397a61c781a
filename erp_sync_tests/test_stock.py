"""The shop's stock follows the ERP's: the real client against the sandbox over HTTP, on SQLite and MariaDB.

The races are in test_stock_race.py and test_stock_machine.py."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import erp_sync.shop.connection
from erp_sync import cli
from erp_sync.demo import Stage, environment, stage
from erp_sync.erp.stock import ErpStock, SkuBalance
from erp_sync.errors import ErpUnavailable, LedgerUnavailable, Misconfigured, ShopUnavailable
from erp_sync.ledger.clock import SLOW_SECONDS
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.models import LedgerState
from erp_sync.sandbox.config import Fault
from erp_sync.sandbox.shop import PlacedOrder
from erp_sync.sandbox.shop_schema import orders, products
from erp_sync.settings import load_settings
from erp_sync.stock_formula import Formula, available, fields, published
from erp_sync.sync.connections import Connections, open_connections
from erp_sync.sync.in_flight import CLOCKS_APART, InFlight
from erp_sync.sync.results import StockResult
from erp_sync.sync.stock import StockErp, StockFlow
from erp_sync_tests.conftest import FreshDatabase
from erp_sync_tests.ledger_entries import due, found, step
from erp_sync_tests.mariadb import MariaDB

CONFIG = """\
[erp]
settle_seconds = 0.5
connect_timeout = 2
read_timeout = 3
write_timeout = 2
[orders]
start_day = {start_day}
carriers = {{ sedex = "000001", pac = "000002", transportadora = "000003" }}
[stock]
{stock}
"""
UPPER, LOWER, THIRD = "BOLSA-01", "bolsa-01", "TERCO-33"
FIGURES = {
    "QATU": 100,
    "RESERVA": 7,
    "QPEDVEN": 5,
    "QEMP": 3,
    "QACLASS": 2,
    "QEMPSA": 1,
    "QEMPPRJ": 4,
    "QTNP": 6,
    "QEMPPRE": 8,
}
PLACES = """
[stock]
find = "SELECT s.quantity AS quantity FROM stocks s WHERE s.sku = :sku AND s.place = :warehouse"
write = ["UPDATE stocks SET quantity = :quantity WHERE sku = :sku AND place = :warehouse"]
warehouses = { "01" = "loja", "02" = "galpao", "03" = "galpao" }
waiting_holds = true
"""


@dataclass
class World:
    on: Stage
    connections: Connections
    shop: sa.Engine

    def put(self, *skus: str, warehouse: str = "01", **figures: float) -> None:
        self.put_row(skus, warehouse, figures)

    def put_row(self, skus: Sequence[str], warehouse: str, figures: Mapping[str, float]) -> None:
        rows = [{"code": sku, "warehouse": warehouse, **figures} for sku in skus]
        for start in range(0, len(rows), 5_000):
            self.on.erp.admin("POST", "/stock", rows[start : start + 5_000])

    def figures(self, sku: str, warehouse: str = "01") -> Mapping[str, float]:
        (row,) = self.on.erp.admin("GET", f"/stock?code={sku}&warehouse={warehouse}")
        return {name: row[name] for name in ("QATU", "RESERVA", "QPEDVEN")}

    def flow(self, erp: StockErp | None = None, **how: Any) -> StockFlow:
        parts = self.connections
        assert parts.shop_stock is not None
        real = ErpStock(parts.client, parts.settings)
        return StockFlow(parts.shop, parts.shop_stock, parts.ledger, erp or real, parts.settings, **how)

    def paged(self, size: int) -> StockFlow:
        return self.flow(ErpStock(self.connections.client, self.connections.settings, page_size=size))

    def run(self, **how: Any) -> StockResult:
        result = self.connections.stock_flow().run(**how)
        assert result.failure is None, result.failure
        return result

    def follow(self) -> StockResult:
        """A pass after which every order sent before now is known to be in its figures."""
        time.sleep(CLOCKS_APART.total_seconds() * 1.1)
        result = self.run()
        assert (result.guard, result.failed) == ("", 0)
        return result

    def shown(self, *skus: str) -> list[int]:
        stock = self.stock()
        return [stock[sku] for sku in skus]

    def stock(self) -> dict[str, int]:
        """What is on sale, to the letter."""
        with self.shop.connect() as connection:
            return {row.sku: row.stock for row in connection.execute(sa.select(products.c.sku, products.c.stock))}

    def set_shop(self, sku: str, quantity: int) -> None:
        with self.shop.begin() as connection:
            rows = connection.execute(sa.select(products.c.id, products.c.sku)).all()
            ids = [row.id for row in rows if row.sku == sku]
            connection.execute(products.update().where(products.c.id.in_(ids)).values(stock=quantity))

    def buy(self, status: str = "paid") -> PlacedOrder:
        """One BOLSA-01 and two bolsa-01."""
        return self.on.shop.place_odd_order("case_twins", status)

    def give_back(self, order: PlacedOrder) -> None:
        """Cancelled by a shop that puts the goods back on the shelf."""
        with self.shop.begin() as connection:
            for sku, quantity in ((UPPER, 1), (LOWER, 2)):
                rows = connection.execute(sa.select(products.c.id, products.c.sku)).all()
                id_ = next(row.id for row in rows if row.sku == sku)
                change = products.update().where(products.c.id == id_)
                connection.execute(change.values(stock=products.c.stock + quantity))
            values = {"status": "cancelled", "updated_at": self.on.shop.now()}
            connection.execute(orders.update().where(orders.c.id == order.order_id).values(values))

    def send(self) -> None:
        assert self.connections.orders_flow().run().failure is None

    def in_erp(self, order: PlacedOrder) -> str:
        entry = self.connections.ledger.entries([str(order.order_id)])[str(order.order_id)]
        assert entry.state is LedgerState.SENT
        return f"/orders/{entry.erp_branch}/{entry.erp_number}"


def play(urls: Sequence[str], folder: Path, stock: str = "", profile: str = "") -> Iterator[World]:
    """`profile` replaces the shipped one's `[stock]` block."""
    name = "laravel"
    if profile:
        shipped = resources.files("erp_sync.shop").joinpath("profiles", "laravel.toml").read_text(encoding="utf-8")
        path = folder / "shop.toml"
        path.write_text(shipped[: shipped.index("[stock]")] + profile, encoding="utf-8")
        name = str(path)
    config = CONFIG.format(start_day=(datetime.now(UTC) - timedelta(days=7)).date(), stock=stock)
    setting = stage(shop_url=urls[0], ledger_url=urls[1], latency_ms=0, config=config)
    with setting as on, environment({**on.environment, "ERP_SYNC_SHOP_PROFILE": name}):
        for row in on.erp.admin("GET", "/stock?after=0&limit=1000"):  # each test says itself what there is
            on.erp.admin("DELETE", f"/stock/{row['warehouse']}/{row['code']}")
        connections = open_connections(load_settings())
        shop = sa.create_engine(on.environment["ERP_SYNC_SHOP_URL"])
        yield World(on, connections, shop)
        shop.dispose()
        connections.close()


def files(folder: Path) -> list[str]:
    return [f"sqlite:///{folder / name}.sqlite" for name in ("shop", "ledger")]


def shipped_stock(**changed: str) -> str:
    """The shipped `[stock]` block with other lines."""
    shipped = resources.files("erp_sync.shop").joinpath("profiles", "laravel.toml").read_text(encoding="utf-8")
    lines = shipped[shipped.index("[stock]") :].splitlines()
    for name, value in changed.items():
        lines = [f"{name} = {value}" if line.startswith(f"{name} = ") else line for line in lines]
    return "\n".join(lines) + "\n"


@pytest.fixture
def world(fresh_database: FreshDatabase, tmp_path: Path) -> Iterator[World]:
    yield from play([fresh_database(), fresh_database()], tmp_path)


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[World]:
    """SQLite alone: what depends on no database."""
    yield from play(files(tmp_path), tmp_path)


# The formula


@pytest.mark.parametrize(
    ("formula", "open_orders", "left"),
    [
        ("standard", False, 69),
        ("standard", True, 64),
        ("simple", False, 93),
        ("simple", True, 88),
        ("physical", False, 100),
        ("physical", True, 95),
    ],
)
def test_each_formula_in_the_settings(tmp_path: Path, formula: Formula, open_orders: bool, left: int) -> None:
    row = {f"B2_{name}": Decimal(figure) for name, figure in FIGURES.items()}
    wanted = fields(formula, subtract_open_orders=open_orders)
    asked = {name: row[name] for name in wanted}
    assert available(asked, formula, subtract_open_orders=open_orders) == left
    setting = f'formula = "{formula}"\nsubtract_open_orders = {str(open_orders).lower()}'
    for world in play(files(tmp_path), tmp_path, setting):
        world.put_row([UPPER], "01", FIGURES)
        world.run()
        assert world.shown(UPPER) == [left]


def test_a_commitment_below_zero_adds() -> None:
    row = dict.fromkeys(fields("standard", subtract_open_orders=True), Decimal(0))
    row |= {"B2_QATU": Decimal("3.5"), "B2_QEMP": Decimal(-2)}
    assert available(row, "standard", subtract_open_orders=True) == Decimal("5.5")


@pytest.mark.parametrize(
    ("balance", "in_flight", "buffer", "shown"),
    [
        ("10", "0", 0, 10),
        ("10", "3", 2, 5),
        ("9.99", "0", 0, 9),
        ("10.5", "0.6", 0, 9),
        ("0.99", "0", 0, 0),
        ("3", "3", 0, 0),
        ("3", "2", 2, 0),
        ("-4", "0", 0, 0),
        ("-0.01", "0", 0, 0),
        ("-4", "0", 3, 0),
        ("999999999.99", "0", 0, 999999999),
    ],
)
def test_whole_units_and_never_below_zero(balance: str, in_flight: str, buffer: int, shown: int) -> None:
    assert published(Decimal(balance), in_flight=Decimal(in_flight), buffer=buffer) == shown


def test_physical_of_the_profile_publishes_what_lies_there(tmp_path: Path) -> None:
    setting = 'formula = "physical"\nsubtract_open_orders = false'
    for world in play(files(tmp_path), tmp_path, setting, shipped_stock(basis='"physical"')):
        world.put_row([UPPER, LOWER], "01", FIGURES)
        world.buy()
        world.run()
        assert world.shown(UPPER, LOWER) == [100, 100]


def test_physical_of_the_profile_alone_is_a_contradiction(tmp_path: Path) -> None:
    for world in play(files(tmp_path), tmp_path, "", shipped_stock(basis='"physical"')):
        with pytest.raises(Misconfigured, match=r'stock\.formula = "physical"'):
            world.connections.stock_flow()


# An order's life


def test_through_an_orders_whole_life_the_shop_shows_what_is_left(world: World) -> None:
    world.put(UPPER, QATU=10)
    world.put(LOWER, QATU=20)
    assert world.run().written == 2
    order = world.buy()
    assert world.shown(UPPER, LOWER) == [9, 18]
    result = world.run()
    assert (result.written, result.in_flight_orders, result.in_flight_units) == (0, 1, 3)
    world.send()
    assert world.figures(LOWER) == {"QATU": 20, "RESERVA": 0, "QPEDVEN": 2}
    result = world.follow()
    assert (result.written, result.in_flight_units) == (0, 0)
    world.on.erp.admin("POST", world.in_erp(order) + "/release", {})
    assert world.figures(LOWER) == {"QATU": 20, "RESERVA": 2, "QPEDVEN": 0}
    assert world.follow().written == 0
    world.on.erp.admin("POST", world.in_erp(order) + "/invoice", {})
    assert world.figures(LOWER) == {"QATU": 18, "RESERVA": 0, "QPEDVEN": 0}
    assert world.follow().written == 0
    assert world.shown(UPPER, LOWER) == [9, 18]


def test_waiting_orders_hold_until_they_are_cancelled(world: World) -> None:
    world.put(UPPER, LOWER, QATU=10)
    world.run()
    order = world.buy("pending")
    assert world.run().written == 0
    world.send()
    assert world.run().written == 0
    world.give_back(order)
    assert world.shown(UPPER, LOWER) == [10, 10]
    assert world.run().written == 0
    forgetful = world.buy("pending")
    world.on.shop.cancel(forgetful)
    assert world.shown(UPPER, LOWER) == [9, 8]
    assert world.run().raised == 2, "a shop that forgets to give it back is healed"
    assert world.shown(UPPER, LOWER) == [10, 10]


def test_a_sent_order_that_the_shop_cancels_comes_back_when_the_erp_has_cancelled_it(world: World) -> None:
    world.put(UPPER, LOWER, QATU=10)
    world.run()
    order = world.buy()
    world.send()
    world.give_back(order)
    world.follow()
    assert world.shown(UPPER, LOWER) == [9, 8], "the ERP still keeps it for the order"
    give_up = time.monotonic() + 15
    while world.figures(UPPER)["QPEDVEN"] and time.monotonic() < give_up:
        world.connections.statuses_flow().run()
    world.follow()
    assert world.shown(UPPER, LOWER) == [10, 10]


def test_what_a_shop_gives_back_after_the_erp_has_is_too_much_until_the_next_pass_alone(world: World) -> None:
    """Somebody cancels in the ERP, a pass brings the units back, and the shop puts them on the shelf once more: no
    figure of the ERP tells it beforehand. Too many are on sale, by what the order held, until the next pass."""
    world.put(UPPER, LOWER, QATU=10)
    world.run()
    order = world.buy()
    world.send()
    world.on.erp.admin("DELETE", world.in_erp(order))
    world.follow()
    assert world.shown(UPPER, LOWER) == [10, 10]
    world.give_back(order)
    assert world.shown(UPPER, LOWER) == [11, 12]
    assert world.run().lowered == 2
    assert world.shown(UPPER, LOWER) == [10, 10]
    assert world.run().written == 0


def test_a_waiting_order_is_forgotten_after_its_days_and_counted_again_once_it_is_paid(world: World) -> None:
    world.put(UPPER, LOWER, QATU=10)
    order = world.buy("pending")
    world.run()
    old = world.on.shop.now() - timedelta(days=7, hours=1)
    world.on.shop.change_order(order, touch=False, placed_at=old, updated_at=old)
    world.run()
    assert world.shown(UPPER, LOWER) == [10, 10]
    world.on.shop.finalize(order)
    world.run()
    assert world.shown(UPPER, LOWER) == [9, 8]


def test_without_waiting_holds_a_shop_takes_stock_when_it_is_paid(tmp_path: Path) -> None:
    for world in play(files(tmp_path), tmp_path, "", shipped_stock(waiting_holds="false")):
        world.put(UPPER, LOWER, QATU=10)
        order = world.buy("pending")
        world.run()
        assert world.shown(UPPER, LOWER) == [10, 10]
        world.on.shop.finalize(order)
        world.run()
        assert world.shown(UPPER, LOWER) == [9, 8]


def test_refused_and_invalid_orders_hold_what_they_have_taken(world: World) -> None:
    world.put(UPPER, LOWER, QATU=10)
    order = world.buy()
    world.on.shop.change_order(order, currency="USD")
    world.send()
    assert world.connections.ledger.entries([str(order.order_id)])[str(order.order_id)].state is LedgerState.INVALID
    world.follow()
    assert world.shown(UPPER, LOWER) == [9, 8]


def test_what_was_ready_before_going_live_is_the_erps_and_what_still_waited_is_not(world: World) -> None:
    """The latter is sent once it is paid; between the payment and the first look of the orders flow it is in flight."""
    world.put(UPPER, LOWER, QATU=10)
    before = world.on.shop.now() - timedelta(days=9)
    done, waiting = world.buy(), world.buy("pending")
    for order in (done, waiting):
        world.on.shop.change_order(order, touch=False, placed_at=before, updated_at=before)
    assert world.connections.orders_flow().run(sweep=True).failure is None
    world.on.shop.finalize(waiting)
    world.run()
    assert world.shown(UPPER, LOWER) == [9, 8]


def test_a_question_that_failed_is_asked_again_by_the_next_count(
    embedded: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several rows are written at once: what one could not find out, the next must not take for known."""
    parts = embedded.connections
    start = parts.settings.require_start_day()
    flight = InFlight(parts.shop, parts.ledger, parts.ledger.now(), start_day=start, waiting_days=7)
    flight.recount()
    embedded.buy()

    def away(self: Any, order_ids: Sequence[str], moment: datetime) -> set[str]:
        raise LedgerUnavailable("the ledger is away")

    with monkeypatch.context() as patch:
        patch.setattr(type(parts.ledger), "sent_before", away)
        with pytest.raises(LedgerUnavailable):
            flight.recount()
    flight.recount()
    assert [flight.held(sku, ("01",)) for sku in (UPPER, LOWER)] == [1, 2]


def test_sent_by_a_process_whose_clock_is_a_little_behind_it_is_still_in_flight(embedded: World) -> None:
    """The ledger's clock is carried on between two looks: an order that was sent after T may bear a time before it."""
    embedded.put(UPPER, LOWER, QATU=10)
    embedded.run()
    ledger = embedded.connections.ledger

    class Reading:
        def all(self) -> Iterator[SkuBalance]:
            """The row is read, then an order is placed and entered; the sender calls that a moment before T."""
            order = embedded.buy()
            entry = due(str(order.order_id), ledger.now())
            ledger.add(found(entry))
            ledger.change([step(entry, "sent", state=LedgerState.SENT, sent_at=at, next_at=None, erp_number="1")])
            yield SkuBalance(UPPER, {"01": Decimal(10)})

    at = ledger.now() - timedelta(seconds=SLOW_SECONDS)
    assert embedded.flow(Reading()).run().failure is None
    assert embedded.shown(UPPER) == [9]


# Warehouses and buffers


def test_the_configured_warehouses_are_summed_and_others_left_alone(tmp_path: Path) -> None:
    profile = shipped_stock(warehouses='{ "01" = "main", "02" = "main" }')
    for world in play(files(tmp_path), tmp_path, 'warehouses = ["01", "02"]', profile):
        world.put(UPPER, QATU=10)
        world.put(UPPER, warehouse="02", QATU=5)
        world.put(LOWER, warehouse="02", QATU=4)
        world.put(THIRD, warehouse="09", QATU=3)
        world.put(UPPER, warehouse="09", QATU=1_000)
        before = world.shown(THIRD)
        result = world.run()
        assert world.shown(UPPER, LOWER) == [15, 4]
        assert (world.shown(THIRD), result.skus) == (before, 2)


def test_a_shortage_in_one_warehouse_is_taken_from_the_other(tmp_path: Path) -> None:
    profile = shipped_stock(warehouses='{ "01" = "main", "02" = "main" }')
    for world in play(files(tmp_path), tmp_path, 'warehouses = ["01", "02"]', profile):
        world.put(UPPER, QATU=10)
        world.put(UPPER, warehouse="02", QATU=-4)
        world.put(LOWER, QATU=1.5)
        world.put(LOWER, warehouse="02", QATU=1.5)
        world.put(THIRD, QATU=-3)
        world.run()
        assert world.shown(UPPER, LOWER, THIRD) == [6, 3, 0]


def test_two_stocks_of_the_shop_each_from_its_own_warehouses(fresh_database: FreshDatabase, tmp_path: Path) -> None:
    urls = [fresh_database(), fresh_database()]
    for world in play(urls, tmp_path, 'warehouses = ["01", "02", "03"]', PLACES):
        with world.shop.begin() as connection:
            text = "CREATE TABLE stocks (sku VARCHAR(64) NOT NULL, place VARCHAR(20) NOT NULL, quantity INT NOT NULL)"
            connection.execute(sa.text(text))
            for sku, place in ((THIRD, "loja"), (THIRD, "galpao"), (UPPER, "loja")):
                connection.execute(sa.text(f"INSERT INTO stocks VALUES ('{sku}', '{place}', 1)"))
        for warehouse, units in (("01", 7), ("02", 20), ("03", 30)):
            world.put(THIRD, warehouse=warehouse, QATU=units)
        world.put(UPPER, warehouse="02", QATU=5)
        result = world.run()
        with world.shop.connect() as connection:
            rows = connection.execute(sa.text("SELECT sku, place, quantity FROM stocks ORDER BY sku, place")).all()
        assert [tuple(row) for row in rows] == [(UPPER, "loja", 1), (THIRD, "galpao", 50), (THIRD, "loja", 7)]
        assert (result.found, result.unknown, result.examples["unknown"]) == (2, 1, [UPPER])


def test_a_warehouse_that_the_profile_does_not_name_is_refused(tmp_path: Path) -> None:
    for world in play(files(tmp_path), tmp_path, 'warehouses = ["01", "77"]', shipped_stock()):
        with pytest.raises(Misconfigured, match=r"stock\.warehouses names '77'"):
            world.connections.stock_flow()


def test_buffers(tmp_path: Path) -> None:
    setting = f'buffer = 3\nsku_buffers = {{ "{LOWER}" = 0, "{THIRD}" = 50 }}\n'
    setting += 'warehouses = ["01", "02"]\nwarehouse_buffers = { "02" = 2 }'
    profile = shipped_stock(warehouses='{ "01" = "main", "02" = "main" }')
    for world in play(files(tmp_path), tmp_path, setting, profile):
        world.put(UPPER, LOWER, THIRD, QATU=10)
        world.put(UPPER, warehouse="02", QATU=5)
        world.run()
        assert world.shown(UPPER, LOWER, THIRD) == [10, 10, 0]


def test_no_more_is_kept_in_a_warehouse_than_it_has(tmp_path: Path) -> None:
    setting = 'warehouses = ["01", "02"]\nwarehouse_buffers = { "02" = 5 }'
    profile = shipped_stock(warehouses='{ "01" = "main", "02" = "main" }')
    for world in play(files(tmp_path), tmp_path, setting, profile):
        world.put(UPPER, LOWER, THIRD, QATU=10)
        world.put(UPPER, warehouse="02", QATU=1.5)
        world.put(LOWER, warehouse="02", QATU=7)
        world.put(THIRD, warehouse="02", QATU=-2)
        world.run()
        assert world.shown(UPPER, LOWER, THIRD) == [10, 12, 8]


# Which products


def test_unknown_and_ambiguous_products_are_reported_and_untouched(world: World) -> None:
    with world.shop.begin() as connection:
        row = connection.execute(sa.select(products).where(products.c.sku == THIRD)).one()
        connection.execute(products.insert(), {**row._mapping, "id": 90_000, "stock": 77})
    before = world.stock()
    world.put("NAO-EXISTE", THIRD, QATU=5)
    result = world.run()
    assert (result.unknown, result.ambiguous, result.found, result.written) == (1, 1, 0, 0)
    assert (result.examples["unknown"], result.examples["ambiguous"]) == (["NAO-EXISTE"], [THIRD])
    assert world.stock() == before


def test_a_product_that_the_erp_does_not_have_is_untouched(world: World) -> None:
    world.put(UPPER, QATU=5)
    before = world.stock()
    world.run()
    assert world.stock() == {**before, UPPER: 5}
    world.on.erp.admin("DELETE", f"/stock/01/{UPPER}")
    assert world.run().skus == 0
    assert world.shown(UPPER) == [5]


def test_skus_that_differ_by_case_quotes_and_blanks_keep_apart(world: World) -> None:
    odd = ["O'NEILL", 'DUPLA"ASPAS', "COM ESPACO", "PONTO;VIRG", "100%_X", "BARRA\\N", ":sku", "É-01", "E-01", "%s"]
    with world.shop.begin() as connection:
        for place, sku in enumerate(odd):
            connection.execute(products.insert(), {"id": 91_000 + place, "sku": sku, "name": sku, "price": Decimal(1)})
    for place, sku in enumerate(odd):
        world.put(sku, QATU=10 + place)
    world.put(UPPER, QATU=1)
    world.put(LOWER, QATU=2)
    result = world.paged(3).run()
    assert result.failure is None
    assert world.shown(*odd) == [10 + place for place in range(len(odd))]
    assert world.shown(UPPER, LOWER) == [1, 2]
    assert (result.written, result.failed, result.unknown) == (12, 0, 0)


@pytest.mark.parametrize("size", [3, 7, 50, 5_000])
def test_pages_of_every_size_give_the_same(embedded: World, size: int) -> None:
    for place, sku in enumerate(sorted(embedded.stock())):
        embedded.put(sku, QATU=place)
        embedded.put(sku, warehouse="02", QATU=1_000)
    erp = ErpStock(embedded.connections.client, embedded.connections.settings, page_size=size)
    read = [(balance.sku, balance.balances) for balance in erp.all()]
    assert len(read) == 200
    assert dict(read) == {sku: {"01": place} for place, sku in enumerate(sorted(embedded.stock()))}


# The guard


def test_a_catalogue_that_is_suddenly_empty_stops_until_a_person_accepts_it(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["erp-sync", "run", "stock", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out + said.err

    skus = sorted(world.stock())
    world.put(*skus, QATU=0)
    before = world.stock()
    result = world.run()
    assert (result.written, result.different, result.found) == (0, 200, 200)
    assert "200 of 200 stocks would change (100%)" in result.guard
    code, said = command()
    assert code == 1
    assert "--accept" in said
    code, said = command("--dry-run")
    assert code == 1
    assert "-> 0" in said
    assert world.stock() == before
    assert command("--accept")[0] == 0
    assert set(world.stock().values()) == {0}


def test_the_guard_lets_a_usual_share_pass_and_few_changes_whatever_their_share(embedded: World) -> None:
    skus = sorted(embedded.stock())
    embedded.put(*skus[:19], QATU=1)
    result = embedded.run()
    assert (result.guard, result.written) == ("", 19)
    embedded.put(*skus[:20], QATU=2)
    result = embedded.run()
    assert (result.written, "20 of 20" in result.guard) == (0, True)
    for sku, quantity in embedded.stock().items():
        embedded.put(sku, QATU=quantity)
    embedded.put(*skus[:60], QATU=3)
    result = embedded.run()
    assert (result.guard, result.written) == ("", 60)
    embedded.put(*skus[:61], QATU=4)
    result = embedded.run()
    assert (result.written, "61 of 200" in result.guard) == (0, True)


def test_a_dry_run_shows_the_largest_changes_and_writes_nothing(world: World) -> None:
    before = world.stock()
    world.put(UPPER, QATU=before[UPPER] - 1)
    world.put(LOWER, QATU=0)
    result = world.run(dry_run=True)
    assert world.stock() == before
    assert (result.different, result.written) == (2, 0)
    assert [(change.sku, change.before, change.after) for change in result.changes] == [
        (LOWER, before[LOWER], 0),
        (UPPER, before[UPPER], before[UPPER] - 1),
    ]
    assert world.connections.ledger.mark("stock.read_at") is None


def test_when_its_time_is_over_the_rest_waits_for_the_next_pass(embedded: World) -> None:
    skus = sorted(embedded.stock())
    embedded.put(*skus, QATU=1)
    assert embedded.run(accept=True, budget=0.0).written == 0
    assert embedded.run(accept=True).written == 200


# Answers that cannot be trusted


def test_pages_that_do_not_fit_write_nothing(embedded: World) -> None:
    skus = sorted(embedded.stock())
    embedded.put(*skus, QATU=1)
    before = embedded.stock()
    embedded.on.erp.set_faults(Fault(kind="rows_repeated", endpoint="read", matching="B2_COD>="))
    result = embedded.paged(50).run(accept=True)
    assert isinstance(result.failure, ErpUnavailable), result
    assert embedded.stock() == before
    embedded.on.erp.set_faults()
    assert embedded.paged(50).run(accept=True).written == 200


def test_a_server_that_only_knows_its_first_page_harms_nothing(embedded: World) -> None:
    """Each page is asked for by the product that the last one ended with, and is a first one."""
    skus = sorted(embedded.stock())
    embedded.put(*skus, QATU=1)
    embedded.on.erp.set_faults(Fault(kind="first_page_again", endpoint="read"))
    assert embedded.paged(50).run(accept=True).written == 200


@pytest.mark.parametrize("rows", [[0, 1, 2], [3, 4, 5], [1, 3, 4], [2, 2, 3], []])
def test_a_page_that_does_not_go_on_from_the_last_one_is_refused(embedded: World, rows: Sequence[int]) -> None:
    """The first one ended with row 2: only one that begins with it again is the next."""
    real = ErpStock(embedded.connections.client, embedded.connections.settings, page_size=3)

    def row(place: int) -> dict[str, str]:
        figures = dict.fromkeys(fields("standard", subtract_open_orders=True), "1")
        return {"B2_COD": f"P{place}", "B2_LOCAL": "01", "R_E_C_N_O_": str(place), **figures}

    pages = iter([([row(place) for place in (0, 1, 2)], True), ([row(place) for place in rows], True)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ErpStock, "_page", lambda self, since: next(pages))
        with pytest.raises(ErpUnavailable):
            list(real.all())


def test_rows_of_another_branch_write_nothing(embedded: World) -> None:
    embedded.put(UPPER, QATU=1)
    before = embedded.stock()
    embedded.on.erp.set_faults(Fault(kind="other_branch_rows", endpoint="read"))
    failure = embedded.connections.stock_flow().run().failure
    assert isinstance(failure, Misconfigured)
    assert "ERP_SYNC_ERP_TENANT" in str(failure)
    assert embedded.stock() == before


def test_a_figure_that_the_user_may_not_see_writes_nothing(embedded: World) -> None:
    embedded.put(UPPER, QATU=1)
    before = embedded.stock()
    embedded.on.erp.switch(protected_fields=["B2_RESERVA"])
    failure = embedded.connections.stock_flow().run().failure
    assert isinstance(failure, Misconfigured)
    assert "B2_RESERVA" in str(failure)
    assert embedded.stock() == before


def test_zeros_everywhere_stop_at_the_guard(embedded: World) -> None:
    skus = sorted(embedded.stock())
    embedded.put(*skus, QATU=1)
    embedded.run(accept=True)
    embedded.on.erp.set_faults(Fault(kind="zeros", endpoint="read"))
    assert embedded.run().guard
    assert set(embedded.stock().values()) == {1}


def test_a_product_that_is_missing_for_one_read_keeps_its_stock(embedded: World) -> None:
    embedded.put(UPPER, LOWER, QATU=5)
    embedded.run()
    embedded.on.erp.set_faults(Fault(kind="rows_missing", endpoint="read", matching=UPPER))
    embedded.put(LOWER, QATU=6)
    embedded.run()
    assert embedded.shown(UPPER, LOWER) == [5, 6]


def test_an_erp_that_stops_at_a_page_writes_nothing(embedded: World) -> None:
    skus = sorted(embedded.stock())
    embedded.put(*skus, QATU=1)
    before = embedded.stock()
    embedded.on.erp.set_faults(Fault(kind="html_502", endpoint="read", matching=f"B2_COD>='{skus[120]}"[:9]))
    result = embedded.paged(50).run(accept=True)
    assert isinstance(result.failure, ErpUnavailable), result
    assert embedded.stock() == before


def test_an_erp_that_dies_within_a_read_writes_nothing(embedded: World) -> None:
    skus = sorted(embedded.stock())
    embedded.put(*skus, QATU=1)
    before = embedded.stock()
    real = ErpStock(embedded.connections.client, embedded.connections.settings, page_size=50)

    class Dying:
        def all(self) -> Iterator[SkuBalance]:
            for place, balance in enumerate(real.all()):
                if place == 40:
                    embedded.on.erp.kill()
                yield balance

    result = embedded.flow(Dying()).run(accept=True)
    assert isinstance(result.failure, ErpUnavailable), result
    assert embedded.stock() == before


# Two passes at once


class Slow:
    """Figures of a read that takes as long as the test wants."""

    def __init__(self, figures: Mapping[str, int], meanwhile: Callable[[], object] = lambda: None) -> None:
        self._figures = figures
        self._meanwhile = meanwhile

    def all(self) -> Iterator[SkuBalance]:
        yield from [SkuBalance(sku, {"01": Decimal(units)}) for sku, units in self._figures.items()]
        self._meanwhile()


def test_an_older_read_may_lower_what_a_newer_one_wrote_and_never_raise_it(world: World) -> None:
    world.set_shop(UPPER, 5)
    world.set_shop(LOWER, 5)
    newer = world.flow(Slow({UPPER: 2, LOWER: 9}))
    older = world.flow(Slow({UPPER: 8, LOWER: 7}, newer.run))
    result = older.run()
    assert result.failure is None
    assert world.shown(UPPER, LOWER) == [2, 7]
    assert (result.held_back, result.written) == (1, 1)


def test_an_older_read_that_announces_itself_after_a_newer_one_does_not_hide_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.set_shop(UPPER, 5)
    newer = world.flow(Slow({UPPER: 2}))
    older = world.flow(Slow({UPPER: 8}))
    real = Ledger.raise_mark

    def late(self: Ledger, name: str, text: str, at_most: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "raise_mark", real)
            assert newer.run().written == 1
        real(self, name, text, at_most)

    monkeypatch.setattr(Ledger, "raise_mark", late)
    result = older.run()
    assert (result.failure, result.held_back) == (None, 1)
    assert world.shown(UPPER) == [2]


def test_of_marks_raised_at_once_the_latest_stays(fresh_database: FreshDatabase) -> None:
    url = fresh_database()
    migrate(url)
    ledgers = [open_ledger(url) for _ in range(4)]
    texts = [f"{place:04d}" for place in random.Random(4).sample(range(1_000), 120)]

    def raise_some(place: int) -> None:
        for text in texts[place::4]:
            ledgers[place].raise_mark("newest", text, "9999")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(raise_some, range(4)))
    stored = ledgers[0].mark("newest")
    assert stored is not None
    assert stored[1] == max(texts)
    ledgers[0].raise_mark("newest", "0001", at_most="0500")
    lowered = ledgers[0].mark("newest")
    assert lowered is not None
    assert lowered[1] == "0001", "what lies beyond is of a clock that has jumped back"
    for ledger in ledgers:
        ledger.close()


def test_a_figure_that_is_too_old_only_lowers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.set_shop(UPPER, 5)
    world.set_shop(LOWER, 5)
    ledger = type(world.connections.ledger)
    real_now = ledger.now

    def later() -> None:
        monkeypatch.setattr(ledger, "now", lambda self: real_now(self) + timedelta(minutes=16))

    result = world.flow(Slow({UPPER: 8, LOWER: 2}, later)).run()
    assert result.failure is None
    assert world.shown(UPPER, LOWER) == [5, 2]
    assert result.held_back == 1


def test_a_clock_that_was_set_back_within_a_pass_only_lowers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five seconds pass, the ledger's clock shows one: it was set back in between, and an order sent then bears a time
    before T though the figures do not hold it."""
    world.set_shop(UPPER, 5)
    world.set_shop(LOWER, 5)
    real_now, ahead = Ledger.now, [0.0]

    def meanwhile() -> None:
        ahead[0] = 5.0
        monkeypatch.setattr(Ledger, "now", lambda self: real_now(self) + timedelta(seconds=1))

    flow = world.flow(Slow({UPPER: 8, LOWER: 2}, meanwhile), monotonic=lambda: time.monotonic() + ahead[0])
    result = flow.run()
    assert (result.failure, result.held_back) == (None, 1)
    assert world.shown(UPPER, LOWER) == [5, 2]


# Bad days of the shop's database


def test_a_row_that_somebody_holds_is_waited_for(mariadb: MariaDB, tmp_path: Path) -> None:
    for world in play([mariadb.create_database(), mariadb.create_database()], tmp_path):
        world.put(UPPER, LOWER, QATU=5)
        with world.shop.connect() as connection, ThreadPoolExecutor(1) as pool:
            held = connection.begin()
            connection.execute(products.update().where(products.c.sku == UPPER).values(stock=4))
            running = pool.submit(world.run)
            blocked = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
            give_up = time.monotonic() + 10
            while (waiting := mariadb.value(blocked)) == "0" and time.monotonic() < give_up:
                time.sleep(0.2)  # asked more often than every 0.1 s, InnoDB repeats its last answer
            assert waiting != "0"
            held.commit()
            assert running.result(20).written == 2
        assert world.shown(UPPER, LOWER) == [5, 5]


def test_a_row_that_somebody_holds_for_good_fails_alone(
    mariadb: MariaDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erp_sync.shop.connection, "LOCK_SECONDS", 1)
    for world in play([mariadb.create_database(), mariadb.create_database()], tmp_path):
        skus = sorted(world.stock())
        world.put(*skus, QATU=5)
        held_sku = skus[20]
        with world.shop.connect() as connection:
            held = connection.begin()
            connection.execute(products.update().where(products.c.sku == held_sku).values(stock=4))
            result = world.connections.stock_flow().run(accept=True)
            held.rollback()
        assert result.failure is None, result.failure
        assert result.failed >= 1
        assert result.written >= 150, "the other chunks are written"
        assert world.stock()[held_sku] != 5
        assert world.run(accept=True).failed == 0
        assert set(world.stock().values()) == {5}


def test_a_shop_database_that_dies_within_a_chunk_is_healed_by_the_next_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MariaDB() as server:
        for world in play([server.create_database(), f"sqlite:///{tmp_path / 'ledger.sqlite'}"], tmp_path):
            skus = sorted(world.stock())
            world.put(*skus, QATU=5)
            real, counts = InFlight.recount, iter(range(10_000))

            def recount(self: InFlight, real: Any = real, counts: Any = counts, server: MariaDB = server) -> None:
                if next(counts) == 50:
                    server.kill()
                real(self)

            with monkeypatch.context() as patch:
                patch.setattr(InFlight, "recount", recount)
                result = world.connections.stock_flow().run(accept=True)
            assert isinstance(result.failure, ShopUnavailable)
            server.start()
            world.shop.dispose()
            done = sum(units == 5 for units in world.stock().values())
            assert 0 < done < 200
            assert world.run(accept=True).written == 200 - done
            assert set(world.stock().values()) == {5}


def test_a_quantity_that_the_shop_refuses_fails_alone(mariadb: MariaDB, tmp_path: Path) -> None:
    for world in play([mariadb.create_database(), mariadb.create_database()], tmp_path):
        with world.shop.begin() as connection:
            connection.execute(sa.text("ALTER TABLE products ADD CONSTRAINT most CHECK (stock < 100000)"))
        world.put(UPPER, LOWER, QATU=5)
        world.put(THIRD, QATU=100_000)
        before = world.shown(THIRD)
        result = world.run()
        assert (result.written, result.failed) == (2, 1)
        assert THIRD in result.examples["failed"][0]
        assert (world.shown(UPPER, LOWER), world.shown(THIRD)) == ([5, 5], before)
