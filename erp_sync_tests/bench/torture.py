"""Orders through bad days: faults on a fifth of the ERP's calls, workers, MariaDB and the ERP killed all the time.

    python -m erp_sync_tests.bench.torture [--orders 10000] [--seed 1] [--json]

Half of the orders stand there at the beginning, the other half trickles in, some of them committed late or rolled back
(a backlog alone hides the race between a late commit of the ERP and the next attempt: the retry queues behind
thousands). In the end nobody is killed any more, everything is drained in real time, and the sandbox's own journal is
compared with the shop's database and the ledger. Exit code 0: no order lost, doubled or wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from erp_sync.demo import Stage
from erp_sync.errors import LedgerUnavailable
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.models import LedgerState
from erp_sync.sandbox import shop_schema
from erp_sync.sandbox.config import Endpoint, Fault, FaultKind
from erp_sync.sandbox.shop import DemoShop, PlacedOrder
from erp_sync.settings import load_settings
from erp_sync.sync.connections import open_connections
from erp_sync.sync.pipeline import Window
from erp_sync_tests.bench.checker import Verdict, check, rule_of_three
from erp_sync_tests.bench.machine import machine
from erp_sync_tests.bench.stages import shop_engine, stage_on_mariadb
from erp_sync_tests.crash import Task, Worker
from erp_sync_tests.mariadb import MariaDB

WORKERS = 5
LATENCY_MS = 30
ERP = {
    "settle_seconds": 4,
    "connect_timeout": 1,
    "read_timeout": 3,
    "write_timeout": 2,
    "max_parallel": 24,
    "max_parallel_writes": 16,
}
LATE_SECONDS = (0.5, 2.5, 4.0, 5.5)
"""When a late commit happens: the last ones when the caller has gone, all within write time-out and settle time."""
_SHARES: dict[Endpoint, dict[FaultKind, float]] = {
    "create_order": {
        "commit_then_drop": 0.04,
        "commit_then_500": 0.03,
        "commit_late": 0.04,
        "success_not_written": 0.02,
        "error_in_200": 0.005,
        "html_502": 0.02,
        "http_503_busy": 0.02,
        "drop_before": 0.02,
        "slow": 0.005,
    },
    "create_customer": {
        "commit_then_drop": 0.06,
        "commit_then_500": 0.03,
        "commit_late": 0.04,
        "html_502": 0.03,
        "drop_before": 0.04,
    },
    "read": {"html_502": 0.06, "drop_before": 0.06, "http_503_busy": 0.03, "slow": 0.03, "unauthorized": 0.02},
    "token": {"html_502": 0.1, "drop_before": 0.1},
}


def faults() -> tuple[Fault, ...]:
    """A fifth of the calls of every endpoint goes wrong."""
    return tuple(
        Fault(kind=kind, endpoint=endpoint, probability=share / len(times), seconds=seconds)
        for endpoint, shares in _SHARES.items()
        for kind, share in shares.items()
        for times in [LATE_SECONDS if kind == "commit_late" else (1.0,) if kind == "slow" else (0.0,)]
        for seconds in times
    )


@dataclass
class Report:
    verdict: Verdict = field(default_factory=Verdict)
    orders: int = 0
    rolled_back: int = 0
    worker_kills: int = 0
    erp_kills: int = 0
    database_kills: int = 0
    worker_starts: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    adopted: int = 0
    """Found in the ERP after their answer was lost."""
    resent: int = 0
    """Sent again, once they were proven absent."""
    parked: int = 0
    """Refused because of an injected error text, and retried by hand in the end."""
    customers_twice: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.verdict.exact and not self.customers_twice

    def as_json(self) -> dict[str, object]:
        wrong = {name: list(numbers) for name, numbers in vars(self.verdict).items()}
        plain = {name: value for name, value in vars(self).items() if name != "verdict"}
        share = sum(self.faults.values()) / max(sum(self.requests.values()), 1)
        plain["faulty_calls"] = f"{share:.1%}"
        return {"ok": self.ok, **plain, **wrong, "bound_95": rule_of_three(self.orders), "machine": machine()}


class Torture:
    """One run. `say` gets a line every few seconds."""

    def __init__(
        self, on: Stage, mariadb: MariaDB, *, orders: int, rate: float, seed: int, say: Callable[[str], None]
    ) -> None:
        self._on = on
        self._mariadb = mariadb
        self._orders = orders
        self._rate = rate
        self._seed = seed
        self._say = say
        self._dice = random.Random(seed)
        self._report = Report()
        self._workers: list[Worker] = []
        self._shop = shop_engine(on)
        migrate(on.environment["ERP_SYNC_LEDGER_URL"])
        self._ledger: Ledger = open_ledger(on.environment["ERP_SYNC_LEDGER_URL"])
        self._trickled = threading.Event()

    def run(self) -> Report:
        started = time.monotonic()
        self._say(f"placing {self._orders // 2} orders as a backlog")
        self._on.shop.add_customers(max(20, self._orders // 20))
        self._on.shop.checkout_many(self._orders // 2)
        self._suffer(lambda: self._open() <= self._orders // 200, "backlog")
        trickle = threading.Thread(target=self._trickle, daemon=True)
        trickle.start()
        self._suffer(self._trickled.is_set, "trickle")
        trickle.join()
        self._on.erp.set_faults()
        self._drain(started + 3600)
        self._retry_the_parked()
        self._judge()
        self._report.seconds = time.monotonic() - started
        return self._report

    def _suffer(self, over: Callable[[], bool], name: str) -> None:
        """Keep workers at work, and kill one of them every few seconds, MariaDB and the ERP now and then."""
        kill_at = time.monotonic() + 3
        disaster_at = time.monotonic() + self._dice.uniform(10, 15)
        line_at = look_at = time.monotonic() + 2
        while True:
            now = time.monotonic()
            self._keep_at_work()
            if now >= kill_at:
                self._report.worker_kills += self._dice.choice(self._workers).kill()
                kill_at = now + self._dice.uniform(2, 8)
            if now >= disaster_at:
                self._disaster()
                disaster_at = time.monotonic() + self._dice.uniform(15, 40)
            if now >= line_at:
                self._say(f"{name}: {self._progress()}")
                line_at = now + 15
            if now >= look_at:
                look_at = now + 2
                if over():
                    return
            time.sleep(0.05)

    def _keep_at_work(self) -> None:
        self._workers = [worker for worker in self._workers if worker.alive]
        while len(self._workers) < WORKERS:
            self._report.worker_starts += 1
            self._workers.append(self._worker())

    def _worker(self) -> Worker:
        return Worker(self._on.environment, Task(linger=60, tells=False), self._on.folder / "workers.log")

    def _disaster(self) -> None:
        if (self._report.erp_kills + self._report.database_kills) % 3 == 1:
            self._report.erp_kills += 1
            self._count_calls()
            self._on.erp.kill()
            time.sleep(self._dice.uniform(0.0, 2.0))
            self._on.erp.restart()
        else:
            self._report.database_kills += 1
            self._mariadb.kill()
            time.sleep(self._dice.uniform(0.0, 2.0))
            self._mariadb.start()

    def _trickle(self) -> None:
        """Orders one by one; every tenth is committed late, by a transaction that a few of them roll back."""
        shop = DemoShop(self._shop, self._seed + 1)
        late = [DemoShop(self._shop, self._seed + 2 + place) for place in range(4)]
        dice = random.Random(self._seed + 1)
        threads: list[threading.Thread] = []
        placed = 0
        due = time.monotonic()
        try:
            while placed < self._orders - self._orders // 2:
                due += dice.expovariate(self._rate)
                time.sleep(max(0.0, due - time.monotonic()))
                threads = [thread for thread in threads if thread.is_alive()]
                # An order whose COMMIT the dying database did not answer may be there or not: the shop is asked later.
                with suppress(OperationalError):
                    if dice.random() < 0.1 and late:
                        rolled_back = dice.random() < 0.2
                        arguments = (late, late.pop(), dice.uniform(0.3, 3.0), rolled_back)
                        threads.append(threading.Thread(target=self._commit_late, args=arguments, daemon=True))
                        threads[-1].start()
                        placed += not rolled_back
                    else:
                        shop.checkout()
                        placed += 1
            for thread in threads:
                thread.join()
            while self._missing(shop):
                pass
        finally:
            self._trickled.set()

    def _missing(self, shop: DemoShop) -> bool:
        """Those that a dying database took back are placed once more, one at a time."""
        with suppress(OperationalError):
            if self._finalized_count() >= self._orders:
                return False
            shop.checkout()
        return True

    def _commit_late(self, idle: list[DemoShop], shop: DemoShop, seconds: float, rolled_back: bool) -> None:
        try:
            with suppress(OperationalError, _RolledBack), shop.late_commit(seconds):
                time.sleep(seconds)
                if rolled_back:
                    self._report.rolled_back += 1
                    raise _RolledBack
        finally:
            idle.append(shop)

    def _drain(self, give_up: float) -> None:
        """In real time, with its settle times; nobody dies any more."""
        self._say("draining")
        while time.monotonic() < give_up:
            self._keep_at_work()
            if not self._open():
                break
            time.sleep(1)
        for worker in self._workers:
            worker.kill()  # everything is settled: they only linger
        self._workers.clear()

    def _retry_the_parked(self) -> None:
        """What an injected error text refused is retried as an operator does it, now that the ERP is well."""
        parked = [entry.number for entry in self._ledger.list(state=LedgerState.REFUSED, limit=self._orders)]
        self._report.parked = len(parked)
        if parked:
            flow = open_connections(load_settings()).orders_flow()
            flow.retry(parked)
            flow.run(Window(numbers=parked))

    def _judge(self) -> None:
        report = self._report
        orders = self._finalized()
        report.orders = len(orders)
        entries = self._ledger.entries([str(order.order_id) for order in orders])
        intents: dict[str, list[datetime]] = defaultdict(list)
        for entry in entries.values():
            for at, event, _ in self._ledger.story(entry.order_id):
                if event.kind == "intent":
                    intents[entry.number].append(at)
                report.adopted += event.kind == "adopted"
                report.resent += event.kind == "due" and event.text == "proven absent from the ERP"
        erp = self._on.erp
        report.verdict = check(erp.journal(), orders, entries.values(), arrivals=erp.arrivals(), intents=intents)
        self._count_calls()
        report.customers_twice = int(erp.admin("GET", "/state")["tax_ids_twice"])

    def _count_calls(self) -> None:
        """The ERP's own figures; they begin anew with its every start."""
        state = self._on.erp.admin("GET", "/state")
        for total, now in ((self._report.requests, state["requests"]), (self._report.faults, state["faults_fired"])):
            for name, count in now.items():
                total[name] = total.get(name, 0) + count

    def _finalized(self) -> list[PlacedOrder]:
        """As the shop's database has them: what was committed, and nothing else."""
        head, items = shop_schema.orders, shop_schema.order_items
        query = (
            sa.select(head.c.id, head.c.number, head.c.total, sa.func.count(items.c.id))
            .join_from(head, items, items.c.order_id == head.c.id)
            .where(head.c.status == "paid")
            .group_by(head.c.id, head.c.number, head.c.total)
        )
        with self._shop.connect() as connection:
            return [PlacedOrder(*row) for row in connection.execute(query)]

    def _open(self) -> int:
        """How many the ledger is not done with, or does not know yet."""
        with suppress(OperationalError, LedgerUnavailable):
            counts = self._ledger.counts()
            done = sum(
                count
                for state, count in counts.items()
                if state not in (LedgerState.DUE, LedgerState.SENDING, LedgerState.IN_DOUBT)
            )
            unread = 0 if self._ledger.next_wake() is None and not self._ledger.actionable(1) else 1
            return max(self._finalized_count() - done, unread)
        return self._orders

    def _finalized_count(self) -> int:
        with self._shop.connect() as connection:
            query = sa.select(sa.func.count()).where(shop_schema.orders.c.status == "paid")
            return int(connection.scalar(query) or 0)

    def _progress(self) -> str:
        with suppress(LedgerUnavailable):
            counts = self._ledger.counts()
            words = ", ".join(
                f"{state.value.replace('_', ' ')} {counts[state]}" for state in LedgerState if state in counts
            )
            report = self._report
            kills = f"{report.worker_kills} workers, {report.database_kills} x MariaDB, {report.erp_kills} x ERP"
            return f"{words}; killed {kills}"
        return "the database does not answer"


class _RolledBack(Exception):
    pass


def torture(orders: int, *, rate: float, seed: int, say: Callable[[str], None]) -> Report:
    """`rate`: orders per second of the trickle."""
    with stage_on_mariadb(latency_ms=LATENCY_MS, erp=ERP, faults=faults(), seed=seed) as (on, mariadb):
        return Torture(on, mariadb, orders=orders, rate=rate, seed=seed, say=say).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=25, help="orders per second of the trickle (25)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")
    given = parser.parse_args()
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    report = torture(given.orders, rate=given.rate, seed=given.seed, say=say)
    plain = report.as_json()
    print(json.dumps(plain) if given.json else "\n".join(f"{name:<16} {value}" for name, value in plain.items()))
    sys.exit(0 if report.ok else 1)


if __name__ == "__main__":
    main()
