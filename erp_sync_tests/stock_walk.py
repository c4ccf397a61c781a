"""A long random walk of shop, ERP, ledger and stock passes on a real MariaDB.

The shop's checkouts, the ledger and the stock flow are the real ones; the ERP is a model whose SB2 rows move as
contracts/protheus-rest.md, 9.2 says, and vanish and come back. Between any two calls of a pass anything else may
happen: orders, other passes, a clock that is set, the end of the process. After every step nothing may be on sale that
is not there: what other channels take between two reads is counted apart, it says how large a buffer would have had to
be.

    python -m erp_sync_tests.stock_walk --steps 100000 [--first SEED]
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

import erp_sync.sync.stock
from erp_sync.erp.stock import SkuBalance
from erp_sync.errors import ErpUnavailable
from erp_sync.ledger.clock import SLOW_SECONDS
from erp_sync.ledger.entry import Entry
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.ledger.tables import entries, events, marks, statuses
from erp_sync.models import LedgerState
from erp_sync.sandbox.shop import DemoShop, Product, SoldOut, create_schema
from erp_sync.sandbox.shop_schema import order_items, orders, products
from erp_sync.settings import OrdersSection, Settings, StockSection
from erp_sync.shop.connection import shop_engine
from erp_sync.shop.database import open_shop
from erp_sync.shop.profile import load_profile
from erp_sync.shop.stock import ShopStock, StockOutcome, StockTarget
from erp_sync.shop.writing import ShopWriter
from erp_sync.stock_formula import available, fields
from erp_sync.sync.stock import StockFlow
from erp_sync_tests.ledger_entries import due, found, step
from erp_sync_tests.mariadb import MariaDB

SKUS = ("BOLSA-01", "bolsa-01", "É-01", "E-01", "O'NEILL", "COM ESPACO", ":sku", "%s", "PECA-1", "PECA-2")
FIELDS = fields("standard", subtract_open_orders=True)
STEPS = 500
"""Of an episode: then all comes to rest, is compared to the unit, and begins anew."""
FEW_CHANGES = 4
"""Instead of the flow's own, which this catalogue would never reach."""
POINTS = ("reading", "read", "before write", "locked", "counted", "before commit", "written")
"""Where a pass may be cut off, and where other things may happen within it."""
_HOLDS_A_ROW = {"locked", "counted", "before commit"}


class Cut(BaseException):
    """The pass ends here, as if its process had died."""


class Broken(AssertionError):
    """What must always be true is not."""


@dataclass(eq=False)
class Sale:
    order_id: int
    lines: Counter[str]
    shop: str
    """pending, paid or cancelled."""
    erp: str = ""
    """"": it is not there; else ordered, released, invoiced or cancelled."""
    entry: Entry | None = None
    """None: the ledger does not know it yet."""
    busy: bool = False

    @property
    def is_sent(self) -> bool:
        return self.entry is not None and self.entry.state is LedgerState.SENT


class Hand:
    """The ledger's clock: real time, and what the walk adds to it."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.passed = 0.0
        self.set_by = 0.0
        self._latest = 0.0

    def beyond(self) -> None:
        """Later than it ever was."""
        self.set_by += max(0.0, self._latest - self._seconds()) + 1

    def _seconds(self) -> float:
        return time.monotonic() - self._started + self.passed + self.set_by

    def __call__(self) -> datetime:
        seconds = self._seconds()
        self._latest = max(self._latest, seconds)
        return datetime(2026, 11, 23, 12, tzinfo=UTC) + timedelta(seconds=seconds)

    def monotonic(self) -> float:
        return time.monotonic() + self.passed


@dataclass
class Pass:
    """One stock pass of the walk."""

    number: int
    cut_at: str = ""
    kill: bool = False
    """The process ends by SIGKILL there; it is a forked one."""
    zeros: bool = False
    missing: str = ""
    set_backs: int = 0
    """How often the clock had been set back when it began."""
    taken: dict[str, Decimal] = field(default_factory=dict)
    """What other channels had taken when the SKU's row was read."""


