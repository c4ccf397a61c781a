"""Lines to CloudWatch: shipped when it is there, nothing at all when it is not; and alarms that see our lines."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
import yaml

from erp_sync import cloudwatch
from erp_sync.errors import Misconfigured
from erp_sync.ledger.entry import Event
from erp_sync.ledger.gate import LedgerGate
from erp_sync.ledger.story import tell_story
from erp_sync.logs import FIELDS, configure_logs
from erp_sync.settings import load_settings
from erp_sync.sync.connections import open_connections
from erp_sync.sync.watch import OrdersWatch
from erp_sync_tests.ledger_entries import due
from erp_sync_tests.live import REPOSITORY, Place, place

GROUP = "/ecs/erp_sync"
logger = logging.getLogger("erp_sync.test")
pytestmark = pytest.mark.usefixtures("aws_credentials")


@pytest.fixture
def logs(aws: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws)
    client = boto3.client("logs")
    client.create_log_group(logGroupName=GROUP)
    yield client
    client.delete_log_group(logGroupName=GROUP)


def shipped(logs: Any) -> list[dict[str, Any]]:
    return [json.loads(event["message"]) for event in logs.filter_log_events(logGroupName=GROUP)["events"]]


def end() -> float:
    """Seconds that the end of the process would wait for CloudWatch."""
    started = time.monotonic()
    configure_logs("text", stream=io.StringIO())
    return time.monotonic() - started


def test_lines_arrive_as_they_are_on_stdout(logs: Any) -> None:
    stream = io.StringIO()
    configure_logs("json", stream=stream, cloudwatch_group=GROUP)
    for number in range(300):
        logger.info("order to %s", "Rua do Teste, 12", extra={"order_number": f"LJ-{number}"})
    end()
    said = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert shipped(logs) == said
    assert len(said) == 300
    assert said[7]["message"] == "order to ***"


def test_it_goes_on_after_dagster_closed_all_handlers(logs: Any) -> None:
    configure_logs("json", stream=io.StringIO(), cloudwatch_group=GROUP)
    logger.info("before")
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    logger.info("after")
    assert end() < 2
    assert [line["message"] for line in shipped(logs)] == ["before", "after"]


@pytest.fixture(params=["nothing listens", "it never answers", "it throttles", "the group is missing"])
def trouble(request: pytest.FixtureRequest, aws: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cloudwatch, "END_SECONDS", 0.5)
    with closing(socket.create_server(("127.0.0.1", 0), backlog=100)) as hole:
        address = f"http://127.0.0.1:{hole.getsockname()[1]}"
        if request.param == "nothing listens":
            hole.close()
        if request.param == "the group is missing":
            address = aws
        if request.param == "it throttles":
            address = request.getfixturevalue("throttling")
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        yield


@pytest.fixture
def throttling() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = b'{"__type": "ThrottlingException", "message": "Rate exceeded"}'
            self.send_response(400)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_cloudwatch_in_trouble_changes_nothing(trouble: None, capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    configure_logs("json", stream=stream, cloudwatch_group=GROUP)
    logger.info("the first one starts it")
    started = time.monotonic()
    for number in range(300):
        logger.info("line %d", number)
    assert time.monotonic() - started < 1
    assert end() < cloudwatch.END_SECONDS + 1.5
    assert len(stream.getvalue().splitlines()) == 301
    assert capfd.readouterr().err == ""


def test_what_cloudwatch_does_not_take_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudwatch, "QUEUE_LIMIT", 50)
    monkeypatch.setattr(cloudwatch, "END_SECONDS", 0.2)
    with closing(socket.create_server(("127.0.0.1", 0), backlog=100)) as hole:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{hole.getsockname()[1]}")
        configure_logs("json", stream=io.StringIO())
        handler = cloudwatch.CloudWatchLines(GROUP, logging.Formatter())
        made = [logging.makeLogRecord({"msg": "x", "name": "erp_sync"}) for _ in range(500)]
        for record in made:
            handler.handle(record)
        assert handler.dropped >= 400
        handler.finish()


def test_without_the_extra_it_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchtower", None)
    stream = io.StringIO()
    configure_logs("json", stream=stream, cloudwatch_group=GROUP)
    logger.info("x")
    logger.info("y")
    said = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert [message for message in said if "CloudWatch" in message] == [
        "no logs to CloudWatch: import of watchtower halted; None in sys.modules"
    ]
    assert {"x", "y"} <= set(said)


# deploy/cloudwatch.yaml and deploy/logs.md ----------------------------------------------------------------------------

TEMPLATE = yaml.safe_load((REPOSITORY / "deploy" / "cloudwatch.yaml").read_text())
PARAMETERS = {"LogGroup": GROUP, "Environment": "production", "AlarmTopic": "arn:aws:sns:sa-east-1:123456789012:ops"}


def resolved(value: Any) -> Any:
    """The template's `Ref` and `Fn::Sub`, replaced."""
    if isinstance(value, dict):
        if set(value) == {"Ref"}:
            return PARAMETERS[value["Ref"]]
        if set(value) == {"Fn::Sub"}:
            return re.sub(r"\$\{(\w+)\}", lambda match: PARAMETERS[match[1]], value["Fn::Sub"])
        return {name: resolved(each) for name, each in value.items()}
    return [resolved(each) for each in value] if isinstance(value, list) else value


