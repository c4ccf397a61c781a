"""How long it takes until the shop's stock follows the ERP's, and what a checkout feels of it.

    python -m erp_sync_tests.bench.stock [--skus 20000 100000 1000000] [--latency-ms 50] [--form plain row bulk]

Shop and ledger are on a real MariaDB with durable commits. The ERP is the sandbox, a process of its own on loopback; it
answers every call after the latency and the time that it takes for the page. For each size and form: everything changes
(accepted by a person), then one in a hundred; of a million only the latter. `plain` is what a middleware without any of
our safety does: all pages, all of the shop's rows in memory, an UPDATE for each that differs. Its seconds are the 1 of
`times_plain`, as both met the same machine in the same minutes.

A buyer checks out all the while, of the products that change, and before that for a while without a sync; a few of the
checkouts are sales, and in the end each stock must be the ERP's less what was sold.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib import resources
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pymysql
import requests
import sqlalchemy as sa

from erp_sync.demo import Stage
from erp_sync.erp import answers, client, stock
from erp_sync.sandbox.shop_schema import order_items, orders, products
from erp_sync.settings import Settings, load_settings
from erp_sync.sync.connections import open_connections
from erp_sync_tests.bench.machine import cpu_seconds, machine, percentile
from erp_sync_tests.bench.memory import high_water_mb
from erp_sync_tests.bench.stages import server_pid, shop_engine, stage_on_mariadb
from erp_sync_tests.mariadb import MariaDB

FORMS = ("plain", "row", "bulk")
BULK = """\
bulk = \"\"\"
UPDATE products p JOIN erp_sync_stock s ON p.sku = s.sku COLLATE utf8mb4_unicode_ci AND HEX(p.sku) = HEX(s.sku)
   SET p.stock = s.quantity
\"\"\"
"""
SEEDED_TOGETHER = 10_000
FIRST = 50
QUIET_SECONDS = 5.0
SALE_SECONDS = 2.0
BUFFER_POOL = "--innodb-buffer-pool-size=1G"


@dataclass(frozen=True)
class Followed:
    skus: int
    form: str
    changed: int
    seconds: float
    times_plain: float | None
    """None: the plain middleware was not asked."""
    cpu_seconds: float
    """Of the syncing process."""
    database_cpu_seconds: float
    erp_cpu_seconds: float
    compare_seconds: float
    """Reading the ERP and comparing: the rest is writing."""
    erp_requests: int
    erp_seconds: float
    """From the last byte of each question to the last of its answer."""
    waited_share: float
    """Of all the time, how much nothing was done but wait for the ERP."""
    shop_statements: int
    ledger_statements: int
    compared_per_second: float
    written_per_second: float
    peak_mb: float
    """The process's high-water mark, imports and connections included."""
    checkout_p99_ms: float
    checkout_longest_ms: float
    quiet_p99_ms: float
    """Of checkouts without a sync."""
    quiet_longest_ms: float
    lock_waits: int
    """How often anybody, buyer or sync, waited for a row."""
    lock_wait_ms: int
    """All these waits together."""
    machine: str


