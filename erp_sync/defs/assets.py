"""What analysts see: the shop's orders, what becomes of them in the ERP, and what the shop knows of it."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` itself.
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from erp_sync.defs.names import (
    ERP_ORDER_STATUS,
    ERP_ORDERS,
    ERP_STOCK_BALANCES,
    LINGER_TAG,
    OWNERS,
    SHOP_ORDER_STATUS,
    SHOP_ORDERS,
    SHOP_STOCK_LEVELS,
    SWEEP_TAG,
)
from erp_sync.defs.resources import ErpSync
from erp_sync.defs.runs import another_waits
from erp_sync.errors import ErpSyncError
from erp_sync.mapping import COLUMN_LINEAGE
from erp_sync.models import LedgerState, OrderStatus
from erp_sync.order_status import STATUS_LINEAGE
from erp_sync.stock_formula import fields
from erp_sync.sync.results import StockChange
from erp_sync.sync.watch import HEARTBEAT_SECONDS

if TYPE_CHECKING:
    from erp_sync.sync.connections import Connections
    from erp_sync.sync.results import OrdersResult, StatusesResult, StockResult
    from erp_sync.sync.statuses import StatusesFlow

DAYS_PER_RUN = 7
"""A range run that fails marks none of its days as done."""


def shop_orders(days: dg.DailyPartitionsDefinition) -> dg.AssetSpec:
    columns = sorted({column for sources in COLUMN_LINEAGE.values() for column in sources})
    return dg.AssetSpec(
        SHOP_ORDERS,
        description="Orders of the shop's database as the profile reads them, by business day. Never written.",
        partitions_def=days,
        group_name="orders",
        owners=OWNERS,
        kinds={"mysql"},
        metadata={"dagster/column_schema": _columns(columns, "canonical column of the shop profile")},
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
            "dagster/column_schema": _columns(sorted(COLUMN_LINEAGE), "field of the ERP"),
            "dagster/column_lineage": _column_lineage(),
        },
    )
    def orders(context: dg.AssetExecutionContext, erp_sync: dg.ResourceParam[ErpSync]) -> None:
        days = [date.fromisoformat(key) for key in context.partition_keys]
        try:
            connections = erp_sync.connections()
            result = _send(context, connections, days)
            if result.failure is None:
                for day in days:
                    _report(context, connections, result, day)
                return
            failure = result.failure
        except ErpSyncError as error:
            failure = error
        raise _red(failure)

    return orders


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
        metadata={"dagster/column_schema": _columns(status_fields, "field of the ERP")},
    )
    def order_status(
        context: dg.AssetExecutionContext, erp_sync: dg.ResourceParam[ErpSync]
    ) -> dg.MaterializeResult[None]:
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
                "longest_overdue_minutes": _minutes_since(ledger.oldest_overdue()),
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
            "dagster/column_schema": _columns(sorted(STATUS_LINEAGE), "parameter of [status] write"),
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
        connections, result = _statuses(context, erp_sync, lambda flow: flow.tell())
        return dg.MaterializeResult(
            metadata={
                "orders_told": result.told,
                "orders_left_alone": result.kept,
                "now_untold": connections.ledger.untold(),
                "oldest_unconfirmed_minutes": _minutes_since(connections.ledger.oldest_untold()),
            }
        )

    return order_status


def erp_stock_balances() -> dg.AssetSpec:
    return dg.AssetSpec(
        ERP_STOCK_BALANCES,
        description="The ERP's stock balances (SB2) in the configured warehouses, as each stock run reads them.",
        group_name="stock",
        owners=OWNERS,
        kinds={"protheus"},
        metadata={"dagster/table_name": "SB2", "dagster/column_schema": _columns(_STOCK_FIELDS, "field of the ERP")},
    )


def shop_stock_levels() -> dg.AssetsDefinition:
    @dg.asset(
        key=SHOP_STOCK_LEVELS,
        deps=[ERP_STOCK_BALANCES],
        pool="erp_stock",
        group_name="stock",
        owners=OWNERS,
        kinds={"mysql"},
        description=(
            "What the shop may sell: the ERP's available balance, less what is sold and not yet counted there, less "
            "the buffer. Only stocks that differ are written, and only up by a fresh figure."
        ),
        metadata={
            "dagster/column_schema": _columns(["quantity"], "parameter of [stock] write"),
            "dagster/column_lineage": dg.TableColumnLineage(
                {"quantity": [dg.TableColumnDep(ERP_STOCK_BALANCES, field) for field in _STOCK_FIELDS]}
            ),
        },
    )
    def stock_levels(
        context: dg.AssetExecutionContext, erp_sync: dg.ResourceParam[ErpSync]
    ) -> dg.MaterializeResult[None]:
        try:
            connections = erp_sync.connections()
            with connections.ledger.heartbeat(context.run.run_id, "stock", [], every=HEARTBEAT_SECONDS):
                result = connections.stock_flow().run()
        except ErpSyncError as error:
            raise _red(error) from None
        if result.read_at is not None:
            read_at = dg.MetadataValue.timestamp(result.read_at)
            seen = dg.AssetObservation(ERP_STOCK_BALANCES, metadata={"products": result.skus, "read_at": read_at})
            context.log_event(seen)
        if result.failure is not None:
            raise _red(result.failure)
        return dg.MaterializeResult(metadata=_stock_figures(result))

    return stock_levels


_STOCK_FIELDS = sorted(fields("standard", subtract_open_orders=True))


def _stock_figures(result: "StockResult") -> dict[str, Any]:
    read = result.read_at
    table = dg.TableSchema(
        [dg.TableColumn(name, "string" if name in ("sku", "warehouse") else "int") for name in StockChange.__slots__]
    )
    changes = [dg.TableRecord(asdict(change)) for change in result.changes]
    return {
        "products_in_erp": result.skus,
        "stocks_in_shop": result.found,
        "products_unknown_to_shop": result.unknown,
        "products_ambiguous_in_shop": result.ambiguous,
        "stocks_different": result.different,
        "stocks_written": result.written,
        "stocks_raised": result.raised,
        "stocks_lowered": result.lowered,
        "stocks_held_back": result.held_back,
        "stocks_failed": result.failed,
        "in_flight_orders": result.in_flight_orders,
        "in_flight_units": result.in_flight_units,
        "figures_age_seconds": round((datetime.now(UTC) - read).total_seconds(), 1) if read is not None else 0.0,
        "largest_changes": dg.MetadataValue.table(changes, table),
        "examples": dg.MetadataValue.json({kind: list(skus) for kind, skus in result.examples.items()}),
        "stopped_by_guard": result.guard or "no",
    }


def _statuses(
    context: dg.AssetExecutionContext, erp_sync: ErpSync, half: "Callable[[StatusesFlow], StatusesResult]"
) -> "tuple[Connections, StatusesResult]":
    """One half of the statuses flow. Raises Failure where the system failed."""
    try:
        connections = erp_sync.connections()
        with connections.ledger.heartbeat(context.run.run_id, "statuses", [], every=HEARTBEAT_SECONDS):
            result = half(connections.statuses_flow())
    except ErpSyncError as error:
        raise _red(error) from None
    if result.failure is not None:
        raise _red(result.failure)
    return connections, result


def _red(failure: ErpSyncError) -> dg.Failure:
    """The cause alone, in one line: a stack trace of ours tells operators nothing."""
    return dg.Failure(description=failure.in_full(), metadata={"cause": type(failure).__name__})


def _minutes_since(moment: datetime | None) -> float:
    """0.0 where there is none."""
    return round(max((datetime.now(UTC) - moment).total_seconds() / 60, 0.0), 1) if moment is not None else 0.0


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
            "oldest_unsent_minutes": _minutes_since(connections.ledger.oldest_unsent(day)),
            "erp_p95_ms": round(result.p95_milliseconds(), 1),
        },
        partition_key=day.isoformat(),
    )


def _columns(names: Sequence[str], meaning: str) -> dg.TableSchema:
    return dg.TableSchema([dg.TableColumn(name, description=meaning) for name in names])


def _column_lineage() -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {
            field: [dg.TableColumnDep(SHOP_ORDERS, column) for column in sources]
            for field, sources in sorted(COLUMN_LINEAGE.items())
        }
    )
