"""Secrets: fetched from AWS Secrets Manager where the environment only names them, and shown nowhere."""

from __future__ import annotations

import io
import json
import logging
import os
import ssl
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap
from pydantic import SecretStr, ValidationError
from rich.console import Console
from rich.traceback import Traceback

from erp_sync import aws_secrets
from erp_sync.definitions import build_definitions
from erp_sync.doctor.installation import installation
from erp_sync.doctor.settings import settings as settings_area
from erp_sync.errors import ErpSyncError, Misconfigured, SecretUnavailable
from erp_sync.logs import configure_logs
from erp_sync.scrub import redact
from erp_sync.settings import Settings, load_settings
from erp_sync.sync.connections import open_connections
from erp_sync_tests.certificates import Authority
from erp_sync_tests.scripted_erp import ScriptedErp, answer
from erp_sync_tests.test_erp_client import server_tls

CANARY = "c4n4ry-of-the-vault"
TODAY = datetime.now(UTC).date()
NAME = "erp_sync/production"
ARN = "arn:aws:secretsmanager:sa-east-1:123456789012:secret:erp_sync/production-AbCdEf"
REFERENCE = f"aws-secret:{NAME}#erp_password"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, aws_credentials: None) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("ERP_SYNC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(aws_secrets, "_texts", {})  # as in a new process
    boto = logging.getLogger("botocore")
    level = boto.level
    yield
    boto.setLevel(level)


@pytest.fixture
def vault(aws: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws)
    client = boto3.client("secretsmanager")
    made: list[str] = []

    def store(name: str, text: str) -> str:
        made.append(client.create_secret(Name=name, SecretString=text)["ARN"])
        return made[-1]

    yield store
    for arn in made:
        client.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)


