"""What happens in the ERP comes back, and cancellations go both ways: the real client against the sandbox over HTTP, on
SQLite and MariaDB."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any

import pytest
import sqlalchemy as sa

from erp_sync.demo import Stage, environment, stage
from erp_sync.erp.statuses import ErpStatuses
from erp_sync.errors import BreakerOpen, ErpUnavailable, Misconfigured
from erp_sync.ledger.status_entry import StatusEntry
from erp_sync.models import Cancellation, LedgerState, OrderStatus
from erp_sync.sandbox.config import Fault
from erp_sync.sandbox.shop import PlacedOrder
from erp_sync.sandbox.shop_schema import orders
from erp_sync.settings import load_settings
from erp_sync.sync import asking
from erp_sync.sync.asking import SECOND_LOOK
from erp_sync.sync.connections import Connections, open_connections
from erp_sync.sync.results import StatusesResult
from erp_sync.sync.statuses import DUE, StatusWindow
from erp_sync_tests.conftest import FreshDatabase

CONFIG = """\
[erp]
settle_seconds = 0.5
connect_timeout = 2
read_timeout = 2
write_timeout = 2
max_parallel_writes = 4
[orders]
start_day = {start_day}
carriers = {{ sedex = "000001", pac = "000002", transportadora = "000003" }}
[statuses]
delivered_from = "f2_dtentr"
{statuses}
"""
MAP = {
    "released": "packing",
    "blocked_credit": "on_hold",
    "partially_invoiced": "partly_invoiced",
    "invoiced_short": "invoiced",
    "invoiced": "invoiced",
    "delivered": "delivered",
    "cancelled": "cancelled",
    "deleted": "cancelled",
}


@dataclass
class Life:
    on: Stage
    connections: Connections
    shop: sa.Engine

    def sent(self, count: int = 1) -> list[PlacedOrder]:
        """Orders that are in the ERP, each asked for once."""
        placed = self.on.shop.checkout_many(count)
        flow = self.connections.orders_flow()
        sent, give_up = 0, time.monotonic() + 30
        while sent < count and time.monotonic() < give_up:
            result = flow.run(sweep=False)
            sent += result.sent + result.adopted  # where an answer came too late
        assert sent == count
        self.run()
        return placed

    def one(self) -> PlacedOrder:
        return self.sent()[0]

    def run(self, window: StatusWindow = DUE, **how: Any) -> StatusesResult:
        result = self.connections.statuses_flow().run(window, **how)
        assert result.failure is None, result.failure
        return result

    def entry(self, order: PlacedOrder) -> StatusEntry:
        return self.connections.ledger.statuses([str(order.order_id)])[str(order.order_id)]

    def path(self, order: PlacedOrder) -> str:
        entry = self.entry(order)
        return f"/orders/{entry.erp_branch}/{entry.erp_number}"

    def erp(self, order: PlacedOrder, action: str, payload: object = None) -> Any:
        """A user of the ERP does something: `POST release`, `DELETE`."""
        method, _, what = action.partition(" ")
        return self.on.erp.admin(method, self.path(order) + (f"/{what}" if what else ""), payload or {})

    def row(self, order: PlacedOrder) -> Any:
        with self.shop.connect() as connection:
            return connection.execute(sa.select(orders).where(orders.c.id == order.order_id)).one()

    def shows(self, order: PlacedOrder) -> str:
        return str(self.row(order).status)

    def kinds(self, order: PlacedOrder) -> list[str]:
        return [event.kind for _, event, _ in self.connections.ledger.status_story(str(order.order_id))]

    def texts(self, order: PlacedOrder) -> str:
        return "\n".join(event.text for _, event, _ in self.connections.ledger.status_story(str(order.order_id)))

    def problem(self, order: PlacedOrder) -> str:
        return "; ".join(map(str, self.entry(order).problems))

    def cancels(self, order: PlacedOrder) -> int:
        """Cancel calls that reached the ERP."""
        arrivals = self.on.erp.arrivals()
        return sum(line["endpoint"] == "cancel_order" and line["external_id"] == order.number for line in arrivals)

    def until_settled(self, order: PlacedOrder, seconds: float = 15) -> StatusEntry:
        """Passes until its cancellation is at rest."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            self.connections.statuses_flow().run()
            entry = self.entry(order)
            if entry.cancel_at is None:
                return entry
            time.sleep(0.1)
        raise AssertionError(f"not settled: {self.entry(order)}")


