"""The life of sent orders in the ledger, on SQLite and on MariaDB: its first row, changes, what is due, migration."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from erp_sync.errors import LedgerUnavailable, Misconfigured
from erp_sync.ledger import migrate as migrate_module
from erp_sync.ledger.entries import SEND_BY_AHEAD
from erp_sync.ledger.entry import Entry
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.ledger.status_entry import StatusChange, StatusEntry, StatusEvent, stored
from erp_sync.ledger.statuses import FARTHEST
from erp_sync.ledger.tables import REVISION, VERSION_TABLE
from erp_sync.models import Cancellation, Invoice, LedgerState, OrderStatus, Problem
from erp_sync_tests.conftest import FreshDatabase
from erp_sync_tests.ledger_entries import DAY, START, CuttingProxy, Hand, due, found, step
from erp_sync_tests.mariadb import MariaDB

S = OrderStatus


@pytest.fixture
def proxied(mariadb: MariaDB) -> Iterator[tuple[CuttingProxy, Ledger]]:
    url = mariadb.create_database()
    migrate(url)
    with CuttingProxy(mariadb.port) as proxy:
        ledger = open_ledger(url.replace(f":{mariadb.port}/", f":{proxy.port}/"), clock=Hand())
        yield proxy, ledger
        ledger.close()


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def send(ledger: Ledger, *order_ids: str, kind: str = "sent", **values: Any) -> list[Entry]:
    """Orders that are sent, and read back."""
    ledger.add(found(*(due(order_id) for order_id in order_ids)))
    return sent(ledger, *order_ids, kind=kind, **values)


def sent(ledger: Ledger, *order_ids: str, kind: str = "sent", **values: Any) -> list[Entry]:
    parts = {"erp_branch": "0101", "sent_at": ledger.now(), "next_at": None, "state": LedgerState.SENT} | values
    old = ledger.entries(order_ids)
    changes = [step(old[order_id], kind, erp_number=f"00{order_id:0>4}", **parts) for order_id in order_ids]
    assert ledger.change(changes) == [True] * len(changes)
    return [change.new for change in changes]


def entry(ledger: Ledger, order_id: str) -> StatusEntry:
    return ledger.statuses([order_id])[order_id]


def change(old: StatusEntry, kind: str = "", **values: Any) -> StatusChange:
    event = StatusEvent(kind, f"{kind} of {old.order_id}") if kind else None
    return StatusChange(old, replace(old, **values), event)


def put(ledger: Ledger, order_id: str, **values: Any) -> StatusEntry:
    """The entry changed without an event."""
    done = change(entry(ledger, order_id), **values)
    assert ledger.change_statuses([done]) == [True]
    return stored(done)


def ids(entries: list[StatusEntry]) -> list[str]:
    return [one.order_id for one in entries]


def rows(ledger: Ledger, table: str = "erp_sync_statuses") -> int:
    return int(ledger.database.rows(text(f"SELECT COUNT(*) FROM {table}"))[0][0])


FULL: dict[str, Any] = {
    "status": S.PARTIALLY_INVOICED,
    "fingerprint": "f" * 32,
    "changed_at": START + timedelta(microseconds=1),
    "asked_at": START,
    "deep_at": START - minutes(1),
    "next_at": START + minutes(5),
    "missing_since": START,
    "tracking_code": "BR 'ç' 📦",
    "invoices": (
        Invoice("000012345", "1", date(2026, 11, 24), "k" * 44, datetime(2026, 11, 26, 14, 30)),  # noqa: DTZ001
        Invoice("000012346", "", None),
    ),
    "told_status": S.RELEASED,
    "told_hash": "h" * 32,
    "told_values": ("packing", "em separação 📦", ""),
    "write_at": START,
    "telling_until": START + minutes(2),
    "cancellation": Cancellation.IN_DOUBT,
    "cancel_send_by": START + timedelta(seconds=5),
    "cancel_at": START + timedelta(seconds=10),
    "problems": (Problem("NF-e key", "1/1", 'não "existe" 😀'),),
}


# The first row


@pytest.mark.parametrize("kind", ["sent", "adopted"])
def test_an_order_that_becomes_sent_is_to_be_asked_for_at_once(ledger: Ledger, hand: Hand, kind: str) -> None:
    ledger.add(found(due("1", number="LJ-7")))
    assert (rows(ledger), ledger.statuses(["1"])) == (0, {})
    hand.turn(3)
    sent(ledger, "1", kind=kind)
    assert entry(ledger, "1") == StatusEntry(
        order_id="1",
        version=0,
        status=None,
        fingerprint="",
        changed_at=None,
        asked_at=None,
        deep_at=None,
        next_at=hand.at,
        missing_since=None,
        tracking_code="",
        invoices=(),
        told_status=None,
        told_hash="",
        told_values=(),
        write_at=None,
        telling_until=None,
        cancellation=Cancellation.NONE,
        cancel_send_by=None,
        cancel_at=None,
        cancel_attempts=0,
        problems=(),
        number="LJ-7",
        erp_branch="0101",
        erp_number="000001",
        sent_at=hand.at,
    )
    assert ledger.status_story("1") == []
    assert ids(ledger.statuses_due("next_at", hand.at, 10)) == ["1"]


@pytest.mark.parametrize("state", sorted(set(LedgerState) - {LedgerState.SENT}))
def test_no_other_step_makes_a_row(ledger: Ledger, state: LedgerState) -> None:
    ledger.add(found(due("1")))
    [old] = ledger.entries(["1"]).values()
    assert ledger.change([step(old, state=state, sent_at=START, erp_number="000001")]) == [True]
    assert rows(ledger) == 0


def test_several_steps_of_one_transaction(ledger: Ledger) -> None:
    ledger.add(found(*(due(order_id) for order_id in "123")))
    one, two, three = ledger.entries(["1", "2", "3"]).values()
    values = {"state": LedgerState.SENT, "sent_at": START, "next_at": None}
    changes = [
        step(one, "sent", **values),
        step(two, "refused", state=LedgerState.REFUSED),
        step(three, "adopted", **values),
    ]
    assert ledger.change(changes) == [True] * 3
    assert set(ledger.statuses(["1", "2", "3"])) == {"1", "3"}


def test_what_is_sent_already_keeps_its_row(ledger: Ledger, hand: Hand) -> None:
    [first] = send(ledger, "1")
    changed = put(ledger, "1", status=S.RELEASED, next_at=None)
    hand.turn(60)
    verified = step(first, "verified", verified_at=hand.at)
    assert ledger.change([verified]) == [True]
    # Taken for absent, and found again.
    lost = step(verified.new, "due", state=LedgerState.DUE, next_at=hand.at)
    again = step(lost.new, "adopted", state=LedgerState.SENT, next_at=None)
    assert ledger.change([lost]) == [True]
    assert ledger.statuses(["1"]) == {}, "it is on its way again"
    assert ledger.change([again]) == [True]
    assert (rows(ledger), entry(ledger, "1")) == (1, changed)


def test_a_step_that_is_lost_makes_no_row(ledger: Ledger) -> None:
    ledger.add(found(due("1"), due("2", number="LJ-1b")))
    one, two = ledger.entries(["1", "2"]).values()
    values = {"state": LedgerState.SENT, "sent_at": START, "next_at": None}
    late, taken = replace(one, version=7), step(two, "sent", external_id="LJ-1", **values)
    assert ledger.change([step(late, "sent", **values), taken]) == [False, False]
    assert rows(ledger) == 0


def test_a_transaction_that_is_rolled_back_makes_no_row(ledger: Ledger) -> None:
    """The order's last event cannot be written, because it is there already."""
    ledger.add(found(due("1"), due("2")))
    one, two = ledger.entries(["1", "2"]).values()
    with ledger.database.writer.connect() as connection:
        connection.execute(
            text(
                "INSERT INTO erp_sync_events (order_id, version, at, state, kind, text, token) "
                "VALUES ('2', 2, '2026-11-23 12:00:00.000000', 'sent', 'sent', '', '')"
            )
        )
        connection.commit()
    values = {"state": LedgerState.SENT, "sent_at": START, "next_at": None}
    with pytest.raises(LedgerUnavailable):
        ledger.change([step(one, "sent", **values), step(two, "sent", **values)])
    assert rows(ledger) == 0
    assert {one.state for one in ledger.entries(["1", "2"]).values()} == {LedgerState.DUE}


