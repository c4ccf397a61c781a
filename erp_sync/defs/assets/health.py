"""Whether shop and ERP agree, business day by business day."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` itself.
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from erp_sync.defs.assets.metadata import at_work
from erp_sync.defs.names import (
    AGREES,
    ERP_ORDERS,
    HEALTH_RECONCILIATION,
    OWNERS,
    SHOP_ORDER_STATUS,
    SHOP_STOCK_LEVELS,
)
from erp_sync.defs.red import red
from erp_sync.defs.resources import ErpSync
from erp_sync.ledger.reconciled_day import KINDS
from erp_sync.sync.watch import HEARTBEAT_SECONDS

if TYPE_CHECKING:
    from erp_sync.ledger.reconciled_day import ReconciledDay
    from erp_sync.sync.connections import Connections

DAYS_PER_RUN = 7
"""A range run that fails marks none of its days as done."""
SHOWN = 200
"""Findings of a table: the ledger, and `erp-sync run reconcile --csv`, have all of them."""
DRAWN_DAYS = 14
CHECKED_DAYS = 31
"""The check speaks of what was reconciled of the last so many days."""
_COLUMNS = ("order", "finding", "shop", "erp", "what_to_do", "note", "erp_order", "day")
"""What says what to do comes before what is beyond the edge of a narrow window."""


def health_reconciliation(days: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    @dg.asset(
        key=HEALTH_RECONCILIATION,
        deps=[ERP_ORDERS, SHOP_ORDER_STATUS],
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.multi_run(DAYS_PER_RUN),
        pool="erp_reconciliation",
        group_name="health",
        owners=OWNERS,
        kinds={"protheus", "mysql"},
        description=(
            "Did every order of the day arrive, to the cent? Shop, ledger and ERP compared order by order: missing, "
            "twice, totals, lines, statuses, cancellations, NF-e keys. What repairs itself is told to the flows; the "
            "rest says who decides. Red only if the system failed; what was found is told by the check."
        ),
    )
    def reconciliation(context: dg.AssetExecutionContext, erp_sync: dg.ResourceParam[ErpSync]) -> None:
        days = [date.fromisoformat(key) for key in context.partition_keys]
        with at_work(context):
            connections = erp_sync.connections()
            with connections.ledger.heartbeat(context.run.run_id, "reconciliation", days, every=HEARTBEAT_SECONDS):
                result = connections.reconcile_flow().run(days)
                if result.failure is not None:
                    raise result.failure
                for day in result.days:
                    _report(context, connections, day)

    return reconciliation


def every_order_agrees() -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=HEALTH_RECONCILIATION,
        name=AGREES,
        description=(
            "Every order of the reconciled days is in the ERP once, with the shop's total (error), lines and status "
            "(warning). Speaks of "
            f"the last {CHECKED_DAYS} days as they were last reconciled; materialize a day anew once it is mended."
        ),
    )
    def agrees(erp_sync: dg.ResourceParam[ErpSync]) -> dg.AssetCheckResult:
        try:
            connections = erp_sync.connections()
            since = connections.reconcile_flow().today() - timedelta(days=CHECKED_DAYS)
            reconciled = connections.ledger.reconciled(since=since)
        except Exception as error:
            raise red(error) from None
        return _judged(reconciled, connections)

    return agrees


def _judged(reconciled: "Sequence[ReconciledDay]", connections: "Connections") -> dg.AssetCheckResult:
    findings = [finding for day in reconciled for finding in day.findings]
    open_ = [finding for finding in findings if not finding.verdict.is_repaired]
    grave = [finding for finding in open_ if finding.verdict.is_grave]
    days = [day.day.isoformat() for day in reconciled if day.findings]
    count = f"{len(findings)} {'finding' if len(findings) == 1 else 'findings'}"
    said = f"{count}, {len(open_)} for a person, on {', '.join(days)}" if findings else "all agree"
    return dg.AssetCheckResult(
        passed=not open_,  # whether what repairs itself did is told by the checks of the flows
        severity=dg.AssetCheckSeverity.ERROR if grave else dg.AssetCheckSeverity.WARN,
        description=f"Reconciled {_span(reconciled)}: {said}.",
        metadata={
            "findings": len(findings),
            "missing_twice_or_total": len(grave),
            "for_a_person": len(open_),
            "what_does_not_agree": _table([day for day in reconciled if day.findings], connections),
        },
    )


def _span(reconciled: "Sequence[ReconciledDay]") -> str:
    if not reconciled:
        return "no day yet"
    first, last = reconciled[0].day, reconciled[-1].day
    return f"{first} to {last}, {len(reconciled)} days" if first != last else f"{first}"


def _report(context: dg.AssetExecutionContext, connections: "Connections", day: "ReconciledDay") -> None:
    """Figures that plot, one value each a day."""
    context.add_asset_metadata(
        {
            "orders_in_shop": day.shop_orders,
            "orders_in_erp": day.erp_orders,
            "orders_on_their_way": day.waiting,
            "dagster/partition_row_count": day.shop_orders,
            "value_in_shop": float(day.shop_value),
            "value_in_erp": float(day.erp_value),
            "value_difference": float(day.value_difference),
            "findings": len(day.findings),
            "findings_for_a_person": sum(not finding.verdict.is_repaired for finding in day.findings),
            **{f"orders_{kind}": day.count(kind) for kind in KINDS},
            # A day on which nothing was sent has no time, and a zero would look like a fast one.
            **{
                name: minutes
                for name, minutes in (
                    ("median_minutes_to_erp", day.median_minutes),
                    ("p95_minutes_to_erp", day.p95_minutes),
                )
                if minutes is not None
            },
            "what_does_not_agree": _table([day], connections),
            "overview": _picture(context, connections, day),
        },
        partition_key=day.day.isoformat(),
    )


def _table(days: "Sequence[ReconciledDay]", connections: "Connections") -> dg.TableMetadataValue:
    from itertools import islice

    from erp_sync.sync.reconcile_report import table_rows

    rows = islice(table_rows(days, connections.settings.language), SHOWN)
    schema = dg.TableSchema([dg.TableColumn(name, "string") for name in _COLUMNS])
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows], schema)


def _picture(context: dg.AssetExecutionContext, connections: "Connections", day: "ReconciledDay") -> dg.MetadataValue:
    """Markdown with the picture in it: Dagster shows it behind "Show Markdown"."""
    kept = connections.ledger.reconciled(since=day.day - timedelta(days=DRAWN_DAYS - 1))
    until = [other for other in kept if other.day <= day.day]
    try:
        from erp_sync.sync.overview import overview_png

        picture = overview_png(until, _stock_drift(context.instance), connections.settings.language)
    except Exception as error:
        # The day is reconciled and kept: no font that is missing makes it red.
        context.log.warning("the overview could not be drawn: %s", type(error).__name__)
        return dg.MetadataValue.text("could not be drawn: see the run's log")
    return dg.MetadataValue.md(f"![overview](data:image/png;base64,{b64encode(picture).decode()})")


def _stock_drift(instance: dg.DagsterInstance) -> list[tuple[datetime, int]]:
    """How many stocks each run of the last day found different."""
    since = (datetime.now(UTC) - timedelta(days=1)).timestamp()
    recent = dg.AssetRecordsFilter(asset_key=SHOP_STOCK_LEVELS, after_timestamp=since)
    drift: list[tuple[datetime, int]] = []
    for record in instance.fetch_materializations(recent, limit=300).records:
        event: Any = record.asset_materialization
        different = event.metadata.get("stocks_different") if event is not None else None
        if different is not None:
            drift.append((datetime.fromtimestamp(record.timestamp, UTC), int(different.value)))
    return sorted(drift)
