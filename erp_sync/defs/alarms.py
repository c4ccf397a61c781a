"""What is wrong becomes incidents of the ledger, and what is over ends them; then they are told.

Each tick looks at how everything stands now, so nothing is lost that a tick did not see, and a tick that fails is made
up for by the next. Only runs need a cursor, for one that failed and was followed by a success before anybody looked; it
moves once everything is reported. With the ledger away nothing can be remembered: then the tick fails, and the channel
is told straight (defs/blind.py).
"""

# No `from __future__ import annotations`: Dagster looks at the annotations themselves.
import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from erp_sync.defs.blind import Blind
from erp_sync.defs.checks import check_key, evaluation, in_full, ledger_health
from erp_sync.defs.failures import (
    Progress,
    check_cause,
    failed_run,
    failed_ticks,
    finished_runs,
    forget_strangers,
    never_evaluated,
    red_check,
    run_cause,
    stale_assets,
)
from erp_sync.defs.freshness import fresh_within
from erp_sync.defs.names import FLOWS
from erp_sync.defs.red import redacted
from erp_sync.defs.resources import ErpSync
from erp_sync.errors import ErpSyncError, LedgerUnavailable, Misconfigured, SecretUnavailable
from erp_sync.models import ALARMS_ALIVE, Incident, Severity, Sighting
from erp_sync.settings import Settings
from erp_sync.sync.findings import INSPECTION_CHECKS, LEDGER_CHECKS, Check

if TYPE_CHECKING:
    from erp_sync.ledger.ledger import Ledger

logger = logging.getLogger(__name__)

NAME = "alarms"
IMPLICIT_JOB = "__ASSET_JOB"
"""Dagster's own: runs of single assets and checks, started from the UI."""
INTERVAL_SECONDS = 15
PAUSE_SHARE = 20.0
"""A check of the ledger rests for so many times as long as it took."""
SEEN_EVERY = timedelta(minutes=1)
"""What stands as it stood is written down again this often."""
_SEEN = [field.name for field in fields(Sighting)]


def alarms(settings: Settings) -> dg.SensorDefinition:
    blind, pace = Blind(settings), Pace()

    @dg.sensor(
        name=NAME,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Tells what is wrong: failed runs, checks and ticks, stale assets. One incident per cause, closed by "
            "itself when it is over."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext, erp_sync: dg.ResourceParam[ErpSync]) -> dg.SensorResult:
        try:
            with redacted():
                connections = erp_sync.connections()
                look = Look(context, erp_sync, connections.ledger, pace)
                look.at_all(settings)
                connections.ledger.set_mark(ALARMS_ALIVE)
        except ErpSyncError as failure:
            blind.tell(failure)
            raise
        blind.end()
        try:
            with redacted():
                connections.announcer().run()
        except (Misconfigured, SecretUnavailable) as wrong:
            logger.error("alarms: the channel cannot be told: %s", wrong)
        return dg.SensorResult(skip_reason=look.summary(), cursor=look.progress.cursor(), asset_events=look.evaluations)

    return sensor


