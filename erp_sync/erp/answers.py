"""The ERP's answer as it came: bytes to text to JSON, whatever the encoding (contracts/protheus-rest.md, 10.1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any

MOST_DIGITS = 60
MOST_DIGITS_AFTER = -400
"""Of a number: what binary fractions end in is far from both."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    text: str
    document: Any
    """The JSON of `text`, its fractions as Decimal; None where it is no JSON."""
    retry_after: float | None
    """Seconds. None: the header is missing or unreadable."""
    milliseconds: float
    date: datetime | None = None
    """The server's own clock, aware, in UTC. None: it does not say."""

    @property
    def is_success(self) -> bool:
        """A 2xx, which proves nothing by itself (contracts/protheus-rest.md, 10.1)."""
        return 200 <= self.status < 300

    @property
    def is_page(self) -> bool:
        """A server's or balancer's page, or nothing at all: no program of the ERP spoke."""
        return self.document is None and (not self.text.strip() or self.text.lstrip()[:1] == "<")

    @property
    def is_broken(self) -> bool:
        """JSON that cannot be read: cut, or built by joining strings."""
        return self.document is None and self.text.lstrip()[:1] in ("{", "[")

    def fields(self) -> Mapping[str, Any]:
        """The JSON object with its keys in lower case; {} where the answer is none."""
        if not isinstance(self.document, dict):
            return {}
        return {key.lower(): value for key, value in self.document.items()}


def word(value: Any) -> str:
    """A word or a figure, stripped; "" for lists, objects and nothing."""
    return str(value).strip() if isinstance(value, str | int | Decimal) else ""


def read_answer(status: int, headers: Mapping[str, str], content: bytes, milliseconds: float) -> Answer:
    text = _decode(content)
    retry_after = _retry_after(headers.get("Retry-After", ""))
    return Answer(status, text, _parse(text), retry_after, milliseconds, _http_date(headers.get("Date", "")))


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _parse(text: str) -> Any:
    try:
        return json.loads(text, strict=False, parse_float=_figure, parse_constant=_refuse)
    except (ValueError, ArithmeticError, RecursionError):
        return None


def _figure(text: str) -> Decimal:
    """Written out, 1e999999999 fills the memory, and sums with it overflow."""
    figure = Decimal(text)
    if not MOST_DIGITS_AFTER < figure.adjusted() < MOST_DIGITS:
        raise ValueError(text)
    return figure


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _retry_after(header: str) -> float | None:
    header = header.strip()
    if header.isascii() and header.isdigit():
        return float(header[:9])
    until = _http_date(header)
    return None if until is None else max((until - datetime.now(UTC)).total_seconds(), 0.0)


def _http_date(header: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(header)
        return date.astimezone(UTC) if date.tzinfo is not None else date.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
