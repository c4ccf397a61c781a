"""In flight: sold in the shop, not yet counted in the ERP's figure.

An order is in flight when it holds stock (`ready`; `waiting` where the shop takes stock at checkout) and the ledger
does not say that the ERP had it before T, the start of the ERP's read. What the ledger knows is asked once for each
order: T stands still for the whole run.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from erp_sync.models import HeldLine, OrderHead, ShopState
from erp_sync.sync.recent import recent_pages
from erp_sync.sync.shared_answer import SharedAnswer

if TYPE_CHECKING:
    from erp_sync.ledger.ledger import Ledger
    from erp_sync.shop.database import Shop

CLOCKS_APART = timedelta(seconds=0.2)
"""The ledger's clock, as two processes carry it on, differs by much less (ledger/clock.py): what one calls sent just
before the other's T may have been sent just after it, and is in flight."""
OVERLAP = timedelta(minutes=10)
"""So far back every recount looks: longer than any checkout's transaction takes."""
READY_DAYS = 1
"""Ready orders that the ledger does not know are at most so old: the sweep found the others."""
PAGE = 1000


class InFlight:
    """What one stock run knows. `recount` brings it up to date: it must be called after the rows are locked.
    Thread-safe."""

    def __init__(
        self, shop: Shop, ledger: Ledger, read_at: datetime, *, start_day: date, waiting_days: int | None
    ) -> None:
        """`read_at` is T. `waiting_days` None: waiting orders hold nothing."""
        self._shop = shop
        self._ledger = ledger
        self._before = read_at - CLOCKS_APART
        self._start_day = start_day
        self._waiting_days = waiting_days
        self._sent: set[str] = set()
        self._heads: dict[str, OrderHead] = {}
        self._lines: dict[str, list[HeldLine]] = {}
        self._held: defaultdict[str, defaultdict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
        self._since: datetime | None = None
        self._began: tuple[datetime, float] | None = None
        self._lock = threading.Lock()
        self._recounted = SharedAnswer(self._recount)

    @property
    def orders(self) -> int:
        return len(self._lines)

    def units(self) -> Decimal:
        return sum((line.quantity for lines in self._lines.values() for line in lines), Decimal(0))

    def held(self, sku: str, warehouses: Collection[str]) -> Decimal:
        """Of this SKU in these ERP warehouses; lines that name no warehouse count in each."""
        with self._lock:
            held = self._held[sku].items() if sku in self._held else ()
            return sum((quantity for name, quantity in held if not name or name in warehouses), Decimal(0))

    def recount(self) -> None:
        """Raises ShopUnavailable, LedgerUnavailable and Misconfigured."""
        self._recounted()

    def _recount(self) -> None:
        began = self._shop_now()
        if self._since is None:
            known = self._ledger.unsent_before(self._before)
            self._take(self._shop.heads(known).values(), began)
            days = max(READY_DAYS, self._waiting_days or 0)
            since = began - timedelta(days=days) - OVERLAP
        else:
            since = self._since - OVERLAP
        for heads in recent_pages(self._shop, since, PAGE):
            self._take(heads, began)
        self._since = began

    def _shop_now(self) -> datetime:
        """The shop's clock, asked once: a run is short, and the windows overlap by far more than it drifts."""
        if self._began is None:
            self._began = self._shop.now(), time.monotonic()
        shown, at = self._began
        return shown + timedelta(seconds=time.monotonic() - at)

    def _take(self, heads: Iterable[OrderHead], now: datetime) -> None:
        fresh = {head.order_id: head for head in heads if self._heads.get(head.order_id) != head}
        holding = [key for key, head in fresh.items() if key not in self._sent and self._holds(head, now)]
        new = [key for key in holding if key not in self._lines]
        sent = self._ledger.sent_before(new, self._before) if new else set()
        self._sent |= sent
        wanted = [key for key in holding if key not in sent and not self._is_long_past(fresh[key])]
        lines: defaultdict[str, list[HeldLine]] = defaultdict(list)
        for line in self._shop.held_lines(wanted) if wanted else ():
            lines[line.order_id].append(line)
        # All at once, and only now: a question that failed leaves them to the next recount, of whichever thread.
        with self._lock:
            self._heads |= fresh
            for key in fresh:
                self._forget(key)
            for key in wanted:
                self._remember(key, lines[key])

    def _holds(self, head: OrderHead, now: datetime) -> bool:
        if head.state == ShopState.WAITING and self._waiting_days is not None:
            placed = head.ordered_at
            return placed is None or now - placed.astimezone(UTC) <= timedelta(days=self._waiting_days)
        return head.state == ShopState.READY

    def _is_long_past(self, head: OrderHead) -> bool:
        """Ready before the day of going live: the ERP has it from somebody's hand."""
        early = head.business_day is not None and head.business_day < self._start_day
        if not early or head.state != ShopState.READY:
            return False
        # One that still waited then is sent like any other, from the moment on at which it is paid.
        return not (self._ledger.early([head.order_id]) or self._ledger.entries([head.order_id]))

    def _forget(self, order_id: str) -> None:
        for line in self._lines.pop(order_id, ()):
            self._held[line.sku][line.warehouse] -= line.quantity

    def _remember(self, order_id: str, lines: Sequence[HeldLine]) -> None:
        self._lines[order_id] = list(lines)
        for line in lines:
            self._held[line.sku][line.warehouse] += line.quantity
