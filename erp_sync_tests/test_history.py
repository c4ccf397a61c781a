"""What goes of Dagster's history and what stays, on a real instance: no day that was done may look undone."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` itself.
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._core.utils import make_new_run_id

from erp_sync.defs import history
from erp_sync.defs.history import Ages, History, HistoryPurged, RunFiles
from erp_sync.errors import LedgerUnavailable
from erp_sync_tests.live import REPOSITORY, Place, job_origin, place

AGES = Ages(succeeded=timedelta(days=14), failed=timedelta(days=90))
DAYS = dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-05")
ORDERS, STOCK = dg.AssetKey("orders"), dg.AssetKey("stock")
SHOP = dg.AssetKey("shop")


@dg.asset(partitions_def=DAYS)
def orders(context: dg.AssetExecutionContext) -> None:
    print("captured")
    if "fails" in context.run.tags:
        raise dg.Failure("the ERP is away")


@dg.asset_check(asset=orders)
def whole() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@dg.asset
def stock() -> dg.MaterializeResult[None]:
    return dg.MaterializeResult(metadata={"written": 3})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    shutil.copy(REPOSITORY / "dagster.yaml", tmp_path)
    return tmp_path


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def run(instance: dg.DagsterInstance, day: str = "", *, fails: bool = False, checked: bool = True) -> str:
    """A run of the day's orders and their check; without a day, of the stock."""
    done = dg.materialize(
        [orders, *([whole] if checked else [])] if day else [stock],
        instance=instance,
        partition_key=f"2026-11-{day}" if day else None,
        tags={"fails": "yes"} if fails else {},
        raise_on_error=False,
    )
    assert done.success is not fails
    return done.run_id


def purge(instance: dg.DagsterInstance, days: float, ages: Ages = AGES, budget: float = 60) -> HistoryPurged:
    """As if it were so many days later."""
    return History(instance).purge(ages, budget=budget, now=datetime.now(UTC) + timedelta(days=days))


def files(home: Path, run_id: str) -> list[Path]:
    return [*(home / "history" / "runs").glob(f"{run_id}*"), *(home / "storage").glob(run_id)]


def shown(instance: dg.DagsterInstance) -> list[list[str]]:
    """The days that the UI shows as done, and as failed, counted anew from what is there."""
    instance.wipe_asset_cached_status([ORDERS])
    status = get_and_update_asset_status_cache_value(instance, ORDERS, DAYS)
    assert status is not None
    done = status.deserialize_materialized_partition_subsets(DAYS)
    failed = status.deserialize_failed_partition_subsets(DAYS)
    return [sorted(key[-2:] for key in subset.get_partition_keys()) for subset in (done, failed)]


def rows(path: Path, table: str, where: str) -> int:
    with closing(sqlite3.connect(path)) as database:
        count: int = database.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()[0]
        return count


def left_of(home: Path, run_id: str) -> int:
    """Rows and files that still speak of a run."""
    index, of_run = home / "history" / "runs" / "index.db", f"run_id = '{run_id}'"
    return (
        rows(index, "event_logs", of_run)
        + rows(index, "asset_check_executions", of_run)
        + rows(home / "history" / "runs.db", "runs", of_run)
        + rows(home / "history" / "runs.db", "run_tags", of_run)
        + len(files(home, run_id))
    )


def test_an_old_run_goes_with_all_that_belongs_to_it(instance: dg.DagsterInstance, home: Path) -> None:
    first, second = run(instance, "01"), run(instance, "01")
    assert len(files(home, first)) == 2
    assert purge(instance, 13.9).runs == 0
    purged = purge(instance, 14.1)
    assert (purged.runs, purged.runs_left, purged.runs_kept) == (1, 0, 1)
    assert purged.bytes_freed > 50_000
    assert left_of(home, first) == 0
    assert len(files(home, second)) == 2
    assert len(instance.all_logs(second)) > 5
    assert purge(instance, 14.1).runs == 0


def test_the_last_run_of_each_day_stays_so_that_the_day_does(instance: dg.DagsterInstance) -> None:
    """Dagster's cache of the days hides a deleted run until it is built anew."""
    gone = [run(instance, "01", checked=False), run(instance, "02", fails=True, checked=False), run(instance)]
    failed = run(instance, "03", fails=True, checked=False)
    stays = [failed, *(run(instance, day, checked=False) for day in ("01", "02", ""))]
    before = shown(instance)
    assert before == [["01", "02"], ["03"]]
    purge(instance, 1000)
    assert set(instance.get_run_ids()) == set(stays)
    assert not set(gone) & set(stays)
    assert shown(instance) == before
    assert instance.get_latest_materialization_event(STOCK) is not None
    instance.delete_run(stays[1])
    assert shown(instance) == [["02"], ["03"]]


