"""genericQuery, the generic read of every Protheus (contracts/protheus-rest.md, 3).

Its `where` is SQL text, so there is one builder: tables, fields and operators come from the lists below, values are
quoted by type, and what cannot be quoted is refused. What comes back is distrusted: a field that was dropped for lack
of a right, a row of another branch, or pages that overlap would all look like "not there", and an order that is
wrongly "not there" is created twice.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from erp_sync.erp.answers import Answer, word
from erp_sync.erp.client import ErpClient
from erp_sync.errors import ErpUnavailable, Misconfigured, OddRow
from erp_sync.scrub import excerpt

PATH = "/api/framework/v1/genericQuery"
BATCH = 60
"""Values of one IN list: what real clients send (contracts/protheus-rest.md, 3)."""
PAGE_SIZE = 1000
MAX_ROWS = 100_000
MAX_SECONDS = 240.0
"""For all pages of one query: longer than that no flow works at a stretch."""

RECORD = "R_E_C_N_O_"
DELETED = "D_E_L_E_T_"

TABLES: Mapping[str, frozenset[str]] = {
    "SC5": frozenset(
        {
            *("C5_NUM", "C5_CLIENTE", "C5_LOJACLI", "C5_FRETE", "C5_SEGURO", "C5_DESPESA", "C5_DESCONT"),
            *("C5_NOTA", "C5_LIBEROK", "C5_BLQ", "C5_EMISSAO"),
        }
    ),
    "SC6": frozenset({"C6_NUM", "C6_ITEM", "C6_VALOR", "C6_QTDVEN", "C6_QTDENT", "C6_QTDEMP", "C6_BLQ", "C6_NOTA"}),
    "SC9": frozenset({"C9_PEDIDO", "C9_BLCRED", "C9_BLEST"}),
    "SD2": frozenset({"D2_PEDIDO", "D2_DOC", "D2_SERIE", "D2_CLIENTE", "D2_LOJA", "D2_EMISSAO"}),
    "SF2": frozenset({"F2_DOC", "F2_SERIE", "F2_CLIENTE", "F2_LOJA", "F2_EMISSAO", "F2_CHVNFE", "F2_DTENTR"}),
    "GW1": frozenset({"GW1_NRDC", "GW1_SERDC", "GW1_EMISDC", "GW1_SIT"}),
    "GWU": frozenset({"GWU_NRDC", "GWU_SERDC", "GWU_EMISDC", "GWU_SEQ", "GWU_DTENT", "GWU_HRENT"}),
    "SB2": frozenset(
        {
            *("B2_COD", "B2_LOCAL", "B2_QATU", "B2_RESERVA", "B2_QPEDVEN", "B2_QEMP", "B2_QACLASS"),
            *("B2_QEMPSA", "B2_QEMPPRJ", "B2_QTNP", "B2_QEMPPRE"),
        }
    ),
    "SB1": frozenset({"B1_COD", "B1_MSBLQL"}),
    "SA1": frozenset({"A1_COD", "A1_LOJA", "A1_CGC", "A1_MSBLQL"}),
    "SE4": frozenset({"E4_CODIGO"}),
    "SA4": frozenset({"A4_COD"}),
}
"""What may be read. Fields of the customer's own (external id, tracking code) are added by `Query`."""

SHARED = frozenset({"SA1", "SB1", "SE4", "SA4"})
"""Tables that branches may share: the branch of a row is blank then, or the part that the branches have in common."""

MOST_WHOLE_DIGITS = 17
"""Of a figure: a numeric field holds 18 digits at most (N 18)."""

Row = Mapping[str, "str | Decimal"]
"""One row, its keys in upper case, its texts without trailing blanks."""


@dataclass(frozen=True, slots=True)
class In:
    """The field equals one of the values.

    `trimmed` compares with RTRIM, which is right whatever width the field really has, and slow where an index on the
    field is missed; otherwise each value is compared as it is and padded to `width`, for databases that compare to
    the last blank.
    """

    field: str
    values: Sequence[str]
    width: int = 0
    trimmed: bool = False

    def sql(self) -> str:
        name = f"RTRIM({self.field})" if self.trimmed else self.field
        texts = self.values if self.trimmed else [form for value in self.values for form in self._forms(value)]
        literals = [literal(text) for text in dict.fromkeys(texts)]
        return f"{name}={literals[0]}" if len(literals) == 1 else f"{name} IN ({','.join(literals)})"

    def _forms(self, value: str) -> tuple[str, ...]:
        return (value, value.ljust(self.width)) if len(value) < self.width else (value,)


