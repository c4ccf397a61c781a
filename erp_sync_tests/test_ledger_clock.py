"""The ledger's clock: whose it is, how old it may be, and what happens when it jumps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from erp_sync.ledger.clock import Clock
from erp_sync.ledger.customers import CustomerEntry
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync_tests.ledger_entries import DAY, START, Hand, due, found, step

LEASE = timedelta(seconds=210)


class Machine:
    """A machine's own clocks: the one people set, and the one that counts."""

    def __init__(self) -> None:
        self.hand = Hand()
        self.steady = 1000.0

    def pass_time(self, seconds: float) -> None:
        self.hand.turn(seconds)
        self.steady += seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def ledger(database_url: str, machine: Machine) -> Iterator[Ledger]:
    migrate(database_url)
    ledger = open_ledger(database_url, clock=machine.hand, steady=lambda: machine.steady)
    yield ledger
    ledger.close()


def test_the_source_is_asked_once_a_second_and_carried_on_in_between(machine: Machine) -> None:
    asked: list[float] = []

    def ask() -> datetime:
        asked.append(machine.steady)
        return machine.hand()

    clock = Clock(ask, keep=1.0, steady=lambda: machine.steady)
    for _ in range(20):
        assert clock.now() == machine.hand()
        machine.pass_time(0.25)
    assert len(asked) == 5


def test_a_slow_answer_is_not_carried_on(machine: Machine) -> None:
    def ask() -> datetime:
        shown = machine.hand()
        machine.pass_time(0.3)
        return shown

    clock = Clock(ask, keep=1.0, steady=lambda: machine.steady)
    first = clock.now()
    assert clock.now() - first == timedelta(seconds=0.3)


def test_a_jump_ahead_does_not_cut_the_settle_time_short(ledger: Ledger, machine: Machine) -> None:
    """At a jump of an hour every create in doubt would look proven absent, and be sent a second time."""
    ledger.add(found(due("1"), due("2"), due("3")))
    one, two, three = ledger.entries(["1", "2", "3"]).values()
    send_by = ledger.now() + timedelta(seconds=5)
    doubtful = step(one, "in_doubt", send_by=send_by, next_at=send_by)
    settled = step(two, "sent", send_by=send_by, next_at=None)
    assert ledger.change([doubtful, settled]) == [True, True]
    assert ledger.change_customer(None, CustomerEntry("k", 1, send_by=send_by, next_at=send_by))
    machine.pass_time(20)
    ledger.now()
    read_before, customer_before = ledger.entries(["1"])["1"], ledger.customer("k")
    machine.hand.turn(3600)
    machine.pass_time(2)
    assert ledger.now() == machine.hand()
    assert ledger.change([step(read_before, "due")]) == [False], "it looks proven absent to who read it before"
    assert customer_before is not None
    assert not ledger.change_customer(customer_before, replace(customer_before, version=2, send_by=None))
    entries = ledger.entries(["1", "2", "3"])
    customer = ledger.customer("k")
    assert entries["1"].send_by == send_by + timedelta(seconds=3600)
    assert customer is not None
    assert customer.send_by == send_by + timedelta(seconds=3600)
    assert (entries["2"], entries["3"]) == (settled.new, three)
    machine.pass_time(20)
    ledger.now()
    assert ledger.entries(["1"]) == {"1": entries["1"]}


def test_one_of_several_processes_gives_the_time_back(ledger: Ledger, machine: Machine, database_url: str) -> None:
    other = open_ledger(database_url, clock=machine.hand, steady=lambda: machine.steady)
    ledger.add(found(due("1")))
    [old] = ledger.entries(["1"]).values()
    send_by = machine.hand() + timedelta(seconds=5)
    assert ledger.change([step(old, send_by=send_by)]) == [True]
    other.now()
    machine.hand.turn(600)
    ledger.now()
    machine.pass_time(3)
    other.now()
    assert ledger.entries(["1"])["1"].send_by == send_by + timedelta(seconds=600)
    other.close()


def test_time_that_really_passed_is_no_jump(ledger: Ledger, machine: Machine) -> None:
    ledger.add(found(due("1", send_by=START)))
    for seconds in (0.1, 3600, 86400):
        machine.pass_time(seconds)
        ledger.now()
    machine.hand.turn(-3600)
    ledger.now()
    assert ledger.entries(["1"])["1"].send_by == START


