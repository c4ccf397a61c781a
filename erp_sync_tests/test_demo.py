"""The demo: headless it tells right from wrong, and with Dagster's UI it begins and ends cleanly."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import requests
import sqlalchemy as sa

from erp_sync import cli, demo
from erp_sync.demo import Report, environment, verify
from erp_sync.errors import Misconfigured
from erp_sync.ledger.entry import Entry
from erp_sync.models import LedgerState
from erp_sync.sandbox.shop import PlacedOrder
from erp_sync.settings import load_settings
from erp_sync.sync.connections import Connections
from erp_sync.sync.results import StatusesResult
from erp_sync.sync.statuses import StatusesFlow

COMMAND = str(Path(sys.executable).parent / "erp-sync")


# --- the verdict --------------------------------------------------------------------------------

GOOD = [PlacedOrder(number, f"LJ-{number}", Decimal("119.90") * number, number) for number in (1, 2, 3)]
BAD = [PlacedOrder(8, "LJ-8", Decimal("10.00"), 1), PlacedOrder(9, "LJ-2", Decimal("20.00"), 1)]
"""The second one has the number of a good one."""


def _line(order: PlacedOrder, **changed: Any) -> dict[str, Any]:
    return {"kind": "order", "external_id": order.number, "total": str(order.total), **changed}


def _entry(order: PlacedOrder, state: LedgerState, **changed: Any) -> Entry:
    entry = Entry(
        order_id=str(order.order_id),
        number=order.number,
        external_id=order.number,
        day=date(2026, 11, 20),
        state=state,
        version=3,
        found_at=datetime(2026, 11, 20, 12, tzinfo=UTC),
        next_at=None,
    )
    return replace(entry, **changed)


RIGHT = [{"kind": "customer", "external_id": "LJ-1"}, *map(_line, GOOD)]
ENTRIES = [
    *(_entry(order, LedgerState.SENT) for order in GOOD),
    _entry(BAD[0], LedgerState.REFUSED),
    _entry(BAD[1], LedgerState.INVALID),
]


def _verdict(journal: list[dict[str, Any]], entries: list[Entry] | None = None) -> Report:
    known = {entry.order_id: entry for entry in (ENTRIES if entries is None else entries)}
    ledger = SimpleNamespace(entries=lambda wanted: {one: known[one] for one in wanted if one in known})
    return verify(journal, GOOD, BAD, cast(Connections, SimpleNamespace(ledger=ledger)))


def test_a_right_journal_is_ok() -> None:
    report = _verdict(RIGHT)
    assert (report.orders, report.exact, report.bad, report.bad_refused, report.unsettled) == (3, 3, 2, 2, 0)
    assert report.as_json()["ok"] is True


WRONG: list[tuple[str, list[dict[str, Any]], list[str]]] = [
    ("lost", [_line(GOOD[0]), _line(GOOD[2])], ["LJ-2"]),
    ("lost", [], ["LJ-1", "LJ-2", "LJ-3"]),
    ("lost", [*map(_line, GOOD[:2]), _line(GOOD[2], external_id="LJ-33")], ["LJ-3"]),
    ("twice", [*map(_line, GOOD), _line(GOOD[1])], ["LJ-2"]),
    ("twice", [*map(_line, GOOD), _line(GOOD[1], total="0.01")], ["LJ-2"]),
    ("wrong_total", [*map(_line, GOOD[:2]), _line(GOOD[2], total="359.71")], ["LJ-3"]),
    ("bad_sent", [*map(_line, GOOD), _line(BAD[0])], ["LJ-8"]),
]


@pytest.mark.parametrize(("what", "journal", "numbers"), WRONG)
def test_a_wrong_journal_is_not_ok_and_names_the_orders(
    what: str, journal: list[dict[str, Any]], numbers: list[str]
) -> None:
    verdict = _verdict(journal).as_json()
    assert verdict["ok"] is False
    found = {name: verdict[name] for name in ("lost", "twice", "wrong_total", "bad_sent") if verdict[name]}
    assert found == {what: numbers}


def test_one_lost_and_one_twice_do_not_make_up_for_each_other() -> None:
    report = _verdict([_line(GOOD[0]), _line(GOOD[0]), _line(GOOD[2])])
    assert (report.twice, report.lost, report.exact) == (["LJ-1"], ["LJ-2"], 1)
    assert not report.exact_all


def test_a_bad_order_that_nobody_refused_is_not_ok() -> None:
    waiting = [entry for entry in ENTRIES if entry.order_id != "8"]
    for entries in (waiting, [*waiting, _entry(BAD[0], LedgerState.SENT)]):
        report = _verdict(RIGHT, entries)
        assert (report.bad_refused, report.as_json()["ok"]) == (1, False)


def test_an_order_that_the_ledger_has_not_settled_is_not_ok() -> None:
    """It is in the ERP, and yet another process might still act on it."""
    now = datetime(2026, 11, 20, 12, tzinfo=UTC)
    open_ = _entry(GOOD[0], LedgerState.IN_DOUBT, next_at=now)
    report = _verdict(RIGHT, [open_, *ENTRIES[1:]])
    assert (report.exact, report.unsettled, report.as_json()["ok"]) == (3, 1, False)


# --- headless -----------------------------------------------------------------------------------


def _once(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("ERP_SYNC_")}
    return subprocess.run(
        [COMMAND, "demo", "--once", *arguments],
        env={**variables, "TMPDIR": str(folder)},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_sixty_orders_with_odd_bad_ones_and_faults(tmp_path: Path) -> None:
    done = _once("--orders", "60", "--json", folder=tmp_path)
    assert done.returncode == 0, done
    verdict = json.loads(done.stdout)
    assert verdict["ok"] is True
    assert verdict["orders"] + verdict["bad"] == 60
    assert verdict["exact"] == verdict["orders"]
    assert verdict["bad"] == verdict["bad_refused"] > 0
    assert verdict["requests"]["create_order"] > verdict["exact"], "the faults made some creates fail"
    assert (verdict["cancelled"], verdict["strayed"]) == (3, [])
    assert (verdict["stocks"], verdict["wrong_stocks"]) == (200, [])
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_shop_that_was_not_told_and_a_stock_that_did_not_follow_are_not_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real run, and only the shop's rows are falsified in the end."""
    follow = demo.follow_stock

    def falsified(on: demo.Stage, connections: Any, *, seed: int) -> tuple[int, list[str]]:
        follow(on, connections, seed=seed)
        engine = sa.create_engine(on.environment["ERP_SYNC_SHOP_URL"])
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE products SET stock = stock + 1 WHERE id = 7")
        engine.dispose()
        return demo.compared_stocks(on, connections)

    monkeypatch.setattr(demo, "follow_stock", falsified)
    monkeypatch.setattr(StatusesFlow, "tell", lambda *_arguments, **_options: StatusesResult())
    report = demo.run_once(20, faults=False, seed=3, show=False)
    assert report.exact == 20
    assert (len(report.wrong_stocks), report.exact_all) == (1, False)
    assert report.strayed


