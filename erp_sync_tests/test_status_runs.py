"""The statuses flow in Dagster: its two assets, its schedule, and what a run says when the system failed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from erp_sync.defs.names import ERP_ORDER_STATUS, SHOP_ORDER_STATUS, STATUSES_JOB
from erp_sync.defs.runs import LostRuns
from erp_sync.models import OrderStatus
from erp_sync.sandbox.shop import PlacedOrder
from erp_sync.sandbox.shop_schema import orders
from erp_sync_tests.live import Place, place, until


@pytest.fixture
def setting() -> Iterator[Place]:
    with place() as setting:
        yield setting


def run(setting: Place) -> dg.ExecuteInProcessResult:
    return setting.defs.resolve_job_def(STATUSES_JOB).execute_in_process(
        instance=setting.instance, raise_on_error=False
    )


def tick(setting: Place) -> Any:
    schedule = setting.defs.resolve_schedule_def("order_statuses")
    context = dg.build_schedule_context(
        instance=setting.instance,
        scheduled_execution_time=datetime(2026, 11, 24, 12, tzinfo=UTC),
        resources={"erp_sync": setting.erp_sync},
    )
    return schedule(context)


def sent(setting: Place, count: int) -> list[PlacedOrder]:
    placed = setting.on.shop.checkout_many(count)
    flow = setting.erp_sync.connections().orders_flow()
    while setting.erp_sync.connections().ledger.actionable(1) or not setting.entry(placed[0]):
        assert flow.run(sweep=False).failure is None
    return placed


def figures(setting: Place, key: dg.AssetKey) -> dict[str, Any]:
    found = setting.instance.get_latest_materialization_event(key)
    assert found is not None
    assert found.asset_materialization is not None
    return {name: value.value for name, value in found.asset_materialization.metadata.items()}


def shown(setting: Place, order: PlacedOrder) -> str:
    engine = sa.create_engine(setting.on.environment["ERP_SYNC_SHOP_URL"])
    with engine.connect() as connection:
        status = str(connection.scalar(sa.select(orders.c.status).where(orders.c.id == order.order_id)))
    engine.dispose()
    return status


def test_a_run_asks_the_erp_tells_the_shop_and_says_how_it_stands(setting: Place) -> None:
    first, _, _ = sent(setting, 3)
    assert run(setting).success
    entry = setting.entry(first)
    assert entry is not None
    setting.on.erp.admin("POST", f"/orders/{entry.erp_branch}/{entry.erp_number}/release", {})
    assert run(setting).success
    asked = figures(setting, ERP_ORDER_STATUS)
    assert (asked["orders_asked"], asked["orders_changed"]) == (3, 1)
    assert {f"now_{status}" for status in OrderStatus} <= asked.keys()
    assert (asked["now_open"], asked["now_released"], asked["now_watched"]) == (2, 1, 3)
    told = figures(setting, SHOP_ORDER_STATUS)
    assert (told["orders_told"], told["now_untold"], told["oldest_unconfirmed_minutes"]) == (1, 0, 0.0)
    assert shown(setting, first) == "packing"


def test_with_the_erp_away_the_run_is_red_and_the_shop_untouched(setting: Place) -> None:
    (order,) = sent(setting, 1)
    setting.on.erp.kill()
    result = run(setting)
    assert not result.success
    [failure] = result.filter_events(lambda event: event.event_type_value == "STEP_FAILURE")
    assert "ERP_SYNC_ERP_URL" in str(failure.event_specific_data)
    assert setting.instance.get_latest_materialization_event(SHOP_ORDER_STATUS) is None
    assert shown(setting, order) == "paid"


def test_the_schedule_asks_for_one_run_at_a_time(setting: Place) -> None:
    request = tick(setting)
    assert isinstance(request, dg.RunRequest)
    assert (request.tags["dagster/max_runtime"], request.partition_key) == ("300", None)
    job = setting.defs.resolve_job_def(STATUSES_JOB)
    setting.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert "still at work" in str(tick(setting).skip_message)


def test_the_schedule_is_quiet_while_the_erp_is_down_until_a_probe_is_due(setting: Place) -> None:
    sent(setting, 1)
    setting.on.erp.kill()
    gate = setting.erp_sync.connections().gate
    while gate.breaker_open() is None:
        assert not run(setting).success
    assert "does not answer" in str(tick(setting).skip_message)
    setting.on.erp.restart()
    until("a probe is due", lambda: isinstance(tick(setting), dg.RunRequest), 30)
    assert run(setting).success
    assert gate.breaker_open() is None


def test_a_run_that_was_killed_is_found_by_its_silence(setting: Place) -> None:
    """It would stay STARTED, and the schedule would wait for it for ever."""
    job = setting.defs.resolve_job_def(STATUSES_JOB)
    lost = setting.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    early = datetime.now(UTC) - timedelta(minutes=3)
    with setting.instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
        text = "UPDATE runs SET start_time = :at, update_timestamp = :when WHERE run_id = :id"
        values = {"at": early.timestamp(), "when": early.replace(tzinfo=None), "id": lost.run_id}
        connection.execute(sa.text(text), values)
    LostRuns().report(setting.instance, alive=[], ever=[lost.run_id])
    found = setting.instance.get_run_by_id(lost.run_id)
    assert found is not None
    assert found.status is dg.DagsterRunStatus.FAILURE
    assert isinstance(tick(setting), dg.RunRequest)


def test_the_graph_goes_on_from_the_erp_back_to_the_shop(setting: Place) -> None:
    graph = setting.defs.resolve_asset_graph()
    erp, shop = graph.get(ERP_ORDER_STATUS), graph.get(SHOP_ORDER_STATUS)
    assert {key.to_user_string() for key in erp.parent_keys} == {"erp/orders"}
    assert shop.parent_keys == {ERP_ORDER_STATUS}
    for node in (erp, shop):
        assert node.partitions_def is None, "they are states, not history"
        assert (node.pools, node.group_name, node.owners) == ({"erp_statuses"}, "orders", ["team:integration"])
        assert node.description
        assert "dagster/code_references" in node.metadata
    lineage = shop.metadata["dagster/column_lineage"].deps_by_column
    fields = {column.name for column in erp.metadata["dagster/column_schema"].columns}
    assert {dep.column_name for deps in lineage.values() for dep in deps} <= fields
