"""The retail module's read of stock balances: retailStockLevel (contracts/protheus-rest.md, 9.1, Q7 to Q9)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from starlette.convertors import Convertor, register_url_convertor

from erp_sync.sandbox.config import SandboxConfig, Switches
from erp_sync.sandbox.dictionary import Column
from erp_sync.sandbox.generic_query import has_next, shown
from erp_sync.sandbox.read_faults import ReadFault
from erp_sync.sandbox.refusals import Refusal
from erp_sync.sandbox.store import Store, Value

PATH = "/api/retail/v1/{resource:retail_stock_level}"

_COMPANY = "companyId"
_TAGS = {
    "branchId": "B2_FILIAL",
    "iteminternalId": "B2_COD",
    "warehouseinternalid": "B2_LOCAL",
    "currentstockamount": "B2_QATU",
    "bookedstockamount": "B2_RESERVA",
    "futurestockamount": "B2_SALPEDI",
    "valueofcurrentstockamount": "B2_VATU1",
}
_OWN = ("page", "pagesize", "order", "fields")
_DEFAULT_PAGE_SIZE = 10
_NUMBER = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,6})?")

Parameters = Sequence[tuple[str, str]]
"""The query string's names and values."""


class _AnyCase(Convertor[str]):
    """The resource's name, however it is written."""

    regex = "(?i:retailStockLevel)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("retail_stock_level", _AnyCase())


def run_retail_stock(
    store: Store, config: SandboxConfig, switches: Switches, parameters: Parameters, fault: ReadFault
) -> dict[str, Any]:
    """The answer's body: a list, or a bare object where the answer has one row (Q8). Rows of every branch.

    Raises Refusal: 404 for no rows, and for a tag that there is not; 500 for a value that is no SQL.
    """
    query = _Query(store, config, switches, parameters, without=fault.without)
    page = fault.page(query.page)
    rows = query.read(page)
    if not rows and page > 1 and switches.last_page_repeats_first:
        page, rows = 1, query.read(1)
    if not rows:
        raise Refusal(f"Nenhum registro encontrado: {query.text(page)}", status=404)
    items = [query.item(row, zeros=fault.zeros) for row in rows[: query.size]]
    fault.distort(items, config.branches)
    if len(items) == 1:
        return items[0]
    return {"hasNext": has_next(len(rows) > query.size, switches), "items": items}


def retail_page_has_product(
    store: Store, config: SandboxConfig, switches: Switches, parameters: Parameters, product: str
) -> bool:
    """Whether this read would give a row of this product. Raises Refusal as `run_retail_stock` does."""
    query = _Query(store, config, switches, parameters)
    place = query.names.index("B2_COD")
    return any(row[place] == product.rstrip(" ") for row in query.read(query.page)[: query.size])


class _Query:
    def __init__(
        self, store: Store, config: SandboxConfig, switches: Switches, parameters: Parameters, *, without: str = ""
    ) -> None:
        self._store = store
        self._config = config
        self._switches = switches
        self._columns = store.dictionary.tables["SB2"].columns
        self.names = tuple(_TAGS.values())
        own = {name.lower(): value for name, value in parameters if name.lower() in _OWN}
        self.page = _count(own.get("page", "1"))
        self.size = _count(own.get("pagesize", str(_DEFAULT_PAGE_SIZE)))
        self._fields = {part.strip().lower() for part in own.get("fields", "").split(",") if part.strip()}
        ranks = [self._rank(part.strip()) for part in own.get("order", "").split(",") if part.strip()]
        self._sorted = bool(ranks)
        self._ranks = ranks or [(name, "") for name in store.dictionary.tables["SB2"].key]
        self._without = without
        self._conditions: list[tuple[str, Value]] = []
        """Fields, and what they are equal to."""
        self._empty = False
        for name, value in parameters:
            if name.lower() not in _OWN:
                self._filter(name, value)

    def read(self, page: int) -> list[tuple[Any, ...]]:
        """Its rows, and one more if there is a next page."""
        if self._empty:
            return []
        where = "".join(f" AND {name}{self._case(name)} = ?" for name, _ in self._conditions)
        if self._without:
            where += " AND B2_COD <> ?"
        # The plus keeps SQLite from the index of live rows by their key where another order is asked for.
        plus = "+" if self._sorted else ""
        limit = f"LIMIT {self.size + 1} OFFSET {(page - 1) * self.size}"
        order = ", ".join([*(f"{name}{self._case(name)} {direction}" for name, direction in self._ranks), "R_E_C_N_O_"])
        return self._store.query(
            f"SELECT {', '.join(self.names)} FROM SB2 WHERE {plus}D_E_L_E_T_ = ''{where} ORDER BY {order} {limit}",
            [*(value for _, value in self._conditions), *([self._without] if self._without else [])],
        )

    def item(self, row: tuple[Any, ...], *, zeros: bool) -> dict[str, Any]:
        item: dict[str, Any] = {_COMPANY: self._config.company}
        for (tag, name), value in zip(_TAGS.items(), row, strict=True):
            column = self._columns[name]
            item[tag] = shown(0 if zeros and column.kind == "N" else value, column, self._switches)
        return {tag: value for tag, value in item.items() if not self._fields or tag.lower() in self._fields}

    def text(self, page: int) -> str:
        """As the ERP's database would run it: what its 404 tells everyone (Q7)."""
        where = "".join(f" AND {name} = {_literal(value)}" for name, value in self._conditions)
        order = ", ".join(f"{name} {direction}".rstrip() for name, direction in self._ranks)
        return (
            f"SELECT {', '.join(self.names)} FROM SB2{self._config.company}0 SB2 WHERE SB2.D_E_L_E_T_ = ' '{where} "
            f"ORDER BY {order} OFFSET {(page - 1) * self.size} ROWS FETCH NEXT {self.size + 1} ROWS ONLY"
        )

    def _rank(self, term: str) -> tuple[str, str]:
        return self._named(term.removeprefix("-"), "Order"), "DESC" if term.startswith("-") else ""

    def _case(self, name: str) -> str:
        return " COLLATE NOCASE" if self._switches.caseless_comparison and self._columns[name].kind != "N" else ""

    def _filter(self, tag: str, value: str) -> None:
        if "'" in value:
            # The value is put into the SQL as it is.
            raise Refusal(f"Erro na execucao da consulta: incorrect syntax near '{value}'", status=500)
        if tag.lower() == _COMPANY.lower():
            self._empty |= value.rstrip() != self._config.company
            return
        name = self._named(tag, "Filter")
        self._conditions.append((name, self._typed(self._columns[name], value)))

    def _typed(self, column: Column, value: str) -> Value:
        if column.kind != "N":
            return value.rstrip(" ")
        if not _NUMBER.fullmatch(value):
            raise Refusal(f"Erro na execucao da consulta: incorrect syntax near '{value}'", status=500)
        return float(value)

    def _named(self, tag: str, where: str) -> str:
        """Refusal (404): there is no such tag (Q9)."""
        found = next((name for own, name in _TAGS.items() if own.lower() == tag.lower()), None)
        if found is None:
            raise Refusal(f"{where}: a propriedade {tag} não existe", status=404)
        return found


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,6}", text.strip()):
        raise Refusal(f"Page, PageSize: {text} não é um número válido", status=404)
    return int(text)


def _literal(value: Value) -> str:
    return f"'{value}'" if isinstance(value, str) else f"{value:g}"
