"""An order's customer in the ERP: matched, chosen among several, created once, and read back before it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from erp_sync.errors import ErpUnavailable, InDoubt, Refused
from erp_sync.ledger.customers import CustomerEntry
from erp_sync.mapping import customer_key
from erp_sync.models import CustomerCode, ErpCustomer, FoundCustomer
from erp_sync.sync.customers import Customers

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LEASE = timedelta(seconds=210)
DOUBT = timedelta(seconds=360)
FINAL = NOW + timedelta(seconds=5) + DOUBT
TAX_ID = "52998224725"
BUYER = ErpCustomer(TAX_ID, None, {"A1_CGC": TAX_ID})
KEY = customer_key(BUYER)


class Memory:
    def __init__(self) -> None:
        self.entry: CustomerEntry | None = None
        self.at = NOW

    def now(self) -> datetime:
        return self.at

    def customer(self, key: str) -> CustomerEntry | None:
        return self.entry

    def change_customer(self, old: CustomerEntry | None, new: CustomerEntry) -> bool:
        if old != self.entry:
            return False
        self.entry = new
        return True


class Erp:
    def __init__(self, rows: Sequence[FoundCustomer] = (), answer: CustomerCode | Exception | None = None) -> None:
        self.rows = list(rows)
        self.answer = answer
        self.creates = 0

    def find_customers(self, tax_ids: Sequence[str]) -> dict[str, list[FoundCustomer]]:
        return {tax_id: [row for row in self.rows if row.tax_id == tax_id] for tax_id in tax_ids}

    def customer(self, code: CustomerCode) -> list[FoundCustomer]:
        return [row for row in self.rows if row.code.code == code.code and code.store in ("", row.code.store)]

    def create_customer(self, customer: ErpCustomer, intent: Callable[[], float]) -> CustomerCode:
        intent()
        self.creates += 1
        if isinstance(self.answer, CustomerCode):
            return self.answer
        raise self.answer or AssertionError("no create was expected")


def customers(ledger: Memory, erp: Erp) -> Customers:
    return Customers(ledger, erp, lease=LEASE, doubt=DOUBT, monotonic=lambda: 0.0)


def row(code: str = "000731", store: str = "01", *, blocked: bool = False, tax_id: str = TAX_ID) -> FoundCustomer:
    return FoundCustomer(CustomerCode(code, store), tax_id, blocked)


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        ([row()], CustomerCode("000731", "01")),
        ([row(store="03"), row(store="02"), row(store="01", blocked=True)], CustomerCode("000731", "02")),
    ],
    ids=["one", "the lowest store that is not blocked"],
)
def test_a_match_by_tax_id(rows: list[FoundCustomer], chosen: CustomerCode) -> None:
    match = customers(Memory(), Erp(rows)).match([BUYER])[KEY]
    assert match.chosen == chosen
    assert match.codes == {found.code for found in rows}


def test_an_unknown_customer_is_left_out_and_a_blocked_one_is_a_problem_without_its_tax_id() -> None:
    assert customers(Memory(), Erp()).match([BUYER]) == {}
    problem = customers(Memory(), Erp([row(blocked=True)])).match([BUYER])[KEY].problem
    assert problem is not None
    assert TAX_ID not in str(problem)
    assert "A1_MSBLQL" in problem.advice


@pytest.mark.parametrize(
    ("given", "rows", "field"),
    [
        (CustomerCode("000731", ""), [row()], None),
        (CustomerCode("000731", "02"), [row()], "erp_customer"),
        (CustomerCode("000731", "01"), [row(tax_id="11222333000181")], "erp_customer"),
    ],
    ids=["by its code alone", "a store that is not there", "another tax id behind the code"],
)
def test_the_shops_own_code_wins(given: CustomerCode, rows: list[FoundCustomer], field: str | None) -> None:
    buyer = ErpCustomer(TAX_ID, given, {})
    match = customers(Memory(), Erp(rows)).match([buyer])[customer_key(buyer)]
    assert (match.problem.field if match.problem else None) == field
    assert (match.chosen is None) == (field is not None)


def test_a_created_customer_is_used_once_the_erp_shows_it() -> None:
    ledger, erp = Memory(), Erp(answer=CustomerCode("000732", "01"))
    flow = customers(ledger, erp)
    assert flow.create(BUYER, NOW).created
    assert flow.read_back([BUYER])[KEY].wait_until is not None
    erp.rows = [row("000732")]
    match = flow.read_back([BUYER])[KEY]
    assert (match.chosen, match.created) == (CustomerCode("000732", "01"), True)


def test_an_unknown_outcome_is_waited_for_and_never_created_twice() -> None:
    ledger, erp = Memory(), Erp(answer=InDoubt("reset"))
    flow = customers(ledger, erp)
    assert flow.create(BUYER, NOW).wait_until is not None
    while ledger.at < FINAL - timedelta(seconds=1):
        ledger.at = min(ledger.at + timedelta(seconds=11), FINAL - timedelta(seconds=1))
        assert flow.create(BUYER, ledger.at).wait_until is not None
    assert erp.creates == 1
    ledger.at = FINAL + timedelta(seconds=60)
    assert flow.create(BUYER, FINAL - timedelta(seconds=1)).wait_until is not None
    assert erp.creates == 1
    ledger.at += timedelta(seconds=60)
    flow.create(BUYER, ledger.at)
    assert erp.creates == 2


def test_a_killed_create_is_somebody_elses_until_its_lease_and_its_settle_time_are_over() -> None:
    ledger = Memory()

    class Dies(Erp):
        def create_customer(self, customer: ErpCustomer, intent: Callable[[], float]) -> CustomerCode:
            intent()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        customers(ledger, Dies()).create(BUYER, NOW)
    erp = Erp(answer=CustomerCode("000732", "01"))
    flow = customers(ledger, erp)
    pauses = []
    for age in (0, 4, 60, LEASE.total_seconds() - 1):
        ledger.at = NOW + timedelta(seconds=age)
        wait_until = flow.create(BUYER, ledger.at).wait_until
        assert wait_until is not None
        pauses.append((wait_until - ledger.at).total_seconds())
    assert pauses == [1, 4, 10, 1], "a create takes a moment, and its death is seen when its lease is over"
    ledger.at = NOW + LEASE
    assert flow.create(BUYER, ledger.at).wait_until is not None
    assert erp.creates == 0
    ledger.at = FINAL
    assert flow.create(BUYER, ledger.at).created


def test_a_certain_refusal_is_the_orders_problem_at_once() -> None:
    ledger = Memory()
    refusal = Refused("mandatory", status=400, help_code="OBRIGAT", field="A1_END")
    match = customers(ledger, Erp(answer=refusal)).create(BUYER, NOW)
    assert match.problem is not None
    assert match.problem.field == "A1_END"
    assert ledger.entry is not None
    assert ledger.entry.send_by is None


def test_a_refusal_under_a_500_is_believed_once_its_absence_is_final() -> None:
    ledger = Memory()
    erp = Erp(answer=Refused("mandatory", status=500, field="A1_END", certain=False))
    flow = customers(ledger, erp)
    assert flow.create(BUYER, NOW).wait_until is not None
    ledger.at = FINAL + timedelta(seconds=60)
    match = flow.create(BUYER, ledger.at)
    assert match.problem is not None
    assert match.problem.field == "A1_END"
    assert erp.creates == 1


def test_what_never_left_can_be_tried_again_at_once() -> None:
    ledger, erp = Memory(), Erp(answer=ErpUnavailable("no route"))
    flow = customers(ledger, erp)
    with pytest.raises(ErpUnavailable):
        flow.create(BUYER, NOW)
    erp.answer = CustomerCode("000732", "01")
    assert flow.create(BUYER, NOW).created


def test_only_one_of_two_processes_creates() -> None:
    ledger, erp = Memory(), Erp(answer=CustomerCode("000732", "01"))

    class Slower(Erp):
        def create_customer(self, customer: ErpCustomer, intent: Callable[[], float]) -> CustomerCode:
            customers(ledger, erp).create(BUYER, NOW)
            return super().create_customer(customer, intent)

    slower = Slower(answer=CustomerCode("000733", "01"))
    assert customers(ledger, slower).create(BUYER, NOW).wait_until is not None
    assert (erp.creates, slower.creates) == (1, 0)
