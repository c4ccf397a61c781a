"""The stock race on a real MariaDB (reliability-facts.md, 2.5): buyers at the checkout of the demo shop, senders,
receipts and stock passes, all at once.

The ERP here is exact: its figure falls at the instant an order is entered and rises at the instant goods arrive. So
what the shop has sold of a SKU, and what it still shows, may never exceed what there was at first and what has been
received: a unit above that is oversold because of the sync, or will be by the next buyer. Nobody else sells, so the
bound has no slack; and each safeguard that is taken away must break it.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from erp_sync.erp.stock import SkuBalance
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.models import LedgerState
from erp_sync.sandbox.shop import DemoShop, Product, SoldOut, create_schema
from erp_sync.sandbox.shop_schema import order_items, orders, products
from erp_sync.settings import OrdersSection, Settings
from erp_sync.shop.connection import shop_engine
from erp_sync.shop.database import open_shop
from erp_sync.shop.profile import Profile, load_profile
from erp_sync.shop.stock import ShopStock, StockOutcome, StockTarget
from erp_sync.shop.writing import ShopWriter
from erp_sync.sync.in_flight import InFlight
from erp_sync.sync.results import StockResult
from erp_sync.sync.stock import StockFlow
from erp_sync_tests.ledger_entries import due, found, step
from erp_sync_tests.mariadb import MariaDB

SKUS = ("BOLSA-01", "bolsa-01", *(f"PECA-{place:02d}" for place in range(8)))
FIRST = 4
"""Units of each SKU that there are at first: the shelves are empty most of the time."""
BUYERS = 5
SENDERS = 2
SYNCS = 2
SECONDS = 6.0
ROUNDS = 4
"""A mutant that does not oversell in one round gets another."""
BULK = """
UPDATE erp_sync_stock s
  STRAIGHT_JOIN products p ON p.sku = s.sku COLLATE utf8mb4_unicode_ci AND HEX(p.sku) = HEX(s.sku)
   SET p.stock = s.quantity
"""


class ExactErp:
    """Available falls when an order is entered, and rises when goods arrive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._available = Counter(dict.fromkeys(SKUS, FIRST))
        self._received = Counter(dict.fromkeys(SKUS, FIRST))
        self._dice = random.Random(5)

    def all(self) -> Iterator[SkuBalance]:
        """A real read takes its time, and each row shows another instant."""
        for sku in SKUS:
            time.sleep(self._dice.uniform(0, 0.004))
            with self._lock:
                figure = self._available[sku]
            yield SkuBalance(sku, {"01": Decimal(figure)})

    def enter(self, lines: Sequence[tuple[str, int]]) -> None:
        with self._lock:
            for sku, quantity in lines:
                self._available[sku] -= quantity

    def receive(self, sku: str, quantity: int) -> None:
        with self._lock:
            self._available[sku] += quantity
            self._received[sku] += quantity

    def received(self, sku: str) -> int:
        """What there was at first included."""
        with self._lock:
            return self._received[sku]

    def available(self, sku: str) -> int:
        with self._lock:
            return self._available[sku]


