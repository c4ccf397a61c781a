"""The client of Slack's Web API against a server on a socket: every way in which it may not work."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator

import pytest

from erp_sync.errors import Misconfigured
from erp_sync.slack import Slack, SlackError
from erp_sync_tests.slack_double import CHANNEL, CHANNEL_NAME, TOKEN, SlackDouble

BLOCKS = [{"type": "section", "text": {"type": "mrkdwn", "text": "ação"}}]


@pytest.fixture
def double() -> Iterator[SlackDouble]:
    with SlackDouble() as double:
        yield double


@pytest.fixture
def slack(double: SlackDouble) -> Slack:
    return Slack(TOKEN, CHANNEL_NAME, double.url, timeout=1)


def refusal(slack: Slack) -> SlackError:
    """What a new message meets; no token in it."""
    with pytest.raises(SlackError) as caught:
        slack.post("text", BLOCKS)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "c4n4ry" not in shown
    assert "\n" not in str(caught.value)
    return caught.value


def test_messages_replies_and_edits(double: SlackDouble, slack: Slack) -> None:
    address = slack.post("first", BLOCKS)
    assert address == (CHANNEL, "1700000000.000100"), "an edit takes the channel's id, not the name"
    slack.post("reply", BLOCKS, address)
    slack.edit(address, "changed", BLOCKS)
    (first, reply) = double.messages
    assert (first.text, first.blocks, first.edits) == ("changed", BLOCKS, 1)
    assert (reply.text, reply.thread) == ("reply", first.ts)


def test_the_double_objects_to_a_message_that_names_a_person() -> None:
    with pytest.raises(AssertionError, match="tax id"), SlackDouble() as double:
        Slack(TOKEN, CHANNEL_NAME, double.url).post("the customer 529.982.247-25 is blocked", BLOCKS)


@pytest.mark.parametrize("fault", ["500", "502", "503", "reset", "hang", "lost", "internal_error", "404"])
def test_what_fails_fails_once_and_concerns_all(double: SlackDouble, slack: Slack, fault: str) -> None:
    double.faults = [fault]
    started = time.monotonic()
    error = refusal(slack)
    assert time.monotonic() - started < 5
    assert error.whole and error.retry_after is None
    assert double.calls == ["chat.postMessage"], "nothing is posted twice behind our back"
    slack.post("text", BLOCKS)


def test_refused_connections(double: SlackDouble) -> None:
    with SlackDouble() as gone:
        slack = Slack(TOKEN, CHANNEL, gone.url, timeout=1)
    error = refusal(slack)
    assert error.whole and "ConnectionRefusedError" in str(error)


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("later", None), ("-1", None)])
def test_a_rate_limit_says_how_long(double: SlackDouble, slack: Slack, header: str, seconds: float | None) -> None:
    double.faults, double.retry_after = ["429"], header
    error = refusal(slack)
    assert error.whole and error.retry_after == seconds


def test_a_wrong_token_is_named_and_not_shown(double: SlackDouble) -> None:
    error = refusal(Slack("xoxb-c4n4ry-wrong", CHANNEL, double.url))
    assert error.whole
    assert "invalid_auth: correct ERP_SYNC_SLACK_TOKEN" in str(error)


def test_a_wrong_channel_is_named(double: SlackDouble) -> None:
    error = refusal(Slack(TOKEN, "#nowhere", double.url))
    assert error.whole
    assert "channel_not_found: correct ERP_SYNC_SLACK_CHANNEL" in str(error)


@pytest.mark.parametrize("code", ["msg_blocks_too_long", "a_code_of_tomorrow"])
def test_what_is_wrong_with_one_message_stops_no_other(double: SlackDouble, slack: Slack, code: str) -> None:
    double.faults = [code]
    assert not refusal(slack).whole


def test_an_old_message_that_is_gone_stops_no_other(double: SlackDouble, slack: Slack) -> None:
    for fault in ("message_not_found", "channel_not_found", "is_archived"):
        double.faults = [fault]
        with pytest.raises(SlackError) as caught:
            slack.edit((CHANNEL, "1.2"), "text", BLOCKS)
        assert not caught.value.whole
    for fault in ("invalid_auth", "429", "500", "reset"):
        double.faults = [fault]
        with pytest.raises(SlackError) as caught:
            slack.edit((CHANNEL, "1.2"), "text", BLOCKS)
        assert caught.value.whole


def test_no_token_and_no_message_in_any_line(
    double: SlackDouble, slack: Slack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("erp_sync").setLevel(logging.DEBUG)
    slack.post("a canary of c4n4ry", BLOCKS)
    double.faults = ["502", "hang", "invalid_auth"]
    for _ in range(3):
        refusal(slack)
    assert "c4n4ry" not in caplog.text
    assert "c4n4ry" not in repr(slack) + repr(vars(slack))


@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy"])
def test_plain_http_passes_no_proxy(double: SlackDouble, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for each in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    with pytest.raises(Misconfigured, match="plain http, and the token would leave this machine"):
        Slack(TOKEN, CHANNEL, double.url)
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    Slack(TOKEN, CHANNEL, double.url, timeout=1).post("text", BLOCKS)
    assert len(double.messages) == 1


def test_an_answer_that_is_none_is_no_success(
    double: SlackDouble, slack: Slack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(double, "_do", lambda *_: {"ok": True})
    assert refusal(slack).whole
    monkeypatch.setattr(double, "_do", lambda *_: ["ok"])
    assert refusal(slack).whole
