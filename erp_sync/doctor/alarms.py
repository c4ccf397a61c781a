"""Whether anybody watches, and which incidents are open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from erp_sync.doctor import watch
from erp_sync.doctor.installation import Installation
from erp_sync.doctor.ledger import missing_file
from erp_sync.errors import ErpSyncError
from erp_sync.ledger.ledger import open_ledger
from erp_sync.models import Finding
from erp_sync.settings import Settings


def alarms(installation: Installation) -> Iterator[Finding]:
    """Whether anybody watches, and what is open."""
    report = report_of(installation.settings)
    if report is None:
        yield Finding("warning", "incidents", "not looked at: they are in the ledger", "see the ledger's lines")
    else:
        yield from report.findings()


def report_of(settings: Settings) -> watch.Report | None:
    """None: the ledger cannot be read."""
    if settings.ledger_url is None or missing_file(settings) is not None:
        return None
    try:
        with closing(open_ledger(settings.ledger_url.get_secret_value())) as ledger:
            return watch.examine(ledger, settings)
    except ErpSyncError:
        return None
