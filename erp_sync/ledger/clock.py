"""The ledger's clock: the database's, so that all machines agree.

Asked at most once a second and carried on by this machine's own clock in between. That may be wrong by the time the
question took (a slow answer is not kept), against settle times of minutes; and `Ledger.change` asks the database anew
before it lets an intent pass.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

logger = logging.getLogger(__name__)

KEEP_SECONDS = 1.0
SLOW_SECONDS = 0.05
JUMP_SECONDS = 5.0
DRIFT = 0.001
"""Two clocks part by less than this share of the time between two looks."""


def since_boot() -> float:
    """Seconds on a clock that nobody sets and that counts while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def local_time() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Look:
    shown: datetime
    at: float


class Clock:
    """`ask` the source; `keep` seconds without asking again. `jumped` is told (expected, shown) when the source went
    ahead of the time that has really passed since it was last asked; only then does `now` return. So `now` may write
    to the ledger, and must not be called inside one of its transactions.
    """

    def __init__(
        self,
        ask: Callable[[], datetime],
        *,
        keep: float = 0.0,
        steady: Callable[[], float] = since_boot,
        jumped: Callable[[datetime, datetime], None] | None = None,
    ) -> None:
        self.ask = ask
        self._keep = keep
        self._steady = steady
        self._jumped = jumped
        self._last: _Look | None = None
        self._lock = threading.Lock()

    def now(self) -> datetime:
        return self._kept() or self._look()

    def _kept(self) -> datetime | None:
        last = self._last
        if last is None:
            return None
        passed = self._steady() - last.at
        return last.shown + timedelta(seconds=passed) if 0 <= passed < self._keep else None

    def _look(self) -> datetime:
        with self._lock:
            kept = self._kept()
            if kept is not None:
                return kept
            started = self._steady()
            shown = self.ask()
            at = self._steady()
            last = self._last
            if last is not None and self._jumped is not None:
                passed = at - last.at
                expected = last.shown + timedelta(seconds=passed)
                if (shown - expected).total_seconds() > JUMP_SECONDS + passed * DRIFT:
                    logger.error("the ledger's clock jumped ahead, from %s to %s", expected, shown)
                    self._jumped(expected, shown)
            # A slow answer is as old as it took; as "last seen" it would hide a jump of that size, no more.
            self._last = _Look(shown, at if at - started <= SLOW_SECONDS else at - self._keep)
            return shown
