"""The access key of an NF-e (F2_CHVNFE; contracts/protheus-rest.md, 13): what a shop may show its customers."""

from __future__ import annotations

import re
from collections.abc import Collection

_FORM = re.compile(r"\A[0-9A-Z]{44}\Z", re.ASCII)
_ISSUER = slice(6, 20)
_NUMBER = slice(25, 34)


def issuer(key: str) -> str:
    """The CNPJ that a key of 44 characters names, letters included."""
    return key[_ISSUER]


def fault(key: str, *, invoice_number: str, issuers: Collection[str]) -> str:
    """Why this is not the key of that invoice, in words that fit after "the key "; "" where it is.

    `issuers`: the CNPJs that may stand in it, normalised; none: any may.
    """
    if not _FORM.match(key):
        return f"has {len(key)} characters, or others than 0-9 and A-Z: an NF-e key has 44"
    if _check_digit(key[:-1]) != key[-1]:
        return "has a wrong check digit"
    if issuers and issuer(key) not in issuers:
        return "names another issuer than statuses.issuers"
    if invoice_number.isdecimal() and key[_NUMBER].isdecimal() and int(invoice_number) != int(key[_NUMBER]):
        return f"belongs to the invoice {int(key[_NUMBER])}"
    return ""


def _check_digit(text: str) -> str:
    """Modulo 11 over the ASCII codes less 48, weights 2 to 9 from the right."""
    rest = sum((ord(character) - 48) * (2 + place % 8) for place, character in enumerate(reversed(text))) % 11
    return "0" if rest < 2 else str(11 - rest)
