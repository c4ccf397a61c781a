"""The admin side, under /sandbox: what an ERP has screens for, and what a test or a demo needs. No Protheus has it.

    GET    /sandbox/state                        counts of orders, customers, requests, answers and fired faults
    GET    /sandbox/journal?after=0&limit=10000  what was committed, by seq
    GET    /sandbox/arrivals?after=0&limit=10000 every create and cancellation that arrived, by seq, with its external
                                                 id or A1_CGC
    GET    /sandbox/switches                     PATCH changes those named
    GET    /sandbox/faults                       PUT replaces them, POST adds to them, DELETE ends them
    POST   /sandbox/products                     a list of SKUs, or of {code, name, unit, warehouse, price, blocked}
    POST   /sandbox/customers                    a list of A1_ fields; answers their codes
    POST   /sandbox/conditions, /carriers        a list of codes
    PATCH  /sandbox/products/{code}              {blocked}
    PATCH  /sandbox/customers/{code}/{store}     {blocked}
    GET    /sandbox/orders?after=0&limit=200     live and deleted orders, by record: {record, branch, number,
                                                 external_id, deleted, C5_ fields of its status, items: [{C6_ fields,
                                                 releases: [{C9_ fields}]}], invoices: [{series, doc, key, total,
                                                 delivered}]}
    GET    /sandbox/orders/{branch}/{number}     the same of one order
    PATCH  /sandbox/orders/{branch}/{number}     {items: {"01": {quantity, price}}, removed: ["02"], rule: C5_BLQ,
                                                 tracking: C5_RASTR}
    DELETE /sandbox/orders/{branch}/{number}     with its releases; 409 while it has an invoice
    POST   /sandbox/orders/{branch}/{number}/restore
    POST   /sandbox/orders/{branch}/{number}/release   {credit: C9_BLCRED, stock: C9_BLEST, items: ["01"] or null for
                                                 all, quantity: {"01": 1} or null for all that no release holds}
    PATCH  /sandbox/orders/{branch}/{number}/releases  {credit, stock, items}: the codes of what is not invoiced
    DELETE /sandbox/orders/{branch}/{number}/releases  takes back what is not invoiced
    POST   /sandbox/orders/{branch}/{number}/residue   {items}: gives up their open quantity
    POST   /sandbox/orders/{branch}/{number}/invoice   {items: {"01": 2} or null for all that is open, key: true, false
                                                 or a text, series: "1", release: true}; answers {doc, serie, chvnfe,
                                                 valor}
    POST   /sandbox/invoices/{branch}/{series}/{doc}/key      {key}; null: a valid one
    POST   /sandbox/invoices/{branch}/{series}/{doc}/deliver  {on: "YYYYMMDD", at: "HH:MM", in: ["f2_dtentr", "gfe"]}
    DELETE /sandbox/invoices/{branch}/{series}/{doc}   the invoice is cancelled
    POST   /sandbox/stock                        a list of {code, warehouse: "01", branch: the first, and those of QATU,
                                                 RESERVA, QPEDVEN, QEMP, QACLASS, QEMPSA, QEMPPRJ, QEMPPRE, QTNP, QNPT,
                                                 SALPEDI, VATU1 that change}; a row that is not there begins; answers
                                                 {added, changed}; at most 10,000
    GET    /sandbox/stock?code=                  its live rows, or with warehouse= and branch= fewer of them: {record,
                                                 branch, code, warehouse, QATU, ...}
    GET    /sandbox/stock?after=0&limit=1000     the live rows of all, by record
    GET    /sandbox/stock/last                   {record}: of the newest row
    DELETE /sandbox/stock/{warehouse}/{code}     the row vanishes; ?branch=, or the first
    POST   /sandbox/stock/sell                   {code, warehouse, branch, quantity, force: false}: another channel
                                                 sells; 409 where F3 less the open orders does not have it, but by force
    POST   /sandbox/stock/receive                {code, warehouse, branch, quantity}; the first goods begin the row
    POST   /sandbox/tokens/expire                {refresh_too}
    POST   /sandbox/clock                        {advance_seconds}; answers the ERP's time

What is wrong with a request is answered as {"error": ...}: 404 where a thing is not there, 409 where its state does not
allow it, 422 where the request makes no sense.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from erp_sync.sandbox.admin_orders import OrderAdmin
from erp_sync.sandbox.admin_route import AdminRoute, number_of
from erp_sync.sandbox.admin_stock import StockAdmin
from erp_sync.sandbox.config import Fault, Switches
from erp_sync.sandbox.refusals import Refusal
from erp_sync.sandbox.service import Service
from erp_sync.sandbox.store import Value

_Amount = Annotated[Decimal, Field(ge=0, max_digits=11, decimal_places=2)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Product(_Body):
    code: str
    name: str = ""
    unit: str = "UN"
    warehouse: str = "01"
    price: _Amount = Decimal(0)
    blocked: bool = False


class Blocking(_Body):
    blocked: bool


class Expiry(_Body):
    refresh_too: bool = False


class Advance(_Body):
    advance_seconds: float


class Admin:
    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        table: Sequence[AdminRoute] = (
            ("GET", "/state", self.state),
            ("GET", "/journal", self.journal),
            ("GET", "/arrivals", self.arrivals),
            ("GET", "/switches", self.switches),
            ("PATCH", "/switches", self.change_switches),
            ("GET", "/faults", self.faults),
            ("PUT", "/faults", self.replace_faults),
            ("POST", "/faults", self.add_faults),
            ("DELETE", "/faults", self.end_faults),
            ("POST", "/products", self.add_products),
            ("POST", "/customers", self.add_customers),
            ("POST", "/conditions", self.add_conditions),
            ("POST", "/carriers", self.add_carriers),
            ("PATCH", "/products/{code:path}", self.block_product),
            ("PATCH", "/customers/{code}/{store}", self.block_customer),
            ("GET", "/orders", self.orders),
            *OrderAdmin(self._service).routes(),
            *StockAdmin(self._service).routes(),
            ("POST", "/tokens/expire", self.expire_tokens),
            ("POST", "/clock", self.advance_clock),
        )
        return [Route(f"/sandbox{path}", _answering(work), methods=[method]) for method, path, work in table]

    async def state(self, _request: Request) -> dict[str, Any]:
        service = self._service
        return {
            **service.store.counts(),
            "requests": service.requests,
            "answers": service.answers,
            "faults_fired": service.faults.fired,
            "calls_now": service.threads.busy,
            "now": service.clock.now().isoformat(),
        }

    async def journal(self, request: Request) -> list[dict[str, Any]]:
        return self._service.store.journal(number_of(request, "after", 0), number_of(request, "limit", 10_000))

    async def arrivals(self, request: Request) -> list[dict[str, Any]]:
        return self._service.store.arrivals(number_of(request, "after", 0), number_of(request, "limit", 10_000))

    async def orders(self, request: Request) -> list[dict[str, Any]]:
        return self._service.views.page(number_of(request, "after", 0), number_of(request, "limit", 200))

    async def switches(self, _request: Request) -> dict[str, Any]:
        return self._service.switches.model_dump(mode="json")

    async def change_switches(self, request: Request) -> dict[str, Any]:
        changes = TypeAdapter(dict[str, Any]).validate_json(await request.body())
        self._service.switches = Switches.model_validate({**self._service.switches.model_dump(), **changes})
        return await self.switches(request)

    async def faults(self, _request: Request) -> list[dict[str, Any]]:
        return [fault.model_dump(mode="json") for fault in self._service.faults.armed]

    async def replace_faults(self, request: Request) -> list[dict[str, Any]]:
        self._service.faults.replace(TypeAdapter(list[Fault]).validate_json(await request.body()))
        return await self.faults(request)

    async def add_faults(self, request: Request) -> list[dict[str, Any]]:
        self._service.faults.add(TypeAdapter(list[Fault]).validate_json(await request.body()))
        return await self.faults(request)

    async def end_faults(self, request: Request) -> list[dict[str, Any]]:
        self._service.faults.replace([])
        return await self.faults(request)

    async def add_products(self, request: Request) -> dict[str, int]:
        given = TypeAdapter(list[Product | str]).validate_json(await request.body())
        products = [Product(code=entry) if isinstance(entry, str) else entry for entry in given]
        store = self._service.store
        width = store.dictionary.tables["SB1"].columns["B1_COD"].width
        for product in products:
            if not product.code.strip() or len(product.code) > width:
                raise Refusal(f"B1_COD = {product.code!r}: must have 1 to {width} characters", status=400)
        with store.transaction():
            known = {row[0] for row in store.query("SELECT B1_COD FROM SB1 WHERE D_E_L_E_T_ = ''")}
            new = {product.code: product for product in products if product.code not in known}
            store.insert("SB1", map(_product_row, new.values()))
        return {"added": len(new)}

    async def add_customers(self, request: Request) -> list[dict[str, str]]:
        given = TypeAdapter(list[dict[str, str]]).validate_json(await request.body())
        with self._service.store.transaction():
            seeded = [self._service.customers.seed(fields) for fields in given]
        return [{"codigo": customer.code, "loja": customer.store} for customer in seeded]

    async def add_conditions(self, request: Request) -> None:
        self._service.add_conditions(TypeAdapter(tuple[str, ...]).validate_json(await request.body()))

    async def add_carriers(self, request: Request) -> None:
        self._service.add_carriers(TypeAdapter(tuple[str, ...]).validate_json(await request.body()))

    async def block_product(self, request: Request) -> None:
        blocking = Blocking.model_validate_json(await request.body())
        row = self._service.store.find("SB1", B1_COD=request.path_params["code"])
        if row is None:
            raise Refusal(f"there is no product {request.path_params['code']!r}", status=404)
        self._service.store.update("SB1", row["R_E_C_N_O_"], B1_MSBLQL=_msblql(blocking.blocked))

    async def block_customer(self, request: Request) -> None:
        blocking = Blocking.model_validate_json(await request.body())
        path = request.path_params
        self._service.customers.block(path["code"], path["store"], blocked=blocking.blocked)

    async def expire_tokens(self, request: Request) -> None:
        expiry = Expiry.model_validate_json(await request.body() or b"{}")
        self._service.tokens.expire_all(refresh_too=expiry.refresh_too)

    async def advance_clock(self, request: Request) -> dict[str, str]:
        advance = Advance.model_validate_json(await request.body())
        self._service.clock.advance(advance.advance_seconds)
        return {"now": self._service.clock.now().isoformat()}


def _answering(work: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    @functools.wraps(work)
    async def handle(request: Request) -> Response:
        try:
            result = await work(request)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))
            return JSONResponse({"error": f"{where}: {first['msg']}" if where else first["msg"]}, 422)
        except Refusal as refusal:
            return JSONResponse({"error": refusal.text}, refusal.status or 400)
        return Response(json.dumps(result, default=str), media_type="application/json")

    return handle


def _product_row(product: Product) -> dict[str, Value]:
    return {
        "B1_COD": product.code,
        "B1_DESC": (product.name or product.code)[:30],
        "B1_TIPO": "PA",
        "B1_UM": product.unit,
        "B1_LOCPAD": product.warehouse,
        "B1_PRV1": float(product.price),
        "B1_MSBLQL": _msblql(product.blocked),
    }


def _msblql(blocked: bool) -> str:
    return "1" if blocked else "2"