class Race:
    """One round. `oversold` and `uncovered` grow while it runs."""

    def __init__(self, shop_url: str, ledger_url: str, profile: Profile) -> None:
        self.shop_url, self.ledger_url, self.profile = shop_url, ledger_url, profile
        self.engine = sa.create_engine(shop_url, pool_size=BUYERS + 4)
        self._till = sa.create_engine(shop_url, pool_size=BUYERS)
        self._dice = random.Random(7)
        sa.event.listen(self._till, "commit", self._take_time)
        create_schema(self.engine)
        migrate(ledger_url)
        first = DemoShop(self.engine)
        first.stock_catalogue([Product(sku, sku, Decimal("10.00"), FIRST) for sku in SKUS])
        first.add_customers(20)
        with self.engine.connect() as connection:
            self.ids = {row.sku: row.id for row in connection.execute(sa.select(products.c.sku, products.c.id))}
        self.erp = ExactErp()
        self.oversold: Counter[str] = Counter()
        """Units sold that there were not."""
        self.uncovered: Counter[str] = Counter()
        """Units sold or on sale that there were not."""
        self.counts: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self.waits: list[float] = []
        """Milliseconds of each checkout that came through."""
        self._unsent: deque[int] = deque()
        self._over = threading.Event()
        self._buyers_left = BUYERS
        self._lock = threading.Lock()
        self._parts: list[Parts] = []

    @property
    def units(self) -> int:
        return self.uncovered.total()

    def run(self, sync: Sync, *, seconds: float, stop_at_first: bool, until: Mapping[str, int] | None = None) -> None:
        """`until`: so often each of these must have been counted, which a busy machine is given more time for."""
        workers: list[Callable[[], None]] = [lambda seed=seed: self._buy(seed) for seed in range(BUYERS)]  # type: ignore[misc]
        workers += [lambda seed=seed: self._send(seed) for seed in range(SENDERS)]  # type: ignore[misc]
        workers += [self._receive]
        workers += [lambda: self._sync(sync)] * SYNCS
        threads = [threading.Thread(target=self._guarded, args=(worker,), daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        while not self.errors and not (stop_at_first and self.units):
            passed, wanted = time.monotonic() - began, (until or {}).items()
            if passed > 6 * seconds or (passed > seconds and all(self.counts[name] > count for name, count in wanted)):
                break
            time.sleep(0.02)
        self._over.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        self._look()
        if self.errors:
            raise self.errors[0]

    def close(self) -> None:
        for parts in self._parts:
            parts.close()
        self.engine.dispose()
        self._till.dispose()

    def parts(self, kind: type[ShopStock] = ShopStock) -> Parts:
        """Of another process that syncs stock."""
        parts = Parts(self, kind)
        self._parts.append(parts)
        return parts

    def sold(self, sku: str) -> int:
        with self.engine.connect() as connection:
            total = sa.select(sa.func.coalesce(sa.func.sum(order_items.c.quantity), 0))
            return int(connection.scalar(total.where(order_items.c.product_id == self.ids[sku])) or 0)

    def shown(self, sku: str) -> int:
        with self.engine.connect() as connection:
            return int(connection.scalar(sa.select(products.c.stock).where(products.c.id == self.ids[sku])) or 0)

    def _take_time(self, _: sa.Connection) -> None:
        """Some checkouts hold what they have taken for a moment before they commit: a pass then waits for the row, and
        the order is not seen before."""
        if self._dice.random() < 0.3:
            time.sleep(self._dice.uniform(0.002, 0.015))

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.errors.append(error)
            self._over.set()

    def _buy(self, seed: int) -> None:
        shop = DemoShop(self._till, seed + 100, tries=1)
        dice = random.Random(seed)
        while not self._over.is_set():
            began = time.perf_counter()
            try:
                placed = shop.place_order("paid" if dice.random() < 0.7 else "pending")
            except SoldOut:
                self.counts["sold out"] += 1
                continue
            except OperationalError as error:
                # The shop's own code would place it once more; nothing of it was written.
                assert error.orig is not None
                assert error.orig.args[0] in (1213, 1205), error
                self.counts["checkouts broken off"] += 1
                self.counts["deadlocks"] += error.orig.args[0] == 1213
                continue
            self.counts["orders"] += 1
            self.waits.append((time.perf_counter() - began) * 1000)
            self._unsent.append(placed.order_id)
        with self._lock:
            self._buyers_left -= 1

    def _send(self, seed: int) -> None:
        """As the orders flow: known to the ledger, in the ERP, known to be there. Anything may happen in between."""
        ledger = open_ledger(self.ledger_url)
        dice = random.Random(seed + 50)
        try:
            while True:
                batch: list[int] = []
                while self._unsent and len(batch) < 6:
                    with self._lock:
                        if self._unsent:
                            batch.append(self._unsent.popleft())
                if batch:
                    self._send_these(ledger, batch, dice)
                elif self._over.is_set() and not self._buyers_left:
                    return
                else:
                    time.sleep(0.002)
        finally:
            ledger.close()

    def _send_these(self, ledger: Ledger, ids: Sequence[int], dice: random.Random) -> None:
        with self.engine.connect() as connection:
            waiting = list(connection.scalars(sa.select(orders.c.id).where(orders.c.id.in_(ids), _pending())))
            columns = (order_items.c.order_id, order_items.c.sku, order_items.c.quantity)
            lines = connection.execute(sa.select(*columns).where(order_items.c.order_id.in_(ids))).all()
        if waiting:
            with self.engine.begin() as connection:  # the payments arrive; the seconds of `updated_at` may not change
                connection.execute(orders.update().where(orders.c.id.in_(waiting)).values(status="paid"))
        entries = [due(str(order_id), ledger.now()) for order_id in ids]
        if dice.random() < 0.7:  # else the ERP has it before the ledger has it: as after a crash
            ledger.add(found(*entries))
        for order_id in ids:
            self.erp.enter([(line.sku, line.quantity) for line in lines if line.order_id == order_id])
        time.sleep(dice.choice((0.0, 0.001, 0.01, 0.03)))
        ledger.add(found(*entries))
        now = ledger.now()
        done = ledger.change(
            [
                step(entry, "sent", state=LedgerState.SENT, sent_at=now, next_at=None, erp_number="1")
                for entry in entries
            ]
        )
        assert all(done)

    def _receive(self) -> None:
        """As many units as are asked for, but always fewer than would be bought."""
        dice = random.Random(3)
        while not self._over.is_set():
            time.sleep(dice.uniform(0, 0.012))
            sku = dice.choice(SKUS)
            self._look()
            self.erp.receive(sku, dice.choice((1, 1, 2, 3, 5)))
            self.counts["receipts"] += 1

    def _look(self) -> None:
        """One statement sees one instant; goods arrive from here alone. Just before more of them do, what was sold
        meanwhile is greatest against them: no shortage escapes."""
        sold = sa.select(sa.func.coalesce(sa.func.sum(order_items.c.quantity), 0))
        sold_of = sold.where(order_items.c.product_id == products.c.id).scalar_subquery()
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(products.c.sku, products.c.stock, sold_of.label("sold"))).all()
        for row in rows:
            short = int(row.sold) - self.erp.received(row.sku)
            self.oversold[row.sku] = max(self.oversold[row.sku], short)
            self.uncovered[row.sku] = max(self.uncovered[row.sku], short + row.stock)

    def _sync(self, sync: Sync) -> None:
        run = sync(self)
        while not self._over.is_set():
            result = run()
            assert result.failure is None, result.failure
            assert not result.failed, result.examples
            self.counts["syncs"] += 1
            self.counts["written"] += result.written


def _pending() -> Any:
    return orders.c.status == "pending"


class Parts:
    """What the stock flow of one process is made of."""

    def __init__(self, race: Race, kind: type[ShopStock]) -> None:
        assert race.profile.stock is not None
        self._shop = open_shop(race.shop_url, race.profile)
        self._ledger = open_ledger(race.ledger_url)
        engine = shop_engine(race.shop_url, race.profile, writes=True)
        self._stock = kind(ShopWriter(engine, race.profile), race.profile.stock)
        settings = Settings(orders=OrdersSection(start_day=datetime.now(UTC).date() - timedelta(days=5)))
        self.flow = StockFlow(self._shop, self._stock, self._ledger, race.erp, settings)

    def close(self) -> None:
        for part in (self._shop, self._ledger, self._stock):
            part.close()


Sync = Callable[[Race], Callable[[], StockResult]]
"""Of a race makes what one process does again and again."""


def as_it_is(race: Race) -> Callable[[], StockResult]:
    return race.parts().flow.run


# Without a safeguard ------------------------------------------------------------------------------------------------


class _CountedBefore(ShopStock):
    """Counts what is in flight before the transaction, and never once the rows are locked."""

    def write(
        self,
        targets: Sequence[StockTarget],
        recount: Callable[[], None],
        decide: Callable[[StockTarget, Decimal], int],
        commit_by: float,
    ) -> list[StockOutcome]:
        recount()
        return super().write(targets, lambda: None, decide, commit_by)


class _CountedOnce(ShopStock):
    """Writes what the comparison said."""

    def write(
        self,
        targets: Sequence[StockTarget],
        recount: Callable[[], None],
        decide: Callable[[StockTarget, Decimal], int],
        commit_by: float,
    ) -> list[StockOutcome]:
        return super().write(targets, lambda: None, lambda target, _: target.quantity, commit_by)


def counted_before(race: Race) -> Callable[[], StockResult]:
    return race.parts(_CountedBefore).flow.run


def counted_once(race: Race) -> Callable[[], StockResult]:
    return race.parts(_CountedOnce).flow.run


def erp_alone(race: Race) -> Callable[[], StockResult]:
    """qty = erp."""

    def run() -> StockResult:
        for balance in race.erp.all():
            quantity = max(0, int(balance.balances["01"]))
            with race.engine.begin() as connection:
                change = products.update().where(products.c.id == race.ids[balance.sku]).values(stock=quantity)
                connection.execute(change)
        return StockResult()

    return run


def _nothing(self: InFlight, sku: str, warehouses: object) -> Decimal:
    return Decimal(0)


def _sent_now(self: Ledger, order_ids: Sequence[str], moment: datetime) -> set[str]:
    """Sent by now, instead of before T."""
    return {key for key, entry in self.entries(order_ids).items() if entry.state is LedgerState.SENT}


def _unsent_now(self: Ledger, moment: datetime) -> list[str]:
    return [entry.order_id for entry in self.list(LedgerState.DUE, limit=10_000)]


MUTANTS: dict[str, tuple[Sync, dict[tuple[type, str], Any]]] = {
    "nothing in flight": (as_it_is, {(InFlight, "held"): _nothing}),
    "counted before the lock": (counted_before, {}),
    "counted once": (counted_once, {}),
    "qty = erp": (erp_alone, {}),
    "unsent now, whatever T": (as_it_is, {(Ledger, "sent_before"): _sent_now, (Ledger, "unsent_before"): _unsent_now}),
}


# The tests ----------------------------------------------------------------------------------------------------------


@contextmanager
def racing(server: MariaDB, profile: Profile) -> Iterator[Race]:
    race = Race(server.create_database(), server.create_database(), profile)
    try:
        yield race
    finally:
        race.close()


def bulk_profile(folder: Path) -> Profile:
    """The shipped one, writing set-based."""
    shipped = resources.files("erp_sync.shop").joinpath("profiles", "laravel.toml").read_text(encoding="utf-8")
    path = folder / "bulk.toml"
    path.write_text(f'{shipped}\nbulk = """{BULK}"""\n', encoding="utf-8")
    return load_profile(path)


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDB]:
    """Commits need not reach the disk here: the more of them, the harder the race."""
    with MariaDB(options=["--innodb-flush-log-at-trx-commit=2"]) as own:
        yield own


