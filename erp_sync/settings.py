"""Every setting, read and checked once: addresses and secrets from the environment, the rest from one TOML file.

Reading settings touches no network. A wrong value is one `Misconfigured` line that names the setting. A secret may be a
reference, `aws-secret:NAME-or-ARN#key`: it is fetched when it is first needed, once per process.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import re
import resource
import tomllib
from collections.abc import Collection, Iterable
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from erp_sync import aws_secrets
from erp_sync.errors import Misconfigured
from erp_sync.scrub import never_show

FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9]_[A-Z0-9_]{1,10}$")]
"""A Protheus dictionary field: `C5_XPEDWEB`."""
Seconds = Annotated[float, Field(gt=0, le=3600)]
SHORTEST_SECRET = 16
"""Characters of a webhook's secret: below it a guess is thinkable."""


def _rest_path(path: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise ValueError("must be a path such as /ecommerce/v1/pedidos, without a query")
    return path


RestPath = Annotated[str, AfterValidator(_rest_path)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ErpSection(_Section):
    """`[erp]`: how this Protheus is spoken to (contracts/protheus-rest.md). All times in seconds."""

    token_style: Literal["headers", "query", "form", "basic"] = "headers"
    orders_path: RestPath = "/ecommerce/v1/pedidos"
    customers_path: RestPath = "/ecommerce/v1/clientes"
    external_id_field: FieldName = "C5_XPEDWEB"
    external_id_width: Annotated[int, Field(ge=1, le=250)] = 20
    widths: dict[FieldName, Annotated[int, Field(ge=1, le=4000)]] = {}
    create_is_idempotent: bool = False
    settle_seconds: Annotated[float, Field(ge=0, le=3600)] = 180
    connect_timeout: Seconds = 5
    read_timeout: Seconds = 60
    write_timeout: Seconds = 180
    max_parallel: Annotated[int, Field(ge=1, le=64)] = 4
    max_parallel_writes: Annotated[int, Field(ge=1, le=64)] = 2
    max_per_minute: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_parallel_writes > self.max_parallel:
            raise ValueError(
                f"max_parallel_writes = {self.max_parallel_writes} is more than max_parallel = {self.max_parallel}: "
                "lower the one or raise the other"
            )
        return self

    @property
    def lease_seconds(self) -> float:
        """How long a claim holds: longer than any answer that is still waited for."""
        return self.write_timeout + 30

    @property
    def doubt_seconds(self) -> float:
        """From the last moment at which a byte of a create may have left until its absence in the ERP is final."""
        return 0.0 if self.create_is_idempotent else self.write_timeout + self.settle_seconds


class OrdersSection(_Section):
    """`[orders]`: which orders are sent, and how the shop's words become Protheus codes."""

    start_day: date | None = None
    """The day of going live; nothing that was ready before is ever sent. None: the flow refuses to run."""
    linger_seconds: Annotated[float, Field(ge=0, le=240)] = 60
    operation: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{0,2}$")] = "01"
    tes: Annotated[str, StringConstraints(pattern=r"^([A-Z0-9]{3})?$")] = ""
    payments: dict[str, Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{1,3}$")]] = {
        "pix": "001",
        "boleto": "002",
        "card": "003",
    }
    default_payment: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{0,3}$")] = ""
    carriers: dict[str, Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{1,6}$")]] = {}
    tax_to: Literal["C5_DESPESA", "refuse"] = "C5_DESPESA"
    delivery_to: Literal["C5_MENNOTA", "store"] = "C5_MENNOTA"
    require_tax_id: bool = True
    default_customer: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]{1,9}(/[A-Za-z0-9]{1,4})?)?$")] = ""
    """`A1_COD` or `A1_COD/A1_LOJA` of orders without a tax id, where none is required."""
    countries: dict[
        Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")],
        Annotated[str, StringConstraints(pattern=r"^[0-9]{3}$")],
    ] = {}
    """ISO 3166 country = A1_PAIS, for customers outside Brazil."""

    @model_validator(mode="after")
    def _fiscal_code(self) -> Self:
        if not self.tes and not self.operation:
            raise ValueError("one of operation (C6_OPER) and tes (C6_TES) must be set")
        return self


class StatusesSection(_Section):
    """`[statuses]`: how often the ERP is asked what became of an order, and what is done about it.

    An order is asked for at every pass (`every_minutes`) until `young_days` after its last change, then once in
    `old_minutes`; a final status is watched for `grace_days`, and then never again.
    """

    delivered_from: Literal["none", "f2_dtentr", "gfe"] = "none"
    cancel_mode: Literal["auto", "exclusao", "residuo"] = "auto"
    every_minutes: Literal[1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60] = 5
    """Of the schedule: what divides an hour."""
    young_days: Annotated[int, Field(ge=0, le=365)] = 7
    old_minutes: Annotated[int, Field(ge=1, le=1440)] = 60
    grace_days: Annotated[int, Field(ge=0, le=365)] = 7
    issuers: list[Annotated[str, StringConstraints(pattern=r"^[0-9A-Z]{12}[0-9]{2}$")]] = []
    """The CNPJs, bare, that may stand in an NF-e key. Empty: any."""
    tracking_field: Literal[""] | FieldName = ""
    """The field of SC5 with the carrier's tracking code (C5_RASTR where the retail module is there). Empty: none."""
    too_late_hours: Annotated[int, Field(ge=1, le=8760)] = 24
    """How long a person has who must cancel an invoice because the shop cancelled its order."""
    cancel_reason: Annotated[str, StringConstraints(min_length=1, max_length=60)] = "Cancelado na loja"
    """`motivo` of the cancel call."""

    @field_validator("tracking_field")
    @classmethod
    def _of_the_header(cls, field: str) -> str:
        if field and not field.startswith("C5_"):
            raise ValueError("must be a field of SC5, such as C5_RASTR, or empty")
        return field


class StockSection(_Section):
    """`[stock]`: what of the ERP's figures the shop may sell (contracts/protheus-rest.md, 9.3)."""

    source: Literal["sb2", "retail"] = "sb2"
    """genericQuery on SB2, or the retail module's retailStockLevel, which knows no open orders."""
    warehouses: Annotated[list[Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{1,4}$")]], Field(min_length=1)] = [
        "01"
    ]
    formula: Literal["standard", "simple", "physical"] = "standard"
    subtract_open_orders: bool = True
    buffer: Annotated[int, Field(ge=0)] = 0
    """Units of every SKU that are never offered."""
    sku_buffers: dict[str, Annotated[int, Field(ge=0)]] = {}
    """SKU = units, instead of `buffer`."""
    warehouse_buffers: dict[str, Annotated[int, Field(ge=0)]] = {}
    """ERP warehouse = units of every SKU that stay there, besides the other buffers."""
    without_row: Literal["unknown", "zero"] = "unknown"
    """What a product of the shop is of which the ERP, asked by name, has no row in any of the warehouses. unknown: it
    is reported and left alone. zero: it is out of stock where SB1 has it and has not blocked it; the ERP's user needs
    SB1 for that."""
    differences_csv: str = ""
    """File, or directory of a file, that each pass replaces with all differences it found. "": none."""
    max_change_share: Annotated[float, Field(gt=0, le=1)] = 0.3
    every_minutes: Literal[1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60] = 5
    """Of the schedule: what divides an hour."""
    stale_minutes: Annotated[int, Field(ge=1, le=1440)] = 15
    """A figure older than this may lower the shop's stock, and never raise it."""

    @model_validator(mode="after")
    def _told_by_the_source(self) -> Self:
        if self.source == "retail" and self.without_row == "zero":
            raise ValueError('without_row = "zero" asks for products by name, which source = "retail" cannot: leave it')
        if self.source == "retail" and (self.formula == "standard" or self.subtract_open_orders):
            raise ValueError(
                'source = "retail" knows neither open orders nor what production takes: set formula = "simple" and '
                "subtract_open_orders = false, and release every order as it is created"
            )
        return self

    @model_validator(mode="after")
    def _known_warehouses(self) -> Self:
        unknown = sorted(self.warehouse_buffers.keys() - set(self.warehouses))
        if unknown:
            raise ValueError(f"warehouse_buffers.{unknown[0]} is none of warehouses: add it there, or remove it")
        return self

    def contradiction(self, basis: str, warehouses: Collection[str]) -> str:
        """What is wrong beside the profile's `[stock]` basis and warehouses, in one line; "" where nothing is."""
        if basis == "physical" and (self.formula != "physical" or self.subtract_open_orders):
            return (
                '[stock] basis = "physical" of the profile publishes B2_QATU alone: set stock.formula = "physical" and '
                "stock.subtract_open_orders = false"
            )
        unknown = [code for code in self.warehouses if warehouses and code not in warehouses]
        if unknown:
            return (
                f"stock.warehouses names {unknown[0]!r}, which [stock] warehouses of the profile does not: say there "
                "which stock of the shop it belongs to"
            )
        return ""


class AlertsSection(_Section):
    """`[alerts]`: what is told in Slack, and when."""

    digest_hour: Annotated[int, Field(ge=0, le=23)] = 8
    """From this hour on, of the profile's business time zone, what is still open is told once a day."""
    ui_url: Annotated[str, StringConstraints(max_length=200)] = ""
    """Where people reach Dagster's UI, such as https://dagster.example.com; for links. Empty: messages have none."""
    alive_seconds: Annotated[int, Field(ge=30, le=86_400)] = 120
    """`erp-sync doctor --alive` fails where the alarms gave no sign for so long."""

    @field_validator("ui_url")
    @classmethod
    def _address(cls, url: str) -> str:
        if url and not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?", url):
            raise ValueError("must be the address of Dagster's UI, such as https://dagster.example.com")
        return url.rstrip("/")


class LogsSection(_Section):
    """`[logs]`: what the processes say of their work (erp_sync/logs.py)."""

    format: Literal["json", "text"] | None = None
    """None: json under Dagster, text on the command line."""
    level: Literal["debug", "info", "warning"] = "info"
    """Of json lines. debug: each call to the ERP, and each step of an order."""
    environment: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,40}$")] = "production"
    """The dimension `env` of all metrics."""
    cloudwatch_group: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/#-]{0,512}$")] = ""
    """Lines also go to this CloudWatch group, which must exist. Needs the `aws` extra."""

    @property
    def threshold(self) -> int:
        """The level as `logging` counts it."""
        return logging.getLevelNamesMapping()[self.level.upper()]


class ReconcileSection(_Section):
    """`[reconcile]`: which days are compared by themselves, every night."""

    days: Annotated[int, Field(ge=1, le=31)] = 3
    """The last so many business days before today."""


class RetentionSection(_Section):
    """`[retention]`: for how many days what is only history is kept. An order itself is kept for ever."""

    event_days: Annotated[int, Field(ge=30, le=36500)] = 400
    """The steps of an order's story, after the last of them: whoever closes a year may ask about all of it."""
    run_days: Annotated[int, Field(ge=2, le=3650)] = 14
    """Dagster's runs that succeeded, after their end: two weeks of figures that plot."""
    failed_run_days: Annotated[int, Field(ge=2, le=3650)] = 90
    """Those that failed or were cancelled: what is looked into takes longer."""


class WebhookSource(_Section):
    """One sender of webhooks, `[webhook.sources.NAME]` (contracts/shop-profile.md, webhooks)."""

    scheme: Literal["spatie", "standard"]
    """spatie/laravel-webhook-server, or Standard Webhooks 1.0."""
    reference: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){0,9}$")] = "order_id"
    """Where in the body the order is named: a key, or keys with dots between them, such as data.order.id."""
    names: Literal["order_id", "number"] = "order_id"
    """What stands there: the profile's order_id, or the order number."""


