"""Entries for the tests of the ledger, and a proxy that cuts connections where it hurts."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from erp_sync.ledger.entry import Change, Entry, Event
from erp_sync.models import LedgerState

START = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
DAY = date(2026, 11, 23)


class Hand:
    """A clock that tests turn."""

    def __init__(self, at: datetime = START) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def turn(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


def due(order_id: str, at: datetime = START, **values: Any) -> Entry:
    number = values.pop("number", f"LJ-{order_id}")
    external_id = values.pop("external_id", number)
    day = values.pop("day", DAY)
    return Entry(order_id, number, external_id, day, LedgerState.DUE, 1, at, values.pop("next_at", at), **values)


def found(*entries: Entry) -> list[tuple[Entry, Event]]:
    return [(entry, Event("found")) for entry in entries]


def step(old: Entry, kind: str = "note", **values: Any) -> Change:
    hold, release = values.pop("hold", ""), values.pop("release", "")
    return Change(old, replace(old, version=old.version + 1, **values), Event(kind), hold, release)


class CuttingProxy:
    """Passes bytes to a server, until the client says COMMIT: then it cuts the connection before the request has come
    to the server ("request"), before the answer has come back ("reply"), or lets the request arrive later ("late")."""

    def __init__(self, port: int) -> None:
        self.cuts: list[str] = []
        """What to do with the next COMMITs of transactions that wrote; or "pass"."""
        self.done: list[str] = []
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._server_port))
                except OSError:
                    client.close()
                    continue
                threading.Thread(target=self._requests, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        cut = threading.Event()
        answers = threading.Thread(target=self._answers, args=(client, server, cut), daemon=True)
        answers.start()
        with contextlib.suppress(OSError):
            wrote = False
            while data := client.recv(65536):
                wrote = wrote or b"UPDATE" in data or b"INSERT" in data  # a new connection says COMMIT as well
                if wrote and data[4:] == b"\x03COMMIT" and self.cuts and (how := self.cuts.pop(0)) != "pass":
                    self.done.append(how)
                    cut.set()
                    if how == "late":
                        _hang_up(client)
                        time.sleep(0.4)
                    if how != "request":
                        server.sendall(data)
                        answers.join(5)  # the server has committed
                    break
                wrote = wrote and data[4:] != b"\x03COMMIT"
                server.sendall(data)
        _hang_up(client, server)

    @staticmethod
    def _answers(client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while (data := server.recv(65536)) and not cut.is_set():
                client.sendall(data)
        _hang_up(client, server)


def _hang_up(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # also wakes the thread that reads from it
        end.close()
