"""What the admin side shows of an order: its rows, under the ERP's own names."""

from __future__ import annotations

from typing import Any

from erp_sync.sandbox.config import SandboxConfig
from erp_sync.sandbox.refusals import Refusal
from erp_sync.sandbox.store import Row, Store

_HEADER = ("C5_LIBEROK", "C5_NOTA", "C5_SERIE", "C5_BLQ", "C5_RASTR")
_ITEM = (
    *("C6_ITEM", "C6_PRODUTO", "C6_QTDVEN", "C6_QTDENT", "C6_QTDEMP", "C6_PRCVEN", "C6_VALOR", "C6_BLQ"),
    *("C6_NOTA", "C6_SERIE", "C6_DATFAT"),
)
_RELEASE = ("C9_SEQUEN", "C9_QTDLIB", "C9_BLCRED", "C9_BLEST", "C9_NFISCAL", "C9_SERIENF")


class OrderViews:
    """Of a deleted order only its header is shown."""

    def __init__(self, store: Store, config: SandboxConfig) -> None:
        self._store = store
        self._config = config
        self._columns = ("R_E_C_N_O_", "D_E_L_E_T_", "C5_FILIAL", "C5_NUM", config.external_id_field, *_HEADER)

    def page(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Live and deleted orders in the order of their creation; `record` of the last one is the next `after`."""
        return [self._view(row) for row in self._headers("R_E_C_N_O_ > ?", (after,), limit)]

    def one(self, branch: str, number: str) -> dict[str, Any]:
        """Refusal (404): there was never such an order."""
        known = self._config.branch_named(branch) or ""
        found = self._headers("C5_NUM = ? AND C5_FILIAL = ?", (number.rstrip(), known), 1)
        if not found:
            raise Refusal(f"não há pedido {number} na filial {branch}", status=404)
        return self._view(found[0])

    def _headers(self, condition: str, parameters: tuple[str | int, ...], limit: int) -> list[Row]:
        names = ", ".join(self._columns)
        sql = f"SELECT {names} FROM SC5 WHERE {condition} ORDER BY R_E_C_N_O_ LIMIT ?"
        return [dict(zip(self._columns, row, strict=True)) for row in self._store.query(sql, (*parameters, limit))]

    def _view(self, header: Row) -> dict[str, Any]:
        branch, number, deleted = header["C5_FILIAL"], header["C5_NUM"], header["D_E_L_E_T_"] == "*"
        return {
            "record": header["R_E_C_N_O_"],
            "branch": branch,
            "number": number,
            "external_id": header[self._config.external_id_field],
            "deleted": deleted,
            **{name: header[name] for name in _HEADER},
            "items": [] if deleted else self._items(branch, number),
            "invoices": [] if deleted else self._invoices(branch, number),
        }

    def _items(self, branch: str, number: str) -> list[dict[str, Any]]:
        releases = self._store.rows("SC9", C9_PEDIDO=number, C9_FILIAL=branch)
        return [
            {
                **{name: item[name] for name in _ITEM},
                "releases": [
                    {name: row[name] for name in _RELEASE} for row in releases if row["C9_ITEM"] == item["C6_ITEM"]
                ],
            }
            for item in self._store.rows("SC6", C6_NUM=number, C6_FILIAL=branch)
        ]

    def _invoices(self, branch: str, number: str) -> list[dict[str, Any]]:
        lines = self._store.rows("SD2", D2_PEDIDO=number, D2_FILIAL=branch)
        written = dict.fromkeys((line["D2_DOC"], line["D2_SERIE"]) for line in lines)
        return [self._invoice(branch, doc, series) for doc, series in written]

    def _invoice(self, branch: str, doc: str, series: str) -> dict[str, Any]:
        [header] = self._store.rows("SF2", F2_DOC=doc, F2_SERIE=series, F2_FILIAL=branch)
        freight = self._store.find("GW1", GW1_NRDC=doc, GW1_SERDC=series, GW1_FILIAL=branch)
        arrived = freight is not None and freight["GW1_SIT"] == "5"
        return {
            "series": series,
            "doc": doc,
            "key": header["F2_CHVNFE"],
            "total": f"{header['F2_VALBRUT']:.2f}",
            "delivered": bool(header["F2_DTENTR"]) or arrived,
        }
