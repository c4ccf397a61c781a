"""Orders placed before the day of going live that were still waiting then: they are sent when they become ready."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, insert, select

from erp_sync.ledger.part import LedgerPart
from erp_sync.ledger.tables import early_orders

CHUNK = 500


class EarlyOrders(LedgerPart):
    def early(self, order_ids: Sequence[str]) -> set[str]:
        """Those of `order_ids` that are remembered."""
        remembered: set[str] = set()
        for start in range(0, len(order_ids), CHUNK):
            query = select(early_orders.c.order_id).where(early_orders.c.order_id.in_(order_ids[start : start + CHUNK]))
            remembered |= {row.order_id for row in self._database.rows(query)}
        return remembered

    def remember_early(self, order_ids: Sequence[str]) -> None:
        """Harmless to repeat, also at the same moment elsewhere."""
        ignoring = (
            insert(early_orders).prefix_with("OR IGNORE", dialect="sqlite").prefix_with("IGNORE", dialect="mysql")
        )

        def work(connection: Connection) -> None:
            if order_ids:
                connection.execute(ignoring, [{"order_id": order_id} for order_id in order_ids])

        self._database.write(work)