def test_the_run_of_a_checks_last_result_stays(instance: dg.DagsterInstance) -> None:
    run(instance, "01")
    stays = {run(instance, "01"), run(instance, "01", checked=False)}
    assert purge(instance, 1000).runs == 1
    assert set(instance.get_run_ids()) == stays


def test_failed_runs_stay_longer(instance: dg.DagsterInstance) -> None:
    failed, succeeded = run(instance, "01", fails=True), run(instance, "01")
    last = run(instance, "01")
    purge(instance, 15)
    assert set(instance.get_run_ids()) == {failed, last}
    purge(instance, 91)
    assert set(instance.get_run_ids()) == {last}
    assert succeeded not in instance.get_run_ids()


def test_a_run_that_is_not_finished_stays_however_old(instance: dg.DagsterInstance) -> None:
    finished = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
    for status in dg.DagsterRunStatus:
        run_id, origin = make_new_run_id(), job_origin()
        a_run = dg.DagsterRun(job_name="orders", run_id=run_id, status=status, remote_job_origin=origin)
        instance.run_storage.add_run(a_run)
    assert purge(instance, 1000).runs == len(finished)
    left = {record.dagster_run.status for record in instance.get_run_records()}
    assert left == set(dg.DagsterRunStatus) - finished


def test_the_runs_of_a_backfill_at_work_stay(instance: dg.DagsterInstance) -> None:
    run_ids = {}
    for name, status in (("working", BulkActionStatus.REQUESTED), ("over", BulkActionStatus.COMPLETED_SUCCESS)):
        backfill = PartitionBackfill(name, status, from_failure=False, tags={}, backfill_timestamp=0.0)
        instance.add_backfill(backfill)
        run_ids[name] = make_new_run_id()
        tags = {"dagster/backfill": name}
        done = dg.DagsterRun(job_name="orders", run_id=run_ids[name], status=dg.DagsterRunStatus.SUCCESS, tags=tags)
        instance.run_storage.add_run(done)
    purge(instance, 1000)
    assert instance.get_run_ids() == [run_ids["working"]]


