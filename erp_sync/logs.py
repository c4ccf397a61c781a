"""What this process says while it works: one flat JSON object a line, or readable text; redacted, and never in the way.

A line has the fields of `FIELDS` and no others: ids, counts and codes, no data of a customer. `scrub.redact` is the
second net, over everything that is text.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from erp_sync.cloudwatch import CloudWatchLines
from erp_sync.scrub import LONGEST_TEXT, redact, without_secrets

Format = Literal["json", "text"]

IDS = ("order_number", "erp_number", "run_id", "correlation_id", "job", "step")
"""Shown as they are: an order's number may look like a CPF."""
FIELDS = frozenset(
    {
        *IDS,
        *("event", "flow", "day", "state", "outcome", "error_class", "http_status", "duration_ms", "method", "path"),
        *("milliseconds", "minutes_to_erp", "attempts", "until", "cause"),
        *("found", "sent", "adopted", "refused", "invalid", "cancelled", "incidents", "due", "in_doubt"),
        *("asked", "changed", "told", "kept", "too_late", "cancel_refused"),
        *("source", "event_id", "peer"),
        *("skus", "different", "written", "raised", "lowered", "held_back", "failed", "guard"),
    }
)
"""What `extra` and `log_context` may say besides; anything else is left out."""
LONGEST_LINE = 15_000
"""In bytes: the awslogs driver breaks a longer one in two, and neither half is JSON."""
METRICS_NAMESPACE = "erp_sync"
MOST_VALUES = 100
"""Of one metric in a line (embedded metric format)."""

logger = logging.getLogger(__name__)
story = logging.getLogger("order_story")
"""One line per step of an order. Apart from the `erp_sync` loggers: those are copied into Dagster's event log, a
database that should not grow with every order."""

_context: ContextVar[Mapping[str, Any]] = ContextVar("log_context", default={})  # noqa: B039 - never changed


@contextmanager
def log_context(**fields: Any) -> Iterator[None]:
    """Every line of this thread within says these fields, and a correlation id: that of the context around it, or a
    new one. Threads have it where they were started with `initializer=carry_log_context()`."""
    around = _context.get()
    fresh = {} if "correlation_id" in around else {"correlation_id": secrets.token_hex(6)}
    token = _context.set({**around, **fresh, **fields})
    try:
        yield
    finally:
        _context.reset(token)


def carry_log_context() -> Callable[[], None]:
    """For ThreadPoolExecutor(initializer=…): its threads say what the thread says that made the pool."""
    fields = _context.get()
    return lambda: _set_context(fields)


def _set_context(fields: Mapping[str, Any]) -> None:
    _context.set(fields)


def metrics_are_wanted() -> bool:
    """Whether a line's `metrics` go anywhere: what they cost need not be spent otherwise."""
    return _state.form == "json" and _state.lines is not None and _state.level <= logging.INFO


def configure_logs(
    form: Format,
    *,
    stream: TextIO | None = None,
    level: int = logging.INFO,
    environment: str = "",
    cloudwatch_group: str = "",
) -> None:
    """Of the whole process, once more as often as settings are known better. `stream` None: stdout. Never raises.

    `level` is that of erp_sync's own lines. Other libraries' are said from WARNING on. What nobody catches, in threads
    too, is said here and not by the interpreter.
    """
    _state.form, _state.level = form, level
    _state.environment = environment
    formatter = JsonLines() if form == "json" else TextLines()
    root = logging.getLogger()
    for handler in filter(None, (_state.lines, _state.cloudwatch)):
        root.removeHandler(handler)
    if _state.cloudwatch is not None:
        _state.cloudwatch.finish()
    _state.lines = Lines(stream, formatter)
    root.addHandler(_state.lines)
    if root.level in (logging.NOTSET, logging.ERROR, logging.CRITICAL):
        root.setLevel(logging.WARNING)
    for name in ("erp_sync", story.name):
        logging.getLogger(name).setLevel(level)
    _state.cloudwatch = None
    if cloudwatch_group:
        _state.cloudwatch = CloudWatchLines(cloudwatch_group, JsonLines())
        root.addHandler(_state.cloudwatch)
    if form == "json":
        for name in _DAGSTERS:
            for theirs in logging.getLogger(name).handlers:
                theirs.setFormatter(formatter)
    _hear_of_defects()


