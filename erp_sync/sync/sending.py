"""An order is sent exactly once: the steps of the protocol, each safe to die in.

The ERP's create is not idempotent and its answers lie (contracts/protheus-rest.md, 5.5 and 10), so the ledger decides:

    claim      due -> sending, with a lease; nothing has left the machine
    examine    the ERP is asked for the external ids of the batch, deleted orders included
    send       the intent is committed, a deadline checked again as the bytes leave, one POST, its answer recorded
    read_back  what was sent is read from the ERP: number, total, line count, and that it is there once

Every change is a compare-and-set on the entry's version: whoever lost its claim can write nothing any more. An order
whose create may have left the machine is only ever created again when it is still absent from the ERP
`doubt_seconds` after the last moment at which a byte of it may have left.

Only the calls named in `OrderLedger` and `OrderErp` touch the world; the simulation replaces them and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from erp_sync.errors import ErpUnavailable, InDoubt, Misconfigured, OddRow, Refused
from erp_sync.ledger.entry import Change, Entry, Event
from erp_sync.models import CreatedOrder, CustomerCode, ErpOrder, FoundOrder, LedgerState, Problem
from erp_sync.sync.odd_rows import readable, unreadable
from erp_sync.sync.problems import ERP_ORDERS, OTHER_TOTAL

logger = logging.getLogger(__name__)

Found = Mapping[str, "list[FoundOrder] | OddRow"]
"""By external id: the orders that the ERP has, deleted ones included, or why they cannot be read."""
SEND_WINDOW = timedelta(seconds=5)
"""From the intent to the last moment at which a byte of the create may leave."""
READ_BACK_AFTER = timedelta(seconds=60)
"""When somebody else reads back what a process that died has sent."""
NEW_CUSTOMER_WAIT = timedelta(seconds=30)
"""How long an order waits whose customer we created and the ERP does not see."""
VAGUE_ATTEMPTS = 3
"""So often must the ERP refuse an order in vague words before a person is asked."""
RETRY_AFTER = timedelta(seconds=5)
"""When an order is tried again that the ERP certainly did not get."""
LONGEST_WAIT = timedelta(minutes=5)
"""However long the ERP, or a server before it, asks us to wait (Retry-After)."""


class OrderLedger(Protocol):
    def now(self) -> datetime: ...

    def change(self, changes: Sequence[Change]) -> list[bool]: ...


class OrderErp(Protocol):
    def find_orders(self, external_ids: Sequence[str]) -> Mapping[str, list[FoundOrder]]: ...

    def read_orders(self, numbers: Sequence[str]) -> Mapping[str, FoundOrder]: ...

    def create_order(self, order: ErpOrder, customer: CustomerCode, intent: Callable[[], float]) -> CreatedOrder:
        """Calls `intent` once a token and a connection are there, right before the first byte leaves; it returns the
        monotonic time after which no byte may leave, or raises."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the ERP should hold for an entry, as far as it is known."""

    order: ErpOrder
    payload_hash: str
    customer_key: str
    customers: frozenset[CustomerCode]
    """Every code that the ERP has for this customer."""


class _NotOurs(Exception):
    """The claim is lost, or the customer is busy: nothing left the machine."""


