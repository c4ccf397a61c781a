"""A sandbox ERP in a process of its own, for tests, benchmarks and the demo."""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from typing import IO, Any, Self

import requests

from erp_sync.sandbox.config import Fault, SandboxConfig

_START_SECONDS = 30
_STOCK_ROWS = 10_000
"""Of one call: what the admin side takes."""


class AdminRefusal(RuntimeError):
    """The admin side said no: 404 it is not there, 409 its state does not allow it, 422 the request makes no sense."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class SandboxErp:
    """A running sandbox ERP. It ends with `stop`, with its context, or with the process that started it."""

    def __init__(self, config: SandboxConfig, port: int) -> None:
        self.config = config
        self._port = port
        self._session = requests.Session()
        self._session.trust_env = False
        self._start()

    def _start(self) -> None:
        command = [sys.executable, "-m", "erp_sync.sandbox", "--config", "-", "--port", str(self._port)]
        with tempfile.TemporaryFile() as errors:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors)  # noqa: S603 - our own
            line = self._ready_line()
            if not line:
                self.kill()
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip()
                raise RuntimeError(f"the sandbox ERP did not start within {_START_SECONDS} s: {said[-2000:]}")
        ready: dict[str, Any] = json.loads(line)
        self.root_url: str = ready["root_url"]
        self.admin_url: str = ready["admin_url"]
        self._port = int(self.root_url.split(":")[2].split("/")[0])

    def _ready_line(self) -> bytes:
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._process.stdin).write(self.config.to_json().encode() + b"\n")
            _pipe(self._process.stdin).flush()
        output = _pipe(self._process.stdout)
        readable, _, _ = select.select([output], [], [], _START_SECONDS)
        return output.readline() if readable else b""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def user(self) -> str:
        return self.config.user

    @property
    def password(self) -> str:
        return self.config.password.get_secret_value()

    @property
    def tenant(self) -> str:
        return self.config.tenant

    def admin(self, method: str, path: str, payload: object = None) -> Any:
        """A call of the admin side, such as `admin("GET", "/state")`. AdminRefusal with its words if it refuses."""
        body = None if payload is None else json.dumps(payload)
        response = self._session.request(method, f"{self.admin_url}{path}", data=body, timeout=60)
        if response.status_code != requests.codes.ok:
            raise AdminRefusal(f"{method} {path}: {response.status_code} {response.text[:500]}", response.status_code)
        return response.json()

    def journal(self, after: int = 0) -> list[dict[str, Any]]:
        """All that was committed after this seq."""
        return self._log("/journal", after)

    def arrivals(self, after: int = 0) -> list[dict[str, Any]]:
        """All creates and cancellations that arrived after this seq."""
        return self._log("/arrivals", after)

    def _log(self, path: str, after: int) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        while page := self.admin("GET", f"{path}?after={after}"):
            entries.extend(page)
            after = page[-1]["seq"]
        return entries

    def switch(self, **switches: object) -> None:
        """Change switches (`Switches`) while it runs."""
        self.admin("PATCH", "/switches", switches)

    def set_faults(self, *faults: Fault) -> None:
        """These faults, and no others."""
        self.admin("PUT", "/faults", [fault.model_dump(mode="json") for fault in faults])

    def add_products(self, skus: Iterable[str]) -> None:
        self.admin("POST", "/products", list(skus))

    def set_stock(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Figures of SB2 rows, as `POST /sandbox/stock` takes them, however many."""
        pending = iter(rows)
        while part := list(itertools.islice(pending, _STOCK_ROWS)):
            self.admin("POST", "/stock", part)

    def kill(self) -> None:
        """kill -9. `restart` brings it back; what it knows then is what its database file holds."""
        self._process.kill()
        self._leave()

    def stop(self) -> None:
        """In good order: calls get a second to end. Safe to repeat."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._leave()
        self._session.close()

    def restart(self) -> None:
        """Stopped or killed before, or not: the same configuration on the same port."""
        self.kill()
        self._start()

    def _leave(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            _pipe(pipe).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


def start_in_background(config: SandboxConfig | None = None, *, port: int = 0) -> SandboxErp:
    """Returns when it answers. Port 0 takes any free one. RuntimeError with its words if it does not start."""
    return SandboxErp(config or SandboxConfig(), port)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("the sandbox ERP was started without its pipes")
    return pipe
