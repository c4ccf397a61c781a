"""What the doctor says of the ERP: one defect at a time on a sandbox ERP over HTTP, and it is named."""

from __future__ import annotations

import itertools
import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from erp_sync.demo import Stage, environment, stage
from erp_sync.doctor.erp import dictionary, erp, tenant
from erp_sync.doctor.erp_routes import NOWHERE, NUMBER, routes
from erp_sync.doctor.installation import Installation
from erp_sync.erp.client import ErpClient
from erp_sync.erp.gate import OpenGate
from erp_sync.erp.generic_query import GenericQuery
from erp_sync.erp_fields import WIDTHS
from erp_sync.models import Finding
from erp_sync.settings import Settings, load_settings
from erp_sync.shop.profile import load_profile
from erp_sync.sync.connections import open_connections
from erp_sync_tests.certificates import Authority
from erp_sync_tests.live import CONFIG
from erp_sync_tests.scripted_erp import Request, ScriptedErp, answer, response

PROFILE = load_profile("laravel")


@pytest.fixture(scope="module")
def shared() -> Iterator[Stage]:
    """An ERP with a row in each of its tables."""
    with stage(latency_ms=0, config=CONFIG, stocked=True) as on, environment(on.environment):
        orders = on.shop.checkout_many(2)
        connections = open_connections(load_settings())
        assert connections.orders_flow().run(sweep=True).failure is None
        entry = connections.ledger.entries([str(orders[0].order_id)])[str(orders[0].order_id)]
        connections.close()
        place = f"/orders/{entry.erp_branch}/{entry.erp_number}"
        on.erp.admin("POST", f"{place}/release", {})
        on.erp.admin("POST", f"{place}/invoice", {})
        yield on


@pytest.fixture
def on(shared: Stage) -> Iterator[Stage]:
    """Every switch is back as it was afterwards."""
    before = shared.erp.admin("GET", "/switches")
    with environment(shared.environment):
        yield shared
    shared.erp.switch(**before)


def look(*, environment_too: Mapping[str, str] | None = None, **sections: Mapping[str, Any]) -> list[Finding]:
    """With other values of some sections."""
    with environment(dict(environment_too or {})):
        settings = load_settings()
    changes = {name: getattr(settings, name).model_copy(update=values) for name, values in sections.items()}
    return list(erp(Installation(settings.model_copy(update=changes), PROFILE)))


def wrong(found: list[Finding]) -> list[Finding]:
    assert all(finding.advice for finding in found if finding.level != "ok"), found
    return [finding for finding in found if finding.level != "ok"]


def test_a_sound_erp_has_nothing_but_good_lines(on: Stage) -> None:
    found = look()
    assert wrong(found) == []
    said = {finding.subject: finding.message for finding in found}
    assert said["SC5"] == "11 fields are readable"
    assert {"SC6", "SA1", "SC9", "SD2", "SF2", "SB2", "clock", "login", "TLS", "products"} <= said.keys()
    assert said["C5_XPEDWEB"] == "exists, 20 wide"
    assert "HTTP 400" in said["erp.orders_path"] and "HTTP 400" in said["erp.customers_path"]
    assert said["cancellation"].endswith("answers (HTTP 200): it knows that there is no such order")


PLANTED: list[tuple[dict[str, Any], dict[str, Any], str, str, str]] = [
    ({"protected_fields": ["C6_QTDENT"]}, {}, "error", "SC6", "C6_QTDENT"),
    ({"level_fields": ["F2_CHVNFE"]}, {}, "error", "SF2", "F2_CHVNFE"),
    ({"protected_fields": ["A1_CGC"]}, {}, "error", "SA1", "A1_CGC"),
    ({"protected_fields": ["B2_RESERVA"]}, {}, "error", "SB2", "B2_RESERVA"),
    ({"protected_fields": ["B1_MSBLQL"]}, {}, "warning", "products", "B1_MSBLQL"),
    ({"protected_fields": ["A4_COD"]}, {}, "warning", "orders.carriers", "A4_COD"),
    ({}, {"erp": {"external_id_field": "C5_XNADA"}}, "error", "C5_XNADA", "has no field C5_XNADA"),
    ({}, {"erp": {"external_id_field": "C5_FRETE"}}, "error", "C5_FRETE", "of type N"),
    ({}, {"erp": {"external_id_width": 25}}, "error", "C5_XPEDWEB", "longer ids are cut silently"),
    ({}, {"erp": {"external_id_width": 10}}, "warning", "C5_XPEDWEB", "refused without need"),
    ({"dictionary_hidden": True, "trimmed_values": True}, {}, "warning", "C5_XPEDWEB", "could not be read"),
    ({"dictionary_hidden": True}, {"erp": {"external_id_width": 25}}, "error", "C5_XPEDWEB", "is 20 wide"),
    ({}, {"erp": {"widths": {"C6_PRODUTO": 30}}}, "warning", "erp.widths", "C6_PRODUTO = 15 (not 30)"),
    ({}, {"orders": {"payments": {"pix": "001", "x": "9ZZ"}}}, "error", "orders.payments", "9ZZ of 2 codes"),
    ({}, {"orders": {"default_payment": "8ZZ"}}, "error", "orders.payments", "8ZZ"),
    ({}, {"orders": {"carriers": {"x": "999999"}}}, "error", "orders.carriers", "999999"),
    ({}, {"orders": {"default_customer": "999999/01"}}, "error", "orders.default_customer", "not in the ERP"),
    ({"fixed_branch": "0101"}, {}, "warning", "tenant", "header is ignored"),
    ({"fixed_branch": "0102"}, {}, "warning", "tenant", "could not be proven"),
    ({"security_off": True}, {}, "error", "genericQuery", "HTTP 503"),
    ({"no_cancel_route": True}, {}, "error", "cancellation", "is unknown to the ERP"),
    ({}, {"erp": {"orders_path": "/wrong/pedidos"}}, "error", "erp.orders_path", "/wrong/pedidos is unknown"),
    ({}, {"erp": {"customers_path": "/wrong/clientes"}}, "error", "erp.customers_path", "/wrong/clientes is unknown"),
]


@pytest.mark.parametrize(("switches", "sections", "level", "subject", "says"), PLANTED)
def test_one_defect_is_named(
    switches: dict[str, Any], sections: dict[str, Any], level: str, subject: str, says: str, on: Stage
) -> None:
    on.erp.switch(**switches)
    found = wrong(look(**sections))
    assert [(one.level, one.subject) for one in found if says in one.message] == [(level, subject)], found


def test_rows_of_another_branch_are_an_error(on: Stage) -> None:
    on.erp.set_stock([{"code": "X-0102", "branch": "0102", "QATU": 1}])
    on.erp.switch(fixed_branch="0102")
    (finding,) = [one for one in wrong(look()) if one.subject == "tenant"]
    assert (finding.level, "'0102'" in finding.message) == ("error", True)


def test_a_clock_that_is_wrong(on: Stage) -> None:
    on.erp.admin("POST", "/clock", {"advance_seconds": 300})
    (finding,) = wrong(look())
    on.erp.admin("POST", "/clock", {"advance_seconds": 600})
    (worse,) = wrong(look())
    on.erp.admin("POST", "/clock", {"advance_seconds": -900})
    assert (finding.level, finding.subject, worse.level) == ("warning", "clock", "error")
    assert "s ahead of this machine's" in finding.message


def test_products_that_are_ordered_and_not_there(on: Stage) -> None:
    bad = on.shop.place_bad_order("unknown_sku")
    (finding,) = wrong(look())
    on.shop.cancel(bad)
    assert (finding.level, finding.subject) == ("error", "products")
    assert wrong(look()) == []


@pytest.mark.parametrize("shape", ["E1", "E2", "E3", "E4", "E5", "E6", "E7"])
@pytest.mark.parametrize("status", [400, 404, 500])
def test_however_this_erp_says_no_its_routes_are_there(shape: str, status: int, on: Stage) -> None:
    """A refusal may look like a route that is not there, or say nothing at all: that is no error, and not well."""
    on.erp.switch(error_shape=shape, error_status=status)
    settings = load_settings()
    with_client = ErpClient.from_settings(settings, OpenGate(), flow="backfill")
    found = list(routes(with_client, settings))
    with_client.close()
    assert [one.subject for one in found] == ["erp.orders_path", "erp.customers_path", "cancellation"]
    # Of E4 to E6 a route that is not there has the same status, and E7 says nothing.
    is_told = shape in ("E1", "E2", "E3")
    assert [one.level for one in found] == (["ok"] * 3 if is_told else ["warning", "warning", "ok"]), found


def test_a_login_that_is_refused_is_tried_no_more_and_certificates_are_still_told(on: Stage) -> None:
    found = look(environment_too={"ERP_SYNC_ERP_PASSWORD": "wrong-password"})
    assert [(one.level, one.subject) for one in found] == [("ok", "TLS"), ("error", "login")]
    assert "wrong-password" not in str(found)


