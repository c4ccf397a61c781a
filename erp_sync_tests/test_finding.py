"""Finding orders: three nets over one shop, and a ledger that decides what is new."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import pytest
import sqlalchemy as sa

from erp_sync.ledger.entry import Change, Entry, Event
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.mapping import payload_hash
from erp_sync.models import LedgerState, Order
from erp_sync.sandbox.shop import SHOP_ZONE, DemoShop, PlacedOrder, catalogue, create_schema
from erp_sync.shop.database import Shop, open_shop
from erp_sync.shop.profile import load_profile
from erp_sync.sync import finding
from erp_sync.sync.finding import Finder
from erp_sync_tests.conftest import FreshDatabase


@dataclass
class Place:
    engine: sa.Engine
    demo: DemoShop
    shop: Shop
    ledger: Ledger
    start_day: date

    def finder(self) -> Finder:
        return Finder(self.shop, self.ledger, self.start_day)

    def entry(self, order: PlacedOrder) -> Entry | None:
        return self.ledger.entries([str(order.order_id)]).get(str(order.order_id))

    def state(self, order: PlacedOrder) -> LedgerState | None:
        entry = self.entry(order)
        return entry.state if entry is not None else None

    def settle(self, order: PlacedOrder, state: LedgerState) -> None:
        entry = self.entry(order)
        assert entry is not None
        [shop_order] = self.shop.fetch([entry.order_id])
        assert isinstance(shop_order, Order)
        settled = replace(
            entry, version=entry.version + 1, state=state, next_at=None, payload_hash=payload_hash(shop_order)
        )
        assert self.ledger.change([Change(entry, settled, Event(state.value))]) == [True]


@pytest.fixture
def place(fresh_database: FreshDatabase) -> Iterator[Place]:
    shop_url, ledger_url = fresh_database(), fresh_database()
    engine = sa.create_engine(shop_url)
    create_schema(engine)
    demo = DemoShop(engine)
    demo.stock_catalogue(catalogue(50))
    migrate(ledger_url)
    shop = open_shop(shop_url, load_profile("laravel"))
    ledger = open_ledger(ledger_url)
    today = datetime.now(SHOP_ZONE).date()
    yield Place(engine, demo, shop, ledger, today - timedelta(days=7))
    shop.close()
    ledger.close()
    engine.dispose()


def test_a_finalized_order_is_found_once(place: Place) -> None:
    order = place.demo.checkout()
    finder = place.finder()
    assert finder.recent().new == 1
    assert finder.recent().count == 0
    assert place.finder().recent().count == 0
    entry = place.entry(order)
    assert entry is not None
    assert (entry.number, entry.external_id, entry.state) == (order.number, order.number, LedgerState.DUE)
    assert entry.day == place.demo.now().date()


def test_what_still_waits_is_not_found_before_it_is_paid(place: Place) -> None:
    order = place.demo.place_order()
    finder = place.finder()
    assert finder.recent().count == 0
    place.demo.finalize(order)
    assert finder.recent().new == 1


def test_an_order_committed_late_with_an_old_date_is_found(place: Place) -> None:
    """A cursor on updated_at loses these: the minutes' net takes what is fresh, the day's net the rest."""
    with place.demo.late_commit(120) as order:
        pass
    assert place.finder().recent().new == 1
    with place.demo.late_commit(3600) as older:
        pass
    assert place.finder().recent().count == 0
    assert place.finder().day().new == 1
    assert place.state(order) is place.state(older) is LedgerState.DUE


def test_the_days_net_is_cast_by_one_process_of_all(place: Place) -> None:
    assert place.finder().day().seen == 0
    with place.demo.late_commit(3600):
        pass
    assert place.finder().day().seen == 0


def test_the_sweep_finds_what_no_date_tells_and_goes_on_where_it_was_cut_off(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "CHUNK", 3)
    orders = place.demo.checkout_many(10)
    for order in orders:
        place.demo.change_order(order, touch=False, updated_at=place.demo.now() - timedelta(days=3))
    chunks = iter([False, True])
    finder = place.finder()
    assert finder.recent().count == finder.day().count == 0
    assert finder.sweep(stop=lambda: next(chunks)).new == 3
    assert finder.swept_at() is None
    assert place.finder().sweep().new == 7
    assert finder.swept_at() is not None
    assert place.finder().sweep().count == 0


@pytest.mark.parametrize("kind", ["no_ordered_at", "ordered_in_2099", "number_twice"])
def test_a_row_that_cannot_have_a_day_or_an_id_is_invalid_and_stops_nobody(place: Place, kind: str) -> None:
    bad = place.demo.place_bad_order(kind)
    good = place.demo.checkout()
    finder = place.finder()
    finder.recent()
    finder.sweep()
    assert place.state(bad) is LedgerState.INVALID
    assert place.state(good) is LedgerState.DUE
    entry = place.entry(bad)
    assert entry is not None
    assert entry.problems[0].field == ("number" if kind == "number_twice" else "ordered_at")
    assert place.ledger.actionable_days() == [place.demo.now().date()]


def test_a_date_that_is_corrected_makes_the_order_due_on_its_day(place: Place) -> None:
    bad = place.demo.place_bad_order("no_ordered_at")
    finder = place.finder()
    finder.recent()
    place.demo.change_order(bad, touch=False, placed_at=place.demo.now())
    assert place.finder().sweep().again == 1
    entry = place.entry(bad)
    assert entry is not None
    assert (entry.state, entry.day, entry.problems) == (LedgerState.DUE, place.demo.now().date(), ())


def test_a_number_is_free_again_only_when_the_other_order_gave_it_up(place: Place) -> None:
    bad = place.demo.place_bad_order("number_twice")
    place.finder().sweep()
    place.finder().sweep()
    assert place.state(bad) is LedgerState.INVALID
    place.demo.change_order(bad, number="LJ-OUTRO")
    assert place.finder().sweep().again == 1
    entry = place.entry(bad)
    assert entry is not None
    assert (entry.number, entry.external_id, entry.state) == ("LJ-OUTRO", "LJ-OUTRO", LedgerState.DUE)


@pytest.mark.parametrize("state", [LedgerState.REFUSED, LedgerState.INVALID])
def test_a_corrected_row_is_due_again_even_if_nothing_but_a_line_changed(place: Place, state: LedgerState) -> None:
    order = place.demo.checkout()
    place.finder().recent()
    place.settle(order, state)
    assert place.finder().sweep().again == 0
    place.demo.change_lines(order, sku="CORRIGIDO")
    assert place.finder().sweep().again == 1
    assert place.state(order) is LedgerState.DUE


def test_what_was_sent_stays_sent_whatever_the_shop_does(place: Place) -> None:
    order = place.demo.checkout()
    place.finder().recent()
    place.settle(order, LedgerState.SENT)
    place.demo.change_lines(order, sku="OUTRO")
    place.demo.change_order(order, status="shipped")
    assert place.finder().recent().count == place.finder().sweep().count == 0
    assert place.state(order) is LedgerState.SENT


def test_cancelled_before_it_was_sent_and_paid_again_after_all(place: Place) -> None:
    order = place.demo.checkout()
    finder = place.finder()
    finder.recent()
    place.settle(order, LedgerState.CANCELLED)
    place.demo.change_order(order, status="packing")
    assert place.finder().recent().again == 1
    assert place.state(order) is LedgerState.DUE


def placed_before(place: Place, days: int, status: str) -> PlacedOrder:
    """Before the day of going live, and not touched since."""
    order = place.demo.place_order(status)
    old = datetime.combine(place.start_day, datetime.min.time()) - timedelta(days=days)
    place.demo.change_order(order, touch=False, placed_at=old, updated_at=old)
    return order


def test_what_was_ready_before_the_start_is_left_alone_and_what_waited_is_sent_once_paid(place: Place) -> None:
    ready = placed_before(place, 3, "paid")
    waiting = placed_before(place, 3, "pending")
    older_than_the_partitions = placed_before(place, 70, "pending")
    assert place.finder().sweep().count == 0
    place.demo.change_order(ready, status="shipped")
    place.demo.finalize(waiting)
    place.demo.finalize(older_than_the_partitions)
    finder = place.finder()
    finder.recent()
    finder.sweep()
    assert place.state(ready) is None
    assert place.state(waiting) is LedgerState.DUE
    assert place.state(older_than_the_partitions) is LedgerState.INVALID


def test_ready_at_the_first_sweep_and_changed_since_the_start_is_for_a_person_to_decide(place: Place) -> None:
    order = placed_before(place, 3, "paid")
    place.demo.change_order(order)
    place.finder().sweep()
    assert place.state(order) is LedgerState.INVALID
    entry = place.entry(order)
    assert entry is not None
    assert f"retry {order.number}" in entry.problems[0].advice
    place.finder().sweep()
    assert place.state(order) is LedgerState.INVALID


def test_the_first_sweep_before_the_start_is_not_the_last_word(place: Place) -> None:
    """Installed ahead of going live: what is placed and still waits on the day itself is remembered."""
    place.start_day = datetime.now(SHOP_ZONE).date() + timedelta(days=2)
    place.finder().sweep()
    order = placed_before(place, 1, "pending")
    place.finder().sweep()
    assert str(order.order_id) in place.ledger.early([str(order.order_id)])


def test_the_clocks_are_utc_and_the_day_is_the_shops(place: Place) -> None:
    order = place.demo.checkout()
    midnight_in_the_shop = datetime.now(SHOP_ZONE).replace(hour=0, minute=0, second=5, microsecond=0)
    place.demo.change_order(order, placed_at=midnight_in_the_shop.replace(tzinfo=None))
    place.finder().recent()
    entry = place.entry(order)
    assert entry is not None
    assert entry.day == midnight_in_the_shop.date()
    assert entry.found_at.tzinfo is UTC
