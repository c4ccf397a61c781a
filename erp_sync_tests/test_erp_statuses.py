"""What became of orders, read through genericQuery, and the cancel call: hostile answers, joins, what is proven."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr

from erp_sync.erp.answers import Answer
from erp_sync.erp.client import ErpClient
from erp_sync.erp.gate import OpenGate
from erp_sync.erp.statuses import ErpStatuses
from erp_sync.errors import ErpSyncError, ErpUnavailable, InDoubt, Misconfigured, OddRow, Refused
from erp_sync.models import CancelAnswer, ErpItem, ErpRelease, Invoice, OrderProgress
from erp_sync.settings import Settings
from erp_sync_tests.scripted_erp import Request, Script, ScriptedErp, answer, hang_up, reset, response

D = Decimal
CNPJ, SUPPLIER = "11222333000181", "12ABC34501DE35"
KEY = "35261111222333000181550010000123451123456788"
WIDTHS = {
    **{
        "C5_FILIAL": 4,
        "C5_NUM": 6,
        "C5_NOTA": 9,
        "C5_LIBEROK": 1,
        "C5_BLQ": 1,
        "C5_XPEDWEB": 20,
        "C5_RASTR": 30,
        "C5_YPED": 20,
    },
    **{"C6_FILIAL": 4, "C6_NUM": 6, "C6_ITEM": 2, "C6_BLQ": 2, "C6_NOTA": 9},
    **{"C9_FILIAL": 4, "C9_PEDIDO": 6, "C9_BLCRED": 2, "C9_BLEST": 2},
    **{"D2_FILIAL": 4, "D2_PEDIDO": 6, "D2_DOC": 9, "D2_SERIE": 3, "D2_CLIENTE": 6, "D2_LOJA": 2, "D2_EMISSAO": 8},
    **{"F2_FILIAL": 4, "F2_DOC": 9, "F2_SERIE": 3, "F2_CLIENTE": 6, "F2_LOJA": 2, "F2_CHVNFE": 44, "F2_DTENTR": 8},
    **{"GW1_FILIAL": 4, "GW1_NRDC": 16, "GW1_SERDC": 3, "GW1_EMISDC": 14, "GW1_SIT": 1},
    **{"GWU_FILIAL": 4, "GWU_NRDC": 16, "GWU_SERDC": 3, "GWU_EMISDC": 14, "GWU_SEQ": 2, "GWU_DTENT": 8},
    **{"GWU_HRENT": 5, "D_E_L_E_T_": 1},
    **{"C6_QTDVEN": 0, "C6_QTDENT": 0, "C6_QTDEMP": 0},
}
"""The dictionary's, to which values are padded."""
Fields = dict[str, Any]


class Tables(ErpClient):
    """The client with its network taken away: answers genericQuery from rows, whose keys are the fields' names.

    `shape` makes an answer's items from the rows that were found.
    """

    def __init__(self, tables: Mapping[str, Sequence[Fields]], tenant: str = "01,0101") -> None:
        self.tenant = tenant
        self.asked: list[dict[str, str]] = []
        self.shape: Callable[[list[Fields]], list[Fields]] = padded
        self.page_size = 10_000
        self.also: Fields = {}
        self._tables = {
            name: [{"R_E_C_N_O_": record, "D_E_L_E_T_": " ", **row} for record, row in enumerate(rows, 1)]
            for name, rows in tables.items()
        }

    def of_flow(self, flow: str) -> Tables:
        return self

    def get(self, path: str, parameters: Sequence[tuple[str, str]]) -> Answer:
        given = dict(parameters)
        self.asked.append(given)
        field = re.split(r"=| IN ", given["where"])[0]
        values = {value.rstrip() for value in literals(given["where"])}
        rows = [
            {name: row.get(name, "0101" if name.endswith("_FILIAL") else "") for name in given["fields"].split(",")}
            for row in self._tables.get(given["tables"], [])
            if str(row[field]).rstrip() in values
            and (row["D_E_L_E_T_"] == " " or given.get("DeletedFilter") == "false")
        ]
        start = (int(given["page"]) - 1) * self.page_size
        page = self.shape(rows[start : start + self.page_size])
        document = {"items": page, "hasNext": len(rows) > start + self.page_size, **self.also}
        return Answer(200, "", document, None, 1.0, datetime(2026, 11, 24, 12, tzinfo=UTC))

    def tables(self) -> list[str]:
        return [request["tables"] for request in self.asked]

    def of(self, table: str) -> dict[str, str]:
        """The first request about a table."""
        return next(request for request in self.asked if request["tables"] == table)


def literals(where: str) -> list[str]:
    return [text.replace("''", "'") for text in re.findall(r"'((?:[^']|'')*)'", where)]


def padded(rows: list[Fields]) -> list[Fields]:
    return [
        {
            name.lower(): value.ljust(WIDTHS.get(name, 0)) if isinstance(value, str) else value
            for name, value in row.items()
        }
        for row in rows
    ]