@pytest.mark.parametrize("how", ["request", "reply", "late"])
def test_a_commit_without_an_answer_leaves_one_row_of_a_sent_order(
    proxied: tuple[CuttingProxy, Ledger], how: str
) -> None:
    proxy, ledger = proxied
    ledger.add(found(due("1")))
    proxy.cuts = [how]
    sent(ledger, "1")
    assert proxy.done == [how]
    assert (rows(ledger), entry(ledger, "1").version) == (1, 0)


def test_what_is_still_being_read_back_is_none_of_this_yet(ledger: Ledger, hand: Hand) -> None:
    [back] = send(ledger, "1", next_at=START + minutes(1))
    assert rows(ledger) == 1
    assert ledger.statuses(["1"]) == {}
    assert ledger.statuses_due("next_at", START + minutes(9), 9) == []
    assert ledger.statuses_of(9) == ledger.statuses_of(9, numbers=["LJ-1"]) == ledger.statuses_of(9, day=DAY) == []
    assert ledger.change([step(back, "verified", next_at=None)]) == [True]
    assert ids(ledger.statuses_due("next_at", START, 9)) == ["1"]


# Changes


def test_everything_comes_back_as_it_was_written(ledger: Ledger) -> None:
    send(ledger, "1", "bolsa-01 ÇÃ 😀")
    for order_id in ("1", "bolsa-01 ÇÃ 😀"):
        assert put(ledger, order_id, **FULL) == entry(ledger, order_id)
        assert {name: getattr(entry(ledger, order_id), name) for name in FULL} == FULL
        empty = dict.fromkeys([name for name in FULL if name.endswith(("_at", "_until", "_since", "_by"))])
        put(ledger, order_id, **empty, status=None, invoices=(), told_values=(), problems=())
        assert entry(ledger, order_id).changed_at is None
        assert (entry(ledger, order_id).invoices, entry(ledger, order_id).told_values) == ((), ())


