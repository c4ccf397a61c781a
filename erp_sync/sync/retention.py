"""Retention: what the ledger kept long enough goes, a bounded bit at a time."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from erp_sync.ledger.ledger import Ledger
from erp_sync.ledger.retention import CHUNK, DATED, Place
from erp_sync.settings import Settings

MARK = "retention.steps"


@dataclass
class LedgerPurged:
    """What one pass deleted from the ledger, or would have."""

    orders: int = 0
    """Orders whose story lost its routine steps."""
    steps: int = 0
    rows: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Of tables whose rows have a time of their own."""
    complete: bool = False
    """False: the time was up; the next pass goes on from there."""


def purge_ledger(
    ledger: Ledger,
    settings: Settings,
    *,
    budget: float = math.inf,
    dry_run: bool = False,
    progress: Callable[[LedgerPurged], None] = lambda _purged: None,
) -> LedgerPurged:
    """One pass, of about so many seconds. Without a budget: over everything, else on from where the last one stopped.

    Safe beside running flows, twice at once, and killed anywhere. Raises LedgerUnavailable.
    """
    give_up = time.monotonic() + budget
    before = ledger.now() - timedelta(days=settings.retention.event_days)
    purged = LedgerPurged()
    for table, column, age in DATED:
        gone = CHUNK
        while gone == CHUNK and time.monotonic() < give_up:
            gone = ledger.forget_dated(table, column, age, dry_run=dry_run)
            purged.rows[table.name] += gone
            progress(purged)
            if dry_run:
                break
    place = None if math.isinf(budget) else _stored_place(ledger)
    while not purged.complete and time.monotonic() < give_up:
        forgotten = ledger.forget_steps(before, place, dry_run=dry_run)
        place = forgotten.place
        purged.orders += forgotten.orders
        purged.steps += forgotten.steps
        purged.complete = place is None
        progress(purged)
    if not dry_run:
        ledger.set_mark(MARK, f"{place.found_at.isoformat()} {place.order_id}" if place is not None else "")
    return purged


def _stored_place(ledger: Ledger) -> Place | None:
    mark = ledger.mark(MARK)
    if mark is None or not mark[1]:
        return None
    found_at, _, order_id = mark[1].partition(" ")
    return Place(datetime.fromisoformat(found_at), order_id)
