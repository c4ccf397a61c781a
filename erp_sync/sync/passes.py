"""What is logged of each pass, with the figures that CloudWatch makes metrics of. Never raises."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from erp_sync.logs import metrics_are_wanted
from erp_sync.models import LedgerState

if TYPE_CHECKING:
    from erp_sync.ledger.ledger import Ledger
    from erp_sync.sync.results import OrdersResult, StatusesResult, StockResult

logger = logging.getLogger(__name__)

STOCK_MARK = "stock.read_at"
"""The ledger's mark whose text is T of the latest stock pass that wrote."""
Metrics = dict[str, Any]


def orders_pass_ended(result: OrdersResult, ledger: Ledger) -> None:
    def metrics() -> Metrics:
        return {
            "minutes_to_erp": result.minutes_to_erp,
            "erp_latency_ms": result.erp_milliseconds,
            **_queue(ledger),
        }

    names = ("found", "sent", "adopted", "refused", "invalid", "cancelled", "incidents", "due", "in_doubt")
    _ended(result, names, metrics)


def statuses_pass_ended(half: str, result: StatusesResult, ledger: Ledger) -> None:
    def metrics() -> Metrics:
        return {"statuses_overdue_minutes": _minutes_since(ledger.oldest_overdue(), ledger.now())}

    names = ("asked", "changed", "told", "kept", "cancelled", "too_late", "cancel_refused")
    _ended(result, names, metrics, state=half)


def stock_pass_ended(result: StockResult, ledger: Ledger) -> None:
    def metrics() -> Metrics:
        guard = {"oversell_guard_held_back": result.held_back, "oversell_guard_stopped": int(bool(result.guard))}
        mark = ledger.mark(STOCK_MARK)
        age = {"stock_age_minutes": _minutes_since(datetime.fromisoformat(mark[1]), ledger.now())} if mark else {}
        return {**guard, **age}

    names = ("skus", "found", "different", "written", "raised", "lowered", "held_back", "failed")
    _ended(result, names, metrics, guard=result.guard)


def watch_goes_on(ledger: Ledger) -> None:
    """A sign of life of whoever looks for orders, to be given once a minute: an alarm goes off on silence."""
    if metrics_are_wanted():
        said = {"event": "watch.alive", "metrics": _measured(lambda: _queue(ledger))}
        logger.info("looking for orders", extra=said)


def _ended(
    result: OrdersResult | StatusesResult | StockResult,
    names: tuple[str, ...],
    metrics: Callable[[], Metrics],
    **more: str,
) -> None:
    counts = {name: getattr(result, name) for name in names}
    failure = result.failure
    said: dict[str, Any] = {"event": "pass.ended", "outcome": "ok" if failure is None else "failed", **counts, **more}
    if failure is not None:
        said |= {"error_class": type(failure).__name__, "cause": failure.in_full()}
    if metrics_are_wanted():
        said["metrics"] = _measured(metrics)
    words = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items() if count)
    logger.info("the pass has ended: %s", failure or words or "nothing to do", extra=said)


def _measured(metrics: Callable[[], Metrics]) -> Metrics:
    try:
        return metrics()
    except Exception as error:
        logger.info("no figures of this pass: %s", error)
        return {}


def _queue(ledger: Ledger) -> Metrics:
    counts = ledger.counts(states=_TOLD_OF)
    return {
        "oldest_unsent_minutes": _minutes_since(ledger.oldest_unsent(), ledger.now()),
        "orders_in_doubt": counts.get(LedgerState.IN_DOUBT, 0) + counts.get(LedgerState.SENDING, 0),
        "orders_refused": counts.get(LedgerState.REFUSED, 0) + counts.get(LedgerState.INVALID, 0),
    }


_TOLD_OF = (LedgerState.IN_DOUBT, LedgerState.SENDING, LedgerState.REFUSED, LedgerState.INVALID)


def _minutes_since(moment: datetime | None, now: datetime) -> float:
    """0.0 where there is none."""
    return round(max((now - moment.astimezone(UTC)).total_seconds() / 60, 0.0), 3) if moment is not None else 0.0
