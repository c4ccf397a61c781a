"""The ERP's stock balances, and what the shop may sell of them."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` itself.
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from erp_sync.defs.assets.metadata import at_work, columns
from erp_sync.defs.names import ERP_STOCK_BALANCES, OWNERS, SHOP_STOCK_LEVELS
from erp_sync.defs.resources import ErpSync
from erp_sync.stock_formula import fields
from erp_sync.sync.results import StockChange
from erp_sync.sync.watch import HEARTBEAT_SECONDS

if TYPE_CHECKING:
    import pandas as pd

    from erp_sync.sync.results import StockResult


_STOCK_FIELDS = sorted(fields("standard", subtract_open_orders=True))


def erp_stock_balances() -> dg.AssetSpec:
    return dg.AssetSpec(
        ERP_STOCK_BALANCES,
        description="The ERP's stock balances (SB2) in the configured warehouses, as each stock run reads them.",
        group_name="stock",
        owners=OWNERS,
        kinds={"protheus"},
        metadata={"dagster/table_name": "SB2", "dagster/column_schema": columns(_STOCK_FIELDS, "field of the ERP")},
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
            "dagster/column_schema": columns(["quantity"], "parameter of [stock] write"),
            "dagster/column_lineage": dg.TableColumnLineage(
                {"quantity": [dg.TableColumnDep(ERP_STOCK_BALANCES, field) for field in _STOCK_FIELDS]}
            ),
        },
    )
    def stock_levels(
        context: dg.AssetExecutionContext, erp_sync: dg.ResourceParam[ErpSync]
    ) -> dg.MaterializeResult[None]:
        with at_work(context):
            connections = erp_sync.connections()
            with connections.ledger.heartbeat(context.run.run_id, "stock", [], every=HEARTBEAT_SECONDS):
                result = connections.stock_flow().run()
            if result.read_at is not None:
                read_at = dg.MetadataValue.timestamp(result.read_at)
                seen = dg.AssetObservation(ERP_STOCK_BALANCES, metadata={"products": result.skus, "read_at": read_at})
                context.log_event(seen)
            if result.failure is not None:
                raise result.failure
            return dg.MaterializeResult(metadata=_stock_figures(result))

    return stock_levels


def _largest_changes(result: "StockResult") -> dg.TableMetadataValue:
    import pandas as pd

    changes = pd.DataFrame(map(asdict, result.changes), columns=list(StockChange.__slots__))
    return _table(changes.assign(change=changes["after"] - changes["before"]))


def _examples(result: "StockResult") -> dg.TableMetadataValue:
    """Side by side, what each kind of trouble is about."""
    import pandas as pd

    return _table(pd.DataFrame({kind: pd.Series(skus, dtype=object) for kind, skus in result.examples.items() if skus}))


def _table(frame: "pd.DataFrame") -> dg.TableMetadataValue:
    texts = frame.select_dtypes(exclude="number").columns
    columns = [dg.TableColumn(str(name), "string" if name in texts else "int") for name in frame]
    rows = frame.fillna("").to_dict("records")
    records = [dg.TableRecord({str(name): value for name, value in row.items()}) for row in rows]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))


def _stock_figures(result: "StockResult") -> dict[str, Any]:
    read = result.read_at
    return {
        "products_in_erp": result.skus,
        "stocks_in_shop": result.found,
        "products_unknown_to_shop": result.unknown,
        "products_unknown_to_erp": result.unknown_to_erp,
        "products_asked_by_name": result.asked_by_name,
        "products_without_a_row": result.zero_by_name,
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
        "largest_changes": _largest_changes(result),
        "examples": _examples(result),
        "stopped_by_guard": result.guard or "no",
        "differences_csv": result.csv_problem or "no problem",
    }
