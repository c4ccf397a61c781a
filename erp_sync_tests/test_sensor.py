"""The sensor on a real instance: what it asks for, and what it must never ask for; then a live daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import timedelta

import dagster as dg
import pytest

from erp_sync.defs.names import SHOP_ORDERS
from erp_sync.demo import Stage, stage
from erp_sync.models import LedgerState
from erp_sync.sandbox.config import Fault
from erp_sync_tests.live import LiveDagster, Place, numbers_in, place, today, until


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr("erp_sync.defs.sensors.WAIT_SECONDS", 0.2)
    with place() as opened:
        yield opened


def _asked(result: dg.SensorResult) -> list[str | None]:
    return [request.partition_key for request in result.run_requests or ()]


def _why(result: dg.SensorResult) -> str:
    reason = result.skip_reason
    return reason.skip_message or "" if isinstance(reason, dg.SkipReason) else reason or ""


def test_the_first_tick_asks_for_one_sweep(here: Place) -> None:
    """Each tick that asked for another would fill the queue while the first one runs."""
    [request] = here.tick().run_requests or []
    assert (request.partition_key, request.tags["erp_sync/sweep"]) == (today().isoformat(), "first")
    here.run_in(dg.DagsterRunStatus.QUEUED, today())
    assert _asked(here.tick()) == []


def test_a_tick_finds_an_order_and_asks_for_its_day(here: Place) -> None:
    here.swept()
    order = here.order_on(today() - timedelta(days=2))
    [request] = here.tick().run_requests or []
    assert request.partition_key == (today() - timedelta(days=2)).isoformat()
    assert request.run_key is None, "a run key is remembered for ever, even when its run failed"
    assert request.tags["erp_sync/linger"] == "yes"
    assert request.tags["dagster/max_runtime"] == "300"
    assert here.materialize(today() - timedelta(days=2)).success
    assert _asked(here.tick()) == []
    assert numbers_in(here.on) == [order.number]


def test_a_defect_in_a_tick_shows_dagster_no_personal_data(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("customer 529.982.247-25, ana@example.com")

    monkeypatch.setattr(here.erp_sync.connections().ledger, "heartbeats_alive", broken)
    with pytest.raises(dg.Failure) as failed:
        here.tick()
    said = f"{failed.value.description} {failed.value.metadata}"
    assert "ValueError" in said
    assert not any(secret in said for secret in ("529.982", "52998224725", "ana@example.com"))
    assert (failed.value.__cause__, failed.value.__suppress_context__) == (None, True)


def test_the_tick_waits_for_an_order_and_tells_of_it_once(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erp_sync.defs.sensors.WAIT_SECONDS", 1.0)
    here.swept()
    started = time.monotonic()
    assert "nothing is due" in _why(here.tick())
    assert time.monotonic() - started > 0.7
    for _ in range(3):
        here.on.shop.checkout()
    result = here.tick()
    [event] = result.asset_events
    assert isinstance(event, dg.AssetObservation)
    assert (event.asset_key, event.partition) == (SHOP_ORDERS, today().isoformat())
    assert event.metadata["orders_found"].value == 3
    here.on.shop.checkout()
    assert here.tick().asset_events == [], "one observation a minute is enough: each is a row of Dagster's storage"


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING])
def test_no_second_run_is_asked_for_while_one_is_on_its_way(here: Place, status: dg.DagsterRunStatus) -> None:
    """The queue would grow by a run every five seconds for as long as a slow container starts."""
    here.swept()
    here.on.shop.checkout()
    here.order_on(today() - timedelta(days=1))
    here.run_in(status, today())
    assert _asked(here.tick()) == [(today() - timedelta(days=1)).isoformat()]


def test_a_queued_range_covers_all_its_days(here: Place) -> None:
    here.swept()
    for days in (1, 3, 5):
        here.order_on(today() - timedelta(days=days))
    tags = {
        "dagster/asset_partition_range_start": (today() - timedelta(days=3)).isoformat(),
        "dagster/asset_partition_range_end": (today() - timedelta(days=1)).isoformat(),
    }
    here.run_in(dg.DagsterRunStatus.QUEUED, today(), tags)
    assert _asked(here.tick()) == [(today() - timedelta(days=5)).isoformat()]


def test_a_run_that_a_killed_daemon_never_queued_covers_nothing(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays NOT_STARTED for ever, and its day would never be sent."""
    here.swept()
    here.on.shop.checkout()
    here.run_in(dg.DagsterRunStatus.NOT_STARTED, today())
    assert _asked(here.tick()) == []
    monkeypatch.setattr("erp_sync.defs.runs.HEARTBEAT_ALIVE", timedelta(0))
    assert _asked(here.tick()) == [today().isoformat()]


def test_a_day_that_a_living_run_is_at_is_left_to_it(here: Place) -> None:
    here.swept()
    ledger = here.erp_sync.connections().ledger
    here.on.shop.checkout()
    with ledger.heartbeat("a-run", "orders", [today()], every=10):
        assert _asked(here.tick()) == []
    assert _asked(here.tick()) == [today().isoformat()]


@pytest.mark.parametrize("kind", ["no_ordered_at", "ordered_in_2099"])
def test_an_order_without_a_day_breaks_no_tick(here: Place, kind: str) -> None:
    """A request for a day outside the partitions fails the whole tick, and every tick after it."""
    here.swept()
    bad = here.on.shop.place_bad_order(kind)
    good = here.on.shop.checkout()
    assert _asked(here.tick()) == [today().isoformat()]
    assert here.state(bad) is LedgerState.INVALID
    assert here.state(good) is LedgerState.DUE


