"""What Dagster may see: loads anywhere, shows what analysts need, costs next to nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy

from erp_sync.alert_texts import KINDS
from erp_sync.definitions import build_definitions
from erp_sync.defs.names import AGREES, ERP_ORDER_STATUS, ERP_ORDERS, SHOP_ORDER_STATUS, SHOP_ORDERS, SHOP_STOCK_LEVELS
from erp_sync.errors import Misconfigured
from erp_sync.mapping import COLUMN_LINEAGE
from erp_sync.settings import OrdersSection, Settings, load_settings
from erp_sync.sync.findings import DOCTOR_CHECKS, INSPECTION_CHECKS, LEDGER_CHECKS
from erp_sync.sync.health import LedgerHealth
from erp_sync.sync.inspection import Inspection
from erp_sync_tests.live import REPOSITORY

START_DAY = date(2026, 5, 1)


@pytest.fixture
def defs() -> dg.Definitions:
    return build_definitions(Settings(orders=OrdersSection(start_day=START_DAY)))


def _fresh(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, with nothing of ours in the environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ERP_SYNC_", "DAGSTER"))}
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )


def test_definitions_load_without_environment_and_without_warnings() -> None:
    """A CI that needs the production password to load the code cannot check it; a warning is next year's outage."""
    code = """if True:
        import json
        from erp_sync.definitions import defs
        repository = defs.get_repository_def()
        print(json.dumps({
            "assets": sorted(key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()),
            "sensors": {sensor.name: sensor.default_status.value for sensor in repository.sensor_defs},
            "schedules": {schedule.name: schedule.default_status.value for schedule in repository.schedule_defs},
        }))"""
    done = _fresh(code, "-W", "error")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "assets": [
            *("erp/order_status", "erp/orders", "erp/stock_balances", "health/reconciliation"),
            *("shop/order_status", "shop/orders", "shop/stock_levels"),
        ],
        "sensors": {"alarms": "RUNNING", "finalized_orders": "RUNNING"},
        "schedules": {
            **{"doctor": "RUNNING", "inspection": "RUNNING", "ledger_checks": "RUNNING", "order_statuses": "RUNNING"},
            **{"reconciliation_of_last_days": "RUNNING", "retention": "RUNNING", "stock_levels": "RUNNING"},
            **{"yesterdays_orders": "RUNNING"},
        },
    }


