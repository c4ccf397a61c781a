"""By the clock: yesterday is materialized every night, with zeros if nothing was sold, after a sweep of the shop."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg

from erp_sync.defs.assets import RUN_TAGS, SWEEP_TAG


def yesterday(job: dg.UnresolvedAssetJobDefinition, days: dg.DailyPartitionsDefinition) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="yesterdays_orders",
        job=job,
        cron_schedule="30 2 * * *",
        execution_timezone=str(days.timezone),
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Looks at every order of the shop, then sends what is still due of yesterday.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        day = (context.scheduled_execution_time - timedelta(days=1)).date().isoformat()
        return dg.RunRequest(partition_key=day, tags={**RUN_TAGS, SWEEP_TAG: "all"})

    return schedule
