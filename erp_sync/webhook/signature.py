"""Whether a webhook is from whom it says: both signature schemes (contracts/shop-profile.md), on the raw bytes.

Nothing here ends early: how long a refusal takes does not tell what was wrong. A source that does not exist takes as
long as the one with the most keys: where sources differ in keys or scheme, their names are no secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets as random_secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from erp_sync.errors import Misconfigured
from erp_sync.settings import Settings

Headers = Sequence[tuple[bytes, bytes]]
"""As ASGI has them: names in lower case, a name as often as it was sent."""

TOLERANCE_SECONDS = 300
"""Between the time that was signed and ours, either way."""
SHORTEST_KEY = 24
"""Bytes of a key of Standard Webhooks, by its specification."""
LONGEST_HEADER = 2048
"""In bytes, of each header that is looked at here."""
MOST_SIGNATURES = 16
"""In one webhook-signature."""

_EVENT_ID = re.compile(rb"[!-\-/-~]{1,255}")
"""Without the full stop, which parts what is signed: no other id, time and body make the same text."""
_TIME = re.compile(rb"[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class Sender:
    """Who knows one of these keys. `repr` shows none of them."""

    scheme: Literal["spatie", "standard"]
    keys: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"Sender({self.scheme}, {len(self.keys)} keys)"

    def event_id(self, headers: Headers, body: bytes, now: float) -> str | None:
        """Which event this is, the same at each try of the sender. None: it is not from this sender, or too old or too
        new. `now` in seconds since the epoch."""
        if self.scheme == "spatie":
            return self._by_spatie(headers, body)
        return self._by_standard(headers, body, now)

    def _by_spatie(self, headers: Headers, body: bytes) -> str | None:
        given = _only(headers, b"signature")
        genuine = False
        for key in self.keys:
            genuine |= hmac.compare_digest(hmac.new(key, body, hashlib.sha256).hexdigest().encode(), given)
        # Neither an id nor a time is signed: the body is all there is to tell one event from another.
        name = hashlib.sha256(body).hexdigest()
        return name if genuine else None

    def _by_standard(self, headers: Headers, body: bytes, now: float) -> str | None:
        event_id, time = _only(headers, b"webhook-id"), _only(headers, b"webhook-timestamp")
        given = _only(headers, b"webhook-signature").split(b" ")[:MOST_SIGNATURES]
        signed = b"%b.%b.%b" % (event_id, time, body)
        genuine = False
        for key in self.keys:
            expected = b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256"))
            for signature in given:
                genuine |= hmac.compare_digest(expected, signature)
        genuine &= _EVENT_ID.fullmatch(event_id) is not None
        genuine &= _TIME.fullmatch(time) is not None and abs(int(time) - now) <= TOLERANCE_SECONDS
        return event_id.decode("ascii") if genuine else None


def senders(settings: Settings) -> dict[str, Sender]:
    """By the name of their source. Raises Misconfigured where a secret is missing, or is none for its scheme."""
    secrets = settings.require_webhook_secrets()
    return {
        name: Sender(source.scheme, tuple(_key(name, source.scheme, secret) for secret in secrets[name]))
        for name, source in settings.webhook.sources.items()
    }


def nobody(known: dict[str, Sender]) -> Sender:
    """In place of a source that does not exist: no signature is right, and to find that out takes as long as with the
    one that has the most keys."""
    most = max(known.values(), key=lambda sender: len(sender.keys))
    return Sender(most.scheme, tuple(random_secrets.token_bytes(32) for _ in most.keys))


def _only(headers: Headers, name: bytes) -> bytes:
    """The value of this header. b"", which proves nothing: it is absent, there twice, or too long."""
    values = [value for given, value in headers if given == name]
    return values[0] if len(values) == 1 and len(values[0]) <= LONGEST_HEADER else b""


def _key(source: str, scheme: Literal["spatie", "standard"], secret: str) -> bytes:
    if scheme == "spatie":
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        raise Misconfigured(
            f'ERP_SYNC_WEBHOOK_SECRETS: a secret of {source} is no base64 (scheme = "standard"): give it as the sender '
            "shows it, whsec_…"
        ) from None
    if len(key) < SHORTEST_KEY:
        raise Misconfigured(
            f'ERP_SYNC_WEBHOOK_SECRETS: a secret of {source} has {len(key)} bytes (scheme = "standard"): make one of '
            f"{SHORTEST_KEY} random bytes or more"
        )
    return key