def test_what_is_heavy_is_loaded_when_it_is_needed() -> None:
    heavy = "sqlalchemy", "pandas", "matplotlib", "numpy", "alembic", "requests", "pymysql", "erp_sync.sync.connections"
    done = _fresh(
        "import sys, dagster; before = set(sys.modules); import erp_sync.definitions;"
        f"print([name for name in {heavy!r} if name in sys.modules and name not in before])"
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_graph_says_what_is_made_of_what(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    shop, erp = graph.get(SHOP_ORDERS), graph.get(ERP_ORDERS)
    assert erp.parent_keys == {SHOP_ORDERS}
    assert not shop.is_executable
    assert erp.is_executable
    for node in (shop, erp):
        assert node.description
        assert node.owners == ["team:integration"]
        assert node.group_name == "orders"
        assert node.partitions_def is not None
    assert erp.pools == {"erp_orders"}
    assert (shop.kinds, erp.kinds) == ({"mysql"}, {"protheus"})


def test_what_a_schedule_makes_anew_says_how_fresh_it_must_be_and_days_do_not(defs: dg.Definitions) -> None:
    """Any partition would count: a backfill of January would make today look fresh."""
    graph = defs.resolve_asset_graph()
    for key in (ERP_ORDER_STATUS, SHOP_ORDER_STATUS, SHOP_STOCK_LEVELS):
        policy = graph.get(key).freshness_policy
        assert isinstance(policy, TimeWindowFreshnessPolicy)
        assert policy.fail_window.to_timedelta() == timedelta(hours=2)
    assert graph.get(ERP_ORDERS).freshness_policy is None


def test_every_check_says_in_words_what_it_asserts_and_blocks_nothing(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    specs = [graph.get_check_spec(key) for key in graph.asset_check_keys]
    named = LEDGER_CHECKS.keys() | INSPECTION_CHECKS.keys() | DOCTOR_CHECKS.keys()
    assert {spec.name for spec in specs} == named | {AGREES}
    for spec in specs:
        assert "(error)" in (spec.description or "") or "warning" in (spec.description or ""), spec.name
        assert not spec.blocking
    assert all(callable(getattr(LedgerHealth, name)) for name in LEDGER_CHECKS)
    assert all(callable(getattr(Inspection, name)) for name in INSPECTION_CHECKS)


def test_every_check_has_words_of_its_own_for_the_channel() -> None:
    checks = {**LEDGER_CHECKS, **INSPECTION_CHECKS, **DOCTOR_CHECKS}
    named = {check.alert or f"check/{name}" for name, check in checks.items()}
    assert named | {f"check/{AGREES}"} <= KINDS.keys()


def test_every_asset_leads_to_its_code_and_every_field_to_its_column(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    references = graph.get(ERP_ORDERS).metadata["dagster/code_references"].code_references
    assert [Path(reference.file_path).name for reference in references] == ["orders.py"]
    lineage = graph.get(ERP_ORDERS).metadata["dagster/column_lineage"]
    assert set(lineage.deps_by_column) == set(COLUMN_LINEAGE)
    shop_columns = {column.name for column in graph.get(SHOP_ORDERS).metadata["dagster/column_schema"].columns}
    assert {dep.column_name for deps in lineage.deps_by_column.values() for dep in deps} <= shop_columns


def test_days_are_the_shops_from_sixty_days_before_going_live_to_today(defs: dg.Definitions) -> None:
    """Without an end offset today does not exist, and every order of today fails the tick."""
    days = defs.resolve_asset_graph().get(ERP_ORDERS).partitions_def
    assert isinstance(days, dg.DailyPartitionsDefinition)
    assert days.timezone == "America/Sao_Paulo"
    assert days.get_first_partition_key() == (START_DAY - timedelta(days=60)).isoformat()
    assert days.get_last_partition_key() == datetime.now(ZoneInfo("America/Sao_Paulo")).date().isoformat()


@pytest.mark.parametrize(
    ("zone", "fires", "day"),
    [
        ("America/Sao_Paulo", datetime(2026, 11, 20, 5, 30, tzinfo=UTC), "2026-11-19"),
        ("Asia/Tokyo", datetime(2026, 11, 19, 17, 30, tzinfo=UTC), "2026-11-19"),
    ],
)
def test_the_nightly_run_is_of_yesterday_in_the_shops_zone(
    zone: str, fires: datetime, day: str, tmp_path: Path
) -> None:
    """02:30 in Tokyo is the day before in UTC: the wrong day would be materialized for ever."""
    text = (resources.files("erp_sync.shop") / "profiles" / "laravel.toml").read_text()
    assert "America/Sao_Paulo" in text
    profile = tmp_path / "shop.toml"
    profile.write_text(text.replace("America/Sao_Paulo", zone))
    defs = build_definitions(Settings(shop_profile=str(profile), orders=OrdersSection(start_day=START_DAY)))
    schedule = defs.resolve_schedule_def("yesterdays_orders")
    assert schedule.execution_timezone == zone
    request = schedule(dg.build_schedule_context(scheduled_execution_time=fires))
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == day
    assert request.tags["erp_sync/sweep"] == "all"
    assert request.tags["dagster/max_runtime"] == "300"


def test_a_wrong_setting_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERP_SYNC_SHOP_PROFILE", "magento")
    with pytest.raises(Misconfigured, match="magento") as raised:
        build_definitions(load_settings())
    assert "\n" not in str(raised.value)
