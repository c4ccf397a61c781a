"""Orders that a webhook told of: at once, once, and none lost with the process."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from erp_sync.demo import environment, stage
from erp_sync.errors import ShopUnavailable, Unavailable
from erp_sync.ledger import breaker as breakers
from erp_sync.ledger import inbox as inboxes
from erp_sync.ledger.entry import Entry
from erp_sync.ledger.inbox import Hint
from erp_sync.ledger.ledger import Ledger
from erp_sync.ledger.tables import inbox, slots
from erp_sync.models import LedgerState
from erp_sync.sandbox.config import Fault
from erp_sync.sandbox.shop import PlacedOrder
from erp_sync.settings import load_settings
from erp_sync.shop.database import Shop
from erp_sync.sync import express as expresses
from erp_sync.sync import look as looking
from erp_sync.sync.connections import open_connections
from erp_sync.sync.express import Express
from erp_sync.sync.pipeline import DueOrders, Pass, Pipeline, Pools, Window
from erp_sync.sync.results import OrdersResult
from erp_sync.sync.sending import Sender
from erp_sync_tests.conftest import FreshDatabase
from erp_sync_tests.crash import ERP_READS, Task
from erp_sync_tests.test_crash import Scene, _scene
from erp_sync_tests.test_orders import CONFIG, Work

SOURCES = '[webhook.sources.loja]\nscheme = "spatie"\n[webhook.sources.fila]\nscheme = "spatie"\nnames = "number"\n'


on_sqlite = pytest.mark.parametrize("fresh_database", ["sqlite"], indirect=True)
"""For what does not depend on the database."""


@pytest.fixture
def work(fresh_database: FreshDatabase) -> Iterator[Work]:
    setting = stage(shop_url=fresh_database(), ledger_url=fresh_database(), latency_ms=0, config=CONFIG + SOURCES)
    with setting as on, environment(on.environment):
        connections = open_connections(load_settings())
        connections.orders_flow().finder.sweep()
        yield Work(on, connections)
        connections.close()


@contextmanager
def running(observe: Callable[[OrdersResult], None] = lambda _: None) -> Iterator[Express]:
    settings = load_settings()
    express = Express(settings, lambda: open_connections(settings), observe)
    express.start()
    try:
        yield express
    finally:
        express.close()


def tell(work: Work, express: Express, order: PlacedOrder | str, source: str = "loja") -> Hint:
    reference = order if isinstance(order, str) else order.number if source == "fila" else str(order.order_id)
    hint = work.connections.ledger.receive(source, f"of {reference}", reference)
    assert hint is not None
    express.notify(hint)
    return hint


def waiting(work: Work) -> list[tuple[str, int]]:
    """References of the hints that are not seen, and how often they were looked for."""
    query = sa.select(inbox.c.reference, inbox.c.looks).where(inbox.c.next_at.is_not(None)).order_by(inbox.c.event_id)
    return [tuple(row) for row in work.connections.ledger.database.rows(query)]


def until(true: Callable[[], Any], seconds: float = 15) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, "it did not come true"
        time.sleep(0.01)


def verified(work: Work, orders: list[PlacedOrder]) -> bool:
    entries = work.connections.ledger.entries([str(order.order_id) for order in orders])
    return len(entries) == len(orders) and all(entry.verified_at for entry in entries.values())


def test_an_order_is_sent_at_once_by_its_id_or_its_number_and_told_of(work: Work) -> None:
    told: list[OrdersResult] = []
    orders = work.on.shop.checkout_many(4)
    with running(told.append) as express:
        for order, source in zip(orders, ("loja", "fila", "loja", "fila"), strict=True):
            tell(work, express, order, source)
        until(lambda: verified(work, orders))
        until(lambda: not waiting(work))
        tell(work, express, orders[0], "fila")
        until(lambda: not waiting(work))
    work.assert_exact(orders)
    story = [event.kind for _, event, _ in work.connections.ledger.story(str(orders[0].order_id))]
    assert story == ["found", "claimed", "intent", "sent", "verified"]
    assert sum(done.sent for done in told) == 4
    assert sum(day.sent for done in told for day in done.days.values()) == 4


def test_what_is_invalid_unknown_or_not_ours_needs_no_further_look(work: Work) -> None:
    bad = work.on.shop.place_bad_order("unknown_sku")
    early = work.on.shop.checkout()
    work.on.shop.change_order(early, placed_at=datetime.now(UTC).replace(tzinfo=None) - timedelta(days=40))
    cancelled = work.on.shop.place_order(status="cancelled")
    with running() as express:
        for order in (bad, early, cancelled):
            tell(work, express, order)
        until(lambda: not waiting(work))
        until(lambda: work.entry(bad).state in (LedgerState.REFUSED, LedgerState.INVALID))
    assert [line for line in work.on.erp.journal() if line["kind"] == "order"] == []


def test_an_order_whose_transaction_or_payment_comes_after_its_webhook_is_looked_at_again(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expresses, "PAUSES", (0.1, 0.2, 0.3, 0.3))
    monkeypatch.setattr(expresses, "LONGEST_IN_MIND", 0.2)
    monkeypatch.setattr(expresses, "SCAN_SECONDS", 0.05)
    pending = work.on.shop.place_order()
    never = work.on.shop.place_order()
    with running() as express:
        tell(work, express, str(never.order_id + 1))
        tell(work, express, pending)
        tell(work, express, never)
        time.sleep(0.15)
        late = work.on.shop.checkout()
        assert late.order_id == never.order_id + 1
        until(lambda: verified(work, [late]))
        work.on.shop.change_order(pending, status="paid")
        until(lambda: verified(work, [pending]))
        looks = [count for reference, count in waiting(work) if reference == str(never.order_id)]
        assert looks == [] or looks[0] <= 4
        until(lambda: not waiting(work))  # left to the sensor
    assert work.connections.ledger.entries([str(never.order_id)]) == {}


def test_more_hints_than_are_kept_in_mind_wait_in_the_inbox(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expresses, "HINTS", 2)
    monkeypatch.setattr(expresses, "SCAN_SECONDS", 0.05)
    monkeypatch.setattr(inboxes, "IN_HAND", timedelta(seconds=0.3))
    orders = work.on.shop.checkout_many(6)
    settings = load_settings()
    express = Express(settings, lambda: open_connections(settings))
    for order in orders:
        tell(work, express, order)
    assert len(express._waiting) == 2
    express.start()
    until(lambda: verified(work, orders))
    express.close()
    work.assert_exact(orders)


def test_hints_of_a_process_that_died_are_taken_up(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inboxes, "IN_HAND", timedelta(seconds=0.2))
    orders = work.on.shop.checkout_many(3)
    for order in orders:
        assert work.connections.ledger.receive("loja", f"of {order.order_id}", str(order.order_id))
    time.sleep(0.3)
    with running(), running():
        until(lambda: verified(work, orders))
        until(lambda: not waiting(work))
    work.assert_exact(orders)


def test_webhook_sensor_backfill_and_a_person_at_once_while_a_fifth_of_the_answers_is_lost(work: Work) -> None:
    for faults in ((), (Fault(kind="commit_then_drop", endpoint="create_order", probability=0.2),)):
        work.on.erp.set_faults(*faults)
        orders = work.on.shop.checkout_many(12)
        days = {order.order_id: datetime.now(UTC).date() for order in orders}
        others = [open_connections(load_settings()) for _ in range(3)]
        windows = [Window(), Window(days=set(days.values())), Window(numbers=[order.number for order in orders])]
        with running() as express:
            passes = [
                threading.Thread(target=connections.orders_flow().run, args=(window,), kwargs={"sweep": True})
                for connections, window in zip(others, windows, strict=True)
            ]
            for thread in passes:
                thread.start()
            for order in orders:
                tell(work, express, order)
            for thread in passes:
                thread.join()
            until(lambda: not waiting(work))
        work.run_until_settled()
        for connections in others:
            connections.close()
        numbers = {order.number for order in orders}
        created = Counter(line["external_id"] for line in work.on.erp.journal() if line["kind"] == "order")
        assert {number: created[number] for number in numbers} == dict.fromkeys(numbers, 1)
        states = {entry.state for entry in work.connections.ledger.entries([str(one) for one in days]).values()}
        assert states == {LedgerState.SENT}


def test_while_the_erp_is_down_orders_are_due_and_nothing_spins(work: Work) -> None:
    work.on.erp.kill()
    orders = work.on.shop.checkout_many(8)
    with running() as express:
        for order in orders:
            tell(work, express, order)
        until(lambda: not waiting(work))
        time.sleep(1)
    counts = work.connections.ledger.counts()
    assert counts == {LedgerState.DUE: 8}
    kinds = Counter(
        event.kind for order in orders for _, event, _ in work.connections.ledger.story(str(order.order_id))
    )
    assert (kinds["found"], kinds["intent"]) == (8, 0)
    assert kinds["claimed"] <= 8
    work.on.erp.restart()
    work.run_until_settled()
    work.assert_exact(orders)


def test_a_sale_faster_than_the_erp_is_sent_in_the_end_by_what_is_kept_in_mind(work: Work) -> None:
    work.on.erp.switch(latency_ms=30)
    orders = work.on.shop.checkout_many(40)
    with running() as express:
        for order in orders:
            tell(work, express, order)
        until(lambda: not waiting(work), 5)
        until(lambda: verified(work, orders), 30)
    work.assert_exact(orders)


def test_what_is_not_on_its_way_at_the_end_is_given_back(work: Work) -> None:
    work.on.erp.switch(latency_ms=150)
    orders = work.on.shop.checkout_many(20)
    with running() as express:
        for order in orders:
            tell(work, express, order)
        until(lambda: work.connections.ledger.counts().get(LedgerState.SENT))
    counts = work.connections.ledger.counts()
    assert set(counts) <= {LedgerState.DUE, LedgerState.SENT}
    assert counts[LedgerState.DUE] > 0
    work.run()
    sent = Counter(line["external_id"] for line in work.on.erp.journal() if line["kind"] == "order")
    assert sent == {order.number: 1 for order in orders}


def test_shop_and_ledger_away_the_hints_wait(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inboxes, "IN_HAND", timedelta(seconds=0.3))
    monkeypatch.setattr(expresses, "SCAN_SECONDS", 0.1)
    monkeypatch.setattr(expresses, "REST_SECONDS", 0.1)
    order = work.on.shop.checkout()
    settings = load_settings()
    tries = iter(range(3))
    away = iter(range(2))

    def connect() -> Any:
        if next(tries) == 0:
            raise Unavailable("the ledger is away")
        connections = open_connections(settings)
        heads = connections.shop.heads

        def shop_away(ids: list[str]) -> Any:
            if next(away, None) is not None:
                raise Unavailable("the shop is away")
            return heads(ids)

        monkeypatch.setattr(connections.shop, "heads", shop_away)
        return connections

    express = Express(settings, connect)
    express.start()
    tell(work, express, order)
    until(lambda: verified(work, [order]))
    express.close()
    assert next(away, None) is None
    work.assert_exact([order])


def test_the_lease_of_a_late_claim_counts_from_before_the_shop_was_read(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = work.on.shop.checkout()
    claims: list[tuple[datetime, datetime]] = []
    claim, fetch = Sender.claim, Shop.fetch

    def slow(shop: Shop, ids: list[str]) -> Any:
        rows = fetch(shop, ids)
        time.sleep(0.3)
        return rows

    def noted(sender: Sender, entries: Any, since: datetime | None = None) -> Any:
        claimed = claim(sender, entries, since)
        claims.extend((datetime.now(UTC), entry.next_at) for entry in claimed if entry.next_at is not None)
        return claimed

    monkeypatch.setattr(Shop, "fetch", slow)
    monkeypatch.setattr(Sender, "claim", noted)
    with running() as express:
        tell(work, express, order)
        until(lambda: verified(work, [order]))
    [(claimed_at, over_at)] = claims
    lease = timedelta(seconds=load_settings().erp.lease_seconds)
    assert over_at <= claimed_at + lease - timedelta(seconds=0.3)


def test_a_customers_orders_side_by_side_take_turns_and_none_is_left_to_others(work: Work) -> None:
    work.on.erp.switch(latency_ms=100)
    kinds: Counter[str] = Counter()
    with running() as express:
        for pause in (0.02, 0.05, 0.1, 0.2, 0.3):
            orders = work.on.shop.checkout_many(6)
            for order in orders:
                work.on.shop.change_order(order, customer_id=1)
            for order in orders:
                tell(work, express, order)
                time.sleep(pause)
            until(lambda orders=orders: verified(work, orders), 30)  # type: ignore[misc]
            stories = [work.connections.ledger.story(str(order.order_id)) for order in orders]
            kinds.update(event.kind for story in stories for _, event, _ in story)
            if kinds["due"]:
                break  # on a busy machine they may come as one batch, and nobody waits
    assert kinds["due"] > 0, "none of them had to wait"
    assert [line["kind"] for line in work.on.erp.journal()].count("customer") <= 1


def test_no_more_is_claimed_at_first_than_its_turn_comes_soon(work: Work) -> None:
    work.on.erp.switch(latency_ms=300)
    orders = work.on.shop.checkout_many(60)
    settings = load_settings()
    express = Express(settings, lambda: open_connections(settings))
    for order in orders:
        tell(work, express, order)
    express.start()
    until(lambda: work.connections.ledger.counts().get(LedgerState.SENDING))
    counts = work.connections.ledger.counts()
    express.close()
    assert sum(counts.values()) == 60
    assert counts[LedgerState.SENDING] <= 4 * settings.erp.max_parallel_writes


def test_pipelines_that_share_writers_share_the_time_of_a_lease(work: Work) -> None:
    tools = work.connections.orders_flow().tools
    running = Pass(Window(), OrdersResult(), 0.0)
    for pipelines, orders in ((1, 60), (4, 15)):
        with Pools(2, pipelines=pipelines) as pools:
            pipeline = Pipeline(tools, DueOrders(tools, Window()), running, pools)
            pipeline._seconds_per_order = 2.0
            assert pipeline._batch_size() == orders


def test_a_number_that_two_rows_share_is_sent_though_one_of_them_waits(work: Work) -> None:
    ready, waits = work.on.shop.checkout(), work.on.shop.place_order()
    work.on.shop.change_order(waits, number=ready.number)
    with running() as express:
        tell(work, express, ready, "fila")
        until(lambda: verified(work, [ready]), 5)


def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two short pauses; the second is spent in the inbox."""
    monkeypatch.setattr(expresses, "PAUSES", (0.01, 0.02))
    monkeypatch.setattr(expresses, "LONGEST_IN_MIND", 0.01)


