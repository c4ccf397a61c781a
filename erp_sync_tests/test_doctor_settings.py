"""What is wrong with the settings is told line by line, and hides nothing that can be looked at without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from erp_sync.doctor.installation import installation
from erp_sync.doctor.settings import settings
from erp_sync.doctor.webhook import webhook
from erp_sync.models import Finding
from erp_sync.settings import load_settings

CANARY = "s3cr3t-c4n4ry"
SOUND = {
    "ERP_SYNC_SHOP_URL": f"mysql+pymysql://u:{CANARY}@localhost/shop",
    "ERP_SYNC_LEDGER_URL": f"mysql+pymysql://u:{CANARY}@localhost/ledger",
    "ERP_SYNC_ERP_URL": "https://erp.example.com/rest",
    "ERP_SYNC_ERP_USER": "svc",
    "ERP_SYNC_ERP_PASSWORD": CANARY,
    "ERP_SYNC_ERP_TENANT": "01,0101",
}
START = "[orders]\nstart_day = 2026-11-01\n"


@pytest.fixture(autouse=True)
def _of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("ERP_SYNC_")]:
        monkeypatch.delenv(name)


class Set:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch = monkeypatch
        self._folder = folder

    def __call__(self, toml: str | None = START, **environment: str | None) -> list[Finding]:
        for name, value in {**SOUND, **environment}.items():
            if value is not None:
                self._monkeypatch.setenv(name, value)
        if toml is not None:
            file = self._folder / "erp_sync.toml"
            file.write_text(toml)
            self._monkeypatch.setenv("ERP_SYNC_CONFIG", str(file))
        found = list(settings(installation()))
        assert CANARY not in str(found)
        assert all(finding.advice for finding in found if finding.level != "ok"), found
        return found


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Set:
    return Set(monkeypatch, tmp_path)


def test_all_is_set(given: Set) -> None:
    assert [(one.level, one.message) for one in given()] == [("ok", "all that is needed is set")]
    assert installation().settings == load_settings()


@pytest.mark.parametrize("name", SOUND)
def test_each_that_is_missing_is_one_line(given: Set, name: str) -> None:
    (finding,) = given(**{name: None})
    assert (finding.level, finding.subject, finding.message) == ("error", name, f"{name} is not set")


def test_nothing_is_set_at_all(given: Set) -> None:
    found = given(None, **dict.fromkeys(SOUND))
    assert {one.subject for one in found} == {*SOUND, "orders.start_day"}
    assert len(found) == len(SOUND) + 1


@pytest.mark.parametrize(
    ("secrets", "wrong", "says"),
    [
        (f'{{"loja":"{CANARY}-long-enough"}}', "", "spatie, secrets: 1"),
        (f'{{"loja":["{CANARY}-long-enough","{CANARY}-the-old-one"]}}', "", "take the old one away"),
        (f'{{"outra":"{CANARY}-long-enough"}}', "", "has no secret of webhook.sources.loja"),
        (CANARY, "is not JSON", "not looked at"),
    ],
)
def test_sources_of_webhooks_and_their_secrets(given: Set, secrets: str, wrong: str, says: str) -> None:
    toml = f'{START}[webhook.sources.loja]\nscheme = "spatie"\n'
    (of_settings,) = given(toml, ERP_SYNC_WEBHOOK_SECRETS=secrets)
    (finding,) = webhook(installation())
    assert (wrong in of_settings.message, says in finding.message) == (True, True), (of_settings, finding)
    assert CANARY not in str(finding)
    for one in (of_settings, finding):
        assert one.level == "ok" or one.advice.startswith(("give JSON with the secrets", "correct it first")), one


MANY = """\
language = "xx"
shop_password = "s3cr3t-c4n4ry"
[erp]
read_timeout = "slow"
orders_path = "no path"
external_id_field = "C5_MYID"
max_parallel = 1
max_parallel_writes = 2
[orders]
start_day = 2026-11-01
payments = { pix = "toolong", boleto = "002" }
[stock]
source = "retail"
[alerts]
ui_url = "ftp://x"
"""


def test_every_wrong_one_is_told_in_one_look_and_the_others_hold(given: Set) -> None:
    found = given(
        MANY,
        ERP_SYNC_ERP_URL="http://erp.example.com",
        ERP_SYNC_ERP_TENANT="nonsense",
        ERP_SYNC_SLACK_TOKEN=f"xoxb {CANARY}",
        ERP_SYNC_SHOP_PROFILE="magento",
    )
    said = {one.subject: one.message for one in found}
    assert said.keys() == {
        *("language", "shop_password", "erp.read_timeout", "erp.orders_path", "erp", "orders.payments.pix"),
        *("stock", "alerts.ui_url", "ERP_SYNC_ERP_URL", "ERP_SYNC_ERP_TENANT", "ERP_SYNC_SLACK_TOKEN"),
        "ERP_SYNC_SHOP_PROFILE",
    }
    known = installation()
    assert known.profile is None
    usable = known.settings
    assert (usable.erp.external_id_field, usable.erp.max_parallel) == ("C5_MYID", 1)
    assert (usable.stock.source, usable.language, usable.erp_url) == ("retail", "pt-BR", None)
    assert usable.require_start_day().isoformat() == "2026-11-01"
    assert usable.require_shop_url() == SOUND["ERP_SYNC_SHOP_URL"]


@pytest.mark.parametrize(
    ("toml", "environment", "subject", "says"),
    [
        ("[erp\n", {}, "ERP_SYNC_CONFIG", "is not valid TOML"),
        (f'erp_password = "{CANARY}"\n{START}', {}, "", "holds erp_password"),
        (START, {"ERP_SYNC_ERP": '{"max_parallel": 3}'}, "ERP_SYNC_ERP", "is not a setting"),
        (START, {"ERP_SYNC_SLACK_TOKEN": "xoxb-1234567"}, "ERP_SYNC_SLACK_CHANNEL", "is not set"),
        (f'{START}[stock]\nwarehouses = ["07"]\n', {}, "stock.warehouses", "names '07'"),
    ],
)
def test_what_is_in_the_wrong_place_or_contradicts_the_profile(
    given: Set, toml: str, environment: dict[str, str], subject: str, says: str
) -> None:
    found = given(toml, **environment)
    assert [says in one.message and subject in one.subject for one in found if "start_day" not in one.subject] == [True]


def test_a_file_that_is_not_there(given: Set) -> None:
    found = given(None, ERP_SYNC_CONFIG="/nowhere/erp_sync.toml")
    assert {one.subject for one in found} == {"ERP_SYNC_CONFIG", "orders.start_day"}
