"""What only a look into the shop and the ERP tells: findings like those of `health.py`, slow enough for twice an hour.

What is in use, is in use in the shop's orders of the last days that are ready or still wait: a payment method without
a condition is found before the order that uses it fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from erp_sync.erp.generic_query import GenericQuery
from erp_sync.errors import Misconfigured
from erp_sync.ledger.health import SAMPLE
from erp_sync.models import Order, OrderHead, Severity, ShopState
from erp_sync.scrub import excerpt
from erp_sync.sync.findings import Finding, fine
from erp_sync.sync.health import WARN_AFTER
from erp_sync.sync.needed import needed_queries, usable_products
from erp_sync.sync.recent import recent_pages

if TYPE_CHECKING:
    from erp_sync.sync.connections import Connections

OVERLOOKED_WITHIN = timedelta(days=2)
IN_USE_WITHIN = timedelta(days=3)
PAGE = 500
MOST_ORDERS = 50_000
MOST_SKUS = 6_000
"""A hundred requests to the ERP."""
FIELD_WIDTH = 40
_OPEN = frozenset({ShopState.READY, ShopState.WAITING})


@dataclass
class _InUse:
    """How many of the shop's orders use each value."""

    orders: int = 0
    is_complete: bool = True
    payments: Counter[str] = field(default_factory=Counter)
    carriers: Counter[str] = field(default_factory=Counter)
    skus: Counter[str] = field(default_factory=Counter)


