"""Every order needs its customer in the ERP: matched by tax id, by the code the shop gives, or created.

A customer is created under the protocol of an order (sync/sending.py): an intent in the ledger first, one POST, an
unknown outcome read from the ERP until its absence is final. What was created is read back before it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from erp_sync.errors import ErpUnavailable, InDoubt, Misconfigured, Refused
from erp_sync.ledger.customers import CustomerEntry
from erp_sync.mapping import customer_key
from erp_sync.models import CustomerCode, ErpCustomer, FoundCustomer, Problem
from erp_sync.sync.sending import SEND_WINDOW
from erp_sync.tax_id import mask

logger = logging.getLogger(__name__)

LOOK_AGAIN = timedelta(seconds=10)
"""How often a customer is looked for whose create is in doubt."""


class CustomerLedger(Protocol):
    def now(self) -> datetime: ...

    def customer(self, key: str) -> CustomerEntry | None: ...

    def change_customer(self, old: CustomerEntry | None, new: CustomerEntry) -> bool: ...


class CustomerErp(Protocol):
    def find_customers(self, tax_ids: Sequence[str]) -> Mapping[str, list[FoundCustomer]]: ...

    def customer(self, code: CustomerCode) -> list[FoundCustomer]: ...

    def create_customer(self, customer: ErpCustomer, intent: Callable[[], float]) -> CustomerCode: ...


@dataclass(frozen=True, slots=True)
class Match:
    """What is known about one customer in the ERP; exactly one of `chosen`, `problem` and `wait_until` is set."""

    codes: frozenset[CustomerCode] = frozenset()
    chosen: CustomerCode | None = None
    created: bool = False
    """We created it in this pass."""
    problem: Problem | None = None
    wait_until: datetime | None = None
    """Its create is on its way or in doubt."""
    intended: CustomerEntry | None = None
    """What the ledger says of its create, which is over: to be told by `rest`."""


class _NotOurs(Exception):
    """Another process creates this customer."""


class Customers:
    """Matches and creates customers for a batch of orders. Thread-safe."""

    def __init__(
        self,
        ledger: CustomerLedger,
        erp: CustomerErp,
        *,
        lease: timedelta,
        doubt: timedelta,
        monotonic: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._erp = erp
        self._lease = lease
        self._doubt = doubt
        self._monotonic = monotonic

    def match(self, customers: Iterable[ErpCustomer]) -> dict[str, Match]:
        """What the ERP has now, by `customer_key`; a customer it does not have is left out."""
        by_key = {customer_key(customer): customer for customer in customers}
        by_tax_id = {customer.tax_id: key for key, customer in by_key.items() if customer.given is None}
        matches = {key: self._given(customer) for key, customer in by_key.items() if customer.given is not None}
        found = self._erp.find_customers(list(by_tax_id)) if by_tax_id else {}
        for tax_id, rows in found.items():
            if rows:
                matches[by_tax_id[tax_id]] = _choose(rows, f"A1_CGC {mask(tax_id)}")
        return matches

    def read_back(self, created: Iterable[ErpCustomer]) -> dict[str, Match]:
        """What became of creates that succeeded: a customer is used only once the ERP shows it."""
        by_key = {customer_key(customer): customer for customer in created}
        seen = self.match(by_key.values())
        return {
            key: replace(seen[key], created=True) if key in seen else Match(wait_until=self._wait(key))
            for key in by_key
        }

    def _given(self, customer: ErpCustomer) -> Match:
        assert customer.given is not None  # noqa: S101 - the caller's filter, told to the type checker
        rows = self._erp.customer(customer.given)
        name = f"{customer.given.code}/{customer.given.store}".rstrip("/")
        if not rows:
            return Match(problem=Problem("erp_customer", name, "the ERP has no such customer: correct it in the shop"))
        other = [row for row in rows if customer.tax_id and row.tax_id and row.tax_id != customer.tax_id]
        if other:
            advice = f"has another A1_CGC in the ERP ({mask(other[0].tax_id)}) than the order's tax id: correct one"
            return Match(problem=Problem("erp_customer", name, advice))
        return _choose(rows, f"erp_customer {name}")

    def create(self, customer: ErpCustomer, asked_at: datetime) -> Match:
        """Create a customer that `match`, asked after `asked_at`, did not find. Read it back before it is used; `rest`
        may come beside that.

        Raises ErpUnavailable and Misconfigured when certainly nothing was created, and LedgerUnavailable.
        """
        key = customer_key(customer)
        old = self._ledger.customer(key)
        now = self._ledger.now()
        if old is not None and old.next_at is not None and old.next_at > now:
            # Who creates it needs a moment; only who died over it needs the lease, so the pauses grow with its age.
            pause = min(max(now - (old.next_at - self._lease), timedelta(seconds=1)), LOOK_AGAIN)
            return Match(wait_until=min(old.next_at, now + pause))
        if old is not None and old.send_by is not None:
            if asked_at < old.send_by + self._doubt:
                return Match(wait_until=self._wait(key))
            if old.problems:
                self._ledger.change_customer(old, _at_rest(old))
                return Match(problem=old.problems[0])
        intended: CustomerEntry | None = None

        def intent() -> float:
            nonlocal intended
            started = self._monotonic()
            now = self._ledger.now()
            # As long as this lasted, another one may have created it, and its entry have been forgotten since.
            if now >= asked_at + self._lease:
                raise _NotOurs
            version = old.version + 1 if old is not None else 1
            new = CustomerEntry(key, version, send_by=now + SEND_WINDOW, next_at=now + self._lease)
            if not self._ledger.change_customer(old, new):
                raise _NotOurs
            intended = new
            return started + SEND_WINDOW.total_seconds()

        try:
            code = self._erp.create_customer(customer, intent)
        except _NotOurs:
            return Match(wait_until=now + timedelta(seconds=2))
        except Refused as refusal:
            if not refusal.certain:
                return Match(wait_until=self._wait(key, (refusal.problem(),)))
            self._nothing_left(intended)
            return Match(problem=refusal.problem())
        except InDoubt:
            return Match(wait_until=self._wait(key))
        except (ErpUnavailable, Misconfigured):
            self._nothing_left(intended)
            raise
        return Match(codes=frozenset({code}), chosen=code, created=True, intended=intended)

    def rest(self, created: Match) -> None:
        """Its create is over. Until the ledger is told, or its lease is over, nobody creates this customer anew."""
        if created.intended is not None:
            over = replace(created.intended, version=created.intended.version + 1, next_at=None)
            self._ledger.change_customer(created.intended, over)

    def _nothing_left(self, intended: CustomerEntry | None) -> None:
        if intended is not None:
            self._ledger.change_customer(intended, _at_rest(intended))

    def _wait(self, key: str, problems: tuple[Problem, ...] = ()) -> datetime:
        """Its create may still come true: when to look again, exactly when absence becomes final at the latest."""
        now = self._ledger.now()
        next_at = now + LOOK_AGAIN
        entry = self._ledger.customer(key)
        if entry is not None and entry.send_by is not None:
            final = entry.send_by + self._doubt
            next_at = final if now < final < next_at else next_at
            new = replace(entry, version=entry.version + 1, next_at=next_at, problems=problems or entry.problems)
            self._ledger.change_customer(entry, new)
        return next_at


def _at_rest(entry: CustomerEntry) -> CustomerEntry:
    return replace(entry, version=entry.version + 1, send_by=None, next_at=None, problems=())


def _choose(rows: Sequence[FoundCustomer], name: str) -> Match:
    """Of several stores the lowest one that is not blocked (contracts/protheus-rest.md, 8.2)."""
    codes = frozenset(row.code for row in rows)
    free = sorted((row.code for row in rows if not row.blocked), key=lambda code: (code.store, code.code))
    if not free:
        return Match(codes, problem=Problem("customer", name, "is blocked in the ERP (A1_MSBLQL): unblock it there"))
    if len(rows) > 1:
        logger.info("customer %s has %d rows in the ERP: %s is used", name, len(rows), free[0])
    return Match(codes, chosen=free[0])
