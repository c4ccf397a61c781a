"""Orders that live at random (statuses_walk.py), and what must be caught once a safeguard is removed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from erp_sync.ledger.status_entry import StatusEntry
from erp_sync.models import Cancellation
from erp_sync.sync import telling
from erp_sync.sync.asking import Asker
from erp_sync.sync.cancelling import Canceller
from erp_sync_tests.statuses_walk import CONFIG, ORDERS, Ground, Walk, ground, shortest, told

WALKS = int(os.environ.get("ERP_SYNC_TEST_WALKS", "60"))
PARTS = 2
"""For as many processes of pytest."""


@pytest.fixture(scope="module")
def home() -> Iterator[Ground]:
    with ground(CONFIG, ORDERS) as made:
        yield made


@pytest.mark.parametrize("part", range(PARTS))
def test_in_the_end_shop_and_erp_agree_or_it_is_said_why(home: Ground, part: int) -> None:
    for seed in range(part, WALKS, PARTS):
        walk = Walk(home, seed)
        if wrong := walk.run():
            walk = shortest(home, seed, walk.steps)
            pytest.fail(told(walk, walk.run() or [*wrong, "and not once more"]))


def _without_the_second_look(patch: pytest.MonkeyPatch) -> None:
    missing = Asker._missing

    def at_once(self: Asker, entries: Sequence[StatusEntry], look: Any, asked: int) -> None:
        missing(self, [replace(entry, missing_since=entry.missing_since or look.now) for entry in entries], look, asked)

    patch.setattr(Asker, "_missing", at_once)


def _without_doubt(patch: pytest.MonkeyPatch) -> None:
    """A call whose answer was lost is taken for done."""

    def done(self: Canceller, entry: StatusEntry, why: str, problem: object = None) -> StatusEntry | None:
        return self._end(entry, Cancellation.CANCELLED, why)

    patch.setattr(Canceller, "_doubtful", done)


def _without_our_own_words(patch: pytest.MonkeyPatch) -> None:
    """What we wrote is not ours to overwrite."""
    patch.setattr(telling.Telling, "ours", lambda self, entry: ())


def _without_a_way_back_barred(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(telling, "goes_back", lambda old, new: False)


@pytest.mark.parametrize(
    "removed",
    [_without_the_second_look, _without_doubt, _without_our_own_words, _without_a_way_back_barred],
)
def test_a_removed_safeguard_is_caught(
    home: Ground, monkeypatch: pytest.MonkeyPatch, removed: Callable[[pytest.MonkeyPatch], None]
) -> None:
    removed(monkeypatch)
    assert any(Walk(home, seed).run() for seed in range(WALKS))
