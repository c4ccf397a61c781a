"""A doctor's look leaves shop, ledger, ERP and Dagster as they were, on SQLite and on a real MariaDB; and the check
that looks once a day."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._daemon.types import DaemonHeartbeat

from erp_sync.definitions import build_definitions
from erp_sync.defs.daily_doctor import look
from erp_sync.defs.names import DOCTOR_JOB, HEALTH_RECONCILIATION
from erp_sync.demo import environment
from erp_sync.models import ALARMS_ALIVE
from erp_sync.sandbox.config import Fault
from erp_sync_tests.conftest import FreshDatabase
from erp_sync_tests.live import Place, place
from erp_sync_tests.slack_double import CHANNEL, TOKEN, SlackDouble
from erp_sync_tests.test_cli import CommandLine, Outcome


def rows_of(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        names = sa.inspect(connection).get_table_names()
        found = {name: connection.execute(sa.text(f"SELECT * FROM {name}")).all() for name in names}
    engine.dispose()
    return {name: sorted(map(tuple, rows), key=repr) for name, rows in found.items()}


def rows_of_erp(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All that the ERP knows but the calls that arrived: its tables, its counters, its journal."""
    with closing(sqlite3.connect(f"{(folder / 'erp.sqlite').as_uri()}?mode=ro", uri=True)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in names if name != "arrival"}
    return {**rows, "sqlite_sequence": [row for row in rows["sqlite_sequence"] if row[0] != "arrival"]}


def everything(here: Place) -> dict[str, Any]:
    home = Path(here.instance.root_directory)
    files = sorted(str(path) for path in home.rglob("*") if not path.name.endswith(("-wal", "-shm")))
    return {
        "shop": rows_of(here.on.environment["ERP_SYNC_SHOP_URL"]),
        "ledger": rows_of(here.on.environment["ERP_SYNC_LEDGER_URL"]),
        "ERP": rows_of_erp(here.on.folder),
        "Dagster": {**rows_of(f"sqlite:///{home / 'history' / 'runs.db'}"), "files": files},
    }


@pytest.fixture
def here(fresh_database: FreshDatabase) -> Iterator[Place]:
    """At work for a while: orders sent, one invoiced, stock written, one in doubt."""
    with place(shop_url=fresh_database(), ledger_url=fresh_database(), stocked=True) as here:
        shop = here.on.shop
        shop.checkout_many(4)
        connections = here.erp_sync.connections()
        assert connections.orders_flow().run(sweep=True).failure is None
        (sent, *_) = here.on.erp.admin("GET", "/orders")
        at = f"/orders/{sent['branch']}/{sent['number']}"
        here.on.erp.admin("POST", f"{at}/release", {})
        here.on.erp.admin("POST", f"{at}/invoice", {})
        assert connections.stock_flow().run().failure is None
        here.on.erp.set_faults(Fault(kind="commit_then_drop", endpoint="create_order", times=1))
        shop.checkout()
        connections.orders_flow().run()
        connections.ledger.set_mark(ALARMS_ALIVE)
        here.erp_sync.close()
        yield here


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


def test_a_look_changes_nothing(here: Place, run: CommandLine) -> None:
    before = everything(here)
    with SlackDouble() as slack:
        with environment(
            {
                "ERP_SYNC_SLACK_TOKEN": TOKEN,
                "ERP_SYNC_SLACK_CHANNEL": CHANNEL,
                "ERP_SYNC_SLACK_BASE_URL": slack.url,
            }
        ):
            good: Outcome = run("doctor", "--json")
            here.on.erp.switch(protected_fields=["C5_NUM"], dictionary_hidden=True, error_status=500)
            bad: Outcome = run("doctor")
            here.on.erp.switch(protected_fields=[], dictionary_hidden=False, error_status=400)
        assert slack.messages == []
    after = everything(here)
    for place_, tables in before.items():
        for table, rows in tables.items():
            assert after[place_][table] == rows, (place_, table)
    assert before == after
    assert len(before["ERP"]["journal"]) >= 5 and len(before["ledger"]) > 10, "there was something to change"
    said = good.json()
    # MariaDB is asked as root here, who may do all.
    left = {
        area: [one for one in lines if one["level"] != "ok" and one["subject"] != "grants"]
        for area, lines in said["areas"].items()
    }
    assert {area: lines for area, lines in left.items() if lines} == {
        "Dagster": [one for one in left["Dagster"] if one["subject"] == "daemon"]
    }, "only Dagster's daemon does not run here"
    assert (good.code, said["alive"], said["errors"]) == (1, True, 1)
    assert bad.code == 1 and "C5_NUM" in bad.out
    said_at_all = good.out + good.err + bad.out + bad.err
    people = [value for row in before["shop"]["customers"] for value in row if isinstance(value, str) and "@" in value]
    assert len(people) > 2
    for secret in (*people, TOKEN, here.on.environment["ERP_SYNC_ERP_PASSWORD"]):
        assert secret not in said_at_all


# Once a day -----------------------------------------------------------------------------------------------------------


def checked(here: Place) -> dg.AssetCheckEvaluation:
    result = here.defs.resolve_job_def(DOCTOR_JOB).execute_in_process(instance=here.instance, raise_on_error=False)
    assert result.success
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.asset_key, evaluation.check_name) == (HEALTH_RECONCILIATION, "installation_is_sound")
    return evaluation


def test_the_daily_check_has_errors_and_warnings_and_is_green_again() -> None:
    with place(stocked=True) as here:
        here.erp_sync.connections()
        here.on.shop.checkout()
        for kind in here.instance.get_required_daemon_types():
            here.instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), kind, "one", []))
        assert checked(here).passed
        here.on.erp.switch(protected_fields=["C6_QTDENT"])
        red = checked(here)
        assert (red.passed, red.severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert "Errors: 1, warnings: 0. ERP, SC6: C6_QTDENT" in (red.description or "")
        table = red.metadata["findings"]
        assert isinstance(table, dg.TableMetadataValue)
        (row,) = table.records
        assert row.data["what_to_do"] == "give the user of ERP_SYNC_ERP_USER the right to read C6_QTDENT"
        assert (red.metadata["errors"].value, red.metadata["count"].value) == (1, 1)
        here.on.erp.switch(protected_fields=["B1_MSBLQL"])
        yellow = checked(here)
        assert (yellow.passed, yellow.severity) == (False, dg.AssetCheckSeverity.WARN)
        here.on.erp.switch(protected_fields=[])
        assert checked(here).passed


def test_the_daily_check_does_not_stand_open_because_it_stands_open() -> None:
    with place() as here:
        here.erp_sync.connections()
        assert "incidents" not in look(here.instance, build_definitions)
