"""What assets and sensors are given: open connections. No secret is a field, so none is in the UI."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from erp_sync.sync.connections import Connections
    from erp_sync.sync.watch import OrdersWatch


class ErpSync:
    """Reads the settings when it is first used in a process, and keeps what it opened for the process's life.

    A plain object, asked for with `dg.ResourceParam`: all ticks and runs of a process share it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._connections: Connections | None = None
        self._orders_watch: OrdersWatch | None = None

    def connections(self) -> Connections:
        """Raises Misconfigured, in one line that names the setting, LedgerUnavailable and SecretUnavailable."""
        from erp_sync.settings import load_settings
        from erp_sync.sync.connections import open_connections

        with self._lock:
            if self._connections is None:
                self._connections = open_connections(load_settings())
            return self._connections

    def orders_watch(self) -> OrdersWatch:
        """Raises as `connections` does."""
        from erp_sync.sync.watch import OrdersWatch

        with self._lock:
            if self._orders_watch is None:
                self._orders_watch = OrdersWatch(self.connections())
            return self._orders_watch

    def close(self) -> None:
        """Give back what other processes could use. It opens again when it is used."""
        with self._lock:
            connections, self._connections, self._orders_watch = self._connections, None, None
            if connections is not None:
                connections.close()
