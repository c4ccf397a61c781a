"""A stage on a MariaDB of its own, and a shop full of orders for it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from erp_sync.demo import Stage, stage
from erp_sync.sandbox import shop_schema
from erp_sync.sandbox.background import SandboxErp
from erp_sync.sandbox.config import Fault
from erp_sync.sandbox.shop_history import add_history
from erp_sync_tests.mariadb import MariaDB

DAYS = 7
"""How long ago the shop went live on every stage."""


@contextmanager
def stage_on_mariadb(
    *,
    latency_ms: float,
    erp: Mapping[str, float],
    orders: Mapping[str, float] | None = None,
    statuses: Mapping[str, float] | None = None,
    stock: Mapping[str, float] | None = None,
    more: Mapping[str, Mapping[str, object]] | None = None,
    faults: tuple[Fault, ...] = (),
    seed: int = 1,
    options: Sequence[str] = (),
) -> Iterator[tuple[Stage, MariaDB]]:
    """Shop and ledger on one MariaDB; this process and its children join by the environment. `erp`, `orders`,
    `statuses`, `stock` and the sections in `more` are settings, `options` the server's."""
    sections: dict[str, Mapping[str, object]] = {
        "erp": erp,
        "orders": {"start_day": _start_day(), **(orders or {})},
        "statuses": statuses or {},
        "stock": stock or {},
        **(more or {}),
    }
    config = "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
        for name, values in sections.items()
    )
    with MariaDB(options=options) as mariadb:
        urls = {"shop_url": mariadb.create_database(), "ledger_url": mariadb.create_database()}
        with stage(
            latency_ms=latency_ms,
            config=config,
            faults=faults,
            seed=seed,
            shop_url=urls["shop_url"],
            ledger_url=urls["ledger_url"],
        ) as on:
            before = dict(os.environ)
            os.environ.update(on.environment)
            try:
                yield on, mariadb
            finally:
                os.environ.clear()
                os.environ.update(before)


def _start_day() -> str:
    return (datetime.now(UTC) - timedelta(days=DAYS)).date().isoformat()


def shop_engine(on: Stage) -> sa.Engine:
    return sa.create_engine(on.environment["ERP_SYNC_SHOP_URL"])


def fill_shop(on: Stage, orders: int, *, customers: int, known: int) -> None:
    """So many paid orders of the last hour, spread evenly over the customers; the ERP knows the first `known`."""
    on.shop.add_customers(customers)
    engine = shop_engine(on)
    now = on.shop.now()
    add_history(engine, orders, since=now - timedelta(hours=1), until=now, status="paid")
    register(on.erp, engine, known)
    engine.dispose()


def register(erp: SandboxErp, engine: sa.Engine, count: int) -> None:
    """The shop's first customers become customers of the ERP."""
    people = shop_schema.customers
    with engine.connect() as connection:
        rows = connection.execute(sa.select(people.c.name, people.c.cpf_cnpj).order_by(people.c.id).limit(count)).all()
    fields = [
        {
            "A1_CGC": (digits := re.sub(r"[^0-9A-Z]", "", row.cpf_cnpj)),
            "A1_PESSOA": "F" if len(digits) == 11 else "J",
            "A1_NOME": row.name[:40],
            "A1_NREDUZ": row.name[:20],
            "A1_TIPO": "F",
            "A1_END": "RUA DO CADASTRO, 1",
            "A1_EST": "SP",
            "A1_MUN": "SAO PAULO",
        }
        for row in rows
    ]
    for start in range(0, len(fields), 500):
        erp.admin("POST", "/customers", fields[start : start + 500])


def server_pid(mariadb: MariaDB) -> int:
    return int((mariadb.folder / "pid").read_text())