@pytest.mark.parametrize("status", [None, *OrderStatus])
def test_every_status_and_stage_can_be_stored(ledger: Ledger, status: OrderStatus | None) -> None:
    send(ledger, "1")
    for stage in Cancellation:
        put(ledger, "1", status=status, told_status=status, cancellation=stage)
        now = entry(ledger, "1")
        assert (now.status, now.told_status, now.cancellation) == (status, status, stage)
        assert type(now.status) is type(status)


def test_a_change_needs_the_version_it_is_based_on(ledger: Ledger) -> None:
    send(ledger, "1", "2")
    one, two = ledger.statuses(["1", "2"]).values()
    first = change(one, "status", status=S.RELEASED)
    assert ledger.change_statuses([first]) == [True]
    lost = [change(one, "status", status=S.OPEN), change(two, "status", status=S.OPEN), change(one, status=S.OPEN)]
    assert ledger.change_statuses(lost) == [False, True, False]
    assert entry(ledger, "1") == stored(first) == replace(one, status=S.RELEASED, version=1)
    assert ledger.change_statuses([]) == []
    assert [event.kind for _, event, _ in ledger.status_story("1")] == ["status"]


def test_the_order_s_own_entry_is_never_written_from_here(ledger: Ledger) -> None:
    [before] = send(ledger, "1")
    put(ledger, "1", number="X", erp_branch="9", erp_number="9", sent_at=START + minutes(9))
    assert ledger.entries(["1"]) == {"1": before}
    assert (entry(ledger, "1").number, entry(ledger, "1").erp_number) == ("LJ-1", "000001")


def test_several_changes_of_one_order_in_one_call(ledger: Ledger, hand: Hand) -> None:
    send(ledger, "1", "2")
    hand.turn(9)
    one, two = ledger.statuses(["1", "2"]).values()
    first = change(one, "status", status=S.INVOICED)
    second = change(stored(first), "cancel_wanted", cancellation=Cancellation.WANTED)
    third = change(stored(second), write_at=START)
    other = change(two, "status", status=S.OPEN)
    assert ledger.change_statuses([first, other, second, third]) == [True] * 4
    assert entry(ledger, "1") == stored(third)
    assert (stored(third).version, stored(third).status, stored(third).write_at) == (3, S.INVOICED, START)
    assert list(ledger.status_story("1")) == [
        (hand.at, StatusEvent("status", "status of 1"), S.INVOICED),
        (hand.at, StatusEvent("cancel_wanted", "cancel_wanted of 1"), S.INVOICED),
    ]


