"""What the ERP says when it says no: texts of the automatic routine and the shapes they travel in.

contracts/protheus-rest.md, 10.1 (shapes) and 10.3 (texts).
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from starlette.responses import Response

from erp_sync.sandbox.config import ErrorShape, Switches
from erp_sync.sandbox.dictionary import TITLES

_ESCAPED_CONTROL = re.compile(r"(?<!\\)((?:\\\\)*)\\([rnt])")
_RAW_CONTROL = {"r": "\r", "n": "\n", "t": "\t"}
_JSON = "application/json"


class Refusal(Exception):
    """A call that the ERP understood and does not carry out. `status` and `shape` None: those of the switches."""

    def __init__(
        self,
        text: str,
        *,
        status: int | None = None,
        code: int | str | None = None,
        shape: ErrorShape | None = None,
        log: bool = False,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.status = status
        self.code = code
        self.shape = shape
        self.log = log
        """The text is the automatic routine's log, which is CP1252 (Q13)."""


def log_of_routine(
    help_code: str,
    message: str,
    *,
    table: str,
    at: datetime,
    sent: Iterable[tuple[str, object]],
    wrong: str = "",
    item: int | None = None,
) -> Refusal:
    """A refusal with the log that MSExecAuto leaves: help, table and time, every sent field, the wrong one marked."""
    lines = [f"HELP: {help_code}", message, "", f"Tabela {table} {at:%d/%m/%Y %H:%M:%S}"]
    for name, value in sent:
        mark = "   < -- Invalido" if name == wrong else ""
        lines.append(f"{TITLES.get(name, name[3:].capitalize()):<20}- {name} := {value}{mark}")
    if item is not None:
        lines.append(f"Erro no Item {item}")
    return Refusal("\r\n".join([*lines, ""]), log=True)


def refused(refusal: Refusal, switches: Switches, *, cp1252: bool = False) -> Response:
    status = refusal.status or switches.error_status
    text = "" if switches.empty_error_text and refusal.log else refusal.text
    return error_response(status, text, switches, code=refusal.code, shape=refusal.shape, cp1252=cp1252 or refusal.log)


def error_response(
    status: int,
    text: str,
    switches: Switches,
    *,
    code: int | str | None = None,
    shape: ErrorShape | None = None,
    cp1252: bool = False,
) -> Response:
    """An error in the shape that the switches ask for."""
    shape = shape or switches.error_shape
    if shape == "E6" and status == 401:
        # Nobody was seen to answer 200 to a call without a login.
        shape = "E1"
    if shape == "E1":
        return json_response(status, {"errorCode": code or status, "errorMessage": text}, switches, cp1252=cp1252)
    if shape == "E2":
        body = {"code": str(code or status), "message": text, "detailedMessage": text, "helpUrl": "", "details": []}
        return json_response(status, body, switches, cp1252=cp1252)
    if shape == "E5":
        body = {"errorId": str(code or status), "error": text, "solution": "Revise os dados enviados"}
        return json_response(500, body, switches, cp1252=cp1252)
    if shape == "E6":
        return json_response(200, {"Mensagem": text}, switches, cp1252=cp1252)
    if shape == "E7":
        return html_page(status)
    encoding = "cp1252" if cp1252 or switches.cp1252 else "utf-8"
    return Response(text.encode(encoding, "replace"), 500 if shape == "E4" else status, {"content-type": "text/plain"})


def html_page(status: int) -> Response:
    title = html.escape({502: "502 Bad Gateway", 503: "503 Service Unavailable"}.get(status, f"Erro {status}"))
    page = f"<html><head><title>{title}</title></head>\r\n<body><center><h1>{title}</h1></center></body></html>\r\n"
    return Response(page.encode(), status, {"content-type": "text/html"})


def json_response(status: int, payload: dict[str, Any], switches: Switches, *, cp1252: bool = False) -> Response:
    """In UTF-8, or in CP1252 without saying so (Q14); with raw line breaks inside texts where Q15 is on."""
    if switches.control_characters:
        payload = {**payload, "observacao": "gerado em\r\n\tduas linhas"}
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    if switches.control_characters:
        text = _ESCAPED_CONTROL.sub(lambda match: match[1] + _RAW_CONTROL[match[2]], text)
    if cp1252 or switches.cp1252:
        return Response(text.encode("cp1252", "replace"), status, {"content-type": _JSON})
    return Response(text.encode(), status, {"content-type": f"{_JSON}; charset=utf-8"})