def test_after_a_jump_back_nobody_waits_for_the_old_time(ledger: Ledger, machine: Machine) -> None:
    ahead = START + timedelta(hours=5)
    ledger.add(found(due("1", next_at=ahead, send_by=ahead), due("2"), due("3", next_at=None, send_by=ahead)))
    two = ledger.entries(["2"])["2"]
    assert ledger.change_customer(None, CustomerEntry("k", 1, send_by=ahead, next_at=ahead))
    assert ledger.change([step(two, hold="held", next_at=ahead)]) == [True]
    assert ledger.heal_clock(LEASE) > 0
    entries = ledger.entries(["1", "2", "3"])
    assert entries["1"].next_at == entries["2"].next_at == START + LEASE
    assert entries["1"].send_by == START + timedelta(seconds=10), "a byte may still leave until then"
    assert entries["3"].next_at is None
    customer = ledger.customer("k")
    assert customer is not None
    assert (customer.next_at, customer.send_by) == (START + LEASE, START + timedelta(seconds=10))
    assert ledger.heal_clock(LEASE) == 0
    machine.pass_time(LEASE.total_seconds())
    healed = replace(entries["1"], version=2)
    assert ledger.change([step(entries["1"], hold="held", next_at=ahead)]) == [True]
    assert ledger.entries(["1"])["1"].version == healed.version


def test_heal_leaves_what_may_lie_ahead(ledger: Ledger) -> None:
    fine = due("1", next_at=START + LEASE, send_by=START + timedelta(seconds=10))
    ledger.add(found(fine))
    assert ledger.heal_clock(LEASE) == 0
    assert ledger.entries(["1"]) == {"1": fine}


def test_marks_are_claimed_by_one_and_survive_a_jump_back(ledger: Ledger, machine: Machine) -> None:
    every = timedelta(minutes=5)
    assert ledger.mark("sweep") is None
    assert ledger.claim_mark("sweep", every)
    assert not ledger.claim_mark("sweep", every)
    ledger.set_mark("sweep", "after 😀 42")
    machine.pass_time(300)
    assert ledger.mark("sweep") == (START, "after 😀 42")
    assert ledger.claim_mark("sweep", every)
    assert ledger.mark("sweep") == (START + every, "after 😀 42")
    machine.hand.turn(-86400)
    assert ledger.claim_mark("sweep", every)
    assert not ledger.claim_mark("sweep", every)


def test_heartbeats_say_who_is_alive(ledger: Ledger, machine: Machine) -> None:
    within = timedelta(seconds=60)
    with ledger.heartbeat("run 1", "orders", [DAY], every=30), ledger.heartbeat("run 2", "stock", [], every=30):
        assert ledger.heartbeats_alive("orders", within) == {"run 1": frozenset({DAY})}
        assert ledger.heartbeats_alive("stock", within) == {"run 2": frozenset()}
        machine.pass_time(61)
        assert ledger.heartbeats_alive("orders", within) == {}
        machine.pass_time(-61 - 3600)
        assert ledger.heartbeats_alive("orders", within) == {}, "a dead run must not be alive for an hour more"
    assert ledger.heartbeats_alive("stock", timedelta(days=1)) == {}


def test_a_heartbeat_goes_on_by_itself(ledger: Ledger, machine: Machine) -> None:
    with ledger.heartbeat("run", "orders", [DAY], every=0.02):
        machine.pass_time(3600)
        give_up = time.monotonic() + 10
        while not ledger.heartbeats_alive("orders", timedelta(seconds=60)) and time.monotonic() < give_up:
            time.sleep(0.01)
        assert ledger.heartbeats_alive("orders", timedelta(seconds=60))


def test_early_orders_are_remembered(ledger: Ledger) -> None:
    ids = [str(number) for number in range(1200)]
    ledger.remember_early(ids)
    ledger.remember_early([*ids[:3], "ç"])
    ledger.remember_early([])
    assert ledger.early([*ids, "unknown", "ç"]) == {*ids, "ç"}
    assert ledger.early([]) == set()
