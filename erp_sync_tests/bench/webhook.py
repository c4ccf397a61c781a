"""From the shop's webhook to the order in the ERP, through the real receiver: how fast, and what a flash sale costs.

    python -m erp_sync_tests.bench.webhook latency [--rate 5] [--seconds 60] [--latency-ms 50]
    python -m erp_sync_tests.bench.webhook sale [--rate 50] [--seconds 90] [--per-second 10] [--erp-away 20 | --restart]

Shop and ledger are on a real MariaDB, `erp-sync webhook` is a process of its own, webhooks are signed and sent as
Spatie's package does: 3 seconds of patience, three tries, then lost. The end is when the ERP's own journal says that
the order was committed there.

The chain of calls to the ERP that wait for each other: the look-up of the order, with the look-up of its customer
beside it; for a new customer its create and its read-back; the create of the order. `own` is all the time that the ERP
did not take. The ERP's are: of a read what a bare GET over a kept connection takes (measured first), of a create the
time from its arrival to its commit, and of the customer's its way there and back, as of a bare GET, too.
"""

from __future__ import annotations

import argparse
import http.client
import json
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import requests

from erp_sync.demo import Stage
from erp_sync.ledger.entry import Entry
from erp_sync.logs import carry_log_context
from erp_sync.sandbox.shop import PlacedOrder
from erp_sync.settings import load_settings
from erp_sync.sync.connections import Connections, open_connections
from erp_sync_tests.bench.checker import check
from erp_sync_tests.bench.machine import machine, percentile
from erp_sync_tests.bench.stages import register, shop_engine, stage_on_mariadb
from erp_sync_tests.mariadb import MariaDB
from erp_sync_tests.webhooks import Receiver, spatie

SOURCE = {"webhook.sources.loja": {"scheme": '"spatie"'}}
PATIENCE = 3.0
TRIES = 3
SETTLE_SECONDS = 3


@dataclass
class Sent:
    """One webhook, as its sender saw it. Seconds since 1970."""

    at: float
    took: list[float] = field(default_factory=list)
    """Of each try, until its answer, or until there was none in time."""
    statuses: list[int] = field(default_factory=list)
    """Of each try; 0: no answer in time."""

    @property
    def confirmed(self) -> bool:
        return 200 <= self.statuses[-1] < 300


class Shop:
    """Sends webhooks at fixed times, whatever became of those before."""

    def __init__(self, url: str, pause: float = 1.0) -> None:
        self.sent: dict[str, Sent] = {}
        self._url = f"{url}/webhooks/loja"
        self._pause = pause
        self._local = threading.local()

    def send(self, orders: list[PlacedOrder], rate: float, before: Callable[[PlacedOrder], None]) -> None:
        began = time.monotonic()
        with ThreadPoolExecutor(64, initializer=carry_log_context()) as pool:
            for index, order in enumerate(orders):
                time.sleep(max(0.0, began + index / rate - time.monotonic()))
                before(order)
                pool.submit(self._tell, order)

    def _tell(self, order: PlacedOrder) -> None:
        body = json.dumps({"event": "order.paid", "order_id": order.order_id}).encode()
        sent = self.sent[order.number] = Sent(time.time())
        for _ in range(TRIES):
            started = time.perf_counter()
            try:
                answer = self._session().post(self._url, data=body, headers=spatie(body), timeout=PATIENCE)
                sent.statuses.append(answer.status_code)
            except requests.RequestException:
                sent.statuses.append(0)
            sent.took.append(time.perf_counter() - started)
            if sent.confirmed:
                return
            time.sleep(self._pause)

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.trust_env = False
        session: requests.Session = self._local.session
        return session


@dataclass(frozen=True)
class Latency:
    orders: int
    customers: str
    erp: dict[str, float]
    """Settings."""
    total_ms: dict[str, float]
    """From the webhook's first byte to the ERP's commit."""
    own_ms: dict[str, float]
    bare_read_ms: float
    answered_ms: dict[str, float]
    """From the webhook's first byte to the 2xx."""
    requests: dict[str, int]
    machine: str