@dataclass
class Told:
    """What a pass says of itself."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    compare_seconds: float = 0.0
    erp_seconds: float = 0.0
    waited_seconds: float = 0.0
    written: int = 0
    statements: Counter[str] = field(default_factory=Counter)
    """By database."""
    peak_mb: float = 0.0


@dataclass
class _Buyers:
    """Checkouts one after the other: an UPDATE of one product and its durable COMMIT; now and then a sale, with its
    order."""

    engine: sa.Engine
    numbers: Sequence[int]
    """Of the products that they want."""
    now: Callable[[], datetime]
    sells: bool
    waits: list[float] = field(default_factory=list)
    sold: Counter[int] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)

    def buy(self) -> None:
        dice = random.Random(1)
        next_sale = time.perf_counter()
        with self.engine.connect() as connection:
            while not self.over.is_set():
                number = dice.choice(self.numbers)
                began = time.perf_counter()
                self._look(connection, number)
                if self.sells and began >= next_sale:
                    next_sale = began + SALE_SECONDS
                    self._sell(connection, number)
                connection.commit()
                self.waits.append((time.perf_counter() - began) * 1000)
                time.sleep(0.002)

    def _look(self, connection: sa.Connection, number: int) -> None:
        wanted = products.c.id == number + 1
        connection.execute(products.update().where(wanted).values(price=sa.literal_column("price + 0.01")))

    def _sell(self, connection: sa.Connection, number: int) -> None:
        now = self.now()
        wanted = products.c.id == number + 1
        connection.execute(products.update().where(wanted).values(stock=products.c.stock - 1))
        order = orders.insert().values(
            number=f"BENCH-{time.monotonic_ns()}",
            status="paid",
            total=10,
            placed_at=now,
            created_at=now,
            updated_at=now,
        )
        key = connection.execute(order).lastrowid
        connection.execute(
            order_items.insert().values(order_id=key, sku=_sku(number), name="-", quantity=1, unit_price=10)
        )
        self.sold[number] += 1


@contextmanager
def _buying(buyers: _Buyers) -> Iterator[list[float]]:
    thread = threading.Thread(target=buyers.buy, daemon=True)
    thread.start()
    try:
        yield buyers.waits
    finally:
        buyers.over.set()
        thread.join(60)


def follow(
    skus: int,
    *,
    forms: Sequence[str],
    latency_ms: float,
    shares: tuple[float, ...] = (1.0, 0.01),
    quiet_seconds: float = QUIET_SECONDS,
) -> Iterator[Followed]:
    """Raises AssertionError where the shop does not show the ERP's figures in the end."""
    with stage_on_mariadb(
        latency_ms=0, erp={"max_parallel": 4}, stock={"max_change_share": 1.0}, options=[BUFFER_POOL]
    ) as (on, mariadb):
        engine = shop_engine(on)
        figures = array("i", [FIRST]) * skus
        sold: Counter[int] = Counter()
        _fill(on, engine, skus)
        on.erp.switch(latency_ms=latency_ms)
        with _buying(_Buyers(engine, range(skus), on.shop.now, sells=False)) as quiet:
            time.sleep(quiet_seconds)
        for share in shares:
            plain: float | None = None
            for form in forms:
                os.environ["ERP_SYNC_SHOP_PROFILE"] = str(_profile(on.folder, form))
                changed = _change(on, figures, max(1, int(skus * share)))
                before = _so_far(on, mariadb)
                # The plain middleware knows nothing of orders, so none are placed beside it.
                buyers = _Buyers(engine, changed, on.shop.now, sells=form != "plain")
                with _buying(buyers) as busy:
                    told = _in_a_process(form)
                sold += buyers.sold
                used = [now - then for now, then in zip(_so_far(on, mariadb), before, strict=True)]
                requests, waits, wait_ms, database_cpu, erp_cpu = used
                if form != "plain":  # which takes back what was sold
                    _check(engine, figures, sold)
                plain = told.seconds if form == "plain" else plain
                yield Followed(
                    skus=skus,
                    form=form,
                    changed=len(changed),
                    seconds=round(told.seconds, 2),
                    times_plain=round(told.seconds / plain, 2) if plain is not None else None,
                    cpu_seconds=round(told.cpu_seconds, 2),
                    database_cpu_seconds=round(database_cpu, 2),
                    erp_cpu_seconds=round(erp_cpu, 2),
                    compare_seconds=round(told.compare_seconds, 2),
                    erp_requests=int(requests),
                    erp_seconds=round(told.erp_seconds, 2),
                    waited_share=round(told.waited_seconds / told.seconds, 2),
                    shop_statements=told.statements["shop"],
                    ledger_statements=told.statements["ledger"],
                    compared_per_second=round(skus / told.compare_seconds),
                    written_per_second=round(told.written / max(told.seconds - told.compare_seconds, 0.001)),
                    peak_mb=told.peak_mb,
                    checkout_p99_ms=round(percentile(busy, 0.99), 1),
                    checkout_longest_ms=round(max(busy), 1),
                    quiet_p99_ms=round(percentile(quiet, 0.99), 1),
                    quiet_longest_ms=round(max(quiet), 1),
                    lock_waits=int(waits),
                    lock_wait_ms=int(wait_ms),
                    machine=machine(),
                )
        engine.dispose()