def test_a_chain_whose_first_link_is_lost_is_lost(ledger: Ledger) -> None:
    send(ledger, "1", "2")
    one, two = ledger.statuses(["1", "2"]).values()
    put(ledger, "1", tracking_code="BR1")
    first = change(one, "status", status=S.INVOICED)
    changes = [first, change(stored(stored_twice(first)), "told"), change(two, "status", status=S.OPEN)]
    assert ledger.change_statuses(changes) == [False, False, True]
    assert (entry(ledger, "1").version, entry(ledger, "1").tracking_code) == (1, "BR1")
    assert ledger.status_story("1") == []


def stored_twice(made: StatusChange) -> StatusChange:
    return StatusChange(stored(made), stored(made), None)


def test_an_event_has_the_version_of_its_change(ledger: Ledger, hand: Hand) -> None:
    send(ledger, "1")
    erp_at = datetime(2026, 11, 23, 11, 59, 58, tzinfo=UTC)
    put(ledger, "1", asked_at=START)
    hand.turn(1)
    old = entry(ledger, "1")
    event = StatusEvent("status", "released, said \udfff", erp_at)
    assert ledger.change_statuses([StatusChange(old, replace(old, status=S.RELEASED), event)]) == [True]
    put(ledger, "1", asked_at=START)
    assert list(ledger.status_story("1")) == [(hand.at, replace(event, text="released, said ?"), S.RELEASED)]
    versions = ledger.database.rows(text("SELECT version FROM erp_sync_status_events"))
    assert [row[0] for row in versions] == [2]
    assert entry(ledger, "1").version == 3


def test_a_tracking_code_too_wide_is_said(ledger: Ledger) -> None:
    send(ledger, "1")
    put(ledger, "1", tracking_code="B" * 255)
    assert entry(ledger, "1").tracking_code == "B" * 255


def test_two_processes_change_one_order(ledger: Ledger) -> None:
    send(ledger, *(str(number) for number in range(40)))

    def work(_: int) -> int:
        made = 0
        for _ in range(3):
            entries = list(ledger.statuses([str(number) for number in range(40)]).values())
            random.shuffle(entries)
            made += sum(ledger.change_statuses([change(one, "status", status=S.OPEN) for one in entries]))
        return made

    with ThreadPoolExecutor(6) as pool:
        made = sum(pool.map(work, range(6)))
    every = ledger.statuses([str(number) for number in range(40)]).values()
    assert sum(one.version for one in every) == made
    assert rows(ledger, "erp_sync_status_events") == made


@pytest.mark.parametrize("how", ["request", "reply", "late"])
def test_a_change_whose_commit_lost_its_answer_is_made_once(proxied: tuple[CuttingProxy, Ledger], how: str) -> None:
    proxy, ledger = proxied
    send(ledger, "1", "2", "3")
    one, two, three = ledger.statuses(["1", "2", "3"]).values()
    proxy.cuts = [how]
    changes = [
        change(replace(one, version=7)),
        change(two, tracking_code="BR2"),
        change(three, "status", status=S.OPEN),
    ]
    assert ledger.change_statuses(changes) == [False, True, True]
    assert proxy.done == [how]
    assert (entry(ledger, "2"), entry(ledger, "3")) == (stored(changes[1]), stored(changes[2]))
    assert len(ledger.status_story("3")) == 1


@pytest.mark.parametrize("how", ["request", "reply"])
def test_somebody_else_s_change_is_never_taken_for_ours(proxied: tuple[CuttingProxy, Ledger], how: str) -> None:
    """The version alone does not tell: another process may have made the same step."""
    proxy, ledger = proxied
    send(ledger, "1")
    same = change(entry(ledger, "1"), "status", status=S.OPEN)
    assert ledger.change_statuses([same]) == [True]
    proxy.cuts = [how]
    assert ledger.change_statuses([same]) == [False]
    assert proxy.done == [how]


