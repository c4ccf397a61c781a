"""genericQuery: hostile values, and answers that would make a row look as if it were not there."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erp_sync.erp.answers import Answer
from erp_sync.erp.client import ErpClient
from erp_sync.erp.generic_query import PAGE_SIZE, GenericQuery, In, Query, Row, batches, literal, number
from erp_sync.errors import ErpUnavailable, Misconfigured
from erp_sync.sandbox.config import SandboxConfig
from erp_sync.sandbox.dictionary import Column, Dictionary
from erp_sync.sandbox.where import Comparison, parse_where

QUERY = Query("SC5", ("C5_NUM", "C5_XPEDWEB"), (In("C5_XPEDWEB", ("WEB-1",), trimmed=True),), custom=("C5_XPEDWEB",))


class Pages(ErpClient):
    """The client with its network taken away: answers the given pages in turn, then the last one for ever."""

    def __init__(self, *pages: dict[str, Any], tenant: str = "01,0101") -> None:
        self.tenant = tenant
        self.pages = pages
        self.asked: list[dict[str, str]] = []

    def get(self, path: str, parameters: Sequence[tuple[str, str]]) -> Answer:
        self.asked.append(dict(parameters))
        page = self.pages[min(len(self.asked), len(self.pages)) - 1]
        return Answer(200, "", page, None, 1.0)


def item(record: int, **values: Any) -> dict[str, Any]:
    return {"c5_filial": "0101", "c5_num": f"{record:06d}", "c5_xpedweb": "WEB-1     ", "r_e_c_n_o_": record, **values}


def rows_of(*pages: dict[str, Any], query: Query = QUERY, tenant: str = "01,0101") -> list[Row]:
    return GenericQuery(Pages(*pages, tenant=tenant)).rows(query)


def test_the_parameters() -> None:
    client = Pages({"items": [item(7)], "hasNext": False})
    (row,) = GenericQuery(client).rows(QUERY)
    assert client.asked == [
        {
            "tables": "SC5",
            "fields": "C5_FILIAL,C5_NUM,C5_XPEDWEB,R_E_C_N_O_",
            "where": "RTRIM(C5_XPEDWEB)='WEB-1'",
            "order": "R_E_C_N_O_",
            "page": "1",
            "pageSize": str(PAGE_SIZE),
        }
    ]
    assert row == {"C5_FILIAL": "0101", "C5_NUM": "000007", "C5_XPEDWEB": "WEB-1", "R_E_C_N_O_": Decimal(7)}


def test_deleted_rows_are_asked_for_with_their_mark() -> None:
    query = Query("SC6", ("C6_NUM", "C6_VALOR"), (In("C6_NUM", ("000001",), 6),), deleted=True)
    parameters = dict(query.parameters(1))
    assert parameters["DeletedFilter"] == "false"
    assert parameters["fields"].split(",")[-2:] == ["D_E_L_E_T_", "R_E_C_N_O_"]


def test_short_codes_are_asked_for_padded_as_well() -> None:
    assert In("A1_CGC", ("52998224725", "11222333000181"), 14).sql() == (
        "A1_CGC IN ('52998224725','52998224725   ','11222333000181')"
    )


@pytest.mark.parametrize("more", [True, 1, "1", "true", "True"])
@pytest.mark.parametrize("done", [False, 0, "0", "false"])
def test_has_next_in_all_its_shapes(more: Any, done: Any) -> None:
    first = {"items": [item(1)], "hasNext": more}
    assert len(rows_of(first, {"items": [item(2)], "hasNext": done})) == 2


def test_without_has_next_pages_are_read_until_nothing_new_comes() -> None:
    assert len(rows_of({"items": [item(1)]}, {"items": [item(2)]}, {"items": []})) == 2
    assert len(rows_of({"items": [item(1)]}, {"items": [item(1)]})) == 1
    assert len(rows_of({"items": [item(1)], "remainingRecords": 1}, {"items": [item(2)], "remainingRecords": 0})) == 2


@pytest.mark.parametrize(
    "pages",
    [
        ({"items": [item(1)], "hasNext": True}, {"items": [item(1)], "hasNext": True}),
        ({"items": [item(1), item(2)], "hasNext": True}, {"items": [item(2), item(3)], "hasNext": False}),
        ({"items": [item(1), item(1)], "hasNext": False},),
        ({"items": [], "hasNext": True},),
        ({"items": None, "hasNext": False},),
        ({"items": ["x"], "hasNext": False},),
        ({"Mensagem": "Nenhum registro"},),
        ({"items": [item(1, c5_num=["x"])], "hasNext": False},),
    ],
)
def test_pages_that_do_not_fit_are_loud(pages: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(ErpUnavailable):
        rows_of(*pages)


@pytest.mark.parametrize(
    "page",
    [
        {"items": [], "hasNext": False, "protectedDataFields": ["C5_XPEDWEB"]},
        {"items": [], "hasNext": False, "nivelFields": ["c5_xpedweb"]},
        {"items": [], "hasNext": False, "protectedDataFields": ["SC5.C5_XPEDWEB"]},
        {"items": [{key: value for key, value in item(1).items() if key != "c5_xpedweb"}], "hasNext": False},
        {"items": [item(1, c5_xpedweb=None)], "hasNext": False},
    ],
)
def test_a_field_that_is_left_out_is_named(page: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured, match="C5_XPEDWEB"):
        rows_of(page)


def test_a_protected_field_that_nobody_asked_for_does_not_matter() -> None:
    assert len(rows_of({"items": [item(1)], "hasNext": False, "protectedDataFields": ["A1_EMAIL"]})) == 1


def test_keys_are_matched_without_case() -> None:
    upper = {key.upper(): value for key, value in item(1).items()}
    assert rows_of({"ITEMS": [upper], "HASNEXT": False}) == rows_of({"items": [item(1)], "hasNext": False})


@pytest.mark.parametrize("branch", ["0102", "", "01"])
def test_a_row_of_another_branch_names_the_tenant(branch: str) -> None:
    with pytest.raises(Misconfigured, match="ERP_SYNC_ERP_TENANT"):
        rows_of({"items": [item(1, c5_filial=branch)], "hasNext": False})


def test_a_branch_with_blanks() -> None:
    page = {"items": [item(1, c5_filial="D MG 01 ")], "hasNext": False}
    assert len(rows_of(page, tenant="T1,D MG 01")) == len(rows_of(page, tenant="T1,D MG 01 ")) == 1


@pytest.mark.parametrize(("branch", "ours"), [("    ", True), ("01  ", True), ("0101", True), ("0102", False)])
def test_customers_may_be_shared_between_branches(branch: str, ours: bool) -> None:
    page = {"items": [{"a1_filial": branch, "a1_cod": "000731", "r_e_c_n_o_": 1}], "hasNext": False}
    query = Query("SA1", ("A1_COD",), (In("A1_COD", ("000731",)),))
    if ours:
        assert len(rows_of(page, query=query)) == 1
    else:
        with pytest.raises(Misconfigured, match="ERP_SYNC_ERP_TENANT"):
            rows_of(page, query=query)


@pytest.mark.parametrize("value", ["12.5", "12.5  ", 12.5])
def test_numbers_may_come_as_text(value: Any) -> None:
    given_value = Decimal(str(value)) if isinstance(value, float) else value
    assert number({"C6_VALOR": given_value}, "C6_VALOR") == Decimal("12.5")


def test_what_is_no_number_is_loud() -> None:
    assert number({"C6_VALOR": ""}, "C6_VALOR") == 0
    with pytest.raises(ErpUnavailable, match="C6_VALOR"):
        number({"C6_VALOR": "T!"}, "C6_VALOR")


@pytest.mark.parametrize(
    ("table", "field", "custom"),
    [
        ("SC5", "C5_SENHA", ""),
        ("SC5", "C5_NUM,A1_CGC", ""),
        ("SC5", "C5_NUM) OR (1=1", "C5_NUM) OR (1=1"),
        ("SC5", "1", "1"),
    ],
)
def test_only_allowed_fields(table: str, field: str, custom: str) -> None:
    with pytest.raises(ValueError, match="may be read"):
        Query(table, (field,), (In("C5_NUM", ("1",)),), custom=(custom,))
    with pytest.raises(ValueError, match="may be read"):
        Query(table, ("C5_NUM",), (In(field, ("1",)),), custom=(custom,))


def test_no_query_without_values() -> None:
    for where in ((), (In("C5_NUM", ()),)):
        with pytest.raises(ValueError, match="whole table"):
            Query("SC5", ("C5_NUM",), where)


@pytest.mark.parametrize("value", ["a\x00", "a\nb", "a\x7fb", "a\x85", "\u202eabc", "a\u2028b"])
def test_control_characters_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="cannot be asked for"):
        literal(value)


def test_batches_hold_each_value_once() -> None:
    values = [str(index % 130) for index in range(500)]
    assert [len(batch) for batch in batches(values)] == [60, 60, 10]


HOSTILE = st.one_of(
    st.text(st.characters(blacklist_categories=("C", "Z")), min_size=1, max_size=20),
    st.lists(
        st.sampled_from(["'", "''", "--", "/*", " OR 1=1", ")", "(", "\\", "%", "’", "＇", ";", "x", " "]), min_size=1
    )
    .map("".join)
    .filter(str.strip),
)


@given(st.lists(HOSTILE, min_size=1, max_size=8))
def test_the_erp_reads_back_exactly_the_values_that_were_asked_for(values: list[str]) -> None:
    columns = Dictionary(SandboxConfig(external_id_width=250)).tables["SC5"].columns

    def resolve(name: str, alias: str) -> Column:
        return columns[name]

    sql = In("C5_XPEDWEB", values, trimmed=True).sql()
    condition, read = parse_where(sql, resolve, Comparison())
    assert condition.count("C5_XPEDWEB") == 1
    assert {str(value).rstrip() for value in read} == {value.rstrip() for value in values}
