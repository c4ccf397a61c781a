"""How the whole ledger stands now, in findings that a person understands: what is wrong, how much, since when, what to
do. Cheap: ranges of an index, whatever the ledger holds; `inspection.py` looks into shop and ERP as well.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from erp_sync.ledger.health import SAMPLE, Standing
from erp_sync.models import Cancellation, Severity
from erp_sync.sync.findings import Finding, fine
from erp_sync.sync.problems import CANCELLATION, ERP_ORDERS, OTHER_TOTAL

if TYPE_CHECKING:
    from erp_sync.ledger.health import Troubled, TroubledStatus
    from erp_sync.ledger.ledger import Ledger
    from erp_sync.settings import Settings
    from erp_sync.sync.results import StockResult

WARN_AFTER = timedelta(minutes=15)
ERROR_AFTER = timedelta(minutes=60)
"""How long an order may be on its way to the ERP, and anything else that follows at once."""
DOUBT_WARN_AFTER = timedelta(minutes=60)
DOUBT_ERROR_AFTER = timedelta(hours=4)
"""Far beyond the settle time: such an order also waits, which is told sooner."""
LAST_QUARTER = 0.25
"""Of a task's time: from then on it is urgent."""
RESULT_MARK = "stock.result"
_BEGAN = "health.began"


