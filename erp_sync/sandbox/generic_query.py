"""genericQuery: the standard read of any table (contracts/protheus-rest.md, 3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from erp_sync.sandbox.config import SandboxConfig, Switches
from erp_sync.sandbox.dictionary import Column, Table
from erp_sync.sandbox.read_faults import ReadFault
from erp_sync.sandbox.refusals import Refusal
from erp_sync.sandbox.store import Store, Value
from erp_sync.sandbox.where import Comparison, WhereError, parse_where

PARAMETERS = frozenset(
    {"tables", "fields", "where", "fromqry", "filialfilter", "deletedfilter", "order", "page", "pagesize"}
)
"""Their names are matched without case, in the query string and among the headers."""

_DEFAULT_PAGE_SIZE = 10
_MAX_PAGE_SIZE = 5000
_COUNTED = 10_000
"""remainingRecords says no more than this: counting the rest of a large table would take longer than the page."""
_RECORD = "R_E_C_N_O_"
_FIELD = re.compile(r"(?:(\w+)\.)?(\w+)", re.ASCII)
_SHAPES: dict[str, dict[bool, Any]] = {
    "boolean": {True: True, False: False},
    "number": {True: 1, False: 0},
    "text": {True: "true", False: "false"},
    "digit": {True: "1", False: "0"},
}


def run_generic_query(
    store: Store,
    config: SandboxConfig,
    switches: Switches,
    parameters: Mapping[str, str],
    branch: str,
    *,
    fault: ReadFault,
) -> dict[str, Any]:
    """The answer's body. Raises Refusal (500) for whatever the database would not run."""
    query = _Query(store, parameters, branch, switches, without=fault.without)
    page = fault.page(query.page)
    rows = query.read(page)
    if not rows and page > 1 and switches.last_page_repeats_first:
        page, rows = 1, query.read(1)
    more = len(rows) > query.size
    done = page * query.size
    protected = [column.name for column in query.columns if column.name in switches.protected_fields]
    levels = [column.name for column in query.columns if column.name in switches.level_fields]
    hidden = {*protected, *levels}
    visible = [(index, column) for index, column in enumerate(query.columns) if column.name not in hidden]
    zeros = {column.name for column in query.columns if column.kind == "N" and column.name != _RECORD and fault.zeros}
    items = [
        {
            _key(column, switches): shown(0 if column.name in zeros else row[index], column, switches)
            for index, column in visible
        }
        for row in rows[: query.size]
    ]
    fault.distort(items, config.branches)
    return {
        "items": items,
        "hasNext": has_next(more, switches),
        "remainingRecords": max(query.counted(done + _COUNTED) - done, 0) if more else 0,
        "protectedDataFields": protected,
        "nivelFields": levels,
    }


def reads_stock(parameters: Mapping[str, str]) -> bool:
    return "SB2" in _aliases(parameters)


def page_has_product(
    store: Store, switches: Switches, parameters: Mapping[str, str], branch: str, product: str
) -> bool:
    """Whether a read of SB2 would give a row of this product. Raises Refusal (500) as `run_generic_query` does."""
    query = _Query(store, {**parameters, "fields": "SB2.B2_COD"}, branch, switches)
    return any(code == product.rstrip(" ") for (code,) in query.read(query.page)[: query.size])


def has_next(more: bool, switches: Switches) -> Any:
    return _SHAPES[switches.has_next][more]


