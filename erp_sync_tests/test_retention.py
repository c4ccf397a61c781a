"""What the ledger forgets of orders that have long been final, on SQLite and on MariaDB, and what it never forgets."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from erp_sync.ledger import retention
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.ledger.retention import ORDERS, Place
from erp_sync.ledger.status_entry import StatusChange, StatusEvent
from erp_sync.ledger.tables import customer_holds, events, incidents, status_events
from erp_sync.models import LedgerState, OrderStatus, Severity, Sighting
from erp_sync.settings import RetentionSection, Settings
from erp_sync.sync import retention as passes
from erp_sync.sync.retention import LedgerPurged, purge_ledger
from erp_sync_tests.ledger_entries import Hand, due, found, step
from erp_sync_tests.mariadb import MariaDB

S = OrderStatus
NOTHING_DATED = {table.name: 0 for table, _, _ in retention.DATED}
SETTINGS = Settings(retention=RetentionSection(event_days=400))
SENT = {"state": LedgerState.SENT, "erp_branch": "0101", "erp_number": "000001", "next_at": None}


def days(count: float) -> float:
    return count * 86_400


def change(ledger: Ledger, order_id: str, kind: str, **values: Any) -> None:
    assert ledger.change([step(ledger.entries([order_id])[order_id], kind, **values)]) == [True]


def live(ledger: Ledger, order_id: str, kind: str, **values: Any) -> None:
    old = ledger.statuses([order_id])[order_id]
    event = StatusEvent(kind, kind) if kind else None
    assert ledger.change_statuses([StatusChange(old, replace(old, **values), event)]) == [True]


def sent(ledger: Ledger, *order_ids: str) -> None:
    """Found, sent and read back; nobody asked the ERP yet what became of it."""
    for order_id in order_ids:
        ledger.add(found(due(order_id, ledger.now())))
        change(ledger, order_id, "claimed", state=LedgerState.SENDING)
        change(ledger, order_id, "intent")
        change(ledger, order_id, "sent", **SENT, sent_at=ledger.now())
        change(ledger, order_id, "verified", verified_at=ledger.now())


def delivered(ledger: Ledger, *order_ids: str) -> None:
    """Its whole life, over."""
    sent(ledger, *order_ids)
    for order_id in order_ids:
        live(ledger, order_id, "status", status=S.RELEASED)
        live(ledger, order_id, "told", told_status=S.RELEASED)
        live(ledger, order_id, "status", status=S.DELIVERED)
        live(ledger, order_id, "told", told_status=S.DELIVERED, next_at=None)


def kinds(ledger: Ledger, order_id: str) -> list[str]:
    return [event.kind for _, event, _ in ledger.story(order_id)] + [
        event.kind for _, event, _ in ledger.status_story(order_id)
    ]


WHOLE = ["found", "claimed", "intent", "sent", "verified", "status", "told", "status", "told"]
SHORT = ["found", "sent", "verified", "status", "told"]


def test_an_order_long_final_keeps_what_matters_of_its_story(ledger: Ledger, hand: Hand) -> None:
    delivered(ledger, "1")
    entry, status = ledger.entries(["1"]), ledger.statuses(["1"])
    hand.turn(days(399.9))
    assert purge_ledger(ledger, SETTINGS) == LedgerPurged(0, 0, NOTHING_DATED, complete=True)
    assert kinds(ledger, "1") == WHOLE
    hand.turn(days(0.2))
    assert purge_ledger(ledger, SETTINGS, dry_run=True).steps == 4
    assert kinds(ledger, "1") == WHOLE
    assert purge_ledger(ledger, SETTINGS) == LedgerPurged(1, 4, NOTHING_DATED, complete=True)
    assert kinds(ledger, "1") == SHORT
    assert [status for _, _, status in ledger.status_story("1")] == [S.DELIVERED, S.DELIVERED]
    assert (ledger.entries(["1"]), ledger.statuses(["1"])) == (entry, status)
    assert purge_ledger(ledger, SETTINGS).steps == 0


def test_incidents_and_cancellations_are_no_routine(ledger: Ledger, hand: Hand) -> None:
    sent(ledger, "1")
    change(ledger, "1", "incident")
    change(ledger, "1", "note")
    change(ledger, "1", "note")
    for kind in ("cancel_wanted", "cancel_refused", "cancel_sent", "too_late", "cancelled", "told"):
        live(ledger, "1", kind)
    live(ledger, "1", "status", status=S.CANCELLED, next_at=None)
    ledger.add(found(due("2", ledger.now())))
    change(ledger, "2", "claimed")
    change(ledger, "2", "cancelled", state=LedgerState.CANCELLED, next_at=None)
    hand.turn(days(401))
    assert purge_ledger(ledger, SETTINGS).orders == 2
    stays = ["found", "sent", "incident", "note", "cancel_refused", "too_late", "cancelled", "status"]
    assert kinds(ledger, "1") == stays
    assert kinds(ledger, "2") == ["found", "cancelled"]


NOT_FINAL: dict[str, Callable[[Ledger], None]] = {
    "due": lambda ledger: change(ledger, "1", "due", state=LedgerState.DUE, next_at=ledger.now()),
    "in doubt": lambda ledger: change(ledger, "1", "in_doubt", state=LedgerState.IN_DOUBT, next_at=ledger.now()),
    "being read back": lambda ledger: change(ledger, "1", "note", next_at=ledger.now()),
    "refused": lambda ledger: change(ledger, "1", "refused", state=LedgerState.REFUSED, next_at=None),
    "invalid": lambda ledger: change(ledger, "1", "invalid", state=LedgerState.INVALID, next_at=None),
    "still asked for": lambda ledger: live(ledger, "1", "", next_at=ledger.now()),
    "the shop is to be told": lambda ledger: live(ledger, "1", "", write_at=ledger.now()),
    "to be cancelled": lambda ledger: live(ledger, "1", "", cancel_at=ledger.now()),
}


@pytest.mark.parametrize("why", NOT_FINAL)
def test_an_order_that_is_not_final_keeps_every_step_however_old(ledger: Ledger, hand: Hand, why: str) -> None:
    delivered(ledger, "1", "2")
    NOT_FINAL[why](ledger)
    whole = kinds(ledger, "1")
    hand.turn(days(4000))
    assert purge_ledger(ledger, SETTINGS).orders == 1
    assert kinds(ledger, "1") == whole
    assert kinds(ledger, "2") == SHORT


def test_the_time_counts_from_the_last_step_of_the_story(ledger: Ledger, hand: Hand) -> None:
    delivered(ledger, "1", "2", "3")
    hand.turn(days(390))
    change(ledger, "1", "note")
    live(ledger, "2", "told")
    hand.turn(days(20))
    assert purge_ledger(ledger, SETTINGS).orders == 1
    assert (kinds(ledger, "1").count("claimed"), kinds(ledger, "2").count("claimed")) == (1, 1)
    assert kinds(ledger, "3") == SHORT


def test_an_order_that_comes_to_life_while_it_is_looked_at_keeps_its_steps(
    ledger: Ledger, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered(ledger, "1")
    hand.turn(days(401))
    look = retention._routine

    def revive(*arguments: Any, lock: bool = False) -> Any:
        seen = look(*arguments, lock=lock)
        if not lock:
            live(ledger, "1", "", next_at=ledger.now())
        return seen

    monkeypatch.setattr(retention, "_routine", revive)
    assert purge_ledger(ledger, SETTINGS).steps == 0
    assert kinds(ledger, "1") == WHOLE


def test_nobody_waits_for_anybody(mariadb: MariaDB, hand: Hand) -> None:
    url = mariadb.create_database()
    migrate(url)
    ledger = open_ledger(url, clock=hand)
    delivered(ledger, "1", "2")
    hand.turn(days(401))
    engine = sa.create_engine(url)
    with engine.connect() as flow:
        flow.exec_driver_sql("SELECT * FROM erp_sync_orders WHERE order_id = '1' FOR UPDATE")
        began = time.monotonic()
        assert purge_ledger(ledger, SETTINGS).orders == 1
        assert time.monotonic() - began < 2
    assert (kinds(ledger, "1"), kinds(ledger, "2")) == (WHOLE, SHORT)
    engine.dispose()
    ledger.close()


def test_several_passes_at_once_beside_a_flow_that_writes(ledger: Ledger, hand: Hand) -> None:
    old = [f"{index:03}" for index in range(40)]
    delivered(ledger, *old)
    hand.turn(days(401))
    delivered(ledger, "new")
    with ThreadPoolExecutor(3) as threads:
        done = [threads.submit(purge_ledger, ledger, SETTINGS) for _ in range(3)]
        for _ in range(30):
            change(ledger, "new", "note")
        assert sum(one.result().steps for one in done) >= 4 * len(old)
    assert all(kinds(ledger, order_id) == SHORT for order_id in old)
    assert kinds(ledger, "new").count("note") == 30


def test_a_pass_without_time_goes_on_where_the_last_one_stopped(
    ledger: Ledger, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ORDERS", 2)
    delivered(ledger, *"12345")  # all found at one instant
    hand.turn(days(401))
    ticking = iter(range(10_000))
    monkeypatch.setattr("erp_sync.sync.retention.time", SimpleNamespace(monotonic=lambda: float(next(ticking))))
    seen = []
    for _ in range(4):
        purged = purge_ledger(ledger, SETTINGS, budget=2 + len(retention.DATED))
        seen.append((purged.orders, purged.complete))
    assert seen == [(2, False), (2, False), (1, True), (0, False)]
    assert {tuple(kinds(ledger, order_id)) for order_id in "12345"} == {tuple(SHORT)}


def test_a_walk_meets_every_order_once(ledger: Ledger, hand: Hand) -> None:
    rows = []
    for index in range(2 * ORDERS + 30):
        hand.turn(0 if index % 3 == 1 else 1)  # the first page ends between two of one instant
        rows.append(due(f"{index * 7919 % 1000:03}", ledger.now()))
    ledger.add(found(*rows))
    hand.turn(days(401))
    places: list[Place] = []
    place = None
    while (place := ledger.forget_steps(hand.at, place).place) is not None:
        places.append(place)
    in_order = sorted((row.found_at, row.order_id) for row in rows)
    assert [(place.found_at, place.order_id) for place in places] == [in_order[ORDERS - 1], in_order[2 * ORDERS - 1]]


def _holds(ledger: Ledger, **until: datetime) -> None:
    rows = [{"customer_key": key, "order_id": key, "until": at} for key, at in until.items()]
    ledger.database.write(lambda connection: connection.execute(sa.insert(customer_holds), rows) and None)


def test_holds_that_lapsed_long_ago_go(ledger: Ledger, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "CHUNK", 1)
    monkeypatch.setattr(passes, "CHUNK", 1)
    now = hand.at
    _holds(ledger, old=now - timedelta(days=8), older=now - timedelta(days=9), lapsed=now - timedelta(days=6), live=now)
    assert purge_ledger(ledger, SETTINGS, dry_run=True).rows[customer_holds.name] == 1
    assert purge_ledger(ledger, SETTINGS).rows[customer_holds.name] == 2
    left = ledger.database.rows(sa.select(customer_holds.c.customer_key).order_by(customer_holds.c.customer_key))
    assert [row[0] for row in left] == ["lapsed", "live"]


def test_incidents_that_ended_long_ago_go_and_open_ones_stay(ledger: Ledger, hand: Hand) -> None:
    for cause in ("ended", "open"):
        ledger.report(Sighting(cause, "run_failed", Severity.ERROR))
    ledger.resolve("ended")
    hand.turn(days(399))
    assert purge_ledger(ledger, SETTINGS).rows[incidents.name] == 0
    hand.turn(days(2))
    assert purge_ledger(ledger, SETTINGS).rows[incidents.name] == 1
    left = ledger.database.rows(sa.select(incidents.c.cause))
    assert [row.cause for row in left] == ["open"]


def test_a_hold_that_is_taken_anew_meanwhile_stays(ledger: Ledger, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    _holds(ledger, taken=hand.at - timedelta(days=8))
    write = ledger.database.write

    def taken_first(work: Callable[..., Any], landed: Any = None) -> Any:
        anew = sa.update(customer_holds).values(until=hand.at + timedelta(minutes=5))
        write(lambda connection: connection.execute(anew) and None)
        return write(work, landed)

    monkeypatch.setattr(ledger.database, "write", taken_first)
    assert ledger.forget_dated(customer_holds, customer_holds.c.until, timedelta(days=7)) == 0
    assert len(ledger.database.rows(sa.select(customer_holds))) == 1


def test_steps_of_both_tables_go_together_or_not_at_all(
    ledger: Ledger, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered(ledger, "1")
    hand.turn(days(401))
    deleted: list[sa.Table] = []

    def killed(table: sa.Table) -> Any:
        deleted.append(table)
        if len(deleted) == 2:
            raise SystemExit
        return sa.delete(table)

    monkeypatch.setattr(retention, "delete", killed)
    with pytest.raises(SystemExit):
        purge_ledger(ledger, SETTINGS, budget=math.inf)
    assert deleted == [events, status_events]
    assert kinds(ledger, "1") == WHOLE
