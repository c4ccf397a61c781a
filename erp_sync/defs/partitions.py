"""The business day as a partition."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg

from erp_sync.settings import Settings
from erp_sync.shop.profile import load_profile
from erp_sync.sync.finding import EARLY_DAYS


def business_days(settings: Settings) -> dg.DailyPartitionsDefinition:
    """Every business day from 60 days before `orders.start_day` to today, today included.

    Without a `start_day` the days begin today: the definitions load, and every run says what is missing.
    """
    start_day = settings.orders.start_day or datetime.now(UTC).date()
    timezone = load_profile(settings.shop_profile).shop.business_timezone
    return dg.DailyPartitionsDefinition(
        start_date=(start_day - EARLY_DAYS).isoformat(), timezone=str(timezone), end_offset=1
    )
