"""All that Dagster may see."""

from __future__ import annotations

import warnings

import dagster as dg

from erp_sync.defs.alarms import alarms
from erp_sync.defs.assets.health import every_order_agrees, health_reconciliation
from erp_sync.defs.assets.orders import erp_orders, shop_orders
from erp_sync.defs.assets.statuses import erp_order_status, shop_order_status
from erp_sync.defs.assets.stock import erp_stock_balances, shop_stock_levels
from erp_sync.defs.checks import checks_job, inspection_checks, inspection_job, ledger_checks
from erp_sync.defs.daily_doctor import doctor_check, doctor_job, doctor_schedule
from erp_sync.defs.freshness import with_freshness
from erp_sync.defs.jobs import orders_job, reconciliation_job, statuses_job, stock_job
from erp_sync.defs.partitions import business_days
from erp_sync.defs.resources import ErpSync
from erp_sync.defs.retention import every_night, retention_job
from erp_sync.defs.schedules import (
    inspection_schedule,
    last_days,
    ledger_checks_schedule,
    order_statuses,
    stock_levels,
    yesterday,
)
from erp_sync.defs.sensors import finalized_orders
from erp_sync.logs import configure_logs
from erp_sync.settings import Settings, load_settings


def build_definitions(settings: Settings | None = None, erp_sync: ErpSync | None = None) -> dg.Definitions:
    """The code location for these settings, by default those of the process.

    Raises Misconfigured for a setting or a profile that is wrong; needs no secret and opens no connection.
    """
    settings = settings or load_settings()
    days = business_days(settings)
    job, statuses, stock, reconciliation = orders_job(), statuses_job(), stock_job(), reconciliation_job()
    checks, inspection, retention = checks_job(), inspection_job(), retention_job(settings)
    doctor = doctor_job()
    with warnings.catch_warnings():
        # Backfill policies and code references are in beta, and wanted: what is deprecated still warns.
        warnings.simplefilter("ignore", dg.BetaWarning)
        made: list[dg.AssetsDefinition | dg.AssetSpec] = [
            *(shop_orders(days), erp_orders(days), erp_order_status(), shop_order_status()),
            *(erp_stock_balances(), shop_stock_levels()),
            health_reconciliation(days),
        ]
        assets = dg.with_source_code_references(with_freshness(made, settings))
    return dg.Definitions(
        assets=assets,
        asset_checks=[ledger_checks(), inspection_checks(), every_order_agrees(), doctor_check(build_definitions)],
        jobs=[job, statuses, stock, reconciliation, checks, inspection, retention, doctor],
        schedules=[
            yesterday(job, days),
            order_statuses(statuses, settings.statuses.every_minutes),
            stock_levels(stock, settings.stock.every_minutes),
            ledger_checks_schedule(checks),
            inspection_schedule(inspection),
            last_days(reconciliation, days, settings.reconcile.days),
            every_night(retention, str(days.timezone)),
            doctor_schedule(doctor, str(days.timezone)),
        ],
        sensors=[finalized_orders(job, days), alarms(settings)],
        resources={"erp_sync": erp_sync or ErpSync()},
        executor=dg.in_process_executor,
    )


def _of_this_process() -> dg.Definitions:
    settings = load_settings()
    logs = settings.logs
    configure_logs(
        logs.format or "json",
        level=logs.threshold,
        environment=logs.environment,
        cloudwatch_group=logs.cloudwatch_group,
    )
    warnings.filterwarnings("ignore", message="Handling yaml-defined logging configuration")
    return build_definitions(settings)


defs = _of_this_process()
