"""CPF and CNPJ, the alphanumeric CNPJ included (contracts/protheus-rest.md, 13)."""

from __future__ import annotations

import re

from validate_docbr import CNPJ, CPF

_MASK = str.maketrans("", "", ".-/ ")
_CPF = re.compile(r"\A\d{11}\Z", re.ASCII)
_CNPJ = re.compile(r"\A[0-9A-Z]{12}\d{2}\Z", re.ASCII)


def normalize(text: str) -> str:
    """The tax id as A1_CGC holds it: 11 digits of a CPF, or the 14 characters [0-9A-Z] of a CNPJ.

    The usual mask (`.-/` and blanks) and lower case are taken; nothing else is repaired, not even lost leading zeros.
    Raises ValueError; its message says why and what to do, and shows no character of the tax id.
    """
    bare = text.translate(_MASK)
    # Upper case turns some letters outside ASCII into ASCII ones, and validate-docbr takes full-width digits.
    bare = bare.upper() if bare.isascii() else ""
    is_cpf = bool(_CPF.match(bare))
    if not is_cpf and not _CNPJ.match(bare):
        raise ValueError("is neither a CPF (11 digits) nor a CNPJ (14 characters, the last two digits): correct it")
    if len(set(bare)) == 1:
        raise ValueError("repeats one character, which no CPF or CNPJ does: ask the customer for the real one")
    if not (CPF() if is_cpf else CNPJ()).validate(bare):
        raise ValueError("has wrong check digits: ask the customer for the right CPF or CNPJ")
    return bare


def mask(text: str) -> str:
    """What a message may show of a tax id, or of what stands in its place: its last two characters."""
    return "*" * len(text) if len(text) <= 2 else "*" * (len(text) - 2) + text[-2:]
