"""Every benchmark still runs, on a few orders: its figures mean nothing here, its own checks do."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from erp_sync_tests.bench.checks import cost
from erp_sync_tests.bench.drain import drain
from erp_sync_tests.bench.imports import measure
from erp_sync_tests.bench.machine import percentile
from erp_sync_tests.bench.memory import peak
from erp_sync_tests.bench.reconcile import reconcile
from erp_sync_tests.bench.statuses import poll
from erp_sync_tests.bench.stock import FORMS, follow
from erp_sync_tests.bench.tick import tick
from erp_sync_tests.bench.torture import torture
from erp_sync_tests.bench.webhook import latency, sale


@pytest.mark.parametrize(
    "name",
    [
        "checks",
        "drain",
        "imports",
        "latency",
        "memory",
        "month",
        "reconcile",
        "statuses",
        "stock",
        "tick",
        "torture",
        "webhook",
    ],
)
def test_a_benchmark_says_how_it_is_used(name: str) -> None:
    command = [sys.executable, "-m", f"erp_sync_tests.bench.{name}", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    module = importlib.import_module(f"erp_sync_tests.bench.{name}")
    assert module.__doc__ is not None
    assert module.__doc__.splitlines()[0] in said


def test_the_checks_ask_the_ledger_a_few_questions_whatever_it_holds(tmp_path: Path) -> None:
    small = cost(f"sqlite:///{tmp_path / 'small.sqlite'}", 500, outage=10)
    large = cost(f"sqlite:///{tmp_path / 'large.sqlite'}", 5_000, outage=10)
    assert small.queries == large.queries < 25


def test_drain_asks_the_erp_once_per_order_and_a_little_more() -> None:
    drained = drain(60, unknown=20, latency_ms=5, parallel=8)
    assert drained.requests["create_order"] == 60
    assert drained.requests["create_customer"] == 20
    assert 0 < drained.ratio < 1
    assert drained.requests_per_order < 2.5


def test_a_webhook_s_order_is_in_the_erp_after_three_calls_and_two_more_read_it_back() -> None:
    found = latency(10, 1, latency_ms=20, new=False)
    assert found.requests == {"token": 0, "read": 40, "create_order": 10}
    assert 0 < found.own_ms["p50"] < found.total_ms["p50"]


def test_a_sale_that_the_ledger_breaks_off_loses_and_doubles_nothing() -> None:
    sold = sale(15, 2, per_second=40, restart=True)
    assert (sold.lost, sold.twice, sold.verdict) == (0, 0, "every order is exact")
    assert sold.webhooks == 30
    assert sold.erp["max_parallel_writes"] == 2
    assert sold.answered_ms["longest"] >= sold.confirmed_ms["longest"] > 0


def test_a_tick_is_one_statement_over_a_range() -> None:
    ticked = tick(5_000, polling_seconds=1)
    assert ticked.empty_poll_statements == 1
    assert 0 < ticked.empty_poll_ms < ticked.finding_10_ms
    assert ticked.explain
    assert ticked.explain[0].startswith("o: range, key orders_updated_at_index"), ticked.explain


def test_a_poll_asks_twice_for_a_hundred_orders_and_tells_each_change() -> None:
    polled = poll(120, latency_ms=1)
    assert (polled.poll_requests, polled.orders_per_request) == (4, 30)
    assert polled.told_per_second > 0


def test_a_day_is_reconciled_with_many_orders_to_a_request() -> None:
    reconciled = reconcile(120, latency_ms=1)
    assert (reconciled.findings, reconciled.requests) == (1, 11)
    assert reconciled.orders_per_request > 10


def test_stock_follows_in_each_form_beside_sales() -> None:
    followed = {each.form: each for each in follow(600, forms=FORMS, latency_ms=1, shares=(0.5,), quiet_seconds=0.1)}
    assert {each.changed for each in followed.values()} == {300}
    assert followed["plain"].times_plain == 1.0
    assert followed["bulk"].shop_statements < 100 < 6 * 300 < followed["row"].shop_statements
    assert all(each.erp_seconds > 0 and each.peak_mb > 10 for each in followed.values())


def test_memory_is_that_of_the_draining_process() -> None:
    peaked = peak(40)
    assert 10 < peaked.before_mb <= peaked.peak_mb < 1000


def test_imports_are_measured_in_turns() -> None:
    imported = measure(1)
    assert imported.ratio == pytest.approx(imported.definitions_seconds / imported.dagster_seconds, rel=0.02)


def test_torture_of_a_few_orders() -> None:
    lines: list[str] = []
    report = torture(60, rate=20, seed=3, say=lines.append)
    assert report.ok, str(report.verdict)
    assert report.orders >= 55
    assert report.worker_kills
    assert sum(report.faults.values()) > 0
    assert lines


def test_a_percentile_of_nothing_is_an_error() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0], 0.95) == 1.0
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 0.5)
