"""The ERP's stock balances (SB2; contracts/protheus-rest.md, 9), streamed in the order of the product codes."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal

from erp_sync.erp.client import ErpClient
from erp_sync.erp.generic_query import BATCH, RECORD, AtLeast, GenericQuery, In, Query, Row, batches, number, text
from erp_sync.errors import ErpUnavailable, OddRow
from erp_sync.settings import Settings
from erp_sync.stock_formula import available, fields

logger = logging.getLogger(__name__)

PAGE = 5_000
"""Rows of one answer: the upper end of what real clients ask for (contracts/protheus-rest.md, 3)."""

Balances = Mapping[str, Decimal]
"""ERP warehouse = what its row leaves to be sold."""


@dataclass(frozen=True, slots=True)
class SkuBalance:
    sku: str
    balances: Balances
    """Of the configured warehouses; one without a row is not in it."""


@dataclass(frozen=True, slots=True)
class StockRow:
    sku: str
    warehouse: str
    available: Decimal | None
    """None: it cannot be read."""


@dataclass(frozen=True, slots=True)
class _Page:
    """What is kept of an answer: its rows as they come take ten times as much memory."""

    records: Sequence[str]
    rows: Sequence[StockRow]
    """Of these records."""
    more: bool

    def of_last_product(self) -> set[str]:
        sku = self.rows[-1].sku
        return {record for record, row in zip(self.records, self.rows, strict=True) if row.sku == sku}


class ErpStock:
    """Reads take the slots of the class `stock`. Raises BreakerOpen, ErpUnavailable and Misconfigured."""

    def __init__(self, client: ErpClient, settings: Settings, *, page_size: int = PAGE) -> None:
        self._query = GenericQuery(client.of_flow("stock"))
        self._section = settings.stock
        self._page_size = page_size
        self._fields = fields(self._section.formula, subtract_open_orders=self._section.subtract_open_orders)
        self._code_width = settings.erp.widths.get("B2_COD", 15)
        self._warehouses = In("B2_LOCAL", tuple(self._section.warehouses), settings.erp.widths.get("B2_LOCAL", 2))

    def all(self) -> Iterator[SkuBalance]:
        """Every product with a row in one of the warehouses, each once; in flat memory.

        Each page begins with the product that the last one ended with: a page that starts over, skips or repeats does
        not fit, and raises ErpUnavailable before anything is taken for complete.
        """
        yield from grouped(self._rows(), self._section.warehouses)

    def can_have(self, sku: str) -> bool:
        """Whether a product of the ERP can have this code at all."""
        return sku == sku.rstrip(" ") and sku.isprintable() and 0 < len(sku) <= self._code_width

    def named(self, skus: Sequence[str], witness: str) -> dict[str, Balances | None]:
        """Those of these products (`can_have`) that have a row in one of the warehouses; None: it cannot be read.

        Whoever is not in it has no row. `witness` is a product that has one: an answer without it, or with products
        that nobody asked for, proves nothing, and raises ErpUnavailable.
        """
        balances: dict[str, Balances | None] = {}
        for some in batches(skus, BATCH - 1):
            asked = [*some, witness]
            where = (In("B2_COD", asked, self._code_width), self._warehouses)
            rows = [self._stock(row) for row in self._query.rows(self._asks(where))]
            present = {row.sku for row in rows}
            alike = set(map(_key, asked))
            if witness not in present or any(_key(sku) not in alike for sku in present):
                raise ErpUnavailable("genericQuery does not answer for the products of SB2 that it was asked for")
            balances |= dict.fromkeys(present.intersection(some))
            rows.sort(key=lambda row: _key(row.sku))
            whole = {each.sku: each.balances for each in grouped(rows, self._section.warehouses)}
            balances |= {sku: whole[sku] for sku in some if sku in whole}
        return balances

    def registered(self, skus: Sequence[str]) -> set[str]:
        """Those of these products that SB1 has, and has not blocked."""
        found: set[str] = set()
        for some in batches(skus):
            query = Query("SB1", ("B1_COD", "B1_MSBLQL"), (In("B1_COD", some, self._code_width),))
            live = (text(row, "B1_COD") for row in self._query.rows(query) if text(row, "B1_MSBLQL") != "1")
            found |= set(some).intersection(live)
        return found

    def _rows(self) -> Iterator[StockRow]:
        """While one page is worked on, the next one is on its way."""
        last: _Page | None = None
        with ThreadPoolExecutor(1, "stock-read") as ahead:
            coming = ahead.submit(self._read, "")
            while True:
                page = coming.result()
                fresh = self._after(last, page)
                if page.more:
                    if not fresh:
                        raise ErpUnavailable("genericQuery gives the same page of SB2 again and again")
                    last = page
                    coming = ahead.submit(self._read, page.rows[-1].sku)
                yield from fresh
                if not page.more:
                    return

    def _read(self, since: str) -> _Page:
        rows, more = self._page(since)
        return _Page([text(row, RECORD) for row in rows], [self._stock(row) for row in rows], more)

    def _page(self, since: str) -> tuple[list[Row], bool]:
        where: tuple[In | AtLeast, ...] = (self._warehouses, *((AtLeast("B2_COD", since),) if since else ()))
        return self._query.page(self._asks(where), order=("B2_COD", "B2_LOCAL"), size=self._page_size)

    def _asks(self, where: tuple[In | AtLeast, ...]) -> Query:
        return Query("SB2", ("B2_COD", "B2_LOCAL", *self._fields), where)

    def _after(self, last: _Page | None, page: _Page) -> Sequence[StockRow]:
        """The page's new rows. Raises ErpUnavailable where it does not go on from the last one: it must begin with the
        last one's last product once more."""
        records = set(page.records)
        if len(records) < len(page.records):
            raise ErpUnavailable("genericQuery gave a row of SB2 twice on one page: its pages cannot be trusted")
        if last is None:
            return page.rows
        if not last.of_last_product() <= records:
            raise ErpUnavailable(
                f"a page of SB2 does not go on from product {last.rows[-1].sku!r}: rows may be missing"
            )
        known = set(last.records)
        return [row for record, row in zip(page.records, page.rows, strict=True) if record not in known]

    def _stock(self, row: Row) -> StockRow:
        code, warehouse = text(row, "B2_COD"), text(row, "B2_LOCAL")
        try:
            figures = {field: number(row, field) for field in self._fields}
        except OddRow as odd:
            logger.warning("product %s is left alone: %s", code, odd)
            return StockRow(code, warehouse, None)
        open_orders = self._section.subtract_open_orders
        return StockRow(code, warehouse, available(figures, self._section.formula, subtract_open_orders=open_orders))


