"""The job that sensor and schedule start."""

from __future__ import annotations

import dagster as dg

from erp_sync.defs.names import ERP_ORDERS, ORDERS_JOB, RUN_TAGS


def orders_job() -> dg.UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        ORDERS_JOB,
        selection=dg.AssetSelection.assets(ERP_ORDERS),
        tags=RUN_TAGS,
        description="Sends the finalized orders of a business day to the ERP.",
    )
