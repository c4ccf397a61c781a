"""When the alarms themselves can see nothing, because the ledger is away or a setting is wrong: the channel is told
straight, without the ledger's help.

What was told is known to this process alone: one that is started anew tells it once more, and nobody tells its end.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime

from erp_sync.errors import ErpSyncError
from erp_sync.models import Incident, Severity
from erp_sync.settings import Settings

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 30.0
"""A database that is started anew is back within that."""


class Blind:
    """One per process; not thread-safe: one tick at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._since: float | None = None
        self._told: tuple[tuple[str, str], Incident] | None = None

    def tell(self, failure: ErpSyncError) -> None:
        """Once per outage, as soon as it lasts. Raises nothing: what cannot be told is tried again at the next tick."""
        logger.error("alarms: nobody looks, because %s", failure.in_full())
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if self._told is not None or now - self._since < PATIENCE_SECONDS:
            return
        incident = _incident(failure)
        address = self._post(incident)
        if address is not None:
            self._told = address, incident

    def end(self) -> None:
        """It looks again. Raises nothing."""
        self._since = None
        if self._told is None:
            return
        address, incident = self._told
        self._told = None
        self._post(replace(incident, closed_at=datetime.now(UTC)), address)

    def _post(self, incident: Incident, thread: tuple[str, str] | None = None) -> tuple[str, str] | None:
        """Where the message is. None: it could not be told."""
        from erp_sync import alerts
        from erp_sync.slack import Slack

        try:
            account = self._settings.slack_account()
            if account is None:
                return None
            language, url = self._settings.language, self._settings.alerts.ui_url
            said = (
                alerts.ending(incident, language)
                if incident.closed_at is not None
                else alerts.message(incident, datetime.now(UTC), language, url)
            )
            return Slack(*account).post(said.text, said.blocks, thread)
        except ErpSyncError as error:
            logger.error("alarms: the channel cannot be told either: %s", error)
            return None


def _incident(failure: ErpSyncError) -> Incident:
    now = datetime.now(UTC)
    return Incident(
        cause="alarms/blind",
        kind="other",
        severity=Severity.ERROR,
        subject="alarms",
        detail=failure.in_full(),
        opened_at=now,
        last_seen_at=now,
        closed_at=None,
        seen=1,
        peak=0,
        openings=1,
    )
