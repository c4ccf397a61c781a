"""The stock flow: the shop's stock follows the ERP, and never because of it is more sold than there is.

Two passes over one read of the ERP. The first compares it with the shop and keeps the differences in a file, however
many there are; a guard looks at their number. The second writes them, a few rows to a transaction, each with what is in
flight counted after the rows are locked (shop/stock.py).
"""

from __future__ import annotations

import heapq
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from erp_sync.errors import Misconfigured, Unavailable
from erp_sync.ledger.clock import DRIFT
from erp_sync.logs import carry_log_context, log_context
from erp_sync.shop.stock import ShopStock, StockOutcome, StockTarget
from erp_sync.stock_formula import published
from erp_sync.sync.differences import Difference, write_csv
from erp_sync.sync.health import remember_stock
from erp_sync.sync.in_flight import CLOCKS_APART, InFlight
from erp_sync.sync.passes import STOCK_MARK, stock_pass_ended
from erp_sync.sync.results import StockChange, StockResult
from erp_sync.sync.shared_answer import SharedAnswer
from erp_sync.sync.unseen import NamedStock, Unseen

if TYPE_CHECKING:
    from erp_sync.erp.stock import SkuBalance
    from erp_sync.ledger.ledger import Ledger
    from erp_sync.settings import Settings
    from erp_sync.shop.database import Shop

logger = logging.getLogger(__name__)

BUDGET_SECONDS = 240.0
"""Nothing is written so long after the comparison, which takes minutes for a million products; what is left is
different at the next pass too."""
COMPARED_TOGETHER = 500
WRITERS = 6
WRITE_SECONDS = 30.0
FEW_CHANGES = 20
"""So many stocks may change whatever share they are."""
LARGEST = 50


class StockErp(Protocol):
    """What of the ERP this flow needs; `ErpStock` has it."""

    def all(self) -> Iterator[SkuBalance]: ...


@dataclass(frozen=True, slots=True)
class _Pass:
    """What stands from its beginning on."""

    read_at: datetime
    began: float
    """By the clock that nobody sets."""
    flight: InFlight
    unseen: Unseen


