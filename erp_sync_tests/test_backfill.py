"""Runs of a day and of a range on a real instance: what is green, what is red, and what the figures say."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import date, timedelta
from functools import partial

import dagster as dg
import pytest

from erp_sync.defs.names import ERP_ORDERS, LINGER_TAG
from erp_sync.models import LedgerState
from erp_sync_tests.live import CONFIG, Place, numbers_in, place, today, until


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as opened:
        yield opened


def _cause(result: dg.ExecuteInProcessResult) -> str:
    """What the UI shows of a red run: the failure's description."""
    [failure] = [event for event in result.all_events if event.is_step_failure]
    data = failure.step_failure_data.user_failure_data
    return (data.description if data else None) or str(failure.step_failure_data.error)


def _status(here: Place, day: date) -> str:
    key = day.isoformat()
    partitions = here.defs.resolve_asset_graph().get(ERP_ORDERS).partitions_def
    assert partitions is not None
    statuses = here.instance.get_status_by_partition(ERP_ORDERS, [key], partitions) or {}
    status = statuses.get(key)
    return status.value if status is not None else "MISSING"


def test_a_day_sends_what_is_due_of_it_and_nothing_else_however_often(here: Place) -> None:
    yesterday = today() - timedelta(days=1)
    mine = [here.order_on(yesterday), here.order_on(yesterday)]
    others = here.order_on(today())
    assert here.materialize(yesterday).success
    assert sorted(numbers_in(here.on)) == sorted(order.number for order in mine)
    figures = here.figures(yesterday)
    assert (figures["orders_sent"], figures["day_sent"], figures["dagster/partition_row_count"]) == (2, 2, 2)
    assert figures["erp_p95_ms"] > 0
    assert here.state(others) is LedgerState.DUE
    assert here.materialize(yesterday).success
    figures = here.figures(yesterday)
    assert (figures["orders_sent"], figures["day_sent"]) == (0, 2)
    assert len(numbers_in(here.on)) == 2


def test_a_day_without_orders_is_green_with_zeros(here: Place) -> None:
    """A plot with a hole where nothing was sold looks like a day that was never synced."""
    assert here.materialize(today() - timedelta(days=3)).success
    figures = here.figures(today() - timedelta(days=3))
    assert {figures[name] for name in figures if name.startswith(("orders_", "day_"))} == {0}


def test_a_refused_and_an_invalid_order_leave_the_day_green(here: Place) -> None:
    """Red means that the system failed: a day that is red for one customer's typo is soon ignored."""
    good = here.on.shop.checkout()
    refused = here.on.shop.place_bad_order("unknown_sku")
    invalid = here.on.shop.place_bad_order("repeated_cpf")
    assert here.materialize(today()).success
    until("the refusal is believed", lambda: _settled(here, refused.order_id), 20)
    assert here.state(good) is LedgerState.SENT
    assert here.state(invalid) is LedgerState.INVALID
    figures = here.figures(today())
    assert (figures["day_sent"], figures["day_refused"], figures["day_invalid"]) == (1, 1, 1)
    assert _status(here, today()) == "MATERIALIZED"


def _settled(here: Place, order_id: int) -> bool:
    assert here.materialize(today()).success
    return here.erp_sync.connections().ledger.entries([str(order_id)])[str(order_id)].state is LedgerState.REFUSED


def test_the_erp_is_down_red_with_the_cause_and_a_backfill_of_the_range_turns_it_green(here: Place) -> None:
    days = [today() - timedelta(days=back) for back in (2, 1, 0)]
    orders = [here.order_on(day) for day in days]
    here.on.erp.kill()
    for day in days:
        result = here.materialize(day)
        assert not result.success
        assert "ERP" in _cause(result)
        assert "\n" not in _cause(result)
        assert _status(here, day) == "FAILED"
    assert {here.state(order) for order in orders} == {LedgerState.DUE}, "an outage burns no attempt"
    here.on.erp.restart()
    until("the range is green", lambda: here.materialize(days[0], days[-1]).success, 40)
    assert sorted(numbers_in(here.on)) == sorted(order.number for order in orders)
    for day in days:
        assert _status(here, day) == "MATERIALIZED"
        assert here.figures(day)["day_sent"] == 1


