"""Telling the shop what became of its orders: what it is told, when, and what is never overwritten.

The shop's row is written at least once, and harmlessly twice. Before it is, the ledger has a claim on it, so that a
process that was paused cannot write an old word over a new one, and the word itself, so that what a process left that
died in between does not look like somebody else's.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from erp_sync import nfe_key
from erp_sync.ledger.status_entry import StatusChange, StatusEntry, StatusEvent, stored
from erp_sync.models import Cancellation, Invoice, OrderStatus, Problem
from erp_sync.order_status import ENDED, goes_back
from erp_sync.scrub import excerpt
from erp_sync.shop.statuses import Outcome, StatusOutcome, StatusWrite
from erp_sync.sync.problems import NFE_KEY, SHOP_STATUS, problem_of, with_problem
from erp_sync.sync.results import StatusesResult

if TYPE_CHECKING:
    from erp_sync.ledger.ledger import Ledger
    from erp_sync.shop.profile import StatusSection
    from erp_sync.shop.statuses import ShopStatuses

LEASE = timedelta(seconds=120)
"""How long a claim on the shop's row holds; nothing is committed in its second half."""
TRY_AGAIN = timedelta(hours=1)
"""When the shop is looked at again whose row could not be written."""

Details = Mapping[str, str | datetime | None]