def test_the_same_step_of_somebody_else_in_between_is_not_ours(
    proxied: tuple[CuttingProxy, Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, ledger = proxied
    send(ledger, "1")
    same = change(entry(ledger, "1"), "status", status=S.OPEN)
    theirs: list[bool] = []

    def meanwhile(_: float) -> None:
        if not theirs:
            theirs.extend(ledger.change_statuses([same]))

    monkeypatch.setattr("erp_sync.ledger.database.time.sleep", meanwhile)
    proxy.cuts = ["request"]
    assert ledger.change_statuses([same]) == [False]
    assert (theirs, proxy.done) == ([True], ["request"])
    assert len(ledger.status_story("1")) == 1


@pytest.mark.parametrize("how", ["request", "reply"])
def test_a_claim_without_an_event_is_never_reported_when_it_was_not_made(
    proxied: tuple[CuttingProxy, Ledger], how: str
) -> None:
    """Nothing tells its COMMIT: where it landed it is reported lost, and waits its time."""
    proxy, ledger = proxied
    send(ledger, "1")
    claim = change(entry(ledger, "1"), telling_until=START + minutes(2))
    proxy.cuts = [how]
    assert ledger.change_statuses([claim]) == [how == "request"]
    assert entry(ledger, "1") == stored(claim)


def test_many_cuts_at_random(proxied: tuple[CuttingProxy, Ledger]) -> None:
    proxy, ledger = proxied
    numbers = [str(number) for number in range(20)]
    send(ledger, *numbers)
    dice = random.Random(7)
    proxy.cuts = [dice.choice(["pass", "request", "reply"]) for _ in range(200)]

    def twice(order_id: str) -> int:
        made = 0
        for _ in range(2):
            now = entry(ledger, order_id)
            first = change(now, "status", status=S.OPEN)
            made += sum(ledger.change_statuses([first, change(stored(first), "told", told_status=S.OPEN)]))
        return made

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(twice, numbers)) == [4] * len(numbers)
    assert {"request", "reply"} <= set(proxy.done)
    assert all(len(ledger.status_story(order_id)) == entry(ledger, order_id).version == 4 for order_id in numbers)


def test_a_look_without_news_writes_hints_alone(ledger: Ledger, hand: Hand) -> None:
    send(ledger, "1", "2", "3")
    before = ledger.statuses(["1", "2", "3"])
    hand.turn(60)
    later = hand.at + minutes(5)
    ledger.statuses_unchanged(["1", "unknown"], later, deep=False)
    ledger.statuses_unchanged(["2"], None, deep=True)
    ledger.statuses_unchanged([], later, deep=True)
    after = ledger.statuses(["1", "2", "3"])
    assert after["1"] == replace(before["1"], asked_at=hand.at, next_at=later)
    assert after["2"] == replace(before["2"], asked_at=hand.at, next_at=None, deep_at=hand.at)
    assert after["3"] == before["3"]
    # Nobody who read the entry before is in its way.
    assert ledger.change_statuses([change(before["1"], "status", status=S.OPEN)]) == [True]


def test_hints_for_more_orders_than_one_statement_takes(ledger: Ledger) -> None:
    order_ids = [f"{number:04d}" for number in range(1201)]
    send(ledger, *order_ids)
    ledger.statuses_unchanged(order_ids, None, deep=True)
    assert {one.next_at for one in ledger.statuses(order_ids).values()} == {None}


# What is due


@pytest.mark.parametrize("name", ["next_at", "write_at", "cancel_at"])
def test_what_is_due_comes_in_order_and_page_by_page(ledger: Ledger, name: Any) -> None:
    """Many of them at the same moment, so that only the order id tells them apart."""
    order_ids = [f"{number:02d}" for number in range(30)]
    random.Random(3).shuffle(order_ids)
    send(ledger, *order_ids)
    offsets = {order_id: place % 4 for place, order_id in enumerate(order_ids)}
    for order_id, offset in offsets.items():
        put(ledger, order_id, **{"next_at": None, name: START + timedelta(microseconds=offset)})
    expected = [
        order_id
        for offset, order_id in sorted((offset, order_id) for order_id, offset in offsets.items())
        if offset < 3
    ]
    by = START + timedelta(microseconds=2)
    assert ids(ledger.statuses_due(name, by, 100)) == expected
    for size in (1, 4, 7):
        pages: list[str] = []
        after = None
        while page := ledger.statuses_due(name, by, size, after):
            assert len(page) <= size
            pages += ids(page)
            after = (getattr(page[-1], name), page[-1].order_id)
        assert pages == expected
    others = {"next_at", "write_at", "cancel_at"} - {name}
    assert all(ledger.statuses_due(other, START + minutes(9), 9) == [] for other in others)  # type: ignore[arg-type]


def test_nothing_is_due_before_its_time_or_never(ledger: Ledger) -> None:
    send(ledger, "1", "2")
    put(ledger, "1", next_at=START + minutes(1))
    put(ledger, "2", next_at=None)
    assert ledger.statuses_due("next_at", START + minutes(1) - timedelta(microseconds=1), 9) == []
    assert ids(ledger.statuses_due("next_at", START + minutes(1), 9)) == ["1"]


def test_while_somebody_tells_the_shop_nobody_else_does(ledger: Ledger, hand: Hand) -> None:
    send(ledger, "1", "2", "3")
    put(ledger, "1", write_at=START, telling_until=START + minutes(2), cancel_at=START)
    put(ledger, "2", write_at=START, telling_until=START)
    put(ledger, "3", write_at=START)
    assert ids(ledger.statuses_due("write_at", START, 9)) == ["2", "3"]
    assert ids(ledger.statuses_due("write_at", START + minutes(60), 9)) == ["2", "3"], "the ledger's clock counts"
    assert ids(ledger.statuses_due("next_at", START, 9)) == ["1", "2", "3"]
    assert ids(ledger.statuses_due("cancel_at", START, 9)) == ["1"]
    hand.turn(119)
    assert ids(ledger.statuses_due("write_at", START, 9)) == ["2", "3"]
    hand.turn(1)
    assert ids(ledger.statuses_due("write_at", START, 9)) == ["1", "2", "3"]


def test_statuses_of_a_day_of_numbers_and_of_all_that_are_open(ledger: Ledger) -> None:
    other = DAY + timedelta(days=1)
    ledger.add(found(due("1"), due("2", day=other), due("3"), due("4"), due("5", day=other)))
    sent(ledger, "1", "2", "3", "5")
    put(ledger, "3", next_at=None)
    assert ids(ledger.statuses_of(9)) == ["1", "2", "5"]
    assert ids(ledger.statuses_of(9, day=DAY)) == ["1", "3"]
    assert ids(ledger.statuses_of(9, numbers=["LJ-5", "LJ-3", "LJ-4", "LJ-9"])) == ["3", "5"]
    assert ids(ledger.statuses_of(9, numbers=["LJ-5", "LJ-3"], day=other)) == ["5"]
    assert ledger.statuses_of(9, numbers=[]) == []
    assert ids(ledger.statuses_of(2)) == ["1", "2"]
    assert ids(ledger.statuses_of(2, after="2")) == ["5"]
    assert ids(ledger.statuses_of(9, day=DAY, after="1")) == ["3"]


def test_ids_and_numbers_that_differ_in_case_or_accent(ledger: Ledger) -> None:
    twins = ["bolsa-01", "BOLSA-01", "a", "á", "😀", "😁"]
    send(ledger, *twins)
    put(ledger, "BOLSA-01", tracking_code="BR1")
    assert ledger.statuses(twins).keys() == set(twins)
    assert [one.tracking_code for one in ledger.statuses(["bolsa-01", "BOLSA-01"]).values()].count("BR1") == 1
    assert ids(ledger.statuses_of(9, numbers=["LJ-bolsa-01"])) == ["bolsa-01"]
    everything = ids(ledger.statuses_of(9))
    assert everything == sorted(twins)
    assert [one for page in range(6) for one in ids(ledger.statuses_of(1, after=["", *everything][page]))] == everything


def test_statuses_of_more_orders_than_one_statement_takes(ledger: Ledger) -> None:
    order_ids = [f"{number:04d}" for number in range(1201)]
    send(ledger, *order_ids)
    assert list(ledger.statuses([*order_ids, "unknown"])) == order_ids
    assert ledger.statuses([]) == {}


# Figures


def test_counts(ledger: Ledger) -> None:
    assert ledger.status_counts() == {}
    send(ledger, *"123456")
    put(ledger, "1", status=S.RELEASED)
    put(ledger, "2", status=S.RELEASED)
    put(ledger, "3", status=S.INVOICED, next_at=None)
    put(ledger, "4", status=S.BLOCKED_CREDIT)
    assert ledger.status_counts() == {None: 2, S.RELEASED: 2, S.BLOCKED_CREDIT: 1}


def test_what_the_shop_does_not_know_yet(ledger: Ledger) -> None:
    assert (ledger.untold(), ledger.oldest_untold()) == (0, None)
    send(ledger, *"123")
    put(ledger, "1", changed_at=START - minutes(9))
    assert (ledger.untold(), ledger.oldest_untold()) == (0, None)
    put(ledger, "2", changed_at=START - minutes(3), write_at=START + minutes(60))
    put(ledger, "3", changed_at=START - minutes(5), write_at=START)
    assert (ledger.untold(), ledger.oldest_untold()) == (2, START - minutes(5))


def test_how_many_were_told_and_how_many_are_in_the_middle_of_something(ledger: Ledger) -> None:
    assert (ledger.told(), ledger.statuses_under_way()) == (0, 0)
    send(ledger, *"12345678")
    put(ledger, "1", told_hash="x")
    assert (ledger.told(), ledger.statuses_under_way()) == (1, 0)
    put(ledger, "2", told_hash="y", telling_until=START)
    put(ledger, "3", cancel_at=START, cancellation=Cancellation.WANTED)
    put(ledger, "4", missing_since=START, status=S.OPEN)
    put(ledger, "5", missing_since=START, status=S.DELETED)
    put(ledger, "6", missing_since=START, status=None)
    put(ledger, "7", cancel_at=START, telling_until=START, missing_since=START, status=S.OPEN)
    assert (ledger.told(), ledger.statuses_under_way()) == (2, 5)


def test_whose_turn_has_been_due_for_longest(ledger: Ledger, hand: Hand) -> None:
    assert ledger.oldest_overdue() is None
    send(ledger, *"123")
    for order_id, at in {"1": START + minutes(1), "2": START + minutes(2), "3": None}.items():
        put(ledger, order_id, next_at=at)
    assert ledger.oldest_overdue() is None
    hand.turn(120)
    assert ledger.oldest_overdue() == START + minutes(1)


def test_orders_that_are_being_read_back_are_in_no_figure(ledger: Ledger, hand: Hand) -> None:
    """Nobody asks for them yet, so nobody is late."""
    send(ledger, "1", next_at=START + minutes(1))
    hand.turn(600)
    assert (ledger.status_counts(), ledger.oldest_overdue()) == ({}, None)


# The clock


def test_what_a_clock_that_jumped_back_left_far_ahead_is_pulled_in(ledger: Ledger, hand: Hand) -> None:
    names = ("next_at", "write_at", "telling_until", "cancel_at")
    send(ledger, "1", "2", "3")
    far, near = START + timedelta(days=365), START + FARTHEST
    put(ledger, "1", **dict.fromkeys(names, far), cancel_send_by=far)
    put(ledger, "2", **dict.fromkeys(names, near), cancel_send_by=START + SEND_BY_AHEAD)
    put(ledger, "3", **dict.fromkeys(names), cancel_send_by=far)
    before = ledger.statuses(["1", "2", "3"])
    ledger.heal_statuses()
    ledger.heal_statuses()
    after = ledger.statuses(["1", "2", "3"])
    healed: dict[str, Any] = dict.fromkeys(names, START)
    assert after["1"] == replace(before["1"], **healed, cancel_send_by=START + SEND_BY_AHEAD)
    assert (after["2"], after["3"]) == (before["2"], before["3"]), "what may be so, and what is at rest"
    assert ids(ledger.statuses_due("write_at", hand.at, 9)) == ["1"]
    assert {"1"} <= set(ids(ledger.statuses_due("next_at", hand.at, 9)))
    assert ids(ledger.statuses_due("cancel_at", hand.at, 9)) == ["1"]


# Migration


def upgrade(engine: Engine, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(migrate_module.__file__).with_name("migrations")))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


