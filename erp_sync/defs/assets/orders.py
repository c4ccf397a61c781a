"""The shop's orders, by business day, and what is sent of them."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` itself.
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg

from erp_sync.defs.assets.metadata import at_work, columns, minutes_since
from erp_sync.defs.names import ERP_ORDERS, LINGER_TAG, OWNERS, SHOP_ORDERS, SWEEP_TAG
from erp_sync.defs.resources import ErpSync
from erp_sync.defs.runs import another_waits
from erp_sync.mapping import COLUMN_LINEAGE
from erp_sync.models import LedgerState
from erp_sync.sync.watch import HEARTBEAT_SECONDS

if TYPE_CHECKING:
    from erp_sync.sync.connections import Connections
    from erp_sync.sync.results import OrdersResult


DAYS_PER_RUN = 7
"""A range run that fails marks none of its days as done."""


def shop_orders(days: dg.DailyPartitionsDefinition) -> dg.AssetSpec:
    names = sorted({column for sources in COLUMN_LINEAGE.values() for column in sources})
    return dg.AssetSpec(
        SHOP_ORDERS,
        description="Orders of the shop's database as the profile reads them, by business day. Never written.",
        partitions_def=days,
        group_name="orders",
        owners=OWNERS,
        kinds={"mysql"},
        metadata={"dagster/column_schema": columns(names, "canonical column of the shop profile")},
    )


def erp_orders(days: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        key=ERP_ORDERS,
        deps=[SHOP_ORDERS],
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.multi_run(DAYS_PER_RUN),
        pool="erp_orders",
        group_name="orders",
        owners=OWNERS,
        kinds={"protheus"},
        description=(
            "Every order that the shop finalized, as a sales order (SC5, SC6) in Protheus, exactly once. "
            "Materializing a day sends what is due of that day and nothing else, however often."
        ),
        metadata={
            "dagster/table_name": "SC5",
            "dagster/column_schema": columns(sorted(COLUMN_LINEAGE), "field of the ERP"),
            "dagster/column_lineage": _column_lineage(),
        },
    )
    def orders(context: dg.AssetExecutionContext, erp_sync: dg.ResourceParam[ErpSync]) -> None:
        days = [date.fromisoformat(key) for key in context.partition_keys]
        with at_work(context):
            connections = erp_sync.connections()
            result = _send(context, connections, days)
            if result.failure is not None:
                raise result.failure
            for day in days:
                _report(context, connections, result, day)

    return orders


def _send(context: dg.AssetExecutionContext, connections: "Connections", days: Sequence[date]) -> "OrdersResult":
    from erp_sync.sync.pipeline import Window

    tags = context.run.tags
    with connections.ledger.heartbeat(context.run.run_id, "orders", days, every=HEARTBEAT_SECONDS):
        return connections.orders_flow().run(
            Window(days=days),
            sweep=True if tags.get(SWEEP_TAG) == "all" else None,
            linger=connections.settings.orders.linger_seconds if LINGER_TAG in tags else 0.0,
            leave=lambda: another_waits(context.instance),
        )


def _report(context: dg.AssetExecutionContext, connections: "Connections", result: "OrdersResult", day: date) -> None:
    """Figures that plot: what this run did for the day, and what the ledger says of the day now."""
    done = result.days[day]
    counts = connections.ledger.counts(day)
    sent = counts.get(LedgerState.SENT, 0)
    context.add_asset_metadata(
        {
            "orders_sent": done.sent,
            "orders_adopted": done.adopted,
            "orders_refused": done.refused,
            "orders_invalid": done.invalid,
            "orders_due": counts.get(LedgerState.DUE, 0),
            "orders_in_doubt": counts.get(LedgerState.IN_DOUBT, 0) + counts.get(LedgerState.SENDING, 0),
            "day_sent": sent,
            "day_refused": counts.get(LedgerState.REFUSED, 0),
            "day_invalid": counts.get(LedgerState.INVALID, 0),
            "dagster/partition_row_count": sent,
            "oldest_unsent_minutes": minutes_since(connections.ledger.oldest_unsent(day)),
            "erp_p95_ms": round(result.p95_milliseconds(), 1),
        },
        partition_key=day.isoformat(),
    )


def _column_lineage() -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {
            field: [dg.TableColumnDep(SHOP_ORDERS, column) for column in sources]
            for field, sources in sorted(COLUMN_LINEAGE.items())
        }
    )
