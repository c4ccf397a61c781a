"""What is asked again and again of ledger, shop and ERP, and what an answer says. Data alone: whoever shows the checks
loads nothing that answers them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from erp_sync.models import Severity


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, over the whole ledger."""

    passed: bool
    text: str
    """What is the case, in one sentence."""
    severity: Severity = Severity.ERROR
    remedy: str = ""
    """What to do, where something is wrong."""
    count: int = 0
    """Orders, products or values that it is about."""
    oldest_at: datetime | None = None
    sample: tuple[str, ...] = ()
    """A few of them: order numbers, SKUs, the shop's values."""


@dataclass(frozen=True, slots=True)
class Check:
    """A question that is asked again and again."""

    asset: str
    """What it is about, as the assets are named: erp/orders."""
    meaning: str
    """What is asserted, in words of the business."""
    alert: str = ""
    """The kind of incident whose text tells it. "": check/ and its name."""


def fine(text: str) -> Finding:
    return Finding(passed=True, text=text)


LEDGER_CHECKS = {
    "nothing_waits": Check(
        "erp/orders", "No finalized order waits too long for the ERP (warning 15 minutes, error 60)."
    ),
    "no_order_refused": Check(
        "erp/orders", "No order is refused by the ERP or invalid (warning; error after 60 minutes)."
    ),
    "nothing_in_doubt": Check(
        "erp/orders",
        "No order is in doubt for long: sent, without a known outcome (warning 60 minutes, error 4 hours).",
    ),
    "no_order_twice": Check("erp/orders", "No order is in the ERP twice (error).", alert="duplicate"),
    "totals_agree": Check("erp/orders", "Every order has the same total in shop and ERP, to the cent (error)."),
    "orders_are_as_sent": Check(
        "erp/orders", "No order was deleted or changed in the ERP between its sending and its reading back (error)."
    ),
    "statuses_fresh": Check(
        "erp/order_status", "Every order's status was asked for in time (warning 15 minutes, error 60)."
    ),
    "cancellations_are_done": Check(
        "erp/order_status",
        "What the shop cancelled is cancelled in the ERP; what is too late is a person's task with a deadline "
        "(warning; error in its last quarter).",
        alert="cancel_too_late",
    ),
    "shop_knows_every_status": Check(
        "shop/order_status", "The shop knows what became of every order (warning 15 minutes, error 60)."
    ),
    "no_status_needs_a_person": Check(
        "shop/order_status",
        "No order's status waits for a person, because shop and ERP contradict each other (warning).",
    ),
    "stock_fresh": Check(
        "shop/stock_levels", "The shop's stock was compared with the ERP's in time (warning 15 minutes, error 60)."
    ),
    "no_mass_change_waits": Check(
        "shop/stock_levels",
        "No change of very many stocks at once waits for a person to accept it (error).",
        alert="mass_change",
    ),
    "stock_agrees": Check("shop/stock_levels", "Every stock was written as the ERP has it to sell (warning)."),
}
"""The windows grow where a schedule's own pace is slower."""

INSPECTION_CHECKS = {
    "orders_in_erp": Check(
        "health/reconciliation", "Every order that the shop finalized in the last two days was found (error)."
    ),
    "payments_have_a_condition": Check(
        "health/reconciliation",
        "Every payment method in use has a payment condition in the settings (error).",
        alert="check/everything_mapped",
    ),
    "carriers_have_a_code": Check(
        "health/reconciliation",
        "Every carrier in use has a code in the settings (warning).",
        alert="check/everything_mapped",
    ),
    "products_are_in_the_erp": Check(
        "health/reconciliation",
        "Every product in use is in the ERP and not blocked there (error).",
        alert="check/everything_mapped",
    ),
    "no_negative_stock": Check(
        "health/reconciliation", "No product that was ordered in the last days is below zero in the shop (error)."
    ),
    "erp_fields": Check("health/reconciliation", "The ERP's answers still have every field that is needed (error)."),
}

DOCTOR_CHECKS = {
    "installation_is_sound": Check(
        "health/reconciliation",
        "The doctor finds nothing missing or wrong in settings, shop, ledger, ERP, Dagster, Slack and AWS (as it says: "
        "warning or error).",
    ),
}