@dataclass(frozen=True, slots=True)
class AtLeast:
    """The field is this value or comes after it, as the database orders."""

    field: str
    value: str

    @property
    def values(self) -> Sequence[str]:
        return (self.value,)

    def sql(self) -> str:
        return f"{self.field}>={literal(self.value)}"


@dataclass(frozen=True, slots=True)
class Query:
    """Fields of one table where all conditions hold. Raises ValueError for names that are not allowed, and for
    values that hold control characters."""

    table: str
    fields: tuple[str, ...]
    where: tuple[In | AtLeast, ...]
    deleted: bool = False
    """Deleted rows too; `is_deleted` tells them."""
    custom: tuple[str, ...] = ()
    """Fields of the customer's own, from the settings."""

    def __post_init__(self) -> None:
        allowed = TABLES[self.table] | set(filter(_is_name, self.custom))
        for name in [*self.fields, *(condition.field for condition in self.where)]:
            if name not in allowed:
                raise ValueError(f"{self.table}.{name} is not among the fields that may be read")
        if not self.where or not all(condition.values for condition in self.where):
            raise ValueError(f"{self.table}: a query without values would read the whole table")

    @property
    def branch_field(self) -> str:
        return f"{self.fields[0].partition('_')[0]}_FILIAL"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.branch_field, *self.fields, *([DELETED] if self.deleted else []), RECORD)

    def parameters(self, page: int, order: Sequence[str] = (), size: int = PAGE_SIZE) -> list[tuple[str, str]]:
        """Rows of equal rank in `order` follow in that of their creation."""
        return [
            ("tables", self.table),
            ("fields", ",".join(self.columns)),
            ("where", " AND ".join(condition.sql() for condition in self.where)),
            *([("DeletedFilter", "false")] if self.deleted else []),
            ("order", ",".join([*order, RECORD])),
            ("page", str(page)),
            ("pageSize", str(size)),
        ]


def literal(value: str) -> str:
    """A SQL text literal. Raises ValueError for control characters: they are refused, never dropped."""
    if not is_plain(value):
        raise ValueError(f"{value!r} holds characters that cannot be asked for")
    return "'" + value.replace("'", "''") + "'"


def is_plain(text: str) -> bool:
    """Without characters that control something. A blank of another width, which isprintable refuses, is none."""
    return text.isprintable() or all(char.isprintable() or unicodedata.category(char) == "Zs" for char in text)


def storable(text: str) -> str:
    """A code of the ERP, what controls something in it replaced: it must fit a database and a query."""
    return text if is_plain(text) else "".join(char if is_plain(char) else "\ufffd" for char in text)


def batches(values: Sequence[str], size: int = BATCH) -> Iterator[Sequence[str]]:
    distinct = list(dict.fromkeys(values))
    for start in range(0, len(distinct), size):
        yield distinct[start : start + size]


def is_deleted(row: Row) -> bool:
    return row[DELETED] == "*"


def text(row: Row, field: str) -> str:
    value = row[field]
    return value if isinstance(value, str) else format(value, "f")


def number(row: Row, field: str) -> Decimal:
    """A numeric field, which some answers hold as text. Raises OddRow where it is no number."""
    value = row[field]
    try:
        figure = value if isinstance(value, Decimal) else Decimal(value.strip() or "0")
    except InvalidOperation:
        figure = Decimal("NaN")
    if not figure.is_finite() or figure.adjusted() > MOST_WHOLE_DIGITS:
        raise OddRow(f"the ERP's {field} is no number: {excerpt(text(row, field), 40)!r}")
    return figure


def day(row: Row, field: str) -> date | None:
    """A date field (YYYYMMDD). None: it is empty. Raises OddRow where it is no date."""
    value = text(row, field)
    if not value:
        return None
    try:
        if len(value) != 8 or not (value.isascii() and value.isdigit()):
            raise ValueError  # strptime takes 2026112 for 2 November
        return datetime.strptime(value, "%Y%m%d").date()  # noqa: DTZ007 - a day has no zone
    except ValueError:
        raise OddRow(f"the ERP's {field} is no date: {excerpt(value, 40)!r}") from None


