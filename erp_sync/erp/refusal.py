"""What the ERP means by an error: its seven shapes and the ExecAuto log (contracts/protheus-rest.md, 10.1 and 10.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from erp_sync.erp.answers import Answer
from erp_sync.scrub import scrub, scrub_value

MAX_TEXT = 500

_MESSAGE_KEYS = ("errormessage", "message", "detailedmessage", "error", "mensagem", "mesage", "status", "retorno")
_MAX_READ = 50_000
"""Characters of an error that are looked at; every pattern here is linear in them."""
_CODE = re.compile(r"(?m)(?:^|\")[ \t]*(?:HELP|AJUDA)[ \t]*:[ \t]*([A-Za-z0-9_]+)")
_ITEM = re.compile(r"(?i)\berro[ \t]+no[ \t]+item[ \t]*:?[ \t]*(\w{1,4})")
_LINE = re.compile(r"(?m)^[^\n]*?\b(?P<field>[A-Z][A-Z0-9]_[A-Z0-9_]{1,10})[ \t]{0,9}:=[ \t]?(?P<value>[^\n]*)$")
_INVALID = re.compile(r"<[ \t]{0,9}-{1,9}[ \t]{0,9}Inv[aá]lid[oa]\.?", re.IGNORECASE)
_TABLE = re.compile(r"(?m)^[ \t]*Tabela[ \t]+[A-Z0-9]{3}\b[^\n]*$")
_MVC = re.compile(
    r"(?im)^[ \t]*(Id do campo de origem|Id do erro|Mensagem do erro|Mensagem da solu\S{1,6}|Valor atribu\S{1,6})"
    r"[ \t]*:[ \t]*\[?([^\]\n]*)\]?"
)
_EXISTS = re.compile(
    r"(?i)\bj[aá]\s+(?:foi\s+|est[aá]\s+)?(?:inclu|exist|cadastr|grav|integr)|\balready\s+(?:incl|exist|regist)|\bduplicad"
)
_EXISTS_CODES = {"JAGRAVADO", "EXISTCHAV"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Free of personal data; `value` is what was sent in `field`, as far as it may be shown."""

    message: str
    help_code: str = ""
    field: str = ""
    value: str = ""
    item: str = ""
    exists: bool = False
    """The ERP says that it has this record already: the order or customer, not one line of the order twice."""

    @property
    def is_precise(self) -> bool:
        """The program that validates spoke, not the framework around it."""
        return bool(self.help_code or self.field)


def read_refusal(answer: Answer, sent: Iterable[str] = ()) -> Refusal | None:
    """What the answer says, where a program of the ERP said something; None for pages and empty bodies.

    `sent`: the personal values of the request, which the ERP may repeat. Every text is cut to 500 characters.
    """
    if answer.is_page:
        return None
    texts = list(_messages(answer.document)) if answer.document is not None else [answer.text]
    if answer.is_broken:
        texts = [answer.text[:_MAX_READ].replace("\\r", "").replace("\\n", "\n")]
    text = "\n".join(texts)[:_MAX_READ].replace("\r\n", "\n").replace("\r", "\n")
    code = _CODE.search(text)
    help_code = code.group(1).upper() if code else _documented_code(answer)
    field, value = _invalid_field(text)
    item = _ITEM.search(text)
    prose = _prose(text)
    mvc = {name.lower(): content.strip() for name, content in _MVC.findall(text)}
    if mvc:
        field = field or mvc.get("id do campo de origem", "").upper()
        value = value or mvc.get("valor atribuído", mvc.get("valor atribuido", ""))
        help_code = help_code or mvc.get("id do erro", "").upper()
        prose = mvc.get("mensagem do erro", "") or prose
    if answer.document is not None and not texts and not _is_fault(answer):
        return None
    message = scrub(prose, sent)[:MAX_TEXT] or "the ERP gave no reason"
    return Refusal(
        message,
        help_code=scrub(help_code, sent)[:30],
        field=scrub(field)[:30],
        value=scrub_value(field, value, sent)[:60],
        item=item.group(1) if item else "",
        exists=not field.startswith("C6_") and (help_code in _EXISTS_CODES or bool(_EXISTS.search(prose))),
    )


def is_program_error(answer: Answer) -> bool:
    """An error body that says a program refused, although its status is a 500: E5 of the contract's 10.1."""
    fields = answer.fields()
    return bool(fields.get("errorid")) and "error" in fields


def _is_fault(answer: Answer) -> bool:
    fields = answer.fields()
    return "errorcode" in fields or "errormessage" in fields or ("code" in fields and "message" in fields)


def _documented_code(answer: Answer) -> str:
    """The code of a TTALK body (E2) or template (E5), where it is more than a number."""
    fields = answer.fields()
    for key in ("code", "errorid"):
        code = fields.get(key)
        if isinstance(code, str) and re.fullmatch(r"[A-Za-z][\w.-]{2,29}", code):
            return code.upper()
    return ""


def _messages(document: Any, depth: int = 0) -> Iterator[str]:
    """The texts of the first message key, and of what is nested below in lists such as `data[0].error[]`."""
    if depth > 4:
        return
    if isinstance(document, str):
        yield document
    elif isinstance(document, list):
        for item in document[:50]:
            yield from _messages(item, depth + 1)
    elif isinstance(document, dict):
        fields = {key.lower(): value for key, value in document.items()}
        found = [fields[key] for key in _MESSAGE_KEYS if _speaks(fields.get(key))]
        if found:
            yield from _messages(found[0], depth + 1)
            detail = fields.get("detailedmessage")
            if isinstance(detail, str) and detail and detail != found[0]:
                yield detail
        else:
            for value in fields.values():
                if isinstance(value, list | dict):
                    yield from _messages(value, depth + 1)


def _speaks(value: Any) -> bool:
    return (isinstance(value, str) and bool(value.strip())) or (isinstance(value, list | dict) and bool(value))


def _invalid_field(text: str) -> tuple[str, str]:
    for match in _LINE.finditer(text):
        if _INVALID.search(match["value"]):
            return match["field"], _INVALID.sub("", match["value"]).strip()
    return "", ""


def _prose(text: str) -> str:
    """The sentences of an ExecAuto log, without the code, the table's head and one line per sent field."""
    text = _TABLE.sub("", _CODE.sub("", text))
    text = _LINE.sub("", text)
    return _ITEM.sub("", text).strip(" \n-")
