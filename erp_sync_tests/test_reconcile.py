"""Reconciliation against the sandbox over HTTP, on SQLite and MariaDB: each kind of finding made for real, and what is
repaired repaired once."""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest

from erp_sync.errors import ErpUnavailable, LedgerUnavailable, OddRow
from erp_sync.ledger.ledger import open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.ledger.reconciled_day import KINDS, Finding, ReconciledDay, Verdict
from erp_sync.models import LedgerState, OrderStatus
from erp_sync.sandbox.shop import SHOP_ZONE, PlacedOrder
from erp_sync.sync import asking, reconcile
from erp_sync.sync.reconcile_report import kind_words, table_rows, what_to_do, write_csv
from erp_sync_tests.conftest import FreshDatabase
from erp_sync_tests.mariadb import MariaDB
from erp_sync_tests.reconciling import Books, books


@pytest.fixture(autouse=True)
def minutes_between_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What two looks at a vanished order must lie apart has passed from one to the next."""
    monkeypatch.setattr(asking, "SECOND_LOOK", timedelta())


@pytest.fixture
def shelf(fresh_database: FreshDatabase) -> Iterator[Books]:
    with books([fresh_database(), fresh_database()]) as setting:
        yield setting


@pytest.fixture
def embedded() -> Iterator[Books]:
    """SQLite alone: what depends on no database."""
    with books() as setting:
        yield setting


def _old(order: PlacedOrder, setting: Books, days: int, **columns: Any) -> date:
    """Placed and last changed some days ago, past every look but the sweep's."""
    at = setting.on.shop.now() - timedelta(days=days)
    setting.on.shop.change_order(order, touch=False, placed_at=at, updated_at=at, **columns)
    return at.date()


def test_a_clean_day_agrees_to_the_cent(shelf: Books) -> None:
    orders = shelf.sent(3)
    shelf.on.shop.place_order()
    cancelled = shelf.on.shop.checkout()
    shelf.on.shop.cancel(cancelled)
    day = shelf.today()
    total = sum((order.total for order in orders), Decimal(0))
    assert day.findings == []
    assert (day.shop_orders, day.erp_orders, day.waiting) == (3, 3, 0)
    assert day.shop_value == day.erp_value == total
    assert day.value_difference == 0
    assert day.statuses == {OrderStatus.OPEN: 3}
    assert day.median_minutes is not None
    assert 0 <= day.median_minutes <= (day.p95_minutes or 0) < 1
    assert shelf.connections.ledger.reconciled() == [day], "as it is kept"


