"""`erp-sync webhook`: where it listens, what it starts without, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa

from erp_sync import cli
from erp_sync.ledger.ledger import Ledger, open_ledger
from erp_sync.ledger.migrate import migrate
from erp_sync.ledger.tables import inbox
from erp_sync.webhook import server as serving_module
from erp_sync.webhook.app import receiver
from erp_sync.webhook.server import Listening
from erp_sync_tests.certificates import Authority
from erp_sync_tests.webhooks import (
    BODY,
    JSON,
    NOWHERE,
    SECRETS,
    Command,
    begun,
    connect,
    good,
    order_body,
    raw,
    serving,
    settings,
    spatie,
    standard,
    stored,
    until_closed,
    write_config,
)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    url = f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'ledger.sqlite'}"
    migrate(url)
    ledger = open_ledger(url)
    yield ledger
    ledger.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_over_tls(authority: Authority, tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "HEAD_SECONDS", 0.5)
    certificate, key = authority.issue(tmp_path, "localhost")
    with serving(receiver(settings(), ledger), Listening(port=0, tls_cert=certificate, tls_key=key)) as url:
        assert url.startswith("https://")
        assert good(url, verify=str(authority.bundle)).status_code == 202
        port = int(url.rpartition(":")[2])
        old = ssl.create_default_context(cafile=str(authority.bundle))
        with pytest.warns(DeprecationWarning):
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError), old.wrap_socket(connect(port), server_hostname="localhost"):
            pass
        started = time.monotonic()
        assert until_closed(connect(port)) == b"", "a handshake that does not come"
        assert time.monotonic() - started < 4.5
        assert until_closed(connect(port, raw("loja", spatie(BODY), BODY)))[:5] != b"HTTP/", "no plain HTTP beside it"
        assert good(url, verify=str(authority.bundle)).status_code == 202


def test_connections_that_never_speak_tls_take_little_room(
    authority: Authority, ledger: Ledger, tmp_path: Path
) -> None:
    certificate, key = authority.issue(tmp_path, "localhost")
    url = str(ledger.database.writer.url)
    command = Command(tmp_path, url, "--tls-cert", str(certificate), "--tls-key", str(key))
    try:
        assert good(command.url, verify=str(authority.bundle)).status_code == 202
        before = command.memory()
        silent = [connect(command.port) for _ in range(600)]
        assert good(command.url, verify=str(authority.bundle)).status_code == 202
        assert command.memory() - before < 80
        for connection in silent:
            connection.close()
        assert command.stop() == 0
    finally:
        command.close()


def test_one_handshake_too_many_ends_the_oldest_and_no_connection(
    authority: Authority, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_module, "MOST_HANDSHAKES", 5)
    certificate, key = authority.issue(tmp_path, "localhost")
    with serving(receiver(settings(), ledger), Listening(port=0, tls_cert=certificate, tls_key=key)) as url:
        port = int(url.rpartition(":")[2])
        context = ssl.create_default_context(cafile=str(authority.bundle))
        genuine = context.wrap_socket(connect(port), server_hostname="localhost")
        silent = [connect(port) for _ in range(6)]
        started = time.monotonic()
        assert until_closed(silent[0]) == b""
        assert good(url, verify=str(authority.bundle)).status_code == 202
        assert until_closed(silent[1]) == b""
        assert time.monotonic() - started < 4, "none of them waited for its time to end"
        silent[2].settimeout(0.1)
        with pytest.raises(TimeoutError):
            until_closed(silent[2])
        body = order_body()
        genuine.sendall(raw("loja", spatie(body), body))
        assert until_closed(genuine).startswith(b"HTTP/1.1 202 ")
        for connection in silent:
            connection.close()


@pytest.mark.parametrize(
    ("trusted", "given", "named"),
    [
        ((), "203.0.113.9", "127.0.0.1"),
        (("127.0.0.1",), "203.0.113.9", "203.0.113.9"),
        (("127.0.0.0/8",), "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        (("192.0.2.1",), "203.0.113.9", "127.0.0.1"),
    ],
)
def test_a_forwarded_address_is_believed_of_trusted_proxies_alone(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, trusted: tuple[str, ...], given: str, named: str
) -> None:
    with (
        caplog.at_level("INFO", "erp_sync"),
        serving(receiver(settings(), ledger), Listening(port=0, trusted_proxies=trusted)) as url,
    ):
        requests.post(f"{url}/webhooks/loja", data=b"{}", headers={**JSON, "X-Forwarded-For": given}, timeout=5)
    assert [line.__dict__["peer"] for line in caplog.records if "peer" in line.__dict__] == [named]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: plain HTTP is for loopback only: give --tls-cert"),
        (["--host", "::"], "--behind-proxy where TLS ends at a proxy"),
        (["--host", "no.such.host.invalid"], "plain HTTP is for loopback only"),
        (["--tls-cert", "c.pem"], "--tls-cert and --tls-key belong together"),
        (["--tls-cert", "c.pem", "--tls-key", "k.pem"], "--tls-cert c.pem and --tls-key k.pem cannot be used: "),
        (["--trusted-proxies", "*"], "--trusted-proxies '*': give the proxy's address"),
        (["--trusted-proxies", "proxy.example.com"], "--trusted-proxies 'proxy.example.com'"),
    ],
)
def test_what_must_not_listen_is_one_clear_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = _command(monkeypatch, capsys, tmp_path, *arguments)
    assert (code, said.count("\n")) == (2, 1)
    assert words in said


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("ERP_SYNC_LEDGER_URL", "ERP_SYNC_LEDGER_URL is not set"),
        ("ERP_SYNC_WEBHOOK_SECRETS", "ERP_SYNC_WEBHOOK_SECRETS has no secret of webhook.sources.loja"),
        ("ERP_SYNC_CONFIG", "webhook.sources is not set"),
    ],
)
def test_a_missing_setting_is_one_clear_line(
    missing: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = _command(monkeypatch, capsys, tmp_path, "--port", "0", **{missing: ""})
    assert (code, said.count("\n")) == (2, 1)
    assert words in said


def _command(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    *arguments: str,
    **environment: str,
) -> tuple[Any, str]:
    given = {
        "ERP_SYNC_CONFIG": str(write_config(folder)),
        "ERP_SYNC_LEDGER_URL": "mysql+pymysql://u:s3cr3t-c4n4ry@127.0.0.1:1/nothing-is-there",
        "ERP_SYNC_WEBHOOK_SECRETS": json.dumps(SECRETS),
        **NOWHERE,
        **environment,
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["erp-sync", "webhook", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr()
    assert "s3cr3t" not in said.err
    assert said.out == ""
    return left.value.code, said.err


def test_it_starts_without_a_ledger_and_ends_when_told(tmp_path: Path) -> None:
    """And what is on its way then is answered."""
    url = f"sqlite:///{tmp_path / 'later' / 'ledger.sqlite'}"
    command = Command(tmp_path, url)
    try:
        assert [requests.get(f"{command.url}/{path}", timeout=5).status_code for path in ("healthz", "readyz")] == [
            200,
            503,
        ]
        assert good(command.url).status_code == 503
        (tmp_path / "later").mkdir()
        migrate(url)
        assert good(command.url).status_code == 202
        body = order_body()
        under_way = begun(command.port, body)
        command.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        under_way.sendall(body)
        assert until_closed(under_way).startswith(b"HTTP/1.1 202 ")
        assert command.process.wait(10) == 0
        assert all(line["level"] != "ERROR" for line in command.lines)
        with pytest.raises(requests.ConnectionError):
            good(command.url)
    finally:
        command.close()


def test_killed_right_after_its_answer_the_event_is_there(database_url: str, tmp_path: Path) -> None:
    migrate(database_url)
    command = Command(tmp_path, database_url)
    body = order_body()
    try:
        answer = requests.post(f"{command.url}/webhooks/padrao", data=body, headers=standard(body, "msg_1"), timeout=5)
        os.kill(command.process.pid, signal.SIGKILL)
        assert answer.status_code == 202
        command.process.wait(10)
    finally:
        command.close()
    ledger = open_ledger(database_url)
    assert [(source, event) for source, event, _ in stored(ledger)] == [("padrao", "msg_1")]
    waiting = ledger.database.rows(sa.select(inbox.c.event_id).where(inbox.c.next_at.is_not(None)))
    assert [row.event_id for row in waiting] == ["msg_1"], "it is looked at by whoever comes next"
    ledger.close()
