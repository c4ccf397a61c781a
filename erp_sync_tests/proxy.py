"""deploy/proxy/nginx.conf started for real: on a free port, with certificates and passwords of its own."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from erp_sync_tests.certificates import Authority
from erp_sync_tests.live import REPOSITORY, free_port, until

CONFIGURATION = REPOSITORY / "deploy" / "proxy" / "nginx.conf"
OPS, ANALYSTS, HOOKS = "ops.example.com", "analysts.example.com", "hooks.example.com"
PASSWORD = "a-password-of-the-test"


@dataclass(frozen=True)
class Answer:
    status: int
    """0: the connection was closed instead."""
    headers: Mapping[str, str]
    body: bytes


class Proxy:
    """nginx with the shipped file; `ana` may log in to both UIs. Ports and files differ from it, and `changes`.

    `changes`: text of the file = what stands there instead. AssertionError where it does not have the text.
    """

    def __init__(
        self, folder: Path, ops: int, analysts: int, hooks: int, changes: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir()
        self.folder = folder
        self.port = free_port()
        authority = Authority(folder)
        certificate, key = authority.issue(folder, "example.com", names=(OPS, ANALYSTS, HOOKS))
        self.tls = ssl.create_default_context(cafile=str(authority.bundle))
        scheme = subprocess.run(
            ["openssl", "passwd", "-apr1", PASSWORD], capture_output=True, text=True, check=True
        ).stdout
        for people in ("ops", "analysts"):
            (folder / f"{people}.htpasswd").write_text(f"ana:{scheme}")
        replaced = {
            "/etc/nginx/tls/fullchain.pem": str(certificate),
            "/etc/nginx/tls/privkey.pem": str(key),
            "/etc/nginx/": f"{folder}/",
            "/var/log/nginx/": f"{folder}/",
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            f"https://{OPS}": f"https://{OPS}:{self.port}",
            f"https://{ANALYSTS}": f"https://{ANALYSTS}:{self.port}",
            "127.0.0.1:3000;": f"127.0.0.1:{ops};",
            "127.0.0.1:3001;": f"127.0.0.1:{analysts};",
            "127.0.0.1:8091;": f"127.0.0.1:{hooks};",
            "\nhttp {\n": f"\nhttp {{\n    {self._places()}\n",
            **(changes or {}),
        }
        text = CONFIGURATION.read_text()
        for old, new in replaced.items():
            assert old in text, old
            text = text.replace(old, new)
        (folder / "nginx.conf").write_text(text)

    def _places(self) -> str:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        return " ".join(f"{kind}_temp_path {self.folder}/{kind};" for kind in kinds)

    def __enter__(self) -> Self:
        user = "user root; " if os.geteuid() == 0 else ""
        place = f"{user}daemon off; pid {self.folder}/pid;"
        command = [_nginx(), "-c", str(self.folder / "nginx.conf"), "-e", "stderr", "-g", place]
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        until("nginx listens", self._listens, 10, 0.02)
        return self

    def _listens(self) -> bool:
        assert self._process.poll() is None, (self.folder / "output").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)

    def origin(self, host: str) -> str:
        return f"https://{host}:{self.port}"

    def connect(self, host: str, tls: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), 20)
        return (tls or self.tls).wrap_socket(plain, server_hostname=host)

    def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        host: str = OPS,
        login: str | None = PASSWORD,
        within: str = "",
    ) -> Answer:
        """One request as it is written here, to `host`, in a connection that was made to `within` (the same)."""
        connection = http.client.HTTPConnection(host)
        connection.sock = self.connect(within or host)
        with contextlib.closing(connection):
            connection.putrequest(method, target, skip_host=True)
            said = {"Host": f"{host}:{self.port}", **(basic(login) if login else {}), **(headers or {})}
            if body is not None:
                said["Content-Length"] = str(len(body))
            for name, value in said.items():
                connection.putheader(name, value)
            connection.endheaders()
            with contextlib.suppress(OSError):  # it was refused before its end
                connection.send(body or b"")
            try:
                answer = connection.getresponse()
                return Answer(answer.status, dict(answer.getheaders()), answer.read())
            except OSError:
                return Answer(0, {}, b"")


def basic(password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'ana:{password}'.encode()).decode()}"}


def _nginx() -> str:
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise RuntimeError("nginx is missing: apt-get install nginx")
    return found