def play(urls: Sequence[str], folder: Any, statuses: str = "") -> Iterator[Life]:
    profile = folder / "shop.toml"
    shipped = resources.files("erp_sync.shop").joinpath("profiles", "laravel.toml").read_text(encoding="utf-8")
    head, _, rest = shipped.partition("[status.map]")
    tail = rest[rest.index("[stock]") :]
    profile.write_text(head + "[status.map]\n" + "".join(f'{k} = "{v}"\n' for k, v in MAP.items()) + tail)
    config = CONFIG.format(start_day=(datetime.now(UTC) - timedelta(days=7)).date(), statuses=statuses)
    setting = stage(shop_url=urls[0], ledger_url=urls[1], latency_ms=0, config=config)
    with setting as on, environment({**on.environment, "ERP_SYNC_SHOP_PROFILE": str(profile)}):
        connections = open_connections(load_settings())
        shop = sa.create_engine(on.environment["ERP_SYNC_SHOP_URL"])
        yield Life(on, connections, shop)
        shop.dispose()
        connections.close()


@pytest.fixture(autouse=True)
def minutes_between_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What two looks must lie apart has passed from one to the next."""
    monkeypatch.setattr(asking, "SECOND_LOOK", timedelta())


@pytest.fixture
def life(fresh_database: FreshDatabase, tmp_path: Any) -> Iterator[Life]:
    yield from play([fresh_database(), fresh_database()], tmp_path)


@pytest.fixture
def embedded(tmp_path: Any) -> Iterator[Life]:
    """SQLite alone: what depends on no database."""
    yield from play([f"sqlite:///{tmp_path / name}.sqlite" for name in ("shop", "ledger")], tmp_path)


# The way of an order


def test_an_order_lives_and_the_shop_follows_each_step(life: Life) -> None:
    order = life.one()
    assert (life.entry(order).status, life.shows(order)) == (OrderStatus.OPEN, "paid")
    life.erp(order, "POST release", {"credit": "01"})
    life.run()
    assert (life.entry(order).status, life.shows(order)) == (OrderStatus.BLOCKED_CREDIT, "on_hold")
    life.on.erp.admin("PATCH", life.path(order) + "/releases", {"credit": ""})
    life.run()
    assert (life.entry(order).status, life.shows(order)) == (OrderStatus.RELEASED, "packing")


def test_every_status_of_the_map_reaches_the_shop_with_its_details(life: Life) -> None:
    order = life.one()
    life.erp(order, "POST release")
    assert life.run().told == 1
    assert (life.shows(order), life.row(order).erp_number) == ("packing", life.entry(order).erp_number)
    invoice = life.erp(order, "POST invoice", {"key": False})
    life.run()
    row = life.row(order)
    assert (row.status, row.invoice_number, row.invoice_series) == ("invoiced", invoice["doc"], invoice["serie"])
    assert row.invoice_key is None
    assert row.invoiced_at.date() == datetime.now(UTC).astimezone(life.connections.shop.business_timezone).date()
    branch = life.entry(order).erp_branch
    life.on.erp.admin("POST", f"/invoices/{branch}/1/{invoice['doc']}/key", {})
    life.run()
    assert len(life.row(order).invoice_key) == 44, "authorised later: the status is the same, the key is new"
    life.on.erp.admin("POST", f"/invoices/{branch}/1/{invoice['doc']}/deliver", {"on": "20261130", "in": ["f2_dtentr"]})
    life.run()
    assert (life.shows(order), life.row(order).delivered_at) == ("delivered", datetime.fromisoformat("2026-11-30"))
    assert life.kinds(order) == ["status", "status", "told", "status", "told", "status", "told", "status", "told"]


def test_part_invoices_and_a_short_end(life: Life) -> None:
    order = life.on.shop.place_odd_order("two_lines_one_sku")
    assert life.connections.orders_flow().run().sent == 1
    life.run()
    first = life.erp(order, "POST invoice", {"items": {"01": 1}})
    life.run()
    assert (life.shows(order), life.row(order).invoice_number) == ("partly_invoiced", first["doc"])
    life.erp(order, "POST residue")
    life.run()
    assert (life.entry(order).status, life.shows(order)) == (OrderStatus.INVOICED_SHORT, "invoiced")


def test_several_invoices_the_last_one_is_shown_and_all_are_remembered(life: Life) -> None:
    order = life.on.shop.place_odd_order("two_lines_one_sku")
    life.connections.orders_flow().run()
    life.run()
    life.erp(order, "POST invoice", {"items": {"01": 1}})
    last = life.erp(order, "POST invoice")
    life.run()
    assert life.row(order).invoice_number == last["doc"]
    assert len(life.entry(order).invoices) == 2
    assert life.shows(order) == "invoiced"


def test_a_cancelled_invoice_is_reported_and_the_shop_never_goes_back(life: Life) -> None:
    order = life.one()
    invoice = life.erp(order, "POST invoice")
    life.run()
    assert life.shows(order) == "invoiced"
    branch = life.entry(order).erp_branch
    life.on.erp.admin("DELETE", f"/invoices/{branch}/1/{invoice['doc']}")
    life.run()
    assert life.entry(order).status is OrderStatus.RELEASED
    assert f"invoice {invoice['doc']}/1 was cancelled" in life.texts(order)
    assert life.shows(order) == "invoiced"
    assert "never goes back" in life.problem(order)
    again = life.erp(order, "POST invoice")
    life.run()
    assert (life.row(order).invoice_number, life.problem(order)) == (again["doc"], "")


def test_nothing_new_costs_no_write_and_few_requests(life: Life) -> None:
    placed = life.sent(120)
    before = life.on.erp.admin("GET", "/state")["requests"]["read"]
    stories = [life.kinds(order) for order in placed]
    result = life.run()
    assert (result.asked, result.changed, result.told) == (120, 0, 0)
    assert life.on.erp.admin("GET", "/state")["requests"]["read"] - before == 4
    assert [life.kinds(order) for order in placed] == stories


def test_a_deleted_order_counts_at_the_second_look(life: Life) -> None:
    order = life.one()
    life.erp(order, "DELETE")
    life.run()
    assert (life.entry(order).status, life.shows(order)) == (OrderStatus.OPEN, "paid")
    life.run()
    assert (life.entry(order).status, life.shows(order)) == (OrderStatus.DELETED, "cancelled")
    life.erp(order, "POST restore")
    life.run(StatusWindow(numbers=[order.number]))
    assert life.entry(order).status is OrderStatus.OPEN
    assert life.shows(order) == "cancelled"
    assert "never goes back" in life.problem(order)
    assert "somebody restored it" in life.problem(order)
    life.run()
    assert (life.cancels(order), life.entry(order).status) == (0, OrderStatus.OPEN), "we told the shop, not it us"


def test_two_looks_of_one_moment_are_one(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    order = life.one()
    life.erp(order, "DELETE")
    with monkeypatch.context() as real:
        real.setattr(asking, "SECOND_LOOK", SECOND_LOOK)
        for _ in range(3):
            life.run()
    assert (life.entry(order).status, life.kinds(order).count("missing")) == (OrderStatus.OPEN, 1)
    life.run()
    assert (life.entry(order).status, life.shows(order)) == (OrderStatus.DELETED, "cancelled")


def test_what_was_cancelled_and_is_restored_by_somebody_is_not_cancelled_again(life: Life) -> None:
    order = life.one()
    life.on.shop.cancel(order)
    life.run()
    life.erp(order, "POST restore")
    for _ in range(3):
        life.run(StatusWindow(numbers=[order.number]))
    assert (life.cancels(order), life.entry(order).cancellation) == (1, Cancellation.RESTORED)
    assert "somebody restored it" in life.problem(order)
    life.erp(order, "DELETE")
    for _ in range(2):
        life.run(StatusWindow(numbers=[order.number]))
    assert (life.entry(order).cancellation, life.problem(order)) == (Cancellation.CANCELLED, "")


def test_a_row_that_vanished_once_and_is_back_changes_nothing(life: Life) -> None:
    order = life.one()
    number = life.entry(order).erp_number
    life.on.erp.set_faults(Fault(kind="rows_missing", endpoint="read", matching=number, times=1))
    life.run()
    assert life.entry(order).missing_since is not None
    life.run()
    assert (life.entry(order).status, life.entry(order).missing_since) == (OrderStatus.OPEN, None)
    assert life.shows(order) == "paid"
    assert "the ERP shows it again" in life.texts(order)


def test_invoices_that_did_not_show_once_cancel_no_order(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    order = life.on.shop.place_odd_order("two_lines_one_sku")
    assert life.connections.orders_flow().run().sent == 1
    life.run()
    life.on.erp.switch(residue_keeps_invoice=False)
    life.erp(order, "POST invoice", {"items": {"01": 1}})
    life.erp(order, "POST residue")
    life.run()
    assert (life.entry(order).status, life.shows(order)) == (OrderStatus.INVOICED_SHORT, "invoiced")
    read, number = ErpStatuses.invoices, life.entry(order).erp_number

    def unseen(self: ErpStatuses, numbers: Sequence[str]) -> Any:
        # The header was read already: the next read, of SD2, is the one that leaves rows out.
        life.on.erp.set_faults(Fault(kind="rows_missing", endpoint="read", matching=number, times=1))
        return read(self, numbers)

    with monkeypatch.context() as patch:
        patch.setattr(ErpStatuses, "invoices", unseen)
        patch.setattr(asking, "SECOND_LOOK", SECOND_LOOK)
        for _ in range(3):
            life.run()
    assert life.entry(order).missing_since is not None
    assert (life.entry(order).status, life.shows(order)) == (OrderStatus.INVOICED_SHORT, "invoiced")
    life.run()
    assert (life.entry(order).status, life.entry(order).missing_since) == (OrderStatus.INVOICED_SHORT, None)
    assert life.shows(order) == "invoiced"
    assert OrderStatus.CANCELLED not in [
        status for _, _, status in life.connections.ledger.status_story(str(order.order_id))
    ]
    assert life.problem(order) == ""


def test_an_order_without_a_trace_is_a_persons_business(embedded: Life) -> None:
    order = embedded.one()
    number = embedded.entry(order).erp_number
    embedded.on.erp.set_faults(Fault(kind="rows_missing", endpoint="read", matching=number))
    embedded.run()
    embedded.run()
    assert embedded.entry(order).status is OrderStatus.NOT_FOUND
    assert embedded.shows(order) == "paid"
    assert "ask who removed it" in embedded.problem(order)


def test_an_erp_that_shows_none_of_its_orders_is_not_believed(embedded: Life) -> None:
    placed = embedded.sent(12)
    # The service is prepared for another branch, and ignores the tenant: not a row of ours, and nothing that says so.
    embedded.on.erp.switch(fixed_branch="0102")
    embedded.run()
    failure = embedded.connections.statuses_flow().run().failure
    assert isinstance(failure, ErpUnavailable)
    assert "nothing is changed" in str(failure)
    statuses = {embedded.entry(order).status for order in placed}
    assert statuses == {OrderStatus.OPEN}
    assert {embedded.shows(order) for order in placed} == {"paid"}


def test_an_unknown_block_code_blocks_and_is_told(embedded: Life) -> None:
    order = embedded.one()
    embedded.on.erp.admin("PATCH", embedded.path(order), {"rule": "7"})
    embedded.run()
    assert embedded.entry(order).status is OrderStatus.BLOCKED_RULE
    assert "C5_BLQ = '7' is unknown" in embedded.texts(order)


def test_a_key_that_is_none_is_not_shown(embedded: Life) -> None:
    order = embedded.one()
    embedded.erp(order, "POST invoice", {"key": "35261111222333000181550010000123451123456789"})
    embedded.run()
    assert (embedded.shows(order), embedded.row(order).invoice_key) == ("invoiced", None)
    assert "wrong check digit" in embedded.problem(order)


# The shop's side


def test_what_somebody_set_in_the_shop_is_reported_and_kept(life: Life) -> None:
    order = life.one()
    life.on.shop.change_order(order, status="in_dispute")
    life.erp(order, "POST release")
    result = life.run()
    assert (life.shows(order), result.kept) == ("in_dispute", 1)
    assert "somebody set it" in life.problem(order)
    assert life.kinds(order).count("kept") == 1
    life.erp(order, "POST invoice")
    life.on.shop.change_order(order, status="paid")
    life.run()
    assert (life.shows(order), life.problem(order)) == ("invoiced", "")


def test_a_shop_that_is_ahead_keeps_its_status_and_gets_the_number(life: Life) -> None:
    order = life.one()
    life.on.shop.change_order(order, status="shipped")
    life.erp(order, "POST release")
    life.run()
    row = life.row(order)
    assert (row.status, row.erp_number, life.problem(order)) == ("shipped", life.entry(order).erp_number, "")


def test_two_rows_of_one_number_are_refused_and_a_deleted_row_is_reported(life: Life) -> None:
    twin, gone = life.sent(2)
    other = life.on.shop.place_order()
    life.on.shop.change_order(other, number=twin.number, status="pending")
    with life.shop.begin() as connection:
        connection.execute(sa.text(f"DELETE FROM order_items WHERE order_id = {gone.order_id}"))
        connection.execute(orders.delete().where(orders.c.id == gone.order_id))
    for order in (twin, gone):
        life.erp(order, "POST release")
    life.run()
    assert "several orders of the shop have the number" in life.problem(twin)
    assert life.shows(twin) == "paid"
    assert "is not in the shop any more" in life.problem(gone)


def test_written_twice_is_written_once(life: Life) -> None:
    order = life.one()
    life.erp(order, "POST release")
    life.connections.statuses_flow().ask()
    entry = life.entry(order)
    life.connections.statuses_flow().tell()
    with life.connections.ledger.database.writer.connect() as connection:
        # As if the process had died before it wrote down that the shop knows.
        text = "UPDATE erp_sync_statuses SET told_hash = '', told_status = '', write_at = :at WHERE order_id = :id"
        connection.execute(sa.text(text), {"at": entry.changed_at.replace(tzinfo=None), "id": entry.order_id})  # type: ignore[union-attr]
        connection.commit()
    life.run()
    assert (life.shows(order), life.problem(order), life.entry(order).told_status) == ("packing", "", "released")


# Bad days of the ERP


def test_while_the_erp_is_down_the_shop_is_told_nothing(life: Life) -> None:
    order, other = life.sent(2)
    life.erp(order, "POST release")
    life.connections.statuses_flow().ask()
    life.on.erp.kill()
    failures = [life.connections.statuses_flow().run().failure for _ in range(4)]
    assert all(isinstance(failure, ErpUnavailable) for failure in failures)
    assert isinstance(failures[-1], BreakerOpen)
    assert life.connections.gate.breaker_open() is not None
    assert life.shows(order) == "paid"
    life.on.erp.restart()
    give_up = time.monotonic() + 15
    while life.shows(order) != "packing" and time.monotonic() < give_up:
        life.connections.statuses_flow().run()
        time.sleep(0.3)
    assert (life.shows(order), life.shows(other)) == ("packing", "paid")


@pytest.mark.parametrize(
    ("switch", "words"),
    [
        ({}, "ERP_SYNC_ERP_TENANT"),
        ({"protected_fields": ["C6_QTDENT"]}, "C6_QTDENT"),
        ({"level_fields": ["C5_NOTA"]}, "C5_NOTA"),
    ],
)
def test_answers_that_cannot_be_trusted_change_nothing(embedded: Life, switch: dict[str, Any], words: str) -> None:
    order = embedded.one()
    embedded.erp(order, "POST release")
    if switch:
        embedded.on.erp.switch(**switch)
    else:
        embedded.on.erp.set_faults(Fault(kind="other_branch_rows", endpoint="read"))
    failure = embedded.connections.statuses_flow().run().failure
    assert isinstance(failure, Misconfigured)
    assert words in str(failure)
    assert (embedded.entry(order).status, embedded.shows(order)) == (OrderStatus.OPEN, "paid")


def test_faults_on_reads_cost_a_pass_and_no_status(embedded: Life) -> None:
    placed = embedded.sent(30)
    for order in placed:
        embedded.erp(order, "POST release")
    embedded.on.erp.set_faults(
        Fault(kind="html_502", endpoint="read", probability=0.3),
        Fault(kind="unauthorized", endpoint="read", probability=0.1),
        Fault(kind="slow", endpoint="read", probability=0.1, seconds=0.2),
        Fault(kind="cp1252", endpoint="read", probability=0.3),
    )
    give_up = time.monotonic() + 30
    while {embedded.shows(order) for order in placed} != {"packing"} and time.monotonic() < give_up:
        embedded.connections.statuses_flow().run()
    assert {embedded.shows(order) for order in placed} == {"packing"}


# Cancelled in the shop


def test_a_cancelled_order_is_cancelled_in_the_erp_once(life: Life) -> None:
    order, other = life.sent(2)
    life.on.shop.cancel(order)
    assert life.run().cancelled == 1
    entry = life.until_settled(order)
    assert (entry.cancellation, entry.status) == (Cancellation.CANCELLED, OrderStatus.CANCELLED)
    assert (life.shows(order), life.problem(order), life.cancels(order)) == ("cancelled", "", 1)
    assert life.run().cancelled == 0
    assert life.entry(other).cancellation is Cancellation.NONE
    kinds = life.kinds(order)
    assert kinds.index("cancel_wanted") < kinds.index("cancel_sent") < kinds.index("cancelled")


def test_cancelled_with_an_old_timestamp_it_is_found_when_its_order_is_asked_for(life: Life) -> None:
    order = life.one()
    life.run()
    life.on.shop.change_order(order, touch=False, status="cancelled", updated_at=datetime.fromisoformat("2026-01-01"))
    assert life.run().cancelled == 1


def test_a_released_order_is_cancelled_in_mode_auto(life: Life) -> None:
    order = life.one()
    life.erp(order, "POST release")
    life.on.shop.cancel(order)
    life.run()
    assert life.until_settled(order).status is OrderStatus.CANCELLED


def test_of_a_part_invoiced_order_the_rest_is_cancelled_and_a_person_decides(life: Life) -> None:
    order = life.on.shop.place_odd_order("two_lines_one_sku")
    life.connections.orders_flow().run()
    life.run()
    life.erp(order, "POST invoice", {"items": {"01": 1}})
    life.on.shop.cancel(order)
    life.run()
    entry = life.until_settled(order)
    assert (entry.cancellation, entry.status) == (Cancellation.RESIDUE, OrderStatus.INVOICED_SHORT)
    assert "part of it was invoiced" in life.problem(order)
    assert life.shows(order) == "cancelled"


def test_too_late_is_a_task_with_a_deadline_and_tried_again_once_the_invoice_is_gone(life: Life) -> None:
    order = life.one()
    invoice = life.erp(order, "POST invoice")
    life.on.shop.cancel(order)
    assert life.run().too_late == 1
    entry = life.entry(order)
    assert entry.cancellation is Cancellation.TOO_LATE
    deadline = (datetime.now(UTC) + timedelta(hours=24)).astimezone(life.connections.shop.business_timezone)
    assert f"{deadline:%Y-%m-%d %H}" in life.problem(order)
    at = f"/invoices/{entry.erp_branch}/1/{invoice['doc']}"
    life.on.erp.admin("POST", f"{at}/deliver", {"on": f"{datetime.now(UTC):%Y%m%d}", "at": "10:00"})
    life.run()
    assert life.entry(order).status is OrderStatus.DELIVERED
    assert life.cancels(order) == 1, "it is not asked again while it is invoiced"
    life.on.erp.admin("DELETE", at)
    life.run()  # final, and looked at all the same: somebody waits for it
    assert life.until_settled(order).status is OrderStatus.CANCELLED
    assert life.problem(order) == ""


def test_what_the_erp_refuses_to_cancel_says_why(fresh_database: FreshDatabase, tmp_path: Any) -> None:
    urls = [fresh_database(), fresh_database()]
    for life in play(urls, tmp_path, 'cancel_mode = "exclusao"'):
        order = life.one()
        life.erp(order, "POST release")
        life.on.shop.cancel(order)
        assert life.run().cancel_refused == 1
        assert life.entry(order).cancellation is Cancellation.REFUSED
        assert "A410LIBER" in life.problem(order)
        life.run()
        assert life.cancels(order) == 1
        life.erp(order, "DELETE releases")
        life.run()
        assert life.until_settled(order).cancellation is Cancellation.CANCELLED


@pytest.mark.parametrize("refusal", ["legacy_400", "legacy_500"])
def test_a_refusal_in_an_older_shape_is_understood(embedded: Life, refusal: str) -> None:
    order = embedded.one()
    embedded.erp(order, "POST invoice")
    embedded.on.erp.switch(cancel_refusal=refusal)
    embedded.on.shop.cancel(order)
    embedded.run()
    assert embedded.until_settled(order).cancellation is Cancellation.TOO_LATE


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        ("commit_then_drop", 0.0),
        ("commit_then_500", 0.0),
        ("commit_late", 2.3),
        ("success_not_written", 0.0),
        ("error_in_200", 0.0),
        ("drop_before", 0.0),
        ("html_502", 0.0),
        ("http_503_licence", 0.0),
        ("lock_then_error", 0.1),
        ("unauthorized", 0.0),
        ("slow", 2.3),
        ("cp1252", 0.0),
    ],
)
def test_each_lie_of_a_cancel_call_ends_in_one_consistent_story(life: Life, kind: Any, seconds: float) -> None:
    order = life.one()
    life.on.erp.set_faults(Fault(kind=kind, endpoint="cancel_order", times=1, seconds=seconds))
    life.on.shop.cancel(order)
    entry = life.until_settled(order)
    assert (entry.cancellation, entry.status) == (Cancellation.CANCELLED, OrderStatus.CANCELLED), life.texts(order)
    assert sum(line["kind"] == "order_cancelled" for line in life.on.erp.journal()) == 1
    assert (life.shows(order), life.problem(order)) == ("cancelled", "")


def test_without_a_cancel_route_one_line_says_which_setting(embedded: Life) -> None:
    order = embedded.one()
    embedded.on.erp.switch(no_cancel_route=True)
    embedded.on.shop.cancel(order)
    failure = embedded.connections.statuses_flow().run().failure
    assert isinstance(failure, Misconfigured)
    assert "erp.orders_path" in str(failure)
    assert embedded.entry(order).cancellation is Cancellation.WANTED
    embedded.on.erp.switch(no_cancel_route=False)
    time.sleep(5.1)
    assert embedded.until_settled(order).cancellation is Cancellation.CANCELLED


# Races


def test_cancelled_before_it_was_sent_it_is_never_sent(life: Life) -> None:
    order = life.on.shop.place_order()
    life.on.shop.finalize(order)
    life.connections.orders_flow().finder.recent()
    life.on.shop.cancel(order)
    life.connections.orders_flow().run()
    assert life.on.erp.journal() == [] or all(line["external_id"] != order.number for line in life.on.erp.journal())
    entry = life.connections.ledger.entries([str(order.order_id)])[str(order.order_id)]
    assert entry.state is LedgerState.CANCELLED


@pytest.mark.parametrize(("kind", "seconds"), [("commit_then_drop", 0.0), ("commit_late", 2.2), ("drop_before", 0.0)])
def test_cancelled_while_it_is_in_doubt(life: Life, kind: Any, seconds: float) -> None:
    life.on.erp.set_faults(Fault(kind=kind, endpoint="create_order", times=1, seconds=seconds))
    order = life.on.shop.checkout()
    life.connections.orders_flow().run()
    life.on.shop.cancel(order)
    give_up = time.monotonic() + 15
    while time.monotonic() < give_up:
        life.connections.orders_flow().run()
        life.connections.statuses_flow().run()
        entry = life.connections.ledger.entries([str(order.order_id)])[str(order.order_id)]
        live = life.connections.ledger.statuses([str(order.order_id)]).get(str(order.order_id))
        if entry.state is LedgerState.CANCELLED or (live and live.status is OrderStatus.CANCELLED):
            break
        time.sleep(0.2)
    kinds = [line["kind"] for line in life.on.erp.journal() if line["external_id"] == order.number]
    assert kinds in ([], ["order", "order_cancelled"]), kinds
    assert life.shows(order) == "cancelled"


def test_invoiced_while_it_is_being_cancelled(life: Life) -> None:
    """Between our look and our call somebody invoices: the ERP's refusal decides."""
    order = life.one()
    life.on.shop.cancel(order)
    entry = life.entry(order)
    life.connections.statuses_flow()._asker.ask([entry])
    assert life.entry(order).cancellation is Cancellation.WANTED
    life.erp(order, "POST invoice")
    life.run()
    assert life.entry(order).cancellation is Cancellation.TOO_LATE
    assert life.entry(order).status is OrderStatus.INVOICED
    assert life.shows(order) == "cancelled"


