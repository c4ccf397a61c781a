"""The receiver as an ASGI application: `POST /webhooks/{source}`, `GET /healthz`, `GET /readyz`.

A webhook is confirmed once its event is durable in the ledger's inbox, and at no other time; the ERP is not asked. An
event that is not confirmed is sent again, or its order is found by the sensor.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from erp_sync.errors import ErpSyncError
from erp_sync.ledger.inbox import Hint
from erp_sync.ledger.ledger import Ledger, check_revision
from erp_sync.logs import carry_log_context
from erp_sync.settings import Settings
from erp_sync.webhook.reference import Unusable, reference
from erp_sync.webhook.signature import nobody, senders

logger = logging.getLogger(__name__)

T = TypeVar("T")
Notify = Callable[[Hint], None]

LONGEST_BODY = 64 * 1024
LONGEST_HEADERS = 16 * 1024
"""In bytes, all of them together."""
MOST_HEADERS = 64
BODY_SECONDS = 5.0
"""In which a body must have arrived."""
STORE_SECONDS = 1.5
"""In which the ledger must have stored an event. Senders wait for 3 seconds."""
THREADS = 8
MOST_WAITING = 64
"""Events that wait for a thread at once; more are sent away at once."""
READY_SECONDS = 1.0
"""So long an answer of /readyz holds: a flood of questions is one question to the ledger."""
RETRY_AFTER = "5"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    outcome: str
    text: str


NEW = Answer(202, "received", "received")
KNOWN = Answer(200, "known", "received before")
MALFORMED = Answer(400, "malformed", "Content-Length and Transfer-Encoding, or more than one of them")
FORGED = Answer(401, "unauthentic", "not authentic")
SLOW = Answer(408, "slow", "the body did not arrive in time")
LARGE = Answer(413, "too_large", f"a body has {LONGEST_BODY} bytes at most")
ENCODED = Answer(415, "encoded", "Content-Type application/json without Content-Encoding is understood")
HEADERS = Answer(431, "headers", f"{MOST_HEADERS} headers and {LONGEST_HEADERS} bytes of them at most")
DEFECT = Answer(500, "defect", "send it again later")
AWAY = Answer(503, "unavailable", "send it again later")
GONE = Answer(400, "gone", "")
"""The sender hung up: nobody reads it."""
ALIVE = Answer(200, "alive", "ok")
READY = Answer(200, "ready", "ready")


def unusable(path: str) -> Answer:
    return Answer(422, "unusable", f"{path} must be there once, as a text of 1 to 255 characters or an integer")


ANSWERS = (NEW, KNOWN, MALFORMED, FORGED, SLOW, LARGE, ENCODED, unusable("order_id"), HEADERS, DEFECT, AWAY)
"""To a webhook: with every status that there is."""


def receiver(
    settings: Settings,
    ledger: Ledger,
    *,
    notify: Notify = lambda _hint: None,
    clock: Callable[[], float] = time.time,
) -> Starlette:
    """`notify` is told of each new event once it is stored, from another thread; it must not wait and not raise.

    Neither ledger nor ERP need to be there. Raises Misconfigured for a source without a proper secret.
    """
    door = _Door(settings, ledger, notify, clock)
    app = Starlette(
        routes=[
            Route("/webhooks/{source}", door.receive, methods=["POST"]),
            Route("/healthz", _alive),
            Route("/readyz", door.ready),
        ],
        lifespan=door.open,
    )
    app.router.redirect_slashes = False  # a redirect names the host that the sender named
    return app


async def _alive(_request: Request) -> Response:
    return _response(ALIVE)


class _Door:
    def __init__(self, settings: Settings, ledger: Ledger, notify: Notify, clock: Callable[[], float]) -> None:
        self._sources = settings.webhook.sources
        self._senders = senders(settings)
        self._nobody = nobody(self._senders)
        self._ledger = ledger
        self._notify = notify
        self._clock = clock
        self._pool = ThreadPoolExecutor(THREADS, "webhook", initializer=carry_log_context())
        self._asking = ThreadPoolExecutor(1, "ready", initializer=carry_log_context())
        self._waiting = 0
        self._ready = False
        self._ready_until = 0.0
        self._ready_turn = asyncio.Lock()

    @asynccontextmanager
    async def open(self, _app: Starlette) -> AsyncIterator[None]:
        yield
        for pool in (self._pool, self._asking):
            pool.shutdown(wait=False, cancel_futures=True)

    async def receive(self, request: Request) -> Response:
        started = time.perf_counter()
        source = request.path_params["source"]
        event_id = None
        problem: Exception | None = None
        try:
            answer = _refusal(request)
            if answer is None:
                body = await _body(request)
                event_id = self._senders.get(source, self._nobody).event_id(
                    request.scope["headers"], body, self._clock()
                )
                answer = FORGED if event_id is None else await self._keep(source, event_id, body)
        except _Refused as refused:
            answer = refused.answer
        except ClientDisconnect:
            answer = GONE
        except ErpSyncError as error:
            answer, problem = AWAY, error
        except Exception as error:
            answer, problem = DEFECT, error
        self._tell(request, answer, event_id, (time.perf_counter() - started) * 1000, problem)
        return _response(answer)

    async def _keep(self, source: str, event_id: str, body: bytes) -> Answer:
        path = self._sources[source].reference
        try:
            named = reference(body, path)
        except Unusable:
            return unusable(path)

        def store() -> bool:
            hint = self._ledger.receive(source, event_id, named)
            if hint is not None:
                # Here, and not after the answer: an event that is stored too late for its sender is not late for us.
                self._notify(hint)
            return hint is not None

        return NEW if await self._in_time(store) else KNOWN

    async def _in_time(self, store: Callable[[], T]) -> T:
        """Raises _Refused(AWAY) where it takes too long. What has begun goes on: stored after all, it is known at the
        sender's next try."""
        if self._waiting >= MOST_WAITING:
            raise _Refused(AWAY)
        self._waiting += 1
        try:
            async with asyncio.timeout(STORE_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._pool, store)
        except TimeoutError:
            raise _Refused(AWAY) from None
        finally:
            self._waiting -= 1

    async def ready(self, _request: Request) -> Response:
        """Whether an event could be stored now."""
        async with self._ready_turn:
            if time.monotonic() >= self._ready_until:
                self._ready = await self._ask_ledger()
                self._ready_until = time.monotonic() + READY_SECONDS
        return _response(READY if self._ready else AWAY)

    async def _ask_ledger(self) -> bool:
        try:
            async with asyncio.timeout(STORE_SECONDS):
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._asking, check_revision, self._ledger.database)
        except (TimeoutError, ErpSyncError) as error:
            logger.warning("not ready: %s", str(error) or "the ledger does not answer in time")
            return False
        return True

    def _tell(
        self, request: Request, answer: Answer, event_id: str | None, took: float, problem: Exception | None
    ) -> None:
        source = request.path_params["source"]
        confirmed = answer.status < 300
        defect = answer is DEFECT
        logger.log(
            logging.ERROR if defect else logging.WARNING if answer is AWAY else logging.INFO,
            "a webhook: %s",
            answer.outcome,
            exc_info=problem if defect else None,
            extra={
                "event": "webhook.received" if confirmed else "webhook.refused",
                "flow": "webhook",
                # What a stranger wrote into the address is nobody's name.
                "source": source if source in self._senders else "unknown",
                "event_id": event_id,
                "peer": request.client.host[:64] if request.client else None,
                "outcome": answer.outcome,
                "http_status": answer.status,
                "duration_ms": round(took, 1),
                "cause": None if problem is None or defect else str(problem),
                "metrics": {"received": int(confirmed), "refused": int(not confirmed), "receive_ms": round(took, 1)},
            },
        )