class StockFlow:
    """Ties ERP, ledger and shop together. Never raises an ErpSyncError: a failure of the system is in the result."""

    def __init__(
        self,
        shop: Shop,
        shop_stock: ShopStock,
        ledger: Ledger,
        erp: StockErp,
        settings: Settings,
        *,
        by_name: NamedStock | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`by_name` None: products that no page shows are left alone. Raises Misconfigured where settings and profile
        contradict each other."""
        profile = shop.profile.stock
        assert profile is not None  # noqa: S101 - there is a ShopStock, told to the type checker
        if contradiction := settings.stock.contradiction(profile.basis, profile.warehouses):
            raise Misconfigured(contradiction)
        self._shop = shop
        self._shop_stock = shop_stock
        self._ledger = ledger
        self._erp = erp
        self._by_name = by_name
        self._section = settings.stock
        self._csv = Path(settings.stock.differences_csv) if settings.stock.differences_csv else None
        self._start_day = settings.require_start_day()
        self._newest_read = SharedAnswer(lambda: ledger.mark(STOCK_MARK))
        self._monotonic = monotonic
        self._is_physical = profile.basis == "physical"
        self._waiting_days = profile.waiting_days if profile.waiting_holds else None
        self._places = _places(profile.warehouses, settings.stock.warehouses)

    def run(
        self,
        *,
        dry_run: bool = False,
        accept: bool = False,
        budget: float = BUDGET_SECONDS,
        csv: Path | None = None,
        progress: Callable[[StockResult], None] = lambda _: None,
    ) -> StockResult:
        """`dry_run`: compare, write nothing. `accept`: a person wants a change of however many stocks. `csv`: where all
        differences are written, instead of `stock.differences_csv`."""
        with log_context(flow="stock"):
            result = self._run(dry_run=dry_run, accept=accept, budget=budget, csv=csv, progress=progress)
            stock_pass_ended(result, self._ledger)
        return result

    def _run(
        self,
        *,
        dry_run: bool,
        accept: bool,
        budget: float,
        csv: Path | None,
        progress: Callable[[StockResult], None],
    ) -> StockResult:
        result = StockResult()
        try:
            with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:
                current = self._compare(result, spool, progress)
                if not accept:
                    result.guard = self._guard(result)
                self._export(csv or self._csv, spool, result)
                wanted = not (dry_run or result.guard)
                if wanted and self._write(result, spool, current, self._monotonic() + budget, progress):
                    current.unseen.go_on()
            if not dry_run:
                remember_stock(self._ledger, result)
        except (Unavailable, Misconfigured) as failure:
            result.failure = failure
        return result

    # Comparing ------------------------------------------------------------------------------------------------------

    def _compare(self, result: StockResult, spool: IO[str], progress: Callable[[StockResult], None]) -> _Pass:
        read_at, began = self._ledger.now(), self._monotonic()
        flight = InFlight(self._shop, self._ledger, read_at, start_day=self._start_day, waiting_days=self._waiting_days)
        if not self._is_physical:
            flight.recount()
        zeros = self._section.warehouses if self._section.without_row == "zero" else ()
        unseen = Unseen(self._shop_stock, self._ledger, self._by_name, zeros)
        largest: list[tuple[int, int, StockChange]] = []
        for batch in self._batches(unseen, result):
            for difference in self._differences(batch, flight, result):
                spool.write(difference.line())
                change = StockChange(difference.sku, difference.warehouse, difference.before, difference.after)
                ranked = (abs(change.after - change.before), result.different, change)
                heapq.heappush(largest, ranked)
                if len(largest) > LARGEST:
                    heapq.heappop(largest)
            progress(result)
        listed = self._shop_stock.count_skus()
        result.unknown_to_erp = max(0, listed - result.known) if listed is not None else 0
        result.read_at = read_at
        result.in_flight_orders, result.in_flight_units = flight.orders, int(flight.units())
        result.changes = [change for _, _, change in sorted(largest, key=lambda ranked: (-ranked[0], ranked[1]))]
        return _Pass(read_at, began, flight, unseen)

    def _batches(self, unseen: Unseen, result: StockResult) -> Iterator[Sequence[SkuBalance]]:
        """What the pages show, and once they are whole, what the ERP says by name of others; a figure later than T
        counts what was sent since as in flight too, so it is on the safe side."""
        balances = self._erp.all()
        while batch := list(islice(balances, COMPARED_TOGETHER)):
            result.skus += len(batch)
            unseen.shown(batch)
            yield batch
        if answered := unseen.ask(result):
            yield answered

    def _differences(self, batch: Sequence[SkuBalance], flight: InFlight, result: StockResult) -> Iterator[Difference]:
        wanted: dict[tuple[str, str], tuple[Decimal, int, int]] = {}
        for balance in batch:
            for name, warehouses in self._places.items():
                own = [self._spare(code, balance.balances[code]) for code in warehouses if code in balance.balances]
                if not own:
                    continue  # unknown there: whoever has no row in any of its warehouses is left alone
                available = sum(own, Decimal(0))
                buffer = self._section.sku_buffers.get(balance.sku, self._section.buffer)
                held = Decimal(0) if self._is_physical else flight.held(balance.sku, warehouses)
                after = published(available, in_flight=held, buffer=buffer)
                wanted[balance.sku, name] = available, buffer, after
        in_shop: dict[str, int] = {}
        for place, shown in self._shop_stock.present(list(wanted)).items():
            in_shop[place[0]] = max(in_shop.get(place[0], 0), len(shown))
            if len(shown) != 1:
                result.trouble("ambiguous" if shown else "unknown", place[0])
                continue
            result.found += 1
            available, buffer, after = wanted[place]
            if shown[0] != after:
                result.different += 1
                yield Difference(*place, available, buffer, int(shown[0]), after)
        result.known += sum(in_shop.values())

    def _spare(self, warehouse: str, balance: Decimal) -> Decimal:
        """What is not kept there: no more than there is can be kept, and a shortage is one whatever is kept."""
        return balance - min(Decimal(self._section.warehouse_buffers.get(warehouse, 0)), max(balance, Decimal(0)))

    def _export(self, path: Path | None, spool: IO[str], result: StockResult) -> None:
        """Stock is not kept waiting for a file that cannot be written."""
        if path is None:
            return
        spool.seek(0)
        try:
            write_csv(path, map(Difference.of, spool))
        except OSError as error:
            result.csv_problem = f"{path} cannot be written ({error.strerror}): correct stock.differences_csv or --csv"
            logger.warning("the differences are not written: %s", result.csv_problem)

    def _guard(self, result: StockResult) -> str:
        share = result.different / max(result.found, 1)
        if result.different < FEW_CHANGES or share <= self._section.max_change_share:
            return ""
        return (
            f"{result.different} of {result.found} stocks would change ({share:.0%}), more than stock.max_change_share "
            f"= {self._section.max_change_share:.0%}: nothing was written; look at it with erp-sync run stock "
            "--dry-run, and write it with erp-sync run stock --accept"
        )

    # Writing --------------------------------------------------------------------------------------------------------

    def _write(
        self,
        result: StockResult,
        spool: IO[str],
        current: _Pass,
        until: float,
        progress: Callable[[StockResult], None],
    ) -> bool:
        """Whether all were tried in the time there was."""
        self._announce(current.read_at)
        spool.seek(0)
        lines = iter(spool)
        at_work: set[Future[StockResult]] = set()
        writers = WRITERS if self._shop_stock.together == 1 else 1  # one lock each, or many at once
        with ThreadPoolExecutor(writers, "stock-write", carry_log_context()) as pool:
            while self._monotonic() < until and (
                chunk := [Difference.of(line) for line in islice(lines, self._shop_stock.together)]
            ):
                at_work.add(pool.submit(self._write_chunk, chunk, current))
                if len(at_work) >= 2 * writers:
                    done, at_work = wait(at_work, return_when=FIRST_COMPLETED)
                    self._add(result, done, progress)
            self._add(result, at_work, progress)
        return next(lines, None) is None

    @staticmethod
    def _add(result: StockResult, done: Iterable[Future[StockResult]], progress: Callable[[StockResult], None]) -> None:
        for future in done:
            result.add(future.result())
        progress(result)

    def _write_chunk(self, chunk: Sequence[Difference], current: _Pass) -> StockResult:
        result = StockResult()
        by_place = {(difference.sku, difference.warehouse): difference for difference in chunk}
        stale = True
        held_back: set[tuple[str, str]] = set()

        def recount() -> None:
            nonlocal stale
            if not self._is_physical:
                current.flight.recount()
            # After the rows are locked: a newer run that has written before us is known by now.
            stale = self._is_stale(current)

        def decide(target: StockTarget, present: Decimal) -> int:
            difference = by_place[target.place]
            warehouses = self._places[target.warehouse]
            held = Decimal(0) if self._is_physical else current.flight.held(target.sku, warehouses)
            quantity = published(difference.available, in_flight=held, buffer=difference.buffer)
            if stale and quantity > present:
                held_back.add(target.place)
                return int(present)
            held_back.discard(target.place)
            return quantity

        targets = [StockTarget(each.sku, each.warehouse, each.after, previous=each.before) for each in chunk]
        commit_by = self._monotonic() + WRITE_SECONDS
        outcomes = self._shop_stock.write(targets, recount, decide, commit_by)
        for target, outcome in zip(targets, outcomes, strict=True):
            self._count(target, outcome, target.place in held_back, result)
        return result

    @staticmethod
    def _count(target: StockTarget, outcome: StockOutcome, held_back: bool, result: StockResult) -> None:
        if outcome.problem:
            result.trouble("failed", f"{target.sku}: {outcome.problem}")
            logger.warning("stock of %s: %s", target.sku, outcome.problem)
            return
        result.held_back += held_back
        result.written += outcome.after != outcome.before
        result.raised += outcome.after > outcome.before
        result.lowered += outcome.after < outcome.before

    def _announce(self, read_at: datetime) -> None:
        """From here on no older read raises a figure."""
        self._ledger.raise_mark(STOCK_MARK, _text(read_at), at_most=_text(self._ledger.now() + CLOCKS_APART))

    def _is_stale(self, current: _Pass) -> bool:
        passed = timedelta(seconds=self._monotonic() - current.began)
        mark = self._newest_read()
        now = self._ledger.now()
        # One that lies ahead is of a clock that has jumped back since.
        newer = mark is not None and _text(current.read_at) < mark[1] <= _text(now + CLOCKS_APART)
        # Set back meanwhile: what was sent after T may bear a time before it, even once the clock has passed T again.
        set_back = now - current.read_at < passed - CLOCKS_APART / 2 - passed * DRIFT
        return newer or set_back or now - current.read_at > timedelta(minutes=self._section.stale_minutes)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


def _places(of_shop: Mapping[str, str], of_erp: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The shop's name of each of its stocks = the ERP warehouses that are summed for it."""
    if not of_shop:
        return {"": tuple(of_erp)}
    places: dict[str, list[str]] = {}
    for code in of_erp:
        places.setdefault(of_shop[code], []).append(code)
    return {name: tuple(codes) for name, codes in places.items()}
