"""The sandbox ERP's stock (contracts/protheus-rest.md, 3, 9 and 12): SB2, what orders and other channels do to it, and
how it is read."""

from __future__ import annotations

import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from erp_sync.sandbox.background import SandboxErp, start_in_background
from erp_sync.sandbox.config import Fault, SandboxConfig, Switches
from erp_sync.sandbox.dictionary import Dictionary
from erp_sync.sandbox.erp_channels import OtherChannels
from erp_sync.sandbox.erp_users import USUAL, ErpUsers, Event
from erp_sync.sandbox.generic_query import run_generic_query
from erp_sync.sandbox.read_faults import ReadFault
from erp_sync.sandbox.store import Store
from erp_sync_tests.test_sandbox_erp import Caller, item, new_id, order, seed
from erp_sync_tests.test_sandbox_life import Placed, plain, refuses, two

FIGURES = ("QATU", "RESERVA", "QPEDVEN")
ALL = (*FIGURES, "QEMP", "QACLASS", "QEMPSA", "QEMPPRJ", "QEMPPRE", "QTNP", "QNPT", "SALPEDI", "VATU1")
Place = tuple[str, str, str]


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxErp]:
    with start_in_background() as erp:
        seed(erp)
        yield erp


@pytest.fixture
def erp(server: SandboxErp) -> Iterator[SandboxErp]:
    """Without any stock."""
    yield server
    server.set_faults()
    server.switch(**Switches().model_dump())
    for row in server.admin("GET", "/stock?limit=100000"):
        remove(server, row["code"], row["warehouse"], row["branch"])


@pytest.fixture
def caller(erp: SandboxErp) -> Iterator[Caller]:
    caller = Caller(erp).login()
    yield caller
    caller.session.close()


@pytest.fixture
def quiet() -> Iterator[Caller]:
    """An ERP whose orders nobody else touches."""
    with start_in_background() as erp:
        seed(erp)
        yield Caller(erp).login()


def stock(erp: SandboxErp, code: str = "CAFE-500", warehouse: str = "01", branch: str = "0101") -> tuple[float, ...]:
    """QATU, RESERVA, QPEDVEN; () where there is no row."""
    found = erp.admin("GET", f"/stock?code={quote(code)}&warehouse={warehouse}&branch={branch}")
    return tuple(row[name] for row in found for name in FIGURES)


def put(erp: SandboxErp, *rows: dict[str, Any]) -> dict[str, int]:
    answer: dict[str, int] = erp.admin("POST", "/stock", list(rows))
    return answer


def begin(erp: SandboxErp, quantity: float) -> None:
    """A row of CAFE-500, whatever orders of other tests hold of it."""
    put(erp, {"code": "CAFE-500", "QATU": quantity, "RESERVA": 0, "QPEDVEN": 0})


def remove(erp: SandboxErp, code: str, warehouse: str = "01", branch: str = "0101") -> None:
    erp.admin("DELETE", f"/stock/{warehouse}/{quote(code, safe='')}?branch={branch}")


def changed(erp: SandboxErp, after: int) -> list[tuple[str, str, str]]:
    lines = [line for line in erp.journal(after) if line["kind"] == "stock_changed"]
    return [(line["branch"], line["number"], line["detail"]) for line in lines]


def last_line(erp: SandboxErp) -> int:
    lines = erp.journal()
    return int(lines[-1]["seq"]) if lines else 0


# Rows of SB2


def test_only_the_figures_that_are_given_change(erp: SandboxErp, caller: Caller) -> None:
    before = last_line(erp)
    figures = dict(zip(ALL, (120, 14.5, -3.25, -7, 1, 2, 3, 4, 5, 6, 0.1, 2280.5), strict=True))
    assert put(erp, {"code": "CAFE-500", **figures}, {"code": "BOLSA-01", "warehouse": "02"}) == {
        "added": 2,
        "changed": 0,
    }
    assert put(erp, {"code": "CAFE-500 ", "branch": "0102", "QATU": 1}, {"code": "CAFE-500", "QATU": "-5.55"}) == {
        "added": 1,
        "changed": 1,
    }
    names = [f"B2_{name}" for name in ("COD", "LOCAL", *ALL)]
    rows = caller.items("SB2", ",".join(names), "B2_COD = 'CAFE-500'")
    assert rows == [
        {
            "b2_cod": "CAFE-500       ",
            "b2_local": "01",
            **{f"b2_{name.lower()}": value for name, value in {**figures, "QATU": -5.55}.items()},
        }
    ]
    shown = erp.admin("GET", "/stock?code=CAFE-500")
    assert [(row["branch"], row["warehouse"], row["QATU"], row["RESERVA"]) for row in shown] == [
        ("0101", "01", -5.55, 14.5),
        ("0102", "01", 1, 0),
    ]
    assert erp.admin("GET", "/stock?code=CAFE-500&branch=0102") == shown[1:]
    assert erp.admin("GET", "/stock?code=CAFE-500&warehouse=02") == []
    every = erp.admin("GET", "/stock?limit=2")
    assert every[0] == shown[0]
    assert [row["code"] for row in every] == ["CAFE-500", "BOLSA-01"]
    assert erp.admin("GET", f"/stock?after={every[-1]['record']}") == shown[1:]
    assert erp.admin("GET", "/stock/last") == {"record": shown[1]["record"]}
    assert changed(erp, before) == [
        ("0101", "CAFE-500", "01"),
        ("0101", "BOLSA-01", "02"),
        ("0102", "CAFE-500", "01"),
        ("0101", "CAFE-500", "01"),
    ]
    # What was shown may be given back.
    del shown[0]["record"]
    assert put(erp, shown[0]) == {"added": 0, "changed": 1}
    assert erp.admin("GET", "/stock?code=CAFE-500&branch=0101")[0]["QEMP"] == -7


