"""How a sandbox ERP is set up: what is fixed at its start, and what can be switched while it runs."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from erp_sync.sandbox.check_digits import is_tax_id

Endpoint = Literal["token", "read", "create_order", "create_customer", "cancel_order"]
FaultKind = Literal[
    "drop_before",
    "commit_then_drop",
    "commit_then_500",
    "commit_late",
    "success_not_written",
    "error_in_200",
    "http_503_licence",
    "http_503_busy",
    "html_502",
    "lock_then_error",
    "unauthorized",
    "slow",
    "cp1252",
    "rows_missing",
    "other_branch_rows",
    "first_page_again",
    "rows_repeated",
    "zeros",
]
ErrorShape = Literal["E1", "E2", "E3", "E4", "E5", "E6", "E7"]
Seconds = Annotated[float, Field(ge=0, le=3600)]

_WRITES = {"create_order", "create_customer", "cancel_order"}
_WRITES_ONLY = {"commit_then_drop", "commit_then_500", "commit_late", "success_not_written"}
_READS_ONLY = {"rows_missing", "other_branch_rows", "first_page_again", "rows_repeated", "zeros"}
_USUAL_CNPJ = "11222333000181"


class Fault(BaseModel):
    """Something that goes wrong with a share of the calls (contracts/protheus-rest.md, 12).

    `drop_before`: the connection is reset, nothing was done. `commit_then_drop`, `commit_then_500`: written, then the
    connection is reset or an error answered. `commit_late`: written only `seconds` after the call arrived, whether the
    client still waits or not. `success_not_written`: the answer says created or cancelled, nothing was. `error_in_200`:
    status 200, an error inside, nothing written. `http_503_licence`, `http_503_busy`, `html_502`: nothing done.
    `lock_then_error`: 500 after `seconds`, nothing done. `unauthorized`: the token dies with this call. `slow`: a good
    answer, `seconds` later. `cp1252`: a good answer in the bytes of CP1252 under a charset-less content type.

    Of reads, all of them good answers: `rows_missing`: without the rows of the order or of the product's stock that is
    `matching` (any field that ends in _NUM or _PEDIDO, and B2_COD; asked for or not). `other_branch_rows`: at its end
    its first row again under another branch; an answer without any field of a branch stays as it is.
    `first_page_again`: page 1, whatever page was asked for. `rows_repeated`: its last row twice. `zeros`: every number
    is 0 but R_E_C_N_O_.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: FaultKind
    endpoint: Endpoint | None = None
    """None: every endpoint where this kind makes sense."""
    probability: Annotated[float, Field(ge=0, le=1)] = 1
    times: Annotated[int, Field(ge=1)] | None = None
    """How often at most. None: for ever."""
    matching: str = ""
    """Only calls for this external id or A1_CGC; a read matches where its `where`, or the retail read's query string,
    holds the text. `rows_missing` strikes a read of SB2 where its page would have that product, named or not."""
    seconds: Seconds = 0

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.endpoint in ("token", "read") and self.kind in _WRITES_ONLY:
            raise ValueError(f"kind {self.kind}: only {', '.join(sorted(_WRITES))} write; choose one of them")
        if self.endpoint not in (None, "read") and self.kind in _READS_ONLY:
            raise ValueError(f"kind {self.kind}: strikes reads; choose the endpoint read")
        if self.kind == "rows_missing" and not self.matching:
            raise ValueError("kind rows_missing: needs matching, the order or the product whose rows are left out")
        if self.kind == "commit_late" and not self.seconds:
            raise ValueError("kind commit_late: needs seconds, how long after its arrival the call is committed")
        return self

    def applies_to(self, endpoint: Endpoint) -> bool:
        if self.endpoint is not None:
            return self.endpoint == endpoint
        if self.kind in _READS_ONLY:
            return endpoint == "read"
        return endpoint in _WRITES or self.kind not in _WRITES_ONLY


