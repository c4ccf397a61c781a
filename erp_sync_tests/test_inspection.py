"""What only shop and ERP tell, on a demo shop and a sandbox ERP: found before an order fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from erp_sync.demo import Stage, environment, stage
from erp_sync.errors import ErpUnavailable
from erp_sync.models import Order, Severity
from erp_sync.sandbox.shop import PlacedOrder
from erp_sync.sandbox.shop_schema import products
from erp_sync.settings import load_settings
from erp_sync.sync.connections import Connections, open_connections
from erp_sync.sync.findings import INSPECTION_CHECKS, Finding
from erp_sync.sync.inspection import Inspection
from erp_sync_tests.live import CONFIG


@dataclass
class Here:
    on: Stage
    connections: Connections

    def find(self, name: str) -> Finding:
        return Inspection(self.connections).find(name)

    def red(self) -> set[str]:
        inspection = Inspection(self.connections)
        return {name for name in INSPECTION_CHECKS if not inspection.find(name).passed}

    def sku(self, order: PlacedOrder) -> str:
        [fetched] = self.connections.shop.fetch([str(order.order_id)])
        assert isinstance(fetched, Order)
        return fetched.lines[0].sku

    def settings(self, **orders: object) -> Here:
        """The same place with other settings of [orders]."""
        settings = self.connections.settings
        section = settings.orders.model_copy(update=orders)
        return Here(self.on, replace(self.connections, settings=settings.model_copy(update={"orders": section})))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    monkeypatch.setattr("erp_sync.sync.inspection.WARN_AFTER", timedelta(0))
    with stage(latency_ms=0, config=CONFIG) as on, environment(on.environment):
        connections = open_connections(load_settings())
        yield Here(on, connections)
        connections.close()


def test_a_shop_whose_orders_are_all_known_and_mapped_is_green(here: Here) -> None:
    here.on.shop.checkout_many(5)
    assert here.red() == {"orders_in_erp"}
    assert here.connections.orders_flow().run(sweep=True).failure is None
    assert here.red() == set()


def test_an_order_that_no_net_has_found_is_named(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    assert here.connections.orders_flow().run(sweep=True).failure is None
    order = here.on.shop.checkout()
    here.on.shop.place_order()
    found = here.find("orders_in_erp")
    assert (found.count, found.sample, found.severity) == (1, (order.number,), Severity.ERROR)
    assert found.oldest_at is not None
    monkeypatch.setattr("erp_sync.sync.inspection.WARN_AFTER", timedelta(minutes=15))
    assert here.find("orders_in_erp").passed, "the sensor needs a moment"


def test_what_was_ready_before_the_day_of_going_live_is_not_missed(here: Here) -> None:
    here.on.shop.checkout()
    tomorrow = here.connections.settings.require_start_day() + timedelta(days=100)
    assert here.settings(start_day=tomorrow).find("orders_in_erp").passed


def test_values_without_a_mapping_are_named_before_an_order_fails(here: Here) -> None:
    """Also those of orders that still wait for their payment."""
    shop = here.on.shop
    waiting = shop.place_order()
    shop.change_order(waiting, payment_method="voucher")
    found = here.find("payments_have_a_condition")
    assert (found.passed, found.severity, found.sample) == (False, Severity.ERROR, ("voucher",))
    assert here.settings(default_payment="001").find("payments_have_a_condition").passed
    shop.change_order(waiting, shipping_method="drone")
    found = here.find("carriers_have_a_code")
    assert (found.severity, found.sample) == (Severity.WARNING, ("drone",))
    assert here.settings(carriers={}).find("carriers_have_a_code").passed, "nobody wants C5_TRANSP there"
    shop.cancel(waiting)
    assert here.find("payments_have_a_condition").passed


def test_products_that_the_erp_lacks_or_blocks_are_named(here: Here) -> None:
    bad = here.on.shop.place_bad_order("unknown_sku")
    order = here.on.shop.checkout()
    sku = here.sku(order)
    here.on.erp.admin("PATCH", f"/products/{sku}", {"blocked": True})
    found = here.find("products_are_in_the_erp")
    assert found.severity is Severity.ERROR
    assert {sku} < set(found.sample)
    assert found.count == 2
    here.on.erp.admin("PATCH", f"/products/{sku}", {"blocked": False})
    here.on.shop.cancel(bad)
    assert here.find("products_are_in_the_erp").passed


def test_without_the_right_to_read_products_a_person_is_told(here: Here) -> None:
    here.on.shop.checkout()
    here.on.erp.switch(protected_fields=["B1_MSBLQL"])
    found = here.find("products_are_in_the_erp")
    assert (found.passed, found.severity) == (False, Severity.WARNING)
    assert "B1_MSBLQL" in found.text


def test_a_stock_below_zero_is_an_oversell(here: Here) -> None:
    order = here.on.shop.checkout()
    assert here.find("no_negative_stock").passed
    sku = here.sku(order)
    engine = sa.create_engine(here.on.environment["ERP_SYNC_SHOP_URL"])
    with engine.begin() as connection:
        connection.execute(sa.update(products).where(products.c.sku == sku).values(stock=-1))
    engine.dispose()
    found = here.find("no_negative_stock")
    assert (found.passed, found.severity, found.sample) == (False, Severity.ERROR, (sku,))


@pytest.mark.parametrize("field", ["C6_QTDENT", "C5_XPEDWEB", "D2_DOC", "F2_CHVNFE", "B2_RESERVA", "C9_BLCRED"])
def test_a_field_that_the_erp_leaves_out_is_named(here: Here, field: str) -> None:
    here.on.erp.switch(protected_fields=[field])
    found = here.find("erp_fields")
    assert (found.passed, found.severity) == (False, Severity.ERROR)
    assert field in found.text


def test_who_could_not_look_says_so_and_nothing_about_the_orders(here: Here) -> None:
    here.on.shop.checkout()
    assert here.find("erp_fields").passed
    here.on.erp.kill()
    with pytest.raises(ErpUnavailable):
        here.find("erp_fields")
    with pytest.raises(ErpUnavailable):
        here.find("products_are_in_the_erp")
