"""Stock: the rows of SB2, what other channels do to them, and how orders move them (contracts/protheus-rest.md, 9.2,
9.3 and Q31).

Each change is one commit. A Refusal changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Any

from erp_sync.sandbox.config import SandboxConfig, Switches
from erp_sync.sandbox.refusals import Refusal
from erp_sync.sandbox.stock_held import COLUMNS, NOTHING, Held, Place, changes, held_by
from erp_sync.sandbox.store import JournalEntry, Row, Store, Value, money

_KEY = ("B2_FILIAL", "B2_COD", "B2_LOCAL")
_TAKEN = ("RESERVA", "QEMP", "QACLASS", "QEMPSA", "QEMPPRJ", "QTNP", "QEMPPRE", "QPEDVEN")
"""What F3 and the open orders leave nobody else to sell (9.3)."""
_MANY = 100
"""Rows of one call that still get a line each in the journal; a seeding of more gets one for all."""


@dataclass(frozen=True, slots=True)
class StockRow:
    """Figures by their SB2 name without `B2_`. Those that are not here stay as they are, or zero."""

    branch: str
    code: str
    warehouse: str
    figures: Mapping[str, Decimal]

    @property
    def place(self) -> Place:
        return self.branch, self.code, self.warehouse


class Stock:
    def __init__(self, store: Store, config: SandboxConfig, switches: Callable[[], Switches]) -> None:
        self._store = store
        self._config = config
        self._switches = switches
        self._figures = [name for name, column in store.dictionary.tables["SB2"].columns.items() if column.kind == "N"]

    def branch(self, text: str | None) -> str:
        """The first one where none is named. Refusal (404): there is no such branch."""
        known = self._config.branches[0] if text is None else self._config.branch_named(text)
        if known is None:
            raise Refusal(f"não há filial {text}", status=404)
        return known

    def put(self, rows: Sequence[StockRow]) -> int:
        """These figures, and how many of the rows are new. What live orders hold is in a new row from the start, where
        its figures say nothing else."""
        with self._store.transaction():
            last = self._store.last_record("SB2")
            for names, same in groupby(rows, key=lambda row: tuple(row.figures)):
                columns = (*_KEY, *(f"B2_{name}" for name in names))
                self._store.put("SB2", columns, ((*row.place, *map(float, row.figures.values())) for row in same))
            self._fill(last, {row.place: row.figures for row in rows})
            added = int(self._store.query("SELECT count(*) FROM SB2 WHERE R_E_C_N_O_ > ?", (last,))[0][0])
            if len(rows) > _MANY:
                self._journal(("", "", ""), f"{len(rows)} rows")
            else:
                for row in rows:
                    self._journal(row.place)
        return added

    def remove(self, place: Place) -> None:
        """The row vanishes (Q31), whatever orders hold of it."""
        with self._store.transaction():
            self._store.delete("SB2", self._row(place)["R_E_C_N_O_"])
            self._journal(place)

    def sell(self, place: Place, quantity: Decimal, *, force: bool) -> None:
        """Another channel sells. Refusal (409): F3 less the open orders does not have as much, and nobody forces it."""
        row = self._row(place)
        left = money(row["B2_QATU"]) - sum(money(row[f"B2_{name}"]) for name in _TAKEN)
        if left < quantity and not force:
            raise Refusal(f"produto {place[1]}, armazém {place[2]}: só há {left} disponíveis", status=409)
        self._add(row, place, -quantity)

    def receive(self, place: Place, quantity: Decimal) -> None:
        """Goods arrive. The first ones begin the row."""
        if self._found(place) is None:
            self.put([StockRow(*place, {"QATU": quantity})])
        else:
            self._add(self._row(place), place, quantity)

    def rows_of(self, code: str, **equal: str) -> list[dict[str, Any]]:
        return [self._view(row) for row in self._store.rows("SB2", B2_COD=code.rstrip(" "), **equal)]

    def page(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Live rows by record; that of the last one is the next `after`."""
        names = ("R_E_C_N_O_", *_KEY, *self._figures)
        found = self._store.query(
            f"SELECT {', '.join(names)} FROM SB2 WHERE R_E_C_N_O_ > ? AND D_E_L_E_T_ = '' ORDER BY R_E_C_N_O_ LIMIT ?",
            (after, limit),
        )
        return [self._view(dict(zip(names, row, strict=True))) for row in found]

    @property
    def last_record(self) -> int:
        return self._store.last_record("SB2")

    @contextmanager
    def following(self, branch: str, number: str) -> Iterator[None]:
        """One commit that changes an order, live before it, after it, or both: what the order holds of the stock moves
        along in SB2."""
        before = self._held_by_order(branch, number)
        with self._store.transaction():
            yield
            for place, change in changes(before, self._held_by_order(branch, number)).items():
                self._move(place, float(change.ordered), float(change.reserved), float(change.invoiced))

    def ordered(self, items: Iterable[Mapping[str, Value]]) -> None:
        """These items are new: a part of the commit that writes them."""
        # By place: the first move of a row that begins counts all items of its product.
        quantities: dict[Place, float] = {}
        for item in items:
            place = (str(item["C6_FILIAL"]), str(item["C6_PRODUTO"]), str(item["C6_LOCAL"]))
            quantities[place] = quantities.get(place, 0.0) + float(item["C6_QTDVEN"])
        for place, quantity in quantities.items():
            self._move(place, quantity, 0.0, 0.0)

    def _move(self, place: Place, ordered: float, reserved: float, invoiced: float) -> None:
        # Rounded: sums of doubles would drift away from the two decimals that they stand for.
        found = self._store.run(
            "UPDATE SB2 SET B2_QPEDVEN = round(B2_QPEDVEN + ?, 2), B2_RESERVA = round(B2_RESERVA + ?, 2), "
            "B2_QATU = round(B2_QATU - ?, 2) WHERE B2_FILIAL = ? AND B2_COD = ? AND B2_LOCAL = ? AND D_E_L_E_T_ = ''",
            (ordered, reserved, invoiced, *place),
        )
        if not found:
            self._begin(place, invoiced)

    def _begin(self, place: Place, invoiced: float) -> None:
        """A row that was not there, if this site's orders begin rows, and if it would have anything to say."""
        if not (self._switches().orders_create_stock_rows or self._store.find("SB2", B2_COD=place[1])):
            return
        branch, code, warehouse = place
        items = self._store.query(
            f"SELECT {COLUMNS} FROM SC6 WHERE C6_PRODUTO = ? AND C6_FILIAL = ? AND C6_LOCAL = ? AND D_E_L_E_T_ = ''",
            (code, branch, warehouse),
        )
        held = held_by(items).get(place, NOTHING)
        figures = (0.0 - invoiced, float(held.ordered), float(held.reserved))
        if any(figures):
            self._store.put("SB2", (*_KEY, "B2_QATU", "B2_QPEDVEN", "B2_RESERVA"), [(*place, *figures)])

    def _fill(self, last: int, given: Mapping[Place, Mapping[str, Decimal]]) -> None:
        """What live orders hold, in the rows after this record; figures that are given stay."""
        # CROSS JOIN keeps SQLite to this order of the tables: the few new rows, and the items of each.
        held = held_by(
            self._store.query(
                f"SELECT {COLUMNS} FROM SB2 CROSS JOIN SC6 ON C6_PRODUTO = B2_COD AND C6_FILIAL = B2_FILIAL "
                "AND C6_LOCAL = B2_LOCAL AND SC6.D_E_L_E_T_ = '' WHERE SB2.R_E_C_N_O_ > ?",
                (last,),
            )
        )
        for place, holding in held.items():
            own = {"QPEDVEN": holding.ordered, "RESERVA": holding.reserved}
            missing = {name: value for name, value in own.items() if value and name not in given.get(place, {})}
            if missing:
                columns = (*_KEY, *(f"B2_{name}" for name in missing))
                self._store.put("SB2", columns, [(*place, *map(float, missing.values()))])

    def _held_by_order(self, branch: str, number: str) -> dict[Place, Held]:
        return held_by(
            self._store.query(
                f"SELECT {COLUMNS} FROM SC6 WHERE C6_NUM = ? AND C6_FILIAL = ? AND D_E_L_E_T_ = ''", (number, branch)
            )
        )

    def _add(self, row: Row, place: Place, quantity: Decimal) -> None:
        with self._store.transaction():
            self._store.update("SB2", row["R_E_C_N_O_"], B2_QATU=float(money(row["B2_QATU"]) + quantity))
            self._journal(place)

    def _found(self, place: Place) -> Row | None:
        return self._store.find("SB2", **dict(zip(_KEY, place, strict=True)))

    def _row(self, place: Place) -> Row:
        row = self._found(place)
        if row is None:
            raise Refusal(f"não há saldo do produto {place[1]} no armazém {place[2]} da filial {place[0]}", status=404)
        return row

    def _view(self, row: Row) -> dict[str, Any]:
        return {
            "record": row["R_E_C_N_O_"],
            "branch": row["B2_FILIAL"],
            "code": row["B2_COD"],
            "warehouse": row["B2_LOCAL"],
            **{name.removeprefix("B2_"): row[name] for name in self._figures},
        }

    def _journal(self, place: Place, detail: str = "") -> None:
        branch, code, warehouse = place
        self._store.write_journal(
            JournalEntry("stock_changed", branch, code, "", "", "", Decimal(0), 0, detail or warehouse)
        )
