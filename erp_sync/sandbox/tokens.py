"""Who may call: the token endpoint's memory (contracts/protheus-rest.md, 1.2 and 1.3)."""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from erp_sync.sandbox.clock import Clock
from erp_sync.sandbox.config import SandboxConfig


@dataclass(frozen=True, slots=True)
class TokenPair:
    access: str = field(repr=False)
    refresh: str = field(repr=False)
    seconds: int


class Tokens:
    """Tokens are kept in memory only: a restart ends them all, as it does in the ERP."""

    def __init__(self, config: SandboxConfig, clock: Clock) -> None:
        self._user = config.user
        self._password = config.password.get_secret_value()
        self._seconds = config.token_seconds
        self._clock = clock
        self._expires: dict[str, datetime] = {}
        self._refresh: set[str] = set()

    def knows(self, user: str, password: str) -> bool:
        same_user = hmac.compare_digest(user.encode(), self._user.encode())
        return hmac.compare_digest(password.encode(), self._password.encode()) and same_user

    def issue(self) -> TokenPair:
        now = self._clock.now()
        self._expires = {token: expiry for token, expiry in self._expires.items() if expiry > now}
        expiry = now + timedelta(seconds=self._seconds)
        claims: dict[str, str | int] = {
            "iss": "TOTVS-ADVPL-FWJWT",
            "sub": self._user,
            "iat": int(now.timestamp()),
            "userid": "000001",
        }
        pair = TokenPair(
            _opaque({**claims, "exp": int(expiry.timestamp())}), _opaque({**claims, "typ": "refresh"}), self._seconds
        )
        self._expires[pair.access] = expiry
        self._refresh.add(pair.refresh)
        return pair

    def renew(self, refresh: str) -> TokenPair | None:
        """A whole new pair; each refresh token serves once. None: it is not known (any more)."""
        if refresh not in self._refresh:
            return None
        self._refresh.discard(refresh)
        return self.issue()

    def accepts(self, authorization: str) -> bool:
        """A live bearer token, or the login itself as Basic."""
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "bearer":
            expiry = self._expires.get(value)
            return expiry is not None and self._clock.now() < expiry
        login = basic_login(authorization)
        return login is not None and self.knows(*login)

    def revoke(self, authorization: str) -> None:
        self._expires.pop(authorization.partition(" ")[2], None)

    def expire_all(self, *, refresh_too: bool) -> None:
        self._expires.clear()
        if refresh_too:
            self._refresh.clear()


def basic_login(authorization: str) -> tuple[str, str] | None:
    """User and password of a Basic header. None: it is none."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(value, validate=True).decode("utf-8").partition(":")
    except ValueError:
        return None
    return (user, password) if colon else None


def _opaque(claims: dict[str, str | int]) -> str:
    parts = (json.dumps({"alg": "RS256", "typ": "JWT"}), json.dumps(claims))
    encoded = [base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, secrets.token_urlsafe(32)])