class _Query:
    def __init__(
        self, store: Store, parameters: Mapping[str, str], branch: str, switches: Switches, *, without: str = ""
    ) -> None:
        """`without`: the number of an order, or the code of a product, whose rows are not seen."""
        if "fromqry" in parameters:
            raise _sql_error("FromQry is not available")
        self._store = store
        self._parameters = parameters
        self._switches = switches
        self.tables: list[Table] = []
        for alias in _aliases(parameters):
            table = store.dictionary.tables.get(alias)
            if table is None or (alias == "SX3" and switches.dictionary_hidden):
                raise _sql_error(f"invalid object name '{alias}'" if alias else "parameter tables is missing")
            if table in self.tables:
                raise _sql_error(f"the alias {alias} is there twice")
            self.tables.append(table)
        if not parameters.get("fields", "").strip():
            raise _sql_error("parameter fields is missing")
        self.columns = [self._column(part) for part in parameters["fields"].split(",")]
        self.page = _count(parameters, "page", 1)
        self.size = min(_count(parameters, "pagesize", _DEFAULT_PAGE_SIZE), _MAX_PAGE_SIZE)
        self._asked: set[str] = set()
        conditions, self._bound = self._filters(branch)
        if without:
            conditions.extend(f"+{column.table}.{column.name} <> ?" for column in self._numbers())
            self._bound.extend(without for _ in self._numbers())
        self._source = f"FROM {', '.join(table.alias for table in self.tables)} WHERE {' AND '.join(conditions)}"

    def read(self, page: int) -> list[tuple[Any, ...]]:
        """Its rows, and one more if there is a next page."""
        names = ", ".join(f"{column.table}.{column.name}" for column in self.columns)
        limit = f"LIMIT {self.size + 1} OFFSET {(page - 1) * self.size}"
        return self._store.query(f"SELECT {names} {self._source} ORDER BY {self._order(page)} {limit}", self._bound)

    def counted(self, limit: int) -> int:
        """How many rows there are, counted up to `limit`."""
        counting = f"SELECT count(*) FROM (SELECT 1 {self._source} LIMIT {limit})"
        return int(self._store.query(counting, self._bound)[0][0])

    def _filters(self, branch: str) -> tuple[list[str], list[Value]]:
        # A unary plus keeps SQLite from choosing a filter that nearly every row passes over an index that finds a few.
        conditions = ["1"]
        bound: list[Value] = []
        if _flag(self._parameters, "filialfilter") and not self._switches.all_branches:
            for table in filter(lambda table: table.branch_column, self.tables):
                conditions.append(f"+{table.alias}.{table.branch_column} = ?")
                bound.append("" if table.shared else branch)
        if _flag(self._parameters, "deletedfilter"):
            conditions.extend(f"+{table.alias}.D_E_L_E_T_ = ''" for table in self.tables)
        where = self._parameters.get("where", "").strip()
        if where:
            switches = self._switches
            comparison = Comparison(padded=switches.padded_comparison, caseless=switches.caseless_comparison)
            try:
                condition, values = parse_where(where, self._asked_for, comparison)
            except WhereError as error:
                raise _sql_error(str(error)) from None
            conditions.append(condition)
            bound.extend(values)
        return conditions, bound

    def _numbers(self) -> list[Column]:
        """The columns that hold an order's number, and the product of a stock row."""
        return [
            column
            for table in self.tables
            for column in table.columns.values()
            if column.name.endswith(("_NUM", "_PEDIDO")) or column.name == "B2_COD"
        ]

    def _order(self, page: int) -> str:
        """Without `order`, the first table's first index. Where rows of equal rank follow in no promised order
        (Q11), each page has its own."""
        given = list(filter(None, (part.strip() for part in self._parameters.get("order", "").split(","))))
        ranks: list[tuple[Column, str]] = []
        for term in given:
            name, _, direction = term.partition(" ")
            if direction.strip().upper() not in ("", "ASC", "DESC"):
                raise _sql_error(f"incorrect syntax near '{direction.strip()}' in order")
            ranks.append((self._column(name), direction.strip().upper()))
        if not ranks:
            ranks = [(self.tables[0].columns[name], "") for name in self.tables[0].key]
        # Where a filter finds a few rows by an index, the unary plus keeps SQLite from walking through all of them by
        # another one because that is sorted already. Where it is the sorting index that finds them, or none does, the
        # walk ends with the page, however large the table is.
        plus = "" if self._is_walk(ranks[0][0]) else "+"
        collation = " COLLATE NOCASE" if self._switches.caseless_comparison else ""
        terms = [
            f"{plus}{column.table}.{column.name}{'' if column.kind == 'N' else collation} {direction}".rstrip()
            for column, direction in ranks
        ]
        if self._switches.unstable_order and not any(column.name == _RECORD for column, _ in ranks):
            # A different permutation of the record numbers on every page.
            records = "+".join(f"{table.alias}.{_RECORD}" for table in self.tables)
            return ", ".join([*terms, f"(({records}) * 7919 * (2 * {page} + 1)) % 10007"])
        return ", ".join([*terms, *(f"{plus}{table.alias}.{_RECORD}" for table in self.tables)])

    def _is_walk(self, first: Column) -> bool:
        """Rows of one table, sorted by a field that has an index, and found by no other one."""
        indexed = self._store.indexed
        return len(self.tables) == 1 and first.name in indexed and self._asked & indexed <= {first.name, _RECORD}

    def _asked_for(self, name: str, alias: str) -> Column:
        column = self.resolve(name, alias)
        self._asked.add(column.name)
        return column

    def resolve(self, name: str, alias: str) -> Column:
        found = [table.readable[name] for table in self.tables if name in table.readable and alias in ("", table.alias)]
        if not found:
            raise WhereError(f"invalid column name '{f'{alias}.' if alias else ''}{name}'")
        if len(found) > 1:
            raise WhereError(f"ambiguous column name '{name}'")
        return found[0]

    def _column(self, text: str) -> Column:
        match = _FIELD.fullmatch(text.strip().upper())
        if match is None:
            raise _sql_error(f"incorrect syntax near '{text.strip()}' in the list of fields")
        try:
            return self.resolve(match[2], match[1] or "")
        except WhereError as error:
            raise _sql_error(str(error)) from None


def shown(value: Any, column: Column, switches: Switches) -> Any:
    """As the answer has it: padded, and whole numbers without a point."""
    if column.kind == "N":
        number = int(value) if value == int(value) else value
        return str(number) if switches.numbers_as_text else number
    return value if switches.trimmed_values else value.ljust(column.width)


def _aliases(parameters: Mapping[str, str]) -> list[str]:
    return [part.strip().upper() for part in parameters.get("tables", "").split(",")]


def _key(column: Column, switches: Switches) -> str:
    return column.name if switches.upper_case_keys else column.name.lower()


def _flag(parameters: Mapping[str, str], name: str) -> bool:
    value = parameters.get(name, "true").strip().lower()
    if value not in ("true", "false"):
        raise _sql_error(f"{name} must be true or false")
    return value == "true"


def _count(parameters: Mapping[str, str], name: str, default: int) -> int:
    text = parameters.get(name, str(default)).strip()
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise _sql_error(f"{name} must be a whole number from 1")
    return int(text)


def _sql_error(text: str) -> Refusal:
    return Refusal(f"Erro na execucao da consulta: {text}", status=500)
