"""What assets and sensors are given: open connections. No secret is a field, so none is in the UI."""

from __future__ import annotations

import threading

import dagster as dg

from erp_sync.settings import load_settings
from erp_sync.sync.connections import Connections, open_connections
from erp_sync.sync.watch import OrdersWatch

_lock = threading.Lock()
_open: dict[str, object] = {}


class ErpSync(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Reads the settings when it is first used in a process, and keeps what it opened for the process's life."""

    def connections(self) -> Connections:
        """Raises Misconfigured, in one line that names the setting."""
        with _lock:
            if "connections" not in _open:
                _open["connections"] = open_connections(load_settings())
            connections = _open["connections"]
            assert isinstance(connections, Connections)  # noqa: S101 - told to the type checker
            return connections

    def orders_watch(self) -> OrdersWatch:
        connections = self.connections()
        with _lock:
            watch = _open.setdefault("orders_watch", OrdersWatch(connections))
            assert isinstance(watch, OrdersWatch)  # noqa: S101 - told to the type checker
            return watch