def trimmed(rows: list[Fields]) -> list[Fields]:
    return [{name.lower(): value for name, value in row.items()} for row in rows]


def upper(rows: list[Fields]) -> list[Fields]:
    return rows


def numbers_as_text(rows: list[Fields]) -> list[Fields]:
    return [
        {name: f" {value}  " if isinstance(value, Decimal | int) else value for name, value in row.items()}
        for row in padded(rows)
    ]


def settings(tenant: str = "01,0101", *, erp: Fields | None = None, **statuses: Any) -> Settings:
    return Settings.model_validate(
        {
            **{"erp_url": "http://127.0.0.1:1/rest", "erp_user": "svc", "erp_password": SecretStr("x")},
            **{"erp_tenant": tenant, "erp": erp or {}, "statuses": statuses},
        }
    )


def statuses_of(tables: Tables, **section: Any) -> ErpStatuses:
    return ErpStatuses(tables, settings(tables.tenant, **section))


def header(number: str, **values: Any) -> Fields:
    return {"C5_NUM": number, "C5_XPEDWEB": f"LJ-{number}", **values}


def line(number: str, code: str = "01", **values: Any) -> Fields:
    return {"C6_NUM": number, "C6_ITEM": code, "C6_QTDVEN": D(2), "C6_QTDENT": D(0), "C6_QTDEMP": D(0), **values}


def sold(number: str, document: str = "000012345", **values: Any) -> Fields:
    """A line of SD2."""
    parts = {"D2_SERIE": "1", "D2_CLIENTE": "000731", "D2_LOJA": "01", "D2_EMISSAO": "20261124"}
    return {"D2_PEDIDO": number, "D2_DOC": document, **parts, **values}


def invoice(document: str = "000012345", **values: Any) -> Fields:
    """A row of SF2."""
    parts = {"F2_SERIE": "1", "F2_CLIENTE": "000731", "F2_LOJA": "01", "F2_CHVNFE": KEY, "F2_DTENTR": ""}
    return {"F2_DOC": document, **parts, **values}


def shipped(document: str = "000012345", issuer: str = CNPJ, sit: str = "5") -> Fields:
    return {"GW1_NRDC": document, "GW1_SERDC": "1", "GW1_EMISDC": issuer, "GW1_SIT": sit}


def leg(day: str, hour: str = "", seq: str = "01", document: str = "000012345", issuer: str = CNPJ) -> Fields:
    parts = {"GWU_NRDC": document, "GWU_SERDC": "1", "GWU_EMISDC": issuer, "GWU_SEQ": seq}
    return {**parts, "GWU_DTENT": day, "GWU_HRENT": hour}


def at(*parts: int) -> datetime:
    return datetime(*parts)  # type: ignore[arg-type] # noqa: DTZ001 - the ERP's wall clock


# Header and items


@pytest.mark.parametrize("shape", [padded, trimmed, upper, numbers_as_text])
def test_an_order_s_progress_in_all_shapes(shape: Callable[[list[Fields]], list[Fields]]) -> None:
    tables = Tables(
        {
            "SC5": [header("000123", C5_NOTA="000012345", C5_LIBEROK="S", C5_BLQ="1", C5_RASTR="BR123")],
            "SC6": [
                line(
                    "000123", C6_QTDVEN=D("2.50"), C6_QTDENT=D("1.5"), C6_QTDEMP=D(1), C6_BLQ="R", C6_NOTA="000012345"
                ),
                line("000123", "02", C6_QTDVEN=3),
            ],
        }
    )
    tables.shape = shape
    erp = statuses_of(tables, tracking_field="C5_RASTR")
    assert erp.progress(["000123", "000124"]) == {
        "000123": OrderProgress(
            branch="0101",
            number="000123",
            external_id="LJ-000123",
            note="000012345",
            release_flag="S",
            block="1",
            items=(ErpItem(D("2.5"), D("1.5"), D(1), "R", "000012345"), ErpItem(D(3), D(0), D(0), "", "")),
            tracking_code="BR123",
        )
    }
    assert erp.erp_time == datetime(2026, 11, 24, 12, tzinfo=UTC)


def test_an_order_without_items_or_tracking() -> None:
    found = statuses_of(Tables({"SC5": [header("000123")], "SC6": [line("000124")]})).progress(["000123"])
    assert (found["000123"].items, found["000123"].tracking_code) == ((), "")


def test_the_customer_s_own_fields_are_asked_for() -> None:
    tables = Tables({"SC5": [{"C5_NUM": "000123", "C5_YPED": "WEB-1", "C5_RASTR": "BR1"}]})
    erp = statuses_of(tables, erp={"external_id_field": "C5_YPED"}, tracking_field="C5_RASTR")
    assert erp.progress(["000123"])["000123"].external_id == "WEB-1"
    assert tables.of("SC5")["fields"].split(",")[-3:] == ["C5_YPED", "C5_RASTR", "R_E_C_N_O_"]


