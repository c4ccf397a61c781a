"""Products of the shop that the ERP's pages did not show: each is unknown, not zero, until it is asked for by name.

A catalogue may have many that the ERP never had, so a pass looks at a part of it, and asks for a few of these; the next
one goes on from there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

from erp_sync.erp.stock import SkuBalance
from erp_sync.errors import BreakerOpen, ErpUnavailable

if TYPE_CHECKING:
    from erp_sync.ledger.ledger import Ledger
    from erp_sync.shop.stock import ShopStock
    from erp_sync.sync.results import StockResult

logger = logging.getLogger(__name__)

LOOKED_AT = 50_000
"""SKUs of the shop in one pass."""
NAMED = 600
"""Asked for by name in one pass: ten requests or so."""
_MARK = "stock.unseen"
"""The SKU that the next pass begins with."""


class NamedStock(Protocol):
    """An ERP that can be asked for single products; `ErpStock` can."""

    def can_have(self, sku: str) -> bool: ...

    def named(self, skus: Sequence[str], witness: str) -> Mapping[str, Mapping[str, Decimal] | None]: ...

    def registered(self, skus: Sequence[str]) -> set[str]: ...


class Unseen:
    """Of one pass. `zeros`: the warehouses in which a product that the ERP has, without a row there, has none; empty:
    such a product is unknown."""

    def __init__(self, shop_stock: ShopStock, ledger: Ledger, erp: NamedStock | None, zeros: Sequence[str]) -> None:
        self._ledger = ledger
        self._erp = erp
        self._zeros = dict.fromkeys(zeros, Decimal(0))
        mark = ledger.mark(_MARK)
        since = mark[1] if mark is not None else ""
        part = shop_stock.skus(since, LOOKED_AT + 1)
        if since and len(part) <= LOOKED_AT:
            part += shop_stock.skus("", LOOKED_AT + 1 - len(part))
        self._next = part.pop() if len(part) > LOOKED_AT else ""
        self._left = dict.fromkeys(part)
        self._witness = ""

    def shown(self, balances: Iterable[SkuBalance]) -> None:
        for balance in balances:
            self._left.pop(balance.sku, None)
            if self._erp is not None and self._erp.can_have(balance.sku):
                self._witness = balance.sku

    def ask(self, result: StockResult) -> list[SkuBalance]:
        """Once all pages were shown: what the ERP says of those that were on none. No answer, or one that
        proves nothing, leaves them unknown. Raises Misconfigured."""
        possible = [sku for sku in self._left if self._witness and self._erp is not None and self._erp.can_have(sku)]
        if self._erp is None or not possible:
            result.name("unknown_to_erp", self._left)
            return []
        asked = possible[:NAMED]
        try:
            rows = self._erp.named(asked, self._witness)
            rowless = [sku for sku in asked if sku not in rows]
            registered = self._erp.registered(rowless) if self._zeros and rowless else set()
        except (ErpUnavailable, BreakerOpen) as failure:
            logger.warning("products that no page showed are left alone: %s", failure)
            self._next = possible[0]
            return []
        if len(possible) > NAMED:
            self._next = possible[NAMED]
        result.asked_by_name += len(asked)
        result.zero_by_name += len(registered)
        result.name("unknown_to_erp", (sku for sku in self._left if sku not in rows and sku not in registered))
        answered = [SkuBalance(sku, balances) for sku, balances in rows.items() if balances is not None]
        return answered + [SkuBalance(sku, self._zeros) for sku in rowless if sku in registered]

    def go_on(self) -> None:
        """The next pass asks for others: only where this one wrote what it learned."""
        self._ledger.set_mark(_MARK, self._next)
