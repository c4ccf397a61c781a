"""The seven error shapes and the ExecAuto log (contracts/protheus-rest.md, 10), and what must not get through them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erp_sync.erp.answers import Answer, read_answer
from erp_sync.erp.json_text import to_json
from erp_sync.erp.refusal import Refusal, read_refusal
from erp_sync.scrub import scrub, scrub_value

LOG = (
    "HELP: REGNOIS\r\nNão há registro para o código informado\r\n\r\nTabela SC5 23/11/2026 10:15:42\r\n"
    "Tipo                - C5_TIPO := N\r\n"
    "Cliente             - C5_CLIENTE := 999999   < -- Invalido\r\n"
    "Mens. Nota          - C5_MENNOTA := Rua das Flores 12\r\n"
)
ITEM_LOG = (
    "AJUDA:A410VZ\r\nPreço em branco\r\n\r\nTabela SC6 23/11/2026 10:15:42\r\n"
    "Prc Unitario        - C6_PRCVEN := 0   < -- Inválido\r\nErro no Item 3\r\n"
)
MVC = (
    "Id do formulário de origem: [SA1MASTER]\r\nId do campo de origem: [A1_EST]\r\nId do erro: [REGNOIS]\r\n"
    "Mensagem do erro: [Estado não existe]\r\nMensagem da solução: [Informe outro]\r\nValor atribuído: [XX]\r\n"
)


def answer_of(body: Any, status: int = 400, encoding: str = "utf-8") -> Answer:
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return read_answer(status, {}, text.encode(encoding), 1.0)


def refusal_of(body: Any, status: int = 400, encoding: str = "utf-8") -> Refusal:
    refusal = read_refusal(answer_of(body, status, encoding))
    assert refusal is not None
    return refusal


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
@pytest.mark.parametrize(
    "body",
    [
        {"errorCode": 400, "errorMessage": LOG},  # E1
        {"code": "400", "message": LOG, "detailedMessage": LOG, "helpUrl": "", "details": []},  # E2
        LOG,  # E3, E4
        {"errorId": "500", "error": LOG, "solution": "Revise"},  # E5
        {"Mensagem": LOG},  # E6
        {"RETORNO": LOG},
        {"data": [{"error": LOG.split("\r\n")}]},
        [{"aRetUsr": [{"C5_NUM": "", "Mensagem": LOG}]}],
        '{"errorCode": 400, "errorMessage": "' + LOG + '"}',  # control characters raw in the JSON
    ],
)
def test_the_log_is_found_in_every_shape(body: Any, encoding: str) -> None:
    refusal = refusal_of(body, encoding=encoding)
    assert refusal == Refusal(
        "Não há registro para o código informado", help_code="REGNOIS", field="C5_CLIENTE", value="999999"
    )
    assert refusal.is_precise


def test_the_log_is_found_in_json_that_is_broken() -> None:
    body = json.dumps({"errorCode": 400, "errorMessage": LOG.replace("registro", "R")}).replace("R para", 'o "R" para')
    refusal = refusal_of(body)
    assert (refusal.help_code, refusal.field, refusal.value) == ("REGNOIS", "C5_CLIENTE", "999999")
    assert "Flores" not in refusal.message


def test_the_item_is_found() -> None:
    refusal = refusal_of({"errorCode": 400, "errorMessage": ITEM_LOG})
    assert refusal == Refusal("Preço em branco", help_code="A410VZ", field="C6_PRCVEN", value="0", item="3")


def test_the_mvc_layout() -> None:
    assert refusal_of({"errorMessage": MVC}) == Refusal(
        "Estado não existe", help_code="REGNOIS", field="A1_EST", value="XX"
    )


@pytest.mark.parametrize(
    ("body", "message", "precise"),
    [
        ({"code": "A410LIBER", "message": "Pedido liberado", "detailedMessage": "Estorne"}, "Pedido liberado", True),
        ({"code": 404, "message": "Filial inexistente", "detailedMessage": ""}, "Filial inexistente", False),
        ({"errorCode": 400, "errorMessage": ""}, "the ERP gave no reason", False),
        ({"mesage": "Falhou"}, "Falhou", False),
        ({"Status": "404 - nada"}, "404 - nada", False),
        ("frase solta", "frase solta", False),
    ],
)
def test_what_else_is_understood(body: Any, message: str, precise: bool) -> None:
    refusal = refusal_of(body)
    assert refusal.message.startswith(message)
    assert refusal.is_precise is precise


@pytest.mark.parametrize("body", ["", "  \r\n", "<html>Bad Gateway</html>", {"pedido": "000123"}, [], {"items": []}])
def test_what_says_nothing(body: Any) -> None:
    assert read_refusal(answer_of(body)) is None


@pytest.mark.parametrize(
    ("text", "exists"),
    [
        ("HELP: JAGRAVADO\r\nJá existe registro com esta informação", True),
        ("HELP: EXISTCHAV\r\nChave duplicada", True),
        ("Pedido já incluído anteriormente", True),
        ("PEDIDO JA EXISTE", True),
        ("order already included", True),
        ("Nao existe registro relacionado", False),
        ("HELP: JAGRAVADO\r\nJá existe\r\nItem   - C6_ITEM := 01   < -- Invalido\r\n", False),
    ],
)
def test_a_record_that_is_there_already(text: str, exists: bool) -> None:
    assert refusal_of({"errorMessage": text}).exists is exists


def test_no_personal_data_gets_through() -> None:
    log = (
        "HELP: CGC\r\nCNPJ/CPF 529.982.247-25 inválido, e-mail ana@loja.com.br, fone (11) 98888-7777\r\n"
        "Tabela SA1 23/11/2026 10:15:42\r\n"
        "CNPJ/CPF            - A1_CGC := 52998224725   < -- Invalido\r\n"
        "Endereco            - A1_END := Rua das Flores 12\r\n"
        "Nome                - A1_NOME := Ana da Silva\r\n"
    )
    sent = ["Rua das Flores 12", "Ana da Silva", "52998224725"]
    refusal = read_refusal(answer_of({"errorMessage": log + "Rua das Flores 12 de ANA DA SILVA"}), sent)
    assert refusal is not None
    shown = repr(refusal)
    for personal in ("52998224725", "529.982.247-25", "ana@", "98888", "Flores", "Ana da Silva", "ANA DA SILVA"):
        assert personal not in shown
    assert (refusal.field, refusal.value) == ("A1_CGC", "*********25")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("CNPJ 12.ABC.345/01DE-35", "CNPJ ****************35"),
        ("pedido 12345678901 e 20261123101543", "pedido 12345678901 e 20261123101543"),
        ("Bearer abcdefgh.12345678", "***"),
        ("eyJhbGciOi.eyJpc3MiOi.c2lnbmF0dXJl expirou", "*** expirou"),
        ("erro: SELECT A1_CGC\nFROM SA1010 WHERE 1=1", "erro: (SQL)"),
        ("a\x00b\r\n\tc", "a b c"),
    ],
)
def test_scrubbing(text: str, clean: str) -> None:
    assert scrub(text) == clean


def test_values_of_personal_fields_are_hidden() -> None:
    assert scrub_value("A1_EMAIL", "x") == "***"
    assert scrub_value("C5_MENNOTA", "entregar na rua x") == "***"
    assert scrub_value("C5_CONDPAG", "999") == "999"


@given(st.text(), st.sampled_from(["errorMessage", "message", "Mensagem", "error"]), st.sampled_from([200, 400, 500]))
def test_any_text_is_read_without_an_error_and_stays_short(text: str, key: str, status: int) -> None:
    for body in ({key: text}, text, [{key: [text, text]}]):
        refusal = read_refusal(answer_of(body if not isinstance(body, str) else json.dumps(body), status))
        if refusal is not None:
            assert len(refusal.message) <= 500
            assert refusal.message.isprintable()


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "x",
            " ",
            "\n",
            "\t\n",
            "eyJ-",
            "eyJa.",
            "select ",
            "a@",
            "a.",
            "@a.",
            "A1_",
            "A1_COD ",
            "< ",
            "<-",
            "HELP: ",
        ),
        *("erro no item ", "erro ", "Bearer ", "11.", "(11) ", "Tabela ", "já ", "Id do erro: [", "[", '{"error": "'),
    ],
)
def test_no_text_of_the_largest_size_takes_long(piece: str) -> None:
    text = piece * (5_000_000 // len(piece))
    for body in (text, json.dumps({"errorMessage": text})):
        answer = answer_of(body)
        started = time.process_time()
        read_refusal(answer, ["Rua das Flores"])
        assert time.process_time() - started < 1


@given(st.binary(max_size=300))
def test_any_bytes_make_an_answer(content: bytes) -> None:
    answer = read_answer(200, {"Retry-After": content.decode("latin-1")}, content, 1.0)
    read_refusal(answer)


@pytest.mark.parametrize(
    "body", ['{"a": NaN}', '{"a": 1e999999999999999999999}', "[" * 99999, '{"a": ' + "9" * 5000 + "}"]
)
def test_numbers_that_are_none(body: str) -> None:
    assert answer_of(body).document is None


@given(
    st.recursive(
        st.text() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=2),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_json_keeps_every_value_exactly(value: Any) -> None:
    written = to_json(value)
    read = json.loads(written, parse_float=lambda text: text, parse_int=lambda text: text)
    assert read == _as_text(value)


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return value if isinstance(value, str | bool) else format(value, "f") if not isinstance(value, int) else str(value)


@pytest.mark.parametrize("value", [None, 1.5, {"a": None}, object()])
def test_what_must_not_be_sent(value: Any) -> None:
    with pytest.raises(TypeError):
        to_json(value)