class GenericQuery:
    """Reads through one client, for the branch of its tenant alone."""

    def __init__(self, client: ErpClient) -> None:
        self._client = client
        self._branch = client.tenant.partition(",")[2].rstrip()
        self.erp_time: datetime | None = None
        """The ERP's own clock at the latest answer. None: it does not say."""

    def rows(self, query: Query) -> list[Row]:
        """All of them, in the order of their creation.

        Raises ErpUnavailable, also for pages that do not fit together; Misconfigured naming the field that the user
        may not read, or ERP_SYNC_ERP_TENANT where rows of another branch come back.
        """
        rows: list[Row] = []
        seen: set[str] = set()
        give_up = time.monotonic() + MAX_SECONDS
        page = 1
        while True:
            answer = self._client.get(PATH, query.parameters(page))
            self.erp_time = answer.date
            fresh = self._page(query, answer)
            records = {text(row, RECORD) for row in fresh}
            more = has_next(answer)
            if more is None and records <= seen:
                return rows
            if len(records) < len(fresh) or records & seen:
                raise ErpUnavailable(
                    f"genericQuery gave a row of {query.table} twice (page {page}): its pages overlap or start over, "
                    "so rows may be missing"
                )
            seen |= records
            rows += fresh
            if more is False or (not fresh and page > 1):
                return rows
            if not fresh:
                raise ErpUnavailable(f"genericQuery gave an empty first page of {query.table} and says there is more")
            if len(rows) > MAX_ROWS:
                raise ErpUnavailable(f"genericQuery gave more than {MAX_ROWS} rows of {query.table}")
            if time.monotonic() >= give_up:
                raise ErpUnavailable(
                    f"genericQuery gave no end of {query.table} in {MAX_SECONDS:.0f} s (page {page} was the last)"
                )
            page += 1

    def page(self, query: Query, *, order: Sequence[str], size: int) -> tuple[list[Row], bool]:
        """The first `size` rows in this order, and whether there are more. Raises as `rows` does.

        Where the answer does not say, a full page means that there are.
        """
        answer = self._client.get(PATH, query.parameters(1, order, size))
        rows = self._page(query, answer)
        more = has_next(answer)
        return rows, len(rows) >= size if more is None else more

    def _page(self, query: Query, answer: Answer) -> list[Row]:
        fields = answer.fields()
        items = fields.get("items")
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ErpUnavailable("genericQuery answered without a list of items")
        for notice in ("protecteddatafields", "nivelfields"):
            dropped = fields.get(notice)
            for name in dropped if isinstance(dropped, list) else []:
                if word(name).upper().rpartition(".")[2] in query.columns:
                    raise _no_right(word(name).upper())
        columns, branch_field = query.columns, query.branch_field
        return [self._row(query.table, columns, branch_field, item) for item in items]

    def _row(self, table: str, columns: Sequence[str], branch_field: str, item: Mapping[str, Any]) -> Row:
        given = {key.upper(): value for key, value in item.items()}
        row: dict[str, str | Decimal] = {}
        for name in columns:
            value = given.get(name)
            if value is None:
                raise _no_right(name)
            row[name] = Decimal(value) if isinstance(value, int) else value
            if isinstance(value, str):
                row[name] = storable(value.rstrip())
            elif not isinstance(value, int | Decimal):
                raise OddRow(f"genericQuery gave a {name} that is neither text nor number")
        branch = text(row, branch_field)
        shared = table in SHARED and self._branch.startswith(branch)
        if branch != self._branch and not shared:
            raise Misconfigured(
                f"ERP_SYNC_ERP_TENANT = {self._client.tenant!r}: the ERP answers with {branch_field} = "
                f"{branch!r}; correct the tenant, or have the REST service honour the tenantId header"
            )
        return row


def _is_name(name: str) -> bool:
    return name.isascii() and name.isidentifier()


def _no_right(field: str) -> Misconfigured:
    return Misconfigured(
        f"the ERP leaves {field} out of its answers: give the user of ERP_SYNC_ERP_USER the right to read it "
        "(protected personal data, field level), or correct the field's name"
    )


def has_next(answer: Answer) -> bool | None:
    """Whether there are more pages, in all its shapes (contracts/protheus-rest.md, 2). None: it does not say."""
    fields = answer.fields()
    value = fields.get("hasnext")
    if value is None:
        remaining = fields.get("remainingrecords")
        return remaining > 0 if isinstance(remaining, int) else None
    return word(value).lower() in ("true", "1")