def test_short_numbers_are_asked_for_padded_as_well() -> None:
    tables = Tables({"SC5": [header("A1")], "SC6": [line("A1")]})
    assert set(statuses_of(tables, erp={"widths": {"C5_NUM": 8}}).progress(["A1"])) == {"A1"}
    assert tables.of("SC5")["where"] == "C5_NUM IN ('A1','A1      ')"


def test_ten_thousand_numbers_take_two_requests_a_hundred() -> None:
    numbers = [f"{number:06d}" for number in range(10_000)]
    tables = Tables(
        {"SC5": [header(number) for number in numbers], "SC6": [line(number) for number in numbers for _ in range(2)]}
    )
    found = statuses_of(tables).progress([*numbers, *numbers[:500]])
    assert list(found) == numbers
    assert all(len(order.items) == 2 for order in found.values())
    assert sorted(tables.tables()) == ["SC5"] * 100 + ["SC6"] * 100
    batches = {table: [literals(r["where"]) for r in tables.asked if r["tables"] == table] for table in ("SC5", "SC6")}
    assert {len(batch) for lists in batches.values() for batch in lists} == {100}
    assert [number for batch in batches["SC5"] for number in batch] == numbers


def test_nothing_is_asked_about_no_orders() -> None:
    tables = Tables({})
    erp = statuses_of(tables, delivered_from="gfe")
    assert (erp.progress([]), erp.deleted([]), erp.releases([]), erp.invoices([])) == ({}, set(), {}, {})
    assert tables.asked == []


def test_items_on_several_pages() -> None:
    tables = Tables({"SC5": [header("000123")], "SC6": [line("000123", f"{code:02d}") for code in range(7)]})
    tables.page_size = 3
    assert len(statuses_of(tables).progress(["000123"])["000123"].items) == 7
    assert sorted(tables.tables()) == ["SC5", "SC6", "SC6", "SC6"]


def test_an_order_that_only_a_collation_takes_for_ours_is_left_out() -> None:
    class Caseless(Tables):
        def get(self, path: str, parameters: Sequence[tuple[str, str]]) -> Answer:
            given = dict(parameters)
            return super().get(path, [*given.items(), ("where", given["where"].replace("A00001", "a00001"))])

    tables = Caseless({"SC5": [header("a00001")], "SC6": [line("a00001")]})
    assert statuses_of(tables).progress(["A00001"]) == {}


def test_numbers_that_could_break_out_of_the_text() -> None:
    tables = Tables({"SC5": [header("O'1")], "SC6": [line("O'1")]})
    assert set(statuses_of(tables).progress(["O'1"])) == {"O'1"}
    assert tables.of("SC6")["where"] == "C6_NUM IN ('O''1','O''1   ')"
    with pytest.raises(ValueError, match="cannot be asked for"):
        statuses_of(tables).progress(["0001\n3"])


# Answers that must not be believed

READS: dict[str, tuple[Callable[[ErpStatuses], object], dict[str, list[Fields]]]] = {
    "progress": (lambda erp: erp.progress(["000123"]), {"SC5": [header("000123")], "SC6": [line("000123")]}),
    "deleted": (lambda erp: erp.deleted(["000123"]), {"SC5": [header("000123")]}),
    "releases": (lambda erp: erp.releases(["000123"]), {"SC9": [{"C9_PEDIDO": "000123"}]}),
    "invoices": (
        lambda erp: erp.invoices(["000123"]),
        {"SD2": [sold("000123")], "SF2": [invoice()], "GW1": [shipped()], "GWU": [leg("20261126")]},
    ),
}
SOURCES = [(read, table) for read, (_, tables) in READS.items() for table in tables]
PREFIX = {"SC5": "C5", "SC6": "C6", "SC9": "C9", "SD2": "D2", "SF2": "F2", "GW1": "GW1", "GWU": "GWU"}


def read(how: str, tables: Tables) -> object:
    return READS[how][0](statuses_of(tables, delivered_from="gfe"))


class Altered(Tables):
    """Answers about one table are altered on their way."""

    def __init__(self, tables: Mapping[str, Sequence[Fields]], table: str, alter: Callable[[Fields], None]) -> None:
        super().__init__(tables)
        self._table = table
        self._alter = alter

    def get(self, path: str, parameters: Sequence[tuple[str, str]]) -> Answer:
        found = super().get(path, parameters)
        if self.asked[-1]["tables"] == self._table:
            self._alter(found.document)
        return found


@pytest.mark.parametrize(("how", "table"), SOURCES)
def test_a_row_of_another_branch_names_the_tenant_and_nothing_is_taken(how: str, table: str) -> None:
    rows = READS[how][1]
    foreign = {**rows[table][0], f"{PREFIX[table]}_FILIAL": "0102"}
    tables = Tables({**rows, table: [*rows[table], foreign]})
    with pytest.raises(Misconfigured, match=r"ERP_SYNC_ERP_TENANT = '01,0101'.*0102"):
        read(how, tables)


