"""A checker that cannot fail proves nothing: every kind of wrong journal, made by hand, is seen and named."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from erp_sync.ledger.entry import Entry
from erp_sync.models import LedgerState
from erp_sync.sandbox.shop import PlacedOrder
from erp_sync_tests.bench.checker import Verdict, check, rule_of_three

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ORDERS = [PlacedOrder(number, f"LJ-{number}", Decimal("119.90") * number, number) for number in (1, 2, 3)]
REFUSED = PlacedOrder(9, "LJ-9", Decimal("10.00"), 1)


def _entry(order: PlacedOrder, **changed: Any) -> Entry:
    sent = Entry(
        order_id=str(order.order_id),
        number=order.number,
        external_id=order.number,
        day=date(2026, 11, 20),
        state=LedgerState.SENT,
        version=4,
        found_at=NOW,
        next_at=None,
        erp_branch="0101",
        erp_number=f"00000{order.order_id}",
    )
    return replace(sent, **changed)


def _line(order: PlacedOrder, **changed: Any) -> dict[str, Any]:
    line = {
        "kind": "order",
        "branch": "0101",
        "number": f"00000{order.order_id}",
        "external_id": order.number,
        "total": str(order.total),
        "lines": order.lines,
    }
    return line | changed


ENTRIES = [_entry(order) for order in ORDERS]
JOURNAL = [_line(order) for order in ORDERS]
CUSTOMER = {"kind": "customer", "branch": "0101", "number": "000001/01", "external_id": "52998224725"}


def _only(what: str, verdict: Verdict, *numbers: str) -> None:
    wrong = {field.name: getattr(verdict, field.name) for field in fields(verdict) if getattr(verdict, field.name)}
    assert wrong == {what: numbers}
    assert not verdict.exact
    assert what.replace("_", " ") in str(verdict)


def test_an_exact_journal_passes() -> None:
    refused = _entry(REFUSED, state=LedgerState.REFUSED, erp_branch="", erp_number="")
    verdict = check([CUSTOMER, *JOURNAL], ORDERS, [*ENTRIES, refused], refused=[REFUSED])
    assert verdict == Verdict()
    assert verdict.exact


def test_a_lost_order_is_seen() -> None:
    verdict = check(JOURNAL[1:], ORDERS, ENTRIES)
    assert verdict.lost == ("LJ-1",)
    assert verdict.wrong_number == ("LJ-1",), "the ledger names an ERP order that was never committed"
    due = _entry(ORDERS[0], state=LedgerState.DUE, erp_branch="", erp_number="")
    _only("lost", check(JOURNAL[1:], ORDERS, [due, *ENTRIES[1:]]), "LJ-1")


def test_an_order_that_is_there_twice_is_seen() -> None:
    verdict = check([*JOURNAL, _line(ORDERS[1], number="000009")], ORDERS, ENTRIES)
    assert verdict.twice == ("LJ-2",)


def test_as_many_lines_as_orders_hide_nothing() -> None:
    """One lost and one twice: the counts agree."""
    verdict = check([JOURNAL[0], JOURNAL[0], JOURNAL[1]], ORDERS, ENTRIES)
    assert (verdict.lost, verdict.twice) == (("LJ-3",), ("LJ-1",))


@pytest.mark.parametrize("changed", [{"total": "119.91"}, {"total": "0"}, {"lines": 2}])
def test_a_wrong_total_and_a_missing_line_are_seen(changed: dict[str, Any]) -> None:
    _only("wrong_total", check([_line(ORDERS[0], **changed), *JOURNAL[1:]], ORDERS, ENTRIES), "LJ-1")


def test_an_order_that_the_shop_never_had_is_seen() -> None:
    phantom = _line(ORDERS[0], external_id="LJ-777", number="000777")
    _only("phantom", check([*JOURNAL, phantom], ORDERS, ENTRIES), "LJ-777")


def test_an_order_that_had_to_be_refused_is_seen() -> None:
    sent = _entry(REFUSED)
    _only("phantom", check([*JOURNAL, _line(REFUSED)], ORDERS, [*ENTRIES, sent], refused=[REFUSED]), "LJ-9")


def test_a_ledger_with_another_number_is_seen() -> None:
    _only("wrong_number", check(JOURNAL, ORDERS, [_entry(ORDERS[0], erp_number="000009"), *ENTRIES[1:]]), "LJ-1")
    _only("wrong_number", check(JOURNAL, ORDERS, [_entry(ORDERS[0], erp_branch="0102"), *ENTRIES[1:]]), "LJ-1")
    _only("wrong_number", check(JOURNAL, ORDERS, [_entry(ORDERS[0], erp_number=""), *ENTRIES[1:]]), "LJ-1")


def test_two_orders_with_one_erp_number_are_seen() -> None:
    shared = [_line(ORDERS[0]), _line(ORDERS[1], number="000001"), JOURNAL[2]]
    entries = [ENTRIES[0], _entry(ORDERS[1], erp_number="000001"), ENTRIES[2]]
    _only("wrong_number", check(shared, ORDERS, entries), "LJ-1", "LJ-2")


def test_an_order_that_nobody_settled_is_seen() -> None:
    _only("unsettled", check(JOURNAL, ORDERS, [_entry(ORDERS[0], next_at=NOW), *ENTRIES[1:]]), "LJ-1")
    _only("unsettled", check(JOURNAL, ORDERS, ENTRIES, refused=[REFUSED]), "LJ-9")


@pytest.mark.parametrize("late", [-2, 7, 3600])
def test_a_create_without_an_intent_before_it_is_seen(late: float) -> None:
    intents = {order.number: [NOW] for order in ORDERS}
    arrivals = [_arrival(order, seconds) for order in ORDERS for seconds in (0.01, 4.9)]
    arrivals.append({**_arrival(REFUSED, 0), "endpoint": "create_customer"})
    assert check(JOURNAL, ORDERS, ENTRIES, arrivals=arrivals, intents=intents).exact
    wrong = [*arrivals, _arrival(ORDERS[0], late)]
    _only("unannounced", check(JOURNAL, ORDERS, ENTRIES, arrivals=wrong, intents=intents), "LJ-1")
    assert check(JOURNAL, ORDERS, ENTRIES, arrivals=wrong, intents={**intents, "LJ-1": [NOW, NOW + _s(late)]}).exact
    _only("unannounced", check(JOURNAL, ORDERS, ENTRIES, arrivals=arrivals[:1], intents={}), "LJ-1")


def _arrival(order: PlacedOrder, seconds: float) -> dict[str, Any]:
    return {"endpoint": "create_order", "external_id": order.number, "at": (NOW + _s(seconds)).isoformat()}


def _s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def test_a_zero_is_reported_with_its_bound() -> None:
    assert rule_of_three(10_000) == "< 0.03 %"
    assert rule_of_three(0) == "nothing"
