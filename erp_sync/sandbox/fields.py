"""What a request's fields may be: the dictionary's checks that stand before every automatic routine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from erp_sync.sandbox.config import Switches
from erp_sync.sandbox.dictionary import Column, Table
from erp_sync.sandbox.refusals import Refusal, log_of_routine
from erp_sync.sandbox.store import Value


class Fields:
    """One record of a request: its known fields, typed as the dictionary has them, and the refusals about them.

    Text goes through CP1252, as AdvPL's strings do: what it does not hold becomes `?`. Numbers are rounded half up to
    the field's decimals. A field that is not there, empty or null is blank or zero.
    """

    def __init__(
        self,
        sent: Mapping[str, Any],
        table: Table,
        *,
        settable: frozenset[str],
        cut: frozenset[str],
        switches: Switches,
        at: datetime,
        item: int | None = None,
    ) -> None:
        self._sent = sent
        self._table = table
        self._at = at
        self._item = item
        self.values: dict[str, Value] = {}
        for name, value in sent.items():
            if name not in table.columns:
                raise self.refusal("CAMPO", "Campo não existe no dicionário de dados", name)
            if name not in settable:
                raise self.refusal("VISUAL", "Campo não pode ser informado, é preenchido pelo sistema", name)
            self.values[name] = self._typed(
                table.columns[name], value, cut=name in cut or switches.wide_fields == "cut"
            )

    def text(self, name: str) -> str:
        return str(self.values.get(name, ""))

    def number(self, name: str) -> Decimal:
        return Decimal(repr(self.values.get(name, 0.0)))

    def require(self, *names: str) -> None:
        """A number counts as filled in when it is there, zero or not."""
        for name in names:
            if self.values.get(name, "") == "":
                raise self.refusal("OBRIGAT", "Um ou alguns campos obrigatórios não foram preenchidos", name)

    def one_of(self, name: str, allowed: str) -> None:
        if self.text(name) and self.text(name) not in allowed:
            raise self.refusal("NVALID", "Conteúdo inválido para o campo", name)

    def refusal(self, help_code: str, message: str, wrong: str = "") -> Refusal:
        sent = {name: value for name, value in self._sent.items() if not isinstance(value, list | dict)}
        if wrong:
            sent.setdefault(wrong, "")
        return log_of_routine(
            help_code, message, table=self._table.alias, at=self._at, sent=sent.items(), wrong=wrong, item=self._item
        )

    def _typed(self, column: Column, value: Any, *, cut: bool) -> Value:
        if column.kind == "N":
            return self._numeric(column, value)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.refusal("TIPO", "Tipo de dado inválido para o campo", column.name)
        text = value.encode("cp1252", "replace").decode("cp1252").rstrip(" ")
        if column.kind == "D":
            if text and not is_date(text):
                raise self.refusal("DATA", "Data inválida", column.name)
            return text
        if len(text) > column.width:
            if not cut:
                raise self.refusal("TAMANHO", f"Conteúdo maior que o campo ({column.width})", column.name)
            text = text[: column.width].rstrip(" ")
        return text

    def _numeric(self, column: Column, value: Any) -> float:
        if value is None:
            return 0.0
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise self.refusal("TIPO", "Tipo de dado inválido para o campo", column.name)
        number = Decimal(value).quantize(Decimal(1).scaleb(-column.decimals), ROUND_HALF_UP)
        if number < 0:
            raise self.refusal("POSIT", "O valor deve ser positivo", column.name)
        if len(f"{number:f}") > column.width:
            raise self.refusal("TAMANHO", f"Valor maior que o campo ({column.width},{column.decimals})", column.name)
        return float(number)


def is_date(text: str) -> bool:
    """YYYYMMDD, of a day that there is."""
    if not re.fullmatch(r"[0-9]{8}", text):
        return False
    try:
        date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return False
    return True
