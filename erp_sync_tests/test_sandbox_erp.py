"""The sandbox ERP behaves as contracts/protheus-rest.md says, asked over HTTP with nothing but requests."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from erp_sync.sandbox.background import SandboxErp, start_in_background
from erp_sync.sandbox.check_digits import is_tax_id
from erp_sync.sandbox.config import Fault, SandboxConfig, Switches
from erp_sync.sandbox.dictionary import Dictionary, next_code
from erp_sync.sandbox.store import Store
from erp_sync.sandbox.where import Comparison, WhereError, parse_where

PERSON = "52998224725"
COMPANIES = ("12ABC34501DE35", "11222333000181")
SKUS = ("CAFE-500", "BOLSA-01", "bolsa-01", "BLOQ-1")
_ids = itertools.count(1)


class Caller:
    """A plain HTTP client: one session, logged in, one tenant."""

    def __init__(self, erp: SandboxErp, tenant: str | None = None) -> None:
        self.erp = erp
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["tenantId"] = tenant or erp.tenant

    def token(self, **headers: str) -> requests.Response:
        login = {"username": self.erp.user, "password": self.erp.password, **headers}
        return self.post("/api/oauth2/v1/token?grant_type=password", data=b"", headers=login)

    def login(self) -> Caller:
        answer = self.token()
        assert answer.status_code == 201
        self.session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return self

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.session.post(f"{self.erp.root_url}{path}", timeout=options.pop("timeout", 20), **options)

    def query(self, tables: str, fields: str, where: str = "", **parameters: Any) -> requests.Response:
        sent: dict[str, Any] = {"tables": tables, "fields": fields, **({"where": where} if where else {}), **parameters}
        return self.session.get(f"{self.erp.root_url}/api/framework/v1/genericQuery", params=sent, timeout=20)

    def items(self, *query: str, **parameters: Any) -> list[dict[str, Any]]:
        answer = self.query(*query, **parameters)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["items"])

    def create(self, body: dict[str, Any], **options: Any) -> requests.Response:
        return self.post("/ecommerce/v1/pedidos", json=body, **options)

    def create_customer(self, body: dict[str, Any]) -> requests.Response:
        return self.post("/ecommerce/v1/clientes", json=body)

    def orders_of(self, external_id: str) -> list[str]:
        found = self.items("SC5", "C5_NUM", f"RTRIM(C5_XPEDWEB) = '{external_id}'")
        return [row["c5_num"] for row in found]


def seed(erp: SandboxErp) -> None:
    erp.add_products(SKUS)
    erp.admin("PATCH", "/products/BLOQ-1", {"blocked": True})
    people = [{"A1_COD": "000731", "A1_LOJA": "01", "A1_CGC": "", "A1_NOME": "José da Conceição", "A1_EST": "SP"}]
    people.append({"A1_COD": "000999", "A1_LOJA": "01", "A1_NOME": "Bloqueado", "A1_MSBLQL": "1"})
    erp.admin("POST", "/customers", people)


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxErp]:
    with start_in_background(SandboxConfig(password=SecretStr("s3nh@ forte"))) as erp:
        seed(erp)
        yield erp


@pytest.fixture
def erp(server: SandboxErp) -> Iterator[SandboxErp]:
    yield server
    server.set_faults()
    server.switch(**Switches().model_dump())


@pytest.fixture
def caller(erp: SandboxErp) -> Iterator[Caller]:
    caller = Caller(erp).login()
    yield caller
    caller.session.close()


def new_id() -> str:
    return f"WEB-{next(_ids):06}"


def item(name: str = "01", quantity: float = 2, price: float = 31.5, **fields: Any) -> dict[str, Any]:
    value = (Decimal(str(quantity)) * Decimal(str(price))).quantize(Decimal("0.01"))
    return {
        "C6_ITEM": name,
        "C6_PRODUTO": "CAFE-500",
        "C6_QTDVEN": quantity,
        "C6_PRCVEN": price,
        "C6_VALOR": float(value),
        "C6_OPER": "01",
        **fields,
    }


def order(external_id: str, *items: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "C5_XPEDWEB": external_id,
        "C5_TIPO": "N",
        "C5_CLIENTE": "000731",
        "C5_LOJACLI": "01",
        "C5_CONDPAG": "001",
        "C5_TIPOCLI": "F",
        "C5_EMISSAO": "20261123",
        "C5_FRETE": 18.9,
        "C5_DESCONT": 5.0,
        "LIBERA": False,
        "ITENS": list(items) or [item()],
        **fields,
    }


def person(tax_id: str = PERSON, **fields: str) -> dict[str, str]:
    kind = "F" if len(tax_id) == 11 else "J"
    names = {"A1_PESSOA": kind, "A1_NOME": "Antônia Gonçalves", "A1_NREDUZ": "Antônia", "A1_TIPO": "F"}
    return {"A1_CGC": tax_id, **names, "A1_END": "Rua das Flores, 10", "A1_EST": "SP", "A1_MUN": "Campinas", **fields}


# The token


def test_token_in_headers_query_and_form(erp: SandboxErp) -> None:
    caller = Caller(erp)
    login = {"username": erp.user, "password": erp.password}
    assert caller.token().status_code == 201
    path = "/api/oauth2/v1/token"
    assert caller.post(path, params={"grant_type": "password", **login}, data=b"").status_code == 201
    assert caller.post(path, data={"grant_type": "password", **login}).status_code == 201
    assert caller.token(password="wrong").status_code == 401
    assert caller.post(f"{path}?grant_type=client_credentials", data=b"", headers=login).status_code == 400
    erp.switch(token_status=200)
    answer = caller.token()
    assert answer.status_code == 200
    assert answer.json()["expires_in"] == 3600
    assert answer.json()["token_type"] == "Bearer"


def test_a_token_expires_and_is_refreshed_once(erp: SandboxErp) -> None:
    caller = Caller(erp)
    pair = caller.token().json()
    caller.session.headers["Authorization"] = f"Bearer {pair['access_token']}"
    assert caller.query("SB1", "B1_COD").status_code == 200
    erp.admin("POST", "/clock", {"advance_seconds": 3601})
    assert caller.query("SB1", "B1_COD").status_code == 401
    refresh = {"grant_type": "refresh_token", "refresh_token": pair["refresh_token"]}
    renewed = caller.post("/api/oauth2/v1/token", params=refresh, data=b"")
    assert renewed.status_code == 201
    assert caller.post("/api/oauth2/v1/token", params=refresh, data=b"").status_code == 401
    caller.session.headers["Authorization"] = f"Bearer {renewed.json()['access_token']}"
    assert caller.query("SB1", "B1_COD").status_code == 200
    erp.admin("POST", "/tokens/expire", {})
    assert caller.query("SB1", "B1_COD").status_code == 401


def test_basic_on_every_call_and_no_login_at_all(erp: SandboxErp) -> None:
    caller = Caller(erp)
    assert caller.query("SB1", "B1_COD").status_code == 401
    assert caller.create(order(new_id())).status_code == 401
    login = base64.b64encode(f"{erp.user}:{erp.password}".encode()).decode()
    caller.session.headers["Authorization"] = f"Basic {login}"
    assert caller.query("SB1", "B1_COD").status_code == 200
    caller.session.headers["Authorization"] = "Basic !!!"
    assert caller.query("SB1", "B1_COD").status_code == 401


def test_an_encoded_at_sign_breaks_the_login_in_the_query(erp: SandboxErp) -> None:
    erp.switch(raw_at_sign=True)
    url = f"{erp.root_url}/api/oauth2/v1/token?grant_type=password&username={erp.user}&password="
    assert requests.post(f"{url}s3nh%40%20forte", data=b"", timeout=5).status_code == 401
    assert requests.post(f"{url}s3nh@%20forte", data=b"", timeout=5).status_code == 201


def test_a_cold_server_refuses_its_first_login() -> None:
    with start_in_background(SandboxConfig(switches=Switches(cold_start=True))) as cold:
        assert [Caller(cold).token().status_code for _ in range(2)] == [401, 201]


def test_a_post_without_any_body_is_reset(erp: SandboxErp) -> None:
    erp.switch(body_required=True)
    assert Caller(erp).token().status_code == 201
    port = int(erp.root_url.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(b"POST /rest/api/oauth2/v1/token?grant_type=password HTTP/1.1\r\nHost: erp\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            connection.recv(100)


def test_a_sticky_cookie_is_needed_behind_the_balancer(erp: SandboxErp) -> None:
    erp.switch(sticky_cookie=True)
    caller = Caller(erp).login()
    assert caller.query("SB1", "B1_COD").status_code == 200
    caller.session.cookies.clear()
    assert caller.query("SB1", "B1_COD").status_code == 401


def test_with_security_off_everyone_writes_and_nobody_queries(erp: SandboxErp) -> None:
    erp.switch(security_off=True)
    caller = Caller(erp)
    assert caller.query("SB1", "B1_COD").status_code == 503
    assert caller.create(order(new_id())).status_code == 201


# Company and branch


@pytest.mark.parametrize(
    ("tenant", "status", "branch"),
    [
        ("01,0102", 200, "0102"),
        ("01,", 200, "0101"),
        ("01,0103", 404, ""),
        ("99,0101", 404, ""),
        ("01", 400, ""),
        ("01, 0101", 400, ""),
    ],
)
def test_the_tenant_chooses_the_branch(caller: Caller, tenant: str, status: int, branch: str) -> None:
    external_id = new_id()
    caller.session.headers["tenantId"] = tenant
    answer = caller.create(order(external_id))
    assert answer.status_code == (201 if status == 200 else status)
    if branch:
        assert answer.json()["filial"] == branch
        assert caller.orders_of(external_id)
        caller.session.headers["tenantId"] = "01,0101" if branch == "0102" else "01,0102"
        assert not caller.orders_of(external_id)
        # The endpoint looks for the external id in its own branch only.
        elsewhere = caller.create(order(external_id)).json()
        assert (elsewhere["jaExistia"], elsewhere["filial"]) == (False, caller.session.headers["tenantId"][3:])
        everywhere = caller.items("SC5", "C5_FILIAL", f"C5_XPEDWEB = '{external_id}'", FilialFilter="false")
        assert [row["c5_filial"] for row in everywhere] == ["0101", "0102"]


def test_a_tenant_that_is_missing_or_ignored(erp: SandboxErp, caller: Caller) -> None:
    external_id = new_id()
    erp.switch(fixed_branch="0102")
    assert caller.create(order(external_id)).json()["filial"] == "0102"
    erp.switch(fixed_branch="", all_branches=True)
    rows = caller.items("SC5", "C5_FILIAL", f"C5_XPEDWEB = '{external_id}'")
    assert [row["c5_filial"] for row in rows] == ["0102"]
    del caller.session.headers["tenantId"]
    assert caller.query("SC5", "C5_NUM").status_code == 200
    erp.switch(tenant_required=True)
    answer = caller.query("SC5", "C5_NUM")
    assert answer.status_code == 404
    assert answer.json()["errorCode"] == 1


# genericQuery


def test_values_are_padded_dates_plain_and_keys_lower_case(erp: SandboxErp, caller: Caller) -> None:
    external_id = new_id()
    number = caller.create(order(external_id)).json()["pedido"]
    fields = "C5_FILIAL,C5_NUM,C5_NOTA,C5_EMISSAO,C5_FRETE,C5_XPEDWEB,D_E_L_E_T_"
    expected = {
        "c5_filial": "0101",
        "c5_num": number,
        "c5_nota": " " * 9,
        "c5_emissao": "20261123",
        "c5_frete": 18.9,
        "c5_xpedweb": external_id.ljust(20),
        "d_e_l_e_t_": " ",
    }
    answer = caller.query("SC5", fields, f"C5_XPEDWEB='{external_id}'")
    assert answer.json() == {
        "items": [expected],
        "hasNext": False,
        "remainingRecords": 0,
        "protectedDataFields": [],
        "nivelFields": [],
    }
    assert caller.items("SC6", "C6_ENTREG,C6_VALOR", f"C6_NUM='{number}'") == [{"c6_entreg": " " * 8, "c6_valor": 63}]
    erp.switch(upper_case_keys=True, trimmed_values=True, numbers_as_text=True)
    row = caller.items("SC5", "C5_NOTA,C5_FRETE", f"C5_XPEDWEB='{external_id}'")
    assert row == [{"C5_NOTA": "", "C5_FRETE": "18.9"}]


def test_header_parameters_and_names_without_case(caller: Caller) -> None:
    url = f"{caller.erp.root_url}/api/framework/v1/genericQuery"
    headers = {"Tables": "SB1", "FIELDS": "B1_COD", "where": "B1_COD = 'CAFE-500'"}
    found = caller.session.get(url, headers=headers, params={"pagesize": "5", "filialFilter": "true"}, timeout=5)
    assert found.json()["items"] == [{"b1_cod": "CAFE-500".ljust(15)}]


def test_a_deleted_order_vanishes_unless_asked_for(erp: SandboxErp, caller: Caller) -> None:
    external_id = new_id()
    number = caller.create(order(external_id)).json()["pedido"]
    erp.admin("DELETE", f"/orders/0101/{number}")
    assert not caller.orders_of(external_id)
    where = f"C5_XPEDWEB = '{external_id}'"
    assert caller.items("SC5", "C5_NUM,D_E_L_E_T_", where, DeletedFilter="false") == [
        {"c5_num": number, "d_e_l_e_t_": "*"}
    ]
    with pytest.raises(RuntimeError, match="404"):
        erp.admin("DELETE", f"/orders/0101/{number}")


def test_pages_and_what_they_say_about_more(erp: SandboxErp, caller: Caller) -> None:
    wanted = [new_id() for _ in range(5)]
    for external_id in wanted:
        caller.create(order(external_id))
    where = f"C5_XPEDWEB >= '{wanted[0]}' AND C5_XPEDWEB <= '{wanted[-1]}'"

    def page(number: int) -> dict[str, Any]:
        answer = caller.query("SC5", "C5_XPEDWEB", where, page=number, pageSize=2, order="R_E_C_N_O_")
        return dict(answer.json())

    pages = [page(number) for number in (1, 2, 3, 4)]
    assert [row["c5_xpedweb"].rstrip() for found in pages for row in found["items"]] == wanted
    assert [(found["hasNext"], found["remainingRecords"]) for found in pages] == [
        (True, 3),
        (True, 1),
        (False, 0),
        (False, 0),
    ]
    for shape, value in (("number", 1), ("text", "true"), ("digit", "1")):
        erp.switch(has_next=shape)
        assert page(1)["hasNext"] == value
    erp.switch(has_next="boolean", last_page_repeats_first=True)
    assert page(4) == pages[0]


def test_without_a_unique_order_pages_overlap_where_the_site_is_like_that(erp: SandboxErp, caller: Caller) -> None:
    erp.add_products(f"PAGE-{number:03}" for number in range(60))
    erp.switch(unstable_order=True)

    def collected(order: str) -> list[str]:
        pages = (
            caller.items("SB1", "B1_COD", "B1_COD LIKE 'PAGE-%'", page=page, pageSize=20, order=order)
            for page in (1, 2, 3)
        )
        return [row["b1_cod"] for rows in pages for row in rows]

    assert len(set(collected("B1_TIPO"))) < 60
    assert len(set(collected("B1_TIPO,R_E_C_N_O_"))) == 60


def test_protected_fields_are_dropped_and_listed(erp: SandboxErp, caller: Caller) -> None:
    erp.switch(protected_fields=["A1_CGC"], level_fields=["A1_NOME"])
    answer = caller.query("SA1", "A1_COD,A1_CGC,A1_NOME", "A1_COD='000731'").json()
    assert answer["items"] == [{"a1_cod": "000731"}]
    assert (answer["protectedDataFields"], answer["nivelFields"]) == (["A1_CGC"], ["A1_NOME"])


def test_bodies_in_cp1252_and_with_raw_control_characters(erp: SandboxErp, caller: Caller) -> None:
    erp.switch(cp1252=True, control_characters=True)
    answer = caller.query("SA1", "A1_NOME", "A1_COD='000731'")
    assert "charset" not in answer.headers["content-type"]
    with pytest.raises(UnicodeDecodeError):
        answer.content.decode("utf-8")
    text = answer.content.decode("cp1252")
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    read = json.loads(text, strict=False)
    assert read["items"][0]["a1_nome"].rstrip() == "José da Conceição"
    assert "\r\n\t" in read["observacao"]


def test_two_tables_join(caller: Caller) -> None:
    external_id = new_id()
    caller.create(order(external_id, item("01"), item("02", 1, 10)))
    where = f"SC5.C5_NUM = SC6.C6_NUM AND SC5.C5_XPEDWEB = '{external_id}'"
    rows = caller.items("SC5,SC6", "C5_XPEDWEB,C6_ITEM,SC6.R_E_C_N_O_", where, order="C6_ITEM DESC")
    assert [row["c6_item"] for row in rows] == ["02", "01"]
    assert caller.query("SC5,SC6", "R_E_C_N_O_", where).status_code == 500


@pytest.mark.parametrize(
    "where",
    [
        "C5_XPEDWEB = 'x' OR 1=1",
        "C5_XPEDWEB = 'x'; DROP TABLE SC5",
        "C5_XPEDWEB = 'x' --",
        "C5_XPEDWEB = 'it's'",
        "C5_XPEDWEB = 'a\nb'",
        "C5_XPEDWEB = x",
        "C5_NUM = 1",
        "C5_FRETE = 'x'",
        "C5_NUM IN ()",
        "C5_NUM IN (SELECT C5_NUM FROM SC5)",
        "C5_NADA = 'x'",
        "SC6.C6_NUM = 'x'",
        "UPPER(C5_NUM) = 'X'",
        "C5_NUM BETWEEN '1' AND '2'",
        "NOT C5_NUM = '1'",
        "C5_NUM",
        "(C5_NUM = '1'",
        "(" * 60 + "C5_NUM = '1'" + ")" * 60,
        "C5_NUM IN (" + ",".join(["'1'"] * 1001) + ")",
    ],
)
def test_a_where_that_the_parser_does_not_know_is_a_500(caller: Caller, where: str) -> None:
    url = f"{caller.erp.root_url}/api/framework/v1/genericQuery"
    sent = {"tables": "SC5", "fields": "C5_NUM", "where": where}
    answer = caller.session.get(url, params=sent, timeout=5)
    assert answer.status_code == 500, answer.text
    assert answer.json()["errorMessage"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"tables": "SX6"},
        {"tables": "SC5,SC5"},
        {"fields": "*"},
        {"fields": ""},
        {"fields": "C5_NUM, C5_XNADA"},
        {"order": "C5_NUM; DROP"},
        {"order": "C5_XNADA"},
        {"page": "0"},
        {"pageSize": "x"},
        {"FilialFilter": "maybe"},
        {"FromQry": "SC5010 SC5"},
    ],
)
def test_a_query_that_the_database_would_not_run_is_a_500(caller: Caller, parameters: dict[str, str]) -> None:
    sent: dict[str, Any] = {"tables": "SC5", "fields": "C5_NUM", **parameters}
    assert caller.query(sent.pop("tables"), sent.pop("fields"), **sent).status_code == 500


_store = Store(Dictionary(SandboxConfig(external_id_width=40)), "C5_XPEDWEB", None)


def _matching(condition: str, comparison: Comparison | None = None) -> list[str]:
    table = _store.dictionary.tables["SC5"]

    def resolve(name: str, alias: str) -> Any:
        if name not in table.readable or alias not in ("", "SC5"):
            raise WhereError(name)
        return table.readable[name]

    sql, parameters = parse_where(condition, resolve, comparison or Comparison())
    select = f"SELECT C5_XPEDWEB FROM SC5 WHERE {sql} ORDER BY R_E_C_N_O_"
    return [row[0] for row in _store.query(select, parameters)]


_printable = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_categories=["Cc"]), max_size=40)


@given(st.lists(_printable, min_size=1, max_size=5), st.sampled_from(["=", "IN", "LIKE"]))
def test_a_quoted_literal_means_exactly_its_text(texts: list[str], operator: str) -> None:
    kept = list(dict.fromkeys(text.rstrip(" ") for text in texts))
    with _store.transaction():
        _store.query("DELETE FROM SC5")
        _store.insert("SC5", ({"C5_XPEDWEB": text} for text in kept))
    for text in kept:
        quoted = "'" + text.replace("'", "''") + "'"
        if operator == "LIKE":
            if "%" not in text and "_" not in text:
                assert _matching(f"RTRIM(C5_XPEDWEB) LIKE {quoted}") == [text]
        else:
            value = f"({quoted}, 'nothing like it at all')" if operator == "IN" else quoted
            assert _matching(f"C5_XPEDWEB {operator} {value}") == [text]
            assert _matching(f"RTRIM(C5_XPEDWEB) {operator} {value}") == [text]
            padded = Comparison(padded=True)
            assert _matching(f"RTRIM(C5_XPEDWEB) {operator} {value}", padded) == [text]
            if len(text) < 40:
                assert _matching(f"C5_XPEDWEB {operator} {value}", padded) == []


_pieces = st.sampled_from(
    [
        *("C5_NUM", "SC5.C5_XPEDWEB", "C5_FRETE", "RTRIM(C5_NUM)", "'x'", "''", "'%'", "1", "-2.5", "=", "<>", ">="),
        *("IN", "LIKE", "AND", "OR", "(", ")", ",", ".", ";", "--", "'", "?", "NULL", "NOT", "x"),
    ]
)


@given(st.lists(_pieces, max_size=12).map(" ".join) | st.text(max_size=40))
def test_no_text_breaks_out_of_the_parser(text: str) -> None:
    """Whatever is sent: a condition of known words and bound parameters, or a WhereError; never a database error."""
    try:
        found = _matching(text)
    except WhereError:
        return
    assert text.count("'") % 2 == 0
    assert not {";", "?"} & set(re.sub("'[^']*'", "", text))
    assert set(found) <= {row[0] for row in _store.query("SELECT C5_XPEDWEB FROM SC5")}


def test_comparison_follows_the_database_of_the_site() -> None:
    with _store.transaction():
        _store.query("DELETE FROM SC5")
        _store.insert("SC5", ({"C5_XPEDWEB": text, "C5_FRETE": 2.5} for text in ("WEB-1", "web-1", "WEB-10")))
    assert _matching("C5_XPEDWEB = 'WEB-1'   AND C5_FRETE >= 2.5") == ["WEB-1"]
    assert _matching("'WEB-1' = C5_XPEDWEB AND 3 >= C5_FRETE") == ["WEB-1"]
    assert _matching("C5_XPEDWEB = 'WEB-1'", Comparison(caseless=True)) == ["WEB-1", "web-1"]
    assert _matching(f"C5_XPEDWEB = '{'WEB-1':<40}'", Comparison(padded=True)) == ["WEB-1"]
    assert _matching("C5_XPEDWEB <> 'WEB-1'", Comparison(padded=True)) == ["WEB-1", "web-1", "WEB-10"]
    assert _matching("C5_XPEDWEB LIKE 'WEB-1%'") == ["WEB-1", "WEB-10"]
    assert _matching("C5_XPEDWEB LIKE 'WEB-1'") == []
    assert _matching("(C5_XPEDWEB = 'web-1' OR C5_XPEDWEB = 'WEB-10') AND C5_FRETE <= 3") == ["web-1", "WEB-10"]


# Orders


def test_the_contracts_own_example(erp: SandboxErp, caller: Caller) -> None:
    external_id = new_id()
    body = {
        "C5_XPEDWEB": external_id,
        "C5_TIPO": "N",
        "C5_CLIENTE": "000731",
        "C5_LOJACLI": "01",
        "C5_CONDPAG": "001",
        "C5_TIPOCLI": "F",
        "C5_EMISSAO": "20261123",
        "C5_TPFRETE": "C",
        "C5_FRETE": 18.90,
        "C5_DESCONT": 5.00,
        "C5_TRANSP": "000004",
        "C5_VEND1": "000010",
        "C5_MENNOTA": "Pedido web 100045",
        "LIBERA": False,
        "ITENS": [item("01", 2, 31.5, C6_PRUNIT=31.5, C6_LOCAL="01", C6_ENTREG="20261128")],
    }
    seen = len(erp.journal())
    answer = caller.create(body)
    assert answer.status_code == 201
    created = answer.json()
    assert (created["filial"], created["pedidoExterno"]) == ("0101", external_id)
    assert (created["jaExistia"], created["liberado"]) == (False, False)
    again = caller.create(body)
    assert again.status_code == 200
    assert (again.json()["pedido"], again.json()["jaExistia"]) == (created["pedido"], True)
    [entry] = erp.journal()[seen:]
    assert (entry["kind"], entry["number"], entry["branch"]) == ("order", created["pedido"], "0101")
    assert (entry["external_id"], entry["stored_external_id"]) == (external_id, external_id)
    assert (entry["total"], entry["lines"], entry["customer"]) == ("76.90", 1, "000731/01")
    assert [entry["external_id"] for entry in erp.arrivals()].count(external_id) == 2
    [row] = caller.items("SC6", "C6_TES,C6_UM,C6_DESCRI", f"C6_NUM='{created['pedido']}'")
    assert row == {"c6_tes": "501", "c6_um": "UN", "c6_descri": "CAFE-500".ljust(30)}


@pytest.mark.parametrize(
    ("changes", "line", "help_code", "field"),
    [
        ({"C5_CLIENTE": "999999"}, {}, "A410NCLIE", "C5_CLIENTE"),
        ({"C5_CLIENTE": "000999"}, {}, "REGBLOQ", "C5_CLIENTE"),
        ({"C5_CLIENT": "999999", "C5_LOJAENT": "01"}, {}, "A410NCLIE", "C5_CLIENT"),
        ({"C5_CONDPAG": "099"}, {}, "REGNOIS", "C5_CONDPAG"),
        ({"C5_CONDPAG": ""}, {}, "OBRIGAT", "C5_CONDPAG"),
        ({"C5_TRANSP": "999999"}, {}, "REGNOIS", "C5_TRANSP"),
        ({"C5_TIPO": "D"}, {}, "NVALID", "C5_TIPO"),
        ({"C5_EMISSAO": "20260230"}, {}, "DATA", "C5_EMISSAO"),
        ({"C5_FRETE": -1}, {}, "POSIT", "C5_FRETE"),
        ({"C5_FRETE": "18.90"}, {}, "TIPO", "C5_FRETE"),
        ({"C5_FRETE": 10_000_000_000}, {}, "TAMANHO", "C5_FRETE"),
        ({"C5_DESCONT": 100}, {}, "POSIT", "C5_DESCONT"),
        ({"C5_MENNOTA": "x" * 61}, {}, "TAMANHO", "C5_MENNOTA"),
        ({"C5_NOTA": "1"}, {}, "VISUAL", "C5_NOTA"),
        ({"C5_XNADA": "1"}, {}, "CAMPO", "C5_XNADA"),
        ({}, {"C6_PRODUTO": "NADA"}, "REGNOIS", "C6_PRODUTO"),
        ({}, {"C6_PRODUTO": "cafe-500"}, "REGNOIS", "C6_PRODUTO"),
        ({}, {"C6_PRODUTO": "BLOQ-1"}, "REGBLOQ", "C6_PRODUTO"),
        ({}, {"C6_PRODUTO": "P" * 16}, "TAMANHO", "C6_PRODUTO"),
        ({}, {"C6_PRCVEN": 0, "C6_VALOR": 0}, "A410VZ", "C6_PRCVEN"),
        ({}, {"C6_QTDVEN": 0, "C6_VALOR": 0}, "A410VZ", "C6_QTDVEN"),
        ({}, {"C6_OPER": ""}, "A410VZ", "C6_TES"),
        ({}, {"C6_OPER": "77"}, "REGNOIS", "C6_OPER"),
        ({}, {"C6_TES": "777"}, "REGNOIS", "C6_TES"),
        ({}, {"C6_VALOR": 63.01}, "A410TOT", "C6_VALOR"),
        ({}, {"C6_ITEM": "100"}, "TAMANHO", "C6_ITEM"),
        ({}, {"C6_ITEM": "1"}, "NVALID", "C6_ITEM"),
    ],
)
def test_what_mata410_refuses(
    erp: SandboxErp, caller: Caller, changes: dict[str, Any], line: dict[str, Any], help_code: str, field: str
) -> None:
    external_id = new_id()
    body = order(external_id, item(**line) if "C6_ITEM" not in line else {**item(), **line})
    answer = caller.create({**body, **changes})
    assert answer.status_code == 400
    text = json.loads(answer.content.decode("cp1252"))["errorMessage"]
    assert text.startswith(f"HELP: {help_code}\r\n")
    assert f"- {field} := " in text
    [wrong] = [row for row in text.split("\r\n") if row.endswith("< -- Invalido")]
    assert field in wrong
    assert ("Erro no Item 1" in text) == bool(line)
    assert not caller.orders_of(external_id)


def test_no_items_two_items_of_one_name_and_150_lines(erp: SandboxErp, caller: Caller) -> None:
    assert "HELP: A410SEMIT" in caller.create({**order(new_id()), "ITENS": []}).text
    assert "JAGRAVADO" in caller.create(order(new_id(), item("01"), item("01"))).text
    names = ["01"]
    while len(names) < 150:
        names.append(next_code(names[-1]))
    external_id = new_id()
    assert caller.create(order(external_id, *(item(name, 1, 0.01) for name in names))).status_code == 201
    assert erp.journal()[-1]["lines"] == 150
    assert erp.journal()[-1]["total"] == "15.40"


def test_half_a_cent_is_rounded_up(caller: Caller) -> None:
    assert caller.create(order(new_id(), item("01", 0.5, 0.01, C6_VALOR=0.01))).status_code == 201
    assert caller.create(order(new_id(), item("01", 0.5, 0.01, C6_VALOR=0))).status_code == 400


def test_a_wide_external_id_is_cut_without_a_word(erp: SandboxErp, caller: Caller) -> None:
    external_id = f"{new_id()}-0123456789ABCDEF"
    answer = caller.create(order(external_id))
    assert answer.status_code == 201
    assert answer.json()["pedidoExterno"] == external_id[:20]
    assert erp.journal()[-1]["external_id"] == external_id
    assert erp.journal()[-1]["stored_external_id"] == external_id[:20]
    assert not caller.orders_of(external_id)
    erp.switch(wide_fields="cut")
    cut = new_id()
    assert caller.create(order(cut, C5_MENNOTA="x" * 70)).status_code == 201
    assert caller.items("SC5", "C5_MENNOTA", f"C5_XPEDWEB='{cut}'") == [{"c5_mennota": "x" * 60}]


def test_characters_beyond_cp1252_are_lost(caller: Caller) -> None:
    external_id = new_id()
    caller.create(order(external_id, C5_MENNOTA="coração \N{SMILING FACE WITH OPEN MOUTH}"))
    [row] = caller.items("SC5", "C5_MENNOTA", f"C5_XPEDWEB='{external_id}'")
    assert row["c5_mennota"].rstrip() == "coração ?"


def test_numbers_have_gaps_and_letters_after_999999() -> None:
    with start_in_background(SandboxConfig(first_order_number="999998")) as erp:
        seed(erp)
        caller = Caller(erp).login()
        numbers = [caller.create(order(new_id())).json()["pedido"]]
        assert caller.create(order(new_id(), C5_CONDPAG="099")).status_code == 400
        numbers += [caller.create(order(new_id())).json()["pedido"] for _ in range(2)]
        assert numbers == ["999998", "99999A", "99999B"]


@given(st.text(st.sampled_from("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"), min_size=1, max_size=6))
def test_codes_never_come_back(code: str) -> None:
    if set(code) == {"Z"}:
        with pytest.raises(OverflowError):
            next_code(code)
        return
    assert len(next_code(code)) == len(code)
    assert next_code(code) > code


def test_an_external_id_that_is_there_refused_or_taken_twice(erp: SandboxErp, caller: Caller) -> None:
    external_id = new_id()
    caller.create(order(external_id))
    erp.switch(duplicates="refused")
    answer = caller.create(order(external_id))
    assert answer.status_code == 400
    assert "JAGRAVADO" in answer.text
    erp.switch(duplicates="second_order")
    before = erp.admin("GET", "/state")["external_ids_twice"]
    assert caller.create(order(external_id)).json()["jaExistia"] is False
    assert len(caller.orders_of(external_id)) == 2
    assert erp.admin("GET", "/state")["external_ids_twice"] == before + 1


@pytest.mark.parametrize(("locked", "orders"), [(False, 2), (True, 1)])
def test_two_calls_at_once_slip_through_the_endpoints_own_seek(
    erp: SandboxErp, caller: Caller, locked: bool, orders: int
) -> None:
    erp.switch(latency_ms=200, locked_seek=locked)
    external_id = new_id()
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(caller.create, [order(external_id)] * 2))
    assert {answer.ok for answer in answers} == {True}
    erp.switch(latency_ms=0)
    assert len(caller.orders_of(external_id)) == orders


def test_null_crashes_where_the_site_is_like_that(erp: SandboxErp, caller: Caller) -> None:
    assert caller.create(order(new_id(), C5_TRANSP=None)).status_code == 201
    erp.switch(null_crashes=True)
    assert caller.create(order(new_id(), C5_TRANSP=None)).status_code == 500


def test_a_body_that_is_no_order(caller: Caller) -> None:
    for body in (b"", b"[]", b"{", b'{"C5_FRETE": NaN}', b"[" * 100_000):
        assert caller.post("/ecommerce/v1/pedidos", data=body).status_code == 400
    assert caller.create({**order(new_id()), "ITENS": "x"}).status_code == 400
    assert caller.create({**order(new_id()), "LIBERA": True}).status_code == 400


@pytest.mark.parametrize(
    ("shape", "status", "kind"),
    [
        ("E1", 400, "application/json"),
        ("E2", 400, "application/json"),
        ("E3", 400, "text/plain"),
        ("E4", 500, "text/plain"),
        ("E5", 500, "application/json"),
        ("E6", 200, "application/json"),
        ("E7", 400, "text/html"),
    ],
)
def test_every_shape_of_error(erp: SandboxErp, caller: Caller, shape: str, status: int, kind: str) -> None:
    erp.switch(error_shape=shape)
    answer = caller.create(order(new_id(), C5_CONDPAG="099"))
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith(kind)
    text = answer.content.decode("cp1252")
    assert ("REGNOIS" in text) == (shape != "E7")
    if kind == "application/json":
        names = {"E1": "errorMessage", "E2": "message", "E5": "error", "E6": "Mensagem"}
        assert names[shape] in json.loads(text)
    erp.switch(empty_error_text=True)
    assert "REGNOIS" not in caller.create(order(new_id(), C5_CONDPAG="099")).text


def test_an_unknown_route_is_404(caller: Caller) -> None:
    assert caller.post("/ecommerce/v1/nada", json={}).status_code == 404
    assert caller.session.get(f"{caller.erp.root_url}/ecommerce/v1/pedidos", timeout=5).status_code == 405


# Customers


def test_a_customer_is_created_once_per_tax_id(erp: SandboxErp, caller: Caller) -> None:
    answer = caller.create_customer(person())
    assert answer.status_code == 201
    first = answer.json()
    assert first["loja"] == "01"
    again = caller.create_customer(person())
    assert (again.status_code, again.json()["jaExistia"]) == (200, True)
    assert again.json()["codigo"] == first["codigo"]
    where = f"A1_CGC = '{PERSON}'"
    [row] = caller.items("SA1", "A1_COD,A1_LOJA,A1_NOME,A1_MSBLQL", where)
    assert row == {
        "a1_cod": first["codigo"],
        "a1_loja": "01",
        "a1_nome": "Antônia Gonçalves".ljust(40),
        "a1_msblql": "2",
    }
    second = caller.create_customer(person(A1_COD=first["codigo"]))
    assert (second.json()["codigo"], second.json()["loja"]) == (first["codigo"], "02")
    assert len(caller.items("SA1", "A1_LOJA", where)) == 2
    assert "JAGRAVADO" in caller.create_customer(person(A1_COD=first["codigo"], A1_LOJA="02")).text
    erp.admin("PATCH", f"/customers/{first['codigo']}/01", {"blocked": True})
    assert "REGBLOQ" in caller.create(order(new_id(), C5_CLIENTE=first["codigo"])).text
    assert caller.create(order(new_id(), C5_CLIENTE=first["codigo"], C5_LOJACLI="02")).status_code == 201


@pytest.mark.parametrize(
    ("fields", "help_code"),
    [
        ({"A1_CGC": "11111111111"}, "CGC"),
        ({"A1_CGC": "52998224726"}, "CGC"),
        ({"A1_CGC": ""}, "OBRIGAT"),
        ({"A1_MUN": ""}, "OBRIGAT"),
        ({"A1_PESSOA": "J"}, "CGC"),
        ({"A1_TIPO": "Q"}, "NVALID"),
        ({"A1_NOME": "x" * 41}, "TAMANHO"),
        ({"A1_NADA": "x"}, "CAMPO"),
    ],
)
def test_what_is_refused_of_a_customer(caller: Caller, fields: dict[str, str], help_code: str) -> None:
    answer = caller.create_customer({**person("39053344705"), **fields})
    assert answer.status_code == 400
    assert f"HELP: {help_code}\\r\\n".encode() in answer.content


def test_a_cnpj_with_letters(erp: SandboxErp, caller: Caller) -> None:
    erp.switch(legacy_tax_ids=True)
    assert caller.create_customer(person(COMPANIES[0])).status_code == 400
    assert caller.create_customer(person(COMPANIES[1])).status_code == 201
    erp.switch(legacy_tax_ids=False)
    assert caller.create_customer(person(COMPANIES[0])).status_code == 201
    assert caller.create_customer(person("", A1_EST="EX", A1_PAIS="249")).status_code == 201


def test_check_digits() -> None:
    assert all(map(is_tax_id, (PERSON, *COMPANIES, "39053344705")))
    wrong = ("52998224724", "00000000000", "12ABC34501DE36", "12abc34501de35", "1122233300018", "112223330001AA")
    assert not any(map(is_tax_id, wrong))


# Faults


def lost(call: Callable[[], requests.Response]) -> bool:
    try:
        call()
    except requests.ConnectionError:
        return True
    return False


@pytest.mark.parametrize(
    ("kind", "status", "orders"),
    [
        ("drop_before", 0, 0),
        ("commit_then_drop", 0, 1),
        ("commit_then_500", 500, 1),
        ("success_not_written", 201, 0),
        ("error_in_200", 200, 0),
        ("http_503_licence", 503, 0),
        ("http_503_busy", 503, 0),
        ("html_502", 502, 0),
        ("lock_then_error", 500, 0),
        ("unauthorized", 401, 0),
        ("slow", 201, 1),
        ("cp1252", 201, 1),
    ],
)
def test_a_fault_strikes_the_order_it_is_meant_for(
    erp: SandboxErp, caller: Caller, kind: Any, status: int, orders: int
) -> None:
    external_id = new_id()
    seconds = 0.3 if kind in ("slow", "lock_then_error") else 0
    erp.set_faults(Fault(kind=kind, endpoint="create_order", times=1, matching=external_id, seconds=seconds))
    assert caller.create(order(new_id())).status_code == 201
    started = time.monotonic()
    if status:
        answer = caller.create(order(external_id))
        assert answer.status_code == status
        if kind == "cp1252":
            assert "Pedido incluído".encode("cp1252") in answer.content
        if kind == "error_in_200":
            assert "pedido" not in answer.json()
        if kind == "success_not_written":
            assert answer.json()["pedido"]
    else:
        assert lost(lambda: caller.create(order(external_id)))
    assert time.monotonic() - started >= seconds
    caller.login()
    assert len(caller.orders_of(external_id)) == orders
    assert erp.admin("GET", "/faults") == []
    assert caller.create(order(external_id)).status_code == (200 if orders else 201)


def test_an_order_is_committed_late_though_its_client_has_left(erp: SandboxErp, caller: Caller) -> None:
    external_id = new_id()
    erp.set_faults(Fault(kind="commit_late", seconds=0.6, times=1))
    with pytest.raises(requests.Timeout):
        caller.create(order(external_id), timeout=0.2)
    assert not caller.orders_of(external_id)
    assert caller.create(order(external_id)).json()["jaExistia"] is False
    time.sleep(0.7)
    assert len(caller.orders_of(external_id)) == 2


def test_faults_on_reads_tokens_and_customers(erp: SandboxErp, caller: Caller) -> None:
    erp.set_faults(
        Fault(kind="html_502", endpoint="read", times=1, matching="WEB-READ"),
        Fault(kind="drop_before", endpoint="token", times=1),
        Fault(kind="commit_then_drop", endpoint="create_customer", times=1, matching="39053344705"),
    )
    assert caller.query("SC5", "C5_NUM").status_code == 200
    assert caller.query("SC5", "C5_NUM", "C5_XPEDWEB='WEB-READ'").status_code == 502
    assert caller.query("SC5", "C5_NUM", "C5_XPEDWEB='WEB-READ'").status_code == 200
    assert lost(caller.token)
    assert caller.token().status_code == 201
    assert lost(lambda: caller.create_customer(person("39053344705")))
    assert caller.create_customer(person("39053344705")).json()["jaExistia"] is True


def test_a_fault_that_makes_no_sense_is_refused(erp: SandboxErp) -> None:
    for fault in ({"kind": "commit_late"}, {"kind": "commit_then_drop", "endpoint": "read"}, {"kind": "nonsense"}):
        with pytest.raises(RuntimeError, match="422"):
            erp.admin("PUT", "/faults", [fault])
    with pytest.raises(RuntimeError, match=r"422.*latencymillis"):
        erp.switch(latencymillis=1)


def test_one_seed_is_one_course_of_events() -> None:
    def course(seed_: int) -> list[int]:
        faults = (Fault(kind="html_502", endpoint="read", probability=0.5),)
        with start_in_background(SandboxConfig(seed=seed_, faults=faults)) as erp:
            caller = Caller(erp).login()
            return [caller.query("SC5", "C5_NUM").status_code for _ in range(40)]

    first = course(7)
    assert 8 < first.count(502) < 32
    assert course(7) == first
    assert course(8) != first


def test_calls_beyond_the_instances_are_told_to_come_back(erp: SandboxErp, caller: Caller) -> None:
    erp.switch(instances=2, accept_timeout=0.05, latency_ms=300)
    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(pool.map(lambda _: caller.query("SB1", "B1_COD").status_code, range(4)))
    assert statuses == [200, 200, 503, 503]
    erp.switch(accept_timeout=5, latency_ms=100)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: caller.query("SB1", "B1_COD").status_code, range(4))) == {200}


def test_latency_passes_for_all_calls_at_once(erp: SandboxErp, caller: Caller) -> None:
    erp.switch(latency_ms=200)
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        assert {answer.status_code for answer in pool.map(caller.create, (order(new_id()) for _ in range(8)))} == {201}
    assert 0.2 <= time.monotonic() - started < 1.2


# The admin side, and the process


def test_a_user_of_the_erp_changes_an_order(erp: SandboxErp, caller: Caller) -> None:
    external_id = new_id()
    number = caller.create(order(external_id, item("01"), item("02", 1, 10))).json()["pedido"]
    change = {"items": {"01": {"price": "30.00", "quantity": 3}}, "removed": ["02"]}
    erp.admin("PATCH", f"/orders/0101/{number}", change)
    entry = erp.journal()[-1]
    assert (entry["kind"], entry["total"], entry["lines"]) == ("order_changed", "103.90", 1)
    rows = caller.items("SC6", "C6_ITEM,C6_QTDVEN,C6_VALOR", f"C6_NUM='{number}'")
    assert rows == [{"c6_item": "01", "c6_qtdven": 3, "c6_valor": 90}]
    with pytest.raises(RuntimeError, match="404"):
        erp.admin("PATCH", f"/orders/0101/{number}", {"removed": ["02"]})
    erp.admin("DELETE", f"/orders/0101/{number}")
    assert erp.journal()[-1]["kind"] == "order_deleted"
    assert erp.journal()[-1]["total"] == "103.90"


def test_what_was_committed_survives_its_own_kill(tmp_path: Path) -> None:
    config = SandboxConfig(database=tmp_path / "erp.db", external_id_field="C5_NUMEXT", root="/api")
    with start_in_background(config) as erp:
        assert erp.root_url.endswith("/api")
        seed(erp)
        caller = Caller(erp).login()
        body = order("")
        del body["C5_XPEDWEB"]
        numbers = [caller.create({**body, "C5_NUMEXT": f"K-{n}"}).json()["pedido"] for n in range(20)]
        erp.set_faults(Fault(kind="commit_then_drop", times=1))
        assert lost(lambda: caller.create({**body, "C5_NUMEXT": "K-20"}))
        before = erp.journal()
        os.kill(erp.pid, signal.SIGKILL)
        erp.restart()
        assert erp.journal() == before
        assert caller.query("SC5", "C5_NUM").status_code == 401
        caller.login()
        assert caller.create({**body, "C5_NUMEXT": "K-20"}).json()["jaExistia"] is True
        assert caller.create({**body, "C5_NUMEXT": "K-21"}).json()["pedido"] > max(numbers)
        assert erp.admin("GET", "/state")["orders"] == 22
    with pytest.raises(RuntimeError, match="other fields or widths"):
        start_in_background(SandboxConfig(database=tmp_path / "erp.db"))


def test_a_kill_amid_creates_leaves_whole_orders_or_none(tmp_path: Path) -> None:
    with start_in_background(SandboxConfig(database=tmp_path / "erp.db")) as erp:
        seed(erp)
        caller = Caller(erp).login()
        answered: list[str] = []

        def create_until_it_dies(worker: int) -> None:
            for number in itertools.count():
                external_id = f"K{worker}-{number}"
                if lost(lambda: caller.create(order(external_id, item("01"), item("02")))):  # noqa: B023 - called here
                    return
                answered.append(external_id)

        with ThreadPoolExecutor(4) as pool:
            workers = [pool.submit(create_until_it_dies, worker) for worker in range(4)]
            while len(answered) < 40:
                time.sleep(0.01)
            erp.switch(latency_ms=400)
            time.sleep(0.1)
            erp.kill()
            for worker in workers:
                worker.result()
        erp.restart()
        entries = {entry["external_id"]: entry for entry in erp.journal() if entry["kind"] == "order"}
        assert set(entries) == set(answered)
        assert len({entry["external_id"] for entry in erp.arrivals()} - set(answered)) == 4
        assert {(entry["lines"], entry["total"]) for entry in entries.values()} == {(2, "139.90")}
        assert erp.admin("GET", "/state")["orders"] == len(entries)
        assert len(caller.login().items("SC6", "C6_NUM", pageSize=5000)) == 2 * len(entries)


def test_it_ends_with_the_process_that_started_it() -> None:
    code = (
        "import os; from erp_sync.sandbox.background import start_in_background\n"
        "print(start_in_background().pid, flush=True); os._exit(9)"
    )
    started = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=30, check=False)
    pid = int(started.stdout)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_command_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "erp_sync.sandbox", "--database", str(tmp_path / "erp.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ready = json.loads(process.stdout.readline())
        login = {"username": ready["user"], "password": ready["password"]}
        url = f"{ready['root_url']}/api/oauth2/v1/token?grant_type=password"
        assert requests.post(url, data=b"", headers=login, timeout=5).status_code == 201
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == b""
    refused = subprocess.run([*command, "--host", "0.0.0.0"], capture_output=True, timeout=30, text=True, check=False)
    assert refused.returncode == 2
    assert "loopback only" in refused.stderr


def test_the_password_is_in_no_repr() -> None:
    config = SandboxConfig(password=SecretStr("s3nh@ forte"))
    assert "s3nh@" not in repr(config)
    assert "s3nh@" in config.to_json()