class Switches(BaseModel):
    """What can be changed while the ERP runs; Q numbers are those of contracts/protheus-rest.md, 12."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency_ms: Annotated[float, Field(ge=0, le=600_000)] = 0
    """How long every call takes besides its own work. Calls wait side by side."""
    instances: Annotated[int, Field(ge=0)] = 0
    """Threads of the server (Q19): a call beyond them waits `accept_timeout`, then 503. 0: as many as asked for."""
    accept_timeout: Seconds = 10

    token_status: Literal[200, 201] = 201
    """Q16."""
    cold_start: bool = False
    """Q17: the first token call after the start is answered 401."""
    raw_at_sign: bool = False
    """Q18: a login in the query string fails where `@` arrives as `%40`."""
    body_required: bool = False
    """Q35: a POST without any body (no Content-Length) is reset."""
    sticky_cookie: bool = False
    """Q33: a token is known only to the node that the cookie names."""
    security_off: bool = False
    """Q37: Security=0; nobody logs in, and genericQuery answers 503."""
    fixed_branch: str = ""
    """Q6: the service was prepared for this branch, and the tenantId header is ignored."""
    all_branches: bool = False
    """Q6: reads give the rows of every branch."""
    tenant_required: bool = False
    """A call without a tenantId header is refused (404, code 1)."""

    upper_case_keys: bool = False
    """Q3."""
    trimmed_values: bool = False
    """Q1 the other way round: CHAR values without their padding."""
    numbers_as_text: bool = False
    has_next: Literal["boolean", "number", "text", "digit"] = "boolean"
    """Q4: true, 1, "true", "1"."""
    protected_fields: tuple[str, ...] = ()
    """Q5: dropped from every answer and listed in protectedDataFields."""
    level_fields: tuple[str, ...] = ()
    """Dropped and listed in nivelFields."""
    dictionary_hidden: bool = False
    """genericQuery knows no SX3: the dictionary is no table of this site's database."""
    last_page_repeats_first: bool = False
    """Q10: a page beyond the end is page 1 again."""
    unstable_order: bool = False
    """Q11: without R_E_C_N_O_ in `order`, rows of equal rank come in another order on every page."""
    padded_comparison: bool = False
    """`where` compares a bare CHAR field only with a literal of its full width."""
    caseless_comparison: bool = False
    """The database's collation knows no case."""

    cp1252: bool = False
    """Q14: every body in CP1252, no charset named. Off: only the ExecAuto texts (Q13)."""
    control_characters: bool = False
    """Q15: JSON joined by hand: line breaks inside strings stand there raw."""
    error_shape: ErrorShape = "E1"
    """Q12."""
    error_status: Literal[400, 404, 409, 500] = 400
    """Of a refusal."""
    empty_error_text: bool = False
    """The log of the automatic routine was read before: the refusal's text is empty (10.3)."""
    null_crashes: bool = False
    """Q32: a null in the request answers 500. Off: it counts as empty."""
    wide_fields: Literal["refuse", "cut"] = "refuse"
    """A text wider than the dictionary. The external id is cut whatever stands here (Q22)."""
    duplicates: Literal["idempotent", "refused", "second_order"] = "idempotent"
    """Q23: what the endpoint does about an external id that its own seek found."""
    locked_seek: bool = False
    """The endpoint holds a lock from its seek to its commit. Off: simultaneous calls miss each other."""
    create_status: Literal[200, 201] = 201
    legacy_tax_ids: bool = False
    """An A1_CGC with letters is refused (13)."""

    part_invoice_fills_header: bool = True
    """C5_NOTA and C5_SERIE hold the last invoice from the first part invoice on (6.4). Off: once all is invoiced."""
    closed_flag: Literal["E", "S"] = "E"
    """C5_LIBEROK of an order that is invoiced in full (6.3)."""
    cancelled_invoice_reopens: Literal["released", "open"] = "released"
    """Where an order goes whose invoice is cancelled (15, doubt 5)."""
    residue_flag: Literal["S", "E"] = "S"
    """C5_LIBEROK of an order whose residue was eliminated (15, doubt 4)."""
    residue_keeps_invoice: bool = False
    """C5_NOTA of such an order, where part was invoiced, is its last invoice (15, doubt 4). Off: nine X."""
    gfe_legs: Annotated[int, Field(ge=1, le=99)] = 1
    """GWU rows of an invoice that is written: each a leg of its way to the customer."""
    orders_create_stock_rows: bool = True
    """Q31: an order begins the SB2 row of its product and warehouse. Off: only where the product has a row already, in
    whatever branch or warehouse."""
    cancel_refusal: Literal["ttalk", "legacy_400", "legacy_500"] = "ttalk"
    """What a refused cancellation answers: 409 and a TTALK error whatever `error_shape` says, or a legacy fault with
    the automatic routine's log (7)."""
    no_cancel_route: bool = False
    """The customer's service has no cancellation: 404, as for any unknown route."""


