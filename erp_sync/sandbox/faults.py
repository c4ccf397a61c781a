"""Which call goes wrong, and how: a seeded draw among the faults that are set."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from erp_sync.sandbox.config import Endpoint, Fault


@dataclass(slots=True)
class _Armed:
    fault: Fault
    left: int | None


class Faults:
    """Repeatable: the same calls in the same order with the same seed go wrong in the same way."""

    def __init__(self, faults: Iterable[Fault], seed: int) -> None:
        self._random = random.Random(seed)
        self._armed: list[_Armed] = []
        self.fired: Counter[str] = Counter()
        """How often each kind has struck since the start."""
        self.add(faults)

    @property
    def armed(self) -> list[Fault]:
        """What is set and not used up."""
        return [armed.fault for armed in self._armed if armed.left != 0]

    def replace(self, faults: Iterable[Fault]) -> None:
        self._armed.clear()
        self.add(faults)

    def add(self, faults: Iterable[Fault]) -> None:
        self._armed.extend(_Armed(fault, fault.times) for fault in faults)

    def strike(
        self, endpoint: Endpoint, subject: str, *, has_product: Callable[[str], bool] | None = None
    ) -> Fault | None:
        """The fault of this call, if any; the first that is drawn. `subject`: the external id, the A1_CGC, or the
        read's whole `where`. `has_product`: whether a read of stock would give this product's row."""
        for armed in self._armed:
            fault = armed.fault
            if armed.left == 0 or not fault.applies_to(endpoint) or not _matches(fault, endpoint, subject, has_product):
                continue
            if self._random.random() < fault.probability:
                if armed.left is not None:
                    armed.left -= 1
                self.fired[fault.kind] += 1
                return fault
        return None


def _matches(fault: Fault, endpoint: Endpoint, subject: str, has_product: Callable[[str], bool] | None) -> bool:
    if not fault.matching:
        return True
    if fault.kind == "rows_missing" and has_product is not None:
        # A page holds more products than its `where` names.
        return has_product(fault.matching)
    return fault.matching in subject if endpoint == "read" else fault.matching == subject
