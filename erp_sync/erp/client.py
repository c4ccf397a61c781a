"""HTTP with the ERP: token, limits, time limits, and what an answer (or its absence) means.

The outcome of a write is one of four, and which one is never guessed (DESIGN.md, "An order is sent exactly once"):
proof, `Refused`, certainly nothing executed (`ErpUnavailable`, `Misconfigured`), and `InDoubt` for everything else.
"""

from __future__ import annotations

import copy
import logging
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import requests
from urllib3.exceptions import HTTPError

from erp_sync.erp.answers import Answer, read_answer
from erp_sync.erp.gate import Gate
from erp_sync.erp.json_text import to_json
from erp_sync.erp.refusal import Refusal, is_program_error, read_refusal
from erp_sync.erp.token import Basic, Credential, Token, TokenStyle
from erp_sync.erp.transport import AnswerTooLarge, ConnectionLost, Exchange, TooLate, Transport, reason
from erp_sync.errors import ErpSyncError, ErpUnavailable, InDoubt, Misconfigured, Refused
from erp_sync.scrub import PERSONAL_FIELDS
from erp_sync.settings import Settings

logger = logging.getLogger(__name__)

Proof = TypeVar("Proof")

_READ_TRIES = 3
_PAUSES = (0.3, 1.0)
"""Before the second and the third try of a read, in seconds, each stretched at random by up to a half."""
_QUICK_MILLISECONDS = 500.0
"""While writes take no longer, a write takes its slot after its intent, so that no slot waits for the ledger's disk.
With slower ones the slot comes first: the time to leave would pass while waiting for one."""
_LONGEST_PAUSE = 10.0
_TRY_AGAIN = {408, 429, 502, 503, 504}
_LONGEST_URL = 4000
_BUSY = re.compile(r"(?i)licen[cçs]|busy|ocupado|sem thread")


class _Broken(Exception):
    """No answer."""


