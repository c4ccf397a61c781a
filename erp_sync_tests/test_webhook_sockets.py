"""The receiver on real sockets, against clients that are broken, slow, or mean it: it stays up, small and answering."""

from __future__ import annotations

import contextlib
import gzip
import re
import socket
import threading
import time
import zlib
from collections.abc import Iterator

import pytest
import requests

from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.webhook import app as receiving
from erp_sync.webhook import server as serving_module
from erp_sync.webhook.app import receiver
from erp_sync.webhook.server import Listening
from erp_sync_tests.webhooks import (
    BODY,
    JSON,
    Command,
    begun,
    connect,
    good,
    order_body,
    raw,
    serving,
    settings,
    spatie,
    stored,
    until_closed,
)


@pytest.fixture(scope="module")
def ledger_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'ledger.sqlite'}"
    migrate(url)
    return url


@pytest.fixture(scope="module")
def ledger(ledger_url: str) -> Iterator[Ledger]:
    ledger = open_ledger(ledger_url)
    yield ledger
    ledger.close()


@pytest.fixture(scope="module")
def command(ledger_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    running = Command(tmp_path_factory.mktemp("command"), ledger_url)
    yield running
    running.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Iterator[int]:
    """The port of a receiver that waits for nobody."""
    monkeypatch.setattr(serving_module, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(serving_module, "REQUEST_SECONDS", 0.8)
    monkeypatch.setattr(receiving, "BODY_SECONDS", 0.4)
    with serving(receiver(settings(), ledger)) as url:
        yield int(url.rpartition(":")[2])


CHUNKED = {**spatie(BODY), "transfer-encoding": "chunked"}
HEAD = b"POST /webhooks/loja HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n"
SIGNED = b"signature: " + spatie(BODY)["signature"].encode() + b"\r\n"
CHUNK = b"%x\r\n" % len(BODY) + BODY + b"\r\n"

REFUSED = {
    "an oversized body": (raw("loja", spatie(BODY), b"x" * 100_000), 413),
    "an oversized body that is only announced": (raw("loja", spatie(BODY), b"", length=10**8), 413),
    "an oversized chunked body": (
        raw("loja", CHUNKED, b"".join(b"8000\r\n" + b"x" * 0x8000 + b"\r\n" for _ in range(4))),
        413,
    ),
    "a chunk of a size that is no number": (raw("loja", CHUNKED, b"-1\r\n" + BODY), 400),
    "an endless chunk size": (raw("loja", CHUNKED, b"0" * 100_000), 400),
    "a shorter length than the body": (raw("loja", spatie(BODY), BODY, length=10), 401),
    "a negative length": (raw("loja", spatie(BODY), BODY, length=-1), 400),
    "gzip": (raw("loja", {**spatie(BODY), "content-encoding": "gzip"}, gzip.compress(b"0" * 10**7)), 415),
    "deflate": (raw("loja", {**spatie(BODY), "content-encoding": "deflate"}, zlib.compress(BODY)), 415),
    "a coded transfer": (raw("loja", {**spatie(BODY), "transfer-encoding": "gzip, chunked"}, BODY), 400),
    "1000 headers": (raw("loja", {**spatie(BODY), **{f"x-{n}": "1" for n in range(1000)}}, BODY), 431),
    "a header of a megabyte": (raw("loja", {**spatie(BODY), "x": "y" * 10**6}, BODY), 400),
    "headers without end": (HEAD + b"x: y\r\n" * 50_000, 400),
    "an address without end": (b"POST /" + b"a" * 10**6, 400),
    "a NUL in a header": (raw("loja", {**spatie(BODY), "x": "a\0b"}, BODY), 400),
    "two lengths": (HEAD + SIGNED + b"content-length: 71\r\ncontent-length: 7\r\n\r\n" + BODY, 400),
    "two lengths in one": (HEAD + SIGNED + b"content-length: 71, 7\r\n\r\n" + BODY, 400),
    "a length and chunks": (HEAD + SIGNED + b"content-length: 71\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNK, 400),
    "chunks and a length": (HEAD + SIGNED + b"transfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n" + CHUNK, 400),
    "chunks spelled otherwise": (HEAD + SIGNED + b"transfer-encoding : chunked\r\n\r\n" + CHUNK, 400),
    "chunks twice": (HEAD + SIGNED + b"transfer-encoding: chunked, chunked\r\n\r\n" + CHUNK, 400),
    "chunks of another kind": (HEAD + SIGNED + b"transfer-encoding: xchunked\r\n\r\n" + CHUNK, 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),
    "a proxy's request": (b"CONNECT erp.example.com:443 HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n", 404),
    "an upgrade": (raw("loja", [*JSON.items(), ("upgrade", "websocket"), ("connection", "upgrade")], BODY), 401),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_broken_request_is_refused_and_ends_its_connection(command: Command, ledger: Ledger, what: str) -> None:
    data, status = REFUSED[what]
    before = len(stored(ledger))
    connection = connect(command.port)
    with contextlib.suppress(OSError):  # it may be refused before all of it is said
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    said = until_closed(connection)
    # Where bytes are left unread, the answer may be lost with the connection.
    assert said.startswith(b"HTTP/1.1 %d " % status) or (said == b"" and len(data) > 50_000), said[:200]
    assert said.count(b"HTTP/1.1 ") <= 1, "what follows a refused request is not read as another one"
    assert len(stored(ledger)) == before


def _signed(body: bytes) -> bytes:
    return raw("loja", spatie(body), body)


SIGNED_BUT_ODD = {
    "invalid UTF-8": b'{"order_id":"\xc3\x28"}',
    "deep JSON": b'{"order_id":1,"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "deeper JSON": b'{"x":' * 10_000 + b"1" + b"}" * 10_000,
    "NaN": b'{"order_id":NaN}',
    "a huge int": b'{"order_id":' + b"7" * 60_000 + b"}",
    "a lone surrogate": b'{"order_id":"\\ud83d"}',
    "a NUL": b'{"order_id":"4\\u00002"}',
    "a bool": b'{"order_id":true}',
    "many keys": b'{"order_id":"",' + b",".join(b'"k%d":1' % n for n in range(5000)) + b"}",
    "nothing": b"",
}


@pytest.mark.parametrize("what", SIGNED_BUT_ODD)
def test_a_signed_body_that_names_no_order_is_a_422(command: Command, ledger: Ledger, what: str) -> None:
    before = len(stored(ledger))
    assert until_closed(connect(command.port, _signed(SIGNED_BUT_ODD[what]))).startswith(b"HTTP/1.1 422 ")
    assert len(stored(ledger)) == before


def test_requests_in_one_breath_are_each_looked_at(command: Command) -> None:
    first, second, third = (order_body() for _ in range(3))
    forged = raw("loja", spatie(first, "another-secret-here"), second, ends=False)
    said = until_closed(
        connect(
            command.port, raw("loja", spatie(first), first, ends=False) + forged + raw("loja", spatie(third), third)
        )
    )
    assert re.findall(rb"HTTP/1\.1 (\d+)", said) == [b"202", b"401", b"202"]


def test_a_request_hidden_in_a_body_is_none(command: Command, ledger: Ledger) -> None:
    hidden = raw("loja", spatie(BODY), BODY)
    before = len(stored(ledger))
    inner = b"0\r\n\r\n" + hidden
    for head in (
        b"content-length: %d\r\ntransfer-encoding: chunked\r\n\r\n" % len(inner),
        b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\ncontent-length: 5\r\n\r\n",
        b"content-length: 5\r\ntransfer-encoding:\x0bchunked\r\n\r\n",
        b"content-length: 5\r\ncontent-length: %d\r\n\r\n" % len(inner),
    ):
        said = until_closed(connect(command.port, HEAD + SIGNED + head + inner))
        assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")), said
        assert said.count(b"HTTP/1.1") == 1
    assert len(stored(ledger)) == before


def test_a_thousand_idle_connections_and_floods_leave_it_small_and_answering(command: Command, ledger: Ledger) -> None:
    assert good(command.url).status_code == 202
    before, rows = command.memory(), len(stored(ledger))
    idle = [connect(command.port, HEAD if number % 2 else b"") for number in range(1000)]
    assert good(command.url).status_code == 202
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    for number in range(60):
        flood = connect(command.port)
        with contextlib.suppress(ConnectionError), flood:
            flood.sendall(raw("loja", CHUNKED, b"") + chunk * 20 if number % 2 else _signed(b"[" * 60_000))
    started = time.monotonic()
    assert good(command.url).status_code == 202
    assert time.monotonic() - started < 3
    assert requests.get(f"{command.url}/readyz", timeout=5).status_code == 200
    assert command.memory() - before < 60
    assert len(stored(ledger)) == rows + 2
    for connection in idle:
        connection.close()
    assert command.process.poll() is None


def test_its_log_is_json_and_has_no_defect(command: Command) -> None:
    assert good(command.url).status_code == 202
    lines = command.lines
    assert {line["level"] for line in lines} <= {"INFO", "WARNING"}
    assert not [line for line in lines if line.get("outcome") in ("defect", "unavailable")]
    assert any(line["event"] == "webhook.received" for line in lines)
    assert "cliente" not in command.log
    assert spatie(BODY)["signature"] not in command.log


def test_an_answer_says_nothing_about_the_server(command: Command) -> None:
    assert set(good(command.url).headers) == {"cache-control", "content-length", "content-type"}


# --- slow clients -------------------------------------------------------------------------------


def _trickle(connection: socket.socket, data: bytes, pause: float = 0.05) -> float:
    """A byte at a time, for as long as the other end listens. How long it did."""
    started = time.monotonic()
    with connection, contextlib.suppress(ConnectionError):
        for place in range(len(data)):
            connection.sendall(data[place : place + 1])
            time.sleep(pause)
            if time.monotonic() - started > 5:
                break
    return time.monotonic() - started


def test_slow_clients_are_not_waited_for(hasty: int) -> None:
    """All at once, so that the test does not wait either."""
    slow = {
        "headers": (b"", HEAD + b"x: " + b"y" * 5000),
        "the headers of a second request": (raw("nobody", JSON, b"{}", ends=False), HEAD + b"x: " + b"y" * 5000),
        "a body": (raw("loja", spatie(BODY), b"", length=71), b"{" * 5000),
        "chunks": (raw("loja", CHUNKED, b""), b"1\r\nx\r\n" * 1000),
        "nothing at all": (b"", b""),
    }
    took: dict[str, float] = {}

    def be_slow(name: str) -> None:
        first, rest = slow[name]
        connection = connect(hasty, first, timeout=5)
        if rest:
            took[name] = _trickle(connection, rest)
        else:
            started = time.monotonic()
            until_closed(connection)
            took[name] = time.monotonic() - started

    threads = [threading.Thread(target=be_slow, args=(name,)) for name in slow]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert took.keys() == slow.keys()
    assert max(took.values()) < 4.5, took


def test_who_does_not_read_the_answers_is_left(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> None:
    monkeypatch.setattr(serving_module, "REQUEST_SECONDS", 0.3)
    listen = serving_module._listen

    def with_little_room(listening: Listening) -> socket.socket:
        listener = listen(listening)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        return listener

    monkeypatch.setattr(serving_module, "_listen", with_little_room)
    with serving(receiver(settings(), ledger)) as url, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - started < 6:
                connection.sendall(raw("nobody", JSON, b"{}", ends=False) * 1000)
        assert good(url).status_code == 202


def test_a_client_that_hangs_up_half_way_is_no_defect(hasty: int, ledger: Ledger) -> None:
    before = len(stored(ledger))
    for _ in range(20):
        connect(hasty, raw("loja", spatie(BODY), BODY[:30], length=71)).close()
    assert good(f"http://127.0.0.1:{hasty}").status_code == 202
    assert len(stored(ledger)) == before + 1


def test_one_connection_too_many_ends_the_one_that_owes_its_request_for_the_longest(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    monkeypatch.setattr(serving_module, "MOST_CONNECTIONS", 5)
    with serving(receiver(settings(), ledger)) as url:
        port = int(url.rpartition(":")[2])
        first = connect(port)
        busy = begun(port, BODY)
        others = [connect(port) for _ in range(4)]
        assert until_closed(first) == b""
        busy.sendall(BODY)
        assert until_closed(busy)[9:12] in (b"200", b"202")
        for connection in others:
            connection.close()


def test_headers_without_a_body_keep_nobody_out(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> None:
    """Whoever sends them needs no secret, and may be faster than a genuine sender far away."""
    monkeypatch.setattr(serving_module, "MOST_CONNECTIONS", 8)
    with serving(receiver(settings(), ledger)) as url:
        port = int(url.rpartition(":")[2])
        strangers = [begun(port, b"x" * 71) for _ in range(8)]
        assert good(url).status_code == 202
        strangers.append(begun(port, b"x" * 71))
        genuine = connect(port)
        strangers += [begun(port, b"x" * 71) for _ in range(6)]
        body = order_body()
        genuine.sendall(raw("loja", spatie(body), b"", length=len(body)))
        strangers.append(begun(port, b"x" * 71))
        genuine.sendall(body)
        assert until_closed(genuine).startswith(b"HTTP/1.1 202 ")
        assert until_closed(strangers[0]) == b""
        for stranger in strangers[1:]:
            stranger.close()


def test_a_request_that_is_complete_is_answered_however_many_come(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    monkeypatch.setattr(serving_module, "MOST_CONNECTIONS", 3)
    stored_now, go_on = threading.Event(), threading.Event()

    def notify(_hint: object) -> None:
        stored_now.set()
        go_on.wait(1)

    body = order_body()
    with serving(receiver(settings(), ledger, notify=notify)) as url:
        port = int(url.rpartition(":")[2])
        genuine = connect(port, raw("loja", spatie(body), body))
        assert stored_now.wait(5)
        strangers = [connect(port) for _ in range(6)]
        assert until_closed(strangers[0]) == b""
        go_on.set()
        assert until_closed(genuine).startswith(b"HTTP/1.1 202 ")
        for stranger in strangers:
            stranger.close()


class _Held:
    """A clock in the receiver's loop, which it holds from `hold` on, once it is asked, until `go_on`."""

    def __init__(self) -> None:
        self.held, self._free = threading.Event(), threading.Event()
        self._free.set()
        self.hold, self.go_on = self._free.clear, self._free.set

    def __call__(self) -> float:
        if not self._free.is_set():
            self.held.set()
            self._free.wait(5)
        return time.time()


def test_many_that_come_at_once_are_not_more_than_those_that_come_one_by_one(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    monkeypatch.setattr(serving_module, "MOST_CONNECTIONS", 5)
    clock = _Held()
    with serving(receiver(settings(), ledger, clock=clock)) as url:
        port = int(url.rpartition(":")[2])
        clock.hold()
        genuine = connect(port, raw("loja", spatie(BODY), BODY))
        assert clock.held.wait(5)
        many = [connect(port) for _ in range(40)]
        clock.go_on()
        assert until_closed(genuine)[9:12] in (b"200", b"202")
        started = time.monotonic()
        for connection in many[:35]:
            assert until_closed(connection) == b""
        assert time.monotonic() - started < 4, "none of them waited for its time to end"
        for connection in many[35:]:
            connection.close()


def test_who_asks_on_before_the_answer_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> None:
    monkeypatch.setattr(serving_module, "MOST_CONNECTIONS", 2)
    clock, forged = _Held(), raw("nobody", JSON, b"{}", ends=False)
    with serving(receiver(settings(), ledger, clock=clock)) as url:
        port = int(url.rpartition(":")[2])
        strangers = [connect(port, forged) for _ in range(2)]
        for stranger in strangers:
            assert stranger.recv(65536).startswith(b"HTTP/1.1 401 ")
        clock.hold()
        for stranger in strangers:
            stranger.sendall(forged * 200)
        assert clock.held.wait(5)
        body = order_body()
        genuine = connect(port, raw("loja", spatie(body), body))
        clock.go_on()
        assert until_closed(genuine).startswith(b"HTTP/1.1 202 ")
        for stranger in strangers:
            stranger.close()
