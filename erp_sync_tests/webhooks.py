"""Senders of webhooks, and the receiver in this process, in a thread, or as the command."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import requests
import sqlalchemy as sa
from starlette.types import ASGIApp, Message

from erp_sync.ledger.ledger import Ledger
from erp_sync.ledger.tables import inbox
from erp_sync.settings import Settings
from erp_sync.webhook.server import Listening, WebhookServer

SPATIE_SECRET = "segredo-de-teste"
STANDARD_SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
OLD_SECRET, NEW_SECRET = "the-old-secret-of-fila", "the-new-secret-of-fila"
SOURCES = {
    "loja": {"scheme": "spatie"},
    "fila": {"scheme": "spatie", "reference": "data.order.number", "names": "number"},
    "padrao": {"scheme": "standard"},
}
SECRETS = {"loja": SPATIE_SECRET, "fila": [NEW_SECRET, OLD_SECRET], "padrao": STANDARD_SECRET}
NOWHERE = {
    "ERP_SYNC_SHOP_URL": "sqlite:///no-shop.sqlite",
    "ERP_SYNC_SHOP_PROFILE": "laravel",
    "ERP_SYNC_ERP_URL": "http://127.0.0.1:1/rest",
    "ERP_SYNC_ERP_USER": "svc.loja",
    "ERP_SYNC_ERP_PASSWORD": "nobody-asks-for-it",
    "ERP_SYNC_ERP_TENANT": "01,0101",
}
"""Neither shop nor ERP is there."""
BODY = rb'{"event":"order.paid","order_id":42,"cliente":"Jo\u00e3o \/ caf\u00e9"}'
NOW = 1777888800
"""The time of the contract's vector."""
JSON = {"content-type": "application/json"}
_numbers = count(1)
Headers = dict[str, str] | list[tuple[str, str]]


def settings(**overrides: Any) -> Settings:
    given = {"webhook": {"sources": SOURCES}, "webhook_secrets": json.dumps(SECRETS), **overrides}
    return Settings(**given)


def spatie(body: bytes, secret: str = SPATIE_SECRET) -> dict[str, str]:
    return {**JSON, "signature": hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


def standard(body: bytes, event_id: str, at: float | None = None, secret: str = STANDARD_SECRET) -> dict[str, str]:
    key, moment = base64.b64decode(secret.removeprefix("whsec_")), str(int(time.time() if at is None else at))
    signed = f"{event_id}.{moment}.".encode() + body
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {**JSON, "webhook-id": event_id, "webhook-timestamp": moment, "webhook-signature": f"v1,{signature}"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def call(
    app: ASGIApp, method: str, path: str, headers: Headers, chunks: Iterable[bytes] = (), *, ends: bool = True
) -> Answer:
    """One request, as a server hands it over. `ends` False: after its chunks the sender stays silent."""
    pairs = headers.items() if isinstance(headers, dict) else headers
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs],
        "client": ("127.0.0.1", 4711),
        "server": ("127.0.0.1", 80),
    }
    parts = iter(chunks)
    said: list[Message] = []

    async def receive() -> Message:
        part = next(parts, None)
        if part is None and not ends:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    async def send(message: Message) -> None:
        said.append(message)

    await app(scope, receive, send)
    start, *rest = said
    fields = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], fields, b"".join(part.get("body", b"") for part in rest))


def post(app: ASGIApp, source: str, headers: Headers, *chunks: bytes) -> Answer:
    return asyncio.run(call(app, "POST", f"/webhooks/{source}", headers, chunks))


def get(app: ASGIApp, path: str) -> Answer:
    return asyncio.run(call(app, "GET", path, {}))


def stored(ledger: Ledger) -> list[tuple[str, str, str]]:
    """Source, event and reference of everything in the inbox."""
    columns = (inbox.c.source, inbox.c.event_id, inbox.c.reference)
    return [tuple(row) for row in ledger.database.rows(sa.select(*columns).order_by(*columns))]


