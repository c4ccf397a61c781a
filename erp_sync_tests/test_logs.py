"""What a line of log says, what it never says, and that it is never in the way."""

from __future__ import annotations

import base64
import io
import json
import logging
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from erp_sync import scrub
from erp_sync.logs import (
    LONGEST_LINE,
    FromDagster,
    JsonLines,
    Lines,
    TextLines,
    carry_log_context,
    configure_logs,
    log_context,
)
from erp_sync.sandbox import shop_people

logger = logging.getLogger("erp_sync.test")


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Logs as JSON at DEBUG; what was written so far."""
    stream = io.StringIO()
    configure_logs("json", stream=stream, level=logging.DEBUG, environment="test")
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def record(message: object, *args: object, extra: dict[str, Any] | None = None, error: Any = None) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error is not None else None
    return logger.makeRecord("erp_sync.test", logging.ERROR, "f.py", 1, message, args, exc_info, extra=extra)


def line(*args: object, **more: Any) -> dict[str, Any]:
    written = JsonLines().format(record(*args, **more))
    assert "\n" not in written
    said: dict[str, Any] = json.loads(written)
    return said


Written = Callable[[], list[dict[str, Any]]]


def test_a_line_is_one_flat_object_with_context_and_fields(lines: Written) -> None:
    with log_context(flow="orders", run_id="r1"):
        extra = {"event": "erp.call", "http_status": 201, "duration_ms": 12}
        logger.debug("POST %s", "/pedidos", extra=extra)
        logger.info("again")
    logger.info("outside")
    first, second, outside = lines()
    assert first | {"ts": "", "correlation_id": ""} == {
        "ts": "",
        "level": "DEBUG",
        "event": "erp.call",
        "logger": "erp_sync.test",
        "message": "POST /pedidos",
        "run_id": "r1",
        "correlation_id": "",
        "flow": "orders",
        "http_status": 201,
        "duration_ms": 12,
    }
    assert first["ts"].endswith("Z")
    assert first["correlation_id"] == second["correlation_id"] != ""
    assert "flow" not in outside


def test_threads_of_a_pool_say_what_its_maker_says(lines: Written) -> None:
    with log_context(flow="stock"), ThreadPoolExecutor(1, "x", carry_log_context()) as pool:
        pool.submit(logger.info, "from the pool").result()
    [said] = lines()
    assert said["flow"] == "stock"
    assert said["correlation_id"]


def test_an_inner_context_keeps_the_correlation_id(lines: Written) -> None:
    with log_context(run_id="r1"), log_context(flow="orders"):
        logger.info("x")
    with log_context(flow="orders"):
        logger.info("y")
    first, second = lines()
    assert first["run_id"] == "r1"
    assert first["correlation_id"] != second["correlation_id"]


def test_only_known_fields_are_said() -> None:
    with log_context(name_of_customer="Ana"):
        said = line("x", extra={"customer": "Ana", "body": {"A1_NOME": "Ana"}, "state": "due"})
    assert said["state"] == "due"
    assert "Ana" not in json.dumps(said)


CPF = "52998224725"


def test_an_order_number_that_looks_like_a_cpf_stays_readable_in_its_field_and_text() -> None:
    said = line("order %s of CPF %s", CPF, "111.444.777-35", extra={"order_number": CPF})
    assert said["order_number"] == CPF
    assert said["message"] == f"order {CPF} of CPF ************35"
    assert line("order %s", CPF)["message"] == "order *********25"
    assert line("x", extra={"order_number": "ana@example.com"})["order_number"] == "***"


def test_a_secret_is_no_id() -> None:
    scrub.never_show(["tr0ub4dor-und-3"])
    said = line("tr0ub4dor-und-3", extra={"order_number": "tr0ub4dor-und-3"})
    assert "tr0ub4dor" not in json.dumps(said)


def test_numbers_that_are_no_tax_id_stay() -> None:
    text = "order 12345678901 at 20261123101543 of 2026-11-24, 00012345 and 1.234,56"
    assert line(text)["message"] == text


class _Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("ana@example.com")

    __repr__ = __str__


@pytest.mark.parametrize("formatter", [JsonLines(), TextLines()])
@pytest.mark.parametrize(
    "made",
    [
        lambda: record("%d %s", "x"),
        lambda: record("%s", _Unspeakable()),
        lambda: record(_Unspeakable()),
        lambda: record("x", extra={"cause": _Unspeakable()}),
        lambda: record("x", error=ValueError(_Unspeakable())),
        lambda: record("\ud800 surrogate"),
        lambda: record({"a": 1}),
        lambda: record("x", extra={"metrics": {"in_doubt": "many"}}),
    ],
)
def test_a_line_that_cannot_be_made_is_a_line_and_no_error(
    formatter: logging.Formatter, made: Callable[[], logging.LogRecord], capfd: pytest.CaptureFixture[str]
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    Lines(stream, formatter).handle(made())
    Lines(None, formatter).handle(made())
    said = capfd.readouterr()
    assert said.err == ""
    assert "ana@" not in said.out


def test_a_stream_that_is_gone_hurts_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    configure_logs("json", stream=stream)
    stream.close()
    logger.error("x")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("letter", ["x", "ç", "漢"])
def test_no_line_is_longer_than_the_driver_takes(letter: str) -> None:
    try:
        raise ValueError(letter * 50_000) from KeyError(letter * 50_000)
    except ValueError as error:
        written = JsonLines().format(record(letter * 90_000, extra={"cause": letter * 90_000}, error=error))
    assert len(written.encode()) <= LONGEST_LINE
    said = json.loads(written)
    assert (said["error_class"], said["level"]) == ("ValueError", "ERROR")


def test_metrics_are_embedded_with_few_dimensions(lines: Written) -> None:
    values = [float(value) for value in range(1000)]
    with log_context(flow="orders"):
        metrics = {"minutes_to_erp": values, "orders_in_doubt": 0, "erp_latency_ms": []}
        logger.info("x", extra={"event": "pass.ended", "order_number": "1", "metrics": metrics})
    [said] = lines()
    [directive] = said["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "erp_sync"
    assert directive["Dimensions"] == [["flow", "env"]]
    assert (said["flow"], said["env"]) == ("orders", "test")
    assert [metric["Name"] for metric in directive["Metrics"]] == ["minutes_to_erp", "orders_in_doubt"]
    assert said["orders_in_doubt"] == 0
    assert len(said["minutes_to_erp"]) == 100
    assert (said["minutes_to_erp"][0], said["minutes_to_erp"][-1]) == (0, 999)
    assert isinstance(said["_aws"]["Timestamp"], int)


def test_what_dagster_hands_on_is_written_once_and_not_printed_again(lines: Written) -> None:
    made = record("x")
    meta = {"orig_message": "x", "run_id": "r1", "job_name": "orders", "step_key": "s", "dagster_event": None}
    made.__dict__["dagster_meta"] = meta
    FromDagster().handle(made)
    logging.getLogger().handle(made)
    [said] = lines()
    assert (said["run_id"], said["job"], said["step"]) == ("r1", "orders", "s")
    assert made.levelno == logging.NOTSET


def test_a_line_of_dagsters_own_loggers_is_said_once(lines: Written) -> None:
    theirs, console = logging.getLogger("dagster"), logging.NullHandler()
    logging.getLogger("dagster.code_server").warning("nobody else has it")
    theirs.addHandler(console)
    try:
        logging.getLogger("dagster.code_server").warning("on their console")
    finally:
        theirs.removeHandler(console)
    assert [line["message"] for line in lines()] == ["nobody else has it"]


def test_text_is_redacted_too() -> None:
    try:
        raise ValueError("CPF 529.982.247-25")
    except ValueError as error:
        text = TextLines().format(record("of %s", "ana@example.com", error=error))
    assert text.startswith("20")
    assert " ERROR erp_sync.test: of ***\nTraceback" in text
    assert "ValueError: CPF ************25" in text


# No line shows it -----------------------------------------------------------------------------------------------------


def _personal(dice: random.Random) -> list[tuple[str, list[str]]]:
    """What may stand in a text, and what of it must not be in the line."""
    cpf, cnpj, letters = shop_people.cpf(dice), shop_people.cnpj(dice), shop_people.cnpj(dice, letters=True)
    person = shop_people.person(dice)
    phone = "".join(filter(str.isdigit, person.phone))
    token = base64.urlsafe_b64encode(dice.randbytes(24)).decode()
    password = base64.urlsafe_b64encode(dice.randbytes(12)).decode()
    found = [(one, [one]) for one in (cpf, cnpj, letters)]
    found += [(shop_people.masked(one), [shop_people.masked(one), one[:9]]) for one in (cpf, cnpj, letters)]
    found += [
        (person.email, [person.email]),
        (person.phone, [person.phone, person.phone[-9:]]),
        (f"+55{phone}", [phone]),
        (f"55 {phone[:2]} {phone[2:7]}-{phone[7:]}", [phone[2:7], phone[7:]]),
        (f"{person.home.street}, {person.home.number}", [person.home.street]),
        (person.home.zip_code, [person.home.zip_code]),
        (f"Authorization: Bearer {token}", [token]),
        (f"{{'Authorization': 'Basic {token}'}}", [token]),
        (f"eyJ{token}.eyJ{token}.{token}", [token]),
        (f"xoxb-{dice.randrange(10**10)}-{token[:24]}", [token[:24]]),
        (f"https://hooks.slack.com/services/T0/B0/{token}", [token]),
        (f"mysql+pymysql://erp:{password}@db.example.com/shop", [password]),
        (f"/token?grant_type=password&username=x&password={password}", [password]),
        (f"{{'username': 'x', 'password': '{password}'}}", [password]),
        (f'{{"access_token": "{token}", "refresh_token": "{token}"}}', [token]),
    ]
    return found


def _chained(text: str) -> Exception:
    try:
        try:
            raise KeyError({"deep": [text]})
        except KeyError as inner:
            raise ValueError(f"of {text}") from inner
    except ValueError as error:
        error.add_note(f"note: {text}")
        return error


def _everywhere(text: str) -> list[logging.LogRecord]:
    return [
        record(text),
        record("of %s;", text),
        record("of %r", {"a": {"b": [text, (text,)]}}),
        record("of %(a)s", {"a": text}),
        record("x", extra={"cause": text, "unknown": text, "state": {"a": text}}),
        record("x", error=_chained(text)),
        record("%d", text),
    ]


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    st.integers(0, 2**32),
    st.sampled_from(["", "cliente ", "CPF: ", "'", "(", "x=", "nome;", "\n", "\t", "[", "R$ 10,00 "]),
    st.sampled_from(["", " x", "'", ")", ".", ",", ";", "\n", '"', "]"]),
)
@example(1, "", "")
@example(2, "\n", "")
def test_no_line_shows_personal_data_or_a_secret(seed: int, before: str, after: str) -> None:
    for text, hidden in _personal(random.Random(seed)):
        for made in _everywhere(before + text + after):
            # Its time, or another id, may hold the four digits of a phone.
            with log_context(flow=text, correlation_id="of this line"):
                written = JsonLines().format(made).partition('"level"')[2]
            assert written and [one for one in hidden if one in written] == [], written


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=8, max_size=30))
def test_no_line_shows_a_secret_of_the_process_however_it_is_spelled(secret: str) -> None:
    before = (scrub._known, scrub._secrets)
    try:
        scrub.never_show([secret])
        for text in (secret, quote(secret, safe=""), json.dumps(secret), repr(secret)):
            for made in _everywhere(f"<{text}>"):
                said = json.loads(JsonLines().format(made))
                assert [value for value in said.values() if f"<{text}>" in str(value)] == []
    finally:
        scrub._known, scrub._secrets = before


@pytest.mark.parametrize(
    "piece",
    [
        "a@",
        "rua ",
        "://",
        "://a:",
        "password=",
        "Rua x",
        "[SQL: ",
        "[SQL: \n",
        "11 9",
        "123.",
        "eyJ-",
        "eyJ-.",
        "xoxb-",
    ],
)
def test_no_text_takes_long(piece: str) -> None:
    text = piece * (50_000 // len(piece))
    started = time.process_time()
    scrub.redact(text)
    assert time.process_time() - started < 1