def test_nothing_outside_the_instances_folders_is_deleted(instance: dg.DagsterInstance, home: Path) -> None:
    evil = "../../outside"
    for path in (home / "outside.db", home.parent / "outside" / "precious", home / "linked" / "precious"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("precious")
    linked = make_new_run_id()
    (home / "storage").mkdir(exist_ok=True)
    (home / "storage" / linked).symlink_to(home / "linked")
    for run_id in (evil, linked):
        done = dg.DagsterRun(job_name="orders", run_id=run_id, status=dg.DagsterRunStatus.SUCCESS)
        instance.run_storage.add_run(done)
    assert purge(instance, 1000).runs == 2
    assert (home / "outside.db").exists()
    assert (home.parent / "outside" / "precious").exists()
    assert (home / "linked" / "precious").exists()


def test_a_pass_that_was_killed_is_finished_by_the_next(
    instance: dg.DagsterInstance, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = [run(instance, "01") for _ in range(3)]
    run(instance, "01")
    delete = RunFiles.delete
    seen: list[str] = []

    def killed(self: RunFiles, run_id: str) -> int:
        seen.append(run_id)
        if len(seen) == 2:
            raise SystemExit
        return delete(self, run_id)

    monkeypatch.setattr(RunFiles, "delete", killed)
    with pytest.raises(SystemExit):
        purge(instance, 15)
    monkeypatch.undo()
    assert seen == gone[:2]  # the oldest first
    assert set(gone[1:]) < set(instance.get_run_ids())
    assert purge(instance, 15).runs == 2
    assert [left_of(home, run_id) for run_id in gone] == [0, 0, 0]


def test_two_passes_at_once_are_harmless(instance: dg.DagsterInstance, home: Path) -> None:
    gone = [run(instance) for _ in range(3)]
    last = run(instance)
    with dg.DagsterInstance.from_config(str(home)) as other, ThreadPoolExecutor(2) as threads:
        done = [threads.submit(purge, each, 15) for each in (instance, other)]
        assert sum(one.result().runs for one in done) >= len(gone)
    assert instance.get_run_ids() == [last]
    assert sum(left_of(home, run_id) for run_id in gone) == 0


def test_a_pass_without_time_leaves_the_rest_to_the_next(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        run(instance)
    monkeypatch.setattr(history, "RUNS", 1)
    purged = purge(instance, 15, budget=0)
    assert (purged.runs, purged.runs_left) == (0, 2)
    purged = purge(instance, 15)
    assert (purged.runs, purged.runs_left) == (2, 0)


def observe(instance: dg.DagsterInstance, day: str, times: int) -> None:
    for _ in range(times):
        instance.report_runless_asset_event(dg.AssetObservation(SHOP, partition=day))
        instance.report_runless_asset_event(dg.AssetCheckEvaluation(ORDERS, "whole", passed=True, metadata={}))


def test_the_last_event_without_a_run_of_each_kind_stays(
    instance: dg.DagsterInstance, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "CHUNK", 2)
    observe(instance, "2026-11-01", 4)
    observe(instance, "2026-11-02", 3)
    index, shard = home / "history" / "runs" / "index.db", home / "history" / "runs" / ".db"
    assert purge(instance, 13.9).runless_events == 0
    assert purge(instance, 14.1).runless_events == 5 + 6 + 6  # observations, evaluations, results of the check
    for path in (index, shard):
        assert rows(path, "event_logs", "dagster_event_type = 'ASSET_OBSERVATION'") == 2
        assert rows(path, "event_logs", "dagster_event_type = 'ASSET_CHECK_EVALUATION'") == 1
    assert rows(index, "asset_check_executions", "1") == 1
    seen = instance.fetch_observations(SHOP, limit=10).records
    assert [record.partition_key for record in seen] == ["2026-11-02", "2026-11-01"]


def test_what_somebody_deleted_in_the_ui_leaves_no_files(instance: dg.DagsterInstance, home: Path) -> None:
    deleted, stays = run(instance), run(instance)
    instance.delete_run(deleted)
    assert files(home, deleted)
    assert purge(instance, 13).stray_runs == 0
    assert purge(instance, 15).stray_runs == 1
    assert files(home, deleted) == []
    assert files(home, stays)


def test_where_all_runs_share_one_database_their_rows_go(home: Path) -> None:
    """As with Postgres or MySQL."""
    shared = {
        "module": "dagster._core.storage.event_log",
        "class": "ConsolidatedSqliteEventLogStorage",
        "config": {"base_dir": str(home / "shared")},
    }
    with dg.DagsterInstance.from_ref(
        InstanceRef.from_dir(str(home), overrides={"event_log_storage": shared})
    ) as instance:
        gone, stays = run(instance, "01"), run(instance, "01")
        observe(instance, "2026-11-01", 2)
        purged = purge(instance, 15)
        assert (purged.runs, purged.runless_events) == (1, 3)
        assert instance.all_logs(gone) == []
        assert len(instance.all_logs(stays)) > 5
        assert instance.get_run_ids() == [stays]


def figures(done: dg.ExecuteInProcessResult, step: str) -> dict[str, Any]:
    [output] = [event for event in done.events_for_node(step) if event.is_successful_output]
    return {name: value.value for name, value in output.step_output_data.metadata.items()}


@pytest.fixture(scope="module")
def at() -> Iterator[Place]:
    with place() as at:
        yield at


def test_the_job_purges_both_and_says_how_much(at: Place) -> None:
    done = at.defs.resolve_job_def("retention").execute_in_process(instance=at.instance)
    assert done.success
    assert figures(done, "purge_history")["runs_deleted"] == 0
    assert figures(done, "purge_ledger")["every_order_was_looked_at"] is True
    assert done.dagster_run.tags["dagster/max_runtime"] == "1200"


def test_without_the_ledger_the_history_goes_all_the_same(at: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_arguments: object, **_options: object) -> None:
        raise LedgerUnavailable("the ledger is away")

    monkeypatch.setattr("erp_sync.sync.retention.purge_ledger", away)
    done = at.defs.resolve_job_def("retention").execute_in_process(instance=at.instance, raise_on_error=False)
    assert not done.success
    assert done.get_step_success_events()[0].step_key == "purge_history"
    [failure] = done.get_step_failure_events()
    error = failure.step_failure_data.error
    assert error is not None
    assert "the ledger is away" in error.message