def test_the_table_says_it_in_words(tmp_path: Path) -> None:
    done = _once("--orders", "5", "--no-faults", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "every order is in the ERP exactly once" in done.stdout
    assert re.search(r"lost / twice / wrong total\W+0 / 0 / 0", done.stdout)


def test_a_wrong_report_is_exit_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = _verdict([_line(GOOD[0]), _line(GOOD[0]), _line(GOOD[1])])
    monkeypatch.setattr(demo, "run_once", lambda *_arguments, **_options: wrong)
    for flags in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["erp-sync", "demo", "--once", *flags])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 1
        said = capsys.readouterr().out
        if flags:
            assert json.loads(said)["ok"] is False
        else:
            assert "twice: LJ-1" in said
            assert "lost: LJ-3" in said
            assert "every order is in the ERP exactly once" not in said


def test_a_journal_that_lacks_an_order_makes_the_whole_demo_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real run, and only the ERP's journal is falsified: the verdict comes from nowhere else."""
    from erp_sync.sandbox.background import SandboxErp

    whole = SandboxErp.journal

    def without_one(erp: SandboxErp, after: int = 0) -> list[dict[str, Any]]:
        lines = whole(erp, after)
        lines.remove(next(line for line in lines if line["kind"] == "order"))
        return lines

    monkeypatch.setattr(SandboxErp, "journal", without_one)
    report = demo.run_once(5, faults=False, seed=3, show=False)
    assert (len(report.lost), report.exact, report.exact_all) == (1, 4, False)


@pytest.mark.parametrize("orders", ["0", "-5", "many"])
def test_a_number_of_orders_that_is_none_is_bad_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], orders: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["erp-sync", "demo", "--once", "--orders", orders])
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr()
    assert (left.value.code, said.out) == (2, "")
    assert "--orders" in said.err


