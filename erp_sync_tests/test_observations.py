"""What was sent outside of any run, in a real Dagster instance."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import date, timedelta
from functools import partial
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from erp_sync.defs.history import Ages, History
from erp_sync.defs.names import ERP_ORDERS
from erp_sync.defs.observations import Observations
from erp_sync.sync.results import OrdersResult
from erp_sync_tests.live import Place, place, today, until


@pytest.fixture(scope="module")
def setting() -> Iterator[Place]:
    with place() as setting:
        setting.swept()
        yield setting


def done(*days: date, sent: int = 3, refused: int = 0) -> OrdersResult:
    result = OrdersResult()
    for day in days:
        result.days[day].sent = sent
        result.days[day].refused = refused
    result.minutes_to_erp.extend([0.002, 0.003, 0.01])
    return result


def observed(instance: dg.DagsterInstance, day: date) -> list[dict[str, Any]]:
    """The figures of the day's observations, the newest first."""
    found = instance.fetch_observations(
        dg.AssetRecordsFilter(asset_key=ERP_ORDERS, asset_partitions=[day.isoformat()]), limit=10
    )
    observations = [record.event_log_entry.asset_observation for record in found.records]
    return [{name: value.value for name, value in one.metadata.items()} for one in observations if one is not None]


def status(setting: Place, day: date) -> str:
    """As the UI's bar of partitions shows it."""
    days = setting.defs.resolve_assets_def(ERP_ORDERS).partitions_def
    value = get_and_update_asset_status_cache_value(setting.instance, ERP_ORDERS, days)
    assert value is not None
    assert days is not None
    if day.isoformat() in value.deserialize_failed_partition_subsets(days).get_partition_keys():
        return "failed"
    green = value.deserialize_materialized_partition_subsets(days).get_partition_keys()
    return "materialized" if day.isoformat() in green else "missing"


def test_each_day_of_a_minute_is_one_observation_with_figures_that_plot(setting: Place) -> None:
    yesterday = today() - timedelta(days=1)
    observations = Observations()
    observations.note(done(today(), yesterday, refused=1))
    until("told", lambda: observed(setting.instance, today()) and observed(setting.instance, yesterday), 10)
    observations.note(done(today(), sent=5))
    observations.close()
    newest, older = observed(setting.instance, today())
    assert (newest["orders_sent"], older["orders_sent"], older["orders_refused"]) == (5, 3, 1)
    assert older["seconds_to_erp_longest"] == 0.6
    assert all(isinstance(value, int | float) for value in newest.values())
    assert len(observed(setting.instance, yesterday)) == 1


def test_a_red_day_stays_red_and_no_day_turns_green(setting: Place) -> None:
    red, untouched = today() - timedelta(days=2), today() - timedelta(days=3)
    order = setting.order_on(red)
    setting.on.erp.kill()
    try:
        assert not setting.materialize(red).success
    finally:
        setting.on.erp.restart()
    assert (status(setting, red), status(setting, untouched)) == ("failed", "missing")
    before = setting.instance.get_latest_materialization_event(ERP_ORDERS)
    observations = Observations()
    observations.note(done(red, untouched))
    observations.close()
    assert observed(setting.instance, red)
    assert (status(setting, red), status(setting, untouched)) == ("failed", "missing")
    assert setting.instance.get_latest_materialization_event(ERP_ORDERS) == before, "freshness goes by this event"
    until("sent", lambda: setting.materialize(red).success, 60)
    assert status(setting, red) == "materialized"
    assert setting.entry(order) is not None


def test_a_storage_that_is_away_or_slow_keeps_nobody_waiting_and_loses_no_figure(
    setting: Place, caplog: pytest.LogCaptureFixture
) -> None:
    day = today() - timedelta(days=5)
    asked, stuck = threading.Event(), threading.Event()

    def instance() -> dg.DagsterInstance:
        if not asked.is_set():
            asked.set()
            stuck.wait(10)
            raise ConnectionError("s3cr3t")
        return dg.DagsterInstance.get()

    observations = Observations(instance, retry=0.05)
    started = time.monotonic()
    for _ in range(1000):
        observations.note(done(day, sent=1))
    assert time.monotonic() - started < 8
    assert asked.wait(5)
    stuck.set()
    until("told", lambda: observed(setting.instance, day), 10)
    observations.close()
    assert sum(one["orders_sent"] for one in observed(setting.instance, day)) == 1000
    assert "Dagster was not told of 1 days: ConnectionError" in caplog.text
    assert "s3cr3t" not in caplog.text


def test_what_is_noted_while_something_is_told_is_told_before_the_end(setting: Place) -> None:
    day, told, go_on = today() - timedelta(days=8), threading.Event(), threading.Event()

    def instance() -> dg.DagsterInstance:
        told.set()
        go_on.wait(10)
        return dg.DagsterInstance.get()

    observations = Observations(instance)
    observations.note(done(day, sent=1))
    assert told.wait(5)
    observations.note(done(day, sent=2))
    threading.Timer(0.1, go_on.set).start()
    observations.close()
    assert [one["orders_sent"] for one in observed(setting.instance, day)] == [2, 1]


def test_one_instance_is_kept_until_it_fails(setting: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    day = today() - timedelta(days=9)
    made: list[dg.DagsterInstance] = []
    left: list[dg.DagsterInstance] = []
    genuine = dg.DagsterInstance.dispose

    def instance() -> dg.DagsterInstance:
        made.append(dg.DagsterInstance.get())
        return made[-1]

    def told(times: int) -> bool:
        return len(observed(setting.instance, day)) == times

    def dispose(one: dg.DagsterInstance) -> None:
        left.append(one)
        genuine(one)

    monkeypatch.setattr(dg.DagsterInstance, "dispose", dispose)
    observations = Observations(instance, retry=0.05)
    for times in (1, 2, 3):
        if times == 3:
            monkeypatch.setattr(made[0], "report_runless_asset_event", None)
        observations.note(done(day, sent=times))
        until("told", partial(told, times), 10)
        assert len(made) == (1 if times < 3 else 2)
    assert left == made[:1]
    observations.close()
    assert left == made


def test_old_observations_go_with_the_nightly_retention(setting: Place) -> None:
    day = today() - timedelta(days=6)
    observations = Observations()
    observations.note(done(day, sent=1))
    until("told", lambda: observed(setting.instance, day), 10)
    observations.note(done(day, sent=2))
    observations.close()
    History(setting.instance).purge(Ages(timedelta(0), timedelta(0)), budget=30)
    assert [one["orders_sent"] for one in observed(setting.instance, day)] == [2]
