"""Other channels of the company, and its suppliers: stock that moves by itself. A client of the ERP's admin side."""

from __future__ import annotations

import random

from erp_sync.sandbox.background import AdminRefusal, SandboxErp

_GONE = frozenset({404, 409})


class OtherChannels:
    """Repeatable: the same seed and the same rows with the same figures are the same sales and receipts.

    `sold`: the share of steps that sell; the others receive. `largest`: units of one sale; receipts are up to four
    times as large, so that a stock that is sold four times as often as it is filled up neither ends nor grows.
    """

    def __init__(self, erp: SandboxErp, random_: random.Random, *, sold: float = 0.8, largest: int = 5) -> None:
        self._erp = erp
        self._random = random_
        self._sold = sold
        self._largest = largest

    def step(self) -> str | None:
        """One sale or receipt of a random product, and what it was. None: there is no stock, it was not enough, or
        someone else was at that row at the same time."""
        last = self._erp.admin("GET", "/stock/last")["record"]
        if not last:
            return None
        # The live row that comes next after a random record: cheap however many there are.
        after = self._random.randrange(last)
        rows = self._erp.admin("GET", f"/stock?after={after}&limit=1")
        sells = self._random.random() < self._sold
        quantity = self._random.randint(1, self._largest if sells else 4 * self._largest)
        if not rows:
            return None
        moved = {**{name: rows[0][name] for name in ("code", "warehouse", "branch")}, "quantity": quantity}
        try:
            self._erp.admin("POST", "/stock/sell" if sells else "/stock/receive", moved)
        except AdminRefusal as refusal:
            if refusal.status not in _GONE:
                raise
            return None
        what = "sold by another channel" if sells else "received"
        return f"product {moved['code']}, warehouse {moved['warehouse']}: {quantity} {what}"
