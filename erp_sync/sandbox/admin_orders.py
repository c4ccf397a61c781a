"""The admin side's routes about orders and invoices; admin.py lists them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request

from erp_sync.sandbox.admin_route import AdminRoute
from erp_sync.sandbox.fields import is_date
from erp_sync.sandbox.service import Service


def _day(text: str) -> str:
    if not is_date(text):
        raise ValueError("must be a day, YYYYMMDD")
    return text


_Amount = Annotated[Decimal, Field(ge=0, max_digits=11, decimal_places=2)]
_Quantity = Annotated[Decimal, Field(gt=0, max_digits=11, decimal_places=2)]
_BlockCode = Annotated[str, Field(pattern=r"^([02-9A-Z][0-9A-Z]|1[1-9A-Z])?$")]
"""10 is what an invoice writes."""
_Key = Annotated[str, Field(max_length=44)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ItemChange(_Body):
    quantity: _Amount | None = None
    price: _Amount | None = None


class OrderChange(_Body):
    items: dict[str, ItemChange] = {}
    removed: set[str] = set()
    rule: Annotated[str, Field(max_length=1)] | None = None
    tracking: str | None = None


class Release(_Body):
    credit: _BlockCode = ""
    stock: _BlockCode = ""
    items: list[str] | None = None
    quantity: dict[str, _Quantity] | None = None


class Blocks(_Body):
    credit: _BlockCode | None = None
    stock: _BlockCode | None = None
    items: list[str] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.credit is None and self.stock is None:
            raise ValueError("give credit, stock or both")
        return self


class Invoicing(_Body):
    items: dict[str, _Quantity] | None = None
    key: bool | _Key = True
    series: Annotated[str, Field(pattern=r"^[0-9]{1,3}$")] = "1"
    release: bool = True


class Authorization(_Body):
    key: _Key | None = None


class Delivery(_Body):
    on: Annotated[str, AfterValidator(_day)] | None = None
    at: Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")] | None = None
    where: Annotated[list[Literal["f2_dtentr", "gfe"]], Field(alias="in", min_length=1)] = ["f2_dtentr", "gfe"]


class Chosen(_Body):
    items: list[str] | None = None


class OrderAdmin:
    """Every change answers null, but an invoice that is written."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> Sequence[AdminRoute]:
        order, invoice = "/orders/{branch}/{number}", "/invoices/{branch}/{series}/{doc}"
        return (
            ("GET", order, self.order),
            ("PATCH", order, self.change),
            ("DELETE", order, self.delete),
            ("POST", f"{order}/restore", self.restore),
            ("POST", f"{order}/release", self.release),
            ("PATCH", f"{order}/releases", self.block),
            ("DELETE", f"{order}/releases", self.reverse),
            ("POST", f"{order}/residue", self.eliminate),
            ("POST", f"{order}/invoice", self.invoice),
            ("POST", f"{invoice}/key", self.authorize),
            ("POST", f"{invoice}/deliver", self.deliver),
            ("DELETE", invoice, self.cancel_invoice),
        )

    async def order(self, request: Request) -> dict[str, Any]:
        return self._service.views.one(*_order(request))

    async def change(self, request: Request) -> None:
        change = OrderChange.model_validate_json(await request.body())
        items = {name: (item.quantity, item.price) for name, item in change.items.items()}
        self._service.life.change(
            *_order(request), items=items, removed=change.removed, rule=change.rule, tracking=change.tracking
        )

    async def delete(self, request: Request) -> None:
        self._service.life.delete(*_order(request))

    async def restore(self, request: Request) -> None:
        self._service.life.restore(*_order(request))

    async def release(self, request: Request) -> None:
        release = Release.model_validate_json(await _body(request))
        self._service.life.release(
            *_order(request),
            credit=release.credit,
            stock=release.stock,
            items=release.items,
            quantities=release.quantity,
        )

    async def block(self, request: Request) -> None:
        blocks = Blocks.model_validate_json(await _body(request))
        self._service.life.block(*_order(request), credit=blocks.credit, stock=blocks.stock, items=blocks.items)

    async def reverse(self, request: Request) -> None:
        self._service.life.reverse(*_order(request))

    async def eliminate(self, request: Request) -> None:
        chosen = Chosen.model_validate_json(await _body(request))
        self._service.life.eliminate(*_order(request), items=chosen.items, switches=self._service.switches)

    async def invoice(self, request: Request) -> dict[str, str]:
        invoicing = Invoicing.model_validate_json(await _body(request))
        written = self._service.invoices.write(
            *_order(request),
            quantities=invoicing.items,
            key=invoicing.key,
            series=invoicing.series,
            release=invoicing.release,
            switches=self._service.switches,
        )
        return written.answer()

    async def authorize(self, request: Request) -> None:
        authorization = Authorization.model_validate_json(await _body(request))
        self._service.invoices.authorize(*_invoice(request), authorization.key)

    async def deliver(self, request: Request) -> None:
        delivery = Delivery.model_validate_json(await _body(request))
        self._service.invoices.deliver(*_invoice(request), on=delivery.on, at=delivery.at, where=delivery.where)

    async def cancel_invoice(self, request: Request) -> None:
        self._service.invoices.cancel(*_invoice(request), self._service.switches)


async def _body(request: Request) -> bytes:
    """Without one, everything is as its default has it."""
    return await request.body() or b"{}"


def _order(request: Request) -> tuple[str, str]:
    return request.path_params["branch"], request.path_params["number"]


def _invoice(request: Request) -> tuple[str, str, str]:
    path = request.path_params
    return path["branch"], path["series"], path["doc"]
