"""The receiver: who is believed, what is taken from a body, and what is answered when."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from erp_sync.errors import LedgerUnavailable, Misconfigured
from erp_sync.ledger.inbox import Hint
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.ledger.tables import inbox
from erp_sync.webhook import app as receiving
from erp_sync.webhook.app import receiver
from erp_sync.webhook.reference import Unusable, reference
from erp_sync.webhook.signature import Sender, nobody, senders
from erp_sync_tests.webhooks import (
    BODY,
    JSON,
    NEW_SECRET,
    NOW,
    OLD_SECRET,
    SECRETS,
    SPATIE_SECRET,
    STANDARD_SECRET,
    Answer,
    call,
    get,
    post,
    settings,
    spatie,
    standard,
    stored,
)

SPATIE_VECTOR = "39c58358481baf5d55d1e6366ce77442f2d13dff41575393d94f9c30116f04d8"
STANDARD_VECTOR = "v1,RKXL1SkTq2DdmLEkKijFsAXCvlDf5temGQYEdT28HJ0="
NAMED = json.dumps({"data": {"order": {"number": "LJ-7"}}}).encode()


@pytest.fixture
def hints() -> list[Hint]:
    return []


@pytest.fixture
def app(local_ledger: Ledger, hints: list[Hint]) -> Starlette:
    return receiver(settings(), local_ledger, notify=hints.append, clock=lambda: NOW)


# --- who is believed ----------------------------------------------------------------------------


def _event(scheme: Any, key: bytes, headers: dict[str, str], body: bytes = BODY, now: float = NOW) -> str | None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Sender(scheme, (key,)).event_id(raw, body, now)


def test_the_vectors_of_both_schemes() -> None:
    assert len(BODY) == 71
    assert spatie(BODY)["signature"] == SPATIE_VECTOR
    by_body = _event("spatie", SPATIE_SECRET.encode(), {"signature": SPATIE_VECTOR})
    assert by_body == "f252eeefffafb6c2aee942d71d49f6bc3ab84e13f54bf411bbd6948afa1fa6f5"
    given = {"webhook-id": "msg_test_0001", "webhook-timestamp": str(NOW), "webhook-signature": STANDARD_VECTOR}
    assert standard(BODY, "msg_test_0001", NOW)["webhook-signature"] == STANDARD_VECTOR
    assert _event("standard", bytes(range(32)), given) == "msg_test_0001"


def test_the_specifications_own_vector() -> None:
    """Of the reference implementations of Standard Webhooks."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    body = b'{"test": 2432232314}'
    assert _event("standard", key, headers, body, 1614265330) == headers["webhook-id"]
    assert _event("standard", key, headers, body, 1614265330 + 301) is None


@pytest.mark.parametrize(("apart", "believed"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
def test_the_signed_time_may_be_five_minutes_off_either_way(apart: int, believed: bool) -> None:
    given = standard(BODY, "msg_1", NOW + apart)
    assert (_event("standard", bytes(range(32)), given) is not None) is believed


@pytest.mark.parametrize(
    "signatures",
    [
        "{right}",
        "v1,AAAA {right}",
        "v1a,{right} v2,abc {right} v1,zzz",
        " ".join(["v1,AAAA"] * 15) + " {right}",
    ],
)
def test_any_of_several_signatures_is_enough_and_unknown_versions_are_passed_over(signatures: str) -> None:
    given = {**standard(BODY, "msg_1", NOW)}
    given["webhook-signature"] = signatures.format(right=given["webhook-signature"])
    assert _event("standard", bytes(range(32)), given) == "msg_1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("webhook-id", "a.b"),
        ("webhook-id", "a b"),
        ("webhook-id", "x" * 256),
        ("webhook-id", ""),
        ("webhook-timestamp", f"+{NOW}"),
        ("webhook-timestamp", f"{NOW}.0"),
        ("webhook-timestamp", f" {NOW}"),
        ("webhook-timestamp", f"{NOW:_}"),
        ("webhook-timestamp", "0" * 10 + str(NOW)),
        ("webhook-timestamp", "nan"),
    ],
)
def test_an_odd_id_or_time_is_refused_although_it_is_signed(name: str, value: str) -> None:
    odd = {"webhook-id": "msg_1", "webhook-timestamp": str(NOW), name: value}
    signed = f"{odd['webhook-id']}.{odd['webhook-timestamp']}.".encode() + BODY
    digest = base64.b64encode(hmac.new(bytes(range(32)), signed, hashlib.sha256).digest()).decode()
    assert _event("standard", bytes(range(32)), {**odd, "webhook-signature": f"v1,{digest}"}) is None


