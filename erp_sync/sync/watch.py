"""Waiting for something to do: what the sensor does inside its tick."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from erp_sync.errors import Unavailable
from erp_sync.logs import log_context
from erp_sync.sync.finding import Finder
from erp_sync.sync.passes import watch_goes_on

if TYPE_CHECKING:
    from erp_sync.sync.connections import Connections

HEARTBEAT_SECONDS = 10.0
HEARTBEAT_ALIVE = timedelta(seconds=60)
"""Without a heartbeat for so long, a run's process is gone."""
TELL_SECONDS = 60.0
"""A shop that sells every second is not told of every second."""


@dataclass
class Watched:
    """What one watch ended with."""

    days: set[date] = field(default_factory=set)
    """Days with an order to be sent or looked up now that no run is at."""
    found: dict[date, int] = field(default_factory=dict)
    """Orders found by this process and not told of before, by business day. Told once a minute at most."""
    needs_sweep: bool = False
    """The shop was never looked at as a whole, and no run is at work that might do it."""
    breaker_open_until: datetime | None = None
    """The ERP is down; until then it is not even probed. None: it is not."""


class OrdersWatch:
    """Keeps what it has seen, so that an empty look costs one query of the shop and one of the ledger. Thread-safe:
    one watches at a time."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._ledger = connections.ledger
        self._finder = Finder(connections.shop, connections.ledger, connections.settings.require_start_day())
        self._lock = threading.Lock()
        self._swept = False
        self._untold: Counter[date] = Counter()
        self._told_at = self._said_at = -math.inf

    def wait(self, seconds: float) -> Watched:
        """Look until there is something to do that no run is at, for `seconds` at most.

        Raises ShopUnavailable, LedgerUnavailable and, for the breaker's probe, Misconfigured.
        """
        with self._lock, log_context(flow="watch"):
            watched = self._wait(time.monotonic() + seconds)
            if time.monotonic() - self._said_at >= TELL_SECONDS:
                self._said_at = time.monotonic()
                watch_goes_on(self._ledger)
            if self._untold and time.monotonic() - self._told_at >= TELL_SECONDS:
                watched.found = dict(self._untold)
                self._untold.clear()
                self._told_at = time.monotonic()
            return watched

    def _wait(self, until: float) -> Watched:
        from erp_sync.sync.orders import POLL_SECONDS, POLL_SHARE

        self._untold.update(self._finder.day().days)
        while True:
            found = self._finder.recent()
            self._untold.update(found.days)
            watched = self._look()
            if watched.breaker_open_until is None and (watched.days or watched.needs_sweep):
                return watched
            pause = max(POLL_SECONDS, found.query_seconds / POLL_SHARE)
            if time.monotonic() + pause >= until:
                return watched
            time.sleep(pause)

    def _look(self) -> Watched:
        self._swept = self._swept or self._finder.swept_at() is not None
        days = set(self._ledger.actionable_days())
        if not days and self._swept:
            return Watched()
        alive = self._ledger.heartbeats_alive("orders", HEARTBEAT_ALIVE)
        watched = Watched(days.difference(*alive.values()), needs_sweep=not self._swept and not alive)
        if watched.days or watched.needs_sweep:
            watched.breaker_open_until = breaker_open(self._connections)
            if watched.breaker_open_until is not None:
                return Watched(breaker_open_until=watched.breaker_open_until)
        return watched


def breaker_open(connections: Connections) -> datetime | None:
    """Until when the breaker is open, None if it is closed; a probe that is due is made, and closes it if the ERP
    answers. Raises LedgerUnavailable and Misconfigured."""
    open_until = connections.gate.breaker_open()
    if open_until is None or not connections.gate.probe_is_due():
        return open_until
    with suppress(Unavailable):
        connections.erp.probe()
    return connections.gate.breaker_open()
