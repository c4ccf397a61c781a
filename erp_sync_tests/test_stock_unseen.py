"""Products of the shop that the ERP's pages do not show, and the file of differences: against the sandbox over HTTP."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

import erp_sync.sync.unseen
from erp_sync import cli
from erp_sync.erp.generic_query import GenericQuery
from erp_sync.erp.stock import ErpStock
from erp_sync.errors import ErpUnavailable
from erp_sync.sandbox.config import Fault
from erp_sync.sandbox.shop_schema import products
from erp_sync.sync.differences import FILE, Difference, write_csv
from erp_sync.sync.results import StockResult
from erp_sync.sync.stock import StockFlow
from erp_sync_tests.conftest import FreshDatabase
from erp_sync_tests.test_stock import LOWER, THIRD, UPPER, Slow, World, files, play

ZERO = 'without_row = "zero"'


@pytest.fixture
def world(fresh_database: FreshDatabase, tmp_path: Path) -> Iterator[World]:
    yield from play([fresh_database(), fresh_database()], tmp_path)


@pytest.fixture
def zero(fresh_database: FreshDatabase, tmp_path: Path) -> Iterator[World]:
    """Where no row means no stock."""
    yield from play([fresh_database(), fresh_database()], tmp_path, ZERO)


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[World]:
    yield from play(files(tmp_path), tmp_path)


@pytest.fixture
def embedded_zero(tmp_path: Path) -> Iterator[World]:
    yield from play(files(tmp_path), tmp_path, ZERO)


def remove(world: World, *skus: str) -> None:
    for sku in skus:
        world.on.erp.admin("DELETE", f"/stock/01/{sku}")


def sell_also(world: World, *skus: str, stock: int = 9) -> None:
    """The shop has products of its own."""
    with world.shop.begin() as connection:
        first = len(connection.execute(select(products.c.id)).all()) + 90_000
        for place, sku in enumerate(skus):
            row = {"id": first + place, "sku": sku, "name": "x", "price": Decimal(1), "stock": stock}
            connection.execute(products.insert(), row)


# Asked for by name


def test_a_product_that_a_page_leaves_out_is_asked_for_by_name(world: World) -> None:
    world.put(UPPER, LOWER, QATU=5)
    world.run()
    world.put(UPPER, QATU=3)
    world.put(LOWER, QATU=9)
    world.on.erp.set_faults(Fault(kind="rows_missing", endpoint="read", matching=UPPER, times=1))
    result = world.run()
    assert world.shown(UPPER, LOWER) == [3, 9]
    assert (result.skus, result.known) == (1, 2)
    assert UPPER not in result.examples["unknown_to_erp"]


def test_without_a_row_a_product_is_unknown_and_reported(world: World) -> None:
    world.put(UPPER, LOWER, "SO-NO-ERP", QATU=5)
    world.run()
    remove(world, UPPER)
    before = world.stock()
    result = world.run()
    assert world.stock() == before
    assert (result.unknown, result.examples["unknown"]) == (1, ["SO-NO-ERP"])
    assert (result.known, result.unknown_to_erp, result.asked_by_name, result.zero_by_name) == (1, 199, 199, 0)
    assert UPPER in result.examples["unknown_to_erp"]


def test_where_no_row_means_no_stock_the_product_must_be_registered(zero: World) -> None:
    others = [sku for sku in zero.stock() if sku not in (UPPER, LOWER, THIRD)]
    zero.put(*others, UPPER, LOWER, THIRD, QATU=5)
    sell_also(zero, "SO-NA-LOJA")
    zero.run(accept=True)
    zero.on.erp.admin("PATCH", f"/products/{THIRD}", {"blocked": True})
    remove(zero, UPPER, THIRD)
    result = zero.run()
    assert zero.shown(UPPER, THIRD, LOWER, "SO-NA-LOJA") == [0, 5, 5, 9]
    assert (result.written, result.lowered) == (1, 1)
    assert (result.asked_by_name, result.zero_by_name, result.unknown_to_erp) == (3, 1, 2)
    assert set(result.examples["unknown_to_erp"]) == {THIRD, "SO-NA-LOJA"}
    zero.put(UPPER, QATU=4)
    zero.run()
    assert zero.shown(UPPER) == [4]


def test_an_erp_that_shows_no_stock_at_all_proves_nothing(embedded_zero: World) -> None:
    before = embedded_zero.stock()
    result = embedded_zero.run(accept=True)
    assert (result.skus, result.asked_by_name, result.unknown_to_erp) == (0, 0, 200)
    assert embedded_zero.stock() == before


def test_many_that_vanish_at_once_stop_at_the_guard_and_are_asked_again(embedded_zero: World) -> None:
    skus = sorted(embedded_zero.stock())
    embedded_zero.put(*skus, QATU=5)
    embedded_zero.run(accept=True)
    remove(embedded_zero, *skus[:80])
    for _ in range(2):
        result = embedded_zero.run()
        assert "80 of 200 stocks would change" in result.guard
        assert set(embedded_zero.stock().values()) == {5}
    assert embedded_zero.run(accept=True).written == 80
    assert [units for sku, units in sorted(embedded_zero.stock().items()) if sku in skus[:80]] == [0] * 80


def test_a_read_that_breaks_off_asks_for_nothing(embedded_zero: World, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded_zero.put(*sorted(embedded_zero.stock())[:150], QATU=5)
    before = embedded_zero.stock()
    asked: list[Any] = []
    monkeypatch.setattr(ErpStock, "named", lambda *names: asked.append(names))
    real = ErpStock(embedded_zero.connections.client, embedded_zero.connections.settings)

    def broken() -> None:
        raise ErpUnavailable("the ERP is away")

    figures = dict.fromkeys(sorted(before)[:3], 1)
    result = by_name(embedded_zero, Slow(figures, broken), real).run(accept=True)
    assert isinstance(result.failure, ErpUnavailable)
    assert (asked, embedded_zero.stock()) == ([], before)


@pytest.mark.parametrize("answer", ["without the witness", "of others", "nothing at all", "an error"])
def test_an_answer_that_proves_nothing_leaves_them_alone(
    embedded_zero: World, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    skus = sorted(sku for sku in embedded_zero.stock() if sku not in (UPPER, LOWER))
    embedded_zero.put(UPPER, LOWER, *skus, QATU=5)
    embedded_zero.run(accept=True)
    remove(embedded_zero, UPPER)
    embedded_zero.put(LOWER, QATU=6)
    real = GenericQuery.rows

    def rows(self: GenericQuery, query: Any) -> Any:
        given = real(self, query)
        if query.table != "SB2":
            return given
        if answer == "an error":
            raise ErpUnavailable("genericQuery is away")
        other = {**given[0], "B2_COD": "OUTRO-PRODUTO", "R_E_C_N_O_": Decimal(10**9)}
        witness = query.where[0].values[-1]
        others = [row for row in given if row["B2_COD"] != witness]
        return {"without the witness": others, "of others": [*given, other]}.get(answer, [])

    with monkeypatch.context() as patch:
        patch.setattr(GenericQuery, "rows", rows)
        result = embedded_zero.run()
        assert (result.failure, result.zero_by_name) == (None, 0)
        assert embedded_zero.shown(UPPER, LOWER) == [5, 6], "what the pages showed is written"
    assert embedded_zero.run().zero_by_name == 1
    assert embedded_zero.shown(UPPER) == [0]


def test_what_the_erp_cannot_have_is_not_asked_for(embedded: World) -> None:
    embedded.put(UPPER, QATU=5)
    asked = recorded(embedded)
    odd = ["MAIS-DE-QUINZE-LETRAS", "BRANCO ", "TAB\tULADO"]
    sell_also(embedded, *odd, "SO-NA-LOJA")
    result = asked.run()
    assert result.failure is None
    assert "SO-NA-LOJA" in asked.names
    assert not {*odd, UPPER} & set(asked.names)


def test_a_catalogue_is_asked_for_part_by_part(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erp_sync.sync.unseen, "LOOKED_AT", 40)
    monkeypatch.setattr(erp_sync.sync.unseen, "NAMED", 13)
    world.put(THIRD, QATU=5)
    everybody = set(world.stock()) - {THIRD}
    for _ in range(2):  # and once more from the beginning
        asked = recorded(world)
        for _ in range(20):  # 199 of them, at most 13 at a time
            before = len(asked.names)
            assert asked.run().failure is None
            assert len(asked.names) - before <= 13
            if set(asked.names) == everybody:
                break
        assert set(asked.names) == everybody
    asked = recorded(world)
    asked.run(dry_run=True)
    first = asked.names[:]
    asked.run()
    assert asked.names == first * 2, "a pass that wrote nothing goes on nowhere"


def test_an_old_figure_by_name_only_lowers(embedded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded.put(UPPER, LOWER, QATU=6)
    embedded.set_shop(UPPER, 5)
    embedded.set_shop(LOWER, 7)
    ledger = type(embedded.connections.ledger)
    real_now = ledger.now

    def later() -> None:
        monkeypatch.setattr(ledger, "now", lambda self: real_now(self) + timedelta(minutes=16))

    embedded.put(THIRD, QATU=1)
    real = ErpStock(embedded.connections.client, embedded.connections.settings)
    result = by_name(embedded, Slow({THIRD: 1}, later), real).run(accept=True)
    assert result.failure is None
    assert result.held_back == 1
    assert embedded.shown(UPPER, LOWER) == [5, 6]


def test_what_is_sold_counts_against_a_figure_by_name(embedded: World) -> None:
    embedded.put(UPPER, LOWER, QATU=6)
    embedded.run()
    embedded.on.erp.set_faults(Fault(kind="rows_missing", endpoint="read", matching=UPPER, times=1))
    embedded.buy()
    embedded.set_shop(UPPER, 6)
    embedded.run()
    assert embedded.shown(UPPER) == [5]


class recorded:  # noqa: N801 - reads as what it makes
    """Passes, and the names that they ask for."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.names: list[str] = []

    def run(self, **how: Any) -> StockResult:
        real = ErpStock(self._world.connections.client, self._world.connections.settings)
        names = self.names

        class Recorded:
            can_have = staticmethod(real.can_have)
            registered = staticmethod(real.registered)

            def named(self, skus: Sequence[str], witness: str) -> Mapping[str, Mapping[str, Decimal] | None]:
                names.extend(skus)
                return real.named(skus, witness)

        return by_name(self._world, real, Recorded()).run(**how)


def by_name(world: World, erp: Any, named: Any) -> StockFlow:
    return world.flow(erp, by_name=named)


# The file of differences


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_all_differences_are_in_the_file_written_or_not(fresh_database: FreshDatabase, tmp_path: Path) -> None:
    folder = tmp_path / "csv"
    folder.mkdir()
    setting = f'differences_csv = "{folder}"\nbuffer = 1'
    for world in play([fresh_database(), fresh_database()], tmp_path, setting):
        sell_also(world, "=2+3", "@SUM(A1)")
        skus = sorted(world.stock())
        world.put(*skus, QATU=7)
        world.put(UPPER, QATU=-2)
        before = world.stock()
        assert world.run().guard
        rows = {row["sku"]: row for row in rows_of(folder / FILE)}
        assert len(rows) == sum(units != (0 if sku == UPPER else 6) for sku, units in before.items())
        figures = {"available_in_erp": "-2", "buffer": "1", "after": "0", "before": str(before[UPPER])}
        assert rows[UPPER].items() >= figures.items()
        assert {"'=2+3", "'@SUM(A1)"} <= set(rows)
        assert [file.name for file in folder.iterdir()] == [FILE], "nothing half-written is left"
        world.run(accept=True)
        world.run()
        assert rows_of(folder / FILE) == []


