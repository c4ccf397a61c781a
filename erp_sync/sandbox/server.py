"""The sandbox ERP as a server on a loopback port."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from erp_sync.sandbox.admin import Admin
from erp_sync.sandbox.config import SandboxConfig
from erp_sync.sandbox.connections import Connections
from erp_sync.sandbox.dated import Dated
from erp_sync.sandbox.refusals import error_response
from erp_sync.sandbox.service import NO_ROUTE, Service


@dataclass(frozen=True, slots=True)
class Address:
    """Where a sandbox ERP listens."""

    root_url: str
    """The REST root."""
    admin_url: str


def create_app(config: SandboxConfig) -> Starlette:
    """The ERP's REST side and its admin side. A fault that tears the connection down needs `run`'s server."""
    service = Service(config)

    async def unknown(_request: Request, error: Exception) -> Response:
        return error_response(cast("HTTPException", error).status_code, NO_ROUTE, service.switches)

    app = Starlette(
        routes=[*service.routes(), *Admin(service).routes()],
        middleware=[Middleware(Dated, clock=service.clock)],
        exception_handlers={HTTPException: unknown},
    )
    app.state.connections = Connections()
    app.state.service = service
    return app


def run(
    config: SandboxConfig,
    host: str = "127.0.0.1",
    port: int = 0,
    on_ready: Callable[[Address], None] | None = None,
    *,
    ends_with_stdin: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM, or, with `ends_with_stdin`, until whoever holds the other end is gone.

    Port 0 takes any free one; `on_ready` hears which. Plain HTTP and an open admin side: a host other than loopback is
    a ValueError. OSError where the port is taken.
    """
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    base = f"http://{shown}:{listener.getsockname()[1]}"
    address = Address(f"{base}{config.root}", f"{base}/sandbox")
    app = create_app(config)
    connections: Connections = app.state.connections
    service: Service = app.state.service
    server = _Server(
        uvicorn.Config(
            app,
            http=connections.protocol(),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="warning",
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=config.keep_alive_seconds,
            timeout_graceful_shutdown=1,
        ),
        (lambda: on_ready(address)) if on_ready else lambda: None,
    )
    if ends_with_stdin:
        threading.Thread(target=_end_with_stdin, args=(server,), daemon=True).start()
    try:
        server.run(sockets=[listener])
    finally:
        service.store.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


def _end_with_stdin(server: uvicorn.Server) -> None:
    while os.read(0, 4096):
        pass
    server.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    loopback = "127.0.0.1" if host == "localhost" else host
    if not ipaddress.ip_address(loopback).is_loopback:
        raise ValueError(f"host = {host!r}: the sandbox ERP speaks plain HTTP and listens on loopback only")
    listener = socket.socket(socket.AF_INET6 if ":" in loopback else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((loopback, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener
