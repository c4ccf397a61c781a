"""An ERP, or whoever stands in its place, that answers anything: each call ends in time, in bounded memory, with a
value or an error of ours; and garbage never makes an order sent, refused or due again.

ERP_SYNC_FUZZ_EXAMPLES: how many generated answers each test looks at (100).
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from erp_sync.erp import generic_query
from erp_sync.erp.answers import Answer, read_answer
from erp_sync.erp.client import ErpClient
from erp_sync.erp.gate import OpenGate
from erp_sync.erp.protheus import Protheus
from erp_sync.erp.retail_stock import RetailStock
from erp_sync.erp.statuses import ErpStatuses
from erp_sync.erp.stock import ErpStock
from erp_sync.errors import ErpSyncError, ErpUnavailable, InDoubt, Misconfigured, Refused
from erp_sync.models import CreatedOrder, CustomerCode, ErpCustomer, ErpOrder
from erp_sync.settings import ErpSection, Settings, StatusesSection, StockSection
from erp_sync_tests.scripted_erp import TOKEN, Request, Script, ScriptedErp, response

EXAMPLES = int(os.environ.get("ERP_SYNC_FUZZ_EXAMPLES", "100"))
LIMIT = 0.5
"""Seconds that an answer may take here."""
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
ORDER = ErpOrder("LJ-1", {}, ({"C6_ITEM": "01"},), ErpCustomer("52998224725", None, {}), Decimal(1))
CODE = CustomerCode("000731", "01")
SETTINGS = Settings(
    erp_url="http://127.0.0.1:1/rest",
    erp_user="svc",
    erp_password="s3cr3t-c4n4ry",  # type: ignore[arg-type]
    erp_tenant="01,0101",
    erp=ErpSection(),
    statuses=StatusesSection(delivered_from="gfe", tracking_field="C5_RASTR"),
)
RETAIL = SETTINGS.model_copy(
    update={"stock": StockSection(source="retail", formula="simple", subtract_open_orders=False)}
)


def client_of(root: str, seconds: float = LIMIT) -> ErpClient:
    limits = {"connect_timeout": seconds, "read_timeout": seconds, "write_timeout": seconds}
    return ErpClient(root, "svc", "x", "01,0101", gate=OpenGate(), sleep=lambda _: None, **limits)  # type: ignore[arg-type]


def soon() -> float:
    return time.monotonic() + 5


Calls = dict[str, Callable[[], object]]


def calls_of(client: ErpClient) -> Calls:
    """Everything that asks the ERP."""
    protheus, statuses = Protheus(client, SETTINGS), ErpStatuses(client, SETTINGS)
    stock, retail = ErpStock(client, SETTINGS), RetailStock(client, RETAIL)
    return {
        "probe": protheus.probe,
        "find_orders": lambda: protheus.find_orders(["LJ-1"]),
        "read_orders": lambda: protheus.read_orders(["000001"]),
        "external_ids_of": lambda: protheus.external_ids_of(date(2026, 11, 24)),
        "find_customers": lambda: protheus.find_customers(["52998224725"]),
        "customer": lambda: protheus.customer(CODE),
        "progress": lambda: statuses.progress(["000001"]),
        "deleted": lambda: statuses.deleted(["000001"]),
        "releases": lambda: statuses.releases(["000001"]),
        "invoices": lambda: statuses.invoices(["000001"]),
        "stock": lambda: [balance for balance, _ in zip(stock.all(), range(100), strict=False)],
        "named": lambda: stock.named(["SKU-1"], "SKU-2"),
        "registered": lambda: stock.registered(["SKU-1"]),
        "retail": lambda: [balance for balance, _ in zip(retail.all(), range(100), strict=False)],
    }


def writes_of(client: ErpClient) -> Calls:
    protheus, statuses = Protheus(client, SETTINGS), ErpStatuses(client, SETTINGS)
    return {
        "create_order": lambda: protheus.create_order(ORDER, CODE, soon),
        "create_customer": lambda: protheus.create_customer(ORDER.customer, soon),
        "cancel": lambda: statuses.cancel("0101", "000001", "LJ-1", soon),
    }


def outcome(call: Callable[[], object]) -> object:
    """What it returned, or the error of ours that it raised: no other leaves erp/."""
    try:
        return call()
    except ErpSyncError as error:
        assert "s3cr3t" not in str(error)
        assert len(str(error)) < 5_000
        return error


# On the wire --------------------------------------------------------------------------------------------------------


def says(*parts: bytes, pause: float = 0.0) -> Script:
    """These bytes, then the end; a pause between them."""

    def script(_: Request, sock: socket.socket) -> None:
        for part in parts:
            sock.sendall(part)
            time.sleep(pause)
        sock.shutdown(socket.SHUT_WR)

    return script


def without_end(head: bytes, part: bytes, pause: float = 0.0) -> Script:
    def script(_: Request, sock: socket.socket) -> None:
        sock.sendall(head)
        while True:  # until the client goes
            sock.sendall(part)
            time.sleep(pause)

    return script


def packed(content: bytes, encoding: str, times: int = 1) -> bytes:
    for _ in range(times):
        content = gzip.compress(content)
    return response(200, content, {"Content-Encoding": encoding})


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BOMB = b"[" + b" " * 80_000_000
DOCUMENT = {"items": [], "hasNext": False}
SENT = {"pedido": "000123", "filial": "0101"}
WIRES: dict[str, Script] = {
    "nothing": says(),
    "HTTP/0.9": says(b'{"items":[],"hasNext":false}'),
    "no status": says(b"\x16\x03\x01\x02\x00 garbage\r\n\r\n"),
    "a status of letters": says(b"HTTP/1.1 abc OK\r\n\r\n"),
    "a status of 999": says(b"HTTP/1.1 999 x\r\nContent-Length: 2\r\n\r\n{}"),
    "too long": says(OK + b"Content-Length: 9999\r\n\r\n{}"),
    "too short": says(OK + b"Content-Length: 3\r\n\r\n" + json.dumps(SENT).encode()),
    "two lengths": says(OK + b"Content-Length: 3\r\nContent-Length: 30\r\n\r\n" + json.dumps(SENT).encode()),
    "a length below zero": says(OK + b"Content-Length: -5\r\n\r\n{}"),
    "a huge length": says(OK + b"Content-Length: 99999999999999999999999\r\n\r\n{}"),
    "chunks of letters": says(CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n"),
    "chunks below zero": says(CHUNKED + b"-5\r\n{}\r\n0\r\n\r\n"),
    "huge chunks": says(CHUNKED + b"FFFFFFFFFFFFFFFFFFFF\r\n{}"),
    "chunks without end": without_end(CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n"),
    "a chunk's length without end": without_end(CHUNKED, b"1" * 65536),
    "trailers without end": without_end(CHUNKED + b"0\r\n", b"X: y\r\n" * 10_000),
    "a head without end": without_end(OK, b"X: " + b"y" * 65536),
    "a million heads": without_end(OK, b"X: y\r\n" * 10_000),
    "a flood of 100 Continue": without_end(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000),
    "a flood of 103": without_end(b"", b"HTTP/1.1 103 Early\r\n\r\n" * 1_000),
    "switching": says(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"),
    "slow bytes": without_end(OK + b"Content-Length: 1000\r\n\r\n", b"[", 0.02),
    "slow heads": without_end(OK, b"X", 0.02),
    "a bomb": says(packed(BOMB, "gzip")),
    "a bomb in a bomb": says(packed(BOMB, "gzip, gzip", 2)),
    "a bomb in a redirect": says(packed(BOMB, "gzip").replace(b"200 Scripted\r\n", b"302 x\r\nLocation: /x\r\n")),
    "a wrong encoding": says(response(200, b"{}", {"Content-Encoding": "gzip"})),
    "an unknown encoding": says(response(200, DOCUMENT, {"Content-Encoding": "br, zstd, x"})),
    "a redirect": says(response(302, b"", {"Location": "http://169.254.169.254/latest"})),
    "a redirect to nowhere": says(b"HTTP/1.1 302 x\r\nLocation: http://[::1\xff\r\nContent-Length: 0\r\n\r\n"),
    "a redirect without end": without_end(b"HTTP/1.1 301 x\r\nLocation: /x\r\n\r\n", b" " * 65536),
    "odd dates": says(
        response(200, b"x", {"Date": "Mon, 99999999999 Nov 9999999 25:61:61 +9999", "Retry-After": "1e9"})
    ),
    "no room for a date": says(
        response(503, b"x", {"Date": "Fri, 31 Dec 9999 23:59:59 -2359", "Retry-After": "9" * 5000})
    ),
    "UTF-16": says(response(200, json.dumps(SENT).encode("utf-16"))),
    "UTF-32": says(response(200, json.dumps(SENT).encode("utf-32"))),
    "no UTF-8": says(response(200, b'{"pedido": "\xff\xfe\xfd"}')),
    "a page": says(response(200, "<html>pedido 000123</html>", {"Content-Type": "text/html"})),
    "nested": says(response(200, b"[" * 2_000_000)),
    "nested a little less": says(response(200, b'{"pedido":' + b"[" * 900 + b"]" * 900 + b"}")),
    "many digits": says(response(200, b'{"items": [{"r_e_c_n_o_": ' + b"9" * 1_000_000 + b"}]}")),
    "a great number": says(response(200, b'{"items": [{"c5_num": 1e999999999}], "hasNext": false}')),
    "no number": says(response(200, b'{"items": NaN, "hasNext": Infinity}')),
    "a word": says(response(200, b'"pedido 000123"')),
    "large": says(response(200, b" " * 6_000_000)),
}
READABLE = {"a word", "nested a little less", "an unknown encoding", "no UTF-8", "a length below zero"}


@pytest.mark.parametrize("name", WIRES)
def test_whatever_comes_over_the_wire(name: str) -> None:
    with ScriptedErp(WIRES[name]) as erp:
        client = client_of(erp.root)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        error = outcome(lambda: client.get("/x", []))
        tries = len(erp.requests)
        client.close()
        client = client_of(erp.root)
        created = outcome(writes_of(client)["create_order"])
        seconds = time.monotonic() - started
        client.close()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if isinstance(error, Answer):
        assert name in READABLE
    else:
        assert isinstance(error, ErpUnavailable | Misconfigured), error
    assert isinstance(created, InDoubt) or (isinstance(created, Refused) and not created.certain), created
    # A write is never repeated; and a read that was given up may be noted late.
    assert sum(request.method == "POST" for request in erp.requests) == 1
    assert seconds < LIMIT * (tries + 1) + 3.0
    assert grown < 120


def test_a_login_that_answers_anything() -> None:
    for name in ("nothing", "slow bytes", "nested", "a bomb", "a redirect", "odd dates", "a million heads"):
        with ScriptedErp(WIRES["nothing"], token=WIRES[name]) as erp:
            client = client_of(erp.root, 0.2)
            assert isinstance(outcome(writes_of(client)["create_order"]), ErpUnavailable | Misconfigured), name
            assert erp.requests == []  # nothing was sent
            client.close()


@pytest.mark.parametrize(
    "odd",
    [
        {"expires_in": 10**400},
        {"expires_in": "nan"},
        {"expires_in": "1e999"},
        {"expires_in": [1]},
        {"expires_in": -1},
        {"refresh_token": "\ud800"},
        {"refresh_token": {"x": 1}, "expires_in": 0},
    ],
)
def test_an_odd_token_is_used_and_kept_for_an_hour(odd: dict[str, Any]) -> None:
    token = says(response(200, json.dumps({**TOKEN, **odd})))
    with ScriptedErp(says(response(200, DOCUMENT)), token=token) as erp:
        client = client_of(erp.root)
        for _ in range(3):
            client.get("/x", [])
        client.close()
    assert len(erp.token_requests) == 1


@pytest.mark.parametrize("token", ["", "\ud800", "a\r\nX: y", "ã", None, 5, ["x"]])
def test_no_token_is_no_login(token: Any) -> None:
    document = json.dumps({"access_token": token})
    with ScriptedErp(WIRES["nothing"], token=says(response(200, document))) as erp:
        client = client_of(erp.root)
        assert isinstance(outcome(lambda: client.get("/x", [])), Misconfigured | ErpUnavailable)
        client.close()
    assert erp.requests == []


def test_cookies_do_not_pile_up() -> None:
    count = iter(range(10_000))

    def script(_: Request, sock: socket.socket) -> None:
        heads = "".join(f"Set-Cookie: c{next(count)}=x\r\n" for _ in range(40))
        sock.sendall(OK + heads.encode() + b"Content-Length: 2\r\n\r\n{}")

    with ScriptedErp(script) as erp:
        client = client_of(erp.root)
        for _ in range(20):
            client.get("/x", [])
        client.close()
    assert max(len(request.headers.get("cookie", "").split(";")) for request in erp.requests) <= 80


# In what it says ----------------------------------------------------------------------------------------------------


class Says(ErpClient):
    """The client without a network: what a body means is looked at many thousand times."""

    def __init__(self, *bodies: bytes, status: int = 200) -> None:
        super().__init__("http://127.0.0.1:1/rest", "svc", "x", "01,0101", gate=OpenGate(), sleep=lambda _: None)
        self.bodies = bodies
        self.status = status
        self.calls: list[None] = []
        self._credential = _Basic()

    @property
    def asked(self) -> int:
        return len(self.calls)

    def _exchange(self, *_: Any, **__: Any) -> Answer:
        self.calls.append(None)
        return read_answer(self.status, {}, self.bodies[min(self.asked, len(self.bodies)) - 1], 1.0)


class _Basic:
    def authorization(self) -> str:
        return "Basic x"

    def renew(self, refused: str) -> None:
        pass


ODD: tuple[str, ...] = (
    "",
    "*",
    "0101",
    "000001",
    "LJ-1",
    "1e999999",
    "NaN",
    "sNaN",
    "Infinity",
    "\x00",
    "\ud800",
    "a\nb",
    "\u202e",
)
ODD += ("20269999", "99:99", "²", "x" * 10_000, "' OR '1'='1", "SKU-1", "SKU-2", "01")
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, -(10**4000), 10**4000, 0]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(st.characters(codec=None), max_size=8),
    st.sampled_from(ODD),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
RAW = st.sampled_from(
    ["1e999999999", "-1e-999999999", "1e400", "9" * 5000, "[" * 950 + "]" * 950, "NaN", "{", "1" * 400]
)


def row(**values: Any) -> dict[str, Any]:
    """One that every query of these tests takes for a row of its own."""
    plain: dict[str, Any] = {
        name.lower(): "1" for fields in generic_query.TABLES.values() for name in (*fields, "C5_XPEDWEB", "C5_RASTR")
    }
    prefixes = {name.partition("_")[0] for name in plain}
    plain |= {f"{prefix}_filial": "0101" for prefix in prefixes}
    plain |= {"c5_num": "000001", "c6_num": "000001", "c5_xpedweb": "LJ-1", "a1_cgc": "52998224725", "b2_cod": "SKU-2"}
    plain |= {
        "c9_pedido": "000001",
        "d2_pedido": "000001",
        "d2_emissao": "20261120",
        "b2_local": "01",
        "b1_cod": "SKU-1",
    }
    plain |= {"gw1_sit": "5", "gwu_dtent": "20261120", "gwu_hrent": "10:00", "a1_cod": "000731", "a1_loja": "01"}
    plain |= {"branchid": "0101", "iteminternalid": "SKU-1", "warehouseinternalid": "01", "currentstockamount": 5}
    return plain | {"bookedstockamount": 1, "d_e_l_e_t_": " ", "r_e_c_n_o_": 1} | values


FIELDS = sorted(row())


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """An answer to a read as it might be, and then something in it changed."""
    items: list[Any] = [row(r_e_c_n_o_=number) for number in range(1, draw(st.integers(1, 3)))]
    document: dict[str, Any] = {"items": items, "hasNext": draw(st.sampled_from([False, True, "x", None]))}
    for _ in range(draw(st.integers(0, 3))):
        if items:
            of = items[draw(st.integers(0, len(items) - 1))]
            if isinstance(of, dict):
                name = draw(st.sampled_from(FIELDS))
                if draw(st.booleans()):
                    of[name] = draw(ANYTHING)
                else:
                    of.pop(name, None)
    if draw(st.integers(0, 5)) == 0:
        document[draw(st.sampled_from(["items", "hasNext", "remainingRecords", "protectedDataFields", "code"]))] = draw(
            ANYTHING
        )
    text = json.dumps(document, ensure_ascii=draw(st.booleans()))
    if draw(st.integers(0, 3)) == 0:
        text = text.replace('"1"', draw(RAW), 1)
    content = text.encode(draw(st.sampled_from(["utf-8", "utf-8", "latin-1", "utf-16", "utf-8-sig"])), "replace")
    cut = draw(st.sampled_from([None, None, None, 5, 100]))
    return content[:cut]


@BOUNDED
@given(answers(), answers(), st.sampled_from([200, 200, 200, 200, 204, 400, 404, 500]))
@example(b'{"items":[' + json.dumps(row(c5_num="a\x00b")).encode() + b'],"hasNext":false}', b"{}", 200)
@example(b'{"items":[' + json.dumps(row(c6_valor="1e999999")).encode() + b'],"hasNext":false}', b"{}", 200)
@example(b'{"items":[' + json.dumps(row(b2_cod="a\nb")).encode() + b'],"hasNext":true}', b"{}", 200)
@example(
    b'{"items":[' + json.dumps(row()).replace('"1"', "1e999999999", 1).encode() + b'],"hasNext":false}', b"{}", 200
)
@example(b'{"items":[],"hasNext":' + b"[" * 970 + b"]" * 970 + b"}", b"{}", 200)
def test_a_read_ends_in_a_value_or_in_an_error_of_ours(first: bytes, second: bytes, status: int) -> None:
    for call in calls_of(Says(first, second, status=status)):
        client = Says(first, second, status=status)
        found = outcome(calls_of(client)[call])
        assert not isinstance(found, Refused | InDoubt), (call, found)
        assert client.asked < 300
        if not isinstance(found, ErpSyncError):
            repr(found).encode("utf-8")  # what a database and a log can hold


REPLIES = st.dictionaries(
    st.sampled_from(["pedido", "filial", "pedidoExterno", "jaExistia", "codigo", "loja", "situacao", "forma", "x"]),
    st.one_of(ANYTHING, st.sampled_from(["000123", "0101", "LJ-1", "cancelado", "01", True])),
    max_size=6,
)


@BOUNDED
@given(REPLIES, st.sampled_from([200, 201, 202, 204]), RAW, st.integers(0, 4))
def test_a_write_is_proven_by_its_number_or_in_doubt(reply: dict[str, Any], status: int, raw: str, odd: int) -> None:
    """No garbage makes an order sent without its number, or lets it go out again."""
    text = json.dumps(reply)
    text = text.replace("true", raw, 1) if odd == 0 else text
    for name in writes_of(Says(b"")):
        client = Says(text.encode(), status=status)
        found = outcome(writes_of(client)[name])
        assert client.asked == 1
        if isinstance(found, ErpSyncError):
            assert isinstance(found, InDoubt) or (isinstance(found, Refused) and not found.certain), found
        elif isinstance(found, CreatedOrder):
            assert reply["pedido"].strip() == found.number
            assert found.branch in ("0101", str(reply.get("filial")).rstrip())
        elif isinstance(found, CustomerCode):
            assert (reply["codigo"].strip(), reply["loja"].strip()) == (found.code, found.store)
        else:
            assert reply["situacao"].strip().lower() in ("cancelado", "residuo")
            assert reply.get("pedido") in (None, "000001")


@BOUNDED
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")) | answers())
def test_a_crash_or_a_gateway_never_makes_an_order_refused_or_due(body: bytes) -> None:
    for status in (200, 302, 408, 500, 502, 504, 599):
        found = outcome(writes_of(Says(body, status=status))["create_order"])
        doubtful = isinstance(found, InDoubt) or (isinstance(found, Refused) and not found.certain)
        assert doubtful or (status == 200 and isinstance(found, CreatedOrder)), (status, found)


def pages(per_page: int) -> Iterator[bytes]:
    number = 0
    while True:
        items = [row(r_e_c_n_o_=number + each, b2_cod=f"S{number + each:09d}") for each in range(per_page)]
        number += per_page
        yield json.dumps({"items": items, "hasNext": True}).encode()


class Endless(Says):
    def __init__(self, per_page: int) -> None:
        super().__init__(b"")
        self._pages = pages(per_page)

    def _exchange(self, *_: Any, **__: Any) -> Answer:
        self.calls.append(None)
        return read_answer(200, {}, next(self._pages), 1.0)


@pytest.mark.parametrize("limit", ["MAX_ROWS", "MAX_SECONDS"])
def test_pages_without_end_end(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generic_query, limit, 0.2 if limit == "MAX_SECONDS" else 1000)
    started = time.monotonic()
    for name in ("find_orders", "releases", "registered"):
        assert isinstance(outcome(calls_of(Endless(10))[name]), ErpUnavailable)
    assert time.monotonic() - started < 10
