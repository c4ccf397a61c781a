"""A person is forgotten: nothing in the ledger tells whose his orders are, and each of them keeps its story."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from erp_sync import cli
from erp_sync.demo import Stage, environment, stage
from erp_sync.ledger.customers import CustomerEntry
from erp_sync.ledger.entry import Change, Event
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.ledger.reconciled_day import Finding, ReconciledDay, Verdict
from erp_sync.ledger.status_entry import StatusChange, StatusEvent
from erp_sync.ledger.tables import (
    customers,
    entries,
    events,
    findings,
    incidents,
    metadata,
    slots,
    status_events,
    statuses,
)
from erp_sync.mapping import customer_key
from erp_sync.models import (
    Address,
    Cancellation,
    Customer,
    CustomerCode,
    ErpCustomer,
    FoundCustomer,
    LedgerState,
    Order,
    Problem,
    Severity,
    ShopState,
    Sighting,
)
from erp_sync.settings import load_settings
from erp_sync.sync.connections import Connections, open_connections
from erp_sync.sync.customers import Customers
from erp_sync.sync.forgetting import ForgetResult, forget
from erp_sync_tests.conftest import FreshDatabase
from erp_sync_tests.ledger_entries import DAY, Hand, due, found, step
from erp_sync_tests.live import CONFIG, numbers_in, until

MARIA, OTHER = "52998224725", "11222333000181"
KEY = customer_key(ErpCustomer(MARIA, None, {}))
CODE = CustomerCode("000731", "01")
NAME, STREET = "Maria Inês da Penha", "Ladeira dos Tabajaras"
SETTINGS = load_settings()
KEPT: tuple[str, ...] = (
    "number",
    "external_id",
    "day",
    "state",
    "found_at",
    "payload_hash",
    "total",
    "attempts",
    "sent_at",
)
KEPT += ("erp_branch", "erp_number", "verified_at", "next_at")


def everything(url: str) -> str:
    """Every value of every table of the ledger, but for the slots, which any call takes."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        rows = [
            row
            for table in set(metadata.sorted_tables) - {slots}
            for row in connection.execute(sa.text(f"SELECT * FROM {table}"))
        ]
    engine.dispose()
    return "\n".join(sorted(map(str, rows)))


# Real flows ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def on(fresh_database: FreshDatabase) -> Iterator[Stage]:
    with (
        stage(latency_ms=0, config=CONFIG, shop_url=fresh_database(), ledger_url=fresh_database()) as on,
        environment(on.environment),
    ):
        yield on


@pytest.fixture
def connections(on: Stage) -> Iterator[Connections]:
    connections = open_connections(load_settings())
    yield connections
    connections.close()


def order_of(on: Stage, tax_id: str, kind: str = "") -> str:
    placed = on.shop.place_bad_order(kind) if kind else on.shop.checkout()
    on.shop.change_order(placed, customer_id=None, customer_cpf_cnpj=tax_id, customer_name=NAME)
    return placed.number


def settled(connections: Connections) -> None:
    flow = connections.orders_flow()

    def done() -> bool:
        assert flow.run(sweep=True).failure is None
        return connections.ledger.next_wake() is None

    until("all is settled", done, 30)


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, given: str = ""
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["erp-sync", "--verbose", "forget", *arguments])
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err