class LedgerHealth:
    """Each public method but `find` is a check of `LEDGER_CHECKS`. Raises LedgerUnavailable and Misconfigured: then
    nobody could look, which says nothing about the orders."""

    def __init__(self, ledger: Ledger, settings: Settings, *, follows_stock: bool) -> None:
        """`follows_stock`: the profile has a `[stock]` block."""
        self._ledger = ledger
        self._settings = settings
        self._follows_stock = follows_stock

    def find(self, name: str) -> Finding:
        """What the check of this name finds now."""
        check: Callable[[], Finding] = getattr(self, name)
        return check()

    # Orders ---------------------------------------------------------------------------------------------------------

    def nothing_waits(self) -> Finding:
        now = self._ledger.now()
        return _lagging(
            self._ledger.unsent(now - WARN_AFTER),
            now,
            "Finalized in the shop and not in the ERP",
            f"No order waits longer than {_minutes(WARN_AFTER)} for the ERP.",
            "Look at the runs of erp/orders and at what else is wrong: with shop, ledger and ERP at work they are sent "
            "by themselves. erp-sync orders --state due lists them.",
        )

    def no_order_refused(self) -> Finding:
        now = self._ledger.now()
        rejected = self._ledger.rejected()
        return _standing(
            rejected,
            "Refused by the ERP, or cannot be sent as they are",
            "No order is refused or invalid.",
            "erp-sync order NUMBER names field, value and remedy. Correct the shop or the ERP; it is sent at the next "
            "sweep, or at once with erp-sync retry NUMBER.",
            severity=Severity.ERROR if _older(rejected, now, ERROR_AFTER) else Severity.WARNING,
        )

    def nothing_in_doubt(self) -> Finding:
        now = self._ledger.now()
        return _lagging(
            self._ledger.in_doubt(now - DOUBT_WARN_AFTER),
            now,
            "Left for the ERP, and nobody knows what became of them",
            f"No order is in doubt for longer than {_minutes(DOUBT_WARN_AFTER)}.",
            "Never retype them: they are looked up until the outcome is known. If the ERP answers and they stay, "
            "erp-sync order NUMBER tells why.",
            error_after=DOUBT_ERROR_AFTER,
        )

    def no_order_twice(self) -> Finding:
        return self._incidents(
            _is_twice,
            "In the ERP more than once",
            "No order is in the ERP twice, as far as they were read back.",
            "Keep one of each and cancel the others in the ERP before they are invoiced; erp-sync order NUMBER names "
            "them.",
        )

    def totals_agree(self) -> Finding:
        return self._incidents(
            _has_other_total,
            "With another total in the ERP than in the shop",
            "Every order has the shop's total in the ERP, as far as they were read back.",
            "erp-sync order NUMBER shows both figures: correct the order in the ERP, or cancel it there and place it "
            "anew in the shop.",
        )

    def orders_are_as_sent(self) -> Finding:
        return self._incidents(
            lambda order: not _is_twice(order) and not _has_other_total(order),
            "Deleted or changed in the ERP, or there under another id, customer or branch",
            "Every order stands in the ERP as it was sent, as far as they were read back.",
            "erp-sync order NUMBER says what differs. It is never created again by itself: correct or restore it in "
            "the ERP.",
        )

    # Statuses -------------------------------------------------------------------------------------------------------

    def statuses_fresh(self) -> Finding:
        now = self._ledger.now()
        warn_after, error_after = _windows(self._settings.statuses.every_minutes)
        return _lagging(
            self._ledger.overdue("next_at", now - warn_after),
            now,
            "To be asked for in the ERP, and overdue",
            f"No order's status is overdue by more than {_minutes(warn_after)}.",
            "Look at the runs of erp/order_status: what failed there is the cause.",
            error_after=error_after,
        )

    def shop_knows_every_status(self) -> Finding:
        now = self._ledger.now()
        warn_after, error_after = _windows(self._settings.statuses.every_minutes)
        return _lagging(
            self._ledger.overdue("write_at", now - warn_after),
            now,
            "Changed in the ERP, and the shop was not told",
            f"No change waits longer than {_minutes(warn_after)} to be told to the shop.",
            "Look at the runs of shop/order_status: what failed there is the cause.",
            error_after=error_after,
        )

    def cancellations_are_done(self) -> Finding:
        """Those on their way, and the tasks for a person: red from the start, urgent as the deadline comes near."""
        now = self._ledger.now()
        waiting = self._ledger.overdue("cancel_at", now - WARN_AFTER)
        tasks = self._tasks()
        urgent = any(task.is_urgent(now) for task in tasks) or _older(waiting, now, ERROR_AFTER)
        count = waiting.count + len(tasks)
        if not count:
            return fine("Every order that the shop cancelled is cancelled in the ERP, or will be in a moment.")
        oldest = min(task.since for task in tasks) if tasks else waiting.oldest_at
        deadlines = sorted(task.until for task in tasks if task.until is not None)
        first = f" The first deadline is {deadlines[0]:%Y-%m-%d %H:%M} UTC." if deadlines else ""
        return Finding(
            passed=False,
            text=f"Cancelled in the shop and not in the ERP: {_orders(count)}, {len(tasks)} for a person.{first}",
            severity=Severity.ERROR if urgent else Severity.WARNING,
            remedy="erp-sync order NUMBER says what to do: cancel the invoice or arrange the return, and stop the "
            "parcel; or reopen the order in the shop.",
            count=count,
            oldest_at=oldest,
            sample=(*(task.number for task in tasks), *waiting.sample)[:SAMPLE],
        )

    def no_status_needs_a_person(self) -> Finding:
        kinds: Counter[str] = Counter()
        sample: list[str] = []
        count, oldest = 0, None
        for order in self._ledger.troubled_statuses():
            fields = {problem.field for problem in order.problems} - {CANCELLATION}
            if fields and order.is_watched:
                count += 1
                kinds.update(fields)
                oldest = min(filter(None, (oldest, order.changed_at)), default=None)
                sample += [order.number] if len(sample) < SAMPLE else []
        if not count:
            return fine("Shop and ERP tell the same of every order that is watched.")
        which = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))
        return Finding(
            passed=False,
            text=f"Left as they are until a person has looked at them: {_orders(count)} ({which}).",
            severity=Severity.WARNING,
            remedy="erp-sync order NUMBER says which, and what to correct in the shop, the ERP or the profile.",
            count=count,
            oldest_at=oldest,
            sample=tuple(sample),
        )

    # Stock ----------------------------------------------------------------------------------------------------------

    def stock_fresh(self) -> Finding:
        if not self._follows_stock:
            return _NO_STOCK
        now = self._ledger.now()
        warn_after, error_after = _windows(self._settings.stock.every_minutes)
        last = self._ledger.mark(RESULT_MARK)
        since = last[0] if last is not None else self._began()
        if now - since <= warn_after:
            return fine(f"The shop's stock was compared with the ERP's less than {_minutes(warn_after)} ago.")
        return Finding(
            passed=False,
            text=f"The shop's stock was not compared with the ERP's since {since:%Y-%m-%d %H:%M} UTC.",
            severity=Severity.ERROR if now - since > error_after else Severity.WARNING,
            remedy="Look at the runs of shop/stock_levels: what failed there is the cause. Until then the shop may "
            "sell what is gone.",
            oldest_at=since,
        )

    def no_mass_change_waits(self) -> Finding:
        result = self._stock_result()
        if not result.get("guard"):
            return _NO_STOCK if not self._follows_stock else fine("No change of stock waits for a person.")
        return Finding(
            passed=False,
            text=f"The guard holds back {result['different']} changes of stock: {result['guard']}.",
            remedy="erp-sync run stock --dry-run shows them. If they are right, erp-sync run stock --accept writes "
            "them; if not, correct the ERP.",
            count=int(result["different"]),
            oldest_at=datetime.fromisoformat(result["read_at"]),
        )

    def stock_agrees(self) -> Finding:
        if not self._follows_stock:
            return _NO_STOCK
        result = self._stock_result()
        kinds = {
            "could not be written": result.get("failed", 0),
            "would rise by a figure too old to trust": result.get("held_back", 0),
            "are in the shop more than once": result.get("ambiguous", 0),
        }
        wrong = {words: number for words, number in kinds.items() if number}
        if not wrong:
            return fine("What the ERP has to sell was written to the shop.")
        named = (*result.get("examples", {}).get("failed", ()), *result.get("examples", {}).get("ambiguous", ()))
        return Finding(
            passed=False,
            text=f"Of the shop's stocks {', '.join(f'{number} {words}' for words, number in wrong.items())}.",
            severity=Severity.WARNING,
            remedy="The latest run of shop/stock_levels names them and says why: correct the shop's rows or the "
            "profile.",
            count=sum(wrong.values()),
            oldest_at=datetime.fromisoformat(result["read_at"]),
            sample=tuple(each.partition(":")[0] for each in named[:SAMPLE]),
        )

    # ----------------------------------------------------------------------------------------------------------------

    def _incidents(self, wanted: Callable[[Troubled], bool], what: str, good: str, remedy: str) -> Finding:
        found = _first_of(order for order in self._ledger.troubled() if wanted(order))
        return _standing(found, what, good, remedy, severity=Severity.ERROR)

    def _tasks(self) -> list[_Task]:
        """The most urgent first."""
        mine = [order for order in self._ledger.troubled_statuses() if order.cancellation in _TASKS]
        since = self._ledger.last_status_events([order.order_id for order in mine], _TASKS.values())
        has = timedelta(hours=self._settings.statuses.too_late_hours)
        now = self._ledger.now()
        tasks = [_task(order, since.get(order.order_id, now), has) for order in mine]
        wanted = [task for task, order in zip(tasks, mine, strict=True) if order.is_watched or not task.is_over(now)]
        return sorted(wanted, key=lambda task: (task.until is None, task.until or task.since, task.number))

    def _stock_result(self) -> Mapping[str, Any]:
        mark = self._ledger.mark(RESULT_MARK)
        return json.loads(mark[1]) if mark is not None else {}

    def _began(self) -> datetime:
        """When somebody first looked: what was never done is late from then on."""
        mark = self._ledger.mark(_BEGAN)
        if mark is None:
            self._ledger.set_mark(_BEGAN)
            return self._ledger.now()
        return mark[0]


