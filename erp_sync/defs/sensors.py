"""What the outside world starts: finalized orders in the shop."""

# No `from __future__ import annotations`: Dagster looks at the annotations themselves.
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from erp_sync.defs.names import LINGER_TAG, RUN_TAGS, SHOP_ORDERS, SWEEP_TAG
from erp_sync.defs.red import redacted
from erp_sync.defs.resources import ErpSync
from erp_sync.defs.runs import LostRuns, days_on_the_way
from erp_sync.sync.watch import HEARTBEAT_ALIVE

if TYPE_CHECKING:
    from erp_sync.sync.watch import Watched

WAIT_SECONDS = 4.0
"""Dagster's own loop is 5 s: a sensor that waits inside its tick sees an order 0.1 s after its commit, not 2.5 s."""
EVER = timedelta(days=30)


def finalized_orders(job: "dg.UnresolvedAssetJobDefinition", days: dg.DailyPartitionsDefinition) -> dg.SensorDefinition:
    lost = LostRuns()

    @dg.sensor(
        name="finalized_orders",
        job=job,
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Finds finalized orders in the shop and asks for a run of their business day.",
    )
    def sensor(context: dg.SensorEvaluationContext, erp_sync: dg.ResourceParam[ErpSync]) -> dg.SensorResult:
        with redacted():
            ledger = erp_sync.connections().ledger
            alive = ledger.heartbeats_alive(None, HEARTBEAT_ALIVE)
            lost.report(context.instance, alive, ledger.heartbeats_alive(None, EVER))
            watched = erp_sync.orders_watch().wait(WAIT_SECONDS)
            requests = _requests(context.instance, days, watched)
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else _why(watched),
            asset_events=[
                dg.AssetObservation(SHOP_ORDERS, partition=day.isoformat(), metadata={"orders_found": count})
                for day, count in sorted(watched.found.items())
            ],
        )

    return sensor


def _requests(
    instance: dg.DagsterInstance, days: dg.DailyPartitionsDefinition, watched: "Watched"
) -> list[dg.RunRequest]:
    """A day outside the partitions would fail every tick for ever; one that a run is queued for needs no second."""
    keys = [key for key in sorted(day.isoformat() for day in watched.days) if days.has_partition_key(key)]
    if not keys and not watched.needs_sweep:
        return []
    covered = days_on_the_way(instance)
    if watched.needs_sweep and covered is None:
        today = days.get_last_partition_key()
        return [dg.RunRequest(partition_key=today, tags={**RUN_TAGS, SWEEP_TAG: "first"})]
    return [
        dg.RunRequest(partition_key=key, tags={**RUN_TAGS, LINGER_TAG: "yes"})
        for key in keys
        if key not in (covered or ())
    ]


def _why(watched: "Watched") -> str:
    if watched.breaker_open_until is not None:
        return f"the ERP does not answer; the next probe is at {watched.breaker_open_until:%H:%M:%S} UTC"
    return "nothing is due that no run takes care of"
