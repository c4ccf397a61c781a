"""Customers: what the custom endpoint and MATA030 behind it do (contracts/protheus-rest.md, 8.2 and 13)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from erp_sync.sandbox.check_digits import is_tax_id
from erp_sync.sandbox.clock import Clock
from erp_sync.sandbox.config import SandboxConfig, Switches
from erp_sync.sandbox.fields import Fields
from erp_sync.sandbox.refusals import Refusal
from erp_sync.sandbox.store import JournalEntry, Store

_READ_ONLY = frozenset({"A1_FILIAL"})


@dataclass(frozen=True, slots=True)
class RegisteredCustomer:
    code: str
    store: str

    def answer(self, *, existed: bool) -> dict[str, Any]:
        message = "Cliente já existia" if existed else "Cliente incluído"
        return {"codigo": self.code, "loja": self.store, "jaExistia": existed, "mensagem": message}


class Customers:
    def __init__(self, store: Store, config: SandboxConfig, clock: Clock) -> None:
        self._store = store
        self._required = config.required_customer_fields
        self._clock = clock
        self._table = store.dictionary.tables["SA1"]
        self._first_code = "1".zfill(self._table.columns["A1_COD"].width)
        self._first_store = "1".zfill(self._table.columns["A1_LOJA"].width)

    def subject(self, sent: Mapping[str, Any]) -> str:
        """The A1_CGC as it was sent, or ""."""
        value = sent.get("A1_CGC")
        return value if isinstance(value, str) else ""

    def existing(self, sent: Mapping[str, Any], _branch: str, _switches: Switches) -> RegisteredCustomer | None:
        """The endpoint's own look-up by A1_CGC; a request that names a code asks for a store of its own."""
        tax_id = self.subject(sent)
        if not tax_id or sent.get("A1_COD"):
            return None
        row = self._store.find("SA1", A1_CGC=tax_id)
        return RegisteredCustomer(row["A1_COD"], row["A1_LOJA"]) if row else None

    def create(
        self, sent: Mapping[str, Any], _branch: str, switches: Switches, *, write: bool = True
    ) -> RegisteredCustomer:
        """Without A1_COD: the next code, store 01. With A1_COD alone: that customer's next store. Branches share SA1.

        With `write` False everything happens but the commit (Q21). Raises Refusal.
        """
        fields = Fields(
            sent,
            self._table,
            settable=frozenset(self._table.columns) - _READ_ONLY,
            cut=frozenset(),
            switches=switches,
            at=self._clock.local(),
        )
        abroad = fields.text("A1_EST") == "EX"
        fields.require(*(name for name in self._required if not (abroad and name == "A1_CGC")))
        fields.one_of("A1_PESSOA", "FJ")
        fields.one_of("A1_TIPO", "FLRSX")
        fields.one_of("A1_MSBLQL", "12")
        self._check_tax_id(fields, switches)
        customer = self._numbered(fields)
        if write:
            self._write(fields, customer, "customer")
        return customer

    def seed(self, sent: Mapping[str, Any]) -> RegisteredCustomer:
        """A customer that was there before: the dictionary's checks only."""
        fields = Fields(
            sent,
            self._table,
            settable=frozenset(self._table.columns) - _READ_ONLY,
            cut=frozenset(),
            switches=Switches(),
            at=self._clock.local(),
        )
        customer = self._numbered(fields)
        self._write(fields, customer, "customer_seeded")
        return customer

    def block(self, code: str, store: str, *, blocked: bool) -> None:
        row = self._store.find("SA1", A1_COD=code, A1_LOJA=store)
        if row is None:
            raise Refusal(f"não há cliente {code}/{store}", status=404)
        self._store.update("SA1", row["R_E_C_N_O_"], A1_MSBLQL="1" if blocked else "2")

    def _numbered(self, fields: Fields) -> RegisteredCustomer:
        code, store = fields.text("A1_COD"), fields.text("A1_LOJA")
        if not code:
            code = self._store.take_number("SA1", self._first_code)
            while self._store.find("SA1", A1_COD=code):
                code = self._store.take_number("SA1", self._first_code)
            store = store or self._first_store
        elif not store:
            store = self._store.take_number(f"SA1 {code}", self._first_store)
            while self._store.find("SA1", A1_COD=code, A1_LOJA=store):
                store = self._store.take_number(f"SA1 {code}", self._first_store)
        if self._store.find("SA1", A1_COD=code, A1_LOJA=store):
            raise fields.refusal("JAGRAVADO", "Já existe registro com esta informação", "A1_COD")
        return RegisteredCustomer(code, store)

    def _check_tax_id(self, fields: Fields, switches: Switches) -> None:
        tax_id = fields.text("A1_CGC")
        if not tax_id:
            return
        if switches.legacy_tax_ids and not tax_id.isdigit():
            raise fields.refusal("CGC", "CNPJ/CPF deve conter somente números", "A1_CGC")
        if not is_tax_id(tax_id) or (len(tax_id) == 11) != (fields.text("A1_PESSOA") == "F"):
            raise fields.refusal("CGC", "CNPJ/CPF inválido", "A1_CGC")

    def _write(self, fields: Fields, customer: RegisteredCustomer, kind: str) -> None:
        values = {"A1_MSBLQL": "2", **fields.values, "A1_COD": customer.code, "A1_LOJA": customer.store}
        tax_id = fields.text("A1_CGC")
        name = f"{customer.code}/{customer.store}"
        entry = JournalEntry(kind, "", name, tax_id, tax_id, name, Decimal(0), 0)
        with self._store.transaction():
            self._store.insert("SA1", [values])
            self._store.write_journal(entry)