def test_each_kind_is_found_and_what_repairs_itself_is_repaired_once(shelf: Books) -> None:
    shop = shelf.on.shop
    sent = shelf.sent(18)
    good, twice, dearer, shorter, vanished, renamed, gone, cancelled, deleted, *more = sent
    told, bad_key, no_key, changed, forgotten, doubtful, refused, shown, regretted = more
    two_lines = shop.place_odd_order("two_lines_one_sku")
    held = shop.place_bad_order("unknown_sku")
    shelf.erp(bad_key, "POST invoice", {"key": "3" * 44})
    shelf.erp(no_key, "POST invoice", {"key": False})
    shelf.erp(shown, "POST release")
    shelf.settle()
    shelf.on.erp.switch(duplicates="second_order")
    shelf.type_by_hand(twice.number, like=twice)
    shelf.type_by_hand("NOT-OURS", like=good)
    shelf.type_by_hand("NOT\tOURS", like=good)
    shelf.erp(dearer, "PATCH", {"items": {"01": {"price": "1.23"}}})
    shelf.erp_sql("UPDATE SC6 SET C6_QTDVEN = C6_QTDVEN + 1 WHERE C6_NUM = :n", n=shelf.entry(shorter).erp_number)
    shelf.erp(two_lines, "PATCH", {"removed": ["02"]})
    shelf.vanish(vanished)
    shelf.erp_sql("UPDATE SC5 SET C5_XPEDWEB = 'X' WHERE C5_NUM = :n", n=shelf.entry(renamed).erp_number)
    shelf.shop_sql("DELETE FROM order_items WHERE order_id = :id", id=gone.order_id)
    shelf.shop_sql("DELETE FROM orders WHERE id = :id", id=gone.order_id)
    shop.cancel(cancelled)
    shelf.erp(deleted, "DELETE")
    shelf.erp(told, "POST release")
    shelf.ledger_sql("UPDATE erp_sync_statuses SET next_at = NULL WHERE order_id = :id", id=str(told.order_id))
    shop.change_order(shown, status="paid")
    shelf.shop_sql("UPDATE orders SET total = total + 5, subtotal = subtotal + 5 WHERE id = :id", id=changed.order_id)
    shelf.forget(forgotten)
    shelf.lose_answer(doubtful)
    shelf.lose_answer(refused, "refused")
    shelf.lose_answer(regretted, "cancelled")
    shop.cancel(regretted)
    unseen = shop.checkout()

    for_people = {
        twice.number: "twice.live",
        dearer.number: "total.erp",
        shorter.number: "lines.erp",
        two_lines.number: "total.erp",
        vanished.number: "missing.vanished",
        renamed.number: "missing.id_lost",
        held.number: "missing.held",
        gone.number: "unknown.gone",
        bad_key.number: "nfe_key.invalid",
        no_key.number: "nfe_key.missing",
        changed.number: "changed.shop",
        regretted.number: "found.person",
        "NOT-OURS": "unknown.erp",
        "NOT\N{REPLACEMENT CHARACTER}OURS": "unknown.erp",
    }
    repaired = {
        cancelled.number: "cancelled.shop",
        deleted.number: "cancelled.erp",
        told.number: "status.stale",
        shown.number: "status.shop",
        forgotten.number: "found.adopt",
        doubtful.number: "found.adopt",
        refused.number: "found.adopt",
        unseen.number: "missing.new",
    }
    result = shelf.run()
    assert {finding.number: str(finding.verdict) for finding in result.days[0].findings} == for_people | repaired
    assert len(result.days[0].findings) == len(for_people) + len(repaired)
    assert shelf.entry(vanished).state is LedgerState.SENT, "a person decides"
    assert "reconciled" in shelf.kinds(doubtful)
    assert "reconciled" in shelf.kinds(unseen)
    shelf.settle()
    shelf.settle()  # an order that does not show counts as gone at the second look
    assert shelf.kinds(doubtful)[-1] in ("adopted", "status")
    for order in (forgotten, doubtful, refused):
        assert shelf.entry(order).state is LedgerState.SENT
        assert shelf.kinds(order).count("adopted") == 1
        assert shelf.rows_in_erp(order.number) == 1, "adopted, never created again"
    assert shelf.rows_in_erp(unseen.number) == 1
    assert shelf.rows_in_erp(vanished.number) == 1, "the journal's: it was never sent again"
    assert "reconciled" in shelf.kinds(told)
    assert shelf.kinds(shown)[-2:] == ["reconciled", "told"]
    assert shelf.verdicts() == for_people
    story = shelf.story()
    assert shelf.verdicts() == for_people
    assert shelf.story() == story, "the same again writes nothing"
    _amounts_are_told(shelf, twice, dearer, changed)


def _amounts_are_told(shelf: Books, twice: PlacedOrder, dearer: PlacedOrder, changed: PlacedOrder) -> None:
    (day,) = shelf.connections.ledger.reconciled(days=[shelf.day])
    found = {finding.number: finding for finding in day.findings}
    total = shelf.entry(twice).total
    assert total is not None
    assert (found[twice.number].shop_total, found[twice.number].erp_total) == (total, 2 * total)
    assert ", " in found[twice.number].erp_numbers
    assert found[dearer.number].erp_total != found[dearer.number].shop_total == shelf.entry(dearer).total
    assert found[changed.number].shop_total == (found[changed.number].erp_total or 0) + 5
    assert found["NOT-OURS"].erp_total
    sold, booked = day.shop_value, day.erp_value
    assert day.value_difference == sold - booked != 0