def test_a_header_that_is_too_long_or_there_twice_proves_nothing(app: Starlette, local_ledger: Ledger) -> None:
    right = standard(BODY, "msg_1", NOW)
    long = {**right, "webhook-signature": right["webhook-signature"] + " v1,AAAA" * 300}
    assert post(app, "padrao", long, BODY).status == 401
    many = {**right, "webhook-signature": " ".join(["v1,AAAA"] * 16) + " " + right["webhook-signature"]}
    assert post(app, "padrao", many, BODY).status == 401
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        assert post(app, "padrao", [*right.items(), (name, right[name])], BODY).status == 401
    twice = [*spatie(BODY).items(), ("signature", "0" * 64)]
    assert post(app, "loja", twice, BODY).status == 401
    assert stored(local_ledger) == []
    assert post(app, "padrao", right, BODY).status == 202


@given(body=st.binary(max_size=200), key=st.binary(min_size=24, max_size=64), place=st.integers(0, 10_000))
def test_no_other_byte_of_a_signed_message_is_believed(body: bytes, key: bytes, place: int) -> None:
    secret = base64.b64encode(key).decode()
    given = standard(body, "msg_1", NOW, secret)
    assert _event("standard", key, given, body) == "msg_1"
    other = bytearray(body + b"!")
    other[place % len(other)] ^= 1 << place % 8
    assert _event("standard", key, given, bytes(other)) is None
    assert _event("spatie", key, {"signature": standard(body, "m", NOW, secret)["webhook-signature"]}, body) is None


def test_while_a_secret_is_replaced_both_are_good(app: Starlette) -> None:
    other = NAMED.replace(b"7", b"8")
    assert post(app, "fila", spatie(NAMED, NEW_SECRET), NAMED).status == 202
    assert post(app, "fila", spatie(other, OLD_SECRET), other).status == 202
    assert post(app, "fila", spatie(NAMED, SPATIE_SECRET), NAMED).status == 401


def test_every_secret_and_every_signature_is_compared_whatever_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    genuine = hmac.compare_digest

    def compared(one: bytes, other: bytes) -> bool:
        seen.append(1)
        return genuine(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compared)
    fila = senders(settings())["fila"]
    headers = [(b"signature", spatie(NAMED, NEW_SECRET)["signature"].encode())]
    assert fila.event_id(headers, NAMED, NOW) is not None
    assert len(seen) == 2
    seen.clear()
    assert fila.event_id([], NAMED, NOW) is None
    assert len(seen) == 2, "without a signature it takes as long"
    stranger = nobody(senders(settings()))
    seen.clear()
    assert stranger.event_id(headers, NAMED, NOW) is None
    assert len(seen) == 2, "a source that does not exist takes as long as the one with the most keys"


@pytest.mark.parametrize(
    ("secrets", "words"),
    [
        ({"padrao": "whsec_this is no base64!!"}, "a secret of padrao is no base64"),
        ({"padrao": "whsec_AAECAwQFBgcICQoL"}, "a secret of padrao has 12 bytes"),
        ({"padrao": None}, "has no secret of webhook.sources.padrao"),
    ],
)
def test_a_secret_that_cannot_be_one_is_refused_at_the_start(
    local_ledger: Ledger, secrets: dict[str, str | None], words: str
) -> None:
    given = {name: value for name, value in {**SECRETS, **secrets}.items() if value}
    with pytest.raises(Misconfigured, match=words) as raised:
        receiver(settings(webhook_secrets=json.dumps(given)), local_ledger)
    assert "AAECAwQFBgcICQoL" not in str(raised.value)
    with pytest.raises(Misconfigured, match=r"webhook\.sources is not set"):
        receiver(settings(webhook={"sources": {}}), local_ledger)


def test_no_secret_is_shown_by_repr() -> None:
    for sender in senders(settings()).values():
        assert "keys)" in repr(sender)
        assert "b'" not in repr(sender)


