"""The reconciliation in Dagster: its asset and check, a backfill of three days, the schedule; and the command line."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from erp_sync.definitions import build_definitions
from erp_sync.defs.names import AGREES, HEALTH_RECONCILIATION, RECONCILIATION_JOB
from erp_sync.sandbox.shop import PlacedOrder
from erp_sync.settings import OrdersSection, ReconcileSection, Settings
from erp_sync.sync.findings import DOCTOR_CHECKS, INSPECTION_CHECKS
from erp_sync_tests.live import Place, place, today
from erp_sync_tests.test_cli import CommandLine


@pytest.fixture
def setting() -> Iterator[Place]:
    with place() as setting:
        yield setting


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


def sent_on(setting: Place, *days: Any) -> list[PlacedOrder]:
    placed = [setting.order_on(day) for day in days]
    flow = setting.erp_sync.connections().orders_flow()
    while setting.erp_sync.connections().ledger.actionable(1) or not setting.entry(placed[-1]):
        assert flow.run(sweep=True).failure is None
    assert setting.erp_sync.connections().statuses_flow().run().failure is None
    return placed


def reconcile(setting: Place, first: Any, last: Any) -> dg.ExecuteInProcessResult:
    span = {
        "dagster/asset_partition_range_start": first.isoformat(),
        "dagster/asset_partition_range_end": last.isoformat(),
    }
    job = setting.defs.resolve_job_def(RECONCILIATION_JOB)
    return job.execute_in_process(instance=setting.instance, raise_on_error=False, tags=span)


def figures(setting: Place, day: Any) -> dict[str, Any]:
    records = dg.AssetRecordsFilter(asset_key=HEALTH_RECONCILIATION, asset_partitions=[day.isoformat()])
    event = setting.instance.fetch_materializations(records, limit=1).records[0].asset_materialization
    assert event is not None
    return {name: value.value for name, value in event.metadata.items()}


def evaluation(result: dg.ExecuteInProcessResult) -> Any:
    (found,) = result.get_asset_check_evaluations()
    return found


def test_three_days_are_reconciled_each_with_its_own_figures_and_the_check_speaks_of_all(setting: Place) -> None:
    days = [today() - timedelta(days=back) for back in (2, 1, 0)]
    good, dearer, _ = sent_on(setting, *days)
    entry = setting.entry(dearer)
    assert entry is not None
    path = f"/orders/{entry.erp_branch}/{entry.erp_number}"
    price = setting.on.erp.admin("GET", path)["items"][0]["C6_PRCVEN"]
    setting.on.erp.admin("PATCH", path, {"items": {"01": {"price": "0.01"}}})
    result = reconcile(setting, days[0], days[-1])
    assert result.success, "findings are no failure of the system"

    first, second = figures(setting, days[0]), figures(setting, days[1])
    assert (first["orders_in_shop"], first["orders_in_erp"], first["findings"]) == (1, 1, 0)
    assert (first["value_in_shop"], first["value_difference"]) == (float(good.total), 0.0)
    assert (second["orders_total"], second["findings_for_a_person"], second["dagster/partition_row_count"]) == (1, 1, 1)
    assert second["value_difference"] > 0
    assert {"median_minutes_to_erp", "p95_minutes_to_erp", "orders_missing"} <= first.keys()
    assert dearer.number in str(second["what_does_not_agree"])
    assert dearer.number not in str(first["what_does_not_agree"])
    for drawn in (first["overview"], second["overview"]):
        head, _, picture = drawn.partition("base64,")
        assert head == "![overview](data:image/png;"
        assert b64decode(picture.rstrip(")")).startswith(b"\x89PNG")

    said = evaluation(result)
    assert (said.passed, said.severity, said.asset_key) == (False, dg.AssetCheckSeverity.ERROR, HEALTH_RECONCILIATION)
    assert days[1].isoformat() in said.description
    assert dearer.number in str(said.metadata["what_does_not_agree"])
    # The check states what the ledger has, whichever day is materialized.
    assert not evaluation(reconcile(setting, days[2], days[2])).passed
    setting.on.erp.admin("PATCH", path, {"items": {"01": {"price": str(price)}}})
    mended = evaluation(reconcile(setting, days[1], days[1]))
    assert mended.passed
    assert mended.description == f"Reconciled {days[0]} to {days[2]}, 3 days: all agree."


def test_what_is_no_loss_is_a_warning_and_a_picture_that_fails_is_none(
    setting: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (order,) = sent_on(setting, today())
    setting.on.shop.change_order(order, touch=False, total=order.total + 1, subtotal=order.total + 1)

    def no_font(*_: object) -> bytes:
        raise OSError("no font")

    monkeypatch.setattr("erp_sync.sync.overview.overview_png", no_font)
    result = reconcile(setting, today(), today())
    assert result.success
    said = evaluation(result)
    assert (said.passed, said.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "could not be drawn" in figures(setting, today())["overview"]


def test_what_repairs_itself_is_no_matter_for_an_alert(setting: Place) -> None:
    setting.on.shop.checkout()
    sent_on(setting, today())
    unseen = setting.on.shop.checkout()
    setting.on.shop.change_order(unseen, touch=False, updated_at=setting.on.shop.now() - timedelta(hours=1))
    result = reconcile(setting, today(), today())
    said = evaluation(result)
    assert figures(setting, today())["orders_missing"] == 1
    assert (said.passed, said.metadata["findings"].value, said.metadata["for_a_person"].value) == (True, 1, 0)


def test_with_the_erp_away_the_run_is_red_and_says_why(setting: Place) -> None:
    sent_on(setting, today())
    setting.on.erp.kill()
    result = reconcile(setting, today(), today())
    assert not result.success
    [failure] = result.filter_events(lambda event: event.event_type_value == "STEP_FAILURE")
    assert "ERP_SYNC_ERP_URL" in str(failure.event_specific_data)
    assert setting.instance.get_latest_materialization_event(HEALTH_RECONCILIATION) is None
    assert result.get_asset_check_evaluations() == [], "what was not looked at is not judged"


def test_the_night_reconciles_the_last_days_of_the_shop_s_calendar() -> None:
    """03:30 in São Paulo, after the sweep of 02:30."""
    settings = Settings(
        orders=OrdersSection(start_day=datetime(2026, 11, 1, tzinfo=UTC).date()), reconcile=ReconcileSection(days=3)
    )
    schedule = build_definitions(settings).resolve_schedule_def("reconciliation_of_last_days")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 3 * * *", "America/Sao_Paulo")
    fires = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
    request = schedule(dg.build_schedule_context(scheduled_execution_time=fires))
    assert isinstance(request, dg.RunRequest)
    assert request.tags["dagster/asset_partition_range_start"] == "2026-11-17"
    assert request.tags["dagster/asset_partition_range_end"] == "2026-11-19"


def test_the_graph_says_what_is_compared() -> None:
    node = build_definitions(Settings()).resolve_asset_graph().get(HEALTH_RECONCILIATION)
    assert {key.to_user_string() for key in node.parent_keys} == {"erp/orders", "shop/order_status"}
    assert (node.group_name, node.pools, node.owners) == ("health", {"erp_reconciliation"}, ["team:integration"])
    assert node.description
    assert {key.name for key in node.check_keys} == {AGREES, *INSPECTION_CHECKS, *DOCTOR_CHECKS}


def test_the_command_compares_says_who_decides_and_writes_the_table(
    setting: Place, run: CommandLine, tmp_path: Path
) -> None:
    yesterday = today() - timedelta(days=1)
    (order,) = sent_on(setting, yesterday)
    setting.on.shop.change_order(order, touch=False, total=order.total + 1, subtotal=order.total + 1)
    said = run("run", "reconcile")
    assert said.code == 0, "findings are no failure"
    assert f"{yesterday}: shop 1 orders {order.total + 1:.2f}, ERP 1 orders {order.total:.2f}" in said.out
    assert f"{order.number}: alterado na loja" in said.out
    assert len([line for line in said.out.splitlines() if ": shop " in line]) == 4, "three days, and today so far"
    table = tmp_path / "table.csv"
    said = run("run", "reconcile", "--day", yesterday.isoformat(), "--csv", str(table), "--json")
    (day,) = json.loads(said.out)
    assert (day["day"], day["shop_orders"], day["value_difference"]) == (yesterday.isoformat(), 1, "1.00")
    assert [finding["order"] for finding in day["findings"]] == [order.number]
    assert order.number in table.read_text(encoding="utf-8-sig")
    assert run("run", "reconcile", "--csv", str(tmp_path)).code == 2
    setting.on.erp.kill()
    assert run("run", "reconcile").code == 1
