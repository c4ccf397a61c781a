"""The profile: one TOML file with SQL in it that describes a shop (contracts/shop-profile.md).

Loading reads the file and nothing else. Whatever is wrong is one `Misconfigured` line: file, key, value, what to do.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from erp_sync.errors import Misconfigured
from erp_sync.models import OrderStatus
from erp_sync.shop.statement import BadStatement, Statement

_STATUSES = frozenset(map(str, OrderStatus))
_STATUS_PARAMETERS = frozenset(
    [
        "number",
        "status",
        "erp_number",
        "invoice_number",
        "invoice_series",
        "invoice_key",
        "invoiced_at",
        "tracking_code",
        "delivered_at",
    ]
)
_STOCK_PARAMETERS = frozenset({"sku", "warehouse", "quantity", "previous"})

MINOR_DIGITS = {
    **dict.fromkeys(
        [
            "BIF",
            "CLP",
            "DJF",
            "GNF",
            "ISK",
            "JPY",
            "KMF",
            "KRW",
            "PYG",
            "RWF",
            "UGX",
            "UYI",
            "VND",
            "VUV",
            "XAF",
            "XOF",
            "XPF",
        ],
        0,
    ),
    **dict.fromkeys(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"], 3),
    **dict.fromkeys(["CLF", "UYW"], 4),
}
"""ISO 4217: the currencies whose minor unit is not two decimals."""


def _statement(parse: Callable[[str], Statement]) -> BeforeValidator:
    def parsed(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError("must be a text with one SQL statement")
        return parse(value)

    return BeforeValidator(parsed)


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError("is no time zone: write one such as America/Sao_Paulo or UTC") from None
    return name


Reading = Annotated[Statement, _statement(Statement.reading)]
Writing = Annotated[Statement, _statement(Statement.writing)]
Zone = Annotated[str, AfterValidator(_zone)]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
Name = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, strict=True)


class ShopSection(_Section):
    app_timezone: Zone
    """The wall clock that the shop writes: what a date without an offset means."""
    business_timezone: Zone
    session_timezone: Annotated[
        str, StringConstraints(pattern=r"^([+-](0\d|1[0-4]):[0-5]\d|SYSTEM|[A-Z][\w+/-]+)$")
    ] = "+00:00"
    """What `time_zone` is set to, so that TIMESTAMP columns come back as the shop wrote them."""
    money: Literal["decimal", "minor"] = "decimal"
    currencies: Annotated[list[Currency], Field(min_length=1)]
    exponents: dict[Currency, Annotated[int, Field(ge=0, le=6)]] = {}

    def decimals(self, currency: str) -> int:
        """How many decimals an amount of this currency has."""
        return self.exponents.get(currency, MINOR_DIGITS.get(currency, 2))


class ReadSection(_Section):
    orders: Reading
    lines: Reading

    @model_validator(mode="after")
    def _parameters(self) -> Self:
        _only(self.orders, "orders", frozenset({"since", "order_ids"}))
        _only(self.lines, "lines", frozenset({"order_ids"}))
        return self


class StatusSection(_Section):
    """How the ERP's statuses are written back."""

    find: Reading
    write: Annotated[list[Writing], Field(min_length=1)]
    allow_from: Annotated[list[Name], Field(min_length=1)]
    map: dict[Name, Name]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _only(self.find, "find", frozenset({"number"}), required="number")
        for statement in self.write:
            _only(statement, "write", _STATUS_PARAMETERS, required="number")
        for status in self.map:
            if status not in _STATUSES:
                raise ValueError(f"map.{status} is no status of the ERP: use one of {', '.join(sorted(_STATUSES))}")
        return self


class StockSection(_Section):
    """How the ERP's stock is written back."""

    find: Reading
    write: Annotated[list[Writing], Field(min_length=1)]
    bulk: Writing | None = None
    skus: Reading | None = None
    """Every SKU of the shop, in a column `sku`. None: products that the ERP does not show are neither counted nor asked
    for by name."""
    warehouses: dict[Name, Name] = {}
    """ERP warehouse = the shop's name for it."""
    rounding: Literal["floor"] = "floor"
    basis: Literal["available", "physical"] = "available"
    waiting_holds: bool = False
    waiting_days: Annotated[int, Field(ge=0, le=365)] = 7

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _only(self.find, "find", frozenset({"sku", "warehouse"}), required="sku")
        for statement in self.write:
            _only(statement, "write", _STOCK_PARAMETERS, required="sku")
        if self.bulk is not None:
            _only(self.bulk, "bulk", frozenset())
            if "erp_sync_stock" not in self.bulk.sql:
                raise ValueError("bulk does not read the temporary table erp_sync_stock: join it")
        if self.skus is not None:
            _only(self.skus, "skus", frozenset())
        return self


class Profile(_Section):
    """Everything that is known about a shop. `name` is for messages: a shipped profile's name, or a path."""

    name: str
    shop: ShopSection
    read: ReadSection
    status: StatusSection | None = None
    """None: statuses are not written back."""
    stock: StockSection | None = None
    """None: stock is not written back."""

    @cached_property
    def app_timezone(self) -> ZoneInfo:
        return ZoneInfo(self.shop.app_timezone)

    @cached_property
    def business_timezone(self) -> ZoneInfo:
        return ZoneInfo(self.shop.business_timezone)


def shipped_profiles() -> list[str]:
    """The names of the profiles that come with erp_sync."""
    files = resources.files("erp_sync.shop").joinpath("profiles").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_profile(name_or_path: str | Path) -> Profile:
    """A shipped profile by its name, or any profile by its path (whatever ends in `.toml` or holds a slash).

    Raises Misconfigured.
    """
    name = str(name_or_path)
    if name.endswith(".toml") or "/" in name or "\\" in name:
        source: Any = Path(name)
    elif name in shipped_profiles():
        source = resources.files("erp_sync.shop").joinpath("profiles", f"{name}.toml")
    else:
        shipped = ", ".join(shipped_profiles())
        raise Misconfigured(
            f"ERP_SYNC_SHOP_PROFILE = {name!r} is no shipped profile ({shipped}): give one, or a path to a .toml file"
        )
    try:
        values = tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise Misconfigured(
            f"ERP_SYNC_SHOP_PROFILE = {name!r} cannot be read ({error.strerror}): give the path of the profile"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"profile {name} is not valid TOML: {error}") from None
    if "name" in values:
        raise Misconfigured(f"profile {name}: name is no key of a profile: remove it")
    try:
        return Profile(name=name, **values)
    except ValidationError as error:
        raise Misconfigured(f"profile {name}: {_one_line(error)}") from None


def _only(statement: Statement, key: str, allowed: frozenset[str], required: str = "") -> None:
    unknown = sorted(statement.parameters - allowed)
    if unknown:
        known = ", ".join(f":{name}" for name in sorted(allowed)) or "none"
        raise BadStatement(f"{key} uses the parameter :{unknown[0]}, which it does not get: it may use {known}")
    if required and required not in statement.parameters:
        raise BadStatement(f"{key} does not use :{required}: without it every row would match")


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    section, *keys = [str(part) for part in first["loc"]]
    where = " ".join([f"[{section}]", ".".join(keys)]).strip()
    given = first.get("input")
    if first["type"] == "missing":
        return f"{where} is missing: add it"
    if first["type"] == "extra_forbidden":
        return f"{where} is no key of a profile: remove it or correct its spelling"
    shown = f" = {given!r}" if isinstance(given, str | int | float) and len(str(given)) <= 60 else ""
    return f"{where}{shown}: {first['msg'].removeprefix('Value error, ')}"
