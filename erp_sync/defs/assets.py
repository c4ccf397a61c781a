"""What analysts see: the shop's orders and what becomes of them in the ERP."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg

from erp_sync.defs.resources import ErpSync
from erp_sync.errors import Misconfigured
from erp_sync.mapping import COLUMN_LINEAGE
from erp_sync.models import LedgerState
from erp_sync.sync.orders import OrdersResult, Window
from erp_sync.sync.watch import HEARTBEAT_SECONDS

SHOP_ORDERS = dg.AssetKey(["shop", "orders"])
ERP_ORDERS = dg.AssetKey(["erp", "orders"])
FLOW_TAG = "erp_sync/flow"
LINGER_TAG = "erp_sync/linger"
SWEEP_TAG = "erp_sync/sweep"
RUN_TAGS = {FLOW_TAG: "orders", "dagster/max_runtime": "300"}
OWNERS = ["team:integration"]
DAYS_PER_RUN = 7


def shop_orders(days: dg.DailyPartitionsDefinition) -> dg.AssetSpec:
    columns = sorted({column for sources in COLUMN_LINEAGE.values() for column in sources})
    return dg.AssetSpec(
        SHOP_ORDERS,
        description="Orders of the shop's database as the profile reads them, by business day. Never written.",
        partitions_def=days,
        group_name="orders",
        owners=OWNERS,
        kinds={"mysql"},
        metadata={
            "dagster/column_schema": dg.TableSchema([dg.TableColumn(column, "canonical column") for column in columns])
        },
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
        metadata={"dagster/column_lineage": _column_lineage(), "dagster/table_name": "SC5"},
    )
    def orders(context: dg.AssetExecutionContext, erp_sync: ErpSync) -> None:
        _materialize(context, erp_sync, [date.fromisoformat(key) for key in context.partition_keys])

    return orders


def _materialize(context: dg.AssetExecutionContext, erp_sync: ErpSync, days: Sequence[date]) -> None:
    try:
        connections = erp_sync.connections()
    except Misconfigured as error:
        raise dg.Failure(description=str(error)) from None
    lingers = LINGER_TAG in context.run.tags
    with connections.ledger.heartbeat(context.run_id, "orders", days, every=HEARTBEAT_SECONDS):
        result = connections.orders_flow().run(
            Window(days=days),
            sweep=True if SWEEP_TAG in context.run.tags else None,
            linger=connections.settings.orders.linger_seconds if lingers else 0.0,
            leave=lambda: _another_run_waits(context.instance),
        )
    if result.failure is not None:
        raise dg.Failure(description=str(result.failure))
    for day in days:
        counts = connections.ledger.counts(day)
        oldest = connections.ledger.oldest_unsent(day)
        context.add_asset_metadata(_metadata(result, day, counts, oldest), partition_key=day.isoformat())


def _metadata(
    result: OrdersResult, day: date, counts: dict[LedgerState, int], oldest: datetime | None
) -> dict[str, Any]:
    """Figures that plot: what this run did for the day, and what the ledger says of the day now."""
    done = result.days[day]
    waited = (datetime.now(UTC) - oldest).total_seconds() / 60 if oldest is not None else 0.0
    return {
        "orders_sent": done.sent,
        "orders_adopted": done.adopted,
        "orders_refused": done.refused,
        "orders_invalid": done.invalid,
        "orders_due": counts.get(LedgerState.DUE, 0),
        "orders_in_doubt": counts.get(LedgerState.IN_DOUBT, 0) + counts.get(LedgerState.SENDING, 0),
        "day_sent": counts.get(LedgerState.SENT, 0),
        "day_refused": counts.get(LedgerState.REFUSED, 0),
        "day_invalid": counts.get(LedgerState.INVALID, 0),
        "oldest_unsent_minutes": round(max(waited, 0.0), 1),
        "erp_p95_ms": round(result.p95_milliseconds(), 1),
    }


def _another_run_waits(instance: dg.DagsterInstance) -> bool:
    """A queued run of this flow cannot start before this one leaves: they share a pool of one."""
    queued = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]), limit=50)
    return any(run.asset_selection is None or ERP_ORDERS in run.asset_selection for run in queued)


def _column_lineage() -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {
            field: [dg.TableColumnDep(SHOP_ORDERS, column) for column in sources]
            for field, sources in sorted(COLUMN_LINEAGE.items())
        }
    )
