"""Real flows and real runs, with everything logged: whose orders they were is in no line."""

from __future__ import annotations

import io
import json
import logging
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest
import sqlalchemy as sa

from erp_sync.definitions import build_definitions
from erp_sync.defs.resources import ErpSync
from erp_sync.demo import environment, stage
from erp_sync.errors import Misconfigured
from erp_sync.ledger.ledger import Ledger
from erp_sync.logs import FIELDS, configure_logs
from erp_sync.sandbox.config import Fault
from erp_sync.sandbox.erp_users import ErpUsers
from erp_sync.sandbox.shop import BAD_KINDS, ODD_KINDS
from erp_sync.sandbox.shop_schema import customers, orders
from erp_sync.settings import load_settings
from erp_sync.sync.connections import open_connections
from erp_sync.sync.results import OrdersResult
from erp_sync_tests.live import CONFIG, Place, dagster_home, numbers_in, place, today, until

FAULTS = tuple(
    Fault(kind=kind, endpoint="create_order", probability=0.08)
    for kind in ("commit_then_drop", "commit_then_500", "error_in_200", "html_502", "success_not_written")
)
BASE = {"ts", "level", "event", "logger", "message", "exception", "stack", "env", "_aws"}


def personal(engine: sa.Engine) -> set[str]:
    """Tax ids, e-mails, phones and streets of every customer of the shop, as they are stored and bare."""
    words: set[str] = set()
    with engine.connect() as connection:
        for table in (customers, orders):
            for row in connection.execute(sa.select(table)).mappings():
                for name, value in row.items():
                    if value and re.search(r"cpf|cnpj|tax|email|phone|street|zip", name):
                        words |= {str(value), re.sub(r"\W", "", str(value))}
    return {word for word in words if len(word) >= 8}


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    configure_logs("json", stream=stream, level=logging.DEBUG)
    logging.getLogger("urllib3").setLevel(logging.DEBUG)
    yield stream
    logging.getLogger("urllib3").setLevel(logging.NOTSET)


def test_no_line_of_real_flows_names_a_customer_or_a_secret(said: io.StringIO) -> None:
    with (
        stage(latency_ms=0, config=CONFIG, faults=FAULTS, stocked=True) as on,
        environment(on.environment),
    ):
        good = on.shop.checkout_many(15) + [on.shop.place_odd_order(kind) for kind in ODD_KINDS]
        for kind in BAD_KINDS:
            on.shop.place_bad_order(kind)
        connections = open_connections(load_settings())
        flow = connections.orders_flow()
        until("all orders are settled", lambda: _settled(flow.run(sweep=True, linger=0.5), connections.ledger), 40)
        users = ErpUsers(on.erp, random.Random(1))
        for _ in range(40):
            users.step()
        on.shop.cancel(good[0])
        connections.statuses_flow().run()
        connections.statuses_flow().run()
        connections.stock_flow().run()
        wrong = open_connections(load_settings(erp_password="not-this-password"))
        assert isinstance(wrong.stock_flow().run().failure, Misconfigured)
        secrets = {on.environment["ERP_SYNC_ERP_PASSWORD"], "not-this-password", "Bearer ", "eyJ"}
        hidden = personal(connections.shop.engine) | secrets
        sent = numbers_in(on)
        wrong.close()
        connections.close()
    lines = [json.loads(line) for line in said.getvalue().splitlines()]
    assert len(hidden) > 100
    assert len(sent) > 20
    events = {line["event"] for line in lines}
    assert {"order.found", "order.sent", "order.refused", "order.invalid", "status.status", "erp.call"} <= events
    assert {"pass.ended", "erp.login", "status.told"} <= events
    assert set(sent) <= {line["order_number"] for line in lines if line["event"] in ("order.sent", "order.in_doubt")}
    # A number is no secret, even where it looks like a phone.
    numbers = {str(line.get(name)) for line in lines for name in ("order_number", "erp_number")}
    text = said.getvalue()
    assert [word for word in hidden - numbers if word in text] == []
    metrics = {
        one["Name"] for line in lines if "_aws" in line for one in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]
    }
    assert {name for line in lines for name in line} <= BASE | FIELDS | metrics


def _settled(_: OrdersResult, ledger: Ledger) -> bool:
    return ledger.next_wake() is None and not ledger.actionable(1)


class _Defective:
    """Connections with a defect, in a message as no one should write it."""

    def connections(self) -> Any:
        raise ValueError("CPF 529.982.247-25 de ana@example.com, Rua das Flores, 12, (11) 98888-7777")


def _events(instance: dg.DagsterInstance) -> str:
    """The event log of all runs, as it is stored."""
    return "\n".join(repr(entry) for run in instance.get_runs() for entry in instance.all_logs(run.run_id))


HIDDEN = ("529.982.247-25", "ana@example.com", "das Flores", "98888")


def test_what_dagster_keeps_of_a_failed_run_and_prints_of_it_is_redacted(
    said: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    with place() as on:
        defs = build_definitions(erp_sync=cast(ErpSync, _Defective()))
        broken = Place(on.on, on.erp_sync, defs, on.instance)
        result = broken.materialize(today())
        assert not result.success
        kept = _events(on.instance)
    printed = capfd.readouterr()
    lines = [json.loads(line) for line in said.getvalue().splitlines()]
    [failed] = [line for line in lines if line["event"] == "dagster.step_failure"]
    assert failed["level"] == "ERROR"
    assert failed["run_id"] == result.run_id
    assert failed["step"] == "erp__orders"
    assert "a defect, report it: ValueError: CPF ************25 de ***" in failed["exception"]
    assert "test_log_scan.py" in kept
    for place_of_it in (kept, said.getvalue(), printed.out, printed.err):
        assert [word for word in HIDDEN if word in place_of_it] == []
    assert "STEP_FAILURE" not in printed.err


def test_a_run_in_a_process_of_its_own_says_all_in_json_on_stdout() -> None:
    with stage(latency_ms=0, config=CONFIG) as on:
        on.shop.checkout_many(2)
        home = dagster_home(on.folder)
        variables = {**os.environ, **on.environment, "DAGSTER_HOME": str(home), "ERP_SYNC_ERP_PASSWORD": "not-this-one"}
        what = ["asset", "materialize", "-m", "erp_sync.definitions", "--select", "erp/orders"]
        done = subprocess.run(
            [str(Path(sys.executable).parent / "dagster"), *what, "--partition", today().isoformat()],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    events = [line["event"] for line in lines]
    for event in (
        "dagster.pipeline_start",
        "order.found",
        "erp.login",
        "dagster.step_failure",
        "dagster.pipeline_failure",
    ):
        assert event in events
    assert len({line["run_id"] for line in lines}) == 1
    [failed] = [line for line in lines if line["event"] == "dagster.step_failure"]
    assert "the ERP refuses the login" in failed["exception"]
    assert "RUN_START" not in done.stderr
    assert "not-this-one" not in done.stdout + done.stderr
