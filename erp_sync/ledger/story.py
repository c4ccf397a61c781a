"""A line of log for each step of an order that is in the ledger: no other place knows every one, and once."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from erp_sync.ledger.entry import Entry, Event
from erp_sync.ledger.status_entry import StatusEntry, StatusEvent
from erp_sync.logs import story

_SMALL_STEPS = frozenset({"claimed", "intent", "verified", "released", "cancel_sent"})
"""Between one state and the next: for debugging."""
_ODD = frozenset({"incident", "too_late", "cancel_refused", "missing", "shop_order_gone"})
"""A person has to look."""


def tell_story(made: Sequence[tuple[Entry, Event]]) -> None:
    """To be called once the transaction is committed."""
    for entry, event in made:
        if story.isEnabledFor(level := _level(event.kind)):
            fields = {
                "event": f"order.{event.kind}",
                "order_number": entry.number,
                "erp_number": entry.erp_number,
                "day": entry.day,
                "outcome": entry.state,
                "duration_ms": event.milliseconds and round(event.milliseconds),
                "minutes_to_erp": _minutes_to_erp(entry) if event.kind in ("sent", "adopted") else None,
                "attempts": entry.attempts or None,
            }
            story.log(level, "order %s: %s%s", entry.number, event.kind, _words(event.text), extra=fields)


def tell_status_story(made: Sequence[tuple[StatusEntry, StatusEvent]]) -> None:
    """To be called once the transaction is committed."""
    for entry, event in made:
        if story.isEnabledFor(level := _level(event.kind)):
            fields = {
                "event": f"status.{event.kind}",
                "order_number": entry.number,
                "erp_number": entry.erp_number,
                "outcome": entry.status,
            }
            story.log(level, "order %s: %s%s", entry.number, event.kind, _words(event.text), extra=fields)


def _level(kind: str) -> int:
    if kind in _SMALL_STEPS:
        return logging.DEBUG
    return logging.WARNING if kind in _ODD else logging.INFO


def _words(text: str) -> str:
    return f": {text}" if text else ""


def _minutes_to_erp(entry: Entry) -> float | None:
    """From the first sight of the finalized order on."""
    return round((entry.sent_at - entry.found_at).total_seconds() / 60, 3) if entry.sent_at is not None else None
