"""The breaker: after some failures in a row all processes leave the ERP alone, but for one probe at a time."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, or_, select, update

from erp_sync.errors import BreakerOpen
from erp_sync.ledger.database import Database
from erp_sync.ledger.tables import breaker

logger = logging.getLogger(__name__)

FAILURES = 5
"""In a row, before the breaker opens."""
FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(seconds=60)
PROBE_LEASE = timedelta(seconds=15)
"""Renewed while the probe is under way: the one of a killed process is over soon."""
BELIEVED_SECONDS = 1.0
"""How long a process goes by what it last saw: others' failures count here that much later."""


@dataclass(frozen=True, slots=True)
class _Seen:
    failures: int
    open_until: datetime | None
    probe_until: datetime | None
    at: float


class Breaker:
    """Thread-safe. The clock may jump back: nothing stays shut for longer than LONGEST_PAUSE because of it."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        self._last: _Seen | None = None
        self._probe = ""
        self._thread = threading.local()

    def open_until(self) -> datetime | None:
        """When it may be probed; it stays open until a probe succeeds. None: it is closed."""
        return self._look().open_until

    def probe_is_due(self) -> bool:
        """It is open, its pause is over, and nobody probes."""
        seen, now = self._look(), self._now()
        return seen.open_until is not None and not _ahead(seen.open_until, now) and not _ahead(seen.probe_until, now)

    def enter(self, *, write: bool) -> None:
        """Raises BreakerOpen, unless it is closed or this call is the probe. A write is never the probe."""
        self._thread.probe = ""
        seen = self._recent()
        if seen.open_until is None:
            return
        now = self._now()
        if write or _ahead(seen.open_until, now) or not self._claim_probe(now):
            wait = max((seen.open_until - now).total_seconds(), 1.0)
            raise BreakerOpen(
                f"the ERP did not answer {FAILURES} times in a row: it is probed at {seen.open_until:%H:%M:%S} UTC",
                retry_after=min(wait, LONGEST_PAUSE.total_seconds()),
            )

    def leave(self) -> None:
        """The call is over. A probe that proved nothing makes room for the next one."""
        token = getattr(self._thread, "probe", "")
        if token:
            self._thread.probe = self._probe = ""
            over = update(breaker).where(breaker.c.probe == token).values(probe="", probe_until=None)
            self._database.write(lambda connection: connection.execute(over))
            self._last = None

    def succeeded(self) -> None:
        seen = self._recent()
        if not seen.failures and seen.open_until is None:
            return
        closed = {"failures": 0, "openings": 0, "open_until": None, "probe": "", "probe_until": None}
        self._database.write(lambda connection: connection.execute(update(breaker).values(closed)))
        self._thread.probe = self._probe = ""
        self._last = _Seen(0, None, None, time.monotonic())
        if seen.open_until is not None:
            logger.info("the ERP answers again", extra={"event": "breaker.closed"})

    def failed(self) -> None:
        now = self._now()
        token = getattr(self._thread, "probe", "")

        def work(connection: Connection) -> datetime | None:
            row = connection.execute(select(breaker).with_for_update()).one()
            if row.open_until is None and row.failures + 1 < FAILURES:
                connection.execute(update(breaker).values(failures=row.failures + 1))
                return None
            if row.open_until is not None and row.probe != (token or None):
                return None  # begun before it opened
            pause = min(FIRST_PAUSE * 2 ** min(row.openings, 10), LONGEST_PAUSE)
            values = {"failures": FAILURES, "openings": row.openings + 1, "open_until": now + pause}
            connection.execute(update(breaker).values(**values, probe="", probe_until=None))
            opened_until: datetime = now + pause
            return opened_until

        opened = self._database.write(work)
        self._last = None
        if opened is not None:
            self._thread.probe = self._probe = ""
            until = f"{opened:%H:%M:%S}"
            said = {"event": "breaker.opened", "until": opened.isoformat()}
            logger.warning("the ERP does not answer: it is left alone until %s UTC", until, extra=said)

    def renew_probe(self) -> None:
        """To be called every few seconds while calls are under way."""
        token = self._probe
        if token:
            until = self._now() + PROBE_LEASE
            longer = update(breaker).where(breaker.c.probe == token).values(probe_until=until)
            self._database.write(lambda connection: connection.execute(longer))

    def _claim_probe(self, now: datetime) -> bool:
        token = secrets.token_hex(8)
        free = or_(
            breaker.c.probe_until.is_(None),
            breaker.c.probe_until <= now,
            breaker.c.probe_until > now + LONGEST_PAUSE,
        )
        due = or_(breaker.c.open_until <= now, breaker.c.open_until > now + LONGEST_PAUSE)
        claim = update(breaker).where(and_(due, free)).values(probe=token, probe_until=now + PROBE_LEASE)

        def landed(connection: Connection, claimed: bool) -> bool:
            return not claimed or connection.execute(select(breaker.c.probe).with_for_update()).scalar_one() == token

        claimed = self._database.write(lambda connection: connection.execute(claim).rowcount == 1, landed)
        if claimed:
            self._thread.probe = self._probe = token
        return claimed

    def _recent(self) -> _Seen:
        last = self._last
        if last is not None and last.open_until is None and time.monotonic() - last.at < BELIEVED_SECONDS:
            return last
        return self._look()

    def _look(self) -> _Seen:
        row = self._database.rows(select(breaker.c.failures, breaker.c.open_until, breaker.c.probe_until))[0]
        seen = self._last = _Seen(row.failures, row.open_until, row.probe_until, time.monotonic())
        return seen


def _ahead(moment: datetime | None, now: datetime) -> bool:
    return moment is not None and now < moment <= now + LONGEST_PAUSE
