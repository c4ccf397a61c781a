"""Settings: what is accepted, what is refused and in which words, and that no secret is ever shown."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from erp_sync.errors import Misconfigured
from erp_sync.scrub import redact
from erp_sync.settings import Settings, load_settings

CANARY = "s3cr3t-c4n4ry"

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("ERP_SYNC_"):
            monkeypatch.delenv(name)


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Makes a text the file that ERP_SYNC_CONFIG names."""

    def write(text: str) -> Path:
        path = tmp_path / "erp_sync.toml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv("ERP_SYNC_CONFIG", str(path))
        return path

    return write


def _refusal(**overrides: Any) -> str:
    """The one line that says what is wrong; neither it nor what it came from holds the canary."""
    with pytest.raises(Misconfigured) as caught:
        load_settings(**overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return message


def test_the_defaults_are_those_of_the_design() -> None:
    assert load_settings().model_dump() == {
        "shop_url": None,
        "shop_profile": "laravel",
        "ledger_url": None,
        "erp_url": None,
        "erp_user": None,
        "erp_password": None,
        "erp_tenant": None,
        "erp_ca_bundle": None,
        "slack_token": None,
        "slack_channel": None,
        "slack_base_url": None,
        "language": "pt-BR",
        "erp": {
            "token_style": "headers",
            "orders_path": "/ecommerce/v1/pedidos",
            "customers_path": "/ecommerce/v1/clientes",
            "external_id_field": "C5_XPEDWEB",
            "external_id_width": 20,
            "widths": {},
            "create_is_idempotent": False,
            "settle_seconds": 180,
            "connect_timeout": 5,
            "read_timeout": 60,
            "write_timeout": 180,
            "max_parallel": 4,
            "max_parallel_writes": 2,
            "max_per_minute": 0,
        },
        "orders": {
            "start_day": None,
            "linger_seconds": 60,
            "operation": "01",
            "tes": "",
            "payments": {"pix": "001", "boleto": "002", "card": "003"},
            "default_payment": "",
            "carriers": {},
            "tax_to": "C5_DESPESA",
            "delivery_to": "C5_MENNOTA",
            "require_tax_id": True,
            "default_customer": "",
            "countries": {},
        },
        "statuses": {
            "delivered_from": "none",
            "cancel_mode": "auto",
            "every_minutes": 5,
            "young_days": 7,
            "old_minutes": 60,
            "grace_days": 7,
            "issuers": [],
            "tracking_field": "",
            "too_late_hours": 24,
            "cancel_reason": "Cancelado na loja",
        },
        "stock": {
            "source": "sb2",
            "warehouses": ["01"],
            "formula": "standard",
            "subtract_open_orders": True,
            "buffer": 0,
            "without_row": "unknown",
            "differences_csv": "",
            "max_change_share": 0.3,
            "sku_buffers": {},
            "warehouse_buffers": {},
            "every_minutes": 5,
            "stale_minutes": 15,
        },
        "alerts": {"digest_hour": 8, "ui_url": "", "alive_seconds": 120},
        "reconcile": {"days": 3},
        "logs": {"format": None, "level": "info", "environment": "production", "cloudwatch_group": ""},
        "retention": {"event_days": 400, "run_days": 14, "failed_run_days": 90},
        "webhook_secrets": None,
        "webhook": {"sources": {}},
    }


def test_every_secret_is_known_to_the_logs() -> None:
    settings = load_settings(
        shop_url="mysql+pymysql://shop:p%40ss-word@db/shop?ssl_ca=/x",
        ledger_url="sqlite:////var/lib/erp_sync/ledger.sqlite",
        erp_password="an-erp-password",
    )
    assert set(settings.secrets()) == {"p%40ss-word", "p@ss-word", "an-erp-password"}
    shown = redact("p@ss-word p%40ss-word an-erp-password /var/lib/erp_sync/ledger.sqlite")
    assert shown == "*** *** *** /var/lib/erp_sync/ledger.sqlite"


def test_the_whole_file_is_read(toml: Write) -> None:
    toml(
        """
        language = "en"
        erp_url = "https://erp.example.com:8443/rest/"
        erp_tenant = "01,0101"
        [erp]
        token_style = "basic"
        orders_path = "/loja/pedidos"
        widths = { C6_PRODUTO = 15, A1_NOME = 40 }
        create_is_idempotent = true
        settle_seconds = 90.5
        max_parallel = 8
        max_parallel_writes = 8
        [orders]
        start_day = 2026-05-01
        operation = ""
        tes = "501"
        payments = { pix = "PX" }
        carriers = { sedex = "000001" }
        countries = { PT = "607" }
        tax_to = "refuse"
        [statuses]
        cancel_mode = "residuo"
        [stock]
        warehouses = ["01", "02"]
        buffer = 2
        """
    )
    settings = load_settings()
    assert settings.language == "en"
    assert settings.erp_url == "https://erp.example.com:8443/rest", "paths are appended to it"
    assert settings.erp.widths == {"C6_PRODUTO": 15, "A1_NOME": 40}
    assert (settings.erp.settle_seconds, settings.erp.max_parallel_writes) == (90.5, 8)
    assert settings.require_start_day() == date(2026, 5, 1)
    assert (settings.orders.operation, settings.orders.tes) == ("", "501")
    assert settings.orders.payments == {"pix": "PX"}, "the file's payments replace the defaults, they do not add"
    assert settings.statuses.cancel_mode == "residuo"
    assert settings.stock.warehouses == ["01", "02"]


def test_overrides_win_over_the_environment_and_that_over_the_file(
    toml: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml('language = "en"\nerp_user = "file"')
    assert load_settings().erp_user == "file"
    monkeypatch.setenv("ERP_SYNC_ERP_USER", "environment")
    assert load_settings().erp_user == "environment"
    assert load_settings(erp_user="override").erp_user == "override"
    assert load_settings().language == "en", "what the environment does not say comes from the file"


def test_an_empty_variable_is_an_absent_one(toml: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files and task definitions pass `NAME=` for what nobody filled in."""
    toml('language = "en"')
    monkeypatch.setenv("ERP_SYNC_LANGUAGE", "")
    monkeypatch.setenv("ERP_SYNC_ERP_CA_BUNDLE", "")
    assert (load_settings().language, load_settings().erp_ca_bundle) == ("en", None)
    monkeypatch.setenv("ERP_SYNC_CONFIG", "")
    assert load_settings().language == "pt-BR"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("erp = 3", "erp = 3: "),
        ('language = "de"', "language = 'de': Input should be 'pt-BR' or 'en'"),
        ('[erp]\ntoken_style = "header"', "erp.token_style = 'header': Input should be 'headers', 'query', 'form'"),
        ('[erp]\norders_path = "/pedidos?x=1"', "erp.orders_path = '/pedidos?x=1': must be a path such as"),
        ('[erp]\ncustomers_path = "clientes"', "erp.customers_path = 'clientes': must be a path such as"),
        ('[erp]\norders_path = "/a/../b/"', "erp.orders_path = '/a/../b/': must be a path such as"),
        ('[erp]\nexternal_id_field = "c5_x"', "erp.external_id_field = 'c5_x': String should match"),
        ("[erp]\nexternal_id_width = 0", "erp.external_id_width = 0: Input should be greater than or equal to 1"),
        ("[erp]\nwidths = { C6_PRODUTO = 0 }", "erp.widths.C6_PRODUTO = 0: Input should be greater"),
        ("[erp]\nwidths = { produto = 5 }", "erp.widths.produto = 'produto': String should match"),
        ('[erp]\ncreate_is_idempotent = "yes"', "erp.create_is_idempotent = 'yes': Input should be a valid boolean"),
        ("[erp]\nsettle_seconds = -1", "erp.settle_seconds = -1: Input should be greater than or equal to 0"),
        ("[erp]\nsettle_seconds = nan", "erp.settle_seconds = nan: "),
        ("[erp]\nconnect_timeout = 0", "erp.connect_timeout = 0: Input should be greater than 0"),
        ("[erp]\nread_timeout = inf", "erp.read_timeout = inf: Input should be less than or equal to 3600"),
        ("[erp]\nwrite_timeout = nan", "erp.write_timeout = nan: "),
        ("[erp]\nmax_parallel = true", "erp.max_parallel = True: Input should be a valid integer"),
        ("[erp]\nmax_parallel = 65", "erp.max_parallel = 65: Input should be less than or equal to 64"),
        ("[erp]\nmax_parallel_writes = 0", "erp.max_parallel_writes = 0: Input should be greater"),
        ("[erp]\nmax_per_minute = -1", "erp.max_per_minute = -1: Input should be greater"),
        (
            "[erp]\nmax_parallel_writes = 9",
            "erp: max_parallel_writes = 9 is more than max_parallel = 4: lower the one or raise the other",
        ),
        ('[orders]\nstart_day = "2026-05-01"', "orders.start_day = '2026-05-01': Input should be a valid date"),
        ("[orders]\nstart_day = 2026-05-01T10:00:00", "orders.start_day = 2026-05-01 10:00:00: Input should be a"),
        ("[orders]\nlinger_seconds = 241", "orders.linger_seconds = 241: Input should be less than or equal to 240"),
        ('[orders]\noperation = "001"', "orders.operation = '001': String should match"),
        ('[orders]\ntes = "50"', "orders.tes = '50': String should match"),
        ('[orders]\noperation = ""', "orders: one of operation (C6_OPER) and tes (C6_TES) must be set"),
        ("[orders]\npayments = { pix = 1 }", "orders.payments.pix = 1: Input should be a valid string"),
        ('[orders]\npayments = { pix = "0001" }', "orders.payments.pix = '0001': String should match"),
        ('[orders]\npayments = { pix = "" }', "orders.payments.pix = '': String should match"),
        ('[orders]\ndefault_payment = "0001"', "orders.default_payment = '0001': String should match"),
        ('[orders]\ncarriers = { sedex = "0000001" }', "orders.carriers.sedex = '0000001': String should match"),
        ('[orders]\ntax_to = "C5_FRETE"', "orders.tax_to = 'C5_FRETE': Input should be 'C5_DESPESA' or 'refuse'"),
        ('[orders]\ndelivery_to = "C5_X"', "orders.delivery_to = 'C5_X': Input should be 'C5_MENNOTA' or 'store'"),
        ("[orders]\nrequire_tax_id = 0", "orders.require_tax_id = 0: Input should be a valid boolean"),
        ('[orders]\ndefault_customer = "000001-01"', "orders.default_customer = '000001-01': String should match"),
        ('[orders]\ncountries = { BRA = "105" }', "orders.countries.BRA = 'BRA': String should match"),
        ('[statuses]\ndelivered_from = "x"', "statuses.delivered_from = 'x': Input should be 'none'"),
        ('[statuses]\ncancel_mode = "x"', "statuses.cancel_mode = 'x': Input should be 'auto'"),
        ("[statuses]\nevery_minutes = 7", "statuses.every_minutes = 7: Input should be 1, 2, 3"),
        (
            '[statuses]\nissuers = ["11.222.333/0001-81"]',
            "statuses.issuers.0 = '11.222.333/0001-81': String should match",
        ),
        ('[statuses]\ntracking_field = "F2_RASTR"', "statuses.tracking_field = 'F2_RASTR': must be a field of SC5"),
        ("[stock]\nwarehouses = []", "stock.warehouses: List should have at least 1 item"),
        ('[stock]\nwarehouses = "01"', "stock.warehouses = '01': Input should be a valid list"),
        ('[stock]\nformula = "F3"', "stock.formula = 'F3': Input should be 'standard', 'simple' or 'physical'"),
        ("[stock]\nbuffer = 1.5", "stock.buffer = 1.5: Input should be a valid integer"),
        ("[stock]\nmax_change_share = 30", "stock.max_change_share = 30: Input should be less than or equal to 1"),
        ("[stock]\nwarehouse_buffers = { 02 = 1 }", "stock: warehouse_buffers.02 is none of warehouses"),
        ('[stock]\nsource = "retail"', 'stock: source = "retail" knows neither open orders'),
        ("[retention]\nrun_days = 0", "retention.run_days = 0: Input should be greater than or equal to 2"),
        ("[stock]\nmax_change_share = 0", "stock.max_change_share = 0: Input should be greater than 0"),
    ],
)
def test_a_wrong_value_in_the_file_is_one_line_that_names_it(toml: Write, text: str, message: str) -> None:
    toml(text)
    assert _refusal().startswith(message)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('langage = "en"', "langage"),
        ("[ordres]\nstart_day = 2026-05-01", "ordres"),
        ("[erp]\nsettle = 1", "erp.settle"),
        (f'[erp]\npassword = "{CANARY}"', "erp.password"),
        (f'slack_tokens = "{CANARY}"', "slack_tokens"),
        (f'shop = {{ url = "mysql://u:{CANARY}@h/d" }}', "shop"),
    ],
)
def test_an_unknown_name_is_refused_and_its_value_not_shown(toml: Write, text: str, name: str) -> None:
    toml(text)
    assert _refusal().startswith(f"{name} is no setting: correct its name in the file that ERP_SYNC_CONFIG names")


@pytest.mark.parametrize("name", ["shop_url", "ledger_url", "erp_password", "slack_token", "webhook_secrets"])
def test_a_secret_in_the_file_is_refused(toml: Write, name: str) -> None:
    path = toml(f'{name} = "mysql+pymysql://shop:{CANARY}@db/shop"')
    assert _refusal() == f"{path} holds {name}: secrets come from the environment, as ERP_SYNC_{name.upper()}"


@pytest.mark.parametrize("name", ["erp", "orders", "statuses", "stock"])
@pytest.mark.parametrize("value", ['{"settle_seconds": 1}', CANARY])
def test_a_section_in_the_environment_is_refused(
    toml: Write, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"ERP_SYNC_{name.upper()}", value)
    expected = f"ERP_SYNC_{name.upper()} is not a setting: [{name}] belongs into "
    assert _refusal() == f"{expected}the file that ERP_SYNC_CONFIG names"
    path = toml(f"[{name}]")
    assert _refusal() == f"{expected}{path}"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERP_SYNC_CONFIG", str(tmp_path / "absent.toml"))
    assert _refusal() == f"ERP_SYNC_CONFIG = '{tmp_path / 'absent.toml'}' cannot be read: No such file or directory"
    monkeypatch.setenv("ERP_SYNC_CONFIG", str(tmp_path))
    assert _refusal() == f"ERP_SYNC_CONFIG = '{tmp_path}' cannot be read: Is a directory"


def test_a_file_that_is_no_toml_is_named_with_the_line(toml: Write, tmp_path: Path) -> None:
    path = toml(f"[erp]\nmax_parallel = 4\npassword = {CANARY}\n")
    message = _refusal()
    assert message.startswith(f"ERP_SYNC_CONFIG = '{path}' is not valid TOML: ")
    assert "line 3" in message
    path.write_bytes(b'language = "\xe7"')
    assert "is not valid TOML" in _refusal()


@pytest.mark.parametrize(
    "url",
    [
        "https://erp.example.com/rest",
        "https://erp.example.com:8443/rest",
        "http://127.0.0.1:8090/rest",
        "http://127.8.9.1/rest",
        "http://[::1]:8090/rest",
        "http://localhost:8090/rest",
        "HTTPS://ERP.example.com/rest",
    ],
)
def test_https_anywhere_and_http_on_loopback_are_accepted(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ERP_SYNC_ERP_URL", f"{url}/")
    assert load_settings().erp_url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://erp.example.com/rest",
        "http://192.168.0.10:8080/rest",
        "http://0.0.0.0:8080/rest",
        "http://localhost.example.com/rest",
        "http://127.0.0.1.example.com/rest",
        "http://2130706433/rest",
        "HTTP://erp.example.com/rest",
    ],
)
def test_plain_http_to_anything_else_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ERP_SYNC_ERP_URL", url)
    assert _refusal().startswith("ERP_SYNC_ERP_URL: must be https: plain http is for loopback only")


@pytest.mark.parametrize(
    "url",
    [
        "erp.example.com/rest",
        "ftp://erp.example.com/rest",
        "https:///rest",
        "https://erp.example.com/rest?a=b",
        "https://erp.example.com/rest#x",
        "https://erp.example.com:99999/rest",
        "https://erp.example.com:port/rest",
        "http://[::1/rest",
        " https://erp.example.com/rest",
        "https://erp.example.com/rest\n",
        "https://erp example.com/rest",
    ],
)
def test_a_root_that_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ERP_SYNC_ERP_URL", url)
    assert _refusal() == "ERP_SYNC_ERP_URL: must be the REST root, such as https://erp.example.com:8443/rest"


@pytest.mark.parametrize("user", [f"svc:{CANARY}", f"{CANARY}"])
def test_a_password_inside_the_root_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    for scheme in ("https", "http"):
        monkeypatch.setenv("ERP_SYNC_ERP_URL", f"{scheme}://{user}@erp.example.com/rest")
        assert "must not hold a user or password: set ERP_SYNC_ERP_USER and ERP_SYNC_ERP_PASSWORD" in _refusal()


@pytest.mark.parametrize(
    ("tenant", "branch"), [("01,0101", "0101"), ("T1,D MG 01", "D MG 01"), ("99,01", "01"), ("01,01 ", "01")]
)
def test_a_tenant_is_company_and_branch(monkeypatch: pytest.MonkeyPatch, tenant: str, branch: str) -> None:
    monkeypatch.setenv("ERP_SYNC_ERP_TENANT", tenant)
    settings = load_settings(erp_url="https://erp.example.com/rest", erp_user="svc", erp_password="x")
    assert settings.require_erp() == ("https://erp.example.com/rest", "svc", "x", tenant)
    assert settings.erp_branch == branch


@pytest.mark.parametrize("tenant", ["01", "01, 0101", "1,0101", "01;0101", "01,", "01,0101\n", "01,0101,02", ",0101"])
def test_another_form_of_tenant_is_refused(monkeypatch: pytest.MonkeyPatch, tenant: str) -> None:
    """A blank after the comma reaches Protheus as part of the branch: every query would find nothing."""
    monkeypatch.setenv("ERP_SYNC_ERP_TENANT", tenant)
    assert _refusal() == (
        f"ERP_SYNC_ERP_TENANT = {tenant!r}: must be company and branch, no blank after the comma, such as 01,0101"
    )


def test_a_missing_ca_bundle_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ERP_SYNC_ERP_CA_BUNDLE", str(tmp_path / "ca.pem"))
    assert "ERP_SYNC_ERP_CA_BUNDLE" in _refusal()
    assert "is not a file: give the PEM file" in _refusal()
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----")
    assert load_settings().erp_ca_bundle == tmp_path / "ca.pem"


SECRETS = {
    "ERP_SYNC_SHOP_URL": f"mysql+pymysql://shop:{CANARY}@db/shop",
    "ERP_SYNC_LEDGER_URL": f"mysql+pymysql://ledger:{CANARY}@db/ledger",
    "ERP_SYNC_ERP_PASSWORD": CANARY,
}


@pytest.fixture
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("_secrets")
def test_no_secret_is_in_anything_that_is_printed() -> None:
    settings = load_settings()
    shown = (repr(settings), str(settings), f"{settings}", str(settings.model_dump()), settings.model_dump_json())
    assert not [text for text in shown if CANARY in text]
    assert settings.require_shop_url() == SECRETS["ERP_SYNC_SHOP_URL"], "and yet it is there for who opens the shop"
    assert settings.require_ledger_url() == SECRETS["ERP_SYNC_LEDGER_URL"]


@pytest.mark.usefixtures("_secrets")
def test_no_secret_is_in_the_refusal_of_something_else(toml: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's error shows its whole input by default."""
    toml("[erp]\nmax_parallel = 0")
    _refusal()
    monkeypatch.setenv("ERP_SYNC_ERP_TENANT", "01")
    _refusal()
    with pytest.raises(ValidationError) as caught:
        Settings(erp_password=[CANARY])  # type: ignore[arg-type]
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("name", ["shop_url", "ledger_url", "erp_password", "slack_token", "webhook_secrets"])
def test_a_secret_of_the_wrong_type_is_not_shown(name: str) -> None:
    assert f"ERP_SYNC_{name.upper()}: " in _refusal(**{name: [CANARY]})
    assert f"ERP_SYNC_{name.upper()}: " in _refusal(**{name: {"value": CANARY}})


def test_what_a_flow_needs_is_asked_for_by_name() -> None:
    settings = load_settings()
    for need, name in (
        (settings.require_shop_url, "ERP_SYNC_SHOP_URL"),
        (settings.require_ledger_url, "ERP_SYNC_LEDGER_URL"),
        (settings.require_start_day, "orders.start_day"),
    ):
        with pytest.raises(Misconfigured, match=f"^{name} is not set: "):
            need()


@pytest.mark.parametrize("missing", ["erp_url", "erp_user", "erp_password", "erp_tenant"])
def test_each_missing_part_of_the_login_is_asked_for_by_name(missing: str) -> None:
    whole = {
        "erp_url": "https://erp.example.com/rest",
        "erp_user": "svc",
        "erp_password": CANARY,
        "erp_tenant": "01,0101",
    }
    del whole[missing]
    with pytest.raises(Misconfigured, match=f"^ERP_SYNC_{missing.upper()} is not set: ") as caught:
        load_settings(**whole).require_erp()
    assert CANARY not in str(caught.value)


def test_the_times_of_the_protocol_follow_from_the_settings(toml: Write) -> None:
    """A lease that ends while an answer is still waited for would let a second process send the order."""
    assert load_settings().erp.lease_seconds == 210
    assert load_settings().erp.doubt_seconds == 360
    toml("[erp]\nwrite_timeout = 20\nsettle_seconds = 5")
    assert (load_settings().erp.lease_seconds, load_settings().erp.doubt_seconds) == (50, 25)
    toml("[erp]\nwrite_timeout = 20\nsettle_seconds = 5\ncreate_is_idempotent = true")
    assert (load_settings().erp.lease_seconds, load_settings().erp.doubt_seconds) == (50, 0)


def test_settings_do_not_change_once_they_are_read() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.erp.settle_seconds = 0
    with pytest.raises(ValidationError, match="frozen"):
        settings.erp_user = "another"


def test_alerts_go_to_slack_only_with_a_token_and_a_channel(toml: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    toml('slack_channel = "#alertas"\n[alerts]\nui_url = "http://dagster.internal:3000/"\ndigest_hour = 7')
    assert load_settings().slack_account() is None
    assert load_settings().alerts.ui_url == "http://dagster.internal:3000", "paths are appended to it"
    monkeypatch.setenv("ERP_SYNC_SLACK_TOKEN", f"xoxb-{CANARY}")
    settings = load_settings()
    assert settings.slack_account() == (f"xoxb-{CANARY}", "#alertas", None)
    assert CANARY not in repr(settings) + str(settings.model_dump())
    monkeypatch.delenv("ERP_SYNC_CONFIG")
    with pytest.raises(Misconfigured, match="ERP_SYNC_SLACK_CHANNEL is not set"):
        load_settings().slack_account()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"slack_token": f"xoxb {CANARY}"}, "ERP_SYNC_SLACK_TOKEN: must be a bot token"),
        ({"slack_token": f"{CANARY}ção"}, "ERP_SYNC_SLACK_TOKEN: must be a bot token"),
        ({"slack_channel": "two words"}, "ERP_SYNC_SLACK_CHANNEL: must be a channel's id"),
        ({"slack_base_url": "http://slack.example.com/api"}, "plain http is for loopback only, the token"),
        ({"slack_base_url": f"https://u:{CANARY}@slack.com/api"}, "ERP_SYNC_SLACK_BASE_URL: must not hold a user"),
        ({"slack_base_url": "slack.com"}, "ERP_SYNC_SLACK_BASE_URL: must be the root of Slack's API"),
        ({"alerts": {"ui_url": "https://ui.example.com/|<x>"}}, "alerts.ui_url = .*: must be the address"),
        ({"alerts": {"digest_hour": 24}}, "alerts.digest_hour = 24: "),
        ({"alerts": {"alive_seconds": 5}}, "alerts.alive_seconds = 5: "),
    ],
)
def test_a_wrong_setting_of_the_alerts_is_one_line(values: dict[str, Any], words: str) -> None:
    assert re.search(words, _refusal(**values))


