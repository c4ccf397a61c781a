"""Defects that a review of the money path found: each test failed before its fix."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from erp_sync.erp.client import ErpClient
from erp_sync.errors import ErpUnavailable, LedgerUnavailable
from erp_sync.ledger.entry import Change, Event
from erp_sync.mapping import customer_key
from erp_sync.models import CreatedOrder, LedgerState, Problem
from erp_sync.sandbox.config import Fault
from erp_sync.sync.customers import Match
from erp_sync.sync.pipeline import Pipeline
from erp_sync.sync.results import OrdersResult
from erp_sync.sync.sending import LONGEST_WAIT
from erp_sync_tests.test_orders import Work, work
from erp_sync_tests.test_sending import CODE, EXPECTED, NOW, Erp, Memory, sender

__all__ = ["work"]


def orders_in(work: Work) -> list[dict[str, Any]]:
    return [line for line in work.on.erp.journal() if line["kind"] == "order"]


def test_a_number_that_the_shop_changed_before_the_create_is_sent_once_under_the_new_one(work: Work) -> None:
    """Looked up under the old number and created under the new one, each lost answer made another order."""
    order = work.on.shop.checkout()
    work.connections.orders_flow().finder.recent()
    work.on.shop.change_order(order, number="NEW-1")
    work.on.erp.set_faults(Fault(kind="commit_then_drop", endpoint="create_order", times=2))
    work.run_until_settled(20)
    assert [line["external_id"] for line in orders_in(work)] == ["NEW-1"]
    assert (work.entry(order).state, work.entry(order).number) == (LedgerState.SENT, "NEW-1")


def test_a_number_changed_to_one_that_is_taken_is_invalid_and_the_others_are_sent(work: Work) -> None:
    first, second, good = work.on.shop.checkout_many(3)
    work.connections.orders_flow().finder.recent()
    work.on.shop.change_order(second, number=first.number)
    result = work.run_until_settled(20)
    assert (result.sent, work.entry(second).state) == (2, LedgerState.INVALID)
    assert work.entry(second).problems[0].field == "number"
    work.assert_exact([first, good])


class _Blocked:
    """The ERP has all customers, and one of the batch is blocked there."""

    def __init__(self, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flow = work.connections.orders_flow()
        match = self.flow.tools.customers.match

        def last_is_blocked(customers: Any) -> dict[str, Match]:
            batch = list(customers)
            missing = [customer for customer in batch if customer_key(customer) not in match(batch)]
            for customer in missing:
                self.flow.tools.customers.create(customer, work.connections.ledger.now())
            problem = Problem("customer", "x", "is blocked")
            return {**match(batch), customer_key(batch[-1]): Match(problem=problem)}

        monkeypatch.setattr(self.flow.tools.customers, "match", last_is_blocked)


def test_an_order_whose_customer_is_blocked_waits_until_somebody_changes_something(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was due again at every look of every new process."""
    blocked = _Blocked(work, monkeypatch)
    order = work.on.shop.checkout()
    assert blocked.flow.run().refused == 1
    again = work.run(sweep=True)
    assert (again.found, again.sent) == (0, 0)
    work.on.shop.change_order(order, notes="corrected")
    assert work.run(sweep=True).sent == 1


def test_a_ledger_that_is_away_for_a_moment_does_not_keep_a_pass_busy_for_ever(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orders sent but not read back, and one whose refusal could not be written: the loop waited for its turn."""
    orders = work.on.shop.checkout_many(8)
    flow = _Blocked(work, monkeypatch).flow

    def away(*_: Any, **__: Any) -> Sequence[Change]:
        time.sleep(1)
        raise LedgerUnavailable("away")

    monkeypatch.setattr(flow.tools.sender, "settle", away)
    results: list[OrdersResult] = []
    passing = threading.Thread(target=lambda: results.append(flow.run()), daemon=True)
    passing.start()
    passing.join(8)
    if passing.is_alive():
        monkeypatch.setattr(Pipeline, "_collect", away)  # or it would go on beside all other tests
    assert [type(result.failure) for result in results] == [LedgerUnavailable]
    sent = [order for order in orders if work.entry(order).state is LedgerState.SENT]
    assert sent
    assert len(orders_in(work)) == len(sent)


def test_an_order_that_the_erp_does_not_show_under_its_external_id_is_not_created_again(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint neither stores the external id in the field that is read nor says what it stored: every order was
    created anew every few minutes."""
    work.on.erp.switch(duplicates="second_order")
    post = ErpClient.post

    def without_id(self: ErpClient, path: str, body: Any, intent: Any, proof: Any, **setting: str) -> Any:
        sent = {name: value for name, value in body.items() if name != "C5_XPEDWEB"}
        created = post(self, path, sent, intent, proof, **setting)
        return replace(created, stored_external_id=None) if isinstance(created, CreatedOrder) else created

    monkeypatch.setattr(ErpClient, "post", without_id)
    order = work.on.shop.checkout()
    work.run_until_settled(15)
    assert len(orders_in(work)) == 1
    entry = work.entry(order)
    assert (entry.state, entry.erp_number) == (LedgerState.SENT, orders_in(work)[0]["number"])
    assert "external_id_field" in entry.problems[0].advice


def test_a_number_too_wide_for_the_ledger_is_refused_like_one_that_is_taken(work: Work) -> None:
    """MariaDB refuses the statement, which looked like a ledger that is down: no order was found any more."""
    order = work.on.shop.checkout()
    work.connections.orders_flow().finder.recent()
    entry = work.entry(order)
    wide = replace(entry, version=entry.version + 1, number="9" * 256, external_id="9" * 256)
    assert work.connections.ledger.change([Change(entry, wide, Event("due"))]) == [False]
    work.run_until_settled()
    work.assert_exact([order])


def test_a_server_that_asks_for_a_long_wait_does_not_park_an_order_for_years() -> None:
    ledger = Memory()
    sending = sender(ledger, Erp(ErpUnavailable("busy", retry_after=999_999_999.0)))
    with pytest.raises(ErpUnavailable):
        sending.send(sending.claim([ledger.entry])[0], EXPECTED["1"], CODE)
    assert ledger.entry.next_at == NOW + LONGEST_WAIT
