"""One HTTP exchange with the ERP, and what is certain about it when it fails: had anything left the machine?

requests and urllib3 do the protocol. What they do not offer is done here on urllib3's connection:

- a callback between the connection (TCP and TLS done) and the first byte, and a deadline checked again after it;
- head and body leave in one `sendall`, so that a process paused in between has sent nothing or everything;
- a limit on the whole answer: trickling bytes do not extend it;
- an abandoned exchange ends in a reset (SO_LINGER 0), and TCP_USER_TIMEOUT bounds what the kernel delivers later,
  even after the process was killed;
- a connection that idled for a few seconds is replaced instead of used: the server may be closing it at this very
  moment, and a reset after our bytes would leave a write in doubt that nobody had executed.

Nothing is retried, no redirect is followed, and neither ~/.netrc nor proxy variables are read
(reliability-facts.md, 1.2 and 5.3).
"""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import math
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import certifi
import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    IncompleteRead,
    NameResolutionError,
    ReadTimeoutError,
)
from urllib3.util import Retry

from erp_sync.errors import Misconfigured

MAX_ANSWER = 5_000_000
"""Bytes of an answer, unpacked."""
MAX_RECEIVED = 2 * MAX_ANSWER
"""Bytes of it on the wire: heads and the lengths of chunks have no other limit."""
_MAX_COOKIES = 50
_IDLE_SECONDS = 3.0
_MAX_CONNECTIONS = 64
_SOCKET_OPTIONS: list[tuple[int, int, int | bytes]] = [
    *HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
]
if hasattr(socket, "TCP_USER_TIMEOUT"):
    _SOCKET_OPTIONS.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000))
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class TooLate(Exception):
    """The deadline passed before the first byte left; nothing left."""


class ConnectionLost(Exception):
    """The server closed the connection before the first byte left; nothing left."""


class AnswerTooLarge(Exception):
    pass


class Exchange:
    """One request and its answer, as the connection sees them."""

    def __init__(self, before_send: Callable[[], float] | None, answer_within: float) -> None:
        self._before_send = before_send
        self._answer_within = answer_within
        self.left = False
        """True: the request may have reached the ERP. False: certainly not a byte of it left this machine."""
        self.left_at = 0.0
        """On the monotonic clock; 0.0 while `left` is False."""
        self.received = 0
        self.finished = False
        """True: the whole answer is here, the connection may be kept."""
        self.stopped: BaseException | None = None
        """What `before_send` raised."""
        self.untrusted = ""
        """Why the server's certificate was refused."""

    def enter_last(self, permits: ExitStack, permit: AbstractContextManager[None]) -> None:
        """Take the permit when all else is ready; the deadline is checked after it. The stack gives it back."""
        before_send = self._before_send

        def then_permit() -> float:
            leave_by = before_send() if before_send is not None else math.inf
            permits.enter_context(permit)
            return leave_by

        self._before_send = then_permit

    def depart(self, connection: HTTPConnection, message: bytes) -> None:
        if self._before_send is not None:
            try:
                leave_by = self._before_send()
            except BaseException as error:
                self.stopped = error
                raise
            if not _is_open(connection.sock, connection.timeout):
                raise ConnectionLost
            if time.monotonic() >= leave_by:
                raise TooLate
        self.left = True
        self.left_at = time.monotonic()
        connection.sock.sendall(message)

    def remaining(self) -> float:
        return self.left_at + self._answer_within - time.monotonic()


_current: ContextVar[Exchange] = ContextVar("exchange")


def _is_open(sock: Any, timeout: Any) -> bool:
    """False where the server has closed, or sent what nobody asked for. TLS session tickets are taken in on the way."""
    sock.settimeout(0)
    try:
        sock.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    finally:
        sock.settimeout(timeout)
    return False


class _LimitedReader(io.RawIOBase):
    """A socket's bytes until the exchange's time is up, however they trickle."""

    def __init__(self, raw: Any, connection: _DepartureMixin, exchange: Exchange) -> None:
        self._raw = raw
        self._socket = connection.sock
        self._connection = connection
        self._exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        remaining = self._exchange.remaining()
        if remaining <= 0:
            raise TimeoutError("the answer took too long")
        if self._exchange.received > MAX_RECEIVED:
            raise AnswerTooLarge
        self._socket.settimeout(remaining)
        count = self._raw.readinto(buffer)
        self._exchange.received += count or 0
        self._connection.idle_since = time.monotonic()
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _DepartureMixin:
    """Holds the message back until it is whole, then lets the current exchange decide whether it leaves."""

    idle_since = 0.0
    _message: list[bytes] | None = None
    _exchange: Exchange | None = None
    sock: Any

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None and time.monotonic() - self.idle_since > _IDLE_SECONDS:
            self.close()
        exchange = self._exchange = _current.get()
        self._message = []
        try:
            super().request(*args, **kwargs)  # type: ignore[misc]
            message = b"".join(self._message)
        finally:
            self._message = None
        if self.sock is None:
            self.connect()
        exchange.depart(self, message)  # type: ignore[arg-type]

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.idle_since = time.monotonic()

    def send(self, data: Any) -> None:
        if self._message is None:
            super().send(data)  # type: ignore[misc]
        else:
            self._message.append(bytes(data))

    def response_class(self, sock: Any, *args: Any, **kwargs: Any) -> http.client.HTTPResponse:
        response = http.client.HTTPResponse(sock, *args, **kwargs)
        assert self._exchange is not None  # noqa: S101 - told to the type checker
        reader: Any = response.fp
        response.fp = io.BufferedReader(_LimitedReader(reader.detach(), self, self._exchange), 65536)
        return response

    def close(self) -> None:
        exchange = self._exchange
        if self.sock is not None and exchange is not None and exchange.left and not exchange.finished:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        super().close()  # type: ignore[misc]