class Sender:
    """The protocol over one ledger and one branch of an ERP. Thread-safe: it keeps nothing but its collaborators."""

    def __init__(
        self,
        ledger: OrderLedger,
        erp: OrderErp,
        *,
        branch: str,
        lease: timedelta,
        doubt: timedelta,
        monotonic: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._erp = erp
        self._branch = branch
        self._lease = lease
        self._doubt = doubt
        self._monotonic = monotonic

    def claim(self, entries: Sequence[Entry], since: datetime | None = None) -> list[Entry]:
        """Take entries nothing of which is on its way: due ones, and claims that lapsed before their intent.

        Returns those that are ours now; the others belong to somebody else. The lease counts from `since`, the moment
        before shop and ERP are asked where that is not after the claim: whoever is paused in between has a claim that
        is over, and nothing leaves on answers older than a lease.
        """
        since = since or self._ledger.now()
        changes = [
            Change(
                old,
                replace(
                    old,
                    version=old.version + 1,
                    state=LedgerState.SENDING,
                    intent_at=None,
                    next_at=since + self._lease,
                ),
                Event("claimed", "taken to be sent"),
            )
            for old in entries
        ]
        return [change.new for change in self._made(changes)]

    def look_up(self, entries: Sequence[Entry]) -> tuple[datetime, Found]:
        """What the ERP has under the entries' external ids, and the instant before it was asked."""
        asked_at = self._ledger.now()
        found, odd = readable(self._erp.find_orders, [entry.number for entry in entries])
        return asked_at, {**found, **odd}

    def judge(
        self,
        entries: Sequence[Entry],
        found: Found,
        asked_at: datetime,
        expected: Mapping[str, Expected],
    ) -> tuple[list[Entry], list[Change]]:
        """Settle what the look-up settles: the claimed entries that are absent from the ERP, and the changes made.

        `expected` by order id; an entry in doubt may lack one, when the shop's row cannot be read any more.
        """
        changes = []
        absent = []
        for entry in entries:
            rows = found.get(entry.number, [])
            if isinstance(rows, OddRow):
                changes.append(self._unreadable(entry, rows, asked_at))
            elif rows or entry.erp_number:
                changes.append(self._adopted(entry, rows, asked_at, expected.get(entry.order_id)))
            elif entry.intent_at is None and entry.state is LedgerState.SENDING:
                absent.append(entry)
            else:
                changes.append(self._still_absent(entry, asked_at))
        return absent, self._made(changes)

    def send(
        self, claimed: Entry, expected: Expected, customer: CustomerCode, *, new_customer: bool = False
    ) -> Change | None:
        """Create the order in the ERP, once. Returns what became of it; None: it is somebody else's, or waits.

        `new_customer`: we created the customer ourselves, so that "no such customer" is a doubt about the customer.
        Raises ErpUnavailable and Misconfigured once the order is due again, and LedgerUnavailable.
        """
        intended = claimed

        def intent() -> float:
            nonlocal intended
            started = self._monotonic()
            now = self._ledger.now()
            if claimed.next_at is None or claimed.next_at <= now:
                raise _NotOurs
            new = replace(
                claimed,
                version=claimed.version + 1,
                attempts=claimed.attempts + 1,
                intent_at=now,
                send_by=now + SEND_WINDOW,
                next_at=now + self._lease,
                payload_hash=expected.payload_hash,
                total=expected.order.total,
                customer_key=str(customer),
            )
            if not self._ledger.change(
                [
                    Change(
                        claimed,
                        new,
                        Event("intent", f"leaves for the ERP, attempt {new.attempts}"),
                        hold=new.customer_key,
                    )
                ]
            )[0]:
                raise _NotOurs
            intended = new
            return started + SEND_WINDOW.total_seconds()

        try:
            created = self._erp.create_order(expected.order, customer, intent)
        except _NotOurs:
            self.release([claimed], "another order of this customer is being sent", timedelta(seconds=1))
            return None
        except Refused as refusal:
            return self._record(intended, *self._after_refusal(intended, refusal, new_customer))
        except InDoubt as doubt:
            return self._record(intended, self._doubtful(intended, self._ledger.now()), Event("in_doubt", str(doubt)))
        except (ErpUnavailable, Misconfigured) as error:
            asked = error.retry_after if isinstance(error, ErpUnavailable) else None
            wait = RETRY_AFTER if asked is None else timedelta(seconds=min(asked, LONGEST_WAIT.total_seconds()))
            self._nothing_left(intended, claimed, wait, str(error))
            raise
        return self._record(intended, *self._after_answer(intended, created))

    def release(self, claimed: Sequence[Entry], why: str, wait: timedelta = timedelta(0)) -> None:
        """Give claims back, unsent."""
        self._ledger.change([self._due(entry, wait, why) for entry in claimed])

    def settle(
        self,
        entry: Entry,
        state: LedgerState,
        event: Event,
        problems: tuple[Problem, ...] = (),
        payload_hash: str | None = None,
    ) -> list[Change]:
        """End an entry that is ours without sending it. Returns the change; [] if it was not ours any more."""
        new = _settled(entry, state, problems)
        if payload_hash is not None:
            new = replace(new, payload_hash=payload_hash)
        return self._made([_change(entry, new, event)])

    def read_back(self, entries: Sequence[Entry], expected: Mapping[str, Expected]) -> list[Change]:
        """Read sent orders from the ERP. Returns the changes made."""
        _, found = self.look_up(entries)
        missing = [entry.erp_number for entry in entries if entry.number not in found]
        by_number, odd = readable(self._erp.read_orders, missing)
        now = self._ledger.now()
        changes = []
        for entry in entries:
            rows = found.get(entry.number) or odd.get(entry.erp_number) or []
            row = by_number.get(entry.erp_number)
            if isinstance(rows, OddRow):
                changes.append(self._unreadable(entry, rows, now))
            elif not rows and row is not None and _lost_its_id(entry, row):
                changes.append(self._without_id(entry, row, now))
            else:
                changes.append(self._verified(entry, rows, now, expected.get(entry.order_id)))
        return self._made(changes)

    def _made(self, changes: Sequence[Change]) -> list[Change]:
        return [change for change, made in zip(changes, self._ledger.change(changes), strict=True) if made]

    # What an entry becomes ------------------------------------------------------------------------------------------

    def _after_answer(self, entry: Entry, created: CreatedOrder) -> tuple[Entry, Event]:
        now = self._ledger.now()
        took = created.milliseconds
        numbered = replace(entry, erp_branch=created.branch, erp_number=created.number, sent_at=now)
        if created.existed:
            # It may be ours or somebody's: the look-up compares before it is adopted.
            return self._doubtful(entry, now, at_once=True), Event("in_doubt", "the ERP had it already", took)
        if created.stored_external_id not in (None, entry.number):
            problem = Problem(
                "external id",
                entry.number,
                f"the ERP stored it as {created.stored_external_id!r} under order {created.number}: "
                "correct erp.external_id_width and the ERP's field, then settle this order by hand",
            )
            return _settled(numbered, LedgerState.REFUSED, (problem,)), Event("incident", str(problem), took)
        if created.branch != self._branch:
            problem = Problem(
                "ERP order",
                created.number,
                f"was created in branch {created.branch}, not {self._branch}: delete it there, and correct "
                "ERP_SYNC_ERP_TENANT or the endpoint",
            )
            return _settled(numbered, LedgerState.REFUSED, (problem,)), Event("incident", str(problem), took)
        sent = replace(numbered, state=LedgerState.SENT, next_at=now + READ_BACK_AFTER, problems=())
        return sent, Event("sent", f"order {created.number} in branch {created.branch}", took)

    def _after_refusal(self, entry: Entry, refusal: Refused, new_customer: bool) -> tuple[Entry, Event]:
        problem = refusal.problem()
        if refusal.certain and new_customer and refusal.help_code == "A410NCLIE":
            change = self._due(entry, NEW_CUSTOMER_WAIT, f"the ERP does not know its new customer yet: {problem}")
            return change.new, change.event
        if refusal.certain:
            return _settled(entry, LedgerState.REFUSED, (problem,)), Event("refused", str(problem))
        # The status may also mean "crashed after the commit": believed once the order is proven absent. A text that
        # names neither a code nor a field may be a record lock, which is over by the next attempt.
        precise = refusal.help_code or refusal.field or entry.attempts >= VAGUE_ATTEMPTS
        doubtful = replace(self._doubtful(entry, self._ledger.now()), problems=(problem,) if precise else ())
        return doubtful, Event("in_doubt", f"probably refused: {problem}")

    def _doubtful(self, entry: Entry, now: datetime, *, at_once: bool = False) -> Entry:
        """Looked up soon at first, then ever more rarely, and exactly when absence becomes final."""
        send_by = entry.send_by or now
        final = send_by + self._doubt
        since = max((now - (entry.intent_at or now)).total_seconds(), 0.0)
        wait = timedelta(seconds=0 if at_once else min(max(2.0, since / 2), 30.0))
        next_at = now + wait
        if now < final < next_at:
            next_at = final
        return replace(entry, state=LedgerState.IN_DOUBT, next_at=next_at)

    def _still_absent(self, entry: Entry, asked_at: datetime) -> Change:
        if entry.send_by is not None and asked_at < entry.send_by + self._doubt:
            new = self._doubtful(entry, asked_at)
            return _change(entry, new, Event("in_doubt", "not in the ERP so far"))
        if entry.problems:
            new = _settled(entry, LedgerState.REFUSED, entry.problems)
            return _change(entry, new, Event("refused", "; ".join(map(str, entry.problems))))
        return self._due(entry, timedelta(0), "proven absent from the ERP")

    def _due(self, entry: Entry, wait: timedelta, why: str) -> Change:
        new = replace(entry, state=LedgerState.DUE, next_at=self._ledger.now() + wait, intent_at=None)
        return _change(entry, new, Event("due", why))

    def _adopted(self, entry: Entry, rows: Sequence[FoundOrder], now: datetime, expected: Expected | None) -> Change:
        live = sorted((row for row in rows if not row.deleted), key=lambda row: (len(row.number), row.number))
        if len(live) > 1:
            return self._twice(entry, live, now)
        if not live:
            return _change(entry, *_deleted(entry, rows))
        row = live[0]
        numbered = replace(entry, erp_branch=row.branch, erp_number=row.number, sent_at=entry.sent_at or now)
        differences = _differences(entry, row, expected)
        if differences:
            problem = Problem(
                "ERP order",
                row.number,
                f"has this external id, but {differences}: compare both, then correct or delete it in the ERP",
            )
            return _change(entry, _settled(numbered, LedgerState.REFUSED, (problem,)), Event("incident", str(problem)))
        sent = replace(_settled(numbered, LedgerState.SENT, ()), verified_at=now)
        if expected is not None and entry.intent_at is None:
            sent = replace(sent, payload_hash=expected.payload_hash, total=expected.order.total)
        return _change(entry, sent, Event("adopted", f"found in the ERP as order {row.number} of branch {row.branch}"))

    def _unreadable(self, entry: Entry, odd: OddRow, now: datetime) -> Change:
        """It is there, and nobody can say whether it is ours as we meant it: never created again."""
        problem = unreadable(entry.erp_number or entry.number, odd)
        if entry.state is LedgerState.SENT:
            new = replace(_settled(entry, LedgerState.SENT, (problem,)), verified_at=now)
        else:
            new = _settled(entry, LedgerState.REFUSED, (problem,))
        return _change(entry, new, Event("incident", str(problem)))

    def _twice(self, entry: Entry, live: Sequence[FoundOrder], now: datetime) -> Change:
        numbers = ", ".join(row.number for row in live)
        problem = Problem(
            ERP_ORDERS, numbers, "the ERP has this order more than once: keep one and cancel the others in the ERP"
        )
        kept = next((row for row in live if row.number == entry.erp_number), live[0])
        numbered = replace(
            entry, erp_branch=kept.branch, erp_number=kept.number, sent_at=entry.sent_at or now, verified_at=now
        )
        return _change(entry, _settled(numbered, LedgerState.SENT, (problem,)), Event("incident", str(problem)))

    def _without_id(self, entry: Entry, row: FoundOrder, now: datetime) -> Change:
        """There, but no look-up will ever find it: absence under its external id proves nothing."""
        problem = Problem(
            "external id",
            row.external_id,
            f"is what ERP order {row.number} has, not {entry.number}: correct erp.external_id_field, "
            "erp.external_id_width or the endpoint, and the order in the ERP; it is never created again",
        )
        checked = replace(_settled(entry, LedgerState.SENT, (problem,)), verified_at=now)
        return _change(entry, checked, Event("incident", str(problem)))

    def _verified(self, entry: Entry, rows: Sequence[FoundOrder], now: datetime, expected: Expected | None) -> Change:
        live = [row for row in rows if not row.deleted]
        if len(live) > 1:
            return self._twice(entry, live, now)
        if not live and rows:
            problem = _deleted_problem(rows)
            checked = replace(_settled(entry, LedgerState.SENT, (problem,)), verified_at=now)
            return _change(entry, checked, Event("incident", str(problem)))
        if not live:
            # A success that wrote nothing (contracts/protheus-rest.md, Q21): doubted like a lost answer.
            doubtful = replace(self._doubtful(entry, now), erp_branch="", erp_number="", sent_at=None)
            return _change(entry, doubtful, Event("incident", f"order {entry.erp_number} is not in the ERP"))
        row = live[0]
        differences = _differences(entry, row, expected)
        if row.number != entry.erp_number:
            differences = f"its number is {row.number}, not {entry.erp_number}"
        if differences:
            problem = Problem("ERP order", row.number, f"{differences}: compare both, then correct it in the ERP")
            checked = replace(_settled(entry, LedgerState.SENT, (problem,)), verified_at=now)
            return _change(entry, checked, Event("incident", str(problem)))
        return _change(
            entry,
            replace(_settled(entry, LedgerState.SENT, ()), verified_at=now),
            Event("verified", "read back from the ERP: number, total and lines are right"),
        )

    # Writing it down ------------------------------------------------------------------------------------------------

    def _record(self, intended: Entry, new: Entry, event: Event) -> Change | None:
        change = Change(intended, replace(new, version=intended.version + 1), event, release=intended.customer_key)
        if self._ledger.change([change])[0]:
            return change
        logger.warning("order %s: the claim was lost before its outcome was written", intended.number)
        return None

    def _nothing_left(self, intended: Entry, claimed: Entry, wait: timedelta, why: str) -> None:
        """The intent came to nothing: as if it had not been, so that an outage burns no attempts."""
        before = replace(intended, attempts=claimed.attempts, send_by=claimed.send_by)
        change = self._due(before, wait, why)
        self._ledger.change([replace(change, old=intended, release=intended.customer_key)])


def _change(old: Entry, new: Entry, event: Event) -> Change:
    return Change(old, replace(new, version=old.version + 1), event)


def _settled(entry: Entry, state: LedgerState, problems: tuple[Problem, ...]) -> Entry:
    return replace(entry, state=state, next_at=None, problems=problems)


def _lost_its_id(entry: Entry, row: FoundOrder) -> bool:
    """Whether the order with our number is ours, its external id left out or cut. After a success that wrote nothing
    another order may have got the number."""
    return entry.number.startswith(row.external_id) and str(row.customer) == entry.customer_key


def _deleted_problem(rows: Sequence[FoundOrder]) -> Problem:
    numbers = ", ".join(row.number for row in rows)
    return Problem(
        "ERP order", numbers, "was deleted in the ERP: it is never created again; restore or retype it there"
    )


def _deleted(entry: Entry, rows: Sequence[FoundOrder]) -> tuple[Entry, Event]:
    if rows:
        problem = _deleted_problem(rows)
        numbered = replace(entry, erp_branch=rows[0].branch, erp_number=rows[0].number)
    else:
        problem = Problem(
            "ERP order",
            entry.erp_number,
            "is not found under this external id: settle it by hand; it is never created again",
        )
        numbered = entry
    return _settled(numbered, LedgerState.REFUSED, (problem,)), Event("incident", str(problem))


def _differences(entry: Entry, row: FoundOrder, expected: Expected | None) -> str:
    """In words; "" where the ERP's order is the one that was meant."""
    total = entry.total
    if entry.intent_at is None and expected is not None:
        total = expected.order.total
    elif expected is not None and expected.payload_hash != entry.payload_hash:
        expected = None  # the shop changed the order after it was sent: only the frozen total can be compared
    words = []
    if total is not None and row.total != total:
        words.append(f"{OTHER_TOTAL} {row.total}, not {total}")
    if expected is not None and row.line_count != len(expected.order.items):
        words.append(f"it has {row.line_count} lines, not {len(expected.order.items)}")
    if expected is not None and expected.customers and row.customer not in expected.customers:
        words.append(f"its customer is {row.customer}")
    return " and ".join(words)