class _Refused(Exception):
    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.outcome)
        self.answer = answer


def _refusal(request: Request) -> Answer | None:
    """What the headers alone say against it. The same for every source."""
    raw = request.scope["headers"]
    if len(raw) > MOST_HEADERS or sum(len(name) + len(value) for name, value in raw) > LONGEST_HEADERS:
        return HEADERS
    headers = request.headers
    lengths = headers.getlist("content-length")
    if len(lengths) + len(headers.getlist("transfer-encoding")) > 1:
        return MALFORMED
    if lengths and not (lengths[0].isascii() and lengths[0].isdigit()):
        return MALFORMED
    if lengths and (len(lengths[0]) > 9 or int(lengths[0]) > LONGEST_BODY):
        return LARGE
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" or any(one.lower() != "identity" for one in headers.getlist("content-encoding")):
        return ENCODED
    return None


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LONGEST_BODY:
                    raise _Refused(LARGE)
    except TimeoutError:
        raise _Refused(SLOW) from None
    return bytes(body)


_UNREAD = {MALFORMED, SLOW, LARGE, ENCODED, HEADERS, GONE}
"""What is left of such a request is not read: the connection ends with the answer."""


def _response(answer: Answer) -> Response:
    headers = {"Cache-Control": "no-store"}
    if answer in _UNREAD:
        headers["Connection"] = "close"
    if answer is AWAY:
        headers["Retry-After"] = RETRY_AFTER
    return PlainTextResponse(answer.text + "\n", answer.status, headers)
