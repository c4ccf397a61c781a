"""Incidents in the ledger, on SQLite and on MariaDB: occurrences, crossing writers, and who may tell them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from erp_sync.ledger.incidents import Told
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.ledger.outlet import FARTHEST, Outlet
from erp_sync.models import Severity, Sighting
from erp_sync_tests.ledger_entries import START, CuttingProxy, Hand
from erp_sync_tests.mariadb import MariaDB

LEASE = timedelta(seconds=30)
CAUSE = "check/erp/orders/none_refused"


def sighting(cause: str = CAUSE, **values: Any) -> Sighting:
    return Sighting(cause, values.pop("kind", "check/none_refused"), values.pop("severity", Severity.ERROR), **values)


def told(ledger: Ledger, cause: str = CAUSE) -> Told:
    return next(telling.told for telling in ledger.tellings() if telling.incident.cause == cause)


def test_an_incident_opens_counts_up_closes_and_comes_back(ledger: Ledger, hand: Hand) -> None:
    seen = sighting(
        subject="erp/orders",
        detail="3 pedidos recusados: A410NVALID ção",
        count=3,
        oldest_at=START - timedelta(hours=2),
        sample=("LJ-1", "LJ-2"),
        run_id="5a",
    )
    ledger.report(seen)
    (first,) = ledger.open_incidents()
    assert all(getattr(first, name) == getattr(seen, name) for name in Sighting.__dataclass_fields__)
    assert (first.opened_at, first.closed_at, first.seen, first.peak, first.openings) == (START, None, 1, 3, 1)
    hand.turn(60)
    ledger.report(replace(seen, count=7))
    hand.turn(60)
    ledger.report(replace(seen, count=2, detail="2 left"))
    (again,) = ledger.open_incidents()
    assert (again.count, again.peak, again.seen, again.detail) == (2, 7, 3, "2 left")
    assert (again.opened_at, again.last_seen_at) == (START, START + timedelta(seconds=120))
    assert ledger.resolve(CAUSE)
    assert not ledger.resolve(CAUSE)
    assert ledger.open_incidents() == []
    (over,) = ledger.incidents(START, 10)
    assert over == replace(again, closed_at=hand.at)
    hand.turn(60)
    ledger.report(replace(seen, count=1))
    (back,) = ledger.open_incidents()
    assert (back.openings, back.opened_at, back.closed_at, back.peak, back.seen) == (2, hand.at, None, 1, 1)


def test_only_the_expected_occurrence_is_closed(ledger: Ledger) -> None:
    assert not ledger.resolve(CAUSE)
    ledger.report(sighting())
    ledger.resolve(CAUSE)
    ledger.report(sighting())
    assert not ledger.resolve(CAUSE, expected_opening=1)
    assert ledger.open_incidents()
    assert ledger.resolve(CAUSE, expected_opening=2)


def test_incidents_are_listed_by_age(ledger: Ledger, hand: Hand) -> None:
    for name in ("b", "a", "c"):
        ledger.report(sighting(name))
        hand.turn(10)
    ledger.resolve("b")
    assert [one.cause for one in ledger.open_incidents()] == ["a", "c"]
    assert [one.cause for one in ledger.incidents(START, 10)] == ["c", "a", "b"]
    assert [one.cause for one in ledger.incidents(START, 2)] == ["c", "a"]
    assert [one.cause for one in ledger.incidents(hand.at + timedelta(1), 10)] == ["c", "a"]


@pytest.mark.parametrize("cause", ["", "ação", "a\nb", "x" * 192])
def test_a_cause_that_could_not_be_told_apart_is_refused(cause: str) -> None:
    with pytest.raises(ValueError, match=r"cause = .*ASCII"):
        sighting(cause)


def test_what_is_too_long_or_no_text_is_cut_and_never_refused(ledger: Ledger) -> None:
    ledger.report(
        sighting(
            "x" * 191,
            kind="check/" + "k" * 300,
            subject="s" * 5000,
            detail="\ud800" + "d" * 10_000,
            count=2**40,
            sample=("\udfff" * 400,) * 9,
            run_id="r" * 400,
        )
    )
    ledger.report(sighting("y", count=-4))
    (long, negative) = sorted(ledger.open_incidents(), key=lambda one: one.cause)
    assert (len(long.kind), len(long.subject), len(long.detail), len(long.sample)) == (191, 255, 2000, 5)
    assert long.detail.startswith("?d")
    assert negative.count == 0


def test_a_detail_is_redacted_before_it_is_cut(ledger: Ledger) -> None:
    ledger.report(sighting("x", detail=f"{'d' * 1991} 52998224725"))
    [seen] = ledger.open_incidents()
    assert (len(seen.detail), "5299" in seen.detail) == (2000, False)


def test_many_reporters_of_many_causes_at_once_lose_nothing(database_url: str, ledger: Ledger) -> None:
    other = open_ledger(database_url)
    ledgers = (ledger, other)
    causes = [f"cause{number}" for number in range(3)]

    def report(number: int) -> None:
        ledgers[number % 2].report(sighting(causes[number % 3], count=number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(report, range(120)))
    other.close()
    opened = {one.cause: one for one in ledger.open_incidents()}
    assert sorted(opened) == causes
    assert [opened[cause].seen for cause in causes] == [40, 40, 40]
    assert [opened[cause].peak for cause in causes] == [117, 118, 119]
    assert {one.openings for one in opened.values()} == {1}


def test_a_sighting_that_crosses_a_closing_opens_the_incident_again(mariadb: MariaDB) -> None:
    url = mariadb.create_database()
    migrate(url)
    ledger, other = open_ledger(url), open_ledger(url)
    ledger.report(sighting())
    closed: list[bool] = []

    @event.listens_for(ledger.database.writer, "before_cursor_execute")
    def _meanwhile(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("UPDATE") and not closed:
            closed.append(other.resolve(CAUSE))

    ledger.report(sighting(count=5))
    assert closed == [True]
    (back,) = ledger.open_incidents()
    assert (back.openings, back.count) == (2, 5)
    ledger.close()
    other.close()


def test_a_closing_whose_answer_is_lost_is_known(mariadb: MariaDB) -> None:
    url = mariadb.create_database()
    migrate(url)
    with CuttingProxy(mariadb.port) as proxy:
        ledger = open_ledger(url.replace(f":{mariadb.port}/", f":{proxy.port}/"))
        for how in ("reply", "request", "late"):
            ledger.report(sighting(how))
            proxy.cuts.append(how)
            assert ledger.resolve(how)
            assert proxy.done.pop() == how
        assert ledger.open_incidents() == []
        ledger.close()


def test_one_of_all_processes_has_the_outlet(database_url: str, ledger: Ledger, hand: Hand) -> None:
    other = open_ledger(database_url, clock=hand)
    assert ledger.outlet() == Outlet()
    assert ledger.take_outlet("one", LEASE) == Outlet()
    assert other.take_outlet("two", LEASE) is None
    state = Outlet(hand.at + timedelta(seconds=5), 2, hand.at + timedelta(seconds=1))
    assert ledger.keep_outlet("one", LEASE, state)
    assert other.outlet() == state
    hand.turn(31)
    assert other.take_outlet("two", LEASE) == state
    assert not ledger.keep_outlet("one", LEASE, Outlet())
    ledger.give_outlet_back("one", Outlet())
    assert ledger.take_outlet("one", LEASE) is None
    other.give_outlet_back("two", Outlet())
    assert ledger.take_outlet("one", LEASE) == Outlet()
    hand.turn(-3 * FARTHEST.total_seconds())
    assert other.take_outlet("two", LEASE) is not None, "a clock that jumped back locks nobody out"
    other.close()


def test_many_that_want_the_outlet_at_once_get_it_once(database_url: str) -> None:
    migrate(database_url)
    ledgers = [open_ledger(database_url) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda number: ledgers[number % 4].take_outlet(f"o{number}", LEASE), range(16)))
    assert len([one for one in taken if one is not None]) == 1
    for one in ledgers:
        one.close()


def test_only_who_has_the_outlet_writes_what_was_told(ledger: Ledger, hand: Hand) -> None:
    ledger.report(sighting())
    mine = Told(1, 0, 0, "C1", "1.5", "abc", hand.at)
    assert not ledger.tell("one", {CAUSE: mine})
    ledger.take_outlet("one", LEASE)
    assert ledger.tell("one", {CAUSE: mine})
    assert told(ledger) == mine
    hand.turn(31)
    ledger.take_outlet("two", LEASE)
    assert not ledger.tell("one", {CAUSE: replace(mine, ts="2.5")})
    assert told(ledger) == mine
    ledger.report(sighting(count=9))
    assert told(ledger) == mine, "a report leaves what was told alone"
    assert ledger.tell("two", {CAUSE: replace(mine, hash="def")})
    assert ledger.open_incidents()[0].count == 9


def test_what_is_fully_told_is_not_asked_for_again(ledger: Ledger) -> None:
    ledger.report(sighting())
    ledger.take_outlet("one", LEASE)
    ledger.tell("one", {CAUSE: Told(1, 0, 0, "C1", "1.5")})
    assert ledger.tellings()
    ledger.resolve(CAUSE)
    assert ledger.tellings()
    ledger.tell("one", {CAUSE: Told(1, 2, 0, "C1", "1.5")})
    assert ledger.tellings() == []
    ledger.report(sighting())
    ledger.resolve(CAUSE)
    assert [telling.told.opening for telling in ledger.tellings()] == [1], "the second occurrence was never told"


def test_a_list_knows_what_it_tells(ledger: Ledger) -> None:
    ledger.take_outlet("one", LEASE)
    for name in ("a", "b", "c"):
        ledger.report(sighting(name))
    ledger.resolve("a")
    ledger.tell("one", {name: Told(1, 2 * int(name == "a"), 1, "C1", "1.5") for name in ("a", "b")})
    ledger.tell("one", {"c": Told(1, 0, 0, "C1", "1.5")})
    assert [telling.incident.cause for telling in ledger.listed_in("C1", "1.5")] == ["a", "b"]
    assert ledger.listed_in("C1", "2.5") == []
