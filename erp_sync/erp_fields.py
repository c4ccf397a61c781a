"""The ERP's fields: how wide they are, which characters they hold, and what is noted or refused on the way."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from decimal import Decimal

from erp_sync.models import Problem
from erp_sync.money import cents, largest
from erp_sync.scrub import excerpt, redact

WIDTHS = {
    "C5_MENNOTA": 60,
    "C5_FRETE": 12,
    "C5_DESPESA": 12,
    "C5_DESCONT": 12,
    "C5_TRANSP": 6,
    "C6_PRODUTO": 15,
    "C6_QTDVEN": 9,
    "C6_PRCVEN": 11,
    "C6_PRUNIT": 11,
    "C6_VALOR": 12,
    "C6_LOCAL": 2,
    "A1_COD": 6,
    "A1_LOJA": 2,
    "A1_NOME": 40,
    "A1_NREDUZ": 20,
    "A1_END": 40,
    "A1_COMPLEM": 50,
    "A1_BAIRRO": 40,
    "A1_MUN": 60,
    "A1_DDD": 3,
    "A1_TEL": 15,
    "A1_EMAIL": 60,
}
"""The dictionary's usual widths (contracts/protheus-rest.md, 5.4 and 8.2, its lower figure where it gives two;
A1_COMPLEM, A1_BAIRRO, A1_MUN and A1_EMAIL: the product's own). `erp.widths` in the settings overrides them."""

_SHOWN = 60


class FieldLimits:
    """Holds one order's values to the ERP's fields, and remembers all that is wrong with it (`problems`) and all that
    was changed on the way (`notes`, without personal data)."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        self._widths = {**WIDTHS, **widths}
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def width(self, field: str) -> int:
        return self._widths[field]

    def refuse(self, name: str, value: object, advice: str) -> None:
        text = excerpt(str(value), _SHOWN + 1)
        self.problems.append(Problem(redact(name), text if len(text) <= _SHOWN else text[:_SHOWN] + "...", advice))

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def text(self, field: str, text: str) -> str:
        """A name or a note as `field` can hold it: CP1252, no control characters, cut to the width; both noted."""
        plain = storable(text)
        if plain != " ".join(unicodedata.normalize("NFC", text).split()):
            self.note(f"{field}: characters that Protheus cannot hold (CP1252) were replaced or left out")
        if len(plain) > self.width(field):
            self.note(f"{field}: cut from {len(plain)} to {self.width(field)} characters")
        return plain[: self.width(field)].rstrip()

    def code(self, name: str, value: str, width: int, field: str, *, ascii_only: bool = False) -> None:
        """Refuse an id or a code that `field` cannot hold as it is: nothing of it is ever cut or replaced."""
        if len(value) > width:
            advice = f"has {len(value)} characters, {field} holds {width}: shorten it in the shop, or widen the field"
            self.refuse(name, value, f"{advice} in the ERP and in the settings")
        elif not all(map(_fits, value)) or (ascii_only and not value.isascii()):
            kind = "printable ASCII" if ascii_only else "printable CP1252"
            self.refuse(name, ascii(value)[1:-1], f"{field} holds {kind} characters only: correct it in the shop")

    def amount(self, name: str, value: Decimal, field: str, *, decimals: bool = True) -> bool:
        """Whether it is an amount that `field` (N width,2) holds; else it is refused.

        With `decimals` False more than two decimals are fine: what is finally sent has two.
        """
        limit = largest(self.width(field))
        if not value.is_finite():
            self.refuse(name, value, "is not a number: correct it in the shop")
        elif value < 0:
            self.refuse(name, value, "is negative: correct it in the shop")
        elif value > limit:
            self.refuse(name, value, f"is more than {field} holds ({limit}): split the order")
        elif decimals and value != cents(value):
            self.refuse(name, value, f"has more than two decimals, {field} holds two: correct it in the shop")
        else:
            return True
        return False


def storable(text: str) -> str:
    """What CP1252, the ERP's code page, can hold of a text: accents composed, look-alikes by their plain form, blanks
    and control characters as single blanks, everything else (emoji) left out."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    return " ".join("".join(map(_storable, unicodedata.normalize("NFC", text))).split())


def _storable(character: str) -> str:
    if character.isspace() or unicodedata.category(character) == "Cc":
        return " "
    if _fits(character):
        return character
    return "".join(filter(_fits, unicodedata.normalize("NFKD", character)))


def _fits(character: str) -> bool:
    return character.isprintable() and bool(character.encode("cp1252", "ignore"))