def grouped(rows: Iterable[StockRow], warehouses: Collection[str]) -> Iterator[SkuBalance]:
    """The rows of each product, which come in the order of the products. Those of products that differ by case alone
    may stand among each other: the database takes them for equal. A product with a row that cannot be read is left out.

    Raises ErpUnavailable for a warehouse's second row.
    """
    open_: dict[str, dict[str, Decimal | None]] = {}
    key = ""
    for row in rows:
        if (its := _key(row.sku)) != key:
            yield from _whole(open_)
            open_, key = {}, its
        balances = open_.setdefault(row.sku, {})
        if row.warehouse in balances:
            raise ErpUnavailable(
                f"the ERP gave product {row.sku!r} twice in warehouse {row.warehouse}: nothing is sure"
            )
        if row.warehouse in warehouses:
            balances[row.warehouse] = row.available
    yield from _whole(open_)


def _whole(products: Mapping[str, Mapping[str, Decimal | None]]) -> Iterator[SkuBalance]:
    for sku, balances in products.items():
        known = {warehouse: amount for warehouse, amount in balances.items() if amount is not None}
        if known and len(known) == len(balances):
            yield SkuBalance(sku, known)


def _key(sku: str) -> str:
    """As a database without case and accents compares."""
    if sku.isascii():
        return sku.lower()
    plain = unicodedata.normalize("NFKD", sku.casefold())
    return "".join(character for character in plain if not unicodedata.combining(character))