def _profile(folder: Path, form: str) -> Path:
    text = resources.files("erp_sync.shop").joinpath("profiles", "laravel.toml").read_text(encoding="utf-8")
    profile = folder / f"{form}.toml"
    profile.write_text(text.replace("[stock]\n", "[stock]\n" + (BULK if form == "bulk" else "")), encoding="utf-8")
    return profile


def _fill(on: Stage, engine: sa.Engine, skus: int) -> None:
    with engine.begin() as connection:
        connection.execute(products.delete())
        connection.exec_driver_sql("ALTER TABLE products AUTO_INCREMENT = 1")
    for start in range(0, skus, SEEDED_TOGETHER):
        numbers = range(start, min(start + SEEDED_TOGETHER, skus))
        rows = [
            {"id": each + 1, "sku": _sku(each), "name": _sku(each), "price": 10, "stock": FIRST} for each in numbers
        ]
        with engine.begin() as connection:
            connection.execute(products.insert(), rows)
    on.erp.set_stock({"code": _sku(number), "QATU": FIRST} for number in range(skus))


def _sku(number: int) -> str:
    return f"SKU-{number:08d}"


def _change(on: Stage, figures: array[int], count: int) -> Sequence[int]:
    """Another figure for so many products, spread over the catalogue: their numbers."""
    numbers = range(0, len(figures), len(figures) // count)[:count]
    for number in numbers:
        # By so much that what was sold meanwhile cannot make up for it.
        figures[number] = 1000 - figures[number] + number % 7
    on.erp.set_stock({"code": _sku(number), "QATU": figures[number]} for number in numbers)
    return numbers


def _check(engine: sa.Engine, figures: array[int], sold: Counter[int]) -> None:
    with engine.connect() as connection:
        rows = connection.execution_options(yield_per=SEEDED_TOGETHER).execute(
            sa.select(products.c.id, products.c.stock).order_by(products.c.id)
        )
        wrong = [
            (row.id, row.stock, figures[row.id - 1], sold[row.id - 1])
            for row in rows
            if row.stock != figures[row.id - 1] - sold[row.id - 1]
        ]
    assert not wrong, f"{len(wrong)} stocks are not the ERP's less what was sold, such as {wrong[:5]}"


def _in_a_process(form: str) -> Told:
    """One pass in a process of its own, for its memory's sake. Raises EOFError if it fails."""
    os.environ["MALLOC_ARENA_MAX"] = "2"  # as the image has it
    fresh = multiprocessing.get_context("spawn")
    ours, theirs = fresh.Pipe(duplex=False)
    process = fresh.Process(target=_plain if form == "plain" else _pass, args=(theirs,))
    process.start()
    theirs.close()
    told: Told = ours.recv()
    process.join()
    return told


def _pass(tell: Connection) -> None:
    told = Told()
    connections = open_connections(load_settings())
    names = {sa.make_url(os.environ[f"ERP_SYNC_{name.upper()}_URL"]).database: name for name in ("shop", "ledger")}
    flow = connections.stock_flow()
    connections.erp.probe()

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def count(connection: Any, *_: object) -> None:
        told.statements[names[connection.engine.url.database]] += 1

    _watch_the_erp(told)
    began, cpu = time.perf_counter(), time.process_time()
    compared_at = began

    def progress(result: Any) -> None:
        nonlocal compared_at
        if not result.written:
            compared_at = time.perf_counter()

    result = flow.run(budget=3600, progress=progress)
    told.seconds, told.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    assert result.failure is None, result.failure
    assert not result.failed, result.examples
    told.compare_seconds = compared_at - began
    told.written = result.written
    told.peak_mb = high_water_mb()
    tell.send(told)
    connections.close()


def _watch_the_erp(told: Told) -> None:
    """How long its answers take, and how long the pass has nothing to do before the next one is there."""

    def read_answer(status: int, headers: Any, content: bytes, milliseconds: float) -> Any:
        told.erp_seconds += milliseconds / 1000
        return answers.read_answer(status, headers, content, milliseconds)

    class Ahead(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
            future = super().submit(*args, **kwargs)
            wait = future.result

            def result(timeout: float | None = None) -> Any:
                began = time.perf_counter()
                try:
                    return wait(timeout)
                finally:
                    told.waited_seconds += time.perf_counter() - began

            future.result = result  # type: ignore[method-assign]
            return future

    client.read_answer = read_answer  # type: ignore[attr-defined]
    stock.ThreadPoolExecutor = Ahead  # type: ignore[attr-defined]


def _plain(tell: Connection) -> None:
    told = Told()
    settings = load_settings()
    url = sa.make_url(settings.require_shop_url())
    shop = pymysql.connect(host=url.host, port=url.port or 0, user=url.username, database=url.database, autocommit=True)
    began, cpu = time.perf_counter(), time.process_time()
    wanted = {row["b2_cod"].rstrip(): int(row["b2_qatu"]) for row in _plain_rows(settings, told)}
    with shop.cursor() as cursor:
        cursor.execute("SELECT sku, stock FROM products")
        shown = dict(cursor.fetchall())
        told.compare_seconds = time.perf_counter() - began
        for sku, quantity in wanted.items():
            if shown[sku] != quantity:
                cursor.execute("UPDATE products SET stock = %s WHERE sku = %s", (quantity, sku))
                told.written += 1
    told.seconds, told.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    told.statements["shop"] = told.written + 1
    told.peak_mb = high_water_mb()
    tell.send(told)
    shop.close()


def _plain_rows(settings: Settings, told: Told) -> Iterator[dict[str, Any]]:
    root, user, password, tenant = settings.require_erp()
    with requests.Session() as session:
        session.headers["tenantId"] = tenant
        login = {"grant_type": "password", "username": user, "password": password}
        token = session.post(f"{root}/api/oauth2/v1/token", params=login, timeout=60).json()
        session.headers["Authorization"] = f"Bearer {token['access_token']}"
        page, more = 1, True
        while more:
            asked = time.perf_counter()
            parameters = {
                "tables": "SB2",
                "fields": "B2_COD,B2_LOCAL,B2_QATU",
                "where": "B2_LOCAL='01'",
                "order": "B2_COD",
                "page": str(page),
                "pageSize": str(stock.PAGE),
            }
            answer = session.get(f"{root}/api/framework/v1/genericQuery", params=parameters, timeout=60)
            waited = time.perf_counter() - asked
            told.erp_seconds += waited
            told.waited_seconds += waited
            body = answer.json()
            yield from body["items"]
            page, more = page + 1, body["hasNext"]


def _so_far(on: Stage, mariadb: MariaDB) -> tuple[float, ...]:
    """Requests to the ERP; how often a row was waited for, and the milliseconds of all these waits; seconds of the
    processor that database and ERP have used."""
    requests = sum(on.erp.admin("GET", "/state")["requests"].values())
    waits, milliseconds = (
        int(mariadb.value(f"SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_{name}'")) for name in ("waits", "time")
    )
    return requests, waits, milliseconds, cpu_seconds(server_pid(mariadb)), cpu_seconds(on.erp.pid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skus", type=int, nargs="+", default=[20_000, 100_000, 1_000_000])
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--form", nargs="+", choices=FORMS, default=FORMS)
    given = parser.parse_args()
    for skus in given.skus:
        # A million at once is a person's initial load; what runs every few minutes is one in a hundred.
        shares = (1.0, 0.01) if skus <= 100_000 else (0.01,)
        for followed in follow(skus, forms=given.form, latency_ms=given.latency_ms, shares=shares):
            print(json.dumps(asdict(followed)), flush=True)


if __name__ == "__main__":
    main()
