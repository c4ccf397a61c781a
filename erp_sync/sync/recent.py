"""The shop's orders that changed since a moment, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from erp_sync.models import OrderHead

if TYPE_CHECKING:
    from erp_sync.shop.database import Shop


def recent_pages(shop: Shop, since: datetime, size: int) -> Iterator[Sequence[OrderHead]]:
    """By `changed_at`, at most `size` heads each; no page is empty. Raises ShopUnavailable and Misconfigured."""
    after: tuple[datetime, str] | None = None
    while heads := shop.recent(since, size, after):
        yield heads
        last = heads[-1]
        if len(heads) < size or last.changed_at is None:
            return
        after = (last.changed_at, last.order_id)
