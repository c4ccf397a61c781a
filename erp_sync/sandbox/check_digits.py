"""The check digits of CPF, CNPJ and NF-e key (contracts/protheus-rest.md, 13)."""

from __future__ import annotations

import re


def is_tax_id(text: str) -> bool:
    """CPF, or CNPJ with or without letters."""
    if re.fullmatch(r"[0-9]{11}", text):
        highest = 11
    elif re.fullmatch(r"[0-9A-Z]{12}[0-9]{2}", text):
        highest = 9
    else:
        return False
    if len(set(text)) == 1:
        return False
    return all(check_digit(text[:end], highest) == text[end] for end in (len(text) - 2, len(text) - 1))


def check_digit(text: str, highest_weight: int = 9) -> str:
    """What follows this text: a character counts its ASCII code less 48; weights from the right, 2 to the highest and
    again from 2; modulo 11."""
    span = highest_weight - 1
    rest = sum((ord(character) - 48) * (2 + place % span) for place, character in enumerate(reversed(text))) % 11
    return "0" if rest < 2 else str(11 - rest)
