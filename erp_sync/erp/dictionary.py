"""How wide the ERP's fields really are: every site may change them (contracts/protheus-rest.md, 5.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from erp_sync.erp.client import ErpClient
from erp_sync.erp.generic_query import PATH, AtLeast, In, Query, batches
from erp_sync.errors import ErpUnavailable

_CAMPO = 10


@dataclass(frozen=True, slots=True)
class Field:
    kind: str
    """X3_TIPO: C, N, D, M, L."""
    width: int


def dictionary_fields(client: ErpClient, names: Sequence[str]) -> dict[str, Field]:
    """What the dictionary (SX3) has of these fields; one that it lacks is left out.

    Raises ErpUnavailable and Misconfigured: also where this site shows no dictionary.
    """
    found: dict[str, Field] = {}
    for batch in batches(names):
        parameters = [
            ("tables", "SX3"),
            ("fields", "X3_CAMPO,X3_TIPO,X3_TAMANHO"),
            ("where", In("X3_CAMPO", batch, _CAMPO).sql()),
            ("FilialFilter", "false"),
            ("page", "1"),
            ("pageSize", "200"),
        ]
        for row in _rows(client, parameters):
            try:
                field = Field(str(row["x3_tipo"]).strip(), int(str(row["x3_tamanho"])))
            except (KeyError, ValueError, TypeError):
                raise ErpUnavailable("genericQuery gave rows of SX3 without X3_TIPO or X3_TAMANHO") from None
            found[str(row.get("x3_campo", "")).strip().upper()] = field
    return found


def padded_width(client: ErpClient, table: str, field: str) -> int | None:
    """The width by the blanks that values come with. None: no value shows it."""
    key = f"{field.partition('_')[0]}_NUM"
    query = Query(table, (field,), (AtLeast(key, ""),), custom=(field, key))
    values = [str(row.get(field.lower(), "")) for row in _rows(client, query.parameters(1, (), 50))]
    widths = {len(value) for value in values}
    padded = any(value != value.rstrip() for value in values)
    return widths.pop() if len(widths) == 1 and padded else None


def _rows(client: ErpClient, parameters: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    items = client.get(PATH, parameters).fields().get("items")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ErpUnavailable("genericQuery answered without a list of items")
    return [{key.lower(): value for key, value in item.items()} for item in items]
