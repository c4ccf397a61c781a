"""What orders hold of the stock (contracts/protheus-rest.md, 9.2 and Q31)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from erp_sync.sandbox.order_rows import open_quantity
from erp_sync.sandbox.store import money

Place = tuple[str, str, str]
"""Branch, product and warehouse: the key of SB2."""

_ITEM = ("C6_FILIAL", "C6_PRODUTO", "C6_LOCAL", "C6_QTDVEN", "C6_QTDENT", "C6_QTDEMP", "C6_BLQ")
COLUMNS = ", ".join(f"SC6.{name}" for name in _ITEM)


@dataclass(frozen=True, slots=True)
class Held:
    ordered: Decimal = Decimal(0)
    """Open, and not released or blocked: B2_QPEDVEN."""
    reserved: Decimal = Decimal(0)
    """Open, released, and blocked by nothing: B2_RESERVA."""
    invoiced: Decimal = Decimal(0)
    """Of live invoices: gone from B2_QATU."""

    def __add__(self, other: Held) -> Held:
        return Held(self.ordered + other.ordered, self.reserved + other.reserved, self.invoiced + other.invoiced)

    def __sub__(self, other: Held) -> Held:
        return Held(self.ordered - other.ordered, self.reserved - other.reserved, self.invoiced - other.invoiced)


NOTHING = Held()


def held_by(rows: Iterable[tuple[Any, ...]]) -> dict[Place, Held]:
    """By live rows of SC6, read as COLUMNS, with C6_QTDEMP as their releases have it."""
    held: dict[Place, Held] = {}
    for row in rows:
        item = dict(zip(_ITEM, row, strict=True))
        place = (item["C6_FILIAL"], item["C6_PRODUTO"], item["C6_LOCAL"])
        open_ = open_quantity(item)
        reserved = min(money(item["C6_QTDEMP"]), open_)
        held[place] = held.get(place, NOTHING) + Held(open_ - reserved, reserved, money(item["C6_QTDENT"]))
    return held


def changes(before: Mapping[Place, Held], after: Mapping[Place, Held]) -> dict[Place, Held]:
    """What became more or less, by place."""
    places = dict.fromkeys((*before, *after))
    moved = {place: after.get(place, NOTHING) - before.get(place, NOTHING) for place in places}
    return {place: change for place, change in moved.items() if change != NOTHING}
