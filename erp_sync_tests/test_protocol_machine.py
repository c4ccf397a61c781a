"""The protocol as a state machine: hypothesis picks the steps, and shrinks what goes wrong to the shortest story.

The model is the ERP's own table: whatever the steps, it never holds an order twice, and once time has passed it holds
each order that the ledger calls sent, and no other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from erp_sync.errors import ErpUnavailable, InDoubt, Refused
from erp_sync.ledger.entry import Change, Entry
from erp_sync.models import CreatedOrder, CustomerCode, ErpCustomer, ErpOrder, FoundOrder, LedgerState
from erp_sync.sync.sending import Expected, Sender

START = datetime(2026, 11, 23, tzinfo=UTC)
LEASE, DOUBT = timedelta(seconds=210), timedelta(seconds=360)
CODE = CustomerCode("000001", "01")
ORDERS = ("A", "B")
ANSWERS = (
    *("committed", "lost after the commit", "late", "500 after the commit", "died after the commit"),
    *("refused", "500 before the commit", "nothing was written", "no connection", "died before the bytes left"),
)


class _Killed(BaseException):
    """The process is gone: what it was about to write is not written."""


class ProtocolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.at = START
        self.entries: dict[str, Entry] = {}
        self.holds: dict[str, str] = {}
        self.rows: list[FoundOrder] = []
        self.coming: list[tuple[datetime, str]] = []
        self.claims: list[Entry] = []
        self.answer = "committed"
        self.late = 0.0
        self.sender = Sender(
            self, self, branch="0101", lease=LEASE, doubt=DOUBT, monotonic=(self.at - START).total_seconds
        )
        self.expected = {
            number: Expected(
                ErpOrder(number, {}, ({},), ErpCustomer("", None, {}), Decimal(1)), "hash", number, frozenset({CODE})
            )
            for number in ORDERS
        }

    # The ledger and the ERP -----------------------------------------------------------------------------------------

    def now(self) -> datetime:
        return self.at

    def change(self, changes: Sequence[Change]) -> list[bool]:
        made = []
        for change in changes:
            current = self.entries[change.old.order_id]
            made.append(current.version == change.old.version)
            if made[-1]:
                assert change.new.version == current.version + 1
                self.entries[current.order_id] = change.new
        return made

    def find_orders(self, external_ids: Sequence[str]) -> dict[str, list[FoundOrder]]:
        return {number: rows for number in external_ids if (rows := self.rows_of(number))}

    def read_orders(self, numbers: Sequence[str]) -> dict[str, FoundOrder]:
        return {row.number: row for row in self.rows if row.number in numbers}

    def create_order(self, order: ErpOrder, customer: CustomerCode, intent: Callable[[], float]) -> CreatedOrder:
        if self.answer == "no connection":
            raise ErpUnavailable("no connection")
        intent()
        number = order.external_id
        match self.answer:
            case "died before the bytes left":
                raise _Killed
            case "refused":
                raise Refused("no such product", status=400, help_code="REGNOIS")
            case "500 before the commit":
                raise Refused("HELP", status=500, help_code="OBRIGAT", certain=False)
            case "nothing was written":
                return CreatedOrder("0101", "999999", False, number, 1.0)
            case "late":
                self.coming.append((self.at + timedelta(seconds=self.late), number))
                raise InDoubt("no answer in time")
        row = self.commit(number)
        match self.answer:
            case "died after the commit":
                raise _Killed
            case "lost after the commit":
                raise InDoubt("reset")
            case "500 after the commit":
                raise Refused("HELP", status=500, help_code="OBRIGAT", certain=False)
        return CreatedOrder("0101", row.number, False, number, 1.0)

    def commit(self, number: str) -> FoundOrder:
        row = FoundOrder(number, "0101", f"{len(self.rows) + 1:06}", False, CODE, Decimal(1), 1)
        self.rows.append(row)
        return row

    def rows_of(self, number: str) -> list[FoundOrder]:
        return [row for row in self.rows if row.external_id == number]

    # The steps ------------------------------------------------------------------------------------------------------

    @initialize()
    def found(self) -> None:
        for number in ORDERS:
            self.entries[number] = Entry(
                order_id=number,
                number=number,
                external_id=number,
                day=START.date(),
                state=LedgerState.DUE,
                version=1,
                found_at=START,
                next_at=START,
            )

    @rule(seconds=st.sampled_from([1.0, 6.0, 30.0, 211.0, 366.0]))
    def time_passes(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        for when, number in [item for item in self.coming if item[0] <= self.at]:
            self.coming.remove((when, number))
            self.commit(number)

    @rule(number=st.sampled_from(ORDERS))
    def somebody_comes_by(self, number: str) -> None:
        """Reads back, looks up, claims: whatever the order asks for now."""
        self.read_back(number)
        self.look_up(number)
        entry = self.entries[number]
        if entry.nothing_on_its_way and self.is_due(entry):
            self.claims += self.sender.claim([entry])

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        answer=st.sampled_from(ANSWERS),
        late=st.sampled_from([1.0, 30.0, 354.0]),
        pause=st.sampled_from([0.0, 4.9]),
    )
    def send(self, data: st.DataObject, answer: str, late: float, pause: float) -> None:
        """By whoever holds the claim, however old it is: its look-up comes first."""
        claimed = data.draw(st.sampled_from(self.claims))
        if self.entries[claimed.order_id].version == claimed.version:
            asked_at, found = self.sender.look_up([claimed])
            absent, _ = self.sender.judge([claimed], found, asked_at, self.expected)
        else:
            absent = [claimed]  # it looked up long ago, and was paused since
        self.answer, self.late = answer, late
        self.at += timedelta(seconds=pause)
        for entry in absent:
            with contextlib.suppress(ErpUnavailable, _Killed):
                self.sender.send(entry, self.expected[entry.order_id], CODE)

    def look_up(self, number: str) -> None:
        entry = self.entries[number]
        doubted = not entry.nothing_on_its_way and entry.state in (LedgerState.IN_DOUBT, LedgerState.SENDING)
        if doubted and self.is_due(entry):
            asked_at, found = self.sender.look_up([entry])
            self.sender.judge([entry], found, asked_at, self.expected)

    def read_back(self, number: str) -> None:
        entry = self.entries[number]
        if entry.state is LedgerState.SENT and entry.verified_at is None:
            self.sender.read_back([entry], self.expected)

    def is_due(self, entry: Entry) -> bool:
        return entry.next_at is not None and entry.next_at <= self.at

    # What must hold -------------------------------------------------------------------------------------------------

    @invariant()
    def never_twice(self) -> None:
        for number in ORDERS:
            coming = [order for _, order in self.coming if order == number]
            assert len(self.rows_of(number)) + len(coming) <= 1, f"{number}: {self.rows}, coming {self.coming}"

    @invariant()
    def settled_means_what_it_says(self) -> None:
        for entry in self.entries.values():
            rows = [row.number for row in self.rows_of(entry.number)]
            if entry.state is LedgerState.SENT and entry.verified_at is not None:
                assert rows == [entry.erp_number]
            if entry.state is LedgerState.REFUSED:
                assert rows == []
                assert entry.number not in [order for _, order in self.coming]

    def teardown(self) -> None:
        """Left alone with an honest ERP, everything settles."""
        for _ in range(60):
            if not any(entry.next_at is not None for entry in self.entries.values()):
                break
            self.time_passes(200.0)
            self.answer = "committed"
            for number in self.entries:
                self.read_back(number)
                self.look_up(number)
                entry = self.entries[number]
                if entry.nothing_on_its_way and self.is_due(entry):
                    claimed = self.sender.claim([entry])
                    asked_at, found = self.sender.look_up(claimed)
                    for absent in self.sender.judge(claimed, found, asked_at, self.expected)[0]:
                        self.sender.send(absent, self.expected[number], CODE)
        for entry in self.entries.values():
            assert entry.state in (LedgerState.SENT, LedgerState.REFUSED), f"{entry.number} ends {entry.state}"
        self.never_twice()
        self.settled_means_what_it_says()


TestProtocol = ProtocolMachine.TestCase
TestProtocol.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
