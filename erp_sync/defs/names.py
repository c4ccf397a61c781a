"""Names that Dagster's storage keeps: a renamed asset, job or tag loses its history."""

import dagster as dg

SHOP_ORDERS = dg.AssetKey(["shop", "orders"])
ERP_ORDERS = dg.AssetKey(["erp", "orders"])
ORDERS_JOB = "orders"
FLOW_TAG = "erp_sync/flow"
LINGER_TAG = "erp_sync/linger"
"""On runs that the sensor started: they go on looking for orders. A backfill does not."""
SWEEP_TAG = "erp_sync/sweep"
"""all: look at every order of the shop first; first: only if that was never done."""
RUN_TAGS = {FLOW_TAG: "orders", "dagster/max_runtime": "300"}
OWNERS = ["team:integration"]
