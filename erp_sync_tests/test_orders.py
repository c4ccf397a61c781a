"""The main job on its bad days: the real client over HTTP, SQLite and MariaDB, and an ERP that misbehaves."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from erp_sync.demo import Stage, environment, stage, verify
from erp_sync.erp.generic_query import GenericQuery
from erp_sync.errors import BreakerOpen, ErpUnavailable, Misconfigured
from erp_sync.ledger.entry import Entry
from erp_sync.models import LedgerState
from erp_sync.sandbox.config import Fault
from erp_sync.sandbox.shop import BAD_KINDS, ODD_KINDS, PlacedOrder
from erp_sync.settings import load_settings
from erp_sync.sync.connections import Connections, open_connections
from erp_sync.sync.pipeline import Window
from erp_sync.sync.results import OrdersResult
from erp_sync_tests.conftest import FreshDatabase

CONFIG = f"""\
[erp]
settle_seconds = 1
connect_timeout = 2
read_timeout = 3
write_timeout = 1
max_parallel_writes = 4
[orders]
start_day = {(datetime.now(UTC) - timedelta(days=7)).date()}
carriers = {{ sedex = "000001", pac = "000002", transportadora = "000003" }}
"""


@dataclass
class Work:
    on: Stage
    connections: Connections

    def run(self, window: Window | None = None, **how: Any) -> OrdersResult:
        return self.connections.orders_flow().run(window or Window(), **how)

    def entry(self, order: PlacedOrder) -> Entry:
        return self.connections.ledger.entries([str(order.order_id)])[str(order.order_id)]

    def run_until_settled(self, seconds: float = 30) -> OrdersResult:
        """Passes until nothing waits; the counts of all of them."""
        whole = OrdersResult()
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            result = self.run()
            for name in ("found", "sent", "adopted", "refused", "invalid", "cancelled", "incidents"):
                setattr(whole, name, getattr(whole, name) + getattr(result, name))
            ledger = self.connections.ledger
            if ledger.next_wake() is None and not ledger.actionable(1):
                return whole
            time.sleep(0.2)
        raise AssertionError(f"not settled: {self.connections.ledger.counts()}")

    def assert_exact(self, good: list[PlacedOrder], bad: list[PlacedOrder] | None = None) -> None:
        report = verify(self.on.erp.journal(), good, bad or [], self.connections)
        assert report.exact_all, report.as_json()


@pytest.fixture
def work(fresh_database: FreshDatabase) -> Iterator[Work]:
    setting = stage(shop_url=fresh_database(), ledger_url=fresh_database(), latency_ms=0, config=CONFIG)
    with setting as on, environment(on.environment):
        connections = open_connections(load_settings())
        yield Work(on, connections)
        connections.close()


def test_plain_orders_arrive_once_and_a_second_pass_does_nothing(work: Work) -> None:
    orders = work.on.shop.checkout_many(20)
    result = work.run(sweep=True)
    assert (result.found, result.sent, result.failure) == (20, 20, None)
    again = work.run(sweep=True)
    assert (again.found, again.sent, again.due, again.in_doubt) == (0, 0, 0, 0)
    work.assert_exact(orders)
    entries = [work.entry(order) for order in orders]
    assert all(entry.verified_at is not None for entry in entries)


def test_every_odd_order_is_sent_exactly_and_every_bad_one_names_its_field(work: Work) -> None:
    odd = [work.on.shop.place_odd_order(kind) for kind in ODD_KINDS]
    bad = {kind: work.on.shop.place_bad_order(kind) for kind in BAD_KINDS}
    twins = [order.twin for order in bad.values() if order.twin is not None]
    result = work.run_until_settled()
    work.assert_exact([*odd, *twins], list(bad.values()))
    assert result.sent + result.adopted == len(odd) + len(twins)
    fields = {kind: work.entry(order).problems[0].field for kind, order in bad.items()}
    assert fields["unknown_sku"].startswith("C6_PRODUTO")
    assert fields["line_without_sku"].startswith("lines.sku")
    assert fields["repeated_cpf"] == fields["no_tax_id"] == "tax_id"
    for order in bad.values():
        for problem in work.entry(order).problems:
            assert problem.advice
            assert "111.111.111-11" not in str(problem)


def test_an_order_that_cannot_be_read_in_the_erp_stops_no_other(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is in doubt, only sent so far, or never tried: it is there, so it is not created again."""
    work.on.erp.set_faults(Fault(kind="commit_then_drop", endpoint="create_order", probability=1))
    doubted, other = work.on.shop.checkout_many(2)
    work.run(sweep=True)
    work.on.erp.set_faults()
    numbers = {line["external_id"]: line["number"] for line in work.on.erp.journal() if line["kind"] == "order"}
    odd = {numbers[doubted.number]}
    row = GenericQuery._row

    def read(self: GenericQuery, table: str, *given: Any) -> Any:
        read = row(self, table, *given)
        return {**read, "C6_VALOR": "1.234,5"} if table == "SC6" and read["C6_NUM"] in odd else read

    monkeypatch.setattr(GenericQuery, "_row", read)
    good = work.on.shop.checkout_many(5)
    result = work.run_until_settled()
    assert (result.failure, result.sent, result.adopted, result.incidents) == (None, 5, 1, 1)
    entry = work.entry(doubted)
    assert (entry.state, entry.problems[0].field) == (LedgerState.REFUSED, "ERP order")
    assert "C6_VALOR is no number: '1.234,5'" in entry.problems[0].advice

    create = type(work.connections.erp).create_order

    def created(*given: Any) -> Any:
        answer = create(*given)
        odd.add(answer.number)
        return answer

    monkeypatch.setattr(type(work.connections.erp), "create_order", created)
    last = work.on.shop.checkout()
    result = work.run_until_settled()
    assert (result.sent, result.incidents) == (1, 1)
    assert work.entry(last).state is LedgerState.SENT
    assert "cannot be read" in work.entry(last).problems[0].advice
    odd.clear()
    work.connections.orders_flow().retry([doubted.number])
    work.run_until_settled()
    work.assert_exact([doubted, other, *good, last])


