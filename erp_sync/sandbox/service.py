"""The REST side: every call's way through threads, login, branch and faults to its routine and back."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any, Protocol
from urllib.parse import parse_qs
from weakref import WeakValueDictionary

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from erp_sync.sandbox.cancelling import Cancelling
from erp_sync.sandbox.clock import Clock
from erp_sync.sandbox.config import Endpoint, Fault, SandboxConfig, Switches
from erp_sync.sandbox.connections import Reset
from erp_sync.sandbox.customers import Customers
from erp_sync.sandbox.dictionary import Dictionary
from erp_sync.sandbox.faults import Faults
from erp_sync.sandbox.generic_query import PARAMETERS, page_has_product, reads_stock, run_generic_query
from erp_sync.sandbox.invoices import Invoices
from erp_sync.sandbox.life import OrderLife
from erp_sync.sandbox.order_rows import OrderTables
from erp_sync.sandbox.order_views import OrderViews
from erp_sync.sandbox.orders import Orders
from erp_sync.sandbox.read_faults import ReadFault
from erp_sync.sandbox.refusals import Refusal, error_response, html_page, json_response, refused
from erp_sync.sandbox.retail_stock import PATH as RETAIL_STOCK
from erp_sync.sandbox.retail_stock import retail_page_has_product, run_retail_stock
from erp_sync.sandbox.stock import Stock
from erp_sync.sandbox.store import Store
from erp_sync.sandbox.threads import Threads
from erp_sync.sandbox.tokens import TokenPair, Tokens, basic_login

_COOKIE = ("TOTVS_PROXY_SH_001", "sh1")


NO_ROUTE = "Recurso não encontrado"
Work = Callable[[Request, Endpoint], Awaitable[Response]]


class Created(Protocol):
    def answer(self, *, existed: bool) -> dict[str, Any]: ...


class Routine(Protocol):
    """What stands behind a create endpoint."""

    def subject(self, sent: Mapping[str, Any]) -> str: ...

    def existing(self, sent: Mapping[str, Any], branch: str, switches: Switches, /) -> Created | None: ...

    def create(self, sent: Mapping[str, Any], branch: str, switches: Switches, /, *, write: bool) -> Created: ...


class Service:
    """One ERP: its memory, its switches and its faults."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.switches = config.switches
        self.clock = Clock()
        self.store = Store(Dictionary(config), config.external_id_field, config.database)
        self.tokens = Tokens(config, self.clock)
        self.faults = Faults(config.faults, config.seed)
        tables = OrderTables(self.store, config, self.clock)
        self.stock = Stock(self.store, config, lambda: self.switches)
        self.orders = Orders(self.store, tables, self.stock, config, self.clock)
        self.life = OrderLife(self.store, tables, self.stock, config)
        self.invoices = Invoices(self.store, tables, self.stock, config, self.clock)
        self.views = OrderViews(self.store, config)
        self._cancelling = Cancelling(tables, self.stock, config, self.clock)
        self.customers = Customers(self.store, config, self.clock)
        self.threads = Threads()
        self.requests: Counter[str] = Counter()
        """By endpoint, since the start."""
        self.answers: Counter[str] = Counter()
        """By endpoint and status, `create_order 201`; `create_order reset` where the connection was torn down."""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._cold = config.switches.cold_start
        self._seed_tables()

    def _seed_tables(self) -> None:
        with self.store.transaction():
            self.add_conditions(self.config.conditions)
            self.add_carriers(self.config.carriers)
            if not self.store.last_record("SX3"):
                self.store.insert("SX3", self.store.dictionary.fields())

    def add_conditions(self, codes: tuple[str, ...]) -> None:
        new = [code for code in codes if not self.store.find("SE4", E4_CODIGO=code)]
        self.store.insert("SE4", ({"E4_CODIGO": code, "E4_DESCRI": f"CONDICAO {code}"} for code in new))

    def add_carriers(self, codes: tuple[str, ...]) -> None:
        new = [code for code in codes if not self.store.find("SA4", A4_COD=code)]
        self.store.insert("SA4", ({"A4_COD": code, "A4_NOME": f"TRANSPORTADORA {code}"} for code in new))

    def routes(self) -> list[Route]:
        root, config = self.config.root, self.config
        return [
            Route(f"{root}/api/oauth2/v1/token", self._endpoint("token", self._token), methods=["POST"]),
            Route(f"{root}/api/framework/v1/genericQuery", self._endpoint("read", self._query), methods=["GET"]),
            Route(f"{root}{RETAIL_STOCK}", self._endpoint("read", self._retail_stock), methods=["GET"]),
            Route(
                f"{root}{config.orders_path}",
                self._endpoint("create_order", self._create(self.orders)),
                methods=["POST"],
            ),
            Route(
                f"{root}{config.orders_path}/{{branch}}/{{number}}/cancelar",
                self._endpoint("cancel_order", self._cancel),
                methods=["POST"],
            ),
            Route(
                f"{root}{config.customers_path}",
                self._endpoint("create_customer", self._create(self.customers)),
                methods=["POST"],
            ),
        ]

    def _endpoint(self, endpoint: Endpoint, work: Work) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            self.requests[endpoint] += 1
            try:
                if self.switches.body_required and request.method == "POST" and not _has_body(request):
                    response: Response = Reset()
                else:
                    response = await work(request, endpoint)
            except ClientDisconnect:
                response = Reset()
            except Refusal as refusal:
                response = refused(refusal, self.switches)
            self.answers[f"{endpoint} {'reset' if isinstance(response, Reset) else response.status_code}"] += 1
            if self.switches.sticky_cookie and not _is_sticky(request):
                response.set_cookie(*_COOKIE)
            return response

        return handle

    async def _token(self, request: Request, endpoint: Endpoint) -> Response:
        form = parse_qs((await request.body()).decode("latin-1"), keep_blank_values=True)
        fault = self.faults.strike(endpoint, "")

        async def work() -> Response:
            await self._wait(fault)
            if self._cold:
                self._cold = False
                return self._unauthorized("Servidor iniciando")
            if fault and fault.kind == "unauthorized":
                return self._unauthorized("Usuário não autenticado")
            pair = self._granted(request, form)
            if pair is None:
                return self._unauthorized("Usuário ou senha inválidos")
            body = {
                "access_token": pair.access,
                "refresh_token": pair.refresh,
                "scope": "default",
                "token_type": "Bearer",
                "expires_in": pair.seconds,
                "hasMFA": False,
            }
            return self._good(self.switches.token_status, body, fault)

        return await self._in_a_thread(fault, work)

    def _granted(self, request: Request, form: dict[str, list[str]]) -> TokenPair | None:
        """Values may stand in the query string, the headers or a form (1.2); a Basic header is a login too."""

        def sent(name: str) -> str:
            in_query = request.query_params.get(name)
            if in_query is not None:
                return in_query
            return request.headers.get(name) or form.get(name, [""])[0]

        if self.switches.security_off:
            return self.tokens.issue()
        grant = sent("grant_type")
        if grant == "refresh_token":
            return self.tokens.renew(sent("refresh_token"))
        if grant != "password":
            raise Refusal("grant_type inválido: use password ou refresh_token", status=400)
        in_query = {"username", "password"} & request.query_params.keys()
        if self.switches.raw_at_sign and in_query and b"%40" in request.scope["query_string"]:
            return None
        login = (sent("username"), sent("password"))
        if login == ("", ""):
            login = basic_login(request.headers.get("authorization", "")) or login
        return self.tokens.issue() if self.tokens.knows(*login) else None

    async def _query(self, request: Request, endpoint: Endpoint) -> Response:
        parameters = {name: value for name, value in request.headers.items() if name in PARAMETERS}
        query = {name.lower(): value for name, value in request.query_params.items()}
        parameters |= {name: value for name, value in query.items() if name in PARAMETERS}

        def has_product(code: str) -> bool:
            return page_has_product(self.store, self.switches, parameters, self._branch(request), code)

        fault = self._fault_of_read(
            endpoint, parameters.get("where", ""), has_product if reads_stock(parameters) else None
        )

        def answer() -> Response:
            if self.switches.security_off:
                return error_response(503, "API not allowed", self.switches)
            branch, read = self._branch(request), ReadFault(fault)
            body = run_generic_query(self.store, self.config, self.switches, parameters, branch, fault=read)
            return self._good(200, body, fault)

        return await self._read(request, fault, answer)

    async def _retail_stock(self, request: Request, endpoint: Endpoint) -> Response:
        parameters = request.query_params.multi_items()

        def has_product(code: str) -> bool:
            return retail_page_has_product(self.store, self.config, self.switches, parameters, code)

        subject = "&".join(f"{name}={value}" for name, value in parameters)
        fault = self._fault_of_read(endpoint, subject, has_product)

        def answer() -> Response:
            self._branch(request)
            body = run_retail_stock(self.store, self.config, self.switches, parameters, ReadFault(fault))
            return self._good(200, body, fault)

        return await self._read(request, fault, answer)

    def _fault_of_read(
        self, endpoint: Endpoint, subject: str, has_product: Callable[[str], bool] | None
    ) -> Fault | None:
        def has(code: str) -> bool:
            try:
                return has_product is not None and has_product(code)
            except Refusal:
                return False

        return self.faults.strike(endpoint, subject, has_product=has if has_product else None)

    async def _read(self, request: Request, fault: Fault | None, answer: Callable[[], Response]) -> Response:
        async def work() -> Response:
            await self._wait(fault)
            if not self._authorized(request, fault):
                return self._unauthorized("Token inválido ou expirado")
            return answer()

        return await self._in_a_thread(fault, work)

    def _create(self, routine: Routine) -> Work:
        async def created(_request: Request, sent: Mapping[str, Any], branch: str, fault: Fault | None) -> Response:
            return await self._created(routine, sent, branch, fault)

        async def handle(request: Request, endpoint: Endpoint) -> Response:
            return await self._write(request, endpoint, routine.subject, created)

        return handle

    async def _cancel(self, request: Request, endpoint: Endpoint) -> Response:
        if self.switches.no_cancel_route:
            return error_response(404, NO_ROUTE, self.switches)
        return await self._write(request, endpoint, self.orders.subject, self._cancelled)

    async def _write(
        self,
        request: Request,
        endpoint: Endpoint,
        subject_of: Callable[[Mapping[str, Any]], str],
        work: Callable[[Request, Mapping[str, Any], str, Fault | None], Awaitable[Response]],
    ) -> Response:
        """`work` hears the body and the tenantId's branch."""
        sent = _json_object(await request.body())
        subject = subject_of(sent or {})
        self.store.write_arrival(endpoint, subject)
        fault = self.faults.strike(endpoint, subject)

        async def checked() -> Response:
            if not self._authorized(request, fault):
                await self._wait(None)
                return self._unauthorized("Token inválido ou expirado")
            branch = self._branch(request)
            if sent is None:
                raise Refusal("O corpo da requisição não é um objeto JSON", status=400)
            if self.switches.null_crashes and _has_null(sent):
                return error_response(500, "type mismatch on + : argumento #0 esperado C->U", self.switches)
            return await work(request, sent, branch, fault)

        return await self._in_a_thread(fault, checked)

    async def _created(self, routine: Routine, sent: Mapping[str, Any], branch: str, fault: Fault | None) -> Response:
        kind = fault.kind if fault else ""
        async with AsyncExitStack() as stack:
            if self.switches.locked_seek:
                await stack.enter_async_context(self._locks.setdefault(routine.subject(sent), asyncio.Lock()))
            # The routine's time passes between its look-up and its commit: that is the gap through which a second call
            # for the same order slips.
            existing = routine.existing(sent, branch, self.switches)
            await self._wait(fault)
            created = existing or routine.create(sent, branch, self.switches, write=kind != "success_not_written")
        status = 200 if existing else self.switches.create_status
        return self._committed(status, created.answer(existed=existing is not None), fault)

    async def _cancelled(
        self, request: Request, sent: Mapping[str, Any], _branch: str, fault: Fault | None
    ) -> Response:
        """The path's branch decides: the tenantId only has to be a known one."""
        await self._wait(fault)
        path = request.path_params
        write = fault is None or fault.kind != "success_not_written"
        cancelled = self._cancelling.cancel(sent, path["branch"], path["number"], self.switches, write=write)
        return self._committed(200, cancelled.answer(), fault)

    def _committed(self, status: int, body: dict[str, Any], fault: Fault | None) -> Response:
        match fault.kind if fault else None:
            case "commit_then_drop":
                return Reset()
            case "commit_then_500":
                return error_response(500, "Internal Server Error", self.switches)
        return self._good(status, body, fault)

    async def _in_a_thread(self, fault: Fault | None, work: Callable[[], Awaitable[Response]]) -> Response:
        """The faults that strike before anything is done, and the limit of parallel calls, around a call's work."""
        switches = self.switches
        match fault.kind if fault else None:
            case "drop_before":
                return Reset()
            case "html_502":
                return html_page(502)
            case "http_503_licence":
                return error_response(503, "Não há licenças disponíveis", switches, shape="E1")
            case "http_503_busy":
                return error_response(503, "Server Busy", switches, shape="E3")
        if not await self.threads.enter(switches.instances, switches.accept_timeout):
            return error_response(503, "Server Busy", switches, shape="E3")
        try:
            match fault.kind if fault else None:
                case "error_in_200":
                    await self._wait(fault)
                    return error_response(200, "Erro ao processar a requisição", switches, shape="E6")
                case "lock_then_error":
                    await self._wait(fault)
                    return error_response(500, "Registro bloqueado por outro usuário, tente novamente", switches)
            return await work()
        finally:
            self.threads.leave()

    async def _wait(self, fault: Fault | None) -> None:
        seconds = self.switches.latency_ms / 1000 + (fault.seconds if fault else 0)
        if seconds:
            await asyncio.sleep(seconds)

    def _authorized(self, request: Request, fault: Fault | None) -> bool:
        if self.switches.security_off:
            return True
        authorization = request.headers.get("authorization", "")
        if fault and fault.kind == "unauthorized":
            self.tokens.revoke(authorization)
            return False
        if self.switches.sticky_cookie and not _is_sticky(request):
            return False
        return self.tokens.accepts(authorization)

    def _branch(self, request: Request) -> str:
        """The tenantId header's branch, as it is spelled in the ERP (1.5)."""
        if self.switches.fixed_branch:
            return self.switches.fixed_branch
        tenant = request.headers.get("tenantid")
        if tenant is None:
            if self.switches.tenant_required:
                raise Refusal("Header tenantId não informado", status=404, code=1)
            return self.config.branches[0]
        company, comma, branch = tenant.partition(",")
        if not comma or not company or branch != branch.lstrip():
            raise Refusal("Header tenantId inválido: informe empresa,filial", status=400)
        if company != self.config.company:
            raise Refusal("Empresa não cadastrada", status=404)
        if not branch:
            return self.config.branches[0]
        known = self.config.branch_named(branch)
        if known is None:
            raise Refusal("Filial não cadastrada", status=404)
        return known

    def _good(self, status: int, body: dict[str, Any], fault: Fault | None) -> Response:
        return json_response(status, body, self.switches, cp1252=fault is not None and fault.kind == "cp1252")

    def _unauthorized(self, text: str) -> Response:
        return error_response(401, text, self.switches)


def _json_object(body: bytes) -> dict[str, Any] | None:
    """None: the body is no JSON object. Amounts are exact decimals."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = body.decode("cp1252", "replace")
    try:
        value = json.loads(text, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _has_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_null, value.values()))
    return any(map(_has_null, value)) if isinstance(value, list) else value is None


def _has_body(request: Request) -> bool:
    return "content-length" in request.headers or "transfer-encoding" in request.headers


def _is_sticky(request: Request) -> bool:
    return request.cookies.get(_COOKIE[0]) == _COOKIE[1]
