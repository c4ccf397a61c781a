"""Cancelling orders in the ERP that the shop cancelled after they were sent (contracts/protheus-rest.md, 7).

The protocol of a create: the intent is committed first, then one call; an unknown outcome is read from the ERP, and the
call is made again only once the last one can have no effect any more. The call itself is idempotent by its contract;
nothing here rests on that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING

from erp_sync.errors import ErpUnavailable, InDoubt, Misconfigured, Refused
from erp_sync.ledger.status_entry import StatusChange, StatusEntry, StatusEvent, stored
from erp_sync.models import CancelAnswer, Cancellation, OrderStatus, Problem
from erp_sync.order_status import ENDED, INVOICED, derive
from erp_sync.sync.asking import StatusErp
from erp_sync.sync.problems import CANCELLATION, problem_of, with_problem
from erp_sync.sync.results import StatusesResult
from erp_sync.sync.sending import RETRY_AFTER, SEND_WINDOW, VAGUE_ATTEMPTS

if TYPE_CHECKING:
    from erp_sync.ledger.ledger import Ledger

logger = logging.getLogger(__name__)

READ_AGAIN = timedelta(seconds=10)
"""How often an order is read whose cancellation is in doubt."""
_INVOICED_CODE = "FATURADO"


class _NotOurs(Exception):
    """Another process has it: nothing left the machine."""


class Canceller:
    """Thread-safe: it keeps nothing but its collaborators."""

    def __init__(
        self,
        ledger: Ledger,
        erp: StatusErp,
        *,
        lease: timedelta,
        doubt: timedelta,
        too_late: timedelta,
        zone: tzinfo,
        monotonic: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._erp = erp
        self._lease = lease
        self._doubt = doubt
        self._too_late = too_late
        self._zone = zone
        self._monotonic = monotonic

    def go_on(self, entry: StatusEntry) -> StatusesResult:
        """The next step of one cancellation that is due. Raises ErpUnavailable and Misconfigured once it is due again,
        and LedgerUnavailable."""
        result = StatusesResult()
        new = self._send(entry) if entry.cancellation is Cancellation.WANTED else self._read(entry)
        if new is not None:
            stage = new.cancellation
            result.cancelled = int(stage in (Cancellation.CANCELLED, Cancellation.RESIDUE))
            result.too_late = int(stage is Cancellation.TOO_LATE)
            result.cancel_refused = int(stage is Cancellation.REFUSED)
        return result

    def _send(self, entry: StatusEntry) -> StatusEntry | None:
        intended = entry

        def intent() -> float:
            nonlocal intended
            started = self._monotonic()
            now = self._ledger.now()
            new = replace(
                entry,
                cancellation=Cancellation.SENDING,
                cancel_send_by=now + SEND_WINDOW,
                cancel_at=now + self._lease,
                cancel_attempts=entry.cancel_attempts + 1,
            )
            change = StatusChange(entry, new, StatusEvent("cancel_sent", "its cancellation leaves for the ERP"))
            if not self._ledger.change_statuses([change])[0]:
                raise _NotOurs
            intended = stored(change)
            return started + SEND_WINDOW.total_seconds()

        try:
            answer = self._erp.cancel(entry.erp_branch, entry.erp_number, entry.number, intent)
        except _NotOurs:
            return None
        except Refused as refusal:
            if refusal.certain:
                return self._refused(intended, refusal.help_code, refusal.problem())
            # A text that names neither a code nor a field may be a record lock, which is over by the next attempt.
            precise = refusal.help_code or refusal.field or intended.cancel_attempts >= VAGUE_ATTEMPTS
            problem = refusal.problem()
            return self._doubtful(intended, f"probably refused: {problem}", problem if precise else None)
        except InDoubt as doubt:
            return self._doubtful(intended, str(doubt))
        except (ErpUnavailable, Misconfigured) as error:
            if intended is not entry:
                # The intent came to nothing, as if it had not been.
                again = replace(
                    intended,
                    cancellation=Cancellation.WANTED,
                    cancel_send_by=entry.cancel_send_by,
                    cancel_attempts=entry.cancel_attempts,
                    cancel_at=self._ledger.now() + RETRY_AFTER,
                )
                self._record(intended, again, StatusEvent("cancel_wanted", f"it did not leave: {error}"))
            raise
        return self._confirmed(intended, answer)

    def _confirmed(self, entry: StatusEntry, answer: CancelAnswer) -> StatusEntry | None:
        took = f" ({answer.milliseconds:.0f} ms)"
        if answer.residue:
            return self._end(entry, Cancellation.RESIDUE, f"the ERP has cancelled the open rest of it{took}")
        how = {
            "exclusao": "has deleted it",
            "residuo": "has eliminated its residue",
            "inexistente": "does not have it any more",
        }.get(answer.form, "has cancelled it")
        return self._end(entry, Cancellation.CANCELLED, f"the ERP {how}{took}")

    def _refused(self, entry: StatusEntry, code: str, problem: Problem) -> StatusEntry | None:
        if code == _INVOICED_CODE:
            return self._is_too_late(entry)
        advice = f"the ERP does not cancel it ({problem.advice}): cancel it there by hand, or reopen it in the shop"
        shown = Problem(CANCELLATION, problem.value, advice)
        new = replace(
            entry,
            cancellation=Cancellation.REFUSED,
            cancel_at=None,
            problems=with_problem(entry.problems, CANCELLATION, shown),
        )
        return self._record(entry, new, StatusEvent("cancel_refused", str(shown), self._erp.erp_time))

    def _is_too_late(self, entry: StatusEntry) -> StatusEntry | None:
        invoices = ", ".join(f"{invoice.number}/{invoice.series}" for invoice in entry.invoices)
        advice = (
            f"the shop cancelled it, but it is invoiced: cancel the invoice or arrange its return until "
            f"{self._deadline()}, and stop the parcel"
        )
        problem = Problem(CANCELLATION, invoices or entry.erp_number, advice)
        new = replace(
            entry,
            cancellation=Cancellation.TOO_LATE,
            cancel_at=None,
            next_at=self._ledger.now(),
            problems=with_problem(entry.problems, CANCELLATION, problem),
        )
        return self._record(entry, new, StatusEvent("too_late", str(problem), self._erp.erp_time))

    def _doubtful(self, entry: StatusEntry, why: str, problem: Problem | None = None) -> StatusEntry | None:
        """`problem`: why it was probably refused; believed once the call can have no effect any more."""
        now = self._ledger.now()
        problems = with_problem(entry.problems, CANCELLATION, problem and replace(problem, field=CANCELLATION))
        new = replace(
            entry, cancellation=Cancellation.IN_DOUBT, cancel_at=self._next_read(entry, now), problems=problems
        )
        return self._record(entry, new, StatusEvent("cancel_in_doubt", f"{why}; it is read from the ERP"))

    def _next_read(self, entry: StatusEntry, now: datetime) -> datetime:
        final = (entry.cancel_send_by or now) + self._doubt
        soon = now + READ_AGAIN
        return final if now < final < soon else soon

    def _read(self, entry: StatusEntry) -> StatusEntry | None:
        """What became of a call whose answer is lost, or whose process died."""
        asked_at = self._ledger.now()
        numbers = [entry.erp_number]
        order = self._erp.progress(numbers).get(entry.erp_number)
        is_open = entry.cancel_send_by is not None and asked_at < entry.cancel_send_by + self._doubt
        if order is None:
            # What shows neither way is believed to be gone once the call can have no effect any more.
            if is_open and entry.erp_number not in self._erp.deleted(numbers):
                return self._doubt_on(entry, asked_at)
            return self._end(entry, Cancellation.CANCELLED, "the ERP does not have it any more: it is cancelled")
        order = replace(
            order,
            releases=self._erp.releases(numbers).get(entry.erp_number, ()),
            invoices=self._erp.invoices(numbers).get(entry.erp_number, ()),
        )
        status = derive(order)
        if status in ENDED:
            return self._end(entry, Cancellation.CANCELLED, "it is cancelled in the ERP")
        if status is OrderStatus.INVOICED_SHORT:
            return self._end(entry, Cancellation.RESIDUE, "its open rest is cancelled in the ERP")
        if status in INVOICED:
            return self._is_too_late(replace(entry, invoices=order.invoices))
        if is_open:
            return self._doubt_on(entry, asked_at)
        refused = problem_of(entry.problems, CANCELLATION)
        if refused is not None:
            return self._refused(entry, "", refused)
        again = replace(entry, cancellation=Cancellation.WANTED, cancel_at=self._ledger.now())
        text = "the ERP has it as before: its cancellation is sent again"
        return self._record(entry, again, StatusEvent("cancel_wanted", text, self._erp.erp_time))

    def _doubt_on(self, entry: StatusEntry, now: datetime) -> StatusEntry | None:
        new = replace(entry, cancellation=Cancellation.IN_DOUBT, cancel_at=self._next_read(entry, now))
        return self._record(entry, new, None)

    def _end(self, entry: StatusEntry, stage: Cancellation, text: str) -> StatusEntry | None:
        """It is done; its status is read at once."""
        is_partly = stage is Cancellation.RESIDUE
        new = replace(
            entry,
            cancellation=stage,
            cancel_at=None,
            next_at=self._ledger.now(),
            fingerprint="",
            problems=with_problem(entry.problems, CANCELLATION, self._rest(entry) if is_partly else None),
        )
        kind = "residue" if is_partly else "cancelled"
        return self._record(entry, new, StatusEvent(kind, text, self._erp.erp_time))

    def _rest(self, entry: StatusEntry) -> Problem:
        advice = (
            "the shop cancelled it, but part of it was invoiced; the rest is cancelled. Decide about the invoiced part "
            f"until {self._deadline()}"
        )
        return Problem(CANCELLATION, entry.erp_number, advice)

    def _deadline(self) -> str:
        """Of a task for a person."""
        return f"{(self._ledger.now() + self._too_late).astimezone(self._zone):%Y-%m-%d %H:%M} ({self._zone})"

    def _record(self, old: StatusEntry, new: StatusEntry, event: StatusEvent | None) -> StatusEntry | None:
        if self._ledger.change_statuses([StatusChange(old, new, event)])[0]:
            return new
        logger.info("order %s: somebody else went on with its cancellation", old.number)
        return None
