"""Asset checks: each states how the whole ledger, shop or ERP stands now, whatever day a run is of.

They run in jobs of their own: "nobody could look" fails such a run, and never that of a flow. A check that finds
something wrong fails no run.
"""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` itself.
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from erp_sync.defs.names import CHECKS_JOB, INSPECTION_JOB
from erp_sync.defs.red import red
from erp_sync.defs.resources import ErpSync
from erp_sync.models import Severity
from erp_sync.sync.findings import INSPECTION_CHECKS, LEDGER_CHECKS, Check, Finding

if TYPE_CHECKING:
    from erp_sync.sync.health import LedgerHealth

logger = logging.getLogger(__name__)

TAGS = {"dagster/max_runtime": "300"}


def check_key(name: str, check: Check) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(dg.AssetKey(check.asset.split("/")), name)


def ledger_health(erp_sync: ErpSync) -> "LedgerHealth":
    """Raises as `ErpSync.connections` does."""
    from erp_sync.sync.health import LedgerHealth

    connections = erp_sync.connections()
    return LedgerHealth(connections.ledger, connections.settings, follows_stock=connections.shop_stock is not None)


def in_full(finding: Finding) -> str:
    return f"{finding.text} {finding.remedy}".strip()


def ledger_checks() -> dg.AssetChecksDefinition:
    """Milliseconds, so that they also run when one of their assets is materialized from the UI."""

    @dg.multi_asset_check(name="ledger_checks", specs=_specs(LEDGER_CHECKS), can_subset=True)
    def checks(
        context: dg.AssetCheckExecutionContext, erp_sync: dg.ResourceParam[ErpSync]
    ) -> Iterator[dg.AssetCheckResult]:
        yield from _results(context, lambda: ledger_health(erp_sync).find)

    return checks


def inspection_checks() -> dg.AssetChecksDefinition:
    """They read the shop and the ERP: not in the runs that make their asset."""

    @dg.multi_asset_check(name="inspection_checks", specs=_specs(INSPECTION_CHECKS), can_subset=True)
    def checks(
        context: dg.AssetCheckExecutionContext, erp_sync: dg.ResourceParam[ErpSync]
    ) -> Iterator[dg.AssetCheckResult]:
        from erp_sync.sync.inspection import Inspection

        if not context.run.asset_selection:
            yield from _results(context, lambda: Inspection(erp_sync.connections()).find)

    return checks


def checks_job() -> "dg.UnresolvedAssetJobDefinition":
    return dg.define_asset_job(
        CHECKS_JOB,
        selection=dg.AssetSelection.checks(*(check_key(name, check) for name, check in LEDGER_CHECKS.items())),
        tags=TAGS,
        description="Asks the ledger how orders, statuses and stock stand.",
    )


def inspection_job() -> "dg.UnresolvedAssetJobDefinition":
    return dg.define_asset_job(
        INSPECTION_JOB,
        selection=dg.AssetSelection.checks(*(check_key(name, check) for name, check in INSPECTION_CHECKS.items())),
        tags=TAGS,
        description="Looks into shop and ERP for what will go wrong next: mappings, fields, orders that nobody found.",
    )


def _specs(checks: Mapping[str, Check]) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(name, asset=check_key(name, check).asset_key, description=check.meaning)
        for name, check in checks.items()
    ]


def _results(
    context: dg.AssetCheckExecutionContext, finder: Callable[[], Callable[[str], Finding]]
) -> Iterator[dg.AssetCheckResult]:
    """One check that cannot be asked hides no other, and paints no run red that makes an asset: then it has no result.

    Raises Failure otherwise, once all were asked.
    """
    failure: Exception | None = None
    try:
        find = finder()
        for key in sorted(context.selected_asset_check_keys):
            try:
                result = _result(key, find(key.name))
            except Exception as error:
                failure = failure or error
            else:
                yield result
    except Exception as error:
        failure = error
    if failure is None:
        return
    if context.run.asset_selection:
        logger.warning("checks: nobody could look (%s)", type(failure).__name__)
        return
    raise red(failure)


def evaluation(key: dg.AssetCheckKey, finding: Finding) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=finding.passed,
        severity=dg.AssetCheckSeverity.ERROR if finding.severity is Severity.ERROR else dg.AssetCheckSeverity.WARN,
        description=in_full(finding),
        metadata=_metadata(finding),
    )


def _result(key: dg.AssetCheckKey, finding: Finding) -> dg.AssetCheckResult:
    said = evaluation(key, finding)
    return dg.AssetCheckResult(
        asset_key=said.asset_key,
        check_name=said.check_name,
        passed=said.passed,
        severity=said.severity,
        description=said.description,
        metadata=said.metadata,
    )


def _metadata(finding: Finding) -> dict[str, Any]:
    metadata: dict[str, Any] = {"count": finding.count}
    if finding.oldest_at is not None:
        metadata["oldest_at"] = dg.MetadataValue.timestamp(finding.oldest_at)
        metadata["oldest_minutes"] = round((datetime.now(UTC) - finding.oldest_at).total_seconds() / 60, 1)
    if finding.sample:
        metadata["sample"] = ", ".join(finding.sample)
    if finding.remedy:
        metadata["what_to_do"] = finding.remedy
    return metadata
