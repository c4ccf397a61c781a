"""A socket that answers byte by byte as a test says: what no well-behaved server would do."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

TOKEN = {"access_token": "aaa.bbb.ccc", "refresh_token": "ddd.eee.fff", "expires_in": 3600}


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int
    """Which connection it came on, counted from 0."""

    def json(self) -> Any:
        return json.loads(self.body)


def response(
    status: int, body: bytes | str | Mapping[str, Any] | list[Any] = b"", headers: Mapping[str, str] | None = None
) -> bytes:
    if isinstance(body, Mapping | list):
        body = json.dumps(body)
    content = body.encode() if isinstance(body, str) else body
    given = {"Content-Length": str(len(content)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"HTTP/1.1 {status} Scripted\r\n{head}\r\n".encode() + content


def reset(sock: socket.socket) -> None:
    """Close without an answer, with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(sock.detach())


def hang_up(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_RDWR)


Script = Callable[[Request, socket.socket], None]


def answer(status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> Script:
    return lambda _, sock: sock.sendall(response(status, body, headers))


@dataclass
class ScriptedErp:
    """Requests are answered by `script`, those for a token by `token`. `requests` holds all of the former."""

    script: Script
    token: Script = field(default_factory=lambda: answer(201, TOKEN))
    tls: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    token_requests: list[Request] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def root(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/rest"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            number, self.connections = self.connections, self.connections + 1
            self._open.append(sock)
            threading.Thread(target=self._serve, args=(sock, number), daemon=True).start()

    def _serve(self, plain: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            sock = self.tls.wrap_socket(plain, server_side=True) if self.tls else plain
            self._open.append(sock)
            with sock, sock.makefile("rb") as stream:
                while line := stream.readline():
                    method, target, _ = line.decode("latin-1").split(" ", 2)
                    headers: dict[str, str] = {}
                    while (header := stream.readline().strip()) != b"":
                        name, _, value = header.decode("latin-1").partition(":")
                        headers[name.lower()] = value.strip()
                    body = stream.read(int(headers.get("content-length", "0")))
                    request = Request(method, target, headers, body, number)
                    if "/oauth2/" in target:
                        self.token_requests.append(request)
                        self.token(request, sock)
                    else:
                        self.requests.append(request)
                        self.script(request, sock)