def test_two_products_that_differ_by_case_and_one_with_a_slash(erp: SandboxErp) -> None:
    put(erp, *({"code": code, "QATU": 1} for code in ("BOLSA-01", "bolsa-01", "A/B 10%")))
    remove(erp, "A/B 10%")
    remove(erp, "bolsa-01")
    assert [row["code"] for row in erp.admin("GET", "/stock")] == ["BOLSA-01"]


def test_a_row_vanishes_and_another_one_comes(erp: SandboxErp, caller: Caller) -> None:
    before = last_line(erp)
    put(erp, {"code": "CAFE-500", "QATU": 9, "QEMP": 2})
    [first] = erp.admin("GET", "/stock")
    remove(erp, "CAFE-500")
    assert caller.items("SB2", "B2_COD", "B2_COD = 'CAFE-500'") == []
    with refuses(404):
        remove(erp, "CAFE-500")
    put(erp, {"code": "CAFE-500", "QATU": 4})
    [second] = erp.admin("GET", "/stock")
    assert (second["QATU"], second["QEMP"]) == (4, 0)
    assert second["record"] > first["record"]
    kept = caller.items("SB2", "D_E_L_E_T_,B2_QATU", f"R_E_C_N_O_ >= {first['record']}", DeletedFilter="false")
    assert kept == [{"d_e_l_e_t_": "*", "b2_qatu": 9}, {"d_e_l_e_t_": " ", "b2_qatu": 4}]
    assert len(changed(erp, before)) == 3


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("", [{"code": "A" * 16}], 422),
        ("", [{"code": " "}], 422),
        ("", [{"code": "A", "warehouse": "001"}], 422),
        ("", [{"code": "A", "branch": "0103"}], 404),
        ("", [{"code": "A", "QATU": 0.005}], 422),
        ("", [{"code": "A", "QATU": 1e9}], 422),
        ("", [{"code": "A", "QATU": -1e8}], 422),
        ("", [{"code": "A", "QATU": None}], 422),
        ("", [{"code": "A", "B2_QATU": 1}], 422),
        ("", {"code": "A"}, 422),
        ("", [{"code": "A"}] * 10_001, 422),
        ("/sell", {"code": "A", "quantity": 0}, 422),
        ("/sell", {"code": "A", "quantity": 1}, 404),
        ("/sell", {"code": "A", "quantity": 1, "branch": "9"}, 404),
        ("/receive", {"code": "A", "quantity": -1}, 422),
        ("/receive", {"code": "A", "quantity": 1, "force": True}, 422),
    ],
)
def test_what_makes_no_sense_changes_nothing(erp: SandboxErp, path: str, body: Any, status: int) -> None:
    with refuses(status):
        erp.admin("POST", f"/stock{path}", body)
    assert erp.admin("GET", "/stock") == []


def test_a_bad_row_leaves_the_good_ones_of_its_call_out(erp: SandboxErp) -> None:
    with refuses(404):
        put(erp, {"code": "GOOD", "QATU": 1}, {"code": "BAD", "branch": "0199"})
    assert erp.admin("GET", "/stock") == []


def test_another_channel_sells_what_is_there(erp: SandboxErp) -> None:
    before = last_line(erp)
    taken = {"RESERVA": 1, "QEMP": 1, "QACLASS": 1, "QEMPSA": 1, "QEMPPRJ": 1, "QTNP": 1, "QEMPPRE": 1, "QPEDVEN": 0.5}
    put(erp, {"code": "CAFE-500", "QATU": 10, **taken, "QNPT": 50, "SALPEDI": 50})
    sale = {"code": "CAFE-500", "warehouse": "01"}
    with refuses(409):
        erp.admin("POST", "/stock/sell", {**sale, "quantity": 2.51})
    erp.admin("POST", "/stock/sell", {**sale, "quantity": 2.5})
    assert stock(erp) == (7.5, 1, 0.5)
    with refuses(409):
        erp.admin("POST", "/stock/sell", {**sale, "quantity": 0.01})
    erp.admin("POST", "/stock/sell", {**sale, "quantity": 8, "force": True})
    assert stock(erp) == (-0.5, 1, 0.5)
    erp.admin("POST", "/stock/receive", {**sale, "quantity": "20.25", "branch": "0101"})
    assert stock(erp) == (19.75, 1, 0.5)
    assert changed(erp, before) == [("0101", "CAFE-500", "01")] * 4
    # The first goods of a warehouse.
    erp.admin("POST", "/stock/receive", {"code": "CAFE-500", "warehouse": "07", "branch": "0102", "quantity": 3})
    assert stock(erp, "CAFE-500", "07", "0102") == (3, 0, 0)