def test_each_lie_of_a_create_gets_its_order_once(work: Work) -> None:
    lies: dict[str, float] = {
        "commit_then_drop": 0,
        "commit_then_500": 0,
        "commit_late": 1.5,
        "success_not_written": 0,
        "error_in_200": 0,
        "drop_before": 0,
        "html_502": 0,
        "http_503_licence": 0,
        "http_503_busy": 0,
        "lock_then_error": 0.1,
        "slow": 1.3,
        "cp1252": 0,
        "unauthorized": 0,
    }
    # Every other order is told the truth: five failures in a row would open the breaker.
    orders = work.on.shop.checkout_many(2 * len(lies))
    kinds: list[Any] = list(lies)
    faults = [
        Fault(kind=kind, endpoint="create_order", seconds=lies[kind], times=1, matching=order.number)
        for kind, order in zip(kinds, orders[::2], strict=True)
    ]
    work.on.erp.set_faults(*faults)
    work.run_until_settled(60)
    fired = work.on.erp.admin("GET", "/state")["faults_fired"]
    assert fired == dict.fromkeys(lies, 1)
    work.assert_exact(orders)


def test_each_lie_of_a_customers_create_gets_its_orders_once(work: Work) -> None:
    kinds: list[Any] = ["commit_then_drop", "commit_then_500", "success_not_written", "html_502", "drop_before"]
    work.on.erp.set_faults(*(Fault(kind=kind, endpoint="create_customer", times=1) for kind in kinds))
    orders = [work.on.shop.place_odd_order("guest") for _ in range(8)]
    work.run_until_settled(60)
    assert sum(work.on.erp.admin("GET", "/state")["faults_fired"].values()) == len(kinds)
    work.assert_exact(orders)
    customers = [line["external_id"] for line in work.on.erp.journal() if line["kind"] == "customer"]
    assert len(customers) == len(set(customers)) == 8


@pytest.mark.parametrize("kind", ["html_502", "unauthorized", "cp1252", "drop_before"])
def test_a_read_that_fails_once_is_repeated(work: Work, kind: Any) -> None:
    work.on.erp.set_faults(Fault(kind=kind, endpoint="read", times=1))
    orders = work.on.shop.checkout_many(3)
    assert work.run().failure is None
    work.assert_exact(orders)


def test_the_token_endpoint_refuses_the_first_call_after_a_cold_start(work: Work) -> None:
    work.on.erp.switch(cold_start=True)
    orders = work.on.shop.checkout_many(3)
    work.run_until_settled()
    work.assert_exact(orders)