INSERT = text(
    "INSERT INTO erp_sync_orders (order_id, number, external_id, day, state, version, found_at, next_at, payload_hash, "
    "attempts, customer_key, erp_branch, erp_number, sent_at, problems) VALUES (:order_id, :number, :number, :day, "
    ":state, 3, :found_at, :next_at, '', 1, '', '0101', '000123', :sent_at, '')"
)
MOMENT = "2026-11-20 10:00:00.123456"


@pytest.fixture
def first_revision(fresh_database: FreshDatabase) -> Iterator[tuple[str, Engine]]:
    """A ledger as the first release left it."""
    url = fresh_database()
    engine = create_engine(url)
    upgrade(engine, "0001")
    rows = [
        ("1", "sent", MOMENT, None),
        ("2", "due", None, MOMENT),
        ("3", "sent", MOMENT, MOMENT),
        ("4", "refused", None, None),
        ("5", "in_doubt", MOMENT, MOMENT),
        ("BOLSA ç 😀", "sent", MOMENT, None),
        ("bolsa ç 😀", "sent", "2026-11-21 00:00:00.000000", None),
        ("6", "sent", None, None),
        ("7", "cancelled", MOMENT, None),
    ]
    with engine.begin() as connection:
        for order_id, state, sent_at, next_at in rows:
            values = {"order_id": order_id, "number": f"LJ-{order_id}", "state": state, "sent_at": sent_at}
            connection.execute(INSERT, {**values, "day": "2026-11-20", "found_at": MOMENT, "next_at": next_at})
    yield url, engine
    engine.dispose()


