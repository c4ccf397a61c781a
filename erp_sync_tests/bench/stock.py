"""How long it takes until the shop's stock follows the ERP's, and what a checkout feels of it.

    python -m erp_sync_tests.bench.stock [--skus 20000 100000 1000000] [--latency-ms 50] [--form row bulk]

Shop and ledger are on a real MariaDB with durable commits, the ERP on loopback answers every call after the latency.
For each size: everything changes (accepted by a person), then one in a hundred. A buyer checks out all the while, and
before that for a while without a sync.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from erp_sync.demo import Stage
from erp_sync.sandbox.shop_schema import products
from erp_sync.settings import load_settings
from erp_sync.sync.connections import open_connections
from erp_sync_tests.bench.machine import machine, percentile
from erp_sync_tests.bench.memory import high_water_mb
from erp_sync_tests.bench.stages import shop_engine, stage_on_mariadb
from erp_sync_tests.mariadb import MariaDB

BULK = """\
bulk = \"\"\"
UPDATE products p JOIN erp_sync_stock s ON p.sku = s.sku COLLATE utf8mb4_unicode_ci AND HEX(p.sku) = HEX(s.sku)
   SET p.stock = s.quantity
\"\"\"
"""
SEEDED_TOGETHER = 10_000
QUIET_SECONDS = 5.0


@dataclass(frozen=True)
class Followed:
    skus: int
    form: str
    changed: int
    seconds: float
    compare_seconds: float
    """Reading the ERP and comparing: the rest is writing."""
    erp_requests: int
    erp_share: float
    """Of all the time, how much the ERP's own answers took."""
    shop_statements: int
    written_per_second: float
    peak_mb: float
    """The process's high-water mark, imports and connections included."""
    checkout_p99_ms: float
    checkout_longest_ms: float
    quiet_p99_ms: float
    """Of checkouts without a sync."""
    quiet_longest_ms: float
    machine: str


@dataclass
class _Buyers:
    """Checkouts one after the other: an UPDATE of one product and its COMMIT."""

    engine: sa.Engine
    skus: int
    waits: list[float]
    over: threading.Event

    def buy(self) -> None:
        dice = random.Random(1)
        with self.engine.connect() as connection:
            while not self.over.is_set():
                began = time.perf_counter()
                row = products.c.id == dice.randint(1, self.skus)
                connection.execute(products.update().where(row, products.c.stock > 0).values(stock=products.c.stock))
                connection.commit()
                self.waits.append((time.perf_counter() - began) * 1000)
                time.sleep(0.002)


@contextmanager
def _buying(engine: sa.Engine, skus: int) -> Iterator[list[float]]:
    buyers = _Buyers(engine, skus, [], threading.Event())
    thread = threading.Thread(target=buyers.buy, daemon=True)
    thread.start()
    try:
        yield buyers.waits
    finally:
        buyers.over.set()
        thread.join(60)