def test_an_order_that_no_look_found_is_found_by_its_day(shelf: Books) -> None:
    """Committed late, or by a raw UPDATE: it lies behind every window."""
    late, old, early = shelf.on.shop.checkout(), shelf.on.shop.checkout(), shelf.on.shop.checkout()
    day = _old(late, shelf, 3)
    _old(early, shelf, 9)
    shelf.settle()
    assert not shelf.connections.ledger.entries([str(late.order_id), str(early.order_id)])
    result = shelf.run(day, day - timedelta(days=6))
    assert [[str(finding.verdict) for finding in one.findings] for one in result.days] == [[], ["missing.new"]]
    assert result.days[0].shop_orders == 0, "ready before the day of going live: not ours"
    assert (result.days[1].shop_orders, result.days[1].shop_value) == (1, late.total)
    shelf.settle()
    assert shelf.kinds(late)[:2] == ["found", "reconciled"]
    assert shelf.rows_in_erp(late.number) == 1
    assert shelf.run(day).days[0].findings == []
    assert shelf.rows_in_erp(old.number) == 1


def test_an_old_day_is_searched_by_key(embedded: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "RECENT", timedelta(0))
    monkeypatch.setattr(reconcile, "CHUNK", 2)
    orders = embedded.on.shop.checkout_many(5)
    for order in orders:
        embedded.on.shop.change_order(order, touch=False, updated_at=embedded.on.shop.now() - timedelta(days=5))
    assert set(embedded.verdicts().values()) == {"missing.new"}
    embedded.settle()
    assert embedded.verdicts() == {}


def test_days_are_the_shop_s_business_days(embedded: Books) -> None:
    """23:59 in São Paulo is tomorrow in UTC."""
    order, next_one = embedded.on.shop.checkout_many(2)
    yesterday = embedded.day - timedelta(days=1)
    embedded.on.shop.change_order(
        order, placed_at=datetime.combine(yesterday, datetime.max.time().replace(microsecond=0))
    )
    embedded.on.shop.change_order(next_one, placed_at=datetime.combine(embedded.day, datetime.min.time()))
    days = embedded.run(yesterday, embedded.day).days
    assert [[finding.number for finding in day.findings] for day in days] == [[order.number], [next_one.number]]


def test_what_is_a_few_minutes_old_is_on_its_way(embedded: Books) -> None:
    (sent,) = embedded.sent(1)
    embedded.erp(sent, "POST release")
    embedded.on.shop.checkout()
    due = embedded.on.shop.checkout()
    embedded.connections.orders_flow().look_for([due.number])
    day = embedded.today(young=timedelta(minutes=15))
    assert day.findings == []
    assert (day.shop_orders, day.erp_orders, day.waiting) == (3, 1, 2)