def test_an_erp_that_is_down_loses_nothing_burns_no_attempt_and_opens_the_breaker(work: Work) -> None:
    orders = work.on.shop.checkout_many(5)
    bad = work.on.shop.place_bad_order("payment")
    work.on.erp.kill()
    failures = [work.run().failure for _ in range(4)]
    assert work.entry(bad).state is LedgerState.INVALID, "what is wrong with it, the ERP need not be asked"
    assert isinstance(failures[0], ErpUnavailable)
    assert isinstance(failures[-1], BreakerOpen)
    for order in orders:
        entry = work.entry(order)
        assert (entry.state, entry.attempts) == (LedgerState.DUE, 0)
    work.on.erp.restart()
    work.run_until_settled(60)
    work.assert_exact(orders)


def test_what_the_operator_deleted_before_it_was_adopted_is_never_created_again(work: Work) -> None:
    work.on.erp.set_faults(Fault(kind="commit_then_drop", endpoint="create_order"))
    order = work.on.shop.checkout()
    work.run()
    assert work.entry(order).state is LedgerState.IN_DOUBT
    work.on.erp.set_faults()
    [line] = [line for line in work.on.erp.journal() if line["kind"] == "order"]
    work.on.erp.admin("DELETE", f"/orders/{line['branch']}/{line['number']}")
    result = work.run_until_settled()
    assert result.incidents == 1
    assert "deleted" in work.entry(order).problems[0].advice
    flow = work.connections.orders_flow()
    flow.retry([order.number])
    work.run_until_settled()
    assert work.entry(order).state is LedgerState.REFUSED
    assert len([line for line in work.on.erp.journal() if line["kind"] == "order"]) == 1


def test_what_the_operator_changed_before_it_was_adopted_is_reported(work: Work) -> None:
    work.on.erp.set_faults(Fault(kind="commit_then_drop", endpoint="create_order"))
    order = work.on.shop.checkout()
    work.run()
    work.on.erp.set_faults()
    [line] = [line for line in work.on.erp.journal() if line["kind"] == "order"]
    work.on.erp.admin("PATCH", f"/orders/{line['branch']}/{line['number']}", {"items": {"01": {"quantity": 99}}})
    assert work.run_until_settled().incidents == 1
    assert "total" in work.entry(order).problems[0].advice


def test_a_refused_order_is_sent_at_once_with_retry_after_the_shop_corrected_it(work: Work) -> None:
    order = work.on.shop.place_bad_order("unknown_sku")
    good = work.on.shop.checkout()
    work.run_until_settled()
    assert work.entry(order).state is LedgerState.REFUSED
    sku = work.connections.shop.fetch([str(good.order_id)])[0].lines[0].sku  # type: ignore[union-attr]
    work.on.shop.change_lines(order, sku=sku)
    assert work.connections.orders_flow().retry([order.number]) == {order.number}
    work.run_until_settled()
    work.assert_exact([order, good])


def test_cancelled_in_the_shop_before_it_was_sent_is_never_sent(work: Work) -> None:
    order = work.on.shop.checkout()
    work.connections.orders_flow().finder.recent()
    work.on.shop.cancel(order)
    assert work.run().cancelled == 1
    assert work.on.erp.journal() == []


def test_a_day_sends_what_is_due_of_that_day_and_nothing_else(work: Work) -> None:
    today, yesterday = work.on.shop.checkout(), work.on.shop.checkout()
    before = work.on.shop.now() - timedelta(days=1)
    work.on.shop.change_order(yesterday, placed_at=before)
    result = work.run(Window(days=[before.date()]))
    assert (result.sent, set(result.days)) == (1, {before.date()})
    assert work.entry(today).state is LedgerState.DUE
    work.run_until_settled()
    work.assert_exact([today, yesterday])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ERP_SYNC_ERP_PASSWORD": "not-this-one"}, "ERP_SYNC_ERP_PASSWORD"),
        ({"ERP_SYNC_ERP_URL": "{origin}/elsewhere"}, "ERP_SYNC_ERP_URL"),
        ({"ERP_SYNC_ERP_TENANT": "01,0102"}, None),
        ({"ERP_SYNC_ERP_TENANT": "99,9999"}, "ERP_SYNC_ERP_TENANT"),
    ],
    ids=["password", "root", "another branch", "unknown tenant"],
)
def test_a_wrong_setting_is_one_line_that_names_it_and_touches_no_order(
    work: Work, changes: dict[str, str], words: str | None
) -> None:
    order = work.on.shop.checkout()
    origin = work.on.erp.root_url.rsplit("/", 1)[0]
    with environment({name: value.format(origin=origin) for name, value in changes.items()}):
        connections = open_connections(load_settings())
        result = connections.orders_flow().run()
        connections.close()
    if words is None:
        assert result.failure is None
        return
    assert isinstance(result.failure, Misconfigured)
    assert words in str(result.failure)
    assert "not-this-one" not in str(result.failure)
    entry = work.entry(order)
    assert (entry.state, entry.attempts) == (LedgerState.DUE, 0)
    assert work.on.erp.journal() == []