def test_a_range_of_a_week_up_to_today_has_each_days_own_figures(here: Place) -> None:
    """Dagster copies a range's metadata to every day: "10 orders" would stand at each of them."""
    days = [today() - timedelta(days=back) for back in range(6, -1, -1)]
    for count, day in enumerate(days):
        for _ in range(count % 3):
            here.order_on(day)
    assert here.materialize(days[0], days[-1]).success
    assert [here.figures(day)["orders_sent"] for day in days] == [0, 1, 2, 0, 1, 2, 0]
    assert len(numbers_in(here.on)) == 6


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("ERP_SYNC_ERP_PASSWORD", "wrong", "ERP_SYNC_ERP_PASSWORD"),
        ("ERP_SYNC_ERP_URL", "", "ERP_SYNC_ERP_URL"),
        ("ERP_SYNC_LEDGER_URL", "mysql+pymysql://erp_sync:hidden@127.0.0.1:1/erp_sync", "ledger"),
        ("ERP_SYNC_SHOP_URL", "mysql+pymysql://shop:hidden@127.0.0.1:1/shop", "shop"),
    ],
)
def test_a_wrong_setting_is_a_red_day_that_says_which(
    here: Place, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    here.on.shop.checkout()
    monkeypatch.setenv(variable, value)
    result = here.materialize(today())
    assert not result.success
    cause = _cause(result)
    assert named.lower() in cause.lower()
    assert "hidden" not in cause
    assert "\n" not in cause
    assert numbers_in(here.on) == []
    assert _status(here, today()) == "FAILED"


def test_two_runs_of_one_day_at_once_send_each_order_once(here: Place) -> None:
    """Dagster's pool keeps runs apart, but correctness never rests on it."""
    orders = here.on.shop.checkout_many(30)
    code = (
        "import dagster, sys; from erp_sync.definitions import defs\n"
        "with dagster.DagsterInstance.get() as instance:\n"
        f"    defs.resolve_job_def('orders').execute_in_process(instance=instance, partition_key='{today()}')"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert sorted(numbers_in(here.on)) == sorted(order.number for order in orders)
    assert here.figures(today())["day_sent"] == 30


def _arrived(here: Place, numbers: set[str]) -> bool:
    return numbers <= set(numbers_in(here.on))


class TestLingering:
    """A run that the sensor started goes on looking: an order meets a process that is already there."""

    @pytest.fixture
    def lingering(self) -> Iterator[Place]:
        with place(CONFIG.replace("linger_seconds = 2", "linger_seconds = 30")) as opened:
            yield opened

    def test_it_takes_what_comes_in_and_leaves_when_another_run_is_queued(self, lingering: Place) -> None:
        results: list[dg.ExecuteInProcessResult] = []
        tags = {LINGER_TAG: "yes"}
        thread = threading.Thread(target=lambda: results.append(lingering.materialize(today(), tags=tags)))
        # Opened first: Alembic, which Dagster uses for a run's file too, is not for two threads at once.
        ledger = lingering.erp_sync.connections().ledger
        thread.start()
        until("it is at work", lambda: ledger.heartbeats_alive("orders", timedelta(seconds=60)), 10)
        for _ in range(2):
            wanted = {*numbers_in(lingering.on), lingering.on.shop.checkout().number}
            until("it takes the order", partial(_arrived, lingering, wanted), 5, pause=0.05)
        assert thread.is_alive()
        lingering.run_in(dg.DagsterRunStatus.QUEUED, today() - timedelta(days=1))
        asked = time.monotonic()
        thread.join(20)
        assert not thread.is_alive()
        assert time.monotonic() - asked < 8
        assert results[0].success
        assert lingering.figures(today())["orders_sent"] == 2

    def test_a_backfill_does_not(self, lingering: Place) -> None:
        lingering.on.shop.checkout()
        started = time.monotonic()
        assert lingering.materialize(today()).success
        assert time.monotonic() - started < 10
