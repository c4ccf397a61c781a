"""The `erp-sync` command: exit codes, what goes to stdout and stderr, and one clear line for what is wrong."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import requests
import sqlalchemy as sa

import erp_sync.shop
from erp_sync import cli
from erp_sync.demo import Stage, stage
from erp_sync.errors import Misconfigured, ShopUnavailable
from erp_sync.ledger.ledger import open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.models import LedgerState
from erp_sync.sandbox.config import Fault
from erp_sync_tests.ledger_entries import Hand, due, found, step
from erp_sync_tests.mariadb import MariaDB

CONFIG = f"""\
[erp]
settle_seconds = 1
connect_timeout = 2
read_timeout = 3
write_timeout = 1
[orders]
start_day = {(datetime.now(UTC) - timedelta(days=7)).date()}
"""
COMMAND = str(Path(sys.executable).parent / "erp-sync")
CANARY = "s3cr3t-c4n4ry"


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        """stdout holds one JSON text and nothing else."""
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """The one line on stderr that is no log."""
        [line] = [line for line in self.err.splitlines() if not re.match(r"20\d\d-\S+Z [A-Z]+ erp_sync\.", line)]
        return line


class CommandLine:
    """`erp-sync` within this process: `main` with these arguments, as the console script calls it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str, **environment: str) -> Outcome:
        with self._monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["erp-sync", *arguments])
            for name, value in environment.items():
                patch.setenv(name, value)
            self._capsys.readouterr()
            with pytest.raises(SystemExit) as left:
                cli.main()
        said = self._capsys.readouterr()
        assert CANARY not in said.out + said.err
        code = left.value.code
        return Outcome(code if isinstance(code, int) else 0, said.out, said.err)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    logger = logging.getLogger("erp_sync")
    level = logger.level
    yield CommandLine(monkeypatch, capsys)
    logger.setLevel(level)


@pytest.fixture(scope="module")
def shared() -> Iterator[Stage]:
    """One shop, ledger and ERP for the whole file: each test places orders of its own and speaks of those."""
    with stage(latency_ms=0, config=CONFIG, stocked=True) as on:
        yield on