class _Stock(ShopStock):
    """The real one, with the walk between its steps."""

    def __init__(self, walk: Walk, current: Pass, writer: ShopWriter) -> None:
        section = walk.profile.stock
        assert section is not None
        super().__init__(writer, section)
        self._walk, self._pass = walk, current

    def write(
        self,
        targets: Sequence[StockTarget],
        recount: Callable[[], None],
        decide: Callable[[StockTarget, Decimal], int],
        commit_by: float,
    ) -> list[StockOutcome]:
        self._walk.between(self._pass, "before write")

        def counted() -> None:
            self._walk.between(self._pass, "locked")
            recount()
            self._walk.between(self._pass, "counted")

        outcomes = super().write(targets, counted, decide, commit_by)
        for target, outcome in zip(targets, outcomes, strict=True):
            if not outcome.problem:
                self._walk.wrote(self._pass, target.sku, int(outcome.before), outcome.after)
        self._walk.between(self._pass, "written")
        return outcomes


class _Writer(ShopWriter):
    def __init__(self, walk: Walk, current: Pass) -> None:
        super().__init__(walk.writing, walk.profile)
        self._walk, self._pass = walk, current

    def transaction(self, work: Callable[[Any, Any], Any], commit_by: float) -> Any:
        def then(connection: Any, outside: Any) -> Any:
            done = work(connection, outside)
            self._walk.between(self._pass, "before commit")
            return done

        return super().transaction(then, commit_by)


class _Reader:
    def __init__(self, walk: Walk, current: Pass) -> None:
        self._walk, self._pass = walk, current

    def all(self) -> Iterator[SkuBalance]:
        for sku in SKUS:
            self._walk.between(self._pass, "reading")
            with self._walk.lock:
                if sku == self._pass.missing or sku in self._walk.gone:
                    continue
                figure = Decimal(0) if self._pass.zeros else self._walk.available(sku)
                self._pass.taken[sku] = self._walk.taken[sku]
            yield SkuBalance(sku, {"01": figure})
        self._walk.between(self._pass, "read")


class _Named:
    """Now and then it does not answer."""

    def __init__(self, walk: Walk, current: Pass) -> None:
        self._walk, self._pass = walk, current

    def can_have(self, sku: str) -> bool:
        return True

    def named(self, skus: Sequence[str], witness: str) -> dict[str, dict[str, Decimal] | None]:
        self._walk.between(self._pass, "reading")
        if not self._walk.is_quiet and self._walk.dice.random() < 0.2:
            raise ErpUnavailable("it does not answer for names")
        balances: dict[str, dict[str, Decimal] | None] = {}
        for sku in skus:
            with self._walk.lock:
                if sku not in self._walk.gone:
                    balances[sku] = {"01": self._walk.available(sku)}
                    self._pass.taken[sku] = self._walk.taken[sku]
                    self._walk.counts["shown by name"] += 1
        return balances

    def registered(self, skus: Sequence[str]) -> set[str]:
        """The last one is never in SB1."""
        found = set(skus) - {SKUS[-1]}
        for sku in found:
            self._pass.taken[sku] = self._walk.taken[sku]
            self._walk.counts["zero by name"] += 1
        return found