class _PlainConnection(_DepartureMixin, HTTPConnection):  # type: ignore[misc]
    pass


class _TlsConnection(_DepartureMixin, HTTPSConnection):  # type: ignore[misc]
    def connect(self) -> None:
        try:
            super().connect()
        except ssl.SSLCertVerificationError as error:
            _current.get().untrusted = error.verify_message
            raise


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    """requests' adapter with our connections, our TLS context, and nothing that retries."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(pool_maxsize=_MAX_CONNECTIONS, max_retries=Retry(0, read=False, redirect=False))

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, socket_options=_SOCKET_OPTIONS, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}

    def build_connection_pool_key_attributes(
        self,
        request: requests.PreparedRequest,
        verify: Any,  # noqa: ARG002 - the signature is requests'
        cert: Any = None,  # noqa: ARG002
    ) -> Any:
        host, _ = super().build_connection_pool_key_attributes(request, True)
        return host, {} if self._context is None else {"ssl_context": self._context}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """The context alone decides: requests would add its own certificate authorities to a private one."""


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: even where it follows none, requests would read a redirect's whole body, and parse where it leads."""


class Transport:
    """Connections and cookies for one ERP, shared by all threads of the process."""

    def __init__(self, root: str, *, connect_timeout: float, ca_bundle: Path | None = None) -> None:
        self._root = root
        self._connect_timeout = connect_timeout
        self._session = _Session()
        self._session.trust_env = False
        self._session.headers.clear()
        self._session.headers["User-Agent"] = "erp-sync"
        adapter = _Adapter(tls_context(ca_bundle) if root.startswith("https:") else None)
        self._session.adapters.clear()
        self._session.mount(root, adapter)
        _hide_queries()

    def send(
        self,
        exchange: Exchange,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One exchange: status, headers, body. `path` is below the root, its query included.

        Whatever is raised (requests' exceptions, OSError, TooLate, ConnectionLost, AnswerTooLarge), `exchange.left`
        tells whether it may have reached the ERP. Their texts hold the URL: never pass them on.
        """
        request = requests.Request(method, f"{self._root}{path}", headers=dict(headers), data=body)
        reset = _current.set(exchange)
        try:
            response = self._session.send(
                self._session.prepare_request(request),
                stream=True,
                timeout=(self._connect_timeout, None),
                allow_redirects=False,
            )
            with response:
                content = _limited(response)
                exchange.finished = True
            if len(self._session.cookies) > _MAX_COOKIES:
                # A balancer needs one or two; whoever sets new ones for ever fills memory and heads.
                self._session.cookies.clear()
        finally:
            _current.reset(reset)
            if exchange.stopped is not None:
                raise exchange.stopped
        return response.status_code, response.headers, content

    def close(self) -> None:
        self._session.close()


def _limited(response: requests.Response) -> bytes:
    content = bytearray()
    for chunk in response.iter_content(65536):
        content += chunk
        if len(content) > MAX_ANSWER:
            raise AnswerTooLarge
    return bytes(content)


def tls_context(ca_bundle: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer; trusts the given authorities alone, or those that certifi lists. Raises Misconfigured."""
    try:
        context = ssl.create_default_context(cafile=str(ca_bundle or certifi.where()))
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or type(error).__name__
        raise Misconfigured(
            f"ERP_SYNC_ERP_CA_BUNDLE = {str(ca_bundle)!r} cannot be used ({reason}): "
            "give a PEM file with the certificate of the authority that signed the ERP's"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class _QueryFilter(logging.Filter):
    """urllib3 logs each URL when debugging; ours hold passwords (token style query) and tax ids."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(arg.partition("?")[0] if isinstance(arg, str) else arg for arg in record.args)
        return True


_query_filter = _QueryFilter()


def _hide_queries() -> None:
    for name in ("urllib3.connectionpool", "urllib3.util.retry"):
        logging.getLogger(name).addFilter(_query_filter)


def reason(error: BaseException) -> str:
    """Why an exchange failed, in a few words without address, query or header."""
    seen: list[BaseException] = []
    todo: list[object] = [error]
    while todo and len(seen) < 20:
        item = todo.pop()
        if isinstance(item, BaseException) and item not in seen:
            seen.append(item)
            todo += [item.__cause__, item.__context__, getattr(item, "reason", None), *item.args]
    for kind, words in _REASONS:
        if any(isinstance(item, kind) for item in seen):
            return words
    for item in seen:
        if isinstance(item, ssl.SSLError):
            return f"TLS failed: {item.reason}"
    for item in seen:
        if isinstance(item, OSError) and item.strerror:
            return item.strerror.lower()
    return type(error).__name__


_REASONS: list[tuple[type[BaseException], str]] = [
    (TooLate, "the time to send it was over"),
    (ConnectionLost, "the ERP closed the connection before anything was sent"),
    (AnswerTooLarge, f"the answer has more than {MAX_ANSWER} bytes"),
    (NameResolutionError, "its name cannot be resolved"),
    (ConnectTimeoutError, "no connection in time"),
    (TimeoutError, "no whole answer in time"),
    (ReadTimeoutError, "no whole answer in time"),
    (IncompleteRead, "the answer broke off"),
    (http.client.IncompleteRead, "the answer broke off"),
    (http.client.RemoteDisconnected, "the ERP closed the connection without an answer"),
    (DecodeError, "the answer cannot be unpacked"),
]