def test_each_secret_may_be_a_reference(vault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    database = f"mysql+pymysql://erp_sync:{CANARY}-1@db.example.com/shop"
    arn = vault(NAME, json.dumps({"erp_password": f"{CANARY}-2", "shop_url": database}))
    vault("erp_sync/slack", f"xoxb-{CANARY}-3")
    monkeypatch.setenv("ERP_SYNC_SHOP_URL", f"aws-secret:{arn}#shop_url")
    monkeypatch.setenv("ERP_SYNC_ERP_PASSWORD", REFERENCE)
    monkeypatch.setenv("ERP_SYNC_SLACK_TOKEN", "aws-secret:erp_sync/slack")
    settings = load_settings(
        erp_url="https://erp.example.com/rest", erp_user="svc", erp_tenant="01,0101", slack_channel="#alertas"
    )
    assert settings.require_shop_url() == database
    assert settings.require_erp()[2] == f"{CANARY}-2"
    account = settings.slack_account()
    assert account is not None
    assert account[0] == f"xoxb-{CANARY}-3"
    shown = redact(f"{CANARY}-1 {CANARY}-2 xoxb-{CANARY}-3"), repr(settings), settings.model_dump_json()
    assert CANARY not in str(shown)


def test_the_secrets_of_webhooks_may_be_one_too(vault: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "erp_sync.toml").write_text('[webhook.sources.loja]\nscheme = "spatie"')
    monkeypatch.setenv("ERP_SYNC_CONFIG", str(tmp_path / "erp_sync.toml"))
    monkeypatch.setenv("ERP_SYNC_WEBHOOK_SECRETS", f"aws-secret:{NAME}-webhooks")
    vault(f"{NAME}-webhooks", json.dumps({"loja": f"{CANARY}-webhook"}))
    assert load_settings().require_webhook_secrets() == {"loja": (f"{CANARY}-webhook",)}
    assert CANARY not in redact(f"{CANARY}-webhook")
    monkeypatch.setenv("ERP_SYNC_WEBHOOK_SECRETS", f"aws-secret:{NAME}-unusable")
    vault(f"{NAME}-unusable", f"loja={CANARY}-unusable")
    with pytest.raises(Misconfigured, match=r"^ERP_SYNC_WEBHOOK_SECRETS: is not JSON"):
        load_settings().require_webhook_secrets()


def test_the_doctor_works_with_what_is_fetched(vault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERP_SYNC_ERP_PASSWORD", REFERENCE)
    vault(NAME, json.dumps({"erp_password": CANARY}))
    found = installation()
    assert found.settings.erp_password == SecretStr(CANARY)
    assert "ERP_SYNC_ERP_PASSWORD" not in {one.subject for one in settings_area(found)}


def test_boto_says_no_more_than_before(vault: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="botocore")
    vault(NAME, json.dumps({"erp_password": CANARY}))
    assert load_settings(erp_password=REFERENCE).secret("erp_password") == CANARY
    assert not logging.getLogger("botocore").isEnabledFor(logging.INFO)


def test_it_is_asked_for_once_in_a_process_and_again_in_the_next(vault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arn = vault(NAME, json.dumps({"erp_password": f"{CANARY}-old"}))
    settings = load_settings(erp_password=REFERENCE)
    assert settings.secret("erp_password") == f"{CANARY}-old"
    boto3.client("secretsmanager").put_secret_value(
        SecretId=arn, SecretString=json.dumps({"erp_password": f"{CANARY}-new"})
    )
    assert load_settings(erp_password=REFERENCE).secret("erp_password") == f"{CANARY}-old"
    monkeypatch.setattr(aws_secrets, "_texts", {})
    assert settings.secret("erp_password") == f"{CANARY}-new"


def test_the_code_location_loads_while_the_vault_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("ERP_SYNC_ERP_PASSWORD", REFERENCE)
    assert build_definitions().resolve_job_def("orders")


def refusal(kind: type[ErpSyncError], reference: str = REFERENCE) -> str:
    """Of a start with this reference: one line, and no secret however it is printed."""
    with pytest.raises(kind) as caught:
        load_settings(erp_password=reference).secret("erp_password")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("ERP_SYNC_ERP_PASSWORD")
    assert CANARY not in as_rich_shows(caught.value)
    return message


def as_rich_shows(error: BaseException) -> str:
    """With every variable of every function, and the causes behind it, at full length."""
    stream = io.StringIO()
    whole = Traceback.from_exception(
        type(error), error, error.__traceback__, show_locals=True, locals_max_length=10_000, locals_max_string=100_000
    )
    Console(file=stream, width=10_000).print(whole)
    return stream.getvalue() + "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("text", "reference", "words"),
    [
        ("{}", "aws-secret:another#x", "the secret another in AWS Secrets Manager does not exist"),
        (f'{{"password": "{CANARY}"}}', REFERENCE, "holds no text under 'erp_password'"),
        (f'{{"erp_password": ["{CANARY}"]}}', REFERENCE, "holds no text under 'erp_password'"),
        ('{"erp_password": ""}', REFERENCE, "holds no text under 'erp_password'"),
        (CANARY, REFERENCE, "holds no JSON object, and so nothing under 'erp_password'"),
        (f'["{CANARY}"]', REFERENCE, "holds no JSON object"),
        (CANARY, "aws-secret:", "names no secret: write aws-secret:NAME#KEY"),
        (CANARY, "aws-secret:a b#c", "names no secret"),
        (CANARY, f"aws-secret:{NAME}#", "names no secret"),
        (CANARY, "aws-secret:arn:aws:ssm:sa-east-1:123456789012:parameter/x", "names no secret"),
    ],
)
def test_a_wrong_reference_or_secret_is_one_line(vault: Any, text: str, reference: str, words: str) -> None:
    vault(NAME, text)
    assert words in refusal(Misconfigured, reference)


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (400, "AccessDeniedException", Misconfigured, "is denied (AccessDeniedException): allow secretsmanager:"),
        (400, "DecryptionFailure", Misconfigured, "kms:Decrypt"),
        (403, "ExpiredTokenException", Misconfigured, "is denied"),
        (400, "InvalidRequestException", Misconfigured, "is not given (InvalidRequestException)"),
        (400, "ThrottlingException", SecretUnavailable, "AWS does not give it now (ThrottlingException)"),
        (503, "", SecretUnavailable, "AWS does not give it now"),
    ],
)
def test_what_aws_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, kind: type[ErpSyncError], words: str
) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    said = {"__type": code, "message": f"the password {CANARY} is\nwrong"}
    with ScriptedErp(answer(status, said)) as double:
        monkeypatch.setenv("AWS_ENDPOINT_URL", double.root.removesuffix("/rest"))
        assert words in refusal(kind)
        assert len(double.requests) == (3 if kind is SecretUnavailable else 1)