def test_a_tenant_that_the_erp_ignores_stops_everything(work: Work) -> None:
    work.on.erp.switch(fixed_branch="0102")
    work.on.shop.checkout()
    work.on.erp.set_faults()
    result = work.run()
    assert isinstance(result.failure, Misconfigured) or work.on.erp.journal() == [] or result.incidents
    assert not [line for line in work.on.erp.journal() if line["kind"] == "order" and line["branch"] != "0102"]


def test_two_passes_at_once_send_each_order_once(work: Work) -> None:
    from concurrent.futures import ThreadPoolExecutor

    orders = work.on.shop.checkout_many(40)
    others = [open_connections(load_settings()) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda connections: connections.orders_flow().run(), others))
    work.run_until_settled()
    work.assert_exact(orders)
    for connections in others:
        connections.close()


def test_an_id_that_the_erp_cuts_is_an_incident_not_a_success(fresh_database: FreshDatabase) -> None:
    """The field was narrowed in the ERP and the setting was not: refused with both values, never sent again."""
    setting = stage(
        shop_url=fresh_database(),
        ledger_url=fresh_database(),
        latency_ms=0,
        config=CONFIG,
        external_id_width=8,
    )
    with setting as on, environment(on.environment):
        connections = open_connections(load_settings())
        work = Work(on, connections)
        order = on.shop.checkout()
        assert work.run().incidents == 1
        entry = work.entry(order)
        assert entry.state is LedgerState.REFUSED
        assert "external_id_width" in entry.problems[0].advice
        assert len(on.erp.journal()) <= 2
        connections.orders_flow().retry([order.number])
        work.run_until_settled()
        assert len([line for line in on.erp.journal() if line["kind"] == "order"]) == 1
        connections.close()


def test_no_line_of_the_log_names_a_person(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    work.on.erp.set_faults(
        Fault(kind="commit_then_500", times=3), Fault(kind="html_502", endpoint="create_order", times=2)
    )
    orders = [*work.on.shop.checkout_many(5), *(work.on.shop.place_bad_order(kind) for kind in BAD_KINDS)]
    work.run_until_settled()
    people = work.connections.shop.fetch([str(order.order_id) for order in orders])
    secrets = {work.on.environment["ERP_SYNC_ERP_PASSWORD"]}
    for order in people:
        if not hasattr(order, "customer"):
            continue
        customer = order.customer
        secrets |= {customer.tax_id, customer.email, customer.phone, customer.billing.street, customer.name}
    stories = [str(event) for order in orders for _, event, _ in work.connections.ledger.story(str(order.order_id))]
    problems = [str(problem) for order in orders for problem in work.entry(order).problems]
    text = "\n".join([caplog.text, *stories, *problems])
    assert text
    assert [secret for secret in secrets if secret and secret in text] == []


def test_money_is_decimal_all_the_way(work: Work) -> None:
    order = work.on.shop.place_odd_order("thirds")
    work.run_until_settled()
    [line] = [line for line in work.on.erp.journal() if line["kind"] == "order"]
    assert Decimal(str(line["total"])) == order.total == work.entry(order).total


def test_a_claim_of_a_process_that_died_is_taken_over_once_its_lease_is_over(work: Work) -> None:
    from erp_sync.ledger.entry import Change, Event

    order = work.on.shop.checkout()
    work.connections.orders_flow().finder.recent()
    entry = work.entry(order)
    ledger = work.connections.ledger
    claimed = replace(
        entry, version=entry.version + 1, state=LedgerState.SENDING, next_at=ledger.now() + timedelta(seconds=1)
    )
    assert ledger.change([Change(entry, claimed, Event("claimed"))]) == [True]
    assert work.run().sent == 0
    work.run_until_settled()
    work.assert_exact([order])