class Walk:
    """On two empty databases. `episode` may be called again and again."""

    def __init__(self, shop_url: str, ledger_url: str) -> None:
        self.shop_url, self.ledger_url = shop_url, ledger_url
        self.engine = sa.create_engine(shop_url, isolation_level="READ COMMITTED")
        create_schema(self.engine)
        migrate(ledger_url)
        DemoShop(self.engine).add_customers(20)
        self.profile = load_profile("laravel")
        self.clock = Hand()
        self._connect()
        self.counts: Counter[str] = Counter()
        self.steps = 0
        """Taken so far, those within passes too."""
        self.exposed = 0
        """The most units on sale that another channel had taken since the read they rest on."""
        self.lock = threading.RLock()
        self.dice = random.Random(0)

    def _connect(self) -> None:
        self.writing = shop_engine(self.shop_url, self.profile, writes=True)
        self.shop = open_shop(self.shop_url, self.profile)
        self.ledger: Ledger = open_ledger(self.ledger_url, clock=self.clock)

    def close(self) -> None:
        self.ledger.close()
        self.shop.close()
        self.writing.dispose()
        self.engine.dispose()

    # The ERP's model ------------------------------------------------------------------------------------------------

    def available(self, sku: str) -> Decimal:
        return available(self.rows[sku], "standard", subtract_open_orders=True)

    def left(self, sku: str) -> Decimal:
        """What nobody has bought: of all that came, less what went."""
        return self.came[sku] - self.taken[sku] - self.sold[sku]

    def _move(self, sale: Sale, **signs: int) -> None:
        with self.lock:
            for sku, quantity in sale.lines.items():
                for name, sign in signs.items():
                    self.rows[sku][f"B2_{name}"] += sign * quantity

    # An episode -----------------------------------------------------------------------------------------------------

    def begin(self, seed: int) -> None:
        self.seed, self.dice = seed, random.Random(seed)
        dice = self.dice
        self.clock.beyond()
        self.ledger.close()
        with self.engine.begin() as connection:
            for table in (order_items, orders, products):
                connection.execute(sa.delete(table))
        stock_rows = [Product(sku, sku, Decimal("10.00"), 0) for sku in SKUS]
        self.desks = [DemoShop(self.engine, seed * 10 + place, tries=1) for place in range(4)]
        self.desks[0].stock_catalogue(stock_rows)
        with self.engine.connect() as connection:
            self.ids = {row.sku: row.id for row in connection.execute(sa.select(products.c.sku, products.c.id))}
        self.ledger = open_ledger(self.ledger_url, clock=self.clock)
        with self.ledger.database.writer.connect() as connection:
            for table in (events, statuses, entries):
                connection.execute(sa.delete(table))
            connection.execute(sa.delete(marks).where(marks.c.name == "stock.read_at"))
            connection.commit()
        self.buffer = dice.choice((0, 0, 2))
        self.settings = Settings(
            orders=OrdersSection(start_day=datetime.now(UTC).date() - timedelta(days=5)),
            stock=StockSection(buffer=self.buffer, without_row=dice.choice(("unknown", "zero"))),
        )
        self.rows = {sku: dict.fromkeys(FIELDS, Decimal(0)) for sku in SKUS}
        self.gone: set[str] = set()
        """SKUs without a row for now."""
        self.came = dict.fromkeys(SKUS, Decimal(0))
        self.taken = dict.fromkeys(SKUS, Decimal(0))
        self.sold = dict.fromkeys(SKUS, Decimal(0))
        self.sales: list[Sale] = []
        # Of what each SKU shows:
        self.rests_on = dict.fromkeys(SKUS, Decimal(0))
        """What other channels had taken at the read that it rests on."""
        self.given_back: Counter[str] = Counter()
        """Put back on a shelf that was written as 0, because it cannot show less, and was not raised since."""
        self.zero: set[str] = set()
        self.story: deque[str] = deque(maxlen=60)
        self.newest: Counter[str] = Counter()
        self._passes = 0
        self._depth = 0
        self._set_backs = 0
        self._turned = 0.0
        """By how much the clock was last set within the pass that runs."""
        self.threaded = False
        self.is_quiet = False
        for sku in SKUS:
            self._came(sku, Decimal(dice.randint(0, 8)))

    def episode(self, seed: int, steps: int = STEPS) -> None:
        """At least so many steps."""
        self.begin(seed)
        end = self.steps + steps
        while self.steps < end:
            self.step()
        self.rest()

    def step(self) -> None:
        names = list(STEPS_OF)
        name = self.dice.choices(names, [STEPS_OF[name] for name in names])[0]
        self._do(name)

    def _do(self, name: str) -> None:
        self.counts[name] += 1
        self.steps += 1
        self.story.append(f"{'  ' * self._depth}{name} {self.clock():%H:%M:%S.%f}")
        getattr(self, f"_{name}")()
        self.clock.passed += 10 ** self.dice.uniform(-4, 0.3)
        if not self.threaded:
            self.check(name)

    def check(self, after: str) -> None:
        shown = self.shown()
        for sku in SKUS:
            there = int((self.left(sku) - self.buffer).to_integral_value(ROUND_FLOOR))
            too_many = shown[sku] - max(0, there)
            # Half a unit that is taken makes a whole one less to sell.
            elsewhere = int((self.taken[sku] - self.rests_on[sku]).to_integral_value(ROUND_CEILING))
            clamped = self.given_back[sku]
            if too_many > elsewhere + clamped:
                raise Broken(
                    f"seed {self.seed}, after {after}: {sku!r} shows {shown[sku]}, {there} are there; other channels "
                    f"took {elsewhere} since the read, {clamped} were given back on an empty shelf"
                )
            self.exposed = max(self.exposed, too_many - clamped)

    def shown(self) -> dict[str, int]:
        with self.engine.connect() as connection:
            return {row.sku: row.stock for row in connection.execute(sa.select(products.c.sku, products.c.stock))}

    def rest(self) -> None:
        """Everything comes to its end, and one more pass: then the shop shows what is left, to the unit."""
        self.is_quiet = True
        self.gone.clear()
        self.clock.beyond()
        for sale in self.sales:
            if sale.erp and not sale.is_sent:
                self._sent(sale, lag=0.0)
        self.clock.beyond()
        result = self._flow(Pass(10**9)).run(accept=True)
        if result.failure or result.failed or result.held_back:
            raise Broken(f"seed {self.seed}: the last pass: {result}")
        shown = self.shown()
        for sku in SKUS:
            in_flight = sum(sale.lines[sku] for sale in self.sales if sale.shop != "cancelled" and not sale.erp)
            kept = sum(
                sale.lines[sku] for sale in self.sales if sale.shop == "cancelled" and sale.erp not in ("", "cancelled")
            )
            if self.available(sku) != self.left(sku) + in_flight - kept:
                raise Broken(f"seed {self.seed}: the model itself is wrong about {sku!r}")
            wanted = max(0, int((self.available(sku) - in_flight - self.buffer).to_integral_value(ROUND_FLOOR)))
            if shown[sku] != wanted:
                raise Broken(f"seed {self.seed}: in the end {sku!r} shows {shown[sku]}, not {wanted}")

    # What a pass is interrupted by ----------------------------------------------------------------------------------

    def between(self, current: Pass, point: str) -> None:
        if current.cut_at == point and self.dice.random() < 0.4:
            if current.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            self.counts[f"cut: {point}"] += 1
            raise Cut
        if self.is_quiet:
            return
        if self.threaded:
            time.sleep(self.dice.choice((0, 0, 0.001, 0.004)))
            return
        if current.kill or self._depth >= 2 or self.dice.random() > 0.25:
            return
        self._depth += 1
        try:
            allowed = QUIET if point in _HOLDS_A_ROW else STEPS_OF
            names = list(allowed)
            for name in self.dice.choices(names, [allowed[name] for name in names], k=self.dice.randint(1, 3)):
                self.counts["within a pass"] += 1
                self._do(name)
        finally:
            self._depth -= 1

    def wrote(self, current: Pass, sku: str, before: int, after: int) -> None:
        if sku not in current.taken:
            raise Broken(f"seed {self.seed}: neither page nor name showed {sku!r}, and it was written")
        with self.lock:
            if not self.threaded and after > before and current.number < self.newest[sku]:
                raise Broken(f"seed {self.seed}: {sku!r} was raised from {before} to {after} by an older read")
            self.newest[sku] = max(self.newest[sku], current.number)
            if not self.threaded and (not after or after > before):
                # An old read that lowers, or leaves what it may not raise, says nothing of how far below zero it was.
                self.given_back[sku] = 0
                (self.zero.discard if after else self.zero.add)(sku)
            self.story.append(f"pass {current.number} wrote {sku!r}: {before} -> {after}")
            # One that may only lower leaves a figure that rests on the read before.
            may_raise = current.set_backs == self._set_backs and current.number >= max(self.newest.values())
            if sku in current.taken and (after > before or may_raise):
                base = current.taken[sku]
                self.rests_on[sku] = base if after > before else max(self.rests_on[sku], base)
            self.counts["raised" if after > before else "lowered" if after < before else "unchanged"] += 1

    # The steps ------------------------------------------------------------------------------------------------------

    def _pick(self, wanted: Callable[[Sale], bool]) -> Sale | None:
        with self.lock:
            fitting = [sale for sale in self.sales if not sale.busy and wanted(sale)]
            if not fitting:
                return None
            sale = self.dice.choice(fitting)
            sale.busy = True
            return sale

    def _buy(self) -> None:
        desk = self.desks[threading.get_ident() % 4] if self.threaded else self.desks[0]
        status = "paid" if self.dice.random() < 0.6 else "pending"
        with self.lock if self.threaded else _Nothing():
            try:
                placed = desk.place_order(status)
            except SoldOut:
                self.counts["sold out"] += 1
                return
        with self.engine.connect() as connection:
            columns = (order_items.c.sku, order_items.c.quantity)
            rows = connection.execute(sa.select(*columns).where(order_items.c.order_id == placed.order_id)).all()
        lines: Counter[str] = Counter()
        for row in rows:
            lines[row.sku] += row.quantity
        with self.lock:
            for sku, quantity in lines.items():
                self.sold[sku] += quantity
            self.sales.append(Sale(placed.order_id, lines, status))

    def _pay(self) -> None:
        sale = self._pick(lambda sale: sale.shop == "pending")
        if sale is not None:
            self._set_status(sale, "paid", {})
            sale.busy = False

    def _cancel(self) -> None:
        """The shop gives back what it took, in the transaction that cancels."""
        sale = self._pick(lambda sale: sale.shop != "cancelled" and sale.erp != "invoiced")
        if sale is None:
            return
        self._set_status(sale, "cancelled", sale.lines)
        with self.lock:
            for sku, quantity in sale.lines.items():
                self.sold[sku] -= quantity
                self.given_back[sku] += quantity if sku in self.zero or self.threaded else 0
        if sale.entry is not None and sale.entry.state is LedgerState.DUE and not sale.erp:
            self._change(sale, "cancelled", state=LedgerState.CANCELLED, next_at=None)
        sale.busy = False

    def _set_status(self, sale: Sale, status: str, back: Counter[str] | dict[str, int]) -> None:
        while True:
            try:
                with self.engine.begin() as connection:
                    for sku in sorted(back, key=self.ids.__getitem__):
                        row = products.update().where(products.c.id == self.ids[sku])
                        connection.execute(row.values(stock=products.c.stock + back[sku]))
                    values = {"status": status, "updated_at": self.desks[0].now()}
                    connection.execute(orders.update().where(orders.c.id == sale.order_id).values(values))
                break
            except OperationalError as error:
                assert error.orig is not None
                if error.orig.args[0] not in (1205, 1213):
                    raise
        sale.shop = status

    def _find(self) -> None:
        sale = self._pick(lambda sale: sale.shop == "paid" and sale.entry is None)
        if sale is not None:
            self._known(sale)
            sale.busy = False

    def _known(self, sale: Sale) -> None:
        if sale.entry is None:
            sale.entry = due(str(sale.order_id), self.ledger.now())
            if self.ledger.add(found(sale.entry)) != [True]:
                raise Broken(f"seed {self.seed}: the ledger had order {sale.order_id} already")

    def _send(self) -> None:
        self._enter(lost=self.dice.random() < 0.25)

    def _enter(self, *, lost: bool) -> None:
        sale = self._pick(lambda sale: sale.shop == "paid" and not sale.erp)
        if sale is None:
            return
        self._known(sale)
        self._move(sale, QPEDVEN=1)
        sale.erp = "ordered"
        if lost:
            self.counts["answers lost"] += 1
            self._change(sale, "in_doubt", state=LedgerState.IN_DOUBT, next_at=self.ledger.now())
        else:
            self._sent(sale, lag=self.dice.uniform(0, SLOW_SECONDS))
        sale.busy = False

    def _adopt(self) -> None:
        sale = self._pick(lambda sale: sale.erp != "" and not sale.is_sent)
        if sale is not None:
            self._sent(sale, lag=self.dice.uniform(0, SLOW_SECONDS))
            sale.busy = False

    def _sent(self, sale: Sale, lag: float) -> None:
        """The sender's clock may be a little behind."""
        at = self.ledger.now() - timedelta(seconds=lag)
        self._change(sale, "sent", state=LedgerState.SENT, sent_at=at, next_at=None, erp_number="1")

    def _change(self, sale: Sale, kind: str, **values: Any) -> None:
        assert sale.entry is not None
        change = step(sale.entry, kind, **values)
        if self.ledger.change([change]) != [True]:
            raise Broken(f"seed {self.seed}: the ledger did not take {kind} of order {sale.order_id}")
        sale.entry = change.new

    def _release(self) -> None:
        sale = self._pick(lambda sale: sale.erp == "ordered")
        if sale is not None:
            self._move(sale, QPEDVEN=-1, RESERVA=1)
            sale.erp, sale.busy = "released", False

    def _invoice(self) -> None:
        sale = self._pick(lambda sale: sale.erp == "released" and sale.shop == "paid" and sale.is_sent)
        if sale is not None:
            self._move(sale, RESERVA=-1, QATU=-1)
            sale.erp, sale.busy = "invoiced", False

    def _cancel_in_erp(self) -> None:
        sale = self._pick(lambda sale: sale.shop == "cancelled" and sale.erp in ("ordered", "released"))
        if sale is None:
            return
        if not sale.is_sent:
            self._sent(sale, lag=0.0)
        self._move(sale, **{"QPEDVEN" if sale.erp == "ordered" else "RESERVA": -1})
        sale.erp, sale.busy = "cancelled", False

    def _sell_elsewhere(self) -> None:
        """Now and then more than there is."""
        sku, quantity = self.dice.choice(SKUS), self._amount()
        with self.lock:
            if self.available(sku) >= quantity or self.dice.random() < 0.1:
                self.rows[sku]["B2_QATU"] -= quantity
                self.taken[sku] += quantity

    def _commit_elsewhere(self) -> None:
        """Production takes some, or gives it back: the field may be below zero."""
        sku, quantity = self.dice.choice(SKUS), self._amount()
        with self.lock:
            if self.dice.random() < 0.5:
                self.rows[sku]["B2_QEMP"] += quantity
                self.taken[sku] += quantity
            else:
                self.rows[sku]["B2_QEMP"] -= quantity
                self.came[sku] += quantity

    def _vanish(self) -> None:
        """The row of a SKU, or it is there again."""
        with self.lock:
            self.gone ^= {self.dice.choice(SKUS)}

    def _receive(self) -> None:
        self._came(self.dice.choice(SKUS), self._amount() + self.dice.choice((0, 0, 2)))

    def _came(self, sku: str, quantity: Decimal) -> None:
        with self.lock:
            self.rows[sku]["B2_QATU"] += quantity
            self.came[sku] += quantity

    def _amount(self) -> Decimal:
        return Decimal(self.dice.choice(("1", "1", "2", "3", "0.5", "1.25")))

    def _turn_clock(self) -> None:
        """Set back, or ahead. Forth and back within one pass would look as if nothing had been: no clock does that."""
        by = self.dice.choice((1, -1)) * 10 ** self.dice.uniform(-1, 3.5)
        if self._depth and by * self._turned < 0:
            return
        self._turned = by
        self._set_backs += by < 0
        self.clock.set_by += by

    def _pass(self) -> None:
        self._run(self._new())

    def _pass_cut(self) -> None:
        self._run(self._new(cut_at=self.dice.choice(POINTS)))

    def _pass_missing(self) -> None:
        sku = self.dice.choice(SKUS)
        current = self._new(missing=sku)
        self._run(current)

    def _pass_zeros(self) -> None:
        self._run(self._new(zeros=True))

    def _new(self, **how: Any) -> Pass:
        with self.lock:
            self._passes += 1
            return Pass(self._passes, set_backs=self._set_backs, **how)

    def _flow(self, current: Pass) -> StockFlow:
        stock = _Stock(self, current, _Writer(self, current))
        reader = _Reader(self, current)
        named = _Named(self, current)
        monotonic = self.clock.monotonic
        return StockFlow(self.shop, stock, self.ledger, reader, self.settings, by_name=named, monotonic=monotonic)

    def _run(self, current: Pass) -> None:
        if self._depth == 0:
            self._turned = 0.0
        try:
            result = self._flow(current).run(accept=not current.zeros)
        except Cut:
            return
        if result.failure or result.failed:
            raise Broken(f"seed {self.seed}: {result}")
        if current.zeros and result.different >= FEW_CHANGES and result.written:
            raise Broken(f"seed {self.seed}: everything was zero, and {result.written} stocks were written")
        self.counts["guarded"] += bool(result.guard)
        self.counts["held back"] += result.held_back
        self.counts["written"] += result.written

    def _pass_killed(self) -> None:
        """In a process of its own, which SIGKILL ends somewhere."""
        current = self._new(cut_at=self.dice.choice(POINTS), kill=True)
        before = self.shown()
        current.taken = dict(self.taken)
        child = os.fork()
        if not child:
            try:
                self._connect()  # the parent's connections are the parent's
                self._flow(current).run(accept=True)
            finally:
                os._exit(0)
        _, how = os.waitpid(child, 0)
        self.counts["killed"] += os.WIFSIGNALED(how)
        after = self.shown()
        for sku in SKUS:
            if after[sku] != before[sku]:
                self.wrote(current, sku, before[sku], after[sku])

    # In threads -----------------------------------------------------------------------------------------------------

    def threads(self, seed: int, rounds: int, steps: int, workers: int = 4) -> None:
        """Each round all work at once; then they stand still, and what must be true is looked at."""
        self.begin(seed)
        self.threaded = True
        names = [name for name in STEPS_OF if name not in ("pass_killed", "turn_clock", "buy")]
        weights = [STEPS_OF[name] for name in names]
        wrong: list[BaseException] = []

        def work(place: int, number: int) -> None:
            dice = random.Random(seed * 1000 + number * 10 + place)
            try:
                for _ in range(steps):
                    self._do("buy" if dice.random() < 0.35 else dice.choices(names, weights)[0])
            except BaseException as error:
                wrong.append(error)

        for number in range(rounds):
            running = [threading.Thread(target=work, args=(place, number)) for place in range(workers)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
            if wrong:
                raise wrong[0]
            self.check(f"round {number}")
        self.threaded = False
        self.rest()


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


STEPS_OF = {
    "buy": 30,
    "pay": 6,
    "cancel": 5,
    "find": 5,
    "send": 14,
    "adopt": 4,
    "release": 6,
    "invoice": 5,
    "cancel_in_erp": 4,
    "sell_elsewhere": 3,
    "commit_elsewhere": 2,
    "receive": 14,
    "vanish": 3,
    "turn_clock": 2,
    "pass": 10,
    "pass_cut": 4,
    "pass_missing": 2,
    "pass_zeros": 1,
    "pass_killed": 0.2,
}
"""How often, against each other."""
QUIET = {
    name: STEPS_OF[name]
    for name in (
        *("pay", "find", "send", "adopt", "release", "invoice", "cancel_in_erp"),
        *("sell_elsewhere", "commit_elsewhere", "receive", "vanish", "turn_clock"),
    )
}
"""What needs no row that a pass holds."""


def patched() -> None:
    """One row after another, so that the same dice make the same walk; and a guard that this catalogue can meet."""
    erp_sync.sync.stock.WRITERS = 1
    erp_sync.sync.stock.FEW_CHANGES = FEW_CHANGES


def main() -> int:
    parser = argparse.ArgumentParser(description="Walk at random through shop, ERP and stock passes on MariaDB.")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    logging.getLogger("erp_sync").setLevel(logging.ERROR)
    patched()
    started = time.perf_counter()
    broken = 0
    with MariaDB(options=["--innodb-flush-log-at-trx-commit=2"]) as server:
        walk = Walk(server.create_database(), server.create_database())
        seed = arguments.first
        while walk.steps < arguments.steps:
            try:
                walk.episode(seed)
            except Broken as wrong:
                broken += 1
                print(wrong, *walk.story, sep="\n", flush=True)
            seed += 1
        walk.close()
    took = time.perf_counter() - started
    episodes = seed - arguments.first
    print(f"{walk.steps} steps, {episodes} episodes in {took:.0f} s, {broken} broken; buffer wanted: {walk.exposed}")
    print(", ".join(f"{name} {count}" for name, count in sorted(walk.counts.items())))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
