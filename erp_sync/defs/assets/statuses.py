"""What becomes of the orders in the ERP, and what the shop knows of it."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` itself.
from collections.abc import Callable
from typing import TYPE_CHECKING

import dagster as dg

from erp_sync.defs.assets.metadata import at_work, columns, minutes_since
from erp_sync.defs.names import ERP_ORDER_STATUS, ERP_ORDERS, OWNERS, SHOP_ORDER_STATUS
from erp_sync.defs.resources import ErpSync
from erp_sync.models import OrderStatus
from erp_sync.order_status import STATUS_LINEAGE
from erp_sync.sync.watch import HEARTBEAT_SECONDS

if TYPE_CHECKING:
    from erp_sync.sync.connections import Connections
    from erp_sync.sync.results import StatusesResult
    from erp_sync.sync.statuses import StatusesFlow


def erp_order_status() -> dg.AssetsDefinition:
    status_fields = sorted({field for group in STATUS_LINEAGE.values() for field in group})

    @dg.asset(
        key=ERP_ORDER_STATUS,
        deps=[ERP_ORDERS],
        pool="erp_statuses",
        group_name="orders",
        owners=OWNERS,
        kinds={"protheus"},
        description=(
            "What became of the orders that the ERP has: released, blocked, invoiced, delivered, cancelled. No "
            "history but a state: each run asks for the orders whose turn it is, and cancels what the shop cancelled."
        ),
        metadata={"dagster/column_schema": columns(status_fields, "field of the ERP")},
    )
    def order_status(
        context: dg.AssetExecutionContext, erp_sync: dg.ResourceParam[ErpSync]
    ) -> dg.MaterializeResult[None]:
        with at_work(context):
            connections, result = _statuses(context, erp_sync, lambda flow: flow.ask())
            ledger = connections.ledger
            counts = ledger.status_counts()
            return dg.MaterializeResult(
                metadata={
                    "orders_asked": result.asked,
                    "orders_changed": result.changed,
                    "orders_cancelled": result.cancelled,
                    "orders_too_late_to_cancel": result.too_late,
                    "cancellations_refused": result.cancel_refused,
                    **{f"now_{status}": counts.get(status, 0) for status in OrderStatus},
                    "now_not_asked_yet": counts.get(None, 0),
                    "now_watched": sum(counts.values()),
                    "longest_overdue_minutes": minutes_since(ledger.oldest_overdue()),
                }
            )

    return order_status


def shop_order_status() -> dg.AssetsDefinition:
    @dg.asset(
        key=SHOP_ORDER_STATUS,
        deps=[ERP_ORDER_STATUS],
        pool="erp_statuses",
        group_name="orders",
        owners=OWNERS,
        kinds={"mysql"},
        description="The shop's status of each order, with invoice and NF-e key, as the profile's [status] maps it.",
        metadata={
            "dagster/column_schema": columns(sorted(STATUS_LINEAGE), "parameter of [status] write"),
            "dagster/column_lineage": dg.TableColumnLineage(
                {
                    column: [dg.TableColumnDep(ERP_ORDER_STATUS, field) for field in group]
                    for column, group in sorted(STATUS_LINEAGE.items())
                }
            ),
        },
    )
    def order_status(
        context: dg.AssetExecutionContext, erp_sync: dg.ResourceParam[ErpSync]
    ) -> dg.MaterializeResult[None]:
        with at_work(context):
            connections, result = _statuses(context, erp_sync, lambda flow: flow.tell())
            return dg.MaterializeResult(
                metadata={
                    "orders_told": result.told,
                    "orders_left_alone": result.kept,
                    "now_untold": connections.ledger.untold(),
                    "oldest_unconfirmed_minutes": minutes_since(connections.ledger.oldest_untold()),
                }
            )

    return order_status


def _statuses(
    context: dg.AssetExecutionContext, erp_sync: ErpSync, half: "Callable[[StatusesFlow], StatusesResult]"
) -> "tuple[Connections, StatusesResult]":
    """One half of the statuses flow. Raises why the system failed."""
    connections = erp_sync.connections()
    with connections.ledger.heartbeat(context.run.run_id, "statuses", [], every=HEARTBEAT_SECONDS):
        result = half(connections.statuses_flow())
    if result.failure is not None:
        raise result.failure
    return connections, result
