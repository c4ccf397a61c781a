"""Orders that a webhook told of are sent at once, beside everything else that looks for orders.

A hint is believed in one thing: that some order of the shop is worth a look. The order is read from the shop, kept in
the ledger and sent by the pipeline that every pass uses, with the same claim and the same proof. Only the first steps
overlap: an order that the ledger does not know yet is written down and claimed while the ERP is asked for it.

Whatever does not work out here (the shop or the ERP away, no slot, more orders than are kept in mind) stays in the
ledger as it is: hints in the inbox, where every receiver finds them, orders due, where every pass finds them.
Threads, all of them: as many senders as the ERP takes calls at once, one more that only looks, one that keeps the time,
and the pools that the senders share: three readers for each sender, and half as many writers more than the ERP takes
writes at once, at least two more.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from erp_sync.errors import BreakerOpen, ErpSyncError, Misconfigured, Unavailable
from erp_sync.ledger.entry import Entry
from erp_sync.ledger.inbox import Hint
from erp_sync.logs import log_context
from erp_sync.models import LedgerState
from erp_sync.sync.look import Look, Looker
from erp_sync.sync.passes import orders_pass_ended
from erp_sync.sync.pipeline import BATCH, EVERYTHING, DueOrders, Pass, Pipeline, Pools, Source, first_batch
from erp_sync.sync.results import OrdersResult
from erp_sync.sync.watch import breaker_open

if TYPE_CHECKING:
    from erp_sync.settings import Settings
    from erp_sync.sync.connections import Connections

logger = logging.getLogger(__name__)

PAUSES: tuple[float, ...] = (0.1, 0.2, 0.7, 2.0, 7.0, 20.0)
"""Seconds before each further look for an order that is not there or not ready: after about 0.1, 0.3, 1, 3, 10 and 30 s
of its hint. Then it is left to the sensor, which sees it within seconds of its being ready. Where shop or ledger cannot
be asked, the pauses go on and double: a hint is not given up in their outage."""
SOON = 10.0
"""An order that is put off for no longer than so many seconds (its customer's turn comes first) is kept in mind."""
LONGEST_IN_MIND = 1.0
"""A longer pause is spent in the inbox, where a process that dies leaves nothing behind."""
HINTS, ORDERS = 5000, 5000
"""Kept in mind at most, the rest in the ledger."""
SCAN_SECONDS = 1.0
TELL_SECONDS = 60.0
REST_SECONDS = 5.0
"""After the ERP failed nothing is sent from here for so long; while it is known to be away it is asked for so often."""
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
        self._numbering = {name for name, source in settings.webhook.sources.items() if source.names == "number"}
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
        self._waiting: list[tuple[float, int, Hint | str | None]] = []
        """Hints, and the ids of orders that were put off, by the time of their turn. None: it is time to catch up."""
        self._sequence = itertools.count()
        self._orders: deque[str] = deque(maxlen=ORDERS)
        self._pipelines: set[Pipeline] = set()
        self._done = OrdersResult()
        self._rest_until = 0.0
        self._behind = False
        """Whether it waits for the ERP to be back, to send what became due meanwhile."""
        self._closing = threading.Event()

    def start(self) -> None:
        self._time.start()

    def notify(self, hint: Hint) -> None:
        """There is a new hint in the inbox. Returns at once, and never raises."""
        self._remember([hint], 0.0)

    def close(self, seconds: float = 10.0) -> None:
        """What is on its way to the ERP ends, everything else is given back. What the ERP does not answer within
        `seconds` holds up the end of the process, for erp.write_timeout at most; a process that is killed before leaves
        it in doubt, to be looked up by others."""
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
                    with self._turn:
                        self._orders += [item for item in taken if isinstance(item, str)]
                    kinds = self._looker.kinds([item for item in taken if isinstance(item, Hint)])
                    catching_up = None in taken
                    # Whatever is done first may take minutes: others do the rest.
                    for hints in kinds if catching_up else kinds[1:]:
                        self._remember(hints, 0.0)
                    if kinds and not catching_up:
                        self._try(kinds[0])
                    with _outlived("orders are left to the next pass"):
                        if catching_up:
                            self._catch_up()
                        self._send_the_rest()

    def _try(self, hints: list[Hint]) -> None:
        """Never raises. A defect that one of them meets keeps none of the others, and is not met for ever."""
        with _outlived(f"{len(hints)} hints stay in the inbox for now"):
            try:
                self._look(hints)
            except (Unavailable, Misconfigured) as failure:
                logger.warning("%d hints are put off: %s", len(hints), failure)
                self._look_again(hints, give_up=False)
            except Exception:
                logger.exception("%d hints are put off", len(hints))
                if self._closing.is_set():
                    return
                if len(hints) == 1:
                    self._look_again(hints)
                else:
                    for hint in hints:
                        self._try([hint])

    def _take(self) -> list[Hint | str | None]:
        """Those whose time has come, several where several wait. []: no more."""
        with self._turn:
            while not self._closing.is_set():
                now = time.monotonic()
                taken: list[Hint | str | None] = []
                while self._waiting and self._waiting[0][0] <= now and len(taken) < BATCH:
                    taken.append(heapq.heappop(self._waiting)[2])
                if taken:
                    return taken
                self._turn.wait(self._waiting[0][0] - now if self._waiting else None)
        return []

    def _look(self, hints: Sequence[Hint]) -> None:
        look = self._looker.look(hints)
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
                self._send(_Told(self, look), look.entries.values(), found=len(look.newborn))
            finally:
                self._permits.release()
            if not look.written_down:
                self._write_down(look)

    def _look_again(self, hints: Sequence[Hint], *, give_up: bool = True) -> None:
        for looks in {hint.looks for hint in hints}:
            these = [replace(hint, looks=looks + 1) for hint in hints if hint.looks == looks]
            pause = PAUSES[looks] if looks < len(PAUSES) else PAUSES[-1] * 2.0 ** (looks - len(PAUSES) + 1)
            if give_up and looks >= len(PAUSES):
                self._ledger.hints_seen(these)
            elif pause <= LONGEST_IN_MIND:
                self._remember(these, pause)
            else:
                self._ledger.look_again(these, self._ledger.now() + timedelta(seconds=pause))

    def _write_down(self, look: Look) -> set[str]:
        """The orders, and only then that their hints are seen. Returns the ids of the new ones, as they were meant."""
        rows = list(look.newborn.values())
        added = self._ledger.add(rows) if rows else []
        self._ledger.hints_seen(look.hints)
        look.written_down = True
        return {entry.order_id for (entry, _), new in zip(rows, added, strict=True) if new}

    # Sending --------------------------------------------------------------------------------------------------------

    def _send(self, source: Source, entries: Collection[Entry], *, found: int = 0) -> None:
        result = OrdersResult(found=found)
        running = Pass(EVERYTHING, result, time.monotonic() + PASS_SECONDS)
        pipeline = Pipeline(self._tools, source, running, self._pools)
        with self._turn:
            self._pipelines.add(pipeline)
            if self._closing.is_set():
                pipeline.stop()
        try:
            pipeline.run(list(entries)[: self._first])
        except ErpSyncError as failure:
            result.failure = failure
            logger.warning("these orders are left to the next pass: %s", failure)
            with self._turn:
                self._rest_until = time.monotonic() + REST_SECONDS
                self._orders.clear()
                if isinstance(failure, BreakerOpen):
                    self._fall_behind()
        finally:
            with self._turn:
                self._pipelines.discard(pipeline)
                self._done.add(result)

    def _send_the_rest(self) -> None:
        """Orders that came while every sender was busy."""
        while self._orders and not self._is_resting() and self._permits.acquire(blocking=False):
            try:
                if entries := self.next(self._first):
                    self._send(_Told(self, Look(written_down=True)), entries)
            finally:
                self._permits.release()

    def _fall_behind(self) -> None:
        with self._turn:
            if not self._behind:
                self._behind = True
                heapq.heappush(self._waiting, (time.monotonic() + REST_SECONDS, next(self._sequence), None))
                self._turn.notify()

    def _catch_up(self) -> None:
        """What became due while the ERP was away is sent as a pass sends it; passes may do so at the same time."""
        with self._turn:
            self._behind = False
        if self._is_resting() or breaker_open(self._connections) or not self._permits.acquire(blocking=False):
            self._fall_behind()
            return
        try:
            source = DueOrders(self._tools, EVERYTHING)
            while not self._is_resting() and (entries := source.next(self._first)):
                self._send(source, entries)
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

    def claim(self, entries: Sequence[Entry], since: datetime, look: Look) -> list[Entry]:
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
                with _outlived("the inbox cannot be read"):
                    if time.monotonic() >= tell_at:
                        tell_at = time.monotonic() + self._tell_seconds
                        self._tell()
                    self._scan()
                    pause = SCAN_SECONDS
            for thread in self._workers:
                thread.join()
            self._tell()
            connections.close()

    def _open(self) -> Connections | None:
        """None: closed before that."""
        while not self._closing.is_set():
            try:
                connections = self._connections = self._connect()
                flow = connections.orders_flow()
                self._ledger, self._tools = connections.ledger, flow.tools
                self._looker = Looker(connections.shop, connections.ledger, flow.finder, self._numbering)
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


class _Told:
    """The source of a pipeline whose first orders are those of a look."""

    claims_late = True

    def __init__(self, express: Express, look: Look) -> None:
        self.next = express.next
        self.put_off = express.put_off
        self._express = express
        self._look = look

    def claim(self, entries: Sequence[Entry], since: datetime) -> list[Entry]:
        return self._express.claim(entries, since, self._look)


@contextmanager
def _outlived(consequence: str) -> Iterator[None]:
    """Whatever fails within: no thread here ends of it, since none else would ever try again."""
    try:
        yield
    except (Unavailable, Misconfigured) as failure:
        logger.warning("%s: %s", consequence, failure)
    except Exception:
        logger.exception("%s", consequence)
