"""Names that Dagster's storage keeps: a renamed asset, job or tag loses its history."""

import dagster as dg

SHOP_ORDERS = dg.AssetKey(["shop", "orders"])
ERP_ORDERS = dg.AssetKey(["erp", "orders"])
ERP_ORDER_STATUS = dg.AssetKey(["erp", "order_status"])
SHOP_ORDER_STATUS = dg.AssetKey(["shop", "order_status"])
ERP_STOCK_BALANCES = dg.AssetKey(["erp", "stock_balances"])
SHOP_STOCK_LEVELS = dg.AssetKey(["shop", "stock_levels"])
HEALTH_RECONCILIATION = dg.AssetKey(["health", "reconciliation"])
ORDERS_JOB = "orders"
STATUSES_JOB = "statuses"
STOCK_JOB = "stock"
AGREES = "every_order_of_the_day_agrees"
"""The check of the reconciliation."""
CHECKS_JOB = "checks"
INSPECTION_JOB = "inspection"
RECONCILIATION_JOB = "reconciliation"
DOCTOR_JOB = "doctor"
RETENTION_JOB = "retention"
FLOW_TAG = "erp_sync/flow"
LINGER_TAG = "erp_sync/linger"
"""On runs that the sensor started: they go on looking for orders. A backfill does not."""
SWEEP_TAG = "erp_sync/sweep"
"""all: look at every order of the shop first; first: only if that was never done."""
RUN_TAGS = {FLOW_TAG: "orders", "dagster/max_runtime": "300"}
STATUSES_TAGS = {FLOW_TAG: "statuses", "dagster/max_runtime": "300"}
STOCK_TAGS = {FLOW_TAG: "stock", "dagster/max_runtime": "1200"}
RECONCILIATION_TAGS = {FLOW_TAG: "reconciliation", "dagster/max_runtime": "1800"}
RETENTION_TAGS = {"dagster/max_runtime": "1200"}
FLOWS = {
    "orders": (ORDERS_JOB, frozenset({ERP_ORDERS})),
    "statuses": (STATUSES_JOB, frozenset({ERP_ORDER_STATUS, SHOP_ORDER_STATUS})),
    "stock": (STOCK_JOB, frozenset({SHOP_STOCK_LEVELS})),
    "reconciliation": (RECONCILIATION_JOB, frozenset({HEALTH_RECONCILIATION})),
}
"""Flow = its job and the assets that it makes."""
OWNERS = ["team:integration"]
