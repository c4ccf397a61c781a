"""The ERP's database: its tables in SQLite, and the journal of what was committed.

CHAR values are kept without their padding, dates as YYYYMMDD, numbers as doubles, as the ERP itself has them.
One connection, used from the server's one thread: a commit is one synchronous call, so nothing comes between.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from erp_sync.sandbox.dictionary import Dictionary, Table, next_code

Value = str | float | int
Row = dict[str, Any]

_INDEXED = (
    ("SC5", "C5_NUM"),
    ("SC6", "C6_NUM"),
    ("SC6", "C6_PRODUTO"),
    ("SC9", "C9_PEDIDO"),
    ("SD2", "D2_PEDIDO"),
    ("SD2", "D2_DOC"),
    ("SF2", "F2_DOC"),
    ("SF2", "F2_EMISSAO"),
    ("GW1", "GW1_NRDC"),
    ("GWU", "GWU_NRDC"),
    ("SA1", "A1_CGC"),
    ("SA1", "A1_COD"),
    ("SB1", "B1_COD"),
    ("SB2", "B2_COD", "B2_LOCAL"),
    ("SE4", "E4_CODIGO"),
    ("SA4", "A4_COD"),
)
_UNIQUE = ("SB2",)
"""Tables whose live rows are told apart by their key."""
_OWN_TABLES = """
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, last TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, kind TEXT NOT NULL, branch TEXT NOT NULL,
    number TEXT NOT NULL, external_id TEXT NOT NULL, stored_external_id TEXT NOT NULL, customer TEXT NOT NULL,
    total TEXT NOT NULL, lines INTEGER NOT NULL, detail TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS arrival (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, endpoint TEXT NOT NULL, external_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS deleted_with_order (
    header INTEGER NOT NULL, alias TEXT NOT NULL, record INTEGER NOT NULL, PRIMARY KEY (header, alias, record));
"""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One committed change. For a customer `external_id` is the A1_CGC, and `number` its code and store; for stock
    `number` is the product, and `detail` the warehouse."""

    kind: str
    branch: str
    number: str
    external_id: str
    """As it was received."""
    stored_external_id: str
    customer: str
    """Code and store, `000731/01`."""
    total: Decimal
    """sum(C6_VALOR) + C5_FRETE + C5_SEGURO + C5_DESPESA - C5_DESCONT, as it stands in the tables."""
    lines: int
    detail: str = ""
    """What the kind alone does not say, such as the invoice, `000000007/1`."""


class Store:
    """Raises ValueError where the file was written by a site with another dictionary."""

    def __init__(self, dictionary: Dictionary, external_id_field: str, path: Path | None) -> None:
        self.dictionary = dictionary
        self._external_id_field = external_id_field
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False, timeout=10)
        # WAL with NORMAL keeps every commit through a kill of this process; only a power failure may take the last.
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_OWN_TABLES)
        signature = self.counter("dictionary", dictionary.signature)
        if signature != dictionary.signature:
            raise ValueError(f"{path} belongs to an ERP with other fields or widths: start with the same ones, or anew")
        with self.transaction():
            for table in dictionary.tables.values():
                self._create(table)
            for alias, *columns in (*_INDEXED, ("SC5", external_id_field)):
                names = ", ".join(columns)
                self._db.execute(f"CREATE INDEX IF NOT EXISTS {alias}_{columns[0]} ON {alias} ({names})")
            for alias in _UNIQUE:
                key = _key(dictionary.tables[alias])
                self._db.execute(f"CREATE UNIQUE INDEX IF NOT EXISTS {alias}_key ON {alias} {key}")
        self.indexed = frozenset({"R_E_C_N_O_", external_id_field, *(columns[0] for _, *columns in _INDEXED)})
        """The fields by which rows are found, or walked through, without looking at the others."""
        self._inserts = {alias: _insert_statement(table) for alias, table in dictionary.tables.items()}

    def _create(self, table: Table) -> None:
        kinds = {"N": "REAL NOT NULL DEFAULT 0", "C": "TEXT NOT NULL DEFAULT ''", "D": "TEXT NOT NULL DEFAULT ''"}
        columns = ", ".join(f"{column.name} {kinds[column.kind]}" for column in table.columns.values())
        self._db.execute(
            f"CREATE TABLE IF NOT EXISTS {table.alias} (R_E_C_N_O_ INTEGER PRIMARY KEY AUTOINCREMENT, {columns}, "
            "D_E_L_E_T_ TEXT NOT NULL DEFAULT '')"
        )

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One commit; inside another one, a part of it."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def query(self, sql: str, parameters: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        return self._db.execute(sql, parameters).fetchall()

    def run(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        """How many rows it changed."""
        return self._db.execute(sql, parameters).rowcount

    def find(self, alias: str, **equal: str) -> Row | None:
        """The oldest live row with these values."""
        return next(iter(self.rows(alias, **equal)), None)

    def rows(self, alias: str, **equal: str) -> list[Row]:
        """All live rows with these values, the oldest first."""
        names = (*self.dictionary.tables[alias].columns, "R_E_C_N_O_")
        condition = "".join(f" AND {name} = ?" for name in equal)
        found = self.query(
            f"SELECT {', '.join(names)} FROM {alias} WHERE D_E_L_E_T_ = ''{condition} ORDER BY R_E_C_N_O_",
            tuple(equal.values()),
        )
        return [dict(zip(names, row, strict=True)) for row in found]

    def insert(self, alias: str, rows: Iterable[Mapping[str, Value]]) -> None:
        """Fields that a row does not have are blank or zero."""
        table = self.dictionary.tables[alias]
        blank = {column.name: 0.0 if column.kind == "N" else "" for column in table.columns.values()}
        self._db.executemany(self._inserts[alias], ({**blank, **row} for row in rows))

    def put(self, alias: str, names: Sequence[str], rows: Iterable[Sequence[Value]]) -> None:
        """These fields of rows, those of the key among them: of the live row with that key, or of a new one. Only of
        the tables whose keys are unique."""
        table = self.dictionary.tables[alias]
        changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in table.key)
        self._db.executemany(
            f"INSERT INTO {alias} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "
            f"ON CONFLICT {_key(table)} DO {f'UPDATE SET {changes}' if changes else 'NOTHING'}",
            rows,
        )

    def last_record(self, alias: str) -> int:
        """The R_E_C_N_O_ of its newest row, deleted or not; 0 before the first."""
        return int(self.query(f"SELECT max(R_E_C_N_O_) FROM {alias}")[0][0] or 0)

    def update(self, alias: str, record: int, **values: Value) -> None:
        names = ", ".join(f"{name} = ?" for name in values)
        self._db.execute(f"UPDATE {alias} SET {names} WHERE R_E_C_N_O_ = ?", (*values.values(), record))

    def delete(self, alias: str, record: int) -> None:
        """Logically, as the ERP does: the row stays, marked."""
        self.update(alias, record, D_E_L_E_T_="*")

    def delete_order(self, header: int, rows: Mapping[str, Iterable[int]]) -> None:
        """An order's row of SC5 and the other tables' rows that go with it, by alias."""
        records = [("SC5", header), *((alias, record) for alias, found in rows.items() for record in found)]
        for alias, record in records:
            self.delete(alias, record)
            self._db.execute("INSERT INTO deleted_with_order VALUES (?, ?, ?)", (header, alias, record))

    def restore_order(self, header: int) -> None:
        """What went with this row of SC5, and nothing that was deleted before it."""
        for alias, record in self.query("SELECT alias, record FROM deleted_with_order WHERE header = ?", (header,)):
            self.update(alias, record, D_E_L_E_T_="")
        self._db.execute("DELETE FROM deleted_with_order WHERE header = ?", (header,))

    def counter(self, name: str, first: str) -> str:
        """Where a numbering stands; `first` if it was never used."""
        self._db.execute("INSERT OR IGNORE INTO counter VALUES (?, ?)", (name, first))
        return str(self.query("SELECT last FROM counter WHERE name = ?", (name,))[0][0])

    def take_number(self, name: str, first: str) -> str:
        """The next number, for good: whoever does not use it leaves a gap."""
        number = self.counter(name, first)
        self._db.execute("UPDATE counter SET last = ? WHERE name = ?", (next_code(number), name))
        return number

    def order_total(self, branch: str, number: str) -> tuple[Decimal, int]:
        """What the ERP makes of an order, and its live lines."""
        [header] = self.rows("SC5", C5_FILIAL=branch, C5_NUM=number)
        items = self.rows("SC6", C6_FILIAL=branch, C6_NUM=number)
        added = sum((money(header[name]) for name in ("C5_FRETE", "C5_SEGURO", "C5_DESPESA")), Decimal(0))
        goods = sum((money(item["C6_VALOR"]) for item in items), Decimal(0))
        return goods + added - money(header["C5_DESCONT"]), len(items)

    def write_journal(self, entry: JournalEntry) -> None:
        self._db.execute(
            "INSERT INTO journal (at, kind, branch, number, external_id, stored_external_id, customer, total, lines, "
            "detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                machine_time(),
                entry.kind,
                entry.branch,
                entry.number,
                entry.external_id,
                entry.stored_external_id,
                entry.customer,
                str(entry.total),
                entry.lines,
                entry.detail,
            ),
        )

    def journal(self, after: int, limit: int) -> list[Row]:
        return self._log("journal", after, limit)

    def write_arrival(self, endpoint: str, external_id: str) -> None:
        self._db.execute(
            "INSERT INTO arrival (at, endpoint, external_id) VALUES (?, ?, ?)", (machine_time(), endpoint, external_id)
        )

    def arrivals(self, after: int, limit: int) -> list[Row]:
        return self._log("arrival", after, limit)

    def _log(self, table: str, after: int, limit: int) -> list[Row]:
        cursor = self._db.execute(f"SELECT * FROM {table} WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
        names = [description[0] for description in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def counts(self) -> dict[str, int]:
        """Live and deleted orders, live customers, and what should never be there: external ids with more than one
        live order, A1_CGCs with more than one customer code."""
        field = self._external_id_field
        statements = {
            "orders": "SELECT count(*) FROM SC5 WHERE D_E_L_E_T_ = ''",
            "deleted_orders": "SELECT count(*) FROM SC5 WHERE D_E_L_E_T_ = '*'",
            "customers": "SELECT count(*) FROM SA1 WHERE D_E_L_E_T_ = ''",
            "products": "SELECT count(*) FROM SB1 WHERE D_E_L_E_T_ = ''",
            "external_ids_twice": f"SELECT count(*) FROM (SELECT 1 FROM SC5 WHERE D_E_L_E_T_ = '' AND {field} <> '' "
            f"GROUP BY {field} HAVING count(*) > 1)",
            "tax_ids_twice": "SELECT count(*) FROM (SELECT 1 FROM SA1 WHERE D_E_L_E_T_ = '' AND A1_CGC <> '' "
            "GROUP BY A1_CGC HAVING count(DISTINCT A1_COD) > 1)",
        }
        return {name: int(self.query(statement)[0][0]) for name, statement in statements.items()}


def money(stored: float) -> Decimal:
    """A double of the tables as the two decimals that it stands for."""
    return Decimal(repr(stored)).quantize(Decimal("0.01"))


def machine_time() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _key(table: Table) -> str:
    """Of the index that keeps live rows apart."""
    return f"({', '.join(table.key)}) WHERE D_E_L_E_T_ = ''"


def _insert_statement(table: Table) -> str:
    names = list(table.columns)
    return f"INSERT INTO {table.alias} ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"
