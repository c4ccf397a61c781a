"""By the clock: yesterday is materialized every night, with zeros if nothing was sold, after a sweep of the shop."""

from datetime import timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from erp_sync.defs.names import RUN_TAGS, SWEEP_TAG


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
