"""`erp-sync doctor`: what is open, whether anybody watches, and the exit codes that a health check goes by."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from erp_sync.doctor import examination as doctors
from erp_sync.doctor.examination import Area
from erp_sync.doctor.installation import Installation
from erp_sync.doctor.watch import examine
from erp_sync.errors import ShopUnavailable
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.ledger.outlet import Outlet
from erp_sync.models import ALARMS_ALIVE, Finding, Level, Severity, Sighting
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


def test_a_ledger_that_is_not_there_is_not_made(run: CommandLine, tmp_path: Path) -> None:
    missing = tmp_path / "new.sqlite"
    done = run("doctor", ERP_SYNC_LEDGER_URL=f"sqlite:///{missing}")
    assert f"there is no file {missing}" in done.out and "run erp-sync migrate" in done.out
    done = run("doctor", "--alive", ERP_SYNC_LEDGER_URL=f"sqlite:///{missing}")
    assert done.code == 2 and "run erp-sync migrate" in done.line and not missing.exists()
    missing.touch()
    assert "has no tables yet" in run("doctor", ERP_SYNC_LEDGER_URL=f"sqlite:///{missing}").out
    assert missing.stat().st_size == 0


def test_open_incidents_with_age_and_next_step(run: CommandLine, ledger: Ledger, url: str) -> None:
    early = open_ledger(url, clock=lambda: ledger.now() - timedelta(minutes=90))
    early.report(refused())
    early.close()
    ledger.set_mark(ALARMS_ALIVE)
    done = run("doctor")
    assert done.code == 2, "the shop and the ERP are not set"
    assert "error    Pedidos recusados: erp/orders, 3 pedidos, 1 h 30 min; A410NVALID of ***; LJ-1" in done.out
    assert "-> equipe da loja: Corrija o dado" in done.out
    assert "ana@example.com" not in done.out
    told = run("doctor", "--json", ERP_SYNC_SLACK_TOKEN="xoxb-s3cr3t-c4n4ry").json()
    (incident,) = told["incidents"]
    assert told["slack"] == {"configured": True, "failures": 0, "next_try_at": None}
    assert (incident["count"], incident["seconds"] // 60, incident["severity"]) == (3, 90, "error")
    assert [line["level"] for line in told["areas"]["incidents"]] == ["ok", "error"]
    assert told["errors"] == sum(line["level"] == "error" for lines in told["areas"].values() for line in lines)
    ledger.report(refused(severity=Severity.WARNING))
    assert "warning  Pedidos recusados" in run("doctor").out
    ledger.resolve(incident["cause"])
    assert "incidents: none is open" in run("doctor").out


def test_slack_that_was_not_reached_is_said(run: CommandLine, ledger: Ledger) -> None:
    ledger.take_outlet("one", timedelta(seconds=30))
    ledger.give_outlet_back("one", Outlet(START, 4))
    assert "not reached 4 times in a row, next try 12:00:00 UTC; nothing is lost" in run("doctor").out


def test_alarms_that_never_began_are_an_error_only_where_dagster_is_set(
    run: CommandLine, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert "warning  alarms: SILENT: they never gave a sign" in run("doctor").out
    assert "error    alarms: SILENT: they never gave a sign" in run("doctor", DAGSTER_HOME=str(tmp_path)).out


# How areas are looked at --------------------------------------------------------------------------------------------

NOBODY = Installation(Settings(), None)


def test_what_hangs_or_breaks_hides_nothing_and_has_its_time() -> None:
    over = threading.Event()

    def hangs(_: Installation) -> Iterator[Finding]:
        yield Finding("ok", "first", "this much was seen")
        over.wait(20)

    def breaks(_: Installation) -> Iterator[Finding]:
        yield Finding("ok", "first", "this much was seen")
        raise KeyError("ana@example.com")

    def is_away(_: Installation) -> Iterator[Finding]:
        yield from ()
        raise ShopUnavailable("the shop is away")

    def good(_: Installation) -> Iterator[Finding]:
        yield Finding("ok", "all", "is well")

    seen: list[Sequence[str]] = []
    areas: dict[str, Area] = {"hangs": hangs, "breaks": breaks, "is away": is_away, "good": good}
    started = time.monotonic()
    lines = doctors.examine(NOBODY, areas, seconds=0.3, progress=seen.append)
    assert time.monotonic() - started < 10
    over.set()
    assert [line.level for line in lines["hangs"]] == ["ok", "error"]
    assert "within 0 s" in lines["hangs"][1].message
    assert [line.level for line in lines["breaks"]] == ["ok", "error"]
    assert "KeyError" in lines["breaks"][1].message and "ana@" not in lines["breaks"][1].message
    assert [line.message for line in lines["is away"]] == ["the shop is away"]
    assert [line.level for line in lines["good"]] == ["ok"]
    assert (seen[0], seen[-1]) == (tuple(areas), ("hangs",))


def test_areas_are_looked_at_side_by_side() -> None:
    meeting = threading.Barrier(3)

    def waits(_: Installation) -> Iterator[Finding]:
        meeting.wait(5)
        yield Finding("ok", "met", "all three")

    lines = doctors.examine(NOBODY, {"a": waits, "b": waits, "c": waits})
    assert [line.level for each in lines.values() for line in each] == ["ok"] * 3


@pytest.mark.parametrize(
    ("levels", "code"),
    [({"settings": "error", "shop": "error"}, 2), ({"settings": "ok", "shop": "error"}, 1), ({"shop": "warning"}, 0)],
)
def test_the_exit_code(levels: dict[str, Level], code: int) -> None:
    assert doctors.worst({area: [Finding(level, "x", "x")] for area, level in levels.items()}) == code


def test_the_health_check_loads_nothing_of_the_doctor(url: str) -> None:
    code = (
        "import sys; from erp_sync import cli; sys.argv = ['erp-sync', 'doctor', '--alive']\n"
        "try: cli.main()\n"
        "except SystemExit: print([name for name in sys.modules"
        " if name.split('.')[0] in ('dagster', 'requests', 'boto3') or name.startswith('erp_sync.doctor.')])"
    )
    environment = {**os.environ, "ERP_SYNC_LEDGER_URL": url}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['erp_sync.doctor.watch']"