@pytest.mark.parametrize(("how", "table"), SOURCES)
@pytest.mark.parametrize("notice", ["protectedDataFields", "nivelFields"])
def test_a_protected_field_is_named(how: str, table: str, notice: str) -> None:
    asked = Tables(READS[how][1])
    read(how, asked)
    fields = next(request["fields"] for request in asked.asked if request["tables"] == table).split(",")
    for field in fields:

        def protect(document: Fields, field: str = field) -> None:
            document[notice] = ["A1_EMAIL", field]
            for item in document["items"]:
                del item[field.lower()]

        with pytest.raises(Misconfigured, match=field):
            read(how, Altered(READS[how][1], table, protect))


@pytest.mark.parametrize(("how", "table"), SOURCES)
def test_page_one_for_ever(how: str, table: str) -> None:
    tables = Altered(READS[how][1], table, lambda document: document.update(hasNext=True))

    def first(path: str, parameters: Sequence[tuple[str, str]]) -> Answer:
        return Altered.get(tables, path, [*dict(parameters).items(), ("page", "1")])

    tables.get = first  # type: ignore[method-assign]
    with pytest.raises(ErpUnavailable, match=f"a row of {table} twice"):
        read(how, tables)
    assert tables.tables().count(table) == 2


@pytest.mark.parametrize(("how", "table"), SOURCES)
def test_a_row_twice(how: str, table: str) -> None:
    tables = Altered(READS[how][1], table, lambda document: document.update(items=document["items"] * 2))
    with pytest.raises(ErpUnavailable, match=f"a row of {table} twice"):
        read(how, tables)


@pytest.mark.parametrize("field", ["C6_QTDVEN", "C6_QTDENT", "C6_QTDEMP"])
@pytest.mark.parametrize("value", ["T!", "1,5", "NaN", "Infinity", "-Infinity", "sNaN", "1.5.0", "0x10"])
def test_a_quantity_that_is_none(field: str, value: str) -> None:
    tables = Tables({"SC5": [header("000123")], "SC6": [line("000123", **{field: value})]})
    with pytest.raises(OddRow, match=field):
        statuses_of(tables).progress(["000123"])


def test_an_empty_quantity_is_none_yet() -> None:
    tables = Tables({"SC5": [header("000123")], "SC6": [line("000123", C6_QTDENT="", C6_QTDEMP="  ")]})
    tables.shape = trimmed
    (item,) = statuses_of(tables).progress(["000123"])["000123"].items
    assert (item.invoiced, item.released) == (D(0), D(0))


@pytest.mark.parametrize("value", ["20261332", "24/11/26", "2026-11-24", "00000000", "/  /", "2026112", "202611 2"])
@pytest.mark.parametrize(("table", "field"), [("SD2", "D2_EMISSAO"), ("SF2", "F2_DTENTR"), ("GWU", "GWU_DTENT")])
def test_a_date_that_is_none(table: str, field: str, value: str) -> None:
    rows = READS["invoices"][1]
    tables = Tables({**rows, table: [{**rows[table][0], field: value}]})
    with pytest.raises(OddRow, match=field):
        statuses_of(tables, delivered_from="f2_dtentr" if table == "SF2" else "gfe").invoices(["000123"])


@pytest.mark.parametrize("value", [None, ["x"], {"a": 1}])
def test_a_value_that_is_neither_text_nor_number(value: Any) -> None:
    tables = Altered(READS["progress"][1], "SC5", lambda document: document["items"][0].update(c5_nota=value))
    with pytest.raises((Misconfigured, ErpUnavailable), match="C5_NOTA"):
        statuses_of(tables).progress(["000123"])


# Deleted orders


def test_deleted_orders_and_those_that_live_beside_one() -> None:
    tables = Tables(
        {
            "SC5": [
                header("000001", D_E_L_E_T_="*"),
                header("000002"),
                header("000003", D_E_L_E_T_="*"),
                header("000003"),
                header("000004", D_E_L_E_T_="*"),
                header("000004", D_E_L_E_T_="*"),
            ],
            "SC6": [line("000002"), line("000001", D_E_L_E_T_="*"), line("000003", D_E_L_E_T_="*"), line("000003")],
        }
    )
    numbers = [f"00000{number}" for number in range(1, 7)]
    assert statuses_of(tables).deleted(numbers) == {"000001", "000004"}
    assert tables.asked[0]["DeletedFilter"] == "false"
    found = statuses_of(tables).progress(numbers)
    assert set(found) == {"000002", "000003"}
    assert len(found["000003"].items) == 1


# Releases


def test_releases_by_order() -> None:
    tables = Tables(
        {
            "SC9": [
                {"C9_PEDIDO": "000001", "C9_BLCRED": "01", "C9_BLEST": ""},
                {"C9_PEDIDO": "000002", "C9_BLCRED": "10", "C9_BLEST": "10"},
                {"C9_PEDIDO": "000001", "C9_BLCRED": "", "C9_BLEST": "02"},
                {"C9_PEDIDO": "000001", "C9_BLCRED": "09", "C9_BLEST": "", "D_E_L_E_T_": "*"},
                {"C9_PEDIDO": "000003", "C9_BLCRED": "", "C9_BLEST": ""},
            ]
        }
    )
    assert statuses_of(tables).releases(["000001", "000002", "000009"]) == {
        "000001": (ErpRelease("01", ""), ErpRelease("", "02")),
        "000002": (ErpRelease("10", "10"),),
    }