# --- which order --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "path", "found"),
    [
        (b'{"order_id": 42}', "order_id", "42"),
        (b'{"order_id": "0042"}', "order_id", "0042"),
        (b'{"data": {"order": {"id": "8f14e45f-ceea"}}}', "data.order.id", "8f14e45f-ceea"),
        (b'{"order_id": 123456789012345678901234567890}', "order_id", "123456789012345678901234567890"),
        (b'{"order_id": "\\u00c9 7"}', "order_id", "É 7"),
        (b'{"order_id": 1, "x": 1e999}', "order_id", "1"),
        (b'{"order_id": "' + b"x" * 255 + b'"}', "order_id", "x" * 255),
    ],
)
def test_the_order_is_named_where_the_settings_say(body: bytes, path: str, found: str) -> None:
    assert reference(body, path) == found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"order_id"',
        b"{}",
        b'{"order_id": null}',
        b'{"order_id": true}',
        b'{"order_id": 4.2}',
        b'{"order_id": 42.0}',
        b'{"order_id": 4e1}',
        b'{"order_id": {"order_id": 1}}',
        b'{"order_id": [1]}',
        b'{"order_id": ""}',
        b'{"order_id": "' + b"x" * 256 + b'"}',
        b'{"order_id": ' + b"9" * 256 + b"}",
        b'{"order_id": ' + b"9" * 60_000 + b"}",
        b'{"order_id": "a\\u0000b"}',
        b'{"order_id": "a\\nb"}',
        b'{"order_id": "\\ud800"}',
        b'{"order_id": "\\u202e42"}',
        b'{"order_id": "\\u00a042"}',
        b'{"order_id": 1, "order_id": 2}',
        b'{"order_id": 1, "x": {"y": 1, "y": 1}}',
        b'{"order_id": 1, "x": NaN}',
        b'{"order_id": 1, "x": -Infinity}',
        b'{"order_id": 1, "x": 01}',
        b'{"order_id": 1} {}',
        b'{"order_id": 1',
        b'{"order_id": "\xff"}',
        b'\xef\xbb\xbf{"order_id": 1}',
        '{"order_id": 1}'.encode("utf-16"),
        b'{"order_id": 1, "x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    ],
)
def test_a_body_that_names_no_order_is_unusable(body: bytes) -> None:
    with pytest.raises(Unusable):
        reference(body, "order_id")


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_body_is_more_than_unusable(body: bytes) -> None:
    try:
        found = reference(body, "order_id")
    except Unusable:
        return
    assert 1 <= len(found) <= 255
    assert found.isprintable()


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=8,
)


@given(value=_json)
def test_what_stands_at_the_path_is_taken_and_nothing_else(value: Any) -> None:
    body = json.dumps({"a": {"b": value}}).encode()
    usable = (isinstance(value, str) and 1 <= len(value) <= 255 and value.isprintable()) or (
        isinstance(value, int) and not isinstance(value, bool)
    )
    try:
        assert reference(body, "a.b") == str(value)
        assert usable
    except Unusable:
        assert not usable


# --- what is answered ---------------------------------------------------------------------------


def test_an_event_is_stored_told_on_and_only_then_confirmed(
    app: Starlette, local_ledger: Ledger, hints: list[Hint]
) -> None:
    answer = post(app, "loja", spatie(BODY), BODY[:10], BODY[10:])
    assert (answer.status, answer.body) == (202, b"received\n")
    [row] = stored(local_ledger)
    assert row == ("loja", "f252eeefffafb6c2aee942d71d49f6bc3ab84e13f54bf411bbd6948afa1fa6f5", "42")
    [hint] = hints
    assert (hint.source, hint.event_id, hint.reference) == row


def test_an_event_that_is_sent_again_is_confirmed_and_changes_nothing(
    app: Starlette, local_ledger: Ledger, hints: list[Hint]
) -> None:
    assert post(app, "padrao", standard(BODY, "msg_1", NOW), BODY).status == 202
    before = local_ledger.database.rows(_everything())
    later = standard(b'{"order_id":43}', "msg_1", NOW + 60)
    for headers, body in ((standard(BODY, "msg_1", NOW), BODY), (later, b'{"order_id":43}')):
        answer = post(app, "padrao", headers, body)
        assert (answer.status, answer.body) == (200, b"received before\n")
    assert local_ledger.database.rows(_everything()) == before
    assert len(hints) == 1
    assert post(app, "loja", spatie(BODY), BODY).status == 202, "another source is another event"


def _everything() -> Any:
    return sa.select(inbox)


