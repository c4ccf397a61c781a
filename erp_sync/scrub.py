"""Personal data and secrets out of every text that somebody else may read: logs, ledger, Dagster's UI, Slack.

The one place that does it. It is the second net: what is logged are ids, counts and codes that were chosen (logs.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

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
SHORTEST_SECRET = 4
"""A shorter one would take half of every text with it."""
LONGEST_TEXT = 20_000
"""So much of one is looked at. Less of it is shown: no half of an id is left at this end."""

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(\.[\w-]+)+")
_ESCAPED = r"(?<=\\[nrt])|(?<=%[0-9A-F][0-9A-F])"
"""A line break or blank as repr and URLs spell it: what follows it is not the rest of a word."""
_TAX_ID = re.compile(
    rf"(?:(?<![0-9A-Za-z])|{_ESCAPED})"
    r"(?:\d{3}[. ]?\d{3}[. ]?\d{3}[- ]?\d{2}"
    r"|[0-9A-Za-z]{2}\.?[0-9A-Za-z]{3}\.?[0-9A-Za-z]{3}[/ ]?[0-9A-Za-z]{4}-?\d{2})(?![0-9A-Za-z])"
)
_BEFORE = rf"(?:(?<![\w.-])|{_ESCAPED})"
_PHONE = re.compile(
    r"(?:\+?55[ -]?)?\(\d{2}\)[ -]?9?[ ]?\d{4}[-. ]?\d{4}\b"
    r"|\+55[ -]?\d{2}[ -]?9?[ ]?\d{4}[-. ]?\d{4}\b"
    rf"|{_BEFORE}(?:55[ -]?)?[1-9][1-9][ -]9[ ]?\d{{4}}[-. ]?\d{{4}}\b"
    rf"|{_BEFORE}(?:55)?[1-9][1-9]9\d{{8}}(?![\w-])"
    rf"|{_BEFORE}9\d{{4}}-\d{{4}}(?![\w-])"
)
_ZIP_CODE = re.compile(rf"{_BEFORE}\d{{5}}-\d{{3}}(?![\w-])")
_STREET = re.compile(
    rf"(?i)(?:(?<!\w)|{_ESCAPED})(?:rua|avenida|av\.|alameda|travessa|pra[cç]a|rodovia|estrada|viela|ladeira)[ ]+"
    r"[^\W\d_][^\n\r;|\"{}\[\]<>]{0,120}"
)
_TOKEN = re.compile(
    rf"(?:(?<![\w-])|{_ESCAPED})eyJ[\w-]+\.[\w-]+\.[\w-]+"
    rf"|(?i:(?:(?<!\w)|{_ESCAPED})(?:bearer|basic)(?:\s|%20)+[\w+/=.-]{{8,}})"
)
_KEY = re.compile(
    rf"(?:(?<![\w-])|{_ESCAPED})(?:xox[a-z]|xapp|xwfp)-[\w-]{{6,}}"
    rf"|hooks\.slack\.com/\S+|(?:(?<!\w)|{_ESCAPED})(?:AKIA|ASIA)[A-Z0-9]{{16}}"
)
_ADDRESS_PASSWORD = re.compile(r"(://[^\s:/@]{0,200}):(?!password@host/)[^\s]{1,500}@")
"""But for the form that our advice gives."""
_QUOTE = r"\\{0,7}[\"']?"
"""As repr and JSON leave it, one within the other."""
_NAMED = re.compile(
    rf"(?i)((?:authorization|cookie){_QUOTE}[ ]*[:=][ ]*)[^\r\n]+"
    r"|((?:password|passwd|pwd|senha|(?<!aws-)(?<!no )(?<!\d:)secret|access_token|refresh_token|api[_-]?key)"
    rf"{_QUOTE}[ ]*[=:][ ]*{_QUOTE})(?!\*\*\*|the secret )[^\s\"'&,;}}\])\\]+"
)
"""But for sentences of ours about secrets: `aws-secret:NAME`, `…names no secret: write…`, an ARN, and
`ERP_SYNC_ERP_PASSWORD: the secret NAME…`."""
_SQL = re.compile(r"(?is)\bselect\b.{1,2000}?\bfrom\b.*")
_STATEMENT = re.compile(r"\[(?:SQL|parameters): [^\n]*(?:\n(?![\[(])[^\n]*)*")
"""As SQLAlchemy repeats it in an exception, with the values."""
_secrets: re.Pattern[str] | None = None
_known: frozenset[str] = frozenset()


def never_show(secrets: Iterable[str]) -> None:
    """From here on no text of this process that is redacted shows one of these values, however it is quoted."""
    global _known, _secrets  # noqa: PLW0603 - of the process, like the settings they come from
    spelled = {
        form
        for secret in secrets
        if len(secret) >= SHORTEST_SECRET
        for form in (secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1])
    }
    _known |= spelled
    if _known:
        _secrets = re.compile("|".join(re.escape(secret) for secret in sorted(_known, key=len, reverse=True)))


def without_secrets(text: str) -> str:
    """All that an id or a code of ours needs."""
    return _secrets.sub(HIDDEN, text) if _secrets is not None else text


def redact(text: str, keep: Iterable[str] = ()) -> str:
    """`text` without secrets, e-mails, CPFs and CNPJs with right check digits, phones, streets and postal codes.

    `keep`: ids, such as the order's number, that only look like personal data and stay readable. A secret is no id.
    Lines and blanks stay as they are.
    """
    text = without_secrets(text)
    kept = [value for value in keep if len(value) >= 8 and value in text]
    if kept:
        pattern = re.compile("(" + "|".join(rf"(?<!\w){re.escape(value)}(?!\w)" for value in kept) + ")")
        return "".join(part if odd % 2 else _redacted(part) for odd, part in enumerate(pattern.split(text)))
    return _redacted(text)


def excerpt(text: str, length: int) -> str:
    """The beginning of `text`, redacted, at most `length` characters: half a secret, at a cut, is not recognised."""
    return redact(text[:LONGEST_TEXT])[:length]


def scrub(text: str, sent: Iterable[str] = ()) -> str:
    """One line of an ERP's text: as `redact`, without SQL, and without the values in `sent`.

    `sent`: the personal values of the request, in whatever sentence the ERP may repeat them. Control characters and
    runs of blanks become one blank.
    """
    for value in sorted({value.strip() for value in sent}, key=len, reverse=True):
        if len(value) >= 4:
            text = re.sub(re.escape(value), HIDDEN, text, flags=re.IGNORECASE)
    text = redact(_SQL.sub("(SQL)", text))
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def scrub_value(field: str, value: str, sent: Iterable[str] = ()) -> str:
    """What a message may show of a field's value: a tax id's last two characters, nothing of other personal data."""
    if field == "A1_CGC":
        return mask(value)
    return HIDDEN if field in PERSONAL_FIELDS and value else scrub(value, sent)


def _redacted(text: str) -> str:
    # Each pattern only where one of its words is: most lines have none, and it costs a tenth.
    lower = text.lower()
    if "[sql: " in lower or "[parameters: " in lower:
        text = _STATEMENT.sub("[SQL]", text)
    if "@" in lower:
        text = _ADDRESS_PASSWORD.sub(rf"\1:{HIDDEN}@", text)
        text = _EMAIL.sub(HIDDEN, text)
    if _has(lower, _NAMES):
        text = _NAMED.sub(lambda match: f"{match[1] or match[2]}{HIDDEN}", text)
    if _has(lower, _TOKENS):
        text = _KEY.sub(HIDDEN, _TOKEN.sub(HIDDEN, text))
    if _MANY_DIGITS.search(text):
        text = _ZIP_CODE.sub(HIDDEN, _PHONE.sub(HIDDEN, _TAX_ID.sub(_masked, text)))
    elif _LETTERED.search(text):
        text = _TAX_ID.sub(_masked, text)
    return _STREET.sub(HIDDEN, text) if _has(lower, _STREETS) else text


_NAMES = ("authorization", "cookie", "pass", "pwd", "senha", "secret", "_token", "key")
_TOKENS = ("eyj", "bearer", "basic", "xox", "xapp-", "xwfp-", "hooks.slack", "akia", "asia")
_STREETS = ("rua", "avenida", "av.", "alameda", "travessa", "praça", "praca", "rodovia", "estrada", "viela", "ladeira")
_MANY_DIGITS = re.compile(r"\d(?:[^\d\n]{0,3}\d){7}")
_LETTERED = re.compile(r"[0-9A-Za-z]{2}\.?[0-9A-Za-z]{3}\.?[0-9A-Za-z]{3}[/ ]?[0-9A-Za-z]{4}-?\d{2}(?![0-9A-Za-z])")


def _has(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text for word in words)


def _masked(match: re.Match[str]) -> str:
    candidate = match.group()
    try:
        normalize(candidate)
    except ValueError:
        return candidate
    return mask(candidate)