_NO_STOCK = fine("The profile has no [stock] block: the shop's stock does not follow the ERP.")


def remember_stock(ledger: Ledger, result: StockResult) -> None:
    """What a finished pass of the stock flow saw, for the checks. Raises LedgerUnavailable."""
    names = ("found", "different", "written", "held_back", "failed", "ambiguous", "guard")
    figures = {name: getattr(result, name) for name in names}
    read_at = (result.read_at or ledger.now()).isoformat()
    examples = {kind: result.examples[kind][:SAMPLE] for kind in ("failed", "ambiguous") if result.examples.get(kind)}
    ledger.set_mark(RESULT_MARK, json.dumps({**figures, "read_at": read_at, "examples": examples}))


_TASKS = {
    Cancellation.TOO_LATE: "too_late",
    Cancellation.RESIDUE: "residue",
    Cancellation.REFUSED: "cancel_refused",
    Cancellation.RESTORED: "restored",
}
"""Cancellations that a person has to settle, and the event that made them so."""


@dataclass(frozen=True, slots=True)
class _Task:
    number: str
    since: datetime
    until: datetime | None
    """None: it has no deadline."""
    _time: timedelta = field(repr=False)

    def is_urgent(self, now: datetime) -> bool:
        return self.until is not None and now > self.until - self._time * LAST_QUARTER

    def is_over(self, now: datetime) -> bool:
        return self.until is None or now > self.until


