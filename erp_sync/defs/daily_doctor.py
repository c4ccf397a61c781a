"""The doctor as a check, once a day: what a person asked for on the first day may break on any other."""

# No `from __future__ import annotations`: Dagster looks at the annotation of `context` itself.
from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from erp_sync.defs.checks import TAGS, check_key
from erp_sync.defs.doctor import Build, of_instance
from erp_sync.defs.names import DOCTOR_JOB
from erp_sync.models import Finding
from erp_sync.sync.findings import DOCTOR_CHECKS

(_NAME, _CHECK), *_ = DOCTOR_CHECKS.items()
_COLUMNS = ("level", "area", "subject", "message", "what_to_do")
NAMED = 5


def doctor_check(build: Build) -> dg.AssetChecksDefinition:
    """Not in the runs that make its asset: it asks all systems."""
    key = check_key(_NAME, _CHECK)

    @dg.multi_asset_check(
        name="doctor_check",
        specs=[dg.AssetCheckSpec(_NAME, asset=key.asset_key, description=_CHECK.meaning)],
        can_subset=True,
    )
    def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        if not context.run.asset_selection:
            yield result(look(context.instance, build))

    return check


def look(instance: dg.DagsterInstance, build: Build) -> dict[str, list[Finding]]:
    """Without what is open already: this check would stand open because it does."""
    from erp_sync.doctor.areas import AREAS
    from erp_sync.doctor.examination import examine
    from erp_sync.doctor.installation import Installation, installation

    def dagster(known: Installation) -> Iterator[Finding]:
        yield from of_instance(instance, known, build)

    return examine(installation(), {**AREAS, "Dagster": dagster})


def result(lines: Mapping[str, Sequence[Finding]]) -> dg.AssetCheckResult:
    found = [(area, finding) for area, findings in lines.items() for finding in findings]
    wrong = [each for each in found if each[1].level == "error"] + [
        each for each in found if each[1].level == "warning"
    ]
    errors = sum(finding.level == "error" for _, finding in wrong)
    named = "; ".join(f"{area}, {finding.subject}: {finding.message}" for area, finding in wrong[:NAMED])
    rows = [(one.level, area, one.subject, one.message, one.advice) for area, one in wrong]
    schema = dg.TableSchema([dg.TableColumn(name, "string") for name in _COLUMNS])
    text = f"Errors: {errors}, warnings: {len(wrong) - errors}. {named}"
    return dg.AssetCheckResult(
        asset_key=check_key(_NAME, _CHECK).asset_key,
        check_name=_NAME,
        passed=not wrong,
        severity=dg.AssetCheckSeverity.ERROR if errors else dg.AssetCheckSeverity.WARN,
        description=f"{text}. erp-sync doctor says what to do." if wrong else f"All {len(found)} lines are ok.",
        metadata={
            "count": len(wrong),
            "errors": errors,
            "warnings": len(wrong) - errors,
            "looked_at": len(found),
            "findings": dg.MetadataValue.table(
                [dg.TableRecord(dict(zip(_COLUMNS, row, strict=True))) for row in rows], schema
            ),
        },
    )


def doctor_job() -> "dg.UnresolvedAssetJobDefinition":
    return dg.define_asset_job(
        DOCTOR_JOB,
        selection=dg.AssetSelection.checks(check_key(_NAME, _CHECK)),
        tags=TAGS,
        description="Looks at the whole installation, as erp-sync doctor does. Changes nothing.",
    )


def doctor_schedule(job: "dg.UnresolvedAssetJobDefinition", zone: str) -> dg.ScheduleDefinition:
    """Before the working day, after the night's runs."""
    return dg.ScheduleDefinition(
        name="doctor",
        job=job,
        cron_schedule="15 6 * * *",
        execution_timezone=zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Looks every morning at settings, shop, ledger, ERP, Dagster, Slack and AWS.",
    )
