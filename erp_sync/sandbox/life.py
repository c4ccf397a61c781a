"""What users and jobs of the ERP do to an order before and beside its invoices (contracts/protheus-rest.md, 6.3 and 7).

Each is one commit, with a line in the journal, and the stock follows (Q31). A Refusal changes nothing: 404 where there
is no such order or item, 409 where its state does not allow it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal

from erp_sync.sandbox.config import SandboxConfig, Switches
from erp_sync.sandbox.order_rows import OrderTables, open_quantity
from erp_sync.sandbox.refusals import Refusal
from erp_sync.sandbox.stock import Stock
from erp_sync.sandbox.store import Row, Store, money

_CENT = Decimal("0.01")


class OrderLife:
    """`items` None: all of the order."""

    def __init__(self, store: Store, tables: OrderTables, stock: Stock, config: SandboxConfig) -> None:
        self._store = store
        self._tables = tables
        self._stock = stock
        self._config = config

    def release(
        self,
        branch: str,
        number: str,
        *,
        credit: str,
        stock: str,
        items: Sequence[str] | None,
        quantities: Mapping[str, Decimal] | None,
    ) -> None:
        """SC9 rows under these block codes for the open quantity that no release holds yet, or for less of it where
        `quantities` names an item; `quantities` alone releases the items that it names."""
        order = self._tables.read(branch, number)
        if items is None and quantities is not None:
            items = list(quantities)
        wanted = []
        for item in order.items if items is None else order.named(items):
            left = order.unreleased(item)
            quantity = (quantities or {}).get(item["C6_ITEM"], left)
            if quantity > left:
                raise Refusal(f"item {item['C6_ITEM']}: só há {left} a liberar", status=409)
            if quantity:
                wanted.append((item, quantity))
        if not wanted:
            raise Refusal(f"o pedido {number} não tem nada a liberar", status=409)
        with self._stock.following(order.branch, order.number):
            for item, quantity in wanted:
                self._tables.release(order, item, quantity, credit=credit, stock=stock)
            self._tables.settle(order)
            kind = "order_blocked" if credit or stock else "order_released"
            self._tables.journal(kind, order.branch, order.number)

    def block(
        self, branch: str, number: str, *, credit: str | None, stock: str | None, items: Sequence[str] | None
    ) -> None:
        """These block codes on the releases that are not invoiced; None: that code stays as it is."""
        order = self._tables.read(branch, number)
        names = {item["C6_ITEM"] for item in (order.items if items is None else order.named(items))}
        rows = [row for row in order.pending if row["C9_ITEM"] in names]
        if not rows:
            raise Refusal(f"o pedido {number} não tem liberação a alterar", status=409)
        given = {name: code for name, code in (("C9_BLCRED", credit), ("C9_BLEST", stock)) if code is not None}
        with self._stock.following(order.branch, order.number):
            for row in rows:
                self._store.update("SC9", row["R_E_C_N_O_"], **given)
            self._tables.settle(order)
            kind = "order_blocked" if any(given.values()) else "order_unblocked"
            self._tables.journal(kind, order.branch, order.number)

    def reverse(self, branch: str, number: str) -> None:
        """The releases that are not invoiced are taken back."""
        order = self._tables.read(branch, number)
        if not order.pending:
            raise Refusal(f"o pedido {number} não tem liberação a estornar", status=409)
        with self._stock.following(order.branch, order.number):
            self._tables.reverse(order, order.items)
            self._tables.journal("release_reversed", order.branch, order.number)

    def change(
        self,
        branch: str,
        number: str,
        *,
        items: Mapping[str, tuple[Decimal | None, Decimal | None]],
        removed: set[str],
        rule: str | None,
        tracking: str | None,
    ) -> None:
        """Quantity and price of items (None: as it is), items taken out, C5_BLQ and C5_RASTR, without any notice (Q29).

        An item that is changed loses its release (7). One that is invoiced already cannot be taken out, nor become less
        than that.
        """
        order = self._tables.read(branch, number)
        touched = order.named(sorted(set(items) | removed))
        new = {row["C6_ITEM"]: _changed(row, *items[row["C6_ITEM"]]) for row in touched if row["C6_ITEM"] in items}
        for row in touched:
            least = Decimal(0) if row["C6_ITEM"] in removed else money(new[row["C6_ITEM"]]["C6_QTDVEN"])
            if least < money(row["C6_QTDENT"]):
                raise Refusal(f"item {row['C6_ITEM']}: {row['C6_QTDENT']:g} já faturados", status=409)
        given = {name: text for name, text in (("C5_BLQ", rule), ("C5_RASTR", tracking)) if text is not None}
        for name, text in given.items():
            width = self._store.dictionary.tables["SC5"].columns[name].width
            if len(text) > width:
                raise Refusal(f"{name} = {text!r}: must have at most {width} characters", status=422)
        with self._stock.following(order.branch, order.number):
            self._tables.reverse(order, touched)
            for row in touched:
                if row["C6_ITEM"] in new:
                    self._store.update("SC6", row["R_E_C_N_O_"], **new[row["C6_ITEM"]])
                if row["C6_ITEM"] in removed:
                    self._store.delete("SC6", row["R_E_C_N_O_"])
            if given:
                plain = {name: text.rstrip(" ") for name, text in given.items()}
                self._store.update("SC5", order.header["R_E_C_N_O_"], **plain)
            self._tables.journal("order_changed", order.branch, order.number)

    def eliminate(self, branch: str, number: str, *, items: Sequence[str] | None, switches: Switches) -> None:
        """The residue: what is open of these items is given up (Q26)."""
        order = self._tables.read(branch, number)
        chosen = order.open_items if items is None else order.named(items)
        done = next((item for item in chosen if not open_quantity(item)), None)
        if done or not chosen:
            what = f"item {done['C6_ITEM']}" if done else f"pedido {number}"
            raise Refusal(f"{what}: não há resíduo a eliminar", status=409)
        with self._stock.following(order.branch, order.number):
            self._tables.eliminate(order, chosen, switches)
            self._tables.journal("order_residue", order.branch, order.number)

    def delete(self, branch: str, number: str) -> None:
        """The order's rows are marked, its releases' too, and vanish from reads (Q25). One that is invoiced stays until
        its invoices are cancelled."""
        order = self._tables.read(branch, number)
        if order.partly_invoiced:
            raise Refusal(f"o pedido {number} está faturado: cancele as notas antes de o excluir", status=409)
        with self._stock.following(order.branch, order.number):
            self._tables.journal("order_deleted", order.branch, order.number)
            self._tables.delete(order)

    def restore(self, branch: str, number: str) -> None:
        """A deleted order is back as it was."""
        known = self._config.branch_named(branch)
        found = self._store.query(
            "SELECT R_E_C_N_O_, D_E_L_E_T_ FROM SC5 WHERE C5_NUM = ? AND C5_FILIAL = ?",
            (number.rstrip(), "" if known is None else known),
        )
        if known is None or not found:
            raise Refusal(f"não há pedido {number} na filial {branch}", status=404)
        [(record, deleted)] = found
        if not deleted:
            raise Refusal(f"o pedido {number} não está excluído", status=409)
        with self._stock.following(known, number.rstrip()):
            self._store.restore_order(record)
            self._tables.journal("order_restored", known, number.rstrip())


def _changed(row: Row, quantity: Decimal | None, price: Decimal | None) -> dict[str, float]:
    sold = money(row["C6_QTDVEN"]) if quantity is None else quantity
    each = money(row["C6_PRCVEN"]) if price is None else price
    value = (sold * each).quantize(_CENT, ROUND_HALF_UP)
    return {"C6_QTDVEN": float(sold), "C6_PRCVEN": float(each), "C6_VALOR": float(value)}