@pytest.fixture
def on(shared: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    for name in list(os.environ):
        if name.startswith("ERP_SYNC_"):
            monkeypatch.delenv(name)
    for name, value in shared.environment.items():
        monkeypatch.setenv(name, value)
    return shared


def _in_the_erp(on: Stage, number: str) -> int:
    return sum(line["kind"] == "order" and line["external_id"] == number for line in on.erp.journal())


# --- run orders ---------------------------------------------------------------------------------


def test_a_pass_sends_and_counts(on: Stage, run: CommandLine) -> None:
    good = on.shop.checkout_many(3)
    bad = on.shop.place_bad_order("currency")
    outcome = run("run", "orders", "--json")
    assert outcome.code == 0, "a refused order is no failure of the pass"
    counts = outcome.json()
    assert set(counts) == {"found", "sent", "adopted", "refused", "invalid", "due", "in_doubt"}
    assert (counts["sent"], counts["invalid"], counts["due"], counts["in_doubt"]) == (3, 1, 0, 0)
    assert [_in_the_erp(on, order.number) for order in (*good, bad)] == [1, 1, 1, 0]
    again = run("run", "orders")
    assert (again.code, again.err) == (0, "")
    assert again.out == "found 0, sent 0, adopted 0, refused 0, invalid 0, due 0, in doubt 0\n"


def test_a_pass_for_numbers_sends_those_alone(on: Stage, run: CommandLine) -> None:
    first, second, other = on.shop.checkout_many(3)
    outcome = run("run", "orders", "--number", first.number, "--number", second.number, "--json")
    assert (outcome.code, outcome.json()["sent"]) == (0, 2)
    assert [_in_the_erp(on, order.number) for order in (first, second, other)] == [1, 1, 0]


def test_a_pass_for_a_day_sends_that_day_alone(on: Stage, run: CommandLine) -> None:
    order = on.shop.checkout()
    old = (datetime.now(UTC) - timedelta(days=3)).date().isoformat()
    outcome = run("run", "orders", "--day", old, "--sweep", "--json")
    assert outcome.code == 0
    assert _in_the_erp(on, order.number) == 0
    assert run("run", "orders", "--sweep", "--json").code == 0
    assert _in_the_erp(on, order.number) == 1


def test_an_unknown_number_is_one_line_and_nothing_is_sent(on: Stage, run: CommandLine) -> None:
    order = on.shop.checkout()
    for arguments in (("run", "orders", "--number"), ("retry",)):
        outcome = run(*arguments, "LJ-NOPE", "--json")
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.line == "Error: neither the shop nor the ledger has an order 'LJ-NOPE'"
    outcome = run("run", "orders", "--number", order.number, "--number", "LJ-NOPE")
    assert outcome.code == 2
    assert _in_the_erp(on, order.number) == 0


@pytest.mark.parametrize("day", ["20.11.2026", "2026-02-30", "yesterday"])
def test_a_day_that_is_none_is_bad_usage(on: Stage, run: CommandLine, day: str) -> None:
    outcome = run("run", "orders", "--day", day)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--day" in outcome.err
    assert day in outcome.err


# --- order, orders, retry -----------------------------------------------------------------------


def test_the_story_of_an_order_in_plain_words(on: Stage, run: CommandLine) -> None:
    order = on.shop.checkout()
    run("run", "orders", "--number", order.number)
    outcome = run("order", order.number)
    assert (outcome.code, outcome.err) == (0, "")
    head, *story = outcome.out.splitlines()
    assert re.fullmatch(rf"order {order.number} of \d{{4}}-\d\d-\d\d: sent, ERP order \d{{6}} in branch 0101", head)
    kinds = [re.fullmatch(r"  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC  (\w+) +\S.*", line) for line in story]
    assert [kind and kind[1] for kind in kinds] == ["found", "claimed", "intent", "sent", "verified"]


def test_a_story_whose_routine_steps_are_gone_says_so(on: Stage, run: CommandLine, tmp_path: Path) -> None:
    """Sent and cancelled more than a year ago, in a ledger of its own."""
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    migrate(url)
    then = datetime(2024, 1, 1, tzinfo=UTC)
    ledger = open_ledger(url, clock=Hand(then))
    ledger.add(found(due("1", then)))
    for kind, state in (("claimed", LedgerState.SENDING), ("cancelled", LedgerState.CANCELLED)):
        assert ledger.change([step(ledger.entries(["1"])["1"], kind, state=state, next_at=None)]) == [True]
    ledger.close()
    assert run("order", "LJ-1", "--json", ERP_SYNC_LEDGER_URL=url).json()["story_shortened"] is False
    nothing = {"erp_sync_customer_holds": 0, "erp_sync_incidents": 0, "erp_sync_inbox": 0}
    expected = {"orders": 1, "steps": 1, **nothing}
    assert run("purge", "--dry-run", "--json", ERP_SYNC_LEDGER_URL=url).json() == expected
    assert "orders 1, steps 1" in run("purge", ERP_SYNC_LEDGER_URL=url).out
    told = run("order", "LJ-1", "--json", ERP_SYNC_LEDGER_URL=url).json()
    assert told["story_shortened"] is True
    assert [line["kind"] for line in told["story"]] == ["found", "cancelled"]
    assert "[retention] event_days" in run("order", "LJ-1", ERP_SYNC_LEDGER_URL=url).out.splitlines()[-1]
    whole = on.shop.checkout()
    run("run", "orders", "--number", whole.number)
    assert run("order", whole.number, "--json").json()["story_shortened"] is False


def test_the_story_as_json(on: Stage, run: CommandLine) -> None:
    order = on.shop.checkout()
    run("run", "orders", "--number", order.number)
    story = run("order", order.number, "--json").json()
    assert (story["number"], story["state"], story["total"]) == (order.number, "sent", str(order.total))
    assert datetime.fromisoformat(story["sent_at"]).tzinfo is not None
    assert "T" in story["sent_at"], "ISO 8601, like the times of the story's lines"
    assert [line["kind"] for line in story["story"]] == ["found", "claimed", "intent", "sent", "verified"]
    assert not {"customer_key", "payload_hash", "version"} & set(story), "they mean nothing to a reader"


def test_the_story_of_a_bad_order_says_what_to_do(on: Stage, run: CommandLine) -> None:
    order = on.shop.place_bad_order("repeated_cpf")
    run("run", "orders", "--number", order.number)
    outcome = run("order", order.number)
    assert outcome.code == 0
    assert ": invalid" in outcome.out.splitlines()[0]
    assert "  ! tax_id = '" in outcome.out
    assert "111.111.111-11" not in outcome.out, "a tax id is masked even when it is none"


def test_two_shop_rows_with_one_number_are_two_stories(on: Stage, run: CommandLine) -> None:
    number = on.shop.place_bad_order("number_twice").number
    run("run", "orders", "--number", number)
    outcome = run("order", number)
    heads = [line for line in outcome.out.splitlines() if line.startswith("order ")]
    assert sorted(re.sub(r".*: (\w+).*", r"\1", head) for head in heads) == ["invalid", "sent"]
    assert sorted(story["state"] for story in run("order", number, "--json").json()) == ["invalid", "sent"]


def test_statuses_come_back_and_are_part_of_the_story(on: Stage, run: CommandLine) -> None:
    order = on.shop.checkout()
    run("run", "orders", "--number", order.number)
    entry = run("order", order.number, "--json").json()
    on.erp.admin("POST", f"/orders/{entry['erp_branch']}/{entry['erp_number']}/invoice", {})
    told = run("run", "statuses", "--number", order.number, "--json")
    assert (told.code, told.json()["asked"], told.json()["told"]) == (0, 1, 1)
    story = run("order", order.number)
    assert re.search(r"sent, ERP order \d{6} in branch 0101, invoiced there$", story.out, re.MULTILINE)
    assert re.search(
        r"status +invoiced in the ERP; invoice 000000\d{3}/1 of .* UTC in the ERP\]$", story.out, re.MULTILINE
    )
    assert re.search(r"told +the shop shows 'packing' now \(invoiced in the ERP\), with invoice", story.out)
    plain = run("order", order.number, "--json").json()
    assert (plain["status"], plain["told_status"], plain["cancellation"]) == ("invoiced", "invoiced", "")
    assert [line["kind"] for line in plain["story"]][-2:] == ["status", "told"]
    assert plain["story"] == sorted(plain["story"], key=lambda line: line["at"])
    [listed] = [line for line in run("orders", "--json").json() if line["number"] == order.number]
    assert (listed["status"], len(listed["invoices"])) == ("invoiced", 1)


def test_a_pass_over_every_order_asks_for_each_and_counts(on: Stage, run: CommandLine) -> None:
    order = on.shop.checkout()
    run("run", "orders", "--number", order.number)
    counts = run("run", "statuses", "--json").json()
    assert counts["asked"] >= 1
    assert counts.keys() == {"asked", "changed", "told", "kept", "cancelled", "too_late", "cancel_refused"}
    unknown = run("run", "statuses", "--number", "NOBODY")
    assert (unknown.code, unknown.line) == (2, "Error: neither the shop nor the ledger has an order 'NOBODY'")


def test_stock_is_compared_guarded_and_written(on: Stage, run: CommandLine) -> None:
    assert run("run", "stock", "--dry-run", "--accept").code == 2
    compared = run("run", "stock", "--dry-run", "--json")
    assert (compared.code, compared.json()["written"]) == (0, 0)
    rows = on.erp.admin("GET", "/stock?limit=10000")
    on.erp.admin("POST", "/stock", [{"code": row["code"], "QATU": row["QATU"] + 100} for row in rows])
    for options in ((), ("--dry-run",)):
        stopped = run("run", "stock", *options)
        assert stopped.code == 1
        assert "more than stock.max_change_share = 30%: nothing was written" in stopped.line
        assert "erp-sync run stock --accept" in stopped.line
    accepted = run("run", "stock", "--accept", "--json")
    counts = accepted.json()
    assert (accepted.code, counts["raised"], counts["failed"]) == (0, len(rows), 0)
    assert run("run", "stock", "--dry-run", "--json").json()["different"] == 0


def test_an_order_that_nobody_knows_is_one_line(on: Stage, run: CommandLine) -> None:
    outcome = run("order", "LJ-NOPE")
    assert (outcome.code, outcome.out) == (2, "")
    assert "the ledger knows no order 'LJ-NOPE'" in outcome.line
    assert "erp-sync run orders --number LJ-NOPE" in outcome.line


def test_orders_by_state_and_day(on: Stage, run: CommandLine) -> None:
    sent, bad = on.shop.checkout(), on.shop.place_bad_order("payment")
    run("run", "orders", "--number", sent.number, "--number", bad.number)
    everything = {line["number"]: line for line in run("orders", "--json").json()}
    day = everything[sent.number]["day"]
    assert everything[bad.number]["state"] == "invalid"
    of_state = {line["number"] for line in run("orders", "--state", "sent", "--day", day, "--json").json()}
    assert sent.number in of_state
    assert bad.number not in of_state
    assert run("orders", "--day", "2001-01-01", "--json").json() == []
    assert run("orders", "--day", "2001-01-01").out.strip() == "no such order"
    assert len(run("orders", "--limit", "1", "--json").json()) == 1
    assert run("orders", "--state", "lost").code == 2
    assert run("orders", "--limit", "0").code == 2


def test_a_table_in_a_pipe_has_one_line_for_each_order(on: Stage, run: CommandLine) -> None:
    """`erp-sync orders | grep LJ-100017` must show the problem too, however long it is."""
    bad = on.shop.place_bad_order("currency")
    run("run", "orders", "--number", bad.number)
    [line] = [line for line in run("orders").out.splitlines() if bad.number in line]
    assert "invalid" in line
    assert "the profile's shop.currencies are BRL" in line


def test_a_number_is_no_markup(run: CommandLine, on: Stage, tmp_path: Path) -> None:
    """ "[/]" closes a style in the library that prints the table, and with none open it raises."""
    number = "LJ-[/]-[bold]7"
    order = on.shop.checkout()
    with sa.create_engine(on.environment["ERP_SYNC_SHOP_URL"]).begin() as connection:
        connection.execute(
            sa.text("UPDATE orders SET number = :number WHERE id = :id"), {"number": number, "id": order.order_id}
        )
    assert run("run", "orders", "--number", number, "--json").json()["sent"] == 1
    outcome = run("orders")
    assert outcome.code == 0
    assert number in outcome.out


def test_the_ledger_alone_is_enough_to_look(on: Stage, run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    order = on.shop.checkout()
    run("run", "orders", "--number", order.number)
    for name in on.environment:
        if name != "ERP_SYNC_LEDGER_URL":
            monkeypatch.delenv(name)
    assert run("order", order.number).code == 0
    assert order.number in run("orders").out
    monkeypatch.delenv("ERP_SYNC_LEDGER_URL")
    for arguments in (("order", order.number), ("orders",)):
        outcome = run(*arguments)
        assert outcome.code == 2
        assert outcome.line.startswith("erp-sync: ERP_SYNC_LEDGER_URL is not set: ")


def test_looking_at_a_new_ledger_creates_it(on: Stage, run: CommandLine, tmp_path: Path) -> None:
    outcome = run("orders", "--json", ERP_SYNC_LEDGER_URL=f"sqlite:///{tmp_path / 'new.sqlite'}")
    assert (outcome.code, outcome.json()) == (0, [])


def test_retry_sends_what_was_corrected(on: Stage, run: CommandLine) -> None:
    order = on.shop.place_bad_order("payment")
    other = on.shop.place_bad_order("payment")
    run("run", "orders", "--number", order.number, "--number", other.number)
    outcome = run("retry", order.number, other.number, "--json")
    assert (outcome.code, outcome.json()["invalid"]) == (0, 2), "nothing was corrected yet"
    with sa.create_engine(on.environment["ERP_SYNC_SHOP_URL"]).begin() as connection:
        connection.execute(sa.text("UPDATE orders SET payment_method = 'pix' WHERE id = :id"), {"id": order.order_id})
    outcome = run("retry", order.number, other.number, "--json")
    assert (outcome.json()["sent"], outcome.json()["invalid"]) == (1, 1)
    assert [_in_the_erp(on, placed.number) for placed in (order, other)] == [1, 0]


def test_retry_never_creates_an_order_again(on: Stage, run: CommandLine) -> None:
    order = on.shop.checkout()
    run("run", "orders", "--number", order.number)
    outcome = run("retry", order.number, "--json")
    assert (outcome.code, outcome.json()["sent"]) == (0, 0)
    assert _in_the_erp(on, order.number) == 1


# --- what is wrong with the settings ------------------------------------------------------------


def _requests(on: Stage) -> dict[str, int]:
    counted: dict[str, int] = on.erp.admin("GET", "/state")["requests"]
    return counted


@pytest.fixture
def new_ledger(on: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A ledger without a history: what a refused login or an open breaker leaves behind meets no other test."""
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    monkeypatch.setenv("ERP_SYNC_LEDGER_URL", url)
    return url


def _states(ledger_url: str) -> set[LedgerState]:
    ledger = open_ledger(ledger_url)
    try:
        return {state for state, count in ledger.counts().items() if count}
    finally:
        ledger.close()


WRONG: list[tuple[str, str, str]] = [
    ("ERP_SYNC_ERP_PASSWORD", CANARY, "correct ERP_SYNC_ERP_USER or ERP_SYNC_ERP_PASSWORD"),
    ("ERP_SYNC_ERP_PASSWORD", f"{CANARY}\n", "ERP_SYNC_ERP_PASSWORD has a character that no HTTP header can hold"),
    ("ERP_SYNC_ERP_USER", "nobody", "the ERP refuses the login of nobody"),
    ("ERP_SYNC_ERP_URL", "{root}/wrong", "ERP_SYNC_ERP_URL: /api/oauth2/v1/token below it gives no token (HTTP 404)"),
    ("ERP_SYNC_ERP_URL", "http://erp.example.com/rest", "ERP_SYNC_ERP_URL: must be https"),
    ("ERP_SYNC_ERP_TENANT", "99,0101", "ERP_SYNC_ERP_TENANT = '99,0101'"),
    ("ERP_SYNC_ERP_TENANT", "01,0999", "ERP_SYNC_ERP_TENANT = '01,0999'"),
    ("ERP_SYNC_ERP_TENANT", "01, 0101", "ERP_SYNC_ERP_TENANT = '01, 0101'"),
    ("ERP_SYNC_SHOP_PROFILE", "magento", "ERP_SYNC_SHOP_PROFILE = 'magento' is no shipped profile"),
    ("ERP_SYNC_SHOP_URL", f"oracle://u:{CANARY}@h/d", "ERP_SYNC_SHOP_URL names the database 'oracle'"),
    ("ERP_SYNC_SHOP_URL", CANARY, "ERP_SYNC_SHOP_URL is no SQLAlchemy URL"),
    ("ERP_SYNC_SHOP_URL", "sqlite:////absent/shop.sqlite", "ERP_SYNC_SHOP_URL: there is no SQLite file"),
    ("ERP_SYNC_LEDGER_URL", CANARY, "ERP_SYNC_LEDGER_URL is no SQLAlchemy URL"),
    ("ERP_SYNC_LEDGER_URL", "sqlite:////absent/ledger.sqlite", "ERP_SYNC_LEDGER_URL: sqlite:////absent/ledger.sqlite"),
    ("ERP_SYNC_CONFIG", "/absent.toml", "ERP_SYNC_CONFIG = '/absent.toml' cannot be read"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_a_wrong_setting_is_one_line_and_no_order_is_touched(
    on: Stage, run: CommandLine, new_ledger: str, name: str, value: str, message: str
) -> None:
    on.shop.checkout()
    before = len(on.erp.journal())
    outcome = run("run", "orders", **{name: value.format(root=on.erp.root_url.removesuffix("/rest"))})
    assert outcome.code == 2
    assert outcome.line.startswith("erp-sync: ")
    assert message in outcome.line
    assert len(on.erp.journal()) == before
    if name != "ERP_SYNC_LEDGER_URL" and Path(new_ledger.removeprefix("sqlite:///")).exists():
        assert _states(new_ledger) == set()


UNREACHABLE = [
    ("ERP_SYNC_ERP_URL", "http://127.0.0.1:1/rest"),
    ("ERP_SYNC_SHOP_URL", f"mysql+pymysql://shop:{CANARY}@127.0.0.1:1/shop"),
    ("ERP_SYNC_LEDGER_URL", f"mysql+pymysql://ledger:{CANARY}@127.0.0.1:1/ledger"),
]


@pytest.mark.parametrize(("name", "value"), UNREACHABLE)
def test_a_system_that_does_not_answer_is_one_line_that_names_its_setting(
    on: Stage, run: CommandLine, new_ledger: str, name: str, value: str
) -> None:
    on.shop.checkout()
    before = len(on.erp.journal())
    outcome = run("run", "orders", "--json", **{name: value})
    assert outcome.code == 1
    assert outcome.line.startswith("erp-sync: ")
    assert "127.0.0.1:1" in outcome.line
    assert name in outcome.line
    assert len(on.erp.journal()) == before
    if outcome.out:
        assert sum(outcome.json().values()) == 0


def test_a_database_that_refuses_the_password_is_bad_settings(
    on: Stage, run: CommandLine, new_ledger: str, mariadb: MariaDB
) -> None:
    mariadb.execute("CREATE OR REPLACE USER 'cli'@'%' IDENTIFIED BY 'right'")
    wrong = mariadb.url("anything", user="cli", password=CANARY)
    for name, arguments in (
        ("ERP_SYNC_LEDGER_URL", ("migrate",)),
        ("ERP_SYNC_LEDGER_URL", ("orders",)),
        ("ERP_SYNC_LEDGER_URL", ("run", "orders")),
        ("ERP_SYNC_SHOP_URL", ("run", "orders")),
        ("ERP_SYNC_SHOP_URL", ("profile", "check", "laravel")),
    ):
        outcome = run(*arguments, **{name: wrong})
        assert outcome.code == 2, (arguments, outcome)
        assert name in outcome.line


def test_without_any_setting_each_command_says_what_it_needs(
    on: Stage, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in on.environment:
        monkeypatch.delenv(name)
    for arguments, name in (
        (("migrate",), "ERP_SYNC_LEDGER_URL"),
        (("run", "orders"), "orders.start_day"),
        (("retry", "LJ-1"), "orders.start_day"),
        (("profile", "check", "laravel"), "ERP_SYNC_SHOP_URL"),
    ):
        outcome = run(*arguments)
        assert outcome.code == 2
        assert outcome.line.startswith(f"erp-sync: {name} is not set: ")


def test_a_mistake_is_told_without_what_nobody_may_see_and_with_all_of_its_advice(
    on: Stage, run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in ("ana@example.com", "529.982.247-25"):
        assert number not in run("run", "orders", "--number", number).line
        assert number not in run("run", "orders", "--day", number).err
    assert run("migrate", ERP_SYNC_LEDGER_URL="x").line == (
        "erp-sync: ERP_SYNC_LEDGER_URL is no SQLAlchemy URL: write mysql+pymysql://user:password@host/database"
    )
    wrong = run("migrate", ERP_SYNC_LEDGER_URL="aws-secret:a b").line
    assert "names no secret: write aws-secret:NAME#KEY or aws-secret:ARN#KEY; #KEY is" in wrong
    arn = "arn:aws:secretsmanager:sa-east-1:123456789012:secret:erp_sync/production-AbCdEf"
    monkeypatch.setitem(sys.modules, "botocore", None)
    line = run("run", "orders", ERP_SYNC_ERP_PASSWORD=f"aws-secret:{arn}").line
    assert f"ERP_SYNC_ERP_PASSWORD: the secret {arn} in AWS Secrets Manager cannot be asked for" in line

    for kind in (ShopUnavailable, Misconfigured):
        slip = kind("it says password=hunter2hunter2, CPF 529.982.247-25")
        monkeypatch.setattr("erp_sync.sync.connections.open_connections", Mock(side_effect=slip))
        assert "it says password=***, CPF ************25" in run("run", "orders").line


def test_a_failure_in_the_middle_is_exit_1_with_the_counts(on: Stage, run: CommandLine, new_ledger: str) -> None:
    """The login works, and then every create meets a gateway without a server behind it."""
    for order in on.shop.checkout_many(3):
        assert _in_the_erp(on, order.number) == 0
    on.erp.set_faults(Fault(kind="html_502", endpoint="create_order"))
    try:
        outcome = run("run", "orders", "--json")
    finally:
        on.erp.set_faults()
    assert outcome.json()["due"] + outcome.json()["in_doubt"] >= 3, "they wait"
    assert outcome.code == 1
    assert "ERP_SYNC_ERP_URL" in outcome.line


# --- migrate ------------------------------------------------------------------------------------


def test_migrate_twice_says_the_same(on: Stage, run: CommandLine, database_url: str) -> None:
    first = run("migrate", ERP_SYNC_LEDGER_URL=database_url)
    assert (first.code, first.err) == (0, "")
    assert re.fullmatch(r"the ledger is at revision \w+\n", first.out)
    assert run("migrate", ERP_SYNC_LEDGER_URL=database_url) == first
    assert run("orders", "--json", ERP_SYNC_LEDGER_URL=database_url).json() == []


def test_migrate_refuses_the_shops_database(on: Stage, run: CommandLine) -> None:
    outcome = run("migrate", ERP_SYNC_LEDGER_URL=on.environment["ERP_SYNC_SHOP_URL"])
    assert outcome.code == 2
    assert "give erp_sync a database of its own, never the shop's" in outcome.line


def test_migrate_an_unreachable_ledger(on: Stage, run: CommandLine) -> None:
    outcome = run("migrate", ERP_SYNC_LEDGER_URL=f"mysql+pymysql://u:{CANARY}@127.0.0.1:1/ledger")
    assert outcome.code == 1
    assert outcome.line.startswith("erp-sync: ")
    assert "ERP_SYNC_LEDGER_URL" in outcome.line


# --- profile check ------------------------------------------------------------------------------

LARAVEL = Path(erp_sync.shop.__file__).with_name("profiles") / "laravel.toml"


@pytest.fixture
def sound_shop(run: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A shop without bad orders, made by the command itself in another test's way: through the demo's own tables."""
    from erp_sync.sandbox.shop import DemoShop, catalogue, create_schema

    url = f"sqlite:///{tmp_path / 'sound.sqlite'}"
    engine = sa.create_engine(url)
    create_schema(engine)
    demo = DemoShop(engine)
    demo.stock_catalogue(catalogue(20))
    demo.checkout_many(5)
    engine.dispose()
    monkeypatch.setenv("ERP_SYNC_SHOP_URL", url)
    return url


def test_a_good_profile_is_exit_0(sound_shop: str, run: CommandLine) -> None:
    outcome = run("profile", "check", "laravel")
    assert (outcome.code, outcome.err) == (0, "")
    assert "error" not in outcome.out
    levels = [finding["level"] for finding in run("profile", "check", str(LARAVEL), "--json").json()]
    assert levels
    assert "error" not in levels


def test_a_column_that_is_missing_is_not_exit_0(sound_shop: str, run: CommandLine, tmp_path: Path) -> None:
    text = LARAVEL.read_text(encoding="utf-8")
    assert text.count("o.currency ") == 1
    broken = tmp_path / "broken.toml"
    broken.write_text(text.replace("o.currency ", "o.moeda "), encoding="utf-8")
    outcome = run("profile", "check", str(broken))
    assert outcome.code == 1
    assert re.search(r"^error +\[read\] orders: .*moeda", outcome.out, re.MULTILINE)
    findings = run("profile", "check", str(broken), "--json")
    assert findings.code == 1
    assert any(finding["level"] == "error" for finding in findings.json())


def test_a_number_that_is_an_e_mail_is_not_printed(sound_shop: str, run: CommandLine, tmp_path: Path) -> None:
    text = LARAVEL.read_text(encoding="utf-8")
    assert text.count("o.number AS number") == 1
    broken = tmp_path / "broken.toml"
    broken.write_text(text.replace("o.number AS number", "'ana@example.com' AS number"), encoding="utf-8")
    for form in ((), ("--json",)):
        outcome = run("profile", "check", str(broken), *form)
        assert "number is not unique: ***" in outcome.out
        assert "ana@" not in outcome.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[shop\n", "is not valid TOML"),
        ("", "broken.toml"),
        ('[shop]\nname = "x"\ncolour = 1\n', "broken.toml"),
    ],
)
def test_a_profile_that_cannot_be_read_is_one_line(
    sound_shop: str, run: CommandLine, tmp_path: Path, text: str, message: str
) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text(text)
    outcome = run("profile", "check", str(broken))
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.line


def test_a_profile_with_a_syntax_error_stops_a_pass_before_it_begins(
    on: Stage, run: CommandLine, new_ledger: str, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[shop\n")
    before = _requests(on)
    outcome = run("run", "orders", ERP_SYNC_SHOP_PROFILE=str(broken))
    assert outcome.code == 2
    assert str(broken) in outcome.line
    assert _requests(on) == before
    outcome = run("run", "orders", ERP_SYNC_SHOP_PROFILE=str(tmp_path / "absent.toml"))
    assert outcome.code == 2
    assert "ERP_SYNC_SHOP_PROFILE" in outcome.line


# --- real processes -----------------------------------------------------------------------------


def _process(*arguments: str, **environment: str) -> Outcome:
    done = subprocess.run(
        [COMMAND, *arguments],
        check=False,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_a_real_pass_logs_to_stderr_and_answers_on_stdout(on: Stage) -> None:
    order = on.shop.checkout()
    outcome = _process("-v", "run", "orders", "--number", order.number, "--json")
    assert outcome.code == 0
    assert outcome.json()["sent"] == 1
    [create] = [line for line in outcome.err.splitlines() if "POST /ecommerce/v1/pedidos: HTTP 201 in " in line]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z DEBUG erp_sync\.", create)
    assert on.environment["ERP_SYNC_ERP_PASSWORD"] not in outcome.err
    failed = _process("run", "orders", "--json", ERP_SYNC_ERP_PASSWORD=CANARY)
    assert (failed.code, failed.out) == (2, "")
    assert "ERP_SYNC_ERP_PASSWORD" in failed.line
    assert CANARY not in failed.err


def test_ctrl_c_ends_a_pass_quietly_and_the_next_one_goes_on(on: Stage, run: CommandLine, new_ledger: str) -> None:
    run("run", "orders")
    orders = on.shop.checkout_many(12)
    on.erp.switch(latency_ms=300)
    try:
        running = subprocess.Popen(
            [COMMAND, "run", "orders"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        give_up = time.monotonic() + 40
        while not any(_in_the_erp(on, order.number) for order in orders) and time.monotonic() < give_up:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    finally:
        on.erp.switch(latency_ms=0)
    assert (running.returncode, out) == (130, "")
    assert "Traceback" not in err
    give_up = time.monotonic() + 60
    while (counts := run("run", "orders", "--json").json())["due"] + counts["in_doubt"] and time.monotonic() < give_up:
        time.sleep(0.5)
    assert {order.number: _in_the_erp(on, order.number) for order in orders} == {order.number: 1 for order in orders}


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['erp-sync', '--help']\n"
        "from erp_sync.cli import main\n"
        "try: main()\n"
        "finally: print([name for name in ('dagster', 'sqlalchemy', 'pandas', 'alembic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "command",
    [
        *("demo", "migrate", "run", "run orders", "order", "orders", "retry", "profile", "profile check", "sandbox"),
        *("profile grants", "webhook", "doctor", "forget", "purge"),
    ],
)
def test_every_command_has_help(run: CommandLine, command: str) -> None:
    for flag in ("-h", "--help"):
        outcome = run(*command.split(), flag)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.startswith(f"Usage: erp-sync {command} ") or outcome.out.startswith("Usage: ")
        assert command in outcome.out.splitlines()[0]


@pytest.mark.parametrize(
    "arguments",
    [
        *((), ("nope",), ("run",), ("order",), ("retry",), ("run", "orders", "--nope"), ("forget",)),
        *(("profile", "grants", "laravel", "--shop", ""), ("profile", "grants", "laravel", "--ledger", "x\nDROP")),
    ],
)
def test_bad_usage_is_exit_2(run: CommandLine, arguments: tuple[str, ...]) -> None:
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Usage: " in outcome.err


# --- sandbox ------------------------------------------------------------------------------------


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    url = f"sqlite:///{tmp_path / 'seeded.sqlite'}"
    started = subprocess.Popen(
        [COMMAND, "sandbox", "--port", "0", "--seed-shop", url, "--orders", "5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield started
    started.kill()
    started.communicate()


def _exported(started: subprocess.Popen[str]) -> dict[str, str]:
    """What the sandbox tells its user to paste into a shell."""
    assert started.stdout is not None
    found: dict[str, str] = {}
    for _ in range(2):
        line = started.stdout.readline()
        assert line.startswith("export "), line
        for word in line.split()[1:]:
            name, _, value = word.partition("=")
            found[name] = value
    return found


def test_a_sandbox_with_a_seeded_shop_can_be_worked_with(
    sandbox: subprocess.Popen[str], run: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = _exported(sandbox)
    assert set(environment) == {f"ERP_SYNC_ERP_{name}" for name in ("URL", "TENANT", "USER", "PASSWORD")}
    (tmp_path / "erp_sync.toml").write_text(CONFIG)
    environment |= {
        "ERP_SYNC_CONFIG": str(tmp_path / "erp_sync.toml"),
        "ERP_SYNC_SHOP_URL": f"sqlite:///{tmp_path / 'seeded.sqlite'}",
        "ERP_SYNC_LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.sqlite'}",
    }
    admin = environment["ERP_SYNC_ERP_URL"].removesuffix("/rest") + "/sandbox"
    for _ in range(50):  # the seeded shop's products reach the ERP a moment after it is ready
        if requests.get(f"{admin}/state", timeout=5).json().get("products"):
            break
        time.sleep(0.1)
    outcome = run("run", "orders", "--json", **environment)
    assert (outcome.code, outcome.json()["sent"]) == (0, 5), outcome
    sandbox.send_signal(signal.SIGINT)
    assert sandbox.wait(20) == 130
    assert sandbox.stderr is not None
    said = sandbox.stderr.read()
    assert "Traceback" not in said
    assert "5 finalized orders" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "0.0.0.0"), "loopback"),
        (("--seed-shop", CANARY), "no SQLAlchemy URL"),
        (("--seed-shop", f"mysql+pymysql://u:{CANARY}@127.0.0.1:1/shop"), "cannot be created at"),
        (
            ("--seed-shop", f"mysql+pymysql://u:{CANARY}@db.example.com/shop?ssl_ca=/nowhere"),
            "(/nowhere) cannot be read",
        ),
    ],
)
def test_a_sandbox_that_cannot_start_is_one_line(run: CommandLine, arguments: tuple[str, ...], message: str) -> None:
    outcome = run("sandbox", "--port", "0", *arguments)
    assert outcome.code == 2
    assert message in outcome.line