@on_sqlite
def test_looks_by_number_that_are_slow_are_few_and_hold_up_no_other(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty(monkeypatch)
    monkeypatch.setattr(expresses, "SCAN_SECONDS", 0.05)
    monkeypatch.setattr(looking, "SLOW_SECONDS", 0.05)
    monkeypatch.setattr(looking, "SLOW_SHARE", 0.5)
    monkeypatch.setattr(looking, "TURN_SECONDS", 0.01)
    begun, ended = list[float](), list[float]()
    over, healed = threading.Event(), threading.Event()
    real = Shop.heads_by_number

    def slow(shop: Shop, numbers: list[str]) -> Any:
        if healed.is_set():
            return real(shop, numbers)
        begun.append(time.monotonic())
        over.wait(20)
        time.sleep(0.1)
        ended.append(time.monotonic())
        raise ShopUnavailable("[read] orders: took longer than 50 s")

    monkeypatch.setattr(Shop, "heads_by_number", slow)
    settings = load_settings()
    by_number, by_id = work.on.shop.checkout_many(settings.erp.max_parallel + 2), work.on.shop.checkout_many(3)
    express = Express(settings, lambda: open_connections(settings))
    tell(work, express, by_number[0], "fila")
    tell(work, express, by_id[0])  # of one batch with it
    express.start()
    until(lambda: begun)
    for order in by_number[1:]:
        tell(work, express, order, "fila")
        time.sleep(0.03)
    for order in by_id[1:]:
        tell(work, express, order)
    until(lambda: verified(work, by_id))
    assert (len(begun), ended) == (1, []), "one look by number at a time"
    over.set()
    until(lambda: len(ended) > 1)
    assert begun[1] - ended[0] > 1.9 * (ended[0] - begun[0]), "it may take half of the time"
    healed.set()
    until(lambda: verified(work, by_number), 40)
    express.close()
    work.assert_exact([*by_number, *by_id])


@on_sqlite
def test_hints_outlive_an_outage_of_the_shop_and_are_asked_for_ever_more_rarely(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty(monkeypatch)
    monkeypatch.setattr(expresses, "SCAN_SECONDS", 0.02)
    order = work.on.shop.checkout()
    heads, asked = Shop.heads, [0.0]

    def away(_shop: Shop, _ids: list[str]) -> Any:
        asked.append(time.monotonic())
        raise ShopUnavailable("no route to it")

    monkeypatch.setattr(Shop, "heads", away)
    with running() as express:
        tell(work, express, order)
        until(lambda: len(asked) > 7)
        assert asked[-1] - asked[-2] > 0.3, "20 ms, doubled four times"
        [(_, looks)] = waiting(work)
        assert looks > len(expresses.PAUSES)
        monkeypatch.setattr(Shop, "heads", heads)
        until(lambda: verified(work, [order]))
        until(lambda: not waiting(work))


@on_sqlite
def test_orders_that_cannot_be_read_are_due_and_their_hints_seen(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_shop: Shop, _ids: list[str]) -> Any:
        raise ShopUnavailable("[read] lines: took longer than 50 s")

    orders = work.on.shop.checkout_many(2)
    with monkeypatch.context() as patch, running() as express:
        patch.setattr(Shop, "fetch", away)
        for order in orders:
            tell(work, express, order)
        until(lambda: not waiting(work), 5)
    assert work.connections.ledger.counts() == {LedgerState.DUE: 2}
    work.run_until_settled()
    work.assert_exact(orders)


@on_sqlite
def test_once_the_erp_is_back_what_became_due_is_sent_without_a_further_hint(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expresses, "REST_SECONDS", 0.1)
    monkeypatch.setattr(breakers, "FIRST_PAUSE", timedelta(seconds=1))
    catching_up = Counter[str]()
    actionable = Ledger.actionable

    def counted(ledger: Ledger, limit: int, **only: Any) -> list[Entry]:
        catching_up["begun"] += 1
        return actionable(ledger, limit, **only)

    monkeypatch.setattr(Ledger, "actionable", counted)
    work.on.erp.kill()
    orders = work.on.shop.checkout_many(20)
    with running() as express:
        for order in orders:
            tell(work, express, order)
            time.sleep(0.05)
        until(lambda: not waiting(work))
        until(lambda: express._behind)
        time.sleep(0.3)
        assert not catching_up, "nothing is claimed while the ERP is known to be away"
        work.on.erp.restart()
        until(lambda: verified(work, orders), 30)
    work.assert_exact(orders)


@on_sqlite
def test_a_defect_while_a_hint_is_put_off_ends_no_thread(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expresses, "PAUSES", (20.0,))
    monkeypatch.setattr(Ledger, "look_again", lambda *_: 1 / 0)
    express = Express(load_settings(), lambda: open_connections(load_settings()))
    tell(work, express, "7000000")
    tell(work, express, "none", "fila")
    express.start()
    until(express._workers[0].is_alive)
    until(lambda: not express._waiting)
    order = work.on.shop.checkout()
    tell(work, express, order)
    until(lambda: verified(work, [order]))
    assert all(thread.is_alive() for thread in express._workers)
    express.close()


def test_a_defect_ends_no_thread_and_keeps_no_other_hint(
    work: Work, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(expresses, "PAUSES", (0.05,))
    monkeypatch.setattr(expresses, "SCAN_SECONDS", 0.05)
    monkeypatch.setattr(expresses, "REST_SECONDS", 0.05)
    monkeypatch.setattr(inboxes, "IN_HAND", timedelta(seconds=0.3))
    told, lost, odd = work.on.shop.checkout_many(3)
    settings = load_settings()
    defects = Counter[str]()

    def connect() -> Any:
        defects["connect"] += 1
        if defects["connect"] == 1:
            raise RuntimeError("no such driver")
        connections = open_connections(settings)
        heads, take_hints = connections.shop.heads, connections.ledger.take_hints

        def odd_heads(ids: list[str]) -> Any:
            if str(odd.order_id) in ids:
                defects["heads"] += 1
                raise RuntimeError("an odd row")
            return heads(ids)

        def odd_inbox(limit: int) -> Any:
            defects["inbox"] += 1
            if defects["inbox"] == 1:
                raise RuntimeError("an odd inbox")
            return take_hints(limit)

        monkeypatch.setattr(connections.shop, "heads", odd_heads)
        monkeypatch.setattr(connections.ledger, "take_hints", odd_inbox)
        return connections

    express = Express(settings, connect)
    for order in (told, odd):
        tell(work, express, order)
    assert work.connections.ledger.receive("loja", "lost", str(lost.order_id)), "by a process that died"
    express.start()
    until(lambda: verified(work, [told, lost]))
    until(lambda: not waiting(work))
    express.close()
    assert defects["connect"] == 2
    assert {record.levelname for record in caplog.records if record.exc_info} == {"ERROR"}


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with _scene(None) as scene:
        yield scene


def test_a_receiver_killed_at_any_step_costs_no_order_and_doubles_none(scene: Scene) -> None:
    waits: list[PlacedOrder] = []

    def told_of(kill_at: tuple[str, int] | None) -> list[str]:
        orders = [scene.on.shop.checkout(), scene.on.shop.place_odd_order("guest")]
        scene.good += orders
        waits.append(scene.on.shop.place_order())
        ids = tuple(str(order.order_id) for order in (*orders, waits[-1]))
        with scene.ledger_engine.begin() as connection:  # the dead keep theirs for 15 seconds
            connection.execute(slots.update().values(owner="", until=datetime(2000, 1, 1, tzinfo=UTC)))
        worker = scene.worker(Task(flow="webhook", hints=ids, kill_at=kill_at))
        died = worker.wait() == -9
        assert died or kill_at is None or kill_at[1] > 1, f"{kill_at} was not reached: {scene.log()}"
        lost = set(ids) - scene.ledger.entries(ids).keys()
        seen = sa.select(inbox.c.reference).where(inbox.c.next_at.is_(None), inbox.c.reference.in_(lost))
        assert not scene.ledger.database.rows(seen), f"killed at {kill_at}: seen, and not in the ledger"
        return worker.steps()

    steps = told_of(None)
    wanted = {"after add", "after hints_seen", "after look_again", "after take_hints"}
    assert wanted | {"before add", "create_order: before its first byte"} <= set(steps)
    reached: Counter[str] = Counter()
    tried = died = 0
    for step in steps:
        reached[step] += 1
        # To die before a write, or at a read, is to die after the write before it: once each is enough.
        if reached[step] == 1 or not (step.startswith("before ") or step.removeprefix("after ") in ERP_READS):
            tried += 1
            died += told_of((step, reached[step]))[-1] == step
    assert died > 0.8 * tried
    for order in waits:
        scene.on.shop.change_order(order, status="paid")
    scene.good += waits
    scene.recover()
    assert scene.fault() == ""
