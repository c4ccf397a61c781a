"""The endpoint that cancels an order (contracts/protheus-rest.md, 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from erp_sync.sandbox.clock import Clock
from erp_sync.sandbox.config import SandboxConfig, Switches
from erp_sync.sandbox.order_rows import OrderRows, OrderTables
from erp_sync.sandbox.refusals import Refusal, log_of_routine
from erp_sync.sandbox.stock import Stock

_MODES = ("auto", "exclusao", "residuo")
_MESSAGES = {
    "exclusao": "Pedido excluído",
    "residuo": "Resíduo eliminado: o pedido não terá mais faturamento",
    "inexistente": "Pedido não existe",
}


@dataclass(frozen=True, slots=True)
class Cancelled:
    number: str
    situation: str
    form: str
    at: str

    def answer(self) -> dict[str, str]:
        return {
            "pedido": self.number,
            "situacao": self.situation,
            "forma": self.form,
            "canceladoEm": self.at,
            "mensagem": _MESSAGES[self.form],
        }


class Cancelling:
    def __init__(self, tables: OrderTables, stock: Stock, config: SandboxConfig, clock: Clock) -> None:
        self._tables = tables
        self._stock = stock
        self._config = config
        self._clock = clock

    def cancel(
        self, sent: Mapping[str, Any], branch: str, number: str, switches: Switches, *, write: bool
    ) -> Cancelled:
        """The contract's table of `modo` and state, in one commit. What is cancelled already is left as it is.

        With `write` False everything happens but the commit (Q21). Raises Refusal.
        """
        external_id, mode = self._checked(sent)
        if self._config.branch_named(branch) is None:
            raise Refusal("Filial não cadastrada", status=404)
        try:
            order = self._tables.read(branch, number)
        except Refusal:
            return self._cancelled(number, "cancelado", "inexistente")
        if order.header[self._config.external_id_field] != external_id.rstrip(" "):
            raise self._refusal("PEDIDO_DIVERGENTE", "O pedido tem outro número externo", order, switches)
        form = self._form(order, mode, switches)
        if write and not order.eliminated:
            self._carry_out(order, form, switches)
        return self._cancelled(number, "residuo" if order.partly_invoiced else "cancelado", form)

    def _form(self, order: OrderRows, mode: str, switches: Switches) -> str:
        if order.eliminated:
            return "residuo"
        if order.partly_invoiced and (mode == "exclusao" or not order.open_items):
            raise self._refusal("FATURADO", "O pedido já foi faturado", order, switches)
        if order.pending and mode == "exclusao":
            raise self._refusal("A410LIBER", "Pedido liberado, não pode ser excluído", order, switches)
        return "residuo" if order.partly_invoiced or mode == "residuo" else "exclusao"

    def _carry_out(self, order: OrderRows, form: str, switches: Switches) -> None:
        with self._stock.following(order.branch, order.number):
            if form == "residuo":
                self._tables.eliminate(order, order.open_items, switches)
            else:
                self._tables.reverse(order, order.items)
                order = self._tables.read(order.branch, order.number)
            self._tables.journal("order_cancelled", order.branch, order.number, detail=form)
            if form == "exclusao":
                self._tables.delete(order)

    def _checked(self, sent: Mapping[str, Any]) -> tuple[str, str]:
        """External id and `modo`. Refusal (400) about a body that is not as the contract has it."""
        field = self._config.external_id_field
        for name in (field, "motivo", "modo"):
            if not isinstance(sent.get(name, ""), str):
                raise Refusal(f"{name} deve ser um texto", status=400)
        external_id, mode = str(sent.get(field, "")), str(sent.get("modo", "")) or _MODES[0]
        if not external_id.strip():
            raise Refusal(f"{field} não informado", status=400)
        if mode not in _MODES:
            raise Refusal(f"modo := {mode}: use {', '.join(_MODES)}", status=400)
        return external_id, mode

    def _refusal(self, code: str, message: str, order: OrderRows, switches: Switches) -> Refusal:
        if switches.cancel_refusal == "ttalk":
            return Refusal(message, status=409, code=code, shape="E2")
        keys = ("C5_FILIAL", "C5_NUM", self._config.external_id_field)
        sent = [(name, order.header[name]) for name in keys]
        log = log_of_routine(code, message, table="SC5", at=self._clock.local(), sent=sent)
        status = 400 if switches.cancel_refusal == "legacy_400" else 500
        return Refusal(log.text, status=status, log=True, shape="E1")

    def _cancelled(self, number: str, situation: str, form: str) -> Cancelled:
        return Cancelled(number.rstrip(), situation, form, self._clock.local().isoformat(timespec="seconds"))
