"""Personal data out of the ERP's texts: they go into logs, the ledger, Dagster's UI and Slack."""

from __future__ import annotations

import re
from collections.abc import Iterable

from erp_sync.tax_id import mask, normalize

PERSONAL_FIELDS = frozenset(
    re.findall(
        r"\w+",
        "A1_CGC A1_NOME A1_NREDUZ A1_END A1_COMPLEM A1_BAIRRO A1_CEP A1_MUN A1_DDD A1_TEL A1_EMAIL A1_INSCR A1_ENDENT "
        "A1_CEPE A1_BAIRROE A1_MUNE A1_PFISICA A1_RG A1_CONTATO C5_MENNOTA C5_MENPAD",
    )
)
"""Fields whose values a message never shows. C5_MENNOTA may hold a delivery address."""
HIDDEN = "***"

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(\.[\w-]+)+")
_TAX_ID = re.compile(
    r"(?<![0-9A-Za-z])(?:\d{3}\.?\d{3}\.?\d{3}-?\d{2}|[0-9A-Za-z]{2}\.?[0-9A-Za-z]{3}\.?[0-9A-Za-z]{3}/?[0-9A-Za-z]{4}-?\d{2})"
    r"(?![0-9A-Za-z])"
)
_PHONE = re.compile(r"(?:\+55\s?)?\(\d{2}\)\s?9?\d{4}[-\s]?\d{4}\b|\b\d{2}\s9\d{4}-\d{4}\b")
_TOKEN = re.compile(r"(?<![\w-])eyJ[\w-]+\.[\w-]+\.[\w-]+|(?i:\b(bearer|basic)\s+[\w+/=.-]{8,})")
_SQL = re.compile(r"(?is)\bselect\b.{1,2000}?\bfrom\b.*")


def scrub(text: str, sent: Iterable[str] = ()) -> str:
    """`text` without e-mails, valid CPFs and CNPJs, phones, tokens, SQL, and without the values in `sent`.

    `sent`: the personal values of the request, in whatever sentence the ERP may repeat them. Control characters and
    runs of blanks become one blank.
    """
    for value in sorted({value.strip() for value in sent}, key=len, reverse=True):
        if len(value) >= 4:
            text = re.sub(re.escape(value), HIDDEN, text, flags=re.IGNORECASE)
    text = _SQL.sub("(SQL)", text)
    text = _TOKEN.sub(HIDDEN, text)
    text = _EMAIL.sub(HIDDEN, text)
    text = _TAX_ID.sub(lambda match: _masked(match.group()), text)
    text = _PHONE.sub(HIDDEN, text)
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def scrub_value(field: str, value: str, sent: Iterable[str] = ()) -> str:
    """What a message may show of a field's value: a tax id's last two characters, nothing of other personal data."""
    if field == "A1_CGC":
        return mask(value)
    return HIDDEN if field in PERSONAL_FIELDS and value else scrub(value, sent)


def _masked(candidate: str) -> str:
    try:
        normalize(candidate)
    except ValueError:
        return candidate
    return mask(candidate)
