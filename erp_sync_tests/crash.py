"""Workers that die: processes that run a flow and send themselves SIGKILL at the step they are told.

Steps are counted over everything that touches the world: before and after each call that may write to the ledger,
around each read of the ERP, for each create and cancel call before its first byte leaves, while it is on its way, while
the ERP is at work on it, and after its answer came back but before it is stored; and in each transaction that writes to
the shop before it begins, after its first look, after each write, and on both sides of its COMMIT.

Workers are forked from one warm process, so that a death costs no second of imports.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Literal, Protocol

import sqlalchemy as sa

from erp_sync.erp.client import ErpClient
from erp_sync.erp.protheus import Protheus
from erp_sync.erp.statuses import ErpStatuses
from erp_sync.errors import ErpSyncError
from erp_sync.ledger.gate import LedgerGate
from erp_sync.ledger.ledger import open_ledger
from erp_sync.ledger.tables import inbox
from erp_sync.settings import load_settings
from erp_sync.sync import asking, express
from erp_sync.sync.connections import Connections, open_connections
from erp_sync.sync.express import Express
from erp_sync.sync.orders import OrdersFlow
from erp_sync.sync.pipeline import EVERYTHING, Window
from erp_sync.sync.statuses import StatusesFlow

LEDGER_WRITES = frozenset({"add", "change", "change_customer", "claim_mark", "set_mark", "remember_early"})
INBOX_WRITES = frozenset({"hints_seen", "look_again", "take_hints"})
ERP_READS = frozenset({"find_orders", "read_orders", "find_customers", "customer"})
ERP_WRITES = frozenset({"create_order", "create_customer"})
STATUS_WRITES = frozenset({"change_statuses", "statuses_unchanged", "set_mark", "heal_statuses"})
STATUS_READS = frozenset({"progress", "deleted", "releases", "invoices"})
CANCEL = frozenset({"cancel"})
SETTLE_PASSES = 12

_forked = multiprocessing.get_context("forkserver")
_forked.set_forkserver_preload([__name__, "alembic.command", "sqlalchemy.dialects.mysql", "pymysql"])


@dataclass(frozen=True)
class Task:
    """What a worker does. `kill_at`: it dies when it reaches the step of that name for the so-many-th time; None:
    it lives. `ahead`: seconds by which its ledger's clock is
    ahead, so that the leases and settle times of a dead worker are over; it grows until nothing waits any more."""

    flow: Literal["orders", "statuses", "webhook"] = "orders"
    kill_at: tuple[str, int] | None = None
    ahead: float = 0.0
    days: tuple[date, ...] | None = None
    linger: float = 0.0
    tells: bool = True
    """Whether it tells its steps: somebody must read them before there are thousands."""
    passes: int = 2
    """Of the statuses flow: an order that has gone counts at the second look."""
    hints: tuple[str, ...] = ()
    """Of the webhook flow: the order ids that it is told of, one event each. It is done once each of them is in the ERP
    or was put off in the inbox."""


class Worker:
    """A process at its task. `environment` is what it needs to join a stage; `log` takes what it writes."""

    def __init__(self, environment: Mapping[str, str], task: Task, log: Path) -> None:
        self._ours, theirs = _forked.Pipe(duplex=False)
        arguments = (dict(environment), task, str(log), theirs)
        self._process: ForkServerProcess = _forked.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def wait_for_its_first_step(self) -> None:
        """Raises TimeoutError after a minute."""
        if not self._ours.poll(60):
            raise TimeoutError("a worker did nothing for a minute")

    def kill(self) -> bool:
        """SIGKILL. Returns whether it was still alive."""
        alive = self._process.is_alive()
        self._process.kill()
        self.wait()
        return alive and self._process.exitcode == -signal.SIGKILL

    def wait(self, seconds: float = 60.0) -> int:
        """Its exit code: 0 the pass did its work, 1 the system failed, -9 it was killed. Raises TimeoutError."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(f"a worker was still at its task after {seconds:.0f} s")
        return self._process.exitcode

    def steps(self) -> list[str]:
        """The names of the steps it reached, in their order; of a killed one, the last is the one that killed it."""
        names = []
        try:
            while True:
                names.append(self._ours.recv_bytes().decode())
        except EOFError:
            self._ours.close()
            return names


