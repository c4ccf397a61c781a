"""The limits of the ERP that all processes share: breaker, slots, calls per minute."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from typing import Any

import pytest
from sqlalchemy import text

from erp_sync.errors import BreakerOpen, ErpUnavailable, LedgerUnavailable
from erp_sync.ledger.gate import LedgerGate
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.settings import ErpSection
from erp_sync_tests.ledger_entries import START, Hand
from erp_sync_tests.mariadb import MariaDB

SPAWN = multiprocessing.get_context("spawn")


def gate_of(ledger: Ledger, **options: Any) -> LedgerGate:
    return LedgerGate(ledger, **{"parallel": 4, "writes": 2, "patience": 5.0, **options})


def fail(gate: LedgerGate, times: int = 1) -> None:
    for _ in range(times):
        with gate.call("orders", write=False):
            gate.failed()


def test_five_failures_in_a_row_open_the_breaker(ledger: Ledger) -> None:
    gate = gate_of(ledger)
    fail(gate, 4)
    with gate.call("orders", write=True):
        gate.succeeded()
    fail(gate, 4)
    assert gate.breaker_open() is None
    fail(gate)
    assert gate.breaker_open() == START + timedelta(seconds=5)
    with pytest.raises(BreakerOpen, match="5 times in a row") as refused, gate.call("orders", write=False):
        pass
    assert refused.value.retry_after == 5.0
    gate.close()


def test_pauses_double_up_to_a_minute_and_success_closes(ledger: Ledger, hand: Hand) -> None:
    gate = gate_of(ledger)
    fail(gate, 5)
    pauses = []
    for _ in range(6):
        until = gate.breaker_open()
        assert until is not None
        assert not gate.probe_is_due()
        pauses.append((until - hand()).total_seconds())
        hand.at = until
        assert gate.probe_is_due()
        fail(gate)
    assert pauses == [5, 10, 20, 40, 60, 60]
    until = gate.breaker_open()
    assert until is not None
    hand.at = until
    with gate.call("orders", write=False):
        gate.succeeded()
    assert gate.breaker_open() is None
    with gate.call("orders", write=True):
        pass
    fail(gate, 5)
    assert gate.breaker_open() == hand() + timedelta(seconds=5)
    gate.close()


def test_a_write_is_never_the_probe(ledger: Ledger, hand: Hand) -> None:
    gate = gate_of(ledger)
    fail(gate, 5)
    hand.turn(6)
    with pytest.raises(BreakerOpen), gate.call("orders", write=True):
        pass
    assert gate.probe_is_due()
    gate.close()


def test_one_probe_at_a_time_and_one_that_proves_nothing_makes_room(ledger: Ledger, hand: Hand) -> None:
    gate, other = gate_of(ledger), gate_of(ledger)
    fail(gate, 5)
    hand.turn(6)
    with gate.call("orders", write=False):
        assert not other.probe_is_due()
        with pytest.raises(BreakerOpen), other.call("orders", write=False):
            pass
    assert other.probe_is_due()
    with pytest.raises(KeyError), other.call("orders", write=False):
        raise KeyError
    assert gate.probe_is_due()
    with gate.call("orders", write=False):
        hand.turn(16)  # its process was killed, for all the others know
        with other.call("orders", write=False):
            other.succeeded()
    assert gate.breaker_open() is None
    gate.close()
    other.close()


def test_a_call_begun_before_the_breaker_opened_does_not_lengthen_the_pause(ledger: Ledger) -> None:
    gate = gate_of(ledger, parallel=8, writes=8)
    with gate.call("orders", write=True), ThreadPoolExecutor(1) as pool:
        pool.submit(fail, gate, 5).result()
        until = gate.breaker_open()
        gate.failed()
        assert gate.breaker_open() == until
    gate.close()


def test_a_breaker_that_the_clock_left_behind_can_be_probed(ledger: Ledger, hand: Hand) -> None:
    gate = gate_of(ledger)
    fail(gate, 5)
    hand.turn(-86400)
    assert gate.probe_is_due()
    with gate.call("orders", write=False):
        gate.succeeded()
    assert gate.breaker_open() is None
    gate.close()


def _probe(url: str, barrier: Barrier, let_through: Any) -> None:
    ledger = open_ledger(url)
    gate = LedgerGate(ledger, parallel=64, writes=64)

    def attempt(_: int) -> None:
        try:
            with gate.call("orders", write=False):
                let_through.put(os.getpid())
                time.sleep(0.5)
        except BreakerOpen:
            pass

    with ThreadPoolExecutor(8) as pool:
        barrier.wait(30)
        list(pool.map(attempt, range(8)))
    gate.close()
    ledger.close()


def test_two_processes_of_eight_threads_make_one_probe(database_url: str) -> None:
    migrate(database_url)
    past = open_ledger(database_url, clock=Hand())
    fail(gate_of(past), 5)
    past.close()
    with SPAWN.Manager() as manager:
        let_through, barrier = manager.Queue(), SPAWN.Barrier(2)
        processes = [SPAWN.Process(target=_probe, args=(database_url, barrier, let_through)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert let_through.qsize() == 1


def test_slots_bound_all_calls_and_writes(ledger: Ledger) -> None:
    gate, other = gate_of(ledger, patience=0.2), gate_of(ledger, patience=5.0)
    full = r"no free slot.*max_parallel = 4 \(writes: 2\)"
    with gate.call("orders", write=True), other.call("orders", write=True):
        with pytest.raises(ErpUnavailable, match=full), gate.call("orders", write=True):
            pass
        reads = gate.call("orders", write=False), other.call("orders", write=False)
        with reads[0], reads[1], pytest.raises(ErpUnavailable, match=full), gate.call("orders", write=False):
            pass
    with other.call("orders", write=True), other.call("orders", write=True):  # once the first gives up what it keeps
        pass
    gate.close()
    other.close()


def _use_slots(url: str, seconds: float, times: Any, slow: float) -> None:
    ledger = open_ledger(url)
    gate = LedgerGate(ledger, parallel=3, writes=2, patience=30)
    until = time.monotonic() + seconds

    def work(index: int) -> None:
        while time.monotonic() < until:
            write = index % 2 == 0
            with gate.call("orders", write=write):
                began = time.monotonic()
                time.sleep(slow)
                times.append((began, time.monotonic(), write))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    gate.close()
    ledger.close()


def _most_at_once(times: list[tuple[float, float]]) -> int:
    moments = sorted([(began, 1) for began, _ in times] + [(ended, -1) for _, ended in times])
    return max(itertools.accumulate(step for _, step in moments))


def test_never_more_than_the_maximum_over_two_processes(database_url: str) -> None:
    migrate(database_url)
    with SPAWN.Manager() as manager:
        times = manager.list()
        processes = [SPAWN.Process(target=_use_slots, args=(database_url, 3.0, times, 0.01)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        calls = list(times)
    assert _most_at_once([(began, ended) for began, ended, _ in calls]) == 3
    assert _most_at_once([(began, ended) for began, ended, write in calls if write]) <= 2
    assert len(calls) > 20


def test_a_free_slot_goes_to_one_of_many_who_ask_at_once(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erp_sync.ledger.slots.KEEP_SECONDS", 0.0)
    migrate(database_url)
    ledger = open_ledger(database_url)
    gates = [gate_of(ledger, parallel=2, writes=2, patience=30.0) for _ in range(6)]
    times: list[tuple[float, float]] = []
    over = time.monotonic() + 2.0

    def work(gate: LedgerGate) -> None:
        while time.monotonic() < over:
            with gate.call("stock", write=True):
                began = time.monotonic()
                time.sleep(0.005)
                times.append((began, time.monotonic()))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, gates))
    assert _most_at_once(times) == 2
    for gate in gates:
        gate.close()
    ledger.close()


def test_the_slots_of_a_killed_process_come_back_with_their_lease(database_url: str) -> None:
    migrate(database_url)
    with SPAWN.Manager() as manager:
        times = manager.list()
        process = SPAWN.Process(target=_use_slots, args=(database_url, 60.0, times, 0.05))
        process.start()
        give_up = time.monotonic() + 30
        while len(times) < 10 and time.monotonic() < give_up:
            time.sleep(0.05)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    ledger = open_ledger(database_url)
    at_once = LedgerGate(ledger, parallel=3, writes=2, patience=0.3)
    with pytest.raises(ErpUnavailable, match="no free slot"), at_once.call("orders", write=True):
        pass
    ledger.close()
    ahead = Hand(ledger.now() + timedelta(seconds=16))
    later = open_ledger(database_url, clock=ahead)
    gate = LedgerGate(later, parallel=3, writes=2, patience=0.3)
    with gate.call("orders", write=True), gate.call("orders", write=True):
        pass
    gate.close()
    later.close()


def test_a_slot_is_renewed_as_long_as_its_call_takes(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erp_sync.ledger.slots.LEASE", timedelta(seconds=1.5))
    monkeypatch.setattr("erp_sync.ledger.slots.RENEW_SECONDS", 0.3)
    monkeypatch.setattr("erp_sync.ledger.slots.TICK_SECONDS", 0.1)
    migrate(database_url)
    ledger = open_ledger(database_url)
    gate, other = gate_of(ledger, parallel=1, writes=1), gate_of(ledger, parallel=1, writes=1, patience=3.5)
    with gate.call("orders", write=True), pytest.raises(ErpUnavailable), other.call("orders", write=True):
        pass
    other.close()
    gate.close()
    ledger.close()


def test_an_idle_slot_is_kept_for_a_moment_and_then_given_back(database_url: str) -> None:
    migrate(database_url)
    ledger = open_ledger(database_url)
    gate, other = gate_of(ledger, parallel=1, writes=1), gate_of(ledger, parallel=1, writes=1, patience=6.0)
    for _ in range(50):
        with gate.call("orders", write=True):
            pass
    owners = ledger.database.rows(text("SELECT owner FROM erp_sync_slots WHERE slot = 0"))
    assert owners[0][0] != ""
    with other.call("orders", write=True):
        pass
    gate.close()
    other.close()
    owners = ledger.database.rows(text("SELECT DISTINCT owner FROM erp_sync_slots"))
    assert [owner for (owner,) in owners] == [""]
    ledger.close()


def test_orders_go_first(database_url: str) -> None:
    """A busy flow of a lower rank leaves its slot to waiting orders, in its own process and in another."""
    migrate(database_url)
    ledger = open_ledger(database_url)
    busy, other = gate_of(ledger, parallel=1, writes=1, patience=30.0), gate_of(ledger, parallel=1, writes=1)
    over = threading.Event()

    def stock() -> None:
        while not over.is_set():
            with busy.call("stock", write=False):
                time.sleep(0.01)

    threads = [threading.Thread(target=stock) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.2)
        for gate in (busy, other):
            with gate.call("orders", write=True):
                pass
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    busy.close()
    other.close()
    ledger.close()


def test_never_more_calls_in_a_minute_than_the_ceiling(ledger: Ledger, hand: Hand) -> None:
    lock = threading.Lock()

    def sleep(seconds: float) -> None:
        with lock:
            hand.turn(seconds)

    gates = [gate_of(ledger, per_minute=30, patience=60.0, sleep=sleep) for _ in range(2)]
    began = []
    for number in range(70):
        with gates[number % 2].call("orders", write=False):
            began.append((hand() - START).total_seconds())
    for moment in began:
        assert sum(moment <= other < moment + 59.9 for other in began) <= 30
    assert began[-1] == pytest.approx(69 * 2.0, abs=0.1), "and the ceiling is used"
    for gate in gates:
        gate.close()


def test_a_call_that_would_wait_too_long_for_its_minute_says_so(ledger: Ledger) -> None:
    gate = gate_of(ledger, per_minute=1, patience=10.0)
    with gate.call("orders", write=False):
        pass
    with pytest.raises(ErpUnavailable, match="max_per_minute = 1") as raised, gate.call("orders", write=False):
        pass
    assert raised.value.retry_after == pytest.approx(60)
    gate.close()


def test_a_permit_of_a_busy_process_costs_no_transaction(mariadb: MariaDB) -> None:
    url = mariadb.create_database()
    migrate(url)
    ledger = open_ledger(url)
    gate = LedgerGate.from_settings(ledger, ErpSection())
    with gate.call("orders", write=True):
        gate.succeeded()
    before = int(mariadb.value("SHOW GLOBAL STATUS LIKE 'Com_commit'"))
    started = time.perf_counter()
    for _ in range(500):
        with gate.call("orders", write=True):
            gate.succeeded()
    took = time.perf_counter() - started
    assert int(mariadb.value("SHOW GLOBAL STATUS LIKE 'Com_commit'")) - before <= 10 * (1 + took)
    gate.close()
    ledger.close()


def test_an_unknown_flow_is_a_mistake(ledger: Ledger) -> None:
    with pytest.raises(ValueError), gate_of(ledger).call("order", write=False):
        pass


def test_without_the_ledger_there_is_no_permit_but_an_answer_is_kept() -> None:
    with MariaDB() as server:
        url = server.create_database()
        migrate(url)
        ledger = open_ledger(url)
        gate = gate_of(ledger)
        with gate.call("orders", write=True):
            server.kill()
            gate.failed()  # says nothing about the order whose answer is in hand
        time.sleep(2.5)
        with pytest.raises(LedgerUnavailable), gate.call("orders", write=True):
            pass
        ledger.close()
