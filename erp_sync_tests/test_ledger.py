"""The ledger's entries, on SQLite and on MariaDB: what is stored, what a compare-and-set lets through, the story."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from sqlalchemy import text

from erp_sync.errors import LedgerUnavailable, Misconfigured
from erp_sync.ledger.customers import CustomerEntry
from erp_sync.ledger.entry import Change, Event
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.models import LedgerState, Problem
from erp_sync_tests.ledger_entries import DAY, START, Hand, due, found, step
from erp_sync_tests.mariadb import MariaDB

LEASE = timedelta(seconds=210)


def test_an_entry_comes_back_as_it_was_written(ledger: Ledger) -> None:
    full = due(
        "bolsa-01 ÇÃ 😀",
        START + timedelta(microseconds=1),
        payload_hash="f" * 64,
        total=Decimal("1234567890.10"),
        attempts=3,
        intent_at=START - timedelta(seconds=1),
        send_by=START + timedelta(seconds=4),
        customer_key="k" * 32,
        erp_branch="0101",
        erp_number="000123",
        sent_at=START,
        verified_at=START,
        problems=(Problem("C6_PRODUTO", "X", 'não "existe" 😀'), Problem("total", "1.00", "corrija")),
    )
    empty = due("2", day=None, next_at=None, external_id=None)
    assert ledger.add(found(full, empty)) == [True, True]
    assert ledger.entries([full.order_id, "2", "unknown"]) == {full.order_id: full, "2": empty}
    stored = ledger.entries([full.order_id])[full.order_id]
    assert (stored.found_at.tzinfo, type(stored.state), stored.total) == (UTC, LedgerState, Decimal("1234567890.10"))


def test_ids_that_differ_in_case_or_accent_are_different_orders(ledger: Ledger) -> None:
    twins = [due("bolsa-01"), due("BOLSA-01"), due("a"), due("á"), due("😀"), due("😁")]
    assert ledger.add(found(*twins)) == [True] * 6
    assert [entry.order_id for entry in ledger.by_number("LJ-bolsa-01")] == ["bolsa-01"]
    assert not ledger.number_taken("lj-bolsa-01")


def test_an_order_is_added_once(ledger: Ledger) -> None:
    assert ledger.add(found(due("1"), due("1"))) == [True, False]
    assert ledger.add(found(due("1", total=Decimal(5)), due("2"))) == [False, True]
    assert ledger.entries(["1"])["1"].total is None
    assert [event.kind for _, event, _ in ledger.story("1")] == ["found"]


def test_a_second_row_with_the_same_number_is_invalid_and_stops_nobody(ledger: Ledger) -> None:
    ledger.add(found(due("1", number="LJ-7")))
    assert ledger.add(found(due("2", number="LJ-7"), due("3", number="LJ-8"), due("4", number="LJ-8"))) == [True] * 3
    first, second = ledger.by_number("LJ-7")
    assert (first.order_id, first.external_id, first.state) == ("1", "LJ-7", LedgerState.DUE)
    assert (second.external_id, second.state, second.next_at) == (None, LedgerState.INVALID, None)
    assert "order 1 has this number" in second.problems[0].advice
    assert {entry.order_id for entry in ledger.actionable(10)} == {"1", "3"}
    assert ledger.story("2")[0][2] is LedgerState.INVALID


def test_a_number_too_wide_for_the_column_is_invalid_not_an_error(ledger: Ledger) -> None:
    ledger.add(found(due("1", number="9" * 300), due("2")))
    wide = ledger.entries(["1"])["1"]
    assert (wide.state, wide.external_id, wide.problems[0].field) == (LedgerState.INVALID, None, "number")
    with pytest.raises(Misconfigured, match="order_id"):
        ledger.add(found(due("x" * 300)))


def test_text_that_is_no_unicode_is_stored_all_the_same(ledger: Ledger) -> None:
    ledger.add(found(due("1")))
    [old] = ledger.entries(["1"]).values()
    broken = replace(old, version=2, problems=(Problem("ERP", "\ud800", "lone surrogate"),))
    assert ledger.change([Change(old, broken, Event("refused", "said \udfff"))]) == [True]
    assert ledger.story("1")[1][1].text == "said ?"


def test_a_change_needs_the_version_it_is_based_on(ledger: Ledger) -> None:
    ledger.add(found(due("1"), due("2")))
    one, two = ledger.entries(["1", "2"]).values()
    first = step(one, "claimed", state=LedgerState.SENDING, next_at=START + LEASE)
    assert ledger.change([first]) == [True]
    assert ledger.change([step(one), step(two), step(one, state=LedgerState.REFUSED)]) == [False, True, False]
    assert ledger.entries(["1"])["1"] == first.new
    assert ledger.change([]) == []


def test_the_story_has_an_event_for_every_version_and_none_for_a_lost_change(ledger: Ledger, hand: Hand) -> None:
    ledger.add(found(due("1")))
    [old] = ledger.entries(["1"]).values()
    hand.turn(3)
    sent = replace(old, version=2, state=LedgerState.SENT)
    assert ledger.change([Change(old, sent, Event("sent", "order 000123", 51.25)), step(old, "refused")]) == [
        True,
        False,
    ]
    assert list(ledger.story("1")) == [
        (START, Event("found"), LedgerState.DUE),
        (START + timedelta(seconds=3), Event("sent", "order 000123", 51.25), LedgerState.SENT),
    ]


def test_a_number_that_somebody_else_took_meanwhile_loses_alone(ledger: Ledger) -> None:
    ledger.add(found(due("1", number="A"), due("2", number="B"), due("3", number="C")))
    entries = ledger.entries(["1", "2", "3"])
    wants_a = step(entries["2"], number="A", external_id="A")
    assert ledger.change([wants_a, step(entries["3"])]) == [False, True]
    assert ledger.entries(["2"])["2"] == entries["2"]


def test_one_customer_is_held_by_one_order_at_a_time(ledger: Ledger, hand: Hand) -> None:
    ledger.add(found(due("1"), due("2"), due("3")))
    one, two, three = ledger.entries(["1", "2", "3"]).values()
    until = START + LEASE
    held = step(one, "intent", hold="customer", next_at=until)
    assert ledger.change([held]) == [True]
    waits = step(two, "intent", hold="customer", next_at=until)
    assert ledger.change([waits, step(three, "intent", hold="other", next_at=until)]) == [False, True]
    assert ledger.entries(["2"])["2"] == two
    assert len(ledger.story("2")) == 1
    again = step(held.new, "intent", hold="customer", next_at=until)
    assert ledger.change([again]) == [True]
    released = step(again.new, "sent", release="customer")
    assert ledger.change([released]) == [True]
    assert ledger.change([waits]) == [True]
    hand.turn(LEASE.total_seconds() + 1)
    assert ledger.change([step(released.new, "intent", hold="customer", next_at=hand() + LEASE)]) == [True]


def test_a_lost_change_neither_takes_nor_ends_a_hold(ledger: Ledger) -> None:
    ledger.add(found(due("1"), due("2")))
    one, two = ledger.entries(["1", "2"]).values()
    until = START + LEASE
    assert ledger.change([step(one)]) == [True]
    assert ledger.change([step(one, hold="customer", next_at=until)]) == [False]
    held = step(two, hold="customer", next_at=until)
    assert ledger.change([held]) == [True]
    assert ledger.change([step(two, release="customer")]) == [False]
    [one] = ledger.entries(["1"]).values()
    assert ledger.change([step(one, hold="customer", next_at=until)]) == [False]


def test_an_intent_whose_time_is_over_is_refused(ledger: Ledger, hand: Hand) -> None:
    ledger.add(found(due("1")))
    [old] = ledger.entries(["1"]).values()
    intent = step(old, "intent", send_by=START + timedelta(seconds=5))
    hand.turn(6)
    assert ledger.change([intent]) == [False]
    late = replace(intent.new, send_by=hand() + timedelta(seconds=5))
    assert ledger.change([Change(old, late, Event("intent"))]) == [True]
    hand.turn(100)
    # Nothing left after all: the older deadline comes back, and is no new intent.
    assert ledger.change([step(late, "due", send_by=START)]) == [True]


def test_actionable_is_what_waits_longest_of_the_days_and_numbers_asked_for(ledger: Ledger, hand: Hand) -> None:
    other = date(2026, 11, 22)
    ledger.add(
        found(
            due("1", next_at=START - timedelta(seconds=1)),
            due("2", next_at=START - timedelta(seconds=2), day=other),
            due("3", next_at=START + timedelta(seconds=30)),
            due("4", next_at=None),
            due("5", next_at=START, day=None),
        )
    )
    assert [entry.order_id for entry in ledger.actionable(9)] == ["2", "1", "5"]
    assert [entry.order_id for entry in ledger.actionable(1)] == ["2"]
    assert [entry.order_id for entry in ledger.actionable(9, days=[DAY])] == ["1"]
    assert [entry.order_id for entry in ledger.actionable(9, numbers=["LJ-2", "LJ-3"])] == ["2"]
    assert ledger.actionable(9, days=[]) == ledger.actionable(9, numbers=[]) == []
    assert ledger.actionable_days() == [other, DAY]
    assert ledger.next_wake() == ledger.next_wake([DAY]) == START + timedelta(seconds=30)
    assert ledger.next_wake([other]) is None
    hand.turn(30)
    assert [entry.order_id for entry in ledger.actionable(9, days=[DAY])] == ["1", "3"]


def test_counts_and_lists(ledger: Ledger) -> None:
    ledger.add(
        found(
            due("1", START - timedelta(hours=1)),
            due("2", START),
            replace(due("3", day=date(2026, 11, 22)), state=LedgerState.REFUSED, next_at=None),
        )
    )
    assert ledger.counts() == {LedgerState.DUE: 2, LedgerState.REFUSED: 1}
    assert ledger.counts(DAY) == {LedgerState.DUE: 2}
    assert ledger.oldest_unsent() == START - timedelta(hours=1)
    assert ledger.oldest_unsent(date(2026, 11, 22)) is None
    assert [entry.order_id for entry in ledger.list()] == ["3", "2", "1"]
    assert [entry.order_id for entry in ledger.list(state=LedgerState.DUE, day=DAY, limit=1)] == ["2"]


def test_a_customer_is_changed_by_compare_and_set(ledger: Ledger, hand: Hand) -> None:
    assert ledger.customer("k") is None
    first = CustomerEntry("k", 1, send_by=START + timedelta(seconds=5), next_at=START + LEASE)
    assert ledger.change_customer(None, first)
    assert not ledger.change_customer(None, first)
    assert ledger.customer("k") == first
    rest = CustomerEntry("k", 2, problems=(Problem("A1_CGC", "***", "corrija"),))
    assert ledger.change_customer(first, rest)
    assert not ledger.change_customer(first, rest)
    assert ledger.customer("k") == rest
    hand.turn(60)
    assert not ledger.change_customer(rest, CustomerEntry("k", 3, send_by=START + timedelta(seconds=5)))


def _race(url: str, versions: int, threads: int) -> list[tuple[int, bool]]:
    ledger = open_ledger(url, clock=Hand())

    def attempt(_: int) -> list[tuple[int, bool]]:
        mine = []
        while (entry := ledger.entries(["1"])["1"]).version <= versions:
            mine.append((entry.version, ledger.change([step(entry, hold="customer", next_at=START + LEASE)])[0]))
        return mine

    with ThreadPoolExecutor(threads) as pool:
        tried = [each for several in pool.map(attempt, range(threads)) for each in several]
    ledger.close()
    return tried


def test_exactly_one_of_all_threads_and_processes_wins_each_version(ledger: Ledger, database_url: str) -> None:
    ledger.add(found(due("1")))
    versions = 30
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        others = [pool.submit(_race, database_url, versions, 4) for _ in range(2)]
        tried = _race(database_url, versions, 4) + [each for other in others for each in other.result(60)]
    won = sorted(version for version, made in tried if made)
    assert won == list(range(1, versions + 1))
    assert len(tried) > versions, "nobody ever lost: this was no race"
    assert [at for at, _, _ in ledger.story("1")] == [START] * (versions + 1)


def test_many_adding_the_same_orders_at_once_add_each_once(ledger: Ledger) -> None:
    batches = [found(*(due(str(number)) for number in range(start, start + 40))) for start in range(0, 80, 10)]
    with ThreadPoolExecutor(8) as pool:
        added = [sum(results) for results in pool.map(ledger.add, batches)]
    assert sum(added) == 110
    assert ledger.counts() == {LedgerState.DUE: 110}
    assert all(len(ledger.story(str(number))) == 1 for number in range(110))


def test_two_rows_with_one_number_added_at_once_leave_one_valid(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda order_id: ledger.add(found(due(order_id, number="LJ-1"))), "abcdefgh"))
    assert added == [[True]] * 8
    assert ledger.counts() == {LedgerState.DUE: 1, LedgerState.INVALID: 7}


def test_cross_locking_batches_are_all_made(ledger: Ledger) -> None:
    """Two batches over the same entries in opposite order once made InnoDB give up one of them."""
    ledger.add(found(*(due(str(number)) for number in range(40))))

    def turn(backwards: bool) -> int:
        made = 0
        for _ in range(5):
            entries = sorted(ledger.entries([str(number) for number in range(40)]).values(), key=lambda e: e.order_id)
            made += sum(ledger.change([step(entry) for entry in (reversed(entries) if backwards else entries)]))
        return made

    with ThreadPoolExecutor(4) as pool:
        made = sum(pool.map(turn, [True, False, True, False]))
    versions = sum(entry.version - 1 for entry in ledger.list(limit=100))
    assert made == versions >= 200


def test_the_database_decides_the_time_on_mariadb(mariadb: MariaDB) -> None:
    url = mariadb.create_database()
    migrate(url)
    ledger = open_ledger(url)
    try:
        moments = [ledger.now() for _ in range(50)]
        [row] = ledger.database.rows(text("SELECT UTC_TIMESTAMP(6) AS now, @@time_zone AS zone, @@sql_mode AS mode"))
        assert all(before <= after for before, after in pairwise(moments))
        assert abs(row.now.replace(tzinfo=UTC) - moments[-1]) < timedelta(seconds=1)
        assert row.zone == "+00:00"
        assert "STRICT_ALL_TABLES" in row.mode
        with ledger.database.writer.connect() as connection:
            assert connection.scalar(text("SELECT @@tx_isolation")) == "READ-COMMITTED"
    finally:
        ledger.close()


def test_what_is_looked_for_often_is_a_range_of_an_index(mariadb: MariaDB) -> None:
    url = mariadb.create_database()
    migrate(url)
    ledger = open_ledger(url)
    try:
        with ledger.database.writer.connect() as connection:
            connection.execute(
                text(
                    "INSERT INTO erp_sync_orders (order_id, number, external_id, day, state, version, found_at, "
                    "payload_hash, attempts, customer_key, erp_branch, erp_number, problems) "
                    "SELECT seq, seq, seq, DATE '2026-01-01' + INTERVAL seq % 300 DAY, 'sent', 5, "
                    "TIMESTAMP '2026-01-01 00:00:00' + INTERVAL seq SECOND, '', 1, '', '', '', '' FROM seq_1_to_100000"
                )
            )
            connection.commit()
            connection.execute(text("ANALYZE TABLE erp_sync_orders")).all()
        ledger.add(found(due("new", ledger.now())))
        plans = {
            "SELECT * FROM erp_sync_orders WHERE next_at <= UTC_TIMESTAMP(6) ORDER BY next_at, found_at LIMIT 60": 10,
            "SELECT DISTINCT day FROM erp_sync_orders WHERE next_at <= UTC_TIMESTAMP(6) AND day IS NOT NULL": 10,
            "SELECT MIN(next_at) FROM erp_sync_orders WHERE next_at > UTC_TIMESTAMP(6)": 10,
            "SELECT state, COUNT(*) FROM erp_sync_orders WHERE day = '2026-02-01' GROUP BY state": 1000,
            "SELECT * FROM erp_sync_orders WHERE number = '77'": 10,
            "SELECT * FROM erp_sync_orders ORDER BY found_at DESC, order_id DESC LIMIT 100": 200,
        }
        for query, at_most in plans.items():
            [plan] = ledger.database.rows(text(f"EXPLAIN {query}"))
            assert plan.type in ("range", "ref", "index", None), query
            assert int(plan.rows or 0) <= at_most, f"{query}: {plan.rows} rows through {plan.key}"
    finally:
        ledger.close()


def test_the_password_is_never_shown(mariadb: MariaDB) -> None:
    mariadb.execute("CREATE USER IF NOT EXISTS 'app'@'%' IDENTIFIED BY 'right'")
    database = mariadb.create_database()
    name = database.rsplit("/", 1)[1]
    for url, words in {
        mariadb.url(name, user="app", password="s3cret-pw"): "refuses the user or the password",
        mariadb.url("missing"): "no such database",
        mariadb.url(name, user="app", password="right"): "denies the user this database",
        mariadb.url(name): "run erp-sync migrate",
        "mysql+pymysql://root:s3cret-pw@127.0.0.1:1/x": "is not available",
        "postgresql://u:s3cret-pw@h/x": "use mysql",
        "mysql+pymysql://u:s3cret-pw@h": "names no database",
        "mysql+pymysql://u:s3cret-pw@h:port/x": "is no SQLAlchemy URL",
        "mysql+pymysql://u:x@s3cret-pw@h/x": "more than one @",
        f"{mariadb.url(name, password='s3cret-pw')}?ssl_ca=/missing.pem": "cannot be read",
        f"{mariadb.url(name, password='s3cret-pw')}?ssl_verify_cert=true": "ssl_verify_cert",
    }.items():
        with pytest.raises((Misconfigured, LedgerUnavailable), match=words) as raised:
            open_ledger(url)
        assert "s3cret-pw" not in str(raised.value)
        assert isinstance(raised.value, LedgerUnavailable) == (words == "is not available")
        assert "\n" not in str(raised.value)
