"""Faults that make a good answer of a read a wrong one: what becomes of its page and its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from erp_sync.sandbox.config import Fault


@dataclass(frozen=True, slots=True)
class ReadFault:
    """What a fault, or none, does to one read."""

    fault: Fault | None = None

    @property
    def kind(self) -> str:
        return self.fault.kind if self.fault else ""

    @property
    def without(self) -> str:
        """The order or product whose rows are not seen; "": all are."""
        return self.fault.matching.rstrip(" ") if self.fault and self.fault.kind == "rows_missing" else ""

    def page(self, asked: int) -> int:
        return 1 if self.kind == "first_page_again" else asked

    @property
    def zeros(self) -> bool:
        """Numbers are 0, but those of records."""
        return self.kind == "zeros"

    def distort(self, rows: list[dict[str, Any]], branches: Sequence[str]) -> None:
        """What it adds at the end of the answer's rows."""
        if rows and self.kind == "rows_repeated":
            rows.append(rows[-1])
        if rows and self.kind == "other_branch_rows":
            rows.extend(_in_another_branch(rows[0], branches))


def _in_another_branch(row: dict[str, Any], branches: Sequence[str]) -> list[dict[str, Any]]:
    """Nothing where no field of a branch was asked for."""
    names = [name for name in row if name.upper().endswith("_FILIAL") or name == "branchId"]
    if not names:
        return []
    own = row[names[0]]
    other = next((branch for branch in branches if branch.rstrip() != own.rstrip()), "Z" * len(branches[0]))
    return [{**row, **dict.fromkeys(names, other.ljust(len(own)))}]