def test_an_unreachable_vault_is_no_mistake_of_a_person(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert "AWS does not answer (EndpointConnectionError)" in refusal(SecretUnavailable)
    settings = load_settings(shop_url=REFERENCE, slack_token=REFERENCE, slack_channel="#a", orders={"start_day": TODAY})
    with pytest.raises(SecretUnavailable) as caught:
        open_connections(settings)
    assert "(AWS Secrets Manager); what is due is sent when it is back" in caught.value.in_full()
    monkeypatch.setenv("ERP_SYNC_SLACK_TOKEN", REFERENCE)
    found = installation()
    assert found.settings.slack_token is None
    (line,) = (one for one in settings_area(found) if one.subject == "ERP_SYNC_SLACK_TOKEN")
    assert (line.level, "AWS does not answer" in f"{line.message}: {line.advice}") == ("error", True)


def test_without_region_or_role_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "give the process a role" in refusal(Misconfigured)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    assert "and AWS_REGION" in refusal(Misconfigured)
    assert "role" in refusal(Misconfigured, f"aws-secret:{ARN}#erp_password"), "an ARN has the region in it"
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


def test_without_the_extra_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)
    assert "boto3 is missing: install erp-sync[aws]" in refusal(Misconfigured)


def test_what_is_fetched_is_checked_like_what_is_given(vault: Any) -> None:
    vault("erp_sync/slack", f"two words {CANARY}")
    vault("erp_sync/shop", CANARY)
    settings = load_settings(
        slack_token="aws-secret:erp_sync/slack",
        slack_channel="#alertas",
        shop_url="aws-secret:erp_sync/shop",
        ledger_url="sqlite:///nowhere.sqlite",
        erp_url="http://127.0.0.1:1/rest",
        erp_user="svc",
        erp_password="x",
        erp_tenant="01,0101",
        orders={"start_day": TODAY},
    )
    for start in (settings.slack_account, lambda: open_connections(settings)):
        with pytest.raises(Misconfigured, match=r"^ERP_SYNC_S") as caught:
            start()
        assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_nothing_of_boto_logs_a_secret(vault: Any, caplog: pytest.LogCaptureFixture) -> None:
    vault(NAME, json.dumps({"erp_password": CANARY}))
    caplog.set_level(logging.DEBUG)
    assert load_settings(erp_password=REFERENCE).secret("erp_password") == CANARY
    assert CANARY not in caplog.text


# TLS with AWS: boto3's own defaults, held to --------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["authority", "name", "version", "plain"])
def test_aws_is_asked_over_verified_tls_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: str) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    authority = Authority(tmp_path)
    bundle = authority.bundle
    tls = server_tls(authority, tmp_path)
    with ScriptedErp(answer(200, {"SecretString": CANARY}), tls=tls) as double:
        monkeypatch.setenv("AWS_ENDPOINT_URL", double.root.removesuffix("/rest"))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
        assert load_settings(erp_password="aws-secret:x").secret("erp_password") == CANARY
        assert len(double.requests) == 1
        monkeypatch.setattr(aws_secrets, "_texts", {})
        if wrong == "authority":
            monkeypatch.delenv("AWS_CA_BUNDLE")
        elif wrong == "name":
            tls.load_cert_chain(*authority.issue(tmp_path, "aws.example.com", addresses=("192.0.2.1",)))
        elif wrong == "version":
            with pytest.warns(DeprecationWarning):
                tls.maximum_version = ssl.TLSVersion.TLSv1_1
            tls.set_ciphers("DEFAULT:@SECLEVEL=0")
        else:
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://aws.example.com")
        assert refusal(Misconfigured, "aws-secret:x")
        assert len(double.requests) == 1, "nobody else was asked"


