"""What the doctor says of Slack, AWS and Dagster: one defect at a time, and it is named."""

from __future__ import annotations

import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest
import sqlalchemy
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RemoteInstigatorOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, ScheduleInstigatorData
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo

from erp_sync.definitions import build_definitions
from erp_sync.defs import doctor as of_dagster
from erp_sync.defs.doctor import SILENT_SECONDS
from erp_sync.doctor.aws import aws
from erp_sync.doctor.examination import Area
from erp_sync.doctor.installation import Installation
from erp_sync.doctor.slack import slack
from erp_sync.models import Finding
from erp_sync.settings import Settings
from erp_sync.shop.profile import load_profile
from erp_sync_tests.live import dagster_home, job_origin
from erp_sync_tests.slack_double import CHANNEL, CHANNEL_NAME, TOKEN, SlackDouble

GROUP = "/ecs/erp_sync"


dagster = partial(of_dagster.dagster, build=build_definitions)


def look(area: Area, **settings: Any) -> list[Finding]:
    found = list(area(Installation(Settings.model_validate(settings), load_profile("laravel"))))
    assert all(finding.advice for finding in found if finding.level != "ok"), found
    assert TOKEN not in str(found)
    return found


def wrong(found: list[Finding]) -> list[tuple[str, str, str]]:
    return [(finding.level, finding.subject, finding.message) for finding in found if finding.level != "ok"]


# Slack ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def double() -> Iterator[SlackDouble]:
    with SlackDouble() as double:
        yield double
        assert double.messages == [], "the doctor posts nothing"


def on_slack(double: SlackDouble, *, token: str = TOKEN, channel: str | None = CHANNEL) -> list[Finding]:
    return look(slack, slack_token=token, slack_channel=channel, slack_base_url=double.url)


def test_slack_that_works(double: SlackDouble) -> None:
    found = on_slack(double)
    assert [finding.level for finding in found] == ["ok", "ok"]
    assert "the bot is erp_sync" in found[0].message
    assert double.calls == ["auth.test", "conversations.info"]
    assert wrong(on_slack(double, channel=CHANNEL_NAME)) == [], "by its name, on the second page"
    assert [finding.level for finding in look(slack)] == ["ok"], "nobody needs Slack"


@pytest.mark.parametrize(
    ("scopes", "channel", "level", "subject", "says"),
    [
        ("channels:read", {}, "error", "ERP_SYNC_SLACK_TOKEN", "lacks the scope chat:write"),
        ("chat:write", {}, "warning", "ERP_SYNC_SLACK_CHANNEL", "may not read channels"),
        ("chat:write,channels:read", {"is_member": False}, "error", "ERP_SYNC_SLACK_CHANNEL", "is no member"),
        ("chat:write,channels:read", {"is_archived": True}, "error", "ERP_SYNC_SLACK_CHANNEL", "is archived"),
        (
            *("chat:write,channels:read,chat:write.public", {"is_member": False, "is_private": True}, "error"),
            *("ERP_SYNC_SLACK_CHANNEL", "is no member"),
        ),
        ("chat:write,channels:read", {"id": "C0OTHER1"}, "error", "ERP_SYNC_SLACK_CHANNEL", "channel_not_found"),
    ],
)
def test_one_defect_of_slack(
    double: SlackDouble, scopes: str, channel: dict[str, Any], level: str, subject: str, says: str
) -> None:
    double.scopes = scopes
    double.channel |= channel
    ((found_level, found_subject, message),) = wrong(on_slack(double))
    assert (found_level, found_subject, says in message) == (level, subject, True), message


def test_who_may_post_everywhere_needs_no_membership(double: SlackDouble) -> None:
    double.scopes += ",chat:write.public"
    double.channel["is_member"] = False
    assert wrong(on_slack(double)) == []


def test_a_wrong_token_a_wrong_name_and_silence(double: SlackDouble) -> None:
    ((level, subject, message),) = wrong(on_slack(double, token="xoxb-c4n4ry-wrong"))
    assert (level, subject, "invalid_auth" in message) == ("error", "ERP_SYNC_SLACK_TOKEN", True)
    ((level, subject, message),) = wrong(on_slack(double, channel="#nowhere"))
    assert (level, subject, "sees no channel #nowhere" in message) == ("error", "ERP_SYNC_SLACK_CHANNEL", True)
    ((level, _, _),) = wrong(on_slack(double, channel=None))
    assert level == "warning", "it is an error of the settings"
    double.fault = "reset"
    ((level, subject, message),) = wrong(on_slack(double))
    assert (level, "did not answer auth.test" in message) == ("error", True)


# AWS ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cloud(aws: str, aws_credentials: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws)
    return monkeypatch


def test_aws_is_looked_at_only_where_it_is_used(cloud: pytest.MonkeyPatch) -> None:
    cloud.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert [(one.level, one.subject) for one in look(aws)] == [("ok", "CloudWatch")]