def test_ten_thousand_rows_in_one_call(quiet: Caller) -> None:
    erp, caller, before = quiet.erp, quiet, last_line(quiet.erp)
    rows: list[dict[str, Any]] = [
        {"code": f"SKU-{number:06}", "QATU": number / 100, "QPEDVEN": 1.5} for number in range(12_000)
    ]
    started = time.monotonic()
    assert put(erp, *rows[:10_000]) == {"added": 10_000, "changed": 0}
    assert time.monotonic() - started < 5
    assert changed(erp, before) == [("", "", "10000 rows")]
    erp.set_stock(rows)
    assert len(erp.journal(before)) == 3
    answer = caller.query("SB2", "B2_COD,B2_QATU", "B2_COD >= 'SKU-'", order="B2_COD", pageSize=5000).json()
    assert answer["items"][-1] == {"b2_cod": "SKU-004999".ljust(15), "b2_qatu": 49.99}
    assert (answer["hasNext"], answer["remainingRecords"]) == (True, 7000)
    # Beyond ten thousand nobody counts.
    answer = caller.query("SB2", "B2_COD", "B2_COD >= 'SKU-'", order="B2_COD", pageSize=10).json()
    assert answer["remainingRecords"] == 10_000
    for first in range(0, 12_000, 4_000):
        for row in rows[first : first + 4_000 : 3_999]:
            assert stock(erp, row["code"])[0] == row["QATU"]


# What orders do to it (Q31)


def test_an_orders_way_through_the_stock(erp: SandboxErp, caller: Caller) -> None:
    begin(erp, 100)
    before = last_line(erp)
    placed = Placed(caller, item("01", 5), item("02", 2, 10))
    assert stock(erp) == (100, 0, 7)
    placed.do("release", items=["01"], quantity={"01": 3})
    assert stock(erp) == (100, 3, 4)
    placed.do("release", items=["01"], stock="02")
    assert stock(erp) == (100, 3, 4)
    placed.block(stock="")
    assert stock(erp) == (100, 5, 2)
    placed.block(credit="09")
    assert stock(erp) == (100, 0, 7)
    placed.block(credit="")
    placed.reverse()
    assert stock(erp) == (100, 0, 7)
    written = placed.invoice(items={"01": 4})
    assert stock(erp) == (96, 0, 3)
    placed.do("release", items=["02"])
    assert stock(erp) == (96, 2, 1)
    placed.cancel_invoice(written)
    assert stock(erp) == (100, 6, 1)
    placed.change(items={"01": {"quantity": 1.5}})
    assert stock(erp) == (100, 2, 1.5)
    placed.change(removed=["02"])
    assert stock(erp) == (100, 0, 1.5)
    placed.delete()
    assert stock(erp) == (100, 0, 0)
    placed.do("restore")
    assert stock(erp) == (100, 0, 1.5)
    placed.do("release")
    placed.delete()
    assert stock(erp) == (100, 0, 0)
    placed.do("restore")
    assert stock(erp) == (100, 1.5, 0)
    assert placed.cancel().status_code == 200
    assert stock(erp) == (100, 0, 0)
    # The journal has the orders' own lines.
    assert changed(erp, before) == []


@pytest.mark.parametrize(("reopens", "expected"), [("released", (10, 5, 0)), ("open", (10, 0, 5))])
def test_a_cancelled_invoice_gives_back_as_the_site_has_it(
    erp: SandboxErp, caller: Caller, reopens: str, expected: tuple[int, ...]
) -> None:
    erp.switch(cancelled_invoice_reopens=reopens)
    begin(erp, 10)
    placed = Placed(caller, item("01", 5))
    written = placed.invoice()
    assert stock(erp) == (5, 0, 0)
    placed.cancel_invoice(written)
    assert stock(erp) == expected


def test_residue_gives_back_what_was_open(erp: SandboxErp, caller: Caller) -> None:
    begin(erp, 10)
    placed = Placed(caller, *two())
    placed.do("release", quantity={"01": 4})
    written = placed.invoice(items={"01": 3}, release=False)
    assert stock(erp) == (7, 1, 3)
    placed.do("residue", items=["02"])
    assert stock(erp) == (7, 1, 1)
    assert placed.cancel("residuo").status_code == 200
    assert stock(erp) == (7, 0, 0)
    # What was given up is not taken again.
    placed.cancel_invoice(written)
    assert stock(erp) == (10, 0, 0)


def test_what_is_refused_moves_nothing(erp: SandboxErp, caller: Caller) -> None:
    begin(erp, 10)
    erp.set_faults(Fault(kind="success_not_written", times=1))
    assert caller.create(order(new_id())).status_code == 201
    assert caller.create(order(new_id(), item("01"), item("01"))).status_code == 400
    assert stock(erp) == (10, 0, 0)
    placed = Placed(caller)
    assert caller.create(order(placed.external_id)).json()["jaExistia"]
    placed.do("release", credit="01")
    with refuses(409):
        placed.invoice()
    assert stock(erp) == (10, 0, 2)


