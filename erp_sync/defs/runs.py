"""The runs of a flow as Dagster's storage has them: which are on their way, and which lost their process."""

import time
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from erp_sync.defs.names import FLOWS
from erp_sync.sync.watch import HEARTBEAT_ALIVE

FINISHING_SECONDS = 20.0
"""A run that has ended its work is finished in Dagster's storage within so long."""
PARTITION_TAG = "dagster/partition"
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
ON_THE_WAY = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]


def is_of(flow: str, run: dg.DagsterRun) -> bool:
    """Whoever started it: a run from the UI has another job's name."""
    job, assets = FLOWS[flow]
    return run.job_name == job or (run.asset_selection is not None and bool(assets & run.asset_selection))


def another_waits(instance: dg.DagsterInstance, flow: str = "orders") -> bool:
    """Whether a run of this flow is queued: it cannot start before the running one leaves, they share a pool of one."""
    queued = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]), limit=100)
    return any(is_of(flow, run) for run in queued)


def is_on(instance: dg.DagsterInstance, flow: str) -> bool:
    """Whether a run of this flow is at work or on its way."""
    at_work = [*ON_THE_WAY, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    records = instance.get_run_records(dg.RunsFilter(statuses=at_work), limit=100)
    return any(is_of(flow, record.dagster_run) and not _forgotten(record) for record in records)


def days_on_the_way(instance: dg.DagsterInstance) -> set[str] | None:
    """Partition keys that a run is queued or starting for. None: no run of the orders flow is on its way."""
    records = instance.get_run_records(dg.RunsFilter(statuses=ON_THE_WAY), limit=100)
    runs = [record.dagster_run for record in records if is_of("orders", record.dagster_run) and not _forgotten(record)]
    return {key for run in runs for key in partition_keys(run)} if runs else None


def _forgotten(record: dg.RunRecord) -> bool:
    """Created by a daemon that was killed before it queued it: it would cover its day for ever."""
    waits = datetime.now(UTC) - record.update_timestamp
    return record.dagster_run.status is dg.DagsterRunStatus.NOT_STARTED and waits > HEARTBEAT_ALIVE


def partition_keys(run: dg.DagsterRun) -> Iterator[str]:
    """The days that a run is for; of another code location's run whatever it calls them."""
    if (key := run.tags.get(PARTITION_TAG)) is not None:
        yield key
    start, end = (run.tags.get(tag) for tag in RANGE_TAGS)
    if start is not None and end is not None:
        try:
            first, last = date.fromisoformat(start), date.fromisoformat(end)
        except ValueError:  # of another code location's partitions
            yield from (start, end)
            return
        for days in range((last - first).days + 1):
            yield (first + timedelta(days=days)).isoformat()


class LostRuns:
    """Finds runs whose process was killed: they stay STARTED and hold the pool for ever otherwise. One per process."""

    def __init__(self) -> None:
        self._silent_since: dict[str, float] = {}

    def report(self, instance: dg.DagsterInstance, alive: Collection[str], ever: Collection[str]) -> None:
        """Fails them. `alive`: run ids that gave a sign of life a moment ago; `ever`: those that gave one at all.

        A run takes its heartbeat back when its work ends, a moment before Dagster calls it finished: one that has a
        heartbeat and stopped beating was killed, one that has none is given time.
        """
        silent = [record for record in self._started(instance) if record.dagster_run.run_id not in alive]
        now = time.monotonic()
        self._silent_since = {
            record.dagster_run.run_id: self._silent_since.get(record.dagster_run.run_id, now) for record in silent
        }
        for record in silent:
            run = record.dagster_run
            if not self._old(record):
                continue
            if run.run_id in ever or now - self._silent_since[run.run_id] > FINISHING_SECONDS:
                seconds = HEARTBEAT_ALIVE.total_seconds()
                instance.report_run_failed(run, f"its process gave no sign of life for {seconds:.0f} s: it was killed")

    def _started(self, instance: dg.DagsterInstance) -> Sequence[dg.RunRecord]:
        """STARTED, and STARTING where runs are processes of this machine: elsewhere (ECS) they may take minutes to
        start, and run monitoring asks the platform."""
        statuses = [dg.DagsterRunStatus.STARTED]
        if not instance.run_launcher.supports_check_run_worker_health:
            statuses.append(dg.DagsterRunStatus.STARTING)
        records = instance.get_run_records(dg.RunsFilter(statuses=statuses), limit=100)
        return [record for record in records if any(is_of(flow, record.dagster_run) for flow in FLOWS)]

    @staticmethod
    def _old(record: dg.RunRecord) -> bool:
        started = datetime.fromtimestamp(record.start_time, UTC) if record.start_time else record.update_timestamp
        return datetime.now(UTC) - started > HEARTBEAT_ALIVE