def test_without_a_user_what_needs_none_is_looked_at(on: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ERP_SYNC_ERP_USER")
    assert [(one.level, one.subject) for one in look()] == [("ok", "TLS"), ("warning", "login")]


def test_a_shop_that_is_away_hides_no_line_but_its_products(on: Stage) -> None:
    found = look(environment_too={"ERP_SYNC_SHOP_URL": "mysql+pymysql://u:p@127.0.0.1:1/x"})
    assert [(one.level, one.subject) for one in wrong(found)] == [("warning", "products")]


def test_what_the_doctor_asks_stops_no_flow(on: Stage) -> None:
    """Five failures in a row would open the breaker; and an open one does not keep the doctor from looking."""
    connections = open_connections(load_settings())
    on.erp.switch(protected_fields=["C5_NUM"], dictionary_hidden=True, error_shape="E4")
    for _ in range(2):
        look(erp={"external_id_field": "C5_XNADA", "orders_path": "/wrong"})
    assert connections.gate.breaker_open() is None
    on.erp.switch(protected_fields=[], dictionary_hidden=False, error_shape="E1")
    for _ in range(5):
        connections.gate.failed()
    (finding,) = wrong(look())
    assert (finding.level, finding.subject) == ("warning", "breaker")
    assert connections.gate.breaker_open() is not None, "the doctor told it nothing"
    connections.gate.succeeded()
    connections.close()


# A scripted ERP: what a sandbox does not do -------------------------------------------------------------------------

SETTINGS = Settings.model_validate({"erp_tenant": "01,0101", "erp_user": "u", "erp_password": "p", "erp_url": None})


def ask(script: Callable[[Request], bytes]) -> tuple[list[Finding], list[Request]]:
    def answered(request: Request, sock: Any) -> None:
        nothing = response(200, {"items": [], "hasNext": False})
        sock.sendall(nothing if request.method == "GET" else script(request))

    with ScriptedErp(answered) as double:
        settings = SETTINGS.model_copy(update={"erp_url": double.root})
        client = ErpClient.from_settings(settings, OpenGate())
        found = list(routes(client, settings))
        client.close()
    return found, double.requests


def test_creates_are_asked_without_a_byte_and_the_cancellation_names_what_is_not_there() -> None:
    found, requests = ask(lambda _: response(404, {"errorMessage": "no route"}))
    assert {one.level for one in found} == {"error"}, found
    posts = {request.target.removeprefix("/rest"): request for request in requests if request.method == "POST"}
    for path in (NOWHERE, "/ecommerce/v1/pedidos", "/ecommerce/v1/clientes"):
        assert (posts[path].body, posts[path].headers["content-length"]) == (b"", "0")
    cancel = posts[f"/ecommerce/v1/pedidos/0101/{NUMBER}/cancelar"].json()
    assert len(cancel["C5_XPEDWEB"]) == 20
    asked = [request.target for request in requests if request.method == "GET"]
    assert any(NUMBER in target for target in asked)
    assert any(cancel["C5_XPEDWEB"] in target for target in asked)


def test_an_order_that_is_there_after_all_is_not_cancelled() -> None:
    row = {"C5_FILIAL": "0101", "C5_NUM": NUMBER, "C5_XPEDWEB": "X", "D_E_L_E_T_": " ", "R_E_C_N_O_": 1}
    row |= {"C5_CLIENTE": "1", "C5_LOJACLI": "1"} | dict.fromkeys(
        ("C5_FRETE", "C5_SEGURO", "C5_DESPESA", "C5_DESCONT"), 0
    )

    def script(request: Request, sock: Any) -> None:
        items = [row] if "SC5" in request.target else []
        sock.sendall(response(200 if request.method == "GET" else 400, {"items": items, "hasNext": False}))

    with ScriptedErp(script) as double:
        settings = SETTINGS.model_copy(update={"erp_url": double.root})
        client = ErpClient.from_settings(settings, OpenGate())
        *_, finding = routes(client, settings)
        client.close()
    assert (finding.level, "not asked" in finding.message) == ("warning", True)
    assert not [request for request in double.requests if request.target.endswith("/cancelar")]


@pytest.mark.parametrize(
    ("path", "said", "subject", "says"),
    [
        ("/pedidos", {"pedido": "000123"}, "erp.orders_path", "answers 000123 to a request without content"),
        ("/clientes", {"codigo": "000731", "loja": "01"}, "erp.customers_path", "answers 000731"),
        ("/cancelar", {"situacao": "cancelado", "forma": "exclusao"}, "cancellation", "says 'exclusao'"),
    ],
)
def test_an_endpoint_that_does_something_after_all_is_told(
    path: str, said: dict[str, str], subject: str, says: str
) -> None:
    def script(request: Request) -> bytes:
        if request.target.endswith(path):
            return response(201, said)
        return response(404 if NOWHERE in request.target else 400, {"errorMessage": "no"})

    found, _ = ask(script)
    assert [(one.subject, says in one.message) for one in found if one.level == "error"] == [(subject, True)]


@pytest.mark.parametrize(
    ("said", "levels"),
    [
        ({"numeroPedido": "000123"}, ["warning"] * 3),
        ([{"aRetUsr": [{"C5_NUM": "000123", "Mensagem": "ok"}]}], ["warning"] * 3),
        ({"mensagem": "Pedido 000123 incluido"}, ["warning"] * 3),
        ({"mensagem": "Gravado com sucesso"}, ["warning"] * 3),
        ({"situacao": "cancelado"}, ["warning"] * 3),
        ({"situacao": "cancelado", "mensagem": "cancelado"}, ["warning"] * 3),
        ({"situacao": "cancelado", "forma": "inexistente"}, ["warning", "warning", "ok"]),
        ({"Mensagem": "Dados invalidos"}, ["ok"] * 3),
        ({"Mensagem": "Pedido {id} inexistente"}, ["ok"] * 3),
        ({}, ["warning"] * 3),
    ],
)
def test_a_2xx_that_refuses_nothing_is_not_well(said: Any, levels: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erp_sync.doctor.erp_routes.secrets.token_hex", lambda _: "123456789A" * 25)

    def script(request: Request) -> bytes:
        if NOWHERE in request.target:
            return response(404, {"errorMessage": "no"})
        sent = request.json()["C5_XPEDWEB"] if request.body else ""
        return response(201, json.loads(json.dumps(said).replace("{id}", sent)))

    found, _ = ask(script)
    assert [one.level for one in found] == levels, found
    assert all("answers HTTP 201 and refuses nothing" in one.message for one in wrong(found))


@pytest.mark.parametrize(
    ("status", "text", "level"),
    [
        (404, "no such route: {path}", "error"),
        (404, "Cliente nao informado", "warning"),
        (404, "HELP: OBRIGAT\r\nCliente nao informado", "ok"),
        (404, "no such route: {other_letters}", "warning"),
        (404, "not found, request {id}", "warning"),
        (405, "Method Not Allowed", "error"),
        (403, "forbidden", "error"),
        (307, "moved", "error"),
        (500, "type mismatch on +", "ok"),
        (503, "sem licenca", "warning"),
        (502, "<html>Bad Gateway</html>", "warning"),
        (400, "", "warning"),
        (200, "Dados invalidos", "ok"),
    ],
)
def test_a_route_is_unknown_where_the_answer_is_that_of_a_path_that_nobody_has(
    status: int, text: str, level: str
) -> None:
    ids = itertools.count()

    def script(request: Request) -> bytes:
        path = request.target.removeprefix("/rest")
        if path == NOWHERE:
            return response(404, {"errorMessage": f"no such route: {path}"})
        said = text.format(path=path, other_letters=path.upper(), id=next(ids))
        return response(status, said if "<" in said or not said else {"errorMessage": said})

    found, _ = ask(script)
    assert {one.level for one in found} == {level}, found


@pytest.mark.parametrize(
    ("honoured", "level", "says"),
    [
        ("branch company", "ok", "another branch gets no rows, another company gets no rows"),
        ("branch", "warning", "the company in the tenantId header is ignored: a made-up company gets the rows of 0101"),
        ("company", "warning", "the branch in the tenantId header is ignored: a made-up branch gets the rows of 0101"),
        ("", "warning", "the tenantId header is ignored"),
    ],
)
def test_a_stranger_is_made_of_another_branch_and_of_another_company(honoured: str, level: str, says: str) -> None:
    def script(request: Request, sock: Any) -> None:
        company, _, branch = request.headers["tenantid"].partition(",")
        is_ours = ("company" not in honoured or company == "01") and ("branch" not in honoured or branch == "0101")
        row = {"b2_filial": "0101", "b2_cod": "X", "r_e_c_n_o_": 1}
        sock.sendall(response(200, {"items": [row] if is_ours else [], "hasNext": False}))

    with ScriptedErp(script) as double:
        settings = SETTINGS.model_copy(update={"erp_url": double.root})
        client = ErpClient.from_settings(settings, OpenGate())
        (finding,) = tenant(client, GenericQuery(client), settings)
        client.close()
    assert (finding.level, says in finding.message) == (level, True), finding


def test_widths_that_the_dictionary_does_not_show_are_named() -> None:
    def script(_: Request, sock: Any) -> None:
        row = {"x3_campo": "C5_XPEDWEB", "x3_tipo": "C", "x3_tamanho": 20}
        sock.sendall(response(200, {"items": [row], "hasNext": False}))

    with ScriptedErp(script) as double:
        settings = SETTINGS.model_copy(update={"erp_url": double.root})
        client = ErpClient.from_settings(settings, OpenGate())
        external_id, widths = dictionary(client, settings)
        client.close()
    assert (external_id.level, widths.level, widths.subject) == ("ok", "warning", "erp.widths")
    assert widths.message.startswith(f"{len(WIDTHS)} of {len(WIDTHS)} fields are not shown")
    assert all(name in widths.message for name in WIDTHS)


def server_tls(authority: Authority, folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(folder, "localhost"))
    return context


def test_the_certificate_its_end_and_its_authority(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "another CA")

    def said(settings: Settings) -> list[Finding]:
        return [one for one in erp(Installation(settings, None)) if one.subject == "TLS"]

    with ScriptedErp(answer(500), tls=server_tls(authority, tmp_path)) as double:
        known = SETTINGS.model_copy(update={"erp_url": double.root, "erp_ca_bundle": authority.bundle})
        ends, good = said(known)
        assert (ends.level, "ends on" in ends.message) == ("warning", True), "it ends tomorrow"
        assert (good.level, "verified, TLSv1.3 TLS_" in good.message) == ("ok", True)
        (foreign,) = said(known.model_copy(update={"erp_ca_bundle": other.bundle}))
        assert (foreign.level, "is not trusted" in foreign.message) == ("error", True)
        assert "ERP_SYNC_ERP_CA_BUNDLE" in foreign.advice
    (away,) = said(known)
    assert (away.level, "connection refused" in away.message) == ("error", True)


def test_an_erp_that_is_away_is_one_line(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"erp_url": "http://127.0.0.1:1/rest"})
    found = [one for one in erp(Installation(settings, None)) if one.level != "ok"]
    assert [(one.level, one.subject) for one in found] == [("error", "login")]
    assert "gives no token: no connection" in found[0].message
