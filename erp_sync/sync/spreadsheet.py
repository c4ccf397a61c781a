"""What a spreadsheet makes of a cell."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def inert(text: str) -> str:
    """A spreadsheet computes what begins like a formula, and somebody else chose the text."""
    return f"'{text}" if text.startswith(_FORMULA) else text