@pytest.mark.parametrize("sku", ["=1", "+1", "-1", "@1", "\t=1"])
def test_no_cell_is_a_formula(tmp_path: Path, sku: str) -> None:
    write_csv(tmp_path / "out.csv", [Difference(sku, sku, Decimal("-1.5"), 0, 3, 2)])
    (row,) = rows_of(tmp_path / "out.csv")
    assert (row["sku"], row["warehouse"], row["available_in_erp"]) == (f"'{sku}", f"'{sku}", "-1.5")


def test_a_file_that_breaks_off_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_csv(path, [Difference("A", "", Decimal(1), 0, 0, 1)])
    before = path.read_text()

    def broken() -> Iterator[Difference]:
        yield Difference("B", "", Decimal(1), 0, 0, 1)
        raise OSError(28, "no space left")

    with pytest.raises(OSError, match="no space"):
        write_csv(path, broken())
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_line_says_where_and_a_file_that_cannot_be_written_stops_no_stock(
    embedded: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def command(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["erp-sync", "run", "stock", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out + said.err

    embedded.put(UPPER, QATU=3)
    assert command("--dry-run", "--csv", str(tmp_path / "d.csv"))[0] == 0
    assert [row["sku"] for row in rows_of(tmp_path / "d.csv")] == [UPPER]
    code, said = command("--csv", str(tmp_path / "nowhere" / "d.csv"))
    assert code == 2
    assert "d.csv cannot be written" in said
    assert embedded.shown(UPPER) == [3]