class ErpClient:
    """One Protheus as one user in one tenant. Thread-safe; keeps connections, cookies and the token."""

    def __init__(
        self,
        root: str,
        user: str,
        password: str,
        tenant: str,
        *,
        gate: Gate,
        token_style: TokenStyle = "headers",  # noqa: S107 - a style
        connect_timeout: float = 5,
        read_timeout: float = 60,
        write_timeout: float = 180,
        ca_bundle: Path | None = None,
        flow: str = "orders",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`flow` is the class of the gate's slots. Raises Misconfigured where the CA bundle cannot be used."""
        self.tenant = tenant
        self._host = urlsplit(root).netloc
        self._user = user
        self._gate = gate
        self._flow = flow
        self._writes_are_quick = False
        self._read_timeout = read_timeout
        self._write_timeout = write_timeout
        self._ca_bundle = ca_bundle
        self._sleep = sleep
        self._transport = Transport(root, connect_timeout=connect_timeout, ca_bundle=ca_bundle)
        self._credential: Credential = (
            Basic(user, password)
            if token_style == "basic"  # noqa: S105 - a style
            else Token(self._ask_token, token_style, user, password, sleep=sleep)
        )

    @classmethod
    def from_settings(cls, settings: Settings, gate: Gate, *, flow: str = "orders") -> Self:
        """Raises Misconfigured for what is missing. Nothing is sent."""
        root, user, password, tenant = settings.require_erp()
        erp = settings.erp
        return cls(
            root,
            user,
            password,
            tenant,
            gate=gate,
            token_style=erp.token_style,
            connect_timeout=erp.connect_timeout,
            read_timeout=erp.read_timeout,
            write_timeout=erp.write_timeout,
            ca_bundle=settings.erp_ca_bundle,
            flow=flow,
        )

    def of_flow(self, flow: str) -> Self:
        """The same client, its login and connections shared, whose calls take the slots of another class."""
        other = copy.copy(self)
        other._flow = flow
        return other

    def of_tenant(self, tenant: str) -> Self:
        """The same client for another company and branch."""
        other = copy.copy(self)
        other.tenant = tenant
        return other

    def close(self) -> None:
        self._transport.close()

    def login(self) -> None:
        """Has a token afterwards, by what was asked before where it is fresh. Raises ErpUnavailable and Misconfigured;
        with Basic nothing is asked."""
        self._credential.authorization()

    def knock(self, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """The answer, whatever it is, to a POST of which the caller knows that nothing comes of it; without `body`
        there is not a byte of content. Takes a reader's slot and is sent once.

        Raises ErpUnavailable where no answer came, and Misconfigured for the certificate and the login.
        """
        content = b"" if body is None else to_json(body).encode()

        def send(authorization: str) -> Answer:
            headers = self._headers(authorization) | {"Content-Type": "application/json; charset=utf-8"}
            try:
                return self._exchange("POST", path, headers, content, Exchange(None, self._read_timeout), write=False)
            except _Broken as broken:
                raise ErpUnavailable(f"POST {path} at {self._host} had no answer: {broken}") from None

        return self._authorized(send)

    def get(self, path: str, parameters: Sequence[tuple[str, str]]) -> Answer:
        """A 2xx with JSON. Up to three tries while the ERP is briefly away; none begins after the read timeout.

        Raises ErpUnavailable; Misconfigured where no repetition helps (user, rights, root, certificate).
        """
        return self._get(path, parameters, None)

    def get_rows(self, path: str, parameters: Sequence[tuple[str, str]], no_rows: int) -> Answer:
        """As `get`, of a path that says by this status that it has no rows: then that answer."""
        return self._get(path, parameters, no_rows)

    def _get(self, path: str, parameters: Sequence[tuple[str, str]], no_rows: int | None) -> Answer:
        target, headers = _target(path, parameters)
        started = time.monotonic()
        for left in reversed(range(_READ_TRIES)):
            why, answer = self._read_once(target, headers)
            if answer is not None and answer.is_success and answer.document is not None:
                return answer
            if answer is not None and answer.status == no_rows and answer.document is not None:
                return answer
            if answer is not None and not answer.is_success and answer.status not in _TRY_AGAIN:
                raise self._read_failure(path, answer)
            pause = self._pause(_READ_TRIES - 1 - left, answer)
            if not left or pause > _LONGEST_PAUSE or time.monotonic() - started + pause > self._read_timeout:
                break
            self._sleep(pause)
        raise ErpUnavailable(
            f"reading {path} from the ERP at {self._host} failed: {why}",
            retry_after=answer.retry_after if answer is not None else None,
        )

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        intent: Callable[[], float],
        proof: Callable[[Answer], Proof | None],
        *,
        path_setting: str,
    ) -> Proof:
        """One POST; returns what `proof` finds in a 2xx.

        `intent` is called once, with token and connection at hand, right before the first byte leaves (and, while the
        ERP is quick, the slot is taken); it returns the time (`time.monotonic`) after which no byte may leave, and what
        it raises is passed on. Only a 401, which is certainly a refusal before anything was done, is answered by a
        second POST, within the same time.

        Raises Refused; ErpUnavailable or Misconfigured (naming `path_setting` for a path unknown to the ERP) where
        certainly nothing was done; InDoubt for every other outcome.
        """
        content = to_json(body).encode()
        leave_by: float | None = None

        def before_send() -> float:
            nonlocal leave_by
            if leave_by is None:
                leave_by = intent()
            return leave_by

        def send(authorization: str) -> Answer:
            headers = self._headers(authorization) | {"Content-Type": "application/json; charset=utf-8"}
            exchange = Exchange(before_send, self._write_timeout)
            try:
                return self._exchange("POST", path, headers, content, exchange, write=True)
            except _Broken as broken:
                if exchange.left:
                    raise InDoubt(f"the ERP's answer to POST {path} did not come: {broken}") from None
                raise ErpUnavailable(f"nothing was sent to the ERP at {self._host}: {broken}") from None

        answer = self._authorized(send)
        if answer.is_success and (proven := proof(answer)) is not None:
            return proven
        raise self._write_failure(path, path_setting, answer, _personal_values(body))

    def _read_once(self, target: str, headers: Mapping[str, str]) -> tuple[str, Answer | None]:
        """Why it is no success, and the answer where one came."""

        def send(authorization: str) -> Answer:
            exchange = Exchange(None, self._read_timeout)
            sent = {**self._headers(authorization), **headers}
            return self._exchange("GET", target, sent, None, exchange, write=False)

        try:
            answer = self._authorized(send)
        except _Broken as broken:
            return str(broken), None
        return _words(answer), answer

    def _authorized(self, send: Callable[[str], Answer]) -> Answer:
        authorization = self._credential.authorization()
        answer = send(authorization)
        if answer.status != 401:
            return answer
        self._credential.renew(authorization)
        answer = send(self._credential.authorization())
        if answer.status == 401:
            raise Misconfigured(
                f"the ERP answers 401 to a fresh login of {self._user}: "
                "correct ERP_SYNC_ERP_USER or ERP_SYNC_ERP_PASSWORD, or give that user the right to the REST services"
            )
        return answer

    def _headers(self, authorization: str) -> dict[str, str]:
        return {"Accept": "application/json", "Authorization": authorization, "tenantId": self.tenant}

    def _ask_token(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        for left in reversed(range(_READ_TRIES)):
            exchange = Exchange(None, self._read_timeout)
            try:
                return self._exchange(
                    "POST", path, {"Accept": "application/json", **headers}, body, exchange, write=False
                )
            except _Broken as broken:
                if not left:
                    raise ErpUnavailable(f"the ERP at {self._host} gives no token: {broken}") from None
                self._sleep(0.4)
        raise AssertionError

    def _exchange(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        exchange: Exchange,
        *,
        write: bool,
    ) -> Answer:
        path = target.partition("?")[0]
        said: dict[str, Any]
        with ExitStack() as permits:
            permit = self._gate.call(self._flow, write=write)
            if write and self._writes_are_quick:
                exchange.enter_last(permits, permit)
            else:
                permits.enter_context(permit)
            try:
                status, answered, content = self._transport.send(exchange, method, target, headers, body)
            except (requests.RequestException, HTTPError, HTTPException, OSError, AnswerTooLarge, ValueError) as error:
                # ValueError: lengths below zero, and what else the libraries make of a head that is none.
                if error is exchange.stopped:
                    raise
                if exchange.untrusted:
                    raise Misconfigured(self._untrusted(exchange.untrusted)) from None
                self._gate.failed()
                why = reason(error)
                said = {"event": "erp.call", "method": method, "path": path, "outcome": "no answer", "cause": why}
                logger.info("%s %s: no answer: %s", method, path, why, extra=said)
                raise _Broken(why) from None
            except (TooLate, ConnectionLost) as error:
                raise _Broken(reason(error)) from None
            milliseconds = (time.monotonic() - exchange.left_at) * 1000
            if write:
                self._writes_are_quick = milliseconds <= _QUICK_MILLISECONDS
            answer = read_answer(status, answered, content, milliseconds)
            is_down = _is_down(answer)
            said = {"event": "erp.call", "method": method, "path": path, "outcome": "down" if is_down else "answered"}
            said |= {"http_status": status, "duration_ms": round(milliseconds)}
            level = logging.INFO if is_down else logging.DEBUG
            logger.log(level, "%s %s: HTTP %d in %.0f ms", method, path, status, milliseconds, extra=said)
            if is_down:
                self._gate.failed()
            else:
                self._gate.succeeded()
        return answer

    def _untrusted(self, why: str) -> str:
        bundle = str(self._ca_bundle) if self._ca_bundle else "not set"
        return (
            f"the certificate of the ERP at {self._host} is not trusted ({why}): give the PEM file of the authority "
            f"that signed it as ERP_SYNC_ERP_CA_BUNDLE ({bundle}), and call the ERP by the name in its certificate"
        )

    def _pause(self, attempt: int, answer: Answer | None) -> float:
        if answer is not None and answer.retry_after is not None:
            return answer.retry_after
        return _PAUSES[min(attempt, len(_PAUSES) - 1)] * (1 + random.random() / 2)  # noqa: S311 - not for secrets

    def _read_failure(self, path: str, answer: Answer) -> ErpSyncError:
        words = _words(answer)
        if 300 <= answer.status < 400:
            return Misconfigured(f"ERP_SYNC_ERP_URL: the ERP redirects {path} ({words}): give the root it redirects to")
        if answer.status == 403:
            return Misconfigured(f"ERP_SYNC_ERP_USER = {self._user!r} may not read {path} ({words}): give it the right")
        if answer.status in (404, 405):
            return Misconfigured(
                f"ERP_SYNC_ERP_URL or ERP_SYNC_ERP_TENANT = {self.tenant!r}: the ERP has no {path} there ({words}): "
                "correct the root or the branch"
            )
        return ErpUnavailable(f"reading {path} from the ERP at {self._host} failed: {words}")

    def _write_failure(self, path: str, path_setting: str, answer: Answer, sent: Sequence[str]) -> ErpSyncError:
        refusal = read_refusal(answer, sent)
        words = _words(answer, sent)
        status = answer.status
        if refusal is not None and refusal.exists and status not in (401, 503):
            return InDoubt(f"the ERP says that it has this record already ({words})")
        if status == 429 or (status == 503 and not answer.is_page and _BUSY.search(answer.text)):
            return ErpUnavailable(f"the ERP is busy ({words})", retry_after=answer.retry_after)
        if refusal is not None and (status in (400, 409, 422) or (status in (403, 404) and refusal.is_precise)):
            return _refused(refusal, status, certain=True)
        if status in (404, 405):
            return Misconfigured(f"{path_setting} = {path!r} is unknown to the ERP ({words}): correct it")
        if status == 403:
            return Misconfigured(f"ERP_SYNC_ERP_USER = {self._user!r} may not use {path} ({words}): give it the right")
        if answer.is_success:
            probably = not answer.is_broken
        else:
            probably = status == 500 and refusal is not None and (refusal.is_precise or is_program_error(answer))
        if refusal is not None and probably:
            return _refused(refusal, status, certain=False)
        return InDoubt(f"the ERP's answer to POST {path} proves nothing ({words})")


def _refused(refusal: Refusal, status: int, *, certain: bool) -> Refused:
    return Refused(
        refusal.message,
        status=status,
        help_code=refusal.help_code,
        field=refusal.field,
        value=refusal.value,
        item=refusal.item,
        certain=certain,
    )


def _is_down(answer: Answer) -> bool:
    if answer.is_success:
        return answer.is_page and bool(answer.text.strip())
    if answer.status == 429:
        return True
    if answer.status < 500:
        return False
    refusal = read_refusal(answer)
    return refusal is None or not (refusal.is_precise or is_program_error(answer))


def _words(answer: Answer, sent: Sequence[str] = ()) -> str:
    refusal = read_refusal(answer, sent)
    if refusal is not None:
        return f"HTTP {answer.status}: {refusal.message[:200]}"
    return f"HTTP {answer.status}" if answer.document is not None else f"HTTP {answer.status} without JSON"


def _target(path: str, parameters: Sequence[tuple[str, str]]) -> tuple[str, dict[str, str]]:
    """Parameters go into the query; a query too long for some servers goes into headers, where it is plain ASCII
    (contracts/protheus-rest.md, 3)."""
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters)
    target = f"{path}?{query}"
    if len(target) <= _LONGEST_URL or not all(value.isascii() for _, value in parameters):
        return target, {}
    return path, dict(parameters)


def _personal_values(body: Mapping[str, Any]) -> list[str]:
    return [value for field, value in body.items() if field in PERSONAL_FIELDS and isinstance(value, str)]