@contextlib.contextmanager
def serving(app: Any, listening: Listening | None = None) -> Iterator[str]:
    """The server in a thread. Yields its address."""
    server = WebhookServer(app, listening or Listening(port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    give_up = time.monotonic() + 10
    while not server.started and thread.is_alive() and time.monotonic() < give_up:
        time.sleep(0.005)
    assert server.started
    try:
        yield server.url
    finally:
        server.should_exit = True
        thread.join(20)


def write_config(folder: Path) -> Path:
    """The file of settings with SOURCES."""
    path = folder / "webhook.toml"
    with path.open("w") as file:
        file.write("[orders]\nstart_day = 2026-01-01\n")
        for name, source in SOURCES.items():
            file.write(f"[webhook.sources.{name}]\n")
            file.writelines(f'{key} = "{value}"\n' for key, value in source.items())
    return path


class Receiver:
    """`erp-sync webhook` as a process of its own, with this process's environment and the secrets of all sources."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        given = {**os.environ, "ERP_SYNC_WEBHOOK_SECRETS": json.dumps(SECRETS), **environment}
        self._said = folder / "webhook.log"
        before = self._said.stat().st_size if self._said.exists() else 0
        program = str(Path(sys.executable).parent / "erp-sync")
        with self._said.open("ab") as said:
            self.process = subprocess.Popen(
                [program, "webhook", "--port", "0", *options], env=given, stdout=said, stderr=said
            )
        give_up = time.monotonic() + 30
        while not (found := re.search(r"listening on (https?://[^\s\"]+:(\d+))", self.log[before:])):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < give_up, self.log
            time.sleep(0.02)
        self.url, self.port = found[1], int(found[2])

    @property
    def log(self) -> str:
        return self._said.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.splitlines()]

    def memory(self) -> float:
        """Resident, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)


class Command(Receiver):
    """With a ledger, and nothing else."""

    def __init__(self, folder: Path, ledger_url: str, *options: str) -> None:
        config = str(write_config(folder))
        super().__init__(folder, *options, ERP_SYNC_CONFIG=config, ERP_SYNC_LEDGER_URL=ledger_url, **NOWHERE)


def order_body() -> bytes:
    """Of an order that was not sent before."""
    return json.dumps({"order_id": next(_numbers)}).encode()


def good(url: str, **options: Any) -> requests.Response:
    """A genuine request of a new event, as Spatie's package sends it."""
    body = order_body()
    return requests.post(f"{url}/webhooks/loja", data=body, headers=spatie(body), timeout=5, **options)


def connect(port: int, data: bytes = b"", timeout: float = 10) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    if data:
        connection.sendall(data)
    return connection


def begun(port: int, body: bytes) -> socket.socket:
    """A genuine request of which the server has all but the body, and waits for it."""
    head = raw("loja", [*spatie(body).items(), ("expect", "100-continue")], b"", length=len(body))
    connection = connect(port, head)
    assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
    return connection


def until_closed(connection: socket.socket) -> bytes:
    """What the server says until it ends the connection. Raises TimeoutError where it does not."""
    said = b""
    with connection:
        try:
            while part := connection.recv(65536):
                said += part
        except TimeoutError:
            raise
        except OSError:  # torn down
            pass
    return said


def raw(source: str, headers: Headers, body: bytes, *, length: int | None = None, ends: bool = True) -> bytes:
    """A request as bytes. `length`: what Content-Length claims."""
    pairs = list(headers.items() if isinstance(headers, dict) else headers)
    if not any(name.lower() == "transfer-encoding" for name, _ in pairs):
        pairs.append(("content-length", str(len(body) if length is None else length)))
    if ends:
        pairs.append(("connection", "close"))
    lines = "".join(f"{name}: {value}\r\n" for name, value in pairs)
    return f"POST /webhooks/{source} HTTP/1.1\r\nhost: t\r\n{lines}\r\n".encode("latin-1") + body