# Invoices


def test_an_invoice_is_its_document_series_customer_and_store() -> None:
    """The same number exists in another series, of another customer and of another store: none of them is ours."""
    others = [
        invoice(F2_SERIE="2", F2_CHVNFE="SERIES"),
        invoice(F2_CLIENTE="000732", F2_CHVNFE="CUSTOMER"),
        invoice(F2_LOJA="02", F2_CHVNFE="STORE"),
    ]
    for rows in ([*others, invoice()], [invoice(), *others]):
        tables = Tables({"SD2": [sold("000123")], "SF2": rows})
        (found,) = statuses_of(tables).invoices(["000123"])["000123"]
        assert found == Invoice("000012345", "1", date(2026, 11, 24), KEY)
    tables = Tables({"SD2": [sold("000123")], "SF2": others})
    assert statuses_of(tables).invoices(["000123"])["000123"] == (Invoice("000012345", "1", date(2026, 11, 24)),)


def test_two_series_of_one_number_are_two_invoices() -> None:
    tables = Tables(
        {
            "SD2": [sold("000123"), sold("000123", D2_SERIE="2")],
            "SF2": [invoice(F2_CHVNFE="ONE"), invoice(F2_SERIE="2", F2_CHVNFE="TWO")],
        }
    )
    found = statuses_of(tables).invoices(["000123"])["000123"]
    assert [(one.series, one.key) for one in found] == [("1", "ONE"), ("2", "TWO")]


def test_several_invoices_the_oldest_first_each_once() -> None:
    tables = Tables(
        {
            "SD2": [
                sold("000123", "000000900", D2_EMISSAO="20261201"),
                sold("000123", "000012345"),
                sold("000123", "000012345"),
                sold("000123", "000012344"),
                sold("000124", "000000900", D2_EMISSAO="20261201"),
                sold("000123", "000000001", D2_EMISSAO=""),
            ],
            "SF2": [invoice(number) for number in ("000000900", "000012345", "000012344", "000000001")],
        }
    )
    found = statuses_of(tables).invoices(["000123", "000124", "000125"])
    assert {code: [one.number for one in invoices] for code, invoices in found.items()} == {
        "000123": ["000000001", "000012344", "000012345", "000000900"],
        "000124": ["000000900"],
    }
    assert [one.issued_on for one in found["000123"]] == [
        None,
        date(2026, 11, 24),
        date(2026, 11, 24),
        date(2026, 12, 1),
    ]


def test_an_invoice_that_is_cancelled_has_vanished() -> None:
    rows = [sold("000123", D_E_L_E_T_="*"), sold("000123", "000012346")]
    tables = Tables({"SD2": rows, "SF2": [invoice(D_E_L_E_T_="*"), invoice("000012346")]})
    assert [one.number for one in statuses_of(tables).invoices(["000123"])["000123"]] == ["000012346"]


def test_an_invoice_that_is_not_authorised_yet_has_no_key() -> None:
    tables = Tables({"SD2": [sold("000123")], "SF2": [invoice(F2_CHVNFE="")]})
    assert statuses_of(tables).invoices(["000123"])["000123"][0].key == ""


def test_documents_are_asked_for_in_hundreds_and_at_their_width() -> None:
    rows = [sold(f"{number:06d}", f"{number:09d}") for number in range(250)]
    tables = Tables({"SD2": rows, "SF2": [invoice(f"{number:09d}") for number in range(250)]})
    found = statuses_of(tables).invoices([f"{number:06d}" for number in range(250)])
    assert all(one.key == KEY for invoices in found.values() for one in invoices)
    assert tables.tables() == ["SD2"] * 3 + ["SF2"] * 3
    short = Tables({"SD2": [sold("000123", "77")], "SF2": [invoice("77")]})
    assert statuses_of(short).invoices(["000123"])["000123"][0].key == KEY
    assert short.asked[1]["where"] == "F2_DOC IN ('77','77       ')"


# Delivered


def test_where_nobody_says_so_nothing_is_asked_about_delivery() -> None:
    tables = Tables({"SD2": [sold("000123")], "SF2": [invoice(F2_DTENTR="20261126")], "GW1": [shipped()]})
    assert statuses_of(tables).invoices(["000123"])["000123"][0].delivered_at is None
    assert tables.tables() == ["SD2", "SF2"]
    assert "F2_DTENTR" not in tables.asked[1]["fields"]


def test_delivered_by_the_invoice_s_own_date() -> None:
    tables = Tables(
        {
            "SD2": [sold("000123"), sold("000123", "000012346")],
            "SF2": [
                invoice(F2_DTENTR="20261126"),
                invoice("000012346"),
                invoice(F2_SERIE="2", F2_DTENTR="20261101"),
            ],
        }
    )
    found = statuses_of(tables, delivered_from="f2_dtentr").invoices(["000123"])["000123"]
    assert [one.delivered_at for one in found] == [at(2026, 11, 26), None]


