"""From the ledger to Slack, over HTTP: threads, edits, lists, outages, two drains at once, a death at each step."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest

from erp_sync.errors import LedgerUnavailable, Misconfigured
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.ledger.outlet import Outlets
from erp_sync.models import Severity, Sighting
from erp_sync.settings import Settings
from erp_sync.slack import Slack
from erp_sync.sync import announcing
from erp_sync.sync.announcing import LEASE, MANY, Announcer, AnnounceResult
from erp_sync.sync.connections import open_connections
from erp_sync_tests.ledger_entries import START, Hand
from erp_sync_tests.mariadb import MariaDB
from erp_sync_tests.slack_double import CHANNEL_NAME, TOKEN, Posted, SlackDouble

SAO_PAULO = ZoneInfo("America/Sao_Paulo")
QUIET = {"digest_hour": 23}
"""No digest before 23:00; START is 09:00 in São Paulo."""


class Killed(BaseException):
    """What a process that dies does not catch."""


class Stage:
    """A ledger, a channel, and a clock that stands still but for the pauses between messages."""

    def __init__(self, url: str, double: SlackDouble, **values: Any) -> None:
        self.url = url
        self.hand = Hand()
        self.double = double
        self.double.clock = self.seconds
        self.settings = Settings.model_validate({"language": "en", "alerts": QUIET} | values)
        self.ledgers: list[Ledger] = []
        self.ledger = self.another_ledger()
        self.announcer = self.another()

    def seconds(self) -> float:
        return (self.hand.at - START).total_seconds()

    def another_ledger(self) -> Ledger:
        self.ledgers.append(open_ledger(self.url, clock=self.hand))
        return self.ledgers[-1]

    def another(self, *, wait: Callable[[float], None] | None = None, token: str = TOKEN) -> Announcer:
        """As another process would have it."""
        slack = Slack(token, CHANNEL_NAME, self.double.url, timeout=1)
        return Announcer(self.another_ledger(), slack, self.settings, zone=SAO_PAULO, wait=wait or self.hand.turn)

    def report(self, cause: str = "cause", count: int = 1, kind: str = "check/no_order_refused", **values: Any) -> None:
        severity = values.pop("severity", Severity.ERROR)
        self.ledger.report(Sighting(cause, kind, severity, subject=cause, count=count, **values))

    def run(self, times: int = 1, every: float = 0.0) -> AnnounceResult:
        result = AnnounceResult()
        for _ in range(times):
            result = self.announcer.run()
            self.hand.turn(every)
        return result

    def until_quiet(self) -> int:
        """Runs, as every few seconds, until nothing is left to tell. Returns how many runs told something."""
        for runs in range(500):
            result = self.announcer.run()
            if result == AnnounceResult():
                return runs
            self.hand.turn(5)
        raise AssertionError("it never comes to rest")

    def close(self) -> None:
        for ledger in self.ledgers:
            ledger.close()


@pytest.fixture
def double() -> Iterator[SlackDouble]:
    with SlackDouble() as double:
        yield double


@pytest.fixture
def ledger_url(empty_ledger: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_ledger, tmp_path)}"


@pytest.fixture
def on(ledger_url: str, double: SlackDouble) -> Iterator[Stage]:
    stage = Stage(ledger_url, double)
    yield stage
    stage.close()


def the(messages: list[Posted]) -> Posted:
    (one,) = messages
    return one


def test_one_thread_for_one_cause_from_its_first_sight_to_its_end(on: Stage) -> None:
    on.report(count=3, detail="C5_CONDPAG", oldest_at=START - timedelta(minutes=30))
    assert on.run() == AnnounceResult(posted=1)
    first = the(on.double.messages)
    assert first.header == "🔴 Orders are refused: cause"
    assert "*Now:* 3 orders\n*Oldest:* 30 min ago" in first.body
    on.report(count=9)
    on.hand.turn(300)
    on.report(count=5)
    on.run()
    assert "*Now:* 5 orders" in first.body
    on.hand.turn(300)
    on.ledger.resolve("cause")
    assert on.run() == AnnounceResult(replied=1, edited=1)
    assert first.header == "✅ Orders are refused: cause"
    assert the(on.double.replies(first)).body == "✅ Over after 10 min; at its peak, 9 orders."
    on.hand.turn(300)
    assert on.run() == AnnounceResult()
    on.report(count=1)
    assert on.run() == AnnounceResult(posted=1)
    assert [message.header for message in on.double.threads] == [
        "✅ Orders are refused: cause",
        "🔴 Orders are refused (occurrence 2): cause",
    ]
    assert len(on.double.messages) == 3


def test_a_counter_is_edited_at_most_once_a_minute(on: Stage) -> None:
    for count in range(1, 301):
        on.report(count=count)
        on.run()
        on.hand.turn(1)
    first = the(on.double.messages)
    assert first.edits == 4
    assert all(later - earlier >= 60 for earlier, later in pairwise(first.at))
    on.run(3, every=60)
    assert first.edits == 5, "nothing new is nothing to edit"
    assert "*Now:* 300 orders" in first.body


def test_the_ledger_is_left_alone_while_there_is_nothing_to_tell(on: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    on.report()
    on.run()
    monkeypatch.setattr(Outlets, "take_outlet", lambda *_: pytest.fail("written"))
    assert on.run() == AnnounceResult()


def test_what_was_over_before_it_was_told_is_told_once(on: Stage) -> None:
    on.report(count=4)
    on.hand.turn(120)
    on.ledger.resolve("cause")
    on.until_quiet()
    message = the(on.double.messages)
    assert message.header == "✅ Orders are refused: cause"
    assert "Over after 2 min; at its peak, 4 orders" in message.body


def test_an_end_whose_edit_fails_is_replied_once(on: Stage) -> None:
    on.report()
    on.run()
    on.ledger.resolve("cause")
    on.double.faults = ["ok", "503", "503"]
    on.run(4, every=30)
    first = the(on.double.threads)
    assert len(on.double.replies(first)) == 1
    assert first.header == "✅ Orders are refused: cause"
    assert on.ledger.tellings() == []


def test_what_came_back_untold_goes_on_in_its_thread(on: Stage) -> None:
    on.report()
    on.run()
    on.ledger.resolve("cause")
    on.report()
    on.hand.turn(60)
    on.until_quiet()
    first = the(on.double.messages)
    assert first.header == "🔴 Orders are refused (occurrence 2): cause"
    on.ledger.resolve("cause")
    on.until_quiet()
    assert [message.body for message in on.double.replies(first)] == ["✅ Over after 1 min; at its peak, 1 order."]


def test_both_languages(ledger_url: str, double: SlackDouble) -> None:
    on = Stage(ledger_url, double, language="pt-BR")
    on.report(count=2)
    on.run()
    on.ledger.resolve("cause")
    on.run()
    assert [message.header for message in double.threads] == ["✅ Pedidos recusados: cause"]
    assert the(double.replies(double.messages[0])).body == "✅ Resolvido depois de menos de 1 min; no pico, 2 pedidos."
    on.close()


def test_no_personal_data_of_a_foreign_text_gets_out(on: Stage) -> None:
    on.report(
        "run",
        detail="CPF 529.982.247-25, ana@example.com, Bearer abcdefgh12345678",
        sample=("52998224725",),
        kind="run_failed",
    )
    on.run()
    told = the(on.double.messages)
    for personal in ("529.982.247-25", "52998224725", "ana@example.com", "abcdefgh12345678"):
        assert personal not in told.body + told.text
    assert "***" in told.body


def test_at_most_one_message_a_second(on: Stage) -> None:
    for number in range(MANY):
        on.report(f"cause{number}")
    on.until_quiet()
    times = sorted(at for message in on.double.messages for at in message.at)
    assert len(on.double.threads) == MANY
    assert all(later - earlier >= 1 for earlier, later in pairwise(times))


def test_a_pass_ends_when_its_time_is_up_and_the_next_goes_on(on: Stage) -> None:
    for number in range(MANY):
        on.report(f"cause{number}")
    assert on.announcer.run(timedelta(seconds=5)).posted == 5
    assert on.until_quiet() > 0
    assert len(on.double.threads) == MANY


def test_many_at_once_are_one_list_and_end_in_its_thread(on: Stage) -> None:
    for number in range(MANY + 5):
        on.report(f"cause{number}")
    on.ledger.resolve("cause3")
    on.until_quiet()
    listed = the(on.double.messages)
    assert listed.header == f"📋 {MANY + 5} new alerts at once ({MANY + 4} still open)"
    assert "✅ Orders are refused: cause3" in listed.body
    on.hand.turn(60)
    on.report("cause0", count=7)
    assert on.until_quiet() == 0, "a list is not edited for each counter"
    for number in range(3):
        on.ledger.resolve(f"cause{number}")
    on.until_quiet()
    reply = the(on.double.replies(listed))
    assert reply.header == "✅ 3 alerts are over"
    assert listed.header == f"📋 {MANY + 5} new alerts at once ({MANY + 1} still open)"
    on.ledger.resolve("cause4")
    on.until_quiet()
    assert len(on.double.replies(listed)) == 1, "at most once a minute"
    on.hand.turn(60)
    on.until_quiet()
    assert len(on.double.replies(listed)) == 2
    on.report("cause4")
    on.until_quiet()
    assert on.double.threads[-1].header == "🔴 Orders are refused (occurrence 2): cause4"


def test_many_that_end_at_once_are_told_in_one_message_and_each_is_edited(on: Stage) -> None:
    for half in range(2):
        for number in range(15):
            on.report(f"cause{half}{number}")
        on.until_quiet()
    assert len(on.double.threads) == 30
    on.hand.turn(60)
    for half in range(2):
        for number in range(15):
            on.ledger.resolve(f"cause{half}{number}")
    on.until_quiet()
    assert len(on.double.messages) == 31
    assert on.double.messages[-1].header == "✅ 30 alerts are over"
    assert all(message.header.startswith("✅") for message in on.double.messages)
    assert on.ledger.tellings() == []


def test_a_digest_once_a_day_of_what_is_still_open(ledger_url: str, double: SlackDouble) -> None:
    on = Stage(ledger_url, double, alerts={"digest_hour": 10})
    on.report("old")
    on.until_quiet()
    on.hand.turn(3600)  # 10:00 in São Paulo
    on.report("new")
    for _ in range(30):
        on.another().run()
        on.hand.turn(60)
    digests = [message for message in double.threads if message.header.startswith("📋")]
    assert the(digests).header == "📋 Still open: 1"
    assert "old" in digests[0].body and "new" not in digests[0].body
    on.hand.turn(86_400)
    on.run(3, every=60)
    digests = [message for message in double.threads if message.header.startswith("📋")]
    assert [message.header for message in digests] == ["📋 Still open: 1", "📋 Still open: 2"]
    for cause in ("old", "new"):
        on.ledger.resolve(cause)
    on.hand.turn(86_400)
    on.until_quiet()
    assert len([message for message in double.threads if message.header.startswith("📋")]) == 2
    on.close()


def test_without_slack_nothing_is_told_and_everything_is_visible(on: Stage) -> None:
    on.report()
    assert Announcer(on.ledger, None, on.settings).run() == AnnounceResult()
    assert len(on.ledger.open_incidents()) == 1
    assert on.double.calls == []


@pytest.mark.parametrize("fault", ["500", "502", "503", "reset", "hang", "429", "internal_error"])
def test_trouble_with_slack_is_one_line_and_a_pause(on: Stage, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    on.report()
    on.double.faults = [fault]
    result = on.run()
    assert result.posted == 0 and result.failure
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    pause = 7 if fault == "429" else 5
    assert line.startswith("alerts wait in the ledger: Slack") and line.endswith(f"tried again in {pause} s")
    assert on.run() == AnnounceResult(), "nobody asks before the pause is over"
    on.hand.turn(pause - 0.1)
    assert on.run() == AnnounceResult()
    on.hand.turn(0.2)
    assert on.run() == AnnounceResult(posted=1)
    assert len(on.double.messages) == 1


def test_an_answer_that_is_lost_means_at_least_once(on: Stage) -> None:
    on.report()
    on.double.faults = ["lost"]
    on.run(2, every=6)
    assert len(on.double.messages) == 2


def test_a_wrong_token_is_one_clear_line_that_does_not_show_it(on: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    on.report()
    on.another(token="xoxb-c4n4ry-wrong").run()
    assert "invalid_auth: correct ERP_SYNC_SLACK_TOKEN" in caplog.text
    assert "c4n4ry" not in caplog.text
    on.hand.turn(6)
    assert on.run() == AnnounceResult(posted=1)


def test_what_slack_refuses_is_told_as_plain_text_and_stops_no_other(on: Stage) -> None:
    for cause in ("a", "b", "c"):
        on.report(cause)
    on.double.faults = ["invalid_blocks", "ok", "a_code_of_tomorrow", "a_code_of_tomorrow"]
    on.run()
    assert [message.blocks == [] for message in on.double.messages] == [True, False]
    assert "a" in on.double.messages[0].text
    assert len(on.ledger.tellings()) == 3
    assert on.run() == AnnounceResult()
    on.hand.turn(6)
    assert on.run() == AnnounceResult(posted=1)


def test_a_message_at_which_slack_stumbles_holds_up_no_other(on: Stage) -> None:
    on.report("old")
    on.run()
    for cause in ("bad0", "bad1", "good"):
        on.report(cause)
    on.ledger.resolve("old")
    on.double.chokes_on = "bad"
    on.run(8, every=10)
    assert [message.header for message in on.double.threads] == [
        "✅ Orders are refused: old",
        "🔴 Orders are refused: good",
    ]
    assert len(on.double.replies(on.double.messages[0])) == 1
    on.double.chokes_on = ""
    on.hand.turn(300)
    on.until_quiet()
    assert len(on.double.threads) == 4


def test_a_message_that_was_deleted_in_the_channel_ends_as_a_new_one(on: Stage) -> None:
    on.report()
    on.run()
    on.double.messages.clear()
    on.report(count=5)
    on.hand.turn(60)
    on.run()
    on.report(count=6)
    on.hand.turn(60)
    assert on.run() == AnnounceResult()
    assert on.double.calls == ["chat.postMessage", "chat.update"], "nobody tries for ever"
    on.ledger.resolve("cause")
    on.until_quiet()
    assert the(on.double.messages).header == "✅ Orders are refused: cause"
    on.report()
    on.run()
    on.double.messages.clear()
    on.ledger.resolve("cause")
    on.until_quiet()
    assert the(on.double.messages).header == "✅ Orders are refused (occurrence 2): cause"


def test_a_day_without_slack_loses_nothing_and_ends_in_a_few_messages(on: Stage) -> None:
    on.report("before")
    on.run()
    on.double.fault = "503"
    asked = len(on.double.calls)
    for number in range(1000):
        on.report(f"cause{number:03}")
    for _ in range(24):
        on.run()
        on.hand.turn(3600)
    assert on.double.calls[asked:] == ["chat.postMessage"] * 24
    on.run(60, every=5)
    assert len(on.double.calls) - asked - 24 <= 2, "it backs off to five minutes"
    for number in range(400):
        on.ledger.resolve(f"cause{number:03}")
    on.double.fault = ""
    on.hand.turn(300)
    on.until_quiet()
    assert len(on.double.messages) - 1 <= 20
    assert on.double.threads[1].header == "📋 1,000 new alerts at once (600 still open)"
    for number in range(400, 1000):
        on.ledger.resolve(f"cause{number:03}")
    on.ledger.resolve("before")
    on.hand.turn(60)
    on.until_quiet()
    assert len(on.double.messages) - 1 <= 20
    assert on.ledger.tellings() == []


def test_two_drains_at_once_post_each_message_once(mariadb: MariaDB, double: SlackDouble) -> None:
    url = mariadb.create_database()
    migrate(url)
    on = Stage(url, double)
    for number in range(12):
        on.report(f"cause{number}")
    announcers = [on.another(wait=lambda _: None) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            list(pool.map(Announcer.run, announcers))
    assert len(double.messages) == 12
    on.close()


def test_while_one_tells_another_does_not(on: Stage) -> None:
    on.report("a")
    other = on.another()
    meanwhile: list[AnnounceResult] = []

    def run_another() -> None:
        on.double.on_call = lambda: None
        meanwhile.append(other.run())

    on.double.on_call = run_another
    assert on.run() == AnnounceResult(posted=1)
    assert meanwhile == [AnnounceResult()]


def test_who_slept_through_its_lease_posts_nothing_more(on: Stage) -> None:
    for cause in ("a", "b", "c"):
        on.report(cause)
    other = on.another()
    slept: list[AnnounceResult] = []

    def sleep(seconds: float) -> None:
        on.hand.turn(seconds)
        if not slept:
            on.hand.turn(LEASE.total_seconds())
            slept.append(other.run())

    result = on.another(wait=sleep).run(timedelta(hours=1))
    assert (result.posted, slept[0].posted) == (1, 2)
    assert len(on.double.messages) == 3


def test_who_slept_during_a_call_writes_nothing_over(on: Stage) -> None:
    on.report("a")
    other = on.another()
    slept: list[AnnounceResult] = []

    def sleep() -> None:
        on.double.on_call = lambda: None
        on.hand.turn(LEASE.total_seconds() + 1)
        slept.append(other.run())

    on.double.on_call = sleep
    on.run()
    assert slept == [AnnounceResult(posted=1)]
    assert len(on.double.messages) == 2, "at least once"
    address = on.ledger.tellings()[0].told.ts
    assert address == on.double.messages[0].ts, "the one whose lease held is remembered"


STEPS = ("take_outlet", "keep_outlet", "tell", "give_outlet_back", "set_mark", "listed_in", "post", "edit")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_death_at_any_step_forgets_nothing_and_repeats_at_most_one_message(
    ledger_url: str, double: SlackDouble, monkeypatch: pytest.MonkeyPatch, step: str, nth: int, after: bool
) -> None:
    monkeypatch.setattr(announcing, "MANY", 2)
    on = Stage(ledger_url, double, alerts={"digest_hour": 10})
    dies = on.another()
    calls = 0

    def story(run: Callable[[], object]) -> None:
        """What happens, with a drain after each event."""
        on.report("own")
        run()
        on.hand.turn(3600)
        on.report("own", count=5)
        run()
        for number in range(3):
            on.report(f"listed{number}")
        run()
        on.hand.turn(60)
        for cause in ("own", "listed0", "listed1"):
            on.ledger.resolve(cause)
        run()
        on.report("own")
        run()

    target: Any = cast(Any, dies)._slack if step in ("post", "edit") else cast(Any, dies)._ledger
    original = getattr(target, step)

    def dying(*arguments: Any, **how: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != nth:
            return original(*arguments, **how)
        if after:
            original(*arguments, **how)
        raise Killed

    setattr(target, step, dying)
    killed = 0

    def run() -> None:
        nonlocal killed
        try:
            dies.run()
        except Killed:
            killed += 1
            on.hand.turn(LEASE.total_seconds() + 1)
            on.until_quiet()

    story(run)
    on.hand.turn(120)
    on.until_quiet()
    assert killed == 1 or (killed == 0 and nth > 1 and calls < nth)
    for words in (
        "🔴 Orders are refused: own.",
        "Still open: 1",
        "3 new alerts at once",
        "✅ Over after 1 h",
        "2 alerts are over",
        "🔴 Orders are refused (occurrence 2): own.",
    ):
        assert any(message.said.startswith(words) for message in double.messages), words
    assert len(double.messages) <= 6 + killed
    assert {(one.told.opening, one.told.ending) for one in on.ledger.tellings()} <= {(1, 0), (2, 0)}
    assert all(one.told.opening == one.incident.openings for one in on.ledger.tellings())
    on.close()


def test_a_ledger_that_is_away_is_said_and_nothing_else_is_raised(on: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    on.report()

    def away(*_: Any) -> None:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(cast(Any, on.announcer)._ledger, "tell", away)
    with pytest.raises(LedgerUnavailable):
        on.run()


def test_a_clock_that_jumped_back_silences_nobody(on: Stage) -> None:
    on.report()
    on.double.faults = ["503"]
    on.run()
    on.hand.turn(-7 * 86_400)
    assert on.run() == AnnounceResult(posted=1)


def test_the_announcer_of_the_settings(ledger_url: str, tmp_path: Path, double: SlackDouble) -> None:
    values = {
        "shop_url": f"sqlite:///{tmp_path / 'shop.sqlite'}",
        "ledger_url": ledger_url,
        "erp_url": "https://erp.example.com/rest",
        "erp_user": "u",
        "erp_password": "p",
        "erp_tenant": "01,0101",
        "orders": {"start_day": date(2026, 5, 1)},
        "slack_token": TOKEN,
    }
    for slack, posted in (
        ({"slack_token": None}, 0),
        ({"slack_channel": CHANNEL_NAME, "slack_base_url": double.url}, 1),
    ):
        connections = open_connections(Settings.model_validate(values | slack))
        connections.ledger.report(Sighting("cause", "run_failed", Severity.ERROR))
        assert connections.announcer().run().posted == posted
        connections.close()
    connections = open_connections(Settings.model_validate(values))
    with pytest.raises(Misconfigured, match="ERP_SYNC_SLACK_CHANNEL is not set"):
        connections.announcer()
    connections.close()


def test_the_first_message_leaves_at_once(mariadb: MariaDB, double: SlackDouble) -> None:
    url = mariadb.create_database()
    migrate(url)
    ledger = open_ledger(url)
    announcer = Announcer(ledger, Slack(TOKEN, CHANNEL_NAME, double.url), Settings.model_validate({"alerts": QUIET}))
    arrived = threading.Event()
    double.on_call = arrived.set
    started = time.monotonic()
    ledger.report(Sighting("cause", "run_failed", Severity.ERROR))
    announcer.run()
    assert arrived.is_set()
    took = time.monotonic() - started
    print(f"report to first message: {took * 1000:.0f} ms")
    assert took < 5
    ledger.close()