def test_warehouse_and_branch_are_the_items_own(erp: SandboxErp, caller: Caller) -> None:
    erp.admin("POST", "/products", [{"code": "LIVRO-77", "warehouse": "03"}])
    lines = (
        item("01", 1, C6_PRODUTO="LIVRO-77"),
        item("02", 2, C6_PRODUTO="LIVRO-77", C6_LOCAL="02"),
        item("03", 4, C6_PRODUTO="LIVRO-77"),
    )
    caller.session.headers["tenantId"] = "01,0102"
    placed = Placed(caller, *lines)
    rows = erp.admin("GET", "/stock")
    assert [(row["branch"], row["code"], row["warehouse"], row["QPEDVEN"], row["QATU"]) for row in rows] == [
        ("0102", "LIVRO-77", "03", 5, 0),
        ("0102", "LIVRO-77", "02", 2, 0),
    ]
    placed.invoice()
    assert stock(erp, "LIVRO-77", "03", "0102") == (-5, 0, 0)
    assert stock(erp, "LIVRO-77", "02", "0102") == (-2, 0, 0)


def test_orders_begin_no_rows_where_the_site_is_like_that(erp: SandboxErp, caller: Caller) -> None:
    erp.switch(orders_create_stock_rows=False)
    erp.add_products(["SOLO-1", "SOLO-2"])
    first = Placed(caller, item("01", 5, C6_PRODUTO="SOLO-1"), item("02", 3, C6_PRODUTO="SOLO-2"))
    first.do("release", items=["01"], quantity={"01": 2})
    assert erp.admin("GET", "/stock") == []
    # A row that begins later knows what orders hold already.
    put(erp, {"code": "SOLO-1", "QATU": 50})
    assert stock(erp, "SOLO-1") == (50, 2, 3)
    put(erp, {"code": "SOLO-2", "QATU": 50, "QPEDVEN": 0})
    assert stock(erp, "SOLO-2") == (50, 0, 0)
    # The product has a row: another warehouse's may begin.
    second = Placed(caller, item("01", 4, C6_PRODUTO="SOLO-1", C6_LOCAL="09"))
    assert stock(erp, "SOLO-1", "09") == (0, 0, 4)
    remove(erp, "SOLO-1", "09")
    remove(erp, "SOLO-1")
    second.do("release")
    first.invoice(items={"01": 1})
    assert erp.admin("GET", "/stock?code=SOLO-1") == []
    erp.switch(orders_create_stock_rows=True)
    second.reverse()
    assert stock(erp, "SOLO-1", "09") == (0, 0, 4)
    first.do("release", items=["01"])
    assert stock(erp, "SOLO-1") == (0, 4, 0)
    remove(erp, "SOLO-1", "09")
    # Nothing is left to be said of it: no row begins.
    second.delete()
    assert stock(erp, "SOLO-1", "09") == ()


def test_sums_of_small_quantities_stay_exact(erp: SandboxErp, caller: Caller) -> None:
    begin(erp, 0.3)
    placed = [Placed(caller, item("01", 0.1)) for _ in range(3)]
    assert stock(erp) == (0.3, 0, 0.3)
    for each in placed:
        each.invoice()
    assert stock(erp) == (0, 0, 0)


def test_stock_survives_a_kill(tmp_path: Path) -> None:
    with start_in_background(SandboxConfig(database=tmp_path / "erp.db")) as erp:
        seed(erp)
        put(erp, {"code": "CAFE-500", "QATU": 10})
        caller = Caller(erp).login()
        placed = Placed(caller)
        erp.restart()
        assert stock(erp) == (10, 0, 2)
        caller.login()
        placed.invoice()
        assert stock(erp) == (8, 0, 0)


