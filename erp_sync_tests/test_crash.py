"""Whatever dies at whatever line, an order is in the ERP once: real processes, real SIGKILLs, the ERP's own journal."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from erp_sync.demo import Stage, stage
from erp_sync.ledger import tables
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.models import LedgerState
from erp_sync.sandbox import shop_schema
from erp_sync.sandbox.shop import PlacedOrder
from erp_sync_tests.bench.checker import check
from erp_sync_tests.crash import Task, Worker
from erp_sync_tests.mariadb import MariaDB

LATENCY_MS = 20
HOUR = 3600.0
CONFIG = """\
[erp]
settle_seconds = 3
connect_timeout = 2
read_timeout = 5
write_timeout = 3
max_parallel = 8
max_parallel_writes = 4
[orders]
start_day = {start_day}
"""


@dataclass
class Scene:
    """A stage whose workers may be killed. `begin` gives every act a ledger that knows nothing."""

    on: Stage
    ledger: Ledger
    shop_engine: sa.Engine
    ledger_engine: sa.Engine
    good: list[PlacedOrder] = field(default_factory=list)
    bad: list[PlacedOrder] = field(default_factory=list)
    _pristine: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def begin(self) -> None:
        """The orders of the acts before are none of the sync's business any more."""
        self.good, self.bad = [], []
        with self.shop_engine.begin() as connection:
            connection.execute(shop_schema.orders.update().values(status="refunded"))
        with self.ledger_engine.begin() as connection:
            for table in tables.metadata.sorted_tables:
                if table.name in self._pristine:
                    connection.execute(table.delete())
                    if rows := self._pristine[table.name]:
                        connection.execute(table.insert(), rows)
                else:
                    rows = [dict(row) for row in connection.execute(table.select()).mappings()]
                    self._pristine[table.name] = rows

    def place_the_five(self) -> None:
        """A known customer, an unknown one, two orders of one unknown customer, and one that the ERP refuses."""
        shop = self.on.shop
        shop.add_customers(1)
        with self.shop_engine.connect() as connection:
            newest = connection.scalar(sa.select(sa.func.max(shop_schema.customers.c.id)))
        pending = [shop.place_order() for _ in range(3)]
        for order, customer in zip(pending, (1, newest, newest), strict=True):
            shop.change_order(order, customer_id=customer, status="paid")
        self.good = [*pending, shop.place_odd_order("guest")]
        self.bad = [shop.place_bad_order("unknown_sku")]

    def worker(self, task: Task) -> Worker:
        return Worker(self.on.environment, task, self.on.folder / "workers.log")

    def recover(self) -> None:
        """On a ledger's clock that runs ahead: so first the ERP must be through with what the dead have sent."""
        time.sleep(0.05)
        while self.on.erp.admin("GET", "/state")["calls_now"]:
            time.sleep(0.02)
        for _ in range(3):
            if self.worker(Task(ahead=HOUR)).wait() == 0:
                return
        raise AssertionError(f"the last worker failed: {self.log()}")

    def log(self) -> str:
        return (self.on.folder / "workers.log").read_text(errors="replace")[-1000:]

    def fault(self) -> str:
        """What is wrong with the act's orders; "" if each is in the ERP once, to the cent, with its whole story."""
        numbers = {order.number for order in (*self.good, *self.bad)}
        journal = [line for line in self.on.erp.journal() if line["external_id"] in numbers]
        entries = self.ledger.entries([str(order.order_id) for order in (*self.good, *self.bad)])
        verdict = check(journal, self.good, entries.values(), refused=self.bad)
        if not verdict.exact:
            return str(verdict)
        for entry in entries.values():
            story = self.ledger.story(entry.order_id)
            kinds = [event.kind for _, event, _ in story]
            if len(story) != entry.version or kinds[0] != "found" or story[-1][2] is not entry.state:
                return f"the story of {entry.number} has a gap: {kinds}"
            if entry.state is LedgerState.SENT and (entry.verified_at is None or "intent" not in kinds):
                return f"{entry.number} was sent without an intent or never read back: {kinds}"
        states = {entry.number: entry.state for entry in entries.values()}
        wrong = [order.number for order in self.bad if states[order.number] is not LedgerState.REFUSED]
        return f"not refused: {wrong}" if wrong else ""


