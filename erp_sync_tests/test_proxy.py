"""deploy/proxy/nginx.conf, with real web servers of Dagster behind it and a real browser before it, under attack.

`ERP_SYNC_PICTURES=folder python -m pytest erp_sync_tests/test_proxy.py` keeps what was seen.
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import pytest
import requests
from playwright.sync_api import Page, WebSocket, expect, sync_playwright
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from erp_sync.demo import environment
from erp_sync_tests.live import dagster_home, free_port, until
from erp_sync_tests.proxy import ANALYSTS, CONFIGURATION, HOOKS, OPS, PASSWORD, Answer, Proxy, basic
from erp_sync_tests.test_container import CONTAINERS
from erp_sync_tests.test_ui import ARGUMENTS, CHROMIUM, PATIENCE, WINDOW
from erp_sync_tests.webhooks import Command, raw

LAUNCH = (
    'mutation{launchRun(executionParams:{selector:{repositoryLocationName:"erp_sync",repositoryName:"__repository__",'
    'jobName:"stock"},runConfigData:{}}){__typename ...on PythonError{message} ...on UnauthorizedError{message}}}'
)
BODY = json.dumps({"query": LAUNCH}).encode()
IN_URL = f"/graphql?query={quote(LAUNCH)}"
EVIL = "https://evil.example"
JSON = {"Content-Type": "application/json"}


@dataclass
class Site:
    """A writable and a read-only web server on loopback, with no daemon: what is launched stays in the queue."""

    instance: dg.DagsterInstance
    ops: int
    analysts: int

    def runs(self) -> int:
        return self.instance.get_runs_count()


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    home = dagster_home(folder)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("ERP_SYNC_")}
    variables["DAGSTER_HOME"] = str(home)
    grpc, ops, analysts = free_port(), free_port(), free_port()
    (home / "workspace.yaml").write_text(
        f"load_from:\n  - grpc_server: {{host: 127.0.0.1, port: {grpc}, location_name: erp_sync}}\n"
    )
    server = ["dagster-webserver", "-h", "127.0.0.1", "-w", "workspace.yaml", "-p"]
    with ExitStack() as stack, (home / "log").open("ab") as log:

        def start(program: str, *arguments: str) -> None:
            command = [str(Path(sys.executable).parent / program), *arguments]
            process = subprocess.Popen(command, env=variables, cwd=home, stdout=log, stderr=log)
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)

        stack.enter_context(environment({"DAGSTER_HOME": str(home)}))
        instance = stack.enter_context(dg.DagsterInstance.get())
        start("dagster", "api", "grpc", "-h", "127.0.0.1", "-p", str(grpc), "-m", "erp_sync.definitions")
        start(*server, str(ops))
        start(*server, str(analysts), "--read-only")
        for port in (ops, analysts):
            until(f"the web server answers: {(home / 'log').read_text()}", lambda port=port: _knows_jobs(port), 60)  # type: ignore[misc]
        yield Site(instance, ops, analysts)


def _knows_jobs(port: int) -> bool:
    query = {"query": "{repositoriesOrError{...on RepositoryConnection{nodes{jobs{name}}}}}"}
    try:
        answer = requests.post(f"http://127.0.0.1:{port}/graphql", json=query, timeout=5)
        return "stock" in answer.text
    except requests.RequestException:
        return False


def test_an_attack_that_launches_a_run_on_the_bare_server_dies_at_the_proxy(tmp_path: Path) -> None:
    with site(tmp_path) as on:
        bare = requests.get(f"http://127.0.0.1:{on.ops}{IN_URL}", headers={"Origin": EVIL}, timeout=20)
        assert bare.json()["data"]["launchRun"]["__typename"] == "LaunchRunSuccess"
        assert on.runs() == 1, "else the rest of this test proves nothing"
        hasty = {"auth_delay 1s": "auth_delay 50ms"}
        with Proxy(tmp_path / "proxy", on.ops, on.analysts, free_port(), hasty) as proxy:
            _every_variant_is_refused(proxy)
            assert on.runs() == 1

            own = {"Origin": proxy.origin(OPS), "Sec-Fetch-Site": "same-origin", **JSON}
            assert _launched(proxy.ask("POST", "/graphql?op=Launch", own, BODY)) == "LaunchRunSuccess"
            assert on.runs() == 2, "what the UI itself does goes through"

            looked = proxy.ask("POST", "/graphql", own | {"Origin": proxy.origin(ANALYSTS)}, BODY, host=ANALYSTS)
            assert _launched(looked) == "UnauthorizedError"
            assert on.runs() == 2, "analysts look, and launch nothing"

            _websockets_only_from_our_own_page(proxy)
            _no_other_page_holds_ours(proxy)
            _the_ui_works_in_a_browser(proxy, tmp_path)


def _launched(answer: Answer) -> str:
    assert answer.status == 200, answer
    return str(json.loads(answer.body)["data"]["launchRun"]["__typename"])


def _every_variant_is_refused(proxy: Proxy) -> None:
    own = {"Origin": proxy.origin(OPS)}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    as_form = f"query={quote(LAUNCH)}".encode()
    variants: list[tuple[str, str, Mapping[str, str], bytes | None]] = [
        ("GET", IN_URL, {"Origin": EVIL}, None),
        ("GET", IN_URL, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, None),
        ("GET", IN_URL, {}, None),
        ("GET", IN_URL, own, None),
        ("GET", IN_URL, own | JSON, None),
        ("HEAD", IN_URL, own, None),
        ("POST", IN_URL, own | JSON, b"{}"),
        ("POST", f"{IN_URL}&op=X", own | JSON, b"{}"),
        ("POST", f"/graphql?op=X&{IN_URL[9:]}", own | JSON, b"{}"),
        ("GET", f"/graphql?op=X&{IN_URL[9:]}", own, None),
        ("POST", IN_URL, own, None),
        ("POST", "/graphql", JSON, BODY),
        ("POST", "/graphql", JSON | {"Origin": EVIL}, BODY),
        ("POST", "/graphql", JSON | {"Origin": "null"}, BODY),
        ("POST", "/graphql", JSON | {"Origin": proxy.origin(ANALYSTS)}, BODY),
        ("POST", "/graphql", JSON | {"Origin": f"{proxy.origin(OPS)}.evil.example"}, BODY),
        ("POST", "/graphql", JSON | own | {"Sec-Fetch-Site": "cross-site"}, BODY),
        ("POST", "/graphql", JSON | own | {"Sec-Fetch-Site": "same-site"}, BODY),
        ("POST", "/graphql", own | {"Content-Type": "text/plain"}, BODY),
        ("POST", "/graphql", own | {"Content-Type": "text/plain; application/json"}, BODY),
        ("POST", "/graphql", own | {"Content-Type": "application/graphql"}, LAUNCH.encode()),
        ("POST", "/graphql", {"Origin": EVIL, "Content-Type": "text/plain"}, BODY),
        ("POST", "/graphql", own | form, as_form),
        ("POST", "/graphql", own, as_form),
        ("PUT", "/graphql", own | JSON, BODY),
        ("POST", "/%67raphql?query=" + quote(LAUNCH), own | JSON, b"{}"),
        ("GET", f"//graphql{IN_URL[8:]}", own, None),
        ("GET", f"/x/../graphql{IN_URL[8:]}", own, None),
        ("POST", "/graphql/", own | JSON, BODY),
        ("POST", "/report_asset_materialization/erp/orders", own | JSON, b"{}"),
        ("POST", "/report_asset_check/erp/orders", own | JSON, b"{}"),
        ("POST", "/report_asset_observation/erp/orders", own | JSON, b"{}"),
        ("GET", "/report_asset_materialization/erp/orders", own, None),
        ("GET", "/download_debug/1f3e", {}, None),
        ("GET", "/notebook?path=/etc/x.ipynb&repoLocName=erp_sync", {}, None),
        ("GET", "/dagit/notebook?path=/etc/x.ipynb&repoLocName=erp_sync", {}, None),
        ("POST", "/assets/erp/orders", own, None),
    ]
    for variant in variants:
        assert proxy.ask(*variant).status == 403, variant
    good = own | JSON
    assert proxy.ask("POST", "/graphql", good, BODY, login=None).status == 401
    assert proxy.ask("POST", "/graphql", good, BODY, login="another").status == 401
    assert proxy.ask("GET", "/server_info", login=None, host=ANALYSTS).status == 401
    assert proxy.ask("POST", "/graphql", good, BODY, host="evil.example", within=OPS).status == 0
    assert proxy.ask("POST", "/graphql", good, BODY, host=HOOKS, within=OPS).status == 404
    assert proxy.ask("POST", "/graphql", good, BODY + b" " * 1_100_000).status == 413
    assert proxy.ask("GET", "/server_info").status == 200, "it is there all the while"


def _websockets_only_from_our_own_page(proxy: Proxy) -> None:
    def handshake(origin: str | None, login: str = PASSWORD, target: str = "/graphql") -> str:
        with connect(
            f"wss://{OPS}:{proxy.port}{target}",
            sock=socket.create_connection(("127.0.0.1", proxy.port), 20),
            ssl=proxy.tls,
            origin=None if origin is None else Origin(origin),
            additional_headers=basic(login),
            subprotocols=[Subprotocol("graphql-ws")],
            proxy=None,
        ) as link:
            link.send('{"type":"connection_init"}')
            return str(json.loads(link.recv(10))["type"])

    assert handshake(proxy.origin(OPS)) == "connection_ack"
    wrong: list[tuple[Callable[[], str], int]] = [
        (lambda: handshake(EVIL), 403),
        (lambda: handshake(None), 403),
        (lambda: handshake(proxy.origin(OPS), target=IN_URL), 403),
        (lambda: handshake(proxy.origin(OPS), login="another"), 401),
    ]
    for attempt, status in wrong:
        with pytest.raises(InvalidStatus) as caught:
            attempt()
        assert caught.value.response.status_code == status


def _no_other_page_holds_ours(proxy: Proxy) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    for page in ({}, link, {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}):
        assert proxy.ask("GET", "/assets/erp/orders", page).status == 200
    for dest, mode in (("iframe", "navigate"), ("script", "no-cors"), ("empty", "cors")):
        assert proxy.ask("GET", "/", link | {"Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}).status == 403
    headers = proxy.ask("GET", "/").headers
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'", "the later one of two"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Strict-Transport-Security"]
    assert "1.2" not in headers["Server"]


def _the_ui_works_in_a_browser(proxy: Proxy, folder: Path) -> None:
    def hear(link: WebSocket) -> None:
        link.on("framereceived", lambda frame: frames.append(str(frame)))

    frames: list[str] = []
    wrong: list[str] = []
    with sync_playwright() as playwright:
        rules = "--host-resolver-rules=MAP *.example.com 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, rules])
        page = browser.new_context(
            viewport=WINDOW,
            ignore_https_errors=True,  # the authority is the test's own
            http_credentials={"username": "ana", "password": PASSWORD},
        ).new_page()
        page.set_default_timeout(PATIENCE)
        page.on("websocket", hear)
        page.on("response", lambda answer: wrong.append(answer.url) if answer.status >= 400 else None)
        page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
        page.goto(f"{proxy.origin(OPS)}/assets/erp/orders")
        expect(page.get_by_text("Every order that the shop finalized").first).to_be_visible(timeout=PATIENCE)
        until("the websocket speaks", lambda: _spoken(page, frames), 20)
        page.screenshot(path=Path(os.environ.get("ERP_SYNC_PICTURES", folder)) / "through-the-proxy.png")
        browser.close()
    assert [url for url in wrong if "favicon" not in url] == []


def _spoken(page: Page, frames: list[str]) -> bool:
    page.wait_for_timeout(50)  # what Playwright heard is told to who waits with it
    return "connection_ack" in "".join(frames)


# The door for webhooks, TLS, limits -----------------------------------------------------------------------------------


@dataclass
class Receiver:
    """Stands for `erp-sync webhook` and notes what reaches it."""

    port: int = 0
    heard: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    noted = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            noted.heard.append((self.path, dict(self.headers), body))
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        noted.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield noted
        server.shutdown()
        thread.join()


def test_webhooks_pass_whole_small_and_with_one_trusted_hop(tmp_path: Path, receiver: Receiver) -> None:
    quick = {
        "client_body_timeout 5s": "client_body_timeout 300ms",
        "client_header_timeout 5s": "client_header_timeout 300ms",
    }
    with Proxy(tmp_path / "proxy", free_port(), free_port(), receiver.port, quick) as proxy:

        def hook(method: str, target: str, body: bytes | None = None, **headers: str) -> int:
            return proxy.ask(method, target, headers, body, host=HOOKS, login=None).status

        claimed = {"X-Forwarded-For": "203.0.113.7", "webhook-signature": "v1,abc"}
        assert hook("POST", "/webhooks/laravel", b'{"id": 1}', **claimed) == 202
        path, headers, body = receiver.heard.pop()
        assert (path, body, headers["webhook-signature"]) == ("/webhooks/laravel", b'{"id": 1}', "v1,abc")
        assert headers["X-Forwarded-For"] == "127.0.0.1", "who really connected, and nobody else"
        assert headers["Host"] == HOOKS

        assert hook("POST", "/webhooks/laravel", b"x" * 65_536) == 202
        receiver.heard.clear()
        assert hook("POST", "/webhooks/laravel", b"x" * 65_537) == 413
        assert hook("GET", "/webhooks/laravel") == 403
        for elsewhere in (
            "/",
            "/healthz",
            "/readyz",
            "/webhooks/",
            "/webhooks/a/b",
            "/webhooks/../healthz",
            "/graphql",
        ):
            assert hook("POST", elsewhere, b"{}") == 404
        for sent in (b"POST /webhooks/a HTTP/1.1\r\nHost: x\r\n", b"", _begun()):
            with proxy.connect(HOOKS) as slow:
                slow.sendall(sent)
                started = time.monotonic()
                while slow.recv(4096):
                    pass
                assert time.monotonic() - started < 5, "who dawdles is let go"
        assert receiver.heard == [], "none of them held the receiver"


def test_the_receiver_as_it_is_started_beside_the_proxy_notes_who_came_to_that(tmp_path: Path) -> None:
    program = CONTAINERS["webhook"]["Command"]
    assert f"#   {' '.join(program)}  " in CONFIGURATION.read_text()
    command = Command(tmp_path, f"sqlite:///{tmp_path / 'none.sqlite'}", *program[2:])
    try:
        with Proxy(tmp_path / "proxy", free_port(), free_port(), command.port) as proxy:
            plain = socket.create_connection(("127.0.0.1", proxy.port), 20, ("127.0.0.2", 0))
            with proxy.tls.wrap_socket(plain, server_hostname=HOOKS) as connection:
                connection.sendall(raw("loja", JSON, b"{}").replace(b"host: t", b"host: " + HOOKS.encode()))
                assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")
        assert [line["peer"] for line in command.lines if "peer" in line] == ["127.0.0.2"]
    finally:
        command.close()


def _begun() -> bytes:
    return f"POST /webhooks/a HTTP/1.1\r\nHost: {HOOKS}\r\nContent-Length: 100\r\n\r\nhalf".encode()


def test_the_proxy_speaks_tls_1_2_at_least_to_its_own_names_and_not_too_often(
    tmp_path: Path, receiver: Receiver
) -> None:
    slow = {"rate=100r/s": "rate=1r/s", "burst=200": "burst=20"}
    with Proxy(tmp_path / "proxy", free_port(), free_port(), receiver.port, slow) as proxy:
        old = ssl.create_default_context()
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
            proxy.connect(HOOKS, old)
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized"):
            proxy.connect("another.example.com")
        answers = [
            proxy.ask("POST", "/webhooks/a?sign=c4n4ry", {}, b"{}", host=HOOKS, login=None).status for _ in range(30)
        ]
        assert answers[:20] == [202] * 20
        assert 429 in answers
        passwords = tmp_path / "proxy" / "analysts.htpasswd"
        passwords.unlink()
        passwords.mkdir()
        assert proxy.ask("GET", "/?sign=c4n4ry", host=ANALYSTS).status == 500, "critical, and with a request"
    logs = {path.name: path.read_text() for path in (tmp_path / "proxy").glob("*.log")}
    assert sorted(logs) == ["access.log", "error.log"]
    assert '"POST /webhooks/a" 429' in logs["access.log"]
    assert [name for name, text in logs.items() if "c4n4ry" in text] == []