def test_the_environment_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERP_SYNC_ERP_USER", "before")
    monkeypatch.delenv("ERP_SYNC_ERP_TENANT", raising=False)
    with suppress(KeyError), environment({"ERP_SYNC_ERP_USER": "inside", "ERP_SYNC_ERP_TENANT": "01,0101"}):
        assert load_settings().erp_user == "inside"
        raise KeyError
    assert os.environ["ERP_SYNC_ERP_USER"] == "before"
    assert "ERP_SYNC_ERP_TENANT" not in os.environ


# --- with Dagster's UI --------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _processes_of(folder: Path) -> list[str]:
    """Command lines of all processes that were given this folder, or one in it, for their temporary files."""
    mark = f"TMPDIR={folder}".encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                alive = b"\nState:\tZ" not in (process / "status").read_bytes()
                given = (process / "environ").read_bytes().split(b"\0")
                if alive and any(value == mark or value.startswith(mark + b"/") for value in given):
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


class LiveDemo:
    """`erp-sync demo` as somebody at a terminal starts it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.said: list[str] = []
        variables = {name: value for name, value in os.environ.items() if not name.startswith("ERP_SYNC_")}
        self.process = subprocess.Popen(
            [COMMAND, "demo", "--port", str(self.port)],
            env={**variables, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, pattern: str, seconds: float) -> re.Match[str]:
        """The next line that matches."""
        output = self.process.stdout
        assert output is not None
        give_up = threading.Timer(seconds, self.process.kill)
        give_up.start()
        try:
            for line in output:
                self.said.append(line)
                if match := re.search(pattern, line):
                    return match
        finally:
            give_up.cancel()
        raise AssertionError(f"not within {seconds:.0f} s: {pattern}\n{''.join(self.said)}")

    def end(self, how: signal.Signals) -> float:
        """Seconds until it has gone."""
        started = time.monotonic()
        self.process.send_signal(how)
        with suppress(subprocess.TimeoutExpired):
            rest, _ = self.process.communicate(timeout=60)
            self.said.append(rest)
        return time.monotonic() - started


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveDemo]:
    running = LiveDemo(tmp_path)
    yield running
    if running.process.poll() is None:
        running.end(signal.SIGINT)
        running.process.kill()
    running.process.wait()


def test_the_demo_runs_in_dagster_and_an_interrupt_leaves_nothing(live: LiveDemo) -> None:
    assert int(live.wait_for(r"Dagster's UI: http://127\.0\.0\.1:(\d+)/assets/erp/orders", 120)[1]) == live.port
    assert requests.get(f"http://127.0.0.1:{live.port}/server_info", timeout=20).json()["dagster_version"]
    ledger = live.wait_for(r"ERP_SYNC_LEDGER_URL=(\S+) erp-sync orders$", 10)[1]
    live.wait_for(r"ledger: .*\bsent \d+", 90)
    looked = subprocess.run(
        [COMMAND, "orders", "--state", "sent", "--json"],
        env={"PATH": os.environ["PATH"], "ERP_SYNC_LEDGER_URL": ledger},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert json.loads(looked.stdout)[0]["erp_number"], "the command that it prints works as it stands"
    assert len(_processes_of(live.folder)) >= 4, "demo, sandbox, web server, daemon"
    assert live.end(signal.SIGINT) < 20
    assert live.process.returncode == 0
    assert "Traceback" not in "".join(live.said)
    assert _processes_of(live.folder) == []
    assert list(live.folder.iterdir()) == []


def test_an_end_while_it_is_still_setting_up_leaves_nothing(live: LiveDemo) -> None:
    live.wait_for("setting the stage", 60)
    give_up = time.monotonic() + 60
    while len(_processes_of(live.folder)) < 4 and time.monotonic() < give_up:
        time.sleep(0.1)
    assert live.end(signal.SIGTERM) < 20
    assert live.process.returncode == 130
    assert "Traceback" not in "".join(live.said)
    assert _processes_of(live.folder) == []
    assert list(live.folder.iterdir()) == []


def test_a_port_that_is_taken_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Dagster on it would answer in the demo's place."""
    monkeypatch.setattr(demo, "stage", lambda **_options: pytest.fail("it started"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Misconfigured, match=rf"^--port {port} cannot be used \(Address already in use\)"):
            demo.run_until_interrupted(faults=False, seed=1, port=port)
