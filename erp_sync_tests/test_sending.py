"""What becomes of an order, case by case: each answer of the ERP, and each thing a look-up may find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from erp_sync.errors import BreakerOpen, ErpUnavailable, InDoubt, Misconfigured, Refused
from erp_sync.ledger.entry import Change, Entry
from erp_sync.models import (
    CreatedOrder,
    CustomerCode,
    ErpCustomer,
    ErpOrder,
    FoundOrder,
    LedgerState,
    Problem,
)
from erp_sync.sync.sending import Expected, Sender

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LEASE = timedelta(seconds=210)
DOUBT = timedelta(seconds=360)
CODE = CustomerCode("000731", "01")
ORDER = ErpOrder("LJ-1", {}, ({}, {}), ErpCustomer("", None, {}), Decimal("76.90"))
EXPECTED = {"1": Expected(ORDER, "hash", "customer", frozenset({CODE}))}
DUE = Entry(
    order_id="1",
    number="LJ-1",
    external_id="LJ-1",
    day=NOW.date(),
    state=LedgerState.DUE,
    version=1,
    found_at=NOW,
    next_at=NOW,
)


class Memory:
    """A ledger of one process, whose clock stands still until it is moved."""

    def __init__(self, entry: Entry = DUE) -> None:
        self.entry = entry
        self.kinds: list[str] = []
        self.at = NOW

    def now(self) -> datetime:
        return self.at

    def change(self, changes: Sequence[Change]) -> list[bool]:
        return [self._one(change) for change in changes]

    def _one(self, change: Change) -> bool:
        assert change.new.version == change.old.version + 1
        if change.old.version != self.entry.version:
            return False
        self.entry = change.new
        self.kinds.append(change.event.kind)
        return True


class Erp:
    """Answers a create as it is told, and has the rows it is given."""

    def __init__(self, answer: CreatedOrder | Exception | None = None, rows: Sequence[FoundOrder] = ()) -> None:
        self.answer = answer
        self.rows = list(rows)
        self.creates = 0

    def find_orders(self, external_ids: Sequence[str]) -> dict[str, list[FoundOrder]]:
        return {"LJ-1": self.rows} if self.rows else {}

    def read_orders(self, numbers: Sequence[str]) -> dict[str, FoundOrder]:
        return {row.number: row for row in self.rows if row.number in numbers}

    def create_order(self, order: ErpOrder, customer: CustomerCode, intent: Callable[[], float]) -> CreatedOrder:
        intent()
        self.creates += 1
        if isinstance(self.answer, CreatedOrder):
            return self.answer
        raise self.answer or AssertionError("no create was expected")


def sender(ledger: Memory, erp: Erp) -> Sender:
    return Sender(ledger, erp, branch="0101", lease=LEASE, doubt=DOUBT, monotonic=lambda: 0.0)


def row(**changes: object) -> FoundOrder:
    found = FoundOrder("LJ-1", "0101", "000123", False, CODE, Decimal("76.90"), 2)
    return replace(found, **changes)  # type: ignore[arg-type]


def attempt(answer: CreatedOrder | Exception, new_customer: bool = False) -> Memory:
    ledger = Memory()
    sending = sender(ledger, Erp(answer))
    [claimed] = sending.claim([ledger.entry])
    sending.send(claimed, EXPECTED["1"], CODE, new_customer=new_customer)
    return ledger


def test_a_positive_answer_is_sent_and_waits_for_the_read_back() -> None:
    ledger = attempt(CreatedOrder("0101", "000123", False, "LJ-1", 50.0))
    entry = ledger.entry
    assert (entry.state, entry.erp_number, entry.erp_branch, entry.attempts) == (LedgerState.SENT, "000123", "0101", 1)
    assert entry.verified_at is None
    assert entry.next_at is not None and entry.next_at > NOW
    assert ledger.kinds == ["claimed", "intent", "sent"]


def test_the_intent_is_written_before_the_bytes_leave() -> None:
    ledger = Memory()
    seen: list[Entry] = []

    class Watching(Erp):
        def create_order(self, order: ErpOrder, customer: CustomerCode, intent: Callable[[], float]) -> CreatedOrder:
            assert intent() == 5.0
            seen.append(ledger.entry)
            raise InDoubt("lost")

    sending = sender(ledger, Watching())
    sending.send(sending.claim([ledger.entry])[0], EXPECTED["1"], CODE)
    assert seen[0].state is LedgerState.SENDING
    assert seen[0].intent_at == NOW
    assert seen[0].send_by == NOW + timedelta(seconds=5)
    assert seen[0].payload_hash == "hash"
    assert seen[0].total == Decimal("76.90")


@pytest.mark.parametrize(
    ("answer", "state", "attempts"),
    [
        (InDoubt("reset"), LedgerState.IN_DOUBT, 1),
        (CreatedOrder("0101", "000123", True, "LJ-1", 1.0), LedgerState.IN_DOUBT, 1),
        (Refused("HELP", status=500, certain=False), LedgerState.IN_DOUBT, 1),
        (Refused("HELP", status=400, help_code="REGNOIS"), LedgerState.REFUSED, 1),
        (CreatedOrder("0101", "000123", False, "LJ-", 1.0), LedgerState.REFUSED, 1),
        (CreatedOrder("0102", "000123", False, "LJ-1", 1.0), LedgerState.REFUSED, 1),
    ],
    ids=["lost", "existed", "500 with a HELP text", "400", "id cut by the ERP", "another branch"],
)
def test_answers_that_are_no_success(answer: CreatedOrder | Exception, state: LedgerState, attempts: int) -> None:
    entry = attempt(answer).entry
    assert (entry.state, entry.attempts) == (state, attempts)


@pytest.mark.parametrize(
    ("refusal", "attempts", "state"),
    [
        (Refused("HELP", status=500, help_code="OBRIGAT", certain=False), 0, LedgerState.REFUSED),
        (Refused("registro em uso", status=500, certain=False), 0, LedgerState.DUE),
        (Refused("registro em uso", status=500, certain=False), 2, LedgerState.REFUSED),
    ],
    ids=["names a code", "vague: a record lock, perhaps", "vague for the third time"],
)
def test_a_refusal_that_proves_nothing_is_believed_if_it_is_precise_or_repeated(
    refusal: Refused, attempts: int, state: LedgerState
) -> None:
    ledger = Memory(replace(DUE, attempts=attempts))
    sending = sender(ledger, Erp(refusal))
    sending.send(sending.claim([ledger.entry])[0], EXPECTED["1"], CODE)
    assert ledger.entry.state is LedgerState.IN_DOUBT
    _, [change] = sending.judge([ledger.entry], {}, FINAL, EXPECTED)
    assert change.new.state is state


def test_an_id_that_the_erp_cut_is_an_incident_and_never_created_again() -> None:
    ledger = attempt(CreatedOrder("0101", "000123", False, "LJ-", 1.0))
    assert ledger.kinds[-1] == "incident"
    assert "LJ-" in ledger.entry.problems[0].advice
    ledger.entry = replace(ledger.entry, state=LedgerState.DUE, next_at=NOW)
    sending = sender(ledger, Erp())
    claimed = sending.claim([ledger.entry])
    absent, _ = sending.judge(claimed, {}, NOW, EXPECTED)
    assert absent == []
    assert ledger.entry.state is LedgerState.REFUSED


@pytest.mark.parametrize(
    "error", [ErpUnavailable("no route", retry_after=30.0), BreakerOpen("open"), Misconfigured("login")]
)
def test_what_never_left_is_due_again_and_burns_no_attempt(error: Exception) -> None:
    ledger = Memory()
    sending = sender(ledger, Erp(error))
    [claimed] = sending.claim([ledger.entry])
    with pytest.raises(type(error)):
        sending.send(claimed, EXPECTED["1"], CODE)
    entry = ledger.entry
    assert (entry.state, entry.attempts, entry.send_by) == (LedgerState.DUE, 0, None)
    waited = 30 if getattr(error, "retry_after", None) else 5
    assert entry.next_at == NOW + timedelta(seconds=waited)


def test_a_new_customer_that_the_erp_does_not_see_is_a_doubt() -> None:
    refusal = Refused("no such customer", status=400, help_code="A410NCLIE")
    assert attempt(refusal, new_customer=True).entry.state is LedgerState.DUE
    assert attempt(refusal).entry.state is LedgerState.REFUSED


def test_a_lapsed_claim_sends_nothing() -> None:
    ledger = Memory()
    erp = Erp()
    sending = sender(ledger, erp)
    [claimed] = sending.claim([ledger.entry])
    ledger.at = NOW + LEASE
    assert sending.send(claimed, EXPECTED["1"], CODE) is None
    assert erp.creates == 0


def test_a_claim_made_long_after_the_look_up_began_is_over_before_it_sends() -> None:
    ledger = Memory()
    erp = Erp()
    sending = sender(ledger, erp)
    asked_at, found = sending.look_up([ledger.entry])
    ledger.at = NOW + LEASE
    claimed = sending.claim([ledger.entry], asked_at)
    [absent], _ = sending.judge(claimed, found, asked_at, EXPECTED)
    assert sending.send(absent, EXPECTED["1"], CODE) is None
    assert erp.creates == 0


def test_a_lost_claim_sends_nothing_and_writes_nothing() -> None:
    ledger = Memory()
    erp = Erp()
    sending = sender(ledger, erp)
    [claimed] = sending.claim([ledger.entry])
    theirs = ledger.entry = replace(ledger.entry, version=99)
    assert sending.send(claimed, EXPECTED["1"], CODE) is None
    assert erp.creates == 0
    assert ledger.entry == theirs


DOUBTED = replace(
    DUE,
    state=LedgerState.IN_DOUBT,
    version=5,
    intent_at=NOW,
    send_by=NOW + timedelta(seconds=5),
    attempts=1,
    total=Decimal("76.90"),
    payload_hash="hash",
)
FINAL = NOW + timedelta(seconds=5) + DOUBT
GONE = Problem("C6_PRODUTO", "X", "refused")


@pytest.mark.parametrize(
    ("entry", "rows", "asked_at", "state", "kind"),
    [
        (DOUBTED, [row()], NOW, LedgerState.SENT, "adopted"),
        (DOUBTED, [row(total=Decimal("76.91"))], NOW, LedgerState.REFUSED, "incident"),
        (DOUBTED, [row(line_count=1)], NOW, LedgerState.REFUSED, "incident"),
        (DOUBTED, [row(customer=CustomerCode("999999", "01"))], NOW, LedgerState.REFUSED, "incident"),
        (DOUBTED, [row(deleted=True)], NOW, LedgerState.REFUSED, "incident"),
        (DOUBTED, [row(deleted=True), row(number="000124")], NOW, LedgerState.SENT, "adopted"),
        (DOUBTED, [row(), row(number="000124")], NOW, LedgerState.SENT, "incident"),
        (DOUBTED, [], FINAL - timedelta(seconds=1), LedgerState.IN_DOUBT, "in_doubt"),
        (DOUBTED, [], FINAL, LedgerState.DUE, "due"),
        (replace(DOUBTED, problems=(GONE,)), [], FINAL, LedgerState.REFUSED, "refused"),
        (replace(DOUBTED, problems=(GONE,)), [row()], NOW, LedgerState.SENT, "adopted"),
        (replace(DOUBTED, payload_hash="older"), [row(line_count=7)], NOW, LedgerState.SENT, "adopted"),
    ],
    ids=[
        "there",
        "other total",
        "other line count",
        "other customer",
        "deleted by an operator",
        "deleted and entered anew",
        "twice",
        "absent, too early to tell",
        "proven absent",
        "proven absent after a HELP text",
        "committed in spite of a HELP text",
        "the shop changed it meanwhile: total decides",
    ],
)
def test_an_order_in_doubt(
    entry: Entry, rows: Sequence[FoundOrder], asked_at: datetime, state: LedgerState, kind: str
) -> None:
    ledger = Memory(entry)
    ledger.at = asked_at
    absent, [change] = sender(ledger, Erp()).judge([entry], {"LJ-1": list(rows)}, asked_at, EXPECTED)
    assert absent == []
    assert (change.new.state, change.event.kind) == (state, kind)
    assert ledger.entry == change.new
    if state is LedgerState.IN_DOUBT:
        assert change.new.next_at is not None and change.new.next_at <= FINAL


def test_the_settle_time_counts_from_before_the_question() -> None:
    """An answer that took long proves nothing about the time after it was asked."""
    ledger = Memory(DOUBTED)
    ledger.at = FINAL + timedelta(minutes=5)
    _, [change] = sender(ledger, Erp()).judge([DOUBTED], {}, FINAL - timedelta(seconds=1), EXPECTED)
    assert change.new.state is LedgerState.IN_DOUBT


SENT = replace(DOUBTED, state=LedgerState.SENT, erp_number="000123", erp_branch="0101", sent_at=NOW, next_at=NOW)


@pytest.mark.parametrize(
    ("rows", "state", "kind"),
    [
        ([row()], LedgerState.SENT, "verified"),
        ([row(total=Decimal(1))], LedgerState.SENT, "incident"),
        ([row(line_count=3)], LedgerState.SENT, "incident"),
        ([row(number="000999")], LedgerState.SENT, "incident"),
        ([row(deleted=True)], LedgerState.SENT, "incident"),
        ([row(), row(number="000124")], LedgerState.SENT, "incident"),
        ([], LedgerState.IN_DOUBT, "incident"),
    ],
    ids=["right", "other total", "other line count", "other number", "deleted", "twice", "nothing was written"],
)
def test_reading_back(rows: Sequence[FoundOrder], state: LedgerState, kind: str) -> None:
    ledger = Memory(SENT)
    [change] = sender(ledger, Erp(rows=rows)).read_back([SENT], EXPECTED)
    assert (change.new.state, change.event.kind) == (state, kind)
    if state is LedgerState.SENT:
        assert (change.new.next_at, change.new.verified_at) == (None, NOW)
        assert bool(change.new.problems) == (kind == "incident")
    else:
        assert change.new.erp_number == ""


def test_a_success_that_wrote_nothing_is_sent_again_once_its_absence_is_final() -> None:
    ledger = Memory(SENT)
    sending = sender(ledger, Erp())
    sending.read_back([SENT], EXPECTED)
    _, [change] = sending.judge([ledger.entry], {}, FINAL, EXPECTED)
    assert change.new.state is LedgerState.DUE
