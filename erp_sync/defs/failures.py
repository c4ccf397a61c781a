"""What went wrong, as Dagster's storage has it: runs, checks, ticks, freshness. Each as sightings of what is wrong now.

Causes are stable: one per flow, check, sensor, schedule and asset, never one per day or order; the detail names those.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick, TickStatus
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from erp_sync.defs.names import FLOWS
from erp_sync.defs.runs import is_of, partition_keys
from erp_sync.models import Severity, Sighting
from erp_sync.scrub import scrub

LOOK_BACK = timedelta(days=1)
"""How far the first tick looks for runs."""
OVERLAP = timedelta(minutes=2)
"""So much later than its time stamp a run's end may be visible."""
PAGE = 500
SHOWN = 400
DAYS_NAMED = 5
ATTEMPTS = 3
"""A sensor's ticks that failed one after the other: then it does not help itself."""
_FINISHED = [TickStatus.SKIPPED, TickStatus.SUCCESS, TickStatus.FAILURE]
_EVALUATED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}


@dataclass(slots=True)
class Progress:
    """What the sensor has seen: its cursor. It is moved once everything before it is reported."""

    runs_until: float = 0.0
    """Of the latest run read, on the clock of who wrote it. 0: none yet."""
    runs: dict[str, float] = field(default_factory=dict)
    """Runs read within the overlap, and when they were last changed."""
    last: dict[str, tuple[float, str, bool]] = field(default_factory=dict)
    """Flow = when its latest run ended, which it is, whether it failed."""
    ticks: dict[str, float] = field(default_factory=dict)
    """Sensor or schedule = its latest tick that was seen, of those that ended."""

    @classmethod
    def of(cls, cursor: str | None) -> Progress:
        """Of another version's cursor nothing is taken: the first tick looks back."""
        try:
            values = json.loads(cursor or "{}")
            last = {flow: (float(at), str(run), bool(failed)) for flow, (at, run, failed) in values["last"].items()}
            return cls(values["runs_until"], dict(values["runs"]), last, dict(values["ticks"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def cursor(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Runs:
    """What became of the flows since the last look."""

    failed: dict[str, Sighting]
    """Flow = its latest failure since then."""
    failing: dict[str, str]
    """Flow whose latest run failed = that run."""
    recovered: Collection[str]
    """Flows whose latest run succeeded."""


def finished_runs(instance: dg.DagsterInstance, progress: Progress) -> Runs:
    """Moves `progress` on. A run that failed is told once, also if another one succeeded since."""
    fresh = list(_fresh(instance, progress))
    told_since = (progress.runs_until or time.time()) - LOOK_BACK.total_seconds()
    failures: dict[str, list[dg.RunRecord]] = defaultdict(list)
    for record in sorted(fresh, key=_ended):
        flow = flow_of(record.dagster_run)
        failed = record.dagster_run.status is dg.DagsterRunStatus.FAILURE
        # One that ended long ago and shows up now was only given a tag.
        if failed and _ended(record) >= told_since:
            failures[flow].append(record)
        known = progress.last.get(flow)
        if known is None or known[0] <= _ended(record):
            progress.last[flow] = (_ended(record), record.dagster_run.run_id, failed)
    _forget(fresh, progress)
    return Runs(
        {flow: _failure(instance, flow, records) for flow, records in failures.items()},
        {flow: run_id for flow, (_, run_id, failed) in progress.last.items() if failed},
        [flow for flow, (_, _, failed) in progress.last.items() if not failed],
    )


def forget_strangers(progress: Progress, ours: Collection[str]) -> None:
    """A job that there is no more, or one that somebody ran once, stands red for a day and no longer."""
    long_ago = time.time() - LOOK_BACK.total_seconds()
    for flow, (ended, _, failed) in list(progress.last.items()):
        if flow not in ours and failed and ended < long_ago:
            del progress.last[flow]


def failed_run(instance: dg.DagsterInstance, flow: str, run_id: str) -> Sighting | None:
    """None: the run was deleted."""
    record = instance.get_run_record_by_id(run_id)
    return _failure(instance, flow, [record]) if record is not None else None


def flow_of(run: dg.DagsterRun) -> str:
    """A run from the UI belongs to the flow whose assets it makes."""
    return next((flow for flow in FLOWS if is_of(flow, run)), run.job_name)


def run_cause(flow: str) -> str:
    return f"run/{_ascii(flow)}"


def check_cause(key: dg.AssetCheckKey) -> str:
    return _ascii(f"check/{key.asset_key.to_user_string()}/{key.name}")


def red_check(instance: dg.DagsterInstance, key: dg.AssetCheckKey, kind: str) -> Sighting | None:
    """By its latest evaluation; one that could not look has none, and its run failed. None: it is green, or new."""
    records = instance.event_log_storage.get_asset_check_execution_history(key, limit=1, status=_EVALUATED)
    evaluation = records[0].evaluation if records else None
    if evaluation is None or evaluation.passed:
        return None
    figures = {name: value.value for name, value in evaluation.metadata.items()}
    oldest = figures.get("oldest_at")
    return Sighting(
        cause=check_cause(key),
        kind=kind,
        severity=Severity.ERROR if evaluation.severity is dg.AssetCheckSeverity.ERROR else Severity.WARNING,
        subject=key.name,
        detail=evaluation.description or "",
        count=_whole(figures.get("count")),
        oldest_at=datetime.fromtimestamp(oldest, UTC) if isinstance(oldest, float) else None,
        sample=tuple(str(figures.get("sample") or "").split(", ")) if figures.get("sample") else (),
        run_id=records[0].run_id,
    )


def never_evaluated(instance: dg.DagsterInstance, keys: Collection[dg.AssetCheckKey]) -> set[dg.AssetCheckKey]:
    """Those whose latest run has ended without them: the UI shows them as failed, whatever they said before."""
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(keys))
    planned = {key: one.run_id for key, one in latest.items() if one.status is AssetCheckExecutionRecordStatus.PLANNED}
    ended = {run_id for run_id in set(planned.values()) if _has_ended(instance, run_id)}
    return {key for key, run_id in planned.items() if run_id in ended}


def _has_ended(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished


def failed_ticks(
    instance: dg.DagsterInstance, names: Collection[str], progress: Progress
) -> Iterator[tuple[Sighting, bool]]:
    """Sensors and schedules whose latest tick failed, of sensors one of the latest, or one since the last look; True:
    that is over. Moves `progress` on. Who is switched off is not looked at."""
    for name, state in latest_states(instance, names).items():
        place = state.instigator_origin_id, state.selector_id
        latest = instance.get_ticks(*place, limit=ATTEMPTS, statuses=_FINISHED)
        if not latest or not state.is_running:
            continue
        since = progress.ticks.get(name, latest[0].timestamp)
        missed = instance.get_ticks(*place, after=since, limit=1, statuses=[TickStatus.FAILURE])
        progress.ticks[name] = max(since, latest[0].timestamp)
        failures = [tick for tick in latest if tick.is_failure]
        # A sensor that fails every second time would open and close its incident for ever.
        if latest[0].is_failure or (failures and _is_sensor(state)):
            yield _failed_tick(state, failures[0], latest), False
        elif missed:
            yield _failed_tick(state, missed[0], latest), True


def stale_assets(instance: dg.DagsterInstance, windows: Mapping[dg.AssetKey, timedelta]) -> Iterator[Sighting]:
    for key, record in instance.get_freshness_state_records(list(windows)).items():
        if record.freshness_state is FreshnessState.FAIL:
            name = key.to_user_string()
            hours = windows[key].total_seconds() / 3600
            yield Sighting(
                f"stale/{name}", "stale", Severity.ERROR, name, f"{name} was not made for more than {hours:.0f} hours"
            )


def _fresh(instance: dg.DagsterInstance, progress: Progress) -> Iterator[dg.RunRecord]:
    since = datetime.fromtimestamp(progress.runs_until, UTC) - OVERLAP if progress.runs_until else None
    since = since or datetime.now(UTC) - LOOK_BACK
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
    while True:
        wanted = dg.RunsFilter(statuses=ended, updated_after=since)
        page = instance.get_run_records(wanted, limit=PAGE, order_by="update_timestamp", ascending=True)
        yield from (record for record in page if record.dagster_run.run_id not in progress.runs)
        if len(page) < PAGE:
            return
        since = page[-1].update_timestamp


def _forget(fresh: Sequence[dg.RunRecord], progress: Progress) -> None:
    """Moves `progress` behind these runs, and forgets those that no look will meet again."""
    progress.runs |= {record.dagster_run.run_id: record.update_timestamp.timestamp() for record in fresh}
    # A time ahead is of a clock that is: everything until it really comes would count as seen.
    progress.runs_until = min(max([progress.runs_until, *progress.runs.values()]), time.time())
    kept_since = progress.runs_until - 2 * OVERLAP.total_seconds()
    progress.runs = {run_id: at for run_id, at in progress.runs.items() if at >= kept_since}


def _ended(record: dg.RunRecord) -> float:
    return min(record.end_time or record.update_timestamp.timestamp(), time.time())


def _failure(instance: dg.DagsterInstance, flow: str, records: Sequence[dg.RunRecord]) -> Sighting:
    run = records[-1].dagster_run
    why, lost = _why(instance, run)
    days = sorted({day for record in records for day in partition_keys(record.dagster_run)})
    named = ", ".join(days[:DAYS_NAMED]) + (f" and {len(days) - DAYS_NAMED} more" if len(days) > DAYS_NAMED else "")
    return Sighting(
        cause=run_cause(flow),
        kind="lost_run" if lost else "run_failed",
        severity=Severity.ERROR,
        subject=flow,
        detail=f"{named}: {why}" if named else why,
        run_id=run.run_id,
    )


def _why(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[str, bool]:
    """The real cause, and whether the run's process was lost: then no step of it failed."""
    types = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    records = instance.get_records_for_run(run.run_id, of_type=types).records
    events = [record.event_log_entry.dagster_event for record in records]
    for event in events:
        if event is not None and event.event_type is dg.DagsterEventType.STEP_FAILURE:
            data: Any = event.event_specific_data
            ours = data.user_failure_data
            if ours is not None and ours.description:
                return _line(ours.description), False
            return _line((data.error.cause or data.error).message if data.error else event.message or ""), False
    messages = [event.message for event in events if event is not None and event.message]
    return _line(messages[-1] if messages else "its process ended without a word"), True


def latest_states(instance: dg.DagsterInstance, names: Collection[str]) -> dict[str, InstigatorState]:
    """One per name: a code location that was renamed leaves another one behind, whose last tick is old for ever."""
    latest: dict[str, tuple[float, InstigatorState]] = {}
    for state in instance.all_instigator_state():
        if state.instigator_name in names:
            ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
            at = ticks[0].timestamp if ticks else 0.0
            if at >= latest.get(state.instigator_name, (0.0, state))[0]:
                latest[state.instigator_name] = at, state
    return {name: state for name, (_, state) in latest.items()}


def _is_sensor(state: InstigatorState) -> bool:
    return state.instigator_type.value == "SENSOR"


def _failed_tick(state: InstigatorState, tick: InstigatorTick, latest: Sequence[InstigatorTick]) -> Sighting:
    """A schedule's next tick may be tomorrow; a sensor's is in a moment, and helps itself most of the time."""
    hopeless = len(latest) == ATTEMPTS and all(each.is_failure for each in latest)
    error = tick.error
    name = state.instigator_name
    return Sighting(
        cause=f"tick/{_ascii(name)}",
        kind="tick_failed",
        severity=Severity.WARNING if _is_sensor(state) and not hopeless else Severity.ERROR,
        subject=name,
        detail=_line((error.cause or error).message) if error is not None else "",
    )


def _line(text: str) -> str:
    return scrub(" ".join(text.split()))[:SHOWN]


def _ascii(name: str) -> str:
    return name.encode("ascii", "replace").decode()[:150]


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