class WebhookSection(_Section):
    """`[webhook]`: who may tell us of an order before we find it ourselves."""

    sources: dict[Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")], WebhookSource] = {}
    """By the name in their address, /webhooks/NAME. Their secrets: ERP_SYNC_WEBHOOK_SECRETS."""


class Settings(BaseSettings):
    """What is set. `require_*` say in one line what is missing, for the flow that needs it."""

    model_config = SettingsConfigDict(
        env_prefix="ERP_SYNC_", frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    shop_url: SecretStr | None = None
    shop_profile: str = "laravel"
    ledger_url: SecretStr | None = None
    erp_url: str | None = None
    erp_user: str | None = None
    erp_password: SecretStr | None = None
    erp_tenant: str | None = None
    erp_ca_bundle: Path | None = None
    slack_token: SecretStr | None = None
    slack_channel: str | None = None
    slack_base_url: str | None = None
    webhook_secrets: SecretStr | None = None
    """JSON: the secret of each source, or a list of them while one is being replaced."""
    language: Literal["pt-BR", "en"] = "pt-BR"
    erp: ErpSection = ErpSection()
    orders: OrdersSection = OrdersSection()
    statuses: StatusesSection = StatusesSection()
    stock: StockSection = StockSection()
    alerts: AlertsSection = AlertsSection()
    logs: LogsSection = LogsSection()
    reconcile: ReconcileSection = ReconcileSection()
    retention: RetentionSection = RetentionSection()
    webhook: WebhookSection = WebhookSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings)

    @field_validator("erp_url")
    @classmethod
    def _encrypted(cls, url: str | None) -> str | None:
        if url is None:
            return None
        secrets = "must not hold a user or password: set ERP_SYNC_ERP_USER and ERP_SYNC_ERP_PASSWORD"
        return _root(url, "must be the REST root, such as https://erp.example.com:8443/rest", secrets, "the password")

    @field_validator("slack_base_url")
    @classmethod
    def _encrypted_too(cls, url: str | None) -> str | None:
        if url is None:
            return None
        secrets = "must not hold a user or password: set ERP_SYNC_SLACK_TOKEN"
        return _root(url, "must be the root of Slack's API, such as https://slack.com/api", secrets, "the token")

    @field_validator("slack_token")
    @classmethod
    def _one_word(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not re.fullmatch(_BOT_TOKEN, token.get_secret_value()):
            raise ValueError(_NO_BOT_TOKEN)
        return token

    @field_validator("slack_channel")
    @classmethod
    def _a_channel(cls, channel: str | None) -> str | None:
        if channel is not None and not re.fullmatch(r"#?[\w-]{1,80}", channel):
            raise ValueError("must be a channel's id, such as C0123456789, or its name")
        return channel

    @field_validator("webhook_secrets")
    @classmethod
    def _by_source(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None and not aws_secrets.is_reference(given.get_secret_value()):
            _webhook_secrets(given.get_secret_value())
        return given

    @field_validator("erp_tenant")
    @classmethod
    def _company_and_branch(cls, tenant: str | None) -> str | None:
        if tenant is not None and not re.fullmatch(r"[A-Z0-9]{2},[A-Za-z0-9][A-Za-z0-9 ]{1,11}", tenant):
            raise ValueError("must be company and branch, no blank after the comma, such as 01,0101")
        return tenant

    @field_validator("erp_ca_bundle")
    @classmethod
    def _readable(cls, bundle: Path | None) -> Path | None:
        if bundle is not None and not bundle.is_file():
            raise ValueError(f"{bundle} is not a file: give the PEM file of the ERP's certificate authority")
        return bundle

    @cached_property
    def erp_branch(self) -> str:
        """The branch of the tenant: what every answer of the ERP must belong to."""
        return self.require_erp()[3].partition(",")[2].rstrip()

    def secrets(self) -> list[str]:
        """Every value that no log may show; of an address its password alone. What a reference names is not among
        them: redaction learns it as it is fetched."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        values = {name: each.get_secret_value() for name, each in given.items() if isinstance(each, SecretStr)}
        return [
            form
            for name, value in values.items()
            if not aws_secrets.is_reference(value)
            for form in _hidden(name, value)
        ]

    def secret(self, name: str) -> str | None:
        """The value of a secret setting, such as `slack_token`; fetched where a reference stands. None: it is not set.

        Raises Misconfigured and SecretUnavailable.
        """
        value: SecretStr | None = getattr(self, name)
        if value is not None and aws_secrets.is_reference(value.get_secret_value()):
            value = aws_secrets.fetch(f"ERP_SYNC_{name.upper()}", value.get_secret_value())
            never_show(_hidden(name, value.get_secret_value()))
        return None if value is None else value.get_secret_value()

    def require_shop_url(self) -> str:
        return self._required("shop_url", "the SQLAlchemy URL of the shop's database")

    def require_ledger_url(self) -> str:
        return self._required("ledger_url", "the SQLAlchemy URL of erp_sync's own database")

    def _required(self, name: str, meaning: str) -> str:
        value = self.secret(name)
        if value is None:
            raise Misconfigured(f"ERP_SYNC_{name.upper()} is not set: give {meaning}")
        return value

    def require_erp(self) -> tuple[str, str, str, str]:
        """REST root, user, password, tenant."""
        root, user, tenant, password = self.erp_url, self.erp_user, self.erp_tenant, self.secret("erp_password")
        if root is None or user is None or tenant is None or password is None:
            raise Misconfigured(self._missing_of_erp()[0])
        return root, user, password, tenant

    def _missing_of_erp(self) -> list[str]:
        meanings = {
            "url": "the REST root of Protheus",
            "user": "the user erp_sync logs in with",
            "tenant": "company and branch, such as 01,0101",
            "password": f"the password of {self.erp_user or 'that user'}",
        }
        return [
            f"ERP_SYNC_ERP_{name.upper()} is not set: give {meaning}"
            for name, meaning in meanings.items()
            if getattr(self, f"erp_{name}") is None
        ]

    def missing(self) -> list[str]:
        """A line for each setting that a flow cannot do without."""
        lines = self._missing_of_erp()
        for require in (self.require_shop_url, self.require_ledger_url, self.require_start_day, self.slack_account):
            try:
                require()
            except Misconfigured as error:
                lines.append(str(error))
        return lines

    def require_start_day(self) -> date:
        if self.orders.start_day is None:
            raise Misconfigured(
                "orders.start_day is not set: write the day of going live into the file that ERP_SYNC_CONFIG names; "
                "nothing that was ready before it is ever sent"
            )
        return self.orders.start_day

    def slack_account(self) -> tuple[str, str, str | None] | None:
        """Token, channel, and the API's root where it is not Slack's own. None: nothing is told in Slack."""
        if self.slack_token is None:
            return None
        if self.slack_channel is None:
            raise Misconfigured(
                "ERP_SYNC_SLACK_CHANNEL is not set: give the id of the alerts' channel, or unset ERP_SYNC_SLACK_TOKEN"
            )
        if not re.fullmatch(_BOT_TOKEN, self._required("slack_token", "a bot token")):
            raise Misconfigured(f"ERP_SYNC_SLACK_TOKEN: {_NO_BOT_TOKEN}")
        return self._required("slack_token", "a bot token"), self.slack_channel, self.slack_base_url

    def require_webhook_secrets(self) -> dict[str, tuple[str, ...]]:
        """The secrets of each source of `[webhook]`. Raises Misconfigured where a source has none."""
        if not self.webhook.sources:
            raise Misconfigured(
                "webhook.sources is not set: name each sender in the file that ERP_SYNC_CONFIG names, such as "
                '[webhook.sources.loja] with scheme = "spatie"'
            )
        try:
            secrets = _webhook_secrets(self.secret("webhook_secrets") or "{}")
        except ValueError as error:
            raise Misconfigured(f"ERP_SYNC_WEBHOOK_SECRETS: {error}") from None
        for name in self.webhook.sources:
            if name not in secrets:
                raise Misconfigured(f"ERP_SYNC_WEBHOOK_SECRETS has no secret of webhook.sources.{name}: {_BY_SOURCE}")
        return secrets


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process: overrides, then the environment, then the file that `ERP_SYNC_CONFIG` names.

    Raises Misconfigured, in one line that names the setting and never shows a secret. From here on a crash of this
    process, or of one that it starts, dumps no core.
    """
    _leave_no_core()
    path = os.environ.get("ERP_SYNC_CONFIG")
    in_environment = {name for name in Settings.model_fields if os.environ.get(f"ERP_SYNC_{name.upper()}")}
    values = read_toml(Path(path)) if path else {}
    for line in misplaced(in_environment, values, path):
        raise Misconfigured(line)
    values = {name: value for name, value in values.items() if name not in in_environment}
    try:
        settings = Settings(**{**values, **overrides})
    except ValidationError as error:
        wrong = wrong_lines(error)[0]
    else:
        never_show(settings.secrets())
        return settings
    # Out here pydantic's error, whose frames hold all that was given, is no part of this one.
    raise Misconfigured(wrong)


def _leave_no_core() -> None:
    """It would hold the secrets. 1 and not 0: Linux hands a core to a program (core_pattern) whatever the limit is, but
    for that one; and a file of one byte is never begun."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (min(1, hard) if hard >= 0 else 1, hard))


_BOT_TOKEN = r"[!-~]+"
_NO_BOT_TOKEN = "must be a bot token (xoxb-...), one word of plain ASCII"
SECTIONS = {"erp", "orders", "statuses", "stock", "alerts", "logs", "reconcile", "retention", "webhook"}
FROM_ENVIRONMENT = ("shop_url", "ledger_url", "erp_password", "slack_token", "webhook_secrets")
"""Secrets, which no file may hold."""
_MAY_HOLD_ONE = ("erp_url", "slack_base_url", "slack_channel")
_NOT_SHOWN = {f"ERP_SYNC_{name.upper()}" for name in (*FROM_ENVIRONMENT, *_MAY_HOLD_ONE)}


def misplaced(in_environment: Iterable[str], in_file: Iterable[str], path: str | None) -> list[str]:
    """A line for each section in the environment, and for each secret in the file."""
    file = path or "the file that ERP_SYNC_CONFIG names"
    sections = sorted(SECTIONS & set(in_environment))
    return [
        *(f"ERP_SYNC_{name.upper()} is not a setting: [{name}] belongs into {file}" for name in sections),
        *(
            f"{path} holds {name}: secrets come from the environment, as ERP_SYNC_{name.upper()}"
            for name in FROM_ENVIRONMENT
            if name in in_file
        ),
    ]


def read_toml(path: Path) -> dict[str, Any]:
    """Raises Misconfigured."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Misconfigured(f"ERP_SYNC_CONFIG = {str(path)!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"ERP_SYNC_CONFIG = {str(path)!r} is not valid TOML: {error}") from None


def wrong_lines(error: ValidationError) -> list[str]:
    """A line for each wrong value, in the order of `error.errors()`; no secret is in it."""
    return [_line(each) for each in error.errors(include_url=False, include_context=False)]


def _line(first: ErrorDetails) -> str:
    names = [str(part) for part in first["loc"] if part != "[key]"]
    if first["type"] == "extra_forbidden":
        # Its value may be a secret under a name that nobody expected.
        return f"{'.'.join(names)} is no setting: correct its name in the file that ERP_SYNC_CONFIG names, or remove it"
    name = ".".join(names) if names and names[0] in SECTIONS | {"language"} else f"ERP_SYNC_{'.'.join(names).upper()}"
    given = first.get("input")
    value = str(given) if isinstance(given, date) else repr(given)
    shown = f" = {value}" if isinstance(given, str | int | float | date) and name not in _NOT_SHOWN else ""
    return f"{name}{shown}: {first['msg'].removeprefix('Value error, ')}"


_BY_SOURCE = """give JSON with the secrets of each source, such as {"loja":"…"} or {"loja":["new","old"]}"""
"""Without ": ": the doctor parts a line into message and advice at the last one."""


def _webhook_secrets(given: str) -> dict[str, tuple[str, ...]]:
    """Raises ValueError."""
    try:
        by_source = json.loads(given)
    except ValueError:
        raise ValueError(f"is not JSON: {_BY_SOURCE}") from None
    if not isinstance(by_source, dict):
        raise ValueError(f"is not an object: {_BY_SOURCE}")
    found = {name: (value,) if isinstance(value, str) else value for name, value in by_source.items()}
    for name, secrets in found.items():
        texts = isinstance(secrets, list | tuple) and secrets and all(isinstance(each, str) for each in secrets)
        if not texts or any(len(each) < SHORTEST_SECRET for each in secrets):
            raise ValueError(
                f"{name[:64]!r} needs one secret or a list of them, each of at least {SHORTEST_SECRET} characters"
            )
    return {name: tuple(secrets) for name, secrets in found.items()}


def _hidden(name: str, value: str) -> list[str]:
    """The forms of a secret that no text may hold; of an address its password alone."""
    if name == "webhook_secrets":
        try:
            by_source = _webhook_secrets(value)
        except ValueError:
            return [value]
        return [form for each in by_source.values() for one in each for form in (one, one.removeprefix("whsec_"))]
    if "://" not in value:
        return [value, *(part.strip() for part in value.split(","))]
    match = re.match(r"[^:]+://[^:/@]*:(.*)@", value)
    return [] if match is None else [match[1], unquote(match[1])]


def _root(url: str, form: str, secrets: str, what: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:
        raise ValueError(form) from None
    if not usable or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(form)
    if parts.username or parts.password:
        raise ValueError(secrets)
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError(f"must be https: plain http is for loopback only, {what} would travel in the clear")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
