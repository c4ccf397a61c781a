"""JSON with exact numbers: the standard library would take a Decimal through a float."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any


def to_json(value: Any) -> str:
    """The text of strings, booleans, ints, finite Decimals, and lists and mappings of these.

    Raises TypeError for anything else; None above all, which custom endpoints crash on (contracts/protheus-rest.md,
    5.3), and float, which is never money.
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(str(key))}:{to_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(to_json, value)) + "]"
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    if isinstance(value, str | bool | int):
        return json.dumps(value, ensure_ascii=False)
    raise TypeError(f"{type(value).__name__} cannot be sent to the ERP")
