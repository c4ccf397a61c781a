"""A row of the ERP that nobody can read stops no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from erp_sync.errors import OddRow
from erp_sync.models import Problem
from erp_sync.sync.problems import ERP_ORDER

T = TypeVar("T")
R = TypeVar("R")


def apart(ask: Callable[[Sequence[T]], R], items: Sequence[T]) -> Iterator[tuple[Sequence[T], R | OddRow]]:
    """The answers for all items, part by part: where a row cannot be read, ever fewer are asked for at once, down to
    the one whose row it is. The next part is asked for once the last one was taken."""
    if not items:
        return
    try:
        answer: R | OddRow = ask(items)
    except OddRow as odd:
        if len(items) > 1:
            half = len(items) // 2
            yield from apart(ask, items[:half])
            yield from apart(ask, items[half:])
            return
        answer = odd
    yield items, answer


def readable(
    ask: Callable[[Sequence[str]], Mapping[str, T]], ids: Sequence[str]
) -> tuple[dict[str, T], dict[str, OddRow]]:
    """What the ERP has under these ids, and why some of it cannot be read."""
    found: dict[str, T] = {}
    odd: dict[str, OddRow] = {}
    for part, answer in apart(ask, ids):
        if isinstance(answer, OddRow):
            odd[part[0]] = answer
        else:
            found |= answer
    return found, odd


def unreadable(number: str, odd: OddRow) -> Problem:
    return Problem(ERP_ORDER, number, f"cannot be read: {odd}: correct it in the ERP")
