"""What the outside world starts: finalized orders in the shop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher

from erp_sync.defs.assets import ERP_ORDERS, LINGER_TAG, RUN_TAGS, SHOP_ORDERS, SWEEP_TAG
from erp_sync.defs.resources import ErpSync
from erp_sync.sync.watch import HEARTBEAT_ALIVE, Watched

WAIT_SECONDS = 4.0
"""Dagster's own loop is 5 s: a sensor that waits inside its tick sees an order 0.1 s after its commit, not 2.5 s."""


def finalized_orders(job: dg.UnresolvedAssetJobDefinition, days: dg.DailyPartitionsDefinition) -> dg.SensorDefinition:
    @dg.sensor(
        name="finalized_orders",
        job=job,
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Finds finalized orders in the shop and asks for a run of their business day.",
    )
    def sensor(context: dg.SensorEvaluationContext, erp_sync: ErpSync) -> dg.SensorResult:
        ledger = erp_sync.connections().ledger
        alive = ledger.heartbeats_alive("orders", HEARTBEAT_ALIVE)
        _report_lost_runs(context, alive.keys())
        at_work = frozenset(day for working in alive.values() for day in working)
        watched = erp_sync.orders_watch().wait(WAIT_SECONDS, busy=at_work)
        observations = [_observed(day, count) for day, count in sorted(watched.found.items())]
        if watched.needs_sweep and not alive and not _waiting(context.instance):
            today = days.get_last_partition_key()
            request = dg.RunRequest(partition_key=today, tags={**RUN_TAGS, SWEEP_TAG: "first"})
            return dg.SensorResult([request], asset_events=observations)
        requests = [
            dg.RunRequest(partition_key=key, tags={**RUN_TAGS, LINGER_TAG: "yes"})
            for key in _without_a_run(context.instance, days, watched.days)
        ]
        if requests:
            return dg.SensorResult(requests, asset_events=observations)
        return dg.SensorResult(skip_reason=_why(watched), asset_events=observations)

    return sensor


def _observed(day: date, count: int) -> dg.AssetObservation:
    return dg.AssetObservation(SHOP_ORDERS, partition=day.isoformat(), metadata={"orders_found": count})


def _why(watched: Watched) -> str:
    if watched.breaker_open_until is not None:
        return f"the ERP does not answer; the next probe is at {watched.breaker_open_until:%H:%M:%S} UTC"
    return "nothing is due that no run takes care of"


def _without_a_run(
    instance: dg.DagsterInstance, days: dg.DailyPartitionsDefinition, due: Iterable[date]
) -> Sequence[str]:
    """A day outside the partitions would fail every tick for ever; one that a run is queued for needs no second."""
    keys = [key for key in sorted(day.isoformat() for day in due) if days.has_partition_key(key)]
    if not keys:
        return []
    covered = {key for run in _waiting(instance) for key in _partitions(run)}
    return [key for key in keys if key not in covered]


def _waiting(instance: dg.DagsterInstance) -> Sequence[dg.DagsterRun]:
    statuses = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]
    return [run for run in instance.get_runs(dg.RunsFilter(statuses=statuses), limit=100) if _is_ours(run)]


def _is_ours(run: dg.DagsterRun) -> bool:
    return run.job_name == "orders" or (run.asset_selection is not None and ERP_ORDERS in run.asset_selection)


def _partitions(run: dg.DagsterRun) -> Iterable[str]:
    if (key := run.tags.get("dagster/partition")) is not None:
        yield key
    start, end = run.tags.get("dagster/asset_partition_range_start"), run.tags.get("dagster/asset_partition_range_end")
    if start is not None and end is not None:
        day = date.fromisoformat(start)
        while day <= date.fromisoformat(end):
            yield day.isoformat()
            day += timedelta(days=1)


def _report_lost_runs(context: dg.SensorEvaluationContext, alive: Iterable[str]) -> None:
    """A run whose process was killed stays STARTED and holds the pool for ever; its heartbeat tells.

    A run that is only STARTING has no heartbeat yet. Where runs are processes of this machine they start within
    seconds; elsewhere (ECS) run monitoring's start timeout decides.
    """
    statuses = [dg.DagsterRunStatus.STARTED]
    if isinstance(context.instance.run_launcher, DefaultRunLauncher):
        statuses.append(dg.DagsterRunStatus.STARTING)
    records = context.instance.get_run_records(dg.RunsFilter(statuses=statuses), limit=100)
    known = set(alive)
    for record in records:
        run = record.dagster_run
        since = datetime.fromtimestamp(record.start_time, UTC) if record.start_time else record.create_timestamp
        if _is_ours(run) and run.run_id not in known and datetime.now(UTC) - since > HEARTBEAT_ALIVE:
            context.instance.report_run_failed(run, "its process has sent no heartbeat for 60 s: it was killed")
