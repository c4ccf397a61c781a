"""Which areas there are, in the order in which they are told. Dagster's own is in defs/, which alone imports it."""

from __future__ import annotations

from erp_sync.doctor.aws import aws
from erp_sync.doctor.erp import erp
from erp_sync.doctor.examination import Area
from erp_sync.doctor.ledger import ledger
from erp_sync.doctor.settings import settings
from erp_sync.doctor.shop import shop
from erp_sync.doctor.slack import slack
from erp_sync.doctor.webhook import webhook

AREAS: dict[str, Area] = {
    "settings": settings,
    "shop": shop,
    "ledger": ledger,
    "ERP": erp,
    "webhook": webhook,
    "Slack": slack,
    "AWS": aws,
}