def test_cancelled_and_wanted_again_before_the_call_left(life: Life) -> None:
    order = life.one()
    life.on.shop.cancel(order)
    life.connections.statuses_flow()._asker.ask([life.entry(order)])
    life.on.shop.change_order(order, status="paid")
    life.run()
    assert life.entry(order).cancellation is Cancellation.NONE
    assert (life.cancels(order), "cancel_withdrawn" in life.kinds(order)) == (0, True)


def test_ready_again_after_it_was_cancelled_in_the_erp_is_a_persons_business(life: Life) -> None:
    order = life.one()
    life.on.shop.cancel(order)
    life.run()
    life.on.shop.change_order(order, status="paid")
    life.run(StatusWindow(numbers=[order.number]))
    assert "place it anew" in life.problem(order)
    assert sum(line["kind"] == "order" for line in life.on.erp.journal()) == 1


def test_two_passes_at_once_cancel_once(life: Life) -> None:
    from concurrent.futures import ThreadPoolExecutor

    placed = life.sent(10)
    for order in placed:
        life.on.shop.cancel(order)
    others = open_connections(load_settings())
    with ThreadPoolExecutor(2) as pool:
        passes = [pool.submit(each.statuses_flow().run) for each in (life.connections, others)]
        failures = [str(done.result().failure or "") for done in passes]
    others.close()
    # The one's calls may take all slots of the ERP; then the other leaves the rest to the next pass.
    assert all(not failure or "no free slot" in failure for failure in failures), failures
    for order in placed:
        assert life.until_settled(order).status is OrderStatus.CANCELLED
    done = [line["external_id"] for line in life.on.erp.journal() if line["kind"] == "order_cancelled"]
    assert sorted(done) == sorted(order.number for order in placed)


# How often


def test_old_orders_are_asked_rarely_and_final_ones_no_more_after_their_grace(
    fresh_database: FreshDatabase, tmp_path: Any
) -> None:
    urls = [fresh_database(), fresh_database()]
    for life in play(urls, tmp_path, "young_days = 0\ngrace_days = 0"):
        old, final = life.sent(2)
        asked_at = life.entry(old).asked_at
        assert asked_at is not None
        assert life.entry(old).next_at == asked_at + timedelta(minutes=60)
        assert life.run().asked == 0
        life.erp(final, "POST invoice")
        branch, doc = life.entry(final).erp_branch, "000000001"
        life.on.erp.admin("POST", f"/invoices/{branch}/1/{doc}/deliver", {"in": ["f2_dtentr"]})
        assert life.run(StatusWindow(everything=True)).asked == 2
        assert life.entry(final).next_at is None
        assert life.run(StatusWindow(everything=True)).asked == 1
        assert life.run(StatusWindow(numbers=[final.number])).asked == 1