def test_a_person_is_forgotten_and_nothing_is_sent_twice(
    on: Stage, connections: Connections, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, url = connections.ledger, on.environment["ERP_SYNC_LEDGER_URL"]
    hers = [order_of(on, "529.982.247-25") for _ in range(2)]
    bad = order_of(on, MARIA, "no_lines")
    others = order_of(on, OTHER)
    settled(connections)
    connections.statuses_flow().run()
    connections.reconcile_flow().run([ledger.by_number(hers[0])[0].day or DAY])
    [code] = {ledger.by_number(number)[0].customer_key for number in hers}
    [theirs] = {ledger.by_number(others)[0].customer_key}
    [problem] = [Problem("tax_id", "*********25", f"the ERP knows {NAME} as {code}: compare")]
    old = ledger.by_number(bad)[0]
    assert ledger.change(
        [Change(old, replace(old, version=old.version + 1, problems=(problem,)), Event("invalid", str(problem)))]
    ) == [True]
    before = {number: ledger.by_number(number)[0] for number in (*hers, bad, others)}
    assert code in everything(url)
    assert KEY in everything(url)

    code_, _, _ = command(monkeypatch, capsys, "--tax-id", "-", "--dry-run", "--json", given="529.982.247-25\n")
    assert {number: ledger.by_number(number)[0] for number in before} == before
    ours = sa.create_engine(url)
    with ours.begin() as connection:  # the create of the customer was long ago
        connection.execute(sa.text("UPDATE erp_sync_customers SET send_by = '2020-01-01 00:00:00'"))
    ours.dispose()
    code_, out, err = command(monkeypatch, capsys, "--tax-id", "-", "--json", given="529.982.247-25\n")
    assert code_ == 0
    assert json.loads(out) == {
        "tax_id": "*********25", "dry_run": False, "orders": 3, "already": 0, "postponed": [],
        "customer_postponed": False, "incidents": 0, "complete": True,
    }  # fmt: skip
    assert not [word for word in (MARIA, "529.982", "98224725") if word in out + err]
    left = everything(url)
    assert not [word for word in (code, KEY, "*25", NAME, MARIA) if word in left]
    assert theirs in left
    for number, entry in before.items():
        now = ledger.by_number(number)[0]
        assert {name: getattr(now, name) for name in KEPT} == {name: getattr(entry, name) for name in KEPT}
        assert (now.customer_key, now.version) == (
            (theirs, entry.version) if number == others else ("", entry.version + 1)
        )
    assert ledger.by_number(bad)[0].problems == (Problem("tax_id", "***", "the ERP knows *** as ***: compare"),)

    code_, out, _ = command(monkeypatch, capsys, "--tax-id", MARIA, "--json")
    again = json.loads(out)
    assert (code_, again["orders"], again["already"]) == (0, 0, 3)
    assert everything(url) == left
    connections.statuses_flow().run()
    connections.reconcile_flow().run([before[bad].day or DAY])
    tomorrow = order_of(on, MARIA)
    settled(connections)
    assert sorted(numbers_in(on)) == sorted([*hers, others, tomorrow])
    assert ledger.by_number(tomorrow)[0].customer_key == code
    assert [line["kind"] for line in on.erp.journal()].count("customer") == 2


def test_an_order_on_its_way_is_postponed_whole(
    on: Stage, connections: Connections, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent, doubtful = order_of(on, MARIA), order_of(on, MARIA)
    settled(connections)
    ledger = connections.ledger
    old = ledger.by_number(doubtful)[0]
    later = {"state": LedgerState.IN_DOUBT, "next_at": ledger.now() + timedelta(hours=1)}
    assert ledger.change([step(old, "in_doubt", **later)]) == [True]
    before = ledger.by_number(doubtful), ledger.story(old.order_id)
    code, out, err = command(monkeypatch, capsys, "--tax-id", MARIA)
    assert code == 1
    assert f"left as they are: {doubtful}; run it again" in err
    assert "1 orders no longer tell" in out
    assert (ledger.by_number(doubtful), ledger.story(old.order_id)) == before
    assert ledger.by_number(sent)[0].customer_key == ""
    assert ledger.customer(KEY) is not None  # created a moment ago: a paused process may still be about to create her


@pytest.mark.parametrize("given", ["12345678900", "nobody", ""])
def test_a_wrong_tax_id_is_said_and_not_shown(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(monkeypatch, capsys, "--tax-id", "-", given=given)
    assert (code, out) == (2, "")
    assert "--tax-id: " in err
    assert not given or given not in err


# The ledger alone ---------------------------------------------------------------------------------------------------


class Known:
    """A shop and an ERP that know Maria's orders: `1` and `2` were sent, `3` never was."""

    def fetch(self, order_ids: list[str]) -> list[Order]:
        return [hers(order_id) for order_id in order_ids if order_id in "123"]

    def find_customers(self, tax_ids: list[str]) -> dict[str, list[FoundCustomer]]:
        return {tax_id: [FoundCustomer(CODE, tax_id, blocked=False)] for tax_id in tax_ids if tax_id == MARIA}


def hers(order_id: str) -> Order:
    customer = Customer(NAME, "529.982.247-25", billing=Address(STREET, "12"))
    at, nothing = datetime(2026, 11, 23, tzinfo=UTC), Decimal(0)
    return Order(order_id, f"LJ-{order_id}", ShopState.READY, at, at, DAY, "BRL", nothing, customer, ())


def run(ledger: Ledger, *, dry_run: bool = False) -> ForgetResult:
    known: Any = Known()
    return forget(MARIA, known, ledger, known, SETTINGS, dry_run=dry_run)


def filled(ledger: Ledger, hand: Hand) -> None:
    """Her two sent orders and the invalid one, somebody else's order, and words about her wherever words are."""
    ledger.add(found(*(due(each) for each in "1234")))
    sent: dict[str, Any] = {"state": LedgerState.SENT, "next_at": None, "erp_number": "000001", "erp_branch": "0101"}
    sent["sent_at"] = hand.at
    bad = Problem("customer", "A1_CGC *********25", f"is blocked ({CODE})")
    for each, values in (
        ("1", {**sent, "customer_key": str(CODE)}),
        ("2", {**sent, "customer_key": str(CODE), "problems": (bad,)}),
        ("3", {"state": LedgerState.INVALID, "next_at": None, "problems": (Problem("tax_id", "*********25", "x"),)}),
        ("4", {**sent, "customer_key": "000732/01"}),
    ):
        old = ledger.entries([each])[each]
        words = f"order 000731: tax_id = '*********25': no; {NAME.upper()} of {STREET}, customer {CODE}, LJ-{each}"
        new = replace(old, version=old.version + 1, **values)
        assert ledger.change([Change(old, new, Event("refused", words))]) == [True]
    life = ledger.statuses(["1"])["1"]
    tells = Problem("cancellation", "", f"the ERP says: {NAME} has paid")
    assert ledger.change_statuses(
        [StatusChange(life, replace(life, problems=(tells,)), StatusEvent("kept", str(tells)))]
    )
    ledger.change_customer(None, CustomerEntry(KEY, 1, send_by=hand.at))
    ledger.report(Sighting("x", "run_failed", Severity.ERROR, detail=f"{NAME} (*********25) of {CODE} and 000732/01"))
    finding = Finding("LJ-2", Verdict.MISSING_HELD, note=f"customer = 'A1_CGC *********25': {NAME}")
    ledger.keep_reconciliation(ReconciledDay(DAY, hand.at, findings=[finding]))
    hand.turn(7 * 86_400)


HERS = (str(CODE), KEY, "*25", NAME, NAME.upper(), STREET)


def test_every_place_that_may_name_a_person(ledger: Ledger, hand: Hand, database_url: str) -> None:
    filled(ledger, hand)
    before = everything(database_url)
    assert [word for word in HERS if word not in before] == []
    assert run(ledger, dry_run=True) == ForgetResult(orders=3, incidents=1, seen=3)
    assert everything(database_url) == before
    assert run(ledger) == ForgetResult(orders=3, incidents=1, seen=3)
    after = everything(database_url)
    assert not [word for word in HERS if word in after.replace(_of_others(ledger), "")]
    told = "order 000731: tax_id = '***': no; *** of ***, customer ***, LJ-2"
    assert ledger.story("2")[1][1].text == told
    assert ledger.entries(["2"])["2"].problems == (Problem("customer", "***", "is blocked (***)"),)
    assert ledger.statuses(["1"])["1"].problems[0].advice == "the ERP says: *** has paid"
    assert ledger.open_incidents()[0].detail == "*** (***) of *** and 000732/01"
    assert ledger.reconciled()[0].findings[0].note == "customer = '***': ***"
    assert ledger.customer(KEY) is None
    assert ledger.entries(["4"])["4"].customer_key == "000732/01"
    assert run(ledger) == ForgetResult(already=3, seen=3)


def test_what_is_on_its_way_is_left_alone(ledger: Ledger) -> None:
    ways: tuple[dict[str, Any], ...] = (
        {"state": LedgerState.SENDING, "next_at": None},
        {"state": LedgerState.IN_DOUBT},
        {"state": LedgerState.DUE},
        {"state": LedgerState.SENT},
    )
    for number, values in enumerate(ways):
        ledger.add(found(due(str(number))))
        assert ledger.change(
            [step(ledger.entries([str(number)])[str(number)], "intent", customer_key=str(CODE), **values)]
        ) == [True]
    before = ledger.entries(list("0123"))
    assert run(ledger).postponed == ["LJ-0", "LJ-1", "LJ-2", "LJ-3"]
    assert ledger.entries(list("0123")) == before


def test_what_is_being_cancelled_or_told_is_left_alone(ledger: Ledger, hand: Hand) -> None:
    filled(ledger, hand)
    ways: dict[str, dict[str, Any]] = {
        "1": {"cancellation": Cancellation.SENDING},
        "2": {"telling_until": hand.at + timedelta(seconds=5)},
    }
    for order_id, values in ways.items():
        old = ledger.statuses([order_id])[order_id]
        new = replace(old, **values)
        assert ledger.change_statuses([StatusChange(old, new, None)]) == [True]
    assert run(ledger).postponed == ["LJ-1", "LJ-2"]
    assert ledger.entries(["1"])["1"].customer_key == str(CODE)


def test_whoever_worked_on_an_order_finds_another_version(ledger: Ledger, hand: Hand) -> None:
    filled(ledger, hand)
    entry, life = ledger.entries(["1"])["1"], ledger.statuses(["1"])["1"]
    run(ledger)
    assert ledger.change([step(entry, "verified")]) == [False]
    assert ledger.change_statuses([StatusChange(life, life, None)]) == [False]


def test_a_create_that_began_before_its_entry_was_forgotten_is_given_up(ledger: Ledger, hand: Hand) -> None:
    """Process A finds no customer and sleeps; B creates her; she is forgotten; A wakes up and must not create her."""
    lease, doubt = timedelta(seconds=SETTINGS.erp.lease_seconds), timedelta(seconds=SETTINGS.erp.doubt_seconds)
    created: list[str] = []

    class Erp:
        def create_customer(self, customer: ErpCustomer, intent: Callable[[], float]) -> CustomerCode:
            if not created:
                created.append("B")
                ledger.change_customer(None, CustomerEntry(KEY, 1, send_by=hand.at + timedelta(seconds=5)))
            hand.turn((lease + doubt).total_seconds())
            assert not ledger.forget_customer(KEY, (), hand.at - lease - doubt)
            hand.turn(6)
            assert ledger.forget_customer(KEY, (), hand.at - lease - doubt)
            intent()
            created.append("A")
            return CODE

    erp: Any = Erp()
    flow = Customers(ledger, erp, lease=lease, doubt=doubt, monotonic=lambda: 0.0)
    match = flow.create(ErpCustomer(MARIA, None, {}), hand.at)
    assert created == ["B"]
    assert match.wait_until is not None


def test_killed_at_any_statement_it_is_finished_by_the_next_call(fresh_database: FreshDatabase, hand: Hand) -> None:
    """Each order is as it was, or forgotten whole."""
    url = fresh_database()
    migrate(url)
    every = 1 if url.startswith("sqlite") else 3  # the statements are the same
    deaths, at, done = 0, hand.at, False
    while not done:
        ledger = open_ledger(url, clock=hand)
        filled(ledger, hand)
        before = {each: (ledger.entries([each])[each], ledger.story(each)) for each in "123"}
        ledger.close()
        done = _die_at_statement(url, hand, every * deaths + 1)
        deaths += not done
        ledger = open_ledger(url, clock=hand)
        for each, (entry, story) in before.items():
            now = ledger.entries([each])[each]
            if now == entry:
                assert ledger.story(each) == story
            else:
                assert (now.customer_key, now.version) == ("", entry.version + 1)
                assert "***" in ledger.story(each)[1][1].text
        assert run(ledger).complete
        left = everything(url).replace(_of_others(ledger), "")
        assert not [word for word in HERS if word in left]
        ledger.close()
        _emptied(url)
        hand.at = at
    assert deaths * every > 30


def _emptied(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for table in (entries, events, statuses, status_events, customers, incidents, findings):
            connection.execute(table.delete())
    engine.dispose()


def _of_others(ledger: Ledger) -> str:
    return str(ledger.story("4")[1][1].text)


def _die_at_statement(url: str, hand: Hand, number: int) -> bool:
    """In a process of its own, killed before its so-many-th statement that may write. True: it lived to the end."""
    child = os.fork()
    if child == 0:
        ledger = open_ledger(url, clock=hand)
        left = [number]

        def count(*_: Any) -> None:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        sa.event.listen(ledger.database.writer, "before_cursor_execute", count)
        sa.event.listen(ledger.database.writer, "commit", count)
        code = 1
        try:
            code = 0 if run(ledger).complete else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return not os.WIFSIGNALED(status)
