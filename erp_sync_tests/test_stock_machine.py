"""The long random walk of stock_walk.py, cut short: on MariaDB, in one thread and in several; and each safeguard taken
away must break it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from erp_sync.erp.stock import SkuBalance
from erp_sync.ledger.ledger import Ledger
from erp_sync.models import LedgerState
from erp_sync.sync.in_flight import InFlight
from erp_sync.sync.results import StockResult
from erp_sync.sync.stock import StockFlow
from erp_sync.sync.unseen import Unseen
from erp_sync_tests import stock_walk
from erp_sync_tests.mariadb import MariaDB
from erp_sync_tests.stock_walk import Broken, Walk

STEPS = 2_000
TRIES = 12
"""Episodes in which a walk without a safeguard must go wrong."""


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDB]:
    with MariaDB(options=["--innodb-flush-log-at-trx-commit=2"]) as own:
        yield own


@pytest.fixture
def walk(server: MariaDB, monkeypatch: pytest.MonkeyPatch) -> Iterator[Walk]:
    monkeypatch.setattr("erp_sync.sync.stock.WRITERS", 1)
    monkeypatch.setattr("erp_sync.sync.stock.FEW_CHANGES", stock_walk.FEW_CHANGES)
    walk = Walk(server.create_database(), server.create_database())
    yield walk
    walk.close()


def test_a_walk_never_sells_what_is_not_there(walk: Walk) -> None:
    done, seed = walk.counts, 0
    places = [f"cut: {point}" for point in stock_walk.POINTS]
    # The clock that nobody sets is the real one: how often it comes to each place differs from machine to machine.
    while walk.steps < STEPS or (walk.steps < 3 * STEPS and not all(done[place] for place in places)):
        walk.episode(seed)
        seed += 1
    # It came to all the places that it is for.
    assert min(done[place] for place in places) > 0, done
    for what in ("raised", "lowered", "held back", "guarded", "killed", "answers lost", "cancel_in_erp", "turn_clock"):
        assert done[what] > 0, (what, done)
    assert done["within a pass"] > STEPS / 4
    assert min(done["shown by name"], done["zero by name"]) > 0, done


def test_a_walk_in_threads_never_sells_what_is_not_there(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erp_sync.sync.stock.WRITERS", 3)
    walk.threads(seed=1, rounds=6, steps=20)
    assert walk.counts["pass"] > 10
    assert walk.counts["raised"] > 10


def _nothing(self: InFlight, sku: str, warehouses: object) -> Decimal:
    return Decimal(0)


def _sent_now(self: Ledger, order_ids: Sequence[str], moment: datetime) -> set[str]:
    return {key for key, entry in self.entries(order_ids).items() if entry.state is LedgerState.SENT}


def _once(real: Callable[[InFlight], None]) -> Callable[[InFlight], None]:
    def recount(self: InFlight) -> None:
        if self._since is None:
            real(self)

    return recount


def _zero_unasked(self: Unseen, result: StockResult) -> list[SkuBalance]:
    return [SkuBalance(sku, {"01": Decimal(0)}) for sku in self._left]


MUTANTS: dict[str, tuple[type, str, Any]] = {
    "nothing in flight": (InFlight, "held", _nothing),
    "counted once": (InFlight, "recount", _once(InFlight.recount)),
    "sent by now, whatever T": (Ledger, "sent_before", _sent_now),
    "an older read may raise": (StockFlow, "_is_stale", lambda self, current: False),
    "no read announces itself": (StockFlow, "_announce", lambda self, read_at: None),
    "what no page shows is zero": (Unseen, "ask", _zero_unasked),
    "zeros are written": (StockFlow, "_guard", lambda self, result: ""),
}


@pytest.mark.parametrize("mutant", list(MUTANTS))
def test_each_safeguard_is_needed(walk: Walk, monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    monkeypatch.setattr(*MUTANTS[mutant])
    with pytest.raises(Broken):
        for seed in range(TRIES):
            walk.episode(seed)