class Telling:
    """What the profile's `[status]` block makes of an order's life in the ERP. Pure."""

    def __init__(self, section: StatusSection | None, issuers: Sequence[str]) -> None:
        self._map = section.map if section is not None else {}
        self._life = section.allow_from if section is not None else []
        self._issuers = frozenset(issuers)

    def value(self, status: OrderStatus | None) -> str | None:
        """The shop's word. None: the shop is left alone."""
        return self._map.get(status) if status is not None else None

    def is_behind(self, shown: str, value: str) -> bool:
        """Whether a shop that shows this still has to be told `value`: it never goes back by itself."""
        if shown == value:
            return False
        if shown in self._life and value in self._life:
            return self._life.index(shown) < self._life.index(value)
        return True

    def told_the_end(self, entry: StatusEntry) -> bool:
        """Whether the shop may show its order as cancelled only because we wrote that."""
        return any(self.value(status) in entry.told_values for status in ENDED)

    def ours(self, entry: StatusEntry) -> tuple[str, ...]:
        """The shop's words that are ours to overwrite. Not one that lies ahead of the ERP: whoever wrote that died, or
        was overtaken, before the ledger knew, and the shop never goes back."""
        status = entry.status
        if status is None:
            return entry.told_values
        ahead = {other for other in OrderStatus if goes_back(other, status)}
        barred = {self.value(other) for other in ahead} - {self.value(other) for other in set(OrderStatus) - ahead}
        return tuple(word for word in entry.told_values if word not in barred)

    def details(self, entry: StatusEntry) -> Details:
        """The parameters of `[status] write` besides number and status; of several invoices those of the last one."""
        last = entry.invoices[-1] if entry.invoices else None
        delivered = [invoice.delivered_at for invoice in entry.invoices if invoice.delivered_at is not None]
        complete = delivered if entry.status is OrderStatus.DELIVERED else []
        return {
            "erp_number": entry.erp_number,
            "invoice_number": last.number if last else None,
            "invoice_series": last.series if last else None,
            "invoice_key": last.key if last and last.key and not self._key_fault(last) else None,
            "invoiced_at": datetime.combine(last.issued_on, datetime.min.time()) if last and last.issued_on else None,
            "tracking_code": entry.tracking_code or None,
            "delivered_at": max(complete, default=None),
        }

    def planned(self, entry: StatusEntry, now: datetime) -> StatusEntry:
        """The entry with `write_at` and problems as its ERP side asks for."""
        problems = with_problem(entry.problems, NFE_KEY, self.key_problem(entry.invoices))
        if entry.status is None:
            return replace(entry, problems=problems, write_at=None)
        if entry.told_status is not None and goes_back(entry.told_status, entry.status):
            advice = (
                f"the ERP went back from {entry.told_status} to {entry.status} (an invoice was cancelled, or an order "
                "restored), and the shop was told before: it never goes back by itself, correct it by hand if need be"
            )
            shown = self.value(entry.told_status) or ""
            problems = with_problem(problems, SHOP_STATUS, Problem(SHOP_STATUS, shown, advice))
            return replace(entry, problems=problems, write_at=None)
        if self.value(entry.status) is None or self.hash(entry) == entry.told_hash:
            return replace(entry, problems=with_problem(problems, SHOP_STATUS, None), write_at=None)
        return replace(entry, problems=problems, write_at=now)

    def hash(self, entry: StatusEntry) -> str:
        """Of all that the shop is told."""
        details = {name: str(value) for name, value in self.details(entry).items() if value is not None}
        text = json.dumps([self.value(entry.status), details], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def key_problem(self, invoices: Sequence[Invoice]) -> Problem | None:
        """What is wrong with the NF-e keys that are there."""
        for invoice in invoices:
            if invoice.key and (fault := self._key_fault(invoice)):
                advice = f"the key {fault}; the shop does not show it: correct F2_CHVNFE in the ERP"
                return Problem(NFE_KEY, f"invoice {invoice.number}/{invoice.series}", advice)
        return None

    def _key_fault(self, invoice: Invoice) -> str:
        return nfe_key.fault(invoice.key, invoice_number=invoice.number, issuers=self._issuers)


class Teller:
    """Writes to the shop what is due. Thread-safe."""

    def __init__(
        self,
        ledger: Ledger,
        shop: ShopStatuses,
        telling: Telling,
        *,
        grace: timedelta,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._ledger = ledger
        self._shop = shop
        self._telling = telling
        self._grace = grace

    def tell(self, entries: Sequence[StatusEntry]) -> StatusesResult:
        """Raises ShopUnavailable, LedgerUnavailable and Misconfigured."""
        commit_by = self._monotonic() + LEASE.total_seconds() / 2
        until = self._ledger.now() + LEASE
        intended = [entry for entry in entries if self._telling.value(entry.status) is not None]
        intents = [StatusChange(entry, self._intended(entry, until), None) for entry in intended]
        made = self._ledger.change_statuses(intents)
        ours = [stored(change) for change, done in zip(intents, made, strict=True) if done]
        hashes = {entry.order_id: entry.told_hash for entry in intended}
        outcomes = self._shop.write([self._write(entry, hashes[entry.order_id]) for entry in ours], commit_by)
        now = self._ledger.now()
        changes = [
            self._after(entry, hashes[entry.order_id], outcome, now)
            for entry, outcome in zip(ours, outcomes, strict=True)
        ]
        self._ledger.change_statuses(changes)
        return StatusesResult(
            told=sum(outcome.outcome is Outcome.WRITTEN for outcome in outcomes),
            kept=sum(problem_of(change.new.problems, SHOP_STATUS) is not None for change in changes),
        )

    def _intended(self, entry: StatusEntry, until: datetime) -> StatusEntry:
        """Until it is known what came of it, the shop is not taken to know anything."""
        value = self._telling.value(entry.status) or ""
        known = entry.told_values
        values = known if value in known else (*known, value)
        return replace(entry, telling_until=until, told_values=values, told_hash="")

    def _write(self, entry: StatusEntry, told_hash: str) -> StatusWrite:
        return StatusWrite(
            number=entry.number,
            value=self._telling.value(entry.status) or "",
            details=self._telling.details(entry),
            news=self._telling.hash(entry) != told_hash,
            ours=self._telling.ours(entry),
        )

    def _after(self, entry: StatusEntry, told_hash: str, outcome: StatusOutcome, now: datetime) -> StatusChange:
        value = self._telling.value(entry.status) or ""
        if outcome.outcome in (Outcome.WRITTEN, Outcome.SAME):
            told = replace(
                entry,
                told_status=entry.status,
                told_hash=self._telling.hash(entry),
                write_at=None,
                telling_until=None,
                problems=with_problem(entry.problems, SHOP_STATUS, None),
            )
            return StatusChange(entry, told, StatusEvent("told", self._words(entry, outcome)))
        problem = self._problem(entry, value, outcome)
        since = entry.changed_at or now
        later = now + TRY_AGAIN if now - since < self._grace else None
        problems = with_problem(entry.problems, SHOP_STATUS, problem)
        kept = replace(entry, told_hash=told_hash, write_at=later, telling_until=None, problems=problems)
        if problem is None or problem == problem_of(entry.problems, SHOP_STATUS):
            return StatusChange(entry, kept, None)
        return StatusChange(entry, kept, StatusEvent("kept", str(problem)))

    def _words(self, entry: StatusEntry, outcome: StatusOutcome) -> str:
        details = self._telling.details(entry)
        extras = [f"invoice {details['invoice_number']}/{details['invoice_series']}"] if entry.invoices else []
        extras += ["its NF-e key"] if details["invoice_key"] else []
        extras += [f"tracking code {entry.tracking_code}"] if entry.tracking_code else []
        extra = f", with {' and '.join(extras)}" if extras else ""
        if outcome.outcome is Outcome.SAME:
            return f"the shop shows {outcome.present!r} already"
        return f"the shop shows {outcome.present!r} now ({entry.status} in the ERP){extra}"

    @staticmethod
    def _problem(entry: StatusEntry, value: str, outcome: StatusOutcome) -> Problem | None:
        present = excerpt(outcome.present, 60)
        match outcome.outcome:
            case Outcome.KEPT if entry.cancellation is not Cancellation.NONE:
                return None  # the shop cancelled it: that the ERP is not there yet is the cancellation's business
            case Outcome.KEPT if outcome.present in entry.told_values:
                advice = (
                    f"the ERP went back to {entry.status} ({value!r}) while the shop was told, and the shop never goes "
                    "back by itself: correct it by hand if need be"
                )
            case Outcome.KEPT:
                advice = (
                    f"somebody set it, and [status] allow_from does not name it: left alone, though the ERP says "
                    f"{entry.status} ({value!r}); correct the order in the shop, or the profile"
                )
            case Outcome.UNKNOWN:
                advice = f"the shop has no order {entry.number} any more ([status] find): restore it, or let it be"
            case Outcome.AMBIGUOUS:
                advice = f"several orders of the shop have the number {entry.number}: give the others another number"
            case _:
                advice = outcome.why
        return Problem(SHOP_STATUS, present, advice)