def test_whatever_is_wrong_with_the_proof_the_answer_is_the_same(app: Starlette, local_ledger: Ledger) -> None:
    answers = [
        post(app, "loja", JSON, BODY),
        post(app, "loja", {**spatie(BODY), "signature": "0" * 64}, BODY),
        post(app, "loja", spatie(BODY, "another-secret-here"), b"no JSON"),
        post(app, "padrao", standard(BODY, "msg_1", NOW - 301), BODY),
        post(app, "padrao", spatie(BODY), BODY),
        post(app, "nobody", spatie(BODY), BODY),
        post(app, "LOJA", spatie(BODY), BODY),
    ]
    assert {answer.status for answer in answers} == {401}
    assert len({(answer.body, tuple(answer.headers.items())) for answer in answers}) == 1
    assert stored(local_ledger) == []


def test_a_signed_body_without_an_order_is_named_by_its_field_alone(
    app: Starlette, local_ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    body = b'{"cliente":"ana@example.com","data":{"order":{"number":null}}}'
    with caplog.at_level(logging.INFO, "erp_sync"):
        answer = post(app, "fila", spatie(body, NEW_SECRET), body)
    assert answer.status == 422
    assert answer.body == b"data.order.number must be there once, as a text of 1 to 255 characters or an integer\n"
    assert stored(local_ledger) == []
    [line] = caplog.records
    assert line.__dict__["outcome"] == "unusable"
    assert "ana@" not in str(line.__dict__)


def test_each_request_is_one_line_without_body_and_signature(app: Starlette, caplog: pytest.LogCaptureFixture) -> None:
    headers = standard(BODY, "msg_1", NOW)
    with caplog.at_level(logging.INFO, "erp_sync"):
        post(app, "padrao", headers, BODY)
        post(app, "padrao", headers, BODY)
        post(app, "somebody-ana@example.com", headers, BODY)
        post(app, "padrao", {**headers, "content-type": "text/plain"}, BODY)
    said = [line.__dict__ for line in caplog.records if line.name.startswith("erp_sync")]
    assert [(line["event"], line["source"], line["outcome"], line["event_id"]) for line in said] == [
        ("webhook.received", "padrao", "received", "msg_1"),
        ("webhook.received", "padrao", "known", "msg_1"),
        ("webhook.refused", "unknown", "unauthentic", None),
        ("webhook.refused", "padrao", "encoded", None),
    ]
    assert all(line["metrics"]["receive_ms"] >= 0 and line["peer"] == "127.0.0.1" for line in said)
    for hidden in (headers["webhook-signature"][3:], "cliente", "ana@", STANDARD_SECRET[6:]):
        assert hidden not in str(said)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "application/x-www-form-urlencoded"}, BODY, 415),
        ({"content-type": ""}, BODY, 415),
        ({"content-type": "application/json; charset=utf-8"}, BODY, 202),
        ({"content-encoding": "gzip"}, BODY, 415),
        ({"content-encoding": "identity"}, BODY, 202),
        ({"content-length": str(64 * 1024 + 1)}, BODY, 413),
        ({"content-length": "9" * 400}, BODY, 413),
        ({"content-length": "-1"}, BODY, 400),
        ({"content-length": "71", "transfer-encoding": "chunked"}, BODY, 400),
        ({"x-big": "x" * (16 * 1024)}, BODY, 431),
        ({f"x-{n}": "" for n in range(64)}, BODY, 431),
    ],
)
def test_what_headers_say_against_a_request(app: Starlette, headers: dict[str, str], body: bytes, status: int) -> None:
    given = {**spatie(BODY), **headers}
    answer = post(app, "loja", given, body)
    assert answer.status == status
    if status != 202:
        assert answer.headers["connection"] == "close"
        unknown = post(app, "nobody", given, body)
        assert (unknown.status, unknown.body) == (status, answer.body), "no word on which sources there are"


def test_a_body_is_read_to_its_limit_and_not_on(app: Starlette, local_ledger: Ledger) -> None:
    largest = b'{"order_id":1,"x":"' + b"y" * (64 * 1024 - 21) + b'"}'
    assert len(largest) == 64 * 1024
    assert post(app, "loja", spatie(largest), largest).status == 202
    read: list[int] = []

    def endless() -> Iterator[bytes]:
        while True:
            read.append(1)
            yield b"x" * 1024

    chunked = {**JSON, "transfer-encoding": "chunked"}
    assert asyncio.run(call(app, "POST", "/webhooks/loja", chunked, endless())).status == 413
    assert len(read) == 65
    assert len(stored(local_ledger)) == 1


def test_a_body_that_does_not_come_is_not_waited_for(app: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "BODY_SECONDS", 0.05)

    silent = call(app, "POST", "/webhooks/loja", spatie(BODY), [BODY[:30]], ends=False)
    assert asyncio.run(silent).status == 408