def latency(rate: float, seconds: float, *, latency_ms: float, new: bool) -> Latency:
    """Raises AssertionError where an order is not in the ERP exactly once at the end."""
    count = int(rate * seconds)
    erp: dict[str, float] = {"max_parallel": 8, "max_parallel_writes": 8}
    with _receiving(latency_ms=latency_ms, erp=erp) as (on, _, url):
        people = count if new else 100
        on.shop.add_customers(people)
        engine = shop_engine(on)
        register(on.erp, engine, 0 if new else people)
        engine.dispose()
        orders = [on.shop.place_order() for _ in range(count)]
        for index, order in enumerate(orders):
            on.shop.change_order(order, customer_id=1 + index % people)
        bare = _bare_read(on)
        shop = Shop(url)
        warm = on.shop.place_order()
        on.shop.change_order(warm, customer_id=1)
        shop.send([warm], rate, lambda order: on.shop.change_order(order, status="paid"))
        _wait_for(on, 1)
        _settled([warm])
        before = on.erp.admin("GET", "/state")["requests"]
        shop.send(orders, rate, lambda order: on.shop.change_order(order, status="paid"))
        _wait_for(on, count + 1)
        verdict = _verdict(on, [warm, *orders])
        assert verdict == "every order is exact", verdict
        journal, arrivals = on.erp.journal(), on.erp.arrivals()
        after = on.erp.admin("GET", "/state")["requests"]
    commits = {line["external_id"]: _seconds(line) for line in journal if line["kind"] in ("order", "customer")}
    arrived = {line["external_id"]: _seconds(line) for line in arrivals}
    customer_of = _customers(journal)
    totals, own = [], []
    for order in orders:
        sent, number = shop.sent[order.number], order.number
        erp_took = commits[number] - arrived[number] + bare
        created = customer_of.get(number)
        if new and created in arrived:
            erp_took += commits[created] - arrived[created] + (bare - latency_ms / 1000) + bare
        totals.append((commits[number] - sent.at) * 1000)
        own.append(totals[-1] - erp_took * 1000)
    return Latency(
        orders=count,
        customers="new" if new else "known",
        erp=erp,
        total_ms=_percentiles(totals),
        own_ms=_percentiles(own),
        bare_read_ms=round(bare * 1000, 2),
        answered_ms=_percentiles([shop.sent[order.number].took[-1] * 1000 for order in orders]),
        requests={name: value - before.get(name, 0) for name, value in after.items()},
        machine=machine(),
    )


@dataclass(frozen=True)
class Sale:
    webhooks: int
    trouble: str
    erp: dict[str, float]
    """Settings."""
    confirmed_ms: dict[str, float]
    """Of the confirmed webhooks, each from its last try's first byte to its 2xx."""
    answered_ms: dict[str, float]
    """Of all tries: until whatever answer, or until the sender gave up waiting."""
    retried: int
    unconfirmed: int
    """Given up by the sender after its third try."""
    in_the_erp_by_webhooks: int
    """Before the pass that follows the sale."""
    seconds_until_all: float
    """From the first webhook to the last order in the ERP."""
    lost: int
    twice: int
    verdict: str
    requests: dict[str, int]
    machine: str


def sale(rate: float, seconds: float, *, per_second: float, erp_away: float = 0, restart: bool = False) -> Sale:
    """The ERP takes two creates at once, and `per_second` of them in a second. `erp_away`: it is killed in the middle,
    for so many seconds. `restart`: MariaDB is, once."""
    count = int(rate * seconds)
    slow = 2000 / per_second
    erp: dict[str, float] = {"max_parallel": 4, "max_parallel_writes": 2, "settle_seconds": SETTLE_SECONDS}
    erp |= {"write_timeout": 5, "read_timeout": 5, "connect_timeout": 2}
    with _receiving(latency_ms=slow, erp=erp) as (on, mariadb, url):
        on.shop.add_customers(100)
        engine = shop_engine(on)
        register(on.erp, engine, 100)
        engine.dispose()
        orders = on.shop.checkout_many(count)
        shop = Shop(url)
        trouble = threading.Thread(target=_trouble, args=(on, mariadb, seconds, erp_away, restart))
        trouble.start()
        began = time.time()
        shop.send(orders, rate, lambda _: None)
        trouble.join()
        _settle(on, count, patience=3 * count / per_second + 30)
        by_webhooks = len(_orders(on))
        connections = open_connections(load_settings())
        _final_pass(connections)
        connections.close()
        verdict = _verdict(on, orders)
        lines = _orders(on)
        requests_ = on.erp.admin("GET", "/state")["requests"]
    tries = [sent.statuses for sent in shop.sent.values()]
    took = [seconds * 1000 for sent in shop.sent.values() for seconds in sent.took]
    confirmed = [sent.took[-1] * 1000 for sent in shop.sent.values() if sent.confirmed]
    numbers = [line["external_id"] for line in lines]
    return Sale(
        webhooks=count,
        trouble=f"ERP away for {erp_away:.0f} s" if erp_away else "MariaDB restarted" if restart else "none",
        erp=erp,
        confirmed_ms=_percentiles(confirmed),
        answered_ms=_percentiles(took),
        retried=sum(len(statuses) > 1 for statuses in tries),
        unconfirmed=len(tries) - len(confirmed),
        in_the_erp_by_webhooks=by_webhooks,
        seconds_until_all=round(max(map(_seconds, lines)) - began, 1),
        lost=len({order.number for order in orders} - set(numbers)),
        twice=len(numbers) - len(set(numbers)),
        verdict=verdict,
        requests=requests_,
        machine=machine(),
    )


def _trouble(on: Stage, mariadb: MariaDB, seconds: float, erp_away: float, restart: bool) -> None:
    time.sleep(seconds / 3)
    if erp_away:
        on.erp.kill()
        time.sleep(erp_away)
        on.erp.restart()
    if restart:
        mariadb.kill()
        mariadb.start()


