"""What is wrong now, asked of the ledger alone: it answers where Dagster and Slack do not. A container's health check
asks this once a minute, so it loads nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from erp_sync import alerts
from erp_sync.ledger.ledger import Ledger
from erp_sync.ledger.outlet import Outlet
from erp_sync.models import ALARMS_ALIVE, Finding, Incident, Level
from erp_sync.settings import Settings
from erp_sync.sync.announcing import shown

_AHEAD = timedelta(minutes=1)


@dataclass(frozen=True)
class Report:
    settings: Settings
    now: datetime
    watched_at: datetime | None
    """When the alarms last gave a sign. None: never."""
    incidents: Sequence[Incident]
    """The open ones, the oldest first, without personal data."""
    outlet: Outlet

    @property
    def alive(self) -> bool:
        """A sign far ahead of the clock, which jumped back, is none."""
        if self.watched_at is None:
            return False
        return -_AHEAD <= self.now - self.watched_at <= timedelta(seconds=self.settings.alerts.alive_seconds)

    def findings(self) -> Iterator[Finding]:
        yield self.watch()
        if self.outlet.failures:
            again = f"{self.outlet.next_try_at:%H:%M:%S} UTC" if self.outlet.next_try_at else "soon"
            message = f"Slack was not reached {self.outlet.failures} times in a row, next try {again}; nothing is lost"
            yield Finding("warning", "telling", message, "see the lines of Slack")
        language = self.settings.language
        for one in self.incidents:
            said = alerts.words(one, language)
            age = alerts.span(self.now - one.opened_at, language)
            held = alerts.amount(one, one.count, language)
            facts = ", ".join(filter(None, [one.subject, held, age]))
            message = "; ".join(filter(None, [facts, one.detail, ", ".join(one.sample)]))
            yield Finding(one.severity.value, said.title, message, f"{said.who}: {said.step}")
        if not self.incidents:
            yield Finding("ok", "incidents", "none is open")

    def as_json(self, *, alive_only: bool = False) -> dict[str, Any]:
        watched: dict[str, Any] = {"alive": self.alive, "watched_at": _iso(self.watched_at)}
        if alive_only:
            return watched
        return {
            **watched,
            "slack": {
                "configured": self.settings.slack_token is not None,
                "failures": self.outlet.failures,
                "next_try_at": _iso(self.outlet.next_try_at),
            },
            "incidents": [self._plain(one) for one in self.incidents],
        }

    def watch(self) -> Finding:
        """Whether the alarms are at work: the dead man's handle of all alerts."""
        advice = "start Dagster's daemon, and its alarms sensor"
        if self.watched_at is None:
            # Without Dagster nobody has alarms; with it, alerts would reach nobody.
            level: Level = "error" if os.environ.get("DAGSTER_HOME") else "warning"
            return Finding(level, "alarms", "SILENT: they never gave a sign", advice)
        age = int((self.now - self.watched_at).total_seconds())
        if self.alive:
            return Finding("ok", "alarms", f"alive, {max(age, 0)} s ago")
        message = (
            f"SILENT since {self.watched_at:%Y-%m-%d %H:%M:%S} UTC ({age} s; alerts.alive_seconds = "
            f"{self.settings.alerts.alive_seconds})"
        )
        return Finding("error", "alarms", message, advice)

    def _plain(self, incident: Incident) -> dict[str, Any]:
        said = alerts.words(incident, self.settings.language)
        return {
            "cause": incident.cause,
            "kind": incident.kind,
            "severity": incident.severity,
            "subject": incident.subject,
            "title": said.title,
            "detail": incident.detail,
            "who": said.who,
            "next_step": said.step,
            "count": incident.count,
            "peak": incident.peak,
            "sample": incident.sample,
            "run_id": incident.run_id,
            "opened_at": _iso(incident.opened_at),
            "oldest_at": _iso(incident.oldest_at),
            "seconds": int((self.now - incident.opened_at).total_seconds()),
            "openings": incident.openings,
        }


def examine(ledger: Ledger, settings: Settings) -> Report:
    """Raises LedgerUnavailable and Misconfigured."""
    mark = ledger.mark(ALARMS_ALIVE)
    incidents = [shown(one) for one in ledger.open_incidents()]
    return Report(settings, ledger.now(), None if mark is None else mark[0], incidents, ledger.outlet())


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