class Steps(Protocol):
    """Hears of each step when it is reached."""

    def here(self, name: str) -> None: ...

    def soon(self, name: str, seconds: float) -> None:
        """A step between this line and the next ones, while a call is under way."""


class _Steps:
    """Counts, tells, and kills this process at the step it was told."""

    def __init__(self, kill_at: tuple[str, int] | None, tell: Connection) -> None:
        self._reached: Counter[str] = Counter()
        self._dying = False
        self._kill_at = kill_at
        self._tell = tell
        self._lock = threading.Lock()

    def here(self, name: str) -> None:
        with self._lock:
            if self._count(name):
                os.kill(os.getpid(), signal.SIGKILL)

    def soon(self, name: str, seconds: float) -> None:
        """A step between this line and the next ones: the process dies while a call is under way."""
        with self._lock:
            if self._count(name):
                threading.Thread(target=_die_after, args=(seconds,), daemon=True).start()

    def _count(self, name: str) -> bool:
        if self._dying:
            return False
        self._reached[name] += 1
        self._tell.send_bytes(name.encode())
        self._dying = (name, self._reached[name]) == self._kill_at
        return self._dying


def _die_after(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


class Mortal:
    """Passes every call on, with steps around those of `names`. Raises AttributeError where `inner` lacks one."""

    def __init__(self, inner: Any, steps: Steps, names: frozenset[str]) -> None:
        self._inner = inner
        self._steps = steps
        self._calls = {name: getattr(inner, name) for name in names}

    def __getattr__(self, name: str) -> Any:
        call = self._calls.get(name)
        if call is None:
            return getattr(self._inner, name)
        if name in ERP_WRITES | CANCEL:
            return lambda *args: self._write(name, call, *args)
        return lambda *args, **kwargs: self._around(name, call, *args, **kwargs)

    def _around(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._steps.here(f"before {name}")
        answer = call(*args, **kwargs)
        self._steps.here(f"after {name}")
        return answer

    def _write(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        *what, intent = args

        def stepping_intent() -> float:
            send_by: float = intent()
            self._steps.here(f"{name}: before its first byte")
            self._steps.soon(f"{name}: on its way", 0.003)
            self._steps.soon(f"{name}: the ERP is at work", 0.03)
            return send_by

        answer = call(*what, stepping_intent)
        self._steps.here(f"{name}: answered, not stored")
        return answer


class _ShopSteps:
    """Steps within each transaction of the engine that writes to the shop."""

    def __init__(self, engine: sa.Engine, steps: Steps) -> None:
        self._steps = steps
        self._looked = False
        sa.event.listen(engine, "before_cursor_execute", self._before)
        sa.event.listen(engine, "after_cursor_execute", self._after)

    def _before(self, _connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement in ("BEGIN IMMEDIATE", "START TRANSACTION"):
            self._looked = False
            self._steps.here("shop: before its transaction")
        if statement == "COMMIT":
            self._steps.here("shop: before COMMIT")

    def _after(self, _connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        word = statement.split(maxsplit=1)[0]
        if word == "SELECT" and not self._looked:
            self._looked = True
            self._steps.here("shop: after the find")
        if word == "UPDATE":
            self._steps.here("shop: after the write")
        if word == "COMMIT":
            self._steps.here("shop: after COMMIT")


def _work(environment: dict[str, str], task: Task, log: str, tell: Connection) -> None:
    os.environ.update(environment)
    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    clock = Clock(task.ahead)
    connections = connect(clock if task.ahead else None)
    # A worker's passes follow one another at once, those of a deployment by minutes.
    asking.SECOND_LOOK = timedelta()
    express.PAUSES = (0.01, 20.0)
    steps = _Steps(task.kill_at, tell) if task.tells else None
    work = {"orders": _orders, "statuses": run_statuses, "webhook": _webhook}[task.flow]
    failure = work(connections, task, steps, clock)
    if failure is not None:
        print(failure, file=sys.stderr, flush=True)
        sys.exit(1)


def _orders(connections: Connections, task: Task, steps: Steps | None, clock: Clock) -> ErpSyncError | None:
    ledger: Any = connections.ledger
    erp: Any = connections.erp
    if steps is not None:
        ledger, erp = Mortal(ledger, steps, LEDGER_WRITES), Mortal(erp, steps, ERP_READS | ERP_WRITES)
    flow = OrdersFlow(connections.shop, ledger, erp, connections.settings)
    window = Window(days=task.days) if task.days else EVERYTHING
    failure = flow.run(window, sweep=None, linger=task.linger).failure
    for _ in range(SETTLE_PASSES if task.ahead else 0):
        if failure is None and connections.ledger.next_wake() is None and not connections.ledger.actionable(1):
            break
        clock.ahead += timedelta(seconds=task.ahead)
        failure = flow.run(window, sweep=True).failure
    return failure


def _webhook(connections: Connections, task: Task, steps: Steps | None, _clock: Clock) -> ErpSyncError | None:
    ledger: Any = connections.ledger
    erp: Any = connections.erp
    if steps is not None:
        ledger = Mortal(ledger, steps, LEDGER_WRITES | INBOX_WRITES)
        erp = Mortal(erp, steps, ERP_READS | ERP_WRITES)
    receiver = Express(connections.settings, lambda: replace(connections, ledger=ledger, erp=erp))
    receiver.start()
    for order_id in task.hints:
        hint = connections.ledger.receive("loja", f"of {order_id}", order_id)
        assert hint is not None
        receiver.notify(hint)
    put_off = sa.select(inbox.c.reference).where(inbox.c.reference.in_(task.hints), inbox.c.looks > 0)
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        entries = connections.ledger.entries(task.hints).values()
        done = {entry.order_id for entry in entries if entry.verified_at}
        if len(done.union(row.reference for row in connections.ledger.database.rows(put_off))) == len(task.hints):
            break
        time.sleep(0.02)
    receiver.close()
    return None


def run_statuses(connections: Connections, task: Task, steps: Steps | None, clock: Clock) -> ErpSyncError | None:
    ledger: Any = connections.ledger
    erp: Any = ErpStatuses(connections.client, connections.settings)
    if steps is not None:
        ledger, erp = Mortal(ledger, steps, STATUS_WRITES), Mortal(erp, steps, STATUS_READS | CANCEL)
        if connections.shop_statuses is not None:
            _ShopSteps(connections.shop_statuses._writer._engine, steps)
    flow = StatusesFlow(connections.shop, connections.shop_statuses, ledger, erp, connections.settings)
    failure = flow.run().failure
    for _ in range(SETTLE_PASSES if task.ahead else task.passes - 1):
        if task.ahead and failure is None and not connections.ledger.statuses_under_way():
            break
        clock.ahead += timedelta(seconds=task.ahead)
        failure = flow.run().failure
    return failure


class Clock:
    """A ledger's, `ahead` of the machine's."""

    def __init__(self, ahead: float) -> None:
        self.ahead = timedelta(seconds=ahead)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def connect(clock: Clock | None) -> Connections:
    settings = load_settings()
    connections = open_connections(settings)
    if clock is None:
        return connections
    connections.gate.close()
    connections.client.close()
    connections.ledger.close()
    ledger = open_ledger(settings.require_ledger_url(), clock=clock)
    gate = LedgerGate.from_settings(ledger, settings.erp)
    client = ErpClient.from_settings(settings, gate)
    return replace(connections, ledger=ledger, gate=gate, erp=Protheus(client, settings), client=client)
