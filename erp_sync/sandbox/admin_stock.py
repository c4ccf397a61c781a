"""The admin side's routes about stock; admin.py lists them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.requests import Request

from erp_sync.sandbox.admin_route import AdminRoute, number_of
from erp_sync.sandbox.refusals import Refusal
from erp_sync.sandbox.service import Service
from erp_sync.sandbox.stock import StockRow
from erp_sync.sandbox.stock_held import Place

_MOST = 10_000
_Figure = Annotated[Decimal, Field(ge=Decimal("-99999999.99"), le=Decimal("999999999.99"), decimal_places=2)]
"""What N12,2 holds."""
_Quantity = Annotated[Decimal, Field(gt=0, max_digits=11, decimal_places=2)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Row(_Body):
    """Only the figures that are there change."""

    code: str
    warehouse: str = "01"
    branch: str | None = None
    QATU: _Figure = Decimal(0)
    RESERVA: _Figure = Decimal(0)
    QPEDVEN: _Figure = Decimal(0)
    QEMP: _Figure = Decimal(0)
    QACLASS: _Figure = Decimal(0)
    QEMPSA: _Figure = Decimal(0)
    QEMPPRJ: _Figure = Decimal(0)
    QEMPPRE: _Figure = Decimal(0)
    QTNP: _Figure = Decimal(0)
    QNPT: _Figure = Decimal(0)
    SALPEDI: _Figure = Decimal(0)
    VATU1: _Figure = Decimal(0)


class Receipt(_Body):
    code: str
    warehouse: str = "01"
    branch: str | None = None
    quantity: _Quantity


class Sale(Receipt):
    force: bool = False


_Rows = TypeAdapter(Annotated[list[Row], Field(max_length=_MOST)])
_PLACE = frozenset({"code", "warehouse", "branch"})


class StockAdmin:
    def __init__(self, service: Service) -> None:
        self._stock = service.stock
        columns = service.store.dictionary.tables["SB2"].columns
        self._widths = {name: columns[name].width for name in ("B2_COD", "B2_LOCAL")}

    def routes(self) -> Sequence[AdminRoute]:
        return (
            ("POST", "/stock", self.put),
            ("GET", "/stock", self.rows),
            ("GET", "/stock/last", self.last),
            ("POST", "/stock/sell", self.sell),
            ("POST", "/stock/receive", self.receive),
            ("DELETE", "/stock/{warehouse}/{code:path}", self.remove),
        )

    async def put(self, request: Request) -> dict[str, int]:
        rows = [self._row(row) for row in _Rows.validate_json(await request.body())]
        added = self._stock.put(rows)
        return {"added": added, "changed": len(rows) - added}

    async def rows(self, request: Request) -> list[dict[str, Any]]:
        asked = request.query_params
        if "code" not in asked:
            return self._stock.page(number_of(request, "after", 0), number_of(request, "limit", 1000))
        equal = {"B2_LOCAL": asked["warehouse"]} if "warehouse" in asked else {}
        if "branch" in asked:
            equal["B2_FILIAL"] = self._stock.branch(asked["branch"])
        return self._stock.rows_of(asked["code"], **equal)

    async def last(self, _request: Request) -> dict[str, int]:
        return {"record": self._stock.last_record}

    async def sell(self, request: Request) -> None:
        sale = Sale.model_validate_json(await request.body())
        self._stock.sell(self._place(sale), sale.quantity, force=sale.force)

    async def receive(self, request: Request) -> None:
        receipt = Receipt.model_validate_json(await request.body())
        self._stock.receive(self._place(receipt), receipt.quantity)

    async def remove(self, request: Request) -> None:
        path = request.path_params
        branch = self._stock.branch(request.query_params.get("branch"))
        self._stock.remove((branch, path["code"].rstrip(" "), path["warehouse"]))

    def _row(self, row: Row) -> StockRow:
        figures = {name: getattr(row, name) for name in Row.model_fields if name in row.model_fields_set - _PLACE}
        return StockRow(*self._place(row), figures)

    def _place(self, named: Row | Receipt) -> Place:
        """Refusal: 404 there is no such branch, 422 the dictionary's fields do not hold it."""
        texts = {"B2_COD": named.code.rstrip(" "), "B2_LOCAL": named.warehouse.rstrip(" ")}
        for name, text in texts.items():
            if not text or len(text) > self._widths[name]:
                raise Refusal(f"{name} = {text!r}: must have 1 to {self._widths[name]} characters", status=422)
        return self._stock.branch(named.branch), texts["B2_COD"], texts["B2_LOCAL"]
