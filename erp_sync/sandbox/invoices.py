"""An order's invoices: how billing writes, and fiscal users cancel them (contracts/protheus-rest.md, 6.2 to 6.4).

Each is one commit, with a line in the journal. A Refusal changes nothing: 404 where there is no such live order, item
or invoice, 409 where its state does not allow it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from erp_sync.sandbox.clock import Clock
from erp_sync.sandbox.config import SandboxConfig, Switches
from erp_sync.sandbox.dictionary import next_code
from erp_sync.sandbox.nfe_key import nfe_key
from erp_sync.sandbox.order_rows import INVOICED, NO_INVOICE, OrderRows, OrderTables, given_up, is_free, open_quantity
from erp_sync.sandbox.refusals import Refusal
from erp_sync.sandbox.stock import Stock
from erp_sync.sandbox.store import Row, Store, Value, money

_CENT = Decimal("0.01")
_FIRST = "000000001"
_KIND = "NFS"
_ON_ITS_WAY, _ARRIVED = "3", "5"
_ADDED = ("C5_FRETE", "C5_SEGURO", "C5_DESPESA")


@dataclass(frozen=True, slots=True)
class WrittenInvoice:
    doc: str
    series: str
    key: str
    total: Decimal

    def answer(self) -> dict[str, str]:
        return {"doc": self.doc, "serie": self.series, "chvnfe": self.key, "valor": str(self.total)}


class Invoices:
    def __init__(self, store: Store, tables: OrderTables, stock: Stock, config: SandboxConfig, clock: Clock) -> None:
        self._store = store
        self._tables = tables
        self._stock = stock
        self._config = config
        self._clock = clock

    def write(
        self,
        branch: str,
        number: str,
        *,
        quantities: Mapping[str, Decimal] | None,
        key: bool | str,
        series: str,
        release: bool,
        switches: Switches,
    ) -> WrittenInvoice:
        """Of these quantities; None: of all that is open. With `release`, what no release holds is released first.

        Only a release that nothing blocks is invoiced. `key` True: a valid one; False: SEFAZ has not answered yet.
        """
        order = self._tables.read(branch, number)
        wanted = _wanted(order, quantities)
        with self._stock.following(order.branch, order.number):
            if release:
                order = self._release_missing(order, wanted)
            doc = self._store.take_number(f"SF2 {order.branch} {series}", _FIRST)
            before = self._tables.invoice_lines(order)
            lines = [line for item, quantity in wanted for line in self._lines(order, item, quantity, doc, series)]
            place = "00"
            for line in lines:
                line["D2_ITEM"] = place = next_code(place)
            total = self._total(order, before, lines)
            text = self._key(order.branch, self._tables.today(), series, doc) if key is True else key or ""
            self._store.insert("SD2", lines)
            self._store.insert(
                "SF2", [{**self._header(order, doc, series), "F2_VALBRUT": float(total), "F2_CHVNFE": text}]
            )
            self._write_freight(order, doc, series, switches)
            for item, quantity in wanted:
                self._store.update(
                    "SC6",
                    item["R_E_C_N_O_"],
                    C6_QTDENT=float(money(item["C6_QTDENT"]) + quantity),
                    C6_NOTA=doc,
                    C6_SERIE=series,
                    C6_DATFAT=self._tables.today(),
                )
            closed = not self._tables.settle(order).open_items
            if closed or switches.part_invoice_fills_header:
                self._store.update("SC5", order.header["R_E_C_N_O_"], C5_NOTA=doc, C5_SERIE=series)
            if closed:
                self._store.update("SC5", order.header["R_E_C_N_O_"], C5_LIBEROK=switches.closed_flag)
            self._tables.journal("order_invoiced", order.branch, order.number, detail=f"{doc}/{series}")
        return WrittenInvoice(doc, series, text, total)

    def authorize(self, branch: str, series: str, doc: str, key: str | None) -> None:
        """SEFAZ has answered: F2_CHVNFE. None: a valid one."""
        header, lines = self._read(branch, series, doc)
        if key is None:
            key = self._key(header["F2_FILIAL"], header["F2_EMISSAO"], header["F2_SERIE"], header["F2_DOC"])
        with self._store.transaction():
            self._store.update("SF2", header["R_E_C_N_O_"], F2_CHVNFE=key)
            self._journal("invoice_key", header, lines)

    def deliver(
        self, branch: str, series: str, doc: str, *, on: str | None, at: str | None, where: Collection[str]
    ) -> None:
        """The customer has it: in F2_DTENTR (`f2_dtentr`), in every leg of the freight module (`gfe`), or in both.
        `on`, `at` None: today, now."""
        header, lines = self._read(branch, series, doc)
        day = on or self._tables.today()
        with self._store.transaction():
            if "f2_dtentr" in where:
                self._store.update("SF2", header["R_E_C_N_O_"], F2_DTENTR=day)
            if "gfe" in where:
                time = at or f"{self._clock.local():%H:%M}"
                for leg in self._freight("GWU", header):
                    self._store.update("GWU", leg["R_E_C_N_O_"], GWU_DTENT=day, GWU_HRENT=time)
                for document in self._freight("GW1", header):
                    self._store.update("GW1", document["R_E_C_N_O_"], GW1_SIT=_ARRIVED)
            self._journal("invoice_delivered", header, lines)

    def cancel(self, branch: str, series: str, doc: str, switches: Switches) -> None:
        """The invoice's rows vanish (Q25), and its order goes where the site's routine sends it (15, doubt 5). An item
        whose rest was given up stays so, and its release is gone."""
        header, lines = self._read(branch, series, doc)
        order = self._tables.read(header["F2_FILIAL"], lines[0]["D2_PEDIDO"])
        with self._stock.following(order.branch, order.number):
            self._store.delete("SF2", header["R_E_C_N_O_"])
            for alias, rows in (
                ("SD2", lines),
                ("GW1", self._freight("GW1", header)),
                ("GWU", self._freight("GWU", header)),
            ):
                for row in rows:
                    self._store.delete(alias, row["R_E_C_N_O_"])
            self._take_back(order, lines)
            self._reopen(order, header, switches)
            self._set_header(self._tables.settle(order), switches)
            self._journal("invoice_cancelled", header, lines)

    def _release_missing(self, order: OrderRows, wanted: list[tuple[Row, Decimal]]) -> OrderRows:
        for item, quantity in wanted:
            free = sum((money(row["C9_QTDLIB"]) for row in order.pending if is_free(row, item)), Decimal(0))
            missing = min(quantity - free, order.unreleased(item))
            if missing > 0:
                self._tables.release(order, item, missing)
        return self._tables.read(order.branch, order.number)

    def _lines(self, order: OrderRows, item: Row, quantity: Decimal, doc: str, series: str) -> list[dict[str, Value]]:
        """An SD2 line of each release that goes into the invoice; of the last one the rest stays, as a release of its
        own (Q27)."""
        lines: list[dict[str, Value]] = []
        done = money(item["C6_QTDENT"])
        end = done + quantity
        for row in (row for row in order.pending if is_free(row, item)):
            held = money(row["C9_QTDLIB"])
            part = min(held, end - done)
            if not part:
                break
            if part < held:
                self._tables.release(order, item, held - part, on=row["C9_DATALIB"])
            self._store.update(
                "SC9",
                row["R_E_C_N_O_"],
                C9_QTDLIB=float(part),
                C9_BLCRED=INVOICED,
                C9_BLEST=INVOICED,
                C9_NFISCAL=doc,
                C9_SERIENF=series,
            )
            lines.append(
                {
                    "D2_FILIAL": order.branch,
                    "D2_DOC": doc,
                    "D2_SERIE": series,
                    "D2_CLIENTE": order.header["C5_CLIENTE"],
                    "D2_LOJA": order.header["C5_LOJACLI"],
                    "D2_COD": item["C6_PRODUTO"],
                    "D2_QUANT": float(part),
                    "D2_PRCVEN": item["C6_PRCVEN"],
                    "D2_TOTAL": float(_value(item, done + part) - _value(item, done)),
                    "D2_EMISSAO": self._tables.today(),
                    "D2_PEDIDO": order.number,
                    "D2_ITEMPV": item["C6_ITEM"],
                }
            )
            done += part
        if done < end:
            raise Refusal(f"item {item['C6_ITEM']}: faltam {end - done} liberados sem bloqueio", status=409)
        return lines

    def _total(self, order: OrderRows, before: list[Row], lines: list[dict[str, Value]]) -> Decimal:
        """The goods and their share of what the order's header adds: all invoices together make the order's total."""
        goods = _sum(lines)
        sold = sum((money(item["C6_VALOR"]) for item in order.items), Decimal(0))
        added = sum((money(order.header[name]) for name in _ADDED), -money(order.header["C5_DESCONT"]))
        invoiced = min(_sum(before) + goods, sold)
        share = (added * invoiced / sold).quantize(_CENT, ROUND_HALF_UP) if sold else added
        older = {(line["D2_DOC"], line["D2_SERIE"]): None for line in before}
        charged = sum(
            (money(self._header_row(order.branch, series, doc)["F2_VALBRUT"]) for doc, series in older), -_sum(before)
        )
        return goods + share - charged

    def _header(self, order: OrderRows, doc: str, series: str) -> dict[str, Value]:
        return {
            "F2_FILIAL": order.branch,
            "F2_DOC": doc,
            "F2_SERIE": series,
            "F2_CLIENTE": order.header["C5_CLIENTE"],
            "F2_LOJA": order.header["C5_LOJACLI"],
            "F2_EMISSAO": self._tables.today(),
            "F2_TIPO": "N",
        }

    def _write_freight(self, order: OrderRows, doc: str, series: str, switches: Switches) -> None:
        document = {
            "FILIAL": order.branch,
            "CDTPDC": _KIND,
            "EMISDC": self._config.cnpj(order.branch),
            "SERDC": series,
            "NRDC": doc,
        }
        named = {alias: {f"{alias}_{name}": value for name, value in document.items()} for alias in ("GW1", "GWU")}
        self._store.insert("GW1", [{**named["GW1"], "GW1_SIT": _ON_ITS_WAY}])
        self._store.insert(
            "GWU",
            (
                {**named["GWU"], "GWU_SEQ": f"{leg:02}", "GWU_CDTRP": order.header["C5_TRANSP"]}
                for leg in range(1, switches.gfe_legs + 1)
            ),
        )

    def _freight(self, alias: str, header: Row) -> list[Row]:
        return self._store.rows(
            alias,
            **{
                f"{alias}_NRDC": header["F2_DOC"],
                f"{alias}_SERDC": header["F2_SERIE"],
                f"{alias}_FILIAL": header["F2_FILIAL"],
            },
        )

    def _take_back(self, order: OrderRows, lines: list[Row]) -> None:
        left = self._tables.invoice_lines(order)
        for item in order.items:
            own = [line for line in lines if line["D2_ITEMPV"] == item["C6_ITEM"]]
            if not own:
                continue
            last = next((line for line in reversed(left) if line["D2_ITEMPV"] == item["C6_ITEM"]), None)
            self._store.update(
                "SC6",
                item["R_E_C_N_O_"],
                C6_QTDENT=float(money(item["C6_QTDENT"]) - sum(money(line["D2_QUANT"]) for line in own)),
                C6_NOTA=last["D2_DOC"] if last else "",
                C6_SERIE=last["D2_SERIE"] if last else "",
                C6_DATFAT=last["D2_EMISSAO"] if last else "",
            )

    def _reopen(self, order: OrderRows, header: Row, switches: Switches) -> None:
        items = {item["C6_ITEM"]: item for item in self._tables.read(order.branch, order.number).items}
        for row in order.releases:
            if (row["C9_NFISCAL"], row["C9_SERIENF"]) != (header["F2_DOC"], header["F2_SERIE"]):
                continue
            if switches.cancelled_invoice_reopens == "released" and not given_up(items[row["C9_ITEM"]]):
                self._store.update("SC9", row["R_E_C_N_O_"], C9_BLCRED="", C9_BLEST="", C9_NFISCAL="", C9_SERIENF="")
            else:
                self._store.delete("SC9", row["R_E_C_N_O_"])

    def _set_header(self, order: OrderRows, switches: Switches) -> None:
        """After an invoice was cancelled."""
        record = order.header["R_E_C_N_O_"]
        doc, series = self._tables.last_invoice(order) or ("", "")
        if order.eliminated:
            if order.header["C5_NOTA"] != NO_INVOICE:
                self._store.update("SC5", record, C5_NOTA=doc or NO_INVOICE, C5_SERIE=series)
            return
        if not switches.part_invoice_fills_header:
            doc, series = "", ""
        flag = "S" if order.pending else ""
        self._store.update("SC5", record, C5_NOTA=doc, C5_SERIE=series, C5_LIBEROK=flag)

    def _read(self, branch: str, series: str, doc: str) -> tuple[Row, list[Row]]:
        known = self._config.branch_named(branch) or ""
        header = self._header_row(known, series, doc)
        lines = self._store.rows("SD2", D2_DOC=header["F2_DOC"], D2_SERIE=header["F2_SERIE"], D2_FILIAL=known)
        return header, lines

    def _header_row(self, branch: str, series: str, doc: str) -> Row:
        header = self._store.find("SF2", F2_DOC=doc.rstrip(), F2_SERIE=series.rstrip(), F2_FILIAL=branch)
        if header is None:
            raise Refusal(f"não há nota {doc}/{series} na filial {branch}", status=404)
        return header

    def _key(self, branch: str, issued: str, series: str, doc: str) -> str:
        return nfe_key(self._config.cnpj(branch), issued, series, doc, self._config.seed)

    def _journal(self, kind: str, header: Row, lines: list[Row]) -> None:
        detail = f"{header['F2_DOC']}/{header['F2_SERIE']}"
        self._tables.journal(kind, header["F2_FILIAL"], lines[0]["D2_PEDIDO"], detail=detail)


def _wanted(order: OrderRows, quantities: Mapping[str, Decimal] | None) -> list[tuple[Row, Decimal]]:
    if quantities is None:
        wanted = [(item, open_quantity(item)) for item in order.open_items]
    else:
        wanted = [(item, quantities[item["C6_ITEM"]]) for item in order.named(quantities)]
    for item, quantity in wanted:
        if quantity > open_quantity(item):
            raise Refusal(f"item {item['C6_ITEM']}: só há {open_quantity(item)} a faturar", status=409)
    if not wanted:
        raise Refusal(f"o pedido {order.number} não tem nada a faturar", status=409)
    return wanted


def _value(item: Row, quantity: Decimal) -> Decimal:
    return (quantity * money(item["C6_PRCVEN"])).quantize(_CENT, ROUND_HALF_UP)


def _sum(lines: list[Row] | list[dict[str, Value]]) -> Decimal:
    return sum((money(float(line["D2_TOTAL"])) for line in lines), Decimal(0))