def test_other_methods_and_addresses_store_nothing(app: Starlette, local_ledger: Ledger) -> None:
    async def ask(method: str, path: str) -> Answer:
        return await call(app, method, path, spatie(BODY), [BODY])

    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"):
        assert asyncio.run(ask(method, "/webhooks/loja")).status == 405
        assert asyncio.run(ask(method, "/webhooks/nobody")).status == 405
    for path in ("/", "/webhooks", "/webhooks/", "/webhooks/loja/", "/webhooks/loja/x", "/openapi.json", "/docs"):
        answer = asyncio.run(ask("POST", path))
        assert (answer.status, answer.headers.get("location")) == (404, None)
    assert stored(local_ledger) == []


# --- a ledger that is away ----------------------------------------------------------------------


class _Hanging:
    """A ledger whose database is silent until `go`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.go = threading.Event()
        self.begun = 0
        self.database = ledger.database

    def receive(self, *what: str) -> Hint | None:
        self.begun += 1
        self.go.wait(20)
        return self._ledger.receive(*what)


def test_a_silent_ledger_does_not_hold_the_sender_and_what_lands_late_is_known(
    local_ledger: Ledger, hints: list[Hint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "STORE_SECONDS", 1.0)
    monkeypatch.setattr(receiving, "MOST_WAITING", 12)
    hanging = _Hanging(local_ledger)
    app = receiver(settings(), hanging, notify=hints.append, clock=lambda: NOW)  # type: ignore[arg-type]

    async def timed(number: int) -> tuple[Answer, float]:
        started = time.monotonic()
        answer = await call(app, "POST", "/webhooks/padrao", standard(BODY, f"m{number}", NOW), [BODY])
        return answer, time.monotonic() - started

    async def flood() -> list[tuple[Answer, float]]:
        return await asyncio.gather(*map(timed, range(40)))

    answers = asyncio.run(flood())
    assert {(answer.status, answer.headers["retry-after"]) for answer, _ in answers} == {(503, "5")}
    assert max(took for _, took in answers) < 3
    assert sum(took < 0.9 for _, took in answers) == 28, "those that are one too many do not even wait"
    assert hanging.begun == receiving.THREADS, "the rest is not stored behind the sender's back"
    hanging.go.set()
    _until(lambda: len(hints) == receiving.THREADS)
    assert {hint.event_id for hint in hints} == {row[1] for row in stored(local_ledger)}
    late = post(app, "padrao", standard(BODY, hints[0].event_id, NOW), BODY)
    assert (late.status, len(hints)) == (200, receiving.THREADS)
    assert post(app, "padrao", standard(BODY, "m39", NOW), BODY).status == 202


def _until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


@pytest.mark.parametrize("error", [LedgerUnavailable("away"), Misconfigured("run erp-sync migrate")])
def test_a_ledger_that_says_no_is_a_503(
    error: Exception, local_ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing:
        database = local_ledger.database

        def receive(self, *_what: str) -> Hint | None:
            raise error

    app = receiver(settings(), Refusing(), clock=lambda: NOW)  # type: ignore[arg-type]
    answer = post(app, "loja", spatie(BODY), BODY)
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (503, b"send it again later\n", "5")
    [line] = caplog.records
    assert (line.levelname, line.__dict__["cause"]) == ("WARNING", str(error))


def test_a_defect_is_an_error_in_the_log_and_no_word_to_the_sender(
    local_ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_hint: Hint) -> None:
        raise ZeroDivisionError("a detail")

    app = receiver(settings(), local_ledger, notify=broken, clock=lambda: NOW)
    answer = post(app, "loja", spatie(BODY), BODY)
    assert (answer.status, answer.body) == (500, b"send it again later\n")
    [line] = caplog.records
    assert line.exc_info is not None
    assert line.exc_info[0] is ZeroDivisionError
    assert post(app, "loja", spatie(BODY), BODY).status == 200, "stored it was, and the express look finds it there"


def test_ready_is_who_could_store_an_event_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "READY_SECONDS", 0)
    url = f"sqlite:///{tmp_path / 'later.sqlite'}"
    ledger = open_ledger(url, check=False)
    app = receiver(settings(), ledger)
    assert [get(app, path).status for path in ("/readyz", "/healthz")] == [503, 200]
    migrate(url)
    ready = get(app, "/readyz")
    assert (ready.status, ready.body) == (200, b"ready\n")
    ledger.close()
