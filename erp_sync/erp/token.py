"""The credential of every call: an OAuth2 token kept fresh, or Basic (contracts/protheus-rest.md, 1)."""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal, Protocol
from urllib.parse import quote

from erp_sync.erp.answers import Answer
from erp_sync.erp.refusal import read_refusal
from erp_sync.errors import ErpUnavailable, Misconfigured

logger = logging.getLogger(__name__)

TokenStyle = Literal["headers", "query", "form", "basic"]

TOKEN_PATH = "/api/oauth2/v1/token"  # noqa: S105 - a path
_AHEAD = 60.0
_TRIES = 3
_PAUSE = 0.4
_LONGEST_LIFE = 366 * 86_400.0
_REFUSED_FOR = 30.0
"""How long a refused login is not tried again, by any thread: a wrong password locks the user sooner or later."""


class Ask(Protocol):
    def __call__(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """One POST. Raises ErpUnavailable where no answer came."""


class Credential(Protocol):
    def authorization(self) -> str:
        """The Authorization header. Raises Misconfigured and ErpUnavailable."""

    def renew(self, refused: str) -> None:
        """The ERP answered 401 to `refused`: the next `authorization` is another one where there can be one."""


class Basic:
    def __init__(self, user: str, password: str) -> None:
        self._header = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def authorization(self) -> str:
        return self._header

    def renew(self, refused: str) -> None:
        pass


class Token:
    """Thread-safe: one thread fetches, the others wait for it. It is held in memory alone."""

    def __init__(
        self,
        ask: Ask,
        style: Literal["headers", "query", "form"],
        user: str,
        password: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._style = style
        self._user = user
        self._password = password
        self._sleep = sleep
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._header = ""
        self._refresh_token = ""
        self._fresh_until = 0.0
        self._refused: tuple[float, str] | None = None

    def authorization(self) -> str:
        header = self._header
        if header and self._monotonic() < self._fresh_until:
            return header
        with self._lock:
            if not self._header or self._monotonic() >= self._fresh_until:
                self._fetch()
            return self._header

    def renew(self, refused: str) -> None:
        with self._lock:
            if self._header == refused:
                self._header = self._refresh_token = ""

    def _fetch(self) -> None:
        if self._refused is not None and self._monotonic() < self._refused[0]:
            raise Misconfigured(self._refused[1])
        if self._refresh_token:
            refresh, self._refresh_token = self._refresh_token, ""
            query = f"grant_type=refresh_token&refresh_token={quote(refresh, safe='')}"
            if self._keep(self._ask(f"{TOKEN_PATH}?{query}", {}, b"")):
                return
        for left in reversed(range(_TRIES)):
            answer = self._ask(*self._login())
            if self._keep(answer):
                return
            if left and (answer.status == 401 or answer.status >= 500):
                self._sleep(_PAUSE)
            else:
                break
        self._fail(answer)

    def _login(self) -> tuple[str, Mapping[str, str], bytes]:
        if self._style == "headers":
            credential = {"username": self._user, "password": self._password}
            for name, value in credential.items():
                if not _fits_header(value):
                    raise Misconfigured(
                        f"ERP_SYNC_ERP_{'USER' if name == 'username' else 'PASSWORD'} has a character that no HTTP "
                        'header can hold: set erp.token_style = "form", or choose another'
                    )
            return f"{TOKEN_PATH}?grant_type=password", credential, b""
        # One site takes "@" raw and refuses "%40" (contracts/protheus-rest.md, 1.2 A).
        user, password = (quote(value, safe="@") for value in (self._user, self._password))
        fields = f"grant_type=password&username={user}&password={password}"
        if self._style == "query":
            return f"{TOKEN_PATH}?{fields}", {}, b""
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        return TOKEN_PATH, form, fields.replace("@", "%40").encode()

    def _keep(self, answer: Answer) -> bool:
        fields = answer.fields()
        access = fields.get("access_token")
        if (
            not answer.is_success
            or not isinstance(access, str)
            or not access
            or not access.isascii()
            or not access.isprintable()
        ):
            return False
        lifetime = _seconds(fields.get("expires_in"))
        refresh = fields.get("refresh_token")
        self._refresh_token = refresh if isinstance(refresh, str) and refresh.isascii() else ""
        self._fresh_until = self._monotonic() + lifetime - min(_AHEAD, lifetime / 2)
        self._header = f"Bearer {access}"
        self._refused = None
        said = {"event": "erp.login", "outcome": "ok", "duration_ms": round(answer.milliseconds)}
        logger.info("logged in to the ERP, for %.0f s", lifetime, extra=said)
        return True

    def _fail(self, answer: Answer) -> None:
        if answer.status == 429 or answer.status >= 500:
            raise ErpUnavailable(f"the ERP gives no token: HTTP {answer.status}", retry_after=answer.retry_after)
        if answer.status in (401, 403):
            message = (
                f"the ERP refuses the login of {self._user} (HTTP {answer.status}): "
                "correct ERP_SYNC_ERP_USER or ERP_SYNC_ERP_PASSWORD, or unlock the user"
            )
        elif answer.status == 400 and (refusal := read_refusal(answer, (self._password,))) is not None:
            message = (
                f"the ERP refuses the token request ({refusal.message}): correct erp.token_style = {self._style!r}, "
                "ERP_SYNC_ERP_USER or ERP_SYNC_ERP_PASSWORD"
            )
        else:
            message = (
                f"ERP_SYNC_ERP_URL: {TOKEN_PATH} below it gives no token (HTTP {answer.status}): "
                "give the REST root of Protheus, such as https://erp.example.com:8443/rest"
            )
        self._refused = (self._monotonic() + _REFUSED_FOR, message)
        said = {"event": "erp.login", "outcome": "refused", "http_status": answer.status}
        logger.info("no login to the ERP: HTTP %d", answer.status, extra=said)
        raise Misconfigured(message)


def _seconds(value: object) -> float:
    """How long a token lives; an hour where what the ERP says is no time."""
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return 3600.0
    return seconds if 0 < seconds <= _LONGEST_LIFE else 3600.0


def _fits_header(value: str) -> bool:
    return value.isprintable() and value == value.strip() and all(ord(char) < 256 for char in value)