class Pace:
    """What takes long is asked more rarely: a database in trouble is not asked to death. One per process."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    def is_due(self, name: str) -> bool:
        return time.monotonic() >= self._next.get(name, 0.0)

    @contextmanager
    def asking(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            ended = time.monotonic()
            self._next[name] = ended + (ended - started) * PAUSE_SHARE


class Look:
    """One look at everything. Raises LedgerUnavailable; whatever else goes wrong with one source stops no other."""

    def __init__(self, context: dg.SensorEvaluationContext, erp_sync: ErpSync, ledger: "Ledger", pace: Pace) -> None:
        repository = context.repository_def
        if repository is None:
            raise dg.DagsterInvariantViolationError("the sensor was not given its repository")
        self.progress = Progress.of(context.cursor)
        self.evaluations: list[dg.AssetCheckEvaluation] = []
        """Checks that turned red or green since the last look, or that their latest run never came to: the UI
        says at once what the alert says."""
        self._instance = context.instance
        self._repository = repository
        self._erp_sync = erp_sync
        self._ledger = ledger
        self._pace = pace
        self._open = {incident.cause: incident for incident in ledger.open_incidents()}
        self._wrong: set[str] = set()
        self._hidden: set[dg.AssetCheckKey] = set()

    def at_all(self, settings: Settings) -> None:
        ours = {check_key(name, check): check for name, check in LEDGER_CHECKS.items()}
        self._source("failed checks", partial(self._find_hidden, ours.keys()))
        for key, check in ours.items():
            if self._pace.is_due(key.name):
                with self._pace.asking(key.name):
                    self._source(key.name, partial(self._ledger_check, key, check))
            elif check_cause(key) in self._open:
                self._wrong.add(check_cause(key))
        others = self._repository.asset_graph.asset_check_keys - ours.keys()
        for key in sorted(others):
            self._source(key.name, partial(self._latest_evaluation, key))
        self._source("runs", self._runs)
        self._source("ticks", self._ticks)
        self._source("freshness", partial(self._freshness, settings))
        self._source("checks", partial(self._forget_checks, {*ours, *others}))

    def summary(self) -> str:
        wrong = sorted(self._wrong)
        return f"{len(wrong)} causes of trouble: {', '.join(wrong[:10])}" if wrong else "nothing is wrong"

    def _source(self, name: str, look: Callable[[], None]) -> None:
        cause = f"alarms/{name}"
        try:
            look()
        except LedgerUnavailable:
            raise
        except Exception as error:
            logger.exception("alarms: %s cannot be looked at", name)
            why = f"{type(error).__name__}: nobody looks at this until it works again"
            self._report(Sighting(cause, "tick_failed", Severity.ERROR, f"{NAME}: {name}", why))
        else:
            self._resolve(cause)

    # Sources --------------------------------------------------------------------------------------------------------

    def _find_hidden(self, ours: Collection[dg.AssetCheckKey]) -> None:
        self._hidden = never_evaluated(self._instance, ours)

    def _ledger_check(self, key: dg.AssetCheckKey, check: Check) -> None:
        """Asked anew, not read from its latest run: an alert does not wait for a schedule."""
        finding = ledger_health(self._erp_sync).find(key.name)
        cause = check_cause(key)
        before = self._open.get(cause)
        turned = (before is None) != finding.passed or (before is not None and before.severity is not finding.severity)
        if turned or key in self._hidden:
            self.evaluations.append(evaluation(key, finding))
        if finding.passed:
            self._resolve(cause)
            return
        self._report(
            Sighting(
                cause=cause,
                kind=check.alert or f"check/{key.name}",
                severity=finding.severity,
                subject=key.name,
                detail=in_full(finding),
                count=finding.count,
                oldest_at=finding.oldest_at,
                sample=finding.sample,
            )
        )

    def _latest_evaluation(self, key: dg.AssetCheckKey) -> None:
        known = INSPECTION_CHECKS.get(key.name)
        sighting = red_check(self._instance, key, (known and known.alert) or f"check/{key.name}")
        if sighting is None:
            self._resolve(check_cause(key))
        else:
            self._report(sighting)

    def _runs(self) -> None:
        """One that failed is told, also if the flow has recovered since. `progress` moves once all is reported."""
        ahead = deepcopy(self.progress)
        ours = {*FLOWS, *self._repository.job_names} - {IMPLICIT_JOB}
        forget_strangers(ahead, ours)
        runs = finished_runs(self._instance, ahead)
        for sighting in runs.failed.values():
            self._report(sighting)
        for flow, run_id in runs.failing.items():
            # Reported before, and never written or ended by a mistake: it stands all the same.
            missing = flow not in runs.failed and run_cause(flow) not in self._open
            again = failed_run(self._instance, flow, run_id) if missing else None
            if again is not None:
                self._report(again)
            self._wrong.add(run_cause(flow))
        for flow in runs.recovered:
            self._resolve(run_cause(flow))
        self._resolve_others("run/", {run_cause(flow) for flow in {*ahead.last, *ours}})
        self.progress = ahead

    def _ticks(self) -> None:
        ahead = deepcopy(self.progress)
        names = {sensor.name for sensor in self._repository.sensor_defs}
        names |= {schedule.name for schedule in self._repository.schedule_defs}
        failing = set()
        for sighting, is_over in failed_ticks(self._instance, names, ahead):
            self._report(sighting)
            if not is_over:
                failing.add(sighting.cause)
        self._resolve_others("tick/", failing)
        self.progress = ahead

    def _freshness(self, settings: Settings) -> None:
        stale = list(stale_assets(self._instance, fresh_within(settings)))
        for sighting in stale:
            self._report(sighting)
        self._resolve_others("stale/", {sighting.cause for sighting in stale})

    def _forget_checks(self, known: Collection[dg.AssetCheckKey]) -> None:
        """An incident of a check that there is no more would stay open for ever."""
        self._resolve_others("check/", {check_cause(key) for key in known})

    # Incidents ------------------------------------------------------------------------------------------------------

    def _report(self, sighting: Sighting) -> None:
        self._wrong.add(sighting.cause)
        before = self._open.get(sighting.cause)
        if before is not None and _stands(before, sighting) and self._ledger.now() - before.last_seen_at < SEEN_EVERY:
            return
        self._ledger.report(sighting)

    def _resolve(self, cause: str) -> None:
        if cause in self._open or cause in self._wrong:
            self._ledger.resolve(cause)
            self._wrong.discard(cause)

    def _resolve_others(self, prefix: str, standing: Collection[str]) -> None:
        for cause in [cause for cause in {*self._open, *self._wrong} if cause.startswith(prefix)]:
            if cause not in standing:
                self._resolve(cause)


def _stands(incident: Incident, sighting: Sighting) -> bool:
    return all(getattr(incident, name) == getattr(sighting, name) for name in _SEEN)