def test_a_broken_date_of_somebody_else_s_invoice_stops_nobody() -> None:
    rows = [invoice(F2_DTENTR="20261126"), invoice(F2_CLIENTE="000999", F2_DTENTR="99999999")]
    tables = Tables({"SD2": [sold("000123")], "SF2": rows})
    (found,) = statuses_of(tables, delivered_from="f2_dtentr").invoices(["000123"])["000123"]
    assert found.delivered_at == at(2026, 11, 26)


def by_freight(documents: Sequence[Fields], legs: Sequence[Fields], key: str = KEY) -> datetime | None:
    tables = Tables({"SD2": [sold("000123")], "SF2": [invoice(F2_CHVNFE=key)], "GW1": documents, "GWU": legs})
    (found,) = statuses_of(tables, delivered_from="gfe").invoices(["000123"])["000123"]
    return found.delivered_at


@pytest.mark.parametrize(
    ("hour", "moment"),
    [
        ("14:30", at(2026, 11, 26, 14, 30)),
        ("00:00", at(2026, 11, 26)),
        ("", at(2026, 11, 26)),
        ("24:00", at(2026, 11, 26)),
        ("14:61", at(2026, 11, 26)),
        ("  :  ", at(2026, 11, 26)),
        ("tarde", at(2026, 11, 26)),
    ],
)
def test_delivered_by_the_freight_module(hour: str, moment: datetime) -> None:
    assert by_freight([shipped()], [leg("20261126", hour)]) == moment


@pytest.mark.parametrize("sit", ["", "1", "2", "3", "4", "6", "7"])
def test_a_document_on_its_way_is_not_delivered(sit: str) -> None:
    assert by_freight([shipped(sit=sit)], [leg("20261126")]) is None


def test_a_document_without_legs_or_without_a_date_is_not_delivered() -> None:
    assert by_freight([shipped()], []) is None
    assert by_freight([shipped()], [leg("")]) is None
    assert by_freight([], [leg("20261126")]) is None


def test_the_last_of_several_legs_counts() -> None:
    legs = [leg("20261128", "09:15", seq="03"), leg("20261125", seq="01"), leg("20261127", seq="02")]
    for order in (legs, legs[::-1], legs[1:] + legs[:1]):
        assert by_freight([shipped()], order) == at(2026, 11, 28, 9, 15)
    assert by_freight([shipped()], [leg("20261125", seq="01"), leg("", seq="02")]) is None


def test_a_supplier_s_document_of_the_same_number_is_not_ours() -> None:
    ours, theirs = shipped(sit="3"), shipped(issuer=SUPPLIER)
    their_leg = leg("20261101", issuer=SUPPLIER)
    for documents in ([ours, theirs], [theirs, ours]):
        assert by_freight(documents, [their_leg]) is None
        both = [{**ours, "GW1_SIT": "5"}, theirs]
        assert by_freight(both, [their_leg, leg("20261126")]) == at(2026, 11, 26)
    assert by_freight([theirs], [their_leg]) is None, "the freight module does not have ours yet"


def test_a_freight_module_that_knows_us_by_a_code() -> None:
    ours, theirs = shipped(issuer="000001"), shipped(issuer=SUPPLIER)
    legs = [leg("20261126", issuer="000001"), leg("20261101", issuer=SUPPLIER)]
    assert by_freight([ours], legs) == at(2026, 11, 26)
    assert by_freight([theirs, ours], legs) == at(2026, 11, 26)
    assert by_freight([ours, shipped(issuer="000002")], legs) is None, "nobody can tell which"


def test_an_invoice_without_a_key_takes_the_only_document_there_is() -> None:
    assert by_freight([shipped()], [leg("20261126")], key="") == at(2026, 11, 26)
    assert by_freight([shipped(), shipped(issuer=SUPPLIER)], [leg("20261126")], key="") is None


def test_another_series_in_the_freight_module_is_not_ours() -> None:
    assert by_freight([{**shipped(), "GW1_SERDC": "2"}], [{**leg("20261126"), "GWU_SERDC": "2"}]) is None


# The cancel call