def _settle(on: Stage, count: int, patience: float) -> None:
    """Until all are there, or nothing comes any more."""
    give_up = time.monotonic() + patience
    seen, since = -1, time.monotonic()
    while time.monotonic() < give_up:
        now = len(_orders(on))
        if now >= count:
            return
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > 15:
            return
        time.sleep(0.5)


def _final_pass(connections: Connections) -> None:
    """As the sensor, or a person's `erp-sync run orders`, goes on."""
    flow = connections.orders_flow()
    give_up = time.monotonic() + 600
    while time.monotonic() < give_up:
        flow.run(sweep=True)
        if connections.ledger.next_wake() is None and not connections.ledger.actionable(1):
            return
        time.sleep(1)
    raise TimeoutError(f"not settled: {connections.ledger.counts()}")


@contextmanager
def _receiving(*, latency_ms: float, erp: dict[str, float]) -> Iterator[tuple[Stage, MariaDB, str]]:
    with stage_on_mariadb(latency_ms=latency_ms, erp=erp, more=SOURCE) as (on, mariadb):
        connections = open_connections(load_settings())
        connections.orders_flow().finder.sweep()
        connections.close()
        receiver = Receiver(on.folder)
        try:
            yield on, mariadb, receiver.url
        finally:
            receiver.close()


def _bare_read(on: Stage) -> float:
    """Seconds of a read, seen by a client that does nothing else: the median of some."""
    connections = open_connections(load_settings())
    connections.erp.probe()
    headers = {"Authorization": connections.client._credential.authorization(), "tenantId": connections.client.tenant}
    connections.close()
    root = urlsplit(on.erp.root_url)
    query = "tables=SE4&fields=E4_CODIGO&where=E4_CODIGO=%27001%27&page=1&pageSize=100"
    connection = http.client.HTTPConnection(root.netloc)
    took = []
    for _ in range(20):
        started = time.perf_counter()
        connection.request("GET", f"{root.path}/api/framework/v1/genericQuery?{query}", headers=headers)
        answer = connection.getresponse()
        assert answer.status == requests.codes.ok, answer.read()
        answer.read()
        took.append(time.perf_counter() - started)
    connection.close()
    return percentile(took, 0.5)


def _orders(on: Stage) -> list[dict[str, Any]]:
    return [line for line in on.erp.journal() if line["kind"] == "order"]


def _wait_for(on: Stage, count: int) -> None:
    give_up = time.monotonic() + 60
    while on.erp.admin("GET", "/state")["orders"] < count:
        if time.monotonic() > give_up:
            raise TimeoutError(f"not {count} orders in the ERP after a minute")
        time.sleep(0.2)


def _verdict(on: Stage, orders: list[PlacedOrder]) -> str:
    return str(check(on.erp.journal(), orders, _settled(orders)))


def _settled(orders: list[PlacedOrder]) -> Collection[Entry]:
    """Their entries, once each was read back, or after 20 seconds."""
    connections = open_connections(load_settings())
    ids = [str(order.order_id) for order in orders]
    give_up = time.monotonic() + 20
    while any(entry.next_at for entry in connections.ledger.entries(ids).values()) and time.monotonic() < give_up:
        time.sleep(0.2)
    entries = connections.ledger.entries(ids)
    connections.close()
    return entries.values()


def _customers(journal: list[dict[str, Any]]) -> dict[str, str]:
    """Order number = the tax id of its customer, of those that were created."""
    by_code = {line["number"]: line["external_id"] for line in journal if line["kind"] == "customer"}
    return {
        line["external_id"]: by_code[line["customer"]]
        for line in journal
        if line["kind"] == "order" and line["customer"] in by_code
    }


def _seconds(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["at"]).timestamp()


def _percentiles(values: list[float]) -> dict[str, float]:
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    named = {name: round(percentile(values, share), 1) for name, share in shares.items()}
    return {**named, "longest": round(max(values), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("latency")
    one.add_argument("--rate", type=float, default=5, help="webhooks a second")
    one.add_argument("--seconds", type=float, default=60)
    one.add_argument("--latency-ms", type=float, default=50)
    many = commands.add_parser("sale")
    many.add_argument("--rate", type=float, default=50)
    many.add_argument("--seconds", type=float, default=90)
    many.add_argument("--per-second", type=float, default=10, help="creates that the ERP takes")
    many.add_argument("--erp-away", type=float, default=0, help="seconds")
    many.add_argument("--restart", action="store_true", help="MariaDB, in the middle")
    given = parser.parse_args()
    if given.what == "latency":
        for new in (False, True):
            found = latency(given.rate, given.seconds, latency_ms=given.latency_ms, new=new)
            print(json.dumps(asdict(found)), flush=True)
    else:
        how = {"per_second": given.per_second, "erp_away": given.erp_away, "restart": given.restart}
        print(json.dumps(asdict(sale(given.rate, given.seconds, **how))), flush=True)


if __name__ == "__main__":
    main()
