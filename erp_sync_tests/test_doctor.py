"""`erp-sync doctor`: what is open, whether anybody watches, and the exit codes that a health check goes by."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from erp_sync.doctor.watch import examine
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.ledger.outlet import Outlet
from erp_sync.models import ALARMS_ALIVE, Severity, Sighting
from erp_sync.settings import Settings
from erp_sync_tests.ledger_entries import START, Hand
from erp_sync_tests.test_cli import CommandLine


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    for name in [name for name in os.environ if name.startswith("ERP_SYNC_")]:
        monkeypatch.delenv(name)
    logger = logging.getLogger("erp_sync")
    level = logger.level
    yield CommandLine(monkeypatch, capsys)
    logger.setLevel(level)


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: CommandLine) -> str:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    migrate(url)
    monkeypatch.setenv("ERP_SYNC_LEDGER_URL", url)
    return url


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    ledger = open_ledger(url)
    yield ledger
    ledger.close()


def refused(number: int = 3, severity: Severity = Severity.ERROR) -> Sighting:
    return Sighting(
        "check/erp/orders/no_order_refused",
        "check/no_order_refused",
        severity,
        subject="erp/orders",
        detail="A410NVALID of ana@example.com",
        count=number,
        sample=("LJ-1",),
    )


def test_alive_is_exit_0_and_one_line(run: CommandLine, ledger: Ledger) -> None:
    ledger.report(refused())
    ledger.set_mark(ALARMS_ALIVE)
    done = run("doctor", "--alive")
    assert done.code == 0
    assert done.out.startswith("alarms   alive, ") and done.out.count("\n") == 1
    assert run("doctor", "--alive", "--json").json()["alive"] is True


def test_silence_is_exit_1_and_says_since_when(run: CommandLine, ledger: Ledger, url: str) -> None:
    done = run("doctor", "--alive")
    assert (done.code, done.out.count("\n")) == (1, 1)
    assert "SILENT: they never gave a sign" in done.out
    old = open_ledger(url, clock=Hand())
    old.set_mark(ALARMS_ALIVE)
    old.close()
    done = run("doctor", "--alive")
    assert (done.code, done.out.count("\n")) == (1, 1)
    assert "SILENT since 2026-11-23 12:00:00 UTC" in done.out
    assert run("doctor", "--alive", "--json").json() == {"alive": False, "watched_at": "2026-11-23T12:00:00+00:00"}


@pytest.mark.parametrize(("seconds", "alive"), [(0, True), (119, True), (121, False), (-30, True), (-90, False)])
def test_how_old_a_sign_may_be(ledger: Ledger, url: str, seconds: float, alive: bool) -> None:
    hand = Hand()
    clocked = open_ledger(url, clock=hand)
    clocked.set_mark(ALARMS_ALIVE)
    hand.turn(seconds)
    assert examine(clocked, Settings()).alive is alive
    assert examine(clocked, Settings.model_validate({"alerts": {"alive_seconds": 600}})).alive is (seconds > -60)
    clocked.close()


def test_a_ledger_that_is_away_is_exit_1_and_one_line(run: CommandLine) -> None:
    away = "mysql+pymysql://u:s3cr3t-c4n4ry@127.0.0.1:1/x"
    done = run("doctor", "--alive", ERP_SYNC_LEDGER_URL=away)
    assert done.code == 1
    assert "is not available" in done.line


def test_looking_changes_nothing(run: CommandLine, tmp_path: Path) -> None:
    done = run("doctor", ERP_SYNC_LEDGER_URL=f"sqlite:///{tmp_path / 'new.sqlite'}")
    assert done.code == 2
    assert "run erp-sync migrate" in done.line


def test_open_incidents_with_age_and_next_step(run: CommandLine, ledger: Ledger, url: str) -> None:
    early = open_ledger(url, clock=lambda: ledger.now() - timedelta(minutes=90))
    early.report(refused())
    early.close()
    ledger.set_mark(ALARMS_ALIVE)
    done = run("doctor")
    assert done.code == 1
    assert "error    Pedidos recusados (erp/orders, 3 pedidos, 1 h 30 min)" in done.out
    assert "-> equipe da loja: Corrija o dado" in done.out
    assert "LJ-1" in done.out
    assert "ana@example.com" not in done.out
    assert "ERP_SYNC_SLACK_TOKEN is not set" in done.out
    told = run("doctor", "--json", ERP_SYNC_SLACK_TOKEN="xoxb-s3cr3t-c4n4ry").json()
    (incident,) = told["incidents"]
    assert told["slack"] == {"configured": True, "failures": 0, "next_try_at": None}
    assert (incident["count"], incident["seconds"] // 60, incident["severity"]) == (3, 90, "error")
    ledger.report(refused(severity=Severity.WARNING))
    assert run("doctor").code == 0, "a warning is no failure"
    ledger.resolve(incident["cause"])
    assert "no open incident" in run("doctor").out


def test_slack_that_is_not_reached_is_said(run: CommandLine, ledger: Ledger) -> None:
    environment = {"ERP_SYNC_SLACK_TOKEN": "xoxb-s3cr3t-c4n4ry", "ERP_SYNC_SLACK_CHANNEL": "C1"}
    assert "configured, channel C1" in run("doctor", **environment).out
    ledger.take_outlet("one", timedelta(seconds=30))
    ledger.give_outlet_back("one", Outlet(START, 4))
    assert "not reached 4 times in a row, next try 12:00:00 UTC; nothing is lost" in run("doctor", **environment).out
    assert "ERP_SYNC_SLACK_CHANNEL is not set" in run("doctor", ERP_SYNC_SLACK_TOKEN="xoxb-s3cr3t-c4n4ry").out
