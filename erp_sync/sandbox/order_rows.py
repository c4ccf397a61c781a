"""A live order's rows, and what every routine of the ERP does to them (contracts/protheus-rest.md, 6.2 and 6.3)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal

from erp_sync.sandbox.clock import Clock
from erp_sync.sandbox.config import SandboxConfig, Switches
from erp_sync.sandbox.dictionary import next_code
from erp_sync.sandbox.refusals import Refusal
from erp_sync.sandbox.store import JournalEntry, Row, Store, money

ELIMINATED = "R"
"""C6_BLQ of an item whose open quantity was given up."""
NO_INVOICE = "X" * 9
"""C5_NOTA of an order whose residue was eliminated."""
INVOICED = "10"
"""C9_BLCRED and C9_BLEST of a release that was invoiced."""


@dataclass(frozen=True, slots=True)
class OrderRows:
    """As they stood when they were read. Nothing here changes with the tables."""

    header: Row
    items: tuple[Row, ...]
    releases: tuple[Row, ...]
    """Live SC9 rows, by item and C9_SEQUEN."""

    @property
    def branch(self) -> str:
        return str(self.header["C5_FILIAL"])

    @property
    def number(self) -> str:
        return str(self.header["C5_NUM"])

    @property
    def pending(self) -> tuple[Row, ...]:
        """Released and not invoiced, blocked or not."""
        return tuple(row for row in self.releases if row["C9_BLCRED"] != INVOICED)

    @property
    def open_items(self) -> tuple[Row, ...]:
        return tuple(item for item in self.items if open_quantity(item))

    @property
    def partly_invoiced(self) -> bool:
        """Some or all of it."""
        return any(item["C6_QTDENT"] for item in self.items)

    @property
    def eliminated(self) -> bool:
        """Nothing is open, because the rest was given up."""
        return not self.open_items and any(map(given_up, self.items))

    def named(self, names: Collection[str]) -> tuple[Row, ...]:
        """These items. Refusal (404) where the order has no such item."""
        rows = {row["C6_ITEM"]: row for row in self.items}
        for name in names:
            if name not in rows:
                raise Refusal(f"o pedido {self.number} não tem o item {name}", status=404)
        return tuple(rows[name] for name in dict.fromkeys(names))

    def unreleased(self, item: Row) -> Decimal:
        """What of the item's open quantity no release holds."""
        held = sum((money(row["C9_QTDLIB"]) for row in self.pending if row["C9_ITEM"] == item["C6_ITEM"]), Decimal(0))
        return max(open_quantity(item) - held, Decimal(0))


