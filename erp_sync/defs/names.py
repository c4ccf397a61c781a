"""Names that Dagster's storage keeps: a renamed asset, job or tag loses its history."""

import dagster as dg

SHOP_ORDERS = dg.AssetKey(["shop", "orders"])
ERP_ORDERS = dg.AssetKey(["erp", "orders"])
ERP_ORDER_STATUS = dg.AssetKey(["erp", "order_status"])
SHOP_ORDER_STATUS = dg.AssetKey(["shop", "order_status"])
ORDERS_JOB = "orders"
STATUSES_JOB = "statuses"
FLOW_TAG = "erp_sync/flow"
LINGER_TAG = "erp_sync/linger"
"""On runs that the sensor started: they go on looking for orders. A backfill does not."""
SWEEP_TAG = "erp_sync/sweep"
"""all: look at every order of the shop first; first: only if that was never done."""
RUN_TAGS = {FLOW_TAG: "orders", "dagster/max_runtime": "300"}
STATUSES_TAGS = {FLOW_TAG: "statuses", "dagster/max_runtime": "300"}
FLOWS = {
    "orders": (ORDERS_JOB, frozenset({ERP_ORDERS})),
    "statuses": (STATUSES_JOB, frozenset({ERP_ORDER_STATUS, SHOP_ORDER_STATUS})),
}
"""Flow = its job and the assets that it makes."""
OWNERS = ["team:integration"]
