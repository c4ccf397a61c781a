"""Waiting for something to do: what the sensor does inside its tick."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from erp_sync.errors import Unavailable
from erp_sync.sync.connections import Connections
from erp_sync.sync.finding import Finder
from erp_sync.sync.orders import POLL_SECONDS, POLL_SHARE

HEARTBEAT_SECONDS = 10.0
HEARTBEAT_ALIVE = timedelta(seconds=60)


@dataclass
class Watched:
    """What one watch ended with."""

    days: set[date] = field(default_factory=set)
    """Days with an order to be sent or looked up now."""
    found: dict[date, int] = field(default_factory=dict)
    """Orders that were new in this watch, by business day."""
    needs_sweep: bool = False
    """The shop was never looked at as a whole."""
    breaker_open_until: datetime | None = None
    """The ERP is down; until then it is not even probed. None: it is not."""


class OrdersWatch:
    """Keeps what it has seen, so that an empty look costs one query of the shop and one of the ledger."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._ledger = connections.ledger
        self._finder = Finder(connections.shop, connections.ledger, connections.settings.require_start_day())

    def wait(self, seconds: float, busy: frozenset[date] = frozenset()) -> Watched:
        """Look until there is something to do on a day that is not `busy`, for `seconds` at most.

        Raises ShopUnavailable and LedgerUnavailable.
        """
        watched = Watched()
        until = time.monotonic() + seconds
        self._finder.day()
        while True:
            found = self._finder.recent()
            for day in found.days:
                watched.found[day] = watched.found.get(day, 0) + 1
            watched.needs_sweep = self._finder.swept_at() is None
            watched.days = set(self._ledger.actionable_days()) - busy
            if watched.days or watched.needs_sweep:
                watched.breaker_open_until = self._breaker()
                if watched.breaker_open_until is None:
                    return watched
                watched.days = set()
            pause = max(POLL_SECONDS, found.query_seconds / POLL_SHARE)
            if time.monotonic() + pause >= until:
                return watched
            time.sleep(pause)

    def _breaker(self) -> datetime | None:
        """Until when the breaker is open; a probe that is due is made, and closes it if the ERP answers."""
        open_until = self._connections.gate.breaker_open()
        if open_until is None or not self._connections.gate.probe_is_due():
            return open_until
        try:
            self._connections.erp.probe()
        except Unavailable:
            return self._connections.gate.breaker_open()
        return self._connections.gate.breaker_open()
