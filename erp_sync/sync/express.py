"""Orders that a webhook told of are sent at once, beside everything else that looks for orders.

A hint is believed in one thing: that some order of the shop is worth a look. The order is read from the shop, kept in
the ledger and sent by the pipeline that every pass uses, with the same claim and the same proof. Only the first steps
overlap: an order that the ledger does not know yet is written down and claimed while the ERP is asked for it.

Whatever does not work out here (the shop or the ERP away, no slot, more orders than are kept in mind) stays in the
ledger as it is: hints in the inbox, where every receiver finds them, orders due, where every pass finds them.
Threads, all of them: as many senders as the ERP takes calls at once, one more that only looks, one that keeps the time,
and the pools that the senders share: three readers for each sender, the writes of the ERP and half as many.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from erp_sync.errors import ErpSyncError, Misconfigured, Unavailable
from erp_sync.ledger.entry import Entry, Event
from erp_sync.ledger.inbox import Hint
from erp_sync.logs import log_context
from erp_sync.models import LedgerState, OrderHead, ShopState
from erp_sync.sync.passes import orders_pass_ended
from erp_sync.sync.pipeline import BATCH, EVERYTHING, Pass, Pipeline, Pools, first_batch
from erp_sync.sync.results import OrdersResult

if TYPE_CHECKING:
    from erp_sync.settings import Settings
    from erp_sync.sync.connections import Connections

logger = logging.getLogger(__name__)

PAUSES = (0.1, 0.2, 0.7, 2.0, 7.0, 20.0)
"""Seconds before each further look for an order that is not there or not ready: after about 0.1, 0.3, 1, 3, 10 and 30 s
of its hint. Then it is left to the sensor, which sees it within seconds of its being ready."""
SOON = 10.0
"""An order that is put off for no longer than so many seconds (its customer's turn comes first) is kept in mind."""
LONGEST_IN_MIND = 1.0
"""A longer pause is spent in the inbox, where a process that dies leaves nothing behind."""
HINTS, ORDERS = 5000, 5000
"""Kept in mind at most, the rest in the ledger."""
SCAN_SECONDS = 1.0
TELL_SECONDS = 60.0
REST_SECONDS = 5.0
"""After the ERP failed nothing is sent from here for so long: the passes know better when it is back."""
PASS_SECONDS = 240.0
_OPEN = (LedgerState.DUE, LedgerState.SENDING, LedgerState.IN_DOUBT)


class Express:
    """One per process. Neither shop nor ledger nor ERP need to be there when it starts.

    `connect` opens what it works with, and is asked again until that succeeds; `close` closes it. `observe` is told
    once a minute what was done in it; it must not wait.
    """

    def __init__(
        self,
        settings: Settings,
        connect: Callable[[], Connections],
        observe: Callable[[OrdersResult], None] = lambda _: None,
        *,
        tell_seconds: float = TELL_SECONDS,
    ) -> None:
        self._sources = settings.webhook.sources
        self._connect = connect
        self._observe = observe
        self._tell_seconds = tell_seconds
        senders = settings.erp.max_parallel
        with log_context(flow="webhook"):
            self._pools = Pools(settings.erp.max_parallel_writes, pipelines=senders)
        self._first = first_batch(settings.erp.max_parallel_writes)
        self._permits = threading.Semaphore(senders)
        self._time = threading.Thread(target=self._keep_time, name="express-time", daemon=True)
        self._workers = [
            threading.Thread(target=self._work, name=f"express-{n}", daemon=True) for n in range(senders + 1)
        ]
        self._turn = threading.Condition()
        """Guards everything below."""
        self._waiting: list[tuple[float, int, Hint | str]] = []
        """Hints, and the ids of orders that were put off, by the time of their turn."""
        self._sequence = itertools.count()
        self._orders: deque[str] = deque(maxlen=ORDERS)
        self._pipelines: set[Pipeline] = set()
        self._done = OrdersResult()
        self._rest_until = 0.0
        self._closing = threading.Event()

    def start(self) -> None:
        self._time.start()

    def notify(self, hint: Hint) -> None:
        """There is a new hint in the inbox. Returns at once, and never raises."""
        self._remember([hint], 0.0)

    def close(self, seconds: float = 10.0) -> None:
        """What is on its way to the ERP ends, everything else is given back. What the ERP does not answer within
        `seconds` is left as a killed process leaves it."""
        give_up = time.monotonic() + seconds
        with self._turn:
            self._closing.set()
            self._turn.notify_all()
            for pipeline in self._pipelines:
                pipeline.stop()
        # The one that keeps the time is the last: it tells what the others did, and closes what they used.
        for thread in (*self._workers, self._time):
            if thread.is_alive():
                thread.join(max(0.0, give_up - time.monotonic()))
        self._pools.close(wait=False)

    # Hints ----------------------------------------------------------------------------------------------------------

    def _remember(self, items: Iterable[Hint | str], pause: float) -> None:
        due = time.monotonic() + pause
        with self._turn:
            for item in itertools.islice(items, max(0, HINTS - len(self._waiting))):
                heapq.heappush(self._waiting, (due, next(self._sequence), item))
                self._turn.notify()

    def _work(self) -> None:
        with log_context(flow="webhook"):
            while taken := self._take():
                with log_context():
                    if hints := [item for item in taken if isinstance(item, Hint)]:
                        self._try(hints)
                    with self._turn:
                        self._orders += [item for item in taken if isinstance(item, str)]
                    try:
                        self._send_the_rest()
                    except (Unavailable, Misconfigured) as failure:
                        logger.warning("orders are left to the next pass: %s", failure)
                    except Exception:
                        logger.exception("orders are left to the next pass")

    def _try(self, hints: list[Hint]) -> None:
        """A defect that one of them meets keeps none of the others, and is not met for ever."""
        try:
            self._look(hints)
        except (Unavailable, Misconfigured) as failure:
            logger.warning("%d hints stay in the inbox for now: %s", len(hints), failure)
        except Exception:
            logger.exception("%d hints stay in the inbox for now", len(hints))
            if self._closing.is_set():
                return
            if len(hints) > 1:
                for hint in hints:
                    self._try([hint])
                return
            with suppress(Unavailable, Misconfigured):
                self._look_again(hints)

    def _take(self) -> list[Hint | str]:
        """Those whose time has come, several where several wait. []: no more."""
        with self._turn:
            while not self._closing.is_set():
                now = time.monotonic()
                taken: list[Hint | str] = []
                while self._waiting and self._waiting[0][0] <= now and len(taken) < BATCH:
                    taken.append(heapq.heappop(self._waiting)[2])
                if taken:
                    return taken
                self._turn.wait(self._waiting[0][0] - now if self._waiting else None)
        return []

    def _look(self, hints: Sequence[Hint]) -> None:
        look = self._look_into_shop(hints)
        again = [hint for hint in look.hints if look.is_missing(hint)]
        self._look_again(again)
        look.hints = [hint for hint in look.hints if hint not in again]
        if not look.entries or self._closing.is_set() or time.monotonic() < self._rest_until:
            self._write_down(look)
        elif not self._permits.acquire(blocking=False):
            self._write_down(look)
            with self._turn:
                self._orders += look.entries
        else:
            try:
                self._send(look)
            finally:
                self._permits.release()

    def _look_into_shop(self, hints: Sequence[Hint]) -> _Look:
        by_number = {hint for hint in hints if self._names_number(hint)}
        heads = self._shop.heads([hint.reference for hint in hints if hint not in by_number])
        if by_number:
            found = self._shop.heads_by_number([hint.reference for hint in by_number])
            heads |= {head.order_id: head for head in found}
        look = _Look(list(hints), by_number, heads)
        known = self._ledger.entries(list(heads))
        if known and self._finder.reopen(list(known.values()), list(heads.values())):
            known = self._ledger.entries(list(heads))
        now = self._ledger.now()
        look.known = set(known)
        look.entries = {
            entry.order_id: entry for entry in known.values() if entry.next_at is not None and entry.next_at <= now
        }
        for entry, event in self._finder.newborn([head for head in heads.values() if head.order_id not in known]):
            look.newborn[entry.order_id] = entry, event
            if entry.state is LedgerState.DUE:
                look.entries[entry.order_id] = entry
        return look

    def _names_number(self, hint: Hint) -> bool:
        source = self._sources.get(hint.source)
        return source is not None and source.names == "number"

    def _look_again(self, hints: Sequence[Hint]) -> None:
        for looks in {hint.looks for hint in hints}:
            these = [replace(hint, looks=looks + 1) for hint in hints if hint.looks == looks]
            if looks >= len(PAUSES):
                self._ledger.hints_seen(these)
            elif PAUSES[looks] <= LONGEST_IN_MIND:
                self._remember(these, PAUSES[looks])
            else:
                self._ledger.look_again(these, self._ledger.now() + timedelta(seconds=PAUSES[looks]))

    def _write_down(self, look: _Look) -> set[str]:
        """The orders, and only then that their hints are seen. Returns the ids of the new ones, as they were meant."""
        rows = list(look.newborn.values())
        added = self._ledger.add(rows) if rows else []
        self._ledger.hints_seen(look.hints)
        look.written_down = True
        return {entry.order_id for (entry, _), new in zip(rows, added, strict=True) if new}

    # Sending --------------------------------------------------------------------------------------------------------

    def _send(self, look: _Look) -> None:
        result = OrdersResult(found=len(look.newborn))
        running = Pass(EVERYTHING, result, time.monotonic() + PASS_SECONDS)
        pipeline = Pipeline(self._tools, _Told(self, look), running, self._pools)
        with self._turn:
            self._pipelines.add(pipeline)
            if self._closing.is_set():
                pipeline.stop()
        try:
            pipeline.run(list(look.entries.values())[: self._first])
        except ErpSyncError as failure:
            result.failure = failure
            logger.warning("these orders are left to the next pass: %s", failure)
            with self._turn:
                self._rest_until = time.monotonic() + REST_SECONDS
                self._orders.clear()
        finally:
            with self._turn:
                self._pipelines.discard(pipeline)
                self._done.add(result)

    def _send_the_rest(self) -> None:
        """Orders that came while every sender was busy."""
        while self._orders and not self._is_resting() and self._permits.acquire(blocking=False):
            try:
                look = _Look(written_down=True)
                look.entries = {entry.order_id: entry for entry in self.next(self._first)}
                if look.entries:
                    self._send(look)
            finally:
                self._permits.release()

    def _is_resting(self) -> bool:
        return self._closing.is_set() or time.monotonic() < self._rest_until

    def next(self, limit: int) -> list[Entry]:
        """Of the orders that wait in mind; others may have sent them since."""
        with self._turn:
            ids = [self._orders.popleft() for _ in range(min(limit, len(self._orders)))]
        if not ids:
            return []
        now = self._ledger.now()
        due = []
        for entry in self._ledger.entries(ids).values():
            if entry.next_at is not None and entry.next_at <= now:
                due.append(entry)
            elif entry.next_at is not None and (pause := (entry.next_at - now).total_seconds()) <= SOON:
                self._remember([entry.order_id], pause)
        return due

    def put_off(self, entries: Sequence[Entry]) -> None:
        self._remember([entry.order_id for entry in entries], 1.0)

    def claim(self, entries: Sequence[Entry], since: datetime, look: _Look) -> list[Entry]:
        """New orders are written down first; one that somebody else was faster with is theirs."""
        wanted = list(entries)
        if not look.written_down:
            born = self._write_down(look)
            wanted = [entry for entry in entries if entry.order_id not in look.newborn]
            if ours := [entry.order_id for entry in entries if entry.order_id in born]:
                # As they are stored: one whose number is taken was stored as invalid.
                stored = self._ledger.entries(ours).values()
                wanted += [entry for entry in stored if entry.version == 1 and entry.state is LedgerState.DUE]
            with self._turn:
                self._orders += list(look.entries)[self._first :]
        return self._tools.sender.claim(wanted, since) if wanted else []

    # Time -----------------------------------------------------------------------------------------------------------

    def _keep_time(self) -> None:
        with log_context(flow="webhook"):
            connections = self._open()
            if connections is None:
                return
            tell_at = time.monotonic() + self._tell_seconds
            pause = 0.0
            while not self._closing.wait(pause):
                pause = REST_SECONDS
                try:
                    if time.monotonic() >= tell_at:
                        tell_at = time.monotonic() + self._tell_seconds
                        self._tell()
                    self._scan()
                    pause = SCAN_SECONDS
                except (Unavailable, Misconfigured) as failure:
                    logger.warning("the inbox cannot be read: %s", failure)
                except Exception:
                    logger.exception("the inbox cannot be read")
            for thread in self._workers:
                thread.join()
            self._tell()
            connections.close()

    def _open(self) -> Connections | None:
        """None: closed before that."""
        while not self._closing.is_set():
            try:
                connections = self._connect()
                flow = connections.orders_flow()
                self._shop, self._ledger = connections.shop, connections.ledger
                self._finder, self._tools = flow.finder, flow.tools
                for thread in self._workers:
                    if not thread.is_alive():
                        thread.start()
            except (Unavailable, Misconfigured) as failure:
                logger.warning("what webhooks tell waits in the inbox: %s", failure)
            except Exception:
                # Of whatever kind: this thread is the only one that could ever try again.
                logger.exception("what webhooks tell waits in the inbox")
            else:
                return connections
            self._closing.wait(REST_SECONDS)
        return None

    def _scan(self) -> None:
        """Hints of a process that died, of those that found no room, and those whose pause is over."""
        with self._turn:
            room = HINTS - len(self._waiting)
        while room > 0 and not self._closing.is_set():
            hints = self._ledger.take_hints(min(room, BATCH))
            self._remember(hints, 0.0)
            if len(hints) < BATCH:
                return
            room -= len(hints)

    def _tell(self) -> None:
        with self._turn:
            done, self._done = self._done, OrdersResult()
        if not (done.days or done.found or done.failure):
            return
        try:
            counts = self._ledger.counts(states=_OPEN)
            done.due = counts.get(LedgerState.DUE, 0)
            done.in_doubt = counts.get(LedgerState.SENDING, 0) + counts.get(LedgerState.IN_DOUBT, 0)
        except (Unavailable, Misconfigured) as failure:
            done.failure = done.failure or failure
        orders_pass_ended(done, self._ledger)
        try:
            self._observe(done)
        except Exception:
            logger.exception("what was done is not told on")


@dataclass
class _Look:
    """What one look at the shop and the ledger saw."""

    hints: list[Hint] = field(default_factory=list)
    """Not marked as seen yet."""
    by_number: set[Hint] = field(default_factory=set)
    heads: dict[str, OrderHead] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    """Ids that the ledger knows."""
    newborn: dict[str, tuple[Entry, Event]] = field(default_factory=dict)
    """Not in the ledger yet."""
    entries: dict[str, Entry] = field(default_factory=dict)
    """What there is to do."""
    written_down: bool = False

    def is_missing(self, hint: Hint) -> bool:
        """Not in the shop, or waiting there for its payment."""
        if hint in self.by_number:
            heads = [head for head in self.heads.values() if head.number == hint.reference]
        else:
            heads = [head for head in (self.heads.get(hint.reference),) if head is not None]
        unknown = [head for head in heads if head.order_id not in self.known]
        return not heads or any(head.state == ShopState.WAITING for head in unknown)


class _Told:
    """The source of a pipeline whose first orders are those of a look."""

    claims_late = True

    def __init__(self, express: Express, look: _Look) -> None:
        self.next = express.next
        self.put_off = express.put_off
        self._express = express
        self._look = look

    def claim(self, entries: Sequence[Entry], since: datetime) -> list[Entry]:
        return self._express.claim(entries, since, self._look)
