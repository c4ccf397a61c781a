"""A row of the ERP that nobody can read stops no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from erp_sync.errors import OddRow

T = TypeVar("T")


def readable(
    ask: Callable[[Sequence[str]], Mapping[str, T]], ids: Sequence[str]
) -> tuple[dict[str, T], dict[str, OddRow]]:
    """What the ERP has under these ids, and why some of it cannot be read: those were asked for ever fewer at once."""
    if not ids:
        return {}, {}
    try:
        return dict(ask(ids)), {}
    except OddRow as odd:
        if len(ids) == 1:
            return {}, {ids[0]: odd}
    half = len(ids) // 2
    first, second = readable(ask, ids[:half]), readable(ask, ids[half:])
    return {**first[0], **second[0]}, {**first[1], **second[1]}
