"""The receiver of webhooks: its sources and their secrets."""

from __future__ import annotations

from collections.abc import Iterator

from erp_sync.doctor.installation import Installation
from erp_sync.errors import Misconfigured
from erp_sync.models import Finding
from erp_sync.webhook.signature import senders

_SECRETS = "ERP_SYNC_WEBHOOK_SECRETS"


def webhook(installation: Installation) -> Iterator[Finding]:
    """Whether each source has a secret that fits its scheme."""
    settings = installation.settings
    if not settings.webhook.sources:
        if settings.webhook_secrets is not None:
            advice = "name each sender in [webhook.sources.NAME], or unset ERP_SYNC_WEBHOOK_SECRETS"
            yield Finding("warning", "webhook.sources", "none is set, and there are secrets for them", advice)
        else:
            yield Finding("ok", "webhook", "not used: the sensor finds every order by itself")
        return
    if any(line.startswith(_SECRETS) for line in installation.wrong):
        yield Finding("warning", "webhook", f"not looked at: {_SECRETS} is wrong", "correct it first")
        return
    try:
        known = senders(settings)
    except Misconfigured as error:
        message, _, advice = str(error).rpartition(": ")
        yield Finding("error", _SECRETS, message, advice)
        return
    for name, sender in known.items():
        several = "" if len(sender.keys) == 1 else ": take the old one away once the sender uses the new"
        yield Finding("ok", f"webhook.sources.{name}", f"{sender.scheme}, secrets: {len(sender.keys)}{several}")