class Inspection:
    """Each public method but `find` is a check of `INSPECTION_CHECKS`. Reads the shop's orders once, when they are
    first needed. Raises ShopUnavailable, LedgerUnavailable, ErpUnavailable and Misconfigured: then nobody could look.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._settings = connections.settings
        self._query = GenericQuery(connections.client.of_flow("backfill"))

    def find(self, name: str) -> Finding:
        """What the check of this name finds now."""
        check: Callable[[], Finding] = getattr(self, name)
        return check()

    def orders_in_erp(self) -> Finding:
        ledger = self._connections.ledger
        count, oldest, sample = 0, None, list[str]()
        seen = 0
        for heads in self._recent(OVERLOOKED_WITHIN):
            ready = [head for head in heads if head.state == ShopState.READY and self._is_ours(head)]
            seen += len(ready)
            known = ledger.entries([head.order_id for head in ready])
            for head in ready:
                if head.order_id not in known:
                    count += 1
                    oldest = oldest or head.changed_at
                    sample += [head.number] if len(sample) < SAMPLE else []
        if not count:
            return fine(f"All {seen} orders that the shop finalized in the last days are in the ledger.")
        return Finding(
            passed=False,
            text=f"{count} of {seen} orders that the shop finalized in the last days were never found.",
            remedy="Is the sensor finalized_orders on, and are its ticks green? erp-sync run orders finds and sends "
            "them now.",
            count=count,
            oldest_at=oldest,
            sample=tuple(sample),
        )

    def payments_have_a_condition(self) -> Finding:
        known = self._settings.orders.payments
        if self._settings.orders.default_payment:
            return fine("Every payment method has a condition: orders.default_payment is set.")
        return self._unmapped(
            {value: uses for value, uses in self._in_use.payments.items() if value not in known},
            "payment methods",
            "have no payment condition: their orders are invalid",
            "Add them to orders.payments in the settings, or set orders.default_payment; then erp-sync retry NUMBER.",
        )

    def carriers_have_a_code(self) -> Finding:
        known = self._settings.orders.carriers
        if not known:
            return fine("orders.carriers is empty: no order is sent with a carrier.")
        return self._unmapped(
            {value: uses for value, uses in self._in_use.carriers.items() if value and not known.get(value)},
            "carriers",
            "have no code: their orders are sent with C5_TRANSP empty",
            "Add them to orders.carriers in the settings.",
            severity=Severity.WARNING,
        )

    def products_are_in_the_erp(self) -> Finding:
        skus = sorted(self._in_use.skus)[:MOST_SKUS]
        try:
            usable = usable_products(self._query, skus, self._settings)
        except Misconfigured as refusal:
            return Finding(
                passed=False,
                text=f"The ERP's products cannot be read: {refusal}.",
                severity=Severity.WARNING,
                remedy="Give the user of ERP_SYNC_ERP_USER the right to read SB1.",
            )
        return self._unmapped(
            {sku: self._in_use.skus[sku] for sku in skus if sku not in usable},
            "products",
            "are not in the ERP, or blocked there: their orders are refused",
            "Create or unblock them in the ERP (SB1), or correct the SKU in the shop; then erp-sync retry NUMBER.",
        )

    def no_negative_stock(self) -> Finding:
        shop_stock = self._connections.shop_stock
        if shop_stock is None:
            return fine("The profile has no [stock] block: nobody can look.")
        skus = sorted(self._in_use.skus)[:MOST_SKUS]
        section = self._connections.shop.profile.stock
        named = section.warehouses if section is not None else {}
        places = sorted({named.get(code, "") for code in self._settings.stock.warehouses})
        negative: dict[str, int] = {}
        for start in range(0, len(skus), PAGE):
            some = [(sku, place) for sku in skus[start : start + PAGE] for place in places]
            for (sku, _), shown in shop_stock.present(some).items():
                if any(quantity < 0 for quantity in shown):
                    negative[sku] = self._in_use.skus[sku]
        if not negative:
            return fine(f"None of the {len(skus)} products that were ordered in the last days is below zero.")
        return Finding(
            passed=False,
            text=f"{len(negative)} products that were ordered in the last days are below zero in the shop: more was "
            "sold than was there.",
            remedy="Say to the customers of the latest orders that they wait, or order the goods; and look why the "
            "shop sold them: its checkout must take stock and insert the order in one transaction.",
            count=len(negative),
            sample=_most_used(negative),
        )

    def erp_fields(self) -> Finding:
        # A refused login is not a missing field: it raises.
        self._connections.erp.probe()
        missing = []
        follows_stock = self._connections.shop_stock is not None
        for query in needed_queries(self._settings, follows_stock=follows_stock):
            try:
                self._query.page(query, order=(), size=1)
            except Misconfigured as refusal:
                missing.append(f"{query.table}: {refusal}")
        if not missing:
            return fine("The ERP's answers have every field that is needed.")
        return Finding(
            passed=False,
            text=f"The ERP's answers lack what is needed. {'; '.join(missing)}.",
            remedy="Ask who administers Protheus what changed: an update, a right taken away, a field renamed.",
            count=len(missing),
            sample=tuple(each.partition(":")[0] for each in missing[:SAMPLE]),
        )

    # ----------------------------------------------------------------------------------------------------------------

    def _recent(self, within: timedelta) -> Iterator[Sequence[OrderHead]]:
        shop = self._connections.shop
        now = shop.now()
        for heads in recent_pages(shop, now - within, PAGE):
            yield [head for head in heads if head.changed_at is not None and head.changed_at <= now - WARN_AFTER]

    def _is_ours(self, head: OrderHead) -> bool:
        return head.business_day is None or head.business_day >= self._settings.require_start_day()

    @cached_property
    def _in_use(self) -> _InUse:
        shop = self._connections.shop
        used = _InUse()
        for heads in recent_pages(shop, shop.now() - IN_USE_WITHIN, PAGE):
            wanted = [head.order_id for head in heads if head.state in _OPEN and self._is_ours(head)]
            for order in shop.fetch(wanted):
                if isinstance(order, Order):
                    used.orders += 1
                    used.payments[order.payment] += 1
                    used.carriers[order.carrier] += 1
                    used.skus.update({line.sku for line in order.lines if line.sku})
            if used.orders >= MOST_ORDERS:
                used.is_complete = False
                break
        return used

    def _unmapped(
        self, unmapped: Mapping[str, int], what: str, wrong: str, remedy: str, *, severity: Severity = Severity.ERROR
    ) -> Finding:
        used = self._in_use
        scope = f"the {'first ' if not used.is_complete else ''}{used.orders} open orders of the last days"
        if not unmapped:
            return fine(f"All {what} in {scope} are mapped.")
        return Finding(
            passed=False,
            text=f"{len(unmapped)} {what} in {scope} {wrong}.",
            severity=severity,
            remedy=remedy,
            count=len(unmapped),
            sample=_most_used(unmapped),
        )


def _most_used(values: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(excerpt(value, FIELD_WIDTH) or "(empty)" for value, _ in Counter(values).most_common(SAMPLE))
