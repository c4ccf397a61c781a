"""The jobs that sensor and schedules start. No check runs in a flow's job: one that cannot look would paint it red."""

from __future__ import annotations

import dagster as dg

from erp_sync.defs.names import (
    AGREES,
    ERP_ORDER_STATUS,
    ERP_ORDERS,
    HEALTH_RECONCILIATION,
    ORDERS_JOB,
    RECONCILIATION_JOB,
    RECONCILIATION_TAGS,
    RUN_TAGS,
    SHOP_ORDER_STATUS,
    SHOP_STOCK_LEVELS,
    STATUSES_JOB,
    STATUSES_TAGS,
    STOCK_JOB,
    STOCK_TAGS,
)


def orders_job() -> dg.UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        ORDERS_JOB,
        selection=dg.AssetSelection.assets(ERP_ORDERS).without_checks(),
        tags=RUN_TAGS,
        description="Sends the finalized orders of a business day to the ERP.",
    )


def statuses_job() -> dg.UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        STATUSES_JOB,
        selection=dg.AssetSelection.assets(ERP_ORDER_STATUS, SHOP_ORDER_STATUS).without_checks(),
        tags=STATUSES_TAGS,
        description="Asks the ERP what became of the orders it has, cancels what the shop cancelled, tells the shop.",
    )


def stock_job() -> dg.UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        STOCK_JOB,
        selection=dg.AssetSelection.assets(SHOP_STOCK_LEVELS).without_checks(),
        tags=STOCK_TAGS,
        description="Reads the ERP's stock and writes what may be sold to the shop.",
    )


def reconciliation_job() -> dg.UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        RECONCILIATION_JOB,
        selection=(
            dg.AssetSelection.assets(HEALTH_RECONCILIATION).without_checks()
            | dg.AssetSelection.checks(dg.AssetCheckKey(HEALTH_RECONCILIATION, AGREES))
        ),
        tags=RECONCILIATION_TAGS,
        description="Compares shop, ledger and ERP order by order, business day by business day.",
    )
