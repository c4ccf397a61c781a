"""What the reconciliation keeps: of each business day its latest result, and nothing older."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import date
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from erp_sync.ledger.entries import CHUNK, as_entry, entry_columns
from erp_sync.ledger.entry import Entry
from erp_sync.ledger.part import LedgerPart
from erp_sync.ledger.reconciled_day import Finding, ReconciledDay, Verdict
from erp_sync.ledger.tables import entries, findings, reconciliations

_FINDING = [field.name for field in fields(Finding)]
_FIGURES = [field.name for field in fields(ReconciledDay) if field.name not in ("day", "statuses", "findings")]


class Reconciliations(LedgerPart):
    def of_day(self, day: date, limit: int, after: str = "") -> list[Entry]:
        """The orders of a business day, whatever became of them, by order id; the page `after` one."""
        query = select(*entry_columns).where(entries.c.day == day, entries.c.order_id > after)
        return [as_entry(row) for row in self._database.rows(query.order_by(entries.c.order_id).limit(limit))]

    def numbers_known(self, numbers: Sequence[str]) -> set[str]:
        """Those that some order of the ledger has."""
        known: set[str] = set()
        for start in range(0, len(numbers), CHUNK):
            query = select(entries.c.number).where(entries.c.number.in_(numbers[start : start + CHUNK]))
            known |= {row.number for row in self._database.rows(query)}
        return known

    def keep_reconciliation(self, result: ReconciledDay) -> None:
        """Replace what is known of the day, whole, in one transaction; of two at once the later commit stays."""
        figures: dict[str, Any] = {name: getattr(result, name) for name in _FIGURES}
        figures["statuses"] = json.dumps(result.statuses, sort_keys=True)
        rows = [
            {"day": result.day, "place": place, **{name: getattr(finding, name) for name in _FINDING}}
            for place, finding in enumerate(result.findings)
        ]

        def work(connection: Connection) -> None:
            # The day's own row first: two that write one day queue up there.
            own = reconciliations.c.day == result.day
            if connection.execute(select(reconciliations.c.day).where(own).with_for_update()).first() is None:
                # A row that is not there holds nobody up: another one may be as far.
                with suppress(IntegrityError), connection.begin_nested():
                    connection.execute(insert(reconciliations), {"day": result.day, **figures})
            connection.execute(update(reconciliations).where(own).values(figures))
            connection.execute(delete(findings).where(findings.c.day == result.day))
            for start in range(0, len(rows), CHUNK):
                connection.execute(insert(findings), rows[start : start + CHUNK])

        self._database.write(work)

    def reconciled(self, *, since: date | None = None, days: Sequence[date] | None = None) -> list[ReconciledDay]:
        """The days that were reconciled, the oldest first, with their findings. None: all."""
        query, found = select(reconciliations), select(findings)
        if since is not None:
            query, found = query.where(reconciliations.c.day >= since), found.where(findings.c.day >= since)
        if days is not None:
            query, found = query.where(reconciliations.c.day.in_(days)), found.where(findings.c.day.in_(days))
        results = {
            row.day: ReconciledDay(
                day=row.day, **{name: getattr(row, name) for name in _FIGURES}, statuses=json.loads(row.statuses)
            )
            for row in self._database.rows(query.order_by(reconciliations.c.day))
        }
        for row in self._database.rows(found.order_by(findings.c.day, findings.c.place)):
            if row.day in results:  # written between the two questions otherwise
                values = {name: getattr(row, name) for name in _FINDING}
                results[row.day].findings.append(Finding(**{**values, "verdict": Verdict(row.verdict)}))
        return list(results.values())
