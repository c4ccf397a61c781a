"""The retail module's stock levels (contracts/protheus-rest.md, 9.1): what some sites open instead of SB2.

It tells the physical balance and what is reserved, nothing else; gives the rows of every branch; answers a single row
bare, and no row at all with a 404 whose text holds the whole SQL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation, Overflow
from typing import Any

from erp_sync.erp.answers import Answer, word
from erp_sync.erp.client import ErpClient
from erp_sync.erp.generic_query import MOST_WHOLE_DIGITS, has_next, storable
from erp_sync.erp.stock import SkuBalance, StockRow, grouped
from erp_sync.errors import ErpUnavailable, Misconfigured
from erp_sync.settings import Settings

PATH = "/api/retail/v1/retailStockLevel"
PAGE = 1_000


class RetailStock:
    """Reads take the slots of the class `stock`. Raises BreakerOpen, ErpUnavailable and Misconfigured."""

    def __init__(self, client: ErpClient, settings: Settings, *, page_size: int = PAGE) -> None:
        self._client = client.of_flow("stock")
        self._section = settings.stock
        self._branch = settings.erp_branch
        self._page_size = page_size

    def all(self) -> Iterator[SkuBalance]:
        """Every product with a row in one of the warehouses, each once. A page that repeats rows of the last one or of
        the first one raises ErpUnavailable."""
        yield from grouped(self._rows(), self._section.warehouses)

    def _rows(self) -> Iterator[StockRow]:
        first: set[tuple[str, str, str]] = set()
        last: set[tuple[str, str, str]] = set()
        page, ours, seen = 1, 0, 0
        while True:
            items, more = self._page(page)
            keys = [(_text(item, "branchid"), _text(item, "iteminternalid"), _warehouse(item)) for item in items]
            if len(set(keys)) < len(keys) or (set(keys) & (first | last)):
                raise ErpUnavailable(f"{PATH} gave a row twice (page {page}): its pages overlap or start over")
            for item, (branch, sku, warehouse) in zip(items, keys, strict=True):
                seen += 1
                if branch == self._branch:
                    ours += 1
                    yield StockRow(sku, warehouse, self._available(item))
            if not more or not items:
                break
            first, last, page = first or set(keys), set(keys), page + 1
        if seen and not ours:
            raise Misconfigured(
                f"ERP_SYNC_ERP_TENANT: {PATH} has rows, but none of branch {self._branch!r}: correct it"
            )

    def _page(self, page: int) -> tuple[list[Mapping[str, Any]], bool]:
        order = "iteminternalid,warehouseinternalid,branchid"
        parameters = [("Page", str(page)), ("PageSize", str(self._page_size)), ("Order", order)]
        answer = self._client.get_rows(PATH, parameters, no_rows=404)
        if not answer.is_success:
            return [], False
        fields = answer.fields()
        if "items" not in fields:
            return [fields], False
        items = fields["items"]
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ErpUnavailable(f"{PATH} answered without a list of items")
        return [{key.lower(): value for key, value in item.items()} for item in items], _more(answer, len(items))

    def _available(self, item: Mapping[str, Any]) -> Decimal | None:
        try:
            physical = Decimal(word(item["currentstockamount"]))
            reserved = Decimal(word(item["bookedstockamount"])) if self._section.formula == "simple" else Decimal(0)
            amount = physical - reserved
        except KeyError as missing:
            raise Misconfigured(f"{PATH} leaves {missing} out of its answers: give the user the right to it") from None
        except (InvalidOperation, Overflow):
            return None
        return amount if amount.is_finite() and amount.adjusted() <= MOST_WHOLE_DIGITS else None


def _more(answer: Answer, count: int) -> bool:
    more = has_next(answer)
    return count > 0 if more is None else more


def _text(item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise Misconfigured(f"{PATH} leaves {name} out of its answers: give the user the right to it")
    return storable(value.rstrip())


def _warehouse(item: Mapping[str, Any]) -> str:
    return _text(item, "warehouseinternalid")
