"""What this configuration needs to read in the ERP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from erp_sync.erp.generic_query import AtLeast, GenericQuery, In, Query, batches, text
from erp_sync.stock_formula import fields

if TYPE_CHECKING:
    from erp_sync.settings import Settings


def needed_queries(settings: Settings, *, follows_stock: bool) -> Iterator[Query]:
    """One query per table, of the fields that this configuration reads."""
    statuses, stock = settings.statuses, settings.stock
    external_id, tracking = settings.erp.external_id_field, statuses.tracking_field
    custom = (external_id, *([tracking] if tracking else []))
    header = ("C5_NUM", "C5_CLIENTE", "C5_LOJACLI", "C5_FRETE", "C5_SEGURO", "C5_DESPESA", "C5_DESCONT")
    progress = ("C5_NOTA", "C5_LIBEROK", "C5_BLQ", *custom)
    lines = ("C6_NUM", "C6_ITEM", "C6_VALOR", "C6_QTDVEN", "C6_QTDENT", "C6_QTDEMP", "C6_BLQ", "C6_NOTA")
    invoices = ("F2_DOC", "F2_SERIE", "F2_CLIENTE", "F2_LOJA", "F2_CHVNFE")
    yield Query("SC5", (*header, *progress), (AtLeast("C5_NUM", ""),), deleted=True, custom=custom)
    yield Query("SC6", lines, (AtLeast("C6_NUM", ""),), deleted=True)
    yield Query("SA1", ("A1_COD", "A1_LOJA", "A1_CGC", "A1_MSBLQL"), (AtLeast("A1_COD", ""),))
    yield Query("SC9", ("C9_PEDIDO", "C9_BLCRED", "C9_BLEST"), (AtLeast("C9_PEDIDO", ""),))
    documents = ("D2_PEDIDO", "D2_DOC", "D2_SERIE", "D2_CLIENTE", "D2_LOJA", "D2_EMISSAO")
    yield Query("SD2", documents, (AtLeast("D2_DOC", ""),))
    by_note = ("F2_DTENTR",) if statuses.delivered_from == "f2_dtentr" else ()
    yield Query("SF2", (*invoices, *by_note), (AtLeast("F2_DOC", ""),))
    if statuses.delivered_from == "gfe":
        yield Query("GW1", ("GW1_NRDC", "GW1_SERDC", "GW1_EMISDC", "GW1_SIT"), (AtLeast("GW1_NRDC", ""),))
        legs = ("GWU_NRDC", "GWU_SERDC", "GWU_EMISDC", "GWU_SEQ", "GWU_DTENT", "GWU_HRENT")
        yield Query("GWU", legs, (AtLeast("GWU_NRDC", ""),))
    if follows_stock and stock.source == "sb2":
        balances = fields(stock.formula, subtract_open_orders=stock.subtract_open_orders)
        yield Query("SB2", ("B2_COD", "B2_LOCAL", *balances), (AtLeast("B2_COD", ""),))


def usable_products(query: GenericQuery, skus: Sequence[str], settings: Settings) -> set[str]:
    """Those of these SKUs that the ERP has and does not block. Raises ErpUnavailable, and Misconfigured where SB1 may
    not be read."""
    width = settings.erp.widths.get("B1_COD", settings.erp.widths.get("C6_PRODUTO", 15))
    usable: set[str] = set()
    for batch in batches([sku for sku in skus if sku.isprintable()]):
        rows = query.rows(Query("SB1", ("B1_COD", "B1_MSBLQL"), (In("B1_COD", batch, width),)))
        usable |= {text(row, "B1_COD") for row in rows if text(row, "B1_MSBLQL") != "1"}
    return usable