def test_the_token_comes_from_the_environment_alone(toml: Write) -> None:
    toml(f'slack_token = "{CANARY}"')
    assert "ERP_SYNC_SLACK_TOKEN" in _refusal()


@pytest.mark.parametrize(
    ("secrets", "advice"),
    [
        (f"loja={CANARY}", "is not JSON: give JSON with the secrets of each source"),
        (f'["{CANARY}"]', "is not an object: give JSON"),
        ('{"loja": "curto"}', "'loja' needs one secret or a list of them, each of at least 16 characters"),
        ('{"loja": []}', "'loja' needs one secret or a list of them"),
        ('{"loja": [1]}', "'loja' needs one secret or a list of them"),
    ],
)
def test_wrong_webhook_secrets_are_one_line_that_shows_none(
    monkeypatch: pytest.MonkeyPatch, secrets: str, advice: str
) -> None:
    monkeypatch.setenv("ERP_SYNC_WEBHOOK_SECRETS", secrets)
    assert _refusal().startswith(f"ERP_SYNC_WEBHOOK_SECRETS: {advice}")


def test_webhook_secrets_are_those_of_each_source(monkeypatch: pytest.MonkeyPatch, toml: Write) -> None:
    toml('[webhook.sources.loja]\nscheme = "spatie"')
    with pytest.raises(Misconfigured, match=r"has no secret of webhook\.sources\.loja"):
        load_settings().require_webhook_secrets()
    monkeypatch.setenv("ERP_SYNC_WEBHOOK_SECRETS", f'{{"loja": ["{CANARY}-new-new", "whsec_{CANARY}-old"]}}')
    settings = load_settings()
    assert settings.require_webhook_secrets() == {"loja": (f"{CANARY}-new-new", f"whsec_{CANARY}-old")}
    assert CANARY not in repr(settings)
    assert {f"{CANARY}-new-new", f"whsec_{CANARY}-old", f"{CANARY}-old"} <= set(settings.secrets())