def follow(skus: int, *, form: str, latency_ms: float, shares: tuple[float, ...] = (1.0, 0.01)) -> Iterator[Followed]:
    """Raises AssertionError where the shop does not show the ERP's figures in the end."""
    with stage_on_mariadb(latency_ms=0, erp={"max_parallel": 4}, stock={"max_change_share": 1.0}) as (on, mariadb):
        os.environ["ERP_SYNC_SHOP_PROFILE"] = str(_profile(on.folder, form))
        engine = shop_engine(on)
        _fill(on, engine, skus)
        on.erp.switch(latency_ms=latency_ms)
        with _buying(engine, skus) as quiet:
            time.sleep(QUIET_SECONDS)
        for share in shares:
            changed = max(1, int(skus * share))
            _change(on, skus, changed)
            before = _statements(mariadb), _requests(on)
            with _buying(engine, skus) as busy:
                told = _in_a_process()
            statements, requests = _statements(mariadb) - before[0] - len(busy) * 2, _requests(on) - before[1]
            assert told["written"] == told["different"] == changed, told
            yield Followed(
                skus=skus,
                form=form,
                changed=changed,
                seconds=round(told["seconds"], 2),
                compare_seconds=round(told["compare_seconds"], 2),
                erp_requests=requests,
                erp_share=round(requests * latency_ms / 1000 / told["seconds"], 2),
                shop_statements=statements,
                written_per_second=round(changed / max(told["seconds"] - told["compare_seconds"], 0.001), 1),
                peak_mb=told["peak_mb"],
                checkout_p99_ms=round(percentile(busy, 0.99), 1),
                checkout_longest_ms=round(max(busy), 1),
                quiet_p99_ms=round(percentile(quiet, 0.99), 1),
                quiet_longest_ms=round(max(quiet), 1),
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
        rows = [{"sku": _sku(number), "name": _sku(number), "price": 10, "stock": 50} for number in numbers]
        with engine.begin() as connection:
            connection.execute(products.insert(), rows)
        on.erp.admin("POST", "/stock", [{"code": _sku(number), "QATU": 50} for number in numbers])


def _sku(number: int) -> str:
    return f"SKU-{number:08d}"


def _change(on: Stage, skus: int, changed: int) -> None:
    """Other figures than before, whatever they were, for so many products spread over the catalogue."""
    step = skus // changed
    quantity = random.Random(changed).randint(60, 1000)
    numbers = list(range(0, skus, step))[:changed]
    for start in range(0, len(numbers), SEEDED_TOGETHER):
        part = numbers[start : start + SEEDED_TOGETHER]
        on.erp.admin("POST", "/stock", [{"code": _sku(number), "QATU": quantity} for number in part])


def _in_a_process() -> dict[str, Any]:
    """One pass in a process of its own, for its memory's sake. Raises EOFError if it fails."""
    os.environ["MALLOC_ARENA_MAX"] = "2"  # as the image has it
    fresh = multiprocessing.get_context("spawn")
    ours, theirs = fresh.Pipe(duplex=False)
    process = fresh.Process(target=_pass, args=(theirs,))
    process.start()
    theirs.close()
    told: dict[str, Any] = ours.recv()
    process.join()
    return told


def _pass(tell: Connection) -> None:
    connections = open_connections(load_settings())
    flow = connections.stock_flow()
    connections.erp.probe()
    compared_at = began = time.perf_counter()

    def progress(result: Any) -> None:
        nonlocal compared_at
        if not result.written:
            compared_at = time.perf_counter()

    result = flow.run(budget=3600, progress=progress)
    seconds = time.perf_counter() - began
    assert result.failure is None, result.failure
    tell.send(
        {
            "seconds": seconds,
            "compare_seconds": compared_at - began,
            "written": result.written,
            "different": result.different,
            "peak_mb": high_water_mb(),
        }
    )
    connections.close()


def _statements(mariadb: MariaDB) -> int:
    engine = sa.create_engine(mariadb.url("mysql"))
    with engine.connect() as connection:
        asked = int(connection.execute(sa.text("SHOW GLOBAL STATUS LIKE 'Questions'")).one()[1])
    engine.dispose()
    return asked


def _requests(on: Stage) -> int:
    return int(sum(on.erp.admin("GET", "/state")["requests"].values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skus", type=int, nargs="+", default=[20_000, 100_000, 1_000_000])
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--form", nargs="+", choices=["row", "bulk"], default=["row", "bulk"])
    given = parser.parse_args()
    for skus in given.skus:
        # A million at once is a person's initial load; what runs every few minutes is one in a hundred.
        shares = (1.0, 0.01) if skus <= 100_000 else (0.01,)
        for form in given.form:
            for followed in follow(skus, form=form, latency_ms=given.latency_ms, shares=shares):
                print(json.dumps(asdict(followed)), flush=True)


if __name__ == "__main__":
    main()