class Walk:
    """Everything that moves stock, at random, and what has to be true after each of it."""

    def __init__(self, caller: Caller, seed_: int) -> None:
        self.erp, self.dice = caller.erp, random.Random(seed_)
        self.callers = [caller, Caller(caller.erp, "01,0102").login()]
        weights: dict[Event, float] = dict.fromkeys(USUAL, 1)
        self.users = ErpUsers(self.erp, self.dice, weights=weights)
        self.channels = OtherChannels(self.erp, self.dice)
        self.orders: list[Placed] = []
        self.base: dict[Place, Decimal] = {}
        """QATU, had no order been invoiced."""
        self.done: Counter[str] = Counter()

    def step(self) -> None:
        events: dict[Callable[[], None], float] = {
            self.place: 2,
            self.use: 10,
            self.cancel: 1,
            self.change: 1,
            self.take_back: 1,
            self.part_residue: 0.5,
            self.restore: 2,
            self.sell_or_receive: 2,
            self.vanish: 0.5,
            self.count_again: 0.5,
        }
        [event] = self.dice.choices(list(events), list(events.values()))
        event()
        self.done[event.__name__] += 1
        self.check()

    def place(self) -> None:
        lines = [
            item(
                f"{number:02}",
                self.dice.choice([0.5, 1, 2, 2.75, 7]),
                10,
                C6_PRODUTO=self.dice.choice(["CAFE-500", "BOLSA-01", "bolsa-01"]),
                C6_LOCAL=self.dice.choice(["01", "01", "02"]),
            )
            for number in range(1, self.dice.randint(2, 4))
        ]
        self.orders.append(Placed(self.dice.choice(self.callers), *lines))

    def use(self) -> None:
        self.done["user"] += self.users.step() is not None

    def any_order(self) -> Placed | None:
        return self.dice.choice(self.orders) if self.orders else None

    def cancel(self) -> None:
        if placed := self.any_order():
            assert placed.cancel(self.dice.choice(["auto", "exclusao", "residuo"])).status_code in (200, 409)

    def change(self) -> None:
        if placed := self.any_order():
            bodies: list[dict[str, Any]] = [
                {"items": {"01": {"quantity": self.dice.choice([1, 3.5, 9])}}},
                {"removed": ["01"]},
            ]
            self.may_fail(lambda: placed.change(**self.dice.choice(bodies)))

    def take_back(self) -> None:
        if placed := self.any_order():
            self.may_fail(placed.reverse)

    def part_residue(self) -> None:
        if placed := self.any_order():
            self.may_fail(lambda: placed.do("residue", items=["01"]))

    def restore(self) -> None:
        gone = [placed for placed in self.orders if placed.view()["deleted"]]
        if gone:
            self.done["restored"] += 1
            self.dice.choice(gone).do("restore")

    def sell_or_receive(self) -> None:
        if said := self.channels.step():
            words = said.split()
            before = {place: row["QATU"] for place, row in self.rows().items()}
            quantity = Decimal(words[4])
            moved = -quantity if "sold" in said else quantity
            [place] = [
                place for place, base in self.base.items() if before[place] != float(base - self.invoiced(place))
            ]
            assert (place[1], f"{place[2]}:") == (words[1].rstrip(","), words[3])
            self.base[place] += moved
            self.done[words[5]] += 1

    def vanish(self) -> None:
        if self.base:
            place = self.dice.choice(list(self.base))
            remove(self.erp, place[1], place[2], place[0])

    def count_again(self) -> None:
        place = (self.dice.choice(["0101", "0102"]), "CAFE-500", self.dice.choice(["01", "02"]))
        figure = Decimal(self.dice.randint(-500, 5000)) / 100
        put(self.erp, {"branch": place[0], "code": place[1], "warehouse": place[2], "QATU": str(figure)})
        self.base[place] = figure + self.invoiced(place)

    def may_fail(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except RuntimeError as error:
            assert ": 404 " in str(error) or ": 409 " in str(error)

    def read(self, table: str, fields: str) -> list[dict[str, Any]]:
        found = self.callers[0].query(table, fields, FilialFilter="false", pageSize=5000)
        return [
            {name: plain(value) for name, value in row.items()}
            for row in json.loads(found.text, parse_float=Decimal)["items"]
        ]

    def rows(self) -> dict[Place, dict[str, float]]:
        found = self.erp.admin("GET", "/stock?limit=10000")
        places = [(row["branch"], row["code"], row["warehouse"]) for row in found]
        assert len(set(places)) == len(places)
        return dict(zip(places, found, strict=True))

    def invoiced(self, place: Place) -> Decimal:
        return self.of_items()[2][place]

    def of_items(self) -> tuple[dict[Place, Decimal], ...]:
        """Open, reserved and invoiced, as items, releases and invoice lines have them."""
        places: dict[tuple[str, str, str], Place] = {}
        open_, free, out = (defaultdict[Place, Decimal](Decimal) for _ in range(3))
        for row in self.read("SC6", "C6_FILIAL,C6_NUM,C6_ITEM,C6_PRODUTO,C6_LOCAL,C6_QTDVEN,C6_QTDENT,C6_BLQ"):
            place = (row["c6_filial"], row["c6_produto"], row["c6_local"])
            places[row["c6_filial"], row["c6_num"], row["c6_item"]] = place
            open_[place] += 0 if row["c6_blq"] == "R" else row["c6_qtdven"] - row["c6_qtdent"]
        for row in self.read("SC9", "C9_FILIAL,C9_PEDIDO,C9_ITEM,C9_QTDLIB,C9_BLCRED,C9_BLEST"):
            if not row["c9_blcred"] and not row["c9_blest"]:
                free[places[row["c9_filial"], row["c9_pedido"], row["c9_item"]]] += row["c9_qtdlib"]
        for row in self.read("SD2", "D2_FILIAL,D2_PEDIDO,D2_ITEMPV,D2_QUANT"):
            out[places[row["d2_filial"], row["d2_pedido"], row["d2_itempv"]]] += row["d2_quant"]
        return open_, free, out

    def check(self) -> None:
        rows = self.rows()
        open_, free, out = self.of_items()
        for place, row in rows.items():
            assert row["QPEDVEN"] == float(open_[place] - free[place]), place
            assert row["RESERVA"] == float(free[place]), place
            # A row that an order began: what it invoiced in that moment is gone from it.
            self.base.setdefault(place, Decimal(str(row["QATU"])) + out[place])
            assert row["QATU"] == float(self.base[place] - out[place]), place
        for place in set(self.base) - set(rows):
            del self.base[place]
            self.done["gone"] += 1


@pytest.mark.parametrize("reopens", ["released", "open"])
@pytest.mark.parametrize("seed_", range(2))
def test_whatever_happens_stock_is_what_orders_and_channels_made_of_it(quiet: Caller, reopens: str, seed_: int) -> None:
    quiet.erp.switch(cancelled_invoice_reopens=reopens)
    walk = Walk(quiet, seed_)
    for code in ("CAFE-500", "BOLSA-01"):
        put(quiet.erp, {"code": code, "QATU": 500}, {"code": code, "branch": "0102", "QATU": 500})
    for _ in range(6):
        walk.place()
    walk.check()
    for _ in range(160):
        walk.step()
    assert all(walk.done[name] for name in ("user", "restored", "gone", "sold", "received")), walk.done


# The retail read (9.1)


def retail(caller: Caller, path: str = "retailStockLevel", **parameters: Any) -> requests.Response:
    return caller.session.get(f"{caller.erp.root_url}/api/retail/v1/{path}", params=parameters, timeout=20)


@pytest.fixture
def stocked(erp: SandboxErp) -> None:
    rows = [
        {"code": "CAFE-500", "QATU": 120, "RESERVA": 14, "SALPEDI": 2.5, "VATU1": 2280.5},
        {"code": "CAFE-500", "warehouse": "02", "QATU": 7},
        {"code": "BOLSA-01", "branch": "0102", "QATU": -3},
    ]
    put(erp, *rows)
    put(erp, {"code": "GONE", "QATU": 1})
    remove(erp, "GONE")


def row_of(code: str, warehouse: str, branch: str, *figures: float) -> dict[str, Any]:
    names = ("currentstockamount", "bookedstockamount", "futurestockamount", "valueofcurrentstockamount")
    return {
        "companyId": "01",
        "branchId": branch,
        "iteminternalId": code.ljust(15),
        "warehouseinternalid": warehouse,
        **dict(zip(names, figures, strict=True)),
    }


CAFE = row_of("CAFE-500", "01", "0101", 120, 14, 2.5, 2280.5)
CAFE_2 = row_of("CAFE-500", "02", "0101", 7, 0, 0, 0)
BOLSA = row_of("BOLSA-01", "01", "0102", -3, 0, 0, 0)


@pytest.mark.usefixtures("stocked")
def test_retail_gives_rows_of_every_branch(erp: SandboxErp, caller: Caller) -> None:
    assert retail(caller).json() == {"hasNext": False, "items": [CAFE, CAFE_2, BOLSA]}
    assert retail(caller, "RetailStockLevel", IteminternalID="CAFE-500").json()["items"] == [CAFE, CAFE_2]
    assert retail(caller, "RETAILSTOCKLEVEL", branchId="0102").json() == BOLSA
    assert retail(caller, "retailStock").status_code == 404
    assert Caller(erp).session.get(f"{erp.root_url}/api/retail/v1/retailStockLevel", timeout=5).status_code == 401
    caller.session.headers["tenantId"] = "01,0199"
    assert retail(caller).status_code == 404
    assert erp.admin("GET", "/state")["answers"]["read 401"] >= 1


@pytest.mark.usefixtures("stocked")
def test_retail_gives_one_row_bare_and_none_as_404(erp: SandboxErp, caller: Caller) -> None:
    assert retail(caller, iteminternalId="CAFE-500", warehouseinternalid="02").json() == CAFE_2
    assert retail(caller, currentstockamount="-3").json() == BOLSA
    assert retail(caller, companyId="01", iteminternalId="BOLSA-01  ").json() == BOLSA
    # The last page, too.
    assert retail(caller, Page=2, PageSize=2).json() == BOLSA
    for parameters in (
        {"iteminternalId": "bolsa-01"},
        {"companyId": "02"},
        {"iteminternalId": "CAFE-500", "warehouseinternalid": "03"},
        {"Page": 2},
    ):
        answer = retail(caller, **parameters)
        assert answer.status_code == 404
        text = answer.json()["errorMessage"]
        assert re_select(text)
        if "warehouseinternalid" in parameters:
            assert "B2_COD = 'CAFE-500' AND B2_LOCAL = '03'" in text
    erp.switch(last_page_repeats_first=True)
    assert retail(caller, Page=9).json()["items"] == [CAFE, CAFE_2, BOLSA]
    erp.switch(caseless_comparison=True)
    assert retail(caller, iteminternalId="bolsa-01").json() == BOLSA


def re_select(text: str) -> bool:
    return "SELECT B2_FILIAL, B2_COD" in text and "FROM SB2010 SB2 WHERE SB2.D_E_L_E_T_ = ' '" in text


@pytest.mark.usefixtures("stocked")
def test_retail_pages_sorts_and_chooses_fields(erp: SandboxErp, caller: Caller) -> None:
    first = retail(caller, pagesize=2).json()
    assert first == {"hasNext": True, "items": [CAFE, CAFE_2]}
    sorted_ = retail(caller, Order="ITEMINTERNALID,-warehouseinternalid").json()["items"]
    assert sorted_ == [BOLSA, CAFE_2, CAFE]
    chosen = retail(caller, Fields="itemInternalId,CurrentStockAmount,nada", Order="currentstockamount").json()
    assert chosen["items"][0] == {"iteminternalId": "BOLSA-01".ljust(15), "currentstockamount": -3}
    put(erp, *({"code": f"MANY-{number:03}"} for number in range(30)))
    pages = [retail(caller, Page=page).json() for page in (1, 2, 3, 4)]
    assert [len(page["items"]) for page in pages] == [10, 10, 10, 3]
    assert [page["hasNext"] for page in pages] == [True, True, True, False]
    assert len(retail(caller, PageSize=20_000).json()["items"]) == 33
    erp.switch(numbers_as_text=True, trimmed_values=True, has_next="number")
    answer = retail(caller, PageSize=2).json()
    assert answer["hasNext"] == 1
    assert (answer["items"][0]["iteminternalId"], answer["items"][0]["currentstockamount"]) == ("CAFE-500", "120")


@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"Filter": "x"}, 404),
        ({"B2_COD": "CAFE-500"}, 404),
        ({"Order": "nada"}, 404),
        ({"Page": "0"}, 404),
        ({"PageSize": "x"}, 404),
        ({"iteminternalId": "x' OR '1'='1"}, 500),
        ({"currentstockamount": "x"}, 500),
        ({"currentstockamount": "NaN"}, 500),
    ],
)
@pytest.mark.usefixtures("stocked")
def test_what_retail_does_not_know(caller: Caller, parameters: dict[str, str], status: int) -> None:
    answer = retail(caller, **parameters)
    assert answer.status_code == status
    assert answer.json()["errorMessage"]


