"""A person asks to be forgotten (LGPD, art. 18): the ledger can no longer tell whose his orders are.

The ERP knows which customers a tax id is, and so which sent orders are his; whose an order is that never left, the shop
alone knows. What shop and ERP hold stays: it is theirs, and the law has its own terms for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Protocol

from erp_sync.ledger.entry import Entry
from erp_sync.ledger.forgetting import Cleaning, Outcome
from erp_sync.ledger.ledger import Ledger
from erp_sync.mapping import customer_key
from erp_sync.models import Address, ErpCustomer, FoundCustomer, Order, Problem
from erp_sync.scrub import HIDDEN, PERSONAL_FIELDS
from erp_sync.settings import Settings
from erp_sync.shop.database import Shop
from erp_sync.tax_id import mask, normalize

PAGE = 500
_COLUMNS = ("tax_id", "customer_name", "erp_customer", "customer", "email", "phone", "notes")
_FIELDS = "|".join((*_COLUMNS, r"(?:billing|delivery)_\w+", *sorted(PERSONAL_FIELDS)))
_NAMED = re.compile(rf"(?<![\w.])(?P<field>{_FIELDS})(?P<item> \(item \w+\))? = (?:'[^']*'|\"[^\"]*\")")
"""As a Problem spells the value of one of these fields."""
_OF_CUSTOMER = re.compile(rf"(?:{_FIELDS})(?: \(item \w+\))?")
_MASKED = re.compile(r"(?<![\w*])\*{7,16}[0-9A-Z]{2}(?!\w)")


class CustomersErp(Protocol):
    def find_customers(self, tax_ids: list[str]) -> dict[str, list[FoundCustomer]]: ...


@dataclass
class ForgetResult:
    """What one call did, or with `dry_run` would have done."""

    orders: int = 0
    """That no longer tell whose they are."""
    already: int = 0
    """His, and nothing in the ledger says so."""
    postponed: list[str] = field(default_factory=list)
    """Numbers of his orders that are on their way, in doubt, being cancelled or told to the shop."""
    customer_postponed: bool = False
    """His creation in the ERP is too recent to be forgotten."""
    incidents: int = 0
    seen: int = 0
    """Orders of the ledger that were looked at."""

    @property
    def complete(self) -> bool:
        return not self.postponed and not self.customer_postponed


def forget(
    tax_id: str,
    shop: Shop,
    ledger: Ledger,
    erp: CustomersErp,
    settings: Settings,
    *,
    dry_run: bool = False,
    progress: Callable[[ForgetResult], None] = lambda _result: None,
) -> ForgetResult:
    """Everything that the ledger holds of the person with this normalised tax id.

    Safe beside running flows, harmless to repeat, and killed anywhere it is finished by the next call. Raises
    ErpUnavailable, ShopUnavailable and Misconfigured before anything is changed, and LedgerUnavailable.
    """
    result = ForgetResult()
    codes = {str(found.code) for found in erp.find_customers([tax_id]).get(tax_id, [])}
    his: list[tuple[Entry, Order | None]] = []
    for entry, order in _orders(shop, ledger, codes):
        result.seen += 1
        if entry.customer_key or (order is not None and _is_of(order, tax_id)):
            his.append((entry, order))
        progress(result)
    everything = {tax_id, *codes}.union(*(_values(order) for _, order in his if order is not None))
    result.incidents = ledger.forget_in_incidents(partial(_clean, everything, masked=mask(tax_id)), dry_run=dry_run)
    for entry, order in his:
        values = everything | (_values(order) if order is not None else set())
        outcome = ledger.forget_order(entry.order_id, _cleaning((values - {entry.number}) | {tax_id}), dry_run=dry_run)
        result.orders += outcome is Outcome.FORGOTTEN
        result.already += outcome is Outcome.NOTHING
        if outcome is Outcome.UNDER_WAY:
            result.postponed.append(entry.number)
        progress(result)
    key = customer_key(ErpCustomer(tax_id, None, {}))
    # A create that began on what was asked before the entry was written can leave until its lease is over.
    settled = timedelta(seconds=settings.erp.doubt_seconds + settings.erp.lease_seconds)
    gone = ledger.forget_customer(key, codes, ledger.now() - settled, dry_run=dry_run)
    result.customer_postponed = not gone
    return result


def _orders(shop: Shop, ledger: Ledger, codes: Iterable[str]) -> Iterator[tuple[Entry, Order | None]]:
    """Those that were sent for one of his codes, and all that were never sent, as the shop has them now."""
    after = ""
    while page := ledger.of_customers({"", *codes}, after, PAGE):
        fetched = shop.fetch([entry.order_id for entry in page])
        orders = {order.order_id: order for order in fetched if isinstance(order, Order)}
        yield from ((entry, orders.get(entry.order_id)) for entry in page)
        after = page[-1].order_id


def _is_of(order: Order, tax_id: str) -> bool:
    try:
        return normalize(order.customer.tax_id) == tax_id
    except ValueError:
        return False


def _values(order: Order) -> set[str]:
    """What names the person, wherever it stands."""
    customer = order.customer
    texts = {customer.name, customer.email, customer.phone, re.sub(r"\D", "", customer.phone), customer.tax_id}
    for address in (customer.billing, order.delivery or Address()):
        texts |= {address.street, address.complement, address.district, address.zip}
    return {text for text in texts if _tells(text)}


def _tells(text: str) -> bool:
    """Whether it is long enough to be looked for: a short one would take half of every text with it."""
    return len(text) >= 8 if not any(map(str.isalpha, text)) else len(text) >= 4


def _clean(values: Iterable[str], text: str, masked: str = "") -> str:
    """`masked`: only this mask goes; "": any, in the story of an order all are of one person."""
    longest = sorted(values, key=len, reverse=True)
    known = re.compile("|".join(rf"(?<!\w){re.escape(value)}(?!\w)" for value in longest), re.IGNORECASE)
    text = known.sub(HIDDEN, text)
    if masked:
        return text.replace(masked, HIDDEN)
    return _MASKED.sub(HIDDEN, _NAMED.sub(rf"\g<field>\g<item> = '{HIDDEN}'", text))


def _cleaning(values: set[str]) -> Cleaning:
    def problem(old: Problem) -> Problem:
        value = HIDDEN if old.value and _OF_CUSTOMER.fullmatch(old.field) else _clean(values, old.value)
        return replace(old, value=value, advice=_clean(values, old.advice))

    return Cleaning(partial(_clean, values), problem)
