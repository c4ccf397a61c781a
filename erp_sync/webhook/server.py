"""The receiver on a socket: uvicorn, and the patience that it lacks with clients that are slow on purpose."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import resource
import signal
import socket
import ssl
import sys
from asyncio import sslproto
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from erp_sync.errors import Misconfigured
from erp_sync.webhook.app import LONGEST_HEADERS

logger = logging.getLogger(__name__)

HEAD_SECONDS = 5.0
"""In which the headers of a request must have arrived, counted from the connection's beginning or the last answer."""
REQUEST_SECONDS = 12.0
"""In which the rest of it must be over, the answer taken included."""
MOST_CONNECTIONS = 512
MOST_HANDSHAKES = 1024
"""Connections whose TLS handshake is not over are no connections yet, and end after HEAD_SECONDS."""
BACKLOG = 512
"""Connections that are accepted in one step, before any can be ended."""
MOST_FILES = 4096
"""Room for all of them, for some steps, and for the process's own sockets."""
END_SECONDS = 5
"""So long a request in progress is waited for at the end."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where it listens, and what it believes."""

    host: str = "127.0.0.1"
    port: int = 8091
    """0 takes any free one."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False
    """TLS ends at a proxy: plain HTTP beyond loopback is meant."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose X-Forwarded-For names the sender in the log; of nobody else it is believed."""


def serve(app: Starlette, listening: Listening, begin: Callable[[], None] = lambda: None) -> None:
    """Until SIGTERM or SIGINT; then requests in progress are answered, and the interpreter ends in an orderly way.
    `begin` is called once the address is ours.

    Raises Misconfigured where it must not or cannot listen.
    """
    server = WebhookServer(app, listening)
    # uvicorn gives the signal on once it is done: then it ends the program, by way of what must be closed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _room_for_connections()
    begin()
    server.run()


class WebhookServer(uvicorn.Server):
    """Bound to its address once it is made; `run` serves until `should_exit` is set. Raises Misconfigured."""

    def __init__(self, app: Starlette, listening: Listening) -> None:
        tls = _tls(listening)
        if tls is None and not listening.behind_proxy and not _is_loopback(listening.host):
            raise Misconfigured(
                f"--host {listening.host}: plain HTTP is for loopback only: give --tls-cert and --tls-key, or "
                "--behind-proxy where TLS ends at a proxy"
            )
        for proxy in listening.trusted_proxies:
            _check_proxy(proxy)
        self._listener = _listen(listening)
        shown = f"[{listening.host}]" if ":" in listening.host else listening.host
        self.url = f"{'https' if tls else 'http'}://{shown}:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(
            app,
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            log_level="warning",
            proxy_headers=bool(listening.trusted_proxies),
            forwarded_allow_ips=list(listening.trusted_proxies),
            server_header=False,
            date_header=False,
            h11_max_incomplete_event_size=LONGEST_HEADERS,
            timeout_keep_alive=int(HEAD_SECONDS),
            timeout_graceful_shutdown=END_SECONDS,
            ssl_context_factory=(lambda *_: tls) if tls is not None else None,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """As uvicorn's own, with limits on TLS handshakes."""
        await self.lifespan.startup()
        loop, tls = asyncio.get_running_loop(), self.config.ssl
        plain = partial(_Impatient, self.config, self.server_state, self.lifespan.state)
        begun: dict[_Tls, asyncio.Transport] = {}
        server = await loop.create_server(
            plain if tls is None else lambda: _Tls(loop, plain(), tls, begun),
            sock=self._listener,
            backlog=BACKLOG,
        )
        self.servers = [server]
        self.started = True
        logger.info("listening on %s", self.url, extra={"event": "webhook.listening", "flow": "webhook"})