@pytest.mark.usefixtures("stocked")
def test_faults_strike_retail_reads(erp: SandboxErp, caller: Caller) -> None:
    erp.set_faults(Fault(kind="html_502", endpoint="read", matching="iteminternalId=CAFE", times=1))
    assert retail(caller, iteminternalId="BOLSA-01").status_code == 200
    assert retail(caller, iteminternalId="CAFE-500").status_code == 502
    erp.set_faults(Fault(kind="rows_missing", matching="BOLSA-01", times=1))
    assert retail(caller, iteminternalId="CAFE-500").json()["items"] == [CAFE, CAFE_2]
    assert retail(caller, Page="x").status_code == 404
    assert retail(caller).json()["items"] == [CAFE, CAFE_2]
    assert retail(caller).json()["items"] == [CAFE, CAFE_2, BOLSA]
    kinds: dict[Any, list[dict[str, Any]]] = {
        "first_page_again": [CAFE, CAFE_2],
        "rows_repeated": [BOLSA, BOLSA],
        "zeros": [row_of("BOLSA-01", "01", "0102", 0, 0, 0, 0)],
        "other_branch_rows": [BOLSA, {**BOLSA, "branchId": "0101"}],
    }
    for kind, expected in kinds.items():
        erp.set_faults(Fault(kind=kind, times=1))
        body = retail(caller, Page=2, PageSize=2).json()
        assert body.get("items", [body]) == expected, kind
        assert retail(caller, Page=2, PageSize=2).json() == BOLSA


