"""By the clock: every few minutes what became of the orders; every night, after a sweep of the shop, yesterday, with
zeros if nothing was sold."""

# No `from __future__ import annotations`: Dagster looks at the annotations themselves.

from datetime import timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from erp_sync.defs.names import RECONCILIATION_TAGS, RUN_TAGS, STATUSES_TAGS, STOCK_TAGS, SWEEP_TAG
from erp_sync.defs.red import redacted
from erp_sync.defs.resources import ErpSync
from erp_sync.defs.runs import is_on


def yesterday(job: "dg.UnresolvedAssetJobDefinition", days: dg.DailyPartitionsDefinition) -> dg.ScheduleDefinition:
    zone = ZoneInfo(str(days.timezone))

    @dg.schedule(
        name="yesterdays_orders",
        job=job,
        cron_schedule="30 2 * * *",
        execution_timezone=zone.key,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Looks at every order of the shop, then sends what is still due of yesterday.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        today = context.scheduled_execution_time.astimezone(zone).date()
        day = (today - timedelta(days=1)).isoformat()
        return dg.RunRequest(partition_key=day, tags={**RUN_TAGS, SWEEP_TAG: "all"})

    return schedule


def last_days(
    job: "dg.UnresolvedAssetJobDefinition", days: dg.DailyPartitionsDefinition, count: int
) -> dg.ScheduleDefinition:
    zone = ZoneInfo(str(days.timezone))

    @dg.schedule(
        name="reconciliation_of_last_days",
        job=job,
        cron_schedule="30 3 * * *",
        execution_timezone=zone.key,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="After the night's sweep, compares shop and ERP over the last business days.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        today = context.scheduled_execution_time.astimezone(zone).date()
        keys = [(today - timedelta(days=back)).isoformat() for back in range(count, 0, -1)]
        known = [key for key in keys if days.has_partition_key(key)]
        if not known:
            return dg.SkipReason("no business day is over yet")
        span = {
            "dagster/asset_partition_range_start": known[0],
            "dagster/asset_partition_range_end": known[-1],
        }
        return dg.RunRequest(tags={**RECONCILIATION_TAGS, **span})

    return schedule


def order_statuses(job: "dg.UnresolvedAssetJobDefinition", every_minutes: int) -> dg.ScheduleDefinition:
    what = "Asks the ERP what became of orders"
    return _every(every_minutes, job, "statuses", name="order_statuses", tags=STATUSES_TAGS, what=what)


def stock_levels(job: "dg.UnresolvedAssetJobDefinition", every_minutes: int) -> dg.ScheduleDefinition:
    what = "Lets the shop's stock follow the ERP's"
    return _every(every_minutes, job, "stock", name="stock_levels", tags=STOCK_TAGS, what=what)


def ledger_checks_schedule(job: "dg.UnresolvedAssetJobDefinition") -> dg.ScheduleDefinition:
    """Between the flows' own schedules: they start a process each."""
    return dg.ScheduleDefinition(
        name="ledger_checks",
        job=job,
        cron_schedule="2-59/5 * * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Asks every five minutes how the ledger stands. Alerts do not wait for it.",
    )


def inspection_schedule(job: "dg.UnresolvedAssetJobDefinition") -> dg.ScheduleDefinition:
    @dg.schedule(
        name="inspection",
        job=job,
        cron_schedule="13,43 * * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Looks into shop and ERP for what will go wrong next, unless the ERP is down.",
    )
    def schedule(erp_sync: dg.ResourceParam[ErpSync]) -> dg.RunRequest | dg.SkipReason:
        with redacted():
            open_until = erp_sync.connections().gate.breaker_open()
        if open_until is not None:
            return dg.SkipReason(f"the ERP does not answer; the next probe is at {open_until:%H:%M:%S} UTC")
        return dg.RunRequest()

    return schedule


def _every(
    minutes: int, job: "dg.UnresolvedAssetJobDefinition", flow: str, *, name: str, tags: dict[str, str], what: str
) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=name,
        job=job,
        cron_schedule=f"*/{minutes} * * * *" if minutes < 60 else "0 * * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"{what}, unless the ERP is down or the last pass is still at it.",
    )
    def schedule(
        context: dg.ScheduleEvaluationContext, erp_sync: dg.ResourceParam[ErpSync]
    ) -> dg.RunRequest | dg.SkipReason:
        with redacted():
            connections = erp_sync.connections()
            if flow == "stock" and connections.shop_stock is None:
                return dg.SkipReason(f"profile {connections.shop.profile.name} has no [stock] block")
            open_until = connections.gate.breaker_open()
            if open_until is not None and not connections.gate.probe_is_due():
                return dg.SkipReason(f"the ERP does not answer; the next probe is at {open_until:%H:%M:%S} UTC")
            if is_on(context.instance, flow):
                return dg.SkipReason("the last pass is still at work")
            return dg.RunRequest(tags=tags)

    return schedule