@pytest.mark.parametrize("form", ["rows", "bulk"])
def test_nothing_is_oversold(server: MariaDB, tmp_path: Path, form: str) -> None:
    profile = load_profile("laravel") if form == "rows" else bulk_profile(tmp_path)
    with racing(server, profile) as race:
        # A race in which nobody met proves nothing.
        enough = {"orders": 100, "sold out": 100, "written": 50}
        race.run(as_it_is, seconds=SECONDS, stop_at_first=False, until=enough)
        assert all(race.counts[name] > count for name, count in enough.items()), race.counts
        assert race.units == 0, (race.oversold, race.uncovered, race.counts)
        assert race.oversold.total() == 0
        assert race.counts["checkouts broken off"] == 0, "who holds rows must not wait for others"
        # Once it is quiet the shop shows exactly what there is: every order is in the ERP, and known to be.
        time.sleep(0.2)
        assert as_it_is(race)().failure is None
        for sku in SKUS:
            left = race.erp.received(sku) - race.sold(sku)
            assert race.erp.available(sku) == left
            assert race.shown(sku) == left, sku


def test_of_a_chunk_all_are_written_but_those_that_somebody_holds(
    server: MariaDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erp_sync.shop.connection.LOCK_SECONDS", 1)
    monkeypatch.setattr("erp_sync.shop.writing.TRIES", 1)
    held = {"PECA-02", "PECA-06"}
    with racing(server, bulk_profile(tmp_path)) as race:
        for sku in SKUS:
            race.erp.receive(sku, 3)
        parts = race.parts()
        with race.engine.begin() as connection:
            mine = products.c.id.in_([race.ids[sku] for sku in held])
            connection.execute(products.update().where(mine).values(stock=1))
            result = parts.flow.run()
            connection.rollback()
        assert (result.failure, result.failed) == (None, 2)
        assert {sku for sku in SKUS if race.shown(sku) == FIRST + 3} == set(SKUS) - held
        assert parts.flow.run().written == 2


@pytest.mark.parametrize("mutant", list(MUTANTS))
def test_each_safeguard_is_needed(server: MariaDB, monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    sync, patches = MUTANTS[mutant]
    for (owner, name), replacement in patches.items():
        monkeypatch.setattr(owner, name, replacement)
    units = []
    for _ in range(ROUNDS):
        with racing(server, load_profile("laravel")) as race:
            race.run(sync, seconds=SECONDS, stop_at_first=True)
            units.append(race.units)
        if race.units:
            return
    raise AssertionError(f"without {mutant!r} nothing was oversold: {units}")
