"""What a look at shop and ledger tells of the orders that webhooks named. It changes nothing, but that settled orders
which the shop changed are due again."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from erp_sync.errors import ShopUnavailable
from erp_sync.models import LedgerState, OrderHead, ShopState

if TYPE_CHECKING:
    from erp_sync.ledger.entry import Entry, Event
    from erp_sync.ledger.inbox import Hint
    from erp_sync.ledger.ledger import Ledger
    from erp_sync.shop.database import Shop
    from erp_sync.sync.finding import Finder

SLOW_SECONDS = 1.0
SLOW_SHARE = 0.1
"""Looks by number that take longer than SLOW_SECONDS may take at most this share of the shop's time."""
TURN_SECONDS = 0.5


@dataclass
class Look:
    """What one look saw."""

    hints: list[Hint] = field(default_factory=list)
    """Not marked as seen yet."""
    by_number: bool = False
    heads: dict[str, OrderHead] = field(default_factory=dict)
    known: Collection[str] = ()
    """Ids that the ledger knows."""
    newborn: dict[str, tuple[Entry, Event]] = field(default_factory=dict)
    """Not in the ledger yet."""
    entries: dict[str, Entry] = field(default_factory=dict)
    """What there is to do."""
    written_down: bool = False

    def is_missing(self, hint: Hint) -> bool:
        """Not in the shop, or waiting there for its payment."""
        if self.by_number:
            heads = [head for head in self.heads.values() if head.number == hint.reference]
        else:
            heads = [head for head in (self.heads.get(hint.reference),) if head is not None]
        unknown = [head for head in heads if head.order_id not in self.known]
        return not heads or any(head.state == ShopState.WAITING for head in unknown)


class Looker:
    """Thread-safe. `numbering`: the sources whose hints name the order's number, not its id."""

    def __init__(self, shop: Shop, ledger: Ledger, finder: Finder, numbering: Collection[str]) -> None:
        self._shop = shop
        self._ledger = ledger
        self._finder = finder
        self._numbering = numbering
        self._turn = threading.Lock()
        self._numbers_from = 0.0

    def kinds(self, hints: Sequence[Hint]) -> list[list[Hint]]:
        """As they may be looked for together: a look by number that fails holds back none by id."""
        by_number = [hint for hint in hints if hint.source in self._numbering]
        by_id = [hint for hint in hints if hint.source not in self._numbering]
        return [these for these in (by_id, by_number) if these]

    def look(self, hints: Sequence[Hint]) -> Look:
        """For hints of one kind. Raises Unavailable and Misconfigured."""
        by_number = hints[0].source in self._numbering
        references = [hint.reference for hint in hints]
        heads = self._by_number(references) if by_number else self._shop.heads(references)
        look = Look(list(hints), by_number, heads)
        known = self._ledger.entries(list(heads))
        if known and self._finder.reopen(list(known.values()), list(heads.values())):
            known = self._ledger.entries(list(heads))
        now = self._ledger.now()
        look.known = set(known)
        look.entries = {
            entry.order_id: entry for entry in known.values() if entry.next_at is not None and entry.next_at <= now
        }
        for entry, event in self._finder.newborn([head for head in heads.values() if head.order_id not in known]):
            look.newborn[entry.order_id] = entry, event
            if entry.state is LedgerState.DUE:
                look.entries[entry.order_id] = entry
        return look

    def _by_number(self, numbers: Sequence[str]) -> dict[str, OrderHead]:
        """One at a time, and after a slow one none for a while: where no index helps, the shop's database reads all its
        orders for it. Raises ShopUnavailable until its turn comes."""
        if not self._turn.acquire(timeout=TURN_SECONDS):
            raise ShopUnavailable("another look by order number is under way")
        started = time.monotonic()
        try:
            if started < self._numbers_from:
                wait = self._numbers_from - started
                raise ShopUnavailable(f"looks by order number are slow: the next one is made in {wait:.0f} s")
            found = {head.order_id: head for head in self._shop.heads_by_number(numbers)}
        finally:
            if (took := time.monotonic() - started) > SLOW_SECONDS:
                self._numbers_from = time.monotonic() + took / SLOW_SHARE
            self._turn.release()
        return found
