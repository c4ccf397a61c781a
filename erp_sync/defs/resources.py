"""What assets and sensors are given: open connections. No secret is a field, so none is in the UI."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from erp_sync.sync.connections import Connections
    from erp_sync.sync.watch import OrdersWatch

_lock = threading.RLock()
_connections: list[Connections] = []
_orders_watch: list[OrdersWatch] = []


class ErpSync(dg.ConfigurableResource[Any]):
    """Reads the settings when it is first used in a process, and keeps what it opened for the process's life.

    Dagster makes a new resource for every tick and run; a process has one set of connections.
    """

    def connections(self) -> Connections:
        """Raises Misconfigured, in one line that names the setting, and LedgerUnavailable."""
        from erp_sync.settings import load_settings
        from erp_sync.sync.connections import open_connections

        with _lock:
            if not _connections:
                _connections.append(open_connections(load_settings()))
            return _connections[0]

    def orders_watch(self) -> OrdersWatch:
        """Raises as `connections` does."""
        from erp_sync.sync.watch import OrdersWatch

        with _lock:
            if not _orders_watch:
                _orders_watch.append(OrdersWatch(self.connections()))
            return _orders_watch[0]


def forget_connections() -> None:
    """Close what this process opened; the next use reads the settings again."""
    with _lock:
        _orders_watch.clear()
        while _connections:
            _connections.pop().close()