# Faults of genericQuery's stock


def codes(rows: list[dict[str, Any]]) -> list[str]:
    return [row["b2_cod"].rstrip() for row in rows]


def test_a_product_is_missing_from_its_page(erp: SandboxErp, caller: Caller) -> None:
    put(erp, *({"code": f"SKU-{number}", "QATU": number} for number in range(1, 11)))
    query = ("SB2", "B2_LOCAL,B2_QATU,B2_COD", "B2_LOCAL IN ('01')")

    def page(number: int) -> list[str]:
        return codes(caller.items(*query, order="B2_COD", page=number, pageSize=4))

    whole = [page(number) for number in (1, 2, 3)]
    assert whole == [["SKU-1", "SKU-10", "SKU-2", "SKU-3"], ["SKU-4", "SKU-5", "SKU-6", "SKU-7"], ["SKU-8", "SKU-9"]]
    # It waits for the page that would have the product, and for no product that is only called alike.
    erp.set_faults(Fault(kind="rows_missing", matching="SKU-5", times=1))
    assert caller.query("SB2", "B2_NADA").status_code == 500
    assert caller.items("SC5", "C5_NUM", "C5_XPEDWEB = 'SKU-5'") == []
    erp.set_faults(Fault(kind="rows_missing", matching="SKU-5", times=1))
    assert page(1) == whole[0]
    assert page(2) == ["SKU-4", "SKU-6", "SKU-7", "SKU-8"]
    assert page(2) == whole[1]
    erp.set_faults(Fault(kind="rows_missing", matching="SKU-1"))
    assert page(1) == ["SKU-10", "SKU-2", "SKU-3", "SKU-4"]
    assert codes(caller.items("SB2", "B2_COD", "B2_COD IN ('SKU-1', 'SKU-10')")) == ["SKU-10"]
    # Not asked for, and yet gone.
    assert caller.items("SB2", "B2_QATU", "B2_COD = 'SKU-1'") == []


def test_pages_start_over_repeat_rows_or_hold_zeros(erp: SandboxErp, caller: Caller) -> None:
    put(erp, *({"code": f"SKU-{number}", "QATU": number, "RESERVA": 0.5} for number in range(1, 6)))

    def read(page: int, where: str = "B2_LOCAL = '01'") -> dict[str, Any]:
        fields = "B2_COD,B2_QATU,B2_RESERVA,R_E_C_N_O_"
        answer = caller.query("SB2", fields, where, order="B2_COD,R_E_C_N_O_", page=page, pageSize=2)
        assert answer.status_code == 200
        return dict(answer.json())

    pages = {number: read(number) for number in (1, 2, 3, 4)}
    erp.set_faults(Fault(kind="first_page_again", times=2, matching="B2_"))
    assert caller.query("SB1", "B1_COD").status_code == 200
    assert (read(3), read(4)) == (pages[1], pages[1])
    assert read(3) == pages[3]
    erp.set_faults(Fault(kind="rows_repeated", times=2))
    assert read(2)["items"] == [*pages[2]["items"], pages[2]["items"][-1]]
    assert read(4)["items"] == []
    erp.set_faults(Fault(kind="zeros", times=1))
    [row, _] = read(1)["items"]
    assert row == {**pages[1]["items"][0], "b2_qatu": 0, "b2_reserva": 0}
    assert row["r_e_c_n_o_"]
    erp.switch(numbers_as_text=True)
    erp.set_faults(Fault(kind="zeros", times=1))
    assert read(1)["items"][0]["b2_qatu"] == "0"
    assert erp.admin("GET", "/faults") == []
    assert read(1)["items"][0]["b2_qatu"] == "1"