class SandboxConfig(BaseModel):
    """What is fixed at the start of a sandbox ERP."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = "/rest"
    """The REST root's path; `/api` gives the doubled `/api/api/oauth2/...` (Q34)."""
    orders_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)+$")] = "/ecommerce/v1/pedidos"
    customers_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)+$")] = "/ecommerce/v1/clientes"
    external_id_field: Annotated[str, Field(pattern=r"^C5_[A-Z0-9_]{1,7}$")] = "C5_XPEDWEB"
    external_id_width: Annotated[int, Field(ge=1, le=250)] = 20
    widths: dict[str, Annotated[int, Field(ge=1, le=4000)]] = {}
    """CHAR fields that this customer widened or narrowed."""

    company: str = "01"
    branches: Annotated[tuple[str, ...], Field(min_length=1)] = ("0101", "0102")
    cnpjs: dict[str, Annotated[str, Field(pattern=r"^[0-9A-Z]{14}$")]] = {}
    """A branch's CNPJ, which its invoices' keys hold. A branch that is not here has 11222333000181."""
    user: str = "svc.loja"
    password: SecretStr = Field(default_factory=lambda: SecretStr(secrets.token_urlsafe(12)))
    token_seconds: Annotated[int, Field(ge=1)] = 3600

    conditions: tuple[str, ...] = ("001", "002", "003")
    carriers: tuple[str, ...] = ("000001", "000002", "000003", "000004")
    tes: tuple[str, ...] = ("501",)
    operations: dict[str, str] = {"01": "501"}
    """C6_OPER = the C6_TES that the "smart TES" rule makes of it."""
    required_customer_fields: tuple[str, ...] = (
        *("A1_PESSOA", "A1_CGC", "A1_NOME", "A1_NREDUZ", "A1_TIPO", "A1_END", "A1_EST", "A1_MUN"),
    )
    """What this site made mandatory (8.2). A foreign customer (A1_EST = EX) has no A1_CGC."""
    first_order_number: Annotated[str, Field(pattern=r"^[0-9A-Z]{6}$")] = "000001"

    database: Path | None = None
    """Where its memory and journal are kept, so that they survive a kill. None: in memory only."""
    seed: int = 1
    """Of the faults' dice and the invoices' keys."""
    keep_alive_seconds: Annotated[int, Field(ge=1)] = 60
    switches: Switches = Switches()
    faults: tuple[Fault, ...] = ()

    @model_validator(mode="after")
    def _has_cnpjs(self) -> Self:
        for branch, cnpj in self.cnpjs.items():
            if branch not in self.branches:
                raise ValueError(f"cnpjs: there is no branch {branch!r}; correct its name")
            if not is_tax_id(cnpj):
                raise ValueError(f"cnpjs: {cnpj} of branch {branch!r} has wrong check digits")
        return self

    def branch_named(self, text: str) -> str | None:
        """The branch as it is spelled in the ERP, found without its trailing blanks. None: there is no such branch."""
        return next((branch for branch in self.branches if branch.rstrip() == text.rstrip()), None)

    def cnpj(self, branch: str) -> str:
        return self.cnpjs.get(branch, _USUAL_CNPJ)

    @property
    def tenant(self) -> str:
        """The tenantId of the first branch."""
        return f"{self.company},{self.branches[0]}"

    def to_json(self) -> str:
        """With the password, for the pipe to a sandbox of our own."""
        plain: dict[str, Any] = self.model_dump(mode="json")
        plain["password"] = self.password.get_secret_value()
        return json.dumps(plain)
