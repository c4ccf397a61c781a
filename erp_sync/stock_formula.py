"""How much of the ERP's stock may be offered (contracts/protheus-rest.md, 9.3), and what the shop is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_FLOOR, Decimal
from functools import cache
from typing import Literal

Formula = Literal["standard", "simple", "physical"]

_SUBTRACTED: Mapping[Formula, tuple[str, ...]] = {
    "standard": (*("B2_RESERVA", "B2_QEMP", "B2_QACLASS", "B2_QEMPSA", "B2_QEMPPRJ", "B2_QTNP", "B2_QEMPPRE"),),
    "simple": ("B2_RESERVA",),
    "physical": (),
}
"""F3, F1, and B2_QATU alone."""
OPEN_ORDERS = "B2_QPEDVEN"


@cache
def fields(formula: Formula, *, subtract_open_orders: bool) -> tuple[str, ...]:
    """The fields of SB2 that the formula needs."""
    return ("B2_QATU", *_SUBTRACTED[formula], *((OPEN_ORDERS,) if subtract_open_orders else ()))


def available(row: Mapping[str, Decimal], formula: Formula, *, subtract_open_orders: bool) -> Decimal:
    """What one row of SB2 leaves to be sold; negative where more is promised than is there."""
    taken = [row[field] for field in fields(formula, subtract_open_orders=subtract_open_orders)[1:]]
    return row["B2_QATU"] - sum(taken, Decimal(0))


def published(available: Decimal, *, in_flight: Decimal, buffer: int) -> int:
    """Whole units for the shop: floor(available - in flight - buffer), never below zero."""
    return max(0, int((available - in_flight - buffer).to_integral_value(ROUND_FLOOR)))