def test_faults_of_stock_strike_reads_only(erp: SandboxErp, caller: Caller) -> None:
    for kind in ("first_page_again", "rows_repeated", "zeros"):
        with refuses(422):
            erp.admin("PUT", "/faults", [{"kind": kind, "endpoint": "create_order"}])
        erp.admin("PUT", "/faults", [{"kind": kind, "times": 1}])
        assert caller.create(order(new_id())).status_code == 201
        assert len(erp.admin("GET", "/faults")) == 1


def test_a_site_without_case_sorts_as_it_compares(erp: SandboxErp, caller: Caller) -> None:
    put(erp, *({"code": code} for code in ("b", "A", "C", "a", "B")))
    erp.switch(caseless_comparison=True)
    assert codes(caller.items("SB2", "B2_COD", "B2_COD >= 'b'", order="B2_COD,R_E_C_N_O_")) == ["b", "B", "C"]


# Large tables


class Work:
    """What a query costs: steps of SQLite's machine, which no other process on this one changes."""

    def __init__(self, rows: int) -> None:
        self.config = SandboxConfig()
        self.store = Store(Dictionary(self.config), "C5_XPEDWEB", None)
        numbers = list(range(rows))
        random.Random(1).shuffle(numbers)
        names = ("B2_FILIAL", "B2_COD", "B2_LOCAL", "B2_QATU")
        with self.store.transaction():
            self.store.put("SB2", names, (("0101", f"SKU-{number:07}", "01", 5.0) for number in numbers))

    def steps(self, where: str, order: str) -> int:
        counted = 0

        def count() -> None:
            nonlocal counted
            counted += 1

        parameters = {"tables": "SB2", "fields": "B2_COD,B2_QATU", "where": where, "order": order, "pagesize": "500"}
        self.store._db.set_progress_handler(count, 100)
        answer = run_generic_query(self.store, self.config, Switches(), parameters, "0101", fault=ReadFault())
        assert len(answer["items"]) == 500
        return counted


def test_a_page_costs_the_same_however_large_the_table_is() -> None:
    small, large = 25_000, 100_000
    works = {rows: Work(rows) for rows in (small, large)}

    def cost(rows: int) -> list[int]:
        half = rows // 2
        return [
            works[rows].steps("B2_LOCAL IN ('01')", "B2_COD,B2_LOCAL,R_E_C_N_O_"),
            works[rows].steps(f"B2_LOCAL IN ('01') AND B2_COD >= 'SKU-{half:07}'", "B2_COD,B2_LOCAL,R_E_C_N_O_"),
            works[rows].steps(f"R_E_C_N_O_ >= {half}", "R_E_C_N_O_"),
        ]

    for few, many in zip(cost(small), cost(large), strict=True):
        assert many < 1.2 * few
    # Rows that are named are found by their name, not on a walk in the order of the records.
    named = ", ".join(f"'SKU-{number:07}'" for number in range(0, large, large // 500))
    assert (
        works[large].steps(f"B2_COD IN ({named})", "R_E_C_N_O_") < works[large].steps("B2_COD >= ''", "R_E_C_N_O_") / 10
    )


# Stock that moves by itself


def test_other_channels_sell_and_receive(quiet: Caller) -> None:
    erp = quiet.erp
    channels = OtherChannels(erp, random.Random(3), sold=0.9)
    assert channels.step() is None
    put(erp, *({"code": code, "QATU": 20} for code in ("CAFE-500", "BOLSA-01")), {"code": "EMPTY"})
    said = [channels.step() for _ in range(60)]
    assert None in said
    sold, received = Counter[str](), Counter[str]()
    for sentence in filter(None, said):
        product, warehouse, quantity = sentence.split()[1].rstrip(","), sentence.split()[3], int(sentence.split()[4])
        assert warehouse == "01:"
        assert sentence.endswith((": " + f"{quantity} sold by another channel", f": {quantity} received"))
        (received if sentence.endswith("received") else sold)[product] += quantity
    assert sold and received
    for code, first in (("CAFE-500", 20), ("BOLSA-01", 20), ("EMPTY", 0)):
        assert stock(erp, code) == (first + received[code] - sold[code], 0, 0)


def test_one_seed_is_one_market(quiet: Caller) -> None:
    def market(seed_: int) -> list[str | None]:
        put(quiet.erp, *({"code": f"SKU-{number}", "QATU": 30} for number in range(5)))
        channels = OtherChannels(quiet.erp, random.Random(seed_))
        return [channels.step() for _ in range(30)]

    first = market(1)
    assert market(1) == first
    assert market(2) != first