def test_while_the_breaker_is_open_only_the_probe_is_made(here: Place) -> None:
    """An ERP that comes back after four days must not meet a storm, and nobody wants 70,000 red runs."""
    here.swept()
    gate = here.erp_sync.connections().gate
    for _ in range(20):
        gate.failed()
    order = here.on.shop.checkout()
    before = len(here.on.erp.arrivals())
    result = here.tick()
    assert _asked(result) == []
    assert "the next probe is at" in _why(result)
    assert len(here.on.erp.arrivals()) == before
    assert here.state(order) is LedgerState.DUE


def test_a_probe_that_is_answered_closes_the_breaker(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    here.swept()
    gate = here.erp_sync.connections().gate
    here.on.erp.set_faults(Fault(kind="html_502"))
    for _ in range(5):
        gate.failed()
    here.on.shop.checkout()
    assert _asked(here.tick()) == []
    here.on.erp.set_faults()
    until("the breaker closes", lambda: _asked(here.tick()) == [today().isoformat()], 30)


class TestLostRuns:
    """A run whose process group was killed stays STARTED and holds the pool for ever: nothing is sent any more."""

    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch, here: Place) -> None:
        self._never_left: list[AbstractContextManager[None]] = []
        monkeypatch.setattr("erp_sync.defs.runs.HEARTBEAT_ALIVE", timedelta(seconds=0.5))
        monkeypatch.setattr("erp_sync.defs.sensors.HEARTBEAT_ALIVE", timedelta(seconds=0.5))
        here.swept()

    def _status(self, here: Place, run: dg.DagsterRun) -> dg.DagsterRunStatus:
        found = here.instance.get_run_by_id(run.run_id)
        assert found is not None
        return found.status

    def _beat_once(self, here: Place, run: dg.DagsterRun) -> None:
        """What the ledger holds of a run that was killed at work."""
        heart = here.erp_sync.connections().ledger.heartbeat(run.run_id, "orders", [today()], every=60)
        heart.__enter__()
        self._never_left.append(heart)

    def test_one_that_stopped_beating_is_reported_failed(self, here: Place) -> None:
        run = here.run_in(dg.DagsterRunStatus.STARTED, today())
        self._beat_once(here, run)
        here.tick()
        assert self._status(here, run) is dg.DagsterRunStatus.STARTED
        time.sleep(0.6)
        here.tick()
        assert self._status(here, run) is dg.DagsterRunStatus.FAILURE

    def test_one_at_work_is_left_alone(self, here: Place) -> None:
        run = here.run_in(dg.DagsterRunStatus.STARTED, today())
        with here.erp_sync.connections().ledger.heartbeat(run.run_id, "orders", [today()], every=0.1):
            time.sleep(0.8)
            here.tick()
            assert self._status(here, run) is dg.DagsterRunStatus.STARTED

    def test_one_that_is_just_finishing_is_given_time(self, here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its heart stops a moment before Dagster calls it finished: no good run must turn red then."""
        run = here.run_in(dg.DagsterRunStatus.STARTED, today())
        with here.erp_sync.connections().ledger.heartbeat(run.run_id, "orders", [today()], every=10):
            time.sleep(0.6)
        here.tick()
        here.tick()
        assert self._status(here, run) is dg.DagsterRunStatus.STARTED
        monkeypatch.setattr("erp_sync.defs.runs.FINISHING_SECONDS", 0.0)
        here.tick()
        assert self._status(here, run) is dg.DagsterRunStatus.FAILURE

    def test_one_that_never_came_up_is_reported_failed(self, here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("erp_sync.defs.runs.FINISHING_SECONDS", 0.0)
        run = here.run_in(dg.DagsterRunStatus.STARTING, today())
        time.sleep(0.6)
        here.tick()
        here.tick()
        assert self._status(here, run) is dg.DagsterRunStatus.FAILURE

    def test_a_run_of_another_job_is_none_of_ours(self, here: Place) -> None:
        @dg.op
        def nothing() -> None: ...

        @dg.job
        def another() -> None:
            nothing()

        run = here.instance.create_run_for_job(another, status=dg.DagsterRunStatus.STARTED)
        time.sleep(0.6)
        here.tick()
        assert self._status(here, run) is dg.DagsterRunStatus.STARTED


def test_orders_arrive_by_themselves_also_after_a_reboot() -> None:
    """The daemon, its code server and a run, killed together and started again; nobody lends a hand."""
    with stage(latency_ms=20) as on, LiveDagster(on) as live:
        live.start(web=False)
        first = on.shop.checkout_many(3)
        _arrive(on, live, [order.number for order in first], 90)
        waits = []
        for _ in range(3):
            order = on.shop.checkout()
            committed = time.monotonic()
            _arrive(on, live, [order.number], 60)
            waits.append(time.monotonic() - committed)
        with live.instance() as instance:
            started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
            [run] = until("a run is at work", lambda: instance.get_runs(started), 60)
            assert live.kill() >= 3, "daemon, code server and run"
            order = on.shop.checkout()
            rebooted = time.monotonic()
            live.start(web=False)
            _arrive(on, live, [order.number], 120)
            print(f"first orders, then each alone: {waits}; after the reboot: {time.monotonic() - rebooted:.0f} s")
            found = instance.get_run_by_id(run.run_id)
            assert found is not None
            assert found.status is dg.DagsterRunStatus.FAILURE
        numbers = numbers_in(on)
        assert len(numbers) == len(set(numbers)) == 7


def _arrive(on: Stage, live: LiveDagster, numbers: list[str], seconds: float) -> None:
    try:
        until(f"{numbers} in the ERP", lambda: set(numbers) <= set(numbers_in(on)), seconds, pause=0.1)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{live.log()}") from None
