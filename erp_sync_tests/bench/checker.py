"""What became of the orders, by the ERP's own journal. Pure: sets of orders are compared, never counts alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from erp_sync.ledger.entry import Entry
from erp_sync.sandbox.shop import PlacedOrder

LEAVE_WITHIN = timedelta(seconds=5)
"""From an intent to the last moment at which a byte of its create may leave."""
CLOCKS = timedelta(seconds=1)
"""By how much the clocks of ledger and ERP may differ, and how long a busy ERP may take to see what arrived."""


@dataclass(frozen=True)
class Verdict:
    """Numbers of orders, sorted, under everything that may be wrong with them. All empty: every order is exact."""

    lost: tuple[str, ...] = ()
    """Finalized in the shop, and not in the ERP."""
    twice: tuple[str, ...] = ()
    """Committed by the ERP more than once."""
    wrong_total: tuple[str, ...] = ()
    """Another total, or another number of lines, than the shop's."""
    phantom: tuple[str, ...] = ()
    """In the ERP, but no finalized order of the shop: refused, rolled back, or never heard of."""
    wrong_number: tuple[str, ...] = ()
    """The ledger and the journal do not name the same ERP order, or the ledger names one for two orders."""
    unsettled: tuple[str, ...] = ()
    """The ledger is not done with it, or does not know it."""
    unannounced: tuple[str, ...] = ()
    """A create of it arrived at the ERP without an intent that was in the ledger before, and not for too long."""

    @property
    def exact(self) -> bool:
        return not any(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        wrong = [(field.name.replace("_", " "), getattr(self, field.name)) for field in fields(self)]
        return (
            "; ".join(f"{what}: {', '.join(numbers)}" for what, numbers in wrong if numbers) or "every order is exact"
        )


def check(
    journal: Iterable[Mapping[str, Any]],
    orders: Sequence[PlacedOrder],
    entries: Iterable[Entry],
    *,
    refused: Sequence[PlacedOrder] = (),
    arrivals: Iterable[Mapping[str, Any]] = (),
    intents: Mapping[str, Sequence[datetime]] | None = None,
) -> Verdict:
    """Compare the sandbox's journal with the shop's finalized orders and with what the ledger says of them.

    `orders` must be in the ERP and `refused` must not; nothing else may be there. Every order's number is its own.
    `arrivals` are the sandbox's, `intents` when the ledger wrote them, per number; None: not compared. One intent
    covers several arrivals: a 401 is answered by a second POST within the same time.
    """
    committed: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in journal:
        if line["kind"] == "order":
            committed[line["external_id"]].append(line)
    known = {entry.number: entry for entry in entries}
    meant = {order.number: order for order in orders}
    once = {number: lines[0] for number, lines in committed.items() if len(lines) == 1}
    claimed = Counter((entry.erp_branch, entry.erp_number) for entry in known.values() if entry.erp_number)
    return Verdict(
        lost=_sorted(meant.keys() - committed.keys()),
        twice=_sorted(number for number, lines in committed.items() if len(lines) > 1),
        wrong_total=_sorted(
            number
            for number, line in once.items()
            if number in meant
            and (str(line["total"]), line["lines"]) != (f"{meant[number].total:.2f}", meant[number].lines)
        ),
        phantom=_sorted(committed.keys() - meant.keys()),
        wrong_number=_sorted(
            number for number, entry in known.items() if not _same_number(entry, once.get(number), claimed)
        ),
        unsettled=_sorted(
            order.number
            for order in (*orders, *refused)
            if order.number not in known or known[order.number].next_at is not None
        ),
        unannounced=_sorted(
            {
                line["external_id"]
                for line in arrivals
                if intents is not None and line["endpoint"] == "create_order" and not _announced(line, intents)
            }
        ),
    )


def rule_of_three(orders: int) -> str:
    """What "none of so many" proves: the upper bound of the rate, with 95 % confidence."""
    return f"< {300 / orders:.3g} %" if orders else "nothing"


def _announced(arrival: Mapping[str, Any], intents: Mapping[str, Sequence[datetime]]) -> bool:
    at = datetime.fromisoformat(arrival["at"])
    return any(-CLOCKS <= at - intent <= LEAVE_WITHIN + CLOCKS for intent in intents.get(arrival["external_id"], ()))


def _same_number(entry: Entry, line: Mapping[str, Any] | None, claimed: Counter[tuple[str, str]]) -> bool:
    own = (entry.erp_branch, entry.erp_number)
    if line is None:
        return not entry.erp_number
    return own == (line["branch"], line["number"]) and claimed[own] == 1


def _sorted(numbers: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(numbers))
