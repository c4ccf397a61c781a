"""All that Dagster may see."""

from __future__ import annotations

import warnings

import dagster as dg

from erp_sync.defs.assets.orders import erp_orders, shop_orders
from erp_sync.defs.assets.statuses import erp_order_status, shop_order_status
from erp_sync.defs.assets.stock import erp_stock_balances, shop_stock_levels
from erp_sync.defs.jobs import orders_job, statuses_job, stock_job
from erp_sync.defs.partitions import business_days
from erp_sync.defs.resources import ErpSync
from erp_sync.defs.retention import every_night, retention_job
from erp_sync.defs.schedules import order_statuses, stock_levels, yesterday
from erp_sync.defs.sensors import finalized_orders
from erp_sync.settings import Settings, load_settings


def build_definitions(settings: Settings | None = None, erp_sync: ErpSync | None = None) -> dg.Definitions:
    """The code location for these settings, by default those of the process.

    Raises Misconfigured for a setting or a profile that is wrong; needs no secret and opens no connection.
    """
    settings = settings or load_settings()
    days = business_days(settings)
    job, statuses, stock = orders_job(), statuses_job(), stock_job()
    retention = retention_job(settings)
    with warnings.catch_warnings():
        # Backfill policies and code references are in beta, and wanted: what is deprecated still warns.
        warnings.simplefilter("ignore", dg.BetaWarning)
        assets = dg.with_source_code_references(
            [
                *(shop_orders(days), erp_orders(days), erp_order_status(), shop_order_status()),
                *(erp_stock_balances(), shop_stock_levels()),
            ]
        )
    return dg.Definitions(
        assets=assets,
        jobs=[job, statuses, stock, retention],
        schedules=[
            yesterday(job, days),
            order_statuses(statuses, settings.statuses.every_minutes),
            stock_levels(stock, settings.stock.every_minutes),
            every_night(retention, str(days.timezone)),
        ],
        sensors=[finalized_orders(job, days)],
        resources={"erp_sync": erp_sync or ErpSync()},
        executor=dg.in_process_executor,
    )


defs = build_definitions()
