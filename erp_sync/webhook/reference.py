"""Which order the body of a webhook names. Asked only about a body whose signature was right."""

from __future__ import annotations

import json
from typing import Any, NoReturn

LONGEST_REFERENCE = 255
"""In characters: what the inbox holds."""


class Unusable(Exception):
    """The body names no order, or not where the settings say."""


def reference(body: bytes, path: str) -> str:
    """What stands at the dotted path: a text, or an integer as text. Raises Unusable for anything else.

    JSON in UTF-8 alone, each key once, no NaN; numbers and nesting as deep as the interpreter takes them.
    """
    try:
        found = json.loads(body.decode("utf-8"), object_pairs_hook=_each_key_once, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Unusable from None
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    if isinstance(found, int) and not isinstance(found, bool):
        found = str(found)
    if not isinstance(found, str) or not 1 <= len(found) <= LONGEST_REFERENCE or not found.isprintable():
        raise Unusable
    return found


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")  # which of them counts, readers do not agree
    return found


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
