"""Every night what was kept long enough goes, from Dagster's storage and from the ledger."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` itself.
from datetime import timedelta

import dagster as dg

from erp_sync.defs.history import Ages, History, HistoryPurged
from erp_sync.defs.names import RETENTION_JOB, RETENTION_TAGS
from erp_sync.defs.red import red
from erp_sync.defs.resources import ErpSync
from erp_sync.settings import Settings

HISTORY_SECONDS = 600.0
LEDGER_SECONDS = 120.0
LOG_EVERY = 1000


def retention_job(settings: Settings) -> dg.JobDefinition:
    """No assets: nothing is made of it. The two steps do not wait for each other, so the ledger may be away."""
    kept = settings.retention

    @dg.op(pool="retention", ins={}, out=dg.Out(dg.Nothing), description="Old runs and events of Dagster's storage.")
    def purge_history(context: dg.OpExecutionContext) -> None:
        ages = Ages(succeeded=timedelta(days=kept.run_days), failed=timedelta(days=kept.failed_run_days))

        def progress(purged: HistoryPurged) -> None:
            if purged.runs % LOG_EVERY == 0:
                context.log.info("%d runs deleted, %d to go", purged.runs, purged.runs_left)

        purged = History(context.instance).purge(ages, budget=HISTORY_SECONDS, progress=progress)
        context.add_output_metadata(
            {
                "runs_deleted": purged.runs,
                "runs_left_for_the_next_night": purged.runs_left,
                "runs_kept_as_the_last_of_their_kind": purged.runs_kept,
                "runless_events_deleted": purged.runless_events,
                "stray_runs_deleted": purged.stray_runs,
                "megabytes_freed": round(purged.bytes_freed / 1e6, 1),
            }
        )

    @dg.op(pool="retention", ins={}, out=dg.Out(dg.Nothing), description="Routine steps of orders long final.")
    def purge_ledger(context: dg.OpExecutionContext, erp_sync: dg.ResourceParam[ErpSync]) -> None:
        from erp_sync.sync.retention import purge_ledger as purge

        try:
            connections = erp_sync.connections()
            purged = purge(connections.ledger, connections.settings, budget=LEDGER_SECONDS)
        except Exception as error:
            raise red(error) from None
        context.add_output_metadata(
            {
                "orders_shortened": purged.orders,
                "steps_deleted": purged.steps,
                "every_order_was_looked_at": purged.complete,
                **{f"{table}_rows_deleted": count for table, count in purged.rows.items()},
            }
        )

    @dg.job(
        name=RETENTION_JOB,
        tags=RETENTION_TAGS,
        description="Deletes what was kept long enough ([retention] of the settings); orders themselves stay.",
    )
    def retention() -> None:
        purge_history()
        purge_ledger()

    return retention


def every_night(job: dg.JobDefinition, timezone: str) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name="retention",
        job=job,
        cron_schedule="10 4 * * *",  # after the night's sweep of the shop, before anybody is up
        execution_timezone=timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Deletes what was kept long enough; what it has no time for goes the next night.",
    )
