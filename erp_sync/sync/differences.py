"""What a pass found different between shop and ERP: lines of a file while it lasts, and a CSV where it is wanted."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from erp_sync.sync.spreadsheet import inert, whole_file

FILE = "stock-differences.csv"
"""Its name where a directory is given."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One stock of the shop that is not what it should be."""

    sku: str
    warehouse: str
    available: Decimal
    buffer: int
    before: int
    after: int

    def line(self) -> str:
        return json.dumps([self.sku, self.warehouse, str(self.available), self.buffer, self.before, self.after]) + "\n"

    @classmethod
    def of(cls, line: str) -> Difference:
        sku, warehouse, available, buffer, before, after = json.loads(line)
        return cls(sku, warehouse, Decimal(available), buffer, before, after)


def write_csv(path: Path, differences: Iterable[Difference]) -> None:
    """All of them, row by row. Raises OSError."""
    path = path / FILE if path.is_dir() else path
    with whole_file(path, encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("sku", "warehouse", "available_in_erp", "buffer", "before", "after"))
        for each in differences:
            rows.writerow(
                (inert(each.sku), inert(each.warehouse), each.available, each.buffer, each.before, each.after)
            )