def _task(order: TroubledStatus, since: datetime, time: timedelta) -> _Task:
    has_deadline = order.cancellation in (Cancellation.TOO_LATE, Cancellation.RESIDUE)
    return _Task(order.number, since, since + time if has_deadline else None, time)


def _is_twice(order: Troubled) -> bool:
    return any(problem.field == ERP_ORDERS for problem in order.problems)


def _has_other_total(order: Troubled) -> bool:
    return any(OTHER_TOTAL in problem.advice for problem in order.problems)


def _first_of(orders: Iterator[Troubled]) -> Standing:
    count, oldest, sample = 0, None, list[str]()
    for order in orders:
        count += 1
        oldest = min(filter(None, (oldest, order.found_at)))
        sample += [order.number] if len(sample) < SAMPLE else []
    return Standing(count, oldest, tuple(sample))


def _lagging(
    late: Standing, now: datetime, what: str, good: str, remedy: str, *, error_after: timedelta = ERROR_AFTER
) -> Finding:
    severity = Severity.ERROR if _older(late, now, error_after) else Severity.WARNING
    return _standing(late, what, good, remedy, severity=severity)


def _standing(found: Standing, what: str, good: str, remedy: str, *, severity: Severity) -> Finding:
    if not found.count:
        return fine(good)
    since = f", the oldest since {found.oldest_at:%Y-%m-%d %H:%M} UTC" if found.oldest_at is not None else ""
    return Finding(
        passed=False,
        text=f"{what}: {_orders(found.count)}{since}.",
        severity=severity,
        remedy=remedy,
        count=found.count,
        oldest_at=found.oldest_at,
        sample=found.sample,
    )


def _orders(count: int) -> str:
    return "1 order" if count == 1 else f"{count} orders"


def _older(found: Standing, now: datetime, than: timedelta) -> bool:
    return found.oldest_at is not None and now - found.oldest_at >= than


def _windows(every_minutes: int) -> tuple[timedelta, timedelta]:
    """When what is done every so many minutes is late: a pass may be left out, and the next one takes its time."""
    every = timedelta(minutes=every_minutes)
    return max(WARN_AFTER, 2 * every + timedelta(minutes=5)), max(ERROR_AFTER, 4 * every)


def _minutes(span: timedelta) -> str:
    minutes = int(span.total_seconds() // 60)
    if minutes < 120:
        return f"{minutes} minutes"
    return f"{minutes // 60} hours" if minutes < 48 * 60 else f"{minutes // 1440} days"