def test_an_order_that_moves_while_it_is_looked_at_is_looked_at_again(
    embedded: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = embedded.on.shop.checkout()
    embedded.connections.orders_flow().look_for([order.number])
    flow = embedded.flow()
    find = flow._erp.find_orders
    calls: list[int] = []

    def late(external_ids: Any) -> Any:
        found = find(external_ids)
        if not calls:
            embedded.settle()  # sent by another process, after the ledger and the ERP were read
        calls.append(1)
        return found

    monkeypatch.setattr(flow._erp, "find_orders", late)
    (day,) = flow.run([embedded.day]).days
    assert len(calls) > 1
    assert (day.findings, day.erp_orders) == ([], 1)
    assert embedded.rows_in_erp(order.number) == 1


def test_an_order_that_is_found_meanwhile_counts_once(embedded: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    order = embedded.on.shop.checkout()
    flow = embedded.flow()
    unknown = flow._unknown_to_ledger

    def then_found(days: Sequence[date]) -> Any:
        heads = unknown(days)
        embedded.connections.orders_flow().look_for([order.number])
        return heads

    monkeypatch.setattr(flow, "_unknown_to_ledger", then_found)
    (day,) = flow.run([embedded.day]).days
    assert (day.shop_orders, day.shop_value) == (1, order.total)
    assert [str(finding.verdict) for finding in day.findings] == ["missing.waiting"]


def test_a_claimed_order_is_left_to_its_owner(embedded: Books) -> None:
    (order,) = embedded.sent(1)
    embedded.lose_answer(order)
    embedded.ledger_sql("UPDATE erp_sync_orders SET state = 'sending'")
    version = embedded.entry(order).version
    assert embedded.today().findings == []
    assert embedded.entry(order).version == version


def test_an_order_under_another_number_is_never_made_due(embedded: Books) -> None:
    """The look-up before the create would ask for the new number, and the order would be there twice."""
    (order,) = embedded.sent(1)
    embedded.lose_answer(order, "refused")
    embedded.on.shop.change_order(order, number="LJ-NEW")
    assert embedded.verdicts() == {order.number: "found.person"}
    assert embedded.entry(order).state is LedgerState.REFUSED


def test_a_second_row_with_a_number_has_nothing_to_do_with_the_first_one_s_order(embedded: Books) -> None:
    second = embedded.on.shop.place_bad_order("number_twice")
    embedded.settle()
    day = embedded.today()
    assert [(one.number, str(one.verdict)) for one in day.findings] == [(second.number, "missing.held")]
    assert "has this number already" in day.findings[0].note
    assert (day.shop_orders, day.erp_orders) == (2, 1)


def test_with_the_erp_away_nothing_is_kept_and_nothing_repaired(embedded: Books) -> None:
    (order,) = embedded.sent(1)
    embedded.lose_answer(order)
    unseen = embedded.on.shop.checkout()
    before = embedded.entry(order)
    embedded.on.erp.kill()
    result = embedded.flow().run([embedded.day])
    assert isinstance(result.failure, ErpUnavailable)
    assert result.days == embedded.connections.ledger.reconciled() == []
    assert embedded.entry(order) == before
    assert not embedded.connections.ledger.entries([str(unseen.order_id)])


def test_an_erp_that_goes_away_in_the_middle_leaves_the_last_result(
    embedded: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    (order,) = embedded.sent(1)
    kept = embedded.today()
    embedded.lose_answer(order)
    before = embedded.entry(order)
    flow = embedded.flow()

    def away(_day: date) -> Any:
        raise ErpUnavailable("gone")

    monkeypatch.setattr(flow._erp, "external_ids_of", away)
    assert str(flow.run([embedded.day]).failure) == "gone"
    assert embedded.connections.ledger.reconciled() == [kept]
    assert embedded.entry(order) == before, "what was not read whole repairs nothing"


def test_an_erp_that_shows_nothing_is_not_believed(embedded: Books) -> None:
    """Another branch, or rows that the user may not read: a thousand orders are not missing at once."""
    embedded.sent(12)
    embedded.erp_sql("DELETE FROM SC5")
    result = embedded.flow().run([embedded.day])
    assert "nothing is concluded" in str(result.failure)
    assert embedded.connections.ledger.reconciled() == []


def test_a_figure_that_is_no_number_is_its_own_order_s_finding(
    embedded: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = embedded.sent(3)
    odd = embedded.entry(orders[1]).erp_number
    flow = embedded.flow()
    progress = flow._lives.progress

    def read(numbers: Sequence[str]) -> Any:
        if odd in numbers:
            raise OddRow("the ERP's C6_QTDVEN is no number: 'two'")
        return progress(numbers)

    monkeypatch.setattr(flow._lives, "progress", read)
    result = flow.run([embedded.day])
    assert [(one.number, str(one.verdict)) for one in result.days[0].findings] == [
        (orders[1].number, "total.unreadable")
    ]


def test_a_stranger_that_cannot_be_read_stops_nothing(embedded: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    (order,) = embedded.sent(1)
    for number in ("HAND-1", "HAND-2", "HAND-3"):
        embedded.type_by_hand(number, like=order)
    flow = embedded.flow()
    find = flow._erp.find_orders

    def read(external_ids: Sequence[str]) -> Any:
        if "HAND-2" in external_ids:
            raise OddRow("the ERP's C6_VALOR is no number: 'two'")
        return find(external_ids)

    monkeypatch.setattr(flow._erp, "find_orders", read)
    result = flow.run([embedded.day])
    assert result.failure is None
    assert {one.number: str(one.verdict) for one in result.days[0].findings} == {
        "HAND-1": "unknown.erp",
        "HAND-2": "total.unreadable",
        "HAND-3": "unknown.erp",
    }


def test_a_story_takes_no_claim(embedded: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow may claim what was just found, before the reconciliation notes why it was."""
    embedded.sent(1)
    order = embedded.on.shop.checkout()
    flow = embedded.flow()
    look = flow._finder.look_at

    def claimed(heads: Any) -> Any:
        looked = look(heads)
        embedded.ledger_sql("UPDATE erp_sync_orders SET state = 'sending', version = 2 WHERE version = 1")
        return looked

    monkeypatch.setattr(flow._finder, "look_at", claimed)
    assert flow.run([embedded.day]).failure is None
    assert embedded.entry(order).version == 2


def test_a_pass_that_is_cut_off_at_any_write_is_finished_by_the_next(
    embedded: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = embedded.connections.ledger.database
    write, allowed, cut = database.write, 0, True
    while cut:
        doubtful, told = embedded.sent(2)
        embedded.erp(told, "POST release")
        embedded.ledger_sql("UPDATE erp_sync_statuses SET next_at = NULL")
        embedded.lose_answer(doubtful)
        unseen = embedded.on.shop.checkout()
        embedded.ledger_sql("DELETE FROM erp_sync_reconciliations")
        left = [allowed]

        def cut_off(*args: Any, left: list[int] = left) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return write(*args)

        flow = embedded.flow()
        with monkeypatch.context() as patch:
            patch.setattr(database, "write", cut_off)
            cut = False
            try:
                flow.run([embedded.day])
            except KeyboardInterrupt:
                cut = True
        kept = embedded.connections.ledger.reconciled()
        assert [len(day.findings) for day in kept] == ([] if cut else [3]), "whole, or not at all"
        embedded.run()
        embedded.settle()
        assert embedded.verdicts() == {}
        assert [embedded.rows_in_erp(order.number) for order in (doubtful, told, unseen)] == [1, 1, 1]
        allowed += 1
    assert allowed >= 5, "two repairs, one find and its story, and the result"


def test_a_result_is_replaced_whole_or_not_at_all(shelf: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = shelf.connections.ledger
    at = ledger.now()
    findings = [Finding(f"LJ-{n}", Verdict.TOTAL, Decimal("1.10"), Decimal("1.20")) for n in range(700)]
    first = ReconciledDay(shelf.day, at, findings=findings, statuses={"open": 2})
    ledger.keep_reconciliation(first)
    assert ledger.reconciled() == [first]
    second = ReconciledDay(shelf.day, at, shop_orders=1, findings=findings[:1])
    odd = ReconciledDay(shelf.day, at, findings=[Finding("LJ-1", Verdict.TOTAL, shop_says=None)])  # type: ignore[arg-type]
    with pytest.raises(LedgerUnavailable):
        ledger.keep_reconciliation(odd)
    assert ledger.reconciled() == [first]
    ledger.keep_reconciliation(second)
    assert ledger.reconciled(since=shelf.day) == ledger.reconciled(days=[shelf.day]) == [second]
    assert ledger.reconciled(since=shelf.day + timedelta(days=1)) == []


def test_two_first_results_of_a_day_at_once_are_the_later_one(mariadb: MariaDB) -> None:
    url = mariadb.create_database()
    migrate(url)
    ledgers = [open_ledger(url) for _ in range(2)]
    days = [date(2026, 11, day) for day in range(1, 16)]
    with ThreadPoolExecutor(2) as pool:
        for day in days:
            results = [
                ReconciledDay(day, ledgers[0].now(), n, findings=[Finding(f"LJ-{n}", Verdict.TOTAL)]) for n in (1, 2)
            ]
            list(pool.map(lambda pair: pair[0].keep_reconciliation(pair[1]), zip(ledgers, results, strict=True)))
    kept = ledgers[0].reconciled()
    assert [day.day for day in kept] == days
    assert all([one.number for one in day.findings] == [f"LJ-{day.shop_orders}"] for day in kept)
    for ledger in ledgers:
        ledger.close()


# What people read


def _judged() -> ReconciledDay:
    findings = [
        Finding("=1+1", Verdict.TOTAL, Decimal("1234.50"), Decimal("1234.60"), erp_numbers="000001"),
        Finding("LJ-2", Verdict.MISSING_HELD, Decimal("10"), None, "refused", "", "", "-note; with\nlines"),
    ]
    at = datetime(2026, 11, 24, tzinfo=SHOP_ZONE)
    return ReconciledDay(date(2026, 11, 23), at, 2, Decimal("1244.50"), 1, Decimal("1234.60"), findings=findings)


def test_a_table_that_cannot_be_finished_leaves_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "day.csv"
    write_csv(file, [_judged()], "en")
    before = file.read_bytes()
    with pytest.raises(AttributeError):
        write_csv(file, [_judged(), cast(Any, None)], "en")
    assert (file.read_bytes(), list(tmp_path.iterdir())) == (before, [file])


def test_a_table_goes_through_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        write_csv(pipe, [_judged()], "en")
        assert read.result().startswith(codecs.BOM_UTF8)
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("language", "separator", "amounts", "sums"),
    [
        ("pt-BR", ";", ["1234,50", "1234,60", "-0,10"], ["1244,50", "1234,60", "9,90"]),
        ("en", ",", ["1234.50", "1234.60", "-0.10"], ["1244.50", "1234.60", "9.90"]),
    ],
)
def test_the_table_for_a_bookkeeper_opens_in_a_spreadsheet_of_his_language(
    tmp_path: Path, language: Any, separator: str, amounts: list[str], sums: list[str]
) -> None:
    file = tmp_path / "day.csv"
    write_csv(file, [_judged()], language)
    assert file.read_bytes().startswith(b"\xef\xbb\xbf")
    with file.open(encoding="utf-8-sig", newline="") as text:
        head, whole, first, second = list(csv.reader(text, delimiter=separator))
    assert len(head) == len(whole) == len(first) == len(second) == 11
    assert whole[4:7] == sums
    assert first[1] == "'=1+1", "not computed"
    assert first[4:7] == amounts, "a number of ours stays one, below zero too"
    assert (second[4], second[5], second[6]) == (
        sums[0].replace("1244", "10").replace("50", "00").replace("9", "9"),
        "",
        "",
    )
    assert second[10] == "'-note; with lines"


def test_every_finding_has_words_in_both_languages() -> None:
    for verdict in Verdict:
        english, portuguese = (what_to_do(verdict, language) for language in ("en", "pt-BR"))
        assert english != portuguese
        assert english.startswith("nothing:") == portuguese.startswith("nada:") == verdict.is_repaired, verdict
    assert all(kind_words(kind, "en") != kind_words(kind, "pt-BR") for kind in KINDS)
    rows = list(table_rows([_judged()], "en"))
    assert rows[0]["shop"] == "1234.50"
    assert rows[1]["shop"] == "10.00; refused"
    lines = Finding("LJ-3", Verdict.LINES, Decimal("1.5"), Decimal("1.5"), "2 lines, 3.5 units", "1 lines, 3 units")
    (row,) = table_rows([replace(_judged(), findings=[lines])], "pt-BR")
    assert row["shop"] == "1,50; 2 itens, 3.5 unidades"
