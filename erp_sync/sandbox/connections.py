"""The open client connections, so that one can be torn down instead of answered."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Connections:
    """By the client's address."""

    def __init__(self) -> None:
        self._transports: dict[tuple[str, int], asyncio.Transport] = {}

    def protocol(self) -> type[asyncio.Protocol]:
        """uvicorn's HTTP protocol, with its connections written down here."""
        transports = self._transports

        class Noted(asyncio.Protocol):
            peer: tuple[str, int] = ("", 0)

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.peer = tuple(transport.get_extra_info("peername")[:2])
                transports[self.peer] = cast("asyncio.Transport", transport)
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                transports.pop(self.peer, None)
                super().connection_lost(exc)

        return type("NotedHTTPProtocol", (Noted, AutoHTTPProtocol), {})

    def reset(self, peer: tuple[str, int]) -> None:
        """Closed with RST: the client sees a reset, not an end."""
        transport = self._transports[peer]
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()


class Reset(Response):
    """No answer: the connection is torn down."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        connections: Connections = scope["app"].state.connections
        try:
            connections.reset(tuple(scope["client"]))
        except KeyError:
            return
        # Until the server has seen it: it would complain about a call without an answer otherwise.
        while (await receive())["type"] != "http.disconnect":
            pass
