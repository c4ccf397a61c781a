"""Whatever dies at whatever line, shop and ERP agree in the end: real processes, real SIGKILLs, the ERP's own tables
and journal, and every change of a status in the shop."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any

import pytest

from erp_sync.models import Cancellation, OrderStatus
from erp_sync.sandbox.config import Fault
from erp_sync.sync.problems import CANCELLATION, problem_of
from erp_sync_tests.crash import Clock, Task, Worker, connect, run_statuses
from erp_sync_tests.mariadb import MariaDB
from erp_sync_tests.statuses_walk import EVENTS, KINDS, Ground, Known, People, Step, ground

SLOW = Fault(kind="slow", endpoint="cancel_order", seconds=0.02)
"""So that there is a time in which the ERP is at work on a cancellation."""
HOUR = 3600.0
CONFIG = """\
[erp]
settle_seconds = 3
connect_timeout = 2
read_timeout = 5
write_timeout = 3
max_parallel_writes = 4
[orders]
start_day = {start_day}
[statuses]
delivered_from = "f2_dtentr"
"""
COUNT = 12
KILLS = 10
EXPECTED: dict[str, tuple[OrderStatus, list[str], Cancellation, int]] = {
    "released": (OrderStatus.RELEASED, ["packing"], Cancellation.NONE, 0),
    "invoiced": (OrderStatus.INVOICED, ["invoiced"], Cancellation.NONE, 0),
    "deleted": (OrderStatus.DELETED, ["cancelled"], Cancellation.NONE, 0),
    "cancelled": (OrderStatus.CANCELLED, ["cancelled"], Cancellation.CANCELLED, 1),
    "too_late": (OrderStatus.INVOICED, ["cancelled"], Cancellation.TOO_LATE, 0),
    "rest_cancelled": (OrderStatus.INVOICED_SHORT, ["cancelled"], Cancellation.RESIDUE, 1),
}
"""What becomes of the scene: the status, how the shop's word goes on, the cancellation, and how often that has an
effect."""
BY_THE_SHOP = ("cancelled", "too_late", "rest_cancelled")


class Scene:
    """Six orders to each of which something has happened that the flow does not know yet. `begin` sets it anew."""

    def __init__(self, on: Ground) -> None:
        self._on = on
        self.orders = dict(zip(EXPECTED, on.known, strict=False))
        admin, order = on.on.erp.admin, self.orders["invoiced"]
        admin("POST", f"{order.path}/invoice", {"items": {"01": 1}, "key": False})
        assert on.connections.statuses_flow().run().told == 1
        on.keep()

    def begin(self) -> None:
        on, orders = self._on, self.orders
        on.rewind()
        on.on.erp.set_faults(SLOW)
        self._journal_before = on.erp.last("journal")
        self._arrived_before = on.erp.last("arrival")
        for kind, action, body in (
            ("released", "release", {}),
            ("invoiced", "invoice", {"key": True}),
            ("too_late", "invoice", {}),
            ("rest_cancelled", "invoice", {"items": {"02": 1}}),
        ):
            on.on.erp.admin("POST", f"{orders[kind].path}/{action}", body)
        on.on.erp.admin("DELETE", orders["deleted"].path, {})
        for kind in BY_THE_SHOP:
            on.shop.cancel(orders[kind].placed)

    def fault(self) -> str:
        """What is wrong; "" if each order is as EXPECTED in ERP, ledger and shop, with its whole story."""
        found = [f"{kind}: {wrong}" for kind, order in self.orders.items() for wrong in self._wrong(kind, order)]
        return "; ".join(found)

    def _wrong(self, kind: str, order: Known) -> Iterator[str]:
        on = self._on
        status, words, cancellation, effects = EXPECTED[kind]
        entry, row = on.entry(order), on.row(order)
        in_erp = on.erp.status(order.number)
        gone = (OrderStatus.CANCELLED, OrderStatus.DELETED)
        if in_erp is not status and not (in_erp in gone and status in gone):
            yield f"{in_erp} in the ERP"
        if on.on.erp.admin("GET", order.path)["deleted"] is not (status in gone):
            yield "not as the ERP's users see it"
        if (entry.status, entry.cancellation, entry.cancel_at) != (status, cancellation, None):
            yield f"the ledger says {entry.status}, cancellation {entry.cancellation.value!r}, due {entry.cancel_at}"
        log = [now for _, _, now in on.log(order)]
        if (row.status, log) != (words[-1], words):
            yield f"the shop shows {row.status!r}, after {log}"
        journal = [line["kind"] for line in on.on.erp.journal(self._journal_before) if line["number"] == order.number]
        if journal.count("order_cancelled") != effects:
            yield f"the ERP's journal: {journal}"
        task = cancellation in (Cancellation.TOO_LATE, Cancellation.RESIDUE)
        if (problem_of(entry.problems, CANCELLATION) is not None) is not task or len(entry.problems) != task:
            yield f"problems {[str(problem) for problem in entry.problems]}"
        if kind == "invoiced":
            invoice: Any = on.erp.last_invoice(order.number)
            if (row.invoice_number, row.invoice_key) != (invoice["F2_DOC"], invoice["F2_CHVNFE"]):
                yield f"the shop has the invoice {row.invoice_number}, key {row.invoice_key}"
        yield from self._wrong_story(kind, order)

    def _wrong_story(self, kind: str, order: Known) -> Iterator[str]:
        status, words, _, _ = EXPECTED[kind]
        story = self._on.ledger.status_story(order.key)
        kinds = [event.kind for _, event, _ in story]
        if story[-1][2] is not status or not any(at == status for _, event, at in story if event.kind == "status"):
            yield f"its story ends otherwise: {kinds}"
        told = [event.text for _, event, at in story if event.kind == "told" and at is status]
        if kind not in BY_THE_SHOP and not any(f"the shop shows {words[-1]!r}" in text for text in told):
            yield f"nothing says that the shop was told: {kinds}"
        called = [line for line in self._arrivals() if line["external_id"] == order.placed.number]
        if len(called) > kinds.count("cancel_sent"):
            yield f"a cancel call without an intent: {len(called)}, {kinds}"

    def _arrivals(self) -> list[dict[str, Any]]:
        """Cancel calls since the beginning."""
        arrived = self._on.on.erp.arrivals(self._arrived_before)
        return [line for line in arrived if line["endpoint"] == "cancel_order"]


class Workers:
    """Processes that run the flow over a ground; and this one, which puts right what they left."""

    def __init__(self, on: Ground) -> None:
        self._on = on
        self._clock = Clock(HOUR)
        self._connections = connect(self._clock)

    def close(self) -> None:
        self._connections.close()

    def start(self, kill_at: tuple[str, int] | None = None) -> Worker:
        stage = self._on.on
        return Worker(stage.environment, Task(flow="statuses", kill_at=kill_at), stage.folder / "workers.log")

    def recover(self, ahead: float = HOUR) -> None:
        """On a ledger's clock that runs ahead: so first the ERP must be through with what the dead have sent."""
        time.sleep(0.02)
        self._on.wait_for_the_erp()
        self._clock.ahead = timedelta(seconds=ahead)
        for _ in range(3):
            failure = run_statuses(self._connections, Task(ahead=ahead), None, self._clock)
            if failure is None:
                return
        raise AssertionError(f"the last pass failed: {failure}")

    def settle(self) -> None:
        """Until what is looked at once an hour was looked at again."""
        for hours in range(1, 4):
            self.recover(hours * (HOUR + 60))

    def log(self) -> str:
        return (self._on.on.folder / "workers.log").read_text(errors="replace")[-1000:]