def _hear_of_defects() -> None:
    """The interpreter would print any message as it is. Somebody else's hook stays."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = lambda _, error, __: _defect("the process", error)
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = lambda said: _defect("a thread", said.exc_value)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = lambda said: _defect("an object", said.exc_value)


def _defect(whose: str, error: BaseException | None) -> None:
    if not isinstance(error, SystemExit | KeyboardInterrupt):
        logger.critical("%s ended with a defect, report it", whose, exc_info=error, extra={"event": "defect"})


_DAGSTERS = ("dagster", "dagit", "dagster-webserver")
"""Loggers that Dagster gives a console handler of its own, and lets propagate."""


class _State:
    form: Format = "text"
    level: int = logging.INFO
    environment: str = ""
    lines: Lines | None = None
    cloudwatch: CloudWatchLines | None = None


_state = _State()


# Lines ----------------------------------------------------------------------------------------------------------------


class JsonLines(logging.Formatter):
    """One JSON object, at most 15,000 bytes, without a line break. Never raises."""

    def format(self, record: logging.LogRecord) -> str:
        try:
            return _fitting(_fields(record))
        except Exception as error:
            broken = {
                "ts": _time(record),
                "level": "ERROR",
                "event": "log.broken",
                "logger": str(record.name)[:100],
                "error_class": type(error).__name__,
            }
            return json.dumps(broken)


class TextLines(logging.Formatter):
    """As a person reads it. Never raises."""

    def format(self, record: logging.LogRecord) -> str:
        try:
            fields = _fields(record)
            words = f"{fields['ts']} {fields['level']} {fields['logger']}: {fields['message']}"
            return "\n".join(filter(None, [words, fields.get("exception", ""), fields.get("stack", "")]))
        except Exception as error:
            return f"{_time(record)} ERROR {record.name}: a line that cannot be written ({type(error).__name__})"


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    said: dict[str, Any] = {**_context.get(), **_of_dagster(record), **record.__dict__}
    ids = {name: _id(str(said[name])) for name in IDS if said.get(name)}
    keep = tuple(ids.values())
    fields: dict[str, Any] = {
        "ts": _time(record),
        "level": record.levelname,
        "event": "log",
        "logger": record.name,
        "message": redact(_message(record)[:LONGEST_TEXT], keep),
    }
    fields |= ids
    for name, value in said.items():
        if name in FIELDS and name not in ids and value is not None and value != "":
            fields[name] = _plain(value, keep)
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        fields.setdefault("error_class", type(error).__name__)
        fields["exception"] = redact("".join(traceback.format_exception(error))[-LONGEST_TEXT:], keep)
    elif record.exc_text:
        fields["exception"] = redact(record.exc_text[-LONGEST_TEXT:], keep)
    elif "dagster_error" in said:
        fields["exception"] = redact(said["dagster_error"][-LONGEST_TEXT:], keep)
    if record.stack_info:
        fields["stack"] = redact(record.stack_info[-LONGEST_TEXT:], keep)
    metrics = record.__dict__.get("metrics")
    if isinstance(metrics, Mapping):
        fields |= _embedded(metrics, record, str(fields.get("flow", "")))
    return fields


def _message(record: logging.LogRecord) -> str:
    meta = getattr(record, "dagster_meta", None)
    if meta is not None:
        return str(meta["orig_message"])
    try:
        return record.getMessage()
    except Exception:
        return str(record.msg)


_ID = re.compile(r"[\w ./:#\[\]-]{1,64}")
_CODE = re.compile(r"[A-Za-z][A-Za-z_.]{0,39}")
"""Of ours, such as order.sent: no word of a sentence."""


def _id(text: str) -> str:
    return without_secrets(text) if _ID.fullmatch(text) else redact(text)


def _plain(value: object, keep: tuple[str, ...]) -> bool | int | float | str:
    if isinstance(value, bool | int | float):
        return value
    text = str(value)
    return without_secrets(text) if _CODE.fullmatch(text) else redact(text[:LONGEST_TEXT], keep)


def _of_dagster(record: logging.LogRecord) -> dict[str, Any]:
    """What Dagster adds to a line within a run, and of its own events kind and error."""
    meta = getattr(record, "dagster_meta", None)
    if meta is None:
        return {}
    said = {"run_id": meta["run_id"], "job": meta["job_name"], "step": meta["step_key"]}
    event = meta["dagster_event"]
    if event is not None:
        said["event"] = f"dagster.{event.event_type_value.lower()}"
        error = getattr(event.event_specific_data, "error", None)
        if error is not None:
            said["error_class"] = error.cls_name
            said["dagster_error"] = error.to_string()
    return said


def _fitting(fields: dict[str, Any]) -> str:
    line = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    # What comes last in a stack says most; of a message what comes first.
    for name, keep in (("stack", -500), ("exception", -4000), ("message", 2000), ("exception", -500), ("cause", 500)):
        if len(line) <= LONGEST_LINE // 4 or len(line.encode()) <= LONGEST_LINE:
            return line
        text = str(fields.get(name, ""))
        if len(text) > abs(keep):
            fields[name] = f"…{text[keep:]}" if keep < 0 else f"{text[:keep]}…"
        line = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    if len(line.encode()) > LONGEST_LINE:
        short = {name: value for name, value in fields.items() if not isinstance(value, str) or len(value) <= 200}
        line = json.dumps(short, ensure_ascii=False, separators=(",", ":"))
    return line


def _embedded(metrics: Mapping[str, Any], record: logging.LogRecord, flow: str) -> dict[str, Any]:
    """The embedded metric format: CloudWatch makes metrics of these values. Low cardinality: flow and environment."""
    values: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, bool | int | float):
            values[name] = value
        elif value:
            values[name] = _at_most(MOST_VALUES, sorted(float(each) for each in value))
    described = [{"Name": name, "Unit": _unit(name)} for name in values]
    directive = {"Namespace": METRICS_NAMESPACE, "Dimensions": [["flow", "env"]], "Metrics": described}
    aws = {"Timestamp": int(record.created * 1000), "CloudWatchMetrics": [directive]}
    return {**values, "_aws": aws, "flow": flow, "env": _state.environment or "default"} if values else {}


def _unit(name: str) -> str:
    return "Milliseconds" if name.endswith("_ms") else "None" if "minutes" in name else "Count"


def _at_most(count: int, ordered: Sequence[float]) -> list[float]:
    """Evenly over all of them, the smallest and the largest included: percentiles stay."""
    if len(ordered) <= count:
        return [round(value, 3) for value in ordered]
    return [round(ordered[place * (len(ordered) - 1) // (count - 1)], 3) for place in range(count)]


# Where they go --------------------------------------------------------------------------------------------------------


class Lines(logging.Handler):
    """On a stream, each line at once. A stream that is broken or closed loses lines and hurts nobody."""

    def __init__(self, stream: TextIO | None, formatter: logging.Formatter) -> None:
        super().__init__()
        self._stream = stream
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            top = record.name.split(".")[0]
            if top in _DAGSTERS and not hasattr(record, "dagster_meta") and logging.getLogger(top).handlers:
                return  # its own console handler has it
            # Within a run Dagster hands each line on once more.
            if not record.__dict__.get("_on_stream"):
                record.__dict__["_on_stream"] = True
                # Not sys.stdout: for a while somebody else's may stand there.
                stream = self._stream or sys.__stdout__ or sys.stdout
                stream.write(self.format(record) + "\n")
                stream.flush()
        except Exception:  # noqa: S110 - a line is lost; what it was about goes on
            pass


class FromDagster(logging.Handler):
    """Named in dagster.yaml: within a run it is given erp_sync's lines with the run's ids, and Dagster's events.

    What comes here is taken: Dagster would print it once more on stderr, in its own form and not redacted.
    """

    def emit(self, record: logging.LogRecord) -> None:
        meta = getattr(record, "dagster_meta", None)
        event = meta["dagster_event"] if meta else None
        try:
            if event is not None and record.levelno < logging.INFO and event.event_type_value in TOLD_EVENTS:
                record.levelno, record.levelname = logging.INFO, "INFO"
            if _state.form == "json" and record.levelno >= _state.level:
                for handler in (_state.lines, _state.cloudwatch):
                    if handler is not None:
                        handler.handle(record)
        finally:
            if _state.form == "json":
                record.levelno = logging.NOTSET
            else:
                record.msg, record.args = redact(record.getMessage()), ()
            record.__dict__["_on_stream"] = True


TOLD_EVENTS = frozenset(
    {
        *("PIPELINE_START", "PIPELINE_SUCCESS", "PIPELINE_FAILURE", "PIPELINE_CANCELED"),
        *("STEP_START", "STEP_SUCCESS", "STEP_FAILURE", "STEP_SKIPPED"),
        *("ASSET_MATERIALIZATION", "ASSET_OBSERVATION", "ASSET_CHECK_EVALUATION"),
    }
)
"""Events of Dagster that are worth a line; Dagster gives most of them the level DEBUG."""