class OrderTables:
    """Every change is a part of the caller's transaction."""

    def __init__(self, store: Store, config: SandboxConfig, clock: Clock) -> None:
        self._store = store
        self._config = config
        self._clock = clock

    def read(self, branch: str, number: str) -> OrderRows:
        """The branch is found without its trailing blanks. Refusal (404): there is no such live order."""
        known = self._config.branch_named(branch)
        header = None if known is None else self._store.find("SC5", C5_NUM=number.rstrip(), C5_FILIAL=known)
        if known is None or header is None:
            raise Refusal(f"não há pedido {number} na filial {branch}", status=404)
        items = self._store.rows("SC6", C6_NUM=header["C5_NUM"], C6_FILIAL=known)
        releases = self._store.rows("SC9", C9_PEDIDO=header["C5_NUM"], C9_FILIAL=known)
        releases.sort(key=lambda row: (row["C9_ITEM"], row["C9_SEQUEN"]))
        return OrderRows(header, tuple(items), tuple(releases))

    def release(
        self,
        order: OrderRows,
        item: Row,
        quantity: Decimal,
        *,
        credit: str = "",
        stock: str = "",
        on: str | None = None,
    ) -> None:
        """One more SC9 row. `on` None: of today."""
        [(last,)] = self._store.query(
            "SELECT max(C9_SEQUEN) FROM SC9 WHERE C9_PEDIDO = ? AND C9_FILIAL = ? AND C9_ITEM = ?",
            (order.number, order.branch, item["C6_ITEM"]),
        )
        row = {
            "C9_FILIAL": order.branch,
            "C9_PEDIDO": order.number,
            "C9_ITEM": item["C6_ITEM"],
            "C9_SEQUEN": next_code(last) if last else "01",
            "C9_PRODUTO": item["C6_PRODUTO"],
            "C9_CLIENTE": order.header["C5_CLIENTE"],
            "C9_LOJA": order.header["C5_LOJACLI"],
            "C9_QTDLIB": float(quantity),
            "C9_DATALIB": on or self.today(),
            "C9_BLCRED": credit,
            "C9_BLEST": stock,
        }
        self._store.insert("SC9", [row])
        self._store.update("SC5", order.header["R_E_C_N_O_"], C5_LIBEROK="S")

    def reverse(self, order: OrderRows, items: Sequence[Row]) -> None:
        """The releases of these items that are not invoiced are gone, and so is the mark of the order if it has no
        other."""
        names = {item["C6_ITEM"] for item in items}
        gone = [row for row in order.pending if row["C9_ITEM"] in names]
        for row in gone:
            self._store.delete("SC9", row["R_E_C_N_O_"])
        if gone:
            self.settle(order)
            if len(gone) == len(order.pending):
                self._store.update("SC5", order.header["R_E_C_N_O_"], C5_LIBEROK="")

    def settle(self, order: OrderRows) -> OrderRows:
        """C6_QTDEMP as the releases have it that nothing blocks; the order as it stands now."""
        now = self.read(order.branch, order.number)
        for item in now.items:
            free = sum((money(row["C9_QTDLIB"]) for row in now.pending if is_free(row, item)), Decimal(0))
            if money(item["C6_QTDEMP"]) != free:
                self._store.update("SC6", item["R_E_C_N_O_"], C6_QTDEMP=float(free))
                item["C6_QTDEMP"] = float(free)
        return now

    def eliminate(self, order: OrderRows, items: Sequence[Row], switches: Switches) -> None:
        """The open quantity of these items is given up, their releases with it; without any other the order is closed
        (7 and 15, doubt 4)."""
        self.reverse(order, items)
        for item in items:
            self._store.update("SC6", item["R_E_C_N_O_"], C6_BLQ=ELIMINATED)
        if self.read(order.branch, order.number).open_items:
            return
        record = order.header["R_E_C_N_O_"]
        last = self.last_invoice(order) if switches.residue_keeps_invoice else None
        if last is None:
            self._store.update("SC5", record, C5_NOTA=NO_INVOICE, C5_LIBEROK=switches.residue_flag)
        else:
            self._store.update("SC5", record, C5_NOTA=last[0], C5_SERIE=last[1], C5_LIBEROK=switches.residue_flag)

    def delete(self, order: OrderRows) -> None:
        """Logically, all of it, so that it can come back."""
        rows = {"SC6": order.items, "SC9": order.releases}
        records = {alias: [row["R_E_C_N_O_"] for row in found] for alias, found in rows.items()}
        self._store.delete_order(order.header["R_E_C_N_O_"], records)

    def invoice_lines(self, order: OrderRows) -> list[Row]:
        """Of every live invoice, the oldest first."""
        return self._store.rows("SD2", D2_PEDIDO=order.number, D2_FILIAL=order.branch)

    def last_invoice(self, order: OrderRows) -> tuple[str, str] | None:
        """Number and series."""
        lines = self.invoice_lines(order)
        return (lines[-1]["D2_DOC"], lines[-1]["D2_SERIE"]) if lines else None

    def journal(self, kind: str, branch: str, number: str, *, detail: str = "", external_id: str | None = None) -> None:
        """`external_id`: as it was received. None: as it is stored. The order is live."""
        [header] = self._store.rows("SC5", C5_NUM=number, C5_FILIAL=branch)
        stored = header[self._config.external_id_field]
        received = stored if external_id is None else external_id
        total, lines = self._store.order_total(branch, number)
        customer = f"{header['C5_CLIENTE']}/{header['C5_LOJACLI']}"
        self._store.write_journal(JournalEntry(kind, branch, number, received, stored, customer, total, lines, detail))

    def today(self) -> str:
        return f"{self._clock.local():%Y%m%d}"


def open_quantity(item: Row) -> Decimal:
    """Neither invoiced nor given up."""
    if item["C6_BLQ"] == ELIMINATED:
        return Decimal(0)
    return max(money(item["C6_QTDVEN"]) - money(item["C6_QTDENT"]), Decimal(0))


def given_up(item: Row) -> bool:
    """Some of it."""
    return item["C6_BLQ"] == ELIMINATED and money(item["C6_QTDENT"]) < money(item["C6_QTDVEN"])


def is_free(release: Row, item: Row) -> bool:
    """Of this item, and blocked by nothing."""
    return release["C9_ITEM"] == item["C6_ITEM"] and not release["C9_BLCRED"] and not release["C9_BLEST"]