@contextmanager
def _ground(mariadb: MariaDB | None) -> Iterator[Ground]:
    shop_url, ledger_url = (mariadb.create_database(), mariadb.create_database()) if mariadb else (None, None)
    with ground(CONFIG, COUNT, shop_url=shop_url, ledger_url=ledger_url) as on:
        yield on


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def on(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with _ground(request.getfixturevalue("mariadb") if request.param == "mariadb" else None) as made:
        yield made


@pytest.fixture
def workers(on: Ground) -> Iterator[Workers]:
    made = Workers(on)
    yield made
    made.close()


def test_a_worker_killed_at_any_step_costs_no_status_and_cancels_nothing_twice(on: Ground, workers: Workers) -> None:
    scene = Scene(on)
    scene.begin()
    alive = workers.start()
    assert alive.wait() == 0, workers.log()
    assert scene.fault() == ""
    steps = alive.steps()
    # On SQLite at each kind of step once: the steps are the same on both, and each costs a process.
    wanted = steps if on.shop_engine.dialect.name == "mysql" else list(dict.fromkeys(steps))
    died_at = []
    reached: Counter[str] = Counter()
    for step in wanted:
        reached[step] += 1
        scene.begin()
        worker = workers.start(kill_at=(step, reached[step]))
        if worker.wait() == -9:
            died_at.append(worker.steps()[-1])
        workers.recover()
        assert scene.fault() == "", f"killed at {step}, time {reached[step]}"
    assert set(died_at) == set(steps)
    assert len(died_at) > 0.9 * len(wanted)


def events(people: People, dice: random.Random, number: int) -> None:
    """The ERP's users and the shop's people do something."""
    for _ in range(number):
        kind = dice.choices(EVENTS, [KINDS[kind] for kind in EVENTS])[0]
        people.do(Step(kind, dice.randrange(COUNT), dice.randrange(2**32)))


def test_workers_killed_at_random_one_after_the_other(on: Ground, workers: Workers) -> None:
    on.rewind()
    people, dice = People(on), random.Random(7)
    kills = 0
    for _ in range(KILLS):
        events(people, dice, 10)
        worker = workers.start()
        worker.wait_for_its_first_step()
        events(people, dice, 2)
        time.sleep(dice.uniform(0.0, 0.3))
        kills += worker.kill()
    assert kills >= KILLS / 2
    workers.settle()
    assert people.wrong() == []


def test_two_workers_at_once(on: Ground, workers: Workers) -> None:
    on.rewind()
    people = People(on)
    before = on.erp.last("arrival")
    for place in range(COUNT):
        people.do(Step("shop_cancels" if place % 2 else "release", place, 0))
    both = [workers.start() for _ in range(2)]
    assert [worker.wait() for worker in both] == [0, 0], workers.log()
    called = [line["external_id"] for line in on.on.erp.arrivals(before) if line["endpoint"] == "cancel_order"]
    assert sorted(called) == sorted(order.placed.number for order in on.known[1::2])
    workers.settle()
    assert people.wrong() == []


def test_the_erp_is_killed_while_it_is_asked(on: Ground, workers: Workers) -> None:
    on.rewind()
    people, dice = People(on), random.Random(7)
    for _ in range(2):
        events(people, dice, 20)
        worker = workers.start()
        worker.wait_for_its_first_step()
        time.sleep(dice.uniform(0.05, 0.3))
        on.on.erp.kill()
        time.sleep(0.2)
        on.on.erp.restart()
        worker.wait()
    workers.settle()
    assert people.wrong() == []


def test_mariadb_is_killed_while_the_shop_is_told() -> None:
    with MariaDB() as own, _ground(own) as on, closing(Workers(on)) as workers:
        people, dice = People(on), random.Random(7)
        for _ in range(3):
            events(people, dice, 20)
            worker = workers.start()
            worker.wait_for_its_first_step()
            time.sleep(dice.uniform(0.1, 0.5))
            own.kill()
            own.start()
            on.shop_engine.dispose()
            worker.wait()
        workers.settle()
        assert people.wrong() == []
