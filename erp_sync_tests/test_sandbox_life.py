"""An order's life in the sandbox ERP: released, invoiced, cancelled, as contracts/protheus-rest.md, 6 and 7 have it."""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest
import requests
from pydantic import ValidationError

from erp_sync.sandbox.background import AdminRefusal, SandboxErp, start_in_background
from erp_sync.sandbox.config import Fault, SandboxConfig, Switches
from erp_sync.sandbox.erp_users import USUAL, ErpUsers, Event
from erp_sync.sandbox.nfe_key import nfe_key
from erp_sync_tests.test_sandbox_erp import Caller, item, lost, new_id, order, seed

HERE = ZoneInfo("America/Sao_Paulo")
LETTERS = "12ABC34501DE35"
NO_INVOICE = "X" * 9


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxErp]:
    with start_in_background(SandboxConfig(cnpjs={"0102": LETTERS})) as erp:
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


class Placed:
    """One order of the shop, and the screens of the ERP."""

    def __init__(self, caller: Caller, *items: dict[str, Any], **fields: Any) -> None:
        self.caller = caller
        self.erp = caller.erp
        self.external_id = new_id()
        created = caller.create(order(self.external_id, *items, **fields)).json()
        self.branch, self.number = created["filial"], created["pedido"]
        self.path = f"/orders/{quote(self.branch)}/{self.number}"

    def do(self, what: str = "", **body: Any) -> Any:
        return self.erp.admin("POST", f"{self.path}/{what}", body)

    def block(self, **body: Any) -> None:
        self.erp.admin("PATCH", f"{self.path}/releases", body)

    def reverse(self) -> None:
        self.erp.admin("DELETE", f"{self.path}/releases")

    def change(self, **body: Any) -> None:
        self.erp.admin("PATCH", self.path, body)

    def delete(self) -> None:
        self.erp.admin("DELETE", self.path)

    def invoice(self, **body: Any) -> dict[str, str]:
        written: dict[str, str] = self.do("invoice", **body)
        return written

    def invoice_path(self, written: dict[str, str], what: str = "") -> str:
        return f"/invoices/{quote(self.branch)}/{written['serie']}/{written['doc']}{what}"

    def cancel_invoice(self, written: dict[str, str]) -> None:
        self.erp.admin("DELETE", self.invoice_path(written))

    def cancel(self, mode: str | None = None, **body: Any) -> requests.Response:
        sent = {"C5_XPEDWEB": self.external_id, "motivo": "Pagamento recusado", **({"modo": mode} if mode else {})}
        return cancel(self.caller, self.branch, self.number, {**sent, **body})

    def view(self) -> dict[str, Any]:
        view: dict[str, Any] = self.erp.admin("GET", self.path)
        return view

    def rows(self, table: str, fields: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """By their key, without padding."""
        prefix = table[1:] if table in ("SC5", "SC6", "SC9", "SD2") else table
        number = {"SC9": "C9_PEDIDO", "SD2": "D2_PEDIDO"}.get(table, f"{prefix}_NUM")
        names = [f"{prefix}_{name}" for name in fields.split()]
        found = self.caller.items(table, ",".join(names), f"{number} = '{self.number}'", pageSize=500, **parameters)
        return [tuple(plain(row[name.lower()]) for name in names) for row in found]

    def header(self) -> tuple[Any, ...]:
        """C5_LIBEROK, C5_NOTA, C5_SERIE."""
        [row] = self.rows("SC5", "LIBEROK NOTA SERIE")
        return row

    def everything(self) -> tuple[list[tuple[Any, ...]], ...]:
        return (
            self.rows("SC5", "LIBEROK NOTA SERIE BLQ"),
            self.rows("SC6", "ITEM QTDVEN QTDENT QTDEMP BLQ NOTA SERIE DATFAT"),
            self.rows("SC9", "ITEM SEQUEN QTDLIB BLCRED BLEST NFISCAL SERIENF"),
            self.rows("SD2", "DOC SERIE ITEM QUANT TOTAL ITEMPV"),
        )

    def journal(self) -> list[str]:
        return [entry["kind"] for entry in self.erp.journal() if entry["number"] == self.number]


def plain(value: Any) -> Any:
    return value.rstrip() if isinstance(value, str) else value


def cancel(caller: Caller, branch: str, number: str, body: Any, **options: Any) -> requests.Response:
    path = f"/ecommerce/v1/pedidos/{quote(branch, safe='')}/{number}/cancelar"
    return caller.post(path, json=body, **options)


def today() -> str:
    return f"{datetime.now(HERE):%Y%m%d}"


def two(quantity: float = 5) -> tuple[dict[str, Any], dict[str, Any]]:
    return item("01", quantity, 31.5), item("02", 2, 10)


def refuses(status: int) -> Any:
    return pytest.raises(AdminRefusal, match=f": {status} ")


def digit_of(key: str) -> str:
    """As the manual says it: weights 2 to 9 from the right, 11 less the rest, 0 where that is 10 or 11."""
    weights = itertools.cycle(range(2, 10))
    rest = sum((ord(sign) - 48) * weight for sign, weight in zip(reversed(key[:43]), weights, strict=False)) % 11
    return "0" if 11 - rest > 9 else str(11 - rest)


# Releases


def test_a_release_reserves_what_is_open(caller: Caller) -> None:
    placed = Placed(caller, *two())
    placed.do("release")
    assert placed.header() == ("S", "", "")
    assert placed.rows("SC6", "ITEM QTDEMP QTDENT") == [("01", 5, 0), ("02", 2, 0)]
    fields = "FILIAL ITEM SEQUEN PRODUTO CLIENTE LOJA QTDLIB DATALIB BLCRED BLEST NFISCAL"
    common = ("CAFE-500", "000731", "01")
    assert placed.rows("SC9", fields) == [
        ("0101", "01", "01", *common, 5, today(), "", "", ""),
        ("0101", "02", "01", *common, 2, today(), "", "", ""),
    ]
    assert placed.journal() == ["order", "order_released"]
    with refuses(409):
        placed.do("release")


def test_releases_in_parts_count_up(caller: Caller) -> None:
    placed = Placed(caller, *two())
    placed.do("release", quantity={"01": 1.5})
    placed.do("release", items=["01"], quantity={"01": 2})
    for body, status in (({"quantity": {"01": 2}}, 409), ({"items": ["03"]}, 404), ({"quantity": {"01": 0}}, 422)):
        with refuses(status):
            placed.do("release", **body)
    placed.do("release", items=["01", "01"])
    placed.do("release")
    assert placed.rows("SC9", "ITEM SEQUEN QTDLIB") == [
        ("01", "01", 1.5),
        ("01", "02", 2),
        ("01", "03", 1.5),
        ("02", "01", 2),
    ]
    assert placed.rows("SC6", "QTDEMP") == [(5,), (2,)]


def test_blocks_come_and_go(caller: Caller) -> None:
    placed = Placed(caller, *two())
    placed.do("release", credit="01", stock="02")
    assert placed.header() == ("S", "", "")
    assert placed.rows("SC6", "QTDEMP") == [(0,), (0,)]
    placed.block(credit="09", items=["01"])
    assert placed.rows("SC9", "ITEM BLCRED BLEST") == [("01", "09", "02"), ("02", "01", "02")]
    placed.block(credit="")
    assert placed.rows("SC9", "BLCRED BLEST") == [("", "02"), ("", "02")]
    placed.block(stock="", items=["02"])
    assert placed.rows("SC6", "QTDEMP") == [(0,), (2,)]
    placed.block(stock="")
    assert placed.rows("SC6", "QTDEMP") == [(5,), (2,)]
    placed.block(stock="03")
    assert placed.rows("SC6", "QTDEMP") == [(0,), (0,)]
    kinds = ["order_blocked", "order_blocked", *["order_unblocked"] * 3, "order_blocked"]
    assert placed.journal()[1:] == kinds
    for body, status in (
        ({}, 422),
        ({"credit": "10"}, 422),
        ({"credit": "1"}, 422),
        ({"credit": "", "items": ["9"]}, 404),
    ):
        with refuses(status):
            placed.block(**body)
    with refuses(409):
        Placed(caller).block(credit="09")


def test_a_release_is_taken_back(caller: Caller) -> None:
    placed = Placed(caller, *two())
    placed.do("release", quantity={"01": 3})
    written = placed.invoice(items={"01": 1}, release=False)
    placed.do("release", credit="06")
    placed.reverse()
    assert placed.rows("SC9", "ITEM SEQUEN QTDLIB NFISCAL") == [("01", "01", 1, written["doc"])]
    assert placed.rows("SC6", "QTDEMP QTDENT") == [(0, 1), (0, 0)]
    assert placed.header() == ("", written["doc"], "1")
    assert placed.journal()[-1] == "release_reversed"
    with refuses(409):
        placed.reverse()
    placed.do("release", items=["01"])
    # A number that was deleted is not given again.
    assert placed.rows("SC9", "SEQUEN")[1:] == [("04",)]


def test_whoever_alters_an_item_takes_its_release_back(caller: Caller) -> None:
    placed = Placed(caller, *two())
    placed.do("release")
    placed.change(items={"01": {"quantity": 3}})
    assert placed.rows("SC9", "ITEM QTDLIB") == [("02", 2)]
    assert placed.rows("SC6", "QTDVEN QTDEMP") == [(3, 0), (2, 2)]
    assert placed.header()[0] == "S"
    placed.change(removed=["02"])
    assert placed.rows("SC9", "ITEM") == []
    assert placed.header()[0] == ""
    placed.invoice(items={"01": 2})
    for body in ({"items": {"01": {"quantity": 1}}}, {"removed": ["01"]}):
        with refuses(409):
            placed.change(**body)


def test_a_rule_blocks_and_a_carrier_has_a_number(caller: Caller) -> None:
    placed = Placed(caller)
    placed.change(rule="1", tracking="BR123456789")
    assert placed.rows("SC5", "BLQ RASTR") == [("1", "BR123456789")]
    placed.change(rule="2")
    assert placed.rows("SC5", "BLQ RASTR") == [("2", "BR123456789")]
    placed.change(rule="")
    assert placed.rows("SC5", "BLQ RASTR") == [("", "BR123456789")]
    for body in ({"rule": "12"}, {"tracking": "x" * 21}):
        with refuses(422):
            placed.change(**body)
    assert placed.journal() == ["order", *["order_changed"] * 3]


# Invoices


def test_an_invoice_of_the_whole_order(erp: SandboxErp, caller: Caller) -> None:
    placed = Placed(caller, *two(), C5_TRANSP="000004")
    written = placed.invoice()
    doc = written["doc"]
    assert re.fullmatch(r"[0-9]{9}", doc)
    assert written == {"doc": doc, "serie": "1", "chvnfe": written["chvnfe"], "valor": "191.40"}
    assert erp.journal()[-1]["total"] == written["valor"]
    assert (erp.journal()[-1]["kind"], erp.journal()[-1]["detail"]) == ("order_invoiced", f"{doc}/1")
    assert placed.header() == ("E", doc, "1")
    expected = [("01", 5, 5, 0, "", doc, "1", today()), ("02", 2, 2, 0, "", doc, "1", today())]
    assert placed.rows("SC6", "ITEM QTDVEN QTDENT QTDEMP BLQ NOTA SERIE DATFAT") == expected
    assert placed.rows("SC9", "ITEM SEQUEN QTDLIB BLCRED BLEST NFISCAL SERIENF") == [
        ("01", "01", 5, "10", "10", doc, "1"),
        ("02", "01", 2, "10", "10", doc, "1"),
    ]
    assert placed.rows("SD2", "DOC SERIE ITEM COD QUANT PRCVEN TOTAL EMISSAO ITEMPV CLIENTE LOJA") == [
        (doc, "1", "01", "CAFE-500", 5, 31.5, 157.5, today(), "01", "000731", "01"),
        (doc, "1", "02", "CAFE-500", 2, 10, 20, today(), "02", "000731", "01"),
    ]
    fields = "F2_FILIAL,F2_CLIENTE,F2_LOJA,F2_EMISSAO,F2_VALBRUT,F2_CHVNFE,F2_TIPO,F2_DTENTR"
    [header] = caller.items("SF2", fields, f"F2_DOC='{doc}' AND F2_SERIE='1'")
    expected_header = ("0101", "000731", "01", today(), 191.4, written["chvnfe"], "N", "")
    assert tuple(map(plain, header.values())) == expected_header
    with refuses(409):
        placed.invoice()


def test_an_order_that_is_invoiced_in_full_may_stay_released(erp: SandboxErp, caller: Caller) -> None:
    erp.switch(closed_flag="S")
    placed = Placed(caller)
    assert placed.invoice()["doc"] == placed.header()[1]
    assert placed.header()[0] == "S"


def test_part_invoices_split_the_releases(caller: Caller) -> None:
    placed = Placed(caller, *two(), C5_FRETE=10, C5_DESCONT=0)
    placed.do("release", quantity={"01": 4})
    first = placed.invoice(items={"01": 3}, release=False)
    rows = [("01", "01", 3, "10", first["doc"]), ("01", "02", 1, "", "")]
    assert placed.rows("SC9", "ITEM SEQUEN QTDLIB BLCRED NFISCAL") == rows
    assert placed.rows("SC6", "QTDENT QTDEMP NOTA") == [(3, 1, first["doc"]), (0, 0, "")]
    assert placed.header() == ("S", first["doc"], "1")
    # A release of its own and the rest of the older one: two lines for one item.
    second = placed.invoice(items={"01": 2, "02": 1})
    assert placed.rows("SD2", "DOC ITEM QUANT TOTAL ITEMPV") == [
        (first["doc"], "01", 3, 94.5, "01"),
        (second["doc"], "01", 1, 31.5, "01"),
        (second["doc"], "02", 1, 31.5, "01"),
        (second["doc"], "03", 1, 10, "02"),
    ]
    assert placed.rows("SC9", "ITEM SEQUEN QTDLIB NFISCAL") == [
        ("01", "01", 3, first["doc"]),
        ("01", "02", 1, second["doc"]),
        ("01", "03", 1, second["doc"]),
        ("02", "01", 1, second["doc"]),
    ]
    assert placed.header() == ("S", second["doc"], "1")
    third = placed.invoice()
    assert placed.header() == ("E", third["doc"], "1")
    assert placed.rows("SC6", "QTDENT QTDEMP NOTA") == [(5, 0, second["doc"]), (2, 0, third["doc"])]
    amounts = [Decimal(written["valor"]) for written in (first, second, third)]
    assert amounts == [Decimal("99.82"), Decimal("77.12"), Decimal("10.56")]
    assert sum(amounts) == Decimal("187.50")


def test_the_header_may_wait_for_the_last_invoice(erp: SandboxErp, caller: Caller) -> None:
    erp.switch(part_invoice_fills_header=False)
    placed = Placed(caller, *two())
    first = placed.invoice(items={"01": 5})
    assert placed.header() == ("S", "", "")
    last = placed.invoice()
    assert placed.header() == ("E", last["doc"], "1")
    placed.cancel_invoice(last)
    assert placed.header() == ("S", "", "")
    assert placed.rows("SC6", "NOTA") == [(first["doc"],), ("",)]


def test_only_what_is_released_without_a_block_is_invoiced(erp: SandboxErp, caller: Caller) -> None:
    placed = Placed(caller, *two())
    before = int(Placed(caller).invoice()["doc"])
    with refuses(409):
        placed.invoice(release=False)
    placed.do("release", quantity={"01": 2})
    placed.do("release", items=["01"], credit="09")
    untouched = placed.everything()
    for body, status in (
        ({}, 409),
        ({"items": {"01": 3}}, 409),
        ({"items": {"01": 6}}, 409),
        ({"items": {}}, 409),
        ({"items": {"03": 1}}, 404),
        ({"items": {"01": 0}}, 422),
        ({"series": "A"}, 422),
        ({"key": "9" * 45}, 422),
    ):
        with refuses(status):
            placed.invoice(**body)
        assert placed.everything() == untouched
    # Fiscal numbers have no gaps.
    assert int(placed.invoice(items={"01": 2}, release=False)["doc"]) == before + 1


@pytest.mark.parametrize("quantities", [(1, 2, 4), (6, 1), (7,), (3.33, 0.67, 3)])
def test_all_invoices_together_are_the_orders_total(caller: Caller, quantities: tuple[float, ...]) -> None:
    placed = Placed(caller, item("01", 7, 33.33), item("02", 0.5, 0.01, C6_VALOR=0.01), C5_FRETE=9.97, C5_DESCONT=20.01)
    amounts = [placed.invoice(items={"01": quantity})["valor"] for quantity in quantities]
    amounts.append(placed.invoice()["valor"])
    total = next(entry["total"] for entry in placed.erp.journal() if entry["number"] == placed.number)
    assert sum(map(Decimal, amounts)) == Decimal(total) == Decimal("223.28")
    assert placed.header()[0] == "E"


def test_half_a_cent_is_not_invoiced_twice(caller: Caller) -> None:
    placed = Placed(caller, item("01", 1, 0.05), C5_FRETE=0, C5_DESCONT=0)
    assert [placed.invoice(items={"01": 0.5})["valor"] for _ in range(2)] == ["0.03", "0.02"]
    assert placed.rows("SD2", "TOTAL") == [(0.03,), (0.02,)]


def test_invoices_are_numbered_by_branch_and_series(caller: Caller) -> None:
    def next_three() -> list[int]:
        return [int(Placed(caller).invoice(series=series)["doc"]) for series in ("7", "7", "8")]

    assert next_three() == [1, 2, 1]
    caller.session.headers["tenantId"] = "01,0102"
    assert next_three() == [1, 2, 1]


# Keys


def test_keys_are_valid(caller: Caller) -> None:
    # The contract's own example (6.4).
    assert digit_of("35261111222333000181550010000123451123456788") == "8"
    written = Placed(caller).invoice(series="12")
    expected = f"35{today()[2:6]}1122233300018155012{written['doc']}1"
    assert written["chvnfe"].startswith(expected)
    assert re.fullmatch(r"[0-9]{44}", written["chvnfe"])
    assert written["chvnfe"][-1] == digit_of(written["chvnfe"])


def test_keys_hold_a_cnpj_with_letters(caller: Caller) -> None:
    caller.session.headers["tenantId"] = "01,0102"
    keys = {Placed(caller).invoice()["chvnfe"] for _ in range(30)}
    assert len(keys) == 30
    for key in keys:
        assert re.fullmatch(r"[0-9A-Z]{43}[0-9]", key)
        assert key[6:20] == LETTERS
        assert key[-1] == digit_of(key)


def test_a_key_follows_from_its_invoice() -> None:
    key = nfe_key("11222333000181", "20261124", "1", "000012345", 7)
    assert key == nfe_key("11222333000181", "20261124", "1", "000012345", 7)
    assert len({key, *(nfe_key("11222333000181", "20261124", "1", "000012345", n) for n in range(6))}) == 7
    assert all(key[-1] == digit_of(key) for key in (nfe_key(LETTERS, "20261124", "999", str(n), n) for n in range(500)))


@pytest.mark.parametrize("cnpjs", [{"0199": LETTERS}, {"0101": "12ABC34501DE36"}, {"0101": "1122233300018"}])
def test_a_cnpj_that_is_none_is_refused(cnpjs: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="cnpjs"):
        SandboxConfig(cnpjs=cnpjs)


def test_sefaz_answers_later(caller: Caller) -> None:
    placed = Placed(caller)
    written = placed.invoice(key=False)
    where = f"F2_DOC='{written['doc']}' AND F2_SERIE='1'"
    assert written["chvnfe"] == ""
    placed.erp.admin("POST", placed.invoice_path(written, "/key"), {"key": "WRONG"})
    assert caller.items("SF2", "F2_CHVNFE", where) == [{"f2_chvnfe": "WRONG".ljust(44)}]
    placed.erp.admin("POST", placed.invoice_path(written, "/key"), {"key": None})
    [row] = caller.items("SF2", "F2_CHVNFE", where)
    assert row["f2_chvnfe"][-1] == digit_of(row["f2_chvnfe"])
    assert row["f2_chvnfe"][22:34] == f"001{written['doc']}"
    assert placed.journal()[-2:] == ["invoice_key"] * 2
    assert Placed(caller).invoice(key="AS IT IS")["chvnfe"] == "AS IT IS"
    for path in ("/invoices/0101/9/000000001/key", "/invoices/0199/1/000000001/key"):
        with refuses(404):
            placed.erp.admin("POST", path, {})


# Cancelled invoices


def test_a_cancelled_invoice_leaves_its_order_released(caller: Caller) -> None:
    placed = Placed(caller, *two())
    first, second = placed.invoice(items={"01": 2}), placed.invoice()
    placed.cancel_invoice(second)
    assert placed.header() == ("S", first["doc"], "1")
    assert placed.rows("SC6", "QTDENT QTDEMP NOTA SERIE DATFAT") == [
        (2, 3, first["doc"], "1", today()),
        (0, 2, "", "", ""),
    ]
    assert placed.rows("SC9", "ITEM SEQUEN QTDLIB BLCRED BLEST NFISCAL SERIENF") == [
        ("01", "01", 2, "10", "10", first["doc"], "1"),
        ("01", "02", 3, "", "", "", ""),
        ("02", "01", 2, "", "", "", ""),
    ]
    assert placed.rows("SD2", "DOC") == [(first["doc"],)]
    assert caller.items("SF2", "F2_DOC", f"F2_DOC='{second['doc']}' AND F2_SERIE='1'") == []
    assert caller.items("GW1", "GW1_NRDC", f"GW1_NRDC='{second['doc']}' AND GW1_SERDC='1'") == []
    assert caller.items("GWU", "GWU_NRDC", f"GWU_NRDC='{second['doc']}' AND GWU_SERDC='1'") == []
    assert placed.journal()[-1] == "invoice_cancelled"
    with refuses(404):
        placed.cancel_invoice(second)
    third, fourth = placed.invoice(items={"01": 1}), placed.invoice(items={"01": 1})
    placed.cancel_invoice(fourth)
    assert placed.rows("SC6", "NOTA") == [(third["doc"],), ("",)]
    placed.cancel_invoice(third)
    placed.cancel_invoice(first)
    assert placed.header() == ("S", "", "")
    assert placed.rows("SC6", "QTDENT QTDEMP NOTA DATFAT") == [(0, 5, "", ""), (0, 2, "", "")]
    assert placed.invoice(release=False)["valor"] == "191.40"


def test_a_cancelled_invoice_leaves_its_order_open(erp: SandboxErp, caller: Caller) -> None:
    erp.switch(cancelled_invoice_reopens="open")
    placed = Placed(caller, *two())
    first, second = placed.invoice(items={"01": 2}), placed.invoice()
    placed.cancel_invoice(first)
    assert placed.header() == ("", second["doc"], "1")
    assert placed.rows("SC6", "QTDENT QTDEMP NOTA") == [(3, 0, second["doc"]), (2, 0, second["doc"])]
    assert placed.rows("SC9", "SEQUEN NFISCAL") == [("02", second["doc"]), ("01", second["doc"])]
    placed.do("release", credit="09")
    placed.cancel_invoice(second)
    assert placed.header() == ("S", "", "")
    placed.reverse()
    assert placed.rows("SC9", "SEQUEN") == []
    assert placed.everything()[1] == [("01", 5, 0, 0, "", "", "", ""), ("02", 2, 0, 0, "", "", "", "")]


def test_what_was_given_up_stays_so_when_its_invoice_is_cancelled(caller: Caller) -> None:
    placed = Placed(caller, *two())
    first = placed.invoice(items={"01": 2})
    second = placed.invoice(items={"02": 2})
    placed.do("residue")
    assert placed.header() == ("S", NO_INVOICE, "1")
    placed.cancel_invoice(first)
    assert placed.header() == ("S", NO_INVOICE, "1")
    assert placed.rows("SC6", "QTDENT QTDEMP BLQ") == [(0, 0, "R"), (2, 0, "")]
    assert placed.rows("SC9", "ITEM NFISCAL") == [("02", second["doc"])]
    placed.cancel_invoice(second)
    assert placed.header() == ("S", "", "")
    assert placed.rows("SC9", "ITEM QTDLIB BLCRED") == [("02", 2, "")]
    last = placed.invoice()
    assert placed.header() == ("E", last["doc"], "1")
    placed.cancel_invoice(last)
    assert placed.header()[:2] == ("S", "")


def test_the_last_invoice_of_an_order_of_which_the_rest_was_given_up(erp: SandboxErp, caller: Caller) -> None:
    erp.switch(residue_keeps_invoice=True)
    placed = Placed(caller)
    written = placed.invoice(items={"01": 1})
    placed.do("residue")
    assert placed.header() == ("S", written["doc"], "1")
    placed.cancel_invoice(written)
    assert placed.header() == ("S", NO_INVOICE, "")


# Residue


def test_residue_of_an_order_that_was_never_invoiced(caller: Caller) -> None:
    placed = Placed(caller, *two())
    placed.do("release")
    placed.do("residue", items=["01"])
    assert placed.rows("SC6", "QTDEMP BLQ") == [(0, "R"), (2, "")]
    assert placed.rows("SC9", "ITEM") == [("02",)]
    assert placed.header() == ("S", "", "")
    placed.do("residue")
    assert placed.header() == ("S", NO_INVOICE, "")
    assert placed.rows("SC9", "ITEM") == []
    [first, _] = caller.items("SC6", "C6_BLQ", f"C6_NUM='{placed.number}'")
    assert first == {"c6_blq": "R "}
    assert placed.journal()[-2:] == ["order_residue"] * 2
    for body, status in (({}, 409), ({"items": ["01"]}, 409), ({"items": ["09"]}, 404)):
        with refuses(status):
            placed.do("residue", **body)
    with refuses(409):
        placed.invoice()
    with refuses(409):
        placed.do("release")


@pytest.mark.parametrize("flag", ["S", "E"])
@pytest.mark.parametrize("keeps", [False, True])
def test_residue_after_a_part_invoice(erp: SandboxErp, caller: Caller, flag: str, keeps: bool) -> None:
    erp.switch(residue_flag=flag, residue_keeps_invoice=keeps, part_invoice_fills_header=False)
    placed = Placed(caller, *two())
    written = placed.invoice(items={"01": 1})
    placed.do("residue")
    assert placed.header() == (flag, written["doc"] if keeps else NO_INVOICE, "1" if keeps else "")
    assert placed.rows("SC6", "QTDENT BLQ NOTA") == [(1, "R", written["doc"]), (0, "R", "")]
    other = Placed(caller)
    other.do("residue")
    assert other.header() == (flag, NO_INVOICE, "")


# Deliveries


def test_a_delivery_is_noted_where_the_site_notes_it(erp: SandboxErp, caller: Caller) -> None:
    erp.switch(gfe_legs=3)
    placed = Placed(caller, C5_TRANSP="000002")
    written = placed.invoice()
    key = f"GW1_NRDC='{written['doc']}' AND GW1_SERDC='1'"
    legs = key.replace("GW1", "GWU")

    def freight() -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        fields = ("GW1_FILIAL,GW1_CDTPDC,GW1_EMISDC,GW1_SIT", "GWU_CDTPDC,GWU_SEQ,GWU_DTENT,GWU_HRENT,GWU_CDTRP")
        tables = (caller.items("GW1", fields[0], key), caller.items("GWU", fields[1], legs))
        first, second = ([tuple(map(plain, row.values())) for row in rows] for rows in tables)
        return first, second

    def arrived() -> list[str]:
        return [
            plain(row["f2_dtentr"])
            for row in caller.items(
                "SF2", "F2_DTENTR", key.replace("GW1_NRDC", "F2_DOC").replace("GW1_SERDC", "F2_SERIE")
            )
        ]

    document = ("0101", "NFS", "11222333000181")
    assert freight() == ([(*document, "3")], [("NFS", f"0{leg}", "", "", "000002") for leg in (1, 2, 3)])
    assert arrived() == [""]
    placed.erp.admin("POST", placed.invoice_path(written, "/deliver"), {"on": "20261130", "in": ["f2_dtentr"]})
    assert arrived() == ["20261130"]
    assert freight()[0] == [(*document, "3")]
    placed.erp.admin("POST", placed.invoice_path(written, "/deliver"), {"on": "20261201", "at": "14:05", "in": ["gfe"]})
    assert arrived() == ["20261130"]
    expected = [("NFS", f"0{leg}", "20261201", "14:05", "000002") for leg in (1, 2, 3)]
    assert freight() == ([(*document, "5")], expected)
    placed.erp.admin("POST", placed.invoice_path(written, "/deliver"), {})
    assert arrived() == [today()]
    assert freight()[1][0][2] == today()
    assert re.fullmatch(r"[0-9]{2}:[0-9]{2}", freight()[1][0][3])
    assert placed.journal()[-3:] == ["invoice_delivered"] * 3
    wrong: list[dict[str, Any]] = [{"on": "20260230"}, {"at": "24:00"}, {"in": []}, {"in": ["fax"]}]
    for body in wrong:
        with refuses(422):
            placed.erp.admin("POST", placed.invoice_path(written, "/deliver"), body)


# Deleted and restored


def test_a_deleted_order_comes_back_as_it_was(caller: Caller) -> None:
    placed = Placed(caller, *two(), item("03", 1, 1))
    placed.do("release", credit="09")
    placed.change(removed=["03"])
    before = placed.everything()
    placed.delete()
    assert placed.everything() == ([], [], [], [])
    gone = placed.rows("SC9", "ITEM", DeletedFilter="false")
    assert len(gone) == 3
    with refuses(404):
        placed.do("release")
    placed.do("restore")
    assert placed.everything() == before
    assert placed.journal()[-2:] == ["order_deleted", "order_restored"]
    with refuses(409):
        placed.do("restore")
    placed.delete()
    placed.do("restore")
    assert placed.everything() == before
    with refuses(404):
        placed.erp.admin("POST", "/orders/0101/999999/restore")


def test_an_invoiced_order_is_not_deleted(caller: Caller) -> None:
    placed = Placed(caller)
    written = placed.invoice(items={"01": 1})
    with refuses(409):
        placed.delete()
    placed.cancel_invoice(written)
    placed.delete()
    assert placed.rows("SC5", "NUM") == []


# The cancelling endpoint


STATES = ("open", "released", "blocked", "partly", "fully")


def in_state(caller: Caller, state: str) -> Placed:
    placed = Placed(caller, *two())
    match state:
        case "released":
            placed.do("release")
        case "blocked":
            placed.do("release", credit="01")
        case "partly":
            placed.invoice(items={"01": 1})
            placed.do("release", items=["02"])
        case "fully":
            placed.invoice()
    return placed


@pytest.mark.parametrize("mode", [None, "auto", "exclusao", "residuo"])
@pytest.mark.parametrize("state", STATES)
def test_the_table_of_cancelling(caller: Caller, mode: str | None, state: str) -> None:
    placed = in_state(caller, state)
    before, lines = placed.everything(), len(placed.erp.journal())
    answer = placed.cancel(mode)
    refused = {
        ("exclusao", "released"): "A410LIBER",
        ("exclusao", "blocked"): "A410LIBER",
        ("exclusao", "partly"): "FATURADO",
    }
    code = "FATURADO" if state == "fully" else refused.get((mode or "auto", state), "")
    if code:
        assert (answer.status_code, answer.json()["code"]) == (409, code)
        assert answer.json()["message"]
        assert placed.everything() == before
        assert len(placed.erp.journal()) == lines
        return
    form = "residuo" if mode == "residuo" or state == "partly" else "exclusao"
    situation = "residuo" if state == "partly" else "cancelado"
    body = answer.json()
    assert answer.status_code == 200
    assert (body["pedido"], body["situacao"], body["forma"]) == (placed.number, situation, form)
    when = datetime.fromisoformat(body["canceladoEm"])
    assert body["canceladoEm"].endswith("-03:00")
    assert abs(datetime.now(UTC) - when) < timedelta(seconds=60)
    if form == "exclusao":
        assert placed.everything() == ([], [], [], [])
    else:
        assert placed.header()[:2] == ("S", NO_INVOICE)
        assert placed.rows("SC6", "QTDENT QTDEMP BLQ") == [(int(state == "partly"), 0, "R"), (0, 0, "R")]
        assert [row for row in placed.rows("SC9", "NFISCAL") if row == ("",)] == []
    [entry] = placed.erp.journal()[lines:]
    assert (entry["kind"], entry["detail"], entry["external_id"]) == ("order_cancelled", form, placed.external_id)
    # Asked again, whatever the mode: done already, and nothing is written.
    after = placed.everything()
    for again in ("auto", "exclusao", "residuo"):
        body = placed.cancel(again).json()
        gone = ("cancelado", "inexistente") if form == "exclusao" else (situation, "residuo")
        assert (body["situacao"], body["forma"]) == gone
    assert placed.everything() == after
    assert len(placed.erp.journal()) == lines + 1


def test_an_order_that_was_cancelled_by_the_endpoint_comes_back_without_its_release(caller: Caller) -> None:
    placed = in_state(caller, "released")
    assert placed.cancel().json()["forma"] == "exclusao"
    placed.do("restore")
    assert placed.header() == ("", "", "")
    assert placed.rows("SC6", "QTDEMP") == [(0,), (0,)]
    assert placed.rows("SC9", "ITEM") == []


def test_an_order_that_never_was(caller: Caller) -> None:
    body = cancel(caller, "0101", "999999", {"C5_XPEDWEB": "WEB-1"}).json()
    assert (body["pedido"], body["situacao"], body["forma"]) == ("999999", "cancelado", "inexistente")


@pytest.mark.parametrize("state", STATES)
def test_somebody_elses_order_is_left_alone(caller: Caller, state: str) -> None:
    placed = in_state(caller, state)
    before = placed.everything()
    for external_id in (f"{placed.external_id}0", "WEB-"):
        answer = placed.cancel(C5_XPEDWEB=external_id)
        assert (answer.status_code, answer.json()["code"]) == (409, "PEDIDO_DIVERGENTE")
    assert placed.everything() == before
    assert placed.cancel(C5_XPEDWEB=f"{placed.external_id}   ").status_code == (409 if state == "fully" else 200)


@pytest.mark.parametrize(
    "body",
    [
        {"C5_XPEDWEB": ""},
        {"C5_XPEDWEB": "  "},
        {"C5_XPEDWEB": None},
        {"C5_XPEDWEB": 7},
        {"modo": "tudo"},
        {"modo": None},
        {"motivo": None},
    ],
)
def test_a_cancellation_that_makes_no_sense(caller: Caller, body: dict[str, Any]) -> None:
    placed = Placed(caller)
    assert placed.cancel(**body).status_code == 400
    assert placed.rows("SC5", "NUM") == [(placed.number,)]


def test_a_body_that_is_no_cancellation(erp: SandboxErp, caller: Caller) -> None:
    placed = Placed(caller)
    wrong: list[Any] = [None, [], "x", {}, {"motivo": "x"}]
    for body in wrong:
        assert cancel(caller, "0101", placed.number, body).status_code == 400
    erp.switch(null_crashes=True)
    assert placed.cancel(motivo=None).status_code == 500
    assert placed.cancel(modo="").json()["forma"] == "exclusao"


def test_the_shapes_of_a_refused_cancellation(erp: SandboxErp, caller: Caller) -> None:
    released, invoiced = in_state(caller, "released"), in_state(caller, "fully")
    for shape in ("E1", "E5", "E6", "E7"):
        erp.switch(error_shape=shape)
        assert released.cancel("exclusao").json()["code"] == "A410LIBER"
    for switch, status in (("legacy_400", 400), ("legacy_500", 500)):
        erp.switch(cancel_refusal=switch)
        for placed, code in ((released, "A410LIBER"), (invoiced, "FATURADO")):
            answer = placed.cancel("exclusao")
            assert answer.status_code == status
            body = json.loads(answer.content.decode("cp1252"))
            assert body["errorCode"] == status
            assert body["errorMessage"].startswith(f"HELP: {code}\r\n")
            assert f"- C5_NUM := {placed.number}\r\n" in body["errorMessage"]
        assert "HELP: PEDIDO_DIVERGENTE" in released.cancel(C5_XPEDWEB="X").text
    erp.switch(empty_error_text=True)
    assert released.cancel("exclusao").json()["errorMessage"] == ""


def test_a_site_without_the_route(erp: SandboxErp, caller: Caller) -> None:
    placed = Placed(caller)
    erp.switch(no_cancel_route=True)
    unknown = caller.post("/ecommerce/v1/nada", json={})
    arrivals = len(erp.arrivals())
    answer = placed.cancel()
    assert (answer.status_code, answer.content) == (404, unknown.content)
    assert len(erp.arrivals()) == arrivals
    erp.switch(no_cancel_route=False)
    assert caller.session.get(answer.url, timeout=5).status_code == 405
    assert placed.cancel().status_code == 200


def test_login_and_branch_of_a_cancellation(erp: SandboxErp, caller: Caller) -> None:
    placed = Placed(caller)
    stranger = Caller(erp)
    body = {"C5_XPEDWEB": placed.external_id}
    assert cancel(stranger, "0101", placed.number, body).status_code == 401
    assert cancel(caller, "0199", placed.number, body).status_code == 404
    caller.session.headers["tenantId"] = "01,0199"
    assert cancel(caller, "0101", placed.number, body).status_code == 404
    # The path says where the order is, whatever branch the caller works in.
    caller.session.headers["tenantId"] = "01,0102"
    assert cancel(caller, "0101", placed.number, body).json()["forma"] == "exclusao"


def test_a_branch_with_blanks_in_the_path() -> None:
    with start_in_background(SandboxConfig(branches=("D MG 01 ", "D MG 02 "))) as erp:
        seed(erp)
        caller = Caller(erp, "01,D MG 01").login()
        first, second = Placed(caller), Placed(caller)
        assert first.number == "000001"
        first.do("release")
        first.reverse()
        for placed, branch in ((first, "D MG 01"), (second, "D MG 01   ")):
            body = {"C5_XPEDWEB": placed.external_id}
            answer = cancel(caller, branch, placed.number, body)
            assert (answer.json()["pedido"], answer.json()["forma"]) == (placed.number, "exclusao")
        assert cancel(caller, "D MG 01", "1", {"C5_XPEDWEB": "X"}).json()["forma"] == "inexistente"
        assert [view["deleted"] for view in erp.admin("GET", "/orders")] == [True, True]


@pytest.mark.parametrize(
    ("kind", "status", "cancelled"),
    [
        ("drop_before", 0, False),
        ("commit_then_drop", 0, True),
        ("commit_then_500", 500, True),
        ("success_not_written", 200, False),
        ("error_in_200", 200, False),
        ("http_503_licence", 503, False),
        ("http_503_busy", 503, False),
        ("html_502", 502, False),
        ("lock_then_error", 500, False),
        ("unauthorized", 401, False),
        ("slow", 200, True),
        ("cp1252", 200, True),
        ("commit_late", 200, True),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "residuo"])
def test_every_fault_strikes_a_cancellation(
    erp: SandboxErp, caller: Caller, kind: Any, status: int, cancelled: bool, mode: str
) -> None:
    placed, other = Placed(caller), Placed(caller)
    before = placed.everything()
    seconds = 0.3 if kind in ("slow", "lock_then_error", "commit_late") else 0
    erp.set_faults(Fault(kind=kind, endpoint="cancel_order", times=1, matching=placed.external_id, seconds=seconds))
    assert other.cancel().status_code == 200
    started = time.monotonic()
    if status:
        answer = placed.cancel(mode)
        assert answer.status_code == status
        if kind == "cp1252":
            assert ("excluído" if mode == "auto" else "Resíduo").encode("cp1252") in answer.content
        if kind == "error_in_200":
            assert "situacao" not in answer.json()
        if kind == "success_not_written":
            assert answer.json()["situacao"] == "cancelado"
    else:
        assert lost(lambda: placed.cancel(mode))
    assert time.monotonic() - started >= seconds
    caller.login()
    assert (placed.everything() != before) == cancelled
    assert erp.admin("GET", "/faults") == []
    assert placed.cancel(mode).status_code == 200
    assert placed.everything() != before


def test_a_cancellation_is_committed_late_though_its_client_has_left(erp: SandboxErp, caller: Caller) -> None:
    placed = Placed(caller)
    erp.set_faults(Fault(kind="commit_late", seconds=0.6, times=1, endpoint="cancel_order"))
    with pytest.raises(requests.Timeout):
        cancel(caller, "0101", placed.number, {"C5_XPEDWEB": placed.external_id}, timeout=0.2)
    assert placed.rows("SC5", "NUM")
    time.sleep(0.7)
    assert placed.rows("SC5", "NUM") == []


def test_a_fault_of_no_endpoint_strikes_cancellations_too(erp: SandboxErp, caller: Caller) -> None:
    placed = Placed(caller)
    erp.set_faults(Fault(kind="commit_then_500", endpoint="create_order"))
    assert placed.cancel("exclusao").status_code == 200
    erp.set_faults(Fault(kind="commit_then_500"))
    assert placed.cancel("exclusao").status_code == 500


def test_cancellations_are_counted_and_written_down(erp: SandboxErp, caller: Caller) -> None:
    def counted() -> tuple[int, int]:
        state = erp.admin("GET", "/state")
        return state["requests"].get("cancel_order", 0), state["answers"].get("cancel_order 200", 0)

    before = counted()
    placed = Placed(caller)
    placed.cancel()
    assert counted() == (before[0] + 1, before[1] + 1)
    last = erp.arrivals()[-1]
    assert (last["endpoint"], last["external_id"]) == ("cancel_order", placed.external_id)
    erp.switch(instances=1, accept_timeout=0, latency_ms=300)
    other = Placed(caller)
    with pytest.raises(requests.Timeout):
        cancel(caller, "0101", other.number, {"C5_XPEDWEB": other.external_id}, timeout=0.1)
    assert other.cancel().status_code == 503


# Faults of reads, and the clock


def test_rows_of_one_order_are_missing_for_once(erp: SandboxErp, caller: Caller) -> None:
    placed, other = Placed(caller), Placed(caller)
    for each in (placed, other):
        each.invoice()
    numbers = f"('{placed.number}', '{other.number}')"
    reads = {
        "SC5": ("C5_XPEDWEB", f"C5_NUM IN {numbers}"),
        "SC6": ("C6_NUM,C6_ITEM", f"C6_NUM IN {numbers}"),
        "SC9": ("C9_PEDIDO", f"C9_PEDIDO IN {numbers}"),
        "SD2,SF2": ("D2_PEDIDO,F2_CHVNFE", f"D2_DOC = F2_DOC AND D2_SERIE = F2_SERIE AND D2_PEDIDO IN {numbers}"),
    }
    for tables, (fields, where) in reads.items():
        whole = caller.items(tables, fields, where)
        assert len(whole) == 2
        erp.set_faults(Fault(kind="rows_missing", matching=placed.number, times=1))
        assert caller.items(tables, fields, where.replace(placed.number, "999999")) == whole[1:]
        assert erp.admin("GET", "/faults")
        answer = caller.query(tables, fields, where, pageSize=1).json()
        assert (answer["items"], answer["hasNext"], answer["remainingRecords"]) == (whole[1:], False, 0)
        assert caller.items(tables, fields, where) == whole
        assert erp.admin("GET", "/faults") == []


def test_a_row_of_another_branch_is_among_them(erp: SandboxErp, caller: Caller) -> None:
    placed = Placed(caller)
    where = f"C5_NUM = '{placed.number}' AND C5_NUM = C6_NUM AND C5_FILIAL = C6_FILIAL"
    erp.set_faults(Fault(kind="other_branch_rows", times=4, matching=placed.number))
    rows = caller.items("SC5,SC6", "C5_FILIAL,C6_FILIAL,C5_NUM", where)
    own = {"c5_filial": "0101", "c6_filial": "0101", "c5_num": placed.number}
    assert rows == [own, {"c5_filial": "0102", "c6_filial": "0102", "c5_num": placed.number}]
    assert caller.items("SC5", "C5_NUM", f"C5_NUM = '{placed.number}'") == [{"c5_num": placed.number}]
    assert caller.items("SC5", "C5_FILIAL", f"C5_NUM = '{placed.number}' AND C5_NUM = '1'") == []
    erp.switch(upper_case_keys=True)
    assert [row["C5_FILIAL"] for row in caller.items("SC5", "C5_FILIAL", f"C5_NUM = '{placed.number}'")] == [
        "0101",
        "0102",
    ]
    assert erp.admin("GET", "/faults") == []
    assert len(caller.items("SC5", "C5_FILIAL", f"C5_NUM = '{placed.number}'")) == 1


def test_faults_of_reads_that_make_no_sense(erp: SandboxErp, caller: Caller) -> None:
    for fault in (
        {"kind": "rows_missing"},
        {"kind": "rows_missing", "matching": "1", "endpoint": "cancel_order"},
        {"kind": "other_branch_rows", "endpoint": "token"},
    ):
        with refuses(422):
            erp.admin("PUT", "/faults", [fault])
    erp.set_faults(Fault(kind="other_branch_rows", times=1))
    placed = Placed(caller)
    assert placed.cancel().status_code == 200
    assert len(erp.admin("GET", "/faults")) == 1


def test_the_date_header_is_the_erps_own_clock() -> None:
    with start_in_background() as erp:
        seed(erp)
        caller = Caller(erp)

        def offset(answer: requests.Response) -> float:
            [text] = [value for name, value in answer.raw.headers.items() if name.lower() == "date"]
            assert re.fullmatch(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", text)
            return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()

        def offsets() -> list[float]:
            login = caller.token()
            caller.session.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
            return [
                offset(login),
                offset(caller.query("SB1", "B1_COD")),
                offset(caller.query("SX6", "B1_COD")),
                offset(caller.create(order(new_id()))),
                offset(cancel(caller, "0101", "999999", {"C5_XPEDWEB": "X"})),
                offset(caller.post("/nada", data=b"")),
                offset(caller.session.get(f"{erp.root_url}/ecommerce/v1/pedidos", timeout=5)),
            ]

        assert all(-3 < seconds < 3 for seconds in offsets())
        erp.admin("POST", "/clock", {"advance_seconds": 86_400})
        assert all(86_397 < seconds < 86_403 for seconds in offsets())
        erp.set_faults(Fault(kind="html_502", endpoint="read"))
        assert 86_397 < offset(caller.query("SB1", "B1_COD")) < 86_403
        placed = Placed(caller)
        placed.invoice()
        tomorrow = f"{datetime.now(HERE) + timedelta(days=1):%Y%m%d}"
        erp.set_faults()
        assert placed.rows("SC6", "DATFAT") == [(tomorrow,)]


def test_a_split_release_keeps_its_day() -> None:
    with start_in_background() as erp:
        seed(erp)
        caller = Caller(erp).login()
        placed = Placed(caller)
        placed.do("release")
        released = today()
        erp.admin("POST", "/clock", {"advance_seconds": 86_400})
        caller.login()
        placed.invoice(items={"01": 1})
        assert placed.rows("SC9", "QTDLIB DATALIB") == [(1, released)] * 2
        assert placed.rows("SC6", "DATFAT") == [(f"{datetime.now(HERE) + timedelta(days=1):%Y%m%d}",)]


# What the admin side shows


def test_orders_are_shown_with_what_became_of_them(erp: SandboxErp, caller: Caller) -> None:
    last = max((view["record"] for view in erp.admin("GET", "/orders?limit=10000")), default=0)
    first, second, third = Placed(caller, *two()), Placed(caller), Placed(caller)
    first.change(rule="1", tracking="BR1")
    written = first.invoice(items={"01": 2}, key=False)
    erp.admin("POST", first.invoice_path(written, "/deliver"), {"in": ["gfe"]})
    first.do("release", items=["02"], stock="02")
    second.delete()
    views = erp.admin("GET", f"/orders?after={last}&limit=2")
    assert [(view["number"], view["external_id"], view["deleted"]) for view in views] == [
        (first.number, first.external_id, False),
        (second.number, second.external_id, True),
    ]
    [rest] = erp.admin("GET", f"/orders?after={views[-1]['record']}")
    assert rest == third.view()
    assert views[1]["items"] == views[1]["invoices"] == []
    assert views[1] == second.view()
    view = views[0]
    assert {name: view[name] for name in view if name.startswith("C5_")} == {
        "C5_LIBEROK": "S",
        "C5_NOTA": written["doc"],
        "C5_SERIE": "1",
        "C5_BLQ": "1",
        "C5_RASTR": "BR1",
    }
    assert view["invoices"] == [
        {"series": "1", "doc": written["doc"], "key": "", "total": written["valor"], "delivered": True}
    ]
    assert [(item_["C6_ITEM"], item_["C6_QTDVEN"], item_["C6_QTDENT"]) for item_ in view["items"]] == [
        ("01", 5, 2),
        ("02", 2, 0),
    ]
    blocked = {"C9_SEQUEN": "01", "C9_QTDLIB": 2, "C9_BLCRED": "", "C9_BLEST": "02", "C9_NFISCAL": "", "C9_SERIENF": ""}
    assert view["items"][1]["releases"] == [blocked]
    with refuses(404):
        erp.admin("GET", "/orders/0101/999999")
    with refuses(422):
        erp.admin("GET", "/orders?after=x")


def test_a_life_survives_a_kill(tmp_path: Path) -> None:
    with start_in_background(SandboxConfig(database=tmp_path / "erp.db")) as erp:
        seed(erp)
        caller = Caller(erp).login()
        placed, gone = Placed(caller, *two()), Placed(caller)
        written = placed.invoice(items={"01": 2}, key=False)
        gone.do("release")
        gone.delete()
        view = placed.view()
        erp.restart()
        caller.login()
        assert placed.view() == view
        gone.do("restore")
        assert gone.rows("SC9", "QTDLIB") == [(2,)]
        assert int(placed.invoice()["doc"]) == int(written["doc"]) + 1


# Orders that live by themselves


def check(placed: Placed) -> None:
    """What is true of every live order, whatever happened to it."""
    header, items, releases, lines = placed.everything()
    [(flag, invoice, _, _)] = header
    open_, given_up = Decimal(0), False
    for name, sold, invoiced, reserved, blocked, note, series, _ in items:
        own = [row for row in releases if row[0] == name]
        pending = [row for row in own if not row[5]]
        assert reserved == sum(row[2] for row in pending if not row[3] and not row[4])
        assert invoiced == sum(row[2] for row in own if row[5]) == sum(line[3] for line in lines if line[5] == name)
        assert invoiced + sum(row[2] for row in pending) <= sold
        of_item = [(line[0], line[1]) for line in lines if line[5] == name]
        assert (note, series) == (of_item[-1] if of_item else ("", ""))
        given_up |= blocked == "R"
        assert not (blocked == "R" and pending)
        open_ += 0 if blocked == "R" else Decimal(str(sold - invoiced))
        assert all((row[3] == row[4] == "10") == bool(row[5]) for row in own)
    if any(not row[5] for row in releases):
        assert flag == "S"
    if not open_ and not given_up:
        assert (flag, invoice) == ("E", lines[-1][0])
    elif not open_:
        assert invoice in (NO_INVOICE, lines[-1][0] if lines else NO_INVOICE)
    else:
        assert invoice == (lines[-1][0] if lines else "")


@pytest.fixture
def quiet() -> Iterator[Caller]:
    """An ERP whose orders nobody else touches."""
    with start_in_background() as erp:
        seed(erp)
        yield Caller(erp).login()


def test_erp_users_do_everything_and_leave_whole_orders(quiet: Caller) -> None:
    weights: dict[Event, float] = {"residue": 2, "delete": 1, "cancel_invoice": 2}
    users = ErpUsers(quiet.erp, random.Random(4), weights=weights)
    assert users.step() is None
    orders = {placed.number: placed for placed in (Placed(quiet, *two(), item("03", 0.5, 3)) for _ in range(40))}
    said: list[str] = []
    while sentence := users.step():
        said.append(sentence)
        placed = orders[sentence[6:12]]
        if not placed.view()["deleted"]:
            check(placed)
        assert len(said) < 2000
    for word in ("released", "credit blocked (", "no stock (", "unblocked", "invoiced in part, invoice 0", "delivered"):
        assert any(word in sentence for sentence in said), word
    for word in ("invoiced in full, invoice 0", "authorised", "residue eliminated", "deleted", "cancelled"):
        assert any(word in sentence for sentence in said), word
    assert re.fullmatch(r"order \d{6}: [a-z].*", said[0])
    views = [placed.view() for placed in orders.values()]
    assert all(view["deleted"] or view["C5_NOTA"] for view in views)
    assert all(invoice["key"] and invoice["delivered"] for view in views for invoice in view["invoices"])
    late = Placed(quiet)
    assert (users.step() or "").startswith(f"order {late.number}: ")


def test_one_seed_is_one_life() -> None:
    def life(seed_: int) -> list[str | None]:
        with start_in_background() as erp:
            seed(erp)
            caller = Caller(erp).login()
            users = ErpUsers(erp, random.Random(seed_))
            said = []
            for _ in range(4):
                for _ in range(3):
                    Placed(caller, *two())
                said += [users.step() for _ in range(10)]
            return said

    first = life(1)
    assert life(1) == first
    assert life(2) != first


def test_weights_forbid(quiet: Caller) -> None:
    only: dict[Event, float] = {**dict.fromkeys(USUAL, 0), "release": 1, "full_invoice": 1}
    users = ErpUsers(quiet.erp, random.Random(1), weights=only, key_at_once=0)
    for _ in range(5):
        Placed(quiet)
    said = list(iter(users.step, None))
    assert Counter(sentence.split(": ")[1].split(",")[0] for sentence in said if sentence) == {
        "released": 5,
        "invoiced in full": 5,
    }
    assert all("not authorised yet" in sentence for sentence in said if sentence and "invoice" in sentence)


def test_somebody_was_faster(quiet: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = Placed(quiet)
    users = ErpUsers(quiet.erp, random.Random(1))
    real = quiet.erp.admin

    def admin(method: str, path: str, payload: object = None) -> Any:
        if method == "POST":
            real("DELETE", placed.path)
        return real(method, path, payload)

    monkeypatch.setattr(quiet.erp, "admin", admin)
    assert users.step() is None
    monkeypatch.undo()
    assert users.step() is None


@pytest.mark.parametrize("reopens", ["released", "open"])
@pytest.mark.parametrize("seed_", range(3))
def test_whatever_users_and_shop_do_every_order_stays_whole(quiet: Caller, reopens: str, seed_: int) -> None:
    """Events of every kind, and the shop's cancellations and alterations among them."""
    erp, dice = quiet.erp, random.Random(seed_)
    erp.switch(cancelled_invoice_reopens=reopens)
    even: dict[Event, float] = dict.fromkeys(USUAL, 1)
    users = ErpUsers(erp, dice, weights=even)
    orders = {placed.number: placed for placed in (Placed(quiet, *two()) for _ in range(12))}
    for _ in range(150):
        if dice.random() < 0.1:
            placed = dice.choice(list(orders.values()))
            assert placed.cancel(dice.choice(["auto", "exclusao", "residuo"])).status_code in (200, 409)
        elif dice.random() < 0.05:
            placed = dice.choice(list(orders.values()))
            if not placed.view()["deleted"] and placed.header()[0] != "E" and placed.header()[1] != NO_INVOICE:
                placed.change(items={"01": {"quantity": 6}})
        else:
            sentence = users.step()
            if sentence is None:
                continue
            placed = orders[sentence[6:12]]
        if not placed.view()["deleted"]:
            check(placed)