def test_credentials_and_the_log_group(cloud: pytest.MonkeyPatch) -> None:
    logs = {"cloudwatch_group": GROUP}
    boto3.client("logs").create_log_group(logGroupName=f"{GROUP}_of_another")
    ((level, subject, message),) = wrong(look(aws, logs=logs))
    assert (level, subject, f"no group {GROUP} in" in message) == ("error", "CloudWatch", True)
    boto3.client("logs").create_log_group(logGroupName=GROUP)
    assert wrong(look(aws, logs=logs)) == []
    streams = boto3.client("logs").describe_log_streams(logGroupName=GROUP)["logStreams"]
    assert streams == [], "nothing was written"
    cloud.delenv("AWS_SECRET_ACCESS_KEY")
    cloud.delenv("AWS_ACCESS_KEY_ID")
    ((level, subject, message),) = wrong(look(aws, logs=logs))
    assert (level, subject, "credentials" in message) == ("error", "AWS", True)
    cloud.setitem(sys.modules, "watchtower", None)
    ((level, _, message),) = wrong(look(aws, logs=logs))
    assert (level, "watchtower is not installed" in message) == ("error", True)


# Dagster --------------------------------------------------------------------------------------------------------------

ORDERS = {"orders": {"start_day": date(2026, 11, 1)}}


def test_without_dagster_there_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    ((level, _, message),) = wrong(look(dagster, **ORDERS))
    assert (level, "DAGSTER_HOME is not set" in message) == ("warning", True)


def test_a_home_that_is_none_or_new_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "missing"))
    ((level, subject, _),) = wrong(look(dagster, **ORDERS))
    assert (level, subject) == ("error", "DAGSTER_HOME")
    home = tmp_path / "dagster"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    found = wrong(look(dagster, **ORDERS))
    assert [(level, subject) for level, subject, _ in found] == [("warning", "DAGSTER_HOME"), ("warning", "storage")]
    assert list(home.iterdir()) == []
    (home / "dagster.yaml").write_text("storage:\n  nonsense: [\n")
    ((level, subject, message),) = wrong(look(dagster, **ORDERS))
    assert (level, subject, "cannot be used" in message) == ("error", "storage", True)


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """One that has run: its daemon gives signs."""
    monkeypatch.setenv("DAGSTER_HOME", str(dagster_home(tmp_path)))
    with dg.DagsterInstance.get() as instance:
        beat(instance, 5)
        yield instance


def beat(instance: dg.DagsterInstance, seconds_ago: float, **errors: int) -> None:
    """With so many errors of some kinds of daemon."""
    now = time.time()
    one = SerializableErrorInfo("of ana@example.com", [], None)
    for kind in instance.get_required_daemon_types():
        instance.add_daemon_heartbeat(DaemonHeartbeat(now - seconds_ago, kind, "one", [one] * errors.get(kind, 0)))


def test_dagster_at_work(instance: dg.DagsterInstance) -> None:
    found = look(dagster, **ORDERS)
    assert wrong(found) == []
    said = {finding.subject: finding.message for finding in found}
    assert said["storage"] == "Sqlite, 0 runs"
    assert re.fullmatch(r"all \d\d sensors and schedules are on", said["automation"])


def test_a_daemon_that_is_silent_or_never_was(instance: dg.DagsterInstance) -> None:
    beat(instance, SILENT_SECONDS + 30)
    ((level, subject, message),) = wrong(look(dagster, **ORDERS))
    assert (level, subject, message.startswith("silent for 2")) == ("error", "daemon", True)
    instance.wipe_daemon_heartbeats()
    ((level, subject, message),) = wrong(look(dagster, **ORDERS))
    assert (level, subject, message) == ("error", "daemon", "it never gave a sign")


def test_a_daemon_that_is_alive_and_fails_is_told(instance: dg.DagsterInstance) -> None:
    beat(instance, 5, SENSOR=5, SCHEDULER=2)
    ((level, subject, message),) = wrong(look(dagster, **ORDERS))
    assert (level, subject, message) == ("warning", "daemon", "alive, with 7 errors of late: SCHEDULER, SENSOR")


@pytest.mark.parametrize("missing", ["all", "instance_info"])
def test_a_storage_that_lacks_tables_gets_none_by_looking(instance: dg.DagsterInstance, missing: str) -> None:
    """Of whatever kind: it is their statements that are stopped. One lacks all where a first start was broken off."""
    file = Path(instance.root_directory) / "history" / "runs.db"
    if missing == "all":
        file.write_bytes(b"")
    else:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("DROP TABLE instance_info")
    before = file.read_bytes()
    ((level, subject, message),) = wrong(look(dagster, **ORDERS))
    assert (level, subject, "tables are missing" in message) == ("warning", "storage", True)
    assert file.read_bytes() == before
    beat_elsewhere = sqlalchemy.create_engine("sqlite://")
    with beat_elsewhere.begin() as connection_:
        connection_.exec_driver_sql("CREATE TABLE x (y INT)")  # nobody is held up afterwards


@pytest.mark.parametrize(
    ("name", "kind"), [("finalized_orders", InstigatorType.SENSOR), ("order_statuses", InstigatorType.SCHEDULE)]
)
def test_what_is_switched_off_is_named(instance: dg.DagsterInstance, name: str, kind: InstigatorType) -> None:
    origin = RemoteInstigatorOrigin(job_origin().repository_origin, name)
    data = ScheduleInstigatorData("* * * * *") if kind is InstigatorType.SCHEDULE else None
    instance.add_instigator_state(InstigatorState(origin, kind, InstigatorStatus.STOPPED, data))
    ((level, subject, message),) = wrong(look(dagster, **ORDERS))
    assert (level, subject, message) == ("error", "automation", f"switched off: {name}")


def test_a_profile_that_does_not_load_is_told_of_dagster_too(instance: dg.DagsterInstance) -> None:
    ((level, subject, message),) = wrong(look(dagster, shop_profile="magento", **ORDERS))
    assert (level, subject, "magento" in message) == ("error", "automation", True)