class _Impatient(H11Protocol):
    """A connection that is given HEAD_SECONDS for each request's headers and REQUEST_SECONDS for the rest of it,
    however its bytes trickle in. One too many ends the one that has owed us its request for the longest, be it headers
    or body: headers alone are as cheap for a stranger as none, and who is honest sends all of it at once. One whose
    request is complete is not ended, unless it sends another before the answer, as in floods alone."""

    _patience: asyncio.TimerHandle | None = None
    _served: object = None
    _owes_since = 0.0
    _asks_on = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_request()
        if len(self.connections) > MOST_CONNECTIONS:
            all_of_them: Any = self.connections
            others: list[_Impatient] = [one for one in all_of_them if one is not self and one._may_be_ended()]
            # Without others, everybody waits for us, and that does not take long.
            min(others, key=lambda one: one._owes_since, default=self)._give_up()

    def handle_events(self) -> None:
        super().handle_events()
        # What is left unread is another request, before this one is answered.
        self._asks_on = self.flow.read_paused
        if self.cycle is not self._served:
            self._served = self.cycle
            if not self.cycle.response_complete:
                self._wait(REQUEST_SECONDS)

    def on_response_complete(self) -> None:
        self._wait_for_request()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _may_be_ended(self) -> bool:
        """It owes a request, or asks on before it has its answer; and is not given up yet."""
        cycle = self.cycle
        owes = cycle is None or cycle.response_complete or cycle.more_body
        return self._patience is not None and (owes or self._asks_on)

    def _wait_for_request(self) -> None:
        self._owes_since = self.loop.time()
        self._wait(HEAD_SECONDS)

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        # Before it is closed: of many that come at the same time, each is to end another one.
        self._stop_waiting()
        self.transport.abort()


class _Tls(sslproto.SSLProtocol):
    """As asyncio makes it of a server's `ssl`, with small buffers: each is given one before its handshake, and at
    asyncio's 256 KiB a thousand that never speak would be 300 MB. `begun` holds those in their handshake, the oldest
    first; one too many ends that."""

    max_size = 16 * 1024
    """In bytes: what one record of TLS holds."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        within: _Impatient,
        context: ssl.SSLContext,
        begun: dict[_Tls, asyncio.Transport],
    ) -> None:
        patience: Any = {"ssl_handshake_timeout": HEAD_SECONDS, "ssl_shutdown_timeout": HEAD_SECONDS}
        nobody: Any = None
        super().__init__(loop, within, context, nobody, server_side=True, **patience)
        self._begun = begun

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._begun[self] = transport
        super().connection_made(transport)
        if len(self._begun) > MOST_HANDSHAKES:
            self._begun.pop(next(iter(self._begun))).abort()

    def _on_handshake_complete(self, handshake_exc: BaseException | None) -> None:
        self._begun.pop(self, None)
        super()._on_handshake_complete(handshake_exc)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._begun.pop(self, None)
        super().connection_lost(exc)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_proxy(proxy: str) -> None:
    try:
        ipaddress.ip_network(proxy)
    except ValueError:
        raise Misconfigured(
            f"--trusted-proxies {proxy!r}: give the proxy's address, or its network such as 10.0.3.0/24"
        ) from None


def _tls(listening: Listening) -> ssl.SSLContext | None:
    if listening.tls_cert is None and listening.tls_key is None:
        return None
    if listening.tls_cert is None or listening.tls_key is None:
        raise Misconfigured("--tls-cert and --tls-key belong together: give both files, as PEM")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a terminal nobody can type a password.
        context.load_cert_chain(listening.tls_cert, listening.tls_key, password=_no_password)
    except (OSError, _Encrypted) as error:
        raise Misconfigured(
            f"--tls-cert {listening.tls_cert} and --tls-key {listening.tls_key} cannot be used: {error}"
        ) from None
    return context


class _Encrypted(Exception):
    pass


def _no_password() -> str:
    raise _Encrypted("the key has a password, give one without")


def _listen(listening: Listening) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listening.host, listening.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Misconfigured(f"--host {listening.host}: {error.strerror}") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise Misconfigured(f"--host {listening.host} --port {listening.port}: {error.strerror}") from None
    return listener


def _room_for_connections() -> None:
    """A connection is a file: shells allow 1024 where the system allows far more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < MOST_FILES:
        limit = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