def test_plain_http_to_this_machine_passes_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedErp(answer(200, {"SecretString": CANARY})) as double, ScriptedErp(answer(200)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", double.root.removesuffix("/rest"))
        monkeypatch.setenv("HTTP_PROXY", proxy.root.removesuffix("/rest"))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        assert "through the proxy that HTTP_PROXY names" in refusal(Misconfigured, "aws-secret:x")
        monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
        assert load_settings(erp_password="aws-secret:x").secret("erp_password") == CANARY
        assert (len(proxy.requests), len(double.requests)) == (0, 1)


# Shown nowhere --------------------------------------------------------------------------------------------------------

SECRETS = {
    "ERP_SYNC_SHOP_URL": f"mysql+pymysql://erp_sync:{CANARY}@127.0.0.1:1/shop",
    "ERP_SYNC_LEDGER_URL": f"mysql+pymysql://erp_sync:{CANARY}@127.0.0.1:1/erp_sync",
    "ERP_SYNC_ERP_URL": "https://127.0.0.1:1/rest",
    "ERP_SYNC_ERP_USER": "svc",
    "ERP_SYNC_ERP_PASSWORD": CANARY,
    "ERP_SYNC_ERP_TENANT": "01,0101",
    "ERP_SYNC_SLACK_TOKEN": f"xoxb-{CANARY}",
    "ERP_SYNC_SLACK_CHANNEL": "#alertas",
}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("given")
@pytest.mark.parametrize(
    ("name", "value"),
    [("ERP_TENANT", "01"), ("SLACK_TOKEN", f"two words {CANARY}"), ("ERP_URL", f"http://{CANARY}@x/")],
)
def test_no_variable_on_the_way_to_a_refused_setting_holds_a_secret(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"ERP_SYNC_{name}", value)
    del value
    with pytest.raises(Misconfigured) as caught:
        load_settings()
    assert CANARY not in as_rich_shows(caught.value)
    assert caught.value.__context__ is None, "what pydantic raised holds all that was given"
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert CANARY not in "".join(traceback.format_exception(refused.value))


@pytest.mark.usefixtures("given")
def test_nothing_that_dagster_shows_of_the_code_location_holds_a_secret() -> None:
    definitions = build_definitions(load_settings())
    with warnings.catch_warnings(action="ignore"):
        shown = dg.serialize_value(RepositorySnap.from_def(definitions.get_repository_def()))
    assert "finalized_orders" in shown
    assert CANARY not in shown


CRASH = """
import faulthandler, logging, os, resource, sys, threading
import erp_sync.definitions
from erp_sync import cli
from erp_sync.settings import load_settings

_, hard = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

def work(password, words):
    faulthandler.dump_traceback()
    raise RuntimeError("a defect of " + password + words)

class Left:
    def __del__(self):
        work(*self.values)

@cli.cli.command("boom")
def boom():
    settings = load_settings()
    print(settings, settings.require_erp()[:2])
    values = settings.require_erp()[2], " of ana@example.com, CPF 529.982.247-25"
    thread = threading.Thread(target=work, args=values)
    thread.start()
    thread.join()
    left = Left()
    left.values = values
    del left
    child = os.fork()
    if not child:
        faulthandler.enable()
        os.abort()
    print(resource.getrlimit(resource.RLIMIT_CORE)[0], os.WCOREDUMP(os.waitpid(child, 0)[1]))
    work(*values)

cli.main()
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_crash_shows_places_and_no_values(form: str, tmp_path: Path) -> None:
    """Whatever dies, and however: the log names lines and no variables, in its own form, and no memory is left."""
    command = [sys.executable, "-c", CRASH, *(["--json-logs"] if form == "json" else []), "boom"]
    environment = {**os.environ, **SECRETS}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1] in ("1 False", "0 False")
    assert list(tmp_path.iterdir()) == []
    assert "Fatal Python error: Aborted" in done.stderr
    assert done.stderr.count("in work") >= 6, "of each: where it was, and where it died"
    if form == "json":
        told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        whose = ("a thread", "an object", "the process")
        assert [line["message"] for line in told] == [f"{each} ended with a defect, report it" for each in whose]
        assert {(line["level"], line["error_class"]) for line in told} == {("CRITICAL", "RuntimeError")}
        assert all("RuntimeError: a defect of *** of ***, CPF ************25" in line["exception"] for line in told)
    for hidden in (CANARY, "ana@example.com", "529.982.247-25"):
        assert hidden not in done.stdout + done.stderr


def test_a_hook_that_somebody_else_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = ((sys, "excepthook"), (threading, "excepthook"), (sys, "unraisablehook"))
    mine = [lambda *_: None for _ in hooks]
    for (module, name), hook in zip(hooks, mine, strict=True):
        monkeypatch.setattr(module, name, hook)
    configure_logs("text")
    assert [getattr(module, name) for module, name in hooks] == mine
