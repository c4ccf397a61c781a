"""Slack's Web API on loopback, as far as alerts use it: tokens, channels, threads, edits, limits, and faults on demand.
At its end it objects to whatever no message may hold (audit.py).

with SlackDouble() as slack:
    slack.faults += ["429", "reset"]     # of the next calls
    slack.down = True                    # nobody listens
"""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

from erp_sync_tests.audit import Leak, leaks_in

TOKEN = "xoxb-c4n4ry-0123456789"
CHANNEL = "C0ALERTS"
CHANNEL_NAME = "#alertas"


@dataclass
class Posted:
    """A message as the channel shows it."""

    ts: str
    text: str
    blocks: list[dict[str, Any]]
    thread: str = ""
    said: str = ""
    """Its text when it was posted."""
    edits: int = 0
    at: list[float] = field(default_factory=list)
    """When it was posted and edited, on the double's clock."""

    @property
    def header(self) -> str:
        return str(self.blocks[0]["text"]["text"])

    @property
    def body(self) -> str:
        """All that people read of it."""
        parts = [block.get("text") or block["elements"][0] for block in self.blocks]
        return "\n".join(part["text"] for part in parts) or self.text


class SlackDouble:
    """`arrived` is asked to note each message's time; `on_call` runs before a call is answered."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, tls: ssl.SSLContext | None = None) -> None:
        self.messages: list[Posted] = []
        self.calls: list[str] = []
        self.faults: list[str] = []
        """What the next calls meet: an HTTP status, `reset`, `hang`, `lost` (done, and the answer cut), or an error
        code; `ok` is none."""
        self.retry_after = "7"
        self.fault: str = ""
        """What every call meets once `faults` is empty."""
        self.scopes = "chat:write,channels:read,groups:read"
        """Of the token, as Slack says them beside `auth.test`."""
        self.channel: dict[str, Any] = {"id": CHANNEL, "name": CHANNEL_NAME.removeprefix("#"), "is_member": True}
        """As `conversations.info` and `.list` tell it."""
        self.chokes_on = ""
        """A call whose text holds this is answered with 500."""
        self.on_call: Callable[[], None] = lambda: None
        self.clock = clock
        self._leaks: list[Leak] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        double = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                double._answer(self)

            def log_message(self, *_arguments: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/api"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        assert not self._leaks, self._leaks

    @property
    def threads(self) -> list[Posted]:
        return [message for message in self.messages if not message.thread]

    def replies(self, message: Posted) -> list[Posted]:
        return [reply for reply in self.messages if reply.thread == message.ts]

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        method = request.path.rpartition("/")[2]
        content = request.rfile.read(int(request.headers["Content-Length"] or 0)).decode()
        writes = method.startswith("chat.")
        # What writes takes JSON, what only reads does not.
        body: dict[str, Any] = json.loads(content) if writes else dict(parse_qsl(content))
        self.on_call()
        with self._lock:
            self.calls.append(method)
            self._leaks += leaks_in(content, "Slack", [TOKEN])
            fault = self.faults.pop(0) if self.faults else self.fault
            if self.chokes_on and self.chokes_on in body.get("text", ""):
                fault = "500"
            if fault in ("", "ok", "lost"):
                answer = self._do(method, body, request.headers.get("Authorization", ""))
        if fault == "hang":
            self._over.wait(10)
        if fault in ("hang", "reset", "lost"):
            with contextlib.suppress(OSError):
                request.connection.shutdown(socket.SHUT_RDWR)
            return
        status = int(fault) if fault.isdigit() else 200
        if fault.isdigit():
            answer = {"ok": False, "error": "ratelimited"} if status == 429 else {}
        elif fault not in ("", "ok"):
            answer = {"ok": False, "error": fault}
        text = b"<html>Bad Gateway xoxb-c4n4ry</html>" if status >= 500 else json.dumps(answer).encode()
        request.send_response(status)
        if status == 429:
            request.send_header("Retry-After", self.retry_after)
        request.send_header("Content-Type", "application/json; charset=utf-8")
        request.send_header("x-oauth-scopes", self.scopes)
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)

    def _do(self, method: str, body: dict[str, Any], authorization: str) -> dict[str, Any]:
        error = self._wrong(method, body, authorization)
        if error:
            return {"ok": False, "error": error}
        if method == "auth.test":
            return {"ok": True, "user": "erp_sync", "team": "loja"}
        if method == "conversations.info":
            return {"ok": True, "channel": self.channel}
        if method == "conversations.list":
            first = not body.get("cursor")
            others = [{"id": "C0OTHER1", "name": "geral", "is_member": True}]
            cursor = {"response_metadata": {"next_cursor": "two" if first else ""}}
            return {"ok": True, "channels": others if first else [self.channel], **cursor}
        if method == "chat.postMessage":
            ts = f"{1_700_000_000 + len(self.messages)}.000100"
            message = Posted(ts, body["text"], body.get("blocks", []), body.get("thread_ts", ""), body["text"])
            self.messages.append(message)
        else:
            message = next(message for message in self.messages if message.ts == body["ts"])
            message.text, message.blocks = body["text"], body["blocks"]
            message.edits += 1
        message.at.append(self.clock())
        return {"ok": True, "channel": CHANNEL, "ts": message.ts}

    def _wrong(self, method: str, body: dict[str, Any], authorization: str) -> str:
        if authorization != f"Bearer {TOKEN}":
            return "invalid_auth"
        if method == "auth.test":
            return ""
        if method.startswith("conversations."):
            if "channels:read" not in self.scopes:
                return "missing_scope"
            return "channel_not_found" if body.get("channel", self.channel["id"]) != self.channel["id"] else ""
        if method not in ("chat.postMessage", "chat.update"):
            return "unknown_method"
        # chat.update takes an id alone.
        if body["channel"] not in ((CHANNEL,) if method == "chat.update" else (CHANNEL, CHANNEL_NAME)):
            return "channel_not_found"
        known = {message.ts for message in self.messages}
        if method == "chat.update" and body["ts"] not in known:
            return "message_not_found"
        if body.get("thread_ts", "") not in {"", *known}:
            return "thread_not_found"
        return limits_broken(body["text"], body.get("blocks", []))


def limits_broken(text: str, blocks: list[dict[str, Any]]) -> str:
    """Slack's own limits. "": none is."""
    if not text and not blocks:
        return "no_text"
    total = 0
    for block in blocks:
        for part in [block["text"]] if "text" in block else block["elements"]:
            size = len(part["text"].encode("utf-16-le")) // 2
            if not 0 < size <= (150 if block["type"] == "header" else 3000):
                return "invalid_blocks"
            total += size
    return "msg_blocks_too_long" if total > 13_200 or len(blocks) > 50 or len(text) > 40_000 else ""