def test_the_first_revision_has_no_statuses_and_is_refused(first_revision: tuple[str, Engine]) -> None:
    url, engine = first_revision
    with engine.connect() as connection:
        assert connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}")) == "0001"
    with pytest.raises(Misconfigured, match=f"is at revision 0001, before {REVISION}: run erp-sync migrate"):
        open_ledger(url)


def test_orders_that_were_sent_before_are_asked_for_once(first_revision: tuple[str, Engine]) -> None:
    url, _ = first_revision
    assert migrate(url) == migrate(url) == REVISION
    ledger = open_ledger(url, clock=Hand())
    sent_at = datetime(2026, 11, 20, 10, 0, 0, 123456, tzinfo=UTC)
    due_now = ledger.statuses_due("next_at", START, 9)
    assert ids(due_now) == ["1", "BOLSA ç 😀", "bolsa ç 😀"]
    first = due_now[0]
    assert (first.version, first.status, first.next_at, first.sent_at) == (0, None, sent_at, sent_at)
    assert (first.invoices, first.told_values, first.problems, first.cancel_attempts) == ((), (), (), 0)
    assert first.cancellation is Cancellation.NONE
    assert (first.number, first.erp_number) == ("LJ-1", "000123")
    assert rows(ledger) == 4, "that of order 3, which is still being read back, waits"
    put(ledger, "1", **FULL)
    assert ledger.status_story("1") == []
    sent(ledger, "2")
    assert entry(ledger, "2").next_at == START
    ledger.close()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_migration_that_was_cut_off_is_finished_by_the_next(
    first_revision: tuple[str, Engine], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic import op

    url, _ = first_revision
    left = [steps]
    with monkeypatch.context() as patch:
        for name in ("create_table", "create_index", "execute"):
            real = getattr(op, name)

            def cut_off(*args: Any, real: Any = real, **options: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                return real(*args, **options)

            patch.setattr(op, name, cut_off)
        with pytest.raises(KeyboardInterrupt):
            migrate(url)
    with pytest.raises(Misconfigured, match="run erp-sync migrate"):
        open_ledger(url)
    migrate(url)
    ledger = open_ledger(url)
    assert rows(ledger) == 4
    ledger.close()


def test_a_row_that_is_there_already_is_left_alone_by_the_migration(first_revision: tuple[str, Engine]) -> None:
    """As after a first try that was cut off between its last statement and the new revision's number."""
    url, engine = first_revision
    migrate(url)
    ledger = open_ledger(url, clock=Hand())
    changed = put(ledger, "1", status=S.RELEASED, next_at=None)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0001'"))
        connection.execute(text("DELETE FROM erp_sync_statuses WHERE order_id = '3'"))
    migrate(url)
    assert (rows(ledger), entry(ledger, "1")) == (4, changed)
    ledger.close()