class Flows(OpenGate):
    """Notes which slots are taken."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool]] = []

    @contextmanager
    def call(self, flow: str, *, write: bool) -> Iterator[None]:
        self.calls.append((flow, write))
        yield


def connected(
    server: ScriptedErp, gate: OpenGate | None = None, tenant: str = "01,0101", **section: Any
) -> ErpStatuses:
    client = ErpClient(
        server.root,
        "svc",
        "x",
        "01,0101",
        gate=gate or OpenGate(),
        read_timeout=0.3,
        write_timeout=0.3,
        connect_timeout=1,
        sleep=lambda _: None,
    )
    return ErpStatuses(client, settings(**section))


def soon() -> float:
    return time.monotonic() + 5


def cancel(erp: ErpStatuses, branch: str = "0101", number: str = "000123") -> CancelAnswer:
    return erp.cancel(branch, number, "WEB-100045", soon)


def outcome(script: Script) -> CancelAnswer | ErpSyncError:
    with ScriptedErp(script) as erp:
        try:
            return cancel(connected(erp))
        except ErpSyncError as error:
            return error
        finally:
            assert len(erp.requests) == 1, "a cancel call is never repeated"


DONE = {"pedido": "000123", "situacao": "cancelado", "forma": "exclusao", "canceladoEm": "2026-11-23T10:20:31-03:00"}


def test_the_call_itself() -> None:
    with ScriptedErp(answer(200, DONE)) as erp:
        said = cancel(connected(erp, cancel_reason="Pagamento recusado"))
        assert (said.residue, said.form) == (False, "exclusao")
        assert said.milliseconds > 0
        (request,) = erp.requests
    assert (request.method, request.target) == ("POST", "/rest/ecommerce/v1/pedidos/0101/000123/cancelar")
    assert request.headers["tenantid"] == "01,0101"
    assert request.headers["content-type"].startswith("application/json")
    assert request.json() == {"C5_XPEDWEB": "WEB-100045", "motivo": "Pagamento recusado", "modo": "auto"}


@pytest.mark.parametrize("mode", ["auto", "exclusao", "residuo"])
def test_the_mode_and_the_external_id_s_field_are_settings(mode: str) -> None:
    with ScriptedErp(answer(200, DONE)) as erp:
        cancel(connected(erp, erp={"external_id_field": "C5_YPED", "orders_path": "/loja/pedidos"}, cancel_mode=mode))
        assert erp.requests[0].target == "/rest/loja/pedidos/0101/000123/cancelar"
        assert erp.requests[0].json() == {"C5_YPED": "WEB-100045", "motivo": "Cancelado na loja", "modo": mode}


@pytest.mark.parametrize(
    ("branch", "number", "path"),
    [
        ("D MG 01", "000123", "D%20MG%2001/000123"),
        ("0101", "A/B?c#d", "0101/A%2FB%3Fc%23d"),
        ("0101", "1%2F2", "0101/1%252F2"),
        ("01&1", "é", "01%261/%C3%A9"),
        ("01/1", "000123", "01%2F1/000123"),
    ],
)
def test_branch_and_number_are_quoted(branch: str, number: str, path: str) -> None:
    with ScriptedErp(answer(200, {**DONE, "pedido": number})) as erp:
        cancel(connected(erp), branch, number)
        assert erp.requests[0].target == f"/rest/ecommerce/v1/pedidos/{path}/cancelar"


@pytest.mark.parametrize(
    ("body", "residue", "form"),
    [
        (DONE, False, "exclusao"),
        ({**DONE, "forma": "residuo"}, False, "residuo"),
        ({**DONE, "forma": "inexistente"}, False, "inexistente"),
        ({**DONE, "situacao": "residuo", "forma": "residuo"}, True, "residuo"),
        ({"SITUACAO": " Cancelado ", "FORMA": "EXCLUSAO"}, False, "exclusao"),
        ({"situacao": "cancelado"}, False, ""),
        ({"situacao": "cancelado", "forma": None, "pedido": None}, False, ""),
        ({"situacao": "cancelado", "forma": "<script>", "pedido": "000123   "}, False, ""),
    ],
)
@pytest.mark.parametrize("status", [200, 201])
def test_positive_answers(body: Fields, residue: bool, form: str, status: int) -> None:
    said = outcome(answer(status, body))
    assert isinstance(said, CancelAnswer)
    assert (said.residue, said.form) == (residue, form)


@pytest.mark.parametrize(
    "script",
    [
        answer(200),
        answer(204),
        answer(200, "<html>OK</html>"),
        answer(200, {}),
        answer(200, []),
        answer(200, {"pedido": "000123"}),
        answer(200, {**DONE, "situacao": "pendente"}),
        answer(200, {**DONE, "situacao": ""}),
        answer(200, {**DONE, "situacao": None}),
        answer(200, {**DONE, "situacao": True}),
        answer(200, {**DONE, "pedido": "000999"}),
        answer(200, '{"pedido":"000123","situacao":"cancelado"'),
        answer(302, b"", {"Location": "/login"}),
        answer(500),
        answer(500, "<html>Internal</html>"),
        answer(502, "<html>Bad gateway</html>"),
        answer(504),
        answer(409, {"code": "EXISTCHAV", "message": "O cancelamento já foi incluído"}),
        lambda _, sock: hang_up(sock),
        lambda _, sock: reset(sock),
        lambda _, sock: sock.sendall(response(200, DONE)[:60]),
    ],
)
def test_whatever_proves_nothing_is_in_doubt(script: Script) -> None:
    assert isinstance(said := outcome(script), InDoubt), said


def test_an_answer_that_does_not_come_in_time_is_in_doubt() -> None:
    def late(request: Request, sock: socket.socket) -> None:
        time.sleep(0.6)
        sock.sendall(response(200, DONE))

    assert isinstance(outcome(late), InDoubt)


REFUSALS = {
    "FATURADO": "O pedido já foi faturado",
    "A410LIBER": "Pedido liberado, não pode ser excluído",
    "PEDIDO_DIVERGENTE": "O pedido tem outro número externo",
}


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize(
    ("legacy", "status", "certain"), [(False, 409, True), (True, 409, True), (True, 400, True), (True, 500, False)]
)
def test_refusals(code: str, legacy: bool, status: int, certain: bool) -> None:
    body: Fields = {"code": code, "message": REFUSALS[code], "detailedMessage": "", "helpUrl": "", "details": []}
    if legacy:
        body = {"errorCode": status, "errorMessage": f"HELP: {code}\r\n{REFUSALS[code]}\r\n"}
    said = outcome(answer(status, body))
    assert isinstance(said, Refused), said
    assert (said.help_code, said.certain, said.status) == (code, certain, status)
    assert REFUSALS[code] in str(said)


@pytest.mark.parametrize(
    ("script", "certain"),
    [
        (answer(400, {"errorCode": 400, "errorMessage": "Registro em uso por outro usuario"}), True),
        (answer(500, {"errorId": "E1", "error": "Nao foi possivel excluir", "solution": ""}), False),
        (answer(200, {"Mensagem": "Pedido em separacao"}), False),
        (answer(200, "OK"), False),
    ],
)
def test_refusals_without_a_code(script: Script, certain: bool) -> None:
    said = outcome(script)
    assert isinstance(said, Refused)
    assert (said.help_code, said.certain) == ("", certain)


@pytest.mark.parametrize("status", [404, 405])
def test_a_path_that_the_erp_does_not_have_is_named(status: int) -> None:
    said = outcome(answer(status))
    assert isinstance(said, Misconfigured)
    assert "erp.orders_path" in str(said)


def test_a_busy_erp_did_nothing() -> None:
    said = outcome(answer(503, {"errorCode": 503, "errorMessage": "Server Busy"}, {"Retry-After": "7"}))
    assert isinstance(said, ErpUnavailable)
    assert said.retry_after == 7


def test_nothing_leaves_once_the_time_is_over_or_the_intent_fails() -> None:
    def not_ours() -> float:
        raise LookupError("somebody else has it")

    with ScriptedErp(answer(200, DONE)) as erp:
        statuses = connected(erp)
        with pytest.raises(ErpUnavailable, match="nothing was sent"):
            statuses.cancel("0101", "000123", "WEB-100045", lambda: time.monotonic() - 0.001)
        with pytest.raises(LookupError):
            statuses.cancel("0101", "000123", "WEB-100045", not_ours)
        time.sleep(0.05)
        assert erp.requests == []


# Slots, and the real wire


def test_which_slots_are_taken() -> None:
    def script(request: Request, sock: socket.socket) -> None:
        body: Fields = DONE if request.method == "POST" else {"items": [], "hasNext": False}
        sock.sendall(response(200, body, {"Date": "Tue, 24 Nov 2026 12:00:00 GMT"}))

    gate = Flows()
    with ScriptedErp(script) as erp:
        statuses = connected(erp, gate)
        assert statuses.erp_time is None
        statuses.progress(["000123"])
        assert statuses.erp_time == datetime(2026, 11, 24, 12, tzinfo=UTC)
        assert gate.calls[1:] == [("statuses", False)] * 2, "after the login"
        gate.calls.clear()
        statuses.deleted(["000123"])
        statuses.releases(["000123"])
        statuses.invoices(["000123"])
        assert gate.calls == [("statuses", False)] * 3
        gate.calls.clear()
        cancel(statuses)
        assert gate.calls == [("cancellations", True)]
        assert len(erp.token_requests) == 1, "one login for both"


def test_an_answer_of_the_real_wire() -> None:
    """Latin-1 text, upper case, a hasNext that is a number."""
    row = '{"C9_FILIAL":"0101","C9_PEDIDO":"000123","C9_BLCRED":"ç ","C9_BLEST":"  ","R_E_C_N_O_":7}'
    page = f'{{"ITEMS":[{row}],"hasNext":0}}'
    with ScriptedErp(answer(200, page.encode("cp1252"))) as erp:
        assert connected(erp).releases(["000123"]) == {"000123": (ErpRelease("ç", ""),)}
        target = erp.requests[0].target
    assert target.startswith("/rest/api/framework/v1/genericQuery?tables=SC9&fields=C9_FILIAL%2CC9_PEDIDO%2C")
    assert "where=C9_PEDIDO%3D%27000123%27" in target


def test_a_tenant_with_blanks_in_its_branch() -> None:
    rows = {"SC5": [{**header("000123"), "C5_FILIAL": "D MG 01"}], "SC6": [{**line("000123"), "C6_FILIAL": "D MG 01"}]}
    found = statuses_of(Tables(rows, tenant="T1,D MG 01 ")).progress(["000123"])
    assert found["000123"].branch == "D MG 01"
