"""What no other test proves of the clients' TLS: Slack's, both databases' oldest version, the ledger's host name.

The ERP's is in test_erp_client.py, the shop's in test_shop_session.py, AWS's in test_secrets.py.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pymysql.constants import CLIENT
from sqlalchemy import make_url

from erp_sync.database_url import is_local, tls_context
from erp_sync.errors import ErpSyncError, Misconfigured
from erp_sync.ledger.ledger import open_ledger
from erp_sync.shop.database import open_shop
from erp_sync.shop.profile import load_profile
from erp_sync.slack import Slack, SlackError
from erp_sync_tests.certificates import Authority
from erp_sync_tests.mariadb import MariaDB
from erp_sync_tests.scripted_erp import ScriptedErp, answer
from erp_sync_tests.slack_double import CHANNEL, TOKEN, SlackDouble
from erp_sync_tests.test_erp_client import server_tls


def only_up_to(context: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    with pytest.warns(DeprecationWarning) if version < ssl.TLSVersion.TLSv1_2 else contextlib.nullcontext():
        context.maximum_version = version
    context.set_ciphers("DEFAULT:@SECLEVEL=0")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


# Slack ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["", "authority", "name", "version"])
def test_the_token_goes_to_slack_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: str) -> None:
    authority = Authority(tmp_path)
    address = "192.0.2.1" if wrong == "name" else "127.0.0.1"
    tls = server_tls(authority, tmp_path, "slack.example.com", addresses=(address,))
    if wrong == "version":
        only_up_to(tls, ssl.TLSVersion.TLSv1_1)
    if wrong != "authority":
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
    with SlackDouble(tls=tls) as double:
        slack = Slack(TOKEN, CHANNEL, double.url, timeout=5)
        if not wrong:
            slack.post("text", [])
            assert double.calls == ["chat.postMessage"]
            return
        with pytest.raises(SlackError, match=r"Slack did not answer chat\.postMessage") as caught:
            slack.post("text", [])
        assert "SSL" in str(caught.value)
        assert double.calls == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_token_follows_no_redirect(status: int) -> None:
    with ScriptedErp(answer(200, {"ok": True, "channel": CHANNEL, "ts": "1.2"})) as elsewhere:
        there = {"Location": f"{elsewhere.root}/chat.postMessage"}
        with (
            ScriptedErp(answer(status, b"", there)) as double,
            pytest.raises(SlackError, match=f"HTTP {status}"),
        ):
            Slack(TOKEN, CHANNEL, double.root, timeout=5).post("text", [])
        assert elsewhere.requests == []


# Databases ------------------------------------------------------------------------------------------------------------


def test_a_ledger_of_another_name_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue(tmp_path, "db.example.com", addresses=("192.0.2.1",))
    with (
        MariaDB(options=[f"--ssl-cert={certificate}", f"--ssl-key={key}"]) as server,
        pytest.raises(Misconfigured, match="ssl_ca"),
    ):
        open_ledger(f"{server.create_database()}?ssl_ca={authority.bundle}")


class Greeting:
    """A MySQL server that greets, takes the client's wish for TLS, and notes what was agreed; without `tls` it offers
    none, and asks for the password by the method `asks`."""

    def __init__(self, tls: ssl.SSLContext | None = None, asks: bytes = b"") -> None:
        self.agreed: list[str | None] = []
        self.heard = b""
        """After its question."""
        self._tls = tls
        self._asks = asks
        offered = 0xFFFF if tls else 0xFFFF & ~CLIENT.SSL
        self._hello = (
            b"\x0a8.0.36\0\x01\0\0\0" + b"saltsalt\0" + offered.to_bytes(2, "little") + b"\x2d\x02\0"
            b"\xff\xdf\x15" + b"\0" * 10 + b"saltsaltsalt\0mysql_native_password\0"
        )
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with sock, contextlib.suppress(OSError):
                    sock.sendall(len(self._hello).to_bytes(3, "little") + b"\0" + self._hello)
                    if self._tls is None:
                        if sock.recv(4096):
                            sock.sendall(len(self._asks).to_bytes(3, "little") + b"\2" + self._asks)
                        self.heard += sock.recv(4096)
                        continue
                    assert len(sock.recv(36, socket.MSG_WAITALL)) == 36
                    with self._tls.wrap_socket(sock, server_side=True) as encrypted:
                        self.agreed.append(encrypted.version())


def look_at_shop(url: str) -> None:
    with contextlib.closing(open_shop(url, load_profile("laravel"))) as shop:
        shop.now()


@pytest.fixture(params=[look_at_shop, open_ledger], ids=["shop", "ledger"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[[str], object]]:
    yield request.param


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
def test_a_database_is_spoken_to_in_tls_1_2_at_least(
    connect: Callable[[str], object], tmp_path: Path, version: ssl.TLSVersion
) -> None:
    authority = Authority(tmp_path)
    tls = server_tls(authority, tmp_path)
    only_up_to(tls, version)
    with contextlib.closing(Greeting(tls)) as server, pytest.raises(ErpSyncError):
        connect(f"mysql+pymysql://erp_sync:secret@127.0.0.1:{server.port}/x?ssl_ca={authority.bundle}")
    assert set(server.agreed) == ({"TLSv1.2"} if version is ssl.TLSVersion.TLSv1_2 else set())


@pytest.mark.parametrize(
    ("place", "here"),
    [
        ("localhost", True),
        ("127.8.9.1", True),
        ("[::1]", True),
        ("db.example.com", False),
        ("10.0.3.7", False),
        ("127.0.0.1.example.com", False),
        ("/x?unix_socket=/run/mysqld/mysqld.sock", True),
        ("db.example.com/x?unix_socket=/run/mysqld/mysqld.sock", True),
        ("localhost/x?host=db.example.com", False),
        ("/x?read_default_file=/etc/mysql/my.cnf", False),
    ],
)
def test_a_database_elsewhere_is_verified_unless_the_address_says_otherwise(place: str, here: bool) -> None:
    address = make_url(f"mysql+pymysql://u:p@{place}")
    assert is_local(address) == here
    context = tls_context("ERP_SYNC_SHOP_URL", address)
    assert (context is None) == here
    if context is not None:
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    for said, verified in (("true", True), ("false", False)):
        asked = tls_context("ERP_SYNC_SHOP_URL", address.update_query_dict({"ssl": said}))
        assert (asked is not None) == verified


@pytest.mark.parametrize("query", ["", "?ssl=false"])
@pytest.mark.parametrize("asks", [b"mysql_clear_password\0", b"dialog\0\5Password: "])
def test_nobody_who_is_not_verified_is_told_the_password(
    connect: Callable[[str], object], elsewhere: str, asks: bytes, query: str
) -> None:
    says = "in clear text, and nobody verified it" if query else "the server doesn't support it.*ssl_ca=FILE.*ssl=false"
    with contextlib.closing(Greeting(asks=b"\xfe" + asks)) as server:
        with pytest.raises(Misconfigured, match=rf"^ERP_SYNC_\w+_URL: TLS with .*{says}"):
            connect(f"mysql+pymysql://erp_sync:s3cret-pw@{elsewhere}:{server.port}/x{query}")
        assert server.heard == b""
        with pytest.raises(ErpSyncError):
            connect(f"mysql+pymysql://erp_sync:s3cret-pw@127.0.0.1:{server.port}/x")
    assert b"s3cret-pw" in server.heard, "else the rest of this test proves nothing"
