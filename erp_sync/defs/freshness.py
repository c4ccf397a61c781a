"""How old an asset may be, for those that a schedule makes anew: states, not history.

The second net: the checks look at the ledger, are sooner, and know which orders wait. Of days there is no policy: any
partition would count, so that a backfill of January makes today look fresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import dagster as dg

from erp_sync.defs.names import ERP_ORDER_STATUS, SHOP_ORDER_STATUS, SHOP_STOCK_LEVELS
from erp_sync.settings import Settings

AT_LEAST = timedelta(hours=2)
PASSES = 8
"""Left out or failed, one after the other."""


def fresh_within(settings: Settings) -> dict[dg.AssetKey, timedelta]:
    statuses, stock = _window(settings.statuses.every_minutes), _window(settings.stock.every_minutes)
    return {ERP_ORDER_STATUS: statuses, SHOP_ORDER_STATUS: statuses, SHOP_STOCK_LEVELS: stock}


def with_freshness(
    assets: Sequence[dg.AssetsDefinition | dg.AssetSpec], settings: Settings
) -> Sequence[dg.AssetsDefinition | dg.AssetSpec]:
    """The same assets; those that have to be fresh say how fresh."""
    windows = fresh_within(settings)

    def fresh(spec: dg.AssetSpec) -> dg.AssetSpec:
        if spec.key not in windows:
            return spec
        policy = dg.FreshnessPolicy.time_window(fail_window=windows[spec.key])
        return spec.replace_attributes(freshness_policy=policy)

    return dg.map_asset_specs(fresh, assets)


def _window(every_minutes: int) -> timedelta:
    return max(AT_LEAST, PASSES * timedelta(minutes=every_minutes))