def resources(kind: str) -> dict[str, dict[str, Any]]:
    found = TEMPLATE["Resources"].items()
    return {name: resolved(resource["Properties"]) for name, resource in found if resource["Type"] == kind}


FILTERS, ALARMS = resources("AWS::Logs::MetricFilter"), resources("AWS::CloudWatch::Alarm")


@pytest.fixture(scope="module")
def real_lines() -> list[dict[str, Any]]:
    """What the flows, the watch, the breaker and the ledger really say."""
    stream = io.StringIO()
    with place(stocked=True) as on:
        configure_logs("json", stream=stream)
        _work(on)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def _work(on: Place) -> None:
    on.on.shop.checkout_many(3)
    connections = on.erp_sync.connections()
    assert connections.orders_flow().run(sweep=True).failure is None
    assert connections.statuses_flow().run().failure is None
    assert connections.stock_flow().run().failure is None
    OrdersWatch(connections).wait(0)
    wrong = open_connections(load_settings(erp_password="another-password"))
    assert isinstance(wrong.statuses_flow().run().failure, Misconfigured)
    wrong.close()
    gate = LedgerGate.from_settings(connections.ledger, connections.settings.erp)
    for _ in range(5):
        gate.failed()
    gate.close()
    tell_story([(due("1"), Event("incident", "order 000001 is not in the ERP"))])
    logging.getLogger("erp_sync.test").error("a defect")


def matches(pattern: str, line: dict[str, Any]) -> bool:
    """A filter pattern of CloudWatch, as far as the template needs it: equality, && and ||."""
    inside = re.fullmatch(r"\{ (.*) \}", pattern)
    assert inside is not None, pattern
    return any(all(_equal(term, line) for term in each.split(" && ")) for each in inside[1].split(" || "))


def _equal(term: str, line: dict[str, Any]) -> bool:
    parts = re.fullmatch(r"\$\.(\w+) = \"([^\"]*)\"", term)
    assert parts is not None, term
    return str(line.get(parts[1])) == parts[2]


@pytest.mark.parametrize("name", FILTERS)
def test_each_filter_sees_a_real_line_and_not_every_one(name: str, real_lines: Sequence[dict[str, Any]]) -> None:
    seen = [line for line in real_lines if matches(FILTERS[name]["FilterPattern"], line)]
    assert 0 < len(seen) < len(real_lines) / 2


@pytest.mark.parametrize("name", ALARMS)
def test_each_alarm_looks_at_a_metric_that_there_is(name: str, real_lines: Sequence[dict[str, Any]]) -> None:
    alarm = ALARMS[name]
    dimensions = {one["Name"]: one["Value"] for one in alarm.get("Dimensions", [])}
    if not dimensions:
        made = [each for one in FILTERS.values() for each in one["MetricTransformations"]]
        assert (alarm["Namespace"], alarm["MetricName"]) in [
            (each["MetricNamespace"], each["MetricName"]) for each in made
        ]
        return
    embedded = [
        (line, directive) for line in real_lines for directive in line.get("_aws", {}).get("CloudWatchMetrics", [])
    ]
    found = [
        line
        for line, directive in embedded
        if directive["Namespace"] == alarm["Namespace"]
        and alarm["MetricName"] in [metric["Name"] for metric in directive["Metrics"]]
        and any({key: line[key] for key in keys} == dimensions | {"env": "default"} for keys in directive["Dimensions"])
    ]
    assert found
    assert all(isinstance(line[alarm["MetricName"]], int | float | list) for line in found)


def test_silence_alarms() -> None:
    assert ALARMS["SilenceAlarm"]["TreatMissingData"] == "breaching"
    assert ALARMS["SilenceAlarm"]["ComparisonOperator"] == "LessThanThreshold"


def test_cloudwatch_takes_the_template(logs: Any) -> None:
    for name, each in FILTERS.items():
        transformations = [
            {key[0].lower() + key[1:]: value for key, value in one.items()} for one in each["MetricTransformations"]
        ]
        logs.put_metric_filter(
            logGroupName=each["LogGroupName"],
            filterName=name,
            filterPattern=each["FilterPattern"],
            metricTransformations=transformations,
        )
    assert len(logs.describe_metric_filters(logGroupName=GROUP)["metricFilters"]) == len(FILTERS)
    alarms = boto3.client("cloudwatch")
    for each in ALARMS.values():
        alarms.put_metric_alarm(**each)
    names = {alarm["AlarmName"] for alarm in alarms.describe_alarms()["MetricAlarms"]}
    assert names == {alarm["AlarmName"] for alarm in ALARMS.values()}
    assert "erp_sync-production-silence" in names


def test_the_queries_ask_for_fields_that_lines_have() -> None:
    text = (REPOSITORY / "deploy" / "logs.md").read_text()
    queries = [block for block in text.split("```")[1::2] if block.startswith("\n")]
    assert len(queries) >= 7
    base = {"ts", "level", "event", "logger", "message", "exception", "stack"}
    words = "fields filter sort stats asc desc by as count pct min max bin and or in ispresent 1h"
    for query in queries:
        named = set(re.findall(r"[a-z_]\w*", re.sub(r"\"[^\"]*\"", "", query))) - set(words.split())
        made = set(re.findall(r" as (\w+)", query))
        assert named - made - FIELDS - base - {"h"} == set(), query