@contextmanager
def _scene(mariadb: MariaDB | None) -> Iterator[Scene]:
    shop_url, ledger_url = (mariadb.create_database(), mariadb.create_database()) if mariadb else (None, None)
    config = CONFIG.format(start_day=(datetime.now(UTC) - timedelta(days=7)).date())
    with stage(latency_ms=LATENCY_MS, config=config, shop_url=shop_url, ledger_url=ledger_url) as on:
        ledger_url = on.environment["ERP_SYNC_LEDGER_URL"]
        migrate(ledger_url)
        engines = [sa.create_engine(url) for url in (on.environment["ERP_SYNC_SHOP_URL"], ledger_url)]
        on.shop.add_customers(1)
        scene = Scene(on, open_ledger(ledger_url), engines[0], engines[1])
        scene.begin()
        try:
            yield scene
        finally:
            for engine in engines:
                engine.dispose()


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with _scene(request.getfixturevalue("mariadb") if request.param == "mariadb" else None) as scene:
        yield scene


def test_a_worker_killed_at_any_step_costs_no_order_and_doubles_none(scene: Scene) -> None:
    scene.begin()
    scene.place_the_five()
    alive = scene.worker(Task())
    assert alive.wait() == 0, scene.log()
    assert scene.fault() == ""
    steps = alive.steps()
    # On SQLite at each kind of step once: the steps are the same on both, and each costs a process.
    wanted = steps if scene.shop_engine.dialect.name == "mysql" else list(dict.fromkeys(steps))
    died_at = []
    reached: Counter[str] = Counter()
    for step in wanted:
        reached[step] += 1
        scene.begin()
        scene.place_the_five()
        worker = scene.worker(Task(kill_at=(step, reached[step])))
        if worker.wait() == -9:
            died_at.append(worker.steps()[-1])
        scene.recover()
        assert scene.fault() == "", f"killed at {step}, time {reached[step]}"
    assert set(died_at) == set(steps)
    assert len(died_at) > 0.9 * len(wanted)


def test_workers_killed_at_random_one_after_the_other(scene: Scene) -> None:
    scene.begin()
    dice = random.Random(7)
    kills = 0
    for _ in range(10):
        scene.good += scene.on.shop.checkout_many(10)
        worker = scene.worker(Task())
        worker.wait_for_its_first_step()
        time.sleep(dice.uniform(0.0, 0.3))
        kills += worker.kill()
    assert kills >= 5
    scene.recover()
    assert scene.fault() == ""


def test_two_workers_at_once_on_one_day(scene: Scene) -> None:
    scene.begin()
    scene.good = scene.on.shop.checkout_many(40)
    today = datetime.now(ZoneInfo("America/Sao_Paulo")).date()
    both = [scene.worker(Task(days=(today,))) for _ in range(2)]
    assert [worker.wait() for worker in both] == [0, 0], scene.log()
    sent = [sum(step == "create_order: answered, not stored" for step in worker.steps()) for worker in both]
    assert sum(sent) == 40
    scene.recover()
    assert scene.fault() == ""


def test_the_erp_is_killed_while_orders_are_sent(scene: Scene) -> None:
    scene.begin()
    scene.good = scene.on.shop.checkout_many(60)
    dice = random.Random(7)
    for _ in range(3):
        worker = scene.worker(Task())
        worker.wait_for_its_first_step()
        time.sleep(dice.uniform(0.1, 0.4))
        scene.on.erp.kill()
        time.sleep(0.2)
        scene.on.erp.restart()
        worker.wait()
    scene.recover()
    assert scene.fault() == ""


def test_mariadb_is_killed_while_orders_are_sent() -> None:
    with MariaDB() as own, _scene(own) as scene:
        scene.good = scene.on.shop.checkout_many(60)
        dice = random.Random(7)
        for _ in range(4):
            worker = scene.worker(Task())
            worker.wait_for_its_first_step()
            time.sleep(dice.uniform(0.1, 0.4))
            own.kill()
            own.start()
            worker.wait()
        scene.recover()
        assert scene.fault() == ""
