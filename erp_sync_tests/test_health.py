"""Each check on the whole ledger, green and red: what it counts, since when, whom it names, how urgent it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.ledger.status_entry import StatusChange, StatusEntry, StatusEvent
from erp_sync.models import Cancellation, LedgerState, OrderStatus, Problem, Severity
from erp_sync.settings import Settings
from erp_sync.sync.findings import LEDGER_CHECKS, Finding
from erp_sync.sync.health import LedgerHealth, remember_stock
from erp_sync.sync.problems import CANCELLATION, ERP_ORDER, ERP_ORDERS, SHOP_STATUS
from erp_sync.sync.results import StockResult
from erp_sync_tests import ledger_entries
from erp_sync_tests.ledger_entries import START, Hand, due, step

MINUTE = 60.0


class Here:
    """A ledger, its clock, and all checks."""

    def __init__(self, url: str) -> None:
        migrate(url)
        self.clock = Hand()
        self.ledger: Ledger = open_ledger(url, clock=self.clock)
        self.health = LedgerHealth(self.ledger, Settings(), follows_stock=True)

    def find(self, name: str) -> Finding:
        return self.health.find(name)

    def red(self) -> set[str]:
        return {name for name in LEDGER_CHECKS if not self.find(name).passed}

    def add(self, order_id: str, at: datetime = START, **values: Any) -> None:
        entry = due(order_id, at)
        assert self.ledger.add(ledger_entries.found(entry)) == [True]
        if values:
            self.turn_into(order_id, **values)

    def turn_into(self, order_id: str, **values: Any) -> None:
        entry = self.ledger.entries([order_id])[order_id]
        assert self.ledger.change([step(entry, **values)]) == [True]

    def sent(self, order_id: str, problem: Problem | None = None, **values: Any) -> None:
        """Sent and read back, with what was found then."""
        self.add(order_id)
        self.turn_into(order_id, state=LedgerState.SENT, erp_number=f"E{order_id}", sent_at=self.clock.at, next_at=None)
        if problem is not None or values:
            self.turn_into(order_id, problems=(problem,) if problem else (), **values)

    def life(self, order_id: str, event: str = "", **values: Any) -> None:
        """Something happened to a sent order."""
        old: StatusEntry = self.ledger.statuses([order_id])[order_id]
        told = StatusEvent(event, "told") if event else None
        new = replace(old, version=old.version + 1, **values)
        assert self.ledger.change_statuses([StatusChange(old, new, told)]) == [True]

    def stock_pass(self, **figures: Any) -> None:
        remember_stock(self.ledger, StockResult(read_at=self.clock.at, **figures))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    place = Here(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield place
    place.ledger.close()


@pytest.fixture
def everywhere(database_url: str) -> Iterator[Here]:
    """On SQLite and on MariaDB."""
    place = Here(database_url)
    yield place
    place.ledger.close()


def test_a_ledger_at_rest_is_green_in_every_respect(everywhere: Here) -> None:
    everywhere.sent("1")
    everywhere.life("1", status=OrderStatus.OPEN, changed_at=everywhere.clock.at, next_at=everywhere.clock.at)
    everywhere.stock_pass()
    everywhere.clock.turn(14 * MINUTE)
    assert everywhere.red() == set()
    assert all(everywhere.find(name).text for name in LEDGER_CHECKS)


def test_an_order_that_waits_is_a_warning_and_then_an_error(everywhere: Here) -> None:
    """Whatever it waits for: due, being sent, in doubt. The clock starts when it was found, not when it was last tried:
    one that goes round and round would be young for ever."""
    everywhere.stock_pass()
    for number, state in enumerate((LedgerState.DUE, LedgerState.SENDING, LedgerState.IN_DOUBT), 1):
        everywhere.add(str(number), START + timedelta(seconds=number), state=state, intent_at=START)
    everywhere.add("9", START + timedelta(minutes=14))
    everywhere.clock.turn(14 * MINUTE)
    assert everywhere.red() == set()
    everywhere.clock.turn(2 * MINUTE)
    found = everywhere.find("nothing_waits")
    assert (found.passed, found.severity, found.count) == (False, Severity.WARNING, 3)
    assert (found.oldest_at, found.sample) == (START + timedelta(seconds=1), ("LJ-1", "LJ-2", "LJ-3"))
    assert "3 orders" in found.text
    assert found.remedy
    everywhere.clock.turn(45 * MINUTE)
    assert everywhere.find("nothing_waits").severity is Severity.ERROR
    assert everywhere.find("nothing_waits").count == 4


def test_no_more_than_five_orders_are_named_and_all_are_counted(here: Here) -> None:
    for number in range(7):
        here.add(str(number))
    here.clock.turn(20 * MINUTE)
    found = here.find("nothing_waits")
    assert (found.count, len(found.sample)) == (7, 5)


def test_a_doubt_that_lasts_is_told_apart_from_waiting(here: Here) -> None:
    here.add("1", START, state=LedgerState.IN_DOUBT, intent_at=START)
    here.add("2", START)
    here.clock.turn(59 * MINUTE)
    assert here.find("nothing_in_doubt").passed
    here.clock.turn(2 * MINUTE)
    found = here.find("nothing_in_doubt")
    assert (found.severity, found.count, found.sample) == (Severity.WARNING, 1, ("LJ-1",))
    here.clock.turn(180 * MINUTE)
    assert here.find("nothing_in_doubt").severity is Severity.ERROR


def test_a_refused_order_is_told_at_once_and_urgent_after_an_hour(here: Here) -> None:
    problem = Problem("payment", "x", "map it")
    here.add("1", START, state=LedgerState.REFUSED, problems=(problem,), next_at=None)
    here.add("2", START + timedelta(minutes=1), state=LedgerState.INVALID, problems=(problem,), next_at=None)
    found = here.find("no_order_refused")
    assert (found.severity, found.count, found.oldest_at) == (Severity.WARNING, 2, START)
    assert "erp-sync retry" in found.remedy
    assert here.red() == {"no_order_refused"}
    here.clock.turn(61 * MINUTE)
    assert here.find("no_order_refused").severity is Severity.ERROR
    here.turn_into("1", state=LedgerState.SENT, sent_at=here.clock.at, erp_number="1", problems=(), next_at=None)
    here.turn_into("2", state=LedgerState.CANCELLED, problems=())
    assert here.find("no_order_refused").passed


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        ("no_order_twice", Problem(ERP_ORDERS, "A, B", "the ERP has this order more than once: keep one")),
        ("totals_agree", Problem(ERP_ORDER, "A", "its total is 10.00, not 20.00: compare both")),
        ("orders_are_as_sent", Problem(ERP_ORDER, "A", "was deleted in the ERP: it is never created again")),
    ],
)
def test_what_the_reading_back_found_is_an_error_of_its_own_kind(here: Here, check: str, problem: Problem) -> None:
    here.sent("1", problem)
    here.sent("2")
    here.stock_pass()
    assert here.red() == {check}
    found = here.find(check)
    assert (found.severity, found.count, found.sample) == (Severity.ERROR, 1, ("LJ-1",))
    here.turn_into("1", problems=())
    assert here.red() == set()


def test_an_order_that_the_erp_has_with_another_total_is_not_called_refused(here: Here) -> None:
    """It is there: who retypes it makes a second one."""
    problem = Problem(ERP_ORDER, "A", "has this external id, but its total is 1.00, not 2.00: compare both")
    here.add("1", START, state=LedgerState.REFUSED, erp_number="A", problems=(problem,), next_at=None)
    here.stock_pass()
    assert here.red() == {"totals_agree"}


def test_incidents_are_counted_over_pages(everywhere: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erp_sync.ledger.health.PAGE", 2)
    for number in range(5):
        everywhere.sent(str(number), Problem(ERP_ORDERS, "A, B", "more than once"))
        everywhere.life(str(number), problems=(Problem(SHOP_STATUS, "x", "somebody set it"),))
    assert everywhere.find("no_order_twice").count == 5
    assert everywhere.find("no_status_needs_a_person").count == 5


def test_a_status_that_nobody_asks_for_is_stale(here: Here) -> None:
    here.sent("1")
    here.sent("2")
    here.life("2", status=OrderStatus.INVOICED, next_at=None)
    here.clock.turn(16 * MINUTE)
    found = here.find("statuses_fresh")
    assert (found.severity, found.count, found.oldest_at) == (Severity.WARNING, 1, START)
    here.clock.turn(45 * MINUTE)
    assert here.find("statuses_fresh").severity is Severity.ERROR
    here.life("1", next_at=here.clock.at)
    assert here.find("statuses_fresh").passed


def test_a_slow_schedule_is_not_late_before_its_next_pass(here: Here) -> None:
    statuses = Settings().statuses.model_copy(update={"every_minutes": 60})
    here.health = LedgerHealth(here.ledger, Settings(statuses=statuses), follows_stock=True)
    here.sent("1")
    here.clock.turn(120 * MINUTE)
    assert here.find("statuses_fresh").passed
    here.clock.turn(10 * MINUTE)
    assert here.find("statuses_fresh").severity is Severity.WARNING


def test_a_change_that_the_shop_does_not_hear_of(here: Here) -> None:
    here.sent("1")
    here.life("1", status=OrderStatus.RELEASED, write_at=here.clock.at, next_at=None)
    here.clock.turn(16 * MINUTE)
    found = here.find("shop_knows_every_status")
    assert (found.count, found.severity, found.sample) == (1, Severity.WARNING, ("LJ-1",))
    here.life("1", write_at=None)
    assert here.find("shop_knows_every_status").passed


def test_shop_and_erp_that_contradict_each_other_wait_for_a_person(here: Here) -> None:
    here.sent("1")
    here.life("1", changed_at=START, problems=(Problem(SHOP_STATUS, "x", "somebody set it"),))
    here.stock_pass()
    assert here.red() == {"no_status_needs_a_person"}
    found = here.find("no_status_needs_a_person")
    assert (found.severity, found.count) == (Severity.WARNING, 1)
    assert "shop status 1" in found.text
    here.life("1", next_at=None)
    assert here.find("no_status_needs_a_person").passed, "nobody watches it any more: nothing would ever end this"


class TestCancellations:
    def _too_late(self, here: Here) -> None:
        here.sent("1")
        problem = Problem(CANCELLATION, "1/1", "it is invoiced: cancel the invoice")
        here.life("1", "too_late", cancellation=Cancellation.TOO_LATE, problems=(problem,), next_at=here.clock.at)

    def test_a_task_is_a_warning_and_urgent_in_its_last_quarter(self, here: Here) -> None:
        self._too_late(here)
        found = here.find("cancellations_are_done")
        assert (found.severity, found.count, found.sample) == (Severity.WARNING, 1, ("LJ-1",))
        assert "2026-11-24 12:00 UTC" in found.text, "24 hours from when it was found to be too late"
        assert "no_status_needs_a_person" not in here.red(), "one thread per cause"
        here.clock.turn(17.5 * 3600)
        assert here.find("cancellations_are_done").severity is Severity.WARNING
        here.clock.turn(1 * 3600)
        assert here.find("cancellations_are_done").severity is Severity.ERROR

    def test_a_task_is_no_longer_told_when_it_is_done(self, here: Here) -> None:
        self._too_late(here)
        here.life("1", cancellation=Cancellation.CANCELLED, problems=())
        assert here.find("cancellations_are_done").passed

    def test_a_task_stays_until_its_deadline_though_the_order_is_final(self, here: Here) -> None:
        self._too_late(here)
        here.life("1", next_at=None)
        assert not here.find("cancellations_are_done").passed
        here.clock.turn(25 * 3600)
        assert here.find("cancellations_are_done").passed

    def test_a_call_that_does_not_go_on_is_told(self, here: Here) -> None:
        here.sent("1")
        here.life("1", cancellation=Cancellation.WANTED, cancel_at=here.clock.at)
        here.clock.turn(14 * MINUTE)
        assert here.find("cancellations_are_done").passed
        here.clock.turn(2 * MINUTE)
        assert here.find("cancellations_are_done").severity is Severity.WARNING
        here.clock.turn(60 * MINUTE)
        assert here.find("cancellations_are_done").severity is Severity.ERROR


class TestStock:
    def test_a_pass_that_does_not_come_is_told(self, here: Here) -> None:
        here.stock_pass()
        here.clock.turn(16 * MINUTE)
        found = here.find("stock_fresh")
        assert (found.severity, found.oldest_at) == (Severity.WARNING, START)
        here.clock.turn(60 * MINUTE)
        assert here.find("stock_fresh").severity is Severity.ERROR
        here.stock_pass()
        assert here.find("stock_fresh").passed

    def test_one_that_never_came_is_late_from_the_first_look_on(self, here: Here) -> None:
        assert here.find("stock_fresh").passed
        here.clock.turn(16 * MINUTE)
        assert not here.find("stock_fresh").passed

    def test_a_mass_change_waits_for_a_person(self, here: Here) -> None:
        here.stock_pass(found=100, different=90, guard="90 of 100 stocks would change")
        found = here.find("no_mass_change_waits")
        assert (found.passed, found.severity, found.count) == (False, Severity.ERROR, 90)
        assert "--accept" in found.remedy
        here.stock_pass(found=100, different=90, written=90)
        assert here.find("no_mass_change_waits").passed

    def test_stocks_that_were_not_written_are_told(self, here: Here) -> None:
        result = StockResult(read_at=START, held_back=2)
        result.trouble("failed", "BOLSA-01: the shop's row is locked")
        remember_stock(here.ledger, result)
        found = here.find("stock_agrees")
        assert (found.severity, found.count, found.sample) == (Severity.WARNING, 3, ("BOLSA-01",))
        here.stock_pass(written=3)
        assert here.find("stock_agrees").passed

    def test_without_a_stock_block_nobody_complains(self, here: Here) -> None:
        here.health = LedgerHealth(here.ledger, Settings(), follows_stock=False)
        here.clock.turn(3600 * 24)
        assert here.red() == set()


def test_every_query_is_a_range_of_an_index(everywhere: Here) -> None:
    """A ledger of a million orders is asked every fifteen seconds."""
    from sqlalchemy import event

    asked: list[tuple[str, object]] = []

    def note(_connection: object, _cursor: object, statement: str, values: object, *_more: object) -> None:
        asked.append((statement, values))

    for number in range(60):
        everywhere.sent(str(number))
        everywhere.life(str(number), next_at=None)
    everywhere.sent("x", Problem(ERP_ORDERS, "A, B", "more than once"))
    everywhere.life("x", problems=(Problem(SHOP_STATUS, "x", "somebody set it"),))
    database = everywhere.ledger.database
    event.listen(database.reader, "before_cursor_execute", note)
    for name in LEDGER_CHECKS:
        everywhere.find(name)
    event.remove(database.reader, "before_cursor_execute", note)
    queries = [(statement, values) for statement, values in asked if "erp_sync_marks" not in statement]
    assert len(queries) > 8
    with database.reader.connect() as connection:
        for statement, values in queries:
            explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
            plan = connection.exec_driver_sql(explain + statement, values).all()  # type: ignore[arg-type]
            if database.is_sqlite:
                steps = [str(row[-1]) for row in plan]
                assert not [step for step in steps if step.startswith("SCAN")], f"{statement}\n{steps}"
                # Nearly all orders are after a key, were found before a moment, and are sent.
                nearly_all = ["(order_id>?)", "(found_at<?)", *(["(state=?)"] if "sent" in values else [])]  # type: ignore[operator]
                wide = [step for step in steps if any(each in step for each in nearly_all)]
                assert not wide, f"{statement}\n{steps}"
            else:
                assert not [row for row in plan if row[3] in ("ALL", "index")], f"{statement}\n{plan}"
