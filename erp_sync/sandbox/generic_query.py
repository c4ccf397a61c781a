"""genericQuery: the standard read of any table (contracts/protheus-rest.md, 3)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from erp_sync.sandbox.config import Switches
from erp_sync.sandbox.dictionary import Column, Dictionary, Table
from erp_sync.sandbox.refusals import Refusal
from erp_sync.sandbox.store import Store, Value
from erp_sync.sandbox.where import Comparison, WhereError, parse_where

PARAMETERS = frozenset(
    {"tables", "fields", "where", "fromqry", "filialfilter", "deletedfilter", "order", "page", "pagesize"}
)
"""Their names are matched without case, in the query string and among the headers."""

_DEFAULT_PAGE_SIZE = 10
_MAX_PAGE_SIZE = 5000
_FIELD = re.compile(r"(?:(\w+)\.)?(\w+)", re.ASCII)
_SHAPES: dict[str, dict[bool, Any]] = {
    "boolean": {True: True, False: False},
    "number": {True: 1, False: 0},
    "text": {True: "true", False: "false"},
    "digit": {True: "1", False: "0"},
}


def run_generic_query(
    store: Store, switches: Switches, parameters: Mapping[str, str], branch: str, *, without: str = ""
) -> dict[str, Any]:
    """The answer's body. `without`: the number of an order whose rows are not seen. Raises Refusal (500) for whatever
    the database would not run."""
    if "fromqry" in parameters:
        raise _sql_error("FromQry is not available")
    query = _Query(store.dictionary, parameters)
    conditions, bound = query.filters(branch, switches)
    if without:
        numbers = query.numbers()
        conditions.extend(f"+{column.table}.{column.name} <> ?" for column in numbers)
        bound.extend(without.rstrip(" ") for _ in numbers)
    page = _count(parameters, "page", 1)
    size = min(_count(parameters, "pagesize", _DEFAULT_PAGE_SIZE), _MAX_PAGE_SIZE)
    source = f"FROM {', '.join(table.alias for table in query.tables)} WHERE {' AND '.join(conditions)}"
    names = ", ".join(f"{column.table}.{column.name}" for column in query.columns)

    def read(number: int) -> list[tuple[Any, ...]]:
        order = query.order(number, unstable=switches.unstable_order)
        limit = f"LIMIT {size + 1} OFFSET {(number - 1) * size}"
        return store.query(f"SELECT {names} {source} ORDER BY {order} {limit}", bound)

    rows = read(page)
    if not rows and page > 1 and switches.last_page_repeats_first:
        page, rows = 1, read(1)
    more = len(rows) > size
    total = int(store.query(f"SELECT count(*) {source}", bound)[0][0]) if more else 0
    protected = [column.name for column in query.columns if column.name in switches.protected_fields]
    levels = [column.name for column in query.columns if column.name in switches.level_fields]
    hidden = {*protected, *levels}
    visible = [(index, column) for index, column in enumerate(query.columns) if column.name not in hidden]
    return {
        "items": [
            {_key(column, switches): _shown(row[index], column, switches) for index, column in visible}
            for row in rows[:size]
        ],
        "hasNext": _SHAPES[switches.has_next][more],
        "remainingRecords": max(total - page * size, 0),
        "protectedDataFields": protected,
        "nivelFields": levels,
    }


def add_other_branch_row(answer: dict[str, Any], branches: Sequence[str]) -> None:
    """At its end, its first row again under another branch. Nothing where no field of a branch was asked for."""
    rows = answer["items"]
    names = [name for name in (rows[0] if rows else ()) if name.upper().endswith("_FILIAL")]
    if names:
        own = rows[0][names[0]]
        other = next((branch for branch in branches if branch.rstrip() != own.rstrip()), "Z" * len(branches[0]))
        rows.append({**rows[0], **dict.fromkeys(names, other.ljust(len(own)))})


class _Query:
    def __init__(self, dictionary: Dictionary, parameters: Mapping[str, str]) -> None:
        self._parameters = parameters
        self.tables: list[Table] = []
        for alias in (part.strip().upper() for part in parameters.get("tables", "").split(",")):
            table = dictionary.tables.get(alias)
            if table is None:
                raise _sql_error(f"invalid object name '{alias}'" if alias else "parameter tables is missing")
            if table in self.tables:
                raise _sql_error(f"the alias {alias} is there twice")
            self.tables.append(table)
        if not parameters.get("fields", "").strip():
            raise _sql_error("parameter fields is missing")
        self.columns = [self._column(part) for part in parameters["fields"].split(",")]

    def filters(self, branch: str, switches: Switches) -> tuple[list[str], list[Value]]:
        # A unary plus keeps SQLite from choosing a filter that nearly every row passes over an index that finds a few.
        conditions = ["1"]
        bound: list[Value] = []
        if _flag(self._parameters, "filialfilter") and not switches.all_branches:
            for table in self.tables:
                conditions.append(f"+{table.alias}.{table.branch_column} = ?")
                bound.append("" if table.shared else branch)
        if _flag(self._parameters, "deletedfilter"):
            conditions.extend(f"+{table.alias}.D_E_L_E_T_ = ''" for table in self.tables)
        where = self._parameters.get("where", "").strip()
        if where:
            comparison = Comparison(padded=switches.padded_comparison, caseless=switches.caseless_comparison)
            try:
                condition, values = parse_where(where, self.resolve, comparison)
            except WhereError as error:
                raise _sql_error(str(error)) from None
            conditions.append(condition)
            bound.extend(values)
        return conditions, bound

    def numbers(self) -> list[Column]:
        """The columns that hold an order's number."""
        return [
            column
            for table in self.tables
            for column in table.columns.values()
            if column.name.endswith(("_NUM", "_PEDIDO"))
        ]

    def order(self, page: int, *, unstable: bool) -> str:
        """Without `order`, the first table's first index. Where rows of equal rank follow in no promised order
        (Q11), each page has its own."""
        terms = []
        unique = False
        for term in filter(None, (part.strip() for part in self._parameters.get("order", "").split(","))):
            name, _, direction = term.partition(" ")
            if direction.strip().upper() not in ("", "ASC", "DESC"):
                raise _sql_error(f"incorrect syntax near '{direction.strip()}' in order")
            column = self._column(name)
            unique |= column.name == "R_E_C_N_O_"
            terms.append(f"+{column.table}.{column.name} {direction.strip().upper()}")
        if not terms:
            terms = [f"+{self.tables[0].alias}.{name}" for name in self.tables[0].key]
        if unstable and not unique:
            # A different permutation of the record numbers on every page.
            records = "+".join(f"{table.alias}.R_E_C_N_O_" for table in self.tables)
            return ", ".join([*terms, f"(({records}) * 7919 * (2 * {page} + 1)) % 10007"])
        return ", ".join([*terms, *(f"+{table.alias}.R_E_C_N_O_" for table in self.tables)])

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


def _shown(value: Any, column: Column, switches: Switches) -> Any:
    if column.kind == "N":
        number = int(value) if value == int(value) else value
        return str(number) if switches.numbers_as_text else number
    return value if switches.trimmed_values else value.ljust(column.width)


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
